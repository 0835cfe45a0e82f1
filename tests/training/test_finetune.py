import csv
import math
import re
import warnings
from collections import Counter
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from support import small
from support.runs import files_of, log_of, stop_at
from support.worlds import finetune_settings as settings

from minibert.cli.train import predict_text
from minibert.io.files import read_json
from minibert.training.finetune import finetune, of_best_epoch, take_recipe
from minibert.training.inference import Blend, draw_sweep, evaluate_file, load, predict_file
from minibert.training.seeds import several
from minibert.training.settings import Settings, with_recipe
from minibert.training.tasks import TASKS, Classification, Similarity, task_class


def test_two_equal_runs_write_equal_bytes_and_another_seed_does_not(world, tmp_path):
    wanted = settings(world, keep="general.csv")
    for name in "ab":
        finetune(wanted, tmp_path / name)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    finetune(wanted.replace(seed=1), tmp_path / "c")
    a, c = files_of(tmp_path / "a"), files_of(tmp_path / "c")
    assert a.keys() == c.keys() and a["model.safetensors"] != c["model.safetensors"]
    names = "config.json model.safetensors tokenizer.json README.md run/settings.json"
    names += " run/versions.json run/log.jsonl run/metrics.csv run/metrics.json"
    names += " run/confusion.csv run/confusion.svg run/curves.svg"
    assert set(names.split()) <= a.keys()
    assert not [name for name in a if "checkpoint" in name or "best" in name or "tmp" in name]
    picture = ElementTree.parse(tmp_path / "a" / "run" / "curves.svg")
    shapes = Counter(element.tag.rpartition("}")[2] for element in picture.iter())
    assert shapes["polyline"] == 4  # loss on train and dev, accuracy, general
    assert shapes["circle"] == 10 + 3 * 3  # 10 steps; start and two epochs, three times


# --------------------------------------------------------------------------- stopped and resumed


def test_a_finished_run_is_not_done_again_and_never_overwritten(world, tmp_path):
    result = finetune(settings(world), tmp_path / "run")
    before = files_of(tmp_path / "run")
    assert finetune(None, tmp_path / "run", resume=True) == result
    with pytest.raises(ValueError, match="already holds a run"):
        finetune(settings(world), tmp_path / "run")
    assert files_of(tmp_path / "run") == before
    with pytest.raises(FileNotFoundError, match="no run"):
        finetune(None, tmp_path / "nothing", resume=True)


def test_a_run_continues_as_it_was_begun(world, tmp_path, monkeypatch):
    undo = stop_at(monkeypatch, 3)
    wanted = settings(world, "similarity", scale=(0, 5))
    with pytest.raises(KeyboardInterrupt):
        finetune(wanted, tmp_path / "run")
    undo()
    before = files_of(tmp_path / "run")
    for other in (wanted.replace(lr=5e-4), {"lr": 5e-4}):
        with pytest.raises(ValueError, match="begun with lr 0.001 .not 0.0005., and is"):
            finetune(other, tmp_path / "run", resume=True)
    assert files_of(tmp_path / "run") == before
    finetune(wanted, tmp_path / "run", resume=True)  # the same again is no other


@pytest.mark.parametrize("wrong, error", [
    ({"freeze": 99}, ValueError), ({"train": "none.tsv"}, FileNotFoundError),
    ({}, ArithmeticError),  # at the first step
])  # fmt: skip
def test_after_an_error_before_the_first_step_the_corrected_run_begins(
    world, tmp_path, monkeypatch, wrong, error
):
    if not wrong:
        monkeypatch.setattr(Classification, "criterion", lambda *_: torch.tensor(math.nan))
        monkeypatch.setattr(torch.Tensor, "backward", lambda loss: None)
    with pytest.raises(error):
        finetune(settings(world, **wrong), tmp_path / "out")
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    finetune(settings(world), tmp_path / "out")


def test_nothing_is_trained_into_a_directory_with_files_of_others(world, tmp_path):
    for name in ("model", "one.txt"):
        small.base(tmp_path / name) if name == "model" else (tmp_path / name).write_text("x")
        before = files_of(tmp_path)
        with pytest.raises(ValueError, match=f"{name} exists already and is no run; name another"):
            finetune(settings(world), tmp_path / name)
        assert files_of(tmp_path) == before
    (tmp_path / "mine" / "run").mkdir(parents=True)
    (tmp_path / "mine" / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="freeze is 99"):
        finetune(settings(world, freeze=99), tmp_path / "mine")
    assert files_of(tmp_path / "mine").keys() == {"run/notes.txt"}


def test_an_unfinished_run_predicts_nothing_and_notices_changed_data(world, tmp_path, monkeypatch):
    copy = tmp_path / "train.tsv"
    copy.write_bytes((world / "train.tsv").read_bytes())
    undo = stop_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        finetune(settings(world, train=copy), tmp_path / "run")
    undo()
    with pytest.raises(ValueError, match="not finished.*finetune --resume --out .*run"):
        predict_file(tmp_path / "run", copy)
    copy.write_text(copy.read_text() + "a sweet song\tgood\n")
    with pytest.raises(ValueError, match="train changed since"):
        finetune(None, tmp_path / "run", resume=True)


# --------------------------------------------------------------------------------- what comes out


@pytest.mark.parity
def test_a_classifier_opens_in_transformers(world, tmp_path):
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "run"
    finetune(settings(world), out)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    texts = [text for text, _ in small.sentences(12, seed=1)]
    with torch.no_grad():
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        probabilities = model(**batch).logits.softmax(-1)
    answers = predict_file(out, world / "dev.tsv")
    best, numbers = probabilities.max(-1)
    assert [answer["text"] for answer in answers] == texts
    assert [a["label"] for a in answers] == [model.config.id2label[n] for n in numbers.tolist()]
    assert [a["probability"] for a in answers] == pytest.approx(best.tolist(), abs=1e-5)


@pytest.mark.parity
def test_a_sentence_encoder_opens_in_sentence_transformers(world, tmp_path):
    st = pytest.importorskip("sentence_transformers")
    out = tmp_path / "run"
    finetune(settings(world, "similarity"), out)
    theirs = st.SentenceTransformer(str(out), device="cpu")
    answers = predict_file(out, world / "pairs.csv")
    first, second = (theirs.encode([a[side] for a in answers]) for side in ("text", "pair"))
    cosines = (first * second).sum(1)
    assert [a["score"] for a in answers] == pytest.approx(cosines.tolist(), abs=2e-6)


@pytest.mark.parametrize("task", [*TASKS, "LoRA"])
def test_what_was_measured_at_the_end_is_what_the_directory_gives(world, tmp_path, task):
    changes = {"lora": 2, "lr": 1e-2} if task == "LoRA" else {}  # it must have been merged
    wanted = settings(world, task if task in TASKS else "similarity", **changes)
    result = finetune(wanted, tmp_path / "run")
    if task == "contrastive":  # its directory is that of a sentence encoder, of any task
        assert result["after"]["dev_found_first"] >= result["before"]["dev_found_first"]
        return
    best = task_class(wanted.task).best
    measures = evaluate_file(tmp_path / "run", wanted.dev, wanted.columns)
    assert measures[best] == pytest.approx(result["after"][f"dev_{best}"], abs=1e-6)
    answers = predict_file(tmp_path / "run", wanted.dev, wanted.columns)
    assert len(answers) + 1 == len(predict_text(answers).splitlines()) > 12


def test_the_best_epoch_is_kept_and_patience_ends_the_run(world, tmp_path):
    result = finetune(settings(world, epochs=30, lr=3e-3, patience=2), tmp_path / "run")
    lines = log_of(tmp_path / "run")
    scores = [line["dev_accuracy"] for line in lines if line["epoch"] and "dev_accuracy" in line]
    assert result["after"]["dev_accuracy"] == max(scores)
    assert result["after"]["best_epoch"] == scores.index(max(scores)) + 1
    assert len(scores) == result["after"]["best_epoch"] + 2 < 30


def test_forgetting_is_measured_before_during_and_after(world, tmp_path):
    wanted = settings(world, keep="general.csv", reinit=2)
    result = finetune(wanted, tmp_path / "run")
    lines = log_of(tmp_path / "run")
    during = [line["general_spearman"] for line in lines if "general_spearman" in line]
    assert len(during) == 1 + wanted.epochs
    assert result["before"]["general_spearman"] == during[0]
    assert result["after"]["general_spearman"] in during[1:]
    # Before is what the base model knows, not what is left when its top layers begin anew.
    known = evaluate_file(world / "base", world / "general.csv")["spearman"]
    assert during[0] == pytest.approx(known, abs=1e-6)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| general spearman |" in card and "| dev accuracy |" in card
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-classification\n")


def test_a_fresh_masked_lm_head_is_told_and_perplexity_is_measured(world, tmp_path):
    with (
        pytest.warns(UserWarning, match="no masked-LM head: a new one begins untrained"),
        pytest.warns(UserWarning, match="general similarity.*nothing measures it.*--keep"),
    ):
        result = finetune(settings(world, "mlm"), tmp_path / "one")["after"]
    assert result["dev_perplexity"] == pytest.approx(math.exp(result["dev_loss"]), rel=1e-5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*masked-LM head")
        again = settings(world, "mlm", base=str(tmp_path / "one"), epochs=1)
        before = finetune(again, tmp_path / "two")["before"]
    assert before["dev_perplexity"] == pytest.approx(result["dev_perplexity"], rel=1e-5)


def test_one_class_and_collapsed_cosines_are_told():
    remarks = Classification(small.tokenizer(), "abc").remarks
    assert "same class" in remarks({"predicted_classes": 1})[0]
    assert not remarks({"predicted_classes": 2})
    remarks = Similarity(small.tokenizer()).remarks
    assert "collapsed" in remarks({"cosine_mean": 0.98, "cosine_sd": 0.03})[0]
    assert not remarks({"cosine_mean": 0.5, "cosine_sd": 0.3})


def test_several_seeds_and_baselines(world, tmp_path):
    wanted = settings(world, epochs=1, dev="train.tsv")
    summary = several(wanted, tmp_path / "runs", 2)
    scores = [run["dev_accuracy"] for run in summary["runs"]]
    assert summary["mean"] == pytest.approx(sum(scores) / 2) and summary["worst"] == min(scores)
    assert 0.4 < summary["baselines"]["majority class"] < 0.7
    assert summary["baselines"]["frozen encoder"] > summary["baselines"]["majority class"]
    assert several(wanted, tmp_path / "runs", 2) == summary  # nothing was done again
    for other, told in (({"lora": 2}, "lora None .not 2"), ({"lr": None}, "lr 0.001 .not None"),
                        ({"train": str(world / "dev.tsv")}, "another train")):  # fmt: skip
        with pytest.raises(ValueError, match=f"begun with {told}"):
            several(wanted.replace(**other), tmp_path / "runs", 2)
    test = small.classes(tmp_path / "test.tsv", 12, seed=3)
    tested = several(wanted.replace(test=str(test)), tmp_path / "tested", 1)
    small.classes(test, 12, seed=4)
    with pytest.raises(ValueError, match="begun with another test file than .*test.tsv is now"):
        several(wanted.replace(test=str(test)), tmp_path / "tested", 1)
    assert "sd" in tested


def test_the_recipe_for_little_data():
    wanted = Settings("classify", "train.tsv", recipe="small")
    epochs = [with_recipe(wanted, n, 384).epochs for n in (40, 250, 500, 1000, 100_000)]
    assert epochs == [40, 25, 13, 7, 3]
    found = [with_recipe(wanted, 250, width) for width in (384, 768)]
    assert [(each.lr, each.reinit) for each in found] == [(1e-4, 0), (5e-5, 0)]
    assert with_recipe(found[0], 250, 384) == found[0], "a resumed run must find its own settings"
    found = with_recipe(wanted.replace(task="similarity"), 250, 384)
    assert (found.lr, found.reinit) == (5e-5, None)
    for task, reinit in {"multilabel": 0, "tokens": None, "qa": None}.items():
        found = with_recipe(wanted.replace(task=task), 250, 384)
        assert (found.lr, found.reinit) == (1e-4, reinit), "a new head; who reads the pooler?"
    found = with_recipe(wanted.replace(lr=1e-3, epochs=2, reinit=1), 250, 384)
    assert (found.epochs, found.lr, found.reinit) == (2, 1e-3, 1), "what was asked for stays"


@pytest.mark.parametrize("asked, said", [
    ({}, ["40 examples, fewer than 1000: the small recipe is taken, 40 epochs at a"]),
    ({"epochs": 3}, ["40 examples: the plain recipe is taken, 3 epochs at a learning rate of 2e"]),
    ({"lr": 1e-3}, ["40 examples: the plain recipe is taken, 3 epochs at a learning rate of 0"]),
    ({"lr": 1e-3, "steps": 9}, []), ({"recipe": "small"}, []),
])  # fmt: skip
def test_what_the_recipe_decides_is_said(asked, said):
    lines = []
    model = small.bert()
    found = take_recipe(Settings("classify", "train.tsv", **asked), model, 40, lines.append)
    assert found.lr and [line[: len(part)] for line, part in zip(lines, said, strict=True)] == said


@pytest.mark.parametrize("scores, remark", [
    ([0.5, 0.5, 0.4], r"no epoch beats the untrained model on dev \(dev accuracy 0.5\): epoch 1, "
     "the best, is kept. With 12 development examples this may be chance"),
    ([0.5, 0.6, 0.5, 0.4], "the first of 3 epochs is the best on dev, and is kept. With 12"),
    ([0.5, math.nan, math.nan], "dev accuracy could not be computed in any epoch: the weights of"),
    ([0.5, 0.6, 0.7], None),
])  # fmt: skip
def test_a_best_epoch_that_may_be_chance_is_remarked_on(scores, remark):
    before, *after = scores
    best = max((s for s in after if s == s), default=-math.inf)
    number = after.index(best) + 1 if best in after else 0
    run = SimpleNamespace(best_on="dev_accuracy", best=best, best_epoch=number, epoch=len(after),
                          lines=[{"dev_accuracy": before}])  # fmt: skip
    said = of_best_epoch(run, 12)
    assert len(said) == bool(remark) and all(re.match(remark, line) for line in said)
    for line in of_best_epoch(run, 200):
        assert "chance" not in line


@pytest.mark.parametrize("examples, asked, recipe", [
    (999, {}, "small"), (1000, {}, "plain"), (999, {"recipe": "plain"}, "plain"),
    (999, {"lr": 1e-3}, "plain"), (999, {"epochs": 3}, "plain"), (999, {"steps": 9}, "plain"),
    (2000, {"recipe": "small"}, "small"), (999, {"lr": 1e-3, "recipe": "small"}, "small"),
])  # fmt: skip
def test_little_data_gets_its_recipe_if_nothing_else_was_asked_for(examples, asked, recipe):
    found = with_recipe(Settings("classify", "train.tsv", **asked), examples, 384)
    assert found.recipe == recipe
    if recipe == "plain":
        expected = asked.get("epochs", 3), asked.get("lr", 2e-5), None
        assert (found.epochs, found.lr, found.reinit) == expected


def test_the_recipe_that_was_taken_is_said_and_written(world, tmp_path):
    said = []
    wanted = settings(world, lr=None, epochs=None, batch_size=40)
    finetune(wanted, tmp_path / "run", say=said.append)
    assert any("40 examples, fewer than 1000: the small recipe is taken" in s for s in said)
    written = read_json(tmp_path / "run" / "run" / "settings.json")
    assert (written["recipe"], written["epochs"], written["reinit"]) == ("small", 40, 0)
    assert len([line for line in log_of(tmp_path / "run") if "norm" in line]) == 40


@pytest.mark.parametrize("wrong", [
    {"task": "classfy"}, {"lr": 0.0}, {"warmup": 2}, {"epochs": 0}, {"schedule": "x"},
    {"train": ""}, {"dev": ""},
])  # fmt: skip
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*(allowed|one of|leave it)"):
        Settings(**{"task": "classify", "train": "x", **wrong})


def test_a_blend_stands_between(world, tmp_path):
    finetune(settings(world, "similarity"), tmp_path / "tuned")
    mix = Blend(world / "base", tmp_path / "tuned")
    rows = mix.sweep(world / "pairs.csv", world / "general.csv")
    before = evaluate_file(world / "base", world / "pairs.csv")["spearman"]
    after = evaluate_file(tmp_path / "tuned", world / "pairs.csv")["spearman"]
    ends = [rows[0]["domain"], rows[-1]["domain"]]
    assert ends == pytest.approx([before, after], abs=1e-9)
    mix.save(0.25, tmp_path / "mixed")
    name = "layers.1.attention.query.weight"
    found = load(tmp_path / "mixed")[1].state_dict()[name]
    torch.testing.assert_close(found, 0.75 * mix.base[name] + 0.25 * mix.tuned[name])
    draw_sweep(rows, tmp_path / "sweep.svg")
    ElementTree.parse(tmp_path / "sweep.svg")


@pytest.mark.parity
@pytest.mark.parametrize("task", ["regression", "classify"])
def test_a_model_of_pairs_opens_as_a_cross_encoder_with_the_same_scores(world, tmp_path, task):
    """Scores of pairs, and natural language inference in three classes."""
    from sentence_transformers import CrossEncoder

    file, truth = tmp_path / "nli.csv", ["entailment", "neutral", "contradiction"]
    with (world / "pairs.csv").open() as pairs, file.open("w", newline="") as out:
        rows = [row[:2] for row in csv.reader(pairs)]
        names = ["premise", "hypothesis", "label"]
        csv.writer(out).writerows([names, *([*r, truth[i % 3]] for i, r in enumerate(rows))])
    file = file if task == "classify" else world / "pairs.csv"
    wanted = settings(world, task, epochs=1).replace(train=str(file), dev=str(file))
    finetune(wanted, tmp_path / "out")
    answers = predict_file(tmp_path / "out", file)
    theirs = CrossEncoder(str(tmp_path / "out"), device="cpu")
    scores = theirs.predict([(a["text"], a["pair"]) for a in answers], convert_to_tensor=True)
    if task == "regression":
        assert [a["score"] for a in answers] == pytest.approx(scores.tolist(), abs=2e-6)
    else:
        best = scores.softmax(-1).max(-1)
        assert [a["probability"] for a in answers] == pytest.approx(best.values.tolist(), abs=1e-6)
        named = [theirs.config.id2label[i] for i in best.indices.tolist()]
        assert [a["label"] for a in answers] == named and set(named) <= set(truth)
