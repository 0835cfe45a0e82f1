"""Batches side by side in threads: they change nothing of the process, and it nothing of them."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.tiny import words

from minibert import SentenceEncoder
from minibert.batching import keep_freed_memory, side_by_side

TEXTS = [*words(3, 80), "a b c"]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def expected(tiny):
    tiny.model.eval()
    return tiny.encode(TEXTS, batch_size=4)


def in_new_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_autocast_reaches_every_thread(tiny, two_threads, expected):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        many, one = tiny.encode(TEXTS, batch_size=1), tiny.encode([TEXTS[-1]])
    assert np.array_equal(many[-1], one[0]) and np.abs(many[-1] - expected[-1]).max() > 1e-4
    assert np.array_equal(tiny.encode(TEXTS, batch_size=4), expected)


def test_a_model_in_training_is_left_alone(tiny, two_threads, expected):
    """In several threads at once: none sees dropout, none puts the model into another mode."""
    tiny.model.train()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: tiny.encode(TEXTS, batch_size=4), range(16)))
        assert tiny.model.training and all(part.training for part in tiny.model.modules())
    tiny.model.eval()
    assert all(np.array_equal(vectors, expected) for vectors in found)


def test_the_number_of_threads_is_as_the_user_set_it(two_threads):
    """In threads that meet torch while others compute, too, and if it is set meanwhile."""
    seen, set_meanwhile = [], threading.Event()

    def work(item):
        seen.append((torch.get_num_threads(), in_new_thread(torch.get_num_threads)))

    side_by_side(work, range(8), 2)
    assert seen == [(1, 2)] * 8 and torch.get_num_threads() == 2

    def work_while_it_is_set(item):
        assert set_meanwhile.wait(10)

    caller = threading.Thread(target=side_by_side, args=(work_while_it_is_set, range(4), 2))
    caller.start()
    torch.set_num_threads(3)
    set_meanwhile.set()
    caller.join()
    assert torch.get_num_threads() == in_new_thread(torch.get_num_threads) == 3


def test_what_a_worker_raises_comes_out_and_ends_the_rest(two_threads):
    done = []

    def work(item):
        if item == 0:
            raise KeyError("zero")
        done.append(item)

    with pytest.raises(KeyError, match="zero"):
        side_by_side(work, range(10_000), 2)
    assert len(done) < 10_000
    side_by_side(done.append, [-1, -2], 2)
    assert {-1, -2} < {*done}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_does_not_matter(tiny, two_threads, expected, dtype):
    long = "a b c d " * 10
    windows = tiny.encode([long], on_long="window")
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = tiny.encode(TEXTS, batch_size=4), tiny.encode([long], on_long="window")
    finally:
        torch.set_default_dtype(before)
    assert np.array_equal(found[0], expected) and np.array_equal(found[1], windows)


def test_asyncio(tiny, two_threads, expected):
    async def all_at_once():
        jobs = [asyncio.to_thread(tiny.encode, TEXTS, batch_size=4) for _ in range(8)]
        return await asyncio.gather(*jobs)

    assert all(np.array_equal(vectors, expected) for vectors in asyncio.run(all_at_once()))


def encode_there(model, queue):
    torch.set_num_threads(2)
    encoder = SentenceEncoder.from_pretrained(model, engine="textbook")
    queue.put(encoder.encode(TEXTS, batch_size=4))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_other_processes(model, two_threads, method):
    encoder = SentenceEncoder.from_pretrained(model, engine="textbook")
    expected = encoder.encode(TEXTS, batch_size=4)  # its threads are there, and not in the child
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=encode_there, args=(model, queue))
    child.start()
    assert np.array_equal(queue.get(timeout=120), expected)
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.skipif(not keep_freed_memory(), reason="freed memory is kept with glibc alone")
def test_freed_memory_is_kept_for_the_next_batch():
    """The system clears each page once, not in every batch; unless the environment says how."""
    code = """
import resource, torch
from minibert import SentenceEncoder
from minibert.batching import keep_freed_memory
torch.set_num_threads(2)
encoder = SentenceEncoder.from_pretrained()
texts = ["the river and the bank " * (i % 4 + 1) for i in range(300)]
pages = [encoder.encode(texts) is None or resource.getrusage(resource.RUSAGE_SELF).ru_minflt
         for _ in range(3)]
print(keep_freed_memory(), pages[2] - pages[1])"""

    def child(**variables):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, **variables},
        )  # fmt: skip
        kept, faults = done.stdout.split()
        return kept, int(faults)

    kept, few = child()
    left, many = child(MALLOC_TRIM_THRESHOLD_="131072")
    assert (kept, left) == ("True", "False") and 10 * few < many
