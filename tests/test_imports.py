"""Who may import whom: every import of the package is read, those inside functions too.

A room is a folder of ``minibert/`` or a file beside it. The *book* are the rooms read in the order
of `BOOK`; the *wings* are the folders around it. The command line stands above all, ``io`` below.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import minibert

PACKAGE = Path(minibert.__file__).parent
BOOK = [
    "config", "tokenization", "embeddings", "attention", "encoder", "pretrained", "model", "heads",
    "pooling", "similarity", "batching", "sentence_encoder", "cross_encoder", "trace",
]  # fmt: skip
WINGS = ["speed", "training", "parity", "explore", "course"]
FLOORS = 12

ALLOWED = {  # what breaks a rule, and why it may
    # from_pretrained(engine=...) swaps linear layers, so the encoder names its engines: inside a
    # function, so that whoever reads the book does not have to know them.
    ("sentence_encoder", "speed"),
}


class Import(NamedTuple):
    """An arrow between two modules, named without "minibert.": ``"io.hub"``."""

    by: str
    of: str
    inside_function: bool

    @property
    def rooms(self) -> tuple[str, str]:
        return self.by.partition(".")[0], self.of.partition(".")[0]


def imports_of(module: str, source: str, modules: Iterable[str]) -> list[Import]:
    """Every import of a module of ours in a source; names are resolved to the modules they are."""
    found = []

    def visit(node: ast.AST, inside_function: bool) -> None:
        names = []
        if module == "__init__" and ast.unparse(node).startswith("if TYPE_CHECKING:"):
            return  # for editors only
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module
            if node.level:  # relative: counted from the folder of the module
                above = module.split(".")[: -node.level]
                base = ".".join(filter(None, ["minibert", *above, node.module]))
            names = [f"{base}.{alias.name}" for alias in node.names]
            names = [n if n.removeprefix("minibert.") in modules else base for n in names]
        for name in names:
            if name.partition(".")[0] == "minibert":
                of = name.removeprefix("minibert").removeprefix(".") or "__init__"
                found.append(Import(module, of, inside_function))
        inside_function |= isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.iter_child_nodes(node):
            visit(child, inside_function)

    visit(ast.parse(source), False)
    return found


SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


# -------------------------------------------------------------------------------------- the rules


def broken_rules(imports: Iterable[Import]) -> list[str]:
    """A sentence for each rule that these imports break."""
    imports = list(imports)
    said = [f"{i.by} imports {i.of}: {why}" for i in imports if (why := wrong(i))]
    return [*dict.fromkeys(said), *circles(imports), *too_high(imports)]


def wrong(arrow: Import) -> str | None:
    """Why a module must not import another, or None."""
    by, of = arrow.rooms
    if arrow.of == "__init__":  # its version; its names have modules of their own
        return None
    if by == "__init__":
        return None if arrow.inside_function else "the public names are imported when asked for"
    if by == "__main__" or by == of:
        return None
    if (by, of) in ALLOWED and arrow.inside_function:
        return None
    if by == "cli":
        return None if arrow.inside_function else "--help needs no torch; import in the function"
    if of == "cli":
        return "nothing stands above the command line"
    if by == "io":
        return "io imports nothing of ours"
    if of == "io":
        return None
    if by in ("config", "tokenization"):
        return "config and the tokenizer import io and nothing else of ours"
    if by in BOOK:
        if of not in BOOK:
            return "the book does not need its wings"
        return None if BOOK.index(of) < BOOK.index(by) else "the book is read in its order"
    if by in WINGS:
        if of in BOOK or (by, of) == ("course", "parity"):
            return None
        return "wings stand apart; what two of them need belongs in the book or in io"
    return f"{by} is no room; give it a place in BOOK or WINGS"


def arrows(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for by, of in pairs:
        if by != of:
            graph.setdefault(by, set()).add(of)
    return graph


def room_arrows(imports: Iterable[Import]) -> dict[str, set[str]]:
    return arrows(
        i.rooms for i in imports
        if i.of != "__init__" and i.by not in ("__init__", "__main__") and i.rooms not in ALLOWED
    )  # fmt: skip


def circles(imports: list[Import]) -> list[str]:
    """No circle between rooms, nor between the files of a room."""
    inside = [arrows((i.by, i.of) for i in imports if i.rooms == (room, room))
              for room in sorted({i.by.partition(".")[0] for i in imports})]  # fmt: skip
    found = []
    for graph in [room_arrows(imports), *inside]:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            way = " → ".join(reversed(error.args[1]))
            found.append(f"a circle, of which no file can be read first: {way}")
    return found


def longest_way(graph: dict[str, set[str]]) -> list[str]:
    """The longest way along the arrows: from the top floor down."""
    ways: dict[str, list[str]] = {}
    for room in TopologicalSorter(graph).static_order():  # the lowest first
        below = (ways[of] for of in sorted(graph.get(room, ())))
        ways[room] = [room, *max(below, key=len, default=[])]
    return max(ways.values(), key=len, default=[])


def too_high(imports: list[Import]) -> list[str]:
    try:
        way = longest_way(room_arrows(imports))
    except CycleError:
        return []  # said by `circles`
    return [f"{len(way)} floors, at most {FLOORS}: {' → '.join(way)}"] * (len(way) > FLOORS)


# ------------------------------------------------------------------------------- what they are for


def test_the_house_keeps_its_rules():
    imports = [
        arrow
        for module, path in SOURCES.items()
        for arrow in imports_of(module, path.read_text(encoding="utf-8"), SOURCES)
    ]
    assert len(imports) > 100
    assert not broken_rules(imports), "\n".join(broken_rules(imports))


@pytest.mark.parametrize("module, source, why", [
    ("io.hub", "from minibert.config import BertConfig", "io imports nothing"),
    ("config", "def f():\n    import minibert.model", "io and nothing else"),
    ("tokenization.tokenizer", "from minibert import config", "io and nothing else"),
    ("attention", "from minibert.model import BertModel", "read in its order"),
    ("model", "from minibert.training import loop", "does not need its wings"),
    ("heads", "async def f():\n    from minibert.speed import packed", "its wings"),
    ("sentence_encoder", "from minibert.speed import packed", "its wings"),
    ("speed.packed", "from ..training.loop import x", "stand apart"),
    ("parity.steps", "if x:\n    from minibert.course import cases", "stand apart"),
    ("training.loop", "import minibert.cli.main", "above the command line"),
    ("cli.main", "from minibert.io import hub", "import in the function"),
    ("__init__", "from minibert.config import BertConfig", "when asked for"),
    ("attic", "import minibert.config as c", "attic is no room"),
])
def test_a_wrong_import_is_named(module, source, why):
    (said,) = broken_rules(imports_of(module, source, SOURCES))
    assert said.startswith(f"{module} imports ") and why in said


def test_circles_are_named():
    between = [Import("course.a", "parity.b", False), Import("parity.c", "course.d", True)]
    *_, said = broken_rules(between)
    assert said.startswith("a circle") and "course → parity" in said and "parity → course" in said
    ring = [("io.a", "io.b"), ("io.b", "io.c"), ("io.c", "io.a")]
    (said,) = broken_rules([Import(by, of, by == "io.b") for by, of in ring])
    assert all(arrow in said for arrow in ("io.a → io.b", "io.b → io.c", "io.c → io.a"))


def test_too_many_floors_are_named():
    tower = [Import(upper, lower, False) for lower, upper in zip(BOOK[1:], BOOK[2:], strict=False)]
    tower += [Import("tokenization", "io.hub", False), Import("explore.page", "trace", False)]
    (said,) = broken_rules(tower)
    assert said.startswith("15 floors, at most 12: explore → trace → cross_encoder → sentence")


def test_tests_import_no_tests():
    tests = Path(__file__).parent
    names = {path.stem for path in tests.rglob("test_*.py")}
    for path in tests.rglob("*.py"):
        for line in re.findall(r"^ *(?:from|import) .*", path.read_text("utf-8"), re.MULTILINE):
            assert names.isdisjoint(re.findall(r"\w+", line)), f"{path} imports a test: {line}"


@pytest.mark.slow
def test_every_module_can_be_imported_on_windows():
    """What only POSIX systems have is hidden; where it is needed it is imported in functions."""
    code = """
import importlib, pkgutil, sys
import numpy, torch, huggingface_hub, tqdm, safetensors.torch, torch.utils.data, minibert
for name in "resource fcntl pwd grp termios tty pty posix syslog readline curses".split():
    sys.modules[name] = None
for module in pkgutil.walk_packages(minibert.__path__, "minibert."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
