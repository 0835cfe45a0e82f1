"""Every named tensor between ids and output, seen through hooks: no flag anywhere in the model.

The names are those of the modules (``layers.3.attention.probabilities`` is what that module
returned), and a few for what goes *into* a module:

    embeddings.sum              word + segment + position, before the norm
    layers.{i}.attention.scores     before the softmax, mask added (B, N, T, T)
    layers.{i}.attention.context    the heads side by side again, before the output layer (B, T, H)
    layers.{i}.attention_sum        the residual sum before the norm; likewise feed_forward_sum
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from minibert.attention import MultiHeadSelfAttention
from minibert.encoder import EncoderLayer, FeedForward
from minibert.model import BertModel

# Their output is that of their last part, or their input. (A class of your own that inherits from
# one of these may do something else, and is recorded.)
SAME_AS_LAST_PART = (
    BertModel, EncoderLayer, MultiHeadSelfAttention, FeedForward, nn.Tanh, nn.Dropout, nn.ModuleList
)
# The end of a module's name -> the end of the name of what goes into it.
INPUTS = {
    "attention.probabilities": "attention.scores",
    "attention.output": "attention.context",
    "embeddings.norm": "embeddings.sum",
    "attention_norm": "attention_sum",
    "feed_forward_norm": "feed_forward_sum",
}


@contextlib.contextmanager
def trace(model: nn.Module, gradients: bool = False) -> Iterator[dict[str, Tensor]]:
    """Record the tensors of the forward pass inside the block, in the order of computation.

    With ``gradients``, a backward pass inside the block adds ``NAME.grad`` for each of them, from
    the output back to the embeddings. A second forward pass in the same block overwrites the first.

    >>> with trace(model) as tensors:
    ...     model(**tokenizer("Hello world"))
    >>> tensors["layers.3.attention.probabilities"].shape  # (B, N, T, T)
    torch.Size([1, 12, 4, 4])
    """
    inputs, outputs = {}, {}
    for name, module in model.named_modules():
        short = name.removeprefix("bert.")
        for end, before in INPUTS.items():
            if short.endswith(end):
                inputs[name] = short.removesuffix(end) + before
        if type(module) not in SAME_AS_LAST_PART:
            outputs[name] = short  # of a head, which is called "": its fields
    with record(model, inputs, outputs, gradients) as tensors:
        yield tensors


@contextlib.contextmanager
def record(
    model: nn.Module,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    gradients: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Record what goes into some modules of any model, and what comes out of others.

    Args:
        inputs, outputs: name of a module → the name to record it under. Of an output with fields
            each field is recorded, as NAME.field; what is no tensor is left out.
        gradients: whether a backward pass inside the block adds NAME.grad.
    """
    tensors: dict[str, Tensor] = {}

    def input_hook(name: str):
        return lambda module, given: keep(tensors, name, given[0] if given else None, gradients)

    def output_hook(name: str):
        return lambda module, given, output: keep(tensors, name, output, gradients)

    hooks = []
    for at, module in model.named_modules():
        if at in inputs:
            hooks.append(module.register_forward_pre_hook(input_hook(inputs[at])))
        if at in outputs:
            hooks.append(module.register_forward_hook(output_hook(outputs[at])))
    try:
        yield tensors
    finally:
        for hook in hooks:
            hook.remove()


def keep(tensors: dict[str, Tensor], name: str, value: object, gradients: bool = False) -> None:
    """Put a value among the tensors, and its gradient when it comes."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().clone()  # what follows may write into it
        if gradients and value.requires_grad:
            value.register_hook(lambda gradient: keep(tensors, f"{name}.grad", gradient))
        return
    fields = value._asdict() if hasattr(value, "_asdict") else value
    for field, part in fields.items() if isinstance(fields, Mapping) else ():
        keep(tensors, f"{name}.{field}".removeprefix("."), part, gradients)
