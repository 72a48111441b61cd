"""Public weights: the product of powers of ciphertexts, with one addition chain for all rows.

Source: Bos and Coster, *Addition Chain Heuristics*, CRYPTO 1989: the two largest exponents a >= b of x^a y^b become
x^(a - b) (x y)^b; with a quotient instead of repeated subtraction.
"""

import heapq
from collections.abc import Sequence
from typing import Any

from secfed.paillier.integers import in_threads, power

# (target, source, exponent): target *= source ** exponent.
Chain = list[tuple[int, int, int]]


def addition_chain(weights: Sequence[int]) -> tuple[Chain, int, int]:
    """Plan the product of powers.

    Args:
        weights: Positive exponents, one for each factor.

    Returns:
        The steps, the index of the remaining factor, and its exponent.
    """
    heap = [(-weight, factor) for factor, weight in enumerate(weights)]
    heapq.heapify(heap)
    steps: Chain = []
    while len(heap) > 1:
        largest, first = heapq.heappop(heap)
        second_largest, second = heap[0]
        quotient, rest = divmod(-largest, -second_largest)
        steps.append((second, first, quotient))
        if rest:
            heapq.heappush(heap, (-rest, first))
    exponent, factor = heap[0]
    return steps, factor, -exponent


def weighted_products(
    columns: Sequence[Sequence[Any]], weights: Sequence[int], modulus: Any, threads: int | None = None
) -> list[Any]:
    """Return, for each row, the product of the columns' ciphertexts to the power of their weights.

    Args:
        columns: One sequence of ciphertexts for each weight, all of the same length.
        weights: Positive exponents.
        modulus: `n**(degree + 1)`.
        threads: How many share the work; by default one for each usable core.
    """
    steps, last, exponent = addition_chain(weights)

    def products(part: Sequence[tuple[Any, ...]]) -> list[Any]:
        found = []
        for row in part:
            factors = list(row)
            for target, source, times in steps:
                factor = factors[source] if times == 1 else power(factors[source], times, modulus)
                factors[target] = factors[target] * factor % modulus
            found.append(power(factors[last], exponent, modulus))
        return found

    return in_threads(products, list(zip(*columns, strict=True)), threads)
