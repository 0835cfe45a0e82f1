"""A fine-tuned model in use: predict, evaluate, blend. Its directory says what it is for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from minibert.config import BertConfig
from minibert.io.directory import open_directory
from minibert.io.files import atomic_directory, write_text
from minibert.model import BertModel
from minibert.sentence_encoder import SentenceEncoder
from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training import data
from minibert.training import plots as report
from minibert.training.adapt import blend, encoder_of
from minibert.training.loop import evaluate, predict
from minibert.training.tasks import (
    Classification,
    MaskedLM,
    PairRegression,
    QuestionAnswering,
    Similarity,
    TokenClassification,
)

HEADS = ("classifier", "qa_outputs")  # what a fine-tuning puts on top, and only a fine-tuning


def load(name_or_path: str | os.PathLike) -> tuple[Any, nn.Module, Callable[[Path], None]]:
    """The task a directory was trained for, its model, and how to save it: (directory) → None.

    Raises:
        ValueError: its head is none that minibert can fine-tune, or the fine-tuning is unfinished.
    """
    run = Path(name_or_path) / "run"
    if (run / "settings.json").exists() and not (run / "metrics.json").exists():
        raise ValueError(
            f"the fine-tuning in {name_or_path} is not finished; go on with it: "
            f"minibert finetune --resume --out {name_or_path}"
        )
    directory = open_directory(name_or_path)
    if directory.has("modules.json"):
        encoder = SentenceEncoder.from_pretrained(directory)
        task = Similarity(
            encoder.tokenizer, pooling=encoder.pooling, max_length=encoder.max_length
        )
        return task, encoder.model, encoder.save_pretrained
    config = BertConfig.from_pretrained(directory)
    tokenizer = BertTokenizer.from_pretrained(directory)
    positions = config.max_position_embeddings
    options = {"max_length": min(tokenizer.model_max_length or positions, positions)}
    classes = list(config.id2label.values())
    name = (config.extra.get("architectures") or ["no head"])[0]
    if name == "BertForSequenceClassification" and len(classes) > 1:
        task = Classification(tokenizer, classes, **options)
    elif name == "BertForSequenceClassification":
        task = PairRegression(tokenizer, **options)
    elif name == "BertForTokenClassification":
        task = TokenClassification(tokenizer, classes, **options)
    elif name == "BertForQuestionAnswering":
        task = QuestionAnswering(tokenizer, **options)
    elif name == "BertForMaskedLM":
        task = MaskedLM(tokenizer, **options)
    else:
        raise ValueError(f"{directory} has {name}; what `minibert finetune` has written is needed")
    model = task.head.from_pretrained(directory)

    def save(target: Path) -> None:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    return task, model, save


def predict_file(
    name_or_path: str | os.PathLike,
    path: str | os.PathLike,
    columns: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict]:
    """What the model says about every row of a file: the texts, and the answer of its task.

    A text may be blank, so that the rows of the answer are those of the file. ``say`` is told what
    was guessed about the columns, and which blank lines of a table were left out.

    Raises:
        ValueError: as ``load`` and ``data.read``; or the model compares, and there is but one text.
    """
    task, model, _ = load(name_or_path)
    truth = ("label", "score", "tags", "answer", "start")  # may stand in the file; is not looked at
    roles = [role + "?" if role in truth else role for role in task.roles]
    try:
        examples = data.read(path, roles, columns, say, blank=True)
    except ValueError:
        need_pairs(name_or_path, task, path, columns)
        raise
    examples = [
        example._replace(values={k: v for k, v in example.values.items() if k not in truth})
        for example in examples
    ]
    predictions, _ = predict(model, task, task.encode(examples))
    return [
        {**example.values, **task.answer(prediction)}
        for example, prediction in zip(examples, predictions, strict=True)
    ]


def need_pairs(
    name_or_path: str | os.PathLike,
    task: Any,
    path: str | os.PathLike,
    columns: Mapping[str, str] | None,
) -> None:
    """Say that a file has one text in a row where the model compares two, if that is its fault.

    Raises:
        ValueError: it is.
    """
    if not isinstance(task, Similarity):
        return
    try:
        pairs = "pair" in data.read(path, ("text", "pair?"), columns, blank=True)[0].values
    except ValueError:  # another fault, with a message of its own
        return
    if not pairs:
        raise ValueError(
            f"{name_or_path} compares two texts and has no classifier; needed is what "
            "`minibert finetune classify` wrote, or a file with two texts in a row"
        ) from None


def measured_on(
    task: Any, path: str | os.PathLike, columns: Mapping[str, str] | None = None
) -> list:
    """The features of a file with the truth in it."""
    examples = data.read(path, task.roles, columns)
    if isinstance(task, (Similarity, PairRegression)):
        task.scale = data.score_scale(examples)
    return task.encode(examples)


def evaluate_file(
    name_or_path: str | os.PathLike,
    path: str | os.PathLike,
    columns: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """The loss and the measures of the model's task on a file."""
    task, model, _ = load(name_or_path)
    try:
        features = measured_on(task, path, columns)
    except ValueError:
        need_pairs(name_or_path, task, path, columns)
        raise
    return evaluate(model, task, features)


class Blend:
    """A base model and what was tuned from it, mixed in any proportion.

    ``heads`` names what the tuned model has on top of its encoder; it stays as tuned.

    >>> mix = Blend("sentence-transformers/all-MiniLM-L6-v2", "my-model")
    >>> mix.save(0.5, "half-way")
    """

    def __init__(self, base: str | os.PathLike, tuned: str | os.PathLike) -> None:
        """Load both.

        Raises:
            ValueError: as ``load``; or only the base has a classifier, so they are exchanged.
        """
        untuned = BertModel.from_pretrained(base)
        lost = {name.split(".")[0] for name in untuned.load_report.dropped} & {*HEADS}
        self.task, self.model, self.saver = load(tuned)
        inside = encoder_of(self.model)
        names = [] if inside is self.model else self.model.state_dict()
        self.heads = sorted({name.split(".")[0] for name in names} - {"bert"})
        for name in lost - {*self.heads}:
            raise ValueError(f"{tuned} has no {name}, {base} has one; BASE comes first")
        prefix = "" if inside is self.model else "bert."
        self.base = {prefix + name: tensor for name, tensor in untuned.state_dict().items()}
        self.tuned = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def at(self, alpha: float) -> nn.Module:
        """The model with (1 - alpha) of the base in it and alpha of the tuned one."""
        self.model.load_state_dict(blend(self.base, self.tuned, alpha))
        return self.model

    def save(self, alpha: float, directory: str | os.PathLike) -> None:
        """Write the mixture as the tuned model was written."""
        self.at(alpha)
        with atomic_directory(directory) as staging:
            self.saver(staging)

    def sweep(
        self,
        domain: str | os.PathLike,
        general: str | os.PathLike,
        alphas: Sequence[float] = tuple(i / 10 for i in range(11)),
    ) -> list[dict[str, float]]:
        """For every alpha, the task's measure on domain data and Spearman on general pairs."""
        features = measured_on(self.task, domain)
        pooling = getattr(self.task, "pooling", ("mean",))
        keeper = Similarity(self.task.tokenizer, pooling=pooling)
        pairs = measured_on(keeper, general)
        rows = []
        for alpha in alphas:
            model = self.at(alpha)
            rows.append(
                {
                    "alpha": alpha,
                    "domain": evaluate(model, self.task, features)[self.task.best],
                    "general": evaluate(encoder_of(model), keeper, pairs)["spearman"],
                }
            )
        return rows


def draw_sweep(rows: Sequence[Mapping[str, float]], path: str | os.PathLike) -> None:
    """Write the two curves of a sweep as SVG."""
    lines = {name: [(row["alpha"], row[name]) for row in rows] for name in ("domain", "general")}
    panels = {name: {"": curve} for name, curve in lines.items()}
    write_text(path, report.curves("base (0) to tuned (1)", "alpha", panels))
