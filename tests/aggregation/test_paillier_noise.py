"""What those who decrypt see of a sum with the clients' noise: the noisy sum, and nothing that is not in it."""

from typing import Any

import numpy as np
import pytest

import secfed
from secfed.aggregation.private_sum import PrivateSum
from secfed.paillier.integers import read_column
from secfed.paillier.messages import DecryptionResponse
from tests.paillier.keys import keypair


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])
@pytest.mark.parametrize("last", [4.0, -4.0])
@pytest.mark.parametrize("layers", [1, 3])
def test_slots_show_the_noisy_sum_and_not_how_many_were_negative(mechanism: Any, last: float, layers: int) -> None:
    updates = [*[np.full(3, 4.0)] * 20, np.full(3, last)]
    privacy = secfed.DistributedGaussian(1.0, 1.0, minimum_survivors=18, mechanism=mechanism, layers=layers)
    aggregator = secfed.Paillier(private_key=keypair()[1], noise="short")
    prepared = aggregator.prepare(updates[0], range(1, 22), privacy=privacy)
    transcript = prepared.run(updates, record=True).transcript
    assert transcript is not None
    entries = [entry for entry in transcript.entries if str(entry.stage) == "DECRYPTION"]
    config: Any = prepared.channel.config
    answer = DecryptionResponse.from_bytes(entries[-1].data)
    plaintexts = read_column(answer.plaintexts, config.public_key.plaintext_bytes(config.degree))
    slots = config.packing.unpack(plaintexts, 21)
    total = config.vector(slots, 21)
    assert isinstance(prepared.transform, PrivateSum)
    assert np.array_equal(slots.astype(np.int64), prepared.transform.centre(total) + 21 * config.bound)


@pytest.mark.parametrize("noise_multiplier", [0.01, 1.0, 100.0])
def test_noise_of_every_size_fits_into_slots(noise_multiplier: float) -> None:
    privacy = secfed.DistributedGaussian(1.0, noise_multiplier, bits=None)
    aggregator = secfed.Paillier(private_key=keypair()[1], noise="short")
    result = aggregator.aggregate([np.full(3, 0.1), np.full(3, 0.3)], privacy=privacy)
    assert np.allclose(result.mean, 0.2, atol=6 * noise_multiplier + 0.01)
