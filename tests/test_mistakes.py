"""The catalogue: each mistake is named when it is planted, none when it is not in there."""

import random

import pytest
import torch
from mutate import EQUIVALENT, MODEL_SIDE, Goldens, planted
from planted_mistakes import EXAMPLE, KINDS, outcome, possible
from unknown_mistakes import RIGHT, UNKNOWN

from minibert.diagnosis import Judge, precision
from minibert.learner import check
from minibert.mistakes import BY_KEY, CATALOGUE
from minibert.steps import STEPS, Computation

NAMED = ("named", "tie")


def test_the_catalogue_is_complete_in_itself():
    assert len(CATALOGUE) >= 60
    assert len(BY_KEY) == len(CATALOGUE), "two mistakes have one key"
    for mistake in CATALOGUE:
        assert mistake.title and mistake.seen and mistake.cure, mistake.key
        assert set(mistake.changes) <= {*STEPS, "weights"}, mistake.key
        assert mistake.area


def some(kind, number):
    mistakes = possible(kind)
    return random.Random(1).sample(mistakes, min(number, len(mistakes)))


@pytest.mark.parametrize("rounding", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["embeddings", "attention", "feed_forward", "pooler", "loss"])
def test_a_planted_mistake_is_named_first(kind, rounding):
    outcomes = {m.key: outcome(kind, (m,), rounding)[0] for m in some(kind, 5)}
    assert set(outcomes.values()) <= {*NAMED, "hidden"}, outcomes
    assert sum(result in NAMED for result in outcomes.values()) >= 4, outcomes


@pytest.mark.parametrize("rounding", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "kind, keys",
    [
        ("embeddings", ("no-position", "no-embedding-norm")),
        ("feed_forward", ("relu", "no-contract-bias")),
        ("pooler", ("pooler-mean", "pooler-no-tanh")),
        ("optimizer", ("no-bias-correction", "betas-swapped")),
    ],
)
def test_a_planted_pair_is_named(kind, keys, rounding):
    result, diagnosis = outcome(kind, [BY_KEY[key] for key in keys], rounding)
    assert result in NAMED, diagnosis and str(diagnosis)


@pytest.mark.parametrize("kind", ["feed_forward", "embeddings", "pooler", "pooling", "loss",
                                  "optimizer"])
def test_an_unknown_mistake_gets_no_name(kind):
    for thing in UNKNOWN[kind]:
        report = check({kind: thing})
        assert not report.passed, thing
        assert report.diagnosis is not None and not report.diagnosis.answers, str(report)


def test_an_unknown_mistake_in_the_attention_gets_no_name():
    report = check({"attention": UNKNOWN["attention"][0]}, pairs=False)
    assert not report.passed and not report.diagnosis.answers
    assert "not in the catalogue" in str(report)


@pytest.mark.parametrize("kind", RIGHT)
def test_a_right_module_in_another_style_passes(kind):
    for thing in RIGHT[kind]:
        report = check({kind: thing})
        assert report.passed, str(report)


def test_an_invisible_mistake_shows_in_the_intermediates():
    config, weights, batch = EXAMPLE
    changes = BY_KEY["no-key-bias"].changes
    wrong = Computation(config, weights, batch, changes=changes, dtype=torch.float32)
    output = {name: wrong[name] for name in ("embeddings", "layers.0.attention.output")}
    assert Judge(config, weights, batch, output).diagnose() is None
    parts = ["embeddings", *(f"layers.0.attention.{part}" for part in ("query", "key", "value"))]
    answers = Judge(config, weights, batch, {n: wrong[n] for n in parts}).diagnose().answers
    assert answers == [(BY_KEY["no-key-bias"],)]


def test_what_gives_the_same_numbers_is_named_together_and_told_apart_by_more_tensors():
    config, weights, batch = EXAMPLE
    changes = BY_KEY["scores-transposed"].changes
    wrong = Computation(config, weights, batch, changes=changes, dtype=torch.float32)
    names = ["embeddings", "layers.0.attention.output"]
    seen = Judge(config, weights, batch, {name: wrong[name] for name in names}).diagnose()
    assert {m.key for (m,) in seen.answers} == {"scores-transposed", "query-key-swapped"}
    names += ["layers.0.attention.query", "layers.0.attention.key"]
    seen = Judge(config, weights, batch, {name: wrong[name] for name in names}).diagnose()
    assert {m.key for (m,) in seen.answers} == {"scores-transposed"}


def test_precision_is_what_the_numbers_were_rounded_to():
    numbers = torch.randn(50, dtype=torch.float64)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        assert precision({"x": numbers.to(dtype).double()}) == dtype
    assert precision({"x": torch.tensor([0.5, float("-inf")])}) == torch.bfloat16


def test_every_mistake_in_the_models_turns_the_goldens_red_or_is_equivalent():
    """The mutation test, on every third mistake; ``python tests/mutate.py`` puts in all."""
    goldens = Goldens()
    with planted({}):
        assert goldens.report().passed, "the control"
    for mistake in MODEL_SIDE[::3]:
        with planted(mistake.changes):
            try:
                noticed = not goldens.report().passed
            except (RuntimeError, IndexError):
                noticed = True
        assert noticed != (mistake.key in EQUIVALENT), mistake.key


def test_the_proofs_of_equivalence():
    config, weights, batch = EXAMPLE
    assert config.hidden_act == "gelu"  # gelu-exact
    assert sorted(range(config.num_hidden_layers), key=str) == [0, 1]  # layers-in-text-order
    wrong = Computation(config, weights, batch, changes=BY_KEY["no-key-bias"].changes)
    right = Computation(config, weights, batch)
    names = ["layers.0.attention.key", "layers.0.attention.probabilities"]
    assert (wrong[names[0]] - right[names[0]]).abs().max() > 0.1
    assert torch.allclose(wrong[names[1]], right[names[1]], rtol=0, atol=1e-12)


def test_kinds_cover_every_area():
    covered = {mistake.area for kind in KINDS for mistake in possible(kind)}
    assert covered == {mistake.area for mistake in CATALOGUE}


