"""Pictures: their panels, their words, and nothing that is cut off or below something else."""

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image, rcParams
from matplotlib.figure import Figure
from matplotlib.text import Text

from secfed.attacks import Interval
from secfed.cli import figures
from secfed.cli.accounting import CohortSampling, epsilon_of
from secfed.cli.accounting_picture import picture as epsilon_picture
from secfed.cli.leakage import analytic, matrix, reconstruction, report
from secfed.cli.leakage.curves import COHORTS, EPSILONS, CohortPoint, Curves, EpsilonPoint
from secfed.cli.leakage.scenario import Settings as RoundSettings
from secfed.cli.leakage.scenario import record_round
from secfed.cli.simulation.outcome import Outcome
from secfed.cli.simulation.picture import picture
from secfed.cli.simulation.run import simulate
from secfed.cli.simulation.settings import Settings
from tests.cli.test_matrix import some_cells

JARGON = re.compile(r"secagg|\bplain\b(?! average)|distributed|central|add_remove|cohort|_", re.IGNORECASE)
PANELS = {"none": ["Accuracy on the test rows", "Clients in each round"]}
PANELS["central"] = PANELS["distributed"] = [
    "Accuracy on the test rows",
    "Privacy budget (delta 1e-05)",
    "Clients in each round",
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that a test draws; each is saved too."""
    found: list[Figure] = []
    save = Figure.savefig

    def savefig(self: Figure, *arguments: Any, **options: Any) -> None:
        found.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    yield found
    assert found
    for figure in found:
        check(figure)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in visible(figure)]


def visible(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def check(figure: Figure) -> None:
    """Nothing is cut off, no two texts overlap, and no word is one of the library's own."""
    figure.draw_without_rendering()
    boxes = {}
    for axis in figure.axes:  # ticks beyond the ends of an axis are not drawn
        ends = axis.get_window_extent().expanded(1.01, 1.01)
        for ticks, (low, high) in ((axis.xaxis, (ends.x0, ends.x1)), (axis.yaxis, (ends.y0, ends.y1))):
            for tick in ticks.get_major_ticks() + ticks.get_minor_ticks():
                box = tick.label1.get_window_extent()
                center = (box.x0 + box.x1) / 2 if ticks is axis.xaxis else (box.y0 + box.y1) / 2
                tick.label1.set_visible(tick.label1.get_visible() and low <= center <= high)
    for text in visible(figure):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
        assert not JARGON.search(text.get_text()), text
        boxes[text] = box.padded(1)
    for one, box in boxes.items():
        assert not [other for other, its in boxes.items() if other is not one and box.overlaps(its)], one


@cache
def run(**options: Any) -> Outcome:
    return simulate(Settings.of(clients=8, rounds=3, dropout=0.0, threshold=0.75, **options))


@pytest.mark.parametrize("privacy", ["none", "central", "distributed"])
def test_panels_share_the_rounds_and_have_one_axis_each(drawn: list[Figure], tmp_path: Path, privacy: str) -> None:
    picture(run(privacy=privacy), tmp_path / "accuracy.png")
    axes = drawn[0].axes
    assert [axis.get_title(loc="left") for axis in axes] == PANELS[privacy]
    assert len({axis.get_position().x0 for axis in axes}) == 1  # a second y axis would lie on its panel's own
    assert len({axis.get_position().y0 for axis in axes}) == len(axes)
    assert all(axis.get_shared_x_axes().joined(axis, axes[0]) for axis in axes)
    assert [axis.get_xlabel() for axis in axes] == [""] * (len(axes) - 1) + ["Round"]
    words = texts(drawn[0])
    assert "Threshold: 6" in words and any(word.startswith("Without protection (plain average): ") for word in words)
    assert any(word.startswith("Secure aggregation") for word in words)
    assert any(word.startswith("Same budget, the server's noise: ") for word in words) == (privacy == "distributed")
    if privacy != "none":
        spent = run(privacy=privacy).epsilon
        assert spent is not None and spent <= 3
        line, budget = axes[1].get_lines()
        assert line.get_ydata()[-1] == spent and set(budget.get_ydata()) == {3.0}
        assert "Budget: 3" in words


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({"aggregator": "plain"}, None),
        ({"aggregator": "plain", "privacy": "central"}, "Plain average, the server's noise"),
        ({"compression": "random-k:0.5"}, "Secure aggregation (random-k:0.5)"),
        ({"algorithm": "fedadam", "aggregator": "plain"}, "FedAdam without protection (plain average)"),
        ({"algorithm": "fedadam", "aggregator": "plain"}, "FedAvg without protection"),
    ],
)
def test_curves_say_what_they_are(
    drawn: list[Figure], tmp_path: Path, options: dict[str, Any], label: str | None
) -> None:
    picture(run(**options), tmp_path / "accuracy.png")
    legend = drawn[0].axes[0].get_legend()
    assert legend is not None
    words = [text.get_text().rpartition(": ")[0] for text in legend.get_texts()]
    assert label in words if label else words == ["Without protection (plain average)"]


def test_curves_are_told_apart_without_color(drawn: list[Figure], tmp_path: Path) -> None:
    picture(run(privacy="distributed"), tmp_path / "accuracy.png")
    lines = drawn[0].axes[0].get_lines()
    assert len({(line.get_linestyle(), line.get_marker(), line.get_linewidth()) for line in lines}) == len(lines) == 3


def test_failed_rounds_are_marked(drawn: list[Figure], tmp_path: Path) -> None:
    whole = run()
    failed = replace(whole.records[1], failure="too few", survivors=0)
    picture(replace(whole, records=(whole.records[0], failed, whole.records[2])), tmp_path / "accuracy.png")
    (crosses,) = (line for line in drawn[0].axes[1].get_lines() if line.get_label() == "Round failed")
    assert list(crosses.get_xdata()) == [2]


@pytest.mark.parametrize("rounds", [1, 10, 30, 100])
def test_ticks_are_round_numbers(drawn: list[Figure], tmp_path: Path, rounds: int) -> None:
    whole = run()
    records = tuple(replace(whole.records[0], number=number, cohort=300) for number in range(1, rounds + 1))
    picture(replace(whole, records=records), tmp_path / "accuracy.png")
    for axis in drawn[0].axes:
        for ticks in (axis.get_xticks(), axis.get_yticks()):
            assert len(ticks) and not any(ticks % 1)
            assert {f"{step:.0e}"[0] for step in np.diff(ticks)} <= {"1", "2", "5"}


def test_a_saved_picture_is_a_white_card_that_is_transparent_outside() -> None:
    file = io.BytesIO()
    before = dict(rcParams)
    with figures.drawing(file, 3, 2, format="png") as figure:
        figure.subplots()
    assert dict(rcParams) == before
    file.seek(0)
    pixels = image.imread(file)
    assert pixels.shape == (300, 450, 4)
    assert not pixels[[0, 0, -1, -1], [0, -1, 0, -1], 3].any()
    assert (pixels[8:12, 100:300] == 1).all()  # white, and opaque


@pytest.mark.parametrize(
    ("rounds", "sampling"),
    [(1, CohortSampling(0.01)), (200, CohortSampling(0.03, 30, 1_000)), (1_500, CohortSampling(1.0))],
)
def test_epsilon_is_drawn_in_words(drawn: list[Figure], tmp_path: Path, rounds: int, sampling: CohortSampling) -> None:
    found = epsilon_of(20.0, sampling, rounds, 1e-5, "replace" if sampling.cohort else "add_remove")
    epsilon_picture(found, sampling, tmp_path / "epsilon.svg")
    spent, tests = drawn[0].axes
    assert spent.get_xlim()[0] == 0 and not any(spent.get_xticks() % 1)
    assert tests.get_xlabel() == "False positive rate"


def test_reconstructions_are_drawn_in_words(drawn: list[Figure], tmp_path: Path) -> None:
    for options in ({"aggregator": "secagg"}, {"aggregator": "plain", "privacy": "central"}):
        recorded = record_round(RoundSettings(3, **options))
        found = reconstruction.reconstruct(
            recorded, "analytic", analytic.from_messages, lambda mean, clients: np.full((1, 64), 0.5), 2
        )
        reconstruction.picture(found, tmp_path / "analytic.png")
    assert any("Secure aggregation" in text for text in texts(drawn[0]))
    assert any("the server's noise (epsilon 3)" in text for text in texts(drawn[1]))


def test_the_matrix_and_the_pictures_of_its_page_are_drawn_in_words(drawn: list[Figure], tmp_path: Path) -> None:
    cells = some_cells()
    matrix.picture(cells, tmp_path / "leakage.png")
    noise = Interval(0.0, 0.0, 0.02)
    curves = Curves(
        tuple(CohortPoint(clients, 1 / clients, 60.0, noise) for clients in COHORTS),
        tuple(EpsilonPoint(epsilon, 0.5, 40.0, 0.7, 0.6, 0.8) for epsilon in EPSILONS),
    )
    page = report.page(cells, curves, seed=0, quick=True)
    assert len(drawn) == 4 and page.count("data:image/png;base64,") == 3
    assert "secure\naggregation,\n3 clients" in texts(drawn[0])
    assert "secure aggregation, 3 clients" in page and not re.search(
        "secagg|[^d] plain,|cohort", page.split("<body>")[1]
    )
