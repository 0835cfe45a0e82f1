"""Examples: the rows of a file, as a task sees them; they are checked and split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from minibert.training.data.columns import content, shown
from minibert.training.data.tables import some

# The roles that are to be learnt from the others:
TRUTH = ("label", "labels", "score", "tags", "answers", "start", "impossible")
SCALES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 5.0), (0.0, 10.0), (0.0, 100.0))
RATINGS = ((1.0, 5.0), (1.0, 7.0), (1.0, 10.0))


class Example(NamedTuple):
    """One row: the values of its roles, and where it stands ("train.csv, line 7")."""

    values: dict[str, Any]
    where: str
    line: int = 0  # of the file, from 1

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the row, first to last."""
        roles = ("text", "pair", "negative", "question", "context")
        texts = tuple(self.values[role] for role in roles if self.values.get(role) is not None)
        return texts or (" ".join(self.values["tokens"]),)

    @property
    def truth(self) -> list:
        """What the row says about its texts."""
        return [self.values.get(role) for role in TRUTH]

    def without_truth(self) -> Example:
        """The texts alone, as they come when nobody knows the truth."""
        values = {role: value for role, value in self.values.items() if role not in TRUTH}
        return self._replace(values=values)


# -------------------------------------------------------------------------------------- checking


def class_names(examples: Sequence[Example]) -> list[str]:
    """The classes that occur: in the order of their numbers if all are numbers, else sorted."""
    return list(count_classes(examples))


def count_classes(examples: Sequence[Example]) -> dict[str, int]:
    """Class → how many examples it has; the classes in the order of `class_names`."""
    counts = Counter(example.values["label"] for example in examples)
    try:
        names = sorted(counts, key=lambda name: (float(name), name))
    except ValueError:
        names = sorted(counts)
    return {name: counts[name] for name in names}


def refuse_a_class_for_every_row(train: Sequence[Example]) -> None:
    """Notice a text, or the number of a row, that was taken as the label.

    Raises:
        ValueError: every row has a class of its own.
    """
    labels = [example.values["label"] for example in train if "label" in example.values]
    n = len(set(labels))
    if n >= 5 and (n == len(labels) or (2 * n > len(labels) and content(labels).words >= 5)):
        raise ValueError(
            f"{train[0].where} and so on: {len(labels)} rows and {n} classes, such as "
            f"{shown(labels[0])!r}; is another column the label? Name it, as in --columns label=2"
        )


def score_scale(examples: Sequence[Example]) -> tuple[float, float]:
    """The scale of the scores.

    Where they begin at 1 and end at 5, 7 or 10, or are all whole numbers from 0 or 1 to at most 10,
    they fill it; else it is the first usual one that holds all: 0 to 1, -1 to 1, 0 to 5, 0 to 10,
    0 to 100.

    Raises:
        ValueError: a score is outside all of them, or all are in the lower half of 0 to 100.
    """
    scores = sorted((example.values["score"], example.where) for example in examples)
    (low, first), (high, last) = scores[0], scores[-1]
    steps = {score for score, _ in scores}
    every = 0 <= low <= 1 < high <= 10 and steps == {*range(int(low), int(high) + 1)}
    if every or (low, high) in RATINGS:
        return low, high
    fitting = [scale for scale in SCALES if scale[0] <= low and high <= scale[1]]
    if fitting and not 10 < high <= 50:
        return fitting[0]
    raise ValueError(
        f"the scores, from {low} ({first}) to {high} ({last}), fit none of the usual scales; give "
        "theirs, as in --scale 0 20"
    )


def scaled_score(example: Example, scale: tuple[float, float]) -> float:
    """The score of an example, brought to 0 to 1.

    Raises:
        ValueError: it is off the scale; the message names the file and the line.
    """
    (low, high), score = scale, example.values["score"]
    if not low <= score <= high:
        raise ValueError(
            f"{example.where}: the score {score} is not on the scale {low} to {high} (--scale)"
        )
    return (score - low) / (high - low)


def check(train: Sequence[Example], dev: Sequence[Example] = ()) -> list[str]:
    """What a careful person would remark about the data, one sentence each; empty is good news.

    Twins in the training data, the same text under two labels, texts of the training data in the
    development data, classes with a single example, classes that only one of the two parts has.
    """
    first: dict[tuple, Example] = {}
    twins, quarrels = [], []
    for example in train:
        other = first.setdefault(fingerprint(example), example)
        if other is not example:
            found = twins if other.truth == example.truth else quarrels
            found.append(f"{example.where} = {other.where}")
    leaks = [f"{e.where} = {first[k].where}" for e in dev if (k := fingerprint(e)) in first]
    remarks = {
        "training rows that repeat another": twins,
        "training rows that repeat another with another label": quarrels,
        "development rows that are also training rows, so the score is too good": leaks,
    }
    if train and "label" in train[0].values:
        counts, tested = count_classes(train), count_classes(dev or train)
        remarks |= {
            "there is nothing to learn, as all training rows have the class": (
                [*counts] if len(counts) == 1 else []
            ),
            "classes with a single training example": [n for n in counts if counts[n] == 1],
            "classes without any training example": [n for n in tested if n not in counts],
            "classes missing from the development data": [n for n in counts if n not in tested],
        }
    return [f"{remark}: {len(found)} ({some(found)})" for remark, found in remarks.items() if found]


def uneven(parts: Mapping[str, Sequence[Example]]) -> list[str]:
    """A class that has another share of two parts of the data, by more than chance makes of it.

    So it is where the parts are the first rows of a file that is sorted. Said are the class and the
    two parts that differ most; a difference counts from a tenth of the rows and five standard
    errors on.
    """
    counts = {part: count_classes(examples) for part, examples in parts.items()}
    found = []
    for one, other in combinations(counts, 2):
        n, m = sum(counts[one].values()), sum(counts[other].values())
        for label in {**counts[one], **counts[other]}:
            a, b = counts[one].get(label, 0), counts[other].get(label, 0)
            all_of_it = (a + b) / (n + m)
            error = (all_of_it * (1 - all_of_it) * (1 / n + 1 / m)) ** 0.5
            if abs(a / n - b / m) > max(0.1, 5 * error):
                shares = f"{a / n:.0%} of {one} but {b / m:.0%} of {other}"
                found.append((abs(a / n - b / m), label, shares))
    return [
        f"the class {label!r} is {shares}; if both were cut from a file that is sorted, shuffle it "
        "before cutting"
        for _, label, shares in sorted(found)[-1:]
    ]


def fingerprint(example: Example) -> tuple[str, ...]:
    """The texts of an example without case and spacing; two that are equal count as the same."""
    return tuple(" ".join(text.lower().split()) for text in example.texts)


# ---------------------------------------------------------------------------------------- splits


def split(
    examples: Sequence[Example], n: int, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Draw n of the examples: (those drawn, the others), each in file order.

    With classes, every class gives its share (as near as whole examples allow). Equal texts stay
    together, and so do all questions about one context (then there may be a few more than n): what
    is measured must not have been learnt.
    """
    alike = defaultdict(list)  # those that stay together
    for i, example in enumerate(examples):
        alike[example.values.get("context") or fingerprint(example)].append(i)
    if len(alike) == 1:  # all questions are about one context
        alike = {i: [i] for i in range(len(examples))}
    groups = defaultdict(list)
    for members in alike.values():
        groups[examples[members[0]].values.get("label")].append(members)
    places = []  # (how far into its shuffled class it comes, which)
    for number, name in enumerate(sorted(groups, key=str)):
        order = np.random.default_rng([seed, number]).permutation(len(groups[name])).tolist()
        places += [((rank + 0.5) / len(order), groups[name][i]) for rank, i in enumerate(order)]
    drawn: set[int] = set()
    for _, members in sorted(places):
        if len(drawn) < n:
            drawn.update(members)
    parts = [], []
    for i, example in enumerate(examples):
        parts[i not in drawn].append(example)
    return parts
