"""A parity report as one HTML file: no script, no picture, nothing from anywhere else."""

from __future__ import annotations

import html
from collections.abc import Sequence

from minibert.parity.report import BAD, Report

STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c62828; --ok: #2e7d32; --dim: #666; }
@media (prefers-color-scheme: dark) { :root { --bad: #e5605c; --ok: #5fb563; --dim: #a0a0a0; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 90rem; }
body { padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.verdict { display: inline-block; padding: .1rem .6rem; border-radius: .3rem; color: #fff; }
.passed { background: #2e7d32; } .failed { background: #c62828; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: Canvas; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.name { font-family: ui-monospace, monospace; white-space: nowrap; }
td.why, td.place { color: var(--dim); }
tr.differs, tr.shape, tr.missing { background: #c6282822; }
tr.follows { background: #f9a82518; }
.mark { font-weight: 600; } .differs .mark, .shape .mark, .missing .mark { color: var(--bad); }
.equal .mark, .padding .mark { color: var(--ok); }
pre { background: #8881; padding: .8rem; overflow-x: auto; border-radius: .3rem; }
.mistake { border-left: .25rem solid var(--bad); padding: .2rem 1rem; margin: 1rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .4rem 0; }
dt { color: var(--dim); } dd { margin: 0; }
@media (max-width: 40rem) {
  body { font-size: 14px; }
  thead { display: none; } tr { display: block; padding: .3rem; }
  td { display: inline-block; border: 0; padding: .05rem .5rem .05rem 0; }
  td.mark { width: 4rem; vertical-align: top; }
  td.name { width: calc(100% - 5rem); white-space: normal; overflow-wrap: anywhere; }
  td.why, td.place { display: block; } td[data-label]::before { content: attr(data-label) " "; }
}
"""
COLUMNS = ("", "tensor", "shape", "largest", "mean", "allowed", "bitwise", "worst place", "why")


def to_html(reports: Sequence[Report]) -> str:
    """The page for one or more reports."""
    parts = [section(report) for report in reports]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>minibert parity</title>\n<style>{STYLE}</style></head>\n<body>\n"
        "<h1>minibert parity</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def section(report: Report) -> str:
    """One report: verdict, first difference, diagnosis, table."""
    word = "passed" if report.passed else "failed"
    bad = sum(row.verdict in BAD for row in report.rows)
    exact = sum(row.bitwise for row in report.rows)
    parts = [
        f"<h2>{escape(report.title)}</h2>",
        f'<p><span class="verdict {word}">{word}</span> {len(report.rows)} tensors, '
        f"{exact} bit for bit, {bad} that differ by themselves</p>",
    ]
    parts += [f"<p>{escape(note)}</p>" for note in report.notes]
    if report.first:
        parts.append(f"<p>The first difference is in <code>{escape(report.first.name)}</code>.</p>")
    if report.shown:
        parts.append(f"<pre>{escape(chr(10).join(report.shown))}</pre>")
    if report.diagnosis:
        parts.append(diagnosis(report))
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    rows = "\n".join(table_row(row) for row in report.rows)
    parts.append(
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n'
        "</tbody></table></div>"
    )
    return "\n".join(parts)


def diagnosis(report: Report) -> str:
    """The mistakes that explain the difference, or what is nearest."""
    found = report.diagnosis
    if not found.answers:
        return f'<div class="mistake"><p>{escape(str(found))}</p></div>'
    parts = []
    for number, answer in enumerate(found.answers):
        if number:
            parts.append("<p>or, which gives the same numbers here:</p>")
        for mistake in answer:
            hides = "; ".join(f"{m.title} [{m.key}]" for m in found.hidden.get(mistake.key, []))
            entries = [("seen", mistake.effect), ("cure", mistake.cure), ("known", mistake.source)]
            if hides:
                entries.append(("hides", "beside it these change no number, so they may be there "
                                f"too; mend it and run again: {hides}"))
            terms = "".join(
                f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in entries if text
            )
            parts.append(
                f'<div class="mistake"><strong>{escape(mistake.title)}</strong> '
                f"<code>{mistake.key}</code><dl>{terms}</dl></div>"
            )
    parts += [
        "<p>or both of these at once, which give the same numbers here: "
        + escape(" + ".join(f"{m.title} [{m.key}]" for m in pair)) + "</p>"
        for pair in found.also
    ]
    if found.harmless:
        parts.append("<p>Only padding differs, which nothing reads if the mask is right.</p>")
    if found.partial:
        parts.append(f"<p>This explains {escape(found.name)}; another difference follows.</p>")
    if len(found.layers) > 1:
        parts.append(f"<p>The same in layers {', '.join(map(str, found.layers))}.</p>")
    return "\n".join(parts)


def table_row(row) -> str:
    """One tensor."""
    shape = " × ".join(map(str, row.shape)) or "one number"
    cells = [
        f'<td class="mark">{row.verdict}</td>',
        f'<td class="name">{escape(row.name)}</td>',
        f'<td class="n">{shape}</td>',
        *(
            f'<td class="n" data-label="{label}">{value:.1e}</td>'
            for label, value in (
                ("largest", row.largest), ("mean", row.mean), ("allowed", row.tolerance))
        ),
        f'<td data-label="bitwise:">{"yes" if row.bitwise else "no"}</td>',
        f'<td class="place">{escape(row.place)}</td>',
        f'<td class="why">{escape(row.reason)}</td>',
    ]
    return f'<tr class="{row.verdict}">{"".join(cells)}</tr>'


def escape(text: str) -> str:
    """Text for HTML."""
    return html.escape(text)
