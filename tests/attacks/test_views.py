"""What the server saw: real updates in the clear, noise under a protection, the sum always, and nothing else."""

import gc
from types import FunctionType
from typing import Any

import numpy as np
import pytest

import secfed
from secfed.attacks import View, linear_inputs
from secfed.attacks.metrics import identified
from secfed.errors import ConfigError
from tests.paillier.keys import keypair

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


def test_a_session_that_was_not_recorded_has_no_view() -> None:
    _, found = updates(2)
    with pytest.raises(ConfigError, match="record=True"):
        View.of_server(secfed.Plain().aggregate(found).transcript)
