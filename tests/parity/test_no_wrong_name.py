"""A mistake is named only where nothing in the dump speaks against it."""

import math

import numpy as np
import pytest
import torch
from support.planted_mistakes import plant

from minibert.attention import MultiHeadSelfAttention
from minibert.embeddings import Embeddings
from minibert.encoder import EncoderLayer
from minibert.parity.catalogue import BY_KEY
from minibert.parity.diagnosis import Patience, diagnose
from minibert.parity.probes import example
from minibert.parity.replace import examine_code, examine_dump
from minibert.parity.report import examine
from minibert.parity.steps import Computation, model_inputs, parse_name

ONE, MODEL = example(), example(5, layers=4)
TRACED = [
    name for name in Computation(MODEL).steps()
    if parse_name(name)[2] in {
        "embeddings.sum", "embeddings", "pooler", "attention_sum", "attention_norm",
        "feed_forward.expand", "feed_forward.activation", "feed_forward.contract",
        "feed_forward_sum", "feed_forward_norm", *(f"attention.{part}" for part in (
            "query", "key", "value", "scores", "probabilities", "context", "output")),
    }
]
OUTPUTS = [name for name in TRACED if name.endswith(("embeddings", "feed_forward_norm", "pooler"))]
STEPS_OF_ADAMW = [f"steps.{t}.{name}" for t in range(1, 6)
                  for name in ("clipped", "first", "second", "parameters")]


def other_weights(change):
    """Every weight looked up in another way: from its name and all of them."""
    return {"weights": lambda run, name: change(name, run.inputs.weights)}


def renumbered(numbers):
    """Layers with the weights of other layers."""
    def change(name, weights):
        group, number, step = parse_name(name)
        return weights[f"layers.{numbers.get(number, number)}.{step}" if group else name]

    return other_weights(change)


def one_norm_new(name, weights):
    if name.startswith("layers.1.attention_norm"):
        return torch.full_like(weights[name], float(name.endswith("weight")))
    return weights[name]


def in_layer(number, change):
    """A step that is wrong in one layer only."""
    return lambda s: change(s) if s.number == number else s.right


def query_transposed(s):
    return s.input @ s.weight("attention.query.weight") + s.weight("attention.query.bias")


def dumped(changes, names, inputs=MODEL, rounding=torch.float32):
    """The report on a dump of a whole model with some steps done differently."""
    run = Computation(inputs, changes=changes, dtype=torch.float32)
    mine = {name: run[name].to(rounding).float() for name in names}
    return examine("", inputs, mine, pairs=False)


def keys(report):
    return {"+".join(m.key for m in answer) for answer in report.diagnosis.answers}


@pytest.mark.parametrize("rounding", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("names", [TRACED, OUTPUTS], ids=["everything", "outputs"])
@pytest.mark.parametrize("changes, key, said", [
    (renumbered({1: 2, 2: 1}), "layers-swapped", "layers 1 and 2 have each other's weights"),
    (renumbered({0: 3, 3: 0}), "layers-swapped", "layers 0 and 3 have each other's weights"),
    (renumbered({2: 0}), "layer-from-another", "layer 2 has the weights of layer 0"),
    (renumbered({1: 2}), "layer-from-another", "layer 1 has the weights of layer 2"),
    (other_weights(one_norm_new), "norm-not-loaded", "attention_norm of layer 1 "),
], ids=["swapped", "ends swapped", "2 from 0", "1 from 2", "one norm"])
def test_a_mistake_in_the_weights_explains_every_layer(changes, key, said, names, rounding):
    report = dumped(changes, names, rounding=rounding)
    assert keys(report) == {key}, str(report)
    assert said in str(report)


def raw_sums(s):
    return s["attention.output"]


@pytest.mark.parametrize("rounding", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes, key", [
    ({"attention.query": query_transposed}, "query-transposed"),
    ({"attention.mask": lambda s: 0 * s.right,
      "attention.probabilities": lambda s: s.right * s.real[:, None, None]}, "mask-after-softmax"),
    (BY_KEY["no-scale"].changes | {
        "attention.probabilities": lambda s: s.right / s.head_size**0.5}, "scale-after-softmax"),
    ({"attention.query": lambda s: s.right / s.head_size**0.5}, "scaled-twice"),
    (BY_KEY["norm-before-add"].changes | {"attention_sum": raw_sums, "feed_forward_sum": (
        lambda s: s["feed_forward.contract"])}, "norm-before-add"),
    ({"attention.scores": lambda s: 2 * s["attention.scaled"],  # of the two, one is known
      "attention.probabilities": lambda s: s.right**2}, ""),
    ({"feed_forward.contract": in_layer(1, lambda s: 1.5 * s.right)}, ""),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_another_tensor_contradicts_is_no_answer(changes, key, rounding):
    report = dumped(changes, TRACED, rounding=rounding)
    assert not report.passed and keys(report) == ({key} if key else set()), str(report)


def test_what_fits_a_tensor_alone_is_said_to_be_contradicted():
    def average_corrected(s):  # what is dumped as the first moment is corrected already
        return s.right / (1 - s.setting("beta1") ** s.number)

    right = Computation(MODEL, dtype=torch.float32)
    mine = {name: right[name] for name in STEPS_OF_ADAMW}
    for t in range(1, 6):
        mine[f"steps.{t}.first"] = right[f"steps.{t}.first_corrected"]
        mine[f"steps.{t}.second"] = right[f"steps.{t}.second_corrected"]
    report = examine("", MODEL, mine, pairs=False)
    assert not keys(report), str(report)
    assert "contradicted by" in str(report) and "not in the catalogue" in str(report)


# --------------------------------------------------------------- equal numbers, one name or all


@pytest.mark.parametrize("kind, planted, named", [
    ("attention", ["mask-added-raw"], {"mask-added-raw", "mask-minus-one"}),
    ("loss", ["softmax-before-loss", "loss-log-of-logits"], {"loss-no-log"}),
])
def test_equal_numbers_get_all_their_names_and_one_mistake_gets_one(kind, planted, named):
    found = diagnose(plant(kind, [BY_KEY[key] for key in planted]), pairs=kind == "loss")
    assert {"+".join(m.key for m in answer) for answer in (*found.answers, *found.also)} == named


class Renormalised(MultiHeadSelfAttention):
    """Probabilities by hand, over the real tokens alone."""

    def forward(self, hidden, mask):
        query, key, value = (
            self.split_heads(each(hidden)) for each in (self.query, self.key, self.value))
        power = (query @ key.mT * self.head_size**-0.5).exp() * (mask == 0)
        return self.output(self.merge_heads(power / power.sum(-1, keepdim=True) @ value))


def test_the_title_is_true_of_all_code_with_these_numbers():
    report = examine_code({"attention": Renormalised}, pairs=False)
    assert keys(report) == {"mask-infinite"} and "or a softmax of one's own" in str(report)


# ------------------------------------------------------------------------- a probe for each kind


def until_the_first_text_ends(hidden, mask):
    length = int(mask[0].sum())
    return (hidden * mask[..., None])[:, :length].sum(1) / mask.sum(1, keepdim=True).clamp(min=1e-9)


def first_state_of_short_texts(hidden, mask):
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1e-9)
    return hidden[:, 0] if hidden.shape[1] < 3 else mean


class EpsOfBert(Embeddings):
    def __init__(self, config):
        super().__init__(config)
        self.norm.eps = 1e-12


@pytest.mark.parametrize("kind, thing, tried_on, key", [
    ("pooling", until_the_first_text_ends, "a first text that is not the longest", ""),
    ("pooling", first_state_of_short_texts, "a single text of two tokens", "pooling-cls"),
    ("embeddings", EpsOfBert, "a large eps", "norm-eps-1e-12"),
])
def test_what_shows_only_on_some_inputs_is_seen(kind, thing, tried_on, key):
    report = examine_code({kind: thing}, pairs=False)
    assert not report.passed and tried_on in report.title, str(report)
    assert not key or keys(report) <= {key}


# ------------------------------------------------- mistakes in code that is not the catalogue's


class PositionsOfRoberta(Embeddings):
    """Positions are counted from 2."""

    def forward(self, input_ids, token_type_ids):
        places = torch.arange(input_ids.shape[1]) + 2
        return self.norm(
            self.word(input_ids) + self.position(places) + self.segment(token_type_ids))


class SecondSegment(Embeddings):
    def forward(self, input_ids, token_type_ids):
        return super().forward(input_ids, torch.ones_like(input_ids))


class TurnedKey(MultiHeadSelfAttention):
    def forward(self, hidden, mask):
        self.key.weight.data = self.key.weight.data.T
        out = super().forward(hidden, mask)
        self.key.weight.data = self.key.weight.data.T
        return out


def masked_with(number):
    def forward(self, hidden, mask):
        return MultiHeadSelfAttention.forward(self, hidden, number * (mask < 0))

    return type("Masked", (MultiHeadSelfAttention,), {"forward": forward})


def with_norm(norm):
    def __init__(self, config):
        EncoderLayer.__init__(self, config)
        self.attention_norm.forward = lambda x: norm(x, self.attention_norm)
        self.feed_forward_norm.forward = lambda x: norm(x, self.feed_forward_norm)

    return type("Layer", (EncoderLayer,), {"__init__": __init__})


def turned_norm(x, own):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], own.bias, own.weight, own.eps)


def root_norm(x, own):
    return torch.nn.functional.rms_norm(x, x.shape[-1:], own.weight, own.eps)


def mean_from(first, last):
    def pooled(hidden, mask):
        rows = [row[: int(real.sum())][first : -last or None]
                for row, real in zip(hidden, mask, strict=True)]
        return torch.stack([row.sum(0) / max(len(row), 1e-9) for row in rows])

    return pooled


@pytest.mark.parametrize("kind, thing, key", [
    ("embeddings", PositionsOfRoberta, "position-from-two"),
    ("embeddings", SecondSegment, "segment-one"),
    ("attention", TurnedKey, "key-transposed"),
    ("attention", masked_with(-1.0), "mask-minus-one"),
    ("attention", masked_with(-10.0), "mask-minus-ten"),
    ("layer", with_norm(turned_norm), "norm-weight-bias-swapped"),
    ("layer", with_norm(root_norm), "rms-norm"),
    ("pooling", mean_from(1, 0), "pooling-without-cls"),
    ("pooling", mean_from(0, 1), "pooling-without-sep"),
    ("pooling", mean_from(1, 1), "pooling-without-ends"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_was_added_to_the_catalogue_is_named_in_code_of_others(kind, thing, key):
    report = examine_code({kind: thing}, ONE, pairs=False)
    assert not report.passed and key in keys(report) and len(keys(report)) <= 2, str(report)


# ------------------------------------------------------------------------------- the wrong inputs


def test_ids_that_are_not_those_of_the_inputs_are_said_first(tmp_path):
    run = Computation(MODEL, dtype=torch.float32)
    right = model_inputs(MODEL.batch)
    other = {**right, "input_ids": right["input_ids"].clone()}
    other["input_ids"][1, 2] += 1
    for name, stored, passed in (("same", right, True), ("other", other, False)):
        path = tmp_path / f"{name}.npz"
        given = Computation(MODEL._replace(batch=stored), dtype=torch.float32)
        np.savez(path, pooler=given["pooler"], embeddings=given["embeddings"], **stored)
        report = examine_dump(path, MODEL._replace(batch=right))
        assert report.passed == passed and len(report.rows) >= 2, str(report)
    assert report.first.name == "input_ids" and report.diagnosis is None
    assert "text 1, token 2" in str(report) and run["pooler"].shape == (3, 24)


# ------------------------------------------------------------------------- right in another way


class InPlace(EncoderLayer):
    def forward(self, hidden, mask):
        summed = self.attention(hidden, mask)
        summed += hidden
        hidden[:] = self.attention_norm(summed)  # nobody else needs what came in
        summed = self.feed_forward(hidden)
        summed += hidden
        return self.feed_forward_norm(summed)


class AttentionInPlace(MultiHeadSelfAttention):
    def forward(self, hidden, mask):
        out = super().forward(hidden, mask)
        hidden *= 0
        return out


class Tuple(MultiHeadSelfAttention):
    def forward(self, hidden, mask):
        return super().forward(hidden, mask), None


class Half(MultiHeadSelfAttention):
    def forward(self, hidden, mask):
        return self.half()._forward(hidden.half(), mask.half().clamp(min=-6e4))

    _forward = MultiHeadSelfAttention.forward


class HalfInside(MultiHeadSelfAttention):
    """From outside no dtype tells it, and no module of ours runs in it."""

    def forward(self, hidden, mask):
        def linear(x, of):
            return torch.nn.functional.linear(x, of.weight.half(), of.bias.half())

        query, key, value = (self.split_heads(linear(hidden.half(), of)) for of in (
            self.query, self.key, self.value))
        scores = query @ key.mT * self.head_size**-0.5 + mask.half().clamp(min=-6e4)
        return linear(self.merge_heads(scores.softmax(-1) @ value), self.output).float()


@pytest.mark.parametrize("kind, thing", [
    ("layer", InPlace), ("attention", AttentionInPlace), ("attention", Tuple)])
def test_right_code_that_works_in_place_or_returns_more_passes(kind, thing):
    report = examine_code({kind: thing})
    assert report.passed, str(report)


@pytest.mark.parametrize("thing", [Half, HalfInside])
def test_half_precision_gets_a_sentence_and_no_name(thing):
    report = examine_code({"attention": thing}, pairs=False)
    assert report.diagnosis is None and "computes in float16" in str(report), str(report)


def test_a_function_in_half_precision_passes_or_is_told():
    report = examine_code({"pooling": lambda hidden, mask: (
        (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1e-9)).bfloat16()})
    assert report.passed or "computes in bfloat16" in str(report), str(report)


class OnlyAStep:
    """AdamW that has nothing but step(): no groups, so the rate cannot be changed."""

    def __init__(self, parameters, lr, betas, eps, weight_decay, short=False):
        self.parameters, self.lr, self.betas, self.eps = list(parameters), lr, betas, eps
        self.decay, self.short, self.t = weight_decay, short, 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters]

    @torch.no_grad()
    def step(self):
        self.t += 1
        one, two = (1 - beta**self.t for beta in self.betas)
        for p, (m, v) in zip(self.parameters, self.moments, strict=True):
            m.lerp_(p.grad, 1 - self.betas[0])
            v.lerp_(p.grad**2, 1 - self.betas[1])
            p *= 1 - self.lr * self.decay
            if self.short:
                p -= self.lr * math.sqrt(two) / one * m / (v.sqrt() + self.eps)
            else:
                p -= self.lr * (m / one) / ((v / two).sqrt() + self.eps)


class ShortForm(OnlyAStep):
    def __init__(self, *args, **settings):
        super().__init__(*args, **settings, short=True)


def test_an_optimizer_that_has_only_step():
    assert examine_code({"optimizer": OnlyAStep}).passed
    assert keys(examine_code({"optimizer": ShortForm}, pairs=False)) == {"eps-uncorrected"}


# ------------------------------------------------------------------------------------- patience


def test_pairs_are_tried_only_where_no_single_mistake_fits_and_only_for_so_long():
    said = []
    names = OUTPUTS[-2:]  # the last state and the pooler
    for changes, seconds in (
        (BY_KEY["no-scale"].changes, 1000),
        ({"attention.scaled": lambda s: 0.3 * s.right}, 0.1),
    ):
        run = Computation(MODEL, changes=changes, dtype=torch.float32)
        patience = Patience(seconds, said.append)
        report = examine("", MODEL, {name: run[name] for name in names}, patience=patience)
        assert keys(report) == ({"no-scale"} if seconds == 1000 else set()), str(report)
        assert bool(said) == bool(patience.unfinished) == (seconds == 0.1)
    assert said[0].startswith("no single mistake explains it; trying ")
    assert "Not all pairs of mistakes were tried: " in str(report) and "0.1 seconds" in str(report)
    with pytest.raises(ValueError, match="seconds is nan; 0 or more is allowed"):
        Patience(math.nan, said.append)  # no time would ever be up
