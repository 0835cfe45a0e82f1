"""Reading files with errors that speak, and writing them so that nothing is ever half-written."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def read_text(path: str | os.PathLike) -> str:
    """Return a UTF-8 text file, without its byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the bytes are not UTF-8; the message names the file, the line and the byte.
    """
    data = Path(path).read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8 and try again"
        ) from None


def read_json(path: str | os.PathLike) -> dict | list:
    """Return the object in a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8 or not JSON; the message names the file and the line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}); is the file complete?"
        ) from None
    except RecursionError:
        raise ValueError(f"{path}: not a sensible JSON file: nested too deeply") from None


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 text file atomically: the old content or the new one, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write a JSON file atomically, indented, with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path to write to; rename it to ``path`` when the block succeeds.

    The temporary file stands in the same directory, so the rename is atomic; it is removed when
    the block fails, and an older file of that name is then untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # on the disk before it takes the old one's place
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Give a staging directory; move all its files into ``path`` when the block succeeds.

    Files are written out in full before the first one is moved, so a full disk or an interrupt
    leaves ``path`` as it was. Files of ``path`` that the block did not write stay.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; give a directory to save into")
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp-", dir=path.parent))
    try:
        yield staging
        written = sorted(file for file in staging.rglob("*") if file.is_file())
        for file in written:
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        for file in written:
            target = path / file.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
