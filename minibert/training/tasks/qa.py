"""Extractive question answering: the answer is a span of a given context, or there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.heads import BertForQuestionAnswering
from minibert.training.answers import answer_score, best_threshold, misplaced
from minibert.training.data import Example
from minibert.training.tasks.base import Feature, Task

N_BEST = 5  # answers that a prediction keeps


class Window(NamedTuple):
    """A part of a context that the model sees at once."""

    first: int  # the place of its first token in the row
    offsets: list[tuple[int, int]]  # where its tokens stand in the context


class Found(NamedTuple):
    """What the model says about a question."""

    spans: list[tuple[float, int, int]]  # score, start and end in the context; the best first
    none: float  # the score of "no answer"


@dataclass(eq=False)
class QuestionAnswering(Task):
    """Where in the context is the answer to the question? Its first and its last token.

    A context that is too long is read in windows, each ``stride`` tokens further than the one
    before. In a window without the answer, and where there is none at all, [CLS] is the answer.

    Args:
        stride: tokens from the start of one window to that of the next.
        threshold: a question is left without an answer where "no answer" scores better than the
            best answer by more than this; None = every question gets one. If some training
            questions have no answer it is chosen on the development data, by F1.

    Source: Devlin 2019, §4.2 and §4.3; windows: google-research/bert, ``run_squad.py``; metrics:
    Rajpurkar 2016, §6.1, and 2018.
    """

    max_length: int = field(default=384, kw_only=True)
    stride: int = field(default=128, kw_only=True)
    threshold: float | None = field(default=None, kw_only=True)
    inputs, truth = ("question", "context"), ("answers",)
    best = "f1"
    head = BertForQuestionAnswering
    pipeline = "question-answering"
    target_dtype = torch.long
    longest = 30  # tokens of an answer

    @property
    def config(self) -> dict:
        """The threshold is kept in the config of the model."""
        return {"no_answer_threshold": self.threshold}

    @classmethod
    def options(cls, settings: Any, train: Sequence[Example]) -> dict:
        """The stride; a threshold where questions without an answer are to be learnt."""
        unanswerable = any(not example.values["answers"] for example in train)
        return {"stride": settings.doc_stride, "threshold": 0.0 if unanswerable else None}

    @classmethod
    def options_in(cls, config: BertConfig) -> dict:
        """The threshold."""
        return {"threshold": config.extra.get("no_answer_threshold")}

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Rows of ids, one for each window; the two ends of the answer in each."""
        features, asked, lost = [], [], []
        most = self.max_length // 2  # tokens of a question: half of the room is the context's
        for example in examples:
            question = self.tokenizer.ids(example.values["question"])
            asked.append(len(question) > most)
            golds = example.values.get("answers")
            check_answers(example, golds or ())
            feature = self.feature(question[:most], example.values["context"], golds)
            features.append(feature)
            lost.append(bool(golds) and all(target == (0, 0) for target in feature.target))
        self.warn_truncated(asked, f"questions were cut to {most} tokens, to fit with a context in")
        self.warn_truncated(lost, "answers do not fit into a window of")
        return features

    def feature(self, question: list[int], context: str, golds: list | None) -> Feature:
        """The windows of a context; ``extra``: these, the context, and the right answers."""
        ids, offsets = self.tokenizer.ids(context), self.tokenizer.offsets(context)
        cls, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        front = [cls, *question, sep]
        room = self.max_length - len(front) - 1
        if room < 1:
            raise ValueError(f"max_length={self.max_length} has no room for a context; give more")
        step = min(self.stride, room)
        starts = range(0, max(len(ids) - room + step, 1), step)
        rows = [[*front, *ids[start : start + room], sep] for start in starts]
        types = [[0] * len(front) + [1] * (len(row) - len(front)) for row in rows]
        windows = [Window(len(front), offsets[start : start + room]) for start in starts]
        targets = None if golds is None else [self.target(w, golds) for w in windows]
        return Feature(rows, types, targets, (windows, context, golds))

    def target(self, window: Window, golds: list) -> tuple[int, int]:
        """The first and the last token of the first answer; [CLS] where it is not all here."""
        for answer, start in golds[:1]:
            end = start + len(answer.rstrip())
            inside = [i for i, (a, b) in enumerate(window.offsets) if a < end and b > start]
            if not inside or (inside[0] == 0 and window.offsets[0][0] > start):
                break
            if window.offsets[inside[-1]][1] >= end:
                return window.first + inside[0], window.first + inside[-1]
        return 0, 0

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``targets``: (R, 2), the first and the last token of the answer in each window."""
        rows = [row for feature in features for row in feature.rows]
        inputs = self.tokenizer.pad(rows, [kinds for f in features for kinds in f.types])
        known = features[0].target is not None
        targets = [target for feature in features for target in feature.target or ()]
        return {
            "inputs": inputs,
            "targets": torch.tensor(targets) if known else None,
            "extra": [feature.extra for feature in features],
        }

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """Scores of every token as first and as last of the answer, (R, T, 2)."""
        return torch.stack(tuple(model(**batch["inputs"])), dim=-1)

    def criterion(self, logits: Tensor, batch: dict) -> Tensor:
        """The mean of the cross-entropies of both ends, summed over windows. Units: nats."""
        return F.cross_entropy(logits, batch["targets"], reduction="sum") / 2  # classes = tokens

    def decode(self, logits: Tensor, batch: dict) -> list[Found]:
        """The best spans of every question, over all its windows."""
        rows = iter(logits.float().cpu())
        return [
            found([spans(next(rows), window, self.longest) for window in windows], context)
            for windows, context, _ in batch["extra"]
        ]

    def text(self, found: Found, context: str) -> str:
        """The answer; "" for none."""
        score, start, end = found.spans[0] if found.spans else (-math.inf, 0, 0)
        if self.threshold is not None and found.none - score > self.threshold:
            return ""
        return context[start:end]

    def measure(self, predictions: Sequence[Found], features: Sequence[Feature]) -> dict:
        """Exact matches, and F1 of the words, against the right answer that fits best."""
        texts = [self.text(p, f.extra[1]) for p, f in zip(predictions, features, strict=True)]
        exact, f1 = zip(*scores(texts, features), strict=True)
        return {"exact": float(np.mean(exact)), "f1": float(np.mean(f1))}

    def calibrate(self, predictions: Sequence[Found], features: Sequence[Feature]) -> None:
        """Choose the threshold with the best F1."""
        if self.threshold is None:
            return
        self.threshold = math.inf  # as if every question had to be answered
        texts = [self.text(p, f.extra[1]) for p, f in zip(predictions, features, strict=True)]
        margins = [p.none - (p.spans[0][0] if p.spans else -math.inf) for p in predictions]
        f1 = [f1 for _, f1 in scores(texts, features)]
        unanswerable = [not feature.extra[2] for feature in features]
        threshold, _ = best_threshold(margins, f1, unanswerable, [not text for text in texts])
        self.threshold = max(threshold, min(margins) - 1)  # a number: JSON has no infinity

    def answer(self, found: Found, example: Example) -> dict:
        """The answer, "" for none, and before it the best ones with their scores."""
        context = example.values["context"]
        best = [
            {"text": context[start:end], "start": start, "score": score - found.none}
            for score, start, end in found.spans
        ]
        return {"n_best": best, "answer": self.text(found, context)}


def check_answers(example: Example, golds: Sequence) -> None:
    """Refuse an answer that does not stand where the row says.

    Raises:
        ValueError: the message names the file and the line.
    """
    context = example.values["context"]
    for answer, start in misplaced(context, golds):
        found = context[start : start + len(answer)]
        raise ValueError(
            f"{example.where}: at {start} the context has {found!r}, not the answer {answer!r}"
        )


def spans(scores: Tensor, window: Window, longest: int) -> Found:
    """The best spans of one window. Shapes: scores (T, 2)."""
    kept = len(window.offsets)
    start, end = scores[window.first : window.first + kept].unbind(-1)  # (kept,) each
    both = start[:, None] + end[None, :]  # (kept, kept)
    allowed = torch.ones_like(both).triu().tril(longest - 1) > 0  # not backwards, not too long
    both = both.masked_fill(~allowed, -math.inf).flatten()
    top = both.topk(min(N_BEST, int(allowed.sum())))
    places = [divmod(place, kept) for place in top.indices.tolist()]
    return Found(
        [
            (score, window.offsets[a][0], window.offsets[b][1])
            for score, (a, b) in zip(top.values.tolist(), places, strict=True)
        ],
        scores[0].sum().item(),
    )


def found(windows: Sequence[Found], context: str) -> Found:
    """All windows together: the best spans, each text once; no answer is what all must say."""
    best: dict[str, tuple[float, int, int]] = {}
    for span in sorted((span for window in windows for span in window.spans), reverse=True):
        best.setdefault(context[span[1] : span[2]], span)
    return Found([*best.values()][:N_BEST], min(window.none for window in windows))


def scores(texts: Sequence[str], features: Sequence[Feature]) -> list[tuple[float, float]]:
    """Exact match and F1 of every answer, by the rules of SQuAD 2.0 if some have no answer."""
    golds = [[answer for answer, _ in feature.extra[2]] for feature in features]
    v2 = not all(golds)
    return [answer_score(text, gold, v2) for text, gold in zip(texts, golds, strict=True)]
