"""The layouts in which somebody may keep a tensor or a weight of ours.

One rule for all of them: the axes of ours in any order, neighbours merged or not. That is (in, out)
for (out, in), (T, B, H) for (B, T, H), a matrix for each head, the heads as an axis of their own,
query, key and value in one, one after the other or head by head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.parity.steps import parse_name

QKV = ("attention.query", "attention.key", "attention.value")
FLOAT16 = 2**-25  # what rounding to float16 may change in the smallest numbers
WORDS = {"part": "query/key/value"}  # how an axis is called in a sentence, if not by its name


class Layout(NamedTuple):
    """How a tensor of ours lies in one of theirs.

    ``dims``: for each axis of theirs that is longer than 1, the axes of ours that it is made of.
    ``sizes``: our axes in our order, with their sizes.
    """

    dims: tuple[tuple[str, ...], ...]
    sizes: Mapping[str, int]

    def read(self, theirs: Tensor) -> Tensor:
        """Theirs → ours, each of our axes by itself, in our order."""
        order = [axis for group in self.dims for axis in group]
        apart = theirs.reshape([self.sizes[axis] for axis in order])
        whole = apart.permute([order.index(axis) for axis in self.sizes if axis in order])
        return whole.reshape(tuple(self.sizes.values()))

    def lay(self, ours: Tensor) -> Tensor:
        """Ours → theirs, without axes of size 1."""
        apart, names = ours.reshape(tuple(self.sizes.values())), list(self.sizes)
        order = [axis for group in self.dims for axis in group]
        order += [axis for axis in names if axis not in order]  # of size 1
        shape = [math.prod(self.sizes[axis] for axis in group) for group in self.dims]
        return apart.permute([names.index(axis) for axis in order]).reshape(shape)

    @property
    def as_ours(self) -> bool:
        """Whether the axes are in our order: merged at most."""
        order = [axis for group in self.dims for axis in group]
        return order == [axis for axis in self.sizes if axis in order]

    def __str__(self) -> str:
        """As it is written in a docstring: "(in, head * feature)"."""
        dims = (" * ".join(WORDS.get(axis, axis) for axis in group) for group in self.dims)
        return f"({', '.join(dims)})"


def layouts(shape: Sequence[int], sizes: Mapping[str, int]) -> Iterator[Layout]:
    """Every layout in which a tensor of this shape can hold ours; the nearest to ours first.

    Args:
        shape: of their tensor; axes of size 1 do not count.
        sizes: our axes in our order, with their sizes.

    >>> [str(layout) for layout in layouts((4, 6), {"out": 6, "in": 4})]
    ['(in, out)']
    """

    def split(dims: tuple[int, ...], left: list[str]) -> Iterator[tuple]:
        if not dims:
            yield from [] if left else [()]
            return
        for count in range(1, len(left) + 1):
            for group in itertools.permutations(left, count):
                if math.prod(sizes[axis] for axis in group) == dims[0]:
                    rest = [axis for axis in left if axis not in group]
                    yield from ((group, *others) for others in split(dims[1:], rest))

    dims = tuple(size for size in shape if size != 1)
    if math.prod(dims) == math.prod(sizes.values()):
        found = split(dims, [axis for axis, size in sizes.items() if size != 1])
        order = list(sizes)
        for one in sorted(found, key=lambda dims: [order.index(axis) for axis in sum(dims, ())]):
            yield Layout(one, dict(sizes))


# ------------------------------------------------------------------------------------ of weights


class Match(NamedTuple):
    """A weight of theirs that has the numbers of ours.

    ``names``: ours; three where query, key and value are in one. ``head``: the head that theirs is
    the part of. ``exact``: not only to within the rounding to half precision.
    """

    names: tuple[str, ...]
    layout: Layout
    head: int | None = None
    exact: bool = True


def weight_axes(name: str, shape: Sequence[int], heads: int) -> dict[str, int]:
    """The axes of one of our weights, those of heads apart, with their sizes."""
    step, _, kind = parse_name(name)[2].rpartition(".")
    by_head = {"head": heads, "feature": shape[0] // heads}
    if step in QKV:
        return by_head | ({"in": shape[1]} if kind == "weight" else {})
    if step == "attention.output" and kind == "weight":
        return {"out": shape[0], **by_head}
    return dict(zip(("out", "in"), shape, strict=False))


def weight_layouts(
    shape: Sequence[int], name: str, ours: Sequence[int], heads: int, parts: int = 1
) -> list[Layout]:
    """The layouts in which a parameter of a shape can hold a weight of ours, or several in one.

    Args:
        shape: of their parameter.
        name, ours: one of our weights, and its shape.
        heads: how many the model has.
        parts: how many weights like this one are in theirs: 3 for query, key and value; they are
            the first axis, "part", of what the layout reads.
    """
    axes = weight_axes(name, ours, heads)
    return list(layouts(shape, {"part": parts, **axes} if parts > 1 else axes))


def near(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors are the same to within a rounding to bfloat16 or float16."""
    least = 1e-6 * float(two.abs().max()) + FLOAT16
    corner = (slice(0, 3),) * one.dim()  # mostly enough to see that they are not
    return all(
        bool(((a.double() - b.double()).abs() <= 2**-8 * b.abs() + least).all())
        for a, b in ((one[corner], two[corner]), (one, two))
    )


def length(value: Tensor) -> float:
    """The Euclidean length of all numbers: the same in all layouts."""
    return float(torch.linalg.vector_norm(value.detach(), dtype=torch.float64))


def match_weights(
    theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], heads: int
) -> dict[str, list[Match]]:
    """Find each weight of theirs among ours by its numbers, whatever its name and layout.

    Returns: their name → what it can be: nothing where no weight of ours has these numbers,
    several where ours are equal (biases of zeros).
    """
    sizes = {name: length(weight) for name, weight in ours.items()}
    by_numel: dict[int, list[str]] = {}
    for name, weight in ours.items():
        by_numel.setdefault(weight.numel(), []).append(name)

    def alike(size: float, name: str) -> bool:
        least = FLOAT16 * ours[name].numel() ** 0.5
        return abs(size - sizes[name]) <= 2**-8 * sizes[name] + least

    def single(value: Tensor) -> Iterator[Match]:
        size = length(value)
        for name in by_numel.get(value.numel(), ()):
            if not alike(size, name):
                continue
            for layout in weight_layouts(value.shape, name, ours[name].shape, heads):
                found = layout.read(value)
                same = ours[name].reshape(found.shape)
                if near(found, same):
                    yield Match((name,), layout, exact=torch.equal(found.to(same), same))
                    break

    def one_of(part: Tensor, names: Sequence[str]) -> str:
        size = length(part)
        same = (n for n in names if alike(size, n) and near(part, ours[n].reshape(part.shape)))
        return next(same, "")

    def several(value: Tensor, parts: int) -> Iterator[Match]:
        rows = [n for n in by_numel.get(value.numel() // parts, ())
                if parse_name(n)[2].rpartition(".")[0] in QKV]  # these alone lie in one
        for name in rows[:1]:
            for layout in weight_layouts(value.shape, name, ours[name].shape, heads, parts):
                names = tuple(one_of(part, rows) for part in layout.read(value))
                if all(names):
                    yield Match(names, layout)
                    return

    found = {}
    for name, value in theirs.items():
        value = value.detach()
        found[name] = list(single(value))
        for parts in (3, 2) if value.numel() > 1 else ():
            found[name] = found[name] or list(several(value, parts))
        wide = by_numel.get(value.numel() * heads, ())
        found[name] = found[name] or list(of_one_head(value, wide, ours, heads))
    return found


def of_one_head(
    value: Tensor, names: Sequence[str], ours: Mapping[str, Tensor], heads: int
) -> Iterator[Match]:
    """A weight of theirs that is a head's part of one of ours."""
    for name in names:
        axes = weight_axes(name, ours[name].shape, heads)
        if "head" not in axes:
            continue
        apart = ours[name].reshape(tuple(axes.values())).movedim(list(axes).index("head"), 0)
        rest = {axis: size for axis, size in axes.items() if axis != "head"}
        for layout in layouts(value.shape, rest):
            for head, part in enumerate(apart):
                if near(layout.read(value), part):
                    yield Match((name,), layout, head)
                    return
