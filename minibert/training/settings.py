"""`Settings`: everything a fine-tuning can be asked for, in one place.

The command line makes its options of these fields, and a run writes them beside its result.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minibert.io.hub import DEFAULT_MODEL, OFFICIAL_MODEL
from minibert.training.tasks import TASKS

CHOICES = {
    "task": tuple(TASKS),
    "schedule": ("linear", "cosine", "constant"),
    "optimizer": ("adamw", "adam", "sgd"),
    "objective": ("cosine", "cosent"),
    "class_weights": (None, "balanced"),
    "recipe": ("auto", "plain", "small"),
}
MOST = 2**32 - 1  # that a seed can be
LITTLE = 1000  # with fewer examples "auto" takes the small recipe
# For the help of the command line: the field that begins each group.
GROUPS = {
    "dev": "data and objective",
    "epochs": "training",
    "freeze": "which weights may change, and how far",
    "device": "hardware",
}
FILES = ("dev", "test", "keep", "replay")
READING = ("columns", "header", "delimiter", "skip_incomplete")


def setting(default: Any, text: str, low: float = -math.inf, high: float = math.inf) -> Any:
    """A field with a default, what it means, and the values that are allowed."""
    return dataclasses.field(default=default, metadata={"help": text, "low": low, "high": high})


class Checked:
    """What all settings have: a dataclass that refuses values which cannot be."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for field in dataclasses.fields(self):
            value, kinds = getattr(self, field.name), field.type.split(" | ")
            if type(value) is bool and "bool" not in kinds or not isinstance(value, types(kinds)):
                allowed, kind = " or ".join(kinds), type(value).__name__
                raise TypeError(f"{field.name} is {value!r} ({kind}); {allowed} is allowed")
            if value == "":  # of a variable of the shell, say, that is not set
                raise ValueError(f"{field.name} is ''; give a value, or leave it out")
            allowed = CHOICES.get(field.name, (value,))
            if value not in allowed:
                raise ValueError(f"{field.name} is {value!r}; one of {list(allowed)}")
            low, high = field.metadata.get("low", -math.inf), field.metadata.get("high", math.inf)
            if isinstance(value, (int, float)) and not low <= value <= high:
                limits = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
                raise ValueError(f"{field.name} is {value}; {limits} is allowed")

    def replace(self, **changes: object) -> Checked:
        """A copy with some values changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class Settings(Checked):
    """What a fine-tuning is asked for. The fields explain themselves; data files: ``data.read``.

    Raises:
        TypeError, ValueError: a value that is not possible; the message says what is.
    """

    task: str
    train: str
    dev: str | None = setting(None, "development data; without it a tenth of TRAIN is set aside")
    test: str | None = setting(None, "test data, measured before and after the training")
    keep: str | None = setting(None, "scored pairs of general texts, to measure forgetting")
    base: str = setting(DEFAULT_MODEL, "pre-trained model: a directory or a name on the hub")
    columns: dict[str, str] | None = None  # role → column
    header: bool | None = None  # whether the first row has the names; None = found out
    delimiter: str | None = None  # between the columns of a csv; None = found out
    skip_incomplete: bool = False  # leave out rows that cannot be used
    scale: tuple[float, float] | None = None  # of the scores; None = the narrowest usual one
    max_length: int | None = setting(
        None, "maximum tokens in an input; longer ones are truncated (default 128, qa 384)", 1
    )
    doc_stride: int = setting(128, "qa: tokens from one window of a long context to the next", 1)
    objective: str = setting("cosine", "loss of `similarity`: MSE of the cosine, or CoSENT")
    label_smoothing: float = setting(0.0, "label smoothing of `classify`", 0, 1)
    class_weights: str | None = setting(None, "balanced: weight classes by inverse frequency")

    recipe: str = setting(
        "auto",
        "small, for a few hundred examples: at least 400 steps, a higher learning rate and, below "
        "a new head, a freshly initialised pooler; plain: 3 epochs at 2e-5; auto: small below "
        f"{LITTLE} examples if neither a rate nor epochs nor steps are given",
    )
    epochs: int | None = setting(None, "passes over the training data (default: the recipe's)", 1)
    steps: int | None = setting(None, "optimizer steps, instead of epochs", 1)
    batch_size: int = setting(16, "examples in a batch", 1)
    batch_tokens: int | None = setting(None, "tokens in a batch, instead of a batch size", 1)
    shuffle: bool = setting(
        False, "batches as they are drawn; else examples of similar length stand together: faster"
    )
    accumulate: int = setting(1, "gradient accumulation: batches in a step", 1)
    lr: float | None = setting(None, "peak learning rate (default: the recipe's)", 1e-12)
    schedule: str = setting("linear", "learning rate after the warm-up")
    warmup: float = setting(0.1, "share of the steps that are warm-up", 0, 1)
    optimizer: str = setting("adamw", "optimizer")
    decay: float = setting(0.01, "weight decay of matrices; biases and LayerNorms have none", 0)
    clip: float = setting(1.0, "maximum gradient norm", 1e-12)
    dropout: float | None = setting(None, "dropout, instead of the model's own", 0, 1)
    seed: int = setting(0, "random seed", 0, MOST)
    patience: int | None = setting(None, "early stopping: epochs without improvement", 1)
    checkpoint_every: int = setting(200, "steps between checkpoints", 1)
    tensorboard: bool = setting(False, "write event files for TensorBoard into OUT/run, too")

    freeze: str | int | None = setting(None, "embeddings, encoder, or how many layers to freeze")
    reinit: int | None = setting(None, "re-initialise the pooler and this many top layers", 0)
    layer_decay: float = setting(1.0, "learning rate of a layer relative to the one above", 0, 1)
    lora: int | None = setting(None, "LoRA rank; the rest of the encoder is frozen", 1, 1024)
    pull: float = setting(0.0, "L2-SP: strength of the pull back to the pre-trained weights", 0)
    replay: str | None = setting(None, "general examples of the same task, mixed in")
    replay_share: float = setting(0.5, "how many of them for each example of TRAIN", 0, 1000)

    device: str = setting("auto", "cpu, cuda or mps; auto takes the best available")
    autocast: bool = setting(False, "mixed precision: bfloat16 matrix products")

    @property
    def files(self) -> dict[str, str]:
        """The data files: name of the setting → file."""
        return {name: path for name in ("train", *FILES) if (path := getattr(self, name))}

    @property
    def reading(self) -> dict[str, Any]:
        """How the data files are read: arguments of ``data.read``."""
        return {name: getattr(self, name) for name in READING}


@dataclass(frozen=True)
class DistilSettings(Checked):
    """What a distillation is asked for."""

    texts: tuple[str, ...] = ()
    teacher: str = setting(OFFICIAL_MODEL, "sentence encoder: a directory or a hub name")
    layers: int | str = setting(
        3, "layers of the student: how many, spread evenly over the teacher's, or which: 0,2,5"
    )
    vocabulary: int | None = setting(
        None, "tokens that stay, the most frequent in the texts (default: all)", 1
    )
    from_nothing: bool = setting(False, "begin with random weights, not with the teacher's")
    similarities: float = setting(
        1.0, "weight of the similarities inside a batch; 0: learn the vectors alone", 0
    )
    max_length: int = setting(128, "maximum tokens of a text while learning", 3)
    scored: str | None = setting(None, "scored pairs to measure on: two texts and a score a row")
    vectors: str | None = setting(
        None, "where the teacher's vectors are kept (default: OUT-vectors.safetensors)"
    )
    half: bool = setting(False, "store the weights as float16: half the size")

    epochs: int = setting(1, "passes over the texts", 1)
    steps: int | None = setting(None, "optimizer steps, instead of epochs", 1)
    batch_size: int = setting(64, "texts in a batch", 2)
    batch_tokens: int | None = setting(None, "tokens in a batch, if that is fewer texts", 1)
    accumulate: int = setting(1, "gradient accumulation: batches in a step", 1)
    lr: float = setting(3e-4, "peak learning rate", 1e-12)
    schedule: str = setting("linear", "learning rate after the warm-up")
    warmup: float = setting(0.05, "share of the steps that are warm-up", 0, 1)
    optimizer: str = setting("adamw", "optimizer")
    decay: float = setting(0.01, "weight decay of matrices; biases and LayerNorms have none", 0)
    clip: float = setting(1.0, "maximum gradient norm", 1e-12)
    dropout: float = setting(0.0, "dropout while learning", 0, 1)
    seed: int = setting(0, "random seed", 0, MOST)
    evaluate_every: int = setting(500, "steps between evaluations", 1)
    checkpoint_every: int = setting(500, "steps between checkpoints", 1)
    tensorboard: bool = setting(False, "write event files for TensorBoard into OUT/run, too")

    device: str = setting("auto", "cpu, cuda or mps; auto takes the best available")
    autocast: bool = setting(False, "mixed precision: bfloat16 matrix products")


def types(names: Sequence[str]) -> tuple[type, ...]:
    """The types that a value may have, for those in an annotation."""
    kinds = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,), "dict": (dict,),
             "tuple": (tuple, list), "None": (type(None),)}  # fmt: skip
    return tuple(kind for name in names for kind in kinds[name.split("[")[0]])


def with_recipe(settings: Settings, examples: int, width: int) -> Settings:
    """The settings with all that the recipe decides; what was asked for stays as it is.

    Args:
        examples: of the training data.
        width: H of the model.
    """
    asked = (settings.lr, settings.epochs, settings.steps) != (None, None, None)
    recipe = settings.recipe
    if recipe == "auto":
        recipe = "small" if examples < LITTLE and not asked else "plain"
    epochs, lr, reinit = small(settings, examples, width) if recipe == "small" else PLAIN
    return settings.replace(
        recipe=recipe,
        epochs=settings.epochs or epochs,
        lr=settings.lr or lr,
        reinit=reinit if settings.reinit is None else settings.reinit,
    )


PLAIN = 3, 2e-5, None  # epochs, learning rate, what begins anew


def small(settings: Settings, examples: int, width: int) -> tuple[int, float, int | None]:
    """The recipe for little data: enough steps, a higher learning rate, a fresh pooler.

    Steps, not epochs, are what a run on little data lacks: at least 400 of them, but no example
    more than 40 times. A wide model takes smaller ones than a narrow one: 1e-4 at H = 384, half of
    it at 768. A pooler begins anew only below a new head that reads it: a sentence encoder keeps
    what it knows, and learns half as fast.

    Source: Mosbach 2021 (2006.04884), §6; Zhang 2021 (2006.05987), §4 to §6; Yang 2022
    (2203.03466), table 3 (width). The numbers were chosen on development data of seven small sets:
    notebooks/little_data.md.
    """
    per_epoch = math.ceil(examples / (settings.batch_size * settings.accumulate))
    epochs = max(3, min(40, math.ceil(400 / per_epoch)))
    fresh = settings.task in ("classify", "multilabel", "regression")
    lr = max(2e-5, (1e-4 if fresh or settings.task in ("tokens", "qa") else 5e-5) * 384 / width)
    return epochs, lr, 0 if fresh else None
