"""Texts of like length in one batch, batches side by side in threads, a progress bar over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def make_batches(
    lengths: Sequence[int],
    *,
    tokens: int | None = None,
    size: int | None = None,
    padding: int | None = None,
    order: Iterable[int] | None = None,
) -> list[list[int]]:
    """Cut texts into batches; returns the numbers of the texts of each batch.

    A text that is over a limit by itself is a batch of its own.

    Args:
        lengths: tokens of every text.
        tokens: the most tokens in a batch, padding included; None = no limit.
        size: the most texts in a batch; None = no limit.
        padding: the most tokens of padding in a batch; None = no limit.
        order: the order in which texts are put into batches; None = the longest first.

    Raises:
        ValueError: a limit that allows no batch.
    """
    for name, limit, least in (("tokens", tokens, 1), ("size", size, 1), ("padding", padding, 0)):
        if limit is not None and limit < least:
            raise ValueError(f"at most {limit} ({name}) in a batch; it must be at least {least}")
    if order is None:
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    texts = longest = real = 0  # of the batch that is being filled
    for i in order:
        texts, longest, real = texts + 1, max(longest, lengths[i]), real + lengths[i]
        full = (
            (size is not None and texts > size)
            or (tokens is not None and texts * longest > tokens)
            or (padding is not None and texts * longest - real > padding)
        )
        if full or not batches:
            batches.append([])
            texts, longest, real = 1, lengths[i], lengths[i]
        batches[-1].append(i)
    return batches


def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], threads: int
) -> Iterator[Result]:
    """Run ``work`` for every item, on as many threads, and give the results in order.

    Torch by itself splits every operation over its threads, which then wait for each other some
    hundred times in a forward pass. Here each thread takes a whole batch and waits for nobody.
    """
    if threads == 1 or len(items) < 2:
        yield from map(work, items)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a new thread starts with this number
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(work, items)
    finally:
        torch.set_num_threads(before)


def progress(
    items: Iterable[Item],
    total: int,
    unit: str,
    show: bool | None = None,
    size: Callable[[Item], int] | None = None,
) -> Iterator[Item]:
    """Hand on the items; after a second of work, draw on stderr how far it is.

    Args:
        total: the sum of the sizes of all items.
        unit: what is counted: "texts".
        show: True or False; None = where stderr is a terminal.
        size: item → how much of ``total`` it is; None = each is 1.
    """
    from tqdm import tqdm  # huggingface_hub brings it

    disable = None if show is None else not show
    with tqdm(total=total, unit=f" {unit}", delay=1, disable=disable, leave=False) as bar:
        for item in items:
            yield item
            bar.update(1 if size is None else size(item))
