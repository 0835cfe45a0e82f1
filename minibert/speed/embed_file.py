"""A text file of any length → a ``.npy`` file with one vector a line; memory stays flat."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from minibert.batching import progress
from minibert.io import distributed
from minibert.io.checkpoint import content_digest
from minibert.io.files import locked, need_ending, read_json, read_lines, write_json
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
    itself appears when it is complete, beside it ``out.json`` with the digests of what it was made
    of.

    Under ``torchrun`` the processes work in rounds: each encodes and writes a chunk of its own,
    then all wait for each other. The chunks are those of one process, so the bytes are too, and a
    run may go on with another number of processes than it began with.

    Args:
        on_start: called with (rows already there, rows in all).

    Returns:
        (lines, dimension), the shape of the array.

    Raises:
        ValueError: the file has no lines, is not UTF-8, is no regular file, or changes meanwhile;
            ``out`` does not end in .npy; another process writes it.
        OSError: there is no room for the array; found before anything is computed.
    """
    need_ending(out, ".npy")
    out = Path(out)
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path} is not a regular file, and it is read twice: save it as one")
    total, digest = 0, hashlib.sha256()
    for _ in hashed(read_lines(path), digest):
        total += 1
    if total == 0:
        raise ValueError(f"{path} has no lines")
    options = dict(on_long=on_long, normalize_embeddings=normalize_embeddings, prompt=prompt)
    run = {
        "shape": [total, encoder.dimension],
        "text": digest.hexdigest(),
        "weights": weights_digest(encoder),
        "options": repr((
            *options.values(), encoder.max_length, encoder.pooling, encoder.include_prompt,
            encoder.truncate_dim, encoder.dense,
        )),
    }
    distributed.start(encoder.device)
    alone = locked(out.with_name(out.name + ".lock"), out)
    with alone if distributed.rank() == 0 else contextlib.nullcontext():
        write_rows(encoder, path, out, run, options, show_progress_bar, on_start)
    return total, encoder.dimension


def write_rows(
    encoder: SentenceEncoder, path: str | os.PathLike, out: Path, run: dict, options: dict,
    show_progress_bar: bool | None, on_start: Callable[[int, int], None] | None,
) -> None:  # fmt: skip
    """The rows that are still missing, then ``out`` itself, as ``run`` says."""
    part, state_file = out.with_name(out.name + ".part"), out.with_name(out.name + ".part.json")
    shape, done, chief = tuple(run["shape"]), 0, distributed.rank() == 0
    if state_file.exists() and is_array(part, shape):
        before = read_json(state_file)
        if isinstance(before, dict) and before.get("run") == run:
            done = before["rows"]
    distributed.wait()  # all have read how far it is
    if chief and done == 0:
        make_array(part, shape)
    if chief and on_start:
        on_start(done, shape[0])
    distributed.wait()  # the array is there

    digest = hashlib.sha256()
    lines = itertools.islice(hashed(read_lines(path), digest), done, shape[0])
    start, show = CHUNK * distributed.rank(), show_progress_bar if chief else False
    with warnings.catch_warnings(), progress(shape[0] - done, "lines", show) as advance:
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
    if digest.hexdigest() != run["text"]:
        raise ValueError(f"{path} has changed while it was read; run the same again")
    if chief:
        about = out.with_name(out.name + ".json")
        about.unlink(missing_ok=True)  # it tells of older vectors
        os.replace(part, out)
        os.replace(state_file, about)
    distributed.wait()


def weights_digest(encoder: SentenceEncoder) -> str:
    """The digest of all weights that a vector goes through."""
    return content_digest(encoder.model.state_dict() | encoder.dense.state_dict())


def hashed(lines: Iterable[str], digest: hashlib._Hash) -> Iterator[str]:
    """The same lines; a digest grows as they are read."""
    for line in lines:
        digest.update(line.encode() + b"\n")
        yield line


def is_array(path: Path, shape: tuple[int, int]) -> bool:
    """Whether a file is a whole array of that shape."""
    try:
        return np.lib.format.open_memmap(path, mode="r").shape == shape
    except (OSError, ValueError):
        return False


def read_vectors(
    path: str | os.PathLike, lines: Sequence[str], encoder: SentenceEncoder
) -> np.ndarray:
    """The array that `embed_file` has written for some lines with this encoder, memory-mapped.

    An array without ``path.json`` beside it is taken as it is if its shape fits, with a warning.

    Raises:
        ValueError: it is no array, has another shape, or is one of other lines.
    """
    again = "write it again with minibert embed"
    try:
        vectors = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"{path} is no .npy file of vectors ({error}); {again}") from None
    wanted = (len(lines), encoder.dimension)
    if vectors.shape != wanted or vectors.dtype.kind != "f":
        raise ValueError(
            f"{path} has the shape {vectors.shape} and {vectors.dtype} in it, but these texts and "
            f"this model need floats in the shape {wanted}; {again}"
        )
    about, digest = Path(f"{path}.json"), hashlib.sha256()
    run = read_json(about).get("run", {}) if about.is_file() else {}
    for _ in hashed(lines, digest):
        pass
    if not run:
        warnings.warn(f"{about} is not there: nothing says of which texts these are", stacklevel=2)
    elif run["text"] != digest.hexdigest():
        raise ValueError(f"{path} holds the vectors of other texts, by its digest; {again}")
    elif run["weights"] != weights_digest(encoder):
        warnings.warn(f"{path} holds the vectors of another model or engine", stacklevel=2)
    return vectors


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
