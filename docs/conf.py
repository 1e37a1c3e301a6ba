"""
How Sphinx builds the documentation; `nox -s docs` runs it.
"""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "twh-platform"
author = "The twh-platform contributors"
project_copyright = author
release = version = version_of("twh-platform")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = False

# A name between single backquotes is code, in docstrings too.
default_role = "code"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"twh-platform {release}"
html_show_sourcelink = False
