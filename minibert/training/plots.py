"""What remains of a run for people to look at: curves, and the text of the model card."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT, MARGIN = 640, 300, 52
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7d4f9e", "#b8860b")
Curve = Sequence[tuple[float, float]]  # points (x, y)


def curves(title: str, x_label: str, panels: Mapping[str, Mapping[str, Curve]]) -> str:
    """An SVG picture: panels one below the other, each with named curves of (x, y) points.

    Points whose y is not a finite number are left out.
    """
    x_range = bounds([x for panel in panels.values() for curve in panel.values() for x, _ in curve])
    height, right = 36 + len(panels) * HEIGHT, WIDTH - MARGIN
    size = f'width="{WIDTH}" height="{height}"'
    shapes = [f'<rect {size} fill="white"/>', label(MARGIN, 22, title, 'font-size="16"')]
    for number, (name, panel) in enumerate(panels.items()):
        top = 36 + number * HEIGHT
        bottom = top + HEIGHT - 56
        finite = {
            key: [(x, y) for x, y in curve if y is not None and math.isfinite(y)]
            for key, curve in panel.items()
        }
        y_range = bounds([y for curve in finite.values() for _, y in curve])
        across = scale(x_range, MARGIN, right)
        up = scale(y_range, bottom, top)
        for y in ticks(*y_range):
            shapes.append(f'<path d="M{MARGIN} {up(y)}H{right}" stroke="#ddd"/>')
            shapes.append(label(MARGIN - 6, up(y) + 4, f"{y:g}", 'text-anchor="end"'))
        for x in ticks(*x_range):
            shapes.append(label(across(x), bottom + 16, f"{x:g}", 'text-anchor="middle"'))
        shapes.append(f'<path d="M{MARGIN} {top}V{bottom}H{right}" fill="none" stroke="#333"/>')
        shapes.append(label(right, bottom + 32, x_label, 'text-anchor="end"'))
        legend = MARGIN
        for colour, (key, curve) in zip(COLOURS * 9, finite.items(), strict=False):
            spots = [(across(x), up(y)) for x, y in curve]
            line = " ".join(f"{x},{y}" for x, y in spots)
            shapes.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
            if len(spots) <= 30:
                shapes += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in spots]
            words = f"{name}: {key}" if key else name
            shapes.append(label(legend, bottom + 32, words, f'fill="{colour}"'))
            legend += 7 * len(words) + 16
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {height}" '
    return "\n".join([f'{head}font-family="sans-serif" font-size="12">', *shapes, "</svg>", ""])


def scale(values: tuple[float, float], start: float, end: float) -> Callable[[float], float]:
    """value → place in the picture, on a line from ``start`` to ``end``."""
    low, high = values
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


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


def smooth(points: Curve, n: int = 100) -> Curve:
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
