"""The commands of fine-tuning, as a newcomer types them."""

import json
import re

import pytest
from support import small

from minibert.cli.main import main
from minibert.training.tasks import TASKS


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    home = small.world(tmp_path_factory.mktemp("commands"))
    (home / "new.txt").write_text("a good film\nthe song was awful\n")
    return home


def run(capsys, *words, status=0):
    """What a command printed: (out, err)."""
    found = main([str(word) for word in words])
    printed = capsys.readouterr()
    assert found == status, printed.err
    return printed


def train(capsys, world, out, *words, task="classify", status=0):
    """What ``finetune`` printed."""
    file, dev = ("train.tsv", "dev.tsv") if task == "classify" else ("pairs.csv", "pairs.csv")
    words = ["finetune", task, world / file, "--dev", world / dev, "--base", world / "base",
             "--epochs", 2, "--max-length", 40, "--out", out, *words]  # fmt: skip
    return run(capsys, *words, status=status)


def test_from_a_file_to_predictions(world, tmp_path, capsys):
    model = tmp_path / "model"
    out, err = train(capsys, world, model, "--lr", 1e-3, "--keep", world / "pairs.csv")
    assert "train: bad" in err and "epoch 2, step 6 of 6: " in err
    assert "dev_accuracy" in out and "before:" in out and "general_spearman" in out
    out, _ = run(capsys, "predict", world / "new.txt", "--model", model)
    names, *lines = [line.split("\t") for line in out.splitlines()]
    assert names == ["label", "probability", "text"]
    assert [line[2] for line in lines] == ["a good film", "the song was awful"]
    assert {line[0] for line in lines} <= {"good", "bad"}
    data = ("--model", model, "--data", world / "dev.tsv", "--json")
    measured = json.loads(run(capsys, "evaluate", "classify", *data)[0])
    result = json.loads((model / "run" / "metrics.json").read_text())
    assert measured["accuracy"] == result["after"]["dev_accuracy"]
    (tmp_path / "gaps.txt").write_text("a good film\n\nthe song was awful\n \n")
    out, err = run(capsys, "predict", tmp_path / "gaps.txt", "--model", model)
    _, *rows = [line.split("\t") for line in out.splitlines()]
    assert [rows[0], rows[2]] == lines and [rows[1][2], rows[3][2]] == ["", ""]
    (tmp_path / "gaps.tsv").write_text("text\na good film\n\nthe song was awful\n")
    out, err = run(capsys, "predict", tmp_path / "gaps.tsv", "--model", model)
    assert len(out.splitlines()) == 1 + 2 and "1 blank line left out (line 3)" in err
    half, base = tmp_path / "half", world / "base"
    out, _ = run(capsys, "blend", base, model, "--out", half)
    share = f"{half}: 0.5 of {model}, the rest {base}"
    assert out == f"{share}; the head (classifier) is that of {model} alone\n"
    _, err = run(capsys, "blend", model, base, "--out", tmp_path / "wrong", status=2)
    assert err.endswith(f"{base} has no classifier, {model} has one; BASE comes first\n")
    assert not (tmp_path / "wrong").exists()
    _, err = run(capsys, "finetune", "--resume", "--out", model)
    assert "finished already" in err
    _, err = run(capsys, "finetune", "--resume", "--out", model, "--lr", 2e-3, status=2)
    assert "begun with lr 0.001 (not 0.002), and is continued so: leave these out" in err


@pytest.mark.parametrize("task", [task for task in TASKS if task != "similarity"])
def test_evaluate_takes_the_name_of_every_task(capsys, task):
    with pytest.raises(SystemExit):
        main(["evaluate", task, "--data", "x.csv"])
    assert "required: --model" in capsys.readouterr().err


def test_blend_writes_and_sweeps(world, tmp_path, capsys):
    columns = ["--columns", "text=1", "pair=2", "score=3"]
    how = [*columns, "--scale", 0, 5, "--freeze", "embeddings"]
    tuned, half, pairs = tmp_path / "tuned", tmp_path / "half", world / "pairs.csv"
    train(capsys, world, tuned, *how, task="similarity")
    sweep = ["--data", pairs, "--keep", pairs, "--svg", tmp_path / "sweep.svg"]
    first, _ = run(capsys, "blend", world / "base", tuned, "--out", half, *sweep)
    assert len(first.splitlines()) == 1 + 11 + 1 and (tmp_path / "sweep.svg").exists()
    out, _ = run(capsys, "predict", pairs, "--model", half)
    assert len(out.splitlines()) == 1 + 24
    semicolons = tmp_path / "pairs.txt"
    semicolons.write_text(pairs.read_text().replace(",", ";"))
    sweep = ["--data", semicolons, "--delimiter", ";", "--no-header", *columns, "--keep", pairs]
    again, err = run(capsys, "blend", world / "base", tuned, *sweep)
    assert again.splitlines()[1:12] == first.splitlines()[1:12] and "pairs.txt: 24 rows" in err
    before = (half / "model.safetensors").read_bytes()
    words = ("blend", world / "base", tuned, "--alpha", 0.9, "--out")
    _, err = run(capsys, *words, half, status=2)
    assert f"{half} exists already; name another directory, or remove it first" in err
    assert (half / "model.safetensors").read_bytes() == before
    (tmp_path / "empty").mkdir()
    out, _ = run(capsys, *words, tmp_path / "empty")
    assert "head" not in out, "a sentence encoder has none"


def test_seeds_and_the_small_recipe(world, tmp_path, capsys):
    how = ["--seeds", 2, "--recipe", "small", "--batch-size", 32, "--epochs", 20]
    out, _ = train(capsys, world, tmp_path, *how)
    assert re.match("dev accuracy: .* worst .*\nmajority class: .*\nfrozen encoder: ", out)


@pytest.mark.parametrize("words, message", [
    (["finetune", "--out", "x"], "name a task and a training file"),
    (["finetune", "classify", "none.csv", "--out", "x"], "none.csv: no such file"),
    (["finetune", "--resume", "--seeds", "2", "--out", "x"], "omit --resume"),
    (["finetune", "--resume", "--sweep", "lr=1,2", "--out", "x"], "omit --resume"),
    (["finetune", "--resume", "--find-lr", "--out", "x"], "trains nothing"),
    (["finetune", "classify", "a.csv", "--dropout", "2", "--out", "x"], "dropout is 2.0; 0 to 1"),
    (["finetune", "--resume", "--out", "x"], "no run that could be resumed"),
    (["finetune", "classify", "none.csv", "--lr", "0", "--out", "x"], "lr is 0.0"),
    (["blend", "a", "b"], "--out DIR writes"),
    (["blend", "a", "b", "--data", "x"], "needs both"),
])
def test_wrong_use_is_told(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, err = run(capsys, *words, status=2)
    assert message in err
    assert not list(tmp_path.iterdir())


def test_the_loop_fits_one_screen(capsys):
    out, _ = run(capsys, "show", "loop")
    lines = out.rstrip().splitlines()
    assert lines[0].startswith("def loop(") and len(lines) <= 45
    assert max(map(len, lines)) <= 100


def test_a_run_that_fails_says_so(world, tmp_path, capsys):
    _, err = train(capsys, world, tmp_path / "nan", "--lr", 1e30, status=1)
    assert "minibert: step" in err and "a lower learning rate" in err
    model = tmp_path / "model"
    out, err = train(capsys, world, model, "--lr", 1, status=1)
    assert "the run has failed" in err
    card = (model / "README.md").read_text()
    assert re.search(r"^---\n\n?\*\*Failed: every prediction is the same class", card, re.M)
    assert f"\n{model}: the run has failed, do not use this model; {model}/run: " in out


def test_a_messy_file_is_read_as_the_options_say(world, tmp_path, capsys):
    rows = [line.split("\t") for line in (world / "train.tsv").read_text().splitlines()[1:]]
    messy = tmp_path / "messy.csv"
    messy.write_text("".join(f"{label};{text}\n" for text, label in rows) + "N/A;a film\nbad\n")
    command = ["finetune", "classify", messy, "--dev", world / "dev.tsv",
               "--base", world / "base", "--lr", 5e-3, "--epochs", 6]  # fmt: skip
    _, err = run(capsys, *command, "--out", tmp_path / "model", status=2)
    n = len(rows)
    assert f"2 of {n + 2} rows" in err and f"1 column, not 2 (line {n + 2})" in err
    assert f"(line {n + 1}: 'N/A')" in err and "--skip-incomplete" in err
    command += ["--skip-incomplete", "--out", tmp_path / "model"]
    _, err = run(capsys, *command)
    assert "the columns are separated by a semicolon" in err
    assert f"the first row is data: {rows[0][1]!r} also stands below it" in err
    assert "label = column '1', as seen from its" in err and "left out, as asked for" in err
    assert f"messy.csv, line 1: text = {rows[0][0]!r}, label = {rows[0][1]!r}" in err
    settings = json.loads((tmp_path / "model" / "run" / "settings.json").read_text())
    assert settings["skip_incomplete"] is True and settings["header"] is None
    model = ("--model", tmp_path / "model")
    (tmp_path / "new.csv").write_text("cup|x\nmug|y\n")
    for options, lines in (("--header", 1), ("--no-header", 2)):
        words = ("--columns", "text=1", "--delimiter", "|", options)
        out, _ = run(capsys, "predict", tmp_path / "new.csv", *model, *words)
        assert len(out.splitlines()) == 1 + lines
    _, err = run(capsys, "predict", tmp_path / "new.csv", *model, "--columns", "text=1", status=2)
    assert "a header? Say --header or --no-header" in err
    data = ("--data", messy, "--skip-incomplete", "--no-header")
    out, err = run(capsys, "evaluate", "classify", *model, *data)
    assert "accuracy" in out and "left out, as asked for" in err
