"""Commands that check: the numbers, the exercises, the speed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from minibert.cli.common import (
    Result,
    add_model,
    language_option,
    option,
    options,
    table,
    tell,
    whole_number,
    writes,
)


@option("dump", nargs="?", metavar="DUMP", help="your tensors, .safetensors or .npz")
@option("--replace", action="append", default=[], metavar="KIND=FILE.py:NAME",
        help="put your class or function in place of ours (may be repeated)")
@option("--whole", metavar="FILE.py:NAME",
        help="check your whole model, in your names; or the weights in a .safetensors, .npz or .pt")
@option("--model", help="directory or hub name: the weights to check, or to check with")
@option("--trace", metavar="FILE", help="take the inputs from this file of minibert trace")
@option("--names", metavar="FILE.json", help='{"your name": "our name"}')
@option("--goldens", metavar="DIR", help="other golden files")
@option("--singles", action="store_true", help="do not look for pairs of mistakes")
@language_option
@option("--seconds", type=float, default=60,
        help="how long to look for pairs of mistakes in a dump or a whole model (default 60)")
@writes("--html", ending=".html", help="write the report to an HTML page, too")
def parity(args: argparse.Namespace) -> Result:
    """Check this installation, a dump, or your own code against the reference, stage by stage.

    Example: minibert parity --replace attention=my_attention.py:MyAttention

    more examples:
      minibert parity                 this installation, against the golden files
      minibert parity --model DIR     any weights, against transformers
      minibert parity mine.npz --trace trace.safetensors --names names.json
      minibert parity --whole mine.py:build --model all-MiniLM-L6-v2

    a whole model: build() returns yours, with your copy of the weights of --model in it, called as
    model(input_ids, attention_mask) or model(input_ids, attention_mask, token_type_ids). Names and
    layouts are yours; it may be written in torch or with arrays of numpy. All that its modules
    return, and the variables of your functions, are recognised by their numbers; a map (--names)
    is needed only where the report asks for it.

    what can be replaced, and how it is called:
      embeddings    Class(config)(input_ids, token_type_ids) -> (B, T, H)
      attention     Class(config)(hidden, mask) -> (B, T, H); add mask (B, 1, 1, T) to the scores
      feed_forward  Class(config)(hidden) -> (B, T, H)
      layer         Class(config)(hidden, mask) -> (B, T, H)
      pooler        Class(config)(hidden) -> (B, H)
      pooling       function(hidden, attention_mask) -> (B, H)
      loss          function(logits, labels) -> one number; labels of -100 do not count
      optimizer     Class(parameters, lr, betas, eps, weight_decay) with step()

    the weights that are copied in, and so the names that a class needs (each has .weight and,
    unless it is an embedding table, .bias):
      embeddings    word, segment, position, norm
      attention     query, key, value, output
      feed_forward  expand, contract
      layer         attention.query, attention.key, attention.value, attention.output,
                    attention_norm, feed_forward.expand, feed_forward.contract,
                    feed_forward_norm
      pooler        dense
    Other names and shapes are recognised as far as possible (query, key and value in one, a matrix
    for each head, (in, out) order), and the report says how. To say it yourself, set a class
    attribute, names = {"q_proj": "query"}, or put the same into a file for --names:
      {"qkv": "query, key, value", "heads.*.q": "query", "W": "query.weight (in, out)"}
    names of modules or of single weights, * for the number of a head, the axes in brackets. Or a
    method take_weights(weights) does the copying itself.
    """
    import torch

    from minibert.io.files import write_text
    from minibert.parity import goldens
    from minibert.parity.diagnosis import Patience
    from minibert.parity.html import to_html

    torch.set_num_threads(1)  # many small products: a second thread only costs
    reports = goldens.parity(
        args.dump, args.replace, args.model, args.names, args.trace, args.goldens,
        not args.singles, Patience(args.seconds, tell), args.whole,
    )  # fmt: skip
    if args.html:
        write_text(args.html, to_html(reports))
        tell(f"{args.html} written")
    passed = all(report.passed for report in reports)
    value = {"passed": passed, "reports": reports}
    return Result(value, lambda value: "\n\n".join(map(str, value["reports"])), passed)


@option("exercise", nargs="?", metavar="EXERCISE", help="a name, or all; without one: a list")
@option("path", nargs="?", metavar="FILE", help="your file; for all a directory")
@writes("--start", ending=".py", nargs="?",
        const=lambda args: f"{args.exercise}.py".replace("-", "_"),
        help="write the file to start from (without a name: EXERCISE.py)")
@option("--hint", type=int, choices=(1, 2, 3), help="give a hint, each more concrete")
@option("--csv", action="store_true", help="for all: print the table as csv")
@option("--format", choices=("gradescope", "prairielearn", "github", "junit", "nbgrader", "otter"),
        help="one submission, as another tool reads it")
@language_option
@option("--seed", type=whole_number(0), default=0, help="random seed of the inputs (default 0)")
@option("--seconds", type=float, default=10, help="time limit for a file (default 10)")
@option("--memory", type=whole_number(1), default=2000,
        help="its memory limit in MB (default 2000)")
def check(args: argparse.Namespace) -> Result:
    """Grade an exercise: one file, a submission (all DIR), or a class (all DIR, with a directory
    for each student).

    Example: minibert check attention --start

    Then fill in attention.py, and: minibert check attention attention.py

    more examples:
      minibert check all class --csv                      a class, for a spreadsheet
      minibert check all . --format gradescope > results.json
    """
    from minibert.course import exercises
    from minibert.io.language import say

    if args.exercise is None:
        titles = {name: exercise.title for name, exercise in exercises.EXERCISES.items()}
        return Result(titles, lambda said: table((name, say(said[name])) for name in said))
    if args.start:
        exercises.start(args.exercise, args.start, replace=args.force)
        said = f"{args.start} written; to grade it: minibert check {args.exercise} {args.start}"
        return Result({"exercise": args.exercise, "written": args.start}, lambda value: say(said))
    if args.hint:
        hint = exercises.hint_text(args.exercise, args.hint)
        return Result({"exercise": args.exercise, "hint": hint}, lambda value: value["hint"])
    if args.path is None:
        raise ValueError("what is to be graded? Give a FILE, or all and a DIR; or --start, --hint")
    limits = {"seed": args.seed, "seconds": args.seconds, "megabytes": args.memory}
    if args.format:
        return formatted(args.exercise, args.path, args.format, limits)
    if args.exercise != "all":
        grade = exercises.grade(args.exercise, args.path, **limits)
        return Result(grade, str, grade.passed)
    results = exercises.grade_class(args.path, **limits)
    passed = all(one.passed for found in results.values() for one in found.values())
    render = class_csv if args.csv else submission_text if len(results) == 1 else class_text
    return Result(results, render, passed)


def formatted(exercise: str, path: str, form: str, limits: dict) -> Result:
    """One submission in the format of a tool, which gets a result even if there is no file.

    The status is that of tests for JUnit only: elsewhere the text has it.
    """
    from minibert.course import exercises
    from minibert.course.formats import FORMATS

    if exercise == "all":
        if not Path(path).is_dir():
            raise ValueError(f"{path} is no directory; --format takes all and a submission's")
        if not exercises.holds_exercises(Path(path)):
            for one in sorted(Path(path).glob("*/")):
                if exercises.holds_exercises(one):
                    raise ValueError(f"--format is for one submission, such as {one}, not a class")
        grades = exercises.grade_submission(path, **limits)
    else:
        grades = {exercises.find(exercise).name: exercises.grade_file(exercise, path, **limits)}
    passed = form != "junit" or all(grade.passed for grade in grades.values())
    return Result(grades, FORMATS[form], passed)


def class_table(results: dict) -> list[list]:
    """Rows of a table, student × exercise, with a head and the sums of points."""
    exercises = list(next(iter(results.values())))
    points = {student: [found[name].points for name in exercises]
              for student, found in results.items()}
    rows = [[student, *reached, sum(reached)] for student, reached in points.items()]
    return [["student", *exercises, "sum"], *rows]


def class_csv(results: dict) -> str:
    """The table of a class for a spreadsheet."""
    from minibert.io.files import csv_text

    return csv_text(class_table(results)).rstrip("\n")


def class_text(results: dict) -> str:
    """The table of a class to look at: exercises are numbered in the head, and named below."""
    from minibert.io.language import say

    (student, *exercises, total), *students = class_table(results)
    numbered = [student, *range(1, len(exercises) + 1), total]
    key = table(enumerate(exercises, 1))
    how = {one.isolated for found in results.values() for one in found.values()} - {""}
    head = "Exercises, 10 points each:"
    return "\n".join([table([numbered, *students]), "", say(head), key, *map(say, how)])


def submission_text(results: dict) -> str:
    """One submission: a line for each exercise, with what is wrong."""
    from minibert.io.language import say

    (grades,) = results.values()
    rows = [(name, one.points, say(f"of {one.out_of}"), say(one.summary))
            for name, one in grades.items()]
    points = sum(one.points for one in grades.values())
    out_of = sum(one.out_of for one in grades.values())
    return table([*rows, ("", points, say(f"of {out_of}"), "")])


@option("--data", metavar="FILE", help="texts to encode, one per line (default: random words)")
@option("--number", type=whole_number(1), default=500,
        help="number of random short texts (default 500)")
@option("--rounds", type=whole_number(1), default=5,
        help="more rounds, steadier figures (default 5)")
@option("--threads", type=whole_number(1, 1024),
        help="threads for each contestant (default: as torch has it)")
@option("--alone", action="store_true", help="minibert only")
@option("--no-start", action="store_true", help="do not measure cold starts")
@option("--train", action="store_true", help="measure training steps instead of encoding")
@option("--profile", action="store_true", help="the same, and which operations take the time")
@writes("--svg", ending=".svg", help="draw a bar chart")
@options(lambda parser: add_model(parser, "OFFICIAL_MODEL"))
def bench(args: argparse.Namespace) -> Result:
    """Measure how fast encoding, training and a cold start are on this machine.

    Example: minibert bench --svg speed.svg

    more examples:
      minibert bench --data my-texts.txt --no-start     your own texts, one per line
      minibert bench --train --profile                  where a training step spends its time

    All contestants run in every round, one after the other, each in a process of its own, and a
    ratio is the median over the rounds, so it holds on a machine that is busy with other things,
    too. "float32 : it" says how many times as fast minibert is. Beside minibert runs whatever is
    installed of sentence-transformers, transformers, onnxruntime (with onnx), openvino and
    ctranslate2.
    """
    from minibert.io.files import write_text
    from minibert.speed import bench as measure

    if args.train or args.profile:
        if args.svg or args.data:
            raise ValueError("--svg and --data belong to encoding, not to --train")
        with measure.using_threads(args.threads):
            steps = training_steps(args.model, peers=not args.alone)
            with measure.ended(steps):
                value = measure.bench_training(
                    args.model, steps, batch=16, rounds=args.rounds, profile=args.profile
                )
    else:
        value = measure.bench(
            args.model, data=args.data, number=args.number, threads=args.threads,
            start=not args.no_start, say=tell, rounds=args.rounds, peers=not args.alone,
        )  # fmt: skip
    if args.svg:
        write_text(args.svg, measure.picture(value))
    return Result(value, measure.table)


def training_steps(name: str, peers: bool) -> dict:
    """A training step on 16 pairs of short texts: ours, and that of a plain transformers loop."""
    import importlib.util

    from minibert.config import BertConfig
    from minibert.io.hub import locate
    from minibert.speed.bench import Apart, texts
    from minibert.speed.peers import plain_training
    from minibert.tokenization.tokenizer import BertTokenizer

    directory = locate(name)
    longest = min(64, BertConfig.from_pretrained(directory).max_position_embeddings)
    drawn = texts(BertTokenizer.from_pretrained(directory), None, 32, longest)["short"]
    data = list(zip(drawn[:16], drawn[16:], strict=True)), [i % 6 / 5 for i in range(16)]
    steps = {"minibert": Apart(training_step, directory, *data)}
    if peers and importlib.util.find_spec("transformers"):
        steps["transformers"] = Apart(plain_training, directory, *data)
    return steps


def training_step(directory: Path, pairs: list, scores: list) -> Callable[[], object]:
    """What `finetune` does with a batch of pairs of texts and their similarities."""
    from minibert.batching import keep_freed_memory
    from minibert.model import BertModel
    from minibert.tokenization.tokenizer import BertTokenizer
    from minibert.training.data import Example
    from minibert.training.loop import Step, loop
    from minibert.training.optim import make_optimizer, parameter_groups
    from minibert.training.tasks import Similarity

    model = BertModel.from_pretrained(directory)
    keep_freed_memory()
    longest = min(64, model.config.max_position_embeddings)
    task = Similarity(BertTokenizer.from_pretrained(directory), max_length=longest)
    features = task.encode([
        Example({"text": text, "pair": pair, "score": score}, "drawn")
        for (text, pair), score in zip(pairs, scores, strict=True)
    ])
    batches, step = [task.collate(features)], Step(weight=task.weight)
    optimizer = make_optimizer("adamw", parameter_groups(model, 1e-6))
    return lambda: loop(model, batches, task.loss, optimizer, step=step)
