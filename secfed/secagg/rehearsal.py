"""The work of one party, for timing: of a client with made-up peers, and of a server with a few real clients."""

from collections.abc import Callable

import numpy as np

from secfed.crypto import aead
from secfed.crypto.agreement import KEY_BYTES, KeyPair
from secfed.crypto.entropy import SystemEntropy
from secfed.crypto.shamir import SHARE_BYTES
from secfed.crypto.signing import SigningKey
from secfed.secagg import binding, messages
from secfed.secagg.client import Client
from secfed.secagg.config import Config
from secfed.secagg.graph import graph_of
from secfed.secagg.server import Server
from secfed.secagg.stages import Stage
from secfed.wire import Message, set_to_bytes

_NONCE_BYTES = 32


def client_times(config: Config, clock: Callable[[], float]) -> dict[Stage, float]:
    """Let one client answer every stage of a session without dropouts, in one thread, and time each answer.

    Args:
        config: The session's parameters.
        clock: Returns a time, such as `time.process_time`.

    Returns:
        The time that each of the client's answers took, in the clock's unit.

    Security:
        The other parties do not exist and nothing secret is in the vector: this only shows what a session costs.
    """
    entropy, ids, me = SystemEntropy(), config.client_ids, config.client_ids[0]
    nonce, everybody = entropy.draw("nonce", _NONCE_BYTES), np.ones(len(ids), np.bool_)
    identities = {client_id: SigningKey.generate() for client_id in ids} if config.malicious_server else {}
    client = Client(
        config,
        me,
        np.zeros(config.length, config.dtype),
        signing_key=identities.get(me),
        directory={client_id: key.public_bytes for client_id, key in identities.items()} or None,
        threads=1,
    )
    times: dict[Stage, float] = {}

    def answer(request: Message) -> bytes:
        data, stage = request.to_bytes(), client.stage
        started = clock()
        response = client.receive(data)
        times[stage] = clock() - started
        return response

    own = messages.AdvertiseKeysResponse.from_bytes(answer(messages.AdvertiseKeysRequest(nonce, config.hash)))
    others = {client_id: KeyPair(entropy.draw("channel_key", KEY_BYTES)) for client_id in ids[1:]}
    channel_keys = {me: own.channel_key} | {client_id: pair.public_bytes for client_id, pair in others.items()}
    mask_keys, signatures = {me: own.mask_key}, {me: own.signature}
    for client_id in ids[1:]:
        key = entropy.draw("mask_key", KEY_BYTES)
        # Any number below 2^254 works as a public key, and the private one is not needed.
        mask_keys[client_id] = key[:-1] + bytes([key[-1] & 0x3F])
        if identities:
            keys = channel_keys[client_id], mask_keys[client_id]
            signed = binding.advertisement(config, nonce, client_id, *keys)
            signatures[client_id] = identities[client_id].sign(signed)
    members = set_to_bytes(everybody)

    def column(of: dict[int, bytes]) -> bytes:
        return b"".join(of[client_id] for client_id in ids)

    signed_by_all = column(signatures) if identities else b""
    listed = messages.ShareKeysRequest(members, column(channel_keys), column(mask_keys), signed_by_all)
    shared = messages.ShareKeysResponse.from_bytes(answer(listed))
    session = shared.session_id
    graph = graph_of(config, everybody, session)
    sealed = []
    for position in graph.neighbors(0).tolist():
        sender = ids[position]
        key, _ = binding.channel_keys(others[sender], own.channel_key, session, sender, me)
        sealed.append(aead.seal(key, bytes(2 * SHARE_BYTES), binding.sealing_data(session, sender, me)))
    answer(messages.MaskedInputCollectionRequest(members, b"".join(sealed)))
    signers, proofs = np.zeros_like(everybody), b""
    if config.malicious_server:
        answer(messages.ConsistencyCheckRequest(members))
        whole = config.session_colluders is not None
        signers[: config.signers_needed(len(ids))] = whole
        if not whole:
            signers[graph.holders(0)] = True
        statement = binding.survivors(session, members)
        proofs = b"".join(identities[ids[position]].sign(statement) for position in np.flatnonzero(signers))
    empty = set_to_bytes(np.zeros_like(everybody))
    answer(messages.UnmaskingRequest(members, empty, set_to_bytes(signers), proofs))
    return times


def server_time(config: Config, clock: Callable[[], float]) -> float:
    """Let a server run a session without dropouts with real clients, and time the server alone, in one thread.

    Args:
        config: The session's parameters.
        clock: Returns a time, such as `time.process_time`.

    Returns:
        The time that the server took in all stages together, in the clock's unit.
    """
    identities = {client_id: SigningKey.generate() for client_id in config.client_ids if config.malicious_server}
    directory = {client_id: key.public_bytes for client_id, key in identities.items()} or None
    server = Server(config, directory=directory, threads=1)
    vector = np.zeros(config.length, config.dtype)
    clients = {
        client_id: Client(
            config, client_id, vector, signing_key=identities.get(client_id), directory=directory, threads=1
        )
        for client_id in config.client_ids
    }
    started = clock()
    outbox = server.open()
    taken = clock() - started
    while not server.done:
        responses = {client_id: clients[client_id].receive(request) for client_id, request in outbox.items()}
        started = clock()
        for client_id, response in responses.items():
            server.receive(client_id, response)
        outbox = server.close_stage()
        taken += clock() - started
    return taken
