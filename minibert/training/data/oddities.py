"""Oddities: what looks wrong in the examples of a file and may be right."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from minibert.training.data.columns import (
    CHINESE,
    MISSING,
    TEXTS,
    WORD,
    is_number,
    number_of,
    shown,
)
from minibert.training.data.tables import lines, some
from minibert.training.entities import TAG, is_scheme

# UTF-8 that was read as Windows-1252 or Latin-1. A dash or a quote may also follow a plain Ã.
GARBLED = (
    "[ÃÂÐÑØÙ][\x80-\xbf€‚ƒ„†‡ˆ‰Š‹ŒŽ˜™š›œžŸ]|â€|ðŸ|"
    "(?<![A-ZÀ-Þ])Ã[‘’“”•–—…]|Ã[‘’“”•–—…](?=[A-Z])"
)
ENTITY = (
    "&(?:#[0-9]{2,7}|#x[0-9a-fA-F]{2,6}|amp|lt|gt|quot|apos|nbsp|[lr][sd]quo|[mn]dash|hellip|euro|"
    "szlig|[aeiouncAEIOUNC](?:uml|acute|grave|circ|tilde|cedil));"
)
ELEMENT = (
    r"</\w+>|\[/\w+\]|<(?:a|b|br|div|em|font|h[1-6]|i|img|li|ol|p|span|strong|table|td|tr|u|ul)"
    r"(?:\s+[\w-]+\s*=[^<>]*)?\s*/?>"
)
YES_NO = dict.fromkeys("ja oui sí sì si sim да tak".split(), "yes")
YES_NO |= dict.fromkeys("nein non não nee нет nie".split(), "no")
ODD = {  # what is said of a text, with {} for what was found in it → how it is found
    "a text that says only N/A, nan or null":
        rf"(?i)\A\s*(?:{'|'.join(map(re.escape, MISSING))})\s*\Z",
    "broken characters (\ufffd): saved in a wrong encoding": "\ufffd",
    "UTF-8 that was read as another encoding: 'Ã©' for 'é'": GARBLED,
    "bytes as Python prints them, b'...'; decode them before they are written":
        r"""(?s)\A\s*b(['"]).*\1\s*\Z""",
    "HTML, such as {}; html.unescape in Python makes characters of it": ENTITY,
    "HTML, such as {}, is read as text": ELEMENT,
    "a time in front, such as {}, as in chats; take times and names away if they are no text":
        r"\A\W?\d{1,4}([-./])\d{1,2}\1\d{2,4},? \d{1,2}:\d\d|\A\[\d{1,2}:\d\d|\A\d{1,2}:\d\d\t|"
        r"\A\d{4}([-./])\d{1,2}\2\d{1,2}\(\w\)",
    "a mark of a transcript, such as {}; take marks and codes away if they are no text":
        r"\A(?:\*\*\* ?(?:START|END) OF|@(?:Begin|End|Participants:|ID:)|\*[A-Z]{2,4}:|%[a-z]{3}:)",
    "a word cut by a hyphen at the end of the line, as in text copied from a PDF":
        r"[-\xad\xac](?<=[^\W\d_].)\s*\Z",
    "question marks instead of letters, such as {}: saved in a wrong encoding":
        r"(?:\?{2,}\W+){2,}|[^\W\d_A-Z]\?+[^\W\d_A-Z](?!\w*[=&])",
    "{}, which Python or JSON writes for another character, is read as it stands":
        r"\\n(?![a-z])|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}",
    "bytes as e-mail writes them, such as {}": r"(?:=[0-9A-F]{2}){2}",
    "a list of words, as Python writes it": r"""(?s)\A\s*\[(['"]).*\1\s*\]\s*\Z""",
    "pieces of words, such as {}": r"\w@@ | ##[a-z]+|\u2581\w+",
    "a text that is a number":
        r"\A\W*(?i:p\.|page|seite)?\s*[\d.,]*\d(?: \w+ \d+|(?:\s\d+)+)?\W*\Z",
    "a tree in brackets instead of a text": r"\A\s*\(\w*\s*\(\w+ .*\)\)\s*\Z",
}  # fmt: skip
OFTEN = {  # what is said if it is true of many texts
    "begin with a number, mark, name or time, such as {}; take these away if they are no text":
        r"\A\s*(?:\W{0,2}\d\S*|[@#*>\\<{\[%=+|~^}]\S*|\w[\w ]{0,20}:(?=\s)|\w{1,12}：|"
        r"msg(?:id|str)\b|\w+\s*=\s*[{\"]|[A-Z][A-Z0-9]\s+-(?=\s))|\d:\d",
    "have one or two words, such as {}": r"\A\s*[!-\u024f]+(?:\s[!-\u024f]+)?\s*\Z",
    "have {} between two parts; each line is read as one text":
        r"\s(?:=|=>|->|→|~|:{2,}|\|{2,}|\.{4,})\s|@\w+\Z",
    "have tags in them, such as {}": r"\A(?:\S+[/_][A-Z$.,:]+\s+){3,}",
    "have no blanks, such as {}": r"\A[!-~]{20,}\Z",
    "end with {}; were they cut short?": r"(?:\.\.\.|…)\s*\Z",
    "begin with an apostrophe that nothing closes": r"\A'[^']*\Z",
}
ALWAYS = [*OFTEN][-3:]  # in texts of any task
SPOILT = re.compile(  # labels that a spreadsheet has changed
    r"(?i)\d{1,2}[-. ](jan|feb|m[aä]r|mrz|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])\w*"
    r"|(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)-\d{2}|\d[.,]\d+e\+\d+"
)
PARTED = re.compile(r"\s*[,;|]\s*|(?<=\w)#|\s+(?:[-/+&]\s+|(?=#))")
NONE = (  # what people call no answer
    "none", "unknown", "?", "no answer", "no response", "don't know", "not applicable", "missing",
    "undefined", "n.a.", "k.a.", "keine angabe", "weiß nicht", "sans réponse", "ne sait pas",
    "sin respuesta", "no sabe", "未知", "无", "不知道",
)  # fmt: skip
CODES = "9 99 999 9999 -1 -9 -99 -999".split()  # for no answer, in survey data
SEGMENTED = re.compile(rf"[{CHINESE}]\d")
STOPS = (".", "!", "?", "。", "！", "？")
INSIDE = re.compile(r"[.!?][\"”]?\s+\S|[。！？](?=[^」”])")  # a sentence ends, and another begins
LANGUAGE = re.compile("[a-z]{2,3}:.")
READ = (*TEXTS, "question", "context")
TOTAL = re.compile(  # what stands in front of a row of totals
    r"(?i)(?:(?:grand |sub)?totals?|sum|mean|average|avg|median|sd|std\.?(?: ?dev\.?)?|(end)?summe|"
    r"mittel(?:wert)?|durchschnitt|gesamt|insgesamt|standardabweichung|moyenne|somme|écart-type|"
    r"media|promedio|suma|合计|合計|总计|總計|平均|итого|среднее)(?P<more>[ :.].*)?"
)
Places = Mapping[str, Sequence[int]]  # label → lines


def odd(examples: Sequence, unit: str) -> list[str]:
    """What looks wrong and may be right, a sentence each.

    Raises:
        ValueError: two classes mean the same.
    """
    found: dict[str, list[int]] = defaultdict(list)
    read = [(e.line, text) for e in examples for role in READ if (text := e.values.get(role))]
    foreign = [(line, text) for line, text in read if not text.isascii()]
    for what, pattern in ODD.items():
        compiled, hits = re.compile(pattern), {}
        search = compiled.match if r"\A" in pattern else compiled.search  # match is faster
        for line, text in read if pattern.isascii() else foreign:
            if hit := search(text):
                hits.setdefault(line, hit[0])
        if hits:
            found[what.format(shown(repr(next(iter(hits.values())))))] = [*hits]
    for example in examples:
        if (tags := example.values.get("tags")) and all(map(is_number, tags)):
            found["the tags are numbers; entities need names, such as B-PER"].append(example.line)
        if (tokens := example.values.get("tokens")) and all(map(SEGMENTED.fullmatch, tokens)):
            found["a number after each character, of the words they are in"].append(example.line)
        if tokens and all(map(LANGUAGE.match, tokens)):
            found[f"a language in front of each word, such as {tokens[0]!r}"].append(example.line)
        for what in alike(example.values):
            found[what].append(example.line)
    found |= dict(often(read, {line for where in found.values() for line in where}, examples))
    for where, what in odd_scores([(e.values.get("score"), e.line) for e in examples]):
        found[what] += where
    remarks = []
    for role in ("label", "labels", "tags"):
        places: dict[str, list[int]] = defaultdict(list)
        for example in examples:
            names = example.values.get(role)
            for name in dict.fromkeys([names] if isinstance(names, str) else names or ()):
                places[name].append(example.line)
        found |= dict(odd_labels(places if role != "tags" else {}))
        remarks += [*lookalikes(role, places, unit), *odd_tags(places if role == "tags" else {})]
    if len(examples) > 1 and {len(e.values.get("labels", ())) for e in examples} == {1}:
        remarks.append(
            "every row has exactly one label; if some should have several, a list, or | ; or , "
            "between them is read, or a column of 0 and 1 for each: --columns labels=a+b+c"
        )
    return [f"{what} ({lines(where, unit)})" for what, where in found.items()] + remarks


def totals(rows: Sequence[tuple[int, list]], unit: str) -> list[str]:
    """A warning of rows of totals at the end.

    One has a cell that says so, unlike those above it; if that says more, also a number where
    not all above are numbers.
    """
    found: list[int] = []
    for line, cells in reversed(rows[-6:]):
        above = [row for n, row in rows if n < line]
        said = [hit for at, cell in enumerate(cells) if len(cells) > 1 and above
                and isinstance(cell, str) and (hit := TOTAL.fullmatch(cell.strip()))
                and all(row[at] != cell for row in above)]  # fmt: skip
        number = said and any(is_number(cell) and not all(is_number(row[at]) for row in above)
                              for at, cell in enumerate(cells))  # fmt: skip
        if not any(number or not hit["more"] for hit in said):
            break
        found.insert(0, line)
    where = lines(found, unit)
    return [f"rows of totals or means at the end, if they are no examples ({where})"] * bool(found)


def often(read: Sequence, seen: set[int], examples: Sequence) -> Iterator[tuple[str, list[int]]]:
    """What is true of many texts, in lines where nothing else is odd: (what, lines)."""
    alone = all(example.values.keys() == {"text"} for example in examples)
    for what, pattern in OFTEN.items():
        search = re.compile(pattern).search
        hits = {line: hit[0] for line, text in read if line not in seen and (hit := search(text))}
        if (alone or what in ALWAYS) and 3 < 3 * len(hits) >= len(read) > 3:
            first = shown(repr(next(iter(hits.values())).strip()))
            yield f"{len(hits)} texts {what.format(first)}", [*hits]
    if alone and (broken := broken_lines({e.line: e.values["text"].strip() for e in examples})):
        yield "sentences that go on in the next line, where each line is one text", broken
    own = [e.line for e in examples if len(label := str(e.values.get("label", ""))) > 1
           and re.match(re.escape(label) + r"\W", e.texts[0])]  # fmt: skip
    if 3 < 3 * len(own) >= len(examples) > 3:
        yield "texts that begin with their own label: it can be read off", own
    scores = {score for e in examples if (score := e.values.get("score")) is not None}
    if len(examples) > 8 and 0 < len(scores) <= 3:
        told = some([f"{score:g}" for score in sorted(scores)])
        yield f"no other scores than {told}; are these classes (classify)?", [examples[0].line]
    pairs = [pair for e in examples if "label" not in e.values and (pair := e.values.get("pair"))]
    if len(pairs) > 8 >= 4 * len({*pairs}) and "score" not in examples[0].values:
        yield (
            f"only {len({*pairs})} different second texts; if they are labels, the task is "
            "classify", [example.line for example in examples]
        )  # fmt: skip


def broken_lines(texts: Mapping[int, str]) -> list[int]:
    """The lines that go on in the next, if it is a third; [] if they are whole texts.

    Most capitals then follow a full stop; or the lines are filled: the next word has no room in
    nine of ten, and sentences end inside them.
    """
    go_on, open_end, after_stop, after_none, filled, followed = [], [], 0, 0, 0, 0
    width = max(map(len, texts.values()), default=0)
    for (line, text), (n, below) in itertools.pairwise(texts.items()):
        stops, next_word = text.endswith((*STOPS, ":", '"', "”", "」")), WORD.match(below) or [""]
        if n == line + 1:
            followed += 1
            filled += len(text) + len(next_word[0]) + text[-1:].isascii() > width
            go_on += [line] * (below[:1].islower() and not stops)
            open_end += [line] * (not stops)
        after_stop += below[:1].isupper() and stops
        after_none += below[:1].isupper() and not stops
    inside = sum(bool(INSIDE.search(text)) for text in texts.values())
    if width >= 20 and 10 * inside >= len(texts) and 10 * filled >= 9 * followed:
        go_on = open_end
    elif after_stop < max(after_none, 1):
        return []
    return go_on if 3 * len(go_on) >= len(texts) > 3 else []


def alike(values: Mapping) -> Iterator[str]:
    """Texts of a row that are one and the same, where their difference is to be learnt."""
    text, pair, negative = (plain(values.get(role) or "") for role in TEXTS)
    if pair and not {"label", "labels", "score"} & values.keys():
        if text == pair:
            yield "a text that belongs to itself: there is nothing to learn from it"
        if negative in (text, pair):
            yield "a negative that is the text itself or the one that belongs to it"


def odd_scores(scores: Sequence[tuple[float | None, int]]) -> Iterator[tuple[list[int], str]]:
    """Scores that are far from all others, or a code for a missing one: (lines, what is odd)."""
    numbers = sorted(score for score, _ in scores if score is not None)
    strange = {number for number in numbers if f"{number:g}" in CODES}
    rest = [number for number in numbers if number not in strange]
    if not rest or not (0 <= rest[0] and 2 <= rest[-1] <= 7) or any(n % 1 for n in rest):
        strange = set()
    n = len(numbers)
    gaps = [(right - left, at) for at, (left, right) in enumerate(itertools.pairwise(numbers), 1)
            if 5 * min(at, n - at) <= n]  # fmt: skip
    gap, at = max(gaps, default=(0, 0))
    few, many = sorted((numbers[:at], numbers[at:]), key=len)
    if many and gap > 3 * (many[-1] - many[0]) > 0:
        strange |= {*few}
    if strange:
        told = some([f"{number:g}" for number in sorted(strange)])
        where = [line for score, line in scores if score in strange]
        yield where, f"scores far from the others, {told}; the scale is made to hold them"


def odd_labels(places: Places) -> Iterator[tuple[str, Sequence[int]]]:
    """Labels that may say that there is none: (what is odd, lines)."""
    small = {"0", "1", "2", "3", "4", "5", "6", "7"}
    coded = len(small & {*places}) > 1 and {*places} <= small | {*CODES}
    parts = {label: PARTED.split(label) for label in places if number_of(label) is None}
    counts = Counter(part for found in parts.values() for part in {*found})
    several = [label for label in parts if len(parts[label]) > 1
               and any(part and counts[part] > 1 for part in parts[label])]  # fmt: skip
    if several:
        where = sorted(line for label in several for line in places[label])
        yield f"labels that may be several (multilabel): {some([*map(repr, several)])}", where
    for label, where in places.items():
        if label.startswith('="'):
            yield f"the label {label!r} is a formula, with which Excel guards a value", where
        if SPOILT.fullmatch(label):
            yield f"the label {label!r} looks like what a spreadsheet makes of another", where
        if label.lower() in NONE or (coded and label in CODES):
            beside = " beside small numbers" * (label in CODES)
            yield f"the label {label!r}{beside} may stand for a missing one", where


def lookalikes(role: str, places: Places, unit: str) -> list[str]:
    """Names that look alike, and yet are different classes.

    Raises:
        ValueError: two are the same number, or the same truth value.
    """
    numbers, looks = defaultdict(list), defaultdict(list)
    for label, where in places.items():
        told = f"{label!r} ({lines(where, unit, 5)})"
        looks[YES_NO.get(plain(label), plain(label))].append(told)
        if (number := number_of(label)) is not None:
            numbers[number].append(told)
    what = "tags" if role == "tags" else "labels"
    if same := [" and ".join(alike) for alike in numbers.values() if len(alike) > 1]:
        raise ValueError(f"the {what} {'; '.join(same)} mean the same; write them alike")
    return [
        f"{what} that look alike or say the same are different classes: {' and '.join(alike)}; if "
        "they are one, write them alike in the data"
        for alike in looks.values() if len(alike) > 1
    ]  # fmt: skip


def odd_tags(places: Places) -> Iterator[str]:
    """Tags that are neither those of entities nor free of them; or all are one."""
    for tag, where in places.items() if len(places) == 1 else ():
        if len(where) >= 3:
            yield f"all words have the tag {tag!r}; are the tags in another column (--columns)?"
    if places and not is_scheme(places):
        if is_scheme(map(str.upper, places)):
            yield "tags in lower case: no entities are counted; write B-PER and O"
        if all("*" in tag for tag in places):
            yield f"tags in brackets, such as {[*places][0]!r}, are classes of words; write B-PER"
    entities = [tag for tag in places if tag[1:2] == "-" and TAG.fullmatch(tag)]
    others = [tag for tag in places if tag != "O"]
    if "O" in places and others and not entities and not is_scheme(places):
        yield (
            f"tags such as {others[0]!r} beside O, without B- or I-: all are taken as classes of "
            "words, and no entities are counted; if they mark entities, write B-PER and I-PER"
        )
    if entities and not is_scheme(places):
        odd = [tag for tag in places if not TAG.fullmatch(tag)]
        others = [f"{tag!r} ({lines(places[tag], n=3)})" for tag in odd]
        but = f"{some(others)} not" if others else "there is no O"
        yield (
            f"tags such as {entities[0]!r} mark entities, but {but}: all are taken as classes of "
            "words, and no entities are counted"
        )


def plain(label: str) -> str:
    """A label without case, accents' encoding, widths, spacing and invisible characters."""
    text = unicodedata.normalize("NFKC", label).casefold()
    text = text.replace("i\u0307", "i").replace("ı", "i")  # Turkish: İ and I
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())
