"""Tiny models in which every number matters, ragged batches, and the same model in transformers.

A freshly initialised BERT hides mistakes: its biases are zero, its LayerNorms do nothing and its
attention is nearly uniform. So every model built here has all its parameters perturbed.
"""

from __future__ import annotations

import random

import torch
from torch import nn

from minibert.config import BertConfig
from minibert.io.checkpoint import ENCODER_NAMES, official_name
from minibert.parity.probes import ragged_batch

__all__ = ["ragged_batch"]  # for the tests, which need a batch and a model together

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "##x"]


def tiny_config(**changes: object) -> BertConfig:
    """A small config; ``changes`` are official keys, ``num_labels`` too."""
    return BertConfig.from_dict({**SIZES, **changes})


def perturb(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random numbers in every parameter, so large that each of them shows in the output."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in model.modules():
            for name, parameter in part.named_parameters(recurse=False):
                noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
                if isinstance(part, nn.LayerNorm) and name == "weight":
                    parameter.copy_(1 + 0.3 * noise)
                elif parameter.dim() == 1:
                    parameter.copy_(0.3 * noise)
                else:
                    parameter.copy_(1.5 / parameter.shape[1] ** 0.5 * noise)
    return model


def build(model_class: type, config: BertConfig, seed: int = 0, dtype=torch.float32) -> nn.Module:
    """A perturbed model of a class, in eval mode."""
    return perturb(model_class(config).to(dtype), seed).eval()


def in_reference(model: nn.Module) -> nn.Module:
    """The class of that name in transformers, with the same numbers, dtype and mode.

    Every parameter of theirs gets one of ours under its official name; a leftover is an error.
    """
    import transformers

    theirs = getattr(transformers, type(model).__name__)(
        transformers.BertConfig(**model.config.to_dict(), attn_implementation="eager")
    ).to(next(model.parameters()).dtype)
    empty = dict(theirs.named_parameters())  # tied tensors stand in it once
    with torch.no_grad():
        for ours, value in model.state_dict().items():
            name = official_name(ours, (*ENCODER_NAMES, *model.names))
            name = name if name in empty else f"bert.{name}"
            if empty[name].shape != value.shape:
                raise ValueError(f"{name}: theirs {empty[name].shape}, ours {value.shape}")
            empty.pop(name).copy_(value)
    if empty:
        raise ValueError(f"parameters of transformers' model that got no value: {list(empty)}")
    return theirs.train(model.training)


def words(seed: int, count: int, longest: int = 12) -> list[str]:
    choose = random.Random(seed)
    return [
        " ".join(choose.choices("abcdefghij", k=choose.randint(0, longest))) for _ in range(count)
    ]

