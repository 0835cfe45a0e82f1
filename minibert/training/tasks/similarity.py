"""Similarity of two texts that the model reads one at a time (a bi-encoder)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.training.data import Example
from minibert.training.tasks.base import BiEncoder, Feature, ScoreTask


@dataclass(eq=False)
class Similarity(BiEncoder, ScoreTask):
    """How alike are two texts read apart (a bi-encoder)? The cosine of their vectors.

    Args:
        objective: ``"cosine"``, the squared error of the cosine, or ``"cosent"``, which asks only
            that the cosines stand in the order of the scores.

    Source: Reimers & Gurevych 2019, §3 (regression objective); CoSENT: Su 2022, as
    log(1 + Σ exp(20 (cos_j - cos_i))) over the pairs i, j of the batch with score_i > score_j.
    """

    objective: str = "cosine"

    def __post_init__(self) -> None:
        """Refuse another objective."""
        if self.objective not in ("cosine", "cosent"):
            raise ValueError(f"objective {self.objective!r}; 'cosine' or 'cosent' is allowed")

    @classmethod
    def options(cls, settings: Any, train: Sequence[Example]) -> dict:
        """The scale of the scores, and the objective."""
        return {**super().options(settings, train), "objective": settings.objective}

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids of both texts, a row for each, and the score, 0 to 1."""
        return self.sides(examples, ["text", "pair"], self.scores(examples))

    def weight(self, batch: dict) -> float:
        """The number of pairs; CoSENT is one number for the whole batch."""
        return len(batch["targets"]) if self.objective == "cosine" else 1

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """The cosine of each pair, (B,)."""
        first, second = self.embed(model, batch["inputs"]).chunk(2)  # (2B, H) → (B, H) × 2
        return F.cosine_similarity(first, second)

    def criterion(self, cosines: Tensor, batch: dict) -> Tensor:
        """The squared error, summed; or CoSENT's one number."""
        if self.objective == "cosine":
            return super().criterion(cosines, batch)
        target = batch["targets"].to(cosines)
        wrong = 20 * (cosines[None, :] - cosines[:, None])  # (B, B), [i][j] = cos_j - cos_i
        wrong = wrong[target[:, None] > target[None, :]]
        return torch.logsumexp(torch.cat([wrong.new_zeros(1), wrong]), dim=0)

    def measure(self, predictions: Sequence[float], features: Sequence[Feature]) -> dict:
        """Correlations with the true scores, and mean and spread of the cosines."""
        return {
            **super().measure(predictions, features),
            "cosine_mean": float(np.mean(predictions)),
            "cosine_sd": float(np.std(predictions)),
        }

    def remarks(self, measures: dict[str, float]) -> list[str]:
        """Whether all cosines are nearly the same."""
        mean, spread = measures["cosine_mean"], measures["cosine_sd"]
        if spread >= 0.05 or (spread >= 0.02 and mean <= 0.95):
            return []
        return [
            f"the cosines have collapsed: {mean:.3f} on average with a spread of {spread:.3f}. A "
            "lower learning rate, cosent instead of cosine, or scores that use the whole scale help"
        ]
