"""`Settings`: everything a fine-tuning can be asked for, in one place.

The command line makes its options of these fields, and a run writes them beside its result.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from minibert.io.hub import DEFAULT_MODEL

TASKS = ("classify", "regression", "similarity", "contrastive", "mlm", "tokens", "qa")
CHOICES = {
    "task": TASKS,
    "schedule": ("linear", "cosine", "constant"),
    "optimizer": ("adamw", "adam", "sgd"),
    "objective": ("cosine", "cosent"),
    "class_weights": (None, "balanced"),
}
# For the help of the command line: the field that begins each group.
GROUPS = {
    "dev": "data and what is learnt",
    "epochs": "how long, how fast",
    "freeze": "how much of the model may change",
    "device": "the machine",
}
FILES = ("dev", "test", "keep", "replay")


def setting(default: Any, text: str) -> Any:
    """A field with a default and what it means."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """What a fine-tuning is asked for. The fields explain themselves; data files: ``data.read``.

    Raises:
        ValueError: a value that is not possible; the message says what is.
    """

    task: str
    train: str
    dev: str | None = setting(None, "development data; without it a tenth of TRAIN is set aside")
    test: str | None = setting(None, "test data, measured once, at the end")
    keep: str | None = setting(None, "general scored pairs: shows what is forgotten meanwhile")
    base: str = setting(DEFAULT_MODEL, "the model to begin with: a directory or a hub name")
    columns: dict[str, str] | None = None  # role → column
    scale: tuple[float, float] | None = None  # of the scores; None = the narrowest usual one
    max_length: int = setting(128, "tokens of an input; what is longer is cut, and counted")
    objective: str = setting("cosine", "of similarity: squared error of the cosine, or their order")
    label_smoothing: float = setting(0.0, "this much of the truth is spread over all classes")
    class_weights: str | None = setting(None, "balanced: all classes count the same in sum")

    epochs: int = setting(3, "times that all examples are seen")
    steps: int | None = setting(None, "steps of the optimizer, instead of epochs")
    batch_size: int = setting(16, "examples in a micro-batch")
    batch_tokens: int | None = setting(None, "instead: tokens in a micro-batch, with padding")
    accumulate: int = setting(1, "micro-batches in a step")
    lr: float = setting(2e-5, "learning rate at its peak")
    schedule: str = setting("linear", "of the learning rate after the warm-up")
    warmup: float = setting(0.1, "share of the steps in which the learning rate rises from 0")
    optimizer: str = setting("adamw", "of torch, with bias correction")
    decay: float = setting(0.01, "weight decay of matrices; biases and LayerNorms have none")
    clip: float = setting(1.0, "longest gradient of a step")
    dropout: float | None = setting(None, "instead of what the config of the model says")
    seed: int = setting(0, "of everything that chance decides")
    patience: int | None = setting(None, "stop after so many epochs that were no better")
    checkpoint_every: int = setting(200, "steps between checkpoints")

    freeze: str | int | None = setting(None, "embeddings, encoder, or a number: so many layers too")
    reinit: int | None = setting(None, "begin anew with the pooler and so many top layers")
    layer_decay: float = setting(1.0, "learning rate of each layer against the one above")
    lora: int | None = setting(None, "rank of the change of the attention, all else frozen")
    pull: float = setting(0.0, "after each step, towards the start weights by lr times this")
    replay: str | None = setting(None, "general examples of the same task, mixed in")
    replay_share: float = setting(0.5, "so many of them for each example of TRAIN")

    device: str = setting("auto", "cpu, cuda, mps; auto takes the best there is")
    autocast: bool = setting(False, "bfloat16 matrix products; what is saved is float32")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; one of {list(allowed)}")
        whole = ("epochs", "steps", "batch_size", "batch_tokens", "accumulate", "checkpoint_every")
        for name in (*whole, "max_length", "patience", "lora"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        for name, low, high in (
            ("warmup", 0, 1),
            ("label_smoothing", 0, 1),
            ("decay", 0, math.inf),
            ("pull", 0, math.inf),
            ("replay_share", 0, math.inf),
            ("layer_decay", 0, 1),
            ("lr", 1e-12, math.inf),
            ("clip", 1e-12, math.inf),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; {low:g} to {high:g} is allowed")

    def replace(self, **changes: object) -> Settings:
        """A copy with some values changed."""
        return dataclasses.replace(self, **changes)


def small(settings: Settings, examples: int, width: int) -> Settings:
    """The recipe for little data: enough steps, a higher learning rate, a fresh pooler.

    Steps, not epochs, are what a run on little data lacks: at least 200 of them, but no example
    more than 20 times. A wide model takes smaller ones than a narrow one: 1e-4 at H = 384, half of
    it at 768. A pooler begins anew only below a new head: a sentence encoder keeps what it knows,
    and learns half as fast.

    Source: Mosbach 2021 (2006.04884), §6; Zhang 2021 (2006.05987), §4 to §6; Yang 2022
    (2203.03466), table 3 (width). The numbers were chosen on SST-5's development set.
    """
    per_epoch = math.ceil(examples / (settings.batch_size * settings.accumulate))
    epochs = max(settings.epochs, min(20, math.ceil(200 / per_epoch)))
    fresh = settings.task in ("classify", "regression")
    lr = (1e-4 if fresh else 5e-5) * 384 / width
    return settings.replace(
        epochs=epochs, warmup=0.1, lr=max(settings.lr, lr), reinit=0 if fresh else None
    )
