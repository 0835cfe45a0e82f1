"""Exercises: right in any style has full marks; wrong is named, or shown; nothing hangs."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from learners import other_styles, wrong

from minibert.cli import main as cli
from minibert.course import exercises
from minibert.course.exercises import EXERCISES, check, inputs, judge, submissions
from minibert.parity.catalogue import BY_KEY

RIGHT = Path(__file__).parents[1] / "learners" / "right"
STYLES = {name: f for name, f in vars(other_styles).items() if "__" in name and callable(f)}
WRONG = {name: f for name, f in vars(wrong).items() if not name.startswith("_") and "__" in name}


def solution(name):
    return getattr(importlib.import_module(f"learners.right.{name}"), name)


# ------------------------------------------------------------------------------ right in any style


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_solution_has_full_marks(name):
    for seed in (0, 1):
        report = judge(name, solution(name), seed=seed)
        assert report.passed and report.out_of == 10, str(report)
        assert report.finding is None


@pytest.mark.parametrize("name", STYLES)
def test_other_styles_have_full_marks(name):
    report = judge(name.split("__")[0], STYLES[name])
    assert report.passed, str(report)


# ----------------------------------------------------------------------------- wrong, and why


@pytest.mark.parametrize("name", WRONG)
def test_a_known_mistake_is_named(name):
    """Its name stands in the report with its cure, some points are lost and no other is named."""
    exercise, *keys = name.split("__")
    report = judge(exercise, WRONG[name])
    assert not report.passed
    assert report.finding is not None and report.finding.answers, str(report)
    named = [{mistake.key for mistake in answer} for answer in report.finding.answers]
    assert {key.replace("_", "-") for key in keys} in named, str(report)
    # Q with K exchanged is K Qᵀ: these two are one and the same, all others can be told apart.
    assert len(named) == (2 if name.endswith("query_key_swapped") else 1)
    for answer in report.finding.answers:
        assert all(mistake.cure in str(report) for mistake in answer)


def test_what_is_not_known_is_not_named_but_shown():
    """Numbers side by side, where they sit, and no name."""

    def attention(query, key, mask):
        scores = query @ key.transpose(-1, -2) / (query.shape[-1] + 0.3) ** 0.5
        return scores.masked_fill(mask[:, None, None] == 0, -1e9).softmax(-1)

    report = judge("attention", attention)
    assert report.points == 3  # the rows sum to 1, the arguments are left alone
    assert not report.finding.answers
    for said in ("worst at text", "yours", "reference", "not in the catalogue"):
        assert said in str(report)


def test_only_some_parts_explained_is_said():
    """Wrong in two ways in different parts, one of which is known."""

    def attention(query, key, mask):
        scores = (
            query @ key.transpose(-1, -2) / (1 if query.shape[1] == 1 else query.shape[-1] ** 0.5)
        )
        if mask.all():
            return scores.softmax(-1)
        return torch.full_like(scores, 1 / 7)

    report = judge("attention", attention)
    assert report.finding.partial and "there is another difference" in str(report)
    assert report.finding.answers[0] == (BY_KEY["no-scale"],)


@pytest.mark.parametrize(
    "returned, said",
    [
        (lambda q: None, "returned nothing (is there a return?)"),
        (lambda q: "0.5", "returned a str"),
        (lambda q: [[1.0], [2.0, 3.0]], "returned a list of 2"),
        (lambda q: q[0], "shape (1, 5, 6)"),
        (lambda q: q.no_such, "AttributeError"),
        (lambda q: object(), "returned a object"),
        (lambda q: q.new_ones(3, 1, 4, 4) / 4 * float("nan"), "wrong"),
    ],
)
def test_a_return_of_the_wrong_kind_is_said(returned, said):
    def attention(query, key, mask):
        return returned(query)

    report = judge("attention", attention)
    assert report.points <= 1 and said in str(report)


def test_an_error_points_to_the_line():
    report = judge("mean_pooling", lambda hidden, mask: hidden * mask)
    assert "RuntimeError" in str(report) and "hidden * mask" in str(report)


def test_writing_into_the_arguments_costs_a_point():
    def add_and_norm(x, sublayer, gain, bias, eps):
        x += sublayer
        return torch.nn.functional.layer_norm(x, x.shape[-1:], gain, bias, eps)

    report = judge("add_and_norm", add_and_norm)
    assert report.points == 9 and "written to: x" in str(report)


def test_doing_nothing_earns_nothing():
    for name in EXERCISES:
        report = judge(name, lambda *args, **kw: None)
        assert report.points == 0, str(report)


def test_two_optimizer_steps_and_evaluation_mode_are_seen():
    def training_step(model, micro_batches, optimizer, max_norm):
        for batch in micro_batches:
            loss = solution("training_step")(model, [batch], optimizer, max_norm)
        model.eval()
        return loss

    report = judge("training_step", training_step)
    assert "optimizer.step() was called [2, 2] times" in str(report.parts)


# ------------------------------------------------------------------------- inputs, hints, files


def test_inputs_follow_from_the_seed():
    """The same for the same seed, others for another one; they can be had to try by hand."""
    for name in EXERCISES:
        if name != "training_step":
            assert repr(inputs(name)) == repr(inputs(name))
            assert repr(inputs(name)) != repr(inputs(name, seed=1))
        solution(name)(*inputs(name, part=1))


def test_no_part_is_blind():
    """Batches are ragged, sizes differ, no bias is zero and no norm the identity."""
    hidden, mask, heads, weights = inputs("multi_head_attention", part=3)
    B, T, H = hidden.shape
    assert len({B, T, H, heads, H // heads}) == 5
    assert len(set(mask.sum(1).tolist())) == B and int(mask.min()) == 0
    assert all(bool((tensor != 0).any()) for tensor in weights.values())
    ids, types, *_, gain, bias, _ = inputs("embeddings", part=3)
    assert set(types.flatten().tolist()) == {0, 1} and ids.shape[0] != ids.shape[1]
    assert float((gain - 1).abs().max()) > 0.1 and float(bias.abs().max()) > 0.1


@pytest.mark.parametrize("name", EXERCISES)
def test_the_starting_file_runs_and_has_no_points(name):
    text = EXERCISES[name].starting_file()
    assert max(map(len, text.splitlines())) <= 100
    scope = {}
    exec(compile(text, name, "exec"), scope)  # noqa: S102
    report = judge(name, scope[name])
    assert report.points == 0 and "not written yet" in str(report)
    assert "Source:" in text and str(solution(name).__code__.co_consts) not in text
    assert len({exercises.hint_text(name, number) for number in (1, 2, 3)}) == 3


def test_start_overwrites_nothing(tmp_path):
    path = tmp_path / "attention.py"
    exercises.start("attention", path)
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="not overwritten"):
        exercises.start("attention", path)
    assert path.read_text() == "mine"


def test_check_prints_for_a_notebook(capsys):
    check("mean-pooling", lambda hidden, mask: hidden.mean(1), hint=2)
    out = capsys.readouterr().out
    assert "4 of 10" in out and "the mean runs over padding too" in out and "Hint 2 of 3" in out


# -------------------------------------------------------------- files, in a process with limits

TROUBLE = """import os
import sys
import torch
def attention(query, key, mask):
    if len(query) == 2:
        sys.exit("enough")
    if len(query) == 3 and mask.all():
        os.fork()
    if len(query) == 4:
        return torch.ones(400_000_000)
    scores = query @ key.mT / query.shape[-1] ** 0.5 + (mask[:, None, None] - 1) * 1e9
    if mask.any(1).all():
        print("x" * 9_999_999)
        return scores.softmax(-1)
    while True: pass
"""
GONE = """import os
from right_attention import attention as right
def attention(query, key, mask):
    if not mask.any(1).all():
        os._exit(0)
    return right(query, key, mask)
"""


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A class of three: in trouble of all kinds, gone before the end, right."""
    home = tmp_path_factory.mktemp("class")
    for name, text in (("trouble", TROUBLE), ("gone", GONE)):
        (home / name).mkdir()
        (home / name / "attention.py").write_text(text)
    (home / "right").mkdir()
    shutil.copy(RIGHT / "attention.py", home / "right")
    shutil.copy(RIGHT / "attention.py", home / "gone" / "right_attention.py")
    return submissions(home, workers=2, seconds=4, megabytes=1000)


def test_trouble_in_a_part_is_a_judgement_of_that_part(judged):
    report = judged["trouble"]["attention"]
    assert [part.points for part in report.parts] == [0, 0, 0, 2, 0, 1], str(report)
    said = ("SystemExit: enough (line 6", "os.fork is not allowed here", "can't allocate memory")
    for part, words in zip(report.parts, said, strict=False):
        assert words in "".join(part.lines)


def test_an_endless_loop_is_stopped_and_its_line_named(judged):
    report = judged["trouble"]["attention"]
    assert "stopped after 4 seconds in line 15: while True: pass" in str(report)
    assert not report.parts[4].judged


def test_a_flood_of_output_is_cut(judged):
    printed = judged["trouble"]["attention"].printed
    assert printed == "x" * 2000


def test_what_was_right_before_the_process_ended_counts(judged):
    report = judged["gone"]["attention"]
    assert [part.points for part in report.parts] == [2, 2, 2, 2, 0, 1]
    assert "the process ended in the middle, with status 0" in str(report)
    assert judged["right"]["attention"].passed


def test_the_table_of_a_class(judged):
    rows = exercises.class_table(judged)
    assert rows[0] == ["student", *EXERCISES, "sum"]
    assert [(row[0], row[-1]) for row in rows[1:]] == [("gone", 9), ("right", 10), ("trouble", 3)]
    assert rows[2][1 + list(EXERCISES).index("attention")] == 10
    assert exercises.as_csv(rows).splitlines()[0].startswith("student,clean_and_split,")
    assert "there is no wordpiece.py" in exercises.one_table(judged["right"])
    assert len(exercises.as_text(rows).splitlines()[0]) < 100
    json.dumps({name: one.to_dict() for name, one in judged["trouble"].items()})


def test_how_a_process_ended_is_said_with_the_line(tmp_path):
    """A crash in C, a signal, the time limit; from what Python wrote in its last moment."""
    path = tmp_path / "mine.py"
    path.write_text("one\ntwo\n    three\n")
    trace = f'  File "/elsewhere.py", line 9 in f\n  File "{path}", line 3 in f\n'
    ended = exercises.sandbox.how_it_ended
    assert "crashed (Segmentation fault) in line 3: three" in ended(
        -11, "Fatal Python error: Segmentation fault\n" + trace, path, 5
    )
    assert "stopped after 5 seconds in line 3: three" in ended(1, "Timeout\n" + trace, path, 5)
    assert "killed by signal 9" in ended(-9, "", path, 5)


@pytest.mark.parametrize(
    "text, said",
    [
        ("def atention(q, k, m): pass", "it has no function attention; it has atention"),
        ("attention = 1", "it has no function attention; it has none at all"),
    ],
)
def test_a_file_without_the_function(tmp_path, monkeypatch, text, said):
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setitem(sys.modules, "submission", None)
    with pytest.raises(LookupError, match=said):
        exercises.sandbox.load(str(tmp_path / "mine.py"), "attention")


def test_a_child_that_writes_nonsense_is_no_crash(tmp_path):
    """Its lines are data: what is not a line of JSON is left out, what is not numbers is wrong."""
    path = tmp_path / "result"
    path.write_bytes(b'{"part": 0, "got": {"shape": [2], "numbers": [1]}}\nnonsense\n[1]\n{"pa')
    lines = exercises.sandbox.read(path)
    assert lines == [{"part": 0, "got": {"shape": [2], "numbers": [1]}}]
    task = EXERCISES["attention"]
    report = exercises.judgement(task, task.cases(0), lines, "x")
    assert report.points == 0 and "not numbers" in str(report)


# ------------------------------------------------------------------------------ the command line


def run(*arguments):
    return cli.main([str(a) for a in arguments])


def test_check_without_a_file(capsys, tmp_path):
    assert run("check") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(EXERCISES)
    assert run("check", "attention", "--hint", 1) == 0
    assert "Hint 1 of 3" in capsys.readouterr().out
    path = tmp_path / "a.py"
    assert run("check", "attention", "--start", path) == 0 and path.exists()
    assert run("check", "attention", "--start", path) == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["nothing", "x.py"], "no exercise 'nothing'"),
        (["attention", "no_such_file.py"], "no_such_file.py: no such file (looked from "),
        (["attention"], "what is to be graded?"),
        (["all", "."], "has no exercises in it"),
    ],
)
def test_wrong_use_is_2(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert run("check", *arguments) == 2
    assert said in capsys.readouterr().err


def test_the_status_tells_full_marks(capsys, monkeypatch):
    """0 full marks, 1 not; the judgement as JSON. (The file is called here, to save the time.)"""

    def here(exercise, path, **limits):
        function = solution(exercise) if "right" in str(path) else WRONG["attention__no_scale"]
        task = EXERCISES[exercise]
        return list(exercises.observe(task, function, task.cases(0))), "", ""

    monkeypatch.setattr(exercises.sandbox, "run", here)
    assert run("check", "attention", RIGHT / "attention.py", "--json") == 0
    assert json.loads(capsys.readouterr().out)["points"] == 10
    assert run("check", "attention", wrong.__file__) == 1
    assert "no-scale" in capsys.readouterr().out
    assert run("check", "all", RIGHT, "--csv") == 0
    assert capsys.readouterr().out.splitlines()[1] == "right" + ",10" * 12 + ",120"
