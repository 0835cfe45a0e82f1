"""Directories with weights, by us and by other programs, and how they are loaded in the tests."""

import json
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from minibert.model import BertModel
from support.tiny import build, ragged_batch, tiny_config

FILE, INDEX, BIN = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
FILES = ["config.json", "minibert.json", FILE]
# Nothing here is a default, so that a key that is lost shows.
CONFIG = tiny_config(
    **{"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
    **{"max_position_embeddings": 12, "type_vocab_size": 3, "pad_token_id": 5, "num_labels": 3},
    **{"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3, "classifier_dropout": 0.4},
    **{"hidden_act": "relu", "layer_norm_eps": 1e-3},
)


def same_output(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    batch = ragged_batch(CONFIG)
    with torch.no_grad():
        ours, theirs = ([x for x in model(**batch) if x is not None] for model in (a, b))
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def foreign(directory: Path, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    """Write the weights of a directory again, as another program would: without our manifest."""
    path = directory / "model.safetensors"
    (directory / "minibert.json").unlink(missing_ok=True)
    tensors = load_file(path) if tensors is None else tensors
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, {"format": "pt"})
    return directory


def saved(directory: Path, model_class: type = BertModel, **changes: object) -> Path:
    """A directory with a model of a class, written by us."""
    build(model_class, CONFIG.replace(**changes)).save_pretrained(directory)
    return directory


def as_bin(directory: Path, content: object = None, **options: object) -> Path:
    """Put a pytorch_model.bin in the place of the weights, of the same tensors or others."""
    old, path = foreign(directory) / FILE, directory / BIN
    if content is None:
        content = {name: value.clone() for name, value in load_file(old).items()}
    old.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path, **options)
    return path


def quiet_load(model_class: type, directory: Path, **options: object) -> torch.nn.Module:
    """Load, and let no warning pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return model_class.from_pretrained(directory, **options)


def shards(directory: Path, ending: str, count: int = 3) -> dict:
    """Cut the weights of a directory into shards with an index; return the index."""
    tensors = load_file(foreign(directory) / "model.safetensors")
    (directory / "model.safetensors").unlink()
    stem = "model" if ending == "safetensors" else "pytorch_model"
    weight_map = {}
    for number in range(count):
        name = f"{stem}-{number + 1:05}-of-{count:05}.{ending}"
        part = {key: tensors[key].clone() for key in sorted(tensors)[number::count]}
        weight_map.update(dict.fromkeys(part, name))
        if ending == "safetensors":
            save_file(part, directory / name, {"format": "pt"})
        else:
            torch.save(part, directory / name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (directory / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    return index
