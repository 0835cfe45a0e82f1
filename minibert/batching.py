"""Texts of like length in one batch, batches side by side in threads, a progress bar over them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")


def make_batches(
    lengths: Sequence[int],
    *,
    tokens: int | None = None,
    size: int | None = None,
    padding: int | None = None,
    order: Iterable[int] | None = None,
) -> list[list[int]]:
    """Cut texts into batches; returns the indices of the texts in each batch.

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
            raise ValueError(f"{name} in a batch must be at least {least}, not {limit}")
    if order is None:
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    count = longest = real = 0  # texts, longest text, tokens of the batch that is being filled
    for i in order:
        count, longest, real = count + 1, max(longest, lengths[i]), real + lengths[i]
        full = (
            (size is not None and count > size)
            or (tokens is not None and count * longest > tokens)
            or (padding is not None and count * longest - real > padding)
        )
        if full or not batches:
            batches.append([])
            count, longest, real = 1, lengths[i], lengths[i]
        batches[-1].append(i)
    return batches


def side_by_side(work: Callable[[Item], None], items: Sequence[Item], threads: int) -> None:
    """Call ``work`` for every item, on that many threads.

    Torch by itself splits every operation over its threads, which then wait for each other some
    hundred times in a forward pass. Here each thread takes a whole batch and waits for nobody.
    """
    if threads == 1 or len(items) < 2:
        for item in items:
            work(item)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that are started from now on inherit it
    try:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(work, items):  # raises what a worker raised
                pass
    finally:
        torch.set_num_threads(before)


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor on a device. The copy to a GPU waits for nothing that the GPU is still computing."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@contextlib.contextmanager
def progress(total: int, unit: str, show: bool | None = None) -> Iterator[Callable[[int], object]]:
    """A progress bar on stderr, after a second of work; gives the function that moves it on.

    Args:
        total: how much there is to do.
        unit: what is counted: "texts".
        show: True or False; None = where stderr is a terminal.
    """
    from tqdm import tqdm  # huggingface_hub brings it

    disable = None if show is None else not show
    with tqdm(total=total, unit=f" {unit}", delay=1, disable=disable, leave=False) as bar:
        yield bar.update
