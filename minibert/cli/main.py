"""The command line: its commands, and how one of them is run.

Exit status: 0 done, 1 a check or a training run failed, 2 wrong use or bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from operator import methodcaller

from minibert import __version__
from minibert.cli import check, encode, models, pretrain, runs, train
from minibert.cli.common import Parser, Result, add_language, add_parser, refuse_to_replace, tell

COMMANDS = (  # in the order of the help
    encode.similarity, encode.embed, encode.search, encode.keysentences,
    pretrain.vocabulary, pretrain.pretrain, pretrain.distil,
    train.finetune, runs.compare, train.predict, train.blend, runs.push, runs.export,
    models.download, models.inspect, models.fill_mask, models.trace, models.explore,
    models.explain, models.show, check.parity, check.check, check.bench,
)  # fmt: skip
EVALUATE = (encode.evaluate_similarity, train.evaluate_classify)  # below `minibert evaluate`


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with one below it for each command."""
    from minibert.io.hub import DEFAULT_MODEL, FILL_MASK_MODEL
    from minibert.training.tasks import TASKS

    parser = Parser(
        prog="minibert",
        description="BERT written by hand: compare, embed and search texts, look inside the model, "
        "fine-tune it, and check every number against the official one.",
        epilog="minibert COMMAND --help explains a command. A model is a directory or a name on "
        f"the Hugging Face hub. Two come with minibert: {DEFAULT_MODEL}, which is taken where none "
        f"is named, and {FILL_MASK_MODEL}, which fills in masked words.",
    )
    parser.add_argument("--version", action="version", version=f"minibert {__version__}")
    add_language(parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    for run in COMMANDS:
        add_parser(commands, run.__name__.replace("_", "-"), run)
    evaluate = commands.add_parser("evaluate", help="measure a model on labelled data")
    evaluate = evaluate.add_subparsers(metavar="WHAT", required=True)
    names = [run.__name__.removeprefix("evaluate_") for run in EVALUATE]
    others = [task for task in TASKS if task not in names]
    for name, run in zip(names, EVALUATE, strict=True):
        add_parser(evaluate, name, run, aliases=others if name == "classify" else ())
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    for stream in (sys.stdout, sys.stderr):  # a terminal may know fewer characters than we print
        if hasattr(stream, "reconfigure"):  # a notebook's has no encoding
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *rest: tell(f"warning: {message}")
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv)
    if "run" not in args:
        parser.print_help()
        return 2
    if unknown:  # reported by the command's own parser, which shows its options
        args.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        refuse_to_replace(args)
        return show(args.run(args), args.json)
    except BrokenPipeError:  # whoever reads our output has gone away: head, less
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        tell("interrupted")
        return 130
    except ArithmeticError as error:  # training has diverged
        tell(f"minibert: {error}")
        return 1
    except (MemoryError, RuntimeError) as error:  # torch has no class of its own for a CPU
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        tell(f"minibert: out of memory: {str(error).splitlines()[0] if str(error) else 'too much'}")
        return 2
    except (ValueError, TypeError, OSError) as error:
        tell(f"minibert: {error}")
        return 2


def show(result: Result | None, as_json: bool) -> int:
    """Print the result of a command; return the exit status that belongs to it."""
    from minibert.io.files import printable

    if result is None:  # one of several processes, of which the first speaks for all
        return 0
    if as_json:
        whole = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
        value = json.dumps(
            result.value, indent=2, ensure_ascii=not whole, default=methodcaller("to_dict")
        )
        print(printable(value))
    else:
        print(printable(result.text(result.value)))
    return 0 if result.passed else 1
