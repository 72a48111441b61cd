"""The packages of the extra "cli": is each of them there?"""

from importlib.util import find_spec

from secfed.errors import MissingExtraError

# Import names, where they are not the names that pip knows.
_IMPORT_NAMES = {"scikit-learn": "sklearn"}


def require(*packages: str) -> None:
    """Check that packages of the extra "cli" are installed, without the time that importing them takes.

    Raises:
        MissingExtraError: One is not.
    """
    for package in packages:
        if find_spec(_IMPORT_NAMES.get(package, package)) is None:
            raise MissingExtraError("cli", package)
