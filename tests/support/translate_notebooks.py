"""Bring the code of the English notebooks into the Chinese ones; list what is to be translated.

    python tests/support/translate_notebooks.py 3         # code and outputs; lists the cells
    python tests/support/translate_notebooks.py 3 done    # the cells are translated: remember it

`notebooks/zh/` has the code cells and outputs of `notebooks/`; what the judge and a diagnosis say
is in Chinese there, as it is when they run. The metadata of a text cell hold ``translates``, a
digest of the English text: one that no longer fits means a translation is old.
"""

import copy
import hashlib
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

import minibert.course.exercises  # noqa: F401 - knows what the judge says, in Chinese, too
from minibert.io.language import translated

HOME = Path(__file__).resolve().parents[2] / "notebooks"
MOVE_UP = """# 课程的程序和数据都在上一级目录；评判程序用中文说话
import os

os.environ["MINIBERT_LANG"] = "zh"
if not os.path.exists("style.py"):
    os.chdir("..")"""


def digest(text: str) -> str:
    """Eight hexadecimal digits that stand for an English text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def chinese(english: NotebookNode, old: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """The Chinese notebook with today's English code, and the ids of the texts to translate.

    A text that is to be translated keeps its old translation, or is English.
    """
    known = {cell.id: cell for cell in old.cells} | {
        cell.metadata.translates: cell for cell in old.cells if "translates" in cell.metadata
    }
    made, to_do = copy.deepcopy(english), []
    for cell in made.cells:
        if cell.cell_type == "markdown":
            now = digest(cell.source)
            kept = known.get(now, known.get(cell.id, cell))
            cell.source, cell.metadata = kept.source, copy.deepcopy(kept.metadata)
            to_do += [cell.id] if cell.metadata.get("translates") != now else []
        elif re.search(r"\bcheck\(|\.diagnosis\b", cell.source):
            for output in cell.outputs:
                output.text = "\n".join(map(translated, output.text.split("\n")))
    made.cells.insert(1, nbformat.v4.new_code_cell(MOVE_UP, id="move-up"))
    return made, to_do


def update(path: Path, done: bool = False) -> list[str]:
    """Write the Chinese twin of an English notebook; the ids of the texts to translate."""
    english, twin = nbformat.read(path, as_version=4), path.parent / "zh" / path.name
    old = nbformat.read(twin, as_version=4) if twin.exists() else nbformat.v4.new_notebook()
    now = {cell.id: digest(cell.source) for cell in english.cells}
    for cell in old.cells if done else []:
        if cell.cell_type == "markdown":
            cell.metadata.translates = now.get(cell.id)
    made, to_do = chinese(english, old)
    nbformat.write(made, twin)
    return to_do


if __name__ == "__main__":
    for name in HOME.glob(f"{sys.argv[1]}_*.ipynb"):
        print("to translate:", *update(name, done=sys.argv[2:] == ["done"]))
