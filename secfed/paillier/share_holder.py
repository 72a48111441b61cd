"""A holder of a share of a threshold key: several decrypt together."""

from secfed.concurrency import one_at_a_time
from secfed.crypto.entropy import Entropy, SystemEntropy
from secfed.paillier.config import Config
from secfed.paillier.integers import Progress, check_threads
from secfed.paillier.key_holder import OpenedSums, Requests
from secfed.paillier.threshold import KeyShare, ThresholdKey


class ShareHolder(Requests):
    """A holder of a share; not the server.

    Args:
        config: The session's parameters, from the application.
        key: The threshold key; its public key is the configuration's.
        share: This holder's share.
        opened: The sums that it has helped to open; keep it as long as the key is used.
        entropy: Source of secrets, new ones at every draw: two proofs with the same nonce reveal the share. By default
            the operating system's.
        threads: Threads that decrypt, by default one for each usable core.
        progress: Called from time to time with the number of ciphertexts done and the total.

    Raises:
        ConfigError: H1, the share does not belong to the key; or the key has another public key or degree.

    Security:
        Alone it learns nothing: it sees only the product of the clients' ciphertexts. It helps to open only sums of at
        least `config.minimum_cohort` clients, and under one configuration only sums of the same clients. It trusts the
        server about who is in a sum: the server and `threshold` holders together can open every vector, the server and
        fewer cannot. Exponentiation with gmpy2 takes the same time for every share.
    """

    def __init__(
        self,
        config: Config,
        key: ThresholdKey,
        share: KeyShare,
        *,
        opened: OpenedSums | None = None,
        entropy: Entropy | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        key.check_config(config)
        key.check_share(share)  # H1
        check_threads(threads)
        super().__init__(config, opened)
        self._key, self._share, self._threads, self._progress = key, share, threads, progress
        self._entropy: Entropy = entropy or SystemEntropy()

    def __repr__(self) -> str:
        return f"ShareHolder(number={self._share.number}, opened={len(self._opened)})"

    def __reduce__(self) -> str:
        raise TypeError("a ShareHolder holds a share of the private key and cannot be pickled; see KeyShare.to_bytes")

    @property
    def number(self) -> int:
        """The holder's number, from 1."""
        return self._share.number

    @one_at_a_time
    def receive(self, data: bytes) -> bytes:
        """Do this holder's part of a decryption.

        Args:
            data: A DecryptionRequest.

        Returns:
            The PartialDecryptionResponse: for each ciphertext as many bytes as it has, and one proof for all.

        Raises:
            ConfigError: `data` is not bytes.
            MalformedMessageError: K1; nothing is opened.
            FaultyServerError: K2 to K5; nothing is opened.
            DecryptionError: K6, a ciphertext is out of range; always with the same text.
        """
        request, ciphertexts = self._checked(data)
        session_id = request.session_id
        response = self._key.decrypt_partially(
            self._share, session_id, ciphertexts, self._entropy, self._threads, self._progress
        )
        return response.to_bytes()
