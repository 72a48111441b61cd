"""Paillier-encrypted sums: against phe with gmpy2, against HEU's z-paillier, and against the bare multiplications.

3072 bits, 16-bit values, 10 clients. Ratios are per parameter and paired in one run; CPU time of one thread unless a
line says otherwise. Parts of a vector of 1,000,000 are measured, in whole plaintexts; the last line runs the whole.
"""

import resource
import secrets
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import gmpy2
import numpy as np

from benchmarks import peers
from benchmarks.measure import Line, cpu, paired, wall
from secfed import paillier
from secfed.paillier import interop
from secfed.paillier.opening import checked_column

KEY_BITS, CLIENTS, MILLION = 3072, 10, 1_000_000
BOUND, MODULUS_BITS = 2**15 - 1, 20
PLAINTEXTS = 64  # of a measured part


@cache
def _keys(subgroup: bool) -> tuple[paillier.PublicKey, paillier.PrivateKey]:
    return paillier.generate_keypair(KEY_BITS, subgroup=subgroup)


def keys(subgroup: bool = False) -> tuple[paillier.PublicKey, paillier.PrivateKey]:
    return _keys(subgroup)


def config(length: int = 0, degree: int = 1, subgroup: bool = False) -> paillier.Config:
    """Return a session whose vectors have `length` entries, or (with 0) fill 64 plaintexts."""
    parameters: dict[str, Any] = {"modulus_bits": MODULUS_BITS, "bound": BOUND, "degree": degree}
    public_key = keys(subgroup)[0]
    if not length:
        slots = paillier.Config(public_key, range(1, CLIENTS + 1), 1, **parameters).packing.slots
        length = slots * PLAINTEXTS
    return paillier.Config(public_key, range(1, CLIENTS + 1), length, **parameters)


def vector(length: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(-BOUND, BOUND, length, endpoint=True)
    return (values % (1 << MODULUS_BITS)).astype(np.uint32)


def one_client(
    session: paillier.Config, noise: paillier.Noise, pool: paillier.NoisePool | None = None, threads: int = 1
) -> Callable[[], bytes]:
    """All that a client does: pack, encrypt, write bytes."""
    request = next(iter(paillier.Server(session).open().values()))
    values = vector(session.length)
    return lambda: paillier.Client(session, 1, values, noise=noise, pool=pool, threads=threads).receive(request)


def client_against_phe() -> Iterator[Line]:
    session = config()
    theirs_key = interop.to_phe(keys()[0])
    numbers = [int(number) for number in vector(4)]

    def theirs() -> None:
        for number in numbers:
            theirs_key.encrypt(number)

    for noise, target in (("half", 3_000), ("short", 15_000)):
        table, theirs_seconds, ratio = _per_parameter(theirs, len(numbers), one_client(session, noise), session.length)
        yield Line(
            f'client encryption per parameter, noise "{noise}", against phe with gmpy2',
            f"at least {target:,} times less CPU",
            f"{ratio:,.0f} times",
            ratio >= target,
            f"{table * MILLION:.2f} s and {theirs_seconds * MILLION:,.0f} s for 1,000,000",
        )
    pool = keys()[0].noise_pool(noise="short")
    pool.fill(20 * PLAINTEXTS)
    ours, theirs_seconds, ratio = _per_parameter(
        theirs, len(numbers), one_client(session, "short", pool), session.length
    )
    yield Line(
        "client encryption per parameter, noise drawn ahead of time, against phe with gmpy2",
        "at least 150,000 times less CPU",
        f"{ratio:,.0f} times",
        ratio >= 150_000,
        f"{ours * MILLION:.3f} s and {theirs_seconds * MILLION:,.0f} s for 1,000,000",
    )


def _per_parameter(
    theirs: Callable[[], object], their_count: int, ours: Callable[[], object], our_count: int, repeats: int = 9
) -> tuple[float, float, float]:
    """Return our seconds and their seconds per parameter, and the median of their ratios."""
    theirs_seconds, ours_seconds, ratio = paired(theirs, ours, repeats=repeats)
    return ours_seconds / our_count, theirs_seconds / their_count, ratio * our_count / their_count


def against_heu() -> Iterator[Line]:
    session = config()
    targets = (("half", 1.0), ("short", 8.0))
    clients = {noise: one_client(session, noise) for noise, _ in targets}
    for client in clients.values():
        client()
    ratios: dict[str, list[float]] = {noise: [] for noise, _ in targets}
    for _ in range(5):
        theirs = peers.heu(KEY_BITS, PLAINTEXTS)["encrypt"]
        for noise, client in clients.items():
            ratios[noise].append(theirs / (cpu(client) / PLAINTEXTS))
    for noise, target in targets:
        ratio = statistics.median(ratios[noise])
        yield Line(
            f'client encryption, noise "{noise}", against HEU z-paillier hand-packed (C++, its noise is "half")',
            f"at least {target:g} times less CPU",
            f"{ratio:.1f} times",
            ratio >= target,
            "each in its own process, in turn",
        )


def client_against_its_multiplications() -> Iterator[Line]:
    session = config()
    n, modulus = gmpy2.mpz(keys()[0].n), keys()[0].modulus(1)
    for noise, size in (("half", KEY_BITS // 16), ("short", 40)):
        factors = [gmpy2.mpz(secrets.randbelow(int(n))) for _ in range(size)]
        message = gmpy2.mpz(secrets.randbelow(int(n)))

        def bare(factors: list[Any] = factors, message: Any = message) -> None:
            for _ in range(PLAINTEXTS):
                found = factors[0]
                for i in range(1, len(factors) - 1, 2):
                    found = found * (factors[i] * factors[i + 1]) % modulus
                found = found * factors[-1] % modulus
                found + n * (message * (found % n) % n)

        _, _, ratio = paired(one_client(session, noise), bare, repeats=15)
        yield Line(
            f'client encryption, noise "{noise}", against its own bare multiplications',
            "at most 1.6 times",
            f"{ratio:.2f} times",
            ratio <= 1.6,
        )


def server_sum() -> Iterator[Line]:
    session = config()
    modulus = session.public_key.modulus(1)
    outbox = paillier.Server(session).open()
    template = paillier.Client(session, 1, vector(session.length), noise="short").receive(outbox[1])
    ciphertexts = checked_column(session, template[-session.column_bytes :])

    def ours() -> None:
        server = paillier.Server(session)
        nonce = next(iter(server.open().values()))[2:34]
        session_id = session.session_id(nonce)
        response = template[:2] + session_id + template[34:]
        for client_id in session.client_ids:
            server.receive(client_id, response)

    def bare() -> None:
        products = ciphertexts
        for _ in range(CLIENTS - 1):
            products = [product * other % modulus for product, other in zip(products, ciphertexts, strict=True)]

    _, _, ratio = paired(ours, bare, repeats=15)
    yield Line(
        "server sum of 10, messages parsed and checked, against the bare modular multiplications",
        "at most 1.6 times",
        f"{ratio:.2f} times",
        ratio <= 1.6,
    )
    theirs_key = interop.to_phe(session.public_key)
    numbers = [theirs_key.encrypt(number) for number in range(CLIENTS)]

    def theirs() -> None:
        for _ in range(8):
            sum(numbers[1:], numbers[0])

    seconds, theirs_seconds, ratio = _per_parameter(theirs, 8, ours, session.length)
    yield Line(
        "server sum of 10 per parameter, messages parsed and checked, against phe",
        "at least 180 times less CPU",
        f"{ratio:,.0f} times",
        ratio >= 180,
        f"{seconds * MILLION:.2f} s and {theirs_seconds * MILLION:,.0f} s for 1,000,000",
    )


def decryption() -> Iterator[Line]:
    for subgroup, target in ((False, 145), (True, 700)):
        public_key, private_key = keys(subgroup)
        session = config(subgroup=subgroup)
        column_of = public_key.encrypt(session.packing.pack(session.entries(vector(session.length))), noise="short")
        orders = [
            order or prime - 1
            for order, prime in zip(private_key.subgroup, (private_key.p, private_key.q), strict=True)
        ]
        halves = [
            (gmpy2.mpz(order), gmpy2.mpz(prime) ** 2)
            for order, prime in zip(orders, (private_key.p, private_key.q), strict=True)
        ]

        def ours(private_key: Any = private_key, column_of: Any = column_of, session: Any = session) -> None:
            session.packing.unpack(private_key.decrypt(column_of, threads=1), CLIENTS)

        def bare(power: Callable[..., Any], halves: Any = halves, column_of: Any = column_of) -> None:
            for ciphertext in column_of:
                for order, modulus in halves:
                    power(ciphertext % modulus, order, modulus)

        kind = "subgroup key" if subgroup else "ordinary key"
        _, _, ratio = paired(ours, lambda: bare(gmpy2.powmod_sec), repeats=7)
        _, _, variable = paired(ours, lambda: bare(gmpy2.powmod), repeats=7)
        yield Line(
            f"decryption, {kind}, against two bare constant-time exponentiations",
            "at most 1.1 times",
            f"{ratio:.2f} times",
            ratio <= 1.1,
            f"against two variable-time ones {variable:.2f} times",
        )
        theirs_private = interop.to_phe(private_key)
        [number] = interop.to_phe_numbers(public_key, public_key.encrypt([1]))

        def theirs(theirs_private: Any = theirs_private, number: Any = number) -> None:
            for _ in range(8):
                theirs_private.decrypt(number)

        seconds, theirs_seconds, ratio = _per_parameter(theirs, 8, ours, session.length)
        yield Line(
            f"decryption per parameter, {kind}, against phe (which decrypts in variable time)",
            f"at least {target} times less CPU",
            f"{ratio:,.0f} times",
            ratio >= target,
            f"{seconds * MILLION:.1f} s and {theirs_seconds * MILLION:,.0f} s for 1,000,000",
        )


def bytes_per_parameter() -> Iterator[Line]:
    for degree, target in ((1, 5.2), (3, 3.5)):
        session = config(MILLION, degree)
        found = session.column_bytes / MILLION
        yield Line(
            f"bytes per parameter, degree {degree} (float32 has 4)",
            f"at most {target}",
            f"{found:.2f}",
            found <= target,
            f"{session.packing.slots} slots of {session.packing.slot_bits} bits in a plaintext",
        )


def threads() -> Iterator[Line]:
    session = config()
    _, _, ratio = paired(
        one_client(session, "half", threads=1), one_client(session, "half", threads=2), repeats=15, clock=wall
    )
    yield Line("two threads against one, encryption", "at least 1.6 times", f"{ratio:.2f} times", ratio >= 1.6)
    public_key, private_key = keys()
    ciphertexts = public_key.encrypt([1] * PLAINTEXTS, noise="short")
    _, _, ratio = paired(
        lambda: private_key.decrypt(ciphertexts, threads=1),
        lambda: private_key.decrypt(ciphertexts, threads=2),
        repeats=9,
        clock=wall,
    )
    yield Line("two threads against one, decryption", "at least 1.6 times", f"{ratio:.2f} times", ratio >= 1.6)


def whole_round() -> Iterator[Line]:
    """10 clients x 1,000,000 for real, with short noise and a subgroup key."""
    session = config(MILLION, subgroup=True)
    exact = np.zeros(MILLION, np.int64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def vector_of(client_id: int) -> np.ndarray:
        found = vector(MILLION, client_id)
        np.add(exact, (found.astype(np.int64) + BOUND) % (1 << MODULUS_BITS) - BOUND, out=exact)
        return found

    def progress(stage: paillier.Stage, party: int, done: int, count: int) -> None:
        bar = "#" * (30 * done // count)
        print(f"\r{stage.name} {party} [{bar:<30}]", end="" if done < count else "\n", file=sys.stderr, flush=True)

    results = []
    seconds = cpu(
        lambda: results.append(
            paillier.run_session(session, vector_of, keys(True)[1], noise="short", progress=progress)
        )
    )
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    equal = bool(np.array_equal(results[0].sum, exact % (1 << MODULUS_BITS)))
    yield Line(
        "a round of 10 clients x 1,000,000, short noise, subgroup key: the sum",
        "that of integers, exactly",
        "equal" if equal else "different",
        equal,
        f"{seconds:.1f} s CPU all parties together, {memory:.0f} MB more than before",
    )


ALL = (
    client_against_phe,
    against_heu,
    client_against_its_multiplications,
    server_sum,
    decryption,
    bytes_per_parameter,
    threads,
    whole_round,
)
PEERS = (against_heu,)
