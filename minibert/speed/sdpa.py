"""Fused attention: torch's ``scaled_dot_product_attention`` instead of the formula written out.

The textbook's attention writes all scores into memory, (B, N, T, T), and reads them again for each
of the steps that follow. A fused kernel computes them block by block and keeps none: on a GPU that
saves time and, for long texts, memory. It adds up in another order, so the numbers differ by some
1e-6 in float32.

It is a class of its own, so a ``print`` in ``attention.py`` says nothing while it stands in the
model: that is what ``engine="textbook"`` is for. Who looks at a part that the kernel has no place
for, the softmax or the dropout after it, gets the textbook's attention for as long.

Source: Dao 2022 (FlashAttention, 2205.14135), §3; Rabe & Staats 2021 (2112.05682).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.attention import MultiHeadSelfAttention
from minibert.speed.packed import ShortSoftmax


class FusedAttention(MultiHeadSelfAttention):
    """`MultiHeadSelfAttention` with softmax(Q Kᵀ / √D) V in one kernel.

    Its parts are those of the attention it stands for: trained, saved, moved and hooked like them.
    With a hook on ``probabilities`` or ``dropout`` (as `trace` sets them), or something else in
    their place, this *is* the textbook's attention: the kernel calls neither.

    A text of padding alone gives the textbook's numbers, but not its gradients, which mean nothing.

    Shapes: as there.
    """

    engine = "sdpa"

    def __init__(self, attention: MultiHeadSelfAttention) -> None:
        nn.Module.__init__(self)  # not the textbook's: the parts are there
        self.heads, self.head_size = attention.heads, attention.head_size
        for name, part in attention.named_children():
            self.add_module(name, part)
        self.training = attention.training

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Mix the values of all tokens, each weighted by how well its key fits the query."""
        softmax = unseen(self.probabilities, nn.Softmax, ShortSoftmax)
        if not (softmax and unseen(self.dropout, nn.Dropout)):
            return super().forward(hidden, mask)
        query = self.split_heads(self.query(hidden))  # (B, N, T, D)
        key = self.split_heads(self.key(hidden))  # (B, N, T, D)
        value = self.split_heads(self.value(hidden))  # (B, N, T, D)
        if mask is not None:
            # Half of the lowest number: some kernels multiply by log2(e) first, and minus infinity
            # would make NaN of a text of padding alone. Under autocast the query is of a dtype
            # with a smaller range.
            mask = mask.clamp(min=torch.finfo(query.dtype).min / 2).to(query.dtype)  # (B, 1, 1, T)
        dropout = self.dropout.p if self.dropout.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, mask, dropout)  # (B, N, T, D)
        return self.output(self.merge_heads(context))  # (B, T, H)


def unseen(part: nn.Module, *kinds: type) -> bool:
    """Whether a part is one of ours, and nobody has put a hook on it."""
    hooks = part._forward_hooks, part._forward_pre_hooks
    back = part._backward_hooks, part._backward_pre_hooks
    return type(part) in kinds and not any((*hooks, *back))


def fuse(model: nn.Module) -> nn.Module:
    """Swap every attention of a model for a `FusedAttention`, in place; returns the model."""
    for module in list(model.modules()):
        for name, part in module.named_children():
            if type(part) is MultiHeadSelfAttention:
                setattr(module, name, FusedAttention(part))
    return model
