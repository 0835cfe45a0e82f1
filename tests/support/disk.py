"""Full disks, and programs stopped at a file operation."""

from __future__ import annotations

import contextlib
import os
import resource
import sys


def in_child(act) -> int:
    """Run something in a process of its own; return its status as os.waitpid gives it."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = act() or 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def stopped_at(number: int, stop, act) -> None:
    """Run ``act``, and call ``stop`` before its file operation of that number."""
    left = [number]

    def hook(event, arguments):
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir"):
            left[0] -= 1
            if left[0] == -1:
                stop()

    sys.addaudithook(hook)  # cannot be removed: for a child process only
    act()


@contextlib.contextmanager
def files_of_at_most(size: int):
    """Let every write beyond a size fail, as on a full disk (the error is "File too large")."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
