"""Models as ONNX files, beside ONNX Runtime."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from support import small
from support.command import run as command
from support.tiny import SIZES, build

from minibert import heads
from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.pooling import POOLING
from minibert.sentence_encoder import SentenceEncoder
from minibert.speed import onnx_export
from minibert.speed.onnx_export import export

KINDS = [BertModel, *(kind for name, kind in vars(heads).items() if name.startswith("BertFor"))]


@pytest.fixture
def onnx():
    pytest.importorskip("onnx")
    return pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_head_gives_the_same(onnx, kind, tmp_path):
    model = build(kind, BertConfig.from_dict({**SIZES, "num_labels": 3}))
    found = export(model, tmp_path / "m.onnx")
    ids = torch.randint(5, 50, (3, 11))
    names = [name for name, value in model(ids)._asdict().items() if value is not None]
    assert found["outputs"] == names == list(found["differences"])
    assert max(found["differences"].values()) < 2e-5
    session = onnx.InferenceSession(str(tmp_path / "m.onnx"))
    for put in session.get_inputs():
        assert put.shape == ["texts", "tokens"]
    feed = {"input_ids": ids, "attention_mask": torch.ones_like(ids),
            "token_type_ids": torch.zeros_like(ids)}  # fmt: skip
    theirs = session.run(names, {name: value.numpy() for name, value in feed.items()})
    for name, value in zip(names, theirs, strict=True):
        torch.testing.assert_close(
            torch.from_numpy(value), getattr(model(ids), name), atol=2e-5, rtol=0
        )


@pytest.mark.parametrize("act", small.SHAPES)
def test_every_activation(onnx, act, tmp_path):
    assert max(export(small.bert(act), tmp_path / "m.onnx")["differences"].values()) < 2e-5


@pytest.mark.parametrize("pooling", [*((name,) for name in POOLING), ("cls", "mean")])
def test_a_sentence_encoder_gives_its_vectors(onnx, pooling, tmp_path):
    for normalize in (True, False):
        encoder = SentenceEncoder(
            small.bert(), small.tokenizer(), pooling=pooling, normalize=normalize, max_length=40
        )
        found = export(encoder, tmp_path / "m.onnx")
        assert found["outputs"] == ["sentence_embedding"]
        texts = ["a good film", "the song was awful but it was kind", "sad"]
        rows = encoder.tokenizer(texts)
        feed = {name: value.numpy() for name, value in rows.items()}
        session = onnx.InferenceSession(str(tmp_path / "m.onnx"))
        (vectors,) = session.run(None, feed)
        np.testing.assert_allclose(vectors, encoder.encode(texts), atol=2e-5)


def test_the_command(onnx, tmp_path, capsys, monkeypatch):
    small.base(tmp_path / "base")
    config = BertConfig.from_dict(SIZES)
    build(heads.BertForTokenClassification, config).save_pretrained(tmp_path / "head")
    for name, output in (("base", "sentence_embedding"), ("head", "logits")):
        words = ("export", tmp_path / name, "--onnx", tmp_path / "m.onnx")
        status, out, err = command(capsys, *words, "--json")
        assert not status, err
        assert json.loads(out)["outputs"] == [output]
    assert "largest difference" in command(capsys, *words)[1]
    monkeypatch.setattr(onnx_export, "differences", lambda *rest: {"logits": 2e-4})
    assert command(capsys, *words)[0] == 1
    monkeypatch.setattr(onnx_export, "differences", lambda *rest: None)
    status, out, _ = command(capsys, *words)
    assert not status and out.endswith("not compared: onnxruntime is not installed\n")


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    model = small.bert()
    with pytest.raises(ValueError, match=r"\.onnx"):
        export(model, tmp_path / "m.bin")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"onnx is not installed: pip install .*\[onnx\]"):
        export(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
