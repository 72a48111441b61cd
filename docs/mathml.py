"""Sphinx extension: formulas become MathML when the site is built, so a page needs no script and no network."""

from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)
NAMESPACE = "http://www.w3.org/1998/Math/MathML"
# Browsers know no `mathvariant` but "normal"; these are the letters of `\mathbb` with characters of their own.
DOUBLE_STRUCK = {"E": "𝔼", "N": "ℕ", "P": "ℙ", "R": "ℝ", "Z": "ℤ"}
# What is written below these in a formula of its own line.
WITH_LIMITS = {"inf", "lim", "max", "min", "sup"}


ElementTree.register_namespace("", NAMESPACE)


def mathml(node: nodes.Element, display: str) -> str:
    """Return a formula as MathML; one that cannot be converted is a warning, which ends the build."""
    try:
        formula = ElementTree.fromstring(convert(node.astext(), display=display))
        for part in formula.iter():
            if part.get("mathvariant") == "double-struck":
                part.text = DOUBLE_STRUCK[part.text or ""]
                del part.attrib["mathvariant"]
            elif display == "block" and part.tag == f"{{{NAMESPACE}}}msub" and part[0].text in WITH_LIMITS:
                part.tag = f"{{{NAMESPACE}}}munder"
        return ElementTree.tostring(formula, encoding="unicode")
    except Exception as error:  # the converter has many kinds
        LOG.warning("formula %r: %r", node.astext(), error, location=node)
        return ""


def inline(self: Any, node: nodes.Element) -> None:
    """Write a formula of the text."""
    self.body.append(f'<span class="math">{mathml(node, "inline")}</span>')
    raise nodes.SkipNode


def block(self: Any, node: nodes.Element) -> None:
    """Write a formula of its own line, in a box that scrolls where the page is narrow."""
    self.body.append(self.starttag(node, "div", CLASS="math", tabindex="0"))
    self.body.append(f"{mathml(node, 'block')}</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True}
