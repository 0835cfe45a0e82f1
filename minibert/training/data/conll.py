"""CoNLL columns: a word and its tags a line, a blank line after a sentence."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from minibert.training.data.tables import Table, columns, lines, numbered
from minibert.training.entities import is_scheme

HEADER = "tag", "tags", "label", "labels", "ner", "ner_tags", "pos", "pos_tags"
UNDERSCORE = re.compile(r"^([BIESLUM])_(?=.)")
NUMBER, PART = re.compile(r"\d+([-.]\d+)?"), re.compile(r"\d+[-.]\d+$")  # of CoNLL-U
PHRASES = {*"NP VP PP ADVP ADJP SBAR PRT CONJP INTJ LST UCP NC VC PC".split()}  # of CoNLL-2003
NEEDED = "a word and its tag a line are needed, and a blank line after a sentence"
OTHERS = {  # what a file begins with, or has somewhere → whose it is
    r"\A\s*#begin document": "OntoNotes (CoNLL-2012)",
    r"\A\s*#(FORMAT=WebAnno|T_SP=)": "WebAnno",
    r"\A\s*[TREAMN]\d+\t\S+ \d+ \d+": "brat",
    r"<([A-Z]{2,})>[^<>\n]+</\1>": "markup in a text, <PER>...</PER>",
}


def read_words(file: Path, text: str, filled: list[tuple[int, list[str]]] | None = None) -> Table:
    """CoNLL columns: a word and its tags a line, a blank line after a sentence.

    A row is a sentence, a cell a whole column of it. The words are the first column that does not
    count them or name their sentence; the tags are the last one, as they are: BIO, IOB1, IOBES; or
    those that mark entities (of several, `columns` asks for one); in CoNLL-U, the fourth.
    ``filled``: the lines and their cells, where these have been found (csv).
    """
    for pattern, format in OTHERS.items():
        if re.search(pattern, text):
            raise ValueError(f"{file} looks like {format}; a word and its tag a line is read")
    filled = filled or cells_of(text)
    counts = Counter(len(cells) for _, cells in filled if cells and cells[0][:1] != "#")
    width = max(counts, key=counts.get, default=0)
    if len(counts) > 3 and 4 * counts[width] < 3 * counts.total():
        sizes = f"{min(counts)} to {max(counts)} words or columns"
        raise ValueError(f"{file}: lines of {sizes}; {NEEDED}")
    table = Table(None, [])
    first = next((cells for _, cells in filled if len(cells) == width), [])
    once = width > 1 and sum(cells[-1:] == first[-1:] for _, cells in filled) == 1
    if once and first[-1].lower() in HEADER:
        table.remarks.append(f"the first row is a header: it has the names {first}")
        filled = [(n, [] if cells is first else cells) for n, cells in filled]
    numbers = [cells[0] for _, cells in filled if len(cells) == 10 == width and cells[0] != "#"]
    conllu = bool(numbers) and all(map(NUMBER.fullmatch, numbers))
    if conllu:  # 1-2 is what 1 and 2 are written as, 8.1 a word that is not written
        filled = [(n, cells) for n, cells in filled if not cells or not PART.match(cells[0])]
    filled = separated(fill_down(filled, width), width, table)
    comments, sentence, start, whole = [], [], 0, True
    known = {cells[-1] for _, cells in filled if cells and not cells[0].startswith("#")}
    for n, cells in [*filled, (0, [])]:
        hash_first = bool(cells) and cells[0].startswith("#")  # a comment, or a word such as #1
        strange = hash_first and cells[0][1:2] in ("", " ") and cells[-1] not in known
        if hash_first and (len(cells) != width or strange):
            comments.append(n)
        elif cells:
            start = start or n
            sentence.append(cells)
            if len(cells) != width or not all(cells):
                table.problems.append((n, f"{columns(sum(map(bool, cells)))}, not {width}"))
                whole = False
        else:
            if sentence and whole:  # half a sentence is no example
                table.rows.append((start, [list(c) for c in zip(*sentence, strict=True)]))
            sentence, start, whole = [], 0, True
    at = [3] if conllu else tag_columns(table, width)
    refuse_prose(file, table, width, at[-1])
    if comments:
        table.remarks.append(f"{len(comments)} comments left out ({lines(comments)})")
    name_columns(table, width, at)
    if conllu:
        table.remarks.append("CoNLL-U: lines such as 1-2 and 8.1 are not read")
    return table


def refuse_prose(file: Path, table: Table, width: int, at: int) -> None:
    """Look at the words, and at the tags in column ``at``.

    Raises:
        ValueError: they are none.
    """
    tags = [tag for _, row in table.rows for tag in row[at]]
    tags_first = is_scheme(word for _, row in table.rows for word in row[0])  # `columns` sees to it
    if width > 1 and len(tags) >= 10 and 2 * len(set(tags)) > len(tags) and not tags_first:
        different = f"{len(set(tags))} different tags for {len(tags)} words, such as {tags[:3]}"
        raise ValueError(f"{file}: {different}; {NEEDED}")
    words = [word for _, row in table.rows for word in row[word_column(table, width)]]
    spaced = [word for word in words if " " in word]
    if 2 * len(spaced) > len(words):
        raise ValueError(f"{file}: words with spaces in them, such as {spaced[0]!r}; {NEEDED}")
    every = [cell for _, row in table.rows for cells in row for cell in cells]
    if tags and any(all(mark in cell[1:] for cell in every) for mark in "/_"):
        raise ValueError(f"{file}: word/TAG, as in {tags[0]!r}; a word and its tag a line is read")


def cells_of(text: str) -> list[tuple[int, list[str]]]:
    """The cells of every line, and its number; a blank line and the start of a text have none."""
    filled = []
    for n, line in numbered(text):
        if line.startswith("-DOCSTART-"):
            line = ""
        parts = line.split("\t") if "\t" in line.strip() else line.split(" ")
        cells = [part.strip() for part in parts if part.strip() or "\t" in line]
        while cells and not cells[-1]:
            cells.pop()
        filled.append((n, cells if line.strip() else []))
    return filled


def separated(
    filled: list[tuple[int, list[str]]], width: int, table: Table
) -> list[tuple[int, list[str]]]:
    """The lines, a sentence with its blank line after it.

    Where there is none in the file, a sentence ends where the numbers of its words begin anew; or
    where a column changes, or one of two, that have every value only once, for two words in a row
    or more on average: the number of the sentence, and of its document.
    """
    words = [i for i, (_, cells) in enumerate(filled) if len(cells) == width]
    if not words or not all(cells for _, cells in filled[words[0] : words[-1]]):
        return filled
    ends = {}
    for at in itertools.combinations_with_replacement(range(width - 2), 2):
        column = [tuple(filled[i][1][j] for j in at) for i in words]
        changes = [i for i, a, b in zip(words[1:], column, column[1:], strict=False) if a != b]
        if len({*column}) == len(changes) + 1 <= len(column) / 2:
            ends[at] = changes
        again = restarts([cell for cell, _ in column]) if at[0] == at[1] else []
        if again:
            ends[at] = [words[i] for i in again]
    at = max(ends, key=lambda at: len(ends[at]), default=None)
    if at is None or not ends[at]:
        return filled
    told = " or ".join(f"column {j + 1}" for j in sorted({*at})) + " changes"
    if at[0] == at[1] and restarts([filled[i][1][at[0]] for i in words]):
        told = f"column {at[0] + 1} begins anew"
    table.remarks.append(f"no blank lines: a sentence ends where {told}")
    parts = zip([0, *ends[at]], [*ends[at], len(filled)], strict=True)
    return [line for begin, end in parts for line in [*filled[begin:end], (0, [])]]


def restarts(cells: Sequence[str]) -> list[int]:
    """Where running numbers begin anew; none if they are no such numbers."""
    if not all(map(str.isdecimal, cells)):
        return []
    numbers = [*map(int, cells)]
    again = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    anew = all(numbers[i] == numbers[0] for i in again)
    return again if anew and 2 * len(again) < len(cells) else []


def tag_columns(table: Table, width: int) -> list[int]:
    """The columns beside the words that mark entities, or else phrases; or else the last one."""
    for at in range(1, width):
        write_hyphens(table, at)
    tags = {at: {tag for _, row in table.rows for tag in row[at]} for at in range(1, width)}
    marking = {at: {tag[2:] for tag in tags[at] - {"O"}} for at in tags if marks(tags[at])}
    entities = [at for at, types in marking.items() if not types or not types <= PHRASES]
    return entities or [*marking] or [max(width - 1, 0)]


def marks(tags: set[str]) -> bool:
    """Whether tags mark entities, or other spans that leave no word outside."""
    return is_scheme(tags) or (is_scheme({*tags, "O"}) and all(tag[1:2] == "-" for tag in tags))


def write_hyphens(table: Table, at: int) -> None:
    """Read B_PER as B-PER, if all tags of a column are such; in place."""
    tags = {tag: UNDERSCORE.sub(r"\1-", tag) for _, row in table.rows for tag in row[at]}
    if any(map(UNDERSCORE.match, tags)) and marks({*tags.values()}):
        table.remarks.append(f"column {at + 1}: B_ and I_ are read as B- and I-")
        for _, row in table.rows:
            row[at] = [tags[tag] for tag in row[at]]


def fill_down(filled: list[tuple[int, list[str]]], width: int) -> list[tuple[int, list[str]]]:
    """The lines with their first cell, where it stands in the first line of a sentence alone."""
    above, found = "", []
    for n, cells in filled:
        cells = [above, *cells[1:]] if len(cells) == width > 2 and not cells[0] else cells
        above = cells[0] if cells else ""
        found.append((n, cells))
    return found


def word_column(table: Table, width: int) -> int:
    """The first column that is no number or name of the word, the sentence or the document."""
    at = 0
    while at < width - 2 and in_front([row[at] for _, row in table.rows]):
        at += 1
    counts = width == 2 and all(row[0] == [*map(str, range(1, len(row[0]) + 1))]
                                for _, row in table.rows)  # fmt: skip
    return at + bool(counts and table.rows)


def in_front(sentences: Sequence[Sequence[str]]) -> bool:
    """Whether a column has numbers that never fall, or one and the same for a sentence."""
    if all(NUMBER.fullmatch(cell) for cells in sentences for cell in cells):
        keys = [[[int(n) for n in re.split("[-.]", cell)] for cell in cells] for cells in sentences]
        return bool(keys) and all(key == sorted(key) for key in keys)
    same = all(len(set(cells)) == 1 for cells in sentences) and max(map(len, sentences)) > 1
    return same and not is_scheme(cell for cells in sentences for cell in cells)


def name_columns(table: Table, width: int, at: Sequence[int]) -> None:
    """Say which column has the words and which the tags."""
    words = word_column(table, width)
    table.names = [str(n) for n in range(1, width + 1)]
    if width:
        table.names[words] = "tokens"
    if width > 1 + words:
        for tags in at:
            table.names[tags] = "tags"
    if width > 2 and len(at) == 1:
        table.remarks.append(
            f"{width} columns: the words are column {table.names.index('tokens') + 1}, the tags "
            f"{'the last one' if at == [width - 1] else f'column {at[0] + 1}'} (others: --columns "
            "tokens=1 tags=3)"
        )


def in_columns(text: str) -> bool:
    """Whether all lines have the same number of cells, two or more, and blank lines between."""
    counts = Counter(len(line.split()) for _, line in numbered(text))
    return len(counts) == 2 and 0 in counts and 1 not in counts
