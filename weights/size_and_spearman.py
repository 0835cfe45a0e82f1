"""How good are small sentence encoders? python weights/size_and_spearman.py STSB/test.csv OUT.svg

Measures the two models that are at hand here on the test part of the STS benchmark (1,379 pairs),
and draws them, by the size of their weights, beside figures that others have published.
"""

import math
import sys

from minibert import SentenceEncoder, similarity
from minibert.io.files import write_text
from minibert.io.hub import locate
from minibert.training.data import read
from minibert.training.metrics import spearman
from minibert.training.plots import COLOURS, label, picture, scale

MEASURED = ("minibert-small", "all-MiniLM-L6-v2")
PUBLISHED = {  # MiB of weights, Spearman on STS benchmark test
    "the best public encoder of 16 MiB or less: 0.778": (16, 0.778),
    "potion-base-8M: 29 MiB, 0.754": (29, 0.754),
    "all-MiniLM-L6-v2: 87 MiB, 0.820": (87, 0.820),
}
LEFT, RIGHT, TOP, BOTTOM = 60, 620, 60, 380


def measure(name: str, pairs: str) -> tuple[float, float]:
    """The size of a model's weights in MiB, and its Spearman on scored pairs."""
    rows = read(pairs, ("text", "pair", "score"), say=lambda line: None)
    first, second, scores = ([r.values[role] for r in rows] for role in ("text", "pair", "score"))
    vectors = SentenceEncoder.from_pretrained(name).encode(first + second)
    cosines = similarity.pairwise_cosine_similarity(vectors[: len(rows)], vectors[len(rows) :])
    return (locate(name) / "model.safetensors").stat().st_size / 2**20, spearman(cosines, scores)


def draw(measured: dict[str, tuple[float, float]]) -> str:
    """Full circles were measured here, rings are published figures."""
    across = scale((math.log(10), math.log(128)), LEFT, RIGHT)
    up = scale((0.74, 0.83), BOTTOM, TOP)
    title = "Small sentence encoders: size and Spearman on STS benchmark test"
    shapes = [label(LEFT, 26, title, 'font-size="15"')]
    for y in (0.74, 0.76, 0.78, 0.80, 0.82):
        shapes.append(f'<path d="M{LEFT} {up(y)}H{RIGHT}" stroke="#ddd"/>')
        shapes.append(label(LEFT - 6, up(y) + 4, f"{y:.2f}", 'text-anchor="end"'))
    for size in (16, 32, 64, 128):
        x = across(math.log(size))
        shapes.append(f'<path d="M{x} {BOTTOM}v5" stroke="#333"/>')
        shapes.append(label(x, BOTTOM + 18, str(size), 'text-anchor="middle"'))
    shapes.append(label(RIGHT, BOTTOM + 36, "size of the weights in MiB", 'text-anchor="end"'))
    shapes.append(f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="#333"/>')
    full = f'r="6" fill="{COLOURS[0]}"'
    ring = f'r="9" fill="none" stroke="{COLOURS[1]}" stroke-width="2"'
    here = {f"{name}: {p[0]:.1f} MiB, {p[1]:.4f}": p for name, p in measured.items()}
    for points, circle, colour, aside in (
        (here, full, COLOURS[0], -16),
        (PUBLISHED, ring, COLOURS[1], 26),
    ):
        for words, (size, score) in points.items():
            x, y = across(math.log(size)), up(score)
            shapes.append(f'<circle cx="{x}" cy="{y}" {circle}/>')
            # To the right of its circle; where the picture ends, above or below it.
            place = (x + 16, y + 4, "start") if x < 400 else (x + 9, y + aside, "end")
            shapes.append(label(*place[:2], words, f'fill="{colour}" text-anchor="{place[2]}"'))
    for y, words, circle in ((290, "measured here", full), (314, "published", ring)):
        shapes.append(f'<circle cx="{RIGHT - 110}" cy="{y - 4}" {circle}/>')
        shapes.append(label(RIGHT - 94, y, words, ""))
    return picture(640, BOTTOM + 50, shapes)


if __name__ == "__main__":
    pairs, out = sys.argv[1:]
    write_text(out, draw({name: measure(name, pairs) for name in MEASURED}))
