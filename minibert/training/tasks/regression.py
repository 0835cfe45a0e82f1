"""Similarity of two texts that the model reads together (a cross-encoder)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.heads import BertForSequenceClassification
from minibert.training.data import Example, score_scale
from minibert.training.tasks.base import Feature, Task, correlations, scores


@dataclass(eq=False)
class PairRegression(Task):
    """How alike are two texts read together (a cross-encoder)? Squared error of one logit.

    ``scale`` is that of the scores in the data (None = see `scores`); they are learnt on 0 to 1.
    """

    scale: tuple[float, float] | None = None
    inputs, truth = ("text", "pair"), ("score",)
    best = "spearman"
    head = BertForSequenceClassification
    config = {
        "id2label": {0: "score"},
        "problem_type": "regression",
        # sentence-transformers would put a sigmoid behind one logit; ours is the score already
        "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
    }

    @classmethod
    def options(cls, settings: Any, train: Sequence[Example]) -> dict:
        """The scale of the scores."""
        return {"scale": settings.scale or score_scale(train)}

    @classmethod
    def fits(cls, config: BertConfig) -> bool:
        """Several classes are `Classification`."""
        return super().fits(config) and len(config.id2label) == 1

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids of both texts in one row, and the score, 0 to 1."""
        return self.features(examples, scores(examples, self.scale))

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """One logit for each pair, (B,)."""
        return model(**batch["inputs"]).logits.squeeze(-1)  # (B, 1) → (B,)

    def criterion(self, logits: Tensor, batch: dict) -> Tensor:
        """The squared error, summed."""
        return F.mse_loss(logits, batch["targets"].to(logits), reduction="sum")

    def decode(self, logits: Tensor, batch: dict) -> list[float]:
        """The scores."""
        return logits.float().tolist()

    def measure(self, predictions: Sequence[float], features: Sequence[Feature]) -> dict:
        """Spearman's and Pearson's correlation with the true scores, and the squared error."""
        return correlations([feature.target for feature in features], predictions)

    def answer(self, score: float) -> dict:
        """The score, 0 to 1."""
        return {"score": score}
