"""The accountant: events in, a certified guarantee out."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from scipy.special import ndtr, ndtri

from secfed.dp import rdp
from secfed.dp.composition import Composition
from secfed.dp.events import (
    Adjacency,
    Event,
    PoissonSampled,
    check_adjacency,
    check_between,
    check_count,
    check_event,
    check_number,
    from_json,
    to_json,
)
from secfed.dp.laws import Reals
from secfed.dp.words import assumptions
from secfed.errors import ConfigError, UnsupportedEventError


class Bounds(NamedTuple):
    """A number between two certified values.

    Attributes:
        lower: The number is not below this.
        upper: The number is not above this.
    """

    lower: float
    upper: float


class Accountant:
    """What has been released, and what it has spent.

    The guarantee is for one client: whoever sees all releases learns little about whether the client took part
    (`"add_remove"`), or about what its data were (`"replace"`). Events must be fixed before the first release, or
    chosen without looking at earlier releases: a budget that adapts to them needs a privacy filter, which this is not.

    Args:
        adjacency: `"add_remove"` or `"replace"`; see `events`.

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
        check_adjacency(adjacency)
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
            ConfigError: Something is no event, or the count is below 1.
        """
        check_event(event)
        self._events[event] = self._events.get(event, 0) + check_count("count", count)
        self._composition = None
        return self

    def copy(self) -> "Accountant":
        """Return an accountant with the same events that changes apart from this one."""
        other = Accountant(self._adjacency)
        other._events = dict(self._events)
        other._composition = self._composition
        return other

    @overload
    def epsilon(self, delta: float) -> float: ...
    @overload
    def epsilon(self, delta: float, *, bounds: Literal[False]) -> float: ...
    @overload
    def epsilon(self, delta: float, *, bounds: Literal[True]) -> Bounds: ...
    def epsilon(self, delta: float, *, bounds: bool = False) -> float | Bounds:
        """Return the least epsilon for which the releases are (epsilon, delta)-private.

        Args:
            delta: Above 0 and below 1.
            bounds: Return a lower value as well.

        Returns:
            The certified upper value, infinite if there is none; with `bounds` both. For discrete noise, whose law is
            not that of the pair that bounds it, and where only moments are known (Skellam), the lower value is 0.

        Raises:
            ConfigError: The delta is out of range.
            UnsupportedEventError: An event has no proved bound under this adjacency.
        """
        delta = check_delta(delta)
        left = self._left(delta)
        found = Bounds(*self._composed().epsilon(left)) if left > 0 else Bounds(0.0, math.inf)
        if left < delta:
            found = Bounds(0.0, found.upper)
        return found if bounds else found.upper

    @overload
    def delta(self, epsilon: float) -> float: ...
    @overload
    def delta(self, epsilon: float, *, bounds: Literal[False]) -> float: ...
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
            ConfigError: The epsilon is negative or no number.
            UnsupportedEventError: An event has no proved bound under this adjacency.
        """
        epsilon = check_number("epsilon", epsilon)
        if not epsilon >= 0:
            raise ConfigError(f"epsilon {epsilon} must be at least 0")
        found = Bounds(*self._composed().delta(epsilon))
        if decisive := self._decisive:
            found = Bounds(0.0, min(1.0, found.upper + decisive))
        return found if bounds else found.upper

    def curve(self, delta: float) -> Reals:
        """Return epsilon after each release, in the order of composition: `(releases,)`, upper values.

        Raises:
            ConfigError: The delta is out of range.
            UnsupportedEventError: An event has no proved bound under this adjacency.
        """
        # What all releases together leave of delta is enough for the first ones.
        delta = self._left(check_delta(delta))
        if not delta > 0:
            return np.full(sum(self._events.values()), math.inf)
        pieces, before = [], Composition.of((), self._adjacency)
        for event, count in self._events.items():
            pieces.append(before.curve(event, count, delta))
            before = before.with_event(event, count)
        return np.concatenate(pieces) if pieces else np.zeros(0)

    def would_exceed(self, event: Event, *, epsilon: float, delta: float, count: int = 1) -> bool:
        """Return whether the budget (epsilon, delta) would be overspent by one more event; nothing is recorded.

        Raises:
            ConfigError: The budget, the event or the count is out of range.
            UnsupportedEventError: An event has no proved bound under this adjacency.
        """
        epsilon, delta = check_budget(epsilon, delta)
        return not self.copy().compose(event, count).epsilon(delta) <= epsilon

    def remaining_rounds(self, event: Event, *, epsilon: float, delta: float) -> int:
        """Return how often one more event fits into the budget (epsilon, delta), at most 10^9 times.

        Raises:
            ConfigError: The budget or the event is out of range.
            UnsupportedEventError: An event has no proved bound under this adjacency.
        """
        epsilon, delta = check_budget(epsilon, delta)
        check_event(event)

        return most_rounds(self._composed(), event, epsilon, delta)

    def mu(self) -> float:
        """Return mu if the releases are exactly mu-Gaussian private: unsampled Gaussian releases only.

        Raises:
            UnsupportedEventError: Another event is among them.
        """
        if self._decisive:
            raise UnsupportedEventError("releases that may be skipped are not exactly mu-Gaussian private")
        return self._composed().mu()

    def trade_off(self, false_positive_rate: float) -> float:
        """Return the least false negative rate of any test between two adjacent data sets, where that is exact.

        Args:
            false_positive_rate: From 0 to 1.

        Raises:
            ConfigError: The rate is out of range.
            UnsupportedEventError: There is more than unsampled Gaussian releases.

        Source:
            Dong, Roth, Su: Gaussian Differential Privacy, 2022, equation 6.
        """
        false_positive_rate = check_between("false_positive_rate", false_positive_rate, 0.0, 1.0)
        return float(ndtr(ndtri(1 - false_positive_rate) - self.mu()))

    def rdp_epsilon(self, delta: float) -> float:
        """Return epsilon by Renyi moments: a second engine, never below the first one's lower value.

        Raises:
            ConfigError: The delta is out of range.
            UnsupportedEventError: An event has no proved moment bound under this adjacency.
        """
        left = self._left(check_delta(delta))
        return rdp.epsilon(self.events, self._adjacency, left) if left > 0 else math.inf

    def assumptions(self, delta: float | None = None) -> str:
        """Say in words what the numbers rest on."""
        return assumptions(self.events, self._adjacency, delta)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        listed = [{"event": to_json(event), "count": count} for event, count in self._events.items()]
        return {"adjacency": self._adjacency, "events": listed}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Accountant":
        """Return the accountant that `to_json` described.

        Raises:
            ConfigError: This is no such description.
        """
        try:
            accountant = cls(saved["adjacency"])
            for entry in saved["events"]:
                accountant.compose(from_json(entry["event"]), entry["count"])
        except (KeyError, TypeError) as error:
            raise ConfigError(f"this describes no accountant: {error!r}") from None
        return accountant

    def _composed(self) -> Composition:
        if self._composition is None:
            self._composition = Composition.of(self.events, self._adjacency)
        return self._composition

    @property
    def _decisive(self) -> float:
        """Bound of the probability that one client ever decides whether there is a release."""
        return math.fsum(
            count * event.decisive_probability
            for event, count in self._composed().events.items()
            if isinstance(event, PoissonSampled)
        )

    def _left(self, delta: float) -> float:
        """Return what of delta is left for the releases themselves: see `docs/accountant.md`, section 2.1."""
        return delta - self._decisive


def most_rounds(before: Composition, event: Event, epsilon: float, delta: float, most: int = 10**9) -> int:
    """Return how often one more event fits into a budget, at most `most` times."""

    def after(count: int) -> Composition:
        return before.with_event(event, count) if count else before

    # Cheap bounds first: they say where to start.
    low, refused = 0, most.bit_length()
    while refused > low.bit_length():
        power = (low.bit_length() + refused) // 2
        low, refused = (1 << power, refused) if after(1 << power).ceiling(delta, epsilon) <= epsilon else (low, power)
    value = after(low).epsilon(delta)[1]
    if value > epsilon:
        return 0
    high, above, width, factor = most + 1, math.inf, 0.0, 2
    for tries in range(200):
        # Where the engines differ by more than what is left, nothing is gained by going on.
        if high - low <= 1 or math.log(high / max(low, 1)) <= 0.1 * width:
            break
        if above == math.inf:
            at, factor = max(low, 1) * factor, min(factor**2, 64)
        elif tries % 3 == 2 or not value > 0:
            at = round(math.sqrt(max(low, 1) * high))
        else:
            # The logarithm of epsilon is nearly linear in that of the count.
            share = math.log(epsilon / value) / math.log(above / value)
            at = round(math.exp(math.log(max(low, 1)) * (1 - share) + math.log(high) * share))
        at = min(max(at, low + 1), high - 1)
        lower, found = after(at).epsilon(delta)
        width = math.log(found / lower) if lower > 0 and found < math.inf else 0.0
        low, value, high, above = (at, found, high, above) if found <= epsilon else (low, value, at, found)
    return low


def check_delta(delta: Any) -> float:
    """Return a delta as a float; refuse one that is no probability, or that promises nothing.

    Raises:
        ConfigError: It is out of range.
    """
    value = check_number("delta", delta)
    if not 0 < value < 1:
        raise ConfigError(f"delta {value} must be above 0 and below 1")
    return value


def check_budget(epsilon: Any, delta: Any) -> tuple[float, float]:
    """Return a budget as floats; refuse one that nothing can keep.

    Raises:
        ConfigError: Epsilon or delta is out of range.
    """
    value = check_number("epsilon", epsilon)
    if not 0 < value < math.inf:
        raise ConfigError(f"epsilon {value} must be positive and finite")
    return value, check_delta(delta)
