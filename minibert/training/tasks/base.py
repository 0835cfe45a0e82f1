"""`Task`: what is learnt. A task is data + a head + a loss + a metric.

Two tasks of one kind share a class here: `ClassTask` has named classes, `BiEncoder` turns every
text into a vector of its own.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.batching import make_batches
from minibert.config import BertConfig
from minibert.io.directory import ModelDirectory
from minibert.model import BertModel
from minibert.pooling import POOLING
from minibert.sentence_encoder import SentenceEncoder
from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training import metrics
from minibert.training.data import Example, scaled_score, score_scale

FAILED = "the run has failed"  # in a remark; the command line looks for it
Started = tuple["Task", nn.Module]


class Feature(NamedTuple):
    """An example as the model takes it: rows of ids (two for a bi-encoder), and the target."""

    rows: list[list[int]]
    types: list[list[int]]
    target: Any = None
    extra: Any = None  # what decoding needs besides

    @property
    def length(self) -> int:
        """Tokens of the longest row: what a batch is padded to."""
        return max(map(len, self.rows))


@dataclass(eq=False)
class Task(ABC):
    """What is learnt, and how it is measured.

    Examples become features once (`encode`), features become a batch in every step (`collate`), and
    the model gives `outputs`. For training these have a loss (`criterion`). For use they become
    predictions (`decode`), which are measured (`measure`) or shown to a person (`answer`).

    Shapes: B examples in a batch; R rows of T tokens: R = B, or B times the number of sides in a
    bi-encoder; C classes.

    Attributes:
        tokenizer: that of the model.
        max_length: maximum tokens of an input, special tokens included.
        inputs, truth: the columns of a row of data, keys of ``data.NAMES``: the inputs of
            the model, and the labels; "?" at the end = optional.
        best: the metric that decides which checkpoint is the best one; higher is better.
        head: the class of the model.
        library, pipeline: what the model card says.
        target_dtype: of the targets in a batch.
        config: what the config of the model must say.
    """

    tokenizer: BertTokenizer
    max_length: int = field(default=128, kw_only=True)

    inputs: ClassVar[tuple[str, ...]]
    truth: ClassVar[tuple[str, ...]] = ()
    best: ClassVar[str]
    head: ClassVar[type[nn.Module]]
    library: ClassVar[str] = "transformers"
    pipeline: ClassVar[str] = "text-classification"
    target_dtype: ClassVar[torch.dtype] = torch.float64
    config: ClassVar[dict] = {}

    # ------------------------------------------------------------------ what every task must say

    @abstractmethod
    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids and targets, computed once. Without the truth a target is None.

        Raises:
            ValueError: a target that cannot be; the message names the file and the line.
        """

    @abstractmethod
    def criterion(self, outputs: Tensor, batch: dict) -> Tensor:
        """The loss, a SUM over what `weight` counts: the loop divides by the weight of a step."""

    @abstractmethod
    def decode(self, outputs: Tensor, batch: dict) -> list:
        """A prediction for each of the B examples, in numpy or plain Python."""

    @abstractmethod
    def measure(self, predictions: Sequence, features: Sequence[Feature]) -> dict[str, float]:
        """The metrics, computed once, from all predictions."""

    @abstractmethod
    def answer(self, prediction: Any) -> dict[str, Any]:
        """A prediction as a person reads it: name → value."""

    # ------------------------------------------------------------------- what most tasks inherit

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """The columns of a row of training data: inputs, then labels."""
        return cls.inputs + cls.truth

    @classmethod
    def options(cls, settings: Any, train: Sequence[Example]) -> dict:
        """Arguments of the class that come from the settings and the training data."""
        return {}

    @classmethod
    def options_in(cls, config: BertConfig) -> dict:
        """Arguments of the class that come from the config of a fine-tuned model."""
        return {}

    @classmethod
    def fits(cls, config: BertConfig) -> bool:
        """Whether a model with this config was fine-tuned for this task."""
        return (config.extra.get("architectures") or [None])[0] == cls.head.__name__

    @classmethod
    def start(cls, base: ModelDirectory, settings: Any, train: Sequence[Example]) -> Started:
        """The task, and the model to train for it: a base model under a new head."""
        options = {"max_length": settings.max_length, **cls.options(settings, train)}
        task = cls(BertTokenizer.from_pretrained(base), **options)
        return task, cls.head.from_pretrained(base, **task.config)

    @classmethod
    def load(cls, directory: ModelDirectory, config: BertConfig) -> Started:
        """The task and the model of a directory that a fine-tuning has written."""
        tokenizer = BertTokenizer.from_pretrained(directory)
        positions = config.max_position_embeddings
        length = min(tokenizer.model_max_length or positions, positions)
        task = cls(tokenizer, max_length=length, **cls.options_in(config))
        return task, cls.head.from_pretrained(directory)

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write what `load` reads."""
        model.save_pretrained(directory)
        self.tokenizer.model_max_length = self.max_length
        self.tokenizer.save_pretrained(directory)

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """A batch: ``inputs`` of the model, (R, T) each, and ``targets``, (B, ...) or None.

        ``seeds``: one for each example, for tasks that draw: what is drawn then depends neither on
        the other examples of the batch nor on the number of processes. None = new ones each time.
        """
        return {"inputs": self.pad(features), "targets": self.targets(features)}

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """What the model says about a batch: logits, (B, ..., C); or cosines, or vectors."""
        return model(**batch["inputs"]).logits

    def weight(self, batch: dict) -> float:
        """How many things the loss is summed over: examples, or tokens that count."""
        return len(batch["targets"])

    def loss(self, model: nn.Module, batch: dict) -> Tensor:
        """The summed loss of a model on a batch, as the loop takes it."""
        return self.criterion(self.outputs(model, batch), batch)

    def remarks(self, measures: dict[str, float]) -> list[str]:
        """Warnings about the metrics of a finished run."""
        return []

    def tables(self, predictions: Sequence, features: Sequence[Feature]) -> dict[str, str]:
        """Files for the run directory that show more than numbers do: name → content."""
        return {}

    def predict(
        self, model: nn.Module, features: Sequence[Feature], *, batch_tokens: int = 4096
    ) -> tuple[list, float | None]:
        """A prediction for every feature, in their order, and the mean loss (None without targets).

        Dropout is off and no gradients are kept; the model comes back in the mode it was in.
        """
        training, device = model.training, next(model.parameters()).device
        sizes = [feature.length * len(feature.rows) for feature in features]
        predictions: list = [None] * len(features)
        total = count = 0.0
        model.eval()
        try:
            with torch.inference_mode():
                for members in make_batches(sizes, tokens=batch_tokens):
                    seeds = [(0, 0, i) for i in members]
                    batch = to_device(self.collate([features[i] for i in members], seeds), device)
                    outputs = self.outputs(model, batch)
                    for i, prediction in zip(members, self.decode(outputs, batch), strict=True):
                        predictions[i] = prediction
                    if batch["targets"] is not None:
                        total += self.criterion(outputs, batch).item()
                        count += self.weight(batch)
        finally:
            model.train(training)
        return predictions, total / count if count else None

    def evaluate(self, model: nn.Module, features: Sequence[Feature]) -> dict[str, float]:
        """The loss and the metrics of a model on some data."""
        predictions, loss = self.predict(model, features)
        return {"loss": loss, **self.measure(predictions, features)}

    # --------------------------------------------------------------------------- tools for these

    def features(self, examples: Sequence[Example], targets: Sequence) -> list[Feature]:
        """Features of one row each: [CLS] text [SEP], or [CLS] text [SEP] pair [SEP]."""
        texts = [example.values["text"] for example in examples]
        pairs = [example.values.get("pair") for example in examples]
        rows, types = self.tokenise([texts, pairs])
        return [Feature(*feature) for feature in zip(rows, types, targets, strict=True)]

    def tokenise(
        self, columns: Sequence[Sequence[str]], together: bool = True
    ) -> tuple[list, list]:
        """Rows and segment ids for every example: one row for all its texts, or a row for each.

        Warns once that texts were cut, and says how many.
        """
        columns = [columns] if together else [[column] for column in columns]
        batches = [self.tokenizer.encode_batch(*c, max_length=self.max_length) for c in columns]
        cut = sum(batch.truncated for batch in batches)
        if cut:
            longest = max(max(batch.lengths) for batch in batches)
            warnings.warn(
                f"{cut} of {sum(len(batch.ids) for batch in batches)} inputs have more than "
                f"{self.max_length} tokens (up to {longest}) and were cut; pass a larger "
                "max_length",
                stacklevel=4,
            )
        rows = [list(sides) for sides in zip(*(batch.ids for batch in batches), strict=True)]
        types = [list(sides) for sides in zip(*(batch.type_ids for batch in batches), strict=True)]
        return rows, types

    def pad(self, features: Sequence[Feature]) -> dict[str, Tensor | None]:
        """The inputs of the model, (R, T) each: all first rows, then all second rows, and so on.

        The sides of a pair thus go through the model in one pass. Without padding there is no mask.
        """
        sides = range(len(features[0].rows))
        rows = [feature.rows[side] for side in sides for feature in features]
        types = [feature.types[side] for side in sides for feature in features]
        inputs = self.tokenizer.pad(rows, types)
        if min(map(len, rows)) == max(map(len, rows)):
            inputs["attention_mask"] = None
        return inputs

    def targets(self, features: Sequence[Feature]) -> Tensor | None:
        """The targets as a tensor, (B, ...); None where the truth is not known."""
        if features[0].target is None:
            return None
        return torch.tensor([feature.target for feature in features], dtype=self.target_dtype)


def to_device(value: Any, device: torch.device | str) -> Any:
    """A batch with all its tensors on a device."""
    if isinstance(value, dict):
        return {key: to_device(entry, device) for key, entry in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


# ------------------------------------------------------------------------------ tasks of one kind


@dataclass(eq=False)
class ClassTask(Task):
    """A task with named classes; ``classes`` are their names in the order of their numbers."""

    classes: Sequence[str]
    target_dtype = torch.long

    @property
    def config(self) -> dict:
        """The names of the classes."""
        return {"id2label": dict(enumerate(self.classes))}

    @property
    def numbers(self) -> dict[str, int]:
        """Class → its number."""
        return {name: number for number, name in enumerate(self.classes)}

    @classmethod
    def options_in(cls, config: BertConfig) -> dict:
        """The classes."""
        return {"classes": list(config.id2label.values())}

    def measure_classes(self, labels: np.ndarray, guesses: np.ndarray) -> dict[str, float]:
        """Accuracy, macro-F1, and how many classes were predicted at all; numbers, (n,) each."""
        classes = range(len(self.classes))
        return {
            "accuracy": metrics.accuracy(labels, guesses),
            "macro_f1": metrics.precision_recall_f1(labels, guesses, "macro", classes)[2],
            "predicted_classes": len(set(guesses.tolist())),
        }

    def remarks(self, measures: dict[str, float]) -> list[str]:
        """Whether one class was predicted for everything."""
        if len(self.classes) == 1 or measures["predicted_classes"] > 1:
            return []
        return [
            f"every text was given the same class: {FAILED}. Another seed, more steps, a longer "
            "warm-up or --recipe small usually help"
        ]


@dataclass(eq=False)
class ScoreTask(Task):
    """A task with a score for each pair of texts, learnt on 0 to 1 by the squared error.

    ``scale`` is that of the scores in the data; None = the narrowest usual one that holds them.
    """

    scale: tuple[float, float] | None = None
    inputs, truth = ("text", "pair"), ("score",)
    best = "spearman"

    @classmethod
    def options(cls, settings: Any, train: Sequence[Example]) -> dict:
        """The scale of the scores."""
        return {"scale": settings.scale or score_scale(train)}

    def scores(self, examples: Sequence[Example]) -> list[float | None]:
        """The score of every example, brought to 0 to 1; None where there is none."""
        if any(example.values.get("score") is None for example in examples):
            return [None] * len(examples)
        scale = self.scale or score_scale(examples)
        return [scaled_score(example, scale) for example in examples]

    def criterion(self, outputs: Tensor, batch: dict) -> Tensor:
        """The squared error, summed."""
        return F.mse_loss(outputs, batch["targets"].to(outputs), reduction="sum")

    def decode(self, outputs: Tensor, batch: dict) -> list[float]:
        """The scores."""
        return outputs.float().tolist()

    def measure(self, predictions: Sequence[float], features: Sequence[Feature]) -> dict:
        """Spearman's and Pearson's correlation with the true scores, and the squared error."""
        targets = [feature.target for feature in features]
        return {
            "spearman": metrics.spearman(targets, predictions),
            "pearson": metrics.pearson(targets, predictions),
            "mse": metrics.mean_squared_error(targets, predictions),
        }

    def answer(self, score: float) -> dict:
        """The score, 0 to 1; of a bi-encoder the cosine."""
        return {"score": score}


@dataclass(eq=False)
class BiEncoder(Task):
    """A task without a head: texts become vectors, each for itself, and vectors are compared.

    The result of a fine-tuning is a sentence encoder. ``pooling``: how hidden states become a
    vector, names in ``pooling.POOLING``; ``encoder``: what is saved, with its prompts and so on.
    """

    pooling: Sequence[str] = field(default=("mean",), kw_only=True)
    encoder: SentenceEncoder | None = field(default=None, kw_only=True)
    head = BertModel
    library, pipeline = "sentence-transformers", "sentence-similarity"

    @classmethod
    def fits(cls, config: BertConfig) -> bool:
        """A sentence encoder is known by its modules.json, not by its config."""
        return False

    @classmethod
    def start(cls, base: ModelDirectory, settings: Any, train: Sequence[Example]) -> Started:
        """The task and the model of a sentence encoder."""
        return cls.load(base, max_length=settings.max_length, **cls.options(settings, train))

    @classmethod
    def load(cls, directory: ModelDirectory, config: Any = None, **options: Any) -> Started:
        """The task and the model of a sentence encoder."""
        encoder = SentenceEncoder.from_pretrained(directory, device="cpu", engine="textbook")
        options = {"max_length": encoder.max_length, "pooling": encoder.pooling, **options}
        return cls(encoder.tokenizer, encoder=encoder, **options), encoder.model

    def save(self, model: nn.Module, directory: Path) -> None:
        """Write a directory of sentence-transformers."""
        self.encoder.save_pretrained(directory)

    def sides(
        self, examples: Sequence[Example], names: Sequence[str], targets: Sequence
    ) -> list[Feature]:
        """Features with a row for each text."""
        columns = [[example.values[name] for example in examples] for name in names]
        rows, types = self.tokenise(columns, together=False)
        return [Feature(*feature) for feature in zip(rows, types, targets, strict=True)]

    def embed(self, model: nn.Module, inputs: dict) -> Tensor:
        """The pooled vectors of rows of tokens, not normalised, (R, H)."""
        hidden = model(**inputs).last_hidden_state  # (R, T, H)
        vectors = [POOLING[name](hidden, inputs["attention_mask"]) for name in self.pooling]
        return torch.cat(vectors, dim=-1)
