import itertools
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minibert.training import metrics

OF_CLASSES = [metrics.accuracy, metrics.confusion_matrix, metrics.precision_recall_f1]
OF_CLASSES += [metrics.matthews_correlation]
CORRELATIONS = [metrics.pearson, metrics.spearman]
OF_NUMBERS = [*CORRELATIONS, metrics.mean_squared_error]
pytestmark = pytest.mark.filterwarnings("error")


# --- by hand ---

# Three cats, of which two are found; one dog, found; a cat taken for a dog.
LABELS, PREDICTIONS = ["cat", "cat", "cat", "dog"], ["cat", "dog", "cat", "dog"]


def test_classes_by_hand():
    assert metrics.accuracy(LABELS, PREDICTIONS) == 0.75
    assert metrics.confusion_matrix(LABELS, PREDICTIONS).tolist() == [[2, 1], [0, 1]]
    table = metrics.confusion_matrix(LABELS, PREDICTIONS, ["dog", "cat", "cow"]).tolist()
    assert table == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]
    precision, recall, f1 = metrics.precision_recall_f1(LABELS, PREDICTIONS)
    assert precision.tolist() == [1, 0.5] and recall.tolist() == [2 / 3, 1]
    assert f1.tolist() == [0.8, 2 / 3]
    assert metrics.precision_recall_f1(LABELS, PREDICTIONS, "micro") == (0.75, 0.75, 0.75)
    assert metrics.precision_recall_f1(LABELS, PREDICTIONS, "macro")[:2] == (0.75, (2 / 3 + 1) / 2)
    # (right · n - Σ actual · predicted) / √((n² - Σ actual²)(n² - Σ predicted²))
    assert metrics.matthews_correlation(LABELS, PREDICTIONS) == (3 * 4 - 8) / math.sqrt(6 * 8)


def test_numbers_by_hand():
    assert metrics.pearson([1, 2, 3], [2, 4, 6]) == 1
    assert metrics.pearson([1, 2, 3], [3, 2, 1]) == -1
    assert metrics.pearson([0, 1, 2, 3], [0, 1, 1, 0]) == 0
    assert metrics.spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == 1
    # 1 - 6 · (1 + 1 + 4) / (3 · 8)
    assert metrics.spearman(torch.tensor([1, 2, 3]), [2, 3, 1]) == -0.5
    assert metrics.mean_squared_error([1, 2, 3], [1, 4, 0]) == 13 / 3


# --- equal to scikit-learn and scipy ---

numbers_of_classes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1)


@pytest.mark.parity
@settings(max_examples=25, deadline=None)
@given(pairs=numbers_of_classes, text=st.booleans(), extra=st.booleans())
@example(pairs=[(1, 1), (1, 1)], text=False, extra=False)  # one class only
@example(pairs=[(0, 1), (0, 1)], text=False, extra=False)  # nothing right
@example(pairs=[(0, 1), (1, 1)], text=True, extra=True)  # one class predicted
def test_classes_as_scikit_learn_sees_them(pairs, text, extra):
    sk = pytest.importorskip("sklearn.metrics")
    labels, predictions = zip(*pairs, strict=True)
    if text:
        labels, predictions = [f"c{x}" for x in labels], [f"c{x}" for x in predictions]
    classes = sorted({*labels, *predictions}, reverse=True)
    if extra:
        classes.append("none" if text else 9)
    assert metrics.accuracy(labels, predictions) == sk.accuracy_score(labels, predictions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs about a single class
        table = sk.confusion_matrix(labels, predictions, labels=classes)
        matthews = sk.matthews_corrcoef(labels, predictions)
    assert np.array_equal(metrics.confusion_matrix(labels, predictions, classes), table)
    ours = metrics.matthews_correlation(labels, predictions)
    assert math.isclose(ours, matthews, rel_tol=1e-14, abs_tol=1e-15)
    for average in (None, "micro", "macro"):
        expected = sk.precision_recall_fscore_support(
            labels, predictions, average=average, labels=classes, zero_division=0
        )[:3]
        result = metrics.precision_recall_f1(labels, predictions, average, classes)
        assert np.allclose(result, expected, rtol=1e-14, atol=0)


finite = st.floats(-1e6, 1e6)
ties = st.integers(-3, 3).map(float)


@pytest.mark.parity
@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(st.tuples(ties | finite, ties | finite), min_size=2, max_size=30))
@example(pairs=[(0.1, 1.0), (0.1, 2.0), (0.1, 4.0)])  # constant
@example(pairs=[(0.1, 7.0), (0.1, 7.0)])
@example(pairs=[(1.0, 3.0), (2.0, 2.0)])  # two pairs
def test_numbers_as_scipy_sees_them(pairs):
    stats = pytest.importorskip("scipy.stats")
    sk = pytest.importorskip("sklearn.metrics")
    x, y = np.array(pairs).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs about constant input
        expected = stats.spearmanr(x, y).statistic, stats.pearsonr(x, y).statistic
    close = {"rel_tol": 0, "abs_tol": 1e-13}
    for ours, theirs in zip((metrics.spearman(x, y), metrics.pearson(x, y)), expected, strict=True):
        assert type(ours) is float
        assert math.isclose(ours, theirs, **close) or (math.isnan(ours) and math.isnan(theirs))
    error = metrics.mean_squared_error(x, y)
    assert math.isclose(error, sk.mean_squared_error(x, y), rel_tol=1e-14)


def test_a_constant_correlates_with_nothing():
    for constant, correlation in itertools.product(([0.1] * 3, [1e300] * 3), CORRELATIONS):
        assert math.isnan(correlation(constant, [1, 2, 3]))
        assert math.isnan(correlation([1, 2, 3], constant))


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_the_scale_of_the_numbers_does_not_matter(scale):
    x, y = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])
    expected = 3 / math.sqrt(84)  # Σ dx·dy = 1, Σ dx² = 14/3, Σ dy² = 2, hence 1 / √(28/3)
    assert math.isclose(metrics.pearson(scale * x, y), expected, rel_tol=1e-14)
    assert math.isclose(metrics.spearman(scale * x, y), 0.5, rel_tol=1e-14)


def test_rounding_never_takes_a_correlation_out_of_its_range():
    for x in np.random.default_rng(0).normal(size=(300, 5)):
        assert 1 - 1e-15 <= metrics.pearson(x, 3 * x + 1) <= 1


# --- what is refused ---


@pytest.mark.parametrize("metric", OF_CLASSES + OF_NUMBERS)
@pytest.mark.parametrize(
    "labels, predictions, words",
    [
        ([1, 2, 3], [1, 2], "3 labels, but 2 predictions"),
        ([], [], "no examples"),
        ([1.0, 2.0], [1.0, math.nan], "entry 1 is nan"),
        ([math.nan, 2.0], [1.0, 2.0], "entry 0 is nan"),
        ([1, 2], [[0.1, 0.9], [0.2, 0.8]], r"\(2,\) and \(2, 2\).*argmax"),
        (1, 1, r"\(\) and \(\)"),
        ([1, None], [1, 2], "object"),
        ([1, 2], ["1", "2"], "text"),
    ],
)
def test_what_cannot_be_measured_is_named(metric, labels, predictions, words):
    with pytest.raises(ValueError, match=f"(?i){words}"):
        metric(labels, predictions)


def test_other_refusals():
    for metric in OF_NUMBERS:
        with pytest.raises(ValueError, match="entry 1 is -inf"):
            metric([1, 2, 3], [1, -math.inf, 2])
    for correlation in CORRELATIONS:
        with pytest.raises(ValueError, match="at least two"):
            correlation([1], [1])
    with pytest.raises(ValueError, match="average='binary'.*'macro'"):
        metrics.precision_recall_f1([1], [1], "binary")
    with pytest.raises(ValueError, match=r"2 occurs, but the classes are \[0, 1\]"):
        metrics.confusion_matrix([0, 1], [1, 2], classes=[0, 1])
    with pytest.raises(ValueError, match=r"\[0, 1, 0\] contain one twice"):
        metrics.confusion_matrix([0, 1], [1, 1], classes=[0, 1, 0])


def test_only_numpy_is_imported():
    others = ("torch", "scipy", "sklearn")
    code = f"import runpy, sys; runpy.run_path({metrics.__file__!r})\n"
    code += f"sys.exit(any(name in sys.modules for name in {others}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_f1_of_several_labels_is_that_of_scikit_learn():
    sk = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    for _ in range(60):
        shape = draw.integers(1, 9), draw.integers(1, 5)
        truth, guesses = draw.random((2, *shape)) < draw.random()
        theirs = [sk.f1_score(truth, guesses, average=a, zero_division=0)
                  for a in ("micro", "macro")] if shape[1] > 1 else None  # fmt: skip
        if theirs:  # scikit-learn takes one column for two classes
            assert metrics.multilabel_f1(truth, guesses) == pytest.approx(theirs)
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(2,\); \(n, C\) twice"):
        metrics.multilabel_f1([0, 1], [0, 1])
