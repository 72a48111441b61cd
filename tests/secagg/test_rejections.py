"""One attack at a time: every numbered check of the specification, every known attack.

`assert_aborts` holds for each: the right error, the right number, state ABORTED, secrets gone, never an answer again.
"""

import itertools
from dataclasses import fields
from typing import Any

import pytest

from secfed import errors
from secfed.crypto.agreement import KeyPair
from secfed.crypto.entropy import SystemEntropy
from secfed.crypto.signing import SigningKey
from secfed.secagg import Client, Policy, Server, Stage, binding, messages
from secfed.secagg.stages import EXCHANGES, KINDS
from tests.secagg.forge import (
    IDS,
    LOW_ORDER,
    NOT_CANONICAL,
    SEALED,
    SHARE,
    Session,
    advertise,
    any_message,
    assert_aborts,
    assert_refuses,
    assert_server_refuses,
    bitmap,
    channel,
    complete,
    edit,
    flipped,
    held,
    holders,
    listed,
    opened,
    others,
    ring,
    seal,
    session_id,
    sign_survivors,
    unmasking_request,
    with_part,
    without_part,
)

VICTIM, INSIDER = 5, 8
ME = IDS.index(VICTIM)
COMPLETE_STAGES = list(EXCHANGES)


def at(stage: Stage, config: Any = None, **arguments: Any) -> Session:
    return Session(config or complete(), **arguments).to(stage)


def attack(session: Session, data: bytes, check: str, client_id: int = VICTIM) -> None:
    assert_aborts(session.clients[client_id], data, check, honest=session.outbox[client_id])


# C1: what is no message is refused, and does no harm.


@pytest.mark.sampled(2)
@pytest.mark.parametrize("stage", COMPLETE_STAGES, ids=lambda stage: stage.name)
def test_client_refuses_broken_bytes_and_still_answers_the_real_request(stage: Stage) -> None:
    session = at(stage)
    client, data = session.clients[VICTIM], session.outbox[VICTIM]
    broken = [
        b"",
        data[:1],
        b"\0" + data[1:],
        b"\2" + data[1:],
        data[:-1],
        data[: len(data) // 2],
        data[:2],
        data + b"\0",
    ]
    broken += [data * 2, bytes((1, 0)), bytes((1, 11)), bytes((1, 101)), bytes((1, 254)) + data[2:]]
    if stage not in (Stage.ADVERTISE_KEYS,):
        broken += [data[:2] + b"\xff\xff\xff\xff" + data[6:], data[:2] + bytes(4) + data[6:]]
    for bad in broken:
        assert_refuses(client, bad, "C1")
    session.finish().assert_sum()


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        (Stage.SHARE_KEYS, {"advertised": lambda old: old + b"\0"}),
        (Stage.SHARE_KEYS, {"advertised": b""}),
        (Stage.SHARE_KEYS, {"advertised": lambda old: flipped(old, 0, 7)}),
        (Stage.SHARE_KEYS, {"channel_keys": lambda old: old[:-32]}),
        (Stage.SHARE_KEYS, {"channel_keys": lambda old: old + old[:32]}),
        (Stage.SHARE_KEYS, {"mask_keys": lambda old: old[:-1]}),
        (Stage.SHARE_KEYS, {"mask_keys": b""}),
        (Stage.SHARE_KEYS, {"signatures": b""}),
        (Stage.SHARE_KEYS, {"signatures": lambda old: old + old[:64]}),
        (Stage.MASKED_INPUT_COLLECTION, {"shared": lambda old: old + b"\0"}),
        (Stage.MASKED_INPUT_COLLECTION, {"shared": lambda old: flipped(old, 0, 5)}),
        (Stage.MASKED_INPUT_COLLECTION, {"sealed": lambda old: old[:-1]}),
        (Stage.CONSISTENCY_CHECK, {"survivors": b""}),
        (Stage.CONSISTENCY_CHECK, {"survivors": lambda old: flipped(old, 0, 6)}),
        (Stage.UNMASKING, {"survivors": lambda old: old + old}),
        (Stage.UNMASKING, {"dropouts": b""}),
        (Stage.UNMASKING, {"dropouts": b"\x80"}),
        (Stage.UNMASKING, {"signers": b""}),
        (Stage.UNMASKING, {"signatures": lambda old: old[:-64]}),
        (Stage.UNMASKING, {"signatures": lambda old: old + bytes(64)}),
    ],
)
def test_client_refuses_sets_and_columns_that_do_not_fit(stage: Stage, changes: dict[str, Any]) -> None:
    session = at(stage)
    assert_refuses(session.clients[VICTIM], edit(session.outbox[VICTIM], **changes), "C1")
    session.finish().assert_sum()


def test_client_refuses_signatures_in_a_session_without_them() -> None:
    session = at(Stage.SHARE_KEYS, complete(adversary="semi_honest"))
    assert_refuses(session.clients[VICTIM], edit(session.outbox[VICTIM], signatures=bytes(64 * 5)), "C1")
    session.to(Stage.UNMASKING)
    signed = edit(session.outbox[VICTIM], signers=bitmap(session.config, IDS), signatures=bytes(64 * 5))
    assert_refuses(session.clients[VICTIM], signed, "C1")
    session.finish().assert_sum()


def test_client_refuses_an_abort_that_is_no_message() -> None:
    client = at(Stage.UNMASKING).clients[VICTIM]
    for bad in (bytes((1, 255)), bytes((1, 255)) + b"\1\0\0\0", messages.Abort(b"").to_bytes() + b"x"):
        assert_refuses(client, bad, "C1")


# C2: once each, in order. The whole table is in test_stages.py.


def test_client_refuses_the_replay_of_every_request() -> None:
    session = Session(complete())
    old = Session(complete()).finish()
    while session.stage < Stage.DONE:
        session.answer()
        earlier = [sent[VICTIM] for sent in (*session.requests.values(), *old.requests.values()) if VICTIM in sent]
        replayed = [data for data in earlier if data[1] <= session.outbox[VICTIM][1]]
        assert replayed
        for data in replayed:
            assert_refuses(session.clients[VICTIM], data, "C2")
        session.close()
    session.assert_sum()


def test_client_never_gives_a_second_masked_input() -> None:
    session = at(Stage.MASKED_INPUT_COLLECTION)
    request = session.outbox[VICTIM]
    session.reply(VICTIM)
    fewer = [i for i in IDS if i != INSIDER]
    slot = others(session, VICTIM).index(INSIDER)
    other = edit(request, shared=bitmap(session.config, fewer), sealed=without_part(slot, SEALED))
    for again in (request, other):
        assert_refuses(session.clients[VICTIM], again, "C2")


def test_client_never_signs_a_second_list() -> None:
    session = at(Stage.CONSISTENCY_CHECK)
    session.reply(VICTIM)
    other = messages.ConsistencyCheckRequest(bitmap(session.config, IDS[:4])).to_bytes()
    assert_refuses(session.clients[VICTIM], other, "C2")


def test_client_never_releases_shares_twice() -> None:
    session = at(Stage.UNMASKING)
    request = session.outbox[VICTIM]
    session.reply(VICTIM)
    with pytest.raises(errors.StageError) as caught:
        session.clients[VICTIM].receive(request)
    assert caught.value.check == "C2"


def test_client_does_not_skip_the_consistency_check() -> None:
    session = at(Stage.CONSISTENCY_CHECK)
    assert_refuses(session.clients[VICTIM], unmasking_request(session, IDS, ()), "C2")


# C3: the configuration is the client's own, not the server's.


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 5},
        {"length": 7},
        {"modulus_bits": 8},
        {"colluders": 1},
        {"round": 1},
        {"model_hash": b"\1" * 32},
        {"context": b"other"},
        {"ids": (2, 3, 5, 8, 14)},
        {"adversary": "semi_honest"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_client_aborts_when_the_server_runs_another_configuration(changes: dict[str, Any]) -> None:
    session = Session(complete())
    request = edit(session.outbox[VICTIM], config_hash=complete(**changes).hash)
    client = session.clients[VICTIM]
    with pytest.raises(errors.FaultyServerError) as caught:
        client.receive(request)
    assert caught.value.check == "C3"
    assert client.stage is Stage.ABORTED
    assert held(client) is None


# C4: nothing that a server says lowers what the client insists on.


@pytest.mark.parametrize(
    "policy",
    [
        Policy(minimum_cohort=6),
        Policy(minimum_threshold=5),
        Policy(minimum_neighbors=5),
        Policy(minimum_colluders=2),
        Policy(adversary="malicious_server"),
    ],
    ids=["cohort", "threshold", "neighbors", "colluders", "adversary"],
)
def test_client_aborts_when_its_policy_is_undercut(policy: Policy) -> None:
    session = Session(complete(adversary="semi_honest", colluders=1), policy=policy)
    attack(session, session.outbox[VICTIM], "C4")


def test_client_aborts_when_the_server_could_split_the_sum_and_its_policy_refuses_that() -> None:
    divisible = ring(threshold=4, colluders=2)
    session = Session(divisible, policy=Policy(indivisible=True))
    attack(session, session.outbox[VICTIM], "C4")
    undivided = ring(threshold=4, colluders=1, session_colluders=1)
    Session(undivided, policy=Policy(indivisible=True)).finish().assert_sum()


def test_client_accepts_exactly_its_policy() -> None:
    policy = Policy(5, 4, 4, 1, "malicious_server")
    Session(complete(colluders=1), policy=policy).finish().assert_sum()


# C5 to C9: the keys of all.


def test_client_aborts_when_it_is_missing_from_the_advertised() -> None:
    session = at(Stage.SHARE_KEYS)
    fewer = bitmap(session.config, [i for i in IDS if i != VICTIM])
    drop = {
        name: without_part(ME, 64 if name == "signatures" else 32)
        for name in ("channel_keys", "mask_keys", "signatures")
    }
    attack(session, edit(session.outbox[VICTIM], advertised=fewer, **drop), "C5")


@pytest.mark.parametrize("field", ["channel_keys", "mask_keys", "signatures"])
def test_client_aborts_when_its_own_entry_was_altered(field: str) -> None:
    session = at(Stage.SHARE_KEYS)
    size = 64 if field == "signatures" else 32
    other = opened(advertise(session, VICTIM, SigningKey.generate()).to_bytes())
    part = getattr(other, field[:-1])
    attack(session, edit(session.outbox[VICTIM], **{field: with_part(part, ME, size)}), "C5")


def test_client_aborts_when_its_own_entry_is_that_of_an_earlier_session() -> None:
    session, old = at(Stage.SHARE_KEYS), at(Stage.SHARE_KEYS)
    attack(session, old.outbox[VICTIM], "C5")


@pytest.mark.parametrize(
    ("to", "of"), [("channel_keys", "channel_keys"), ("mask_keys", "mask_keys"), ("mask_keys", "channel_keys")]
)
@pytest.mark.parametrize("source", [0, ME], ids=["another", "own"])
def test_client_aborts_when_a_public_key_occurs_twice(to: str, of: str, source: int) -> None:
    session = at(Stage.SHARE_KEYS, complete(adversary="semi_honest"))
    column = getattr(opened(session.outbox[VICTIM]), of)
    key = column[32 * source : 32 * source + 32]
    attack(session, edit(session.outbox[VICTIM], **{to: with_part(key, 4, 32)}), "C6")


def test_client_aborts_when_one_client_has_one_key_for_both_uses() -> None:
    session = at(Stage.SHARE_KEYS, complete(adversary="semi_honest"))
    key = opened(session.outbox[VICTIM]).channel_keys[:32]
    attack(session, edit(session.outbox[VICTIM], mask_keys=with_part(key, 0, 32)), "C6")


@pytest.mark.sampled(6)
@pytest.mark.parametrize("field", ["channel_keys", "mask_keys"])
@pytest.mark.parametrize("key", LOW_ORDER + NOT_CANONICAL, ids=bytes.hex)
def test_client_aborts_on_a_key_of_low_order_or_not_canonical(field: str, key: bytes) -> None:
    session = at(Stage.SHARE_KEYS, complete(adversary="semi_honest"))
    attack(session, edit(session.outbox[VICTIM], **{field: with_part(key, 0, 32)}), "C7")


def entry(session: Session, response: messages.AdvertiseKeysResponse, client_id: int) -> bytes:
    """The victim's ShareKeysRequest with one client's entry replaced by another advertisement."""
    place = IDS.index(client_id)
    return edit(
        session.outbox[VICTIM],
        channel_keys=with_part(response.channel_key, place, 32),
        mask_keys=with_part(response.mask_key, place, 32),
        signatures=with_part(response.signature, place, 64),
    )


def test_client_aborts_when_the_server_puts_itself_in_the_middle() -> None:
    session = at(Stage.SHARE_KEYS)
    for key in (SigningKey.generate(), session.identities[INSIDER]):  # a stranger's, or another client's
        session = at(Stage.SHARE_KEYS)
        attack(session, entry(session, advertise(session, 2, key), 2), "C8")


def test_client_aborts_when_keys_are_replaced_under_the_old_signature() -> None:
    for field in ("channel_key", "mask_key"):
        session = at(Stage.SHARE_KEYS)
        forged = advertise(session, 2)
        place = with_part(getattr(forged, field), 0, 32)
        attack(session, edit(session.outbox[VICTIM], **{f"{field}s": place}), "C8")


def test_client_aborts_when_keys_are_not_signed() -> None:
    for signature in (bytes(64), b"\xff" * 64, b"\1" + bytes(63)):
        session = at(Stage.SHARE_KEYS)
        attack(session, edit(session.outbox[VICTIM], signatures=with_part(signature, 0, 64)), "C8")


def test_client_aborts_when_signatures_are_swapped_between_clients() -> None:
    session = at(Stage.SHARE_KEYS)
    signatures = opened(session.outbox[VICTIM]).signatures
    attack(
        session, edit(session.outbox[VICTIM], signatures=signatures[64:128] + signatures[:64] + signatures[128:]), "C8"
    )


@pytest.mark.parametrize(
    "bound",
    [
        {"nonce": bytes(32)},
        {"config": complete(round=6)},
        {"config": complete(model_hash=b"\1" * 32)},
        {"config": complete(threshold=5)},
        {"config": complete(context=b"other")},
        {"client_id": 3},
    ],
    ids=["session", "round", "model", "threshold", "context", "client"],
)
def test_client_aborts_when_keys_were_signed_for_something_else(bound: dict[str, Any]) -> None:
    session = at(Stage.SHARE_KEYS)
    attack(session, entry(session, advertise(session, 2, **bound), 2), "C8")


def test_client_accepts_the_same_forgery_made_with_the_right_key() -> None:
    # The control of the tests above: what they change is what matters.
    session = at(Stage.SHARE_KEYS)
    assert session.clients[VICTIM].receive(entry(session, advertise(session, 2), 2))


def keep(session: Session, kept: list[int]) -> bytes:
    """The victim's ShareKeysRequest with only some clients in it."""
    request, places = opened(session.outbox[VICTIM]), [IDS.index(i) for i in kept]
    columns = {}
    for name, size in (("channel_keys", 32), ("mask_keys", 32), ("signatures", 64)):
        whole = getattr(request, name)
        columns[name] = b"".join(whole[size * place : size * place + size] for place in places)
    return edit(session.outbox[VICTIM], advertised=bitmap(session.config, kept), **columns)


def test_client_aborts_when_fewer_than_the_threshold_advertised() -> None:
    session = at(Stage.SHARE_KEYS)
    attack(session, keep(session, [2, 3, 5]), "C9")


def test_client_aborts_when_the_cohort_shrinks_below_its_minimum() -> None:
    session = at(Stage.SHARE_KEYS, policy=Policy(minimum_cohort=5))
    attack(session, keep(session, [2, 3, 5, 8]), "C9")


# C10 to C14: the shares of all.


def sharing(session: Session, shared: list[int]) -> bytes:
    """The victim's MaskedInputCollectionRequest for another set of those that shared."""
    sealed = opened(session.outbox[VICTIM]).sealed
    parts = {i: sealed[SEALED * at : SEALED * at + SEALED] for at, i in enumerate(others(session, VICTIM))}
    column = b"".join(parts.get(i, bytes(SEALED)) for i in shared if i != VICTIM)
    return edit(session.outbox[VICTIM], shared=bitmap(session.config, shared), sealed=column)


def test_client_aborts_when_it_is_not_among_those_that_shared() -> None:
    session = at(Stage.MASKED_INPUT_COLLECTION)
    attack(session, sharing(session, [2, 3, 8, 13]), "C10")


def test_client_aborts_on_a_share_from_a_stranger() -> None:
    session = Session(complete()).to(Stage.MASKED_INPUT_COLLECTION, {13: Stage.ADVERTISE_KEYS})
    attack(session, sharing(session, list(IDS)), "C10")


def test_client_aborts_when_too_few_of_its_holders_shared() -> None:
    session = at(Stage.MASKED_INPUT_COLLECTION)
    attack(session, sharing(session, [2, 3, 5]), "C11")


def test_client_aborts_when_too_few_of_its_neighbors_shared() -> None:
    session = at(Stage.MASKED_INPUT_COLLECTION, ring(threshold=4))
    gone = others(session, VICTIM)[0]
    request = messages.MaskedInputCollectionRequest(
        bitmap(session.config, [i for i in session.config.client_ids if i != gone]),
        opened(session.outbox[VICTIM]).sealed[SEALED:],
    )
    attack(session, request.to_bytes(), "C11")


def test_client_aborts_when_those_that_shared_are_below_its_minimum_cohort() -> None:
    session = at(Stage.MASKED_INPUT_COLLECTION, policy=Policy(minimum_cohort=5))
    attack(session, sharing(session, [2, 3, 5, 8]), "C11")


@pytest.mark.parametrize("change", [without_part(0, SEALED), lambda old: old + old[:SEALED], lambda old: b""])
def test_client_aborts_on_a_sealed_pair_too_few_or_too_many(change: Any) -> None:
    session = at(Stage.MASKED_INPUT_COLLECTION)
    attack(session, edit(session.outbox[VICTIM], sealed=change), "C12")


def test_client_aborts_on_a_share_from_a_client_that_is_no_neighbor() -> None:
    session = at(Stage.MASKED_INPUT_COLLECTION, ring())
    attack(session, edit(session.outbox[VICTIM], sealed=lambda old: old + old[:SEALED]), "C12")


# One pair that does not open leaves the victim with too few where the threshold is all clients.
ALL_NEEDED = complete(threshold=5)


@pytest.mark.parametrize("byte", [0, 40, 72, SEALED - 1], ids=["mask_share", "seed_share", "tag", "last"])
def test_client_aborts_on_altered_sealed_shares(byte: int) -> None:
    session = at(Stage.MASKED_INPUT_COLLECTION, ALL_NEEDED)
    attack(session, edit(session.outbox[VICTIM], sealed=lambda old: flipped(old, byte)), "C13")


def test_client_aborts_when_the_shares_of_two_senders_are_swapped() -> None:
    session = at(Stage.MASKED_INPUT_COLLECTION, ALL_NEEDED)
    attack(session, edit(session.outbox[VICTIM], sealed=lambda old: old[SEALED:] + old[:SEALED]), "C13")


def test_client_aborts_on_shares_sealed_for_another_receiver() -> None:
    session = at(Stage.MASKED_INPUT_COLLECTION, ALL_NEEDED)
    sealed = opened(session.outbox[2]).sealed
    slot = others(session, 2).index(INSIDER)
    stolen = sealed[SEALED * slot : SEALED * slot + SEALED]
    mine = others(session, VICTIM).index(INSIDER)
    attack(session, edit(session.outbox[VICTIM], sealed=with_part(stolen, mine, SEALED)), "C13")


def test_client_aborts_when_its_own_shares_are_sent_back_to_it() -> None:
    session = at(Stage.MASKED_INPUT_COLLECTION, ALL_NEEDED)
    slot = others(session, VICTIM).index(INSIDER)
    reflected = opened(session.responses[Stage.SHARE_KEYS][VICTIM]).sealed[SEALED * slot : SEALED * slot + SEALED]
    attack(session, edit(session.outbox[VICTIM], sealed=with_part(reflected, slot, SEALED)), "C13")


def test_client_aborts_on_the_sealed_shares_of_an_earlier_session() -> None:
    session, old = at(Stage.MASKED_INPUT_COLLECTION, ALL_NEEDED), at(Stage.MASKED_INPUT_COLLECTION, ALL_NEEDED)
    attack(session, edit(session.outbox[VICTIM], sealed=opened(old.outbox[VICTIM]).sealed), "C13")


@pytest.mark.parametrize("what", ["session", "sender", "receiver"])
def test_client_aborts_on_shares_that_an_insider_sealed_under_other_names(what: str) -> None:
    session = at(Stage.SHARE_KEYS, ALL_NEEDED)
    insider = channel(session, INSIDER)
    session.to(Stage.MASKED_INPUT_COLLECTION)
    sealed = {
        "session": lambda: seal(session, insider, INSIDER, VICTIM, bytes(72), bytes(32)),
        "sender": lambda: seal(session, insider, 2, VICTIM, bytes(72)),
        "receiver": lambda: seal(session, insider, INSIDER, 2, bytes(72)),
    }[what]()
    slot = others(session, VICTIM).index(INSIDER)
    attack(session, edit(session.outbox[VICTIM], sealed=with_part(sealed, slot, SEALED)), "C13")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("limb", [0, 8, 9, 17])
@pytest.mark.parametrize("value", [2**31 - 1, 2**31, 2**32 - 1])
def test_client_aborts_on_a_share_outside_the_field(limb: int, value: int) -> None:
    session = at(Stage.SHARE_KEYS, ALL_NEEDED)
    insider = channel(session, INSIDER)
    session.to(Stage.MASKED_INPUT_COLLECTION)
    shares = bytes(4 * limb) + value.to_bytes(4, "little") + bytes(68 - 4 * limb)
    sealed = seal(session, insider, INSIDER, VICTIM, shares)
    slot = others(session, VICTIM).index(INSIDER)
    attack(session, edit(session.outbox[VICTIM], sealed=with_part(sealed, slot, SEALED)), "C14")


def test_client_accepts_any_share_in_the_field_that_an_insider_sealed() -> None:
    session = at(Stage.SHARE_KEYS)
    insider = channel(session, INSIDER)
    session.to(Stage.MASKED_INPUT_COLLECTION)
    sealed = seal(session, insider, INSIDER, VICTIM, (2**31 - 2).to_bytes(4, "little") * 18)
    slot = others(session, VICTIM).index(INSIDER)
    assert session.clients[VICTIM].receive(edit(session.outbox[VICTIM], sealed=with_part(sealed, slot, SEALED)))


# C15 to C17: the survivors, in the first message that names them.


def survivors_request(session: Session, survivors: Any) -> bytes:
    if session.config.malicious_server:
        return messages.ConsistencyCheckRequest(bitmap(session.config, survivors)).to_bytes()
    return unmasking_request(session, survivors, set(IDS) - set(survivors))


ADVERSARIES = pytest.mark.parametrize("adversary", ["semi_honest", "malicious_server"])


def at_survivors(adversary: Any, silent: dict[int, Stage] | None = None, **arguments: Any) -> Session:
    session = Session(complete(adversary=adversary), **arguments)
    session.to(Stage.MASKED_INPUT_COLLECTION, silent).answer(silent or ())
    session.close()
    return session


@ADVERSARIES
def test_client_aborts_when_a_survivor_had_not_shared(adversary: Any) -> None:
    session = at_survivors(adversary, {13: Stage.SHARE_KEYS})
    attack(session, survivors_request(session, IDS), "C15")


@ADVERSARIES
def test_client_aborts_when_it_is_declared_a_dropout(adversary: Any) -> None:
    session = at_survivors(adversary)
    attack(session, survivors_request(session, [2, 3, 8, 13]), "C16")


@ADVERSARIES
def test_client_aborts_when_too_few_survive(adversary: Any) -> None:
    for survivors in ([2, 3, 5], [5]):
        session = at_survivors(adversary)
        attack(session, survivors_request(session, survivors), "C17")


@ADVERSARIES
def test_client_aborts_when_the_survivors_are_below_its_minimum_cohort(adversary: Any) -> None:
    session = at_survivors(adversary, policy=Policy(minimum_cohort=5))
    attack(session, survivors_request(session, IDS[:4]), "C17")


def test_client_aborts_when_too_few_of_its_neighbors_survive() -> None:
    session = at(Stage.CONSISTENCY_CHECK, ring())
    gone = others(session, VICTIM)[:2]
    attack(session, survivors_request(session, [i for i in session.config.client_ids if i not in gone]), "C17")


# C18 to C22: what is asked for at the end.


@ADVERSARIES
@pytest.mark.parametrize("target", [2, VICTIM], ids=["of_another", "of_itself"])
def test_client_aborts_when_asked_for_both_shares_of_one_client(adversary: Any, target: int) -> None:
    session = Session(complete(adversary=adversary)).to(Stage.UNMASKING)
    attack(session, edit(session.outbox[VICTIM], dropouts=bitmap(session.config, [target])), "C18")


def test_client_aborts_or_stays_silent_when_asked_for_both_shares_in_two_requests() -> None:
    # Once with each list first; the second request comes from the server that has the first answer.
    for first, second in itertools.permutations(((IDS, ()), (IDS[:4], IDS[4:]))):
        session = Session(complete(adversary="semi_honest")).to(Stage.UNMASKING)
        client = session.clients[VICTIM]
        assert client.receive(unmasking_request(session, *first))
        with pytest.raises(errors.StageError):
            client.receive(unmasking_request(session, *second))


@ADVERSARIES
def test_client_aborts_when_a_client_is_in_neither_list(adversary: Any) -> None:
    session = Session(complete(adversary=adversary)).to(Stage.MASKED_INPUT_COLLECTION)
    session.answer(silent=[13])
    session.close()
    session.to(Stage.UNMASKING)
    attack(session, edit(session.outbox[VICTIM], dropouts=bytes(1)), "C19")


@ADVERSARIES
def test_client_aborts_when_a_dropout_had_not_shared(adversary: Any) -> None:
    session = Session(complete(adversary=adversary)).to(Stage.UNMASKING, {13: Stage.SHARE_KEYS})
    attack(session, edit(session.outbox[VICTIM], dropouts=bitmap(session.config, [13])), "C19")


def test_client_aborts_when_the_survivors_are_not_those_it_signed() -> None:
    session = at(Stage.UNMASKING)
    signatures = {i: sign_survivors(session, i, IDS[:4]) for i in IDS[:4]}
    attack(session, unmasking_request(session, IDS[:4], IDS[4:], signatures), "C20")


def signed_request(session: Session, signatures: dict[int, bytes]) -> bytes:
    return unmasking_request(session, session.config.client_ids, (), signatures)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "forgery", ["missing", "stranger", "other_client", "other_session", "other_survivors", "other_kind"]
)
def test_client_aborts_on_a_survivor_signature_that_is_not_the_signers(forgery: str) -> None:
    session = at(Stage.UNMASKING)
    good = {i: sign_survivors(session, i, IDS) for i in IDS}
    signed = binding.survivors(session_id(session), bitmap(session.config, IDS))
    good[2] = {
        "missing": lambda: bytes(64),
        "stranger": lambda: SigningKey.generate().sign(signed),
        "other_client": lambda: good[3],
        "other_session": lambda: sign_survivors(session, 2, IDS, bytes(32)),
        "other_survivors": lambda: sign_survivors(session, 2, IDS[:4]),
        "other_kind": lambda: opened(session.responses[Stage.ADVERTISE_KEYS][2]).signature,
    }[forgery]()
    attack(session, signed_request(session, good), "C21")


def test_client_aborts_when_a_signer_is_no_survivor() -> None:
    session = at(Stage.MASKED_INPUT_COLLECTION)
    session.answer(silent=[13])
    session.close()
    session.to(Stage.UNMASKING)
    signatures = {i: sign_survivors(session, i, IDS[:4]) for i in IDS}
    attack(session, unmasking_request(session, IDS[:4], IDS[4:], signatures), "C21")


def test_client_aborts_when_a_signer_is_not_its_neighbor() -> None:
    session = at(Stage.UNMASKING, ring())
    everyone = session.config.client_ids
    stranger = next(i for i in everyone if i not in holders(session, VICTIM) and i != VICTIM)
    for signer in (stranger, VICTIM):
        session = session if signer == stranger else at(Stage.UNMASKING, ring())
        signers = [*others(session, VICTIM), signer]
        attack(session, signed_request(session, {i: sign_survivors(session, i, everyone) for i in signers}), "C21")


def test_client_aborts_when_fewer_than_the_threshold_signed() -> None:
    for signers in ((), (2,), (2, 3), (2, 3, VICTIM)):
        session = at(Stage.UNMASKING)
        attack(session, signed_request(session, {i: sign_survivors(session, i, IDS) for i in signers}), "C22")


def test_client_counts_its_own_signature_once_whether_listed_or_not() -> None:
    for signers in ((2, 3, INSIDER), (2, 3, INSIDER, VICTIM)):
        session = at(Stage.UNMASKING)
        assert session.clients[VICTIM].receive(
            signed_request(session, {i: sign_survivors(session, i, IDS) for i in signers})
        )


def test_client_does_not_count_its_own_signature_on_a_ring() -> None:
    session = at(Stage.UNMASKING, ring())
    signatures = {i: sign_survivors(session, i, session.config.client_ids) for i in others(session, VICTIM)[:2]}
    attack(session, signed_request(session, signatures), "C22")


# Attacks that take more than one message.


def split_survivors(session: Session, target: int, half: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """Tell `half` that the target survived, the others that it did not."""
    without = tuple(i for i in IDS if i != target)
    return {i: IDS if i in half else without for i in IDS if i != target}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_two_lists_of_survivors_get_a_malicious_server_nothing(size: int) -> None:
    for half in itertools.combinations([2, 3, INSIDER, 13], size):
        session = at(Stage.CONSISTENCY_CHECK)
        told = split_survivors(session, VICTIM, half)
        signatures = {
            i: opened(session.clients[i].receive(survivors_request(session, survivors))).signature
            for i, survivors in told.items()
        }
        for i, survivors in told.items():
            same = {j: signatures[j] for j in told if told[j] == survivors}
            dropouts = set(IDS) - set(survivors)
            attack(session, unmasking_request(session, survivors, dropouts, same), "C22", i)


def test_two_lists_of_survivors_never_open_both_secrets_on_the_complete_graph() -> None:
    # Without the consistency check each half answers; more than half of all can never be on both sides.
    for size in range(5):
        for half in itertools.combinations([2, 3, INSIDER, 13], size):
            session = Session(complete(adversary="semi_honest", threshold=3)).to(Stage.UNMASKING)
            seed_shares = mask_shares = 0
            for i, survivors in split_survivors(session, VICTIM, half).items():
                session.clients[i].receive(unmasking_request(session, survivors, set(IDS) - set(survivors)))
                seed_shares, mask_shares = seed_shares + (i in half), mask_shares + (i not in half)
            assert min(seed_shares, mask_shares) < 3


def test_two_lists_open_a_client_of_a_semi_honest_ring_which_is_why_there_is_a_malicious_server() -> None:
    # A documented limit: threshold at most half the neighbors, no consistency check: two lists give both.
    session = Session(ring(threshold=2, adversary="semi_honest")).to(Stage.UNMASKING)
    everyone = session.config.client_ids
    kinds = []
    for place, i in enumerate(others(session, VICTIM)):
        dropouts = [VICTIM] if place % 2 else []
        answer = opened(session.clients[i].receive(unmasking_request(session, set(everyone) - set(dropouts), dropouts)))
        assert answer.shares
        kinds.append(bool(dropouts))
    assert kinds.count(True) >= 2 <= kinds.count(False)


def test_two_sets_of_advertised_keys_fail_closed() -> None:
    # The server hides one client from half of the others: their session ids differ, so nothing that they seal opens.
    session = at(Stage.SHARE_KEYS, complete(threshold=3, adversary="semi_honest"))
    request = opened(session.outbox[VICTIM])
    fewer = messages.ShareKeysRequest(
        bitmap(session.config, IDS[:4]), request.channel_keys[:128], request.mask_keys[:128], b""
    ).to_bytes()
    for i in (2, 3):
        session.outbox[i] = fewer
    for i in (5, INSIDER, 13):
        session.reply(i)
    sealed = {i: session.reply(i) for i in (2, 3)}
    from_2 = opened(sealed[2]).sealed
    mine = opened(session.responses[Stage.SHARE_KEYS][INSIDER]).sealed
    column = from_2[SEALED : 2 * SEALED] + mine[SEALED * 3 :] * 3
    request_5 = messages.MaskedInputCollectionRequest(bitmap(session.config, IDS), column).to_bytes()
    assert_aborts(session.clients[VICTIM], request_5, "C13")


@pytest.mark.parametrize("field", ["model_hash", "context"])
def test_a_client_with_another_model_is_in_no_sum(field: str) -> None:
    # The server tells each client the hash that it wants to hear; everything fails closed afterwards.
    other = complete(adversary="semi_honest", **{field: b"\1" * 32})
    session = Session(complete(adversary="semi_honest"), configs={VICTIM: other})
    session.outbox[VICTIM] = edit(session.outbox[VICTIM], config_hash=other.hash)
    session.to(Stage.SHARE_KEYS).answer(silent=[VICTIM])
    shares = session.reply(VICTIM)
    assert_server_refuses(session.server, VICTIM, shares, "S14")
    session.server.receive(VICTIM, edit(shares, session_id=session_id(session)))  # a malicious one takes it
    session.close()
    attack(session, session.outbox[VICTIM], "C13")
    for i in set(IDS) - {VICTIM}:
        assert listed(session.config, opened(session.reply(i)).unopened) == (VICTIM,)
        session.server.receive(i, session.responses[Stage.MASKED_INPUT_COLLECTION][i])
    with pytest.raises(errors.FaultyClientError) as caught:
        session.close()
    assert (caught.value.client_id, caught.value.check) == (VICTIM, "S16")


def test_a_client_with_another_model_has_no_valid_signature() -> None:
    other = complete(model_hash=b"\1" * 32)
    session = Session(complete(), configs={VICTIM: other})
    answer = session.clients[VICTIM].receive(edit(session.outbox[VICTIM], config_hash=other.hash))
    assert_server_refuses(session.server, VICTIM, answer, "S7")


def test_keys_signed_twice_under_one_nonce_cannot_be_mixed() -> None:
    # The server runs two sessions at once under one nonce, so that signatures fit both, and swaps one client's keys.
    one, two = Session(complete()), Session(complete())
    two.outbox = dict(one.outbox)
    one.to(Stage.SHARE_KEYS)
    for i in IDS:
        two.reply(i)
    one.outbox[VICTIM] = entry(one, opened(two.responses[Stage.ADVERTISE_KEYS][2]), 2)
    one.answer(silent=[VICTIM])
    one.server.receive(VICTIM, edit(one.reply(VICTIM), session_id=session_id(one)))
    one.close()
    attack(one, one.outbox[VICTIM], "C13")


def test_client_erases_everything_when_the_server_aborts() -> None:
    for stage in COMPLETE_STAGES:
        session = at(stage)
        client = session.clients[VICTIM]
        assert client.receive(session.server.abort("enough")[VICTIM]) == b""
        assert client.stage is Stage.ABORTED
        assert held(client) is None


def test_client_erases_everything_when_it_leaves() -> None:
    for stage in COMPLETE_STAGES:
        session = at(stage)
        client = session.clients[VICTIM]
        assert opened(client.abort("C7")).reason == b"C7"
        assert_refuses_all(client)
    assert len(opened(session.clients[2].abort("x" * 100)).reason) == 64
    assert opened(session.clients[3].abort("späße")).reason.isascii()


def assert_refuses_all(client: Client) -> None:
    for kind in sorted(KINDS):
        with pytest.raises(errors.StageError):
            client.receive(bytes((1, kind)))


def test_client_answers_nothing_after_the_last_stage() -> None:
    session = at(Stage.DONE)
    for client in session.clients.values():
        assert client.stage is Stage.DONE
        assert_refuses_all(client)
        assert [field.name for field in fields(held(client))] == ["survivors"]


# Whoever builds a client or server with the wrong identities is told so at once.


def test_client_is_not_built_for_another_id() -> None:
    config = complete(adversary="semi_honest")
    for stranger in (0, 1, 4, 14, -5, 2**40):
        with pytest.raises(errors.ConfigError):
            Client(config, stranger, [0] * 6)


def test_client_is_not_built_with_another_clients_identity() -> None:
    session = Session(complete())
    with pytest.raises(errors.ConfigError):
        Client(session.config, VICTIM, [0] * 6, signing_key=session.identities[2], directory=session.directory)


def test_parties_insist_on_a_whole_directory_of_distinct_keys() -> None:
    session = Session(complete())
    good = dict(session.directory or {})
    for directory in (None, {}, {**good, 2: good[3]}, {**good, 2: good[2][:31]}, {i: good[i] for i in IDS[1:]}):
        with pytest.raises(errors.ConfigError):
            Server(session.config, directory=directory)
        with pytest.raises(errors.ConfigError):
            Client(session.config, VICTIM, [0] * 6, signing_key=session.identities[VICTIM], directory=directory)
    semi = complete(adversary="semi_honest")
    with pytest.raises(errors.ConfigError):
        Server(semi, directory=good)
    with pytest.raises(errors.ConfigError):
        Client(semi, VICTIM, [0] * 6, signing_key=session.identities[VICTIM])
    with pytest.raises(errors.ConfigError):
        Client(session.config, VICTIM, [0] * 6, directory=good)


# S1 to S14: what the server does not take. Nobody else notices.


def refuse(session: Session, client_id: int, data: bytes, check: str) -> None:
    """Refused, nothing changed; then the session ends with the right sum."""
    assert_server_refuses(session.server, client_id, data, check)
    session.finish().assert_sum()
    assert session.server.survivors == session.config.client_ids


def answered(session: Session, client_id: int = VICTIM) -> bytes:
    """An honest response that has not reached the server, of a client that will answer nothing else."""
    return session.reply(client_id)


def test_server_refuses_a_stranger() -> None:
    for stranger in (0, 1, 4, 14, -5, 2**40):
        session = Session(complete())
        refuse(session, stranger, advertise(session, 2).to_bytes(), "S1")


def test_server_refuses_a_client_that_dropped_out() -> None:
    session = Session(complete()).to(Stage.SHARE_KEYS, {VICTIM: Stage.ADVERTISE_KEYS})
    session.answer()
    assert_server_refuses(session.server, VICTIM, session.responses[Stage.SHARE_KEYS][2], "S1")
    assert_server_refuses(session.server, VICTIM, messages.Abort(b"").to_bytes(), "S1")
    session.close()
    session.finish().assert_sum()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("stage", COMPLETE_STAGES, ids=lambda stage: stage.name)
def test_server_refuses_broken_bytes(stage: Stage) -> None:
    session = at(stage)
    data = answered(session)
    broken = [
        b"",
        data[:1],
        b"\0" + data[1:],
        b"\2" + data[1:],
        data[:-1],
        data[: len(data) // 2],
        data[:2],
        data + b"\0",
    ]
    if stage in (Stage.MASKED_INPUT_COLLECTION, Stage.UNMASKING):  # the length of the column
        broken.append(data[:34] + b"\xff\xff\xff\xff" + data[38:])
    for bad in broken:
        assert_server_refuses(session.server, VICTIM, bad, "S2")
    assert session.server.receive(VICTIM, data)
    session.answer(silent=[VICTIM])
    session.close()
    session.finish().assert_sum()
    assert session.server.survivors == IDS


@pytest.mark.parametrize("stage", COMPLETE_STAGES, ids=lambda stage: stage.name)
def test_server_refuses_a_message_longer_than_its_stage_allows(stage: Stage) -> None:
    session = at(stage)
    assert len(answered(session, 2)) <= session.server.message_bytes
    data = any_message(messages.Abort)[:2] + bytes(session.server.message_bytes - 1)
    assert_server_refuses(session.server, VICTIM, data, "S2")


def test_server_refuses_keys_without_a_signature() -> None:
    session = Session(complete())
    refuse(session, VICTIM, edit(advertise(session, VICTIM).to_bytes(), signature=b""), "S2")
    session = Session(complete(adversary="semi_honest"))
    refuse(session, VICTIM, edit(advertise(session, VICTIM).to_bytes(), signature=bytes(64)), "S2")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("stage", COMPLETE_STAGES, ids=lambda stage: stage.name)
def test_server_refuses_a_second_answer_and_keeps_the_first(stage: Stage) -> None:
    session, other = at(stage), at(stage)
    data = answered(session)
    assert session.server.receive(VICTIM, data)
    for again in (data, answered(other)):
        assert_server_refuses(session.server, VICTIM, again, "S4")
    session.answer(silent=[VICTIM])
    session.close()
    session.finish().assert_sum()


@pytest.mark.sampled(6)
@pytest.mark.parametrize("field", ["channel_key", "mask_key"])
@pytest.mark.parametrize("key", LOW_ORDER + NOT_CANONICAL, ids=bytes.hex)
def test_server_refuses_a_key_of_low_order_or_not_canonical(field: str, key: bytes) -> None:
    session = Session(complete(adversary="semi_honest"))
    assert_server_refuses(session.server, VICTIM, edit(advertise(session, VICTIM).to_bytes(), **{field: key}), "S5")


@pytest.mark.parametrize("field", ["channel_key", "mask_key"])
@pytest.mark.parametrize("copied", ["channel_key", "mask_key"])
def test_server_refuses_a_key_of_another_client(field: str, copied: str) -> None:
    session = Session(complete(adversary="semi_honest"))
    first = answered(session, 2)
    session.server.receive(2, first)
    forged = edit(advertise(session, VICTIM).to_bytes(), **{field: getattr(opened(first), copied)})
    assert_server_refuses(session.server, VICTIM, forged, "S6")


def test_server_refuses_one_key_for_both_uses() -> None:
    session = Session(complete(adversary="semi_honest"))
    response = advertise(session, VICTIM)
    refuse(session, VICTIM, edit(response.to_bytes(), mask_key=response.channel_key), "S6")


def test_a_refused_advertisement_does_not_block_the_keys_it_named() -> None:
    # Else a client could keep another out by sending that one's keys first, wrongly signed.
    session = Session(complete())
    stolen = answered(session, 2)
    assert_server_refuses(session.server, VICTIM, stolen, "S7")
    assert session.server.receive(2, stolen)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "bound",
    [
        {"nonce": bytes(32)},
        {"config": complete(round=6)},
        {"config": complete(model_hash=b"\1" * 32)},
        {"client_id": 3},
        {"key": SigningKey(b"\7" * 32)},
    ],
    ids=["session", "round", "model", "client", "key"],
)
def test_server_refuses_keys_signed_for_something_else(bound: dict[str, Any]) -> None:
    session = Session(complete())
    refuse(session, VICTIM, advertise(session, VICTIM, **bound).to_bytes(), "S7")


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (without_part(0, SEALED), "S8"),
        (lambda old: old + old[:SEALED], "S8"),
        (lambda old: b"", "S8"),
        (lambda old: old[:-1], "S2"),
    ],
)
def test_server_refuses_sealed_shares_too_few_or_too_many(change: Any, check: str) -> None:
    session = at(Stage.SHARE_KEYS)
    good = answered(session)
    assert_server_refuses(session.server, VICTIM, edit(good, sealed=change), check)
    assert session.server.receive(VICTIM, good)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("bits", [1, 7, 8, 13, 16, 64])
def test_server_refuses_a_vector_of_another_length(bits: int) -> None:
    session = at(Stage.MASKED_INPUT_COLLECTION, complete(modulus_bits=bits, length=13))
    good = answered(session)
    size = len(opened(good).masked)
    for masked in (b"", bytes(1) if size > 1 else b"", bytes(size - 1)):
        assert_server_refuses(session.server, VICTIM, edit(good, masked=masked), "S9")
    if unused := -13 * bits % 8:
        for bit in range(8 - unused, 8):
            assert_server_refuses(
                session.server, VICTIM, edit(good, masked=lambda old, bit=bit: old[:-1] + bytes((1 << bit,))), "S9"
            )
    assert session.server.receive(VICTIM, good)
    session.answer(silent=[VICTIM])
    session.close()
    session.finish().assert_sum()


def test_server_refuses_a_signature_on_other_survivors() -> None:
    session = at(Stage.CONSISTENCY_CHECK)
    forgeries = [
        bytes(64),
        sign_survivors(session, VICTIM, IDS[:4]),
        sign_survivors(session, VICTIM, IDS, bytes(32)),
        sign_survivors(session, 2, IDS),
        opened(session.responses[Stage.ADVERTISE_KEYS][VICTIM]).signature,
    ]
    for signature in forgeries:
        assert_server_refuses(session.server, VICTIM, messages.ConsistencyCheckResponse(signature).to_bytes(), "S10")
    session.finish().assert_sum()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("change", "check"),
    [
        (without_part(0, SHARE), "S11"),
        (lambda old: b"\xff\xff\xff\x7f" + old[4:], "S11"),
        (lambda old: old[:-4] + b"\xff\xff\xff\xff", "S11"),
        (lambda old: b"", "S11"),
        (lambda old: old + old[:SHARE], "S2"),
        (lambda old: old[:-1], "S2"),
    ],
)
def test_server_refuses_shares_that_are_not_in_the_field_or_not_all_there(change: Any, check: str) -> None:
    session = at(Stage.UNMASKING)
    good = answered(session)
    assert_server_refuses(session.server, VICTIM, edit(good, shares=change), check)
    assert session.server.receive(VICTIM, good)
    session.answer(silent=[VICTIM])
    session.close()
    session.assert_sum()


# S12 and S13 are in test_server.py: whom the server names and when the session ends.


@pytest.mark.parametrize("stage", [Stage.SHARE_KEYS, Stage.MASKED_INPUT_COLLECTION, Stage.UNMASKING])
def test_server_refuses_an_answer_that_was_meant_for_an_earlier_session(stage: Stage) -> None:
    # A slow client and a transport that knows clients but no sessions are enough to bring one here.
    old, session = at(stage), at(stage)
    refuse(session, VICTIM, answered(old), "S14")


def test_server_refuses_an_advertisement_that_was_meant_for_an_earlier_session() -> None:
    # It comes before there is a session id; the signature names the nonce. Without signatures the client itself aborts.
    old, session = Session(complete()), Session(complete())
    refuse(session, VICTIM, answered(old), "S7")
    old, session = (Session(complete(adversary="semi_honest")) for _ in range(2))
    session.server.receive(VICTIM, answered(old))
    session.reply(VICTIM)
    session.answer(silent=[VICTIM])
    session.close()
    attack(session, session.outbox[VICTIM], "C5")


def test_key_pairs_of_an_attacker_are_sound() -> None:
    # The control for S5 and C7: what the forge advertises is refused for no other reason.
    session = Session(complete(adversary="semi_honest"))
    assert session.server.receive(VICTIM, advertise(session, VICTIM).to_bytes())
    assert KeyPair(SystemEntropy().draw("", 32)).public_bytes not in LOW_ORDER
