"""Grades as other tools read them: points and reasons arrive, a crash is a clean zero."""

import base64
import contextlib
import json
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from learners.right.cosine_similarity import cosine_similarity
from support.command import run

from minibert.course import exercises, formats
from minibert.course.grading import Grade, PartGrade


def crash(a, b):
    raise RuntimeError("boom \x1b[31m ]]> <b> \ud800 " + "x" * 50_000)


def plain_mean(hidden, mask):
    return hidden.mean(1)


@pytest.fixture(scope="module")
def grades():
    """Right, partly right, crashed, and not there: 10, 4, 0 and 0 points."""
    return {
        "cosine_similarity": exercises.grade("cosine_similarity", cosine_similarity),
        "mean_pooling": exercises.grade("mean_pooling", plain_mean),
        "crashed": exercises.grade("cosine_similarity", crash),
        "attention": exercises.grade_file("attention", "no/attention.py"),
    }


def gradescope(text):
    found = json.loads(text)
    assert found["score"] == sum(test["score"] for test in found["tests"])
    assert all(test["status"] == ("passed" if test["score"] == test["max_score"] else "failed")
               for test in found["tests"])
    return [(test["score"], test["max_score"], test["output"]) for test in found["tests"]]


def prairielearn(text):
    found = json.loads(text)
    assert found["gradable"] and found["score"] == pytest.approx(14 / 40)
    return [(test["points"], test["max_points"], test["output"]) for test in found["tests"]]


def github(text):
    name, _, encoded = text.partition("=")
    found = json.loads(base64.b64decode(encoded))
    assert name == "result" and found["max_score"] == 40 and found["status"] == "fail"
    return [(test["score"], 10, test["message"]) for test in found["tests"]]


def junit(text):
    found = []
    for suite in ElementTree.fromstring(text):
        assert int(suite.get("failures")) == len(suite.findall("*/failure"))
        points = [case.get("name").rpartition("(")[2][:-1].split("/") for case in suite]
        reached, out_of = (sum(map(int, numbers)) for numbers in zip(*points, strict=True))
        found.append((reached, out_of, "".join(suite.itertext())))
    return found


def nbgrader(text):
    """By nbgrader, where it is installed."""
    cells = [json.loads(json.dumps(cell), object_hook=Attributes)
             for cell in json.loads(text)["cells"]]
    grade = pytest.importorskip("nbgrader.utils").determine_grade
    pytest.importorskip("nbformat").validate(json.loads(text))
    return [(*grade(cell), cell.outputs[0].text) for cell in cells]


class Attributes(dict):
    """A cell as nbformat has it."""

    __getattr__ = dict.__getitem__


@pytest.mark.parametrize("read", [gradescope, prairielearn, github, junit, nbgrader])
def test_points_and_reasons_arrive(grades, read):
    text = formats.FORMATS[read.__name__](grades)
    assert len(text.encode()) < 1_000_000
    text.encode("utf-8")
    right, partly, crashed, missing = read(text)
    assert [found[:2] for found in (right, partly, crashed, missing)] == [
        (10, 10), (4, 10), (0, 10), (0, 10)]
    assert "the mean runs over padding too" in partly[2]
    assert r"RuntimeError: boom \u001b[31m ]]> <b> \ud800 x" in crashed[2]
    assert "there is no attention.py" in missing[2]


def test_a_file_that_does_not_run_is_not_gradable():
    """PrairieLearn takes no attempt away for it."""
    parts = [PartGrade("a", 0, 10)]
    broken = Grade("attention", "x", parts, stopped="the file does not run: SyntaxError: (line 1)")
    found = json.loads(formats.prairielearn({"attention": broken}))
    assert found["gradable"] is False and "SyntaxError" in found["format_errors"][0]
    slow = Grade("attention", "x", parts, stopped="stopped after 10 seconds")
    assert json.loads(formats.prairielearn({"a": slow, "b": broken}))["gradable"] is True


@pytest.mark.parametrize("solution, points, said", [
    (cosine_similarity, 10, ""),
    (lambda a, b: cosine_similarity(a, b).abs(), 0, "wrong"),
    (crash, 0, "RuntimeError: boom"),
    ("no_such.py", 0, "no_such.py: no such file"),
])
def test_a_cell_and_a_test_file_give_the_same_points(monkeypatch, capsys, solution, points, said):
    """nbgrader runs `credit`, Otter a test case for each part; nothing goes to stderr."""
    assert formats.credit("cosine_similarity", solution) == points
    out, error = capsys.readouterr()
    assert said in out and not error
    grade = exercises.grade_file("cosine_similarity", "no.py")
    text, cases = formats.otter({"cosine_similarity": grade}), []

    def test_case(name, points):
        return lambda function: cases.append((points, function)) or function

    module = SimpleNamespace(test_case=test_case)
    monkeypatch.setitem(__import__("sys").modules, "otter", SimpleNamespace(test_files=module))
    monkeypatch.setitem(__import__("sys").modules, "otter.test_files", module)
    space = {}
    exec(text, space)  # noqa: S102 - it is ours
    reached, reasons = 0, []
    for worth, function in cases:
        try:
            function({"cosine_similarity": solution})
            reached += worth
        except AssertionError as error:
            reasons.append(str(error))
    assert space["name"] == "cosine_similarity" and space["OK_FORMAT"] is False
    assert reached == points and (reasons or points == 10)


def test_otter_itself_reads_the_test_file(tmp_path, grades):
    files = pytest.importorskip("otter.test_files")
    path = tmp_path / "minibert.py"
    path.write_text(formats.otter({name: grades[name] for name in list(grades)[:2]}))
    found = files.ExceptionTestFile.from_file(path)
    with contextlib.chdir(tmp_path) if hasattr(contextlib, "chdir") else contextlib.nullcontext():
        found.run({"cosine_similarity": cosine_similarity, "mean_pooling": plain_mean})
    assert (found.score, found.possible) == (14, 20)
    assert "the mean runs over padding too" in found.summary()


def test_the_command_line(capsys, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "attention.py").write_text("def attention(:")
    status, _, error = run(capsys, "check", "all", tmp_path, "--format", "gradescope")
    assert status == 2 and "one submission, such as" in error
    path = tmp_path / "a" / "attention.py"
    status, out, _ = run(capsys, "check", "attention", path, "--format", "prairielearn")
    assert status == 0 and json.loads(out)["gradable"] is False
    status, out, _ = run(capsys, "check", "wordpiece", tmp_path / "no.py", "--format", "junit")
    assert status == 1 and "there is no no.py" in out
