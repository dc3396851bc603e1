"""Configuration of the documentation's build."""

from webbkg import __version__

project = "webbkg"
author = "The webbkg developers"
copyright = "The webbkg developers"
release = version = __version__

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"webbkg {release}"
exclude_patterns = ["_build", "notebooks/README.md"]

# Notebooks are executed by the tests; here their stored output is shown.
nb_execution_mode = "off"
myst_heading_anchors = 3

numpydoc_show_class_members = False
autodoc_default_options = {"members": True, "show-inheritance": False}
