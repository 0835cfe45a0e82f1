"""``BertConfig``: every official config.json comes in and goes out unchanged, or is refused."""

import dataclasses
import json
import math

import pytest
from support.tiny import tiny_config

from minibert.config import BertConfig

# config.json files as they lie on the hub: the keys and values of each kind.
BERT_BASE_UNCASED = {
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
BERT_BASE_CHINESE = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "directionality": "bidi",
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
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
    "type_vocab_size": 2,
    "vocab_size": 21128,
}
GOOGLE_2018 = {  # bert_config.json of the first release: no model_type, no eps
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "max_position_embeddings": 512,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}
MINILM = {
    "_name_or_path": "nreimers/MiniLM-L6-H384-uncased",
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 384,
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.8.2",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}
CLASSIFIER = {
    **BERT_BASE_UNCASED,
    "architectures": ["BertForSequenceClassification"],
    "classifier_dropout": None,
    "id2label": {"0": "NEGATIVE", "1": "NEUTRAL", "2": "POSITIVE"},
    "label2id": {"NEGATIVE": 0, "NEUTRAL": 1, "POSITIVE": 2},
    "problem_type": "single_label_classification",
}
CROSS_ENCODER = {
    **MINILM,
    "architectures": ["BertForSequenceClassification"],
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
    "eos_token_id": None,
    "is_decoder": False,
    "tie_word_embeddings": True,
    "transformers_version": "5.23.0",
}
OFFICIAL = {
    "bert-base-uncased": BERT_BASE_UNCASED,
    "bert-base-chinese": BERT_BASE_CHINESE,
    "google 2018": GOOGLE_2018,
    "MiniLM": MINILM,
    "classifier": CLASSIFIER,
    "cross-encoder": CROSS_ENCODER,
    "transformers 5": TRANSFORMERS_5,
}


def test_defaults_are_bert_base():
    config = BertConfig()
    assert config.num_hidden_layers == config.num_attention_heads == 12
    assert config.hidden_size == 768
    assert config.intermediate_size == 4 * config.hidden_size
    assert config == BertConfig.from_dict({})
    official = BertConfig.from_dict(BERT_BASE_UNCASED)
    assert dataclasses.replace(official, extra={}) == config


@pytest.mark.parametrize("values", OFFICIAL.values(), ids=OFFICIAL.keys())
def test_every_official_kind_comes_in_and_goes_out(values):
    config = BertConfig.from_dict(values)
    for key, value in values.items():
        if key == "id2label":
            assert config.id2label == {int(i): name for i, name in value.items()}
        elif key in BertConfig.names():
            assert getattr(config, key) == value, key
    written = json.loads(json.dumps(config.to_dict()))
    assert {key: written[key] for key in values} == values
    assert BertConfig.from_dict(written).to_dict() == config.to_dict()


def test_what_is_not_in_the_file_is_the_default():
    config = BertConfig.from_dict(GOOGLE_2018)
    assert config.layer_norm_eps == 1e-12
    assert config.pad_token_id == 0
    assert config.num_labels == 2


def test_unknown_keys_are_kept_and_written_back():
    config = BertConfig.from_dict(BERT_BASE_CHINESE)
    assert config.extra["directionality"] == "bidi"
    assert config.extra["pooler_fc_size"] == 768
    changed = config.replace(hidden_dropout_prob=0.2)
    assert changed.to_dict()["pooler_type"] == "first_token_transform"
    assert changed.hidden_dropout_prob == 0.2
    assert config.hidden_dropout_prob == 0.1


def test_the_callers_object_is_not_changed():
    values = json.loads(json.dumps(CLASSIFIER))
    BertConfig.from_dict({**values, "num_labels": 5})
    BertConfig.from_dict(values)
    assert values == CLASSIFIER


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BertConfig().hidden_size = 1


# Each value that would silently make another model, or none at all, and a word of the message.
REFUSED = [
    ("hidden_act", "swish", "'gelu_pytorch_tanh'"),
    ("hidden_act", "quick_gelu", "not implemented"),
    ("hidden_act", None, "not implemented"),
    ("hidden_act", ["gelu"], "not implemented"),
    ("position_embedding_type", "relative_key", "'sinusoidal'"),
    ("position_embedding_type", "relative_key_query", "'absolute'"),
    ("position_embedding_type", "rotary", "not implemented"),
    ("is_decoder", True, "False only"),
    ("add_cross_attention", True, "False only"),
    ("tie_word_embeddings", False, "True only"),
    ("model_type", "roberta", "'bert' only"),
    ("model_type", None, "'bert' only"),
    ("vocab_size", 0, "whole number"),
    ("vocab_size", -1, "whole number"),
    ("vocab_size", "30522", "whole number"),
    ("vocab_size", 10_000_001, "10,000,000"),
    ("num_hidden_layers", 10**12, "10,000,000"),
    ("hidden_size", 768.0, "whole number"),
    ("hidden_size", 770, "num_attention_heads"),
    ("hidden_size", True, "whole number"),
    ("hidden_size", None, "whole number"),
    ("num_hidden_layers", 0, "whole number"),
    ("num_attention_heads", 0, "whole number"),
    ("num_attention_heads", 7, "hidden_size 768"),
    ("intermediate_size", [3072], "whole number"),
    ("max_position_embeddings", 0, "whole number"),
    ("type_vocab_size", 0, "whole number"),
    ("hidden_dropout_prob", 1, "probability"),
    ("hidden_dropout_prob", -0.1, "probability"),
    ("hidden_dropout_prob", None, "probability"),
    ("hidden_dropout_prob", "0.1", "probability"),
    ("hidden_dropout_prob", True, "probability"),
    ("hidden_dropout_prob", False, "probability"),
    ("attention_probs_dropout_prob", 1.5, "probability"),
    ("attention_probs_dropout_prob", math.nan, "probability"),
    ("classifier_dropout", 1.0, "probability"),
    ("classifier_dropout", "none", "probability"),
    ("layer_norm_eps", 0, "between 0 and 1"),
    ("layer_norm_eps", -1e-12, "between 0 and 1"),
    ("layer_norm_eps", math.nan, "between 0 and 1"),
    ("layer_norm_eps", math.inf, "between 0 and 1"),
    ("layer_norm_eps", "1e-12", "between 0 and 1"),
    ("layer_norm_eps", None, "between 0 and 1"),
    ("layer_norm_eps", True, "between 0 and 1"),
    ("initializer_range", 0.0, "between 0 and 1"),
    ("initializer_range", math.inf, "between 0 and 1"),
    ("pad_token_id", -1, "below 30522"),
    ("pad_token_id", 30522, "below 30522"),
    ("pad_token_id", 0.0, "below 30522"),
    ("pad_token_id", False, "below 30522"),
    ("pad_token_id", "[PAD]", "below 30522"),
    ("id2label", {}, "0, 1, 2"),
    ("id2label", {"1": "a", "2": "b"}, "0, 1, 2"),
    ("id2label", {"0": "a", "2": "b"}, "0, 1, 2"),
    ("id2label", {"zero": "a"}, "number: name"),
    ("id2label", ["a", "b"], "number: name"),
    ("id2label", None, "number: name"),
    ("num_labels", 0, "whole number"),
    ("num_labels", -2, "whole number"),
    ("num_labels", 10_000_001, "10,000,000"),
    ("num_labels", 2.5, "whole number"),
    ("num_labels", "3", "whole number"),
    ("num_labels", True, "whole number"),
    ("num_labels", False, "whole number"),
]


@pytest.mark.parametrize("key, value, word", REFUSED)
def test_refused_by_name(key, value, word):
    with pytest.raises(ValueError) as error:
        BertConfig.from_dict({**BERT_BASE_UNCASED, key: value})
    message = str(error.value)
    assert key in message
    assert word in message
    assert repr(value) in message or key == "id2label" or "heads" in message


@pytest.mark.parametrize(
    "key, value",
    [
        ("vocab_size", 10_000_000),
        ("hidden_dropout_prob", 0),
        ("hidden_dropout_prob", 0.0),
        ("classifier_dropout", None),
        ("classifier_dropout", 0.9),
        ("layer_norm_eps", 1e-5),
        ("pad_token_id", None),
        ("pad_token_id", 30521),
        ("type_vocab_size", 1),
        ("num_hidden_layers", 1),
        ("num_attention_heads", 768),
        ("hidden_act", "relu"),
        ("hidden_act", "gelu_new"),
        ("hidden_act", "gelu_pytorch_tanh"),
        ("position_embedding_type", "sinusoidal"),
        ("is_decoder", False),
        ("tie_word_embeddings", True),
    ],
)
def test_allowed(key, value):
    config = BertConfig.from_dict({**BERT_BASE_UNCASED, key: value})
    assert {**config.extra, **vars(config)}[key] == value


def test_num_labels_makes_names_and_is_never_written():
    config = BertConfig.from_dict({"num_labels": 3})
    assert config.num_labels == 3
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    written = config.to_dict()
    assert "num_labels" not in written
    assert written["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    assert written["label2id"] == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def test_num_labels_beside_an_empty_id2label():
    assert BertConfig.from_dict({"num_labels": 3, "id2label": None}).num_labels == 3


def test_the_model_type_is_always_written():
    assert BertConfig().to_dict()["model_type"] == "bert"


def test_num_labels_equal_to_the_names_keeps_the_names():
    config = BertConfig.from_dict({**CLASSIFIER, "num_labels": 3})
    assert config.id2label == {0: "NEGATIVE", 1: "NEUTRAL", 2: "POSITIVE"}
    assert BertConfig.from_dict(CLASSIFIER).replace(num_labels=3).id2label == config.id2label


def test_another_num_labels_replaces_the_names():
    config = BertConfig.from_dict(CLASSIFIER).replace(num_labels=2)
    written = config.to_dict()
    assert written["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
    assert written["label2id"] == {"LABEL_0": 0, "LABEL_1": 1}


def test_new_names_replace_label2id_too():
    written = BertConfig.from_dict(CLASSIFIER).replace(id2label={0: "no", 1: "yes"}).to_dict()
    assert written["label2id"] == {"no": 0, "yes": 1}


def test_replace_is_validated():
    with pytest.raises(ValueError, match="hidden_act 'mish'"):
        BertConfig().replace(hidden_act="mish")


def test_a_sinusoidal_table_is_written_as_the_table_it_is():
    written = tiny_config(position_embedding_type="sinusoidal").to_dict()
    assert written["position_embedding_type"] == "absolute"


def test_save_and_read(tmp_path):
    config = BertConfig.from_dict(CLASSIFIER)
    config.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text().endswith("}\n")
    again = BertConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.id2label == config.id2label


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


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        BertConfig.from_pretrained(tmp_path)


def test_config_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, minibert.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.weights
def test_the_official_file(official):
    config = BertConfig.from_pretrained(official)
    values = json.loads((official / "config.json").read_text())
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (6, 384, 30522)
    written = config.to_dict()
    assert {key: written[key] for key in values} == values


# ------------------------------------------------------------------------------ and in transformers


@pytest.mark.parity
@pytest.mark.parametrize("values", OFFICIAL.values(), ids=OFFICIAL.keys())
def test_transformers_reads_what_we_write(values, tmp_path):
    import transformers

    config = BertConfig.from_dict(values)
    config.save_pretrained(tmp_path)
    theirs = transformers.BertConfig.from_pretrained(tmp_path)
    for name in BertConfig.names():
        if name != "position_embedding_type":  # theirs knows no other than the learned positions
            assert getattr(theirs, name) == getattr(config, name), name
    assert theirs.num_labels == config.num_labels
    assert theirs.label2id == {name: i for i, name in config.id2label.items()}


@pytest.mark.parity
@pytest.mark.parametrize("values", OFFICIAL.values(), ids=OFFICIAL.keys())
def test_we_read_what_transformers_writes(values, tmp_path):
    import transformers

    theirs = transformers.BertConfig(**{k: v for k, v in values.items() if k != "model_type"})
    theirs.save_pretrained(tmp_path)
    config = BertConfig.from_pretrained(tmp_path)
    for name in BertConfig.names():
        if name != "position_embedding_type":
            assert getattr(config, name) == getattr(theirs, name), name
    assert config.num_labels == theirs.num_labels
