"""What is not code but needed to run is shipped: ``pip install`` of a wheel must not lack it."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import CHECKOUT

from minibert.cli.main import main

PROJECT = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
SHIPPED = [path for path in (CHECKOUT / "weights").glob("minibert-*") if path.is_dir()]
SENTENCES = ["A man is playing a guitar.", "Someone plays an instrument."]


def table(name: str) -> dict:
    """A table of ``tool.setuptools``: package → string or list of strings."""
    section = re.search(rf"\[tool\.setuptools\.{name}\][^\n]*\n(.*?)\n\n", PROJECT, re.DOTALL)
    rows = (line.partition(" = ") for line in section.group(1).splitlines())
    return {package.strip('"'): ast.literal_eval(value) for package, _, value in rows}


def files_below(folder) -> set:
    files = {path for path in folder.rglob("*") if path.is_file()}
    return {path for path in files if "__pycache__" not in path.parts}


def test_everything_is_named_in_pyproject():
    listed = re.search(r"^packages = (\[.*?\])", PROJECT, re.MULTILINE | re.DOTALL)
    packages = ast.literal_eval(listed.group(1))
    elsewhere, shipped = table("package-dir"), set()
    folders = {name: CHECKOUT / elsewhere.get(name, name.replace(".", "/")) for name in packages}
    for package, patterns in table("package-data").items():
        for pattern in patterns:
            found = set(folders[package].glob(pattern))
            assert found, f"{package}: there is no {pattern}"
            shipped |= found
    shipped |= {path for folder in folders.values() for path in folder.glob("*.py")}
    assert {path for path in shipped if path.is_file()} == set().union(
        *map(files_below, [CHECKOUT / "minibert", *SHIPPED])
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", ["wheel", "checkout"])
def test_the_first_command_needs_no_network(tmp_path, how):
    """Nor anything of this checkout, once a wheel of it is installed."""
    place = CHECKOUT
    if how == "wheel":
        source, place = tmp_path / "source", tmp_path / "site"
        for name in ("minibert", "weights"):
            shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("all-*"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(CHECKOUT / name, source)
        official = source / "weights" / "all-MiniLM-L6-v2"  # fetched into a checkout, not of it
        shutil.copytree(source / "weights" / "minibert-small", official)
        pip = [sys.executable, "-m", "pip", "--quiet", "--no-input"]
        build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", tmp_path, source]
        subprocess.run([*pip, *build], check=True)
        (wheel,) = tmp_path.glob("*.whl")
        expected = {path.relative_to(CHECKOUT) for path in files_below(CHECKOUT / "minibert")}
        for model in SHIPPED:
            within = (path.relative_to(CHECKOUT) for path in files_below(model))
            expected |= {type(path)("minibert", path) for path in within}
        inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
        assert inside == {path.as_posix() for path in expected}
        install = ["install", "--no-deps", "--no-index", "--target", place, wheel]
        subprocess.run([*pip, *install], check=True)
        shutil.rmtree(source)
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "PIP_INDEX_URL": "http://127.0.0.1:9"}
    env = {**os.environ, **nowhere, "HOME": str(tmp_path), "PYTHONPATH": str(place)}
    for name in ("MINIBERT_WEIGHTS", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        env[name] = str(tmp_path / "empty")
    command = [sys.executable, "-c", CODE, *SENTENCES]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, where = done.stdout.rsplit("\n", 2)[:2]
    assert said.startswith("cosine similarity, minibert-small, 384 dimensions")
    assert "0.6665" in said and not done.stderr
    assert where == str(place / "minibert" / "__init__.py")


CODE = """
import socket, sys, minibert
from minibert.cli.main import main

def refuse(*_):
    raise OSError("this test has no network")

socket.socket.connect = socket.getaddrinfo = refuse
status = main(["similarity", *sys.argv[1:]])
print(minibert.__file__)
sys.exit(status)
"""


def test_binder_installs_what_there_is():
    """An extra, a file of versions and a command that do not exist fail on somebody else's site."""
    folder = CHECKOUT / ".binder"
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    extra = next(re.fullmatch(r"-e \.\[(\w+)\]", line) for line in lines if line[:2] == "-e")
    assert re.search(rf"^{extra.group(1)} = \[", PROJECT, re.MULTILINE)
    assert (folder / next(line[3:] for line in lines if line[:2] == "-c")).is_file()
    command = (folder / "postBuild").read_text(encoding="utf-8").split()[-1]
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert os.access(folder / "postBuild", os.X_OK)
