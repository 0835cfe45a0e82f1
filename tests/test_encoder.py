"""Feed-forward network and layer: activations by formula, the order of norm and residual.

That the numbers are the reference's, in training too, is seen in ``parity/test_reference.py``.
"""

import math

import pytest
import torch
from support.tiny import tiny_config

from minibert.encoder import EncoderLayer, FeedForward, TanhGELU, activation

X = [-5.0, -3.0, -1.0, -0.5, 0.0, 1e-3, 0.7, 1.0, 2.0, 4.0]


def exact_gelu(x: float) -> float:
    """x · P(a standard normal number is below x)."""
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def tanh_gelu(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FORMULAS = {
    "gelu": exact_gelu,
    "gelu_new": tanh_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "relu": lambda x: max(x, 0.0),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_activation_is_the_formula_it_names(name):
    out = activation(name)(torch.tensor(X, dtype=torch.float64))
    expected = torch.tensor([FORMULAS[name](x) for x in X], dtype=torch.float64)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-14)


def test_the_two_forms_of_gelu_differ_by_as_much_as_the_docstring_says():
    x = torch.linspace(-6, 6, 12001, dtype=torch.float64)
    assert 4.6e-4 < (TanhGELU()(x) - activation("gelu")(x)).abs().max() < 4.8e-4


def test_feed_forward_by_hand():
    config = tiny_config(
        hidden_size=1, num_attention_heads=1, intermediate_size=2, hidden_act="relu"
    )
    feed_forward = FeedForward(config)
    with torch.no_grad():
        feed_forward.expand.weight.copy_(torch.tensor([[1.0], [-1.0]]))  # x and -x
        feed_forward.expand.bias.copy_(torch.tensor([0.0, 5.0]))
        feed_forward.contract.weight.copy_(torch.tensor([[2.0, 3.0]]))
        feed_forward.contract.bias.fill_(1)
    # 2 · relu(x) + 3 · relu(5 - x) + 1
    out = feed_forward(torch.tensor([[[1.0], [10.0], [-1.0]]]))
    assert out.tolist() == [[[2 + 12 + 1.0], [20 + 0 + 1.0], [0 + 18 + 1.0]]]


# ------------------------------------------------------------------------------- the layer


def layer_of_constants() -> EncoderLayer:
    """H = 2; attention gives (2, 0) and feed-forward (0, 4), whatever comes in."""
    layer = EncoderLayer(tiny_config(hidden_size=2, num_attention_heads=1)).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.attention.output.bias.copy_(torch.tensor([2.0, 0.0]))
        layer.feed_forward.contract.bias.copy_(torch.tensor([0.0, 4.0]))
        layer.attention_norm.weight.fill_(1)
        layer.attention_norm.bias.copy_(torch.tensor([10.0, 20.0]))
        layer.feed_forward_norm.weight.copy_(torch.tensor([2.0, 3.0]))
        layer.feed_forward_norm.bias.copy_(torch.tensor([5.0, 6.0]))
    return layer.eval()


def test_post_norm_by_hand():
    # Attention: (2, 0) + (0, 1) = (2, 1); the norm makes it (1, -1), its bias (11, 19).
    # Feed-forward: (0, 4) + (11, 19) = (11, 23); the norm makes it (-1, 1), its weight and bias
    # (-2 + 5, 3 + 6).
    out = layer_of_constants()(torch.tensor([[[0.0, 1.0]]], dtype=torch.float64), None)
    torch.testing.assert_close(out, torch.tensor([[[3.0, 9.0]]], dtype=torch.float64))


