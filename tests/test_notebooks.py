"""The notebooks run from a clean kernel and still say what is stored; exercises can be solved."""

import base64
import re
import shlex
from html import unescape

import nbformat
import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from support.run_notebooks import HOME, METADATA, run, run_file, shown, tags
from support.translate_notebooks import chinese, digest
from traitlets.config import PyFileConfigLoader

from minibert.cli import main as cli
from minibert.course.exercises import EXERCISES

NOTEBOOKS = sorted(HOME.glob("[0-9]*.ipynb"))
CHINESE = sorted(HOME.glob("zh/[0-9]*.ipynb"))
QUICK = "02"  # these run in the quick tests, too


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.mark.weights
@pytest.mark.parametrize("path", [
    pytest.param(path, marks=[pytest.mark.slow] * (path.stem[0] not in QUICK)) for path in NOTEBOOKS
], ids=lambda path: path.stem)
def test_a_notebook_says_what_is_stored_and_its_exercises_can_be_solved(path, official, tmp_path):
    """The official weights are fetched before: a notebook runs offline."""
    wrong = run_file(path, tmp_path)
    assert not wrong, "\n\n".join(wrong)


def test_a_notebook_is_small_and_clean(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata == METADATA
    assert "After this you can" in notebook.cells[0].source
    assert len(nbformat.writes(notebook)) < 500_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            picture = base64.b64decode(output.get("data", {}).get("image/png", ""))
            assert len(picture) < 60_000, cell.source
        assert not any(text.startswith(("stderr", "error")) for text in shown(cell.outputs))


def test_every_exercise_is_judged_and_its_solution_is_shown(notebook):
    """`run` gives each ``solution`` all points; what is folded away below a judge is that code."""
    waiting = None
    for cell, below in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if "exercise" in tags(cell):
            assert waiting is None
            assert "..." in cell.source and cell.metadata.solution
            waiting = cell
        elif "judged" in tags(cell):
            assert waiting and "check(" in cell.source
            folded = below.source.partition("<details>")[2].partition("</details>")[0]
            assert f"```python\n{waiting.metadata.solution}\n```" in folded
            waiting = None
    assert waiting is None


def test_a_picture_is_described_below_it(notebook):
    """JupyterLab gives plots no alternative text, so the markdown cell below begins with one."""
    for cell, below in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if cell.cell_type == "code" and "(a picture)" in shown(cell.outputs):
            assert below.source.startswith("*Picture: "), cell.source
            assert len(below.source.partition("*\n\n")[0]) > 80


@pytest.mark.parametrize("path", NOTEBOOKS + CHINESE, ids=lambda p: str(p.relative_to(HOME)))
def test_commands_and_links_in_the_text_are_good(path):
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for command in re.findall(r"`minibert ([^`]+)`", text):
        cli.build_parser().parse_args(shlex.split(command))  # exits where there is no such option
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (path.parent / target).exists(), target
        if target.startswith("../"):  # from the Chinese ones, to what there is in English only
            assert not (path.parent / target[3:]).exists(), target


@pytest.mark.parametrize("path", CHINESE, ids=lambda path: path.stem)
def test_a_chinese_notebook_is_the_english_one_in_translation(path):
    """It has today's code and outputs, and each of its texts translates today's English text.

    `tests/support/translate_notebooks.py` says how to bring it up to date.
    """
    english, twin = (nbformat.read(p, as_version=4) for p in (HOME / path.name, path))
    nbformat.validate(twin)
    made, to_do = chinese(english, twin)
    assert not to_do
    assert made == twin
    made.cells.pop(1)  # goes up to the folder of the English notebooks
    for cell, ours in zip(english.cells, made.cells, strict=True):
        if cell.cell_type == "markdown":
            one, other = cell.source, ours.source
            assert re.search("[\u4e00-\u9fff]{2}", other), other
            assert not re.search("[\u4e00-\u9fff，。；：][ \n][\u4e00-\u9fff]", other), other
            words = re.compile(r"\\text\{[^}]*\}")  # those in a formula are translated, too
            for kept in (r"(?s)```.*?```", r"\$\$[^$]+\$\$|\$[^$]+\$", r"https?://[^)\s]+"):
                there, here = (re.findall(kept, words.sub("", text)) for text in (one, other))
                assert sorted(here) == sorted(there)
            if one.startswith("*Picture: "):
                assert other.startswith("*图：")
                assert len(other.partition("*\n\n")[0]) > 40


def test_a_page_shows_its_formulas_without_a_network():
    """As MathML, which a browser draws; no TeX is left, nor a script that is fetched to draw it."""
    config = PyFileConfigLoader("nbconvert_config.py", str(HOME)).load_config()
    _, to_mathml = config.HTMLExporter.preprocessors
    for path in NOTEBOOKS + CHINESE:
        notebook, _ = to_mathml(nbformat.read(path, as_version=4), {})
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        formulas = re.findall("(?s)<math .*?</math>", text)
        assert "$" not in text
        assert not re.search(r'\\|mathvariant="[sd]|&#x02032;', "".join(formulas)), path
        if path == NOTEBOOKS[3]:
            page, _ = HTMLExporter(config=config).from_filename(path)
            assert page.count("</math>") == len(formulas) > 80
            assert not re.search(r"<(script|link)[^>]+(src|href)=.http", page)


def test_a_page_describes_its_pictures():
    """In the language of the notebook, with the text that stands below the picture."""
    config = PyFileConfigLoader("nbconvert_config.py", str(HOME)).load_config()
    describe, _ = config.HTMLExporter.preprocessors
    for path in NOTEBOOKS + CHINESE:
        notebook = nbformat.read(path, as_version=4)
        below = " ".join(" ".join(cell.source.split()) for cell in notebook.cells)
        pictures = nbformat.writes(notebook).count('"image/png"')
        page = nbformat.writes(describe(notebook, {})[0]).replace('\\"', '"')
        if path in (NOTEBOOKS[3], CHINESE[3]):
            page, _ = HTMLExporter(config=config).from_filename(path)
        said = [unescape(text) for _, text in re.findall("""<img [^>]*alt=(["'])(.*?)\\1""", page)]
        assert len(set(said)) == pictures > 0
        for text in said:
            assert len(text) > 30
            assert ("*图：" if path in CHINESE else "*Picture: ") + f"{text}*" in below


def test_every_notebook_is_there_in_chinese():
    assert [path.name for path in CHINESE] == [path.name for path in NOTEBOOKS]


def test_each_of_the_twelve_exercises_is_in_one_notebook():
    assert len(NOTEBOOKS) == 10
    sources = [
        cell.source
        for path in NOTEBOOKS
        for cell in nbformat.read(path, as_version=4).cells
        if "judged" in tags(cell)
    ]
    for name in EXERCISES:
        assert sum(f'check("{name}"' in source for source in sources) == 1, name


# ------------------------------------------------------------------------- can this go red?


def cell(source: str, *outputs, tags: tuple = (), **metadata):
    made = new_code_cell(source, outputs=list(outputs))
    made.metadata.update(tags=list(tags), **metadata)
    return made


def printed(text: str, name: str = "stdout"):
    return new_output("stream", name=name, text=text)


PICTURE = new_output("display_data", data={"image/png": ""})
JUDGE = 'print(f"wordpiece: {f()} of 10 points  (f)")'


def test_a_translation_that_is_no_longer_one_is_found():
    english = new_notebook(cells=[new_markdown_cell(t, id=t) for t in ("one", "two", "three")])
    assert chinese(english, new_notebook())[1] == ["one", "two", "three"]
    twin, _ = chinese(english, new_notebook())
    twin.cells[0].update(source="一", metadata={"translates": digest("one")})
    twin.cells[2].update(source="二", metadata={"translates": digest("two, before it changed")})
    made, to_do = chinese(english, twin)
    assert to_do == ["two", "three"]
    texts = [cell.source for cell in made.cells if cell.cell_type == "markdown"]
    assert texts == ["一", "二", "three"]


def test_what_is_not_as_stored_is_found(tmp_path):
    right = [
        cell("import sys; print(1); print(2)", printed("1\n2\n")),
        cell("40 + 2", new_output("execute_result", data={"text/plain": "42"})),
        cell("print(id(sys))", printed("3\n"), tags=["varies"]),
        cell("from matplotlib.pyplot import plot; plot([1]);", PICTURE),
        cell("f = lambda: ...", tags=["exercise"], solution="f = lambda: 10"),
        cell(JUDGE, printed("wordpiece: Ellipsis of 10 points  (f)\n"), tags=["judged"]),
    ]
    changed = [
        cell("print(3)", printed("4\n")),
        cell("41 + 2", new_output("execute_result", data={"text/plain": "42"})),
        cell("print(5)", PICTURE),
        cell("print(6, file=sys.stderr)", printed("6\n", "stderr")),
        cell("f = lambda: ...", tags=["exercise"], solution="f = lambda: 9"),
        cell(JUDGE, printed("wordpiece: Ellipsis of 10 points  (f)\n"), tags=["judged"]),
    ]
    wrong = run(new_notebook(cells=right + changed), tmp_path)
    assert len(wrong) == len(changed) - 1, "\n\n".join(wrong)
    for found, source in zip(wrong, ["3", "41", "5", "6", "print(f"], strict=True):
        assert source in found.partition("\n")[2]
