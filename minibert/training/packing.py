"""Text for pre-training: tokenised once; packed, shuffled and hidden anew in every epoch.

All numbers lie in a few arrays, so that millions of sentences fit. An example is a row of
five: where its two segments begin and end in the row of all ids, and whether the second one is a
random one. What is drawn depends on seed, epoch and number of the example alone: neither on the
other examples of its batch nor on the number of processes, and a resumed run draws it again.

Source: Devlin 2019, §3.1 and appendices A.1, A.2; google-research/bert,
``create_pretraining_data.py``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from minibert.batching import progress
from minibert.io import distributed
from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training.data.corpus import Document
from minibert.training.loader import shuffled
from minibert.training.tasks.base import to_device

SHORT = 0.1  # the share of the examples that are shorter than there is room
HIDDEN = 0.15  # the share of the tokens that are to be guessed
SHOWN_AS_MASK, SHOWN_AS_RANDOM = 0.8, 0.1  # and how they are shown; the others are left as they are


# ----------------------------------------------------------------------------------------- texts


@dataclass(frozen=True, eq=False)
class Texts:
    """A corpus as one row of ids.

    Attributes:
        ids: of all sentences, one behind the other, without special tokens.
        sentences: where each begins in ``ids``, and where the last one ends.
        documents: the number of the first sentence of each, and that of all sentences.
    """

    ids: np.ndarray  # int32
    sentences: np.ndarray  # int64
    documents: np.ndarray  # int64

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every sentence."""
        return np.diff(self.sentences)


def tokenise(documents: Sequence[Document], tokenizer: BertTokenizer) -> Texts:
    """The ids of all sentences. One that has no token left, and a document of such, is dropped."""
    ids, sentences, firsts = array("i"), array("q", [0]), array("q", [0])
    with progress(len(documents), "documents tokenised") as advance:
        for document in documents:
            for sentence in document:
                ids.extend(tokenizer.ids(sentence))
                if len(ids) > sentences[-1]:
                    sentences.append(len(ids))
            if len(sentences) - 1 > firsts[-1]:
                firsts.append(len(sentences) - 1)
            advance(1)
    return Texts(np.array(ids, np.int32), np.array(sentences), np.array(firsts))


# --------------------------------------------------------------------------------------- packing


def pack(texts: Texts, room: int, seed: Sequence[int], pairs: bool = True) -> np.ndarray:
    """The examples of an epoch: (examples, 5), see the top of this file.

    Args:
        room: how many tokens of text an example has.
        seed: of what is drawn; for another epoch another one.
        pairs: two segments in an example, the second one from another document in half of them;
            without it one segment, whole sentences of a document as far as they fit.

    Other than in google-research/bert the length is drawn for every example, not for a document.
    """
    draw = Random(" ".join(map(str, seed)))
    make = pairs_of_segments if pairs else single_segments
    rows = np.array(list(make(texts, room, draw.random)), np.int64).reshape(-1, 5)
    return cut_to(room, rows, np.random.default_rng([*seed, 1]))


def single_segments(texts: Texts, room: int, random) -> Iterator[tuple]:
    """Whole sentences of a document, as many as fit; a longer one stands alone."""
    starts, documents = texts.sentences.tolist(), texts.documents.tolist()
    for first, stop in zip(documents, documents[1:], strict=False):
        while first < stop:
            target = room if random() >= SHORT else 2 + int(random() * (room - 1))
            end = first + 1
            while end < stop and starts[end + 1] - starts[first] <= target:
                end += 1
            yield starts[first], starts[end], 0, 0, 0
            first = end


def pairs_of_segments(texts: Texts, room: int, random) -> Iterator[tuple]:
    """Sentences of a document up to the length, cut in two at a random place between sentences.

    In half of them (and where a sentence fills an example alone) the second segment comes from
    another document; the sentences it takes the place of begin the next example.
    """
    starts, documents = texts.sentences.tolist(), texts.documents.tolist()
    for number, first in enumerate(documents[:-1]):
        stop = documents[number + 1]
        while first < stop:
            target = room if random() >= SHORT else 2 + int(random() * (room - 1))
            end = first + 1
            while end < stop and starts[end] - starts[first] < target:
                end += 1
            alone = end == first + 1
            cut = end if alone else first + 1 + int(random() * (end - first - 1))
            if not alone and random() < 0.5:
                yield starts[first], starts[cut], starts[cut], starts[end], 0
                first = end
                continue
            other = int(random() * (len(documents) - 2))
            other += other >= number
            low, high = documents[other], documents[other + 1]
            low += int(random() * (high - low))
            last, wanted = low + 1, target - (starts[cut] - starts[first])
            while last < high and starts[last] - starts[low] < wanted:
                last += 1
            yield starts[first], starts[cut], starts[low], starts[last], 1
            first = cut


def cut_to(room: int, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Cut what is too long, the longer segment first, each token off a random one of its ends."""
    first, second = rows[:, 1] - rows[:, 0], rows[:, 3] - rows[:, 2]
    fits = first + second <= room
    first_cut = np.where(fits, first, np.minimum(first, room - np.minimum(second, room // 2)))
    second_cut = np.where(fits, second, np.minimum(second, room - first_cut))
    for begin, excess in ((0, first - first_cut), (2, second - second_cut)):
        front = random.binomial(excess, 0.5)
        rows[:, begin] += front
        rows[:, begin + 1] -= excess - front
    return rows


# ---------------------------------------------------------------------------- random numbers


def mixed(x: np.ndarray) -> np.ndarray:
    """Shuffle the bits of 64-bit integers: neighbours become as different as random numbers.

    Source: Steele 2014 (Fast splittable pseudorandom number generators), SplitMix64.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def chances(seed: int, epoch: int, numbers: np.ndarray, n: int) -> np.ndarray:
    """(examples, n) random numbers in [0, 1), the same for an example wherever it stands."""
    step = np.uint64(0x9E3779B97F4A7C15)
    key = np.array([seed], np.uint64)
    for part in (np.array([epoch], np.uint64), numbers.astype(np.uint64)):
        key = mixed(key * step + part + np.uint64(1))
    counters = key[:, None] + np.arange(1, n + 1, dtype=np.uint64) * step  # (examples, n)
    return (mixed(counters) >> np.uint64(11)) * 2.0**-53


# ---------------------------------------------------------------------------------------- batches


class Packed:
    """The examples of every epoch, made when they are asked for, and batches of them.

    Args:
        pairs: two segments in an example, for next sentence prediction.
        whole_words: hide all pieces of a word or none.
    """

    def __init__(
        self, texts: Texts, tokenizer: BertTokenizer, *, max_length: int, seed: int = 0,
        pairs: bool = True, whole_words: bool = False,
    ) -> None:  # fmt: skip
        self.texts, self.tokenizer, self.seed = texts, tokenizer, seed
        self.pairs, self.whole_words = pairs, whole_words
        self.room = max_length - (3 if pairs else 2)
        self.epoch, self.rows = -1, np.empty((0, 5), np.int64)
        self.ordinary = np.ones(len(tokenizer), bool)  # what may be hidden
        self.ordinary[tokenizer.all_special_ids] = False
        self.words = self.ordinary.nonzero()[0]  # what may stand in its place
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self.begins = np.array([not token.startswith("##") for token in tokens])

    def of_epoch(self, epoch: int) -> np.ndarray:
        """The examples of an epoch."""
        if epoch != self.epoch:
            self.rows = pack(self.texts, self.room, [self.seed, epoch], self.pairs)
            self.epoch = epoch
        return self.rows

    def tokens(self, epoch: int) -> np.ndarray:
        """How many tokens each example of an epoch has, special ones included."""
        rows = self.of_epoch(epoch)
        return rows[:, 1] - rows[:, 0] + rows[:, 3] - rows[:, 2] + (3 if self.pairs else 2)

    def __getitems__(self, members: tuple[int, Sequence[int]]) -> dict:
        """The batch of (epoch, numbers of examples): a DataLoader asks for it so."""
        epoch, numbers = members
        numbers = np.asarray(numbers, np.int64)
        rows = self.of_epoch(epoch)[numbers]
        ids, types, length = self.put_together(rows)
        B, T = ids.shape
        # Three numbers a token: is it hidden? how is it shown? as which other word?
        chance = chances(self.seed, epoch, numbers, 3 * T).reshape(B, T, 3)
        places = self.hidden(ids, chance[:, :, 0])
        found, fate, word = ids[places], chance[:, :, 1][places], chance[:, :, 2][places]
        other = self.words[(word * len(self.words)).astype(np.int64)]
        shown = np.where(fate < SHOWN_AS_MASK, self.tokenizer.mask_token_id, found)
        ids[places] = np.where(fate >= 1 - SHOWN_AS_RANDOM, other, shown)
        mask = None if length.min() == T else torch.from_numpy(np.arange(T) < length[:, None])
        counts = [max(len(found), 1), *([B] if self.pairs else [])]
        return {
            "inputs": {
                "input_ids": torch.from_numpy(ids),
                "attention_mask": mask,
                "token_type_ids": torch.from_numpy(types),
            },
            "places": torch.from_numpy(np.flatnonzero(places)),  # in (B · T)
            "targets": torch.from_numpy(found),  # (M,)
            "unrelated": torch.from_numpy(rows[:, 4]) if self.pairs else None,  # (B,)
            "counts": torch.tensor(counts, dtype=torch.float64),
        }

    def put_together(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[CLS] A [SEP] or [CLS] A [SEP] B [SEP]: ids and segments (B, T), lengths (B,)."""
        a, b = rows[:, 1] - rows[:, 0], rows[:, 3] - rows[:, 2]  # (B,)
        length = a + b + (3 if self.pairs else 2)
        place = np.arange(length.max())  # (T,)
        second = place > a[:, None] + 1  # (B, T)
        source = np.where(second, (rows[:, 2] - a - 2)[:, None], (rows[:, 0] - 1)[:, None]) + place
        ids = self.texts.ids[np.clip(source, 0, len(self.texts.ids) - 1)].astype(np.int64)
        ids[place >= length[:, None]] = self.tokenizer.pad_token_id
        every = np.arange(len(rows))
        ids[:, 0] = self.tokenizer.cls_token_id
        ids[every, a + 1] = ids[every, length - 1] = self.tokenizer.sep_token_id
        types = second & (place < length[:, None])
        return ids, types.astype(np.int64), length

    def hidden(self, ids: np.ndarray, chance: np.ndarray) -> np.ndarray:
        """(B, T), True where a token is to be guessed: at least one in every example."""
        if self.whole_words:  # the pieces of a word share the chance of the first
            place = np.arange(ids.shape[1])
            first = np.maximum.accumulate(np.where(self.begins[ids], place, 0), axis=1)
            chance = np.take_along_axis(chance, first, axis=1)
        chance = np.where(self.ordinary[ids], chance, 1.0)
        least = chance.min(axis=1, keepdims=True)  # (B, 1)
        return ((chance < HIDDEN) | (chance == least)) & (chance < 1)


class Stretches(Sampler):
    """The batches of a pre-training, in stretches of some steps: after each the loop measures.

    What the loop calls an epoch is a stretch here; the texts have epochs of their own, whose
    examples of like length stand together. A batch is never short: in an epoch that has a few more
    or fewer batches than the first one the last are left out, or the first ones come again.

    Args:
        steps: of the training.
        every: steps of a stretch.
        size: examples in a batch.
        accumulate: batches in a step.
    """

    def __init__(
        self, packed: Packed, *, steps: int, every: int, size: int, accumulate: int = 1
    ) -> None:
        self.packed, self.size, self.accumulate = packed, size, accumulate
        self.steps, self.every = steps, every
        self.plan = range(-(-steps // every))
        self.of_epoch, self.batches = -1, [[0]]
        self.per_epoch = len(self.batches_of(0))
        self.set_epoch(0)

    def set_epoch(self, stretch: int, done: int = 0) -> None:
        """Go to a stretch of which some batches are done."""
        begin = stretch * self.every
        self.next = begin * self.accumulate + done
        self.stop = min(begin + self.every, self.steps) * self.accumulate

    def batches_of(self, epoch: int) -> list[list[int]]:
        """The full batches of an epoch of the texts."""
        if epoch != self.of_epoch:
            lengths = self.packed.tokens(epoch).tolist()
            found = shuffled(lengths, {"size": self.size, "tokens": None},
                             [self.packed.seed, epoch, 2])  # fmt: skip
            self.batches = [batch for batch in found if len(batch) == self.size]
            self.of_epoch = epoch
        return self.batches

    def __len__(self) -> int:
        """The batches of this stretch that are left."""
        return self.stop - self.next

    def __iter__(self) -> Iterator[tuple[int, Sequence[int]]]:
        """The epoch, and this process's share of the examples, of each batch."""
        for number in range(self.next, self.stop):
            epoch, place = divmod(number, self.per_epoch)
            batches = self.batches_of(epoch)
            yield epoch, distributed.share(batches[place % len(batches)])


def loader_of(sampler: Stretches, device: torch.device | str = "cpu") -> DataLoader:
    """A DataLoader of the batches, on a device."""

    def moved(batch: dict) -> dict:
        if torch.device(device).type == "mps":  # has no float64
            batch["counts"] = batch["counts"].float()
        return to_device(batch, device)

    return DataLoader(
        sampler.packed, batch_sampler=sampler, generator=torch.Generator(), collate_fn=moved
    )


def held_out_batches(
    packed: Packed, device: torch.device, most: int, tokens: int = 8192
) -> list[dict[str, Tensor]]:
    """Batches of at most that many examples, always the same: for measuring."""
    n = len(packed.of_epoch(0))
    numbers = np.random.default_rng(0).permutation(n)[:most]
    most = len(numbers)
    size = max(tokens // (packed.room + 3), 1)
    batches = (packed.__getitems__((0, numbers[i : i + size])) for i in range(0, most, size))
    return [to_device({**batch, "counts": None}, device) for batch in batches]
