"""The accountant: events in, a certified guarantee out."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from secfed.dp import renyi, trade_off
from secfed.dp.assumptions import assumptions
from secfed.dp.checks import check_between, check_budget, check_count, check_delta, check_number
from secfed.dp.composition import Composition
from secfed.dp.contour.integral import WarmStart
from secfed.dp.contour.privacy_loss import Reals
from secfed.dp.events import (
    Adjacency,
    Event,
    PoissonSampled,
    check_adjacency,
    check_both_directions,
    check_event,
    from_json,
    to_json,
)
from secfed.dp.remaining import most_rounds
from secfed.errors import ConfigError, UnsupportedEventError

# Default of `least_delta` in `Accountant.mu`.
LEAST_DELTA = 1e-10


class Bounds(NamedTuple):
    """A number between two certified values.

    Attributes:
        lower: The number is at least this.
        upper: The number is at most this.
    """

    lower: float
    upper: float


class Accountant:
    """Records what was released and computes what it has spent.

    The guarantee is for one client: someone who sees all releases learns little about whether the client took part
    (`"add_remove"`), or about its data (`"replace"`). Fix the events before the first release, or choose them without
    looking at earlier releases. Choosing events by earlier releases needs a privacy filter, and this is not one.

    Args:
        adjacency: `"add_remove"` or `"replace"`; or one direction only, `"remove"` or `"add"`. See `events`.

    Raises:
        ConfigError: The adjacency is unknown.

    >>> from secfed import dp
    >>> release = dp.PoissonSampled(0.01, dp.Gaussian(noise_multiplier=1.1))
    >>> round(dp.Accountant().compose(release, count=1000).epsilon(delta=1e-5), 6)
    1.515362

    Source:
        `docs/accountant.md`.
    """

    def __init__(self, adjacency: Adjacency = "add_remove") -> None:
        check_adjacency(adjacency, one_sided=True)
        self._adjacency: Adjacency = adjacency
        self._events: dict[Event, int] = {}
        self._composition: Composition | None = None

    def __repr__(self) -> str:
        releases = sum(self._events.values())
        return f"Accountant(adjacency={self._adjacency!r}, releases={releases})"

    @property
    def adjacency(self) -> Adjacency:
        """Which data sets are adjacent."""
        return self._adjacency

    @property
    def events(self) -> tuple[tuple[Event, int], ...]:
        """What was composed: each event and how often."""
        return tuple(self._events.items())

    def compose(self, event: Event, count: int = 1) -> "Accountant":
        """Add a release.

        Args:
            event: What is released.
            count: How often.

        Returns:
            This accountant.

        Raises:
            ConfigError: `event` is not an event, or the count is below 1.
        """
        check_event(event)
        self._events[event] = self._events.get(event, 0) + check_count("count", count)
        self._composition = None
        return self

    def copy(self) -> "Accountant":
        """Return an independent accountant with the same events."""
        other = Accountant(self._adjacency)
        other._events = dict(self._events)
        other._composition = self._composition
        return other

    @overload
    def epsilon(self, delta: float, *, bounds: Literal[False] = ...) -> float: ...
    @overload
    def epsilon(self, delta: float, *, bounds: Literal[True]) -> Bounds: ...
    def epsilon(self, delta: float, *, bounds: bool = False) -> float | Bounds:
        """Return the least epsilon for which the releases are (epsilon, delta)-private.

        Args:
            delta: Above 0 and below 1.
            bounds: Return a lower value as well.

        Returns:
            The certified upper value, infinite if there is none; with `bounds` both. The lower value leaves out
            exponential mechanisms and Skellam noise, of which only upper bounds are known.

        Raises:
            ConfigError: The delta is out of range.
            UnsupportedEventError: An event has no proved bound under this adjacency.
        """
        delta = check_delta(delta)
        left = self._left(delta)
        found = Bounds(*self._composed().epsilon(left, below=bounds)) if left > 0 else Bounds(0.0, math.inf)
        if left < delta:
            found = Bounds(0.0, found.upper)
        return found if bounds else found.upper

    @overload
    def delta(self, epsilon: float, *, bounds: Literal[False] = ...) -> float: ...
    @overload
    def delta(self, epsilon: float, *, bounds: Literal[True]) -> Bounds: ...
    def delta(self, epsilon: float, *, bounds: bool = False) -> float | Bounds:
        """Return the least delta for which the releases are (epsilon, delta)-private.

        Args:
            epsilon: At least 0.
            bounds: Return a lower value as well.

        Returns:
            The certified upper value; with `bounds` both.

        Raises:
            ConfigError: The epsilon is negative or not a number.
            UnsupportedEventError: An event has no proved bound under this adjacency.
        """
        epsilon = check_number("epsilon", epsilon)
        if not epsilon >= 0:
            raise ConfigError(f"epsilon {epsilon} must be at least 0")
        found = self._delta_bounds(epsilon, below=bounds)
        return found if bounds else found.upper

    def curve(self, delta: float) -> Reals:
        """Return an upper value of epsilon after each release, in the order of composition, shape `(releases,)`.

        Args:
            delta: Delta at which epsilon is computed.

        Raises:
            ConfigError: The delta is out of range.
            UnsupportedEventError: An event has no proved bound under this adjacency.
        """
        # The part of delta that remains after all releases also suffices for the earlier ones.
        delta = self._left(check_delta(delta))
        if not delta > 0:
            return np.full(sum(self._events.values()), math.inf)
        pieces, before = [], Composition.of((), self._adjacency)
        for event, count in self._events.items():
            pieces.append(before.curve(event, count, delta))
            before = before.with_event(event, count)
        return np.concatenate(pieces) if pieces else np.zeros(0)

    def would_exceed(self, event: Event, *, epsilon: float, delta: float, count: int = 1) -> bool:
        """Return whether one more event would exceed the budget (epsilon, delta); nothing is recorded.

        Args:
            event: What would be released.
            epsilon: Budget.
            delta: Budget.
            count: How often.

        Raises:
            ConfigError: The budget, the event or the count is out of range.
            UnsupportedEventError: An event has no proved bound under this adjacency.
        """
        epsilon, delta = check_budget(epsilon, delta)
        return not self.copy().compose(event, count).epsilon(delta) <= epsilon

    def remaining_rounds(self, event: Event, *, epsilon: float, delta: float) -> int:
        """Return how many more times an event fits into the budget (epsilon, delta), at most 10^9.

        Args:
            event: What would be released each time.
            epsilon: Budget.
            delta: Budget.

        Raises:
            ConfigError: The budget or the event is out of range.
            UnsupportedEventError: An event has no proved bound under this adjacency.
        """
        epsilon, delta = check_budget(epsilon, delta)
        check_event(event)

        return most_rounds(self._composed(), event, epsilon, delta)

    @overload
    def mu(self, *, least_delta: float = ..., bounds: Literal[False] = ...) -> float: ...
    @overload
    def mu(self, *, least_delta: float = ..., bounds: Literal[True]) -> Bounds: ...
    def mu(self, *, least_delta: float = LEAST_DELTA, bounds: bool = False) -> float | Bounds:
        """Return the least mu such that the releases are mu-Gaussian private for every delta of at least `least_delta`.

        That is: for each such delta, their epsilon is at most that of one Gaussian release with noise 1 / mu. Nothing
        is claimed for smaller deltas. `least_delta` must be above 0 because a sampled Gaussian release has the far tail
        of the unsampled one: a mu for all deltas would gain nothing from sampling. Unsampled Gaussian releases have the
        same mu for every `least_delta`.

        Args:
            least_delta: Above 0 and below 1.
            bounds: Return a lower value as well.

        Returns:
            The certified upper value, infinite if there is none; with `bounds` both. Their relative gap is at most 1e-3
            if the bounds of `delta` are close. For unsampled Gaussian releases both are the exact value, rounded.

        Raises:
            ConfigError: The least delta is out of range.
            UnsupportedEventError: An event has no proved bound under this adjacency.

        Source:
            `trade_off.least_mu`.
        """
        least_delta = check_delta(least_delta)
        exact = self._exact_mu()
        if exact is not None:
            found = Bounds(exact, exact)
        elif not self._composed().private:
            found = Bounds(math.inf, math.inf)
        else:
            found = Bounds(*trade_off.least_mu(self._profile(), self._epsilon_bounds, least_delta))
        return found if bounds else found.upper

    @overload
    def trade_off(self, false_positive_rate: float, *, bounds: Literal[False] = ...) -> float: ...
    @overload
    def trade_off(self, false_positive_rate: float, *, bounds: Literal[True]) -> Bounds: ...
    def trade_off(self, false_positive_rate: float, *, bounds: bool = False) -> float | Bounds:
        """Return the least false negative rate of any test that tells two adjacent data sets apart, in either order.

        Args:
            false_positive_rate: From 0 to 1.
            bounds: Return an upper value as well.

        Returns:
            The certified lower value: no test is better. With `bounds` both; the upper one follows from the lower value
            of `delta`. For unsampled Gaussian releases there is a closed form.

        Raises:
            ConfigError: The rate is out of range.
            UnsupportedEventError: An event has no proved bound under this adjacency.

        Source:
            `trade_off.TradeOff`.
        """
        found = Bounds(*self._tests(false_positive_rate)[0])
        return found if bounds else found.lower

    @overload
    def true_positive_rate(self, false_positive_rate: float, *, bounds: Literal[False] = ...) -> float: ...
    @overload
    def true_positive_rate(self, false_positive_rate: float, *, bounds: Literal[True]) -> Bounds: ...
    def true_positive_rate(self, false_positive_rate: float, *, bounds: bool = False) -> float | Bounds:
        """Return the largest true positive rate of any membership test: 1 minus `trade_off`, to full precision.

        Args:
            false_positive_rate: From 0 to 1.
            bounds: Return a lower value as well.

        Returns:
            The certified upper value: no test is better. With `bounds` both.

        Raises:
            ConfigError: The rate is out of range.
            UnsupportedEventError: An event has no proved bound under this adjacency.
        """
        found = Bounds(*self._tests(false_positive_rate)[1])
        return found if bounds else found.upper

    def roc(self, false_positive_rates: npt.ArrayLike) -> Reals:
        """Return upper values of the largest true positive rates for a plot; faster than one by one, but looser.

        Args:
            false_positive_rates: Above 0 and at most 1, `(count,)`, at least one.

        Returns:
            Shape `(count,)`.

        Raises:
            ConfigError: A rate is out of range.
            UnsupportedEventError: An event has no proved bound under this adjacency.
        """
        try:
            rates = np.asarray(false_positive_rates, np.float64)
        except (TypeError, ValueError):
            rates = np.zeros(0)  # no numbers: refused below
        if rates.ndim != 1 or not len(rates) or not np.all((rates > 0) & (rates <= 1)):
            needed = "must be numbers above 0 and at most 1, in one dimension"
            raise ConfigError(f"false_positive_rates {false_positive_rates!r:.100} {needed}")
        exact = self._exact_mu()
        if exact is not None:
            return np.array([trade_off.gaussian(exact, float(rate))[1][1] for rate in rates])
        return trade_off.TradeOff(self._profile(), self._epsilon_bounds).curve(rates)

    def renyi(self, order: float) -> float:
        """Return an upper value of the Renyi divergence, in the direction in which it is larger.

        Args:
            order: Above 1 and finite.

        Returns:
            The value in nats. It is infinite if there is no guarantee, or if one client may decide whether there is a
            release: then a probability is bounded, but no moment.

        Raises:
            ConfigError: The order is out of range.
            UnsupportedEventError: An event has no proved moment bound under this adjacency.

        Source:
            Mironov: Renyi Differential Privacy, CSF 2017, Proposition 1; for each event see `renyi`.
        """
        order = check_number("order", order)
        if not 1 < order < math.inf:
            raise ConfigError(f"order {order} must be above 1 and finite")
        # The factor exceeds the rounding errors of the products and the sum.
        terms = [
            count * float(renyi.moments(event, self._adjacency, [order])[0]) for event, count in self._events.items()
        ]
        return math.inf if self._decisive else math.fsum(terms) * (1 + 2.0**-45)

    def rdp_epsilon(self, delta: float) -> float:
        """Return epsilon from Renyi moments, a second engine; never below the lower value of `epsilon`.

        Args:
            delta: Delta at which epsilon is computed.

        Raises:
            ConfigError: The delta is out of range.
            UnsupportedEventError: An event has no proved moment bound under this adjacency.
        """
        left = self._left(check_delta(delta))
        return renyi.epsilon(self.events, self._adjacency, left) if left > 0 else math.inf

    def assumptions(self, delta: float | None = None) -> str:
        """Return the assumptions behind the numbers, in words.

        Args:
            delta: Delta at which epsilon is computed.
        """
        return assumptions(self.events, self._adjacency, delta)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        listed = [{"event": to_json(event), "count": count} for event, count in self._events.items()]
        return {"adjacency": self._adjacency, "events": listed}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Accountant":
        """Return the accountant that `to_json` described.

        Args:
            saved: What `to_json` returned.

        Raises:
            ConfigError: `saved` does not describe an accountant.
        """
        try:
            accountant = cls(saved["adjacency"])
            for entry in saved["events"]:
                accountant.compose(from_json(entry["event"]), entry["count"])
        except (KeyError, TypeError) as error:
            raise ConfigError(f"this describes no accountant: {error!r}") from None
        return accountant

    def _exact_mu(self) -> float | None:
        """Return mu if the releases are exactly mu-Gaussian private: unsampled Gaussian releases only."""
        composed = self._composed()
        try:
            return None if self._decisive else composed.mu()
        except UnsupportedEventError:
            return None

    def _tests(self, false_positive_rate: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return bounds on the least false negative rate and on the largest true positive rate."""
        rate = check_between("false_positive_rate", false_positive_rate, 0.0, 1.0)
        exact = self._exact_mu()
        if exact is not None:
            return trade_off.gaussian(exact, rate)
        if not self._composed().private:
            return (0.0, 0.0), (1.0, 1.0)
        return trade_off.TradeOff(self._profile(), self._epsilon_bounds).bounds(rate)

    def _delta_bounds(self, epsilon: float, starts: Sequence[WarmStart] = (), below: bool = False) -> Bounds:
        found = Bounds(*self._composed().delta(epsilon, starts, below=below))
        if decisive := self._decisive:
            found = Bounds(0.0, min(1.0, found.upper + decisive))
        return found

    def _profile(self) -> Callable[[float], tuple[float, float]]:
        """Return delta as a function of epsilon, for a search: each call starts from the contour of the last one.

        Raises:
            UnsupportedEventError: The adjacency is one direction only.
        """
        check_both_directions(self._adjacency)
        return partial(self._delta_bounds, starts=(WarmStart(), WarmStart()))

    def _epsilon_bounds(self, delta: float) -> tuple[float, float]:
        return self.epsilon(delta, bounds=True)

    def _composed(self) -> Composition:
        if self._composition is None:
            self._composition = Composition.of(self.events, self._adjacency)
        return self._composition

    @property
    def _decisive(self) -> float:
        """Return a bound on the probability that one client ever decides whether there is a release."""
        return math.fsum(
            count * event.decisive_probability
            for event, count in self._composed().events.items()
            if isinstance(event, PoissonSampled)
        )

    def _left(self, delta: float) -> float:
        """Return the part of delta left for the releases themselves: see `docs/accountant.md`, section 2.1."""
        return delta - self._decisive
