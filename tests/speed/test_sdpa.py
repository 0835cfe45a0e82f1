"""FusedAttention: the textbook's numbers, with masks, dropout, gradients; who looks sees it."""

import copy

import pytest
import torch
from support.small import SHAPES, bert
from support.tiny import ragged_batch

from minibert.speed.packed import pack
from minibert.speed.sdpa import FusedAttention, fuse
from minibert.trace import trace


def both(hidden_act="gelu", dtype=torch.float32):
    model = bert(hidden_act).to(dtype)
    return model, fuse(copy.deepcopy(model))


@pytest.mark.parametrize("hidden_act", SHAPES)
@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_states_and_gradients_of_the_textbook(hidden_act, dtype, close):
    """With padding right, left and between; of texts of padding alone the states."""
    model, fused = both(hidden_act, dtype)
    assert all(type(layer.attention) is FusedAttention for layer in fused.layers)
    assert fused.state_dict().keys() == model.state_dict().keys()
    batch = ragged_batch(model.config)
    full, mask = {**batch, "attention_mask": None}, batch["attention_mask"]
    holes = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    holes[:, 1] = True
    for inputs in (batch, full, *({**batch, "attention_mask": m} for m in
                                  (mask.flip(1), holes, torch.zeros_like(mask)))):  # fmt: skip
        states = [one(**inputs).last_hidden_state for one in (model, fused)]
        assert torch.allclose(*states, atol=close)
        if inputs["attention_mask"] is not None and not inputs["attention_mask"].any(1).all():
            continue
        grads = [torch.autograd.grad(s.square().sum(), one.layers[0].attention.key.weight)[0]
                 for s, one in zip(states, (model, fused), strict=True)]  # fmt: skip
        assert torch.allclose(*grads, atol=1000 * close, rtol=1e-3)


def test_half_precision_and_autocast():
    model, fused = both()
    batch = ragged_batch(model.config)
    batch["attention_mask"][0] = 0  # a text of padding alone
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        a, b = (one(**batch).last_hidden_state for one in (model, fused))
    assert b.isfinite().all() and (a - b)[1:].abs().mean() < 0.05
    with torch.no_grad():
        assert fused.bfloat16()(**batch).last_hidden_state.isfinite().all()


def test_dropout_while_training_and_only_then():
    attention = fuse(bert()).layers[0].attention
    attention.dropout.p = 0.5
    x = torch.randn(2, 5, 64)
    assert torch.equal(attention(x, None), attention(x, None))
    attention.train()
    assert not torch.equal(attention(x, None), attention(x, None))
    attention.dropout.p = 0.0
    assert torch.equal(attention(x, None), attention(x, None))


def test_a_packed_model_is_fused_too(monkeypatch):
    """Its softmax is another than the textbook's, but one of ours: the kernel stands for it."""
    calls, kernel = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention",
        lambda *args: calls.append(1) or kernel(*args),
    )  # fmt: skip
    model = fuse(pack(bert("gelu")))
    with torch.inference_mode():
        model(**ragged_batch(model.config))
    assert len(calls) == len(model.layers)


def test_who_looks_at_the_softmax_sees_it():
    """`trace` and hooks get the textbook's attention; so does another softmax."""
    model, fused = both()
    batch = ragged_batch(model.config)
    with torch.no_grad(), trace(model) as theirs, trace(fused) as ours:
        model(**batch), fused(**batch)
    assert theirs.keys() <= ours.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)
    before = fused(**batch).last_hidden_state
    fused.layers[0].attention.probabilities = torch.nn.Sigmoid()
    assert not torch.allclose(fused(**batch).last_hidden_state, before, atol=1e-2)
    fused.layers[0].attention.probabilities = torch.nn.Softmax(-1)
    hook = fused.layers[0].attention.dropout.register_forward_hook(lambda m, i, o: o * 0)
    assert not torch.allclose(fused(**batch).last_hidden_state, before, atol=1e-2)
    hook.remove()
    assert torch.equal(fused(**batch).last_hidden_state, before)
