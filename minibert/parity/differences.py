"""A difference between two tensors, in words: how large, where it is, and of what kind."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minibert.parity.diagnosis import canonical

Batch = Mapping[str, Any] | None  # input_ids, attention_mask; "tokens", their texts, if known


def difference(mine: Tensor, reference: Tensor) -> Tensor:
    """Absolute differences, infinite where only one of the two is a number."""
    mine, reference = mine.detach().double(), reference.detach().double()
    same = (mine == reference) | (mine.isnan() & reference.isnan())
    return torch.where(same, 0.0, (mine - reference).abs().nan_to_num(float("inf"), float("inf")))


def unravel(flat: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    """A flat position as one number for each axis."""
    return tuple(map(int, np.unravel_index(int(flat), shape)))


def axes(name: str, shape: Sequence[int], batch: Batch) -> list[str]:
    """What each axis of a tensor stands for."""
    if batch is not None and not name.startswith(("steps.", "gradient", "after")):
        B, T = batch["input_ids"].shape
        if len(shape) == 4:
            keys = "key" if shape[3] == T and not name.endswith("_heads") else "feature"
            return ["text", "head", "token", keys]
        if tuple(shape[:2]) == (B, T):
            return ["text", "token", "feature"][: len(shape)]
        if len(shape) == 2 and shape[0] in (B, T):
            return ["text" if shape[0] == B else "token", "feature"]
    return [f"axis {i}" for i in range(len(shape))]


def in_words(name: str, place: Sequence[int], shape: Sequence[int], batch: Batch = None) -> str:
    """A position in words: text 1, head 2, token 3 "cat", ..."""
    words, text = [], 0
    for axis, i in zip(axes(name, shape, batch), place, strict=True):
        words.append(f"{axis} {i}")
        if axis == "text":
            text = i
        if axis in ("token", "key"):
            mask, tokens = batch.get("attention_mask"), batch.get("tokens")
            known = repr(tokens[text][i]) if tokens else f"(id {batch['input_ids'][text, i]})"
            words[-1] += f" {known}" + ("" if mask is None or mask[text, i] else " = padding")
    return ", ".join(words)


def describe(
    name: str,
    got: Tensor,
    expected: Tensor,
    allowed: Tensor | float,
    batch: Batch = None,
    heads: int = 0,
) -> list[str]:
    """Some lines: shape, the worst place, values side by side, where it is, what kind it is.

    ``heads``: how many there are, for features that are made of heads.
    """
    got, expected = got.detach().double(), expected.detach().double()
    a, b = canonical(name, got), canonical(name, expected)
    off = difference(a, b)
    lines = [f"  shape {tuple(got.shape)}"]
    if off.dim():
        worst = unravel(off.argmax(), off.shape)
        lines.append(f"  worst at {in_words(name, worst, off.shape, batch)}:")
        start = max(0, min(worst[-1] - 2, off.shape[-1] - 5))
        near, marked = (*worst[:-1], slice(start, start + 5)), worst[-1] - start
    else:
        near, marked = (None,), None
    for who, values in (("yours", a), ("reference", b)):
        cells = (f"[{x:.6g}]" if i == marked else f"{x:.6g} "
                 for i, x in enumerate(values[near].tolist()))
        lines.append(f"    {who:9} " + "".join(f"{cell:>13}" for cell in cells).rstrip())
    lines.append(f"  the difference is {where(name, off > allowed, batch, heads)}")
    masked = (a <= -1e4) & (b <= -1e4)
    a, b = torch.where(masked, 0.0, a), torch.where(masked, 0.0, b)
    if kind := pattern(a, b, float(torch.as_tensor(allowed).max())):
        lines.append(f"  it is {kind}")
    return lines


def where(name: str, wrong: Tensor, batch: Batch = None, heads: int = 0) -> str:
    """Where something is wrong, in words."""
    if not wrong.any():
        return "nowhere: all is within the tolerance"
    names = axes(name, wrong.shape, batch)
    found = of_a_text(wrong, names, batch, heads) if names[:1] == ["text"] else ""
    share = float(wrong.double().mean())
    return found or ("everywhere" if share > 0.9 else f"in {100 * share:.0f} % of the numbers")


def of_a_text(wrong: Tensor, names: list[str], batch: Batch, heads: int) -> str:
    """Where something is wrong in a tensor whose first axis is the text; "" = nowhere special."""

    def only(parts: Tensor) -> bool:
        return len(parts) > 1 and int(parts.sum()) == 1

    def along(axis: int) -> Tensor:  # at which places along an axis there is something wrong
        return wrong.movedim(axis, 0).flatten(1).any(1)

    mask = batch.get("attention_mask")
    real = torch.ones_like(batch["input_ids"]).bool() if mask is None else mask.bool()  # (B, T)
    if "token" in names:
        size = dict(zip(("text", "token"), real.shape, strict=True))
        real_tokens = real.reshape([size.get(axis, 1) for axis in names])  # to be broadcast
        if not bool((wrong & real_tokens).any()):
            return "on padding only"
        tokens = along(names.index("token"))
        if only(tokens) and tokens[0]:
            return "on [CLS] only (the first token of each text)"
    if names[-1] == "key" and not bool((wrong & real[:, None, None]).any()):
        return "on padded keys only: the mask"
    if only(along(0)):
        return f"in text {int(along(0).int().argmax())} only"
    padded = ~real.all(1)
    if padded.any() and not padded.all() and not bool((along(0) & ~padded).any()):
        return "only in texts that have padding"
    by_head = along(names.index("head")) if "head" in names else torch.zeros(0)
    if "head" not in names and heads and names[-1] == "feature" and wrong.shape[-1] % heads == 0:
        by_head = wrong.unflatten(-1, (heads, -1)).movedim(-2, 0).flatten(1).any(1)
    return f"in head {int(by_head.int().argmax())} only" if only(by_head) else ""


def pattern(got: Tensor, expected: Tensor, allowed: float) -> str:
    """Whether a difference has a simple form: a factor, an offset, a transpose, a permutation."""
    if not (got.isfinite().all() and expected.isfinite().all()) or got.numel() < 4:
        bad = 100 * float((~got.isfinite()).double().mean())
        return f"not a number in {bad:.3g} % of the places" if bad else ""
    near = max(allowed, 1e-5 * float(got.abs().max()))

    def equal(one: Tensor, two: Tensor | float) -> bool:
        return float((one - two).abs().max()) <= near

    square = float((expected * expected).sum())
    factor = float((got * expected).sum()) / square if square else 0.0
    if factor and equal(got, factor * expected):
        root, inverse = math.sqrt(abs(factor)), 1 / factor
        return f"a constant factor: {factor:.6g} (inverse {inverse:.6g}, root {root:.6g})"
    gap = got - expected
    if float(gap.max() - gap.min()) <= near:
        return f"a constant offset: {float(gap.mean()):.6g}"
    rows = gap.reshape(-1, gap.shape[-1])
    if gap.dim() > 1 and float((rows.amax(0) - rows.amin(0)).max()) <= near:
        return "one offset vector, the same for every token: a bias?"
    for order in itertools.permutations(range(got.dim())):
        turned = expected.permute(order)
        if order != tuple(range(got.dim())) and turned.shape == got.shape and equal(got, turned):
            return f"a transpose: the axes are in the order {order}"
    for axis in range(got.dim()):
        if 1 < got.shape[axis] <= 2048 and permuted(got, expected, axis, near):
            return f"a permutation along axis {axis}"
    if got.numel() <= 1 << 20 and equal(got.flatten().sort()[0], expected.flatten().sort()[0]):
        return "the same numbers in another order: a view or reshape?"
    return ""


def permuted(got: Tensor, expected: Tensor, axis: int, near: float) -> bool:
    """Whether the slices along an axis are the reference's in another order."""
    mine = got.movedim(axis, 0).reshape(got.shape[axis], -1)
    theirs = expected.movedim(axis, 0).reshape(got.shape[axis], -1)
    match = torch.cdist(mine, theirs).argmin(1)
    if len(match.unique()) < len(match) or torch.equal(match, torch.arange(len(match))):
        return False
    return float((mine - theirs[match]).abs().max()) <= near
