"""Which value is best? A quick look for the learning rate, and whole runs for any setting."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from minibert.io.files import write_json, write_text
from minibert.sentence_encoder import best_device
from minibert.training.checkpoints import Diverged, Run
from minibert.training.data import Say, silent
from minibert.training.finetune import make_ready, read_data, start
from minibert.training.history import AnyPath, compare
from minibert.training.loop import Step, loop
from minibert.training.loop import steps as steps_of
from minibert.training.plots import curves
from minibert.training.seeds import begin_or_resume, several
from minibert.training.settings import Settings, with_recipe
from minibert.training.tasks import task_class
from minibert.training.tasks.base import Task

TOO_FAR = 4  # times the loss of the untrained model: the search for a rate ends there


def find_lr(
    settings: Settings, svg: AnyPath | None = None, *, low: float = 1e-6, high: float = 0.1,
    steps: int = 80, say: Say = silent,
) -> dict:  # fmt: skip
    """Train for some tens of steps at rates that grow from step to step, on a model thrown away.

    A rate much too small changes nothing, a good one lowers the loss, one too large raises it. A
    tenth of the rate at which the smoothed loss is lowest is suggested: at the lowest point it no
    longer falls. Compare a few rates around it with `sweep`; a loss says less than dev data.

    Source: Smith 2017 (1506.01186), §3.3.

    Args:
        settings: the data, the model and the batches to try; its schedule is not used.
        svg: draw the curve into this file; the x axis shows powers of ten.
        low, high: the first and the last rate. Units: per step.

    Returns:
        ``suggestion`` (None where no rate lowered the loss by a twentieth), ``recipe``: the one
        that this amount of data takes where no rate is given, and ``rates``: for
        each step ``lr``, ``loss``, and ``smoothed``: the mean with its neighbours, each batch
        compared with what it lost before the training.
    """
    examples = read_data(settings, say)
    task, model, settings = start(settings, examples["train"], say)
    asked, device = settings.replace(steps=steps), best_device(settings.device)
    loader, optimizer = make_ready(asked, task, model, examples, device)
    run = Run(model, optimizer)
    rates = [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]
    untrained = losses_now(task, model, loader, settings.accumulate)
    usual = statistics.fmean(untrained)
    losses: list[float] = []

    def on_line(line: dict) -> None:
        if "norm" in line:
            losses.append(line["loss"])
            if len(losses) % 10 == 0:
                say(f"step {len(losses)} of {steps}: rate {line['lr']:.2g}, loss {losses[-1]:.4g}")
            if statistics.fmean(losses[-5:]) > TOO_FAR * usual:
                raise Diverged

    run.on_line = on_line
    schedule = lambda step: rates[step] / settings.lr  # noqa: E731
    step = Step(settings.accumulate, task.weight, schedule, settings.clip)
    epochs = len(loader.batch_sampler.plan)
    try:
        loop(model, loader, task.loss, run.optimizer, epochs=epochs, step=step, run=run)
    except Diverged:
        say(f"at the rate {rates[len(losses) - 1]:.2g} the loss is far too high; the search ends")
    found = smoothed(rates, losses, untrained)
    best = min(found, key=lambda row: row["smoothed"])
    fell = best["smoothed"] < 0.95 * usual
    if svg:
        write_text(svg, draw_rates(found))
    suggestion = float(f"{best['lr'] / 10:.1g}") if fell else None
    return {"suggestion": suggestion, "recipe": settings.recipe, "rates": found}


@torch.no_grad()
def losses_now(task: Task, model: nn.Module, loader: DataLoader, accumulate: int) -> list[float]:
    """The loss of every step to come, with the model as it is and dropout on."""
    model.train()
    found = []
    for epoch in range(len(loader.batch_sampler.plan)):
        for batches in steps_of(loader, accumulate, epoch, 0):
            weights = [task.weight(batch) for batch in batches]
            losses = [task.loss(model, batch).item() for batch in batches]
            found.append(float(np.average(losses, weights=weights)))
    return found


def smoothed(
    rates: Sequence[float], losses: Sequence[float], untrained: Sequence[float]
) -> list[dict]:
    """The loss at each rate, beside the mean with its neighbours.

    Batches differ more than rates do: what a batch lost before the training is taken off.
    """
    usual = statistics.fmean(untrained)
    change = [loss - before for loss, before in zip(losses, untrained, strict=False)]
    near = [change[max(i - 4, 0) : i + 5] for i in range(len(change))]
    return [
        {"lr": lr, "loss": loss, "smoothed": usual + statistics.fmean(span)}
        for lr, loss, span in zip(rates, losses, near, strict=False)
    ]


def draw_rates(found: Sequence[dict]) -> str:
    """The loss over the rate, whose axis shows powers of ten."""
    lines = {name: [(math.log10(row["lr"]), row[name]) for row in found]
             for name in ("loss", "smoothed")}  # fmt: skip
    return curves("the loss at growing learning rates", "rate: 10^", {"": lines})


def sweep(
    settings: Settings, name: str, values: Sequence, out: AnyPath, *, seeds: int = 1,
    say: Say = silent,
) -> dict:  # fmt: skip
    """A run for each value of a setting, in ``out/lr-2e-05`` and so on; dev data say which is best.

    A finished run is not repeated, a stopped one is resumed; one that diverges has no score.

    Args:
        seeds: runs for each value (in ``out/lr-2e-05/seed-0`` and so on); their mean counts.

    Returns:
        What ``out/sweep.json`` says: the ``measure``, the ``best`` value, and ``rows``: for each
        value its ``score``, its ``sd`` over the seeds and ``out``, its directory.

    Raises:
        ValueError: fewer than two values, or one that the setting does not allow.
    """
    if settings.recipe == "auto":  # as if no rate were given, so that a sweep of rates keeps it
        examples = len(read_data(settings, silent)["train"])
        settings = settings.replace(recipe=with_recipe(settings, examples, 1).recipe)
    wanted = {f"{name}-{value}".replace("/", "_"): settings.replace(**{name: value})
              for value in values}  # fmt: skip
    if len(wanted) < 2:
        raise ValueError(f"one value of {name}; a sweep needs at least two: --sweep lr=2e-5,1e-4")
    measure, rows = f"dev_{task_class(settings.task).best}", []
    for value, (folder, changed) in zip(values, wanted.items(), strict=True):
        where = Path(out) / folder
        try:
            if seeds > 1:
                results = several(changed, where, seeds, say=say)["runs"]
            else:
                results = [begin_or_resume(changed, where, say)["after"]]
            scores = [result[measure] for result in results]
        except Diverged as error:
            say(f"warning: {folder} has diverged: {error}")
            scores = []
        mean = statistics.fmean(scores) if scores else None
        sd = statistics.stdev(scores) if len(scores) > 1 else None
        rows.append({name: value, "score": mean, "sd": sd, "out": str(where)})
    known = [row for row in rows if row["score"] is not None]
    best = max(known, key=lambda row: row["score"])[name] if known else None
    result = {"measure": measure, "setting": name, "best": best, "rows": rows}
    write_json(Path(out) / "sweep.json", result)
    compare([row["out"] for row in rows], Path(out) / "sweep.svg")
    return result


def values_of(asked: str) -> tuple[str, list]:
    """``"lr=2e-5,1e-4"`` → the name of a setting and its values.

    Raises:
        ValueError: no such setting, or values of another type.
    """
    name, _, text = asked.partition("=")
    name = name.replace("-", "_")
    types = {field.name: field.type for field in dataclasses.fields(Settings)
             if "help" in field.metadata and field.type != "bool"}  # fmt: skip
    if name not in types or not text:
        raise ValueError(f"--sweep {asked}: it takes setting=value,value, such as lr=2e-5,5e-5")

    def value(word: str) -> int | float | str:
        if types[name].startswith("str"):
            return int(word) if "int" in types[name] and word.isdigit() else word
        return float(word) if types[name].startswith("float") else int(word)

    try:
        return name, [value(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"--sweep {asked}: {name} takes values of type {types[name]}") from None
