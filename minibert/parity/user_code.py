"""A learner's file: loading it, and finding the line to blame for an error.

A process that runs a submission imports this file and nothing else of the package, so it must not
import anything that knows an answer.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from minibert.io.files import no_such_file


class NoSuchName(ValueError):
    """A learner's file runs, but defines nothing of the name that is asked for."""


def load_object(path: str | os.PathLike, name: str) -> Callable:
    """The class or function of that name in a Python file, which is run.

    Modules beside the file can be imported from it, but hide none that is installed.

    Raises:
        FileNotFoundError: no such file.
        NoSuchName: it defines nothing of that name.
        Exception: whatever running the file raises.
    """
    path = Path(path)
    if not path.exists():
        raise no_such_file(path)
    spec = importlib.util.spec_from_file_location(f"submission_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        there = [key for key, value in vars(module).items()
                 if callable(value) and getattr(value, "__module__", None) == spec.name]
        raise NoSuchName(f"{path} has no {name!r}; it has {', '.join(there) or 'nothing to call'}")
    return getattr(module, name)


def blame(error: Exception, path: str | None = None) -> str:
    """An exception in a line: what it says, and the learner's last line on the way to it."""
    own = str(Path(__file__).parents[1])
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [
        frame for frame in frames
        if (os.path.abspath(frame.filename) == os.path.abspath(path) if path
            else own not in frame.filename and "torch" not in frame.filename)
    ]
    line = f" (line {theirs[-1].lineno}: {theirs[-1].line})" if theirs else ""
    return f"{type(error).__name__}: {error}{line}"
