"""What a client refuses, whatever the server sends; and what a client that misbehaves cannot break."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st

import secfed
from secfed.crypto.agreement import KeyPair
from secfed.errors import ConfigError, TooFewSurvivorsError
from secfed.integrations.flower import SecureMod, SecureStrategy, create_identity, read_roster
from secfed.integrations.flower.mod import REFUSED
from secfed.integrations.flower.records import PAYLOAD, RECORD, payload, payload_bytes
from secfed.secagg import Config, Policy
from secfed.secagg.messages import ShareKeysRequest, UnmaskingRequest
from tests.examples import examples
from tests.integrations.flower.apps import STEP, app, model
from tests.integrations.flower.grid import InProcessGrid

NODES = (2, 3, 4, 5, 6)
AGGREGATOR = secfed.SecAgg(threshold=3, clip=0.25, max_weight=2**10)


def grid_of(mod: SecureMod, trained: list[int] | None = None, **options: Any) -> InProcessGrid:
    log = trained if trained is not None else []
    return InProcessGrid({node: app([mod], trained=log.append) for node in NODES}, **options)


def run(grid: InProcessGrid, aggregator: secfed.SecAgg = AGGREGATOR, rounds: int = 1, **options: Any) -> SecureStrategy:
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), aggregator, stage_timeout=0.3, **options)
    strategy.result = strategy.start(grid, model(), num_rounds=rounds)
    return strategy


def mean_of(nodes: Any) -> float:
    return STEP * sum(node * node for node in nodes) / sum(nodes)


def stage_of(content: RecordDict) -> str:
    return str(content.config_records[RECORD]["stage"]) if RECORD in content else ""


def errors(grid: InProcessGrid) -> list[str]:
    assert all(reply.error.code == REFUSED for reply in grid.replies if reply.has_error())
    return [reply.error.reason for reply in grid.replies if reply.has_error()]


def ask(grid: InProcessGrid, content: RecordDict, message_type: str = "train", node: int = NODES[0]) -> Message:
    message = Message(content, node, message_type)
    [name] = grid.push_messages([message])
    [reply] = grid.pull_messages([name])
    return reply


@pytest.mark.parametrize("message_type", ["train", "train.default", "train.other"])
def test_training_without_our_record_is_refused_before_it_begins(message_type: str) -> None:
    trained: list[int] = []
    grid = grid_of(SecureMod(), trained)
    reply = ask(grid, RecordDict({"arrays": model(), "config": ConfigRecord()}), message_type)
    assert reply.error.code == REFUSED and "F1" in reply.error.reason and trained == []


@pytest.mark.parametrize("message_type", ["evaluate", "evaluate.default", "query"])
def test_nothing_leaves_in_the_clear_unless_it_is_allowed(message_type: str) -> None:
    content = RecordDict({"arrays": model(), "config": ConfigRecord()})
    assert "F7" in ask(grid_of(SecureMod()), content, message_type).error.reason
    open_mod = SecureMod(evaluation_metrics=["accuracy"], queries=True)
    if message_type == "query":
        assert ask(grid_of(open_mod), content, message_type).content["answer"]
    elif message_type == "evaluate":
        reply = ask(grid_of(open_mod), content, message_type)
        assert dict(reply.content) == {"metrics": reply.content["metrics"]}
        assert dict(reply.content["metrics"]) == {"accuracy": 0.5}


def test_no_message_is_answered_twice() -> None:
    """Two answers could differ by one copy of the masks, which is the update."""
    trained: list[int] = []
    grid = grid_of(SecureMod(), trained)
    run(grid, rounds=2)
    assert not errors(grid)
    for message in list(grid.sent):
        assert grid.deliver(message).has_error()
    assert sorted(trained) == sorted([*NODES, *NODES])


def test_request_repeated_within_its_stage_is_refused() -> None:
    grid, again = grid_of(SecureMod()), []

    def to_server(node: int, content: RecordDict) -> RecordDict:
        if node == NODES[0] and not again and stage_of(content) == "MASKED_INPUT_COLLECTION":
            again.append(None)
            request = next(one for one in reversed(grid.sent) if one.metadata.dst_node_id == node)
            again.append(grid.deliver(request))
        return content

    grid.to_server = to_server
    strategy = run(grid)
    assert again[1].has_error()
    # The refusal ended that client's session: its update is in the sum, and the others unmask it.
    assert len(strategy.reports[0].survivors) == len(NODES)


def test_secrets_are_gone_after_the_round_and_after_any_other_message() -> None:
    grid = grid_of(SecureMod())
    seen: dict[str, set[str]] = {}

    def to_server(node: int, content: RecordDict) -> RecordDict:
        seen[stage_of(content)] = grid.nodes[node].files()
        return content

    grid.to_server = to_server
    run(grid)
    stages = ("ADVERTISE_KEYS", "SHARE_KEYS", "MASKED_INPUT_COLLECTION")
    assert all(seen[stage] == {"round", "session"} for stage in stages)
    assert seen["UNMASKING"] == {"round"}

    grid = grid_of(SecureMod())
    grid.silent = lambda node, message: message.has_content() and stage_of(message.content) == "SHARE_KEYS"
    with pytest.raises(TooFewSurvivorsError):
        run(grid)
    assert grid.nodes[2].files() == {"round", "session"}
    ask(grid, RecordDict({"arrays": model(), "config": ConfigRecord()}), "evaluate")
    assert grid.nodes[2].files() == {"round"}


def test_server_that_gives_up_lets_clients_forget() -> None:
    grid = grid_of(SecureMod())
    grid.silent = lambda node, message: (
        message.has_content() and stage_of(message.content) == "MASKED_INPUT_COLLECTION" and node < 5
    )
    with pytest.raises(TooFewSurvivorsError):
        run(grid)
    aborts = [message for message in grid.sent if stage_of(message.content) == "ABORT"]
    assert {message.metadata.dst_node_id for message in aborts} == set(NODES)
    for message in aborts:
        grid.deliver(message)
        assert grid.nodes[message.metadata.dst_node_id].files() == {"round"}


def test_no_client_releases_both_shares_of_another() -> None:
    grid = grid_of(SecureMod())

    def to_node(node: int, content: RecordDict) -> RecordDict:
        if stage_of(content) == "UNMASKING":
            request = UnmaskingRequest.from_bytes(payload_bytes(content[PAYLOAD]))
            # Client 1 is a survivor and, at the same time, one whose mask key is asked for.
            greedy = UnmaskingRequest(request.survivors, b"\x01", request.signers, request.signatures)
            content[PAYLOAD] = payload(greedy.to_bytes())
        return content

    grid.to_node = to_node
    with pytest.raises(TooFewSurvivorsError):
        run(grid)
    assert len(errors(grid)) == len(NODES) and all("C18" in text for text in errors(grid))


@pytest.mark.parametrize(
    ("policy", "aggregator"),
    [
        (Policy(minimum_threshold=4), AGGREGATOR),
        (Policy(minimum_cohort=6), AGGREGATOR),
        (Policy(minimum_colluders=1), AGGREGATOR),
        (Policy(minimum_neighbors=4), secfed.SecAgg(threshold=2, neighbors=2, clip=0.25, max_weight=2**10)),
        (Policy(adversary="malicious_server"), AGGREGATOR),
    ],
)
def test_parameters_below_the_clients_policy_are_refused_before_training(
    policy: Policy, aggregator: secfed.SecAgg
) -> None:
    trained: list[int] = []
    grid = grid_of(SecureMod(policy=policy), trained)
    with pytest.raises(TooFewSurvivorsError):
        run(grid, aggregator)
    assert trained == [] and all("C4" in text for text in errors(grid)) and len(errors(grid)) == len(NODES)


def test_client_that_is_shown_another_model_refuses() -> None:
    trained: list[int] = []
    grid = grid_of(SecureMod(), trained)

    def to_node(node: int, content: RecordDict) -> RecordDict:
        if node == 4 and "arrays" in content:
            content["arrays"] = ArrayRecord({n: Array(a.numpy() + np.float32(1)) for n, a in content["arrays"].items()})
        return content

    grid.to_node = to_node
    strategy = run(grid)
    assert "F4" in strategy.reports[0].dropouts[4] and 4 not in trained
    others = [node for node in NODES if node != 4]
    np.testing.assert_allclose(strategy.result.arrays["layer.weight"].numpy(), mean_of(others), atol=1e-4)


CENTRAL = secfed.CentralGaussian(clip_norm=0.1, noise_multiplier=1.0)
LESS_NOISE = secfed.DistributedGaussian(clip_norm=0.1, noise_multiplier=0.5)
NOISE = secfed.DistributedGaussian(clip_norm=0.1, noise_multiplier=1.0)


@pytest.mark.parametrize(
    ("client", "server", "check"),
    [
        (CENTRAL, None, "F5"),
        (None, CENTRAL, "F5"),
        (CENTRAL, secfed.CentralGaussian(clip_norm=0.2, noise_multiplier=1.0), "T3"),
        (NOISE, CENTRAL, "T4"),
        (CENTRAL, NOISE, "T4"),
        (NOISE, LESS_NOISE, "T5"),
    ],
)
def test_privacy_that_is_not_the_clients_own_is_refused(client: Any, server: Any, check: str) -> None:
    trained: list[int] = []
    grid = grid_of(SecureMod(privacy=client), trained)
    with pytest.raises(TooFewSurvivorsError):
        run(grid, privacy=server)
    assert trained == [] and all(check in text for text in errors(grid)) and errors(grid)


def test_metric_that_must_not_leave_is_refused() -> None:
    grid = grid_of(SecureMod(metrics=["accuracy"]))
    with pytest.raises(TooFewSurvivorsError):
        run(grid, metrics={"loss": 1.0})
    assert all("F6" in text and "loss" in text for text in errors(grid))


@pytest.mark.parametrize("fault", ["no record", "no payload", "garbage", "short vector", "another stage", "floats"])
@pytest.mark.parametrize("stage", ["ADVERTISE_KEYS", "SHARE_KEYS", "MASKED_INPUT_COLLECTION"])
def test_bad_client_drops_out_and_harms_nobody_else(fault: str, stage: str) -> None:
    grid = grid_of(SecureMod())

    def to_server(node: int, content: RecordDict) -> RecordDict:
        if node == 4 and stage_of(content) == stage:
            data = payload_bytes(content[PAYLOAD])
            if fault == "no record":
                return RecordDict({"arrays": model()})
            if fault == "no payload":
                del content[PAYLOAD]
            elif fault == "another stage":
                content[RECORD] = ConfigRecord({**content[RECORD], "stage": "UNMASKING"})
            elif fault == "floats":
                content[PAYLOAD] = ArrayRecord({"bytes": Array(np.zeros(9))})
            else:
                content[PAYLOAD] = payload(data[:-1] if fault == "short vector" else bytes(len(data)))
        return content

    grid.to_server = to_server
    strategy = run(grid)
    assert set(strategy.reports[0].dropouts) == {4}
    others = [node for node in NODES if node != 4]
    np.testing.assert_allclose(strategy.result.arrays["layer.weight"].numpy(), mean_of(others), atol=1e-4)


def test_upload_takes_at_most_four_bytes_a_value() -> None:
    grid = grid_of(SecureMod())
    strategy = SecureStrategy(FedAvg(fraction_evaluate=0.0), AGGREGATOR)
    strategy.start(grid, model(extra={"wide": np.zeros(100_000, np.float32)}), num_rounds=1)
    assert max(strategy.reports[0].bytes_up.values()) <= 4 * 100_000


@pytest.mark.parametrize("neighbors", [2, 4])
def test_even_numbers_of_neighbors_work(neighbors: int) -> None:
    aggregator = secfed.SecAgg(threshold=2, neighbors=neighbors, clip=0.25, max_weight=2**10)
    if neighbors == 4:  # all others
        aggregator = secfed.SecAgg(threshold=3, clip=0.25, max_weight=2**10)
    strategy = run(grid_of(SecureMod()), aggregator)
    np.testing.assert_allclose(strategy.result.arrays["layer.weight"].numpy(), mean_of(NODES), atol=1e-4)


VALUES = st.one_of(
    st.booleans(), st.integers(-5, 2**63), st.floats(), st.text(max_size=9), st.binary(max_size=80),
    st.lists(st.text(max_size=3), max_size=3), st.lists(st.floats(), max_size=3),
)  # fmt: skip


@given(
    name=st.sampled_from(
        ["stage", "session", "client-id", "config", "transform", "weight", "metrics", "metric-bounds"]
    ),
    found=st.none() | VALUES,
    stage=st.sampled_from(["ADVERTISE_KEYS", "SHARE_KEYS", "MASKED_INPUT_COLLECTION", "UNMASKING"]),
)
@examples(25, 300)
def test_malformed_records_are_refused_by_name(name: str, found: Any, stage: str) -> None:
    grid = grid_of(SecureMod(metrics=["loss"]))

    def to_node(node: int, content: RecordDict) -> RecordDict:
        if node == 4 and stage_of(content) == stage and name in content[RECORD]:
            record = {key: value for key, value in content[RECORD].items() if key != name}
            content[RECORD] = ConfigRecord(record if found is None else {**record, name: found})
        return content

    grid.to_node = to_node
    run(grid, metrics={"loss": 4.0})
    assert all(text.split(":")[0].endswith("Error") for text in errors(grid))  # never code 2, a crash


@given(data=st.binary(max_size=200), stage=st.sampled_from(["SHARE_KEYS", "MASKED_INPUT_COLLECTION", "UNMASKING"]))
@examples(15, 200)
def test_malformed_payloads_are_refused_by_name(data: bytes, stage: str) -> None:
    grid = grid_of(SecureMod())

    def to_node(node: int, content: RecordDict) -> RecordDict:
        if node == 4 and stage_of(content) == stage:
            content[PAYLOAD] = payload(data)
        return content

    grid.to_node = to_node
    run(grid)
    assert all(text.split(":")[0].endswith("Error") for text in errors(grid)) and errors(grid)


SERVERS_KEY = KeyPair(b"\x01" * 32).public_bytes
MALICIOUS = secfed.SecAgg(threshold=4, clip=0.25, max_weight=2**10, adversary="malicious_server")


@pytest.fixture
def identities(tmp_path: Path) -> Path:
    """A folder with an identity key for each node and the roster; node 2 is client 12, and so on."""
    keys = {node + 10: create_identity(tmp_path / f"identity{node}") for node in NODES}
    (tmp_path / "roster.json").write_text(json.dumps(keys))
    return tmp_path


def config_in(folder: Path) -> Any:
    return lambda node: {
        "client-id": node + 10,
        "identity": str(folder / f"identity{node}"),
        "roster": str(folder / "roster.json"),
    }


def test_malicious_server_mode_takes_identities_from_the_nodes(identities: Path) -> None:
    grid = grid_of(SecureMod(policy=Policy(adversary="malicious_server")), node_config=config_in(identities))
    strategy = run(grid, MALICIOUS, rounds=2, roster=read_roster(identities / "roster.json"))
    assert [len(report.survivors) for report in strategy.reports] == [5, 5]
    enrollments = [message for message in grid.sent if stage_of(message.content) == "ENROLL"]
    assert len(enrollments) == len(NODES), "once, not in each round"
    opened = [message for message in grid.sent if stage_of(message.content) == "ADVERTISE_KEYS"]
    assert Config.from_bytes(opened[0].content[RECORD]["config"]).client_ids == (12, 13, 14, 15, 16)


def test_server_that_replaces_a_key_is_caught(identities: Path) -> None:
    grid = grid_of(SecureMod(), node_config=config_in(identities))

    def to_node(node: int, content: RecordDict) -> RecordDict:
        if stage_of(content) == "SHARE_KEYS":
            request = ShareKeysRequest.from_bytes(payload_bytes(content[PAYLOAD]))
            place = 32 * (node == 2)  # of the first client, or of the second where the first is the node itself
            keys = request.channel_keys[:place] + SERVERS_KEY + request.channel_keys[place + 32 :]
            content[PAYLOAD] = payload(replace(request, channel_keys=keys).to_bytes())
        return content

    grid.to_node = to_node
    with pytest.raises(TooFewSurvivorsError):
        run(grid, MALICIOUS, roster=read_roster(identities / "roster.json"))
    assert all("C8" in text for text in errors(grid)) and len(errors(grid)) == len(NODES)


def test_node_with_anothers_client_id_does_not_enroll(identities: Path) -> None:
    right = config_in(identities)
    grid = grid_of(SecureMod(), node_config=lambda node: right(node) | ({"client-id": 13} if node == 6 else {}))
    strategy = run(grid, MALICIOUS, roster=read_roster(identities / "roster.json"))
    assert set(strategy.reports[0].dropouts) == {6} and len(strategy.reports[0].survivors) == 4


def test_client_that_is_called_another_id_refuses(identities: Path) -> None:
    grid = grid_of(SecureMod(), node_config=config_in(identities))

    def to_node(node: int, content: RecordDict) -> RecordDict:
        if node == 4 and stage_of(content) == "ADVERTISE_KEYS":
            content[RECORD] = ConfigRecord({**content[RECORD], "client-id": 12})
        return content

    grid.to_node = to_node
    strategy = run(grid, MALICIOUS, roster=read_roster(identities / "roster.json"))
    assert "F2" in strategy.reports[0].dropouts[4]


def test_identity_files_are_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    public = create_identity(path)
    assert path.stat().st_mode & 0o077 == 0 and len(bytes.fromhex(public)) == 32
    with pytest.raises(FileExistsError):
        create_identity(path)
    (tmp_path / "broken.json").write_text('{"1": "zz"}')
    with pytest.raises(ConfigError, match="is not a roster"):
        read_roster(tmp_path / "broken.json")
    with pytest.raises(ConfigError, match="FileNotFoundError; a relative path starts from the folder where"):
        read_roster(tmp_path / "absent.json")


def test_run_whose_nodes_have_no_client_id_says_what_they_need(identities: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of 5 nodes is a client of the roster, needed .*client-id=3"):
        run(grid_of(SecureMod()), MALICIOUS, roster=read_roster(identities / "roster.json"))


def test_class_in_place_of_a_mod_is_refused() -> None:
    grid = InProcessGrid({node: app([SecureMod]) for node in NODES})
    with pytest.raises(TooFewSurvivorsError) as raised:
        run(grid)
    assert "needed an instance: ClientApp(mods=[SecureMod()])" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    "options",
    [
        {"metrics": "loss"},
        {"evaluation_metrics": "accuracy"},
        {"metrics": ["loss"], "privacy": CENTRAL},
        {"privacy": replace(CENTRAL, clip_norm={"w": 1.0})},
    ],
)
def test_mod_refuses_options_that_do_not_fit(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SecureMod(**options)
