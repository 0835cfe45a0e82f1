"""What every run has in common: its directory, how it begins or goes on, how it trains, its end.

Fine-tuning, pre-training and distillation differ in what stands between these.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import minibert
from minibert.batching import keep_freed_memory
from minibert.io import distributed
from minibert.io.files import locked, read_json, read_text, remove, write_json, write_text
from minibert.sentence_encoder import best_device
from minibert.training.checkpoints import Run
from minibert.training.data import Say, silent
from minibert.training.events import need_tensorboard
from minibert.training.loop import Step, loop
from minibert.training.optim import SCHEDULES
from minibert.training.settings import Checked

BEGUN = ("asked.json", "settings.json", "versions.json", "log.jsonl", "data")  # in run/, at first


def carry_out(
    whole_run: Callable[..., dict], settings: Checked | Mapping | None, out: str | os.PathLike,
    resume: bool, say: Say, kind: type[Checked], tables: Mapping[str, str] | None = None,
) -> dict:  # fmt: skip
    """Do a run in ``out``, unless it is finished already.

    Args:
        whole_run: (settings, out, resume, device, say) → its result.
        kind: of settings.
        tables: data files to write first, into ``out/run/data``: name → content.

    Raises:
        ValueError: as `claimed` and `settings_of`.
    """
    out = Path(out)
    here = out / "run"
    with claimed(out, resume):
        settings = settings_of(out, settings, resume, kind)
        if getattr(settings, "tensorboard", False):
            need_tensorboard()
        for name, text in (tables or {}).items():
            write_text(here / "data" / name, text)
        if resume and (here / "metrics.json").exists():
            say(f"{out} is finished already")
            return clear(here)
        device = best_device(settings.device)
        keep_freed_memory()
        distributed.start(device)
        if not resume and distributed.rank() == 0:
            write_json(here / "asked.json", dataclasses.asdict(settings))
        return whole_run(settings, out, resume, device, say if distributed.rank() == 0 else silent)


def settings_of(
    out: Path, settings: Checked | Mapping | None, resume: bool, kind: type[Checked]
) -> Checked:
    """The settings of the run in ``out``, or those of a new one if there is none.

    Raises:
        ValueError: ``out`` has a run already, or its run has other settings than those given.
    """
    path = out / "run" / "settings.json"
    if not resume and path.exists():
        raise ValueError(
            f"{out} already holds a run; continue it (--resume), name another directory, or "
            f"remove {path.parent}"
        )
    if not resume:
        return settings
    if not path.exists():
        raise FileNotFoundError(f"{path.parent} holds no run that could be resumed; start one")
    begun = before = read_json(path)
    if isinstance(settings, kind):  # all of them, as they were before the recipe chose some
        before = read_json(path.with_name("asked.json"))
        settings = dataclasses.asdict(settings)
    asked = json.loads(json.dumps(settings or {}))  # of a tuple a list
    if other := [name for name, value in asked.items() if before.get(name) != value]:
        told = ", ".join(f"{name} {before.get(name)!r} (not {asked[name]!r})" for name in other)
        raise ValueError(
            f"the run in {out} was begun with {told}, and is continued so: leave these out, or "
            "start a new run in another directory"
        )
    return kind(**begun)


@contextlib.contextmanager
def claimed(out: Path, resume: bool) -> Iterator[None]:
    """Hold ``out`` for a run. Of a new one that fails before its first step nothing stays.

    Raises:
        ValueError: another process is at work there, or somebody's files are there.
    """
    here = out / "run"
    if not resume and out.exists() and not (here / "settings.json").exists():
        there = [] if not out.is_dir() else [path.name for path in out.iterdir()]
        if not out.is_dir() or {*there} - {"run"}:
            raise ValueError(f"{out} exists already and is no run; name another directory")
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one writes
        yield
        return
    try:
        with locked(here / "lock", out):
            new = not (here / "settings.json").exists()
            try:
                yield
            except BaseException:
                if new and not trained(here):
                    for name in BEGUN:
                        remove(here / name)
                raise
    finally:
        for directory in (here / "data", here, out):
            with contextlib.suppress(OSError):  # it is not empty
                directory.rmdir()


def trained(here: Path) -> bool:
    """Whether a run has taken a step."""
    log = here / "log.jsonl"
    steps = log.exists() and '"norm"' in read_text(log)
    return steps or (here / "checkpoint.safetensors").exists()


def begin(
    run: Run, settings: Checked, origin: dict[str, str], out: Path, resume: bool, steps: int,
    measures: Callable[[], dict], say: Say,
) -> None:  # fmt: skip
    """Go to the checkpoint of a run, or log what ``measures`` says of the untrained model.

    Raises:
        ValueError: a data file or the base model is another one now.
    """
    write_origin(settings, origin, out, resume)
    if run.resume():
        say(f"resumed after step {run.step} of {steps}")
    else:
        torch.manual_seed(settings.seed + distributed.rank())  # each process its own dropout
        run.log(step=0, epoch=0, **measures())


def write_origin(settings: Checked, origin: dict[str, str], out: Path, resume: bool) -> None:
    """Write the settings of a new run and what it starts from; a resumed run must have the same.

    Raises:
        ValueError: as `begin`.
    """
    here = out / "run"
    if resume:
        before = read_json(here / "versions.json")["sha256"]
        if changed := [name for name in origin if origin[name] != before.get(name)]:
            raise ValueError(f"{', '.join(changed)} changed since the run began; start a new run")
    if distributed.rank() > 0:
        return
    if not resume:
        versions = {
            "minibert": minibert.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "safetensors")},
            "machine": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "processes": distributed.processes(),
            "sha256": origin,
        }
        write_json(here / "versions.json", versions)
        write_json(here / "settings.json", dataclasses.asdict(settings))  # from now on it is a run
    begun = (*out.glob(".*.tmp-*"), *here.glob(".*.tmp-*"), *out.parent.glob(f".{out.name}.tmp-*"))
    for half_written in begun:  # by a process that was killed
        remove(half_written)


def as_asked(loss: Callable, settings: Checked, device: torch.device) -> Callable:
    """A loss of (model, batch), in the precision that was asked for."""

    def computed(model: nn.Module, batch: dict) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.autocast):
            return loss(model, batch)

    return computed


def train(
    settings: Checked, loader: DataLoader, run: Run, loss: Callable, weight: Callable,
    evaluate: Callable[[], dict], scores: Callable[[dict], str], say: Say,
    events: contextlib.AbstractContextManager | None = None,
) -> None:  # fmt: skip
    """Train to the end, as `loop` does.

    Args:
        scores: of a line of the log, in words.
        events: what also follows the lines of the log, such as `event_files`.
    """
    plan, device = loader.batch_sampler, next(run.model.parameters()).device
    warmup = math.ceil(settings.warmup * plan.steps)
    schedule = SCHEDULES[settings.schedule](warmup, plan.steps)
    step = Step(settings.accumulate, weight, schedule, settings.clip)
    events = events or contextlib.nullcontext()
    with run.interruptible(), narrator(run, plan.steps, say, scores), events:
        loop(
            run.model, loader, as_asked(loss, settings, device), run.optimizer,
            epochs=len(plan.plan), step=step, evaluate=evaluate, run=run,
        )  # fmt: skip


@contextlib.contextmanager
def narrator(run: Run, total: int, say: Say, scores: Callable[[dict], str]) -> Iterator[None]:
    """Draw a progress bar (in a file: a line every ten seconds), and say the scores of an epoch.

    ``scores`` makes them of a line of the log.
    """
    options = {"unit": "step", "mininterval": 0.1 if sys.stderr.isatty() else 10}
    bar = tqdm(total=total, initial=run.step, disable=say is silent, **options)

    def on_line(line: dict) -> None:
        if "norm" in line:
            bar.set_postfix_str(f"loss {line['loss']:.4g}, lr {line['lr']:.3g}", refresh=False)
            bar.update()
            return
        with tqdm.external_write_mode(sys.stderr):
            say(f"epoch {line['epoch']}, step {line['step']} of {total}: {scores(line)}")

    run.on_line = on_line
    with bar:
        yield


def finish(
    run: Run, out: Path, after: dict, more: dict, save: Callable[[dict], None], say: Say
) -> dict:
    """Save the model and the result; say the remarks.

    Args:
        after: the measures at the end; those of the same names before the training come to them.
        more: what else the result says.
        save: of the result; writes the model.
    """
    here, before = out / "run", run.lines[0]
    before = {name: before[name] for name in after if name in before}
    result = {"before": before, "after": after, "remarks": [], **more}
    if distributed.rank() == 0:
        save(result)
        write_json(here / "metrics.json", result)  # from now on the run is finished
        clear(here)
    distributed.wait()
    for remark in result["remarks"]:
        say(f"warning: {remark}")
    return result


def clear(here: Path) -> dict:
    """Remove what a finished run needs no more; return its result."""
    for name in ("checkpoint.safetensors", "best.safetensors"):
        (here / name).unlink(missing_ok=True)
    return read_json(here / "metrics.json")
