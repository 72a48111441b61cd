"""A session's configuration as bytes, for transports that carry it."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.errors import ConfigError, MalformedMessageError
from secfed.paillier import Config
from secfed.paillier.keys import LABEL
from tests.paillier.keys import keypair, other_keypair

KEY = keypair()[0]


@st.composite
def configs(draw: Any) -> Config:
    ids = draw(st.lists(st.integers(1, 2**63), min_size=2, max_size=6, unique=True))
    bits = draw(st.integers(1, 32))
    return Config(
        KEY,
        ids,
        draw(st.integers(1, 1000)),
        bits,
        bound=draw(st.integers(0, 2 ** (bits - 1) - 1)),
        weights=draw(st.none() | st.just([draw(st.integers(1, 2**8)) for _ in ids])),
        minimum_cohort=draw(st.integers(2, len(ids))),
        degree=draw(st.integers(1, 7)),
        round=draw(st.integers(0, 2**64 - 1)),
        model_hash=draw(st.binary(min_size=32, max_size=32)),
        context=draw(st.binary(max_size=50)),
    )


@given(config=configs())
def test_configuration_survives_its_bytes(config: Config) -> None:
    again = Config.from_bytes(config.to_bytes(), KEY)
    assert again == config and again.hash == config.hash
    assert config.hash == hashlib.sha256(LABEL + b"config" + config.to_bytes()).digest()


@given(config=configs(), data=st.data())
def test_damaged_bytes_are_refused_or_another_configuration(config: Config, data: Any) -> None:
    whole = bytearray(config.to_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        del whole[place:]
    else:
        whole[place] ^= data.draw(st.integers(1, 255))
    try:
        found = Config.from_bytes(bytes(whole), KEY)
    except (ConfigError, MalformedMessageError):
        return
    assert found.to_bytes() == bytes(whole) and found.hash != config.hash


def test_configuration_for_another_key_is_refused() -> None:
    data = Config(KEY, [1, 2], 5).to_bytes()
    with pytest.raises(ConfigError, match="another public key"):
        Config.from_bytes(data, other_keypair()[0])
