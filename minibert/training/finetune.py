"""A whole fine-tuning, from data files to a directory that opens everywhere.

`finetune` is the whole way: data → task and model → what may change → the loop → the result.
Everything it was asked for is in `Settings`, which is written beside the result.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from minibert.io.checkpoint import content_digest
from minibert.io.directory import open_directory
from minibert.io.files import atomic_directory, read_json, sha256, write_text
from minibert.training import data
from minibert.training.adapt import adapt, encoder_of, merge_lora, pull_to_start
from minibert.training.checkpoints import Run
from minibert.training.data import Say, silent
from minibert.training.data.columns import shown
from minibert.training.events import event_files
from minibert.training.history import curve
from minibert.training.inference import Evaluation
from minibert.training.loader import data_loader
from minibert.training.optim import make_optimizer, parameter_groups
from minibert.training.plots import card, curves, smooth
from minibert.training.running import begin, carry_out, finish, train
from minibert.training.settings import LITTLE, Settings, with_recipe
from minibert.training.tasks import task_class
from minibert.training.tasks.base import Task, failures
from minibert.training.tasks.pairs import Similarity


def finetune(
    settings: Settings | Mapping[str, object] | None, out: str | os.PathLike, *,
    resume: bool = False, say: Say = silent, tables: Mapping[str, str] | None = None,
) -> dict:  # fmt: skip
    """Fine-tune and write ``out``: the model, and in ``out/run`` settings, log, metrics and curves.

    Args:
        settings: what to do; with ``resume`` they are read from ``out``, and if some are given
            (`Settings`, or a dict of those that matter) they must be the same.
        out: a directory; ``out/run/metrics.json`` says that the run is finished.
        resume: continue the run in ``out``.
        say: gets a line of text whenever something happens.
        tables: data files to write first, into ``out/run/data``: name → content.

    Returns:
        What ``metrics.json`` says: metrics on dev (and test, and general data) before and after.

    Raises:
        ValueError: data, settings and model do not fit, or ``out`` already has a run in it.
        Diverged: loss or gradients became NaN; the last checkpoint stands.
        KeyboardInterrupt: Ctrl-C; the run was saved before.
    """
    return carry_out(whole_run, settings, out, resume, say, Settings, tables)


def whole_run(settings: Settings, out: Path, resume: bool, device: torch.device, say: Say) -> dict:
    """The run itself, in a directory that is ours."""
    examples = read_data(settings, say)
    task, model, settings = start(settings, examples["train"], say)
    origin = {name: sha256(data.locate(path)) for name, path in settings.files.items()}
    origin["base"] = content_digest(model.state_dict())
    evaluation = Evaluation(task, model, examples)
    known = evaluation.on("general")  # before anything is re-initialised
    loader, optimizer = make_ready(settings, task, model, examples, device)

    run = Run(
        model, optimizer, out / "run", best_on=f"dev_{task.best}", every=settings.checkpoint_every,
        patience=settings.patience,
    )  # fmt: skip
    begin(
        run, settings, origin, out, resume, loader.batch_sampler.steps,
        lambda: evaluation.on("dev", "test") | known, say,
    )  # fmt: skip
    train_task(settings, task, loader, run, evaluation, say)
    after = {"best_epoch": run.best_epoch or run.epoch, "steps": run.step}
    after |= evaluation.on("dev", "test", "general", calibrate=True)
    remarks = task.remarks(evaluation.last) + of_best_epoch(run, len(examples["dev"]))
    saved = partial(save, settings, run, evaluation, out)
    return finish(run, out, after, {"remarks": remarks}, saved, say)


# ---------------------------------------------------------------------------------- before training


def read_data(settings: Settings, say: Say) -> dict[str, list[data.Example]]:
    """Read all files, set development data aside if there are none, say what is remarkable."""
    of_task = task_class(settings.task).columns(), settings.reading
    how = {**dict.fromkeys(settings.files, of_task), "keep": (Similarity.columns(), {})}
    sets = {}
    for name, path in settings.files.items():
        roles, reading = how[name]
        sets[name] = data.read(path, roles, say=say, **reading)
    data.refuse_a_class_for_every_row(sets["train"])
    for example in sets["train"][:2]:
        values = ((role, shown(repr(value), 60)) for role, value in example.values.items())
        say(f"{example.where}: " + ", ".join(f"{role} = {value}" for role, value in values))
    if "score" in sets["train"][0].values:
        low, high = settings.scale or data.score_scale(sets["train"])
        say(f"the scores are taken as on a scale of {low:g} to {high:g} (another: --scale)")
    if "dev" not in sets:
        if len(sets["train"]) < 10:
            raise ValueError(f"{settings.train} is too small to set a tenth aside; give --dev")
        tenth = round(0.1 * len(sets["train"]))
        sets["dev"], sets["train"] = data.split(sets["train"], tenth, settings.seed)
        say(f"{len(sets['dev'])} rows of the training data are set aside as development data")
    for remark in data.check(sets["train"], sets["dev"]):
        say(f"warning: {remark}")
    if settings.task == "classify":
        for name in ("train", "dev"):
            counts = data.count_classes(sets[name])
            say(f"{name}: " + ", ".join(f"{label} {count}" for label, count in counts.items()))
        for remark in data.uneven({k: sets[k] for k in ("train", "dev", "test") if k in sets}):
            say(f"warning: {remark}")
    if "replay" in sets:
        n = round(settings.replay_share * len(sets["train"]))
        sets["replay"], _ = data.split(sets["replay"], n, settings.seed)
        say(f"{len(sets['replay'])} general examples are mixed in")
    return sets


def start(
    settings: Settings, train: Sequence[data.Example], say: Say
) -> tuple[Task, nn.Module, Settings]:
    """The task, the model to train for it, and the settings with all that the recipe decides."""
    torch.manual_seed(settings.seed)  # of the new head
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "new, untrained tensors")  # they are about to be trained
        warnings.filterwarnings("ignore", ".*does not say how to pool")
        base = open_directory(settings.base)
        task, model = task_class(settings.task).start(base, settings, train)
    return task, model, take_recipe(settings, model, len(train), say)


def take_recipe(settings: Settings, model: nn.Module, examples: int, say: Say) -> Settings:
    """The settings with all that the recipe decides; says so where it was not asked for."""
    found = with_recipe(settings, examples, encoder_of(model).config.hidden_size)
    decides = settings.lr is None or (settings.epochs or settings.steps) is None
    if settings.recipe == "auto" and decides:
        little = f", fewer than {LITTLE}" if found.recipe == "small" else ""
        length = f"{found.steps} steps" if found.steps else f"{found.epochs} epochs"
        say(
            f"{examples} examples{little}: the {found.recipe} recipe is taken, {length} at a "
            f"learning rate of {found.lr:.3g}; for another give recipe, lr or epochs"
        )
    return found


def of_best_epoch(run: Run, n: int) -> list[str]:
    """What is to be said of the epoch that the ``n`` development examples have chosen."""
    name, before = run.best_on.replace("_", " "), run.lines[0].get(run.best_on)
    if not run.best_epoch:
        return [f"{name} could not be computed in any epoch: the weights of the last are kept"]
    few = f" With {n} development examples this may be chance: give more" if n < 100 else ""
    if before is not None and run.best <= before:
        kept = f"epoch {run.best_epoch}, the best, is kept"
        return [f"no epoch beats the untrained model on dev ({name} {before:.4g}): {kept}.{few}"]
    if few and run.best_epoch == 1 and run.epoch > 2:
        return [f"the first of {run.epoch} epochs is the best on dev, and is kept.{few}"]
    return []


def make_ready(
    settings: Settings, task: Task, model: nn.Module, examples: Mapping[str, list[data.Example]],
    device: torch.device,
) -> tuple[DataLoader, torch.optim.Optimizer]:  # fmt: skip
    """The batches to learn from, and the optimizer of the model, which is changed as asked for."""
    adapt(model, settings)
    model.to(device)
    features = task.encode(examples["train"] + examples.get("replay", []))
    loader = data_loader(
        task, features, device, epochs=settings.epochs, steps=settings.steps,
        size=None if settings.batch_tokens else settings.batch_size, tokens=settings.batch_tokens,
        accumulate=settings.accumulate, seed=settings.seed, by_length=not settings.shuffle,
    )  # fmt: skip
    groups = parameter_groups(model, settings.lr, settings.decay, settings.layer_decay)
    optimizer = make_optimizer(settings.optimizer, groups)
    if settings.pull:
        pull_to_start(optimizer, encoder_of(model).parameters(), settings.pull)
    return loader, optimizer


# ------------------------------------------------------------------------- training and measuring


def train_task(
    settings: Settings, task: Task, loader: DataLoader, run: Run, evaluation: Evaluation, say: Say
) -> None:
    """Train to the end, and take the weights of the best epoch."""

    def scores(line: dict) -> str:
        named = ((name, line.get(name)) for name in (run.best_on, "general_spearman"))
        return ", ".join(f"{name} {score:.4g}" for name, score in named if score is not None)

    train(
        settings, loader, run, task.loss, task.weight, lambda: evaluation.on("dev", "general"),
        scores, say, event_files(run) if settings.tensorboard else None,
    )  # fmt: skip
    run.load_best()
    merge_lora(run.model)


# ---------------------------------------------------------------------------------- what remains


def save(settings: Settings, run: Run, evaluation: Evaluation, out: Path, result: dict) -> None:
    """Write the model, its card, the curves and the tables of the task."""
    task, before, after = evaluation.task, result["before"], result["after"]
    facts = {
        name.replace("_", " "): f"{before[name]:.4f} before, {after[name]:.4f} after "
        f"({after[name] - before[name]:+.4f})"
        for name in (f"dev_{task.best}", f"test_{task.best}", "general_spearman")
        if name in after and before.get(name) is not None
    }
    default = {field.name: field.default for field in dataclasses.fields(settings)}
    written = read_json(out / "run" / "settings.json")  # a resumed run knows no more
    asked = {k: v for k, v in written.items() if v != default[k]}
    title = f"{Path(settings.base).name}, fine-tuned: {settings.task}"
    with atomic_directory(out) as staging:
        task.save(run.model, staging)
        failed = [f"Failed: {remark}" for remark in failures(result)]
        text = card(title, facts, asked, task.library, task.pipeline, failed)
        write_text(staging / "README.md", text)
        drawn = f"{settings.task}: {Path(settings.train).name}"
        write_text(staging / "run" / "curves.svg", draw(drawn, run))
        for name, table in evaluation.tables.items():
            write_text(staging / "run" / name, table)


def draw(title: str, run: Run) -> str:
    """The curves of a run: loss of every step, scores of every epoch."""
    scores = {run.best_on.replace("_", " "): curve(run.lines, run.best_on)}
    if general := curve(run.lines, "general_spearman"):
        scores["general"] = general
    loss = {"train": smooth(curve(run.lines, "loss")), "dev": curve(run.lines, "dev_loss")}
    return curves(title, "step", {"loss": loss, "score": scores})
