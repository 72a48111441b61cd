"""The report: one self-contained HTML page with the matrix, pictures, curves, and where attacks fail."""

import base64
import io
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.cli.figures import BLUE, GRAY, GREEN, VERMILION, drawing, show
from secfed.cli.leakage.curves import Curves
from secfed.cli.leakage.matrix import FULL, PROTECTIONS, QUICK, Cell, advantage, by_place, in_words
from secfed.cli.leakage.scenario import CANDIDATES

Array = npt.NDArray[np.float64]

# Rows of pictures: those of attacks that rebuild something to look at.
DRAWN = ("picture from a message", "picture from the sum", "picture from the sum, wide layer", "face from a message",
          "face from the sum")  # fmt: skip

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 0 .6rem 3rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; font-size: .85rem; }
th, td { padding: .35rem .1rem; text-align: center; border: 1px solid #fff; overflow-wrap: break-word; }
th:first-child { width: 27%; text-align: left; font-weight: normal; }
img { width: 100%; height: auto; } figure { margin: 0; } ol { padding-left: 1.6rem; }
@media (max-width: 600px) { body { font-size: 14px; } table { font-size: 10.5px; } }
"""


def page(cells: list[Cell], curves: Curves, seed: int, quick: bool) -> str:
    """Return the page.

    Args:
        cells: The matrix.
        curves: Quality of attacks by size of the cohort, and by epsilon.
        seed: Of the run.
        quick: Whether the run was a quick one.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    runs = f"{(QUICK if quick else FULL).null_runs:,}"
    body = [
        "<h1>What leaks: attacks on recorded sessions of secfed</h1>",
        f"<p>Every cell comes from a recorded session with real pictures, seed {seed}{', quick' if quick else ''}. An "
        "attack is given what an honest server saw of it, and nothing else. Each client has one picture: the hardest "
        "case for a protection.</p>",
        "<h2>Attack and protection</h2>",
        "<p>Percent of the clients for which an attack finds what it is after; pictures are picked out of "
        f"{CANDIDATES}. An asterisk and color: better than all of {runs} runs of the same attack on noise (of a slow "
        "attack, than its own guesses against as many random orders of the candidates; of membership, than scores that "
        f"know nothing). Of the cells that leak nothing, chance marks at most one in {runs}. Membership is an AUC, 50 "
        "by chance.</p>",
        _table(cells),
        "<h2>Originals and reconstructions</h2>",
        _figure(_pictures(cells), "The client's own picture at the left; what an attack makes of each protection."),
        "<h2>More clients in the sum</h2>",
        _figure(_cohorts(curves), "Secure aggregation, exact sums: pictures identified by the analytic attack."),
        "<h2>Noise, and its price</h2>",
        _figure(
            _epsilons(curves),
            "The clients' noise. Pictures: eight clients, the budget spent on one round. Membership and accuracy: 20 "
            "clients, the budget spent on the whole training. The clip costs accuracy too.",
        ),
        "<h2>Where it fails</h2>",
        _failures(cells, curves),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>What leaks</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _table(cells: list[Cell]) -> str:
    cell_at = by_place(cells)
    head = "".join(
        f'<th scope="col" title="{escape(in_words(name))}">[{n}]</th>' for n, name in enumerate(PROTECTIONS, start=1)
    )
    rows = []
    for attack in dict.fromkeys(cell.attack for cell in cells):
        row = "".join(_square(cell_at[attack, name]) for name in PROTECTIONS)
        rows.append(f'<tr><th scope="row">{escape(attack)}</th>{row}</tr>')
    legend = "".join(f"<li>{escape(in_words(name))}</li>" for name in PROTECTIONS)
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table><ol>{legend}</ol>"


def _square(cell: Cell) -> str:
    shade = advantage(cell)
    color = f"rgb(255,{round(240 - 130 * shade)},{round(225 - 190 * shade)})" if cell.leaks else "#f3f3f3"
    null = f"on noise {100 * cell.null.mean:.1f} ({100 * cell.null.lower:.1f} to {100 * cell.null.upper:.1f})"
    quality = "" if cell.psnr is None else f"; PSNR {cell.psnr:.1f} dB"
    text = f"{100 * cell.success:.0f}{'*' if cell.leaks else ''}"
    return f'<td class="cell" style="background:{color}" title="{null}{quality}">{text}</td>'


def _failures(cells: list[Cell], curves: Curves) -> str:
    lines = []
    for name in PROTECTIONS:
        failed = [cell.attack for cell in cells if cell.protection == name and not cell.leaks]
        lines.append(f"{in_words(name)}: {', '.join(failed) if failed else 'no attack fails'}")
    weak = [point.clients for point in curves.cohorts if point.identified <= point.null.upper]
    lines.append(
        f"the analytic attack is no better than on noise from sums of {_list(weak)} clients"
        if weak
        else "the analytic attack is better than on noise in all cohorts up to "
        f"{max(point.clients for point in curves.cohorts)} clients, {100 * curves.cohorts[-1].identified:.0f} % there"
    )
    safe = [f"{point.epsilon:g}" for point in curves.epsilons if point.epsilon and point.auc <= point.chance_auc]
    if safe:
        lines.append(f"membership inference is no better than chance at epsilon {_list(safe)}")
    lines.append("all attacks here are of honest adversaries; one that cheats is not in this report")
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _figure(image: bytes, caption: str) -> str:
    data = base64.b64encode(image).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _pictures(cells: list[Cell]) -> bytes:
    cell_at = by_place(cells)

    def draw(figure: Any) -> None:
        figure.set_layout_engine("none")  # the constrained one takes seconds for so many axes
        room = {"left": 0.07, "right": 0.985, "bottom": 0.02, "top": 0.94, "wspace": 0.06, "hspace": 0.1}
        axes = figure.subplots(len(DRAWN), len(PROTECTIONS) + 1, gridspec_kw=room)
        for row, attack in zip(axes, DRAWN, strict=True):
            found = [np.asarray(cell_at[attack, name].pictures) for name in PROTECTIONS]
            images = [found[0][0, 0], *(pictures[0, 1] for pictures in found)]
            for axis, image in zip(row, images, strict=True):
                show(axis, image)
            row[0].set_ylabel(attack.replace(" from", "\nfrom").replace(", ", ",\n"), fontsize=7)
        for place, axis in enumerate(axes[0]):
            axis.set_title(f"[{place}]" if place else "original", fontsize=9, fontweight="normal", loc="center")

    return _png(draw, (8, 5.6))


def _cohorts(curves: Curves) -> bytes:
    def draw(figure: Any) -> None:
        axis = figure.subplots()
        sizes = [point.clients for point in curves.cohorts]
        axis.plot(sizes, [100 * point.identified for point in curves.cohorts], "o-", color=BLUE, label="Identified")
        noise = [100 * point.null.upper for point in curves.cohorts]
        axis.plot(sizes, noise, ":", color=GRAY, label="On noise, at most")
        axis.set(xscale="log", xlabel="Clients in the sum", ylabel="Percent of the clients", ylim=(-3, 103))
        axis.set_xticks(sizes, map(str, sizes))
        axis.minorticks_off()
        axis.legend()
        axis.grid()

    return _png(draw, (7, 3.8))


def _epsilons(curves: Curves) -> bytes:
    def draw(figure: Any) -> None:
        axis = figure.subplots()
        points = curves.epsilons
        places = range(len(points))
        for label, values, style, color in (
            ("Pictures identified", [point.identified for point in points], "o-", VERMILION),
            ("Membership (AUC)", [point.auc for point in points], "s-", BLUE),
            ("Membership by chance, at most", [point.chance_auc for point in points], ":", GRAY),
            ("Accuracy of the model", [point.accuracy for point in points], "^--", GREEN),
        ):
            axis.plot(places, [100 * value for value in values], style, color=color, label=label)
        axis.set_xticks(places, ["none" if point.epsilon is None else f"{point.epsilon:g}" for point in points])
        axis.set(xlabel="Epsilon (delta 1e-5)", ylabel="Percent", ylim=(-3, 103))
        axis.grid()
        figure.legend(loc="outside lower center", ncols=2, frameon=False)

    return _png(draw, (7, 4.4))


def _png(draw: Callable[[Any], None], size: tuple[float, float]) -> bytes:
    image = io.BytesIO()
    with drawing(image, *size, format="png") as figure:
        draw(figure)
    return image.getvalue()
