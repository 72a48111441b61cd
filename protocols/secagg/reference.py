"""Reference of secagg version 1: plain integers, bytes and lists. Readable, not fast and not constant-time.

Written from README.md alone. `python reference.py` rewrites vectors/, `--check` compares instead of writing.
"""
import contextlib
import hashlib
import itertools
import json
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HERE = Path(__file__).resolve().parent
MESSAGES = {m["kind"]: m for m in json.loads((HERE / "messages.json").read_text())["messages"]}
ADVERTISE, SHARE, MASK, CHECK, UNMASK = (
    "ADVERTISE_KEYS", "SHARE_KEYS", "MASKED_INPUT_COLLECTION", "CONSISTENCY_CHECK", "UNMASKING")
ABORT = 255
SETS = ("advertised", "shared", "unopened", "survivors", "dropouts", "signers")
P = 2**31 - 1            # field of the Shamir shares
Q = 2**255 - 19          # field of Curve25519
# The u-coordinates of all points of order 1, 2, 4 and 8, on the curve and on its twist.
ORDER_8 = 325606250916557431795983626356110631294008115727848805560023387167927233504
ORDER_8_TOO = 39382357235489614581723060781553021112529911719440698176882885853963445705823
LOW_ORDER = (0, 1, Q - 1, ORDER_8, ORDER_8_TOO)
D = -121665 * pow(121666, -1, Q) % Q    # of the curve -x^2 + y^2 = 1 + D x^2 y^2
IDENTITY = (0, 1)


class Refused(Exception):  # noqa: N818
    def __init__(self, type, check=None, client_id=None):
        super().__init__(type, check, client_id)
        self.type, self.check, self.client_id = type, check, client_id


# ---------------------------------------------------------------- notation (section 2)

def u8(x): return x.to_bytes(1, "little")
def u32(x): return x.to_bytes(4, "little")
def u64(x): return x.to_bytes(8, "little")
def label(name): return b"secfed/secagg/v1 " + name.encode()
def sha256(data): return hashlib.sha256(data).digest()
def number(data): return int.from_bytes(data, "little")
def cut(data, size): return [data[i:i + size] for i in range(0, len(data), size)]


def hkdf(ikm, salt, info, n):
    return HKDF(SHA256(), n, salt, info).derive(ikm)


def expand(seed, n):
    return Cipher(algorithms.AES(seed[:16]), modes.CTR(seed[16:32])).encryptor().update(bytes(n))


def draw(seed, name, n):
    return expand(hkdf(seed, b"", b"secfed/entropy/v1 " + name.encode(), 32), n)


def bitmap(config, clients):
    bits = sum(1 << i for i, u in enumerate(config["client_ids"]) if u in clients)
    return bits.to_bytes((len(config["client_ids"]) + 7) // 8, "little")


def x25519(private, public):
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def public_key(private):
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def good_key(key):
    return number(key) < Q and number(key) not in LOW_ORDER


def verifies(identity, signature, message):
    try:
        Ed25519PublicKey.from_public_bytes(identity).verify(signature, message)
        return True
    except InvalidSignature:
        return False


def point(key):
    """Return the point (x, y) of an Ed25519 public key, or None if it is not valid (RFC 8032, section 5.1.3)."""
    y, sign = number(key) % 2**255, number(key) >> 255
    square = (y * y - 1) * pow(D * y * y + 1, -1, Q) % Q
    x = pow(square, (Q + 3) // 8, Q)
    if x * x % Q != square:
        x = x * pow(2, (Q - 1) // 4, Q) % Q
    if len(key) != 32 or y >= Q or x * x % Q != square or (x == 0 and sign):
        return None
    return (x if x % 2 == sign else Q - x, y)


def plus(a, b):
    product = D * a[0] * b[0] * a[1] * b[1]
    return ((a[0] * b[1] + a[1] * b[0]) * pow(1 + product, -1, Q) % Q,
            (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, Q) % Q)


def good_identity(key):
    """No identity key if 8 times the point is the identity: then anybody can sign for it."""
    times = point(key)
    for _ in range(3):
        times = times and plus(times, times)
    return times not in (None, IDENTITY)


def check_directory(config, directory):
    if malicious(config):
        keys = [directory.get(u) for u in config["client_ids"]]
        if None in keys or len(set(keys)) < len(keys) or not all(map(good_identity, keys)):
            raise Refused("ConfigError")


def malicious(config): return config["adversary"] == "malicious_server"
def complete(config): return config["neighbors"] == len(config["client_ids"]) - 1
def whole_session(config): return config["session_colluders"] is not None


def signers_needed(config, u1):
    if whole_session(config):
        return (len(u1) + config["session_colluders"]) // 2 + 1
    return config["threshold"]


def indivisible(config):
    if complete(config) or malicious(config):
        return complete(config) or whole_session(config)
    return 2 * config["threshold"] > config["neighbors"] + 2 * config["colluders"]


def config_bytes(config):
    ids, context = config["client_ids"], bytes.fromhex(config["context"])
    return b"".join([
        u32(len(ids)), *map(u32, ids), u32(config["threshold"]), u64(config["length"]), u8(config["modulus_bits"]),
        u32(config["neighbors"]), u32(config["colluders"]),
        u32(config["session_colluders"] + 1 if whole_session(config) else 0),
        u8(int(malicious(config))), u64(config["round"]),
        bytes.fromhex(config["model_hash"]), u8({"aes128_ctr": 1}[config["masking"]]), u32(len(context)), context])


def config_hash(config):
    return sha256(label("config") + config_bytes(config))


def check_config(config):
    ids, k, t, c = (config[name] for name in ("client_ids", "neighbors", "threshold", "colluders"))
    n, h = len(ids), len(ids) if complete(config) else k
    if not (2 <= n <= 2**24 and ids == sorted(set(ids)) and ids[0] >= 1 and ids[-1] <= 2**31 - 2
            and 1 <= config["length"] <= 2**32 and 1 <= config["modulus_bits"] <= 64
            and (complete(config) or (k % 2 == 0 and 2 <= k < n - 1))
            and 2 <= t <= h and 0 <= c < t and (2 * t > h or not complete(config))
            and (2 * t > h + c or not malicious(config))
            and (not whole_session(config) or (
                malicious(config) and not complete(config) and 2 * t > k + 2 * c
                and c <= config["session_colluders"] <= n - 2))
            and len(config["model_hash"]) == 64 and len(config["context"]) <= 2048):
        raise Refused("ConfigError")


def session_id(config, nonce, keys):
    """keys: {client: (channel key, mask key)} of U1."""
    return sha256(label("session") + nonce + config_hash(config) + bitmap(config, keys)
                  + b"".join(keys[u][0] for u in sorted(keys)) + b"".join(keys[u][1] for u in sorted(keys)))


def identity_message(config, nonce, u, channel_key, mask_key):
    return (label("advertise") + nonce + config_hash(config) + bytes.fromhex(config["model_hash"])
            + u64(config["round"]) + u32(u) + channel_key + mask_key)


def survivors_message(config, session, survivors):
    return label("survivors") + session + sha256(bitmap(config, survivors))


def channel_key(session, private, public, sender, receiver):
    """The key that seals what `sender` sends to `receiver`; `private` is of the one, `public` of the other."""
    u, v = sorted((sender, receiver))
    both = hkdf(x25519(private, public), session, label("channel") + u32(u) + u32(v), 32)
    return both[:16] if sender == u else both[16:]


def pair_seed(session, private, public, u, v):
    return hkdf(x25519(private, public), session, label("pair") + u32(min(u, v)) + u32(max(u, v)), 32)


def self_mask_seed(session, self_seed, u):
    return hkdf(self_seed, session, label("self") + u32(u), 32)


def commit(session, self_seed, u):
    return sha256(label("commitment") + session + u32(u) + self_seed)


def shares_data(session, sender, receiver):
    return label("shares") + session + u32(sender) + u32(receiver)


# ---------------------------------------------------------------- graph (2.3), sharing (2.4), masking (5)

def graph(config, session, clients):
    """Neighbors of each client of U1."""
    clients, k = sorted(clients), config["neighbors"]
    if len(clients) - 1 <= k:
        return {u: [v for v in clients if v != u] for u in clients}
    tags = [int.from_bytes(tag, "big") for tag in cut(expand(sha256(label("graph") + session), 8 * len(clients)), 8)]
    ring = [u for _, u in sorted(zip(tags, clients, strict=True))]
    steps = [d for d in range(-(k // 2), k // 2 + 1) if d]
    return {u: sorted(ring[(i + d) % len(ring)] for d in steps) for i, u in enumerate(ring)}


def all_holders(config, neighbors):
    return {u: sorted([*vs, u]) if complete(config) else vs for u, vs in neighbors.items()}


def limbs(secret):
    return [(number(secret) >> 30 * i) % 2**30 for i in range(9)]


def evaluate_at(points, x):
    """Lagrange: the polynomial through `points` [(x, y)], at x."""
    total = 0
    for i, (xi, yi) in enumerate(points):
        for j, (xj, _) in enumerate(points):
            if i != j:
                yi = yi * (x - xj) * pow(xi - xj, -1, P) % P
        total += yi
    return total % P


def secret_of(values):
    """32 bytes from 9 combined limbs, or None if they are too large to be limbs of a secret."""
    if any(value >= 2**30 for value in values) or values[8] >= 2**16:
        return None
    return sum(value << 30 * i for i, value in enumerate(values)).to_bytes(32, "little")


def combine(shares, t):
    """shares: {holder: 9 limbs}. Any t do; these are the first t in id order."""
    chosen = sorted(shares)[:t]
    return secret_of([evaluate_at([(v, shares[v][i]) for v in chosen], 0) for i in range(9)])


def decode_shares(shares, t):
    """Reed-Solomon by trying subsets: (secret, holders whose share is wrong), or (None, [])."""
    correctable, values, wrong = (len(shares) - t) // 2, [], set()
    for i in range(9):
        points = [(v, shares[v][i]) for v in sorted(shares)]
        for subset in itertools.combinations(points, t):
            off = [x for x, y in points if evaluate_at(subset, x) != y]
            if len(off) <= correctable:
                values.append(evaluate_at(subset, 0))
                wrong.update(off)
                break
        else:
            return None, []
    return secret_of(values), sorted(wrong)


def mask(config, seed):
    w = next(w for w in (8, 16, 32, 64) if w >= config["modulus_bits"])
    return [number(word) for word in cut(expand(seed, config["length"] * w // 8), w // 8)]


def add(config, vector, other, sign=1):
    return [(a + sign * b) % 2**config["modulus_bits"] for a, b in zip(vector, other, strict=True)]


def pack(config, vector):
    bits = sum(x << i * config["modulus_bits"] for i, x in enumerate(vector))
    return bits.to_bytes((len(vector) * config["modulus_bits"] + 7) // 8, "little")


def unpack(config, data):
    return [number(data) >> i * config["modulus_bits"] & 2**config["modulus_bits"] - 1 for i in range(config["length"])]


# ---------------------------------------------------------------- messages (3)

def encode(kind, **values):
    fields = MESSAGES[kind]["fields"]
    return u8(1) + u8(kind) + b"".join(
        (u32(len(values[f["name"]])) if f["length"] == "variable" else b"") + values[f["name"]] for f in fields)


def decode(config, data):
    """Kind and fields, sets of clients as lists of ids. C1 for a client, S2 for the server."""
    def demand(fact):
        if not fact:
            raise Refused("MalformedMessageError", "C1")

    demand(len(data) >= 2 and data[0] == 1 and data[1] in MESSAGES)
    kind, at, got = data[1], 2, {}
    for field in MESSAGES[kind]["fields"]:
        length = field["length"]
        if length == "variable":
            demand(len(data) >= at + 4)
            length, at = number(data[at:at + 4]), at + 4
        demand(len(data) >= at + length)
        got[field["name"]], at = data[at:at + length], at + length
    demand(at == len(data))

    ids = config["client_ids"]
    for name in SETS:
        if name in got:
            demand(len(got[name]) == (len(ids) + 7) // 8 and number(got[name]) < 2**len(ids))
            got[name] = [u for i, u in enumerate(ids) if number(got[name]) >> i & 1]

    signature = 64 if malicious(config) else 0
    if kind == 2:
        demand(len(got["signature"]) == signature)
    if kind == 3:
        count = len(got["advertised"])
        demand(len(got["channel_keys"]) == len(got["mask_keys"]) == 32 * count)
        demand(len(got["signatures"]) == signature * count)
    if kind == 9:
        demand(len(got["signatures"]) == 64 * len(got["signers"]) and (malicious(config) or not got["signers"]))
    if kind == ABORT:
        demand(len(got["reason"]) <= 64 and got["reason"].isascii() and got["reason"].decode().isprintable())
    # How many there must be depends on the session: C12, S8, S11. Here only that they are whole.
    demand(len(got.get("sealed", b"")) % 88 == 0 and len(got.get("shares", b"")) % 36 == 0)
    return kind, got


# ---------------------------------------------------------------- client

class Client:
    def __init__(self, config, client_id, seed, vector, policy=None, directory=None):
        check_config(config)
        check_directory(config, directory)
        self.config, self.id, self.seed, self.vector = config, client_id, seed, vector
        self.policy, self.directory = policy or {}, directory or {}
        self.accepts = [1, 3, 5, 7, 9] if malicious(config) else [1, 3, 5, 9]

    def receive(self, data):
        kind, m = decode(self.config, data)                                                     # C1
        if not self.accepts or kind != self.accepts[0]:                                         # C2
            raise Refused("StageError", "C2")
        handle = {1: self.advertise, 3: self.share, 5: self.masked, 7: self.sign, 9: self.unmask}[kind]
        try:
            reply = handle(m)
        except Refused:
            self.forget()
            raise
        self.accepts.pop(0)
        if not self.accepts:
            self.forget()
        return reply

    def forget(self):
        self.accepts = []
        for name in ("channel_private", "mask_private", "share_seed", "self_seed", "pairs", "vector"):
            setattr(self, name, None)

    def demand(self, check, fact):
        if not fact:
            raise Refused("FaultyServerError", check)

    def enough(self, check, clients):
        self.demand(check, len(set(self.holders) & set(clients)) >= self.config["threshold"]
                    and len(clients) >= self.policy.get("minimum_cohort", 0))

    def identity(self):
        return Ed25519PrivateKey.from_private_bytes(draw(self.seed, "identity_key", 32))

    def advertise(self, m):
        config, policy = self.config, self.policy
        self.demand("C3", m["config_hash"] == config_hash(config))
        self.demand("C4", len(config["client_ids"]) >= policy.get("minimum_cohort", 0)
                    and config["threshold"] >= policy.get("minimum_threshold", 0)
                    and config["neighbors"] >= policy.get("minimum_neighbors", 0)
                    and config["colluders"] >= policy.get("minimum_colluders", 0)
                    and (config["colluders"] if complete(config) else config["session_colluders"] or 0)
                    >= policy.get("minimum_session_colluders", 0)
                    and (not policy.get("indivisible") or indivisible(config))
                    and (malicious(config) or policy.get("adversary") != "malicious_server"))
        self.nonce = m["nonce"]
        self.channel_private, self.mask_private = draw(self.seed, "channel_key", 32), draw(self.seed, "mask_key", 32)
        self.share_seed = draw(self.seed, "share_seed", 32)
        keys = public_key(self.channel_private), public_key(self.mask_private)
        signature = b""
        if malicious(config):
            signature = self.identity().sign(identity_message(config, self.nonce, self.id, *keys))
        self.sent = (*keys, signature)
        return encode(2, channel_key=keys[0], mask_key=keys[1], signature=signature)

    def share(self, m):
        config, u1, t = self.config, m["advertised"], self.config["threshold"]
        signatures = cut(m["signatures"], 64) if malicious(config) else [b""] * len(u1)
        channel_keys, mask_keys = cut(m["channel_keys"], 32), cut(m["mask_keys"], 32)
        entries = {u: (channel_keys[i], mask_keys[i], signatures[i]) for i, u in enumerate(u1)}
        self.demand("C5", entries.get(self.id) == self.sent)
        self.keys = {u: entry[:2] for u, entry in entries.items()}
        every = [key for pair in self.keys.values() for key in pair]
        self.demand("C6", len(set(every)) == len(every))
        self.demand("C7", all(good_key(key) for key in every))
        if malicious(config):
            self.demand("C8", all(u in self.directory and verifies(
                self.directory[u], entries[u][2], identity_message(config, self.nonce, u, *self.keys[u])) for u in u1))
        self.session = session_id(config, self.nonce, self.keys)
        self.neighbors = graph(config, self.session, u1)[self.id]
        self.holders = all_holders(config, {self.id: self.neighbors})[self.id]
        self.enough("C9", u1)

        seed = hkdf(self.share_seed, self.session, label("share_keys"), 32)
        self.self_seed = draw(seed, "self_seed", 32)
        words = [number(w) & P for w in cut(draw(seed, "shares", 4 * ((t - 1) * 18 + 16)), 4)]
        coefficients = cut([w for w in words if w != P][:(t - 1) * 18], 18)
        polynomials = list(zip(limbs(self.mask_private) + limbs(self.self_seed), *coefficients, strict=True))
        sealed = []
        for v in self.holders:
            pair = b"".join(u32(sum(a * v**j for j, a in enumerate(f)) % P) for f in polynomials)
            if v == self.id:
                self.own_pair = pair
            else:
                key = channel_key(self.session, self.channel_private, self.keys[v][0], self.id, v)
                sealed.append(AESGCM(key).encrypt(bytes(12), pair, shares_data(self.session, self.id, v)))
        return encode(4, session_id=self.session, commitment=commit(self.session, self.self_seed, self.id),
                      sealed=b"".join(sealed))

    def masked(self, m):
        config, self.u2, sealed = self.config, m["shared"], cut(m["sealed"], 88)
        self.demand("C10", self.id in self.u2 and set(self.u2) <= set(self.keys))
        self.enough("C11", self.u2)
        senders = [v for v in self.holders if v in self.u2 and v != self.id]
        self.demand("C12", len(sealed) == len(senders))
        self.pairs = {self.id: self.own_pair} if self.id in self.holders else {}
        for v, box in zip(senders, sealed, strict=True):
            key = channel_key(self.session, self.channel_private, self.keys[v][0], v, self.id)
            with contextlib.suppress(InvalidTag):
                self.pairs[v] = AESGCM(key).decrypt(bytes(12), box, shares_data(self.session, v, self.id))
        self.demand("C13", len(self.pairs) >= config["threshold"] - (self.id not in self.holders))
        self.pairs = {v: pair for v, pair in self.pairs.items() if all(number(limb) < P for limb in cut(pair, 4))}
        self.demand("C14", len(self.pairs) >= config["threshold"] - (self.id not in self.holders))

        vector = add(config, self.vector, mask(config, self_mask_seed(self.session, self.self_seed, self.id)))
        for v in self.neighbors:
            if v in self.u2:
                seed = pair_seed(self.session, self.mask_private, self.keys[v][1], self.id, v)
                vector = add(config, vector, mask(config, seed), 1 if self.id < v else -1)
        self.vector = None
        return encode(6, session_id=self.session, unopened=bitmap(config, set(senders) - set(self.pairs)),
                      masked=pack(config, vector))

    def check_survivors(self, survivors):
        self.demand("C15", set(survivors) <= set(self.u2))
        self.demand("C16", self.id in survivors)
        self.enough("C17", survivors)

    def sign(self, m):
        self.check_survivors(m["survivors"])
        self.signed = m["survivors"]
        return encode(8, signature=self.identity().sign(survivors_message(self.config, self.session, self.signed)))

    def unmask(self, m):
        config, survivors, dropouts, signers = self.config, m["survivors"], m["dropouts"], m["signers"]
        self.check_survivors(survivors)
        self.demand("C18", not set(survivors) & set(dropouts))
        self.demand("C19", set(survivors) | set(dropouts) == set(self.u2))
        if malicious(config):
            self.demand("C20", survivors == self.signed)
            message = survivors_message(config, self.session, survivors)
            self.demand("C21", all((v in self.holders or whole_session(config)) and v in survivors
                                   and verifies(self.directory[v], s, message)
                                   for v, s in zip(signers, cut(m["signatures"], 64), strict=True)))
            own = {self.id} if complete(config) or whole_session(config) else set()
            self.demand("C22", len(set(signers) | own) >= signers_needed(config, self.keys))
        # The share of the self seed is the second half of a pair, that of the mask key the first.
        shares = [self.pairs[v][36:] if v in survivors else self.pairs[v][:36] for v in sorted(self.pairs)]
        return encode(10, session_id=self.session, shares=b"".join(shares))


# ---------------------------------------------------------------- server

class Server:
    def __init__(self, config, seed, directory=None):
        check_config(config)
        check_directory(config, directory)
        self.config, self.nonce, self.directory = config, draw(seed, "nonce", 32), directory or {}
        self.stages = [ADVERTISE, SHARE, MASK] + [CHECK] * malicious(config) + [UNMASK]
        self.keys, self.faults, self.result, self.unopened = {}, [], None, {}

    def await_answers(self, sends):
        self.awaited, self.accepted = set(sends), {}
        return sends

    def open(self):
        request = encode(1, nonce=self.nonce, config_hash=config_hash(self.config))
        return self.await_answers(dict.fromkeys(self.config["client_ids"], request))

    def holders_in(self, u, clients):
        return [v for v in self.holders[u] if v in clients]

    def with_share(self, u, clients):
        """Those of the holders of u's shares that could open them."""
        return [v for v in self.holders_in(u, clients) if u not in self.unopened.get(v, ())]

    def longest(self, stage):
        config = self.config
        longest = {ADVERTISE: 70 + 64 * malicious(config), CHECK: 66,
                   MASK: 42 + (len(config["client_ids"]) + 7) // 8
                   + (config["length"] * config["modulus_bits"] + 7) // 8}
        h = len(config["client_ids"]) if complete(config) else config["neighbors"]
        longest |= {SHARE: 70 + 88 * h, UNMASK: 38 + 36 * h}
        return max(longest[stage], 70)      # an Abort has 70 bytes

    def receive(self, u, data):
        config, stage = self.config, self.stages[0]

        def demand(check, fact):
            if not fact:
                raise Refused("FaultyClientError", check, u)

        demand("S1", u in self.awaited)
        demand("S2", len(data) <= self.longest(stage))
        try:
            kind, m = decode(config, data)
        except Refused:
            demand("S2", False)
        if kind == ABORT:
            self.awaited.discard(u)
            return
        expected = {ADVERTISE: 2, SHARE: 4, MASK: 6, CHECK: 8, UNMASK: 10}[stage]
        if kind < expected and kind % 2 == 0:
            return                          # late, and no fault
        demand("S3", kind == expected)
        demand("S4", u not in self.accepted)
        demand("S14", "session_id" not in m or m["session_id"] == self.session)

        if kind == 2:
            keys = m["channel_key"], m["mask_key"]
            demand("S5", all(good_key(key) for key in keys))
            known = {key for other in self.accepted.values() for key in (other["channel_key"], other["mask_key"])}
            demand("S6", keys[0] != keys[1] and not known & set(keys))
            if malicious(config):
                message = identity_message(config, self.nonce, u, *keys)
                demand("S7", u in self.directory and verifies(self.directory[u], m["signature"], message))
        if kind == 4:
            m["sealed"] = cut(m["sealed"], 88)
            demand("S8", len(m["sealed"]) == len([v for v in self.holders[u] if v != u]))
        if kind == 6:
            bits = config["length"] * config["modulus_bits"]
            demand("S15", set(m["unopened"]) <= set(self.holders_in(u, self.u2)) - {u})
            demand("S9", len(m["masked"]) == (bits + 7) // 8 and number(m["masked"]) < 2**bits)
        if kind == 8:
            message = survivors_message(config, self.session, self.u3)
            demand("S10", verifies(self.directory[u], m["signature"], message))
        if kind == 10:
            owners = [v for v in self.holders_in(u, self.u2) if v not in self.unopened[u]]
            parts = cut(m["shares"], 36)
            demand("S11", len(parts) == len(owners) and all(number(x) < P for x in cut(m["shares"], 4)))
            m["shares"] = {owner: [number(x) for x in cut(part, 4)] for owner, part in zip(owners, parts, strict=True)}
        self.accepted[u] = m

    def close(self):
        stage, answers = self.stages.pop(0), dict(sorted(self.accepted.items()))
        step = {ADVERTISE: self.after_advertise, SHARE: self.after_share, MASK: self.after_mask,
                CHECK: self.after_check, UNMASK: self.after_unmask}[stage]
        return self.await_answers(step(answers))

    def demand_enough(self, remaining, opened, signing=True):
        t = self.config["threshold"]
        needed = max(t, signers_needed(self.config, self.keys)) if signing else t
        if len(remaining) < needed or any(len(self.holders_in(u, remaining)) < t for u in opened):
            raise Refused("TooFewSurvivorsError")
        for u in opened:
            if len(self.with_share(u, remaining)) < t:
                accusers = len(self.holders_in(u, remaining)) - len(self.with_share(u, remaining))
                if accusers >= max(2, self.config["colluders"] + 1):
                    raise Refused("FaultyClientError", "S16", u)
                raise Refused("TooFewSurvivorsError")

    def after_advertise(self, answers):
        config, u1 = self.config, sorted(answers)
        self.keys = {u: (m["channel_key"], m["mask_key"]) for u, m in answers.items()}
        self.session = session_id(config, self.nonce, self.keys)
        self.neighbors = graph(config, self.session, u1)
        self.holders = all_holders(config, self.neighbors)
        self.demand_enough(u1, u1)
        request = encode(3, advertised=bitmap(config, u1), channel_keys=b"".join(self.keys[u][0] for u in u1),
                         mask_keys=b"".join(self.keys[u][1] for u in u1),
                         signatures=b"".join(answers[u]["signature"] for u in u1))
        return dict.fromkeys(u1, request)

    def after_share(self, answers):
        self.u2, before = sorted(answers), None
        while self.u2 != before:
            before = self.u2
            self.u2 = [u for u in before if len(self.holders_in(u, before)) >= self.config["threshold"]]
        self.demand_enough(self.u2, self.u2)
        self.commitments = {u: answers[u]["commitment"] for u in self.u2}
        sealed = {}
        for v in self.u2:
            receivers = [u for u in self.holders[v] if u != v]
            sealed[v] = dict(zip(receivers, answers[v]["sealed"], strict=True))
        return {u: encode(5, shared=bitmap(self.config, self.u2), sealed=b"".join(
            sealed[v][u] for v in self.holders_in(u, self.u2) if v != u)) for u in self.u2}

    def after_mask(self, answers):
        self.unopened = {u: set(m["unopened"]) for u, m in answers.items()}
        self.u3, self.vectors = sorted(answers), {u: unpack(self.config, m["masked"]) for u, m in answers.items()}
        self.demand_enough(self.u3, self.u2)
        if malicious(self.config):
            return {u: encode(7, survivors=bitmap(self.config, self.u3)) for u in self.u3}
        return self.unmasking_requests(dict.fromkeys(self.u3, b""))

    def after_check(self, answers):
        self.demand_enough(sorted(answers), self.u2)
        return self.unmasking_requests({u: m["signature"] for u, m in answers.items()})

    def unmasking_requests(self, signatures):
        config, sends = self.config, {}
        dropouts = bitmap(config, set(self.u2) - set(self.u3))
        for u in sorted(signatures):
            signers = self.holders_in(u, signatures) if malicious(config) else []
            if whole_session(config):
                signers = sorted(signatures)[:signers_needed(config, self.keys)]
            sends[u] = encode(9, survivors=bitmap(config, self.u3), dropouts=dropouts,
                              signers=bitmap(config, signers), signatures=b"".join(signatures[v] for v in signers))
        return sends

    def after_unmask(self, answers):
        config, total = self.config, [0] * self.config["length"]
        self.demand_enough(sorted(answers), self.u2, signing=False)
        dropouts = [u for u in self.u2 if u not in self.u3]
        mask_private = {d: self.opened(d, answers, "S12") for d in dropouts}
        self_seed = {u: self.opened(u, answers, "S13") for u in self.u3}
        for u in self.u3:
            total = add(config, total, self.vectors[u])
            total = add(config, total, mask(config, self_mask_seed(self.session, self_seed[u], u)), -1)
        for d in dropouts:
            for v in self.neighbors[d]:
                if v in self.u3:            # v had added its mask if v < d, subtracted it otherwise
                    seed = pair_seed(self.session, mask_private[d], self.keys[v][1], d, v)
                    total = add(config, total, mask(config, seed), -1 if v < d else 1)
        self.result = {"sum": total, "survivors": self.u3}
        return {}

    def opened(self, owner, answers, check):
        """The owner's mask key (S12) or self seed (S13). Wrong shares are sought only if the first t do not give it."""
        def right(secret):
            if secret is None:
                return False
            if check == "S12":
                return public_key(secret) == self.keys[owner][1]
            return commit(self.session, secret, owner) == self.commitments[owner]

        shares = {v: answers[v]["shares"][owner] for v in self.with_share(owner, answers)}
        secret = combine(shares, self.config["threshold"])
        if not right(secret):
            secret, wrong = decode_shares(shares, self.config["threshold"])
            if not right(secret):
                raise Refused("FaultyClientError", check, owner)
            self.faults += [{"client_id": v, "check": check} for v in wrong]
        return secret


# ================================================================ vectors (not part of the protocol)

STAGES = (ADVERTISE, SHARE, MASK, CHECK, UNMASK)
REQUEST = {ADVERTISE: 1, SHARE: 3, MASK: 5, CHECK: 7, UNMASK: 9}


def dump(obj):
    return json.dumps(obj, indent=1) + "\n"


def configure(ids, threshold, length, modulus_bits, adversary="semi_honest", **more):
    return {"client_ids": list(ids), "threshold": threshold, "length": length, "modulus_bits": modulus_bits,
            "neighbors": len(ids) - 1, "colluders": 0, "session_colluders": None, "adversary": adversary, "round": 7,
            "model_hash": sha256(b"secagg vectors: model").hex(), "masking": "aes128_ctr", "context": b"vectors".hex()
            } | more


class Session:
    """One session, run and recorded. drops: {stage: ids that no longer answer}; tamper: changes replies on the way."""

    def __init__(self, name, config, drops=None, tamper=None, server_name=None, late=()):
        def seed(party): return sha256(f"secagg vectors: {name}: {party}".encode())
        self.config, ids = config, config["client_ids"]
        self.seeds = {"server": seed(server_name or "server")} | {str(u): seed(u) for u in ids}
        self.directory = {u: self.identity(u).public_key().public_bytes_raw() for u in ids} if malicious(config) else {}
        self.inputs = {u: [number(w) % 2**config["modulus_bits"] for w in cut(
            draw(self.seeds[str(u)], "vector input", 8 * config["length"]), 8)] for u in ids}
        self.requests, self.replies, self.steps, self.error = {}, {}, [], None
        self.server, self.clients = self.new_server(), {u: self.new_client(u) for u in ids}
        gone, sends = set(), self.server.open()
        self.steps.append({"to": "server", "opens": True, "sends": self.hex(sends)})
        try:
            for stage in list(self.server.stages):
                gone |= set((drops or {}).get(stage, ()))
                for u in [u for u in sends if u not in gone]:
                    request, kind = sends[u], REQUEST[stage]
                    self.requests[u, kind] = request
                    reply = self.replies[u, kind + 1] = self.clients[u].receive(request)
                    self.steps.append({"to": f"client {u}", "receives": request.hex(), "replies": reply.hex()})
                    for message in [self.replies[u, k] for s, who, k in late if (s, who) == (stage, u)] + [
                            tamper(u, kind + 1, reply) if tamper else reply]:
                        self.steps.append({"to": "server", "from": u, "receives": message.hex()})
                        self.server.receive(u, message)
                self.steps.append({"to": "server", "closes": stage})
                sends = self.server.close()
                self.steps[-1]["sends"] = self.hex(sends)
        except Refused as error:
            self.error = error
        if self.error is None:
            expected = [0] * config["length"]
            for u in self.server.result["survivors"]:
                expected = add(config, expected, self.inputs[u])
            assert self.server.result["sum"] == expected, name

    def hex(self, sends): return {str(u): data.hex() for u, data in sends.items()}
    def new_server(self): return Server(self.config, self.seeds_of("server"), self.directory)
    def seeds_of(self, party): return self.seeds[str(party)]
    def identity(self, u): return Ed25519PrivateKey.from_private_bytes(draw(self.seeds_of(u), "identity_key", 32))

    def new_client(self, u, policy=None):
        return Client(self.config, u, self.seeds_of(u), self.inputs[u], policy, self.directory)

    def fields(self, u, kind):
        """Fields of the request that u had, as bytes, to change and encode again."""
        _, got = decode(self.config, self.requests[u, kind])
        return {name: bitmap(self.config, value) if name in SETS else value for name, value in got.items()}

    def changed(self, u, kind, **values):
        return encode(kind, **{**self.fields(u, kind), **values})

    def set(self, clients): return bitmap(self.config, clients)

    def vector(self, comment, steps=None, policy=None):
        vector = {"protocol": "secagg", "version": 1, "comment": comment, "config": self.config}
        vector |= {"policy": policy} if policy else {}
        vector["seeds"] = {party: seed.hex() for party, seed in self.seeds.items()}
        vector |= {"directory": self.hex(self.directory)} if self.directory else {}
        vector |= {"inputs": {str(u): x for u, x in self.inputs.items()}, "steps": steps or self.steps}
        return vector

    def accepted(self, comment):
        assert self.error is None, self.error
        faults = self.server.faults
        return self.vector(comment) | {"result": self.server.result} | ({"faults": faults} if faults else {})

    def refused_at_the_end(self, comment, error):
        assert (self.error.type, self.error.check, self.error.client_id) == error, self.error
        return self.vector(comment, [s for s in self.steps if s["to"] == "server"]) | {"error": named(*error)}

    def client_refuses(self, check, u, message, comment, after=0, policy=None):
        """u takes its honest requests of kinds <= after, then `message`."""
        type = {"C1": "MalformedMessageError", "C2": "StageError"}.get(check, "FaultyServerError")
        client, steps = self.new_client(u, policy), []
        for kind in sorted(kind for who, kind in self.requests if who == u and kind <= after):
            steps.append({"to": f"client {u}", "receives": self.requests[u, kind].hex(),
                          "replies": client.receive(self.requests[u, kind]).hex()})
        expect((type, check, None), lambda: client.receive(message))
        if check not in ("C1", "C2"):
            expect(("StageError", "C2", None), lambda: client.receive(self.requests[u, 1]))     # it never answers again
        steps.append({"to": f"client {u}", "receives": message.hex()})
        return self.vector(comment, steps, policy) | {"error": named(type, check)}

    def server_refuses(self, check, u, message, comment, stage, first=()):
        """The server takes all honest answers before `stage`, in it those of `first`, then `message` from u."""
        server, steps, now = self.new_server(), [], None
        for step in [s for s in self.steps if s["to"] == "server"]:
            if now == stage and step.get("from") not in first:
                break
            if "opens" in step:
                server.open()
                now = ADVERTISE
            elif "closes" in step:
                server.close()
                now = server.stages[0]
            else:
                server.receive(step["from"], bytes.fromhex(step["receives"]))
            steps.append(step)
        error = ("FaultyClientError", check, u)
        expect(error, lambda: server.receive(u, message))
        steps.append({"to": "server", "from": u, "receives": message.hex()})
        return self.vector(comment, steps) | {"error": named(*error)}


def expect(error, call):
    try:
        call()
    except Refused as refused:
        got = refused.type, refused.check, refused.client_id
    else:
        got = "accepted"
    if got != error:
        raise AssertionError(f"{got}, though {error} was due")


def named(type, check=None, client_id=None):
    return {"type": type} | ({"check": check} if check else {}) | ({"client_id": client_id} if client_id else {})


def seal_garbage(receivers, ids):
    """Sender -> those for whom what it seals does not open. On the complete graph, all in U1."""
    def tamper(u, kind, reply):
        for v in receivers.get(u, ()) if kind == 4 else ():
            reply = bump(reply, 70 + 88 * [w for w in ids if w != u].index(v) + 8)
        return reply
    return tamper


def bump(data, at):
    """One bit of one byte changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


def replace(data, i, part):
    size = len(part)
    return data[:i * size] + part + data[(i + 1) * size:]


def session_vectors():
    ids = [2, 3, 5, 8, 13]
    mal = "malicious_server"

    def drop(stage, who):
        return {stage: [who]}
    out = {
        "session_no_dropout": Session("no dropout", configure([1, 2, 3], 2, 4, 16)).accepted(
            "three clients on the complete graph, nobody drops out"),
        "session_malicious_server": Session("malicious", configure(ids, 4, 5, 33, mal, colluders=1)).accepted(
            "five clients with identity keys and the consistency check, nobody drops out"),
        "session_k_regular": Session("k-regular", configure(
            [1, 2, 3, 4, 5, 6, 7], 3, 6, 26, neighbors=4, colluders=1)).accepted(
            "seven clients, each with four neighbors"),
        "session_k_regular_malicious_server": Session("k-regular malicious", configure(
            [1, 4, 9, 16, 25, 36, 2**31 - 2], 3, 5, 20, mal, neighbors=4, colluders=1), drop(MASK, 16)).accepted(
            "seven clients, each with four neighbors, identity keys, and client 16 drops out with its masked input"),
        "session_k_regular_indivisible": Session("k-regular indivisible", configure(
            [1, 4, 9, 16, 25, 36, 49, 64], 5, 5, 20, mal, neighbors=6, colluders=1, session_colluders=1),
            drop(UNMASK, 25)).accepted(
            "eight clients, each with six neighbors; five of the whole session sign before anyone opens"),
        "session_k_regular_shrinks_to_complete": Session("k-regular shrinks", configure(
            [1, 2, 3, 4, 5, 6], 3, 4, 8, neighbors=4), {ADVERTISE: [3], UNMASK: [6]}).accepted(
            "five of six clients advertise keys, so that all neighbor each other, but nobody holds its own shares"),
    }
    for stage, bits, length, who in ((ADVERTISE, 8, 9, 5), (SHARE, 20, 5, 3), (MASK, 26, 7, 2), (UNMASK, 64, 4, 13)):
        name = f"session_dropout_in_{stage.lower()}"
        out[name] = Session(name, configure(ids, 3, length, bits), drop(stage, who)).accepted(
            f"client {who} drops out in {stage}")
    name = "session_dropout_in_consistency_check"
    out[name] = Session(name, configure(ids, 4, 6, 20, mal, colluders=1), drop(CHECK, 8)).accepted(
        "client 8 drops out in CONSISTENCY_CHECK: its vector is in the sum")
    name = "session_dropout_in_every_stage"
    out[name] = Session(name, configure([1, 2, 3, 4, 5, 6, 7, 8, 9, 21, 40], 6, 4, 33, mal), {
        ADVERTISE: [4], SHARE: [6], MASK: [1], CHECK: [40], UNMASK: [9]}).accepted(
        "of eleven clients one drops out in each stage, the threshold is left")
    out["session_shared_set_is_pruned"] = Session("pruned", configure(
        [1, 2, 3, 4, 5, 6, 7], 2, 4, 16, neighbors=4), {SHARE: [1, 2, 4]}).accepted(
        "client 7 shared, but is removed from U2: three of its four holders dropped out in SHARE_KEYS")
    out["session_late_message_is_ignored"] = Session("late", configure([1, 2, 3, 4], 3, 4, 16),
                                                     late=[(SHARE, 2, 2), (UNMASK, 2, 6)]).accepted(
        "client 2 sends its keys once more before its shares, and its masked input before its answer: late, no fault")
    six = [1, 2, 3, 4, 5, 6]
    out["session_unopened_shares"] = Session("unopened", configure(six, 4, 4, 16), drop(MASK, 6),
                                             tamper=seal_garbage({1: [5], 6: [2]}, six)).accepted(
        "clients 5 and 2 cannot open the pairs from clients 1 and 6, say so and send no share of theirs")
    out["session_faulty_share_is_named"] = Session("faulty share", configure([1, 2, 3, 4, 5, 6], 4, 4, 16),
                                                   tamper=lie({1: 5})).accepted(
        "client 1 sends a wrong share of client 5's self seed, six shares and threshold 4 correct one: it is named")
    out["session_faulty_share_of_a_mask_key_is_named"] = Session("faulty mask share", configure(
        [1, 2, 3, 4, 5, 6, 7], 4, 4, 16), drop(MASK, 6), tamper=lie({2: 6})).accepted(
        "client 2 sends a wrong share of the mask key of client 6, which dropped out: it is named")
    return out


def lie(about, ids=(1, 2, 3, 4, 5, 6, 7)):
    """Holder -> owner whose share it changes in one limb. On the complete graph of ids 1, 2, ..., all in U2."""
    def tamper(u, kind, reply):
        return bump(reply, 38 + 36 * ids.index(about[u]) + 8) if kind == 10 and u in about else reply
    return tamper


def client_rejects():
    ids, mal, out = [2, 3, 5, 8, 13], "malicious_server", {}
    semi = Session("reject, semi-honest", configure(ids, 3, 5, 20))
    other = Session("reject, semi-honest", configure(ids, 3, 5, 20), server_name="server of another session")
    strict = Session("reject, malicious", configure(ids, 4, 4, 33, mal, colluders=1))
    strict_other = Session("reject, malicious", configure(ids, 4, 4, 33, mal, colluders=1), server_name="another")
    gone = Session("reject, one gone", configure([1, 2, 4, 6, 7, 9], 4, 4, 8, mal, colluders=1), {SHARE: [4]})
    absent = Session("reject, one absent", configure([1, 2, 4, 6, 7], 3, 4, 8), {ADVERTISE: [4]})
    dropped = Session("reject, one dropped", configure(ids, 3, 4, 64), {MASK: [8]})
    dropped_strict = Session("reject, one dropped, malicious", configure(
        [1, 2, 4, 6, 7, 9], 4, 4, 26, mal, colluders=1), {MASK: [6]})
    ring = Session("reject, ring", configure([1, 2, 3, 4, 5, 6, 7], 3, 4, 16, mal, neighbors=4, colluders=1))
    whole = Session("reject, whole session", configure(range(1, 10), 5, 4, 16, mal, neighbors=6, colluders=1,
                                                       session_colluders=1), {MASK: [8]})

    def add_one(file, *args, session=semi, **more):
        out[f"reject_{file}"] = session.client_refuses(file.split("_")[0].replace("C0", "C"), *args, **more)

    def private(session, u, name): return draw(session.seeds_of(u), name, 32)

    # C1
    request = semi.requests
    add_one("C01_version", 3, u8(2) + request[3, 1][1:], "a message of version 2")
    add_one("C01_unknown_kind", 3, u8(1) + u8(11) + request[3, 1][2:], "kind 11, which there is not")
    add_one("C01_empty", 3, b"", "no bytes at all")
    add_one("C01_truncated", 3, request[3, 3][:-1], "the last byte is missing", after=1)
    add_one("C01_trailing_byte", 3, request[3, 1] + b"\0", "a byte after the last field")
    add_one("C01_bitmap_bit_beyond_the_clients", 3, semi.changed(3, 3, advertised=b"\x3f"),
            "bit 5 of the bitmap of five clients is set", after=1)
    add_one("C01_bitmap_too_long", 3, semi.changed(3, 5, shared=b"\x1f\0"), "a bitmap of two bytes for five clients",
            after=3)
    add_one("C01_keys_of_fewer_clients", 3, semi.changed(3, 3, mask_keys=semi.fields(3, 3)["mask_keys"][:-32]),
            "four mask keys for five advertised clients", after=1)
    add_one("C01_signatures_missing", 3, strict.changed(3, 3, signatures=b""),
            "no identity signatures, though the adversary is malicious_server", session=strict, after=1)
    add_one("C01_sealed_not_whole", 3, semi.changed(3, 5, sealed=semi.fields(3, 5)["sealed"] + b"\0"),
            "the sealed pairs are not a multiple of 88 bytes", after=3)

    # C2
    add_one("C02_replayed_advertise_keys_request", 5, request[5, 1], "the first request once more", after=1)
    add_one("C02_second_set_of_shares", 5, request[5, 3], "the ShareKeysRequest once more", after=3)
    smaller = [u for u in ids if u != 13]
    add_one("C02_second_masked_input", 5, semi.changed(5, 5, shared=semi.set(smaller),
            sealed=semi.fields(5, 5)["sealed"][:3 * 88]), "a second masked input, now without client 13", after=5)
    add_one("C02_second_consistency_check", 5, strict.changed(5, 7, survivors=strict.set(smaller)),
            "a second survivor set to sign", session=strict, after=7)
    add_one("C02_second_unmasking", 5, semi.changed(5, 9, survivors=semi.set(smaller), dropouts=semi.set([13])),
            "a second unmasking, in which client 13 is no survivor but a dropout: its other share", after=9)
    add_one("C02_consistency_check_skipped", 5, strict.requests[5, 9], "unmasking right after the masked input",
            session=strict, after=5)
    add_one("C02_share_keys_before_advertise_keys", 5, request[5, 3], "the second request comes first")
    add_one("C02_consistency_check_in_semi_honest", 5, encode(7, survivors=semi.set(ids)),
            "a ConsistencyCheckRequest, which this adversary does not have", after=5)

    # C3, C4
    add_one("C03_other_round", 3, semi.changed(3, 1, config_hash=config_hash(semi.config | {"round": 8})),
            "the hash of the configuration of another round")
    for what, policy in (("cohort_too_small", {"minimum_cohort": 6}),
                         ("threshold_downgraded", {"minimum_threshold": 4}),
                         ("colluders_downgraded", {"minimum_colluders": 1}),
                         ("adversary_downgraded", {"adversary": mal})):
        add_one(f"C04_{what}", 3, request[3, 1], f"the configuration is below the client's own floor {policy}",
                policy=policy)
    add_one("C04_neighbors_downgraded", 3, ring.requests[3, 1], "four neighbors, the client demands six", session=ring,
            policy={"minimum_neighbors": 6})

    add_one("C04_sum_may_be_split", 3, ring.requests[3, 1], "2t = 6 is not above k + 2c = 6: the ring can be cut",
            session=ring, policy={"indivisible": True})
    add_one("C04_too_few_session_colluders", 5, whole.requests[5, 1], "one colluder in the session, the client wants 2",
            session=whole, policy={"minimum_session_colluders": 2})

    # C5 to C9
    fields, fresh = semi.fields(5, 3), public_key(sha256(b"a key of the server"))
    fewer = [u for u in ids if u != 5]

    def advertised(session, u1, u=5, signatures=False):
        got, place = session.fields(u, 3), session.config["client_ids"].index
        return session.changed(u, 3, advertised=session.set(u1), **{name: b"".join(
            got[name][size * place(v):size * (place(v) + 1)] for v in u1) for name, size in (
                ("channel_keys", 32), ("mask_keys", 32), ("signatures", 64 * signatures))})

    add_one("C05_own_mask_key_replaced", 5, semi.changed(5, 3, mask_keys=replace(fields["mask_keys"], 2, fresh)),
            "another mask key stands for the client's own", after=1)
    add_one("C05_own_channel_key_replaced", 5, semi.changed(5, 3, channel_keys=replace(
            fields["channel_keys"], 2, fresh)), "another channel key stands for the client's own", after=1)
    add_one("C05_not_advertised", 5, advertised(semi, fewer), "the client is not in U1", after=1)
    own = strict_other.replies[5, 2][-64:]
    add_one("C05_own_signature_replaced", 5, strict.changed(5, 3, signatures=replace(
            strict.fields(5, 3)["signatures"], 2, own)), "the client's own signature of another session",
            session=strict, after=1)
    add_one("C06_mask_key_twice", 5, semi.changed(5, 3, mask_keys=replace(
            fields["mask_keys"], 0, fields["mask_keys"][32:64])), "clients 2 and 3 have one mask key", after=1)
    add_one("C06_own_mask_key_twice", 5, semi.changed(5, 3, mask_keys=replace(
            fields["mask_keys"], 4, fields["mask_keys"][64:96])), "client 13 has the mask key of the client", after=1)
    add_one("C06_channel_key_is_mask_key", 5, semi.changed(5, 3, mask_keys=replace(
            fields["mask_keys"], 4, fields["channel_keys"][128:])), "client 13 has one key for both uses", after=1)
    for what, key in (("all_zero", 0), ("one", 1), ("order_4", Q - 1), ("order_8", ORDER_8),
                      ("order_8_too", ORDER_8_TOO), ("not_canonical", Q + 9), ("high_bit", number(fresh) + 2**255)):
        add_one(f"C07_{what}", 5, semi.changed(5, 3, mask_keys=replace(
                fields["mask_keys"], 0, key.to_bytes(32, "little"))), f"client 2's mask key is {what}", after=1)
    add_one("C07_channel_key_not_canonical", 5, semi.changed(5, 3, channel_keys=replace(
            fields["channel_keys"], 4, (Q + 9).to_bytes(32, "little"))), "client 13's channel key is Q + 9", after=1)
    got = strict.fields(5, 3)
    add_one("C08_key_replaced", 5, strict.changed(5, 3, mask_keys=replace(got["mask_keys"], 0, fresh)),
            "the server's own mask key for client 2, under client 2's signature", session=strict, after=1)
    add_one("C08_signature_of_another_session", 5, strict.changed(5, 3, signatures=replace(
            got["signatures"], 0, strict_other.replies[2, 2][-64:])), "client 2's signature over another nonce",
            session=strict, after=1)
    forged = strict.identity(13).sign(identity_message(strict.config, strict.server.nonce, 2, *strict.server.keys[2]))
    add_one("C08_signed_by_another_client", 5, strict.changed(5, 3, signatures=replace(got["signatures"], 0, forged)),
            "client 13 signed client 2's entry", session=strict, after=1)
    add_one("C09_fewer_than_threshold", 5, advertised(semi, [2, 5]), "two clients advertised, threshold 3", after=1)
    add_one("C09_below_minimum_cohort", 5, advertised(semi, [2, 3, 5, 8]), "four clients, the client demands five",
            after=1, policy={"minimum_cohort": 5})

    # C10 to C14
    boxes = cut(semi.fields(5, 5)["sealed"], 88)        # from 2, 3, 8, 13
    add_one("C10_not_in_shared", 5, semi.changed(5, 5, shared=semi.set(fewer)), "the client is not in U2", after=3)
    add_one("C10_not_subset_of_advertised", 6, absent.changed(6, 5, shared=absent.set([1, 2, 4, 6, 7])),
            "client 4 is in U2 and was not in U1", session=absent, after=3)
    add_one("C11_fewer_than_threshold", 5, semi.changed(5, 5, shared=semi.set([2, 5]), sealed=boxes[0]),
            "two clients shared, the threshold is 3", after=3)
    add_one("C11_below_minimum_cohort", 5, semi.changed(
            5, 5, shared=semi.set([2, 3, 5, 8]), sealed=b"".join(boxes[:3])),
            "four clients, the client demands five", after=3, policy={"minimum_cohort": 5})
    add_one("C12_pair_missing", 5, semi.changed(5, 5, sealed=b"".join(boxes[:3])), "no pair from client 13", after=3)
    add_one("C12_pair_too_many", 5, semi.changed(5, 5, sealed=b"".join(boxes + boxes[3:])), "client 13's pair twice",
            after=3)
    for what, box, comment in (
            ("tampered", bump(boxes[0], 40), "one bit of client 2's sealed pair is changed"),
            ("of_another_session", cut(other.fields(5, 5)["sealed"], 88)[0], "client 2 sealed it in another session"),
            ("swapped_receiver", cut(semi.fields(8, 5)["sealed"], 88)[0], "client 2 sealed it for client 8"),
            ("reflected", cut(semi.fields(2, 5)["sealed"], 88)[1], "the client's own pair for client 2 comes back"),
            ("of_another_sender", boxes[1], "client 3's pair stands in client 2's place too")):
        sealed = box + bump(boxes[1], 40) + bump(boxes[2], 40) + boxes[3]
        add_one(f"C13_{what}", 5, semi.changed(5, 5, sealed=sealed),
                f"{comment}; those of clients 3 and 8 are tampered with: two pairs are left, the threshold is 3",
                after=3)
    key = channel_key(semi.server.session, private(semi, 2, "channel_key"), semi.server.keys[5][0], 2, 5)
    data = shares_data(semi.server.session, 2, 5)
    pair = AESGCM(key).decrypt(bytes(12), boxes[0], data)
    for what, at, limb in (("limb_of_mask_key", 8, P), ("limb_of_self_seed", 17, 2**32 - 1)):
        box = AESGCM(key).encrypt(bytes(12), replace(pair, at, u32(limb)), data)
        sealed = box + bump(boxes[1], 40) + bump(boxes[2], 40) + boxes[3]
        add_one(f"C14_{what}", 5, semi.changed(5, 5, sealed=sealed),
                f"limb {at} of client 2's pair is {limb}, not below p; those of clients 3 and 8 do not open: two good "
                "pairs are left, the threshold is 3", after=3)

    # C15 to C17
    add_one("C15_not_subset_of_shared", 7, gone.changed(7, 7, survivors=gone.set([1, 2, 4, 6, 7, 9])),
            "client 4 survives and was not in U2", session=gone, after=5)
    add_one("C16_not_a_survivor", 7, gone.changed(7, 7, survivors=gone.set([1, 2, 6, 9])),
            "the survivors to sign are without the client", session=gone, after=5)
    add_one("C16_unmasking_not_a_survivor", 5, semi.changed(5, 9, survivors=semi.set(fewer), dropouts=semi.set([5])),
            "the client itself is a dropout", after=5)
    add_one("C17_fewer_than_threshold", 7, gone.changed(7, 7, survivors=gone.set([1, 2, 7])),
            "three survivors, the threshold is 4", session=gone, after=5)
    add_one("C17_unmasking_fewer_than_threshold", 5, semi.changed(
            5, 9, survivors=semi.set([5, 8]), dropouts=semi.set([2, 3, 13])), "two survivors, threshold 3", after=5)
    add_one("C17_below_minimum_cohort", 5, semi.changed(5, 9, survivors=semi.set(smaller), dropouts=semi.set([13])),
            "four survivors, the client demands five", after=5, policy={"minimum_cohort": 5})
    near = [u for u in [1, 2, 3, 4, 5, 6, 7] if u not in ring.server.neighbors[5][:2]]
    add_one("C17_holders_fewer_than_threshold", 5, ring.changed(5, 7, survivors=ring.set(near)),
            "five survivors, but only two of the client's four holders, the threshold is 3", session=ring, after=5)

    # C18, C19
    add_one("C18_client_in_both", 5, dropped.changed(5, 9, survivors=dropped.set(ids)),
            "client 8 is a survivor and a dropout: both its shares", session=dropped, after=5)
    add_one("C19_client_in_neither", 5, dropped.changed(5, 9, dropouts=dropped.set([])),
            "client 8 of U2 is in neither list", session=dropped, after=5)
    add_one("C19_dropout_not_in_shared", 6, absent.changed(6, 9, dropouts=absent.set([4])),
            "client 4 is a dropout and was not in U2", session=absent, after=5)

    # C20 to C22; everyone but the client under test colludes, so the server has any signature it likes
    def signed(session, u, signers, survivors, about=None, more=()):
        message = survivors_message(session.config, session.server.session, about or survivors)
        signatures = {v: session.identity(v).sign(message) for v in signers} | dict(more)
        return session.changed(u, 9, survivors=session.set(survivors), signers=session.set(signers),
                               dropouts=session.set(set(session.server.u2) - set(survivors)),
                               signatures=b"".join(signatures[v] for v in sorted(signatures)))

    add_one("C20_equivocated_survivors", 5, signed(strict, 5, [2, 3, 8], [2, 3, 5, 8]),
            "the client signed five survivors; now client 13 is a dropout and the others have signed that",
            session=strict, after=7)
    stale = strict_other.replies[2, 8][2:]
    add_one("C21_signature_of_another_session", 5, signed(strict, 5, [2, 3, 5, 8, 13], ids, more={2: stale}),
            "client 2's signature over the same survivors in another session", session=strict, after=7)
    add_one("C21_signature_over_other_survivors", 5, signed(strict, 5, [2, 3, 5, 8, 13], ids, more={
            2: strict.identity(2).sign(survivors_message(strict.config, strict.server.session, smaller))}),
            "client 2 signed other survivors", session=strict, after=7)
    add_one("C21_signed_by_another_client", 5, signed(strict, 5, [2, 3, 5, 8, 13], ids, more={
            2: strict.replies[3, 8][2:]}), "client 3's signature stands for client 2's too", session=strict, after=7)
    add_one("C21_signer_is_no_survivor", 7, signed(dropped_strict, 7, [1, 2, 4, 6, 7], [1, 2, 4, 7, 9]),
            "client 6, a dropout, is among the signers, and signed", session=dropped_strict, after=7)
    stranger = next(v for v in ring.config["client_ids"] if v != 5 and v not in ring.server.neighbors[5])
    add_one("C21_signer_is_no_holder", 5, signed(ring, 5, ring.server.neighbors[5] + [stranger], [1, 2, 3, 4, 5, 6, 7]),
            f"client {stranger} signed, but is no holder of the client's shares", session=ring, after=7)
    add_one("C22_fewer_than_threshold", 5, signed(strict, 5, [2, 5, 8], ids), "three signers, the threshold is 4",
            session=strict, after=7)
    add_one("C22_own_signature_counts_once", 5, signed(strict, 5, [2, 8], ids),
            "two signers and the client itself, the threshold is 4", session=strict, after=7)
    rest = [u for u in whole.config["client_ids"] if u != 8]
    add_one("C21_signer_of_the_session_is_no_survivor", 5, signed(whole, 5, [*rest[:-1], 8, 9], rest),
            "client 8, a dropout, is among the signers, and signed", session=whole, after=7)
    add_one("C22_whole_session", 5, signed(whole, 5, [1, 2, 3, 4], rest),
            "four signers and the client itself; six of the nine are needed", session=whole, after=7)
    add_one("C22_k_regular", 5, signed(ring, 5, ring.server.neighbors[5][:2], [1, 2, 3, 4, 5, 6, 7]),
            "two of four holders signed, the threshold is 3; no holder of its own shares, the client does not count",
            session=ring, after=7)
    return out


def server_rejects():
    ids, mal, out = [2, 3, 5, 8, 13], "malicious_server", {}
    semi = Session("server, semi-honest", configure(ids, 3, 5, 20))
    strict = Session("server, malicious", configure(ids, 4, 4, 33, mal, colluders=1), server_name="server")
    strict_other = Session("server, malicious", configure(ids, 4, 4, 33, mal, colluders=1), server_name="another")
    absent = Session("server, one absent", configure(ids, 3, 4, 8), {ADVERTISE: [8]})

    def add_one(file, *args, session=semi, **more):
        out[f"reject_{file}"] = session.server_refuses(file.split("_")[0].replace("S0", "S"), *args, **more)

    keys = semi.server.keys
    add_one("S01_unknown_client", 99, semi.replies[2, 2], "client 99 is not in the configuration", ADVERTISE)
    add_one("S01_client_that_dropped_out", 8, absent.replies[2, 4], "client 8 advertised no keys, and sends shares",
            SHARE, session=absent)
    add_one("S02_truncated", 3, semi.replies[3, 2][:-1], "the last byte is missing", ADVERTISE)
    add_one("S02_trailing_byte", 3, semi.replies[3, 2] + b"\0", "a byte after the last field", ADVERTISE)
    add_one("S02_too_long", 3, semi.replies[3, 6] + bytes(100), "longer than any masked input of this length", MASK)
    add_one("S02_signature_missing", 3, encode(2, channel_key=strict.server.keys[3][0],
            mask_key=strict.server.keys[3][1], signature=b""), "no identity signature", ADVERTISE, session=strict)
    add_one("S03_later_stage", 3, semi.replies[3, 6], "the masked input a stage early", SHARE)
    add_one("S03_request", 3, semi.requests[3, 1], "a request, which only servers send", ADVERTISE)
    add_one("S04_second_masked_input", 3, encode(6, session_id=semi.server.session, unopened=semi.set([]),
            masked=pack(semi.config, [1, 2, 3, 4, 5])),
            "a second masked input, another one", MASK, first=(2, 3))
    add_one("S04_second_keys", 3, encode(2, channel_key=public_key(sha256(b"1")), mask_key=public_key(sha256(b"2")),
            signature=b""), "a second pair of keys", ADVERTISE, first=(2, 3))
    for what, key in (("all_zero", 0), ("order_8", ORDER_8), ("not_canonical", Q + 9)):
        add_one(f"S05_{what}", 3, encode(2, channel_key=keys[3][0], mask_key=key.to_bytes(32, "little"), signature=b""),
                f"the mask key is {what}", ADVERTISE)
    add_one("S06_one_key_for_both", 3, encode(2, channel_key=keys[3][0], mask_key=keys[3][0], signature=b""),
            "channel key and mask key are the same", ADVERTISE)
    add_one("S06_key_of_another_client", 3, encode(2, channel_key=keys[3][0], mask_key=keys[2][1], signature=b""),
            "client 3 has the mask key of client 2", ADVERTISE, first=(2,))
    add_one("S06_channel_key_is_anothers_mask_key", 3, encode(2, channel_key=keys[2][1], mask_key=keys[3][1],
            signature=b""), "client 3's channel key is client 2's mask key", ADVERTISE, first=(2,))
    add_one("S07_signed_by_another_client", 3, encode(
        2, channel_key=strict.server.keys[3][0], mask_key=strict.server.keys[3][1], signature=strict.identity(2).sign(
            identity_message(strict.config, strict.server.nonce, 3, *strict.server.keys[3]))),
            "client 2 signed client 3's keys", ADVERTISE, session=strict)
    add_one("S07_signature_of_another_session", 3, strict_other.replies[3, 2],
            "client 3's response to another nonce", ADVERTISE, session=strict)
    share = semi.replies[3, 4]
    add_one("S08_pair_missing", 3, encode(4, session_id=share[2:34], commitment=share[34:66], sealed=share[70:-88]),
            "three sealed pairs for four", SHARE)
    whole = semi.replies[3, 6]
    for what, members, comment in (("itself", [3], "client 3 says that it cannot open its own pair"),
                                   ("no_holder", [8], "client 8, whose pair cannot be opened, did not share")):
        add_one(f"S15_{what}", 3, encode(6, session_id=whole[2:34], unopened=semi.set(members), masked=whole[-13:])
                if what == "itself" else
                encode(6, session_id=absent.replies[3, 6][2:34], unopened=absent.set(members),
                       masked=absent.replies[3, 6][-4:]),
                comment, MASK, session=semi if what == "itself" else absent)
    add_one("S09_unused_bits", 3, semi.replies[3, 6][:-1] + u8(semi.replies[3, 6][-1] | 128),
            "the highest of the four unused bits is set", MASK)
    add_one("S09_too_short", 3, encode(6, session_id=semi.server.session, unopened=semi.set([]),
                                       masked=semi.replies[3, 6][-13:-1]),
            "a byte is missing in the vector", MASK)
    for what, about, session in (("over_other_survivors", [2, 3, 5, 8], strict.server.session),
                                 ("of_another_session", ids, strict_other.server.session)):
        add_one(f"S10_signature_{what}", 3, encode(8, signature=strict.identity(3).sign(
                survivors_message(strict.config, session, about))), f"signature {what}", CHECK, session=strict)
    add_one("S10_signed_by_another_client", 3, strict.replies[2, 8], "client 2 signed for client 3", CHECK,
            session=strict)
    shares = semi.replies[3, 10][38:]
    add_one("S11_share_missing", 3, encode(10, session_id=semi.server.session, shares=shares[:-36]),
            "four shares for five holders", UNMASK)
    add_one("S11_limb_too_large", 3, encode(10, session_id=semi.server.session, shares=replace(shares, 4, u32(P))),
            "a limb of a share is p, which is no element of the field", UNMASK)
    earlier = Session("server, semi-honest, earlier", configure(ids, 3, 5, 20))
    add_one("S14_masked_input_of_another_session", 3, earlier.replies[3, 6],
            "client 3's masked input of another session", MASK)
    add_one("S14_shares_of_another_session", 3, earlier.replies[3, 10], "client 3's shares of another session", UNMASK)
    out["reject_S12_share_cannot_be_corrected"] = Session("S12", configure([1, 2, 3, 4, 5], 4, 4, 16), {MASK: [5]},
        lie({2: 5})).refused_at_the_end("four shares of client 5's mask key, threshold 4, one wrong: owner named",
                                        ("FaultyClientError", "S12", 5))
    out["reject_S13_share_cannot_be_corrected"] = Session("S13", configure([1, 2, 3, 4, 5], 4, 4, 16), {UNMASK: [5]},
        lie({2: 3})).refused_at_the_end("four shares of client 3's self seed, threshold 4, one wrong: owner named",
                                        ("FaultyClientError", "S13", 3))
    five = [1, 2, 3, 4, 5]
    out["reject_S16_sealed_for_too_few"] = Session("S16", configure(five, 4, 4, 16),
        tamper=seal_garbage({2: [1, 4]}, five)).refused_at_the_end(
        "two holders cannot open client 2's pair, three are left, the threshold is 4: client 2 is named",
        ("FaultyClientError", "S16", 2))
    out["reject_one_unopened_share_too_many"] = Session("one unopened", configure(five, 4, 4, 16), {MASK: [5]},
        tamper=seal_garbage({2: [1]}, five)).refused_at_the_end(
        "client 5 drops out and client 1 says that it cannot open client 2's pair: three holders are left, the "
        "threshold is 4; 1 or 2 may be at fault, nobody is named",
        ("TooFewSurvivorsError", None, None))
    out["reject_too_few_survivors"] = Session("too few", configure([1, 2, 3, 4, 5], 4, 4, 16), {MASK: [2, 5]}
        ).refused_at_the_end("three survivors, threshold 4: the session ends", ("TooFewSurvivorsError", None, None))
    return out


def directory_keys():
    def encoded(point, more=0): return (point[1] + more + (point[0] % 2 << 255)).to_bytes(32, "little")
    ours = [Ed25519PrivateKey.from_private_bytes(sha256(f"secagg vectors: directory key {i}".encode()))
            .public_key().public_bytes_raw() for i in range(2)]
    order_8 = point(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"))
    keys, low = {f"of_a_key_pair_{i}": key for i, key in enumerate(ours)}, order_8
    for i in range(1, 9):
        keys[f"low_order_{i}_times_a_point_of_order_8"] = encoded(low)
        if low[1] < 19:
            keys[f"low_order_{i}_times_a_point_of_order_8_y_plus_p"] = encoded(low, Q)
        low = plus(low, order_8)
    above = 2**255
    keys |= {name: value.to_bytes(32, "little") for name, value in {
        "x_0_with_the_sign_bit_y_1": 1 + above, "x_0_with_the_sign_bit_y_p_minus_1": Q - 1 + above,
        "x_0_with_the_sign_bit_y_p_plus_1": Q + 1 + above,
        "y_2_no_point": 2, "y_2_no_point_with_the_sign_bit": 2 + above, "y_p_plus_2_no_point": Q + 2,
        "y_3": 3, "y_3_with_the_sign_bit": 3 + above, "y_3_plus_p": Q + 3,
        "y_3_plus_p_with_the_sign_bit": Q + 3 + above,
        "all_bits_set": 2**256 - 1}.items()}
    keys |= {"no_bytes": b"", "31_bytes": ours[0][:31], "33_bytes": ours[0] + b"\0"}
    keys |= {"with_a_component_of_order_8": encoded(plus(point(ours[0]), order_8))}
    return {"protocol": "secagg", "version": 1, "comment": "which identity keys a directory may hold (section 2.2)",
            "config": {}, "inputs": {name: key.hex() for name, key in keys.items()},
            "result": {name: "accepted" if good_identity(key) else "refused" for name, key in keys.items()}}


def vectors():
    """{file name: vector} of all files in vectors/."""
    every = session_vectors() | client_rejects() | server_rejects() | {"directory_keys": directory_keys()}
    return {f"{name}.json": every[name] for name in sorted(every)}


def main():
    folder, fresh = HERE / "vectors", {name: dump(vector) for name, vector in vectors().items()}
    old = {path.name: path.read_text() for path in folder.glob("*.json")}
    differing = sorted(name for name in fresh.keys() | old.keys() if fresh.get(name) != old.get(name))
    if "--check" in sys.argv:
        sys.exit(f"differing: {differing}" if differing else 0)
    folder.mkdir(exist_ok=True)
    for name in differing:
        if name in fresh:
            (folder / name).write_text(fresh[name])
        else:
            (folder / name).unlink()
    print(f"{len(fresh)} vectors, {len(differing)} changed")


if __name__ == "__main__":
    main()
