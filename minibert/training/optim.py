"""What the optimizer needs: learning-rate schedules, and parameters in groups."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

# ---------------------------------------------------------------------------------------- schedules


def constant(warmup: int, total: int) -> Callable[[int], float]:
    """Rise from 0 over ``warmup`` steps, then stay at 1. Step 0 is the first."""
    return lambda step: min(step / max(warmup, 1), 1.0) if warmup else 1.0


def linear(warmup: int, total: int) -> Callable[[int], float]:
    """Rise from 0 over ``warmup`` steps, then fall to 0 at step ``total`` (which is never taken).

    Source: Devlin 2019, appendix A.2; the numbers are those of every common implementation.
    """
    left = max(total - warmup, 1)
    return lambda step: step / warmup if step < warmup else max(0.0, (total - step) / left)


def cosine(warmup: int, total: int) -> Callable[[int], float]:
    """Rise from 0 over ``warmup`` steps, then fall to 0 along half a cosine wave.

    Source: Loshchilov & Hutter 2017 (SGDR), equation 5, without restarts.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(total - warmup, 1), 1.0)))

    return factor


SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine}


# ---------------------------------------------------------------------------------------- optimizer


def parameter_groups(
    model: nn.Module, lr: float, decay: float = 0.01, layer_decay: float = 1.0
) -> list[dict]:
    """The trainable parameters in groups of one learning rate and one weight decay each.

    Matrices decay; biases and LayerNorms, which are vectors, do not (Devlin 2019, appendix A.2, as
    in the official code). With ``layer_decay`` below 1 every layer learns that much slower than
    the one above it; a head learns with ``lr`` (Howard & Ruder 2018, §3.2).

    Raises:
        ValueError: every parameter is frozen.
    """
    layers = len(getattr(model, "bert", model).layers)
    groups: dict[tuple, list] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = lr * layer_decay ** (layers + 1 - depth(name, layers))
            groups.setdefault((rate, decay if parameter.dim() > 1 else 0.0), []).append(parameter)
    if not groups:
        raise ValueError("every parameter is frozen: there is nothing to train")
    return [
        {"params": members, "lr": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]


def depth(name: str, layers: int) -> int:
    """How deep a parameter stands: embeddings 0, layer i (from 0) i + 1, what comes after + 1."""
    parts = name.removeprefix("bert.").split(".")
    if parts[0] == "embeddings":
        return 0
    return int(parts[1]) + 1 if parts[0] == "layers" else layers + 1


def make_optimizer(name: str, groups: list[dict]) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD of torch. The fused kernels update all weights in one pass over memory.

    Both Adams correct the bias of their moments (Kingma & Ba 2015, §3), which the code that BERT
    was published with does not do; on little data that made runs fail (Zhang 2021, §4).
    """
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, fused=True)
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name](groups, fused=True)
