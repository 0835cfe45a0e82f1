"""Every named tensor between ids and output, seen through hooks: no flag anywhere in the model.

The names are those of the modules (``layers.3.attention.probabilities`` is what that module
returned), and a few for what goes *into* a module:

    embeddings.sum              word + segment + position, before the norm
    layers.{i}.attention.scores     before the softmax, mask added (B, N, T, T)
    layers.{i}.attention.context    the heads side by side again, before the output map (B, T, H)
    layers.{i}.attention_sum        the residual sum before the norm; likewise feed_forward_sum
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from minibert.attention import MultiHeadSelfAttention
from minibert.encoder import EncoderLayer, FeedForward
from minibert.model import BertModel
from minibert.pretrained import Pretrained

# Their output is that of their last part, under whose name it is recorded.
SAME_AS_LAST_PART = (BertModel, EncoderLayer, MultiHeadSelfAttention, FeedForward, nn.Tanh)
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
    tensors: dict[str, Tensor] = {}

    def record(name: str, value: Tensor) -> None:
        tensors[name] = value.detach()
        if gradients and value.requires_grad:
            value.register_hook(lambda gradient: keep(f"{name}.grad", gradient))

    def keep(name: str, gradient: Tensor | None) -> None:
        if gradient is not None:  # None: the loss did not use this tensor
            tensors[name] = gradient

    def input_hook(name: str):
        return lambda module, inputs: record(name, inputs[0])

    def output_hook(name: str):
        return lambda module, inputs, output: record(name, output)

    def fields_hook(module, inputs, output) -> None:
        for name, value in output._asdict().items():
            record(name, value)

    hooks = []
    for name, module in model.named_modules():
        name = name.removeprefix("bert.")
        for end, before in INPUTS.items():
            if name.endswith(end):
                into = name.removesuffix(end) + before
                hooks.append(module.register_forward_pre_hook(input_hook(into)))
        if module is model and isinstance(model, Pretrained) and not isinstance(model, BertModel):
            hooks.append(module.register_forward_hook(fields_hook))  # the logits of a head
        elif not isinstance(module, (*SAME_AS_LAST_PART, nn.Dropout, nn.ModuleList)):
            hooks.append(module.register_forward_hook(output_hook(name)))
    try:
        yield tensors
    finally:
        for hook in hooks:
            hook.remove()
