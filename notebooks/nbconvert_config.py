"""Settings for nbconvert: a notebook becomes a page for any browser and for readers aloud.

    jupyter nbconvert --to html --config notebooks/nbconvert_config.py notebooks/3_*.ipynb

Browsers draw MathML by themselves. Without these settings a page holds TeX, and fetches MathJax;
and of its pictures it says that they have no description, though that stands below each of them.
"""

import itertools
import re
from html import escape

from latex2mathml.converter import convert

FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$", re.DOTALL)
DESCRIPTION = re.compile(r"\*(?:Picture: |图：)(.+?)\*(?:\n\n|$)", re.DOTALL)


def describe(notebook, resources):
    """A preprocessor of nbconvert: what is said below a picture is its alternative text, too.

    As HTML, for of a PNG nbconvert's page takes none.
    """
    for cell, below in itertools.pairwise(notebook.cells):
        if found := DESCRIPTION.match(below.source):
            for output in cell.outputs:
                if png := output.get("data", {}).pop("image/png", ""):
                    text = escape(" ".join(found[1].split()))
                    source = f"data:image/png;base64,{png.strip()}"
                    output.data["text/html"] = f'<img alt="{text}" src="{source}">'
    return notebook, resources


def to_mathml(notebook, resources):
    """A preprocessor of nbconvert: every formula of the text cells in MathML."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(mathml, cell.source)
    return notebook, resources


def mathml(found: re.Match) -> str:
    """One formula. Primes are letters here: raised, a prime is too small to be seen."""
    tex = found[found.lastgroup].replace("''", "″").replace("'", "′")
    return convert(tex, display=found.lastgroup)


c = get_config()  # noqa: F821 (nbconvert defines it)
c.HTMLExporter.preprocessors = [describe, to_mathml]
c.HTMLExporter.mathjax_url = c.HTMLExporter.jquery_url = c.HTMLExporter.require_js_url = ""
