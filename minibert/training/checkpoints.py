"""A run and its memory: where it stands, its log, its checkpoints, its best weights.

A run directory is the finished model with a folder ``run/`` in it:

    asked.json               what the run was asked for
    settings.json            the same, with what its recipe chose
    versions.json            packages, machine, digests of data and start weights
    log.jsonl                one line a step and one an evaluation
    metrics.csv              the same as a table, up to the last epoch
    checkpoint.safetensors   while it trains: weights, optimizer, random states, position
    best.safetensors         while it trains: the weights that were best on the dev data
    lock                     while a process is at work: its number
    metrics.json ...         when it is done

Killed at any moment, a run resumes from its checkpoint to the very same bytes. For that the order
of the examples is a function of seed and epoch alone, and all other random numbers come from
torch's generator, whose state is part of the checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from minibert.io import distributed
from minibert.io.checkpoint import read_safetensors, write_safetensors
from minibert.io.files import read_text, write_text
from minibert.training.history import as_csv

POSITION = ("epoch", "epoch_step", "step", "best", "best_epoch")  # of a run, in a checkpoint


class Diverged(ArithmeticError):
    """The loss or a gradient is no longer a finite number."""


@dataclass(eq=False)
class Run:
    """Where a training run stands. ``step``, ``epoch``, ``epoch_step`` in it count what is done.

    Args:
        model, optimizer: what a checkpoint keeps (of the model, what is being trained).
        directory: ``run/`` of the run directory; None = nothing is written.
        best_on: the measure that decides which epoch was best; higher is better.
        every: steps between checkpoints.
        patience: stop after this many epochs without improvement.
        on_line: is called with every line of the log; may be set later.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    directory: str | os.PathLike | None = None
    _: KW_ONLY
    best_on: str | None = None
    every: int = 200
    patience: int | None = None
    on_line: Callable[[dict], object] = lambda line: None

    epoch = epoch_step = step = best_epoch = 0
    best = -math.inf
    lines: list[dict] = field(default_factory=list, init=False)
    interrupted = False

    # ----------------------------------------------------------------- what the loop asks and tells

    @property
    def out_of_patience(self) -> bool:
        """Whether too many epochs in a row were no better than the best one."""
        waits = self.patience is not None and self.best_epoch
        return bool(waits) and self.epoch - self.best_epoch >= self.patience

    def check(self, loss: Tensor, norm: Tensor) -> None:
        """Stop the run before NaN or infinity gets into the weights.

        Raises:
            Diverged: the loss or the norm of the gradients is NaN or infinite.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            kept = "the last checkpoint stands" if self.step else "nothing was trained yet"
            raise Diverged(
                f"step {self.step + 1}: loss {float(loss)}, gradient norm {float(norm)}. The run "
                f"stops, {kept}; a lower learning rate, longer warm-up or float32 may help"
            )

    def after_step(self, loss: Tensor, norm: Tensor) -> None:
        """Count and log a step; save when it is time, or when somebody wants to stop."""
        self.step += 1
        self.epoch_step += 1
        lr = self.optimizer.param_groups[-1]["lr"]
        self.log(step=self.step, epoch=self.epoch, loss=float(loss), norm=float(norm), lr=lr)
        stop = distributed.add_up(self.interrupted) > 0  # all processes stop, or none
        if stop or self.step % self.every == 0:
            self.save()
        if stop:
            raise KeyboardInterrupt(f"stopped and saved after step {self.step}")

    def after_epoch(self, measures: dict[str, float]) -> None:
        """Count and log an epoch; keep its weights if they are the best so far."""
        self.epoch += 1
        self.epoch_step = 0
        self.log(step=self.step, epoch=self.epoch, **measures)
        if self.directory and distributed.rank() == 0:
            write_text(Path(self.directory, "metrics.csv"), as_csv(self.lines))
        if measures.get(self.best_on, -math.inf) > self.best:  # NaN is not
            self.best, self.best_epoch = measures[self.best_on], self.epoch
            if self.directory and distributed.rank() == 0:
                write_safetensors(Path(self.directory, "best.safetensors"), self.trained())

    def log(self, **line: object) -> None:
        """Add a line to ``log.jsonl``."""
        for name, value in line.items():
            if isinstance(value, float) and not math.isfinite(value):
                line[name] = None  # JSON has no NaN
        self.lines.append(line)
        self.on_line(line)
        if self.directory and distributed.rank() == 0:
            append(Path(self.directory, "log.jsonl"), json.dumps(line) + "\n")

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[Run]:
        """While open, Ctrl-C and SIGTERM let the step end and save; a second one does not wait."""

        def on_signal(number, frame):
            self.interrupted = True
            signal.signal(number, before[number])

        try:
            before = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: signals go elsewhere
            before = {}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # ------------------------------------------------------------------------------- checkpoints

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def trained(self) -> dict[str, Tensor]:
        """The parameters that are being trained, by name."""
        return {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}

    def save(self) -> None:
        """Write ``checkpoint.safetensors``: one file, replaced in one moment."""
        states, device = distributed.gather(torch.get_rng_state()), self.device
        gpu = device.type == "cuda"  # dropout there has a generator of its own
        gpu_states = distributed.gather(torch.cuda.get_rng_state(device)) if gpu else []
        if not self.directory or distributed.rank():
            return
        tensors = {f"model.{name}": tensor for name, tensor in self.trained().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items() if v is not None}
        tensors |= {f"random.{i}": state for i, state in enumerate(states)}
        tensors |= {f"cuda.{i}": state for i, state in enumerate(gpu_states)}
        position = {name: getattr(self, name) for name in POSITION} | {"lines": len(self.lines)}
        metadata = {"position": json.dumps(position)}
        write_safetensors(Path(self.directory, "checkpoint.safetensors"), tensors, metadata)

    def resume(self) -> bool:
        """Go to where the checkpoint is; False where there is none: the run starts from step 0.

        What the log says about later steps is dropped: they will be done again.

        Raises:
            ValueError: the checkpoint is damaged, or is that of another model or world size.
        """
        path, log = (Path(self.directory, name) for name in ("checkpoint.safetensors", "log.jsonl"))
        position = {"lines": 0}
        if path.exists():
            tensors, metadata = read_safetensors(path)
            position = json.loads(metadata["position"])
            self.restore(tensors)
        kept = read_text(log).splitlines(keepends=True)[: position["lines"]] if log.exists() else []
        for name, value in position.items():
            setattr(self, name, value)
        self.lines = [json.loads(line) for line in kept]
        distributed.wait()  # all have read it
        if distributed.rank() == 0:
            write_text(log, "".join(kept))
        return path.exists()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put the tensors of a checkpoint back where they came from."""
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            kind, key = name.split(".", 1)
            parts[kind][key] = tensor
        self.load(parts["model"])
        state: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in parts["optimizer"].items():
            number, key = name.split(".")
            state[int(number)][key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        states, rank = parts["random"], str(distributed.rank())
        if len(states) != distributed.processes():
            raise ValueError(
                f"the checkpoint is that of {len(states)} processes, this run has "
                f"{distributed.processes()}; resume with as many"
            )
        torch.set_rng_state(states[rank])
        if parts["cuda"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(parts["cuda"][rank], self.device)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy tensors into the parameters that are being trained; all of them, and no others."""
        trained = self.trained()
        if differing := trained.keys() ^ tensors.keys():
            raise ValueError(f"the checkpoint trains other parameters than this run: {differing}")
        for name, parameter in trained.items():
            parameter.copy_(tensors[name])

    def load_best(self) -> None:
        """Put the weights of the best epoch into the model, if the dev data chose one."""
        distributed.wait()
        if self.directory and self.best_epoch:
            self.load(read_safetensors(Path(self.directory, "best.safetensors"))[0])


def append(path: Path, line: str) -> None:
    """Add a line to a file, whole or not at all: after a full disk the file is as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        end = file.tell()
        if file.write(line.encode()) < len(line.encode()):  # it raises where not a byte has room
            file.truncate(end)
            raise OSError(errno.ENOSPC, "no room for another line", str(path))
