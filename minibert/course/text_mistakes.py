"""Exercises that are no stage of a model: their steps, and the known mistakes in them.

Texts, tables and masking. As in the catalogue (`mistakes.py`), a mistake is a step done otherwise.
"""

from __future__ import annotations

import math
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

from minibert.parity.catalogue import Mistake
from minibert.tokenization import tokenizer
from minibert.tokenization.unicode_tables import CJK, PUNCTUATION, SPACE

# ---------------------------------------------------------------------- 1: clean and split a text

CLEANING = {
    "clean": tokenizer.clean,
    "cjk": tokenizer.space_cjk,
    "accents": tokenizer.strip_accents,
    "lower": tokenizer.lower_case,
    "split": tokenizer.split,
}


def words_of(text: str, do: Mapping[str, Callable] = CLEANING) -> list[str]:
    """The words of a text, with some steps done differently."""
    characters = [(c, place) for place, c in enumerate(text)]
    for name in ("clean", "cjk", "accents", "lower"):
        characters = do[name](characters)
    return ["".join(c for c, _ in word) for word in do["split"](characters)]


def characters_of(change: Callable[[str], str]) -> Callable:
    """A step that makes of each character none, one or more."""
    return lambda text: [(new, place) for c, place in text for new in change(c)]


def split_at(is_mark: Callable[[str], bool], *, drop: bool = False, runs: bool = False) -> Callable:
    """Another way to split: what is punctuation, whether it stays, whether runs stay whole."""

    def split(text: Sequence) -> list[list]:
        words: list[list] = [[]]
        last = ""
        for c, place in text:
            if c == " ":
                words.append([])
            elif not is_mark(c):
                if last and is_mark(last):
                    words.append([])
                words[-1].append((c, place))
            elif runs and last and is_mark(last):
                words[-1].append((c, place))
            else:
                words.append([] if drop else [(c, place)])
            last = c
        return [word for word in words if word]

    return split


def category(c: str) -> str:
    """Its general category in Unicode."""
    return unicodedata.category(c)


def control(c: str) -> bool:
    """Whether it is a control or format character."""
    return category(c) in ("Cc", "Cf")


CLEANING_MISTAKES = (
    Mistake(
        "case-kept", "capital letters are kept",
        {"lower": list}, "an uncased vocabulary has no word with a capital: [UNK]",
        "lower-case every character",
    ),
    Mistake(
        "accents-kept", "accents are kept",
        {"accents": list}, "café is not in the vocabulary, cafe is",
        "unicodedata.normalize('NFD', text), then drop the characters of category Mn",
    ),
    Mistake(
        "accents-apart", "accents are taken off the letters but not dropped",
        {"accents": characters_of(lambda c: unicodedata.normalize("NFD", c))},
        "words look right on the screen and are longer than they look",
        "after NFD drop the characters of category Mn",
    ),
    Mistake(
        "accents-with-letter", "letters with an accent are dropped with it",
        {"accents": characters_of(
            lambda c: c if category(c) != "Mn" and len(unicodedata.normalize("NFD", c)) == 1 else ""
        )},
        "café becomes caf", "take the letter apart first (NFD), then drop only the mark",
    ),
    Mistake(
        "ascii-only", "everything outside of ASCII is dropped",
        {"accents": characters_of(
            lambda c: "".join(d for d in unicodedata.normalize("NFKD", c) if d.isascii()))},
        "Chinese texts become empty", "drop category Mn, not all that is not ASCII",
        "the idiom normalize('NFKD', s).encode('ascii', 'ignore')",
    ),
    Mistake(
        "controls-kept", "control and format characters are kept",
        {"clean": characters_of(lambda c: " " if c in SPACE else c)},
        "invisible characters make a known word unknown",
        "drop categories Cc and Cf, but for tab, newline and return",
    ),
    Mistake(
        "controls-to-blank", "control and format characters become blanks",
        {"clean": characters_of(lambda c: " " if c in SPACE or control(c) else c)},
        "words are cut where something invisible stands", "drop them; only white space cuts",
    ),
    Mistake(
        "blank-only", "only the blank itself separates words",
        {"clean": characters_of(lambda c: "" if control(c) and c not in "\t\n\r" else c)},
        "tabs, newlines and no-break spaces end up inside words",
        "make a blank of every white space character first, or use str.split()",
    ),
    Mistake(
        "blank-dropped", "tab, newline and return are dropped as control characters",
        {"clean": characters_of(lambda c: "" if control(c) else " " if c in SPACE else c)},
        "the last word of a line sticks to the first of the next",
        "they are white space: make blanks of them before you drop Cc",
    ),
    Mistake(
        "cjk-joined", "CJK ideographs are not separated",
        {"cjk": list}, "a Chinese sentence is one long unknown word",
        "a blank before and after every ideograph",
    ),
    Mistake(
        "cjk-basic-only", "only the ideographs from U+4E00 to U+9FFF are separated",
        {"cjk": characters_of(lambda c: f" {c} " if "\u4e00" <= c <= "\u9fff" else c)},
        "rare ideographs and names stick together", "all eight ranges that the text lists",
    ),
    Mistake(
        "kana-too", "kana are separated like ideographs",
        {"cjk": characters_of(lambda c: f" {c} " if c in CJK or "\u3040" <= c <= "\u30ff" else c)},
        "Japanese words fall apart", "kana and hangul are letters like any other",
    ),
    Mistake(
        "marks-attached", "punctuation stays attached to the words",
        {"split": split_at(lambda c: False)}, "'house,' is not in the vocabulary",
        "every punctuation character is a word of its own",
    ),
    Mistake(
        "marks-dropped", "punctuation is dropped",
        {"split": split_at(lambda c: c in PUNCTUATION, drop=True)}, "the model was trained with it",
        "keep each as a word of its own",
    ),
    Mistake(
        "marks-in-runs", "several punctuation characters in a row stay together",
        {"split": split_at(lambda c: c in PUNCTUATION, runs=True)},
        "'...' is one word instead of three", "one word for each character",
    ),
    Mistake(
        "ascii-marks-only", "only punctuation in ASCII is separated",
        {"split": split_at(lambda c: c in string.punctuation)}, "« » — … stick to the words",
        "also all Unicode categories that begin with P",
    ),
    Mistake(
        "categories-only", "symbols of ASCII like $ + < = > ^ ` | ~ are not separated",
        {"split": split_at(lambda c: category(c).startswith("P"))}, "'a+b' is one word",
        "they are no punctuation to Unicode, but to BERT: all of string.punctuation",
        "Unicode's category P is narrower than google-research/bert's",
    ),
    Mistake(
        "regex-words", r"words are \w+, so _ is a letter and € a word",
        {"split": split_at(lambda c: not (c.isalnum() or c == "_" or category(c) == "Mn"))},
        "snake_case stays whole, 5€ is cut", r"\w counts _ as a letter; [^\w\s] has all symbols",
    ),
)

# ----------------------------------------------------------------------------------- 2: WordPiece

PIECES = {
    "limit": lambda: 100,
    "ends": lambda start, length: range(length, start, -1),
    "prefix": lambda start: "##" if start else "",
    "shown": lambda piece: piece,
    "rest": lambda pieces, rest: ["[UNK]"],
}
PIECE_MISTAKES = (
    Mistake(
        "shortest-first", "the shortest piece that fits is taken instead of the longest",
        {"ends": lambda start, length: range(start + 1, length + 1)},
        "words fall into single letters", "begin with the whole rest of the word, then shorten",
    ),
    Mistake(
        "whole-words-only", "a word that is not in the vocabulary is not cut at all",
        {"ends": lambda start, length: [length]}, "far too many [UNK]",
        "shorten the end until a piece fits, then go on from there",
    ),
    Mistake(
        "no-prefix", "pieces inside a word are looked up without ##",
        {"prefix": lambda start: ""},
        "'house' and '##house' are different entries with different vectors",
        "from the second piece on, look up '##' + piece",
    ),
    Mistake(
        "prefix-everywhere", "the first piece is looked up with ##, too",
        {"prefix": lambda start: "##"}, "no word is ever found whole", "'##' only where start > 0",
    ),
    Mistake(
        "prefix-not-returned", "## is used to look up, but is not in the result",
        {"shown": lambda piece: piece.removeprefix("##")}, "the ids belong to other entries",
        "return the entry as it stands in the vocabulary",
    ),
    Mistake(
        "rest-unknown", "only the rest that does not fit becomes [UNK]",
        {"rest": lambda pieces, rest: [*pieces, "[UNK]"]}, "unknown words have a known beginning",
        "the whole word is one [UNK]",
    ),
    Mistake(
        "rest-dropped", "the rest that does not fit is dropped",
        {"rest": lambda pieces, rest: pieces}, "unknown endings vanish",
        "the whole word is one [UNK]",
    ),
    Mistake(
        "rest-by-letter", "each letter of the rest becomes an [UNK]",
        {"rest": lambda pieces, rest: [*pieces, *["[UNK]"] * len(rest)]}, "many [UNK] for one word",
        "the whole word is one [UNK]",
    ),
    Mistake(
        "no-limit", "there is no longest word",
        {"limit": lambda: math.inf}, "a word of more than 100 characters is cut instead of [UNK]",
        "len(word) > 100 is [UNK]",
    ),
    Mistake(
        "limit-200", "the longest word has 200 characters",
        {"limit": lambda: 200}, "words of 101 to 200 characters differ", "100",
        "google-research/bert has 200, the official tokenizer.json has 100",
    ),
    Mistake(
        "limit-99", "a word of exactly 100 characters is [UNK]",
        {"limit": lambda: 99}, "one length is wrong", "len(word) > 100, not >= 100",
    ),
)


def pieces_of(
    word: str, vocab: Mapping[str, int], do: Mapping[str, Callable] = PIECES
) -> list[str]:
    """WordPiece, with some steps done differently."""
    if len(word) > do["limit"]():
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


# --------------------------------------------------------------------------- 9: cosine similarity


def unit(x: Tensor) -> Tensor:
    """Rows of length 1; a row of zeros stays."""
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)


COSINE = {"left": unit, "right": unit, "table": lambda a, b: a @ b.T, "after": lambda table: table}


def both(change: Callable[[Tensor], Tensor]) -> dict[str, Callable]:
    """The same change of both arguments."""
    return {"left": change, "right": change}


COSINE_MISTAKES = (
    Mistake(
        "dot-product", "nothing is normalised: this is the dot product",
        both(lambda x: x), "long vectors win",
        "divide each row by its length first",
    ),
    Mistake(
        "first-not-normalised", "the first argument is not normalised",
        {"left": lambda x: x}, "values above 1", "divide the rows of both by their lengths",
    ),
    Mistake(
        "second-not-normalised", "the second argument is not normalised",
        {"right": lambda x: x}, "values above 1, and another ranking",
        "divide the rows of both by their lengths",
    ),
    Mistake(
        "squared-length", "divided by the squared lengths",
        both(lambda x: x / (x * x).sum(-1, keepdim=True).clamp(min=1e-12)),
        "short vectors win", "the length is the root of the sum of squares",
    ),
    Mistake(
        "magnitudes", "divided by the sum of magnitudes (L1) instead of the length (L2)",
        both(lambda x: F.normalize(x, p=1, dim=-1)),
        "a vector and itself give less than 1", "the root of the sum of squares",
    ),
    Mistake(
        "columns-normalised", "columns are normalised instead of rows",
        both(lambda x: F.normalize(x, dim=0)),
        "the value of a pair depends on the other rows", "dim=-1, keepdim=True",
    ),
    Mistake(
        "whole-normalised", "divided by the length of the whole matrix",
        both(lambda x: x / x.norm()), "all values are small",
        "a length for each row: dim=-1, keepdim=True",
    ),
    Mistake(
        "table-transposed", "rows and columns of the table are exchanged",
        {"table": lambda a, b: b @ a.T}, "[i][j] is b[i] against a[j]", "a @ b.T",
    ),
    Mistake(
        "distance", "1 - cosine: a distance, not a similarity",
        {"after": lambda table: 1 - table}, "the best hit comes last", "leave out the 1 -",
    ),
    Mistake(
        "half-way", "mapped to 0 to 1",
        {"after": lambda table: (table + 1) / 2}, "unrelated texts have 0.5",
        "the cosine goes from -1 to 1",
    ),
    Mistake(
        "no-negative", "negative values are cut off",
        {"after": lambda table: table.clamp(min=0)}, "opposite vectors look unrelated",
        "the cosine goes from -1 to 1",
    ),
    Mistake(
        "magnitude-of-cosine", "the sign is lost",
        {"after": lambda table: table.abs()}, "opposite vectors look alike",
        "the cosine goes from -1 to 1",
    ),
    Mistake(
        "angle", "the angle instead of its cosine",
        {"after": lambda table: table.clamp(-1, 1).acos()}, "the best hit has the lowest value",
        "leave out the arccos",
    ),
)


def cosine_table(args: tuple, do: Mapping[str, Callable] = COSINE) -> Tensor:
    """Cosine similarities, with some steps done differently."""
    a, b = (x.double() for x in args)
    return do["after"](do["table"](do["left"](a), do["right"](b)))


# -------------------------------------------------------------------- 10: masking for a masked LM

SHARES = {
    "chosen": 0.15,
    "special": 0.0,
    "mask": 0.8,
    "random": 0.1,
    "kept": 0.1,
    "original": 1.0,
    "unlabelled": 0.0,
}

# Their changes are those of the shares.
MASKING_MISTAKES = (
    Mistake(
        "labels-everywhere", "labels are not -100 where nothing is to be guessed",
        {"chosen": 1.0, "special": 1.0, "mask": 0.15 * 0.8, "random": 0.15 * 0.1, "kept": 0.865},
        "the loss is mostly copying what is seen", "labels[~chosen] = -100",
    ),
    Mistake(
        "labels-after-masking", "the labels are copied after the masking",
        {"original": 0.1}, "the model learns to answer [MASK]",
        "labels = input_ids.clone() before anything else",
    ),
    Mistake(
        "always-mask", "every chosen token is shown as [MASK]",
        {"mask": 1.0, "random": 0.0, "kept": 0.0},
        "fine-tuning never sees [MASK], so the model is not prepared for it",
        "80 % [MASK], 10 % another word, 10 % as they are",
    ),
    Mistake(
        "none-kept", "none of the chosen tokens stays as it is",
        {"random": 0.2, "kept": 0.0}, "80 % [MASK], 20 % another word", "half of the rest stays",
    ),
    Mistake(
        "none-random", "none of the chosen tokens becomes another word",
        {"random": 0.0, "kept": 0.2}, "80 % [MASK], 20 % as they are",
        "half of the rest becomes another word",
    ),
    Mistake(
        "second-draw-tenth", "of the rest that is not [MASK], a tenth becomes another word",
        {"random": 0.02, "kept": 0.18}, "80 % [MASK], 2 % another word, 18 % as they are",
        "10 % of all the chosen is half of the rest: 0.5 in the second draw",
    ),
    Mistake(
        "random-over-mask", "a second draw of a tenth of all the chosen writes over [MASK], too",
        {"mask": 0.72, "kept": 0.18}, "72 % [MASK], 10 % another word, 18 % as they are",
        "draw among those that are not [MASK] already, with 0.5",
    ),
    Mistake(
        "special-chosen", "[CLS], [SEP] and [PAD] are chosen like words",
        {"special": 0.15}, "the model learns to guess padding", "probability 0 where special",
    ),
    Mistake(
        "share-of-eighty", "12 % are chosen: the 80 % are taken twice",
        {"chosen": 0.12, "mask": 1.0, "random": 0.0, "kept": 0.0},
        "15 % of the tokens are to be guessed, 80 % of these are shown as [MASK]",
        "choose 15 %, and give all of them a label",
    ),
)
