"""Tasks: what is learnt. A task = the inputs it makes of examples + a loss + a metric + a head.

Seven small classes without a common ancestor. Each has

    roles                    what a row of data must have (see ``data.read``)
    best                     the measure that decides which checkpoint is the best one
    encode(examples)         → features: token ids and the target, computed once
    collate(features, seeds) → a batch: ``inputs`` for the model and ``targets``
    weight(batch)            how many things its loss sums over: examples, or masked tokens
    outputs(model, batch)    → what the model says
    loss(outputs, batch)     → a SUM over those things, never a mean: whoever adds up batches must
                               divide by the weight of all of them, once
    decode(outputs, batch)   → one prediction per example, in numpy or plain Python
    measure(predictions, features)   → name → number
    answer(prediction)       → name → what to tell a person
"""

from __future__ import annotations

import math
import re
import string
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.heads import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from minibert.pooling import POOLING
from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training import metrics
from minibert.training.data import Example, scaled_score

IGNORE = -100  # the target of a position that does not count, cross_entropy's own default
MASK_SHARE = 0.15  # of the tokens are to be guessed (Devlin 2019, §3.1)


class Feature(NamedTuple):
    """An example as the model takes it: rows of ids (two for two sides), and the target."""

    rows: list[list[int]]
    types: list[list[int]]
    target: Any = None
    extra: Any = None  # what decoding needs besides

    @property
    def length(self) -> int:
        """Tokens of the longest row: what a batch is padded to."""
        return max(map(len, self.rows))


def tokenise(
    tokenizer: BertTokenizer, columns: Sequence[Sequence[str]], max_length: int, pairs: bool
) -> tuple[list, list]:
    """Rows and segment ids for every example: one row with all its texts, or a row for each.

    Says once how many were cut.
    """
    if pairs:  # [CLS] text [SEP] pair [SEP]
        batches = [tokenizer.encode_batch(*columns, max_length=max_length)]
    else:
        batches = [tokenizer.encode_batch(column, max_length=max_length) for column in columns]
    cut = sum(batch.truncated for batch in batches)
    if cut:
        longest = max(max(batch.lengths) for batch in batches)
        warnings.warn(
            f"{cut} of {sum(len(batch.ids) for batch in batches)} inputs have more than "
            f"{max_length} tokens (up to {longest}) and were cut; pass a larger max_length",
            stacklevel=4,
        )
    rows = [list(sides) for sides in zip(*(batch.ids for batch in batches), strict=True)]
    types = [list(sides) for sides in zip(*(batch.type_ids for batch in batches), strict=True)]
    return rows, types


def pad(tokenizer: BertTokenizer, features: Sequence[Feature]) -> dict[str, Tensor | None]:
    """The model's inputs, (R, T) each: all first rows, then all second rows, and so on.

    Both sides of a pair thus go through the model in one pass. Without padding there is no mask.
    """
    sides = range(len(features[0].rows))
    rows = [feature.rows[side] for side in sides for feature in features]
    types = [feature.types[side] for side in sides for feature in features]
    inputs = tokenizer.pad(rows, types)
    if min(map(len, rows)) == max(map(len, rows)):
        inputs["attention_mask"] = None
    return inputs


# ------------------------------------------------------------------------------ one text or pair


class Classification:
    """Which class has the text, or the pair of texts? Cross-entropy on (B, C) logits.

    Args:
        tokenizer: the model's.
        classes: their names, in the order of their numbers.
        max_length: tokens of an input, special tokens included.
        label_smoothing: this much of the truth is spread evenly over all classes.
        class_weights: the weight of an example of each class; None = all count alike.
    """

    roles = ("text", "pair?", "label")
    best = "accuracy"
    head = BertForSequenceClassification

    def __init__(
        self,
        tokenizer: BertTokenizer,
        classes: Sequence[str],
        *,
        max_length: int = 128,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        """Keep the settings."""
        self.tokenizer, self.classes, self.max_length = tokenizer, list(classes), max_length
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else torch.tensor(class_weights)

    @property
    def config(self) -> dict:
        """What the model's config must say."""
        return {"id2label": dict(enumerate(self.classes))}

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids and the number of the class (None where there is no label)."""
        numbers = {name: i for i, name in enumerate(self.classes)}
        targets = []
        for example in examples:
            label = example.values.get("label")
            if label is not None and label not in numbers:
                raise ValueError(
                    f"{example.where}: the label {label!r} is not among the classes {self.classes}"
                )
            targets.append(None if label is None else numbers[label])
        return texts_and_targets(self, examples, targets)

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``targets``: (B,) class numbers."""
        return {"inputs": pad(self.tokenizer, features), "targets": targets(features, torch.long)}

    def weight(self, batch: dict) -> float:
        """The number of examples, or the sum of their class weights."""
        if self.class_weights is None:
            return len(batch["targets"])
        return self.class_weights[batch["targets"].cpu()].sum().item()

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """Logits, (B, C)."""
        return model(**batch["inputs"]).logits

    def loss(self, logits: Tensor, batch: dict) -> Tensor:
        """Cross-entropy, summed. Units: nats."""
        weights = self.class_weights
        return F.cross_entropy(
            logits,
            batch["targets"],
            weight=None if weights is None else weights.to(logits),
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )

    def decode(self, logits: Tensor, batch: dict) -> list[np.ndarray]:
        """The probabilities of the classes, (C,), for every example."""
        return list(logits.float().softmax(-1).cpu().numpy())

    def measure(self, predictions: Sequence[np.ndarray], features: Sequence[Feature]) -> dict:
        """Accuracy, macro-F1, and how many classes were predicted at all."""
        guesses = np.stack(predictions).argmax(-1)  # (n, C) → (n,)
        labels = np.array([feature.target for feature in features])
        names = range(len(self.classes))
        return {
            "accuracy": metrics.accuracy(labels, guesses),
            "macro_f1": metrics.precision_recall_f1(labels, guesses, "macro", names)[2],
            "matthews": metrics.matthews_correlation(labels, guesses),
            "predicted_classes": len(set(guesses.tolist())),
        }

    def answer(self, probabilities: np.ndarray) -> dict:
        """The class and its probability."""
        best = int(probabilities.argmax())
        return {"label": self.classes[best], "probability": float(probabilities[best])}


class PairRegression:
    """How alike are two texts read together (a cross-encoder)? Squared error of one logit.

    Scores are learnt on the scale 0 to 1.
    """

    roles = ("text", "pair", "score")
    best = "spearman"
    head = BertForSequenceClassification
    config = {
        "id2label": {0: "score"},
        "problem_type": "regression",
        # sentence-transformers would put a sigmoid behind one logit; ours is the score already
        "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
    }

    def __init__(
        self,
        tokenizer: BertTokenizer,
        *,
        scale: tuple[float, float] = (0.0, 1.0),
        max_length: int = 128,
    ) -> None:
        """Keep the settings; ``scale`` is that of the scores in the data."""
        self.tokenizer, self.scale, self.max_length = tokenizer, tuple(scale), max_length

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids of both texts in one row, and the score, 0 to 1."""
        return texts_and_targets(self, examples, scores(examples, self.scale))

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``targets``: (B,) scores."""
        return {"inputs": pad(self.tokenizer, features), "targets": targets(features)}

    def weight(self, batch: dict) -> float:
        """The number of pairs."""
        return len(batch["targets"])

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """One logit for each pair, (B,)."""
        return model(**batch["inputs"]).logits.squeeze(-1)  # (B, 1) → (B,)

    def loss(self, logits: Tensor, batch: dict) -> Tensor:
        """The squared error, summed."""
        return F.mse_loss(logits, batch["targets"].to(logits), reduction="sum")

    def decode(self, logits: Tensor, batch: dict) -> list[float]:
        """The scores."""
        return logits.float().tolist()

    def measure(self, predictions: Sequence[float], features: Sequence[Feature]) -> dict:
        """Spearman's and Pearson's correlation with the true scores, and the squared error."""
        return correlations([feature.target for feature in features], predictions)

    def answer(self, score: float) -> dict:
        """The score, 0 to 1."""
        return {"score": score}


def texts_and_targets(task: Any, examples: Sequence[Example], targets: Sequence) -> list[Feature]:
    """Features of one row each: a text, or a text and its pair."""
    columns = [[example.values["text"] for example in examples]]
    if any(example.values.get("pair") for example in examples):
        columns.append([example.values.get("pair") for example in examples])
    rows, types = tokenise(task.tokenizer, columns, task.max_length, pairs=True)
    return [Feature(*feature) for feature in zip(rows, types, targets, strict=True)]


def scores(examples: Sequence[Example], scale: tuple[float, float]) -> list[float | None]:
    """The score of every example, 0 to 1; None where there is none."""
    return [
        None if example.values.get("score") is None else scaled_score(example, scale)
        for example in examples
    ]


def targets(features: Sequence[Feature], dtype: torch.dtype = torch.float64) -> Tensor | None:
    """The targets of a batch as a tensor, (B,); None where there are none (`predict`)."""
    if features[0].target is None:
        return None
    return torch.tensor([feature.target for feature in features], dtype=dtype)


def correlations(targets: Sequence[float], predictions: Sequence[float]) -> dict:
    """Spearman, Pearson and the mean squared error."""
    return {
        "spearman": metrics.spearman(targets, predictions),
        "pearson": metrics.pearson(targets, predictions),
        "mse": metrics.mean_squared_error(targets, predictions),
    }


# --------------------------------------------------------------------------- texts side by side


class Similarity:
    """How alike are two texts read apart (a bi-encoder)? The cosine of their vectors.

    Args:
        tokenizer: the model's.
        pooling: how hidden states become a vector, names in ``pooling.POOLING``.
        scale: of the scores in the data; they are learnt on the scale 0 to 1.
        objective: ``"cosine"``, the squared error of the cosine, or ``"cosent"``, which asks only
            that the cosines stand in the order of the scores.

    Source: Reimers & Gurevych 2019, §3 (regression objective); CoSENT: Su 2022, as
    log(1 + Σ exp(20 (cos_j - cos_i))) over the pairs i, j of the batch with score_i > score_j.
    """

    roles = ("text", "pair", "score")
    best = "spearman"

    def __init__(
        self,
        tokenizer: BertTokenizer,
        *,
        pooling: Sequence[str] = ("mean",),
        scale: tuple[float, float] = (0.0, 1.0),
        max_length: int = 128,
        objective: str = "cosine",
    ) -> None:
        """Keep the settings."""
        if objective not in ("cosine", "cosent"):
            raise ValueError(f"objective {objective!r}; 'cosine' or 'cosent' is allowed")
        self.tokenizer, self.pooling, self.max_length = tokenizer, tuple(pooling), max_length
        self.scale, self.objective = tuple(scale), objective

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids of both texts, a row for each, and the score, 0 to 1."""
        return sides_and_targets(self, examples, ["text", "pair"], scores(examples, self.scale))

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``inputs`` have 2 B rows, first sides first; ``targets``: (B,) scores."""
        return {"inputs": pad(self.tokenizer, features), "targets": targets(features)}

    def weight(self, batch: dict) -> float:
        """The number of pairs; CoSENT is one number for the whole batch."""
        return len(batch["targets"]) if self.objective == "cosine" else 1

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """The cosine of each pair, (B,)."""
        first, second = embed(model, batch["inputs"], self.pooling).chunk(2)  # (2B, H) → (B, H) × 2
        return F.cosine_similarity(first, second)

    def loss(self, cosines: Tensor, batch: dict) -> Tensor:
        """The squared error, summed; or CoSENT's one number."""
        target = batch["targets"].to(cosines)
        if self.objective == "cosine":
            return F.mse_loss(cosines, target, reduction="sum")
        wrong = 20 * (cosines[None, :] - cosines[:, None])  # (B, B), [i][j] = cos_j - cos_i
        wrong = wrong[target[:, None] > target[None, :]]
        return torch.logsumexp(torch.cat([wrong.new_zeros(1), wrong]), dim=0)

    def decode(self, cosines: Tensor, batch: dict) -> list[float]:
        """The cosines."""
        return cosines.float().tolist()

    def measure(self, predictions: Sequence[float], features: Sequence[Feature]) -> dict:
        """Correlations with the true scores, and how the cosines lie (all alike = collapse)."""
        return {
            **correlations([feature.target for feature in features], predictions),
            "cosine_mean": float(np.mean(predictions)),
            "cosine_sd": float(np.std(predictions)),
        }

    def answer(self, cosine: float) -> dict:
        """The cosine."""
        return {"score": cosine}


class Contrastive:
    """Which text belongs to which? The positive against the positives of all others in the batch.

    A third text of a row is a hard negative: one more wrong answer for everybody. Two rows with
    the same positive are not held against each other.

    Source: Henderson 2017, §4.4 (in-batch negatives); cosine times 20 as in sentence-transformers.
    """

    roles = ("text", "pair", "negative?")
    best = "found_first"

    def __init__(
        self,
        tokenizer: BertTokenizer,
        *,
        pooling: Sequence[str] = ("mean",),
        max_length: int = 128,
        sharpness: float = 20.0,
    ) -> None:
        """Keep the settings; ``sharpness`` is what cosines are multiplied by."""
        self.tokenizer, self.pooling, self.max_length = tokenizer, tuple(pooling), max_length
        self.sharpness = sharpness

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids of anchor, positive and, if all rows have one, negative."""
        names = ["text", "pair", "negative"]
        names = names[: 3 if "negative" in examples[0].values else 2]
        return sides_and_targets(self, examples, names, [None] * len(examples))

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``targets``: (B,), which candidate is right; ``twins``: (B, candidates), also right."""
        B = len(features)
        answers = [tuple(row) for side in (1, 2) for f in features for row in f.rows[side:][:1]]
        if len(features[0].rows) == 2:
            answers = answers[:B]
        columns = range(len(answers))
        twins = [[j != i and answers[j] == answers[i] for j in columns] for i in range(B)]
        inputs = pad(self.tokenizer, features)
        return {"inputs": inputs, "targets": torch.arange(B), "twins": torch.tensor(twins)}

    def weight(self, batch: dict) -> float:
        """The number of anchors."""
        return len(batch["targets"])

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """Unit vectors, (B, sides, H)."""
        vectors = F.normalize(embed(model, batch["inputs"], self.pooling), dim=-1)  # (sides B, H)
        sides = len(vectors) // len(batch["targets"])
        return vectors.unflatten(0, (sides, -1)).transpose(0, 1)  # (sides, B, H) → (B, sides, H)

    def loss(self, vectors: Tensor, batch: dict) -> Tensor:
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

    def answer(self, vectors: np.ndarray) -> dict:
        """The cosine of the two texts."""
        return {"score": float(vectors[0] @ vectors[1])}


def sides_and_targets(
    task: Any, examples: Sequence[Example], names: Sequence[str], targets: Sequence
) -> list[Feature]:
    """Features with a row for each text."""
    columns = [[example.values[name] for example in examples] for name in names]
    rows, types = tokenise(task.tokenizer, columns, task.max_length, pairs=False)
    return [Feature(*feature) for feature in zip(rows, types, targets, strict=True)]


def embed(model: nn.Module, inputs: dict, pooling: Sequence[str]) -> Tensor:
    """The pooled vectors of rows of tokens, not normalised, (R, H)."""
    hidden = model(**inputs).last_hidden_state  # (R, T, H)
    return torch.cat([POOLING[name](hidden, inputs["attention_mask"]) for name in pooling], dim=-1)


# ------------------------------------------------------------------------------- token by token


class MaskedLM:
    """Which word stands behind [MASK]? For a domain that has texts and no labels.

    15 % of the tokens are to be guessed, at least one in a text, chosen anew every time it comes
    by; 80 % of these are shown as [MASK], 10 % as another word, 10 % as they are.

    Source: Devlin 2019, §3.1 and appendix A.1; at least one: google-research/bert,
    ``create_pretraining_data.py``; anew every time: Liu 2019 (RoBERTa), §4.1.
    """

    roles = ("text",)
    best = "accuracy"
    head = BertForMaskedLM
    config: dict = {}

    def __init__(
        self, tokenizer: BertTokenizer, *, max_length: int = 128, share: float = MASK_SHARE
    ) -> None:
        """Keep the settings; ``share`` of the tokens are guessed."""
        if tokenizer.mask_token_id is None:
            raise ValueError("masked LM needs a vocabulary with [MASK], and this one has none")
        self.tokenizer, self.max_length, self.share = tokenizer, max_length, share
        self.special = torch.tensor(tokenizer.all_special_ids)
        words = torch.arange(len(tokenizer))
        self.words = words[~torch.isin(words, self.special)]

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids."""
        return texts_and_targets(self, examples, [None] * len(examples))

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``places``: (B, T), True where a token is to be guessed; ``targets``: (M,), its id."""
        inputs = pad(self.tokenizer, features)
        ids = inputs["input_ids"]  # (B, T)
        chance = np.ones((3, *ids.shape))  # to be guessed? shown as what? as which word?
        for i, feature in enumerate(features):
            random = np.random.default_rng(None if seeds is None else seeds[i])
            chance[:, i, : feature.length] = random.random((3, feature.length))
        guess, fate, word = torch.from_numpy(chance)  # (B, T) each
        guess = guess.masked_fill(torch.isin(ids, self.special), 1.0)
        least = guess.min(dim=1, keepdim=True).values  # (B, 1): at least one token of every text
        places = (guess < self.share) | ((guess == least) & (guess < 1))
        found = ids[places]  # (M,)
        random = self.words[(word[places] * len(self.words)).long()]
        shown = torch.where(fate[places] < 0.8, self.tokenizer.mask_token_id, found)
        shown = torch.where(fate[places] >= 0.9, random, shown)
        inputs["input_ids"] = ids.masked_scatter(places, shown)
        return {"inputs": inputs, "places": places, "targets": found}

    def weight(self, batch: dict) -> float:
        """The number of tokens to guess."""
        return len(batch["targets"])

    def outputs(self, model: BertForMaskedLM, batch: dict) -> Tensor:
        """Logits of the hidden places only, (M, V): the others would cost six times as much."""
        hidden = model.bert(**batch["inputs"]).last_hidden_state  # (B, T, H)
        hidden = hidden[batch["places"]]  # (M, H)
        return model.predictions(hidden, model.bert.embeddings.word.weight)

    def loss(self, logits: Tensor, batch: dict) -> Tensor:
        """Cross-entropy, summed over the hidden tokens. Units: nats."""
        return F.cross_entropy(logits, batch["targets"], reduction="sum")

    def decode(self, logits: Tensor, batch: dict) -> list[np.ndarray]:
        """For every text, whether each hidden token was guessed."""
        right = (logits.argmax(-1) == batch["targets"]).cpu()
        return [part.numpy() for part in right.split(batch["places"].sum(1).tolist())]

    def measure(self, predictions: Sequence[np.ndarray], features: Sequence[Feature]) -> dict:
        """The share of hidden tokens that were guessed."""
        return {"accuracy": float(np.concatenate(predictions).mean())}

    def answer(self, right: np.ndarray) -> dict:
        """How many hidden tokens of the text were guessed."""
        return {"guessed": int(right.sum()), "hidden": len(right)}


class TokenClassification:
    """Which tag has each word? Cross-entropy at the first piece of every word.

    Source: Devlin 2019, §5.3 (the first piece stands for the word; the others do not count).
    """

    roles = ("tokens", "tags")
    best = "macro_f1"
    head = BertForTokenClassification

    def __init__(
        self, tokenizer: BertTokenizer, classes: Sequence[str], *, max_length: int = 128
    ) -> None:
        """Keep the settings; ``classes`` are the tags in the order of their numbers."""
        self.tokenizer, self.classes, self.max_length = tokenizer, list(classes), max_length

    @property
    def config(self) -> dict:
        """What the model's config must say."""
        return {"id2label": dict(enumerate(self.classes))}

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids; the number of the tag at each first piece; where the first pieces are."""
        numbers = {name: i for i, name in enumerate(self.classes)}
        features = []
        for example in examples:
            words = example.values["tokens"]
            tags = example.values.get("tags")
            if tags is not None and len(tags) != len(words):
                raise ValueError(f"{example.where}: {len(words)} tokens, but {len(tags)} tags")
            if unknown := set(tags or ()) - set(numbers):
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
                target[start] = numbers[tag]
            features.append(Feature([ids], [[0] * len(ids)], target, starts))
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

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``targets``: (B, T), IGNORE at [CLS], [SEP], further pieces and padding."""
        width = max(feature.length for feature in features)
        target = None
        if features[0].target is not None:
            target = torch.tensor(
                [f.target + [IGNORE] * (width - f.length) for f in features]
            )  # (B, T)
        starts = [feature.extra for feature in features]
        return {"inputs": pad(self.tokenizer, features), "targets": target, "starts": starts}

    def weight(self, batch: dict) -> float:
        """The number of words with a tag."""
        return (batch["targets"] != IGNORE).sum().item()

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """Logits, (B, T, C)."""
        return model(**batch["inputs"]).logits

    def loss(self, logits: Tensor, batch: dict) -> Tensor:
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
        names = range(len(self.classes))
        return {
            "accuracy": metrics.accuracy(labels, guesses),
            "macro_f1": metrics.precision_recall_f1(labels, guesses, "macro", names)[2],
            "predicted_classes": len(set(guesses.tolist())),
        }

    def answer(self, tags: np.ndarray) -> dict:
        """The tags of the words."""
        return {"tags": [self.classes[tag] for tag in tags]}


class QuestionAnswering:
    """Where in the context is the answer to the question? Its first and its last token.

    An answer that was cut off with the end of a long context counts as none: [CLS].
    Source: Devlin 2019, §4.2 and §4.3; measures: Rajpurkar 2016, §6.1.
    """

    roles = ("question", "context", "answer", "start")
    best = "f1"
    head = BertForQuestionAnswering
    config: dict = {}
    longest = 30  # tokens of an answer

    def __init__(self, tokenizer: BertTokenizer, *, max_length: int = 384) -> None:
        """Keep the settings."""
        self.tokenizer, self.max_length = tokenizer, max_length

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids, the two ends of the answer, and where context tokens come from."""
        columns = [[e.values[role] for e in examples] for role in ("question", "context")]
        rows, types = tokenise(self.tokenizer, columns, self.max_length, pairs=True)
        features, lost = [], 0
        for example, row, kinds in zip(examples, rows, types, strict=True):
            context, answer = example.values["context"], example.values.get("answer")
            first, kept = kinds[0].index(1), sum(kinds[0]) - 1  # the last 1 is [SEP]
            offsets = self.tokenizer.offsets(context)[:kept]
            target = None
            if answer is not None:
                start = example.values["start"]
                if context[start : start + len(answer)] != answer:
                    raise ValueError(
                        f"{example.where}: at {start} the context has "
                        f"{context[start : start + len(answer)]!r}, not the answer {answer!r}"
                    )
                end = start + len(answer)
                inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
                whole = bool(inside) and offsets[inside[-1]][1] >= len(context[:end].rstrip())
                lost += not whole
                target = (first + inside[0], first + inside[-1]) if whole else (0, 0)
            features.append(Feature(row, kinds, target, (first, offsets, context, answer)))
        if lost:
            warnings.warn(
                f"{lost} of {len(features)} answers were cut off; pass a larger max_length",
                stacklevel=2,
            )
        return features

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``targets``: (B, 2), the first and the last token of the answer."""
        extra = [feature.extra for feature in features]
        return {
            "inputs": pad(self.tokenizer, features),
            "targets": targets(features, torch.long),
            "extra": extra,
        }

    def weight(self, batch: dict) -> float:
        """The number of questions."""
        return len(batch["targets"])

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """Scores of every token as first and as last of the answer, (B, T, 2)."""
        return torch.stack(tuple(model(**batch["inputs"])), dim=-1)

    def loss(self, logits: Tensor, batch: dict) -> Tensor:
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
        pairs = [
            (plain_words(guess), plain_words(feature.extra[3]))
            for guess, feature in zip(predictions, features, strict=True)
        ]
        shared = [sum((Counter(a) & Counter(b)).values()) for a, b in pairs]
        f1 = [
            2 * n / (len(a) + len(b)) if a or b else 1.0
            for n, (a, b) in zip(shared, pairs, strict=True)
        ]
        return {"exact": float(np.mean([a == b for a, b in pairs])), "f1": float(np.mean(f1))}

    def answer(self, text: str) -> dict:
        """The answer."""
        return {"answer": text}


def plain_words(text: str) -> list[str]:
    """The words of an answer without case, punctuation and articles (Rajpurkar 2016, §6.1)."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()
