"""Tasks with named classes: of a text, or of a pair of texts."""

from __future__ import annotations

import csv
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.config import BertConfig
from minibert.heads import BertForSequenceClassification
from minibert.io.files import csv_text
from minibert.training import metrics
from minibert.training.data import Example, count_classes
from minibert.training.plots import matrix
from minibert.training.tasks.base import FAILED, Feature, Task

MULTI_LABEL = "multi_label_classification"  # the problem_type of official config files


def collapsed(what: str) -> str:
    """The remark on a model that says the same of everything."""
    cure = "Another seed, more steps, a longer warm-up or the small recipe usually help"
    return f"{what}: {FAILED}. {cure}"


@dataclass(eq=False)
class ClassTask(Task):
    """A task with named classes; ``classes`` are their names in the order of their numbers."""

    classes: Sequence[str]
    target_dtype = torch.long

    @property
    def config(self) -> dict:
        """The names of the classes."""
        return {"id2label": dict(enumerate(self.classes))}

    @classmethod
    def options_in(cls, config: BertConfig) -> dict:
        """The classes."""
        return {"classes": list(config.id2label.values())}

    def number(self, name: str, example: Example) -> int:
        """The number of a class.

        Raises:
            ValueError: there is no such class; the message names the file and the line.
        """
        if name in self.classes:
            return list(self.classes).index(name)
        raise ValueError(f"{example.where}: {name!r} is not among the classes {[*self.classes]}")

    @abstractmethod
    def numbers(self, predictions: Sequence, features: Sequence[Feature]) -> tuple:
        """The numbers of the true classes and of those predicted, (n,) each."""

    def measure(self, predictions: Sequence[np.ndarray], features: Sequence[Feature]) -> dict:
        """Accuracy, macro-F1, Matthews' correlation, and how many classes were predicted at all."""
        labels, guesses = self.numbers(predictions, features)
        classes = range(len(self.classes))
        return {
            "accuracy": metrics.accuracy(labels, guesses),
            "macro_f1": metrics.precision_recall_f1(labels, guesses, "macro", classes)[2],
            "predicted_classes": len(set(guesses.tolist())),
            "matthews": metrics.matthews_correlation(labels, guesses),
        }

    def remarks(self, measures: dict[str, float]) -> list[str]:
        """Whether one class was predicted for everything."""
        if len(self.classes) == 1 or measures["predicted_classes"] > 1:
            return []
        return [collapsed("every prediction is the same class")]

    def tables(self, predictions: Sequence, features: Sequence[Feature]) -> dict[str, str]:
        """The confusion matrix as a table and as a picture: true classes down, predicted across."""
        labels, guesses = self.numbers(predictions, features)
        table = metrics.confusion_matrix(labels, guesses, range(len(self.classes))).tolist()
        rows = [["true \\ predicted", *self.classes]]
        rows += [[name, *row] for name, row in zip(self.classes, table, strict=True)]
        drawn = matrix(f"{len(labels)} predictions", list(self.classes), table)
        text = csv_text(rows, quoting=csv.QUOTE_NONNUMERIC)
        return {"confusion.csv": text, "confusion.svg": drawn}


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
        counts = count_classes(train)
        balanced = [len(train) / len(counts) / n for n in counts.values()]
        return {
            "classes": [*counts],
            "label_smoothing": settings.label_smoothing,
            "class_weights": balanced if settings.class_weights else None,
        }

    @classmethod
    def fits(cls, config: BertConfig) -> bool:
        """One class alone is a score: `PairRegression`."""
        several = config.extra.get("problem_type") == MULTI_LABEL
        return super().fits(config) and len(config.id2label) > 1 and not several

    def targets(self, examples: Sequence[Example]) -> list[int | None]:
        """The number of the class."""
        labels = [(example.values.get("label"), example) for example in examples]
        return [None if pair[0] is None else self.number(*pair) for pair in labels]

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

    def numbers(self, predictions: Sequence[np.ndarray], features: Sequence[Feature]) -> tuple:
        """One for each example."""
        guesses = np.stack(predictions).argmax(-1)  # (n, C) → (n,)
        return np.array([feature.target for feature in features]), guesses

    def answer(self, probabilities: np.ndarray, example: Example) -> dict:
        """The class and its probability."""
        best = int(probabilities.argmax())
        return {"label": self.classes[best], "probability": float(probabilities[best])}


@dataclass(eq=False)
class MultiLabel(Task):
    """Which labels has the text, or the pair of texts: none, one or several? C yes-or-no questions.

    Args:
        classes: the names of the labels, in the order of their numbers.
        threshold: the least probability of a label that is given; chosen on the development data.
    """

    classes: Sequence[str]
    threshold: float = 0.5
    inputs, truth = ("text", "pair?"), ("labels",)
    best = "micro_f1"
    head = BertForSequenceClassification
    target_dtype = torch.float32

    @property
    def config(self) -> dict:
        """The names of the labels, the threshold, and the official name of this kind of task."""
        labels = {"id2label": dict(enumerate(self.classes))}
        return {**labels, "problem_type": MULTI_LABEL, "label_threshold": self.threshold}

    @classmethod
    def options(cls, settings: Any, train: Sequence[Example]) -> dict:
        """The labels of the training data."""
        return {"classes": sorted({name for e in train for name in e.values["labels"]})}

    @classmethod
    def options_in(cls, config: BertConfig) -> dict:
        """The labels and the threshold."""
        threshold = config.extra.get("label_threshold", 0.5)
        return {"classes": list(config.id2label.values()), "threshold": threshold}

    @classmethod
    def fits(cls, config: BertConfig) -> bool:
        """The config says so."""
        return super().fits(config) and config.extra.get("problem_type") == MULTI_LABEL

    def targets(self, examples: Sequence[Example]) -> list[list[int] | None]:
        """1 for every label that an example has, 0 for every other, (C,)."""
        found: list[list[int] | None] = []
        for example in examples:
            names = example.values.get("labels")
            if unknown := set(names or ()) - set(self.classes):
                raise ValueError(
                    f"{example.where}: {sorted(unknown)} is not among the labels {[*self.classes]}"
                )
            found.append(None if names is None else [int(name in names) for name in self.classes])
        return found

    def weight(self, batch: dict) -> float:
        """The number of questions: one for each example and label."""
        return batch["targets"].numel()

    def criterion(self, logits: Tensor, batch: dict) -> Tensor:
        """Binary cross-entropy, summed. Units: nats."""
        targets = batch["targets"].to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")

    def decode(self, logits: Tensor, batch: dict) -> list[np.ndarray]:
        """The probability of every label, (C,), for every example."""
        return list(logits.float().sigmoid().cpu().numpy())

    def measure(self, predictions: Sequence[np.ndarray], features: Sequence[Feature]) -> dict:
        """F1 of all decisions together, and the mean over labels; examples that are all right."""
        truth, guesses = self.both(predictions, features)
        micro, macro = metrics.multilabel_f1(truth, guesses)
        exact = float((truth == guesses).all(axis=1).mean())
        different = len(np.unique(guesses, axis=0))
        return {"micro_f1": micro, "macro_f1": macro, "exact": exact, "predicted_sets": different}

    def both(self, predictions: Sequence[np.ndarray], features: Sequence[Feature]) -> tuple:
        """Which labels there are and which are given, (n, C) each."""
        truth = np.array([feature.target for feature in features], bool)
        return truth, np.stack(predictions) >= self.threshold

    def calibrate(self, predictions: Sequence[np.ndarray], features: Sequence[Feature]) -> None:
        """Choose the threshold with the best micro-F1, of those that make a difference."""
        truth, probabilities = self.both(predictions, features)[0], np.stack(predictions)
        found = np.unique(probabilities.round(3))  # at most 1,001
        scores = [metrics.multilabel_f1(truth, probabilities >= least)[0] for least in found]
        self.threshold = float(found[int(np.argmax(scores))])

    def remarks(self, measures: dict[str, float]) -> list[str]:
        """Whether every text got the same labels."""
        if measures["predicted_sets"] > 1:
            return []
        return [collapsed("every text gets the same labels")]

    def answer(self, probabilities: np.ndarray, example: Example) -> dict:
        """The probabilities, and the labels that are given."""
        pairs = dict(zip(self.classes, map(float, probabilities), strict=True))
        given = [name for name, probability in pairs.items() if probability >= self.threshold]
        return {"probabilities": pairs, "labels": given}
