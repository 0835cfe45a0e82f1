"""Every argument of every command with values that nobody would type: no traceback, no lost file.

The arguments are those of the parser, so a new one is tried as well. What was in the directory
before has to stay there as it was.
"""

import argparse
import contextlib
import io
import os
import re
import shutil
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import small
from support.command import parser_of
from support.runs import files_of

from minibert.cli import main as cli
from minibert.config import BertConfig
from minibert.heads import BertForMaskedLM
from minibert.io.files import remove

resource = pytest.importorskip("resource", reason="limits of memory, as POSIX systems have them")
SHARE = int(os.environ.get("MINIBERT_ODD", 240))  # one in so many is tried; 1: all, for an hour
SECONDS = 3  # of a processor; an invocation that takes longer is at work, and is stopped
MEMORY = 6 << 30  # bytes of address space

NUMBERS = ["-1", "0", "1e23", "nan", "inf", "-inf", "1000000000", "99999999999999999999", "0.5"]
TEXTS = ["", " ", "x", "\u200b", "\x1b[31mred\x07", "\udcff", "[" * 9999, "٣", "a=b", "--"]
OLD = [f"old{ending}" for ending in (".md", ".svg", ".html", ".npy", ".onnx", ".txt", ".py")]
FILES = [
    "missing.txt", "empty.txt", "empty.npz", "deep.jsonl", "deep.json", "latin.csv", "binary.npy",
    "one-d.npy", "names.npz", "list.json", "pipe", "loop", "gone", "folder", "base", "tuned",
    "lines.txt", *OLD, "/dev/zero", "/dev/stdin", "no/such/folder/x.txt", "x" * 300,
]  # fmt: skip
ODD = [*NUMBERS, *TEXTS, *FILES]
MODEL = "--model base"
COMMANDS = {  # each with arguments that work, or that fail late
    "similarity": f"a b {MODEL}",
    "embed": f"lines.txt --out v.npy {MODEL}",
    "search": f"a lines.txt --vectors vectors.npy {MODEL}",
    "keysentences": f"lines.txt {MODEL}",
    "vocabulary": "lines.txt --out new.txt --size 60",
    "pretrain": "many.txt --vocabulary base --size 1x64 --steps 2 --out new",
    "distil": "many.txt --teacher base --layers 1 --steps 2 --out new",
    "finetune": "classify train.tsv --dev dev.tsv --base base --steps 2 --out new",
    "compare": "tuned again --svg new.svg",
    "predict": "new.tsv --model tuned",
    "blend": "base tuned --out new",
    "push": "tuned owner/name",
    "export": "base --onnx new.onnx",
    "download": "owner/name",
    "inspect": "base",
    "fill-mask": "[MASK] --model language",
    "trace": f"a --out new.safetensors {MODEL}",
    "explore": f"a b --out new.html {MODEL}",
    "explain": f"a {MODEL}",
    "show": "loop",
    "parity": "mine.npz --model base --trace trace.safetensors",
    "check": "attention solution.py --seconds 5",
    "bench": f"--number 2 --rounds 1 --no-start --alone {MODEL}",
    "evaluate similarity": f"--data pairs.csv --header {MODEL}",
    "evaluate classify": "--data dev.tsv --model tuned",
}


LATE = ("push", "export", "download")  # without a network, or the package onnx


def invocations(command: str):
    """The arguments of the command as they are, and with, in each, one that is odd."""
    plain = COMMANDS[command].split()
    positional = 0
    yield plain
    for action in parser_of(command)._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if not action.option_strings:
            for value in ODD:
                yield [*plain[:positional], value, *plain[positional + 1 :]]
            positional += 1
            continue
        option = action.option_strings[-1]
        if action.nargs == 0:
            yield [*plain, option]
            continue
        times = action.nargs if isinstance(action.nargs, int) else 1
        odd = ODD if action.type is None and not action.choices else [*NUMBERS, "x", ""]
        for value in [*odd, *({"--replace": REPLACED}.get(option, []))]:
            yield [*plain, *([f"{option}={value}"] if times == 1 else [option, *[value] * times])]


REPLACED = ["attention=base:A", "attention=latin.csv:A", "attention=solution.py:Nothing", "x=y:z"]


def make_world(home: Path) -> Path:
    """What the commands work with, and much that they cannot work with."""
    from minibert.training.finetune import finetune
    from minibert.training.settings import Settings

    small.world(home)
    BertForMaskedLM(BertConfig.from_pretrained(home / "base")).save_pretrained(home / "language")
    small.tokenizer().save_pretrained(home / "language")
    files = {name: str(home / f"{name}.tsv") for name in ("train", "dev")}
    finetune(Settings("classify", **files, base=str(home / "base"), steps=2), home / "tuned")
    shutil.copytree(home / "tuned", home / "again")
    many = [text for text, _ in small.sentences(150)]
    texts = {
        "many.txt": "".join(f"{text}\n" + "\n" * (i % 5 == 4) for i, text in enumerate(many)),
        "lines.txt": "a good film. it was warm.\nthe song was awful\n\n" * 9,
        "new.tsv": "text\na good film\nthe song was awful\n",
        "empty.txt": "", "empty.npz": "", "deep.jsonl": "[" * 100_000, "deep.json": "[" * 100_000,
        "list.json": "[1, 2]", "solution.py": "def attention(q, k, v, mask):\n    return 1\n",
        **dict.fromkeys(OLD, "mine"),
    }  # fmt: skip
    for name, text in texts.items():
        (home / name).write_text(text)
    (home / "latin.csv").write_bytes("fünf\n".encode("latin-1"))
    (home / "binary.npy").write_bytes(bytes(range(256)))
    np.save(home / "one-d.npy", np.zeros(3))
    np.savez(home / "names.npz", x=np.zeros(3), input_ids=np.array([[9999]]))
    np.savez(home / "mine.npz", **{"layers.0": np.zeros((1, 3, 32), np.float32)})
    (home / "folder").mkdir()
    os.mkfifo(home / "pipe")
    (home / "loop").symlink_to("loop")
    (home / "gone").symlink_to("nowhere")
    for command in ("trace good --out trace.safetensors", "embed lines.txt --out vectors.npy"):
        status, said = invoke([*command.split(), *MODEL.split()], home)
        assert status == 0, said
    return home


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


class AtWork(BaseException):
    """An invocation has taken its time."""


def invoke(words: list[str], home: Path) -> tuple[int | None, str]:
    """The exit status and what was said; -1: there was a traceback; None: it was at work."""

    def stop(*_):
        raise AtWork

    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    here, before = os.getcwd(), resource.getrlimit(resource.RLIMIT_AS)
    signal.signal(signal.SIGPROF, stop)
    os.chdir(home)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, before[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = cli.main(words)
    except SystemExit as stopped:
        status = stopped.code
    except AtWork:
        status = None
    except BaseException:
        status = -1
        said.write(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        os.chdir(here)
    return status, said.buffer.getvalue().decode(errors="replace")


def complaint(status: int | None, said: str) -> str | None:
    """What is wrong with an invocation."""
    if status == -1 or "Traceback (most recent call last)" in said:
        return "traceback: " + said.strip().splitlines()[-1]
    if status not in (0, 1, 2, None):
        return f"status {status}"
    if re.search("[\x00-\x08\x0b-\x1f\x7f]", re.sub("\r|\x1b\\[A", "", said)):  # a bar's own
        return "control characters"
    if status == 2 and not re.search("^(minibert|usage)", said, re.MULTILINE):
        return "nothing said"
    return None


def feed(pipe: Path) -> None:
    """Whoever reads from a pipe finds its end, and does not wait for ever."""

    def open_and_close() -> None:
        while pipe.exists():
            os.close(os.open(pipe, os.O_WRONLY))

    threading.Thread(target=open_and_close, daemon=True).start()


def attempts(command: str, home: Path) -> Iterator[tuple[str, int | None, str | None]]:
    """Each invocation, its exit status, and what is wrong with it."""
    feed(home / "pipe")
    there, digests = set(os.listdir(home)), files_of(home)
    plain, *odd = invocations(command)
    for words in [plain, *odd[len(command) % SHARE :: SHARE]]:
        status, said = invoke([*command.split(), *words], home)
        wrong = complaint(status, said)
        added = {home / name for name in set(os.listdir(home)) - there}
        for path in (*added, *(home / "folder").iterdir()):  # it was empty
            remove(path)
        if files_of(home) != digests:
            wrong = "a file is lost"
            digests = files_of(home)
        yield " ".join(words)[-200:], status, wrong


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_an_odd_value_is_no_traceback_and_costs_no_file(command, world, tmp_path, monkeypatch):
    for name, value in {
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "MINIBERT_WEIGHTS": str(tmp_path),
        "COLUMNS": "80",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    found = list(attempts(command, world))
    print(f"\n{command}: {len(found)} invocations, {dict(Counter(one[1] for one in found))}")
    assert found[0][1] in (0, 1, None) or command in LATE, "arguments that never worked try nothing"
    wrong = [f"{words!r}: {what}" for words, _, what in found if what]
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_command_is_tried():
    names = [run.__name__.replace("_", "-") for run in cli.COMMANDS]
    assert COMMANDS.keys() == {*names, "evaluate similarity", "evaluate classify"}
