"""The self-check: this installation against golden tensors, transformers, or its own restatement.

Evidence is a dict of tensors that a library gives for the weights in a directory: every stage of
a forward pass, the logits and losses of all heads, the gradient of every parameter, the
parameters after 1 and 5 optimizer steps, and a forward pass with dropout. It is gathered from
minibert and from transformers in the same way, and compared name by name.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from minibert import heads
from minibert.config import BertConfig
from minibert.io.checkpoint import ENCODER_NAMES, canonical_name, official_name, read
from minibert.io.files import read_json
from minibert.io.hub import DEFAULT_MODEL, locate
from minibert.model import BertModel
from minibert.parity.diagnosis import canonical
from minibert.parity.replace import examine_code, examine_dump, load, read_dump, read_names
from minibert.parity.report import Report, compare
from minibert.parity.steps import Computation, Inputs, order
from minibert.trace import trace

GOLDENS = Path(__file__).resolve().parents[2] / "tests" / "goldens"
HEADS = {  # head -> what a file must hold for it
    "BertForMaskedLM": ("cls.predictions.",),
    "BertForNextSentencePrediction": ("cls.seq_relationship.", "pooler."),
    "BertForPreTraining": ("cls.predictions.", "cls.seq_relationship.", "pooler."),
    "BertForSequenceClassification": ("classifier.", "pooler."),
    "BertForTokenClassification": ("classifier.",),
    "BertForQuestionAnswering": ("qa_outputs.",),
}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
RATE, DECAY, SEED = 1e-3, 0.01, 7
EPS = 1e-4  # large: gradients that are zero in theory (key biases) must not become steps


def present_heads(directory: Path) -> list[str]:
    """The heads that a directory has weights for."""
    stored = [canonical_name(name) for name in read(directory)[0]]
    return [
        head for head, parts in HEADS.items()
        if all(any(name.startswith(part) for name in stored) for part in parts)
    ]


def losses(name: str, output, batch: Mapping[str, Tensor]) -> Tensor:
    """The loss of a head, from its logits and the labels of the batch."""
    if name == "BertForQuestionAnswering":
        start = F.cross_entropy(output.start_logits, batch["start_positions"])
        return (start + F.cross_entropy(output.end_logits, batch["end_positions"])) / 2
    if name == "BertForPreTraining":
        words = F.cross_entropy(output.prediction_logits.flatten(0, 1), batch["labels"].flatten())
        return words + F.cross_entropy(output.seq_relationship_logits, batch["next_sentence_label"])
    label = LABELS[name]
    return F.cross_entropy(output.logits.flatten(0, -2), batch[label].flatten())


LABELS = {
    "BertForMaskedLM": "labels",
    "BertForNextSentencePrediction": "next_sentence_label",
    "BertForSequenceClassification": "text_labels",
    "BertForTokenClassification": "token_labels",
}


def plain_loss(hidden: Tensor, pooled: Tensor | None, mask: Tensor) -> Tensor:
    """Some loss for a model without a head: it depends on every real token, and on the pooler."""
    loss = (hidden * mask[..., None]).pow(3).mean()
    return loss if pooled is None else loss + pooled.pow(3).mean()


def gather(
    build, record, forward, rename, directory: Path, batch, dtype: torch.dtype, training: bool
) -> dict[str, Tensor]:
    """Evidence from one library. The four functions say how it is done there.

    ``build(name)`` → a model; ``record(model)`` → a context with a trace; ``forward(name, model,
    batch)`` → (fields, loss); ``rename(model)`` → our name of each parameter → parameter.
    """
    inputs = {name: batch[name] for name in INPUTS if name in batch}
    found: dict[str, Tensor] = {}
    present = present_heads(directory)
    trained = "BertForPreTraining" if "BertForPreTraining" in present else "BertModel"

    model = build("BertModel").to(dtype).eval()
    with torch.no_grad(), record(model) as tensors:
        model(**inputs)
    found |= tensors
    for name in present:
        model = build(name).to(dtype).eval()
        with torch.no_grad(), record(model) as tensors:
            fields, loss = forward(name, model, batch)
        found |= {n: t for n, t in tensors.items() if n.startswith("predictions.")}
        found |= {f"{name}.{field}": value for field, value in fields.items()}
        found[f"{name}.loss"] = loss
    if not training:
        return {name: value.detach().clone() for name, value in found.items()}

    model = build(trained).to(dtype)
    model.train()
    torch.manual_seed(SEED)
    with torch.no_grad():
        fields, _ = forward(trained, model, batch)
    found |= {f"dropout: {field}": value for field, value in fields.items()}
    model.eval()  # gradients and steps without dropout: no chance in them
    parameters = rename(model)
    rest = [p for name, p in parameters.items() if p.dim() < 2]
    groups = [
        {"params": [p for p in parameters.values() if p.dim() >= 2], "weight_decay": DECAY},
        {"params": rest, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, eps=EPS)
    for step in range(1, 6):
        optimizer.zero_grad()
        _, loss = forward(trained, model, batch)
        loss.backward()
        found[f"training.loss, step {step}"] = loss.detach().clone()
        if step == 1:
            found |= {
                f"gradient of {name}": p.grad.clone()
                for name, p in parameters.items() if p.grad is not None
            }
        optimizer.step()
        if step in (1, 5):
            after = f"after {step} step{'s' * (step > 1)}: "
            found |= {after + name: p.detach().clone() for name, p in parameters.items()}
    return {name: value.detach().clone() for name, value in found.items()}


def ours(directory: Path, batch, dtype=torch.float32, training: bool = True) -> dict[str, Tensor]:
    """Evidence from minibert."""

    def build(name: str) -> nn.Module:
        source = BertModel if name == "BertModel" else getattr(heads, name)
        return source.from_pretrained(directory, dtype=dtype)

    def forward(name, model, batch):
        output = model(**{key: batch[key] for key in INPUTS if key in batch})
        fields = {key: value for key, value in output._asdict().items() if value is not None}
        if name == "BertModel":
            return fields, plain_loss(*output, batch["attention_mask"])
        return fields, losses(name, output, batch)

    def rename(model):
        return {
            name.removeprefix("bert."): parameter for name, parameter in model.named_parameters()
        }

    return gather(build, trace, forward, rename, directory, batch, dtype, training)


def theirs(directory: Path, batch, dtype=torch.float32, training: bool = True) -> dict[str, Tensor]:
    """Evidence from transformers, under our names.

    Raises:
        ImportError: it is not installed.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    def build(name: str) -> nn.Module:
        extra = {"num_labels": 2} if name == "BertForQuestionAnswering" else {}
        if name == "BertModel" and not has_pooler(directory):
            extra["add_pooling_layer"] = False
        source = getattr(transformers, name)
        return source.from_pretrained(
            directory, attn_implementation="eager", dtype=dtype, local_files_only=True, **extra
        )

    def forward(name, model, batch):
        inputs = {key: batch[key] for key in INPUTS if key in batch}
        if name == "BertModel":
            output = model(**inputs)
            loss = plain_loss(
                output.last_hidden_state, output.pooler_output, batch["attention_mask"]
            )
            return {k: v for k, v in output.items() if isinstance(v, Tensor)}, loss
        labels = {"labels": batch[LABELS[name]]} if name in LABELS else {}
        if name == "BertForPreTraining":
            labels = {key: batch[key] for key in ("labels", "next_sentence_label")}
        if name == "BertForQuestionAnswering":
            labels = {key: batch[key] for key in ("start_positions", "end_positions")}
        output = model(**inputs, **labels)
        return {k: v for k, v in output.items() if k != "loss"}, output.loss

    def rename(model):
        names = (*ENCODER_NAMES, *heads.MASKED_LM_NAMES, *heads.NEXT_SENTENCE_NAMES)
        here = {name.removeprefix("bert."): p for name, p in model.named_parameters()}
        wanted = load_names(directory, model)
        return {name: here[official_name(name, names)] for name in wanted}

    def load_names(directory, model):
        own = BertModel if type(model).__name__ == "BertModel" else heads.BertForPreTraining
        return [
            name.removeprefix("bert.")
            for name, _ in own.from_pretrained(directory).named_parameters()
        ]

    return gather(build, official_trace, forward, rename, directory, batch, dtype, training)


def has_pooler(directory: Path) -> bool:
    """Whether a directory's weights have a pooler."""
    return BertModel.from_pretrained(directory).pooler is not None


@contextlib.contextmanager
def official_trace(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record a transformers BERT's tensors in a forward pass, under the names of our trace."""
    tensors: dict[str, Tensor] = {}
    layers = model.config.num_hidden_layers
    outputs, inputs = {}, {}
    for name, official in ENCODER_NAMES:
        for i in range(layers if "{}" in name else 1):
            outputs[official.format(i)] = name.format(i)
    for i in range(layers):
        start, into = f"encoder.layer.{i}.", f"layers.{i}."
        inputs[start + "attention.output.dense"] = into + "attention.context"
        inputs[start + "attention.output.LayerNorm"] = into + "attention_sum"
        inputs[start + "output.dense"] = into + "feed_forward.activation"
        inputs[start + "output.LayerNorm"] = into + "feed_forward_sum"
    inputs["embeddings.LayerNorm"] = "embeddings.sum"
    outputs |= {"embeddings": "embeddings", "pooler": "pooler"}
    outputs["cls.predictions.transform.dense"] = "predictions.dense"
    outputs["cls.predictions.transform.LayerNorm"] = "predictions.norm"
    inputs["cls.predictions.transform.LayerNorm"] = "predictions.activation"

    def keep(name: str, value: Tensor) -> None:
        tensors[name] = value.detach()[0] if name == "embeddings.position" else value.detach()

    hooks = []
    for name, module in model.named_modules():
        name = name.removeprefix("bert.")
        if name in inputs:
            hooks.append(module.register_forward_pre_hook(
                lambda module, given, name=inputs[name]: keep(name, given[0])))
        if name in outputs:
            hooks.append(module.register_forward_hook(
                lambda module, given, output, name=outputs[name]: keep(name, output)))
    plain, calls = F.softmax, []

    def softmax(scores, *args, **kwargs):
        result = plain(scores, *args, **kwargs)
        if scores.dim() == 4:  # the attention's, one after the other
            keep(f"layers.{len(calls)}.attention.scores", scores)
            keep(f"layers.{len(calls)}.attention.probabilities", result)
            calls.append(1)
        return result

    F.softmax = softmax
    try:
        yield tensors
    finally:
        F.softmax = plain
        for hook in hooks:
            hook.remove()


# ---------------------------------------------------------------------------------- tolerances


def float32_tolerance(name: str, expected: Tensor) -> tuple[float, str]:
    """What another order of operations may change in float32, measured on the real weights."""
    size = largest(expected)
    if name.startswith("gradient"):
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


def float64_tolerance(name: str, expected: Tensor) -> tuple[float, str]:
    """What another order of operations may change in float64."""
    return 1e-12 * max(largest(expected), 1), "1e-12: float64 in another order of operations"


def golden_tolerance(name: str, expected: Tensor) -> tuple[Tensor, str]:
    """Goldens are float64 results rounded to float32: half a unit of each number's last digit."""
    half = canonical(name, expected).double().abs() * 2.0**-24
    return half + 1e-12 * max(largest(expected), 1), "the rounding of the golden file to float32"


# ---------------------------------------------------------------------------- the three checks


def read_goldens(directory: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict]:
    """The golden tensors, the batch they were made from, and where they come from.

    Raises:
        FileNotFoundError: there are none: they are in the repository, not in the package.
    """
    path = Path(directory) / "goldens.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; the golden files are in the repository, below tests/goldens: "
            "run this in a checkout, pass --goldens DIR, or check a model: --model DIR"
        )
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        provenance = json.loads(file.metadata()["provenance"])
    batch = {n.removeprefix("batch."): tensors.pop(n) for n in list(tensors) if "batch." in n}
    ordered = {name: tensors[name] for name in provenance.pop("order")}
    return ordered, batch, provenance


def compare_goldens(directory: str | os.PathLike = GOLDENS) -> list[Report]:
    """Hold this installation against the golden files: no network, no other package.

    Twice: in float64, where nothing but the rounding of the file may differ; and in float32.
    """
    directory = Path(directory)
    expected, batch, provenance = read_goldens(directory)
    source = f"goldens of transformers {provenance['transformers']}, torch {provenance['torch']}"
    probe = expected.pop("probe")
    notes = []
    reports = []
    for dtype, tolerance in ((torch.float64, golden_tolerance), (torch.float32, float32_tolerance)):
        mine = ours(directory, batch, dtype)
        reference = dict(expected)
        if not torch.equal(dropout_probe(dtype).float(), probe):
            reference = {n: t for n, t in reference.items() if not n.startswith("dropout")}
            notes = ["dropout not compared: this build of torch draws other random numbers"]
        report = compare(
            f"minibert in {str(dtype)[6:]} against the {source}", mine, reference, tolerance, batch
        )
        said = {
            torch.float64: "after rounding to float32, as the golden file is",
            torch.float32: "equal bits are not to be expected; the golden file is float64, rounded",
        }
        report.notes = [*notes, f"bitwise: {said[dtype]}"]
        reports.append(report)
    return reports


def dropout_probe(dtype: torch.dtype) -> Tensor:
    """What dropout does on this machine, to know whether its chance can be compared."""
    torch.manual_seed(SEED)
    return F.dropout(torch.ones(3, 10, 24, dtype=dtype), 0.1)


def compare_model(
    directory: str | os.PathLike, batch: Mapping[str, Tensor], training: bool = True
) -> list[Report]:
    """Hold minibert with the weights of a directory against transformers, where it is installed.

    Where it is not, against the restatement in single steps (``steps.py``), in float64: another
    implementation, though by the same hands.
    """
    directory = Path(directory)
    try:
        reference = theirs(directory, batch, torch.float32, training)
        import transformers

        mine = ours(directory, batch, torch.float32, training)
        title = f"minibert against transformers {transformers.__version__}, weights {directory}"
        return [compare(title, mine, reference, float32_tolerance, batch)]
    except ImportError:
        pass
    model = BertModel.from_pretrained(directory)
    config = model.config
    run = Computation(Inputs(config, dict(model.state_dict()), batch))
    with torch.no_grad(), trace(model) as tensors:
        model(**{name: batch[name] for name in INPUTS if name in batch})
    known = set(order(config))
    reference = {name: run[name] for name in tensors if name in known}
    title = f"minibert against its restatement in single steps, weights {directory}"
    report = compare(title, tensors, reference, float32_tolerance, batch)
    report.notes = ["transformers is not installed: pip install transformers for the reference"]
    return [report, *compare_projections(directory, GOLDENS)]


# ----------------------------------------------------------------- the official model, projected


def project(values: Tensor, count: int = 4) -> list[float]:
    """A tensor as a few numbers: sums with waves of different lengths, masked scores left out."""
    flat = torch.where(values < -1e4, 0.0, values.double()).flatten()
    n = torch.arange(1, flat.numel() + 1, dtype=torch.float64)
    return [
        float((flat * torch.cos(n * (0.37 + 0.61 * k))).sum() / flat.numel() ** 0.5)
        for k in range(count)
    ]


def official_batch() -> dict[str, Tensor]:
    """The fixed batch for the official model: real ids, padding, two segments."""
    ids = torch.tensor(
        [
            [101, 1037, 2158, 2003, 5983, 2833, 1012, 102, 2619, 2038, 1037, 7954, 1012, 102],
            [101, 7592, 2088, 999, 102] + [0] * 9,
            [101, 3000, 2003, 1996, 3007, 1997, 2605, 1012, 102] + [0] * 5,
        ]
    )
    types = torch.zeros_like(ids)
    types[0, 8:] = 1
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "token_type_ids": types}


def compare_projections(directory: Path, goldens: Path) -> list[Report]:
    """Hold the official model, if this is it, against the stored projections of each stage."""
    path = goldens / "official.json"
    if not path.exists() or not (directory / "model.safetensors").exists():
        return []
    import hashlib

    stored = read_json(path)
    digest = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    if digest != stored["sha256"]:
        return []
    batch = official_batch()
    model = BertModel.from_pretrained(directory)
    with torch.no_grad(), trace(model) as tensors:
        model(**batch)
    mine = {name: torch.tensor(project(value)) for name, value in tensors.items()}
    reference = {name: torch.tensor(values) for name, values in stored["projections"].items()}
    title = f"minibert against {stored['name']}: projections of every stage by transformers"
    return [compare(title, mine, reference, float32_tolerance)]


# ------------------------------------------------------------------------- for the command line


def read_trace(path: str | os.PathLike) -> tuple[dict[str, Tensor], list[list[str]] | None]:
    """The inputs in a file that ``minibert trace`` wrote, and the texts of the tokens."""
    tensors, metadata = read_dump(path)
    if "input_ids" not in tensors:
        raise ValueError(f"{path} has no input_ids; make it with minibert trace TEXT --out {path}")
    tokens = json.loads(metadata["tokens"]) if "tokens" in metadata else None
    return {name: tensors[name] for name in INPUTS if name in tensors}, tokens


def weights_of(directory: str | os.PathLike) -> tuple[BertConfig, dict[str, Tensor]]:
    """The config of a directory, and its tensors by our names, those of heads too."""
    directory = Path(directory)
    model = BertModel.from_pretrained(directory)
    weights = dict(model.state_dict())
    for name in present_heads(directory):
        head = getattr(heads, name).from_pretrained(directory)
        weights |= {key.removeprefix("bert."): value for key, value in head.state_dict().items()}
    return model.config, weights


def parity(
    dump: str | None = None,
    replace: Sequence[str] = (),
    model: str | None = None,
    names: str | None = None,
    trace_file: str | None = None,
    goldens: str | None = None,
    pairs: bool = True,
) -> list[Report]:
    """What ``minibert parity`` does: a dump, a learner's code, a model, or the golden files.

    Args:
        dump: a ``.safetensors`` or ``.npz`` file to be compared.
        replace: ``kind=file.py:Name``, see ``replace.py``.
        model: a directory or hub name; for a dump the default model, else a tiny one.
        names: a JSON file, their names → ours, of the tensors of a dump or the parameters of a
            class.
        trace_file: what ``minibert trace`` wrote: the inputs.
        goldens: another directory of golden files.
        pairs: whether to try pairs of mistakes too.
    """
    batch, tokens = read_trace(trace_file) if trace_file else (None, None)
    if dump:
        config, weights = weights_of(locate(model or DEFAULT_MODEL))
        settings = {"names": names, "tokens": tokens, "pairs": pairs}
        return [examine_dump(dump, config, weights, batch, **settings)]
    if replace:
        wrong = [item for item in replace if "=" not in item]
        if wrong:
            raise ValueError(f"--replace {wrong[0]}; it is KIND=FILE.py:NAME")
        things = {kind: load(spec) for kind, spec in (item.split("=", 1) for item in replace)}
        mapping = read_names(names) if names else None
        if model is None:
            return [examine_code(things, names=mapping, pairs=pairs)]
        config, weights = weights_of(locate(model))
        inputs = Inputs(config, weights, batch or official_batch())
        return [examine_code(things, inputs, names=mapping, tokens=tokens, pairs=pairs)]
    if model:
        directory = locate(model)
        stored = BertConfig.from_pretrained(directory)
        return compare_model(directory, batch or batch_for(stored))
    return compare_goldens(goldens or GOLDENS)


def batch_for(config: BertConfig) -> dict[str, Tensor]:
    """Inputs and labels that any model can take: ragged, with two segments."""
    random = torch.Generator().manual_seed(0)
    T = min(12, config.max_position_embeddings)
    ids = torch.randint(1, config.vocab_size, (3, T), generator=random)
    mask = (torch.arange(T) < torch.tensor([[T], [max(T // 2, 1)], [max(T // 3, 1)]])).long()
    types = (torch.arange(T) >= T // 3).long().expand(3, T) * mask
    types = types.clamp(max=config.type_vocab_size - 1)
    ids = torch.where(mask == 1, ids, config.pad_token_id or 0)
    asked = (torch.arange(T) % 3 == 0) & (mask == 1)
    C = config.num_labels
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": types,
        "labels": torch.where(asked, ids, -100),
        "next_sentence_label": torch.tensor([0, 1, 1]),
        "text_labels": torch.arange(3) % C,
        "token_labels": torch.where(mask == 1, ids % C, -100),
        "start_positions": torch.zeros(3, dtype=torch.long),
        "end_positions": mask.sum(1) - 1,
    }
