"""phe opens and adds our ciphertexts, and we open and add phe's; keys go both ways."""

import math
import sys
from typing import Any

import numpy as np
import phe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secfed import paillier
from secfed.errors import ConfigError, EncodingError, MissingExtraError
from secfed.paillier import interop
from tests.paillier.keys import keypair, other_keypair

SETTINGS = settings(deadline=None, max_examples=15)
NUMBERS = st.lists(st.integers(-(10**30), 10**30), min_size=1, max_size=4)
SUBGROUP = pytest.mark.parametrize("subgroup", [False, True], ids=["ordinary key", "subgroup key"])


@pytest.fixture(scope="module")
def phe_keys() -> tuple[Any, Any]:
    keys: tuple[Any, Any] = phe.generate_paillier_keypair(n_length=1024)
    return keys


@pytest.mark.sampled(2)
@SUBGROUP
@pytest.mark.parametrize("noise", ["half", "short", "full"])
@SETTINGS
@given(NUMBERS)
def test_phe_opens_and_adds_what_we_encrypt(subgroup: bool, noise: paillier.Noise, numbers: list[int]) -> None:
    public_key, private_key = keypair(subgroup)
    theirs_public, theirs_private = interop.to_phe(public_key), interop.to_phe(private_key)
    ours = public_key.encrypt([number % public_key.n for number in numbers], noise=noise)
    as_phe = interop.to_phe_numbers(public_key, ours)
    assert [theirs_private.decrypt(number) for number in as_phe] == numbers
    total = sum(as_phe, theirs_public.encrypt(7))
    assert theirs_private.decrypt(total) == sum(numbers) + 7


@pytest.mark.sampled(1)
@SUBGROUP
@SETTINGS
@given(NUMBERS)
def test_we_open_and_add_what_phe_encrypts(subgroup: bool, numbers: list[int]) -> None:
    public_key, private_key = keypair(subgroup)
    theirs = [interop.to_phe(public_key).encrypt(number) for number in numbers]
    ciphertexts, exponents = interop.from_phe_numbers(public_key, theirs)
    assert exponents == [0] * len(numbers)
    opened = private_key.decrypt(ciphertexts)
    assert [interop.decode_phe(public_key, plaintext) for plaintext in opened] == numbers
    product = math.prod([*ciphertexts, int(public_key.encrypt([5])[0])]) % int(public_key.n) ** 2
    [total] = private_key.decrypt([product])
    assert interop.decode_phe(public_key, total) == sum(numbers) + 5


@SETTINGS
@given(st.floats(-1e6, 1e6))
def test_floats_of_phe_keep_their_exponent(phe_keys: tuple[Any, Any], number: float) -> None:
    public_key = interop.from_phe(phe_keys[0], insecure_size=True)
    private_key = interop.from_phe(phe_keys[1], insecure_size=True)
    ciphertexts, [exponent] = interop.from_phe_numbers(public_key, [phe_keys[0].encrypt(number)])
    [plaintext] = private_key.decrypt(ciphertexts)
    assert interop.decode_phe(public_key, plaintext, exponent) == number


def test_keys_of_phe_encrypt_with_full_noise_and_no_other(phe_keys: tuple[Any, Any]) -> None:
    public_key = interop.from_phe(phe_keys[0], insecure_size=True)
    private_key = interop.from_phe(phe_keys[1], insecure_size=True)
    assert private_key.public_key == public_key
    [ciphertext] = public_key.encrypt([12], noise="full")
    assert private_key.decrypt([ciphertext]) == [12]
    assert phe_keys[1].decrypt(interop.to_phe_numbers(public_key, [ciphertext])[0]) == 12
    with pytest.raises(ConfigError, match='this key has no h, so it takes noise "full" only'):
        public_key.encrypt([12])
    config = paillier.Config(public_key, [1, 2], 30)
    vectors = {1: np.arange(30), 2: np.arange(30)}
    assert paillier.run_session(config, vectors, private_key, noise="full").sum.tolist() == list(range(0, 60, 2))
    assert type(public_key).from_bytes(public_key.to_bytes(), insecure_size=True) == public_key
    assert type(private_key).from_bytes(private_key.to_bytes(), insecure_size=True) == private_key


def test_keys_go_to_phe_and_back() -> None:
    public_key, private_key = keypair()
    back = interop.from_phe(interop.to_phe(private_key), insecure_size=True)
    assert (back.p, back.q) in {(private_key.p, private_key.q), (private_key.q, private_key.p)}
    assert interop.from_phe(interop.to_phe(public_key), insecure_size=True).n == public_key.n


def test_what_does_not_fit_is_refused(phe_keys: tuple[Any, Any]) -> None:
    public_key = keypair()[0]
    with pytest.raises(ConfigError, match="1024 bits, needed a multiple of 16 from 2048"):
        interop.from_phe(phe_keys[0])
    with pytest.raises(ConfigError, match="found int"):
        interop.from_phe(3)
    with pytest.raises(ConfigError, match="found int"):
        interop.to_phe(3)  # type: ignore[arg-type]
    with pytest.raises(EncodingError, match="number 0 is not a phe"):
        interop.from_phe_numbers(public_key, [phe_keys[0].encrypt(1)])
    forged = phe.EncryptedNumber(interop.to_phe(public_key), int(public_key.n), 0)
    with pytest.raises(EncodingError, match="common factor"):
        interop.from_phe_numbers(public_key, [forged])
    with pytest.raises(EncodingError, match="not from 1 to"):
        interop.to_phe_numbers(public_key, other_keypair()[0].encrypt([1], degree=3))
    with pytest.raises(EncodingError, match="overflow"):
        interop.decode_phe(public_key, public_key.n // 2)


def test_without_phe_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phe", None)
    with pytest.raises(MissingExtraError, match=r'pip install "\.\[phe\]"'):
        interop.to_phe(keypair()[0])
