"""Data: files of any kind become examples; examples are checked and split. Nothing knows a model.

A file goes through ``tables`` (its text), ``files`` and ``conll`` (its format), ``columns`` and
``unused`` (what is what), ``values`` (what a cell is) and ``oddities`` (what looks wrong);
``reading`` is the way through them. ``corpus`` reads plain text for a pre-training.
"""

from minibert.training.data.examples import (
    Example,
    check,
    class_names,
    count_classes,
    refuse_a_class_for_every_row,
    scaled_score,
    score_scale,
    split,
    uneven,
)
from minibert.training.data.reading import Say, locate, read, silent

__all__ = [
    "Example", "Say", "check", "class_names", "count_classes", "locate", "read",
    "refuse_a_class_for_every_row", "scaled_score", "score_scale", "silent", "split", "uneven",
]
