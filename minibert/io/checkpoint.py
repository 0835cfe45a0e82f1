"""Official checkpoint files ↔ our tensors: the name table, strict reading, atomic writing.

Strict means: every tensor in a file is loaded, dropped by a rule that has a name, or an error; and
every tensor of the model is loaded, new by a rule that has a name, or an error. This file knows
names and shapes; it knows no model class.

Source: the names are those of the official files; the format is that of safetensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minibert.io.directory import ModelDirectory, open_directory
from minibert.io.files import atomic_path, first_bytes, stand_in

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
INT8 = "model.int8.safetensors"  # what `speed.int8` writes, in the place of the other files



@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor: of the file, and of the model.

    ``loaded``: name in the file → ours. ``dropped``: name in the file → the rule.
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
    name = re.sub(r"\bLayerNorm\.gamma$", "LayerNorm.weight", stored.removeprefix("bert."))
    return re.sub(r"\bLayerNorm\.beta$", "LayerNorm.bias", name)


# --------------------------------------------------------------------------------------- reading


def read(directory: str | os.PathLike) -> dict[str, Tensor]:
    """All tensors of a directory, under the names they are stored by.

    Looks for ``model.safetensors``, its sharded form, then ``pytorch_model.bin`` and its sharded
    form (read without running any code in it). Files are memory-mapped: a tensor costs no memory
    until it is used. A file may be replaced meanwhile, as `save` does, but not be overwritten in
    place, as ``cp`` does: the model would change with it.

    What is checked: the sizes, always; the content of files that minibert saved (by the sha256 in
    ``minibert.json``) and of ``.bin`` files (by the checksums of the zip). Safetensors files of
    other programs carry no checksum: a changed number in one cannot be noticed here.

    Raises:
        FileNotFoundError: no weights there, or a shard is missing.
        OSError: a file cannot be read.
        ValueError: a file is damaged.
    """
    directory = open_directory(directory)
    weights = ("model.safetensors", "pytorch_model.bin")
    there = [f"{n}{end}" for n in weights for end in ("", ".index.json") if directory.has(n + end)]
    if len(there) > 1:
        others = ", ".join(there[1:])
        warnings.warn(f"{directory}: {there[0]} is read, not {others} beside it", stacklevel=3)
    for name, read_file in (
        ("model.safetensors", lambda path: read_safetensors(path)[0]),
        ("pytorch_model.bin", read_pickle),
    ):
        if directory.has(name):
            return read_file(directory.file(name))
        if directory.has(f"{name}.index.json"):
            return read_shards(directory, f"{name}.index.json", read_file)
    if directory.has(INT8):
        raise FileNotFoundError(
            f"{directory} has whole numbers for weights ({INT8}), which SentenceEncoder alone "
            "reads; name the directory of the model that they were made from"
        )
    there = sorted(os.listdir(directory))
    raise FileNotFoundError(
        f"{directory} has no weights: model.safetensors or pytorch_model.bin, or the "
        f".index.json of either, is needed; there is {', '.join(there[:12]) or 'nothing'}"
    )


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Memory-map one safetensors file: its tensors and its metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise damaged(path, error) from None


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Memory-map one ``.bin`` file: tensors only, no code. Older ones are no zip and are read."""
    try:
        if zipped := zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if part := archive.testzip():  # torch does not look at the checksums
                    raise ValueError(f"the checksum of {part} is wrong")
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # the unpickler has a dozen kinds of error
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise damaged(path, error) from None
        raise ValueError(
            f"{path} asks to run {found[1]}: a file of tensors has no need to, and minibert never "
            "does. Do you trust where it comes from? Ask there for a model.safetensors"
        ) from None
    items = tensors.items() if isinstance(tensors, dict) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in items):
        raise ValueError(f"{path} holds something else than names and tensors")
    return dict(tensors)


def read_shards(
    directory: ModelDirectory, index: str, read_file: Callable[[Path], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Read the files that an index names, and hold the index to what they contain."""
    path, weight_map = directory.path / index, directory.json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{path} has no object 'weight_map', of names of tensors and files")
    shards = list(dict.fromkeys(map(str, weight_map.values())))
    for shard in shards:
        if Path(shard).name != shard:
            raise ValueError(f"{path} names {shard!r}, which is not a file beside it")
        if not directory.has(shard):
            raise FileNotFoundError(f"{path.parent / shard}, named in {index}, is missing")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        part = read_file(directory.file(shard))
        promised = {name for name, file in weight_map.items() if file == shard}
        if differ := promised ^ part.keys():
            raise ValueError(
                f"{path.parent / shard} and {index} do not agree on {len(differ)} tensors: "
                + ", ".join(sorted(differ)[:3])
            )
        tensors.update(part)
    return tensors


def damaged(path: Path, error: Exception) -> ValueError:
    """The error for a file that cannot be read: what it is instead, where its head tells."""
    reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0][:160]
    instead = stand_in(first_bytes(path))
    return ValueError(
        f"{path} {instead or f'is damaged or incomplete ({reason}); get the file again'}"
    )


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
        dtype: what the tensors are turned into.

    Returns:
        Our name → tensor, without those that the file has none for, and the report.

    Raises:
        ValueError: tensors are missing, unexpected, stored twice, of the wrong shape or kind, or a
            tied copy differs from its original. All such findings are listed, not just the first.
    """
    names, errors = tuple(names), []
    stored: dict[str, str] = {}  # official name → name in the file
    for name in tensors:
        other = stored.setdefault(canonical_name(name), name)
        if other != name:
            errors.append(f"{name} and {other} are the same tensor, stored twice")
    official = {ours: official_name(ours, names) for ours in wanted}
    shapes = {official[ours]: tuple(tensor.shape) for ours, tensor in wanted.items()}
    stored_shapes = {name: tuple(tensors[file_name].shape) for name, file_name in stored.items()}
    untrained = heads_to_make(shapes, stored_shapes, replace)

    loaded, new, state = {}, {}, {}
    for ours, name in official.items():
        tensor = tensors.get(stored.get(name))
        if head_of(name) in untrained:
            new[ours] = untrained[head_of(name)]
        elif tensor is None:
            errors.append(f"{name} {shapes[name]} is missing")
        elif tensor.shape != shapes[name]:
            errors.append(
                f"{stored[name]} is {stored_shapes[name]}, the config needs {shapes[name]}"
            )
        elif not tensor.is_floating_point():
            errors.append(f"{stored[name]} is {tensor.dtype}, floating point numbers are needed")
        else:
            loaded[stored[name]] = ours
            state[ours] = tensor.to(dtype).contiguous()
    dropped = {}
    for name, file_name in stored.items():
        if file_name not in loaded and (name not in shapes or head_of(name) in untrained):
            original = stored.get(TIED.get(name))
            tied = original in loaded and "cls.predictions.bias" in shapes
            if tied and not same(tensors[file_name], tensors[original]):
                errors.append(f"{file_name} differs from {original}: untied is not implemented")
            rule = f"tied: the same numbers as {original}" if tied else why_unused(name, untrained)
            if rule is None:
                errors.append(f"{file_name} {stored_shapes[name]} is not expected")
            dropped[file_name] = rule
    if errors:
        more = [f"... and {len(errors) - 12} more"] if len(errors) > 12 else []
        raise ValueError(
            f"the weights in {directory} do not fit the model of its config.json:\n  "
            + "\n  ".join(errors[:12] + more)
        )
    dtypes = tuple(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}))
    return state, LoadReport(str(directory), loaded, dropped, new, dtypes)


def heads_to_make(
    wanted: Mapping[str, tuple], stored: Mapping[str, tuple], replace: str | None
) -> dict[str, str]:
    """Prefix → why, of the heads that a model needs and a file has not; names → shapes of both."""
    there = {head_of(name) for name in stored}
    needed = {head_of(name): None for name in wanted}
    found = {h: f"{HEADS[h]} is not in the file" for h in needed if h and h not in there}
    for name, shape in wanted.items():
        if replace and name.startswith(replace) and stored.get(name, shape) != shape:
            found[replace] = f"{HEADS[replace]} in the file is {stored[name]}, not {shape}"
    return found


def why_unused(name: str, untrained: Mapping[str, str]) -> str | None:
    """Why a tensor of a file is not used, by its official name; None if there is no reason."""
    if name == "embeddings.position_ids":
        return "the numbers 0, 1, 2, ...; they are computed"
    head = head_of(name)
    return untrained.get(head, f"{HEADS[head]} of another class") if head else None


def number_of_layers(tensors: Iterable[str]) -> int:
    """How many layers the names of a file speak of.

    >>> number_of_layers(["bert.encoder.layer.0.output.dense.bias", "embeddings.LayerNorm.bias"])
    1
    """
    found = (re.match(r"encoder\.layer\.(\d+)\.", canonical_name(name)) for name in tensors)
    return 1 + max((int(layer[1]) for layer in found if layer), default=-1)


def head_of(name: str) -> str | None:
    """The prefix in HEADS that an official name starts with."""
    return next((prefix for prefix in HEADS if name.startswith(prefix)), None)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal in dtype, shape and every number."""
    return a.dtype == b.dtype and torch.equal(a, b)


# --------------------------------------------------------------------------------------- writing


def save(
    directory: str | os.PathLike, state: Mapping[str, Tensor], names: Iterable[tuple[str, str]]
) -> None:
    """Write ``model.safetensors`` into a directory, under the official names.

    Raises:
        OSError: it cannot be written (a full disk).
    """
    names = tuple(names)
    prefix = "bert." if any(name.startswith("bert.") for name in state) else ""
    tensors = {}
    for ours, tensor in state.items():
        name = official_name(ours, names)
        tensors[prefix + name if head_of(name) in (None, "pooler.") else name] = tensor
    write_safetensors(Path(directory, "model.safetensors"), tensors)


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file atomically: the same bytes for the same tensors.

    With more than one key of metadata the bytes are not the same: the library puts the keys in an
    order that changes from run to run. Its ``save_file`` is not used because it makes a file that
    its owner alone may read, leaves it behind where the program is killed, and does not say what
    a full disk does.

    Raises:
        OSError: it cannot be written (a full disk).
    """
    plain, storages = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in storages else tensor  # the library needs it so
        storages.add(storage)
    # "format": transformers 4 insists on it.
    data = safetensors.torch.save(plain, dict(metadata or {"format": "pt"}))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the names, dtypes, shapes and bytes of all tensors, in whatever order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
