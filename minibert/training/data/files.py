"""Files as they come: csv, tsv, jsonl, json, CoNLL columns, SQuAD, fastText; plain or gzipped.

A file becomes a `Table`: the names of its columns and its rows. What the columns mean is for
`data.read`. Nothing is guessed in silence: whatever was decided here is a remark of the table, what
cannot be decided is an error that names the option to use.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minibert.training.data.conll import in_columns, read_words
from minibert.training.data.tables import Table, columns, lines, numbered, some, text_of

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
WORDS = (".conll", ".iob", ".iob2", ".iob1", ".bio")  # a word and its tags a line
OTHERS = dict.fromkeys((".xlsx", ".xls", ".ods"), 'save it as "CSV UTF-8"') | {
    ".md": "a table in it is read if the file is named .txt",
    ".js": "if it begins with a name and =, take that away, and name it .json",
    ".parquet": 'pandas writes what is read by to_json("a.jsonl", orient="records", lines=True)'
}
STRANGERS = {  # what a file begins with that is no table → what it is
    r"(?i)\s*<(!doctype|html|head|body|table|\?xml|div)\b": "this is HTML or XML; open it in a "
        'spreadsheet or a browser, and save what is needed as "CSV UTF-8"',
    r"\s*(window|var|let|const)\b[^\n={]*=\s*[\[{]": "this is JavaScript, as in an archive of "
        "tweets; take away what is in front of the first [ or {, and name the file .json",
    r"%(PDF-|!PS)": "this is PDF or PostScript; save its text as plain text, in UTF-8",
    r"\{\\rtf": "this is RTF; save it as plain text, in UTF-8",
    r"(?i)%?\s*@relation\b": "this is ARFF, of Weka; save it as csv there",
    r'"[^"\n]*" "[^"\n]*': "quoted columns with blanks between, as R's write.table writes them; "
        "write.csv(..., row.names = FALSE) writes what is read",
}
TIMES = re.compile(r"^(\d+:)?\d\d:\d\d[,.]\d{3} --> ", re.MULTILINE)  # of subtitles
LABEL = "__label__"  # fastText's mark
MARKED = re.compile(rf"(?<!\S){LABEL}\S*")  # a word that has it
RULE = re.compile(r"(?=.*[|+])[|+:\s-]*--[|+:\s-]*")  # the line below the header of a drawn table
LONGEST_CELL = 20  # lines; a quoted cell over more has probably lost its closing quote


def read_table(
    file: Path, words: bool | None = False, columns: bool = True, delimiter: str | None = None
) -> Table:
    """Read a file of any kind, as its name says.

    Args:
        file: the file; it may be gzipped, whatever its name.
        words: whether a sentence is wanted word by word; None = that or a plain text.
        columns: whether more than one text a line is wanted of a .txt.
        delimiter: what separates the columns of a csv, tsv or txt; found, if not given.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an encoding, a format or a delimiter that is not certain.
    """
    delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
    if delimiter is not None and len(delimiter) != 1:
        raise ValueError(f"the delimiter is {delimiter!r}; one character, or tab, is needed")
    suffixes = [suffix.lower() for suffix in file.suffixes if suffix.lower() != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    if words and kind not in (".csv", ".json", ".jsonl", ".ndjson"):
        return read_words(file, text_of(file))
    if kind in WORDS and words is False:
        raise ValueError(f"{file}: a {kind} file has a word and its tag a line, for task tokens")
    if kind not in (".csv", ".tsv", ".tab", ".txt", ".json", ".jsonl", ".ndjson", *WORDS):
        instead = OTHERS.get(kind, "rename the file to what it is")
        instead = without_times(file) if kind in (".srt", ".vtt") else instead
        raise ValueError(
            f"{file}: .csv, .tsv, .jsonl, .json, .txt (and .gz of these) is read, for task tokens "
            f".conll and .iob2 too, not {kind or 'no suffix'!r}; {instead}"
        )
    text = text_of(file)
    for pattern, what in STRANGERS.items():
        if re.match(pattern, text):
            raise ValueError(f"{file}: {what}")
    if kind in (".jsonl", ".ndjson") and not text.lstrip().startswith("["):
        if text.split(maxsplit=1)[:1] == ["{"] and text.lstrip()[1:2] in ("\n", "\r"):
            one = f"jq -c . {file.name} > lines-{file.name}"
            raise ValueError(f"{file}: an object stands on several lines; one a line: {one}")
        return read_jsonl(numbered(text))
    if kind in (".json", ".jsonl", ".ndjson"):
        return read_json(file, text)
    if kind in WORDS or (words is None and kind in (".txt", ".tsv") and in_columns(text)):
        return read_words(file, text)
    if text.lstrip().startswith("{") and only_objects(text):
        raise ValueError(f"{file}: each line is a JSON object; name the file .jsonl")
    if is_drawn(text) and not delimiter:
        return read_drawn(text)
    if kind == ".txt":
        if TIMES.search(text):
            raise ValueError(f"{file}: {without_times(file)}")
        return read_lines(text, columns, delimiter)
    if kind == ".csv" or delimiter not in (None, "\t"):
        table = read_csv(file, text, delimiter)
        lists = any(cell.strip()[:1] == "[" for _, cells in table.rows[:20] for cell in cells)
        return read_csv_words(file, table) if words and not lists else table
    return read_tsv(text)


def without_times(file: Path) -> str:
    """How to make a text of subtitles."""
    times = "'^[0-9]+.?$|-->|^WEBVTT'"
    command = f"grep -vE {times} {file.name} > texts-{file.stem}.txt"
    return f"these are subtitles, with a time above each; keep the texts alone: {command}"


# ---------------------------------------------------------------------------------- csv, tsv, txt


def read_csv(file: Path, text: str, delimiter: str | None) -> Table:
    """Cells may be quoted and may then run over several lines; Excel's ``sep=;`` is obeyed."""
    remarks, warnings, first = [], [], text[:5].lower()
    if first.startswith("sep=") and text[5:6] in ("\r", "\n"):
        delimiter, text = delimiter or text[4], "\n" + text[5:].lstrip("\r").removeprefix("\n")
    chosen = delimiter or find_delimiter(file, text)
    if chosen != ",":
        remarks.append(f"the columns are separated by {DELIMITERS.get(chosen, repr(chosen))}")
    rows, begin = [], 1
    try:
        for cells, end in csv_rows(text, chosen):
            rows.append((begin, cells))
            if end - begin > LONGEST_CELL:
                warnings.append(f"one row runs over lines {begin} to {end}; is a quote not closed?")
            begin = end + 1
    except csv.Error as error:
        raise ValueError(
            f"{file.name}, line {begin}: {error}; is a quote not closed, or in a text and "
            f"not written twice, or is the delimiter not {chosen!r} (--delimiter)?"
        ) from None
    if first.startswith("sep="):
        rows = rows[1:]
    mark = "'"
    single = [n for n, row in rows if any(c[:1] == mark for c in row)
              and any(c[-1:] == mark for c in row)]  # fmt: skip
    if 2 * len(single) > len(rows):
        raise ValueError(
            f"{file}: texts in single quotes ({lines(single, n=3)}); a csv has double ones, with a "
            "double quote in a text written twice"
        )
    hint = f"; a {chosen!r} in a text needs quotes around it"
    return even(Table(None, rows, remarks, warnings, delimiter=chosen), hint)


def read_csv_words(file: Path, table: Table) -> Table:
    """A word and its tag a row, as in CoNLL columns.

    Raises:
        ValueError: a cell with a line end in it.
    """
    several = [n for n, cells in table.rows if any("\n" in cell for cell in cells)]
    if several:
        raise ValueError(
            f"{file}: words over several lines ({lines(several, n=3)}); a word that is a quote is "
            "written \"\"\"\" in a csv, or name the file .tsv if no cell is in quotes"
        )
    rows = [(n, [cell.strip() for cell in cells]) for n, cells in table.rows]
    found = read_words(file, "", [(n, cells if any(cells) else []) for n, cells in rows])
    found.remarks = table.remarks + found.remarks
    found.problems += table.problems
    return found


def csv_rows(text: str, delimiter: str) -> Iterator[tuple[list[str], int]]:
    """The cells of each row, and its last line; a cell may be of any length."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True,
                            skipinitialspace=f'{delimiter} "' in text)  # fmt: skip
        for cells in reader:
            yield cells, reader.line_num
    finally:
        csv.field_size_limit(before)


def find_delimiter(file: Path, text: str) -> str:
    """The one delimiter with which the first 100 rows have the same number of columns, 2 or more.

    If there is none, the one that comes nearest: the rows that do not fit are then reported.

    Raises:
        ValueError: there are several.
    """
    shares = {}
    for delimiter in DELIMITERS:
        counts: Counter = Counter()
        try:
            for cells, _ in itertools.islice(csv_rows(text, delimiter), 100):
                counts[len(cells)] += bool(cells)
        except csv.Error:
            counts[0] += 1
        (width, most), *_ = counts.most_common(1) or [(0, 0)]
        shares[delimiter] = most / counts.total() if width > 1 else 0
    fitting = [delimiter for delimiter, share in shares.items() if share == 1]
    if len(fitting) > 1:
        names = " or ".join(DELIMITERS[delimiter] for delimiter in fitting)
        raise ValueError(f"{file}: are its columns separated by {names}? Say so with --delimiter")
    return max(shares, key=shares.get)


def read_tsv(text: str) -> Table:
    """No quoting: a tab ends a cell, a line end ends a row, and a quote is a quote."""
    rows = [(n, line.split("\t") if line.strip() else []) for n, line in numbered(text)]
    table = even(Table(None, rows))
    quote = '"'
    quoted = [n for n, row in table.rows if any(len(c) > 1 and c[0] == c[-1] == quote for c in row)]
    if quoted:
        table.warnings.append(
            f"{lines(quoted)}: cells in quotes; a tsv has no quoting, so the quotes are "
            "part of the text. If they are not, name the file .csv"
        )
    return table


def is_drawn(text: str) -> bool:
    """Whether a table is drawn with bars, as in Markdown: a rule is among its first lines."""
    filled = [line for _, line in numbered(text) if line.strip()]
    drawn = sum("|" in line or bool(RULE.fullmatch(line)) for line in filled)
    return any(map(RULE.fullmatch, filled[:4])) and len(filled) - drawn <= max(2, len(filled) // 9)


def read_drawn(text: str) -> Table:
    """A table in Markdown, or as psql and MySQL print one; ``\\|`` is a bar in a cell."""
    found = [(n, line.strip()) for n, line in numbered(text) if line.strip()]
    outside = [n for n, line in found if "|" not in line and not RULE.fullmatch(line)]
    rows = [(n, re.split(r"(?<!\\)\|", line.removeprefix("|").removesuffix("|")))
            for n, line in found if "|" in line and not RULE.fullmatch(line)]  # fmt: skip
    rows = [(n, [cell.strip().replace(r"\|", "|") for cell in cells]) for n, cells in rows]
    (_, names), *rows = rows
    table = even(Table(names, rows), width=len(names))
    left = f"; not in it: {lines(outside)}" if outside else ""
    table.remarks.append(f"read as a table drawn with bars{left}")
    return table


def even(table: Table, hint: str = "", width: int = 0) -> Table:
    """Take out the rows that have not as many columns as most; ``hint``: if they have more."""
    counts = Counter(len(cells) for _, cells in table.rows if cells)
    width = width or max(counts, key=counts.get, default=0)
    table.problems += [
        (n, f"{columns(len(cells))}, not {width}{hint * (len(cells) > width)}")
        for n, cells in table.rows if len(cells) not in (0, width)
    ]  # fmt: skip
    table.rows = [row for row in table.rows if len(row[1]) in (0, width)]
    return table


def read_lines(text: str, several: bool, delimiter: str | None) -> Table:
    """A txt: a text a line; or fastText's, with marked labels; or, if asked for, columns."""
    rows = numbered(text)
    filled = [(n, line) for n, line in rows if line.strip()]
    marked = sum(LABEL in line and bool(MARKED.search(line)) for _, line in filled)
    if marked and marked >= len(filled) / 2:
        return read_fasttext(rows)
    tabs = {line.count("\t") for _, line in filled}
    if several and (delimiter or (tabs and min(tabs))):
        if delimiter not in (None, "\t"):
            return read_csv(Path("txt"), text, delimiter)
        table = read_tsv(text)
        table.remarks.append("its lines are read as columns, separated by a tab")
        return table
    table = Table(["text"], [(n, [line] if line.strip() else []) for n, line in rows])
    for mark, name in DELIMITERS.items():
        counts = Counter(line.count(mark) for _, line in filled)
        n = max(counts, key=counts.get, default=0)
        if n and 5 * counts[n] >= 4 * len(filled) and (mark == "\t" or len(filled) > 4):
            kind = ".tsv" if mark == "\t" else ".csv"
            every = "every" if counts[n] == len(filled) else "nearly every"
            table.warnings.append(
                f"there is {name} in {every} line, and each line is read as one text; if these "
                f"are columns, name the file {kind}"
            )
    return table


def read_fasttext(rows: Iterable[tuple[int, str]]) -> Table:
    """``__label__good __label__short a nice film``: marked words are labels, the rest is text."""
    table = Table(["label", "text"], [])
    for n, line in rows:
        labels = [word.removeprefix(LABEL) for word in MARKED.findall(line)]
        if any(LABEL in label for label in labels):
            table.problems.append((n, "labels need a space between them"))
        elif line.strip() and not labels:
            table.problems.append((n, f"no {LABEL}"))
        else:
            table.rows.append((n, [labels, MARKED.sub("", line).strip()] if labels else []))
    return table


# --------------------------------------------------------------------------------------- json


def read_jsonl(rows: Sequence[tuple[int, str]]) -> Table:
    """An object a line."""
    objects, problems = [], []
    for n, line in rows:
        try:
            value = json.loads(line, object_pairs_hook=once) if line.strip() else None
        except (ValueError, RecursionError) as error:  # ValueError: a number of 4,300 digits, too
            problems.append((n, f"not JSON ({getattr(error, 'msg', None) or error})"))
            continue
        if value is None or isinstance(value, dict):
            objects.append((n, value))
        else:
            problems.append((n, f"an object is needed, not {line[:40]!r}"))
    return of_objects(objects, problems)


def only_objects(text: str) -> bool:
    """Whether every line is an object."""
    try:
        return all(isinstance(json.loads(line), dict) for _, line in numbered(text) if line.strip())
    except (ValueError, RecursionError):
        return False


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, each key of which stands there once.

    Raises:
        ValueError: one stands there twice.
    """
    found = dict(pairs)
    for key in found if len(found) < len(pairs) else ():
        if sum(key == name for name, _ in pairs) > 1:
            raise ValueError(f"the key {key!r} stands twice in an object")
    return found


def of_objects(objects: Iterable[tuple[int, dict | None]], problems: list, unit="line") -> Table:
    """The values of every object under the keys of all; a key that it has not is None."""
    objects = list(objects)
    names = list(dict.fromkeys(key for _, row in objects for key in row or ()))
    rows = [(n, [row.get(key) for key in names] if row else []) for n, row in objects]
    table = Table(names, rows, problems=problems, unit=unit)
    for key in names:
        if without := [n for n, row in objects if row and key not in row]:
            table.remarks.append(f"no key {key!r} in {len(without)} rows ({lines(without)})")
    return table


def read_json(file: Path, text: str) -> Table:
    """SQuAD's questions, or a list of objects."""
    try:
        value = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        if getattr(error, "msg", "") == "Extra data":  # an object a line, under another name
            return read_jsonl(numbered(text))
        ask = "; is the file complete?" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{file}: not JSON ({error}){ask}") from None
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        entries = value["data"]
        if all(isinstance(entry, dict) and "paragraphs" in entry for entry in entries):
            return of_objects(squad(entries), [], "question")
        value = entries
    lists = value if isinstance(value, list) and all(isinstance(e, list) for e in value) else []
    if lists and not any(isinstance(cell, (list, dict)) for entry in lists for cell in entry):
        cells = [["" if cell is None else str(cell) for cell in entry] for entry in value]
        return even(Table(None, [*enumerate(cells, 1)], unit="row"))
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        if {"data", "annotations"} <= value[0].keys():
            raise ValueError(f"{file} is Label Studio's JSON; export JSON-MIN or CSV from it")
        return of_objects(enumerate(value, 1), [], "row")
    keys = value if isinstance(value, dict) else {}
    if len(keys) > 1 and all(isinstance(v, list) for v in keys.values()):
        plain = not any(isinstance(cell, dict) for cells in keys.values() for cell in cells)
        if plain and len({*map(len, keys.values())}) == 1:  # a list for each column
            rows = map(list, zip(*keys.values(), strict=True))
            return Table([*keys], [*enumerate(rows, 1)], unit="row")
    if parts := [key for key in keys if isinstance(keys[key], list)]:
        raise ValueError(
            f"{file}: an object with lists in it, {some([repr(part) for part in parts], 6)}; write "
            f"each list to be read into a file of its own, as in jq '.[\"{parts[0]}\"]' {file.name}"
        )
    raise ValueError(
        f"{file}: a list of objects, or SQuAD's data → paragraphs → qas, is needed; pandas writes "
        'what is read here by to_json("file.jsonl", orient="records", lines=True)'
    )


def squad(articles: Iterable[dict]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The questions of SQuAD 1.1 and 2.0; one that is impossible has no answers.

    Source: Rajpurkar 2016 and 2018; the layout of train-v1.1.json and train-v2.0.json.
    """
    paragraphs = (p for article in articles for p in article["paragraphs"] or ())
    asked = ((paragraph, qa) for paragraph in paragraphs for qa in paragraph.get("qas") or ())
    for n, (paragraph, qa) in enumerate(asked, 1):
        row = {"id": qa.get("id"), "question": qa.get("question"),
               "context": paragraph.get("context")}  # fmt: skip
        if "answers" in qa or "is_impossible" in qa:
            row["answers"] = qa.get("answers")
        if "is_impossible" in qa:
            row["is_impossible"] = qa["is_impossible"]
        yield n, row
