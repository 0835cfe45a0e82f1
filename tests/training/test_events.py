"""TensorBoard event files."""

import importlib.util

import pytest
import torch
from support import small
from support.command import run as command

from minibert.training.checkpoints import Run
from minibert.training.events import event_files
from minibert.training.history import curve, read_run


def scalars(directory):
    """tag → [(step, value), ...], as TensorBoard shows them."""
    name = "tensorboard.backend.event_processing.event_accumulator"
    found = pytest.importorskip(name).EventAccumulator(str(directory)).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)]
            for tag in found.Tags()["scalars"]}  # fmt: skip


def words(home):
    small.base(home / "base")
    train = small.classes(home / "train.tsv", 16)
    return ("finetune", "classify", train, "--dev", train, "--base", home / "base", "--epochs", 2,
            "--max-length", 40, "--out", home / "out", "--tensorboard")  # fmt: skip


def test_the_lines_of_the_log_are_in_the_event_file(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    status, _, err = command(capsys, *words(tmp_path), "--batch-size", 4)
    assert status in (0, 1), err  # so short a run may well fail
    found = scalars(tmp_path / "out" / "run")
    run = read_run(tmp_path / "out")
    for tag, name in {"train/loss": "loss", "train/lr": "lr", "dev/accuracy": "dev_accuracy",
                      "dev/macro_f1": "dev_macro_f1"}.items():  # fmt: skip
        logged = curve(run.lines, name)
        assert [step for step, _ in found[tag]] == [step for step, _ in logged]
        assert [v for _, v in found[tag]] == pytest.approx([v for _, v in logged])


def test_a_resumed_run_takes_the_place_of_later_steps(tmp_path):
    pytest.importorskip("tensorboard")
    model = torch.nn.Linear(1, 1)
    run = Run(model, torch.optim.SGD(model.parameters(), lr=1.0), tmp_path)
    run.log(step=0, dev_loss=2.0)
    with event_files(run):
        for step in (1, 2, 3):
            run.log(step=step, loss=float(step))
    run.step = 2  # the checkpoint
    with event_files(run):
        run.log(step=3, loss=30.0)
    found = scalars(tmp_path)
    assert found["train/loss"] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert found["dev/loss"] == [(0, 2.0)]


@pytest.mark.parametrize("task", ["finetune", "distil"])
def test_without_tensorboard_it_says_so_before_anything_else(tmp_path, capsys, monkeypatch, task):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    asked = words(tmp_path)
    if task == "distil":
        asked = ("distil", tmp_path / "train.tsv", "--teacher", tmp_path / "base", *asked[-3:])
    status, _, err = command(capsys, *asked)
    assert status == 2 and not (tmp_path / "out").exists()
    assert 'tensorboard is not installed: pip install "minibert-torch[tensorboard]"' in err
