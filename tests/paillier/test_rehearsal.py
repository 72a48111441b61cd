"""The key that stands in for a real one, and what a client's encryption takes under it."""

import time

import pytest

from secfed.errors import ConfigError
from secfed.paillier import Config, generate_keypair
from secfed.paillier.rehearsal import client_times, stand_in_key


@pytest.mark.parametrize("key_bits", [2048, 3072, 4096])
def test_key_has_the_size_of_a_real_one(key_bits: int) -> None:
    key = stand_in_key(key_bits)
    assert key.key_bits == key_bits and key == stand_in_key(key_bits)


@pytest.mark.parametrize("key_bits", [0, 2047, 2050, 16400])
def test_sizes_that_no_key_can_have_are_refused_in_the_same_words(key_bits: int) -> None:
    with pytest.raises(ConfigError) as real:
        generate_keypair(key_bits)
    with pytest.raises(ConfigError) as stand_in:
        stand_in_key(key_bits)
    assert stand_in.value.args == real.value.args


def test_times_are_those_of_one_plaintext_and_of_the_table() -> None:
    config = Config(stand_in_key(2048), [1, 2, 3], 500, 20)
    found = client_times(config, time.process_time)
    assert found is not None
    each, once = found
    assert 0 < each < once


def test_keys_that_take_too_long_are_not_tried() -> None:
    assert client_times(Config(stand_in_key(4096), [1, 2], 5, 20, degree=3), time.process_time) is None
