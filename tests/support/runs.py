"""Runs in a directory: what they left behind, and how one is stopped."""

import hashlib
import json
import os
import signal

from minibert.training.checkpoints import Run


def files_of(directory):
    """A digest of every file below a directory.

    Not the bytes: of millions that differ pytest would make a diff for ten minutes.
    """
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def log_of(directory):
    return [json.loads(line) for line in (directory / "run" / "log.jsonl").open()]


def stop_at(monkeypatch, step):
    """Interrupt the next run in a step, as by Ctrl-C; returns what undoes it."""
    original = Run.after_step

    def after_step(run, loss, norm):
        if run.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        original(run, loss, norm)

    monkeypatch.setattr(Run, "after_step", after_step)
    return monkeypatch.undo
