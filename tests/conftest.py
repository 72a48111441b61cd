"""Settings of the whole run."""

import gc
import os
import zlib
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import settings

# Linear algebra here is small: its threads would wait for each other, and for those of the other processes of the run,
# which takes several times as long. Set before anything loads NumPy; subprocesses inherit it.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# What a test leaves behind is mostly freed without the collector of cycles, which looks at thousands of collected tests
# again and again.
gc.set_threshold(50_000, 20, 50)

# The time of one example says nothing on a machine that does other work. The default run tries few examples; continuous
# integration runs the same tests with `--hypothesis-profile=thorough`.
settings.register_profile("secfed", deadline=None, max_examples=15)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile("secfed")


@pytest.fixture
def known_primes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let keys of the usual sizes come from primes that are known: to search new ones takes seconds each time.

    Such keys have one table of noise in all tests, for it takes two seconds too.
    """
    from secfed.paillier import dealing, generation, noise  # they load NumPy
    from tests.paillier.known_primes import KNOWN, KNOWN_SAFE, noise_base, noise_table

    searches = generation._rsa_primes, generation.safe_primes
    monkeypatch.setattr(generation, "_rsa_primes", lambda bits: KNOWN.get(bits) or searches[0](bits))
    monkeypatch.setattr(dealing, "safe_primes", lambda bits: KNOWN_SAFE.get(bits) or searches[1](bits))
    monkeypatch.setattr(generation, "noise_base", noise_base)
    monkeypatch.setattr(noise, "noise_table", noise_table)


@pytest.hookimpl(tryfirst=True)  # before slow tests are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the frameworks; of a test marked `sampled(count)` mark all but so many parameters slow."""
    frameworks = Path(__file__).parent / "integrations"
    for item in items:
        if item.path.is_relative_to(frameworks):
            item.add_marker(pytest.mark.integrations)
    families: dict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if (
            isinstance(item, pytest.Function)
            and item.get_closest_marker("sampled")
            and not item.get_closest_marker("slow")
        ):
            families[item.nodeid.partition("[")[0]].append(item)
    for name, family in families.items():
        [count] = family[0].get_closest_marker("sampled").args  # type: ignore[union-attr]
        kept = sample(name, [item.callspec.indices for item in family], count)
        for number, item in enumerate(family):
            if number not in kept:
                item.add_marker(pytest.mark.slow)


def sample(name: str, family: list[dict[str, int]], count: int) -> set[int]:
    """Choose parameters that have as many values of each argument as they can, and are far from each other.

    The first one depends on the test's name, so that tests of the same modes do not all try the same mode. But the
    choice is always the same.
    """
    kept: set[int] = set()
    seen: set[tuple[str, int]] = set()
    number = zlib.crc32(name.encode()) % len(family)
    while len(kept) < min(count, len(family)):
        kept.add(number)
        seen |= family[number].items()
        number = max(
            range(len(family)),
            key=lambda i: (i not in kept, len(family[i].items() - seen), min(abs(i - other) for other in kept)),
        )
    return kept
