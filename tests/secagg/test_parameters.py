"""Neighbors and thresholds against published values, and against the rule in exact integers."""

import dataclasses
import math
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from secfed.errors import ConfigError
from secfed.secagg.parameters import Parameters, parameters
from tests.examples import examples

Pair = tuple[int, int]

# n, gamma, delta, then (neighbors, threshold): semi-honest with eta 20 and with eta 40, malicious server; t1 of the
# last. The rule of the production chooser (google/federated-compute) with sigma 40.
TABLE: list[tuple[int, float, float, Pair, Pair, Pair | None, int | None]] = [
    (100, 0.05, 0.05, (12, 6), (12, 6), (16, 11), 5),
    (100, 0.05, 0.10, (16, 6), (16, 6), (26, 16), 5),
    (100, 0.10, 0.10, (22, 11), (22, 11), (32, 22), 10),
    (100, 0.05, 0.33, (28, 6), (34, 6), (72, 39), 5),
    (100, 0.20, 0.20, (40, 21), (42, 21), (62, 42), 20),
    (100, 0.33, 0.05, (34, 29), (34, 29), (42, 37), 31),
    (100, 0.33, 0.10, (42, 32), (42, 32), (54, 44), 33),
    (100, 0.33, 0.33, (68, 34), (68, 34), (99, 67), 33),
    (1000, 0.05, 0.05, (30, 17), (36, 19), (52, 37), 20),
    (1000, 0.05, 0.10, (36, 19), (46, 20), (78, 52), 24),
    (1000, 0.10, 0.10, (48, 27), (58, 30), (96, 67), 37),
    (1000, 0.05, 0.33, (72, 24), (94, 27), (398, 223), 46),
    (1000, 0.20, 0.20, (98, 54), (124, 63), (302, 206), 109),
    (1000, 0.33, 0.05, (78, 60), (92, 67), (132, 109), 85),
    (1000, 0.33, 0.10, (102, 72), (126, 84), (218, 171), 122),
    (1000, 0.33, 0.33, (286, 150), (336, 169), (999, 666), 330),
    (10**4, 0.05, 0.05, (34, 20), (42, 22), (62, 44), 24),
    (10**4, 0.05, 0.10, (42, 22), (54, 24), (96, 64), 30),
    (10**4, 0.10, 0.10, (54, 31), (68, 35), (122, 85), 46),
    (10**4, 0.05, 0.33, (86, 29), (112, 33), (746, 420), 92),
    (10**4, 0.20, 0.20, (122, 67), (152, 77), (482, 328), 173),
    (10**4, 0.33, 0.05, (92, 70), (114, 82), (178, 146), 113),
    (10**4, 0.33, 0.10, (126, 88), (156, 103), (310, 242), 172),
    (10**4, 0.33, 0.33, (422, 221), (528, 265), None, None),
    (10**6, 0.05, 0.05, (38, 22), (48, 25), (74, 52), 29),
    (10**6, 0.05, 0.10, (50, 25), (60, 27), (114, 75), 35),
    (10**6, 0.10, 0.10, (64, 36), (78, 40), (146, 101), 55),
    (10**6, 0.05, 0.33, (102, 34), (130, 38), (970, 545), 119),
    (10**6, 0.20, 0.20, (144, 78), (176, 89), (600, 407), 213),
    (10**6, 0.33, 0.05, (110, 83), (130, 93), (212, 173), 133),
    (10**6, 0.33, 0.10, (150, 104), (180, 119), (380, 295), 209),
    (10**6, 0.33, 0.33, (518, 270), (632, 317), None, None),
]


def chosen(clients: int, gamma: float, delta: float, adversary: Any = "semi_honest", **more: Any) -> Parameters:
    """The parameters for 40 bits, which published figures are for, unless said otherwise."""
    more = {"security_bits": 40} | more
    return parameters(clients=clients, corrupt_fraction=gamma, dropout_fraction=delta, adversary=adversary, **more)


def pair(found: Parameters) -> Pair:
    return found.neighbors, found.threshold


# --- published values


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_semi_honest_rows_of_the_table(row: tuple[Any, ...]) -> None:
    clients, gamma, delta, with_20_bits, with_40_bits, _, _ = row
    assert pair(chosen(clients, gamma, delta)) == with_20_bits
    assert pair(chosen(clients, gamma, delta, correctness_bits=40)) == with_40_bits


@pytest.mark.parametrize("row", [row for row in TABLE if row[5]], ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_malicious_server_rows_of_the_table(row: tuple[Any, ...]) -> None:
    clients, gamma, delta, _, _, malicious, colluders = row
    found = chosen(clients, gamma, delta, "malicious_server")
    assert found == Parameters(malicious[0], malicious[1], colluders, clients, "malicious_server")


@pytest.mark.parametrize("clients", [row[0] for row in TABLE if row[5] is None])
def test_rows_without_parameters_are_refused(clients: int) -> None:
    with pytest.raises(ConfigError, match=rf"= 0\.99 is above 0\.9, .*and {clients} clients are above 4096"):
        chosen(clients, 0.33, 0.33, "malicious_server")


def test_ten_clients_that_lose_three_get_six_neighbors_where_the_production_chooser_stops_at_four() -> None:
    # It raises t from 1 to 2 after it has checked the dropouts. With k = 4, P[fewer than 2 of 4 survive] is 7/210.
    assert not tail_is_small(10, 7, 4, range(2), 20)
    assert pair(chosen(10, 0.05, 0.33)) == pair(chosen(10, 0.0, 0.33)) == (6, 2)


# --- the rule again, in integers and one k after the other


def tail_is_small(n: int, marked: int, k: int, counts: range, bits: int) -> bool:
    """n * P[the number of marked among k of n is in counts] <= 2^-bits."""
    ways = sum(math.comb(marked, x) * math.comb(n - marked, k - x) for x in counts if x <= k)
    return (ways * n) << bits <= math.comb(n, k)


def exact_colluders(n: int, corrupt: int, k: int, security_bits: int) -> int:
    x = k
    while x > 0 and tail_is_small(n, corrupt, k, range(x, k + 1), security_bits + 1):
        x -= 1
    return x


def exact_rule(
    n: int,
    gamma_percent: int,
    delta_percent: int,
    malicious: bool,
    security_bits: int,
    correctness_bits: int,
    honest: int,
) -> tuple[int, int, int] | None:
    corrupt, dropouts = n * gamma_percent // 100, n * delta_percent // 100
    lost, survivors = corrupt + dropouts, n - dropouts
    regular = range(2, n - 1, 2) if gamma_percent + (1 + malicious) * delta_percent <= 90 else range(0)
    for k in regular:
        cuts = n * (n - k - 1) * math.comb(n - k, lost - k) if k <= lost else 0
        if cuts << (security_bits + 1) >= 2 * math.comb(n, lost):
            continue
        colluders = exact_colluders(n, corrupt, k, security_bits)
        # Against a server that tells two stories 2t - k - t1 honest neighbors are left in a client's sum.
        fewest = max(2, colluders + honest)
        secure = [t for t in range(fewest, k + 1) if not malicious or 2 * t - k - colluders >= honest]
        if secure and tail_is_small(n, survivors, k, range(secure[0]), correctness_bits):
            return k, secure[0], colluders  # and a larger t survives less
    for t in range(2, survivors + 1):
        if t > corrupt and t - corrupt >= honest and 2 * t > n + (corrupt if malicious else 0):
            return n - 1, t, corrupt
    return None


def assert_follows_the_exact_rule(
    n: int, gamma: int, delta: int, malicious: bool, security_bits: int, correctness_bits: int, honest: int
) -> None:
    expected = exact_rule(n, gamma, delta, malicious, security_bits, correctness_bits, honest)
    adversary = "malicious_server" if malicious else "semi_honest"
    bits = {"security_bits": security_bits, "correctness_bits": correctness_bits}
    try:
        found = chosen(n, gamma / 100, delta / 100, adversary, **bits, minimum_honest_inputs=honest)
    except ConfigError:
        assert expected is None
    else:
        assert (found.neighbors, found.threshold, found.colluders) == expected


percents = st.one_of(st.integers(0, 99), st.integers(0, 40))


@examples(34, 300)
@example(n=2, gamma=0, delta=0, malicious=True, security_bits=40, correctness_bits=20, honest=1)
@example(n=2, gamma=0, delta=50, malicious=False, security_bits=40, correctness_bits=20, honest=1)
# Here 11 P[fewer than 3 of 6 holders survive] is exactly 2^-1.
@example(n=11, gamma=19, delta=37, malicious=False, security_bits=1, correctness_bits=1, honest=1)
@given(
    n=st.integers(2, 40),
    gamma=percents,
    delta=percents,
    malicious=st.booleans(),
    security_bits=st.integers(1, 60),
    correctness_bits=st.integers(1, 60),
    honest=st.one_of(st.just(1), st.integers(1, 40)),
)
def test_small_cohorts_follow_the_exact_rule(
    n: int, gamma: int, delta: int, malicious: bool, security_bits: int, correctness_bits: int, honest: int
) -> None:
    honest = min(honest, n)
    assert_follows_the_exact_rule(n, gamma, delta, malicious, security_bits, correctness_bits, honest)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("honest", [1, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("n", "gamma", "delta", "malicious"),
    [
        (1000, 33, 5, True),  # k = 132 is feasible and k = 134 is not: neither bisection nor galloping finds it
        (1000, 45, 5, False),  # the same with k = 110 and 112
        (997, 5, 20, True),
        (400, 20, 20, True),
    ],
)
def test_no_smaller_k_is_feasible_in_exact_integers(
    n: int, gamma: int, delta: int, malicious: bool, honest: int
) -> None:
    assert_follows_the_exact_rule(n, gamma, delta, malicious, 40, 20, honest)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("security_bits", [20, 40, 60, 128])
def test_tails_of_a_million_clients_are_those_of_exact_integers(security_bits: int) -> None:
    n, gamma, delta = 10**6, 0.2, 0.1
    found = chosen(n, gamma, delta, "malicious_server", security_bits=security_bits, correctness_bits=60)
    k, t = pair(found)
    assert tail_is_small(n, 200_000, k, range(found.colluders + 1, k + 1), security_bits + 1)
    assert not tail_is_small(n, 200_000, k, range(found.colluders, k + 1), security_bits + 1)
    assert tail_is_small(n, 900_000, k, range(t), 60)
    assert t == (k + found.colluders) // 2 + 1


# --- what every result keeps


@settings(deadline=None)
@given(
    clients=st.integers(2, 5000),
    gamma=st.floats(0, 0.95),
    delta=st.floats(0, 0.95),
    adversary=st.sampled_from(["semi_honest", "malicious_server"]),
    honest=st.integers(1, 200),
)
def test_every_result_meets_the_rules_of_a_configuration(
    clients: int, gamma: float, delta: float, adversary: str, honest: int
) -> None:
    honest = min(honest, clients)
    try:
        found = chosen(clients, gamma, delta, adversary, minimum_honest_inputs=honest)
    except ConfigError:
        return
    k, t, colluders = found.neighbors, found.threshold, found.colluders
    complete = k == clients - 1
    holders = clients if complete else k
    assert complete or (k % 2 == 0 and 2 <= k < clients - 1)
    assert 2 <= t <= holders
    assert t - colluders >= honest
    assert complete or adversary == "semi_honest" or 2 * t - k - colluders >= honest
    assert not complete or 2 * t > holders
    assert adversary == "semi_honest" or 2 * t > holders + colluders
    assert (found.clients, found.adversary) == (clients, adversary)


def test_a_malicious_server_that_tries_graphs_is_met_with_80_bits() -> None:
    fractions: Any = {"clients": 1000, "corrupt_fraction": 0.05, "dropout_fraction": 0.05}
    assert parameters(**fractions) == chosen(1000, 0.05, 0.05)
    strict = parameters(**fractions, adversary="malicious_server")
    assert strict == chosen(1000, 0.05, 0.05, "malicious_server", security_bits=80)
    assert pair(strict) == (66, 49)
    assert pair(chosen(1000, 0.05, 0.05, "malicious_server")) == (52, 37)


def test_without_corrupt_clients_there_are_no_colluders() -> None:
    assert chosen(1000, 0, 0) == Parameters(2, 2, 0, 1000, "semi_honest")
    assert chosen(1000, 0, 0.33) == Parameters(38, 2, 0, 1000, "semi_honest")
    assert chosen(100, 0, 0.1, "malicious_server").colluders == 0


def test_more_honest_inputs_cost_more_neighbors() -> None:
    found = chosen(1000, 0.05, 0.05, "malicious_server")
    k, t, colluders = found.neighbors, found.threshold, found.colluders
    assert 2 * t - k - colluders == 2  # what 52 neighbors bring unasked
    assert chosen(1000, 0.05, 0.05, "malicious_server", minimum_honest_inputs=2) == found
    more = chosen(1000, 0.05, 0.05, "malicious_server", minimum_honest_inputs=30)
    assert more.neighbors > found.neighbors
    assert 2 * more.threshold - more.neighbors - more.colluders >= 30
    whole = chosen(1000, 0.05, 0.05, "malicious_server", indivisible=True, minimum_honest_inputs=46)
    assert whole == chosen(1000, 0.05, 0.05, "malicious_server", indivisible=True)  # 71 - 25


def test_indivisible_against_a_malicious_server_counts_the_corrupt_of_the_session() -> None:
    whole = chosen(1000, 0.05, 0.05, "malicious_server", indivisible=True)
    assert whole == Parameters(90, 71, 25, 1000, "malicious_server", session_colluders=50)
    assert chosen(1000, 0.05, 0.05, indivisible=True).session_colluders is None
    complete = chosen(3, 0.34, 0.0, "malicious_server", indivisible=True)
    assert complete == Parameters(2, 3, 1, 3, "malicious_server")
    # 801 of 1000 must sign and 699 are left; the complete graph needs the same.
    with pytest.raises(ConfigError, match="needs threshold 801, above its 699 survivors"):
        chosen(1000, 0.6, 0.301, "malicious_server", indivisible=True)


def test_a_fraction_in_decimals_counts_the_clients_it_names() -> None:
    # In floats 0.29 * 100 is 28.999999999999996, and 0.34 + 0.56 and 0.34 + 2 * 0.28 are 0.9000000000000001.
    assert chosen(100, 0.29, 0.35, "malicious_server") == Parameters(99, 65, 29, 100, "malicious_server")
    assert chosen(10**4, 0.34, 0.56).neighbors < 9999
    assert chosen(10**4, 0.34, 0.28, "malicious_server").neighbors < 9999


def test_the_bound_of_0_9_itself_is_allowed() -> None:
    assert chosen(10**4, 0.3, 0.3, "malicious_server") == Parameters(4822, 3230, 1637, 10**4, "malicious_server")
    assert pair(chosen(10**6, 0.3, 0.3, "malicious_server")) == (11136, 7454)


def test_a_result_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen(100, 0.1, 0.1).threshold = 1  # type: ignore[misc]


# --- the complete graph


@pytest.mark.parametrize(
    ("clients", "gamma", "delta", "adversary", "expected"),
    [
        (2, 0.0, 0.0, "semi_honest", (1, 2, 0)),
        (3, 0.34, 0.0, "malicious_server", (2, 3, 1)),
        (9, 0.3, 0.3, "malicious_server", (8, 6, 2)),
        (100, 0.6, 0.35, "semi_honest", (99, 61, 60)),  # t > A binds
        (100, 0.2, 0.44, "malicious_server", None),  # 61 > 56
        (4096, 0.33, 0.33, "malicious_server", (4095, 2724, 1351)),
    ],
)
def test_where_no_regular_graph_is_safe_the_complete_graph_is_chosen(
    clients: int, gamma: float, delta: float, adversary: str, expected: tuple[int, int, int] | None
) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="needs threshold 61, above its 56 survivors"):
            chosen(clients, gamma, delta, adversary)
    else:
        assert chosen(clients, gamma, delta, adversary) == Parameters(*expected, clients, adversary)


def test_a_complete_graph_has_at_most_4096_clients() -> None:
    with pytest.raises(ConfigError, match="4097 clients are above 4096, the most for a complete graph"):
        chosen(4097, 0.33, 0.33, "malicious_server")


# --- refusals


@pytest.mark.parametrize(
    ("gamma", "delta", "adversary", "text"),
    [
        (
            0.5,
            0.5,
            "semi_honest",
            r"corrupt_fraction \+ dropout_fraction = 1 is above 0\.9, .* threshold 51, above its 50",
        ),
        (
            0.5,
            0.5,
            "malicious_server",
            r"corrupt_fraction \+ 2 dropout_fraction = 1\.5 is above 0\.9, .* threshold 76, ",
        ),
    ],
)
def test_too_many_lost_clients_are_refused_with_the_reason(
    gamma: float, delta: float, adversary: str, text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        chosen(100, gamma, delta, adversary)


def test_more_honest_inputs_than_there_can_be_are_refused_with_the_reason() -> None:
    with pytest.raises(
        ConfigError, match=r"no even k below 99 neighbors .* needs threshold 100, above its 90 survivors"
    ):
        chosen(100, 0.1, 0.1, minimum_honest_inputs=90)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"clients": 1}, "1 clients must be at least 2 and at most 16777216"),
        ({"clients": 2**24 + 1}, "16777217 clients must be at least 2 and at most 16777216"),
        ({"corrupt_fraction": -0.1}, "corrupt_fraction -0.1 must be at least 0 and below 1"),
        ({"corrupt_fraction": 1.0}, "corrupt_fraction 1.0 must be at least 0 and below 1"),
        ({"dropout_fraction": 1}, "dropout_fraction 1 must be at least 0 and below 1"),
        ({"dropout_fraction": math.nan}, "dropout_fraction nan must be at least 0 and below 1"),
        ({"adversary": "none"}, "adversary 'none' must be 'semi_honest' or 'malicious_server'"),
        ({"security_bits": 0}, "security_bits 0 must be above 0 and finite"),
        ({"security_bits": math.inf}, "security_bits inf must be above 0 and finite"),
        ({"correctness_bits": -1.5}, "correctness_bits -1.5 must be above 0 and finite"),
        ({"minimum_honest_inputs": 0}, "minimum_honest_inputs 0 must be at least 1 and at most 100 clients"),
        ({"minimum_honest_inputs": 101}, "minimum_honest_inputs 101 must be at least 1 and at most 100 clients"),
    ],
)
def test_an_argument_out_of_its_range_is_refused_with_what_was_found_and_needed(
    change: dict[str, Any], text: str
) -> None:
    arguments: dict[str, Any] = {"clients": 100, "corrupt_fraction": 0.1, "dropout_fraction": 0.1}
    with pytest.raises(ConfigError) as caught:
        parameters(**arguments | change)
    assert str(caught.value) == text


# --- speed


@pytest.mark.parametrize(
    ("gamma", "delta", "adversary"),
    [(0.05, 0.05, "malicious_server"), (0.33, 0.33, "semi_honest"), (0.3, 0.3, "malicious_server")],
)
def test_a_million_clients_are_decided_at_once(gamma: float, delta: float, adversary: str) -> None:
    # Five times the target of 50 ms, which benchmarks measure; the last case, at the bound of 0.9, is the slowest.
    seconds = []
    for _ in range(3):
        start = time.thread_time()
        chosen(10**6, gamma, delta, adversary)
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 0.25
