"""A faulty client never makes the sum wrong and never stops the others: it is named, or there is no sum."""

import random
from collections.abc import Collection, Iterable
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed import errors
from secfed.crypto import field, shamir
from secfed.crypto.entropy import predictable_secrets
from secfed.secagg import Config, Stage, masking, messages
from secfed.secagg.server import Server
from tests.examples import examples
from tests.secagg.forge import (
    IDS,
    RING,
    SEALED,
    SHARE,
    Session,
    advertise,
    any_message,
    assert_server_refuses,
    bitmap,
    channel,
    complete,
    edit,
    flipped,
    graph,
    held,
    holders,
    listed,
    opened,
    others,
    ring,
    seal,
    seen,
    state,
    with_part,
)

FAULTY = 5
NINE = tuple(range(1, 10))
STAGES = [stage for stage in Stage if stage < Stage.DONE]
IN_EVERY_STAGE = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def garbage(session: Session, seed: int) -> list[bytes]:
    """What a broken or hostile client may send instead of an answer."""
    rng = random.Random(seed)
    good = session.reply(FAULTY)
    flips = [flipped(good, rng.randrange(2), rng.randrange(8)) for _ in range(2)]
    cuts = [good[: rng.randrange(len(good))] for _ in range(5)]
    longer = [good + rng.randbytes(rng.randrange(1, 50)) for _ in range(3)]
    noise = [rng.randbytes(rng.randrange(200)) for _ in range(5)]
    noise += [bytes((1, good[1])) + rng.randbytes(rng.randrange(200)) for _ in range(5)]
    kinds = [any_message(cls) for cls in (messages.UnmaskingRequest, messages.AdvertiseKeysRequest)]
    return [*flips, *cuts, *longer, *noise, *kinds, b"", b"\1", bytes(10_000)]


@pytest.mark.sampled(3)
@IN_EVERY_STAGE
@pytest.mark.parametrize("config", [complete(threshold=4), ring()], ids=["complete", "ring"])
def test_garbage_from_one_client_in_any_stage_stops_nobody(stage: Stage, config: Config) -> None:
    session = Session(config).to(stage)
    server = session.server
    for bad in garbage(session, stage):
        before = state(server, without=["faults"])
        if bad[1:2] and bad[0] == 1 and 2 <= bad[1] < 2 * stage and not bad[1] % 2:
            assert not server.receive(FAULTY, bad)  # late
        else:
            with pytest.raises(errors.FaultyClientError) as caught:
                server.receive(FAULTY, bad)
            assert caught.value.client_id == FAULTY
            assert caught.value.check in {"S2", "S3", "S5", "S7", "S8", "S9", "S10", "S11"}
        assert state(server, without=["faults"]) == before
    session.answer(silent=[FAULTY])
    session.close()
    session.finish().assert_sum()
    assert {fault.client_id for fault in server.faults} == {FAULTY}
    expected = set(config.client_ids) - ({FAULTY} if stage <= Stage.MASKED_INPUT_COLLECTION else set())
    assert set(server.survivors) == expected


@pytest.mark.sampled(3)
@IN_EVERY_STAGE
@pytest.mark.parametrize("adversary", ["semi_honest", "malicious_server"])
def test_an_early_dropout_is_not_fatal(stage: Stage, adversary: Any) -> None:
    if stage is Stage.CONSISTENCY_CHECK and adversary == "semi_honest":
        return
    session = Session(complete(adversary=adversary)).finish({FAULTY: stage})
    session.assert_sum()
    assert (FAULTY in session.server.survivors) is (stage > Stage.MASKED_INPUT_COLLECTION)


@IN_EVERY_STAGE
def test_a_client_that_aborts_in_any_stage_is_a_dropout_of_it(stage: Stage) -> None:
    session = Session(complete()).to(stage)
    assert FAULTY in session.server.awaited
    assert session.server.receive(FAULTY, session.clients[FAULTY].abort("C13"))
    assert FAULTY not in session.server.awaited
    session.answer(silent=[FAULTY])
    session.close()
    assert FAULTY not in session.outbox
    session.finish().assert_sum()
    assert session.server.aborts == {FAULTY: "C13"}
    assert session.server.faults == []


@pytest.mark.sampled(3)
@IN_EVERY_STAGE
@pytest.mark.parametrize("config", [complete(threshold=4), ring()], ids=["complete", "ring"])
def test_a_client_that_answers_and_then_aborts_makes_no_sum_wrong(stage: Stage, config: Config) -> None:
    session = Session(config).to(stage)
    session.server.receive(FAULTY, session.reply(FAULTY))
    session.server.receive(FAULTY, session.clients[FAULTY].abort())
    session.answer(silent=[FAULTY])
    session.close()
    session.outbox.pop(FAULTY, None)
    session.finish().assert_sum()


@pytest.mark.parametrize("name", ["complete", "complete_semi_honest", "ring"])
def test_late_messages_are_ignored_in_every_later_stage(name: str) -> None:
    config = {"complete": complete(), "complete_semi_honest": complete(adversary="semi_honest"), "ring": ring()}[name]
    session = Session(config)
    held: dict[Stage, bytes] = {}
    gone = 13 if 13 in config.client_ids else 11
    while session.stage < Stage.DONE:
        session.answer()
        held[session.stage] = session.responses[session.stage][gone]
        session.close()
        for late in held.values():
            before = session.server.to_bytes()
            assert session.server.receive(gone, late) is False
            assert session.server.to_bytes() == before
    session.assert_sum()
    assert session.server.faults == []


def test_a_slow_client_is_not_blamed_for_a_long_masked_vector() -> None:
    session = Session(complete(length=1000)).to(Stage.MASKED_INPUT_COLLECTION)
    session.answer(silent=[13])
    late = session.reply(13)
    session.close()
    assert session.server.receive(13, late) is False
    session.to(Stage.UNMASKING)
    assert session.server.receive(13, late) is False
    assert session.server.faults == []


def test_a_late_vector_is_not_in_the_sum() -> None:
    session = Session(complete()).to(Stage.MASKED_INPUT_COLLECTION)
    session.answer(silent=[13])
    late = session.reply(13)
    session.close()
    assert session.server.receive(13, late) is False
    session.finish().assert_sum()
    assert session.server.survivors == (2, 3, 5, 8)


def test_message_bytes_is_what_an_honest_client_needs_and_no_more() -> None:
    for config in (complete(), complete(adversary="semi_honest"), ring(), complete(length=1000, modulus_bits=13)):
        session = Session(config)
        abort = len(messages.Abort(b"x" * 64).to_bytes())
        while session.stage < Stage.DONE:
            session.answer()
            longest = max(map(len, session.responses[session.stage].values()))
            spare = 64 if session.stage is Stage.ADVERTISE_KEYS and not config.malicious_server else 0
            if session.stage is Stage.SHARE_KEYS and config.complete:
                spare = SEALED  # it keeps its own pair
            assert session.server.message_bytes == max(longest + spare, abort)
            session.close()


def test_server_memory_does_not_grow_with_the_number_of_vectors() -> None:
    sizes = []
    for clients in (3, 12):
        session = Session(complete(range(1, clients + 1), clients // 2 + 1, length=20_000)).to(
            Stage.MASKED_INPUT_COLLECTION
        )
        session.answer()
        sizes.append(len(session.server.to_bytes()))
    assert max(sizes) < 2 * 20_000 + 5_000


def test_faults_do_not_keep_the_messages_that_they_refused() -> None:
    session = Session(complete())
    with pytest.raises(errors.FaultyClientError):
        session.server.receive(FAULTY, bytes(10_000))
    (fault,) = session.server.faults
    assert fault.__traceback__ is None
    assert fault.__context__ is None


@pytest.mark.parametrize("reason", [b"x" * 65, b"x" * 1000, b"\xff", b"line\nbreak", b"\x1b[2Jscreen"])
def test_server_refuses_an_abort_whose_reason_is_not_short_ascii(reason: bytes) -> None:
    session = Session(complete(length=2000)).to(Stage.MASKED_INPUT_COLLECTION)
    assert_server_refuses(session.server, FAULTY, messages.Abort(reason).to_bytes(), "S2")


def test_an_unknown_sender_changes_nothing() -> None:
    session = Session(complete())
    while session.stage < Stage.DONE:
        for data in (b"", advertise(session, 2).to_bytes(), any_message(messages.Abort)):
            for stranger in (1, 4, 2**31):
                assert_server_refuses(session.server, stranger, data, "S1")
        session.answer()
        session.close()
    session.assert_sum()


@pytest.mark.parametrize("stranger", [-1, 2**64])
def test_server_can_be_saved_after_a_message_from_any_stranger(stranger: int) -> None:
    session = Session(complete())
    with pytest.raises(errors.FaultyClientError):
        session.server.receive(stranger, b"")
    assert Server.from_bytes(session.server.to_bytes(), directory=session.directory).faults[0].client_id == stranger


# Wrong shares.


def lie(session: Session, liars: Iterable[int], about: Collection[int] | None = None) -> None:
    """Deliver the last stage's answers, some with one share changed."""
    chosen = set(liars)
    for client_id in session.outbox:
        data = session.reply(client_id)
        if client_id in chosen:
            owners = [i for i in holders(session, client_id) if seen(session.server).shared[session.config.position(i)]]
            for place, owner in enumerate(owners):
                if about is None or owner in about:
                    shares = bytearray(opened(data).shares)
                    shares[SHARE * place + 4] ^= 1
                    data = edit(data, shares=bytes(shares))
        session.server.receive(client_id, data)


def checks(server: Server) -> list[tuple[int, str]]:
    return sorted((fault.client_id, fault.check) for fault in server.faults)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("threshold", [5, 6, 7, 8])
def test_wrong_shares_within_the_bound_are_named_and_the_sum_is_right(threshold: int) -> None:
    for liars in range((9 - threshold) // 2 + 1):
        session = Session(complete(NINE, threshold)).to(Stage.UNMASKING)
        chosen = random.Random(liars).sample(NINE, liars)
        lie(session, chosen)
        session.close()
        session.assert_sum()
        assert checks(session.server) == [(i, "S13") for i in sorted(chosen)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("about", NINE)
def test_a_wrong_share_of_any_one_client_is_named(about: int) -> None:
    session = Session(complete(NINE, 5)).to(Stage.UNMASKING)
    lie(session, [1, 2], [about])  # the first holders are those that are combined first
    session.close()
    session.assert_sum()
    assert checks(session.server) == [(1, "S13"), (2, "S13")]


def test_a_wrong_share_of_a_dropouts_mask_key_is_named() -> None:
    session = Session(complete(NINE, 5)).to(Stage.MASKED_INPUT_COLLECTION)
    session.answer(silent=[4])
    session.close()
    session.to(Stage.UNMASKING)
    lie(session, [1], [4])
    session.close()
    session.assert_sum()
    assert checks(session.server) == [(1, "S12")]


def test_liars_about_different_clients_are_all_named() -> None:
    # Two wrong shares of each client is all that the code corrects; different liars about different clients are fine.
    session = Session(complete(NINE, 5)).to(Stage.UNMASKING)
    for client_id in session.outbox:
        data = session.reply(client_id)
        if client_id <= 4:
            place = holders(session, client_id).index(client_id + 5)
            data = edit(data, shares=with_part(bytes(SHARE), place, SHARE))
        session.server.receive(client_id, data)
    session.close()
    session.assert_sum()
    assert checks(session.server) == [(i, "S13") for i in (1, 2, 3, 4)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("liars", range(1, 10))
def test_the_sum_is_never_wrong_however_many_lie(liars: int) -> None:
    session = Session(complete(NINE, 6)).to(Stage.UNMASKING)
    lie(session, NINE[:liars], [7])
    if liars <= 1:
        session.close()
        session.assert_sum()
        return
    with pytest.raises(errors.FaultyClientError) as caught:
        session.close()
    assert (caught.value.client_id, caught.value.check) == (7, "S13")
    assert session.stage is Stage.ABORTED
    with pytest.raises(errors.StageError):
        _ = session.server.sum


def test_the_sum_is_never_wrong_when_all_holders_agree_on_another_secret() -> None:
    # Every holder adds the same polynomial: a perfect codeword of another seed; only the commitment tells.
    session = Session(complete()).to(Stage.UNMASKING)
    delta = np.arange(1, 10, dtype=np.uint64)
    for client_id in session.outbox:
        data = session.reply(client_id)
        place = holders(session, client_id).index(2)
        old = np.frombuffer(opened(data).shares[SHARE * place : SHARE * place + SHARE], "<u4").astype(np.uint64)
        new = shamir.shares_to_bytes(field.reduce(old + delta))
        session.server.receive(client_id, edit(data, shares=with_part(new, place, SHARE)))
    with pytest.raises(errors.FaultyClientError) as caught:
        session.close()
    assert (caught.value.client_id, caught.value.check) == (2, "S13")
    assert session.stage is Stage.ABORTED


@pytest.mark.parametrize("config", [complete(NINE, 5), ring(threshold=3)], ids=["complete", "ring"])
def test_a_wrong_commitment_ends_the_session_and_names_its_owner(config: Config) -> None:
    session = Session(config).to(Stage.SHARE_KEYS)
    session.server.receive(FAULTY, edit(session.reply(FAULTY), commitment=bytes(32)))
    session.answer(silent=[FAULTY])
    session.close()
    session.to(Stage.UNMASKING).answer()
    with pytest.raises(errors.FaultyClientError) as caught:
        session.close()
    assert (caught.value.client_id, caught.value.check) == (FAULTY, "S13")
    assert session.stage is Stage.ABORTED


def deal(session: Session, dealer: int, receivers: Iterable[int], shares: Any = None) -> None:
    """Run ShareKeys with a dealer that seals wrong shares for some receivers; they open, and are in the field."""
    session.to(Stage.SHARE_KEYS)
    insider = channel(session, dealer)
    data = session.reply(dealer)
    for receiver in receivers:
        place = others(session, dealer).index(receiver)
        wrong = seal(session, insider, dealer, receiver, shares or bytes(2 * SHARE))
        data = edit(data, sealed=with_part(wrong, place, SEALED))
    session.server.receive(dealer, data)
    session.answer(silent=[dealer])
    session.close()


def test_a_dealer_of_wrong_shares_is_named_and_the_session_ends() -> None:
    session = Session(complete(NINE, 6))
    deal(session, FAULTY, [1, 2, 3])
    session.to(Stage.UNMASKING).answer()
    with pytest.raises(errors.FaultyClientError) as caught:
        session.close()
    assert (caught.value.client_id, caught.value.check) == (FAULTY, "S13")
    assert session.stage is Stage.ABORTED


def test_a_dealer_of_wrong_shares_that_drops_out_is_named_and_the_session_ends() -> None:
    session = Session(complete(NINE, 6))
    deal(session, FAULTY, [1, 2, 3])
    session.answer(silent=[FAULTY])
    session.close()
    session.to(Stage.UNMASKING).answer()
    with pytest.raises(errors.FaultyClientError) as caught:
        session.close()
    assert (caught.value.client_id, caught.value.check) == (FAULTY, "S12")


def test_a_dealer_of_one_wrong_share_has_its_holder_named() -> None:
    # A limit to know: the server cannot see who of the two is wrong; the sum is right all the same.
    session = Session(complete(NINE, 6))
    deal(session, FAULTY, [1])
    session.to(Stage.UNMASKING).answer()
    session.close()
    session.assert_sum()
    assert checks(session.server) == [(1, "S13")]


def seal_garbage(session: Session, sender: int, receivers: Collection[int]) -> None:
    """Take the session past ShareKeys; what one client sealed for some others does not open."""
    session.to(Stage.SHARE_KEYS)
    data = session.reply(sender)
    for receiver in receivers:
        data = edit(data, sealed=with_part(bytes(SEALED), others(session, sender).index(receiver), SEALED))
    session.server.receive(sender, data)
    session.answer(silent=[sender])
    session.close()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("config", [complete(NINE, 6), complete(NINE, 6, adversary="semi_honest"), ring()])
@pytest.mark.parametrize("sender_drops_out", [False, True])
def test_holders_that_cannot_open_a_share_go_on_without_it(config: Config, sender_drops_out: bool) -> None:
    session = Session(config)
    session.to(Stage.SHARE_KEYS)
    receiver = others(session, FAULTY)[1]
    seal_garbage(session, FAULTY, [receiver])
    session.answer(silent=[FAULTY] if sender_drops_out else [])
    for client_id, data in session.responses[Stage.MASKED_INPUT_COLLECTION].items():
        assert listed(config, opened(data).unopened) == ((FAULTY,) if client_id == receiver else ())
    session.close()
    session.server = Server.from_bytes(session.server.to_bytes(), directory=session.directory)
    session.finish().assert_sum()
    assert session.server.faults == []
    sizes = {client_id: len(opened(data).shares) for client_id, data in session.responses[Stage.UNMASKING].items()}
    assert sizes[receiver] == max(sizes.values()) - SHARE


@pytest.mark.parametrize("sender_drops_out", [False, True])
def test_a_client_that_seals_garbage_for_too_many_is_named(sender_drops_out: bool) -> None:
    session = Session(complete(NINE, 6))
    seal_garbage(session, FAULTY, [i for i in NINE if i != FAULTY][:4])
    session.answer(silent=[FAULTY] if sender_drops_out else [])
    with pytest.raises(errors.FaultyClientError) as caught:
        session.close()
    assert (caught.value.client_id, caught.value.check) == (FAULTY, "S16")
    assert checks(session.server) == [(FAULTY, "S16")]
    assert all(client.stage is not Stage.ABORTED for client in session.clients.values())


def test_as_many_holders_as_may_collude_do_not_get_a_client_named() -> None:
    # Three of nine may collude; they accuse a client that did nothing, and two others are gone.
    config = complete(NINE, 7, adversary="semi_honest", colluders=3)
    session = Session(config).to(Stage.MASKED_INPUT_COLLECTION)
    accused = bitmap(config, [1])
    for client_id in NINE[:8]:
        data = session.reply(client_id)
        session.server.receive(client_id, edit(data, unopened=accused) if client_id in (2, 3, 4) else data)
    with pytest.raises(errors.TooFewSurvivorsError, match=r"client 1 has 5 holders left, .*; 3 could not open"):
        session.close()
    assert session.server.faults == []


@pytest.mark.parametrize("liar", [2, 9])
def test_a_false_accusation_costs_only_the_share_of_the_accuser(liar: int) -> None:
    config = complete(NINE, 6)
    session = Session(config).to(Stage.MASKED_INPUT_COLLECTION)
    for client_id in NINE:
        data = session.reply(client_id)
        everyone = [i for i in NINE if i != liar]
        session.server.receive(client_id, edit(data, unopened=bitmap(config, everyone)) if client_id == liar else data)
    session.close()
    session.to(Stage.UNMASKING)
    for client_id in NINE:
        data = session.reply(client_id)
        if client_id == liar:  # it sends the share of its own that is left
            data = edit(data, shares=opened(data).shares[SHARE * NINE.index(liar) :][:SHARE])
        session.server.receive(client_id, data)
    session.close()
    session.assert_sum()
    assert session.server.faults == []


@examples(4, 25)
@given(
    pairs=st.sets(st.tuples(st.sampled_from(NINE), st.sampled_from(NINE)), max_size=12),
    silent=st.dictionaries(st.sampled_from(NINE), st.sampled_from(STAGES[2:]), max_size=3),
    config=st.sampled_from([complete(NINE, 6, colluders=1), Config(NINE, 4, 3, 16, neighbors=6, colluders=1)]),
)
def test_garbage_for_some_holders_gives_the_right_sum_or_names_who_sealed_it(
    pairs: set[tuple[int, int]], silent: dict[int, Stage], config: Config
) -> None:
    session = Session(config).to(Stage.SHARE_KEYS)
    for sender in NINE:
        data = session.reply(sender)
        for receiver in others(session, sender):
            if (sender, receiver) in pairs:
                place = others(session, sender).index(receiver)
                data = edit(data, sealed=with_part(bytes(SEALED), place, SEALED))
        session.server.receive(sender, data)
    session.close()
    deaf = {i for i in NINE if sum(receiver == i for _, receiver in pairs) >= 3}  # may abort with C13
    with suppress(errors.TooFewSurvivorsError, errors.FaultyClientError):
        while session.stage < Stage.DONE:
            for client_id in set(session.outbox) - {i for i, stage in silent.items() if stage <= session.stage}:
                with suppress(errors.FaultyServerError) if client_id in deaf else nullcontext():
                    session.server.receive(client_id, session.reply(client_id))
            session.close()
        session.assert_sum()
    for fault in session.server.faults:
        assert fault.check == "S16"
        assert sum(sender == fault.client_id for sender, _ in pairs) >= 2


@pytest.mark.parametrize("who", ["itself", "absent", "stranger"])
def test_server_refuses_accusations_of_who_sent_nothing(who: str) -> None:
    config = ring() if who == "stranger" else complete()
    session = Session(config)
    session.to(Stage.MASKED_INPUT_COLLECTION, {13: Stage.SHARE_KEYS} if who == "absent" else {})
    near = others(session, FAULTY)
    stranger = next(i for i in config.client_ids if i != FAULTY and i not in near) if who == "stranger" else 13
    accused = FAULTY if who == "itself" else stranger
    data = edit(session.reply(FAULTY), unopened=bitmap(config, [accused]))
    assert_server_refuses(session.server, FAULTY, data, "S15")


def test_liars_are_named_although_the_session_ends() -> None:
    session = Session(complete(NINE, 6)).to(Stage.UNMASKING)
    for client_id in session.outbox:
        data = session.reply(client_id)
        wrong = [1] if client_id == 4 else [7] if client_id <= 3 else []
        for owner in wrong:
            data = edit(data, shares=with_part(bytes(SHARE), holders(session, client_id).index(owner), SHARE))
        session.server.receive(client_id, data)
    with pytest.raises(errors.FaultyClientError) as caught:
        session.close()
    assert caught.value.client_id == 7
    assert checks(session.server) == [(4, "S13"), (7, "S13")]


INTERRUPTION = pytest.mark.parametrize("interruption", [MemoryError, KeyboardInterrupt])


@INTERRUPTION
def test_unmasking_that_breaks_off_gives_no_wrong_sum_when_closed_again(
    monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    session = Session(complete()).to(Stage.MASKED_INPUT_COLLECTION)
    session.answer(silent=[13])
    session.close()
    session.to(Stage.UNMASKING).answer()
    remove, calls = masking._AesCtrSum.remove, []

    def fails_once(self: Any, *seeds: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise interruption
        remove(self, *seeds)

    monkeypatch.setattr(masking._AesCtrSum, "remove", fails_once)
    with pytest.raises(interruption):
        session.close()
    try:
        session.close()
    except errors.StageError:
        return
    session.assert_sum()


@INTERRUPTION
def test_masking_that_breaks_off_does_not_spoil_the_sum(
    monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    session = Session(complete()).to(Stage.MASKED_INPUT_COLLECTION)
    mask, calls = masking.AesCtr.mask, []

    def fails_once(self: Any, vector: Any, added: Any, subtracted: Any, entropy: Any) -> bytes:
        calls.append(1)
        if len(calls) == 1:
            mask(self, vector, added[:1], [], entropy)
            raise interruption
        return mask(self, vector, added, subtracted, entropy)

    monkeypatch.setattr(masking.AesCtr, "mask", fails_once)
    with pytest.raises(interruption):
        session.reply(2)
    silent = []
    try:
        session.server.receive(2, session.reply(2))
    except errors.StageError:
        silent = [2]
    session.answer(silent=[2])
    session.close()
    session.finish(dict.fromkeys(silent, Stage.ADVERTISE_KEYS)).assert_sum()


def test_there_are_no_survivors_before_the_masked_inputs_are_in() -> None:
    session = Session(complete())
    for stage in STAGES[:3]:
        session.to(stage).answer()
        assert session.server.survivors == ()
        session.close()
    assert session.server.survivors == IDS


# Rings.


def pruned(session: Session, answered: set[int]) -> set[int]:
    """Section 3 of the specification, naively: leave out, again and again, who has too few holders left."""
    left = set(answered)
    while True:
        short = {i for i in left if len(left.intersection(holders(session, i))) < session.config.threshold}
        if not short:
            return left
        left -= short


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(12))
@predictable_secrets()  # on some graphs too few clients are left
def test_a_client_with_too_few_holders_is_left_out(seed: int) -> None:
    rng = random.Random(seed)
    session = Session(Config(range(1, 24), 2, 4, 16, neighbors=4), seed=seed).to(Stage.SHARE_KEYS)
    everyone = set(session.config.client_ids)
    target = rng.choice(sorted(everyone))
    gone = {*rng.sample(others(session, target), 3), *rng.sample(sorted(everyone - {target}), 3)}
    session.answer(silent=gone)
    expected = pruned(session, everyone - gone)
    assert target not in expected
    assert len(expected) > 10
    session.close()
    assert set(session.outbox) == expected == set(session.server.awaited)
    late = edit(any_message(messages.MaskedInputCollectionResponse), masked=bytes(8))
    assert_server_refuses(session.server, target, late, "S1")
    session.finish().assert_sum()
    assert set(session.server.survivors) == expected


def test_a_gap_in_a_ring_with_a_high_threshold_leaves_nobody() -> None:
    # Each client that is left out leaves the next one short.
    session = Session(Config(range(1, 24), 3, 4, 16, neighbors=4, adversary="malicious_server")).to(Stage.SHARE_KEYS)
    gone = others(session, 12)[:2]
    session.answer(silent=gone)
    assert pruned(session, set(session.config.client_ids) - set(gone)) == set()
    with pytest.raises(errors.TooFewSurvivorsError):
        session.close()


def test_every_party_computes_the_same_graph_and_it_is_regular_and_symmetric() -> None:
    session = Session(ring()).to(Stage.MASKED_INPUT_COLLECTION)
    for i in RING:
        own = held(session.clients[i]).graph
        for number in range(len(RING)):
            assert own.neighbors(number).tolist() == graph(session).neighbors(number).tolist()
        assert len(holders(session, i)) == 4
        assert i not in holders(session, i)
        assert all(i in holders(session, other) for other in holders(session, i))


def test_the_graph_is_another_in_every_session() -> None:
    seen = {
        tuple(tuple(holders(session, i)) for i in RING)
        for session in (Session(ring()).to(Stage.SHARE_KEYS) for _ in range(4))
    }
    assert len(seen) > 1


def test_too_few_neighbors_end_the_session() -> None:
    for stage in (Stage.MASKED_INPUT_COLLECTION, Stage.CONSISTENCY_CHECK, Stage.UNMASKING):
        session = Session(ring()).to(stage)
        session.answer(silent=others(session, FAULTY)[:2])
        with pytest.raises(errors.TooFewSurvivorsError) as caught:
            session.close()
        assert (caught.value.survivors, caught.value.threshold) == (2, 3)
        assert session.stage is Stage.ABORTED
        assert session.server.abort() is not None


def test_too_few_to_share_with_end_a_ring_at_once() -> None:
    session = Session(ring(threshold=3))
    session.answer(silent=RING[3:])
    with pytest.raises(errors.TooFewSurvivorsError) as caught:
        session.close()
    assert (caught.value.survivors, caught.value.threshold) == (3, 4)


# Ending.


def test_abort_tells_those_that_are_still_in() -> None:
    session = Session(complete()).to(Stage.MASKED_INPUT_COLLECTION, {13: Stage.SHARE_KEYS})
    outbox = session.server.abort("too late")
    assert set(outbox) == {2, 3, 5, 8}
    for client_id, data in outbox.items():
        assert session.clients[client_id].receive(data) == b""
        assert session.clients[client_id].stage is Stage.ABORTED
    assert session.server.receive(2, b"anything") is False


def test_messages_after_the_end_are_ignored() -> None:
    session = Session(complete()).finish()
    before = session.server.to_bytes()
    for data in (b"", b"\0" * 10_000, session.responses[Stage.UNMASKING][2], any_message(messages.Abort)):
        assert session.server.receive(2, data) is False
        assert session.server.receive(99, data) is False
    assert session.server.to_bytes() == before


@pytest.mark.parametrize("reason", ["line\nbreak", "x" * 100, "\x1b[2Jscreen", "für"])
def test_an_abort_of_our_own_is_never_refused(reason: str) -> None:
    session = Session(complete())
    assert session.server.receive(FAULTY, session.clients[FAULTY].abort(reason))
    assert session.server.aborts[FAULTY].isprintable()
    assert session.clients[2].receive(session.server.abort(reason)[2]) == b""
