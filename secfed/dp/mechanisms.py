"""Events of which a theorem says how much they give away, whatever was computed: no sum and no `clip_norm` are needed.

What is promised of such an event must hold for the adjacency that the accountant is asked for; for `"remove"` and
`"add"` it must hold under `"add_remove"`. The library cannot check that.
"""

from dataclasses import dataclass

from secfed.dp.checks import check_between, check_count, keep
from secfed.errors import ConfigError

# Beyond it the rarer answer of a randomized response is lost to rounding.
_MOST_EPSILON = 500.0
# Below it differences are lost to rounding.
_LEAST_RANGE = 1e-9
# Beyond these ranges moments overflow, or are lost to rounding.
_RHO = (1e-20, 1e6)
# Whole numbers up to here are exact as floats.
_MOST_OUTCOMES = 2**53


@dataclass(frozen=True, slots=True)
class ApproximateDP:
    """A release that someone proved (epsilon, delta)-private for the adjacency that the accountant is asked for.

    Args:
        epsilon: From 0 to 500, in nats.
        delta: From 0 to below 1. With this probability everything about the client may be given away.

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
            raise ConfigError("delta 1.0 must be below 1: a release that promises nothing is dp.NonPrivate()")


@dataclass(frozen=True, slots=True)
class RandomizedResponse:
    """The answer of one client to a question, randomized by the client itself: a local release.

    The client tells the truth with probability e^epsilon / (e^epsilon + outcomes - 1), else one of the other answers,
    each with the same probability. Under `"replace"` the guarantee holds against anyone who sees which client answered
    what. Under `"add_remove"` there is no guarantee: an observer sees whether the client answered.

    Args:
        epsilon: From 0 to 500, in nats.
        outcomes: How many answers there are to choose from; at least 2.

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
    """The choice of one candidate, y, with probability proportional to exp(epsilon u(x, y) / (2 sensitivity)).

    The sensitivity is how much the utility u of any one candidate differs, at most, between two data sets x that are
    adjacent under the adjacency that the accountant is asked for. Where adding a client never lowers a utility, or
    never raises one, exp(epsilon u / sensitivity) has the same guarantee under `"add_remove"`. All that is used is that
    the losses lie in an interval of length epsilon; later utilities may depend on earlier choices.

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
    """A release that someone proved rho-zCDP for the adjacency that the accountant is asked for.

    Its Renyi divergence of each order a above 1 is at most rho a. No more is known of it, so a composition with one
    such release has upper values from moments only.

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
