"""Texts of like length in one batch, batches side by side in threads, a progress bar over them."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import nn

BATCH_TOKENS = 512  # the most tokens in a batch, padding included
GPU_BATCH_TOKENS = 32768  # there: a small batch leaves most of a GPU idle
MIN_BATCH_TOKENS = 256  # fewer are one batch, on all threads: two would fetch all weights twice
MAX_PADDING = 64  # tokens of padding in a batch: more would cost more than another batch

Item = TypeVar("Item")
STARTING = threading.Lock()  # threads are started one call after the other


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


def as_texts(texts: Iterable[str], *, list_of: bool = True) -> Iterable[str]:
    """Texts as a list, once it is sure that they are texts, in an order of their own.

    ``list_of=False``: only what can be said before the first is taken.

    Raises:
        TypeError: they are not; the message says what to pass.
    """
    kind = type(texts).__name__
    if hasattr(texts, "columns") or hasattr(texts, "column_names"):
        raise TypeError(
            f'a {kind} is a table, not texts; pass one of its columns: list(table["NAME"])'
        )
    if isinstance(texts, set | frozenset):
        raise TypeError(f"a {kind} has no order to tell whose each row is; pass a list")
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise TypeError(f"a text or texts (str) are needed, not a {kind}")
    if not list_of:
        return texts
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {i} is a {type(text).__name__}; texts (str) are needed")
    return texts


def side_by_side(work: Callable[[Item], None], items: Sequence[Item], threads: int) -> None:
    """Call ``work`` for every item, on that many threads, with the autocast that is in force here.

    Torch by itself splits every operation over its threads, which then wait for each other some
    hundred times in a forward pass. Here each thread takes a whole batch and waits for nobody.
    """
    if threads == 1 or len(items) < 2:
        for item in items:
            work(item)
        return
    state = {"dtype": torch.get_autocast_dtype("cpu"), "enabled": torch.is_autocast_enabled("cpu")}

    def alike(item: Item) -> None:
        with torch.autocast("cpu", **state):
            work(item)

    pool = workers(threads, os.getpid())
    running = [pool.submit(alike, item) for item in items]
    try:
        for future in running:
            future.result()  # raises what a worker raised
    finally:
        for future in running:
            future.cancel()
        wait(running)


@functools.lru_cache
def workers(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process in which torch computes on one thread each; they stay.

    The number of threads belongs to the thread that sets it, but is also what threads begin with
    that meet torch later: so it is put back at once, and not set again for every call.
    """
    with STARTING:
        before = torch.get_num_threads()
        together = threading.Barrier(threads)

        def begin(_: int) -> None:
            torch.get_num_threads()  # or a thread is given the number of all when it first computes
            torch.set_num_threads(1)
            together.wait()  # so that each thread comes here once

        pool = ThreadPoolExecutor(threads, thread_name_prefix="minibert")
        list(pool.map(begin, range(threads)))
        torch.set_num_threads(before)
    return pool


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


class InBatches:
    """What computes texts in batches: its ``model`` is a BERT, or has one named ``bert``."""

    model: nn.Module

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return getattr(self.model, "bert", self.model).embeddings.word.weight.device

    @property
    def engine(self) -> str:
        """What was swapped in: "packed", "int8" or "sdpa"; "textbook" where nothing was."""
        engines = (getattr(type(part), "engine", None) for part in self.model.modules())
        return next(filter(None, engines), "textbook")

    def batches(
        self, rows: list[list[int]], batch_size: int | None, batch_tokens: int | None
    ) -> list[list[int]]:
        """Which rows are computed together: those of like length; the largest batches first."""
        lengths = [len(row) for row in rows]
        cpu = self.device.type == "cpu"
        threads = torch.get_num_threads() if cpu else 1
        if batch_tokens is None:
            batch_tokens = BATCH_TOKENS if cpu else GPU_BATCH_TOKENS
        if threads > 1 and batch_size is None:  # at least four batches a thread, so that all end
            share = sum(lengths) // (4 * threads)  # at about the same time
            batch_tokens = min(batch_tokens, max(share, MIN_BATCH_TOKENS))
        padding = MAX_PADDING if cpu else max(MAX_PADDING, batch_tokens // 16)
        padding = 0 if self.engine == "int8" else padding  # see `SentenceEncoder.hidden_states`
        batches = make_batches(lengths, tokens=batch_tokens, size=batch_size, padding=padding)
        return sorted(batches, key=lambda batch: -len(batch) * lengths[batch[0]])

    def run(
        self, work: Callable, items: list[tuple[int, list[int]]], total: int, show: bool | None
    ) -> None:
        """Call ``work`` for every batch, side by side on a CPU, with a progress bar."""
        with progress(total, "texts", show) as advance:

            def step(item: tuple[int, list[int]]) -> None:
                with torch.inference_mode():
                    work(item)
                advance(len(item[1]))

            threads = torch.get_num_threads() if self.device.type == "cpu" else 1
            side_by_side(step, items, threads)

    def in_eval(self) -> InBatches:
        """Itself; or, where the model is in training, a copy that is not, of the same tensors.

        The model itself is not put into ``eval()``: another thread may be training it.
        """
        if not any(part.training for part in self.model.modules()):
            return self
        still = copy.copy(self)
        still.model = eval_copy(self.model)
        return still


def eval_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode that shares all tensors with the module, which stays as it is."""
    twin = copy.copy(module)
    twin.training = False
    twin._modules = {name: part and eval_copy(part) for name, part in module._modules.items()}
    return twin
