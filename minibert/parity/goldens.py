"""The self-check: this installation against golden tensors or transformers.

The golden tensors are what transformers gives for a tiny model: every stage of a forward pass, the
logits and losses of all heads, the gradient of every parameter, the parameters after 1 and 5
optimizer steps, and a forward pass with dropout. The same is computed here and compared by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert import heads
from minibert.config import BertConfig
from minibert.io.checkpoint import canonical_name, read, read_safetensors
from minibert.io.files import read_json
from minibert.io.hub import OFFICIAL_MODEL, locate
from minibert.model import BertModel
from minibert.parity.diagnosis import Patience, canonical
from minibert.parity.probes import ragged_batch
from minibert.parity.reference import load_reference, side_by_side
from minibert.parity.replace import examine_code, examine_dump, load, read_dump
from minibert.parity.report import Report, compare
from minibert.parity.steps import Inputs, check_inputs, model_inputs
from minibert.parity.whole import examine_spec
from minibert.trace import trace

GOLDENS = Path(__file__).resolve().parents[2] / "tests" / "goldens"
HEADS = {  # head → which field of its output is held against which labels
    "BertForMaskedLM": {"logits": "labels"},
    "BertForNextSentencePrediction": {"logits": "next_sentence_label"},
    "BertForPreTraining": {
        "prediction_logits": "labels", "seq_relationship_logits": "next_sentence_label"},
    "BertForSequenceClassification": {"logits": "text_labels"},
    "BertForTokenClassification": {"logits": "token_labels"},
    "BertForQuestionAnswering": {
        "start_logits": "start_positions", "end_logits": "end_positions"},
}
RATE, DECAY, SEED = 1e-3, 0.01, 7
EPS = 1e-4  # large: gradients that are zero in theory (key biases) must not become steps


# ------------------------------------------------------------------------------- what is compared


class Minibert:
    """How goldens are computed with minibert; ``make_goldens.py`` has the same for transformers."""

    trace = staticmethod(trace)

    def __init__(self, directory: Path, dtype: torch.dtype) -> None:
        self.directory, self.dtype = directory, dtype

    def load(self, name: str) -> nn.Module:
        """A model by the name of its class, with the weights of the directory."""
        source = BertModel if name == "BertModel" else getattr(heads, name)
        return source.from_pretrained(self.directory, dtype=self.dtype).eval()

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[dict, Tensor]:
        """The fields of a head's output, and its loss."""
        fields = model(**model_inputs(batch))._asdict()
        labels = HEADS[type(model).__name__]
        losses = [
            F.cross_entropy(fields[field].flatten(0, -2), batch[label].flatten())
            for field, label in labels.items()
        ]
        return fields, sum(losses) / (2 if "start_logits" in labels else 1)

    def parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Our name → parameter."""
        return {name.removeprefix("bert."): p for name, p in model.named_parameters()}


def gather(library: Minibert, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All the tensors that are compared with the goldens, from one library."""
    found: dict[str, Tensor] = {}

    def put(prefix: str, values: Mapping[str, Tensor]) -> None:
        found.update({prefix + name: value.detach().clone() for name, value in values.items()})

    model = library.load("BertModel")
    with torch.no_grad(), library.trace(model) as tensors:
        model(**model_inputs(batch))
    put("", tensors)
    for name in present_heads(library.directory):
        model = library.load(name)
        with torch.no_grad(), library.trace(model) as tensors:
            fields, loss = library.forward(model, batch)
        put("", {n: tensor for n, tensor in tensors.items() if n.startswith("predictions.")})
        put(f"{name}.", {**fields, "loss": loss})

    model = library.load("BertForPreTraining").train()
    torch.manual_seed(SEED)
    with torch.no_grad():
        put("dropout: ", library.forward(model, batch)[0])
    model.eval()  # gradients and steps without dropout: no chance in them
    parameters = library.parameters(model)
    optimizer = torch.optim.AdamW([
        {"params": [p for p in parameters.values() if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in parameters.values() if p.dim() < 2], "weight_decay": 0.0},
    ], lr=RATE, eps=EPS)
    for step in range(1, 6):
        optimizer.zero_grad()
        loss = library.forward(model, batch)[1]
        loss.backward()
        put("training.loss, ", {f"step {step}": loss})
        if step == 1:
            put("gradient of ", {n: p.grad for n, p in parameters.items() if p.grad is not None})
        optimizer.step()
        if step in (1, 5):
            put(f"after {step} step{'s' * (step > 1)}: ", parameters)
    return found


def present_heads(directory: Path) -> list[str]:
    """The heads that a directory has all weights for."""
    stored = [canonical_name(name) for name in read(directory)]
    found = []
    for head, labels in HEADS.items():
        parts = [official for _, official in getattr(heads, head).names]
        if {"next_sentence_label", "text_labels"} & set(labels.values()):
            parts.append("pooler")  # what is asked of a text is asked of its pooler
        if all(any(name.startswith(part + ".") for name in stored) for part in parts):
            found.append(head)
    return found


# ---------------------------------------------------------------------------------- tolerances


def float32_tolerance(name: str, expected: Tensor) -> tuple[float, str]:
    """What another order of operations may change in float32, measured on the real weights."""
    size = largest(expected)
    if name.startswith("gradient of "):
        return 5e-5 * size + 1e-7, "5e-5 of the largest, 1e-7 where zero in theory (key bias)"
    if "loss" in name:
        return 1e-5, "1e-5: a loss in another order of operations"
    if name.startswith("after"):
        return 2e-6 * max(size, 1), "2e-6: parameters after steps of 1e-3"
    return 1.2e-5 * max(size, 1), "1.2e-5: float32 in another order of operations"


def largest(values: Tensor) -> float:
    """The largest magnitude, masked scores left out."""
    real = values.abs()[values > -1e4]
    return float(real.max()) if real.numel() else 0.0


def golden_tolerance(name: str, expected: Tensor) -> tuple[Tensor, str]:
    """Goldens are float64 results rounded to float32: half a unit of each number's last digit."""
    half = canonical(name, expected).double().abs() * 2.0**-24
    return half + 1e-12 * max(largest(expected), 1), "the rounding of the golden file to float32"


# ------------------------------------------------------------------------------- the comparisons


def read_goldens(directory: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Tensor], dict]:
    """The golden tensors, the batch they were made from, and where they come from.

    Raises:
        FileNotFoundError: there are none: they are in the repository, not in the package.
    """
    path = Path(directory) / "goldens.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; the golden files are in the repository, below tests/goldens: "
            "run this in a checkout, pass --goldens DIR, or compare a model: --model DIR"
        )
    tensors, metadata = read_safetensors(path)
    provenance = json.loads(metadata["provenance"])
    batch = {n.removeprefix("batch."): tensors.pop(n) for n in list(tensors) if "batch." in n}
    ordered = {name: tensors[name] for name in provenance.pop("order")}
    return ordered, batch, provenance


def compare_goldens(directory: str | os.PathLike = GOLDENS) -> list[Report]:
    """Hold this installation against the golden files: no network, no other package.

    Twice: in float64, where nothing but the rounding of the file may differ; and in float32.
    """
    expected, batch, provenance = read_goldens(directory)
    source = f"goldens of transformers {provenance['transformers']}, torch {provenance['torch']}"
    probe = expected.pop("probe")
    reports = []
    for dtype, tolerance, bitwise in (
        (torch.float64, golden_tolerance, "after rounding to float32, as the golden file is"),
        (torch.float32, float32_tolerance,
         "equal bits are not to be expected; the golden file is float64, rounded"),
    ):
        mine, reference = gather(Minibert(Path(directory), dtype), batch), dict(expected)
        title = f"minibert in {str(dtype)[6:]} against the {source}"
        notes = [f"bitwise: {bitwise}"]
        if not torch.equal(dropout_probe(dtype).float(), probe):
            reference = {n: t for n, t in reference.items() if not n.startswith("dropout")}
            notes.insert(0, "dropout not compared: this build of torch draws other random numbers")
        reports.append(compare(title, mine, reference, tolerance, batch))
        reports[-1].notes = notes
    return reports


def dropout_probe(dtype: torch.dtype) -> Tensor:
    """What dropout does on this machine, to know whether its random numbers can be compared."""
    torch.manual_seed(SEED)
    return F.dropout(torch.ones(3, 10, 24, dtype=dtype), 0.1)


def default_batch(config: BertConfig) -> dict[str, Tensor]:
    """Three texts of unequal length that any model can take."""
    T = min(14, config.max_position_embeddings)
    return ragged_batch(config, (T, max(T // 3, 1), max(2 * T // 3, 1)))


def compare_model(
    directory: str | os.PathLike, batch: Mapping[str, Any] | None = None
) -> list[Report]:
    """Hold minibert with the weights of a directory against transformers.

    Both load the directory by themselves: the encoder and each head that has weights in it, every
    tensor of a forward and a backward pass.

    Raises:
        ValueError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError(
            "a model is compared with transformers, which is not installed: pip install "
            "transformers; minibert parity alone needs only the golden files"
        ) from None
    directory = Path(directory)
    config = BertConfig.from_pretrained(directory)
    batch = batch or default_batch(config)
    check_inputs(batch, config)
    mine, reference = {}, {}
    for name in ("BertModel", *present_heads(directory)):
        ours, at = Minibert(directory, torch.float32).load(name), f"{name}."
        pair = side_by_side(ours, load_reference(directory, ours), model_inputs(batch))
        for all_of, found in zip((mine, reference), pair, strict=True):
            for tensor, value in found.items():
                inner = tensor.removesuffix(".grad").removeprefix("gradient of ")
                new = (at + inner).removeprefix("BertModel.")
                if inner != tensor:
                    all_of[f"gradient of {new}"] = value
                elif inner not in all_of:  # a head computes the encoder's again
                    all_of[new] = value
    title = f"minibert against transformers {transformers.__version__}, weights {directory}"
    return [compare(title, mine, reference, float32_tolerance, batch)]


# ------------------------------------------------------------------------- for the command line


def read_trace(path: str | os.PathLike) -> dict[str, Any]:
    """The inputs in a file that ``minibert trace`` wrote; the texts of the tokens as "tokens"."""
    tensors, metadata = read_dump(path)
    if "input_ids" not in tensors:
        raise ValueError(f"{path} has no input_ids; make it with minibert trace TEXT --out {path}")
    tokens = {"tokens": json.loads(metadata["tokens"])} if "tokens" in metadata else {}
    return model_inputs(tensors) | tokens


def inputs_of(name: str, batch: Mapping[str, Any] | None) -> Inputs:
    """A model by its directory or name, with the weights of heads that are stored with it."""
    directory = locate(name)
    model = BertModel.from_pretrained(directory)
    check_inputs(batch or {}, model.config)
    weights = dict(model.state_dict())
    for head in present_heads(directory):
        state = getattr(heads, head).from_pretrained(directory).state_dict()
        weights |= {key.removeprefix("bert."): value for key, value in state.items()}
    return Inputs(model.config, weights, default_batch(model.config) if batch is None else batch)


def parity(
    dump: str | None = None,
    replace: Sequence[str] = (),
    model: str | None = None,
    names: str | None = None,
    trace_file: str | None = None,
    goldens: str | None = None,
    pairs: bool = True,
    patience: Patience | None = None,
    whole: str | None = None,
) -> list[Report]:
    """What ``minibert parity`` does: a dump, a learner's code, a model, or the golden files.

    Args:
        dump: a ``.safetensors`` or ``.npz`` file to be compared.
        replace: ``kind=file.py:Name``, see ``replace.py``.
        model: a directory or hub name; for a dump else the one that its trace is of, else the
            official one; for code else a tiny one.
        names: a JSON file, their names → ours, of the tensors of a dump or the parameters of a
            class.
        trace_file: what ``minibert trace`` wrote: the inputs.
        goldens: another directory of golden files.
        pairs: whether to try pairs of mistakes too.
        patience: for how long, of a dump or a whole model.
        whole: ``file.py:build``, or a file with a state dict, see ``whole.py``.
    """
    batch = read_trace(trace_file) if trace_file else None
    mapping = read_json(names) if names else None
    if names and not isinstance(mapping, dict):
        raise ValueError(f'{names}: an object is needed, {{"your name": "our name"}}')
    how = {"names": mapping, "pairs": pairs, "patience": patience}
    if dump:
        traced = read_dump(trace_file or dump)[1].get("model")
        inputs = inputs_of(model or traced or OFFICIAL_MODEL, batch or {})
        return [examine_dump(dump, inputs, **how)]
    if whole:
        return [examine_spec(whole, inputs_of(model or OFFICIAL_MODEL, None), **how)]
    if replace:
        if wrong := [item for item in replace if "=" not in item]:
            raise ValueError(f"--replace {wrong[0]}; it is KIND=FILE.py:NAME")
        things = {kind: load(spec) for kind, spec in (item.split("=", 1) for item in replace)}
        inputs = inputs_of(model, batch) if model else None
        return [examine_code(things, inputs, names=mapping, pairs=pairs)]
    if model:
        return compare_model(locate(model), batch)
    return compare_goldens(goldens or GOLDENS)
