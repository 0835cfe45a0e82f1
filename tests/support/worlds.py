"""A directory with a base model and small files for every kind of training, and settings for it."""

import json
import random
from pathlib import Path

from minibert.training.pretrain_settings import PretrainSettings
from minibert.training.settings import DistilSettings, Settings
from support import small

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "the a cat dog sat ran on in mat house and big small red it was went home with play".split()
VOCABULARY = SPECIAL + WORDS + ["##s", "##ing", "##ed", "."]  # of pre-training: words have pieces


def some_documents(n: int = 40, seed: int = 0) -> list[list[str]]:
    """Documents of 3 to 12 sentences; many words have several pieces."""
    draw = random.Random(seed)
    ends = ["", "", "s", "ing", "ed"]
    return [
        [" ".join(draw.choice(WORDS) + draw.choice(ends) for _ in range(draw.randint(2, 9))) + " ."
         for _ in range(draw.randint(3, 12))] for _ in range(n)
    ]  # fmt: skip


def written(path: Path, documents: list[list[str]]) -> Path:
    """A text file with an empty line between documents."""
    path.write_text("\n\n".join("\n".join(document) for document in documents) + "\n")
    return path


def world(home: Path) -> Path:
    """The directory, filled."""
    small.world(home)
    rows = [line.rsplit(",", 1)[0] + "\n" for line in (home / "pairs.csv").open()]
    (home / "positives.csv").write_text("".join(rows))
    with (home / "words.jsonl").open("w") as file, (home / "labels.jsonl").open("w") as labels:
        for text, label in small.sentences(24, seed=5):
            words, start = text.split(), text.rindex(" ") + 1 if " " in text else 0
            row = {"tokens": words, "tags": [word[0] for word in words], "question": label,
                   "context": text, "answer": text[start:], "start": start}  # fmt: skip
            file.write(json.dumps(row) + "\n")
            row = {"text": text, "labels": [label] * (len(text) > 20) + ["film"] * ("film" in text)}
            labels.write(json.dumps(row) + "\n")
    texts = [text for text, _ in small.sentences(160, seed=3)]
    (home / "texts.txt").write_text("\n".join([*texts, texts[0], ""]))
    (home / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    written(home / "text.txt", some_documents())
    written(home / "other.txt", some_documents(6, seed=1))
    return home


def finetune_settings(world: Path, task: str = "classify", **changes: object) -> Settings:
    """Ten steps of a task."""
    train, dev = {
        "classify": ("train.tsv", "dev.tsv"), "contrastive": ("positives.csv",) * 2,
        "mlm": ("train.tsv", "dev.tsv"), "multilabel": ("labels.jsonl",) * 2,
        "tokens": ("words.jsonl",) * 2, "qa": ("words.jsonl",) * 2,
    }.get(task, ("pairs.csv", "general.csv"))  # fmt: skip
    values = {"train": train, "dev": dev, "base": "base", "lr": 1e-3, "max_length": 40,
              "batch_size": 8, "epochs": 2, "device": "cpu", **changes}  # fmt: skip
    if task == "mlm":
        values["columns"] = {"text": "text"}
    for name in ("train", "dev", "base", "keep", "replay"):
        values[name] = values.get(name) and str(world / values[name])
    return Settings(task=task, **values)


def distil_settings(world: Path, **changes: object) -> DistilSettings:
    """Twenty steps of a student of one layer."""
    values = {"texts": ("texts.txt",), "teacher": "base", "layers": 1, "vocabulary": 40,
              "batch_size": 16, "lr": 3e-3, "epochs": 2, "evaluate_every": 4, "device": "cpu",
              "scored": "general.csv", "vectors": str(world / "v.safetensors"), **changes}
    values["texts"] = tuple(str(world / name) for name in values["texts"])
    for name in ("teacher", "scored"):
        values[name] = values[name] and str(world / values[name])
    return DistilSettings(**values)


def pretrain_settings(world: Path, **changes: object) -> PretrainSettings:
    """Twelve steps."""
    values = {
        "texts": (str(world / "text.txt"),), "vocabulary": str(world / "vocab.txt"),
        "held_out": (str(world / "other.txt"),), "size": "1x64", "max_length": 24, "steps": 12,
        "every": 5, "batch_size": 8, "device": "cpu", "lr": 1e-3,
    }  # fmt: skip
    return PretrainSettings(**{**values, **changes})
