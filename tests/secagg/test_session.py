"""Whole sessions: the sum is exact whoever drops out wherever, and below the threshold there is none."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from secfed import errors
from secfed.crypto.entropy import DerivedEntropy, predictable_secrets
from secfed.secagg import Client, Config, Policy, Stage, run_session
from tests.examples import examples
from tests.secagg.forge import RING, Session, complete, ring, total

ADVERSARIES = ("semi_honest", "malicious_server")


def stages(config: Config) -> list[Stage]:
    """The stages of a session, and DONE for a client that stays."""
    skipped = () if config.malicious_server else (Stage.CONSISTENCY_CHECK,)
    return [stage for stage in Stage if stage < Stage.ABORTED and stage not in skipped]


def random_vectors(config: Config, seed: int = 0) -> dict[int, Any]:
    rng = np.random.default_rng(seed)
    top = (1 << config.modulus_bits) - 1
    return {i: rng.integers(0, top, config.length, np.uint64, endpoint=True) for i in config.client_ids}


def assert_exact_or_too_few(config: Config, dropouts: Mapping[int, Stage], vectors: Mapping[int, Any]) -> bool:
    """On the complete graph the outcome follows from how many answer each stage. Returns whether there was a sum."""
    answering = [sum(dropouts.get(i, Stage.DONE) > stage for i in config.client_ids) for stage in stages(config)[:-1]]
    if min(answering) < config.threshold:
        with pytest.raises(errors.TooFewSurvivorsError) as caught:
            run_session(config, vectors, dropouts=dropouts)
        assert caught.value.survivors <= next(found for found in answering if found < config.threshold)
        assert caught.value.threshold == config.threshold
        return False
    result = run_session(config, vectors, dropouts=dropouts)
    survivors = [i for i in config.client_ids if dropouts.get(i, Stage.DONE) > Stage.MASKED_INPUT_COLLECTION]
    assert list(result.survivors) == survivors
    assert list(result.dropouts) == [i for i in config.client_ids if i not in survivors]
    assert result.sum.tolist() == total(config, vectors, survivors)
    assert result.sum.dtype == config.dtype
    assert result.faults == ()
    return True


def test_error_says_how_many_shared_when_they_are_too_few() -> None:
    config = complete(adversary="semi_honest")
    gone = dict.fromkeys((2, 3), Stage.SHARE_KEYS)
    with pytest.raises(errors.TooFewSurvivorsError) as caught:
        run_session(config, random_vectors(config), dropouts=gone)
    assert caught.value.survivors == 3


def every_assignment(config: Config) -> None:
    vectors = random_vectors(config)
    outcomes = Counter(
        assert_exact_or_too_few(config, dict(zip(config.client_ids, chosen, strict=True)), vectors)
        for chosen in itertools.product(stages(config), repeat=len(config.client_ids))
    )
    assert outcomes[True]
    assert outcomes[False]


def every_mixture(config: Config) -> None:
    """Every multiset of stages; who gets which rotates, so that each client plays each part."""
    vectors, count = random_vectors(config), len(config.client_ids)
    outcomes: Counter[bool] = Counter()
    for turn, chosen in enumerate(itertools.combinations_with_replacement(stages(config), count)):
        rotated = chosen[turn % count :] + chosen[: turn % count]
        dropouts = dict(zip(config.client_ids, rotated, strict=True))
        outcomes[assert_exact_or_too_few(config, dropouts, vectors)] += 1
    assert outcomes[True]
    assert outcomes[False]


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_sum_is_exact_or_absent_for_every_mixture_of_stages_of_three_clients(adversary: Any) -> None:
    every_mixture(complete((4, 9, 2**31 - 2), 2, adversary=adversary))


@pytest.mark.slow
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_sum_is_exact_or_absent_for_every_dropout_stage_of_three_clients(adversary: Any) -> None:
    every_assignment(complete((4, 9, 2**31 - 2), 2, adversary=adversary))


@pytest.mark.slow
def test_sum_is_exact_or_absent_for_every_dropout_stage_of_four_clients() -> None:
    every_assignment(complete((1, 2, 700, 2**31 - 2), 3, adversary="semi_honest"))


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.slow
def test_sum_is_exact_or_absent_for_every_mixture_of_dropout_stages_of_five_clients(adversary: Any) -> None:
    every_mixture(complete((1, 3, 4, 10, 11), 3, adversary=adversary))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ids", "threshold", "adversary"), [((1, 2, 3, 4), 3, "malicious_server"), (range(6, 11), 4, "semi_honest")]
)
def test_sum_is_exact_or_absent_for_every_dropout_stage(ids: Any, threshold: int, adversary: Any) -> None:
    every_assignment(complete(ids, threshold, adversary=adversary))


# The default run takes widths of whole bytes and those next to them.
@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "bits", [pytest.param(bits, marks=[] if bits % 8 in (7, 0, 1) else [pytest.mark.slow]) for bits in range(1, 65)]
)
def test_sum_is_exact_for_every_width_and_odd_lengths(bits: int) -> None:
    for length in (1, 67):
        config = complete((1, 2, 3), 2, length=length, modulus_bits=bits, adversary="semi_honest")
        vectors = random_vectors(config, bits)
        vectors[1] = np.full(length, (1 << bits) - 1, np.uint64)  # the sum wraps
        for dropouts in ({}, {3: Stage.MASKED_INPUT_COLLECTION}, {1: Stage.UNMASKING}):
            assert assert_exact_or_too_few(config, dropouts, vectors)


# The default run takes the small rings, on which every kind of neighborhood is already there.
@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "clients", [*range(4, 8), *(pytest.param(clients, marks=pytest.mark.slow) for clients in range(8, 12))]
)
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_sum_is_exact_on_rings_of_every_size(clients: int, adversary: Any) -> None:
    # An even number of neighbors and any number of clients, also where the ring is smaller than planned.
    for neighbors in range(2, clients - 1, 2):
        threshold = neighbors // 2 + 1
        config = Config(RING[:clients], threshold, 5, neighbors=neighbors, adversary=adversary)
        vectors = random_vectors(config)
        assert run_session(config, vectors).sum.tolist() == total(config, vectors, config.client_ids)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("stage", [stage for stage in Stage if stage < Stage.DONE])
def test_sum_is_exact_on_a_ring_when_one_drops_out_in_any_stage(adversary: Any, stage: Stage) -> None:
    config = ring(adversary=adversary)
    vectors = random_vectors(config)
    for gone in (1, 11):
        result = run_session(config, vectors, dropouts={gone: stage})
        survivors = [i for i in RING if i != gone or stage > Stage.MASKED_INPUT_COLLECTION]
        assert list(result.survivors) == survivors
        assert result.sum.tolist() == total(config, vectors, survivors)


def test_a_ring_that_loses_most_clients_before_sharing_becomes_a_complete_graph() -> None:
    config = ring(adversary="semi_honest")
    vectors = random_vectors(config)
    gone = dict.fromkeys(RING[:6], Stage.ADVERTISE_KEYS)
    result = run_session(config, vectors, dropouts=gone | {11: Stage.MASKED_INPUT_COLLECTION})
    assert result.sum.tolist() == total(config, vectors, RING[6:10])


def test_one_thread_and_two_give_the_same_bytes() -> None:
    # Long enough that the second thread has work.
    config = complete(range(1, 7), 4, length=100_003, modulus_bits=61, adversary="semi_honest")
    with predictable_secrets():
        one, two = (Session(config, seed=5, threads=threads) for threads in (1, 2))
        for session in (one, two):
            session.finish({3: Stage.MASKED_INPUT_COLLECTION, 5: Stage.UNMASKING})
    assert one.responses == two.responses
    assert one.server.sum.tobytes() == two.server.sum.tobytes()
    expected = np.sum([one.vectors[i] for i in one.server.survivors], axis=0, dtype=np.uint64) & np.uint64(2**61 - 1)
    assert np.array_equal(one.server.sum, expected)


@st.composite
def sessions(draw: st.DrawFn) -> tuple[Config, dict[int, Any], dict[int, Stage]]:
    """Any small configuration with any vectors and any dropouts."""
    ids = draw(st.sets(st.integers(1, 2**31 - 2), min_size=2, max_size=7).map(sorted))
    adversary: Any = draw(st.sampled_from(ADVERSARIES))
    n = len(ids)
    neighbors = draw(st.sampled_from([None, *range(2, n - 1, 2)]))
    held = neighbors or n
    least = held // 2 + 1 if neighbors is None or adversary == "malicious_server" else 2
    colluders = draw(st.integers(0, held - least))
    lowest = (held + colluders) // 2 + 1 if adversary == "malicious_server" else max(least, colluders + 1)
    threshold = draw(st.integers(min(max(lowest, 2), held), held))
    bits, length = draw(st.integers(1, 64)), draw(st.integers(1, 20))
    if threshold <= colluders or (adversary == "malicious_server" and 2 * threshold <= held + colluders):
        colluders = 0
    config = Config(ids, threshold, length, bits, neighbors=neighbors, colluders=colluders, adversary=adversary)
    entry = st.integers(0, (1 << bits) - 1)
    vectors = {i: np.array(draw(st.lists(entry, min_size=length, max_size=length)), np.uint64) for i in ids}
    dropouts = draw(st.dictionaries(st.sampled_from(ids), st.sampled_from(stages(config)), max_size=3))
    return config, vectors, dropouts


@given(sessions())
@examples(14, 120, suppress_health_check=[HealthCheck.too_slow])
def test_sum_is_that_of_the_survivors_for_any_vectors_and_dropouts(case: Any) -> None:
    config, vectors, dropouts = case
    if config.complete:
        assert_exact_or_too_few(config, dropouts, vectors)
        return
    result = None
    with contextlib.suppress(errors.TooFewSurvivorsError):
        result = run_session(config, vectors, dropouts=dropouts)
    assert result or dropouts
    if result:
        assert result.sum.tolist() == total(config, vectors, result.survivors)
        # On a ring the server also leaves out those that lost their holders before they sent a vector.
        stayed = {i for i in config.client_ids if dropouts.get(i, Stage.DONE) > Stage.MASKED_INPUT_COLLECTION}
        assert set(result.survivors) <= stayed


def test_result_counts_every_byte() -> None:
    config = complete()
    seen: dict[tuple[str, int], int] = Counter()

    def observe(stage: Stage, direction: str, client_id: int, data: bytes) -> None:
        seen[direction, client_id] += len(data)

    result = run_session(config, random_vectors(config), dropouts={13: Stage.UNMASKING}, observer=observe)
    assert {i: seen["to_server", i] for i in config.client_ids} == result.bytes_up
    assert {i: seen["to_client", i] for i in config.client_ids} == result.bytes_down
    assert list(result.seconds) == [stage for stage in Stage if stage < Stage.DONE]
    assert result.bytes_up[13] < result.bytes_up[8]


def test_session_says_which_inputs_do_not_fit() -> None:
    config = complete(adversary="semi_honest")
    vectors = random_vectors(config)
    for bad in ({2: vectors[2]}, vectors | {4: vectors[2]}):
        with pytest.raises(errors.ConfigError):
            run_session(config, bad)
    with pytest.raises(errors.ConfigError):
        run_session(config, vectors, dropouts={4: Stage.UNMASKING})
    with pytest.raises(errors.FaultyServerError) as caught:
        run_session(config, vectors, policy=Policy(minimum_cohort=6))
    assert caught.value.check == "C4"


@pytest.mark.parametrize(
    "vector",
    [
        [0] * 5,
        [0] * 7,
        [[0] * 6],
        0,
        [0.0] * 6,
        [True] * 6,
        [-1] + [0] * 5,
        [2**16] + [0] * 5,
        [2**64] + [0] * 5,
        ["0"] * 6,
        [None] * 6,
        np.full(6, np.nan),
        np.zeros(6, "c8"),
    ],
    ids=repr,
)
def test_a_vector_that_does_not_fit_is_refused_before_anything_is_sent(vector: Any) -> None:
    config = complete(adversary="semi_honest")
    with pytest.raises(errors.EncodingError):
        run_session(config, random_vectors(config) | {5: vector})


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "u4", ">u8", "i1", "i8"])
def test_vectors_of_any_whole_number_type_and_stride_are_taken_and_not_changed(dtype: str) -> None:
    config = complete(adversary="semi_honest")
    wide = np.arange(24).astype(dtype)
    for vector in (wide[:6], wide[::4], wide[::-4]):
        before = vector.copy()
        vectors = random_vectors(config) | {5: vector}
        result = run_session(config, vectors)
        assert result.sum.tolist() == total(config, vectors, config.client_ids)
        assert np.array_equal(vector, before)


@given(sessions())
@examples(10, 60)
def test_vectors_that_come_one_at_a_time_give_the_same_sum(case: Any) -> None:
    config, vectors, dropouts = case
    asked: list[int] = []

    def secrets_of(party: int) -> Any:  # the same graph in both sessions
        return DerivedEntropy(party.to_bytes(32, "little"))

    def vector_of(client_id: int) -> Any:
        asked.append(client_id)
        return None if client_id == config.client_ids[0] else vectors[client_id]

    def outcome(vectors: Any, dropouts: Mapping[int, Stage]) -> Any:
        try:
            result = run_session(config, vectors, dropouts=dropouts, entropies=secrets_of)
        except errors.TooFewSurvivorsError as error:
            return error.args
        return result.sum.tolist(), result.survivors, result.dropouts, result.bytes_up

    leaver = config.client_ids[0]
    leaves = min(dropouts.get(leaver, Stage.DONE), Stage.MASKED_INPUT_COLLECTION)
    expected = outcome(vectors, {**dropouts, leaver: leaves})
    assert outcome(vector_of, dropouts) == expected
    stay = [i for i in config.client_ids if dropouts.get(i, Stage.DONE) > Stage.MASKED_INPUT_COLLECTION]
    assert asked in ([], stay)  # none if the session ended before


def test_client_with_a_late_vector_that_fails_leaves_the_session() -> None:
    config = complete(adversary="semi_honest")

    def fails() -> Any:
        raise RuntimeError("no data")

    def misleads() -> Any:
        raise errors.MalformedMessageError("not of the request", 0)

    floats = np.zeros(config.length)
    for late, error in (
        (fails, RuntimeError),
        (lambda: floats, errors.EncodingError),
        (misleads, errors.EncodingError),
    ):
        session = Session(config)
        first = config.client_ids[0]
        client = session.clients[first] = Client(config, first, late)
        with pytest.raises(errors.StageError, match="a function has yet to make"):
            client.to_bytes()
        session.to(Stage.MASKED_INPUT_COLLECTION)
        with pytest.raises(error):
            client.receive(session.outbox[first])
        assert client.stage is Stage.ABORTED
        with pytest.raises(errors.StageError):
            client.receive(session.outbox[first])


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_client_says_whose_vectors_are_in_the_sum_it_helped_to_unmask(adversary: Any) -> None:
    session = Session(complete(adversary=adversary))
    first, second, *_ = session.config.client_ids
    assert session.clients[second].survivors == ()
    session.finish({first: Stage.MASKED_INPUT_COLLECTION})
    assert session.server.survivors == session.clients[second].survivors
    assert first not in session.clients[second].survivors
    assert session.clients[first].survivors == ()
