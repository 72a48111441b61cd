"""The speed and memory of secure aggregation: against the bare primitives, and against Flower's SecAgg and SecAgg+."""

import os
import statistics
from collections.abc import Iterator

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks import peers
from benchmarks.driver import Costs, run
from benchmarks.measure import Line, cpu, paired, wall
from secfed import secagg
from secfed.crypto import prg, signing
from secfed.crypto.packing import packed_bytes
from secfed.encoding.fixed_point import FixedPoint
from secfed.secagg import Stage, messages

# The figures that Bonawitz et al. 2017 give for 500 clients and 100,000 entries of 24 bits, in milliseconds.
PAPER_CLIENT, PAPER_SERVER = 849, {10: 62_239, 30: 143_389}


def bare_aes(size: int, chunk: int = prg.CHUNK_BYTES) -> None:
    """AES-128-CTR over so many bytes and nothing else, in the chunks that masking uses."""
    zeros, stream = np.zeros(chunk, np.uint8), np.empty(chunk, np.uint8)
    cipher = Cipher(algorithms.AES(bytes(16)), modes.CTR(bytes(16))).encryptor()
    for _ in range(size // chunk):
        cipher.update_into(zeros, stream)
    rest = size % chunk
    cipher.update_into(zeros[:rest], stream[:rest])


def bare_agreements(count: int) -> None:
    """So many X25519 computations and nothing else."""
    own, other = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key()
    for _ in range(count):
        own.exchange(other)


def lost(clients: int, percent: int) -> dict[int, Stage]:
    """The first clients fall silent before they send their masked input."""
    return dict.fromkeys(range(1, 1 + clients * percent // 100), Stage.MASKED_INPUT_COLLECTION)


def masking() -> Iterator[Line]:
    length, neighbors = 1_000_000, 100
    seeds = [os.urandom(32) for _ in range(neighbors + 1)]
    vector = np.zeros(length, np.uint32)
    ours, bare, ratio = paired(
        lambda: prg.accumulate(vector, seeds, [], 1), lambda: bare_aes(4 * length * len(seeds)), repeats=15
    )
    speed = f"{4 * length * len(seeds) / ours / 1e9:.1f} of {4 * length * len(seeds) / bare / 1e9:.1f} GB/s"
    yield Line(
        "client masking, length 1,000,000, 100 neighbors, one thread, against bare AES-128-CTR",
        "at least 75 % of its throughput",
        f"{100 / ratio:.0f} %",
        1 / ratio >= 0.75,
        speed,
    )
    one, two, ratio = paired(
        lambda: prg.accumulate(vector, seeds, [], 1),
        lambda: prg.accumulate(vector, seeds, [], 2),
        repeats=15,
        clock=wall,
    )
    yield Line(
        "two threads against one, masking (unmasking is the same code)",
        "at least 1.7 times",
        f"{ratio:.2f} times",
        ratio >= 1.7,
        f"{one * 1e3:.0f} ms and {two * 1e3:.0f} ms",
    )


def client_against_flower() -> Iterator[Line]:
    length, neighbors = 1_000_000, 100
    theirs = peers.flower("--what", "client", "--length", str(length), "--neighbors", str(neighbors), "--repeats", "5")
    fixed = FixedPoint.fitting(8.0, clients=neighbors + 1, max_weight=1000)
    values = np.random.default_rng(0).normal(size=length).astype(np.float32)
    config = secagg.Config(range(1, neighbors + 2), 68, length + 1, fixed.modulus_bits)
    server = secagg.Server(config)
    clients = {
        client_id: secagg.Client(config, client_id, np.zeros(length + 1, np.uint64), threads=1)
        for client_id in config.client_ids
    }
    outbox = server.open()
    for _ in range(2):
        for client_id, request in outbox.items():
            server.receive(client_id, clients[client_id].receive(request))
        outbox = server.close_stage()
    saved, request = clients[1].to_bytes(), outbox[1]

    def ours() -> (
        None
    ):  # the peer's stage: quantize, agree on masks, mask, write; the shares come already opened there, here not
        client = secagg.Client.from_bytes(saved, threads=1)
        fixed.encode(values, 500, seed=os.urandom(32))  # the saved client has its vector, as long as this one
        client.receive(request)

    ours()
    seconds = statistics.median(cpu(ours) for _ in range(7))
    ratio = theirs["seconds"] / seconds
    upload = packed_bytes(length, fixed.modulus_bits) / length
    yield Line(
        "the same with key agreement and quantization, against Flower's own client functions",
        "at least 6 times less CPU",
        f"{ratio:.1f} times",
        ratio >= 6,
        f"{seconds * 1e3:.0f} ms and {theirs['seconds'] * 1e3:.0f} ms; {upload:.2f} and 8.00 bytes per entry",
    )


def session_against_flower() -> Iterator[Line]:
    clients, length = 100, 1_000_000
    fixed = FixedPoint.fitting(8.0, clients=clients, max_weight=1000)
    values = np.random.default_rng(0).normal(size=length).astype(np.float32)

    def vector(client_id: int) -> np.ndarray:
        return fixed.encode(values, 10 * client_id, seed=os.urandom(32))

    def ours(neighbors: int | None, threshold: int) -> tuple[float, Costs]:
        config = secagg.Config(range(1, clients + 1), threshold, length + 1, fixed.modulus_bits, neighbors=neighbors)
        costs = None

        def whole() -> None:
            nonlocal costs
            costs = run(config, vector, lost(clients, 10))
            fixed.decode(costs.sum)

        seconds = cpu(whole)
        assert costs is not None
        mean, _ = fixed.decode(costs.sum)
        assert np.abs(mean - np.clip(values, -8, 8)).max() <= 8 / fixed.levels
        return seconds, costs

    for what, neighbors, threshold, shares, target in (
        ("complete graph", None, 67, 0, 30),
        ("its SecAgg+ with 21 shares, ours with 20 neighbors", 20, 14, 21, 12),
    ):
        seconds, costs = ours(neighbors, threshold)
        theirs = peers.flower(
            "--what",
            "session",
            "--clients",
            str(clients),
            "--length",
            str(length),
            "--dropouts",
            "10",
            "--shares",
            str(shares),
            "--threshold",
            str(threshold),
        )
        ratio = theirs["total_cpu_seconds"] / seconds
        yield Line(
            f"whole session, 100 clients x 1,000,000, 10 dropouts, against Flower's client and server code: {what}",
            f"at least {target} times less CPU",
            f"{ratio:.0f} times",
            ratio >= target,
            f"{seconds:.1f} s and {theirs['total_cpu_seconds']:.1f} s",
        )
        share = costs.up[clients] / theirs["upload_bytes_per_client"]
        yield Line(
            f"upload of one client in that session: {what}",
            "at most 0.5 of its",
            f"{share:.2f}",
            share <= 0.5,
            f"{costs.up[clients] / 1e6:.2f} MB and {theirs['upload_bytes_per_client'] / 1e6:.2f} MB",
        )


def the_papers_session() -> Iterator[Line]:
    clients, length, bits = 500, 100_000, 24
    vector = np.random.default_rng(0).integers(0, 1 << bits, length, dtype=np.uint32)
    config = secagg.Config(range(1, clients + 1), clients * 2 // 3 + 1, length, bits)
    mask_bytes = 4 * length
    for percent in (10, 30):
        dropped = clients * percent // 100
        survivors = clients - dropped
        bare_client = cpu(lambda: (bare_aes(mask_bytes * clients), bare_agreements(2 * (clients - 1))))
        costs = run(config, lambda client_id: vector, lost(clients, percent))
        bare_server = cpu(
            lambda masks=survivors + dropped * survivors, pairs=dropped * survivors: (
                bare_aes(mask_bytes * masks),
                bare_agreements(pairs),
            )
        )
        bare_client = statistics.median(
            [bare_client]
            + [cpu(lambda: (bare_aes(mask_bytes * clients), bare_agreements(2 * (clients - 1)))) for _ in range(4)]
        )
        client = statistics.median(costs.client[client_id] for client_id in costs.survivors)
        for who, seconds, bare, paper in (
            ("client", client, bare_client, PAPER_CLIENT),
            ("server", costs.server, bare_server, PAPER_SERVER[percent]),
        ):
            yield Line(
                f"complete graph, 500 clients x 100,000, {percent} % dropouts: {who}, against its AES and X25519",
                "at most 1.6 times",
                f"{seconds / bare:.2f} times",
                seconds / bare <= 1.6,
                f"{seconds * 1e3:,.0f} ms, bare {bare * 1e3:,.0f} ms; the paper's {paper:,} ms",
            )


def upload() -> Iterator[Line]:
    clients, length, bits = 1 << 10, 1 << 20, 16
    modulus_bits = (clients * ((1 << bits) - 1)).bit_length()
    plain = length * bits / 8
    chosen = secagg.parameters(clients=clients, corrupt_fraction=0.05, dropout_fraction=0.05)
    for what, neighbors, threshold, target in (
        ("complete graph", None, clients * 2 // 3 + 1, 1.73),
        (f"k-regular graph, {chosen.neighbors} neighbors", chosen.neighbors, chosen.threshold, 1.64),
    ):
        # All messages of a real session with short vectors; the masked vector is then counted at its full length.
        short = 8
        config = secagg.Config(range(1, clients + 1), threshold, short, modulus_bits, neighbors=neighbors)
        result = secagg.run_session(config, dict.fromkeys(config.client_ids, np.zeros(short, np.uint32)))
        masked = messages.MaskedInputCollectionResponse.size
        full = masked(packed_bytes(length, modulus_bits)) - masked(packed_bytes(short, modulus_bits))
        factor = (max(result.bytes_up.values()) + full) / plain
        yield Line(
            f"upload, 2^10 clients, 2^20 entries of 16 bits, against the bare entries: {what}",
            f"at most {target} times",
            f"{factor:.3f} times",
            factor <= target,
            f"the floor of {modulus_bits}-bit entries is {modulus_bits / bits:.3f}",
        )


def server_memory() -> Iterator[Line]:
    clients, length = 100, 1_000_000
    config = secagg.Config(range(1, clients + 1), 67, length, 26)
    vector = np.zeros(length, np.uint32)
    costs = run(config, lambda client_id: vector, lost(clients, 10), memory=True)
    bound = 4 * vector.nbytes + clients * 65536
    vectors = (costs.server_memory - clients * 65536) / vector.nbytes
    yield Line(
        "server memory, 100 clients x 1,000,000, complete graph",
        "at most 4 vectors + 64 KiB per client",
        f"{costs.server_memory / 1e6:.1f} MB",
        costs.server_memory <= bound,
        f"bound {bound / 1e6:.1f} MB; {max(vectors, 0):.1f} vectors beyond 64 KiB per client",
    )


def growth() -> Iterator[Line]:
    length, per_client = 10_000, {}
    for clients in (1_000, 10_000):
        chosen = secagg.parameters(clients=clients, corrupt_fraction=0.05, dropout_fraction=0.05)
        config = secagg.Config(range(1, clients + 1), chosen.threshold, length, 30, neighbors=chosen.neighbors)
        vector = np.full(length, 12345, np.uint32)
        generator = np.random.default_rng(clients)
        gone = generator.choice(clients, clients // 20, replace=False) + 1
        costs = run(
            config, lambda client_id, vector=vector: vector, dict.fromkeys(gone.tolist(), Stage.MASKED_INPUT_COLLECTION)
        )
        assert (costs.sum == (12345 * len(costs.survivors)) % (1 << 30)).all()
        per_client[clients] = costs.server / clients
    ratio = per_client[10_000] / per_client[1_000]
    yield Line(
        "server cost per client, 10,000 clients against 1,000, SecAgg+ graph, length 10,000, 5 % dropouts",
        "at most 1.5 times",
        f"{ratio:.2f} times",
        ratio <= 1.5,
        f"{per_client[10_000] * 1e3:.2f} ms and {per_client[1_000] * 1e3:.2f} ms",
    )


def session_signatures() -> Iterator[Line]:
    key, message = secagg.SigningKey.generate(), bytes(80)
    signature = key.sign(message)
    for clients in (100, 1_000, 10_000):
        chosen = secagg.parameters(
            clients=clients,
            corrupt_fraction=0.05,
            dropout_fraction=0.05,
            adversary="malicious_server",
            indivisible=True,
        )
        needed = (clients + chosen.session_colluders) // 2 + 1 if chosen.session_colluders is not None else 0
        seconds = cpu(
            lambda needed=needed: [signing.verify(key.public_bytes, signature, message) for _ in range(needed)]
        )
        yield Line(
            f"indivisible sum on a k-regular graph, {clients:,} clients: signatures for each client to verify",
            "at most 64 bytes a client",
            f"{64 * needed / 1e3:.1f} kB",
            64 * needed <= 64 * clients,
            f"{needed:,} signatures, {seconds * 1e3:.0f} ms",
        )


def chooser() -> Iterator[Line]:
    def choose() -> None:
        secagg.parameters(clients=1_000_000, corrupt_fraction=0.05, dropout_fraction=0.05, adversary="malicious_server")

    def hardest() -> None:
        secagg.parameters(clients=1_000_000, corrupt_fraction=0.30, dropout_fraction=0.30, adversary="malicious_server")

    typical, hard, _ = paired(choose, hardest)
    yield Line(
        "neighbors and threshold for a million clients",
        "under 50 ms",
        f"{hard * 1e3:.0f} ms at most",
        hard < 0.05,
        f"{typical * 1e3:.2f} ms at 5 % corrupt, 5 % dropouts",
    )


ALL = (
    masking,
    client_against_flower,
    session_against_flower,
    the_papers_session,
    upload,
    server_memory,
    growth,
    session_signatures,
    chooser,
)
PEERS = (client_against_flower, session_against_flower)
