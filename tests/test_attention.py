"""Attention with numbers one can follow, and the mask.

That the numbers are the reference's, in training too, is seen in ``parity/test_reference.py``.
"""

import math

import pytest
import torch
from support.tiny import build, in_reference, tiny_config
from torch import nn

from minibert.attention import MultiHeadSelfAttention, additive_mask
from minibert.io.checkpoint import official_name
from minibert.model import BertModel

LN3 = math.log(3)  # e^0 and e^ln3 are 1 and 3: a softmax of 1/4 and 3/4


def by_hand(hidden_size: int, heads: int, **parameters: object) -> MultiHeadSelfAttention:
    """Attention in which every parameter is zero but those given, in float64."""
    config = tiny_config(hidden_size=hidden_size, num_attention_heads=heads)
    attention = MultiHeadSelfAttention(config).double().eval()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.zero_()
        for name, value in parameters.items():
            attention.get_parameter(name.replace("_", ".")).copy_(torch.as_tensor(value))
    return attention


def batch_of_one(*tokens: tuple) -> torch.Tensor:
    """(1, T, H) in float64."""
    return torch.tensor([tokens], dtype=torch.float64)


def close(actual: torch.Tensor, expected: object) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


# ------------------------------------------------------------------------------- by hand


ONE = {  # every query is 1; the keys 0 and ln 3 weigh 1/4 and 3/4; the values are 0 and 4
    "query_bias": [1.0],
    "key_weight": [[LN3]],
    "value_weight": [[4.0]],
    "output_weight": [[1.0]],
}


def test_one_head_by_hand():
    attention = by_hand(1, 1, **ONE | {"output_weight": [[2.0]], "output_bias": [1.0]})
    close(attention(batch_of_one((0,), (1,)), None), [[[7.0], [7.0]]])  # context 3


def test_each_query_has_its_own_weights():
    # The queries are 0 and 1: weights (1/2, 1/2) and (1/4, 3/4).
    attention = by_hand(1, 1, **ONE | {"query_bias": [0.0], "query_weight": [[1.0]]})
    close(attention(batch_of_one((0,), (1,)), None), [[[2.0], [3.0]]])


def test_scores_are_divided_by_the_root_of_the_head_size():
    eye = torch.eye(8)
    query = [2.0, 0, 0, 0, 4, 0, 0, 0]  # D = 4, so the scores are halved
    attention = by_hand(
        8, 2, query_bias=query, key_weight=eye * LN3, value_weight=eye, output_weight=eye
    )
    out = attention(batch_of_one((0,) * 8, (1,) * 8), None)
    # Head 0: 2 ln 3 / 2, weights 1 : 3. Head 1: 4 ln 3 / 2, weights 1 : 9.
    close(out[0, 0], [0.75] * 4 + [0.9] * 4)


def test_a_padded_key_weighs_nothing():
    mask = additive_mask(torch.tensor([[1, 1, 0]]), torch.float64)
    out = by_hand(1, 1, **ONE)(batch_of_one((0,), (1,), (50,)), mask)
    close(out[0, :2], [[3.0], [3.0]])


# ------------------------------------------------------------------------------- the mask


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.int32, torch.uint8, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_additive_mask(kind, dtype):
    given = torch.tensor([[1, 1, 0], [1, 0, 0]]).to(kind)
    before = given.clone()
    mask = additive_mask(given, dtype)
    lowest = torch.finfo(dtype).min
    assert mask.dtype == dtype
    assert mask.shape == (2, 1, 1, 3)
    assert mask.flatten().tolist() == [0, 0, lowest, 0, lowest, lowest]
    assert torch.equal(given, before)


def test_a_row_of_padding_alone_attends_to_all_alike():
    attention, seen = build(MultiHeadSelfAttention, tiny_config()), []
    attention.probabilities.register_forward_hook(lambda m, inputs, output: seen.append(output))
    hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    mask = additive_mask(torch.tensor([[0] * 5, [1, 1, 1, 0, 0]]), torch.float32)
    assert attention(hidden, mask).isfinite().all()
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(2, 4, 5))  # (B, N, T)
    assert torch.allclose(seen[0][0], torch.tensor(0.2))
    assert seen[0][1, :, :, 3:].abs().max() == 0


@pytest.mark.parity
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("heads", [1, 2, 8, 32], ids=lambda n: f"{n} heads of {32 // n}")
def test_every_part_gets_the_reference_s_numbers_in_its_layout(heads, dtype):
    """Bits and strides: a product over other strides may take another path on another machine."""
    model = build(BertModel, tiny_config(num_attention_heads=heads), dtype=dtype)
    theirs = in_reference(model)
    seen = {"ours": {}, "theirs": {}}
    for name, part in model.named_modules():
        if isinstance(part, (nn.Linear, nn.LayerNorm)):
            module = official_name(f"{name}.weight").removesuffix(".weight")
            for side, watched in (("ours", part), ("theirs", theirs.get_submodule(module))):
                watched.register_forward_hook(
                    lambda _, given, out, of=seen[side], name=name: of.update({name: (*given, out)})
                )
    for B, T in ((1, 1), (1, 7), (3, 1), (3, 7), (2, 40)):
        ids = torch.arange(B * T).view(B, T) % 60
        mask = torch.arange(T).expand(B, T) <= torch.arange(B)[:, None] + T - B
        with torch.no_grad():
            model(ids, mask.long())
            theirs(ids, mask.long())
        assert seen["ours"].keys() == seen["theirs"].keys()
        for name, tensors in seen["ours"].items():
            for a, b in zip(tensors, seen["theirs"][name], strict=True):
                assert torch.equal(a, b), (name, B, T)
                wide = [i for i, n in enumerate(a.shape) if n > 1]  # of the others it says nothing
                assert [a.stride(i) for i in wide] == [b.stride(i) for i in wide], (name, B, T)
