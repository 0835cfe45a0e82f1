"""Twelve exercises, from a string to a fine-tuning step, and how they are judged.

Each asks for one function. It is judged by the numbers it returns, part by part, never by reading
its source: loops, einsum, fused or numpy, all are right where the numbers are. What is wrong is
named where a known mistake explains all that was seen, and shown side by side in any case.

    from minibert.exercises import check
    check("attention", my_function)  # or a file: check("attention", "attention.py")
"""

from __future__ import annotations

import csv
import io
import math
import os
import random
import string
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert import sandbox, tokenizer
from minibert.config import BertConfig
from minibert.diagnosis import Diagnosis, Judge
from minibert.files import write_text
from minibert.heads import BertForSequenceClassification
from minibert.learner import blame
from minibert.mistakes import BY_KEY, CATALOGUE, Mistake
from minibert.model import BertModel
from minibert.parity import describe
from minibert.steps import STEPS, Computation, place
from minibert.unicode_tables import CJK, PUNCTUATION, SPACE

# What right code may differ by in float32 when it takes another order of operations, for numbers of
# size 1: einsum, fused and numpy solutions stay below 2e-6 here, the smallest mistake that is
# taught (eps 1e-5 for 1e-12) shows 3e-4.
TOLERANCE = 1.2e-5
LARGEST = 1_000_000  # numbers that a function may return

# -------------------------------------------------------------------------- what an exercise is


@dataclass(frozen=True)
class Stage:
    """Numbers to be judged as stages of a tiny BERT: the learner gets ``known``, returns ``names``."""

    config: BertConfig
    weights: dict[str, Tensor]
    batch: dict[str, Any]
    known: dict[str, Tensor]
    names: list[str]

    def judge(self, got: Sequence[Tensor], catalogue: Sequence[Mistake] = CATALOGUE) -> Judge:
        """The learner's tensors, held against what comes from the same inputs."""
        mine = dict(zip(self.names, (tensor.float() for tensor in got), strict=True))
        return Judge(self.config, self.weights, self.batch, {**self.known, **mine}, catalogue)


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
    hints: tuple[str, str, str]
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
        imports = "import torch\nfrom torch import Tensor\n\n\n" if "Tensor" in self.signature else ""
        return (
            f'"""{self.title}\n\nJudge it: minibert check {self.name} THIS_FILE\n'
            f'Hints:    minibert check {self.name} --hint 1 (then 2, 3)\n"""\n\n{imports}'
            f'def {self.signature}:\n    """{body.lstrip()}\n    """\n'
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
            lines += ["", "Your code printed:", *(f"  {line}" for line in self.printed.splitlines())]
        if not self.passed:
            lines += [
                "",
                f"Hints: minibert check {self.exercise} --hint 1 (then 2, 3); in a notebook "
                f'check("{self.exercise}", ..., hint=1).',
                f'The inputs of a part: from minibert.exercises import inputs; '
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


# -------------------------------------------------------------------------------- the judgement


def find(name: str) -> Exercise:
    """The exercise of that name; hyphens count as underscores.

    Raises:
        ValueError: there is none of that name.
    """
    key = name.replace("-", "_")
    if key not in EXERCISES:
        raise ValueError(f"no exercise {name!r}; there are {', '.join(EXERCISES)}")
    return EXERCISES[key]


def check(name: str, solution: Callable | str | os.PathLike, *, seed: int = 0, hint: int = 0) -> None:
    """Judge a function (here and now) or a file (in a process of its own); print the report.

    >>> check("attention", my_attention)
    """
    print(judge(name, solution, seed=seed))
    if hint:
        print(f"\n{hint_text(name, hint)}")


def judge(
    name: str, solution: Callable | str | os.PathLike, *, seed: int = 0, seconds: float = 10,
    megabytes: int = 2000,
) -> Judgement:
    """Judge a function, or a file within these limits.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such exercise.
    """
    exercise = find(name)
    if callable(solution):
        source = getattr(solution, "__name__", type(solution).__name__)
        cases = exercise.cases(seed)
        observed = list(observe(exercise, solution, cases))
        return judgement(exercise, cases, observed, source)
    path = Path(solution)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; write one: minibert check {name} --start {path}")
    observed, stopped, printed = sandbox.run(
        exercise.name, path, seed=seed, seconds=seconds, megabytes=megabytes
    )
    cases = exercise.cases(seed)
    return judgement(exercise, cases, observed, str(path), stopped, printed)


def observe(
    exercise: Exercise, function: Callable, cases: Sequence[Case], path: str | None = None
) -> Iterator[dict]:
    """Call a function on each part. Yields {"got": ...} or {"error": ...}, ready for JSON."""
    for number, case in enumerate(cases):
        for generator in (torch.manual_seed, random.seed, _seed_numpy):
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
            name for name, before, after in zip(exercise.parameters, case.args, given, strict=False)
            if not same(before, after)
        ]
        yield seen


def judgement(
    exercise: Exercise, cases: Sequence[Case], observed: Sequence[dict], source: str,
    stopped: str = "", printed: str = "",
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


def hint_text(name: str, number: int) -> str:
    """One of the three hints of an exercise, each more concrete than the one before.

    Raises:
        ValueError: there is none of that name or number.
    """
    hints = find(name).hints
    if not 1 <= number <= len(hints):
        raise ValueError(f"hint {number}; there are hints 1 to {len(hints)}")
    return f"Hint {number} of {len(hints)}: {hints[number - 1]}"


def inputs(name: str, part: int = 1, *, seed: int = 0) -> tuple:
    """What the function is called with in a part, to try it: ``my_function(*inputs(...))``."""
    cases = find(name).cases(seed)
    if not 1 <= part <= len(cases):
        raise ValueError(f"part {part}; {name} has parts 1 to {len(cases)} with inputs")
    case = cases[part - 1]
    return case.one(copied(case.args))


def start(name: str, path: str | os.PathLike) -> None:
    """Write the file that a learner starts from.

    Raises:
        FileExistsError: there is a file; nothing is overwritten.
    """
    if Path(path).exists():
        raise FileExistsError(f"{path} is there already and is not overwritten; name another file")
    write_text(path, find(name).starting_file())


# ------------------------------------------------------------------------------ a class of them


def submission(directory: str | os.PathLike, **limits: Any) -> dict[str, Judgement]:
    """Judge a directory with files named like the exercises; a missing file has no points."""
    found = {}
    for name, exercise in EXERCISES.items():
        path = Path(directory, f"{name}.py")
        if path.is_file():
            found[name] = judge(name, path, **limits)
        else:
            cases = exercise.cases(0)
            found[name] = judgement(exercise, cases, [], str(path), f"there is no {name}.py")
    return found


def submissions(
    directory: str | os.PathLike, workers: int | None = None, **limits: Any
) -> dict[str, dict[str, Judgement]]:
    """Judge a directory: one submission, or a folder of them, one directory for each student.

    Raises:
        ValueError: no file in it, nor one level below, is named like an exercise.
    """
    home = Path(directory)
    if has_exercises(home):
        students = [home]
    else:
        students = sorted(path for path in home.glob("*/") if has_exercises(path))
    if not students:
        raise ValueError(
            f"{home} has no exercises in it; files are named {next(iter(EXERCISES))}.py and so on, "
            "in the directory itself or in one directory for each student"
        )
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        results = pool.map(lambda path: submission(path, **limits), students)
        return {path.resolve().name: found for path, found in zip(students, results, strict=True)}


def has_exercises(directory: Path) -> bool:
    """Whether a file in the directory is named like an exercise."""
    return any((directory / f"{name}.py").is_file() for name in EXERCISES)


def class_table(results: Mapping[str, Mapping[str, Judgement]]) -> list[list]:
    """Rows of a table, student × exercise, with a head and the sums."""
    rows: list[list] = [["student", *EXERCISES, "sum"]]
    for student, found in results.items():
        points = [found[name].points for name in EXERCISES]
        rows.append([student, *points, sum(points)])
    return rows


def one_table(found: Mapping[str, Judgement]) -> str:
    """One submission: a line for each exercise, with what is wrong."""
    lines = [
        f"{name:<22} {one.points:>3} of {one.out_of}  {one.summary}" for name, one in found.items()
    ]
    points, out_of = sum(one.points for one in found.values()), sum(one.out_of for one in found.values())
    return "\n".join([*lines, f"{'':<22} {points:>3} of {out_of}"])


def as_csv(rows: Sequence[Sequence]) -> str:
    """A table as csv."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def as_text(rows: Sequence[Sequence]) -> str:
    """A table for the eye, a column for each student's exercise, heads upright and short."""
    head, *students = rows
    width = max(len(str(row[0])) for row in rows)
    heads = [head[0], *(str(number) for number in range(1, len(head) - 1)), head[-1]]
    lines = ["".join([f"{row[0]:<{width}}", *(f"{cell:>5}" for cell in row[1:])])
             for row in (heads, *students)]
    key = [f"{number:>3}  {name}" for number, name in enumerate(head[1:-1], 1)]
    return "\n".join([*lines, "", "Exercises, 10 points each:", *key])


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


def _seed_numpy(seed: int) -> None:
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


def tiny(
    seed: int, *, heads: int = 3, size: int = 4, wide: int = 20, lengths: Sequence[int] = (6, 3, 9),
    scale: float = 1.0,
) -> tuple[BertConfig, dict[str, Tensor], dict[str, Tensor]]:
    """A BERT of one layer in which every number matters, and ragged texts of two segments.

    A new model hides half of all mistakes: its biases are zero, its norms do nothing, its attention
    is nearly uniform. ``scale`` makes the states that go into the second norm small, so that eps
    counts.
    """
    config = BertConfig(
        vocab_size=40, hidden_size=heads * size, num_hidden_layers=1, num_attention_heads=heads,
        intermediate_size=wide, max_position_embeddings=16,
    )
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    shapes = {name: tuple(tensor.shape) for name, tensor in BertModel(config).state_dict().items()}
    weights = {}
    for name, shape in shapes.items():
        if "norm.weight" in name:
            weights[name] = 1 + 0.3 * draw(*shape)
        elif len(shape) == 1:
            weights[name] = 0.3 * draw(*shape)
        elif name.startswith("embeddings."):
            weights[name] = scale * 0.5 * draw(*shape)
        else:
            weights[name] = 1.5 / shape[1] ** 0.5 * draw(*shape)
    for name in ("embeddings.norm.weight", "embeddings.norm.bias", "layers.0.attention.output.weight",
                 "layers.0.attention.output.bias"):
        weights[name] = scale * weights[name]

    return config, weights, ragged(seed, lengths)


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


def stage(model: tuple, known: Sequence[str], name: str) -> Stage:
    """The stage of a tiny BERT between some tensors and another one."""
    run = Computation(*model, dtype=torch.float32)
    return Stage(*model, {key: run[key].contiguous() for key in known}, [name])


def near(place: Stage, check: Sequence[str] | None = None, what: str = "a tensor") -> Callable:
    """Judge numbers: shape and values of the real tokens, each from its own inputs.

    ``check``: the names that count in this part (all of them by default).
    """

    def wrong(got: Any) -> list[str]:
        found = tensors(got, len(place.names), what)
        right = Computation(place.config, place.weights, place.batch, place.known)
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
                heads = place.config.num_attention_heads
                real = with_inputs.counts(name, expected)
                shown = torch.where(real, tensor.double(), expected)
                return describe(name, shown, expected, allowed, place.batch, heads=heads)
        return []

    return wrong


def by_catalogue(extra: Sequence[Mistake] = (), only: Sequence[str] | None = None) -> Callable:
    """Name the mistake, or the pair, that explains what came back in every part.

    ``only``: mistakes that change none but these steps.
    """
    catalogue = [
        mistake for mistake in (*extra, *CATALOGUE)
        if mistake in extra or mistake.key not in {own.key for own in extra}
        if only is None or (mistake.changes and set(mistake.changes) <= set(only))
    ]

    def diagnose(pairs: list[tuple[Case, Any]]) -> Diagnosis | None:
        judges = []
        for case, got in pairs:
            try:
                found = tensors(got, len(case.stage.names), "") if case.stage else []
            except Unusable:
                continue
            if found and all(tensor.dim() and tensor.numel() for tensor in found):
                judges.append((case, case.stage.judge(found, catalogue)))
        failing = [(case, judge) for case, judge in judges if judge.faults]
        findings = [(case, judge, judge.diagnose()) for case, judge in reversed(failing)]
        for _, judge, finding in findings:  # the last part asks for most, so it tells most apart
            all_of_it = [
                answer for answer in finding.answers
                if all(explains(answer, *place, finding) for place in judges)
            ]
            if all_of_it:
                finding.answers = tightest(all_of_it, judge, finding.name)
                return finding
        for case, judge, finding in reversed(findings):
            if finding.answers:
                finding.answers = tightest(finding.answers, judge, finding.name)
                finding.name, finding.partial = f"the part {case.title!r}", True
                return finding
            if math.isfinite(finding.residual):  # else another shape, or NaN: nothing is near
                return finding
        return None

    def explains(answer: tuple, case: Case, judge: Judge, finding: Diagnosis) -> bool:
        changes = {key: step for mistake in answer for key, step in mistake.changes.items()}
        names = [finding.name] if finding.partial else case.stage.names
        return all(judge.explained(name, changes) for name in names)

    def tightest(answers: list, judge: Judge, name: str) -> list:
        """Of answers that give the same numbers, those that change nothing beyond what is asked."""
        here = {place(step)[2] for step in judge.right_run(name, torch.float64).computed}
        within = [answer for answer in answers if all(set(m.changes) <= here for m in answer)]
        return within or answers

    return diagnose


# ------------------------------------------------------------------------- 1 and 2: from a text


def each_first(function: Callable, args: tuple) -> list:
    """Call it on every text of the first argument."""
    return [function(first, *args[1:]) for first in args[0]]


def text_one(args: tuple) -> tuple:
    """The arguments of one call, of a part that makes one for each text."""
    return (args[0][0], *args[1:])


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
    right: Mapping[str, Callable], run: Callable[[tuple, Mapping], Any],
    mistakes: Sequence[Mistake], equal: Callable[[Any, Any], bool],
) -> Callable:
    """Name the mistake, or the pair, with which ``run`` gives what came back in every part."""

    def explains(answer: tuple[Mistake, ...], pairs: list[tuple[Case, Any]]) -> bool:
        changes = {key: step for mistake in answer for key, step in mistake.changes.items()}
        try:
            return all(equal(run(case.args, {**right, **changes}), got) for case, got in pairs)
        except (RuntimeError, IndexError):
            return False  # the mistake does not fit these shapes: it would have crashed

    def diagnose(pairs: list[tuple[Case, Any]]) -> Diagnosis | None:
        if explains((), pairs):
            return None
        singles = [(mistake,) for mistake in mistakes]
        both = [
            (one, two) for i, one in enumerate(mistakes) for two in mistakes[i + 1 :]
            if not one.changes.keys() & two.changes.keys()
        ]
        for candidates in (singles, both):
            answers = [answer for answer in candidates if explains(answer, pairs)]
            if answers:
                return Diagnosis("", answers, tried=len(singles) + len(both))
        return None

    return diagnose


WORDS = "The old House of Anna Berg stood near a River and Nobody knew why".split()
ACCENTED = "Café déjà naïve Señor Zürich Ålesund Škoda façade Łódź tiếng".split()
IDEOGRAPHS = "中文字国語学水火山豈㐂𠀀"
MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»¿¡—…、。"
BLANKS = " \t\n\r\u00a0\u2003\u3000"
CONTROLS = "\u0000\u0007\u00ad\u200b\u200d\u202a"

CLEANING = {
    "clean": tokenizer.clean,
    "cjk": tokenizer.space_cjk,
    "accents": tokenizer.strip_accents,
    "lower": tokenizer.lower_case,
    "split": tokenizer.split,
}


def words_of(text: str, do: Mapping[str, Callable] = CLEANING) -> list[str]:
    """The words of a text, with some steps done differently."""
    characters = [(c, place) for place, c in enumerate(text)]
    for name in ("clean", "cjk", "accents", "lower"):
        characters = do[name](characters)
    return ["".join(c for c, _ in word) for word in do["split"](characters)]


def characters_of(change: Callable[[str], str]) -> Callable:
    """A step that makes of each character none, one or more."""
    return lambda text: [(new, place) for c, place in text for new in change(c)]


def split_at(is_mark: Callable[[str], bool], *, drop: bool = False, runs: bool = False) -> Callable:
    """Another way to split: what counts as punctuation, whether it stays, whether runs stay whole."""

    def split(text: Sequence) -> list[list]:
        words: list[list] = [[]]
        last = ""
        for c, place in text:
            if c == " ":
                words.append([])
            elif not is_mark(c):
                if last and is_mark(last):
                    words.append([])
                words[-1].append((c, place))
            elif runs and last and is_mark(last):
                words[-1].append((c, place))
            else:
                words.append([] if drop else [(c, place)])
            last = c
        return [word for word in words if word]

    return split


def category(c: str) -> str:
    """Its general category in Unicode."""
    return unicodedata.category(c)


CLEANING_MISTAKES = (
    Mistake("case-kept", "capital letters are kept", {"lower": list},
            "an uncased vocabulary has no word with a capital: [UNK]", "lower-case every character"),
    Mistake("accents-kept", "accents are kept", {"accents": list},
            "café is not in the vocabulary, cafe is",
            "unicodedata.normalize('NFD', text), then drop the characters of category Mn"),
    Mistake("accents-apart", "accents are taken off the letters but not dropped",
            {"accents": characters_of(lambda c: unicodedata.normalize("NFD", c))},
            "words look right on the screen and are longer than they look",
            "after NFD drop the characters of category Mn"),
    Mistake("accents-with-letter", "letters with an accent are dropped with it",
            {"accents": characters_of(lambda c: "" if category(c) == "Mn" or (
                len(unicodedata.normalize("NFD", c)) > 1) else c)},
            "café becomes caf", "take the letter apart first (NFD), then drop only the mark"),
    Mistake("ascii-only", "everything outside of ASCII is dropped",
            {"accents": characters_of(lambda c: "".join(
                d for d in unicodedata.normalize("NFKD", c) if d.isascii()))},
            "Chinese texts become empty", "drop category Mn, not all that is not ASCII",
            "the idiom normalize('NFKD', s).encode('ascii', 'ignore')"),
    Mistake("controls-kept", "control and format characters are kept",
            {"clean": characters_of(lambda c: " " if c in SPACE else c)},
            "invisible characters make a known word unknown",
            "drop categories Cc and Cf, but for tab, newline and return"),
    Mistake("controls-to-blank", "control and format characters become blanks",
            {"clean": characters_of(lambda c: " " if c in SPACE or category(c) in ("Cc", "Cf") else c)},
            "words are cut where something invisible stands", "drop them; only white space cuts"),
    Mistake("blank-only", "only the blank itself separates words",
            {"clean": characters_of(lambda c: c if c == " " or not (
                category(c) in ("Cc", "Cf") and c not in "\t\n\r") else "")},
            "tabs, newlines and no-break spaces end up inside words",
            "make a blank of every white space character first, or use str.split()"),
    Mistake("blank-dropped", "tab, newline and return are dropped as control characters",
            {"clean": characters_of(lambda c: "" if category(c) in ("Cc", "Cf") else (
                " " if c in SPACE else c))},
            "the last word of a line sticks to the first of the next",
            "they are white space: make blanks of them before you drop Cc"),
    Mistake("cjk-joined", "CJK ideographs are not separated", {"cjk": list},
            "a Chinese sentence is one long unknown word", "a blank before and after every ideograph"),
    Mistake("cjk-basic-only", "only the ideographs from U+4E00 to U+9FFF are separated",
            {"cjk": characters_of(lambda c: f" {c} " if "\u4e00" <= c <= "\u9fff" else c)},
            "rare ideographs and names stick together", "all eight ranges that the text lists"),
    Mistake("kana-too", "kana are separated like ideographs",
            {"cjk": characters_of(
                lambda c: f" {c} " if c in CJK or "\u3040" <= c <= "\u30ff" else c)},
            "Japanese words fall apart", "kana and hangul are letters like any other"),
    Mistake("marks-attached", "punctuation stays attached to the words",
            {"split": split_at(lambda c: False)},
            "'house,' is not in the vocabulary", "every punctuation character is a word of its own"),
    Mistake("marks-dropped", "punctuation is dropped",
            {"split": split_at(lambda c: c in PUNCTUATION, drop=True)},
            "the model was trained with it", "keep each as a word of its own"),
    Mistake("marks-in-runs", "several punctuation characters in a row stay together",
            {"split": split_at(lambda c: c in PUNCTUATION, runs=True)},
            "'...' is one word instead of three", "one word for each character"),
    Mistake("ascii-marks-only", "only punctuation in ASCII is separated",
            {"split": split_at(lambda c: c in string.punctuation)},
            "« » — … stick to the words", "also all Unicode categories that begin with P"),
    Mistake("categories-only", "symbols of ASCII like $ + < = > ^ ` | ~ are not separated",
            {"split": split_at(lambda c: category(c).startswith("P"))},
            "'a+b' is one word", "they are no punctuation to Unicode, but to BERT: all of "
            "string.punctuation", "Unicode's category P is narrower than google-research/bert's"),
    Mistake("regex-words", r"words are \w+, so _ is a letter and € a word",
            {"split": split_at(lambda c: not (c.isalnum() or c == "_" or category(c) == "Mn"))},
            "snake_case stays whole, 5€ is cut", r"\w counts _ as a letter; [^\w\s] has all symbols"),
)


def clean_and_split_cases(seed: int) -> list[Case]:
    """Texts with one difficulty each, then with all."""
    draw = random.Random(f"clean {seed}")
    right = same_words(words_of)

    def plain(count: int) -> list[str]:
        return [word.lower() for word in draw.sample(WORDS, count)]

    def between(separators: str, words: list[str]) -> str:
        return "".join(word + draw.choice(separators) for word in words)

    blanks = list(BLANKS)
    draw.shuffle(blanks)
    spaced = ["".join(w + b for w, b in zip(plain(7), blanks, strict=True)), "  " + plain(1)[0], " "]
    cased = [" ".join(draw.sample(WORDS, 5)), draw.choice(WORDS).upper(), "McDonald iPhone"]
    marks = list(MARKS)
    draw.shuffle(marks)
    marked = ["".join(draw.choice(("ab", "c", " ", "")) + mark for mark in marks),
              "well... what?!", "snake_case costs 5€ or $6"]
    accented = [" ".join(draw.sample(ACCENTED, 6)), "e\u0301te\u0301", "cafe\u0301".upper()]
    hidden = [plain(1)[0] + c + plain(1)[0] for c in CONTROLS]
    cjk = ["".join(draw.sample(IDEOGRAPHS, 5)), "ab" + draw.choice(IDEOGRAPHS) + "cd",
           "".join(IDEOGRAPHS), "ひらかな中カタカナ"]
    mixed = [f"  {draw.choice(ACCENTED)},\t{draw.choice(IDEOGRAPHS)}{draw.choice(ACCENTED).upper()}"
             f"{draw.choice('!?…')}\u200b{draw.choice(WORDS)}\n{draw.choice(marks)}" for _ in range(4)]
    parts = (("white space", 1, spaced), ("lower case", 1, cased), ("punctuation", 2, marked),
             ("accents", 2, accented), ("control characters", 1, hidden), ("CJK ideographs", 2, cjk),
             ("all of it together", 1, mixed))
    return [Case(title, points, (texts,), right(texts), call=each_first, one=text_one)
            for title, points, texts in parts]


PIECES = {
    "limit": lambda: 100,
    "ends": lambda start, length: range(length, start, -1),
    "prefix": lambda start: "##" if start else "",
    "shown": lambda piece: piece,
    "rest": lambda pieces, rest: ["[UNK]"],
}
PIECE_MISTAKES = (
    Mistake("shortest-first", "the shortest piece that fits is taken instead of the longest",
            {"ends": lambda start, length: range(start + 1, length + 1)},
            "words fall into single letters", "begin with the whole rest of the word, then shorten"),
    Mistake("whole-words-only", "a word that is not in the vocabulary is not cut at all",
            {"ends": lambda start, length: [length]},
            "far too many [UNK]", "shorten the end until a piece fits, then go on from there"),
    Mistake("no-prefix", "pieces inside a word are looked up without ##",
            {"prefix": lambda start: ""},
            "'house' and '##house' are different entries with different vectors",
            "from the second piece on, look up '##' + piece"),
    Mistake("prefix-everywhere", "the first piece is looked up with ##, too",
            {"prefix": lambda start: "##"}, "no word is ever found whole",
            "'##' only where start > 0"),
    Mistake("prefix-not-returned", "## is used to look up, but is not in the result",
            {"shown": lambda piece: piece.removeprefix("##")},
            "the ids belong to other entries", "return the entry as it stands in the vocabulary"),
    Mistake("rest-unknown", "only the rest that does not fit becomes [UNK]",
            {"rest": lambda pieces, rest: [*pieces, "[UNK]"]},
            "unknown words have a known beginning", "the whole word is one [UNK]"),
    Mistake("rest-dropped", "the rest that does not fit is dropped",
            {"rest": lambda pieces, rest: pieces},
            "unknown endings vanish", "the whole word is one [UNK]"),
    Mistake("rest-by-letter", "each letter of the rest becomes an [UNK]",
            {"rest": lambda pieces, rest: [*pieces, *["[UNK]"] * len(rest)]},
            "many [UNK] for one word", "the whole word is one [UNK]"),
    Mistake("no-limit", "there is no longest word", {"limit": lambda: math.inf},
            "a word of more than 100 characters is cut instead of [UNK]",
            "len(word) > 100 is [UNK]"),
    Mistake("limit-200", "the longest word has 200 characters", {"limit": lambda: 200},
            "words of 101 to 200 characters differ", "100",
            "google-research/bert has 200, the official tokenizer.json has 100"),
    Mistake("limit-99", "a word of exactly 100 characters is [UNK]", {"limit": lambda: 99},
            "one length is wrong", "len(word) > 100, not >= 100"),
)


def pieces_of(word: str, vocab: Mapping[str, int], do: Mapping[str, Callable] = PIECES) -> list[str]:
    """WordPiece, with some steps done differently."""
    if len(word) > do["limit"]():
        return ["[UNK]"]
    pieces, start = [], 0
    while start < len(word):
        for end in do["ends"](start, len(word)):
            piece = do["prefix"](start) + word[start:end]
            if piece in vocab:
                pieces.append(do["shown"](piece))
                break
        else:
            return do["rest"](pieces, word[start:])
        start = end
    return pieces


def wordpiece_cases(seed: int) -> list[Case]:
    """Words over a small alphabet, and a vocabulary in which every rule matters."""
    draw = random.Random(f"wordpiece {seed}")
    a, b, c, d, e, x = draw.sample("abcdefghijklmnopqrstuvwxyz", 6)
    stems = [a + b, a + b + c, d + e, d + e + a + b]
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *stems, a, d, b,
               "##" + c, "##" + a, "##" + b, "##" + c + d, "##" + c + d + e, "##" + e, b + c]
    vocab = {entry: number for number, entry in enumerate(entries)}
    right = same_words(lambda word: pieces_of(word, vocab))
    parts = (
        ("words of the vocabulary stay whole", 2, [*stems, a, b + c]),
        ("the longest piece first", 3, [a + b + c + c + d + e, d + e + a + b + c + d, a + b + c + a,
                                         d + e + a + b + b]),
        ("pieces inside a word begin with ##", 2, [d + a, a + a, d + c + d, a + e + e]),
        ("a word that no pieces make up is [UNK] as a whole", 2,
         [x, a + b + x, x + a + b, a + x + b, d + d, a + b + d]),
        ("words of more than 100 characters", 1, [a + b * 99, a + b * 100, a * 150, a + b * 250]),
    )
    return [Case(title, points, (words, vocab), right(words), call=each_first, one=text_one)
            for title, points, words in parts]


# ----------------------------------------------------------------- 3 to 8: the parts of the model


def embeddings_cases(seed: int) -> list[Case]:
    """One text, two segments, ragged batches, small vectors."""
    cases = []
    for number, (title, points, lengths, segments, scale) in enumerate((
        ("one text of one segment", 3, (5,), False, 1.0),
        ("two segments", 2, (7,), True, 1.0),
        ("texts of unequal length", 2, (6, 3, 9, 2), True, 1.0),
        ("small vectors, where eps counts", 2, (4, 8), True, 0.01),
    )):
        config, weights, batch = tiny(seed + 100 * number, lengths=lengths, scale=scale)
        if not segments:
            batch["token_type_ids"] = torch.zeros_like(batch["token_type_ids"])
        weights["embeddings.norm.weight"] = weights["embeddings.norm.weight"] / scale
        place = stage((config, weights, batch), [], "embeddings")
        tables = [weights[f"embeddings.{name}"] for name in (
            "word.weight", "segment.weight", "position.weight", "norm.weight", "norm.bias")]
        args = (batch["input_ids"], batch["token_type_ids"], *tables, config.layer_norm_eps)
        cases.append(Case(title, points, args, near(place), place))
    return cases


def attention_cases(seed: int) -> list[Case]:
    """One head, several, padding, padding alone."""
    cases = []
    for number, (title, points, heads, size, lengths) in enumerate((
        ("every row sums to 1, nothing is negative", 2, 1, 6, (5, 5)),
        ("one head, no padding", 2, 1, 6, (4, 4, 4)),
        ("several heads", 2, 3, 5, (4, 4, 4, 4)),
        ("padding", 2, 2, 7, (6, 3, 9)),
        ("a text of padding alone gives finite numbers", 1, 2, 6, (4, 0, 7)),
    )):
        prefix = "layers.0.attention."
        model = tiny(seed + 100 * number, heads=heads, size=size, lengths=lengths)
        known = [prefix + "query_heads", prefix + "key_heads"]
        place = stage(model, known, prefix + "weights")
        args = (place.known[known[0]], place.known[known[1]], model[2]["attention_mask"])
        wrong = near(place, what="a (B, N, T, T) tensor")
        if number == 0:
            wrong = adds_up
        elif 0 in lengths:
            wrong = finite(wrong)
        cases.append(Case(title, points, args, wrong, place))
    return cases


def adds_up(got: Any) -> list[str]:
    """Judge that there are probabilities, whichever."""
    rows = tensors(got, 1, "a (B, N, T, T) tensor")[0]
    if rows.dim() != 4:
        return [f"  shape {tuple(rows.shape)}; (B, N, T, T) is needed"]
    sums = rows.sum(-1)
    if bool(((sums - 1).abs() <= TOLERANCE).all()) and bool((rows >= 0).all()):
        return []
    return [f"  the first rows sum to {', '.join(f'{x:.4g}' for x in sums.flatten()[:4].tolist())}; "
            f"the smallest number is {float(rows.min()):.4g}"]


def finite(then: Callable) -> Callable:
    """Judge that there is no NaN, nor infinity; then as usual."""

    def wrong(got: Any) -> list[str]:
        bad = ~tensors(got, 1, "a tensor")[0].isfinite()
        if bad.any():
            return [f"  NaN or infinity in {int(bad.sum())} of {bad.numel()} numbers: minus infinity in "
                    "every score of a row makes", "  the softmax 0/0; add a large finite number, such as "
                    "torch.finfo(dtype).min"]
        return then(got)

    return wrong


def weights_of(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights of a part, by their short names."""
    return {
        name.removeprefix(prefix): tensor for name, tensor in weights.items()
        if name.startswith(prefix)
    }


def multi_head_attention_cases(seed: int) -> list[Case]:
    """One head, several, padding."""
    cases = []
    for number, (title, points, heads, size, lengths) in enumerate((
        ("one head, no padding", 3, 1, 6, (5, 5)),
        ("several heads", 3, 3, 4, (7, 7)),
        ("padding", 3, 2, 5, (6, 3, 8)),
    )):
        model = tiny(seed + 100 * number, heads=heads, size=size, lengths=lengths)
        place = stage(model, ["embeddings"], "layers.0.attention.output")
        own = weights_of(model[1], "layers.0.attention.")
        args = (place.known["embeddings"], model[2]["attention_mask"], heads, own)
        cases.append(Case(title, points, args, near(place, what="a (B, T, H) tensor"), place))
    return cases


def add_and_norm_cases(seed: int) -> list[Case]:
    """Without gain and bias, with them, small numbers."""
    cases = []
    for number, (title, points, plain, scale) in enumerate((
        ("the sum, normalised", 3, True, 1.0),
        ("gain and bias", 3, False, 1.0),
        ("small numbers, where eps counts", 3, False, 0.01),
    )):
        config, weights, batch = tiny(seed + 100 * number, lengths=(5, 5, 5), scale=scale)
        gain, bias = "layers.0.attention_norm.weight", "layers.0.attention_norm.bias"
        if plain:
            weights[gain] = torch.ones_like(weights[gain])
            weights[bias] = torch.zeros_like(weights[bias])
        known = ["embeddings", "layers.0.attention.output"]
        place = stage((config, weights, batch), known, "layers.0.attention_norm")
        args = (place.known[known[0]], place.known[known[1]], weights[gain], weights[bias],
                config.layer_norm_eps)
        cases.append(Case(title, points, args, near(place), place))
    return cases


def feed_forward_cases(seed: int) -> list[Case]:
    """Where GELU does next to nothing, where it bends, other sizes."""
    cases = []
    for number, (title, points, wide, shift) in enumerate((
        ("the two linear maps (numbers so large that GELU is x or 0)", 3, 20, 40.0),
        ("GELU, exact", 4, 20, 0.0),
        ("another size", 2, 7, 0.0),
    )):
        model = tiny(seed + 100 * number, wide=wide, lengths=(6, 6, 6))
        sign = torch.arange(wide) % 2 * 2 - 1
        model[1]["layers.0.feed_forward.expand.bias"] += shift * sign
        known = "layers.0.attention_norm"
        place = stage(model, [known], "layers.0.feed_forward.contract")
        args = (place.known[known], weights_of(model[1], "layers.0.feed_forward."))
        cases.append(Case(title, points, args, near(place), place))
    return cases


def mean_pooling_cases(seed: int) -> list[Case]:
    """No padding, padding, padding alone."""
    cases = []
    for number, (title, points, lengths) in enumerate((
        ("no padding", 3, (5, 5)),
        ("padding", 4, (6, 3, 9, 1)),
        ("a text of padding alone gives zeros", 2, (4, 0, 7)),
    )):
        known = "layers.0.feed_forward_norm"
        model = tiny(seed + 100 * number, lengths=lengths)
        place = stage(model, [known], "pooling")
        args = (place.known[known], model[2]["attention_mask"])
        wrong = near(place, what="a (B, H) tensor")
        cases.append(Case(title, points, args, zeros(wrong, 1) if 0 in lengths else wrong, place))
    return cases


def zeros(then: Callable, row: int) -> Callable:
    """Judge that a row is zero; and the rest as usual."""

    def wrong(got: Any) -> list[str]:
        lines = then(got)
        values = tensors(got, 1, "a tensor")[0]
        if not lines and not bool((values[row] == 0).all()):
            return [f"  text {row} has no real token; its vector is {values[row, :4].tolist()} ..., not "
                    "zeros:", "  divide by at least a tiny number, count.clamp(min=1e-9)"]
        return lines

    return wrong


# ------------------------------------------------------------------------ 9: cosine similarity


def unit(x: Tensor) -> Tensor:
    """Rows of length 1; a row of zeros stays."""
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)


COSINE = {
    "left": unit,
    "right": unit,
    "table": lambda a, b: a @ b.T,
    "after": lambda table: table,
}
COSINE_MISTAKES = (
    Mistake("dot-product", "nothing is normalised: this is the dot product",
            {"left": lambda x: x, "right": lambda x: x},
            "long vectors win", "divide each row by its length first"),
    Mistake("first-not-normalised", "the first argument is not normalised", {"left": lambda x: x},
            "values above 1", "divide the rows of both by their lengths"),
    Mistake("second-not-normalised", "the second argument is not normalised", {"right": lambda x: x},
            "values above 1, and another ranking", "divide the rows of both by their lengths"),
    Mistake("squared-length", "divided by the squared lengths",
            {"left": lambda x: x / (x * x).sum(-1, keepdim=True).clamp(min=1e-12),
             "right": lambda x: x / (x * x).sum(-1, keepdim=True).clamp(min=1e-12)},
            "short vectors win", "the length is the root of the sum of squares"),
    Mistake("magnitudes", "divided by the sum of magnitudes (L1) instead of the length (L2)",
            {"left": lambda x: F.normalize(x, p=1, dim=-1),
             "right": lambda x: F.normalize(x, p=1, dim=-1)},
            "a vector and itself give less than 1", "the root of the sum of squares"),
    Mistake("columns-normalised", "columns are normalised instead of rows",
            {"left": lambda x: F.normalize(x, dim=0), "right": lambda x: F.normalize(x, dim=0)},
            "the value of a pair depends on the other rows", "dim=-1, keepdim=True"),
    Mistake("whole-normalised", "divided by the length of the whole matrix",
            {"left": lambda x: x / x.norm(), "right": lambda x: x / x.norm()},
            "all values are small", "a length for each row: dim=-1, keepdim=True"),
    Mistake("table-transposed", "rows and columns of the table are exchanged",
            {"table": lambda a, b: b @ a.T}, "[i][j] is b[i] against a[j]", "a @ b.T"),
    Mistake("distance", "1 - cosine: a distance, not a similarity",
            {"after": lambda table: 1 - table}, "the best hit comes last", "leave out the 1 -"),
    Mistake("half-way", "mapped to 0 to 1", {"after": lambda table: (table + 1) / 2},
            "unrelated texts have 0.5", "the cosine goes from -1 to 1"),
    Mistake("no-negative", "negative values are cut off", {"after": lambda table: table.clamp(min=0)},
            "opposite vectors look unrelated", "the cosine goes from -1 to 1"),
    Mistake("magnitude-of-cosine", "the sign is lost", {"after": lambda table: table.abs()},
            "opposite vectors look alike", "the cosine goes from -1 to 1"),
    Mistake("angle", "the angle instead of its cosine",
            {"after": lambda table: table.clamp(-1, 1).acos()},
            "the best hit has the lowest value", "leave out the arccos"),
)


def cosine_table(args: tuple, do: Mapping[str, Callable] = COSINE) -> Tensor:
    """Cosine similarities, with some steps done differently."""
    a, b = (x.double() for x in args)
    return do["after"](do["table"](do["left"](a), do["right"](b)))


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
        isinstance(got, Tensor) and got.shape == expected.shape
        and bool(((got - expected).abs() <= TOLERANCE * max(1.0, float(expected.abs().max()))).all())
    )


def cosine_similarity_cases(seed: int) -> list[Case]:
    """Vectors of length 1, of any length, of length 0."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(5, 6, generator=generator), torch.randn(3, 6, generator=generator)
    lengths = torch.tensor([0.1, 2.0, 30.0, 0.5, 7.0])[:, None]
    with_zero = a.clone()
    with_zero[2] = 0
    parts = (("vectors of length 1", 3, (unit(a), unit(b))),
             ("vectors of any length", 4, (a * lengths, b * lengths[1:4])),
             ("a vector of zeros gives 0, not NaN", 2, (with_zero, 3 * b)))
    return [Case(title, points, args, close_to(cosine_table(args))) for title, points, args in parts]


# ------------------------------------------------------------------ 10: masking for a masked LM

MASK_ID, VOCABULARY = 4, 500
SHARES = {"chosen": 0.15, "special": 0.0, "mask": 0.8, "random": 0.1, "kept": 0.1, "original": 1.0,
          "unlabelled": 0.0}
# What each mistake does to the shares; "all" stands for what is measured.
MASKING_MISTAKES = (
    (Mistake("labels-everywhere", "labels are not -100 where nothing is to be guessed", {},
             "the loss is mostly copying what is seen", "labels[~chosen] = -100"),
     {"chosen": 1.0, "special": 1.0, "mask": 0.15 * 0.8, "random": 0.15 * 0.1, "kept": 0.865}),
    (Mistake("labels-after-masking", "the labels are copied after the masking", {},
             "the model learns to answer [MASK]", "labels = input_ids.clone() before anything else"),
     {"original": 0.1}),
    (Mistake("always-mask", "every chosen token is shown as [MASK]", {},
             "fine-tuning never sees [MASK], so the model is not prepared for it",
             "80 % [MASK], 10 % another word, 10 % as they are"),
     {"mask": 1.0, "random": 0.0, "kept": 0.0}),
    (Mistake("none-kept", "none of the chosen tokens stays as it is", {},
             "80 % [MASK], 20 % another word", "half of the rest stays"),
     {"random": 0.2, "kept": 0.0}),
    (Mistake("none-random", "none of the chosen tokens becomes another word", {},
             "80 % [MASK], 20 % as they are", "half of the rest becomes another word"),
     {"random": 0.0, "kept": 0.2}),
    (Mistake("second-draw-tenth", "of the rest that is not [MASK], a tenth becomes another word", {},
             "80 % [MASK], 2 % another word, 18 % as they are",
             "10 % of all the chosen is half of the rest: 0.5 in the second draw"),
     {"random": 0.02, "kept": 0.18}),
    (Mistake("random-over-mask", "a second draw of a tenth of all the chosen writes over [MASK], too", {},
             "72 % [MASK], 10 % another word, 18 % as they are",
             "draw among those that are not [MASK] already, with 0.5"),
     {"mask": 0.72, "kept": 0.18}),
    (Mistake("special-chosen", "[CLS], [SEP] and [PAD] are chosen like words", {},
             "the model learns to guess padding", "probability 0 where special"),
     {"special": 0.15}),
    (Mistake("share-of-eighty", "12 % are chosen: the 80 % are taken twice", {},
             "15 % of the tokens are to be guessed, 80 % of these are shown as [MASK]",
             "choose 15 %, and give all of them a label"),
     {"chosen": 0.12, "mask": 1.0, "random": 0.0, "kept": 0.0}),
)


def shares(args: tuple, got: Any) -> dict[str, tuple[float, int]]:
    """What came of the tokens: each share, and how many tokens it is a share of."""
    ids, special, *_ = args
    shown, labels = tensors(got, 2, "two tensors, inputs and labels,")
    for tensor in (shown, labels):
        if tensor.shape != ids.shape:
            raise Unusable(f"shape {tuple(tensor.shape)}, but {tuple(ids.shape)} is needed")
    chosen = labels != -100

    def share(of: Tensor, among: Tensor) -> tuple[float, int]:
        return float(of[among].double().mean()) if among.any() else 0.0, int(among.sum())

    words = chosen & ~special
    return {
        "chosen": share(chosen, ~special),
        "special": share(chosen, special),
        "mask": share(shown == MASK_ID, words),
        "random": share((shown != MASK_ID) & (shown != ids), words),
        "kept": share(shown == ids, words),
        "original": share(labels == ids, words),
        "unlabelled": share(shown != ids, ~chosen),
    }


def expected_share(found: Mapping[str, tuple[float, int]], name: str, share: float) -> bool:
    """Whether a share is what it should be, to within five standard deviations of chance.

    A right solution misses one of these once in a million times. Another word is the same word once
    in so many: one in 500 here.
    """
    value, count = found[name]
    if share in (0.0, 1.0):
        return value == share
    return count > 0 and abs(value - share) <= 5 * math.sqrt(share * (1 - share) / count) + 0.002


def masking(names: Sequence[str], args: tuple) -> Callable:
    """Judge some of the shares."""
    said = {
        "chosen": "of the words have a label other than -100",
        "special": "of the special tokens have a label other than -100",
        "mask": "of the chosen are shown as [MASK]",
        "random": "of the chosen are shown as another word",
        "kept": "of the chosen are shown as they are",
        "original": "of the labels are the original word",
        "unlabelled": "of the tokens without a label are changed all the same",
    }

    def wrong(got: Any) -> list[str]:
        found = shares(args, got)
        if "chosen" not in names and not found["original"][1]:
            return ["  nothing is chosen: all labels are -100"]
        return [
            f"  {100 * found[name][0]:.1f} % {said[name]}; {100 * SHARES[name]:g} % are wanted"
            for name in names if not expected_share(found, name, SHARES[name])
        ]

    return wrong


def anew(args: tuple) -> Callable:
    """Judge that 15 % are chosen, and others in each text."""
    count = masking(["chosen"], args)

    def wrong(got: Any) -> list[str]:
        lines = count(got)
        chosen = tensors(got, 2, "")[1] != -100
        if not lines and bool((chosen[:, 1:20] == chosen[:1, 1:20]).all()):
            return ["  the same places in every text; draw for each token of each text: "
                    "torch.rand(input_ids.shape)"]
        return lines

    return wrong


def mask_tokens_cases(seed: int) -> list[Case]:
    """Three hundred texts: enough to count."""
    generator = torch.Generator().manual_seed(seed)
    B, T = 300, 80
    ids = torch.randint(5, VOCABULARY, (B, T), generator=generator)
    length = torch.randint(25, T + 1, (B, 1), generator=generator)
    place = torch.arange(T)
    ids = torch.where(place < length, ids, 0)
    ids = torch.where(place == length - 1, 3, ids)
    ids[:, 0] = 2
    args = (ids, ids < 5, MASK_ID, VOCABULARY)
    return [
        Case("labels: the original word where chosen, else -100 and unchanged", 3, args,
             masking(["original", "unlabelled"], args)),
        Case("special tokens are never chosen", 1, args, masking(["special"], args)),
        Case("15 % of the words are chosen, others in each text", 2, args, anew(args)),
        Case("of these 80 % [MASK], 10 % another word, 10 % as they are", 3, args,
             masking(["mask", "random", "kept"], args)),
    ]


def diagnose_masking(pairs: list[tuple[Case, Any]]) -> Diagnosis | None:
    """Name the mistake that explains all shares."""
    case, got = pairs[0]
    try:
        found = shares(case.args, got)
    except Unusable:
        return None
    answers = [
        (mistake,) for mistake, effect in MASKING_MISTAKES
        if all(
            expected_share(found, name, share)
            for name, share in {**SHARES, **effect}.items()
        )
    ]
    return Diagnosis("", answers, tried=len(MASKING_MISTAKES)) if answers else None


# ------------------------------------------------------------------------------- 11: AdamW

ADAMW = ("first", "second", "first_corrected", "second_corrected", "update", "decay", "parameters")
OPTIMIZER_EXTRA = (
    Mistake("eps-in-root", "eps stands under the root",
            {"update": lambda s: (
                s["first_corrected"] / (s["second_corrected"] + s.setting("eps")).sqrt())},
            "parameters with small gradients hardly move", "sqrt(v) + eps, not sqrt(v + eps)"),
    Mistake("decay-after", "the decay is taken of the parameters after the update",
            {"parameters": lambda s: (
                (s.before("parameters", "parameters") - s["rate"] * s["update"])
                * (1 - s["rate"] * s.setting("weight_decay")))},
            "differs in the fourth digit", "decay the parameters as they came in, before the update"),
    Mistake("decay-sign", "the decay makes the parameters larger",
            {"decay": lambda s: -STEPS["decay"](s)}, "weights grow", "p - lr · decay · p"),
    Mistake("no-rate", "the update is not multiplied by the learning rate",
            {"parameters": lambda s: (
                s.before("parameters", "parameters") - s["decay"] - s["update"])},
            "explodes at once", "p - lr · update"),
)


def steps_stage(
    gradients: Tensor, counts: Tensor, names: Sequence[str], settings: Mapping[str, Any]
) -> Stage:
    """Optimizer steps as a stage: gradients (steps, M, n), and how many examples each has (M,)."""
    config, _, batch = tiny(0, lengths=(2,))
    n, generator = gradients.shape[-1], torch.Generator().manual_seed(1)
    batch |= {
        "gradients": gradients, "counts": counts, "zeros": torch.zeros(n),
        "parameters": torch.randn(n, generator=generator), "decayed": torch.ones(n).long(),
        "settings": {"lr": 1.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-6, "weight_decay": 0.0,
                     "max_norm": 1e9, **settings},
    }
    steps = range(1, len(gradients) + 1)
    return Stage(config, {}, batch, {}, [f"steps.{t}.{name}" for t in steps for name in names])


def adamw_step_cases(seed: int) -> list[Case]:
    """The running means, the update, the decay; five steps in a row."""
    cases = []
    for number, (title, points, names, decay) in enumerate((
        ("the running means", 3, ("first", "second"), 0.0),
        ("the update, with bias correction", 3, ("parameters",), 0.0),
        ("decoupled weight decay", 3, ("parameters",), 0.2),
    )):
        generator = torch.Generator().manual_seed(seed + 100 * number)
        sizes = torch.tensor([3.0, 1.0, 0.1, 1e-3, 1e-5, 1e-6]).repeat(3)  # small ones show eps
        gradients = torch.randn(5, 1, 18, generator=generator) * sizes
        place = steps_stage(
            gradients, torch.ones(1), ("first", "second", "parameters"),
            {"lr": [0.1, 0.2, 0.3, 0.2, 0.1], "weight_decay": decay},
        )
        check = [name for name in place.names if name.split(".")[-1] in names]
        args = (place.batch["parameters"], gradients[:, 0], place.batch["settings"])
        wrong = near(place, check, "three tensors (parameter, first, second)")
        cases.append(Case(title, points, args, wrong, place, five_steps, adamw_one))
    return cases


def five_steps(function: Callable, args: tuple) -> list:
    """Five steps, each from what the one before returned: first, second and parameter of each."""
    parameter, gradients, settings = args
    first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
    rest = {key: settings[key] for key in ("beta1", "beta2", "eps", "weight_decay")}
    found = []
    for step, gradient in enumerate(gradients, 1):
        lr = settings["lr"][step - 1]
        got = function(parameter, gradient, first, second, step, lr, **rest)
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            raise TypeError(f"returned {kind(got)}; parameter, first, second are needed")
        parameter, first, second = (torch.as_tensor(entry) for entry in got)
        found += [first.clone(), second.clone(), parameter.clone()]
    return found


def adamw_one(args: tuple) -> tuple:
    """The arguments of the first of five steps."""
    parameter, gradients, settings = args
    zeros = torch.zeros_like(parameter)
    rest = (settings[key] for key in ("beta1", "beta2", "eps", "weight_decay"))
    return (parameter, gradients[0], zeros, zeros.clone(), 1, settings["lr"][0], *rest)


# ------------------------------------------------------------------------- 12: one training step

STEP_EXTRA = (
    Mistake("no-zero-grad", "the gradients are never cleared: they pile up from step to step",
            {"total": lambda s: (
                STEPS["total"](s) + s.before("clipped", "zeros") * s.run.batch["counts"].sum())},
            "the first step is right, all others are not",
            "optimizer.zero_grad(), before the first backward of a step or after its last line"),
    Mistake("last-micro-batch", "only the last micro-batch counts",
            {"gradient": lambda s: s.run.cast(s.run.batch["gradients"][s.number - 1][-1])},
            "the others are computed in vain",
            "zero_grad once for a step, not for every micro-batch"),
    Mistake("last-share", "only the last micro-batch counts, with its share of the whole",
            {"total": lambda s: (
                s.run.batch["counts"][-1] * s.run.cast(s.run.batch["gradients"][s.number - 1][-1]))},
            "the others are computed in vain",
            "zero_grad once for a step, not for every micro-batch"),
    Mistake("loss-summed", "the loss is summed over the examples, not averaged",
            {"gradient": lambda s: s["total"]},
            "larger steps with larger batches", "divide by the number of examples of the whole step"),
)


def tiny_classifier(seed: int) -> BertForSequenceClassification:
    """A tiny BERT with a classifier, without dropout, in float64."""
    config, *_ = tiny(seed, heads=2, size=3, wide=5)
    config = config.replace(
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        id2label={number: str(number) for number in range(3)},
    )
    model = BertForSequenceClassification(config).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(1 + 0.3 * noise if "norm.weight" in name else 0.5 * noise)
    return model


def training_step_cases(seed: int) -> list[Case]:
    """One batch; several of unequal size; long gradients; several steps in a row."""
    cases = []
    for number, (title, points, steps, sizes, max_norm, names) in enumerate((
        ("one batch", 2, 1, (4,), 1e6, ("clipped",)),
        ("micro-batches of unequal size", 2, 1, (4, 4, 1), 1e6, ("clipped",)),
        ("gradients longer than max_norm, and shorter ones", 2, 3, (3,), 0.0, ("clipped",)),
        ("several steps in a row", 2, 3, (4, 2), 1e6, ("clipped",)),
        ("the mean loss is returned", 1, 2, (3, 1), 1e6, ("loss",)),
        ("training mode, and one optimizer step", 1, 2, (3, 1), 1e6, ("mode",)),
    )):
        args = (seed + 100 * number, steps, sizes, max_norm)
        cases.append(training_case(title, points, args, names[0]))
    return cases


def training_case(title: str, points: int, args: tuple, what: str) -> Case:
    """One part: which model and batches, and which of the things seen is judged."""
    seed, steps, sizes, max_norm = args
    model = tiny_classifier(seed)
    batches = [micro_batches(seed + step, sizes) for step in range(steps)]
    gradients = torch.stack([
        torch.stack([gradient_of(model, *batch) for batch in step]) for step in batches
    ])  # (steps, M, n)
    losses = [
        sum(loss_of(model, *batch).item() * len(batch[1]) for batch in step) / sum(sizes)
        for step in batches
    ]
    limits = [max_norm] * steps
    if not max_norm:  # one gradient is short enough, one is too long, one is far too long
        limits = (gradients[:, 0].norm(dim=-1) * torch.tensor([2.0, 0.5, 0.02])).tolist()
    place = steps_stage(gradients, torch.tensor(sizes), ("clipped",), {"max_norm": limits})
    judged = near(place)

    def wrong(seen: Any) -> list[str]:
        if what == "clipped":
            return judged(seen[0] if steps == 1 else seen[:steps])
        returned, modes, taken = seen[steps], seen[steps + 1], seen[steps + 2]
        if what == "mode":
            lines = [] if all(modes) else ["  the model was not in training mode: model.train()"]
            if taken != [1] * steps:
                lines.append(f"  optimizer.step() was called {taken} times; once for each step")
            return lines
        for mine, right in zip(returned, losses, strict=True):
            if not isinstance(mine, (int, float)) or abs(mine - right) > TOLERANCE * max(1.0, right):
                return [f"  yours     {mine if mine is not None else 'nothing (is there a return?)'}",
                        f"  reference {right:.6g}",
                        "  the sum over all examples of the step, divided by their number"]
        return []

    def call(function: Callable, _: tuple) -> list:
        return watch(function, tiny_classifier(seed), batches, limits)

    def one(_: tuple) -> tuple:
        model = tiny_classifier(seed)
        return model, batches[0], Descent(model), limits[0]

    return Case(title, points, args, wrong, place if what == "clipped" else None, call, one)


def micro_batches(seed: int, sizes: Sequence[int]) -> list[tuple[dict, Tensor]]:
    """Inputs and labels of some micro-batches."""
    found = []
    for number, size in enumerate(sizes):
        lengths = [3 + (i + number) % 4 for i in range(size)]
        inputs = ragged(1000 * seed + number, lengths)
        labels = (inputs["input_ids"].sum(1) + number) % 3
        found.append((inputs, labels))
    return found


def loss_of(model: Callable, inputs: Mapping, labels: Tensor) -> Tensor:
    """The mean cross-entropy."""
    return F.cross_entropy(model(**inputs).logits, labels)


def gradient_of(model: torch.nn.Module, inputs: Mapping, labels: Tensor) -> Tensor:
    """The gradient of the mean loss of a micro-batch, laid end to end, (n,)."""
    gradients = torch.autograd.grad(
        loss_of(model, inputs, labels), list(model.parameters()), allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([gradient.flatten() for gradient in gradients])


class Descent:
    """Plain gradient descent with learning rate 1, used as any optimizer of torch.

    So a step is the gradient itself, and it can be seen.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Take all parameters; no step has been taken."""
        self.param_groups = [{"params": list(model.parameters()), "lr": 1.0}]
        self.taken = 0

    @torch.no_grad()
    def step(self) -> None:
        """Subtract the gradients."""
        self.taken += 1
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter -= parameter.grad

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None


def watch(
    function: Callable, model: torch.nn.Module, batches: list, limits: Sequence[float]
) -> list:
    """What a training step does: the gradient it goes down by, what it returns, the mode, the steps.

    Every step begins with the same parameters; what an earlier one left in .grad stays there.
    """
    optimizer = Descent(model)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    modes: list[bool] = []
    taken: list[int] = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    gradients, returned = [], []
    for batch, max_norm in zip(batches, limits, strict=True):
        model.eval()
        optimizer.taken = 0
        got = function(model, copied_batches(batch), optimizer, max_norm)
        got = got.item() if isinstance(got, Tensor) and got.numel() == 1 else got
        returned.append(got if isinstance(got, (int, float)) or got is None else kind(got))
        taken.append(optimizer.taken)
        with torch.no_grad():
            moved = [before - now for before, now in zip(start, model.parameters(), strict=True)]
            gradients.append(torch.cat([part.flatten() for part in moved]))
            for parameter, before in zip(model.parameters(), start, strict=True):
                parameter.copy_(before)
    return [*gradients, returned, modes, taken]


def copied_batches(batches: list) -> list:
    """Micro-batches of one's own."""
    return [(copied(inputs), labels.clone()) for inputs, labels in batches]


def diagnose_training(pairs: list[tuple[Case, Any]]) -> Diagnosis | None:
    """Name the mistake from the gradients of those parts that look at them."""
    return by_catalogue(STEP_EXTRA, ("total", "gradient", "clipped"))([
        (case, got[0] if len(case.stage.names) == 1 else got[: len(case.stage.names)])
        for case, got in pairs if case.stage
    ])


# ---------------------------------------------------------------------------------- the twelve


_ALL = (
    Exercise(
        "clean_and_split",
        "Clean a text and split it into words, as BERT's uncased tokenizer does.",
        "clean_and_split(text: str) -> list[str]",
        """
Return the words of a text: cleaned, without accents, in lower case.

1. Control and format characters (Unicode categories Cc and Cf) are dropped, but tab, newline
   and return are white space, and all white space separates words.
2. CJK ideographs are words of their own: U+4E00-9FFF, 3400-4DBF, 20000-2A6DF, 2A700-2B73F,
   2B740-2B81F, 2B920-2CEAF, F900-FAFF, 2F800-2FA1F. Kana and hangul are not.
3. Accents are taken off: decompose (NFD), drop the non-spacing marks (category Mn).
4. Every character is lower-cased.
5. Every punctuation character is a word of its own: those of ASCII (all of
   string.punctuation) and those of the Unicode categories that begin with P.

clean_and_split("Café, naïve!") == ["cafe", ",", "naive", "!"]

Source: Devlin 2019, section 3; BasicTokenizer of google-research/bert, tokenization.py.
""",
        ("Work on one character at a time and build a new text: some characters vanish, some become "
         "a blank, some get blanks around them. Only then cut at the blanks.",
         "unicodedata.category(c) tells Cc, Cf, Mn and P*; unicodedata.normalize('NFD', text) takes "
         "é apart into e and a mark. In which order: white space, controls, CJK, accents, lower case, "
         "punctuation.",
         "For each character: in '\\t\\n\\r' or category Zs: ' '. Category Cc, Cf or (after NFD) Mn: "
         "''. Ideograph or punctuation: ' ' + c + ' '. Anything else: c.lower(). Join, then .split(' ')"
         " and leave out the empty ones."),
        clean_and_split_cases,
        by_steps(CLEANING, lambda args, do: [words_of(text, do) for text in args[0]],
                 CLEANING_MISTAKES, lambda right, got: right == got),
        leaves_arguments=False,
    ),
    Exercise(
        "wordpiece",
        "Cut a word into pieces of the vocabulary.",
        "wordpiece(word: str, vocab: dict[str, int]) -> list[str]",
        """
Return the pieces of a word, the longest that fits each time, from left to right.

A piece that does not begin the word is spelt with ## in the vocabulary, and is returned so.
Where at some place no piece fits, the whole word is ["[UNK]"]; so is a word of more than 100
characters. There is no going back to try a shorter piece.

wordpiece("running", {"run": 0, "##n": 1, "##ning": 2}) == ["run", "##ning"]

Source: Wu 2016, section 4.1; WordpieceTokenizer of google-research/bert, tokenization.py.
""",
        ("Two loops: the outer one goes from piece to piece, the inner one looks for the longest piece "
         "that begins at this place.",
         "Keep start = 0. Try end = len(word), len(word) - 1, ..., start + 1. The candidate is "
         "word[start:end], with '##' before it if start > 0.",
         "Found: append the candidate and set start = end. Not found for any end: return ['[UNK]'] at "
         "once, whatever was found before. The outer loop runs while start < len(word)."),
        wordpiece_cases,
        by_steps(PIECES, lambda args, do: [pieces_of(word, args[1], do) for word in args[0]],
                 PIECE_MISTAKES, lambda right, got: right == got),
        leaves_arguments=False,
    ),
    Exercise(
        "embeddings",
        "Turn ids into vectors: word + segment + position, then LayerNorm.",
        "embeddings(input_ids: Tensor, token_type_ids: Tensor, word: Tensor, segment: Tensor, "
        "position: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor",
        """
Return the embeddings of a batch of texts.

Shapes: input_ids and token_type_ids (B, T); the tables word (V, H), segment (S, H) and
position (P, H), P at least T; gain and bias (H,) of the LayerNorm; returns (B, T, H).

The positions of every text are 0, 1, 2, ... . LayerNorm: subtract the mean over the H
features, divide by the root of (variance + eps), the variance being the mean of the
squares; then times gain, plus bias. There is no dropout.

Source: Devlin 2019, section 3 and figure 2; Ba 2016 (LayerNorm), equation 4.
""",
        ("Three tables, three look-ups, one sum. What is the index of each look-up?",
         "table[ids] looks up a whole (B, T) tensor of ids at once. Positions do not depend on the "
         "text: the first T rows of their table, the same for each.",
         "x = word[input_ids] + segment[token_type_ids] + position[: input_ids.shape[1]]; then mean "
         "and variance over the last axis, keepdim=True, with the divisor H (not H - 1)."),
        embeddings_cases,
        by_catalogue(),
    ),
    Exercise(
        "attention",
        "The probabilities of attention: scores, scale, mask, softmax.",
        "attention(query: Tensor, key: Tensor, mask: Tensor) -> Tensor",
        """
Return how much each token attends to each: softmax(Q K^T / sqrt(D)), padding masked.

Shapes: query and key (B, N, T, D), already cut into N heads of size D; mask (B, T), 1 = real
token, 0 = padding; returns (B, N, T, T), [b, n, i, j] = how much token i attends to token j.

Padded tokens get probability 0 as keys; what stands in the rows of padded queries does not
matter. A text of padding alone must give finite numbers.

Source: Vaswani 2017, section 3.2.1, equation 1.
""",
        ("Four steps, each a line: products of all queries with all keys, scale, mask, softmax. Which "
         "axis of the result stands for the keys?",
         "The products are query @ key with its last two axes exchanged, (B, N, T, T). The last axis "
         "is that of the keys: there the padded ones must go, and over that the softmax runs.",
         "Divide by the root of D = query.shape[-1]. Add a very large negative, but finite number where "
         "mask[:, None, None, :] is 0. Then softmax over the last axis."),
        attention_cases,
        by_catalogue(),
    ),
    Exercise(
        "multi_head_attention",
        "Multi-head self-attention, whole: from hidden states to hidden states.",
        "multi_head_attention(hidden: Tensor, mask: Tensor, heads: int, weights: dict[str, Tensor]) "
        "-> Tensor",
        """
Return what self-attention makes of the hidden states, without residual and norm.

Shapes: hidden (B, T, H); mask (B, T), 1 = real token, 0 = padding; weights has query.weight,
key.weight, value.weight, output.weight (H, H), stored as torch does: y = x W^T + b, and
query.bias, ... (H,); returns (B, T, H).

Head n of N = heads has the features n D to (n + 1) D - 1 of query, key and value, D = H / N.
There is no dropout. What stands in the rows of padded tokens does not matter.

Source: Vaswani 2017, section 3.2.2.
""",
        ("Query, key and value are linear maps of hidden. Each is cut into heads, the heads attend by "
         "themselves, and are put side by side again.",
         "Cutting: (B, T, H) -> (B, T, N, D) -> (B, N, T, D): a view, then a transpose. Putting "
         "together is the same backwards. A view straight to (B, N, T, D) mixes tokens with features.",
         "F.linear(hidden, weights['query.weight'], weights['query.bias']).view(B, T, N, D)"
         ".transpose(1, 2), likewise key and value; probabilities as in the exercise attention; times "
         "value; transpose(1, 2).reshape(B, T, H); the linear map output."),
        multi_head_attention_cases,
        by_catalogue(),
    ),
    Exercise(
        "add_and_norm",
        "The residual and the LayerNorm around each sub-layer.",
        "add_and_norm(x: Tensor, sublayer: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor",
        """
Return LayerNorm(x + sublayer): post-norm, as in the original Transformer.

Shapes: x, what went into the sub-layer, and sublayer, what came out of it, (B, T, H); gain and
bias (H,); returns (B, T, H).

LayerNorm: subtract the mean over the H features, divide by the root of (variance + eps), the
variance being the mean of the squares; then times gain, plus bias. There is no dropout.

Source: Vaswani 2017, section 3.1; Ba 2016 (LayerNorm), equation 4.
""",
        ("First add, then normalise the sum: of which numbers is the mean taken?",
         "Mean and variance are those of one token: over the last axis, keepdim=True. eps stands under "
         "the root, and is the one that is passed.",
         "s = x + sublayer; centred = s - mean(s); variance = mean of centred squared (divisor H); "
         "centred / sqrt(variance + eps) * gain + bias."),
        add_and_norm_cases,
        by_catalogue(),
    ),
    Exercise(
        "feed_forward",
        "The feed-forward network with GELU.",
        "feed_forward(hidden: Tensor, weights: dict[str, Tensor]) -> Tensor",
        """
Return contract(GELU(expand(hidden))), for each token by itself; no residual, no norm.

Shapes: hidden (B, T, H); weights has expand.weight (F, H), expand.bias (F,), contract.weight
(H, F), contract.bias (H,), stored as torch does: y = x W^T + b; returns (B, T, H).

GELU in its exact form: x times the probability that a standard normal number is below x.

Source: Vaswani 2017, section 3.3, equation 2; Hendrycks & Gimpel 2016.
""",
        ("Two linear maps and one function between them; the width goes H -> F -> H.",
         "The probability that a standard normal number is below x is (1 + erf(x / sqrt(2))) / 2. The "
         "form with tanh is an approximation: close, and not the same.",
         "hidden @ weights['expand.weight'].T + weights['expand.bias']; x * 0.5 * (1 + torch.erf(x / "
         "2 ** 0.5)); then the same with contract."),
        feed_forward_cases,
        by_catalogue(),
    ),
    Exercise(
        "mean_pooling",
        "One vector for a text: the mean of its tokens.",
        "mean_pooling(hidden: Tensor, mask: Tensor) -> Tensor",
        """
Return the mean of the hidden states of the real tokens, [CLS] and [SEP] included.

Shapes: hidden (B, T, H); mask (B, T), 1 = real token, 0 = padding; returns (B, H).

A text of padding alone gives zeros.

Source: Reimers & Gurevych 2019 (Sentence-BERT), section 3.
""",
        ("A mean is a sum divided by a count. Padding may be in neither.",
         "Multiply by the mask with one more axis, (B, T, 1), and sum over the tokens. The count is "
         "that of the ones in the mask, for each text its own.",
         "(hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), and the count is at least a "
         "tiny number so that 0 / 0 does not happen: .clamp(min=1e-9)."),
        mean_pooling_cases,
        by_catalogue(),
    ),
    Exercise(
        "cosine_similarity",
        "The cosine of the angle between vectors, for all pairs.",
        "cosine_similarity(a: Tensor, b: Tensor) -> Tensor",
        """
Return the table of cosines, [i][j] = row i of a against row j of b.

Shapes: a (n, H), b (m, H); returns (n, m). The cosine of two vectors is their dot product
divided by the product of their lengths. Against a vector of zeros it is 0.

Source: Salton 1975; Reimers & Gurevych 2019 (Sentence-BERT), section 3.
""",
        ("If all vectors have length 1, the cosine is the dot product.",
         "Divide each row by its own length, then one matrix product gives the whole table.",
         "length = a.norm(dim=-1, keepdim=True).clamp(min=1e-12), likewise b; the table is "
         "(a / length of a) @ (b / length of b).T"),
        cosine_similarity_cases,
        by_steps(COSINE, cosine_table, COSINE_MISTAKES, within),
    ),
    Exercise(
        "mask_tokens",
        "Masking for a masked language model.",
        "mask_tokens(input_ids: Tensor, special: Tensor, mask_id: int, vocab_size: int) "
        "-> tuple[Tensor, Tensor]",
        """
Return (inputs, labels) for training a masked language model.

Shapes: input_ids (B, T); special (B, T), True where [CLS], [SEP] or [PAD] stands; returns two
tensors (B, T) of whole numbers.

Of the tokens that are not special, 15 % are chosen by chance, each for itself, anew in each
call. labels has the original id where a token is chosen, -100 elsewhere. inputs has, where a
token is chosen, mask_id in 80 % of cases, a random id below vocab_size in 10 %, the original
in 10 %; elsewhere it is unchanged. Draw with torch, numpy or random; set no seed.

Source: Devlin 2019, section 3.1 (task 1) and appendix A.1.
""",
        ("Draw a number between 0 and 1 for each token: it is chosen where that is below 0.15 and it is "
         "not special. A second number decides what becomes of the chosen.",
         "labels first, from the untouched ids: where(chosen, input_ids, -100). Then inputs, a copy of "
         "them. Of the chosen: second number below 0.8, between 0.8 and 0.9, above.",
         "chosen = (torch.rand(shape) < 0.15) & ~special; fate = torch.rand(shape); inputs[chosen & "
         "(fate < 0.8)] = mask_id; where chosen and 0.8 <= fate < 0.9 take torch.randint(vocab_size, "
         "shape)."),
        mask_tokens_cases,
        diagnose_masking,
        repeatable=False,
    ),
    Exercise(
        "adamw_step",
        "One step of AdamW.",
        "adamw_step(parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: int, "
        "lr: float, beta1: float, beta2: float, eps: float, weight_decay: float) "
        "-> tuple[Tensor, Tensor, Tensor]",
        """
Return (parameter, first, second) after one step of AdamW, as new tensors.

Shapes: all tensors (n,). first and second are the running means of the gradient and of its
square, zeros before the first step; step counts from 1.

Both means start at zero and are therefore too small: before use they are divided by
1 - beta^step (what is returned is not). The update is first / (root of second + eps). Weight
decay is decoupled: lr times weight_decay times the parameter as it came in is subtracted.

Units: lr per step. Source: Loshchilov & Hutter 2019, algorithm 2; Kingma & Ba 2015, algorithm 1.
""",
        ("Four lines: the two running means, the two corrections, the update, the new parameter.",
         "mean = beta * mean + (1 - beta) * new. The corrected means are used in the update only; the "
         "next step needs the uncorrected ones.",
         "m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g²; m' = m / (1 - beta1^step), v' = v /"
         " (1 - beta2^step); p - lr · weight_decay · p - lr · m' / (sqrt(v') + eps); return p, m, v."),
        adamw_step_cases,
        by_catalogue(OPTIMIZER_EXTRA, (*ADAMW, "clipped")),
    ),
    Exercise(
        "training_step",
        "One step of fine-tuning.",
        "training_step(model: torch.nn.Module, micro_batches: list[tuple[dict, Tensor]], "
        "optimizer: torch.optim.Optimizer, max_norm: float) -> float",
        """
Do one step of fine-tuning a classifier on the whole batch; return the mean loss.

The batch comes in micro-batches, a list of (inputs, labels): model(**inputs).logits is (b, C),
labels is (b,), and b may differ. The loss is the cross-entropy, averaged over ALL examples of
the step. The model comes in evaluation mode, and has to be trained in training mode.

The gradient of that loss is clipped to the norm max_norm, over all parameters together, and
the optimizer steps once. Nothing of it may leak into the next call. Nothing is averaged over
micro-batches: one of 4 examples counts four times as much as one of 1.

Units: the loss in nats. Source: Devlin 2019, appendix A.3; Pascanu 2013 (clipping), algorithm 1.
""",
        ("Gradients of several backward passes add up in .grad. What must each loss be multiplied "
         "with, so that the sum is the gradient of the mean over all examples?",
         "model.train(); for each micro-batch: the sum of its losses, divided by the number of examples "
         "of the whole step, backward; then clip once, step once, clear the gradients.",
         "total = sum(len(labels) for _, labels in micro_batches); F.cross_entropy(logits, labels, "
         "reduction='sum') / total, .backward(), add .item(); torch.nn.utils.clip_grad_norm_("
         "model.parameters(), max_norm); optimizer.step(); optimizer.zero_grad()."),
        training_step_cases,
        diagnose_training,
        leaves_arguments=False,
        repeatable=False,
    ),
)
EXERCISES = {exercise.name: exercise for exercise in _ALL}
"""All exercises by name, in the order of a course."""
