"""Errors that speak; and files that are old or new, never in between, whatever stops the writer."""

import contextlib
import os
import re
import signal
import stat
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.disk import files_of_at_most, in_child, stopped_at

from minibert.io import files
from minibert.io.directory import open_directory
from minibert.io.files import atomic_directory, atomic_path, read_json, read_lines, read_text

WEIGHTS = "model.safetensors"
OLD = {"config.json": "old", "pooling/config.json": "old", WEIGHTS: "old" * 1000, "mine": "kept"}
NEW = {"config.json": "new!", "pooling/config.json": "new!", WEIGHTS: "new!" * 1000}


def put(directory: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        files.write_text(directory / name, text)


def save(path: str | Path, content: dict[str, str] = NEW) -> None:
    """Write files into a directory, all or none."""
    with atomic_directory(path) as staging:
        put(staging, content)


def get(directory: Path) -> dict[str, str] | None:
    """The files of a directory, but for its manifest and what is under way."""
    if not directory.exists():
        return None
    found = [path.relative_to(directory) for path in directory.rglob("*") if path.is_file()]
    return {
        str(path): (directory / path).read_text()
        for path in found
        if ".tmp-" not in str(path) and path.name != files.MANIFEST
    }


# --------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntwo \xff three", "line 2: byte 0xff is not UTF-8"),
        ("é".encode("latin-1"), "line 1: byte 0xe9 is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
        (b"\xef\xbb\xbfone\n\xfe", "line 2: byte 0xfe is not UTF-8"),
    ],
)
@pytest.mark.parametrize("read", [read_text, lambda path: list(read_lines(path))])
def test_a_file_that_is_not_utf8_is_named_with_line_and_byte(tmp_path, content, message, read):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_lines_are_without_their_ends_and_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\nlast")
    assert list(read_lines(tmp_path / "a.txt")) == ["one", "two", "", "last"]
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n"a": 1,\n', "line 3: not valid JSON .*is the file complete"),
        ("{'a': 1}", "line 1: not valid JSON"),
        ("", "is empty"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "git lfs pull"),
        ("\n<!DOCTYPE html><html>404</html>", "is a web page"),
        ("[" * 100_000, "not a sensible JSON file"),
        ("1" * 100_000, "not a sensible JSON file"),
    ],
    ids=["cut off", "python", "empty", "git-lfs", "web page", "deep", "long"],
)
def test_a_file_that_is_not_json_is_named_with_what_it_is(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_json_is_written_for_people(tmp_path):
    files.write_json(tmp_path / "a.json", {"é": [1]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "é": [\n    1\n  ]\n}\n'


# ----------------------------------------------------------------------------- one file, atomic


def test_a_file_is_the_old_one_until_the_block_has_succeeded(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
        _ = 1 / 0
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["a.txt"]


def test_writers_of_one_file_at_the_same_time_do_not_mix(tmp_path):
    path, texts = tmp_path / "a", [letter * 50_000 for letter in "abcdef"]

    def write(text):
        for _ in range(10):
            files.write_text(path, text)
            assert path.read_text() in texts

    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(write, texts))
    assert os.listdir(tmp_path) == ["a"]


# ------------------------------------------------------------------------- a directory, atomic


@pytest.mark.parametrize("there", [False, True], ids=["new", "over an old one"])
def test_a_directory_changes_when_the_block_succeeds_and_not_before(tmp_path, there):
    path = tmp_path / "deep" / "model"
    if there:
        put(path, OLD)
    before, after = (OLD, {**OLD, **NEW}) if there else (None, NEW)
    with pytest.raises(ZeroDivisionError), atomic_directory(path) as staging:
        put(staging, NEW)
        _ = 1 / 0
    assert get(path) == before
    with atomic_directory(path) as staging:
        put(staging, NEW)
        assert get(path) == before
    assert get(path) == after
    assert os.listdir(path.parent) == ["model"]
    expected = {name.partition("/")[0] for name in after} | {files.MANIFEST}
    assert set(os.listdir(path)) == expected


def test_a_save_within_a_save_is_a_part_of_it(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "model") as outer:
        with atomic_directory(outer) as inner:
            put(inner, OLD)
        _ = 1 / 0
    assert get(tmp_path / "model") is None
    with atomic_directory(tmp_path / "model") as outer:
        with atomic_directory(outer) as inner:
            put(inner, OLD)
        put(outer, NEW)
    assert get(tmp_path / "model") == {**OLD, **NEW}
    assert files.differing(tmp_path / "model", files.read_manifest(tmp_path / "model")) == []


def test_all_files_are_on_the_disk_before_any_takes_its_place(tmp_path, monkeypatch):
    put(tmp_path / "model", OLD)
    done = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.readlink(f"/dev/fd/{file}")))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(f"{b} moved"), replace(a, b)))
    with atomic_directory(tmp_path / "model") as staging:
        (staging / "a.txt").write_text("a")
    names = [Path(step).name for step in done]
    assert names[-2:] == ["minibert.json moved", "a.txt moved"]  # the manifest goes first
    assert {"minibert.json", "a.txt"} <= set(names[:-2])


def test_the_current_directory_and_links_can_be_saved_into(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "blob").write_text("shared with other models")
    (tmp_path / "real" / "config.json").symlink_to("../blob")
    save(tmp_path / "link", OLD)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "blob").read_text() == "shared with other models"  # the link is replaced
    monkeypatch.chdir(tmp_path / "real")
    save(".")
    assert get(tmp_path / "real") == {**OLD, **NEW}


@pytest.mark.parametrize("way", ["file", "directory", "link"])
def test_what_is_in_the_way_is_said_before_anything_moves(tmp_path, way):
    path, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if way == "file":
        path.write_text("a file")
    elif way == "directory":
        put(path, {f"{WEIGHTS}/strange": "a directory where a file should be"})
    else:
        path.mkdir()
        (path / "pooling").symlink_to(elsewhere)
    before = path.read_text() if way == "file" else get(path)
    says = {"file": "is a file", "directory": "is in the way", "link": "leads out of"}[way]
    with pytest.raises(OSError, match=says) as caught, atomic_directory(path) as staging:
        put(staging, NEW)
    assert str(path) in str(caught.value)
    assert before == (path.read_text() if way == "file" else get(path))
    assert not list(elsewhere.iterdir()) and not list(tmp_path.rglob(".*.tmp-*"))


def test_files_and_directories_have_the_rights_of_any_new_one(tmp_path):
    before = os.umask(0o027)
    try:
        save(tmp_path / "model")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "model" / WEIGHTS).stat().st_mode) == 0o640


def test_leftovers_of_killed_programs_go_after_a_day(tmp_path):
    put(tmp_path / "model", OLD)
    old = time.time() - 2 * files.DAY
    for kind in ("old", "young"):
        lefts = [tmp_path / place / f".model.tmp-{kind}" for place in ("", "model")]
        for left in lefts:
            put(left, OLD)
        lefts.append(tmp_path / f".a.txt.tmp-{kind}")
        lefts[-1].write_text("half a fi")
        for left in lefts if kind == "old" else []:
            os.utime(left, (old, old))
    save(tmp_path / "model")
    files.write_text(tmp_path / "a.txt", "whole")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob(".*.tmp-*")} == {
        ".a.txt.tmp-young",
        "model/.model.tmp-young",
        ".model.tmp-young",
    }


# --------------------------------------------------------------------- stopped at every moment


def look(path: Path) -> dict[str, str]:
    """What a reader gets who opens a directory and reads all that a model is read from."""
    directory = open_directory(path)
    names = [name for name in NEW if directory.has(name)]
    return {name: directory.text(name) for name in names}


def stop_before(number: int, how: str, act) -> bool:
    """Stop a program before its file operation of that number; whether it came to its end."""

    def stop():
        if how == "kill -9":
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyboardInterrupt

    def child():
        with contextlib.suppress(KeyboardInterrupt):
            stopped_at(number, stop, act)
            return 42

    status = in_child(child)
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 42


@pytest.mark.slow
@pytest.mark.parametrize("there", ["nothing", "of another program", "of ours"])
@pytest.mark.parametrize("how", ["kill -9", "interrupt"])
def test_stopped_at_any_moment_a_directory_is_old_or_new_or_says_so(tmp_path, there, how):
    """Before each file operation of a save; the advice of the message completes the save."""
    old = None if there == "nothing" else {name: OLD[name] for name in NEW}
    counts = dict.fromkeys(("old", "new", "said"), 0)
    for number in range(1000):
        path = tmp_path / str(number) / "model"
        if old:
            put(path, OLD)
        if there == "of ours":
            save(path, OLD)
        finished = stop_before(number, how, lambda path=path: save(path))
        try:
            state = look(path) if path.exists() else None
            assert state in (old, NEW), f"stopped before operation {number}: {state}"
            counts["old" if state == old else "new"] += 1
        except ValueError as error:
            counts["said"] += 1
            left = Path(re.search("interrupted .* move what is in (.*) to its", str(error))[1])
            for file in files.files_below(left):
                file.replace(path / file.relative_to(left))
            assert look(path) == NEW
        if finished:
            break
        save(path)  # and a save after that works
        assert get(path) == (OLD | NEW if old else NEW)
    print(f"\n{how}: {number} moments, {counts}")
    assert finished and counts["old"] > 5 and counts["new"] >= 1
    assert counts["said"] == (3 if old else 0)


# ------------------------------------------------------------------------------- the full disk


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("size", [0, 1000])
def test_a_full_disk_leaves_what_was_there(tmp_path, there, size):
    path = tmp_path / "model"
    if there:
        put(path, OLD)
    with pytest.raises(OSError, match="nothing was saved, what was there is untouched") as caught:
        with files_of_at_most(size), atomic_directory(path) as staging:
            put(staging, NEW)
    assert caught.value.filename == str(path / ("config.json" if size < 4 else WEIGHTS))
    assert str(path) in str(caught.value)
    assert ".tmp-" not in str(caught.value)
    assert get(path) == (OLD if there else None)
    assert os.listdir(tmp_path) == (["model"] if there else [])


@pytest.mark.slow
def test_a_disk_that_is_really_full(small_disk):
    """The directory is the mounted disk itself, so nothing can be staged beside it."""
    put(small_disk, OLD)
    with pytest.raises(OSError, match="No space left on device; nothing was saved") as caught:
        with atomic_directory(small_disk) as staging:
            put(staging, {**NEW, WEIGHTS: "new!" * 100_000})
    assert caught.value.filename == str(small_disk / WEIGHTS)
    assert get(small_disk) == OLD
    save(small_disk)
    assert get(small_disk) == {**OLD, **NEW}


# --------------------------------------------------------------------------- rights and mistakes


def without_rights(act, *arguments) -> None:
    """Do something that must succeed in the name of a user who is not root."""

    def child():
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        act(*arguments)

    assert in_child(child) == 0


@pytest.fixture
def open_home():
    """A directory that every user may enter (those of pytest are for one user)."""
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        yield Path(home)


def test_what_may_not_be_written_is_said_about_the_path_of_the_user(open_home):
    path = open_home / "model"
    put(path, OLD)
    path.chmod(0o555)
    os.chmod(open_home, 0o555)

    def fail(target):
        with pytest.raises(PermissionError, match="nothing was saved") as caught:
            save(target)
        assert str(target) in str(caught.value) and ".tmp-" not in str(caught.value)

    for target in (path, open_home / "new"):
        without_rights(fail, target)
    path.chmod(0o777)  # a right in the directory alone is enough, as for a mounted disk
    os.chmod(path / "pooling", 0o777)
    assert get(path) == OLD
    without_rights(save, path)
    os.chmod(open_home, 0o755)
    assert get(path) == {**OLD, **NEW}


def test_an_error_of_the_block_about_something_else_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_directory(tmp_path / "model"):
        (tmp_path / "training.csv").read_text()
    assert caught.value.filename == str(tmp_path / "training.csv")
    assert "nothing was saved" not in str(caught.value)
