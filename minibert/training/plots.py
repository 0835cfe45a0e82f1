"""What remains of a run for people to look at: curves, and the text of the model card."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from minibert.io.hub import model_card

WIDTH, HEIGHT, MARGIN = 640, 300, 52
COLOURS = (
    "#1b6ca8", "#c8553d", "#3a7d44", "#7d4f9e", "#b8860b",
    "#00a6a6", "#d1495b", "#6b705c", "#5b8def", "#8d5524",
)  # fmt: skip
Curve = Sequence[tuple[float, float]]  # points (x, y)


def curves(title: str, x_label: str, panels: Mapping[str, Mapping[str, Curve]]) -> str:
    """An SVG picture: panels one below the other, each with named curves of (x, y) points.

    Points whose y is not a finite number are left out.
    """
    x_range = bounds([x for panel in panels.values() for curve in panel.values() for x, _ in curve])
    right, top = WIDTH - MARGIN, 36
    shapes = [label(MARGIN, 22, title, 'font-size="16"')]
    for name, panel in panels.items():
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
        legend, below = MARGIN, bottom + 32
        for colour, (key, curve) in zip(COLOURS * 9, finite.items(), strict=False):
            spots = [(across(x), up(y)) for x, y in curve]
            line = " ".join(f"{x},{y}" for x, y in spots)
            shapes.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
            if len(spots) <= 30:
                shapes += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in spots]
            words = f"{name}: {key}" if key else name
            width = 7 * len(words) + 16
            if legend > MARGIN and legend + width > right - 8 * len(x_label):  # another line of it
                legend, below = MARGIN, below + 16
            shapes.append(label(legend, below, words, f'fill="{colour}"'))
            legend += width
        top = below + 24
    return picture(WIDTH, top, shapes)


def matrix(title: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """An SVG picture of a confusion matrix: true classes down, predicted ones across.

    The darker a field, the larger its share of its row. The numbers are left out where the fields
    are too small for them; holding the mouse over a field shows it in words.
    """
    side = min(max(480 // len(names), 12), 80)
    short = [name if len(name) <= 18 else name[:17] + "…" for name in names]
    left, top = 60 + 7 * max(map(len, short)), 70 + 6 * max(map(len, short))
    size, font = len(names) * side, f'font-size="{min(12, side - 1)}"'
    shapes = [
        label(12, 22, title, 'font-size="16"'),
        label(left, 44, "predicted →", ""),
        label(12, top - 8, "true ↓", ""),
        f'<rect x="{left}" y="{top}" width="{size}" height="{size}" fill="none" stroke="#ddd"/>',
    ]
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        middle = (i + 0.5) * side + 4
        shapes.append(label(left - 8, top + middle, short[i], f'text-anchor="end" {font}'))
        turned = f'transform="rotate(-60 {left + middle} {top - 8})"'
        shapes.append(label(left + middle, top - 8, short[i], f"{turned} {font}"))
        for j, count in enumerate(row):
            if not count and side < 24:  # empty fields of a large matrix would make a large file
                continue
            share = count / max(sum(row), 1)
            words = escape(f"{name} as {names[j]}: {count} ({share:.0%})")
            shapes.append(
                f'<rect x="{left + j * side}" y="{top + i * side}" width="{side}" height="{side}" '
                f'fill="{COLOURS[0]}" fill-opacity="{share:.3f}" stroke="#ddd">'
                f"<title>{words}</title></rect>"
            )
            if side >= 24 and count:
                style = f'text-anchor="middle" fill="{"white" if share > 0.5 else "black"}"'
                x, y = left + (j + 0.5) * side, top + middle
                shapes.append(label(x, y, str(count), f'{style} pointer-events="none" {font}'))
    return picture(max(left + size + 60, 9 * len(title) + 24), top + size + 16, shapes)


def picture(width: float, height: float, shapes: Sequence[str]) -> str:
    """An SVG file of shapes on white."""
    size = f'width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}" '
    white = f'<rect {size} fill="white"/>'
    head += 'font-family="sans-serif" font-size="12">'
    return "\n".join([head, white, *shapes, "</svg>", ""])


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


def card(
    title: str, facts: Mapping[str, str], settings: Mapping, library: str, pipeline: str,
    failed: Sequence[str] = (),
) -> str:  # fmt: skip
    """The model card: what has failed, what the model can do, what it was made from."""
    lines = [f"**{remark}**\n" for remark in failed]
    lines += [f"# {title}", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    lines += ["", "Trained with minibert, as follows:", "", "| setting | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in settings.items() if value is not None]
    lines += ["", "`run/` holds the log, the curves and the digests of the data.", ""]
    return model_card("\n".join(lines), library, pipeline)
