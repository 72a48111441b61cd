"""NVFlare's own engine runs the jobs of `nvflare_jobs`; what one job shows is checked by several tests."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_constant import FilterKey, ProcessType, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.workspace import Workspace
from nvflare.collab import CollabRecipe
from nvflare.job_config.api import FedJob
from nvflare.job_config.defs import FilterType
from nvflare.private.fed.app.fl_conf import create_privacy_manager
from nvflare.recipe import SimEnv

from secfed import SecAgg, dp
from secfed.errors import BudgetExceededError, ConfigError, EncodingError
from secfed.integrations.nvflare import PrivateUpdates, SecureMean

ROOT = Path(__file__).parent.parent.parent
JOBS = Path(__file__).parent / "nvflare_jobs"
BUDGET = {"clip_norm": 1.0, "epsilon": 4.0, "delta": 1e-5, "rounds": 2}


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the server of four sites saw in its rounds."""
    folder = tmp_path_factory.mktemp("secure_mean")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(JOBS))
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        patch.chdir(folder)
        import secure_mean_job

        recipe = CollabRecipe("secure_mean", secure_mean_job, secure_mean_job, min_clients=4)
        recipe.set_server_prop("report", str(folder / "report.json"))
        recipe.execute(SimEnv(num_clients=4, workspace_root=str(folder)))
        del sys.modules["secure_mean_job"]
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_mean_is_that_of_the_survivors_of_a_dropout_after_key_sharing(rounds: dict[str, Any]) -> None:
    found = rounds["without noise"]
    assert found["survivors"] == ["site-1", "site-3", "site-4"]
    assert list(found["dropouts"]) == ["site-2"]
    assert found["dropouts"]["site-2"].startswith("MASKED_INPUT_COLLECTION: CollabCallError")
    assert found["divisor"] == 2 + 6 + 8
    expected = (2 * 0.1 + 6 * 0.3 + 8 * 0.4) / 16
    step = 2 / (2**16 - 1)  # 16 bits from -1 to 1; each value is rounded to one of the two next to it
    np.testing.assert_allclose(found["weight"], np.full((50, 1), expected), rtol=0, atol=step)
    np.testing.assert_allclose(found["bias"], np.full(2, -expected / 2), rtol=0, atol=step)


def test_site_that_trains_too_long_drops_out(rounds: dict[str, Any]) -> None:
    found = rounds["slow"]
    assert found["survivors"] == ["site-1", "site-2", "site-3"]
    assert found["dropouts"]["site-4"].startswith("ADVERTISE_KEYS: CollabCallError")
    assert "timed out after 3" in found["dropouts"]["site-4"]


def test_server_adds_central_noise_to_the_sum(rounds: dict[str, Any]) -> None:
    found = rounds["central"]
    assert found["survivors"] == ["site-1", "site-2", "site-3", "site-4"]
    assert found["event"].startswith("DiscreteGaussianSum")
    clipped = [0.1 * n / np.sqrt(50 * (0.1 * n) ** 2 + 2 * (0.05 * n) ** 2) if n > 1 else 0.1 for n in (1, 2, 3, 4)]
    errors = np.ravel(found["weight"]) - np.mean(clipped)
    assert 0 < np.abs(errors).max() < 6 * 0.01 / 4


def test_sites_bring_the_noise_and_reveal_the_surplus(rounds: dict[str, Any]) -> None:
    found = rounds["distributed"]
    assert found["survivors"] == ["site-1", "site-2", "site-3", "site-4"]
    assert found["dropouts"] == {}
    assert "None" not in found["event"]
    clipped = [0.1 * n / np.sqrt(50 * (0.1 * n) ** 2 + 2 * (0.05 * n) ** 2) if n > 1 else 0.1 for n in (1, 2, 3, 4)]
    errors = np.ravel(found["weight"]) - np.mean(clipped)
    assert 0.6 < errors.std() / (0.5 / 4) < 1.5  # the deviation of 50 values: three times its own is 0.3


def test_sites_refuse_a_server_with_a_lower_threshold(rounds: dict[str, Any]) -> None:
    kind, *notes = rounds["lax"]
    assert kind == "TooFewSurvivorsError"
    assert len(notes) == 4
    assert all("C4: the server's session has threshold 3, this site's terms need 4" in note for note in notes)


def test_site_answers_no_other_site(rounds: dict[str, Any]) -> None:
    assert rounds["intruder"].startswith("CollabCallError")
    assert "site-3 asks this site for its part in a sum: only the server may" in rounds["intruder"]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """What the server got in three rounds from two sites with a budget of two, and where their ledgers are."""
    folder = tmp_path_factory.mktemp("private_updates")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(JOBS))
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        patch.chdir(folder)
        import filter_job

        job = FedJob("private_updates", min_clients=2)
        job.to_server(filter_job.Recorder(str(folder / "report.json"), rounds=3))
        job.to_clients(filter_job.Trainer(), tasks=["train"])
        job.to_clients(
            PrivateUpdates(**BUDGET, ledger=str(folder / "{site}.ledger")),
            filter_type=FilterType.TASK_RESULT,
            tasks=["train"],
        )
        assert job.simulator_run(str(folder / "workspace"), n_clients=2) == 0
        del sys.modules["filter_job"]
    return json.loads((folder / "report.json").read_text()), folder


def test_filter_lets_out_nothing_but_the_noisy_update(releases: tuple[list[dict[str, Any]], Path]) -> None:
    sent = [release for release in releases[0] if release["code"] == ReturnCode.OK]
    assert len(sent) == 4
    for release in sent:
        assert release["keys"] == ["DXO", "__headers__"]
        assert release["kind"] == DataKind.WEIGHT_DIFF
        assert set(release["meta"]) == {MetaKey.NUM_STEPS_CURRENT_ROUND, MetaKey.CURRENT_ROUND}
        assert release["meta"][MetaKey.NUM_STEPS_CURRENT_ROUND] == 1
        assert not any(word in release["text"] for word in ("12345", "98765", "secret"))


def test_filter_clips_and_adds_the_noise_of_the_budget(releases: tuple[list[dict[str, Any]], Path]) -> None:
    deviation = BUDGET["clip_norm"] * dp.noise_multiplier(epsilon=4.0, delta=1e-5, rounds=2, adjacency="replace")
    for release in releases[0][:4]:
        noise = np.ravel(release["data"]["weight"])  # the update has zeros here
        assert abs(noise.std() / deviation - 1) < 0.08  # five times the deviation of a deviation of 2000 values
        assert abs(noise.mean()) < 5 * deviation / np.sqrt(len(noise))
        norm = BUDGET["clip_norm"] if release["site"] == "site-1" else 0.5
        assert abs(release["data"]["bias"][0] - norm) < 5 * deviation
    biases = {release["data"]["bias"][0] for release in releases[0][:4]}
    assert len(biases) == 4, "each release has its own noise"


def test_filter_sends_nothing_once_the_budget_is_spent(releases: tuple[list[dict[str, Any]], Path]) -> None:
    found, folder = releases
    assert len(found) == 6
    for release in found[4:]:
        assert release["code"] == ReturnCode.TASK_RESULT_FILTER_ERROR
        assert release["keys"] == ["__headers__"]
    for site in ("site-1", "site-2"):
        ledger = dp.Ledger.open(folder / f"{site}.ledger")
        assert [entry.state for entry in ledger.entries()] == ["committed"] * 2
        assert 3.9 < ledger.spent() <= 4.0


def result(update: Any, kind: str = DataKind.WEIGHT_DIFF) -> Shareable:
    return DXO(kind, update).to_shareable()


def site(name: str = "site-1") -> FLContext:
    context = FLContext()
    context.set_prop(ReservedKey.IDENTITY_NAME, name, private=False, sticky=True)
    return context


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (result({"w": np.zeros(3)}, DataKind.WEIGHTS), "of kind WEIGHTS, needed WEIGHT_DIFF"),
        (result({"accuracy": 0.9}, DataKind.METRICS), "of kind METRICS, needed WEIGHT_DIFF"),
        (result({"all": DXO(DataKind.WEIGHT_DIFF, {"w": np.zeros(3)})}, DataKind.COLLECTION), "of kind COLLECTION"),
        (Shareable({"w": [1.0]}), "not a DXO"),
        (result({"w": np.array([1.0, np.nan])}), "not finite"),
        (result({"batches": np.array([3])}), "int64"),
        (result({}), "no values|empty|no array"),
    ],
    ids=["weights", "metrics", "collection", "no DXO", "nan", "integers", "nothing"],
)
def test_filter_blocks_what_it_cannot_make_private(sent: Shareable, text: str) -> None:
    private = PrivateUpdates(**BUDGET)
    with pytest.raises((ConfigError, EncodingError), match=text):
        private.process(sent, site())
    for _ in range(2):  # and it has cost nothing
        private.process(result({"w": np.zeros(3)}), site())


def test_filter_of_a_failed_task_returns_its_code_alone() -> None:
    failed = make_reply(ReturnCode.EXECUTION_EXCEPTION, {"diary": "secret"})
    failed["diary"] = "secret"
    found = PrivateUpdates(**BUDGET).process(failed, site())
    assert found.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert "secret" not in str(found)


def test_filter_without_ledger_refuses_beyond_the_budget_of_its_job() -> None:
    private = PrivateUpdates(**BUDGET)
    for _ in range(2):
        private.process(result({"w": np.zeros(3)}), site())
    with pytest.raises(BudgetExceededError, match="the budget is 4: nothing was released"):
        private.process(result({"w": np.zeros(3)}), site())


def test_ledger_remembers_what_earlier_jobs_spent(tmp_path: Path) -> None:
    def job() -> PrivateUpdates:
        return PrivateUpdates(**BUDGET, ledger=str(tmp_path / "{site}"))

    for _ in range(2):
        job().process(result({"w": np.zeros(3)}), site())
    with pytest.raises(BudgetExceededError):
        job().process(result({"w": np.zeros(3)}), site())
    job().process(result({"w": np.zeros(3)}), site("site-2"))  # it has a ledger of its own


def test_ledger_of_another_budget_is_refused(tmp_path: Path) -> None:
    dp.Ledger.create(tmp_path / "ledger", epsilon=100.0, delta=1e-5, adjacency="replace")
    private = PrivateUpdates(**BUDGET, ledger=str(tmp_path / "ledger"))
    with pytest.raises(ConfigError, match=r"is for .*100.*needed .*4"):
        private.process(result({"w": np.zeros(3)}), site())


def test_filter_on_the_server_is_refused() -> None:
    context = site()
    context.set_prop(ReservedKey.PROCESS_TYPE, ProcessType.SERVER_JOB, private=True, sticky=True)
    with pytest.raises(ConfigError, match="runs on the server"):
        PrivateUpdates(**BUDGET).process(result({"w": np.zeros(3)}), context)


def test_site_installs_the_filter_as_the_documentation_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "nvflare.md").read_text()
    for folder in ("local", "startup"):
        (tmp_path / folder).mkdir()
    (tmp_path / "local" / "privacy.json").write_text(page.partition("```json")[2].partition("```")[0])
    scope = create_privacy_manager(Workspace(str(tmp_path), "site-1"), names_only=False).get_scope(None)
    [private] = scope.task_result_filters[FilterKey.OUT]
    monkeypatch.chdir(tmp_path)
    assert private.process(result({"w": np.zeros(3)}), site()).get_return_code() == ReturnCode.OK
    assert len(dp.Ledger.open("site-1.ledger").entries()) == 1


def test_filter_returns_tensors_for_tensors() -> None:
    torch = pytest.importorskip("torch")
    update = {"w": torch.ones(2, 3, dtype=torch.float32), "b": torch.zeros(4, dtype=torch.float64)}
    found = from_shareable(PrivateUpdates(**BUDGET).process(result(update), site())).data
    assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
        name: (value.shape, value.dtype) for name, value in update.items()
    }
    assert not torch.equal(found["w"], update["w"])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"delta": 1.0}, "delta"),
        ({"rounds": 0}, "rounds"),
    ],
)
def test_filter_with_a_parameter_out_of_range_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PrivateUpdates(**{**BUDGET, **change})


def test_secure_mean_refuses_what_it_cannot_run() -> None:
    aggregator = SecAgg(threshold=3, clip=1.0, max_weight=4)
    for times in ({"stage_seconds": 0.0}, {"training_seconds": float("nan")}):
        with pytest.raises(ConfigError, match="must be positive"):
            SecureMean(aggregator, **times)
    secure = SecureMean(aggregator)
    with pytest.raises(ConfigError, match="no training function"):
        secure.run([], np.zeros(3), round=1)
    secure.training(lambda model, round: (model, 1))
    with pytest.raises(ConfigError, match="a second training function"):
        secure.training(lambda model, round: (model, 1))
    with pytest.raises(ConfigError, match="clients"):
        secure.run([], np.zeros(3), round=1)
