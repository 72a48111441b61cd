"""Who is told how far a session of an aggregator is, and what is held of one client while the next one trains."""

import weakref

import numpy as np

import secfed
from secfed.secagg import Stage


def test_aggregator_tells_how_far_each_stage_of_its_session_is() -> None:
    seen: list[tuple[Stage, int, int]] = []
    aggregator = secfed.SecAgg(threshold=3, progress=lambda *counts: seen.append(counts))
    aggregator.aggregate([np.ones(3)] * 4, dropouts={1: Stage.SHARE_KEYS})
    asked = {Stage.ADVERTISE_KEYS: 4, Stage.SHARE_KEYS: 4, Stage.MASKED_INPUT_COLLECTION: 3, Stage.UNMASKING: 3}
    assert seen == [(stage, done, count) for stage, count in asked.items() for done in range(count + 1)]


def test_progress_plays_no_part_in_whether_aggregators_are_equal() -> None:
    assert secfed.SecAgg(progress=print) == secfed.SecAgg()
    assert "progress" not in repr(secfed.SecAgg(progress=print))


def test_no_update_is_kept_while_the_next_client_trains() -> None:
    made: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def local_update(model: np.ndarray, data: float) -> tuple[np.ndarray, int]:
        alive.append(sum(one() is not None for one in made))
        update = data - model
        made.append(weakref.ref(update))
        return update, 1

    training = secfed.FedAvg(local_update, aggregator=secfed.SecAgg(threshold=3, clip=8.0, max_weight=1))
    [report] = training.rounds(np.zeros(4), [1.0, 2.0, 3.0, 4.0, 5.0], 1)
    assert report.survivors == (1, 2, 3, 4, 5)
    assert alive == [0] * 5
