"""Attacks that once worked: a server that asks what it must not learn, and clients that break the round for others."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

import secfed
from secfed import dp
from secfed.errors import TooFewSurvivorsError
from secfed.integrations.flower import SecureMod, SecureStrategy, create_identity, read_roster
from secfed.integrations.flower.mod import REFUSED
from secfed.integrations.flower.records import PAYLOAD, RECORD, payload, payload_bytes
from secfed.secagg.messages import MaskedInputCollectionResponse
from tests.integrations.flower.apps import STEP, app, model
from tests.integrations.flower.grid import InProcessGrid

NODES = (2, 3, 4, 5, 6)
AGGREGATOR = secfed.SecAgg(threshold=3, clip=0.25, max_weight=2**10)


def grid_of(mod: SecureMod | None = None) -> InProcessGrid:
    return InProcessGrid({node: app([mod or SecureMod()]) for node in NODES})


def run(grid: InProcessGrid, aggregator: Any = AGGREGATOR, rounds: int = 1, **options: Any) -> SecureStrategy:
    inner = options.pop("strategy", None) or FedAvg(fraction_evaluate=0.0)
    strategy = SecureStrategy(inner, aggregator, stage_timeout=0.3, **options)
    strategy.result = strategy.start(grid, model(), num_rounds=rounds)
    return strategy


def stage_of(content: RecordDict) -> str:
    return str(content.config_records[RECORD]["stage"]) if RECORD in content else ""


def errors(grid: InProcessGrid) -> list[str]:
    assert all(reply.error.code == REFUSED for reply in grid.replies if reply.has_error())
    return [reply.error.reason for reply in grid.replies if reply.has_error()]


def mean_of(nodes: Any, weight: Any = lambda node: node) -> float:
    return STEP * sum(node * weight(node) for node in nodes) / sum(weight(node) for node in nodes)


def own_app(metrics: dict[str, Any], change: Any = STEP, mod: SecureMod | None = None) -> ClientApp:
    """An app whose training gives these metrics and this change of every value."""
    client_app = ClientApp(mods=[mod or SecureMod()])

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = {name: Array(array.numpy() + np.float32(change)) for name, array in message.content["arrays"].items()}
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)})
        return Message(content, reply_to=message)

    return client_app


def test_server_cannot_have_another_metric_summed_as_the_weight() -> None:
    grid = grid_of()
    with pytest.raises(TooFewSurvivorsError):
        run(grid, strategy=FedAvg(fraction_evaluate=0.0, weighted_by_key="secret"))
    assert len(errors(grid)) == len(NODES) and all("F6" in text for text in errors(grid))


def test_client_names_the_metric_that_is_its_weight() -> None:
    grid = InProcessGrid({node: own_app({"images": node}, mod=SecureMod(weight="images")) for node in NODES})
    strategy = run(grid, strategy=FedAvg(fraction_evaluate=0.0, weighted_by_key="images"))
    assert len(strategy.reports[0].survivors) == len(NODES)


def test_largest_weight_does_not_tell_which_clients_have_more() -> None:
    """A refusal would: the server could find each client's number of examples by bisection, a round for each bit."""
    grid = grid_of()
    strategy = run(grid, secfed.SecAgg(threshold=3, clip=0.25, max_weight=4))
    assert errors(grid) == [] and len(strategy.reports[0].survivors) == len(NODES)
    expected = mean_of(NODES, lambda node: min(node, 4))
    np.testing.assert_allclose(strategy.result.arrays["layer.weight"].numpy(), expected, atol=1e-4)


def test_bound_of_a_metric_does_not_tell_which_clients_are_above_it() -> None:
    """A quotient that overflows would make those drop out whose metric is not 0, or above a limit of one's choice."""
    grid = InProcessGrid(
        {node: own_app({"num-examples": 1, "loss": float(node > 4)}, mod=SecureMod(metrics=["loss"])) for node in NODES}
    )
    strategy = run(grid, metrics={"loss": 5e-324})
    assert errors(grid) == [] and len(strategy.reports[0].survivors) == len(NODES)


@pytest.mark.parametrize("metrics", [{"num-examples": 7.25}, {"num-examples": 0}, {"num-examples": [7.25]}])
def test_refused_result_of_the_training_is_not_described_to_the_server(metrics: dict[str, Any]) -> None:
    grid = InProcessGrid({node: own_app(metrics if node == 4 else {"num-examples": 1}) for node in NODES})
    run(grid)
    [text] = errors(grid)
    assert "this client's own log says why" in text and "7" not in text


def test_place_of_a_value_that_is_not_finite_is_not_told() -> None:
    grid = InProcessGrid({node: own_app({"num-examples": 1}, np.nan if node == 4 else STEP) for node in NODES})
    run(grid)
    [text] = errors(grid)
    assert "this client's own log says why" in text and "finite" not in text and "index" not in text


class PickyStrategy(FedAvg):
    """Tells all nodes but one to train with a learning rate of 0: the sum is then that one's update."""

    def configure_train(self, *arguments: Any) -> Any:
        for message in super().configure_train(*arguments):
            rate = 1.0 if message.metadata.dst_node_id == 4 else 0.0
            content = RecordDict({**message.content, "config": ConfigRecord({"lr": rate})})
            yield Message(content, message.metadata.dst_node_id, message.metadata.message_type)


def test_strategy_that_tells_nodes_different_things_is_refused() -> None:
    with pytest.raises(secfed.errors.ConfigError, match="different"):
        run(grid_of(), strategy=PickyStrategy(fraction_evaluate=0.0))


@pytest.mark.parametrize("change", ["config", "metrics", "new record", "message type"])
def test_client_refuses_a_task_that_is_not_the_sessions(change: str) -> None:
    grid = grid_of()

    def to_node(node: int, content: RecordDict) -> RecordDict:
        if node == 4 and "arrays" in content:
            if change == "config":
                content["config"] = ConfigRecord({**content["config"], "lr": 0.0})
            elif change != "message type":
                content["metrics" if change == "metrics" else "more"] = MetricRecord({"lr": 0.0})
        return content

    grid.to_node = to_node
    if change == "message type":
        inner = FedAvg(fraction_evaluate=0.0)
        strategy = SecureStrategy(inner, AGGREGATOR, stage_timeout=0.3)
        messages = list(strategy.configure_train(1, model(), ConfigRecord(), grid))
        replies = []
        for message in messages:
            other = "train.other" if message.metadata.dst_node_id == 4 else "train"
            [name] = grid.push_messages([Message(message.content, message.metadata.dst_node_id, other)])
            replies += grid.pull_messages([name])
        strategy.aggregate_train(1, replies)
    else:
        strategy = run(grid)
    assert "F4" in strategy.reports[0].dropouts[4] and len(strategy.reports[0].survivors) == 4


def archive() -> Array:
    """An array of Flower's whose bytes NumPy reads as an archive, which is no array."""
    file = io.BytesIO()
    np.savez(file, bytes=np.zeros(3, np.uint8))
    return Array("uint8", (3,), "numpy.ndarray", file.getvalue())


@pytest.mark.parametrize("stage", ["ADVERTISE_KEYS", "MASKED_INPUT_COLLECTION", "UNMASKING"])
def test_payload_that_is_an_archive_harms_nobody_else(stage: str) -> None:
    grid = grid_of()

    def to_server(node: int, content: RecordDict) -> RecordDict:
        if node == 4 and stage_of(content) == stage:
            content[PAYLOAD] = ArrayRecord({"bytes": archive()})
        return content

    grid.to_server = to_server
    strategy = run(grid)
    assert len(strategy.reports[0].survivors) == (5 if stage == "UNMASKING" else 4)


def test_sum_that_no_weights_give_fails_the_round_and_not_the_run() -> None:
    grid, spoiled = grid_of(), []

    def to_server(node: int, content: RecordDict) -> RecordDict:
        if node == 4 and not spoiled and stage_of(content) == "MASKED_INPUT_COLLECTION":
            spoiled.append(node)
            response = MaskedInputCollectionResponse.from_bytes(payload_bytes(content[PAYLOAD]))
            masked = response.masked[:-2] + bytes([response.masked[-2] ^ 0xFF]) + response.masked[-1:]
            content[PAYLOAD] = payload(replace(response, masked=masked).to_bytes())
        return content

    grid.to_server = to_server
    strategy = run(grid, rounds=2, failed_rounds=1)
    assert [bool(report.failure) for report in strategy.reports] == [True, False]


def test_long_reason_of_a_failure_is_cut() -> None:
    class LongError(Exception):
        pass

    def fail(node: int) -> None:
        if node == 4:
            raise LongError("x" * 10**6 + "\nanother line")

    strategy = run(InProcessGrid({node: app([SecureMod()], trained=fail) for node in NODES}))
    assert len(strategy.reports[0].dropouts[4]) < 1000 and "\n" not in strategy.reports[0].dropouts[4]


DISTRIBUTED = secfed.DistributedGaussian(clip_norm=0.1, noise_multiplier=1.0, minimum_survivors=3)


@pytest.mark.parametrize(("stage", "spent"), [("UNMASKING", True), ("MASKED_INPUT_COLLECTION", False)])
def test_noisy_sum_that_clients_may_have_opened_is_spent(stage: str, spent: bool) -> None:
    """Answers that came too late lie with Flower's server, which the clients' noise guards against."""
    grid = grid_of(SecureMod(privacy=DISTRIBUTED))
    grid.silent = lambda node, message: node < 5 and message.has_content() and stage_of(message.content) == stage
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), AGGREGATOR, privacy=DISTRIBUTED, stage_timeout=0.3)
    with pytest.raises(TooFewSurvivorsError):
        strategy.start(grid, model(), num_rounds=1)
    assert (strategy.accountant.epsilon(1e-5) > 0) is spent


def test_round_that_was_interrupted_in_training_gives_its_budget_back(tmp_path: Path) -> None:
    ledger = dp.Ledger.create(tmp_path / "spent.db", epsilon=7.0, delta=1e-5)
    central = secfed.CentralGaussian(clip_norm=0.1, noise_multiplier=1.0)
    grid = grid_of(SecureMod(privacy=central))
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), AGGREGATOR, privacy=central, ledger=ledger)
    grid.send_and_receive = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        strategy.start(grid, model(), num_rounds=1)
    del grid.send_and_receive
    strategy.start(grid, model(), num_rounds=1)
    alone = dp.Accountant().compose(strategy.reports[0].event).epsilon(1e-5)
    assert ledger.accountant().epsilon(1e-5) == pytest.approx(alone)


def interrupt(*arguments: Any, **named: Any) -> Any:
    raise KeyboardInterrupt


def test_interrupted_server_lets_clients_forget() -> None:
    grid = grid_of()

    def to_server(node: int, content: RecordDict) -> RecordDict:
        if node == 4 and stage_of(content) == "MASKED_INPUT_COLLECTION":
            raise KeyboardInterrupt
        return content

    grid.to_server = to_server
    with pytest.raises(KeyboardInterrupt):
        run(grid)
    aborts = [message for message in grid.sent if stage_of(message.content) == "ABORT"]
    assert {message.metadata.dst_node_id for message in aborts} == set(NODES)


def test_run_may_train_twice_with_one_strategy_or_two() -> None:
    grid = grid_of()
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), AGGREGATOR)
    strategy.start(grid, model(), num_rounds=2)
    strategy.start(grid, model(), num_rounds=1)
    other = SecureStrategy(FedAvg(fraction_evaluate=0.0), AGGREGATOR)
    other.start(grid, model(), num_rounds=1)
    assert [report.round for report in strategy.reports] == [1, 2, 1] and errors(grid) == []


def test_negative_weight_does_not_lift_the_clip_under_noise() -> None:
    capped = secfed.CentralGaussian(clip_norm=0.1, noise_multiplier=1.0, weight_cap=10.0)
    grid = InProcessGrid(
        {node: own_app({"num-examples": -1e6 if node == 4 else 5}, mod=SecureMod(privacy=capped)) for node in NODES}
    )
    strategy = run(grid, privacy=capped)
    assert set(strategy.reports[0].dropouts) == {4} and "own log" in strategy.reports[0].dropouts[4]


@pytest.fixture
def identities(tmp_path: Path) -> Path:
    """A folder with the identity key of each node and the roster; node 2 is client 12, and so on."""
    keys = {node + 10: create_identity(tmp_path / f"identity{node}") for node in NODES}
    (tmp_path / "roster.json").write_text(json.dumps(keys))
    return tmp_path


MALICIOUS = secfed.SecAgg(threshold=4, clip=0.25, max_weight=2**10, adversary="malicious_server")


def malicious_grid(folder: Path, **more: Any) -> InProcessGrid:
    def node_config(node: int) -> dict[str, Any]:
        own = 4 if node == 9 else node  # client 14 has come back as node 9
        config = {"client-id": own + 10, "identity": f"{folder}/identity{own}", "roster": f"{folder}/roster.json"}
        return config | more.get(f"node{node}", {})

    return InProcessGrid({node: app([SecureMod()]) for node in more.get("nodes", NODES)}, node_config)


def test_node_that_claims_anothers_client_id_does_not_block_that_client(identities: Path) -> None:
    impostor = {"client-id": 14}  # with its own key
    grid = malicious_grid(identities, node2=impostor)
    strategy = run(grid, MALICIOUS, roster=read_roster(identities / "roster.json"))
    assert set(strategy.reports[0].dropouts) == {2} and 4 in strategy.reports[0].survivors


def test_client_that_comes_back_as_another_node_enrolls_again(identities: Path) -> None:
    grid = malicious_grid(identities, nodes=(*NODES, 9))
    grid.get_node_ids = lambda: [node for node in grid.nodes if node != gone]  # type: ignore[method-assign]
    gone = 9
    roster = read_roster(identities / "roster.json")
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), MALICIOUS, stage_timeout=0.3, roster=roster)
    strategy.start(grid, model(), num_rounds=1)
    gone = 4
    strategy.start(grid, model(), num_rounds=1)
    assert [set(report.survivors) for report in strategy.reports] == [{2, 3, 4, 5, 6}, {2, 3, 9, 5, 6}]


def test_round_in_which_too_few_enroll_may_fail(identities: Path) -> None:
    grid = malicious_grid(identities)
    grid.silent = lambda node, message: (
        node < 6 and message.metadata.group_id == "1" and stage_of(message.content) == "ENROLL"
    )
    strategy = run(grid, MALICIOUS, 2, failed_rounds=1, roster=read_roster(identities / "roster.json"))
    assert [len(report.survivors) for report in strategy.reports] == [0, 5] and strategy.reports[0].failure


def test_enrollment_of_one_node_does_not_enroll_another(identities: Path) -> None:
    grid = malicious_grid(identities, node2={"client-id": 14})
    answers: dict[int, RecordDict] = {}

    def to_server(node: int, content: RecordDict) -> RecordDict:
        if stage_of(content) == "ENROLL":
            answers[node] = content
        return answers.get(4, content) if node == 5 and stage_of(content) == "ENROLL" else content

    grid.to_server = to_server
    strategy = SecureStrategy(
        FedAvg(fraction_evaluate=0.0), MALICIOUS, stage_timeout=0.3, roster=read_roster(identities / "roster.json")
    )
    with pytest.raises(secfed.errors.SecFedError):
        strategy.start(grid, model(), num_rounds=1)
    assert 5 not in strategy._enrollment.client_of and strategy._enrollment.client_of[4] == 14
