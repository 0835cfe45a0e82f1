"""How the pictures of the notebooks look: small, plain, readable in grey and by the colour-blind.

    import style
    style.use()

One figure is 6.4 × 3 inches at 100 dots an inch, unless a notebook asks for another size. Lines
differ in colour and in dashes; areas run from dark to light (cividis), so that print keeps them.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes

# Okabe & Ito 2008, those that are dark enough for thin lines; the order alternates dark and light.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]
DASHES = ["-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3))]
GREY = "#666666"


def use() -> None:
    """Set the style for all figures that follow."""
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.0),
            "figure.dpi": 100,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.titlelocation": "left",
            "axes.labelsize": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=DASHES),
            "image.cmap": "cividis",
            "image.interpolation": "nearest",
            "lines.linewidth": 1.5,
            "legend.frameon": False,
            "legend.fontsize": 8,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
        }
    )


def heatmap(
    ax: Axes,
    matrix: np.ndarray,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    low: float | None = None,
    high: float | None = None,
    label: str = "",
    numbers: str = "",
) -> None:
    """Draw a matrix, dark is low and light is high, with the names of its rows and columns.

    Args:
        ax: where.
        matrix: (rows, columns), a numpy array or a tensor without gradient.
        rows: names from top to bottom; None keeps the numbers.
        columns: names from left to right; None keeps the numbers. Long names stand upright.
        low: the value of the darkest colour; None takes the least value.
        high: the value of the lightest colour; None takes the greatest value.
        label: what the values are, with their unit; draws the colour bar.
        numbers: how to write each value into its cell, such as ".2f"; "" writes none.
    """
    values = np.asarray(matrix, dtype=float)
    image = ax.imshow(values, vmin=low, vmax=high, aspect="auto")
    for axis, names in ((ax.xaxis, columns), (ax.yaxis, rows)):
        if names is not None:
            axis.set_ticks(range(len(names)), names)
        axis.set_tick_params(length=0)
    if columns is not None and max(map(len, columns)) > 3:
        ax.tick_params(axis="x", labelrotation=90)
    ax.spines[:].set_visible(False)
    if numbers:
        bottom, top = image.get_clim()
        for (i, j), value in np.ndenumerate(values):
            ink = "black" if value > (bottom + top) / 2 else "white"
            ax.text(j, i, format(value, numbers), ha="center", va="center", color=ink, fontsize=8)
    if label:
        ax.figure.colorbar(image, ax=ax, label=label).outline.set_visible(False)
