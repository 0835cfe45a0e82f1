"""Commands that fetch a model and look inside it, and inside the code."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

from minibert.cli.common import (
    Result,
    add_model,
    model_option,
    option,
    options,
    table,
    tell,
    whole_number,
    writes,
)

SHOW = {  # what `minibert show` prints: topic → (file, name in it, or None for the whole file)
    "config": ("config.py", "BertConfig"),
    "tokenizer": ("tokenization/tokenizer.py", None),
    "wordpiece": ("tokenization/tokenizer.py", "wordpiece"),
    "vocabulary": ("training/vocabulary.py", None),
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
    "tasks": ("training/tasks/base.py", "Task"),
}


@option("name", nargs="?", metavar="NAME", help="name on the hub (default: the official model)")
@option("--revision", help="a commit, tag or branch (default: pinned for known models)")
def download(args: argparse.Namespace) -> Result:
    """Fetch a model and verify it.

    Example: minibert download all-MiniLM-L6-v2
    """
    from minibert.io.hub import OFFICIAL_MODEL
    from minibert.io.hub import download as fetch

    name = args.name or OFFICIAL_MODEL
    path = fetch(name, revision=args.revision)
    return Result({"name": name, "path": str(path)}, lambda value: value["path"])


@option("model", nargs="?", metavar="MODEL", help="directory or hub name")
def inspect(args: argparse.Namespace) -> Result:
    """List the tensors of a model: their official names and ours, their shapes.

    Example: minibert inspect all-MiniLM-L6-v2
    """
    from minibert.io import checkpoint
    from minibert.io.directory import open_directory
    from minibert.io.hub import DEFAULT_MODEL

    name = args.model or DEFAULT_MODEL
    directory = open_directory(name)
    tensors = checkpoint.read(directory)
    model = load_model(directory)
    report = model.load_report
    value = {
        "model": name, "directory": str(directory), "class": type(model).__name__,
        "parameters": model.num_parameters(),
        "config": model.config.to_dict(),
        "tensors": [
            {
                "official": name,
                "ours": report.loaded.get(name),
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "dropped": report.dropped.get(name),
            }
            for name, tensor in tensors.items()
        ],
        "new": report.new,
    }  # fmt: skip
    return Result(value, inspect_text)


def inspect_text(value: dict) -> str:
    """The sizes of the model, then a line for each tensor."""
    config, tensors = value["config"], value["tensors"]
    lines = [
        f"{value['class']} in {value['directory']}",
        f"{config['num_hidden_layers']} layers, hidden {config['hidden_size']}, "
        f"{config['num_attention_heads']} heads, feed-forward {config['intermediate_size']}, "
        f"vocabulary {config['vocab_size']:,}, {config['max_position_embeddings']} positions",
        f"{len(tensors)} tensors in the file, {value['parameters']:,} parameters in the model\n",
    ]
    rows = [
        (row["official"], str(row["shape"]), row["ours"] or f"dropped: {row['dropped']}")
        for row in tensors
    ]
    new = [f"new: {name}: {rule}" for name, rule in value["new"].items()]
    return "\n".join([*lines, table(rows), *new])


@option("text", metavar="TEXT", help="a text with [MASK] in it")
@option("-k", type=whole_number(1), default=5, help="number of guesses for each mask (default 5)")
@options(lambda parser: add_model(parser, "FILL_MASK_MODEL"))
def fill_mask(args: argparse.Namespace) -> Result:
    """Guess the words behind [MASK].

    Example: minibert fill-mask "The sky is [MASK]."
    """
    import torch

    from minibert.io.directory import open_directory
    from minibert.io.hub import FILL_MASK_MODEL
    from minibert.tokenization.tokenizer import BertTokenizer

    directory = open_directory(args.model)
    tokenizer = BertTokenizer.from_pretrained(directory)
    batch = tokenizer(args.text)
    masked = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    if not masked:
        raise ValueError(f"no {tokenizer.mask_token} in the text; write it where a word is missing")
    model = load_masked_lm(directory)
    if not model:
        raise ValueError(
            f"{args.model} has no masked-LM head, so it cannot fill in words; try --model "
            f"{FILL_MASK_MODEL}, which comes with minibert, or google-bert/bert-base-uncased"
        )
    with torch.inference_mode():
        probabilities = model(**batch).logits[0, masked].softmax(-1)  # (masks, V)
    best, ids = probabilities.topk(min(args.k, len(tokenizer)))
    tokens = map(tokenizer.convert_ids_to_tokens, ids.tolist())
    guesses = [
        [{"token": token, "probability": p} for token, p in zip(*row, strict=True)]
        for row in zip(tokens, best.tolist(), strict=True)
    ]
    tell(f"model: {args.model}")
    return Result({"model": args.model, "text": args.text, "masks": guesses}, fill_mask_text)


def load_masked_lm(directory: Path):
    """The model with its masked-LM head; None where the file has no such head."""
    from minibert.heads import BertForMaskedLM

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "new, untrained tensors")
        model = BertForMaskedLM.from_pretrained(directory)
    return None if model.load_report.new else model


def fill_mask_text(value: dict) -> str:
    """The guesses for each mask, the most probable first."""
    lines = []
    for number, guesses in enumerate(value["masks"], 1):
        lines += [f"[MASK] {number}"] if len(value["masks"]) > 1 else []
        lines += [f"{guess['probability']:7.4f}  {guess['token']}" for guess in guesses]
    return "\n".join(lines)


@option("texts", nargs="+", metavar="TEXT", help="the texts of one batch")
@writes("--out", ending=".safetensors", required=True, help="file to write")
@model_option
def trace(args: argparse.Namespace) -> Result:
    """Write every intermediate tensor of a forward pass to a file.

    Example: minibert trace "Hello world." --out trace.safetensors
    """
    import torch

    from minibert.io.checkpoint import write_safetensors
    from minibert.io.directory import open_directory
    from minibert.tokenization.tokenizer import BertTokenizer
    from minibert.trace import trace as recorded

    directory = open_directory(args.model)
    tokenizer = BertTokenizer.from_pretrained(directory)
    batch = tokenizer(args.texts)
    tokens = [tokenizer.convert_ids_to_tokens(row) for row in batch["input_ids"].tolist()]
    model = load_model(directory)
    with torch.no_grad(), recorded(model) as tensors:
        model(**batch)
    found = {**batch, **tensors}
    metadata = {"texts": json.dumps(args.texts), "tokens": json.dumps(tokens)}
    metadata |= {"format": "pt", "model": args.model}
    write_safetensors(Path(args.out), found, metadata)
    shapes = {name: list(tensor.shape) for name, tensor in found.items()}
    value = {"out": args.out, "model": args.model, "tokens": tokens, "tensors": shapes}
    return Result(value, trace_text)


def trace_text(value: dict) -> str:
    """The name and the shape of each tensor."""
    shapes = table((name, str(shape)) for name, shape in value["tensors"].items())
    tensors = f"{len(value['tensors'])} tensors of {value['model']}"
    return f"{value['out']}: {tensors}, in order of computation\n{shapes}"


@option("texts", nargs="*", metavar="TEXT", help="one text, or two to compare")
@option("--live", action="store_true", help="put the model into the page: type there")
@writes("--out", ending=".html", default="page.html", help="page to write (default page.html)")
@model_option
def explore(args: argparse.Namespace) -> Result:
    """Write a page to look inside the model: what every head attends to and, for two texts, what
    their similarity is made of.

    Example: minibert explore "The bank raised its rates." "She sat on the bank."
    Example: minibert explore "Tea with [MASK]." --model minibert-tiny --out tea.html
    Example: minibert explore --live --out live.html

    Open the page in a browser; it needs no network. It shows
      all layers and heads at a glance, one of them large, with its probabilities
      what each layer adds to a token, the words it is nearest to by then and, where the model has
      a masked-LM head, what that would guess
      how the cosine changes when one head or one token is masked
      what each pair of tokens contributes to the cosine (the contributions add up to it)
    With --live the model itself is in the page, weights and all (24 MB for minibert-small): type
    any two texts and see all of this change; it also takes an attention score apart into query
    and key. The texts given here stand there at first.
    --json prints the same numbers; minibert trace writes every tensor; minibert show attention
    prints the code.
    """
    from minibert.explore.explore import FIRST_TEXTS, LARGE, figures, live_page, page
    from minibert.io.directory import open_directory
    from minibert.io.files import write_text
    from minibert.sentence_encoder import SentenceEncoder

    if args.live:
        encoder = SentenceEncoder.from_pretrained(args.model, engine="textbook")
        html = live_page(encoder, args.texts or FIRST_TEXTS, args.model)
        write_text(args.out, html)
        size = len(html.encode())
        if size > LARGE:
            tell(
                f"warning: {size / 1e6:.0f} MB is a lot for a page: a browser takes a while to "
                "open it, and a phone may not. A smaller model or weights in float16 take less"
            )
        said = f"{args.out}: {args.model} itself, {size / 1e6:.1f} MB"
        said += "; open it in a browser and type"
        return Result({"out": args.out, "model": args.model, "bytes": size}, lambda value: said)
    directory = open_directory(args.model)
    encoder, masked_lm = SentenceEncoder.from_pretrained(directory), load_masked_lm(directory)
    head = masked_lm and masked_lm.predictions.to(encoder.device)
    found = figures(encoder, args.texts, args.model, head)
    for number, text in enumerate(found["texts"], 1):
        if (T := len(text["tokens"])) < text["length"]:
            tell(f"warning: text {number} has {text['length']} tokens and was cut to {T}")
    write_text(args.out, page(found))
    tokens = [text["tokens"] for text in found["texts"]]
    return Result({"out": args.out, **found, "texts": args.texts, "tokens": tokens}, explore_text)


def explore_text(value: dict) -> str:
    """What the page is about."""
    tokens = " and ".join(str(len(row)) for row in value["tokens"])
    said = f"{value['out']}: {value['layers']} layers, {value['heads']} heads, {tokens} tokens"
    return said + (f"\ncosine {value['cosine']:.5f}" if len(value["texts"]) == 2 else "")


@option("text", metavar="TEXT", help="a text to tokenize")
@model_option
def explain(args: argparse.Namespace) -> Result:
    """Show what the tokenizer does to a text, rule by rule.

    Example: minibert explain "Café déjà-vu"
    """
    from minibert.tokenization.explain import explain as explained
    from minibert.tokenization.tokenizer import BertTokenizer

    explanation = explained(BertTokenizer.from_pretrained(args.model), args.text)
    tell(f"model: {args.model}")
    value = {
        "model": args.model,
        "text": args.text,
        "steps": [step._asdict() for step in explanation.steps],
        "tokens": [piece._asdict() for piece in explanation.pieces],
    }
    return Result(value, lambda value: str(explanation))


@option("topic", nargs="?", choices=SHOW, metavar="TOPIC",
        help=f"{', '.join(SHOW)}; without one: where each of them is found")
def show(args: argparse.Namespace) -> Result:
    """Print the source code to read on a topic.

    Example: minibert show attention
    """
    import ast

    if args.topic is None:
        rows = [(topic, f"minibert/{file}", name or "") for topic, (file, name) in SHOW.items()]
        return Result(SHOW, lambda topics: table(rows))
    file, name = SHOW[args.topic]
    source = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
    for node in ast.parse(source).body if name else ():
        targets = [getattr(target, "id", None) for target in getattr(node, "targets", [])]
        if name in (getattr(node, "name", None), *targets):
            source = ast.get_source_segment(source, node)
            break
    value = {"topic": args.topic, "file": f"minibert/{file}", "name": name, "source": source}
    return Result(value, lambda value: value["source"].rstrip("\n"))


def load_model(directory: Path):
    """The model of a directory, in the class that its config names."""
    from minibert import heads
    from minibert.config import BertConfig
    from minibert.model import BertModel

    names = BertConfig.from_pretrained(directory).extra.get("architectures") or ["BertModel"]
    return getattr(heads, str(names[0]), BertModel).from_pretrained(directory)
