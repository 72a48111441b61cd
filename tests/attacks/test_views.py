"""What the server saw: real updates in the clear, noise under a protection, the sum always, and nothing else."""

import gc
from types import FunctionType
from typing import Any

import numpy as np
import pytest

import secfed
from secfed import secagg
from secfed.attacks import View, linear_inputs
from secfed.attacks.metrics import identified
from secfed.errors import ConfigError
from secfed.secagg.messages import AdvertiseKeysRequest
from tests.paillier.keys import keypair
from tests.paillier.threshold_keys import dealt

SIZE, OUTPUTS = 64, 12
PROTECTED = {
    "secagg": secfed.SecAgg(threshold=1.0, max_weight=1),
    "secagg on a ring": secfed.SecAgg(threshold=3, neighbors=4, max_weight=1),
    "paillier": secfed.Paillier(private_key=keypair()[1], noise="short", max_weight=1),
}


def updates(clients: int, seed: int = 0) -> tuple[np.ndarray, dict[int, Any]]:
    """Records, and each client's gradient of a linear layer on its own."""
    random = np.random.default_rng(seed)
    records = random.uniform(0, 1, (clients, SIZE))
    found = {}
    for client_id, record in enumerate(records, start=1):
        error = random.normal(size=OUTPUTS)
        found[client_id] = {"weight": np.outer(error, record), "bias": error}
    return records, found


def view(aggregator: Any, found: dict[int, Any], **options: Any) -> View:
    return View.of_server(aggregator.aggregate(found, record=True, **options).transcript)


def test_in_the_clear_every_record_is_read_exactly() -> None:
    records, found = updates(4)
    seen = view(secfed.Plain(), found)
    assert seen.clients == (1, 2, 3, 4) and seen.protection == "plain"
    for client_id, record in enumerate(records, start=1):
        guess = linear_inputs(seen.inputs[client_id]["weight"], seen.inputs[client_id]["bias"])
        assert np.abs(guess - record).max() < 1e-12


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", PROTECTED)
def test_under_a_protection_messages_tell_no_record_more_often_than_chance(name: str) -> None:
    named = 0
    for seed in range(6):
        records, found = updates(10, seed)
        seen = view(PROTECTED[name], found)
        for client_id in seen.clients:
            message = seen.inputs[client_id]
            assert message["weight"].shape == (OUTPUTS, SIZE)
            named += identified(linear_inputs(message["weight"], message["bias"]), records) == client_id - 1
    assert named <= 20  # of 60, each with chance 1/10: more happens once in a million runs


@pytest.mark.parametrize("aggregator", [secfed.Plain(), *PROTECTED.values()])
def test_the_sum_is_seen_whatever_the_protection(aggregator: Any) -> None:
    _, found = updates(6)
    seen = view(aggregator, found)
    for name in ("weight", "bias"):
        exact = sum(update[name] for update in found.values()) / 6
        assert np.abs(seen.mean[name] - exact).max() < 1e-3


def test_central_noise_is_not_yet_in_what_the_server_saw_and_the_clients_noise_is() -> None:
    _, found = updates(6)
    found = {client_id: {name: array / 50 for name, array in update.items()} for client_id, update in found.items()}
    exact = sum(update["weight"] for update in found.values()) / 6
    central = view(secfed.Plain(), found, privacy=secfed.CentralGaussian(1.0, 1.0))
    assert np.abs(central.mean["weight"] - exact).max() < 1e-2
    assert np.abs(central.inputs[2]["weight"] - found[2]["weight"]).max() < 1e-2
    privacy = secfed.DistributedGaussian(1.0, 1.0, minimum_survivors=6)
    noisy = view(PROTECTED["secagg"], found, privacy=privacy)
    assert 0.05 < (noisy.mean["weight"] - exact).std() < 0.5  # 1/6 by design


def test_a_view_reaches_no_client_key_or_update() -> None:
    _, found = updates(3)
    seen = view(PROTECTED["secagg"], found)
    originals = {id(array) for update in found.values() for array in update.values()}
    reached: dict[int, Any] = {}
    pending: list[Any] = [seen]
    while pending:
        thing = pending.pop()
        if id(thing) in reached or isinstance(thing, type | FunctionType):
            continue
        reached[id(thing)] = thing
        pending += gc.get_referents(thing)
    assert not originals & set(reached)
    modules = {type(thing).__module__ for thing in reached.values()}
    assert not {module for module in modules if module.startswith("secfed.") and module != "secfed.attacks.views"}


@pytest.mark.parametrize("aggregator", [secfed.Plain(), *PROTECTED.values()])
def test_an_outsider_on_an_open_wire_sees_what_the_server_sees(aggregator: Any) -> None:
    transcript = aggregator.aggregate(updates(4)[1], record=True).transcript
    server, outsider = View.of_server(transcript), View.of_outsider(transcript)
    assert outsider.adversary == "outsider" and outsider.clients == server.clients
    for name in ("weight", "bias"):
        assert (outsider.mean[name] == server.mean[name]).all()
        assert (outsider.inputs[2][name] == server.inputs[2][name]).all()


@pytest.mark.parametrize("neighbors", [None, 4])
def test_an_outsider_computes_the_sum_from_the_messages_alone(neighbors: int | None) -> None:
    options: dict[str, Any] = {} if neighbors is None else {"neighbors": neighbors}
    aggregator = secfed.SecAgg(threshold=4 if neighbors is None else 3, max_weight=1, **options)
    transcript = aggregator.aggregate(
        updates(7)[1], record=True, dropouts={5: secagg.Stage.MASKED_INPUT_COLLECTION}
    ).transcript

    class Overheard:
        """The nonce that the server sent is all that it drew."""

        def draw(self, label: str, size: int) -> bytes:
            assert (label, size) == ("nonce", 32)
            return AdvertiseKeysRequest.from_bytes(transcript.entries[0].data).nonce

    again = secagg.Server(transcript.config, entropy=Overheard())
    again.open()
    for entry in transcript.entries:
        while again.stage is not entry.stage:
            again.close_stage()
        if entry.direction == "to_server":
            again.receive(entry.client_id, entry.data)
    again.close_stage()
    assert again.done and (again.sum == transcript.total).all()


def test_a_key_holder_sees_the_sum_and_no_message() -> None:
    _, found = updates(3)
    transcript = PROTECTED["paillier"].aggregate(found, record=True).transcript
    seen = View.of_key_holder(transcript)
    assert not seen.inputs and seen.clients == (1, 2, 3)
    assert np.abs(seen.mean["bias"] - sum(update["bias"] for update in found.values()) / 3).max() < 1e-3
    with pytest.raises(ConfigError, match="no key holder"):
        View.of_key_holder(PROTECTED["secagg"].aggregate(found, record=True).transcript)


def test_one_holder_of_a_threshold_key_sees_no_sum() -> None:
    aggregator = secfed.Paillier(private_key=dealt(2, 3, 1), noise="short", max_weight=1)
    seen = View.of_key_holder(aggregator.aggregate(updates(3)[1], record=True).transcript)
    assert seen.mean is None and not seen.inputs


@pytest.mark.parametrize("with_server", [False, True])
@pytest.mark.parametrize("aggregator", [secfed.Plain(), *PROTECTED.values()])
def test_all_clients_but_one_read_its_update_by_subtraction(aggregator: Any, with_server: bool) -> None:
    records, found = updates(6)
    result = aggregator.aggregate(found, record=True)
    own = {client_id: found[client_id] for client_id in (1, 2, 4, 5, 6)}
    released = None if with_server else result.mean
    seen = View.of_clients(result.transcript, own, released=released)
    assert seen.clients == (3,) and seen.adversary == ("server_and_clients" if with_server else "clients")
    assert (3 in seen.inputs) == with_server and (seen.inputs[2]["bias"] == found[2]["bias"]).all()
    assert np.abs(linear_inputs(seen.mean["weight"], seen.mean["bias"]) - records[2]).max() < 0.05


def test_weights_count_where_clients_subtract() -> None:
    _, found = updates(4)
    weights = {1: 3.0, 2: 1.0, 3: 2.0, 4: 5.0}
    result = secfed.Plain().aggregate(found, weights, record=True)
    seen = View.of_clients(result.transcript, {i: found[i] for i in (1, 3)}, {1: 3.0, 3: 2.0}, released=result.mean)
    assert np.abs(seen.mean["bias"] - (found[2]["bias"] + 5 * found[4]["bias"]) / 6).max() < 1e-12


def test_central_noise_stays_in_what_clients_subtract() -> None:
    _, found = updates(6)
    found = {client_id: {name: array / 50 for name, array in update.items()} for client_id, update in found.items()}
    result = secfed.Plain().aggregate(found, record=True, privacy=secfed.CentralGaussian(1.0, 1.0))
    own = {client_id: found[client_id] for client_id in (1, 2, 4, 5, 6)}
    by_themselves = View.of_clients(result.transcript, own, released=result.mean)
    with_server = View.of_clients(result.transcript, own)
    assert 0.5 < (by_themselves.mean["weight"] - found[3]["weight"]).std() < 2  # the noise multiplier is 1
    assert np.abs(with_server.mean["weight"] - found[3]["weight"]).max() < 1e-2


def test_clients_that_cannot_work_together_are_refused() -> None:
    _, found = updates(3)
    transcript = secfed.Plain().aggregate(found, record=True).transcript
    for own, weights, match in (
        ({}, None, "needed some of"),
        ({9: found[1]}, None, "needed some of"),
        (found, None, "all clients"),
        ({1: found[1]}, {2: 1.0}, "not both"),
        ({1: {"weight": found[1]["weight"]}}, None, "dictionary with the arrays"),
        ({1: found[1]["weight"]}, None, "dictionary with the arrays"),
    ):
        with pytest.raises(ConfigError, match=match):
            View.of_clients(transcript, own, weights)  # type: ignore[arg-type]


def test_a_session_that_was_not_recorded_has_no_view() -> None:
    _, found = updates(2)
    with pytest.raises(ConfigError, match="record=True"):
        View.of_server(secfed.Plain().aggregate(found).transcript)
