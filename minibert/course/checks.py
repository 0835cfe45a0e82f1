"""How what came back is compared with what is right.

A check gets a part of an exercise and what the function returned for it, and says in lines what is
wrong with it; no lines, nothing wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minibert.course.run_submission import InvalidReturn
from minibert.parity.diagnosis import Judge
from minibert.parity.differences import describe
from minibert.parity.steps import Computation, Inputs

# What right code may differ by in float32 when it takes another order of operations, for numbers of
# size 1: einsum, fused and numpy solutions stay below 2e-6 here, the smallest mistake that is
# taught (eps 1e-5 for 1e-12) shows 3e-4.
TOLERANCE = 1.2e-5


@dataclass(frozen=True)
class Stage:
    """A stage of a tiny BERT: from the tensors ``known``, a function returns those of ``names``."""

    inputs: Inputs
    known: Mapping[str, Tensor]
    names: Sequence[str]
    counted: Sequence[str] = ()  # those of the names that a part is about; () = all

    def judge(self, got: Sequence[Tensor]) -> Judge:
        """Compare what came back with what comes from the same inputs."""
        mine = dict(zip(self.names, (tensor.float() for tensor in got), strict=True))
        return Judge(self.inputs, {**self.known, **mine}, self.known)


@dataclass(frozen=True)
class Case:
    """One part of an exercise: its inputs, and what should come back for them.

    ``expected`` is what the ``checks`` need to know; the first that finds something wrong speaks.
    ``run`` calls the function with the arguments, if one call is not enough.
    """

    title: str
    points: int
    args: tuple
    checks: Sequence[Callable[[Case, Any], list[str]]]
    expected: Any = None
    what: str = "a tensor"  # what should be returned, in words
    run: Callable[[Callable, tuple], Any] = lambda call, args: call(*args)

    def wrong(self, got: Any) -> list[str]:
        """What is wrong with what came back.

        Raises:
            InvalidReturn: it is of the wrong type.
        """
        return next((lines for check in self.checks if (lines := check(self, got))), [])


def kind(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "nothing (is there a return?)"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list) else "")


def tensors(got: Any, count: int, what: str) -> list[Tensor]:
    """What came back, as so many tensors of numbers; nested lists of numbers are tensors, too.

    Raises:
        InvalidReturn: it is something else.
    """
    if count > 1 and not (isinstance(got, list) and len(got) == count):
        raise InvalidReturn(f"returned {kind(got)}; it should be {what}")
    found = []
    for value in [got] if count == 1 else got:
        if isinstance(value, (list, int, float)) and not isinstance(value, bool):
            with suppress(TypeError, ValueError, RuntimeError, OverflowError):  # said below
                value = torch.tensor(value, dtype=torch.float64)
        if not isinstance(value, Tensor):
            raise InvalidReturn(f"returned {kind(value)}; it should be {what}")
        found.append(value)
    return found


def needs_shape(got: Tensor, shape: Sequence[int]) -> list[str]:
    """Whether a tensor has the shape that it should have."""
    if tuple(got.shape) == tuple(shape):
        return []
    return [f"  shape {tuple(got.shape)}; it should be {tuple(shape)}"]


# -------------------------------------------------------------------------------- the checks


def same_words(case: Case, got: Any) -> list[str]:
    """Lists of words: shows the first text that is split differently."""
    for text, mine, right in zip(case.args[0], got, case.expected, strict=True):
        if not isinstance(mine, list):
            raise InvalidReturn(f"returned {kind(mine)} for {text!r}; it should be a list of str")
        if mine != right:
            shown = text if len(text) <= 60 else f"{text[:30]}... ({len(text)} characters)"
            return [
                f"  for       {shown!r}",
                f"  yours     {shortened(mine)}",
                f"  reference {shortened(right)}",
            ]
    return []


def shortened(words: Sequence) -> str:
    """A list of words that fits a line or two."""
    text = repr(list(words))
    return text if len(text) <= 150 else f"{text[:110]} ... ({len(words)} in all)"


def near(case: Case, got: Any) -> list[str]:
    """The tensors of a `Stage`: shapes, and the numbers of real tokens, each from its inputs."""
    stage = case.expected
    found = tensors(got, len(stage.names), case.what)
    right = Computation(stage.inputs, stage.known)
    for name, tensor in zip(stage.names, found, strict=True):
        if wrong := needs_shape(tensor, right[name].shape):
            return wrong
    judge = stage.judge(found)
    for name, tensor in zip(stage.names, found, strict=True):
        expected = judge.predict(name, {})
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        if name in (stage.counted or stage.names) and judge.residual(name, expected) > allowed:
            shown = torch.where(judge.counts(name, expected), tensor.double(), expected)
            config, _, batch = stage.inputs
            return describe(name, shown, expected, allowed, batch, config.num_attention_heads)
    return []


def shape(case: Case, got: Any) -> list[str]:
    """A tensor of the right shape, whatever the numbers are, but for zeros: that is no work."""
    (mine,), stage = tensors(got, 1, case.what), case.expected
    right = Computation(stage.inputs, stage.known)[stage.names[0]]
    return needs_shape(mine, right.shape) or ["  every number is 0"] * (not mine.any())


def close_to(case: Case, got: Any) -> list[str]:
    """One tensor of numbers."""
    (mine,) = tensors(got, 1, case.what)
    wrong = needs_shape(mine, case.expected.shape)
    if wrong or within(case.expected, mine):
        return wrong
    return describe("table", mine, case.expected, TOLERANCE)


def within(expected: Tensor, got: Any) -> bool:
    """Whether a tensor is the expected one, to within the tolerance."""
    if not isinstance(got, Tensor) or got.shape != expected.shape:
        return False
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    return bool(((got - expected).abs() <= allowed).all())


def sums_to_one(case: Case, got: Any) -> list[str]:
    """Probabilities, whichever they are."""
    (rows,) = tensors(got, 1, case.what)
    if rows.dim() != 4:
        return [f"  shape {tuple(rows.shape)}; it should be (B, N, T, T)"]
    sums = rows.sum(-1)
    if bool(((sums - 1).abs() <= TOLERANCE).all()) and bool((rows >= 0).all()):
        return []
    return [
        f"  the first rows sum to {', '.join(f'{x:.4g}' for x in sums.flatten()[:4].tolist())}; "
        f"the smallest number is {float(rows.min()):.4g}"
    ]


def finite(case: Case, got: Any) -> list[str]:
    """No NaN and no infinity in a text that is all padding; the mask is the last argument."""
    bad = ~tensors(got, 1, case.what)[0][case.args[-1].sum(1) == 0].isfinite()
    return [
        f"  NaN or infinity in {int(bad.sum())} of {bad.numel()} numbers: if every score of a row "
        "is minus infinity,",
        "  the softmax is 0/0; add a large finite number, such as torch.finfo(dtype).min",
    ] if bad.any() else []


def empty_is_zero(case: Case, got: Any) -> list[str]:
    """Zeros for every text that is all padding."""
    (vectors,) = tensors(got, 1, case.what)
    return [
        "  a text without a real token has a vector that is not zeros:",
        "  divide by at least a tiny number, count.clamp(min=1e-9)",
    ] if vectors[case.args[1].sum(1) == 0].any() else []


def mean_loss(case: Case, got: Any) -> list[str]:
    """What each training step returned."""
    for mine, right in zip(got, case.expected, strict=True):
        number = isinstance(mine, (int, float)) or isinstance(mine, Tensor) and mine.numel() == 1
        if not number or abs(float(mine) - right) > TOLERANCE * max(1.0, right):
            return [
                f"  yours     {float(mine) if number else kind(mine)}",
                f"  reference {right:.6g}",
                "  the sum over all examples of the step, divided by their number",
            ]
    return []


def training_mode(case: Case, got: Any) -> list[str]:
    """The mode in each forward pass, and the optimizer steps in each training step."""
    modes, taken = got
    lines = [] if all(modes) else ["  the model was not in training mode: model.train()"]
    if taken != case.expected:
        lines.append(f"  optimizer.step() was called {taken} times; it should be once in each step")
    return lines
