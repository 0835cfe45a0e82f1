"""A whole fine-tuning, from data files to a directory that opens everywhere.

`finetune` puts the rooms together: data → task and model → what may move → the loop → the report.
Everything it was asked for is in `Settings`, which is written beside the result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import platform
import resource
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import minibert
from minibert.config import BertConfig
from minibert.io import distributed as parallel
from minibert.io.checkpoint import content_digest
from minibert.io.directory import open_directory
from minibert.io.files import atomic_directory, read_json, write_json, write_text
from minibert.io.sentence_transformers import read_modules
from minibert.sentence_encoder import SentenceEncoder, best_device
from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training import data, metrics
from minibert.training import plots as report
from minibert.training.adapt import (
    add_lora,
    encoder_of,
    freeze,
    merge_lora,
    pull_to_start,
    reinitialise,
)
from minibert.training.checkpoints import Run
from minibert.training.loop import (
    SCHEDULES,
    Batches,
    evaluate,
    loop,
    make_optimizer,
    parameter_groups,
    predict,
)
from minibert.training.settings import Settings
from minibert.training.tasks import (
    Classification,
    Contrastive,
    MaskedLM,
    PairRegression,
    QuestionAnswering,
    Similarity,
    TokenClassification,
)

TASKS = {
    "classify": Classification,
    "regression": PairRegression,
    "similarity": Similarity,
    "contrastive": Contrastive,
    "mlm": MaskedLM,
    "tokens": TokenClassification,
    "qa": QuestionAnswering,
}
SIDE_BY_SIDE = (Similarity, Contrastive)  # no head: the result is a sentence encoder


# -------------------------------------------------------------------------------------- one run


def finetune(
    settings: Settings,
    out: str | os.PathLike,
    *,
    resume: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """Fine-tune and write ``out``: the model, and in ``out/run`` how it came about.

    Args:
        settings: what to do; with ``resume`` they are read from ``out``, and these are ignored.
        out: a directory; ``out/run/metrics.json`` says when the run is finished.
        resume: go on where a stopped run was.
        say: is told what happens.

    Returns:
        What ``metrics.json`` says: measures on dev (and test, and general data) before and after.

    Raises:
        ValueError: data, settings and model do not fit, or ``out`` already has a run in it.
        Diverged: loss or gradients became NaN; the last checkpoint stands.
        KeyboardInterrupt: Ctrl-C; the run was saved before.
    """
    out = Path(out)
    here = out / "run"
    if resume:
        settings = read_settings(here)
        if (here / "metrics.json").exists():
            say(f"{out} is finished already")
            clear(here)
            return read_json(here / "metrics.json")
    elif (here / "settings.json").exists():
        raise ValueError(
            f"{out} already holds a run; go on with it (--resume), name another directory, or "
            f"remove {here}"
        )
    device = best_device(settings.device)
    parallel.start(device.type)
    chief = parallel.rank() == 0
    say = say if chief else lambda line: None

    sets = read_data(settings, say)
    torch.manual_seed(settings.seed)
    task, model, save = build(settings, sets["train"])
    digests = {
        **{name: data.digest(path) for name, path in files(settings).items()},
        "base": content_digest(model.state_dict(), {}),
    }
    general = keeper(settings, task, sets["keep"]) if "keep" in sets else None
    known = evaluate(encoder_of(model), *general)["spearman"] if general else None
    adapt(settings, model)
    features = {name: task.encode(examples) for name, examples in sets.items() if name != "keep"}
    training = features.pop("train") + features.pop("replay", [])
    model.to(device)

    batches = Batches(
        task,
        training,
        epochs=settings.epochs,
        steps=settings.steps,
        size=None if settings.batch_tokens else settings.batch_size,
        tokens=settings.batch_tokens,
        accumulate=settings.accumulate,
        seed=settings.seed,
        device=device,
    )
    groups = parameter_groups(model, settings.lr, settings.decay, settings.layer_decay)
    if not groups:
        raise ValueError("every parameter is frozen: there is nothing to train")
    optimizer = make_optimizer(settings.optimizer, groups)
    if settings.pull:
        pull_to_start(optimizer, encoder_of(model).parameters(), settings.pull)
    schedule = SCHEDULES[settings.schedule](
        math.ceil(settings.warmup * batches.steps), batches.steps
    )
    run = Run(
        model,
        optimizer,
        len(batches.plan),
        here,
        best_on=task.best,
        every=settings.checkpoint_every,
        patience=settings.patience,
        on_line=narrator(say, batches, len(training), task.best),
    )

    def measures() -> dict[str, float]:
        found = {f"dev_{key}": v for key, v in evaluate(model, task, features["dev"]).items()}
        if general:
            found["general_spearman"] = evaluate(encoder_of(model), *general)["spearman"]
        return {task.best: found[f"dev_{task.best}"], **found}

    def loss(model: nn.Module, batch: dict) -> torch.Tensor:
        with autocast(device, settings.autocast):
            return task.loss(task.outputs(model, batch), batch)

    if chief and resume:
        for stale in out.glob(".*.tmp-*"):  # the result, half-written when the run was killed
            shutil.rmtree(stale)
    if chief and not resume:
        write_json(here / "versions.json", {**versions(), "sha256": digests})
        write_json(here / "settings.json", dataclasses.asdict(settings))  # from now on it is a run
    before = read_json(here / "versions.json")["sha256"] if resume else digests
    if changed := [name for name in digests if digests[name] != before.get(name)]:
        raise ValueError(f"since the run began, this has changed: {changed}; begin a new run")
    if resume:
        for stale in out.parent.glob(f".{out.name}.tmp-*"):  # of a killed process
            shutil.rmtree(stale, ignore_errors=True)
    if run.resume():
        say(f"resumed after step {run.step} of {batches.steps}")
    else:
        torch.manual_seed(settings.seed + parallel.rank())  # each process its own dropout
        untouched = evaluate(model, task, features["test"]) if "test" in features else {}
        untouched = {f"test_{key}": value for key, value in untouched.items()}
        before = {**measures(), **({"general_spearman": known} if general else {})}
        run.log(step=0, epoch=0, **before, **untouched)
    started = time.perf_counter(), run.step
    with run.interruptible():
        loop(
            model, batches, loss, task.weight, optimizer, schedule, measures, run, settings.clip
        )
    seconds, steps = time.perf_counter() - started[0], run.step - started[1]
    run.load_best()
    merge_lora(model)
    result = finish(settings, task, model, features, general, run, save, out if chief else None)
    if chief:
        share = steps / max(batches.steps, 1)
        write_json(here / "timing.json", timing(seconds, share * len(training) * run.epoch))
        write_json(here / "metrics.json", result)  # from now on the run is finished
        clear(here)
    parallel.wait()
    for remark in result["remarks"]:
        say(f"warning: {remark}")
    return result


def read_settings(here: Path) -> Settings:
    """The settings of a run that has begun."""
    if not (here / "settings.json").exists():
        raise FileNotFoundError(f"{here} holds no run that could be resumed; begin one")
    values = read_json(here / "settings.json")
    values["scale"] = values["scale"] and tuple(values["scale"])
    return Settings(**values)


def files(settings: Settings) -> dict[str, str]:
    """The data files that the settings name."""
    names = ("train", "dev", "test", "keep", "replay")
    return {name: getattr(settings, name) for name in names if getattr(settings, name)}


def read_data(settings: Settings, say: Callable[[str], None]) -> dict[str, list[data.Example]]:
    """Read all files, set a development part aside if there is none, say what is remarkable."""
    roles = TASKS[settings.task].roles
    sets = {
        name: data.read(path, Similarity.roles, say=say)
        if name == "keep"
        else data.read(path, roles, settings.columns, say)
        for name, path in files(settings).items()
    }
    if "dev" not in sets:
        sets["train"], sets["dev"] = data.split(sets["train"], 0.1, settings.seed)
        say(f"{len(sets['dev'])} of the training rows are set aside as development data")
    for remark in data.check(sets["train"], sets["dev"]):
        say(f"warning: {remark}")
    for name in ("train", "dev"):
        if settings.task == "classify":
            counts = data.count_classes(sets[name])
            say(f"{name}: " + ", ".join(f"{label} {count}" for label, count in counts.items()))
    if "replay" in sets:
        n = round(settings.replay_share * len(sets["train"]))
        sets["replay"] = data.subset(sets["replay"], n, settings.seed)
        say(f"{len(sets['replay'])} general examples are mixed in")
    return sets


def build(settings: Settings, train: Sequence[data.Example]) -> tuple[Any, nn.Module, Callable]:
    """The task, the model it trains, and how both are saved: (directory) → None."""
    base = open_directory(settings.base)
    kind = TASKS[settings.task]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "new, untrained tensors")  # they are about to be trained
        warnings.filterwarnings("ignore", ".*does not say how to pool")
        options: dict[str, Any] = {"max_length": settings.max_length}
        if kind in SIDE_BY_SIDE:
            encoder = SentenceEncoder.from_pretrained(base, device="cpu")
            options["pooling"] = encoder.pooling
            if kind is Similarity:
                options["scale"] = settings.scale or data.score_scale(train)
                options["objective"] = settings.objective
            return kind(encoder.tokenizer, **options), encoder.model, encoder.save_pretrained
        tokenizer = BertTokenizer.from_pretrained(base)
        if kind is Classification:
            options["classes"] = data.class_names(train)
            options["label_smoothing"] = settings.label_smoothing
            if settings.class_weights:
                counts = data.count_classes(train).values()
                options["class_weights"] = [len(train) / len(counts) / n for n in counts]
        elif kind is TokenClassification:
            options["classes"] = sorted({tag for e in train for tag in e.values["tags"]})
        elif kind is PairRegression:
            options["scale"] = settings.scale or data.score_scale(train)
        task = kind(tokenizer, **options)
        model = kind.head.from_pretrained(base, **task.config)

    def save(directory: Path) -> None:
        model.save_pretrained(directory)
        tokenizer.model_max_length = settings.max_length
        tokenizer.save_pretrained(directory)

    return task, model, save


def width(base: str) -> int:
    """The hidden size of a model: H."""
    directory = open_directory(base)
    home = directory.folder(read_modules(directory)["Transformer"])
    return BertConfig.from_pretrained(home).hidden_size


def adapt(settings: Settings, model: nn.Module) -> None:
    """Decide what of the model may move, and from where."""
    bert = encoder_of(model)
    if bert is model and bert.pooler is not None:
        bert.pooler.requires_grad_(False)  # a sentence encoder does not use it
    if settings.reinit is not None:
        reinitialise(model, settings.reinit)
    if settings.freeze is not None:
        freeze(model, settings.freeze)
    if settings.lora is not None:
        add_lora(model, settings.lora)
    if settings.dropout is not None:
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = settings.dropout


def keeper(settings: Settings, task: Any, examples: Sequence[data.Example]) -> tuple:
    """The task and the features that measure what the encoder still knows in general."""
    pooling = getattr(task, "pooling", ("mean",))
    general = Similarity(
        task.tokenizer,
        pooling=pooling,
        scale=data.score_scale(examples),
        max_length=settings.max_length,
    )
    return general, general.encode(examples)


def autocast(device: torch.device, wanted: bool) -> contextlib.AbstractContextManager:
    """bfloat16 for the matrix products, where it is wanted."""
    if not wanted:
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def narrator(say: Callable, batches: Batches, examples: int, best: str) -> Callable[[dict], None]:
    """Tell a person how it goes: every epoch, and within one every ten seconds."""
    told = [time.monotonic()]
    began: list[tuple[float, int]] = []  # when, and after which step

    def on_line(line: dict) -> None:
        if not began:
            began.append((time.monotonic(), line["step"]))
        scores = {k: v for k, v in line.items() if k in (f"dev_{best}", "general_spearman")}
        if not scores and time.monotonic() - told[0] < 10:
            return
        told[0] = time.monotonic()
        numbers = {**scores, **{k: line[k] for k in ("loss", "lr") if k in line}}
        seconds, done = told[0] - began[0][0], line["step"] - began[0][1]
        say(
            f"step {line['step']} of {batches.steps}, epoch {line['epoch']}: "
            + ", ".join(f"{k} {v:.4g}" for k, v in numbers.items() if v is not None)
            + time_left(seconds, done, batches.steps - line["step"])
        )

    return on_line


def time_left(seconds: float, done: int, left: int) -> str:
    """A guess for a person, from how long the steps that are done took; or nothing."""
    if not done or not left:
        return ""
    guess = seconds / done * left
    return f"; about {guess:.0f} s left" if guess < 90 else f"; about {guess / 60:.0f} min left"


# ---------------------------------------------------------------------------------- what remains


def finish(
    settings: Settings,
    task: Any,
    model: nn.Module,
    features: dict[str, list],
    general: tuple | None,
    run: Run,
    save: Callable[[Path], None],
    out: Path | None,
) -> dict:
    """Measure the finished model and write it, with everything a person wants to see."""
    first = next(line for line in run.lines if "step" in line and line["step"] == 0)
    after = {"best_epoch": run.best_epoch or run.epoch, "steps": run.step}
    for name in ("dev", "test"):
        if name in features:
            predictions, loss = predict(model, task, features[name])
            measured = {"loss": loss, **task.measure(predictions, features[name])}
            after |= {f"{name}_{key}": value for key, value in measured.items()}
            last = features[name], predictions, measured
    if general:
        after["general_spearman"] = evaluate(encoder_of(model), *general)["spearman"]
    result = {
        "before": {k: v for k, v in first.items() if k.startswith(("dev_", "test_", "general_"))},
        "after": after,
    }
    classes = getattr(task, "classes", None)
    result["remarks"] = report.warnings_about(last[2], len(classes or ()))
    if out is None:
        return result

    names = [f"dev_{task.best}", f"test_{task.best}", "general_spearman"]
    facts = {
        name.replace("_", " "): f"{result['before'][name]:.4f} before, {after[name]:.4f} after "
        f"({after[name] - result['before'][name]:+.4f})"
        for name in names
        if name in after and result["before"].get(name) is not None
    }
    named = {
        f.name: getattr(settings, f.name)
        for f in dataclasses.fields(settings)
        if getattr(settings, f.name) != f.default
    }
    with atomic_directory(out) as staging:
        save(staging)
        title = f"{Path(settings.base).name}, fine-tuned: {settings.task}"
        write_text(
            staging / "README.md", report.model_card(title, settings.task, named, facts)
        )
        write_text(staging / "run" / "curves.svg", draw(settings, run, task.best))
        if isinstance(task, Classification):
            examples, predictions, _ = last
            table = metrics.confusion_matrix(
                [feature.target for feature in examples],
                np.stack(predictions).argmax(-1),
                range(len(classes)),
            )
            write_text(
                staging / "run" / "confusion.csv", report.confusion_csv(classes, table.tolist())
            )
    return result


def draw(settings: Settings, run: Run, best: str) -> str:
    """The curves of a run: loss of every step, scores of every epoch."""
    steps = [line for line in run.lines if "norm" in line]
    epochs = [line for line in run.lines if "norm" not in line]
    scores = {f"dev {best}": [(line["step"], line[f"dev_{best}"]) for line in epochs]}
    if "general_spearman" in epochs[0]:
        scores["general"] = [(line["step"], line["general_spearman"]) for line in epochs]
    loss = {
        "train": report.smooth([(line["step"], line["loss"]) for line in steps]),
        "dev": [(line["step"], line["dev_loss"]) for line in epochs],
    }
    panels = {"loss": loss, "score": scores}
    return report.curves(f"{settings.task}: {Path(settings.train).name}", "step", panels)


def versions() -> dict:
    """Where a run took place: what another one needs to give the same numbers."""
    import safetensors

    return {
        "minibert": minibert.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "processes": parallel.processes(),
    }


def timing(seconds: float, examples: float) -> dict:
    """How fast it went, and how much memory it took: all that may differ between two equal runs."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = peak if platform.system() == "Darwin" else peak * 1024  # bytes there, kilobytes here
    return {
        "seconds": round(seconds, 1),
        "examples_per_second": round(examples / seconds, 1) if seconds else None,
        "peak_memory_bytes": peak,
    }


def clear(here: Path) -> None:
    """Remove what a finished run needs no more."""
    for name in ("checkpoint.safetensors", "best.safetensors"):
        (here / name).unlink(missing_ok=True)


# --------------------------------------------------------------------- several seeds, and baselines


def several(
    settings: Settings,
    out: str | os.PathLike,
    seeds: int,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """The same run with ``seeds`` seeds, in ``out/seed-0`` and so on; ``out/seeds.json`` sums up.

    A run that is finished already is not done again, one that was stopped goes on. A classifier
    has failed (is "degenerate") when it is no better than always naming the most frequent class.
    """
    out = Path(out)
    best = TASKS[settings.task].best
    scores, found = [], []
    for seed in range(settings.seed, settings.seed + seeds):
        where = out / f"seed-{seed}"
        begun = (where / "run" / "settings.json").exists()
        result = finetune(settings.replace(seed=seed), where, resume=begun, say=say)
        part = "test" if settings.test else "dev"
        scores.append(result["after"][f"{part}_{best}"])
        found.append({"seed": seed, **result["after"]})
        say(f"seed {seed}: {part} {best} {scores[-1]:.4f}")
    summary = {
        "measure": f"{part} {best}",
        "mean": float(np.mean(scores)),
        "sd": float(np.std(scores, ddof=1)) if seeds > 1 else None,
        "worst": float(np.min(scores)),
        "runs": found,
    }
    if settings.task == "classify":
        bases = baselines(settings)
        floor = bases["majority class"]
        summary |= {"baselines": bases, "failed": sum(score <= floor for score in scores)}
    write_json(out / "seeds.json", summary)
    return summary


def baselines(settings: Settings) -> dict[str, float]:
    """Accuracies that a classifier must beat: the commonest class; a linear map on frozen vectors.

    The vectors are the means of the untouched model's last states, standardised; the map is
    logistic regression with a little weight decay, fitted until it stands still.
    """
    sets = read_data(settings, lambda line: None)
    train, test = sets["train"], sets.get("test", sets["dev"])
    names = data.class_names(train)
    labels = [[names.index(e.values["label"]) for e in part] for part in (train, test)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = SentenceEncoder.from_pretrained(settings.base)
        texts = [[" ".join(e.texts) for e in part] for part in (train, test)]
        vectors = [torch.from_numpy(encoder.encode(part)) for part in texts]
    mean, spread = vectors[0].mean(0), vectors[0].std(0) + 1e-9  # (H,) each
    seen, unseen = ((v - mean) / spread for v in vectors)  # (n, H)
    linear = nn.Linear(seen.shape[1], len(names))
    nn.init.zeros_(linear.weight)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=200, line_search_fn="strong_wolfe")
    target = torch.tensor(labels[0])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(linear(seen), target)
        loss = loss + 0.01 * linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    commonest = max(set(labels[0]), key=labels[0].count)
    guesses = linear(unseen).argmax(-1).tolist()
    return {
        "majority class": metrics.accuracy(labels[1], [commonest] * len(test)),
        "frozen encoder": metrics.accuracy(labels[1], guesses),
    }
