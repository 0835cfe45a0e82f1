"""A model directory, opened once: located, then read file by file by whoever needs one.

Every ``from_pretrained`` begins with `open_directory`, and hands what it got to the classes it is
made of, so that a name is looked up once on its way to an encoder.

A directory that minibert saved says in ``minibert.json`` which files belong to it, with the sha256
of each; a file that is read is held against it. Reading writes nothing and moves nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from minibert.io import files
from minibert.io.hub import locate

LARGEST_TEXT = 1 << 28  # bytes; a vocabulary of half a million tokens has a tenth of it


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
        self.unchecked = files.read_manifest(self.path)  # file → sha256, of what was not read yet

    def __fspath__(self) -> str:
        """The path, for everything that takes one."""
        return str(self.path)

    __str__ = __fspath__

    def folder(self, name: str) -> ModelDirectory:
        """A folder in it, as a directory of its own; ``""`` is the directory itself."""
        return ModelDirectory(self.path / name) if name else self

    def has(self, name: str) -> bool:
        """Whether there is such a file, or should be one: reading it then says what is wrong."""
        return os.path.lexists(self.path / name) or name in self.unchecked

    def file(self, name: str) -> Path:
        """The path of a file that is about to be read, once it is known to be the one saved.

        Raises:
            OSError: it is a link to nowhere, or there is no right to read it.
            ValueError: it is missing or has changed since the directory was saved, or is not a
                regular file: a pipe in a directory that somebody sent would be read for ever.
        """
        path = self.path / name
        there = os.path.lexists(path)
        head = files.first_bytes(path) if there else b""
        saved = {name: self.unchecked[name]} if name in self.unchecked else {}
        if not files.differing(self.path, saved):
            self.unchecked.pop(name, None)  # once is enough
            return path
        if there and (instead := files.stand_in(head)):
            raise ValueError(f"{path} {instead}")
        advice = (
            f", by its sha256 in {files.MANIFEST}; put back the file that was saved. If the change "
            f"is yours, accept it: delete this file's line in {self.path / files.MANIFEST}, or all "
            "of that file"
        )
        for left in self.path.glob(".*.tmp-*"):
            if not files.differing(left, saved):  # on its way: `atomic_directory` was killed
                advice = (
                    ": a save into this directory was interrupted between two files (or is under "
                    f"way). Save again; or move what is in {left} to its place in {self.path}"
                )
        what = "has changed since the directory was saved" if there else "is missing"
        raise ValueError(f"{path} {what}{advice}")

    def text(self, name: str) -> str:
        """The text of a UTF-8 file.

        Raises:
            ValueError: it has more bytes than any description of a model needs.
        """
        path = self.file(name)
        if (size := path.stat().st_size) > LARGEST_TEXT:
            raise ValueError(f"{path} has {size:,} bytes, more than any such file needs")
        return files.read_text(path)

    def json(self, name: str, kind: type = dict) -> dict | list:
        """What a JSON file holds: an object, or a list if ``kind`` is that.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or holds something else.
        """
        value = files.parse_json(self.text(name), self.path / name)
        if not isinstance(value, kind):
            wanted, found = {dict: "an object", list: "a list"}[kind], type(value).__name__
            raise ValueError(f"{self.path / name}: {wanted} is needed, this is a {found}")
        return value

    def settings(self, name: str) -> dict:
        """The object in a JSON file; an empty one where there is no such file."""
        return self.json(name) if self.has(name) else {}
