"""How attacks fare as cohorts grow, and as the privacy budget shrinks, with what that costs in accuracy."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from secfed.attacks import Interval
from secfed.cli.leakage import analytic, membership
from secfed.cli.leakage.reconstruction import noise_like, quality
from secfed.cli.leakage.scenario import RecordedRound, Settings, record_round
from secfed.cli.simulation.random import generator

# Clients in a round, each with one picture. One client alone is its own sum, whatever the protection.
COHORTS = (1, 2, 3, 5, 8, 12, 20, 30, 50)
# Budgets of one round for pictures, and of a whole training for membership; None is no noise.
EPSILONS = (None, 1000.0, 100.0, 30.0, 10.0, 3.0, 1.0)
# Seeds of a point: other pictures and another model each.
_SEEDS = 3
# Of a quick run, which has one seed and a shorter training.
_QUICK_COHORTS = (1, 3, 8, 20, 50)
_QUICK_EPSILONS = (None, 100.0, 3.0)
_QUICK_ROUNDS = 4
_NULL_RUNS = 20
_CLIENTS = 8


@dataclass(frozen=True, slots=True)
class CohortPoint:
    """What the analytic attack rebuilds from the exact sum of a cohort under secure aggregation.

    Attributes:
        clients: Clients in the sum, each with one picture.
        identified: Fraction of the clients whose picture the attack names among 100, mean over the seeds.
        psnr: Of the best guess for each client, in decibels, mean over the seeds.
        null: `identified` of the same attack on noise.
    """

    clients: int
    identified: float
    psnr: float
    null: Interval


@dataclass(frozen=True, slots=True)
class EpsilonPoint:
    """What the clients' noise leaves to attacks, and what it costs.

    Attributes:
        epsilon: Budget at a delta of 1e-5; None: no noise.
        identified: As of `CohortPoint`, with eight clients and this budget for the one round.
        psnr: As of `CohortPoint`.
        auc: Of membership inference on a model that was trained with this budget.
        chance_auc: The largest AUC of 99.5 % of scores that know nothing.
        accuracy: Of that model, on records that it was not trained on.
    """

    epsilon: float | None
    identified: float
    psnr: float
    auc: float
    chance_auc: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Curves:
    """Both curves."""

    cohorts: tuple[CohortPoint, ...]
    epsilons: tuple[EpsilonPoint, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the curves as the command line prints them."""
        return asdict(self)


def count(quick: bool) -> int:
    """Return the number of points of both curves."""
    return len(_QUICK_COHORTS) + len(_QUICK_EPSILONS) if quick else len(COHORTS) + len(EPSILONS)


def cohort_points(seed: int, quick: bool = False) -> Iterator[CohortPoint]:
    """Attack the sums of cohorts of growing size, with three seeds from the first, or with one."""
    seeds = 1 if quick else _SEEDS
    for clients in _QUICK_COHORTS if quick else COHORTS:
        found, null = [], []
        for number in range(seeds):
            settings = Settings(max(clients, 2), "secagg", seed=seed + number)
            recorded = record_round(settings) if clients > 1 else _alone(settings)
            found.append(_of_a_sum(recorded, recorded.view.mean))
            random = generator(settings.seed, "null control of a cohort")
            null += [
                _of_a_sum(recorded, noise_like(recorded.view.mean, random))[0] for _ in range(_NULL_RUNS // seeds + 1)
            ]
        identified, psnr = np.mean(found, axis=0)
        yield CohortPoint(clients, float(identified), float(psnr), Interval.of(null))


def epsilon_points(seed: int, quick: bool = False) -> Iterator[EpsilonPoint]:
    """Attack sums with the clients' noise, with three seeds or one, and a model that was trained with it."""
    seeds = 1 if quick else _SEEDS
    training: dict[str, Any] = {**membership.QUICK, "clients": 20}
    training |= {"rounds": _QUICK_ROUNDS} if quick else {}
    for epsilon in _QUICK_EPSILONS if quick else EPSILONS:
        options: dict[str, Any] = {} if epsilon is None else {"privacy": "distributed", "epsilon": epsilon}
        found = []
        for number in range(seeds):
            recorded = record_round(Settings(_CLIENTS, "secagg", seed=seed + number, **options))
            found.append(_of_a_sum(recorded, recorded.view.mean))
        identified, psnr = np.mean(found, axis=0)
        told = membership.attack(membership.Settings(aggregator="secagg", seed=seed, **training, **options))
        yield EpsilonPoint(
            epsilon,
            float(identified),
            float(psnr),
            told.lira.auc,
            told.lira.chance_auc(1 - membership.FAILURE)[1],
            told.accuracy_out,
        )


def _alone(settings: Settings) -> RecordedRound:
    """Return a round of two clients as if it had only the first: the other one helps the server."""
    return record_round(replace(settings, adversary="server-and-clients", colluders=1))


def _of_a_sum(recorded: RecordedRound, mean: Any) -> tuple[float, float]:
    psnr, identified, _ = quality(recorded, analytic.from_a_sum(mean))
    return identified, psnr
