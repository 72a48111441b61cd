"""Neighbors and threshold of a session, from the fractions of clients that may be corrupt and may drop out.

Symbols of the papers: n clients, k neighbors, t threshold, gamma corrupt fraction, delta dropout fraction, sigma
security bits, eta correctness bits, A corrupt clients, D dropouts, S = n - D survivors.
"""

import math
import operator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from secfed.errors import ConfigError

_MOST_CLIENTS = 2**24  # what a configuration can list
_COMPLETE_GRAPH_CLIENTS = 4096  # above, each client would exchange keys and shares with thousands of others
_MOST_LOST = 0.9  # of the clients, on a k-regular graph: the limit up to which the production chooser accepts a request

# Floating-point guards. 0.29 * 100 gives 28.999999999999996, so a count within 1e-6 of the next integer is rounded up
# (the safe direction). Sums such as 0.34 + 0.56 may exceed a bound by a rounding error, so comparisons allow 1e-9.
_COUNT_SLACK = 1e-6
_SLACK = 1e-9

_Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Parameters:
    """What to put into a configuration.

    Attributes:
        neighbors: k, clients that each client shares pair masks with; `clients - 1` is the complete graph.
        threshold: t, shares that open a secret.
        colluders: t1, the most corrupt clients among the holders of one client's shares. The holders are its
            `neighbors`, or all clients on the complete graph.
        clients: n, the cohort that this is for.
        adversary: the adversary that this is for.
        session_colluders: A, corrupt clients of the whole session, where a configuration needs it (k-regular,
            `malicious_server` and indivisible); otherwise None.
    """

    neighbors: int
    threshold: int
    colluders: int
    clients: int
    adversary: str
    session_colluders: int | None = None


def parameters(
    *,
    clients: int,
    corrupt_fraction: float,
    dropout_fraction: float,
    adversary: Literal["semi_honest", "malicious_server"] = "semi_honest",
    security_bits: float | None = None,
    correctness_bits: float = 20,
    minimum_honest_inputs: int = 1,
    indivisible: bool = False,
) -> Parameters:
    """Choose the fewest neighbors, then the smallest threshold, that are secure and survive the dropouts.

    A k-regular graph (k even, k < n - 1) is chosen if there is one, otherwise the complete graph:

    * k-regular: gamma + delta <= 0.9 (`semi_honest`) or gamma + 2 delta <= 0.9 (`malicious_server`), as in the
      production chooser; the honest survivors stay connected except with probability 2^-(sigma+1); some client has
      more than t1 corrupt neighbors with probability at most 2^-(sigma+1), fewer than t surviving ones with
      probability at most 2^-eta; t > t1, and 2t > k + t1 if the adversary is `malicious_server`.
    * complete: nothing is random, so the bits and the bound of 0.9 do not apply (near this bound a random graph would
      need almost all clients as neighbors). t1 = A; t > A, 2t > n (2t > n + A if `malicious_server`) and t <= S,
      exactly. At most 4096 clients: above, a complete graph costs too much.

    Always 2 <= t <= k (n on the complete graph), as a configuration requires, and t - t1 >= `minimum_honest_inputs`
    (2t - k - t1 on a k-regular graph against a malicious server, unless `indivisible`).

    Args:
        clients: n, 2 to 2^24.
        corrupt_fraction: gamma in [0, 1), clients that may collude with the server. A = floor(gamma n).
        dropout_fraction: delta in [0, 1), clients that may drop out in a session. D = floor(delta n).
        adversary: "semi_honest" or "malicious_server".
        security_bits: sigma > 0; the graph fails to protect with probability at most 2^-sigma. None is 40 against a
            semi-honest server and 80 against a malicious one, which can try many graphs: each doubling of that work
            costs one bit. Unused on the complete graph.
        correctness_bits: eta > 0; the random dropouts of a session leave some client without t holders with
            probability at most 2^-eta. Unused on the complete graph.
        minimum_honest_inputs: at least this many honest holders of each opened client are in the same sum. On the
            complete graph the client itself is one of them.
        indivisible: also require 2t > k + 2 t1 of a k-regular graph, so that a server that chooses the dropouts after
            it has seen the graph cannot cut the sum into smaller ones (a client can require it, `Policy.indivisible`).
            Against a malicious server the session also collects (n + A) / 2 signatures, 64 bytes each, for every
            client: see `session_colluders`.

    Returns:
        The parameters.

    Raises:
        ConfigError: an argument is out of its range, or no graph and threshold satisfy the rules.

    Security:
        The rule for k-regular graphs assumes that the server did not choose the graph and that dropouts are random.
        A server that chooses the dropouts after it has seen the graph, or tells clients different survivors, can still
        cut out a part of it and learn that part's sum; each client is then protected only by `minimum_honest_inputs`.
        With `indivisible` the server cannot: `protocols/secagg/README.md`, section 4.1, has the proof.

    Source:
        Bell et al., Secure Single-Server Aggregation with (Poly)Logarithmic Overhead, CCS 2020, section 3;
        the exact tails, the semi-malicious bound 2t > k + t1 and the 0.9 are the rule of Google's federated-compute
        (`fcp/secagg/server`, graph parameter finder). Complete graph: Bonawitz et al., CCS 2017.
    """
    if security_bits is None:
        security_bits = _default_security_bits(adversary)
    wanted = _validated(
        clients,
        corrupt_fraction,
        dropout_fraction,
        adversary,
        security_bits,
        correctness_bits,
        minimum_honest_inputs,
        indivisible,
    )
    if wanted.most_lost <= _MOST_LOST + _SLACK:
        found = _smallest_regular_graph(wanted)
        if found is not None:
            return found
        refusal = f"no even k below {clients - 1} neighbors makes a safe k-regular graph"
    else:
        lost = f"{wanted.most_lost_words} = {wanted.most_lost:.9g}"
        refusal = f"{lost} is above {_MOST_LOST}, the most for a k-regular graph"
    return _complete_graph(wanted, refusal)


def least_against_corruption(
    *, clients: int, corrupt_fraction: float, dropout_fraction: float, neighbors: int | None, adversary: str
) -> tuple[int, int]:
    """Return the fewest neighbors and the fewest colluders that a session must have, by the rules of `parameters`.

    Args:
        clients: n.
        corrupt_fraction: gamma in [0, 1), clients that may collude with the server. A = floor(gamma n).
        dropout_fraction: delta in [0, 1), clients that may drop out in a session. D = floor(delta n).
        neighbors: k of the session, even; None is the complete graph.
        adversary: "semi_honest" or "malicious_server".

    Returns:
        The fewest neighbors with which the honest survivors stay connected (0 on the complete graph), and the most
        corrupt clients among one client's holders, both except with the probability that `parameters` allows by
        default.

    Raises:
        ConfigError: An argument is out of its range.
    """
    bits = _default_security_bits(adversary)
    wanted = _validated(clients, corrupt_fraction, dropout_fraction, adversary, bits, 1, 1, False)
    if neighbors is None:
        return 0, wanted.corrupt
    log_bound = -(bits + 1) * math.log(2) - math.log(clients)
    return _fewest_connecting_neighbors(wanted), _Marked(wanted.corrupt, clients).most(neighbors, log_bound)


def _default_security_bits(adversary: str) -> float:
    return 80 if adversary == "malicious_server" else 40


@dataclass(frozen=True, slots=True)
class _Request:
    clients: int
    corrupt: int  # A
    dropouts: int  # D
    malicious: bool
    security_bits: float
    correctness_bits: float
    honest_inputs: int
    indivisible: bool
    most_lost: float
    most_lost_words: str

    @property
    def survivors(self) -> int:
        return self.clients - self.dropouts

    def smallest_threshold(self, holders: int, colluders: int, *, complete: bool = False) -> int:
        # A configuration requires t >= 2, even if no client is corrupt and one share would be enough.
        threshold = max(2, colluders + self.honest_inputs)
        if self.malicious:
            # A malicious server asks some holders for the self seed and others for the mask key of one client; the
            # colluders answer both questions. 2t > h + t1 leaves too few holders for one of the two.
            threshold = max(threshold, (holders + colluders) // 2 + 1)
            if not (complete or self.indivisible):
                # What is left if the server tells clients different survivors: 2t - h - t1 honest neighbors.
                threshold = max(threshold, -(-(holders + colluders + self.honest_inputs) // 2))
        if self.indivisible and not complete:
            threshold = max(threshold, holders // 2 + colluders + 1)
        elif complete:
            threshold = max(threshold, holders // 2 + 1)
        return threshold

    def result(self, neighbors: int, threshold: int, colluders: int) -> Parameters:
        adversary = "malicious_server" if self.malicious else "semi_honest"
        whole_session = self.malicious and self.indivisible and neighbors < self.clients - 1
        session_colluders = self.corrupt if whole_session else None
        return Parameters(neighbors, threshold, colluders, self.clients, adversary, session_colluders)


def _validated(
    clients: int,
    corrupt_fraction: float,
    dropout_fraction: float,
    adversary: str,
    security_bits: float,
    correctness_bits: float,
    minimum_honest_inputs: int,
    indivisible: bool,
) -> _Request:
    n, honest_inputs = operator.index(clients), operator.index(minimum_honest_inputs)
    if not 2 <= n <= _MOST_CLIENTS:
        raise ConfigError(f"{n} clients must be at least 2 and at most {_MOST_CLIENTS}")
    for name, fraction in (("corrupt_fraction", corrupt_fraction), ("dropout_fraction", dropout_fraction)):
        if not 0 <= fraction < 1:
            raise ConfigError(f"{name} {fraction} must be at least 0 and below 1")
    if adversary not in ("semi_honest", "malicious_server"):
        raise ConfigError(f"adversary {adversary!r} must be 'semi_honest' or 'malicious_server'")
    for name, bits in (("security_bits", security_bits), ("correctness_bits", correctness_bits)):
        if not 0 < bits < math.inf:
            raise ConfigError(f"{name} {bits} must be above 0 and finite")
    if not 1 <= honest_inputs <= n:
        raise ConfigError(f"minimum_honest_inputs {honest_inputs} must be at least 1 and at most {n} clients")
    malicious = adversary == "malicious_server"
    return _Request(
        clients=n,
        corrupt=math.floor(corrupt_fraction * n + _COUNT_SLACK),
        dropouts=math.floor(dropout_fraction * n + _COUNT_SLACK),
        malicious=malicious,
        security_bits=security_bits,
        correctness_bits=correctness_bits,
        honest_inputs=honest_inputs,
        indivisible=indivisible,
        most_lost=corrupt_fraction + (2 if malicious else 1) * dropout_fraction,
        most_lost_words=f"corrupt_fraction + {'2 ' if malicious else ''}dropout_fraction",
    )


def _smallest_regular_graph(wanted: _Request) -> Parameters | None:
    n = wanted.clients
    if wanted.malicious and wanted.indivisible and (n + wanted.corrupt) // 2 + 1 > wanted.survivors:
        return None  # too few would be left to sign
    # The union bound over n clients; sigma + 1 since connectivity has the other half of 2^-sigma.
    log_corrupt_bound = -(wanted.security_bits + 1) * math.log(2) - math.log(n)
    log_dropout_bound = -wanted.correctness_bits * math.log(2) - math.log(n)
    corrupt, survivors = _Marked(wanted.corrupt, n), _Marked(wanted.survivors, n)
    k = _fewest_connecting_neighbors(wanted)
    while k < n - 1:
        colluders = corrupt.most(k, log_corrupt_bound)
        threshold = wanted.smallest_threshold(k, colluders)
        missing = threshold - survivors.fewest(k, log_dropout_bound)
        if missing <= 0:
            return wanted.result(k, threshold, colluders)
        # Feasibility is not monotone in k, so this neither bisects nor gallops. But one more neighbor raises `fewest`
        # by at most one (couple the draws of k and k + 1) and never lowers the threshold: all k below k + missing fail.
        # If 2t > k + t1 (or + 2 t1) sets the threshold, each more neighbor raises it by at least a half: all k below
        # k + 2 missing fail.
        more_honest = 0 if wanted.indivisible else wanted.honest_inputs - 1
        by_half = (wanted.malicious and 2 * (threshold - 1) <= k + colluders + more_honest) or (
            wanted.indivisible and threshold == k // 2 + colluders + 1
        )
        if by_half:
            missing *= 2
        k += missing + missing % 2
    return None


def _fewest_connecting_neighbors(wanted: _Request) -> int:
    """The smallest even k at which the honest survivors are connected except with probability 2^-(sigma+1).

    On the ring a cut is two runs of k/2 clients, all corrupt or dropped: n (n - k - 1) / 2 pairs of runs, each lost
    with probability C(n-k, B-k) / C(n, B) = B (B-1) .. (B-k+1) / (n (n-1) .. (n-k+1)), B = A + D. This falls with k.
    """
    n, lost = wanted.clients, wanted.corrupt + wanted.dropouts
    if lost < 2:
        return 2
    log_bound = -(wanted.security_bits + 1) * math.log(2)
    # n^2 (B/n)^k is at least the expression, so the answer is at most the k at which n^2 (B/n)^k meets the bound.
    sufficient = math.ceil((2 * math.log(n) - log_bound) / -math.log(lost / n)) + 2
    most = min(sufficient + sufficient % 2, n - 2)
    even = np.arange(2, most + 1, 2)
    log_cut = _log_falling(lost, n, most)[even] - _log_falling(n, n, most)[even] + np.log(n / 2 * (n - even - 1))
    connected = np.flatnonzero(log_cut < log_bound)
    return int(even[connected[0]]) if connected.size else n - 1


def _complete_graph(wanted: _Request, refusal: str) -> Parameters:
    n, colluders = wanted.clients, wanted.corrupt
    if n > _COMPLETE_GRAPH_CLIENTS:
        most = _COMPLETE_GRAPH_CLIENTS
        raise ConfigError(f"{refusal}, and {n} clients are above {most}, the most for a complete graph")
    threshold = wanted.smallest_threshold(n, colluders, complete=True)
    if threshold > wanted.survivors:
        raise ConfigError(
            f"{refusal}, and a complete graph of {n} clients, {colluders} of them corrupt, "
            f"needs threshold {threshold}, above its {wanted.survivors} survivors"
        )
    return wanted.result(n - 1, threshold, colluders)


class _Marked:
    """How many of k clients, drawn from all without replacement, are marked (corrupt, or survivors): hypergeometric."""

    def __init__(self, marked: int, clients: int) -> None:
        self._marked, self._clients = marked, clients
        self._grow(min(1024, clients))

    def _grow(self, draws: int) -> None:
        self._draws = draws
        self._log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, draws + 1)))))
        self._log_marked = _log_falling(self._marked, self._clients, draws)
        self._log_unmarked = _log_falling(self._clients - self._marked, self._clients, draws)
        self._log_clients = _log_falling(self._clients, self._clients, draws)

    def _multiples(self, k: int, log_bound: float) -> _Floats:
        """P[X = x] / bound for x = 0 .. k, cut at e: enough to exceed the bound, and it cannot overflow."""
        if k > self._draws:
            self._grow(min(2 * k, self._clients))
        factorial = self._log_factorial
        log_probability = factorial[k] - factorial[: k + 1] - factorial[k::-1] - self._log_clients[k]
        log_probability += self._log_marked[: k + 1]
        log_probability += self._log_unmarked[k::-1]
        multiples: _Floats = np.exp(np.minimum(log_probability - log_bound, 1.0))
        return multiples

    def most(self, k: int, log_bound: float) -> int:
        """The smallest x with P[X > x] <= bound."""
        return k - _terms_within_bound(self._multiples(k, log_bound)[::-1])

    def fewest(self, k: int, log_bound: float) -> int:
        """The largest x with P[X < x] <= bound."""
        return _terms_within_bound(self._multiples(k, log_bound))


def _terms_within_bound(multiples: _Floats) -> int:
    # The sum starts at the far end of the tail, with the smallest terms: no cancellation for any bound.
    return int(np.searchsorted(np.cumsum(multiples), 1 + _SLACK, side="right"))


def _log_falling(marked: int, clients: int, size: int) -> _Floats:
    """Logarithms of marked (marked - 1) .. (marked - x + 1) / clients^x for x = 0 .. size.

    Sums of logarithms of ratios keep about 12 digits; differences of log-gamma at 10^6 would keep 8.
    """
    with np.errstate(divide="ignore"):  # more draws than there are marked clients: probability 0, logarithm -inf
        steps = np.log(np.maximum(marked - np.arange(size), 0) / clients)
    return np.concatenate(([0.0], np.cumsum(steps)))
