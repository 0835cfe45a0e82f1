"""The command line: the verbs with their options and their help, and how a run of one ends.

Exit status: 0 done, 1 a check failed, 2 wrong use or bad input, 130 interrupted. A fine-tuning that
learnt nothing is done as well: its last line says so.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Callable

from minibert import __version__
from minibert.cli import commands as verbs
from minibert.io.hub import DEFAULT_MODEL


def build_parser() -> argparse.ArgumentParser:
    """The verbs and their arguments."""
    parser = argparse.ArgumentParser(
        prog="minibert",
        description="BERT written by hand: compare, embed and search texts, look inside, and check "
        "every number against the official model.",
        epilog="minibert VERB --help explains a verb. The model is a directory, or a name on the "
        f"Hugging Face hub; without --model it is {DEFAULT_MODEL}.",
    )
    parser.add_argument("--version", action="version", version=f"minibert {__version__}")
    group = parser.add_subparsers(metavar="VERB")

    def verb(run: Callable, name: str, text: str, example: str, parent=group, model: bool = True):
        sub = parent.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"Example: minibert {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run, error=sub.error)
        if model:
            sub.add_argument("--model", default=DEFAULT_MODEL, help="directory or hub name")
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        return sub

    measures = ("cosine", "dot", "euclidean", "manhattan")
    tuned = "what `minibert finetune` has written; it must be given"
    sub = verb(
        verbs.similarity,
        "similarity",
        "compare texts with each other",
        'similarity "A man is playing a guitar." "Someone plays an instrument."',
    )
    sub.add_argument("texts", nargs="+", metavar="TEXT", help="two texts or more")
    sub.add_argument("--measure", choices=measures, help="default: what the model was made for")
    encoding_options(sub)

    sub = verb(
        verbs.embed,
        "embed",
        "write a vector for every line of a text file; a stopped run goes on where it was",
        "embed lines.txt --out vectors.npy",
    )
    sub.add_argument("file", metavar="FILE", help="a UTF-8 text file, one text a line")
    sub.add_argument("--out", required=True, metavar="FILE.npy", help="(lines, width) float32")
    encoding_options(sub)

    sub = verb(
        verbs.search,
        "search",
        "find the lines of a file that are most like a query",
        'search "how to reset a password" questions.txt -k 5',
    )
    sub.add_argument("query", metavar="QUERY", help="what to look for")
    sub.add_argument("file", metavar="FILE", help="a text a line; of csv, tsv, jsonl one column")
    sub.add_argument("-k", type=int, default=5, help="how many (default 5)")
    sub.add_argument("--vectors", metavar="FILE.npy", help="from minibert embed, to save the work")
    sub.add_argument("--columns", nargs=1, action=Columns, metavar="text=COLUMN",
                     help="of csv, tsv or jsonl, if the names do not tell")
    encoding_options(sub)

    sub = verb(
        verbs.keysentences,
        "keysentences",
        "pick the sentences that stand for a text",
        "keysentences article.txt -n 3",
    )
    sub.add_argument("file", metavar="FILE", help="a UTF-8 text file")
    sub.add_argument("-n", type=int, default=3, help="how many (default 3)")
    sub.add_argument(
        "--method",
        choices=("centrality", "mmr"),
        default="centrality",
        help="nearest to all the others, or that with less repetition",
    )
    sub.add_argument("--diversity", type=float, default=0.3, help="for mmr: 0 to 1 (default 0.3)")
    sub.add_argument("--lines", action="store_true", help="each line is one sentence")
    encoding_options(sub)

    what = group.add_parser("evaluate", help="measure a model on labelled data").add_subparsers(
        metavar="WHAT", required=True
    )
    sub = verb(
        verbs.evaluate_similarity,
        "similarity",
        "rank correlation of the similarities of pairs with human scores",
        "evaluate similarity --data stsb/test.csv",
        parent=what,
    )
    sub.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help="csv, tsv or jsonl with two texts and a score, or hub:OWNER/NAME/FILE",
    )
    sub.add_argument("--measure", choices=measures, help="default: what the model was made for")
    encoding_options(sub)

    sub = verb(
        verbs.evaluate_tuned,
        "classify",
        "accuracy and the other measures of what `minibert finetune` has written, of any task",
        "evaluate classify --model my-model --data test.tsv",
        parent=what,
        model=False,
    )
    sub.add_argument("--model", required=True, metavar="DIR", help=tuned)
    sub.add_argument("--data", required=True, metavar="FILE", help="csv, tsv or jsonl")
    sub.add_argument("--columns", nargs="+", action=Columns, metavar="ROLE=COLUMN")

    sub = verb(
        verbs.finetune,
        "finetune",
        "train a model on a file; the result opens in transformers and sentence-transformers",
        "finetune classify train.tsv --dev dev.tsv --recipe small --out my-model",
        model=False,
    )
    from minibert.training.settings import TASKS

    sub.add_argument("task", nargs="?", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    sub.add_argument("train", nargs="?", metavar="TRAIN", help="csv, tsv, jsonl or txt")
    sub.add_argument("--out", required=True, metavar="DIR", help="where the result goes")
    sub.add_argument("--resume", action="store_true", help="go on with the run in --out")
    sub.set_defaults(after_interrupt="; a run that had begun goes on with --resume")
    sub.add_argument("--recipe", choices=("plain", "small"), default="plain",
                     help="small: for some hundred examples: at least 200 steps, a higher rate, "
                     "and below a new head a fresh pooler")
    sub.add_argument("--seeds", type=int, default=1, help="so many runs: mean, sd, worst, failed")
    sub.add_argument("--columns", nargs="+", action=Columns, metavar="ROLE=COLUMN",
                     help="which column is what, if the names do not tell")
    sub.add_argument("--scale", nargs=2, type=float, metavar=("LOW", "HIGH"), help="of the scores")
    settings_options(sub)

    sub = verb(
        verbs.predict,
        "predict",
        "ask a fine-tuned model about every row of a file",
        "predict questions.txt --model my-model",
        model=False,
    )
    sub.add_argument("--model", required=True, metavar="DIR", help=tuned)
    sub.add_argument("file", metavar="FILE", help="txt (a text a line), csv, tsv or jsonl")
    sub.add_argument("--columns", nargs="+", action=Columns, metavar="ROLE=COLUMN")

    sub = verb(
        verbs.blend,
        "blend",
        "average the weights of a model and of what was tuned from it",
        "blend all-MiniLM-L6-v2 my-model --alpha 0.5 --out half-way",
        model=False,
    )
    sub.add_argument("base", metavar="BASE")
    sub.add_argument("tuned", metavar="TUNED")
    sub.add_argument("--alpha", type=float, default=0.5, help="share of TUNED (default 0.5)")
    sub.add_argument("--out", metavar="DIR", help="write the mixture there")
    sub.add_argument("--data", metavar="FILE", help="sweep alpha from 0 to 1: domain data ...")
    sub.add_argument("--keep", metavar="FILE", help="... and general scored pairs")
    sub.add_argument("--svg", metavar="FILE.svg", help="draw the two curves of the sweep")

    sub = verb(
        verbs.download,
        "download",
        "fetch a model and verify it",
        "download all-MiniLM-L6-v2",
        model=False,
    )
    sub.add_argument("name", nargs="?", default=DEFAULT_MODEL, metavar="NAME", help="a hub name")
    sub.add_argument("--revision", help="a commit, tag or branch; default: pinned where known")

    sub = verb(
        verbs.inspect,
        "inspect",
        "list the tensors of a model",
        "inspect all-MiniLM-L6-v2",
        model=False,
    )
    sub.add_argument("model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL")

    sub = verb(
        verbs.fill_mask,
        "fill-mask",
        "guess the words behind [MASK]",
        'fill-mask "Paris is the [MASK] of France." --model google-bert/bert-base-uncased',
    )
    sub.add_argument("text", metavar="TEXT", help="a text with [MASK] in it")
    sub.add_argument("-k", type=int, default=5, help="how many words (default 5)")

    sub = verb(
        verbs.trace,
        "trace",
        "write every intermediate tensor of a forward pass",
        'trace "Hello world." --out trace.safetensors',
    )
    sub.add_argument("texts", nargs="+", metavar="TEXT", help="a batch of texts")
    sub.add_argument("--out", required=True, metavar="FILE.safetensors")

    sub = verb(
        verbs.explore,
        "explore",
        "write one page to look inside: what every head attends to and, for two texts, what their "
        "similarity is made of",
        'explore "The bank raised its rates." "She sat on the river bank." --out page.html\n\n'
        "Open the page in a browser; it needs no network. It shows\n"
        "  all layers and heads at a glance, one of them large, the probabilities as numbers\n"
        "  what becomes of the cosine when one head or one token is masked\n"
        "  what each pair of tokens adds to the cosine (all pairs add up to it)\n"
        "The same numbers: --json; every tensor: minibert trace; the code: minibert show attention",
    )
    sub.add_argument("texts", nargs="+", metavar="TEXT", help="one text, or two to compare")
    sub.add_argument("--out", required=True, metavar="PAGE.html", help="the page to write")

    sub = verb(
        verbs.parity,
        "parity",
        "check this installation, a dump, or your own code against the reference, stage by stage",
        "parity --replace attention=my_attention.py:MyAttention\n"
        "         minibert parity                      this installation against the golden files\n"
        "         minibert parity --model DIR          any weights, against transformers\n"
        "         minibert parity mine.npz --trace trace.safetensors --names names.json\n\n"
        "what can be replaced, and how it is called:\n"
        "  embeddings    Class(config)(input_ids, token_type_ids) -> (B, T, H)\n"
        "  attention     Class(config)(hidden, mask) -> (B, T, H); mask (B, 1, 1, T) to be added\n"
        "  feed_forward  Class(config)(hidden) -> (B, T, H)\n"
        "  layer         Class(config)(hidden, mask) -> (B, T, H)\n"
        "  pooler        Class(config)(hidden) -> (B, H)\n"
        "  pooling       function(hidden, attention_mask) -> (B, H)\n"
        "  loss          function(logits, labels) -> one number; labels of -100 do not count\n"
        "  optimizer     Class(parameters, lr, betas, eps, weight_decay) with step()\n\n"
        "the weights that are copied in, so the names that a class needs (a part has .weight, and\n"
        ".bias but for tables):\n"
        "  embeddings    word, segment, position, norm\n"
        "  attention     query, key, value, output\n"
        "  feed_forward  expand, contract\n"
        "  layer         attention.query, attention.key, attention.value, attention.output,\n"
        "                attention_norm, feed_forward.expand, feed_forward.contract,\n"
        "                feed_forward_norm\n"
        "  pooler        dense\n"
        'Other names: a class attribute, names = {"q_proj": "query"}, of modules, or of single\n'
        'weights: {"q": "query.weight"}; or the same in a file, --names, in place of the\n'
        "attribute. A method take_weights(weights) may do the copying itself.",
        model=False,
    )
    sub.add_argument("dump", nargs="?", metavar="DUMP", help=".safetensors or .npz to compare")
    sub.add_argument(
        "--replace", action="append", default=[], metavar="KIND=FILE.py:NAME",
        help="put your class or function in place of ours (may be repeated)",
    )
    sub.add_argument("--model", help="directory or hub name: weights to check, or to check with")
    sub.add_argument("--trace", metavar="FILE", help="the inputs: a file from minibert trace")
    sub.add_argument("--names", metavar="FILE.json", help='{"your name": "our name"}')
    sub.add_argument("--goldens", metavar="DIR", help="other golden files")
    sub.add_argument("--singles", action="store_true", help="do not try pairs of mistakes")
    sub.add_argument("--html", metavar="FILE", help="write the report as one HTML page too")

    sub = verb(
        verbs.bench,
        "bench",
        "measure how fast encoding, training and a cold start are on this machine",
        "bench --svg speed.svg\n"
        "         minibert bench --data my-texts.txt --no-start     your own texts, one a line\n"
        "         minibert bench --train --profile                  where a training step goes\n\n"
        "All take part in every round, one after the other; a ratio is the median of those\n"
        "inside the rounds, so it holds on a machine that others use too. \"float32 : it\" says\n"
        "how many times as fast as it minibert is. Beside minibert runs what is installed of\n"
        "sentence-transformers, transformers, onnxruntime (with onnx), openvino, ctranslate2.",
    )
    sub.add_argument("--data", metavar="FILE", help="texts, one a line (default: made-up ones)")
    sub.add_argument("--number", type=int, default=500, help="of short texts (default 500)")
    sub.add_argument("--rounds", type=int, default=5, help="the more, the surer (default 5)")
    sub.add_argument("--threads", type=int, help="of everyone (default: as torch has them)")
    sub.add_argument("--alone", action="store_true", help="minibert only")
    sub.add_argument("--no-start", action="store_true", help="no cold starts")
    sub.add_argument("--train", action="store_true", help="training steps instead of encoding")
    sub.add_argument("--profile", action="store_true", help="the same, and where the time goes")
    sub.add_argument("--svg", metavar="FILE.svg", help="draw it")

    sub = verb(
        verbs.explain, "explain", "show what the tokenizer does to a text", 'explain "Café déjà-vu"'
    )
    sub.add_argument("text", metavar="TEXT")

    sub = verb(
        verbs.show,
        "show",
        "print the source to read on a topic",
        "show attention",
        model=False,
    )
    topics = verbs.SHOW
    sub.add_argument("topic", nargs="?", choices=topics, metavar="TOPIC", help=", ".join(topics))

    sub = verb(
        verbs.check,
        "check",
        "judge an exercise: a file, a submission (all DIR) or a class (all DIR of directories)",
        "check attention --start attention.py, then: minibert check attention attention.py",
        model=False,
    )
    sub.add_argument("exercise", nargs="?", metavar="EXERCISE", help="a name, or all; none: a list")
    sub.add_argument("path", nargs="?", metavar="FILE", help="to be judged; for all a directory")
    sub.add_argument("--start", metavar="FILE", help="write the file to start from")
    sub.add_argument("--hint", type=int, choices=(1, 2, 3), help="a hint, more concrete each time")
    sub.add_argument("--csv", action="store_true", help="for all: the table as csv")
    sub.add_argument("--seed", type=int, default=0, help="other inputs (default 0)")
    sub.add_argument("--seconds", type=float, default=10, help="time for a file (default 10)")
    sub.add_argument("--memory", type=int, default=2000, help="megabytes for a file (default 2000)")
    return parser


def encoding_options(parser: argparse.ArgumentParser) -> None:
    """What all verbs that encode texts can be told."""
    parser.add_argument(
        "--precision",
        choices=("float32", "int8"),
        help="of the weights; int8 is two to three times as fast on a CPU with VNNI, and vectors, "
        "float32 in any case, are a little off (default: as saved)",
    )
    parser.add_argument(
        "--on-long",
        choices=("warn", "error", "window"),
        default="warn",
        help="texts too long for the model: cut and count, stop, or average over windows",
    )


def settings_options(parser: argparse.ArgumentParser) -> None:
    """An option for every setting of a fine-tuning, with its help and its default."""
    import dataclasses

    from minibert.training.settings import CHOICES, FILES, GROUPS, Settings

    kinds = {"int": int, "float": float}
    for field in dataclasses.fields(Settings):
        if "help" not in field.metadata:
            continue
        if field.name in GROUPS:
            group = parser.add_argument_group(GROUPS[field.name])
        option = "--" + field.name.replace("_", "-")
        text = field.metadata["help"]
        if field.type == "bool":
            group.add_argument(option, action="store_true", help=text)
            continue
        kind = number_or_word if field.name == "freeze" else kinds.get(field.type.split()[0], str)
        text += "" if field.default is None else f" (default {field.default})"
        choices = [name for name in CHOICES.get(field.name, ()) if name] or None
        shown = "FILE" if field.name in FILES else field.type.split()[0].upper()
        group.add_argument(
            option, type=kind, default=field.default, choices=choices, help=text,
            metavar=None if choices else shown,
        )


def number_or_word(text: str) -> int | str:
    """A number if it is one."""
    return int(text) if text.isdigit() else text


class Columns(argparse.Action):
    """``--columns text=review label=stars`` as a dictionary."""

    def __call__(self, parser, args, values, option=None) -> None:
        """Cut each at its equals sign."""
        if any("=" not in value for value in values):
            parser.error("--columns takes role=column, such as text=review label=stars")
        setattr(args, self.dest, dict(value.split("=", 1) for value in values))


def in_options(message: object) -> str:
    """A message of the package in the words of the command line."""
    text = re.sub(r"pass max_length=.* to SentenceEncoder.encode", "shorten the text", str(message))
    return text.replace('on_long="window"', "--on-long window")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    warnings.showwarning = lambda message, *rest: print(
        f"warning: {in_options(message)}", file=sys.stderr
    )
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv)
    if "run" not in args:
        parser.print_help()
        return 2
    if unknown:  # said by the verb, which then shows its own options
        args.error(f"unknown: {' '.join(unknown)}")
    try:
        return args.run(args) or 0
    except BrokenPipeError:  # the reader of our output went away: head, less
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"interrupted{getattr(args, 'after_interrupt', '')}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError) as error:
        print(f"minibert: {in_options(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
