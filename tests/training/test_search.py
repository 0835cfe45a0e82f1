"""The search for a learning rate, and sweeps over a setting."""

import json

import pytest
import torch
from support import small
from support.command import run as command

from minibert.training import search
from minibert.training.search import find_lr, sweep, values_of
from minibert.training.settings import Settings


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    home = tmp_path_factory.mktemp("search")
    small.base(home / "base")
    files = (small.classes(home / f"{n}.tsv", n, seed=n) for n in (40, 12))
    return Settings("classify", *map(str, files), base=str(home / "base"), max_length=40,
                    batch_size=8, epochs=1, device="cpu")  # fmt: skip


def words(settings):
    return ("finetune", "classify", settings.train, "--dev", settings.dev, "--base", settings.base,
            "--max-length", 40, "--batch-size", 8, "--epochs", 1)  # fmt: skip


def test_rates_grow_and_the_suggestion_is_a_tenth_of_the_best(wanted, tmp_path, monkeypatch):
    used = []

    def loop(model, loader, loss, optimizer, *, step, run, **rest):
        assert len(loader.batch_sampler.plan) > 1, "80 steps are several epochs"
        for n in range(80):  # a valley at step 48, and far too high from step 60
            used.append(optimizer.param_groups[-1]["lr"] * step.schedule(n))
            value = 1 - 0.4 * max(0, 1 - abs(n - 48) / 10) + 9 * (n >= 60)
            run.after_step(torch.tensor(value), torch.tensor(1.0))

    monkeypatch.setattr(search, "loop", loop)
    monkeypatch.setattr(search, "losses_now", lambda *rest: [1.0] * 80)
    said = []
    found = find_lr(wanted, tmp_path / "rates.svg", low=1e-8, high=1.0, say=said.append)
    assert used[0] == pytest.approx(1e-8)
    ratios = [b / a for a, b in zip(used, used[1:], strict=False)]
    assert ratios == pytest.approx([10 ** (8 / 79)] * 61)
    assert len(found["rates"]) == 62 and "the search ends" in said[-1], "it stops early"
    assert found["suggestion"] == float(f"{used[48] / 10:.1g}")
    assert "smoothed" in (tmp_path / "rates.svg").read_text()


def test_batches_are_compared_with_themselves(wanted):
    """Whatever the batches lose: where nothing is learnt, the smoothed curve is flat."""
    found = find_lr(wanted.replace(dropout=0.0, accumulate=2), low=1e-12, high=1e-10, steps=20)
    assert found["suggestion"] is None and len(found["rates"]) == 20
    losses, smoothed = ([row[name] for row in found["rates"]] for name in ("loss", "smoothed"))
    assert max(losses) - min(losses) > 1e-3
    assert smoothed == pytest.approx([sum(losses) / 20] * 20, abs=1e-6)


@pytest.mark.slow
def test_find_lr_as_a_command(wanted, tmp_path, capsys):
    status, out, err = command(capsys, *words(wanted), "--out", tmp_path / "x", "--find-lr")
    assert not status, err
    assert "step 80 of 80" in err or "the search ends" in err
    assert f"{tmp_path}/x-find-lr.svg: the curve" in out and out.count("\n") > 10
    assert [path.name for path in tmp_path.iterdir()] == ["x-find-lr.svg"], "no model"


def test_a_sweep_finds_the_best_on_dev_and_is_not_done_twice(wanted, tmp_path):
    said = []
    result = sweep(wanted, "lr", [1e-6, 1e-3, 1e30], tmp_path, say=said.append)
    assert result == json.loads((tmp_path / "sweep.json").read_text())
    assert (tmp_path / "sweep.svg").exists()
    scores = {}
    for row in result["rows"][:2]:
        assert row["out"] == str(tmp_path / f"lr-{row['lr']}")
        after = json.loads((tmp_path / f"lr-{row['lr']}/run/metrics.json").read_text())["after"]
        scores[row["lr"]] = after["dev_accuracy"]
        assert row["score"] == after["dev_accuracy"]
    assert result["rows"][2]["score"] is None and any("has diverged" in line for line in said)
    assert result["best"] == max(scores, key=scores.get)
    before = (tmp_path / "lr-0.001" / "model.safetensors").stat().st_mtime_ns
    assert sweep(wanted, "lr", [1e-6, 1e-3], tmp_path)["rows"] == result["rows"][:2]
    assert (tmp_path / "lr-0.001" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="begun with epochs 1 .not 2., seed 0 .not 1."):
        sweep(wanted.replace(epochs=2, seed=1), "lr", [1e-6, 1e-3], tmp_path)


@pytest.mark.slow
def test_a_sweep_with_seeds_as_a_command(wanted, tmp_path, capsys):
    how = ("--sweep", "freeze=embeddings,1", "--seeds", 2, "--out", tmp_path)
    status, out, err = command(capsys, *words(wanted), *how, "--json")
    assert not status, err
    rows = json.loads(out)["rows"]
    for row, seeds in zip(rows, ("freeze-embeddings", "freeze-1"), strict=True):
        summary = json.loads((tmp_path / seeds / "seeds.json").read_text())
        assert (row["score"], row["sd"]) == (summary["mean"], summary["sd"])
    status, out, _ = command(capsys, *words(wanted), *how)
    assert not status and out.splitlines()[0].split() == ["freeze", "dev_accuracy"]
    assert out.splitlines()[-1].startswith("best: freeze ")


@pytest.mark.parametrize("epochs, recipe", [(None, "small"), (1, "plain")])
def test_a_sweep_of_rates_keeps_the_recipe(wanted, tmp_path, monkeypatch, epochs, recipe):
    begun = []

    def begin(settings, out, say):
        begun.append((settings.recipe, settings.lr))
        return {"after": {"dev_accuracy": 0.5}}

    monkeypatch.setattr(search, "begin_or_resume", begin)
    monkeypatch.setattr(search, "compare", lambda *rest: None)
    sweep(wanted.replace(epochs=epochs), "lr", [1e-4, 1e-3], tmp_path)
    assert begun == [(recipe, 1e-4), (recipe, 1e-3)]


def test_what_can_be_swept():
    assert values_of("lr=2e-5,1e-4") == ("lr", [2e-5, 1e-4])
    assert values_of("batch-size=8,16") == ("batch_size", [8, 16])
    assert values_of("freeze=encoder,2") == ("freeze", ["encoder", 2])
    for wrong in ("lr", "lr=", "rate=1,2", "autocast=True,False", "train=a,b"):
        with pytest.raises(ValueError, match="it takes setting=value,value"):
            values_of(wrong)
    with pytest.raises(ValueError, match="epochs takes values of type int"):
        values_of("epochs=1,2.5")


def test_a_value_that_cannot_be_is_told_before_the_first_run(wanted, tmp_path):
    with pytest.raises(ValueError, match="dropout is 3"):
        sweep(wanted, "dropout", [0.1, 3.0], tmp_path)
    with pytest.raises(ValueError, match="at least two"):
        sweep(wanted, "lr", [0.1], tmp_path)
    assert not list(tmp_path.iterdir())
