"""Distillation as a task: the vectors of a teacher are what is to be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.io import distributed
from minibert.training.tasks.base import Feature
from minibert.training.tasks.pairs import BiEncoder


@dataclass(eq=False)
class Distil(BiEncoder):
    """Which vector does the teacher give to this text? Its direction is learnt, not its length.

    The loss of a text is 1 - cos(its vector, the teacher's) and, ``similarities`` times, the mean
    over the texts of the batch of (cos(student's two vectors) - cos(teacher's two vectors))².

    Args:
        rows: the ids of every text, cut to ``max_length``, in the student's vocabulary.
        vectors: those of the teacher, (texts, H), of length 1.

    Source: Reimers & Gurevych 2020 (2004.09813), §2 (vectors); Tung & Mori 2019 (1907.09682), §3
    (similarities inside a batch).
    """

    _: KW_ONLY
    rows: Sequence[np.ndarray]
    vectors: Tensor
    similarities: float = 1.0
    best = "cosine"
    inputs = ("text",)

    def encode(self, examples: Sequence[int]) -> list[Feature]:
        """The features of texts, which are given by their numbers."""
        return [Feature([self.rows[i]], [], int(i)) for i in examples]

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``targets``: the vectors of the teacher, (B, H)."""
        lengths = np.array([feature.length for feature in features])
        B, T = len(lengths), lengths.max()
        ids = np.full((B, T), self.tokenizer.pad_token_id)  # (B, T)
        real = np.arange(T) < lengths[:, None]  # (B, T)
        ids[real] = np.concatenate([feature.rows[0] for feature in features])
        mask = None if real.all() else torch.from_numpy(real)
        numbers = torch.tensor([feature.target for feature in features])
        return {
            "inputs": {"input_ids": torch.from_numpy(ids), "attention_mask": mask},
            "targets": self.vectors[numbers],
        }

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """Unit vectors, (B, H)."""
        return F.normalize(self.embed(model, batch["inputs"]).float(), dim=-1)

    def criterion(self, vectors: Tensor, batch: dict) -> Tensor:
        """Both parts of the loss, summed over the texts."""
        with torch.autocast(vectors.device.type, enabled=False):  # bfloat16 has no third decimal
            wanted = batch["targets"].float()  # (B, H)
            loss = (1 - (vectors * wanted).sum(1)).sum()
            if not self.similarities:
                return loss
            return loss + self.similarities * self.difference(vectors, wanted)

    def difference(self, vectors: Tensor, wanted: Tensor) -> Tensor:
        """Squared differences of similarities: the mean over all partners, summed over the texts.

        Where several processes share a batch, the partners are the texts of all of them. Those of
        the others count twice in the gradient: the other process has the same pair, but cannot
        send its part of the gradient here.
        """
        own = (vectors @ vectors.T - wanted @ wanted.T).square().sum()  # (B, B)
        if distributed.processes() == 1 or not vectors.requires_grad:  # measured by each alone
            return own / len(vectors)
        count = int(distributed.add_up(len(vectors)))
        room = -(-count // distributed.processes())  # of unequal shares the largest
        both = torch.stack((vectors.detach(), wanted))  # (2, B, H)
        everyone = distributed.gather(F.pad(both, (0, 0, 0, room - len(vectors))))
        del everyone[distributed.rank()]
        theirs, theirs_wanted = torch.cat(everyone, dim=1)  # (2, others, H); zeros add nothing
        across = (vectors @ theirs.T - wanted @ theirs_wanted.T).square().sum()
        return (own + 2 * across - across.detach()) / count

    def decode(self, vectors: Tensor, batch: dict) -> list[float]:
        """The cosine of each vector and the teacher's."""
        return (vectors * batch["targets"].float()).sum(1).tolist()

    def measure(self, predictions: Sequence[float], features: Sequence[Feature]) -> dict:
        """The mean cosine to the teacher's vectors."""
        return {"cosine": float(np.mean(predictions))}

    def answer(self, prediction: Any, example: Any) -> dict:
        """The cosine to the teacher's vector."""
        return {"cosine": prediction}
