"""A learner's file, run in a process of its own, with limits on time and memory.

The child only calls the learner's function on the inputs of each part and writes down what came
back, a line of JSON for each part, so that what was done before an endless loop or a crash still
counts. What is right is known to the parent alone, which judges.

This keeps accidents away (endless loops, `sys.exit`, processes that start processes, floods of
output), not attackers: whoever grades strangers' code does it in a container or a virtual machine.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

STARTUP = 120  # seconds that starting Python and importing torch may take on a very busy machine
PRINTED = 2000  # characters of the learner's own output that are kept
LARGEST = 64 << 20  # bytes that the child may write to a file
# What an exercise never needs, and what would hurt by accident.
REFUSED = (
    "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.exec", "os.system", "os.startfile",
    "os.kill", "os.killpg", "subprocess.Popen", "pty.spawn", "socket.connect", "os.remove",
    "os.rename", "os.rmdir", "shutil.rmtree",
)


class Refused(BaseException):
    """The learner's code did something that no exercise needs. ``except Exception`` passes it."""


def run(
    exercise: str,
    path: str | os.PathLike,
    *,
    seed: int = 0,
    seconds: float = 10,
    megabytes: int = 2000,
) -> tuple[list[dict], str, str]:
    """What a learner's file gave for each part.

    Args:
        exercise: its name.
        path: the learner's file.
        seed: of the inputs.
        seconds, megabytes: what the file may take, importing torch not counted.

    Returns: for each part that was reached what was observed; why there are no more, or ""; and
    what the file printed.
    """
    path = Path(path).resolve()
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **one_thread}
    ours = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory(prefix="minibert-check-") as scratch:
        result, trace = Path(scratch, "result"), Path(scratch, "trace")
        work = Path(scratch, "work")
        work.mkdir()
        limits = [str(seed), str(seconds), str(megabytes)]
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys, minibert.course.runner as s; s.main(*sys.argv[1:])",
                exercise,
                str(path),
                *limits,
                str(result),
                str(trace),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=work,
            env=environment,
            start_new_session=True,
        )
        try:
            child.wait(seconds + STARTUP)
        except subprocess.TimeoutExpired:
            pass
        finally:
            end(child)
        lines = read(result)
        where = trace.read_text(errors="replace") if trace.exists() else ""
    observed = [line for line in lines if "part" in line]
    printed = "".join(str(line["printed"]) for line in lines if "printed" in line)
    stopped = [str(line["stopped"]) for line in lines if "stopped" in line]
    if stopped:
        return observed, stopped[0], printed
    return observed, how_it_ended(child.returncode, where, path, seconds), printed


def end(child: subprocess.Popen) -> None:
    """Make sure that the child and all that it started are gone."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    except (ProcessLookupError, PermissionError):
        pass
    child.wait()


def read(path: Path) -> list[dict]:
    """The lines the child has written; a last line that was cut off is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_bytes().split(b"\n"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines


def how_it_ended(status: int, trace: str, path: Path, seconds: float) -> str:
    """Why a child that did not come to its end is gone, and at which line of the learner's file."""
    line = re.search(rf'File "{re.escape(str(path))}", line (\d+)', trace)
    at = ""
    if line:
        at = f" in line {line[1]}"
        source = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if int(line[1]) <= len(source):
            at += f": {source[int(line[1]) - 1].strip()}"
    if "Timeout" in trace:
        return f"stopped after {seconds:g} seconds{at}\n  an endless loop, or far too slow"
    fatal = re.search(r"Fatal Python error: (.*)", trace)
    if fatal:
        return f"Python itself crashed ({fatal[1]}){at}"
    if status < 0:
        return f"the process was killed by signal {-status}{at}"
    return (
        f"the process ended in the middle, with status {status}: os._exit, or a crash in a library"
    )


# ------------------------------------------------------------------------------------ the child


class Printed:
    """Stands in for stdout and stderr: keeps the beginning, lets the flood pass."""

    encoding, errors = "utf-8", "replace"

    def __init__(self) -> None:
        """Nothing has been printed yet."""
        self.text, self.room = "", PRINTED

    def write(self, text: str) -> int:
        """Keep as much as there is room for."""
        kept = text[: self.room]
        self.text += kept
        self.room -= len(kept)
        return len(text)

    def take(self) -> str:
        """What has come since the last time."""
        text, self.text = self.text, ""
        return text

    def flush(self) -> None:
        """There is nothing to do."""

    def isatty(self) -> bool:
        """It is no terminal."""
        return False


def load(path: str, name: str) -> Callable:
    """The function of that name in a learner's file."""
    sys.path.append(str(Path(path).parent))  # last, so that no file of theirs hides a library
    spec = importlib.util.spec_from_file_location("submission", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["submission"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        own = [
            key
            for key, value in vars(module).items()
            if getattr(value, "__module__", None) == "submission" and callable(value)
        ]
        raise LookupError(f"it has no function {name}; it has {', '.join(own) or 'none at all'}")
    return getattr(module, name)


def limit(megabytes: int) -> None:
    """Limit the memory to so much more than there is in use now, and the size of files."""
    try:
        import resource
    except ImportError:  # Windows
        return
    pages = Path("/proc/self/statm")
    now = int(pages.read_text().split()[0]) * resource.getpagesize() if pages.exists() else 4 << 30
    wanted = {"RLIMIT_AS": now + (megabytes << 20), "RLIMIT_FSIZE": LARGEST, "RLIMIT_CORE": 0}
    for name, value in wanted.items():
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (ValueError, OSError):  # a system that has no such limit, or a stricter one
            continue


def refuse(event: str, arguments: tuple) -> None:
    """Stop what no exercise needs."""
    if event in REFUSED:
        raise Refused(f"{event} is not allowed here: no exercise needs it")


def child(
    exercise: str, path: str, seed: int, seconds: float, megabytes: int, result: IO, trace: IO
) -> None:
    """Load the learner's file, call it on every part, write down what came back."""
    import torch

    from minibert.course.exercises import EXERCISES
    from minibert.course.grading import observe
    from minibert.parity.user_code import blame

    torch.set_num_threads(1)
    task = EXERCISES[exercise]
    cases = task.cases(seed)
    printed = Printed()
    sys.stdout = sys.stderr = printed
    sys.dont_write_bytecode = True
    faulthandler.enable(trace)
    limit(megabytes)
    sys.addaudithook(refuse)
    faulthandler.dump_traceback_later(seconds, exit=True, file=trace)

    def write(line: dict) -> None:
        result.write(json.dumps({**line, "printed": printed.take()}) + "\n")
        result.flush()

    stopped = ""
    try:
        function = load(path, task.name)
    except BaseException as error:  # SystemExit and whatever else the file may raise
        stopped = f"the file does not run: {blame(error, path)}"
    else:
        for number, observed in enumerate(observe(task, function, cases, path)):
            write({"part": number, **observed})
    write({"stopped": stopped})
    faulthandler.cancel_dump_traceback_later()


def main(
    exercise: str, path: str, seed: str, seconds: str, megabytes: str, result: str, trace: str
) -> None:
    """Where the child begins: the arguments as they stand on the command line."""
    with open(result, "w", encoding="utf-8") as lines, open(trace, "w") as last_words:
        child(exercise, path, int(seed), float(seconds), int(megabytes), lines, last_words)
    os._exit(0)  # nothing the file left behind may still run
