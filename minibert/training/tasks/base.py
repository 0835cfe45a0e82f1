"""`Task`: what is learnt. A task is data + a head + a loss + a metric."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from minibert import batching
from minibert.batching import make_batches
from minibert.config import BertConfig
from minibert.io.directory import ModelDirectory
from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training.data import Example

FAILED = "the run has failed"  # in a remark; see `failures`
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
        inputs, truth: the columns of a row of data, keys of ``data.columns.NAMES``: the inputs of
            the model, and the labels; "?" at the end = optional.
        sides: the texts of an example that stand in one row, for each of its rows.
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
    sides: ClassVar[tuple[tuple[str, ...], ...]] = (("text", "pair"),)
    best: ClassVar[str]
    head: ClassVar[type[nn.Module]]
    library: ClassVar[str] = "transformers"
    pipeline: ClassVar[str] = "text-classification"
    target_dtype: ClassVar[torch.dtype] = torch.float64
    config: ClassVar[dict] = {}

    # ------------------------------------------------------------------ what every task must say

    @abstractmethod
    def criterion(self, outputs: Tensor, batch: dict) -> Tensor:
        """The loss, a SUM over what `weight` counts."""

    @abstractmethod
    def decode(self, outputs: Tensor, batch: dict) -> list:
        """A prediction for each of the B examples, in numpy or plain Python."""

    @abstractmethod
    def measure(self, predictions: Sequence, features: Sequence[Feature]) -> dict[str, float]:
        """The metrics, computed once, from all predictions."""

    @abstractmethod
    def answer(self, prediction: Any, example: Example) -> dict[str, Any]:
        """A prediction for an example, as a person reads it: name → value."""

    # ------------------------------------------------------------------- what most tasks inherit

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """The columns of a row of training data: inputs, then labels."""
        return cls.inputs + cls.truth

    @classmethod
    def inputs_in_use(cls) -> tuple[str, ...]:
        """The columns of a row when the model is used: its inputs."""
        return cls.inputs

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
    def length_for(cls, base: ModelDirectory) -> int:
        """The maximum length where none was asked for: the task's, or the model's if less."""
        return min(cls.max_length, BertConfig.from_pretrained(base).max_position_embeddings)

    @classmethod
    def start(cls, base: ModelDirectory, settings: Any, train: Sequence[Example]) -> Started:
        """The task, and the model to train for it: a base model under a new head."""
        options = {"max_length": settings.max_length or cls.length_for(base)}
        options |= cls.options(settings, train)
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
        model.config = model.config.replace(**self.config)
        model.save_pretrained(directory)
        self.tokenizer.model_max_length = self.max_length
        self.tokenizer.save_pretrained(directory)

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Token ids and targets, computed once. Warns if inputs were truncated, and how many.

        Raises:
            ValueError: a target that cannot be; the message names the file and the line.
        """
        batches = []
        for side in self.sides:
            if side[0] in examples[0].values:  # a hard negative may be missing
                texts = [[example.values.get(name) for example in examples] for name in side]
                batches.append(self.tokenizer.encode_batch(*texts, max_length=self.max_length))
        lengths = [length for batch in batches for length in batch.lengths]
        self.warn_truncated(
            [length > self.max_length for length in lengths],
            f"inputs (of up to {max(lengths, default=0)} tokens) were truncated to",
        )
        rows = zip(*(batch.ids for batch in batches), strict=True)
        types = zip(*(batch.type_ids for batch in batches), strict=True)
        return [
            Feature(list(row), list(kinds), target)
            for row, kinds, target in zip(rows, types, self.targets(examples), strict=True)
        ]

    def targets(self, examples: Sequence[Example]) -> Sequence:
        """What is to be predicted for every example; None where the truth is not known."""
        return [None] * len(examples)

    def collate(self, features: Sequence[Feature], seeds: Sequence | None = None) -> dict:
        """A batch: ``inputs`` of the model, (R, T) each, and ``targets``, (B, ...) or None.

        ``seeds``: one for each example, for tasks that draw: what is drawn then depends neither on
        the other examples of the batch nor on the number of processes. None = new ones each time.
        """
        targets = [feature.target for feature in features]
        known = targets[0] is not None
        return {
            "inputs": self.pad(features),
            "targets": torch.tensor(targets, dtype=self.target_dtype) if known else None,
        }

    def outputs(self, model: nn.Module, batch: dict) -> Tensor:
        """What the model says about a batch: logits, (B, ..., C); or cosines, or vectors."""
        return model(**batch["inputs"]).logits

    def weight(self, batch: dict) -> float:
        """How many things the loss is summed over: examples, or tokens that count."""
        return len(batch["targets"])

    def loss(self, model: nn.Module, batch: dict) -> Tensor:
        """The mean loss of a model on a batch, as the loop takes it."""
        return self.criterion(self.outputs(model, batch), batch) / self.weight(batch)

    def calibrate(self, predictions: Sequence, features: Sequence[Feature]) -> None:
        """Choose on development data what was not learnt: a threshold, say."""
        return

    def remarks(self, measures: dict[str, float]) -> list[str]:
        """Warnings about the metrics of a finished run."""
        return []

    def tables(self, predictions: Sequence, features: Sequence[Feature]) -> dict[str, str]:
        """Files for the run directory that show more than numbers do: name → content."""
        return {}

    def predict(
        self, model: nn.Module, features: Sequence[Feature], *, batch_tokens: int = 4096,
        numbers: bool = False,
    ) -> tuple[list, float | None]:  # fmt: skip
        """A prediction for every feature, in their order, and the mean loss (None without targets).

        Dropout is off and no gradients are kept; the model comes back in the mode it was in.

        Raises:
            ValueError: with ``numbers``, the model gives NaN.
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
                    parts = outputs if isinstance(outputs, tuple) else (outputs,)
                    if numbers and any(part.isnan().any() for part in parts):
                        raise ValueError(
                            f"the model gives NaN for inputs {sorted(members)[:5]}: its weights "
                            "are damaged, or training diverged; take its last good checkpoint"
                        )
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
        predictions, loss = self.predict(model, features, numbers=True)
        return {"loss": loss, **self.measure(predictions, features)}

    # --------------------------------------------------------------------------- tools for these

    def warn_truncated(self, cut: Sequence[bool], what: str = "inputs were truncated to") -> None:
        """Warn if anything was cut off, and say how often."""
        if any(cut):
            warnings.warn(
                f"{sum(cut)} of {len(cut)} {what} {self.max_length} tokens; pass a larger "
                "max_length",
                stacklevel=4,
            )

    def pad(self, features: Sequence[Feature]) -> dict[str, Tensor | None]:
        """The inputs of the model, (R, T) each: all first rows, then all second rows, and so on.

        The sides of a pair thus go through the model in one pass. Without padding there is no mask.
        """
        rows = [row for side in zip(*(f.rows for f in features), strict=True) for row in side]
        types = [row for side in zip(*(f.types for f in features), strict=True) for row in side]
        inputs = self.tokenizer.pad(rows, types)
        if min(map(len, rows)) == max(map(len, rows)):
            inputs["attention_mask"] = None
        return inputs


def failures(result: Mapping) -> list[str]:
    """The remarks in the result of a run that say that it has failed."""
    return [remark for remark in result.get("remarks", ()) if FAILED in remark]


def to_device(value: Any, device: torch.device | str) -> Any:
    """A batch with all its tensors on a device."""
    if isinstance(value, dict):
        return {key: to_device(entry, device) for key, entry in value.items()}
    return batching.to_device(value, device) if isinstance(value, Tensor) else value
