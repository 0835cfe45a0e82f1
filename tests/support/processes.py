"""Runs of training in processes of their own, each a fork of one that has imported torch."""

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([
    *(f"minibert.training.{name}" for name in ("finetune", "distil", "pretrain")),
    "torch._dynamo",  # of optimizers
])  # fmt: skip


def train(
    program: Callable, out: Path, wanted: object, limit: int | None, env: dict, said: Connection
):
    """What a process does: begin a run, or resume it; say with which error it ended."""
    for descriptor in (1, 2):  # a regular file would have the limit, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    os.environ.update(env)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        program(wanted, out, resume=wanted is None)
    except BaseException as error:
        said.send(f"{type(error).__name__}: {error}")
        raise
    said.send("")


class Training(CONTEXT.Process):
    """A run that has been started, or resumed if it had begun.

    ``program`` is `finetune`, `distil` or `pretrain`; ``limit`` the size in bytes that a file may
    have.
    """

    def __init__(
        self, program: Callable, out: Path, wanted: object, limit: int | None = None, **env: str
    ):
        self.said, theirs = CONTEXT.Pipe(duplex=False)
        begun = (out / "run" / "settings.json").exists()
        arguments = (program, out, None if begun else wanted, limit, env, theirs)
        super().__init__(target=train, args=arguments)
        self.start()
        theirs.close()

    def end(self) -> tuple[int, str]:
        """Wait for it: its exit code, and the error with which it ended."""
        said = self.said.recv()
        self.join(300)
        return self.exitcode, said
