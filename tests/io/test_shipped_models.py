"""The shipped models: what is there, and that everybody reads the same numbers from them."""

import logging
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from minibert import BertForPreTraining, BertTokenizer, SentenceEncoder
from minibert.cli.main import main
from minibert.io import files

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
SMALL, TINY = WEIGHTS / "minibert-small", WEIGHTS / "minibert-tiny"
TEXTS = [
    "A man is playing a guitar.",
    "how do I get my card back",
    "The naïve café, 10 % cheaper: 好 ☃!",
    "x",
    "word " * 300,  # longer than the model
]


@pytest.fixture
def strict(monkeypatch, caplog):
    """No network; a warning is an error, and so is one that goes to a log."""

    def refuse(*_):
        raise OSError("this test has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers")]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    for logger in loggers:
        logger.removeHandler(caplog.handler)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert not said


@pytest.fixture
def ours():
    encoder = SentenceEncoder.from_pretrained(SMALL)
    with pytest.warns(UserWarning, match="256"):  # one is cut
        return encoder.encode(TEXTS)


@pytest.mark.parametrize("home, most", [(SMALL, 20_000_000), (TINY, 10_000_000)])
def test_every_file_is_the_one_saved_and_all_are_small(home, most):
    there = [path for path in home.rglob("*") if path.is_file()]
    names = {path.relative_to(home).as_posix() for path in there if path.suffix in files.LISTED}
    saved = files.read_manifest(home)
    assert names - {files.MANIFEST} == set(saved)
    assert files.differing(home, saved) == []
    assert sum(path.stat().st_size for path in there) < most


@pytest.mark.parametrize("home, licence", [(SMALL, "apache-2.0"), (TINY, "mit")])
def test_the_card_says_what_it_is(home, licence):
    card = (home / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n") and f"license: {licence}\n" in card.split("---")[1]


@pytest.mark.parity
def test_the_vectors_of_sentence_transformers(strict, ours):
    theirs = pytest.importorskip("sentence_transformers")
    found = theirs.SentenceTransformer(str(SMALL), device="cpu").encode(TEXTS)
    assert found.dtype == ours.dtype == np.float32
    assert np.abs(found - ours).max() < 1e-5


@pytest.mark.parity
def test_the_vectors_of_transformers(strict, ours):
    theirs = pytest.importorskip("transformers")
    tokenizer = theirs.AutoTokenizer.from_pretrained(SMALL)
    model = theirs.AutoModel.from_pretrained(SMALL).eval()
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    found = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    assert hidden.dtype == torch.float32
    assert np.abs(found.numpy() - ours).max() < 1e-5


def test_near_is_near():
    question, same, other = SentenceEncoder.from_pretrained(SMALL).encode([
        "how can I get my lost card back?", "the bank card is gone", "the dog sleeps in the sun",
    ])
    assert question @ same > question @ other + 0.3


@pytest.mark.parity
def test_the_numbers_of_transformers_from_both_heads(strict):
    theirs = pytest.importorskip("transformers")
    texts, pairs = ["She opened the [MASK].", "He sat down."], ["She went in.", "It was noon."]
    batch = BertTokenizer.from_pretrained(TINY)(texts, pairs)
    expected = theirs.AutoTokenizer.from_pretrained(TINY)(
        texts, pairs, padding=True, return_tensors="pt"
    )
    assert all(torch.equal(batch[name], expected[name]) for name in batch)
    reference = theirs.BertForPreTraining.from_pretrained(TINY, dtype=torch.float32).eval()
    with torch.no_grad():
        words, follows = BertForPreTraining.from_pretrained(TINY)(**batch)
        found = reference(**expected)
    torch.testing.assert_close(words, found.prediction_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(follows, found.seq_relationship_logits, atol=1e-5, rtol=0)


def test_fill_mask_needs_no_model_to_be_named(strict, capsys):
    assert main(["fill-mask", "We went there three [MASK] ago."]) == 0
    shown = "".join(capsys.readouterr())
    assert "minibert-tiny" in shown and "years" in shown
