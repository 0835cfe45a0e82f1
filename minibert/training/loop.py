"""The training loop: the part to read aloud. It knows no model, no task and no file."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from minibert.io import distributed
from minibert.training.checkpoints import Run


@dataclass(frozen=True)
class Step:
    """How a step of the loop is taken.

    Args:
        accumulate: batches in a step.
        weight: batch → how many things its loss is the mean over, examples or tokens. As it is,
            every batch counts alike. A tensor, if the loss is one of several parts: the mean
            of each is then over things of its own.
        schedule: step, from 0 → factor of the learning rates that the optimizer came with.
        clip: maximum gradient norm.
    """

    accumulate: int = 1
    weight: Callable[[Any], float | Tensor] = lambda batch: 1.0
    schedule: Callable[[int], float] = lambda step: 1.0
    clip: float = 1.0


def loop(
    model: nn.Module, loader: Iterable, loss: Callable[[nn.Module, Any], Tensor],
    optimizer: torch.optim.Optimizer, *, epochs: int = 1, step: Step | None = None,
    evaluate: Callable[[], dict] = dict, run: Run | None = None,
) -> list[dict]:  # fmt: skip
    """Train a model, evaluate it after every epoch, and return the log.

    Args:
        loader: a DataLoader.
        loss: (model, batch) → what to minimise, the mean over the batch.
        step: how many batches it takes, warm-up, clipping.
        evaluate: () → metrics on the development data.
        run: logs, saves and resumes; without one nothing is written.
    """
    step, run = step or Step(), run or Run(model, optimizer)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    while run.epoch < epochs and not run.out_of_patience:
        for batches in steps(loader, step.accumulate, run.epoch, run.epoch_step):
            model.train()  # dropout on
            for group in optimizer.param_groups:  # before the step, not after
                group["lr"] = group["initial_lr"] * step.schedule(run.step)

            # Each batch has its share in the mean over the step. The mean of their means would be
            # wrong: their weights differ, and the last batch of an epoch is short.
            weights = [step.weight(batch) for batch in batches]
            total = distributed.add_up(sum(weights))
            shares = []
            for batch, weight in zip(batches, weights, strict=True):
                share = (loss(model, batch) * (weight / total)).sum()  # of its parts, if several
                share.backward()  # gradients add up in .grad
                shares.append(share.detach())

            distributed.add_up_gradients(model.parameters())
            norm = clip_grad_norm_(model.parameters(), step.clip)
            # The only numbers of a step that are looked at, all at once: a GPU waits for a look.
            *values, norm = torch.stack([*shares, norm]).tolist()
            value = distributed.add_up(sum(values))
            run.check(value, norm)  # NaN stops here, before it gets into the weights
            optimizer.step()
            optimizer.zero_grad()
            run.after_step(value, norm)
        run.after_epoch(evaluate())
    return run.lines


def steps(loader: Iterable, accumulate: int, epoch: int, done: int) -> Iterator[list]:
    """The batches of every step of an epoch, without those of the steps that are done.

    A process whose share of a batch is empty gets None for it, and skips it.
    """
    sampler = getattr(loader, "batch_sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch, done * accumulate)
    batches = iter(loader)
    while some := list(itertools.islice(batches, accumulate)):
        yield [batch for batch in some if batch is not None]
