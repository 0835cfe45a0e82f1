"""Data: a file becomes examples; examples are checked and split.

Files are csv, tsv, jsonl (one JSON object a line) or txt (one text a line), on this disk or in a
data set on the hub. Nothing here knows a model; ``roles`` say what a task needs of a row.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minibert.io.files import no_such_file, read_text

# What a column may be called -> what it is. A task asks for some of these roles.
NAMES = {
    "text": "text sentence sentence1 sentence_1 text1 premise anchor query utterance review body",
    "pair": "pair sentence2 sentence_2 text2 hypothesis positive passage document paraphrase",
    "negative": "negative hard_negative",
    "label": "label labels class category intent sentiment target gold_label",
    "score": "score similarity similarity_score label labels rating target",
    "tokens": "tokens words",
    "tags": "tags ner_tags pos_tags labels",
    "question": "question query",
    "context": "context passage paragraph",
    "answers": "answers answer answer_text",
    "start": "start answer_start",  # of the answer in the context
    "labels": "labels label categories classes",
}
NAMES = {role: names.split() for role, names in NAMES.items()}
# What is to be learnt about the others:
TRUTH = ("label", "labels", "score", "tags", "answers", "start")
SCALES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 5.0), (1.0, 5.0), (0.0, 10.0), (0.0, 100.0))


Say = Callable[[str], None]


def silent(line: str) -> None:
    """Say nothing."""


class Example(NamedTuple):
    """One row: the values of its roles, and where it stands ("train.csv, line 7")."""

    values: dict[str, Any]
    where: str
    line: int = 0  # of the file, from 1

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the row, first to last."""
        roles = ("text", "pair", "negative", "question", "context")
        texts = tuple(self.values[role] for role in roles if self.values.get(role) is not None)
        return texts or (" ".join(self.values["tokens"]),)

    @property
    def truth(self) -> list:
        """What the row says about its texts."""
        return [self.values.get(role) for role in TRUTH]

    def without_truth(self) -> Example:
        """The texts alone, as they come when nobody knows the truth."""
        values = {role: value for role, value in self.values.items() if role not in TRUTH}
        return self._replace(values=values)


# --------------------------------------------------------------------------------------- reading


def read(
    path: str | os.PathLike,
    roles: Sequence[str],
    columns: Mapping[str, str] | None = None,
    say: Say = silent,
    blank: bool = False,
) -> list[Example]:
    """Read the examples of a file.

    Args:
        path: the file, or ``hub:owner/name/path/in/the/data.csv`` for a data set on the hub.
        roles: what a row must have, keys of ``NAMES``; with a "?" at its end: what it may have.
        columns: role → name or number (from 1) of a column; what is not given is guessed, by name
            or, in a file without a header, by order.
        say: gets remarks: what was guessed, which blank lines were left out.
        blank: whether a text may be blank; then a blank line of a txt is a row like any other.

    Raises:
        FileNotFoundError: no such file.
        ValueError: wrong number of columns, an empty text, no number where a score is needed, a
            column that is not there; the message names the file and the line.
    """
    file = locate(path)
    names, rows = read_rows(file, blank)
    left_out = [str(line) for line, cells in rows if not cells]
    rows = [row for row in rows if row[1]]
    wanted = [role.rstrip("?") for role in roles]
    required = [role for role in roles if not role.endswith("?")]
    columns = dict(columns or {})
    if "answers" in wanted:
        wanted.append("start")
        columns = {"answers" if role == "answer" else role: at for role, at in columns.items()}
    if unknown := set(columns) - set(wanted):
        raise ValueError(f"unknown roles {sorted(unknown)}; a row here has the roles {wanted}")
    if names is None and rows:  # csv or tsv: is the first line a header, or data already?
        names = [cell.strip() for cell in rows[0][1]]
        known = {name for role in wanted for name in NAMES[role]} | set(columns.values())
        if any(cell in known or cell.lower() in known for cell in names):
            rows = rows[1:]
        else:
            names = [str(number) for number in range(1, len(names) + 1)]
            by_order = [each for each in (wanted, required) if len(each) == len(names)]
            if by_order and not columns:
                columns = dict(zip(by_order[0], names, strict=True))
    if not rows:
        raise ValueError(f"{file} has no rows of data")
    positions = match_columns(file, names, wanted, required, columns)
    found = ", ".join(f"{role} = column {names[at]!r}" for role, at in positions.items())
    say(f"{file.name}: {len(rows)} rows; {found}")
    if left_out:
        s = "s" * (len(left_out) > 1)
        say(f"{file.name}: {len(left_out)} blank line{s} left out (line{s} {some(left_out)})")
    examples = []
    for line, cells in rows:
        where = f"{file.name}, line {line}"
        if len(cells) != len(names):
            raise ValueError(f"{where}: {len(cells)} columns, but {len(names)} in the first line")
        values = {role: value(role, cells[at], where, blank) for role, at in positions.items()}
        if "answers" in values:
            values["answers"] = answers_of(values["answers"], values.pop("start", None), where)
        examples.append(Example(values, where, line))
    return examples


def locate(path: str | os.PathLike) -> Path:
    """The file itself; ``hub:owner/name/file`` is fetched by huggingface_hub, into its cache."""
    if not str(path).startswith("hub:"):
        if not Path(path).is_file():
            raise no_such_file(path)
        return Path(path)
    from huggingface_hub import hf_hub_download

    parts = str(path).removeprefix("hub:").split("/", 2)
    if len(parts) < 3:
        raise ValueError(f"{path}: write hub:owner/name/file, such as hub:me/my-data/train.csv")
    return Path(hf_hub_download("/".join(parts[:2]), parts[2], repo_type="dataset"))


def read_rows(file: Path, blank: bool) -> tuple[list[str] | None, list[tuple[int, list]]]:
    """The names of the columns (None where the file has not said) and (line, cells) of every row.

    A blank line has no cells, or in a txt, with ``blank``, an empty one. A tsv has no quoting: a
    tab ends a cell, a line end ends a row, and a quote is a quote.
    """
    text = read_text(file)
    kind = file.suffix.lower()
    if kind == ".jsonl":
        return read_jsonl(file, text)
    if kind == ".txt":
        texts = [(n, line if line.strip() else "") for n, line in numbered(text)]
        return ["text"], [(n, [line] if line or blank else []) for n, line in texts]
    if kind == ".tsv":
        return None, [(n, line.split("\t") if line.strip() else []) for n, line in numbered(text)]
    if kind != ".csv":
        raise ValueError(f"{file}: .csv, .tsv, .jsonl or .txt is read, not {kind or 'no suffix'!r}")
    rows, end = [], 0
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            rows.append((end + 1, cells))
            end = reader.line_num  # a quoted cell may run over several lines
    except csv.Error as error:
        raise ValueError(f"{file.name}, line {end + 1}: {error}; is a quote not closed?") from None
    return None, rows


def numbered(text: str) -> list[tuple[int, str]]:
    """The lines of a text with their numbers, as an editor counts them: \\n and \\r\\n end one."""
    lines = text.replace("\r\n", "\n").split("\n")
    return list(enumerate(lines[:-1] if lines[-1] == "" else lines, 1))


def read_jsonl(file: Path, text: str) -> tuple[list[str], list[tuple[int, list]]]:
    """The keys of the first object, and the values of every line under those keys."""
    names, rows = None, []
    for number, line in numbered(text):
        if not line.strip():
            rows.append((number, []))
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file.name}, line {number}: not JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{file.name}, line {number}: an object is needed, not {line[:40]!r}")
        names = names or list(row)
        if set(row) != set(names):
            raise ValueError(f"{file.name}, line {number}: the keys {list(row)}, but first {names}")
        rows.append((number, [row[name] for name in names]))
    return names or [], rows


def match_columns(
    file: Path, names: list[str], wanted: list[str], required: list[str], columns: dict[str, str]
) -> dict[str, int]:
    """Role → position of its column: as given, else the first whose name is known and free."""
    positions = {}
    for role, name in columns.items():
        by_number = str(name).isdigit() and name not in names and int(name) <= len(names)
        if name not in names and not by_number:
            raise ValueError(f"{file}: no column {name!r} for {role}; there are {names}")
        positions[role] = int(name) - 1 if by_number else names.index(name)
    lower = [name.lower() for name in names]
    for role in wanted:
        free = [i for i in range(len(names)) if i not in positions.values()]
        found = [i for name in NAMES[role] for i in free if lower[i] == name]
        if role not in positions and found:
            positions[role] = found[0]
    if missing := [role for role in required if role not in positions]:
        two = "two texts in a row are needed (for one there is `minibert finetune classify`); "
        raise ValueError(
            f"{file}: {two if 'pair' in missing else ''}which columns are {', '.join(missing)}? "
            f"It has {names}; name them, as in --columns {missing[0]}={names[0]}"
        )
    return {role: positions[role] for role in wanted if role in positions}


def value(role: str, cell: Any, where: str, blank: bool = False) -> Any:
    """The value of a cell, in the kind its role needs."""
    if role in ("score", "start"):
        with contextlib.suppress(TypeError, ValueError):
            if math.isfinite(number := float(cell)):
                return int(number) if role == "start" else number
        raise ValueError(f"{where}: the {role} is {cell!r}, not a number")
    if role == "labels":
        return [str(item).strip() for item in (cell if isinstance(cell, list) else [cell])]
    if role == "answers":
        return cell
    if role in ("tokens", "tags"):
        if not isinstance(cell, list) or not cell:
            raise ValueError(f"{where}: {role} is {cell!r}; a list is needed (use jsonl)")
        return [str(item) for item in cell]
    if blank and role == "text":
        return "" if cell is None else str(cell)
    if cell is None or not str(cell).strip():
        raise ValueError(f"{where}: the {role} is empty; fill it in or remove the row")
    return str(cell).strip() if role == "label" else str(cell)


def answers_of(cell: Any, start: int | None, where: str) -> list[list]:
    """All right answers of a question, [text, start in the context] each; none: it has no answer.

    ``cell``: the one answer that begins at ``start``; or, as the hub's data sets have it,
    {"text": [...], "answer_start": [...]}; or a list of {"text": ..., "answer_start": ...}, as in
    SQuAD.
    """
    if isinstance(cell, dict):
        cell = [list(pair) for pair in zip(cell["text"], cell["answer_start"], strict=True)]
    elif isinstance(cell, list):
        cell = [[a["text"], a["answer_start"]] if isinstance(a, dict) else list(a) for a in cell]
    elif start is None or not str(cell).strip():
        raise ValueError(f"{where}: the answer {cell!r} has no start in the context")
    else:
        cell = [[str(cell), start]]
    return cell


# -------------------------------------------------------------------------------------- checking


def class_names(examples: Sequence[Example]) -> list[str]:
    """The classes that occur: in the order of their numbers if all are numbers, else sorted."""
    return list(count_classes(examples))


def count_classes(examples: Sequence[Example]) -> dict[str, int]:
    """Class → how many examples it has; the classes in the order of `class_names`."""
    counts = Counter(example.values["label"] for example in examples)
    try:
        names = sorted(counts, key=lambda name: (float(name), name))
    except ValueError:
        names = sorted(counts)
    return {name: counts[name] for name in names}


def score_scale(examples: Sequence[Example]) -> tuple[float, float]:
    """The narrowest usual scale that holds all scores: 0 to 1, -1 to 1, 0 to 5, and so on.

    Raises:
        ValueError: a score is outside all of them.
    """
    scores = sorted((example.values["score"], example.where) for example in examples)
    (low, first), (high, last) = scores[0], scores[-1]
    if fitting := [scale for scale in SCALES if scale[0] <= low and high <= scale[1]]:
        return fitting[0]
    raise ValueError(
        f"the scores, from {low} ({first}) to {high} ({last}), fit none of the usual scales; give "
        "theirs, as in --scale 0 20"
    )


def scaled_score(example: Example, scale: tuple[float, float]) -> float:
    """The score of an example, brought to 0 to 1.

    Raises:
        ValueError: it is off the scale; the message names the file and the line.
    """
    (low, high), score = scale, example.values["score"]
    if not low <= score <= high:
        raise ValueError(f"{example.where}: the score {score} is not on the scale {low} to {high}")
    return (score - low) / (high - low)


def check(train: Sequence[Example], dev: Sequence[Example] = ()) -> list[str]:
    """What a careful person would remark about the data, one sentence each; empty is good news.

    Twins in the training data, the same text under two labels, texts of the training data in the
    development data, classes with a single example, classes that only one of the two parts has.
    """
    first: dict[tuple, Example] = {}
    twins, quarrels = [], []
    for example in train:
        other = first.setdefault(fingerprint(example), example)
        if other is not example:
            found = twins if other.truth == example.truth else quarrels
            found.append(f"{example.where} = {other.where}")
    leaks = [f"{e.where} = {first[k].where}" for e in dev if (k := fingerprint(e)) in first]
    remarks = {
        "training rows that repeat another": twins,
        "training rows that repeat another with another label": quarrels,
        "development rows that are also training rows, so the score is too good": leaks,
    }
    if train and "label" in train[0].values:
        counts, tested = count_classes(train), count_classes(dev or train)
        remarks |= {
            "classes with a single training example": [n for n in counts if counts[n] == 1],
            "classes without any training example": [n for n in tested if n not in counts],
            "classes missing from the development data": [n for n in counts if n not in tested],
        }
    return [f"{remark}: {len(found)} ({some(found)})" for remark, found in remarks.items() if found]


def fingerprint(example: Example) -> tuple[str, ...]:
    """The texts of an example without case and spacing; two that are equal count as the same."""
    return tuple(" ".join(text.lower().split()) for text in example.texts)


def some(items: Sequence[str], n: int = 3) -> str:
    """The first few of a list, and how many more there are."""
    return ", ".join(items[:n]) + (f" and {len(items) - n} more" if len(items) > n else "")


# ---------------------------------------------------------------------------------------- splits


def split(
    examples: Sequence[Example], n: int, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Draw n of the examples: (those drawn, the others), each in file order.

    With classes, every class gives its share (as near as whole examples allow).
    """
    groups = defaultdict(list)
    for i, example in enumerate(examples):
        groups[example.values.get("label")].append(i)
    places = []  # (how far into its shuffled class an example comes, which): the n smallest
    for number, name in enumerate(sorted(groups, key=str)):
        members = np.random.default_rng([seed, number]).permutation(groups[name]).tolist()
        places += [((rank + 0.5) / len(members), i) for rank, i in enumerate(members)]
    drawn = {i for _, i in sorted(places)[:n]}
    parts = [], []
    for i, example in enumerate(examples):
        parts[i not in drawn].append(example)
    return parts
