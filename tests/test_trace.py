"""The trace: which tensors it names, that they are the right ones, that it leaves no trace."""

import pytest
import torch
import torch.nn.functional as F
from support.tiny import build, ragged_batch, tiny_config
from torch import nn

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

B, T, H, N, D, F_ = 4, 11, 32, 4, 8, 48
EMBEDDINGS = {
    "embeddings.word": (B, T, H),
    "embeddings.segment": (B, T, H),
    "embeddings.position": (T, H),
    "embeddings.sum": (B, T, H),
    "embeddings.norm": (B, T, H),
    "embeddings": (B, T, H),
}
LAYER = {
    "attention.query": (B, T, H),
    "attention.key": (B, T, H),
    "attention.value": (B, T, H),
    "attention.scores": (B, N, T, T),
    "attention.probabilities": (B, N, T, T),
    "attention.context": (B, T, H),
    "attention.output": (B, T, H),
    "attention_sum": (B, T, H),
    "attention_norm": (B, T, H),
    "feed_forward.expand": (B, T, F_),
    "feed_forward.activation": (B, T, F_),
    "feed_forward.contract": (B, T, H),
    "feed_forward_sum": (B, T, H),
    "feed_forward_norm": (B, T, H),
}
ENCODER = dict(EMBEDDINGS)
for i in (0, 1):
    ENCODER |= {f"layers.{i}.{name}": shape for name, shape in LAYER.items()}
POOLER = {"pooler.dense": (B, H), "pooler": (B, H)}
PREDICTIONS = {
    "predictions.dense": (B, T, H),
    "predictions.activation": (B, T, H),
    "predictions.norm": (B, T, H),
    "predictions": (B, T, 60),
}
NAMES = {
    BertModel: ENCODER | POOLER,
    BertForMaskedLM: ENCODER | PREDICTIONS | {"logits": (B, T, 60)},
    BertForNextSentencePrediction: ENCODER
    | POOLER
    | {"seq_relationship": (B, 2), "logits": (B, 2)},
    BertForPreTraining: ENCODER
    | POOLER
    | PREDICTIONS
    | {
        "seq_relationship": (B, 2),
        "prediction_logits": (B, T, 60),
        "seq_relationship_logits": (B, 2),
    },
    BertForSequenceClassification: ENCODER | POOLER | {"classifier": (B, 5), "logits": (B, 5)},
    BertForTokenClassification: ENCODER | {"classifier": (B, T, 5), "logits": (B, T, 5)},
    BertForQuestionAnswering: ENCODER
    | {"qa_outputs": (B, T, 2), "start_logits": (B, T), "end_logits": (B, T)},
}


def traced(model_class=BertModel, seed=0, gradients=False):
    """A model, its batch and what `trace` saw of it."""
    config = tiny_config(num_labels=5)
    model = build(model_class, config, seed)
    batch = ragged_batch(config)
    with trace(model, gradients) as tensors:
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
    _, _, tensors = traced(model_class)
    assert [(name, tuple(value.shape)) for name, value in tensors.items()] == list(
        NAMES[model_class].items()
    )


@pytest.mark.parametrize("model_class", NAMES)
def test_the_results_are_the_same_bits(model_class):
    model, batch, tensors = traced(model_class)
    with trace(model, gradients=True) as with_gradients:
        inside = model(**batch)
    outside = model(**batch)
    for a, b in zip(inside, outside, strict=True):
        assert torch.equal(a, b)
    for name, value in tensors.items():
        assert torch.equal(value, with_gradients[name])


def test_training_takes_the_same_path_with_a_trace():
    model, batch, _ = traced()
    model.train()
    torch.manual_seed(0)
    plain = model(**batch)[0]
    torch.manual_seed(0)
    with trace(model):
        assert torch.equal(model(**batch)[0], plain)


def test_values_are_those_of_the_formulas():
    """Each tensor recomputed from the ones before it, in torch's functions."""
    model, batch, t = traced()
    e = model.embeddings
    ids, types = batch["input_ids"], batch["token_type_ids"]
    expected = {
        "embeddings.word": e.word.weight[ids],
        "embeddings.segment": e.segment.weight[types],
        "embeddings.position": e.position.weight[:T],
        "embeddings.sum": t["embeddings.word"]
        + t["embeddings.segment"]
        + t["embeddings.position"],
        "embeddings": F.layer_norm(t["embeddings.sum"], (H,), e.norm.weight, e.norm.bias, 1e-12),
        "embeddings.norm": t["embeddings"],
    }
    mask = additive_mask(batch["attention_mask"], torch.float32)
    hidden = t["embeddings"]
    for i, layer in enumerate(model.layers):
        a, f = layer.attention, layer.feed_forward

        def seen(name, i=i):
            return t[f"layers.{i}.{name}"]

        def heads(x):
            return x.view(B, T, N, D).transpose(1, 2)

        query, key = heads(seen("attention.query")), heads(seen("attention.key"))
        context = seen("attention.probabilities") @ heads(seen("attention.value"))
        values = {
            "attention.query": F.linear(hidden, a.query.weight, a.query.bias),
            "attention.key": F.linear(hidden, a.key.weight, a.key.bias),
            "attention.value": F.linear(hidden, a.value.weight, a.value.bias),
            "attention.scores": query @ key.transpose(2, 3) * D**-0.5 + mask,
            "attention.probabilities": seen("attention.scores").softmax(-1),
            "attention.context": context.transpose(1, 2).reshape(B, T, H),
            "attention.output": F.linear(
                seen("attention.context"), a.output.weight, a.output.bias
            ),
            "attention_sum": seen("attention.output") + hidden,
            "attention_norm": F.layer_norm(
                seen("attention_sum"),
                (H,),
                layer.attention_norm.weight,
                layer.attention_norm.bias,
                1e-12,
            ),
            "feed_forward.expand": F.linear(
                seen("attention_norm"), f.expand.weight, f.expand.bias
            ),
            "feed_forward.activation": F.gelu(seen("feed_forward.expand")),
            "feed_forward.contract": F.linear(
                seen("feed_forward.activation"), f.contract.weight, f.contract.bias
            ),
            "feed_forward_sum": seen("feed_forward.contract") + seen("attention_norm"),
            "feed_forward_norm": F.layer_norm(
                seen("feed_forward_sum"),
                (H,),
                layer.feed_forward_norm.weight,
                layer.feed_forward_norm.bias,
                1e-12,
            ),
        }
        expected.update({f"layers.{i}.{name}": value for name, value in values.items()})
        hidden = seen("feed_forward_norm")
    pooler = model.pooler.dense
    expected["pooler.dense"] = F.linear(hidden[:, 0], pooler.weight, pooler.bias)
    expected["pooler"] = t["pooler.dense"].tanh()
    assert expected.keys() == t.keys()
    for name, value in expected.items():
        assert torch.equal(value, t[name]), name


@pytest.mark.parametrize("model_class", NAMES)
def test_the_last_ones_are_the_output(model_class):
    model, batch, tensors = traced(model_class)
    out = model(**batch)
    if model_class is BertModel:
        assert torch.equal(tensors["layers.1.feed_forward_norm"], out.last_hidden_state)
        assert torch.equal(tensors["pooler"], out.pooler_output)
    else:
        for name, value in out._asdict().items():
            assert torch.equal(tensors[name], value)


@pytest.mark.parametrize("model_class", NAMES)
def test_gradients_are_autograds(model_class):
    """Against ``torch.autograd.grad`` for tensors that other hooks caught in the same pass."""
    config = tiny_config(num_labels=5)
    model = build(model_class, config)
    batch = ragged_batch(config)
    caught = {}
    hooks = []
    for name, part in model.named_modules():
        if isinstance(part, (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Softmax, nn.GELU)):
            hooks.append(
                part.register_forward_hook(
                    lambda module, inputs, output, name=name: caught.update({name: output})
                )
            )
    with trace(model, gradients=True) as tensors:
        out = model(**batch)
        random = torch.Generator().manual_seed(0)
        loss = sum((o * torch.randn(o.shape, generator=random)).sum() for o in out)
        loss.backward(retain_graph=True)
    for hook in hooks:
        hook.remove()
    expected = torch.autograd.grad(loss, list(caught.values()))
    assert len(caught) > 20
    for name, gradient in zip(caught, expected, strict=True):
        assert torch.equal(tensors[f"{name.removeprefix('bert.')}.grad"], gradient), name
    plain = [name for name in tensors if not name.endswith(".grad")]
    assert plain == list(NAMES[model_class])
    assert {f"{name}.grad" for name in plain} == tensors.keys() - set(plain)


def test_gradients_of_what_goes_into_modules():
    """d loss / d context is the gradient of the output map's input; likewise scores and sums."""
    model, batch, _ = traced()
    caught = {}
    attention = model.layers[1].attention
    hooks = [
        attention.output.register_forward_pre_hook(
            lambda module, inputs: caught.update({"attention.context": inputs[0]})
        ),
        attention.probabilities.register_forward_pre_hook(
            lambda module, inputs: caught.update({"attention.scores": inputs[0]})
        ),
        model.layers[1].feed_forward_norm.register_forward_pre_hook(
            lambda module, inputs: caught.update({"feed_forward_sum": inputs[0]})
        ),
    ]
    with trace(model, gradients=True) as tensors:
        loss = (model(**batch).last_hidden_state ** 3).sum()
        loss.backward(retain_graph=True)
    for hook in hooks:
        hook.remove()
    for name, gradient in zip(
        caught, torch.autograd.grad(loss, list(caught.values())), strict=True
    ):
        assert torch.equal(tensors[f"layers.1.{name}.grad"], gradient)


def test_gradients_come_from_the_output_back():
    model, batch, _ = traced()
    with trace(model, gradients=True) as tensors:
        sum(field.sum() for field in model(**batch)).backward()
    order = [name for name in tensors if name.endswith(".grad")]
    places = [
        order.index(f"{name}.grad")
        for name in (
            "pooler",
            "layers.1.feed_forward_norm",
            "layers.1.attention.scores",
            "layers.0.attention_norm",
            "embeddings",
            "embeddings.sum",
        )
    ]
    assert places == sorted(places)


def test_what_the_loss_does_not_use_has_no_gradient():
    model, batch, _ = traced()
    with trace(model, gradients=True) as tensors:
        model(**batch).last_hidden_state.sum().backward()
    assert "pooler.grad" not in tensors
    assert "embeddings.grad" in tensors


def test_without_asking_there_are_no_gradients():
    model, batch, _ = traced()
    with trace(model) as tensors:
        model(**batch)[0].sum().backward()
    assert not any(name.endswith(".grad") for name in tensors)
    assert not any(value.requires_grad for value in tensors.values())


def test_under_no_grad():
    model, batch, tensors = traced()
    with torch.no_grad(), trace(model, gradients=True) as again:
        model(**batch)
    assert again.keys() == tensors.keys()


def test_the_hooks_go_away():
    model, batch, tensors = traced()
    assert hooks_of(model) == []
    before = dict(tensors)
    batch["input_ids"] = (batch["input_ids"] + 1) % 60
    model(**batch)
    assert tensors.keys() == before.keys()
    assert all(tensors[name] is before[name] for name in before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_hooks_go_away_after_an_error(error):
    model, _, _ = traced()
    with pytest.raises(error):
        with trace(model):
            assert hooks_of(model) != []
            raise error
    assert hooks_of(model) == []


def test_the_hooks_of_others_stay():
    model, batch, _ = traced()
    seen = []
    model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(1))
    with trace(model):
        model(**batch)
    model(**batch)
    assert len(seen) == 2


def test_a_second_pass_overwrites_the_first():
    model, batch, first = traced()
    with trace(model) as tensors:
        model(**batch)
        batch["input_ids"] = (batch["input_ids"] + 1) % 60
        model(**batch)
    assert tensors.keys() == first.keys()
    assert not torch.equal(tensors["embeddings"], first["embeddings"])


def test_a_part_of_a_model_can_be_traced():
    model, batch, whole = traced()
    layer = model.layers[0]
    with trace(layer) as tensors:
        layer(whole["embeddings"], additive_mask(batch["attention_mask"], torch.float32))
    assert list(tensors) == list(LAYER)
    assert all(torch.equal(tensors[name], whole[f"layers.0.{name}"]) for name in LAYER)


def test_without_a_pooler():
    config = tiny_config()
    model = BertModel(config, add_pooling_layer=False).eval()
    with trace(model) as tensors:
        model(**ragged_batch(config))
    assert list(tensors) == list(ENCODER)
