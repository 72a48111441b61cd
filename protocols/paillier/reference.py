"""Reference of paillier, version 1: sums under an additively homomorphic key, with one key holder or with shares of it.

Written from README.md alone; comments name that page's sections. Plain integers and `pow`: readable, not fast and not
constant-time. `python reference.py` rewrites vectors/. With `--check` it only compares.
"""
import functools
import hashlib
import importlib.util
import json
import math
from pathlib import Path

HERE = Path(__file__).resolve().parent
MESSAGES = {m["kind"]: m for m in json.loads((HERE / "messages.json").read_text())["messages"]}
ENCRYPTED, DECRYPTION = "ENCRYPTED_INPUT_COLLECTION", "DECRYPTION"
MINIMUM_KEY_BITS, MAXIMUM_KEY_BITS = 2048, 16384


def load(protocol):
    spec = importlib.util.spec_from_file_location(protocol, HERE.parent / protocol / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# expand(seed, size), draw(seed, label, size), and sets of clients are those of secagg.
secagg, encoding = load("secagg"), load("encoding")
write, dump = encoding.write, encoding.dump
expand, draw, bitmap = secagg.expand, secagg.draw, secagg.bitmap


class Refused(Exception):  # noqa: N818
    def __init__(self, type, check=None, client_id=None, holder_id=None):
        super().__init__(type, check, client_id, holder_id)
        self.error = {"type": type, "check": check, "client_id": client_id, "holder_id": holder_id}
        self.error = {name: value for name, value in self.error.items() if value is not None}


# ---------------------------------------------------------------- notation (section 2)

def u8(x): return x.to_bytes(1, "little")
def u32(x): return x.to_bytes(4, "little")
def u64(x): return x.to_bytes(8, "little")
def label(name): return b"secfed/paillier/v1 " + name.encode()
def sha256(data): return hashlib.sha256(data).digest()
def number(data): return int.from_bytes(data, "little")
def cut(data, size): return [data[i:i + size] for i in range(0, len(data), size)]
def ciphertext_size(key, s): return -(-(s + 1) * key.key_bits // 8)
def plaintext_size(key, s): return -(-s * key.key_bits // 8)
def to_column(values, size): return b"".join(x.to_bytes(size, "little") for x in values)
def from_column(data, size): return [number(x) for x in cut(data, size)]


def product(factors, modulus):
    result = 1
    for x in factors:
        result = result * x % modulus
    return result


# ---------------------------------------------------------------- keys (section 3)

def demand_key(fact):
    if not fact:
        raise Refused("ConfigError", "P1")


class PublicKey:
    def __init__(self, key_bits, n, h, least=MINIMUM_KEY_BITS):
        demand_key(key_bits % 16 == 0 and least <= key_bits <= MAXIMUM_KEY_BITS)
        demand_key(n.bit_length() == key_bits and all(n % d for d in range(2, 1000)))
        demand_key(h == 0 or (1 < h < n - 1 and math.gcd(h, n) == 1))
        self.key_bits, self.n, self.h = key_bits, n, h

    def to_bytes(self):
        return u32(self.key_bits) + to_column([self.n, self.h], self.key_bits // 8)

    def key_id(self):
        return sha256(label("public key") + self.to_bytes())


def read_public_key(data, least=MINIMUM_KEY_BITS):
    key_bits = number(data[:4])
    demand_key(key_bits % 16 == 0 and least <= key_bits <= MAXIMUM_KEY_BITS and len(data) == 4 + key_bits // 4)
    return PublicKey(key_bits, *from_column(data[4:], key_bits // 8), least)


class PrivateKey:
    """`a` is (a_p, a_q), or (0, 0) if there is no subgroup."""

    def __init__(self, key_bits, p, q, a, h, least=MINIMUM_KEY_BITS):
        self.public = PublicKey(key_bits, p * q, h, least)
        demand_key(p.bit_length() == q.bit_length() == key_bits // 2 and math.gcd(p, q) == 1)
        demand_key(h == 0 or (p % 4 == q % 4 == 3 and math.gcd(p - 1, q - 1) == 2))
        demand_key(a == (0, 0) or 0 not in a)
        for a_p, prime in zip(a, (p, q), strict=True):
            demand_key(a_p == 0 or (a_p.bit_length() == 256 and (prime - 1) % a_p == 0 and pow(h, a_p, prime) == 1))
        self.p, self.q, self.a = p, q, a

    def to_bytes(self):
        key_bits = self.public.key_bits
        return (u32(key_bits) + to_column([self.p, self.q], key_bits // 16) + to_column(self.a, 32)
                + to_column([self.public.h], key_bits // 8))


def read_private_key(data, least=MINIMUM_KEY_BITS):
    key_bits, half = number(data[:4]), number(data[:4]) // 16
    demand_key(key_bits % 16 == 0 and least <= key_bits <= MAXIMUM_KEY_BITS and len(data) == 68 + 4 * half)
    p, q = from_column(data[4:4 + 2 * half], half)
    a, h = tuple(from_column(data[4 + 2 * half:][:64], 32)), number(data[68 + 2 * half:])
    return PrivateKey(key_bits, p, q, a, h, least)


# ---------------------------------------------------------------- encryption (section 4)

def powers(n, s):
    """N and M."""
    return n**(s + 1), n**s


def generator_power(n, s, m):
    """G(m)."""
    N, _ = powers(n, s)
    return sum(pow(m * n, k, N) * pow(math.factorial(k), -1, N) for k in range(s + 1)) % N


def logarithm(u, s, modulus):
    """log(u), modulo p^(s+1) or N."""
    return sum((-1)**(k - 1) * pow(u - 1, k, modulus) * pow(k, -1, modulus) for k in range(1, s + 1)) % modulus


def noise(key, s, kind, seed, count):
    """rho of plaintexts 0 to count - 1."""
    N, M = powers(key.n, s)
    size = {"full": key.key_bits // 8 + 16, "half": key.key_bits // 16, "short": 40}[kind]
    r = from_column(expand(seed, count * size), size)
    if kind == "full":
        return [pow(1 + x % (key.n - 1), M, N) for x in r]
    h_s = noise_base(key.h, key.n, s)
    return [pow(h_s, x, N) for x in r]


@functools.cache
def noise_base(h, n, s):
    N, M = powers(n, s)
    return pow(h, M, N)


def encrypt(key, s, kind, seed, plaintexts):
    N, _ = powers(key.n, s)
    rho = noise(key, s, kind, seed, len(plaintexts))
    return [generator_power(key.n, s, m) * x % N for m, x in zip(plaintexts, rho, strict=True)]


def decrypt(private, s, c):
    parts = []
    for p, q, a in ((private.p, private.q, private.a[0]), (private.q, private.p, private.a[1])):
        modulus, e = p**(s + 1), a or p - 1
        u = pow(c, e, modulus)
        if u % p != 1:              # full noise under a subgroup key
            e = p - 1
            u = pow(c, e, modulus)
        if u % p != 1:              # only if p is no prime
            raise Refused("DecryptionError", "K6")
        parts.append(logarithm(u, s, modulus) // p * pow(e * q, -1, p**s) % p**s)
    P, Q = private.p**s, private.q**s
    return parts[0] + P * ((parts[1] - parts[0]) * pow(P, -1, Q) % Q)


# ---------------------------------------------------------------- packing (section 5)

def entry_max(bound, modulus_bits):
    return 2 * bound if bound else 2**modulus_bits - 1


def layout(key_bits, s, largest, additions, length):
    """Bits of a slot, slots of a plaintext, number of plaintexts."""
    w = (largest * additions).bit_length()
    if w > 64:
        raise Refused("ConfigError")
    k = s * (key_bits - 1) // w
    return w, k, -(-length // k)


def to_entries(vector, bound, modulus_bits):
    if not bound:
        return vector
    signed = [x - 2**modulus_bits if x >= 2**(modulus_bits - 1) else x for x in vector]
    if not all(-bound <= x <= bound for x in signed):
        raise Refused("EncodingError")
    return [x + bound for x in signed]


def pack(entries, w, k):
    return [sum(x << j * w for j, x in enumerate(part)) for part in cut(entries, k)]


def unpack(plaintexts, w, k, length, largest):
    """The slot totals, or None: a bit beyond the slots, a total above `largest`, an unused slot that is not zero."""
    slots = [m >> j * w & 2**w - 1 for m in plaintexts for j in range(k)]
    good = all(m < 2**(k * w) for m in plaintexts) and max(slots) <= largest and not any(slots[length:])
    return slots[:length] if good else None


# ---------------------------------------------------------------- configuration (section 6)

def config_bytes(config):
    ids, weights, context = config["client_ids"], config["weights"], bytes.fromhex(config["context"])
    return b"".join([
        bytes.fromhex(config["key_id"]), u8(config["degree"]), u32(len(ids)), *map(u64, ids),
        u32(len(weights)), *map(u64, weights), u64(config["length"]), u8(config["modulus_bits"]), u64(config["bound"]),
        u32(config["minimum_cohort"]), u64(config["round"]), bytes.fromhex(config["model_hash"]),
        u32(len(context)), context])


def config_hash(config):
    return sha256(label("config") + config_bytes(config))


def session_id(config, nonce):
    return sha256(label("session") + config_hash(config) + nonce)


class Terms:
    """A configuration together with its key, and what follows from the two."""

    def __init__(self, config, key):
        ids, weights, bits = config["client_ids"], config["weights"], config["modulus_bits"]
        if not (config["key_id"] == key.key_id().hex() and 1 <= config["degree"] <= 7
                and 2 <= len(ids) <= 2**24 and ids == sorted(set(ids)) and ids[0] >= 1 and ids[-1] <= 2**63
                and len(weights) in (0, len(ids)) and all(1 <= x <= 2**32 for x in weights)
                and 1 <= config["length"] <= 2**32 and 1 <= bits <= 64 and 0 <= config["bound"] < 2**(bits - 1)
                and 2 <= config["minimum_cohort"] <= len(ids) and 0 <= config["round"] < 2**64
                and len(config["model_hash"]) == 64 and len(config["context"]) <= 2048):
            raise Refused("ConfigError")
        self.config, self.key, self.s, self.hash = config, key, config["degree"], config_hash(config)
        self.weight = dict(zip(ids, weights or [1] * len(ids), strict=True))
        self.entry_max = entry_max(config["bound"], bits)
        self.w, self.k, self.count = layout(
            key.key_bits, self.s, self.entry_max, sum(self.weight.values()), config["length"])
        self.N, self.M = powers(key.n, self.s)
        self.L, self.P = ciphertext_size(key, self.s), plaintext_size(key, self.s)
        if self.count * self.L >= 2**32:
            raise Refused("ConfigError")

    def unpack(self, plaintexts, survivors):
        """S9: the slot totals, or None."""
        largest = self.entry_max * sum(self.weight[u] for u in survivors)
        return unpack(plaintexts, self.w, self.k, self.config["length"], largest)

    def vector(self, totals, survivors):
        """The vector of sums (section 7, at its end)."""
        less = self.config["bound"] * sum(self.weight[u] for u in survivors)
        return [(total - less) % 2**self.config["modulus_bits"] for total in totals]

    def in_range(self, c): return 0 < c < self.N
    def coprime(self, c): return math.gcd(c, self.key.n) == 1


# ---------------------------------------------------------------- messages (section 7)

def encode(kind, **values):
    return u8(1) + u8(kind) + b"".join(
        (u32(len(values[f["name"]])) if f["length"] == "variable" else b"") + values[f["name"]]
        for f in MESSAGES[kind]["fields"])


def decode(data):
    """Kind and fields, or (None, None)."""
    if len(data) < 2 or data[0] != 1 or data[1] not in MESSAGES:
        return None, None
    at, got = 2, {}
    for field in MESSAGES[data[1]]["fields"]:
        size = field["length"]
        if size == "variable":
            if len(data) < at + 4:
                return None, None
            size, at = number(data[at:at + 4]), at + 4
        got[field["name"]], at = data[at:at + size], at + size
        if at > len(data):
            return None, None
    return (data[1], got) if at == len(data) else (None, None)


# ---------------------------------------------------------------- client (sections 7 and 8)

class Client:
    def __init__(self, config, key, seed, vector, kind):
        self.terms, self.seed, self.kind = Terms(config, key), seed, kind
        self.entries, self.done = to_entries(vector, config["bound"], config["modulus_bits"]), False

    def receive(self, data):
        terms, (kind, m) = self.terms, decode(data)
        if kind != 65:
            raise Refused("MalformedMessageError", "C1")
        if self.done:
            raise Refused("StageError", "C2")
        self.done = True
        if m["config_hash"] != terms.hash:
            raise Refused("FaultyServerError", "C3")
        plaintexts, noise_seed = pack(self.entries, terms.w, terms.k), draw(self.seed, "noise seed", 32)
        ciphertexts = encrypt(terms.key, terms.s, self.kind, noise_seed, plaintexts)
        return encode(66, session_id=session_id(terms.config, m["nonce"]), ciphertexts=to_column(ciphertexts, terms.L))


# ---------------------------------------------------------------- server (sections 7 and 8)

class Server:
    """`threshold_key` if the key is one; otherwise the only key holder has number 1."""

    def __init__(self, config, key, seed, kind, threshold_key=None):
        self.terms, self.seed, self.kind, self.threshold_key = Terms(config, key), seed, kind, threshold_key
        if threshold_key and threshold_key.s != self.terms.s:
            raise Refused("ConfigError")
        self.nonce = draw(seed, "nonce", 32)
        self.session, self.stage, self.accepted, self.result = session_id(config, self.nonce), ENCRYPTED, {}, None

    def open(self):
        request = encode(65, nonce=self.nonce, config_hash=self.terms.hash)
        return dict.fromkeys(self.terms.config["client_ids"], request)

    def senders(self):
        if self.stage == ENCRYPTED:
            return self.terms.config["client_ids"]
        return range(1, self.threshold_key.holders + 1) if self.threshold_key else [1]

    def expected(self):
        """Kind, column, and size of its integers and of the whole message."""
        terms = self.terms
        if self.stage == ENCRYPTED:
            return 66, "ciphertexts", terms.L, 38 + terms.count * terms.L
        if self.threshold_key:
            return 69, "partials", terms.L, 74 + terms.count * terms.L + self.threshold_key.response_size
        return 68, "plaintexts", terms.P, 38 + terms.count * terms.P

    def receive(self, sender, data):
        terms = self.terms

        def demand(check, fact):
            if not fact and self.stage == ENCRYPTED:
                raise Refused("FaultyClientError", check, client_id=sender)
            if not fact:
                raise Refused("FaultyKeyHolderError", check, holder_id=sender)

        expected, column, size, longest = self.expected()
        if self.stage == DECRYPTION and data[:2] == u8(1) + u8(66):
            return                              # late, and no fault
        demand("S1", sender in self.senders())
        kind, m = decode(data)
        demand("S2", len(data) <= longest and kind is not None)
        demand("S3", kind == expected)
        demand("S4", sender not in self.accepted)
        demand("S5", m["session_id"] == self.session)
        demand("S6", len(m[column]) == terms.count * size)
        values = from_column(m[column], size)
        if kind != 68:
            demand("S7", all(terms.in_range(c) for c in values))
            demand("S8", all(terms.coprime(c) for c in values))
        else:
            demand("S9", terms.unpack(values, self.survivors) is not None)
        if kind == 69:
            demand("S10", self.threshold_key.verify(
                self.session, sender, self.ciphertexts, values, m["challenge"], m["response"]))
        self.accepted[sender] = values

    def close(self):
        accepted, self.accepted = self.accepted, {}
        return self.after_collection(accepted) if self.stage == ENCRYPTED else self.after_decryption(accepted)

    def after_collection(self, accepted):
        terms = self.terms
        self.stage, self.survivors = DECRYPTION, sorted(accepted)
        if len(self.survivors) < terms.config["minimum_cohort"]:
            raise Refused("TooFewSurvivorsError")
        self.ciphertexts = [product([pow(accepted[u][i], terms.weight[u], terms.N) for u in self.survivors], terms.N)
                            for i in range(terms.count)]
        if terms.config["weights"]:
            zeros = encrypt(terms.key, terms.s, self.kind, draw(self.seed, "noise seed", 32), [0] * terms.count)
            self.ciphertexts = [c * x % terms.N for c, x in zip(self.ciphertexts, zeros, strict=True)]
        request = encode(67, nonce=self.nonce, config_hash=terms.hash, survivors=bitmap(terms.config, self.survivors),
                         ciphertexts=to_column(self.ciphertexts, terms.L))
        return dict.fromkeys(self.senders(), request)

    def after_decryption(self, accepted):
        if len(accepted) < (self.threshold_key.threshold if self.threshold_key else 1):
            raise Refused("TooFewSurvivorsError")
        plaintexts = self.threshold_key.combine(accepted) if self.threshold_key else accepted[1]
        totals = self.terms.unpack(plaintexts, self.survivors)
        if totals is None:              # only with a threshold key: S9 has looked at the others
            raise Refused("DecryptionError", "K6")
        self.result = {"sum": self.terms.vector(totals, self.survivors), "survivors": self.survivors}
        return {}


# ---------------------------------------------------------------- key holder (sections 7 and 8)

class KeyHolder:
    def __init__(self, config, private):
        self.terms, self.private, self.opened = Terms(config, private.public), private, None

    def receive(self, data):
        terms, (kind, m) = self.terms, decode(data)
        config, least = terms.config, terms.config["minimum_cohort"]

        def demand(check, fact):
            if not fact:
                raise Refused("DecryptionError" if check == "K6" else "FaultyServerError", check)

        ids = config["client_ids"]
        longest = 74 + (len(ids) + 7) // 8 + terms.count * terms.L
        if len(data) > longest or kind != 67:
            raise Refused("MalformedMessageError", "K1")
        demand("K2", m["config_hash"] == terms.hash)
        bits = number(m["survivors"])
        demand("K3", len(m["survivors"]) == (len(ids) + 7) // 8 and bits < 2**len(ids))
        survivors = [u for i, u in enumerate(ids) if bits >> i & 1]
        demand("K3", len(survivors) >= least)
        demand("K4", self.opened in (None, survivors))
        demand("K5", len(m["ciphertexts"]) == terms.count * terms.L)
        ciphertexts = from_column(m["ciphertexts"], terms.L)
        demand("K6", all(terms.in_range(c) and terms.coprime(c) for c in ciphertexts))
        self.opened = survivors         # it stays so even if the plaintexts are refused
        return self.answer(session_id(config, m["nonce"]), ciphertexts, survivors)

    def answer(self, session, ciphertexts, survivors):
        plaintexts = [decrypt(self.private, self.terms.s, c) for c in ciphertexts]
        if self.terms.unpack(plaintexts, survivors) is None:
            raise Refused("DecryptionError", "K6")
        return encode(68, session_id=session, plaintexts=to_column(plaintexts, self.terms.P))


class ShareHolder(KeyHolder):
    """A holder of a share of a threshold key."""

    def __init__(self, config, threshold_key, share, seed):
        self.terms, self.opened, self.seed = Terms(config, threshold_key.public), None, seed
        self.threshold_key, (self.i, self.s_i) = threshold_key, threshold_key.read_share(share)
        if threshold_key.s != self.terms.s:
            raise Refused("ConfigError")

    def answer(self, session, ciphertexts, survivors):
        key, L = self.threshold_key, self.terms.L
        partials, challenge, response = key.partial(session, self.i, self.s_i, ciphertexts, self.seed)
        return encode(69, session_id=session, partials=to_column(partials, L), challenge=challenge, response=response)


# ---------------------------------------------------------------- threshold key (section 9)

class ThresholdKey:
    """`bases` is v, then V_0 to V_(threshold-1)."""

    def __init__(self, public, s, holders, bases):
        v, *V = bases
        self.N, self.M = powers(public.n, s)
        demand_key(1 <= s <= 7 and 2 <= len(V) <= holders <= 64 and 2 * len(V) > holders)
        demand_key(all(0 < x < self.N and math.gcd(x, public.n) == 1 for x in bases))
        self.public, self.s, self.holders, self.threshold, self.v, self.V = public, s, holders, len(V), v, V
        self.D, self.L = math.factorial(holders), ciphertext_size(public, s)
        bits = (s + 1) * public.key_bits + self.D.bit_length()
        self.random_size, self.response_size = -(-(bits + 384) // 8), -(-(bits + 400) // 8)
        self.response_bits = bits + 400

    def to_bytes(self):
        return (self.public.to_bytes() + u8(self.s) + u32(self.holders) + u32(self.threshold)
                + to_column([self.v, *self.V], self.L))

    def share_bytes(self, i, s_i): return u32(i) + to_column([s_i], self.L)
    def v_to_share(self, i): return product([pow(x, i**k, self.N) for k, x in enumerate(self.V)], self.N)

    def read_share(self, data):
        i, s_i = number(data[:4]), number(data[4:])
        if len(data) != 4 + self.L or not 1 <= i <= self.holders or pow(self.v, s_i, self.N) != self.v_to_share(i):
            raise Refused("ConfigError", "H1")
        return i, s_i

    def batch(self, session, i, c, d):
        """C, E and v_i."""
        N, L = self.N, self.L
        seed = sha256(label("batch") + session + u32(i) + to_column(c, L) + to_column(d, L))
        e = from_column(expand(seed, 16 * len(c)), 16)
        C = product([pow(x, 4 * y, N) for x, y in zip(c, e, strict=True)], N)
        E = product([pow(x, 2 * y, N) for x, y in zip(d, e, strict=True)], N)
        return C, E, pow(self.v_to_share(i), self.D, N)

    def challenge(self, session, i, *numbers):
        """The hash of v and of v_i, C, E, A, B."""
        return sha256(label("proof") + self.public.key_id() + session + u32(i)
                      + to_column([self.v, *numbers], self.L))

    def partial(self, session, i, s_i, c, seed):
        """d, challenge and response."""
        d = [pow(x, 2 * self.D * s_i, self.N) for x in c]
        C, E, v_i = self.batch(session, i, c, d)
        r = number(draw(seed, "proof", self.random_size))
        challenge = self.challenge(session, i, v_i, C, E, pow(C, r, self.N), pow(self.v, r, self.N))
        response = r + number(challenge) * self.D * s_i
        return d, challenge, response.to_bytes(self.response_size, "little")

    def verify(self, session, i, c, d, challenge, response):
        N, e, z = self.N, number(challenge), number(response)
        if len(response) != self.response_size or z.bit_length() > self.response_bits:
            return False
        C, E, v_i = self.batch(session, i, c, d)
        A, B = pow(C, z, N) * pow(E, -e, N) % N, pow(self.v, z, N) * pow(v_i, -e, N) % N
        return self.challenge(session, i, v_i, C, E, A, B) == challenge

    def combine(self, partials):
        """{holder: d} of at least `threshold` holders -> plaintexts."""
        S = sorted(partials)[:self.threshold]
        n, plaintexts = self.public.n, []
        for j in range(len(partials[S[0]])):
            u = product([pow(partials[i][j], 2 * self.lagrange(S, i), self.N) for i in S], self.N)
            if u % n != 1:
                raise Refused("DecryptionError", "K6")
            log = logarithm(u, self.s, self.N)
            plaintexts.append(log // n * pow(4 * self.D**2, -1, self.M) % self.M)
        return plaintexts

    def lagrange(self, group, i):
        """l_i; the division has no remainder."""
        others = [j for j in group if j != i]
        return self.D * math.prod(others) // math.prod(j - i for j in others)


def read_threshold_key(data, least=MINIMUM_KEY_BITS):
    size = 4 + number(data[:4]) // 4
    demand_key(len(data) >= size + 9)
    public, s = read_public_key(data[:size], least), data[size]
    holders, threshold = number(data[size + 1:size + 5]), number(data[size + 5:size + 9])
    L = ciphertext_size(public, s)
    demand_key(2 <= threshold <= 64 and len(data) == size + 9 + (1 + threshold) * L)
    return ThresholdKey(public, s, holders, from_column(data[size + 9:], L))


def deal(private, s, holders, threshold, seed):
    """The threshold key and the shares by holder. How chance is drawn here is this file's own choice."""
    n, L = private.public.n, ciphertext_size(private.public, s)
    N, M = powers(n, s)
    m = (private.p - 1) // 2 * ((private.q - 1) // 2)
    d = m * pow(m, -1, M)
    f = [d] + [number(draw(seed, f"coefficient {k}", L + 16)) % (m * M) for k in range(1, threshold)]
    v = pow(number(draw(seed, "v", L + 16)) % N, 2, N)
    key = ThresholdKey(private.public, s, holders, [v, *(pow(v, a, N) for a in f)])
    return key, {i: sum(a * i**k for k, a in enumerate(f)) % (m * M) for i in range(1, holders + 1)}


# ================================================================ vectors (not part of the protocol)

# Primes for tests only, of insecure size (2048 bits once, but published here).
ORDINARY = (0xf5c234a89da7b826fe7ce74490b4977dce2c067b76c68d8a813cde5a1fd1ae0b,
            0xf81832d2524292a8f74390d5263d78e3bfc94c03e52dfe4325ac34652fd179cf)
ANOTHER = (0xfa33a76eab009ed21b9058961be9c13498a98a59319aac4458d8c9a0e793824f,
           0xd8aac57f55d3df05eed3ec276ab13f74d1d49f21c8951df0a20b4fac5696e723)
LIBRARY = (0xf2c49c851bfce5e782b8f3bec500ec77cde46357394d1eef9f148a0eec106b19,  # both 1 modulo 4
           0xc9213baef9e5348ee44cf973db5c74333889fb9342e39b99df6aad55ceb2b1c5)
SAFE = (0xf09d9975880d52b16d3a658991ed7fe3ed79105df8fb553df31d94c7d45f9983,
        0xc7aac9201dfea56323e48138fec7f59b92d4861a7b04c0b5e34acbb96268fe4b)
SUBGROUP = (int("fb6980c4fbb6e2d91c5ac63fbfe1ad13e52cb79d8981b783b6b729126406158d"
                "c88496cb6ea6c74250cfc57e9a5104dc958a0ae7992cd95decc6cd5f6a67e4df", 16),
            int("f945601e7efefa6ca0a431ed7bfd96e7dafd230e903f4b561ba0e9d79a942eb6"
                "dfda22a7b95e24bcce52262ff9ca9a0fcded182b98ef880eadf38c01703a4297", 16),
            0xf9e00b8654e010e21deb65e6643d986c45fa8fcf2246b22b52b5a88de53d2007,
            0xb56ef0008309324eb69b7e68e1f514f0661d2bcef320a4d89ac51bf41c22a0bf)
FULL_SIZE = (int("d05f85f89ce004bba7e6a9a3855676aacedd8cfe31c9dcda5f8cb7bea4d16e8d"
                 "1654b61652d29c992913d4c9b9962cadf7f8f087357d1bc9def11fcefebb30fb"
                 "c639d32498cfe7a5173acf4b509b3568c1eb3088eb18ed05946e7f79244b1087"
                 "9b82302a1071eda0e415b697f6aad887f69fe68cc9b8161b5e1440b0cffd1dc7", 16),
             int("e74a34105239da2444104cf54250faaff404bb5cafeb847adb7b4c2ccee41edc"
                 "fd31e4f7d19f1473ac3b1962988e57530e1b2cbedbb87ee296738d1259407d61"
                 "0361ffc7156b2385ae0163a501444a16bbfb566e0c969d0c7089d1f167dd2d81"
                 "bdba8cf9e4e5f7784206275754756660f2bc1af5fdcbb17bc6410fe6a8a4d637", 16))
LEAST = 512         # key_bits that the parties of the vectors allow
TESTS_ONLY = "Tests only, insecure size."


def seed_of(name):
    return sha256(f"paillier vectors: {name}".encode())


def key_of_another_library(p, q):
    return PrivateKey((p * q).bit_length(), p, q, (0, 0), 0, LEAST)


def chinese(x_p, p, x_q, q):
    return (x_p + p * ((x_q - x_p) * pow(p, -1, q) % q)) % (p * q)


def make_key(p, q, a_p=0, a_q=0):
    x = number(expand(seed_of("unit"), (p * q).bit_length() // 8 + 16)) % (p * q)
    h = chinese(pow(x, (p - 1) // a_p, p), p, pow(x, (q - 1) // a_q, q), q) if a_p else -x * x % (p * q)
    return PrivateKey((p * q).bit_length(), p, q, (a_p, a_q), h, LEAST)


def make_vector(comment, config, **more):
    return {"protocol": "paillier", "version": 1, "comment": f"{comment}. {TESTS_ONLY}", "config": config} | more


def configure(key, ids, length, modulus_bits, **more):
    return {"key_id": key.key_id().hex(), "degree": 1, "client_ids": list(ids), "weights": [], "length": length,
            "modulus_bits": modulus_bits, "bound": 0, "minimum_cohort": 2, "round": 7,
            "model_hash": sha256(b"paillier vectors: model").hex(), "context": b"vectors".hex()} | more


def written(messages):
    return {str(u): data.hex() for u, data in messages.items()}


def expect(error, act):
    """That `act` is refused in this way."""
    got = None
    try:
        act()
    except Refused as refused:
        got = refused.error
    assert got == error, (got, error)


class Session:
    """One session, run and recorded. `dealt`: threshold key and shares; `silent`: who does not answer, clients by id,
    key holders as "key holder <number>"; `late`: clients whose response arrives a stage late; `tamper`: changes
    the replies of clients."""

    def __init__(self, name, config, private, noise=("half", "half"), dealt=None, silent=(), late=(), tamper=None):
        self.config, self.private, self.key, self.noise, self.dealt = config, private, private.public, noise, dealt
        ids, self.holders = config["client_ids"], range(1, dealt[0].holders + 1) if dealt else [1]
        parties = ["server", *map(str, ids)] + [f"key holder {i}" for i in self.holders if dealt]
        self.seeds = {party: seed_of(f"{name}: {party}") for party in parties}
        self.vectors = {u: self.some_vector(u) for u in ids}
        self.server, self.clients = self.new_server(), {u: self.new_client(u) for u in ids}
        self.holder = {i: self.new_holder(i) for i in self.holders}
        self.replies, self.answers, self.error = {}, {}, None
        requests = self.server.open()
        self.steps = [{"to": "server", "opens": True, "sends": written(requests)}]
        self.request = requests[ids[0]]
        try:
            for u in ids:
                if u not in silent:
                    reply = self.replies[u] = self.clients[u].receive(requests[u])
                    self.steps.append({"to": f"client {u}", "receives": requests[u].hex(), "replies": reply.hex()})
                if u not in (*silent, *late):
                    self.to_server(u, tamper(self, u, reply) if tamper else reply)
            requests = self.close(ENCRYPTED)
            self.decryption = requests[1]
            for u in late:
                self.to_server(u, self.replies[u])
            for i in requests:
                if f"key holder {i}" not in silent:
                    reply = self.answers[i] = self.holder[i].receive(requests[i])
                    self.steps.append({"to": f"key holder {i}", "receives": requests[i].hex(), "replies": reply.hex()})
                    self.to_server(i, reply)
            self.close(DECRYPTION)
        except Refused as refused:
            self.error = refused.error
        if self.error is None:
            weight, survivors = self.server.terms.weight, self.server.result["survivors"]
            right = [sum(weight[u] * self.vectors[u][i] for u in survivors) % 2**config["modulus_bits"]
                     for i in range(config["length"])]
            assert self.server.result["sum"] == right, name

    def some_vector(self, u):
        """Entries from the client's seed; the first two clients' first entries are the largest and the smallest."""
        largest, bits = entry_max(self.config["bound"], self.config["modulus_bits"]), self.config["modulus_bits"]
        entries = from_column(draw(self.seeds[str(u)], "vector input", 16 * self.config["length"]), 16)
        entries = [largest, 0, *entries][:len(entries)]
        return [(x % (largest + 1) - self.config["bound"]) % 2**bits for x in entries]

    def to_server(self, sender, data):
        self.steps.append({"to": "server", "from": sender, "receives": data.hex()})
        self.server.receive(sender, data)

    def close(self, stage):
        self.steps.append({"to": "server", "closes": stage})
        sends = self.server.close()
        self.steps[-1]["sends"] = written(sends)
        return sends

    def new_client(self, u):
        return Client(self.config, self.key, self.seeds[str(u)], self.vectors[u], self.noise[0])

    def new_server(self):
        return Server(self.config, self.key, self.seeds["server"], self.noise[1], self.dealt and self.dealt[0])

    def new_holder(self, i):
        if not self.dealt:
            return KeyHolder(self.config, self.private)
        key, shares = self.dealt
        return ShareHolder(self.config, key, key.share_bytes(i, shares[i]), self.seeds[f"key holder {i}"])

    def vector(self, comment, steps, **end):
        inputs = {"public_key": self.key.to_bytes().hex()}
        if self.dealt:
            key, shares = self.dealt
            inputs |= {"threshold_key": key.to_bytes().hex(),
                       "shares": {str(i): key.share_bytes(i, s_i).hex() for i, s_i in shares.items()}}
        else:
            inputs |= {"private_key": self.private.to_bytes().hex()}
        inputs |= {"noise": {"clients": self.noise[0], "server": self.noise[1]},
                   "vectors": {str(u): vector for u, vector in self.vectors.items()}}
        return make_vector(comment, self.config, seeds=written(self.seeds), inputs=inputs, steps=steps, **end)

    def accepted(self, comment):
        assert self.error is None, self.error
        return self.vector(comment, self.steps, result=self.server.result)

    def ends(self, comment, **error):
        """The session ends without a sum; the last step closes a stage."""
        assert self.error == error, self.error
        steps = [step for step in self.steps if step["to"] == "server"]
        return self.vector(comment, steps, error=error)

    def client_refuses(self, comment, check, *messages):
        """Client 1 answers all messages but the last."""
        u = self.config["client_ids"][0]
        client, steps = self.new_client(u), []
        type = {"C1": "MalformedMessageError", "C2": "StageError"}.get(check, "FaultyServerError")
        for data in messages[:-1]:
            steps.append({"to": f"client {u}", "receives": data.hex(), "replies": client.receive(data).hex()})
        expect({"type": type, "check": check}, lambda: client.receive(messages[-1]))
        steps.append({"to": f"client {u}", "receives": messages[-1].hex()})
        return self.vector(comment, steps, error={"type": type, "check": check})

    def holder_refuses(self, comment, check, *messages, decrypts=False):
        """Key holder 1 answers all messages but the last. `decrypts`: and decrypts that one."""
        holder, steps = self.new_holder(1), []
        type = {"K1": "MalformedMessageError", "K6": "DecryptionError"}.get(check, "FaultyServerError")
        for data in messages[:-1]:
            steps.append({"to": "key holder 1", "receives": data.hex(), "replies": holder.receive(data).hex()})
        before = holder.opened
        expect({"type": type, "check": check}, lambda: holder.receive(messages[-1]))
        assert (holder.opened == before) is not decrypts
        steps.append({"to": "key holder 1", "receives": messages[-1].hex()})
        return self.vector(comment, steps, error={"type": type, "check": check})

    def holder_opens(self, comment, *messages):
        holder = self.new_holder(1)
        steps = [{"to": "key holder 1", "receives": data.hex(), "replies": holder.receive(data).hex()}
                 for data in messages]
        return self.vector(comment, steps, result={"opened": holder.opened})

    def server_refuses(self, comment, check, stage, sender, data, after=()):
        """The server has what came before `stage`, then what the senders in `after` sent, then `data`."""
        server, steps, now = self.new_server(), [], None
        for step in [step for step in self.steps if step["to"] == "server"]:
            if now == stage and "closes" in step:
                break
            if now == stage and step["from"] not in after:
                continue
            if "opens" in step:
                server.open()
                now = ENCRYPTED
            elif "closes" in step:
                server.close()
                now = DECRYPTION
            else:
                server.receive(step["from"], bytes.fromhex(step["receives"]))
            steps.append(step)
        who = {"type": "FaultyClientError", "check": check, "client_id": sender}
        if stage == DECRYPTION:
            who = {"type": "FaultyKeyHolderError", "check": check, "holder_id": sender}
        before = dict(server.accepted)
        expect(who, lambda: server.receive(sender, data))
        assert server.accepted == before
        steps.append({"to": "server", "from": sender, "receives": data.hex()})
        return self.vector(comment, steps, error=who)


def changed(data, **values):
    """The same message with other fields."""
    kind, fields = decode(data)
    return encode(kind, **fields | values)


def replaced(column, size, at, value):
    """A column with another integer at a place."""
    parts = cut(column, size)
    return b"".join([*parts[:at], value.to_bytes(size, "little"), *parts[at + 1:]])


def vectors():
    """{file name: vector} of all files in vectors/."""
    keys = {"ordinary": make_key(*ORDINARY), "another": make_key(*ANOTHER), "safe_primes": make_key(*SAFE),
            "another_library": key_of_another_library(*LIBRARY), "subgroup": make_key(*SUBGROUP),
            "full_size": make_key(*FULL_SIZE)}
    dealt = {"2_of_3": deal(keys["safe_primes"], 1, 3, 2, seed_of("dealer of 2 of 3")),
             "3_of_4_degree_2": deal(keys["safe_primes"], 2, 4, 3, seed_of("dealer of 3 of 4"))}
    made = key_vectors(keys) | encrypt_vectors(keys) | pack_vectors() | config_vectors(keys)
    made |= threshold_vectors(dealt) | session_vectors(keys, dealt) | rejected_keys(keys, dealt)
    made |= rejected_messages(keys, dealt)
    return {f"{name}.json": made[name] for name in sorted(made)}


def key_vectors(keys):
    made = {}
    for name, private in keys.items():
        data, public = private.to_bytes(), private.public.to_bytes()
        assert read_private_key(data, LEAST).to_bytes() == data and read_public_key(public, LEAST).to_bytes() == public
        numbers = {"p": private.p, "q": private.q, "n": private.public.n, "h": private.public.h,
                   "a_p": private.a[0], "a_q": private.a[1]}
        made[f"key_{name}"] = make_vector(
            f"a key of {private.public.key_bits} bits: {name.replace('_', ' ')}", {"minimum_key_bits": LEAST},
            inputs={"public_key": public.hex(), "private_key": data.hex()},
            result={"key_bits": private.public.key_bits, "key_id": private.public.key_id().hex()}
            | {x: str(value) for x, value in numbers.items()})
    return made


def encrypt_vectors(keys):
    made = {}
    cases = [("ordinary", kind, s) for kind in ("full", "half", "short") for s in (1, 2, 3)] + [("ordinary", "half", 7)]
    cases += [("another_library", "full", 1)]
    cases += [("subgroup", kind, 1) for kind in ("full", "half", "short")] + [("subgroup", "half", 2)]
    for name, kind, s in cases:
        private, seed = keys[name], seed_of(f"noise of {name} {kind} {s}")
        _, M = powers(private.public.n, s)
        some = from_column(expand(seed_of(f"plaintexts {s}"), 2 * plaintext_size(private.public, s)),
                           plaintext_size(private.public, s))
        plaintexts = [0, 1, M - 1, *(x % M for x in some)]
        ciphertexts = encrypt(private.public, s, kind, seed, plaintexts)
        assert [decrypt(private, s, c) for c in ciphertexts] == plaintexts
        column = to_column(ciphertexts, ciphertext_size(private.public, s))
        comment = f"{kind} noise, degree {s}, {name} key; the private key decrypts the ciphertexts"
        if (name, kind) == ("subgroup", "full"):
            comment += ", with p - 1 and q - 1 because the noise is not in the subgroup"
        made[f"encrypt_{kind}_degree_{s}" + (name != "ordinary") * f"_{name}"] = make_vector(
            comment, {"degree": s, "noise": kind},
            inputs={"public_key": private.public.to_bytes().hex(), "private_key": private.to_bytes().hex(),
                    "noise_seed": seed.hex(), "plaintexts": [str(m) for m in plaintexts]},
            result={"ciphertexts": column.hex()})
    return made


def pack_vectors():
    made = {}
    for name, comment, key_bits, s, bits, bound, additions, length in (
            ("modulus_of_16_bits", "16 bits and 3 vectors: slots of 18 bits", 512, 1, 16, 0, 3, 30),
            ("bound", "entries from -1000 to 1000 modulo 2^16: slots of 12 bits", 512, 1, 16, 1000, 2, 15),
            ("bound_not_doubled", "a sum of 2^k - 1 exactly: the slot is k bits", 512, 1, 8, 1, 127 * 5, 5),
            ("slot_of_64_bits", "the widest slot", 512, 1, 62, 0, 4, 9),
            ("one_bit", "bits, 4 vectors", 512, 1, 1, 0, 4, 20),
            ("full_plaintext", "as many entries as a plaintext has slots", 512, 1, 16, 0, 3, 28),
            ("one_entry_more", "one entry more than a plaintext has slots", 512, 1, 16, 0, 3, 29),
            ("degree_3", "1533 bits for slots", 512, 3, 32, 0, 100, 12),
            ("full_size", "a key of 2048 bits", 2048, 1, 24, 0, 1000, 10)):
        largest = entry_max(bound, bits)
        w, k, count = layout(key_bits, s, largest, additions, length)
        entries = from_column(expand(seed_of(f"entries {name}"), 16 * length), 16)
        entries = [x % (largest + 1) for x in [largest, *entries][:length]]
        vector = [(x - bound) % 2**bits for x in entries]
        assert to_entries(vector, bound, bits) == entries
        plaintexts = pack(entries, w, k)
        assert len(plaintexts) == count and unpack(plaintexts, w, k, length, largest * additions) == entries
        made[f"pack_{name}"] = make_vector(
            comment, {"key_bits": key_bits, "degree": s, "modulus_bits": bits, "bound": bound, "additions": additions,
                      "length": length}, inputs={"vector": vector},
            result={"entries": entries, "slot_bits": w, "slots": k, "count": count,
                    "plaintexts": [str(m) for m in plaintexts]})
    return made


def config_vectors(keys):
    public, made, ids = keys["ordinary"].public, {}, [1, 2, 5]
    nonce = seed_of("nonce")

    def add_one(name, comment, **other):
        config = configure(public, ids, 30, 16) | other
        terms = Terms(config, public)
        made[f"config_{name}"] = make_vector(
            comment, config, inputs={"public_key": public.to_bytes().hex(), "nonce": nonce.hex()},
            result={"config_bytes": config_bytes(config).hex(), "config_hash": terms.hash.hex(),
                    "session_id": session_id(config, nonce).hex(), "slot_bits": terms.w, "slots": terms.k,
                    "count": terms.count})

    add_one("plain", "three clients")
    add_one("weights_and_bound", "public weights and a bound", weights=[3, 1, 2**32], bound=1000)
    add_one("extremes", "the largest id, degree and round, no context, no model", client_ids=[1, 2**63], degree=7,
            round=2**64 - 1, context="", model_hash="00" * 32, modulus_bits=63)
    bad = {"degree_0": {"degree": 0}, "degree_8": {"degree": 8}, "one_client": {"client_ids": [1]},
           "ids_not_ascending": {"client_ids": [2, 1, 5]}, "id_twice": {"client_ids": [1, 1, 5]},
           "id_0": {"client_ids": [0, 1, 5]}, "id_too_large": {"client_ids": [1, 2, 2**63 + 1]},
           "weight_missing": {"weights": [1, 2]}, "weight_0": {"weights": [1, 0, 2]},
           "weight_too_large": {"weights": [1, 2, 2**32 + 1]}, "length_0": {"length": 0},
           "column_too_long": {"length": 2**32},
           "modulus_of_65_bits": {"modulus_bits": 65}, "slot_of_65_bits": {"modulus_bits": 63},
           "bound_too_large": {"bound": 2**15}, "minimum_cohort_1": {"minimum_cohort": 1},
           "minimum_cohort_4": {"minimum_cohort": 4}, "context_too_long": {"context": "00" * 1025},
           "another_key": {"key_id": keys["another"].public.key_id().hex()}}
    for name, other in bad.items():
        config = configure(public, ids, 30, 16) | other
        expect({"type": "ConfigError"}, lambda config=config: Terms(config, public))
        made[f"reject_config_{name}"] = make_vector(f"no configuration: {name.replace('_', ' ')}", config,
                                                    inputs={"public_key": public.to_bytes().hex()},
                                                    error={"type": "ConfigError"})
    config = configure(public, ids, 2, 16, bound=1000)
    for name, x in (("above_the_bound", 1001), ("below_minus_the_bound", 2**16 - 1001)):
        vector = [1000, x]
        expect({"type": "EncodingError"},
               lambda vector=vector: Client(config, public, seed_of("client"), vector, "half"))
        made[f"reject_entry_{name}"] = make_vector(
            f"an entry {name.replace('_', ' ')}", config,
            inputs={"public_key": public.to_bytes().hex(), "vectors": {"1": vector}}, error={"type": "EncodingError"})
    return made


def threshold_vectors(dealt):
    made = {}
    for name, (key, shares) in dealt.items():
        session, seed = seed_of(f"session {name}"), seed_of(f"noise {name}")
        plaintexts = [0, 1, key.M - 1, number(expand(seed, 2 * key.L)) % key.M]
        c = encrypt(key.public, key.s, "full", seed, plaintexts)
        seeds = {f"key holder {i}": seed_of(f"{name}: key holder {i}") for i in shares}
        partial, answers = {}, {}
        for i, s_i in shares.items():
            assert key.read_share(key.share_bytes(i, s_i)) == (i, s_i)
            d, challenge, response = key.partial(session, i, s_i, c, seeds[f"key holder {i}"])
            assert key.verify(session, i, c, d, challenge, response)
            partial[i] = d
            answers[str(i)] = {"partials": to_column(d, key.L).hex(), "challenge": challenge.hex(),
                               "response": response.hex()}
        groups = [[i for i in shares if i in group] for group in subsets(list(shares), key.threshold)]
        combined = [{"holders": group, "plaintexts": [str(m) for m in key.combine({i: partial[i] for i in group})]}
                    for group in groups]
        assert all(one["plaintexts"] == [str(m) for m in plaintexts] for one in combined)
        assert read_threshold_key(key.to_bytes(), LEAST).to_bytes() == key.to_bytes()
        made[f"threshold_{name}"] = make_vector(
            f"{key.threshold} of {key.holders} holders, degree {key.s}: partial decryptions of a column, their proofs, "
            "and what every group of holders combines", {"minimum_key_bits": LEAST}, seeds=written(seeds),
            inputs={"threshold_key": key.to_bytes().hex(),
                    "shares": {str(i): key.share_bytes(i, s_i).hex() for i, s_i in shares.items()},
                    "session_id": session.hex(), "ciphertexts": to_column(c, key.L).hex()},
            result={"answers": answers, "combined": combined})
    return made


def subsets(items, size):
    if size == 0:
        return [[]]
    return [[x, *rest] for i, x in enumerate(items) for rest in subsets(items[i + 1:], size - 1)]


def session_vectors(keys, dealt):
    private, made = keys["ordinary"], {}
    key, safe = private.public, keys["safe_primes"]

    def add_one(name, comment, config, private=private, **more):
        made[f"session_{name}"] = Session(name, config, private, **more).accepted(comment)

    ids = [1, 2, 5]
    plain = configure(key, ids, 30, 16)
    add_one("plain", "three clients, 30 entries in two plaintexts", plain)
    add_one("dropout", "client 2 does not answer; four clients", configure(key, [1, 2, 5, 9], 10, 16), silent=[2])
    add_one("late_response", "client 2's response arrives a stage late and is ignored", plain, late=[2])
    add_one("bound", "signed entries from -1000 to 1000", plain | {"bound": 1000, "modulus_bits": 24}, silent=[5])
    add_one("weights", "public weights: the server adds its own noise", plain | {"weights": [3, 1, 500]})
    add_one("weights_bound_dropout", "weights, a bound, and client 2 does not answer",
            configure(key, [1, 2, 5, 2**63], 6, 32, weights=[2**32, 7, 1, 3], bound=70000), silent=[2])
    add_one("wide_slots", "62 bits and four vectors: slots of 64 bits", configure(key, [1, 2, 3, 4], 9, 62))
    add_one("degree_2", "degree 2", plain | {"degree": 2})
    add_one("degree_3", "degree 3", plain | {"degree": 3})
    add_one("full_noise", "full noise of clients and server, with weights", plain | {"weights": [2, 3, 4]},
            noise=("full", "full"))
    subgroup = configure(keys["subgroup"].public, ids, 10, 32)
    add_one("subgroup_short_noise", "a subgroup key and short noise", subgroup, keys["subgroup"],
            noise=("short", "short"))
    add_one("subgroup_full_noise", "a subgroup key decrypts full noise too", subgroup | {"weights": [1, 2, 3]},
            keys["subgroup"], noise=("full", "short"))
    shared = configure(safe.public, ids, 30, 16)
    add_one("threshold_2_of_3", "two of three holders of a share, number 2 does not answer", shared, safe,
            dealt=dealt["2_of_3"], silent=["key holder 2"])
    add_one("threshold_all_answer", "all three answer, the first two are combined; weights and a dropout",
            shared | {"weights": [5, 6, 7], "length": 5}, safe, dealt=dealt["2_of_3"], silent=[1])
    add_one("threshold_late_response", "client 2's response arrives a stage late; holder 2 answers nevertheless",
            shared | {"length": 5}, safe, dealt=dealt["2_of_3"], late=[2])
    add_one("threshold_3_of_4_degree_2", "three of four holders, degree 2",
            shared | {"degree": 2, "length": 5}, safe, dealt=dealt["3_of_4_degree_2"], silent=["key holder 1"])
    add_one("full_size", "a key of 2048 bits", configure(keys["full_size"].public, [1, 2, 3], 8, 32),
            keys["full_size"], noise=("full", "full"))
    return made


def rejected_keys(keys, dealt):
    private, subgroup, made = keys["ordinary"], keys["subgroup"], {}
    p, q, n, h, bits = private.p, private.q, private.public.n, private.public.h, private.public.key_bits

    def add_one(what, comment, reader, field, data, least=LEAST, check="P1", **more):
        error = {"type": "ConfigError", "check": check}
        expect(error, lambda: reader(data, least))
        made[f"reject_{check}_{what}"] = make_vector(comment, {"minimum_key_bits": least},
                                                     inputs={**more, field: data.hex()}, error=error)

    def public(what, comment, n=n, h=h, bits=bits, least=LEAST):
        data = u32(bits) + to_column([n, h], bits // 8)
        add_one(what, comment, read_public_key, "public_key", data, least)

    def unlucky(start, good):
        return next(x for x in range(start, start + 10**6) if good(x))

    def sieved(x): return all(x % d for d in range(2, 1000))

    public("key_bits_no_multiple_of_16", "key_bits is 520", unlucky(2**519 + 1, sieved), bits=520)
    public("too_few_key_bits", "512 bits where 2048 are needed", least=2048)
    public("too_many_key_bits", "16400 bits", unlucky(2**16399 + 1, sieved), 4, 16400)
    public("n_too_short", "n has 511 bits", unlucky(2**510 + 1, sieved), 4)
    public("n_shorter_by_16_bits", "n has 496 bits where 512 are declared", unlucky(2**495 + 1, sieved), 4)
    public("n_even", "n is even", unlucky(n + 1, lambda x: x % 2 == 0 and sieved(x // 2)), 3)
    public("n_has_a_small_factor", "997 divides n", 997 * unlucky(2**511 // 997 + 1, sieved))
    for what, value in (("h_is_1", 1), ("h_is_n_minus_1", n - 1), ("h_is_n_plus_4", n + 4)):
        public(what, what.replace("_", " "), h=value)
    public("h_has_a_factor_of_n", "h is p", h=p)
    data = private.public.to_bytes()
    add_one("public_key_truncated", "a byte is missing", read_public_key, "public_key", data[:-1])
    add_one("public_key_trailing_byte", "a byte too many", read_public_key, "public_key", data + b"\0")
    add_one("public_key_of_3_bytes", "no room for key_bits", read_public_key, "public_key", data[:3])
    add_one("private_key_for_a_public_one", "the length does not fit", read_public_key, "public_key",
            private.to_bytes())

    def secret(what, comment, p=p, q=q, a=(0, 0), h=h, bits=bits):
        data = u32(bits) + to_column([p, q], bits // 16) + to_column(a, 32) + to_column([h], bits // 8)
        add_one(f"private_{what}", comment, read_private_key, "private_key", data)

    data = private.to_bytes()
    add_one("private_truncated", "a byte is missing", read_private_key, "private_key", data[:-1])
    add_one("private_trailing_byte", "a byte too many", read_private_key, "private_key", data + b"\0")
    secret("p_too_short", "p has 240 bits", unlucky(2**239 + 1, lambda x: sieved(x) and x % 4 == 3
                                                    and math.gcd(x - 1, q - 1) == 2))
    secret("both_primes_too_short", "p and q have 248 bits", *(unlucky(
        2**247 + 2**246 + start, lambda x: sieved(x) and x % 4 == 3) for start in (1, 10**4)), h=4)
    secret("p_is_q", "p and q are the same", q=p)
    secret("p_is_1_modulo_4", "p = 1 mod 4", unlucky(p + 1, lambda x: sieved(x) and x % 4 == 1
                                                     and math.gcd(x - 1, q - 1) == 2))
    secret("q_is_1_modulo_4", "q = 1 mod 4", q=unlucky(q + 1, lambda x: sieved(x) and x % 4 == 1
                                                       and math.gcd(x - 1, p - 1) == 2))
    secret("common_factor", "3 divides p - 1 and q - 1",
           *(unlucky(x, lambda y: sieved(y) and y % 12 == 7) for x in (p, q)), h=4)
    secret("h_is_1", "h is 1", h=1)
    P, Q, (a_p, a_q), x = subgroup.p, subgroup.q, subgroup.a, subgroup.public.h
    more = {"p": P, "q": Q, "bits": subgroup.public.key_bits}
    cofactor = (P - 1) // (2 * a_p)
    assert cofactor.bit_length() == 256
    secret("a_p_does_not_divide", "a_p does not divide p - 1, although h^a_p = 1 mod p", a=(a_p + 2, a_q),
           h=chinese(1, P, x, Q), **more)
    secret("a_q_does_not_divide", "a_q does not divide q - 1, although h^a_q = 1 mod q", a=(a_p, a_q + 2),
           h=chinese(x, P, 1, Q), **more)
    secret("a_p_too_short", "a_p is 2", a=(2, a_q), h=chinese(P - 1, P, x, Q), **more)
    secret("h_outside_the_subgroup", "h^a_p is not 1 mod p", a=(a_p, a_q), h=chinese(4, P, x, Q), **more)
    secret("h_outside_the_other_subgroup", "h^a_q is not 1 mod q", a=(a_p, a_q), h=chinese(x, P, 4, Q), **more)
    secret("one_subgroup", "a_p without a_q", a=(a_p, 0), h=x, **more)

    key, shares = dealt["2_of_3"]
    public_size, L, data = len(key.public.to_bytes()), key.L, key.to_bytes()

    def threshold(what, comment, at=0, new=b"", data=data):
        data = data[:at] + new + data[at + len(new):]
        add_one(f"threshold_{what}", comment, read_threshold_key, "threshold_key", data)

    threshold("trailing_byte", "a byte too many", data=data + b"\0")
    threshold("truncated", "a byte is missing", data=data[:-1])
    threshold("degree_0", "degree 0", public_size, u8(0), data[:public_size + 9] + data[-3 * key.public.key_bits // 8:])
    threshold("threshold_1", "a threshold of 1", public_size + 5, u32(1), data[:-L])
    threshold("more_than_the_holders", "two of one", public_size + 1, u32(1))
    threshold("65_holders", "33 of 65 holders", public_size + 1, u32(65) + u32(33), data + 31 * data[-L:])
    threshold("two_groups", "two of four: two groups without a common holder", public_size + 1, u32(4))
    threshold("v_is_0", "v is 0", public_size + 9, bytes(L))
    threshold("V_1_too_large", "V_1 is N", len(data) - L, key.N.to_bytes(L, "little"))
    threshold("V_1_has_a_factor_of_n", "V_1 is n", len(data) - L, key.public.n.to_bytes(L, "little"))

    def share(what, comment, share):
        add_one(what, comment, lambda data, least: key.read_share(data), "share", share, check="H1",
                threshold_key=data.hex())

    share("share_of_another_holder", "holder 2's share for holder 1", key.share_bytes(1, shares[2]))
    share("wrong_share", "s_i is one too large", key.share_bytes(2, shares[2] + 1))
    share("holder_0", "there is no holder 0", key.share_bytes(0, shares[1]))
    fourth = (2 * shares[3] - shares[2]) % ((keys["safe_primes"].p - 1) * (keys["safe_primes"].q - 1) // 4 * key.M)
    assert pow(key.v, fourth, key.N) == key.v_to_share(4)
    share("holder_4_of_3", "a value of the polynomial, but there are three holders", key.share_bytes(4, fourth))
    share("truncated", "a byte is missing", key.share_bytes(1, shares[1])[:-1])
    share("trailing_byte", "a byte too many", key.share_bytes(1, shares[1]) + b"\0")
    return made


def rejected_messages(keys, dealt):
    made, private = {}, keys["ordinary"]
    key, ids = private.public, [1, 2, 5, 9]
    one = Session("rejected", configure(key, ids, 30, 16), private)
    other = Session("rejected, another nonce", one.config, private)
    shared = configure(keys["safe_primes"].public, [1, 2, 5], 5, 16)
    threshold = Session("rejected, threshold", shared, keys["safe_primes"], dealt=dealt["2_of_3"])
    dropout = Session("rejected, dropout", configure(key, ids, 5, 16), private, silent=[9])
    terms, L, P, N, n = one.server.terms, one.server.terms.L, one.server.terms.P, one.server.terms.N, key.n

    def add_one(refuses, name, comment, *args, **more):
        assert f"reject_{name}" not in made, name
        made[f"reject_{name}"] = refuses(comment, name.split("_")[0], *args, **more)

    def client(*args): add_one(one.client_refuses, *args)
    def holder(*args, session=one, **more): add_one(session.holder_refuses, *args, **more)
    def server(*args, session=one, **more): add_one(session.server_refuses, *args, **more)

    # clients
    request = one.request
    wrong_config = changed(request, config_hash=seed_of("another configuration"))
    client("C1_no_bytes", "no bytes", b"")
    client("C1_version", "a request of version 2", b"\2" + request[1:])
    client("C1_truncated", "the last byte is missing", request[:-1])
    client("C1_trailing_byte", "a byte after the last field", request + b"\0")
    client("C1_another_kind", "a request to the key holder", one.decryption)
    client("C1_before_C2", "no request, after an answer: the number of the check decides", request, request[:-1])
    client("C2_second_request", "the same request again", request, request)
    client("C2_request_with_another_nonce", "another request after an answer", request,
           changed(request, nonce=seed_of("nonce")))
    client("C2_before_C3", "a second request with another hash: the number of the check decides", request, wrong_config)
    client("C3_another_configuration", "the hash of another configuration", wrong_config)

    # server, stage ENCRYPTED_INPUT_COLLECTION
    reply, column = one.replies[2], decode(one.replies[2])[1]["ciphertexts"]

    def collected(name, comment, data, sender=2, **more): server(name, comment, ENCRYPTED, sender, data, **more)
    def with_column(column): return changed(reply, ciphertexts=column)

    collected("S1_unknown_client", "client 3 is not in the configuration", reply, 3)
    collected("S1_before_S2", "no bytes of client 3: the number of the check decides", b"", 3)
    collected("S2_no_bytes", "no bytes", b"")
    collected("S2_unknown_kind", "a message of kind 70", u8(1) + u8(70) + reply[2:])
    collected("S2_truncated", "the last byte is missing", reply[:-1])
    collected("S2_trailing_byte", "a byte after the last field", reply + b"\0")
    collected("S2_one_ciphertext_more", "longer than any response of this stage",
              with_column(column + column[:L]))
    collected("S2_before_S3", "a request without its last byte: the number of the check decides", request[:-1])
    collected("S2_version", "a response of version 2", b"\2" + reply[1:])
    collected("S3_before_S4", "a request after a response: the number of the check decides", request, after=(2,))
    collected("S3_request", "a request, which only servers send", request)
    collected("S3_later_stage", "the key holder's response a stage early", one.answers[1])
    collected("S4_second_response", "the same response again", reply, after=(2,))
    collected("S4_another_response", "another response of the same client", with_column(column[L:] + column[:L]),
              after=(1, 2))
    collected("S4_before_S5", "a second response, to another nonce: the number of the check decides", other.replies[2],
              after=(2,))
    collected("S5_before_S6", "no ciphertexts, for another nonce: the number of the check decides",
              changed(other.replies[2], ciphertexts=b""))
    collected("S5_another_session", "the response to another nonce", other.replies[2])
    collected("S6_ciphertext_missing", "one ciphertext of two", with_column(column[:L]))
    collected("S6_byte_missing", "a byte of the column is missing", with_column(column[:-1]))
    collected("S6_empty_column", "no ciphertexts", with_column(b""))
    for name, comment, x in (("S7_zero", "the second ciphertext is 0", 0), ("S7_N", "a ciphertext is N", N),
                             ("S7_all_bits", "all bits are set", 2**(8 * L) - 1),
                             ("S8_factor_p", "p divides a ciphertext", 2 * private.p), ("S8_n", "a ciphertext is n", n),
                             ("S8_multiple_of_n_squared", "a ciphertext is N - n", N - n)):
        collected(name, comment, with_column(replaced(column, L, 1, x)))
    collected("S7_before_S8", "the first ciphertext is n, the second 0: the number of the check decides",
              with_column(to_column([n, 0], L)))

    # server, stage DECRYPTION, one key holder
    answer, column = one.answers[1], decode(one.answers[1])[1]["plaintexts"]
    first, last = from_column(column, P)

    def decrypted(name, comment, data, sender=1, **more): server(name, comment, DECRYPTION, sender, data, **more)
    def with_plaintext(at, value): return changed(answer, plaintexts=replaced(column, P, at, value))

    partial, fields = threshold.answers[1], decode(threshold.answers[1])[1]
    decrypted("S1_no_key_holder", "there is one key holder, number 2 answers", answer, 2)
    decrypted("S1_before_S2_decryption", "no bytes of number 2: the number of the check decides", b"", 2)
    decrypted("S2_before_S3_decryption", "a request without its last byte", request[:-1])
    decrypted("S2_plaintexts_truncated", "the last byte is missing", answer[:-1])
    decrypted("S2_one_plaintext_more", "longer than any response", changed(answer, plaintexts=column + column[:P]))
    decrypted("S3_decryption_request", "a request, which only servers send", request)
    decrypted("S3_partial_decryption", "there are no shares of this key",
              encode(69, **fields | {"partials": b"", "response": b""}))
    decrypted("S4_second_decryption", "the same response again", answer, after=(1,))
    decrypted("S5_decryption_of_another_session", "the response to another nonce", other.answers[1])
    decrypted("S6_plaintext_missing", "one plaintext of two", changed(answer, plaintexts=column[:P]))
    decrypted("S9_bit_beyond_the_slots", "bit 504 of a plaintext of 28 slots of 18 bits",
              with_plaintext(0, first + 2**(terms.k * terms.w)))
    decrypted("S9_highest_bit", "the highest bit of a plaintext", with_plaintext(0, first + 2**(8 * P - 1)))
    decrypted("S9_total_too_large", "the last slot holds one more than four times the largest entry",
              with_plaintext(1, last % 2**terms.w + (4 * terms.entry_max + 1 << terms.w)))
    decrypted("S9_unused_slot", "the third slot of the second plaintext, where there are two entries",
              with_plaintext(1, last + 2**(2 * terms.w)))
    drop_answer, drop_column = dropout.answers[1], decode(dropout.answers[1])[1]["plaintexts"]
    low = number(drop_column) >> terms.w << terms.w
    decrypted("S9_total_too_large_for_the_survivors", "a total that four clients can have, but not three",
              changed(drop_answer, plaintexts=to_column([low + 3 * terms.entry_max + 1], P)), session=dropout)

    # server, stage DECRYPTION, holders of shares
    def shared_out(name, comment, data, sender=1, **more):
        decrypted(name, comment, data, sender, session=threshold, **more)
    def with_fields(**values): return changed(partial, **values)

    d, safe = number(fields["partials"]), dealt["2_of_3"][0]
    size, zeros = safe.response_size, {"partials": bytes(L)}
    shared_out("S1_holder_4_of_3", "there are three holders", partial, 4)
    shared_out("S2_partials_truncated", "the last byte is missing", partial[:-1])
    shared_out("S2_partials_too_long", "a byte more than any response", with_fields(response=bytes(size + 1)))
    shared_out("S3_decryption_of_a_threshold_key", "a decryption where partial decryptions are due",
               encode(68, session_id=fields["session_id"], plaintexts=bytes(P)))
    shared_out("S4_second_partial_decryption", "the same response again", partial, after=(1,))
    shared_out("S5_partials_of_another_session", "another session id", with_fields(session_id=seed_of("session")))
    shared_out("S6_no_partials", "an empty column", with_fields(partials=b""))
    shared_out("S7_partial_is_0", "a partial decryption is 0", with_fields(**zeros))
    shared_out("S7_partial_is_N", "a partial decryption is N", with_fields(partials=to_column([safe.N], L)))
    shared_out("S8_partial_is_n", "a partial decryption is n", with_fields(partials=to_column([safe.public.n], L)))
    shared_out("S10_another_partial", "twice the right value", with_fields(partials=to_column([2 * d % safe.N], L)))
    shared_out("S10_ciphertext_for_a_partial", "the ciphertext itself, as if the share were nothing", with_fields(
        partials=decode(threshold.decryption)[1]["ciphertexts"]))
    shared_out("S10_challenge", "a bit of the challenge is flipped", with_fields(
        challenge=bytes([fields["challenge"][0] ^ 1]) + fields["challenge"][1:]))
    shared_out("S10_response", "the response is one too large", with_fields(
        response=to_column([number(fields["response"]) + 1], size)))
    shared_out("S10_response_shorter", "the response is written in one byte less", with_fields(
        response=fields["response"][:-1]))
    order = (keys["safe_primes"].p - 1) * (keys["safe_primes"].q - 1) // 4 * safe.M
    long = (2**safe.response_bits // order + 1) * order + number(fields["response"])
    assert pow(safe.v, long, safe.N) == pow(safe.v, number(fields["response"]), safe.N)
    shared_out("S10_response_too_long", "a response that the equations accept, but of a bit too many",
               with_fields(response=to_column([long], size)))
    shared_out("S10_another_holder", "holder 2 sends what holder 1 has proved", partial, 2)

    # key holder
    asked, fields = one.decryption, decode(one.decryption)[1]
    column, accepted = fields["ciphertexts"], {u: from_column(decode(one.replies[u])[1]["ciphertexts"], L) for u in ids}
    assert L == safe.L

    def total_of(clients, nonce=b"", session=one):
        sums = [product([accepted[u][j] for u in clients], N) for j in range(terms.count)]
        return changed(asked, survivors=bitmap(session.config, clients), ciphertexts=to_column(sums, L),
                       **({"nonce": seed_of(nonce)} if nonce else {}))
    def with_survivors(survivors): return changed(asked, survivors=survivors)
    def with_sums(column): return changed(asked, ciphertexts=column)

    holder("K1_no_bytes", "no bytes", b"")
    holder("K1_version", "a request of version 2", b"\2" + asked[1:])
    holder("K1_truncated", "the last byte is missing", asked[:-1])
    holder("K1_trailing_byte", "a byte after the last field", asked + b"\0")
    holder("K1_another_kind", "a request to a client", request)
    holder("K2_before_K3", "another hash and no bitmap: the number of the check decides",
           changed(asked, config_hash=seed_of("another configuration"), survivors=b""))
    holder("K2_another_configuration", "the hash of another configuration",
           changed(asked, config_hash=seed_of("another configuration")))
    holder("K1_bitmap_too_long", "a byte too many, so that the message is longer than any request",
           with_survivors(b"\x0f\0"))
    holder("K1_one_ciphertext_more", "three ciphertexts of two: longer than any request",
           with_sums(column + column[:L]))
    holder("K3_empty_bitmap", "no bitmap", with_survivors(b""))
    holder("K3_bitmap_of_two_bytes", "a byte too many, in a message that is not too long",
           changed(asked, survivors=b"\x0f\0", ciphertexts=column[:L]))
    holder("K3_fifth_client", "a fifth bit for four clients", with_survivors(b"\x1f"))
    holder("K3_nobody", "an empty set", with_survivors(b"\0"))
    holder("K3_one_client", "the ciphertexts of a single client", total_of([2]))
    holder("K4_one_client_less", "four clients, then three: the difference is one client's vector", asked,
           total_of([1, 2, 5], "three"))
    holder("K4_one_client_more", "three clients, then four", total_of([1, 2, 9]), total_of(ids, "four"))
    holder("K4_half_of_the_clients", "four clients, then two: the difference is a sum of two, which does not help",
           asked, total_of([2, 9], "two"))
    holder("K4_nobody_in_common", "two clients, then the other two", total_of([1, 5]), total_of([2, 9], "two"))
    holder("K4_after_the_same_set_again", "the same set twice, then another", asked, total_of(ids, "again"),
           total_of([1, 2, 5], "three"))
    holder("K4_before_K5", "another set without ciphertexts: the number of the check decides", asked,
           changed(asked, survivors=bitmap(one.config, [1, 2, 5]), ciphertexts=b""))
    holder("K3_before_K4", "one client, after four: the number of the check decides", asked, total_of([2]))
    holder("K5_ciphertext_missing", "one ciphertext of two", with_sums(column[:L]))
    holder("K5_byte_missing", "a byte of the column is missing", with_sums(column[:-1]))
    [big] = encrypt(key, 1, "half", seed_of("big"), [2**(terms.k * terms.w)])
    [unused] = encrypt(key, 1, "half", seed_of("unused"), [2**(2 * terms.w)])
    [large] = encrypt(key, 1, "half", seed_of("large"), [4 * terms.entry_max + 1])
    for name, comment, x in (("zero", "a ciphertext is 0", 0), ("N", "a ciphertext is N", N),
                             ("factor_p", "p divides a ciphertext", 2 * private.p)):
        holder(f"K6_{name}", comment, with_sums(replaced(column, L, 1, x)))
    for name, comment, x in (("bit_beyond_the_slots", "the plaintext has a bit beyond its slots", big),
                             ("unused_slot", "an unused slot is not zero", unused),
                             ("total_too_large", "a total that four clients cannot have", large)):
        holder(f"K6_{name}", comment, with_sums(replaced(column, L, 1, x)), decrypts=True)
    holder("K2_of_a_share", "a holder of a share makes the same checks", changed(
        threshold.decryption, config_hash=seed_of("another configuration")), session=threshold)
    holder("K3_of_a_share", "a holder of a share makes the same checks", changed(
        threshold.decryption, survivors=b"\1"), session=threshold)
    holder("K4_of_a_share", "a holder of a share makes the same checks", threshold.decryption, changed(
        threshold.decryption, survivors=b"\3"), session=threshold)
    holder("K5_of_a_share", "a holder of a share makes the same checks", changed(
        threshold.decryption, ciphertexts=bytes(L - 1)), session=threshold)
    holder("K6_of_a_share", "a holder of a share makes the same checks", changed(
        threshold.decryption, ciphertexts=to_column([safe.public.n], L)), session=threshold)

    # what a key holder opens more than once
    made["opened_same_set_again"] = one.holder_opens("the same set under another nonce", asked, total_of(ids, "again"))

    # sessions that end without a sum
    few = {"type": "TooFewSurvivorsError"}
    made["reject_too_few_survivors"] = Session("too few", one.config | {"minimum_cohort": 3}, private, silent=[1, 9]
        ).ends("two of four clients, three are needed", **few)
    made["reject_no_decryption"] = Session("no decryption", one.config, private, silent=["key holder 1"]
        ).ends("the key holder does not answer", **few)
    made["reject_too_few_partial_decryptions"] = Session(
        "too few partials", shared, keys["safe_primes"], dealt=dealt["2_of_3"], silent=["key holder 1", "key holder 3"]
        ).ends("one of three holders answers, two are needed", **few)

    def too_large(session, u, reply):
        """Client 2 encrypts a bit beyond the slots."""
        terms = session.server.terms
        return reply if u != 2 else changed(reply, ciphertexts=to_column(encrypt(
            session.key, terms.s, "half", seed_of("too large"), [2**(terms.k * terms.w)]), terms.L))

    made["reject_K6_combined_plaintext"] = Session(
        "combined", shared, keys["safe_primes"], dealt=dealt["2_of_3"], tamper=too_large
        ).ends("the combination has a bit beyond its slots: no holder is to blame, one client is, unknown which",
               type="DecryptionError", check="K6")
    return made


if __name__ == "__main__":
    write(HERE / "vectors", vectors())
