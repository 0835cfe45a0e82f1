"""A fine-tuned model in use: predict, evaluate, blend. Its directory says what it is for.

`FineTuned` predicts for texts in Python, whatever the task; `Classifier`, `TokenTagger` and
`Answerer` are the same for one kind of task each.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from minibert.config import BertConfig
from minibert.io.directory import open_directory
from minibert.io.files import atomic_directory, write_text
from minibert.model import BertModel
from minibert.sentence_encoder import best_device
from minibert.training import data
from minibert.training.adapt import blend, encoder_of
from minibert.training.data.tables import some
from minibert.training.plots import curves
from minibert.training.tasks import TASKS, task_class
from minibert.training.tasks.base import Task
from minibert.training.tasks.pairs import Similarity

HEADS = ("classifier", "qa_outputs")  # what a fine-tuning puts on top, and only a fine-tuning
AnyPath = str | os.PathLike
Columns = Mapping[str, str] | None


def load(name_or_path: AnyPath) -> tuple[Task, nn.Module]:
    """The task a directory was trained for, and its model.

    Raises:
        ValueError: its head is none that minibert can fine-tune, or the fine-tuning is unfinished.
    """
    run = Path(name_or_path) / "run"
    if (run / "settings.json").exists() and not (run / "metrics.json").exists():
        raise ValueError(
            f"the fine-tuning in {name_or_path} is not finished; continue it: "
            f"minibert finetune --resume --out {name_or_path}, or in Python finetune(resume=True)"
        )
    directory = open_directory(name_or_path)
    if directory.has("modules.json"):
        return Similarity.load(directory)
    config = BertConfig.from_pretrained(directory)
    for task in map(task_class, TASKS):
        if task.fits(config):
            return task.load(directory, config)
    name = (config.extra.get("architectures") or ["no head"])[0]
    raise ValueError(f"{directory} has {name}; what `minibert finetune` has written is needed")


class FineTuned:
    """A fine-tuned model and its task.

    >>> model = FineTuned.from_pretrained("my-model")
    >>> model.predict(["a good film", "an awful song"])
    [{'label': 'good', 'probability': 0.98}, {'label': 'bad', 'probability': 0.97}]
    """

    tasks: ClassVar[tuple[str, ...]] = ()  # names in TASKS; none = all

    def __init__(self, task: Task, model: nn.Module) -> None:
        allowed = tuple(map(task_class, self.tasks))
        if allowed and not isinstance(task, allowed):
            raise ValueError(
                f"{type(self).__name__} is for {' and '.join(self.tasks)}, but this model was "
                f"trained for {type(task).__name__}; FineTuned opens any"
            )
        self.task, self.model = task, model

    @classmethod
    def from_pretrained(cls, name_or_path: AnyPath, *, device: str = "auto") -> FineTuned:
        """Open what a fine-tuning has written, here or on the hub.

        Raises:
            ValueError: it was trained for something else, or is unfinished.
        """
        task, model = load(name_or_path)
        return cls(task, model.to(best_device(device)).eval())

    def predict(self, inputs: str | Iterable) -> list[dict]:
        """What the model says about each input, as `minibert predict` does.

        Args:
            inputs: texts; or, where the task takes two, (text, pair) or (question, context); or
                dicts with these names. Of a token tagger also lists of words.

        Returns:
            A dict for each: label and probability; or score; or entities with their place in the
            text (of a list of words: tags); or answer and the best few.
        """
        return self.answers(self.examples(inputs))

    def examples(self, inputs: str | Iterable) -> list[data.Example]:
        """The inputs with the names of their roles.

        Raises:
            TypeError, ValueError: an input is none that the task takes, or unlike the first.
        """
        rows = enumerate([inputs] if isinstance(inputs, str) else inputs, 1)
        found = [data.Example(self.values(row, n), f"row {n}", n) for n, row in rows]
        for example in found:
            if example.values.keys() != found[0].values.keys():
                raise ValueError(
                    f"{example.where} has {', '.join(example.values)}, but row 1 "
                    f"{', '.join(found[0].values)}; predict for them apart"
                )
        return found

    def values(self, row: Any, number: int) -> dict[str, Any]:
        """Role → value of one input."""
        roles = self.task.inputs_in_use()
        names = [role.rstrip("?") for role in roles]
        required = [role for role in roles if not role.endswith("?")] or ["text"]
        if isinstance(row, Mapping):
            values = {name: row[name] for name in names if row.get(name) is not None}
        elif "tokens" in names:
            values = {"text": row} if isinstance(row, str) else {"tokens": row}
        else:
            cells = row if isinstance(row, (list, tuple)) else [row]
            values = dict(zip(names, cells, strict=False)) if len(cells) <= len(names) else {}
        if not values or ("tokens" not in values and not {*required} <= values.keys()):
            raise ValueError(
                f"row {number} is {row!r:.60}; needed: {', '.join(required)}, possible: "
                f"{', '.join(names)}"
            )
        for name, value in values.items():
            parts = value if name == "tokens" else [value]
            if not all(isinstance(part, str) for part in parts):
                raise TypeError(f"row {number}: {name} is {value!r:.60}; text is needed")
        return values

    def answers(self, examples: Sequence[data.Example]) -> list[dict]:
        """What the model says about some examples."""
        if not examples:
            return []
        both = zip(self.predictions(examples), examples, strict=True)
        return [self.task.answer(prediction, example) for prediction, example in both]

    def predictions(self, examples: Sequence[data.Example]) -> list:
        """What the task predicts for some examples; warns of those that say nothing."""
        empty = [e.where for e in examples if not all(text.strip() for text in e.texts)]
        if empty:
            warnings.warn(
                f"{len(empty)} of {len(examples)} inputs have an empty text, so what is predicted "
                f"for them means nothing: {some(empty)}",
                stacklevel=4,
            )
        return self.task.predict(self.model, self.task.encode(examples), numbers=True)[0]


class Classifier(FineTuned):
    """Which class, or which classes, has a text or a pair of texts?"""

    tasks = ("classify", "multilabel")

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return list(self.task.classes)

    def predict_proba(self, inputs: str | Iterable) -> np.ndarray:
        """The probability of every class, in the order of ``classes``. Shapes: (n, C)."""
        if not (examples := self.examples(inputs)):
            return np.empty((0, len(self.classes)))
        return np.stack(self.predictions(examples))


class TokenTagger(FineTuned):
    """Which tag has every word; where are the entities of a text?"""

    tasks = ("tokens",)


class Answerer(FineTuned):
    """Where in a context is the answer to a question? Inputs are (question, context)."""

    tasks = ("qa",)


def predict_file(
    model: AnyPath, path: AnyPath, columns: Columns = None, say: data.Say = data.silent,
    **reading: object,
) -> list[dict]:
    """What the model says about every row of a file: the texts, and the answer of its task.

    A text may be blank, so that the rows of the answer are those of the file. ``say`` gets
    remarks: what was found out about the file. ``reading``: other options of ``data.read``.

    Raises:
        ValueError: as `load` and `data.read`.
    """
    model = FineTuned(*load(model))
    task = model.task
    roles = [*task.inputs_in_use(), *(f"{role}?" for role in task.truth)]  # not looked at
    examples = data.read(path, roles, columns, say, blank=True, **reading)
    examples = [example.without_truth() for example in examples]
    both = zip(examples, model.answers(examples), strict=True)
    return [{**example.values, **answer} for example, answer in both]


def evaluate_file(
    model: AnyPath, path: AnyPath, columns: Columns = None, say: data.Say = data.silent,
    **reading: object,
) -> dict[str, float]:  # fmt: skip
    """The loss and the metrics of the model's task on a file.

    ``say`` gets remarks: on the file, and on a model that predicts the same for everything.

    Raises:
        ValueError: as `load` and `data.read`, or the model gives NaN.
    """
    task, network = load(model)
    examples = data.read(path, task.columns(), columns, say, **reading)
    measures = task.evaluate(network, task.encode(examples))
    for remark in task.remarks(measures) if len(examples) > 1 else ():
        say(remark)
    return measures


class Evaluation:
    """What a model is measured on: "dev", "test", and "general" pairs for what it forgets.

    ``last``, ``tables``: the metrics and the tables of the last measurement on dev or test.

    Args:
        examples: those for "dev" and "test"; "keep" has the scored pairs of general texts.
    """

    def __init__(self, task: Task, model: nn.Module, examples: Mapping[str, list]) -> None:
        self.task, self.model = task, model
        self.features = {n: task.encode(examples[n]) for n in ("dev", "test") if n in examples}
        if "keep" in examples:
            how = {"pooling": getattr(task, "pooling", ("mean",)), "max_length": task.max_length}
            encoder = getattr(task, "encoder", None)
            self.similarity = Similarity(task.tokenizer, encoder=encoder, **how)
            self.features["general"] = self.similarity.encode(examples["keep"])

    def on(self, *names: str, calibrate: bool = False) -> dict[str, float]:
        """The loss and the metrics on those that are there; on general pairs Spearman's.

        ``calibrate``: let the task choose first, on dev, what is not learnt.
        """
        found = {}
        for name in names:
            features = self.features.get(name)
            if features and name == "general":
                measures = self.similarity.evaluate(encoder_of(self.model), features)
                found["general_spearman"] = measures["spearman"]
            elif features:
                predictions, loss = self.task.predict(self.model, features)
                if calibrate and name == "dev":
                    self.task.calibrate(predictions, features)
                self.last = {"loss": loss, **self.task.measure(predictions, features)}
                self.tables = self.task.tables(predictions, features)
                found |= {f"{name}_{key}": value for key, value in self.last.items()}
        return found


class Blend:
    """A base model and what was fine-tuned from it, averaged with any weights.

    ``heads`` names what the tuned model has on top of its encoder; it stays as tuned.

    >>> mix = Blend("sentence-transformers/all-MiniLM-L6-v2", "my-model")
    >>> mix.save(0.5, "half-way")

    Raises:
        ValueError: as ``load``; or only the base has a classifier, so they are exchanged.
    """

    def __init__(self, base: AnyPath, tuned: AnyPath) -> None:
        untuned = BertModel.from_pretrained(base)
        lost = {name.split(".")[0] for name in untuned.load_report.dropped} & {*HEADS}
        self.task, self.model = load(tuned)
        headed = encoder_of(self.model) is not self.model
        names = self.model.state_dict() if headed else ()
        self.heads = sorted({name.split(".")[0] for name in names} - {"bert"})
        for name in lost - {*self.heads}:
            raise ValueError(f"{tuned} has no {name}, {base} has one; BASE comes first")
        prefix = "bert." if headed else ""
        self.base = {prefix + name: tensor for name, tensor in untuned.state_dict().items()}
        self.tuned = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def at(self, alpha: float) -> nn.Module:
        """The model with (1 - alpha) of the base in it and alpha of the tuned one."""
        self.model.load_state_dict(blend(self.base, self.tuned, alpha))
        return self.model

    def save(self, alpha: float, directory: AnyPath) -> None:
        """Write the mixture as the tuned model was written."""
        self.at(alpha)
        with atomic_directory(directory) as staging:
            self.task.save(self.model, staging)

    def sweep(
        self, domain: AnyPath, general: AnyPath, say: data.Say = data.silent, **reading: object
    ) -> list[dict[str, float]]:
        """For alpha from 0 to 1, the best metric on domain data and Spearman on general pairs.

        ``say`` gets remarks on both files; ``reading``: options of ``data.read`` for ``domain``.
        """
        pairs = data.read(general, Similarity.columns(), say=say)
        domain = data.read(domain, self.task.columns(), say=say, **reading)
        examples = {"dev": domain, "keep": pairs}
        evaluation = Evaluation(self.task, self.model, examples)
        rows = []
        for alpha in (tenth / 10 for tenth in range(11)):
            self.at(alpha)
            found = evaluation.on("dev", "general")
            domain_score, general_score = found[f"dev_{self.task.best}"], found["general_spearman"]
            rows.append({"alpha": alpha, "domain": domain_score, "general": general_score})
        return rows


def draw_sweep(rows: Sequence[Mapping[str, float]], path: AnyPath) -> None:
    """Write the two curves of a sweep as SVG."""
    names = ("domain", "general")
    panels = {name: {"": [(row["alpha"], row[name]) for row in rows]} for name in names}
    write_text(path, curves("base (0) to tuned (1)", "alpha", panels))
