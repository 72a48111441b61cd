"""Reference of the encoding, version 1: plain Python floats and integers.

Written from README.md alone. `python reference.py` rewrites vectors/, `--check` compares instead of writing.
"""
import hashlib
import json
import math
import struct
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


# ================================================================ section 7: rotation

# Sums and products of two binary32 numbers, found in binary64 first, are rounded as if once.
FORMATS = {"float64": float, "float32": lambda x: struct.unpack("<f", struct.pack("<f", x))[0]}


def blocks(size, seed):
    """Length of a rotated vector, entries of a block, starts of the blocks; refuses bad parameters."""
    demand("ConfigError", size >= 1 and len(seed) == 32)
    padded = 1
    while padded < size:
        padded *= 2
    length = padded if 4 * (padded - size) <= size else size
    m = padded if length == padded else padded // 2
    return length, m, [0] if length == m else [0, length - m]


def flip(values, seed, number):
    """The signs of block `number`; each block starts with a new byte."""
    size = -(-len(values) // 8)
    own = expand(seed, size * (number + 1))[size * number:]
    return [-x if own[i // 8] >> i % 8 & 1 else x for i, x in enumerate(values)]


def transform(values, fit):
    """Walsh-Hadamard, orthonormal, natural order; sums and differences in the order of the specification."""
    v, h, scale = list(values), 1, fit(1 / math.sqrt(len(values)))
    while h < len(v):
        for j in range(len(v)):
            if not j & h:
                v[j], v[j + h] = fit(v[j] + v[j + h]), fit(v[j] - v[j + h])
        h *= 2
    return [fit(x * scale) for x in v]


def rotate(config, values, seed):
    length, m, starts = blocks(config["size"], seed)
    demand("EncodingError", len(values) == config["size"])
    v = [*values] + [0.0] * (length - len(values))
    for number, start in enumerate(starts):
        v[start:start + m] = transform(flip(v[start:start + m], seed, number), FORMATS[config["dtype"]])
    return v


def rotate_back(config, rotated, seed):
    length, m, starts = blocks(config["size"], seed)
    demand("EncodingError", len(rotated) == length)
    v = [*rotated]
    for number, start in reversed([*enumerate(starts)]):
        v[start:start + m] = flip(transform(v[start:start + m], FORMATS[config["dtype"]]), seed, number)
    return v[:config["size"]]


# ================================================================ section 8: conditional randomized rounding

def largest_square(step, clip_norm, dimension):
    """Sections 8.1 and 8.2; refuses bad parameters."""
    demand("ConfigError", 1e-100 <= clip_norm <= 1e100 and 0 < step < math.inf and dimension >= 1)
    n, w = clip_norm / step, math.sqrt(dimension)
    demand("ConfigError", n + w <= 2.0**26)
    return max(1, math.floor((n * n + dimension / 4) + (n + w / 2)))


def clip(values, clip_norm, shift=0.0):
    """Section 8.3; `shift` is a relative error of the norm, to see whether it matters."""
    e = (len(values) + 8) * 2.0**-52
    # Scaling by a power of two loses nothing that counts, and squares stay finite.
    power = max(0, *(math.frexp(x)[1] for x in values))
    scaled = [math.ldexp(x, -power) for x in values]
    n = math.sqrt(math.fsum(x * x for x in scaled)) * (1 + shift)
    if n * (1 + e) <= math.ldexp(clip_norm, -power):
        return [*values]
    return [x * (clip_norm / n * (1 - 2 * e)) for x in scaled]


def round_once(y, seed):
    """One try."""
    words = struct.unpack(f"<{len(y)}I", expand(seed, 4 * len(y)))
    return [math.floor(x) + (float(r) < (x - math.floor(x)) * 2.0**32) for x, r in zip(y, words, strict=True)]


def round_conditionally(config, values, seed, shift=0.0):
    """Whole steps, and how many tries were made."""
    most = largest_square(**config)
    demand("EncodingError", len(values) == config["dimension"] and all(math.isfinite(x) for x in values))
    y, seeds = [x / config["step"] for x in clip(values, config["clip_norm"], shift)], expand(seed, 32 * 64)
    for k in range(64):
        steps = round_once(y, seeds[32 * k:32 * k + 32])
        if sum(q * q for q in steps) <= most:
            return steps, k + 1
    return [math.trunc(x) for x in y], 64


def rounding_context(step, clip_norm, dimension):
    return f"secfed/encoding/v1 step={step.hex()} clip_norm={clip_norm.hex()} dimension={dimension}"


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
    return x if isinstance(x, str) or math.isfinite(x) else repr(x)


def vector(comment, config, inputs):
    return {"protocol": "encoding", "version": 1, "comment": comment,
            "config": {name: plain(x) for name, x in config.items()}, "inputs": inputs}


def inputs_of(values, weight, seed):
    return {"values": [plain(x) for x in values], "weight": weight, "seed": seed.hex()}


def settled(name, made, work, error):
    """The vector with its result, or with the error that is due."""
    try:
        result, got = work(), None
    except Refused as refused:
        got = refused.type
    if got != error:
        raise AssertionError(f"{name}: {got}, though {error} was due")
    return made | ({"error": {"type": error}} if error else {"result": result})


def encode_vector(name, comment, config, values, weight=1, error=None):
    seed = seed_of(name)
    return settled(name, vector(comment, config, inputs_of(values, weight, seed)), lambda: {
        "vector": encode(config, values, weight, seed), "modulus_bits": modulus_bits(**config),
        "context": context(config["clip"], config["bits"], config["max_weight"], len(values))}, error)


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


def rotate_vector(name, comment, size, values=None, dtype="float64", error=None, seed_bytes=32):
    config, seed, back = {"size": size, "dtype": dtype}, (seed_of(name) * 2)[:seed_bytes], "rotate_back" in name
    values = [FORMATS[dtype](x) for x in values or some_values(name, blocks(size, seed)[0] if back else size, 1.0)]

    def work():
        if back:
            return {"values": rotate_back(config, values, seed)}
        length, m, _ = blocks(size, seed)
        rotated = rotate(config, values, seed)
        room = {"float64": 2**-48, "float32": 2**-20}[dtype] * math.hypot(*values)
        assert abs(math.hypot(*values) - math.hypot(*rotated)) <= room, name
        assert all(abs(a - b) <= room for a, b in zip(values, rotate_back(config, rotated, seed), strict=True)), name
        return {"length": length, "spread": m, "rotated": rotated}

    inputs = {"rotated" if back else "values": values, "seed": seed.hex()}
    return settled(name, vector(comment, config, inputs), work, error)


def round_vector(name, comment, config, values, tries=1, error=None):
    """The seed is the first of its series that takes that number of tries."""
    seeds = (seed_of(f"{name} {number}") for number in range(10**6))
    values = values(seed_of(f"{name} 0")) if callable(values) else values
    seed = next(s for s in seeds if error or round_conditionally(config, values, s)[1] == tries)

    def work():
        steps, tries = round_conditionally(config, values, seed)
        # The norm may be found in any order of adding: that must not show in a vector.
        e = (len(values) + 8) * 2.0**-52
        assert all(round_conditionally(config, values, seed, shift) == (steps, tries) for shift in (-e, e)), name
        return {"largest_square": largest_square(**config), "tries": tries, "steps": steps,
                "decoded": [float(q) * config["step"] for q in steps], "context": rounding_context(**config)}

    inputs = {"values": [plain(x) for x in values], "seed": seed.hex()}
    return settled(name, vector(comment, config, inputs), work, error)


def lattice(step, clip_norm, dimension):
    return {"step": step, "clip_norm": clip_norm, "dimension": dimension}


def vectors():
    """{file name: vector} of all files in vectors/."""
    written = {encode_vector: encode_cases(), sum_vector: sum_cases(), rotate_vector: rotate_cases(),
               round_vector: round_cases()}
    every = {name: write(name, *case) for write, cases in written.items() for name, case in cases.items()}
    return {f"{name}.json": every[name] for name in sorted(every)}


def encode_cases():
    usual = parameters(1.0, 16, 10, 1)
    tiny, many = 5e-324, some_values("many", 9, 2.0)
    return {
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


def sum_cases():
    return {
        "sum_mean_of_three": ("three clients of weight 1", parameters(1.0, 16, 3, 1), [1, 1, 1], 5),
        "sum_weighted": ("three clients of different weights", parameters(2.5, 20, 5, 1000), [1000, 1, 250], 5),
        "sum_fewer_than_clients": ("two vectors where the parameters allow ten", parameters(1.0, 12, 10, 7), [7, 3], 6),
        "sum_full_scale": ("every client at the clip with the largest weight: no wrap", parameters(1.0, 8, 4, 3),
                           [3, 3, 3, 3], 3, [1.0, -1.0, 2.0]),
        "sum_of_64_bits": ("the largest sums that 64 bits hold, beyond 2^53", parameters(0.7, 32, 4, 2**30),
                           [2**30, 2**30, 2**30 - 1, 2**30], 4),
        "sum_of_one": ("one client alone", parameters(1.0, 24, 1, 1), [1], 4),
    }


def rotate_cases():
    return {
        "rotate_one_value": ("a block of one value: its sign alone", 1),
        "rotate_power_of_two": ("one block, nothing added", 8),
        "rotate_signs_over_several_bytes": ("bit i mod 8 of byte i div 8; the scale is 1 / sqrt(32)", 32),
        "rotate_one_large_value": ("a single value is spread evenly", 16, [0.0] * 5 + [5.0] + [0.0] * 10),
        "rotate_padded": ("13 values: three zeros make 16", 13),
        "rotate_padded_below_a_byte": ("7 values: one zero makes 8", 7),
        "rotate_two_blocks": ("11 values: blocks of 8 from 0 and from 3", 11),
        "rotate_two_blocks_that_overlap_most": ("17 values: blocks of 16 from 0 and from 1", 17),
        "rotate_two_blocks_of_two_values": ("3 values: the second block has a byte of its own", 3),
        "rotate_two_blocks_of_four_values": ("5 values: the second block has a byte of its own", 5),
        "rotate_two_blocks_of_several_bytes": ("100 values: blocks of 64, 8 bytes of signs each", 100),
        "rotate_two_blocks_of_256_values": ("300 values: blocks of 256 from 0 and from 44", 300),
        "rotate_far_apart": ("the order of adding shows in the last bits", 8,
                             [1e300, 1.0, -1e300, 1e284, 1.0, 2**-1074, 1e300, 3e284]),
        "rotate_float32": ("binary32, and 1 / sqrt(8) is rounded to it too", 11, None, "float32"),
        "rotate_back_padded": ("what stands in place of the added zeros is dropped, zero or not", 13),
        "rotate_back_two_blocks": ("the second block is undone first", 11),
        "rotate_back_two_blocks_of_four_values": ("the second block has a byte of its own", 5),
        "rotate_back_whole_numbers": ("whole steps of a sum", 20, [float(i * i % 37 - 18) for i in range(20)]),
        "rotate_back_float32": ("binary32 throughout, two blocks", 11, None, "float32"),
        "reject_rotate_size_0": ("no values at all", 0, [], "float64", "ConfigError"),
        "reject_rotate_seed_of_31_bytes": ("a byte of the seed is missing", 4, [1.0] * 4, "float64", "ConfigError", 31),
        "reject_rotate_seed_of_33_bytes": ("a seed is not cut to size", 4, [1.0] * 4, "float64", "ConfigError", 33),
        "reject_rotate_value_missing": ("3 values of 4", 4, [1.0] * 3, "float64", "EncodingError"),
        "reject_rotate_value_too_many": ("16 values of 13", 13, [1.0] * 16, "float64", "EncodingError"),
        "reject_rotate_back_coordinate_missing": ("13 of 16 coordinates", 13, [1.0] * 13, "float64", "EncodingError"),
        "reject_rotate_back_coordinate_too_many": ("12 coordinates for 11", 11, [1.0] * 12, "float64", "EncodingError"),
    }


def round_cases():
    usual, tiny, bad = lattice(1.0, 10.0, 4), 5e-324, ([0.5] * 4, 1, "ConfigError")
    cases = {
        "round_many": ("a step of 0.01, nothing to clip", lattice(0.01, 10.0, 40), some_values("round many", 40, 1.0)),
        "round_whole_steps": ("whole steps are not rounded", lattice(0.5, 20.0, 5), [0.0, 0.5, -0.5, 6.0, -7.5]),
        "round_half_steps": ("half steps go either way", lattice(1.0, 20.0, 6), [0.5, -0.5, 1.5, -1.5, 10.5, -10.5]),
        "round_near_whole_steps": ("values a hair from a whole step", lattice(1.0, 20.0, 4),
                                   [1 - 2**-40, 1 + 2**-40, -9 + 2**-40, -9 - 2**-40]),
        "round_on_the_boundary": ("a fraction equal to the word goes down, 2^-32 more goes up", lattice(1.0, 20.0, 4),
                                  lambda seed: [(r + i % 2) / 2**32 for i, r in enumerate(
                                      struct.unpack("<4I", expand(expand(seed, 32), 16)))]),
        "round_zeros": ("zeros and the smallest numbers", lattice(1.0, 1.0, 5), [0.0, -0.0, tiny, -tiny, -1e-300]),
        "round_step_not_a_power_of_two": ("value / step is rounded", lattice(0.3, 5.0, 5), [0.3, -0.3, 0.9, 1.0, -2.0]),
        "round_clipped": ("a norm of 50 is brought to 10", usual, [30.0, -40.0, 0.1, 0.0]),
        "round_at_the_clip_norm": ("a norm of clip_norm becomes a hair less", lattice(1.0, 2.0, 16), [0.5] * 16),
        "round_norm_beyond_binary64": ("the norm of what comes in overflows", usual, [1.7e308, -1.7e308, 1.7e308, 1.0]),
        "round_least_clip_norm": ("a clip_norm of 1e-100", lattice(1e-102, 1e-100, 3), [3e-101, -4.25e-101, 1e-103]),
        "round_largest_clip_norm": ("a clip_norm of 1e100", lattice(1e98, 1e100, 3), [3e300, -4.2e300, 1e50]),
        "round_longest": ("the longest norm", lattice(1.0, 2.0**26 - 2, 4), [-4e7 - 0.3, 53e6 + 0.6, 0.5, 2.0]),
        "round_bound_of_1": ("the bound is at least 1, and may be reached", lattice(5.0, 1.0, 1), [-0.95]),
        "round_second_try": ("one coordinate, the first try is beyond the bound", lattice(1.0, 10.4, 1), [10.4], 2),
        "round_third_try": ("several coordinates, two tries are beyond the bound", lattice(0.5, 5.25, 5),
                            [5.2, 0.2, -0.2, 0.2, -0.2], 3),
        "round_eighth_try": ("seven tries are beyond the bound", lattice(1.0, 10.4, 2), [-10.39, 0.1], 8),
        "round_clipped_and_redrawn": ("a norm of 100 is brought to 10.45", lattice(1.0, 10.45, 2), [100.0, -3.0], 2),
        "reject_round_value_missing": ("3 values of 4", usual, [1.0] * 3, 1, "EncodingError"),
        "reject_round_value_too_many": ("5 values of 4", usual, [1.0] * 5, 1, "EncodingError"),
        "reject_round_dimension_0": ("no coordinates at all", lattice(1.0, 1.0, 0), [], 1, "ConfigError"),
        "reject_round_step_too_short": ("the norm in steps would be too long", lattice(1.0, 2.0**26 - 1, 4), *bad),
        "reject_round_clip_norm_too_small": ("a clip_norm of 1e-101", lattice(1e-101, 1e-101, 4), *bad),
        "reject_round_clip_norm_too_large": ("a clip_norm of 1e101", lattice(1e101, 1e101, 4), *bad),
    }
    for what, x in {"0": 0.0, "negative": -1.0, "infinite": math.inf, "nan": math.nan}.items():
        cases[f"reject_round_step_{what}"] = (f"a step of {x}", lattice(x, 1.0, 4), *bad)
        cases[f"reject_round_clip_norm_{what}"] = (f"a clip_norm of {x}", lattice(1.0, x, 4), *bad)
    for what, x in {"nan": math.nan, "infinity": math.inf, "minus_infinity": -math.inf}.items():
        cases[f"reject_round_{what}"] = (f"a value is {x}: refused", usual, [0.0, x, 0.0, 0.0], 1, "EncodingError")
    return cases


def above(bits):
    """A clip for which clip * (L / clip) comes out above L."""
    return next(c for c in (1 + i / 1000 for i in range(1, 10**6)) if c * (largest(bits) / c) > largest(bits))


def write(folder, made):
    """Write {file name: vector} to a folder and delete other vectors; with --check only compare."""
    fresh = {name: dump(vector) for name, vector in made.items()}
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
    write(HERE / "vectors", vectors())
