"""These tests run the frameworks themselves: a framework that is not installed has no tests here.

`pip install ".[engines]"` installs all of them, and `pytest -m integrations` runs their tests.
"""

from importlib.util import find_spec

PACKAGES = {"torch": "torch", "flower": "flwr", "nvflare": "nvflare"}

missing = [name for name, package in PACKAGES.items() if find_spec(package) is None]
collect_ignore_glob = [pattern for name in missing for pattern in (f"{name}/*", f"test_{name}*.py")]


def pytest_report_header() -> list[str]:
    return [f"not installed, so without tests: {', '.join(missing)}"] if missing else []
