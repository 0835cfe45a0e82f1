"""Official checkpoint files ↔ our tensors: the name table, strict reading, atomic writing.

Strict means: every tensor in a file is loaded, dropped by a rule that has a name, or an error; and
every tensor of the model is loaded, new by a rule that has a name, or an error. This file knows
names and shapes; it knows no model class.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minibert.files import read_json

# Ours | official. Each row is a module, with a .weight and a .bias; {} is the number of the layer.
ENCODER_NAMES = (
    ("embeddings.word", "embeddings.word_embeddings"),
    ("embeddings.position", "embeddings.position_embeddings"),
    ("embeddings.segment", "embeddings.token_type_embeddings"),
    ("embeddings.norm", "embeddings.LayerNorm"),
    ("layers.{}.attention.query", "encoder.layer.{}.attention.self.query"),
    ("layers.{}.attention.key", "encoder.layer.{}.attention.self.key"),
    ("layers.{}.attention.value", "encoder.layer.{}.attention.self.value"),
    ("layers.{}.attention.output", "encoder.layer.{}.attention.output.dense"),
    ("layers.{}.attention_norm", "encoder.layer.{}.attention.output.LayerNorm"),
    ("layers.{}.feed_forward.expand", "encoder.layer.{}.intermediate.dense"),
    ("layers.{}.feed_forward.contract", "encoder.layer.{}.output.dense"),
    ("layers.{}.feed_forward_norm", "encoder.layer.{}.output.LayerNorm"),
    ("pooler.dense", "pooler.dense"),
)

# Parts that a file may lack as a whole, or have in vain: official prefix -> what it is.
HEADS = {
    "pooler.": "the pooler",
    "cls.predictions.": "the masked-LM head",
    "cls.seq_relationship.": "the next-sentence head",
    "classifier.": "the classifier",
    "qa_outputs.": "the question-answering head",
}
# A copy that some files carry of a tensor that exists once in the model: copy -> original.
TIED = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor: of the file, and of the model.

    ``loaded``: official name → ours. ``dropped``: name in the file → the rule.
    ``new``: our name → the rule. ``dtypes``: the dtypes in the file.
    """

    directory: str
    loaded: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for each kind of tensor."""
        lines = [f"{len(self.loaded)} tensors loaded from {self.directory}"]
        lines += [f"dropped {name}: {rule}" for name, rule in self.dropped.items()]
        lines += [f"new {name}: {rule}" for name, rule in self.new.items()]
        return "\n".join(lines)


def official_name(ours: str, names: Iterable[tuple[str, str]] = ENCODER_NAMES) -> str:
    """The official name of one of our tensors, by the table (without the prefix ``bert.``).

    >>> official_name("layers.3.attention.query.bias")
    'encoder.layer.3.attention.self.query.bias'

    Raises:
        KeyError: no row of the table has this tensor.
    """
    module, _, parameter = ours.removeprefix("bert.").rpartition(".")
    number = re.search(r"(?<=^layers\.)\d+", module)
    row = re.sub(r"(?<=^layers\.)\d+", "{}", module)
    return f"{dict(names)[row].format(number and number[0])}.{parameter}"


def canonical_name(stored: str) -> str:
    """The official name behind a name in a file: no ``bert.``, no ``gamma`` and ``beta``.

    Old files, turned from TensorFlow, call the weight of a LayerNorm gamma and its bias beta.
    """
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", stored.removeprefix("bert."))
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


# --------------------------------------------------------------------------------------- reading


def read(directory: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a directory under the names they are stored by, and the file's metadata.

    Looks for ``model.safetensors``, its sharded form, then ``pytorch_model.bin`` (read without
    running any code in it: ``weights_only=True``). Safetensors are memory-mapped, so a tensor costs
    no memory until it is used.

    Raises:
        FileNotFoundError: no weights there, or a shard is missing.
        ValueError: a file is damaged.
    """
    directory = Path(directory)
    if (directory / "model.safetensors").exists():
        return read_safetensors(directory / "model.safetensors")
    if (directory / "model.safetensors.index.json").exists():
        return read_shards(directory, "model.safetensors.index.json", read_safetensors)
    if (directory / "pytorch_model.bin").exists():
        return read_pickle(directory / "pytorch_model.bin")
    if (directory / "pytorch_model.bin.index.json").exists():
        return read_shards(directory, "pytorch_model.bin.index.json", read_pickle)
    there = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else "nothing"
    raise FileNotFoundError(
        f"{directory} has no weights: model.safetensors, model.safetensors.index.json or "
        f"pytorch_model.bin is needed; there is {there}"
    )


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Memory-map one safetensors file; check the digest that `save` has put into it."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except (SafetensorError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{path} is damaged or incomplete ({error}); get the file again"
        ) from None
    digest = metadata.get("minibert.sha256")  # other libraries' files have none
    if digest is not None and digest != content_digest(tensors):
        raise ValueError(
            f"{path} is damaged: its content is not what was saved (sha256 {digest[:12]}… "
            "was expected); get the file again"
        )
    return tensors, metadata


def read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read one ``.bin`` file: tensors only, no code."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler has no error class of its own
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as a file of tensors ({reason})") from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ValueError(f"{path} holds something else than names and tensors")
    return dict(tensors), {}


def read_shards(directory: Path, index: str, read_file) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the files that an index names, and hold the index to what they contain."""
    weight_map = read_json(directory / index)
    weight_map = weight_map.get("weight_map") if isinstance(weight_map, dict) else None
    if not isinstance(weight_map, dict):
        raise ValueError(f"{directory / index} has no object 'weight_map'")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard:
            raise ValueError(f"{directory / index} names {shard!r}, which is not a file beside it")
        if not (directory / shard).exists():
            raise FileNotFoundError(f"{directory / shard}, named in {index}, is missing")
        part, _ = read_file(directory / shard)
        if set(part) != {name for name, file in weight_map.items() if file == shard}:
            raise ValueError(f"{directory / shard} has other tensors than {index} says")
        tensors.update(part)
    return tensors, {}


def match(
    directory: str | os.PathLike,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    names: Iterable[tuple[str, str]],
    *,
    replace: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[dict[str, Tensor], LoadReport]:
    """Give every tensor of a model its tensor of the file, and account for all of both.

    Args:
        directory: where the tensors come from, for messages.
        tensors: stored name → tensor, from `read`.
        wanted: our name → a tensor of the right shape (on the meta device is enough).
        names: the table for this model.
        replace: official prefix of a head that is made new where its shapes do not fit.
        dtype: what floating point tensors are turned into.

    Raises:
        ValueError: tensors are missing, unexpected, stored twice, of the wrong shape or kind, or a
            tied copy differs from its original. All such findings are listed, not just the first.
    """
    names = tuple(names)
    stored: dict[str, str] = {}  # canonical name → name in the file
    errors: list[str] = []
    for name in tensors:
        other = stored.setdefault(canonical_name(name), name)
        if other != name:
            errors.append(f"{name} and {other} are the same tensor, stored twice")

    official = {ours: official_name(ours, names) for ours in wanted}
    loaded, new, state = {}, {}, {}
    for ours, name in official.items():
        shape = tuple(wanted[ours].shape)
        if name not in stored:
            head = head_of(name)
            if head and not any(canonical.startswith(head) for canonical in stored):
                new[ours] = f"{HEADS[head]} is not in the file"
            else:
                errors.append(f"{name} {shape} is missing")
            continue
        tensor = tensors[stored[name]]
        if tuple(tensor.shape) != shape:
            if replace and name.startswith(replace):
                new[ours] = f"{tuple(tensor.shape)} in the file, {shape} asked for"
            else:
                errors.append(f"{stored[name]} is {tuple(tensor.shape)}, the config needs {shape}")
        elif not tensor.is_floating_point():
            errors.append(f"{stored[name]} is {tensor.dtype}, floating point numbers are needed")
        else:
            loaded[name] = ours
            state[ours] = tensor.to(dtype)

    dropped = {}
    for name, file_name in stored.items():
        if name in loaded or name in official.values():
            continue
        original = TIED.get(name)
        if name == "embeddings.position_ids":
            dropped[file_name] = "the numbers 0, 1, 2, ...; they are computed"
        elif original in loaded and "cls.predictions.bias" in loaded:
            dropped[file_name] = f"tied: the same numbers as {original}"
            if not torch.equal(tensors[file_name], tensors[stored[original]]):
                errors.append(f"{file_name} differs from {original}: untied is not implemented")
        elif head_of(name):
            dropped[file_name] = f"{HEADS[head_of(name)]} of another class"
        else:
            errors.append(f"{file_name} {tuple(tensors[file_name].shape)} is not expected")
    if errors:
        more = f"\n  ... and {len(errors) - 12} more" if len(errors) > 12 else ""
        raise ValueError(
            f"the weights in {directory} do not fit the model of its config.json:\n  "
            + "\n  ".join(errors[:12]) + more
        )
    dtypes = tuple(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}))
    return state, LoadReport(str(directory), loaded, dropped, new, dtypes)


def head_of(name: str) -> str | None:
    """The prefix in HEADS that an official name starts with."""
    return next((prefix for prefix in HEADS if name.startswith(prefix)), None)


# --------------------------------------------------------------------------------------- writing


def save(
    directory: str | os.PathLike,
    state: Mapping[str, Tensor],
    names: Iterable[tuple[str, str]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write ``model.safetensors`` into a directory, under the official names.

    The file carries a digest of its content, so that a damaged copy is noticed when it is read.
    The caller gives a staging directory (``files.atomic_directory``).

    Raises:
        OSError: it cannot be written (a full disk).
    """
    prefix = "bert." if any(name.startswith("bert.") for name in state) else ""
    tensors = {}
    for ours, tensor in state.items():
        name = official_name(ours, names)
        tensors[name if head_of(name) not in (None, "pooler.") else prefix + name] = (
            tensor.detach().cpu().contiguous()
        )
    metadata = {"format": "pt", **(metadata or {}), "minibert.sha256": content_digest(tensors)}
    try:
        save_file(tensors, os.path.join(directory, "model.safetensors"), metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"cannot write {directory}/model.safetensors: {error}") from None


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the names, dtypes, shapes and bytes of all tensors, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
