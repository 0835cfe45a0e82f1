"""A progress bar for long work: on stderr, silent where nobody looks and on short work."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
PATIENCE = 1.0  # seconds before the bar appears
INTERVAL = 0.1  # seconds between two drawings


def progress(
    items: Iterable[Item], total: float, label: str, show: bool | None = None, size=None
) -> Iterator[Item]:
    """Hand on the items, drawing how far the work is.

    Args:
        items: what to hand on.
        total: the sum of the sizes of all items.
        label: what is being done, with its unit: "texts".
        show: True or False; None = when stderr is a terminal.
        size: item → how much of ``total`` it is; None = each is 1.
    """
    if show is None:
        show = sys.stderr.isatty()
    done, start, drawn = 0, time.monotonic(), None
    for item in items:
        yield item
        done += 1 if size is None else size(item)
        now = time.monotonic()
        if show and now - start > PATIENCE and (drawn is None or now - drawn > INTERVAL):
            drawn = now
            draw(done, total, label, now - start)
    if drawn is not None:
        draw(done, total, label, time.monotonic() - start)
        print(file=sys.stderr)


def draw(done: float, total: float, label: str, seconds: float) -> None:
    """Draw the bar over the one before."""
    share = min(done / total, 1) if total else 1
    left = seconds / share - seconds if share else 0
    bar = "#" * round(24 * share)
    line = f"{bar:<24} {share:4.0%}  {done:,} of {total:,} {label}  {done / seconds:,.0f}/s"
    print(f"\r{line}  {left:.0f} s left   ", end="", file=sys.stderr, flush=True)
