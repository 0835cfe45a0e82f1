"""The cross-encoder: the scores of sentence-transformers, for every kind of directory."""

import json
import re

import numpy as np
import pytest
import torch
from support.tiny import WORDS, build, tiny_config

from minibert import BertForSequenceClassification, BertModel, BertTokenizer, CrossEncoder
from minibert.sentence_encoder import SentenceEncoder

PAIRS = [("a b", "c"), ("a", ""), ("", ""), ("A [MASK]", "q " * 30), ("c d", "d e f"), ("i", "j")]
SIGMOID = "torch.nn.modules.activation.Sigmoid"


@pytest.fixture
def saved(tmp_path):
    def save(labels, **extra):
        config = tiny_config(vocab_size=len(WORDS), num_labels=labels, **extra)
        build(BertForSequenceClassification, config).save_pretrained(tmp_path)
        BertTokenizer(WORDS, model_max_length=20).save_pretrained(tmp_path)
        (tmp_path / "minibert.json").unlink()
        return tmp_path

    return save


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
        {"sbert_ce_default_activation_function": SIGMOID},
    ],
    ids=["plain", "version 4", "version 3"],
)
def test_the_scores_of_sentence_transformers(saved, labels, extra, tmp_path_factory):
    import sentence_transformers

    home = saved(labels, **extra)
    options = {"device": "cpu", "model_kwargs": {"attn_implementation": "eager"}}
    theirs = sentence_transformers.CrossEncoder(str(home), **options)
    theirs.save(str(new := tmp_path_factory.mktemp("new")))  # with a modules.json of its own
    for directory in (home, new):
        ours = CrossEncoder.from_pretrained(directory, device="cpu")
        for given in ({}, {"activation_fn": torch.nn.Identity()}, {"apply_softmax": True}):
            expected = theirs.predict([list(pair) for pair in PAIRS], **given)
            found = ours.predict(PAIRS, **given)
            assert found.shape == expected.shape and found.dtype == np.float32
            assert np.allclose(found, expected, rtol=0, atol=2e-6)
            assert np.allclose(ours.predict(PAIRS[0], **given), expected[0], atol=2e-6)
    if labels == 1:
        one, other = (side.rank("a b", ["c", "d e", "f"], top_k=2) for side in (theirs, ours))
        assert [row["corpus_id"] for row in one] == [row["corpus_id"] for row in other]
    with pytest.raises(ValueError, match="is a cross-encoder.*CrossEncoder.from_pretrained opens"):
        SentenceEncoder.from_pretrained(new)


def test_what_is_no_cross_encoder_and_no_pair(saved, tmp_path):
    home = saved(1)
    encoder = CrossEncoder.from_pretrained(home, device="cpu")
    assert encoder.predict([]).shape == (0,)
    assert encoder.predict(PAIRS, convert_to_tensor=True).dtype == torch.float32
    for wrong in ([("a",)], ["ab"], [("a", "b", "c")], [("a", 3)], [{"a", "b"}]):
        with pytest.raises(TypeError, match="two texts"):
            encoder.predict([("a", "b"), *wrong])
    encoder.model.classifier.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="not numbers"):
        encoder.predict(PAIRS)
    with pytest.raises(ValueError, match="ranking needs one label, not 3"):
        CrossEncoder.from_pretrained(saved(3), device="cpu").rank("a", ["b"])
    config = json.loads((home / "config.json").read_text())
    for name in ("my.Activation", ["x"]):
        config["sbert_ce_default_activation_function"] = name
        (home / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=f"{home}: the activation {re.escape(repr(name))} is"):
            CrossEncoder.from_pretrained(home)
    model = build(BertModel, tiny_config(vocab_size=len(WORDS)))
    SentenceEncoder(model, BertTokenizer(WORDS)).save_pretrained(tmp_path / "bi")
    with pytest.raises(ValueError, match="SentenceEncoder.from_pretrained opens what gives"):
        CrossEncoder.from_pretrained(tmp_path / "bi")
    (tmp_path / "bi" / "modules.json").unlink()
    (tmp_path / "bi" / "minibert.json").unlink()
    for name in ("config_sentence_transformers.json", "sentence_bert_config.json"):
        (tmp_path / "bi" / name).unlink()
    with pytest.warns(UserWarning, match="untrained"), pytest.raises(ValueError, match="no classi"):
        CrossEncoder.from_pretrained(tmp_path / "bi")
