"""The directory format of sentence-transformers, of both generations.

    modules.json                       the modules, in order, and the folder of each
    sentence_bert_config.json          length and lower-casing, beside the files of the transformer
    1_Pooling/config.json              how the vectors of the tokens become one
    2_Dense/                           a linear layer behind it: sizes, activation, weights
    config_sentence_transformers.json  prompts, similarity, how many numbers of a vector are used

Every key of these files is read, or listed below as one without influence, or refused by name: a
key that is not looked at could stand for other numbers.

Source: the files that sentence-transformers writes; Reimers & Gurevych 2019 (Sentence-BERT), §3.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from minibert.io import checkpoint
from minibert.io.directory import ModelDirectory
from minibert.io.files import write_json

GENERAL = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
# The arguments of a SentenceEncoder that the format holds.
SETTINGS = ("pooling", "include_prompt", "normalize", "max_length", *GENERAL)
# In pooling configs of the older generation: a flag for each mode of ``pooling.POOLING``.
FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
MODULE = re.compile(  # where a class has stood; a class of that name elsewhere is another one
    r"sentence_transformers\.(?:models|base\.modules|sentence_transformer\.modules)(?:\.\w+)?"
    r"\.(Transformer|Pooling|Dense|Normalize)"
)

ANY = object()  # without influence on the numbers
KINDS = {bool: "true or false", int: "a whole number", str: "a string", list: "a list of strings",
         dict: "an object"}  # fmt: skip
# The keys of each file, and what each may be: of these types, or one value.
GENERAL_KEYS = {
    **{"prompts": dict, "default_prompt_name": str, "similarity_fn_name": str, "truncate_dim": int},
    **{"model_type": ANY, "__version__": ANY, "requirements": ANY},
}
NO_ARGUMENTS = dict.fromkeys(
    ("model_args", "config_args", "tokenizer_args",
     "model_kwargs", "config_kwargs", "processor_kwargs", "processing_kwargs"), {},
)  # fmt: skip
TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
LOGITS = {"text": {"method": "forward", "method_output_name": "logits"}}
TRANSFORMER = {  # of sentence_bert_config.json
    **{"max_seq_length": int, "do_lower_case": bool, "unpad_inputs": ANY},
    **{"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"},
    **{"modality_config": TEXT, "tokenizer_name_or_path": None, **NO_ARGUMENTS},
    **{"query_length": None, "document_length": None, "query_expansion": None},
}
CROSS_ENCODER = {
    **TRANSFORMER,
    **{"transformer_task": "sequence-classification", "module_output_name": "scores"},
    "modality_config": LOGITS,
}
POOLING = {
    **{"word_embedding_dimension": ANY, "embedding_dimension": ANY, "include_prompt": bool},
    **{"pooling_mode": (str, list), **dict.fromkeys(FLAGS.values(), bool)},
}
SENTENCE = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
DENSE = {
    **{"in_features": int, "out_features": int, "bias": bool, "activation_function": str},
    **{**SENTENCE, "use_residual": False},
}
TANH = "torch.nn.modules.activation.Tanh"  # where a Dense does not name its activation


def read_settings(directory: ModelDirectory) -> tuple[ModelDirectory, dict]:
    """The folder that holds the BERT and its tokenizer, and the SETTINGS of the encoder.

    With them come ``lower_case``, which is one of the tokenizer, and ``dense``, of `read_dense`. A
    plain BERT, without a ``modules.json``, says nothing about ``pooling``: it is None then.

    Raises:
        ValueError: a file is damaged, or asks for something that is not implemented.
    """
    name = "config_sentence_transformers.json"
    general = directory.settings(name)
    unread = [key for key in general if key not in GENERAL_KEYS]
    if unread:  # sentence-transformers ignores them; a later version may not
        warnings.warn(f"{directory}: {unread} in {name} are not known and not read", stacklevel=3)
    check(directory.path / name, {k: general[k] for k in general if k not in unread}, GENERAL_KEYS)
    kind = general.get("model_type", "SentenceTransformer")
    if kind == "CrossEncoder":
        raise ValueError(
            f"{directory} is a cross-encoder, which reads two texts together and gives no vector "
            "of one; CrossEncoder.from_pretrained opens it"
        )
    if kind != "SentenceTransformer":
        raise ValueError(f"{directory}: model_type is {kind!r}, which minibert does not implement")
    if not directory.has("modules.json"):
        general = {}  # sentence-transformers does not read it for a plain BERT
    modules = read_modules(directory)
    home = directory.folder(modules[0][1])
    encoder = read_object(home, "sentence_bert_config.json", TRANSFORMER)
    pooling, include_prompt = None, True
    if len(modules) > 1:
        pooling, include_prompt = read_pooling(directory, modules[1][1])
    for name, folder in modules:
        if name == "Normalize":
            read_object(directory, f"{folder}/config.json", SENTENCE)
    prompts = general.get("prompts") or {}
    if not all(isinstance(text, str | None) for text in prompts.values()):
        raise ValueError(f"{directory}: prompts is {prompts!r}; an object of name: text is needed")
    return home, {
        "pooling": pooling,
        "include_prompt": include_prompt,
        "dense": [read_dense(directory, folder) for name, folder in modules if name == "Dense"],
        "normalize": modules[-1][0] == "Normalize",
        "max_length": encoder.get("max_seq_length"),
        "lower_case": bool(encoder.get("do_lower_case")),
        **{name: general.get(name) for name in GENERAL},
        "prompts": {name: text or "" for name, text in prompts.items()},
        "similarity_fn_name": general.get("similarity_fn_name") or "cosine",
    }


def read_cross_encoder(directory: ModelDirectory) -> tuple[ModelDirectory, dict]:
    """The folder of a cross-encoder's files, its length, lower-casing and activation.

    A directory of transformers, without a ``modules.json``, says nothing about them.

    Raises:
        ValueError: a file is damaged, or it is something else than a cross-encoder.
    """
    general = directory.settings("config_sentence_transformers.json")
    kind, home = general.get("model_type"), directory
    if directory.has("modules.json"):
        modules = read_types(directory)
        if kind != "CrossEncoder" or [name for name, _ in modules] != ["Transformer"]:
            raise ValueError(
                f"{directory} is a {kind or 'SentenceTransformer'} of {[n for n, _ in modules]}; a "
                "CrossEncoder of one Transformer is implemented. SentenceEncoder.from_pretrained "
                "opens what gives vectors"
            )
        home = directory.folder(modules[0][1])
    if general.get("prompts") or general.get("keep_in_fp32_modules"):
        raise ValueError(f"{directory}: prompts of a cross-encoder are not implemented")
    settings = read_object(home, "sentence_bert_config.json", CROSS_ENCODER)
    return home, {
        "max_length": settings.get("max_seq_length"),
        "lower_case": bool(settings.get("do_lower_case")),
        "activation": general.get("activation_fn"),
    }


def read_object(directory: ModelDirectory, name: str, keys: Mapping) -> dict:
    """The object in a settings file, whose keys must be among ``keys``, with the values there.

    Raises:
        ValueError: it has another key, or asks for another value; null is as good as no value.
    """
    values = directory.settings(name)
    check(directory.path / name, values, keys)
    return values


def check(path: Path, values: Mapping, keys: Mapping) -> None:
    """Refuse a key that is not among ``keys``, and a value that is not as they say."""
    for key, value in values.items():
        only = keys.get(key)
        types = only if isinstance(only, tuple) else (only,)
        if value is None or only is ANY or type(value) in types or value == only:
            continue
        known = ", which is not known"
        if key in keys:
            kinds = " or ".join(KINDS[kind] for kind in types if isinstance(kind, type))
            known = f"; {kinds} is needed" if kinds else f"; only {only!r} is implemented"
        raise ValueError(f"{path}: {key} is {value!r}{known}")


def read_modules(directory: ModelDirectory) -> list[tuple[str, str]]:
    """Modules and folders, in order, from ``modules.json``; a plain BERT has a Transformer only."""
    if not directory.has("modules.json"):
        return [("Transformer", "")]
    modules = read_types(directory)
    names = [name for name, _ in modules]
    if not re.fullmatch("Transformer Pooling( Dense)*( Normalize)?", " ".join(names)):
        raise ValueError(
            f"{directory.path / 'modules.json'} lists {names}; minibert implements Transformer and "
            "Pooling, then any number of Dense and, optionally, Normalize, in this order, as "
            "sentence-transformers has them"
        )
    return modules


def read_types(directory: ModelDirectory) -> list[tuple[str, str]]:
    """What ``modules.json`` lists: class, by its short name if we know it, and folder."""
    path = directory.path / "modules.json"
    try:
        entries = directory.json("modules.json", list)
        modules = [(str(entry["type"]), str(entry["path"])) for entry in entries]
    except (TypeError, KeyError, AttributeError):
        raise ValueError(f"{path}: a list of objects with type and path is needed") from None
    modules = [(found[1] if (found := MODULE.fullmatch(t)) else t, folder) for t, folder in modules]
    for _, folder in modules:
        if Path(folder).name != folder:
            raise ValueError(f"{path} names {folder!r}, which is not a folder beside it")
    return modules


def read_pooling(directory: ModelDirectory, folder: str) -> tuple[tuple[str, ...], bool]:
    """The pooling modes in the ``config.json`` of a folder, and whether a prompt is pooled too.

    Several are joined in the order of the list, flags in that of `FLAGS`.
    """
    values = read_object(directory, f"{folder}/config.json", POOLING)
    modes = values.get("pooling_mode")
    if modes is None:
        modes = [mode for mode, flag in FLAGS.items() if values.get(flag)]
    modes = [modes] if isinstance(modes, str) else modes
    others = [mode for mode in modes if mode not in [*FLAGS]]
    if others or not modes:
        raise ValueError(
            f"{directory.path / folder}: pooling {others or 'unsaid'}; these are: {list(FLAGS)}"
        )
    return tuple(modes), bool(values.get("include_prompt", True))


def read_dense(directory: ModelDirectory, folder: str) -> tuple[Tensor, Tensor | None, str]:
    """Weight, bias and the name of the activation of a Dense module.

    Raises:
        ValueError: a file is damaged, or settings and weights do not fit each other.
    """
    values = read_object(directory, f"{folder}/config.json", DENSE)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if directory.has(f"{folder}/{name}"):
            directory.file(f"{folder}/{name}")  # is it the one that was saved?
    tensors = checkpoint.read(directory.folder(folder))
    wanted = {"linear.weight": [values.get("out_features"), values.get("in_features")]}
    if values.get("bias", True):
        wanted["linear.bias"] = [values.get("out_features")]
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if found != wanted:
        raise ValueError(f"{directory.path / folder} has {found}, but its config says {wanted}")
    activation = str(values.get("activation_function", TANH))
    return tensors["linear.weight"], tensors.get("linear.bias"), activation


def write_settings(
    directory: Path, hidden_size: int, settings: Mapping, dense: Sequence[tuple] = ()
) -> None:
    """Write the files, in the older generation, which every version reads.

    ``dense``: as `read_dense` returns it.
    """
    names = ["Transformer", "Pooling", *["Dense"] * len(dense)]
    names += ["Normalize"] if settings["normalize"] else []
    folders = [f"{i}_{name}" if i else "" for i, name in enumerate(names)]
    modules = [
        {"idx": i, "name": str(i), "path": folder, "type": f"sentence_transformers.models.{name}"}
        for i, (name, folder) in enumerate(zip(names, folders, strict=True))
    ]
    modes = settings["pooling"]
    pooling = {
        "word_embedding_dimension": hidden_size, "include_prompt": settings["include_prompt"]
    }  # fmt: skip
    if list(modes) == [mode for mode in FLAGS if mode in modes]:
        pooling |= {flag: mode in modes for mode, flag in FLAGS.items()}
    else:  # flags have an order of their own; a version too old for the list refuses it
        pooling["pooling_mode"] = list(modes)
    general = {name: settings[name] for name in GENERAL} | {"model_type": "SentenceTransformer"}
    transformer = {"max_seq_length": settings["max_length"], "do_lower_case": False}
    write_json(directory / "modules.json", modules)
    write_json(directory / "sentence_bert_config.json", transformer)
    write_json(directory / "1_Pooling/config.json", pooling)
    write_json(directory / "config_sentence_transformers.json", general)
    for folder, (weight, bias, activation) in zip(folders[2:], dense, strict=False):
        tensors = {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias})
        tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        sizes = {"in_features": weight.shape[1], "out_features": weight.shape[0]}
        sizes |= {"bias": bias is not None, "activation_function": activation}
        write_json(directory / folder / "config.json", sizes)
        checkpoint.write_safetensors(
            directory / folder / "model.safetensors", tensors, {"format": "pt"}
        )
