"""What the README says is so: its code gives its numbers, its tree is the tree, its verbs exist."""

import json
import re
import shlex

import numpy as np
import pytest
from conftest import CHECKOUT
from test_cli import every_verb

from minibert import cli

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


COURSE = [CHECKOUT / "notebooks" / name for name in ("README.md", "README.zh-CN.md")]

COMPLETE = len(list(COURSE[0].parent.glob("[1-8]_*.ipynb"))) == 8  # while the last are written


def blocks(language: str, page: str = README) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def commands(page: str) -> list[list[str]]:
    """The words of every `minibert` command in the blocks of a page."""
    lines = [c for b in blocks("bash", page) for c in b.replace("\\\n", " ").splitlines()]
    return [shlex.split(c.partition("#")[0]) for c in lines if c.startswith("minibert ")]


@pytest.mark.weights
def test_the_six_lines_print_what_stands_behind_them(official):
    names: dict = {}
    checked = 0
    for line in blocks("python")[0].splitlines():
        code, _, said = line.partition("# => ")
        if not said:
            exec(code, names)  # noqa: S102  our own README
            continue
        value = eval(code, names)
        numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", said.partition(":")[0])]
        assert np.allclose(np.round(value, 4), numbers, atol=1e-9), line
        checked += 1
    assert checked == 2


@pytest.mark.weights
def test_the_table_is_what_the_first_command_prints(official, capsys):
    command = next(b for b in blocks("bash") if "minibert similarity" in b)
    words = shlex.split(command[command.index("minibert similarity") :])
    assert cli.main(words[1:]) == 0
    assert capsys.readouterr().out.strip() == blocks("")[0].strip()


def test_the_tree_names_every_module_once():
    tree = README[README.index("minibert/\n") : README.index("tests/  ")]
    named = re.findall(r"\b(\w+\.py)\b", tree)
    there = {path.name for path in (CHECKOUT / "minibert").glob("*.py")}
    assert sorted(named) == sorted(there - {"__init__.py", "__main__.py"})


@pytest.mark.parametrize("path, least", [(CHECKOUT / "README.md", 12), *((p, 9) for p in COURSE)])
def test_every_command_is_one_and_takes_its_options(path, least):
    verbs = {" ".join(words) for words in every_verb()}
    found = commands(path.read_text(encoding="utf-8"))
    assert len(found) >= least
    for _, *words in found:
        assert words[0] in verbs or " ".join(words[:2]) in verbs, words
        cli.build_parser().parse_args(words)  # exits where an option does not exist


@pytest.mark.parametrize("path", [CHECKOUT / "README.md", *COURSE])
def test_every_link_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        there = (path.parent / target).exists() or (target.endswith(".ipynb") and not COMPLETE)
        assert target.startswith("https://") or there, target


@pytest.mark.parametrize("path", COURSE)
def test_the_files_that_the_course_runs_are_there(path):
    found = re.findall(r"`python (?:-m pytest )?([^`]+)`", path.read_text(encoding="utf-8"))
    assert len(found) == 2
    for name in " ".join(found).split():
        assert (CHECKOUT / name).is_file(), name


def test_the_course_is_the_same_in_both_languages():
    english, chinese = (path.read_text(encoding="utf-8") for path in COURSE)
    own = [["minibert", "explain", "我喜欢陶器。"]]
    assert [words for words in commands(chinese) if words not in own] == commands(english)
    for pattern in (r"^#+ ", r"\]\((\d_\w+.ipynb)\)", r"`(\w+_\w+)`"):
        one, other = (re.findall(pattern, page, re.MULTILINE) for page in (english, chinese))
        assert one == other, pattern


@pytest.mark.parametrize("path", COURSE)
def test_the_table_of_the_course_names_the_exercises_of_each_notebook(path):
    rows = re.findall(r"^\| \[.*?\]\((\S+)\) \|.*\| (.*)\|$", path.read_text("utf-8"), re.MULTILINE)
    assert len(rows) == 8
    for name, named in rows:
        if not (path.parent / name).exists() and not COMPLETE:
            continue
        cells = json.loads((path.parent / name).read_text(encoding="utf-8"))["cells"]
        judged = [c for c in cells if "judged" in c["metadata"].get("tags", [])]
        source = "".join("".join(cell["source"]) for cell in judged)
        assert re.findall(r"`(\w+)`", named) == re.findall(r'check\("(\w+)"', source), name
