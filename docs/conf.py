"""Configuration of the documentation: ``make docs``."""

from __future__ import annotations

import shutil
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "mnndask"
author = "the mnndask developers"
project_copyright = author
release = version_of("mnndask")
version = release

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
]
# The first is that of generated pages.
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build", "tutorials/README.md"]
smartquotes = False  # which would change options in examples
language = "en_GB"

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # `make notebooks` executes them, and the tests
nb_merge_streams = True

autodoc_typehints = "none"  # docstrings say what is accepted
autosummary_generate = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "sphinx_book_theme"
html_title = "mnndask"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["style.css"]
html_theme_options = {
    "navbar_persistent": [],  # one field for the search, which is in the sidebar
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_context = {"default_mode": "light"}  # pictures have a white ground
html_show_sphinx = False
html_sourcelink_suffix = ""
copybutton_prompt_text = "$ "


def _copied() -> None:
    """Copy what is kept elsewhere in the repository: notebooks, the changelog and the like."""
    tutorials = HERE / "tutorials"
    tutorials.mkdir(exist_ok=True)
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        _copy(path, tutorials / path.name)
    for path in (ROOT / "notebooks").glob("*.png"):
        _copy(path, tutorials / path.name)
    _copy(ROOT / "benchmarks" / "growth.png", HERE / "figures" / "growth.png")


def _copy(source: Path, target: Path) -> None:
    if not target.exists() or target.read_bytes() != source.read_bytes():
        shutil.copyfile(source, target)


def _math(self, node: nodes.Element) -> None:
    """Write a formula as MathML, which browsers show without a script."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    self.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app) -> None:
    """Register the writer of formulas."""
    app.add_node(nodes.math, override=True, html=(_math, None))
    app.add_node(nodes.math_block, override=True, html=(_math, None))


_copied()
