"""Which mistake is it? Somebody's tensors against every known mistake, alone and in pairs.

The rule: a mistake is named only when what it predicts is what came, to within the noise of the
precision at hand. Otherwise there is no name, only the nearest one and what it leaves over.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minibert.config import BertConfig
from minibert.mistakes import CATALOGUE, Mistake
from minibert.steps import Computation, place

MASKED = -5e3  # a score below this is a masked one, however it was masked
Answer = tuple[Mistake, ...]


@dataclass
class Diagnosis:
    """What explains a difference.

    ``answers``: each a tuple of mistakes that explains all that was seen; several where they cannot
    be told apart by what was given; none where nothing known explains it. ``nearest`` is then the
    best of all, ``residual`` the part of the difference that it leaves (1 = all of it).
    """

    name: str
    answers: list[Answer]
    partial: bool = False
    nearest: Answer = ()
    residual: float = 1.0
    noise: float = 0.0
    tried: int = 0
    layers: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        """The finding in words."""
        if not self.answers:
            if not self.nearest:
                return "not in the catalogue, and nothing in it comes near"
            titles = " + ".join(mistake.title for mistake in self.nearest)
            return (
                f"not in the catalogue; the nearest is: {titles}. It leaves a residual of "
                f"{self.residual:.2g} of the difference, so it is not what happened here"
            )
        lines = []
        for number, answer in enumerate(self.answers):
            if number:
                lines.append("or, which gives the same numbers here:")
            for mistake in answer:
                lines += [
                    f"{mistake.title}  [{mistake.key}]",
                    f"    seen:  {mistake.seen}",
                    f"    cure:  {mistake.cure}",
                ]
                if mistake.source:
                    lines.append(f"    known: {mistake.source}")
        if self.partial:
            lines.append(f"This explains {self.name}; there is another difference after it.")
        if len(self.layers) > 1:
            lines.append(f"The same in layers {', '.join(map(str, self.layers))}.")
        return "\n".join(lines)

    def to_dict(self) -> dict:
        """For JSON."""
        return {
            "tensor": self.name,
            "answers": [[mistake.key for mistake in answer] for answer in self.answers],
            "partial": self.partial,
            "nearest": [mistake.key for mistake in self.nearest],
            "residual": self.residual,
            "noise": self.noise,
            "candidates": self.tried,
            "layers": self.layers,
        }


def precision(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The coarsest precision that all numbers fit into: what they were rounded to, at the latest.

    Masked scores do not count: a minus infinity fits everywhere.
    """
    numbers = [
        tensor.detach().double().flatten()
        for tensor in tensors.values()
        if tensor.is_floating_point()
    ]
    numbers = torch.cat(numbers) if numbers else torch.zeros(1, dtype=torch.float64)
    numbers = numbers[numbers.isfinite() & (numbers > MASKED)]
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        if torch.equal(numbers.to(dtype).double(), numbers):
            return dtype
    return torch.float64


def rounding(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Half a unit of the last digit of each number: what rounding to a dtype may change."""
    if dtype not in (torch.bfloat16, torch.float16):
        return torch.zeros_like(values)
    _, exponent = torch.frexp(values)
    digits = 8 if dtype == torch.bfloat16 else 11
    half = torch.ldexp(torch.ones_like(values), exponent - digits - 1)
    return half.clamp(min=2**-25 if dtype == torch.float16 else 0)


def canonical(name: str, values: Tensor) -> Tensor:
    """Scores masked by any large negative number count as equal."""
    if name.endswith((".scores", ".mask")):
        return torch.where(values < MASKED, -1e4, values)
    return values


class Judge:
    """Somebody's tensors, and what should have come out of the same inputs.

    Args:
        config, weights, batch: the model and its inputs; weights by our names.
        mine: the tensors to be judged, by our names.
        catalogue: the mistakes to try.

    A tensor is predicted from the nearest tensors before it, as they were given: so each stage is
    judged by its own inputs, and a fault early on does not blame all that follows. Where the
    numbers were rounded to half precision, their own inputs are too coarse for that, and the
    prediction starts from the right values before the first fault.
    """

    def __init__(
        self,
        config: BertConfig,
        weights: Mapping[str, Tensor],
        batch: Mapping[str, Tensor],
        mine: Mapping[str, Tensor],
        catalogue: Sequence[Mistake] = CATALOGUE,
    ) -> None:
        """Compute the right values, and find the stages whose inputs do not explain them."""
        self.config, self.weights, self.batch = config, weights, batch
        self.catalogue = catalogue
        names = Computation(config, weights, batch).steps()
        self.order = {name: number for number, name in enumerate(names)}
        self.names = sorted(mine, key=self.order.__getitem__)
        self.mine = {name: mine[name].detach() for name in self.names}
        self.dtype = precision(self.mine)
        self.rounded = self.dtype in (torch.bfloat16, torch.float16)
        self.cache: dict = {}  # converted weights
        self.runs: dict[tuple[str, torch.dtype], Computation] = {}
        self.screens: dict[str, float] = {}
        self.right = self.run({}, {}, torch.float64)
        self.good: dict[str, Tensor] = {}  # what predictions start from, where rounded
        self.faults = []
        for name in self.names:
            if self.verdict(name) == "differs":
                self.faults.append(name)
                if self.rounded:
                    break
            elif self.rounded:
                self.good[name] = self.right[name]

    def run(self, known: Mapping, changes: Mapping, dtype: torch.dtype) -> Computation:
        """A computation over this batch."""
        return Computation(self.config, self.weights, self.batch, known, changes, dtype, self.cache)

    def known_before(self, name: str) -> dict[str, Tensor]:
        """What a tensor is predicted from."""
        position = self.order[name]
        if self.rounded:
            if name.startswith("steps."):  # a fault may hide below the rounding in earlier steps
                return {}
            return {n: v for n, v in self.good.items() if self.order[n] < position}
        return {n: self.mine[n] for n in self.names if self.order[n] < position}

    def predict(self, name: str, changes: Mapping, dtype=torch.float64) -> Tensor:
        """What should have come under this name, with some steps done differently."""
        right = self.right_run(name, dtype)
        if not changes:
            return right[name]
        known = self.known_before(name)
        if "weights" not in changes:  # what was computed before the first change stays as it is
            for done in right.computed:
                if place(done)[2] in changes:
                    break
                known[done] = right.values[done]
            else:
                return right[name]
        return self.run(known, changes, dtype)[name]

    def right_run(self, name: str, dtype: torch.dtype) -> Computation:
        """The right computation of a tensor from what is known before it."""
        if (name, dtype) not in self.runs:
            self.runs[name, dtype] = self.run(self.known_before(name), {}, dtype)
            self.runs[name, dtype][name]
        return self.runs[name, dtype]

    def counts(self, name: str, values: Tensor) -> Tensor:
        """Which numbers matter: those of real tokens (as a mask that broadcasts)."""
        real = self.batch.get("attention_mask")
        if real is None or name.startswith("steps."):
            return torch.ones((), dtype=torch.bool)
        real = real.bool()
        B, T = real.shape
        if values.dim() == 4 and values.shape[-2] == T:
            return real[:, None, :, None]
        if values.dim() >= 2 and values.shape[:2] == (B, T) and not name.startswith("pool"):
            return real.reshape(B, T, *[1] * (values.dim() - 2))
        if values.dim() and values.shape[0] == B:
            return real.any(1).reshape(B, *[1] * (values.dim() - 1))
        return torch.ones((), dtype=torch.bool)

    def residual(self, name: str, predicted: Tensor, everywhere: bool = False) -> float:
        """The largest difference between what came and what is predicted, less the rounding."""
        mine, predicted = self.mine[name].double(), predicted.double()
        if mine.shape != predicted.shape:
            return float("inf")
        mine, predicted = canonical(name, mine), canonical(name, predicted)
        rest = (mine - predicted).abs()
        rest = (rest - rounding(predicted, self.dtype)).clamp(min=0)
        rest = torch.where((mine == predicted) | (mine.isnan() & predicted.isnan()), 0.0, rest)
        if not everywhere:
            rest = torch.where(self.counts(name, mine), rest, 0.0)
        return float(rest.nan_to_num(nan=float("inf"), posinf=float("inf")).max())

    def noise(self, name: str, exact: Tensor, single: Tensor) -> float:
        """How far right code may be from the exact value, in the precision at hand.

        In float32: what our own order of operations loses, times 16, and some last digits.
        """
        exact, single = canonical(name, exact.double()), canonical(name, single.double())
        exact, single = exact.clamp(min=MASKED), single.clamp(min=MASKED)
        exact, single = (torch.where(t == MASKED, 0.0, t) for t in (exact, single))
        size = float(exact.abs().nan_to_num(0, 0, 0).max()) if exact.numel() else 0.0
        if self.dtype == torch.float64:
            return 1e4 * torch.finfo(torch.float64).eps * size + 1e-15
        lost = float((exact - single).abs().nan_to_num(0, 0, 0).max()) if exact.numel() else 0.0
        return 16 * lost + 8 * torch.finfo(torch.float32).eps * size

    def explained(self, name: str, changes: Mapping, everywhere: bool = False) -> bool:
        """Whether what came is what the changed steps predict, to within the noise."""
        try:
            exact = self.predict(name, changes)
        except (RuntimeError, IndexError):
            return False  # two mistakes that do not fit each other: the code would have crashed
        rest = self.residual(name, exact, everywhere)
        if rest == 0:
            return True
        if rest > self.screen(name):
            return False
        return rest <= self.noise(name, exact, self.predict(name, changes, torch.float32))

    def screen(self, name: str) -> float:
        """A residual above this needs no closer look: it is a good part of the difference."""
        if name not in self.screens:
            exact, single = self.predict(name, {}), self.predict(name, {}, torch.float32)
            difference = self.residual(name, exact)
            finite = difference if difference < float("inf") else 0.0
            self.screens[name] = max(0.02 * finite, 1e3 * self.noise(name, exact, single), 1e-9)
        return self.screens[name]

    def verdict(self, name: str) -> str:
        """One of: equal, padding (differs on padding only), differs. By its own inputs."""
        if self.explained(name, {}, everywhere=True):
            return "equal"
        return "padding" if self.explained(name, {}) else "differs"

    # ------------------------------------------------------------------------------ matching

    def scope(self, first: str) -> list[str]:
        """The tensors that belong to the same layer (or part) as the first fault."""
        group, number, step = place(first)
        if group == "steps":  # a wrong optimizer is wrong in every step
            return [name for name in self.names if name.startswith("steps.")]
        part = re.match(r"[a-z]*", step)[0]
        return [
            name
            for name in self.names
            if place(name)[:2] == (group, number)
            and (group or re.match(r"[a-z]*", place(name)[2])[0] == part)
        ]

    def diagnose(self, pairs: bool = True) -> Diagnosis | None:
        """Name what explains the first fault, and all that came from the same part.

        Returns None where there is nothing to explain.
        """
        if not self.faults:
            return None
        first = self.faults[0]
        names = [first, *(name for name in self.scope(first) if name != first)]
        wrong = names if self.rounded else [name for name in names if name in self.faults]
        mistakes = [m for m in self.catalogue if self.touches(m, wrong) and self.visible(m, names)]
        result = Diagnosis(first, [], tried=len(mistakes))
        result.noise = self.noise(
            first, self.predict(first, {}), self.predict(first, {}, torch.float32)
        )
        ranked: list[tuple[float, Answer]] = []
        whole = self.residual(first, self.predict(first, {})) or 1.0

        def try_all(candidates, scope) -> list[Answer]:
            found = []
            for answer in candidates:
                changes = {k: v for mistake in answer for k, v in mistake.changes.items()}
                if all(self.explained(name, changes) for name in scope):
                    found.append(answer)
            return found

        singles = [(mistake,) for mistake in mistakes]
        for answer in singles:
            rest = self.residual(first, self.predict(first, dict(answer[0].changes)))
            ranked.append((rest / whole, answer))
        result.answers = try_all(singles, names)
        if not result.answers and pairs:
            both = [
                pair for pair in itertools.combinations(mistakes, 2)
                if not pair[0].changes.keys() & pair[1].changes.keys()
            ]
            result.tried += len(both)
            result.answers = try_all(both, names)
        if not result.answers and len(names) > 1:
            result.answers = try_all(singles, [first])
            result.partial = bool(result.answers)
        result.answers = self.finest(result.answers, names)
        if result.answers:
            result.layers = self.layers_with(result.answers[0])
            result.residual = 0.0
        elif ranked:
            result.residual, result.nearest = min(ranked, key=lambda item: item[0])
            if result.residual > 0.9:
                result.nearest, result.residual = (), 1.0
        return result

    def touches(self, mistake: Mistake, names: Sequence[str]) -> bool:
        """Whether a mistake changes anything between what is known and these tensors."""
        if "weights" in mistake.changes:
            return True
        return any(
            place(done)[2] in mistake.changes
            for name in names
            for done in self.right_run(name, torch.float64).computed
        )

    def visible(self, mistake: Mistake, names: Sequence[str]) -> bool:
        """Whether a mistake changes any of these tensors by more than the noise; no crash."""
        try:
            return any(
                self.predict(name, mistake.changes).shape != self.right[name].shape
                or not self.same(name, self.predict(name, mistake.changes))
                for name in names
            )
        except (RuntimeError, IndexError, KeyError):
            return False  # the mistake does not fit these shapes: it would have crashed

    def same(self, name: str, predicted: Tensor) -> bool:
        """Whether a prediction equals the right one, bit for bit (in float64)."""
        return torch.equal(
            canonical(name, predicted).nan_to_num(1e30), canonical(name, self.predict(name, {}))
        )

    def finest(self, answers: list[Answer], names: Sequence[str]) -> list[Answer]:
        """Those that explain padding too, if any does."""
        fine = [
            answer for answer in answers
            if all(
                self.explained(
                    name, {k: v for m in answer for k, v in m.changes.items()}, everywhere=True
                )
                for name in names
            )
        ]
        return fine or answers

    def layers_with(self, answer: Answer) -> list[int]:
        """The layers at fault whose differences the same mistakes explain."""
        changes = {k: v for mistake in answer for k, v in mistake.changes.items()}
        faults: dict[int, list[str]] = {}
        for name in self.faults:
            group, number, _ = place(name)
            if group == "layers":
                faults.setdefault(number, []).append(name)
        return [
            number for number, names in faults.items()
            if all(self.explained(name, changes) for name in names)
        ]
