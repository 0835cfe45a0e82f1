"""The commands of fine-tuning, as a newcomer types them."""

import json

import pytest
from support import small

from minibert.cli.main import main


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    home = tmp_path_factory.mktemp("commands")
    small.base(home / "base")
    small.classes(home / "train.tsv", 32, seed=0)
    small.classes(home / "dev.tsv", 8, seed=1)
    small.pairs(home / "pairs.csv", 16, seed=2)
    (home / "new.txt").write_text("a good film\nthe song was awful\n")
    return home


def run(capsys, *words):
    """What a command printed, after it went well."""
    status = main([str(word) for word in words])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out, printed.err


def fails(capsys, *words):
    """What a command said that did not go well."""
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


def test_from_a_file_to_predictions(world, tmp_path, capsys):
    out, err = run(
        capsys, "finetune", "classify", world / "train.tsv", "--dev", world / "dev.tsv",
        "--base", world / "base", "--epochs", 2, "--lr", 1e-3, "--max-length", 40,
        "--keep", world / "pairs.csv", "--out", tmp_path / "model",
    )  # fmt: skip
    assert "train: bad" in err and "epoch 2, step 4 of 4: " in err
    assert "dev_accuracy" in out and "before:" in out and "general_spearman" in out
    out, _ = run(capsys, "predict", world / "new.txt", "--model", tmp_path / "model")
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[2] for line in lines] == ["a good film", "the song was awful"]
    assert {line[0] for line in lines} <= {"good", "bad"}
    arguments = ("--model", tmp_path / "model", "--data", world / "dev.tsv", "--json")
    out, _ = run(capsys, "evaluate", "classify", *arguments)
    result = json.loads((tmp_path / "model" / "run" / "metrics.json").read_text())
    assert json.loads(out)["accuracy"] == result["after"]["dev_accuracy"]
    (tmp_path / "gaps.txt").write_text("a good film\n\nthe song was awful\n \n")
    out, err = run(capsys, "predict", tmp_path / "gaps.txt", "--model", tmp_path / "model")
    rows = [line.split("\t")[2] for line in out.splitlines()]
    assert rows == ["a good film", "", "the song was awful", ""] and "left out" not in err
    assert [line for line in out.splitlines() if line.split("\t")[2].strip()] == [
        "\t".join(line) for line in lines
    ]
    (tmp_path / "gaps.tsv").write_text("text\na good film\n\nthe song was awful\n")
    out, err = run(capsys, "predict", tmp_path / "gaps.tsv", "--model", tmp_path / "model")
    assert len(out.splitlines()) == 2 and "1 blank line left out (line 3)" in err
    exchanged = [tmp_path / "model", world / "base"]
    out, _ = run(capsys, "blend", *exchanged[::-1], "--out", tmp_path / "half")
    assert out.splitlines() == [
        f"{tmp_path / 'half'}: 0.5 of {tmp_path / 'model'}, the rest {world / 'base'}; the head "
        f"(classifier) is that of {tmp_path / 'model'} alone"
    ]
    told = f"{world / 'base'} has no classifier, {tmp_path / 'model'} has one; BASE comes first"
    assert fails(capsys, "blend", *exchanged, "--out", tmp_path / "wrong").endswith(told + "\n")
    assert not (tmp_path / "wrong").exists()
    _, err = run(capsys, "finetune", "--resume", "--out", tmp_path / "model")
    assert "finished already" in err


def test_blend_writes_and_sweeps(world, tmp_path, capsys):
    run(
        capsys, "finetune", "similarity", world / "pairs.csv", "--base", world / "base",
        "--lr", 1e-3, "--epochs", 1, "--columns", "text=1", "pair=2", "score=3",
        "--scale", 0, 5, "--freeze", "embeddings", "--out", tmp_path / "tuned",
    )  # fmt: skip
    out, _ = run(
        capsys, "blend", world / "base", tmp_path / "tuned", "--alpha", 0.5, "--out",
        tmp_path / "half", "--data", world / "pairs.csv", "--keep", world / "pairs.csv",
        "--svg", tmp_path / "sweep.svg",
    )  # fmt: skip
    assert len(out.splitlines()) == 1 + 11 + 1 and (tmp_path / "sweep.svg").exists()
    out, _ = run(capsys, "predict", world / "pairs.csv", "--model", tmp_path / "half")
    assert len(out.splitlines()) == 16
    before = (tmp_path / "half" / "model.safetensors").read_bytes()
    words = ("blend", world / "base", tmp_path / "tuned", "--alpha", 0.9, "--out")
    told = f"{tmp_path / 'half'} exists already; name another directory, or remove it first"
    assert told in fails(capsys, *words, tmp_path / "half")
    assert (tmp_path / "half" / "model.safetensors").read_bytes() == before
    (tmp_path / "empty").mkdir()
    out, _ = run(capsys, *words, tmp_path / "empty")
    assert "head" not in out, "a sentence encoder has none"


def test_seeds_and_the_small_recipe(world, tmp_path, capsys):
    out, _ = run(
        capsys, "finetune", "classify", world / "train.tsv", "--base", world / "base",
        "--seeds", 2, "--recipe", "small", "--batch-size", 32, "--out", tmp_path / "runs",
    )  # fmt: skip
    assert "dev accuracy: " in out and "worst" in out
    assert "majority class" in out and "frozen encoder" in out


@pytest.mark.parametrize(
    "words, message",
    [
        (["finetune", "--out", "x"], "what is to be learnt"),
        (["finetune", "classify", "none.csv", "--out", "x"], "none.csv: no such file"),
        (["finetune", "--resume", "--out", "x"], "no run that could be resumed"),
        (["finetune", "classify", "none.csv", "--lr", "0", "--out", "x"], "lr is 0.0"),
        (["blend", "a", "b"], "--out DIR writes"),
        (["blend", "a", "b", "--data", "x"], "needs both"),
    ],
)
def test_wrong_use_is_told(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_loop_fits_one_screen(capsys):
    out, _ = run(capsys, "show", "loop")
    lines = out.rstrip().splitlines()
    assert lines[0].startswith("def loop(") and len(lines) <= 50
    assert max(map(len, lines)) <= 100


def test_a_run_that_diverges_says_so_and_fails(world, tmp_path, capsys):
    words = ["finetune", "classify", world / "train.tsv", "--dev", world / "dev.tsv", "--base",
             world / "base", "--lr", 1e30, "--out", tmp_path / "model"]  # fmt: skip
    assert main([str(word) for word in words]) == 1
    err = capsys.readouterr().err
    assert "minibert: step" in err and "a lower learning rate" in err


def test_a_run_that_learnt_nothing_ends_with_saying_so(world, tmp_path, capsys):
    words = ["finetune", "classify", world / "train.tsv", "--dev", world / "dev.tsv", "--base",
             world / "base", "--lr", 1, "--epochs", 1, "--out", tmp_path / "model"]  # fmt: skip
    out, err = run(capsys, *words)
    assert "the run has failed" in err
    assert out.splitlines()[-1] == (
        f"{tmp_path / 'model'}: the run has failed, this model is of no use; "
        f"{tmp_path / 'model'}/run: settings, log, measures, curves"
    )
