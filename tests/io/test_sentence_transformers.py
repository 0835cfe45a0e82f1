"""Directories of sentence-transformers of every kind: the same vectors as there, or refused."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from support.tiny import WORDS, build, tiny_config, words

from minibert import BertModel, BertTokenizer, SentenceEncoder
from minibert.io.checkpoint import write_safetensors

OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
TANH, IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"
GENERAL, TRANSFORMER = "config_sentence_transformers.json", "sentence_bert_config.json"
POOLING, DENSE = "1_Pooling/config.json", "2_Dense/config.json"
PLAIN = ["Transformer", "Pooling"]
UNIT, LABSE = [*PLAIN, "Normalize"], [*PLAIN, "Dense", "Normalize"]
QUERY = {"prompts": {"query": "q r "}}


def pooled_by(*modes, **more):
    return {POOLING: {"pooling_mode": [*modes], **more}}


# Name → modules, changes of the files, options of `encode`.
EQUAL = {
    "all-MiniLM": (UNIT, {}, {}),
    "newest types": ([NEW[name] for name in UNIT], {}, {}),
    "old and long types": ([f"{OLD}{name}" for name in UNIT], {}, {}),
    "bge: cls": (UNIT, pooled_by("cls"), {}),
    "bge with a prompt": (UNIT, {**pooled_by("cls"), GENERAL: QUERY}, {"prompt_name": "query"}),
    "e5: prefixes": (UNIT, {}, {"prompt": "q: "}),
    "e5: a default prompt": (UNIT, {GENERAL: {**QUERY, "default_prompt_name": "query"}}, {}),
    "gte, m3e: mean, not scaled": (PLAIN, {}, {}),
    "msmarco: dot": (PLAIN, {**pooled_by("cls"), GENERAL: {"similarity_fn_name": "dot"}}, {}),
    "multi-qa: short": (UNIT, {TRANSFORMER: {"max_seq_length": 6}}, {}),
    "rubert: no length but the tokenizer's": (UNIT, {TRANSFORMER: {"max_seq_length": None}}, {}),
    "lower-cased": (UNIT, {TRANSFORMER: {"do_lower_case": True}}, {}),
    "LaBSE: Dense, tanh": (LABSE, pooled_by("cls"), {}),
    "acge: Dense, identity": ([*PLAIN, "Dense"], {DENSE: {"activation_function": IDENTITY}}, {}),
    "Dense, the short name": (LABSE, {DENSE: {"activation_function": "torch.nn.Tanh"}}, {}),
    "Dense, ReLU": (LABSE, {DENSE: {"activation_function": TANH.replace("Tanh", "ReLU")}}, {}),
    "Dense, no name": (LABSE, {DENSE: {"activation_function": ...}}, {}),
    "Dense, as a pickle": (LABSE, {"pickle": True}, {}),
    "two Dense": ([*PLAIN, "Dense", "Dense", "Normalize"], {}, {}),
    "joined in the order of the list": (UNIT, pooled_by("mean", "max"), {}),
    "joined, three": (PLAIN, pooled_by("lasttoken", "cls", "mean_sqrt_len_tokens"), {}),
    "one twice": (PLAIN, pooled_by("mean", "mean"), {}),
    "flags have their own order": (
        PLAIN,
        {POOLING: {"pooling_mode": ..., "pooling_mode_mean_tokens": True,
                   "pooling_mode_cls_token": True}},
        {},
    ),
    "jina, nomic: shortened": (UNIT, {GENERAL: {"truncate_dim": 8}}, {}),
    "shortened and scaled": (UNIT, {GENERAL: {"truncate_dim": 8}}, {"normalize_embeddings": True}),
    "shortened here": (PLAIN, {}, {"truncate_dim": 5, "normalize_embeddings": True}),
    "shortened to more than there is": (UNIT, {}, {"truncate_dim": 99}),
    "Dense and shortened": (LABSE, {GENERAL: {"truncate_dim": 3}}, {}),
    **{
        f"instructor: {mode} without the prompt": (
            PLAIN, {**pooled_by(mode, include_prompt=False), GENERAL: QUERY},
            {"prompt_name": "query"},
        )
        for mode in ("mean", "cls", "max", "weightedmean", "lasttoken")
    },
    "instructor: a long prompt": (
        PLAIN, pooled_by("mean", include_prompt=False), {"prompt": "q " * 30}
    ),
    "instructor: no prompt": (PLAIN, pooled_by("mean", include_prompt=False), {}),
    "signs": (UNIT, {}, {"precision": "ubinary"}),
    "signs, signed": (UNIT, {}, {"precision": "binary"}),
    "bytes": (UNIT, {}, {"precision": "int8", "truncate_dim": 8}),
    "bytes, unsigned": (UNIT, {}, {"precision": "uint8"}),
    "tokens": (UNIT, {}, {"output_value": "token_embeddings"}),
}  # fmt: skip
QUICK = ("bge with a prompt", "LaBSE: Dense, tanh", "Dense and shortened", "bytes", "tokens",
         "joined in the order of the list", "instructor: weightedmean without the prompt")
REFUSED = {
    "a class that ends alike": (["Transformer", "pylate.models.Pooling"], {}, "pylate.models.Pool"),
    "LSTM": (["Transformer", "LSTM", "Pooling"], {}, r"'sentence_transformers.models.LSTM'"),
    "in another order": (["Transformer", "Pooling", "Normalize", "Dense"], {}, "in this order"),
    "WordEmbeddings": (["WordEmbeddings", "Pooling"], {}, "WordEmbeddings"),
    "sparse": (UNIT, {GENERAL: {"model_type": "SparseEncoder"}}, "model_type is 'SparseEncoder'"),
    "cross": (["Transformer"], {GENERAL: {"model_type": "CrossEncoder"}}, "CrossEncoder.from_pre"),
    "arguments": (UNIT, {TRANSFORMER: {"config_args": {"num_hidden_layers": 1}}}, "config_args is"),
    "of the tokenizer": (UNIT, {TRANSFORMER: {"tokenizer_args": {"a": 1}}}, "tokenizer_args is"),
    "of its call": (UNIT, {TRANSFORMER: {"processing_kwargs": {"text": 1}}}, "processing_kwargs"),
    "filled masks": (UNIT, {TRANSFORMER: {"transformer_task": "fill-mask"}}, "only 'featu"),
    "ColBERT": (UNIT, {TRANSFORMER: {"query_expansion": {"length": 32}}}, "query_expansion is"),
    "a key of tomorrow": (UNIT, {TRANSFORMER: {"tomorrow": 1}}, "tomorrow is 1, which is not kn"),
    "pooling of tomorrow": (UNIT, {POOLING: {"tomorrow": 1}}, "tomorrow is 1, which is not known"),
    "attention pooling": (UNIT, pooled_by("attention"), r"pooling \['attention'\]"),
    "a residual": (LABSE, {DENSE: {"use_residual": True}}, "use_residual is True; only False"),
    "tokens in": (LABSE, {DENSE: {"module_input_name": "token_embeddings"}}, "module_input_name"),
    "an activation": (LABSE, {DENSE: {"activation_function": "my.Swish"}}, "activation 'my.Sw"),
    "other sizes": (LABSE, {DENSE: {"out_features": 4}}, "but its config says"),
    "scaled tokens": (UNIT, {"2_Normalize/config.json": {"module_input_name": "x"}}, "module_inp"),
    "prompts of no kind": (UNIT, {GENERAL: {"prompts": 33}}, "prompts is 33; an object"),
    "no prompts": (UNIT, {GENERAL: {"prompts": ""}}, "prompts is ''; an object is needed"),
    "a prompt of no kind": (UNIT, {GENERAL: {"default_prompt_name": {"a": 1}}}, "a string is need"),
    "a prompt of no name": (UNIT, {GENERAL: {"default_prompt_name": "x"}}, "no prompt is named 'x"),
    "a similarity": (UNIT, {GENERAL: {"similarity_fn_name": "sine"}}, "similarity 'sine'; implem"),
    "of no kind": (UNIT, {GENERAL: {"similarity_fn_name": {}}}, "fn_name is {}; a string is nee"),
    "a length of no kind": (UNIT, {TRANSFORMER: {"max_seq_length": "16"}}, "a whole number is"),
    "a length": (UNIT, {TRANSFORMER: {"max_seq_length": 2}}, "max_length is 2"),
    "no pooling": (UNIT, pooled_by(), "pooling unsaid"),
    "pooling of no kind": (UNIT, {POOLING: {"pooling_mode": True}}, "a string or a list of s"),
    "in a list": (UNIT, {POOLING: {"pooling_mode": [{}]}}, r"pooling \[{}\]; these are"),
    "a flag": (UNIT, {POOLING: {"pooling_mode": ..., "pooling_mode_cls_token": "x"}},
               "pooling_mode_cls_token is 'x'; true or false is needed"),
    "no width": (UNIT, {GENERAL: {"truncate_dim": 0}}, "truncate_dim is 0; a whole number"),
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder():
    model = build(BertModel, tiny_config(vocab_size=len(WORDS)))
    return SentenceEncoder(model, BertTokenizer(WORDS), max_length=16)


def directory(encoder, home, names, changes):
    """A directory with these modules, and with changes in the keys of its files; ``...``: none."""
    changes = copy.deepcopy(changes)
    encoder.save_pretrained(home)
    (home / "minibert.json").unlink()
    modes = changes.get(POOLING, {}).get("pooling_mode")
    width = 32 * (len(modes) if isinstance(modes, list) else 1)
    modules, random = [], np.random.default_rng(0)
    for i, name in enumerate(names):
        short = name.rpartition(".")[2]
        folder = f"{i}_{short}" if i else ""
        name = name if "." in name else OLD + name
        modules.append({"idx": i, "name": str(i), "path": folder, "type": name})
        if short == "Dense":
            made = {"in_features": width, "out_features": 24, "bias": True}
            made |= {"activation_function": TANH} | changes.pop(f"{folder}/config.json", {})
            changes[f"{folder}/config.json"] = made
            shapes = {"linear.weight": (24, width), "linear.bias": (24,)}
            tensors = {k: torch.tensor(random.normal(size=v)).float() for k, v in shapes.items()}
            (home / folder).mkdir()
            if changes.get("pickle"):
                torch.save(tensors, home / folder / "pytorch_model.bin")
            else:
                write_safetensors(home / folder / "model.safetensors", tensors)
            width = 24
    changes.pop("pickle", None)
    (home / "modules.json").write_text(json.dumps(modules))
    for file, keys in changes.items():
        path = home / file
        values = json.loads(path.read_text()) if path.exists() else {}
        if "pooling_mode" in keys:
            values = {k: v for k, v in values.items() if not k.startswith("pooling_mode")}
        values = {key: value for key, value in (values | keys).items() if value is not ...}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(values))
    return home


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in QUICK)) for kind in EQUAL]
)
def test_the_vectors_of_sentence_transformers(encoder, tmp_path, kind):
    """One by one, so that the batches are the same; and saved by us, they open there again."""
    from sentence_transformers import SentenceTransformer

    names, changes, options = EQUAL[kind]
    home = directory(encoder, tmp_path / "theirs", names, changes)
    eager = {"device": "cpu", "model_kwargs": {"attn_implementation": "eager"}}
    theirs = SentenceTransformer(str(home), **eager)
    ours = SentenceEncoder.from_pretrained(home, engine="textbook")
    ours.save_pretrained(tmp_path / "ours")
    again = SentenceTransformer(str(tmp_path / "ours"), **eager)
    texts = ["A b c", "", "[MASK] É q", *words(5, 4), "a " * 30]
    many = options.get("precision") in ("int8", "uint8")  # its ranges are those of all
    assert ours.dimension == theirs.get_embedding_dimension()
    for some in ([texts] if many else [[text] for text in texts]):
        found = ours.encode(some, **options)
        for other in (theirs, again):
            expected = other.encode(some, **options)
            for a, b in zip(found, expected, strict=True):
                if many:
                    assert np.abs(a.astype(int) - b).max() <= 1  # on the edge of a step
                else:
                    assert np.asarray(a).dtype == np.asarray(b).dtype
                    assert np.allclose(a, b, rtol=0, atol=1e-6), some
    together = [np.asarray(row) for row in ours.encode(texts, **options)]
    alone = [np.asarray(ours.encode([text], **options)[0]) for text in (() if many else texts)]
    for a, b in itertools.zip_longest(together, alone or together):
        assert np.allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(encoder, tmp_path, kind):
    names, changes, message = REFUSED[kind]
    home = directory(encoder, tmp_path, names, changes)
    with pytest.raises(ValueError, match=message) as error:
        SentenceEncoder.from_pretrained(home, engine="textbook")
    assert str(home) in str(error.value)


def test_a_plain_bert_has_no_prompt(encoder, tmp_path):
    """As in sentence-transformers, which reads the other files where there is a modules.json."""
    changes = {GENERAL: {"prompts": {"q": "q "}, "default_prompt_name": "q", "truncate_dim": 3}}
    home = directory(encoder, tmp_path, UNIT, changes)
    (home / "modules.json").unlink()
    with pytest.warns(UserWarning, match="does not say how to pool"):
        plain = SentenceEncoder.from_pretrained(home)
    assert plain.dimension == 32 and plain.default_prompt_name is None and not plain.prompts


def test_keys_that_are_not_known_are_named(encoder, tmp_path):
    home = directory(encoder, tmp_path, UNIT, {GENERAL: {"tomorrow": 1, "requirements": []}})
    with pytest.warns(UserWarning, match=r"\['tomorrow'\] in .* not known and not read"):
        SentenceEncoder.from_pretrained(home)


def test_a_damaged_dense_is_noticed(encoder, tmp_path):
    home = directory(encoder, tmp_path / "a", LABSE, {})
    SentenceEncoder.from_pretrained(home, engine="textbook").save_pretrained(tmp_path / "b")
    path = tmp_path / "b" / "2_Dense" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ValueError, match="2_Dense/model.safetensors has changed since"):
        SentenceEncoder.from_pretrained(tmp_path / "b")
