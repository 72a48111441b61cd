"""The server multiplies ciphertexts, which adds vectors. It never holds a private key."""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.concurrency import one_at_a_time
from secfed.crypto.entropy import Entropy, SystemEntropy
from secfed.crypto.prg import SEED_BYTES
from secfed.errors import (
    ConfigError,
    FaultyClientError,
    FaultyKeyHolderError,
    MalformedMessageError,
    StageError,
    TooFewSurvivorsError,
)
from secfed.paillier import integers
from secfed.paillier.config import Config
from secfed.paillier.messages import (
    DecryptionRequest,
    EncryptedInputRequest,
    EncryptedInputResponse,
    read_message,
)
from secfed.paillier.noise import Noise
from secfed.paillier.opening import OneKeyHolder, Opening, RefusedError, SumToOpen, checked_column
from secfed.paillier.stages import Stage
from secfed.paillier.weighting import weighted_products
from secfed.wire import VERSION, Message, Set, set_to_bytes, view

Outbox = dict[int, bytes]
Fault = FaultyClientError | FaultyKeyHolderError
MOST_FAULTS = 1000
_LATE = bytes((VERSION, EncryptedInputResponse.kind))


class Server:
    """The server of one session.

    Args:
        config: The session's parameters.
        opening: Who decrypts: one key holder, or the holders of a `ThresholdKey`'s shares (`PartialDecryptions`).
        noise: The kind of noise that rerandomizes a weighted sum, by default `"half"`, or `"full"` if the key has no
            `h`. Without public weights it would have no effect and is refused.
        entropy: Source of the nonce and of that noise, new ones at every draw; by default the operating system's.
        threads: Threads that compute, by default one for each usable core.

    Raises:
        ConfigError: `noise` was given without weights or is not supported by the key, a threshold key has another
            public key or degree, or `opening` has served another session.

    Attributes:
        stage: The stage whose responses it collects; None before `open`.
        faults: Every message refused and who sent it, up to 1,000.

    Security:
        It sees ciphertexts and the sum. Several threads may use the object; one call runs at a time.
    """

    def __init__(
        self,
        config: Config,
        *,
        opening: Opening | None = None,
        noise: Noise | None = None,
        entropy: Entropy | None = None,
        threads: int | None = None,
    ) -> None:
        if noise is not None and not config.weights:
            raise ConfigError("noise has an effect only with public weights: the clients choose that of their input")
        self._config, self._threads = config, threads
        self._noise: Noise = noise or ("half" if config.public_key.h else "full")
        config.public_key.check_noise(self._noise)
        integers.check_threads(threads)
        integers.warn_if_slow()
        self._opening: Opening = opening or OneKeyHolder()
        self._opening.check(config)
        self._entropy: Entropy = entropy or SystemEntropy()
        self._lock = threading.RLock()
        self._modulus = config.public_key.modulus(config.degree)
        self._nonce = b""
        self._survivors: Set = np.zeros(len(config.client_ids), np.bool_)
        self._products: list[Any] = []  # without weights: of all accepted ciphertexts
        self._columns: dict[int, list[Any]] = {}  # with weights: each client's ciphertexts, by position
        self._sum: npt.NDArray[np.unsignedinteger[Any]] | None = None
        self.stage: Stage | None = None
        self.faults: list[Fault] = []

    def __repr__(self) -> str:
        return f"Server(stage={self.stage.name if self.stage else None}, clients={len(self._config.client_ids)})"

    @property
    def config(self) -> Config:
        """The session's parameters."""
        return self._config

    @property
    def done(self) -> bool:
        """Whether the sum is available."""
        return self.stage is Stage.DONE

    @property
    def sum(self) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The survivors' weighted sum modulo `2**modulus_bits`, shape `(length,)`.

        Raises:
            StageError: The session is not done.
        """
        if self._sum is None:
            raise StageError(
                f"there is no sum yet: the session is in stage {self.stage.name if self.stage else 'none'}"
            )
        return self._sum

    @property
    def survivors(self) -> tuple[int, ...]:
        """Ids of the clients in the sum; empty before their inputs are collected."""
        collected = self.stage not in (None, Stage.ENCRYPTED_INPUT_COLLECTION)
        return self._ids(self._survivors) if collected else ()

    @property
    def dropouts(self) -> tuple[int, ...]:
        """Ids of the clients that are not in the sum; empty before their inputs are collected."""
        collected = self.stage not in (None, Stage.ENCRYPTED_INPUT_COLLECTION)
        return self._ids(~self._survivors) if collected else ()

    @property
    def message_bytes(self) -> int:
        """The longest message that this stage accepts, which a transport should allow."""
        if self.stage is Stage.ENCRYPTED_INPUT_COLLECTION:
            return EncryptedInputResponse.size(self._config.column_bytes)
        return self._opening.message_bytes(self._config) if self.stage is Stage.DECRYPTION else 0

    @one_at_a_time
    def open(self) -> Outbox:
        """Begin the session.

        Returns:
            The EncryptedInputRequest for every client.

        Raises:
            StageError: It is already open.
        """
        if self.stage is not None:
            raise StageError("the session is open already; a new session needs a new Server")
        self._nonce = self._entropy.draw("nonce", 32)
        self.stage = Stage.ENCRYPTED_INPUT_COLLECTION
        request = EncryptedInputRequest(self._nonce, self._config.hash).to_bytes()
        return dict.fromkeys(self._config.client_ids, request)

    @one_at_a_time
    def receive(self, sender_id: int, data: bytes) -> bool:
        """Take one message; the transport must have authenticated the sender.

        Args:
            sender_id: The client; in stage DECRYPTION the key holder (1, or the number of its share).
            data: A whole message, at most `message_bytes` long.

        Returns:
            True if it counts; False if it came late and was ignored.

        Raises:
            FaultyClientError: S1 to S8: refused and listed in `faults`; nothing has changed, and the client may still
                send a correct one.
            FaultyKeyHolderError: S1 to S10: the same for a key holder.
            ConfigError: `data` is not bytes.
            StageError: The session is not open.
        """
        if self.stage is None:
            raise StageError(f"a message from {sender_id}, but the session is not open")
        whole = view(data)
        if self.stage in (Stage.DONE, Stage.ABORTED):  # S3: any message is late now
            return False
        collecting = self.stage is Stage.ENCRYPTED_INPUT_COLLECTION
        if not collecting and whole[:2] == _LATE:  # S3: it belongs to the stage before
            return False
        fault: type[Fault] = FaultyClientError if collecting else FaultyKeyHolderError
        sender = f"client {sender_id}" if collecting else f"key holder {sender_id}"
        try:
            if not (self._config.has(sender_id) if collecting else sender_id in self._opening.holders):  # S1
                raise RefusedError("not in the cohort" if collecting else "no key holder has this number", "S1")
            if len(whole) > self.message_bytes:  # S2
                raise RefusedError(f"{len(whole)} bytes, at most {self.message_bytes} are allowed", "S2")
            message = read_message(bytes(whole))
            if collecting:
                self._collect(self._config.position(sender_id), message)
            else:
                self._opening.receive(self._request(), self._products, sender_id, message)
            return True
        except MalformedMessageError as error:  # S2
            text, check = f"{sender}: {error.args[0]}", "S2"
        except RefusedError as error:
            text, check = f"{sender}: {error.args[0]}", error.check
        # Keep a copy, not the raised error: its traceback's frames hold the refused message.
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(fault(text, sender_id, check))
        raise fault(text, sender_id, check)

    def _collect(self, position: int, response: Message) -> None:
        config = self._config
        if not isinstance(response, EncryptedInputResponse):  # S3
            raise RefusedError(f"message of kind {response.kind}, needed EncryptedInputResponse", "S3")
        if self._survivors[position]:  # S4
            raise RefusedError("answered twice", "S4")
        if response.session_id != config.session_id(self._nonce):  # S5
            raise RefusedError("the response is for another session or key", "S5")
        ciphertexts = checked_column(config, response.ciphertexts)
        if config.weights:
            self._columns[position] = ciphertexts
        elif not self._products:
            self._products = ciphertexts
        else:
            modulus = self._modulus
            self._products = [
                product * ciphertext % modulus for product, ciphertext in zip(self._products, ciphertexts, strict=True)
            ]
        self._survivors[position] = True

    def _request(self) -> SumToOpen:
        return SumToOpen(self._config, self._config.session_id(self._nonce), self._survivors)

    @one_at_a_time
    def close_stage(self, stage: Stage | None = None) -> Outbox:
        """End the stage: clients that have not answered have dropped out.

        Args:
            stage: The stage to close; by default the current one. If the session has moved on, nothing changes and
                StageError is raised.

        Returns:
            The DecryptionRequest for each key holder; empty when the sum is there.

        Raises:
            TooFewSurvivorsError: Fewer clients than the minimum cohort, or too few key holders; the session is over.
            DecryptionError: K6, the holders' answers do not combine to a sum; the session is over.
            StageError: The session is not open, over, or not in `stage`; nothing has changed.
        """
        if self.stage is None or self.stage in (Stage.DONE, Stage.ABORTED):
            raise StageError(f"no stage to close: the session is {self.stage.name if self.stage else 'not open'}")
        if stage is not None and stage is not self.stage:
            raise StageError(f"the session is in stage {self.stage.name}, asked to close {Stage(stage).name}")
        closed, self.stage = self.stage, Stage.ABORTED  # there is no second try from here on
        if closed is Stage.DECRYPTION:
            request = self._request()
            self._sum = self._config.vector(self._opening.totals(request), request.additions)
            self.stage = Stage.DONE
            return {}
        count, needed = int(self._survivors.sum()), self._config.minimum_cohort
        if count < needed:
            raise TooFewSurvivorsError(f"{count} clients sent their input, needed {needed}", count, needed)
        if self._config.weights:
            self._products = self._weighted()
        column = integers.column(self._products, self._config.public_key.ciphertext_bytes(self._config.degree))
        request_bytes = DecryptionRequest(
            self._nonce, self._config.hash, set_to_bytes(self._survivors), column
        ).to_bytes()
        self.stage = Stage.DECRYPTION
        return dict.fromkeys(self._opening.holders, request_bytes)

    def _weighted(self) -> list[Any]:
        """Return the weighted products, with fresh noise: a bare power reveals its exponent to anyone who knows its
        base."""
        config = self._config
        weights = [config.weight(position) for position in self._columns]
        products = weighted_products(list(self._columns.values()), weights, self._modulus, self._threads)
        self._columns.clear()
        zeros = config.public_key.encrypt(
            [0] * len(products),
            noise=self._noise,
            degree=config.degree,
            seed=self._entropy.draw("noise seed", SEED_BYTES),
            threads=self._threads,
        )
        return [product * zero % self._modulus for product, zero in zip(products, zeros, strict=True)]

    def _ids(self, members: Set) -> tuple[int, ...]:
        return tuple(self._config.client_ids[i] for i in np.flatnonzero(members))
