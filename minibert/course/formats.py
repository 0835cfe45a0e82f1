"""The grades of one submission, written as the tools read them that lecturers collect work with.

Each format is a function from {exercise: grade} to a text. nbgrader and Otter run the student's
code themselves, so what they get calls the grader again, by `credit` and `credit_part`.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from minibert.course import exercises
from minibert.course.grading import Grade, PartGrade
from minibert.io.files import printable
from minibert.io.language import say

Grades = Mapping[str, Grade]
LONGEST = 10_000  # characters of a report: twelve of them stay below PrairieLearn's megabyte


def said(text: object) -> str:
    """A text that every tool can show, and that is not too long."""
    text = printable(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n... (cut)"


def reasons(grade: Grade, part: PartGrade) -> str:
    """Why a part has no points."""
    lines = part.lines or [grade.stopped or "not reached"]
    return said(say("\n".join([*lines, str(grade.diagnosis or "")]).rstrip()))


def total(grades: Grades) -> tuple[int, int]:
    """The points reached, and those there are."""
    return sum(g.points for g in grades.values()), sum(g.out_of for g in grades.values())


# ------------------------------------------------------------------------ results, to be read


def gradescope(grades: Grades) -> str:
    """``results.json``: a test for each exercise, with its points and its report."""
    points, _ = total(grades)
    tests = [
        {
            "name": name, "score": grade.points, "max_score": grade.out_of,
            "status": "passed" if grade.passed else "failed", "output": said(grade),
        }
        for name, grade in grades.items()
    ]  # fmt: skip
    return json.dumps({"score": points, "tests": tests}, indent=1, ensure_ascii=False)


def prairielearn(grades: Grades) -> str:
    """``results.json``; where no file could be run, it is not gradable and costs no attempt."""
    points, out_of = total(grades)
    tests = [
        {
            "name": name, "points": grade.points, "max_points": grade.out_of,
            "message": said(say(grade.summary)), "output": said(grade),
        }
        for name, grade in grades.items()
    ]  # fmt: skip
    result: dict[str, Any] = {"gradable": True, "score": points / out_of, "tests": tests}
    if not any(grade.ran for grade in grades.values()):
        errors = [said(f"{name}: {say(grade.stopped)}") for name, grade in grades.items()]
        result = {"gradable": False, "format_errors": errors}
    return json.dumps(result, indent=1, ensure_ascii=False)


def github(grades: Grades) -> str:
    """A line for ``$GITHUB_OUTPUT``: what GitHub Classroom's grading reporter adds up."""
    tests = [
        {
            "name": name, "status": "pass" if grade.passed else "fail",
            "score": grade.points, "message": "" if grade.passed else said(grade),
        }
        for name, grade in grades.items()
    ]  # fmt: skip
    points, out_of = total(grades)
    status = "pass" if points == out_of else "fail"
    result = {"version": 1, "status": status, "max_score": out_of, "tests": tests}
    return "result=" + base64.b64encode(json.dumps(result).encode()).decode()


def junit(grades: Grades) -> str:
    """JUnit XML: a test suite for each exercise, a test case for each part."""
    root = ElementTree.Element("testsuites", name="minibert")
    for name, grade in grades.items():
        lost = sum(not part.points for part in grade.parts)
        suite = ElementTree.SubElement(
            root, "testsuite", name=name, tests=str(len(grade.parts)), failures=str(lost)
        )
        for part in grade.parts:
            title = said(f"{part.title} ({part.points}/{part.out_of})")
            case = ElementTree.SubElement(suite, "testcase", classname=name, name=title, time="0")
            if not part.points:
                why = reasons(grade, part)
                failure = ElementTree.SubElement(case, "failure", message=why.partition("\n")[0])
                failure.text = why
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")


# ------------------------------------------------------------------- tests, to be run elsewhere


def credit(name: str, solution: exercises.Solution) -> int:
    """Print the report of an exercise and return its points: the last line of an nbgrader cell.

    >>> credit("attention", attention)  # or a file: credit("attention", "attention.py")

    nbgrader gives no points to a cell that writes to stderr, as a warning of torch would.
    """
    with redirect_stderr(sys.stdout):
        try:
            grade = exercises.grade(name, solution)
        except FileNotFoundError as error:
            print(said(error))
            return 0
        print(said(grade))
    return grade.points


def credit_part(name: str, number: int, solution: exercises.Solution | None) -> None:
    """Nothing, where a part has its points: a test case of Otter.

    Args:
        number: of the part, from 1.
        solution: a function or a file; None: the exercise's own file, ``attention.py``.

    Raises:
        AssertionError: it has none; says why.
    """
    solution = solution or f"{name}.py"
    if (name, solution) not in GRADED:
        if not callable(solution) and not Path(solution).is_file():
            raise AssertionError(say(f"there is no function {name}, and no file {solution}"))
        GRADED[name, solution] = exercises.grade(name, solution)
    grade = GRADED[name, solution]
    part = grade.parts[number - 1]
    if not part.points:
        raise AssertionError("\n" + reasons(grade, part))


GRADED: dict[tuple, Grade] = {}  # by `credit_part`, which is called once for each part


def nbgrader(grades: Grades) -> str:
    """A notebook with a graded cell for each exercise, which says how this submission has done.

    Run, a cell grades the function of that name in the notebook or, without one, the file.
    """
    cells = []
    for name, grade in grades.items():
        source = (
            "from minibert.course.formats import credit\n\n"
            f'credit("{name}", globals().get("{name}", "{name}.py"))'
        )
        about = {
            "grade": True, "grade_id": name, "locked": True, "points": grade.out_of,
            "schema_version": 3, "solution": False, "task": False, "cell_type": "code",
        }  # fmt: skip
        result = {"output_type": "execute_result", "execution_count": 1, "metadata": {},
                  "data": {"text/plain": str(grade.points)}}
        outputs = [{"output_type": "stream", "name": "stdout", "text": said(grade)}, result]
        cells.append({
            "cell_type": "code", "id": name, "metadata": {"nbgrader": about},
            "execution_count": 1, "source": source, "outputs": outputs,
        })  # fmt: skip
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4,
                "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False)


def otter(grades: Grades) -> str:
    """A test file for Otter: a test case for each part, with its points."""
    lines = [
        "from otter.test_files import test_case", "",
        "from minibert.course.formats import credit_part", "",
        "OK_FORMAT = False", "",
        f"name = {'_'.join(grades) if len(grades) == 1 else 'minibert'!r}",
    ]  # fmt: skip
    for name, grade in grades.items():
        for number, part in enumerate(grade.parts, 1):
            title = f"{name}: {part.title}"
            lines += [
                "", "",
                f"@test_case(name={title!r}, points={part.out_of})",
                f"def {name}_{number}(env):",
                f'    credit_part("{name}", {number}, env.get("{name}"))',
            ]  # fmt: skip
    return "\n".join(lines)


FORMATS: dict[str, Callable[[Grades], str]] = {
    function.__name__: function
    for function in (gradescope, prairielearn, github, junit, nbgrader, otter)
}
