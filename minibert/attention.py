"""Multi-head self-attention, written out.

Source: Vaswani 2017, §3.2. The order of operations is that of transformers' BERT, the reference in
this package, so the numbers are the same to the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minibert.config import BertConfig


def additive_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn "1 = real token, 0 = padding" into numbers to add to the scores: 0, or minus a lot.

    "Minus a lot" is the lowest finite number of the dtype, not minus infinity. Beside a real key, a
    padded key weighs exactly 0 after the softmax. In a text of padding alone the scores are rounded
    away beside so large a number, so all sums are equal and every key weighs 1 / T; minus infinity
    would give NaN there.

    Shapes: (B, T) → (B, 1, 1, T), which broadcasts over heads and over queries.
    """
    mask = torch.zeros(attention_mask.shape, dtype=dtype, device=attention_mask.device)
    mask = mask.masked_fill(attention_mask == 0, torch.finfo(dtype).min)  # (B, T)
    return mask[:, None, None, :]  # (B, 1, 1, T)


class MultiHeadSelfAttention(nn.Module):
    """Every token asks all tokens of its text: softmax(Q Kᵀ / √D) V, in N heads of size D.

    A query is what a token looks for, a key what it is found by, a value what it hands on. Dot
    products grow with D; divided by √D they do not push the softmax onto a single key.

    Shapes: ``hidden`` (B, T, H), ``mask`` (B, 1, 1, T) from `additive_mask`, or None where no text
    has padding; returns (B, T, H).

    Source: Vaswani 2017, §3.2.1 equation 1 and §3.2.2.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        H = config.hidden_size
        self.heads = config.num_attention_heads  # N
        self.head_size = H // self.heads  # D
        self.query = nn.Linear(H, H)
        self.key = nn.Linear(H, H)
        self.value = nn.Linear(H, H)
        self.probabilities = nn.Softmax(dim=-1)  # a module, so that a hook can see what it returns
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.output = nn.Linear(H, H)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Mix the values of all tokens, each weighted by how well its key fits the query."""
        query = self.split_heads(self.query(hidden))  # (B, N, T, D)
        key = self.split_heads(self.key(hidden))  # (B, N, T, D)
        value = self.split_heads(self.value(hidden))  # (B, N, T, D)

        scores = query @ key.transpose(2, 3) * self.head_size**-0.5  # (B, N, T, T)
        if mask is not None:
            scores = scores + mask  # (B, N, T, T) + (B, 1, 1, T)
        weights = self.dropout(self.probabilities(scores))  # (B, N, T, T), rows sum to 1 in eval
        context = weights @ value  # (B, N, T, D)

        return self.output(self.merge_heads(context))  # (B, T, H)

    def split_heads(self, x: Tensor) -> Tensor:
        """Cut the last axis into N heads, beside the batch: (B, T, H) → (B, N, T, D)."""
        B, T, _ = x.shape
        return x.view(B, T, self.heads, self.head_size).transpose(1, 2)  # (B, N, T, D)

    def merge_heads(self, x: Tensor) -> Tensor:
        """Put the heads side by side again: (B, N, T, D) → (B, T, H)."""
        # Contiguous, as in the reference: a view with other strides (D = 1) is multiplied another
        # way, and the last bit differs.
        return x.transpose(1, 2).contiguous().flatten(2)  # (B, T, N, D) → (B, T, H)
