"""One encoder layer: attention and a feed-forward network, each with a residual and a LayerNorm.

Source: Vaswani 2017, §3.1 and §3.3; the activation: Devlin 2019, appendix A.2, after
Hendrycks & Gimpel 2016.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from minibert.attention import MultiHeadSelfAttention
from minibert.config import BertConfig


class TanhGELU(nn.Module):
    """The tanh form of GELU, in the order of operations of the reference's ``gelu_new``.

    It is up to 4.7e-4 away from the exact form (``gelu``), and a few roundings away from torch's
    own kernel for the same formula (``gelu_pytorch_tanh``).

    Source: Hendrycks & Gimpel 2016, §2.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))), for a tensor of any shape."""
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def activation(name: str) -> nn.Module:
    """The activation that ``hidden_act`` names."""
    return {
        "gelu": nn.GELU(),
        "gelu_new": TanhGELU(),
        "gelu_pytorch_tanh": nn.GELU(approximate="tanh"),
        "relu": nn.ReLU(),
    }[name]


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, on every token by itself.

    Shapes: (B, T, H) → (B, T, F) → (B, T, H). Source: Vaswani 2017, §3.3 equation 2.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = activation(config.hidden_act)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Expand, activate, contract."""
        expanded = self.activation(self.expand(hidden))  # (B, T, F)
        return self.contract(expanded)  # (B, T, H)


class EncoderLayer(nn.Module):
    """LayerNorm(x + Dropout(Sublayer(x))), twice: attention first, then feed-forward.

    The norm comes after the residual is added ("post-norm"), as in the paper. GPT-2 puts it before
    each sub-layer instead ("pre-norm").

    Shapes: ``hidden`` (B, T, H), ``mask`` (B, 1, 1, T) or None; returns (B, T, H).
    Source: Vaswani 2017, §3.1.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        H, eps = config.hidden_size, config.layer_norm_eps
        self.attention = MultiHeadSelfAttention(config)
        self.attention_norm = nn.LayerNorm(H, eps=eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(H, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Let the tokens look at each other, then transform each token on its own."""
        hidden = self.attention_norm(self.dropout(self.attention(hidden, mask)) + hidden)
        return self.feed_forward_norm(self.dropout(self.feed_forward(hidden)) + hidden)
