"""A tag for every word: named entities, or parts of speech."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from minibert.heads import BertForTokenClassification
from minibert.io.files import csv_text
from minibert.training.data import Example
from minibert.training.entities import entities, entity_scores, is_scheme
from minibert.training.tasks.base import Feature
from minibert.training.tasks.classes import ClassTask

IGNORE = -100  # the target of a position that does not count, cross_entropy's own default
WORD = re.compile(r"\w+|[^\w\s]")  # as the usual data sets cut texts: punctuation stands alone


class TokenClassification(ClassTask):
    """Which tag has each word? Cross-entropy at the first piece of every word.

    Where the tags mark entities (``B-PER``, ``I-PER``, ``O``; see `entities`), whole entities are
    measured and shown, not words. A sentence is a list of words; in use, it may be a plain text.

    Source: Devlin 2019, §5.3 (the first piece stands for the word; the others do not count).
    """

    inputs, truth = ("tokens",), ("tags",)
    best = "f1"
    head = BertForTokenClassification
    pipeline = "token-classification"

    @classmethod
    def options(cls, settings: Any, train: Sequence[Example]) -> dict:
        """The tags of the training data."""
        return {"classes": sorted({tag for example in train for tag in example.values["tags"]})}

    @classmethod
    def inputs_in_use(cls) -> tuple[str, ...]:
        """Words, or a text that `words` cuts."""
        return ("tokens?", "text?")

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids; the number of the tag at each first piece; where the first pieces are."""
        features = [self.feature(example) for example in examples]
        both = zip(features, examples, strict=True)
        self.warn_truncated([len(f.extra[0]) < len(words(e)) for f, e in both])
        return features

    def feature(self, example: Example) -> Feature:
        """As many whole words as there is room for; ``extra``: where they start, all tags."""
        tokens, tags = words(example), example.values.get("tags")
        if tags is not None and len(tags) != len(tokens):
            raise ValueError(f"{example.where}: {len(tokens)} tokens, but {len(tags)} tags")
        ids, starts = [self.tokenizer.cls_token_id], []
        for word in tokens:
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
        return Feature([ids], [[0] * len(ids)], target, (starts, tags))

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``targets``: (B, T), IGNORE at [CLS], [SEP], further pieces and padding."""
        width = max(feature.length for feature in features)
        padded = [
            feature._replace(target=feature.target + [IGNORE] * (width - feature.length))
            if feature.target else feature
            for feature in features
        ]  # fmt: skip
        return {**super().collate(padded), "starts": [feature.extra[0] for feature in features]}

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
        labels = [np.array(feature.target)[feature.extra[0]] for feature in features]
        return np.concatenate(labels), np.concatenate(predictions)

    def measure(self, predictions: Sequence[np.ndarray], features: Sequence[Feature]) -> dict:
        """Precision, recall and F1 of whole entities; F1 is the tags' macro-F1 where none are."""
        measures = super().measure(predictions, features)
        if not is_scheme(self.classes):
            return {"f1": measures["macro_f1"], **measures}
        precision, recall, f1, _ = self.entity_scores(predictions, features)["micro"]
        return {"f1": f1, "precision": precision, "recall": recall, **measures}

    def entity_scores(self, predictions: Sequence, features: Sequence[Feature]) -> dict:
        """`entities.entity_scores` of the sentences; words that were cut off count as ``O``."""
        truth = [feature.extra[1] for feature in features]
        guesses = [self.names(tags) for tags in predictions]
        for true, guess in zip(truth, guesses, strict=True):
            guess += ["O"] * (len(true) - len(guess))
        return dict(entity_scores(truth, guesses))

    def tables(self, predictions: Sequence, features: Sequence[Feature]) -> dict[str, str]:
        """The confusion matrix of the tags, and the scores of every type of entity."""
        tables = super().tables(predictions, features)
        if is_scheme(self.classes):
            rows: list[tuple] = [("type", "precision", "recall", "f1", "entities")]
            for kind, (*scores, count) in self.entity_scores(predictions, features).items():
                rows.append((kind, *(f"{score:.4f}" for score in scores), count))
            tables["entities.csv"] = csv_text(rows)
        return tables

    def names(self, tags: np.ndarray) -> list[str]:
        """The names of the tags of a sentence."""
        return [self.classes[tag] for tag in tags]

    def answer(self, tags: np.ndarray, example: Example) -> dict:
        """The tags of the words; of a plain text, its entities and where they stand."""
        names = self.names(tags)
        if "tokens" in example.values or not is_scheme(self.classes):
            return {"tags": names}
        text = example.values["text"]
        spans = [match.span() for match in WORD.finditer(text)]
        places = [(kind, spans[first][0], spans[last][1]) for kind, first, last in entities(names)]
        return {
            "entities": [
                {"type": kind, "text": text[start:end], "start": start, "end": end}
                for kind, start, end in places
            ]
        }


def words(example: Example) -> list[str]:
    """The words of an example: as they are given, or those of its text.

    Raises:
        ValueError: it has neither words nor a text.
    """
    if example.values.get("tokens") is not None:
        return example.values["tokens"]
    if example.values.get("text") is None:
        raise ValueError(f"{example.where}: words (tokens) or a text are needed")
    return WORD.findall(example.values["text"])
