"""What is said to people in their language: Chinese where it is asked for, English otherwise.

A text is written in English where it arises and is translated on its way out (`say`). The Chinese
texts are files beside the English ones, named ``.zh``; whoever reads the one reads the other, too
(`learn`). What has no translation is said in English.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

WORD, WORDS = r"\S+?", ("number", "mistake", "path")  # placeholders that stand for one word
CHINESE: dict[str, str] = {}  # English → Chinese; both may have the same {placeholders}


def language() -> str:
    """``zh`` or ``en``: as MINIBERT_LANG says, or else the locale."""
    names = ("MINIBERT_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
    chosen = next((value for name in names if (value := os.environ.get(name))), "")
    return "zh" if chosen.lower().startswith("zh") else "en"


def learn(pairs: Mapping[str, str]) -> None:
    """Remember English texts with their translations."""
    CHINESE.update(pairs)


def phrases(path: Path) -> dict[str, str]:
    """The pairs of a file: an English line, its translation below; # begins a comment.

    Raises:
        ValueError: a line has no partner.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    return dict(zip(lines[::2], lines[1::2], strict=True))


def say(text: object) -> str:
    """A text in the language that is asked for: as a whole if it is known, else line by line."""
    text = str(text)
    if language() == "en":
        return text
    return CHINESE.get(text) or "\n".join(map(translated, text.split("\n")))


def translated(line: str) -> str:
    """A line in Chinese, and what it has for its placeholders, too; the indentation stays."""
    text = line.lstrip(" ")
    indentation = line[: len(line) - len(text)]
    if text in CHINESE:
        return indentation + CHINESE[text]
    for pattern, chinese in templates(len(CHINESE)):
        if found := pattern.fullmatch(text):
            values = {name: filled(name, value) for name, value in found.groupdict().items()}
            return indentation + chinese.format(**values)
    return line


def filled(name: str, value: str) -> str:
    """What stands for a placeholder in Chinese: {code} as it is, of a {list} every part."""
    parts = value.split("; ") if name == "list" else [value]
    return value if name == "code" else "；".join(map(translated, parts))


@cache
def templates(known: int) -> list[tuple[re.Pattern, str]]:
    """The texts with placeholders, those with most words of their own first."""
    found = []
    for english, chinese in CHINESE.items():
        fixed = re.split(r"\{(\w+)\}", english)  # text, name, text, ...
        if len(fixed) > 1:
            parts = [f"(?P<{part}>{WORD if part in WORDS else '.+?'})" if i % 2
                     else re.escape(part) for i, part in enumerate(fixed)]
            found.append((len("".join(fixed[::2])), re.compile("".join(parts)), chinese))
    return [pair for _, *pair in sorted(found, key=lambda one: -one[0])]


learn(phrases(Path(__file__).with_name("phrases.zh.txt")))
