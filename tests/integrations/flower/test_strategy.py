"""The wrapped strategies, over a grid in this process."""

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import strategy as strategies
from flwr.serverapp.strategy import FedAvg, Strategy

import secfed
from secfed import dp
from secfed.aggregation import LowRank
from secfed.errors import BudgetExceededError, ConfigError, TooFewSurvivorsError
from secfed.integrations.flower import SecureMod, SecureStrategy
from secfed.integrations.flower.records import RECORD
from tests.integrations.flower.apps import STEP, app, model
from tests.integrations.flower.grid import InProcessGrid

NODES = (3, 5, 8, 2**63 + 11, 16)  # Flower's ids use all 64 bits
AGGREGATOR = secfed.SecAgg(threshold=3, clip=0.25, max_weight=2**10)
NUMBERS = dict(zip(NODES, (3, 5, 8, 11, 16), strict=True))


def grid_of(*mods: Any) -> InProcessGrid:
    grid = InProcessGrid({node: app(mods) for node in NODES})
    for node, party in grid.nodes.items():
        party.context.node_id = NUMBERS[node]  # what the app computes with
    return grid


def arrays_of(record: ArrayRecord) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in record.items()}


def stage_of(message: Message) -> str | None:
    record = message.content.config_records.get(RECORD) if message.has_content() else None
    return str(record["stage"]) if record else None


def weighted(numbers: list[int]) -> float:
    """The mean step of these nodes, weighted by their numbers of examples."""
    return STEP * sum(number * number for number in numbers) / sum(numbers)


INNER = {
    "FedAvg": {},
    "FedAvgM": {"server_learning_rate": 0.5, "server_momentum": 0.9},
    "FedProx": {"proximal_mu": 0.1},
    "FedAdam": {"tau": 0.1},
    "FedAdagrad": {"tau": 0.1},
    "FedYogi": {"tau": 0.1},
}


@pytest.mark.parametrize("name", INNER)
def test_secure_model_is_that_of_the_plain_strategy(name: str) -> None:
    def strategy() -> Strategy:
        return getattr(strategies, name)(fraction_evaluate=0.0, **INNER[name])

    plain = strategy().start(grid_of(), model(), num_rounds=3)
    secure = SecureStrategy(strategy(), AGGREGATOR).start(grid_of(SecureMod()), model(), num_rounds=3)
    for key, array in arrays_of(plain.arrays).items():
        assert secure.arrays[key].numpy().dtype == array.dtype
        np.testing.assert_allclose(secure.arrays[key].numpy(), array, atol=2e-4)


def test_each_node_gets_a_message_of_its_own() -> None:
    grid = grid_of(SecureMod())
    SecureStrategy(FedAvg(fraction_evaluate=0.0), AGGREGATOR).start(grid, model(), num_rounds=1)
    first = [message for message in grid.sent if stage_of(message) == "ADVERTISE_KEYS"]
    assert len({id(message.content) for message in first}) == len(NODES)
    assert sorted(message.content[RECORD]["client-id"] for message in first) == [1, 2, 3, 4, 5]
    assert len(grid.sent) == 4 * len(NODES), "four trips"


@pytest.mark.parametrize("stage", ["ADVERTISE_KEYS", "SHARE_KEYS", "MASKED_INPUT_COLLECTION", "UNMASKING"])
def test_silent_node_drops_out_and_the_mean_is_right(stage: str) -> None:
    grid, silent = grid_of(SecureMod()), NODES[1]
    grid.silent = lambda node, message: node == silent and stage_of(message) == stage
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), AGGREGATOR, stage_timeout=0.3)
    result = strategy.start(grid, model(), num_rounds=1)
    gone = stage != "UNMASKING"  # then its input is in the sum already
    numbers = [number for node, number in NUMBERS.items() if node != silent or not gone]
    np.testing.assert_allclose(result.arrays["layer.weight"].numpy(), weighted(numbers), atol=1e-4)
    [report] = strategy.reports
    assert set(report.survivors) == {node for node in NODES if node != silent or not gone}
    assert set(report.dropouts) == ({silent} if gone else set())


def test_node_that_fails_in_training_never_enters_the_session() -> None:
    def fail(node: int) -> None:
        if node == NUMBERS[NODES[2]]:
            raise RuntimeError("out of memory")

    grid = InProcessGrid({node: app([SecureMod()], trained=fail) for node in NODES})
    for node, party in grid.nodes.items():
        party.context.node_id = NUMBERS[node]
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), AGGREGATOR)
    strategy.start(grid, model(), num_rounds=1)
    [report] = strategy.reports
    assert "out of memory" in report.dropouts[NODES[2]] and len(report.survivors) == 4
    assert not any(
        message.metadata.dst_node_id == NODES[2] and stage_of(message) == "SHARE_KEYS" for message in grid.sent
    )


def test_too_few_survivors_end_the_run() -> None:
    grid = grid_of(SecureMod())
    grid.silent = lambda node, message: node in NODES[:3] and stage_of(message) == "MASKED_INPUT_COLLECTION"
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), AGGREGATOR, stage_timeout=0.3)
    with pytest.raises(TooFewSurvivorsError) as raised:
        strategy.start(grid, model(), num_rounds=2)
    assert strategy.reports[0].failure.startswith("TooFewSurvivorsError")
    assert strategy.reports[0].dropouts == dict.fromkeys(NODES[:3], "no answer in time")
    assert sorted(raised.value.__notes__) == sorted(f"node {node} dropped out: no answer in time" for node in NODES[:3])


def test_error_of_a_failed_round_says_why_nodes_dropped_out() -> None:
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), AGGREGATOR, metrics={"loss": 4.0})
    with pytest.raises(TooFewSurvivorsError) as raised:
        strategy.start(grid_of(SecureMod()), model(), num_rounds=1)
    *reasons, more = raised.value.__notes__
    assert len(reasons) == 3 and more == f"and {len(NODES) - 3} more nodes"
    assert all("F6" in reason and "SecureMod(metrics=[...]) allows them" in reason for reason in reasons)


def test_privacy_for_more_survivors_than_nodes_is_refused() -> None:
    privacy = secfed.DistributedGaussian(clip_norm=0.1, noise_multiplier=1.0, minimum_survivors=20)
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), secfed.SecAgg(), privacy=privacy)
    with pytest.raises(ConfigError, match="the round has 5 nodes, privacy with minimum_survivors 20"):
        strategy.start(grid_of(SecureMod(privacy=privacy)), model(), num_rounds=1)


def test_rounds_that_may_fail_leave_the_model_as_it_was() -> None:
    grid = grid_of(SecureMod())
    grid.silent = lambda node, message: (
        node in NODES[:3] and message.metadata.group_id == "1" and stage_of(message) == "SHARE_KEYS"
    )
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), AGGREGATOR, stage_timeout=0.3, failed_rounds=1)
    result = strategy.start(grid, model(), num_rounds=2)
    assert [bool(report.failure) for report in strategy.reports] == [True, False]
    np.testing.assert_allclose(result.arrays["layer.weight"].numpy(), weighted(list(NUMBERS.values())), atol=1e-4)


def test_metrics_are_averaged_inside_the_sum_and_nothing_else_leaves() -> None:
    grid = grid_of(SecureMod(metrics=["loss"], evaluation_metrics=["num-examples", "accuracy"]))
    strategy = SecureStrategy(FedAvg(), AGGREGATOR, metrics={"loss": 4.0})
    result = strategy.start(grid, model(), num_rounds=1)
    expected = sum(number * number / 8 for number in NUMBERS.values()) / sum(NUMBERS.values())
    assert result.train_metrics_clientapp[1]["loss"] == pytest.approx(expected, abs=1e-3)
    assert result.evaluate_metrics_clientapp[1] == {"accuracy": 0.5}
    for reply in grid.replies:
        found = {name for record in reply.content.metric_records.values() for name in record}
        training = reply.metadata.message_type == "train"
        assert found == (set() if training else {"num-examples", "accuracy"})
        assert set(reply.content) == ({RECORD, "secfed.payload"} if training else {"metrics"})


def test_arrays_that_are_no_floats_stay_as_they_are() -> None:
    extra = {
        "batches": np.array(5, np.int64),
        "half": np.ones(3, np.float16),
        "double": np.ones((2, 2), np.float64),
        "scalar": np.array(1.0, np.float32),
    }
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), AGGREGATOR)
    result = arrays_of(strategy.start(grid_of(SecureMod()), model(extra=extra), num_rounds=1).arrays)
    assert list(result) == ["layer.weight", "layer.bias", *extra]
    assert result["batches"] == 5 and result["batches"].dtype == np.int64
    step = weighted(list(NUMBERS.values()))
    for name in ("half", "double", "scalar"):
        assert result[name].dtype == extra[name].dtype and result[name].shape == extra[name].shape
        np.testing.assert_allclose(result[name].astype(float), 1 + step, atol=1e-3)


CENTRAL = secfed.CentralGaussian(clip_norm=0.1, noise_multiplier=1.0)
DISTRIBUTED = secfed.DistributedGaussian(clip_norm=0.1, noise_multiplier=1.0, layers=3, minimum_survivors=3)


@pytest.mark.parametrize("privacy", [CENTRAL, DISTRIBUTED], ids=["central", "distributed"])
def test_private_rounds_are_noisy_and_accounted(privacy: Any) -> None:
    grid = grid_of(SecureMod(privacy=privacy))
    big = {"wide": np.zeros(2000, np.float32)}
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), AGGREGATOR, privacy=privacy)
    result = strategy.start(grid, model(extra=big), num_rounds=2)
    # Every update is longer than the clip, so its mean is the clip spread over 2,014 values; two rounds of noise.
    values = result.arrays["wide"].numpy() - 2 * 0.1 / np.sqrt(2014)
    assert np.std(values) == pytest.approx(np.sqrt(2) * 0.1 / len(NODES), rel=0.1)
    expected = dp.Accountant().compose(dp.Gaussian(noise_multiplier=1.0), count=2).epsilon(1e-5)
    assert strategy.accountant.epsilon(1e-5) == pytest.approx(expected, rel=0.02)
    assert all(report.event for report in strategy.reports)
    assert all(party.files() == {"round"} for party in grid.nodes.values())


def test_round_beyond_the_budget_sends_nothing(tmp_path: Any) -> None:
    grid = grid_of(SecureMod(privacy=CENTRAL))
    ledger = dp.Ledger.create(tmp_path / "spent.db", epsilon=7.0, delta=1e-5)
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), AGGREGATOR, privacy=CENTRAL, ledger=ledger)
    with pytest.raises(BudgetExceededError):
        strategy.start(grid, model(), num_rounds=5)
    rounds = len(strategy.reports)
    assert 1 <= rounds < 5 and not any(message.metadata.group_id == str(rounds + 1) for message in grid.sent)
    assert ledger.accountant().epsilon(1e-5) == pytest.approx(strategy.accountant.epsilon(1e-5))


def test_failed_round_gives_its_budget_back() -> None:
    grid = grid_of(SecureMod(privacy=CENTRAL))
    grid.silent = lambda node, message: node in NODES[:3] and stage_of(message) == "SHARE_KEYS"
    strategy = SecureStrategy(
        FedAvg(fraction_evaluate=0.0), AGGREGATOR, privacy=CENTRAL, budget=(9.0, 1e-5), stage_timeout=0.3
    )
    with pytest.raises(TooFewSurvivorsError):
        strategy.start(grid, model(), num_rounds=1)
    assert strategy.accountant.epsilon(1e-5) == 0


@pytest.mark.parametrize("name", ["FedMedian", "Krum", "MultiKrum", "Bulyan", "FedTrimmedAvg", "QFedAvg"])
def test_strategies_that_need_single_updates_are_refused(name: str) -> None:
    needed = {"Krum": {"num_malicious_nodes": 1}, "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 1}}
    needed["QFedAvg"] = {"client_learning_rate": 0.1}
    inner = getattr(strategies, name)(**needed.get(name, {}))
    with pytest.raises(ConfigError, match="each client's single update"):
        SecureStrategy(inner, AGGREGATOR)


def test_strategies_with_noise_of_their_own_are_refused() -> None:
    inner = strategies.DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 5)
    with pytest.raises(ConfigError, match="CentralGaussian"):
        SecureStrategy(inner, AGGREGATOR)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"aggregator": secfed.Plain()}, "must be secfed.SecAgg"),
        ({"aggregator": secfed.SecAgg(clip=1.0)}, "needs max_weight"),
        ({"aggregator": secfed.SecAgg(max_weight=9, rounding_seed=1)}, "rounding_seed has no effect"),
        ({"aggregator": secfed.SecAgg(max_weight=9, progress=print)}, "progress has no effect"),
        ({"aggregator": secfed.SecAgg(max_weight=9, bits=4, scale_weights=True)}, "are not supported here"),
        ({"aggregator": secfed.SecAgg(max_weight=9, compression=LowRank(2))}, "compression LowRank.* not supported"),
        ({"aggregator": secfed.SecAgg(max_weight=9, clip={"w": 1.0})}, "for each array is not supported"),
        ({"privacy": secfed.CentralGaussian([1.0, 2.0], 1.0)}, "for each array is not supported"),
        ({"aggregator": secfed.SecAgg(max_weight=9, adversary="malicious_server")}, "roster"),
        ({"roster": {1: bytes(32)}}, "roster"),
        ({"budget": (1.0, 1e-5)}, "without privacy"),
        ({"privacy": secfed.CentralGaussian(1.0, 1.0, population=9, sampling_rate=0.5)}, "sampling_rate"),
        ({"privacy": CENTRAL, "metrics": {"loss": 1.0}}, "noise does not cover"),
        ({"metrics": {"loss": 0.0}}, "above 0"),
        ({"metrics": {"loss": float("inf")}}, "above 0 and finite"),
        ({"stage_timeout": 0}, "stage_timeout"),
        ({"failed_rounds": -1}, "failed_rounds"),
        ({"strategy": "FedAvg"}, "must be a strategy"),
    ],
)
def test_options_without_effect_or_out_of_range_are_refused(options: dict[str, Any], text: str) -> None:
    settings = {"strategy": FedAvg(), "aggregator": AGGREGATOR, **options}
    with pytest.raises(ConfigError, match=text):
        SecureStrategy(settings.pop("strategy"), settings.pop("aggregator"), **settings)


def test_configure_train_without_nodes_sends_nothing() -> None:
    strategy = SecureStrategy(FedAvg(fraction_train=0.0, fraction_evaluate=0.0), AGGREGATOR)
    assert list(strategy.configure_train(1, model(), ConfigRecord(), grid_of(SecureMod()))) == []
    assert strategy.aggregate_train(1, []) == (None, None)


@pytest.mark.parametrize(("smallest", "largest"), [(1, 9000), (199_000, 200_000)])
def test_weights_of_any_size_cost_no_precision(smallest: int, largest: int) -> None:
    """Weights multiply whole numbers: neither small ones lose digits nor large ones wrap."""
    grid = InProcessGrid({node: app([SecureMod()]) for node in NODES[:3]})
    weights = np.array([smallest, largest - 1, largest])
    for weight, party in zip(weights.tolist(), grid.nodes.values(), strict=True):
        party.context.node_id = weight
    aggregator = secfed.SecAgg(threshold=2, clip=1000.0, max_weight=2**18)
    result = SecureStrategy(FedAvg(fraction_evaluate=0.0), aggregator).start(grid, model(), num_rounds=1)
    expected = STEP * (weights.astype(float) ** 2).sum() / weights.sum()
    step = 1000.0 / (2**11 - 1)  # 12 bits at least
    np.testing.assert_allclose(result.arrays["layer.weight"].numpy(), expected, atol=2 * step)
