"""The face of the library: these names, no more, and cheap to import."""

import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import secfed

ROOT = Path(__file__).parent.parent
FACE = [
    "CentralGaussian",
    "DistributedGaussian",
    "FedAdagrad",
    "FedAdam",
    "FedAsync",
    "FedAvg",
    "FedAvgM",
    "FedBuff",
    "FedYogi",
    "Paillier",
    "Plain",
    "SecAgg",
    "SecFedError",
    "attacks",
    "dp",
    "paillier",
    "secagg",
]
SECAGG = [
    "Abort",
    "Answer",
    "Client",
    "Config",
    "Parameters",
    "Policy",
    "Result",
    "Server",
    "SigningKey",
    "Stage",
    "Upload",
    "parameters",
    "run_session",
]
HEAVY = {"aiohttp", "matplotlib", "rich", "scipy.stats", "sklearn", "torch", "typer", "flwr", "secfed.cli"}
PACKAGES = sorted(".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "secfed").rglob("__init__.py"))


def test_face_is_this_list() -> None:
    assert secfed.__all__ == FACE == sorted(FACE)


def test_names_of_secagg_are_this_list() -> None:
    assert secfed.secagg.__all__ == SECAGG == sorted(SECAGG)


@pytest.mark.parametrize(
    "package",
    [pytest.param(name, marks=[pytest.mark.integrations] * (".integrations." in name)) for name in PACKAGES],
)
def test_all_names_that_a_package_hands_on_exist_and_are_sorted(package: str) -> None:
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [])
    assert names == sorted(set(names))
    assert all(hasattr(module, name) for name in names)


def loaded(code: str) -> set[str]:
    """Modules that a new Python has loaded after some code."""
    code = f"{code}; import sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_import_of_all_names_brings_in_nothing_heavy() -> None:
    modules = loaded("from secfed import *")
    assert {"secfed.secagg.server", "secfed.dp.accountant", "secfed.attacks.audit"} <= modules
    assert not modules & HEAVY


def test_import_alone_loads_nothing_that_is_not_used() -> None:
    modules = loaded("import secfed; secfed.SecFedError")
    assert {name for name in modules if name.startswith("secfed")} == {"secfed", "secfed.errors"}
    assert "numpy" not in modules


@pytest.mark.sampled(1)
@pytest.mark.parametrize("code", ["import secfed.secagg", "from secfed import secagg", "import secfed; secfed.secagg"])
def test_a_device_that_masks_loads_secure_aggregation_alone(code: str) -> None:
    modules = loaded(code)
    assert "secfed.secagg.client" in modules
    packages = {name.split(".")[1] for name in modules if name.startswith("secfed.")}
    assert packages == {"concurrency", "crypto", "errors", "secagg", "staging", "wire"}
    assert not modules & {"scipy", "sqlite3"}


def test_pytorch_that_is_not_installed_is_named_with_its_extra() -> None:
    code = """
import secfed, sys
sys.modules["torch"] = None  # imports of it fail, as where it is not installed
try:
    import secfed.integrations.torch
except secfed.SecFedError as error:
    print(type(error).__name__, error.extra, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    needed = (
        'torch is not installed; it comes with the extra "torch": in a clone of secfed, run pip install ".[torch]"; '
        'with a wheel, pip install "FILE.whl[torch]"'
    )
    assert done.stdout.strip() == f"MissingExtraError torch {needed}"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'secfed' has no attribute 'SecAggPlus'"):
        _ = secfed.SecAggPlus
    assert not hasattr(secfed, "numpy")


def test_names_and_version_are_listed() -> None:
    assert {*FACE, "__version__", "aggregation", "federated"} <= set(dir(secfed))
    assert secfed.__version__ == importlib.metadata.version("secfed")


def test_the_package_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "secfed", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "Usage: secfed" in done.stdout and "simulate" in done.stdout


def test_library_is_typed() -> None:
    assert (ROOT / "secfed" / "py.typed").exists()
