"""Masked language modelling: for a domain that has texts and no labels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.heads import BertForMaskedLM
from minibert.io.directory import ModelDirectory
from minibert.training.data import Example
from minibert.training.tasks.base import Feature, Started, Task


@dataclass(eq=False)
class MaskedLM(Task):
    """Which word stands behind [MASK]? For a domain that has texts and no labels.

    15 % of the tokens (``share``) are to be guessed, at least one in a text, chosen again every
    time; 80 % of these are shown as [MASK], 10 % as another word, 10 % as they are.

    Source: Devlin 2019, §3.1 and appendix A.1; at least one: google-research/bert,
    ``create_pretraining_data.py``; chosen again: Liu 2019 (RoBERTa), §4.1.
    """

    share: float = 0.15
    inputs = ("text",)
    best = "accuracy"
    head = BertForMaskedLM
    pipeline = "fill-mask"

    def __post_init__(self) -> None:
        """List the words that a word may be replaced by."""
        if self.tokenizer.mask_token_id is None:
            raise ValueError("masked LM needs a vocabulary with [MASK], and this one has none")
        self.special = torch.tensor(self.tokenizer.all_special_ids)
        words = torch.arange(len(self.tokenizer))
        self.words = words[~torch.isin(words, self.special)]

    @classmethod
    def start(cls, base: ModelDirectory, settings: Any, train: Sequence[Example]) -> Started:
        """The task and the model; warns if the base has no masked-LM head."""
        task, model = super().start(base, settings, train)
        if base.has("modules.json") and not settings.keep:
            warnings.warn(
                "masked LM can cost a sentence encoder much of its general similarity, and here "
                "nothing measures it: the setting keep (--keep) takes general pairs",
                stacklevel=2,
            )
        if any(name.startswith("predictions") for name in model.load_report.new):
            warnings.warn(
                "the base model has no masked-LM head: a new one begins untrained and needs many "
                "steps; a base that has one, such as bert-base-uncased, needs far fewer",
                stacklevel=2,
            )
        return task, model

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """``places``: (B, T), True where a token is to be guessed; ``targets``: (M,), its id."""
        inputs = self.pad(features)
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

    def outputs(self, model: BertForMaskedLM, batch: dict) -> Tensor:
        """Logits of the hidden places only, (M, V): the others would cost six times as much."""
        hidden = model.bert(**batch["inputs"]).last_hidden_state  # (B, T, H)
        hidden = hidden[batch["places"]]  # (M, H)
        return model.predictions(hidden, model.bert.embeddings.word.weight)

    def criterion(self, logits: Tensor, batch: dict) -> Tensor:
        """Cross-entropy, summed over the hidden tokens. Units: nats."""
        return F.cross_entropy(logits, batch["targets"], reduction="sum")

    def decode(self, logits: Tensor, batch: dict) -> list[np.ndarray]:
        """For every text, (2, hidden tokens): whether each was guessed; its cross-entropy."""
        right = logits.argmax(-1) == batch["targets"]  # (M,)
        nats = F.cross_entropy(logits.float(), batch["targets"], reduction="none")
        both = torch.stack((right.float(), nats)).cpu()
        return [part.numpy() for part in both.split(batch["places"].sum(1).tolist(), dim=1)]

    def measure(self, predictions: Sequence[np.ndarray], features: Sequence[Feature]) -> dict:
        """The share of hidden tokens that were guessed, and the perplexity of all of them."""
        right, nats = np.concatenate(predictions, axis=1, dtype=np.float64).mean(axis=1)
        return {"accuracy": float(right), "perplexity": float(np.exp(nats))}

    def answer(self, prediction: np.ndarray, example: Example) -> dict:
        """How many hidden tokens of the text were guessed."""
        return {"guessed": int(prediction[0].sum()), "hidden": prediction.shape[1]}
