"""How many more times an event fits into a budget."""

import math

from secfed.dp.composition import Composition
from secfed.dp.contour.integral import WarmStart
from secfed.dp.events import Event


def most_rounds(before: Composition, event: Event, epsilon: float, delta: float, most: int = 10**9) -> int:
    """Return how many more times an event fits into a budget, at most `most`."""

    def after(count: int) -> Composition:
        return before.with_event(event, count) if count else before

    # Cheap bounds first: they show where to start.
    low, refused = 0, most.bit_length()
    while refused > low.bit_length():
        power = (low.bit_length() + refused) // 2
        low, refused = (1 << power, refused) if after(1 << power).ceiling(delta, epsilon) <= epsilon else (low, power)
    starts = (WarmStart(), WarmStart())
    value = after(low).epsilon(delta, starts)[1]
    if value > epsilon:
        return 0
    high, above, width, factor = most + 1, math.inf, 0.0, 2
    for tries in range(200):
        # If the engines differ by more than what is left, going on gains nothing.
        if high - low <= 1 or math.log(high / max(low, 1)) <= 0.1 * width:
            break
        if above == math.inf:
            at, factor = max(low, 1) * factor, min(factor**2, 64)
        elif tries % 3 == 2 or not value > 0:
            at = round(math.sqrt(max(low, 1) * high))
        else:
            # The logarithm of epsilon is nearly linear in that of the count.
            share = math.log(epsilon / value) / math.log(above / value)
            at = round(math.exp(math.log(max(low, 1)) * (1 - share) + math.log(high) * share))
        at = min(max(at, low + 1), high - 1)
        lower, found = after(at).epsilon(delta, starts)
        width = math.log(found / lower) if lower > 0 and found < math.inf else 0.0
        low, value, high, above = (at, found, high, above) if found <= epsilon else (low, value, at, found)
    return low
