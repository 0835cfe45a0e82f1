"""What remains of a run for people to look at: curves, and the text of the model card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, MARGIN = 640, 300, 52
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7d4f9e", "#b8860b")


def curves(
    title: str,
    x_label: str,
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
) -> str:
    """An SVG picture: panels one below the other, each with named curves of (x, y) points.

    Points whose y is not a finite number are left out.
    """
    low_x, high_x = bounds([x for p in panels.values() for curve in p.values() for x, _ in curve])
    shapes = [label(MARGIN, 22, title, 'font-size="16"')]
    for number, (name, panel) in enumerate(panels.items()):
        top = 36 + number * HEIGHT
        bottom, right = top + HEIGHT - 56, WIDTH - MARGIN
        finite = {
            key: [(x, y) for x, y in curve if y is not None and math.isfinite(y)]
            for key, curve in panel.items()
        }
        low_y, high_y = bounds([y for curve in finite.values() for _, y in curve])

        def place(x, y, bottom=bottom, right=right, top=top, low=low_y, high=high_y):
            across = MARGIN + (x - low_x) / (high_x - low_x) * (right - MARGIN)
            return round(across, 1), round(bottom - (y - low) / (high - low) * (bottom - top), 1)

        for y in ticks(low_y, high_y):
            _, level = place(low_x, y)
            shapes.append(f'<path d="M{MARGIN} {level}H{right}" stroke="#ddd"/>')
            shapes.append(label(MARGIN - 6, level + 4, f"{y:g}", 'text-anchor="end"'))
        for x in ticks(low_x, high_x):
            shapes.append(label(place(x, low_y)[0], bottom + 16, f"{x:g}", 'text-anchor="middle"'))
        shapes.append(f'<path d="M{MARGIN} {top}V{bottom}H{right}" fill="none" stroke="#333"/>')
        shapes.append(label(right, bottom + 32, x_label, 'text-anchor="end"'))
        legend = MARGIN
        for colour, (key, curve) in zip(COLOURS * 9, finite.items(), strict=False):
            spots = [place(x, y) for x, y in curve]
            line = " ".join(f"{x},{y}" for x, y in spots)
            shapes.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
            if len(spots) <= 30:
                shapes += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in spots]
            words = f"{name}: {key}" if key else name
            shapes.append(label(legend, bottom + 32, words, f'fill="{colour}"'))
            legend += 7 * len(words) + 16
    height = 36 + len(panels) * HEIGHT
    size = f'width="{WIDTH}" height="{height}"'
    shapes.insert(0, f'<rect {size} fill="white"/>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {height}" '
    return "\n".join([f'{head}font-family="sans-serif" font-size="12">', *shapes, "</svg>", ""])


def label(x: float, y: float, words: str, style: str) -> str:
    """A text in an SVG picture."""
    return f'<text x="{x}" y="{y}" {style}>{escape(words)}</text>'


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest value, made different if they are not."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two bounds, three to seven of them."""
    step = 10.0 ** math.floor(math.log10(high - low))
    step = next(step * f for f in (1, 0.5, 0.25, 0.2, 0.1) if (high - low) / (step * f) >= 3)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def smooth(points: Sequence[tuple[float, float]], n: int = 100) -> list[tuple[float, float]]:
    """At most about n points: the means of equal spans of a curve."""
    size = max(math.ceil(len(points) / n), 1)
    spans = [points[i : i + size] for i in range(0, len(points), size)]
    return [(s[-1][0], sum(y for _, y in s) / len(s)) for s in spans]


def card_text(title: str, facts: Mapping[str, str], settings: Mapping) -> str:
    """The text of the model card: what the model can do, what it was made from."""
    lines = [f"# {title}", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    lines += ["", "Trained with minibert, as follows:", "", "| setting | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in settings.items() if value is not None]
    lines += ["", "`run/` holds the log, the curves and the digests of the data.", ""]
    return "\n".join(lines)
