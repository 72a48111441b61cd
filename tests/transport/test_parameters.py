"""What a client holds against the announced parameters, and that every difference ends its part before it begins."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secfed.aggregation import SecAgg, WeightedMean
from secfed.errors import ConfigError, EncodingError, FaultyServerError, MalformedMessageError, SecFedError
from secfed.secagg import Policy
from secfed.transport import SessionParameters, Terms
from secfed.transport.parameters import token
from tests.transport.sessions import EXAMPLE, IDS, MALICIOUS, MEAN, ROSTER, SEMI_HONEST, TERMS, announced, update_of


def test_parameters_survive_the_wire_and_fit_their_client() -> None:
    found = SessionParameters.from_bytes(announced(round=4).to_bytes())
    assert found == announced(round=4)
    for client_id in IDS:
        mean = replace(TERMS, round=4, max_weight=10).agree(found, client_id, update_of(client_id), 10)
        assert (mean.to_bytes(), mean.context) == (MEAN.to_bytes(), MEAN.context)  # type: ignore[attr-defined]


def test_update_of_another_float_type_has_the_same_vector() -> None:
    update = {name: array.astype(np.float64) for name, array in update_of(2).items()}
    assert TERMS.agree(announced(), 2, update, 1).length == MEAN.length  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("update", "weight", "message"),
    [
        ({"w": np.zeros((3, 2)), "b": np.zeros(2)}, 1, r"'w' has shape \(3, 2\), needed \(2, 3\)"),
        ({"w": np.zeros((2, 3)), "c": np.zeros(2)}, 1, "its next array is 'c', needed 'b'"),
        ({"w": np.zeros((2, 3))}, 1, "its next array is 'w', needed 'b'"),
        ({**EXAMPLE, "x": np.zeros(1)}, 1, "it has 3 arrays, needed 2"),
        ({**EXAMPLE, "b": np.array([np.nan, 0])}, 1, r"b holds a value that is not finite, at index \[0\]"),
        (EXAMPLE, 11, "weight"),
        (EXAMPLE, 0, "weight"),
    ],
)
def test_update_that_does_not_fit_is_not_sent(update: Any, weight: int, message: str) -> None:
    with pytest.raises(EncodingError, match=message):
        TERMS.agree(announced(), 2, update, weight)


FIVE = {**ROSTER, 11: ROSTER[2]}


@pytest.mark.parametrize(
    ("terms", "found", "message"),
    [
        (replace(TERMS, roster=FIVE), announced(), r"4 clients, this client's roster 5; .*\[11\]"),
        (replace(TERMS, clip=4.0), announced(), "announced clip 16.0, this client agreed to 4.0"),
        (replace(TERMS, max_weight=1), announced(), "largest weight 10, this client agreed to 1"),
        (replace(TERMS, round=2), announced(round=1), "round 1, this client agreed to 2"),
        (TERMS, announced(SEMI_HONEST), "no identity keys, this client's roster requires them"),
        (replace(TERMS, policy=Policy(minimum_threshold=4)), announced(), "3 as threshold, .* needs 4"),
        (replace(TERMS, policy=Policy(minimum_cohort=5)), announced(), "4 clients, .* needs 5"),
    ],
)
def test_session_that_the_client_did_not_agree_to_is_refused(
    terms: Terms, found: SessionParameters, message: str
) -> None:
    with pytest.raises(FaultyServerError, match=message):
        terms.agree(found, 2, EXAMPLE, 1)


SPARSE = SecAgg(threshold=2, clip=16.0, max_weight=10, adversary="malicious_server", neighbors=2)


def test_client_with_a_roster_refuses_a_graph_that_splits_the_sum() -> None:
    """On a ring of four, a server that tells neighbors different survivors would open sums of fewer clients."""
    found = announced(SPARSE)
    assert not found.config.indivisible
    for terms in (TERMS, replace(TERMS, policy=Policy())):
        with pytest.raises(FaultyServerError, match="a k-regular graph without session_colluders lets the server"):
            terms.agree(found, 2, EXAMPLE, 1)
    lax = replace(TERMS, allow_divisible=True)
    assert lax.agree(found, 2, EXAMPLE, 1).length == MEAN.length  # type: ignore[attr-defined]
    assert TERMS.agree(announced(replace(SPARSE, session_colluders=0)), 2, EXAMPLE, 1)


def test_policy_of_the_client_itself_is_indivisible_with_a_roster() -> None:
    assert TERMS.session_policy(MEAN).indivisible
    assert not replace(TERMS, allow_divisible=True).session_policy(MEAN).indivisible
    assert not Terms().session_policy(MEAN).indivisible


def test_session_whose_sum_could_overflow_is_refused() -> None:
    narrow = WeightedMean.of(EXAMPLE, clip=16.0, clients=3, max_weight=10)
    found = SessionParameters.of(bytes(32), MALICIOUS.config(IDS, narrow), narrow)
    with pytest.raises(FaultyServerError, match="the encoding is for 3 clients, the session has 4"):
        TERMS.agree(found, 2, EXAMPLE, 1)


def test_configuration_for_another_transform_is_refused() -> None:
    wide = WeightedMean.of(EXAMPLE, clip=16.0, clients=4, max_weight=10, bits=8)
    with pytest.raises(FaultyServerError, match="T6"):
        TERMS.agree(replace(announced(), transform=wide.to_bytes()), 2, EXAMPLE, 1)


def test_client_that_is_not_in_the_session_is_told() -> None:
    with pytest.raises(ConfigError, match="client 4 is not among the 4 clients"):
        TERMS.agree(announced(), 4, EXAMPLE, 1)
    with pytest.raises(ConfigError, match="needs its identity key and a roster"):
        Terms().agree(announced(), 2, EXAMPLE, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"session": "00"},
        {"session": 5},
        {"config": "zz"},
        {"config": ""},
        {"arrays": [["w", "ab", "<f4"]]},
        {"arrays": None},
        {"transform": None},
    ],
)
def test_bytes_that_are_no_parameters_are_the_servers_fault(change: dict[str, Any]) -> None:
    found = json.loads(announced().to_bytes()) | change
    with pytest.raises(MalformedMessageError):
        SessionParameters.from_bytes(json.dumps(found).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b"null"])
def test_other_bytes_are_no_parameters(data: bytes) -> None:
    with pytest.raises(SecFedError):
        SessionParameters.from_bytes(data)


def test_token_depends_on_session_configuration_and_client() -> None:
    config = announced().config
    tokens = {
        token(session, other, client_id)
        for session in (bytes(32), bytes([1]) * 32)
        for other in (config, announced(round=1).config)
        for client_id in IDS
    }
    assert len(tokens) == 2 * 2 * len(IDS)


def test_session_for_another_transform_than_a_weighted_mean_is_refused() -> None:
    aggregator = SecAgg(threshold=2, clip={"w": 1.0}, max_weight=2)
    transform: Any = aggregator.transform({"w": np.zeros(3)}, 3, None, None)
    with pytest.raises(ConfigError, match="found a PerArrayClipping, needed a WeightedMean"):
        SessionParameters.of(bytes(32), aggregator.config([1, 2, 3], transform), transform)
