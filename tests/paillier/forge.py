"""Sessions that a test takes apart: honest messages, and what others make of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from secfed import paillier
from secfed.paillier import integers
from secfed.paillier.messages import DecryptionRequest, EncryptedInputResponse
from tests.paillier.keys import keypair

LENGTH = 40


def config(ids: Sequence[int] = (1, 2, 3), **fields: Any) -> paillier.Config:
    return paillier.Config(keypair()[0], ids, LENGTH, 16, **fields)


def vector_of(client_id: int) -> np.ndarray:
    return (np.arange(LENGTH) * 1001 * client_id) % (1 << 16)


def total(config: paillier.Config, client_ids: Sequence[int]) -> list[int]:
    weights = dict(zip(config.client_ids, config.weights or [1] * len(config.client_ids), strict=True))
    found: np.ndarray = sum(vector_of(client_id) * weights[client_id] for client_id in client_ids) % (1 << 16)
    return found.tolist()


def answer(config: paillier.Config, client_id: int, request: bytes, **options: Any) -> bytes:
    return paillier.Client(config, client_id, vector_of(client_id), **options).receive(request)


def collected(config: paillier.Config, client_ids: Sequence[int]) -> tuple[paillier.Server, bytes]:
    """A server in stage DECRYPTION and its request."""
    server = paillier.Server(config)
    for client_id, request in server.open().items():
        if client_id in client_ids:
            server.receive(client_id, answer(config, client_id, request))
    return server, server.close_stage()[1]


def with_first(config: paillier.Config, response: bytes, ciphertext: int) -> bytes:
    """The same response with another first ciphertext."""
    size = config.public_key.ciphertext_bytes(config.degree)
    message = EncryptedInputResponse.from_bytes(response)
    column = integers.to_bytes(integers.integer(ciphertext), size) + message.ciphertexts[size:]
    return replace(message, ciphertexts=column).to_bytes()


def with_plaintext(config: paillier.Config, request: bytes, plaintext: int) -> bytes:
    """The same request for a sum with another first plaintext."""
    [ciphertext] = config.public_key.encrypt([plaintext], noise="full")
    size = config.public_key.ciphertext_bytes(config.degree)
    message = DecryptionRequest.from_bytes(request)
    column = integers.to_bytes(ciphertext, size) + message.ciphertexts[size:]
    return replace(message, ciphertexts=column).to_bytes()


def raised(function: Callable[[], Any]) -> Any:
    """The result of a call, or its exception."""
    try:
        return function()
    except Exception as error:
        return error
