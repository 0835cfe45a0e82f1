import dataclasses
import hashlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from support import small

from minibert.io.files import read_json
from minibert.training.checkpoints import Run, read_tensors, write_tensors
from minibert.training.finetune import finetune, narrator, several
from minibert.training.inference import Blend, draw_sweep, evaluate_file, load, predict_file
from minibert.training.plots import warnings_about
from minibert.training.settings import Settings
from minibert.training.settings import small as small_data

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base model and data files."""
    home = tmp_path_factory.mktemp("world")
    small.base(home / "base")
    small.classes(home / "train.tsv", 40, seed=0)
    small.classes(home / "dev.tsv", 12, seed=1)
    small.pairs(home / "pairs.csv", 24, seed=2)
    small.pairs(home / "general.csv", 12, seed=4)
    return home


def settings(world, task="classify", **changes):
    train, dev = ("train.tsv", "dev.tsv") if task == "classify" else ("pairs.csv", None)
    values = {
        "train": str(world / train),
        "dev": dev and str(world / dev),
        "base": str(world / "base"),
        "lr": 1e-3,
        "max_length": 40,
        "batch_size": 8,
        "epochs": 2,
        "device": "cpu",
    }
    return Settings(task=task, **{**values, **changes})


def files_of(directory):
    """A digest of every file below a directory, but for the one that holds times.

    Not the bytes: of millions that differ pytest would make a diff for ten minutes.
    """
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "timing.json"
    }


def test_two_equal_runs_write_equal_bytes_and_another_seed_does_not(world, tmp_path):
    wanted = settings(world, keep=str(world / "general.csv"))
    for name in "ab":
        finetune(wanted, tmp_path / name)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    finetune(wanted.replace(seed=1), tmp_path / "c")
    a, c = files_of(tmp_path / "a"), files_of(tmp_path / "c")
    assert a.keys() == c.keys() and a["model.safetensors"] != c["model.safetensors"]
    names = "config.json model.safetensors tokenizer.json README.md run/settings.json"
    names += " run/versions.json run/log.jsonl run/metrics.json run/confusion.csv run/curves.svg"
    assert set(names.split()) <= a.keys()
    assert not [name for name in a if "checkpoint" in name or "best" in name or "tmp" in name]


def stop_at(monkeypatch, step):
    """Let the next run be interrupted in a step, as by Ctrl-C."""
    original = Run.after_step

    def after_step(run, loss, norm):
        run.interrupted = run.interrupted or run.step + 1 == step
        original(run, loss, norm)

    monkeypatch.setattr(Run, "after_step", after_step)
    return lambda: monkeypatch.setattr(Run, "after_step", original)


@pytest.mark.parametrize("task", ["classify", "similarity", "mlm"])
@pytest.mark.parametrize("step", [1, 4, 6])
def test_interrupted_and_resumed_ends_in_the_same_bytes(
    world, tmp_path, monkeypatch, task, step
):
    changes = {"train": str(world / "train.tsv"), "columns": {"text": "text"}}
    wanted = settings(world, task, epochs=2, **(changes if task == "mlm" else {}))
    finetune(wanted, tmp_path / "whole")
    undo = stop_at(monkeypatch, step)
    with pytest.raises(KeyboardInterrupt, match=f"saved after step {step}"):
        finetune(wanted, tmp_path / "cut")
    undo()
    (tmp_path / "cut" / ".cut.tmp-1234").mkdir()  # left by a kill while the result was written
    (tmp_path / "cut" / ".cut.tmp-1234" / "config.json").touch()
    finetune(None, tmp_path / "cut", resume=True)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "cut")


def test_a_finished_run_is_not_done_again_and_never_overwritten(world, tmp_path):
    result = finetune(settings(world), tmp_path / "run")
    before = files_of(tmp_path / "run")
    assert finetune(None, tmp_path / "run", resume=True) == result
    with pytest.raises(ValueError, match="already holds a run"):
        finetune(settings(world), tmp_path / "run")
    assert files_of(tmp_path / "run") == before
    with pytest.raises(FileNotFoundError, match="no run"):
        finetune(None, tmp_path / "nothing", resume=True)


def test_an_unfinished_run_predicts_nothing_and_notices_changed_data(world, tmp_path, monkeypatch):
    copy = tmp_path / "train.tsv"
    copy.write_bytes((world / "train.tsv").read_bytes())
    undo = stop_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        finetune(settings(world, train=str(copy)), tmp_path / "run")
    undo()
    with pytest.raises(ValueError, match="not finished.*finetune --resume --out .*run"):
        predict_file(tmp_path / "run", copy)
    copy.write_text(copy.read_text() + "a sweet song\tgood\n")
    with pytest.raises(ValueError, match="changed.*train"):
        finetune(None, tmp_path / "run", resume=True)


PROGRAM = """
import sys, torch
torch.set_num_threads(1)
from minibert.training.finetune import finetune
from minibert.training.settings import Settings
from pathlib import Path
out, resume = Path(sys.argv[1]), sys.argv[2] == "resume"
wanted = None if resume else Settings(**eval(sys.argv[3]))
print("ready", flush=True)
finetune(wanted, out, resume=resume)
"""


def start_process(out, how, wanted="{}", **env):
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", **env}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(out), how, wanted],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_and_resume(world, tmp_path, times, seed):
    """Kill ``times`` runs at random moments of their training, resume each, compare every file.

    A moment is some line of the log and a while after it: a time would, on a busy machine, mostly
    hit the start of Python. Returns how many lines the log had at each kill.
    """
    values = repr(dataclasses.asdict(settings(world, epochs=4, checkpoint_every=3)))
    whole = start_process(tmp_path / "whole", "new", values)
    assert whole.wait(300) == 0, whole.stderr.read()
    expected = files_of(tmp_path / "whole")
    lines = (tmp_path / "whole" / "run" / "log.jsonl").read_bytes().count(b"\n")
    draw = random.Random(seed)
    stood = []
    for number in itertools.count():
        home = tmp_path / f"home-{number}"
        home.mkdir()
        out = home / "out"
        log = out / "run" / "log.jsonl"
        process = start_process(out, "new", values)
        wanted, pause = draw.randint(0, lines), draw.random() * 0.02
        while process.poll() is None:
            count = log.read_bytes().count(b"\n") if log.exists() else 0
            if count >= wanted and (out / "run").exists():
                break
            time.sleep(0.001)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            continue  # it was done before
        for path in out.rglob("*.json"):
            read_json(path)  # whole, or not there
        stood.append(log.read_bytes().count(b"\n") if log.exists() else 0)
        begun = (out / "run" / "settings.json").exists()
        again = start_process(out, "resume" if begun else "new", values)
        assert again.wait(300) == 0, again.stderr.read()
        assert files_of(out) == expected, f"kill {number}"
        assert [path.name for path in home.iterdir()] == ["out"]
        if len(stood) == times:
            return stood


def test_killed_at_random_moments(world, tmp_path):
    kill_and_resume(world, tmp_path, times=2, seed=0)


def test_a_signal_saves_first(world, tmp_path):
    wanted = settings(world, epochs=40, checkpoint_every=10**6)
    values = repr(dataclasses.asdict(wanted))
    finetune(wanted, tmp_path / "whole")
    process = start_process(tmp_path / "cut", "new", values)
    log = tmp_path / "cut" / "run" / "log.jsonl"
    while not log.exists() or log.read_text().count("\n") < 5:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0 and "stopped and saved after step" in errors
    assert (tmp_path / "cut" / "run" / "checkpoint.safetensors").exists()
    said = []
    finetune(None, tmp_path / "cut", resume=True, say=said.append)
    assert any(line.startswith("resumed after step") for line in said)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "cut")


FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
"""


@pytest.mark.parametrize("limit", [100, 60_000, 120_000])
def test_a_full_disk_leaves_nothing_half_written(world, tmp_path, limit):
    wanted = settings(world, checkpoint_every=2)
    values = repr(dataclasses.asdict(wanted))
    finetune(wanted, tmp_path / "whole")
    out = tmp_path / "home" / "cut"
    program = FULL.format(limit=limit) + PROGRAM
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(out), "new", values],
        env=env, capture_output=True, text=True, timeout=300,
    )
    assert done.returncode == 1 and "Error" in done.stderr.splitlines()[-1], done.stderr
    left = [path for path in out.rglob("*") if path.is_file()] if out.exists() else []
    assert not [path for path in left if "tmp" in path.name]
    for path in left:
        if path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".jsonl":
            assert path.read_bytes().endswith(b"\n")
            [json.loads(line) for line in path.read_text().splitlines()]
        elif path.suffix == ".safetensors":
            read_tensors(path)
    begun = (out / "run" / "settings.json").exists()
    finetune(wanted, out, resume=begun)
    assert files_of(tmp_path / "whole") == files_of(out)


def test_two_processes_take_the_steps_of_one(world, tmp_path):
    wanted = settings(world, dropout=0.0, batch_size=6, accumulate=2)  # 40 rows: a short last step
    values = repr(dataclasses.asdict(wanted))
    finetune(wanted, tmp_path / "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world_of_two = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [
        start_process(tmp_path / "two", "new", values, RANK=str(rank), **world_of_two)
        for rank in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    lines = [
        [json.loads(line) for line in (tmp_path / name / "run" / "log.jsonl").open()]
        for name in ("one", "two")
    ]
    assert len(lines[0]) == len(lines[1]) == 1 + 2 * (4 + 1)
    for one, two in zip(*lines, strict=True):
        assert one.keys() == two.keys()
        for key in {"loss", "norm", "dev_loss"} & one.keys():
            assert one[key] == pytest.approx(two[key], rel=1e-5), (key, one, two)


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
    for answer, text, row in zip(answers, texts, probabilities, strict=True):
        assert answer["text"] == text
        assert answer["label"] == model.config.id2label[row.argmax().item()]
        assert answer["probability"] == pytest.approx(row.max().item(), abs=1e-5)


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


@pytest.mark.parametrize("task", ["similarity", "lora", "contrastive", "regression"])
def test_what_was_measured_at_the_end_is_what_the_directory_gives(world, tmp_path, task):
    changes = {"dev": str(world / "general.csv"), "columns": None}
    if task == "contrastive":
        path = tmp_path / "positives.csv"
        rows = [line.rsplit(",", 1)[0] + "\n" for line in (world / "pairs.csv").open()]
        path.write_text("".join(rows))
        changes = {"train": str(path), "dev": str(path)}
    if task == "lora":  # the change must be merged into what is saved
        task, changes = "similarity", {**changes, "lora": 2, "lr": 1e-2}
    wanted = settings(world, task, **changes)
    result = finetune(wanted, tmp_path / "run")
    if task == "contrastive":
        assert result["after"]["dev_found_first"] >= result["before"]["dev_found_first"]
        return
    measures = evaluate_file(tmp_path / "run", wanted.dev)
    assert measures["spearman"] == pytest.approx(result["after"]["dev_spearman"], abs=1e-6)


def test_the_best_epoch_is_kept_and_patience_ends_the_run(world, tmp_path):
    wanted = settings(world, epochs=30, lr=3e-3, patience=2)
    result = finetune(wanted, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "run" / "log.jsonl").open()]
    scores = [line["dev_accuracy"] for line in lines if line["epoch"] and "dev_accuracy" in line]
    assert result["after"]["dev_accuracy"] == max(scores)
    assert result["after"]["best_epoch"] == scores.index(max(scores)) + 1
    assert len(scores) == result["after"]["best_epoch"] + 2 < 30


def test_forgetting_is_measured_before_during_and_after(world, tmp_path):
    wanted = settings(world, "similarity", keep=str(world / "general.csv"))
    result = finetune(wanted, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "run" / "log.jsonl").open()]
    during = [line["general_spearman"] for line in lines if "general_spearman" in line]
    assert len(during) == 1 + wanted.epochs
    assert result["before"]["general_spearman"] == during[0]
    assert result["after"]["general_spearman"] in during[1:]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| general spearman |" in card and "| dev spearman |" in card


def test_what_was_known_before_is_what_the_base_model_knows(world, tmp_path):
    """Not what is left of it when the top layers begin anew."""
    result = finetune(settings(world, keep=str(world / "general.csv"), reinit=2), tmp_path / "run")
    known = evaluate_file(world / "base", world / "general.csv")["spearman"]
    assert result["before"]["general_spearman"] == pytest.approx(known, abs=1e-6)


def test_a_person_is_told_how_long_it_takes(monkeypatch):
    clock, said = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    class Plan:
        steps = 1000

    tell = narrator(said.append, Plan, 16, "accuracy")
    tell({"step": 200, "epoch": 1, "dev_accuracy": 0.5})  # resumed here
    for seconds, step in ((105, 210), (110, 220), (500, 1000)):
        clock[0] = float(seconds)
        tell({"step": step, "epoch": 1, "loss": 0.25, "lr": 1e-5})
    assert said == [
        "step 200 of 1000, epoch 1: dev_accuracy 0.5",
        "step 220 of 1000, epoch 1: loss 0.25, lr 1e-05; about 6 min left",  # 20 took 10 s
        "step 1000 of 1000, epoch 1: loss 0.25, lr 1e-05",
    ]


def test_what_is_written_may_be_read_by_whom_the_umask_lets(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)})
    (tmp_path / "ordinary").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1, modes


@pytest.mark.parametrize(
    "change",
    [{"lora": 2}, {"freeze": 1}, {"freeze": "embeddings"}, {"pull": 5.0}, {"layer_decay": 0.5},
     {"reinit": 1}, {"replay": "train.tsv"}, {"optimizer": "sgd"}, {"batch_tokens": 64},
     {"class_weights": "balanced", "label_smoothing": 0.1}, {"schedule": "cosine"},
     {"autocast": True}],
)  # fmt: skip
def test_every_way_of_training_resumes_to_the_same_bytes(world, tmp_path, monkeypatch, change):
    if "replay" in change:
        change = {"replay": str(world / "train.tsv")}
    wanted = settings(world, **change)
    finetune(wanted, tmp_path / "whole")
    undo = stop_at(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        finetune(wanted, tmp_path / "cut")
    undo()
    finetune(None, tmp_path / "cut", resume=True)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "cut")


def test_one_class_and_collapsed_cosines_are_told():
    assert "same class" in warnings_about({"predicted_classes": 1}, 3)[0]
    assert not warnings_about({"predicted_classes": 2}, 3)
    assert "collapsed" in warnings_about({"cosine_mean": 0.98, "cosine_sd": 0.03}, None)[0]
    assert not warnings_about({"cosine_mean": 0.5, "cosine_sd": 0.3}, None)


def test_several_seeds_and_baselines(world, tmp_path):
    wanted = settings(world, epochs=1, dev=str(world / "train.tsv"))
    summary = several(wanted, tmp_path / "runs", 2)
    scores = [run["dev_accuracy"] for run in summary["runs"]]
    assert summary["mean"] == pytest.approx(sum(scores) / 2) and summary["worst"] == min(scores)
    assert 0.4 < summary["baselines"]["majority class"] < 0.7
    assert summary["baselines"]["frozen encoder"] > summary["baselines"]["majority class"]
    assert several(wanted, tmp_path / "runs", 2) == summary  # nothing was done again


def test_the_recipe_for_little_data():
    wanted = Settings("classify", "train.tsv", epochs=3)
    epochs = [small_data(wanted, n, 384).epochs for n in (40, 250, 500, 1000, 100_000)]
    assert epochs == [20, 13, 7, 4, 3]
    found = [small_data(wanted, 250, width) for width in (384, 768)]
    assert [(each.lr, each.reinit) for each in found] == [(1e-4, 0), (5e-5, 0)]
    found = small_data(wanted.replace(task="similarity"), 250, 384)
    assert (found.lr, found.reinit) == (5e-5, None)
    assert small_data(wanted.replace(lr=1e-3), 250, 384).lr == 1e-3


@pytest.mark.parametrize(
    "wrong", [{"task": "classfy"}, {"lr": 0.0}, {"warmup": 2}, {"epochs": 0}, {"schedule": "x"}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**{"task": "classify", "train": "x", **wrong})


def test_a_blend_stands_between(world, tmp_path):
    finetune(settings(world, "similarity"), tmp_path / "tuned")
    mix = Blend(world / "base", tmp_path / "tuned")
    rows = mix.sweep(world / "pairs.csv", world / "general.csv", alphas=(0.0, 1.0))
    before = evaluate_file(world / "base", world / "pairs.csv")["spearman"]
    after = evaluate_file(tmp_path / "tuned", world / "pairs.csv")["spearman"]
    assert [row["domain"] for row in rows] == pytest.approx([before, after], abs=1e-9)
    mix.save(0.25, tmp_path / "mixed")
    name = "layers.1.attention.query.weight"
    found = load(tmp_path / "mixed")[1].state_dict()[name]
    torch.testing.assert_close(found, 0.75 * mix.base[name] + 0.25 * mix.tuned[name])
    draw_sweep(rows, tmp_path / "sweep.svg")
    ElementTree.parse(tmp_path / "sweep.svg")


def test_the_curves_are_well_formed_and_have_every_epoch(world, tmp_path):
    finetune(settings(world), tmp_path / "run")
    picture = ElementTree.parse(tmp_path / "run" / "run" / "curves.svg")
    circles = [e for e in picture.iter() if e.tag.endswith("circle")]
    lines = [e for e in picture.iter() if e.tag.endswith("polyline")]
    assert len(lines) == 3 and len(circles) == 2 * 5 + 2 * 3  # 10 steps; start and two epochs twice
