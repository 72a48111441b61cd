"""Membership inference: was a model trained on this record?

A model that overfits is more confident about the records it was trained on. `loss_attack` (Yeom et al.) calls records
with a small loss members, with one threshold for all. But some records are easy whether they were trained on or not.
For each record, `lira` (Carlini et al.) compares the target's confidence with that of models trained with the record
and models trained without it. It names fewer members than a threshold would, and is wrong about far fewer of them.
`update_alignment` needs one update, not a model: a step on a batch goes against the gradient of each of its records.

A larger score means that the record is more likely a member. `roc` turns scores into figures. The area under the curve
is a mean over all thresholds; the true positive rate at a false positive rate of 1 % or 0.1 % shows what an adversary
can be sure of. For comparison there is what guessing reaches (`MembershipResult.chance_auc`, `chance_tpr`).

Threat model: for `loss_attack` and `lira`, anyone who can query the published model and has the candidate record with
its label. `lira` also needs other records of the same distribution, to train its own models. For `update_alignment`,
anyone who sees an update and the model that it started from: an honest server sees each client's update without
protection, and also the cohort's sum under secure aggregation.

What defeats it: the noise of differential privacy (with epsilon and delta, no attack has a true positive rate above
e^epsilon times the false positive rate plus delta); many records for the size of the model; models that do not overfit;
for `update_alignment`, sums over many records. Secure aggregation does not help: the published model and the sum are
the same. A low result is evidence about this attack and these shadow models, not a guarantee.

Source: Yeom, Giacomelli, Fredrikson, Jha, *Privacy Risk in Machine Learning*, CSF 2018; Carlini, Chien, Nasr, Song,
Terzis, Tramer, *Membership Inference Attacks From First Principles*, IEEE S&P 2022; Nasr, Shokri, Houmansadr,
*Comprehensive Privacy Analysis of Deep Learning*, IEEE S&P 2019 (gradients).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from secfed.attacks.networks import checked_arrays
from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Variance = Literal["auto", "record", "global"]

# With fewer shadow models, a record's own variance is too uncertain (Carlini et al., section VI.C).
_MODELS_FOR_A_VARIANCE_EACH = 64
# Floor for models that all agree; far below the variance of any two trainings.
_LEAST_VARIANCE = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class MembershipResult:
    """How well scores separate members from others.

    Attributes:
        auc: Area under the curve: the probability that a member scores above a nonmember, ties counting half.
        members: Number of members.
        others: Number of other records.
        false_positive_rates: Of each threshold, ascending from 0 to 1.
        true_positive_rates: Of the same thresholds.
    """

    auc: float
    members: int
    others: int
    false_positive_rates: Array = field(repr=False)
    true_positive_rates: Array = field(repr=False)

    def tpr_at(self, fpr: float) -> float:
        """Return the largest true positive rate of a threshold that calls at most this fraction of the others members.

        Args:
            fpr: Largest false positive rate.

        Raises:
            ConfigError: The rate is not from 0 to 1.
        """
        _check_rate(fpr)
        allowed = _allowed(fpr, self.others) / self.others
        return float(self.true_positive_rates[self.false_positive_rates <= allowed + 1e-12].max())

    def tpr_interval(self, fpr: float, confidence: float = 0.95) -> tuple[float, float]:
        """Return the Clopper-Pearson interval around `tpr_at(fpr)`: over members, for this threshold.

        Args:
            fpr: Largest false positive rate.
            confidence: Confidence of the interval.

        Raises:
            ConfigError: A rate or the confidence is out of range.
        """
        from scipy import stats

        _check_probability(confidence)
        found = stats.binomtest(round(self.tpr_at(fpr) * self.members), self.members).proportion_ci(
            confidence, method="exact"
        )
        return float(found.low), float(found.high)

    def chance_auc(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the interval in which the area lies with this probability if scores are independent of membership.

        It uses the normal approximation for a sum of ranks, which is good from about 20 members and 20 others. Ties
        make the true interval narrower.

        Args:
            confidence: Probability that the area lies in the interval.

        Raises:
            ConfigError: The confidence is out of range.
        """
        from scipy import stats

        _check_probability(confidence)
        spread = math.sqrt((self.members + self.others + 1) / (12 * self.members * self.others))
        half = float(stats.norm.isf((1 - confidence) / 2)) * spread
        return max(0.0, 0.5 - half), min(1.0, 0.5 + half)

    def chance_tpr(self, fpr: float, confidence: float = 0.95) -> tuple[float, float]:
        """Return the same interval for `tpr_at(fpr)`, exactly.

        In a random order the number of members above a given one of the others is negatively hypergeometric. Equal
        scores only lower `tpr_at`, so the probability of exceeding the upper end is still valid.

        Args:
            fpr: Largest false positive rate.
            confidence: Probability that the rate lies in the interval.

        Raises:
            ConfigError: A rate or the confidence is out of range.
        """
        from scipy import stats

        _check_rate(fpr)
        _check_probability(confidence)
        allowed = _allowed(fpr, self.others)
        if allowed == self.others:
            return 1.0, 1.0
        law = stats.nhypergeom(self.members + self.others, self.members, allowed + 1)
        counts = np.arange(self.members + 1)
        tail = (1 - confidence) / 2
        below = np.cumsum(law.pmf(counts))
        low = int(np.searchsorted(below, tail))
        high = int(np.searchsorted(below, 1 - tail))
        return min(low, self.members) / self.members, min(high, self.members) / self.members


def roc(scores: npt.ArrayLike, members: npt.ArrayLike) -> MembershipResult:
    """Return how well scores separate members from others, over all thresholds.

    Args:
        scores: Larger if the record is more likely a member; shape `(records,)`. They may all be equal.
        members: Which records were trained on, shape `(records,)`; used only to count.

    Raises:
        ConfigError: The shapes do not match, a score is not finite, or all or none of the candidates are members.
    """
    values = _vector(scores, "scores")
    truth = np.asarray(members)
    if truth.shape != values.shape or truth.dtype != np.bool_:
        raise ConfigError(f"members have shape {truth.shape} and type {truth.dtype}, needed {values.shape} of bool")
    count, others = int(truth.sum()), int((~truth).sum())
    if not count or not others:
        raise ConfigError(f"found {count} members and {others} others, needed at least one of each")
    order = np.argsort(-values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)  # records with equal scores go together
    hits, misses = np.cumsum(truth[order])[ends], np.cumsum(~truth[order])[ends]
    true_rates, false_rates = np.append(0.0, hits / count), np.append(0.0, misses / others)
    auc = float(np.sum(np.diff(false_rates) * (true_rates[1:] + true_rates[:-1]) / 2))
    return MembershipResult(auc, count, others, false_rates, true_rates)


def loss_attack(losses: npt.ArrayLike) -> Array:
    """Score records by the target's loss alone: a smaller loss means a likelier member.

    Args:
        losses: The target model's loss of each record, shape `(records,)`.

    Returns:
        Scores, shape `(records,)`.

    Raises:
        ConfigError: The shape does not fit, or a loss is not finite.

    Source:
        Yeom et al. 2018. Their threshold is the mean training loss; `roc` tries all thresholds.
    """
    scores: Array = -_vector(losses, "losses")
    return scores


def confidences(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Array:
    """Return log(p / (1 - p)) for the softmax probability p of the true label; it is nearly normal over models.

    Args:
        logits: Shape `(..., records, classes)`, from one model or many.
        labels: Each record's class, shape `(records,)`.

    Returns:
        Shape `(..., records)`, accurate even near p = 1.

    Raises:
        ConfigError: The shapes do not match, a logit is not finite, there is only one class, or a label is not a class.
    """
    values, classes = np.asarray(logits, np.float64), np.asarray(labels)
    if values.ndim < 2 or values.shape[-1] < 2 or classes.shape != values.shape[-2:-1]:
        raise ConfigError(
            f"logits have shape {values.shape} and labels {classes.shape}, needed (..., records, classes) with two "
            "classes or more, and (records,)"
        )
    if not np.isfinite(values).all():
        raise ConfigError("a logit is not finite")
    if classes.dtype.kind not in "iu" or not ((classes >= 0) & (classes < values.shape[-1])).all():
        raise ConfigError(f"labels must be whole numbers from 0 to {values.shape[-1] - 1}")
    rows = np.arange(len(classes))
    of_label = values[..., rows, classes]
    rest = values.copy()
    rest[..., rows, classes] = -np.inf
    largest = rest.max(axis=-1)
    found: Array = of_label - largest - np.log(np.exp(rest - largest[..., None]).sum(axis=-1))
    return found


def lira(
    target: npt.ArrayLike, shadows: npt.ArrayLike, membership: npt.ArrayLike, *, variance: Variance = "auto"
) -> Array:
    """Score records by the likelihood ratio of the target's confidence with and without the record in training.

    Args:
        target: The target model's confidence in each record's label, as from `confidences`, shape `(records,)`.
        shadows: The same for each shadow model, shape `(models, records)`.
        membership: Which shadow model was trained on which record, same shape. If no model was trained on any record,
            the offline variant only measures how unusual the target's confidence is for a model without the record.
        variance: `"record"` fits one to each record; `"global"` one to all records, for few shadow models; `"auto"`
            uses `"global"` below 64 models.

    Returns:
        Scores, shape `(records,)`: the logarithm of the likelihood ratio; offline, standard deviations above the mean
        of the models without the record.

    Raises:
        ConfigError: The shapes do not match, a confidence is not finite, there are fewer than two shadow models, a
            record lacks models with it (unless all do) or without it, or there are too few for a variance.

    Source:
        Carlini et al. 2022, algorithm 1 and section VI.A (offline). They use the probability where this uses standard
        deviations; the order is the same.
    """
    seen, models = _vector(target, "target confidences"), np.asarray(shadows, np.float64)
    inside = np.asarray(membership)
    if variance not in ("auto", "record", "global"):
        raise ConfigError(f"variance {variance!r} must be 'auto', 'record' or 'global'")
    if models.ndim != 2 or models.shape[1] != len(seen) or inside.shape != models.shape or inside.dtype != np.bool_:
        raise ConfigError(
            f"shadows have shape {models.shape} and membership {inside.shape} of {inside.dtype}, needed "
            f"(models, {len(seen)}) of both, the second of bool"
        )
    if len(models) < 2:
        raise ConfigError(f"found {len(models)} shadow models, needed at least 2")
    if not np.isfinite(models).all():
        raise ConfigError("a confidence of a shadow model is not finite")
    each = variance == "record" or (variance == "auto" and len(models) >= _MODELS_FOR_A_VARIANCE_EACH)
    mean_out, variance_out = _gaussians(models, ~inside, each, "without")
    if not inside.any():
        offline: Array = (seen - mean_out) / np.sqrt(variance_out)
        return offline
    mean_in, variance_in = _gaussians(models, inside, each, "with")
    scores: Array = _log_density(seen, mean_in, variance_in) - _log_density(seen, mean_out, variance_out)
    return scores


def update_alignment(update: Mapping[str, npt.ArrayLike], record_gradients: Mapping[str, npt.ArrayLike]) -> Array:
    """Score records by how far an update goes against each record's own gradient.

    Args:
        update: Change of the model in a round: a client's, or the mean or sum over a cohort; arrays by name. For a
            gradient pass its negative.
        record_gradients: Gradient of each record's loss at the model that the round started from, arrays by the same
            names with a leading axis of records; `shadow_models.record_gradients` computes those of a perceptron.

    Returns:
        Scores, shape `(records,)`: the inner products, divided by the gradients' lengths, so that noise in the update
        gives every record the same spread. Records like those of the batch score high too.

    Raises:
        ConfigError: The names or shapes do not fit, a value is not finite, or there is nothing to compare.
    """
    if not update or not record_gradients:
        raise ConfigError(
            f"found {len(update)} arrays of the update and {len(record_gradients)} gradients, needed both"
        )
    change = {name: np.asarray(array, np.float64) for name, array in update.items()}
    first = np.shape(next(iter(record_gradients.values())))
    if not first or not first[0]:
        raise ConfigError(f"gradients have shape {first}, needed a leading axis of records, at least one")
    shapes = {name: (first[0], *array.shape) for name, array in change.items()}
    checked_arrays(change, {name: array.shape for name, array in change.items()}, "update")
    gradients = checked_arrays(record_gradients, shapes, "gradient")
    products, squares = np.zeros(first[0]), np.zeros(first[0])
    for name, array in gradients.items():
        rows = array.reshape(first[0], -1)
        products += rows @ change[name].ravel()
        squares += np.einsum("ij,ij->i", rows, rows)
    scores: Array = -products / np.sqrt(np.where(squares > 0, squares, 1.0))
    return scores


def _gaussians(models: Array, chosen: Bools, each: bool, what: str) -> tuple[Array, Array]:
    """Return each record's mean and variance over the chosen models."""
    counts = chosen.sum(axis=0)
    if not counts.all():
        record = int(np.argmin(counts))
        raise ConfigError(f"record {record} has no shadow model {what} it, needed one at least for every record")
    means = np.where(chosen, models, 0.0).sum(axis=0) / counts
    squares = (np.where(chosen, models - means, 0.0) ** 2).sum(axis=0)
    if each and counts.min() < 2:
        record = int(np.argmin(counts))
        raise ConfigError(f"record {record} has one shadow model {what} it, needed two for a variance of its own")
    freedom = counts - 1 if each else np.full(len(counts), (counts - 1).sum())
    if not freedom.all():
        raise ConfigError(f"every record has one shadow model {what} it, needed two of some record for a variance")
    variances = (squares if each else np.full(len(counts), squares.sum())) / freedom
    return means, np.maximum(variances, _LEAST_VARIANCE)


def _log_density(values: Array, means: Array, variances: Array) -> Array:
    """Return the logarithm of the normal density, up to a constant."""
    found: Array = -0.5 * ((values - means) ** 2 / variances + np.log(variances))
    return found


def _vector(values: npt.ArrayLike, what: str) -> Array:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise ConfigError(f"{what} have shape {array.shape}, needed (records,) with at least one")
    if not np.isfinite(array).all():
        raise ConfigError(f"{what}: a value is not finite")
    return array


def _allowed(fpr: float, others: int) -> int:
    """Return how many of the others may be called members; 1 % of 300 is 3 although 0.01 * 300 may be a bit less."""
    return math.floor(fpr * others + 1e-9)


def _check_rate(fpr: float) -> None:
    if not 0 <= fpr <= 1:
        raise ConfigError(f"false positive rate {fpr} must be from 0 to 1")


def _check_probability(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence {confidence} must be between 0 and 1")
