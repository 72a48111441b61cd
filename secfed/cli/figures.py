"""The style of all pictures: text size, colors, the card that a picture is drawn on, saving."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from secfed.cli.extras import require

# Colors that color-blind people can distinguish (Okabe and Ito 2008).
BLUE = "#0072b2"
ORANGE = "#e69f00"
GREEN = "#009e73"
VERMILION = "#d55e00"
PURPLE = "#cc79a7"
# For comparison only.
GRAY = "#6e6e6e"
PALE = "#cfcfcf"

# The protection between clients and server, in words.
AGGREGATORS = {
    "secagg": "Secure aggregation",
    "paillier": "Encrypted sums (Paillier)",
    "plain": "Without protection (plain average)",
}

_STYLE: Any = {  # the names are matplotlib's
    "font.size": 11,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "grid.alpha": 0.3,
    "legend.fontsize": 10,
    "legend.framealpha": 0.9,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}
_DPI = 150
# Distance from the card's edge to its contents, and the radius of its corners; in inches.
_MARGIN = 0.12
_CORNER = 0.12


@contextmanager
def drawing(file: Path | IO[bytes], width: float, height: float, **options: Any) -> Iterator[Any]:
    """Draw a picture: yields the empty figure to draw on, and saves it at the end.

    The picture is a white card with round corners and a thin edge, on a transparent background. So it can be read on a
    light page and on a dark one.

    Args:
        file: Where the picture goes; its ending names the format.
        width: In inches.
        height: In inches.
        options: Of `Figure.savefig`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="none")
        FigureCanvasAgg(figure)  # draws to memory, without a window system
        engine: Any = figure.get_layout_engine()
        engine.set(w_pad=_MARGIN, h_pad=_MARGIN, hspace=0.02, wspace=0.02)
        card = FancyBboxPatch(
            (0.01, 0.01),
            width - 0.02,
            height - 0.02,
            boxstyle=f"round,pad=0,rounding_size={_CORNER}",
            transform=figure.dpi_scale_trans,
            facecolor="white",
            edgecolor=PALE,
            linewidth=0.8,
            zorder=-1,
        )
        card.set_in_layout(False)
        figure.add_artist(card)
        yield figure
        figure.savefig(file, facecolor="none", **options)


def round_ticks(axis: Any, most: int = 7, whole: bool = True) -> None:
    """Put at most this many ticks at multiples of 1, 2 or 5 times a power of ten; on request at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(most, integer=whole, steps=[1, 2, 5, 10], min_n_ticks=1))


def show(axis: Any, image: Any) -> None:
    """Show a square gray picture, given as one row or as a square, from 0 (black) to 1, without ticks or a frame."""
    side = round(image.size**0.5)
    axis.imshow(image.reshape(side, side), cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
