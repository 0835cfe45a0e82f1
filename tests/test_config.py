"""``BertConfig``: every official config.json comes in and goes out unchanged, or is refused."""

import copy
import dataclasses
import json
import math
import subprocess
import sys

import pytest

from minibert.config import BertConfig

# config.json files as they lie on the hub: the keys and values of each kind.
UNCASED = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}
CHINESE = {
    **UNCASED,
    "directionality": "bidi",
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_type": "first_token_transform",
    "vocab_size": 21128,
}
NEWER = "architectures gradient_checkpointing layer_norm_eps model_type pad_token_id use_cache"
GOOGLE_2018 = {  # bert_config.json of the first release: no model_type, no eps
    key: value
    for key, value in UNCASED.items()
    if key not in f"{NEWER} position_embedding_type transformers_version".split()
} | {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
MINILM = {
    **UNCASED,
    "_name_or_path": "nreimers/MiniLM-L6-H384-uncased",
    "architectures": ["BertModel"],
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
}
CLASSIFIER = {
    **UNCASED,
    "architectures": ["BertForSequenceClassification"],
    "classifier_dropout": None,
    "id2label": {"0": "NEGATIVE", "1": "NEUTRAL", "2": "POSITIVE"},
    "label2id": {"NEGATIVE": 0, "NEUTRAL": 1, "POSITIVE": 2},
    "problem_type": "single_label_classification",
}
CROSS_ENCODER = {
    **MINILM,
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
}
TRANSFORMERS_5 = {
    **MINILM,
    "add_cross_attention": False,
    "bos_token_id": None,
    "classifier_dropout": None,
    "dtype": "float32",
    "is_decoder": False,
    "tie_word_embeddings": True,
}
every_kind = pytest.mark.parametrize(
    "values",
    [UNCASED, CHINESE, GOOGLE_2018, MINILM, CLASSIFIER, CROSS_ENCODER, TRANSFORMERS_5],
    ids=["uncased", "chinese", "google 2018", "minilm", "classifier", "cross-encoder", "newest"],
)


def test_defaults_are_bert_base_and_come_in_where_the_file_says_nothing():
    config = BertConfig()
    assert config == BertConfig.from_dict({})
    assert dataclasses.replace(BertConfig.from_dict(UNCASED), extra={}) == config
    assert BertConfig.from_dict(GOOGLE_2018).layer_norm_eps == 1e-12


@every_kind
def test_every_official_kind_comes_in_and_goes_out(tmp_path, values):
    """Also through a file, and with the keys that minibert has no use for."""
    before = copy.deepcopy(values)
    BertConfig.from_dict({**values, "num_labels": 5})
    config = BertConfig.from_dict(values)
    assert values == before  # the caller's object is not changed
    config.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text().endswith("}\n")
    again = BertConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict() and again.id2label == config.id2label
    for key, value in values.items():
        if key == "id2label":
            assert config.id2label == {int(i): name for i, name in value.items()}
        elif key in BertConfig.names():
            assert getattr(config, key) == value, key
    written = json.loads(json.dumps(config.to_dict()))
    assert {key: written[key] for key in values} == values


NAN, INF = math.nan, math.inf
# Values that would silently make another model, or none at all, and a word of the message.
REFUSED = [
    ("hidden_act", "implemented are: ('gelu', 'relu'", ["swish", "quick_gelu", None, ["gelu"]]),
    ("hidden_act", "'gelu_pytorch_tanh'", ["mish"]),
    ("position_embedding_type", "'sinusoidal'", ["relative_key", "relative_key_query", "rotary"]),
    ("is_decoder", "False only", [True]),
    ("add_cross_attention", "False only", [True]),
    ("tie_word_embeddings", "True only", [False]),
    ("model_type", "'bert' only", ["roberta", None]),
    ("vocab_size", "whole number from 1 to 10,000,000", [0, -1, "30522", 10_000_001]),
    ("num_hidden_layers", "whole number from 1 to 10,000,000", [0, 10**12]),
    ("hidden_size", "whole number", [768.0, True, None]),
    ("hidden_size", "num_attention_heads", [770]),
    ("num_attention_heads", "whole number", [0]),
    ("num_attention_heads", "hidden_size 768", [7]),
    ("intermediate_size", "whole number", [[3072]]),
    ("max_position_embeddings", "whole number", [0]),
    ("type_vocab_size", "whole number", [0]),
    ("hidden_dropout_prob", "probability", [1, -0.1, None, "0.1", True, False]),
    ("attention_probs_dropout_prob", "probability", [1.5, NAN]),
    ("classifier_dropout", "probability", [1.0, "none"]),
    ("layer_norm_eps", "between 0 and 1", [0, -1e-12, NAN, INF, "1e-12", None, True]),
    ("initializer_range", "between 0 and 1", [0.0, INF]),
    ("pad_token_id", "below 30522", [-1, 30522, 0.0, False, "[PAD]"]),
    ("id2label", "0, 1, 2", [{}, {"1": "a", "2": "b"}, {"0": "a", "2": "b"}]),
    ("id2label", "number: name", [{"zero": "a"}, ["a", "b"], None]),
    ("architectures", "a list is needed", [5, "BertModel"]),
    ("sentence_transformers", "an object is needed", ["x", [1]]),
    ("no_answer_threshold", "a number is needed", ["0.5"]),
    ("num_labels", "whole number from 1 to 10,000,000", [0, -2, 10_000_001, 2.5, "3", True, False]),
]


@pytest.mark.parametrize(
    "key, value, word", [(key, value, word) for key, word, values in REFUSED for value in values]
)
def test_refused_by_name(key, value, word):
    with pytest.raises(ValueError) as error:
        BertConfig.from_dict({**UNCASED, key: value})
    message = str(error.value)
    assert key in message and word in message
    assert repr(value) in message or key == "id2label" or "heads" in message


ALLOWED = {
    **{"vocab_size": [10_000_000], "num_hidden_layers": [1], "num_attention_heads": [768]},
    **{"type_vocab_size": [1], "pad_token_id": [None, 30521], "layer_norm_eps": [1e-5]},
    **{"hidden_dropout_prob": [0, 0.0], "classifier_dropout": [None, 0.9]},
    **{"is_decoder": [False], "tie_word_embeddings": [True]},
    "hidden_act": ["relu", "gelu_new", "gelu_pytorch_tanh"],
    "position_embedding_type": ["sinusoidal"],
}


@pytest.mark.parametrize(
    "key, value", [(key, v) for key, values in ALLOWED.items() for v in values]
)
def test_allowed(key, value):
    config = BertConfig.from_dict({**UNCASED, key: value})
    assert {**config.extra, **vars(config)}[key] == value


def names_of(config):
    """Its labels, after checking that all three ways to ask for them agree."""
    written = config.to_dict()
    names = list(config.id2label.values())
    assert "num_labels" not in written and config.num_labels == len(names)
    assert written["id2label"] == {str(i): name for i, name in enumerate(names)}
    assert written["label2id"] == {name: i for i, name in enumerate(names)}
    return names


def test_labels():
    three = ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert names_of(BertConfig.from_dict({"num_labels": 3})) == three
    assert names_of(BertConfig.from_dict({"num_labels": 3, "id2label": None})) == three
    named = BertConfig.from_dict({**CLASSIFIER, "num_labels": 3})
    assert names_of(named) == ["NEGATIVE", "NEUTRAL", "POSITIVE"]
    assert names_of(named.replace(num_labels=3)) == names_of(named)  # as many: they stay
    assert names_of(named.replace(num_labels=2)) == three[:2]
    assert names_of(named.replace(id2label={0: "no", 1: "yes"})) == ["no", "yes"]


def test_a_config_is_frozen_and_a_changed_copy_is_validated():
    config = BertConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.hidden_size = 1
    with pytest.raises(ValueError, match="hidden_act is 'mish'"):
        config.replace(hidden_act="mish")
    changed = config.replace(hidden_dropout_prob=0.2)
    assert (config.hidden_dropout_prob, changed.hidden_dropout_prob) == (0.1, 0.2)


def test_a_sinusoidal_table_is_written_as_the_table_it_is():
    written = BertConfig(position_embedding_type="sinusoidal").to_dict()
    assert written["position_embedding_type"] == "absolute"


@pytest.mark.parametrize(
    "text, words",
    [
        ("[]", ("object", "list")),
        ("{", ("line 1", "not valid JSON")),
        ('{"model_type": "roberta"}', ("model_type", "'roberta'")),
        ('{"layer_norm_eps": NaN}', ("layer_norm_eps", "nan")),
        ('{"hidden_size": 100}', ("hidden_size 100", "12 heads")),
    ],
)
def test_errors_name_the_file(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError) as error:
        BertConfig.from_pretrained(tmp_path)
    for word in (str(tmp_path / "config.json"), *words):
        assert word in str(error.value)


def test_config_imports_no_torch():
    code = "import sys, minibert.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.weights
def test_the_official_file(official):
    values = json.loads((official / "config.json").read_text())
    written = BertConfig.from_pretrained(official).to_dict()
    assert {key: written[key] for key in values} == values


# ------------------------------------------------------------------------------ and in transformers


@pytest.mark.parity
@every_kind
def test_transformers_reads_what_we_write_and_we_read_what_it_writes(values, tmp_path):
    import transformers

    config = BertConfig.from_dict(values)
    config.save_pretrained(tmp_path)
    theirs = transformers.BertConfig.from_pretrained(tmp_path)
    assert theirs.label2id == {name: i for i, name in config.id2label.items()}
    theirs.save_pretrained(tmp_path / "theirs")
    back = BertConfig.from_pretrained(tmp_path / "theirs")
    for name in BertConfig.names() + ["num_labels"]:
        if name != "position_embedding_type":  # theirs knows no other than the learned positions
            assert getattr(theirs, name) == getattr(config, name) == getattr(back, name), name
