"""NVFlare's own engine runs the jobs of `nvflare_jobs`; what one job shows is checked by several tests."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.collab import CollabRecipe
from nvflare.recipe import SimEnv

ROOT = Path(__file__).parent.parent.parent
JOBS = Path(__file__).parent / "nvflare_jobs"


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
    assert all("C4: the server's session has threshold 3, this site's own terms give 4" in note for note in notes)
