"""How a client enters a session with its update: the part of the mod that depends on the protocol.

Secure aggregation takes the client through several more stages, so what it holds is saved. Under Paillier encryption a
client speaks once and holds nothing; some nodes hold the private key, or shares of it, and decrypt the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt
from flwr.app import Context

from secfed import paillier, secagg
from secfed.aggregation import Transform
from secfed.errors import ConfigError, FaultyServerError, MalformedMessageError
from secfed.integrations.flower.identities import own_client_id, own_identity
from secfed.integrations.flower.records import TrainRequest
from secfed.secagg.identities import RELATIVE

# Entries of a node's configuration, each the path of a file. A client names the key that it encrypts under; a key
# holder names its private key, or the threshold key and its own share.
PUBLIC_KEY, PRIVATE_KEY = "public-key", "private-key"
THRESHOLD_KEY, KEY_SHARE = "threshold-key", "key-share"


class Entry(Protocol):
    """A client's way into one session."""

    config: Any  # secagg.Config or paillier.Config

    def check(self, transform: Transform, policy: secagg.Policy) -> None:
        """Refuse what this client's policy does not allow, before it trains.

        Raises:
            FaultyServerError: The configuration falls short.
        """

    def enter(self, vector: npt.NDArray[Any], opening: bytes, policy: secagg.Policy) -> tuple[bytes, bytes]:
        """Return the answer to the session's first message, and the client's state to save, empty if it is done."""


class SecAggEntry:
    """Secure aggregation: the client advertises its keys, and waits for the other stages."""

    def __init__(self, request: TrainRequest, context: Context) -> None:
        self.config = secagg.Config.from_bytes(request.config)
        self._client_id, self._identity = request.client_id, dict[str, Any]()
        if self.config.malicious_server:
            if request.client_id != own_client_id(context):  # F2
                raise FaultyServerError(f"the server calls this client {request.client_id}", "F2")
            self._identity["signing_key"], self._identity["directory"] = own_identity(context)

    def check(self, transform: Transform, policy: secagg.Policy) -> None:
        """Check the configuration against the policy; see `Entry`."""
        if objection := policy.objection(self.config):
            raise FaultyServerError(objection, "C4")

    def enter(self, vector: npt.NDArray[Any], opening: bytes, policy: secagg.Policy) -> tuple[bytes, bytes]:
        """Advertise keys; see `Entry`."""
        client = secagg.Client(self.config, self._client_id, vector, policy=policy, **self._identity)
        return client.receive(opening), client.to_bytes()


class PaillierEntry:
    """Paillier encryption: the client encrypts under the key that its node knows, and is done."""

    def __init__(self, request: TrainRequest, context: Context, noise: paillier.Noise) -> None:
        self.config = paillier.Config.from_bytes(request.config, own_public_key(context))
        self._client_id, self._noise = request.client_id, noise

    def check(self, transform: Transform, policy: secagg.Policy) -> None:
        """Check the configuration against the policy, which may set only `minimum_cohort` here; see `Entry`."""
        config = self.config
        if policy != secagg.Policy(minimum_cohort=policy.minimum_cohort):  # F9
            raise FaultyServerError("this client's policy needs secure aggregation, the server runs Paillier", "F9")
        if config.minimum_cohort < policy.minimum_cohort:  # F9
            found, needed = config.minimum_cohort, policy.minimum_cohort
            raise FaultyServerError(f"the key holder opens sums of {found} clients, this client needs {needed}", "F9")
        if config.weights or config.bound != transform.bound:  # F9
            raise FaultyServerError("the session has public weights, or a bound that is not this client's", "F9")

    def enter(self, vector: npt.NDArray[Any], opening: bytes, policy: secagg.Policy) -> tuple[bytes, bytes]:
        """Encrypt; see `Entry`."""
        client = paillier.Client(self.config, self._client_id, vector, noise=self._noise)
        return client.receive(opening), b""


def entry(stage: str, request: TrainRequest, context: Context, noise: paillier.Noise) -> Entry:
    """Return the way into the session that a training message opens.

    Raises:
        MalformedMessageError: No session opens with this stage.
        FaultyServerError: F2.
        ConfigError: The node's configuration lacks a key.
    """
    if stage == secagg.Stage.ADVERTISE_KEYS.name:
        return SecAggEntry(request, context)
    if stage == paillier.Stage.ENCRYPTED_INPUT_COLLECTION.name:
        return PaillierEntry(request, context, noise)
    raise MalformedMessageError(f"no session opens with stage {stage!r:.40}", 0)


def own_public_key(context: Context) -> paillier.PublicKey:
    """Return the key under which this node encrypts.

    Raises:
        ConfigError: The node's configuration names none.
    """
    return paillier.PublicKey.from_bytes(_file(context, PUBLIC_KEY))


def key_holder_number(context: Context) -> int:
    """Return which key holder this node is, from 1; 0 if it is not one."""
    if PRIVATE_KEY in context.node_config:
        return 1
    return _share(context)[1].number if KEY_SHARE in context.node_config else 0


def decrypt(config_bytes: bytes, request: bytes, context: Context, policy: secagg.Policy) -> bytes:
    """Decrypt a sum on a key holder's node, or do this holder's part of it.

    Args:
        config_bytes: The session's configuration.
        request: The server's DecryptionRequest.
        context: The node's. A file next to the key's records which sums were opened.
        policy: This node opens no sum of fewer clients than its `minimum_cohort`.

    Raises:
        ConfigError: The node has no private key, or another process is decrypting.
        FaultyServerError: F9, or K2 to K5.
        DecryptionError: K6.
    """
    name = PRIVATE_KEY if PRIVATE_KEY in context.node_config else KEY_SHARE
    if name not in context.node_config:
        raise ConfigError("this node holds neither a private key nor a share of one")
    with _memory_of(Path(_path(context, name))) as opened:
        holder: paillier.KeyHolder | paillier.ShareHolder
        if name == PRIVATE_KEY:
            private_key = paillier.PrivateKey.from_bytes(_file(context, PRIVATE_KEY))
            config = paillier.Config.from_bytes(config_bytes, private_key.public_key)
            holder = paillier.KeyHolder(config, private_key, opened=opened)
        else:
            key, share = _share(context)
            config = paillier.Config.from_bytes(config_bytes, key.public_key)
            holder = paillier.ShareHolder(config, key, share, opened=opened)
        if config.minimum_cohort < policy.minimum_cohort:  # F9
            found, needed = config.minimum_cohort, policy.minimum_cohort
            raise FaultyServerError(f"the session opens sums of {found} clients, this key holder needs {needed}", "F9")
        return holder.receive(request)


@contextmanager
def _memory_of(key: Path) -> Iterator[paillier.OpenedSums]:
    """Yield the record of the sums that a key has opened, a file next to the key's, to one process at a time.

    Raises:
        ConfigError: Another process has the record, or one crashed while it had it; then no sum is opened any more.
    """
    kept, taken = key.with_name(f"{key.name}.opened"), key.with_name(f"{key.name}.opening")
    try:
        with taken.open("xb"):  # fails if it is there
            pass
    except FileExistsError:
        raise ConfigError(f"another process is decrypting; if it crashed, check and remove {taken}") from None
    opened = paillier.OpenedSums.from_bytes(kept.read_bytes()) if kept.exists() else paillier.OpenedSums()
    try:
        yield opened
    finally:
        part = key.with_name(f"{key.name}.part")
        part.write_bytes(opened.to_bytes())
        part.replace(kept)
        taken.unlink()


def _share(context: Context) -> tuple[paillier.ThresholdKey, paillier.KeyShare]:
    key = paillier.ThresholdKey.from_bytes(_file(context, THRESHOLD_KEY))
    return key, paillier.KeyShare.from_bytes(_file(context, KEY_SHARE), key)


def _file(context: Context, name: str) -> bytes:
    path = _path(context, name)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name} {path} cannot be read: {type(error).__name__}; {RELATIVE}") from None


def _path(context: Context, name: str) -> str:
    path = context.node_config.get(name)
    if not isinstance(path, str):
        raise ConfigError(f"the node's configuration has {name} {path!r}, needed the path of a file")
    return path
