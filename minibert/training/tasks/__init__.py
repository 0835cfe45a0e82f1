"""The tasks: what a model can be fine-tuned for. Tasks of one kind share a file.

A new task is a class and a line in `TASKS`; `base.Task` says what the class must have.
"""

from __future__ import annotations

from importlib import import_module

TASKS = {  # name on the command line → file and class
    "classify": "classes.Classification",
    "multilabel": "classes.MultiLabel",
    "regression": "pairs.PairRegression",
    "similarity": "pairs.Similarity",
    "contrastive": "pairs.Contrastive",
    "mlm": "mlm.MaskedLM",
    "tokens": "tokens.TokenClassification",
    "qa": "qa.QuestionAnswering",
}


def task_class(name: str) -> type:
    """The class of a task. It is imported here: the names alone need no torch."""
    if name not in TASKS:
        raise ValueError(f"no task is named {name!r}; there are {', '.join(TASKS)}")
    file, kind = TASKS[name].split(".")
    return getattr(import_module(f"{__name__}.{file}"), kind)


def __getattr__(name: str) -> type:
    """``from minibert.training.tasks import Similarity``."""
    for task, kind in TASKS.items():
        if kind.endswith(f".{name}"):
            return task_class(task)
    raise AttributeError(f"{__name__} has no {name!r}; its tasks are {', '.join(TASKS.values())}")
