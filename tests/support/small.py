"""A tiny base model in a directory, and tiny data files, for tests of fine-tuning."""

from __future__ import annotations

import csv
import random
from functools import partial
from pathlib import Path

from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.sentence_encoder import SentenceEncoder
from minibert.tokenization.tokenizer import BertTokenizer
from support.tiny import SIZES, build, perturb

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GOOD = "good fine lovely bright warm kind glad sweet".split()
BAD = "bad awful dull cold cruel grim sad bitter".split()
PLAIN = "a the film day meal song story friend room talk it was is and but with for".split()
LETTERS = list("bcdefghijklmnopqrstu")  # to make the vocabulary full
VOCABULARY = (SPECIAL + GOOD + BAD + PLAIN + LETTERS)[: SIZES["vocab_size"]]


def tokenizer() -> BertTokenizer:
    """Whole words only: every word of the data files is a token."""
    return BertTokenizer(VOCABULARY, model_max_length=40)


def base(directory: Path, seed: int = 0, **changes: object) -> Path:
    """A sentence encoder with perturbed weights, saved."""
    config = BertConfig.from_dict({**SIZES, "vocab_size": len(VOCABULARY), **changes})
    model = perturb(BertModel(config), seed)
    with_small_head = {"pooling": ("mean",), "normalize": True, "max_length": 40}
    SentenceEncoder(model, tokenizer(), **with_small_head).save_pretrained(directory)
    return directory


def sentences(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts of unequal length and whether they are "good" or "bad", each only once."""
    draw = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < n:
        label, words = draw.choice([("good", GOOD), ("bad", BAD)])
        text = draw.choices(PLAIN, k=draw.randint(1, 9))
        text.insert(draw.randint(0, len(text)), draw.choice(words))
        found.setdefault(" ".join(text), label)
    return list(found.items())


def classes(path: Path, n: int = 40, seed: int = 0) -> Path:
    """A tsv with a header: text, label."""
    rows = [("text", "label"), *sentences(n, seed)]
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def pairs(path: Path, n: int = 40, seed: int = 0) -> Path:
    """A csv without a header: two texts, and 5 if they are of one class, else 1."""
    texts = sentences(2 * n, seed)
    with open(path, "w", newline="") as file:
        for (a, first), (b, second) in zip(texts[:n], texts[n:], strict=True):
            csv.writer(file).writerow([a, b, 5.0 if first == second else 1.0])
    return path


def world(home: Path) -> Path:
    """A base model and data files: texts of two classes, pairs with scores."""
    base(home / "base")
    classes(home / "train.tsv", 40, seed=0)
    classes(home / "dev.tsv", 12, seed=1)
    pairs(home / "pairs.csv", 24, seed=2)
    pairs(home / "general.csv", 12, seed=4)
    return home


def task(name: str, tokenizer: BertTokenizer, texts: list[tuple[str, str]]):
    """A task, and examples for it made of texts that are "good" or "bad"."""
    from minibert.training import tasks
    from minibert.training.data import Example

    pairs = [(a, b, x == y) for (a, x), (b, y) in zip(texts, texts[3:] + texts[:3], strict=True)]
    words = [text.split() for text, _ in texts]
    labels = [{"text": text, "label": label} for text, label in texts]
    scores = [{"text": a, "pair": b, "score": 0.9 if same else 0.2} for a, b, same in pairs]
    classify = partial(tasks.Classification, classes=["bad", "good"])
    initials = sorted({word[0] for row in words for word in row})
    kind, rows = {
        "classification": (classify, labels),
        "weighted": (partial(classify, class_weights=[3.0, 0.5], label_smoothing=0.1), labels),
        "pairs": (partial(tasks.Classification, classes=["False", "True"]),
                  [{"text": a, "pair": b, "label": str(same)} for a, b, same in pairs]),
        "regression": (tasks.PairRegression, scores),
        "similarity": (tasks.Similarity, scores),
        "mlm": (tasks.MaskedLM, [{"text": text} for text, _ in texts]),
        "tokens": (partial(tasks.TokenClassification, classes=initials),
                   [{"tokens": row, "tags": [word[0] for word in row]} for row in words]),
    }[name]  # fmt: skip
    return kind(tokenizer, max_length=40), [Example(row, f"row {i}") for i, row in enumerate(rows)]


SHAPES = {  # hidden_act and widths; 48 and 40 are no multiples of the width of vector registers
    "gelu": {"hidden_size": 64, "intermediate_size": 256},
    "relu": {"hidden_size": 40, "intermediate_size": 48},
    "gelu_new": {"hidden_size": 32, "intermediate_size": 48},
    "gelu_pytorch_tanh": {"hidden_size": 32, "intermediate_size": 64},
}


def bert(hidden_act: str = "gelu") -> BertModel:
    sizes = {**SIZES, **SHAPES[hidden_act], "vocab_size": len(VOCABULARY)}
    return build(BertModel, BertConfig.from_dict({**sizes, "hidden_act": hidden_act}))


def encoder(model) -> SentenceEncoder:
    return SentenceEncoder(model, tokenizer(), max_length=40)
