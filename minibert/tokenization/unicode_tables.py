"""Unicode as the official BERT tokenizer knows it, frozen.

Which characters are marks, punctuation or control characters depends on the edition of Unicode, and
every Python brings another edition. The vocabulary of BERT was looked up through one reader, the
``tokenizers`` library, so its tables are the ones that give the official ids. They were measured
from tokenizers 0.23.3, one code point at a time, and stand in ``unicode_tables.txt``:

- the categories are those of Unicode 8.0 as it was published (the later corrections of U+166D,
  U+1734, U+1885, U+1886, U+A9BD and U+111C9 are not in it);
- the decompositions are those of Unicode 9.0, the lower case that of Unicode 17.

A test repeats the measurement on all 1,112,064 characters. Python's own ``unicodedata`` gives the
decompositions (an assigned character never changes its own), less what is newer than Unicode 9.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path


def read_tables(text: str) -> dict[str, str]:
    """Split a file of tables, each behind its ``[NAME]``; a line that begins with # is a remark."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return dict(table.split("]") for table in "\n".join(lines).split("[")[1:])


def spans(ranges: str) -> list[tuple[int, int]]:
    """Read hexadecimal ranges, ``"41-5A 5F"``, as pairs of first and last code point."""
    parts = (span.partition("-") for span in ranges.split())
    return [(int(first, 16), int(last or first, 16)) for first, _, last in parts]


def characters(ranges: str) -> frozenset[str]:
    """The set of all characters in hexadecimal ranges."""
    return frozenset(chr(code) for first, last in spans(ranges) for code in range(first, last + 1))


class Ranges:
    """The same for large sets, of which only the bounds are kept; the ranges must ascend."""

    def __init__(self, ranges: str) -> None:
        self.spans = spans(ranges)
        self.bounds = [bound for first, last in self.spans for bound in (first, last + 1)]

    def __contains__(self, character: str) -> bool:
        """Inside a range if an odd number of bounds lie at or below the character."""
        return bisect_right(self.bounds, ord(character)) % 2 == 1

    def regex(self) -> str:
        """The set as the inside of a regular expression's ``[...]``."""
        return "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in self.spans)


def read_capitals(pairs: str) -> dict[str, str]:
    """Read ``"first-last>lower case of the first"`` as a dict: capital → small letter."""
    lower_case = {}
    for capitals, _, small in (pair.partition(">") for pair in pairs.split()):
        for first, last in spans(capitals):
            shift = int(small, 16) - first
            lower_case |= {chr(code): chr(code + shift) for code in range(first, last + 1)}
    return lower_case


PATH = Path(__file__).with_suffix(".txt")
_TABLES = read_tables(PATH.read_text(encoding="utf-8"))
SPACE = characters(_TABLES["SPACE"])
DROPPED = Ranges(_TABLES["DROPPED"])  # control characters and the like
CJK = Ranges(_TABLES["CJK"])
MARK = characters(_TABLES["MARK"])
PUNCTUATION = characters(_TABLES["PUNCTUATION"])
NEWER_THAN_NFD = characters(_TABLES["NEWER_THAN_NFD"])
NEW_CAPITALS = read_capitals(_TABLES["NEW_CAPITALS"])


# What is asked of every character of a text is remembered.
is_dropped = lru_cache(maxsize=5_000)(DROPPED.__contains__)
is_cjk = lru_cache(maxsize=5_000)(CJK.__contains__)


@lru_cache(maxsize=5_000)
def lower(character: str) -> str:
    """The lower case of one character by itself: Σ is always σ, never the final ς."""
    return NEW_CAPITALS.get(character) or character.lower()


@lru_cache(maxsize=5_000)
def decompose(character: str) -> tuple[tuple[str, int, bool], ...]:
    """The canonical decomposition (NFD) of one character: parts, their rank, which is the first.

    The rank is the combining class, by which the marks behind a letter are sorted; a letter has 0.
    é is e with 0 and U+0301 with 230.
    """
    if character in NEWER_THAN_NFD:
        return ((character, 0, True),)
    parts = unicodedata.normalize("NFD", character)
    return tuple((part, unicodedata.combining(part), i == 0) for i, part in enumerate(parts))
