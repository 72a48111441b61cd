"""Check that the packages that the command line needs are installed."""

from importlib.util import find_spec

from secfed.errors import MissingExtraError

# Import names that differ from pip's names.
_IMPORT_NAMES = {"scikit-learn": "sklearn", "scikit-image": "skimage"}


def require(*packages: str, extra: str = "cli") -> None:
    """Check that packages of an extra are installed, without importing them, which takes time.

    Raises:
        MissingExtraError: One is not.
    """
    for package in packages:
        if find_spec(_IMPORT_NAMES.get(package, package)) is None:
            raise MissingExtraError(extra, package)
