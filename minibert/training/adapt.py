"""Which weights may change, and how far: freezing, re-initialising, LoRA, L2-SP, averaging.

All of it happens around the loop, which knows nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.model import BertModel
from minibert.pretrained import initialise
from minibert.training.settings import Settings


def encoder_of(model: nn.Module) -> BertModel:
    """The encoder in a model: of a model with a head its ``bert``, else the model itself."""
    return getattr(model, "bert", model)


def adapt(model: nn.Module, settings: Settings) -> None:
    """Freeze, re-initialise or extend parts of the model, as the settings say."""
    bert = encoder_of(model)
    if bert is model and bert.pooler is not None:
        bert.pooler.requires_grad_(False)  # a sentence encoder does not use it
    if settings.reinit is not None:
        reinitialise(model, settings.reinit)
    if settings.freeze is not None:
        freeze(model, settings.freeze)
    if settings.lora is not None:
        add_lora(model, settings.lora)
    if settings.dropout is not None:
        set_dropout(model, settings.dropout)


def set_dropout(model: nn.Module, rate: float) -> None:
    """Give every dropout of a model this rate."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = rate


def freeze(model: nn.Module, what: str | int) -> None:
    """Keep a part as it is: ``"embeddings"``, the embeddings and the first k layers, ``"encoder"``.

    With ``"encoder"`` only the head and the pooler learn (where official weights of a pooler
    exist, they come from next-sentence prediction): the encoder is a feature extractor.

    Raises:
        ValueError: another word, or more layers than there are.
    """
    bert = encoder_of(model)
    layers = len(bert.layers)
    count = {"embeddings": 0, "encoder": layers}.get(what, what)
    if type(count) is not int or not 0 <= count <= layers:
        raise ValueError(
            f"freeze is {what!r}; embeddings, encoder, or 0 to {layers} layers are allowed"
        )
    for part in (bert.embeddings, *bert.layers[:count]):
        part.requires_grad_(False)


def reinitialise(model: nn.Module, layers: int) -> None:
    """Give the pooler and the top ``layers`` layers new random weights.

    The top layers know most about pre-training and least about the task; on little data a fresh
    start of theirs made training steadier. Source: Zhang 2021 (2006.05987), §5.
    """
    bert = encoder_of(model)
    if not 0 <= layers <= len(bert.layers):
        raise ValueError(f"cannot re-initialise {layers} layers; the model has {len(bert.layers)}")
    for part in (bert.pooler, *bert.layers[len(bert.layers) - layers :]):
        if part is not None:
            initialise(part, bert.config)


# --------------------------------------------------------------------------------------------- LoRA


class LoRALinear(nn.Linear):
    """A linear layer that stays as it is, plus a change of low rank: W x + b + s · up (down x).

    ``up`` begins at zero, so at first nothing has changed. Source: Hu 2021, §4.1.
    Shapes: down (rank, in), up (out, rank).
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.requires_grad_(False)
        self.scale = alpha / rank
        self.down = nn.Parameter(self.weight.new_empty(rank, linear.in_features))
        self.up = nn.Parameter(self.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """The layer as it was, plus the change."""
        change = F.linear(F.linear(x, self.down), self.up)  # (..., in) → (..., rank) → (..., out)
        return F.linear(x, self.weight, self.bias) + self.scale * change


def add_lora(model: nn.Module, rank: int) -> None:
    """Freeze the encoder and give the attention projections of every layer a change of low rank.

    The change is scaled by 2: alpha is twice the rank.
    """
    freeze(model, "encoder")
    for layer in encoder_of(model).layers:
        for name in ("query", "key", "value", "output"):
            linear = getattr(layer.attention, name)
            setattr(layer.attention, name, LoRALinear(linear, rank, alpha=2.0 * rank))


def merge_lora(model: nn.Module) -> None:
    """Add every low-rank change to the weights it belongs to; plain linear layers remain."""
    for part in list(model.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, LoRALinear):
                linear = nn.utils.skip_init(nn.Linear, child.in_features, child.out_features)
                linear.weight, linear.bias = child.weight, child.bias
                with torch.no_grad():
                    linear.weight += child.scale * child.up @ child.down  # (out, in)
                setattr(part, name, linear)


# --------------------------------------------------------------------- staying near, going back


def pull_to_start(optimizer: torch.optim.Optimizer, parameters: Iterable, strength: float) -> None:
    """After every step, pull the parameters back towards where they are now, by lr · strength.

    Weight decay pulls towards zero, this towards the pre-trained weights (L2-SP). As in AdamW the
    pull is decoupled: it does not go through the moments. Source: Li 2018 (L2-SP), §3.1;
    Loshchilov & Hutter 2019, §2.
    """
    start = {id(p): p.detach().clone() for p in parameters if p.requires_grad}

    def pull(*_) -> None:
        for group in optimizer.param_groups:
            share = min(group["lr"] * strength, 1.0)
            for parameter in group["params"]:
                if id(parameter) in start:
                    parameter.detach().lerp_(start[id(parameter)], share)

    optimizer.register_step_post_hook(pull)


def blend(
    base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """Average two sets of weights: (1 - alpha) · base + alpha · tuned. What base lacks stays tuned.

    Source: Wortsman 2022 (WiSE-FT), §3.

    Raises:
        ValueError: alpha outside 0 to 1, a shape that differs, or nothing in common.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; 0 is the base model, 1 the tuned one")
    shared = base.keys() & tuned.keys()
    if not shared:
        raise ValueError("the two models have no tensor in common; is base what tuned began as?")
    for name in sorted(shared):
        if base[name].shape != tuned[name].shape:
            raise ValueError(
                f"{name} is {tuple(base[name].shape)} in base, {tuple(tuned[name].shape)} in "
                "tuned; only a model and what was made of it can be blended"
            )
    return {
        name: base[name].lerp(tensor, alpha) if name in shared else tensor
        for name, tensor in tuned.items()
    }
