"""The catalogue: each mistake is named when it is planted, none when it is not in there."""

import random

import pytest
import torch
from support.mutate import EQUIVALENT, MODEL_SIDE, Goldens, planted
from support.planted_mistakes import EXAMPLE, KINDS, outcome, possible
from support.unknown_mistakes import RIGHT, UNKNOWN, Attention

from minibert.attention import MultiHeadSelfAttention
from minibert.encoder import EncoderLayer
from minibert.parity.catalogue import BY_KEY, CATALOGUE
from minibert.parity.diagnosis import Judge, diagnose, precision
from minibert.parity.replace import examine_code
from minibert.parity.steps import STEPS, Computation

NAMED = ("named", "tie")


def test_the_catalogue_is_complete_in_itself():
    assert len(BY_KEY) == len(CATALOGUE) >= 178, "two mistakes have one key"
    for mistake in CATALOGUE:
        assert mistake.title and mistake.effect and mistake.cure, mistake.key
        assert set(mistake.changes) <= {*STEPS, "weights"}, mistake.key
        assert mistake.section, mistake.key


def some(kind, number):
    mistakes = possible(kind)
    return random.Random(1).sample(mistakes, min(number, len(mistakes)))


@pytest.mark.parametrize("rounding", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["embeddings", "attention", "feed_forward", "pooler", "loss"])
def test_a_planted_mistake_is_named_first(kind, rounding):
    outcomes = {m.key: outcome(kind, (m,), rounding, pairs=False)[0] for m in some(kind, 5)}
    assert set(outcomes.values()) <= {*NAMED, "missed"}, outcomes
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
        report = examine_code({kind: thing})
        assert not report.passed, thing
        assert report.diagnosis is not None and not report.diagnosis.answers, str(report)


@pytest.mark.parametrize(
    "keys, listed",
    [
        (("pooling-cls", "pooling-sum"),
         {"pooling-padding", "pooling-wrong-count", "pooling-sum-unmasked", "pooling-sum",
          "pooling-root-length", "pooling-without-ends", "pooling-layer-before"}),
        (("pooling-padding", "pooling-without-ends"), {"pooling-without-ends"}),
        (("pooling-wrong-count",), set()),
    ],
)
def test_what_a_mistake_hides_is_listed_and_nothing_else(keys, listed):
    _, diagnosis = outcome("pooling", [BY_KEY[key] for key in keys], torch.float32)
    assert diagnosis.answers == [(BY_KEY[keys[0]],)]
    assert {mistake.key for mistake in diagnosis.hidden[keys[0]]} == listed
    assert ("fix it and run again" in str(diagnosis)) == bool(listed)
    assert all(f"[{key}]" in str(diagnosis) for key in listed)
    named = BY_KEY[keys[0]].changes
    alone = Computation(EXAMPLE, changes=named)
    for mistake in possible("pooling"):  # derived anew: those that change no number beside it
        if not named.keys() & mistake.changes.keys():
            both = Computation(EXAMPLE, changes={**mistake.changes, **named})
            same = all(torch.equal(both[name], alone[name]) for name in ("pooling", "sentence"))
            assert same == (mistake.key in listed), mistake.key


def test_a_pair_that_gives_what_a_single_one_gives_is_said():
    pair = [BY_KEY["pooling-wrong-count"], BY_KEY["pooling-sum-unmasked"]]
    result, diagnosis = outcome("pooling", pair, torch.float32)
    assert result == "tie" and diagnosis.answers == [(BY_KEY["pooling-padding"],)]
    assert diagnosis.also == [tuple(pair)] and "both of these at once" in str(diagnosis)


class KeyBiasUnused(Attention):
    def forward(self, hidden, mask):
        query, key, value = (self.split_heads(hidden @ linear.weight.T) for linear in (
            self.query, self.key, self.value))
        query, value = (x + self.split_heads(linear.bias[None, None]) for x, linear in (
            (query, self.query), (value, self.value)))
        return self.output(self.merge_heads((self.score(query, key) + mask).softmax(-1) @ value))


class MaskOnBothAxes(MultiHeadSelfAttention):
    def forward(self, hidden, mask):
        return super().forward(hidden, torch.minimum(mask, mask.transpose(-1, -2)))


class SmallEps(EncoderLayer):
    def __init__(self, config):
        super().__init__(config)
        self.attention_norm.eps = self.feed_forward_norm.eps = 1e-6


class NotOneToken(MultiHeadSelfAttention):
    def forward(self, hidden, mask):
        if hidden.shape[1] < 5:
            raise RuntimeError("too short")
        return super().forward(hidden, mask)


def test_what_the_example_does_not_show_shows_on_other_inputs():
    report = examine_code({"attention": KeyBiasUnused})
    assert not report.passed and "tried on a key bias that is not a number" in report.title
    assert report.diagnosis.answers == [(BY_KEY["no-key-bias"],)]
    report = examine_code({"layer": SmallEps}, pairs=False)
    assert report.diagnosis.answers == [(BY_KEY["norm-eps-1e-06"],)], str(report)
    report = examine_code({"attention": NotOneToken})
    assert not report.passed and "4, 1, 0, 3 and 2 tokens" in str(report)
    assert "RuntimeError: too short" in str(report)


def test_a_difference_on_padding_alone_is_no_fault_but_has_a_name():
    report = examine_code({"attention": MaskOnBothAxes})
    assert report.passed and report.diagnosis.harmless
    assert report.diagnosis.answers == [(BY_KEY["mask-on-both"],)]
    assert "Only padding differs" in str(report)


def test_an_unknown_mistake_in_the_attention_gets_no_name():
    report = examine_code({"attention": UNKNOWN["attention"][0]}, pairs=False)
    assert not report.passed and not report.diagnosis.answers
    assert "not in the catalogue" in str(report)


@pytest.mark.parametrize("kind", RIGHT)
def test_a_right_module_in_another_style_passes(kind):
    for thing in RIGHT[kind]:
        report = examine_code({kind: thing})
        assert report.passed, str(report)


def test_an_invisible_mistake_shows_in_the_intermediates():
    config, weights, batch = EXAMPLE
    changes = BY_KEY["no-key-bias"].changes
    wrong = Computation(EXAMPLE, changes=changes, dtype=torch.float32)
    output = {name: wrong[name] for name in ("embeddings", "layers.0.attention.output")}
    assert diagnose([Judge(EXAMPLE, output)]) is None
    parts = ["embeddings", *(f"layers.0.attention.{part}" for part in ("query", "key", "value"))]
    answers = diagnose([Judge(EXAMPLE, {n: wrong[n] for n in parts})]).answers
    assert answers == [(BY_KEY["no-key-bias"],)]


def test_what_gives_the_same_numbers_is_named_together_and_told_apart_by_more_tensors():
    config, weights, batch = EXAMPLE
    changes = BY_KEY["scores-transposed"].changes
    wrong = Computation(EXAMPLE, changes=changes, dtype=torch.float32)
    names = ["embeddings", "layers.0.attention.output"]
    seen = diagnose([Judge(EXAMPLE, {name: wrong[name] for name in names})])
    assert {m.key for (m,) in seen.answers} == {"scores-transposed", "query-key-swapped"}
    names += ["layers.0.attention.query", "layers.0.attention.key"]
    seen = diagnose([Judge(EXAMPLE, {name: wrong[name] for name in names})])
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
    wrong = Computation(EXAMPLE, changes=BY_KEY["no-key-bias"].changes)
    right = Computation(EXAMPLE)
    names = ["layers.0.attention.key", "layers.0.attention.probabilities"]
    assert (wrong[names[0]] - right[names[0]]).abs().max() > 0.1
    assert torch.allclose(wrong[names[1]], right[names[1]], rtol=0, atol=1e-12)


def test_kinds_cover_every_section():
    covered = {mistake.section for kind in KINDS for mistake in possible(kind)}
    assert covered == {mistake.section for mistake in CATALOGUE}


