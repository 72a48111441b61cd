"""Mixtures of Gaussians: their bounds hold normal tails, integrals and dp-accounting's distributions between them."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import logsumexp, ndtr

from secfed import dp
from secfed.dp import events, renyi
from secfed.dp.events import ADJACENCIES, Adjacency
from secfed.errors import ConfigError

Parts = list[tuple[float, float]]


def log_density(x: float, noise: float, parts: Parts) -> float:
    return float(logsumexp([math.log(p) - ((x - c) / noise) ** 2 / 2 for c, p in parts]))


def pairs(parts: Parts, adjacency: Adjacency) -> list[tuple[Parts, Parts]]:
    """The worst pairs of laws, as parts."""
    if adjacency == "replace":
        return [(parts, [(-c, p) for c, p in parts])]
    return [(parts, [(0.0, 1.0)]), ([(0.0, 1.0)], parts)]


def exact_delta(noise: float, parts: Parts, adjacency: Adjacency, epsilon: float) -> float:
    """Delta of one release: the loss is monotone, so the best test is a half-line, whose end is a root."""
    worst = 0.0
    for p, q in pairs(parts, adjacency):
        reach = 40 * noise + 5 * max(c for c, _ in parts)

        def excess(x: float, p: Parts = p, q: Parts = q) -> float:
            return log_density(x, noise, p) - log_density(x, noise, q) - epsilon

        ends = excess(-reach), excess(reach)
        if max(ends) <= 0:
            continue
        sign = 1.0 if ends[1] > ends[0] else -1.0  # whether large or small outputs give the client away
        root = brentq(excess, -reach, reach, xtol=1e-13) if min(ends) < 0 else -sign * math.inf
        tails = [sum(share * ndtr(sign * (c - root) / noise) for c, share in law) for law in (p, q)]
        worst = max(worst, float(tails[0] - math.exp(epsilon) * tails[1]))
    return worst


def exact_moment(noise: float, parts: Parts, adjacency: Adjacency, order: float) -> float:
    """Renyi divergence, by its definition."""
    worst = 0.0
    for p, q in pairs(parts, adjacency):

        def integrand(x: float, p: Parts = p, q: Parts = q) -> float:
            return math.exp(order * log_density(x, noise, p) + (1 - order) * log_density(x, noise, q))

        largest = max(c for c, _ in parts)
        edges = np.linspace(-order * largest * 2 - 12 * noise, order * largest * 2 + 12 * noise, 30)
        whole = sum(quad(integrand, *each, epsabs=0, epsrel=1e-12)[0] for each in pairwise(edges))
        worst = max(worst, math.log(whole / (noise * math.sqrt(2 * math.pi))) / (order - 1))
    return worst


PARTS = st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.01, 1.0)), min_size=1, max_size=5).filter(
    lambda parts: max(c for c, _ in parts) > 0.05
)


@settings(max_examples=25)
@given(PARTS, st.floats(0.3, 4.0), st.floats(0.0, 3.0), st.sampled_from(ADJACENCIES))
def test_one_release_equals_normal_tails(parts: Parts, noise: float, epsilon: float, adjacency: Adjacency) -> None:
    total = sum(share for _, share in parts)
    event = dp.GaussianMixture(noise, tuple(c for c, _ in parts), tuple(share / total for _, share in parts))
    exact = exact_delta(noise, [(c, share / total) for c, share in parts], adjacency, epsilon)
    low, high = dp.Accountant(adjacency).compose(event).delta(epsilon, bounds=True)
    assert low <= exact * (1 + 1e-9) + 1e-15 and exact * (1 - 1e-9) - 1e-15 <= high <= exact * (1 + 1e-9) + 1e-14


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize("order", [1.5, 4.7, 12.0])
def test_moments_equal_integrals(adjacency: Adjacency, order: float) -> None:
    for noise, parts in (
        (1.5, [(0.0, 0.9), (1.0, 0.1)]),
        (1.0, [(0.0, 0.6), (0.4, 0.3), (1.5, 0.1)]),
        (3.0, [(1.0, 1.0)]),
    ):
        event = dp.GaussianMixture(noise, *zip(*parts, strict=True))
        found = renyi.moments(event, adjacency, [order])[0]
        assert found == pytest.approx(exact_moment(noise, parts, adjacency, order), rel=1e-8)


@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_all_or_nothing_is_poisson_sampling(adjacency: Adjacency) -> None:
    for noise, rate, count in ((1.0, 0.3, 20), (0.7, 0.01, 500), (0.05, 0.2, 1)):
        mixture = dp.Accountant(adjacency).compose(dp.GaussianMixture(2 * noise, (0, 2.0), (1 - rate, rate)), count)
        sampled = dp.Accountant(adjacency).compose(dp.PoissonSampled(rate, dp.Gaussian(noise)), count)
        low, high = mixture.epsilon(1e-6, bounds=True)
        assert low <= sampled.epsilon(1e-6) * (1 + 1e-12)
        assert high >= sampled.epsilon(1e-6, bounds=True).lower and high - low <= 2e-5 * high
        assert mixture.renyi(3.0) == pytest.approx(sampled.renyi(3.0), rel=1e-9)


@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_a_single_contribution_is_gaussian_noise(adjacency: Adjacency) -> None:
    mixture = dp.Accountant(adjacency).compose(dp.GaussianMixture(3.0, (1.5, 1.5, 9.0), (0.4, 0.6, 0.0)), 5)
    gaussian = dp.Accountant(adjacency).compose(dp.Gaussian(2.0), 5)
    low, high = mixture.epsilon(1e-5, bounds=True)
    assert low <= gaussian.epsilon(1e-5) <= high <= low * (1 + 1e-5)
    assert mixture.rdp_epsilon(1e-5) == pytest.approx(gaussian.rdp_epsilon(1e-5), rel=1e-9)


# dp_accounting.pld.from_mixture_gaussian_mechanism of dp-accounting 0.6.0, self-composed: the optimistic and the
# pessimistic delta at epsilon, with losses rounded to steps of 1e-4.
PEER = [
    (1.0, (0.0, 1.0), (0.7, 0.3), 20, 5.0, 0.007580291164264865, 0.007589509443367545),
    (0.8, (0.0, 0.3, 1.0, 2.0), (0.6, 0.2, 0.15, 0.05), 10, 6.0, 0.017309253458141903, 0.018188759788015693),
    (5.0, (1.0, 2.0, 3.0), (0.5, 0.3, 0.2), 1, 0.5, 0.01629081521750262, 0.016295151887534276),
]


@pytest.mark.parametrize(("noise", "contributions", "probabilities", "count", "epsilon", "least", "most"), PEER)
def test_compositions_lie_between_what_dp_accounting_says(
    noise: float,
    contributions: tuple[float, ...],
    probabilities: tuple[float, ...],
    count: int,
    epsilon: float,
    least: float,
    most: float,
) -> None:
    event = dp.GaussianMixture(noise, contributions, probabilities)
    low, high = dp.Accountant().compose(event, count).delta(epsilon, bounds=True)
    assert least <= high and low <= most and high <= low * (1.0001 if count > 1 else 1 + 1e-12)


def test_a_mixture_and_other_releases_are_composed() -> None:
    event = dp.GaussianMixture(2.0, (0.0, 1.0, 2.0), (0.8, 0.1, 0.1))
    both = (
        dp.Accountant().compose(event, 5).compose(dp.Laplace(4.0)).compose(dp.PoissonSampled(0.1, dp.Gaussian(1.0)), 9)
    )
    low, high = both.epsilon(1e-6, bounds=True)
    assert dp.Accountant().compose(event, 5).epsilon(1e-6) < low <= high <= low * 1.001
    assert high <= both.rdp_epsilon(1e-6)
    with_sums = dp.Accountant().compose(event).compose(dp.SkellamSum(9.0, 10, 15.0, 200.0, 64))
    assert with_sums.epsilon(1e-6) == with_sums.rdp_epsilon(1e-6) < math.inf


@pytest.mark.slow
def test_extreme_mixtures_have_finite_bounds() -> None:
    for event in (
        dp.GaussianMixture(0.01, (0.0, 1.0, 0.5), (0.5, 1e-9, 0.5 - 1e-9)),
        dp.GaussianMixture(1e9, (0.0, 1.0), (0.5, 0.5)),
        dp.GaussianMixture(1.0, tuple(np.linspace(0, 1, 100)), (0.01,) * 100),
    ):
        for adjacency in ADJACENCIES:
            low, high = dp.Accountant(adjacency).compose(event, 3).epsilon(1e-6, bounds=True)
            assert 0 <= low <= high < math.inf


def test_json_and_words() -> None:
    event = dp.GaussianMixture(2.0, (0, 1.5), (0.75, 0.25))
    assert events.from_json(events.to_json(event)) == event
    assert dp.Accountant.from_json(dp.Accountant().compose(event, 2).to_json()).events == ((event, 2),)
    words = dp.Accountant().compose(event).assumptions()
    told = (
        "contributes at most a random multiple of clip_norm: 0 with probability 0.75, 1.5 with probability 0.25, "
        "by secret chance"
    )
    assert told in words


BAD = {
    "noise": (0.0, (1.0,), (1.0,)),
    "little noise": (0.009, (1.0,), (1.0,)),
    "negative": (1.0, (-1.0,), (1.0,)),
    "nothing": (1.0, (0.0, 1.0), (1.0, 0.0)),
    "share": (1.0, (0.0, 1.0), (1.5, -0.5)),
    "sum": (1.0, (0.0, 1.0), (0.5, 0.4)),
    "number": (1.0, 1.0, (1.0,)),
    "none": (1.0, (), ()),
    "many": (1.0, (1.0,) * 101, (1 / 101,) * 101),
    "nan": (1.0, (math.nan,), (1.0,)),
    "text": (1.0, ("1",), (1.0,)),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"must be|must sum"):
        dp.GaussianMixture(*BAD[name])  # type: ignore[arg-type]


def test_as_many_probabilities_as_contributions_are_needed_and_no_cohort() -> None:
    with pytest.raises(ConfigError, match="found 2 contributions and 1 probabilities, needed as many of both"):
        dp.GaussianMixture(1.0, (1.0, 2.0), (1.0,))
    with pytest.raises(ConfigError, match="needs one release"):
        dp.PoissonSampled(0.1, dp.GaussianMixture(1.0, (1.0,), (1.0,)))  # type: ignore[arg-type]
