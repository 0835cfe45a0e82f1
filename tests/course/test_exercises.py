"""Exercises: right in any style has full marks; wrong is named, or shown; nothing hangs."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from learners import nearly, other_styles, wrong
from support.chinese import english_in
from support.command import run

from minibert.cli.check import class_csv, class_text, submission_text
from minibert.course import exercises, grading, run_submission, runner
from minibert.course.exercises import EXERCISES, check, grade, inputs
from minibert.io.language import say
from minibert.parity.catalogue import BY_KEY

RIGHT = Path(__file__).parents[1] / "learners" / "right"
STYLES = {name: f for name, f in vars(other_styles).items() if "__" in name and callable(f)}
WRONG = {name: f for name, f in vars(wrong).items() if not name.startswith("_") and "__" in name}

NEARLY = {name: f for name, f in vars(nearly).items() if "__" in name and callable(f)}


def solution(name):
    return getattr(importlib.import_module(f"learners.right.{name}"), name)


# --------------------------------------------------------------------------- right in any style


@pytest.mark.parametrize("name", [*EXERCISES, *STYLES])
def test_a_right_solution_has_full_marks(name):
    function = STYLES[name] if name in STYLES else solution(name)
    for seed in (0, 1):
        report = grade(name.split("__")[0], function, seed=seed)
        assert report.passed and report.out_of == 10, str(report)
        assert report.diagnosis is None


# ----------------------------------------------------------------------------- wrong, and why


@pytest.mark.parametrize("name", WRONG)
def test_a_known_mistake_is_named(name, monkeypatch):
    """Its name stands in the report with its cure, some points are lost and no other is named.

    In Chinese nothing is left in English.
    """
    exercise, *keys = name.split("__")
    report = grade(exercise, WRONG[name])
    assert not report.passed
    assert report.diagnosis is not None and report.diagnosis.answers, str(report)
    named = [{mistake.key for mistake in answer} for answer in report.diagnosis.answers]
    assert {key.replace("_", "-") for key in keys} in named, str(report)
    # Only these are the same: Q with K exchanged and K Qᵀ; a mask of 0 and 1 and one of -1 and 0;
    # no eps and, for these numbers, one of 1e-12.
    twice = ("query_key_swapped", "mask_added_raw", "norm_no_eps")
    assert len(named) == 1 + name.endswith(twice)
    for answer in report.diagnosis.answers:
        assert all(mistake.cure in str(report) for mistake in answer)
    monkeypatch.setenv("MINIBERT_LANG", "zh")
    for answer in report.diagnosis.answers:
        assert all(say(mistake.cure) in str(report) for mistake in answer)
    assert not english_in(str(report))


@pytest.mark.parametrize("name", NEARLY)
def test_what_is_nearly_right_costs_points(name, monkeypatch):
    monkeypatch.setattr(grading, "diagnose", lambda *_: None)  # its name is another question
    report = grade(name.split("__")[0], NEARLY[name])
    assert 5 <= report.points < 10 or name.startswith("adamw"), str(report)
    assert not report.passed and report.summary


def test_what_is_not_known_is_not_named_but_shown():
    """Numbers side by side, where they sit, and no name."""

    def attention(query, key, mask):
        scores = query @ key.transpose(-1, -2) / (query.shape[-1] + 0.3) ** 0.5
        return scores.masked_fill(mask[:, None, None] == 0, -1e9).softmax(-1)

    report = grade("attention", attention)
    assert report.points == 4  # the rows sum to 1, all is finite, the arguments are left alone
    assert not report.diagnosis.answers
    for said in ("yours", "reference", "not in the catalogue"):
        assert said in str(report)


def test_only_some_parts_explained_is_said():
    """Wrong in two ways in different parts, one of which is known."""

    def attention(query, key, mask):
        scores = query @ key.mT / (1 if query.shape[1] == 1 else query.shape[-1] ** 0.5)
        return scores.softmax(-1) if mask.all() else torch.full_like(scores, 1 / 7)

    report = grade("attention", attention)
    assert report.diagnosis.partial and "there is another difference" in str(report)
    assert report.diagnosis.answers[0] == (BY_KEY["no-scale"],)


@pytest.mark.parametrize("masked, points, key", [
    (lambda scores, real: scores.masked_fill(real == 0, -torch.inf), 9, "mask-infinite"),
    (lambda scores, real: scores * real, 8, "mask-multiplied"),
])  # fmt: skip
def test_a_text_of_padding_alone_is_a_part_of_its_own(masked, points, key):
    """It is looked at by itself, and what explains the only part that is wrong leaves nothing."""

    def attention(query, key, mask):
        scores = query @ key.mT / query.shape[-1] ** 0.5
        return masked(scores, mask[:, None, None]).softmax(-1)

    report = grade("attention", attention)
    assert report.points == points and report.diagnosis.answers == [(BY_KEY[key],)]
    hidden = report.diagnosis.hidden.get(key, ())  # of the code's own part
    assert {mistake.section for mistake in hidden} <= {"Attention"}
    assert "another difference" not in str(report) and "Only padding differs" not in str(report)


@pytest.mark.parametrize("returned, said", [
    (lambda q: None, "returned nothing (is there a return?)"),
    (lambda q: "0.5", "returned a str"),
    (lambda q: [[1.0], [2.0, 3.0]], "returned a list of 2"),
    (lambda q: q[0], "shape (1, 5, 6)"),
    (lambda q: q.no_such, "AttributeError"),
    (lambda q: q @ q, "(line "),
    (lambda q: object(), "returned an object of type object"),
    (lambda q: 10**400, "returned a int"),
    (lambda q: q.new_ones(1).expand(10**9), "far too large"),
    (lambda q: q.new_ones(3, 1, 4, 4) / 4 * float("nan"), "wrong"),
])
def test_a_return_of_the_wrong_kind_is_said(returned, said):
    report = grade("attention", lambda query, key, mask: returned(query))
    assert report.points <= 1 and said in str(report)


def test_writing_into_the_arguments_costs_a_point():
    def add_and_norm(x, sublayer, gain, bias, eps):
        x += sublayer
        return torch.nn.functional.layer_norm(x, x.shape[-1:], gain, bias, eps)

    report = grade("add_and_norm", add_and_norm)
    assert report.points == 9 and "it changed x" in str(report)


def test_two_optimizer_steps_and_evaluation_mode_are_seen():
    def training_step(model, micro_batches, optimizer, max_norm):
        for batch in micro_batches:
            loss = solution("training_step")(model, [batch], optimizer, max_norm)
        model.eval()
        return loss

    report = grade("training_step", training_step)
    assert "optimizer.step() was called [2, 2] times" in str(report.parts)


# ------------------------------------------------------------------------- inputs, hints, files


@pytest.mark.parametrize("name", EXERCISES)
def test_inputs_follow_from_the_seed_and_can_be_tried(name):
    if name != "training_step":
        assert repr(inputs(name)) == repr(inputs(name)) != repr(inputs(name, seed=1))
    solution(name)(*inputs(name, part=1))
    with pytest.raises(ValueError, match="has parts 1 to"):
        inputs(name, part=9)


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
def test_the_starting_file_runs_and_has_no_points(name, tmp_path):
    path = tmp_path / "start.py"
    exercises.start(name, path)
    text = path.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 100
    function = run_submission.load_object(path, name)
    report = grade(name, function)
    assert report.points == 0 and "not written yet" in str(report)
    assert function.__doc__ and "Source:" in text
    assert len({exercises.hint_text(name, number) for number in (1, 2, 3)}) == 3
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="not overwritten"):
        exercises.start(name, path)
    assert path.read_text() == "mine"


def test_check_prints_for_a_notebook(capsys):
    check("mean-pooling", lambda hidden, mask: hidden.mean(1), hint=2)
    out = capsys.readouterr().out
    assert "4 of 10" in out and "the mean runs over padding too" in out and "Hint 2 of 3" in out


# -------------------------------------------------------------- files, in a process with limits

FILES = {
    "trouble": """import os, sys, torch
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
""",
    "gone": """import os
from right_attention import attention as right
def attention(query, key, mask):
    return right(query, key, mask) if mask.any(1).all() else os._exit(0)
""",
    "noise": """import contextlib, os
def attention(*args):
    for descriptor in range(3, 20):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"noise\\n")
""",
    "crashed": "import ctypes\ndef attention(*args): ctypes.string_at(0)",
    "killed": "import signal\ndef attention(*args): signal.raise_signal(signal.SIGKILL)",
    "misspelt": "def atention(q, k, m): pass",
    "broken": "import sys\nsys.exit('no')",
    "liar": """import torch
class Liar(torch.Tensor):
    def numel(self): return 1
    def tolist(self): return ["x" * 10**8]
def attention(query, key, mask): return torch.ones(1).as_subclass(Liar)
""",
    "deep": """def attention(query, key, mask):
    nested = []
    for _ in range(5_000): nested = [nested]
    return nested
""",
    "patcher": """import json, torch
torch.Tensor.__eq__ = torch.Tensor.equal = torch.allclose = lambda *args: True
json.dumps = lambda *args, **options: '{"points": 10, "passed": true, "printed": ""}'
def attention(query, key, mask): return query @ key.mT
""",
    "parent": """from multiprocessing.util import spawnv_passfds
def attention(*args):
    spawnv_passfds(b"/bin/sh", [b"sh", b"-c", b"setsid sleep 4321"], [])
    spawnv_passfds(b"/bin/sh", [b"sh", b"-c", b"setsid sleep 4321"], [])
""",
    "escapes": "def attention(*args):\n    print('\\x1b[2J\\ud800')\n"
               "    raise ValueError('\\x1b[31mred \\ud800')",
    "forger": """import os
def attention(*args):
    for descriptor in range(3, 20):
        try: os.write(descriptor, b'{"printed": ""}\\n')
        except OSError: pass
""",
}
RIGHTS = '(pathlib.Path(__file__).parents[1] / "right/attention.py")'
REFUSED = [  # what a file tries, one thing in each call, and what is said of it
    [
        ('import_module("minibert.parity.steps")', " is not allowed here: no exercise needs it"),
        ('open(sys.modules["minibert"].__file__[:-11] + "attention.py")',
         "attention.py is not allowed here"),
        (f"exec({RIGHTS}.read_text())", "right/attention.py is not allowed here"),
        (f'{RIGHTS}.write_text("gone")', "writing to "),
        ('socket.create_connection(("127.0.0.1", 9), 1)', "socket"),
    ],
    [
        ('exec("from minibert.similarity import search")',
         "import minibert.similarity is not allowed here: write the function yourself"),
        ('ctypes.CDLL(None).system(b"echo gone > ../right/attention.py")',
         "ctypes.dlopen is not allowed here"),
        (f'sqlite3.connect({RIGHTS}.with_name("x.db"))', "sqlite3.connect is not allowed here"),
        ("search()", "ValueError:  (line"),
    ],
]
if runner.isolation():  # Python cannot see what C++ writes
    REFUSED[1].append((f"torch.save(query, {RIGHTS})", "attention.py"))
TRIES = """import ctypes, gc, pathlib, socket, sqlite3, sys, torch
from importlib import import_module
def search():
    frame, found = sys._getframe(), []
    while frame := frame.f_back:
        found += [*frame.f_locals, *(type(value).__name__ for value in frame.f_locals.values())]
    found += [type(thing).__name__ for thing in gc.get_objects()]
    raise ValueError("found " * bool({"expected", "Case", "Stage", "Computation"} & {*found}))
tries = iter(TRIES)
def attention(query, *args):
    exec(next(tries))
"""
QUICK = ("trouble", "gone", "crashed", "refused-0")
for number, group in enumerate(REFUSED):
    FILES[f"refused-{number}"] = TRIES.replace("TRIES", repr([tried for tried, _ in group]))


def grade_files(home, names):
    """The reports on a class of these troubles, and of one who is right."""
    for name in names:
        (home / name).mkdir()
        (home / name / "attention.py").write_text(FILES[name])
        shutil.copy(RIGHT / "attention.py", home / name / "right_attention.py")
    (home / "right").mkdir()
    shutil.copy(RIGHT / "attention.py", home / "right")
    return exercises.grade_class(home, workers=2, seconds=4, megabytes=1000)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    return grade_files(tmp_path_factory.mktemp("class"), QUICK)


@pytest.fixture(scope="module")
def graded_slowly(tmp_path_factory):
    return grade_files(tmp_path_factory.mktemp("class"), FILES.keys() - QUICK)


def test_trouble_in_a_part_costs_that_part(graded):
    report = graded["trouble"]["attention"]
    assert [part.points for part in report.parts] == [0, 0, 0, 2, 0, 1], str(report)
    said = ("SystemExit: enough (line 4", "os.fork is not allowed here", "can't allocate memory")
    for part, words in zip(report.parts, said, strict=False):
        assert words in "".join(part.lines)
    assert "stopped after 4 seconds in line 13: while True: pass" in str(report)
    assert not report.parts[4].judged
    assert report.printed == "x" * 2000  # a flood of output is cut


def test_what_was_right_before_the_process_ended_counts(graded):
    report = graded["gone"]["attention"]
    assert [part.points for part in report.parts] == [2, 2, 2, 2, 0, 1]
    assert "the process ended in the middle, with status 0" in str(report)


def assert_no_points(graded, name, *said):
    report = graded[name]["attention"]
    assert report.points == 0
    whole = "\n".join([str(report), *(line for part in report.parts for line in part.lines)])
    for words in said:
        assert words in whole, whole
    json.dumps(report.to_dict())
    str(report).encode()
    assert all(c.isprintable() or c == "\n" for c in str(report))
    assert graded["right"]["attention"].passed, "nobody else is touched"


@pytest.mark.parametrize("name, said", [
    ("crashed", ["Python itself crashed (Segmentation fault) in line 2: def attention(*args)"]),
    ("refused-0", [said for _, said in REFUSED[0]]),
])
def test_why_a_file_has_no_points_is_said(graded, name, said):
    assert_no_points(graded, name, *said)


@pytest.mark.slow
@pytest.mark.parametrize("name, said", [
    ("killed", "the process was killed by signal 9"),
    ("misspelt", "has no 'attention'; it has atention"),
    ("broken", "the file does not run: SystemExit: no (line 2: sys.exit('no'))"),
    ("noise", "the process "),
    ("liar", "0 of 10 points"),
    ("deep", "RecursionError"),
    ("patcher", "the process "),
    ("escapes", r"ValueError: \u001b[31mred \ud800"),
    ("forger", "the process "),
    *(("refused-1", said) for _, said in REFUSED[1]),
])
def test_why_another_file_has_no_points_is_said(graded_slowly, name, said):
    assert_no_points(graded_slowly, name, said)


def test_a_busy_machine_costs_no_points():
    """The time limit counts what an idle machine would take."""
    found = [run_submission.busy(elapsed, 2) for elapsed in (1.9, 6, 1000)]
    assert found == [1, 3, run_submission.BUSIEST]


@pytest.mark.slow
def test_nothing_that_a_file_started_outlives_the_check(graded_slowly):
    report = graded_slowly["parent"]["attention"]
    assert report.points == 0 and "Run in a process of its own" in str(report)
    if "without network" in str(report):
        assert "sleep\x004321" not in "".join(
            path.read_text(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline"))


@pytest.mark.parametrize("reply", [
    {"got": [1]}, {"changed": ["0"]}, {"changed": 1}, {"random": 1}, {"more": ""}, {"error": None}])
def test_a_reply_with_other_fields_is_none(reply):
    assert runner.valid({"got": "[]", "changed": [0], "random": False, "number": 1, "printed": ""})
    assert not runner.valid(reply)


def test_whatever_comes_back_ends_no_grading():
    def training_step(model, micro_batches, optimizer, max_norm):
        return 10**400

    assert grade("training_step", training_step).points < 10
    replies = [{"got": got, "changed": [99, -5]} for got in (
        "[]", "{}", "7", '"x"', '[{"tensor": ["torch.float32", [0], []]}]', "9" * 5000)]
    for reply in (*replies, {}, {"error": ""}):
        for exercise in EXERCISES.values():
            report = grading.grade(exercise, 0, lambda *_, reply=reply, **__: reply, "x")
            assert report.points == 0, (reply, str(report))


@pytest.mark.parametrize("exercise, nothing", [
    ("mask_tokens", lambda ids, *rest: (ids, ids)),
    ("mask_tokens", lambda ids, *rest: (ids, torch.full_like(ids, -100))),
    ("adamw_step", lambda p, g, first, second, *rest: (p, first, second)),
    ("wordpiece", lambda word, vocab: [word]),
    ("wordpiece", lambda word, vocab: ["[UNK]"]),
    ("attention", lambda query, key, mask: query @ key.mT * 0),
])
def test_doing_nothing_earns_nothing(exercise, nothing):
    assert grade(exercise, nothing).points == 0


def test_the_table_of_a_class(graded):
    chosen = {name: graded[name] for name in ("gone", "right", "trouble")}
    rows = [line.split(",") for line in class_csv(chosen).splitlines()]
    assert rows[0] == ["student", *EXERCISES, "sum"]
    assert [row[0] + row[-1] for row in rows[1:]] == ["gone9", "right10", "trouble3"]
    assert rows[2][1 + list(EXERCISES).index("attention")] == "10"
    assert "there is no wordpiece.py" in submission_text({"right": graded["right"]})
    assert len(class_text(chosen).splitlines()[0]) < 100


@pytest.mark.parametrize("got", ['{"tensor": ["torch.float32", [2], [1]]}', '{"tensor": 1}', "[1"])
def test_a_process_that_sends_nonsense_has_no_points(got):
    report = grading.grade(EXERCISES["attention"], 0, lambda *_, **__: {"got": got}, "x")
    assert report.points == 0 and "not numbers" in str(report)


# ------------------------------------------------------------------------------ the command line


def test_check_without_a_file(capsys, tmp_path):
    assert run(capsys, "check")[1].count("\n") == len(EXERCISES)
    assert "Hint 1 of 3" in run(capsys, "check", "attention", "--hint", 1)[1]
    path = tmp_path / "a.py"
    assert run(capsys, "check", "attention", "--start", path)[0] == 0 and path.exists()
    assert run(capsys, "check", "attention", "--start", path)[0] == 2


@pytest.mark.parametrize("arguments, said", [
    (["nothing", "x.py"], "no exercise 'nothing'"),
    (["attention", "no_such_file.py"], "no_such_file.py: no such file (looked from "),
    (["attention"], "what is to be graded?"),
    (["all", "."], "has no exercises in it"),
    *((["attention", "a.py", f"--seconds={number}"], "more than 0, at most 86400 is allowed")
      for number in ("inf", "nan", "-1")),
])
def test_wrong_use_is_2(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("a.py").touch()
    status, _, error = run(capsys, "check", *arguments)
    assert status == 2 and said in error


def test_the_status_tells_full_marks(capsys, tmp_path):
    """0 full marks, 1 not; the grade as JSON."""
    status, out, _ = run(capsys, "check", "attention", RIGHT / "attention.py", "--json")
    assert status == 0 and json.loads(out)["points"] == 10
    path = tmp_path / "wrong.py"
    path.write_text("def attention(query, key, mask): return (query @ key.mT).softmax(-1)")
    status, out, _ = run(capsys, "check", "attention", path)
    assert status == 1 and "no-scale" in out


@pytest.mark.slow
def test_all_right_solutions_in_processes_of_their_own(capsys):
    status, out, _ = run(capsys, "check", "all", RIGHT, "--csv")
    assert status == 0 and out.splitlines()[1] == "right" + ",10" * 12 + ",120"
