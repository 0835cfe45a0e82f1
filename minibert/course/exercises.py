"""Twelve exercises, from a string to a fine-tuning step: checked, with hints, for one or a class.

Each asks for one function. It is graded by the numbers it returns, part by part, never by its
source: loops, einsum, fused kernels or numpy, all are right if their numbers are. What is wrong is
shown side by side, and named where a known mistake explains everything that came back.

    from minibert.course.exercises import check
    check("attention", my_function)  # or a file: check("attention", "attention.py")
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from minibert.course import grading
from minibert.course.cases import EXERCISES, Exercise
from minibert.course.grading import Grade
from minibert.course.run_submission import InvalidReturn, call, wrapped
from minibert.course.runner import Submission, isolated
from minibert.io.files import no_such_file, printable, write_text
from minibert.io.language import say

Solution = Callable | str | os.PathLike


def find(name: str) -> Exercise:
    """The exercise of that name; hyphens count as underscores.

    Raises:
        ValueError: there is none of that name.
    """
    key = name.replace("-", "_")
    if key not in EXERCISES:
        raise ValueError(f"no exercise {name!r}; there are {', '.join(EXERCISES)}")
    return EXERCISES[key]


def check(name: str, solution: Solution, *, seed: int = 0, hint: int = 0) -> None:
    """Grade a function (here and now) or a file (in a process of its own); print the report.

    >>> check("attention", my_attention)
    """
    print(grade(name, solution, seed=seed))
    if hint:
        print(f"\n{hint_text(name, hint)}")


def grade(name: str, solution: Solution, *, seed: int = 0, **limits: float) -> Grade:
    """Grade a function, or a file within limits: ``seconds=10, megabytes=2000``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such exercise.
    """
    exercise = find(name)
    if callable(solution):
        here = partial(call, wrapped(exercise.name, solution))
        return grading.grade(exercise, seed, here, getattr(solution, "__name__", "your code"))
    if not Path(solution).is_file():
        raise no_such_file(solution)
    with Submission(solution, exercise.name, **limits) as submission:
        result = grading.grade(exercise, seed, submission.call, str(solution))
        result.printed, result.isolated = printable(submission.printed), isolated()
    return result


def hint_text(name: str, number: int) -> str:
    """One of the three hints of an exercise, each more concrete than the one before.

    Raises:
        ValueError: there is no such exercise, or no such hint.
    """
    hints = find(name).hints
    if not 1 <= number <= len(hints):
        raise ValueError(f"hint {number}; there are hints 1 to {len(hints)}")
    return f"{say(f'Hint {number} of {len(hints)}:')}\n{say(hints[number - 1])}"


def inputs(name: str, part: int = 1, *, seed: int = 0) -> tuple:
    """What the function is called with in a part, to try it: ``my_function(*inputs(...))``."""
    cases, calls = find(name).cases(seed), []
    if not 1 <= part <= len(cases):
        raise ValueError(f"part {part}; {name} has parts 1 to {len(cases)} with inputs")

    def record(*args: Any) -> None:
        calls.append(args)
        raise InvalidReturn  # the first call is enough

    case, function = cases[part - 1], wrapped(find(name).name, record)
    with suppress(InvalidReturn):
        case.run(lambda *args: function(*copy.deepcopy(args)), case.args)
    return calls[0]


def start(name: str, path: str | os.PathLike, *, replace: bool = False) -> None:
    """Write the file that a learner starts from.

    Raises:
        FileExistsError: there is a file, and it is not to be replaced.
    """
    exercise = find(name)
    if Path(path).exists() and not replace:
        raise FileExistsError(f"{path} exists and is not overwritten; name another file")
    how = f"Grade it: minibert check {exercise.name} THIS_FILE\n"
    how += f"Hints:    minibert check {exercise.name} --hint 1 (then 2, 3)"
    write_text(path, f'"""{say(exercise.title)}\n\n{say(how)}\n"""\n\n{say(exercise.code)}')


# ------------------------------------------------------------------------------------- a class


def grade_file(name: str, path: str | os.PathLike, **limits: Any) -> Grade:
    """Grade a file; one that is not there has no points."""
    if Path(path).is_file():
        return grade(name, path, **limits)
    missing = {"stopped": f"there is no {Path(path).name}"}
    return grading.grade(find(name), 0, lambda *_, **__: missing, str(path))


def grade_submission(directory: str | os.PathLike, **limits: Any) -> dict[str, Grade]:
    """Grade a directory with files named like the exercises."""
    return {name: grade_file(name, Path(directory, f"{name}.py"), **limits) for name in EXERCISES}


def holds_exercises(directory: Path) -> bool:
    """Whether a file in a directory is named like an exercise."""
    return any((directory / f"{name}.py").is_file() for name in EXERCISES)


def grade_class(
    directory: str | os.PathLike, workers: int | None = None, **limits: Any
) -> dict[str, dict[str, Grade]]:
    """Grade a directory: one submission, or a folder of them, one directory for each student.

    Raises:
        ValueError: no file in it, nor one level below, is named like an exercise.
    """
    home = Path(directory)
    students = [path for path in (home, *sorted(home.glob("*/"))) if holds_exercises(path)]
    if not students:
        raise ValueError(
            f"{home} has no exercises in it; files are named {next(iter(EXERCISES))}.py and so on, "
            "in the directory itself or in one directory for each student"
        )
    students = students[:1] if students[0] == home else students
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        results = pool.map(lambda path: grade_submission(path, **limits), students)
        names = [printable(path.resolve().name) for path in students]
        return dict(zip(names, results, strict=True))
