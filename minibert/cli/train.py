"""Commands that fine-tune a model, and use what comes out."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minibert.cli.common import (
    Result,
    option,
    options,
    reading,
    reading_options,
    table,
    tell,
    whole_number,
    writes,
)

finetuned_option = option(
    "--model", required=True, metavar="DIR", help="what `minibert finetune` has written (required)"
)


@options
def settings_options(parser: argparse.ArgumentParser) -> None:
    """The task, and an option for every setting of a fine-tuning, with its help and default."""
    from minibert.training.settings import FILES, GROUPS, Settings
    from minibert.training.tasks import TASKS

    parser.add_argument("task", nargs="?", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("train", nargs="?", metavar="TRAIN",
                        help="training data; the layout for each task is below")
    add_settings(parser, Settings, GROUPS, FILES)


def add_settings(
    parser: argparse.ArgumentParser, kind: type, groups: dict[str, str], files: Sequence[str] = ()
) -> None:
    """An option for every setting, with its help and default.

    Args:
        kind: the class of the settings.
        groups: the field that begins each group → its title.
        files: the fields that name a file.
    """
    import dataclasses

    from minibert.training.settings import CHOICES

    kinds = {"int": int, "float": float}
    group: Any = parser
    for field in dataclasses.fields(kind):
        if "help" not in field.metadata:
            continue
        if field.name in groups:
            group = parser.add_argument_group(groups[field.name])
        option = "--" + field.name.replace("_", "-")
        text = field.metadata["help"]
        if field.type == "bool":
            group.add_argument(option, action="store_true", default=GIVEN, help=text)
            continue
        types = {*field.type.split(" | ")}
        of_type = kinds.get(field.type.split()[0], str)
        of_type = number_or_word if {"int", "str"} <= types else of_type
        text += "" if field.default is None else f" (default {field.default})"
        choices = [name for name in CHOICES.get(field.name, ()) if name] or None
        shown = "FILE" if field.name in files else field.type.split()[0].upper()
        group.add_argument(
            option, type=of_type, default=GIVEN, choices=choices, help=text,
            metavar=None if choices else shown,
        )  # fmt: skip


GIVEN = argparse.SUPPRESS  # as a default: only what was given becomes an argument


def number_or_word(text: str) -> int | str:
    """A number if it is one."""
    return int(text) if text.isdigit() else text


@option("--out", required=True, metavar="DIR", help="directory to write")
@option("--resume", action="store_true", help="continue the run in --out")
@option("--seeds", type=whole_number(1), default=1, help="train with this many seeds and summarise")
@option("--sweep", metavar="NAME=V,V", help="a run for each value of a setting, such as "
        "lr=2e-5,5e-5,1e-4, in --out; the table says which is best on dev")
@option("--find-lr", action="store_true", help="train nothing: try growing learning rates for some "
        "tens of steps, and suggest one")
@reading_options
@option("--scale", nargs=2, type=float, metavar=("LOW", "HIGH"), help="range of the scores")
@settings_options
def finetune(args: argparse.Namespace) -> Result | None:
    """Train a model on a file; the result opens in transformers and sentence-transformers.

    Example: minibert finetune classify train.tsv --dev dev.tsv --recipe small --out my-model

    A row of the data (csv, tsv, jsonl, json; any of them may be gzipped):
      classify     text label (pair: a second text); or, in a txt: __label__good a fine cup
      multilabel   text labels: a list in jsonl, a|b in a csv; or: __label__a __label__b a text
      regression   sentence1 sentence2 score; similarity: the same
      contrastive  text pair (negative: a text that does not belong)
      mlm          text; or a txt, a text a line
      tokens       CoNLL columns (.conll .iob2 .txt): a word and its tag a line, a blank line after
                   a sentence; or jsonl with two lists: tokens tags
      qa           SQuAD's json; or question context answers: {"text": [..], "answer_start": [..]}
    Columns are found by these names, else by what is in them; --columns says it for certain.
    Rules and examples: notebooks/files.md
    """
    from minibert.io.distributed import rank
    from minibert.training.finetune import finetune as run
    from minibert.training.seeds import several
    from minibert.training.settings import Settings

    if args.resume and (args.seeds > 1 or args.sweep):
        raise ValueError("seeds and sweeps continue by themselves what was stopped: omit --resume")
    if args.resume and args.find_lr:
        raise ValueError("--find-lr trains nothing that could be resumed: omit --resume")
    how = "name a task and a training file: minibert finetune TASK TRAIN --out DIR"
    settings = asked(args, Settings, ("task", "train"), how)
    if args.find_lr or args.sweep:
        return None if rank() else search(args, settings)
    with resumable("finetune", args.out):
        if args.seeds > 1:
            value = several(settings, args.out, args.seeds, say=tell)
        else:
            value = run(settings, args.out, resume=args.resume, say=tell)
    if rank():
        return None
    text = seeds_text if "mean" in value else finetune_text
    return Result({"out": args.out, **value}, text, passed=not failed(value))


@contextlib.contextmanager
def resumable(command: str, out: str) -> Iterator[None]:
    """Say after Ctrl-C how the run is continued."""
    try:
        yield
    except KeyboardInterrupt:
        tell(f"to continue a run that had begun: minibert {command} --resume --out {out}")
        raise


def search(args: argparse.Namespace, settings) -> Result:
    """``--find-lr`` or ``--sweep``."""
    from minibert.training.search import find_lr, sweep, values_of

    if args.find_lr:
        picture = f"{args.out}-find-lr.svg"  # --out itself stays free for the run
        return Result({**find_lr(settings, picture, say=tell), "picture": picture}, rates_text)
    name, values = values_of(args.sweep)
    found = sweep(settings, name, values, args.out, seeds=args.seeds, say=tell)
    return Result(found, sweep_text, passed=found["best"] is not None)


def rates_text(value: dict) -> str:
    """The loss at every fourth rate, the suggestion, and where the curve is."""
    rows = ((f"{r['lr']:.1e}", r["loss"], r["smoothed"]) for r in value["rates"][3::4])
    found = value["suggestion"]
    said = "no rate lowered the loss: more or other data, or a larger batch, may help"
    if found:
        recipe, near = value["recipe"], f"{found / 2:g},{found:g},{found * 2:g}"
        said = f"try --recipe {recipe} --lr {found:g}, or compare: --sweep lr={near}"
    return f"{table([('lr', 'loss', 'smoothed'), *rows])}\n{value['picture']}: the curve\n{said}"


def sweep_text(value: dict) -> str:
    """A row for each value, then the best."""
    name = value["setting"]
    rows = [
        (str(row[name]), "diverged" if row["score"] is None else f"{row['score']:.4f}",
         "" if row["sd"] is None else f"(sd {row['sd']:.4f})", row["out"])
        for row in value["rows"]
    ]  # fmt: skip
    best = next((row for row in value["rows"] if row[name] == value["best"]), None)
    said = f"best: {name} {best[name]}, in {best['out']}" if best else "all have diverged"
    return f"{table([(name, value['measure'], '', ''), *rows])}\n{said}"


def asked(args: argparse.Namespace, kind: type, needed: Sequence[str], how: str):
    """The settings of a new run, of that kind; of a resumed one a dict of those that were given.

    Raises:
        ValueError: a new run lacks what is ``needed``; ``how`` says how it is given.
    """
    import dataclasses

    names = [field.name for field in dataclasses.fields(kind)]
    given = {name: value for name in names if (value := vars(args).get(name)) not in (None, [])}
    if args.resume:
        return given
    if not {*needed} <= given.keys():
        raise ValueError(how)
    return kind(**given)


def failed(value: dict) -> bool:
    """Whether a run has failed, or all of several."""
    from minibert.training.tasks.base import failures

    if "runs" in value:
        return value.get("failed") == len(value["runs"])
    return bool(failures(value))


def finetune_text(value: dict) -> str:
    """Every measure before and after, then where the model is."""
    from minibert.training.tasks.base import FAILED

    rows = []
    for name, after in value["after"].items():
        form = ".4f" if isinstance(after, float) else "d"
        before = value["before"].get(name)
        change = "" if before is None else f"(before: {before:{form}}, {after - before:+{form}})"
        rows.append((name, after, change))
    model = f"{FAILED}, do not use this model" if failed(value) else "the model"
    out = value["out"]
    return f"{table(rows)}\n{out}: {model}; {out}/run: settings, log, metrics, curves"


def seeds_text(value: dict) -> str:
    """The summary over the seeds, and the baselines."""
    spread = "" if value["sd"] is None else f" (sd {value['sd']:.4f})"
    lines = [f"{value['measure']}: {value['mean']:.4f}{spread}, worst {value['worst']:.4f}"]
    lines += [f"{name}: {score:.4f}" for name, score in value.get("baselines", {}).items()]
    if value.get("failed"):
        runs = len(value["runs"])
        lines.append(f"{value['failed']} of {runs} runs failed: no better than one class")
    return "\n".join(lines)


@finetuned_option
@option("file", metavar="FILE", help="txt (one text per line), csv, tsv or jsonl")
@reading_options
def predict(args: argparse.Namespace) -> Result:
    """Predict an answer for every row of a file with a fine-tuned model.

    Example: minibert predict questions.txt --model my-model
    """
    from minibert.training.inference import predict_file

    return Result(predict_file(args.model, args.file, say=tell, **reading(args)), predict_text)


def predict_text(answers: list[dict]) -> str:
    """The names, then a line for each row: the answer, its probability if it has one, the text."""
    lines = []
    for answer in answers:
        first, *rest = answer
        names = [*rest[-(2 if "probability" in answer else 1) :], first]
        lines += ["\t".join(names)] * (not lines)
        lines.append("\t".join(cell(answer[name]) for name in names))
    return "\n".join(lines)


def cell(value: object) -> str:
    """A value on a line: numbers with four places, words side by side, entities with their type."""
    if isinstance(value, list):
        words = (each if isinstance(each, dict) else {"text": each} for each in value)
        return " ".join(f"[{w['type']} {w['text']}]" if "type" in w else w["text"] for w in words)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


@finetuned_option
@option("--data", required=True, metavar="FILE", help="csv, tsv or jsonl")
@reading_options
def evaluate_classify(args: argparse.Namespace) -> Result:
    """Measure a fine-tuned model on labelled data: accuracy, or what its task is measured by.

    Example: minibert evaluate classify --model my-model --data test.tsv
    """
    from minibert.training.inference import evaluate_file

    measures = evaluate_file(args.model, args.data, say=tell, **reading(args))
    value = {"model": args.model, "data": args.data, **measures}
    return Result(value, lambda value: table(measures.items()))


@option("base", metavar="BASE", help="the model that the fine-tuning started from")
@option("tuned", metavar="TUNED", help="the fine-tuned model")
@option("--alpha", type=float, default=0.5, help="share of TUNED, 0 to 1 (default 0.5)")
@option("--out", metavar="DIR", help="directory to write the average to")
@option("--data", metavar="FILE", help="sweep alpha from 0 to 1; measure on this domain data ...")
@option("--keep", metavar="FILE", help="... and on these scored pairs of general texts")
@writes("--svg", ending=".svg", help="draw both curves over alpha")
@reading_options
def blend(args: argparse.Namespace) -> Result:
    """Average the weights of a model and of what was fine-tuned from it.

    Example: minibert blend all-MiniLM-L6-v2 my-model --alpha 0.5 --out half-way
    """
    if not args.out and not args.data:
        raise ValueError("--out DIR writes the average; --data F --keep G sweeps over alpha")
    if bool(args.data) != bool(args.keep):
        raise ValueError("a sweep over alpha needs both: --data (domain), --keep (general pairs)")
    out = Path(args.out or ".")
    if args.out and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already; name another directory, or remove it first")
    from minibert.training.inference import Blend, draw_sweep

    mix = Blend(args.base, args.tuned)
    rows = mix.sweep(args.data, args.keep, tell, **reading(args)) if args.data else []
    if args.svg and rows:
        draw_sweep(rows, args.svg)
    if args.out:
        mix.save(args.alpha, args.out)
    value = {
        "base": args.base, "tuned": args.tuned, "alpha": args.alpha, "out": args.out,
        "heads": mix.heads, "sweep": rows,
    }  # fmt: skip
    return Result(value, blend_text)


def blend_text(value: dict) -> str:
    """The measures for every alpha, then what was written."""
    columns = ("alpha", "domain", "general")
    rows = ([row[name] for name in columns] for row in value["sweep"])
    lines = [table([columns, *rows])] if value["sweep"] else []
    if value["out"]:
        heads = ", ".join(value["heads"])
        alone = f"; the head ({heads}) is that of {value['tuned']} alone" if heads else ""
        share = f"{value['alpha']:g} of {value['tuned']}, the rest {value['base']}"
        lines.append(f"{value['out']}: {share}{alone}")
    return "\n".join(lines)
