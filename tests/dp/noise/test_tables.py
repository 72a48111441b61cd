"""The tables, number by number, against high-precision decimals and slow rules."""

from collections.abc import Callable, Iterator
from decimal import ROUND_FLOOR, Decimal, localcontext
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from secfed.dp.noise import samplers
from secfed.dp.noise.samplers import Sampler
from secfed.dp.noise.tables import GaussianWeights, SkellamWeights, Table, negative_exponential

CLOSE = Decimal(2) ** -128
WHOLE = 1 << 208


@pytest.fixture(autouse=True)
def many_digits() -> Iterator[None]:
    with localcontext() as context:
        context.prec = 120
        yield


def decimal(number: Fraction) -> Decimal:
    return Decimal(number.numerator) / Decimal(number.denominator)


def gaussian_law(variance: Fraction, reach: int) -> dict[int, Decimal]:
    half = [(-Decimal(x * x) / (2 * decimal(variance))).exp() for x in range(reach + 1)]
    total = half[0] + 2 * sum(half[1:])
    return {x: half[abs(x)] / total for x in range(-reach, reach + 1)}


def skellam_law(variance: Fraction, reach: int) -> dict[int, Decimal]:
    """From the definition: sums of products of Poisson probabilities."""
    mean = decimal(variance) / 2
    poisson = [(-mean).exp()]
    while len(poisson) < 3 * reach + 2 * mean:
        poisson.append(poisson[-1] * mean / len(poisson))
    half = [sum(a * b for a, b in zip(poisson, poisson[x:], strict=False)) for x in range(reach + 1)]
    return {x: half[abs(x)] for x in range(-reach, reach + 1)}


def law_of(table: Table) -> dict[int, Fraction]:
    ends = [0, *table.boundaries, WHOLE]
    return {table.lowest + i: Fraction(b - a, WHOLE) for i, (a, b) in enumerate(pairwise(ends))}


def distance(found: dict[int, Decimal], truth: dict[int, Decimal]) -> Decimal:
    """Total variation, where what the truth leaves out counts as well."""
    missing = 1 - sum(truth.values())
    return sum(abs(found.get(x, Decimal(0)) - truth.get(x, Decimal(0))) for x in found.keys() | truth) / 2 + abs(
        missing
    )


def words(numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    first = np.array([number >> 192 for number in numbers], np.uint16)
    further = np.array([[number >> shift & (1 << 64) - 1 for shift in (128, 64, 0)] for number in numbers], np.uint64)
    return first, further


def near_boundaries(table: Table) -> list[int]:
    """In ascending order, for a rule that walks along."""
    found = {0, WHOLE - 1}
    for boundary in table.boundaries:
        found |= {boundary - 1, boundary, boundary + 1, boundary + (1 << 63), boundary >> 144 << 144}
    return sorted(number for number in found if 0 <= number < WHOLE)


def walk(table: Table, numbers: list[int]) -> list[int]:
    """The value of each number of an ascending list, by counting."""
    values, passed = [], 0
    for number in numbers:
        while passed < len(table.boundaries) and table.boundaries[passed] <= number:
            passed += 1
        values.append(table.lowest + passed)
    return values


@pytest.mark.parametrize("bits", [1, 2, 16, 80, 144, 288])
def test_exponential_is_less_than_two_units_off(bits: int) -> None:
    arguments = [(0, 1), (1, 3), (1, 10**30), (10**30 + 1, 10**30), (17, 16), (1, 16), (1, 17), (98, 1), (10**9, 1)]
    arguments += [(bits, 1), (bits * 10 - 1, 10), (bits * 7, 10), (bits * 10 + 1, 10), (3**60, 2**91), (5, 2**1074)]
    with localcontext() as context:
        context.prec = 400
        for top, bottom in arguments:
            truth = (-Decimal(top) / bottom).exp() * 2**bits
            assert abs(negative_exponential(top, bottom, bits) - truth) < 2, (top, bottom)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("sigma", ["1/10", "1/4", "1/2", "1", "1171/500", "9", "100"])
def test_gaussian_table_holds_the_law_to_128_bits(sigma: str) -> None:
    variance = Fraction(sigma) ** 2
    sampler = Sampler(GaussianWeights(variance))
    found = {x: decimal(probability) for x, probability in law_of(sampler.table).items()}
    assert distance(found, gaussian_law(variance, 20 * int(Fraction(sigma) + 1))) < CLOSE


@pytest.mark.sampled(2)
@pytest.mark.parametrize("variance", ["1/1000", "1/4", "1", "73/10", "100"])
def test_skellam_table_holds_the_difference_of_poisson_variables_to_128_bits(variance: str) -> None:
    sampler = Sampler(SkellamWeights(Fraction(variance)))
    found = {x: decimal(probability) for x, probability in law_of(sampler.table).items()}
    assert distance(found, skellam_law(Fraction(variance), int(20 * float(Fraction(variance)) ** 0.5) + 50)) < CLOSE


def test_sum_of_skellams_is_skellam() -> None:
    laws = [law_of(Sampler(SkellamWeights(Fraction(v))).table) for v in ("5/2", "13/3", "41/6")]
    summed: dict[int, Decimal] = {}
    for x, p in laws[0].items():
        for y, q in laws[1].items():
            summed[x + y] = summed.get(x + y, Decimal(0)) + decimal(p) * decimal(q)
    assert distance(summed, {x: decimal(p) for x, p in laws[2].items()}) < 2 * CLOSE


def test_what_skellam_cuts_off_is_below_the_bound_in_its_docstring() -> None:
    for power in range(-40, 28):
        for factor in (Fraction(1), Fraction(4, 3), Fraction(7, 4)):
            variance = factor * Fraction(2) ** power
            v, n = decimal(variance), Decimal(SkellamWeights(variance).reach if power < 18 else 0)
            if power >= 18:  # the rule alone: the weights take a while
                n = 15 * v.sqrt()
            root = (v * v + n * n).sqrt()
            exponent = root - v - n * ((n + root) / v).ln()
            assert exponent < -160 * Decimal(2).ln(), variance


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "weights",
    [
        GaussianWeights(Fraction(1, 100)),
        GaussianWeights(Fraction(1)),
        GaussianWeights(Fraction(900)),
        GaussianWeights(Fraction(10**5)),
        pytest.param(GaussianWeights(Fraction(10**6)), marks=pytest.mark.slow),
        pytest.param(GaussianWeights(Fraction(10**9)), marks=pytest.mark.slow),
        SkellamWeights(Fraction(1, 10**6)),
        SkellamWeights(Fraction(1, 2**1074)),
        SkellamWeights(Fraction(50)),
        pytest.param(SkellamWeights(Fraction(10**6)), marks=pytest.mark.slow),
    ],
    ids=lambda weights: f"{type(weights).__name__}-{float(weights.variance):g}",
)
def test_every_boundary_parts_the_numbers_as_counting_does(weights: GaussianWeights | SkellamWeights) -> None:
    table = Sampler(weights).table
    assert table.boundaries == sorted(table.boundaries)
    numbers = near_boundaries(table)
    first, further = words(numbers)
    assert table.invert(first, further).tolist() == walk(table, numbers)
    # The same through the look-up, which asks for further words only where it needs them.
    wanted = np.flatnonzero(table._values[first] == -(1 << 15))
    given = iter(further[wanted].ravel().tolist())
    values = np.empty(len(first), np.int16)
    table.look_up(first, lambda count: np.array([next(given) for _ in range(count)], np.uint64), values)
    assert values.tolist() == walk(table, numbers)
    assert next(given, None) is None


@pytest.mark.sampled(1)
@pytest.mark.parametrize("filler", [0, 1, (1 << 192) - 1])
def test_every_first_word_is_looked_up_as_counting_does(filler: int) -> None:
    table = Sampler(GaussianWeights(Fraction(10**4))).table
    numbers = [(word << 192) + filler for word in range(1 << 16)]
    first, further = words(numbers)
    values = np.empty(1 << 16, np.int16)
    undecided = table._values == -(1 << 15)
    table.look_up(first, lambda count: further[undecided].ravel(), values)
    assert values.tolist() == walk(table, numbers)
    assert 0.001 < undecided.mean() < 0.05


def test_numbers_that_share_80_bits_with_a_boundary_are_told_apart() -> None:
    table = Sampler(GaussianWeights(Fraction(25))).table
    boundary = table.boundaries[len(table.boundaries) // 2]
    for place in (0, 1, 63, 64, 100, 127):  # the number differs from the boundary in its bit of this worth at most
        numbers = sorted({boundary ^ (1 << place), boundary, boundary | (1 << place), boundary >> place << place})
        assert len({number >> 128 for number in numbers}) == 1
        first, further = words(numbers)
        assert table.invert(first, further).tolist() == walk(table, numbers)


def chance_bits(chance: Decimal, bits: int) -> int:
    return int((chance * 2**bits).to_integral_value(ROUND_FLOOR))


def gaussian_chance(integer: int, highest: int) -> Decimal:
    return (-Decimal(integer**2 - highest**2) / (2 * 10**8)).exp()


def skellam_chance(integer: int, highest: int) -> Decimal:
    held = SkellamWeights(Fraction(50))._weights
    return Decimal(held[abs(integer)]) / Decimal(held[abs(highest)])


@pytest.mark.parametrize(
    ("weights", "chance"),
    [(GaussianWeights(Fraction(10**8)), gaussian_chance), (SkellamWeights(Fraction(50)), skellam_chance)],
)
def test_integers_of_a_block_are_kept_exactly_below_their_chance(
    weights: GaussianWeights | SkellamWeights, chance: Callable[[int, int], Decimal]
) -> None:
    for integer, highest in ((1, 0), (15, 8), (-8, -1), (13, 12), (-33, -32)):
        edge = int((chance(integer, highest) * 2**272).to_integral_value(ROUND_FLOOR))
        for number, expected in ((edge - 8, True), (edge + 8, False)):
            pieces = [number >> shift & (1 << 64) - 1 for shift in (0, 64, 128, 192)]
            assert weights.keeps(integer, highest, number >> 256, pieces.pop) is expected
            assert pieces == []  # no earlier word could tell
        assert weights.keeps(integer, highest, 0, lambda: 0)
        assert not weights.keeps(integer, highest, (1 << 16) - 1, lambda: (1 << 64) - 1)


def test_an_integer_as_heavy_as_the_highest_is_always_kept() -> None:
    assert GaussianWeights(Fraction(10**8)).keeps(5, 5, (1 << 16) - 1, lambda: (1 << 64) - 8)
    assert SkellamWeights(Fraction(50)).keeps(-5, 5, (1 << 16) - 1, lambda: (1 << 64) - 1)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", [GaussianWeights, SkellamWeights])
def test_blocks_have_the_law_itself(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """By enumeration: block, uniform member, kept with its weight over the highest."""
    monkeypatch.setattr(samplers, "TABLE_VARIANCE", 4)
    variance = Fraction(200)
    sampler = Sampler(kind(variance))
    assert sampler.shift == 3
    truth = gaussian_law(variance, 300) if kind is GaussianWeights else skellam_law(variance, 300)
    found = {}
    for block, probability in law_of(sampler.table).items():
        members = range(block << 3, block + 1 << 3)
        highest = max(truth[x] for x in members)
        for x in members:
            found[x] = decimal(probability) / 8 * truth[x] / highest
        # What is kept without a look is kept whatever the member.
        kept = int(sampler._kept[block - sampler.table.lowest])
        assert Decimal(kept) / 2**16 <= min(truth[x] for x in members) / highest < Decimal(kept + 2) / 2**16
    total = sum(found.values())
    assert total > Decimal("0.5")
    assert distance({x: p / total for x, p in found.items()}, truth) < CLOSE


@pytest.mark.parametrize("kind", [GaussianWeights, SkellamWeights])
def test_what_is_kept_without_a_look_allows_for_the_error_of_both_weights(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = 1 << 280
    monkeypatch.setattr(samplers, "TABLE_VARIANCE", 4)
    monkeypatch.setattr(samplers, "WEIGHT_ERROR", error)
    sampler = Sampler(kind(Fraction(200)))
    for block in range(sampler.table.lowest, 0):
        kept = int(sampler._kept[block - sampler.table.lowest])
        nearest, farthest = (block + 1 << sampler.shift) - 1, block << sampler.shift
        high, low = (sampler.weights.at(-integer, 1, 1)[0] for integer in (nearest, farthest))
        assert Fraction(kept, 2**16) <= max(Fraction(0), Fraction(low - error, high + error))
    assert sampler._kept.max() > 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", [GaussianWeights, SkellamWeights])
@pytest.mark.parametrize("variance", [2**22 + 1, 10**8])
def test_nearly_all_integers_are_kept_without_a_look(kind: type, variance: int) -> None:
    sampler = Sampler(kind(Fraction(variance)))
    assert sampler.shift > 0
    assert int(sampler._kept_anywhere) > 0.97 * 2**16
    middle = sampler._kept[-sampler.table.lowest - 100 : 100 - sampler.table.lowest]
    assert middle.min() > 0.9998 * 2**16
