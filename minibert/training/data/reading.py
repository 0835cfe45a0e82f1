"""Reading: a file becomes examples.

`files` reads them, in any format; `columns` finds out what is what; ``roles`` say what a task needs
of a row.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minibert.io.files import no_such_file
from minibert.training.data.columns import (
    content,
    is_number,
    join_labels,
    known_names,
    match_columns,
    shown,
)
from minibert.training.data.columns import header as is_header
from minibert.training.data.examples import TRUTH, Example
from minibert.training.data.files import read_table
from minibert.training.data.oddities import odd, totals
from minibert.training.data.tables import Table, lines, some
from minibert.training.data.unused import heed_unused
from minibert.training.data.values import (
    Unusable,
    agreeing,
    decimal_commas,
    is_text,
    split_labels,
    value,
)

SURVEY = re.compile(r'\{"ImportId"|Open-Ended Response$')  # Qualtrics, SurveyMonkey: below a header

Say = Callable[[str], None]


def silent(line: str) -> None:
    """Say nothing."""


# --------------------------------------------------------------------------------------- reading


def read(
    path: str | os.PathLike,
    roles: Sequence[str],
    columns: Mapping[str, str] | None = None,
    say: Say = silent,
    blank: bool = False,
    *,
    header: bool | None = None,
    delimiter: str | None = None,
    skip_incomplete: bool = False,
) -> list[Example]:
    """Read the examples of a file; what was found out about it, and how, is said.

    Args:
        path: the file, or ``hub:owner/name/path/in/the/data.csv`` for a data set on the hub.
        roles: what a row must have, keys of ``columns.NAMES``; with a "?" at its end: what it may
            have.
        columns: role → name or number (from 1) of a column; what is not given is found by its
            name, else by what is in it.
        say: gets remarks, a line each.
        blank: whether a text may be blank; then a blank line of a txt is a row like any other, and
            what is to be learnt is not looked at.
        header: whether the first row of a csv or tsv has the names of the columns; None = found.
        delimiter: what separates the columns of a csv; None = found.
        skip_incomplete: whether rows that cannot be used are left out, and counted.

    Raises:
        FileNotFoundError: no such file.
        ValueError: rows that cannot be used, all of them with their lines; columns or a header that
            are not certain; the message names the option that decides.
    """
    file = locate(path)
    wanted = {role.rstrip("?"): not role.endswith("?") for role in roles}
    columns = dict(columns or {})
    if "answers" in wanted:
        wanted |= {"start": False, "impossible": False}
        columns = {"answers" if role == "answer" else role: at for role, at in columns.items()}
    if unknown := set(columns) - set(wanted):
        raise ValueError(f"unknown roles {sorted(unknown)}; a row here has the roles {[*wanted]}")
    table = table_of(file, wanted, bool(columns), delimiter, say)
    rows = leave_out_blank(file, table, say, blank)
    if not rows:
        return usable(file, table, rows, {}, say, blank, skip_incomplete)  # says what is wrong

    def remark(line: str) -> None:
        say(f"{file.name}: {line}")

    try:
        names, rows = first_row(table, rows, wanted, columns, header, file.name, say)
        names, rows, joined = join_labels(names, rows, columns)
        positions = match_columns(
            names, lambda at: [cells[at] for _, cells in rows], wanted, columns, remark
        )
        if not blank:
            rows = heed_unused(table, rows, names, positions, TRUTH, remark)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    remark(f"{len(rows)} {table.things}; {told(names, positions, joined)}")
    if blank:
        positions = {role: at for role, at in positions.items() if role not in TRUTH}
    return usable(file, table, rows, positions, say, blank, skip_incomplete)


def table_of(
    file: Path, wanted: Mapping[str, bool], columns: bool, delimiter: str | None, say: Say
) -> Table:
    """The table that a file is; what it remarks is said."""
    words = (wanted["tokens"] or None) if "tokens" in wanted else False
    table = read_table(file, words, sum(wanted.values()) > 1 or columns, delimiter)
    if "score" in wanted:
        decimal_commas(table)
    for warning in table.warnings:
        say(f"warning: {file.name}: {warning}")
    for remark in table.remarks:
        say(f"{file.name}: {remark}")
    return table


def told(names: Sequence[str], positions: Mapping[str, int], joined: Sequence[int]) -> str:
    """Which column is what, and which are not used."""
    found = ", ".join(
        f"{role} = column {at + 1 if names[at] in {*positions} - {role} else repr(names[at])}"
        for role, at in positions.items()
    )
    used = {*positions.values(), *joined}
    unused = [repr(name) for at, name in enumerate(names) if at not in used]
    return found + (f"; not used: {some(unused, 8)}" if unused else "")


def leave_out_blank(file: Path, table: Table, say: Say, blank: bool) -> list[tuple[int, list]]:
    """The rows without the blank ones; with ``blank``, a blank line of a txt is an empty text."""
    if blank and table.names == ["text"] and ".txt" in file.suffixes:
        return [(line, cells or [""]) for line, cells in table.rows]
    filled = [
        (line, cells) for line, cells in table.rows
        if cells and (blank or len(cells) == 1 or any(str(cell).strip() for cell in cells))
    ]  # fmt: skip
    if len(filled) < len(table.rows):
        left_out = sorted({line for line, _ in table.rows} - {line for line, _ in filled})
        s = "s" * (len(left_out) > 1)
        say(f"{file.name}: {len(left_out)} blank line{s} left out ({lines(left_out, n=3)})")
    if not filled and not table.problems:
        raise ValueError(f"{file} has no rows")
    return filled


def first_row(
    table: Table, rows: list, wanted: Mapping[str, bool], columns: Mapping[str, str],
    header: bool | None, name: str, say: Say,
) -> tuple[list[str], list]:  # fmt: skip
    """The names of the columns, and the rows; without a header the names are numbers."""
    if table.names is not None:
        return table.names, rows
    first = [cell.strip() for cell in rows[0][1]]
    survey = [i for i, (_, cells) in enumerate(rows[:3]) if any(map(SURVEY.match, cells))]
    more = [line for line, _ in rows[1 : max(survey, default=0) + 1]]
    if header is None and more:
        header = True
        say(f"{name}: the first row is a header: a survey's further header rows stand below it")
    if header is None:
        if [n for n, _ in table.problems if n < rows[0][0]]:
            numbers = [cells[0].strip() for _, cells in rows]
            if len({*numbers}) == len(numbers) > 1 and all(map(str.isdigit, numbers)):
                raise ValueError(
                    f"its first row has {table.problems[0][1]} as below, where a number stands "
                    "first, as R's write.table writes it; write.csv(..., row.names = FALSE)"
                )
            commas = "do texts below have a comma in them? They need quotes around them; else "
            raise ValueError(
                f"its first row has {table.problems[0][1]} as below; "
                f"{'' if '.tsv' in name else commas}remove the first row"
            )
        refuse_title(first, rows, wanted)
        others = [cells for _, cells in rows[1:] if lower(cells) != lower(first)]
        below = [content([cells[at] for cells in others]) for at in range(len(first))]
        header, reason = is_header(first, below, wanted, columns)
        say(f"{name}: the first row is {'a header' if header else 'data'}: {reason}")
    if not header:
        return [str(number) for number in range(1, len(first) + 1)], rows
    again = [line for line, cells in rows[1:] if lower(cells) == lower(first)]
    for line, cells in rows[1:]:
        if line not in again and sorted(lower(cells)) == sorted(lower(first)):
            raise ValueError(f"line {line} is the header in another order; read them apart")
    table.problems += [(line, "the header again") for line in again]
    table.problems += [(line, "a further header row of a survey") for line in more]
    rows = [row for row in rows[1:] if row[0] not in again + more]
    if not rows:
        raise ValueError("a header and no rows")
    return [cell or str(number) for number, cell in enumerate(first, 1)], rows


def lower(cells: Sequence[str]) -> list[str]:
    """The cells of a header, without case."""
    return [cell.strip().lower() for cell in cells]


def refuse_title(first: Sequence[str], rows: list, wanted: Mapping[str, bool]) -> None:
    """Notice a first row that is a title of the table.

    Raises:
        ValueError: it is, or may be: it has a text in its first cell alone, and the next has more;
            or the next is a header.
    """
    if len(rows) < 2 or len(first) < 2 or known_names(first, wanted):
        return
    line, second = rows[1][0], [cell.strip() for cell in rows[1][1]]
    if found := known_names(second, wanted):
        names = ", ".join(map(repr, found))
        raise ValueError(f"{names} (line {line}) are names of columns; remove what is above them")
    if first[0] and not any(first[1:]) and sum(map(bool, second)) > 1:
        raise ValueError(
            f"its first row has a text in its first cell alone, {shown(first[0])!r}; if that is a "
            "title, remove the line, else say --header or --no-header"
        )


def usable(
    file: Path, table: Table, rows: list, positions: Mapping[str, int], say: Say, blank: bool,
    skip_incomplete: bool,
) -> list[Example]:  # fmt: skip
    """The examples; rows that cannot be used are refused, all at once, or left out.

    Raises:
        ValueError: there are such rows, and they are not to be left out.
    """
    examples, problems = [], [(line, what, None) for line, what in table.problems]
    warnings = (
        split_labels(rows, positions["labels"], lambda remark: say(f"{file.name}: {remark}"))
        if "labels" in positions else []
    )  # fmt: skip
    at = positions.get("answers")
    if at is not None and "start" not in positions and is_text(rows[0][1][at]):
        say(f"{file.name}: no column has the starts of the answers: each is looked for in its text")
    for line, cells in rows:
        values, wrong = {}, []
        for role, at in positions.items():
            try:
                values[role] = value(role, cells[at], blank)
            except Unusable as error:
                wrong.append(error)
        if not wrong:
            try:
                where = f"{file.name}, {table.unit} {line}"
                examples.append(Example(agreeing(values), where, line))
            except Unusable as error:
                wrong.append(error)
        problems += [(line, error.what, error.cell) for error in wrong]
    if no_gold({example.values.get("label") for example in examples}):
        bare = [example for example in examples if float(example.values["label"]) == -1]
        problems += [(e.line, "the label -1 stands for a missing one", None) for e in bare]
        examples = [example for example in examples if float(example.values["label"]) != -1]
    if problems:
        bad = len({line for line, *_ in problems})
        told = f"{bad} of {len(examples) + bad} {table.things} cannot be used: "
        told += report(problems, table.unit)
        if not skip_incomplete or not examples:
            raise ValueError(f"{file}: {told}. Correct them, or leave them out: --skip-incomplete")
        say(f"warning: {file.name}: {told}; left out, as asked for (--skip-incomplete)")
    try:
        for remark in warnings + totals(rows, table.unit) + odd(examples, table.unit):
            say(f"warning: {file.name}: {remark}")
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return examples


def no_gold(labels: set[str | None]) -> bool:
    """Whether -1 says "no label": it is alone, or beside 0 and at least two numbers above."""
    if not labels or not all(map(is_number, labels)):
        return False
    numbers = set(map(float, labels))
    return numbers == {-1} or (-1 in numbers and 0 in numbers and len(numbers) > 3
                               and min(numbers - {-1}) == 0)  # fmt: skip


def report(problems: Sequence[tuple[int, str, Any]], unit: str) -> str:
    """What is wrong, each with its lines: "the label is empty (lines 3, 7)"."""
    found = defaultdict(list)
    for line, what, cell in sorted(problems, key=lambda problem: problem[0]):
        found[what].append(f"{line}" if cell is None else f"{line}: {shown(repr(cell))}")
    return "; ".join(f"{what} ({lines(places, unit)})" for what, places in found.items())


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
