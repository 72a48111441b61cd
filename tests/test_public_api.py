"""The face of the library: these names, no more, and cheap to import."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import secfed

ROOT = Path(__file__).parent.parent
FACE = [
    "CentralGaussian",
    "DistributedGaussian",
    "FedAvg",
    "Plain",
    "SecAgg",
    "SecFedError",
    "attacks",
    "dp",
    "secagg",
]
SECAGG = [
    "Abort",
    "Client",
    "Config",
    "Parameters",
    "Policy",
    "Result",
    "Server",
    "SigningKey",
    "Stage",
    "parameters",
    "run_session",
]
HEAVY = {"matplotlib", "rich", "scipy.stats", "sklearn", "torch", "typer", "flwr", "secfed.cli"}
PACKAGES = sorted(".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "secfed").rglob("__init__.py"))


def test_face_is_this_list() -> None:
    assert secfed.__all__ == FACE == sorted(FACE)


def test_names_of_secagg_are_this_list() -> None:
    assert secfed.secagg.__all__ == SECAGG == sorted(SECAGG)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_names_that_a_package_hands_on_exist_and_are_sorted(package: str) -> None:
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [])
    assert names == sorted(set(names))
    assert all(hasattr(module, name) for name in names)


def test_import_brings_in_nothing_heavy() -> None:
    code = "import sys, secfed; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    modules = set(done.stdout.split())
    assert "secfed.secagg.server" in modules
    assert not modules & HEAVY


def test_library_is_typed() -> None:
    assert (ROOT / "secfed" / "py.typed").exists()
