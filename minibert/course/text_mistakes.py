"""Exercises that are no stage of a model: their steps, and the known mistakes in them.

Texts, tables and masking. As in the catalogue of parity, a mistake is a step done differently: the
code is here, and the text stands under the same key in ``text_mistakes.md``.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unicodedata import category, normalize

import torch.nn.functional as F
from torch import Tensor

from minibert.course.checks import needs_shape, tensors, within
from minibert.course.run_submission import InvalidReturn
from minibert.parity.catalogue import read_mistakes
from minibert.tokenization import tokenizer
from minibert.tokenization.unicode_tables import CJK, PUNCTUATION, SPACE

Steps = Mapping[str, Any]

# ---------------------------------------------------------------------- 1: clean and split a text

CLEANING = {
    "clean": tokenizer.clean, "cjk": tokenizer.space_cjk, "accents": tokenizer.strip_accents,
    "lower": tokenizer.lower_case, "split": tokenizer.split,
}  # fmt: skip


def words_of(text: str, do: Steps = CLEANING) -> list[str]:
    """The words of a text."""
    characters = [(c, place) for place, c in enumerate(text)]
    for name in ("clean", "cjk", "accents", "lower"):
        characters = do[name](characters)
    return ["".join(c for c, _ in word) for word in do["split"](characters)]


def each(change: Callable[[str], str]) -> Callable:
    """A step that turns each character into none, one or more."""
    return lambda text: [(new, place) for c, place in text for new in change(c)]


def split_at(is_mark: Callable[[str], bool], *, drop: bool = False, runs: bool = False) -> Callable:
    """Another way to split: what is punctuation, whether it is dropped, whether runs stay whole."""

    def split(text: Sequence) -> list[list]:
        number = itertools.count()

        def group(item: tuple[str, int]) -> Any:
            if item[0] == " " or (drop and is_mark(item[0])):
                return "space"
            if is_mark(item[0]):
                return "marks" if runs else next(number)
            return "word"

        return [list(word) for name, word in itertools.groupby(text, group) if name != "space"]

    return split


decomposed = partial(normalize, "NFD")  # the letter, then its accents


def control(c: str) -> bool:
    """Whether it is a control or format character."""
    return category(c) in ("Cc", "Cf")


CLEANING_CHANGES: dict[str, Steps] = {
    "case-kept": {"lower": list},
    "accents-kept": {"accents": list},
    "accents-apart": {"accents": each(decomposed)},
    "accents-with-letter": {"accents": each(
        lambda c: c if category(c) != "Mn" and len(decomposed(c)) == 1 else "")},
    "ascii-only": {"accents": each(lambda c: "".join(filter(str.isascii, normalize("NFKD", c))))},
    "controls-kept": {"clean": each(lambda c: " " if c in SPACE else c)},
    "controls-to-blank": {"clean": each(lambda c: " " if c in SPACE or control(c) else c)},
    "blank-only": {"clean": each(lambda c: "" if control(c) and c not in "\t\n\r" else c)},
    "blank-dropped": {"clean": each(lambda c: "" if control(c) else " " if c in SPACE else c)},
    "cjk-joined": {"cjk": list},
    "cjk-basic-only": {"cjk": each(lambda c: f" {c} " if "\u4e00" <= c <= "\u9fff" else c)},
    "kana-too": {"cjk": each(lambda c: f" {c} " if c in CJK or "\u3040" <= c <= "\u30ff" else c)},
    "marks-attached": {"split": split_at(lambda c: False)},
    "marks-dropped": {"split": split_at(lambda c: c in PUNCTUATION, drop=True)},
    "marks-in-runs": {"split": split_at(lambda c: c in PUNCTUATION, runs=True)},
    "ascii-marks-only": {"split": split_at(lambda c: c in string.punctuation)},
    "categories-only": {"split": split_at(lambda c: category(c).startswith("P"))},
    "regex-words": {"split": split_at(
        lambda c: not (c.isalnum() or c == "_" or category(c) == "Mn"))},
}

# ----------------------------------------------------------------------------------- 2: WordPiece

PIECES = {
    "limit": 100,
    "ends": lambda start, length: range(length, start, -1),
    "prefix": lambda start: "##" if start else "",
    "shown": lambda piece: piece,
    "rest": lambda pieces, rest: ["[UNK]"],
}


def pieces_of(word: str, vocab: Mapping[str, int], do: Steps = PIECES) -> list[str]:
    """WordPiece."""
    if len(word) > do["limit"]:
        return ["[UNK]"]
    pieces, start = [], 0
    while start < len(word):
        for end in do["ends"](start, len(word)):
            piece = do["prefix"](start) + word[start:end]
            if piece in vocab:
                pieces.append(do["shown"](piece))
                break
        else:
            return do["rest"](pieces, word[start:])
        start = end
    return pieces


PIECES_CHANGES: dict[str, Steps] = {
    "shortest-first": {"ends": lambda start, length: range(start + 1, length + 1)},
    "whole-words-only": {"ends": lambda start, length: [length]},
    "no-prefix": {"prefix": lambda start: ""},
    "prefix-everywhere": {"prefix": lambda start: "##"},
    "prefix-not-returned": {"shown": lambda piece: piece.removeprefix("##")},
    "rest-unknown": {"rest": lambda pieces, rest: [*pieces, "[UNK]"]},
    "rest-dropped": {"rest": lambda pieces, rest: pieces},
    "rest-by-letter": {"rest": lambda pieces, rest: [*pieces, *["[UNK]"] * len(rest)]},
    "no-limit": {"limit": math.inf},
    "limit-200": {"limit": 200},
    "limit-99": {"limit": 99},
}

# --------------------------------------------------------------------------- 9: cosine similarity


def both(change: Callable[[Tensor], Tensor]) -> Steps:
    """The same change of both arguments."""
    return {"left": change, "right": change}


COSINE = {**both(F.normalize), "table": lambda a, b: a @ b.T, "after": lambda table: table}


def cosine_table(args: tuple, do: Steps = COSINE) -> Tensor:
    """Cosine similarities."""
    a, b = (x.double() for x in args)
    return do["after"](do["table"](do["left"](a), do["right"](b)))


COSINE_CHANGES: dict[str, Steps] = {
    "dot-product": both(lambda x: x),
    "first-not-normalised": {"left": lambda x: x},
    "second-not-normalised": {"right": lambda x: x},
    "squared-length": both(lambda x: x / (x * x).sum(-1, keepdim=True).clamp(min=1e-12)),
    "magnitudes": both(lambda x: F.normalize(x, p=1, dim=-1)),
    "columns-normalised": both(lambda x: F.normalize(x, dim=0)),
    "whole-normalised": both(lambda x: x / x.norm()),
    "table-transposed": {"table": lambda a, b: b @ a.T},
    "distance": {"after": lambda table: 1 - table},
    "half-way": {"after": lambda table: (table + 1) / 2},
    "no-negative": {"after": lambda table: table.clamp(min=0)},
    "magnitude-of-cosine": {"after": lambda table: table.abs()},
    "angle": {"after": lambda table: table.clamp(-1, 1).acos()},
}

# -------------------------------------------------------------------- 10: masking for a masked LM

SHARES = {
    "chosen": 0.15, "special": 0.0, "mask": 0.8, "random": 0.1, "kept": 0.1, "original": 1.0,
    "unlabelled": 0.0,
}  # fmt: skip
MASKING_CHANGES: dict[str, Steps] = {
    "labels-everywhere": {"chosen": 1.0, "special": 1.0, "mask": 0.12, "random": 0.015,
                          "kept": 0.865},
    "labels-after-masking": {"original": 0.1},
    "always-mask": {"mask": 1.0, "random": 0.0, "kept": 0.0},
    "none-kept": {"random": 0.2, "kept": 0.0},
    "none-random": {"random": 0.0, "kept": 0.2},
    "second-draw-tenth": {"random": 0.02, "kept": 0.18},
    "random-over-mask": {"mask": 0.72, "kept": 0.18},
    "special-chosen": {"special": 0.15},
    "share-of-eighty": {"chosen": 0.12, "mask": 1.0, "random": 0.0, "kept": 0.0},
}


def shares(args: tuple, got: Any) -> dict[str, tuple[float, int]]:
    """What happened to the tokens: each share, and how many tokens it is a share of."""
    ids, special, mask_id, _ = args
    shown, labels = tensors(got, 2, "two tensors, inputs and labels")
    if wrong := needs_shape(shown, ids.shape) or needs_shape(labels, ids.shape):
        raise InvalidReturn(wrong[0].strip())
    chosen = labels != -100
    words = chosen & ~special
    parts = {
        "chosen": (chosen, ~special),
        "special": (chosen, special),
        "mask": (shown == mask_id, words),
        "random": ((shown != mask_id) & (shown != ids), words),
        "kept": (shown == ids, words),
        "original": (labels == ids, words),
        "unlabelled": (shown != ids, ~chosen),
    }
    return {
        name: (float(part[among].double().mean()) if among.any() else 0.0, int(among.sum()))
        for name, (part, among) in parts.items()
    }


def as_expected(found: tuple[float, int], share: float) -> bool:
    """Whether a share is what it should be, to within five standard deviations of chance.

    A right solution misses one of these once in a million times. Another word is the same word once
    in so many: one in 500 here.
    """
    value, count = found
    if share in (0.0, 1.0):
        return value == share
    return count > 0 and abs(value - share) <= 5 * math.sqrt(share * (1 - share) / count) + 0.002


def same_shares(args: tuple, got: Any, do: Steps) -> bool:
    """Whether all shares are as expected."""
    found = shares(args, got)
    return all(as_expected(found[name], share) for name, share in do.items())


# -------------------------------------------------------------------------------- all together


MISTAKES = read_mistakes(
    Path(__file__).with_suffix(".md"),
    CLEANING_CHANGES | PIECES_CHANGES | COSINE_CHANGES | MASKING_CHANGES,
)
# For each exercise its right steps, and whether steps explain what came back for some arguments.
FAMILIES: dict[str, tuple[Steps, Callable[[tuple, Any, Steps], bool]]] = {
    "clean_and_split": (
        CLEANING, lambda args, got, do: [words_of(text, do) for text in args[0]] == got),
    "wordpiece": (
        PIECES, lambda args, got, do: [pieces_of(word, args[1], do) for word in args[0]] == got),
    "cosine_similarity": (COSINE, lambda args, got, do: within(cosine_table(args, do), got)),
    "mask_tokens": (SHARES, same_shares),
}
