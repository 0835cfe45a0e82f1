"""The tasks: what a model can be fine-tuned for. Each is one class in the file of its name.

A new task is such a file and a line in `TASKS`; `base.Task` says what its class must have.
"""

from __future__ import annotations

from importlib import import_module

TASKS = {  # name on the command line and of the file → class
    "classify": "Classification",
    "regression": "PairRegression",
    "similarity": "Similarity",
    "contrastive": "Contrastive",
    "mlm": "MaskedLM",
    "tokens": "TokenClassification",
    "qa": "QuestionAnswering",
}


def task_class(name: str) -> type:
    """The class of a task. It is imported here: the names alone need no torch."""
    return getattr(import_module(f"{__name__}.{name}"), TASKS[name])


def __getattr__(name: str) -> type:
    """``from minibert.training.tasks import Similarity``."""
    for task, kind in TASKS.items():
        if kind == name:
            return task_class(task)
    raise AttributeError(f"{__name__} has no {name!r}; its tasks are {', '.join(TASKS.values())}")
