"""A framework that is not installed is named by the error, with the extra that brings it."""

import subprocess
import sys

import pytest

BLOCKED = """
import sys
sys.modules[{package!r}] = None
from secfed.errors import MissingExtraError
try:
    import secfed.{module}
except MissingExtraError as error:
    print(error.extra, error)
"""


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [("integrations.nvflare", "nvflare", "nvflare"), ("transport", "aiohttp", "transport")],
)
def test_import_without_the_framework_names_its_extra(module: str, package: str, extra: str) -> None:
    code = BLOCKED.format(package=package, module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(f"{extra} {package} is not installed")
    install = f'in a clone of secfed, run pip install ".[{extra}]"; with a wheel, pip install "FILE.whl[{extra}]"'
    assert install in done.stdout
