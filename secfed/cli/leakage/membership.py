"""Membership inference against a model that a federation trained and published: which of 400 pictures are in it?

The adversary reads the published model. It has the candidate records, of which half were trained on, and trains shadow
federations of its own with the same protection: it knows the clip and how much noise there is, and not the noise. So
where the attack fails, it is not for want of shadow models like the target.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed import FedAvg
from secfed.attacks.membership import MembershipResult, confidences, lira, loss_attack, roc
from secfed.attacks.shadow_models import draw_membership, logits, losses, train_shadows
from secfed.cli.leakage.scenario import AggregatorKind, PrivacyKind, aggregator_of, noise_for, privacy_of
from secfed.cli.simulation import perceptron
from secfed.cli.simulation.datasets import LOADERS
from secfed.cli.simulation.random import generator
from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Scores that know nothing of membership are outside the printed interval this often.
FAILURE = 0.01
# The false positive rates at which true positive rates are printed.
RATES = (0.01, 0.001)
# Training rows of the data set: candidates and, as many, records for the control.
_MOST_RECORDS = 950


@dataclass(frozen=True, slots=True)
class Settings:
    """What is run.

    Attributes:
        clients: Number of clients; the members are dealt out to them evenly.
        aggregator: `"plain"`, `"secagg"` or `"paillier"`.
        privacy: Who adds noise: `"none"`, `"central"` (the server) or `"distributed"` (the clients).
        epsilon: Budget of the whole training, for a client with all its records.
        delta: Budget of the whole training.
        clip_norm: Updates are scaled down to this norm; with privacy only.
        records: Candidates, of which half are members.
        rounds: Rounds of the training.
        shadows: Shadow federations that the adversary trains.
        key_bits: Bits of a Paillier key.
        seed: Decides records, model and shadow models; keys and noise of the target never come from it.
    """

    clients: int = 20
    aggregator: AggregatorKind = "plain"
    privacy: PrivacyKind = "none"
    epsilon: float = 3.0
    delta: float = 1e-5
    clip_norm: float = 0.5
    records: int = 400
    rounds: int = 20
    shadows: int = 32
    key_bits: int = 3072
    seed: int = 0

    def __post_init__(self) -> None:
        if not 4 <= self.records <= _MOST_RECORDS:
            raise ConfigError(f"{self.records} records: needed 4 to {_MOST_RECORDS}")
        fewest = 1 if self.aggregator == "plain" else 2
        if not fewest <= self.clients <= self.records // 2:
            raise ConfigError(f"{self.clients} clients: needed {fewest} to {self.records // 2}, with a member each")
        if self.rounds < 1 or self.shadows < 4:
            raise ConfigError(f"{self.rounds} rounds and {self.shadows} shadows: needed at least 1 and 4")
        if self.privacy == "distributed" and self.aggregator == "plain":
            raise ConfigError(
                "--privacy distributed needs --aggregator secagg or paillier: with plain the server sees every update"
            )


# A run of a second or two, with wider intervals.
QUICK: dict[str, Any] = {"clients": 10, "records": 200, "rounds": 10, "shadows": 16}


@dataclass(frozen=True, slots=True)
class MembershipLeakage:
    """What the attacks found.

    Attributes:
        settings: What was run.
        loss: Threshold on the loss.
        lira: Likelihood ratio with shadow federations.
        null: The likelihood ratio against a model that was trained the same way on other records: it saw no candidate.
        accuracy_in: Of the published model on members.
        accuracy_out: The same on candidates that are not members.
        epsilon: What the training spent of the budget, for a client; None without privacy.
    """

    settings: Settings
    loss: MembershipResult
    lira: MembershipResult
    null: MembershipResult
    accuracy_in: float
    accuracy_out: float
    epsilon: float | None

    @property
    def leaks(self) -> bool:
        """Whether the likelihood ratio beats scores that know nothing; this is wrong once in 200 runs."""
        return self.lira.auc > self.lira.chance_auc(1 - FAILURE)[1]

    def to_json(self) -> dict[str, Any]:
        """Return the result as the command line prints it."""
        settings = self.settings
        return {
            "attack": "membership",
            "adversary": "reader of the model",
            "aggregator": settings.aggregator,
            "privacy": settings.privacy,
            "epsilon": self.epsilon,
            "delta": settings.delta if self.epsilon is not None else None,
            "clients": settings.clients,
            "records": settings.records,
            "rounds": settings.rounds,
            "shadows": settings.shadows,
            "seed": settings.seed,
            "accuracy": {"members": self.accuracy_in, "others": self.accuracy_out},
            "loss": _figures(self.loss),
            "lira": _figures(self.lira),
            "null": _figures(self.null),
            "chance": {
                "confidence": 1 - FAILURE,
                "auc": list(self.lira.chance_auc(1 - FAILURE)),
                "tpr": {f"{rate:g}": list(self.lira.chance_tpr(rate, 1 - FAILURE)) for rate in RATES},
            },
            "leaks": self.leaks,
        }

    def summary(self) -> list[str]:
        """Say in a few lines what was found."""
        settings = self.settings
        spent = "" if self.epsilon is None else f" (epsilon {self.epsilon:.3g} for a client)"
        low, high = self.lira.chance_auc(1 - FAILURE)
        most = [self.lira.chance_tpr(rate, 1 - FAILURE)[1] for rate in RATES]
        return [
            f"membership inference, reader of the published model, {settings.aggregator}, privacy {settings.privacy}"
            f"{spent}, {settings.clients} clients, {settings.records} candidates, half of them members",
            f"accuracy of the model: {self.accuracy_in:.1%} on members, {self.accuracy_out:.1%} on others",
            f"threshold on the loss: {_line(self.loss)}",
            f"likelihood ratio, {settings.shadows} shadow federations: {_line(self.lira)}",
            f"the same against a model that saw no candidate: {_line(self.null)}",
            f"scores that know nothing, {1 - FAILURE:.0%} of the time: AUC {low:.3f} to {high:.3f}, true positive "
            f"rates up to {most[0]:.1%} and {most[1]:.1%}",
        ]


def attack(settings: Settings) -> MembershipLeakage:
    """Train a federation under the protection, and attack what it publishes.

    Raises:
        MissingExtraError: The data set's package is not installed.
    """
    inputs, labels, others = _records(settings)
    inside = np.zeros(settings.records, np.bool_)
    inside[generator(settings.seed, "members").permutation(settings.records)[: settings.records // 2]] = True
    start = perceptron.init(settings.seed, inputs.shape[1])
    noise = noise_for(settings.privacy, settings.epsilon, settings.delta, settings.rounds)
    published, epsilon = _train(settings, start, (inputs[inside], labels[inside]), noise)
    # A protection without noise changes nothing but rounding, so the control can do without it.
    quickly = settings if settings.privacy == "distributed" else replace(settings, aggregator="plain")
    blind, _ = _train(quickly, start, others, noise)

    membership = draw_membership(settings.shadows, settings.records, settings.seed)
    models = shadow_federations(settings, start, inputs, labels, membership, noise)
    shadows = confidences(logits(models, inputs), labels)

    def ratio(model: perceptron.Model) -> MembershipResult:
        return roc(lira(confidences(logits(model, inputs), labels), shadows, membership), inside)

    answers = logits(published, inputs)
    right = answers.argmax(axis=1) == labels
    return MembershipLeakage(
        settings,
        roc(loss_attack(losses(answers, labels)), inside),
        ratio(published),
        ratio(blind),
        float(right[inside].mean()),
        float(right[~inside].mean()),
        epsilon,
    )


def shadow_federations(
    settings: Settings, start: perceptron.Model, inputs: Array, labels: Labels, membership: Bools, noise: float
) -> perceptron.Model:
    """Train all shadow federations at once, as the target was trained; arrays with a leading axis of federations.

    Args:
        settings: What the adversary knows of the target's training.
        start: The public first model.
        inputs: All candidates, shape `(records, features)`.
        labels: Their labels.
        membership: Which federation is trained on which candidate, shape `(shadows, records)`.
        noise: Standard deviation of the noise on a sum, by the clip; 0 without privacy, when there is no clip either.
    """
    random = generator(settings.seed, "shadow federations")
    models = {name: np.repeat(array[None], len(membership), axis=0) for name, array in start.items()}
    owners = _owners(membership, settings.clients, random)
    for _ in range(settings.rounds):
        total = {name: np.zeros_like(array) for name, array in models.items()}
        for client in range(settings.clients):
            trained = train_shadows(
                inputs,
                labels,
                owners == client,
                classes=start["output_bias"].size,
                epochs=perceptron.LOCAL_EPOCHS,
                batch=perceptron.BATCH,
                learning_rate=perceptron.LEARNING_RATE,
                start=models,
                seed=int(random.integers(2**32)),
            )
            change = {name: trained[name] - models[name] for name in models}
            factor = _clip_factors(change, settings.clip_norm) if noise else np.ones(len(membership))
            for name, array in total.items():
                array += change[name] * _along(factor, array)
        for name, array in total.items():
            array += random.normal(0.0, noise * settings.clip_norm, array.shape) if noise else 0.0
            models[name] += array / settings.clients
    return models


def _owners(membership: Bools, clients: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Deal each federation's members out evenly; -1 marks records that no client has."""
    owners = np.full(membership.shape, -1, np.int64)
    for row, inside in zip(owners, membership, strict=True):
        rows = random.permutation(np.flatnonzero(inside))
        row[rows] = np.arange(len(rows)) % clients
    return owners


def _clip_factors(change: perceptron.Model, clip_norm: float) -> Array:
    squares = [np.square(array).reshape(len(array), -1).sum(axis=1) for array in change.values()]
    norms = np.sqrt(np.sum(squares, axis=0))
    factors: Array = np.minimum(1.0, clip_norm / np.maximum(norms, 1e-300))
    return factors


def _along(factors: Array, array: Array) -> Array:
    return factors.reshape(-1, *(1,) * (array.ndim - 1))


def _records(settings: Settings) -> tuple[Array, Labels, tuple[Array, Labels]]:
    """Return the candidates, and half as many other records for the control."""
    federation = LOADERS["digits"](1, 0.5, settings.seed)
    inputs, labels = federation.clients[1]
    order = generator(settings.seed, "candidates").permutation(len(labels))
    chosen, rest = np.split(order[: settings.records + settings.records // 2], [settings.records])
    return inputs[chosen], labels[chosen], (inputs[rest], labels[rest])


def _train(
    settings: Settings, start: perceptron.Model, data: tuple[Array, Labels], noise: float
) -> tuple[perceptron.Model, float | None]:
    """Train the target; return what it publishes and the epsilon that it spent."""
    clients = dict(_clients(settings, *data))
    privacy = privacy_of(settings.privacy, settings.clip_norm, noise, settings.clients)
    most = 1 << (settings.records - 1).bit_length()  # a weight is a number of records
    aggregator = aggregator_of(settings.aggregator, settings.key_bits, most, settings.seed)
    training = FedAvg(perceptron.local_update, aggregator=aggregator, privacy=privacy)
    with np.errstate(divide="ignore"):  # a model that is all noise gives a label probability 0; that loss is not used
        *_, report = training.rounds(start, clients, settings.rounds)
    return report.model, report.accountant.epsilon(settings.delta) if report.accountant else None


def _clients(settings: Settings, inputs: Array, labels: Labels) -> Iterator[tuple[int, perceptron.Examples]]:
    order = generator(settings.seed, "clients").permutation(len(labels))
    for client_id, rows in enumerate(np.array_split(order, settings.clients), start=1):
        yield client_id, perceptron.Examples(inputs[rows], labels[rows], generator(settings.seed, "batches", client_id))


def _figures(found: MembershipResult) -> dict[str, Any]:
    return {"auc": found.auc, "tpr": {f"{rate:g}": found.tpr_at(rate) for rate in RATES}}


def _line(found: MembershipResult) -> str:
    rates = ", ".join(f"{found.tpr_at(rate):.1%} at {rate:.1%}" for rate in RATES)
    return f"AUC {found.auc:.3f}; true positives {rates} false positives"
