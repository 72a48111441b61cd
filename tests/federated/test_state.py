"""A training run as a value: stopped, saved and resumed, it gives what it would have given in one go."""

import dataclasses
import hashlib
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secfed
from secfed import dp
from secfed.aggregation import AdaptiveClipping
from secfed.errors import BudgetExceededError, ConfigError, EncodingError
from secfed.federated import Training, TrainingState
from secfed.secagg import Stage
from tests.examples import examples

ALGORITHMS = [secfed.FedAvg, secfed.FedAvgM, secfed.FedAdagrad, secfed.FedAdam, secfed.FedYogi]
START = {"b": np.array([0.5, -1.0], np.float32), "a": [np.array([2.0])]}
CLIENTS = [1.0, -2.0, 0.5, 3.0, 1.5, 0.0]
PRIVACY = secfed.CentralGaussian(clip_norm=1.0, noise_multiplier=3.0)


def toward(model: Any, data: float) -> tuple[Any, int]:
    return {"b": 0.3 * (data - model["b"]) * model["b"] ** 2, "a": [0.2 * (data - model["a"][0])]}, 1


def dropouts(number: int, cohort: tuple[int, ...]) -> dict[int, Stage]:
    return {cohort[number % len(cohort)]: Stage.MASKED_INPUT_COLLECTION}


def flat(model: Any) -> np.ndarray:
    return np.concatenate([model["a"][0], model["b"].astype(float)])


def elsewhere(state: TrainingState) -> TrainingState:
    """By way of bytes, as into another process."""
    return TrainingState.from_bytes(state.to_bytes(), example=START)


def stopped_and_resumed(make: Callable[[], Training], stop: int, count: int, **options: Any) -> list[Any]:
    first, second = make(), make()
    before = list(first.rounds(START, CLIENTS, stop, **options))
    return before + list(second.rounds(elsewhere(first.state()), CLIENTS, count - stop, **options))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "aggregator",
    [secfed.Plain(), secfed.SecAgg(threshold=2 / 3, clip=16.0, rounding_seed=3)],
    ids=["plain", "secagg"],
)
@pytest.mark.parametrize("sampling", [{"sampling_rate": 0.8}, {"cohort_size": 4}], ids=["poisson", "fixed"])
def test_stopped_and_resumed_run_gives_the_same_models_to_the_last_bit(
    algorithm: Any, aggregator: Any, sampling: dict[str, Any]
) -> None:
    def make() -> Training:
        return algorithm(toward, aggregator=aggregator)

    options = {"seed": 4, "dropouts": dropouts, **sampling}
    straight = list(make().rounds(START, CLIENTS, 6, **options))
    resumed = stopped_and_resumed(make, 2, 6, **options)
    assert [report.number for report in resumed] == [1, 2, 3, 4, 5, 6]
    for one, other in zip(straight, resumed, strict=True):
        assert (one.cohort, one.survivors) == (other.cohort, other.survivors)
        assert flat(one.model).tobytes() == flat(other.model).tobytes()
    assert len({report.cohort for report in straight}) > 1


@pytest.mark.slow
def test_stopped_and_resumed_run_gives_the_same_models_under_paillier_too() -> None:
    def make() -> Training:
        return secfed.FedAdam(toward, aggregator=secfed.Paillier(2048, clip=16.0, rounding_seed=3))

    straight = list(make().rounds(START, CLIENTS, 3, cohort_size=4, seed=4))
    resumed = stopped_and_resumed(make, 2, 3, cohort_size=4, seed=4)
    for one, other in zip(straight, resumed, strict=True):
        assert one.survivors == other.survivors and flat(one.model).tobytes() == flat(other.model).tobytes()


def test_resumed_run_without_its_memory_would_give_another_model() -> None:
    training = secfed.FedAdam(toward, aggregator=secfed.Plain())
    list(training.rounds(START, CLIENTS, 2))
    [resumed] = training.rounds(training.state(), CLIENTS, 1)
    list(training.rounds(START, CLIENTS, 2))
    [afresh] = training.rounds(training.state().model, CLIENTS, 1)
    assert not np.array_equal(flat(resumed.model), flat(afresh.model))


def test_state_says_where_the_training_is() -> None:
    training = secfed.FedYogi(toward, aggregator=secfed.Plain(), tau=0.5)
    with pytest.raises(ConfigError, match="there is no state before rounds"):
        training.state()
    reports = training.rounds(START, CLIENTS, 3)
    state = training.state()
    assert (state.algorithm, state.round, state.clip_norm, state.accountant) == ("FedYogi", 0, None, None)
    assert state.memory["v"].tolist() == [0.25] * 3
    report = next(reports)
    assert training.state().round == 1 and np.array_equal(flat(training.state().model), flat(report.model))


def test_state_does_not_change_while_training_goes_on() -> None:
    class InPlace(Training):
        def begin(self, values: Any) -> Any:
            return {"sum": np.zeros_like(values)}

        def step(self, values: Any, mean: Any, memory: Any) -> Any:
            memory["sum"] += mean
            values += memory["sum"]
            return values, memory

    training = InPlace(toward, aggregator=secfed.Plain())
    reports = training.rounds(START, CLIENTS, 4)
    next(reports)
    state = training.state()
    saved = state.to_bytes()
    next(reports).model["b"][:] = 99.0
    next(reports)
    assert state.to_bytes() == saved


def test_accountant_goes_on_where_it_was() -> None:
    def make() -> Training:
        return secfed.FedAdam(toward, aggregator=secfed.Plain(), privacy=PRIVACY, adjacency="replace")

    *_, straight = make().rounds(START, CLIENTS, 4)
    *_, resumed = stopped_and_resumed(make, 3, 4)
    assert resumed.accountant.events == straight.accountant.events
    assert resumed.accountant.adjacency == "replace"


def test_resumed_run_is_refused_where_the_whole_run_would_be() -> None:
    budget = (dp.Accountant().compose(dp.Gaussian(3.0), 3).epsilon(1e-5), 1e-5)

    def make() -> Training:
        return secfed.FedAvg(toward, aggregator=secfed.Plain(), privacy=PRIVACY, budget=budget)

    first, second = make(), make()
    list(first.rounds(START, CLIENTS, 2))
    reports = second.rounds(elsewhere(first.state()), CLIENTS, 5)
    assert next(reports).number == 3
    with pytest.raises(BudgetExceededError, match="after round 4"):
        next(reports)


def test_going_on_in_the_same_training_counts_nothing_twice() -> None:
    training = secfed.FedAvg(toward, aggregator=secfed.Plain(), privacy=PRIVACY)
    list(training.rounds(START, CLIENTS, 2))
    state = training.state()
    for rounds_in_all in (3, 4):  # the second time from the same state: what was released in between still counts
        [last] = training.rounds(state, CLIENTS, 1)
        assert last.accountant is not None
        assert [count for _, count in last.accountant.events] == [rounds_in_all]


def test_clip_that_adapts_goes_on_where_it_was() -> None:
    def make() -> Training:
        privacy = secfed.CentralGaussian(5.0, 0.5, adaptive=AdaptiveClipping(learning_rate=0.5))
        return secfed.FedAvg(toward, aggregator=secfed.Plain(), privacy=privacy)

    first, second = make(), make()
    list(first.rounds(START, CLIENTS, 3))
    state = first.state()
    [report] = second.rounds(elsewhere(state), CLIENTS, 1)
    assert report.clip_norm == state.clip_norm != 5.0


def test_with_a_ledger_the_ledger_is_the_truth(tmp_path: Path) -> None:
    ledger = dp.Ledger.create(tmp_path / "budget", epsilon=30.0, delta=1e-5)

    def make(ledger: Any) -> Training:
        return secfed.FedAvg(toward, aggregator=secfed.Plain(), privacy=PRIVACY, ledger=ledger)

    first = make(ledger)
    list(first.rounds(START, CLIENTS, 2))
    state = elsewhere(first.state())
    assert state.accountant is None and state.clip_norm == 1.0
    [report] = make(dp.Ledger.open(ledger.path)).rounds(state, CLIENTS, 1)
    assert report.number == 3 and [count for _, count in report.accountant.events] == [3]
    with pytest.raises(ConfigError, match="saved with a ledger, found none"):
        make(None).rounds(state, CLIENTS, 1)
    alone = make(None)
    list(alone.rounds(START, CLIENTS, 1))
    with pytest.raises(ConfigError, match="this ledger does not know what was spent"):
        make(ledger).rounds(alone.state(), CLIENTS, 1)


def test_states_of_another_training_are_refused() -> None:
    plain = secfed.Plain()
    adam, private = secfed.FedAdam(toward, aggregator=plain), secfed.FedAdam(toward, aggregator=plain, privacy=PRIVACY)
    for training in (adam, private):
        list(training.rounds(START, CLIENTS, 1))
    with pytest.raises(ConfigError, match="the state is of FedAdam, this is FedYogi"):
        secfed.FedYogi(toward, aggregator=plain).rounds(adam.state(), CLIENTS, 1)
    with pytest.raises(ConfigError, match="of a training with privacy, this one is without"):
        adam.rounds(private.state(), CLIENTS, 1)
    with pytest.raises(ConfigError, match="of a training without privacy, this one is with"):
        private.rounds(adam.state(), CLIENTS, 1)
    cut = dataclasses.replace(adam.state(), memory={"m": np.zeros(3)})
    with pytest.raises(ConfigError, match="the state's memory has shapes"):
        adam.rounds(cut, CLIENTS, 1)
    spent = dp.Accountant().compose(dp.Gaussian(9.0))
    for options in ({"accountant": spent}, {"adjacency": "replace"}):
        other = secfed.FedAdam(toward, aggregator=plain, privacy=PRIVACY, **options)
        with pytest.raises(ConfigError, match="has another adjacency, or has spent something else"):
            other.rounds(private.state(), CLIENTS, 1)


Pair = namedtuple("Pair", ["first", "second"])


@examples(10, 60)
@given(st.sampled_from(["<f2", ">f4", "f4", "f8"]), st.sampled_from(["f8", ">f8", "f4"]), st.integers(0, 2**32))
def test_bytes_hold_every_value_and_dtype(one: str, other: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    model = {"z": Pair(random.normal(size=(2, 3)).astype(one), [random.normal(size=()).astype(other)]), "a": np.ones(1)}
    memory = {"v": random.normal(size=(4, 2)), "count": np.array(3.0), "m": np.zeros(0)}
    state = TrainingState("Own", 7, model, memory, 0.1, dp.Accountant("replace").compose(dp.Gaussian(0.3), 4))
    found = TrainingState.from_bytes(state.to_bytes(), example=model)
    assert isinstance(found.model["z"], Pair) and list(found.model) == ["z", "a"]
    for read, written in [
        (found.model["z"].first, model["z"].first),
        (found.model["z"].second[0], model["z"].second[0]),
        *((found.memory[name], memory[name]) for name in memory),
    ]:
        assert read.dtype == written.dtype and read.shape == written.shape and read.tobytes() == written.tobytes()
    assert (found.algorithm, found.round, found.clip_norm) == ("Own", 7, 0.1)
    assert found.accountant is not None and found.accountant.to_json() == state.accountant.to_json()
    assert found.to_bytes() == state.to_bytes()


def saved() -> bytes:
    training = secfed.FedAdam(toward, aggregator=secfed.Plain(), privacy=PRIVACY)
    list(training.rounds(START, CLIENTS, 1))
    return training.state().to_bytes()


def test_damaged_bytes_are_refused_whatever_the_damage() -> None:
    whole = saved()
    for place in range(len(whole)):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]):
            with pytest.raises(EncodingError, match=r"is damaged|not a saved training state"):
                TrainingState.from_bytes(damaged, example=START)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"round": 1', b'"round":[1'),
        (b'"algorithm"', b'"algorithX"'),
        (b'"adjacency"', b'"adjacencX"'),
        (b'["m", [3]]', b'["m", [2]]'),
        (b'["m", [3]]', b'["m", [9]]'),
        (b'"dtypes": ["<f8"', b'"dtypes": ["<x8"'),
    ],
)
def test_bytes_with_a_right_digest_that_do_not_fit_together_are_refused(old: bytes, new: bytes) -> None:
    whole = saved()[:-32]
    assert whole.count(old) == 1 and len(old) == len(new)
    forged = whole.replace(old, new)
    with pytest.raises(EncodingError):
        TrainingState.from_bytes(forged + hashlib.sha256(forged).digest(), example=START)


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        ({"b": np.zeros(3, np.float32), "a": [np.zeros(1)]}, r"b has shape \(2,\), needed \(3,\)"),
        ({"b": np.zeros(2), "a": [np.zeros(1)]}, "b has dtype float32, needed float64"),
        ({"b": np.zeros(2, np.float32)}, "are in one but not in the other"),
    ],
)
def test_example_of_another_structure_is_refused(example: Any, reason: str) -> None:
    with pytest.raises(EncodingError, match=f"not shaped like the example: .*{reason}"):
        TrainingState.from_bytes(saved(), example=example)
