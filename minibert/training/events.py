"""The log of a run as TensorBoard event files, for those who have ``tensorboard``."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

from minibert.io import distributed
from minibert.training.checkpoints import Run


def need_tensorboard() -> None:
    """Raise ValueError if ``tensorboard`` is not installed."""
    if not importlib.util.find_spec("tensorboard"):
        raise ValueError('tensorboard is not installed: pip install "minibert-torch[tensorboard]"')


@contextlib.contextmanager
def event_files(run: Run) -> Iterator[None]:
    """While open, every line of the log also goes into an event file in the run's directory.

    ``loss``, ``norm`` and ``lr`` of the steps stand under ``train/``, what is measured on the dev
    and test data under ``dev/`` and ``test/``. A resumed run takes the place of what an older file
    says about later steps.
    """
    if distributed.rank() > 0:
        yield
        return
    from torch.utils.tensorboard import SummaryWriter

    said, resumed = run.on_line, run.step > 0
    with SummaryWriter(run.directory, purge_step=run.step + 1 if resumed else None) as writer:

        def on_line(line: dict) -> None:
            for name, value in line.items():
                if name not in ("step", "epoch") and value is not None:
                    part, _, rest = name.partition("_")
                    tag = f"{part}/{rest}" if rest else f"train/{name}"
                    writer.add_scalar(tag, value, line["step"])
            writer.flush()
            said(line)

        for line in [] if resumed else run.lines:
            on_line(line)
        run.on_line = on_line
        try:
            yield
        finally:
            run.on_line = said
