"""Named entities: from the tags of words to spans, and how many of them were found.

A tag is ``O``, or a letter and the type of the entity, as in ``B-PER``. All letters in use are
read: B (first), I (inside), E or L (last), S or U (the only one), M (inside). So the same code
reads BIO, IOB1 (B only between two neighbours of one type), IOBES and BILOU.

Source: the measures are those of the CoNLL-2003 shared task (Tjong Kim Sang & De Meulder 2003, §2),
with the values of seqeval.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

Entity = tuple[str, int, int]  # type, first word, last word

TAG = re.compile(r"O|[BIESLUM](-.*)?")


def is_scheme(tags: Iterable[str]) -> bool:
    """Whether tags mark entities; else they are classes of words, such as parts of speech."""
    tags = set(tags)
    return "O" in tags and all(TAG.fullmatch(tag) for tag in tags)


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of one sentence.

    >>> entities(["B-PER", "I-PER", "O", "B-LOC"])
    [('PER', 0, 1), ('LOC', 3, 3)]

    A word begins an entity where its letter says so, where the word before is outside or of another
    type, and where the word before was a last one. So a stray ``I-PER`` is an entity too.
    """
    found: list[Entity] = []
    kind, last = None, True  # of the word before: its type, and whether it ends an entity
    for i, tag in enumerate(tags):
        if tag == "O":
            kind = None
            continue
        letter, _, name = tag.partition("-")
        if name != kind or last or letter in "BSU":
            found.append((name, i, i))
        else:
            found[-1] = (name, found[-1][1], i)
        kind, last = name, letter in "ESLU"
    return found


def entity_scores(
    truth: Sequence[Sequence[str]], guesses: Sequence[Sequence[str]]
) -> Mapping[str, tuple[float, float, float, int]]:
    """Type → (precision, recall, F1, true entities); "micro" pools all, "macro" is the plain mean.

    An entity is right if its type and both ends are. 0/0 counts as 0.

    Args:
        truth, guesses: the tags of every sentence, equally many.

    Raises:
        ValueError: a sentence has another number of tags than its truth.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])  # right, guessed, true
    for n, (true, guess) in enumerate(zip(truth, guesses, strict=True)):
        if len(true) != len(guess):
            raise ValueError(f"sentence {n}: {len(true)} tags, but {len(guess)} were predicted")
        true, guess = set(entities(true)), set(entities(guess))
        for place, some in enumerate((true & guess, guess, true)):
            for kind, *_ in some:
                counts[kind][place] += 1
    scores = {kind: (*score(*counts[kind]), counts[kind][2]) for kind in sorted(counts)}
    pooled = [sum(column) for column in zip(*counts.values(), strict=True)] or [0, 0, 0]
    columns = list(zip(*scores.values(), strict=True))[:3] or [(0.0,)] * 3
    macro = (sum(column) / len(column) for column in columns)
    return {**scores, "micro": (*score(*pooled), pooled[2]), "macro": (*macro, pooled[2])}


def score(right: int, guessed: int, true: int) -> tuple[float, float, float]:
    """Precision, recall and F1; 0/0 counts as 0."""
    return right / max(guessed, 1), right / max(true, 1), 2 * right / max(guessed + true, 1)
