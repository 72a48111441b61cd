"""Surplus noise: what a client reveals, what the server takes off, and what is left in the sum."""

import contextlib
import math
import pickle
import threading
from collections.abc import Collection
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from secfed.aggregation import DistributedGaussian, PrivateSum
from secfed.crypto.prg import SEED_BYTES
from secfed.dp.noise import NoiseShare, SurplusNoise
from secfed.dp.noise.messages import SurplusNoiseRequest, SurplusNoiseResponse
from secfed.errors import FaultyClientError, FaultyServerError, MalformedMessageError, StageError, TooFewSurvivorsError

CLIENTS, THRESHOLD, DIMENSION = 12, 7, 4096
MECHANISMS = pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])


def transform(layers: int = 100, colluders: int = 0, mechanism: Any = "discrete_gaussian") -> PrivateSum:
    privacy = DistributedGaussian(1.0, 2.0, bits=20, layers=layers, colluders=colluders, mechanism=mechanism)
    return PrivateSum.of(privacy, np.zeros(DIMENSION), clients=CLIENTS, survivors=THRESHOLD)


def noise_of(public: PrivateSum) -> Any:
    assert public.plan is not None
    return public.plan.noise


def share_of(public: PrivateSum) -> NoiseShare:
    share = public.noise_share()
    assert share is not None
    return share


def surplus_of(public: PrivateSum, survivors: Collection[int]) -> SurplusNoise:
    surplus = public.surplus_noise(survivors)
    assert surplus is not None
    return surplus


def asked(public: PrivateSum, kept: int) -> bytes:
    return SurplusNoiseRequest(public.hash, kept.to_bytes(4, "little")).to_bytes()


def seeds_in(response: bytes) -> bytes:
    return SurplusNoiseResponse.from_bytes(response).seeds


def left_in_sum(public: PrivateSum, shares: dict[int, NoiseShare], silent: tuple[int, ...] = ()) -> np.ndarray:
    """The noise in the sum after the exchange."""
    total = public.wrap(np.sum([share.draw() for share in shares.values()], axis=0))
    surplus = surplus_of(public, list(shares))
    for client_id, share in shares.items():
        if client_id not in silent and surplus.request:
            surplus.receive(client_id, share.receive(surplus.request, len(shares)))
    return public.centre(surplus.subtract(total))


def normal_limit(count: int) -> float:
    """How far a sample variance of so many values strays, once in a billion, relative to the variance."""
    return 6.2 * math.sqrt(2 / count)


@pytest.mark.sampled(2)
@MECHANISMS
@pytest.mark.parametrize("survivors", [7, 9, 12])
def test_what_is_left_of_the_noise_is_just_what_is_needed(mechanism: Any, survivors: int) -> None:
    public = transform(mechanism=mechanism)
    left = left_in_sum(public, {client_id: share_of(public) for client_id in range(1, survivors + 1)})
    assert left.var() / noise_of(public).variance == pytest.approx(1.0, abs=normal_limit(DIMENSION))
    event: Any = public.event(survivors)
    assert event.noise_variance * event.clients == pytest.approx(noise_of(public).variance)


def test_survivor_that_does_not_answer_only_leaves_more_noise() -> None:
    public = transform()
    left = left_in_sum(public, {client_id: share_of(public) for client_id in range(1, 13)}, silent=(3, 4, 5))
    noise = noise_of(public)
    more = 3 * sum(noise.variances[noise.kept(12) :])
    assert more > 0.1 * noise.variance
    assert left.var() / (noise.variance + more) == pytest.approx(1.0, abs=normal_limit(DIMENSION))


def test_removed_layers_are_those_of_the_seeds_to_the_last_step() -> None:
    """What is left is the noise of the layers that are kept, exactly."""
    public = transform()
    share = share_of(public)
    everything = share.draw()
    assert np.array_equal(everything, share.draw())
    surplus = surplus_of(public, range(1, 12))
    response = share.receive(surplus.request, 11)
    assert len(seeds_in(response)) == SEED_BYTES * (len(noise_of(public).honest) - 2)
    surplus.receive(1, response)
    left = public.centre(surplus.subtract(public.wrap(everything)))
    assert left.var() / sum(noise_of(public).variances[:2]) == pytest.approx(1.0, abs=normal_limit(DIMENSION))


@pytest.mark.parametrize("colluders", [0, 2])
def test_client_reveals_no_more_layers_than_its_own_view_of_the_survivors_allows(colluders: int) -> None:
    public = transform(colluders=colluders)
    noise = noise_of(public)
    for survivors in range(THRESHOLD, CLIENTS + 1):
        needed = noise.kept(survivors - colluders)
        for kept in range(len(noise.honest) + 1):
            share = share_of(public)
            if kept >= needed:
                response = share.receive(asked(public, kept), survivors)
                assert len(seeds_in(response)) == SEED_BYTES * (len(noise.honest) - kept)
            else:
                with pytest.raises(FaultyServerError, match=f"would keep {kept} layers of noise, {survivors} surv"):
                    share.receive(asked(public, kept), survivors)


def test_client_that_has_refused_or_revealed_reveals_nothing_more() -> None:
    public, other = transform(), transform()
    for request, check in ((asked(public, 0), "N3"), (asked(other, 6), "N2"), (asked(public, 1), "")):
        share = share_of(public)
        try:
            share.receive(request, 12)
        except FaultyServerError as error:
            assert error.check == check != ""  # noqa: PT017
        with pytest.raises(StageError, match="asked for before"):
            share.receive(asked(public, 6), 12)


@pytest.mark.parametrize("data", [b"", bytes(38), b"\x01\x23" + bytes(35), b"\x01\x24" + bytes(36)])
def test_bytes_that_are_no_request_change_nothing(data: bytes) -> None:
    public = transform()
    share = share_of(public)
    with pytest.raises(MalformedMessageError):
        share.receive(data, 12)
    assert seeds_in(share.receive(asked(public, 1), 12))


def test_client_reveals_its_seeds_to_one_of_two_threads() -> None:
    public = transform()
    share, found = share_of(public), []
    kept = noise_of(public).kept

    class Interrupted:
        """Asks once more, from another thread, while the first call is at work."""

        honest = noise_of(public).honest

        def kept(self, survivors: int) -> int:
            if not found:
                found.append(None)
                other = threading.Thread(target=ask)
                other.start()
                other.join(10)
            return int(kept(survivors))

    def ask() -> None:
        try:
            found.append(share.receive(asked(public, 1), 12))
        except StageError as error:
            found.append(error)

    share._plan = SimpleNamespace(noise=Interrupted(), colluders=0)  # type: ignore[assignment]
    seeds = share._seeds
    share._seeds = seeds.copy()
    assert seeds_in(share.receive(asked(public, 1), 12)) == b"".join(seeds[1:]) != b""
    assert isinstance(found[1], StageError) and "another thread" in str(found[1])


def test_client_reveals_nothing_if_so_few_survive_that_nothing_may_be_unmasked() -> None:
    public = transform()
    share = share_of(public)
    with pytest.raises(TooFewSurvivorsError):
        share.receive(asked(public, 6), 6)
    with pytest.raises(StageError):
        share.receive(asked(public, 6), 12)
    with pytest.raises(TooFewSurvivorsError):
        surplus_of(public, range(6))


@pytest.mark.parametrize("length", [0, 31, 33, 32 * 4, 32 * 6])
def test_response_of_another_length_is_refused_by_name(length: int) -> None:
    public = transform()
    surplus = surplus_of(public, range(1, 13))
    response = SurplusNoiseResponse(public.hash, bytes(length)).to_bytes()
    with pytest.raises(FaultyClientError, match=f"{length} bytes of seeds from client 5, needed 160") as caught:
        surplus.receive(5, response)
    assert (caught.value.client_id, caught.value.check) == (5, "M3")


def test_server_takes_responses_of_survivors_about_this_sum_only() -> None:
    public = transform()
    surplus = surplus_of(public, range(1, 13))
    right = share_of(public).receive(surplus.request, 12)
    strange = SurplusNoiseResponse(bytes(32), seeds_in(right)).to_bytes()
    for client_id, data, check in ((13, right, "M2"), (5, strange, "M3"), (5, right[:-1], "M1"), (5, b"", "M1")):
        with pytest.raises(FaultyClientError) as caught:
            surplus.receive(client_id, data)
        assert caught.value.check == check
    total = public.wrap(np.arange(DIMENSION))
    assert np.array_equal(surplus.subtract(total), total)
    surplus.receive(5, right)
    assert not np.array_equal(surplus.subtract(total), total)


def test_one_layer_is_never_removed() -> None:
    public = transform(layers=1)
    surplus = surplus_of(public, range(1, 13))
    assert noise_of(public).kept(12) == 1
    assert surplus.request == b""
    total = public.wrap(np.arange(DIMENSION))
    assert np.array_equal(surplus.subtract(total), total)
    with pytest.raises(FaultyClientError, match="was not asked"):
        surplus.receive(1, SurplusNoiseResponse(public.hash, b"").to_bytes())


def test_every_share_is_fresh_and_keeps_its_seeds_to_itself() -> None:
    public = transform(layers=1)
    first, second = share_of(public), share_of(public)
    assert not np.array_equal(first.draw(), second.draw())
    assert repr(first) == "NoiseShare(layers=1)"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(first)


def test_share_without_seeds_draws_no_vector_without_noise() -> None:
    public = transform()
    for kept in (1, 0):  # answered, refused
        share = share_of(public)
        with contextlib.suppress(FaultyServerError):
            share.receive(asked(public, kept), 12)
        for draw in (share.draw, lambda share=share: public.encode(np.zeros(DIMENSION), noise=share)):
            with pytest.raises(StageError, match="another sum needs another NoiseShare"):
                draw()


def test_requests_are_bound_to_one_sum() -> None:
    public = transform()
    assert public.hash == replace(public).hash != transform().hash  # the rotation is new for every sum
