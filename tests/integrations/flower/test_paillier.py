"""Paillier-encrypted sums by the same wrapper: a client speaks once, and nodes that hold the key decrypt the sum."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

import secfed
from secfed import paillier
from secfed.errors import ConfigError, TooFewSurvivorsError
from secfed.integrations.flower import SecureMod, SecureStrategy, create_identity
from secfed.integrations.flower.records import PAYLOAD, RECORD, payload, payload_bytes
from secfed.secagg import Policy
from tests.integrations.flower.apps import STEP, app, model
from tests.integrations.flower.grid import InProcessGrid

NODES = (2, 3, 4, 5, 6)
pytestmark = pytest.mark.usefixtures("known_primes")


@pytest.fixture
def keys(tmp_path: Path) -> paillier.PublicKey:
    """Files of a key pair in a folder, and the public key."""
    public_key, private_key = paillier.generate_keypair(2048)
    (tmp_path / "public").write_bytes(public_key.to_bytes())
    (tmp_path / "private").write_bytes(private_key.to_bytes())
    return public_key


def grid_of(folder: Path, mod: SecureMod, holders: Any = (6,), **more: Any) -> InProcessGrid:
    """Five nodes that know the public key; node 6 holds the private key, too."""

    def node_config(node: int) -> dict[str, Any]:
        config = {"public-key": str(folder / "public"), **more}
        return config | ({"private-key": str(folder / "private")} if node in holders else {})

    return InProcessGrid({node: app([mod]) for node in NODES}, node_config)


def strategy_of(key: paillier.PublicKey | paillier.ThresholdKey, **options: Any) -> SecureStrategy:
    settings = {"clip": 0.25, "max_weight": 2**10, "minimum_cohort": 3, **options.pop("aggregator", {})}
    return SecureStrategy(
        FedAvg(fraction_evaluate=0.0), secfed.Paillier(public_key=key, **settings), stage_timeout=0.3, **options
    )


def mean_of(nodes: Any) -> float:
    return STEP * sum(node * node for node in nodes) / sum(nodes)


def stage_of(content: RecordDict) -> str:
    return str(content.config_records[RECORD]["stage"]) if RECORD in content else ""


def test_encrypted_mean_is_right_and_takes_two_trips(keys: paillier.PublicKey, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, SecureMod())
    grid.silent = lambda node, message: node == 3 and stage_of(message.content) != "ENROLL"
    strategy = strategy_of(keys)
    result = strategy.start(grid, model(), num_rounds=1)
    np.testing.assert_allclose(result.arrays["layer.weight"].numpy(), mean_of((2, 4, 5, 6)), atol=1e-4)
    [report] = strategy.reports
    assert report.survivors == (2, 4, 5, 6) and set(report.dropouts) == {3}
    stages = [stage_of(message.content) for message in grid.sent]
    assert stages == ["ENROLL"] * 5 + ["ENCRYPTED_INPUT_COLLECTION"] * 5 + ["DECRYPTION"]
    assert all("session" not in party.files() for party in grid.nodes.values())


def test_holders_of_shares_decrypt_together(tmp_path: Path) -> None:
    key, shares = paillier.deal(2048, holders=3, threshold=2)
    (tmp_path / "public").write_bytes(key.public_key.to_bytes())
    (tmp_path / "threshold").write_bytes(key.to_bytes())
    for share in shares:
        (tmp_path / f"share{share.number}").write_bytes(share.to_bytes(key))

    def node_config(node: int) -> dict[str, Any]:
        config = {"public-key": str(tmp_path / "public")}
        if node > 3:
            config |= {"threshold-key": str(tmp_path / "threshold"), "key-share": str(tmp_path / f"share{node - 3}")}
        return config

    grid = InProcessGrid({node: app([SecureMod()]) for node in NODES}, node_config)
    grid.silent = lambda node, message: node == 5 and stage_of(message.content) == "DECRYPTION"
    strategy = strategy_of(key)
    result = strategy.start(grid, model(), num_rounds=1)
    np.testing.assert_allclose(result.arrays["layer.weight"].numpy(), mean_of(NODES), atol=1e-4)


@pytest.mark.parametrize(
    "privacy",
    [
        secfed.CentralGaussian(clip_norm=0.1, noise_multiplier=1.0),
        secfed.DistributedGaussian(clip_norm=0.1, noise_multiplier=1.0, minimum_survivors=3),
    ],
    ids=["central", "distributed"],
)
def test_private_encrypted_rounds_are_accounted(privacy: Any, keys: paillier.PublicKey, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, SecureMod(privacy=privacy))
    strategy = strategy_of(keys, privacy=privacy)
    result = strategy.start(grid, model(extra={"wide": np.zeros(500, np.float32)}), num_rounds=1)
    # The clients' noise is enough for three of them, and five bring it.
    variances = 5 / 3 if isinstance(privacy, secfed.DistributedGaussian) else 1
    spread = np.std(result.arrays["wide"].numpy())
    assert spread == pytest.approx(0.1 / len(NODES) * np.sqrt(variances), rel=0.2)
    assert strategy.accountant.epsilon(1e-5) > 0


def test_client_encrypts_only_under_the_key_that_its_node_names(keys: paillier.PublicKey, tmp_path: Path) -> None:
    servers_own, _ = paillier.generate_keypair(3072)
    grid = grid_of(tmp_path, SecureMod())
    with pytest.raises(TooFewSurvivorsError):
        strategy_of(servers_own).start(grid, model(), num_rounds=1)
    reasons = [reply.error.reason for reply in grid.replies if reply.has_error()]
    assert len(reasons) == len(NODES) and all("another public key" in reason for reason in reasons)


@pytest.mark.parametrize("policy", [Policy(minimum_cohort=4), Policy(adversary="malicious_server")])
def test_policy_that_the_session_cannot_meet_is_refused(
    policy: Policy, keys: paillier.PublicKey, tmp_path: Path
) -> None:
    grid = grid_of(tmp_path, SecureMod(policy=policy))
    with pytest.raises(TooFewSurvivorsError):
        strategy_of(keys).start(grid, model(), num_rounds=1)
    assert all("F9" in reply.error.reason for reply in grid.replies if reply.has_error())


def test_key_holder_opens_no_second_sum_of_the_same_session(keys: paillier.PublicKey, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, SecureMod())
    strategy_of(keys).start(grid, model(), num_rounds=1)
    [message] = [message for message in grid.sent if stage_of(message.content) == "DECRYPTION"]
    request = paillier.messages.DecryptionRequest.from_bytes(payload_bytes(message.content[PAYLOAD]))
    fewer = paillier.messages.DecryptionRequest(
        request.nonce, request.config_hash, bytes([0b11110]), request.ciphertexts
    )
    message.content[PAYLOAD] = payload(fewer.to_bytes())
    assert "K4" in grid.deliver(message).error.reason


def test_message_for_a_key_holder_to_another_node_is_refused(keys: paillier.PublicKey, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, SecureMod())
    strategy_of(keys).start(grid, model(), num_rounds=1)
    [message] = [message for message in grid.sent if stage_of(message.content) == "DECRYPTION"]
    reply = grid.nodes[2].answer(message)
    assert reply.has_error() and "holds neither" in reply.error.reason


def test_federation_without_a_key_holder_sends_no_model(keys: paillier.PublicKey, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, SecureMod(), holders=())
    with pytest.raises(ConfigError, match="no node"):
        strategy_of(keys).start(grid, model(), num_rounds=1)
    assert {stage_of(message.content) for message in grid.sent} == {"ENROLL"}


@pytest.mark.parametrize("named", [True, False])
def test_node_that_only_says_that_it_is_the_key_holder_is_not_asked(
    named: bool, keys: paillier.PublicKey, tmp_path: Path
) -> None:
    key = create_identity(tmp_path / "holder")
    grid = grid_of(tmp_path, SecureMod(), identity=str(tmp_path / "holder") if named else "")

    def to_server(node: int, content: RecordDict) -> RecordDict:
        if node == 2 and stage_of(content) == "ENROLL":  # it answers first
            content[RECORD] = ConfigRecord({**content[RECORD], "key-holder": 1})
        return content

    grid.to_server = to_server
    strategy = strategy_of(keys, key_holders={1: bytes.fromhex(key)})
    if named:
        strategy.start(grid, model(), num_rounds=1)
        asked = [one.metadata.dst_node_id for one in grid.sent if stage_of(one.content) == "DECRYPTION"]
        assert asked == [6] and len(strategy.reports[0].survivors) == 5
    else:  # nor is the true one, without its identity key
        with pytest.raises(ConfigError):
            strategy.start(grid, model(), num_rounds=1)


def test_node_without_a_public_key_refuses(keys: paillier.PublicKey, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, SecureMod())
    del grid.nodes[4].context.node_config["public-key"]
    strategy = strategy_of(keys)
    strategy.start(grid, model(), num_rounds=1)
    assert "public-key" in strategy.reports[0].dropouts[4]


@pytest.mark.parametrize(
    ("settings", "privacy", "text"),
    [
        ({"public_key": None}, None, "needs public_key"),
        ({"noise": "short"}, None, "noise has no effect"),
        ({"progress": print}, None, "progress has no effect"),
        ({}, secfed.DistributedGaussian(1.0, 1.0, layers=2, minimum_survivors=2), "layers have no effect"),
    ],
)
def test_options_without_effect_are_refused(
    settings: dict[str, Any], privacy: Any, text: str, keys: paillier.PublicKey
) -> None:
    aggregator = secfed.Paillier(**{"public_key": keys, "max_weight": 9, **settings})
    with pytest.raises(ConfigError, match=text):
        SecureStrategy(FedAvg(), aggregator, privacy=privacy)


def test_malformed_configuration_is_refused_by_name(keys: paillier.PublicKey, tmp_path: Path) -> None:
    grid = grid_of(tmp_path, SecureMod())

    def to_node(node: int, content: RecordDict) -> RecordDict:
        if node == 4 and stage_of(content) == "ENCRYPTED_INPUT_COLLECTION":
            record = dict(content[RECORD])
            content[RECORD] = ConfigRecord(record | {"config": record["config"][:-5]})
        return content

    grid.to_node = to_node
    strategy = strategy_of(keys)
    strategy.start(grid, model(), num_rounds=1)
    assert "MalformedMessageError" in strategy.reports[0].dropouts[4]
