"""Commands that turn texts into vectors, and compare them."""

from __future__ import annotations

import argparse
from pathlib import Path

from minibert.cli.common import (
    Result,
    encoding_options,
    option,
    reading,
    reading_options,
    table,
    tell,
    whole_number,
    writes,
)

TABLES = (".csv", ".tsv", ".jsonl")  # files in which a line is more than a text
measure_option = option(
    "--measure", choices=("cosine", "dot", "euclidean", "manhattan"),
    help="similarity measure (default: the one that the model was trained for)",
)  # fmt: skip


@option("texts", nargs="+", metavar="TEXT", help="two or more texts")
@measure_option
@encoding_options
def similarity(args: argparse.Namespace) -> Result:
    """Compare texts with each other.

    Example: minibert similarity "A man is playing a guitar." "Someone plays an instrument."
    """
    if len(args.texts) < 2:
        raise ValueError("one text; at least two are needed to compare")
    from minibert.similarity import SIMILARITY

    encoder = load_encoder(args)
    vectors = encoder.encode(args.texts, on_long=args.on_long)
    measure = args.measure or encoder.similarity_fn_name
    value = {
        "model": args.model, "measure": measure, "dimension": vectors.shape[1],
        "texts": args.texts, "similarity": SIMILARITY[measure](vectors, vectors).tolist(),
        **named_engine(args, encoder),
    }  # fmt: skip
    return Result(value, similarity_text)


def similarity_text(value: dict) -> str:
    """A table: a row and a column for each text."""
    texts = [" ".join(text.split()) for text in value["texts"]]
    texts = [text if len(text) <= 48 else text[:47] + "…" for text in texts]
    numbers = range(1, len(texts) + 1)
    rows = zip(numbers, texts, value["similarity"], strict=True)
    rows = [("", "", *numbers), *((number, text, *row) for number, text, row in rows)]
    title = f"{value['measure']} similarity, {value['model']}, {value['dimension']} dimensions"
    title += f", engine {value['engine']}" if "engine" in value else ""
    return f"{title}\n\n{table(rows)}"


@option("file", metavar="FILE", help="a UTF-8 text file, one text per line")
@writes("--out", ending=".npy", required=True, help="array to write, a row for each line")
@encoding_options
def embed(args: argparse.Namespace) -> Result | None:
    """Write a vector for every line of a text file, of any size.

    Example: minibert embed lines.txt --out vectors.npy

    If it is interrupted, the same command continues where it stopped. Under torchrun the
    processes share the work.
    """
    from minibert.io.distributed import rank
    from minibert.speed.embed_file import embed_file

    if Path(args.file).suffix.lower() in TABLES:
        tell(f"warning: {args.file}: whole lines are encoded, with the header and all columns")

    def on_start(done: int, total: int) -> None:
        before = f", {done:,} of them encoded before" if done else ""
        tell(f"model: {args.model}; {total:,} lines{before}")

    rows, width = embed_file(
        load_encoder(args), args.file, args.out, on_long=args.on_long, on_start=on_start
    )
    if rank():
        return None
    value = {"model": args.model, "file": args.file, "out": args.out, "shape": [rows, width]}
    return Result(value, lambda value: f"{args.out}: {rows:,} x {width} float32")


@option("query", metavar="QUERY", help="what to look for")
@option("file", metavar="FILE", help="a text per line, or csv, tsv, jsonl with a text column")
@option("-k", type=whole_number(1), default=5, help="number of results (default 5)")
@option("--vectors", metavar="FILE.npy", help="the vectors of FILE, made by minibert embed")
@reading_options
@encoding_options
def search(args: argparse.Namespace) -> Result:
    """Find the lines of a file that are most similar to a query.

    Example: minibert search "how to reset a password" questions.txt -k 5
    """
    from minibert.similarity import search as nearest
    from minibert.speed.embed_file import read_vectors
    from minibert.training.data import locate

    if not args.query.strip():
        raise ValueError("the query is empty; say what to look for")
    texts, lines = searched(args)
    encoder = load_encoder(args)
    if args.vectors:
        vectors = read_vectors(locate(args.vectors), texts, encoder)
    else:
        vectors = encoder.encode(texts, on_long=args.on_long)
    query = encoder.encode([args.query], on_long=args.on_long)
    blank = sum(not text.strip() for text in texts)  # a line without words is no answer
    hits = nearest(query, vectors, args.k + blank)[0]
    hits = [hit for hit in hits if texts[hit["corpus_id"]].strip()][: args.k]
    for hit in hits:
        hit["text"] = texts[hit["corpus_id"]]
        hit["corpus_id"] = lines[hit["corpus_id"]] - 1  # which line of the file, from 0
    engine = named_engine(args, encoder)
    tell(f"model: {args.model}" + "".join(f", engine {name}" for name in engine.values()))
    return Result({"model": args.model, "query": args.query, **engine, "hits": hits}, search_text)


def search_text(value: dict) -> str:
    """A line for each hit, the best first."""
    hits = value["hits"]
    return table((hit["score"], "line", hit["corpus_id"] + 1, hit["text"]) for hit in hits)


def searched(args: argparse.Namespace) -> tuple[list[str], list[int]]:
    """The texts of a file, and the number of the line, from 1, on which each stands."""
    from minibert.io.files import read_lines
    from minibert.training.data import read

    if Path(args.file).suffix.lower() in TABLES and not args.vectors:
        rows = read(args.file, ("text",), say=tell, blank=True, **reading(args))
        texts, lines = [row.values["text"] for row in rows], [row.line for row in rows]
    elif args.columns:
        raise ValueError("--columns is for csv, tsv and jsonl, without --vectors")
    else:
        texts = list(read_lines(args.file))
        lines = list(range(1, len(texts) + 1))
    if not any(text.strip() for text in texts):
        raise ValueError(f"{args.file} has no text in it")
    return texts, lines


@option("file", metavar="FILE", help="a UTF-8 text file")
@option("-n", type=whole_number(1), default=3, help="number of sentences (default 3)")
@option("--method", choices=("centrality", "mmr"), default="centrality",
        help="those most similar to all others (the default), or the same without repetition")
@option("--diversity", type=float, default=0.3, help="weight of novelty in mmr (default 0.3)")
@option("--lines", action="store_true", help="each line is one sentence")
@encoding_options
def keysentences(args: argparse.Namespace) -> Result:
    """Pick the sentences that represent a text best, in its order.

    Example: minibert keysentences article.txt -n 3
    """
    from minibert.io.files import read_lines
    from minibert.similarity import key_sentences
    from minibert.speed.embed_file import split_sentences

    lines = read_lines(args.file)
    sentences = [s for line in lines for s in ([line] if args.lines else split_sentences(line))]
    sentences = [sentence for sentence in sentences if sentence.strip()]
    if not sentences:
        raise ValueError(f"{args.file} has no sentences")
    vectors = load_encoder(args).encode(sentences, on_long=args.on_long)
    chosen = key_sentences(vectors, args.n, method=args.method, diversity=args.diversity)
    key = [{"sentence": i, "text": sentences[i]} for i in chosen]
    tell(f"model: {args.model}")
    return Result(
        {"model": args.model, "sentences": len(sentences), "key": key},
        lambda value: "\n".join(row["text"] for row in value["key"]),
    )


@option("--data", required=True, metavar="FILE",
        help="csv, tsv or jsonl with two texts and a score, or hub:OWNER/NAME/FILE")
@reading_options
@measure_option
@encoding_options
def evaluate_similarity(args: argparse.Namespace) -> Result:
    """Correlate the similarities of pairs of texts with human scores.

    Example: minibert evaluate similarity --data stsb/test.csv
    """
    from minibert import similarity as measures
    from minibert.training.data import read
    from minibert.training.metrics import pearson, spearman

    pairs = read(args.data, ("text", "pair", "score"), say=tell, **reading(args))
    first, second, scores = ([p.values[role] for p in pairs] for role in ("text", "pair", "score"))
    encoder = load_encoder(args)
    measure = args.measure or encoder.similarity_fn_name
    vectors = encoder.encode(first + second, on_long=args.on_long)
    pairwise = getattr(measures, f"pairwise_{measure}_similarity")
    predicted = pairwise(vectors[: len(pairs)], vectors[len(pairs) :])
    value = {
        "model": args.model, "data": args.data, "pairs": len(pairs), "measure": measure,
        "spearman": spearman(predicted, scores), "pearson": pearson(predicted, scores),
    }  # fmt: skip
    return Result(value, correlation_text)


def correlation_text(value: dict) -> str:
    """Both coefficients."""
    return (
        f"{value['pairs']:,} pairs, {value['measure']} similarity, {value['model']}\n"
        f"Spearman {value['spearman']:.5f}\nPearson  {value['pearson']:.5f}"
    )


def named_engine(args: argparse.Namespace, encoder) -> dict[str, str]:
    """The engine that computed, if the arguments ask for one: it may be another than they name."""
    return {"engine": encoder.engine} if args.engine or args.precision else {}


def load_encoder(args: argparse.Namespace):
    """The sentence encoder that the arguments name."""
    from minibert.sentence_encoder import SentenceEncoder

    return SentenceEncoder.from_pretrained(
        args.model, engine=args.engine, precision=args.precision
    )
