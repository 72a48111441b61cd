"""With gmpy2 and without: the same bytes, and a warning where it is missing."""

from collections.abc import Iterator

import pytest

from secfed import errors, paillier
from secfed.crypto.entropy import SeededEntropy, predictable_secrets
from secfed.paillier import integers
from secfed.paillier.noise import noise_table
from tests.paillier.forge import config, total, vector_of
from tests.paillier.keys import keypair


@pytest.fixture
def without_gmpy2(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Takes gmpy2 away, inside `context()`; what is kept between calls is forgotten before and after."""
    yield monkeypatch
    forget()


def forget() -> None:
    noise_table.cache_clear()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("noise", "degree"), [("half", 1), ("short", 1), ("full", 1), ("full", 3)])
def test_plain_integers_give_the_same_ciphertexts(
    noise: paillier.Noise, degree: int, without_gmpy2: pytest.MonkeyPatch
) -> None:
    key, private_key = keypair()
    plaintexts = [1, key.n**degree - 1]
    fast = key.encrypt(plaintexts, noise=noise, degree=degree, seed=bytes(32))
    with without_gmpy2.context() as patch:
        patch.setattr(integers, "gmpy2", None)
        forget()
        slow = key.encrypt(plaintexts, noise=noise, degree=degree, seed=bytes(32))
        assert all(type(ciphertext) is int for ciphertext in slow)
        assert private_key.decrypt(slow, degree=degree) == plaintexts
    assert slow == fast


def messages() -> tuple[list[bytes], list[int]]:
    cohort, seen = config(weights={1: 3, 2: 1, 3: 500}), []
    with predictable_secrets():
        result = paillier.run_session(
            cohort,
            vector_of,
            keypair()[1],
            entropies=lambda party: SeededEntropy(bytes([party] * 32)),
            observer=lambda stage, direction, party, data: seen.append(data),
        )
    assert result.sum.tolist() == total(cohort, [1, 2, 3])
    return seen, result.sum.tolist()


def test_plain_integers_give_the_same_session(without_gmpy2: pytest.MonkeyPatch) -> None:
    fast = messages()
    with without_gmpy2.context() as patch:
        patch.setattr(integers, "gmpy2", None)
        forget()
        with pytest.warns(paillier.SlowIntegersWarning, match="eight to ten times slower"):
            slow = messages()
    assert slow == fast


def test_every_party_warns_of_slow_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integers, "gmpy2", None)
    cohort = config()
    for build in (
        lambda: paillier.Client(cohort, 1, vector_of(1)),
        lambda: paillier.Server(cohort),
        lambda: paillier.KeyHolder(cohort, keypair()[1]),
    ):
        with pytest.warns(paillier.SlowIntegersWarning, match=r'pip install "\.\[paillier\]"'):
            build()


def test_subgroup_key_needs_gmpy2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integers, "gmpy2", None)
    with pytest.raises(errors.MissingExtraError, match="gmpy2"):
        paillier.generate_insecure_keypair(1024, subgroup=True)


@pytest.mark.parametrize("subgroup", [False, True])
def test_generated_key_is_sound_and_decrypts(subgroup: bool) -> None:
    public_key, private_key = paillier.generate_insecure_keypair(1024, subgroup=subgroup)
    assert public_key.key_bits == 1024
    assert any(private_key.subgroup) is subgroup
    data = private_key.to_bytes()
    assert paillier.PrivateKey.from_bytes(data, insecure_size=True).to_bytes() == data
    assert private_key.decrypt(public_key.encrypt([0, 5, public_key.n - 1])) == [0, 5, public_key.n - 1]


@pytest.mark.parametrize("key_bits", [1024, 2056, 16400])
def test_key_of_another_size_is_not_made(key_bits: int) -> None:
    with pytest.raises(errors.ConfigError, match=f"key_bits {key_bits}"):
        paillier.generate_keypair(key_bits)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads: int) -> None:
    key, private_key = keypair()
    plaintexts = list(range(50))
    found = key.encrypt(plaintexts, seed=bytes(32), threads=threads)
    assert found == key.encrypt(plaintexts, seed=bytes(32))
    assert private_key.decrypt(found, threads=threads) == plaintexts
