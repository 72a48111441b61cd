"""The key holder, which decrypts sums, and the rules for which sums it opens."""

import json
import threading
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from secfed.concurrency import one_at_a_time
from secfed.errors import ConfigError, DecryptionError, FaultyServerError, MalformedMessageError
from secfed.paillier import integers
from secfed.paillier.config import LARGEST_ID, Config
from secfed.paillier.integers import read_column
from secfed.paillier.keys import PrivateKey
from secfed.paillier.messages import DecryptionRequest, DecryptionResponse
from secfed.paillier.opening import SumToOpen
from secfed.wire import HASH_BYTES, Set, set_from_bytes, view


class OpenedSums:
    """A key holder's memory of the sums that it has opened, for all its sessions.

    Under one configuration (one round of one model) it opens the sum of only one set of clients: the difference of two
    sums can reveal the sum of a few clients, or of one.
    """

    def __init__(self) -> None:
        self._opened: dict[bytes, frozenset[int]] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._opened)

    @one_at_a_time
    def add(self, config: Config, client_ids: frozenset[int]) -> None:
        """Record a sum that is about to be opened.

        Raises:
            FaultyServerError: K4, the sum of other clients was opened under this configuration.
        """
        self.check(config, client_ids)
        self._opened[config.hash] = client_ids

    @one_at_a_time
    def check(self, config: Config, client_ids: frozenset[int]) -> None:
        """Raise an error for a second sum.

        Raises:
            FaultyServerError: K4, the sum of other clients was opened under this configuration.
        """
        earlier = self._opened.get(config.hash, client_ids)
        if client_ids != earlier:  # K4
            raise FaultyServerError(
                f"the sum of other clients ({len(earlier ^ client_ids)} differ) was opened in this round: the "
                "difference of the two would show what a few clients sent",
                "K4",
            )

    @one_at_a_time
    def to_bytes(self) -> bytes:
        """Save the memory: JSON, client ids by the hash of the configuration; no secret."""
        opened = {key.hex(): sorted(members) for key, members in self._opened.items()}
        return json.dumps(opened, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Resume a saved memory.

        Args:
            data: What `to_bytes` returned.

        Raises:
            MalformedMessageError: These bytes are not a valid memory.
        """
        memory = cls()
        try:
            for key, members in json.loads(data).items():
                known = all(type(client_id) is int and 1 <= client_id <= LARGEST_ID for client_id in members)
                if len(bytes.fromhex(key)) != HASH_BYTES or not known:
                    raise ValueError
                memory._opened[bytes.fromhex(key)] = frozenset(members)
            if memory.to_bytes() != bytes(data):  # such as two entries for one hash, of which one would be lost
                raise ValueError
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise MalformedMessageError("these bytes are not a saved memory of opened sums", 0) from None
        return memory


class Requests:
    """Common to holders of a key and of a share: they check a request before they compute anything.

    Args:
        config: The session's parameters, from the application.
        opened: The sums opened before; keep it as long as the key is used.
    """

    def __init__(self, config: Config, opened: OpenedSums | None) -> None:
        integers.warn_if_slow()
        self._config = config
        self._opened = opened if opened is not None else OpenedSums()
        self._lock = threading.RLock()

    def _checked(self, data: bytes) -> tuple[SumToOpen, list[Any]]:
        """Return the sum that a request asks for and its ciphertexts, and record the sum as opened.

        Raises:
            MalformedMessageError: K1.
            FaultyServerError: K2 to K5.
            DecryptionError: K6.
        """
        config, whole = self._config, view(data)
        clients = len(config.client_ids)
        longest = DecryptionRequest.size(-(-clients // 8), config.column_bytes)
        if len(whole) > longest:  # K1
            raise MalformedMessageError(f"{len(whole)} bytes, at most {longest} are allowed", longest, "K1")
        try:
            request = DecryptionRequest.from_bytes(bytes(whole))
        except MalformedMessageError as error:
            raise MalformedMessageError(error.args[0], error.offset, "K1") from None
        if request.config_hash != config.hash:  # K2
            raise FaultyServerError("the server's configuration is not this key holder's", "K2")
        survivors = self._survivors(request.survivors)
        members = frozenset(config.client_ids[position] for position in np.flatnonzero(survivors).tolist())
        self._opened.check(config, members)  # K4
        size, count = config.public_key.ciphertext_bytes(config.degree), config.packing.plaintexts
        if len(request.ciphertexts) != size * count:  # K5
            found = len(request.ciphertexts)
            raise FaultyServerError(f"the ciphertexts have {found} bytes, {count} of {size} bytes are needed", "K5")
        ciphertexts = read_column(request.ciphertexts, size)
        if config.public_key.find_unsound(ciphertexts, config.degree):  # K6
            raise DecryptionError
        self._opened.add(config, members)  # K4 again: another session may have opened a sum meanwhile
        return SumToOpen(config, config.session_id(request.nonce), survivors), ciphertexts

    def _survivors(self, data: bytes) -> Set:
        config = self._config
        try:
            survivors = set_from_bytes(data, len(config.client_ids))
        except MalformedMessageError as error:  # K3
            raise FaultyServerError(f"the survivors are not a set of clients: {error.args[0]}", "K3") from None
        if (count := int(survivors.sum())) < config.minimum_cohort:  # K3
            raise FaultyServerError(f"a sum of {count} clients, needed {config.minimum_cohort}", "K3")
        return survivors


class KeyHolder(Requests):
    """The one party that decrypts; not the server.

    Args:
        config: The session's parameters, from the application.
        private_key: The private half of `config.public_key`.
        opened: The sums opened before; keep it as long as the key is used.
        threads: Threads that decrypt, by default one for each usable core.
        progress: Called from time to time with the number of plaintexts decrypted so far and the total.

    Raises:
        ConfigError: The private key belongs to another public key.

    Security:
        It learns the sum. It opens only sums of at least `config.minimum_cohort` clients, and under one configuration
        only sums of the same clients. It trusts the server about who is in a sum. Anyone with the private key who sees
        what clients send can open every vector.
    """

    def __init__(
        self,
        config: Config,
        private_key: PrivateKey,
        *,
        opened: OpenedSums | None = None,
        threads: int | None = None,
        progress: integers.Progress | None = None,
    ) -> None:
        if private_key.public_key != config.public_key:
            raise ConfigError("the private key does not belong to the configuration's public key")
        integers.check_threads(threads)
        super().__init__(config, opened)
        self._private_key, self._threads, self._progress = private_key, threads, progress

    def __repr__(self) -> str:
        return f"KeyHolder(opened={len(self._opened)})"

    def __reduce__(self) -> str:
        raise TypeError("a KeyHolder holds the private key and cannot be pickled; see PrivateKey.to_bytes")

    @one_at_a_time
    def receive(self, data: bytes) -> bytes:
        """Decrypt a sum.

        Args:
            data: A DecryptionRequest.

        Returns:
            The DecryptionResponse.

        Raises:
            ConfigError: `data` is not bytes.
            MalformedMessageError: K1; nothing is opened.
            FaultyServerError: K2 to K5; nothing is opened.
            DecryptionError: K6, always with the same text.
        """
        request, ciphertexts = self._checked(data)
        config = request.config
        plaintexts = self._private_key.decrypt(
            ciphertexts, degree=config.degree, threads=self._threads, progress=self._progress
        )
        check_sum(request, plaintexts)
        column = integers.column(plaintexts, config.public_key.plaintext_bytes(config.degree))
        return DecryptionResponse(request.session_id, column).to_bytes()


def check_sum(request: SumToOpen, plaintexts: Sequence[Any]) -> Any:
    """Return the slots' totals.

    Raises:
        DecryptionError: K6, they are not a sum of that many vectors.
    """
    totals = request.config.packing.unpack(plaintexts, request.additions)
    if totals is None:  # K6
        raise DecryptionError
    return totals
