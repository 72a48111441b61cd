"""Events whose privacy loss a theorem bounds, whatever is computed: they need no sum and no `clip_norm`.

The bound must hold for the accountant's adjacency; for `"remove"` and `"add"` it must hold under `"add_remove"`. The
library cannot check that.
"""

from dataclasses import dataclass

from secfed.dp.checks import check_between, check_count, keep
from secfed.errors import ConfigError

# Above this, the probability of the rarer answer in a randomized response is lost to rounding.
_MOST_EPSILON = 500.0
# Below this, differences are lost to rounding.
_LEAST_RANGE = 1e-9
# Outside this range moments overflow or are lost to rounding.
_RHO = (1e-20, 1e6)
# Whole numbers up to this are exact as floats.
_MOST_OUTCOMES = 2**53


@dataclass(frozen=True, slots=True)
class ApproximateDP:
    """A release with a proof of (epsilon, delta)-privacy under the accountant's adjacency.

    Args:
        epsilon: From 0 to 500, in nats.
        delta: From 0 to below 1: the probability with which everything about the client may be revealed.

    Raises:
        ConfigError: A parameter is out of range.

    Source:
        Kairouz, Oh, Viswanath: The Composition Theorem for Differential Privacy, ICML 2015, Theorem 3.1; Murtagh,
        Vadhan: The Complexity of Computing the Optimal Composition of Differential Privacy, TCC 2016.
    """

    epsilon: float
    delta: float = 0.0

    def __post_init__(self) -> None:
        keep(
            self,
            epsilon=check_between("epsilon", self.epsilon, 0.0, _MOST_EPSILON),
            delta=check_between("delta", self.delta, 0.0, 1.0),
        )
        if self.delta == 1:
            raise ConfigError("delta 1.0 must be below 1: for a release without a guarantee use dp.NonPrivate()")


@dataclass(frozen=True, slots=True)
class RandomizedResponse:
    """One client's answer to a question, randomized by the client itself: a local release.

    The client gives the true answer with probability e^epsilon / (e^epsilon + outcomes - 1), and otherwise one of the
    others at random. Under `"replace"` the guarantee holds even if an observer sees which client gave which answer.
    Under `"add_remove"` there is no guarantee, because an observer sees whether the client answered.

    Args:
        epsilon: From 0 to 500, in nats.
        outcomes: Number of possible answers; at least 2.

    Raises:
        ConfigError: A parameter is out of range.

    Source:
        Kairouz, Bonawitz, Ramage: Discrete Distribution Estimation under Local Privacy, ICML 2016, section 2.
    """

    epsilon: float
    outcomes: int = 2

    def __post_init__(self) -> None:
        keep(
            self,
            epsilon=check_between("epsilon", self.epsilon, 0.0, _MOST_EPSILON),
            outcomes=check_count("outcomes", self.outcomes),
        )
        if not 2 <= self.outcomes <= _MOST_OUTCOMES:
            raise ConfigError(f"outcomes {self.outcomes} must be from 2 to {_MOST_OUTCOMES}")


@dataclass(frozen=True, slots=True)
class ExponentialMechanism:
    """The choice of one candidate y with probability proportional to exp(epsilon u(x, y) / (2 sensitivity)).

    The sensitivity is the largest difference in the utility u of a candidate between two data sets x that are adjacent
    under the accountant's adjacency. If adding a client never lowers a utility, or never raises one,
    exp(epsilon u / sensitivity) has the same guarantee under `"add_remove"`. The accountant uses only that the
    losses lie in an interval of length epsilon, so later utilities may depend on earlier choices.

    Args:
        epsilon: From 1e-9 to 500, in nats.

    Raises:
        ConfigError: Epsilon is out of range.

    Source:
        McSherry, Talwar: Mechanism Design via Differential Privacy, FOCS 2007; Durfee, Rogers: Practical Differentially
        Private Top-k Selection with Pay-what-you-get Composition, NeurIPS 2019; Dong, Durfee, Rogers: Optimal
        Differential Privacy Composition for Exponential Mechanisms, ICML 2020.
    """

    epsilon: float

    def __post_init__(self) -> None:
        keep(self, epsilon=check_between("epsilon", self.epsilon, _LEAST_RANGE, _MOST_EPSILON))


@dataclass(frozen=True, slots=True)
class ZeroConcentrated:
    """A release with a proof of rho-zCDP under the accountant's adjacency.

    Its Renyi divergence of each order a above 1 is at most rho a. Nothing more is known, so a composition with such a
    release gets upper values from moments only.

    Args:
        rho: From 1e-20 to 1e6, in nats.

    Raises:
        ConfigError: Rho is out of range.

    Source:
        Bun, Steinke: Concentrated Differential Privacy: Simplifications, Extensions, and Lower Bounds, TCC 2016,
        Definition 1.1.
    """

    rho: float

    def __post_init__(self) -> None:
        keep(self, rho=check_between("rho", self.rho, *_RHO))


Proved = ApproximateDP | RandomizedResponse | ExponentialMechanism | ZeroConcentrated
