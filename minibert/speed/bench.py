"""How fast is it here? minibert beside whatever else is installed, on this machine.

Machines drift: another program runs, the processor slows down. So all take part in every round, one
after the other, each in a process of its own, and a ratio is the median of the ratios inside the
rounds. In the same rounds the machine's matrix rate is measured, the roofline of everything that is
built of matrix products.

The others are in `peers`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from html import escape
from pathlib import Path
from typing import Any

import torch

from minibert.io.files import read_lines
from minibert.io.hub import OFFICIAL_MODEL, locate
from minibert.sentence_encoder import SentenceEncoder
from minibert.speed import int8
from minibert.speed.packed import PackedLinear, available, no_bfloat16
from minibert.speed.peers import PEERS, minibert
from minibert.tokenization.tokenizer import BertTokenizer

ENGINES = {
    "minibert": "float32", "minibert textbook": "textbook", "minibert bf16": "bf16",
    "minibert int8": "int8",
}  # fmt: skip
OURS = ("minibert", "minibert int8")  # which all are compared with
REST = 0.05  # seconds
# Runs a command; prints seconds, peak memory, exit status. A small process of its own, because
# Linux counts into a child's peak the size of the process that started it.
LAUNCHER = """import resource, subprocess, sys, time
begin, quiet = time.perf_counter(), subprocess.DEVNULL
status = subprocess.call(sys.argv[1:], stdout=quiet, stderr=quiet)
spent, usage = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
print(spent, usage.ru_maxrss, status)"""


def bench(
    name: str = OFFICIAL_MODEL,
    *,
    data: str | None = None,
    rounds: int = 5,
    number: int = 500,
    threads: int | None = None,
    peers: bool = True,
    start: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """Measure encoding, one text alone, and a cold start.

    Args:
        name: the model.
        data: a text file, one text a line, instead of generated texts.
        number: how many short texts; a fifth as many long ones.
        threads: of all who take part; None = as torch has them.
        peers: False = minibert alone.
        start: measure whole processes, too.

    Returns:
        What the table and the picture are made of, ready for JSON.
    """
    if rounds < 1 or number < 1:
        raise ValueError(f"rounds is {rounds}, number {number}; both must be at least 1")
    with using_threads(threads), tempfile.TemporaryDirectory() as room:
        directory = locate(name)
        encoder = SentenceEncoder.from_pretrained(directory, device="cpu")
        kinds = texts(encoder.tokenizer, data, number, encoder.max_length)
        contestants, missing = gather(directory, Path(room), peers, say)
        with ended(contestants):
            result = {
                "machine": machine(), "model": name, "rounds": rounds, "missing": missing,
                "matrix_gflops": [], "encode": {},
            }
            for kind, sample in kinds.items():
                say(f"{kind}: {len(sample)} texts, {rounds} rounds")
                rates = result["matrix_gflops"]
                result["encode"][kind] = race(contestants, sample, rounds, encoder, rates)
            result["start"] = cold_start(directory, rounds, peers) if start else {}
    return result


@contextlib.contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """Have torch, and each `Apart` that begins here, compute on so many threads; None: as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> dict:
    """What a figure means nothing without."""
    return {
        "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__, "python": platform.python_version(),
    }


def texts(tokenizer: BertTokenizer, data: str | None, number: int, longest: int) -> dict:
    """Kind → texts: the lines of a file, or words drawn from the vocabulary, a token each."""
    if data is not None:
        lines = [line for line in read_lines(data) if line.strip()]
        if not lines:
            raise ValueError(f"{data} has no text in it")
        return {"data": lines, "one": lines[:1]}
    words = [word for word in tokenizer.vocab if word.isalpha() and word.isascii()]
    draw = random.Random(0)

    def some(count: int, low: int, high: int) -> list[str]:
        sizes = [min(draw.randint(low, high), longest - 2) for _ in range(count)]
        return [" ".join(draw.choices(words, k=size)) for size in sizes]

    return {
        "short": some(number, 4, 30), "long": some(max(number // 5, 1), 200, 254),
        "one": some(1, 10, 10),
    }


# ------------------------------------------------------------------------------- who takes part


class Apart:
    """A call that is measured in a process of its own, where ``make(*args)`` makes it.

    In one process all would pay for each: once two libraries have started more threads than there
    are cores, waiting threads sleep, and waking them takes longer than a small product; and how
    freed memory is kept (`batching.keep_freed_memory`) is a setting for all.

    Raises:
        Exception: whatever ``make`` raised there.
    """

    def __init__(self, make: Callable, *args: object) -> None:
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            self.pool.submit(begin, torch.get_num_threads(), make, args).result()
        except BaseException:
            self.end()
            raise

    def run(self, function: Callable, *args: object) -> Any:
        """``function(call, *args)``, there."""
        return self.pool.submit(apply, function, args).result()

    def __call__(self, repeats: int, *args: object) -> float:
        """Seconds that the call takes, the mean of some."""
        return self.run(timed, repeats, *args)

    def end(self) -> None:
        """End the process."""
        self.pool.shutdown()


@contextlib.contextmanager
def ended(contestants: dict[str, Apart]) -> Iterator[None]:
    """End the processes afterwards, whatever happens."""
    try:
        yield
    finally:
        for contestant in contestants.values():
            contestant.end()


call: Callable  # in the process of a contestant: what is measured


def begin(threads: int, make: Callable, args: Sequence) -> None:
    """In the process of a contestant: get ready, without a word about it."""
    global call
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # after Ctrl-C one of us has a word to say
    torch.set_num_threads(threads)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        call = make(*args)


def apply(function: Callable, args: Sequence) -> object:
    """In the process of a contestant."""
    return function(call, *args)


def timed(call: Callable, repeats: int, *args: object) -> float:
    """Seconds of a call, the mean of some, after a rest: idle threads of others spin for a while.

    Where there are several, one goes ahead that is not measured: it fetches the weights.
    """
    time.sleep(REST)
    if repeats > 1:
        call(*args)
    start = time.perf_counter()
    for _ in range(repeats):
        call(*args)
    return (time.perf_counter() - start) / repeats


def gather(
    directory: Path, room: Path, peers: bool, say: Callable[[str], None]
) -> tuple[dict[str, Apart], dict[str, str]]:
    """Everyone who can take part, and why the others cannot."""
    missing = {
        "minibert textbook": None if available() else "minibert is that: torch has no oneDNN here",
        "minibert bf16": no_bfloat16(),
        "minibert int8": int8.unsupported(),
    }
    missing = {who: reason for who, reason in missing.items() if reason}
    found = {
        who: Apart(minibert, directory, engine)
        for who, engine in ENGINES.items()
        if who not in missing
    }
    for name, (make, needs) in PEERS.items() if peers else ():
        absent = [package for package in needs if importlib.util.find_spec(package) is None]
        if absent:
            missing[name] = f"needs {' and '.join(absent)}, not installed"
            continue
        say(f"getting {name} ready")
        try:
            found[name] = Apart(make, directory, room)
            found[name](1, ["a", "b c"])
        except Exception as error:  # whatever goes wrong in another package is not our end
            if name in found:
                found.pop(name).end()
            missing[name] = f"{type(error).__name__}: {str(error)[:100]}"
    return found, missing


# ------------------------------------------------------------------------------------ the races


def alternate(
    contestants: dict[str, Callable[..., float]],
    rounds: int,
    repeats: int,
    *args: object,
    after: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each, all in turn in every round, so that none has the quieter machine.

    ``after`` is called at the end of every round.
    """
    for contestant in contestants.values():
        contestant(1, *args)  # the first time is always slower
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            seconds[name].append(contestant(repeats, *args))
        after()
    return seconds


def median_ratio(others: list[float], ours: list[float]) -> float:
    """The median of the ratios inside the rounds: above 1, ours is so many times as fast."""
    return statistics.median(a / b for a, b in zip(others, ours, strict=True))


def race(
    contestants: dict[str, Callable[..., float]], sample: list[str], rounds: int,
    encoder: SentenceEncoder, rates: list[float],
) -> dict:
    """Let all encode the texts in every round; the matrix rates of the rounds go to ``rates``."""
    repeats = max(1, 50 // len(sample))  # a single call of a few milliseconds says little
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # texts cut off: `encode` will say so
        lengths = [len(row) for row in encoder.tokenize(sample)[0]]
    seconds = alternate(
        contestants, rounds, repeats, sample, after=lambda: rates.append(matrix_rate())
    )
    work = sum(operations(encoder.model.config, length) for length in lengths) / 1e9
    least = [work / rate for rate in rates[-rounds:]]  # seconds, were it matrix products alone
    ours = [name for name in OURS if name in seconds]
    rows = {
        name: {
            "seconds": spent,
            "texts_per_s": len(sample) / statistics.median(spent),
            "tokens_per_s": sum(lengths) / statistics.median(spent),
            **{f"{one} : this": median_ratio(spent, seconds[one]) for one in ours},
        }
        for name, spent in seconds.items()
    }
    fraction = median_ratio(least, seconds["minibert"])
    return {
        "texts": len(sample), "tokens": sum(lengths), "contestants": rows, "fraction": fraction
    }


def operations(config, T: int) -> int:
    """Multiplications and additions for one text of T tokens: the linear layers, and attention."""
    H, F = config.hidden_size, config.intermediate_size
    return config.num_hidden_layers * (2 * T * (4 * H * H + 2 * H * F) + 4 * T * T * H)


def matrix_rate(seconds: float = 0.1) -> float:
    """Billions of float32 operations per second in matrix products of the size of a layer's.

    The better of torch's two ways: as it is, and with the weight laid out beforehand.
    """
    x, linear = torch.ones(1024, 384), torch.nn.Linear(384, 1536)
    best = 0.0
    with torch.inference_mode():
        for product in (linear, PackedLinear(linear)) if available() else (linear,):
            count, begin = 0, time.perf_counter()
            while (spent := time.perf_counter() - begin) < seconds or count < 2:
                product(x)
                count += 1
            best = max(best, count * 2 * 1024 * 384 * 1536 / spent / 1e9)
    return best


def cold_start(directory: Path, rounds: int, peers: bool) -> dict:
    """Seconds and megabytes of whole processes: torch alone, two texts compared, the same there."""
    commands = {
        "import torch": ["-c", "import torch"],
        "minibert similarity a b": ["-m", "minibert", "similarity", "a", "b", "--model", directory],
    }
    if peers and importlib.util.find_spec("sentence_transformers"):
        commands["sentence-transformers"] = [
            "-c", "import sys; from sentence_transformers import SentenceTransformer as S\n"
            "S(sys.argv[1], device='cpu').encode(['a', 'b'])", directory,
        ]
    if os.name != "posix":  # Windows does not tell the peak of a process that is over
        return {}
    found: dict[str, list] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            found[name].append(whole_process([sys.executable, *map(str, command)]))
    columns = {name: list(zip(*runs, strict=True)) for name, runs in found.items()}
    return {
        name: {
            "seconds": statistics.median(spent),
            "peak_mb": statistics.median(peaks),
            "over_torch": median_ratio(spent, columns["import torch"][0]),
            "failed": any(statuses),
        }
        for name, (spent, peaks, statuses) in columns.items()
    }


def whole_process(command: Sequence[str]) -> tuple[float, float, int]:
    """Seconds, peak memory in MB and exit status of a command."""
    launcher = [sys.executable, "-S", "-c", LAUNCHER, *command]
    done = subprocess.run(launcher, capture_output=True, text=True, check=True)
    spent, peak, status = done.stdout.split()
    return float(spent), int(peak) / (2**20 if sys.platform == "darwin" else 2**10), int(status)


# ------------------------------------------------------------------------------------- training


def bench_training(
    name: str,
    steps: dict[str, Apart],
    *,
    batch: int,
    rounds: int = 5,
    repeats: int = 4,
    profile: bool = False,
) -> dict:
    """Training steps per second.

    Args:
        name: the model, for the report.
        steps: who → one whole training step; "minibert" must be among them.
        batch: how many examples a step has, for the report.
        profile: where the time of minibert's step goes, too.

    Returns:
        What the table is made of, ready for JSON.
    """
    seconds = alternate(steps, rounds, repeats)
    rows = {
        who: {
            "seconds": spent,
            "steps_per_s": 1 / statistics.median(spent),
            "minibert : this": median_ratio(spent, seconds["minibert"]),
        }
        for who, spent in seconds.items()
    }
    result = {"machine": machine(), "model": name, "batch": batch, "training": rows}
    if profile:
        result["profile"] = steps["minibert"].run(profiled, repeats)
    return result


def profiled(call: Callable, repeats: int) -> list[dict]:
    """The operations that take the most time in a call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
        for _ in range(repeats):
            call()
    events = sorted(record.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [
        {"operation": e.key, "share": e.self_cpu_time_total / total, "calls": e.count / repeats}
        for e in events[:15]
    ]


# ---------------------------------------------------------------------------------- the reports


def table(result: dict) -> str:
    """The result for people."""
    where = result["machine"]
    lines = [
        f"{result['model']}: {where['threads']} threads of {where['cores']} cores, "
        f"{where['instructions']}, torch {where['torch']}"
    ]
    line = "{:<24}{:>10}{:>11}{:>14}{:>11}".format
    for kind, race in result.get("encode", {}).items():
        lines += ["", f"{kind}: {race['texts']} texts, {race['tokens']:,} tokens"]
        lines.append(line("", "texts/s", "tokens/s", "float32 : it", "int8 : it"))
        for name, row in race["contestants"].items():
            rates = [f"{row[unit]:,.0f}" for unit in ("texts_per_s", "tokens_per_s")]
            ratios = [row.get(f"{ours} : this") for ours in OURS]
            ratios = [f"{ratio:.2f}" if ratio else "" for ratio in ratios]
            lines.append(line(f"  {name}", *rates, *ratios))
        if race["texts"] > 1:
            lines.append(f"  minibert runs at {race['fraction']:.0%} of the machine's matrix rate")
    if result.get("matrix_gflops"):
        rate = statistics.median(result["matrix_gflops"])
        lines += ["", f"matrix rate: {rate:,.0f} billion float32 operations per second"]
    for name, row in result.get("start", {}).items():
        lines.append(
            f"{name:<26} {row['seconds']:6.2f} s  {row['over_torch']:5.2f} x import torch"
            f"  {row['peak_mb']:6.0f} MB" + ("  FAILED" if row["failed"] else "")
        )
    for name, row in result.get("training", {}).items():
        lines.append(
            f"{name:<14} {row['steps_per_s']:6.2f} steps of {result['batch']} pairs/s"
            f"   minibert : it {row['minibert : this']:.2f}"
        )
    for row in result.get("profile", []):
        lines.append(f"  {row['share']:6.1%}  {row['calls']:7.1f} calls  {row['operation']}")
    for name, reason in result.get("missing", {}).items():
        lines.append(f"not here: {name}: {reason}")
    return "\n".join(lines)


def picture(result: dict) -> str:
    """The result of `bench` as an SVG: a bar for each, its length in tokens per second."""
    parts, y = [], 30
    for kind, race in result["encode"].items():
        best = max(row["tokens_per_s"] for row in race["contestants"].values())
        title = f"{kind}: {race['texts']} texts, {race['tokens']:,} tokens; tokens/s"
        parts.append(f'<text x="12" y="{y}" font-size="14">{escape(title)}</text>')
        for name, row in race["contestants"].items():
            y += 22
            width = round(380 * row["tokens_per_s"] / best, 1)
            colour = "#1b6ca8" if name in OURS else "#b9c4cc"
            parts.append(
                f'<text x="168" y="{y}" text-anchor="end">{escape(name)}</text>'
                f'<rect x="176" y="{y - 12}" width="{width}" height="15" fill="{colour}"/>'
                f'<text x="{width + 182}" y="{y}">{row["tokens_per_s"]:,.0f}</text>'
            )
        y += 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{y}" '
        f'viewBox="0 0 640 {y}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="640" height="{y}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
