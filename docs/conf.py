"""How Sphinx builds the documentation: `make docs`."""

from headwater import __version__

project = "Headwater"
author = "The Headwater authors"
copyright = "The Headwater authors"  # noqa: A001 - Sphinx reads this name
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Headwater {__version__}"

autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
myst_heading_anchors = 3
