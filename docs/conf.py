"""Sphinx configuration; `make docs` builds with warnings as errors."""

from losswire_proto import __version__

project = "losswire"
copyright = "the losswire authors"  # noqa: A001 -- the name is Sphinx's
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"losswire {release}"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
