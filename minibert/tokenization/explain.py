"""Every step from a text to its tokens, and why: the slow twin of `BertTokenizer.pieces`."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from minibert.tokenization.files import LONGEST_WORD
from minibert.tokenization.tokenizer import (
    BertTokenizer,
    Character,
    Piece,
    Rule,
    clean,
    space_cjk,
    split,
    strip_accents,
    wordpiece,
)
from minibert.tokenization.unicode_tables import MARK, decompose


class Step(NamedTuple):
    """What one rule made of ``text[start:end]``."""

    rule: str
    start: int
    end: int
    before: str
    after: str
    why: str


class Explanation(NamedTuple):
    """The way from a text to its tokens; ``str()`` of it has one line a step."""

    text: str
    steps: list[Step]
    pieces: list[Piece]

    def __str__(self) -> str:
        """The steps, then the tokens with their ids."""
        lines = [
            f"{start:4}:{end:<4} {rule:13} {before!r} → {after!r}  ({why})"
            for rule, start, end, before, after, why in self.steps
        ]
        tokens = " ".join(f"{piece.token}={piece.id}" for piece in self.pieces)
        return "\n".join([repr(self.text), *lines, f"{'tokens':>23} {tokens}"])


def explain(tokenizer: BertTokenizer, text: str) -> Explanation:
    """Return every step from a text to its tokens: print it, or read its ``steps``."""
    steps = []
    for span, literal in tokenizer.cut_out_literals(text):
        if literal:
            steps.append(_step("added token", span, literal, "spelt out, taken as it is"))
            continue
        for rule in tokenizer.rules:
            before, span = span, rule(span)
            steps += _changes(rule, before, span)
        words = split(span)
        if words:
            shown = " | ".join(map(_joined, words))
            steps.append(_step("split", span, shown, "at blanks, around punctuation"))
        for word in words:
            tokens, rest = wordpiece(_joined(word), tokenizer.words)
            shown = tokenizer.unk_token if rest else " ".join(tokens)
            steps.append(_step("wordpiece", word, shown, _why(tokens, rest)))
    return Explanation(text, steps, tokenizer.pieces(text))


def _joined(characters: list[Character]) -> str:
    return "".join(c for c, _ in characters)


def _step(rule: str, characters: list[Character], after: str, why: str) -> Step:
    start, end = characters[0][1], characters[-1][1] + 1
    return Step(rule, start, end, _joined(characters), after, why)


def _changes(rule: Rule, before: list[Character], after: list[Character]) -> Iterator[Step]:
    """One step for every character of the original text that a cleaning rule changed."""
    old, new = {}, {}
    for characters, by_place in ((before, old), (after, new)):
        for c, place in characters:
            by_place[place] = by_place.get(place, "") + c
    for place, was in old.items():
        became = new.get(place, "")
        if became != was:
            why = _reason(rule, was, became)
            yield Step(rule.__name__, place, place + 1, was, became, why)


def _reason(rule: Rule, was: str, became: str) -> str:
    names = " + ".join(f"U+{ord(c):04X} {unicodedata.name(c, '')}".rstrip() for c in was)
    if rule is clean:
        return names + (": white space" if became else ": a control character or the like, dropped")
    if rule is space_cjk:
        return names + ": an ideograph is a word of its own"
    if rule is strip_accents:
        marks = [part for c in was for part, _, _ in decompose(c) if part in MARK]
        dropped = ", ".join(f"U+{ord(mark):04X}" for mark in marks)
        return names + (f": {dropped} dropped" if marks else ": taken apart")
    return names


def _why(tokens: list[str], rest: str) -> str:
    """Why `wordpiece` gave these tokens, and this rest that no piece fits."""
    if not tokens and len(rest) > LONGEST_WORD:
        return f"unknown: {len(rest)} characters, more than {LONGEST_WORD}"
    if rest:
        after = f" after {' '.join(tokens)}" if tokens else ""
        return f"unknown: no piece of the vocabulary fits {rest!r}{after}"
    return "a word of the vocabulary" if len(tokens) == 1 else "each time the longest that fits"
