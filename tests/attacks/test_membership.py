"""Membership inference: right figures, members found where a model overfits, chance where it never saw them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from secfed.attacks import confidences, draw_membership, lira, loss_attack, roc, train_shadows, update_alignment
from secfed.attacks.shadow_models import logits, losses, record_gradients
from secfed.errors import ConfigError

RECORDS, FEATURES, CLASSES = 240, 12, 4


def bools(count: int, ones: int) -> np.ndarray:
    return np.arange(count) < ones


@pytest.fixture(scope="module")
def overfitted() -> dict[str, Any]:
    """Models trained on candidates and on others of the same distribution, three quarters of the labels learnable.

    Model 0 saw others only, 1 and 2 half of the candidates: the targets. Then 32 shadows like those, and 16 like 0.
    """
    random = np.random.default_rng(11)
    centres = random.normal(size=(CLASSES, FEATURES))
    labels = random.integers(CLASSES, size=2 * RECORDS)
    inputs = centres[labels] + 0.8 * random.normal(size=(2 * RECORDS, FEATURES))
    labels = np.where(random.random(2 * RECORDS) < 0.25, random.integers(CLASSES, size=2 * RECORDS), labels)
    inside = np.zeros((51, 2 * RECORDS), bool)
    inside[1:35, :RECORDS] = draw_membership(34, RECORDS, seed=1)
    inside[35:, RECORDS:] = draw_membership(16, RECORDS, seed=2)
    inside[0, RECORDS : RECORDS + RECORDS // 2] = True
    models = train_shadows(inputs, labels, inside, classes=CLASSES, epochs=25, seed=2)
    answers = logits(models, inputs[:RECORDS])
    found = confidences(answers, labels[:RECORDS])
    return {"labels": labels[:RECORDS], "membership": inside[:, :RECORDS], "answers": answers, "found": found}


@pytest.mark.parametrize("target", [1, 2])
def test_the_likelihood_ratio_beats_the_loss_and_chance_on_an_overfitted_model(
    overfitted: dict[str, Any], target: int
) -> None:
    found, membership = overfitted["found"], overfitted["membership"]
    ratio = roc(lira(found[target], found[3:35], membership[3:35]), membership[target])
    loss = roc(loss_attack(losses(overfitted["answers"][target], overfitted["labels"])), membership[target])
    assert ratio.auc > loss.auc + 0.02
    assert ratio.auc > 0.75 and ratio.tpr_at(0.01) > 0.1
    assert ratio.auc > ratio.chance_auc(1 - 1e-6)[1]
    assert ratio.tpr_at(0.01) > ratio.chance_tpr(0.01, 0.998)[1]


@pytest.mark.parametrize("variance", ["record", "global"])
def test_without_models_that_saw_the_record_the_attack_still_finds_members(
    overfitted: dict[str, Any], variance: Any
) -> None:
    """The offline variant, with 16 models that saw other records."""
    found, membership = overfitted["found"], overfitted["membership"]
    result = roc(lira(found[1], found[35:], membership[35:], variance=variance), membership[1])
    assert result.auc > result.chance_auc(1 - 1e-6)[1]


def test_a_model_that_never_saw_the_records_leaves_every_attack_at_chance(overfitted: dict[str, Any]) -> None:
    """Wrong once in a million seeds for each figure; the seed is fixed."""
    found, membership = overfitted["found"], overfitted["membership"]
    truth = np.random.default_rng(5).permutation(bools(RECORDS, RECORDS // 2))
    for scores in (
        lira(found[0], found[3:35], membership[3:35]),
        loss_attack(losses(overfitted["answers"][0], overfitted["labels"])),
    ):
        result = roc(scores, truth)
        low, high = result.chance_auc(1 - 1e-6)
        assert low <= result.auc <= high
        assert result.tpr_at(0.01) <= result.chance_tpr(0.01, 1 - 1e-6)[1]


def test_the_ratio_is_that_of_the_fitted_normal_laws() -> None:
    random = np.random.default_rng(3)
    shadows, inside = random.normal(size=(12, 5)), draw_membership(12, 5, seed=0)
    target = random.normal(size=5)
    for record, score in enumerate(lira(target, shadows, inside, variance="record")):
        with_it, without = shadows[inside[:, record], record], shadows[~inside[:, record], record]
        expected = stats.norm.logpdf(target[record], with_it.mean(), with_it.std(ddof=1)) - stats.norm.logpdf(
            target[record], without.mean(), without.std(ddof=1)
        )
        assert score == pytest.approx(expected)


def test_few_shadow_models_share_one_variance() -> None:
    random = np.random.default_rng(4)
    for models, like in ((62, "global"), (64, "record")):
        shadows, inside = random.normal(size=(models, 6)), draw_membership(models, 6, seed=0)
        target = random.normal(size=6)
        expected = lira(target, shadows, inside, variance=like)  # type: ignore[arg-type]
        assert (lira(target, shadows, inside) == expected).all()
    alike = lira(np.zeros(3), np.zeros((4, 3)), draw_membership(4, 3, 0))
    assert np.isfinite(alike).all() and len(set(alike.tolist())) == 1  # models that agree tell nothing


@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=60))
def test_area_and_rates_are_those_of_scikit_learn(drawn: list[tuple[int, bool]]) -> None:
    scores, members = np.array([float(score) for score, _ in drawn]), np.array([member for _, member in drawn])
    members[:2] = True, False
    result = roc(scores, members)
    assert result.auc == pytest.approx(metrics.roc_auc_score(members, scores))
    false_rates, true_rates, _ = metrics.roc_curve(members, scores, drop_intermediate=False)
    assert result.false_positive_rates == pytest.approx(false_rates)
    assert result.true_positive_rates == pytest.approx(true_rates)
    for rate in (0.0, 0.01, 0.3, 1.0):
        assert result.tpr_at(rate) == pytest.approx(true_rates[false_rates <= rate].max())


def test_a_rate_counts_whole_records_whatever_the_rounding() -> None:
    """0.29 * 100 is a bit below 29 in floating point: 29 false alarms are allowed all the same."""
    scores = np.concatenate((np.arange(100.0), [71.5]))
    assert roc(scores, np.arange(101) == 100).tpr_at(0.29) == 1.0


def test_scores_that_know_nothing_are_in_the_interval_as_often_as_it_says() -> None:
    """4,000 orders drawn: each fraction is within four standard deviations of its share, or beyond on the safe side."""
    random = np.random.default_rng(7)
    members = bools(150, 70)
    results = [roc(random.random(150), members) for _ in range(4000)]
    low, high = results[0].chance_auc(0.9)
    slack = 4 * np.sqrt(0.09 / 4000)
    assert 0.9 - slack < np.mean([low <= found.auc <= high for found in results]) < 0.9 + slack
    for rate in (0.0, 0.02, 0.1):
        low, high = results[0].chance_tpr(rate, 0.9)
        found = np.array([one.tpr_at(rate) for one in results])
        assert np.mean((low <= found) & (found <= high)) > 0.9 - slack
        assert np.mean(found >= high) > 0.05 - slack  # the end is not further out than it must be


def test_constant_scores_are_a_coin_and_perfect_ones_find_everybody() -> None:
    members = bools(40, 15)
    constant = roc(np.zeros(40), members)
    assert constant.auc == 0.5 and constant.tpr_at(0.01) == 0 and constant.tpr_at(1.0) == 1
    assert constant.chance_tpr(1.0) == (1.0, 1.0)
    perfect = roc(members.astype(float), members)
    assert perfect.auc == 1 and perfect.tpr_at(0.0) == 1
    low, high = perfect.tpr_interval(0.01)
    assert low == pytest.approx(0.025 ** (1 / 15)) and high == 1  # Clopper and Pearson, of 15 out of 15


def test_confidences_keep_their_digits_near_certainty() -> None:
    values = np.array([[0.0, 800.0, 0.0], [1.0, 2.0, 3.0]])
    found = confidences(values, np.array([1, 0]))
    odds = np.exp(1) / (np.exp(2) + np.exp(3))
    assert found == pytest.approx([800 - np.log(2), np.log(odds)])
    assert confidences(np.stack((values, values)), np.array([1, 0])).shape == (2, 2)


def test_a_step_on_a_batch_goes_against_its_records_gradients() -> None:
    random = np.random.default_rng(8)
    inputs, labels = random.normal(size=(200, 150)), random.integers(5, size=200)
    weights = np.zeros((1, 200), bool)
    weights[0, :1] = True
    start = {name: array[0] for name, array in train_shadows(inputs, labels, weights, classes=5, epochs=0).items()}
    gradients = record_gradients(start, inputs, labels)
    batch = bools(200, 20)
    step = {name: -array[batch].mean(axis=0) for name, array in gradients.items()}
    result = roc(update_alignment(step, gradients), batch)
    assert result.auc > max(0.8, result.chance_auc(1 - 1e-6)[1])
    noise = {name: random.normal(size=array.shape) for name, array in step.items()}
    low, high = result.chance_auc(1 - 1e-6)
    assert low < roc(update_alignment(noise, gradients), batch).auc < high
    hidden = {name: step[name] + noise[name] for name in step}  # as noise of the clients hides it
    assert low < roc(update_alignment(hidden, gradients), batch).auc < high
    silent = {name: np.zeros_like(array) for name, array in gradients.items()}
    assert not update_alignment(step, silent).any()  # a record without a gradient tells nothing, and raises nothing


def refused(text: str, call: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(ConfigError, match=text):
        call(*arguments, **options)


def test_figures_of_what_does_not_fit_are_refused() -> None:
    two = np.array([True, False])
    refused("needed \\(records,\\)", roc, np.zeros((2, 2)), two)
    refused("not finite", roc, [0.0, np.nan], two)
    refused("needed \\(2,\\) of bool", roc, np.zeros(2), [1, 0])
    refused("found 2 members and 0 others", roc, np.zeros(2), np.array([True, True]))
    refused("found 0 members", roc, np.zeros(2), np.array([False, False]))
    result = roc(np.zeros(2), two)
    for rate in (-0.1, 1.1, np.nan):
        refused("false positive rate", result.tpr_at, rate)
        refused("false positive rate", result.chance_tpr, rate)
    for confidence in (0.0, 1.0, np.nan):
        refused("confidence", result.chance_auc, confidence)
        refused("confidence", result.chance_tpr, 0.1, confidence)
        refused("confidence", result.tpr_interval, 0.1, confidence)


def test_attacks_on_what_does_not_fit_are_refused() -> None:
    inside = draw_membership(4, 3, seed=0)
    shadows, target = np.random.default_rng(0).normal(size=(4, 3)), np.zeros(3)
    refused("losses", loss_attack, np.zeros((2, 1)))
    refused("losses: a value is not finite", loss_attack, [np.inf])
    refused("target confidences have shape", lira, np.zeros((1, 3)), shadows, inside)
    refused("target confidences: a value is not finite", lira, [0, 0, np.nan], shadows, inside)
    refused("needed \\(models, 3\\)", lira, target, shadows[:, :2], inside[:, :2])
    refused("needed \\(models, 3\\)", lira, target, shadows, inside.astype(int))
    refused("found 1 shadow models, needed at least 2", lira, target, shadows[:1], inside[:1])
    refused("shadow model is not finite", lira, target, np.full((4, 3), np.nan), inside)
    refused("'auto', 'record' or 'global'", lira, target, shadows, inside, variance="none")
    refused("record 0 has no shadow model without it", lira, target, shadows, np.ones((4, 3), bool))
    some = inside.copy()
    some[:, 1] = False
    refused("record 1 has no shadow model with it", lira, target, shadows, some)
    pair = draw_membership(2, 3, seed=0)
    refused("every record has one shadow model", lira, target, shadows[:2], pair)
    refused("record 0 has one shadow model", lira, target, shadows[:2], pair, variance="record")


def test_logits_and_updates_that_do_not_fit_are_refused() -> None:
    refused("two classes or more", confidences, np.zeros((3, 1)), np.zeros(3, int))
    refused("two classes or more", confidences, np.zeros((3, 2)), np.zeros(2, int))
    refused("a logit is not finite", confidences, [[0.0, np.nan]], [0])
    refused("whole numbers from 0 to 1", confidences, np.zeros((1, 2)), [2])
    refused("whole numbers from 0 to 1", confidences, np.zeros((1, 2)), [0.0])
    refused("found 0 arrays", update_alignment, {}, {})
    refused("leading axis of records", update_alignment, {"w": 1.0}, {"w": 2.0})
    refused("missing or unknown", update_alignment, {"w": np.ones(2)}, {"v": np.ones((3, 2))})
    refused("gradient w has shape", update_alignment, {"w": np.ones(2)}, {"w": np.ones((3, 4))})
    refused("update w has a value", update_alignment, {"w": [np.nan, 1]}, {"w": np.ones((3, 2))})
