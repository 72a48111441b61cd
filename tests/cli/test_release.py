"""What `secfed serve` makes of a sum: a mean whose noise is drawn once, and a ledger that knows of it."""

import json
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secfed import dp
from secfed.aggregation import CentralGaussian, DistributedGaussian, RandomRotation, SecAgg
from secfed.cli.npz import arrays_of, shapes_of, write_arrays
from secfed.cli.release import Release, lines_of, open_ledger, resumed
from secfed.errors import BudgetExceededError, ConfigError, SecFedError
from secfed.secagg import Client, Stage
from secfed.transport import Driver, SessionParameters, Store

EXAMPLE = {"w": np.zeros((2, 3), np.float32), "file": np.zeros(4)}
IDS = (1, 2, 3)
CENTRAL = CentralGaussian(clip_norm=1.0, noise_multiplier=1.0)
DISTRIBUTED = DistributedGaussian(clip_norm=1.0, noise_multiplier=1.0)


def begin(privacy: Any, store: Store, **options: Any) -> tuple[Driver, Any]:
    """Do as `serve` does, also after a restart."""
    aggregator = SecAgg(threshold=2, clip=1.0, max_weight=1, **options)
    transform: Any = resumed(store, aggregator, aggregator.transform(EXAMPLE, len(IDS), None, privacy), privacy)
    return Driver(SessionParameters.of(bytes(32), aggregator.config(IDS, transform), transform), store), transform


def run(driver: Driver, transform: Any, until: Stage = Stage.DONE, clients: tuple[int, ...] = IDS) -> None:
    made = {i: Client(driver.parameters.config, i, transform.encode(EXAMPLE, 1)) for i in clients}
    while driver.stage < until:
        stage = driver.stage
        for i, client in made.items():
            driver.accept(i, stage, client.receive(driver.request(i, stage) or b""))
        driver.close_stage(stage)


def ledger_of(folder: Path, epsilon: float = 5.0) -> dp.Ledger:
    return dp.Ledger.create(folder / "budget.db", epsilon=epsilon, delta=1e-5)


@pytest.mark.parametrize("privacy", [CENTRAL, DISTRIBUTED], ids=["central", "distributed"])
def test_sum_is_reserved_before_the_session_and_committed_after_it(privacy: Any, tmp_path: Path) -> None:
    ledger, store = ledger_of(tmp_path, 20.0), Store()
    driver, transform = begin(privacy, store)
    release = Release(tmp_path / "mean.npz", driver, transform, delta=0.5, ledger=ledger)
    [entry] = ledger.entries()
    assert (entry.state, entry.event) == ("reserved", transform.inner.worst_event)
    run(driver, transform)
    release.finish()
    [entry] = ledger.entries()
    assert (entry.state, entry.event) == ("committed", transform.inner.event(3))
    found = release.found
    expected = dp.Accountant().compose(transform.inner.event(3)).epsilon(1e-5)
    assert (found["epsilon"], found["delta"], found["spent"], found["budget"]) == (expected, 1e-5, ledger.spent(), 20.0)
    assert found["survivors"] == [1, 2, 3] and json.dumps(found)
    mean, one, spent = lines_of(found, 3)
    assert "3 of 3 clients" in mean and "this round: epsilon " in one and spent.endswith(" of 20")
    assert {name: array.shape for name, array in arrays_of(tmp_path / "mean.npz").items()} == {
        "w": (2, 3),
        "file": (4,),
    }


@pytest.mark.parametrize("killed", [False, True], ids=["after the end", "before the file has its name"])
def test_server_that_is_started_again_draws_no_second_noise(
    killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, state, ledger = tmp_path / "mean.npz", tmp_path / "state.db", ledger_of(tmp_path)
    with closing(Store(state)) as store:
        driver, transform = begin(CENTRAL, store)
        release = Release(file, driver, transform, delta=1e-5, ledger=ledger)
        run(driver, transform)
        with monkeypatch.context() as patch:
            if killed:
                patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(5, "killed")))
                with pytest.raises(SecFedError, match="killed"):
                    release.finish()
            else:
                release.finish()
    first = (file if not killed else tmp_path / "mean.npz.part").read_bytes()
    for _ in range(2):
        with closing(Store(state)) as store:
            driver, transform = begin(CENTRAL, store)
            again = Release(file, driver, transform, delta=1e-5, ledger=ledger)
            again.finish()
        assert file.read_bytes() == first and again.found == release.found
    assert [entry.state for entry in ledger.entries()] == ["committed"]
    file.unlink()
    with closing(Store(state)) as store:
        driver, transform = begin(CENTRAL, store)
        again = Release(file, driver, transform, delta=1e-5, ledger=ledger)
        with pytest.raises(SecFedError, match="noise is drawn only once"):
            again.finish()


@pytest.mark.parametrize(
    ("privacy", "options"), [(DISTRIBUTED, {}), (None, {"compression": RandomRotation(), "bits": 8})], ids=str
)
def test_server_that_is_started_again_keeps_the_seeds_that_clients_have(
    privacy: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    state = tmp_path / "state.db"
    with closing(Store(state)) as store:
        driver, first = begin(privacy, store, **options)
        run(driver, first, Stage.MASKED_INPUT_COLLECTION)
    with closing(Store(state)) as store:
        driver, second = begin(privacy, store, **options)
        assert driver.stage is Stage.MASKED_INPUT_COLLECTION and second.to_bytes() == first.to_bytes()
        with pytest.raises(ConfigError, match="other parameters"):
            begin(CENTRAL, store)


def test_sum_that_the_budget_has_no_room_for_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, epsilon=0.1)
    driver, transform = begin(CENTRAL, Store())
    with pytest.raises(BudgetExceededError):
        Release(tmp_path / "mean.npz", driver, transform, delta=1e-5, ledger=ledger)
    assert ledger.entries() == ()


@pytest.mark.parametrize(
    ("until", "state"), [(Stage.SHARE_KEYS, "cancelled"), (Stage.UNMASKING, "committed")], ids=["before", "after"]
)
def test_failed_session_spends_once_masked_sums_were_there(until: Stage, state: str, tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path)
    driver, transform = begin(CENTRAL, Store())
    release = Release(tmp_path / "mean.npz", driver, transform, delta=1e-5, ledger=ledger)
    run(driver, transform, until)
    driver.close_stage(until)  # nobody answers
    assert driver.failure
    release.finish()
    assert [entry.state for entry in ledger.entries()] == [state] and not (tmp_path / "mean.npz").exists()


def test_mean_without_noise_is_written_as_often_as_asked(tmp_path: Path) -> None:
    driver, transform = begin(None, Store())
    run(driver, transform)
    release = Release(tmp_path / "mean.npz", driver, transform, delta=1e-5)
    for _ in range(2):
        release.finish()
        (tmp_path / "mean.npz").unlink()
    assert set(release.found) == {"output", "survivors", "dropouts", "weight", "refused"}
    driver, transform = begin(None, Store())
    run(driver, transform)
    with pytest.raises(SecFedError, match=r"cannot write .*mean\.npz\.part: No such file"):
        Release(tmp_path / "absent" / "mean.npz", driver, transform, delta=1e-5).finish()


def test_ledger_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make it first, with secfed budget limit"):
        open_ledger(tmp_path / "absent.db")
    ledger_of(tmp_path)
    assert open_ledger(tmp_path / "budget.db").epsilon == 5.0


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_shapes_are_read_without_the_values(version: tuple[int, int], tmp_path: Path) -> None:
    write_arrays(tmp_path / "model.npz", EXAMPLE)
    if version != (1, 0):
        with zipfile.ZipFile(tmp_path / "model.npz", "w") as archive:
            for name, array in EXAMPLE.items():
                with archive.open(f"{name}.npy", "w") as entry:
                    np.lib.format.write_array(entry, array, version=version)
    found = shapes_of(tmp_path / "model.npz")
    for name, array in EXAMPLE.items():
        assert (found[name].shape, found[name].dtype, found[name].strides) == (
            array.shape,
            array.dtype,
            (0,) * array.ndim,
        )
    np.save(tmp_path / "one.npy", np.zeros(2))
    for read in (shapes_of, arrays_of):
        with pytest.raises(ConfigError, match=r"one\.npy"):
            read(tmp_path / "one.npy")
