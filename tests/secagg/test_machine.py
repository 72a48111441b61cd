"""A hostile network, a hostile server and hostile clients, chosen by hypothesis, against real parties.

The channel from a client is authenticated, as `Server.receive` demands, but what a hostile client sends in its own name
may be anything. The channel to a client is the server's, and a hostile server may say anything.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache, wraps
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from secfed import errors
from secfed.crypto.entropy import predictable_secrets
from secfed.secagg import Client, Config, Server, Stage, messages
from secfed.secagg.stages import EXCHANGES
from tests.secagg.forge import (
    SEALED,
    Session,
    assert_forgot,
    bitmap,
    edit,
    graph,
    holders,
    listed,
    opened,
    others,
    secrets_of,
    total,
    unmasking_request,
    without_part,
)

CONFIGS = [
    Config((1, 2, 3, 4), 3, 3, 16, adversary="semi_honest"),
    Config((1, 2, 3, 4), 3, 3, 16, adversary="malicious_server"),
    Config((2, 5, 6, 9, 11), 4, 3, 16, colluders=1, adversary="malicious_server"),
    Config((3, 4, 5, 6, 7, 8), 4, 3, 16, adversary="semi_honest"),
    Config(range(1, 8), 4, 3, 16, adversary="malicious_server"),
    Config(range(1, 8), 3, 3, 16, neighbors=4, adversary="malicious_server"),
    Config(range(11, 18), 3, 3, 16, neighbors=4, adversary="semi_honest"),
]
OUTCOMES: Counter[str] = Counter()
PICK = st.integers(0, 2**16)


@cache
def earlier(config: Config) -> Session:
    """A session of the same clients that is over."""
    return Session(config, seed=1).finish()


def attack(**arguments: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule that costs the attacker one move: with too many moves every session ends early, and nothing is learnt."""

    def decorate(move: Callable[..., None]) -> Any:
        @wraps(move)
        def spending(self: "Network", **drawn: Any) -> None:
            self.moves -= 1
            move(self, **drawn)

        return precondition(lambda self: self.moves > 0)(rule(**arguments)(spending))

    return decorate


class Network(RuleBasedStateMachine):
    """One session, in which every message passes through the attacker's hands."""

    @initialize(
        config=st.sampled_from(CONFIGS),
        seed=PICK,
        stages=st.integers(0, 4),
        begun=st.booleans(),
        moves=st.integers(1, 8),
    )
    def start(self, config: Config, seed: int, stages: int, begun: bool, moves: int) -> None:
        self.config = config
        rng = np.random.default_rng(seed)
        vectors = {i: rng.integers(0, 1 << 16, 3) for i in config.client_ids}
        self.session = Session(config, vectors, seed=seed + 2)
        self.ids = list(config.client_ids)
        self.to_clients = list(self.session.outbox.items())
        self.to_server: list[tuple[int, bytes]] = []
        self.requests = list(self.to_clients)  # all that were ever made
        self.responses: list[tuple[int, bytes]] = []
        self.masked: dict[int, bytes] = {}  # what each client computed
        self.accepted: dict[int, bytes] = {}  # what the server added up
        self.unopened: dict[int, tuple[int, ...]] = {}  # whose shares a holder says that it could not open
        self.answers: Counter[tuple[int, int]] = Counter()
        self.signatures: dict[tuple[int, bytes], bytes] = {}
        self.released: dict[int, messages.UnmaskingRequest] = {}
        self.server_lied = False
        self.outcome = ""
        self.moves = 0
        for _ in range(stages):
            self.deliver_everything_and_close()
        if begun:
            self.deliver_everything()
        self.moves = moves

    # The two ways in.

    def client_receives(self, client_id: int, data: bytes, lie: bool = False) -> bytes:
        client = self.session.clients[client_id]
        before, secrets = client.to_bytes(), secrets_of(client)
        try:
            response = client.receive(data)
        except (errors.MalformedMessageError, errors.StageError):
            assert client.to_bytes() == before
            return b""
        except errors.FaultyServerError as error:
            blamed = error.check
            assert blamed in {f"C{number}" for number in range(3, 23)}
            assert client.stage is Stage.ABORTED
            assert_forgot(client, secrets)
            return b""
        if not response:  # the server's Abort
            assert client.stage is Stage.ABORTED
            return b""
        self.server_lied |= lie
        answer = opened(response)
        self.answers[client_id, answer.kind] += 1
        match answer:
            case messages.MaskedInputCollectionResponse():
                self.masked[client_id] = answer.masked
            case messages.ConsistencyCheckResponse():
                self.signatures[client_id, opened(data).survivors] = answer.signature
            case messages.UnmaskingResponse():
                self.released[client_id] = opened(data)
        self.responses.append((client_id, response))
        return response

    def server_receives(self, client_id: int, data: bytes) -> None:
        server = self.session.server
        stage, before, faults = server.stage, server.to_bytes(), len(server.faults)
        try:
            counts = server.receive(client_id, data)
        except errors.FaultyClientError:
            fault = server.faults.pop()
            assert (fault.client_id, len(server.faults)) == (client_id, faults)
            assert server.to_bytes() == before
            server.faults.append(fault)
            return
        if not counts:
            assert server.to_bytes() == before
        elif stage is Stage.MASKED_INPUT_COLLECTION and data[1] == EXCHANGES[stage].response.kind:
            assert client_id not in self.accepted
            self.accepted[client_id] = opened(data).masked
            self.unopened[client_id] = listed(self.config, opened(data).unopened)

    # The network: deliver, drop, duplicate, delay (by not delivering), swap, replay.

    @precondition(lambda self: self.to_clients)
    @rule(pick=PICK, keep=st.booleans())
    def deliver_to_client(self, pick: int, keep: bool) -> None:
        place = pick % len(self.to_clients)
        client_id, data = self.to_clients[place] if keep else self.to_clients.pop(place)
        if response := self.client_receives(client_id, data):
            self.to_server.append((client_id, response))

    @precondition(lambda self: self.to_server)
    @rule(pick=PICK, keep=st.booleans())
    def deliver_to_server(self, pick: int, keep: bool) -> None:
        place = pick % len(self.to_server)
        self.server_receives(*(self.to_server[place] if keep else self.to_server.pop(place)))

    @attack(pick=PICK)
    def drop_to_client(self, pick: int) -> None:
        if not self.to_clients:
            return
        self.to_clients.pop(pick % len(self.to_clients))

    @attack(pick=PICK)
    def drop_to_server(self, pick: int) -> None:
        if not self.to_server:
            return
        self.to_server.pop(pick % len(self.to_server))

    @attack(pick=PICK, to=PICK)
    def replay_or_swap_to_client(self, pick: int, to: int) -> None:
        """Any request of this session, whoever it was for, or one of the earlier session."""
        old = [(i, data) for sent in earlier(self.config).requests.values() for i, data in sent.items()]
        known = self.requests + old
        client_id = self.ids[to % len(self.ids)]
        if response := self.client_receives(client_id, known[pick % len(known)][1], lie=True):
            self.to_server.append((client_id, response))

    @attack(pick=PICK, own=st.booleans())
    def replay_to_server(self, pick: int, own: bool) -> None:
        """A client sends again what it once sent, in this session or in the earlier one."""
        old = [(i, data) for sent in earlier(self.config).responses.values() for i, data in sent.items()]
        known = self.responses if own and self.responses else old
        self.server_receives(*known[pick % len(known)])

    @attack(pick=PICK, to=PICK)
    def another_client_sends_the_same(self, pick: int, to: int) -> None:
        """A hostile client sends in its own name what another one sent."""
        if not self.responses:
            return
        self.server_receives(self.ids[to % len(self.ids)], self.responses[pick % len(self.responses)][1])

    # Broken bytes.

    @staticmethod
    def corrupted(data: bytes, how: str, place: int) -> bytes:
        match how:
            case "flip":
                at = place % len(data)
                return data[:at] + bytes((data[at] ^ 1 << place % 8,)) + data[at + 1 :]
            case "truncate":
                return data[: place % len(data)]
            case _:
                return data + bytes((place % 256,)) * (1 + place % 5)

    @attack(pick=PICK, how=st.sampled_from(["flip", "truncate", "extend"]), place=PICK)
    def corrupt_to_client(self, pick: int, how: str, place: int) -> None:
        if not self.to_clients:
            return
        client_id, data = self.to_clients[pick % len(self.to_clients)]
        if response := self.client_receives(client_id, self.corrupted(data, how, place)):
            self.to_server.append((client_id, response))

    @attack(pick=PICK, how=st.sampled_from(["flip", "truncate", "extend"]), place=PICK)
    def corrupt_to_server(self, pick: int, how: str, place: int) -> None:
        if not self.to_server:
            return
        client_id, data = self.to_server[pick % len(self.to_server)]
        self.server_receives(client_id, self.corrupted(data, how, place))

    # A malicious server: what it says depends on where the client stands.

    def lie_to(self, client_id: int, data: bytes) -> None:
        if response := self.client_receives(client_id, data, lie=True):
            self.to_server.append((client_id, response))

    def sent(self, client_id: int, cls: type) -> bytes:
        return next((data for i, data in reversed(self.requests) if i == client_id and data[1] == cls.kind), b"")

    def chosen(self, pick: int) -> list[int]:
        return [i for place, i in enumerate(self.ids) if pick >> place & 1]

    @attack(to=PICK, hidden=PICK)
    def lie_about_who_advertised(self, to: int, hidden: int) -> None:
        client_id = self.ids[to % len(self.ids)]
        if data := self.sent(client_id, messages.ShareKeysRequest):
            advertised = listed(self.config, opened(data).advertised)
            place = hidden % len(advertised)
            fewer = [i for i in advertised if i != advertised[place]]
            columns = {"channel_keys": without_part(place, 32), "mask_keys": without_part(place, 32)}
            signatures = without_part(place, 64 if self.config.malicious_server else 0)
            self.lie_to(client_id, edit(data, advertised=bitmap(self.config, fewer), signatures=signatures, **columns))

    @attack(to=PICK, hidden=PICK)
    def lie_about_who_shared(self, to: int, hidden: int) -> None:
        client_id = self.ids[to % len(self.ids)]
        if data := self.sent(client_id, messages.MaskedInputCollectionRequest):
            shared = listed(self.config, opened(data).shared)
            target = shared[hidden % len(shared)]
            senders = [i for i in others(self.session, client_id) if i in shared]
            sealed = without_part(senders.index(target), SEALED) if target in senders else bytes
            fewer = bitmap(self.config, [i for i in shared if i != target])
            self.lie_to(client_id, edit(data, shared=fewer, sealed=sealed))

    @attack(to=PICK, pick=PICK)
    def lie_about_the_survivors(self, to: int, pick: int) -> None:
        self.lie_to(
            self.ids[to % len(self.ids)],
            messages.ConsistencyCheckRequest(bitmap(self.config, self.chosen(pick))).to_bytes(),
        )

    @attack(to=PICK, pick=PICK, extra=PICK, honest_rest=st.booleans(), sign=st.booleans())
    def ask_for_shares(self, to: int, pick: int, extra: int, honest_rest: bool, sign: bool) -> None:
        """Ask for shares under any two lists, with every signature that fits."""
        client_id, survivors = self.ids[to % len(self.ids)], self.chosen(pick)
        dropouts = [i for i in self.ids if i not in survivors] if honest_rest else self.chosen(extra)
        members = bitmap(self.config, survivors)
        found = (
            {i: signature for (i, signed), signature in self.signatures.items() if signed == members} if sign else {}
        )
        self.lie_to(client_id, unmasking_request(self.session, survivors, dropouts, found))

    @attack(one=PICK, several=st.lists(PICK, max_size=7))
    def split_the_survivors(self, one: int, several: list[int]) -> None:
        """Tell some clients that one of them survived and the others that it did not; then ask both halves."""
        target = self.ids[one % len(self.ids)]
        without = [i for i in self.ids if i != target]
        told = {i: self.ids if place % 2 else without for i, place in zip(self.ids, several, strict=False)}
        for i, survivors in told.items():
            if self.session.clients[i].stage is Stage.CONSISTENCY_CHECK:
                self.lie_to(i, messages.ConsistencyCheckRequest(bitmap(self.config, survivors)).to_bytes())
        for i, survivors in told.items():
            if self.session.clients[i].stage is Stage.UNMASKING:
                members = bitmap(self.config, survivors)
                found = {i: signature for (i, signed), signature in self.signatures.items() if signed == members}
                dropouts = set(self.ids) - set(survivors)
                self.lie_to(i, unmasking_request(self.session, survivors, dropouts, found))

    # The parties themselves.

    @rule()
    def save_and_resume_the_server(self) -> None:
        server = self.session.server
        again = Server.from_bytes(server.to_bytes(), directory=self.session.directory, threads=1)
        assert again.to_bytes() == server.to_bytes()
        self.session.server = again

    @rule(pick=PICK)
    def save_and_resume_a_client(self, pick: int) -> None:
        client_id = self.ids[pick % len(self.ids)]
        client = self.session.clients[client_id]
        if client.stage < Stage.DONE:
            self.session.clients[client_id] = again = Client.from_bytes(
                client.to_bytes(),
                directory=self.session.directory,
                signing_key=self.session.identities.get(client_id),
                threads=1,
            )
            vars(again)["_setup"] = replace(vars(again)["_setup"], entropy=vars(client)["_setup"].entropy)

    @attack(pick=PICK, tell=st.booleans())
    def a_client_leaves(self, pick: int, tell: bool) -> None:
        client_id = self.ids[pick % len(self.ids)]
        goodbye = self.session.clients[client_id].abort()
        if tell:
            self.server_receives(client_id, goodbye)

    @attack()
    def close_stage_early(self) -> None:
        self.close_stage()

    def close_stage(self) -> None:
        server = self.session.server
        if server.stage >= Stage.DONE:
            with pytest.raises(errors.StageError):
                server.close_stage()
            return
        if server.stage is not Stage.ADVERTISE_KEYS:
            graph(self.session)  # the server forgets it when the session ends
        try:
            outbox = server.close_stage()
        except errors.TooFewSurvivorsError as error:
            found, needed = error.survivors, error.threshold
            assert found < needed
            self.outcome = "too few"
        except errors.FaultyClientError as error:
            check = error.check
            assert check in ("S12", "S13", "S16")
            if check == "S16":  # only if more holders than may collude, and at least two, accuse the client
                accusers = sum(error.client_id in owners for owners in self.unopened.values())
                assert accusers >= max(2, self.config.colluders + 1)
            self.outcome = "faulty client"
        else:
            self.to_clients += outbox.items()
            self.requests += outbox.items()

    @rule()
    def deliver_everything(self) -> None:
        while self.to_clients:
            self.deliver_to_client(0, keep=False)
        while self.to_server:
            self.deliver_to_server(0, keep=False)

    @rule()
    def deliver_everything_and_close(self) -> None:
        self.deliver_everything()
        self.close_stage()

    # What must hold whatever happened.

    @invariant()
    def every_client_answers_each_stage_at_most_once(self) -> None:
        assert all(count == 1 for count in self.answers.values())

    @invariant()
    def nobody_is_opened_both_ways(self) -> None:
        if not self.released or not (self.config.malicious_server or self.config.complete):
            return
        lists = {i: listed(self.config, request.survivors) for i, request in self.released.items()}
        for owner in self.ids:
            held = [i for i in lists if owner in holders(self.session, i) or (self.config.complete and owner == i)]
            seeds = sum(owner in lists[i] for i in held)
            assert min(seeds, len(held) - seeds) < self.config.threshold
        if self.config.malicious_server and self.config.complete:
            assert len(set(lists.values())) == 1  # and all that released shares agree on one list

    @invariant()
    def the_sum_is_that_of_the_survivors_or_there_is_none(self) -> None:
        server = self.session.server
        if not server.done:
            with pytest.raises(errors.StageError):
                _ = server.sum
            return
        if self.server_lied or not set(server.survivors) <= set(self.masked):
            self.outcome = "sum of a lying server or of a client that masked nothing"
            return
        # A hostile client may send another vector than it masked; it counts with what it sent.
        summed = np.array(total(self.config, self.session.vectors, server.survivors), "<u2")
        for i in server.survivors:
            summed += np.frombuffer(self.accepted[i], "<u2") - np.frombuffer(self.masked[i], "<u2")
        assert server.sum.tolist() == summed.tolist()
        self.outcome = "sum"

    def teardown(self) -> None:
        if not hasattr(self, "session"):
            return
        while self.session.stage < Stage.DONE:
            self.deliver_everything_and_close()
        self.the_sum_is_that_of_the_survivors_or_there_is_none()
        self.nobody_is_opened_both_ways()
        OUTCOMES[self.outcome] += 1


def run(sessions: int) -> Counter[str]:
    OUTCOMES.clear()
    quiet = list(HealthCheck)
    with predictable_secrets():  # hypothesis must be able to repeat what it found
        run_state_machine_as_test(
            Network,
            settings=settings(
                max_examples=sessions, stateful_step_count=30, deadline=None, suppress_health_check=quiet
            ),
        )
    print(dict(OUTCOMES))
    return Counter(OUTCOMES)


def test_invariants_hold_against_a_hostile_network_server_and_client() -> None:
    outcomes = run(15)
    assert outcomes["sum"]
    assert outcomes["too few"]


@pytest.mark.slow
def test_invariants_hold_in_two_thousand_sessions() -> None:
    outcomes = run(2000)
    assert sum(outcomes.values()) >= 2000
    assert outcomes["sum"] > 100
