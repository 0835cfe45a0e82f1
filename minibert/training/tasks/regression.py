"""Similarity of two texts that the model reads together (a cross-encoder)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.heads import BertForSequenceClassification
from minibert.training.data import Example
from minibert.training.tasks.base import Feature, ScoreTask


@dataclass(eq=False)
class PairRegression(ScoreTask):
    """How alike are two texts read together (a cross-encoder)? Squared error of one logit."""

    head = BertForSequenceClassification
    config = {
        "id2label": {0: "score"},
        "problem_type": "regression",
        # sentence-transformers would put a sigmoid behind one logit; ours is the score already
        "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
    }

    @classmethod
    def fits(cls, config: BertConfig) -> bool:
        """Several classes are `Classification`."""
        return super().fits(config) and len(config.id2label) == 1

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids of both texts in one row, and the score, 0 to 1."""
        return self.features(examples, self.scores(examples))

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """One logit for each pair, (B,)."""
        return super().outputs(model, batch).squeeze(-1)  # (B, 1) → (B,)
