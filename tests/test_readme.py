"""What the README says is so: its code gives its numbers, its tree is the tree, its verbs exist."""

import re
import shlex

import numpy as np
import pytest
from conftest import CHECKOUT
from test_cli import every_verb

from minibert import cli

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


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


def test_every_command_is_one_and_takes_its_options(capsys):
    verbs = {" ".join(words) for words in every_verb()}
    commands = [c for b in blocks("bash") for c in b.replace("\\\n", " ").splitlines()]
    commands = [c.partition("#")[0] for c in commands if c.startswith("minibert ")]
    assert len(commands) >= 12
    for command in commands:
        words = shlex.split(command)[1:]
        assert words[0] in verbs or " ".join(words[:2]) in verbs, command
        cli.build_parser().parse_args(words)  # exits where an option does not exist


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (CHECKOUT / target).exists(), target
