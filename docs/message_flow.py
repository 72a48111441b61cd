"""Sphinx extension: the directive `secagg-flow` draws the messages of a session, from the table of its stages."""

import inspect
import textwrap
from html import escape
from typing import TYPE_CHECKING

from secfed.secagg.stages import EXCHANGES

if TYPE_CHECKING:
    from sphinx.application import Sphinx

WIDTH, SIDE, LINE = 420, 30, 16
COLUMNS = 54  # of a line of text between the two parties


def drawing() -> str:
    """Return the picture as SVG; it takes the color of the text, so it is readable in dark mode too."""
    parts, y = [], 52
    for exchange in EXCHANGES.values():
        parts.append(f'<text x="{WIDTH / 2}" y="{y}" font-weight="bold">{exchange.stage.name}</text>')
        for message, start, end in (
            (exchange.request, WIDTH - SIDE, SIDE),
            (exchange.response, SIDE, WIDTH - SIDE),
        ):
            summary = (inspect.getdoc(message) or "").split("\n\n")[0].removesuffix(".")
            for line in textwrap.wrap(" ".join(summary.split()), COLUMNS):
                y += LINE
                parts.append(f'<text x="{WIDTH / 2}" y="{y}">{escape(line)}</text>')
            y += 8
            tip = end + (7 if end < start else -7)
            parts.append(f'<path d="M{start} {y}H{end}M{tip} {y - 4}L{end} {y}L{tip} {y + 4}" fill="none"/>')
            y += 4
        y += 30
    bottom = y - 14
    lifelines = "".join(
        f'<text x="{x}" y="16" font-weight="bold" text-anchor="{anchor}">{who}</text>'
        f'<path d="M{x} 24V{bottom}" stroke-dasharray="2 3"/>'
        for x, who, anchor in ((SIDE, "each client", "start"), (WIDTH - SIDE, "server", "end"))
    )
    stages = ", ".join(stage.name for stage in EXCHANGES)
    return (
        f'<svg class="flow" role="img" viewBox="0 0 {WIDTH} {bottom}" stroke="currentColor" fill="currentColor" '
        f'font-size="13" text-anchor="middle"><title>The messages of a session, stage by stage: {stages}</title>'
        f"{lifelines}{''.join(parts)}</svg>"
    )


def setup(app: "Sphinx") -> dict[str, bool]:
    """Register with Sphinx."""
    from docutils import nodes
    from docutils.parsers.rst import Directive

    class Flow(Directive):
        """The picture, in the page."""

        def run(self) -> list[nodes.Node]:
            """Return it as HTML."""
            return [nodes.raw("", drawing(), format="html")]

    app.add_directive("secagg-flow", Flow)
    return {"parallel_read_safe": True}
