"""Batches for training: which examples, in which order, as a DataLoader.

The order depends on seed and epoch alone, so a run that is resumed finds the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from minibert.batching import make_batches
from minibert.io import distributed
from minibert.training.tasks.base import Feature, Task, to_device


class BatchSampler(Sampler):
    """The batches of every epoch: numbers of examples. ``plan``: epoch → batch → examples.

    Args:
        lengths: tokens of every example.
        epochs, steps: length of the training, in epochs or, if ``steps`` is given, in steps.
        size: maximum examples in a batch; None = as many as ``tokens`` allows.
        tokens: maximum tokens in a batch, padding included (a longer example is a batch of its
            own).
        accumulate: batches in a step.
        by_length: whether examples of similar length stand together.
        every: steps after which to evaluate, instead of at the end of an epoch: what is an epoch
            here, in ``plan`` and in the loop, is then a part of one.
        least: batches of fewer examples are left out.
    """

    def __init__(
        self, lengths: Sequence[int], *, epochs: int = 1, steps: int | None = None,
        size: int | None = 16, tokens: int | None = None, accumulate: int = 1, seed: int = 0,
        by_length: bool = True, every: int | None = None, least: int = 1,
    ) -> None:  # fmt: skip
        if not size and not tokens:
            raise ValueError("a batch needs a limit: size, tokens, or both")
        self.seed, self.epoch, self.done, self.steps = seed, 0, 0, 0
        self.plan: list[list[list[int]]] = []
        limits = {"size": size, "tokens": tokens}
        while len(self.plan) < epochs if steps is None else self.steps < steps:
            batches = shuffled(lengths, limits, [seed, len(self.plan)], by_length)
            batches = [batch for batch in batches if len(batch) >= least]
            if steps is not None:
                batches = batches[: (steps - self.steps) * accumulate]
            self.plan.append(batches)
            self.steps += -(-len(batches) // accumulate)
        if every:
            self.plan = [
                batches[start : start + every * accumulate]
                for batches in self.plan
                for start in range(0, len(batches), every * accumulate)
            ]

    def set_epoch(self, epoch: int, done: int = 0) -> None:
        """Go to an epoch of which some batches are done."""
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        """The batches of this epoch that are left."""
        return len(self.plan[self.epoch]) - self.done

    def __iter__(self) -> Iterator[Sequence[int]]:
        """This process's share of each."""
        return map(distributed.share, self.plan[self.epoch][self.done :])


def shuffled(
    lengths: Sequence[int], limits: dict, seed: list[int], by_length: bool = True
) -> list[list[int]]:
    """The batches of an epoch.

    With ``by_length`` examples of similar length stand together, within each hundred batches' worth
    of the shuffled examples: little padding, and still random batches.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(lengths)).tolist()
    if not by_length:
        return make_batches(lengths, order=order, **limits)
    pool = 100 * (limits["size"] or max(limits["tokens"] // max(lengths, default=1), 1))
    pools = [order[start : start + pool] for start in range(0, len(order), pool)]
    order = [i for members in pools for i in sorted(members, key=lengths.__getitem__)]
    batches = make_batches(lengths, order=order, **limits)
    return [batches[i] for i in random.permutation(len(batches))]


def data_loader(
    task: Task, features: Sequence[Feature], device: torch.device | str = "cpu", **options: object
) -> DataLoader:
    """A DataLoader of the batches of a task; ``options`` are those of `BatchSampler`."""
    sampler = BatchSampler([feature.length for feature in features], **options)

    def collate(members: list[tuple[int, Feature]]) -> dict | None:
        if not members:  # the share of a process in a short batch
            return None
        seeds = [(sampler.seed, sampler.epoch, number) for number, _ in members]
        return to_device(task.collate([feature for _, feature in members], seeds), device)

    # A generator of its own: a DataLoader draws a number whenever an epoch begins, and from torch's
    # generator it would change what a resumed run draws.
    options = {"batch_sampler": sampler, "generator": torch.Generator()}
    return DataLoader(list(enumerate(features)), collate_fn=collate, **options)
