"""A parity report as one HTML file: no script, no picture, nothing from anywhere else.

The frame of the page and its style are in ``report.html``.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from minibert.parity.report import BAD, Report, Row

COLUMNS = ("", "tensor", "shape", "largest", "mean", "allowed", "bitwise", "worst place", "why")


def to_html(reports: Sequence[Report]) -> str:
    """The page for one or more reports."""
    page = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    return page.replace("<!-- reports -->", "\n".join(map(section, reports)))


def section(report: Report) -> str:
    """One report: verdict, first difference, diagnosis, table."""
    word = "passed" if report.passed else "failed"
    bad = sum(row.verdict in BAD for row in report.rows)
    exact = sum(row.bitwise for row in report.rows)
    parts = [
        f"<h2>{escape(report.title)}</h2>",
        f'<p><span class="verdict {word}">{word}</span> {len(report.rows)} tensors, '
        f"{exact} bit for bit, {bad} that differ by themselves</p>",
        *(f"<p>{escape(note)}</p>" for note in report.notes),
    ]
    if report.first:
        parts.append(f"<p>The first difference is in <code>{escape(report.first.name)}</code>.</p>")
    if report.shown:
        parts.append(f"<pre>{escape(chr(10).join(report.shown))}</pre>")
    if report.diagnosis:
        parts.append("<p>Which mistake it is:</p>")
        parts.append(f'<pre class="mistake">{escape(str(report.diagnosis))}</pre>')
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    rows = "\n".join(map(table_row, report.rows))
    parts += ['<div class="wide"><table>', f"<thead><tr>{head}</tr></thead>", "<tbody>", rows]
    return "\n".join([*parts, "</tbody></table></div>"])


def table_row(row: Row) -> str:
    """One tensor."""
    shape = " × ".join(map(str, row.shape)) or "one number"
    numbers = {"largest": row.largest, "mean": row.mean, "allowed": row.tolerance}
    cells = [
        f'<td class="mark">{row.verdict}</td>',
        f'<td class="name">{escape(row.name)}</td>',
        f'<td class="n">{shape}</td>',
        *(f'<td class="n" data-label="{k}">{number:.1e}</td>' for k, number in numbers.items()),
        f'<td data-label="bitwise:">{"yes" if row.bitwise else "no"}</td>',
        f'<td class="place">{escape(row.place)}</td>',
        f'<td class="why">{escape(row.reason)}</td>',
    ]
    return f'<tr class="{row.verdict}">{"".join(cells)}</tr>'
