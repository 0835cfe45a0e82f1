"""Commands that give birth to a model: learn a vocabulary from text, pre-train, distil."""

from __future__ import annotations

import argparse

from minibert.cli.common import Result, option, table, tell


@option("texts", nargs="+", metavar="TEXT", help="a sentence a line, a blank line between "
        "documents")
@option("--out", required=True, metavar="FILE", help="vocab.txt to write (required)")
@option("--size", type=int, default=8000, help="how many tokens (default 8000)")
@option("--cased", action="store_true", help="keep capitals and accents")
@option("--min-frequency", type=int, default=2, metavar="N", help="merge no pair of neighbours "
        "that occurs less often (default 2)")
@option("--alphabet", type=int, metavar="N", help="keep the N most frequent characters alone; what "
        "has another one becomes [UNK]")
@option("--held-out", type=float, default=0.1, metavar="SHARE", help="of the documents, the last "
        "ones: not learnt from, to measure on (default 0.1; 0 learns from all)")
def vocabulary(args: argparse.Namespace) -> Result:
    """Learn a WordPiece vocabulary from text, merge by merge.

    Example: minibert vocabulary book.txt another.txt --size 8000 --out vocab.txt

    minibert show vocabulary prints how.
    """
    from minibert.training.vocabulary import write_vocabulary

    names = ("out", "size", "cased", "min_frequency", "alphabet", "held_out")
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
