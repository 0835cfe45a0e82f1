"""A parity report as one HTML file: no script, no picture, nothing from anywhere else.

The frame of the page and its style are in ``report.html``.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from textwrap import dedent

from minibert.parity.report import Report, Row

COLUMNS = ("", "tensor", "largest", "mean", "allowed", "bitwise", "shape", "worst place")


def to_html(reports: Sequence[Report]) -> str:
    """The page for one or more reports."""
    page = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    return page.replace("<!-- reports -->", "\n".join(map(section, reports)))


def section(report: Report) -> str:
    """One report: verdict, first difference, diagnosis, table; all tensors on demand."""
    word = "passed" if report.passed else "failed"
    said = report.verdict().partition(": ")[2]
    parts = [
        f"<h2>{escape(report.title)}</h2>",
        f'<p><span class="verdict {word}">{word}</span> {escape(said)}</p>',
    ]
    if report.shown:
        parts.append(f"<pre>{escape(dedent(chr(10).join(report.shown)))}</pre>")
    if report.diagnosis:
        parts.append("<p>Which mistake it is:</p>")
        parts.append(f'<pre class="mistake">{escape(str(report.diagnosis))}</pre>')
    folded = report.folded()
    parts.append(table(folded))
    if len(folded) < len(report.rows):
        every = f"<summary>All {len(report.rows)} tensors</summary>"
        parts.append(f"<details>{every}{table(report.rows)}</details>")
    parts += [f'<p class="note">{escape(note)}</p>' for note in report.remarks()]
    return "\n".join(parts)


def table(rows: Sequence[Row]) -> str:
    """A line for each row."""
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    body = "\n".join(map(table_row, rows))
    page = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    return f'<div class="wide">{page}</div>'


def table_row(row: Row) -> str:
    """One tensor, or several."""
    shape = " × ".join(map(str, row.shape))
    numbers = {"largest": row.largest, "mean": row.mean, "allowed": row.tolerance}
    cells = [
        f'<td class="mark">{row.verdict}</td>',
        f'<td class="name">{escape(row.name)}</td>',
        *(f'<td class="n" data-label="{k}">{number:.1e}</td>' for k, number in numbers.items()),
        f'<td data-label="bitwise">{"yes" if row.bitwise else "no"}</td>',
        f'<td class="n">{shape}</td>',
        f'<td class="place">{escape(row.place)}</td>',
    ]
    return f'<tr class="{row.verdict}">{"".join(cells)}</tr>'
