"""Ed25519 against RFC 8032; verification refuses everything else; no secret in a representation."""

import copy
import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.crypto.signing import SIGNATURE_BYTES, SigningKey, is_sound, verify
from tests.examples import examples

# RFC 8032, section 7.1: private key, public key, message, signature (TEST 1, 2, 3 and SHA(abc)).
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        b"",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        b"\x72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        b"\xaf\x82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        hashlib.sha512(b"abc").digest(),
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
        "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
]


@pytest.mark.parametrize(("private", "public", "message", "signature"), RFC_8032)
def test_signature_is_that_of_rfc_8032(private: str, public: str, message: bytes, signature: str) -> None:
    key = SigningKey(bytes.fromhex(private))
    assert key.public_bytes.hex() == public
    assert key.sign(message).hex() == signature
    assert len(key.sign(message)) == SIGNATURE_BYTES
    assert verify(bytes.fromhex(public), bytes.fromhex(signature), message)


def test_every_flipped_bit_of_a_signature_or_public_key_is_refused() -> None:
    public, message, signature = bytes.fromhex(RFC_8032[2][1]), RFC_8032[2][2], bytes.fromhex(RFC_8032[2][3])
    assert verify(public, signature, message)
    for bit in range(8 * SIGNATURE_BYTES):
        assert not verify(public, _flipped(signature, bit), message)
    for bit in range(8 * 32):
        assert not verify(_flipped(public, bit), signature, message)
    for bit in range(8 * len(message)):
        assert not verify(public, signature, _flipped(message, bit))


def test_signature_with_the_group_order_added_is_refused() -> None:
    """RFC 8032, section 5.1.7: S must be below L, or one signature becomes two."""
    order = 2**252 + 27742317777372353535851937790883648493
    _, public, message, signature = RFC_8032[1]
    raw = bytes.fromhex(signature)
    malleable = raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    assert not verify(bytes.fromhex(public), malleable, message)


@examples(14, 50)
@given(st.binary(max_size=70), st.binary(max_size=100), st.binary(max_size=40))
def test_verification_of_any_bytes_is_false_and_never_an_error(public: bytes, signature: bytes, message: bytes) -> None:
    assert verify(public, signature, message) is False


def test_generated_keys_differ_and_come_back_from_their_private_bytes() -> None:
    keys = [SigningKey.generate() for _ in range(20)]
    assert len({key.public_bytes for key in keys}) == 20
    for key in keys:
        assert SigningKey(key.private_bytes()).public_bytes == key.public_bytes


def test_signing_key_shows_no_secret_and_refuses_to_be_copied_or_pickled() -> None:
    key = SigningKey.generate()
    for text in (repr(key), str(key), repr((key,))):
        assert key.private_bytes().hex() not in text
        assert "redacted" in text
    assert not hasattr(key, "__dict__")
    for action in (copy.copy, copy.deepcopy, *(lambda x, p=p: pickle.dumps(x, p) for p in range(6))):
        with pytest.raises(TypeError, match="cannot be pickled"):
            action(key)


P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
Y_OF_ORDER_8 = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
# Every y of a point of low order, and the same plus p where it still has 255 bits.
Y_OF_LOW_ORDER = [0, 1, P - 1, Y_OF_ORDER_8, P - Y_OF_ORDER_8, P, P + 1]


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("y", Y_OF_LOW_ORDER)
def test_anybody_signs_for_a_key_of_low_order_and_none_is_sound(y: int, sign: int) -> None:
    public = (y + (sign << 255)).to_bytes(32, "little")
    assert not is_sound(public)
    # R = s B with a scalar of anybody's: R + k A = s B if the order of A divides k, a hash of the message.
    seed = bytes(range(32))
    digest = bytearray(hashlib.sha512(seed).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 127 | 64
    scalar = int.from_bytes(digest, "little") % ORDER
    forged = SigningKey(seed).public_bytes + scalar.to_bytes(32, "little")
    assert any(verify(public, forged, b"message %d" % i) for i in range(200))


def test_the_points_of_low_order_have_five_y_coordinates() -> None:
    """2 P is of order 4 and has y = 0 only if d y^4 + 2 y^2 = 1; the other root for y^2 is no square."""
    d = -121665 * pow(121666, -1, P) % P
    assert (d * Y_OF_ORDER_8**4 + 2 * Y_OF_ORDER_8**2 - 1) % P == 0
    other = (-pow(d, -1, P) * pow(Y_OF_ORDER_8, -2, P)) % P
    assert (d * other**2 + 2 * other - 1) % P == 0
    assert pow(other, (P - 1) // 2, P) == P - 1


@pytest.mark.parametrize("sign", [0, 1])
def test_identity_key_with_y_of_at_least_p_is_not_sound(sign: int) -> None:
    for y in range(P, 2**255):
        assert not is_sound((y + (sign << 255)).to_bytes(32, "little"))
    assert is_sound((3 + (sign << 255)).to_bytes(32, "little"))  # of which P + 3 is another encoding


def test_bytes_that_are_no_point_of_the_curve_are_not_sound() -> None:
    for y in (2, 7, 8):
        assert not is_sound(y.to_bytes(32, "little"))
    assert not is_sound(b"\xff" * 32)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_identity_key_of_another_length_is_not_sound(size: int) -> None:
    assert not is_sound((SigningKey(bytes(32)).public_bytes * 2)[:size])


@examples(14, 50)
@given(st.binary(min_size=32, max_size=32))
def test_identity_key_of_any_private_key_is_sound(private_bytes: bytes) -> None:
    assert is_sound(SigningKey(private_bytes).public_bytes)


def _flipped(data: bytes, bit: int) -> bytes:
    altered = bytearray(data)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)
