"""How good an answer is: exact match and F1 of its words, as SQuAD measures them.

Source: Rajpurkar 2016 (SQuAD), §6.1; Rajpurkar 2018 (SQuAD 2.0), §5, with the values of the
official scripts ``evaluate-v1.1.py`` and ``evaluate-v2.0.py``.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence

PUNCTUATION = str.maketrans("", "", string.punctuation)


def plain_words(text: str) -> list[str]:
    """The words of an answer without case, punctuation and articles."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split()


def misplaced(context: str, answers: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """The answers, (text, start) each, that do not stand where they say in the context."""
    return [(text, start) for text, start in answers if context[start : start + len(text)] != text]


def answer_score(answer: str, golds: Sequence[str], v2: bool) -> tuple[float, float]:
    """Exact match and F1, 0 to 1, against the gold answer that fits best.

    Args:
        golds: the right answers; none = the question has no answer, and "" is the right one.
        v2: as in SQuAD 2.0: right answers of articles and punctuation alone do not count, and two
            answers without words are equal. The script of version 1.1 gives these an F1 of 0.
    """
    if v2:
        golds = [gold for gold in golds if plain_words(gold)] or [""]
    scores = [one_score(plain_words(answer), plain_words(gold), v2) for gold in golds]
    return max(exact for exact, _ in scores), max(f1 for _, f1 in scores)


def one_score(guess: list[str], truth: list[str], v2: bool) -> tuple[float, float]:
    """Exact match, and the harmonic mean of precision and recall of the words."""
    if not guess or not truth:
        equal = float(guess == truth)
        return equal, equal if v2 else 0.0
    shared = (Counter(guess) & Counter(truth)).total()
    return float(guess == truth), 2 * shared / (len(guess) + len(truth))


def best_threshold(
    margins: Sequence[float], scores: Sequence[float], unanswerable: Sequence[bool],
    silent: Sequence[bool],
) -> tuple[float, float]:  # fmt: skip
    """Above which margin a question is best left without an answer: (threshold, mean score).

    Args:
        margins: how much better "no answer" fits than the best answer, for every question.
        scores: the score of that best answer, 0 to 1.
        unanswerable: whether the question has no answer.
        silent: whether that best answer is "" itself.

    Questions are answered in the order of their margins, smallest first. An answer adds its score,
    or costs one where there was none to give. At the start nothing is answered.
    """
    total = best = float(sum(unanswerable))
    threshold = -math.inf
    for i in sorted(range(len(margins)), key=margins.__getitem__):
        if unanswerable[i]:
            total -= 0.0 if silent[i] else 1.0
        else:
            total += scores[i]
        if total > best:
            best, threshold = total, margins[i]
    return threshold, best / max(len(margins), 1)
