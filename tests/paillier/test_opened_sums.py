"""A key holder opens the sum of one set of clients under a configuration, and no other."""

from typing import Any

import pytest

from secfed import errors, paillier
from tests.paillier.forge import collected, config, raised, total, with_plaintext
from tests.paillier.keys import keypair

OTHER_SETS = [(1, 2), (2, 3), (1, 2, 3, 4), (5, 6), (1, 2, 3, 4, 5, 6)]


def holder(cohort: paillier.Config, opened: paillier.OpenedSums | None = None) -> paillier.KeyHolder:
    return paillier.KeyHolder(cohort, keypair()[1], opened=opened)


@pytest.mark.parametrize("others", OTHER_SETS)
def test_sum_of_other_clients_is_refused_however_much_they_differ(others: tuple[int, ...]) -> None:
    cohort = config(range(1, 7))
    key_holder = holder(cohort)
    key_holder.receive(collected(cohort, [1, 2, 3])[1])
    with pytest.raises(errors.FaultyServerError) as caught:
        key_holder.receive(collected(cohort, others)[1])
    assert caught.value.check == "K4"
    assert f"({len({1, 2, 3} ^ set(others))} differ)" in str(caught.value)


def test_same_clients_may_be_summed_again_and_other_rounds_too() -> None:
    opened = paillier.OpenedSums()
    for cohort in (config(), config(), config(round=1)):
        server, request = collected(cohort, [1, 2])
        server.receive(1, holder(cohort, opened).receive(request))
        server.close_stage()
        assert server.sum.tolist() == total(cohort, [1, 2])
    assert len(opened) == 2
    with pytest.raises(errors.FaultyServerError, match="K4"):
        holder(config(), opened).receive(collected(config(), [1, 3])[1])


def test_refused_plaintexts_count_as_opened() -> None:
    cohort = config()
    key_holder, packing = holder(cohort), cohort.packing
    request = collected(cohort, [1, 2])[1]
    with pytest.raises(errors.DecryptionError):
        key_holder.receive(with_plaintext(cohort, request, 1 << packing.slots * packing.slot_bits))
    with pytest.raises(errors.FaultyServerError, match="K4"):
        key_holder.receive(collected(cohort, [1, 3])[1])
    assert key_holder.receive(request)


def test_request_refused_before_decryption_opens_nothing() -> None:
    cohort, opened = config(), paillier.OpenedSums()
    _, request = collected(cohort, [1, 2])
    size = cohort.public_key.ciphertext_bytes()
    with pytest.raises(errors.DecryptionError):
        holder(cohort, opened).receive(request[:-size] + bytes(size))
    assert len(opened) == 0


def test_two_sessions_at_once_open_one_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, opened = config(), paillier.OpenedSums()
    requests = [collected(cohort, ids)[1] for ids in ([1, 2], [1, 3])]
    real, results = paillier.PublicKey.find_unsound, []

    def interrupted(*args: Any) -> str:
        monkeypatch.setattr(paillier.PublicKey, "find_unsound", real)
        results.append(raised(lambda: holder(cohort, opened).receive(requests[1])))
        return real(*args)

    monkeypatch.setattr(paillier.PublicKey, "find_unsound", interrupted)
    results.append(raised(lambda: holder(cohort, opened).receive(requests[0])))
    assert isinstance(results[0], bytes)
    assert isinstance(results[1], errors.FaultyServerError)
    assert results[1].check == "K4"


def test_memory_is_saved_and_resumed() -> None:
    cohort, opened = config(), paillier.OpenedSums()
    holder(cohort, opened).receive(collected(cohort, [1, 2])[1])
    resumed = paillier.OpenedSums.from_bytes(opened.to_bytes())
    assert resumed.to_bytes() == opened.to_bytes()
    assert len(resumed) == 1
    assert holder(cohort, resumed).receive(collected(cohort, [1, 2])[1])
    with pytest.raises(errors.FaultyServerError, match="K4"):
        holder(cohort, resumed).receive(collected(cohort, [2, 3])[1])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"5",
        b"\xff",
        b'{"00": [1]}',
        b'{"zz": [1]}',
        b'{"' + b"00" * 32 + b'": 5}',
        b'{"' + b"00" * 32 + b'": ["1"]}',
        b'{"' + b"00" * 32 + b'": [true]}',
        b"[" * 100_000,
        b'{"' + b"00" * 32 + b'": [0, -1]}',
        b'{"' + b"00" * 32 + b'": ""}',
        b'{"' + b"00" * 32 + b'": {}}',
        b'{"' + b"00" * 32 + b'": [1, 2], "' + b"00" * 32 + b'": [1, 3]}',
        b'{"' + b"aa" * 32 + b'": [1, 2], "' + b"AA" * 32 + b'": [1, 3]}',
    ],
)
def test_bytes_that_are_no_memory_are_refused(data: bytes) -> None:
    with pytest.raises(errors.MalformedMessageError, match="not a saved memory"):
        paillier.OpenedSums.from_bytes(data)
