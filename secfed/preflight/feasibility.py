"""Checks whether a plan of aggregations can work, and finds every reason why not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from secfed.aggregation.aggregator import Aggregator
from secfed.aggregation.aggregators import SecAgg
from secfed.aggregation.paillier import DEFAULT_KEY_BITS, EncryptedSum, Paillier
from secfed.aggregation.prepared import Prepared
from secfed.dp.rounding import up
from secfed.errors import ConfigError, SecFedError
from secfed.paillier import Config as PaillierConfig
from secfed.paillier.rehearsal import stand_in_key
from secfed.preflight.budget import over_budget, planned_noise, spent
from secfed.preflight.dropout_risk import Needed, any_of, poisson_failure
from secfed.preflight.plan import Plan
from secfed.preflight.ranges import out_of_range
from secfed.secagg.config import Config
from secfed.secagg.parameters import least_against_corruption

Made = TypeVar("Made")
# Options that an aggregator may refuse on their own.
_REFUSABLE = ("threshold", "clip", "max_weight", "session_colluders", "minimum_cohort")
# Options without which there is nothing to check.
_ESSENTIAL = {"update", "clients", "population", "sampling_rate", "aggregator", "privacy"}
# Options that a kind of privacy may refuse on their own.
_REFUSABLE_NOISE = ("clip_norm", "minimum_survivors")


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a plan cannot work.

    Attributes:
        check: What was checked: `"option"` (out of range, missing, or without effect), `"config"` and `"session"` (what
            the aggregation and its session would refuse), `"dropouts"`, `"corruption"` or `"budget"`.
        text: What was found and what was needed.
    """

    check: str
    text: str


@dataclass(frozen=True)
class Found:
    """What the checks of a plan found.

    Attributes:
        problems: Every reason to refuse it.
        prepared: The aggregation of the expected cohort; None if it cannot be made.
        config: The session's parameters; None in the clear, or if they cannot be made.
        round_failure: Upper bound on the probability that a round has too few survivors; None if unknown.
        failure: The same for at least one of the rounds.
        needed: The clients that must survive a round.
        noise_multiplier: The plan's, or the one that its budget allows; None without privacy.
        epsilon: The most that all rounds together spend; None without privacy, infinite if no epsilon holds.
    """

    problems: tuple[Problem, ...]
    prepared: Prepared | None = field(default=None, repr=False)
    config: Config | PaillierConfig | None = field(default=None, repr=False)
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
        """Record a problem, unless its text is already there."""
        self._texts.setdefault(text, check)

    def attempt(self, make: Callable[[], Made], check: str = "config") -> Made | None:
        """Return the function's result. If it refuses, record that as a problem and return None."""
        try:
            return make()
        except SecFedError as error:
            self.add(check, str(error.args[0]))
            return None

    def all(self) -> tuple[Problem, ...]:
        """Return the problems in the order in which they were found."""
        return tuple(Problem(check, text) for text, check in self._texts.items())


def check(plan: Plan) -> Found:
    """Check a plan; nothing is sent, drawn or written."""
    problems = Problems()
    for name, choice in plan.idle_options():
        problems.add("option", f"{name} {getattr(plan, name)!r} has no effect with {choice}: leave it out")
    wrong = {}
    for name, text in out_of_range(plan):
        problems.add("option", text)
        wrong[name] = plan.default(name)
    essential = _ESSENTIAL & set(wrong)
    plan = plan.changed(**{name: value for name, value in wrong.items() if name not in essential})
    aggregator, as_planned = _made(plan, Plan.make_aggregator, _REFUSABLE, problems)
    if aggregator is None or essential:
        return Found(problems.all())
    private, privacy, noise = plan.privacy != "none", None, None
    as_planned = as_planned and not wrong
    if private and (plan.noise_multiplier is not None or plan.epsilon is not None):
        noise = problems.attempt(lambda: planned_noise(plan))
    if private:
        privacy, noise_as_planned = _made(plan, lambda it: it.make_privacy(noise or 1.0), _REFUSABLE_NOISE, problems)
        as_planned = as_planned and noise_as_planned and noise is not None
    session: Any = True
    if isinstance(aggregator, SecAgg):
        session = problems.attempt(lambda: _session(aggregator, plan.cohort), "session")
    elif isinstance(aggregator, Paillier):
        key = problems.attempt(lambda: stand_in_key(_key_bits(plan))) or stand_in_key(DEFAULT_KEY_BITS)
        fewest = aggregator.minimum_cohort
        session = problems.attempt(
            lambda: PaillierConfig(key, range(1, plan.cohort + 1), 1, minimum_cohort=fewest, degree=aggregator.degree),
            "session",
        )
    if isinstance(session, Config):
        for text in _corruptible(plan, session):
            problems.add("corruption", text)
    prepared = config = None
    if not private or (privacy is not None and noise is not None):
        clients = range(1, plan.cohort + 1)
        weights = None if plan.max_weight is not None else dict.fromkeys(clients, 1)
        prepared = problems.attempt(lambda: aggregator.prepare(plan.example, clients, weights=weights, privacy=privacy))
    if prepared is not None:
        config = problems.attempt(lambda: _config(plan, aggregator, prepared))
    runs = config is not None or plan.aggregator == "plain"
    if prepared is None or not (as_planned and runs and session):
        return Found(problems.all(), noise_multiplier=noise)
    epsilon = problems.attempt(lambda: spent(plan, prepared)) if private else None
    for text in over_budget(plan, prepared, epsilon) if epsilon is not None else ():
        problems.add("budget", text)
    needed = _needed(prepared, config)
    failure = _failure(plan, aggregator, prepared, needed)
    whole = any_of(plan.rounds, failure)
    if whole > plan.most_failures:
        problems.add("dropouts", _too_few(plan, needed, failure, whole))
    return Found(problems.all(), prepared, config, failure, whole, needed, noise, epsilon)


def _made(
    plan: Plan, make: Callable[[Plan], Made], refusable: tuple[str, ...], problems: Problems
) -> tuple[Made | None, bool]:
    """Make something from a plan, and say whether it is as planned.

    If it is refused, this leaves out the options that are refused on their own, so that other problems are found too.
    """
    if (made := problems.attempt(lambda: make(plan))) is not None:
        return made, True
    for name in refusable:
        alone = plan.changed(**{other: None for other in refusable if other != name})
        try:
            make(alone)
        except ConfigError as error:
            problems.add("config", str(error.args[0]))
            plan = plan.changed(**{name: None})
    try:
        return make(plan), False
    except ConfigError:
        return None, False


def _session(aggregator: SecAgg, clients: int) -> Config:
    """Return the session for vectors of one bit: a refusal here holds for any vectors."""
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


def _config(plan: Plan, aggregator: Aggregator, prepared: Prepared) -> Any:
    """Return the session's parameters; for encryption, with a stand-in for the real key."""
    if isinstance(aggregator, Paillier):
        stand_in = replace(aggregator, public_key=stand_in_key(_key_bits(plan)), private_key=None, key_bits=None)
        return stand_in.config(prepared.clients, prepared.transform)
    return prepared.channel.config


def _key_bits(plan: Plan) -> int:
    return DEFAULT_KEY_BITS if plan.key_bits is None else plan.key_bits


def _corruptible(plan: Plan, session: Config) -> Iterator[str]:
    """Yield what a session lacks against the fraction of clients that may be corrupt."""
    if plan.corrupt_fraction is None:
        return
    neighbors, colluders = least_against_corruption(
        clients=plan.cohort,
        corrupt_fraction=plan.corrupt_fraction,
        dropout_fraction=plan.dropout_fraction,
        neighbors=None if session.complete else session.neighbors,
        adversary=session.adversary,
    )
    corrupt = f"if {plan.corrupt_fraction:g} of {plan.cohort} clients are corrupt"
    if session.neighbors < neighbors:
        dropouts = f"{corrupt} and {plan.dropout_fraction:g} drop out"
        yield f"neighbors {session.neighbors} may disconnect honest clients {dropouts}: needed at least {neighbors}"
    if session.colluders < colluders:
        holders = "clients" if session.complete else "neighbors of one client"
        yield f"colluders {session.colluders}: needed at least {colluders}: that many {holders} may collude {corrupt}"
    if session.session_colluders is not None:
        whole = int(plan.corrupt_fraction * plan.cohort + 1e-6)
        if session.session_colluders < whole:
            yield f"session_colluders {session.session_colluders}: needed at least {whole} {corrupt}"


def _needed(prepared: Prepared, config: Any) -> Needed:
    """Return the clients that must survive a round."""
    if isinstance(config, Config):
        return _needed_in(config, prepared.transform.fewest)
    if isinstance(prepared.channel, EncryptedSum):
        return Needed(prepared.channel.minimum_cohort)
    return Needed(0 if prepared.private else 1)  # noise alone is a private sum over no clients


def _needed_in(config: Config, fewest: int) -> Needed:
    signers = config.signers_needed(len(config.client_ids)) if config.session_colluders is not None else 0
    if config.complete:
        return Needed(max(config.threshold, fewest, signers))
    return Needed(max(2, fewest, signers), config.neighbors, config.threshold)


def _failure(plan: Plan, aggregator: Aggregator, prepared: Prepared, needed: Needed) -> float:
    """Return an upper bound on the probability that a round gives no sum."""
    if not plan.by_chance:
        return needed.failure(plan.cohort, plan.dropout_fraction)
    # Without minimum_survivors the noise is for the threshold, which follows the cohort's size.
    fewest = prepared.transform.fewest if plan.minimum_survivors is not None else 0

    def needed_of(clients: int) -> Needed | None:
        if not isinstance(aggregator, SecAgg):
            return needed
        try:
            return _needed_in(_session(aggregator, clients), fewest)
        except ConfigError:
            return None

    assert plan.population is not None and plan.sampling_rate is not None
    return poisson_failure(
        needed_of,
        population=plan.population,
        sampling_rate=plan.sampling_rate,
        dropout_fraction=plan.dropout_fraction,
        cohorts=prepared.cohorts,
    )


def _too_few(plan: Plan, needed: Needed, failure: float, whole: float) -> str:
    """Say that the rounds would fail too often."""
    who = f"{needed.survivors} survivors of {plan.cohort} clients"
    if needed.neighbors:
        who += f", and {needed.holders} of the {needed.neighbors} neighbors of each client,"
    rounds = "the one round" if plan.rounds == 1 else f"any of {plan.rounds} rounds"
    if plan.by_chance:
        who += ", if as many join as expected,"
    return (
        f"a round needs {who} and fails with probability {up(failure, 2)} if each client drops out with probability "
        f"{plan.dropout_fraction:g}: {up(whole, 2)} for {rounds}, needed at most {plan.most_failures:g}"
    )
