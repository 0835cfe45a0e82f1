"""A text file of any length → a ``.npy`` file with one vector a line; memory stays flat."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minibert.batching import progress
from minibert.io import distributed
from minibert.io.checkpoint import content_digest
from minibert.io.files import need_ending, read_json, read_lines, write_json
from minibert.sentence_encoder import SentenceEncoder

SENTENCE_END = re.compile(r"""(?<=[.!?…])\s+|(?<=[.!?…]["'”’)])\s+|(?<=[。！？])""")
CHUNK = 512  # lines encoded, written and remembered at a time


def split_sentences(text: str) -> list[str]:
    """Cut a text after . ! ? … before a space, and after the full stops of Chinese and Japanese.

    A simple rule on purpose: "Dr. Who" is cut in two. Put a sentence on each line where it matters.
    """
    return [part.strip() for part in SENTENCE_END.split(text) if part.strip()]


def embed_file(
    encoder: SentenceEncoder,
    path: str | os.PathLike,
    out: str | os.PathLike,
    *,
    on_long: str = "warn",
    normalize_embeddings: bool | None = None,
    prompt: str | None = None,
    show_progress_bar: bool | None = None,
    on_start: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Encode every line of ``path`` (empty ones too) into row after row of the array in ``out``.

    The rows go to ``out.part``, a memory-mapped array, and ``out.part.json`` says how many there
    are: a run that was stopped goes on from there, if text, model and options are the same. ``out``
    itself appears when it is complete.

    Under ``torchrun`` the processes work in rounds: each encodes and writes a chunk of its own,
    then all wait for each other. The chunks are those of one process, so the bytes are too, and a
    run may go on with another number of processes than it began with.

    Args:
        on_start: called with (rows already there, rows in all).

    Returns:
        (lines, dimension), the shape of the array.

    Raises:
        ValueError: the file has no lines, or is not UTF-8; ``out`` does not end in .npy.
        OSError: there is no room for the array; found before anything is computed.
    """
    need_ending(out, ".npy")
    out = Path(out)
    part, state_file = out.with_name(out.name + ".part"), out.with_name(out.name + ".part.json")
    total, digest = 0, hashlib.sha256()
    for line in read_lines(path):
        total += 1
        digest.update(line.encode() + b"\n")
    if total == 0:
        raise ValueError(f"{path} has no lines")
    shape = (total, encoder.dimension)
    options = dict(on_long=on_long, normalize_embeddings=normalize_embeddings, prompt=prompt)
    run = {
        "shape": list(shape),
        "text": digest.hexdigest(),
        "weights": content_digest(encoder.model.state_dict()),
        "options": repr((*options.values(), encoder.max_length, encoder.pooling)),
    }

    done = 0
    if part.exists() and state_file.exists():
        before = read_json(state_file)
        if isinstance(before, dict) and before.get("run") == run:
            done = before["rows"]
    distributed.start(encoder.device)
    chief = distributed.rank() == 0
    distributed.wait()  # all have read how far it is
    if chief and done == 0:
        make_array(part, shape)
    if chief and on_start:
        on_start(done, total)
    distributed.wait()  # the array is there

    lines = itertools.islice(read_lines(path), done, None)
    start, show = CHUNK * distributed.rank(), show_progress_bar if chief else False
    with warnings.catch_warnings(), progress(total - done, "lines", show) as advance:
        warnings.simplefilter("once")  # every chunk would say again that texts were cut
        while found := list(itertools.islice(lines, CHUNK * distributed.processes())):
            if chunk := found[start : start + CHUNK]:  # none, where the last round is short
                vectors = encoder.encode(chunk, **options, show_progress_bar=False)
                rows = np.lib.format.open_memmap(part, mode="r+")  # anew: pages are let go
                rows[done + start : done + start + len(chunk)] = vectors
                rows.flush()
                del rows
            distributed.wait()  # the round is written
            done += len(found)
            advance(len(found))
            if chief:
                write_json(state_file, {"run": run, "rows": done})
    if chief:
        os.replace(part, out)
        state_file.unlink(missing_ok=True)
    distributed.wait()
    return shape


def make_array(path: Path, shape: tuple[int, int]) -> None:
    """Create an empty float32 ``.npy`` file with all its room on the disk.

    A memory-mapped file on a disk that fills up later would end the process with a bus error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                path.unlink()
                raise OSError(error.errno, f"no room for {shape[0]:,} vectors", str(path)) from None
