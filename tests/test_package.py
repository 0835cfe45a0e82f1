"""What is not code but needed to run is shipped: ``pip install`` of a wheel must not lack it."""

import ast
import re

from conftest import CHECKOUT


def test_every_data_file_is_named_in_pyproject():
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    section = re.search(r"\[tool\.setuptools\.package-data\]\n(.*?)\n\n", project, re.DOTALL)
    shipped = set()
    for line in section.group(1).splitlines():
        package, _, patterns = line.partition(" = ")
        folder = CHECKOUT.joinpath(*package.strip('"').split("."))
        for pattern in ast.literal_eval(patterns):
            found = set(folder.glob(pattern))
            assert found, f"{package}: there is no {pattern}"
            shipped |= found
    there = {path for path in (CHECKOUT / "minibert").rglob("*") if path.is_file()}
    data = {path for path in there if path.suffix != ".py" and "__pycache__" not in path.parts}
    assert data == shipped
