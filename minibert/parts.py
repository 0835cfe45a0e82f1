"""The parts of the twelve exercises: their inputs, and the mistakes that are only made there.

Mistakes in a model are in the catalogue (`mistakes.py`); here are those in texts, tables and
training steps. Inputs are drawn from a seed, and are such that no part is blind: lengths are
unequal, no bias is zero, no norm is the identity, and no size is equal to another one.
"""

from __future__ import annotations

import math
import random
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert import tokenizer
from minibert.diagnosis import Diagnosis
from minibert.heads import BertForSequenceClassification
from minibert.judging import (
    TOLERANCE,
    Case,
    Stage,
    Unusable,
    by_catalogue,
    close_to,
    copied,
    finite,
    kind,
    near,
    ragged,
    same_words,
    stage,
    tensors,
)
from minibert.mistakes import Mistake
from minibert.probes import Inputs, example
from minibert.unicode_tables import CJK, PUNCTUATION, SPACE

tiny = partial(example, layers=1)

# ------------------------------------------------------------------------- 1 and 2: from a text


def each_first(function: Callable, args: tuple) -> list:
    """Call it on every text of the first argument."""
    return [function(first, *args[1:]) for first in args[0]]


def text_one(args: tuple) -> tuple:
    """The arguments of one call, of a part that makes one for each text."""
    return (args[0][0], *args[1:])


WORDS = "The old House of Anna Berg stood near a River and Nobody knew why".split()
ACCENTED = "Café déjà naïve Señor Zürich Ålesund Škoda façade Łódź tiếng".split()
IDEOGRAPHS = "中文字国語学水火山豈㐂𠀀"
MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»¿¡—…、。"
BLANKS = " \t\n\r\u00a0\u2003\u3000"
CONTROLS = "\u0000\u0007\u00ad\u200b\u200d\u202a"

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


def clean_and_split_cases(seed: int) -> list[Case]:
    """Texts with one difficulty each, then with all."""
    draw = random.Random(f"clean {seed}")
    right = same_words(words_of)

    def plain(count: int) -> list[str]:
        return [word.lower() for word in draw.sample(WORDS, count)]

    def between(separators: str, words: list[str]) -> str:
        return "".join(word + draw.choice(separators) for word in words)

    blanks = list(BLANKS)
    draw.shuffle(blanks)
    spaced = [
        "".join(w + b for w, b in zip(plain(7), blanks, strict=True)),
        "  " + plain(1)[0],
        " ",
    ]
    cased = [" ".join(draw.sample(WORDS, 5)), draw.choice(WORDS).upper(), "McDonald iPhone"]
    marks = list(MARKS)
    draw.shuffle(marks)
    marked = [
        "".join(draw.choice(("ab", "c", " ", "")) + mark for mark in marks),
        "well... what?!",
        "snake_case costs 5€ or $6",
    ]
    accented = [" ".join(draw.sample(ACCENTED, 6)).lower(), "e\u0301te\u0301", "cafe\u0301"]
    hidden = [plain(1)[0] + c + plain(1)[0] for c in CONTROLS]
    cjk = [
        "".join(draw.sample(IDEOGRAPHS, 5)),
        "ab" + draw.choice(IDEOGRAPHS) + "cd",
        "".join(IDEOGRAPHS),
        "ひらかな中カタカナ",
    ]
    mixed = [
        f"  {draw.choice(ACCENTED)},\t{draw.choice(IDEOGRAPHS)}{draw.choice(ACCENTED).upper()}"
        f"{draw.choice('!?…')}\u200b{draw.choice(WORDS)}\n{draw.choice(marks)}"
        for _ in range(4)
    ]
    parts = (
        ("white space", 1, spaced),
        ("lower case", 1, cased),
        ("punctuation", 2, marked),
        ("accents", 2, accented),
        ("control characters", 1, hidden),
        ("CJK ideographs", 2, cjk),
        ("all of it together", 1, mixed),
    )
    return [
        Case(title, points, (texts,), right(texts), call=each_first, one=text_one)
        for title, points, texts in parts
    ]


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


def wordpiece_cases(seed: int) -> list[Case]:
    """Words over a small alphabet, and a vocabulary in which every rule matters."""
    draw = random.Random(f"wordpiece {seed}")
    a, b, c, d, e, x = draw.sample("abcdefghijklmnopqrstuvwxyz", 6)
    stems = [a + b, a + b + c, d + e, d + e + a + b]
    entries = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *stems,
        a,
        d,
        b,
        "##" + c,
        "##" + a,
        "##" + b,
        "##" + c + d,
        "##" + c + d + e,
        "##" + e,
        b + c,
    ]
    vocab = {entry: number for number, entry in enumerate(entries)}
    right = same_words(lambda word: pieces_of(word, vocab))
    parts = (
        ("words of the vocabulary stay whole", 2, [*stems, a, b + c]),
        (
            "the longest piece first",
            3,
            [a + b + c + c + d + e, d + e + a + b + c + d, a + b + c + a, d + e + a + b + b],
        ),
        ("pieces inside a word begin with ##", 2, [d + a, a + a, d + c + d, a + e + e]),
        (
            "a word that no pieces make up is [UNK] as a whole",
            2,
            [x, a + b + x, x + a + b, a + x + b, d + d, a + b + d],
        ),
        ("words of more than 100 characters", 1, [a + b * 99, a + b * 100, a * 150, a + b * 250]),
    )
    return [
        Case(title, points, (words, vocab), right(words), call=each_first, one=text_one)
        for title, points, words in parts
    ]


# ----------------------------------------------------------------- 3 to 8: the parts of the model


def model_case(
    title: str,
    points: int,
    model: Inputs,
    known: Sequence[str],
    name: str,
    args: Callable[..., tuple],
    what: str = "a tensor",
    judged: Callable[[Callable], Callable] = lambda wrong: wrong,
) -> Case:
    """A part that is a stage of a tiny BERT: from the tensors ``known`` to the tensor ``name``.

    ``args`` makes the arguments from the known tensors; ``judged`` adds to the judgement.
    """
    place = stage(model, known, name)
    given = args(*(place.known[key] for key in known))
    return Case(title, points, given, judged(near(place, what=what)), place)


def embeddings_cases(seed: int) -> list[Case]:
    """One text, two segments, ragged batches, small vectors."""
    cases = []
    for number, (title, points, lengths, segments, scale) in enumerate((
        ("one text of one segment", 3, (5,), False, 1.0),
        ("two segments", 2, (7,), True, 1.0),
        ("texts of unequal length", 2, (6, 3, 9, 2), True, 1.0),
        ("small vectors, where eps counts", 2, (4, 8), True, 0.01),
    )):
        config, weights, batch = tiny(seed + 100 * number, lengths=lengths, scale=scale)
        if not segments:
            batch["token_type_ids"] = torch.zeros_like(batch["token_type_ids"])
        weights["embeddings.norm.weight"] = weights["embeddings.norm.weight"] / scale
        names = ("word.weight", "segment.weight", "position.weight", "norm.weight", "norm.bias")
        tables = [weights[f"embeddings.{name}"] for name in names]
        given = (batch["input_ids"], batch["token_type_ids"], *tables, config.layer_norm_eps)
        model = (config, weights, batch)
        cases.append(model_case(title, points, model, [], "embeddings", lambda given=given: given))
    return cases


def attention_cases(seed: int) -> list[Case]:
    """One head, several, padding, padding alone."""
    cases = []
    for number, (title, points, heads, size, lengths, judged) in enumerate((
        ("every row sums to 1, nothing is negative", 2, 1, 6, (5, 5), lambda _: adds_up),
        ("one head, no padding", 2, 1, 6, (4, 4, 4), lambda wrong: wrong),
        ("several heads", 2, 3, 5, (4, 4, 4, 4), lambda wrong: wrong),
        ("padding", 2, 2, 7, (6, 3, 9), lambda wrong: wrong),
        ("a text of padding alone gives finite numbers", 1, 2, 6, (4, 0, 7), finite),
    )):
        model = tiny(seed + 100 * number, heads=heads, size=size, lengths=lengths)
        known = ["layers.0.attention.query_heads", "layers.0.attention.key_heads"]
        mask = model[2]["attention_mask"]
        cases.append(model_case(
            title, points, model, known, "layers.0.attention.weights",
            lambda query, key, mask=mask: (query, key, mask), "a (B, N, T, T) tensor", judged,
        ))
    return cases


def adds_up(got: Any) -> list[str]:
    """Judge that there are probabilities, whichever."""
    rows = tensors(got, 1, "a (B, N, T, T) tensor")[0]
    if rows.dim() != 4:
        return [f"  shape {tuple(rows.shape)}; (B, N, T, T) is needed"]
    sums = rows.sum(-1)
    if bool(((sums - 1).abs() <= TOLERANCE).all()) and bool((rows >= 0).all()):
        return []
    return [
        f"  the first rows sum to {', '.join(f'{x:.4g}' for x in sums.flatten()[:4].tolist())}; "
        f"the smallest number is {float(rows.min()):.4g}"
    ]


def weights_of(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights of a part, by their short names."""
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def multi_head_attention_cases(seed: int) -> list[Case]:
    """One head, several, padding."""
    cases = []
    for number, (title, points, heads, size, lengths) in enumerate((
        ("one head, no padding", 3, 1, 6, (5, 5)),
        ("several heads", 3, 3, 4, (7, 7)),
        ("padding", 3, 2, 5, (6, 3, 8)),
    )):
        model = tiny(seed + 100 * number, heads=heads, size=size, lengths=lengths)
        rest = (model[2]["attention_mask"], heads, weights_of(model[1], "layers.0.attention."))
        cases.append(model_case(
            title, points, model, ["embeddings"], "layers.0.attention.output",
            lambda hidden, rest=rest: (hidden, *rest), "a (B, T, H) tensor",
        ))
    return cases


def add_and_norm_cases(seed: int) -> list[Case]:
    """Without gain and bias, with them, small numbers."""
    cases = []
    for number, (title, points, plain, scale) in enumerate((
        ("the sum, normalised", 3, True, 1.0),
        ("gain and bias", 3, False, 1.0),
        ("small numbers, where eps counts", 3, False, 0.01),
    )):
        model = config, weights, _ = tiny(seed + 100 * number, lengths=(5, 5, 5), scale=scale)
        gain, bias = "layers.0.attention_norm.weight", "layers.0.attention_norm.bias"
        if plain:
            weights[gain] = torch.ones_like(weights[gain])
            weights[bias] = torch.zeros_like(weights[bias])
        rest = (weights[gain], weights[bias], config.layer_norm_eps)
        cases.append(model_case(
            title, points, model, ["embeddings", "layers.0.attention.output"],
            "layers.0.attention_norm", lambda x, sublayer, rest=rest: (x, sublayer, *rest),
        ))
    return cases


def feed_forward_cases(seed: int) -> list[Case]:
    """Where GELU does next to nothing, where it bends, other sizes."""
    cases = []
    for number, (title, points, wide, shift) in enumerate((
        ("the two linear maps (numbers so large that GELU is x or 0)", 3, 20, 40.0),
        ("GELU, exact", 4, 20, 0.0),
        ("another size", 2, 7, 0.0),
    )):
        model = tiny(seed + 100 * number, wide=wide, lengths=(6, 6, 6))
        sign = torch.arange(wide) % 2 * 2 - 1
        model[1]["layers.0.feed_forward.expand.bias"] += shift * sign
        own = weights_of(model[1], "layers.0.feed_forward.")
        cases.append(model_case(
            title, points, model, ["layers.0.attention_norm"], "layers.0.feed_forward.contract",
            lambda hidden, own=own: (hidden, own),
        ))
    return cases


def mean_pooling_cases(seed: int) -> list[Case]:
    """No padding, padding, padding alone."""
    cases = []
    for number, (title, points, lengths, judged) in enumerate((
        ("no padding", 3, (5, 5), lambda wrong: wrong),
        ("padding", 4, (6, 3, 9, 1), lambda wrong: wrong),
        ("a text of padding alone gives zeros", 2, (4, 0, 7), lambda wrong: zeros(wrong, 1)),
    )):
        model = tiny(seed + 100 * number, lengths=lengths)
        mask = model[2]["attention_mask"]
        cases.append(model_case(
            title, points, model, ["layers.0.feed_forward_norm"], "pooling",
            lambda hidden, mask=mask: (hidden, mask), "a (B, H) tensor", judged,
        ))
    return cases


def zeros(then: Callable, row: int) -> Callable:
    """Judge that a row is zero; and the rest as usual."""

    def wrong(got: Any) -> list[str]:
        lines = then(got)
        values = tensors(got, 1, "a tensor")[0]
        if not lines and not bool((values[row] == 0).all()):
            return [
                f"  text {row} has no real token; its vector is {values[row, :4].tolist()} ..., "
                "not zeros:",
                "  divide by at least a tiny number, count.clamp(min=1e-9)",
            ]
        return lines

    return wrong


# ------------------------------------------------------------------------ 9: cosine similarity


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


def cosine_similarity_cases(seed: int) -> list[Case]:
    """Vectors of length 1, of any length, of length 0."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(5, 6, generator=generator), torch.randn(3, 6, generator=generator)
    lengths = torch.tensor([0.1, 2.0, 30.0, 0.5, 7.0])[:, None]
    with_zero = a.clone()
    with_zero[2] = 0
    parts = (
        ("vectors of length 1", 3, (unit(a), unit(b))),
        ("vectors of any length", 4, (a * lengths, b * lengths[1:4])),
        ("a vector of zeros gives 0, not NaN", 2, (with_zero, 3 * b)),
    )
    return [
        Case(title, points, args, close_to(cosine_table(args))) for title, points, args in parts
    ]


# ------------------------------------------------------------------ 10: masking for a masked LM

MASK_ID, VOCABULARY = 4, 500
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


def shares(args: tuple, got: Any) -> dict[str, tuple[float, int]]:
    """What came of the tokens: each share, and how many tokens it is a share of."""
    ids, special, *_ = args
    shown, labels = tensors(got, 2, "two tensors, inputs and labels,")
    for tensor in (shown, labels):
        if tensor.shape != ids.shape:
            raise Unusable(f"shape {tuple(tensor.shape)}, but {tuple(ids.shape)} is needed")
    chosen = labels != -100

    def share(of: Tensor, among: Tensor) -> tuple[float, int]:
        return float(of[among].double().mean()) if among.any() else 0.0, int(among.sum())

    words = chosen & ~special
    return {
        "chosen": share(chosen, ~special),
        "special": share(chosen, special),
        "mask": share(shown == MASK_ID, words),
        "random": share((shown != MASK_ID) & (shown != ids), words),
        "kept": share(shown == ids, words),
        "original": share(labels == ids, words),
        "unlabelled": share(shown != ids, ~chosen),
    }


def expected_share(found: Mapping[str, tuple[float, int]], name: str, share: float) -> bool:
    """Whether a share is what it should be, to within five standard deviations of chance.

    A right solution misses one of these once in a million times. Another word is the same word once
    in so many: one in 500 here.
    """
    value, count = found[name]
    if share in (0.0, 1.0):
        return value == share
    return count > 0 and abs(value - share) <= 5 * math.sqrt(share * (1 - share) / count) + 0.002


def masking(names: Sequence[str], args: tuple) -> Callable:
    """Judge some of the shares."""
    said = {
        "chosen": "of the words have a label other than -100",
        "special": "of the special tokens have a label other than -100",
        "mask": "of the chosen are shown as [MASK]",
        "random": "of the chosen are shown as another word",
        "kept": "of the chosen are shown as they are",
        "original": "of the labels are the original word",
        "unlabelled": "of the tokens without a label are changed all the same",
    }

    def wrong(got: Any) -> list[str]:
        found = shares(args, got)
        if "chosen" not in names and not found["original"][1]:
            return ["  nothing is chosen: all labels are -100"]
        return [
            f"  {100 * found[name][0]:.1f} % {said[name]}; {100 * SHARES[name]:g} % are wanted"
            for name in names
            if not expected_share(found, name, SHARES[name])
        ]

    return wrong


def anew(args: tuple) -> Callable:
    """Judge that 15 % are chosen, and others in each text."""
    count = masking(["chosen"], args)

    def wrong(got: Any) -> list[str]:
        lines = count(got)
        chosen = tensors(got, 2, "")[1] != -100
        if not lines and bool((chosen[:, 1:20] == chosen[:1, 1:20]).all()):
            return [
                "  the same places in every text; draw for each token of each text: "
                "torch.rand(input_ids.shape)"
            ]
        return lines

    return wrong


def mask_tokens_cases(seed: int) -> list[Case]:
    """Three hundred texts: enough to count."""
    generator = torch.Generator().manual_seed(seed)
    B, T = 300, 80
    ids = torch.randint(5, VOCABULARY, (B, T), generator=generator)
    length = torch.randint(25, T + 1, (B, 1), generator=generator)
    place = torch.arange(T)
    ids = torch.where(place < length, ids, 0)
    ids = torch.where(place == length - 1, 3, ids)
    ids[:, 0] = 2
    args = (ids, ids < 5, MASK_ID, VOCABULARY)
    return [
        Case(
            "labels: the original word where chosen, else -100 and unchanged",
            3,
            args,
            masking(["original", "unlabelled"], args),
        ),
        Case("special tokens are never chosen", 1, args, masking(["special"], args)),
        Case("15 % of the words are chosen, others in each text", 2, args, anew(args)),
        Case(
            "of these 80 % [MASK], 10 % another word, 10 % as they are",
            3,
            args,
            masking(["mask", "random", "kept"], args),
        ),
    ]


def diagnose_masking(pairs: list[tuple[Case, Any]]) -> Diagnosis | None:
    """Name the mistake that explains all shares."""
    case, got = pairs[0]
    try:
        found = shares(case.args, got)
    except Unusable:
        return None
    answers = [
        (mistake,)
        for mistake in MASKING_MISTAKES
        if all(
            expected_share(found, name, share)
            for name, share in {**SHARES, **mistake.changes}.items()
        )
    ]
    return Diagnosis("", answers, tried=len(MASKING_MISTAKES)) if answers else None


# ------------------------------------------------------------------------------- 11: AdamW

ADAMW = ("first", "second", "first_corrected", "second_corrected", "update", "decay", "parameters")


def steps_stage(
    gradients: Tensor, counts: Tensor, names: Sequence[str], settings: Mapping[str, Any]
) -> Stage:
    """Optimizer steps as a stage: gradients (steps, M, n), and how many examples each has (M,)."""
    config, _, batch = tiny(lengths=(2,))
    n, generator = gradients.shape[-1], torch.Generator().manual_seed(1)
    batch |= {
        "gradients": gradients,
        "counts": counts,
        "zeros": torch.zeros(n),
        "parameters": torch.randn(n, generator=generator),
        "decayed": torch.ones(n).long(),
        "settings": {
            "lr": 1.0,
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-6,
            "weight_decay": 0.0,
            "max_norm": 1e9,
            **settings,
        },
    }
    steps = range(1, len(gradients) + 1)
    return Stage(config, {}, batch, {}, [f"steps.{t}.{name}" for t in steps for name in names])


def adamw_step_cases(seed: int) -> list[Case]:
    """The running means, the update, the decay; five steps in a row."""
    cases = []
    for number, (title, points, names, decay) in enumerate(
        (
            ("the running means", 3, ("first", "second"), 0.0),
            ("the update, with bias correction", 3, ("parameters",), 0.0),
            ("decoupled weight decay", 3, ("parameters",), 0.2),
        )
    ):
        generator = torch.Generator().manual_seed(seed + 100 * number)
        sizes = torch.tensor([3.0, 1.0, 0.1, 1e-3, 1e-5, 1e-6]).repeat(3)  # small ones show eps
        gradients = torch.randn(5, 1, 18, generator=generator) * sizes
        place = steps_stage(
            gradients,
            torch.ones(1),
            ("first", "second", "parameters"),
            {"lr": [0.1, 0.2, 0.3, 0.2, 0.1], "weight_decay": decay},
        )
        check = [name for name in place.names if name.split(".")[-1] in names]
        args = (place.batch["parameters"], gradients[:, 0], place.batch["settings"])
        wrong = near(place, check, "three tensors (parameter, first, second)")
        cases.append(Case(title, points, args, wrong, place, five_steps, adamw_one))
    return cases


def five_steps(function: Callable, args: tuple) -> list:
    """Five steps, each from what the one before returned: first, second and parameter of each."""
    parameter, gradients, settings = args
    first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
    rest = {key: settings[key] for key in ("beta1", "beta2", "eps", "weight_decay")}
    found = []
    for step, gradient in enumerate(gradients, 1):
        lr = settings["lr"][step - 1]
        got = function(parameter, gradient, first, second, step, lr, **rest)
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            raise TypeError(f"returned {kind(got)}; parameter, first, second are needed")
        parameter, first, second = (torch.as_tensor(entry) for entry in got)
        found += [first.clone(), second.clone(), parameter.clone()]
    return found


def adamw_one(args: tuple) -> tuple:
    """The arguments of the first of five steps."""
    parameter, gradients, settings = args
    zeros = torch.zeros_like(parameter)
    rest = (settings[key] for key in ("beta1", "beta2", "eps", "weight_decay"))
    return (parameter, gradients[0], zeros, zeros.clone(), 1, settings["lr"][0], *rest)


# ------------------------------------------------------------------------- 12: one training step

def tiny_classifier(seed: int) -> BertForSequenceClassification:
    """A tiny BERT with a classifier, without dropout, in float64."""
    config, *_ = tiny(heads=2, size=3, wide=5)
    config = config.replace(
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label={number: str(number) for number in range(3)},
    )
    model = BertForSequenceClassification(config).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(1 + 0.3 * noise if "norm.weight" in name else 0.5 * noise)
    return model


def training_step_cases(seed: int) -> list[Case]:
    """One batch; several of unequal size; long gradients; several steps in a row."""
    cases = []
    for number, (title, points, steps, sizes, max_norm, names) in enumerate(
        (
            ("one batch", 2, 1, (4,), 1e6, ("clipped",)),
            ("micro-batches of unequal size", 2, 1, (4, 4, 1), 1e6, ("clipped",)),
            ("gradients longer than max_norm, and shorter ones", 2, 3, (3,), 0.0, ("clipped",)),
            ("several steps in a row", 2, 3, (4, 2), 1e6, ("clipped",)),
            ("the mean loss is returned", 1, 2, (3, 1), 1e6, ("loss",)),
            ("training mode, and one optimizer step", 1, 2, (3, 1), 1e6, ("mode",)),
        )
    ):
        args = (seed + 100 * number, steps, sizes, max_norm)
        cases.append(training_case(title, points, args, names[0]))
    return cases


def training_case(title: str, points: int, args: tuple, what: str) -> Case:
    """One part: which model and batches, and which of the things seen is judged."""
    seed, steps, sizes, max_norm = args
    model = tiny_classifier(seed)
    batches = [micro_batches(seed + step, sizes) for step in range(steps)]
    gradients = torch.stack(
        [torch.stack([gradient_of(model, *batch) for batch in step]) for step in batches]
    )  # (steps, M, n)
    losses = [
        sum(loss_of(model, *batch).item() * len(batch[1]) for batch in step) / sum(sizes)
        for step in batches
    ]
    limits = [max_norm] * steps
    if not max_norm:  # one gradient is short enough, one is too long, one is far too long
        limits = (gradients[:, 0].norm(dim=-1) * torch.tensor([2.0, 0.5, 0.02])).tolist()
    place = steps_stage(gradients, torch.tensor(sizes), ("clipped",), {"max_norm": limits})
    judged = near(place)

    def wrong(seen: Any) -> list[str]:
        if what == "clipped":
            return judged(seen[0] if steps == 1 else seen[:steps])
        returned, modes, taken = seen[steps], seen[steps + 1], seen[steps + 2]
        if what == "mode":
            lines = [] if all(modes) else ["  the model was not in training mode: model.train()"]
            if taken != [1] * steps:
                lines.append(f"  optimizer.step() was called {taken} times; once for each step")
            return lines
        for mine, right in zip(returned, losses, strict=True):
            if not isinstance(mine, (int, float)) or abs(mine - right) > TOLERANCE * max(
                1.0, right
            ):
                return [
                    f"  yours     {mine if mine is not None else 'nothing (is there a return?)'}",
                    f"  reference {right:.6g}",
                    "  the sum over all examples of the step, divided by their number",
                ]
        return []

    def call(function: Callable, _: tuple) -> list:
        return watch(function, tiny_classifier(seed), batches, limits)

    def one(_: tuple) -> tuple:
        model = tiny_classifier(seed)
        return model, batches[0], Descent(model), limits[0]

    return Case(title, points, args, wrong, place if what == "clipped" else None, call, one)


def micro_batches(seed: int, sizes: Sequence[int]) -> list[tuple[dict, Tensor]]:
    """Inputs and labels of some micro-batches."""
    found = []
    for number, size in enumerate(sizes):
        lengths = [3 + (i + number) % 4 for i in range(size)]
        inputs = ragged(1000 * seed + number, lengths)
        labels = (inputs["input_ids"].sum(1) + number) % 3
        found.append((inputs, labels))
    return found


def loss_of(model: Callable, inputs: Mapping, labels: Tensor) -> Tensor:
    """The mean cross-entropy."""
    return F.cross_entropy(model(**inputs).logits, labels)


def gradient_of(model: torch.nn.Module, inputs: Mapping, labels: Tensor) -> Tensor:
    """The gradient of the mean loss of a micro-batch, laid end to end, (n,)."""
    gradients = torch.autograd.grad(
        loss_of(model, inputs, labels),
        list(model.parameters()),
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([gradient.flatten() for gradient in gradients])


class Descent:
    """Plain gradient descent with learning rate 1, used as any optimizer of torch.

    So a step is the gradient itself, and it can be seen.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Take all parameters; no step has been taken."""
        self.param_groups = [{"params": list(model.parameters()), "lr": 1.0}]
        self.taken = 0

    @torch.no_grad()
    def step(self) -> None:
        """Subtract the gradients."""
        self.taken += 1
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter -= parameter.grad

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None


def watch(
    function: Callable, model: torch.nn.Module, batches: list, limits: Sequence[float]
) -> list:
    """What training steps do: the gradients they go down, what they return, the mode, the steps.

    Every step begins with the same parameters; what an earlier one left in .grad stays there.
    """
    optimizer = Descent(model)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    modes: list[bool] = []
    taken: list[int] = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    gradients, returned = [], []
    for batch, max_norm in zip(batches, limits, strict=True):
        model.eval()
        optimizer.taken = 0
        got = function(model, copied_batches(batch), optimizer, max_norm)
        got = got.item() if isinstance(got, Tensor) and got.numel() == 1 else got
        returned.append(got if isinstance(got, (int, float)) or got is None else kind(got))
        taken.append(optimizer.taken)
        with torch.no_grad():
            moved = [before - now for before, now in zip(start, model.parameters(), strict=True)]
            gradients.append(torch.cat([part.flatten() for part in moved]))
            for parameter, before in zip(model.parameters(), start, strict=True):
                parameter.copy_(before)
    return [*gradients, returned, modes, taken]


def copied_batches(batches: list) -> list:
    """Micro-batches of one's own."""
    return [(copied(inputs), labels.clone()) for inputs, labels in batches]


def diagnose_training(pairs: list[tuple[Case, Any]]) -> Diagnosis | None:
    """Name the mistake from the gradients of those parts that look at them."""
    return by_catalogue(("total", "gradient", "clipped"))(
        [
            (case, got[0] if len(case.stage.names) == 1 else got[: len(case.stage.names)])
            for case, got in pairs
            if case.stage
        ]
    )
