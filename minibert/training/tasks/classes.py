"""Tasks with named classes: of a text, of a pair of texts, or of every word (tags)."""

from __future__ import annotations

import csv
import io
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.config import BertConfig
from minibert.heads import BertForSequenceClassification, BertForTokenClassification
from minibert.training import metrics
from minibert.training.data import Example, class_names, count_classes
from minibert.training.tasks.base import FAILED, Feature, Task

IGNORE = -100  # the target of a position that does not count, cross_entropy's own default


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
        return [
            f"every prediction is the same class: {FAILED}. Another seed, more steps, a longer "
            "warm-up or --recipe small usually help"
        ]

    def tables(self, predictions: Sequence, features: Sequence[Feature]) -> dict[str, str]:
        """The confusion matrix: a row for each true class, a column for each predicted one."""
        labels, guesses = self.numbers(predictions, features)
        table = metrics.confusion_matrix(labels, guesses, range(len(self.classes))).tolist()
        text = io.StringIO()
        writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(["true \\ predicted", *self.classes])
        writer.writerows([name, *row] for name, row in zip(self.classes, table, strict=True))
        return {"confusion.csv": text.getvalue()}


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

    def answer(self, probabilities: np.ndarray) -> dict:
        """The class and its probability."""
        best = int(probabilities.argmax())
        return {"label": self.classes[best], "probability": float(probabilities[best])}


class TokenClassification(ClassTask):
    """Which tag has each word? Cross-entropy at the first piece of every word.

    Source: Devlin 2019, §5.3 (the first piece stands for the word; the others do not count).
    """

    inputs, truth = ("tokens",), ("tags",)
    best = "macro_f1"
    head = BertForTokenClassification
    pipeline = "token-classification"

    @classmethod
    def options(cls, settings: Any, train: Sequence[Example]) -> dict:
        """The tags of the training data."""
        return {"classes": sorted({tag for example in train for tag in example.values["tags"]})}

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids; the number of the tag at each first piece; where the first pieces are."""
        features = [self.feature(example) for example in examples]
        both = zip(features, examples, strict=True)
        self.warn_truncated([len(f.extra) < len(e.values["tokens"]) for f, e in both])
        return features

    def feature(self, example: Example) -> Feature:
        """As many whole words as there is room for; ``extra``: where they start."""
        words, tags = example.values["tokens"], example.values.get("tags")
        if tags is not None and len(tags) != len(words):
            raise ValueError(f"{example.where}: {len(words)} tokens, but {len(tags)} tags")
        ids, starts = [self.tokenizer.cls_token_id], []
        for word in words:
            pieces = self.tokenizer.ids(word) or [self.tokenizer.unk_token_id]
            if len(ids) + len(pieces) >= self.max_length:
                break
            starts.append(len(ids))
            ids += pieces
        ids.append(self.tokenizer.sep_token_id)
        target = None if tags is None else [IGNORE] * len(ids)
        numbers = [self.number(tag, example) for tag in tags or ()]
        for start, number in zip(starts, numbers, strict=False):  # words cut off have no start
            target[start] = number
        return Feature([ids], [[0] * len(ids)], target, starts)

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``targets``: (B, T), IGNORE at [CLS], [SEP], further pieces and padding."""
        width = max(feature.length for feature in features)
        padded = [
            feature._replace(target=feature.target + [IGNORE] * (width - feature.length))
            if feature.target else feature
            for feature in features
        ]  # fmt: skip
        return {**super().collate(padded), "starts": [feature.extra for feature in features]}

    def weight(self, batch: dict) -> float:
        """The number of words with a tag."""
        return (batch["targets"] != IGNORE).sum().item()

    def criterion(self, logits: Tensor, batch: dict) -> Tensor:
        """Cross-entropy, summed over the words. Units: nats."""
        flat = logits.flatten(0, 1), batch["targets"].flatten()  # (B T, C), (B T,)
        return F.cross_entropy(*flat, ignore_index=IGNORE, reduction="sum")

    def decode(self, logits: Tensor, batch: dict) -> list[np.ndarray]:
        """The number of the tag of every word."""
        guesses = logits.argmax(-1).cpu().numpy()  # (B, T)
        return [row[starts] for row, starts in zip(guesses, batch["starts"], strict=True)]

    def numbers(self, predictions: Sequence[np.ndarray], features: Sequence[Feature]) -> tuple:
        """One for each word."""
        labels = [np.array(feature.target)[feature.extra] for feature in features]
        return np.concatenate(labels), np.concatenate(predictions)

    def answer(self, tags: np.ndarray) -> dict:
        """The tags of the words."""
        return {"tags": [self.classes[tag] for tag in tags]}
