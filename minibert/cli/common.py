"""What the commands share: how a command is declared, what it returns, options of several commands.

A command is a function with its options above it, and its docstring is its help: the first
paragraph describes it; the rest, an example first, ends ``minibert COMMAND --help``. It returns a
`Result`, which ``main`` prints as text or JSON. What is ours is imported inside
functions, so that ``--help`` needs no torch.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn


@dataclass(frozen=True)
class Result:
    """What a command has found, and how it is shown to people.

    ``value`` is ready for JSON, except that parts of it may have a ``to_dict()``; ``text`` turns it
    into what is printed without ``--json``. With ``passed=False`` the exit status is 1.
    """

    value: Any
    text: Callable[[Any], str]
    passed: bool = True


def options(add: Callable[[argparse.ArgumentParser], object]) -> Callable:
    """Give the command below the arguments that ``add`` puts into a parser."""

    def declare(run: Callable) -> Callable:
        run.options = [add, *getattr(run, "options", [])]
        return run

    return declare


def option(*names: str, **settings: Any) -> Callable:
    """Give the command below one argument, as ``add_argument`` takes it."""
    return options(lambda parser: parser.add_argument(*names, **settings))


def writes(*names: str, ending: str, **settings: Any) -> Callable:
    """Give the command below an option that names a file to write, and ``--force`` to replace it.

    Args:
        ending: that the name must have.
        settings: as ``add_argument`` takes them; ``const`` may be a function of the arguments.
    """

    def add(parser: argparse.ArgumentParser) -> None:
        option = parser.add_argument(*names, metavar=f"FILE{ending}", **settings)
        written = parser.get_default("written") or {}
        parser.set_defaults(written={**written, option.dest: ending})

    return options(add)


def refuse_to_replace(args: argparse.Namespace) -> None:
    """Before a command does anything: what it will write is a file of that kind, and a new one.

    Raises:
        FileExistsError: it exists, and nobody has said ``--force``.
        ValueError: its name has another ending, or is that of a directory.
    """
    from minibert.io.files import need_ending

    for name, ending in vars(args).get("written", {}).items():
        if callable(path := vars(args)[name]):  # it depends on what was given beside the option
            setattr(args, name, path := path(args))
        if path:
            need_ending(path, ending)
            if Path(path).exists() and not args.force:
                raise FileExistsError(f"{path} exists; name another file, or --force to replace it")


def add_parser(group: Any, name: str, run: Callable, aliases: Sequence[str] = ()) -> None:
    """Add the parser of a command to a group of commands."""
    summary, _, more = (inspect.getdoc(run) or "").partition("\n\n")
    summary = " ".join(summary.split())
    parser = group.add_parser(
        name,
        aliases=aliases,
        help=summary[:1].lower() + summary[1:].rstrip("."),
        description=summary,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for add in run.options:
        add(parser)
    if parser.get_default("written"):
        parser.add_argument("--force", action="store_true", help="replace a file that exists")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run, error=parser.error)


def table(rows: Iterable[Sequence[object]]) -> str:
    """Rows of cells in columns: text to the left, numbers to the right, floats with 4 decimals."""

    def padded(cell: object, width: int) -> str:
        return text(cell).ljust(width) if isinstance(cell, str) else text(cell).rjust(width)

    def text(cell: object) -> str:
        return f"{cell:.4f}" if isinstance(cell, float) else str(cell)

    rows = list(rows)
    widths = [max(len(text(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(padded, row, widths)).rstrip() for row in rows)


# ----------------------------------------------------------------- options of several commands


def add_model(parser: argparse.ArgumentParser, which: str = "DEFAULT_MODEL") -> None:
    """The model, of all commands that work with any; ``which``: the default, a name in ``hub``."""
    from minibert.io import hub

    default = getattr(hub, which)
    text = f"directory or hub name (default {default})"
    parser.add_argument("--model", default=default, help=text)


model_option = options(add_model)


@options
def encoding_options(parser: argparse.ArgumentParser) -> None:
    """The options of all commands that encode texts."""
    add_model(parser)
    parser.add_argument(
        "--engine", choices=("packed", "textbook", "bf16", "int8", "sdpa"),
        help="how the model computes: packed (the default on a CPU) is fast; textbook is plain "
        "PyTorch, bit for bit the reference; bf16 and int8 are nearly twice as fast as packed on a "
        "CPU with instructions for them, and their vectors differ a little, those of int8 more; "
        "sdpa is torch's fused attention, for a GPU",
    )  # fmt: skip
    parser.add_argument("--precision", choices=("float32", "int8"), help="int8: --engine int8")
    parser.add_argument(
        "--on-long", choices=("warn", "error", "window"), default="warn",
        help="texts too long for the model: cut them off and warn (the default), stop, or average "
        "over windows",
    )  # fmt: skip


class Language(argparse.Action):
    """``--lang zh``, from here on, for the processes that a command starts, too."""

    def __call__(self, parser, args, values, option=None) -> None:
        """As MINIBERT_LANG would say it."""
        os.environ["MINIBERT_LANG"] = values


def add_language(parser: argparse.ArgumentParser) -> None:
    """The language of what is said, of `minibert` itself and of the commands that report."""
    parser.add_argument(
        "--lang", action=Language, choices=("en", "zh"), default=argparse.SUPPRESS,
        help="the language of reports and errors (default: MINIBERT_LANG, or Chinese in a Chinese "
        "locale)",
    )  # fmt: skip


language_option = options(add_language)


class Columns(argparse.Action):
    """``--columns text=review label=stars`` as a dictionary."""

    def __call__(self, parser, args, values, option=None) -> None:
        """Cut each at its equals sign."""
        if any("=" not in value for value in values):
            parser.error("--columns takes role=column, such as text=review label=stars")
        setattr(args, self.dest, dict(value.split("=", 1) for value in values))


@options
def reading_options(parser: argparse.ArgumentParser) -> None:
    """How data files are read, where they do not say it."""
    parser.add_argument(
        "--columns", nargs="+", action=Columns, metavar="ROLE=COLUMN",
        help="names or numbers of the columns, if they are not found: text=review label=stars",
    )  # fmt: skip
    parser.add_argument(
        "--header", action=argparse.BooleanOptionalAction,
        help="whether the first row of a csv or tsv has the names of the columns",
    )  # fmt: skip
    parser.add_argument("--delimiter", metavar="CHARACTER", help="between the columns: ; | tab")
    parser.add_argument("--skip-incomplete", action="store_true", default=None,
                        help="leave out rows that cannot be used")  # fmt: skip


def reading(args: argparse.Namespace) -> dict:
    """The arguments of ``data.read`` that the options give."""
    from minibert.training.settings import READING

    return {name: getattr(args, name) for name in READING}


def tell(text: object) -> None:
    """Say something that is not the result."""
    from minibert.io.files import printable
    from minibert.io.language import say

    print(printable(say(text)), file=sys.stderr, flush=True)


class Parser(argparse.ArgumentParser):
    """A parser whose messages can be shown, whatever was typed."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments, and exit."""
        from minibert.io.files import printable
        from minibert.io.language import say

        said = f"{self.format_usage()}{self.prog}: error: {message}\n"
        self.exit(2, say(printable(said)))


def whole_number(low: int, high: int = 10**9) -> Callable[[str], int]:
    """The type of an option that counts something."""

    def number(text: str) -> int:
        if not low <= (value := int(text)) <= high:
            raise argparse.ArgumentTypeError(f"{value}; {low} to {high} is allowed")
        return value

    number.__name__ = "int"  # for the message about something that is no number
    return number
