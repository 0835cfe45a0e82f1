"""What a BERT may know before its first step: how frequent words are, and where neighbours stand.

From weights that are all random a small model guesses frequent tokens for long: as long as its
heads look everywhere at once, no neighbour tells it anything. Here positions begin as sinusoids,
of which a head can find the next one by a rotation, and heads begin with that rotation. Nothing is
fixed: all of it is learnt on from the first step, and the model stays an ordinary BERT.

Sources: sinusoids, Vaswani 2017 §3.5; attention that begins with a pattern instead of noise,
Trockman & Kolter 2023 (Mimetic Initialization of Self-Attention Layers).
"""

from __future__ import annotations

import math
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

LONGEST = 100  # the periods of the sinusoids: from 2 to 2 · 100 tokens
PEAK = 8.0  # nats: the score of the place that a head begins with; a third of its attention


@torch.no_grad()
def begin_with_frequencies(model: nn.Module, share: np.ndarray) -> None:
    """Guess each token as often as it comes: the bias of the words is their log frequency.

    Args:
        share: (V,) of all tokens, none of them 0.
    """
    model.predictions.bias.copy_(torch.from_numpy(np.log(share)))


@torch.no_grad()
def begin_with_neighbours(model: nn.Module) -> None:
    """Let positions be sinusoids, and the heads of a layer look 1, -1, 2, -2, ... places away."""
    config = model.config
    H, A = config.hidden_size, config.num_attention_heads
    frequencies = math.pi * LONGEST ** -(torch.arange(H // 2) / (H // 2))  # (H/2,) radians a token
    table = model.bert.embeddings.position.weight  # (P, H)
    angles = torch.arange(len(table))[:, None] * frequencies  # (P, H/2)
    waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)  # (P, H)
    table.copy_(math.sqrt(2) * config.initializer_range * waves)  # as large as the words are
    for layer in model.bert.layers:
        query = layer.attention.query.weight.view(A, -1, H)  # (A, D, H)
        key = layer.attention.key.weight.view(A, -1, H)
        for head, places in zip(range(A), (s * n for n in count(1) for s in (-1, 1)), strict=False):
            query[head] += looking(places, frequencies, H // A)
            key[head] += looking(0, frequencies, H // A)


def looking(places: int, frequencies: Tensor, D: int) -> Tensor:
    """(D, H): takes the quickest D/2 waves of a vector, as they are some places farther on."""
    gain = math.sqrt(PEAK * math.sqrt(D) / (D // 2))
    turned = torch.zeros(D, 2 * len(frequencies))
    for i, angle in enumerate((places * frequencies[: D // 2]).tolist()):
        here = slice(2 * i, 2 * i + 2)
        turned[here, here] = gain * torch.tensor(
            [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        )
    return turned
