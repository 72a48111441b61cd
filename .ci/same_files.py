"""Compare a checkout, its sdist, the wheel that was built from the sdist, and the wheel that was built directly."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

root, sdist, from_sdist, direct = (Path(argument) for argument in sys.argv[1:])


def require_same(what: str, found: set[object], needed: set[object]) -> None:
    """End the program unless both sets are the same."""
    if found != needed:
        sys.exit(f"{what}: missing {sorted(map(str, needed - found))}, not expected {sorted(map(str, found - needed))}")


def contents(wheel: Path) -> set[object]:
    """Return each file's name with the checksum of its bytes."""
    with zipfile.ZipFile(wheel) as archive:
        return {(entry.filename, entry.CRC) for entry in archive.infolist()}


listed = subprocess.run(["git", "-C", root, "ls-files"], capture_output=True, text=True, check=True).stdout.split("\n")
tracked = set(filter(None, listed))
require_same("the wheel from the sdist, against the direct one", contents(from_sdist), contents(direct))
with zipfile.ZipFile(direct) as archive:
    inside = {name for name in archive.namelist() if ".dist-info/" not in name}
require_same(
    "the wheel, against the checkout's secfed", inside, {name for name in tracked if name.startswith("secfed/")}
)
with tarfile.open(sdist) as archive:
    names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
require_same("the sdist, against the checkout", names - {"PKG-INFO"}, tracked)

# What the pages for contributors name is in the sdist.
for page in ("README.md", "CONTRIBUTING.md"):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (root / page).read_text())
    if missing := [
        name for name in targets if name not in names and not any(each.startswith(f"{name}/") for each in names)
    ]:
        sys.exit(f"the sdist does not have what {page} links to: {missing}")
