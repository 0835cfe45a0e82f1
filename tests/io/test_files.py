"""Errors that speak; and files that are old or new, never in between, whatever stops the writer."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.disk import files_of_at_most, in_child, stopped_at

from minibert.io import files
from minibert.io.files import atomic_directory, atomic_path, finish_save, read_json, read_text

OLD = {"config.json": "old", "pooling/config.json": "old", "weights": "old" * 1000, "mine": "kept"}
NEW = {"config.json": "new!", "pooling/config.json": "new!", "weights": "new!" * 1000}


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk():
    """Waiting is for power cuts, and no test here cuts the power; it would take a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


def put(directory: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        files.write_text(directory / name, text)


def get(directory: Path) -> dict[str, str] | None:
    """The files of a directory, but for what is underway (temporary files, complete saves)."""
    if not directory.exists():
        return None
    found = [path.relative_to(directory) for path in directory.rglob("*") if path.is_file()]
    return {
        str(path): (directory / path).read_text()
        for path in found
        if ".tmp-" not in str(path) and files.SAVED not in path.parts
    }


# --------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntwo \xff three", "line 2: byte 0xff is not UTF-8"),
        ("é".encode("latin-1"), "line 1: byte 0xe9 is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
    ],
)
def test_a_file_that_is_not_utf8_is_named_with_line_and_byte(tmp_path, content, message):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_text(path)
    assert str(path) in str(caught.value)


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert read_text(tmp_path / "a.json") == '{"a": 1}'


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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("aé€😀"), inner),
)


@given(JSON)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_as_json_is_read_again(tmp_path, value):
    files.write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


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


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "blob").write_text("shared with other models")
    (tmp_path / "config.json").symlink_to("blob")
    files.write_text(tmp_path / "config.json", "mine")
    assert (tmp_path / "config.json").read_text() == "mine"
    assert (tmp_path / "blob").read_text() == "shared with other models"


def test_writers_of_one_file_at_the_same_time_do_not_mix(tmp_path):
    path, texts = tmp_path / "a", [letter * 50_000 for letter in "abcdef"]
    failures, stop = [], threading.Event()

    def write(text):
        try:
            for _ in range(10):
                files.write_text(path, text)
        except OSError as error:
            failures.append(error)

    def look():
        while not stop.is_set():
            if path.exists() and path.read_text() not in texts:
                failures.append("mixed")

    watcher = threading.Thread(target=look)
    writers = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in (watcher, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    watcher.join()
    assert not failures
    assert os.listdir(tmp_path) == ["a"]


# ------------------------------------------------------------------------- a directory, atomic


def test_a_new_directory_appears_whole(tmp_path):
    path = tmp_path / "deep" / "model"
    with atomic_directory(path) as staging:
        put(staging, NEW)
        assert not path.exists()
    assert get(path) == NEW
    assert os.listdir(path.parent) == ["model"]


def test_files_that_were_not_written_stay(tmp_path):
    put(tmp_path / "model", OLD)
    with atomic_directory(tmp_path / "model") as staging:
        put(staging, NEW)
        assert get(tmp_path / "model") == OLD
    assert get(tmp_path / "model") == {**OLD, **NEW}
    assert sorted(os.listdir(tmp_path / "model")) == ["config.json", "mine", "pooling", "weights"]


@pytest.mark.parametrize("there", [False, True])
def test_a_failing_block_changes_nothing(tmp_path, there):
    path = tmp_path / "model"
    if there:
        put(path, OLD)
    with pytest.raises(ZeroDivisionError), atomic_directory(path) as staging:
        put(staging, NEW)
        _ = 1 / 0
    assert get(path) == (OLD if there else None)
    assert os.listdir(tmp_path) == (["model"] if there else [])


def test_saves_may_be_nested(tmp_path):
    with atomic_directory(tmp_path / "model") as outer:
        with atomic_directory(outer) as inner:
            put(inner, OLD)
        put(outer, NEW)
    assert get(tmp_path / "model") == {**OLD, **NEW}


def test_all_files_are_on_the_disk_before_any_takes_its_place(tmp_path, monkeypatch):
    put(tmp_path / "model", OLD)
    done = []
    rename, replace = os.rename, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.readlink(f"/dev/fd/{file}")))
    monkeypatch.setattr(os, "rename", lambda a, b: (done.append("rename"), rename(a, b)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    with atomic_directory(tmp_path / "model") as staging:
        for name in ("a", "b"):
            (staging / name).write_text(name)
    assert [Path(step).name for step in done] == ["a", "b", "rename", "replace", "replace"]
    done.clear()
    files.write_text(tmp_path / "c", "c")
    assert [Path(step).name[:3] for step in done] == [".c.", "replace"[:3]]


def test_the_current_directory_and_a_linked_one_can_be_saved_into(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with atomic_directory(tmp_path / "link") as staging:
        put(staging, OLD)
    assert (tmp_path / "link").is_symlink()
    monkeypatch.chdir(tmp_path / "real")
    with atomic_directory(".") as staging:
        put(staging, NEW)
    assert get(tmp_path / "real") == {**OLD, **NEW}


def test_a_file_in_the_place_of_the_directory_is_an_error(tmp_path):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(NotADirectoryError, match="is a file; give a directory"):
        with atomic_directory(tmp_path / "model"):
            pass
    assert (tmp_path / "model").read_text() == "a file"


def test_files_and_directories_have_the_rights_of_any_new_one(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_directory(tmp_path / "model") as staging:
            put(staging, NEW)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "model" / "weights").stat().st_mode) == 0o640


def test_leftovers_of_killed_programs_go_after_a_day(tmp_path):
    put(tmp_path / "model", OLD)
    two_days_ago = time.time() - 2 * files.DAY
    for home, name in ((tmp_path / "model", "model"), (tmp_path, "a.txt"), (tmp_path, "model")):
        for kind in ("old", "young"):
            left = home / f".{name}.tmp-{kind}"
            if name == "a.txt":
                left.write_text("half a fi")
            else:
                put(left, OLD)
            if kind == "old":
                os.utime(left, (two_days_ago, two_days_ago))
    with atomic_directory(tmp_path / "model") as staging:
        put(staging, NEW)
    files.write_text(tmp_path / "a.txt", "whole")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob(".*.tmp-*")} == {
        ".a.txt.tmp-young",
        "model/.model.tmp-young",
        ".model.tmp-young",
    }


# --------------------------------------------------------------------- stopped at every moment


@pytest.mark.parametrize("there", [False, True], ids=["new directory", "over an old one"])
@pytest.mark.parametrize("how", ["kill -9", "interrupt"])
def test_stopped_at_any_moment_the_directory_is_old_or_new(tmp_path, there, how):
    """Before each file operation of a save, the program is killed, or Ctrl-C pressed."""
    counts = {"old": 0, "new": 0, "finished by the next reader": 0}
    for number in range(1000):
        home = tmp_path / str(number)
        path = home / "model"
        if there:
            put(path, OLD)
        old, new = get(path), {**(OLD if there else {}), **NEW}

        def save(path=path):
            with atomic_directory(path) as staging:
                put(staging, NEW)

        def stop():
            if how == "kill -9":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt

        def act(number=number, save=save, stop=stop):
            with contextlib.suppress(KeyboardInterrupt):
                stopped_at(number, stop, save)
                return 42  # it came to its end

        status = in_child(act)
        finished = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 42
        raw = get(path)
        finish_save(path)
        state = get(path)
        assert state in (old, new), f"stopped before operation {number}: {state}"
        assert not (path / files.SAVED).exists()
        counts["finished by the next reader"] += raw not in (old, new)
        counts["old" if state == old else "new"] += 1
        if finished:
            break
        save()  # and a save after that works
        assert get(path) == new
    print(f"\n{how}, {'over an old one' if there else 'new directory'}: {number} moments, {counts}")
    assert finished
    assert counts["old"] > 5
    assert counts["new"] >= 1
    assert there == (counts["finished by the next reader"] > 0)


# ------------------------------------------------------------------------------- the full disk


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("size", [0, 2, 1000, 3999])
def test_a_full_disk_leaves_what_was_there(tmp_path, there, size):
    path = tmp_path / "model"
    if there:
        put(path, OLD)
    with pytest.raises(OSError, match="nothing was saved, what was there is untouched") as caught:
        with files_of_at_most(size), atomic_directory(path) as staging:
            put(staging, NEW)
    assert caught.value.filename == str(path / ("config.json" if size < 4 else "weights"))
    assert str(path) in str(caught.value)
    assert ".tmp-" not in str(caught.value)
    assert get(path) == (OLD if there else None)
    assert os.listdir(tmp_path) == (["model"] if there else [])


def test_a_full_disk_leaves_the_old_file(tmp_path):
    files.write_text(tmp_path / "a.json", "old")
    with pytest.raises(OSError, match="nothing was saved") as caught, files_of_at_most(10):
        files.write_json(tmp_path / "a.json", {"new": "x" * 100})
    assert caught.value.filename == str(tmp_path / "a.json")
    assert os.listdir(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_disk_that_is_really_full(small_disk):
    """The directory is the mounted disk itself, so nothing can be staged beside it."""
    put(small_disk, OLD)
    with pytest.raises(OSError, match="No space left on device; nothing was saved") as caught:
        with atomic_directory(small_disk) as staging:
            put(staging, {**NEW, "weights": "new!" * 100_000})
    assert caught.value.filename == str(small_disk / "weights")
    assert get(small_disk) == OLD
    assert sorted(os.listdir(small_disk)) == ["config.json", "mine", "pooling", "weights"]
    with atomic_directory(small_disk) as staging:
        put(staging, NEW)
    assert get(small_disk) == {**OLD, **NEW}


# --------------------------------------------------------------------------- rights and mistakes


def without_rights(act) -> str:
    """Run something as a user who is not root; return the message of its OSError, or ""."""
    read_end, write_end = os.pipe()

    def child():
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            act()
            message = ""
        except OSError as error:
            message = f"{type(error).__name__}: {error}"
        os.write(write_end, message.encode())

    status = in_child(child)
    os.close(write_end)
    with open(read_end) as pipe:
        message = pipe.read()
    assert status == 0
    return message


@pytest.fixture
def open_home():
    """A directory that every user may enter (those of pytest are for one user)."""
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        yield Path(home)


def test_no_right_to_write_is_said_about_the_path_of_the_user(open_home):
    path = open_home / "model"
    put(path, OLD)
    path.chmod(0o555)
    os.chmod(open_home, 0o555)
    for target in (path, open_home / "new"):

        def save(target=target):
            with atomic_directory(target) as staging:
                put(staging, NEW)

        message = without_rights(save)
        assert message.startswith("PermissionError")
        assert str(target) in message
        assert "nothing was saved" in message
        assert ".tmp-" not in message
    os.chmod(open_home, 0o755)
    path.chmod(0o755)
    assert get(path) == OLD


def test_a_right_to_write_in_the_directory_alone_is_enough(open_home):
    """As for a disk that is mounted into a container."""
    path = open_home / "model"
    path.mkdir()
    path.chmod(0o777)
    os.chmod(open_home, 0o555)

    def save():
        with atomic_directory(path) as staging:
            put(staging, NEW)

    assert without_rights(save) == ""
    os.chmod(open_home, 0o755)
    assert get(path) == NEW


def test_an_error_of_the_block_about_something_else_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_directory(tmp_path / "model"):
        (tmp_path / "training.csv").read_text()
    assert caught.value.filename == str(tmp_path / "training.csv")
    assert "nothing was saved" not in str(caught.value)


def test_a_directory_in_the_place_of_a_file_is_an_error_and_can_be_mended(tmp_path):
    path = tmp_path / "model"
    put(path, {"weights/strange": "a directory where a file should be"})
    with pytest.raises(IsADirectoryError, match="weights"), atomic_directory(path) as staging:
        put(staging, NEW)
    (path / "weights" / "strange").unlink()
    (path / "weights").rmdir()
    finish_save(path)
    assert get(path) == NEW


def test_a_save_after_a_killed_one_finishes_that_first(tmp_path):
    """Else what only the killed one wrote would come later, and win."""
    path = tmp_path / "model"
    put(path, OLD)
    put(path / files.SAVED, {**NEW, "vocab.txt": "of the killed save"})
    with atomic_directory(path) as staging:
        put(staging, {"weights": "newer still"})
    assert get(path) == {**OLD, **NEW, "vocab.txt": "of the killed save", "weights": "newer still"}
    assert not (path / files.SAVED).exists()


def test_two_who_finish_the_same_save_do_not_disturb_each_other(tmp_path, monkeypatch):
    path = tmp_path / "model"
    put(path, OLD)
    put(path / files.SAVED, NEW)
    replace = os.replace

    def slow(source, target):
        monkeypatch.setattr(os, "replace", replace)
        finish_save(path)  # another reader, quicker than we are
        replace(source, target)

    monkeypatch.setattr(os, "replace", slow)
    finish_save(path)
    assert get(path) == {**OLD, **NEW}
    assert not (path / files.SAVED).exists()


def test_importing_files_imports_no_torch():
    code = "import sys, minibert.io.directory; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_json_is_written_for_people(tmp_path):
    files.write_json(tmp_path / "a.json", {"é": [1]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "é": [\n    1\n  ]\n}\n'
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"é": [1]}
