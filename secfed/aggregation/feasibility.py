"""Whether a plan of aggregations can work: every reason why it cannot, not only the first."""

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from secfed.aggregation.aggregators import Aggregator, SecAgg
from secfed.aggregation.dropout_risk import Needed, any_of, poisson_failure
from secfed.aggregation.plan import Plan
from secfed.aggregation.prepared import Prepared
from secfed.aggregation.privacy import Privacy
from secfed.encoding.flatten import structure
from secfed.errors import ConfigError, EncodingError
from secfed.secagg.config import MAXIMUM_CLIENTS, MAXIMUM_LENGTH, Config

Made = TypeVar("Made")
# Options that an aggregator may refuse by themselves.
_REFUSABLE = ("threshold", "clip", "max_weight", "session_colluders", "minimum_cohort")


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a plan cannot work.

    Attributes:
        check: What was checked: `"option"` (out of range, missing, or without effect), `"config"` (what the aggregation
            itself would refuse), `"dropouts"`, `"corruption"` or `"budget"`.
        text: What was found and what was needed.
    """

    check: str
    text: str


@dataclass(frozen=True)
class Found:
    """What the checks of a plan found.

    Attributes:
        problems: Every reason against it.
        prepared: The aggregation of the expected cohort; None if there is none.
        round_failure: Probability, at most, that a round has too few survivors; None if that is not known.
        failure: The same for any of the rounds.
        needed: Who must survive a round.
        noise_multiplier: That of the plan, or the one that its budget allows; None without privacy.
        epsilon: What all rounds together spend at most; None without privacy, infinite if no epsilon holds.
    """

    problems: tuple[Problem, ...]
    prepared: Prepared | None = field(default=None, repr=False)
    round_failure: float | None = None
    failure: float | None = None
    needed: Needed | None = None
    noise_multiplier: float | None = None
    epsilon: float | None = None


class Problems:
    """Collects problems, each once."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def add(self, check: str, text: str) -> None:
        """Note a problem, unless its text is there already."""
        self._texts.setdefault(text, check)

    def attempt(self, make: Callable[[], Made]) -> Made | None:
        """Return what a function makes; note its refusal as a problem and return None."""
        try:
            return make()
        except (ConfigError, EncodingError) as error:
            self.add("config", str(error.args[0]))
            return None

    def all(self) -> tuple[Problem, ...]:
        """Return the problems in the order in which they were found."""
        return tuple(Problem(check, text) for text, check in self._texts.items())


def check(plan: Plan) -> Found:
    """Check a plan; nothing is sent, drawn or written."""
    problems = Problems()
    for name, choice in plan.idle_options():
        problems.add("option", f"{name} {getattr(plan, name)!r} has no effect with {choice}: leave it out")
    wrong = list(_out_of_range(plan))
    for text in wrong:
        problems.add("option", text)
    aggregator, as_planned = _aggregator(plan, problems)
    if wrong or aggregator is None:
        return Found(problems.all())
    prepared = _prepared(plan, aggregator, None, problems)
    if prepared is None or not as_planned:
        return Found(problems.all())
    needed = _needed(prepared)
    failure = _failure(plan, aggregator, prepared, needed)
    whole = any_of(plan.rounds, failure)
    for text in _too_few(plan, needed, failure, whole):
        problems.add("dropouts", text)
    return Found(problems.all(), prepared, failure, whole, needed)


def _out_of_range(plan: Plan) -> Iterator[str]:
    """Yield what is wrong with the numbers that only a plan has, and what it lacks."""
    if plan.aggregator not in ("secagg", "paillier", "plain"):
        yield f"aggregator {plan.aggregator!r}: needed secagg, paillier or plain"
    if plan.privacy not in ("none", "central", "distributed"):
        yield f"privacy {plan.privacy!r}: needed none, central or distributed"
    counts = {"clients": MAXIMUM_CLIENTS, "population": 10**12, "rounds": 10**12}
    sound = True
    for name, most in counts.items():
        value = getattr(plan, name)
        if value is not None and not (_whole(value) and 1 <= value <= most):
            yield f"{name} {value!r}: needed a whole number from 1 to {most}"
            sound = False
    fractions = (("dropout_fraction", plan.dropout_fraction), ("corrupt_fraction", plan.corrupt_fraction))
    for name, fraction in fractions:
        if fraction is not None and not 0 <= fraction < 1:
            yield f"{name} {fraction}: needed from 0 up to, but not including, 1"
    if not 0 < plan.most_failures < 1:
        yield f"most_failures {plan.most_failures}: needed a probability above 0 and below 1"
    if plan.sampling_rate is not None and not 0 < plan.sampling_rate <= 1:
        yield f"sampling_rate {plan.sampling_rate}: needed a probability above 0 and up to 1"
        sound = False
    if sound:
        yield from _cohort_faults(plan)
    if _whole(plan.update):
        if not 1 <= plan.update < MAXIMUM_LENGTH:
            yield f"an update of {plan.update} values: needed 1 to {MAXIMUM_LENGTH - 1}"
    else:
        try:
            structure(plan.update)
        except EncodingError as error:
            yield f"the example of an update does not fit: {error}"


def _cohort_faults(plan: Plan) -> Iterator[str]:
    if plan.sampling_rate is not None:
        if plan.population is None:
            yield "a sampling_rate without a population: needed the number of clients that cohorts are drawn from"
        elif plan.cohort < 1:
            yield f"sampling_rate {plan.sampling_rate} of {plan.population} clients: needed at least one client a round"
        elif plan.cohort > MAXIMUM_CLIENTS:
            yield f"a cohort of {plan.cohort} clients: needed at most {MAXIMUM_CLIENTS}"
    elif plan.clients is None:
        yield "no clients: needed the number of clients in a round, or a population with a sampling_rate"
    elif plan.population is not None and plan.clients > plan.population:
        yield f"{plan.clients} clients from a population of {plan.population}: needed a population of at least that"


def _whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def _aggregator(plan: Plan, problems: Problems) -> tuple[Aggregator | None, bool]:
    """Make the aggregator, and say whether it is the plan's.

    If the plan's is refused, this is one without the options that are refused by themselves: what else is wrong is then
    found too.
    """
    if (made := problems.attempt(plan.make_aggregator)) is not None:
        return made, True
    for name in _REFUSABLE:
        alone = plan.changed(**{other: None for other in _REFUSABLE if other != name})
        try:
            alone.make_aggregator()
        except ConfigError as error:
            problems.add("config", str(error.args[0]))
            plan = plan.changed(**{name: None})
    try:
        return plan.make_aggregator(), False
    except ConfigError:
        return None, False


def _prepared(plan: Plan, aggregator: Aggregator, privacy: Privacy | None, problems: Problems) -> Prepared | None:
    """Prepare the expected cohort; if that is refused, still try the session alone, with another vector."""
    clients = range(1, plan.cohort + 1)
    weights = None if plan.max_weight is not None else dict.fromkeys(clients, 1)
    session = None
    if isinstance(aggregator, SecAgg):
        session = problems.attempt(lambda: _session(aggregator, plan.cohort))
    prepared = problems.attempt(lambda: aggregator.prepare(plan.example, clients, weights=weights, privacy=privacy))
    if prepared is None or (isinstance(aggregator, SecAgg) and session is None):
        return None
    return prepared if problems.attempt(lambda: prepared.channel.config) or plan.aggregator == "plain" else None


def _session(aggregator: SecAgg, clients: int) -> Config:
    """Return the session for vectors of one bit: what is refused here is refused whatever the vectors are."""
    threshold, neighbors = aggregator.graph(clients)
    return Config(
        range(1, clients + 1),
        threshold,
        1,
        1,
        neighbors=neighbors,
        colluders=aggregator.colluders,
        session_colluders=None if neighbors is None else aggregator.session_colluders,
        adversary=aggregator.adversary,
    )


def _needed(prepared: Prepared) -> Needed:
    """Return who must survive a round."""
    config, fewest = prepared.channel.config, prepared.transform.fewest
    if not isinstance(config, Config):
        return Needed(fewest if prepared.private else 1)
    return _needed_in(config.threshold, None if config.complete else config.neighbors, config, fewest)


def _needed_in(threshold: int, neighbors: int | None, config: Config, fewest: int) -> Needed:
    signers = config.signers_needed(len(config.client_ids)) if config.session_colluders is not None else 0
    if neighbors is None:
        return Needed(max(threshold, fewest, signers))
    return Needed(max(2, fewest, signers), neighbors, threshold)


def _failure(plan: Plan, aggregator: Aggregator, prepared: Prepared, needed: Needed) -> float:
    if not plan.by_chance:
        return needed.failure(plan.cohort, plan.dropout_fraction)

    def needed_of(clients: int) -> Needed | None:
        if not isinstance(aggregator, SecAgg):
            return needed
        try:
            session = _session(aggregator, clients)
        except ConfigError:
            return None
        neighbors = None if session.complete else session.neighbors
        return _needed_in(session.threshold, neighbors, session, prepared.transform.fewest)

    assert plan.population is not None and plan.sampling_rate is not None
    return poisson_failure(
        needed_of,
        population=plan.population,
        sampling_rate=plan.sampling_rate,
        dropout_fraction=plan.dropout_fraction,
        cohorts=prepared.cohorts,
    )


def _too_few(plan: Plan, needed: Needed, failure: float, whole: float) -> Iterator[str]:
    """Yield that the rounds would fail too often."""
    if whole <= plan.most_failures:
        return
    who = f"{needed.survivors} survivors of {plan.cohort} clients"
    if needed.neighbors:
        who += f", and {needed.holders} of the {needed.neighbors} neighbors of each client,"
    rounds = "the one round" if plan.rounds == 1 else f"any of {plan.rounds} rounds"
    yield (
        f"a round needs {who} and fails with probability {_up(failure)} if each client drops out with probability "
        f"{plan.dropout_fraction:g}: {_up(whole)} for {rounds}, needed at most {plan.most_failures:g}"
    )


def _up(probability: float) -> str:
    """Write a probability with two digits, rounded up."""
    if probability <= 0 or probability >= 1:
        return f"{probability:g}"
    digits = 1 - math.floor(math.log10(probability))
    return f"{math.ceil(probability * 10.0**digits - 1e-9) / 10.0**digits:.2g}"
