"""Pooling: the hidden states of a text's tokens become one vector for the text.

Six pure functions ``(hidden, mask) -> vectors``. A sentence encoder is trained with one of them and
must be used with the same one; all-MiniLM-L6-v2 uses `mean_pooling`. Nothing here is learned:
BERT's *pooler*, a trained layer over the [CLS] state, is another thing and lives in ``model.py``.

Shapes, for every function:
    hidden: (B, T, H) hidden states, of any floating dtype
    mask: (B, T), 1 or True = real token, 0 or False = padding; ``None`` = all tokens are real
    returns: (B, H), of the dtype of ``hidden``; the caller's tensors are never written to

Padding never reaches the result, whatever stands in it (NaN included). A row of padding alone gives
zeros in every mode. Sums of half-precision states are taken in float32.

Raises, for every function:
    ValueError: ``hidden`` or ``mask`` does not have the shape above.

Source: the formulas are those of sentence-transformers 6.2 (``Pooling``), and so are the numbers,
except for a row of padding alone, where theirs give the state at position 0 (``cls``) and -inf
(``max``). Padding may stand left or right, but only right for `weighted_mean_pooling`, which counts
from the first column.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cls_pooling(hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the state of the first real token: [CLS]."""
    real = _real(hidden, mask)  # (B, T)
    return _state_at(hidden, real, real.int().argmax(dim=1))  # argmax: the first of equal values


def last_pooling(hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the state of the last real token: [SEP] in BERT."""
    real = _real(hidden, mask)  # (B, T)
    return _state_at(hidden, real, real.shape[1] - 1 - real.flip(1).int().argmax(dim=1))


def max_pooling(hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the largest value of each component over the real tokens."""
    real = _real(hidden, mask)[..., None]  # (B, T, 1)
    largest = hidden.masked_fill(~real, float("-inf")).max(dim=1).values  # (B, H)
    return largest.masked_fill(~real.any(dim=1), 0.0)


def mean_pooling(hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean over the real tokens, [CLS] and [SEP] included."""
    total, count = _sums(hidden, _real(hidden, mask))
    return (total / count).to(hidden.dtype)


def mean_sqrt_len_pooling(hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the sum over the real tokens, divided by the square root of their number."""
    total, count = _sums(hidden, _real(hidden, mask))
    return (total / count.sqrt()).to(hidden.dtype)


def weighted_mean_pooling(hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean over the real tokens, the token in column t (from 1) with weight t.

    The weight is the column's, not the rank among the real tokens: tokens behind a prompt that the
    mask leaves out keep the weights they had. So padding has to stand on the right.
    """
    total, weight = _sums(hidden, _real(hidden, mask), by_position=True)
    return (total / weight).to(hidden.dtype)


POOLING = {
    "cls": cls_pooling,
    "max": max_pooling,
    "mean": mean_pooling,
    "mean_sqrt_len_tokens": mean_sqrt_len_pooling,
    "weightedmean": weighted_mean_pooling,
    "lasttoken": last_pooling,
}
"""The names in sentence-transformers' configurations, in the order in which several are joined."""


def _real(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mask as booleans, (B, T), after checking both shapes."""
    if hidden.dim() != 3 or hidden.shape[1] == 0:
        raise ValueError(
            f"hidden states of shape {tuple(hidden.shape)}, but pooling needs (batch, tokens, "
            "hidden) with at least one token; pass last_hidden_state"
        )
    if mask is None:
        return hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
    if mask.shape != hidden.shape[:2]:
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)} does not fit hidden states of shape "
            f"{tuple(hidden.shape)}; pass the (batch, tokens) attention_mask the model was given"
        )
    return mask.bool()


def _state_at(hidden: Tensor, real: Tensor, column: Tensor) -> Tensor:
    """Return the state in the given column of each row, (B, H); zeros where that is padding."""
    row = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[row, column].masked_fill(~real[row, column, None], 0.0)  # (B, H)


def _sums(hidden: Tensor, real: Tensor, by_position: bool = False) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of the real states, (B, H), and of their weights, (B, 1)."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    weights = real.to(dtype)  # (B, T)
    states = hidden.masked_fill(~real[..., None], 0.0)  # not a product: 0 * NaN is NaN
    if by_position:
        weights = weights * torch.arange(1, real.shape[1] + 1, dtype=dtype, device=hidden.device)
        states = states * weights[..., None]  # (B, T, H)
    total = states.sum(dim=1, dtype=dtype)  # (B, H)
    return total, weights.sum(dim=1, keepdim=True).clamp(min=1e-9)  # all padding: 0 / 1e-9 = 0
