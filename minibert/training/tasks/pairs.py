"""Tasks about two texts: how alike they are, or which belong together.

A cross-encoder reads both together; a bi-encoder turns each into a vector of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.heads import BertForSequenceClassification
from minibert.io.directory import ModelDirectory
from minibert.model import BertModel
from minibert.pooling import POOLING
from minibert.sentence_encoder import SentenceEncoder
from minibert.training import metrics
from minibert.training.data import Example, scaled_score, score_scale
from minibert.training.tasks.base import Feature, Started, Task


@dataclass(eq=False)
class ScoreTask(Task):
    """A task with a score for each pair of texts, learnt on 0 to 1 by the squared error.

    ``scale`` is that of the scores in the data; None = the narrowest usual one that holds them.
    """

    scale: tuple[float, float] | None = None
    inputs, truth = ("text", "pair"), ("score",)
    best = "spearman"

    @classmethod
    def options(cls, settings: Any, train: Sequence[Example]) -> dict:
        """The scale of the scores."""
        return {"scale": settings.scale or score_scale(train)}

    @classmethod
    def options_in(cls, config: BertConfig) -> dict:
        """The scale that was learnt on."""
        return {"scale": config.extra.get("score_scale")}

    def targets(self, examples: Sequence[Example]) -> list[float | None]:
        """The score of every example, brought to 0 to 1; None where there is none."""
        if any(example.values.get("score") is None for example in examples):
            return [None] * len(examples)
        scale = self.scale or score_scale(examples)
        return [scaled_score(example, scale) for example in examples]

    def criterion(self, outputs: Tensor, batch: dict) -> Tensor:
        """The squared error, summed."""
        return F.mse_loss(outputs, batch["targets"].to(outputs), reduction="sum")

    def decode(self, outputs: Tensor, batch: dict) -> list[float]:
        """The scores."""
        return outputs.float().tolist()

    def measure(self, predictions: Sequence[float], features: Sequence[Feature]) -> dict:
        """Spearman's and Pearson's correlation with the true scores, and the squared error."""
        targets = [feature.target for feature in features]
        return {
            "spearman": metrics.spearman(targets, predictions),
            "pearson": metrics.pearson(targets, predictions),
            "mse": metrics.mean_squared_error(targets, predictions),
        }

    def answer(self, score: float, example: Example) -> dict:
        """The score, 0 to 1; of a bi-encoder the cosine."""
        return {"score": score}


@dataclass(eq=False)
class PairRegression(ScoreTask):
    """How alike are two texts read together (a cross-encoder)? Squared error of one logit."""

    head = BertForSequenceClassification

    @property
    def config(self) -> dict:
        """One score, and its scale; sentence-transformers would put a sigmoid behind the logit."""
        return {
            "id2label": {0: "score"},
            "problem_type": "regression",
            "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
            "score_scale": self.scale and list(self.scale),
        }

    @classmethod
    def fits(cls, config: BertConfig) -> bool:
        """Several classes are `Classification`."""
        return super().fits(config) and len(config.id2label) == 1

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """One logit for each pair, (B,)."""
        return super().outputs(model, batch).squeeze(-1)  # (B, 1) → (B,)


@dataclass(eq=False)
class BiEncoder(Task):
    """A task without a head: texts become vectors, each for itself, and vectors are compared.

    The result of a fine-tuning is a sentence encoder. ``pooling``: how hidden states become a
    vector, names in ``pooling.POOLING``; ``encoder``: what is saved. Its default prompt stands
    before every text, and its ``truncate_dim`` holds: the vectors are those it will be asked for.
    """

    pooling: Sequence[str] = field(default=("mean",), kw_only=True)
    encoder: SentenceEncoder | None = field(default=None, kw_only=True)
    sides = (("text",), ("pair",))
    head = BertModel
    library, pipeline = "sentence-transformers", "sentence-similarity"

    @classmethod
    def fits(cls, config: BertConfig) -> bool:
        """A sentence encoder is known by its modules.json, not by its config."""
        return False

    @classmethod
    def start(cls, base: ModelDirectory, settings: Any, train: Sequence[Example]) -> Started:
        """The task and the model of a sentence encoder."""
        length = settings.max_length or cls.max_length
        return cls.load(base, max_length=length, **cls.options(settings, train))

    @classmethod
    def load(cls, directory: ModelDirectory, config: Any = None, **options: Any) -> Started:
        """The task and the model of a sentence encoder."""
        encoder = SentenceEncoder.from_pretrained(directory, device="cpu", engine="textbook")
        if encoder.dense:
            raise ValueError(f"{directory} has a Dense module, which minibert does not train")
        options = {"max_length": encoder.max_length, "pooling": encoder.pooling, **options}
        return cls(encoder.tokenizer, encoder=encoder, **options), encoder.model

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write a directory of sentence-transformers."""
        self.encoder.save_pretrained(directory)

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids, those of the default prompt included, and targets."""
        if prompt := self.prompt:
            named = [name for (name,) in self.sides if name in examples[0].values]
            examples = [
                e._replace(values=e.values | {name: prompt + e.values[name] for name in named})
                for e in examples
            ]
        return super().encode(examples)

    @property
    def prompt(self) -> str:
        """The encoder's default prompt."""
        return self.encoder.prompt(None, None) if self.encoder else ""

    def embed(self, model: nn.Module, inputs: dict) -> Tensor:
        """The pooled vectors of rows of tokens, not normalised, (R, H) or as far as they are used.

        As `SentenceEncoder.encode` computes them, where there is no Dense.
        """
        hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"]  # (R, T, H)
        if self.encoder and (skip := self.encoder.not_pooled(self.prompt)):
            behind = torch.arange(hidden.shape[1], device=hidden.device) >= skip  # (T,)
            mask = (True if mask is None else mask) & behind.expand(hidden.shape[:2])
        vectors = torch.cat([POOLING[name](hidden, mask) for name in self.pooling], dim=-1)
        return vectors[:, : self.encoder.truncate_dim] if self.encoder else vectors


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
    sides = (("text",), ("pair",), ("negative",))
    best = "found_first"

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

    def answer(self, vectors: np.ndarray, example: Example) -> dict:
        """The cosine of the two texts."""
        return {"score": float(vectors[0] @ vectors[1])}
