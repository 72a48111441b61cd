"""Suggestions for a refused plan: changes after which the same checks find no problem."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from secfed.aggregation.aggregators import SecAgg
from secfed.dp.rounding import up
from secfed.errors import ConfigError
from secfed.preflight.dropout_risk import Needed, any_of
from secfed.preflight.feasibility import Found, check
from secfed.preflight.plan import Plan
from secfed.secagg.parameters import parameters

Changes = dict[str, Any]

_MOST_SUGGESTIONS, _MOST_STEPS, _MOST_CHECKS = 4, 4, 60
# Larger cohorts are not enlarged step by step: each check takes too long.
_MOST_CLIENTS = 20_000
_MOST_CHECKED = 100_000
_MOST_BITS = 64
# Dropouts are random, but `parameters` takes a fixed number: try it with these multiples of the expected number.
_MORE_DROPOUTS = (1.0, 1.25, 1.5, 2.0)
_FASTER = 1.25
# More noise than the least: what a plan spends is rounded up.
_NOISE_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A change of a plan that was checked.

    Attributes:
        changes: Options of the plan and their new values; None: leave the option out.
    """

    changes: Mapping[str, Any]


def suggest(plan: Plan, found: Found) -> tuple[Suggestion, ...]:
    """Return changes, each of which makes the plan acceptable.

    The result is empty if the plan has no problem, if no such change was found, or if the cohort is so large that
    checks take too long.
    """
    sound = any(problem.check != "option" for problem in found.problems)  # then the cohort is a number
    if not found.problems or (sound and plan.cohort > _MOST_CHECKED):
        return ()
    search = _Search()
    for changes in _candidates(plan, found):
        search.follow(plan, changes, len(found.problems))
        if len(search.found) >= _MOST_SUGGESTIONS:
            break
    return tuple(Suggestion(changes) for changes in search.found)


class _Search:
    """Follows each change, adding further changes for new problems, until no problem is left."""

    def __init__(self) -> None:
        self.found: list[Changes] = []
        self._left = _MOST_CHECKS

    def follow(self, plan: Plan, changes: Changes, problems: int) -> None:
        """Keep the changes, with further ones, if the checks of the changed plan find nothing."""
        before = plan
        whole: Changes = {}
        for _ in range(_MOST_STEPS):
            whole |= changes
            plan = plan.changed(**changes)
            now = self._check(plan)
            if now is None or len(now.problems) > problems:
                return
            if not now.problems:
                real = {name: value for name, value in whole.items() if value != getattr(before, name)}
                if real not in self.found:
                    self.found.append(real)
                return
            problems = len(now.problems)
            better = next((step for step in _candidates(plan, now) if self._helps(plan, step, problems)), None)
            if better is None:
                return
            changes = better

    def _helps(self, plan: Plan, changes: Changes, problems: int) -> bool:
        now = self._check(plan.changed(**changes))
        return now is not None and len(now.problems) < problems

    def _check(self, plan: Plan) -> Found | None:
        self._left -= 1
        return check(plan) if self._left >= 0 else None


def _candidates(plan: Plan, found: Found) -> Iterator[Changes]:
    """Yield changes that may help, the smallest first; they are not checked yet."""
    idle = {name: None for name, _ in plan.idle_options()}
    if idle:
        yield idle
        return  # other problems are found without them
    kinds = {problem.check for problem in found.problems}
    if "option" in kinds:
        return  # we cannot know what was meant
    if "budget" in kinds:
        yield from _within_budget(plan)
    if plan.privacy == "distributed" and plan.aggregator == "plain":
        yield {"aggregator": "secagg"}
        yield {"privacy": "central"}
    if "config" in kinds:
        yield from _fitting_bits(plan)
        regular = plan.neighbors is not None and plan.neighbors < plan.cohort - 1
        if regular and plan.privacy == "distributed" and plan.minimum_survivors is None:
            yield {"minimum_survivors": _most_survivors(plan)}
    if plan.aggregator == "secagg" and kinds & {"session", "dropouts", "corruption"}:
        yield from _graphs(plan)
    if kinds & {"session", "dropouts"} and plan.aggregator == "paillier":
        yield from _fewest(plan)
    if "dropouts" in kinds:
        yield from _larger_cohort(plan)


def _within_budget(plan: Plan) -> Iterator[Changes]:
    """Yield the least noise that meets the budget, and the most rounds."""
    if plan.noise_multiplier is not None and plan.epsilon is not None:
        noise = check(plan.changed(noise_multiplier=None)).noise_multiplier
        if noise is not None:
            yield {"noise_multiplier": float(up(noise, _NOISE_DIGITS))}
    rounds = _largest(lambda rounds: _has_no(plan.changed(rounds=rounds), "budget"), 0, plan.rounds - 1)
    if rounds:
        yield {"rounds": rounds}


def _fitting_bits(plan: Plan) -> Iterator[Changes]:
    """Yield bits and weights that fit."""
    if plan.privacy == "distributed":  # more bits are never worse
        too_few = _largest(lambda bits: not _has_no(plan.changed(bits=bits), "config"), 1, _MOST_BITS)
        if too_few < _MOST_BITS:
            yield {"bits": too_few + 1}
    elif plan.bits is not None:
        bits = _largest(lambda bits: _has_no(plan.changed(bits=bits), "config"), 1, min(plan.bits - 1, 32))
        if bits > 1:
            yield {"bits": bits}
        yield {"bits": None}
    if plan.max_weight is not None and plan.max_weight > 1:
        exponent = _largest(lambda size: _has_no(plan.changed(max_weight=1 << size), "config"), -1, 63)
        if exponent >= 0 and 1 << exponent < plan.max_weight:
            yield {"max_weight": 1 << exponent}


def _graphs(plan: Plan) -> Iterator[Changes]:
    """Yield thresholds that the likely survivors meet, and graphs that `secagg.parameters` chooses.

    None of them tolerates fewer colluders than the plan, or lets the server split a sum that it cannot split now.
    """
    most = _most_survivors(plan)
    distributed = plan.privacy == "distributed"
    regular = plan.neighbors is not None and plan.neighbors < plan.cohort - 1
    corrupt = math.floor((plan.corrupt_fraction or 0.0) * plan.cohort + 1e-6)
    if distributed and (regular or plan.minimum_survivors is not None):
        yield {"minimum_survivors": most}
    if regular:
        yield from _lower_threshold(plan)
    else:
        colluders = max(corrupt, plan.colluders or 0)
        change: Changes = {} if colluders == (plan.colluders or 0) else {"colluders": colluders}
        if _least_threshold(plan.changed(colluders=colluders)) <= most:
            yield change | {"threshold": most}
            if distributed and plan.minimum_survivors is not None:
                yield change | {"threshold": most, "minimum_survivors": most}
        if change:
            yield change
    if plan.cohort > 3 and (plan.corrupt_fraction or plan.colluders):
        noise = {"minimum_survivors": most} if distributed else {}
        changes = next(
            (found for found in _sparse_graphs(plan) if _has_no(plan.changed(**found | noise), "dropouts")), {}
        )
        if changes:
            yield changes | noise
    if regular:
        dense = {"neighbors": None, "threshold": most, "colluders": max(corrupt, plan.colluders or 0) or None}
        yield dense | ({} if plan.session_colluders is None else {"session_colluders": None})


def _splits(plan: Plan) -> bool:
    """Return whether a server that chooses the dropouts can split the planned sum."""
    if plan.neighbors is None or plan.neighbors >= plan.cohort - 1:
        return False
    if plan.adversary == "malicious_server":
        return plan.session_colluders is None
    threshold, _ = SecAgg(**plan.given("threshold", "neighbors", "colluders")).graph(plan.cohort)
    return 2 * threshold <= plan.neighbors + 2 * (plan.colluders or 0)


def _lower_threshold(plan: Plan) -> Iterator[Changes]:
    """Yield the largest threshold that enough of each client's neighbors meet."""
    assert plan.neighbors is not None

    def often_enough(threshold: int) -> bool:
        failure = Needed(0, plan.neighbors or 0, threshold).failure(plan.cohort, plan.dropout_fraction)
        return any_of(plan.rounds, failure) <= plan.most_failures

    threshold = _largest(often_enough, 1, plan.neighbors)
    if threshold > 1 and (_splits(plan) or not _splits(plan.changed(threshold=threshold))):
        yield {"threshold": threshold}


def _sparse_graphs(plan: Plan) -> Iterator[Changes]:
    """Yield the graphs of `secagg.parameters` for the expected dropouts, and for more of them."""
    adversary = plan.adversary or "semi_honest"
    for more in _MORE_DROPOUTS:
        try:
            chosen = parameters(
                clients=plan.cohort,
                corrupt_fraction=plan.corrupt_fraction or (plan.colluders or 0) / plan.cohort,
                dropout_fraction=min(0.99, plan.dropout_fraction * more),
                adversary=adversary,
                correctness_bits=max(1.0, math.log2(2 * plan.rounds / plan.most_failures)),
                indivisible=not _splits(plan),
            )
        except ConfigError:
            return
        if chosen.neighbors == plan.cohort - 1:
            return
        changes: Changes = {"neighbors": chosen.neighbors, "threshold": chosen.threshold}
        changes["colluders"] = max(chosen.colluders, plan.colluders or 0) or None
        whole = chosen.session_colluders
        yield changes | ({} if whole == plan.session_colluders else {"session_colluders": whole})


def _fewest(plan: Plan) -> Iterator[Changes]:
    """Yield minimums that the survivors meet often enough."""
    most = _most_survivors(plan)
    for name in ("minimum_cohort", "minimum_survivors"):
        value = getattr(plan, name)
        if value is not None and value > most >= 2:
            yield {name: most}


def _larger_cohort(plan: Plan) -> Iterator[Changes]:
    """Yield the smallest cohort, to within a twentieth, in which enough clients survive."""
    if plan.by_chance and plan.sampling_rate is not None and plan.population is not None:
        rate = plan.sampling_rate
        while (rate := float(up(rate * _FASTER, 2))) < 1 and rate * plan.population <= _MOST_CLIENTS:
            if _has_no(plan.changed(sampling_rate=rate), "dropouts"):
                yield {"sampling_rate": rate}
                return
    if plan.clients is None or isinstance(plan.threshold, int) or plan.minimum_survivors is not None:
        return
    most = min(_MOST_CLIENTS, plan.population or _MOST_CLIENTS)
    low, high = plan.clients, plan.clients
    while not _has_no(plan.changed(clients=high), "dropouts"):
        low, high = high, 2 * high
        if high > most:
            return
    while high - low > max(1, low // 20):
        middle = (low + high) // 2
        low, high = (low, middle) if _has_no(plan.changed(clients=middle), "dropouts") else (middle, high)
    yield {"clients": high}


def _most_survivors(plan: Plan) -> int:
    """Return how many clients of the expected cohort survive in all rounds, except with the allowed probability."""

    def often_enough(survivors: int) -> bool:
        failure = Needed(survivors).failure(plan.cohort, plan.dropout_fraction)
        return any_of(plan.rounds, failure) <= plan.most_failures

    return _largest(often_enough, 0, plan.cohort)


def _least_threshold(plan: Plan) -> int:
    """Return the least threshold of a complete graph that this adversary allows."""
    aggregator = SecAgg(threshold=1e-9, adversary=plan.adversary or "semi_honest", colluders=plan.colluders or 0)
    return aggregator.graph(plan.cohort)[0]


def _has_no(plan: Plan, kind: str) -> bool:
    return not any(problem.check == kind for problem in check(plan).problems)


def _largest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the largest number above low, up to high, for which `holds` is true, or low; it turns false only once."""
    while high > low:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
