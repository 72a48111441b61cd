"""Secret keys: what keeps them in memory, and bytes of keys that only look like keys."""

import gc
import sys
import time
import weakref
from typing import Any

import numpy as np
import pytest

import secfed
from secfed import paillier
from secfed.errors import ConfigError
from tests.paillier.keys import keypair
from tests.paillier.threshold_keys import dealt

SAMPLED = secfed.CentralGaussian(1.0, 1.0, population=100, sampling_rate=0.5)


def cached_functions() -> dict[str, Any]:
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("secfed.paillier")]
    found = {f"{module.__name__}.{name}": value for module in modules for name, value in vars(module).items()}
    return {name: value for name, value in found.items() if hasattr(value, "cache_info")}


@pytest.mark.parametrize("degree", [1, 2, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("subgroup", [False, True])
def test_decryption_leaves_nothing_in_the_caches_of_the_process(degree: int, subgroup: bool) -> None:
    public_key, private_key = keypair(subgroup)
    ciphertexts = public_key.encrypt([20, 22], degree=degree)
    for function in cached_functions().values():
        function.cache_clear()
    assert private_key.decrypt(ciphertexts, degree=degree) == [20, 22]
    assert not {name for name, function in cached_functions().items() if function.cache_info().currsize}


def test_aggregator_with_its_key_is_forgotten_after_use() -> None:
    aggregator = secfed.Paillier(private_key=keypair()[1])
    prepared = aggregator.prepare(np.zeros(3), range(1, 51), privacy=SAMPLED)
    assert prepared.cohorts == (2, 101)
    reference = weakref.ref(aggregator)
    del aggregator, prepared
    gc.collect()
    assert reference() is None


def test_shares_may_come_in_a_list_where_cohorts_are_sampled() -> None:
    key, shares = dealt(2, 3)
    aggregator = secfed.Paillier(private_key=(key, list(shares)), minimum_cohort=5)
    assert aggregator.prepare(np.zeros(3), range(1, 51), privacy=SAMPLED).cohorts == (5, 101)


def test_primes_with_a_common_factor_are_refused() -> None:
    common, start = 10007, (15 << 252) // 10007 | 1
    p, q = common * (start + 8), common * (start + 14)
    public_key = paillier.PublicKey(p * q, insecure_size=True)
    with pytest.raises(ConfigError, match="needed two different primes of 256 bits"):
        paillier.PrivateKey(public_key, p, q)


def test_private_key_of_absurd_size_is_refused_at_once() -> None:
    key_bits = 1 << 27
    data = key_bits.to_bytes(4, "little") + b"\xff" * (key_bits // 8 + 64 + key_bits // 8)
    started = time.perf_counter()
    with pytest.raises(ConfigError, match="says 134217728 bits"):
        paillier.PrivateKey.from_bytes(data)
    assert time.perf_counter() - started < 1


def test_negative_modulus_is_no_key() -> None:
    with pytest.raises(ConfigError, match="n is negative"):
        paillier.PublicKey(-keypair()[0].n, insecure_size=True)


@pytest.mark.parametrize("plaintext", [1.0, 1.5, "1", np.float64(2)])
@pytest.mark.parametrize("degree", [1, 2])
def test_number_that_is_not_whole_gets_no_ciphertext(plaintext: Any, degree: int) -> None:
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        keypair()[0].encrypt([plaintext], degree=degree)
