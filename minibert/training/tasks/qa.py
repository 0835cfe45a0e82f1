"""Extractive question answering: the answer is a span of a given context."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.heads import BertForQuestionAnswering
from minibert.training.data import Example
from minibert.training.tasks.base import Feature, Task


@dataclass(eq=False)
class QuestionAnswering(Task):
    """Where in the context is the answer to the question? Its first and its last token.

    An answer that was cut off with the end of a long context counts as none: [CLS].
    Source: Devlin 2019, §4.2 and §4.3; metrics: Rajpurkar 2016, §6.1.
    """

    max_length: int = field(default=384, kw_only=True)
    inputs, truth = ("question", "context"), ("answers",)
    sides = (inputs,)
    best = "f1"
    head = BertForQuestionAnswering
    pipeline = "question-answering"
    target_dtype = torch.long
    longest = 30  # tokens of an answer

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids, the two ends of the answer, and where context tokens come from."""
        features = super().encode(examples)
        lost = []
        for i, example in enumerate(examples):
            row, kinds = features[i].rows[0], features[i].types[0]
            context, answers = example.values["context"], example.values.get("answers")
            answer = answers and answers[0][0]
            first, kept = kinds.index(1), sum(kinds) - 1  # the last 1 is [SEP]
            offsets = self.tokenizer.offsets(context)[:kept]
            span = answer_span(example, offsets) if answers else None
            lost.append(bool(answers) and span is None)
            target = None if answers is None else (0, 0)  # [CLS]
            if span:
                target = (first + span[0], first + span[1])
            features[i] = Feature([row], [kinds], target, (first, offsets, context, answer or ""))
        self.warn_truncated(lost, "answers end beyond the limit of")
        return features

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``targets``: (B, 2), the first and the last token of the answer."""
        return {**super().collate(features), "extra": [feature.extra for feature in features]}

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """Scores of every token as first and as last of the answer, (B, T, 2)."""
        return torch.stack(tuple(model(**batch["inputs"])), dim=-1)

    def criterion(self, logits: Tensor, batch: dict) -> Tensor:
        """The mean of the cross-entropies of both ends, summed over questions. Units: nats."""
        return F.cross_entropy(logits, batch["targets"], reduction="sum") / 2  # classes = tokens

    def decode(self, logits: Tensor, batch: dict) -> list[str]:
        """The best-scored span of the context of every question, as text."""
        answers = []
        for row, (first, offsets, context, _) in zip(logits.float(), batch["extra"], strict=True):
            start, end = row[first : first + len(offsets)].unbind(-1)  # (kept,) each
            spans = (start[:, None] + end[None, :]).triu()  # (kept, kept), start <= end
            allowed = torch.ones_like(spans).triu().tril(self.longest - 1) > 0
            best = spans.masked_fill(~allowed, -math.inf).argmax().item()
            a, b = divmod(best, len(offsets))
            answers.append(context[offsets[a][0] : offsets[b][1]])
        return answers

    def measure(self, predictions: Sequence[str], features: Sequence[Feature]) -> dict:
        """Exact matches, and F1 of the words, against the true answers."""
        exact, f1 = [], []
        for prediction, feature in zip(predictions, features, strict=True):
            guess, truth = plain_words(prediction), plain_words(feature.extra[3])
            shared, words = (Counter(guess) & Counter(truth)).total(), len(guess) + len(truth)
            exact.append(guess == truth)
            f1.append(2 * shared / words if words else 1.0)
        return {"exact": float(np.mean(exact)), "f1": float(np.mean(f1))}

    def answer(self, text: str, example: Example) -> dict:
        """The answer."""
        return {"answer": text}


def answer_span(example: Example, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The first and the last context token of the answer; None if a part of it was cut off.

    Raises:
        ValueError: the answer does not stand where the row says.
    """
    context, (answer, start) = example.values["context"], example.values["answers"][0]
    end = start + len(answer)
    if context[start:end] != answer:
        raise ValueError(
            f"{example.where}: at {start} the context has {context[start:end]!r}, not the answer "
            f"{answer!r}"
        )
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    if not inside or offsets[inside[-1]][1] < len(context[:end].rstrip()):
        return None
    return inside[0], inside[-1]


def plain_words(text: str) -> list[str]:
    """The words of an answer without case, punctuation and articles (Rajpurkar 2016, §6.1)."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()
