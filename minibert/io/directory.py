"""A model directory, opened once: located, then read file by file by whoever needs one.

Every ``from_pretrained`` begins with `open_directory`, and hands what it got to the classes it is
made of, so that a name is looked up once on its way to an encoder.
"""

from __future__ import annotations

import os
from pathlib import Path

from minibert.io.files import read_json, read_text
from minibert.io.hub import locate


def open_directory(name_or_path: str | os.PathLike, **hub: object) -> ModelDirectory:
    """Open the directory of a model: a path, or a name that ``hub.locate`` finds or fetches.

    The options ``hub`` are those of ``hub.locate``. What is open already is returned as it is.

    Raises:
        FileNotFoundError, ValueError: as ``hub.locate``.
    """
    if isinstance(name_or_path, ModelDirectory):
        return name_or_path
    return ModelDirectory(locate(name_or_path, **hub))


class ModelDirectory(os.PathLike):
    """An open model directory: its files, by their names in it."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __fspath__(self) -> str:
        """The path, for everything that takes one."""
        return str(self.path)

    __str__ = __fspath__

    def folder(self, name: str) -> ModelDirectory:
        """A folder in it, as a directory of its own; ``""`` is the directory itself."""
        return ModelDirectory(self.path / name) if name else self

    def has(self, name: str) -> bool:
        """Whether there is such a file (or a link to nowhere, which reading then reports)."""
        return os.path.lexists(self.path / name)

    def file(self, name: str) -> Path:
        """The path of a file that is about to be read."""
        return self.path / name

    def text(self, name: str) -> str:
        """The text of a UTF-8 file."""
        return read_text(self.file(name))

    def json(self, name: str, kind: type = dict) -> dict | list:
        """What a JSON file holds: an object, or a list if ``kind`` is that.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or holds something else.
        """
        value = read_json(self.file(name))
        if not isinstance(value, kind):
            wanted = "an object" if kind is dict else "a list"
            raise ValueError(
                f"{self.path / name}: {wanted} is needed, this is a {type(value).__name__}"
            )
        return value

    def settings(self, name: str) -> dict:
        """The object in a JSON file; an empty one where there is no such file."""
        return self.json(name) if self.has(name) else {}
