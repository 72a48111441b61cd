"""The settings that the benchmark of the accountant draws: as many of each kind, and within the ranges, as it says."""

import math
from collections import Counter

from benchmarks.accountant_settings import POPULATION, curves, realistic, wide

MIX = {("fixed", "replace"): 1, ("poisson", "replace"): 1, ("poisson", "add_remove"): 2}


def test_realistic_settings_are_200_of_each_kind_within_their_ranges() -> None:
    settings = realistic()
    assert len(set(settings)) == 400 and settings == realistic()
    for kind in ("dp-sgd", "fl"):
        mix = Counter((each.sampling, each.adjacency) for each in settings if each.kind == kind)
        assert mix == {way: 50 * share for way, share in MIX.items()}
    assert all(1e-10 <= each.delta <= 1e-4 for each in settings)
    for each in settings:
        if each.kind == "dp-sgd":
            assert 1e-4 <= each.rate <= 0.05 and 0.5 <= each.noise <= 4, each
            assert 100 <= each.rounds <= 50_000 and 1 <= each.rate * each.rounds <= 500, each
        else:
            assert (0.01 <= each.rate <= 0.5 or each.rate == 1) and 0.3 <= each.noise <= 10, each
            assert 10 <= each.rounds <= 2_000, each
    everyone = Counter((each.sampling, each.adjacency) for each in settings if each.rate == 1)
    assert everyone == {way: 10 * share for way, share in MIX.items()}


def test_wide_settings_fill_their_ranges() -> None:
    settings = wide()
    assert len(set(settings)) == 300 and settings == wide()
    assert Counter((each.sampling, each.adjacency) for each in settings) == {way: 75 * n for way, n in MIX.items()}
    for name, low, high in (("rate", 1e-7, 1), ("noise", 0.3, 50), ("rounds", 1, 1e6), ("delta", 1e-12, 1e-3)):
        values = [getattr(each, name) for each in settings]
        assert low <= min(values) and max(values) <= high
        # Even on a logarithmic scale: about half are below the middle.
        assert 110 <= sum(value < math.sqrt(low * high) for value in values) <= 190, name


def test_curves_are_72_settings() -> None:
    assert len(set(curves())) == 72 and {each.rounds for each in curves()} == {1_000}


def test_rates_drawn_are_whole_cohorts() -> None:
    for each in (*realistic(), *wide(), *curves()):
        assert each.cohort / POPULATION == each.rate, each
