"""Lower bounds of epsilon: tails against brute force and against what can be proved, coverage, published numbers."""

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from secfed.attacks import AuditResult, audit
from secfed.attacks.audit import METHODS, _mu_from_guesses, _mu_from_scores, gaussian_epsilon, one_run_tail
from secfed.errors import ConfigError


def binomial(guesses: int, epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P[W >= v], P[W < v] and P[W = v] for v from 0."""
    counts, chance = np.arange(guesses + 1), special.expit(epsilon)
    positive = np.maximum(counts, 1)
    above = np.where(counts > 0, special.betainc(positive, guesses - positive + 1, chance), 1.0)
    below = np.where(counts > 0, special.betaincc(positive, guesses - positive + 1, chance), 0.0)
    return above, below, special.comb(guesses, counts) * chance**counts * (1 - chance) ** (guesses - counts)


def proved_tail(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """A bound of P[W >= v] with a proof of five lines, for v >= 1.

    Let p_j = P[W = j], r guesses, m canaries. Turning one coin turns "this guess is right, W in J" into "this guess is
    wrong, W + 1 in J"; summed over canaries, sum over J of j p_j <= m delta + e^epsilon sum of (r - j + 1) p_{j-1}. So
    with u_j = j p_j - e^epsilon (r - j + 1) p_{j-1}, the positive u_j sum to m delta at most. For the binomial law b,
    j b_j = e^epsilon (r - j + 1) b_{j-1}: p_j / b_j grows from j - 1 to j by u_j / (j b_j). With the p_j summing to 1,
    P[W >= v] = P_b[W >= v] + sum of u_j c_j, c_j = P_b[W >= max(j, v)] P_b[W < min(j, v)] / (j b_j), largest at j = v.
    """
    above, below, exactly = binomial(guesses, epsilon)
    term = canaries * delta * below[correct] / (correct * exactly[correct])
    return float(above[correct] * (1 + term))


@pytest.mark.parametrize("guesses", [1, 2, 3, 7])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0, 5.0])
def test_tail_is_the_formula_in_exact_arithmetic(guesses: int, epsilon: float) -> None:
    chance = Fraction(float(special.expit(epsilon)))
    law = [math.comb(guesses, k) * chance**k * (1 - chance) ** (guesses - k) for k in range(guesses + 1)]
    for correct, delta in itertools.product(range(guesses + 1), (0.0, 1e-5, 0.01)):
        steps = [sum(law[correct - i : correct], Fraction(0)) / i for i in range(1, correct + 1)]
        exact = sum(law[correct:]) + 2 * 10 * Fraction(delta) * max(steps, default=Fraction(0))
        assert one_run_tail(10, guesses, correct, epsilon, delta) == pytest.approx(min(1.0, float(exact)), rel=1e-12)


@pytest.mark.parametrize("canaries", [1, 2, 4])
def test_tail_is_reached_by_randomised_response(canaries: int) -> None:
    """All outcomes of all coins, counted: without delta the bound is exact."""
    truth = special.expit(1.3)
    for correct in range(canaries + 1):
        found = sum(
            math.prod(truth if right else 1 - truth for right in outcome)
            for outcome in itertools.product((False, True), repeat=canaries)
            if sum(outcome) >= correct
        )
        assert one_run_tail(canaries, canaries, correct, 1.3, 0.0) == pytest.approx(found, rel=1e-12)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("canaries", "guesses"), [(1, 1), (3, 3), (5, 5), (20, 20), (50, 20), (200, 100), (1000, 1000)]
)
def test_tail_is_not_below_what_is_proved(canaries: int, guesses: int) -> None:
    compared = 0
    for epsilon, delta in itertools.product((0.0, 0.3, 1.0, 3.0, 6.0), (1e-12, 1e-6, 1e-3)):
        above = binomial(guesses, epsilon)[0]
        for correct in range(1, guesses + 1, 1 + guesses // 150):
            if 1e-12 < above[correct] <= 0.5:
                proved = proved_tail(canaries, guesses, correct, epsilon, delta)
                assert one_run_tail(canaries, guesses, correct, epsilon, delta) >= min(1, proved) * (1 - 1e-12)
                compared += 1
    assert compared


def test_tail_holds_for_every_mechanism_that_was_drawn() -> None:
    """Mechanisms on three coins, anything near randomized response; their delta is computed, not assumed."""
    random = np.random.default_rng(1)
    outcomes = np.array(list(itertools.product((0, 1), repeat=3)))
    right = (outcomes[:, None, :] == outcomes[None, :, :]).sum(axis=2)
    neighbours = right == 2
    tightest = math.inf
    for _ in range(1000):
        epsilon = random.uniform(0, 3)
        law = special.expit(epsilon) ** right * special.expit(-epsilon) ** (3 - right)
        law = law * random.gamma(10 ** random.uniform(-1, 4), size=law.shape)
        law /= law.sum(axis=1, keepdims=True)
        delta = max(
            np.maximum(law[i] - math.exp(epsilon) * law[j], 0).sum()
            for i, j in zip(*np.nonzero(neighbours), strict=True)
        )
        for correct in range(1, 4):
            found = law[right >= correct].sum() / 8
            assert found <= proved_tail(3, 3, correct, epsilon, delta) * (1 + 1e-12)
            if binomial(3, epsilon)[0][correct] <= 0.5:
                bound = one_run_tail(3, 3, correct, epsilon, delta)
                tightest = min(tightest, bound / found)
    assert 1 <= tightest < 1.2


def test_published_formula_is_no_bound_beyond_the_median() -> None:
    """Why `audit` asks for a confidence of at least one half."""
    wrong = special.expit(-3.0)
    delta = (1 - wrong) * wrong**2 + wrong**3 / 3  # of three bits that never are all wrong
    assert one_run_tail(3, 3, 1, 3.0, delta) < 1 - 1e-5
    assert proved_tail(3, 3, 1, 3.0, delta) >= 1


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "delta", "published"),
    [(1000, 100, 75, 1e-4, 0.673), (100_000, 1510, 1439, 1e-5, 2.675)],
)
def test_published_numbers(canaries: int, guesses: int, correct: int, delta: float, published: float) -> None:
    """Appendix D and section 7 of the paper; the paper cuts the second one off."""
    included = np.zeros(canaries, bool)
    included[canaries - correct + guesses // 2 :] = True  # the lowest half is guessed "out", rightly
    found = audit(np.arange(canaries), included, delta=delta, guesses=guesses)
    assert (found.guesses, found.correct) == (guesses, correct)
    assert found.epsilon_lower == pytest.approx(published, abs=1e-3)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("canaries", [1, 5, 50, 300])
def test_bounds_are_sound_for_independent_gaussian_guesses(canaries: int, mu: float) -> None:
    """Guesses by the sign are right with probability Phi(mu / 2): the exact tail must never refute the true mu."""
    law = stats.binom(canaries, special.ndtr(mu / 2))
    for correct in range(1, canaries + 1, max(1, canaries // 25)):
        tail = law.sf(correct - 1)
        if tail > 1e-12:
            assert _mu_from_guesses(canaries, canaries, correct, tail) <= mu * (1 + 1e-8)
        for delta in (1e-9, 1e-5, 1e-2) if tail < 0.5 else ():
            assert tail <= proved_tail(canaries, canaries, correct, gaussian_epsilon(mu, delta), delta) + 1e-12


@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_bound_exceeds_the_truth_no_oftener_than_stated(method: Any, mu: float) -> None:
    """The binomial law of the failures at 95 % leaves one chance in 10^9, and the seeds are fixed."""
    runs, failures, delta = 200 if method == "gaussian" else 100, 0, 1e-5
    random = np.random.default_rng(7)
    for _ in range(runs):
        included = random.integers(0, 2, 100)
        scores = 5.0 + 3.0 * (mu * included + random.normal(size=100))
        failures += not audit(scores, included, delta=delta, method=method).consistent_with(gaussian_epsilon(mu, delta))
    assert stats.binom.sf(failures - 1, runs, 0.05) > 1e-9
    if method == "gaussian":  # exact: neither more nor fewer
        assert stats.binom.cdf(failures, runs, 0.05) > 1e-9
        assert failures


def test_more_assumptions_find_more_and_canaries_find_most() -> None:
    random = np.random.default_rng(3)
    included = random.integers(0, 2, 2000)
    scores = included + random.normal(size=2000)
    truth = gaussian_epsilon(1.0, 1e-5)
    bounds = [audit(scores, included, delta=1e-5, method=method).epsilon_lower for method in METHODS]
    assert 1.5 < bounds[0] < bounds[1] < bounds[2] < truth
    assert bounds[2] > 0.8 * truth
    few = audit(scores[:100], included[:100], delta=1e-5, method="gaussian")
    assert few.epsilon_lower < bounds[2]


def test_scores_that_know_nothing_show_nothing() -> None:
    random = np.random.default_rng(4)
    for method in METHODS:
        assert audit(random.normal(size=500), random.integers(0, 2, 500), delta=1e-5, method=method).epsilon_lower < 0.2


def test_a_release_without_noise_is_refuted_at_any_epsilon() -> None:
    included = np.arange(40) % 2 == 0
    assert audit(included, included, delta=1e-5, method="gaussian").epsilon_lower == math.inf
    one_run = audit(included, included, delta=1e-5)
    assert one_run.correct == one_run.guesses == 40
    assert 1.5 < one_run.epsilon_lower < 3
    assert not one_run.consistent_with(1.0)


def test_a_choice_among_guess_numbers_costs_confidence() -> None:
    """The best of a grid is the bound of that number at a confidence of one minus its share of the error."""
    random = np.random.default_rng(5)
    included = random.integers(0, 2, 400)
    scores = 2 * included + random.normal(size=400)
    best = audit(scores, included, delta=1e-5, guesses=[400, 100, 50, 25, 30])
    alone = audit(scores, included, delta=1e-5, guesses=best.guesses, confidence=0.99)
    assert best.epsilon_lower == pytest.approx(alone.epsilon_lower, rel=1e-6)
    assert best.confidence == 0.95
    default = audit(scores, included, delta=1e-5)
    declared = audit(scores, included, delta=1e-5, guesses=[400, 200, 100, 50, 25])
    assert default == declared


def test_bound_grows_with_correct_guesses_and_falls_with_confidence() -> None:
    bounds = [_mu_from_guesses(100, 60, correct, 0.05) for correct in range(61)]
    assert bounds == sorted(bounds)
    assert bounds[30] == 0 < bounds[45] < bounds[60] < math.inf
    random = np.random.default_rng(6)
    included = random.integers(0, 2, 300)
    scores = 2 * included + random.normal(size=300)
    for method in METHODS:
        falling = [
            audit(scores, included, delta=1e-5, method=method, confidence=confidence).epsilon_lower
            for confidence in (0.5, 0.9, 0.99, 1 - 1e-6)
        ]
        assert falling == sorted(falling, reverse=True), method


@pytest.mark.parametrize(
    ("inside", "outside", "error"), [(1, 2, 0.05), (5, 9, 0.3), (300, 310, 1e-7), (2000, 2000, 0.05)]
)
def test_interval_for_mu_agrees_with_the_noncentral_t_law(inside: int, outside: int, error: float) -> None:
    random = np.random.default_rng(8)
    coins = np.repeat([True, False], [inside, outside])
    scores = 3.0 * coins + random.normal(size=inside + outside)
    mu = _mu_from_scores(scores, coins, error)
    assert mu > 0 or inside == 1
    statistic = stats.ttest_ind(scores[coins], scores[~coins]).statistic
    noncentrality = mu / math.sqrt(1 / inside + 1 / outside)
    if mu > 0:
        with np.errstate(divide="ignore"):  # SciPy before 1.14 divides by zero on the way
            above = stats.nct.sf(statistic, inside + outside - 2, noncentrality)
        assert above == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1])
@pytest.mark.parametrize("mu", [1e-3, 0.1, 1.0, 10.0, 1000.0])
def test_epsilon_of_a_gaussian_release_is_the_closed_form(mu: float, delta: float) -> None:
    epsilon = gaussian_epsilon(mu, delta)
    found = special.ndtr(mu / 2 - epsilon / mu) - np.exp(epsilon + special.log_ndtr(-mu / 2 - epsilon / mu))
    if epsilon > 0:
        assert found == pytest.approx(delta, rel=1e-4)
    else:
        assert found <= delta


def test_epsilon_of_a_gaussian_release_that_others_computed() -> None:
    """4.377 for noise equal to the sensitivity at delta 1e-5: Balle and Wang's analytic Gaussian mechanism."""
    assert gaussian_epsilon(1.0, 1e-5) == pytest.approx(4.3772, abs=1e-4)
    assert gaussian_epsilon(0.0, 1e-5) == 0
    assert gaussian_epsilon(math.inf, 1e-5) == math.inf


def test_lower_bound_of_mu_is_the_one_that_epsilon_follows_from() -> None:
    generator = np.random.default_rng(0)
    coins = generator.integers(0, 2, 200).astype(bool)
    scores = generator.normal(size=200) + 2.0 * coins
    found = audit(scores, coins, delta=1e-5, method="gaussian")
    assert found.mu_lower == _mu_from_scores(scores, coins, 1 - 0.95)
    assert found.epsilon_lower == gaussian_epsilon(found.mu_lower, 1e-5) > 0
    found = audit(scores, coins, delta=1e-5, method="f_dp", guesses=100)
    assert found.correct is not None
    assert found.mu_lower == _mu_from_guesses(200, 100, found.correct, 1 - 0.95)
    assert found.epsilon_lower == gaussian_epsilon(found.mu_lower, 1e-5) > 0


def test_result_says_what_it_is() -> None:
    found = audit([0.0, 1.0, 2.0, 3.0], [0, 0, 1, 1], delta=0.0, guesses=2)
    assert found == AuditResult(found.epsilon_lower, None, 0.0, 0.95, "one_run", 4, 2, 2)
    assert found.consistent_with(math.inf)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"delta": 0.0, "method": "f_dp"}, "delta 0.0 must be above 0"),
        ({"delta": 1.0}, "delta 1.0 must be"),
        ({"delta": math.nan}, "delta nan"),
        ({"delta": -1e-9}, "delta -1e-09"),
        ({"confidence": 1.0}, "confidence 1.0 must be at least 0.5"),
        ({"confidence": 0.4}, "confidence 0.4"),
        ({"confidence": math.nan}, "confidence nan"),
        ({"method": "magic"}, "method 'magic' must be one of one_run, f_dp, gaussian"),
        ({"guesses": 0}, "guesses 0 must be whole numbers from 1 to the 4"),
        ({"guesses": 5}, "guesses 5"),
        ({"guesses": []}, "guesses"),
        ({"guesses": [2, 2.5]}, "guesses"),
        ({"guesses": 2, "method": "gaussian"}, "takes no guesses"),
        ({"scores": [1.0, 2.0, 3.0]}, "needed two equal lists"),
        ({"scores": [], "included": []}, "needed two equal lists"),
        ({"scores": [1.0, 2.0, 3.0, math.nan]}, "finite"),
        ({"scores": [1.0, 2.0, 3.0, math.inf]}, "finite"),
        ({"included": [0, 1, 0.5, 1]}, "only True and False"),
        ({"included": [0, 1, -1, 1]}, "only True and False"),
        ({"included": [1, 1, 1, 1], "method": "gaussian"}, "4 canaries in and 0 out"),
        ({"scores": [0.0, 1.0], "included": [0, 1], "method": "gaussian"}, "3 in all"),
    ],
)
def test_bad_input_is_refused(changed: dict[str, Any], text: str) -> None:
    valid: dict[str, Any] = {"scores": [0.0, 1.0, 2.0, 3.0], "included": [False, True, False, True], "delta": 1e-5}
    arguments = valid | changed
    with pytest.raises(ConfigError, match=text):
        audit(arguments.pop("scores"), arguments.pop("included"), **arguments)
