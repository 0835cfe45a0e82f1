"""A tag for every word: named entities, parts of speech."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.heads import BertForTokenClassification
from minibert.training.data import Example
from minibert.training.tasks.base import ClassTask, Feature

IGNORE = -100  # the target of a position that does not count, cross_entropy's own default


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
        cut = sum(
            len(feature.extra) < len(example.values["tokens"])
            for feature, example in zip(features, examples, strict=True)
        )
        if cut:
            warnings.warn(
                f"{cut} of {len(features)} texts have more than {self.max_length} tokens and were "
                "cut; pass a larger max_length",
                stacklevel=2,
            )
        return features

    def feature(self, example: Example) -> Feature:
        """As many whole words as there is room for; ``extra``: where they start."""
        words, tags = example.values["tokens"], example.values.get("tags")
        if tags is not None and len(tags) != len(words):
            raise ValueError(f"{example.where}: {len(words)} tokens, but {len(tags)} tags")
        if unknown := set(tags or ()) - set(self.numbers):
            raise ValueError(f"{example.where}: the tags {unknown} are not in {self.classes}")
        ids, starts = [self.tokenizer.cls_token_id], []
        for word in words:
            pieces = self.tokenizer.ids(word) or [self.tokenizer.unk_token_id]
            if len(ids) + len(pieces) >= self.max_length:
                break
            starts.append(len(ids))
            ids += pieces
        ids.append(self.tokenizer.sep_token_id)
        target = None if tags is None else [IGNORE] * len(ids)
        for start, tag in zip(starts, tags or (), strict=False):  # words cut off have no start
            target[start] = self.numbers[tag]
        return Feature([ids], [[0] * len(ids)], target, starts)

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``targets``: (B, T), IGNORE at [CLS], [SEP], further pieces and padding."""
        width = max(feature.length for feature in features)
        target = None
        if features[0].target is not None:
            rows = [feature.target + [IGNORE] * (width - feature.length) for feature in features]
            target = torch.tensor(rows)  # (B, T)
        starts = [feature.extra for feature in features]
        return {"inputs": self.pad(features), "targets": target, "starts": starts}

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

    def measure(self, predictions: Sequence[np.ndarray], features: Sequence[Feature]) -> dict:
        """Accuracy and macro-F1 over words."""
        guesses = np.concatenate(predictions)
        labels = np.concatenate([np.array(f.target)[f.extra] for f in features])
        return self.measure_classes(labels, guesses)

    def answer(self, tags: np.ndarray) -> dict:
        """The tags of the words."""
        return {"tags": [self.classes[tag] for tag in tags]}
