"""How the site is built: `make docs`."""

import sys
from pathlib import Path

import stability

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "stability"
author = "The stability developers"
copyright = "2026, The stability developers"
version = release = stability.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "sphinx_copybutton",
    "myst_parser",
    "sphinx-mathjax-offline",
    "sphinx_gallery.gen_gallery",
    "docstrings",
    "rooms",
    "studies",
    "house",
    "powers",
]
exclude_patterns = ["_build", "tutorial", "extensions", "sg_execution_times.rst"]
suppress_warnings = ["ref.python"]  # results share the names of their attributes

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
napoleon_use_rtype = False

sphinx_gallery_conf = {
    "examples_dirs": ["tutorial"],
    "gallery_dirs": ["generated/tutorial"],
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("figures.shown",),
    "capture_repr": (),  # what a program prints, and its figures, and no more
    "thumbnail_size": (700, 280),
    "first_notebook_cell": "%matplotlib inline",
    "download_all_examples": False,
    "show_memory": False,
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "plot_gallery": True,
    "min_reported_time": 1_000_000,
    "write_computation_times": False,
    "show_signature": False,
}

html_theme = "furo"
html_title = "stability"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
html_theme_options = {"sidebar_hide_name": False}
copybutton_exclude = ".linenos, .gp, .go"
