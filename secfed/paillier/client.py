"""A client: its vector in, one encrypted answer out."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.concurrency import refused_while_busy
from secfed.crypto.entropy import Entropy, SystemEntropy
from secfed.crypto.prg import SEED_BYTES
from secfed.errors import ConfigError, FaultyServerError, MalformedMessageError, StageError
from secfed.paillier import integers
from secfed.paillier.config import Config
from secfed.paillier.messages import EncryptedInputRequest, EncryptedInputResponse
from secfed.paillier.noise import Factor, Noise, NoisePool
from secfed.paillier.stages import Stage
from secfed.wire import view

# Plaintexts encrypted between two calls of a progress function; a multiple of 16.
_SLICE = 512


class Client:
    """One client in one session.

    Args:
        config: The session's parameters, from the application.
        client_id: This client's id in `config.client_ids`.
        vector: What it contributes: unsigned integers below `2**modulus_bits`, shape `(length,)`. Or a function that
            returns it, called when the client encrypts.
        noise: The kind of noise; what each assumes is in `docs/paillier.md`.
        pool: Noise drawn ahead of time, of the same kind and degree.
        entropy: Source of secrets, new ones at every draw: two vectors with the same noise reveal their difference. By
            default the operating system's.
        threads: Threads that encrypt, by default one for each usable core.
        progress: Called from time to time with the number of plaintexts encrypted so far and the total.

    Raises:
        ConfigError: No such client or noise, or the pool is for another key, noise or degree.
        EncodingError: The vector has the wrong shape, type or range. If a function makes it, `receive` raises this, or
            the function's own error, and the client has left the session.

    Security:
        The server sees ciphertexts, and cannot decrypt. A key holder that works with the server opens this client's
        vector; fewer holders than the threshold of a threshold key cannot. An object answers only once: while a call
        runs, every other call raises `StageError`.
    """

    def __init__(
        self,
        config: Config,
        client_id: int,
        vector: npt.ArrayLike | Callable[[], npt.ArrayLike],
        *,
        noise: Noise = "half",
        pool: NoisePool | None = None,
        entropy: Entropy | None = None,
        threads: int | None = None,
        progress: integers.Progress | None = None,
    ) -> None:
        if not config.has(client_id):
            raise ConfigError(
                f"client {client_id} is not among the {len(config.client_ids)} clients of the configuration"
            )
        config.public_key.check_noise(noise)
        if pool is not None:
            config.public_key.check_pool(pool, noise, config.degree)
        integers.check_threads(threads)
        integers.warn_if_slow()
        self._config, self._noise, self._pool, self._threads = config, noise, pool, threads
        self._progress = progress
        self._entropy: Entropy = entropy or SystemEntropy()
        self._busy = threading.Lock()
        self.client_id = client_id
        self.stage = Stage.ENCRYPTED_INPUT_COLLECTION
        self._input: Any = vector if callable(vector) else config.entries(np.array(vector))

    def __repr__(self) -> str:
        return f"Client(client_id={self.client_id}, stage={self.stage.name})"

    def __reduce__(self) -> str:
        raise TypeError("a Client holds a secret vector and cannot be pickled")

    @refused_while_busy
    def receive(self, data: bytes) -> bytes:
        """Take the server's request and answer it, once.

        Args:
            data: A whole message.

        Returns:
            The response.

        Raises:
            ConfigError: `data` is not bytes.
            MalformedMessageError: C1; nothing has changed.
            StageError: C2, a second request; or the pool has too little noise or was forked. Nothing has changed.
            FaultyServerError: C3, the server has another configuration; the client has left the session.
        """
        whole = view(data)
        if len(whole) > EncryptedInputRequest.size():  # C1
            raise MalformedMessageError(f"{len(whole)} bytes, at most {EncryptedInputRequest.size()} are allowed", 0)
        request = EncryptedInputRequest.from_bytes(bytes(whole))  # C1
        if self.stage is not Stage.ENCRYPTED_INPUT_COLLECTION:  # C2
            raise StageError(f"the client has answered or left the session ({self.stage.name})", "C2")
        config, vector = self._config, self._input
        if request.config_hash != config.hash:  # C3
            self.stage, self._input = Stage.ABORTED, None
            raise FaultyServerError("the server's configuration is not this client's", "C3")
        drawn = None
        if self._pool is not None:  # before anything changes, because it may have too few
            drawn = self._pool.take(config.packing.plaintexts)
        self.stage, self._input = Stage.ABORTED, None  # there is no second try
        column = self._encrypt(config.entries(vector()) if callable(vector) else vector, drawn)
        response = EncryptedInputResponse(config.session_id(request.nonce), column).to_bytes()
        self.stage = Stage.DONE
        return response

    def _encrypt(self, entries: npt.NDArray[Any], drawn: list[Factor] | None) -> bytes:
        """Return the column of ciphertexts, made slice by slice."""
        config, key = self._config, self._config.public_key
        seed = b"" if drawn else self._entropy.draw("noise seed", SEED_BYTES)
        column, done = bytearray(), 0
        for plaintexts in config.packing.slices(entries, _SLICE):
            count = len(plaintexts)
            factors = drawn[done : done + count] if drawn else self._draw(count, seed, done)
            column += integers.column(key.hide(plaintexts, factors, config.degree), key.ciphertext_bytes(config.degree))
            done += count
            if self._progress:
                self._progress(done, config.packing.plaintexts)
        return bytes(column)

    def _draw(self, count: int, seed: bytes, first: int) -> list[Factor]:
        return self._config.public_key.factors(
            count, noise=self._noise, degree=self._config.degree, seed=seed, threads=self._threads, first=first
        )
