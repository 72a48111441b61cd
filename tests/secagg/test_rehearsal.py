"""One client alone: it goes through every stage, and the bytes are those that sizes predict."""

from itertools import count
from typing import Any

import pytest

from secfed.secagg import Config, Stage
from secfed.secagg.rehearsal import client_times, server_time

MALICIOUS: dict[str, Any] = {"adversary": "malicious_server"}


@pytest.mark.parametrize(
    ("clients", "threshold", "options"),
    [
        (2, 2, {}),
        (9, 6, {}),
        (9, 6, MALICIOUS),
        (15, 4, {"neighbors": 6}),
        (15, 5, {"neighbors": 6, "colluders": 1, "session_colluders": 2, **MALICIOUS}),
    ],
)
def test_client_answers_every_stage_once(clients: int, threshold: int, options: dict[str, Any]) -> None:
    ticks = count()
    times = client_times(Config(range(1, clients + 1), threshold, 5, 20, **options), lambda: float(next(ticks)))
    expected = [stage for stage in Stage if stage < Stage.DONE]
    if not options.get("adversary"):
        expected.remove(Stage.CONSISTENCY_CHECK)
    assert list(times) == expected
    assert set(times.values()) == {1.0}  # the clock is read before and after each answer, and at no other time


@pytest.mark.parametrize("options", [{}, MALICIOUS])
def test_server_ends_the_session_and_only_its_own_work_is_timed(options: dict[str, Any]) -> None:
    ticks = count()
    stages = 5 if options else 4
    assert server_time(Config(range(1, 5), 3, 5, 20, **options), lambda: float(next(ticks))) == 1 + stages
