"""What each verb of the command line does: read its arguments, call one function, print the result.

Results go to stdout (``--json``: as JSON), everything else to stderr. Nothing here imports torch
before a verb needs it, so that ``--help`` is instant.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

TABLES = (".csv", ".tsv", ".jsonl")  # files in which a line is more than a text

# What ``minibert show`` prints: topic -> (file, name in it or None for the whole file).
SHOW = {
    "config": ("config.py", "BertConfig"),
    "tokenizer": ("tokenization/tokenizer.py", None),
    "wordpiece": ("tokenization/tokenizer.py", "wordpiece"),
    "embeddings": ("embeddings.py", None),
    "attention": ("attention.py", None),
    "layer": ("encoder.py", "EncoderLayer"),
    "encoder": ("encoder.py", None),
    "model": ("model.py", "BertModel"),
    "pooler": ("model.py", "Pooler"),
    "heads": ("heads.py", None),
    "names": ("io/checkpoint.py", "ENCODER_NAMES"),
    "pooling": ("pooling.py", None),
    "encode": ("sentence_encoder.py", "SentenceEncoder"),
    "similarity": ("similarity.py", None),
    "loop": ("training/loop.py", "loop"),
    "tasks": ("training/tasks.py", None),
}


def similarity(args: argparse.Namespace) -> None:
    """Print the table of similarities of some texts."""
    if len(args.texts) < 2:
        raise ValueError("one text; at least two are needed to compare")
    from minibert.similarity import SIMILARITY

    encoder = load_encoder(args)
    encoder.model.eval()  # itself: a packed copy takes longer to make than a few texts
    vectors = encoder.encode(args.texts, on_long=args.on_long)
    measure = args.measure or encoder.similarity_fn_name
    table = SIMILARITY[measure](vectors, vectors)
    if args.json:
        result = {"model": args.model, "measure": measure, "texts": args.texts}
        return print_json({**result, "similarity": table.tolist()})
    print(f"{measure} similarity, {args.model}, {vectors.shape[1]} numbers a text\n")
    width = min(max(map(len, args.texts)), 48)
    print(" " * (width + 4) + "".join(f"{i:8}" for i in range(1, len(args.texts) + 1)))
    for i, text in enumerate(args.texts):
        cells = "".join(f"{value:8.4f}" for value in table[i])
        print(f"{i + 1:2}  {shorten(text, width):<{width}}{cells}")


def embed(args: argparse.Namespace) -> None:
    """Write a vector for every line of a file."""
    from minibert.io.distributed import rank
    from minibert.speed.embed_file import embed_file

    if Path(args.file).suffix.lower() in TABLES:
        tell(f"warning: {args.file}: lines are taken as they are, header and labels too")

    def say(done: int, total: int) -> None:
        tell(f"{total:,} lines" + (f", {done:,} of them already there" if done else ""))

    rows, width = embed_file(
        load_encoder(args), args.file, args.out, on_long=args.on_long, on_start=say
    )
    if rank():  # under torchrun one process speaks for all
        return
    if args.json:
        return print_json({"file": args.file, "out": args.out, "shape": [rows, width]})
    print(f"{args.out}: {rows:,} x {width} float32")


def search(args: argparse.Namespace) -> None:
    """Print the lines of a file that are most like a query."""
    import numpy as np

    from minibert.similarity import search as nearest
    from minibert.speed.embed_file import read_lines
    from minibert.training.data import locate, read

    table = Path(args.file).suffix.lower() in TABLES and not args.vectors
    if args.columns and not table:
        raise ValueError("--columns is for csv, tsv and jsonl, without --vectors: here lines count")
    if table:
        rows = read(args.file, ("text",), args.columns, say=tell, blank=True)
        lines = [row.values["text"] for row in rows]
        places = [int(row.where.rsplit(" ", 1)[1]) - 1 for row in rows]  # "a.tsv, line 7" → 6
    else:
        lines = list(read_lines(args.file))
        places = range(len(lines))
    if not any(line.strip() for line in lines):
        raise ValueError(f"{args.file} has no text in it")
    encoder = load_encoder(args)
    if args.vectors:
        vectors = np.load(locate(args.vectors), mmap_mode="r")
        if vectors.shape != (len(lines), encoder.dimension):
            raise ValueError(
                f"{args.vectors} is {vectors.shape}; {args.file} and {args.model} need "
                f"{(len(lines), encoder.dimension)}; make it anew with minibert embed"
            )
    else:
        vectors = encoder.encode(lines, on_long=args.on_long)
    hits = nearest(encoder.encode([args.query], on_long=args.on_long), vectors, args.k)[0]
    hits = [
        {**hit, "corpus_id": places[hit["corpus_id"]], "text": lines[hit["corpus_id"]]}
        for hit in hits
    ]  # corpus_id: which line of the file, from 0
    if args.json:
        return print_json({"query": args.query, "hits": hits})
    for hit in hits:
        print(f"{hit['score']:7.4f}  line {hit['corpus_id'] + 1:<6} {hit['text']}")


def keysentences(args: argparse.Namespace) -> None:
    """Print the sentences that stand for a text, in its order."""
    from minibert.similarity import key_sentences
    from minibert.speed.embed_file import read_lines, split_sentences

    lines = read_lines(args.file)
    sentences = [s for line in lines for s in ([line] if args.lines else split_sentences(line))]
    sentences = [sentence for sentence in sentences if sentence.strip()]
    if not sentences:
        raise ValueError(f"{args.file} has no sentences")
    vectors = load_encoder(args).encode(sentences, on_long=args.on_long)
    chosen = key_sentences(vectors, args.n, method=args.method, diversity=args.diversity)
    if args.json:
        rows = [{"sentence": i, "text": sentences[i]} for i in chosen]
        return print_json({"sentences": len(sentences), "key": rows})
    for i in chosen:
        print(sentences[i])


def evaluate_similarity(args: argparse.Namespace) -> None:
    """Print how well the similarities of pairs follow human scores."""
    from minibert import similarity as measures
    from minibert.training.data import read
    from minibert.training.metrics import pearson, spearman

    pairs = read(args.data, ("text", "pair", "score"))
    encoder = load_encoder(args)
    measure = args.measure or encoder.similarity_fn_name
    first, second, scores = ([p.values[role] for p in pairs] for role in ("text", "pair", "score"))
    vectors = encoder.encode(first + second, on_long=args.on_long)
    pairwise = getattr(measures, f"pairwise_{measure}_similarity")
    predicted = pairwise(vectors[: len(pairs)], vectors[len(pairs) :])
    result = {
        "model": args.model,
        "data": args.data,
        "pairs": len(pairs),
        "measure": measure,
        "spearman": spearman(predicted, scores),
        "pearson": pearson(predicted, scores),
    }
    if args.json:
        return print_json(result)
    print(f"{len(pairs):,} pairs, {measure} similarity, {args.model}")
    print(f"Spearman {result['spearman']:.5f}\nPearson  {result['pearson']:.5f}")


def download(args: argparse.Namespace) -> None:
    """Fetch a model and verify it."""
    from minibert.io.hub import download as fetch

    path = fetch(args.name, revision=args.revision)
    if args.json:
        return print_json({"name": args.name, "path": str(path)})
    print(path)


def inspect(args: argparse.Namespace) -> None:
    """Print every tensor of a model: its two names, its shape, and what became of it."""
    from minibert.io import checkpoint
    from minibert.io.hub import locate

    directory = locate(args.model)
    tensors, _ = checkpoint.read(directory)
    model = load_model(directory)
    report = model.load_report
    ours = {name: report.loaded.get(checkpoint.canonical_name(name)) for name in tensors}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    config = model.config
    if args.json:
        rows = [
            {
                "official": name,
                "ours": ours[name],
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "dropped": report.dropped.get(name),
            }
            for name, tensor in tensors.items()
        ]
        result = {"model": args.model, "class": type(model).__name__, "parameters": parameters}
        result |= {"config": config.to_dict(), "tensors": rows, "new": report.new}
        return print_json(result)
    print(f"{type(model).__name__} in {directory}")
    print(
        f"{config.num_hidden_layers} layers, hidden {config.hidden_size}, "
        f"{config.num_attention_heads} heads, feed-forward {config.intermediate_size}, "
        f"{config.vocab_size:,} words, {config.max_position_embeddings} positions"
    )
    print(f"{len(tensors)} tensors in the file, {parameters:,} parameters in the model\n")
    width = max(map(len, tensors))
    for name, tensor in tensors.items():
        fate = ours[name] or f"dropped: {report.dropped[name]}"
        print(f"{name:<{width}}  {str(list(tensor.shape)):<14} {fate}")
    for name, rule in report.new.items():
        print(f"new: {name}: {rule}")


def fill_mask(args: argparse.Namespace) -> None:
    """Print the most probable words for each [MASK] of a text."""
    import torch

    from minibert.heads import BertForMaskedLM
    from minibert.io.hub import locate
    from minibert.tokenization.tokenizer import BertTokenizer

    directory = locate(args.model)
    tokenizer = BertTokenizer.from_pretrained(directory)
    batch = tokenizer(args.text)
    masked = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    if not masked:
        raise ValueError(f"no {tokenizer.mask_token} in the text; write it where a word is missing")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "new, untrained tensors")  # the error below says more
        model = BertForMaskedLM.from_pretrained(directory)
    if model.load_report.new:
        raise ValueError(
            f"{args.model} has no masked-LM head, so it cannot fill in words; try --model "
            "google-bert/bert-base-uncased"
        )
    with torch.inference_mode():
        probabilities = model(**batch).logits[0, masked].softmax(-1)  # (masks, V)
    best, ids = probabilities.topk(min(args.k, len(tokenizer)))
    words = [tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()]
    guesses = [
        [{"token": w, "probability": p} for w, p in zip(row, values, strict=True)]
        for row, values in zip(words, best.tolist(), strict=True)
    ]
    if args.json:
        return print_json({"text": args.text, "masks": guesses})
    for number, row in enumerate(guesses, 1):
        if len(guesses) > 1:
            print(f"{tokenizer.mask_token} {number}")
        for guess in row:
            print(f"{guess['probability']:7.4f}  {guess['token']}")


def trace(args: argparse.Namespace) -> None:
    """Write every intermediate tensor of a forward pass."""
    import torch

    from minibert.io.checkpoint import write_safetensors
    from minibert.io.files import need_ending
    from minibert.io.hub import locate
    from minibert.tokenization.tokenizer import BertTokenizer
    from minibert.trace import trace as recorded

    need_ending(args.out, ".safetensors")
    directory = locate(args.model)
    tokenizer = BertTokenizer.from_pretrained(directory)
    batch = tokenizer(args.texts)
    tokens = [tokenizer.convert_ids_to_tokens(row) for row in batch["input_ids"].tolist()]
    model = load_model(directory)
    with torch.no_grad(), recorded(model) as tensors:
        model(**batch)
    found = {**batch, **tensors}
    metadata = {"format": "pt", "texts": json.dumps(args.texts), "tokens": json.dumps(tokens)}
    write_safetensors(Path(args.out), found, metadata)
    shapes = {name: list(tensor.shape) for name, tensor in found.items()}
    if args.json:
        return print_json({"out": args.out, "tokens": tokens, "tensors": shapes})
    print(f"{args.out}: {len(found)} tensors, in the order of computation")
    for name, shape in shapes.items():
        print(f"  {name:<42} {shape}")


def explore(args: argparse.Namespace) -> None:
    """Write a page that shows all attention, and what a similarity is made of."""
    from minibert.explore.explore import figures, page
    from minibert.io.files import need_ending, write_text
    from minibert.sentence_encoder import SentenceEncoder

    need_ending(args.out, ".html")
    found = figures(SentenceEncoder.from_pretrained(args.model), args.texts, args.model)
    write_text(args.out, page(found))
    if args.json:
        result = {"out": args.out, "model": args.model, "texts": args.texts}
        result["tokens"] = [text["tokens"] for text in found["texts"]]
        numbers = ("layers", "heads", "cosine", "without_head", "without_token", "contributions")
        return print_json(result | {name: found[name] for name in numbers})
    tokens = " and ".join(str(len(text["tokens"])) for text in found["texts"])
    print(f"{args.out}: {found['layers']} layers, {found['heads']} heads, {tokens} tokens")
    if len(args.texts) == 2:
        print(f"cosine {found['cosine']:.5f}")


def parity(args: argparse.Namespace) -> int:
    """Compare tensors stage by stage; name the first that differs, and the mistake."""
    import torch

    from minibert.io.files import write_text
    from minibert.parity import goldens as selfcheck
    from minibert.parity.html import to_html

    torch.set_num_threads(1)  # many small products: a second thread only costs
    reports = selfcheck.parity(
        args.dump, args.replace, args.model, args.names, args.trace, args.goldens, not args.singles
    )
    if args.html:
        write_text(args.html, to_html(reports))
        tell(f"{args.html} written")
    passed = all(report.passed for report in reports)
    if args.json:
        print_json({"passed": passed, "reports": [report.to_dict() for report in reports]})
    else:
        print("\n\n".join(str(report) for report in reports))
    return 0 if passed else 1


def explain(args: argparse.Namespace) -> None:
    """Print what the tokenizer does to a text, rule by rule."""
    from minibert.tokenization import explain as steps
    from minibert.tokenization.tokenizer import BertTokenizer

    explanation = steps.explain(BertTokenizer.from_pretrained(args.model), args.text)
    if args.json:
        steps = [step._asdict() for step in explanation.steps]
        tokens = [piece._asdict() for piece in explanation.pieces]
        return print_json({"text": args.text, "steps": steps, "tokens": tokens})
    print(explanation)


def show(args: argparse.Namespace) -> None:
    """Print the source that a learner should read."""
    import ast

    if args.topic is None:
        for topic, (file, name) in SHOW.items():
            print(f"{topic:<12} minibert/{file}{f', {name}' if name else ''}")
        return
    file, name = SHOW[args.topic]
    source = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
    if name is None:
        print(source, end="")
        return
    for node in ast.parse(source).body:
        targets = [getattr(target, "id", None) for target in getattr(node, "targets", [])]
        if name in (getattr(node, "name", None), *targets):
            print(ast.get_source_segment(source, node))


def check(args: argparse.Namespace) -> int | None:
    """Judge an exercise, a submission or a class; or write a starting file, or give a hint."""
    from minibert.course import exercises

    if args.exercise is None:
        for name, exercise in exercises.EXERCISES.items():
            print(f"{name:<22} {exercise.title}")
        return None
    if args.start:
        exercises.start(args.exercise, args.start)
        tell(f"{args.start} is written; judge it: minibert check {args.exercise} {args.start}")
        return None
    if args.hint:
        print(exercises.hint_text(args.exercise, args.hint))
        return None
    if args.path is None:
        raise ValueError("what is to be judged? Give a FILE, or a DIR with all; or --start, --hint")
    limits = {"seed": args.seed, "seconds": args.seconds, "megabytes": args.memory}
    if args.exercise != "all":
        judgement = exercises.judge(args.exercise, args.path, **limits)
        print_json(judgement.to_dict()) if args.json else print(judgement)
        return int(not judgement.passed)
    results = exercises.submissions(args.path, **limits)
    if args.json:
        print_json({
            student: {name: judgement.to_dict() for name, judgement in found.items()}
            for student, found in results.items()
        })
    elif args.csv:
        print(exercises.as_csv(exercises.class_table(results)), end="")
    elif len(results) == 1:
        print(exercises.one_table(next(iter(results.values()))))
    else:
        print(exercises.as_text(exercises.class_table(results)))
    return int(not all(one.passed for found in results.values() for one in found.values()))


def finetune(args: argparse.Namespace) -> int | None:
    """Fine-tune a model on a file."""
    import dataclasses

    from minibert.io.distributed import rank
    from minibert.training.checkpoints import Diverged
    from minibert.training.finetune import finetune as run
    from minibert.training.finetune import several
    from minibert.training.plots import FAILED
    from minibert.training.settings import Settings, small

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if args.resume:
        wanted = None
    elif args.task is None or args.train is None:
        raise ValueError("what is to be learnt from which file? minibert finetune TASK TRAIN ...")
    else:
        names = [field.name for field in dataclasses.fields(Settings)]
        wanted = Settings(**{name: getattr(args, name) for name in names})
        if args.recipe == "small":
            from minibert.training.data import read
            from minibert.training.finetune import TASKS, width

            examples = read(wanted.train, TASKS[wanted.task].roles, wanted.columns)
            wanted = small(wanted, len(examples), width(wanted.base))
    try:
        if args.seeds > 1 and wanted:
            result = several(wanted, args.out, args.seeds, say=say)
        else:
            result = run(wanted, args.out, resume=args.resume, say=say)
    except Diverged as error:
        tell(f"minibert: {error}")
        return 1
    if rank():  # under torchrun one process speaks for all
        return None
    if args.json:
        return print_json(result)
    if "mean" in result:
        spread = "" if result["sd"] is None else f" (sd {result['sd']:.4f})"
        print(f"{result['measure']}: {result['mean']:.4f}{spread}, worst {result['worst']:.4f}")
        for name, value in result.get("baselines", {}).items():
            print(f"{name}: {value:.4f}")
        if result.get("failed"):
            print(f"{result['failed']} of {args.seeds} runs failed: no better than one class")
        return
    for name, after in result["after"].items():
        before = result["before"].get(name)
        form = ".4f" if isinstance(after, float) else "d"
        change = "" if before is None else f"  (before: {before:{form}}, {after - before:+{form}})"
        value = f"{after:{form}}"
        print(f"{name:<22} {value}{change}")
    failed = any(FAILED in remark for remark in result.get("remarks", ()))
    model = f"{FAILED}, this model is of no use" if failed else "the model"
    print(f"{args.out}: {model}; {args.out}/run: how it came about")


def predict(args: argparse.Namespace) -> None:
    """Print what a fine-tuned model says about every row of a file."""
    from minibert.training.inference import predict_file

    answers = predict_file(args.model, args.file, args.columns, say=tell)
    if args.json:
        return print_json(answers)
    for answer in answers:
        numbers = [f"{v:.4f}" if isinstance(v, float) else str(v) for v in answer.values()]
        print("\t".join(numbers[-(2 if "probability" in answer else 1) :] + [next(iter(numbers))]))


def evaluate_tuned(args: argparse.Namespace) -> None:
    """Print how a fine-tuned model does on labelled data."""
    from minibert.training.inference import evaluate_file

    measures = evaluate_file(args.model, args.data, args.columns)
    if args.json:
        return print_json({"model": args.model, "data": args.data, **measures})
    for name, value in measures.items():
        print(f"{name:<20} {value:.4f}" if isinstance(value, float) else f"{name:<20} {value}")


def blend(args: argparse.Namespace) -> None:
    """Mix the weights of a base model and of what was tuned from it."""
    if not args.out and not args.data:
        raise ValueError("--out DIR writes the mixture; --data F --keep G sweeps over alpha")
    if bool(args.data) != bool(args.keep):
        raise ValueError("a sweep needs both: --data (of the domain) and --keep (general pairs)")
    if args.out and Path(args.out).exists() and not is_empty(Path(args.out)):
        raise ValueError(f"{args.out} is there already; name another directory, or remove it first")
    from minibert.training.inference import Blend, draw_sweep

    mix = Blend(args.base, args.tuned)
    rows = []
    if args.data:
        rows = mix.sweep(args.data, args.keep)
        if args.svg:
            draw_sweep(rows, args.svg)
        if not args.json:
            print("alpha  domain  general")
            for row in rows:
                print(f"{row['alpha']:5.2f}  {row['domain']:.4f}  {row['general']:.4f}")
    if args.out:
        mix.save(args.alpha, args.out)
    if args.json:
        return print_json({"alpha": args.alpha, "out": args.out, "sweep": rows})
    if args.out:
        heads = ", ".join(mix.heads)
        alone = f"; the head ({heads}) is that of {args.tuned} alone" if heads else ""
        print(f"{args.out}: {args.alpha:g} of {args.tuned}, the rest {args.base}{alone}")


def bench(args: argparse.Namespace) -> None:
    """Measure the speed of this machine, and of what else is installed on it."""
    from minibert.io.files import write_text
    from minibert.speed import bench as measure

    options = {"rounds": args.rounds, "peers": not args.alone}
    if args.train or args.profile:
        if args.svg or args.data:
            raise ValueError("--svg and --data belong to encoding, not to --train")
        result = measure.bench_training(args.model, profile=args.profile, **options)
    else:
        result = measure.bench(
            args.model, data=args.data, number=args.number, threads=args.threads,
            start=not args.no_start, say=tell, **options,
        )
    if args.svg:
        write_text(args.svg, measure.picture(result))
    print_json(result) if args.json else print(measure.table(result))


# ----------------------------------------------------------------------------------- helpers


def load_encoder(args: argparse.Namespace):
    """The sentence encoder that the arguments name."""
    from minibert.sentence_encoder import SentenceEncoder

    return SentenceEncoder.from_pretrained(args.model, precision=args.precision)


def load_model(directory: Path):
    """The model of a directory, in the class that its config names."""
    from minibert import heads
    from minibert.config import BertConfig
    from minibert.model import BertModel

    names = BertConfig.from_pretrained(directory).extra.get("architectures") or ["BertModel"]
    return getattr(heads, str(names[0]), BertModel).from_pretrained(directory)


def is_empty(path: Path) -> bool:
    """Whether a path is a directory with nothing in it."""
    return path.is_dir() and not any(path.iterdir())


def tell(text: str) -> None:
    """Say something that is not the result."""
    print(text, file=sys.stderr)


def print_json(value: object) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def shorten(text: str, width: int) -> str:
    """Cut a text for a table, with an ellipsis."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
