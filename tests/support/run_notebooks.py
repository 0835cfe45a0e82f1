"""Run a notebook from a clean kernel; store its outputs, or say where they are no longer so.

    python tests/support/run_notebooks.py notebooks/3_attention_by_hand.ipynb

What is stored is what a learner sees who runs the notebook and has written nothing yet; its Chinese
twin gets the same (`translate_notebooks.py`). `run` does the same, and solves each exercise after
its judge has spoken: the metadata of the learner's cell hold a ``solution``, which is also shown,
folded away, below the judge. Tags of a cell:

    exercise   the learner writes here; has a ``solution``
    judged     calls the judge on the exercise before it
    varies     the output is not the same every time (seconds, paths) and is not compared
"""

from __future__ import annotations

import copy
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HOME = Path(__file__).resolve().parents[2] / "notebooks"
LIBRARY = HOME.parent
SECONDS = 1200  # for the start and each cell: far above all, to end a run that hangs
OFFLINE = {"HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
OFFLINE["https_proxy"] = OFFLINE["http_proxy"]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def execute(notebook: NotebookNode, directory: Path) -> NotebookNode:
    """A copy of the notebook, run in a directory with the files of ``notebooks/``, offline."""
    for path in HOME.iterdir():
        if path.suffix == ".py":
            shutil.copy(path, directory)
        elif path.is_dir() and path.name == "data":
            shutil.copytree(path, directory / path.name, dirs_exist_ok=True)
    done = copy.deepcopy(notebook)
    paths = os.pathsep.join(filter(None, [str(LIBRARY), os.environ.get("PYTHONPATH")]))
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **OFFLINE, "PYTHONPATH": paths}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    where = {"metadata": {"path": str(directory)}}
    patience = {"timeout": SECONDS, "startup_timeout": SECONDS}
    client = NotebookClient(done, kernel_name="python3", resources=where, **patience)
    client.execute(env=environment)
    for cell in done.cells:
        if cell.cell_type == "code":
            cell.outputs = tidy(cell.outputs)
    return done


def tidy(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs without noise: one text where there were several, no counters, no figure's repr."""
    found: list[NotebookNode] = []
    for output in outputs:
        last = found[-1] if found else None
        if last and output.output_type == last.output_type == "stream" and last.name == output.name:
            last.text += output.text
            continue
        output = copy.deepcopy(output)
        output.pop("execution_count", None)
        if output.output_type in ("display_data", "execute_result"):
            output.metadata = NotebookNode()
            if "image/png" in output.data:
                output.data = NotebookNode({"image/png": output.data["image/png"].strip()})
        found.append(output)
    return found


def shown(outputs: list[NotebookNode]) -> list[str]:
    """What a reader sees of a cell's outputs; of a picture, that there is one."""
    found = []
    for output in tidy(outputs):
        if output.output_type == "stream":
            found.append(("" if output.name == "stdout" else f"{output.name}: ") + output.text)
        elif output.output_type == "error":
            found.append(f"error: {output.ename}: {output.evalue}")
        elif "image/png" in output.data:
            found.append("(a picture)")
        else:
            found.append(output.data.get("text/plain", str(sorted(output.data))))
    return found


def run(notebook: NotebookNode, directory: Path) -> list[str]:
    """Run a notebook as published, solving its exercises on the way. What is not as it should be.

    After each judge its exercise is solved and it judges again, and must now give all points.
    """
    steps, solution = [], None  # (cell, what it stands for)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        steps.append((cell, "published"))
        if "exercise" in tags(cell):
            solution = nbformat.v4.new_code_cell(cell.metadata.get("solution", ""))
        elif "judged" in tags(cell) and solution is not None:
            steps += [(solution, "solution"), (cell, "solved")]
    again = nbformat.v4.new_notebook(metadata=METADATA)
    again.cells = [copy.deepcopy(cell) for cell, _ in steps]
    for number, cell in enumerate(again.cells):
        cell.id, cell.outputs = f"step-{number}", []
    wrong = []
    for (cell, kind), now in zip(steps, execute(again, directory).cells, strict=True):
        where = f"{kind} cell\n{indented(cell.source)}"
        then, seen = shown(cell.outputs), shown(now.outputs)
        wrong += [f"{where}\nsays {text}" for text in seen if text.startswith(("stderr", "error"))]
        if kind == "published" and "varies" not in tags(cell) and then != seen:
            wrong.append(f"{where}\nstored\n{indented(*then)}\nnow\n{indented(*seen)}")
        elif kind == "solved" and not full_marks("".join(seen)):
            wrong.append(f"{where}\ndoes not give all points\n{indented(*seen)}")
    return wrong


def run_file(path: Path, directory: Path) -> list[str]:
    """`run` the notebook in a file."""
    return run(nbformat.read(path, as_version=4), directory)


def full_marks(report: str) -> bool:
    """Whether a judge's report gives all points: "attention: 10 of 10 points"."""
    points = report.partition(":")[2].split()[:4]
    return len(points) == 4 and points[0] == points[2] and points[3] == "points"


def indented(*texts: str) -> str:
    """Texts, moved to the right."""
    return "\n".join(f"    {line}" for text in texts for line in text.splitlines())


def store(path: Path, directory: Path) -> None:
    """Run a notebook and write it back with the outputs it gave."""
    done = execute(nbformat.read(path, as_version=4), directory)
    count = 0
    for cell in done.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    done.metadata = NotebookNode(METADATA)
    nbformat.validate(done)
    nbformat.write(done, path)


if __name__ == "__main__":
    from translate_notebooks import update

    for name in sys.argv[1:]:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            store(Path(name), Path(scratch))
        seconds, size = time.perf_counter() - began, Path(name).stat().st_size
        print(f"{name}: {seconds:.1f} s, {size / 1e3:.0f} kB")
        if (HOME / "zh" / Path(name).name).exists():
            print("to translate in zh/:", *update(Path(name)))
