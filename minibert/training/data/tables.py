"""Tables: what a file becomes, its text, and words for what is said about it."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minibert.io.files import no_such_file, stand_in

MARKS = {  # the byte order marks, the longest first: only with one is an encoding certain
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip

OTHERS = (  # what a file that is not UTF-8 may be, by the names that Python and iconv have for it
    *("GB18030", "BIG5", "CP932", "EUC-JP", "CP949"),
    *(f"WINDOWS-125{number}" for number in (2, 0, 1, 3, 4, 5, 6, 7, 8)),
    *("KOI8-R", "CP874", "MACINTOSH", "CP850"),
)
EAST = {"CJK": "HAN", "HIRAGANA": "HAN", "KATAKANA": "HAN", "FULLWIDTH": "HAN"}  # → one script


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
    """What to do about a file that is not UTF-8: how its words would read in other encodings."""
    samples: dict[str, str] = {}  # words in an encoding → its name
    words, shares = distinct_words(data), {}
    for encoding in OTHERS:
        with contextlib.suppress(UnicodeDecodeError):
            text = " ".join(word.decode(encoding) for word in words)
            if text not in samples:
                samples[text], shares[text] = encoding, plausible(text)
    best = max(shares.values(), default=0)
    likely = [text for text in samples if shares[text] >= 0.8 * best]
    ways = "; ".join(
        f"if it says {' '.join(word[:24] for word in text.split()[:12])!r}: iconv -f "
        f"{samples[text]} -t UTF-8 {file.name} > utf8-{file.name}"
        for text in sorted(likely, key=shares.get, reverse=True)[:5]
    )
    ways = f', or convert it: {ways}; if it says none of these, ask who wrote it' * bool(ways)
    return (
        f"{file}, line {data.count(10, 0, error.start) + 1}: byte 0x{data[error.start]:02x} is not "
        f'UTF-8. Save it as "CSV UTF-8" or UTF-8 text{ways}'
    )


def distinct_words(data: bytes) -> list[bytes]:
    """Words of a file with bytes above 127, each of which has one that those before it have not."""
    seen: set[int] = set()
    found = []
    for word in re.split(rb"[\x00-\x2f]+", data):  # these are no parts of letters
        if new := {byte for byte in word if byte > 127} - seen:
            seen |= new
            found.append(word)
    return found


def plausible(text: str) -> float:
    """The share of words that have letters of one script, in a case that people write."""
    foreign = [word for word in re.findall(r"[^\s\x00-\x40\x5b-\x60\x7b-\x7f]+", text)
               if not word.isascii()]  # fmt: skip
    return sum(map(is_word, foreign)) / max(len(foreign), 1)


def is_word(word: str) -> bool:
    """Whether the letters of a word are of one script, and only its first is a capital, or all."""
    kinds = [unicodedata.category(character)[0] for character in word]
    letters = [c for c, kind in zip(word, kinds, strict=True) if kind in "LM"]
    scripts = {unicodedata.name(letter, "?").split()[0] for letter in letters}
    han = scripts == {"CJK"}
    scripts = {EAST.get(script, script) for script in scripts} - {"COMBINING"}
    text = "".join(letters)
    cased = len(text) == 1 or text[1:].islower() or text.isupper() or text.lower() == text.upper()
    accents = sum(not letter.isascii() for letter in letters)
    if scripts == {"LATIN"} and len(text) > 3 and 3 * accents > 2 * len(text):
        return False  # nobody writes accents alone
    common = all(map(is_common, letters)) if han else True
    return {*kinds} <= {*"LMP"} and len(scripts) == 1 and cased and common


def is_common(character: str) -> bool:
    """Whether a Chinese character is one of many texts: those of level 1 in GB 2312, or Big5's."""
    for encoding, last in (("gb2312", 0xD7), ("big5", 0xC6)):
        with contextlib.suppress(UnicodeEncodeError):
            if character.encode(encoding)[0] <= last:
                return True
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
