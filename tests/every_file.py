"""Checks of each file of the library, as one test: a test for each file takes longer than what it checks."""

from collections.abc import Callable
from pathlib import Path

LIBRARY = Path(__file__).parent.parent / "secfed"
FILES = sorted(LIBRARY.rglob("*.py"))


def every_file(check: Callable[[Path], None]) -> Callable[[], None]:
    """Turn the check of a file into a test of all files, which names those that failed."""

    def test() -> None:
        failed: list[AssertionError] = []
        for path in FILES:
            try:
                check(path)
            except AssertionError as error:
                error.add_note(f"in {path.relative_to(LIBRARY).as_posix()}")
                failed.append(error)
        if failed:
            raise ExceptionGroup(f"{len(failed)} of {len(FILES)} files", failed)

    test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
    return test
