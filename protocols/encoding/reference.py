"""Reference of the encoding, version 1: plain Python floats and integers.

Written from README.md alone. `python reference.py` rewrites vectors/, `--check` compares instead of writing.
"""
import hashlib
import json
import math
import sys
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

HERE = Path(__file__).resolve().parent


class Refused(Exception):  # noqa: N818
    def __init__(self, type):
        super().__init__(type)
        self.type = type


def demand(type, fact):
    if not fact:
        raise Refused(type)


def expand(seed, n):
    """The first n bytes of the AES-128-CTR keystream, as in the secagg specification."""
    return Cipher(algorithms.AES(seed[:16]), modes.CTR(seed[16:32])).encryptor().update(bytes(n))


def largest(bits):
    return 2**(bits - 1) - 1                                                        # L


def modulus_bits(clip, bits, clients, max_weight):
    """Section 1; refuses bad parameters."""
    demand("ConfigError", math.isfinite(clip) and clip > 0 and 2 <= bits <= 32 and clients >= 1 and max_weight >= 1)
    b = 1
    while 2**(b - 1) <= clients * max_weight * largest(bits):
        b += 1
    demand("ConfigError", b <= 64)
    return b


def context(clip, bits, max_weight, values):
    return f"secfed/encoding/v1 clip={clip.hex()} bits={bits} max_weight={max_weight} values={values}"


def encode(config, values, weight, seed):
    clip, bits, b = config["clip"], config["bits"], modulus_bits(**config)
    demand("EncodingError", 1 <= weight <= config["max_weight"] and all(math.isfinite(x) for x in values))
    top = largest(bits)
    scale, words = top / clip, expand(seed, 4 * len(values))
    vector = []
    for i, x in enumerate(values):
        y = min(max(x, -clip), clip) * scale
        f = math.floor(y)
        r = int.from_bytes(words[4 * i:4 * i + 4], "little")
        q = f + 1 if float(r) < (y - f) * 2.0**32 else f
        q = min(max(q, -top), top)      # y can be an ulp beyond L
        vector.append(weight * q % 2**b)
    return [*vector, weight % 2**b]


def add(config, vectors):
    return [sum(entries) % 2**modulus_bits(**config) for entries in zip(*vectors, strict=True)]


def decode(config, total):
    """Weighted means and the total weight."""
    b, step = modulus_bits(**config), config["clip"] / largest(config["bits"])
    signed = [x - 2**b if x >= 2**(b - 1) else x for x in total]
    weight = signed[-1]
    demand("EncodingError", weight > 0)
    # float() first: an int / int of Python rounds once, binary64 rounds three times
    return [float(x) / float(weight) * step for x in signed[:-1]], weight


# ================================================================ vectors

def dump(obj):
    return json.dumps(obj, indent=1, allow_nan=False) + "\n"


def seed_of(name):
    return hashlib.sha256(f"encoding vectors: {name}".encode()).digest()


def some_values(name, count, clip):
    """Doubles of 53 random bits in [-1.25 clip, 1.25 clip)."""
    words = expand(seed_of(f"values of {name}"), 8 * count)
    numbers = [int.from_bytes(words[8 * i:8 * i + 8], "little") >> 11 for i in range(count)]
    return [(x / 2**53 - 0.5) * 2.5 * clip for x in numbers]


def parameters(clip, bits, clients, max_weight):
    return {"clip": clip, "bits": bits, "clients": clients, "max_weight": max_weight}


def plain(x):
    return x if math.isfinite(x) else repr(x)


def vector(comment, config, inputs):
    return {"protocol": "encoding", "version": 1, "comment": comment,
            "config": {name: plain(x) for name, x in config.items()}, "inputs": inputs}


def inputs_of(values, weight, seed):
    return {"values": [plain(x) for x in values], "weight": weight, "seed": seed.hex()}


def encode_vector(name, comment, config, values, weight=1, error=None):
    made, seed = vector(comment, config, inputs_of(values, weight, seed_of(name))), seed_of(name)
    try:
        result = {"vector": encode(config, values, weight, seed), "modulus_bits": modulus_bits(**config),
                  "context": context(config["clip"], config["bits"], config["max_weight"], len(values))}
        got = None
    except Refused as refused:
        got = refused.type
    if got != error:
        raise AssertionError(f"{name}: {got}, though {error} was due")
    return made | ({"error": {"type": error}} if error else {"result": result})


def sum_vector(name, comment, config, weights, count, values=None):
    inputs, vectors, exact = {}, [], [0.0] * count
    for client, weight in enumerate(weights, 1):
        own = values or some_values(f"{name} {client}", count, config["clip"])
        seed = seed_of(f"{name} {client}")
        inputs[str(client)] = inputs_of(own, weight, seed)
        vectors.append(encode(config, own, weight, seed))
        exact = [a + weight * min(max(x, -config["clip"]), config["clip"]) for a, x in zip(exact, own, strict=True)]
    total = add(config, vectors)
    mean, weight = decode(config, total)
    step = config["clip"] / largest(config["bits"])
    assert weight == sum(weights), name
    assert all(abs(m - e / weight) <= step * 1.001 for m, e in zip(mean, exact, strict=True)), name
    return vector(comment, config, inputs) | {"result": {"sum": total, "mean": mean, "weight": weight}}


def vectors():
    """{file name: vector} of all files in vectors/."""
    usual = parameters(1.0, 16, 10, 1)
    tiny, many = 5e-324, some_values("many", 9, 2.0)
    cases = {
        "encode_uniform": ("values in and beyond the clip", parameters(2.0, 16, 10, 1), many),
        "encode_clipped": ("everything beyond the clip, on both sides", usual, [1.5, -1.5, 1e308, -1e308, 1.0, -1.0]),
        "encode_zeros": ("zeros of both signs and the smallest numbers", usual,
                         [0.0, -0.0, tiny, -tiny, 1e-300, -1e-300]),
        "encode_whole_steps": ("whole steps are not rounded", parameters(127.0, 8, 3, 1),
                               [0.0, 1.0, -1.0, 126.0, -127.0]),
        "encode_half_steps": ("half steps go up or down by their random word", parameters(127.0, 8, 3, 1),
                              [0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 126.5, -126.5]),
        "encode_near_whole_steps": ("values a hair from a whole step", parameters(127.0, 8, 3, 1),
                                    [1 - 2**-40, 1 + 2**-40, -1 + 2**-40, -1 - 2**-40, 127 - 2**-40, -127 + 2**-40]),
        "encode_clip_not_a_power_of_two": ("L / clip is not a binary64 number", parameters(0.3, 20, 7, 1),
                                           [0.3, -0.3, 0.1, -0.1, 0.29999999999999993]),
        "encode_clip_times_scale_above_largest": ("clip * (L / clip) is more than L and is brought back",
                                                  parameters(above(20), 20, 7, 1), [above(20), -above(20)] * 3),
        "encode_one_value": ("a single value", usual, [0.123456789]),
        "encode_no_values": ("no values at all: the weight alone", usual, []),
        "encode_bits_2": ("L = 1: only -1, 0 and 1", parameters(1.0, 2, 3, 1), [0.5, -0.5, 0.25, -0.75, 1.0, -1.0]),
        "encode_bits_32": ("the finest quantization", parameters(1.0, 32, 4, 1), [0.1, -0.1, 1 / 3, 1.0, -1.0]),
        "encode_large_clip": ("a clip of 1e300", parameters(1e300, 16, 10, 1), [1e299, -3e299, 1e308, 1.0]),
        "encode_small_clip": ("a clip of 1e-30", parameters(1e-30, 16, 10, 1), [1e-31, -3e-31, 1.0, 0.0]),
        "encode_weighted": ("each value times the weight, the weight at the end", parameters(1.0, 16, 10, 100),
                            some_values("weighted", 5, 1.0), 37),
        "encode_largest_weight": ("weight = max_weight", parameters(1.0, 16, 10, 100), [1.0, -1.0, 0.5], 100),
        "encode_modulus_of_64_bits": ("the parameters need exactly 64 bits", parameters(1.0, 32, 4, 2**30),
                                      [1.0, -1.0, 0.7], 2**30),
        "reject_nan": ("a value is NaN", usual, [0.0, math.nan], 1, "EncodingError"),
        "reject_infinity": ("infinity is refused, not clipped", usual, [math.inf], 1, "EncodingError"),
        "reject_minus_infinity": ("minus infinity is refused, not clipped", usual, [-math.inf], 1, "EncodingError"),
        "reject_weight_0": ("a weight of 0", usual, [0.5], 0, "EncodingError"),
        "reject_weight_negative": ("a weight of -1", usual, [0.5], -1, "EncodingError"),
        "reject_weight_above_max_weight": ("weight 101 of at most 100", parameters(1.0, 16, 10, 100), [0.5], 101,
                                           "EncodingError"),
        "reject_modulus_of_65_bits": ("the parameters need 65 bits", parameters(1.0, 32, 5, 2**30), [0.5], 1,
                                      "ConfigError"),
        "reject_clip_0": ("a clip of 0", parameters(0.0, 16, 10, 1), [0.5], 1, "ConfigError"),
        "reject_clip_negative": ("a negative clip", parameters(-1.0, 16, 10, 1), [0.5], 1, "ConfigError"),
        "reject_clip_infinite": ("an infinite clip", parameters(math.inf, 16, 10, 1), [0.5], 1, "ConfigError"),
        "reject_clip_nan": ("a clip of NaN", parameters(math.nan, 16, 10, 1), [0.5], 1, "ConfigError"),
        "reject_bits_1": ("1 bit a value, L would be 0", parameters(1.0, 1, 10, 1), [0.5], 1, "ConfigError"),
        "reject_bits_33": ("33 bits a value", parameters(1.0, 33, 10, 1), [0.5], 1, "ConfigError"),
        "reject_clients_0": ("no clients at all", parameters(1.0, 16, 0, 1), [0.5], 1, "ConfigError"),
        "reject_max_weight_0": ("a max_weight of 0", parameters(1.0, 16, 10, 0), [0.5], 1, "ConfigError"),
    }
    sums = {
        "sum_mean_of_three": ("three clients of weight 1", parameters(1.0, 16, 3, 1), [1, 1, 1], 5),
        "sum_weighted": ("three clients of different weights", parameters(2.5, 20, 5, 1000), [1000, 1, 250], 5),
        "sum_fewer_than_clients": ("two vectors where the parameters allow ten", parameters(1.0, 12, 10, 7), [7, 3], 6),
        "sum_full_scale": ("every client at the clip with the largest weight: no wrap", parameters(1.0, 8, 4, 3),
                           [3, 3, 3, 3], 3, [1.0, -1.0, 2.0]),
        "sum_of_64_bits": ("the largest sums that 64 bits hold, beyond 2^53", parameters(0.7, 32, 4, 2**30),
                           [2**30, 2**30, 2**30 - 1, 2**30], 4),
        "sum_of_one": ("one client alone", parameters(1.0, 24, 1, 1), [1], 4),
    }
    every = {name: encode_vector(name, *case) for name, case in cases.items()}
    every |= {name: sum_vector(name, *case) for name, case in sums.items()}
    return {f"{name}.json": every[name] for name in sorted(every)}


def above(bits):
    """A clip for which clip * (L / clip) comes out above L."""
    return next(c for c in (1 + i / 1000 for i in range(1, 10**6)) if c * (largest(bits) / c) > largest(bits))


def main():
    folder, fresh = HERE / "vectors", {name: dump(made) for name, made in vectors().items()}
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
