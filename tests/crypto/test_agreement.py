"""X25519 and HKDF against their RFCs; keys of low order; no secret in a representation."""

import copy
import pickle

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from secfed.crypto.agreement import KeyPair, are_distinct, are_sound, derive, is_sound

P = 2**255 - 19

# RFC 7748, section 5.2: scalar, u-coordinate, result.
RFC_7748_5_2 = [
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
]
# RFC 7748, section 5.2, the iterated test: after 1 and after 1,000 turns.
RFC_7748_ITERATED = {
    1: "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
    1000: "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51",
}
# RFC 7748, section 6.1.
ALICE_PRIVATE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
BOB_PRIVATE = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
BOB_PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
SHARED_SECRET = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"

# RFC 5869, appendix A.1 to A.3: input key, salt, info, output key.
RFC_5869 = [
    (
        bytes([0x0B]) * 22,
        bytes(range(0x00, 0x0D)),
        bytes(range(0xF0, 0xFA)),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x00, 0x50)),
        bytes(range(0x60, 0xB0)),
        bytes(range(0xB0, 0x100)),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b83"
        "67793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        bytes([0x0B]) * 22,
        b"",
        b"",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]

# The points of small order of Curve25519 and its twist, as in Wycheproof's x25519 tests.
CANONICAL_LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
]
OTHER_FORMS_OF_LOW_ORDER = [
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # p
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # p + 1
    *[value[:-2] + f"{int(value[-2:], 16) | 0x80:02x}" for value in CANONICAL_LOW_ORDER],  # highest bit, not read
]
# Low order for an implementation that reads the highest bit, which RFC 7748 forbids.
LOW_ORDER_WITH_256_BITS = [
    "cdeb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",  # plus p
    "4c9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",  # plus p
    "d9ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",  # 2p - 1
    "daffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",  # 2p
    "dbffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",  # 2p + 1
]


@pytest.mark.parametrize(("scalar", "u", "result"), RFC_7748_5_2)
def test_agreement_uses_the_x25519_function_of_rfc_7748(scalar: str, u: str, result: str) -> None:
    agreed = KeyPair(bytes.fromhex(scalar)).agree(bytes.fromhex(u), salt=b"salt", info=b"info", size=40)
    assert agreed == derive(bytes.fromhex(result), b"salt", b"info", 40)


def test_x25519_iterated_a_thousand_times_gives_the_value_of_rfc_7748() -> None:
    k = u = (9).to_bytes(32, "little")
    for turn in range(1, 1001):
        k, u = KeyPair(k)._private.exchange(X25519PublicKey.from_public_bytes(u)), k
        if turn in RFC_7748_ITERATED:
            assert k.hex() == RFC_7748_ITERATED[turn]


def test_both_sides_of_rfc_7748_section_6_1_derive_from_the_same_secret() -> None:
    alice, bob = KeyPair(bytes.fromhex(ALICE_PRIVATE)), KeyPair(bytes.fromhex(BOB_PRIVATE))
    assert alice.public_bytes.hex() == ALICE_PUBLIC
    assert bob.public_bytes.hex() == BOB_PUBLIC
    expected = derive(bytes.fromhex(SHARED_SECRET), b"s", b"i", 32)
    assert alice.agree(bob.public_bytes, salt=b"s", info=b"i") == expected
    assert bob.agree(alice.public_bytes, salt=b"s", info=b"i") == expected


@pytest.mark.parametrize(("secret", "salt", "info", "okm"), RFC_5869)
def test_derivation_is_the_hkdf_of_rfc_5869(secret: bytes, salt: bytes, info: bytes, okm: str) -> None:
    assert derive(secret, salt, info, len(okm) // 2).hex() == okm


def test_another_salt_info_or_size_gives_another_key() -> None:
    one, other = KeyPair(bytes([1]) * 32), KeyPair(bytes([2]) * 32)
    keys = {
        one.agree(other.public_bytes, salt=salt, info=info) for salt in (b"", b"a", b"b") for info in (b"", b"a", b"ab")
    }
    assert len(keys) == 9
    assert one.agree(other.public_bytes, salt=b"", info=b"", size=16) in {key[:16] for key in keys}


@pytest.mark.parametrize("point", CANONICAL_LOW_ORDER + OTHER_FORMS_OF_LOW_ORDER + LOW_ORDER_WITH_256_BITS)
def test_public_key_of_low_order_is_not_sound(point: str) -> None:
    assert not is_sound(bytes.fromhex(point))


@pytest.mark.parametrize("point", CANONICAL_LOW_ORDER + OTHER_FORMS_OF_LOW_ORDER)
def test_agreement_with_a_point_of_low_order_is_an_error(point: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text is that of `cryptography`
        KeyPair(bytes([7]) * 32).agree(bytes.fromhex(point), salt=b"", info=b"")


def test_public_key_that_is_not_canonical_is_not_sound() -> None:
    for value in [*range(P, 2**255), 2**255 + 9, 2**256 - 1]:
        assert not is_sound(value.to_bytes(32, "little"))
    for value in (2, 9, P - 2, P // 2):
        assert is_sound(value.to_bytes(32, "little"))


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_public_key_of_another_length_is_not_sound(size: int) -> None:
    assert not is_sound((KeyPair(bytes(32)).public_bytes * 2)[:size])


@given(st.binary(min_size=32, max_size=32))
def test_public_key_of_any_private_key_is_sound(private_bytes: bytes) -> None:
    assert is_sound(KeyPair(private_bytes).public_bytes)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_two_parties_agree_whatever_their_keys(one: bytes, other: bytes) -> None:
    left, right = KeyPair(one), KeyPair(other)
    assert left.agree(right.public_bytes, salt=b"x", info=b"y") == right.agree(left.public_bytes, salt=b"x", info=b"y")


def test_private_bytes_come_back_as_they_went_in() -> None:
    secret = bytes(range(32))
    assert KeyPair(secret).private_bytes() == secret


def test_key_pair_shows_no_secret_and_refuses_to_be_copied_or_pickled() -> None:
    secret = bytes(range(100, 132))
    pair = KeyPair(secret)
    for text in (repr(pair), str(pair), f"{pair}", repr([pair])):
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text
        assert "redacted" in text
    assert not hasattr(pair, "__dict__")
    for action in (copy.copy, copy.deepcopy, *(lambda x, p=p: pickle.dumps(x, p) for p in range(6))):
        with pytest.raises(TypeError, match="cannot be pickled"):
            action(pair)


@pytest.mark.parametrize("place", [0, 1, 4])
def test_many_keys_are_sound_as_each_of_them_is(place: int) -> None:
    keys = [KeyPair(bytes([i + 1]) * 32).public_bytes for i in range(5)]
    assert are_sound(b"".join(keys))
    top = 2**255 - 19
    edges = [u.to_bytes(32, "little") for u in (2, top - 2, top - 1, top, top + 1, 2**255 - 1, 2**256 - 1)]
    high = [keys[place][:31] + bytes([last]) for last in (0x7F, 0x80)]
    for key in (*edges, *high, *map(bytes.fromhex, CANONICAL_LOW_ORDER)):
        changed = [*keys[:place], key, *keys[place + 1 :]]
        assert are_sound(b"".join(changed)) == is_sound(key), key.hex()
    assert are_sound(b"")


def test_two_equal_keys_among_many_are_found() -> None:
    keys = [KeyPair(bytes([i + 1]) * 32).public_bytes for i in range(5)]
    assert are_distinct(b"".join(keys))
    assert not are_distinct(b"".join([*keys, keys[2]]))
    assert are_distinct(b"".join([*keys, keys[2][:31] + bytes([keys[2][31] ^ 1])]))
    assert are_distinct(b"")
