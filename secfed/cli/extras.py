"""The packages of the extras that the command line needs: is each of them there?"""

from importlib.util import find_spec

from secfed.errors import MissingExtraError

# Import names, where they are not the names that pip knows.
_IMPORT_NAMES = {"scikit-learn": "sklearn", "scikit-image": "skimage"}


def require(*packages: str, extra: str = "cli") -> None:
    """Check that packages of an extra are installed, without the time that importing them takes.

    Raises:
        MissingExtraError: One is not.
    """
    for package in packages:
        if find_spec(_IMPORT_NAMES.get(package, package)) is None:
            raise MissingExtraError(extra, package)
