"""A model directory goes to a hub on loopback."""

import json

import pytest
from huggingface_hub import constants
from support import small
from support.command import run as command
from support.fake_hub import COMMIT, FakeHub

from minibert.training.push import push

RUN = {"run/settings.json": "{}", "run/log.jsonl": '{"step": 0}\n', "README.md": "# A model\n"}
METRICS = {"run/metrics.json": '{"after": {}, "remarks": []}'}
KEPT = (
    "run/data/train.jsonl", "run/checkpoint.safetensors", "run/best.safetensors",
    ".model.safetensors.tmp-1", ".git/config", "optimizer.pt",
    "checkpoint-20/model.safetensors", "run/.log.tmp-3",
    "old/checkpoint-3/model.safetensors", "old/optimizer.pt",
)  # fmt: skip


@pytest.fixture
def hub(monkeypatch):
    server = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_writes")
    yield server
    server.close()


def model(directory, files):
    small.base(directory)
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def test_what_is_uploaded_and_what_is_not(hub, tmp_path, capsys):
    there = model(tmp_path / "model", {**RUN, **METRICS, **dict.fromkeys(KEPT, "large")})
    status, out, err = command(capsys, "push", there, "me/model", "--private", "--json")
    assert not status, err
    _, uploaded = hub.repositories["me/model"]
    assert hub.private == {"me/model"} and json.loads(out)["url"].endswith(COMMIT)
    wanted = {p.relative_to(there).as_posix(): p for p in there.rglob("*") if p.is_file()}
    for name in KEPT:
        wanted.pop(name)
    assert uploaded == {name: path.read_bytes() for name, path in wanted.items()}
    assert {"model.safetensors", "1_Pooling/config.json", *RUN, *METRICS} <= {*uploaded}
    assert json.loads(out)["files"] == sorted(uploaded)
    (there / "README.md").write_text("# A better model\n")
    push(there, "me/model", private=True)
    assert hub.repositories["me/model"][1]["README.md"] == b"# A better model\n"
    _, out, _ = command(capsys, "push", model(tmp_path / "plain", {}), "me/plain")
    assert out.startswith(f"{hub.url}/me/plain/commit/") and "me/plain" not in hub.private


@pytest.mark.parametrize(
    "files, name, message",
    [
        (RUN, "me/model", "unfinished, step 0; only a finished one"),
        ({**RUN, "run/metrics.json": '{"after": {}, "remarks": ["the run has failed"]}'},
         "me/model", "is failed; only"),
        ({"run/settings.json": "{}"}, "me/model", "holds no run"),
        ({}, "model", "'model' is no name on the hub; owner/name"),
        ({}, "me/mo del", "mo del"),
        ({}, "me/public", "is public; push without --private"),
    ],
)  # fmt: skip
def test_what_is_refused(hub, tmp_path, files, name, message):
    hub.repositories["me/public"] = (COMMIT, {})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        push(model(tmp_path / "model", files), name, private=True)
    assert not any("/commit/" in path or "preupload" in path for _, path, _ in hub.requests)


def test_who_may_not_and_where_there_is_nothing(hub, tmp_path, monkeypatch):
    there = model(tmp_path / "model", {})
    with pytest.raises(OSError, match="hf auth login"):
        push(there, "me/model", token="hf_reads")
    with pytest.raises(ValueError, match="holds no model"):
        push(tmp_path, "me/model")
    hub.close()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="was not reached"):
        push(there, "me/model")
