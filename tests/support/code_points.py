"""All characters for the slow tests, and those that a rule of the tokenizer may change."""

import unicodedata

import pytest

EVERY = [code for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]


def changes(c: str) -> bool:
    """Whether a rule may change a character, as Python's own edition of Unicode knows it."""
    kind = unicodedata.category(c)
    return kind in ("Mn", "Cc", "Cf", "Zs") or kind[0] == "P" or c.lower() != c


SOME = [code for code in EVERY if code % 101 == 0 or changes(chr(code))]
each_character = pytest.mark.parametrize(
    "codes", [SOME, pytest.param(EVERY, marks=pytest.mark.slow)], ids=["some", "every"]
)
