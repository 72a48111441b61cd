"""Write docs/licenses.md: the license of each package that secfed and its extras bring, from the installed metadata.

Run it where all extras are installed: `python .ci/licenses.py`. It needs the package `packaging`, which pytest brings.
"""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
EXTRAS = ("", "paillier", "cli", "data", "phe", "transport", "torch", "flower", "nvflare")
HEADER = """# Licenses of the dependencies

secfed is under Apache-2.0. It contains no code of the packages below: pip installs them. Each package is listed once,
with what first brings it: `core` is a plain installation, the others are extras. `.ci/licenses.py` writes this page
from the metadata of the installed packages, here on Linux. A later release may have another license, and wheels may
contain further libraries: the package says which. Three to look at before you ship secfed with its dependencies:

* gmpy2 is under the LGPL. The extras `paillier`, `cli` and `phe` bring it. Paillier works without it, but slowly.
* phe is under the GPL. Only the extra `phe` brings it.
* The list has the release of PyTorch for CPUs. The usual one for Linux also brings NVIDIA's libraries, which are under
  NVIDIA's license.

| package | release | license | brought by |
|---|---|---|---|
"""


def license_of(package: Distribution) -> str:
    """Return the license as the metadata states it, best source first."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    named = [each for each in metadata.get_all("Classifier", []) if each.startswith("License :: OSI Approved :: ")]
    if named:
        return ", ".join(sorted(each.rpartition(" :: ")[2] for each in named))
    stated = (metadata.get("License") or "").strip().split("\n")[0]
    return stated if 0 < len(stated) < 60 else "not in its metadata"


def brought_by(extra: str) -> dict[str, Distribution]:
    """Return all packages that secfed with one extra needs, directly or not."""
    found: dict[str, Distribution] = {}
    pending = [("secfed", frozenset({extra}))]
    seen = set(pending)
    while pending:
        name, extras = pending.pop()
        package = distribution(name)
        if canonicalize_name(name) != "secfed":
            found[canonicalize_name(name)] = package
        for line in package.requires or ():
            needed = Requirement(line)
            asked = extras or frozenset({""})
            if needed.marker and not any(needed.marker.evaluate({"extra": each}) for each in asked):
                continue
            following = (needed.name, frozenset(needed.extras))
            if following not in seen:
                seen.add(following)
                pending.append(following)
    return found


def main() -> None:
    """Write the page."""
    first: dict[str, tuple[str, Distribution]] = {}
    for extra in EXTRAS:
        try:
            for name, package in brought_by(extra).items():
                first.setdefault(name, (extra or "core", package))
        except PackageNotFoundError as error:
            sys.exit(f"{error} is not installed, needed all of the extras {', '.join(filter(None, EXTRAS))}")
    order = [extra or "core" for extra in EXTRAS]
    rows = [
        f"| {name} | {package.version.partition('+')[0]} | {re.sub('[|]', '/', license_of(package))} | {extra} |\n"
        for name, (extra, package) in sorted(first.items(), key=lambda item: (order.index(item[1][0]), item[0]))
    ]
    (ROOT / "docs" / "licenses.md").write_text(HEADER + "".join(rows))


if __name__ == "__main__":
    main()
