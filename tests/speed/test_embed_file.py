"""A text file → an array on the disk: row i is line i, a stopped run goes on, memory stays flat."""

import errno
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from support.tiny import words

from minibert.sentence_encoder import SentenceEncoder
from minibert.speed import embed_file as module
from minibert.speed.embed_file import embed_file, read_lines


@pytest.fixture
def lines(tmp_path):
    texts = words(1, 50)
    texts[7] = ""
    (tmp_path / "lines.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return tmp_path / "lines.txt", texts


def test_rows_are_lines(tiny, lines, tmp_path, monkeypatch):  # noqa: F811
    path, texts = lines
    monkeypatch.setattr(module, "CHUNK", 8)
    assert embed_file(tiny, path, tmp_path / "out.npy") == (50, 32)
    rows = np.load(tmp_path / "out.npy")
    assert rows.dtype == np.float32
    assert np.allclose(rows, tiny.encode(texts), atol=2e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lines.txt", "out.npy"]


def test_line_ends_and_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\nlast")
    assert list(read_lines(tmp_path / "a.txt")) == ["one", "two", "", "last"]


def test_a_stopped_run_goes_on(tiny, lines, tmp_path, monkeypatch):  # noqa: F811
    path, texts = lines
    monkeypatch.setattr(module, "CHUNK", 8)
    whole = tmp_path / "whole.npy"
    embed_file(tiny, path, whole)
    encode, calls = tiny.encode, []

    def fails_in_the_fourth(chunk, **options):
        calls.append(chunk)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(chunk, **options)

    monkeypatch.setattr(tiny, "encode", fails_in_the_fourth)
    out = tmp_path / "out.npy"
    with pytest.raises(KeyboardInterrupt):
        embed_file(tiny, path, out)
    assert not out.exists()
    begun = []
    embed_file(tiny, path, out, on_start=lambda *numbers: begun.append(numbers))
    assert begun == [(24, 50)]
    assert len(calls) == 4 + 4  # chunks 4 to 7 of 7
    assert out.read_bytes() == whole.read_bytes()


SHARE = """
import sys
from minibert.speed import embed_file as module
from minibert.sentence_encoder import SentenceEncoder
module.CHUNK = 8
encoder = SentenceEncoder.from_pretrained(sys.argv[1], device="cpu")
encode, encoded = encoder.encode, []
encoder.encode = lambda chunk, **options: encoded.append(len(chunk)) or encode(chunk, **options)
module.embed_file(encoder, sys.argv[2], sys.argv[3], on_start=lambda *n: print("began", *n))
print("encoded", *encoded)
"""


def test_two_processes_share_the_file_and_go_on_where_one_was(tiny, lines, tmp_path, monkeypatch):  # noqa: F811
    path, _ = lines
    tiny.save_pretrained(tmp_path / "model")
    tiny = SentenceEncoder.from_pretrained(tmp_path / "model")  # packed, as the processes have it
    monkeypatch.setattr(module, "CHUNK", 8)
    whole, out = tmp_path / "whole.npy", tmp_path / "out.npy"
    embed_file(tiny, path, whole)
    encode, count = tiny.encode, iter(range(100))
    monkeypatch.setattr(
        tiny, "encode", lambda *a, **k: encode(*a, **k) if next(count) < 2 else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        embed_file(tiny, path, out)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-c", SHARE, tmp_path / "model", path, out]
    both = [
        subprocess.Popen(
            command,
            env={**env, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = []
    for process in both:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        said.append(output.splitlines())
    assert said == [["began 16 50", "encoded 8 8 2"], ["encoded 8 8"]]  # 5 chunks: 3 rounds
    assert out.read_bytes() == whole.read_bytes()
    left = ["lines.txt", "model", "out.npy", "whole.npy"]
    assert sorted(p.name for p in tmp_path.iterdir()) == left


@pytest.mark.parametrize("change", ["text", "option", "weights"])
def test_what_changed_since_starts_anew(tiny, lines, tmp_path, monkeypatch, change):  # noqa: F811
    path, texts = lines
    monkeypatch.setattr(module, "CHUNK", 8)
    out = tmp_path / "out.npy"
    encode, count = tiny.encode, iter(range(100))
    monkeypatch.setattr(
        tiny, "encode", lambda *a, **k: encode(*a, **k) if next(count) < 3 else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        embed_file(tiny, path, out)
    monkeypatch.setattr(tiny, "encode", encode)
    options = {"on_long": "window"} if change == "option" else {}
    if change == "text":
        path.write_text(path.read_text().replace("a", "b", 1))
    bias = tiny.model.layers[0].attention.value.bias
    if change == "weights":
        bias.data += 1
    begun = []
    embed_file(tiny, path, out, on_start=lambda *numbers: begun.append(numbers), **options)
    assert begun == [(0, 50)]
    if change == "weights":
        bias.data -= 1


def test_bad_text(tiny, tmp_path):  # noqa: F811
    (tmp_path / "latin.txt").write_bytes("eins\nzwei\nfünf\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt, line 3: byte 0xfc is not UTF-8; save"):
        embed_file(tiny, tmp_path / "latin.txt", tmp_path / "out.npy")
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(ValueError, match="empty.txt has no lines"):
        embed_file(tiny, tmp_path / "empty.txt", tmp_path / "out.npy")
    assert not list(tmp_path.glob("out*"))


def test_truncated_lines_are_said(tiny, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(module, "CHUNK", 2)
    (tmp_path / "long.txt").write_text(("a " * 20 + "\n") * 6)
    with pytest.warns(UserWarning, match="2 of 2 texts have more than 16 tokens") as record:
        embed_file(tiny, tmp_path / "long.txt", tmp_path / "out.npy")
    assert len(record) == 1


def test_no_room_on_the_disk_is_found_first(tiny, lines, tmp_path, monkeypatch):  # noqa: F811
    path, _ = lines

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"no room for 50 vectors.*out.npy.part"):
        embed_file(tiny, path, tmp_path / "out.npy")
    assert not list(tmp_path.glob("out*"))


MEMORY = """
import resource, sys
from minibert.speed.embed_file import embed_file
from minibert.sentence_encoder import SentenceEncoder
encoder = SentenceEncoder.from_pretrained(sys.argv[1])
embed_file(encoder, sys.argv[2], sys.argv[3])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak // 1024)
"""


def test_memory_stays_flat(tiny, tmp_path):  # noqa: F811
    """Ten times the lines (32 MB of vectors more) take hardly more memory."""
    tiny.save_pretrained(tmp_path / "model")
    peaks = []
    for count in (10_000, 100_000):
        (tmp_path / "lines.txt").write_text("a b\nc d e\n" * (count // 2))
        command = [sys.executable, "-c", MEMORY, tmp_path / "model", tmp_path / "lines.txt"]
        done = subprocess.run([*command, tmp_path / "out.npy"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
        assert np.load(tmp_path / "out.npy", mmap_mode="r").shape == (count, 32)
    print(f"\npeak memory: 10,000 lines {peaks[0]} MB, 100,000 lines {peaks[1]} MB")
    assert peaks[1] - peaks[0] < 8


def test_a_damaged_state_file_starts_anew(tiny, lines, tmp_path):  # noqa: F811
    path, _ = lines
    (tmp_path / "out.npy.part").write_bytes(b"not an array")
    (tmp_path / "out.npy.part.json").write_text(json.dumps(["nonsense"]))
    assert embed_file(tiny, path, tmp_path / "out.npy") == (50, 32)
