"""The trace: which tensors it names, their gradients, and that it leaves no trace.

That each tensor and each gradient is the right one is seen in ``parity/test_reference.py``: bit for
bit the reference's.
"""

import contextlib

import pytest
import torch
from support.tiny import build, ragged_batch, tiny_config

from minibert.attention import additive_mask
from minibert.heads import (
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from minibert.model import BertModel
from minibert.trace import trace

B, T, H, N = 4, 11, 32, 4
BTH, BNTT, BTF, BTV, BTC = (B, T, H), (B, N, T, T), (B, T, 48), (B, T, 60), (B, T, 5)
LAYER = {f"attention.{name}": BTH for name in ("query", "key", "value")}
LAYER |= {"attention.scores": BNTT, "attention.probabilities": BNTT}
LAYER |= dict.fromkeys(
    ["attention.context", "attention.output", "attention_sum", "attention_norm"], BTH
)
LAYER |= {"feed_forward.expand": BTF, "feed_forward.activation": BTF}
LAYER |= dict.fromkeys(["feed_forward.contract", "feed_forward_sum", "feed_forward_norm"], BTH)
ENCODER = {f"embeddings.{name}": BTH for name in ("word", "segment", "position", "sum", "norm")}
ENCODER |= {"embeddings.position": (T, H), "embeddings": BTH}
for i in (0, 1):
    ENCODER |= {f"layers.{i}.{name}": shape for name, shape in LAYER.items()}
POOLER = {"pooler.dense": (B, H), "pooler": (B, H)}
WORDS = {f"predictions.{name}": BTH for name in ("dense", "activation", "norm")}
WORDS["predictions"] = BTV
NEXT = {"seq_relationship": (B, 2)}
OUTPUT = {
    BertModel: POOLER,
    BertForMaskedLM: WORDS | {"logits": BTV},
    BertForNextSentencePrediction: POOLER | NEXT | {"logits": (B, 2)},
    BertForPreTraining: {
        **POOLER, **WORDS, **NEXT, "prediction_logits": BTV, "seq_relationship_logits": (B, 2)
    },
    BertForSequenceClassification: POOLER | {"classifier": (B, 5), "logits": (B, 5)},
    BertForTokenClassification: {"classifier": BTC, "logits": BTC},
    BertForQuestionAnswering: {
        "qa_outputs": (B, T, 2), "start_logits": (B, T), "end_logits": (B, T)
    },
}
NAMES = {model_class: ENCODER | output for model_class, output in OUTPUT.items()}


def traced(model_class=BertModel):
    """A model, its batch and what `trace` saw of it."""
    config = tiny_config(num_labels=5)
    model = build(model_class, config)
    batch = ragged_batch(config)
    with trace(model) as tensors:
        model(**batch)
    return model, batch, tensors


def hooks_of(model):
    """All hooks of all modules."""
    return [
        hook
        for part in model.modules()
        for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks)
        for hook in hooks
    ]


@pytest.mark.parametrize("model_class", NAMES)
def test_names_and_shapes_in_the_order_of_computation(model_class):
    model, batch, tensors = traced(model_class)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    assert list(shapes.items()) == list(NAMES[model_class].items())
    with trace(model, gradients=True) as again:
        inside = model(**batch)
    outside = model(**batch)._asdict()
    assert all(map(torch.equal, inside, outside.values()))  # a trace changes nothing
    assert all(torch.equal(value, again[name]) for name, value in tensors.items())
    if model_class is BertModel:
        hidden, pooled = outside.values()
        outside = {"layers.1.feed_forward_norm": hidden, "pooler": pooled}
    assert all(torch.equal(tensors[name], value) for name, value in outside.items())


def test_gradients_come_from_the_output_back():
    model, batch, _ = traced()
    with trace(model, gradients=True) as tensors:
        sum(field.sum() for field in model(**batch)).backward()
    order = [name for name in tensors if name.endswith(".grad")]
    assert {*order, *ENCODER, *POOLER} == tensors.keys()
    assert sorted(order) == sorted(f"{name}.grad" for name in ENCODER | POOLER)
    names = "pooler layers.1.feed_forward_norm layers.1.attention.scores layers.0.attention_norm"
    places = [order.index(f"{name}.grad") for name in f"{names} embeddings embeddings.sum".split()]
    assert places == sorted(places)


def test_only_what_the_loss_uses_and_one_asks_for_has_a_gradient():
    model, batch, _ = traced()
    with trace(model, gradients=True) as tensors:
        model(**batch).last_hidden_state.sum().backward()
    assert "pooler.grad" not in tensors and "embeddings.grad" in tensors
    with trace(model) as tensors:
        model(**batch)[0].sum().backward()
    assert not any(name.endswith(".grad") for name in tensors)
    assert not any(value.requires_grad for value in tensors.values())


def test_under_no_grad():
    model, batch, tensors = traced()
    with torch.no_grad(), trace(model, gradients=True) as again:
        model(**batch)
    assert again.keys() == tensors.keys()


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_hooks_go_away(error):
    model, batch, tensors = traced()
    before = dict(tensors)
    assert hooks_of(model) == []
    with pytest.raises(error) if error else contextlib.nullcontext(), trace(model):
        assert hooks_of(model) != []
        if error:
            raise error
    assert hooks_of(model) == []
    model((batch["input_ids"] + 1) % 60)
    assert all(tensors[name] is before[name] for name in tensors.keys() | before.keys())


def test_a_second_pass_overwrites_the_first_and_the_hooks_of_others_stay():
    model, batch, first = traced()
    seen = []
    model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(1))
    with trace(model) as tensors:
        model(**batch)
        batch["input_ids"] = (batch["input_ids"] + 1) % 60
        model(**batch)
    assert tensors.keys() == first.keys()
    assert not torch.equal(tensors["embeddings"], first["embeddings"])
    model(**batch)
    assert len(seen) == 3


def test_a_part_of_a_model_can_be_traced():
    model, batch, whole = traced()
    layer = model.layers[0]
    with trace(layer) as tensors:
        layer(whole["embeddings"], additive_mask(batch["attention_mask"], torch.float32))
    assert list(tensors) == list(LAYER)
    assert all(torch.equal(tensors[name], whole[f"layers.0.{name}"]) for name in LAYER)


