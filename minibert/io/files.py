"""Reading files with errors that speak, and writing them so that nothing is ever half-written."""

from __future__ import annotations

import contextlib
import csv
import errno
import glob
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

DAY = 24 * 60 * 60  # seconds
MANIFEST = "minibert.json"  # in a directory that we saved: which files belong to it
LISTED = (".json", ".txt", ".safetensors")  # what a model is read from; cards and curves are not
STAGING: set[Path] = set()  # the directories of the saves that are under way
# What a terminal would obey (all controls but tab and line end; marks that turn the direction of
# writing), and what cannot be written: halves of characters, U+FFFE and U+FFFF.
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def printable(text: object) -> str:
    """A text that may be shown, whoever wrote it; what may not stands there as in JSON."""
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", str(text))


# --------------------------------------------------------------------------------------- reading


def need_ending(path: str | os.PathLike, ending: str) -> None:
    """Refuse to write over a file of another kind, such as the one that was to be read.

    Raises:
        ValueError: the name does not end so, or is that of a directory.
    """
    if Path(path).suffix != ending or Path(path).is_dir():
        raise ValueError(f"{path}: give the name of a file that ends in {ending}")


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
    return decode(data, path)


def read_lines(path: str | os.PathLike) -> Iterator[str]:
    """The lines of a UTF-8 text file, one at a time, without their line ends.

    Raises:
        FileNotFoundError, ValueError: as `read_text`.
    """
    if not Path(path).exists():
        raise no_such_file(path)
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            yield decode(line, path, number).rstrip("\r\n")


def decode(data: bytes, path: str | os.PathLike, line: int = 1) -> str:
    """The text in some bytes of a UTF-8 file that begin on a line; on the first a mark may stand.

    Raises:
        ValueError: the bytes are not UTF-8; the message names the file, the line and the byte.
    """
    try:
        return data.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += error.object.count(b"\n", 0, error.start)  # error.object is without the mark
        raise ValueError(
            f"{path}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8 and try again"
        ) from None


def read_json(path: str | os.PathLike) -> dict | list:
    """Return the object in a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8 or not JSON; the message names the file and the line.
    """
    return parse_json(read_text(path), path)


def parse_json(text: str, path: str | os.PathLike) -> dict | list:
    """The object in the text of a JSON file.

    Raises:
        ValueError: as `read_json`.
    """
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


def first_bytes(path: Path) -> bytes:
    """The beginning of a file, to name it by.

    Raises:
        OSError: there is no such file, or no right to read it.
        ValueError: it is a pipe or a device, which might be read for ever, or a directory.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file (a pipe, a device, a directory): remove it")
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(
            f"{path} is a link to {os.readlink(path)}, where nothing is; get the model again"
        )
    with open(path, "rb") as file:
        return file.read(64)


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


# -------------------------------------------------------------------------------- which files


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 18):
            digest.update(block)
    return digest.hexdigest()


def differing(directory: Path, digests: Mapping[str, str]) -> list[str]:
    """Those of the files named that are missing or have another sha256."""
    return [
        name
        for name, digest in digests.items()
        if not (directory / name).is_file() or sha256(directory / name) != digest
    ]


def read_manifest(directory: Path) -> dict[str, str]:
    """File → sha256, as the manifest of a directory has it; empty where there is none.

    Raises:
        ValueError: it is damaged, or of a later format.
    """
    path = directory / MANIFEST
    manifest = read_json(path) if path.is_file() else {"format": 1, "sha256": {}}
    known = isinstance(manifest, dict) and manifest.get("format") == 1
    if not known or not isinstance(manifest.get("sha256"), dict):
        raise ValueError(
            f"{path} is not a manifest of format 1: is it of a later minibert? Without that file "
            "the directory is read unchecked"
        )
    return manifest["sha256"]


def write_manifest(staging: Path, path: Path) -> None:
    """List the files of a save, beside those of earlier saves into ``path`` that stay."""
    try:
        digests = read_manifest(path)
    except ValueError:  # damaged: begin anew
        digests = {}
    for file in files_below(staging):
        if file.suffix in LISTED and file.name != MANIFEST:
            digests[file.relative_to(staging).as_posix()] = sha256(file)
    write_json(staging / MANIFEST, {"format": 1, "sha256": dict(sorted(digests.items()))})


# --------------------------------------------------------------------------------------- writing


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 text file atomically: the old content or the new one, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def csv_text(rows: Iterable[Iterable], **how: object) -> str:
    """Rows as the text of a csv file; ``how``: options of ``csv.writer``."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", **how).writerows(rows)
    return text.getvalue()


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
    with staged(path, path.parent) as temporary:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Give a staging directory; its files become those of ``path`` when the block succeeds.

    A full disk or an interrupt in the block leaves ``path`` as it was. A new directory appears in
    one rename. In one that exists, the files that the block wrote replace those of the same names,
    one rename each, and the others stay. The manifest goes first: a program killed between two of
    these renames leaves files that it does not list, and whoever opens the directory is told.

    A save within the block of another one becomes a part of that.

    Raises:
        OSError: it cannot be written (a full disk); the message names the file.
    """
    path = Path(path)
    if any(path.is_relative_to(staging) for staging in STAGING):
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; give a directory to save into")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_dir()
    # Inside a directory that exists: it may be a mounted disk, or the only place we may write to.
    with staged(path, path.parent if new else path) as staging:
        STAGING.add(staging)
        try:
            staging.mkdir()
            yield staging
        finally:
            STAGING.discard(staging)
        write_manifest(staging, path)
        moves = {file: path / file.relative_to(staging) for file in files_below(staging)}
        for file in moves:
            flush(file)
        os.rename(staging, path) if new else make_way(path, moves.values())
    if not new:  # killed or failing from here on: what is left of the staging directory stays
        for file in sorted(moves, key=lambda file: file != staging / MANIFEST):
            os.replace(file, moves[file])
        remove(staging)


def make_way(directory: Path, targets: Iterable[Path]) -> None:
    """Make sure, before a file is moved, that each finds its place, and finds it in the directory.

    Raises:
        OSError: a directory is in the way, or a link leads out.
    """
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a directory is in the way", str(target))
        if not target.parent.resolve().is_relative_to(directory.resolve()):
            raise OSError(errno.EPERM, f"a link leads out of {directory}", str(target))


def files_below(directory: Path) -> list[Path]:
    """All files of a directory and of the directories in it."""
    return sorted(file for file in directory.rglob("*") if file.is_file())


def flush(path: Path) -> None:
    """Wait until a file is on the disk: before it takes the place of an older one."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def staged(path: Path, home: Path) -> Iterator[Path]:
    """Give a new name ``.name.tmp-*`` in ``home``, to write there what shall stand at ``path``.

    If the block fails, what was written is removed, and an error about it speaks of the path that
    the user knows. What killed programs left under such names goes when it is older than a day:
    before that, another program may be writing it.
    """
    pattern = f".{glob.escape(path.name)}.tmp-*"
    for left in (*path.parent.glob(pattern), *path.glob(pattern)):  # beside it and in it
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > DAY:
                remove(left)
    temporary = home / f".{path.name}.tmp-{secrets.token_hex(4)}"
    try:
        yield temporary
    except BaseException as error:
        remove(temporary)
        where = Path(getattr(error, "filename", None) or temporary)  # a failed write() names none
        if not getattr(error, "errno", None) or not where.is_relative_to(temporary):
            raise
        reason = f"{os.strerror(error.errno)}; nothing was saved, what was there is untouched"
        raise OSError(error.errno, reason, str(path / where.relative_to(temporary))) from None


@contextlib.contextmanager
def locked(path: Path, what: Path) -> Iterator[None]:
    """Hold a lock file for a while, so that no two processes write the same.

    The system lets go of it when the process ends, however it ends. The file holds its number.

    Args:
        what: is being written, for the message.

    Raises:
        ValueError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as file:
        try:
            if os.name == "nt":
                import msvcrt

                file.seek(1 << 20)  # a byte far behind the text, which others may thus read
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # a file system without locks has none that could be held
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                file.seek(0)
                raise ValueError(
                    f"process {file.read().decode() or '?'} is writing {what}; wait until it has "
                    "ended, or name another"
                ) from None
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        try:
            yield
        finally:
            if os.name == "nt":
                file.close()  # there an open file cannot be removed
            path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, or a directory with all that is in it, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
