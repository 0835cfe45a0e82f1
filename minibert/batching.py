"""Texts of like length in one batch, batches side by side in threads, a progress bar over them."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import nn

BATCH_TOKENS = 512  # the most tokens in a batch, padding included
GPU_BATCH_TOKENS = 32768  # there: a small batch leaves most of a GPU idle
MIN_BATCH_TOKENS = 64  # where texts are divided among threads
MOST_BATCHES = 8  # for each thread; with more, it hardly matters which of them ends last
MAX_PADDING = 64  # tokens of padding in a batch: more would cost more than another batch
BATCH_COST = 48  # what a batch costs beside its tokens, in tokens: Python, and fetching all weights

Item = TypeVar("Item")
STARTING = threading.Lock()  # threads are started one call after the other


def make_batches(
    lengths: Sequence[int],
    *,
    tokens: int | None = None,
    size: int | None = None,
    padding: int | None = None,
    order: Iterable[int] | None = None,
    even: bool = False,
) -> list[list[int]]:
    """Cut texts into batches; returns the indices of the texts in each batch.

    A text that is over a limit by itself is a batch of its own.

    Args:
        lengths: tokens of every text.
        tokens: the most tokens in a batch, padding included; None = no limit.
        size: the most texts in a batch; None = no limit.
        padding: the most tokens of padding in a batch; None = no limit.
        order: the order in which texts are put into batches; None = the longest first.
        even: leave a few texts of a full batch to the next, where that saves `round_up` its zeros.

    Raises:
        ValueError: a limit that allows no batch.
    """
    for name, limit, least in (("tokens", tokens, 1), ("size", size, 1), ("padding", padding, 0)):
        if limit is not None and limit < least:
            raise ValueError(f"{name} in a batch must be at least {least}, not {limit}")
    if order is None:
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])

    def measure(texts: Sequence[int]) -> tuple[int, int, int]:
        sizes = [lengths[i] for i in texts]
        return len(sizes), max(sizes), sum(sizes)

    def over(count: int, longest: int, real: int) -> bool:
        return (
            (size is not None and count > size)
            or (tokens is not None and count * longest > tokens)
            or (padding is not None and count * longest - real > padding)
        )

    batches: list[list[int]] = []
    count = longest = real = 0  # texts, longest text, tokens of the batch that is being filled
    for i in order:
        count, longest, real = count + 1, max(longest, lengths[i]), real + lengths[i]
        if not batches or over(count, longest, real):
            left = leave(batches[-1], lengths) if even and batches else []
            if left and over(*measure([*left, i])):  # too much longer than the next, say
                batches[-1] += left
                left = []
            batches.append(left)
            count, longest, real = measure([*left, i])
        batches[-1].append(i)
    return batches


def leave(batch: list[int], lengths: Sequence[int]) -> list[int]:
    """Take the last texts out of a batch, an eighth at most, for the fewest zeros."""
    longest = max(lengths[i] for i in batch)
    some = range(len(batch), len(batch) * 7 // 8, -1)
    keep = min(some, key=lambda texts: round_up(texts * longest) - texts * longest)
    left, batch[keep:] = batch[keep:], []
    return left


def busiest(batches: list[list[int]], lengths: Sequence[int], threads: int) -> float:
    """How many tokens the busiest thread computes, where each takes the largest batch next.

    A single batch is computed on all threads.
    """
    sizes = [round_up(len(batch) * lengths[batch[0]]) + BATCH_COST for batch in batches]
    if len(sizes) == 1:
        return sizes[0] / threads
    loads = [0] * threads
    for size in sorted(sizes, reverse=True):
        loads[loads.index(min(loads))] += size
    return max(loads)


def round_up(tokens: int) -> int:
    """How many tokens `PackedLinear` computes for so many: zeros are added, up to a sixteenth.

    oneDNN compiles a program for each number that it meets, and keeps it: for all from 1 to 512
    that would be a gigabyte.
    """
    return tokens + (-tokens % 2 ** (tokens.bit_length() - 5) if tokens > 32 else 0)


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
        raise TypeError(f"a text or texts (str) are needed; this is of type {kind}")
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


@functools.cache
def keep_freed_memory() -> bool:
    """Have the C library keep what a batch frees for the next one; says whether it will.

    By itself glibc gives the megabytes of every layer back to the system, which then has to clear
    them page by page when they are asked for again: a sixth of the time of `encode` on a CPU. It is
    a setting of the whole process, so it is left alone where the environment has set it, or the
    allocator is another.

    Source: glibc's manual, "Malloc Tunable Parameters" (mallopt).
    """
    chosen = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if not sys.platform.startswith("linux") or any(name in os.environ for name in chosen):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    trim, mmap = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    return bool(mallopt and mallopt(mmap, 32 * 2**20) and mallopt(trim, 256 * 2**20))


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
        """What was swapped in: "packed", "bf16", "int8", "sdpa"; "textbook" where nothing was."""
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
        padding = MAX_PADDING if cpu else max(MAX_PADDING, batch_tokens // 16)
        padding = 0 if self.engine == "int8" else padding  # see `SentenceEncoder.hidden_states`
        cut = functools.partial(make_batches, lengths, size=batch_size, padding=padding, even=cpu)
        batches = cut(tokens=batch_tokens)
        if 1 < len(batches) <= MOST_BATCHES * threads and threads > 1 and batch_size is None:
            # There are few, so it matters that all threads end together: cut in other ways, too.
            share = max(sum(lengths) // (MOST_BATCHES * threads), MIN_BATCH_TOKENS)
            shares = range(share, batch_tokens, max(batch_tokens - share, 0) // 8 + 1)
            cuts = [batches, *(cut(tokens=share) for share in shares)]
            if padding and len(rows) * max(lengths) <= batch_tokens:
                cuts.append(make_batches(lengths))  # all in one
            batches = min(cuts, key=lambda some: busiest(some, lengths, threads))
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

            threads = 1
            if self.device.type == "cpu":
                threads = torch.get_num_threads()
                keep_freed_memory()
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
