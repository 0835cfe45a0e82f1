"""`minibert bench`: every figure is there, and says what it says; nothing here is timed."""

import functools
import json
import multiprocessing
import os
import signal
import sys
import time
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from support import small
from support.command import run

from minibert.config import BertConfig
from minibert.sentence_encoder import SentenceEncoder
from minibert.speed import bench, int8, peers

TEXTS = [text for text, _ in small.sentences(12)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small.base(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def a_quick_machine(monkeypatch):
    monkeypatch.setattr(bench, "matrix_rate", lambda: 1.0)
    monkeypatch.setattr(int8, "unsupported", lambda: None)
    monkeypatch.setattr(bench, "available", lambda: True)
    monkeypatch.setattr(bench, "no_bfloat16", lambda: "slow here")


def test_json_has_all_that_was_measured(capsys, model, tmp_path):
    status, out, err = run(
        capsys, "bench", "--model", model, "--number", 5, "--rounds", 2, "--alone", "--no-start",
        "--json", "--svg", tmp_path / "speed.svg",
    )
    assert status == 0, err
    found = json.loads(out)
    assert found["machine"]["threads"] >= 1 and found["rounds"] == 2
    assert set(found["encode"]) == {"short", "long", "one"}
    for kind, race in found["encode"].items():
        assert race["tokens"] >= 3 * race["texts"]
        assert set(race["contestants"]) == {"minibert", "minibert textbook", "minibert int8"}, kind
        row = race["contestants"]["minibert"]
        assert row["minibert : this"] == 1.0 and len(row["seconds"]) == 2
    assert len(found["matrix_gflops"]) == 6
    texts = [node.text for node in ET.fromstring((tmp_path / "speed.svg").read_text()).iter()]
    assert "minibert int8" in texts
    table = bench.table(found)
    assert "short: 5 texts" in table and "of the machine's matrix rate" in table


def test_ratios_are_medians_inside_the_rounds(model):
    """Theirs takes 3, 1, 8 seconds and ours 1, 1, 2: the ratios 3, 1, 4 have the median 3."""
    both = {"minibert": iter([9, 1, 1, 2]), "other": iter([9, 3, 1, 8])}  # the first is no round
    both = {name: lambda *_, took=took: next(took) for name, took in both.items()}
    race = bench.race(both, ["good", "bad"], 3, SentenceEncoder.from_pretrained(model), [])
    assert race["contestants"]["other"]["minibert : this"] == 3
    assert race["contestants"]["minibert"]["texts_per_s"] == 2


def test_operations_by_hand():
    """One layer, H = 32, F = 48, 10 tokens: 4 maps of 32 x 32, 2 of 32 x 48, two products."""
    config = BertConfig.from_dict({**small.SIZES, "num_hidden_layers": 1})
    maps = 10 * (4 * 32 * 32 + 2 * 32 * 48)
    assert bench.operations(config, 10) == 2 * (maps + 2 * 10 * 10 * 32)


def test_own_texts(capsys, model, tmp_path, monkeypatch):
    (tmp_path / "texts.txt").write_text("good film\n\nbad film\n")
    (tmp_path / "empty.txt").write_text("\n")
    options = ["bench", "--model", model, "--alone", "--no-start", "--data"]
    status, out, _ = run(capsys, *options, tmp_path / "texts.txt", "--rounds", 1)
    assert status == 0 and "data: 2 texts, 8 tokens" in out
    monkeypatch.setattr(bench, "gather", None)  # nobody gets ready for nothing
    status, _, error = run(capsys, *options, tmp_path / "empty.txt")
    assert status == 2 and "no text in it" in error
    assert run(capsys, *options, tmp_path / "texts.txt", "--rounds", 0)[0] == 2


@pytest.mark.slow
def test_training_and_its_profile(capsys, model):
    arguments = ["--model", model, "--profile", "--rounds", 1, "--alone", "--json"]
    status, out, _ = run(capsys, "bench", *arguments, "--threads", 3)
    found = json.loads(out)
    assert found["machine"]["threads"] == 3 != torch.get_num_threads()
    assert status == 0 and found["training"]["minibert"]["steps_per_s"] > 0
    assert sum(row["share"] for row in found["profile"]) <= 1 + 1e-9
    assert any("mm" in row["operation"] for row in found["profile"])
    assert "calls" in bench.table(found)
    assert run(capsys, "bench", "--train", "--svg", "x.svg")[0] == 2


def test_the_peak_of_a_process_is_its_own():
    """What this process holds does not count."""
    ballast = np.ones(25_000_000)  # 200 MB here
    spent, peak, status = bench.whole_process([sys.executable, "-S", "-c", "b'x' * 50_000_000"])
    assert spent > 0 and 48 < peak < ballast.nbytes / 2**20 and status == 0
    assert bench.whole_process([sys.executable, "-S", "-c", "raise SystemExit(3)"])[2] == 3


@pytest.mark.slow
def test_cold_start(model):
    found = bench.cold_start(model, 1, peers=False)
    assert set(found) == {"import torch", "minibert similarity a b"}
    assert not any(row["failed"] for row in found.values())
    assert bench.cold_start(model / "nothing", 1, peers=False)["minibert similarity a b"]["failed"]


def broken(directory, room):
    raise RuntimeError("not today")


def slow_to_fail(directory, room):
    return functools.partial(broken, room)


def sleeper(seconds):
    return lambda: time.sleep(seconds)


def test_each_is_measured_in_a_process_of_its_own(monkeypatch):
    """With our threads there, and silent at Ctrl-C; what goes wrong there is raised here."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    contestant = bench.Apart(sleeper, 0.01)
    process, *rest = contestant.run(process_and_state)
    assert contestant(3) >= 0.01 and process != os.getpid() and rest == [3, signal.SIG_DFL]
    contestant.end()
    with pytest.raises(RuntimeError, match="not today") as caught:
        bench.Apart(broken, 1, 2)
    assert caught and not multiprocessing.active_children()


def process_and_state(call):
    return os.getpid(), torch.get_num_threads(), signal.getsignal(signal.SIGINT)


def test_no_process_is_left_when_something_goes_wrong(model, monkeypatch):
    monkeypatch.setattr(bench, "ENGINES", {"minibert": "float32"})
    monkeypatch.setattr(bench, "race", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        bench.bench(model, peers=False)
    assert caught and not multiprocessing.active_children()


def test_who_is_missing_is_said(model, tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "unsupported", lambda: "no such instructions")
    monkeypatch.setattr(bench, "available", lambda: False)
    monkeypatch.setattr(
        bench, "PEERS", {"one": (broken, []), "other": (broken, ["no_such_package"]),
                         "third": (slow_to_fail, [])},
    )  # fmt: skip
    found, missing = bench.gather(model, tmp_path, True, lambda line: None)
    found["minibert"].end()
    assert not multiprocessing.active_children()
    assert set(found) == {"minibert"}
    assert missing == {
        "minibert textbook": "minibert is that: torch has no oneDNN here",
        "minibert bf16": "slow here",
        "minibert int8": "no such instructions",
        "one": "RuntimeError: not today",
        "other": "needs no_such_package, not installed",
        "third": "RuntimeError: not today",
    }


@pytest.mark.parity
@pytest.mark.parametrize("peer", ["sentence-transformers", "transformers"])
def test_peers_give_our_vectors(model, tmp_path, peer):
    """A race is fair only if all compute the same."""
    encode = peers.PEERS[peer][0](model, tmp_path)
    ours = SentenceEncoder.from_pretrained(model).encode(TEXTS)
    assert np.abs(encode(TEXTS) - ours).max() <= 2e-6


def test_the_batches_lent_to_others(model):
    """Hidden states computed elsewhere, pooled here: with our own model they give our vectors."""
    encoder = SentenceEncoder.from_pretrained(model)
    states = peers.States(encoder.model)

    def forward(ids, mask):
        with torch.no_grad():
            return states(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()

    lent = peers.sorted_batches(model, forward)
    assert np.abs(lent(TEXTS) - encoder.encode(TEXTS)).max() <= 2e-6
