"""How an exercise is judged: the learner's function is called, and its numbers are looked at.

A part is inputs and a judgement of what came back. What is wrong is named where a known mistake, or
a pair of them, explains what came back in every part; it is shown side by side in any case.
"""

from __future__ import annotations

import random
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minibert.course import runner as sandbox
from minibert.parity.catalogue import BY_KEY, CATALOGUE, Mistake
from minibert.parity.diagnosis import Diagnosis, Judge, diagnose_parts, find, together
from minibert.parity.report import describe
from minibert.parity.steps import STEPS, Computation, Inputs
from minibert.parity.user_code import blame

# What right code may differ by in float32 when it takes another order of operations, for numbers of
# size 1: einsum, fused and numpy solutions stay below 2e-6 here, the smallest mistake that is
# taught (eps 1e-5 for 1e-12) shows 3e-4.
TOLERANCE = 1.2e-5
LARGEST = 1_000_000  # numbers that a function may return

# -------------------------------------------------------------------------- what an exercise is


@dataclass(frozen=True)
class Stage:
    """Numbers to be judged as stages of a tiny BERT: given ``known``, returned ``names``."""

    inputs: Inputs
    known: dict[str, Tensor]
    names: list[str]

    def judge(self, got: Sequence[Tensor], catalogue: Sequence[Mistake] = CATALOGUE) -> Judge:
        """The learner's tensors, held against what comes from the same inputs."""
        mine = dict(zip(self.names, (tensor.float() for tensor in got), strict=True))
        return Judge(self.inputs, {**self.known, **mine}, catalogue)


@dataclass(frozen=True)
class Case:
    """One part of an exercise: inputs, and what is wrong with what came back (nothing: []).

    ``call`` is how the function is used, where it is not simply ``function(*args)``.
    """

    title: str
    points: int
    args: tuple
    wrong: Callable[[Any], list[str]]
    stage: Stage | None = None
    call: Callable[[Callable, tuple], Any] | None = None
    one: Callable[[tuple], tuple] = lambda args: args  # the arguments of one call


@dataclass(frozen=True)
class Exercise:
    """One exercise: its text, its hints, its parts and its mistakes.

    ``diagnose`` gets the parts with what came back for each, and names a mistake or does not.
    """

    name: str
    title: str
    signature: str
    text: str
    hints: str  # three, each more concrete than the one before, with an empty line between
    cases: Callable[[int], list[Case]]
    diagnose: Callable[[list[tuple[Case, Any]]], Diagnosis | None]
    leaves_arguments: bool = True  # worth a point: the tensors that were given are not written to
    repeatable: bool = True  # the same arguments give the same result

    @property
    def parameters(self) -> list[str]:
        """The names of the function's parameters."""
        inner = self.signature[self.signature.index("(") + 1 : self.signature.index(") ->")]
        return [part.split(":")[0].strip() for part in inner.split(", ") if ":" in part]

    def starting_file(self) -> str:
        """What a learner starts from: signature, shapes, source; nothing to copy."""
        body = "\n".join(f"    {line}".rstrip() for line in self.text.strip().splitlines())
        imports = (
            "import torch\nfrom torch import Tensor\n\n\n" if "Tensor" in self.signature else ""
        )
        signature = self.signature
        if len(signature) > 94:
            name, inner, returns = re.fullmatch(r"(\w+)\((.*)\) -> (.*)", signature).groups()
            wrapped = textwrap.fill(inner, 99, initial_indent="    ", subsequent_indent="    ")
            signature = f"{name}(\n{wrapped}\n) -> {returns}"
        return (
            f'"""{self.title}\n\nJudge it: minibert check {self.name} THIS_FILE\n'
            f'Hints:    minibert check {self.name} --hint 1 (then 2, 3)\n"""\n\n{imports}'
            f'def {signature}:\n    """{body.lstrip()}\n    """\n'
            f'    raise NotImplementedError("write {self.name} here")\n'
        )


@dataclass
class Part:
    """The judgement of one part."""

    title: str
    points: int
    out_of: int
    lines: list[str] = field(default_factory=list)  # what is wrong
    judged: bool = True  # False: it was not reached


@dataclass
class Judgement:
    """The judgement of one exercise. ``str()`` is the report."""

    exercise: str
    source: str
    parts: list[Part]
    stopped: str = ""  # why there is nothing more to judge
    finding: Diagnosis | None = None
    printed: str = ""

    @property
    def points(self) -> int:
        """The points reached."""
        return sum(part.points for part in self.parts)

    @property
    def out_of(self) -> int:
        """The points there are."""
        return sum(part.out_of for part in self.parts)

    @property
    def passed(self) -> bool:
        """Whether all points were reached."""
        return self.points == self.out_of

    @property
    def summary(self) -> str:
        """What is wrong, in a few words."""
        if self.stopped:
            return self.stopped.splitlines()[0]
        if self.finding and self.finding.answers:
            return " + ".join(mistake.title for mistake in self.finding.answers[0])
        return next((part.lines[0].strip() for part in self.parts if part.lines), "")

    def __str__(self) -> str:
        """The report."""
        lines = [f"{self.exercise}: {self.points} of {self.out_of} points  ({self.source})", ""]
        for part in self.parts:
            mark = "ok   " if part.points else "wrong" if part.judged else "-    "
            lines.append(f"  {mark} {part.points}/{part.out_of}  {part.title}")
        if self.stopped:
            lines += ["", self.stopped]
        shown = set()
        for number, part in enumerate(self.parts, 1):
            if part.lines and "\n".join(part.lines) not in shown and len(shown) < 2:
                shown.add("\n".join(part.lines))
                lines += ["", f"Part {number}, {part.title}:", *part.lines]
        if self.finding:
            lines += ["", "What it is:", *(f"  {line}" for line in str(self.finding).splitlines())]
        if self.printed:
            lines += [
                "",
                "Your code printed:",
                *(f"  {line}" for line in self.printed.splitlines()),
            ]
        if not self.passed:
            lines += [
                "",
                f"Hints: minibert check {self.exercise} --hint 1 (then 2, 3); in a notebook "
                f'check("{self.exercise}", ..., hint=1).',
                f"The inputs of a part: from minibert.course.exercises import inputs; "
                f'inputs("{self.exercise}", part=1)',
            ]
        return "\n".join(lines)

    def to_dict(self) -> dict:
        """For JSON."""
        return {
            "exercise": self.exercise,
            "source": self.source,
            "points": self.points,
            "out_of": self.out_of,
            "parts": [vars(part) for part in self.parts],
            "stopped": self.stopped,
            "diagnosis": self.finding.to_dict() if self.finding else None,
            "summary": self.summary,
        }


# ----------------------------------------------------------------------------- calling and judging


def observe(
    exercise: Exercise, function: Callable, cases: Sequence[Case], path: str | None = None
) -> Iterator[dict]:
    """Call a function on each part. Yields {"got": ...} or {"error": ...}, ready for JSON."""
    for number, case in enumerate(cases):
        for generator in (torch.manual_seed, random.seed, seed_numpy):
            generator(number)
        given = copied(case.args)
        try:
            got = (case.call or plain_call)(function, given)
            seen = {"got": encode(got)}
        except NotImplementedError:
            seen = {"error": "not written yet"}
        except (Exception, SystemExit, sandbox.Refused) as error:  # an interrupt goes through
            seen = {"error": blame(error, path)}
        if exercise.repeatable and isinstance(seen.get("got"), dict):
            again = encode((case.call or plain_call)(function, copied(case.args)))
            seen["random"] = repr(again) != repr(seen["got"])
        seen["changed"] = [
            name
            for name, before, after in zip(exercise.parameters, case.args, given, strict=False)
            if not same(before, after)
        ]
        yield seen


def judgement(
    exercise: Exercise,
    cases: Sequence[Case],
    observed: Sequence[dict],
    source: str,
    stopped: str = "",
    printed: str = "",
) -> Judgement:
    """What came back, judged part by part."""
    parts, pairs, changed = [], [], []
    for case, seen in zip(cases, [*observed, *[{}] * len(cases)], strict=False):
        changed += seen.get("changed", [])
        if "error" in seen:
            lines = [f"  {line}" for line in str(seen["error"]).splitlines()]
        elif "got" not in seen:
            parts.append(Part(case.title, 0, case.points, judged=False))
            continue
        else:
            try:
                got = decode(seen["got"])
                lines = case.wrong(got)
                pairs.append((case, got))
            except Unusable as error:
                lines = [f"  {error}"]
        parts.append(Part(case.title, 0 if lines else case.points, case.points, lines))
    finding = None
    if any(seen.get("random") for seen in observed):
        finding = Diagnosis("", [(BY_KEY["dropout-left-on"],)])
    elif any(part.lines for part in parts) and pairs:
        finding = exercise.diagnose(pairs)
    if exercise.leaves_arguments:
        names = ", ".join(dict.fromkeys(changed))
        lines = [f"  written to: {names}; work on a copy (x = x + 1, not x += 1)"] if names else []
        earned = any(part.points for part in parts)  # doing nothing earns nothing
        title, one = "the arguments are left as they were", int(earned and not lines)
        parts.append(Part(title, one, 1, lines, judged=bool(one or lines)))
    return Judgement(exercise.name, source, parts, stopped, finding, printed)


# -------------------------------------------------------------------- to the learner and back


class Unusable(ValueError):
    """What a function returned is not of the kind that is asked for."""


def plain_call(function: Callable, args: tuple) -> Any:
    """Call it once."""
    return function(*args)


def copied(value: Any) -> Any:
    """A copy of arguments, tensors and all."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(map(copied, value))
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    return value


def same(one: Any, two: Any) -> bool:
    """Whether arguments are still what they were."""
    if isinstance(one, Tensor):
        return one.shape == two.shape and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return one == two


def seed_numpy(seed: int) -> None:
    """Seed numpy, whose import is kept out of the way."""
    import numpy as np

    np.random.seed(seed)


def encode(value: Any) -> Any:
    """What a function returned, for JSON. Numbers of numpy and of torch are treated alike."""
    import numpy as np

    if isinstance(value, (np.ndarray, np.generic)):
        value = torch.from_numpy(np.asarray(value).copy())
    if isinstance(value, Tensor):
        if value.numel() > LARGEST:
            raise ValueError(f"returned a tensor of shape {tuple(value.shape)}: far too large")
        numbers = value.detach().cpu()
        numbers = numbers.double() if numbers.is_floating_point() else numbers.long()
        return {"shape": list(value.shape), "numbers": numbers.flatten().tolist()}
    if isinstance(value, (tuple, list)):
        return [encode(entry) for entry in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return {"type": type(value).__name__}


def decode(value: Any) -> Any:
    """The other way round."""
    if isinstance(value, list):
        return [decode(entry) for entry in value]
    if isinstance(value, dict):
        if "type" in value:
            raise Unusable(f"returned a {value['type']}")
        try:
            numbers = torch.tensor(value["numbers"])
            dtype = torch.float64 if numbers.is_floating_point() else torch.long
            return torch.tensor(value["numbers"], dtype=dtype).reshape(value["shape"])
        except (KeyError, TypeError, ValueError, RuntimeError):
            raise Unusable("returned something that is not numbers") from None
    return value


def tensors(got: Any, count: int, what: str) -> list[Tensor]:
    """What came back, as so many tensors of numbers.

    Raises:
        Unusable: it is something else.
    """
    values = [got] if count == 1 else got
    if count > 1 and not (isinstance(got, list) and len(got) == count):
        raise Unusable(f"returned {kind(got)}; {what} are needed")
    found = []
    for value in values:
        if isinstance(value, list):  # nested lists of plain numbers
            try:
                value = torch.tensor(value, dtype=torch.float64)
            except (TypeError, ValueError, RuntimeError):
                raise Unusable(f"returned {kind(value)}; {what} is needed") from None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = torch.tensor(float(value), dtype=torch.float64)
        if not isinstance(value, Tensor):
            raise Unusable(f"returned {kind(value)}; {what} is needed")
        found.append(value)
    return found


def kind(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "nothing (is there a return?)"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list) else "")


# ------------------------------------------------------------ numbers, as stages of a tiny BERT


def ragged(seed: int, lengths: Sequence[int], words: int = 40) -> dict[str, Tensor]:
    """Texts of these lengths in tokens, of two segments each, padded to the longest."""
    generator = torch.Generator().manual_seed(seed)
    B, T = len(lengths), max(lengths)
    ids = torch.randint(5, words, (B, T), generator=generator)
    mask, types = torch.zeros(B, T, dtype=torch.long), torch.zeros(B, T, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
        types[row, length // 2 : length] = 1
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types}


def stage(model: Inputs, known: Sequence[str], name: str) -> Stage:
    """The stage of a tiny BERT between some tensors and another one."""
    run = Computation(model, dtype=torch.float32)
    return Stage(model, {key: run[key].contiguous() for key in known}, [name])


def near(place: Stage, check: Sequence[str] | None = None, what: str = "a tensor") -> Callable:
    """Judge numbers: shape and values of the real tokens, each from its own inputs.

    ``check``: the names that count in this part (all of them by default).
    """

    def wrong(got: Any) -> list[str]:
        found = tensors(got, len(place.names), what)
        right = Computation(place.inputs, place.known)
        for name, tensor in zip(place.names, found, strict=True):
            if tensor.shape != right[name].shape:
                return [f"  shape {tuple(tensor.shape)}, but {tuple(right[name].shape)} is needed"]
        with_inputs = place.judge(found)
        for name, tensor in zip(place.names, found, strict=True):
            if name not in (check or place.names):
                continue
            expected = with_inputs.predict(name, {})
            allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
            if with_inputs.residual(name, expected) > allowed:
                heads = place.inputs.config.num_attention_heads
                real = with_inputs.counts(name, expected)
                shown = torch.where(real, tensor.double(), expected)
                return describe(name, shown, expected, allowed, place.inputs.batch, heads=heads)
        return []

    return wrong


def by_catalogue(only: Sequence[str] = (*STEPS, "weights")) -> Callable:
    """Name the mistake, or the pair, that explains what came back in every part.

    ``only``: mistakes that change none but these steps.
    """
    catalogue = [m for m in CATALOGUE if m.changes and set(m.changes) <= set(only)]

    def diagnose(pairs: list[tuple[Case, Any]]) -> Diagnosis | None:
        judges = {}
        for case, got in pairs:
            try:
                found = tensors(got, len(case.stage.names), "") if case.stage else []
            except Unusable:
                continue
            if found and all(tensor.dim() and tensor.numel() for tensor in found):
                judges[case.title] = case.stage.judge(found, catalogue)
        return diagnose_parts(judges)

    return diagnose


# ------------------------------------------------------------------------------ words and tables


def same_words(right: Callable[[Any], list[str]]) -> Callable[[Sequence], Callable]:
    """Judge lists of words: shows the first text that is cut otherwise."""

    def of(texts: Sequence[str]) -> Callable:
        def wrong(got: Any) -> list[str]:
            for text, mine in zip(texts, got, strict=True):
                if not isinstance(mine, list):
                    raise Unusable(f"returned {kind(mine)} for {text!r}; a list of str is needed")
                if mine != right(text):
                    shown = text if len(text) <= 60 else f"{text[:30]}... ({len(text)} characters)"
                    return [
                        f"  for       {shown!r}",
                        f"  yours     {shorten(mine)}",
                        f"  reference {shorten(right(text))}",
                    ]
            return []

        return wrong

    return of


def shorten(words: Sequence) -> str:
    """A list of words that fits a line or two."""
    text = repr(list(words))
    return text if len(text) <= 150 else f"{text[:110]} ... ({len(words)} in all)"


def by_steps(
    right: Mapping[str, Callable],
    run: Callable[[tuple, Mapping], Any],
    mistakes: Sequence[Mistake],
    equal: Callable[[Any, Any], bool],
) -> Callable:
    """Name the mistake, or the pair, with which ``run`` gives what came back in every part."""

    def diagnose(pairs: list[tuple[Case, Any]]) -> Diagnosis | None:
        def explains(answer: tuple[Mistake, ...]) -> bool:
            do = {**right, **together(answer)}
            return all(equal(run(case.args, do), got) for case, got in pairs)

        return None if explains(()) else find(mistakes, explains)

    return diagnose


def finite(then: Callable) -> Callable:
    """Judge that there is no NaN, nor infinity; then as usual."""

    def wrong(got: Any) -> list[str]:
        bad = ~tensors(got, 1, "a tensor")[0].isfinite()
        if bad.any():
            return [
                f"  NaN or infinity in {int(bad.sum())} of {bad.numel()} numbers: minus infinity "
                "in every score of a row makes",
                "  the softmax 0/0; add a large finite number, such as torch.finfo(dtype).min",
            ]
        return then(got)

    return wrong


def close_to(expected: Tensor) -> Callable:
    """Judge one tensor against numbers."""

    def wrong(got: Any) -> list[str]:
        mine = tensors(got, 1, "a tensor")[0]
        if mine.shape != expected.shape:
            return [f"  shape {tuple(mine.shape)}, but {tuple(expected.shape)} is needed"]
        if within(expected, mine):
            return []
        return describe("table", mine, expected, TOLERANCE)

    return wrong


def within(expected: Tensor, got: Any) -> bool:
    """Whether a tensor came back that is this one, to within the tolerance."""
    return (
        isinstance(got, Tensor)
        and got.shape == expected.shape
        and bool(
            ((got - expected).abs() <= TOLERANCE * max(1.0, float(expected.abs().max()))).all()
        )
    )
