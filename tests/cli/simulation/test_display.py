"""What a person sees of the clients of a large cohort while a round goes on."""

import io
import time

import pytest
from rich.console import Console

from secfed.cli.simulation.display import live_table
from secfed.cli.simulation.run import simulate
from secfed.cli.simulation.settings import Settings


def shown(clients: int, terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80, color_system=None)
    with live_table(Settings(clients=clients), console) as (_, step):
        for done in range(clients + 1):
            step("SHARE_KEYS", done, clients)
        time.sleep(0.5 * terminal)  # the bars are drawn four times a second
    return file.getvalue()


def test_large_cohort_has_one_line_for_each_stage_where_there_is_no_terminal() -> None:
    assert shown(1_200, terminal=False).splitlines()[0] == "round 1, share keys: 1,200 clients"
    assert shown(1_200, terminal=False).count("share keys") == 1


def test_large_cohort_has_a_bar_that_ends_with_all_clients() -> None:
    assert "round 1, share keys" in shown(1_200, terminal=True)
    assert "1200/1200 clients" in shown(1_200, terminal=True)


@pytest.mark.parametrize("terminal", [False, True])
def test_small_cohort_has_neither(terminal: bool) -> None:
    assert "share keys" not in shown(20, terminal)


@pytest.mark.parametrize("terminal", [False, True])
def test_rounds_have_lines_only_where_there_is_no_terminal(terminal: bool) -> None:
    file = io.StringIO()
    settings = Settings(clients=4, rounds=2, aggregator="plain", dropout=0.0)
    console = Console(file=file, force_terminal=terminal, width=80, color_system=None)
    with live_table(settings, console) as (watch, _):
        simulate(settings, watch)
    assert file.getvalue().count(" of 2: accuracy") == (0 if terminal else 2)
    assert "vivors" in file.getvalue()  # the table
