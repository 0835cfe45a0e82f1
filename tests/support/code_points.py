"""All characters for the slow tests, and those that a rule of the tokenizer may change."""

import unicodedata

import pytest

EVERY = [code for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
# Planes 4 to 13 hold no character, 15 and 16 private ones alone: there one in 101 will do.
CHARACTERS = [code for code in EVERY if code >> 16 in (0, 1, 2, 3, 14) or code % 101 == 0]


def changes(c: str) -> bool:
    """Whether a rule may change a character, as Python's own edition of Unicode knows it."""
    kind = unicodedata.category(c)
    return kind in ("Mn", "Cc", "Cf", "Zs") or kind[0] == "P" or c.lower() != c


SOME = [code for code in EVERY if code % 101 == 0 or changes(chr(code))]


def some_or(codes: list[int]):
    """Some characters in the quick tests, these in the slow ones."""
    every = pytest.param(codes, marks=pytest.mark.slow)
    return pytest.mark.parametrize("codes", [SOME, every], ids=["some", "every"])
