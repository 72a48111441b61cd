"""Reference of aggregation, version 1: parameters of a transform, means, a private sum without noise, surplus noise,
noise.

README.md is its only source; comments name that page's sections. `python reference.py` rewrites vectors/. With
`--check` it only compares.
"""
import bisect
import collections
import decimal
import functools
import hashlib
import importlib.util
import itertools
import json
import math
import struct
from fractions import Fraction
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

HERE = Path(__file__).resolve().parent
MESSAGES = {m["name"]: m for m in json.loads((HERE / "messages.json").read_text())["messages"]}
MEAN, SUM = "WeightedMeanParameters", "PrivateSumParameters"
COMPRESSED, SCALED = "CompressedParameters", "ScaledMeanParameters"
ARRAYS = "ArrayClipsParameters"
RANDOM_K, ROTATION, LOW_RANK = 1, 2, 3
REQUEST, RESPONSE = "SurplusNoiseRequest", "SurplusNoiseResponse"
# What the bytes of messages.json mean; fields that are not here stay bytes.
NUMBERS = {"bits": "B", "modulus_bits": "B", "mechanism": "B", "clients": "I", "threshold": "I", "colluders": "I",
           "kept": "I", "values": "Q", "max_weight": "Q", "clip": "d", "clip_norm": "d", "weight_cap": "d",
           "count_scale": "d", "divisor": "d", "step": "d", "noise_variance": "d"}
DISCRETE_GAUSSIAN = 1
ERRORS = {"T1": "MalformedMessageError", "N1": "MalformedMessageError", "N4": "StageError", "M": "FaultyClientError"}


def load(protocol):
    spec = importlib.util.spec_from_file_location(protocol, HERE.parent / protocol / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


encoding = load("encoding")
dump = encoding.dump


# ================================================================ section 1: messages

def to_bytes(name, fields):
    data = bytes([1, MESSAGES[name]["kind"]])
    for field in MESSAGES[name]["fields"]:
        value = fields[field["name"]]
        if field["name"] in NUMBERS:
            value = struct.pack("<" + NUMBERS[field["name"]], value)
        elif field["name"] == "honest":
            value = struct.pack(f"<{len(value)}I", *value)
        elif field["name"] == "clips":
            value = struct.pack(f"<{len(value)}d", *value)
        elif field["name"] == "maps":
            value = b"".join(struct.pack("<BQ", *each) for each in value)
        elif field["name"] == "inner":
            value = to_bytes(inner_name(value), value)
        data += (struct.pack("<I", len(value)) if field["length"] == "variable" else b"") + value
    return data


def from_bytes(name, data):
    """The fields, or None if the bytes are no such message."""
    if data[:2] != bytes([1, MESSAGES[name]["kind"]]):
        return None
    fields, at = {}, 2
    for field in MESSAGES[name]["fields"]:
        size = field["length"]
        if size == "variable":
            size, at = int.from_bytes(data[at:at + 4], "little"), at + 4
        value, at = data[at:at + size], at + size
        if at > len(data):
            return None
        if field["name"] in NUMBERS:
            [value] = struct.unpack("<" + NUMBERS[field["name"]], value)
            if isinstance(value, float) and not 0 <= value < math.inf:
                return None
        elif field["name"] == "honest":
            if size % 4:
                return None
            value = [*struct.unpack(f"<{size // 4}I", value)]
        elif field["name"] == "clips":
            if size % 8:
                return None
            value = [*struct.unpack(f"<{size // 8}d", value)]
        elif field["name"] == "maps":
            if size % 9 or not 9 <= size <= 72:
                return None
            value = [[*each] for each in struct.iter_unpack("<BQ", value)]
        elif field["name"] == "inner":
            inside = (MEAN, SUM, SCALED) + ((COMPRESSED,) if name == ARRAYS else ())
            names = [own for own in inside if value[:2] == bytes([1, MESSAGES[own]["kind"]])]
            value = from_bytes(names[0], value) if names else None
            if value is None:
                return None
        fields[field["name"]] = value
    if name == SCALED:
        fields["scaled"] = True
    return fields if at == len(data) else None


def inner_name(f):
    """Which message has these fields: those of a scaled mean are those of a weighted mean, and are marked."""
    return COMPRESSED if "maps" in f else SUM if "clip_norm" in f else SCALED if f.get("scaled") else MEAN


# ================================================================ section 2: parameters

def transform_hash(name, fields):
    return hashlib.sha256(to_bytes(name, fields)).digest()


def length(name, f):
    if name in (COMPRESSED, ARRAYS):
        return length(inner_name(f["inner"]), f["inner"])
    if name == MEAN:
        return f["values"] + 1
    if name == SCALED:
        return f["values"] + digits(f)[1]
    own = f["values"] + (f["count_scale"] > 0)
    return encoding.blocks(own, f["rotation_seed"])[0] if f["rotation_seed"] else own


def session(name, f):
    """What the configuration of the session has to say."""
    if name == MEAN:
        context = encoding.context(f["clip"], f["bits"], f["max_weight"], f["values"])
        bits = encoding.modulus_bits(f["clip"], f["bits"], f["clients"], f["max_weight"])
    else:
        context = "secfed/aggregation/v1 " + transform_hash(name, f).hex()
        bits = (f["modulus_bits"] if name == SUM else scaled_bits(f) if name == SCALED else
                session(inner_name(f["inner"]), f["inner"])["modulus_bits"])
    return {"length": length(name, f), "modulus_bits": bits, "context": context}


def lattice(f):
    return encoding.lattice(f["step"], math.hypot(1.0, f["count_scale"] / 2), length(SUM, f))


def central_variance(f, noise_multiplier):
    """What the server adds with mechanism 0."""
    z = noise_multiplier * 1.000001
    return z * z * encoding.largest_square(**lattice(f)) + 2.25


def variances(total, honest):
    """Of the noise of one client, layer by layer."""
    return [total / honest[0]] + [total * (h - less) / (h * less) for h, less in itertools.pairwise(honest)]


def kept(f, survivors):
    """How many layers stay, or None if nothing may be unmasked."""
    honest = survivors - f["colluders"]
    return next((k for k, h in enumerate(f["honest"], 1) if honest >= h), None)


def flatten(update):
    if isinstance(update, dict):
        return [x for key in sorted(update) for x in flatten(update[key])]
    return [x for part in update for x in flatten(part)] if isinstance(update, list) else [update]


def encode(f, update, weight, seed, shift=0.0):
    """Steps 1 to 5 and 7. `shift` is a relative error of norms, to see whether it matters."""
    flat = flatten(update)
    short = encoding.clip(flat, f["clip_norm"], shift)
    values = [x / f["clip_norm"] for x in short]
    if f["weight_cap"] > 0:
        values = [x * (min(weight, f["weight_cap"]) / f["weight_cap"]) for x in values]
    if f["count_scale"] > 0:
        values.append(f["count_scale"] / 2 if short == flat else -f["count_scale"] / 2)
    if f["rotation_seed"]:
        values = encoding.rotate({"size": len(values), "dtype": "float64"}, values, f["rotation_seed"])
    steps, _ = encoding.round_conditionally(lattice(f), values, seed, shift)
    return [q % 2 ** f["modulus_bits"] for q in steps]


# ================================================================ section 2.1: scaled mean

def scaled_bits(f):
    return encoding.modulus_bits(f["clip"], f["bits"], f["clients"], 1)


def digits(f):
    """Bits of a digit, and how many digits a weight has."""
    d = 0
    while f["clients"] * (2**(d + 1) - 1) < 2**(scaled_bits(f) - 1):
        d += 1
    count = 1
    while f["max_weight"] >= 2**(d * count):
        count += 1
    return d, count


def encode_scaled(f, values, weight, seed):
    factor, (d, count) = weight / f["max_weight"], digits(f)
    config = {"clip": f["clip"], "bits": f["bits"], "clients": f["clients"], "max_weight": 1}
    scaled = [min(max(x, -f["clip"]), f["clip"]) * factor for x in values]
    return encoding.encode(config, scaled, 1, seed)[:-1] + [weight >> d * j & 2**d - 1 for j in range(count)]


# ================================================================ section 2.2: compression

def map_seed(seed, number):
    return hashlib.sha256(b"secfed/encoding/v1 map" + struct.pack("<I", number) + seed).digest()


def size_of(shapes):
    return sum(math.prod(shape) for shape in shapes)


def matrix_of(shape):
    return shape[0], math.prod(shape[1:])


def shrinks(shape, rank):
    return len(shape) > 1 and math.prod(shape) > 0 and max(matrix_of(shape)) > rank


def low_rank_shape(shape, rank):
    if not shrinks(shape, rank):
        return shape
    m, n = matrix_of(shape)
    return [m, rank] if n >= m else [rank, n]


def shapes_after(shapes, code, number):
    if code == RANDOM_K:
        return [[number]]
    if code == ROTATION:
        return [[encoding.blocks(size_of(shapes), bytes(32))[0]]]
    return [low_rank_shape(shape, number) for shape in shapes]


def orthonormal_rows(count, size, seed):
    """Gram and Schmidt, twice, which is enough for binary64."""
    words = struct.unpack(f"<{count * size}I", encoding.expand(seed, 4 * count * size))
    rows = []
    for j in range(count):
        row = [word - (2.0**32 - 1) / 2 for word in words[j * size:(j + 1) * size]]
        for other in rows * 2:
            along = math.fsum(x * y for x, y in zip(row, other, strict=True))
            row = [x - along * y for x, y in zip(row, other, strict=True)]
        norm = math.sqrt(math.fsum(x * x for x in row))
        rows.append([x / norm for x in row])
    return rows


def compress_once(values, shapes, code, number, seed):
    if code == RANDOM_K:
        words = struct.unpack(f"<{len(values)}Q", encoding.expand(seed, 8 * len(values)))
        return [values[i] for i in sorted(sorted(range(len(values)), key=lambda i: (words[i], i))[:number])]
    if code == ROTATION:
        return encoding.rotate({"size": len(values), "dtype": "float64"}, values, seed)
    out, at = [], 0
    for place, shape in enumerate(shapes):
        part, at = values[at:at + math.prod(shape)], at + math.prod(shape)
        if shrinks(shape, number):
            m, n = matrix_of(shape)
            rows = orthonormal_rows(number, max(m, n), map_seed(seed, place))
            if n >= m:
                part = [math.fsum(part[i * n + j] * row[j] for j in range(n)) for i in range(m) for row in rows]
            else:
                part = [math.fsum(part[i * n + j] * row[i] for i in range(m)) for row in rows for j in range(n)]
        out += part
    return out


def compress(f, values, shapes):
    for number, (code, parameter) in enumerate(f["maps"]):
        values = compress_once(values, shapes, code, parameter, map_seed(f["seed"], number))
        shapes = shapes_after(shapes, code, parameter)
    return values


def encode_mean(name, f, values, shapes, weight, seed):
    """A weighted or scaled mean, compressed or not, with one clip or one for each array."""
    if name == ARRAYS:
        values = [x / clip for part, clip in zip(cut(values, shapes), f["clips"], strict=True) for x in part]
        return encode_mean(inner_name(f["inner"]), f["inner"], values, shapes, weight, seed)
    if name == COMPRESSED:
        inner = f["inner"]
        return encode_mean(inner_name(inner), inner, compress(f, values, shapes), None, weight, seed)
    if name == SCALED:
        return encode_scaled(f, values, weight, seed)
    return encoding.encode({x: f[x] for x in ("clip", "bits", "clients", "max_weight")}, values, weight, seed)


# ================================================================ section 2.3: a clip for each array

def cut(values, shapes):
    parts, at = [], 0
    for shape in shapes:
        parts, at = [*parts, values[at:at + math.prod(shape)]], at + math.prod(shape)
    return parts


def whole_norm(clips):
    return math.sqrt(math.fsum(clip * clip for clip in clips))


def encode_private_arrays(f, values, shapes, weight, seed, shift=0.0):
    """A private sum without noise. `shift` is a relative error of norms, to see whether it matters."""
    parts = zip(cut(values, shapes), f["clips"], strict=True)
    return encode(f["inner"], [encoding.clip(part, clip, shift) for part, clip in parts], weight, seed, shift)


# ================================================================ section 3: checks of a client before the session

def possible(name, f):
    """Numbers that a transform can have."""
    try:
        if name in (MEAN, SCALED):
            return session(name, f) is not None and f["max_weight"] < (2**53 if name == SCALED else 2**64)
        encoding.largest_square(**lattice(f))       # refuses a rotation seed of another length too
    except encoding.Refused:
        return False
    if not (1e-100 <= f["clip_norm"] <= 1e100 and f["mechanism"] <= 2):
        return False
    honest = f["honest"]
    falling = bool(honest) and honest[-1] >= 1 and all(a > b for a, b in itertools.pairwise(honest))
    noisy = 2 <= f["modulus_bits"] <= 64 and f["rotation_seed"] and f["noise_variance"] > 0 and falling
    return f["mechanism"] == 0 or bool(noisy)


def check_parameters(name, data, values, asked=None):
    """The first check of T1 to T5 that refuses the parameters, or None. `asked`: the privacy, for a private sum."""
    f = from_bytes(name, data)
    if f is None or not possible(name, f):
        return "T1"
    if f["values"] != values:
        return "T2"
    if name in (MEAN, SCALED):
        return None
    clip = f["clip_norm"] == asked["clip_norm"] or asked["adaptive"]
    if not clip or f["weight_cap"] != asked["weight_cap"] or (f["count_scale"] > 0) != asked["adaptive"]:
        return "T3"
    if f["mechanism"] != asked["mechanism"]:
        return "T4"
    h, total, z = f["honest"], f["noise_variance"], asked["noise_multiplier"]
    if f["mechanism"] == 0:
        return None
    if (h[-1] != f["threshold"] - f["colluders"] or f["colluders"] < asked["colluders"] or
            f["threshold"] < asked["fewest_survivors"] or len(h) > asked["layers"]):
        return "T4"
    square, least = encoding.largest_square(**lattice(f)), math.log(20 * length(SUM, f) * f["clients"] * len(h) / 1e-9)
    if (total < z * z * square + 2.25 or
            (f["mechanism"] == DISCRETE_GAUSSIAN and total * min(variances(1.0, h)) < least / math.pi ** 2)):
        return "T5"
    return None


def check_compressed(data, shapes, wanted):
    """The check that refuses the parameters of a compressed mean; `wanted`: the maps that the client insists on."""
    f = from_bytes(COMPRESSED, data)
    if f is None or any(not RANDOM_K <= code <= LOW_RANK for code, _ in f["maps"]):
        return "T1"
    if f["values"] != size_of(shapes):
        return "T2"
    maps, own = [], shapes
    for code, x in wanted:      # x: the fraction of random-k, the rank of low rank, 0
        maps.append([code, max(1, round(x * size_of(own))) if code == RANDOM_K else x])
        own = shapes_after(own, *maps[-1])
    if f["maps"] != maps:
        return "T7"
    name = inner_name(f["inner"])
    return check_parameters(name, to_bytes(name, f["inner"]), size_of(own))


def check_array_clips(data, shapes, clips, wanted=None, asked=None):
    """The check that refuses the parameters; `clips`, `wanted` maps and privacy are what the client insists on."""
    f = from_bytes(ARRAYS, data)
    if f is None or not f["clips"] or any(not 1e-100 <= clip <= 1e100 for clip in f["clips"]):
        return "T1"
    if len(f["clips"]) != len(shapes):
        return "T2"
    if f["clips"] != clips:
        return "T8"
    name, inner = inner_name(f["inner"]), to_bytes(inner_name(f["inner"]), f["inner"])
    if asked is not None:
        return check_parameters(SUM, inner, size_of(shapes), asked | {"clip_norm": whole_norm(clips)})
    if (name == COMPRESSED) != (wanted is not None):
        return "T1"
    if (f["inner"]["inner"] if wanted else f["inner"]).get("clip") != 1:
        return "T1"
    return check_compressed(inner, shapes, wanted) if wanted else check_parameters(name, inner, size_of(shapes))


def check_session(name, f, asked, configuration):
    if name == SUM and f["mechanism"] == 0:     # of this noise the client knows what it has to be
        f = f | {"clients": 0, "threshold": 0, "colluders": 0, "honest": [],
                 "noise_variance": central_variance(f, asked["noise_multiplier"])}
    return None if configuration == session(name, f) else "T6"


# ================================================================ section 4: stage SURPLUS_NOISE

class Holder:
    """A client after unmasking: it holds its seeds and knows how many survived."""

    def __init__(self, f, seeds, survivors):
        self.f, self.seeds, self.survivors = f, seeds, survivors

    def receive(self, data):
        """The check that refuses the request or None, and the answer."""
        request = from_bytes(REQUEST, data)
        if request is None:
            return "N1", None
        if self.seeds is None:
            return "N4", None
        seeds, self.seeds, own = self.seeds, None, transform_hash(SUM, self.f)
        if request["transform_hash"] != own:
            return "N2", None
        if request["kept"] < kept(self.f, self.survivors):
            return "N3", None
        given = b"".join(seeds[request["kept"]:])
        return None, to_bytes(RESPONSE, {"transform_hash": own, "seeds": given})


class Collector:
    """The server, which asks all survivors; `seeds` of the surplus layers by client."""

    def __init__(self, f, survivors):
        self.f, self.survivors, self.kept, self.seeds = f, survivors, kept(f, len(survivors)), {}

    def requests(self):
        if self.kept == len(self.f["honest"]):
            return {}
        request = to_bytes(REQUEST, {"transform_hash": transform_hash(SUM, self.f), "kept": self.kept})
        return dict.fromkeys(self.survivors, request)

    def receive(self, client, data):
        response = from_bytes(RESPONSE, data)
        if response is None:
            return "M1"
        if client not in self.requests():
            return "M2"
        size = 32 * (len(self.f["honest"]) - self.kept)
        if response["transform_hash"] != transform_hash(SUM, self.f) or len(response["seeds"]) != size:
            return "M3"
        self.seeds[client] = [response["seeds"][i:i + 32] for i in range(0, size, 32)]
        return None


# ================================================================ section 5: noise from a seed

GAUSSIAN, SKELLAM = "discrete_gaussian", "skellam"
DIGITS = decimal.Context(prec=110)
UNIT = 320               # bits behind the point of the weights of the discrete Gaussian


def words(seed, size):
    """The endless little-endian words of `size` bytes of keystream(seed)."""
    stream = Cipher(algorithms.AES(seed[:16]), modes.CTR(seed[16:32])).encryptor()
    while True:
        data = stream.update(bytes(4096))
        yield from (int.from_bytes(data[i:i + size], "little") for i in range(0, len(data), size))


def split(seed, n):
    data = encoding.expand(seed, 32 * n)
    return [data[i:i + 32] for i in range(0, len(data), 32)]


class GaussianWeights:
    """w(x) = exp(-x^2 / (2 v)) in units of 2^-320."""

    def __init__(self, v):
        self.v, self.reach = v, math.isqrt(math.floor(196 * v)) + 1

    def exp(self, exponent):
        quotient = DIGITS.divide(decimal.Decimal(exponent.numerator), decimal.Decimal(exponent.denominator))
        return int(DIGITS.multiply(DIGITS.exp(quotient), decimal.Decimal(2**UNIT)))

    def __call__(self, x):
        return self.exp(-x * x / (2 * self.v))

    def row(self, x, step, count):
        """Weights of x, x + step, ...: neighbors differ by a factor, and factors by exp(-step^2 / v)."""
        last, weight = self(x + step * (count - 1)), self(x)
        factor, change = self.exp(-step * (2 * x + step) / (2 * self.v)), self.exp(-step * step / self.v)
        made = [weight]
        for _ in range(count - 1):
            weight, factor = weight * factor >> UNIT, factor * change >> UNIT
            made.append(weight)
        assert abs(made[-1] - last) < 2**(UNIT - 240)    # what the roundings have added up to
        return made


class SkellamWeights:
    """w(x) = I_|x|(v) times a factor that is the same for all x."""

    def __init__(self, v):
        self.reach = math.isqrt(math.floor(225 * v)) + 49
        # Miller: I_(k-1) = I_(k+1) + 2 k I_k / v downward from a wrong start forgets the start. So far above the reach
        # the start is wrong by a part of 2^-250 at the reach.
        k, after, weight = self.reach + 6 * math.isqrt(math.ceil(v)) + 100, 0, 2**256
        self.made = [weight]
        while k > 0:
            after, weight, k = weight, after + 2 * k * weight * v.denominator // v.numerator, k - 1
            self.made.append(weight)
        self.made.reverse()

    def __call__(self, x):
        return self.made[abs(x)]

    def row(self, x, step, count):
        return self.made[x:x + step * count:step]


class Blocks:
    def __init__(self, law, v):
        self.s = next(s for s in itertools.count() if v <= 2**22 * 4**s)
        self.weight = weights = {GAUSSIAN: GaussianWeights, SKELLAM: SkellamWeights}[law](v)
        self.n = n = weights.reach >> self.s
        size = 1 << self.s
        # Block -1 holds -size to -1, block 0 holds 0 to size - 1.
        self.top = weights.row(1, size, n)[::-1] + weights.row(0, size, n)
        self.bottom = weights.row(size, size, n)[::-1] + weights.row(size - 1, size, n) if self.s else self.top
        sums = [*itertools.accumulate(self.top)]
        self.bounds = [(part << 208) // sums[-1] for part in sums[:-1]]
        self.heads = [min(bound, 2**208 - 1) >> 192 for bound in self.bounds]


blocks_of = functools.cache(Blocks)


def draw_part(law, v, size, seed, taken):
    """Numbers of one part. `taken` counts what happens."""
    blocks = blocks_of(law, v)
    s, n = blocks.s, blocks.n
    long = 8 if s > 16 else 4
    first, further, member, tail = (words(*x) for x in zip(split(seed, 4), (2, 8, long, 8), strict=True))
    samples = []
    while len(samples) < size:
        f = next(first)
        below, up_to = bisect.bisect_left(blocks.heads, f), bisect.bisect_right(blocks.heads, f)
        if below < up_to:
            taken["further"] += 1
            uniform = f << 192 | next(further) << 128 | next(further) << 64 | next(further)
            below = bisect.bisect_right(blocks.bounds, uniform)
        q = below - n
        if s == 0:
            samples.append(q)
            continue
        word = next(member)
        candidate, h = (q << s) + word % 2**s, word >> 8 * long - 16
        if h >= (blocks.bottom[below] << 16) // blocks.top[below]:
            taken["tail"] += 1
            if not keeps(blocks.weight(candidate), blocks.top[below], h, tail):
                taken["refused"] += 1
                continue
        samples.append(candidate)
    return samples


def keeps(weight, top, u, tail):
    """Whether a uniform number that begins with the 16 bits u is below weight / top."""
    bits = 16
    while True:
        u, bits = u << 64 | next(tail), bits + 64
        if (u + 1) * top <= weight << bits:
            return True
        if u * top >= weight << bits:
            return False


def noise(law, variance, size, seed, taken=None):
    v, taken = Fraction(variance), collections.Counter() if taken is None else taken
    if law == GAUSSIAN:
        return draw_part(law, v, size, seed, taken)
    parts = math.ceil(v / 2**27)
    drawn = [draw_part(law, v / parts, size, own, taken) for own in split(seed, parts)]
    return [sum(numbers) for numbers in zip(*drawn, strict=True)]


# ================================================================ vectors

def seed_of(name):
    return hashlib.sha256(f"aggregation vectors: {name}".encode()).digest()


def plain(x):
    return x.hex() if isinstance(x, bytes) else x


def private_sum(**other):
    """Central noise for a noise multiplier of 1, unless `other` says so."""
    f = {"values": 12, "clip_norm": 1.5, "weight_cap": 0.0, "count_scale": 0.0, "divisor": 8.0, "step": 0.05,
            "modulus_bits": 16, "rotation_seed": b"", "mechanism": 0, "clients": 0, "threshold": 0, "colluders": 0,
            "noise_variance": None, "honest": []} | other
    return f if f["noise_variance"] is not None else f | {"noise_variance": central_variance(f, 1.0)}


def distributed(mechanism, **other):
    return private_sum(mechanism=mechanism, clients=10, threshold=6, colluders=1, honest=[8, 6, 5],
                       noise_variance=430.0, rotation_seed=seed_of("rotation")) | other


def privacy(f, **other):
    """What a client asks for that gets just that."""
    return {"clip_norm": f["clip_norm"], "noise_multiplier": 1.0, "mechanism": f["mechanism"],
            "layers": len(f["honest"]), "fewest_survivors": f["threshold"], "colluders": f["colluders"],
            "weight_cap": f["weight_cap"], "adaptive": f["count_scale"] > 0} | other


def vector(comment, f, **more):
    config = {name: plain(x) for name, x in f.items()}
    return {"protocol": "aggregation", "version": 1, "comment": comment, "config": config} | more


def due(check, client_id=None):
    error = {"type": ERRORS.get(check) or ERRORS.get(check[0], "FaultyServerError"), "check": check}
    return error if client_id is None else error | {"client_id": client_id}


def parameters_vector(comment, f):
    name = MEAN if "clip" in f else SUM
    asked = None if name == MEAN else privacy(f)
    data = to_bytes(name, f)
    assert from_bytes(name, data) == f and check_parameters(name, data, f["values"], asked) is None, comment
    assert check_session(name, f, asked, session(name, f)) is None, comment
    result = {"bytes": data.hex(), "hash": transform_hash(name, f).hex()} | session(name, f)
    if f.get("mechanism"):
        # Nothing may be unmasked below the threshold: null.
        survivors = range(f["threshold"] - 1, f["clients"] + 1)
        result |= {"variances": variances(f["noise_variance"], f["honest"]),
                   "kept": {str(s): kept(f, s) for s in survivors}}
    return vector(comment, f, **({} if asked is None else {"policy": asked}), result=result)


def encode_vector(comment, f, update, weight=1.0):
    seed = seed_of(comment)
    encoded = [encode(f, update, weight, seed, e * 2.0**-47) for e in (0, 1, -1)]
    # The norm may be found in any order of adding: that must not show in a vector.
    assert encoded[0] == encoded[1] == encoded[2], comment
    inputs = {"message": to_bytes(SUM, f).hex(), "update": update, "weight": weight, "seed": seed.hex()}
    return vector(comment, f, policy=privacy(f), inputs=inputs, result={"vector": encoded[0]})


def shown(f):
    """Fields as JSON."""
    return {name: shown(x) if isinstance(x, dict) else plain(x) for name, x in f.items()}


def mean_vector(comment, f, update, shapes, wanted=None, weight=3):
    """The vector of a scaled mean, or of a compressed one: of an update whose arrays have these shapes."""
    name, seed = COMPRESSED if wanted else SCALED, seed_of(comment)
    data = to_bytes(name, f)
    if wanted:
        assert from_bytes(name, data) == f and check_compressed(data, shapes, wanted) is None, comment
    else:
        assert from_bytes(name, data) == f and check_parameters(name, data, f["values"]) is None, comment
    flat = flatten(update)
    encoded = encode_mean(name, f, flat, shapes, weight, seed)
    # Sums of products may be added in any order: that must not show in a vector.
    for e in (1, -1):
        assert encode_mean(name, f, [x * (1 + e * 2.0**-45) for x in flat], shapes, weight, seed) == encoded, comment
    inputs = {"message": data.hex(), "update": update, "shapes": shapes, "weight": weight, "seed": seed.hex()}
    result = {"bytes": data.hex(), "hash": transform_hash(name, f).hex(), "vector": encoded} | session(name, f)
    return vector(comment, shown(f), inputs=inputs | ({"compression": wanted} if wanted else {}), result=result)


def array_clips_vector(comment, f, update, shapes, wanted=None, weight=3, asked=None):
    """The vector of a mean, or of a private sum if the client asks for privacy, with a clip for each array."""
    seed, data, flat = seed_of(comment), to_bytes(ARRAYS, f), flatten(update)
    assert from_bytes(ARRAYS, data) == f and check_array_clips(data, shapes, f["clips"], wanted, asked) is None, comment
    if asked is None:
        encoded = [encode_mean(ARRAYS, f, [x * (1 + e * 2.0**-45) for x in flat], shapes, weight, seed)
                   for e in (0, 1, -1)]
    else:
        encoded = [encode_private_arrays(f, flat, shapes, weight, seed, e * 2.0**-47) for e in (0, 1, -1)]
    assert encoded[0] == encoded[1] == encoded[2], comment
    inputs = {"message": data.hex(), "update": update, "shapes": shapes, "weight": weight, "seed": seed.hex(),
              "clips": f["clips"]} | ({"compression": wanted} if wanted else {})
    result = {"bytes": data.hex(), "hash": transform_hash(ARRAYS, f).hex(), "vector": encoded[0]} | session(ARRAYS, f)
    return vector(comment, shown(f), inputs=inputs, result=result, **({"policy": asked} if asked else {}))


def refused_array_clips(name, comment, data, shapes, clips, asked=None, configuration=None):
    check, found = name.split("_")[1], check_array_clips(data, shapes, clips, None, asked)
    inputs = {"message": data.hex(), "values": size_of(shapes), "shapes": shapes, "clips": clips}
    if configuration:
        f = from_bytes(ARRAYS, data)
        configuration = session(ARRAYS, f) | configuration
        inputs["session"] = configuration
        found = found or (None if configuration == session(ARRAYS, f) else "T6")
    assert found == check, f"{name}: {found}"
    return vector(comment, {}, inputs=inputs, error=due(check), **({"policy": asked} if asked else {}))


def refused_compression(name, comment, data, values, wanted):
    check = name.split("_")[1]
    assert check_compressed(data, [[values]], wanted) == check, f"{name}: {check_compressed(data, [[values]], wanted)}"
    return vector(comment, {}, inputs={"message": data.hex(), "values": values, "compression": wanted},
                  error=due(check))


def refused_vector(name, comment, f, asked=None, values=None, data=None, configuration=None):
    """A client that asks for `asked` and has an update of this length refuses the parameters or the session."""
    check, message = name.split("_")[1], MEAN if "clip" in f else SUM
    data, values = data or to_bytes(message, f), values or f["values"]
    inputs = {"message": data.hex(), "values": values}
    got = check_parameters(message, data, values, asked)
    if configuration:
        configuration = session(message, f) | configuration
        got, inputs = got or check_session(message, f, asked, configuration), inputs | {"session": configuration}
    assert got == check, f"{name}: {got}"
    return vector(comment, f, **({} if asked is None else {"policy": asked}), inputs=inputs, error=due(check))


def noise_vector(name, comment, law, variance, size, wraps=False):
    """A large one must meet everything that a sampler rarely does."""
    seed, taken = seed_of(name), collections.Counter()
    seed = seed[:16] + b"\xff" * 16 if wraps else seed
    samples = noise(law, variance, size, seed, taken)
    assert size <= 64 or min(taken["further"], taken["tail"], taken["refused"]) >= 8, f"{name}: {taken}"
    result = {"samples": [str(x) for x in samples[:64]]}
    if size > 64:
        result["sha256"] = hashlib.sha256(struct.pack(f"<{size}q", *samples)).hexdigest()
    inputs = {"law": law, "variance": variance, "size": size, "seed": seed.hex()}
    return vector(comment, {}, inputs=inputs, result=result)


def written(seeds):
    return {str(u): [seed.hex() for seed in own] for u, own in seeds.items()}


def surplus_vector(name, comment, count, change=None, error=None):
    """All of `count` survivors are asked, clients 1 and 2 answer. `change` makes other steps of the right ones."""
    f = distributed(2, clients=4, threshold=2, colluders=0, honest=[4, 3, 2], noise_variance=1000.0)
    survivors = [*range(1, count + 1)]
    seeds = {u: [seed_of(f"surplus {u} {layer}") for layer in range(3)] for u in (1, 2)}
    server, requests = Collector(f, survivors), Collector(f, survivors).requests()
    clients = {u: Holder(f, seeds[u], count) for u in seeds}
    steps = [{"to": "server", "opens": True, "sends": {str(u): data.hex() for u, data in requests.items()}}]
    for u in (u for u in clients if requests):
        answer = clients[u].receive(requests[u])[1]
        steps += [{"to": f"client {u}", "receives": requests[u].hex(), "replies": answer.hex()},
                  {"to": "server", "from": u, "receives": answer.hex()}]
        assert server.receive(u, answer) is None
    result, check = {"kept": server.kept, "seeds": written(server.seeds)}, None
    if change:
        steps = change(steps)
        clients, server = {u: Holder(f, seeds[u], count) for u in seeds}, Collector(f, survivors)
        for step in steps:
            if "receives" in step:
                assert check is None, name
                data, u = bytes.fromhex(step["receives"]), step.get("from")
                check = server.receive(u, data) if u else clients[int(step["to"][7:])].receive(data)[0]
    assert check == error, f"{name}: {check}"
    inputs = {"message": to_bytes(SUM, f).hex(), "survivors": survivors, "seeds": written(seeds)}
    end = {"error": due(error, steps[-1].get("from"))} if error else {"result": result}
    return vector(comment, f, policy=privacy(f), inputs=inputs, steps=steps) | end


def replaced(number, at, new, **other):
    """Change of steps: the last is step `number` with other bytes from `at` on, the steps before stay."""
    def change(steps):
        old = steps[number]["receives"]
        wrong = {key: x for key, x in steps[number].items() if key != "replies"}
        return [*steps[:number], wrong | {"receives": old[:2 * at] + new + old[2 * at + len(new):]} | other]
    return change


def vectors():
    """{file name: vector} of all files in vectors/."""
    made = {name: parameters_vector(*case) for name, case in parameters_cases().items()}
    made |= {name: encode_vector(*case) for name, case in encode_cases().items()}
    made |= {name: refused_vector(name, *case) for name, case in {**malformed_cases(), **refused_cases()}.items()}
    made |= {name: mean_vector(*case) for name, case in mean_cases().items()}
    made |= {name: refused_compression(name, *case) for name, case in refused_compressions().items()}
    made |= {name: array_clips_vector(*case) for name, case in array_clips_cases().items()}
    made |= {name: refused_array_clips(name, *case) for name, case in refused_arrays().items()}
    made |= {name: surplus_vector(name, *case) for name, case in surplus_cases().items()}
    made |= {name: noise_vector(name, *case) for name, case in noise_cases().items()}
    return {f"{name}.json": made[name] for name in sorted(made)}


def weighted_mean(**other):
    return {"values": 12, "clip": 0.5, "bits": 16, "clients": 10, "max_weight": 100} | other


def parameters_cases():
    rotation, all_of_it = seed_of("rotation"), {"count_scale": 0.25, "weight_cap": 40.0, "noise_variance": 440.0}
    return {
        "parameters_weighted_mean": ("values, and the weight behind them", weighted_mean()),
        "parameters_central_noise": ("the server adds the noise: no clients, no layers", private_sum()),
        "parameters_weight_cap": ("a weighted sum", private_sum(weight_cap=40.0)),
        "parameters_count": ("an adaptive clip: one coordinate more", private_sum(count_scale=0.25)),
        "parameters_rotation": ("12 values in two blocks of 8 stay 12", private_sum(rotation_seed=rotation)),
        "parameters_discrete_gaussian": ("three layers of discrete Gaussian noise", distributed(1)),
        "parameters_skellam": ("three layers of Skellam noise", distributed(2)),
        "parameters_skellam_one_layer": ("one layer stays, no matter who survives", distributed(2, honest=[5])),
        "parameters_everything": ("values and count are rotated in one block of 16", distributed(2, **all_of_it)),
    }


def encode_cases():
    small, large = ([x * size for x in encoding.some_values("aggregation", 12, 1.0)] for size in (0.3, 30.0))
    arrays = {"9": small[:2], "10": [small[2:5], small[5:8]], "a": {"z": small[8:9], "b": small[9:]}}
    rotation = seed_of("rotation")
    return {
        "encode_not_clipped": ("a short update", private_sum(), small),
        "encode_clipped": ("a long update is scaled down to the norm clip_norm", private_sum(), large),
        "encode_dictionary": ("arrays by their keys sorted as strings: 10 comes before 9", private_sum(), arrays),
        "encode_weight_below_the_cap": ("half the cap is half the update", private_sum(weight_cap=40.0), large, 20.0),
        "encode_weight_above_the_cap": ("a weight above the cap is the cap", private_sum(weight_cap=40.0), large, 41.0),
        "encode_count_not_clipped": ("the count is positive", private_sum(count_scale=4.0), small),
        "encode_count_clipped": ("the count is negative", private_sum(count_scale=4.0), large),
        "encode_count_and_weight": ("the weight does not scale the count",
                                    private_sum(count_scale=4.0, weight_cap=40.0), large, 20.0),
        "encode_rotated": ("two blocks", private_sum(rotation_seed=rotation), small),
        "encode_rotated_with_count": ("the count is rotated too, after zeros are appended",
                                      private_sum(rotation_seed=rotation, count_scale=4.0), large),
        "encode_modulus_of_64_bits": ("negative steps modulo 2^64", private_sum(modulus_bits=64), small),
    }


def compressed(values, maps, inner_values, **inner):
    mean = weighted_mean(values=inner_values, clip=1.0) | inner
    return {"values": values, "seed": seed_of("compression"), "maps": maps, "inner": mean}


def mean_cases():
    x = encoding.some_values("compression", 50, 1.0)
    matrices = [x[:5], [x[5 + 6 * i:11 + 6 * i] for i in range(3)], [x[23 + 3 * i:26 + 3 * i] for i in range(9)]]
    shapes = [[5], [3, 6], [9, 3]]
    scaled = weighted_mean(scaled=True, clip=0.8, bits=4, clients=50, max_weight=128)
    few = {"bits": 6, "max_weight": 20, "scaled": True}
    return {
        "scaled_mean": ("a weight in three digits of three bits", scaled, x[:12], [[12]], None, 93),
        "scaled_mean_of_two_bits": ("a weight in digits of one bit", scaled | {"bits": 2}, x[:12], [[12]], None, 128),
        "compressed_random_k": ("a quarter of 50 values, rounded to an even number", compressed(50, [[1, 12]], 12),
                                matrices, shapes, [[1, 0.25]]),
        "compressed_random_k_of_one": ("never fewer than one", compressed(50, [[1, 1]], 1), matrices, shapes,
                                       [[1, 0.001]]),
        "compressed_rotation": ("50 values and 14 zeros: more than a quarter, so two blocks of 32",
                                compressed(50, [[2, 0]], 50), matrices, shapes, [[2, 0]]),
        "compressed_low_rank": ("a wide matrix, a high one, and a vector that is sent whole",
                                compressed(50, [[3, 2]], 17), matrices, shapes, [[3, 2]]),
        "compressed_low_rank_whole": ("a matrix whose longer side is the rank is sent whole",
                                      compressed(50, [[3, 6]], 41), matrices, shapes, [[3, 6]]),
        "compressed_three_maps": ("low rank, then random-k, then a rotation, each with its own seed",
                                  compressed(50, [[3, 2], [1, 8], [2, 0]], 8), matrices, shapes,
                                  [[3, 2], [1, 0.5], [2, 0]]),
        "compressed_scaled_mean": ("a rotation for few bits", compressed(50, [[1, 25], [2, 0]], 25, **few), matrices,
                                   shapes, [[1, 0.5], [2, 0]], 13),
    }


def refused_compressions():
    own = compressed(20, [[1, 10]], 10)
    asked = [[1, 0.5]]

    def data(**other):
        return to_bytes(COMPRESSED, own | other)

    return {
        "reject_T1_compressed_map_of_code_4": ("an unknown map", data(maps=[[4, 0]]), 20, asked),
        "reject_T1_compressed_no_map": ("no map at all", data(maps=[]), 20, asked),
        "reject_T1_compressed_nine_maps": ("more maps than eight", data(maps=[[1, 10]] * 9), 20, asked),
        "reject_T1_compressed_trailing_byte": ("a byte too many", data() + b"\0", 20, asked),
        "reject_T2_compressed": ("20 values, the client has 21", data(), 21, asked),
        "reject_T2_compressed_inner": ("the mean is of 11 values, 10 are left",
                                       data(inner=weighted_mean(values=11)), 20, asked),
        "reject_T7_fewer_values": ("9 values are to be sent, not 10", data(maps=[[1, 9]]), 20, asked),
        "reject_T7_another_map": ("a rotation in place of random-k", data(maps=[[2, 0]]), 20, asked),
        "reject_T7_one_map_more": ("a rotation that nobody asked for", data(maps=[[1, 10], [2, 0]]), 20, asked),
    }


def array_clips(clips, inner):
    return {"clips": clips, "inner": inner}


def array_clips_cases():
    x = encoding.some_values("array clips", 50, 1.0)
    matrices = [[0.01 * y for y in x[:5]], [x[5 + 6 * i:11 + 6 * i] for i in range(3)],
                [[100.0 * y for y in x[23 + 3 * i:26 + 3 * i]] for i in range(9)]]
    shapes, clips = [[5], [3, 6], [9, 3]], [0.008, 0.75, 80.0]
    mean = weighted_mean(values=50, clip=1.0)
    few = {"bits": 6, "max_weight": 20, "scaled": True}
    kept, ranked = compressed(50, [[1, 25]], 25), compressed(50, [[3, 2], [1, 8]], 8, **few)
    norms = [0.02, 0.75, 80.0]
    private = private_sum(values=50, clip_norm=whole_norm(norms), step=0.02, modulus_bits=20)
    return {
        "array_clips_weighted_mean": ("three arrays with scales of 0.01, 1 and 100, some values beyond their clip",
                                      array_clips(clips, mean), matrices, shapes),
        "array_clips_scaled_mean": ("the same, weighed before they are rounded", array_clips(clips, mean | few),
                                    matrices, shapes, None, 13),
        "array_clips_random_k": ("divided before the values are chosen", array_clips(clips, kept), matrices, shapes,
                                 [[1, 0.5]]),
        "array_clips_low_rank": ("divided before two maps", array_clips(clips, ranked), matrices, shapes,
                                 [[3, 2], [1, 0.5]], 13),
        "array_clips_private_sum": ("two of three arrays are longer than their own norm",
                                    array_clips(norms, private), matrices, shapes, None, 1.0,
                                    privacy(private)),
    }


def refused_arrays():
    shapes, clips = [[3], [2, 4], [1]], [0.5, 2.0, 8.0]
    mean = weighted_mean(clip=1.0)
    own, private = array_clips(clips, mean), private_sum(clip_norm=whole_norm(clips))

    def data(**other):
        return to_bytes(ARRAYS, own | other)

    short = bytes([1, MESSAGES[ARRAYS]["kind"]]) + struct.pack("<I", 23) + struct.pack("<3d", *clips)[:-1]
    cases = {
        "T1_array_clips_0": ("a clip of 0", data(clips=[0.5, 0.0, 8.0])),
        "T1_array_clips_negative": ("a clip below 0", data(clips=[0.5, -2.0, 8.0])),
        "T1_array_clips_infinite": ("an infinite clip", data(clips=[0.5, math.inf, 8.0])),
        "T1_array_clips_nan": ("a clip that is NaN", data(clips=[0.5, math.nan, 8.0])),
        "T1_array_clips_none": ("no clip at all", data(clips=[])),
        "T1_array_clips_not_whole": ("23 bytes of clips", short + data()[30:]),
        "T1_array_clips_trailing_byte": ("a byte too many", data() + b"\0"),
        "T1_array_clips_inner_clip": ("the inner clip is 2", data(inner=mean | {"clip": 2.0})),
        "T1_array_clips_compressed": ("a compression that nobody asked for",
                                      data(inner=compressed(12, [[1, 6]], 6))),
        "T2_array_clips": ("two clips, the client has three arrays", data(clips=clips[:2])),
        "T2_array_clips_inner": ("the mean is of 13 values, the arrays have 12", data(inner=mean | {"values": 13})),
        "T8_another_clip": ("a clip of 2.5 where 2 is asked for", data(clips=[0.5, 2.5, 8.0])),
        "T8_clips_in_another_order": ("the clips of the first two arrays are exchanged", data(clips=[2.0, 0.5, 8.0])),
        "T3_array_clips": ("the norm of the whole is that of one clip less",
                           data(inner=private | {"clip_norm": whole_norm(clips[1:])}), privacy(private)),
        "T6_array_clips_context": ("the context is that of the inner message alone", data(), None,
                                   {"context": session(MEAN, mean)["context"]}),
    }
    return {f"reject_{name}": (comment, sent, shapes, clips, *more) for name, (comment, sent, *more) in cases.items()}


def malformed_cases():
    mean, f, layers = weighted_mean(), private_sum(), distributed(2)
    own, ask = to_bytes(SUM, f), privacy(f)
    layered, asked = to_bytes(SUM, layers), privacy(layers)
    wrong = {
        "version": ("a message of version 2", own, b"\x02" + own[1:]),
        "kind": ("a weighted mean", own, to_bytes(MEAN, mean)),
        "trailing_byte": ("a byte too many", own, own + b"\0"), "truncated": ("a byte is missing", own, own[:-1]),
        "nan": ("clip_norm is NaN", own, own[:10] + struct.pack("<d", math.nan) + own[18:]),
        "negative": ("weight_cap is -1", own, own[:18] + struct.pack("<d", -1.0) + own[26:]),
        "layers_not_whole": ("13 bytes of layers", layered, layered[:-16] + b"\x0d\0\0\0" + layered[-12:] + b"\0"),
    }
    other = {
        "step_0": ("a step of 0", {"step": 0.0}), "mechanism_3": ("an unknown mechanism", {"mechanism": 3}),
        "step_too_short": ("the norm in steps would be too long", {"step": 1e-9}),
        "modulus_of_1_bit": ("entries of one bit", layers | {"modulus_bits": 1}),
        "modulus_of_65_bits": ("entries of 65 bits", layers | {"modulus_bits": 65}),
        "rotation_seed_of_31_bytes": ("a rotation seed that is too short", layers | {"rotation_seed": bytes(31)}),
        "central_noise_rotation_seed_of_33_bytes": ("a seed is not cut to size", {"rotation_seed": bytes(33)}),
        "no_rotation": ("distributed noise without a rotation", layers | {"rotation_seed": b""}),
        "no_layers": ("distributed noise without layers", layers | {"honest": []}),
        "layers_ascend": ("layers in the wrong order", layers | {"honest": [6, 8, 5]}),
    }
    cases = {what: (comment, layers, asked, None, data) if old is layered else (comment, f, ask, None, data)
             for what, (comment, old, data) in wrong.items()}
    cases |= {what: (comment, f | change, asked if "clients" in change else ask)
              for what, (comment, change) in other.items()}
    adaptive = private_sum(count_scale=0.25)        # whose clip_norm may be another, if it can be one
    cases["clip_norm_0"] = ("a clip_norm of 0", adaptive | {"clip_norm": 0.0}, privacy(adaptive))
    cases["weighted_mean_of_65_bits"] = ("the parameters need 65 bits", mean | {"bits": 32, "max_weight": 2**31})
    return {f"reject_T1_{what}": case for what, case in cases.items()}


def refused_cases():
    f, layers, mean = private_sum(), distributed(2), weighted_mean()
    gaussian, less = distributed(1, noise_variance=40.0), {"noise_multiplier": 0.1}
    odd, context = private_sum(threshold=6), {"context": "secfed/aggregation/v1 " + "0" * 64}
    return {
        "reject_T2_another_update": ("12 values, the client has 13", f, privacy(f), 13),
        "reject_T2_weighted_mean": ("12 values, the client has 13", mean, None, 13),
        "reject_T3_larger_clip_norm": ("a clip_norm of 1.5 where 1 is asked for", f, privacy(f, clip_norm=1.0)),
        "reject_T3_weight_cap": ("weights where none are asked for", private_sum(weight_cap=40.0), privacy(f)),
        "reject_T3_count": ("a count although the clip is not adaptive", private_sum(count_scale=0.25), privacy(f)),
        "reject_T3_no_count": ("no count although the clip is adaptive", f, privacy(f, adaptive=True)),
        "reject_T4_central_noise": ("the server would add the noise", f, privacy(layers)),
        "reject_T4_another_noise": ("Skellam, not discrete Gaussian noise", layers, privacy(layers, mechanism=1)),
        "reject_T4_last_layer": ("the last layer is for 6 honest survivors where there may be 5",
                                 distributed(2, honest=[8, 7, 6]), privacy(layers)),
        "reject_T4_fewer_colluders": ("1 colluder where 2 are asked for", layers, privacy(layers, colluders=2)),
        "reject_T4_lower_threshold": ("6 survivors where 7 are asked for", layers, privacy(layers, fewest_survivors=7)),
        "reject_T4_more_layers": ("3 layers where 2 are asked for", layers, privacy(layers, layers=2)),
        "reject_T5_too_little_noise": ("a little less than z^2 times the largest square and 2.25",
                                       distributed(2, noise_variance=426.2), privacy(layers)),
        "reject_T5_layer_too_small": ("the last layer of discrete Gaussian noise is too small", gaussian,
                                      privacy(gaussian, **less)),
        "reject_T6_length": ("a coordinate more", f, privacy(f), None, None, {"length": 13}),
        "reject_T6_modulus": ("a bit less", f, privacy(f), None, None, {"modulus_bits": 15}),
        "reject_T6_context": ("the hash of other parameters", f, privacy(f), None, None, context),
        "reject_T6_central_noise": ("the noise for a multiplier of 1, asked for is 1.1", f,
                                    privacy(f, noise_multiplier=1.1), None, None, session(SUM, f)),
        "reject_T6_central_noise_with_threshold": ("the server adds the noise, yet there is a threshold", odd,
                                                   privacy(f), None, None, session(SUM, odd)),
        "reject_T6_weighted_mean": ("a coordinate less", mean, None, None, None, {"length": 12}),
    }


def surplus_cases():
    def twice(steps):
        return [*steps[:2], {"to": "client 1", "receives": steps[1]["receives"]}]

    def short(steps):
        hash_and_seeds = from_bytes(RESPONSE, bytes.fromhex(steps[2]["receives"]))
        answer = to_bytes(RESPONSE, hash_and_seeds | {"seeds": hash_and_seeds["seeds"][:32]})
        return [*steps[:2], steps[2] | {"receives": answer.hex()}]

    return {
        "surplus_of_four": ("all survive: two layers are too many", 4),
        "surplus_of_three": ("one layer is too many", 3),
        "surplus_of_two": ("as few as may be: every layer is needed, nobody is asked", 2),
        "reject_N1_version": ("a request of version 2", 4, replaced(1, 0, "02"), "N1"),
        "reject_N1_trailing_byte": ("a byte too many", 4, replaced(1, 38, "00"), "N1"),
        "reject_N2_another_sum": ("the request of another sum", 4, replaced(1, 2, "00" * 32), "N2"),
        "reject_N3_too_few_kept": ("three survive, yet two layers are to go", 3, replaced(1, 34, "01"), "N3"),
        "reject_N4_second_request": ("the same request again", 4, twice, "N4"),
        "reject_M1_kind": ("a request for an answer", 4, replaced(2, 1, "23"), "M1"),
        "reject_M2_not_asked": ("client 4 did not survive", 3, replaced(2, 0, "", **{"from": 4}), "M2"),
        "reject_M3_another_sum": ("the seeds of another sum", 4, replaced(2, 2, "00" * 32), "M3"),
        "reject_M3_seed_missing": ("one seed where two are due", 4, short, "M3"),
    }


def noise_cases():
    def above(x):
        return math.nextafter(x, math.inf)

    gaussian = {
        "variance_one_thousandth": ("hardly any noise: one number on either side of the bound", 1e-3, 64),
        "variance_one_half": ("a small variance", 0.5, 64),
        "variance_60": ("the variance of a usual sum", 60.0, 64),
        "variance_1e6": ("blocks of one number", 1e6, 64),
        "variance_2_to_22": ("the largest variance with blocks of one number", 2.0**22, 16),
        "above_2_to_22": ("the least variance with blocks of two numbers", above(2.0**22), 64),
        "variance_1e12": ("blocks of 512 numbers", 1e12, 64),
        "variance_2_to_54": ("a word of four bytes is just enough: 16 bits and 16 bits", 2.0**54, 64),
        "above_2_to_54": ("members in words of eight bytes", above(2.0**54), 64),
        "variance_2_to_80": ("the largest variance", 2.0**80, 64),
        "counter_wraps": ("the counter block of the seed is all ones", 60.0, 64, True),
        "counter_wraps_variance_1e12": ("the counter block of the seed is all ones, blocks of 512", 1e12, 8, True),
        "many_blocks_of_2": ("further words, tails and refused candidates", above(2.0**22), 100_000),
        "many_long_words": ("the same with words of eight bytes", above(2.0**62), 100_000),
        "many_variance_1e12": ("the same with blocks of 512", 1e12, 50_000),
    }
    skellam = {
        "variance_one_thousandth": ("hardly any noise", 1e-3, 64),
        "variance_2": ("a small variance", 2.0, 64),
        "variance_1e4": ("blocks of one number", 1e4, 64),
        "variance_2_to_23": ("blocks of two numbers", 2.0**23, 64),
        "variance_2_to_27": ("the largest variance of one part", 2.0**27, 64),
        "above_2_to_27": ("the least variance in two parts", above(2.0**27), 64),
        "variance_2_to_36": ("the largest variance, in 512 parts", 2.0**36, 8),
        "variance_3e8": ("three parts, whose variance is no binary64 number", 3e8 + 1, 64),
        "counter_wraps": ("the counter block of the seed is all ones", 60.0, 64, True),
        "many_blocks_of_2": ("further words, tails and refused candidates", above(2.0**22), 40_000),
        "many_two_parts": ("the same in two parts with blocks of eight", above(2.0**27), 50_000),
    }
    return {f"noise_{law}_{what}": (comment, law, *case) for law, cases in ((GAUSSIAN, gaussian), (SKELLAM, skellam))
            for what, (comment, *case) in cases.items()}


if __name__ == "__main__":
    encoding.write(HERE / "vectors", vectors())
