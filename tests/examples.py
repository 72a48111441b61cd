"""How many examples a property is tried with."""

from typing import Any

from hypothesis import settings


def examples(default: int, thorough: int, **more: Any) -> settings:
    """Fewer where an example is expensive: `default` in the default run, `thorough` with the profile of that name.

    The profile is loaded before tests are imported, and the default one has fewer examples than the thorough one.
    """
    wants_many = settings.default.max_examples > settings.get_profile("secfed").max_examples
    return settings(max_examples=thorough if wants_many else default, **more)
