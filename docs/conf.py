"""The site: `make docs`, without the internet. Its pages are docs/**/*.md and those that tools/pages makes."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from pygments.lexers import TextLexer  # noqa: E402
from sphinx.highlighting import lexers  # noqa: E402

from fastreid_parts import __version__  # noqa: E402
from tools import pages  # noqa: E402  below the root

pages.write(DOCS)
lexers["csv"] = TextLexer()  # Pygments has none

project = "fastreid_parts"
author = "The fastreid_parts authors"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx_copybutton", "tools.pages.mathml", "tools.pages.measured"]
extensions += [f"sphinx.ext.{name}" for name in ("autodoc", "napoleon", "viewcode")]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "**/_*.md"]  # and parts that pages include
templates_path: list[str] = []

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings: list[str] = []

smartquotes_action = "qe"  # quotes and dots; two hyphens begin an option
default_role = "code"  # docstrings are Markdown in what they share with reStructuredText
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"fastreid_parts {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
