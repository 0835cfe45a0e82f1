"""Unused columns: what a column that has no role in a task may yet say about its rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from minibert.training.data.columns import BOOLEANS, NAMES, Content, content, is_number, shown
from minibert.training.data.tables import Table, some

# What says that a row does not count: Prodigy, Argilla, Label Studio.
REJECTED = {"answer": ("reject", "ignore"), "status": ("discarded",), "was_cancelled": ("true",)}
PART = re.compile(  # what part of a data set a row belongs to, and a column that says whether
    r"(train(ing)?|dev(el(opment)?)?|val(id(ation)?)?|eval(uation)?|hold-?out|"
    r"(public|private)?[ _-]?test(ing)?)([ _-].*|\d*)|(训练|验证|测试|开发)集?", re.IGNORECASE
)
WHETHER = re.compile(r"(is|in|for)[ _-]?(train|test|dev|val)(ing|idation)?", re.IGNORECASE)
CHOICE = re.compile(r"(?i:choice|option|ending|sol|answer|opt)[ _]?[0-9a-eA-E]|[A-E]")
ALIKE = re.compile(  # what says whether two texts belong together
    r"(.*_)?(labels?|duplicate|score|similar(ity)?|paraphrase|match|relevan(t|ce)|judge?ment)"
    r"|similarity_score|quality|distance"
)
UNSAID = re.compile(r"(.*_)?labels?|\d+")  # names that do not say what 0 and 1 mean
NEGATIVE = re.compile(r"(hard[_ -]?)?neg(ative)?s?[_ -]?\d*", re.IGNORECASE)
YES = "1", "1.0", "true", "yes", "entailment", "duplicate", "paraphrase"
NO = "0", "0.0", "false", "no", "neutral", "contradiction", "not_entailment", "-"
YES_OR_NO = {  # in other languages too
    *YES, *NO, *BOOLEANS, *"y n t f ja nein nee oui non si sí sì no sim não да нет tak nie".split(),
    *"是 否 对 错 はい いいえ 예 아니오".split(),
}  # fmt: skip
HARMLESS = re.compile(  # a column of two values by this name says nothing of what is to be learnt
    r"(?i)(.*[_ -])?(id|genre|topic|domain|source|language|lang|gender|sex|split|set|fold|author|"
    r"annotator|group|level|date|type|licen[cs]e|version|origin|corpus|(data|sub)set)([_ -]?\d)?"
)
Rows = list[tuple[int, list]]


def heed_unused(
    table: Table, rows: Rows, names: Sequence[str], positions: Mapping[str, int],
    truth: Sequence[str], say: Callable[[str], None],
) -> Rows:  # fmt: skip
    """The rows that count, as the columns say that are not used.

    A row that annotators did not accept becomes a problem of the table. Pairs that are to belong
    together (there is no ``truth`` about them) are left out if a column says that they do not.

    Raises:
        ValueError: there are parts such as train and test in one file, or several choices in a row;
            or it is not certain which pairs belong together, or which questions have an answer.
    """
    choices = [
        repr(name) for at, name in enumerate(names)
        if at not in positions.values() and CHOICE.fullmatch(str(name))
        and content([cells[at] for _, cells in rows]).words >= 0.5
    ]  # fmt: skip
    if len(choices) > 1:
        raise ValueError(
            f"{' and '.join(choices[:2])} look like multiple choice, which is no task here; write "
            "a row for each choice, with a label that says whether it is right, or rename them"
        )
    together = {"text", "pair"} <= positions.keys() and not {*truth} & positions.keys()
    read = names[positions["negative"]] if "negative" in positions else "negative"
    more = [name for name in names if name != read and NEGATIVE.fullmatch(str(name).strip())]
    if together and more and read.lower() in NAMES["negative"]:  # else it was asked for
        raise ValueError(
            f"{' and '.join(map(repr, more))}: texts that do not belong? One such column is read, "
            f"a text in each row: write a row for each of them, or say --columns negative={more[0]}"
        )
    for at, name in enumerate(names):
        if at in positions.values():
            continue
        refuse_parts(name, [cells[at] for _, cells in rows])
        no = REJECTED.get(str(name).strip().lower(), ())
        out = [(n, cells[at]) for n, cells in rows if str(cells[at]).strip().lower() in no]
        table.problems += [(n, f"{name!r} says {cell!r}: not to be used") for n, cell in out]
        rows = [row for row in rows if str(row[1][at]).strip().lower() not in no]
        if together:
            rows = belonging(rows, at, name, say)
        if "answers" in positions:
            refuse_unanswered(name, [cells[at] for _, cells in rows])
    return rows


def refuse_unanswered(name: str, cells: Sequence[object]) -> None:
    """Notice a column that may say which questions have no answer.

    Raises:
        ValueError: it says yes of some and no of others; or it is named after answers and says no.
    """
    counts = content(cells).counts
    told = {value.lower() for value in counts}
    two = len(told) == 2 and not HARMLESS.fullmatch(name.strip())
    if told and told <= YES_OR_NO and (two or ("answer" in name.lower() and told & {*NO})):
        raise ValueError(
            f"{name!r} says {' or '.join(counts)}: does it say which questions have no answer? "
            "Then turn it into is_impossible, true where there is none and the answer is empty; "
            "else take it out of the file"
        )


def refuse_parts(name: str, cells: Sequence[object]) -> None:
    """Notice a column that says which rows are to be trained on and which are for measuring.

    Raises:
        ValueError: there are rows of both kinds.
    """
    parts = Counter(str(cell).strip() for cell in cells if cell not in (None, ""))
    trained = [part for part in parts if part.lower().startswith(("train", "训练"))]
    named = len(parts) > len(trained) > 0 and all(map(PART.fullmatch, parts))
    if named or (len(parts) == 2 and WHETHER.fullmatch(str(name).strip())):
        told = ", ".join(f"{part} {n}" for part, n in parts.items())
        raise ValueError(
            f"{name!r} names parts: {told}; write each into a file of its own, for TRAIN, --dev "
            "and --test"
        )


def two_values(column: Content) -> bool:
    """Whether a column says one of two things: yes or no, or two short values, each repeated."""
    short = all(n > 1 and len(value) <= 20 for value, n in column.counts.items())
    return len(column.counts) == 2 and (short or {*map(str.lower, column.counts)} <= YES_OR_NO)


def belonging(rows: Rows, at: int, name: str, say: Callable[[str], None]) -> Rows:
    """The pairs that belong together, if a column says which do.

    Raises:
        ValueError: it does not say so for certain; or none does.
    """
    told = [str(cells[at]).strip().lower() for _, cells in rows]
    unsaid = bool(UNSAID.fullmatch(name.strip().lower())) and all(map(is_number, told))
    certain = {*told} <= {*YES, *NO} and not unsaid
    column = content([cells[at] for _, cells in rows])
    if name.isdigit():  # there are no names
        small = column.numbers and not column.counter and max(map(float, column.counts)) <= 5
        says = certain or small
    else:
        says = bool(ALIKE.fullmatch(name.strip().lower()))
        if not says and two_values(column) and not HARMLESS.fullmatch(name.strip()):
            says, certain = True, False
    if not says or not column.rows:
        return rows
    if not certain:
        values = some([shown(value) for value, _ in column.counts.most_common()])
        one = "; or if it is 1, and not 0 as in RTE and QNLI, call it is_duplicate"
        raise ValueError(
            f"{name!r} has {len(column.counts)} values, such as {values}: which say that two texts "
            "belong together? Write those rows alone into a file without this column; or learn "
            "it: minibert finetune similarity for scores, classify for classes"
            f"{one * ({*told} <= {*YES, *NO})}; if it says something else, take it out"
        )
    kept = [row for row, word in zip(rows, told, strict=True) if word in YES]
    nos = " or ".join(shown(value) for value in column.counts if value.lower() not in YES)
    if not kept:
        raise ValueError(f"no pair belongs together: {name!r} says {nos} of all")
    if len(kept) < len(rows):
        say(f"{len(rows) - len(kept)} of {len(rows)} pairs are left out: {name!r} says {nos}, so "
            "they do not belong together")  # fmt: skip
    return kept
