"""Classification of a text, or of a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.config import BertConfig
from minibert.heads import BertForSequenceClassification
from minibert.training import metrics
from minibert.training.data import Example, class_names, count_classes
from minibert.training.tasks.base import ClassTask, Feature


@dataclass(eq=False)
class Classification(ClassTask):
    """Which class has the text, or the pair of texts? Cross-entropy on (B, C) logits.

    Args:
        label_smoothing: this much of the truth is spread evenly over all classes.
        class_weights: the weight of an example of each class; None = all count alike.
    """

    label_smoothing: float = 0.0
    class_weights: Sequence[float] | None = None
    inputs, truth = ("text", "pair?"), ("label",)
    best = "accuracy"
    head = BertForSequenceClassification

    @classmethod
    def options(cls, settings: Any, train: Sequence[Example]) -> dict:
        """The classes of the training data, and how much each counts."""
        counts = count_classes(train).values()
        balanced = [len(train) / len(counts) / n for n in counts]
        return {
            "classes": class_names(train),
            "label_smoothing": settings.label_smoothing,
            "class_weights": balanced if settings.class_weights else None,
        }

    @classmethod
    def fits(cls, config: BertConfig) -> bool:
        """One class alone is a score: `PairRegression`."""
        return super().fits(config) and len(config.id2label) > 1

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids and the number of the class."""
        labels = [example.values.get("label") for example in examples]
        for example, label in zip(examples, labels, strict=True):
            if label is not None and label not in self.numbers:
                raise ValueError(
                    f"{example.where}: the label {label!r} is not among the classes "
                    f"{list(self.classes)}"
                )
        return self.features(examples, [self.numbers.get(label) for label in labels])

    def weight(self, batch: dict) -> float:
        """The number of examples, or the sum of their class weights."""
        if self.class_weights is None:
            return len(batch["targets"])
        return torch.tensor(self.class_weights)[batch["targets"].cpu()].sum().item()

    def criterion(self, logits: Tensor, batch: dict) -> Tensor:
        """Cross-entropy, summed. Units: nats."""
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        how = {"label_smoothing": self.label_smoothing, "reduction": "sum"}
        return F.cross_entropy(logits, batch["targets"], weights, **how)

    def decode(self, logits: Tensor, batch: dict) -> list[np.ndarray]:
        """The probabilities of the classes, (C,), for every example."""
        return list(logits.float().softmax(-1).cpu().numpy())

    def measure(self, predictions: Sequence[np.ndarray], features: Sequence[Feature]) -> dict:
        """Accuracy, macro-F1, Matthews' correlation, and how many classes were predicted at all."""
        labels, guesses = labels_and_guesses(predictions, features)
        matthews = metrics.matthews_correlation(labels, guesses)
        return {**self.measure_classes(labels, guesses), "matthews": matthews}

    def answer(self, probabilities: np.ndarray) -> dict:
        """The class and its probability."""
        best = int(probabilities.argmax())
        return {"label": self.classes[best], "probability": float(probabilities[best])}

    def tables(self, predictions: Sequence, features: Sequence[Feature]) -> dict[str, str]:
        """The confusion matrix: a row for each true class, a column for each predicted one."""
        table = metrics.confusion_matrix(
            *labels_and_guesses(predictions, features), range(len(self.classes))
        )
        quoted = ['"' + name.replace('"', '""') + '"' for name in self.classes]
        lines = [",".join(['"true \\ predicted"', *quoted])]
        lines += [",".join([q, *map(str, row)]) for q, row in zip(quoted, table, strict=True)]
        return {"confusion.csv": "\n".join(lines) + "\n"}


def labels_and_guesses(
    predictions: Sequence[np.ndarray], features: Sequence[Feature]
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the true and of the most probable classes, (n,) each."""
    labels = np.array([feature.target for feature in features])
    return labels, np.stack(predictions).argmax(-1)  # (n, C) → (n,)
