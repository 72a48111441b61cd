"""Reference of the privacy budget, version 1: delta(epsilon) and epsilon(delta) to 25 digits.

Written from README.md alone; comments give its section numbers. The arithmetic is that of balls
(package `python-flint`): what it rounds is in the radius. `python reference.py` rewrites vectors/, `--check` compares
instead of writing.
"""
import itertools
import json
import math
import sys
from pathlib import Path

from flint import acb, arb, ctx

HERE = Path(__file__).resolve().parent
DIGITS = 25
# Two settings of every free choice: angle of the outer contour and its half strip, where it crosses the real axis,
# height and slope of the inner contour, fineness of both. Cauchy says that the result is the same.
SETTINGS = (
    {"bend": math.pi / 8, "strip": 0.36, "pull": 1.0, "height": 0.75, "slope": 0.6, "fine": 1.0},
    {"bend": math.pi / 9, "strip": 0.32, "pull": 0.85, "height": 0.6, "slope": 0.5, "fine": 1.15},
)


def logarithm(x):
    """log |x| as a float; -1e300 for a ball at 0."""
    x = abs(x)
    return float(x.mid().log()) if x.mid() > 0 else -1e300


def tail(x):
    """P(N(0, 1) > x)."""
    return (x / arb(2).sqrt()).erfc() / 2


# ================================================================ section 4: moments of one release

class Curve:
    """Nodes of a trapezoid rule on an analytic curve: (log weight, loss), made on demand.

    `total(s)` is the sum of weight * exp(s * loss), without the terms below exp(-nats) times the largest one or 1.
    """

    def __init__(self, node, left, step, nats):
        self.node, self.left, self.step, self.nats, self.nodes = node, left, step, nats, []

    def total(self, s, last):
        """Nodes before number `last` are always looked at."""
        t, u, sizes, best = float(s.real), float(s.imag), [], -math.inf
        while len(sizes) <= last or sizes[-1] > min(best, 0.0) - self.nats:
            i = len(sizes)
            if i == len(self.nodes):
                weight, loss = self.node(self.left + self.step * i)
                self.nodes.append((weight, loss, float(weight.real), float(loss.real), float(loss.imag)))
            _, _, a, b, c = self.nodes[i]
            sizes.append(a + t * b - u * c)
            best = max(best, sizes[-1])
        total, floor = acb(0), min(best, 0.0) - self.nats
        for size, node in zip(sizes, self.nodes, strict=False):
            if size > floor:
                total += (node[0] + s * node[1]).exp()
        return total


def softplus(w):
    """log(1 + e^w) and its derivative."""
    e = w.exp()
    return (1 + e).log(), e / (1 + e)


def log_mixture(q, tau):
    """log(1 - q + q e^tau), continued analytically where Im tau leaves (-pi, pi) right of the branch points."""
    if (tau.real + (q / (1 - q)).log()).mid() > 0:
        return tau + q.log() + (1 + (1 - q) / q * (-tau).exp()).log()
    return (1 - q + q * tau.exp()).log()


class Mixture:
    """A(s) = E[(1 - q + q e^tau)^s] with tau = (2x - 1) / (2 sigma^2), x ~ N(0, sigma^2): section 4.1."""

    two_sided = False

    def __init__(self, q, sigma, nats, setting):
        self.q, self.sigma, self.f = q, sigma, float(sigma)
        self.centre, reach = 0.5, math.sqrt(2 * nats)
        self.knee = float(((1 - q) / q).log())
        if self.two_sided:
            self.centre, self.knee = 0.0, abs(self.knee + 0.5 / self.f**2)
        self.knee += 1 + 2 * max(0.0, math.log(self.f))     # a wide Gaussian must not be lifted
        self.curves = [self.curve(slope, reach, nats, setting) for slope in (0.0, setting["slope"])]

    def curve(self, slope, reach, nats, setting):
        height = min(setting["height"], 5 / self.f)
        strip = min(0.95 * height, reach / self.f)
        need = 1.1 * nats + (self.f * (height + strip))**2 / 2
        step = arb(2 * math.pi * strip / (need * setting["fine"] * (1.25 if slope else 1)))
        left = (arb(-1.2 * reach * self.f) - self.centre - 1) / self.sigma**2
        norm = (self.sigma * step / (2 * arb.pi()).sqrt()).log()

        def node(v):
            tau, weight = acb(v, height), acb(norm)
            if slope:
                bend, derivative = softplus(tau - self.knee)
                tau, weight = tau + acb(0, slope) * bend, norm + (1 + acb(0, slope) * derivative).log()
            x = self.sigma**2 * tau + self.centre
            weight -= x * x / (2 * self.sigma**2)
            if not self.two_sided:
                return weight, log_mixture(self.q, tau)
            half = 1 / (2 * self.sigma**2)
            plus, minus = log_mixture(self.q, tau - half), log_mixture(self.q, -tau - half)
            return weight + plus, plus - minus

        return Curve(node, left, step, nats)

    def __call__(self, s):
        if s.imag < 0:
            return self(s.conjugate()).conjugate()
        t, u = float(s.real), float(s.imag)
        curve = self.curves[1 if u >= t > 0 and u > 0 else 0]
        right = (max(t, 0.0) + 1 - self.centre) / self.f**2 + 2 / self.f
        return curve.total(s, (right - float(curve.left)) / float(curve.step))


class TwoMixtures(Mixture):
    """R(z) = E_P[e^(zL)] of (1-q)N(0)+qN(1) against (1-q)N(0)+qN(-1): section 4.2; nodes in x / sigma^2."""

    two_sided = True


class HalfLine:
    """I(s) = integral over x > 1/2 of phi_sigma(x) (1 - q + q e^tau)^s dx, tau = (2x-1)/(2 sigma^2): section 4.3."""

    def __init__(self, q, sigma, nats, setting):
        self.f = f = float(sigma)
        self.knee = knee = max(float(((1 - q) / q).log()), 0.0) + 1 + 2 * max(0.0, math.log(f))
        height = arb(min(1.6 * setting["height"], 5 / f))
        scale = arb(min(3e-3, 0.03 / f))
        step = arb(2 * math.pi * 0.22 / ((1.1 * nats + 15) * setting["fine"]))
        left = arb(-math.log(1.3 * nats))
        norm = (sigma * step / (2 * arb.pi()).sqrt()).log()

        def curve(slope):
            start = softplus(acb(-knee))[0]

            def node(v):
                e = scale * (v - (-v).exp()).exp()
                fall = (-e * arb(1.2) / height).exp()
                bend, derivative = softplus(acb(e - knee))
                tau = acb(e) + acb(0, 1) * (height * (1 - fall) + slope * (bend - start))
                speed = 1 + acb(0, 1) * (arb(1.2) * fall + slope * derivative)
                x = sigma**2 * tau + arb(0.5)
                weight = norm + (speed * e * (1 + (-v).exp())).log() - x * x / (2 * sigma**2)
                return weight, log_mixture(q, tau)

            return Curve(node, left, step, nats)

        self.scale, self.curves = float(scale), [curve(arb(0)), curve(arb(setting["slope"]))]

    def __call__(self, s):
        if s.imag < 0:
            return self(s.conjugate()).conjugate()
        t, u = float(s.real), float(s.imag)
        curve = self.curves[1 if u >= t > 0 and u > 0 else 0]
        right = math.log(((max(t, 0.0) + 0.5) / self.f**2 + 2 / self.f) / self.scale) + 1
        return curve.total(s, (right - float(curve.left)) / float(curve.step))


# ================================================================ section 3: events to pairs

def flatten(events):
    """[(kind, rate, noise multiplier, count)] with equal ones merged; nothing is guessed."""
    merged = {}
    for event, count in events:
        kind, rate, inner = event["kind"], 1.0, event
        if kind == "PoissonSampled":
            rate, inner = arb(event["sampling_rate"]), event["event"]
        elif kind == "FixedSizeSampled":
            rate, inner = arb(event["cohort"]) / event["population"], event["event"]
        assert inner["kind"] in ("Gaussian", "Laplace") and (inner["kind"] == "Gaussian" or inner is event), event
        key = json.dumps(event, sort_keys=True)
        merged.setdefault(key, [kind, arb(rate), arb(inner["noise_multiplier"]), 0])[3] += count
    return list(merged.values())


def pairs(events, adjacency):
    """Section 3: the releases as [(law, rate, sigma at sensitivity 1, count)]; law gaussian, mixture, two, half."""
    found = []
    for kind, rate, sigma, count in flatten(events):
        distance = 2 if adjacency == "replace" else 1
        if kind == "Gaussian" or (kind == "PoissonSampled" and rate == 1):
            found.append(("gaussian", rate, sigma / distance, count))
        elif kind == "PoissonSampled":
            found.append(("two" if adjacency == "replace" else "mixture", rate, sigma, count))
        elif kind == "FixedSizeSampled":
            law = "gaussian" if rate == 1 else "half" if adjacency == "replace" else "mixture"
            found.append((law, rate, sigma / 2, count))
        elif kind == "Laplace":
            found.append(("laplace", rate, sigma / distance, count))
        else:
            raise ValueError(kind)
    return found


class Moments:
    """E_P[e^(zL)] and E_Q[e^(zL)] of the composed loss, in one direction: section 4."""

    def __init__(self, found, direction, nats, setting):
        self.parts, self.spread = [], arb(0)
        for law, rate, sigma, count in found:
            if law == "gaussian":
                self.spread += count / sigma**2
                continue
            made = {"mixture": Mixture, "two": TwoMixtures, "half": HalfLine}[law]
            made = made(rate, sigma, nats + math.log(count) + 5, setting)
            rest = (1 - rate) * (1 / (2 * sigma * arb(2).sqrt())).erf() if law == "half" else None
            self.parts.append((law, made, rest, count))
        self.direction = direction

    def one(self, law, made, rest, z, under):
        if law == "two":
            return made(z if under == "P" else z - 1)
        if law == "half":
            return rest + (made(z + 1) + made(-z) if under == "P" else made(z) + made(1 - z))
        if self.direction == "remove":
            return made(z + 1 if under == "P" else z)
        return made(-z if under == "P" else 1 - z)

    def log(self, z, under):
        """A logarithm of the moment; of which branch does not matter, as exp() of it is all that is used."""
        total = self.spread * z * (z + (1 if under == "P" else -1)) / 2
        for law, made, rest, count in self.parts:
            total += count * self.one(law, made, rest, z, under).log()
        return total


# ================================================================ section 5: from moments to delta and epsilon

def lowest(f, start):
    """Where a convex-like f of log t is least, to a few per cent."""
    t, ratio, best = start, 2.0, f(start)
    while ratio > 1.03:
        for there in (t * ratio, t / ratio):
            value = f(there)
            if value < best:
                t, best = there, value
                break
        else:
            ratio = math.sqrt(ratio)
    return t


class Inversion:
    """P(L > epsilon), or Q(L > epsilon), for epsilon near a given one: section 5.1."""

    def __init__(self, moments, under, epsilon, nats, setting, start=1.0):
        seen = {}

        def phase(t):
            if t not in seen:
                seen[t] = float(moments.log(acb(t), under).real) - t * epsilon - math.log(t)
            return seen[t]

        saddle = lowest(phase, start)
        t = saddle * setting["pull"]
        top, width = phase(t), 1.4 * t
        while any(not phase(there) < top + 12 for there in (t + width / 2, t - width / 2)):
            width *= 0.8
        self.saddle, self.terms = saddle, []
        bend = setting["bend"] * (-1 if moments.direction == "add" else 1)
        strip, radius = setting["strip"], width / 2 / math.sin(setting["strip"])

        def size(log_term, z):
            return float(log_term.real) - epsilon * float(z.real)

        def point(v):
            """z, and the logarithm of the integrand without e^(-z epsilon), at v."""
            z = t + radius * ((acb(0, 1) * v + bend).sin() - arb(bend).sin())
            speed = radius * (acb(0, 1) * v + bend).cos()
            return moments.log(z, under) + (speed / z / arb.pi()).log(), z

        step = arb(2 * math.pi * strip / (1.3 * (nats + 12) * setting["fine"]))
        quiet, i, best = 0, 0, -1e300
        while quiet < 0.6 / float(step):
            log_term, z = point(acb(step * i))
            log_term += step.log()
            i += 1
            if not log_term.is_finite():        # the moment is 0 to all digits that there are
                quiet += 1
                continue
            best = max(best, size(log_term, z))
            quiet = quiet + 1 if size(log_term, z) < best - nats - 8 else 0
            self.terms.append((log_term - arb(2).log() if i == 1 else log_term, z))
            if i > 100 * nats:
                raise ArithmeticError("the contour does not end")

    def __call__(self, epsilon):
        return sum((term - z * epsilon).exp().real for term, z in self.terms)


class Direction:
    """delta(epsilon) = P(L > epsilon) - e^epsilon Q(L > epsilon) near a given epsilon."""

    def __init__(self, found, direction, epsilon, nats, setting, starts=(1.0, 1.0)):
        self.moments = Moments(found, direction, nats, setting)
        self.above = Inversion(self.moments, "P", epsilon, nats, setting, starts[0])
        self.below = Inversion(self.moments, "Q", epsilon, nats, setting, starts[1])
        self.starts = self.above.saddle, self.below.saddle

    def delta(self, epsilon):
        """delta and -d delta / d epsilon."""
        falling = arb(epsilon).exp() * self.below(epsilon)
        return self.above(epsilon) - falling, falling


def newton(delta, target, epsilon):
    """The epsilon of a given delta, by Newton's method on log delta, with half a unit of its last digit as radius."""
    for _ in range(60):
        value, falling = delta(epsilon)
        move = ((value / target).log() * value / falling).mid()
        epsilon = (epsilon + move).mid()
        if abs(move) < epsilon * arb(10)**(-DIGITS - 8):
            return epsilon + move * arb(0, 1)
    raise ArithmeticError("Newton's method does not end")


def nearer(delta, target, epsilon):
    """A float nearer to the epsilon of a given delta, where delta() is right to a few digits and only near epsilon."""
    low, high, near = 0.6 * epsilon, 1.5 * epsilon, epsilon
    for _ in range(12):
        value, falling = delta(arb(near))
        if not (value > 0 and falling > 0):
            return near if near != epsilon else low
        move = float((value / target).log() * value / falling)
        before, near = near, min(max(near + move, low), high)
        if abs(near - before) < 1e-4 * near:
            break
    return near


# ================================================================ section 6: closed forms

def single(law, rate, sigma, direction):
    """epsilon -> (P(L > epsilon), Q(L > epsilon)) of one release; any real epsilon; for "half" a positive one."""
    def above(x):
        return (1 - rate) * tail(x / sigma) + rate * tail((x - 1) / sigma)

    def tails(epsilon):
        grown = arb(epsilon).exp()
        if law == "two":
            lean = rate * (-1 / (2 * sigma**2)).exp()
            half = (1 - rate) * (grown - 1)
            x = sigma**2 * ((half + (half**2 + 4 * grown * lean**2).sqrt()) / (2 * lean)).log()
            return above(x), (1 - rate) * tail(x / sigma) + rate * tail((x + 1) / sigma)
        inside = ((1 / grown if direction == "add" else grown) - 1 + rate) / rate
        if not inside > 0:
            return (arb(0), arb(0)) if direction == "add" else (arb(1), arb(1))
        x = sigma**2 * inside.log() + arb(0.5)
        if direction == "add":
            return tail(-x / sigma), (1 - rate) * tail(-x / sigma) + rate * tail((1 - x) / sigma)
        return above(x), tail(x / sigma)

    return tails


def gaussian(spread):
    """epsilon -> (P(L > epsilon), Q(L > epsilon)) of Gaussian releases with sum of 1/sigma^2 = spread."""
    return lambda epsilon: (tail((epsilon - spread / 2) / spread.sqrt()), tail((epsilon + spread / 2) / spread.sqrt()))


def laplace(gap, count):
    """epsilon -> (P(L > epsilon), Q(L > epsilon)) of `count` Laplace releases, gap = sensitivity / scale."""
    def powers(a, b, n):                        # (a S^-1 + b S)^n as {shift: coefficient}
        return {2 * k - n: math.comb(n, k) * a**(n - k) * b**k for k in range(n + 1)}

    def integral(c, a, n, low, high):           # of e^(cl) (l - a)^n, by parts
        top, bottom, total = (c * high).exp() / c, (c * low).exp() / c, arb(0)
        for k in range(n + 1):
            total = top - bottom - arb(k) / c * total
            top, bottom = top * (high - a), bottom * (low - a)
        return total

    def tails(epsilon):
        found, most = [arb(0), arb(0)], gap * count
        for m in range(count + 1):
            for i, a in powers(1, 1, count - m).items():
                for j, b in powers(1, -1, m).items():
                    start = gap * (i + j)
                    part = arb(math.comb(count, m) * a * b) / 4**m / 2**(count - m) * (-most / 2).exp()
                    low = start if start > epsilon else arb(epsilon)
                    for k, c in enumerate((arb("0.5"), arb("-0.5"))):
                        if m:
                            found[k] += part * integral(c, start, m - 1, low, most) / math.factorial(m - 1)
                        elif start > epsilon:
                            found[k] += part * (c * start).exp()
        return found

    return tails


def closed_form(found, direction):
    """The tails of section 6, or None where there are none."""
    if all(law == "gaussian" for law, *_ in found):
        return gaussian(sum((count / sigma**2 for _, _, sigma, count in found), arb(0)))
    if len(found) == 1 and found[0][0] == "laplace":
        return laplace(1 / found[0][2], found[0][3])
    if len(found) == 1 and found[0][3] == 1:
        return single(*found[0][:3], direction)
    return None


def two_releases(found, direction, epsilon, nodes=40):
    """delta of two sampled releases as an integral over the first of the closed form of the second: section 6.4."""
    (law, rate, sigma, _), second = [part for part in found for _ in range(part[3])]
    tails = gaussian(1 / second[2]**2) if second[0] == "gaussian" else single(*second[:3], direction)

    def rest(left):
        if second[0] == "half" and left < 0:
            return 1 - left.exp() + left.exp() * rest(-left)
        p, q = tails(left)
        return p - left.exp() * q

    def integrand(x):
        weight = (-x * x / (2 * sigma**2)).exp() / (sigma * (2 * arb.pi()).sqrt())
        tau = (2 * x - 1) / (2 * sigma**2)
        mixed = 1 - rate + rate * tau.exp()
        if law == "half":
            return weight * (mixed * rest(epsilon - mixed.log()) + rest(epsilon + mixed.log()))
        if law == "two":
            other = 1 - rate + rate * (-tau - 1 / sigma**2).exp()
            return weight * mixed * rest(epsilon - (mixed / other).log())
        return weight * (rest(epsilon + mixed.log()) if direction == "add" else mixed * rest(epsilon - mixed.log()))

    start = arb(0)
    if law == "half":
        start = (1 - rate) * (1 / (2 * sigma * arb(2).sqrt())).erf() * rest(epsilon)
    # the integrand is smooth but not analytic where the second loss leaves its range: panels shrink towards it
    low, high = (arb(0.5) if law == "half" else arb(-25) * sigma).mid(), (arb(25) * sigma + 1).mid()
    edges = [(low + (high - low) * k / 100).mid() for k in range(100)]
    if second[0] not in ("gaussian", "two") and law != "two":
        for value in (epsilon - (1 - second[1]).log(), epsilon):
            for sign in (-1, 1):
                inside = ((sign * value).exp() - 1 + rate) / rate
                if inside > 0:
                    point = sigma**2 * inside.log() + arb(0.5)
                    steps = [side * sigma * arb(2)**-k for k in range(-2, 70) for side in (-1, 1)]
                    edges += [(point + step).mid() for step in [arb(0), *steps]]
    points = [*sorted((edge for edge in edges if low <= edge < high), key=float), high]
    rule = [arb.legendre_p_root(nodes, k, weight=True) for k in range(nodes)]
    total = start
    for a, b in itertools.pairwise(points):
        if b - a > arb("1e-25"):
            total += (b - a) / 2 * sum((w * integrand((a + b) / 2 + (b - a) / 2 * x) for x, w in rule), arb(0))
    return total


# ================================================================ section 2: the two questions

def chernoff(moments, epsilon=None, delta=None):
    """An epsilon surely large enough for delta, or a bound of log delta(epsilon): section 5.3."""
    def bound(t):
        height = float(moments.log(acb(t), "P").real) + t * math.log(t) - (t + 1) * math.log1p(t)
        return (height - math.log(delta)) / t if epsilon is None else height - t * epsilon

    return bound(lowest(bound, 1.0))


def most(found):
    """The largest loss in the direction "add", or infinity."""
    if any(law != "mixture" for law, *_ in found):
        return math.inf
    return float(sum((-count * (1 - rate).log() for _, rate, _, count in found), arb(0)))


def precision(nats):
    ctx.prec = int(nats * 1.45) + 110


def one_direction(found, direction, query, value):
    """(answer, difference of the two settings, method) in one direction; value is the delta or epsilon asked about."""
    precision(90)
    exact = closed_form(found, direction)
    if exact:
        def delta(epsilon):
            p, q = exact(epsilon)
            return p - arb(epsilon).exp() * q, arb(epsilon).exp() * q

        if query == "delta":
            return delta(arb(value))[0], arb(0), "closed form"
        if delta(arb(0))[0] <= arb(value):
            return arb(0), arb(0), "closed form"
        return bisect(lambda epsilon: delta(epsilon)[0], arb(value)), arb(0), "closed form"
    starts, epsilon = (1.0, 1.0), value
    precision(16)
    if query == "epsilon":
        moments = Moments(found, direction, 16, SETTINGS[0])
        divergence = float(moments.log(acb(1), "P").real)
        if value > math.sqrt(divergence / 2) + 1e-12:       # delta(0) <= sqrt(KL / 2), and KL <= K(1)
            return arb(0), arb(0), "Pinsker"
        epsilon = chernoff(moments, delta=value)
        epsilon = min(epsilon, 0.98 * most(found)) if direction == "add" else epsilon
        for _ in range(60):
            rough = Direction(found, direction, epsilon, 16, SETTINGS[0], starts)
            before, starts = epsilon, rough.starts
            epsilon = nearer(rough.delta, value, epsilon)
            if abs(epsilon - before) < 0.02 * before:
                break
    answers = []
    for more in (1.0, 1.4, 2.0, 3.0):
        nats = 75 * more
        precision(nats)
        answers = []
        for setting in SETTINGS:
            near = Direction(found, direction, epsilon, nats, setting, starts)
            answers.append(near.delta(arb(value))[0] if query == "delta" else
                           newton(near.delta, arb(value), arb(epsilon)))
        difference = abs(answers[0] - answers[1]).upper()
        if difference < abs(answers[1]) * arb(10)**(-DIGITS - 2):
            return answers[1], difference, "two contours"
    raise ArithmeticError(f"the two settings differ by {difference}")


def bisect(delta, target):
    """The epsilon > 0 where a falling delta() meets the target."""
    low, high = arb(0), arb(1)
    while delta(high) > target:
        low, high = high, high * 2
    while high - low > high * arb(10)**(-DIGITS - 6):
        middle = ((low + high) / 2).mid()
        low, high = (middle, high) if delta(middle) > target else (low, middle)
    return (low + high) / 2


def answer(events, adjacency, query, value):
    """(answer, difference of the two settings, method, direction): the larger one of the two directions."""
    found = pairs(events, adjacency)
    if not any(law == "mixture" for law, *_ in found):
        return *one_direction(found, "remove", query, value), "both"
    best = *one_direction(found, "remove", query, value), "remove"
    epsilon = value if query == "delta" else float(best[0])
    precision(16)
    if epsilon >= most(found):
        return best
    small = chernoff(Moments(found, "add", 16, SETTINGS[0]), epsilon=epsilon)
    if small < (logarithm(best[0]) if query == "delta" else math.log(value)) - 0.1:
        return best
    other = *one_direction(found, "add", query, value), "add"
    return other if other[0] > best[0] else best


# ================================================================ vectors

def gauss(sigma):
    return {"kind": "Gaussian", "noise_multiplier": sigma}


def poisson(q, sigma):
    return {"kind": "PoissonSampled", "sampling_rate": q, "event": gauss(sigma)}


def fixed(cohort, population, sigma):
    return {"kind": "FixedSizeSampled", "cohort": cohort, "population": population, "event": gauss(sigma)}


def laplacian(scale):
    return {"kind": "Laplace", "noise_multiplier": scale}


ADD, REPLACE = "add_remove", "replace"
FEDERATED = [[poisson(2e-4 + 1e-4 * i, 0.7 + 0.03 * i), 400] for i in range(5)]
ARRIVALS = [[poisson(0.01, 1.1 * (1 - dropped / 100)**0.5), 100] for dropped in range(0, 50, 5)]
MIXED = [[poisson(0.05, 1.5), 100], [fixed(20, 400, 3.0), 100], [gauss(8.0), 4]]
# name: (adjacency, query, value, *(event, count)); the name is the fact
CASES = {
    "one gaussian": (ADD, "delta", "1e-5", (gauss(1.0), 1)),
    "one gaussian, replaced": (REPLACE, "delta", "1e-5", (gauss(1.0), 1)),
    "the guarantee of the sum is all in delta": (ADD, "delta", "0.5", (gauss(1.0), 1)),
    "a million gaussians": (ADD, "delta", "1e-5", (gauss(1000.0), 10**6)),
    "a billion gaussians at delta 1e-30": (REPLACE, "delta", "1e-30", (gauss(1000.0), 10**9)),
    "little noise": (ADD, "delta", "1e-5", (gauss(0.05), 1)),
    "gaussians of three kinds": (ADD, "delta", "1e-10", (gauss(1.5), 2), (gauss(4.0), 30), (gauss(20.0), 7)),
    "a rate of 1 is no sampling": (ADD, "delta", "1e-6", (poisson(1.0, 2.0), 10)),
    "a rate of 1 is no sampling, replaced": (REPLACE, "delta", "1e-6", (poisson(1.0, 2.0), 10)),
    "the whole population is no sampling, replaced": (REPLACE, "delta", "1e-6", (fixed(50, 50, 4.0), 10)),
    "one sampled release": (ADD, "delta", "1e-5", (poisson(0.01, 1.0), 1)),
    "one sampled release, replaced": (REPLACE, "delta", "1e-5", (poisson(0.01, 1.0), 1)),
    "one cohort of fixed size": (ADD, "delta", "1e-5", (fixed(1, 100, 1.0), 1)),
    "one cohort of fixed size, replaced": (REPLACE, "delta", "1e-5", (fixed(1, 100, 1.0), 1)),
    "one sampled release of little noise": (ADD, "delta", "1e-5", (poisson(0.1, 0.05), 1)),
    "one sampled release at delta 1e-30": (REPLACE, "delta", "1e-30", (poisson(0.5, 3.0), 1)),
    "one release at delta 1e-12 of rate 1e-6": (ADD, "delta", "1e-12", (poisson(1e-6, 0.8), 1)),
    "thousand rounds, all arrive": (ADD, "delta", "1e-5", (poisson(0.01, 1.1), 1000)),
    "thousand rounds, 10 % drop out": (ADD, "delta", "1e-5", (poisson(0.01, 1.1 * 0.9**0.5), 1000)),
    "thousand rounds, 30 % drop out": (ADD, "delta", "1e-5", (poisson(0.01, 1.1 * 0.7**0.5), 1000)),
    "thousand rounds, 50 % drop out": (ADD, "delta", "1e-5", (poisson(0.01, 1.1 * 0.5**0.5), 1000)),
    "federated, all arrive": (ADD, "delta", "1e-9", (poisson(1e-3, 0.8), 5000)),
    "federated, 10 % drop out": (ADD, "delta", "1e-9", (poisson(1e-3, 0.8 * 0.9**0.5), 5000)),
    "federated, 30 % drop out": (ADD, "delta", "1e-9", (poisson(1e-3, 0.8 * 0.7**0.5), 5000)),
    "federated, 50 % drop out": (ADD, "delta", "1e-9", (poisson(1e-3, 0.8 * 0.5**0.5), 5000)),
    "large cohorts, all arrive": (ADD, "delta", "1e-6", (poisson(0.1, 3.0), 500)),
    "large cohorts, 10 % drop out": (ADD, "delta", "1e-6", (poisson(0.1, 3.0 * 0.9**0.5), 500)),
    "large cohorts, 30 % drop out": (ADD, "delta", "1e-6", (poisson(0.1, 3.0 * 0.7**0.5), 500)),
    "large cohorts, 50 % drop out": (ADD, "delta", "1e-6", (poisson(0.1, 3.0 * 0.5**0.5), 500)),
    "thousand rounds, replaced": (REPLACE, "delta", "1e-5", (poisson(0.01, 1.1), 1000)),
    "thousand cohorts of fixed size": (ADD, "delta", "1e-5", (fixed(10, 1000, 1.1), 1000)),
    "thousand cohorts of fixed size, replaced": (REPLACE, "delta", "1e-5", (fixed(10, 1000, 1.1), 1000)),
    "thousand cohorts of fixed size, more noise, replaced": (REPLACE, "delta", "1e-5", (fixed(100, 10000, 2.2), 1000)),
    "thousand cohorts of fixed size, more noise": (ADD, "delta", "1e-5", (fixed(100, 10000, 2.2), 1000)),
    "delta of thousand rounds": (ADD, "epsilon", "1.5", (poisson(0.01, 1.1), 1000)),
    "delta of thousand rounds, replaced": (REPLACE, "epsilon", "2.5", (poisson(0.01, 1.1), 1000)),
    "delta of thousand cohorts, replaced": (REPLACE, "epsilon", "3.0", (fixed(100, 10000, 2.2), 1000)),
    "delta of thousand cohorts": (ADD, "epsilon", "2.0", (fixed(100, 10000, 2.2), 1000)),
    "delta of one gaussian far out": (ADD, "epsilon", "12.0", (gauss(1.0), 1)),
    "delta 1e-31 and less": (ADD, "epsilon", "8.0", (poisson(0.01, 1.1), 1000)),
    "delta of large cohorts at a small epsilon": (ADD, "epsilon", "0.01", (poisson(0.1, 3.0), 500)),
    "delta 1e-20": (ADD, "delta", "1e-20", (poisson(0.01, 1.1), 1000)),
    "delta 1e-30": (ADD, "delta", "1e-30", (poisson(0.01, 1.1), 1000)),
    "delta 1e-30, replaced": (REPLACE, "delta", "1e-30", (poisson(0.01, 1.1), 1000)),
    "delta 1e-30 of fixed cohorts, replaced": (REPLACE, "delta", "1e-30", (fixed(100, 10000, 2.2), 1000)),
    "delta 0.5": (ADD, "delta", "0.5", (poisson(0.1, 1.0), 1000)),
    "delta 0.1": (REPLACE, "delta", "0.1", (poisson(0.1, 2.0), 300)),
    "federated, rate 1e-4 and sigma 0.5": (ADD, "delta", "1e-6", (poisson(1e-4, 0.5), 1000)),
    "federated, rate 1e-4 and sigma 0.5, 10,000 rounds": (ADD, "delta", "1e-6", (poisson(1e-4, 0.5), 10000)),
    "federated, rate 1e-4 and sigma 0.6": (ADD, "delta", "1e-8", (poisson(1e-4, 0.6), 2000)),
    "federated, rate 1e-4 and sigma 0.8": (ADD, "delta", "1e-8", (poisson(1e-4, 0.8), 10000)),
    "federated, rate 5e-4 and sigma 0.6": (ADD, "delta", "1e-7", (poisson(5e-4, 0.6), 3000)),
    "federated, rate 1e-3 and sigma 0.5": (ADD, "delta", "1e-5", (poisson(1e-3, 0.5), 1000)),
    "federated, rate 1e-3 and sigma 0.6, replaced": (REPLACE, "delta", "1e-6", (poisson(1e-3, 0.6), 2000)),
    "federated, rate 1e-3 and sigma 0.8, replaced": (REPLACE, "delta", "1e-8", (poisson(1e-3, 0.8), 10000)),
    "federated, fixed cohorts, sigma 0.6, replaced": (REPLACE, "delta", "1e-6", (fixed(1000, 10**6, 0.6), 3000)),
    "federated, fixed cohorts, sigma 1.6, replaced": (REPLACE, "delta", "1e-7", (fixed(100, 10**6, 1.6), 10000)),
    "federated, fixed cohorts, sigma 1.0": (ADD, "delta", "1e-7", (fixed(100, 10**6, 1.0), 5000)),
    "federated, five kinds of rounds": (ADD, "delta", "1e-7", *FEDERATED),
    "a round for each number of arrivals": (ADD, "delta", "1e-5", *ARRIVALS),
    "a round for each number of arrivals, replaced": (REPLACE, "delta", "1e-5", *ARRIVALS),
    "two rates": (ADD, "delta", "1e-6", (poisson(0.02, 1.3), 200), (poisson(0.2, 5.0), 100)),
    "two rates, replaced": (REPLACE, "delta", "1e-6", (poisson(0.02, 1.3), 200), (poisson(0.2, 5.0), 100)),
    "sampled and not": (ADD, "delta", "1e-6", (poisson(0.02, 1.0), 500), (gauss(3.0), 1)),
    "sampled and not, replaced": (REPLACE, "delta", "1e-6", (poisson(0.02, 1.0), 500), (gauss(6.0), 2)),
    "poisson, fixed and whole": (ADD, "delta", "1e-8", *MIXED),
    "poisson, fixed and whole, replaced": (REPLACE, "delta", "1e-8", *MIXED),
    "rate 0.5": (ADD, "delta", "1e-6", (poisson(0.5, 10.0), 100)),
    "rate 0.9": (ADD, "delta", "1e-6", (poisson(0.9, 5.0), 20)),
    "rate 0.9, replaced": (REPLACE, "delta", "1e-6", (poisson(0.9, 5.0), 20)),
    "fixed cohorts of nine in ten, replaced": (REPLACE, "delta", "1e-6", (fixed(9, 10, 5.0), 20)),
    "fixed cohorts of one in two, replaced": (REPLACE, "delta", "1e-6", (fixed(50, 100, 10.0), 100)),
    "sigma 1000 and a million rounds": (ADD, "delta", "1e-5", (poisson(0.5, 1000.0), 10**6)),
    "sigma 1000 and a billion rounds": (ADD, "delta", "1e-6", (poisson(0.01, 1000.0), 10**9)),
    "sigma 100 and a million rounds, replaced": (REPLACE, "delta", "1e-6", (poisson(0.01, 100.0), 10**6)),
    "sigma 20 and a million fixed cohorts, replaced": (REPLACE, "delta", "1e-6", (fixed(1000, 10**6, 20.0), 10**6)),
    "a million rounds of rate 1e-3": (ADD, "delta", "1e-8", (poisson(1e-3, 1.0), 10**6)),
    "a million rounds of rate 1e-6": (ADD, "delta", "1e-10", (poisson(1e-6, 0.7), 10**6)),
    "a billion rounds of rate 1e-5": (ADD, "delta", "1e-10", (poisson(1e-5, 1.0), 10**9)),
    "nothing to tell: epsilon is 0": (ADD, "delta", "1e-5", (poisson(1e-6, 1000.0), 10**6)),
    "hardly anything to tell": (ADD, "delta", "1e-30", (poisson(1e-6, 1000.0), 10**6)),
    "two rounds": (ADD, "delta", "1e-5", (poisson(0.05, 0.9), 2)),
    "two rounds, replaced": (REPLACE, "delta", "1e-5", (poisson(0.05, 0.9), 2)),
    "two fixed cohorts, replaced": (REPLACE, "delta", "1e-5", (fixed(5, 100, 1.8), 2)),
    "two rounds, one sampled": (ADD, "delta", "1e-5", (poisson(0.05, 0.9), 1), (gauss(2.0), 1)),
    "five rounds": (ADD, "delta", "1e-5", (poisson(1e-3, 0.6), 5)),
    "five rounds, replaced": (REPLACE, "delta", "1e-5", (poisson(1e-3, 0.6), 5)),
    "five fixed cohorts, replaced": (REPLACE, "delta", "1e-5", (fixed(1, 1000, 0.6), 5)),
    "three rounds of little noise": (ADD, "delta", "1e-5", (poisson(0.01, 0.2), 3)),
    "ten rounds of little noise, replaced": (REPLACE, "delta", "1e-6", (poisson(0.01, 0.3), 10)),
    "a tenth of a participation": (ADD, "delta", "1e-6", (poisson(1e-4, 0.5), 1000), (poisson(1e-4, 0.4), 10)),
    "one laplace": (ADD, "delta", "1e-5", (laplacian(1.0), 1)),
    "ten laplace": (ADD, "delta", "1e-5", (laplacian(5.0), 10)),
    "ten laplace, replaced": (REPLACE, "delta", "1e-5", (laplacian(5.0), 10)),
}
QUICK = ("one gaussian", "one sampled release, replaced", "one cohort of fixed size, replaced", "ten laplace",
         "thousand rounds, all arrive", "delta of thousand rounds, replaced", "large cohorts, all arrive",
         "nothing to tell: epsilon is 0", "rate 0.9, replaced")


def solved(name):
    """A case with its answer."""
    adjacency, given, value, *events = CASES[name]
    wanted = "epsilon" if given == "delta" else "delta"
    found, difference, method, direction = answer(events, adjacency, wanted, float(value))
    error = max(float(difference), float(found.rad()), 1e-40 * float(found))
    return {"name": name, "adjacency": adjacency, "events": [list(event) for event in events], "query": wanted,
            given: value, wanted: found.mid().str(DIGITS, radius=False), "error": f"{error:.0e}", "method": method,
            "direction": direction}


def vector(cases):
    """The one file of vectors/, with these cases."""
    return {"protocol": "dp", "version": 1,
            "comment": "epsilon of delta, and delta of epsilon, to 25 digits: what any accountant must bracket",
            "config": {"digits": DIGITS}, "result": {"cases": cases}}


def dump(made):
    """A case a line: the file is read by people too."""
    cases = ",\n".join("  " + json.dumps(case) for case in made["result"]["cases"])
    head = json.dumps(made | {"result": {"cases": []}}, indent=1).removesuffix("[]\n }\n}")
    return f"{head}[\n{cases}\n ]}}\n}}\n"


def main():
    path, names = HERE / "vectors" / "epsilon.json", [arg for arg in sys.argv[1:] if arg != "--check"]
    old = path.read_text() if path.exists() else ""
    known = {case["name"]: case for case in json.loads(old)["result"]["cases"]} if names and old else {}
    cases = []
    for name in CASES:
        if not names or name in names:
            cases.append(solved(name))
            print(name, cases[-1][cases[-1]["query"]], file=sys.stderr, flush=True)
        elif name in known:
            cases.append(known[name])
    fresh = dump(vector(cases))
    if "--check" in sys.argv:
        sys.exit(f"{path.name} differs" if fresh != old else 0)
    path.parent.mkdir(exist_ok=True)
    path.write_text(fresh)


if __name__ == "__main__":
    main()
