"""Commands that give birth to a model: learn a vocabulary from text, pre-train, distil."""

from __future__ import annotations

import argparse

from minibert.cli.common import Result, option, options, table, tell, whole_number, writes
from minibert.cli.train import add_settings, asked, resumable


@option("texts", nargs="+", metavar="TEXT", help="a sentence a line, a blank line between "
        "documents")
@writes("--out", ending=".txt", required=True, help="vocab.txt to write (required)")
@option("--size", type=whole_number(1), default=8000, help="how many tokens (default 8000)")
@option("--cased", action="store_true", help="keep capitals and accents")
@option("--min-frequency", type=whole_number(1), default=2, metavar="N",
        help="merge no pair of neighbours that occurs less often (default 2)")
@option("--alphabet", type=whole_number(1), metavar="N",
        help="keep the N most frequent characters alone; what has another one becomes [UNK]")
@option("--held-out-share", type=float, default=0.1, metavar="SHARE", help="of the documents, "
        "the last ones: not learnt from, to measure on (default 0.1; 0 learns from all)")
def vocabulary(args: argparse.Namespace) -> Result:
    """Learn a WordPiece vocabulary from text, merge by merge.

    Example: minibert vocabulary book.txt another.txt --size 8000 --out vocab.txt

    minibert show vocabulary prints how.
    """
    from minibert.training.vocabulary import write_vocabulary

    names = ("out", "size", "cased", "min_frequency", "alphabet", "held_out_share")
    found = write_vocabulary(args.texts, say=tell, **{name: vars(args)[name] for name in names})
    return Result({"out": args.out, **found}, vocabulary_text)


def vocabulary_text(value: dict) -> str:
    """How many tokens, and how they cut the text that was held out."""
    held_out = value["held_out"]
    rows = [
        ("tokens per word", value["tokens_per_word"]),
        ("characters per token", value["characters_per_token"]),
        ("words that are one token", value["whole"]),
        ("[UNK], of all tokens", value["unknown"]),
    ]
    where = f"{held_out} documents held out" if held_out else "the text it was learnt from"
    tokens = f"{value['tokens']:,} tokens, {'cased' if value['cased'] else 'uncased'}"
    return f"{value['out']}: {tokens}\non {where}, {value['words']:,} words:\n{table(rows)}"


@options
def pretrain_settings(parser: argparse.ArgumentParser) -> None:
    """An option for every setting of a pre-training."""
    from minibert.training.pretrain_settings import GROUPS, PretrainSettings

    parser.add_argument("texts", nargs="*", metavar="TEXT",
                        help="text files: a sentence a line, a blank line between documents")
    parser.add_argument("--held-out", nargs="+", default=argparse.SUPPRESS, metavar="FILE",
                        help="texts to measure on (default: a twentieth of the documents)")
    add_settings(parser, PretrainSettings, GROUPS, files=("vocabulary",))


@option("--out", required=True, metavar="DIR", help="directory to write")
@option("--resume", action="store_true", help="continue the run in --out")
@pretrain_settings
def pretrain(args: argparse.Namespace) -> Result | None:
    """Pre-train a BERT from random weights on plain text: hidden words and next sentences.

    Example: minibert pretrain text.txt --vocabulary vocab.txt --size tiny --minutes 9 --out bert

    It tells how many hidden words it guesses, beside what counting reaches, and what it answers
    for three held-out sentences. The result opens in transformers; minibert fill-mask shows it.
    Under torchrun several processes share every batch.
    """
    from minibert.io.distributed import rank
    from minibert.training.pretrain import pretrain as run
    from minibert.training.pretrain_settings import PretrainSettings

    how = "name a text: minibert pretrain TEXT --vocabulary FILE --out DIR"
    settings = asked(args, PretrainSettings, ("texts",), how)
    with resumable("pretrain", args.out):
        value = run(settings, args.out, resume=args.resume, say=tell)
    return None if rank() else Result({"out": args.out, **value}, pretrain_text)


def pretrain_text(value: dict) -> str:
    """Every measure at the end, beside what it was at the start and what counting reaches."""
    rows = [("", "at the end", "at the start", "most frequent", "left neighbour")]
    for name, after in value["after"].items():
        short = name.removeprefix("heldout_")
        cells = (value["before"].get(name), *(value["baselines"].get(f"{kind}_{short}")
                                              for kind in ("unigram", "bigram")))  # fmt: skip
        form = ".4f" if isinstance(after, float) else "d"
        rows.append((name, f"{after:{form}}", *("" if c is None else f"{c:{form}}" for c in cells)))
    out = value["out"]
    return f"{table(rows)}\n{out}: the model; {out}/run: settings, log, curves, guesses"


@options
def distil_options(parser: argparse.ArgumentParser) -> None:
    """An option for every setting of a distillation."""
    from minibert.training.settings import DistilSettings

    groups = {"epochs": "training", "device": "hardware"}
    add_settings(parser, DistilSettings, groups, ("scored", "vectors"))


@option("texts", nargs="*", metavar="TEXT", help="text files, a sentence a line")
@option("--out", required=True, metavar="DIR", help="directory to write")
@option("--resume", action="store_true", help="continue the run in --out")
@distil_options
def distil(args: argparse.Namespace) -> Result | None:
    """Teach a small sentence encoder the vectors of a large one.

    Example: minibert distil texts.txt --layers 3 --vocabulary 12000 --half --out student

    The student begins as some layers of the teacher and a part of its vocabulary. Nothing is
    labelled: the teacher's vectors of the texts are what is learnt. They are computed once and kept
    in a file, which other runs on the same texts can share (--vectors).
    """
    from minibert.io.distributed import rank
    from minibert.training.distil import beside_the_teacher
    from minibert.training.distil import distil as run
    from minibert.training.settings import DistilSettings

    how = "name one or more text files: minibert distil TEXT... --out DIR"
    settings = asked(args, DistilSettings, ("texts",), how)
    with resumable("distil", args.out):
        value = run(settings, args.out, resume=args.resume, say=tell)
    if rank():
        return None
    if not args.resume:
        value["beside"] = beside_the_teacher(settings, args.out)
    return Result({"out": args.out, **value}, distil_text)


def distil_text(value: dict) -> str:
    """The measures before and after, then size and speed beside the teacher."""
    shown = {"dev_cosine": "cosine to the teacher, held-out texts",
             "general_spearman": "Spearman, scored pairs"}  # fmt: skip
    rows = [("", "before", "after", "teacher")]
    for name, words in shown.items():
        if name in value["after"]:
            of_teacher = value.get("teacher", {}).get(name, "")
            rows.append((words, value["before"][name], value["after"][name], of_teacher))
    lines = [table(rows)]
    for name, row in value.get("beside", {}).items():
        lines.append(f"{name}: {row['parameters'] / 1e6:.1f} million parameters, "
                     f"{row['texts_per_s']:,.0f} texts/s")  # fmt: skip
    out = value["out"]
    return "\n".join([*lines, f"{out}: the student; {out}/run: settings, log, metrics, curves"])
