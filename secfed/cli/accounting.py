"""Compute the results of the commands about budgets, as JSON objects and in words; nothing here prints."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from secfed import dp
from secfed.dp.accountant import LEAST_DELTA
from secfed.dp.rounding import down, exact, up
from secfed.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

# False positive rates at which membership tests are measured.
FALSE_POSITIVE_RATES = (0.01, 0.001)


@dataclass(frozen=True, slots=True)
class CohortSampling:
    """How cohorts are drawn.

    Args:
        rate: Fraction of the clients that join a round; with `cohort`, that is `cohort / population`.
        cohort: Clients drawn, in sampling of fixed size; None in Poisson sampling.
        population: Clients that they are drawn from.
    """

    rate: float
    cohort: int | None = None
    population: int | None = None

    @classmethod
    def chosen(cls, kind: str, rate: float | None, cohort: int | None, population: int | None) -> "CohortSampling":
        """Check and combine the options.

        Raises:
            ConfigError: They do not fit together.
        """
        if kind == "poisson":
            if cohort is not None or population is not None:
                given = "--population" if cohort is None else "--cohort"
                raise ConfigError(f"{given} has no effect with --sampling poisson: it needs --sampling fixed")
            return cls(1.0 if rate is None else rate)
        if population is None:
            raise ConfigError("--sampling fixed needs --population, and --cohort or --sampling-rate")
        if (rate is None) == (cohort is None):
            raise ConfigError("--sampling fixed needs either --cohort or --sampling-rate, not both")
        if cohort is None:
            assert rate is not None
            cohort = round(rate * population)
            if not math.isclose(cohort, rate * population, rel_tol=1e-9) or cohort < 1:
                found = f"sampling rate {rate:g} of {population} clients is {rate * population:g} clients"
                raise ConfigError(f"{found}, needed a whole number: use --cohort instead")
        if cohort > population:
            raise ConfigError(f"cohort {cohort} is larger than the population {population}")
        return cls(cohort / population, cohort, population)

    @property
    def kind(self) -> Literal["poisson", "fixed"]:
        """The kind's name."""
        return "poisson" if self.cohort is None else "fixed"

    def release(self, noise_multiplier: float) -> dp.Event:
        """Return the event of a round."""
        return dp.release(noise_multiplier, self.rate, self.kind, self.population)

    def to_json(self) -> dict[str, Any]:
        """Return the parameters as a JSON object."""
        return {
            "sampling": self.kind,
            "sampling_rate": self.rate,
            "cohort": self.cohort,
            "population": self.population,
        }


def epsilon_of(
    noise_multiplier: float, sampling: CohortSampling, rounds: int, delta: float, adjacency: dp.events.Adjacency
) -> dict[str, Any]:
    """Return what rounds of Gaussian noise spend."""
    accountant = dp.Accountant(adjacency=adjacency).compose(sampling.release(noise_multiplier), rounds)
    bounds = accountant.epsilon(delta, bounds=True)
    return {
        "epsilon": finite(bounds.upper),
        "epsilon_lower": finite(bounds.lower),
        "epsilon_upper": finite(bounds.upper),
        "delta": delta,
        "noise_multiplier": noise_multiplier,
        **sampling.to_json(),
        "rounds": rounds,
        "adjacency": adjacency,
        "assumptions": accountant.assumptions(delta=delta),
    }


def membership_of(
    noise_multiplier: float, sampling: CohortSampling, rounds: int, adjacency: dp.events.Adjacency
) -> dict[str, Any]:
    """Return the bounds on membership tests after rounds of Gaussian noise: mu, and the largest true positive rates."""
    accountant = dp.Accountant(adjacency=adjacency).compose(sampling.release(noise_multiplier), rounds)
    mu = accountant.mu(least_delta=LEAST_DELTA, bounds=True)
    return {
        "mu": finite(mu.upper),
        "mu_lower": finite(mu.lower),
        "mu_upper": finite(mu.upper),
        "mu_least_delta": LEAST_DELTA,
        **{f"tpr_at_fpr_{rate:g}": accountant.true_positive_rate(rate) for rate in FALSE_POSITIVE_RATES},
    }


def membership_in_words(report: dict[str, Any]) -> list[str]:
    """Return the result of `membership_of` in words, in lines."""
    since = f"for every delta from {exact(report['mu_least_delta'])}"
    if report["mu"] is None:
        mu = f"Gaussian privacy: no mu is proved {since}"
    else:
        proved = f"(proved to lie from {down(report['mu_lower'], 6)} to {up(report['mu_upper'], 6)})"
        mu = f"Gaussian privacy: mu at most {up(report['mu'], 4)} {since} {proved}"
    rates = (f"{up(report[f'tpr_at_fpr_{rate:g}'], 4)} at {100 * rate:g} %" for rate in FALSE_POSITIVE_RATES)
    return [mu, f"membership tests: true positive rate at most {', '.join(rates)} false positive rate"]


def assumptions_in_words(report: dict[str, Any]) -> str:
    """Return the assumptions behind the numbers of Gaussian rounds."""
    text: str = report["assumptions"]
    if report["sampling"] == "fixed" and report["adjacency"] == "add_remove":
        text += " In a cohort of fixed size another client takes the place of an absent one, so the sum moves by up to "
        text += "twice clip_norm."
    return text


def noise_for(
    epsilon: float, sampling: CohortSampling, rounds: int, delta: float, adjacency: dp.events.Adjacency
) -> dict[str, Any]:
    """Return the least noise with which rounds stay within a budget."""
    noise_multiplier = dp.noise_multiplier(
        epsilon=epsilon,
        delta=delta,
        sampling_rate=sampling.rate,
        rounds=rounds,
        sampling=sampling.kind,
        population=sampling.population,
        adjacency=adjacency,
    )
    spent = epsilon_of(noise_multiplier, sampling, rounds, delta, adjacency)
    return {"noise_multiplier": noise_multiplier, **spent, "epsilon": epsilon}


def standing(ledger: dp.Ledger, release: dp.Event | None = None) -> dict[str, Any]:
    """Return what a ledger has spent, and how many more rounds of a release fit."""
    accountant = ledger.accountant()
    budget = {"epsilon": ledger.epsilon, "delta": ledger.delta}
    return {
        "ledger": str(ledger.path),
        "spent": finite(accountant.epsilon(ledger.delta)),
        "limit": ledger.epsilon,
        "delta": ledger.delta,
        "adjacency": ledger.adjacency,
        "remaining_rounds": None if release is None else accountant.remaining_rounds(release, **budget),
        "assumptions": accountant.assumptions(delta=ledger.delta),
    }


def in_words(standing: dict[str, Any]) -> str:
    """Return in words what a ledger has spent."""
    spent = "everything (no epsilon is guaranteed)"
    if standing["spent"] is not None:
        spent = f"epsilon {up(standing['spent'], 6)}"
    return f"spent {spent} of {exact(standing['limit'])} at delta {exact(standing['delta'])}"


def finite(number: float) -> float | None:
    """Return a number that JSON can hold: None for infinity."""
    return float(number) if math.isfinite(number) else None


def entry_table(ledger: dp.Ledger) -> "Table":
    """Return the releases of a ledger as a table."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for head in ("entry", "count"):
        table.add_column(head, justify="right")
    for head in ("release", "state", "label", "last change"):
        table.add_column(head, overflow="fold")
    for entry in ledger.entries():
        state = entry.state if entry.state != "reserved" else "[yellow]reserved[/]"
        words = (describe(entry.event), state, escape(entry.label), entry.recorded_at)
        table.add_row(str(entry.number), str(entry.count), *words)
    return table


def describe(event: dp.Event) -> str:
    """Name an event briefly."""
    match event:
        case dp.PoissonSampled(rate, dp.Composed() as inner):
            return f"({describe(inner)}), Poisson {rate:g}"
        case dp.FixedSizeSampled(cohort, population, dp.Composed() as inner):
            return f"({describe(inner)}), {cohort} of {population}"
        case dp.PoissonSampled(rate, inner):
            return f"{describe(inner)}, Poisson {rate:g}"
        case dp.FixedSizeSampled(cohort, population, inner):
            return f"{describe(inner)}, {cohort} of {population}"
        case dp.Gaussian(noise) | dp.Laplace(noise) | dp.DiscreteLaplace(noise):
            return f"{type(event).__name__} {noise:g}"
        case dp.TreeAggregation(noise, steps, times):
            return f"{type(event).__name__} {noise:g} of {steps} steps, {times} for each client"
        case dp.GaussianMixture(noise, contributions):
            return f"{type(event).__name__} {noise:g} of {len(contributions)} contributions"
        case dp.DiscreteGaussianSum() | dp.SkellamSum():
            return f"{type(event).__name__} of {event.clients}, variance {event.noise_variance:g}"
        case dp.ApproximateDP(epsilon, delta):
            return f"{type(event).__name__} ({epsilon:g}, {delta:g})"
        case dp.ExponentialMechanism(epsilon) | dp.ZeroConcentrated(epsilon):
            return f"{type(event).__name__} {epsilon:g}"
        case dp.RandomizedResponse(epsilon, outcomes):
            return f"{type(event).__name__} {epsilon:g} of {outcomes}"
        case dp.Composed(parts):
            return "; ".join(f"{count} x {describe(part)}" for part, count in parts)
    return type(event).__name__
