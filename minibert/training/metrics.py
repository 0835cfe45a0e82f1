"""Metrics: how good predictions are, in numpy alone, with the values of scikit-learn and scipy.

Arguments are (labels, predictions), the truth first, one entry per example: lists, arrays or CPU
tensors of shape (n,). Labels are class numbers or strings; predictions are classes too, not logits.
Where a fraction is 0/0 (a class never predicted, say) it counts as 0, as in scikit-learn; the
correlation of a constant is undefined and NaN, as in scipy. Both without a warning.

Raises, for every function:
    ValueError: unequal lengths, no examples, more than one dimension, NaN or infinity, text against
        numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def accuracy(labels: Any, predictions: Any) -> float:
    """Return the share of predictions that equal their label, 0 to 1."""
    labels, predictions = _classes(labels, predictions)
    return float((labels == predictions).mean())


def confusion_matrix(labels: Any, predictions: Any, classes: Any = None) -> np.ndarray:
    """Return the counts, ``[i][j]`` = examples of class i that were predicted as class j.

    ``classes`` gives the order of rows and columns (C of them); without it they are the classes
    that occur, sorted.

    Shapes: (n,), (n,) -> (C, C) of int64.
    Raises:
        ValueError: a label or prediction is not among ``classes``.
    """
    labels, predictions = _classes(labels, predictions)
    occurring = np.unique(np.concatenate([labels, predictions])).tolist()
    order = occurring if classes is None else np.asarray(classes).tolist()
    position = {name: i for i, name in enumerate(order)}
    if len(position) < len(order):
        raise ValueError(f"the classes {order} contain one twice")
    if unknown := [name for name in occurring if name not in position]:
        raise ValueError(f"{unknown[0]!r} occurs, but the classes are {order}")
    table = np.zeros((len(order), len(order)), dtype=np.int64)
    for label, prediction in zip(labels.tolist(), predictions.tolist(), strict=True):
        table[position[label], position[prediction]] += 1
    return table


def precision_recall_f1(
    labels: Any, predictions: Any, average: str | None = None, classes: Any = None
) -> tuple[Any, Any, Any]:
    """Return (precision, recall, F1), each 0 to 1.

    Precision is the share right among those predicted as a class, recall among those that are of
    it, F1 their harmonic mean. ``average`` is ``None`` (an array with a value per class, in the
    order of ``classes``), ``"macro"`` (the plain mean over classes) or ``"micro"`` (all decisions
    pooled; with one class per example all three equal the accuracy).

    Shapes: (n,), (n,) -> three arrays (C,) or three floats.
    """
    if average not in (None, "micro", "macro"):
        raise ValueError(f"average={average!r}; use None, 'micro' or 'macro'")
    table = confusion_matrix(labels, predictions, classes)  # (C, C)
    right, actual, predicted = table.diagonal(), table.sum(axis=1), table.sum(axis=0)  # (C,) each
    if average == "micro":
        right, actual, predicted = right.sum(), actual.sum(), predicted.sum()
    precision, recall = _divide(right, predicted), _divide(right, actual)
    scores = precision, recall, _divide(2 * right, actual + predicted)
    return scores if average is None else tuple(float(score.mean()) for score in scores)


def multilabel_f1(labels: Any, predictions: Any) -> tuple[float, float]:
    """Return (micro, macro) F1 where an example may have several labels, or none.

    Micro pools all decisions; macro is the plain mean of the F1 of every label.

    Shapes: (n, C), (n, C) of 0 and 1 -> two floats.
    """
    labels, predictions = np.asarray(labels, bool), np.asarray(predictions, bool)
    if labels.ndim != 2 or labels.shape != predictions.shape:
        raise ValueError(f"shapes {labels.shape} and {predictions.shape}; (n, C) twice is needed")
    right = (labels & predictions).sum(axis=0)  # (C,)
    both = labels.sum(axis=0) + predictions.sum(axis=0)  # (C,)
    micro = _divide(2 * right.sum(), both.sum())
    return float(micro), float(_divide(2 * right, both).mean())


def matthews_correlation(labels: Any, predictions: Any) -> float:
    """Return Matthews' correlation, -1 to 1, for any number of classes; 0 where one side has one.

    Source: Gorodkin 2004, the coefficient R_K: the covariance of the two assignments of classes
        over the root of the product of their variances.
    """
    table = confusion_matrix(labels, predictions)
    n, right = float(table.sum()), float(table.trace())
    actual, predicted = table.sum(axis=1).astype(float), table.sum(axis=0).astype(float)  # (C,)
    covariance = right * n - actual @ predicted
    variances = (n * n - actual @ actual) * (n * n - predicted @ predicted)
    return float(covariance / np.sqrt(variances)) if variances else 0.0


def pearson(x: Any, y: Any) -> float:
    """Return Pearson's linear correlation, -1 to 1; NaN where x or y is constant.

    Raises:
        ValueError: also for fewer than two pairs.
    """
    x, y = _numbers(x, y)
    if len(x) < 2:
        raise ValueError("a correlation needs at least two pairs, and this is one")
    if (x == x[0]).all() or (y == y[0]).all():  # exactly: x - mean of a constant may be 1e-17
        return float("nan")
    x, y = _deviations(x), _deviations(y)
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def spearman(x: Any, y: Any) -> float:
    """Return Spearman's rank correlation, -1 to 1: Pearson's of the ranks, NaN for a constant.

    Equal values share the average of their ranks.

    Raises:
        ValueError: also for fewer than two pairs.
    """
    return pearson(*map(_ranks, _numbers(x, y)))


def mean_squared_error(targets: Any, predictions: Any) -> float:
    """Return the mean of the squared differences. Units: those of the targets, squared."""
    targets, predictions = _numbers(targets, predictions)
    return float(((targets - predictions) ** 2).mean())


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient, 0 where the denominator is 0."""
    return numerator / np.where(denominator == 0, 1, denominator)


def _ranks(x: np.ndarray) -> np.ndarray:
    """Return the ranks from 1, equal values sharing the average of theirs."""
    _, codes, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[codes]


def _deviations(x: np.ndarray) -> np.ndarray:
    """Return x less its mean, the largest scaled to 1: squares then neither overflow nor vanish."""
    x = x - x.mean()
    return x / abs(x).max()


def _classes(labels: Any, predictions: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays of classes that can be compared."""
    labels, predictions = _equally_long(labels, predictions)
    if (labels.dtype.kind == "U") != (predictions.dtype.kind == "U"):
        raise ValueError("labels and predictions must be both numbers or both text")
    return labels, predictions


def _numbers(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return both in float64."""
    x, y = _equally_long(x, y)
    if "U" in (x.dtype.kind, y.dtype.kind):
        raise ValueError("text came where numbers are needed")
    return x.astype(np.float64), y.astype(np.float64)


def _equally_long(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays of shape (n,), n at least 1, without NaN and infinity."""
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 1 or y.ndim != 1:
        raise ValueError(
            f"shapes {x.shape} and {y.shape}; one entry per example is needed "
            "(of logits, take argmax(-1) first)"
        )
    if len(x) != len(y):
        raise ValueError(f"{len(x)} labels, but {len(y)} predictions")
    if len(x) == 0:
        raise ValueError("no examples: there is nothing to measure")
    for values in (x, y):
        if values.dtype.kind not in "biufU":
            raise ValueError(f"entries of type {values.dtype}; numbers or strings are needed")
        if values.dtype.kind == "f" and (wrong := np.flatnonzero(~np.isfinite(values))).size:
            raise ValueError(f"entry {wrong[0]} is {values[wrong[0]]}; finite numbers are needed")
    return x, y
