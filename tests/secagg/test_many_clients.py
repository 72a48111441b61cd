"""Sessions of many clients in one process: what a client keeps while others speak, and progress."""

import gc
import tracemalloc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from secfed.crypto.entropy import SeededEntropy, predictable_secrets
from secfed.errors import ConfigError
from secfed.secagg import Config, Stage, parameters, run_session

CONFIG = Config(range(1, 13), 4, length=8, modulus_bits=16, neighbors=8)
SILENT = {1: Stage.ADVERTISE_KEYS, 2: Stage.SHARE_KEYS, 3: Stage.MASKED_INPUT_COLLECTION, 4: Stage.UNMASKING}


def test_no_vector_is_kept_when_the_next_client_makes_its_own() -> None:
    made: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def vector_of(client_id: int) -> np.ndarray:
        alive.append(sum(one() is not None for one in made))
        vector = np.full(8, client_id, np.uint16)
        made.append(weakref.ref(vector))
        return vector

    result = run_session(CONFIG, vector_of)
    assert result.sum.tolist() == [78] * 8
    assert alive == [0] * 12
    assert not any(one() is not None for one in made)


def test_progress_counts_all_clients_that_a_stage_asks() -> None:
    seen: list[tuple[Stage, int, int]] = []
    result = run_session(CONFIG, lambda i: np.full(8, i), dropouts=SILENT, progress=lambda *counts: seen.append(counts))
    asked = {Stage.ADVERTISE_KEYS: 12, Stage.SHARE_KEYS: 11, Stage.MASKED_INPUT_COLLECTION: 10, Stage.UNMASKING: 9}
    assert seen == [(stage, done, count) for stage, count in asked.items() for done in range(count + 1)]
    assert result.survivors == (4, 5, 6, 7, 8, 9, 10, 11, 12)


def test_progress_that_is_no_function_is_refused() -> None:
    with pytest.raises(ConfigError, match="progress: found 'bar', needed a function of stage, done and asked"):
        run_session(CONFIG, lambda i: np.full(8, i), progress="bar")  # type: ignore[arg-type]


def test_messages_do_not_depend_on_the_number_of_threads() -> None:
    """The vectors are long enough to be masked by several threads."""
    config = Config([1, 2, 3], 2, length=400_000, modulus_bits=32)

    def messages(threads: int) -> tuple[bytes, list[tuple[int, bytes]]]:
        seen: list[tuple[int, bytes]] = []
        result = run_session(
            config,
            lambda i: np.full(400_000, i, np.uint32),
            dropouts={3: Stage.MASKED_INPUT_COLLECTION},
            observer=lambda stage, direction, client_id, data: seen.append((client_id, data)),
            entropies=lambda party: SeededEntropy(bytes([party]) * 32),
            threads=threads,
        )
        return result.sum.tobytes(), seen

    with predictable_secrets():
        assert messages(1) == messages(2) == messages(3)


@pytest.fixture
def traced() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_thousand_clients_need_little_memory_beside_the_sum(traced: None) -> None:
    """The bound is well below one vector of 80 kB for each client: 16 kB for a client's keys and shares."""
    clients, length = 1_000, 20_000
    chosen = parameters(clients=clients, corrupt_fraction=0.05, dropout_fraction=0.05)
    config = Config(
        range(1, clients + 1), chosen.threshold, length, neighbors=chosen.neighbors, colluders=chosen.colluders
    )
    silent = dict.fromkeys(range(20, clients + 1, 20), Stage.MASKED_INPUT_COLLECTION)
    before = tracemalloc.get_traced_memory()[0]
    result = run_session(config, lambda i: np.full(length, i, np.uint32), dropouts=silent)
    peak = tracemalloc.get_traced_memory()[1] - before
    assert (result.sum == sum(result.survivors)).all()
    assert len(result.survivors) == 950
    assert peak < 16_000 * clients + 12 * 4 * length, peak
