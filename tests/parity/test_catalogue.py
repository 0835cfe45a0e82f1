"""The catalogue: each mistake is named when it is planted, none when it is not in there."""

import random
import re

import pytest
import torch
from support.mutate import EDITS, EQUIVALENT, MODEL_SIDE, edited, survivors
from support.planted_mistakes import EXAMPLE, KINDS, outcome, possible
from support.sweeps import WHOLE
from support.unknown_mistakes import RIGHT, UNKNOWN, Attention
from torch import nn

from minibert.attention import MultiHeadSelfAttention
from minibert.encoder import EncoderLayer, FeedForward
from minibert.parity.catalogue import BY_KEY, CATALOGUE, read_mistakes
from minibert.parity.diagnosis import Judge, diagnose, precision
from minibert.parity.goldens import GOLDENS, Minibert, gather, golden_tolerance, read_goldens
from minibert.parity.probes import example, ragged_batch
from minibert.parity.replace import examine_code
from minibert.parity.report import compare, examine, model_of
from minibert.parity.steps import STEPS, Computation, model_inputs
from minibert.parity.whole import examine_whole
from minibert.trace import trace

NAMED = ("named", "tie")


def keys(diagnosis):
    return [{mistake.key for mistake in answer} for answer in diagnosis.answers]


def test_the_catalogue_is_complete_in_itself():
    assert len(BY_KEY) == len(CATALOGUE) >= 200, "two mistakes have one key"
    for mistake in CATALOGUE:
        assert mistake.title and mistake.effect and mistake.cure and mistake.section, mistake.key
        assert set(mistake.changes) <= {*STEPS, "weights"}, mistake.key
    covered = {mistake.section for kind in KINDS for mistake in possible(kind)}
    assert covered == {mistake.section for mistake in CATALOGUE}


def test_sources_are_threads_that_can_be_looked_up():
    threads = {m.key: re.findall(r"[\w.-]+/[\w.-]+#\d+", m.source) for m in CATALOGUE}
    assert sum(map(bool, threads.values())) >= 60
    for mistake in CATALOGUE:
        assert mistake.source.count("#") == len(threads[mistake.key]), mistake.source


def test_every_key_has_a_text_and_every_text_a_key(tmp_path):
    path = tmp_path / "mistakes.md"
    path.write_text("Hi\n\n## Part\n\n### one\na title\n- effect: it is\n  wrong\n- cure: mend\n")
    (mistake,) = read_mistakes(path, {"one": {}})
    assert (mistake.section, mistake.key, mistake.title) == ("Part", "one", "a title")
    assert (mistake.effect, mistake.cure, mistake.source) == ("it is wrong", "mend", "")
    with pytest.raises(ValueError, match="no text for two"):
        read_mistakes(path, {"one": {}, "two": {}})
    with pytest.raises(ValueError, match="text of 'one', for which there is no code"):
        read_mistakes(path, {})
    path.write_text(2 * path.read_text())
    with pytest.raises(ValueError, match="mistakes.md has two texts of 'one'"):
        read_mistakes(path, {"one": {}})


# ------------------------------------------------------------------------------------ planted


@pytest.mark.parametrize("kind", ["embeddings", "attention", "feed_forward", "pooler", "loss"])
def test_a_planted_mistake_is_named_first(kind):
    mistakes = possible(kind)
    some = random.Random(1).sample(mistakes, min(5, len(mistakes)))
    outcomes = {m.key: outcome(kind, (m,), torch.float32, pairs=False)[0] for m in some}
    assert set(outcomes.values()) <= {*NAMED, "missed"}, outcomes
    assert sum(result in NAMED for result in outcomes.values()) >= 4, outcomes


# Smaller than the rounding of some dumps: eps 1e-6 in the masked-LM head, and in bfloat16 the
# weights of a head rounded to float16. Nothing can name them there.
BELOW_THE_ROUNDING = {
    torch.float32: {"norm-eps-1e-06"},
    torch.bfloat16: {"norm-eps-1e-06", "float16-weights"},
}
UNSEEN = {"masked LM": {"norm-no-eps", "norm-eps-outside"}}  # its states are too large for an eps


@pytest.mark.slow
@pytest.mark.parametrize("rounding", BELOW_THE_ROUNDING)
@pytest.mark.parametrize("kind", KINDS)
def test_every_planted_mistake_is_named_and_none_wrongly(kind, rounding):
    """Every other one in float32, the others in bfloat16; fewer where each takes long.

    MINIBERT_ODD=1 plants them all in both, which takes minutes.
    """
    mistakes = possible(kind)
    if not WHOLE:
        step = 6 if kind in ("layer", "optimizer") else 2
        mistakes = mistakes[step // 2 * list(BELOW_THE_ROUNDING).index(rounding) :: step]
    found = {m.key: outcome(kind, (m,), rounding, pairs=False)[0] for m in mistakes}
    unnamed = {key: result for key, result in found.items() if result not in NAMED}
    assert unnamed.keys() <= BELOW_THE_ROUNDING[rounding] | UNSEEN.get(kind, set())
    assert set(unnamed.values()) <= {"missed"}


@pytest.mark.parametrize(
    "rounding", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind, planted", [
    ("embeddings", ("no-position", "no-embedding-norm")),
    ("feed_forward", ("relu", "no-contract-bias")),
    ("pooler", ("pooler-mean", "pooler-no-tanh")),
    ("optimizer", ("no-bias-correction", "betas-swapped")),
])
def test_a_planted_pair_is_named(kind, planted, rounding):
    result, diagnosis = outcome(kind, [BY_KEY[key] for key in planted], rounding)
    assert result in NAMED, diagnosis and str(diagnosis)


@pytest.mark.parametrize("kind, things", [
    *((kind, UNKNOWN[kind][:1]) for kind in ("feed_forward", "pooler")),
    *(pytest.param(kind, things[kind in ("feed_forward", "pooler") :], marks=pytest.mark.slow)
      for kind, things in UNKNOWN.items()),
])
def test_an_unknown_mistake_gets_no_name(kind, things):
    """Pairs in the large kinds take minutes."""
    for thing in things:
        report = examine_code({kind: thing}, pairs=kind not in ("attention", "layer"))
        assert not report.passed, thing
        assert not report.diagnosis.answers and "not in the catalogue" in str(report), str(report)


@pytest.mark.parametrize("kind", RIGHT)
def test_a_right_module_in_another_style_passes(kind):
    for thing in RIGHT[kind]:
        report = examine_code({kind: thing})
        assert report.passed, str(report)


# ----------------------------------------------------------------------------- told apart, or not


@pytest.mark.parametrize("planted, listed", [
    (("pooling-cls", "pooling-sum"),
     {"pooling-padding", "pooling-wrong-count", "pooling-sum-unmasked", "pooling-sum",
      "pooling-root-length", "pooling-without-ends", "pooling-without-cls", "pooling-without-sep",
      "pooling-layer-before"}),
    (("pooling-padding", "pooling-without-ends"),
     {"pooling-without-ends", "pooling-without-cls", "pooling-without-sep"}),
    (("pooling-wrong-count",), set()),
])
def test_what_a_mistake_hides_is_listed_and_nothing_else(planted, listed):
    _, diagnosis = outcome("pooling", [BY_KEY[key] for key in planted], torch.float32)
    assert diagnosis.answers == [(BY_KEY[planted[0]],)]
    assert {mistake.key for mistake in diagnosis.hidden[planted[0]]} == listed
    assert ("can't be seen until this is fixed: " in str(diagnosis)) == bool(listed)
    said = [key for key in listed if f"[{key}]" in str(diagnosis)]
    assert len(said) == min(len(listed), 3)
    assert ("; or 6 more" in str(diagnosis)) == (len(listed) == 9)
    named = BY_KEY[planted[0]].changes
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


def test_more_tensors_tell_apart_what_gives_the_same_output():
    def seen(key, *parts):
        changes = BY_KEY[key].changes
        wrong = Computation(EXAMPLE, changes=changes, dtype=torch.float32)
        names = ["embeddings", *(f"layers.0.attention.{part}" for part in parts)]
        return diagnose([Judge(EXAMPLE, {name: wrong[name] for name in names})])

    both = [{"query-key-swapped"}, {"scores-transposed"}]
    assert keys(seen("scores-transposed", "output")) == both
    assert keys(seen("scores-transposed", "query", "key", "output")) == both[1:]
    assert seen("no-key-bias", "output") is None  # the softmax does not see it
    assert keys(seen("no-key-bias", "query", "key", "value")) == [{"no-key-bias"}]


def test_position_ids_may_be_written_as_floats():
    wrong = Computation(EXAMPLE, changes=BY_KEY["no-segment"].changes, dtype=torch.float32)
    names = ["embeddings.position_ids", "embeddings.position", "embeddings.sum"]
    report = examine("", EXAMPLE, {name: wrong[name].float() for name in names}, pairs=False)
    assert keys(report.diagnosis) == [{"no-segment"}], str(report)


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
    assert keys(report.diagnosis) == [{"no-key-bias"}]
    report = examine_code({"layer": SmallEps}, pairs=False)
    assert keys(report.diagnosis) == [{"norm-eps-1e-06"}], str(report)
    report = examine_code({"attention": NotOneToken})
    assert not report.passed and "4, 1, 0, 3 and 2 tokens" in str(report)
    assert "RuntimeError: too short" in str(report)


def test_a_difference_on_padding_alone_is_no_fault_but_has_a_name():
    report = examine_code({"attention": MaskOnBothAxes})
    assert report.passed and report.diagnosis.harmless
    assert keys(report.diagnosis) == [{"mask-on-both"}] and "Only padding differs" in str(report)


class FusedSplitByHead(MultiHeadSelfAttention):
    """Query, key and value in one, cut head by head; but their weights lie one after the other."""

    def __init__(self, config):
        super().__init__(config)
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        del self.query, self.key, self.value

    def forward(self, hidden, mask):
        together = self.qkv(hidden).unflatten(2, (4, -1)).transpose(1, 2)  # (B, N, T, 3 D)
        query, key, value = together.chunk(3, -1)
        scores = query @ key.mT * self.head_size**-0.5 + mask
        return self.output(self.merge_heads(scores.softmax(-1) @ value))


class TanhGelu(FeedForward):
    def __init__(self, config):
        super().__init__(config)
        self.activation = nn.GELU(approximate="tanh")


def torch_eps(model):
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def no_last_norm(model):
    model.layers[-1].feed_forward_norm = nn.Identity()


@pytest.mark.parametrize("source, brought, key", [
    ("lucidrains/x-transformers#37", [torch_eps], "norm-eps-1e-05"),
    ("lucidrains/x-transformers#37", [no_last_norm], "no-final-norm"),
    ("lucidrains/x-transformers#37", [torch_eps, no_last_norm], "norm-eps-1e-05"),
    ("Oneflow-Inc/libai#205", {"attention": FusedSplitByHead}, "qkv-split-by-head"),
    ("dmlc/gluon-nlp#1203", {"feed_forward": TanhGelu}, "gelu-tanh"),
], ids=["eps", "norm", "both", "fused", "GELU"])
def test_what_others_searched_for_long_is_named_at_once(source, brought, key):
    assert source in BY_KEY[key].source
    if isinstance(brought, dict):
        report = examine_code(brought, EXAMPLE, pairs=False)
    else:
        model = model_of(EXAMPLE)
        for change in brought:
            change(model)
        with torch.no_grad(), trace(model) as tensors:
            model(**model_inputs(EXAMPLE.batch))
        report = examine("", EXAMPLE, tensors, pairs=False)
    assert report.diagnosis and keys(report.diagnosis) == [{key}], str(report)
    if len(brought) == 2:
        assert "does not explain: layers.1.feed_forward_norm" in str(report), str(report)


@pytest.mark.slow
def test_a_layer_called_twice_is_told_from_the_others_in_a_whole_model():
    inputs = example(layers=3)
    model = model_of(inputs)
    model.layers[2] = model.layers[1]
    report = examine_whole(model, inputs, pairs=False)
    assert keys(report.diagnosis) == [{"layer-from-another"}], str(report)
    assert "layer 2 has the weights of layer 1" in str(report) and "called twice" in str(report)


def test_precision_is_what_the_numbers_were_rounded_to():
    numbers = torch.randn(50, dtype=torch.float64)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        assert precision({"x": numbers.to(dtype).double()}) == dtype
    assert precision({"x": torch.tensor([0.5, float("-inf")])}) == torch.bfloat16


# --------------------------------------------------------------- mistakes in minibert's own modules


def own_tensors():
    """What minibert's modules give for the example, as they are now."""
    inputs = EXAMPLE._replace(batch=ragged_batch(EXAMPLE.config, (9, 4, 1)))
    model = model_of(inputs)
    with torch.no_grad(), trace(model) as tensors:
        model(**inputs.batch)
    return inputs, tensors


@pytest.mark.parametrize("method, old, new, key", [
    pytest.param(*edit, id=edit[-1], marks=[pytest.mark.slow] * (number % 6 > 0))
    for number, edit in enumerate(EDITS)
])
def test_a_mistake_in_our_own_source_is_caught_by_the_goldens_and_named_by_parity(
    method, old, new, key
):
    expected, batch, _ = read_goldens(GOLDENS)
    expected.pop("probe")
    with edited(method, old, new):
        inputs, tensors = own_tensors()
        mine = gather(Minibert(GOLDENS, torch.float64), batch)
        report = examine("", inputs, tensors, pairs=False)
    assert not compare("", mine, expected, golden_tolerance).passed
    assert report.passed if key.startswith("mlm") else {key} in keys(report.diagnosis), str(report)


def test_our_own_source_passes():
    assert examine("", *own_tensors()).passed, "the control of what stands above"


@pytest.mark.parametrize("mistakes", [
    MODEL_SIDE[::5], pytest.param(MODEL_SIDE, marks=pytest.mark.slow)], ids=["some", "all"])
def test_every_mistake_in_the_models_turns_the_goldens_red_or_is_equivalent(mistakes):
    assert set(survivors(mistakes)) == {m.key for m in mistakes} & EQUIVALENT.keys()


def test_a_transposed_weight_is_not_taken_for_the_weight_itself():
    """They lie at the same place and, if square, have the same shape."""
    name, cache = "layers.0.attention.query.weight", {}
    right = Computation(EXAMPLE, cache=cache).weight(name)
    turned = {"weights": lambda run, name: run.inputs.weights[name].T}
    assert torch.equal(Computation(EXAMPLE, changes=turned, cache=cache).weight(name), right.T)


def test_the_proofs_of_equivalence():
    assert EXAMPLE.config.hidden_act == "gelu"  # gelu-exact
    assert sorted(range(EXAMPLE.config.num_hidden_layers), key=str) == [0, 1]  # in text order
    wrong = Computation(EXAMPLE, changes=BY_KEY["no-key-bias"].changes)
    right = Computation(EXAMPLE)
    names = ["layers.0.attention.key", "layers.0.attention.probabilities"]
    assert (wrong[names[0]] - right[names[0]]).abs().max() > 0.1
    assert torch.allclose(wrong[names[1]], right[names[1]], rtol=0, atol=1e-12)
