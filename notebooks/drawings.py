"""The drawn pictures of the notebooks, in one style: boxes are data or layers, arrows show the way.

    import drawings
    drawings.bert()
"""

import matplotlib.pyplot as plt
import style
from matplotlib.axes import Axes

DATA, STEP = "#DCEBF5", "#FBE3D2"  # light enough for black text, apart when printed in grey


def box(ax: Axes, x: float, y: float, text: str, *, width: float, color: str = DATA) -> None:
    """Draw a box with its middle at (x, y), 0.62 high, and a text in it."""
    corner = (x - width / 2, y - 0.31)
    edge = "#0072B2" if color == DATA else "#D55E00"
    ax.add_patch(plt.Rectangle(corner, width, 0.62, facecolor=color, edgecolor=edge, linewidth=0.8))
    ax.text(x, y, text, ha="center", va="center", fontsize=8)


def arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], head: str = "-|>"
) -> None:
    """Draw an arrow from one point to another; with the head "-" it is a line."""
    way = {"arrowstyle": head, "color": style.GREY, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=way)


def canvas(width: float, height: float) -> Axes:
    """Axes without ticks, in units of which one is 0.64 inches wide and 0.5 inches high."""
    _, ax = plt.subplots(figsize=(0.64 * width, 0.5 * height))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return ax


def bert() -> None:
    """What goes into a BERT, what happens there, what comes out, and what is made of it."""
    ax = canvas(10, 9.2)
    tokens = ["[CLS]", "the", "ki", "##ln", "is", "hot", ".", "[SEP]"]
    places = [0.6 + k for k in range(8)]
    middle = sum(places) / 8
    ax.text(middle, 0.25, "“The kiln is hot.”", ha="center", va="center", fontsize=9)
    arrow(ax, (middle, 0.5), (middle, 1.05))
    for x, token in zip(places, tokens, strict=True):
        box(ax, x, 1.4, token, width=0.86)
        for low, high in ((1.71, 2.11), (2.76, 3.14), (6.11, 6.44)):
            arrow(ax, (x, low), (x, high))
        box(ax, x, 6.75, "H", width=0.86)
    box(ax, middle, 2.43, "embeddings: word + segment + position", width=7.9, color=STEP)
    for y, name in ((3.45, "layer 0"), (5.18, "layer L − 1")):
        box(ax, middle, y, f"{name}: attention, tokens look at each other", width=7.9, color=STEP)
        box(ax, middle, y + 0.62, f"{name}: feed-forward, each by itself", width=7.9, color=STEP)
    ax.text(middle, 4.6, "⋮", ha="center", va="center", fontsize=12)
    for x, text, sources in (
        (1.35, "a class of the text", places[:1]),
        (4.1, "a vector of the text", places),
        (6.85, "a word or a tag of a token", places[5:6]),
    ):
        box(ax, x, 8.6, text, width=2.5)
        for source in sources:
            arrow(ax, (source, 7.06), (x, 8.29), head="-")
    for y, text in (
        (0.8, "1: text to ids"), (2.43, "2: embeddings"), (3.45, "3: attention"),
        (4.07, "4: layers"), (6.75, "T vectors"), (8.6, "5, 6: uses"),
    ):  # fmt: skip
        ax.text(8.25, y, text, va="center", fontsize=8, color=style.GREY)
    plt.show()


def heads() -> None:
    """A (T, H) matrix cut into N heads of D columns: T = 2, H = 6, N = 3, D = 2."""
    ax = canvas(10, 3.6)
    colors = (DATA, STEP, "#DDF1E4")
    for t in range(2):
        for k in range(6):
            box(ax, 0.8 + 0.6 * k, 2.0 - 0.62 * t, f"{10 * t + k}", width=0.6, color=colors[k // 2])
    ax.text(2.3, 2.75, "T = 2 tokens of H = 6 features", ha="center", fontsize=8)
    arrow(ax, (4.35, 1.69), (5.15, 1.69))
    for n in range(3):
        for t in range(2):
            for d in range(2):
                x, y = 5.75 + 1.45 * n + 0.6 * d, 2.0 - 0.62 * t
                box(ax, x, y, f"{10 * t + 2 * n + d}", width=0.6, color=colors[n])
        ax.text(6.05 + 1.45 * n, 0.7, f"head {n}", ha="center", fontsize=8, color=style.GREY)
    ax.text(7.5, 2.75, "N = 3 heads of D = 2 features", ha="center", fontsize=8)
    plt.show()


def layer() -> None:
    """One encoder layer: the residual stream goes straight up, both sub-layers add to it."""
    ax = canvas(10, 6.4)
    middle, side = 2.6, 5.9
    ax.text(middle, 0.2, "x: (T, H)", ha="center", fontsize=8)
    for y, name, note in (
        (0.55, "attention", "tokens look at each other"),
        (3.25, "feed-forward", "each token by itself"),
    ):
        arrow(ax, (middle, y), (middle, y + 1.3))
        arrow(ax, (middle, y + 0.25), (side, y + 0.25), head="-")
        arrow(ax, (side, y + 0.25), (side, y + 0.5))
        box(ax, side, y + 0.81, name, width=2.6, color=STEP)
        ax.text(side + 1.45, y + 0.81, note, va="center", fontsize=8, color=style.GREY)
        arrow(ax, (side, y + 1.12), (side, y + 1.55), head="-")
        arrow(ax, (side, y + 1.55), (middle + 0.3, y + 1.55))
        ax.text(middle, y + 1.55, "⊕", ha="center", va="center", fontsize=15)
        arrow(ax, (middle, y + 1.8), (middle, y + 2.05))
        box(ax, middle, y + 2.36, "LayerNorm", width=2.6, color=STEP)
        ax.text(middle - 0.25, y + 0.8, "residual", ha="right", fontsize=8, color=style.GREY)
    arrow(ax, (middle, 5.92), (middle, 6.3))
    plt.show()


def lora() -> None:
    """LoRA: W stays as it is, and a detour through r numbers is added to what it gives."""
    ax = canvas(10, 4.4)
    ax.text(0.5, 2.2, "x", ha="center", va="center", fontsize=10)
    ax.text(0.5, 1.75, "H", ha="center", va="center", fontsize=8, color=style.GREY)
    arrow(ax, (0.75, 2.35), (2.2, 3.3))
    arrow(ax, (0.75, 2.05), (2.2, 1.1))
    box(ax, 4.2, 3.4, "W (H × H), frozen, + b", width=4.0)
    box(ax, 3.0, 1.0, "A (r × H)", width=1.6, color=STEP)
    arrow(ax, (3.8, 1.0), (4.6, 1.0))
    ax.text(4.2, 1.2, "r", ha="center", fontsize=8, color=style.GREY)
    box(ax, 5.4, 1.0, "B (H × r)", width=1.6, color=STEP)
    ax.text(4.2, 0.3, "trained; B starts at zero", ha="center", fontsize=8, color=style.GREY)
    arrow(ax, (6.2, 3.4), (8.0, 2.4))
    arrow(ax, (6.2, 1.0), (8.0, 2.0))
    ax.text(7.35, 1.3, "· s", fontsize=9)
    ax.text(8.2, 2.2, "⊕", ha="center", va="center", fontsize=15)
    arrow(ax, (8.45, 2.2), (9.2, 2.2))
    ax.text(9.5, 2.2, "h", ha="center", va="center", fontsize=10)
    plt.show()


def wordpiece() -> None:
    """Three words and their pieces; ## says that a piece continues a word."""
    ax = canvas(10, 2.5)
    for x, word, pieces in (
        (1.2, "fire", ["fire"]), (4.2, "kiln", ["ki", "##ln"]),
        (7.9, "unglazed", ["un", "##gl", "##az", "##ed"]),
    ):  # fmt: skip
        box(ax, x, 2.1, word, width=1.6)
        for k, piece in enumerate(pieces):
            place = x + 0.95 * (k - (len(pieces) - 1) / 2)
            arrow(ax, (x, 1.79), (place, 1.01))
            box(ax, place, 0.7, piece, width=0.88, color=STEP)
    plt.show()


def pretraining() -> None:
    """Two sentences as BERT sees them in pre-training, and what it has to guess."""
    ax = canvas(11.6, 4.6)
    words = "[CLS] she bakes bread . [SEP] then the baker walks home . [SEP]".split()
    shown = {2: "[MASK]", 8: "forge", 10: "home"}  # hidden, another word, left as it is
    places = [0.45 + 0.76 * k for k in range(len(words))]
    middle = sum(places) / len(places)
    for k, (x, word) in enumerate(zip(places, words, strict=True)):
        ax.text(x, 0.3, "" if word.startswith("[") else word, ha="center", va="center", fontsize=8)
        box(ax, x, 1.35, shown.get(k, word), width=0.72, color=STEP if k in shown else DATA)
        segment = "A" if k < 6 else "B"
        ax.text(x, 0.88, segment, ha="center", va="center", fontsize=7, color=style.GREY)
        arrow(ax, (x, 1.66), (x, 2.04))
        if k in shown:
            arrow(ax, (x, 2.66), (x, 3.34))
            box(ax, x, 3.65, word, width=0.72)
    box(ax, middle, 2.35, "BERT", width=9.84, color=STEP)
    arrow(ax, (places[0], 2.66), (places[0], 3.34))
    box(ax, places[0] + 0.1, 3.65, "B follows", width=1.0)
    for y, text in (
        (0.3, "the text"), (0.88, "segments"), (1.35, "what it sees"), (3.65, "what it guesses"),
    ):  # fmt: skip
        ax.text(10.1, y, text, va="center", fontsize=8, color=style.GREY)
    plt.show()
