"""Which mistake is it? Somebody's tensors against every known mistake, alone and in pairs.

The rule: a mistake is named only when what it predicts is what came, to within the noise of the
precision at hand. Otherwise there is no name, only the nearest one and what it leaves over.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minibert.io.language import say
from minibert.parity.catalogue import CATALOGUE, Mistake, numbered
from minibert.parity.steps import Computation, Inputs, parse_name

MASKED = -5e3  # a score below this is a masked one, however it was masked
HALF = (torch.bfloat16, torch.float16)
PARTS = {"sentence": "pooling", "start": "qa", "end": "qa"}  # first words that belong together
Answer = tuple[Mistake, ...]


class Patience:
    """How long pairs of mistakes may be tried, and who is told how it goes.

    ``unfinished``: what was left out, in words.

    Raises:
        ValueError: ``seconds`` is no length of time.
    """

    def __init__(self, seconds: float, say: Callable[[str], object]) -> None:
        if not seconds >= 0:
            raise ValueError(f"seconds is {seconds}; 0 or more is allowed")
        self.seconds, self.say, self.unfinished = seconds, say, ""

    def __call__(self, pairs: Sequence[Answer]) -> Iterator[Answer]:
        """As many of the pairs as there is time for."""
        began = told = time.monotonic()
        self.say(
            f"no single mistake explains it; trying {len(pairs):,} pairs, for at most "
            f"{self.seconds:g} seconds"
        )
        for number, pair in enumerate(pairs):
            now = time.monotonic()
            if now - began > self.seconds:
                self.unfinished = f"{number:,} of {len(pairs):,} in {self.seconds:g} seconds"
                return
            if now - told > 10:
                told = now
                self.say(f"{number:,} of {len(pairs):,} pairs tried")
            yield pair


@dataclass
class Diagnosis:
    """What explains a difference.

    ``answers``: each a tuple of mistakes that explains all that was seen; several where they cannot
    be told apart by what was given; none where nothing known explains it. ``nearest`` is then the
    best of all, ``residual`` the part of the difference that it leaves (1 = all of it).
    ``hidden``: by the key of a mistake that is an answer, those that change no number beside it;
    ``also``: pairs of mistakes that give the same numbers as the single ones in ``answers``.
    ``partial``: it explains ``name`` and not all that was seen; ``harmless``: only padding differs.
    ``layers``: where the same happens. ``contradicted``: what explains ``name`` and is no answer,
    with the tensor that speaks against it. ``beyond``: a tensor that is wrong in another way.
    ``unfinished``: which part of the search was left out.
    """

    name: str
    answers: list[Answer]
    hidden: dict[str, list[Mistake]] = field(default_factory=dict)
    also: list[Answer] = field(default_factory=list)
    partial: bool = False
    harmless: bool = False
    nearest: Answer = ()
    residual: float = 1.0
    layers: list[int] = field(default_factory=list)
    contradicted: dict[Answer, str] = field(default_factory=dict)
    beyond: str = ""
    unfinished: str = ""

    def __str__(self) -> str:
        """The finding in words."""
        return say("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """The finding, line by line."""
        left_out = [f"Not all pairs of mistakes were tried: {self.unfinished}."]
        left_out *= bool(self.unfinished)
        if not self.answers:
            return [*self.unnamed(), *left_out]
        lines = []
        for number, answer in enumerate(self.answers):
            lines += ["or, which gives the same numbers here:"] * (number > 0)
            for mistake in answer:
                lines += [f"{mistake.title}  [{mistake.key}]", f"    effect: {mistake.effect}"]
                lines += [f"    cure:   {mistake.cure}"]
                lines += [f"    source: {mistake.source}"] * bool(mistake.source)
                others = [one for one in self.hidden.get(mistake.key, ())
                          if not one.effect.startswith("none")]  # no output shows them, ever
                if others:
                    known = "; ".join(f"{one.title} [{one.key}]" for one in others[:3])
                    more = f"; or {len(others) - 3} more" if len(others) > 3 else ""
                    lines.append("    hides:  if it is there, too, it can't be seen until this is "
                                 f"fixed: {known}{more}")
        lines += [
            "or both of these at once, which give the same numbers here: "
            + " + ".join(f"{mistake.title} [{mistake.key}]" for mistake in pair)
            for pair in self.also
        ]
        if self.harmless:
            lines.append("Only padding differs, which nothing reads as long as the mask is right.")
        if self.partial:
            lines.append(f"This explains {self.name}; there is another difference after it.")
        if self.beyond:
            lines.append(f"There is another difference, which this does not explain: {self.beyond}")
        if len(self.layers) > 1:
            lines.append(f"The same happens in layers {', '.join(map(str, self.layers))}.")
        return [*lines, *left_out]

    def unnamed(self) -> list[str]:
        """What is said where nothing explains it all."""
        if self.contradicted:
            return [
                f"not in the catalogue; what fits {self.name} is contradicted by another tensor:",
                *(f"    {' + '.join(mistake.title for mistake in answer)}: contradicted by {other}"
                  for answer, other in self.contradicted.items()),
            ]
        if self.nearest:
            return [
                "not in the catalogue; the nearest mistake there is: "
                + " + ".join(mistake.title for mistake in self.nearest)
                + f". It leaves {self.residual:.2g} of the difference unexplained, so it is not "
                "what happened here, or not all of it"
            ]
        return ["not in the catalogue, and nothing in the catalogue comes near"]

    def to_dict(self) -> dict:
        """For JSON: mistakes by their keys."""

        def keys(mistakes: Iterable[Mistake]) -> list[str]:
            return [mistake.key for mistake in mistakes]

        plain = ("harmless", "partial", "residual", "layers", "beyond", "unfinished")
        return {
            "tensor": self.name,
            "answers": list(map(keys, self.answers)),
            "hidden": {key: keys(others) for key, others in self.hidden.items()},
            "also": list(map(keys, self.also)),
            "nearest": keys(self.nearest),
            "contradicted": [[keys(one), other] for one, other in self.contradicted.items()],
            **{name: getattr(self, name) for name in plain},
        }


# ------------------------------------------------------------------------------------- precision


def precision(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The coarsest precision that all numbers fit into: what they were rounded to, at the latest.

    Masked scores do not count: a minus infinity fits everywhere.
    """
    floats = [t.detach().double().flatten() for t in tensors.values() if t.is_floating_point()]
    numbers = torch.cat([*floats, torch.zeros(1, dtype=torch.float64)])
    numbers = numbers[numbers.isfinite() & (numbers > MASKED)]
    for dtype in (*HALF, torch.float32):
        if torch.equal(numbers.to(dtype).double(), numbers):
            return dtype
    return torch.float64


def rounding(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Half a unit of the last digit of each number: what rounding to a dtype may change."""
    if dtype not in HALF:
        return torch.zeros_like(values)
    info = torch.finfo(dtype)
    half = torch.ldexp(torch.full_like(values, info.eps), torch.frexp(values).exponent - 2)
    return half.clamp(min=info.smallest_normal * info.eps / 2)


def canonical(name: str, values: Tensor) -> Tensor:
    """Scores masked by any large negative number count as equal."""
    if name.endswith((".scores", ".mask", "_logits")):
        return torch.where(values < MASKED, -1e4, values)
    return values


def part_of(name: str) -> tuple:
    """The layer or the part that a tensor belongs to."""
    group, number, step = parse_name(name)
    if group:
        return (group, 0 if group == "steps" else number)  # an optimizer is wrong in each step
    word = re.match(r"[a-z]*", step)[0]
    return (PARTS.get(word, word),)


# ------------------------------------------------------------------------------------- the judge


class Judge:
    """Somebody's tensors, and what should have come out of the same inputs.

    Args:
        inputs: the model and what went into it.
        mine: the tensors to be judged, by our names.
        given: those of them that went into somebody's code, and do not come from it.

    A tensor is predicted from the nearest tensors before it, as they were given: so each stage is
    judged by its own inputs, and a fault early on does not blame all that follows. Where the
    numbers were rounded to half precision, their own inputs are too coarse for that, and the
    prediction starts from the right values before the first fault.
    """

    def __init__(
        self, inputs: Inputs, mine: Mapping[str, Tensor], given: Collection[str] = ()
    ) -> None:
        self.inputs = inputs
        self.order = {name: i for i, name in enumerate(Computation(inputs).steps())}
        self.names = sorted(mine, key=self.order.__getitem__)
        self.mine = {name: mine[name].detach() for name in self.names}
        self.dtype = precision(self.mine)
        self.rounded = self.dtype in HALF
        self.cache: dict = {}  # converted weights
        self.runs: dict[tuple[str, torch.dtype], Computation] = {}
        self.screens: dict[str, float] = {}
        self.right = self.run({}, {}, torch.float64)
        self.own = [name for name in self.names if name not in given]
        # What predictions start from, converted once to the precision of most of them.
        self.given = {} if self.rounded else self.run(self.mine, {}, torch.float64).values
        self.verdicts: dict[str, str] = {}  # where rounded, of those up to the first fault
        for name in self.names:
            self.verdicts[name] = self.verdict(name)
            if self.rounded and self.verdicts[name] == "differs":
                break
            if self.rounded:
                self.given[name] = self.right[name]
        self.faults = [name for name, found in self.verdicts.items() if found == "differs"]

    # -- predicting

    def run(self, known: Mapping, changes: Mapping, dtype: torch.dtype) -> Computation:
        """A computation over these inputs."""
        return Computation(self.inputs, known, changes, dtype, self.cache)

    def known_before(self, name: str) -> dict[str, Tensor]:
        """What a tensor is predicted from."""
        if self.rounded and name.startswith("steps."):
            return {}  # a fault may hide below the rounding in earlier steps
        return {n: value for n, value in self.given.items() if self.order[n] < self.order[name]}

    def predict(self, name: str, changes: Mapping, dtype=torch.float64) -> Tensor:
        """What should have come under this name, with some steps done differently."""
        right = self.right_run(name, dtype)
        steps = right.computed if "weights" not in changes else []
        unchanged = list(itertools.takewhile(lambda n: parse_name(n)[2] not in changes, steps))
        if len(unchanged) == len(right.computed):
            return right[name]
        before = {n: right.values[n] for n in unchanged}
        return self.run(self.known_before(name) | before, changes, dtype)[name]

    def right_run(self, name: str, dtype: torch.dtype) -> Computation:
        """The right computation of a tensor from what is known before it."""
        if (name, dtype) not in self.runs:
            self.runs[name, dtype] = self.run(self.known_before(name), {}, dtype)
            self.runs[name, dtype][name]
        return self.runs[name, dtype]

    # -- comparing

    def counts(self, name: str, values: Tensor) -> Tensor:
        """Which numbers matter: those of real tokens (as a mask that broadcasts)."""
        real = self.inputs.batch.get("attention_mask")
        if real is None or name.startswith("steps.") or not values.dim():
            return torch.ones((), dtype=torch.bool)
        (B, T), real = real.shape, real.bool()
        if values.dim() == 4 and values.shape[2] == T:
            return real[:, None, :, None]
        if values.shape[:2] == (B, T) and not name.startswith("pool"):
            return real.reshape(B, T, *[1] * (values.dim() - 2))
        rows = real.any(1) if values.shape[0] == B else torch.ones(1, dtype=torch.bool)
        return rows.reshape(-1, *[1] * (values.dim() - 1))

    def residual(self, name: str, predicted: Tensor, everywhere: bool = False) -> float:
        """The largest difference between what came and what is predicted, less the rounding."""
        mine, predicted = self.mine[name].double(), predicted.double()
        if mine.shape != predicted.shape:
            return math.inf
        mine, predicted = canonical(name, mine), canonical(name, predicted)
        rest = ((mine - predicted).abs() - rounding(predicted, self.dtype)).clamp(min=0)
        rest = torch.where((mine == predicted) | (mine.isnan() & predicted.isnan()), 0.0, rest)
        if not everywhere:
            rest = torch.where(self.counts(name, mine), rest, 0.0)
        return float(rest.nan_to_num(nan=math.inf, posinf=math.inf).max())

    def noise(self, name: str, changes: Mapping) -> float:
        """How far code may be from the exact value of what it computes, in the precision at hand.

        In float32: what our own order of operations loses, times 16, and some last digits.
        """

        def finite(values: Tensor) -> Tensor:  # and masked scores as zeros
            values = canonical(name, values.double())
            return torch.where(values <= MASKED, 0.0, values).nan_to_num(0, 0, 0)

        exact = finite(self.predict(name, changes))
        if not exact.numel():
            return 0.0
        size = float(exact.abs().max())
        if self.dtype == torch.float64:
            return 1e4 * torch.finfo(torch.float64).eps * size + 1e-15
        lost = float((exact - finite(self.predict(name, changes, torch.float32))).abs().max())
        return 16 * lost + 8 * torch.finfo(torch.float32).eps * size

    def left_over(self, name: str, changes: Mapping, everywhere: bool = False) -> float:
        """The residual that some changed steps leave; infinite where such code does not run."""
        try:
            return self.residual(name, self.predict(name, changes), everywhere)
        except (RuntimeError, IndexError):
            return math.inf

    def explained(self, name: str, changes: Mapping, everywhere: bool = False) -> bool:
        """Whether what came is what the changed steps predict, to within the noise."""
        rest = self.left_over(name, changes, everywhere)
        if rest in (0, math.inf) or rest > self.screen(name):
            return rest == 0
        return rest <= self.noise(name, changes)

    def screen(self, name: str) -> float:
        """A residual above this needs no closer look: it is a good part of the difference."""
        if name not in self.screens:
            part = 0.02 * self.left_over(name, {})  # infinite where one of the two is no number
            self.screens[name] = max(part, 1e3 * self.noise(name, {}), 1e-9)
        return self.screens[name]

    def verdict(self, name: str) -> str:
        """One of: equal, padding (differs on padding only), differs. By its own inputs."""
        if self.explained(name, {}, everywhere=True):
            return "equal"
        return "padding" if self.explained(name, {}) else "differs"

    # -- mistakes

    def scope(self, first: str) -> list[str]:
        """The tensors that belong to the same layer (or part) as the first fault, itself first."""
        same = [name for name in self.names if part_of(name) == part_of(first)]
        return sorted(same, key=lambda name: name != first)

    def visible(self, changed: Mapping, names: Sequence[str]) -> bool:
        """Whether some changed steps change any of these tensors, in float64, by a bit."""

        def bits(name: str, changes: Mapping) -> Tensor:
            return canonical(name, self.predict(name, changes)).nan_to_num(1e30)

        try:
            return any(not torch.equal(bits(n, changed), bits(n, {})) for n in names)
        except (RuntimeError, IndexError, KeyError):
            return False  # the mistake does not fit these shapes: it would have crashed

    def explains(self, answer: Answer, names: Sequence[str], everywhere: bool = False) -> bool:
        """Whether some mistakes, put in together, give all of these tensors."""
        changes = together(answer)
        return all(self.explained(name, changes, everywhere) for name in names)

    def gap(self, first: str) -> range:
        """The layers that a fault can lie in: from the tensor before it to its own."""
        last = self.inputs.config.num_hidden_layers - 1
        before = self.names[: self.names.index(first)]
        layer_of = {name: parse_name(name)[1] for name in before if name.startswith("layers.")}
        start = max((number + name.endswith(".feed_forward_norm")
                     for name, number in layer_of.items()), default=0)
        end = parse_name(first)[1] if first.startswith("layers.") else last
        return range(start, end + 1 if not first.startswith("embeddings") else 0)

    def contradicts(self, name: str, answer: Answer, first: str) -> bool:
        """Whether a tensor speaks against some mistakes that explain another one.

        It does if they do not explain it though they change it, or would: because it is right,
        because it is made from the other one directly, or is the same in another optimizer step.
        """
        changes, (group, _, step) = together(answer), parse_name(name)
        if self.explained(name, changes):
            return False
        if name not in self.verdicts and "weights" in changes:  # rounded, and after the fault
            return True
        return (
            self.verdicts.get(name) in ("equal", "padding")
            or group == "steps" and step == parse_name(first)[2]
            or not self.rounded and self.visible(changes, [name])
            or self.reads(name, first)
        )

    def reads(self, name: str, other: str) -> bool:
        """Whether a tensor is made from another one directly, without a third between them."""
        known = {n: self.right[n] for n in self.names[: self.names.index(name)]}
        if other not in known:
            return False
        moved = self.run(known | {other: known[other] + 1}, {}, torch.float64)
        return not torch.equal(moved[name], self.run(known, {}, torch.float64)[name])

    def layers_with(self, answer: Answer) -> list[int]:
        """The layers at fault whose differences the same mistakes explain."""
        faults: dict[int, list[str]] = {}
        for name in self.faults:
            if name.startswith("layers."):
                faults.setdefault(parse_name(name)[1], []).append(name)
        return [number for number, names in faults.items() if self.explains(answer, names)]


# ------------------------------------------------------------------------------------ matching


def together(answer: Answer) -> dict:
    """The steps that some mistakes change between them."""
    return {step: change for mistake in answer for step, change in mistake.changes.items()}


def disjoint_pairs(mistakes: Sequence[Mistake]) -> list[Answer]:
    """The pairs of mistakes that change different steps, so that both can be there at once."""
    return [
        (one, two) for one, two in itertools.combinations(mistakes, 2)
        if not one.changes.keys() & two.changes.keys()
    ]


def find(mistakes: Sequence[Mistake], explains: Callable[[Answer], bool]) -> Diagnosis | None:
    """Name the mistake, or else the pair, that explains what was seen; None if there is none.

    For anything that is no tensor of a BERT (words, tables, shares): ``explains`` says whether some
    mistakes together give exactly what came.
    """

    def fits(answer: Answer) -> bool:
        try:
            return explains(answer)
        except (RuntimeError, IndexError):
            return False  # the mistake does not fit these shapes: it would have crashed

    for candidates in ([(mistake,) for mistake in mistakes], disjoint_pairs(mistakes)):
        if answers := [answer for answer in candidates if fits(answer)]:
            return Diagnosis("", answers)
    return None


def diagnose_parts(judges: Mapping[str, Judge]) -> Diagnosis | None:
    """`diagnose` code that was tried on several parts of a task, by their titles.

    One name for all parts if there is one, else for the first part that has one; of answers that
    give the same numbers, those that change nothing beyond what the parts compute.
    """

    def tightest(found: Diagnosis, judge: Judge) -> list[Answer]:
        computed = judge.right_run(found.name, torch.float64).computed
        here = {parse_name(step)[2] for step in computed}
        within = [answer for answer in found.answers if together(answer).keys() <= here]
        return within or found.answers

    found = diagnose(list(judges.values()))
    if found and found.answers and not found.partial:
        found.answers, found.harmless = tightest(found, list(judges.values())[-1]), False
        return found
    for title, judge in judges.items():
        one = diagnose([judge])
        if one and one.answers:
            one.answers = tightest(one, judge)
            others = any(other.faults for other in judges.values() if other is not judge)
            one.name, one.partial, one.harmless = f"the part {title!r}", others, False
            return one
    comparable = found and math.isfinite(found.residual)  # else another shape: nothing is near
    return found if comparable else None


class Search:
    """The search for what explains a fault, and all that came from the same part of the code.

    ``against``: what explains the fault itself or its part, and is no answer all the same → the
    tensor that speaks against it.
    """

    def __init__(self, judges: Sequence[Judge], first: str) -> None:
        self.first = first
        self.seen = [(judge, names) for judge in judges if (names := judge.scope(first))]
        self.against: dict[Answer, str] = {}

    def fits(self, answer: Answer, whole: bool = True, everywhere: bool = False) -> bool:
        """Whether it explains the fault (whole: its part, too), and nothing speaks against it.

        A mistake in the weights must be true of all layers in a dump, those that are right, too.
        """
        weights = "weights" in together(answer)
        places = self.seen if whole else [place for place in self.seen if self.first in place[1]]
        for judge, names in places:
            if not judge.explains(answer, names if whole else [self.first], everywhere):
                return False
        for judge, names in places:
            for name in judge.own if weights else () if whole else names:
                if judge.contradicts(name, answer, self.first):
                    self.against[answer] = name
                    return False
        return True

    def unexplained(self, answer: Answer) -> str:
        """The first tensor, of any part, that is wrong in another way; "" = there is none."""
        changes = together(answer)
        return next((name for judge, _ in self.seen for name in judge.faults
                     if not judge.explained(name, changes)), "")

    def fit(self, candidates: Iterable[Answer], **how: bool) -> list[Answer]:
        """Those that fit; one of several forms of the same mistake."""
        found: dict[tuple[str, ...], Answer] = {}
        for answer in candidates:
            if self.fits(answer, **how):
                found.setdefault(tuple(mistake.title for mistake in answer), answer)
        return list(found.values())


def diagnose(
    judges: Sequence[Judge], pairs: bool = True, patience: Patience | None = None
) -> Diagnosis | None:
    """Name what explains the first fault, and all that came from the same part.

    Args:
        judges: one for each set of inputs that the code was tried on; a name must explain all.
        pairs: whether to try pairs of mistakes: they are what may hide behind one that is named.
        patience: where pairs take long. They are tried only if no single mistake explains
            everything, and no longer than it lasts.

    Returns None where there is nothing to explain. A difference on padding alone is no fault, but
    it is named where it can be (``harmless``).
    """
    # What wrong code makes of NaN depends on how it is written: asked only where all else is right.
    numbers = [
        judge for judge in judges
        if not any(bool(weight.isnan().any()) for weight in judge.inputs.weights.values())
    ]
    harmless = not any(judge.faults for judge in judges)
    judges = numbers if harmless or any(judge.faults for judge in numbers) else judges
    wrong = [
        (judge.order[name], name, judge)
        for judge in judges for name, verdict in judge.verdicts.items()
        if verdict == ("padding" if harmless else "differs")
    ]
    if not wrong:
        return None
    _, first, main = min(wrong, key=lambda found: found[0])
    search = Search(judges, first)
    mistakes = suspects(search.seen)
    singles = [(mistake,) for mistake in mistakes]
    if harmless:
        answers = search.fit(singles, everywhere=True)
        return Diagnosis(first, answers, residual=0.0, harmless=True) if answers else None
    alone = search.fit(singles) or search.fit(
        (one,) for one in numbered(main.inputs.config, main.gap(first)))
    beside: list[Answer] = []
    if pairs and not (alone and patience):
        beside = search.fit((patience or iter)(disjoint_pairs(mistakes)))
    exact = search.fit(alone, everywhere=True), search.fit(beside, everywhere=True)
    if any(exact):  # padding too, if anything explains that
        alone, beside = exact
    answers = alone or beside
    unexplained = {answer: search.unexplained(answer) for answer in answers}
    everything = [answer for answer in answers if not unexplained[answer]]
    result = Diagnosis(first, everything or answers)
    result.beyond = "" if everything or not answers else unexplained[answers[0]]
    result.unfinished = patience.unfinished if patience else ""
    for mistake, *_ in result.answers if alone else ():
        result.hidden[mistake.key] = [
            other for pair in beside if mistake in pair for other in pair if other != mistake
        ]
    named = [together(answer) for answer in alone]  # one that is made of two others is no pair
    result.also = [
        pair for pair in beside
        if alone and together(pair) not in named and not any((m,) in alone for m in pair)
    ]
    if not result.answers:
        result.answers = search.fit(singles, whole=False)
        result.partial = bool(result.answers)
    if result.answers:
        result.layers, result.residual = main.layers_with(result.answers[0]), 0.0
    elif search.against:
        result.contradicted = search.against
    elif mistakes:
        rests = [main.left_over(first, mistake.changes) for mistake in mistakes]
        share = min(rests) / (main.left_over(first, {}) or 1.0)
        if share < 0.5:
            result.residual, result.nearest = share, singles[rests.index(min(rests))]
    return result


def suspects(seen: Sequence[tuple[Judge, list[str]]]) -> list[Mistake]:
    """The mistakes that change any of these tensors that are wrong, on any of the inputs.

    What went into somebody's code was not made by it, though padding may differ there.
    """
    wrong = [(judge, [n for n in names if n in judge.own and judge.verdicts.get(n) != "equal"])
             for judge, names in seen]
    return [m for m in CATALOGUE if any(judge.visible(m.changes, names) for judge, names in wrong)]
