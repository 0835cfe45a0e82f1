"""How far a pre-training has come: on held-out text, beside what mere counting reaches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training.packing import Texts


def forward(model: nn.Module, batch: dict) -> tuple[Tensor, Tensor | None]:
    """Logits of the hidden places only (M, V), and of the next sentence (B, 2) if the model has it.

    The words at other places are not asked for: their logits would cost six times as much.
    """
    hidden, pooled = model.bert(**batch["inputs"])  # (B, T, H), (B, H)
    hidden = hidden.flatten(0, 1).index_select(0, batch["places"])  # (M, H)
    words = model.predictions(hidden, model.bert.embeddings.word.weight)
    return words, None if batch["unrelated"] is None else model.seq_relationship(pooled)


def loss(model: nn.Module, batch: dict) -> Tensor:
    """Mean cross-entropies of the hidden tokens and of the pairs: (2,); (1,) without pairs.

    Each is the mean over things of its own, ``counts`` of the batch; their sum is what Devlin 2019
    (appendix A.2) minimises. Units: nats.
    """
    words, follows = forward(model, batch)
    parts = [F.cross_entropy(words, batch["targets"], reduction="sum")]
    if follows is not None:
        parts.append(F.cross_entropy(follows, batch["unrelated"], reduction="sum"))
    return torch.stack(parts) / batch["counts"]


@torch.inference_mode()
def measure(model: nn.Module, batches: Sequence[dict], characters: Tensor) -> dict[str, float]:
    """Loss, masked accuracy, perplexity, bits per character, and next sentence accuracy.

    Args:
        characters: of every token of the vocabulary. Bits per character are those it takes to say
            the hidden tokens, so that vocabularies of other sizes compare.
    """
    model.eval()
    total: Tensor | float = 0.0  # (6,): summed on the device, read once
    for batch in batches:
        words, follows = forward(model, batch)
        targets = batch["targets"]
        sums = [
            F.cross_entropy(words.float(), targets, reduction="sum"),
            (words.argmax(-1) == targets).sum(),
            characters[targets].sum(),
        ]
        if follows is not None:
            sums += [
                F.cross_entropy(follows.float(), batch["unrelated"], reduction="sum"),
                (follows.argmax(-1) == batch["unrelated"]).sum(),
            ]
        total = total + torch.stack([s.float() for s in sums])
    nats, right, letters, *pairs = total.tolist()
    n = sum(len(batch["targets"]) for batch in batches)
    found = {"loss": nats / n, "accuracy": right / n, "perplexity": math.exp(min(nats / n, 700))}
    found["bits_per_character"] = nats / math.log(2) / letters
    if pairs:
        n = sum(len(batch["unrelated"]) for batch in batches)
        found["loss"] += pairs[0] / n
        found["next_sentence_accuracy"] = pairs[1] / n
    return found


def characters_of(tokenizer: BertTokenizer) -> Tensor:
    """How many characters of a text each token stands for."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return torch.tensor([float(len(token.removeprefix("##"))) for token in tokens])


# --------------------------------------------------------------------------------------- counting


@dataclass(frozen=True, eq=False)
class Counts:
    """What counting the tokens and the pairs of neighbours in a text knows."""

    words: np.ndarray  # (V,) how often each token comes
    keys: np.ndarray  # sorted: left neighbour · V + token
    pairs: np.ndarray  # how often each of these comes

    @classmethod
    def of(cls, texts: Texts, size: int) -> Counts:
        """Count a corpus; ``size``: V."""
        ids = texts.ids.astype(np.int64)
        keys, pairs = np.unique(ids[:-1] * size + ids[1:], return_counts=True)
        return cls(np.bincount(ids, minlength=size), keys, pairs)

    @property
    def share(self) -> np.ndarray:
        """(V,) of all tokens, as if each came once more than it does: none is impossible."""
        return (self.words + 1) / (self.words + 1).sum()

    def measure(self, batches: Sequence[dict], characters: Tensor) -> dict[str, float]:
        """Accuracy, perplexity and bits per character of two guesses at the hidden tokens.

        ``unigram``: always the most frequent token. ``bigram``: the one that most often comes
        after the left neighbour, as it is shown (a [MASK] says nothing); its probabilities are
        those of Witten & Bell 1991: the more different tokens follow a neighbour, the more of
        their probability goes to the unigram's.
        """
        size = len(self.words)
        left, targets = [], []
        for batch in batches:
            ids = batch["inputs"]["input_ids"].flatten()
            left.append(ids[batch["places"] - 1].cpu().numpy())
            targets.append(batch["targets"].cpu().numpy())
        left, targets = np.concatenate(left), np.concatenate(targets)
        alone = self.share

        first = self.keys // size  # the left neighbour of each pair
        kinds = np.bincount(first, minlength=size)  # different tokens that follow
        follow = np.bincount(first, self.pairs, minlength=size)
        order = np.lexsort((self.pairs, first))  # the most frequent follower comes last
        best = np.full(size, self.words.argmax())
        best[first[order]] = self.keys[order] % size
        place = np.minimum(np.searchsorted(self.keys, left * size + targets), len(self.keys) - 1)
        together = np.where(self.keys[place] == left * size + targets, self.pairs[place], 0)
        unseen = kinds[left] == 0
        n = np.where(unseen, 1, follow[left] + kinds[left])
        after = np.where(unseen, 1, kinds[left]) * alone[targets] / n + together / n

        letters = characters.cpu().numpy()[targets].sum()
        found = {}
        for name, guess, probability in (
            ("unigram", self.words.argmax(), alone[targets]), ("bigram", best[left], after),
        ):  # fmt: skip
            nats = -np.log(probability)
            found |= {
                f"{name}_accuracy": float((guess == targets).mean()),
                f"{name}_perplexity": float(np.exp(nats.mean())),
                f"{name}_bits_per_character": float(nats.sum() / math.log(2) / letters),
            }
        return found


# ---------------------------------------------------------------------------------- for the eye


def sentences_to_show(texts: Texts, tokenizer: BertTokenizer, n: int = 3) -> list[tuple[str, str]]:
    """Some sentences of a held-out text with a whole word hidden: (with [MASK], the word)."""
    random, found = np.random.default_rng(0), []
    whole = texts.lengths
    for number in random.permutation(np.flatnonzero((whole >= 6) & (whole <= 16))):
        ids = texts.ids[texts.sentences[number] : texts.sentences[number + 1]].tolist()
        tokens = tokenizer.convert_ids_to_tokens(ids)
        after = [*tokens[1:], ""]
        words = [i for i, token in enumerate(tokens)
                 if token.isalpha() and not after[i].startswith("##")]  # fmt: skip
        if not words or tokenizer.unk_token in tokens:
            continue
        place = max(words, key=lambda i: len(tokens[i]))  # the longest says the most
        word, ids[place] = tokens[place], tokenizer.mask_token_id
        found.append((tokenizer.decode(ids), word))
        if len(found) == n:
            break
    return found


@torch.inference_mode()
def guesses(
    model: nn.Module, tokenizer: BertTokenizer, shown: Sequence[tuple[str, str]]
) -> list[str]:
    """A line for each sentence: the sentence, the word, and the three best guesses."""
    model.eval()
    device, lines = next(model.parameters()).device, []
    for text, word in shown:
        batch = {name: ids.to(device) for name, ids in tokenizer(text).items()}
        place = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0]
        hidden = model.bert(**batch).last_hidden_state[0, place]  # (H,)
        scores = model.predictions(hidden, model.bert.embeddings.word.weight).float()
        best, ids = scores.softmax(-1).topk(min(3, len(tokenizer)))
        tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
        said = ", ".join(f"{t} {p:.2f}" for t, p in zip(tokens, best.tolist(), strict=True))
        lines.append(f"{text} ({word}): {said}")
    return lines


def plateau(measures: dict, counted: dict) -> bool:
    """Whether a model guesses no more than a look at the left neighbour does.

    Most small runs first learn how frequent each token is and then stand still for long.
    """
    return measures["accuracy"] <= counted["bigram_accuracy"]
