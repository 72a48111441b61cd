"""Sphinx settings; warnings are errors."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # where this folder's extensions are

project = "secfed"
copyright = "the secfed authors"
release = installed("secfed")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "mathml",
    "message_flow",
    "signatures",
]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
myst_enable_extensions = [
    "dollarmath",
]
myst_heading_anchors = 3
napoleon_custom_sections = [("Security", "notes_style"), ("Source", "notes_style"), ("Yields", "returns_style")]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True  # `threshold=2 / 3` as it is written
autodoc_mock_imports = ["aiohttp", "flwr", "nvflare", "torch", "safetensors"]  # built without the frameworks
add_module_names = False
default_role = "code"
exclude_patterns = ["_build"]
