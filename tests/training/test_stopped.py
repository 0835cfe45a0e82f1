"""Runs that are stopped by Ctrl-C, kill -9 or a full disk end, resumed, in the same bytes.

And two processes take the steps of one. `finetune`, `distil` and `pretrain` alike.
"""

import os
import random
import signal
import socket
import time
from pathlib import Path

import pytest
from support import worlds
from support.processes import Training
from support.runs import files_of, log_of, stop_at

from minibert.io.checkpoint import read_safetensors
from minibert.io.files import read_json
from minibert.training.distil import distil
from minibert.training.finetune import finetune
from minibert.training.pretrain import pretrain


def program_and_settings(world, kind, **changes):
    """``kind`` is "distil", "pretrain" or a task of fine-tuning."""
    if kind == "distil":
        return distil, worlds.distil_settings(world, **changes)
    if kind == "pretrain":
        return pretrain, worlds.pretrain_settings(world, **changes)
    return finetune, worlds.finetune_settings(world, kind, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run leaves that is not stopped; each is made once."""
    made = {}

    def directory(program, wanted):
        if repr(wanted) not in made:
            made[repr(wanted)] = out = tmp_path_factory.mktemp("whole") / "out"
            program(wanted, out)
        return made[repr(wanted)]

    return directory


@pytest.mark.parametrize("kind, step, changes", [
    ("classify", 7, {"class_weights": "balanced", "label_smoothing": 0.1, "pull": 5.0,
                     "layer_decay": 0.5, "freeze": 1, "schedule": "cosine"}),
    ("similarity", 4, {"lora": 2, "batch_tokens": 64, "optimizer": "adam", "scale": (0, 5)}),
    ("distil", 8, {"half": True, "dropout": 0.1, "accumulate": 2, "steps": 9}),
    ("pretrain", 10, {"accumulate": 2, "dropout": 0.1, "no_next_sentence": True}),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in [
        ("classify", 1, {}), ("classify", 5, {}), ("similarity", 3, {}), ("mlm", 1, {}),
        ("mlm", 4, {"accumulate": 2}), ("pretrain", 3, {"whole_words": True, "autocast": True}),
        ("classify", 4, {"lora": 2, "replay": "train.tsv"}),
        ("classify", 6, {"freeze": "embeddings", "autocast": True}),
        ("classify", 2, {"reinit": 1, "optimizer": "sgd", "batch_tokens": 64}),
        ("distil", 3, {"from_nothing": True, "similarities": 0.0}),
    ]),
])  # fmt: skip
def test_interrupted_and_resumed_ends_in_the_same_bytes(
    world, whole, tmp_path, monkeypatch, kind, step, changes
):
    program, wanted = program_and_settings(world, kind, **changes)
    expected, out = files_of(whole(program, wanted)), tmp_path / "cut"
    undo = stop_at(monkeypatch, step)
    with pytest.raises(KeyboardInterrupt, match=f"saved after step {step}"):
        program(wanted, out)
    undo()
    with pytest.raises(ValueError, match=r"begun with lr 0.00. .not 0.5., and is"):
        program({"lr": 0.5}, out, resume=True)
    (out / ".cut.tmp-1234").mkdir()  # left by a kill while the result was written
    (out / ".cut.tmp-1234" / "config.json").touch()
    said = []
    program(None, out, resume=True, say=said.append)
    assert any(f"resumed after step {step} of" in line for line in said)
    assert files_of(out) == expected


@pytest.mark.slow
def test_one_process_at_a_time_and_a_killed_one_holds_nothing(world, tmp_path):
    (program, wanted), out = program_and_settings(world, "classify", epochs=200), tmp_path / "out"
    process = Training(program, out, wanted)
    wait_for_lines(process, out, 3)
    for again in (False, True):
        with pytest.raises(ValueError, match=f"process {process.pid} is writing {out}; wait"):
            program(wanted, out, resume=again)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    assert "saved after step" in process.end()[1]
    assert not (out / "run" / "lock").exists()
    process = Training(program, out, wanted)  # resumed
    wait_for_lines(process, out, len(log_of(out)) + 1)
    process.kill()
    process.join()
    assert (out / "run" / "lock").exists(), "what follows would show nothing"
    with pytest.raises(ValueError, match="already holds a run"):
        program(wanted, out)


def wait_for_lines(process, out, lines):
    """Wait until the log of a run has so many lines, or the run has ended."""
    log = out / "run" / "log.jsonl"
    while process.is_alive() and not (log.exists() and log.read_text().count("\n") >= lines):
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("kind, seed", [
    ("classify", 0), ("classify", 1), ("classify", 2), ("classify", 3), ("distil", 0),
    ("distil", 1), ("distil", 2), ("pretrain", 0), ("pretrain", 1),
])  # fmt: skip
def test_killed_at_a_random_moment(world, whole, tmp_path, kind, seed):
    """A moment is some line of the log and a while after it: a time would, on a busy machine,
    mostly hit the start of Python."""
    often = {"every": 3} if kind == "pretrain" else {"epochs": 4, "checkpoint_every": 3}
    program, wanted = program_and_settings(world, kind, **often)
    expected, draw = whole(program, wanted), random.Random(seed)
    while True:
        out = tmp_path / f"home-{draw.random()}" / "out"
        process = Training(program, out, wanted)
        wait_for_lines(process, out, draw.randint(0, len(log_of(expected))))
        time.sleep(draw.random() * 0.02)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            break  # else it was done before
    for path in out.rglob("*.json"):
        read_json(path)  # whole, or not there
    assert Training(program, out, wanted).end() == (0, "")
    assert files_of(out) == files_of(expected)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100, 60_000, 120_000])
def test_a_full_disk_leaves_nothing_half_written(world, whole, tmp_path, limit):
    program, wanted = program_and_settings(world, "classify", checkpoint_every=2)
    out = tmp_path / "home" / "cut"
    status, error = Training(program, out, wanted, limit).end()
    assert status == 1 and "Error: " in error, error
    readers = {".json": read_json, ".safetensors": read_safetensors}
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert "tmp" not in path.name
        readers.get(path.suffix, Path.read_text)(path)
    assert all(line.endswith("}\n") for log in out.rglob("log.jsonl") for line in log.open())
    program(wanted, out, resume=(out / "run" / "settings.json").exists())
    assert files_of(out) == files_of(whole(program, wanted))


@pytest.mark.slow
@pytest.mark.parametrize("kind, changes, steps, rel", [
    ("classify", {"dropout": 0.0, "batch_size": 6, "accumulate": 2}, 8, 1e-5),  # short last steps
    ("distil", {"batch_size": 9, "similarities": 3.0}, 34, 1e-4),  # an odd batch: unequal shares
    ("pretrain", {"accumulate": 2, "steps": 6}, 6, 1e-5),
])  # fmt: skip
def test_two_processes_take_the_steps_of_one(world, tmp_path, kind, changes, steps, rel):
    program, wanted = program_and_settings(world, kind, **changes)
    program(wanted, tmp_path / "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [Training(program, tmp_path / "two", wanted, RANK=str(n), **address) for n in range(2)]
    assert [process.end() for process in both] == [(0, "")] * 2
    lines = [log_of(tmp_path / name) for name in ("one", "two")]
    assert sum("norm" in line for line in lines[0]) == steps
    for one, two in zip(*lines, strict=True):
        assert one.keys() == two.keys()
        for key in {"loss", "norm", "dev_loss"} & one.keys():
            assert one[key] == pytest.approx(two[key], rel=rel), (key, one, two)
