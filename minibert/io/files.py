"""Reading files with errors that speak, and writing them so that nothing is ever half-written."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

SAVED = ".minibert-saved"  # a save that is complete, on its way to its places: see `finish_save`
DAY = 24 * 60 * 60  # seconds


# --------------------------------------------------------------------------------------- reading


def need_ending(path: str | os.PathLike, ending: str) -> None:
    """Refuse to write over a file of another kind, such as the one that was to be read.

    Raises:
        ValueError: the name does not end so, or is that of a directory.
    """
    if Path(path).suffix != ending or Path(path).is_dir():
        raise ValueError(f"{path}: what is written is a {ending} file; name one that ends so")


def no_such_file(path: str | os.PathLike) -> FileNotFoundError:
    """The error to raise for a file that is not there: it says from where it was looked for."""
    return FileNotFoundError(f"{path}: no such file (looked from {Path.cwd()})")


def read_text(path: str | os.PathLike) -> str:
    """Return a UTF-8 text file, without its byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the bytes are not UTF-8; the message names the file, the line and the byte.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise no_such_file(path) from None
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
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if instead := stand_in(text[:64].encode()):
            raise ValueError(f"{path} {instead}") from None
        raise ValueError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}); is the file complete?"
        ) from None
    except (RecursionError, ValueError):  # nested without end, or a number without end
        raise ValueError(f"{path}: not a sensible JSON file: something in it is too long") from None


def stand_in(head: bytes) -> str:
    """Say what a file is that came in place of the one wanted, by its first bytes; or ``""``.

    For files that could not be read: a good file may, by chance, begin with the same byte.
    """
    if not head:
        return "is empty; get the file again"
    if head.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, a note of where the file is: run `git lfs pull` to get it"
    if head.lstrip().startswith((b"<!", b"<h", b"<H", b"<?")):
        return "is a web page, perhaps of an error or a login; get the file again"
    return ""


# --------------------------------------------------------------------------------------- writing


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

    The temporary file, ``.name.tmp-*``, stands in the same directory, so the rename is atomic. It
    is removed when the block fails, and an older file of that name is then untouched. Where
    ``path`` is a link, the new file takes the place of the link; what it pointed to stays.

    Raises:
        OSError: it cannot be written (a full disk); the message names ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path, path.parent)
    try:
        with errors_about(path, temporary):
            yield temporary
            flush(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Give a staging directory; its files become those of ``path`` when the block succeeds.

    A full disk, an interrupt or a killed program leaves ``path`` as it was, or with all of the new
    files. A new directory appears in one rename. In one that exists, the files that the block wrote
    replace those of the same names, the others stay; see `finish_save`.

    Raises:
        OSError: it cannot be written (a full disk); the message names the file.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; give a directory to save into")
    path.parent.mkdir(parents=True, exist_ok=True)
    finish_save(path)
    new = not path.is_dir()
    # Inside a directory that exists: it may be a mounted disk, or the only place we may write to.
    staging = temporary_name(path, path.parent if new else path)
    try:
        with errors_about(path, staging):
            staging.mkdir()
            yield staging
            for file in files_below(staging):
                flush(file)
            os.rename(staging, path if new else path / SAVED)  # from here on the save counts
        finish_save(path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def finish_save(path: str | os.PathLike) -> None:
    """Move the files of a complete save to their places.

    The end of `atomic_directory`. Whoever opens a directory calls it first: a program killed
    between two of these moves leaves a directory of old and new files, and the missing moves are
    made up here. Nearly always there is nothing to do.
    """
    path = Path(path)
    saved = path / SAVED
    if not saved.is_dir():
        return
    for file in files_below(saved):
        target = path / file.relative_to(saved)
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another program was quicker
            os.replace(file, target)
    with contextlib.suppress(OSError):
        for empty in sorted(saved.rglob("*"), reverse=True):
            empty.rmdir()
        saved.rmdir()


def files_below(directory: Path) -> list[Path]:
    """All files of a directory and of the directories in it."""
    return sorted(file for file in directory.rglob("*") if file.is_file())


def flush(path: Path) -> None:
    """Wait until a file is on the disk: before it takes the place of an older one."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def temporary_name(path: Path, home: Path) -> Path:
    """A new name ``.name.tmp-*`` in ``home``; what killed programs left under such names goes.

    Only what is older than a day goes: another program may be writing at this moment.
    """
    pattern = f".{glob.escape(path.name)}.tmp-*"
    for left in (*path.parent.glob(pattern), *path.glob(pattern)):  # beside it and in it
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > DAY:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return home / f".{path.name}.tmp-{secrets.token_hex(4)}"


@contextlib.contextmanager
def errors_about(path: Path, temporary: Path) -> Iterator[None]:
    """Let an error about a temporary file speak of the path that the user knows."""
    try:
        yield
    except OSError as error:
        where = Path(error.filename or temporary)  # a failed write() names no file
        if error.errno is None or not where.is_relative_to(temporary):
            raise
        reason = f"{os.strerror(error.errno)}; nothing was saved, what was there is untouched"
        raise OSError(error.errno, reason, str(path / where.relative_to(temporary))) from None
