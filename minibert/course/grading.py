"""Grading: a learner's function is called on each part of an exercise, and its results compared.

What is wrong is shown side by side; it is named where a known mistake, or a pair of them, explains
what came back in every part.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from minibert.course.cases import Exercise
from minibert.course.checks import Case, Stage, tensors
from minibert.course.run_submission import InvalidReturn, decode
from minibert.course.text_mistakes import FAMILIES, MISTAKES
from minibert.io.files import printable
from minibert.io.language import say
from minibert.parity.catalogue import BY_KEY
from minibert.parity.diagnosis import Answer, Diagnosis, diagnose_parts, find, together

NOT_RUN = ("the file does not run", "there is no ")  # how these reasons begin
PRINTED = "Your code printed:"


@dataclass
class PartGrade:
    """The grade of one part."""

    title: str
    points: int
    out_of: int
    lines: list[str] = field(default_factory=list)  # what is wrong

    @property
    def judged(self) -> bool:
        """Whether anything can be said about it; False: it was not reached."""
        return bool(self.points or self.lines)


@dataclass
class Grade:
    """The grade of one exercise. ``str()`` is the report, translated; all else is English."""

    exercise: str
    source: str
    parts: list[PartGrade]
    stopped: str = ""  # why nothing more could be graded
    diagnosis: Diagnosis | None = None
    printed: str = ""
    isolated: str = ""  # how the file was run

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
    def ran(self) -> bool:
        """Whether there was a file, and it could be loaded."""
        return not self.stopped.startswith(NOT_RUN)

    @property
    def summary(self) -> str:
        """What is wrong, in a few words."""
        if self.stopped:
            return self.stopped.splitlines()[0]
        if self.diagnosis and self.diagnosis.answers:
            return " + ".join(mistake.title for mistake in self.diagnosis.answers[0])
        return next((part.lines[0].strip() for part in self.parts if part.lines), "")

    def __str__(self) -> str:
        """The report."""
        lines = [f"{self.exercise}: {self.points} of {self.out_of} points  ({self.source})", ""]
        for part in self.parts:
            mark = "ok" if part.points else "wrong" if part.judged else "-"
            lines.append(f"  {mark:<5} {part.points}/{part.out_of}  {part.title}")
        shown: dict[str, str] = {}
        for number, part in enumerate(self.parts, 1):
            if part.lines:
                shown.setdefault("\n".join(part.lines), f"Part {number}, {part.title}:")
        sections = [
            ("", self.stopped),
            *((heading, text) for text, heading in list(shown.items())[:2]),
            ("What it is:", textwrap.indent(str(self.diagnosis or ""), "  ")),
            (PRINTED, textwrap.indent(self.printed, "  ")),
            ("", self.isolated),
        ]
        if not self.passed:
            sections.append((
                f"Hints: minibert check {self.exercise} --hint 1 (then 2, 3); in a notebook "
                f'check("{self.exercise}", ..., hint=1).',
                "The inputs of a part: from minibert.course.exercises import inputs; "
                f'inputs("{self.exercise}", part=1)',
            ))
        lines = list(map(say, lines))
        for heading, text in sections:
            text = text if heading == PRINTED else say(text)
            lines += ["", *filter(None, (say(heading), text))] if text else []
        return "\n".join(lines)

    def to_dict(self) -> dict:
        """For JSON."""
        plain = ("exercise", "source", "points", "out_of", "stopped", "summary")
        return {
            **{name: getattr(self, name) for name in plain},
            "parts": [{**vars(part), "judged": part.judged} for part in self.parts],
            "diagnosis": self.diagnosis.to_dict() if self.diagnosis else None,
        }


def grade(exercise: Exercise, seed: int, call: Callable[..., dict], source: str) -> Grade:
    """Have a function called on every part, and grade what came back.

    ``call``: as `run_submission.call`, here or in another process.
    """
    result, replies, seen = Grade(exercise.name, source, []), [], []

    def returned(*args: Any) -> Any:
        reply = call(args, seed=len(replies), repeat=exercise.repeatable)
        replies.append(reply)
        if "got" not in reply:
            absent = "" if "stopped" in reply else "there was no result"
            raise InvalidReturn(reply.get("error") or absent)
        return decode(reply["got"])

    for case in exercise.cases(seed):
        part = PartGrade(case.title, 0, case.points)
        try:
            got = case.run(returned, case.args)
            part.lines = case.wrong(got)
            seen.append((case, got))
        except InvalidReturn as error:
            part.lines = [f"  {line}" for line in printable(str(error)).splitlines()]
        except Exception as error:  # whatever came back: it must not end the grading of a class
            part.lines = [f"  what came back cannot be graded: {type(error).__name__}"]
        part.lines = [printable(line) for line in part.lines]
        result.stopped = printable(replies[-1].get("stopped", "")) if replies else ""
        part.points = 0 if part.lines or result.stopped else case.points
        result.parts.append(part)
    if any(reply.get("random") for reply in replies):
        result.diagnosis = Diagnosis("", [(BY_KEY["dropout-left-on"],)])
    elif seen and any(part.lines for part in result.parts):
        with suppress(ArithmeticError, LookupError, TypeError, ValueError):  # as above
            result.diagnosis = diagnose(exercise, seen)
    if exercise.leaves_arguments:
        changed = sorted({place for reply in replies for place in reply.get("changed", ())})
        names = ", ".join(exercise.parameters[place] for place in changed
                          if 0 <= place < len(exercise.parameters))
        wrong = [f"  it changed {names}; work on a copy (x = x + 1, not x += 1)"] if names else []
        earned = int(result.points > 0 and not wrong)  # doing nothing earns nothing
        result.parts.append(PartGrade("the arguments are left unchanged", earned, 1, wrong))
    return result


def diagnose(exercise: Exercise, seen: Sequence[tuple[Case, Any]]) -> Diagnosis | None:
    """Name what explains the results of an exercise in all its parts."""
    if exercise.name in FAMILIES:
        right, explain = FAMILIES[exercise.name]

        def explains(answer: Answer) -> bool:
            steps = {**right, **together(answer)}
            return all(explain(case.args, got, steps) for case, got in seen)

        mistakes = [mistake for mistake in MISTAKES if mistake.section == exercise.name]
        return None if explains(()) else find(mistakes, explains)
    judges = {}
    for case, got in seen:
        if isinstance(case.expected, Stage):
            found = tensors(got, len(case.expected.names), case.what)
            if all(tensor.dim() and tensor.numel() for tensor in found):
                judges[case.title] = case.expected.judge(found)
    return diagnose_parts(judges) if judges else None
