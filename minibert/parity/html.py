"""A parity report as one HTML file: no script, no picture, nothing from anywhere else.

The frame of the page and its style are in ``report.html``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from textwrap import dedent

from minibert.io.language import language, say
from minibert.parity.report import Report, Row, heads


def to_html(reports: Sequence[Report]) -> str:
    """The page for one or more reports."""
    page = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    page = page.replace('lang="en"', f'lang="{language()}"')
    return page.replace("<!-- reports -->", "\n".join(map(section, reports)))


def section(report: Report) -> str:
    """One report: verdict, first difference, diagnosis, table; all tensors on demand."""
    kind = "passed" if report.passed else "failed"
    word, said = re.split("[:：] ?", say(report.verdict()), maxsplit=1)
    parts = [
        f"<h2>{escape(say(report.title))}</h2>",
        f'<p><span class="verdict {kind}">{word.lower()}</span> {escape(said)}</p>',
    ]
    if report.shown:
        parts.append(f"<pre>{escape(dedent(say(chr(10).join(report.shown))))}</pre>")
    if report.diagnosis:
        parts.append(f"<p>{say('Which mistake it is:')}</p>")
        parts.append(f'<pre class="mistake">{escape(str(report.diagnosis))}</pre>')
    folded = report.rows if report.raised else report.folded()
    parts += [] if report.raised else [table(folded)]
    if len(folded) < len(report.rows):
        every = f"<summary>{say(f'All {len(report.rows)} tensors')}</summary>"
        parts.append(f"<details>{every}{table(report.rows)}</details>")
    parts += [f'<p class="note">{escape(say(note))}</p>' for note in report.remarks()]
    return "\n".join(parts)


def table(rows: Sequence[Row]) -> str:
    """A line for each row."""
    head = "".join(f"<th>{column}</th>" for column in ("", *heads()))
    body = "\n".join(map(table_row, rows))
    page = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    return f'<div class="wide">{page}</div>'


def table_row(row: Row) -> str:
    """One tensor, or several."""
    shape = " × ".join(map(str, row.shape))
    _, *labels, bitwise, _, _ = heads()
    numbers = zip(labels, (row.largest, row.mean, row.tolerance), strict=True)
    cells = [
        f'<td class="mark">{say(row.verdict.upper()).lower()}</td>',
        f'<td class="name">{escape(say(row.name))}</td>',
        *(f'<td class="n" data-label="{label}">{number:.1e}</td>' for label, number in numbers),
        f'<td data-label="{bitwise}">{say("yes" if row.bitwise else "no")}</td>',
        f'<td class="place">{escape(say(row.place))}</td>',
        f'<td class="n">{shape}</td>',
    ]
    return f'<tr class="{row.verdict}">{"".join(cells)}</tr>'
