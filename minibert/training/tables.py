"""Tables: what a file becomes, its text, and words for what is said about it."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minibert.io.files import no_such_file, stand_in

MARKS = {  # the byte order marks, the longest first: only with one is an encoding certain
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip

OTHERS = {  # what a file that is not UTF-8 is likely to be, and its name for iconv
    "gb18030": "GB18030", "cp932": "CP932", "cp1251": "WINDOWS-1251", "cp1252": "WINDOWS-1252",
}  # fmt: skip


@dataclass
class Table:
    """The rows of a file. A blank line has no cells.

    ``names``: None where the file has not said (csv, tsv). ``problems``: (line, what is wrong) of
    rows that are left out of ``rows``. ``unit``: what ``line`` counts, such as "question".
    """

    names: list[str] | None
    rows: list[tuple[int, list]]
    remarks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)
    unit: str = "line"
    delimiter: str | None = None  # of a csv

    @property
    def things(self) -> str:
        """What the rows are called."""
        return "rows" if self.unit == "line" else f"{self.unit}s"


# ------------------------------------------------------------------------------- bytes and lines


def text_of(file: Path) -> str:
    """The text of a file, unzipped and decoded where both are certain; else an error says how.

    Raises:
        FileNotFoundError, ValueError: as `read_table`.
    """
    try:
        data = file.read_bytes()
        while data.startswith(b"\x1f\x8b"):  # some are zipped twice
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise no_such_file(file) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file}: damaged gzip ({error}); get the file again") from None
    if data.startswith(b"PK\x03\x04"):
        raise ValueError(f'{file} is an Excel workbook or a zip; save it as "CSV UTF-8"')
    if data and (instead := stand_in(data[:64])):
        raise ValueError(f"{file} {instead}")
    encoding = next((MARKS[mark] for mark in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(how_to_convert(file, data, error)) from None
    if "\0" in text:
        name = "UTF-16BE" if text.startswith("\0") else "UTF-16LE"
        raise ValueError(
            f"{file}: zero bytes, as in UTF-16 without its mark; convert the file: iconv -f {name} "
            f"-t UTF-8 {file.name} > utf8-{file.name}"
        )
    text = re.sub("^\ufeff+", "", text, flags=re.MULTILINE)  # where files were put together
    return text if "\n" in text else text.replace("\r", "\n")  # line ends of old Macs


def how_to_convert(file: Path, data: bytes, error: UnicodeDecodeError) -> str:
    """What to do about a file that is not UTF-8: how its line would read in other encodings."""
    start = data.rfind(b"\n", 0, error.start) + 1
    line = data[max(start, error.start - 30) : error.start + 30].splitlines()[0]
    ways = []
    for encoding in [name for name in OTHERS if decodes(data, name)] or OTHERS:
        name = OTHERS[encoding]
        command = f"iconv -f {name} -t UTF-8 {file.name} > utf8-{file.name}"
        ways.append(f"if it says {line.decode(encoding, 'replace')!r}: {command}")
    return (
        f"{file}, line {data.count(10, 0, error.start) + 1}: byte 0x{data[error.start]:02x} is not "
        f'UTF-8. Save it as "CSV UTF-8" or UTF-8 text, or convert it: {"; ".join(ways)}'
    )


def decodes(data: bytes, encoding: str) -> bool:
    """Whether the whole of a file may be in an encoding."""
    with contextlib.suppress(UnicodeDecodeError):
        text = data.decode(encoding)
        return not any("\ue000" <= character <= "\uf8ff" for character in text)  # nobody's
    return False


def numbered(text: str) -> list[tuple[int, str]]:
    """The lines of a text with their numbers, as an editor counts them: \\n and \\r\\n end one."""
    lines = text.replace("\r\n", "\n").split("\n")
    return list(enumerate(lines[:-1] if lines[-1] == "" else lines, 1))


# --------------------------------------------------------------------------------------- words


def lines(numbers: Sequence[object], unit: str = "line", n: int = 20) -> str:
    """"lines 3, 7, 9": the first of them, and how many more there are."""
    return f"{unit}{'s' * (len(numbers) > 1)} {some(numbers, n)}"


def some(items: Sequence[object], n: int = 3) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {len(items) - n} more" if len(items) > n else ""
    return ", ".join(map(str, items[:n])) + more


def columns(n: int) -> str:
    """"1 column", "2 columns"."""
    return f"{n} column{'s' * (n != 1)}"
