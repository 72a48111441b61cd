"""Lower bounds on epsilon from one run: guess who took part, and count right guesses.

A canary is a contribution that a fair coin includes or leaves out. If an attacker can guess the coins from the release
better than the claimed epsilon allows, the claim is wrong. Compare this lower bound with the accountant's upper bound.
It depends on how good the scores are, so a small lower bound proves nothing.

Source: Steinke, Nasr, Jagielski: Privacy Auditing with One (1) Training Run, NeurIPS 2023 (`"one_run"`);
Mahloujifar, Melis, Chaudhuri: Auditing f-Differential Privacy in One Run, ICML 2025 (`"f_dp"`; the proof used here is
at `_mu_from_guesses`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import special

from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]
Method = Literal["one_run", "f_dp", "gaussian"]
METHODS: tuple[Method, ...] = get_args(Method)

_FEWEST_GUESSES = 16


@dataclass(frozen=True, slots=True)
class AuditResult:
    """A lower bound on epsilon.

    Attributes:
        epsilon_lower: Any smaller claim at this delta is refuted, with this confidence; 0 if nothing was shown.
        mu_lower: The same bound for the mu of Gaussian differential privacy; None for `"one_run"`.
        delta: Delta of the guarantee.
        confidence: Least probability, over coins and noise, that a true claim is not refuted.
        method: How the bound was found.
        canaries: Number of canaries.
        guesses: Number of coins guessed; None for `"gaussian"`, which uses the scores themselves.
        correct: Number of right guesses; None for `"gaussian"`.
    """

    epsilon_lower: float
    mu_lower: float | None
    delta: float
    confidence: float
    method: Method
    canaries: int
    guesses: int | None
    correct: int | None

    def consistent_with(self, epsilon_upper: float) -> bool:
        """Return whether a claimed epsilon, at the same delta, survives this audit.

        Args:
            epsilon_upper: The claim: an upper bound on epsilon.
        """
        return self.epsilon_lower <= epsilon_upper


def audit(
    scores: npt.ArrayLike,
    included: npt.ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    method: Method = "one_run",
    guesses: int | Sequence[int] | None = None,
) -> AuditResult:
    """Bound epsilon from below, from one run with canaries.

    Each canary is the whole contribution of one client (the unit of privacy), included or left out by its own fair
    coin. Its score is any number computed from the release, larger if inclusion is likelier. Each method assumes more
    than the one before and finds more:

    * `"one_run"`: assumes nothing. The bound holds for every mechanism that is (epsilon, delta)-private.
    * `"f_dp"`: the mechanism is mu-GDP for some mu, like Gaussian noise. Scores may be anything.
    * `"gaussian"`: the scores are independent and normal with one variance, as projections of a sum with Gaussian noise
      on orthogonal canaries are. The interval for mu is exact (noncentral t) for any variance.

    Args:
        scores: Shape `(canaries,)`, finite.
        included: The coins: shape `(canaries,)`, boolean or 0 and 1.
        delta: Delta of the guarantee, above 0 and below 1; 0 is allowed for `"one_run"`.
        confidence: Least probability that a true claim is not refuted; at least 0.5.
        method: One of the above.
        guesses: Number of coins to guess: half of them "in" for the highest scores, half "out" for the lowest. It must
            not depend on the coins. With several numbers the best bound counts, and the confidence is corrected for the
            choice. By default all coins, a half, a quarter and so on, down to 16.

    Raises:
        ConfigError: Scores and coins do not match, or a parameter is out of range.

    Source:
        See the module.
    """
    values, coins = _checked(scores, included)
    if method not in METHODS:
        raise ConfigError(f"method {method!r} must be one of {', '.join(METHODS)}")
    if not (0 < delta < 1 or (delta == 0 and method == "one_run")):
        raise ConfigError(f"delta {delta} must be above 0 and below 1 (0 only for one_run)")
    if not 0.5 <= confidence < 1:
        raise ConfigError(f"confidence {confidence} must be at least 0.5 and below 1")
    count = len(values)
    if method == "gaussian":
        if guesses is not None:
            raise ConfigError("method gaussian uses the scores themselves: it takes no guesses")
        mu = _mu_from_scores(values, coins, 1 - confidence)
        return AuditResult(gaussian_epsilon(mu, delta), mu, delta, confidence, method, count, None, None)
    grid = _guess_grid(guesses, count)
    error = (1 - confidence) / len(grid)
    order = np.argsort(values, kind="stable")
    best: tuple[float, int, int] = (-1.0, 0, 0)
    for number in grid:
        outs, ins = order[: number // 2], order[count - (number - number // 2) :]
        correct = int(np.count_nonzero(coins[ins]) + np.count_nonzero(~coins[outs]))
        if method == "one_run":
            bound = _one_run_epsilon(count, number, correct, delta, error)
        else:
            bound = _mu_from_guesses(count, number, correct, error)
        best = max(best, (bound, number, correct))
    bound, number, correct = best
    if method == "one_run":
        return AuditResult(bound, None, delta, confidence, method, count, number, correct)
    return AuditResult(gaussian_epsilon(bound, delta), bound, delta, confidence, method, count, number, correct)


def one_run_tail(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Bound the probability that at least this many guesses are right, for any (epsilon, delta)-private mechanism.

    With W binomial of `guesses` trials of probability e^epsilon / (1 + e^epsilon) and v correct guesses, it is
    P[W >= v] + 2 * canaries * delta * max over i of P[v - i <= W < v] / i.

    Use it only if P[W >= v] is at most 1/2, as `audit` does. There its allowance for delta is at least twice what the
    argument at `_mu_from_guesses` proves. Elsewhere it may be too small. An example: randomized response of three bits
    that flips one bit when all three would be wrong.

    Source:
        Steinke, Nasr, Jagielski 2023, section 5 and appendix D.
    """
    chance = special.expit(epsilon)
    down = np.arange(correct, -1, -1)
    # P[W >= v] is the regularised incomplete beta function; from v down to 0, where it is 1.
    tails = np.where(down > 0, special.betainc(np.maximum(down, 1), guesses - down + 1, chance), 1.0)
    steps = (tails[1:] - tails[0]) / np.arange(1, correct + 1)
    return float(min(1.0, tails[0] + 2 * canaries * delta * float(steps.max(initial=0.0))))


def _one_run_epsilon(canaries: int, guesses: int, correct: int, delta: float, error: float) -> float:
    # A claim is refuted if any larger claim has a tail of at most `error`: the bound need not be monotone for this.
    return _largest(lambda epsilon: one_run_tail(canaries, guesses, correct, epsilon, delta) <= error)


def _mu_from_guesses(canaries: int, guesses: int, correct: int, error: float) -> float:
    """Return the largest mu for which this many correct guesses have a probability below `error` under mu-GDP.

    Let p_j be the probability of exactly j correct guesses of r, among m canaries, and F(x) = Phi(mu + Phi^-1(x)) the
    most that the probability x of an event can become under mu-GDP when one coin is flipped. Fix a coin and all others;
    the event "this guess is right, and i or more are" turns, with the coin, into "this guess is wrong, and i - 1 or
    more are right". Averaged over coins and canaries (F is concave), with Q_i = sum of p_j over j >= i:

        A_i / m <= F((r Q_{i-1} - A_{i-1}) / m),  A_i = sum of j p_j over j >= i = (i - 1) Q_i + sum of Q_j over j >= i.

    Solved for Q_{i-1}: (r - i + 1) Q_{i-1} >= sum of Q_j over j >= i, plus m F^-1(A_i / m); the right side grows with
    each Q_j. So Q_v >= error gives lower bounds on all Q below it. If the bound on Q_0 is above 1, there is no such
    distribution.
    """

    def refuted(mu: float) -> bool:
        tail = total = error
        for i in range(correct, 0, -1):
            share = min(1.0, ((i - 1) * tail + total) / canaries)
            turned = canaries * float(special.ndtr(special.ndtri(share) - mu))
            tail = max(tail, (total + turned) / (guesses - i + 1))
            if tail > 1:
                return True
            total += tail
        return False

    return _largest(refuted)


def _mu_from_scores(scores: Array, coins: npt.NDArray[np.bool_], error: float) -> float:
    """Return the lower confidence limit of (difference of the means) / (standard deviation) of two normal samples."""
    inside, outside = scores[coins], scores[~coins]
    freedom = len(scores) - 2
    if not len(inside) or not len(outside) or freedom < 1:
        raise ConfigError(
            f"{len(inside)} canaries in and {len(outside)} out, needed at least 1 of each and 3 in all for gaussian"
        )
    difference = float(inside.mean() - outside.mean())
    squares = float(np.square(inside - inside.mean()).sum() + np.square(outside - outside.mean()).sum())
    if difference <= 0:
        return 0.0
    if squares <= 0:
        return math.inf
    unit = math.sqrt(1 / len(inside) + 1 / len(outside))
    statistic = difference / (math.sqrt(squares / freedom) * unit)
    # P[T >= t] = E[Phi(noncentrality - t s)], s^2 = chi^2 / freedom: an integral over a normal variable.
    normal = np.linspace(-9, 9, 721)
    half = freedom / 2
    chi_squared = np.where(
        normal < 0,
        special.gammaincinv(half, special.ndtr(np.minimum(normal, 0))),
        special.gammainccinv(half, special.ndtr(-np.maximum(normal, 0))),
    )
    spread = statistic * np.sqrt(chi_squared / half)
    density = np.exp(-(normal**2) / 2)
    density /= density.sum()
    return _largest(lambda noncentrality: float(density @ special.ndtr(noncentrality - spread)) <= error) * unit


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the epsilon of mu-GDP at a delta, rounded down."""
    if not 0 < mu < math.inf:
        return mu

    def more_than_delta(epsilon: float) -> bool:
        second = math.exp(min(0.0, epsilon + float(special.log_ndtr(-mu / 2 - epsilon / mu))))
        return float(special.ndtr(mu / 2 - epsilon / mu)) - second >= delta

    return _largest(more_than_delta)


def _largest(holds: Callable[[float], bool]) -> float:
    """Return, by bisection, about the largest number for which a condition holds; 0 if it fails at 0."""
    if not holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while holds(high):
        low, high = high, 2 * high
        if high == math.inf:
            return math.inf
    while (middle := (low + high) / 2) not in (low, high) and high - low > 1e-9 * high:
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _checked(scores: npt.ArrayLike, included: npt.ArrayLike) -> tuple[Array, npt.NDArray[np.bool_]]:
    values, coins = np.asarray(scores, np.float64), np.asarray(included)
    if values.ndim != 1 or values.shape != coins.shape or not len(values):
        raise ConfigError(f"scores and included have shapes {values.shape} and {coins.shape}, needed two equal lists")
    if not np.isfinite(values).all():
        raise ConfigError("scores must be finite numbers")
    if coins.dtype != np.bool_ and not np.isin(coins, (0, 1)).all():
        raise ConfigError("included must hold only True and False, or 1 and 0")
    return values, coins.astype(np.bool_)


def _guess_grid(guesses: int | Sequence[int] | None, canaries: int) -> list[int]:
    if guesses is None:
        halves = [-(-canaries >> power) for power in range(canaries.bit_length())]
        return [number for number in halves if number >= _FEWEST_GUESSES] or [canaries]
    grid = [guesses] if isinstance(guesses, int | np.integer) else list(guesses)
    if not grid or not all(isinstance(number, int | np.integer) and 1 <= number <= canaries for number in grid):
        raise ConfigError(f"guesses {guesses} must be whole numbers from 1 to the {canaries} canaries")
    return [int(number) for number in grid]
