"""`finetune` as a function: data from a file, a pandas frame or a list; settings by their names."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from minibert.io.files import read_text
from minibert.training import finetune as inner
from minibert.training.data import Say
from minibert.training.settings import FILES, Settings
from minibert.training.tasks import task_class


def finetune(
    train: Any = None, task: str | None = None, *, out: str | os.PathLike, resume: bool = False,
    say: Say = print, **settings: Any,
) -> dict:  # fmt: skip
    """Fine-tune a model, as the command ``minibert finetune`` does; its remarks are printed.

    >>> result = finetune("train.csv", "classify", out="my-model", dev="dev.csv")
    >>> result = finetune([("a good film", "good"), ...], out="my-model", lr=5e-5, epochs=4)
    >>> result["after"]["dev_accuracy"]

    Args:
        train: a file; or a pandas frame; or rows in a list, each a tuple of the inputs and then
            what is to be learnt, such as (text, label) or (text, pair, score), or a dict with
            names. What is no file is kept as ``out/run/data/train.json``.
        task: what to learn, a name in ``tasks.TASKS``; classify if it is not given.
        out: the directory to write.
        resume: continue the run in ``out``; data and settings need not be given again.
        say: gets a line of text whenever something happens; ``lambda line: None`` for silence.
        settings: fields of `Settings`: ``dev`` and ``test`` (data, as ``train``), ``base``,
            ``recipe``, ``epochs``, ``lr``, ``columns`` and so on.

    Returns:
        The metrics on dev (and test, and general data) before and after, and the remarks.

    Raises:
        TypeError, ValueError: data or settings that cannot be; the message says what can.
        Diverged, KeyboardInterrupt: see ``training.finetune``.
    """
    known = [field.name for field in dataclasses.fields(Settings)]
    for name in settings.keys() - {*known}:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise TypeError(f"there is no setting {name!r}; {hint}There are {', '.join(known)}")
    given = {"train": train, **settings}
    given = {name: value for name, value in given.items() if value is not None}
    if task or not resume:
        given["task"] = task or "classify"
    if not resume and "train" not in given:
        raise TypeError("training data are needed: a file, a pandas frame or a list of rows")
    tables = {}
    for name in {"train", *FILES} & given.keys():
        if isinstance(given[name], (str, os.PathLike)):
            given[name] = os.fspath(given[name])
        else:
            kind = "similarity" if name == "keep" else given.get("task", "classify")
            path = Path(out, "run", "data", f"{name}.json")
            tables[path] = as_json(name, given[name], task_class(kind).columns())
            given[name] = str(path)
    for path, text in tables.items() if resume else ():
        if path.exists() and read_text(path) != text:
            raise ValueError(f"{path.stem} is not what the run began with; start a new run")
    asked = given if resume else Settings(**given)
    how = {"resume": resume, "tables": {path.name: text for path, text in tables.items()}}
    try:
        return inner.finetune(asked, out, say=lambda line: say(in_python(line, tables)), **how)
    except (ValueError, TypeError, OSError) as error:
        if len(error.args) == 1:
            error.args = (in_python(str(error), tables),)
        raise


def in_python(text: str, tables: Iterable[Path] = ()) -> str:
    """A message about files and options of the command line, in the words of a call in Python.

    >>> in_python("train.json, row 3: ... --no-header, or --columns label=2")
    "train, row 3: ... header=False, or columns={'label': '2'}"

    Args:
        tables: the files that data of other kinds are kept in; they get the names of arguments.
    """

    def argument(found: re.Match) -> str:
        no, name, words = found["no"], found["name"].replace("-", "_"), found["words"].split()
        if name == "columns" and words:
            return f"columns={dict(word.split('=', 1) for word in words)}"
        if name == "scale" and words:
            return f"scale=({', '.join(words)})"
        flag = name in ("header", "skip_incomplete", "resume")
        return f"{name}={not no}" if flag else name

    for path in tables:
        text = text.replace(str(path), path.stem).replace(path.name, path.stem)
    words = r"(?P<words>(?: \d+| \w+=[^\s,;:)]*[^\s,;:).])*)"  # 0 5, or text=2 label=1
    return re.sub(rf"--(?P<no>no-)?(?P<name>[a-z][a-z-]*){words}", argument, text)


def as_json(name: str, data: Any, roles: Iterable[str]) -> str:
    """Rows of data as json; ``roles``: what the values of a tuple are."""

    def plain(value: Any) -> Any:  # numpy's numbers and arrays, pandas' missing values
        if hasattr(value, "tolist"):
            return value.tolist()
        return None if type(value).__name__ in ("NAType", "NaTType") else str(value)

    how = {"ensure_ascii": False, "default": plain}
    rows = ",\n".join(json.dumps(row, **how) for row in rows_of(name, data, roles))
    return f"[{rows}]\n"


def rows_of(name: str, data: Any, roles: Iterable[str]) -> list[dict]:
    """The rows of a frame or a list as dicts. No frame's library is imported for that."""
    if hasattr(data, "itertuples"):  # pandas
        names = [str(column) for column in data.columns]
        return [dict(zip(names, row, strict=True)) for row in data.itertuples(False, None)]
    if hasattr(data, "iter_rows"):  # polars
        return list(data.iter_rows(named=True))
    if not isinstance(data, Iterable) or isinstance(data, (Mapping, bytes)):
        kind = type(data).__name__
        raise TypeError(f"{name} is a {kind}; a file, a pandas frame or a list of rows is needed")
    shapes = [role.rstrip("?") for role in roles], [r for r in roles if not r.endswith("?")]
    by_length = {len(shape): shape for shape in shapes}
    rows = []
    for number, row in enumerate(data, 1):
        if not isinstance(row, Mapping):
            values = [row] if isinstance(row, str) else row
            size = len(values) if isinstance(values, (list, tuple)) else 0
            if size not in by_length:
                allowed = " or ".join(f"({', '.join(shape)})" for shape in by_length.values())
                raise ValueError(f"{name}, row {number} is {row!r:.60}; {allowed} or a dict is due")
            row = zip(by_length[size], values, strict=True)
        rows.append(dict(row))
    return rows
