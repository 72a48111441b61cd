"""Noise in layers: what a client reveals, and what is left in the sum."""

import math
import pickle
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from secfed.aggregation import NoiseShare, surplus
from secfed.crypto.prg import SEED_BYTES
from secfed.dp.distributed import Plan, choose
from secfed.errors import FaultyServerError, MalformedMessageError, StageError, TooFewSurvivorsError

CLIENTS, THRESHOLD, DIMENSION = 12, 7, 4000
MECHANISMS = pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])


def plan(layers: int = 100, colluders: int = 0, mechanism: Any = "discrete_gaussian") -> Plan:
    return choose(
        clients=CLIENTS, threshold=THRESHOLD, dimension=DIMENSION, clip_norm=1.0, noise_multiplier=2.0, bits=20,
        layers=layers, colluders=colluders, mechanism=mechanism,
    )  # fmt: skip


def normal_limit(count: int) -> float:
    """How far a sample variance of so many values strays, once in a billion, relative to the variance."""
    return 6.2 * math.sqrt(2 / count)


@MECHANISMS
@pytest.mark.parametrize("survivors", [7, 9, 12])
def test_what_is_left_of_the_noise_is_just_what_is_needed(mechanism: Any, survivors: int) -> None:
    public = plan(mechanism=mechanism)
    shares = {client_id: NoiseShare(public) for client_id in range(1, survivors + 1)}
    total = np.sum([share.draw() for share in shares.values()], axis=0)
    kept = public.noise.kept(survivors)
    replies = {client_id: share.reveal(kept, survivors) for client_id, share in shares.items()}
    left = total - surplus(public, survivors, replies)
    assert left.var() / public.noise.variance == pytest.approx(1.0, abs=normal_limit(DIMENSION))
    event = public.event(survivors)
    assert event.noise_variance * event.clients == pytest.approx(public.noise.variance)


def test_survivor_that_does_not_answer_only_leaves_more_noise() -> None:
    public = plan()
    shares = {client_id: NoiseShare(public) for client_id in range(1, 13)}
    total = np.sum([share.draw() for share in shares.values()], axis=0)
    kept = public.noise.kept(12)
    replies = {client_id: share.reveal(kept, 12) for client_id, share in shares.items() if client_id not in (3, 4, 5)}
    left = total - surplus(public, 12, replies)
    more = 3 * sum(public.noise.variances[kept:])
    assert more > 0.1 * public.noise.variance
    assert left.var() / (public.noise.variance + more) == pytest.approx(1.0, abs=normal_limit(DIMENSION))


def test_removed_layers_are_those_of_the_seeds_to_the_last_step() -> None:
    """What is left is the noise of the layers that are kept, exactly."""
    public = plan()
    share = NoiseShare(public)
    everything = share.draw()
    assert np.array_equal(everything, share.draw())
    reply = share.reveal(2, 11)
    assert len(reply) == SEED_BYTES * (len(public.noise.honest) - 2)
    left = everything - surplus(public, 11, {1: reply})
    limit = normal_limit(DIMENSION)
    assert left.var() / sum(public.noise.variances[:2]) == pytest.approx(1.0, abs=limit)


@pytest.mark.parametrize("colluders", [0, 2])
def test_client_reveals_no_more_layers_than_its_own_view_of_the_survivors_allows(colluders: int) -> None:
    public = plan(colluders=colluders)
    for survivors in range(THRESHOLD, CLIENTS + 1):
        needed = public.noise.kept(survivors - colluders)
        for kept in range(len(public.noise.honest) + 1):
            share = NoiseShare(public)
            if kept >= needed:
                assert len(share.reveal(kept, survivors)) == SEED_BYTES * (len(public.noise.honest) - kept)
            else:
                with pytest.raises(FaultyServerError, match=f"would keep {kept} layers of noise, {survivors} surv"):
                    share.reveal(kept, survivors)


def test_client_that_has_refused_or_revealed_reveals_nothing_more() -> None:
    for kept in (0, 1):
        share = NoiseShare(plan())
        try:
            share.reveal(kept, 12)
        except FaultyServerError:
            assert kept == 0
        with pytest.raises(StageError, match="asked for before"):
            share.reveal(6, 12)


def test_client_reveals_its_seeds_to_one_of_two_threads() -> None:
    share, found = NoiseShare(plan()), []
    kept = share._plan.noise.kept

    class Interrupted:
        """Asks once more, from another thread, while the first call is at work."""

        honest = share._plan.noise.honest

        def kept(self, survivors: int) -> int:
            if not found:
                found.append(None)
                other = threading.Thread(target=ask)
                other.start()
                other.join(10)
            return kept(survivors)

    def ask() -> None:
        try:
            found.append(share.reveal(1, 12))
        except StageError as error:
            found.append(error)

    share._plan = SimpleNamespace(noise=Interrupted(), colluders=0)  # type: ignore[assignment]
    seeds = share._seeds
    share._seeds = seeds.copy()
    assert share.reveal(1, 12) == b"".join(seeds[1:]) != b""
    assert isinstance(found[1], StageError) and "another thread" in str(found[1])


def test_client_reveals_nothing_if_so_few_survive_that_nothing_may_be_unmasked() -> None:
    share = NoiseShare(plan())
    with pytest.raises(TooFewSurvivorsError):
        share.reveal(6, 6)
    with pytest.raises(StageError):
        share.reveal(6, 12)


@pytest.mark.parametrize("length", [0, 31, 33, 32 * 4, 32 * 6])
def test_reply_of_another_length_is_refused_by_name(length: int) -> None:
    with pytest.raises(MalformedMessageError, match=f"{length} bytes of seeds from client 5, needed 160"):
        surplus(plan(), 12, {5: bytes(length)})


def test_one_layer_is_never_removed() -> None:
    public = plan(layers=1)
    share = NoiseShare(public)
    assert public.noise.kept(12) == 1
    assert share.reveal(1, 12) == b""
    assert not surplus(public, 12, {1: b""}).any()


def test_every_share_is_fresh_and_keeps_its_seeds_to_itself() -> None:
    public = plan(layers=1)
    first, second = NoiseShare(public), NoiseShare(public)
    assert not np.array_equal(first.draw(), second.draw())
    assert repr(first) == "NoiseShare(layers=1)"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(first)
