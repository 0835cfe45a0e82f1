"""Values: what a cell is in a row of a role, or why the row cannot be used."""

from __future__ import annotations

import ast
import contextlib
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from minibert.training.answers import misplaced
from minibert.training.data.columns import COMMA, MISSING, is_number, number_of
from minibert.training.data.tables import Table, some

LIST = re.compile(r"\[.*\]|\(.*\)|\{.*\}", re.DOTALL)  # as Python writes one
ARRAY = re.compile(r"array\((\[.*?\])(?:, dtype=[^)]*)?\)", re.DOTALL)  # as numpy writes one
BARE = re.compile(r"""[\[({]([^][(){}:'"]+)[])}]""")  # a list whose items have no quotes
STRONG, WEAK = "\n|;,", "/+& "  # what may separate labels
NUMBER, THOUSANDS = re.compile(r"[+-]?\d+(,\d+)?"), re.compile(r"[1-9]\d{0,2}(\.\d{3})?")
COUNTED = re.compile(r"(.*[^\W\d_])\s*[:=]\s*\d+([.,]\d+)?%?")  # joy:3
LETTER = r"(?=[^\W\d_])[A-\u058f\u1e00-\u1fff]"  # of scripts that are written with spaces
WITHIN = re.compile(rf"{LETTER}{LETTER}|\d\d")
HALF = re.compile("[\ud800-\udfff]")  # JSON may have one half of a pair of surrogates


class Unusable(ValueError):
    """A row cannot be used: what is wrong, and the cell if it helps to see it."""

    def __init__(self, what: str, cell: Any = None) -> None:
        super().__init__(what)
        self.what, self.cell = what, cell


def is_missing(cell: Any) -> bool:
    """Whether a cell is empty: None, NaN, blank."""
    return cell is None or cell != cell or (isinstance(cell, str) and not cell.strip())


def value(role: str, cell: Any, blank: bool = False) -> Any:
    """The value of a cell, as `read_value`, of whole characters.

    Raises:
        Unusable: it has none.
    """
    found = read_value(role, cell, blank)
    for text in [found] if isinstance(found, str) else found if isinstance(found, list) else ():
        if isinstance(text, str) and HALF.search(text):
            raise Unusable(f"half a character in the {role}", text)
    return found


def read_value(role: str, cell: Any, blank: bool = False) -> Any:
    """The value of a cell, in the kind its role needs.

    Raises:
        Unusable: it has none.
    """
    if role == "impossible":
        return None if is_missing(cell) else number_of(cell) == 1
    if role == "start" and is_missing(cell):
        return None
    if role in ("score", "start"):
        if not is_number(cell) or isinstance(cell, bool):
            hint = "; a comma in it is not read" * ("," in str(cell))
            if isinstance(cell, (list, dict)):
                hint = ", but several values; one, under a key of its own, is read"
            raise Unusable(f"the {role} is not a number{hint}", cell)
        return int(float(cell)) if role == "start" else float(cell)
    if role in ("tokens", "tags", "labels"):
        return listed(role, cell)
    if role == "label":
        return one_label(cell)
    if role == "answers":
        return cell
    if is_missing(cell) and not (blank and role == "text"):
        raise Unusable(f"the {role} is empty")
    if isinstance(cell, (list, dict)):
        raise Unusable(f"the {role} is no text", cell)
    return "" if is_missing(cell) and cell in (None, "") else str(cell)


def one_label(cell: Any) -> str:
    """The label of a row; a list of one is that one."""
    cell = as_list(cell)
    if isinstance(cell, list):
        if len(cell) > 1:
            raise Unusable("several labels in a row (for them there is the task multilabel)", cell)
        cell = cell[0] if cell else None
    if is_missing(cell):
        raise Unusable("the label is empty")
    label = str(cell).strip()
    if label.lower() in MISSING:
        raise Unusable("the label stands for a missing one", label)
    return label


def as_list(cell: Any) -> Any:
    """The list that a cell is, also if it is written as text, as pandas writes it into a csv.

    Of label → 0 or 1, as spaCy has it, those with 1; of Label Studio's choices, the list.

    Raises:
        Unusable: it was not written by Python; or it gives a label another number.
    """
    if isinstance(cell, str) and LIST.fullmatch(cell.strip()):
        if re.search(r"""['"]\s+['"]""", cell):  # Python would join the two
            raise Unusable("a list without commas, as numpy writes it", cell)
        cell = literal(cell)
    if isinstance(cell, str) and (bare := BARE.fullmatch(cell.strip())) and "," in bare[1]:
        return [item.strip() for item in bare[1].split(",")]
    if isinstance(cell, dict) and [*cell] == ["choices"]:
        cell = cell["choices"]
    if isinstance(cell, dict):
        numbers = {name: number_of(number) for name, number in cell.items()}
        if not {*numbers.values()} <= {0, 1}:
            raise Unusable("a label with something else than 0 or 1", cell)
        return [name for name, number in numbers.items() if number]
    if isinstance(cell, set):
        return sorted(cell, key=str)
    return list(cell) if isinstance(cell, tuple) else cell


def literal(cell: str) -> Any:
    """The list or dictionary that Python, pandas or numpy wrote into a cell; else the cell."""
    with contextlib.suppress(ValueError, SyntaxError, TypeError):
        found = ast.literal_eval(ARRAY.sub(r"\1", cell.strip()))
        if isinstance(found, (list, tuple, set, dict)):
            return found
    return cell


def listed(role: str, cell: Any) -> list[str]:
    """The items of a list."""
    if role == "labels" and is_missing(cell):
        raise Unusable("the labels are empty (where there are none: [])")
    cell = as_list(cell) if role == "labels" or not isinstance(cell, dict) else None
    if role == "labels" and isinstance(cell, str) and (bare := BARE.fullmatch(cell.strip())):
        cell = bare[1].split() if len(bare[1].split()) == 1 else cell
    if not isinstance(cell, list) or not (cell or role == "labels"):
        hint = "a list is needed: in jsonl, or a word a line in CoNLL columns"
        raise Unusable(f"no {role} ({hint})", cell)
    if any(is_missing(item) or isinstance(item, (list, dict)) or item in (-100, "-100", "-100.0")
           for item in cell):  # fmt: skip
        raise Unusable(f"empty {role}, or -100, or lists among them", cell)
    names = [str(item).strip() for item in cell]
    missing = {"labels": MISSING, "tags": ("nan", "null", "<na>")}.get(role, ())
    if any(name.lower() in missing for name in names):
        raise Unusable(f"{role} that stand for missing ones", cell)
    counted = [found[1] for name in names if (found := COUNTED.fullmatch(name))]
    if role == "labels" and 1 < len({*counted}) == len(names):
        raise Unusable("a number after each label; the labels that hold are needed, alone", cell)
    if role == "labels" and len(names) > 1 and {*names} <= {"0", "1", "0.0", "1.0"}:
        raise Unusable("0 or 1 for every label; the names of those that hold are needed", cell)
    return names if role == "labels" else [str(item) for item in cell]


def is_text(cell: Any) -> bool:
    """Whether a cell has a text that is no list."""
    if not isinstance(cell, str) or is_missing(cell) or cell.strip().startswith(("[", "{")):
        return False
    with contextlib.suppress(Unusable):
        return isinstance(as_list(cell), str)
    return False


def decimal_commas(table: Table) -> None:
    """Write the decimal commas in columns of numbers as points, in place, and remark on it."""
    rows = [cells for _, cells in table.rows if cells]
    for at in range(len(rows[0])) if rows and table.delimiter != "," else ():
        below = [cells[at] for cells in rows[table.names is None :]]  # the first may be a header
        texts = [str(cell).strip() for cell in below if not is_missing(cell)]
        comma = next(filter(COMMA.fullmatch, texts), None)
        others = [text for text in texts if not NUMBER.fullmatch(text)]
        if comma and 5 * len(others) <= len(texts) and not any(map(is_number, others)):
            table.remarks.append(f"column {at + 1}: {comma} is read as {comma.replace(',', '.')}")
            for cells in rows:
                if NUMBER.fullmatch(str(cells[at]).strip()):
                    cells[at] = str(cells[at]).replace(",", ".")
        point = next((text for text in texts if "." in text), None)
        if point and table.delimiter == ";" and all(map(THOUSANDS.fullmatch, texts)):
            table.warnings.append(
                f"column {at + 1}: {point} is read as {float(point)}; if the point separates "
                "thousands, take it out"
            )


def split_labels(rows: list, at: int, say: Callable[[str], None]) -> list[str]:
    """Cut labels that stand in one cell at what separates them, in place; returns warnings.

    The first strong mark separates. Any other, which may also stand in a label, does only if all
    it would separate are labels of other rows.
    """
    rows = [(line, cells) for line, cells in rows if is_text(cells[at])]
    texts = [cells for _, cells in rows]
    for cells in texts:
        cells[at] = [cells[at].strip()]
    warnings, first, cut = [], True, None
    for mark in STRONG + WEAK:
        whole = {label for cells in texts for label in cells[at]}
        several = {label for label in whole if mark in label}
        strong = first and mark in STRONG
        parts = {part.strip() for label in several for part in label.split(mark)}
        if several and (strong or parts <= whole - several):
            reason = "" if strong else ", as all parts are labels of other rows"
            say(f"the labels of a row are separated by {mark!r}{reason}")
            for cells in texts:
                cells[at] = [part.strip() for label in cells[at] for part in label.split(mark)]
            first, cut = False, cut or (mark if mark in ",;" else None)
        elif several and mark in STRONG:
            warnings.append(f"{mark!r} is taken as part of a label, as in {min(several)!r}")
    counts = Counter(label for cells in texts for label in cells[at])
    alone = [f"{label!r} (line {line})" for line, cells in rows for label in cells[at]
             if len(cells[at]) > 1 and counts[label] == 1]  # fmt: skip
    if alone and cut:
        warnings.append(
            f"labels cut at {cut!r} that only one row has: {some(alone, 6)}; if they are parts of "
            "an answer, write labels with | between them"
        )
    return warnings


def agreeing(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a row that must fit together: a tag for every word, answers in their context.

    Raises:
        Unusable: they do not.
    """
    if "tags" in values and "tokens" in values and len(values["tags"]) != len(values["tokens"]):
        raise Unusable("not as many tags as tokens", f"{len(values['tokens'])} tokens")
    if "answers" in values:
        cell, start = values["answers"], values.pop("start", None)
        impossible = values.pop("impossible", None)
        none = impossible and is_missing(cell)
        found = [] if none else answers_of(cell, start, values["context"])
        if impossible is not None and impossible == bool(found):
            said, has = ("is", "answers") if impossible else ("not is", "no answers")
            raise Unusable(f"{said}_impossible, and yet it has {has}")
        for text, start in misplaced(values["context"], found):
            refuse_absent(text, values["context"])
            raise Unusable("the answer is not at its place in the context", f"{text}, {start}")
        values["answers"] = found
    return values


def answers_of(cell: Any, start: int | None, context: str) -> list[list]:
    """All right answers of a question, [text, start in the context] each; none: it has no answer.

    ``cell``: the one answer that begins at ``start`` (-1: none); where the context has it once, no
    start is needed; or, as the hub's data sets have
    it, {"text": [...], "answer_start": [...]}; or a list of {"text": ..., "answer_start": ...}, as
    in SQuAD.
    """
    cell = literal(cell) if isinstance(cell, str) and start is None else cell
    try:
        if isinstance(cell, dict):
            cell = list(zip(cell["text"], cell["answer_start"], strict=True))
        elif isinstance(cell, list):
            cell = [(a["text"], a["answer_start"]) if isinstance(a, dict) else a for a in cell]
        elif start == -1 and is_missing(cell):
            cell = []
        else:
            cell = [(None if is_missing(cell) else cell, start)]
        found = [[text, place(text, start, context)] for text, start in cell]
        if any(is_missing(text) or int(start) != start for text, start in found):
            raise ValueError("an answer without a text or a place")
        return [[str(text), int(start)] for text, start in found]
    except Unusable:
        raise
    except (KeyError, OverflowError, TypeError, ValueError):
        raise Unusable("no answer with its start (-1: the context has none)", cell) from None


def place(text: Any, start: Any, context: str) -> Any:
    """Where an answer begins: as it says, be it as a string; or where the context has it once.

    Raises:
        Unusable: it does not say, and the context has it never, several times or inside a word.
    """
    if isinstance(start, str):
        return float(start)
    if start is not None or is_missing(text):
        return start
    if context.count(str(text)) == 1:
        at = context.index(str(text))
        end = at + len(str(text))
        if any(WITHIN.fullmatch(context[max(edge - 1, 0) : edge + 1]) for edge in (at, end)):
            raise Unusable("the answer stands only inside a word; give its start", text)
        return at
    refuse_absent(str(text), context)
    raise Unusable("the answer stands several times in the context; give its start", text)


def refuse_absent(text: str, context: str) -> None:
    """Look for an answer in its context.

    Raises:
        Unusable: it is not there.
    """
    if text not in context:
        case = ", but in another case" * (text.lower() in context.lower())
        raise Unusable(f"the answer does not stand in the context{case}", text)
