"""Retrieval: which text belongs to which (a bi-encoder)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.training.data import Example
from minibert.training.tasks.base import BiEncoder, Feature


@dataclass(eq=False)
class Contrastive(BiEncoder):
    """Which text belongs to which? The positive against the positives of all others in the batch.

    A third text of a row is a hard negative: one more wrong answer for everybody. Two rows with
    the same positive are not held against each other. ``sharpness``: what cosines are multiplied
    by, the inverse of the temperature.

    Source: Henderson 2017, §4.4 (in-batch negatives); cosine times 20 as in sentence-transformers.
    """

    sharpness: float = 20.0
    inputs = ("text", "pair", "negative?")
    best = "found_first"

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids of anchor, positive and, if all rows have one, negative."""
        names = ["text", "pair", "negative"]
        names = names[: 3 if "negative" in examples[0].values else 2]
        return self.sides(examples, names, [None] * len(examples))

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``targets``: (B,), which candidate is right; ``twins``: (B, candidates), also right."""
        answers = [tuple(feature.rows[1]) for feature in features]
        if len(features[0].rows) == 3:
            answers += [tuple(feature.rows[2]) for feature in features]
        B = len(features)
        twins = [[j != i and a == answers[i] for j, a in enumerate(answers)] for i in range(B)]
        inputs = self.pad(features)
        return {"inputs": inputs, "targets": torch.arange(B), "twins": torch.tensor(twins)}

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """Unit vectors, (B, sides, H)."""
        vectors = F.normalize(self.embed(model, batch["inputs"]), dim=-1)  # (sides B, H)
        sides = len(vectors) // len(batch["targets"])
        return vectors.unflatten(0, (sides, -1)).transpose(0, 1)  # (sides, B, H) → (B, sides, H)

    def criterion(self, vectors: Tensor, batch: dict) -> Tensor:
        """Cross-entropy of the right answer among all answers of the batch, summed."""
        anchors = vectors[:, 0]  # (B, H)
        candidates = vectors[:, 1:].transpose(0, 1).flatten(0, 1)  # (B or 2B, H), positives first
        logits = self.sharpness * anchors @ candidates.T  # (B, candidates)
        logits = logits.masked_fill(batch["twins"], float("-inf"))
        return F.cross_entropy(logits, batch["targets"], reduction="sum")

    def decode(self, vectors: Tensor, batch: dict) -> list[np.ndarray]:
        """The vectors of anchor and positive, (2, H)."""
        return list(vectors[:, :2].float().cpu().numpy())

    def measure(self, predictions: Sequence[np.ndarray], features: Sequence[Feature]) -> dict:
        """How often the right answer is the nearest among all, and its mean reciprocal rank."""
        anchors, positives = np.stack(predictions, axis=1)  # (n, H) each
        cosines = anchors @ positives.T  # (n, n)
        answers = [tuple(feature.rows[1]) for feature in features]
        numbers = np.array([answers.index(answer) for answer in answers])
        cosines[:, np.arange(len(numbers)) != numbers] = -np.inf  # a repeated answer counts once
        right = cosines[np.arange(len(numbers)), numbers]  # (n,)
        ranks = (cosines > right[:, None]).sum(axis=1) + 1
        return {
            "found_first": float((ranks == 1).mean()),
            "reciprocal_rank": float((1 / ranks).mean()),
            "cosine_mean": float(right.mean()),
        }

    def answer(self, vectors: np.ndarray) -> dict:
        """The cosine of the two texts."""
        return {"score": float(vectors[0] @ vectors[1])}
