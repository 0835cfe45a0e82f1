"""The directory format of sentence-transformers, of both generations.

    modules.json                       the modules, in order, and the folder of each
    sentence_bert_config.json          length and lower-casing, beside the files of the transformer
    1_Pooling/config.json              how the vectors of the tokens become one
    config_sentence_transformers.json  prompts and similarity

Source: the files that sentence-transformers writes; Reimers & Gurevych 2019 (Sentence-BERT), §3.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from minibert.io.directory import ModelDirectory
from minibert.io.files import write_json

GENERAL = ("prompts", "default_prompt_name", "similarity_fn_name")
# The arguments of a SentenceEncoder that the format holds.
SETTINGS = ("pooling", "normalize", "max_length", *GENERAL)
# In pooling configs of the older generation: a flag for each mode of ``pooling.POOLING``.
FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def read_settings(directory: ModelDirectory) -> tuple[ModelDirectory, dict]:
    """The folder that holds the BERT and its tokenizer, and the SETTINGS of the encoder.

    With them comes ``lower_case``, which is one of the tokenizer. A plain BERT, without a
    ``modules.json``, says nothing about ``pooling``: it is None then.

    Raises:
        ValueError: a file is damaged, or asks for something that is not implemented.
    """
    modules = read_modules(directory)
    home = directory.folder(modules["Transformer"])
    encoder = home.settings("sentence_bert_config.json")
    general = directory.settings("config_sentence_transformers.json")
    return home, {
        "pooling": read_pooling(directory, modules["Pooling"]) if "Pooling" in modules else None,
        "normalize": "Normalize" in modules,
        "max_length": encoder.get("max_seq_length"),
        "lower_case": bool(encoder.get("do_lower_case")),
        **{name: general.get(name) for name in GENERAL},
        "similarity_fn_name": general.get("similarity_fn_name") or "cosine",
    }


def read_modules(directory: ModelDirectory) -> dict[str, str]:
    """Module → folder, from ``modules.json``; a plain BERT has a Transformer only."""
    if not directory.has("modules.json"):
        return {"Transformer": ""}
    path = directory.path / "modules.json"
    try:
        entries = directory.json("modules.json", list)
        modules = [(entry["type"].rsplit(".", 1)[-1], str(entry["path"])) for entry in entries]
    except (TypeError, KeyError, AttributeError):
        raise ValueError(f"{path}: a list of objects with type and path is needed") from None
    names = [name for name, _ in modules]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(
            f"{path} lists {names}; minibert implements Transformer, Pooling and, optionally, "
            "Normalize, in this order"
        )
    for _, folder in modules:
        if Path(folder).name != folder:
            raise ValueError(f"{path} names {folder!r}, which is not a folder beside it")
    return dict(modules)


def read_pooling(directory: ModelDirectory, folder: str) -> tuple[str, ...]:
    """The pooling modes in the ``config.json`` of a folder, of either generation of the format."""
    name = f"{folder}/config.json"
    path, values = directory.path / name, directory.settings(name)
    modes = values.get("pooling_mode")
    if modes is None:
        modes = [mode for mode, flag in FLAGS.items() if values.get(flag)]
        others = [key for key in values if key.startswith("pooling_mode") and values[key]]
        others = [key for key in others if key not in FLAGS.values()]
    else:
        modes = [modes] if isinstance(modes, str) else modes
        others = [mode for mode in modes if mode not in FLAGS]
    if others or not modes:
        raise ValueError(f"{path}: pooling {others or 'unsaid'}; these are: {list(FLAGS)}")
    if values.get("include_prompt", True) is not True:
        raise ValueError(
            f"{path}: include_prompt false (pooling without the prompt's tokens) is not implemented"
        )
    return tuple(modes)


def write_settings(directory: Path, hidden_size: int, settings: Mapping) -> None:
    """Write the four files, in the older generation, which every version reads."""
    folders = {"Transformer": "", "Pooling": "1_Pooling"}
    if settings["normalize"]:
        folders["Normalize"] = "2_Normalize"
    modules = [
        {"idx": i, "name": str(i), "path": folder, "type": f"sentence_transformers.models.{name}"}
        for i, (name, folder) in enumerate(folders.items())
    ]
    length, modes = settings["max_length"], settings["pooling"]
    pooling = {"word_embedding_dimension": hidden_size, "include_prompt": True}
    if list(modes) == [mode for mode in FLAGS if mode in modes]:
        pooling |= {flag: mode in modes for mode, flag in FLAGS.items()}
    else:  # flags have an order of their own; a version too old for the list refuses it
        pooling["pooling_mode"] = list(modes)
    general = {name: settings[name] for name in GENERAL} | {"model_type": "SentenceTransformer"}
    for name, content in (
        ("modules.json", modules),
        ("sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False}),
        ("1_Pooling/config.json", pooling),
        ("config_sentence_transformers.json", general),
    ):
        write_json(directory / name, content)
