"""Columns: is the first row a header, and which column is which?

Both are decided by rules that are said with their reason; where the rules do not decide, the error
names the option that does.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from minibert.training.data.tables import lines
from minibert.training.entities import is_scheme

# What a column may be called -> what it is. A task asks for some of these roles.
NAMES = {
    "text": "text sentence sentence1 sentence_1 text1 premise anchor query utterance review body "
    "question1 s1 sentence_a",
    "pair": "pair sentence2 sentence_2 text2 hypothesis positive passage document paraphrase "
    "question2 s2 sentence_b",
    "negative": "negative hard_negative",
    "label": "label labels gold_label class category intent sentiment target quality is_duplicate "
    "entailment_judgment",
    "labels": "labels label categories classes",
    "score": "score similarity similarity_score relatedness_score label labels rating target",
    "tokens": "tokens words word",
    "tags": "tags ner_tags pos_tags labels tag",
    "question": "question query",
    "context": "context passage paragraph",
    "answers": "answers answer answer_text",
    "start": "start answer_start",  # of the answer in the context
    "impossible": "is_impossible",  # whether a question has no answer
    "id": "id",
}
NAMES = {role: names.split() for role, names in NAMES.items()}
PAIRS = (("question", "sentence"), ("question", "passage"), ("#1 string", "#2 string"),
         ("title", "description"))  # fmt: skip
MISSING = (  # as a label: there is none
    "n/a", "na", "nan", "null", "#n/a", "<na>", "-", "-100", "-100.0",
    "#ref!", "#name?", "#value!", "#div/0!", "#null!", "#num!",
)  # fmt: skip
BOOLEANS = dict.fromkeys("true wahr vrai verdadero verdadeiro vero waar prawda истина".split(), 1.0)
BOOLEANS |= dict.fromkeys("false falsch faux falso onwaar fałsz ложь".split(), 0.0)
COMMA = re.compile(r"([+-]?\d+),(\d{1,2}|\d{4,})")  # a decimal one; 1,250 may be a thousand
DISTANCE = re.compile(  # a score by this name may be small where two texts are alike
    "distan|(?<![a-z])(dist(?!r)|dissim|diff(?!ic)|err|edit|rank|levens|abstand|schulnote)",
    re.IGNORECASE,
)
TEXTS = ("text", "pair", "negative")
ID = re.compile(r"\S*\d\S*")
NAMED_ID = re.compile(r"(?i:^|[_\W])(?i:[gu]*ids?|index|key)$|(?<=[a-z])I[dD]$|^#$")
VAGUE = "class", "category", "intent", "sentiment", "target", "quality"  # names of a label
SAMPLE = 1000  # cells of a column, whose words are counted
COLA = ["source", "label", "mark", "text"]  # GLUE's CoLA, the one file there without a header
CHINESE = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # and Japanese and Korean
WORD = re.compile(rf"[{CHINESE}]|[^\s{CHINESE}]+")  # where no spaces are written: a character
TIME = re.compile(r"\d:\d\d|\d([-./])\d{1,2}\1\d|(?<!\d)(19|20)\d\d(?!\d)")  # clock, date, year


def words(text: object) -> int:
    """About how many words a text has; what has no letter in it, such as a date, is none."""
    return sum(any(map(str.isalpha, word)) for word in WORD.findall(str(text)))


def is_number(cell: object) -> bool:
    """Whether a cell is a number, NaN not counted."""
    if isinstance(cell, str) and (cell[:1].isalpha() or "_" in cell):  # Python reads 1_0 as 10
        return False
    try:
        return math.isfinite(float(cell))
    except (TypeError, ValueError):
        return False


def number_of(cell: object) -> float | None:
    """The number in a cell, however Excel writes it: 2, 2.0, "2,0", TRUE; None: there is none."""
    text = COMMA.sub(r"\1.\2", word) if COMMA.fullmatch(word := str(cell).strip()) else word
    return BOOLEANS.get(text.lower(), float(text) if is_number(text) else None)


class Content(NamedTuple):
    """What is in a column, seen without its name."""

    rows: int  # with something in them
    counts: Counter
    share: float  # of the cells are numbers, those that say N/A not counted
    counter: bool  # whole numbers that rise, or are all different, as those of an id
    words: float  # of a cell, on average
    shortest: int  # words
    spread: float  # standard deviation of the words
    times: bool  # whether each has a clock, a date or a year in it
    lists: bool
    plain: bool  # no lists or objects in these
    ids: bool  # each is one word with a digit in it

    @property
    def numbers(self) -> bool:
        """Whether all are numbers."""
        return self.share == 1

    @property
    def few(self) -> bool:
        """Whether it has few distinct values, each three times on average."""
        return self.rows >= 4 and 3 * len(self.counts) <= self.rows and self.words <= 4

    @property
    def text(self) -> bool:
        """Whether it has texts."""
        return self.words >= 0.5 and not (self.numbers or self.few or self.ids)

    @property
    def alike(self) -> bool:
        """Whether its cells have few words and nearly equally many, as names, or are times."""
        return self.words < 2 or (self.spread < 1 and (self.words < 4 or self.times))


def content(cells: Sequence[Any]) -> Content:
    """Look at a column."""
    filled = [text for cell in cells if cell is not None and (text := str(cell).strip())]
    counts, sizes = Counter(filled), [words(text) for text in filled[:SAMPLE]]
    there = {text: n for text, n in counts.items() if text.lower() not in MISSING}
    share = sum(n for text, n in there.items() if is_number(text)) / max(sum(there.values()), 1)
    whole = all(map(is_number, filled)) and all(float(text).is_integer() for text in filled)
    rising = whole and all(float(a) < float(b) for a, b in itertools.pairwise(filled))
    unique = whole and len(counts) == len(filled) >= 30
    return Content(
        len(filled), counts, share, rising or unique,
        sum(sizes) / max(len(sizes), 1), min(sizes, default=0), statistics.pstdev(sizes or [0]),
        all(map(TIME.search, filled[:SAMPLE])), all(isinstance(cell, list) for cell in cells),
        not any(text.startswith(("[{", "[[")) for text in counts),
        len(counts) > 4 and all(map(ID.fullmatch, filled)),
    )  # fmt: skip


# --------------------------------------------------------------------------------------- header


def header(first: Sequence[str], below: list[Content], wanted: Mapping[str, bool],
           columns: Mapping[str, str]) -> tuple[bool, str]:  # fmt: skip
    """Whether the first row is a header, and why.

    For it speak: it has a name that ``columns`` asks for, or two that columns usually have; words
    stand above numbers; its cell is none of the few values below; if nothing else speaks, one or
    two words above many texts, or a question above none. Against it: a number above numbers; a cell
    that also stands below; a text of six words.

    Args:
        first: the cells of the first row.
        below: what is in the other rows.
        wanted: role → whether it is needed.
        columns: role → name or number, as asked for.

    Raises:
        ValueError: nothing speaks for or against it, or both.
    """
    first = [cell.strip() for cell in first]
    asked = [part for name in columns.values() for part in (name, *name.split("+"))]
    named = [name for name in asked if name in first and not name.isdigit()]
    if named:
        return True, f"--columns names {named[0]!r}, which stands in it"
    for_it, against, shorter = [], [], []
    if first == [str(i) for i in range(len(first))] and any(each.text for each in below):
        for_it.append("its cells are 0, 1, ... as pandas names columns")
    elif found := known_names(first, wanted):
        for_it.append(f"it has the names {', '.join(map(repr, found))}")
    for cell, column in zip(first, below, strict=True):
        asks = cell.endswith("?") and column.rows >= 10 and len(first) > 1
        if asks and not any(text.endswith("?") for text in column.counts):
            shorter.append(f"{cell!r} is a question, and nothing below it is")
        elif words(cell) >= 6:
            against.append(f"{cell[:30]!r}... is a text of {words(cell)} words")
        if not cell or not column.rows:
            continue
        if column.numbers:
            if not is_number(cell):
                for_it.append(f"{cell!r} stands above numbers")
            elif not for_it:
                against.append(f"{cell!r} is a number, as all below it")
        elif column.counts[cell]:
            against.append(f"{cell!r} also stands below it")
        elif column.few and column.rows >= 10 and not 3 < max(map(words, first)) < 6:
            rare = sum(count == 1 for count in column.counts.values())
            if 50 * rare <= column.rows:
                values = f"{len(column.counts)} values in the {column.rows} rows below"
                for_it.append(f"{cell!r} is none of the {values}")
        elif column.rows >= 50 and words(cell) <= 2 and column.shortest >= 4:
            shorter.append(f"{cell!r} is shorter than every text below it")
    if not for_it and not against:
        for_it = shorter
    if bool(for_it) != bool(against):
        return bool(for_it), (for_it or against)[0]
    reasons = f": {for_it[0]}, but {against[0]}" if for_it else ""
    raise ValueError(f"is its first row, {first}, a header{reasons}? Say --header or --no-header")


def known_names(first: Sequence[str], wanted: Mapping[str, bool]) -> list[str]:
    """The column names in a first row, if it has at least two, or its only cell is one."""
    found = by_name(first, list(wanted))
    known = [cell for cell in first if any(cell.lower() in names for names in NAMES.values())]
    enough = len(known) >= min(2, len([cell for cell in first if cell]))
    return known if found and enough else []


# -------------------------------------------------------------------------------------- columns


def by_name(names: Sequence[str], roles: Sequence[str], taken: Sequence[int] = ()) -> dict:
    """Role → position of the first column whose name is known and free."""
    lower, found = [str(name).strip().lower() for name in names], {}
    for one, other in PAIRS if "text" in roles and "pair" in roles else ():
        if one in lower and other in lower and not taken:
            found = {"text": lower.index(one), "pair": lower.index(other)}
            break
    for role in roles:
        if role in found:
            continue
        free = [i for i in range(len(names)) if i not in {*found.values(), *taken}]
        fitting = [i for name in NAMES[role] for i in free if lower[i] == name]
        if fitting:
            found[role] = fitting[0]
    return found


def as_asked(names: Sequence[str], columns: Mapping[str, str]) -> dict[str, int]:
    """Role → position, as asked for: a number is the number of a column, from 1."""
    positions = {}
    for role, name in columns.items():
        by_number = int(name) - 1 if str(name).isdigit() and 0 < int(name) <= len(names) else None
        named = names.index(name) if name in names else None
        if named is not None and by_number is None:
            refuse_twins(names, role, named)
        if by_number is None and named is None:
            raise ValueError(f"no column {name!r} for {role}; there are {names}")
        if None not in (by_number, named) and by_number != named:
            raise ValueError(
                f"{name!r} is the number of a column and the name of another; rename that one"
            )
        positions[role] = named if by_number is None else by_number
    if len(set(positions.values())) < len(positions):
        raise ValueError(f"--columns takes one column twice: {dict(columns)}")
    return positions


def refuse_twins(names: Sequence[str], role: str, at: int) -> None:
    """Notice that another column has the name of the one at ``at``.

    Raises:
        ValueError: there is one.
    """
    twins = [i for i, name in enumerate(names, 1) if name.lower() == names[at].lower()]
    if len(twins) > 1:
        what = "each have tags" if role == "tags" else f"are both called {names[at]!r}"
        ways = " or ".join(f"{role}={number}" for number in twins)
        raise ValueError(
            f"columns {' and '.join(map(str, twins))} {what}; say which one it is: --columns {ways}"
        )


def match_columns(
    names: list[str], cells: Callable[[int], Sequence[Any]], wanted: Mapping[str, bool],
    columns: Mapping[str, str], say: Callable[[str], None],
) -> dict[str, int]:  # fmt: skip
    """Role → position of its column: as asked for, else by its name, else by what is in it.

    A label has few distinct values, a score is the one column of numbers, texts are texts, in their
    order; ``say`` gets what was seen.

    Args:
        names: of the columns; numbers where there is no header.
        cells: number of a column → its cells.
        wanted: role → whether it is needed.
        columns: role → name or number.

    Raises:
        ValueError: no column, or more than one, is what is needed.
    """
    positions = as_asked(names, columns)
    roles = [role for role in wanted if role not in positions]
    if names == [*"1234"] and not columns and {"text", "label"} <= set(roles):
        label, mark = content(cells(1)), set(cells(2))
        if set(label.counts) <= {"0", "1"} and mark <= {"", "*"}:
            say("the four columns of GLUE's CoLA: source, label, mark, text")
            return by_name(COLA, ["text", "label"])
    positions |= by_name(names, roles, list(positions.values()))
    for role in roles:
        if role in positions and (wanted[role] or role != "tags"):
            refuse_twins(names, role, positions[role])
    if "label" in roles and "label" in positions:
        refuse_rivals(names, cells, positions)
    missing = [role for role, needed in wanted.items() if needed and role not in positions]
    refuse_swapped(names, cells, positions, [role for role in roles if role in positions])
    if not missing:
        return {role: positions[role] for role in wanted if role in positions}
    free = {i: content(cells(i)) for i in range(len(names)) if i not in positions.values()}
    for role in missing:
        if role not in TEXTS and (found := by_content(role, names, free, say)) is not None:
            positions[role] = found
            free.pop(found)
    positions |= texts_by_content(names, free, positions, wanted, missing, say)
    second = "pair" in roles and not wanted["pair"] and "pair" in positions
    if second and "text" in missing and "text" not in positions:  # perhaps it is the only text
        at = positions.pop("pair")
        free[at] = content(cells(at))
        positions |= texts_by_content(names, free, positions, wanted, missing, say)
    if missing := [role for role in missing if role not in positions]:
        free = {i: column for i, column in free.items() if i not in positions.values()}
        two = "two texts in a row are needed (for one there is `minibert finetune classify`); "
        two *= "pair" in missing and len(fitting("text", free)) < 2
        one = "; if these are several, what separates them (--delimiter)?" * (len(names) == 1)
        raise ValueError(
            f"{two}which columns are {', '.join(missing)}? It has "
            f"{names}, such as {[shown(cells(i)[0]) for i in range(len(names))]}"
            f"{example(names, free, wanted, missing)}{one}"
        )
    return {role: positions[role] for role in wanted if role in positions}


def texts_by_content(
    names: Sequence[str], free: Mapping[int, Content], positions: Mapping[str, int],
    wanted: Mapping[str, bool], missing: Sequence[str], say: Callable[[str], None],
) -> dict[str, int]:  # fmt: skip
    """Role → position of the columns of texts, in their order; none if it is not certain.

    Names of people, times and the like are no texts where others are. A second text that is not
    needed is taken if there are no names of columns, and no other column is left.
    """
    lacking, texts = [role for role in missing if role in TEXTS], fitting("text", free)
    varied = [i for i in texts if not free[i].alike]
    texts = varied if len(varied) >= len(lacking) else texts
    may = [role for role in ("text", "pair") if role in wanted and role not in positions]
    more = len(texts) > len(lacking) and "text" in lacking
    if more and (len(positions) + len(texts) < len(names) or not all(map(str.isdigit, names))):
        return {}
    if not lacking or not len(lacking) <= len(texts) <= len(may if more else lacking):
        return {}
    found = dict(zip(may if more else lacking, texts, strict=False))
    said = ", ".join(f"{role} = column {names[at]!r}" for role, at in found.items())
    say(f"columns of texts, as seen from what is in them: {said}")
    if more:
        say(f"all of them are read; for one alone: --columns text={called(names, texts[0])}")
    return found


def join_labels(
    names: list[str], rows: list[tuple[int, list]], columns: Mapping[str, str]
) -> tuple[list[str], list[tuple[int, list]], list[int]]:
    """Labels that have a column of 0 and 1 each, asked for as ``labels=a+b+c``, as one column more.

    Returns:
        The names, the rows, and the positions of the columns that were joined.
    """
    asked = columns.get("labels", "")
    if "+" not in asked or asked in names:
        return names, rows, []
    at = [as_asked(names, {"labels": part})["labels"] for part in asked.split("+")]
    rows = [(line, [*cells, {names[i]: cells[i] for i in at}]) for line, cells in rows]
    return [*names, asked], rows, at


def refuse_rivals(
    names: Sequence[str], cells: Callable[[int], Sequence[Any]], positions: Mapping[str, int]
) -> None:
    """Notice another column that may be the label, where the name of the one found is vague.

    Raises:
        ValueError: there is one.
    """
    name = names[positions["label"]]
    for at in range(len(names)) if name.strip().lower() in VAGUE else ():
        column = None if at in positions.values() else content(cells(at))
        if column and column.few and len(column.counts) > 1 and column.words:
            raise ValueError(
                f"is the label {name!r} or {names[at]!r}? Say so: --columns "
                f"label={called(names, positions['label'])} or label={called(names, at)}"
            )


def refuse_swapped(
    names: Sequence[str], cells: Callable[[int], Sequence[Any]], positions: Mapping[str, int],
    found: Sequence[str],
) -> None:  # fmt: skip
    """Look at what is in a text and a label, or in words and tags, that were found by their names.

    Raises:
        ValueError: the label has texts and the text has few values; or the words are tags.
    """
    if {"tokens", "tags"} <= set(found):
        tokens, tags = (
            [word for cell in cells(positions[role]) if isinstance(cell, list) for word in cell]
            for role in ("tokens", "tags")
        )
        if is_scheme(map(str, tokens)) and not is_scheme(map(str, tags)):
            right = f"tokens={positions['tags'] + 1} tags={positions['tokens'] + 1}"
            raise ValueError(f"the tags stand first; give --columns {right}")
    if not {"text", "label"} <= set(found):
        return
    text, label = content(cells(positions["text"])), content(cells(positions["label"]))
    if text.few and label.text and label.words > text.words:
        name, other = names[positions["text"]], names[positions["label"]]
        raise ValueError(
            f"{other!r} has texts and {name!r} has {len(text.counts)} values: the names are "
            f"swapped. Correct them, or say --columns text={other} label={name}"
        )


def fitting(role: str, free: Mapping[int, Content]) -> list[int]:
    """The columns that can be this role by what is in them."""
    fits = {
        "label": lambda column: (
            column.few and len(column.counts) > 1 and (column.words or not column.times)
        ),
        "score": lambda column: column.share >= 0.8 and not column.counter,
        "labels": lambda column: column.lists,
        **dict.fromkeys(("tokens", "tags"), lambda column: column.lists and column.plain),
        **dict.fromkeys(TEXTS, lambda column: column.text),
    }.get(role, lambda column: False)
    return [i for i, column in free.items() if fits(column)]


def by_content(
    role: str, names: Sequence[str], free: Mapping[int, Content], say: Callable[[str], None]
) -> int | None:
    """The one column that can be this role by what is in it; None: there is none, or several.

    Raises:
        ValueError: for a score there is a distance.
    """
    found = fitting(role, free)
    if len(found) != 1:
        return None
    (at,) = found
    if role == "score" and DISTANCE.search(names[at]):
        raise ValueError(
            f"is {names[at]!r} small where two texts are alike? Then turn it round, as in 1 - "
            f"distance, and call it score; if not: --columns score={called(names, at)}"
        )
    values = free[at].counts
    some = lines([shown(value) for value, _ in values.most_common()], "value", 4)
    say(f"{role} = column {names[at]!r}, as seen from its {len(values)} {some}")
    return at


def example(
    names: Sequence[str], free: Mapping[int, Content], wanted: Mapping[str, bool],
    missing: Sequence[str],
) -> str:  # fmt: skip
    """How ``--columns`` would name what is missing, as far as its content tells."""
    given: dict[str, int] = {}
    for role in missing:
        left = {i: column for i, column in free.items() if i not in given.values()
                and len(column.counts) > 1 and not is_id(names[i], column)
                and not (column.times and column.words < 3)}  # fmt: skip
        kind = "text" if role in ("question", "context") else role
        varied = [i for i in fitting(kind, left) if kind not in TEXTS or not left[i].alike]
        other = [i for i in left if kind not in TEXTS or not left[i].numbers]
        fits = [*varied, *fitting(kind, left), *other]
        if not fits:
            return f", but none looks like the {role}; name it: --columns {role}=NAME"
        given[role] = fits[0]
    each = {role: called(names, at) for role, at in given.items()}
    flags = [i for i, column in free.items() if {0, 1} >= {*map(number_of, column.counts or "?")}]
    if "labels" in each and len(flags) > 1:  # a column for each
        each["labels"] = "+".join(called(names, at) for at in flags)
    asked = "--columns " + " ".join(f"{role}={name}" for role, name in each.items())
    texts = [i for i in fitting("text", free) if i not in given.values() and not free[i].alike]
    if "text" in given and texts and (may := [role for role in TEXTS if wanted.get(role) is False]):
        asked += f" (or with one text more: {asked} {may[0]}={called(names, texts[0])})"
    return f"; name them, as in {asked}"


def is_id(name: str, column: Content) -> bool:
    """Whether a column names or counts the rows."""
    return column.counter or column.ids or bool(NAMED_ID.search(str(name)))


def called(names: Sequence[str], at: int) -> str:
    """A column as ``--columns`` can name it: its name if that is a plain word, else its number."""
    plain = re.fullmatch(r"\w+", names[at]) and names.count(names[at]) == 1
    return names[at] if plain and not names[at].isdigit() else str(at + 1)


def shown(cell: object, n: int = 40) -> str:
    """A cell, cut to show it in a line."""
    text = " ".join(str(cell).split())
    return text if len(text) <= n else text[: n - 3] + "..."
