"""Weights and tensors of any layout are read as ours, and found by their numbers."""

import pytest
import torch

from minibert.parity.layouts import layouts, match_weights, weight_layouts
from minibert.parity.probes import example

INPUTS = example()  # 4 heads of 6
WEIGHTS, HEADS = INPUTS.weights, 4
Q, K, V = (WEIGHTS[f"layers.1.attention.{part}.weight"] for part in ("query", "key", "value"))
BIASES = [WEIGHTS[f"layers.1.attention.{part}.bias"] for part in ("query", "key", "value")]


def by_head(*weights):
    return torch.stack([weight.unflatten(0, (HEADS, -1)) for weight in weights], 1)


@pytest.mark.parametrize("theirs, parts, said", [
    (Q, ["query"], "(head * feature, in)"),
    (Q.T, ["query"], "(in, head * feature)"),
    (Q.unflatten(0, (HEADS, -1)), ["query"], "(head, feature, in)"),
    (Q.unflatten(0, (HEADS, -1)).mT, ["query"], "(head, in, feature)"),
    (torch.cat([Q, K, V]), ["query", "key", "value"], "(query/key/value * head * feature, in)"),
    (torch.cat([Q, K, V]).T, ["query", "key", "value"], "(in, query/key/value * head * feature)"),
    (torch.stack([K, Q, V]), ["key", "query", "value"], "(query/key/value, head * feature, in)"),
    (by_head(Q, K, V).flatten(0, 2), ["query", "key", "value"],
     "(head * query/key/value * feature, in)"),
    (torch.cat([K, V]), ["key", "value"], "(query/key/value * head * feature, in)"),
    (torch.cat(BIASES), ["query", "key", "value"], "(query/key/value * head * feature)"),
    (Q[6:12].T, ["query"], "(in, feature)"),
], ids=["as ours", "transposed", "by head", "by head (in, out)", "fused", "fused (in, out)",
        "stacked, key first", "interleaved", "key and value", "biases", "a head"])
def test_a_weight_is_found_by_its_numbers(theirs, parts, said):
    (match,) = match_weights({"w": theirs}, WEIGHTS, HEADS)["w"]
    kind = "bias" if "in" not in said else "weight"
    assert match.names == tuple(f"layers.1.attention.{part}.{kind}" for part in parts)
    assert str(match.layout) == said and match.exact
    assert match.head == (1 if said == "(in, feature)" else None)


def test_what_is_in_none_of_ours_matches_nothing_and_a_rounded_one_is_not_exact():
    found = match_weights({"new": torch.ones(24), "half": Q.to(torch.bfloat16)}, WEIGHTS, HEADS)
    assert found["new"] == [] and not found["half"][0].exact
    same = dict.fromkeys(["layers.0.attention.output.bias", "pooler.dense.bias"], torch.zeros(24))
    found = match_weights({"bias": torch.zeros(24)}, same, HEADS)["bias"]
    assert [match.names[0] for match in found] == list(same)


@pytest.mark.parametrize("shape", [(24, 24), (72, 24), (24, 72), (4, 3, 24, 6), (3, 24, 4, 6)])
def test_laid_out_and_read_again_it_is_the_same(shape):
    parts = 3 if 72 in shape or 3 in shape else 1
    name, random = "layers.0.attention.query.weight", torch.randn(parts, HEADS, 6, 24)
    found = weight_layouts(shape, name, (24, 24), HEADS, parts)
    assert found
    for layout in found:
        laid = layout.lay(random)
        assert laid.shape == shape
        torch.testing.assert_close(layout.read(laid).reshape(random.shape), random, rtol=0, atol=0)


def test_axes_of_size_1_do_not_count_and_the_nearest_layout_comes_first():
    states = {"text": 3, "token": 5, "feature": 8}
    assert [str(one) for one in layouts((5, 1, 3, 8), states)] == ["(token, text, feature)"]
    assert str(next(layouts((15, 8), states))) == "(text * token, feature)"
    assert list(layouts((3, 5, 9), states)) == []
    single = next(layouts((5, 8), {"text": 1, "token": 5, "feature": 8}))
    assert single.read(torch.ones(5, 8)).shape == (1, 5, 8)
    square = [str(one) for one in layouts((4, 4), {"out": 4, "in": 4})]
    assert square == ["(out, in)", "(in, out)"]
