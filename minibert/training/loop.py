"""Fine-tuning: the loop, and the few things that it needs.

`loop` is the part to read aloud. It knows no model, no task and no file: what to train, on what,
with which loss, and who keeps the books are its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from minibert.io import distributed as parallel
from minibert.training.checkpoints import Run
from minibert.training.data import make_batches


def loop(
    model: nn.Module,
    batches: Callable[[int, int], Iterator[list]],
    loss: Callable[[nn.Module, Any], Tensor],
    weight: Callable[[Any], float],
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    evaluate: Callable[[], dict[str, float]],
    run: Run,
    clip: float = 1.0,
) -> None:
    """Train a model, epoch after epoch, and evaluate it after each.

    Args:
        batches: (epoch, steps already done in it) → for each step the micro-batches it is made of.
        loss: (model, batch) → the loss SUMMED over what the batch holds.
        weight: batch → how many things the sum is over (examples, or tokens that count).
        schedule: step, from 0 → factor of the learning rate.
        evaluate: () → measures on the development data.
        run: keeps the books: counts, logs, saves, says when to stop.
        clip: gradients longer than this are scaled down to it.
    """
    while run.goes_on:
        for micro_batches in batches(run.epoch, run.batch):
            model.train()  # dropout on
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * schedule(run.step)  # before the step, not after

            # One division by the weight of the whole step. The mean of the micro-batches' means
            # would be wrong: their weights differ, and the last batch of an epoch is short.
            total = parallel.add_up(sum(weight(batch) for batch in micro_batches))
            value = 0.0
            for batch in micro_batches:
                share = loss(model, batch) / total
                share.backward()  # gradients add up in .grad
                value += share.item()

            parallel.add_up_gradients(model.parameters())
            value = parallel.add_up(value)
            norm = clip_grad_norm_(model.parameters(), clip)
            run.check(value, norm)  # NaN stops here, before it gets into the weights
            optimizer.step()
            optimizer.zero_grad()
            run.after_step(value, norm)
        run.after_epoch(evaluate())


# ------------------------------------------------------------------------------------- evaluation


def predict(
    model: nn.Module, task: Any, features: Sequence, *, batch_tokens: int = 4096
) -> tuple[list, float | None]:
    """A prediction for every feature, in their order, and the mean loss (None without targets).

    Dropout is off and no gradients are kept; the model comes back in the mode it was in.
    """
    training, device = model.training, next(model.parameters()).device
    predictions: list = [None] * len(features)
    total = count = 0.0
    order = sorted(range(len(features)), key=lambda i: -features[i].length)  # stable
    model.eval()
    try:
        with torch.inference_mode():
            for members in cut(order, features, batch_tokens):
                batch = collate(task, features, members, (0, 0), device)
                outputs = task.outputs(model, batch)
                for i, prediction in zip(members, task.decode(outputs, batch), strict=True):
                    predictions[i] = prediction
                if batch["targets"] is not None:
                    total += task.loss(outputs, batch).item()
                    count += task.weight(batch)
    finally:
        model.train(training)
    return predictions, total / count if count else None


def evaluate(model: nn.Module, task: Any, features: Sequence) -> dict[str, float]:
    """The loss and the task's measures on some data."""
    predictions, loss = predict(model, task, features)
    return {"loss": loss, **task.measure(predictions, features)}


def cut(order: Sequence[int], features: Sequence, batch_tokens: int) -> Iterator[list[int]]:
    """Cut examples, longest first, into batches of so many tokens, padding included."""
    start = 0
    while start < len(order):
        first = features[order[start]]
        size = max(batch_tokens // (first.length * len(first.rows)), 1)
        yield list(order[start : start + size])
        start += size


def collate(
    task: Any, features: Sequence, members: Sequence[int], seed: tuple[int, int], device: Any
) -> dict:
    """The batch of some examples.

    Where chance has a say, it is drawn for every example from a seed of its own: it depends neither
    on the example's company nor on the number of processes.
    """
    seeds = [(*seed, i) for i in members]
    return to(task.collate([features[i] for i in members], seeds), device)


def to(value: Any, device: torch.device) -> Any:
    """A batch with all its tensors on a device."""
    if isinstance(value, dict):
        return {key: to(entry, device) for key, entry in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


# --------------------------------------------------------------------------------------- schedules


def constant(warmup: int, total: int) -> Callable[[int], float]:
    """Rise from 0 over ``warmup`` steps, then stay at 1. Step 0 is the first."""
    return lambda step: min(step / max(warmup, 1), 1.0) if warmup else 1.0


def linear(warmup: int, total: int) -> Callable[[int], float]:
    """Rise from 0 over ``warmup`` steps, then fall to 0 at step ``total`` (which is never taken).

    Source: Devlin 2019, appendix A.2; the numbers are those of every common implementation.
    """
    return lambda step: (
        step / warmup if step < warmup else max(0.0, (total - step) / max(total - warmup, 1))
    )


def cosine(warmup: int, total: int) -> Callable[[int], float]:
    """Rise from 0 over ``warmup`` steps, then fall to 0 along half a cosine wave.

    Source: Loshchilov & Hutter 2017 (SGDR), equation 5, without restarts.
    """
    return lambda step: (
        step / warmup
        if step < warmup
        else 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(total - warmup, 1), 1.0)))
    )


SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine}


# --------------------------------------------------------------------------------------- optimizer


def parameter_groups(
    model: nn.Module, lr: float, decay: float = 0.01, layer_decay: float = 1.0
) -> list[dict]:
    """The trainable parameters in groups of one learning rate and one weight decay each.

    Matrices decay; biases and LayerNorms, which are vectors, do not (Devlin 2019, appendix A.2, as
    in the official code). With ``layer_decay`` below 1 every layer learns that much slower than
    the one above it; a head learns with ``lr`` (Howard & Ruder 2018, §3.2).
    """
    layers = model_depth(model)
    groups: dict[tuple, list] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = lr * layer_decay ** (layers + 1 - depth(name, layers))
            groups.setdefault((rate, decay if parameter.dim() > 1 else 0.0), []).append(parameter)
    return [
        {"params": members, "lr": rate, "peak_lr": rate, "weight_decay": rule}
        for (rate, rule), members in groups.items()
    ]


def depth(name: str, layers: int) -> int:
    """How deep a parameter stands: embeddings 0, layer i (from 0) i + 1, what comes after + 1."""
    parts = name.removeprefix("bert.").split(".")
    if parts[0] == "embeddings":
        return 0
    return int(parts[1]) + 1 if parts[0] == "layers" else layers + 1


def model_depth(model: nn.Module) -> int:
    """The number of encoder layers."""
    return len(getattr(model, "bert", model).layers)


def make_optimizer(name: str, groups: list[dict]) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD of torch. The fused kernels update all weights in one pass over memory.

    All three correct the bias of their moments (Kingma & Ba 2015, §3), which the code that BERT
    was published with does not do; on little data that made runs fail (Zhang 2021, §4).
    """
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    if name == "adam":
        return torch.optim.Adam(groups, fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, fused=True)
    raise ValueError(f"optimizer {name!r}; adamw, adam or sgd is allowed")


# ------------------------------------------------------------------------------------------ batches


class Batches:
    """The micro-batches of every step of every epoch: which examples, in which order.

    Args:
        task: makes batches of features.
        features: the training data.
        epochs, steps: how long to train: so many epochs, or so many steps if ``steps`` is given.
        size, tokens: limits of a micro-batch, see ``data.make_batches``.
        accumulate: micro-batches in a step.
    """

    def __init__(
        self,
        task: Any,
        features: Sequence,
        *,
        epochs: int = 3,
        steps: int | None = None,
        size: int | None = 16,
        tokens: int | None = None,
        accumulate: int = 1,
        seed: int = 0,
        by_length: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        """Lay out the whole training: it is lists of numbers, so it costs next to nothing."""
        self.task, self.features, self.seed, self.device = task, features, seed, device
        lengths = [feature.length for feature in features]
        self.plan: list[list[list[list[int]]]] = []  # epoch → step → micro-batch → example
        while len(self.plan) < epochs if steps is None else self.steps < steps:
            batches = make_batches(
                lengths,
                size=size,
                tokens=tokens,
                seed=seed,
                epoch=len(self.plan),
                by_length=by_length,
            )
            epoch = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
            self.plan.append(epoch if steps is None else epoch[: steps - self.steps])

    @property
    def steps(self) -> int:
        """The number of steps of the whole training."""
        return sum(map(len, self.plan))

    def __call__(self, epoch: int, done: int) -> Iterator[list[dict]]:
        """The steps of an epoch that are still to do: this process's share of the micro-batches."""
        for step in self.plan[epoch][done:]:
            yield [
                collate(self.task, self.features, members, (self.seed, epoch), self.device)
                for members in map(parallel.share, step)
                if members
            ]
