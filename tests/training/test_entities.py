"""Entities and answers: the measures of CoNLL-2003 and SQuAD, as their own tools compute them."""

import math
import random

import numpy as np
import pytest
import seqeval.metrics

from minibert.training.answers import answer_score, best_threshold
from minibert.training.entities import entities, entity_scores, is_scheme


@pytest.mark.parametrize(
    "tags, found",
    [
        ("O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("I-PER I-PER B-PER I-PER", [("PER", 0, 1), ("PER", 2, 3)]),  # IOB1: B parts neighbours
        ("I-PER I-LOC", [("PER", 0, 0), ("LOC", 1, 1)]),
        ("B-PER E-PER I-PER S-PER", [("PER", 0, 1), ("PER", 2, 2), ("PER", 3, 3)]),
        ("B-PER L-PER U-PER U-PER", [("PER", 0, 1), ("PER", 2, 2), ("PER", 3, 3)]),
        ("B I O B", [("", 0, 1), ("", 3, 3)]),
        ("B-work-of-art I-work-of-art", [("work-of-art", 0, 1)]),
    ],
)
def test_entities_of_every_scheme(tags, found):
    assert entities(tags.split()) == found


def test_what_is_a_scheme():
    assert is_scheme(["O", "B-X", "I-X"]) and is_scheme(["O", "B", "I"])
    assert not is_scheme(["NOUN", "VERB"]) and not is_scheme(["B-X", "I-X"])
    assert not is_scheme(["O", "X-PER"])


@pytest.mark.parametrize("letters", ["BI", "BIES", "I"])
def test_the_scores_are_those_of_seqeval(letters):
    draw = random.Random(letters)
    tags = ["O", *(f"{letter}-{kind}" for letter in letters for kind in ("PER", "LOC", "A-B"))]
    for _ in range(80):
        truth = [draw.choices(tags, k=draw.randint(1, 9)) for _ in range(draw.randint(1, 5))]
        guesses = [[t if draw.random() < 0.6 else draw.choice(tags) for t in row] for row in truth]
        scores = entity_scores(truth, guesses)
        for average in ("micro", "macro"):
            theirs = [
                getattr(seqeval.metrics, f"{name}_score")(
                    truth, guesses, average=average, zero_division=0
                )
                for name in ("precision", "recall", "f1")
            ]
            theirs = np.nan_to_num(theirs)  # a mean over no types at all is NaN there, 0 here
            assert scores[average][:3] == pytest.approx(theirs.tolist(), abs=1e-12)


def test_sentences_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="sentence 1: 2 tags, but 1 were predicted"):
        entity_scores([["O"], ["O", "O"]], [["O"], ["O"]])


@pytest.mark.parametrize(
    "answer, golds, v2, exact, f1",  # what the official scripts print
    [
        ("the Seine.", ["Seine"], False, 1, 1),
        ("the river Seine", ["Seine", "Seine river"], False, 0, 1),
        ("Paris, France", ["Paris", "in Paris"], False, 0, 2 / 3),
        ("", [], True, 1, 1),
        ("Paris", [], True, 0, 0),
        ("", ["Paris"], True, 0, 0),
        ("a", ["the"], True, 1, 1),  # no words on either side: equal
        ("a", ["the"], False, 1, 0),  # ... and nothing shared, says the script of 1.1
        ("x", ["The", "x"], True, 1, 1),
        ("L'État, c'est moi", ["état cest moi"], False, 0, 2 / 3),
    ],
)
def test_answers_are_scored_as_squad_scores_them(answer, golds, v2, exact, f1):
    assert answer_score(answer, golds, v2) == pytest.approx((exact, f1))


def test_the_threshold_leaves_unanswered_what_costs_more_than_it_gives():
    margins, scores = [-3.0, -1.0, 0.5, 2.0], [1.0, 0.0, 0.8, 0.0]
    unanswerable, silent = [False, True, False, True], [False] * 4
    # Two questions have no answer, so silence gives 2; the first answer adds 1, the second costs 1,
    # the third adds 0.8, the last costs 1.
    assert best_threshold(margins, scores, unanswerable, silent) == (-3.0, 3 / 4)
    silent[1] = True  # an empty answer costs nothing
    assert best_threshold(margins, scores, unanswerable, silent) == (0.5, 3.8 / 4)
    assert best_threshold([1.0], [1.0], [True], [False]) == (-math.inf, 1.0)
