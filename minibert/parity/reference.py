"""The reference: a BERT of transformers, its tensors under our names, side by side with ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minibert import heads
from minibert.io.checkpoint import ENCODER_NAMES, official_name
from minibert.model import BertModel
from minibert.trace import keep, record, trace


def load_reference(directory: Path, ours: nn.Module) -> nn.Module:
    """The class of transformers that has the name of one of our models, from a directory.

    Raises:
        ImportError: transformers is not installed.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    extra = {"num_labels": 2} if isinstance(ours, heads.BertForQuestionAnswering) else {}
    if isinstance(ours, BertModel) and ours.pooler is None:
        extra["add_pooling_layer"] = False
    return getattr(transformers, type(ours).__name__).from_pretrained(
        directory,
        attn_implementation="eager",
        dtype=next(ours.parameters()).dtype,
        local_files_only=True,
        **extra,
    ).eval()


class Softmaxes(TorchFunctionMode):
    """Sees what goes into each softmax and what comes out: the reference has no module for it."""

    def __init__(self, tensors: dict[str, Tensor], gradients: bool) -> None:
        super().__init__()
        self.tensors, self.gradients, self.layer = tensors, gradients, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Call the function; of a softmax keep both sides."""
        result = function(*args, **(kwargs or {}))
        if function is nn.functional.softmax:
            at = f"layers.{self.layer}.attention."
            keep(self.tensors, at + "scores", args[0], self.gradients)
            keep(self.tensors, at + "probabilities", result, self.gradients)
            self.layer += 1
        return result


@contextlib.contextmanager
def trace_reference(model: nn.Module, gradients: bool = False) -> Iterator[dict[str, Tensor]]:
    """What `trace` records, under the same names, from a model of transformers."""
    own_names = getattr(getattr(heads, type(model).__name__, None), "names", ())
    outputs = {
        "embeddings": "embeddings",
        "pooler": "pooler",
        "cls.predictions.transform.transform_act_fn": "predictions.activation",
    }
    inputs = {"embeddings.LayerNorm": "embeddings.sum"}
    for i in range(model.config.num_hidden_layers):
        at = f"encoder.layer.{i}."
        outputs |= {official.format(i): ours.format(i) for ours, official in ENCODER_NAMES}
        outputs[at + "intermediate"] = f"layers.{i}.feed_forward.activation"
        inputs[at + "attention.output.dense"] = f"layers.{i}.attention.context"
        inputs[at + "attention.output.LayerNorm"] = f"layers.{i}.attention_sum"
        inputs[at + "output.LayerNorm"] = f"layers.{i}.feed_forward_sum"
    outputs |= {official: ours for ours, official in own_names}
    if own_names:  # a head: the fields of its output
        outputs[""] = ""
    prefix = "bert." if hasattr(model, "bert") else ""
    in_head = ("cls", "classifier", "qa_outputs", "")
    inputs, outputs = (
        {name if name.split(".")[0] in in_head else prefix + name: ours for name, ours in some}
        for some in (inputs.items(), outputs.items())
    )
    with record(model, inputs, outputs, gradients) as tensors, Softmaxes(tensors, gradients):
        yield tensors
    for name in ("embeddings.position", "embeddings.position.grad"):
        if name in tensors:
            tensors[name] = tensors[name][0]  # (1, T, H) there, (T, H) here


def reference_parameters(theirs: nn.Module, ours: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model of transformers, by the names and in the order of ours."""
    names = (*ENCODER_NAMES, *ours.names)
    here = {name.removeprefix("bert."): p for name, p in theirs.named_parameters()}
    return {
        name.removeprefix("bert."): here[official_name(name, names)]
        for name, _ in ours.named_parameters()
    }


def side_by_side(
    ours: nn.Module, theirs: nn.Module, batch: Mapping[str, Tensor], seed: int = 0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every tensor of a forward and a backward pass of our model, and of the reference.

    The outputs are weighted with fixed random numbers and summed, so that every output counts.

    Returns: two dicts with the same names: those of the trace, NAME.grad for their gradients, and
    ``gradient of NAME`` for those of the parameters.
    """
    own = {name.removeprefix("bert."): p for name, p in ours.named_parameters()}
    found = []
    for model, tracing, parameters in (
        (ours, trace(ours, gradients=True), own),
        (theirs, trace_reference(theirs, gradients=True), reference_parameters(theirs, ours)),
    ):
        model.zero_grad()
        with tracing as tensors:
            torch.manual_seed(seed)  # the same dropout, in train mode
            output = model(**batch)
            outputs = output.to_tuple() if hasattr(output, "to_tuple") else output
            outputs = [tensor for tensor in outputs if tensor is not None]
            random = torch.Generator().manual_seed(seed)
            factors = [torch.randn(o.shape, generator=random).to(o.dtype) for o in outputs]
            torch.autograd.backward(outputs, factors)
        found.append(tensors | {f"gradient of {name}": p.grad for name, p in parameters.items()})
    return found[0], found[1]
