"""Preflight, before anyone enrolls: refuse a plan that cannot work, and compute the costs of one that can."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from secfed.preflight.costs import Costs, costs_of
from secfed.preflight.feasibility import Found, Problem, check
from secfed.preflight.plan import Plan
from secfed.preflight.suggestions import Suggestion, suggest


@dataclass(frozen=True)
class Preflight:
    """The result of a preflight.

    Attributes:
        plan: The plan.
        found: What its checks found.
        costs: What a round without dropouts costs; None if the plan cannot run at all.
        suggestions: Changes after which the same checks find no problem; empty if the plan has none, or none was found.
    """

    plan: Plan = field(repr=False)
    found: Found
    costs: Costs | None = None
    suggestions: tuple[Suggestion, ...] = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every reason why the plan is refused; empty if it is accepted."""
        return self.found.problems

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object with the same keys for every plan; unknown values are None."""
        found, costs = self.found, self.costs
        stages = {} if costs is None else {name: asdict(stage) for name, stage in costs.stages.items()}
        return {
            "accepted": not self.problems,
            "problems": [asdict(problem) for problem in self.problems],
            "suggestions": [dict(suggestion.changes) for suggestion in self.suggestions],
            "round_failure": found.round_failure,
            "failure": found.failure,
            "noise_multiplier": found.noise_multiplier,
            "epsilon": found.epsilon if found.epsilon is not None and math.isfinite(found.epsilon) else None,
            "delta": self.plan.spent_delta,
            "stages": stages,
            "bytes_up": costs and costs.bytes_up,
            "bytes_down": costs and costs.bytes_down,
            "seconds": costs and costs.seconds,
            "seconds_once": costs and costs.seconds_once,
            "server_seconds": costs and costs.server_seconds,
            "server_bytes": costs and costs.server_bytes,
            "key_holder_bytes": costs and costs.key_holder_bytes,
            "measured": costs and costs.measured,
        }


def preflight(plan: Plan | None = None, *, measure: bool = True, **options: Any) -> Preflight:
    """Check a plan of aggregations before anyone takes part, and compute what it costs.

    Args:
        options: The options of a `Plan`.
        plan: The plan; or leave it out and pass the options of `Plan` by name.
        measure: Whether to do one client's work and time it, which takes up to two seconds.

    Returns:
        All problems at once, what would work instead, and the costs if the plan can run.
    """
    plan = Plan(**options) if plan is None else plan
    found = check(plan)
    costs = None if found.prepared is None else costs_of(found.prepared, found.config, measure=measure)
    return Preflight(plan, found, costs, suggest(plan, found))
