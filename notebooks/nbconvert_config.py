"""Settings for nbconvert: a notebook becomes a page that shows its formulas without a network.

    jupyter nbconvert --to html --config notebooks/nbconvert_config.py notebooks/3_*.ipynb

Browsers draw MathML by themselves. Without these settings a page holds TeX, and fetches MathJax.
"""

import re

from latex2mathml.converter import convert

FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$", re.DOTALL)


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
c.HTMLExporter.preprocessors = [to_mathml]
c.HTMLExporter.mathjax_url = c.HTMLExporter.jquery_url = c.HTMLExporter.require_js_url = ""
