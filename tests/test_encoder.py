"""Feed-forward network and layer: activations by formula, the order of norm and residual."""

import math

import pytest
import torch
from support.tiny import build, tiny_config
from torch import nn

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


def test_gelu_of_one_is_the_normal_distribution():
    assert activation("gelu")(torch.tensor(1.0)).item() == pytest.approx(0.8413447, abs=1e-7)


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


def test_feed_forward_sees_each_token_by_itself():
    feed_forward = build(FeedForward, tiny_config(), dtype=torch.float64)
    hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)).double()
    alone = feed_forward(hidden[1:, 3:4])
    torch.testing.assert_close(feed_forward(hidden)[1:, 3:4], alone, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------- the layer


def layer_of_constants(**config: object) -> EncoderLayer:
    """H = 2; attention gives (2, 0) and feed-forward (0, 4), whatever comes in."""
    layer = EncoderLayer(tiny_config(hidden_size=2, num_attention_heads=1, **config)).double()
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


def sums_of(layer: EncoderLayer) -> list[torch.Tensor]:
    """What goes into the two norms of a layer, from now on."""
    seen = []
    for norm in (layer.attention_norm, layer.feed_forward_norm):
        norm.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    return seen


def test_post_norm_by_hand():
    # Attention: (2, 0) + (0, 1) = (2, 1); the norm makes it (1, -1), its bias (11, 19).
    # Feed-forward: (0, 4) + (11, 19) = (11, 23); the norm makes it (-1, 1), its weight and bias
    # (-2 + 5, 3 + 6).
    out = layer_of_constants()(torch.tensor([[[0.0, 1.0]]], dtype=torch.float64), None)
    torch.testing.assert_close(out, torch.tensor([[[3.0, 9.0]]], dtype=torch.float64))


def test_eps_of_both_norms_comes_from_the_config():
    # (2, 1) is 0.5 around its mean, variance 1/4; with eps = 3/4 the norm divides by 1.
    layer = layer_of_constants(layer_norm_eps=0.75)
    seen = []
    layer.attention_norm.register_forward_hook(lambda m, inputs, out: seen.append(out))
    out = layer(torch.tensor([[[0.0, 1.0]]], dtype=torch.float64), None)
    torch.testing.assert_close(seen[0], torch.tensor([[[10.5, 19.5]]], dtype=torch.float64))
    # (10.5, 23.5): 6.5 around its mean, variance 42.25; divided by the root of 43.
    spread = 6.5 / math.sqrt(43)
    expected = torch.tensor([[[5 - 2 * spread, 6 + 3 * spread]]], dtype=torch.float64)
    torch.testing.assert_close(out, expected)


def test_the_input_stays_in_the_sum():
    layer = layer_of_constants()
    seen = sums_of(layer)
    hidden = torch.tensor([[[0.5, 1.0], [-3.0, 8.0]]], dtype=torch.float64)
    layer(hidden, None)
    assert torch.equal(seen[0], hidden + torch.tensor([2.0, 0.0]))
    attended = layer.attention_norm(seen[0])
    assert torch.equal(seen[1], attended + torch.tensor([0.0, 4.0]))


def test_dropout_is_on_the_sublayers_not_on_the_residual():
    class Tenfold(nn.Module):
        def forward(self, x):
            return 10 * x

    layer = layer_of_constants()
    layer.dropout = Tenfold()
    seen = sums_of(layer)
    layer(torch.tensor([[[0.0, 1.0]]], dtype=torch.float64), None)
    assert seen[0].tolist() == [[[20.0, 1.0]]]
    torch.testing.assert_close(seen[1], torch.tensor([[[11.0, 59.0]]], dtype=torch.float64))


def test_dropout_only_while_training_at_the_rates_of_the_config():
    config = tiny_config(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.6)
    layer = build(EncoderLayer, config)
    assert (layer.dropout.p, layer.attention.dropout.p) == (0.3, 0.6)
    hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(hidden, None), layer(hidden, None))
    layer.train()
    assert not torch.equal(layer(hidden, None), layer(hidden, None))


def test_the_mask_reaches_attention():
    layer = build(EncoderLayer, tiny_config())
    hidden = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 1, 3)
    mask[..., 2] = torch.finfo(torch.float32).min
    short = layer(hidden[:, :2], None)
    torch.testing.assert_close(layer(hidden, mask)[:, :2], short, rtol=0, atol=1.2e-5)
    assert not torch.allclose(layer(hidden, None)[:, :2], short, atol=1e-2)
