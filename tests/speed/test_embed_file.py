"""A text file → an array on the disk: row i is line i, a stopped run goes on, memory stays flat."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.tiny import words

from minibert.io import distributed
from minibert.sentence_encoder import SentenceEncoder
from minibert.speed import embed_file as module
from minibert.speed.bench import whole_process
from minibert.speed.embed_file import embed_file, read_vectors


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """A file of 50 lines, encoded 8 at a time; and its texts."""
    monkeypatch.setattr(module, "CHUNK", 8)
    texts = words(1, 50)
    texts[7] = ""
    (tmp_path / "lines.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return tmp_path / "lines.txt", texts


def stop(encoder, path, out, after: int) -> None:
    """A run that is interrupted when so many chunks are written."""
    encode, count = encoder.encode, iter(range(100))

    def encode_some(*args, **options):
        return encode(*args, **options) if next(count) < after else 1 / 0

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(encoder, "encode", encode_some)
        embed_file(encoder, path, out)
    assert not out.exists()


def test_rows_are_lines_and_no_more_is_read_than_is_encoded(tiny, lines, tmp_path, monkeypatch):
    """So memory stays flat: a chunk of lines and of vectors at a time."""
    path, texts = lines
    expected, encode, read_lines = tiny.encode(texts), tiny.encode, module.read_lines
    taken, ahead = [], []
    monkeypatch.setattr(
        module, "read_lines", lambda path: (taken.append(1) or line for line in read_lines(path))
    )

    def spy(chunk, **options):
        ahead.append((len(chunk), len(taken)))
        return encode(chunk, **options)

    monkeypatch.setattr(tiny, "encode", spy)
    assert embed_file(tiny, path, tmp_path / "out.npy") == (50, 32)
    assert ahead == [(min(8, 50 - i), 50 + min(i + 8, 50)) for i in range(0, 50, 8)]  # counted once
    rows = np.load(tmp_path / "out.npy")
    assert rows.dtype == np.float32 and np.allclose(rows, expected, atol=2e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lines.txt", "out.npy", "out.npy.json"]


def test_a_stopped_run_goes_on(tiny, lines, tmp_path):
    whole, out, begun = tmp_path / "whole.npy", tmp_path / "out.npy", []
    embed_file(tiny, lines[0], whole)
    stop(tiny, lines[0], out, after=3)
    embed_file(tiny, lines[0], out, on_start=lambda *numbers: begun.append(numbers))
    assert begun == [(24, 50)]
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("change", ["text", "option", "weights", "damage", "short"])
def test_what_changed_since_starts_anew(tiny, lines, tmp_path, monkeypatch, change):
    path, _ = lines
    stop(tiny, path, tmp_path / "out.npy", after=3)
    bias = tiny.model.layers[0].attention.value.bias
    if change == "text":
        path.write_text(path.read_text().replace("a", "b", 1))
    if change == "short":
        os.truncate(tmp_path / "out.npy.part", 3000)
    if change == "damage":
        (tmp_path / "out.npy.part.json").write_text('["nonsense"]')
    if change == "weights":
        monkeypatch.setattr(bias, "data", bias.data + 1)
    options = {"on_long": "window"} if change == "option" else {}
    begun = []
    embed_file(tiny, path, tmp_path / "out.npy", on_start=lambda *n: begun.append(n), **options)
    assert begun == [(0, 50)]


def test_each_of_two_processes_writes_every_other_chunk(tiny, lines, tmp_path, monkeypatch):
    """The second, then the first, in this process; another number of them than the run began with.

    What they do side by side is the next test's.
    """
    whole, out = tmp_path / "whole.npy", tmp_path / "out.npy"
    embed_file(tiny, lines[0], whole)
    stop(tiny, lines[0], out, after=2)
    encode, sizes = tiny.encode, []
    monkeypatch.setattr(
        tiny, "encode", lambda chunk, **o: sizes.append(len(chunk)) or encode(chunk, **o)
    )
    monkeypatch.setattr(distributed, "wait", lambda: None)
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    for rank in (1, 0):
        assert not out.exists()
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        embed_file(tiny, lines[0], out)
    assert sizes == [8, 8, 8, 8, 2]  # of the second, then of the first
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_torchrun_shares_the_file(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "model")
    (tmp_path / "lines.txt").write_text("\n".join(words(2, 1800)))  # 4 chunks: 2 rounds
    path, whole, out = (tmp_path / name for name in ("lines.txt", "whole.npy", "out.npy"))
    embed_file(SentenceEncoder.from_pretrained(tmp_path / "model"), path, whole)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "minibert", "embed", path, "--out", out, "--model", tmp_path / "model"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}: 1,800 x 32 float32\n" and done.stderr.count("1,800 lines") == 1
    assert out.read_bytes() == whole.read_bytes()


def test_bad_text_is_found_before_anything_is_written(tiny, tmp_path):
    for content, message in ((b"eins\nf\xfcnf\n", "line 2: byte 0xfc"), (b"", "has no lines")):
        (tmp_path / "bad.txt").write_bytes(content)
        with pytest.raises(ValueError, match=f"bad.txt.* {message}"):
            embed_file(tiny, tmp_path / "bad.txt", tmp_path / "out.npy")
    assert not list(tmp_path.glob("out*"))


def test_a_pipe_cannot_be_read_twice(tiny, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is not a regular file, and it is read twice"):
        embed_file(tiny, tmp_path / "pipe", tmp_path / "out.npy")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("change", ["shorter", "longer", "other"])
def test_a_file_that_changes_meanwhile_gives_no_vectors(tiny, lines, tmp_path, change):
    path, out, texts = lines[0], tmp_path / "out.npy", lines[0].read_text()
    changed = {"shorter": texts[:60], "longer": texts + "a\n", "other": texts[:-2] + "!\n"}[change]

    def write_meanwhile(done, total):
        path.write_text(changed)

    if change == "longer":  # what was there at the beginning is still there
        assert embed_file(tiny, path, out, on_start=write_meanwhile) == (50, 32)
        return
    with pytest.raises(ValueError, match="lines.txt has changed while it was read"):
        embed_file(tiny, path, out, on_start=write_meanwhile)
    assert not out.exists()
    rows, _ = embed_file(tiny, path, out)
    assert np.allclose(np.load(out), tiny.encode(changed.splitlines()), atol=2e-6)


def test_two_do_not_write_one_array(tiny, lines, tmp_path):
    def begin_another(done, total):
        with pytest.raises(ValueError, match=f"process {os.getpid()} is writing .*out.npy; wait"):
            embed_file(tiny, lines[0], tmp_path / "out.npy")

    embed_file(tiny, lines[0], tmp_path / "out.npy", on_start=begin_another)
    assert not (tmp_path / "out.npy.lock").exists()


def test_vectors_say_what_they_were_made_of(tiny, lines, tmp_path):
    (path, texts), out = lines, tmp_path / "out.npy"
    embed_file(tiny, path, out)
    assert np.array_equal(read_vectors(out, texts, tiny), np.load(out))
    with pytest.raises(ValueError, match="holds the vectors of other texts"):
        read_vectors(tmp_path / "out.npy", [*texts[1:], texts[0]], tiny)
    bias = tiny.model.layers[0].attention.value.bias
    bias.data += 1
    with pytest.warns(UserWarning, match="vectors of another model"):
        read_vectors(tmp_path / "out.npy", texts, tiny)
    bias.data -= 1
    (tmp_path / "out.npy.json").unlink()
    with pytest.warns(UserWarning, match="nothing says of which texts"):
        read_vectors(tmp_path / "out.npy", texts, tiny)


def test_vectors_through_a_dense_layer_are_known_again(tiny, lines, tmp_path, recwarn):
    (path, texts), out = lines, tmp_path / "out.npy"
    dense = torch.nn.Sequential(torch.nn.Linear(tiny.dimension, 5), torch.nn.Tanh())
    encoder = SentenceEncoder(tiny.model, tiny.tokenizer, dense=dense)
    embed_file(encoder, path, out)
    assert read_vectors(out, texts, encoder).shape == (len(texts), 5) and not recwarn.list
    dense[0].bias.data += 1
    with pytest.warns(UserWarning, match="vectors of another model"):
        read_vectors(out, texts, encoder)


@pytest.mark.parametrize("kind", ["empty", "npz", "pickle", "integers", "one-d", "cut"])
def test_what_is_no_array_of_vectors_is_said(tiny, tmp_path, kind):
    path, texts = tmp_path / "v.npy", ["a", "b"]
    whole = np.zeros((2, 32), np.float32)
    kinds = {"pickle": np.array([{}]), "integers": whole.astype(int), "one-d": whole[0]}
    if kind == "npz":
        with open(path, "wb") as file:
            np.savez(file, x=whole)
    else:
        np.save(path, kinds.get(kind, whole), allow_pickle=True)
    if kind in ("empty", "cut"):
        os.truncate(path, 0 if kind == "empty" else 150)
    with pytest.raises(ValueError, match="v.npy .*write it again with minibert embed"):
        read_vectors(path, texts, tiny)


def test_truncated_lines_are_said(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    (tmp_path / "long.txt").write_text(("a " * 20 + "\n") * 6)
    with pytest.warns(UserWarning, match="2 of 2 texts have more than 16 tokens") as record:
        embed_file(tiny, tmp_path / "long.txt", tmp_path / "out.npy")
    assert len(record) == 1


def test_no_room_on_the_disk_is_found_first(tiny, lines, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"no room for 50 vectors.*out.npy.part"):
        embed_file(tiny, lines[0], tmp_path / "out.npy")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.slow
def test_memory_stays_flat(tiny, tmp_path):
    """Ten times the lines (12 MB of vectors more) take hardly more memory."""
    tiny.save_pretrained(tmp_path / "model")
    lines, out = tmp_path / "lines.txt", tmp_path / "out.npy"
    command = [sys.executable, "-m", "minibert", "embed", lines, "--out", out, "--force"]
    peaks = []
    for count in (10_000, 100_000):
        lines.write_text("a b\nc d e\n" * (count // 2))
        _, peak, status = whole_process([*command, "--model", tmp_path / "model"])
        assert status == 0 and np.load(out, mmap_mode="r").shape == (count, 32)
        peaks.append(peak)
    print(f"\npeak memory: 10,000 lines {peaks[0]:.0f} MB, 100,000 lines {peaks[1]:.0f} MB")
    assert peaks[1] - peaks[0] < 8
