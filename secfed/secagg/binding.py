"""What keys, signatures and hashes are bound to: every label and every byte string of `protocols/secagg/README.md`,
section 2.2, in one place.
"""

import hashlib
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from secfed.crypto.agreement import KeyPair, derive
from secfed.crypto.signing import SigningKey, is_sound
from secfed.errors import ConfigError
from secfed.secagg.config import LABEL, Config


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def session_id(config: Config, nonce: bytes, advertised: bytes, channel_keys: bytes, mask_keys: bytes) -> bytes:
    """Return the 32 bytes that name the session. They depend on everything committed so far."""
    digest = hashlib.sha256(LABEL + b"session" + nonce + config.hash)
    for part in (advertised, channel_keys, mask_keys):
        digest.update(part)
    return digest.digest()


def advertisement(config: Config, nonce: bytes, client_id: int, channel_key: bytes, mask_key: bytes) -> bytes:
    """Return what a client's identity key signs in AdvertiseKeys."""
    training = config.model_hash + config.round.to_bytes(8, "little")
    return LABEL + b"advertise" + nonce + config.hash + training + _u32(client_id) + channel_key + mask_key


def survivors(session: bytes, members: bytes) -> bytes:
    """Return what a client's identity key signs in ConsistencyCheck; `members` is the encoded set."""
    return LABEL + b"survivors" + session + hashlib.sha256(members).digest()


def commitment(session: bytes, client_id: int, self_seed: bytes) -> bytes:
    """Return the hash that lets the server recognize the self seed."""
    return hashlib.sha256(LABEL + b"commitment" + session + _u32(client_id) + self_seed).digest()


def channel_keys(own: KeyPair, other: bytes, session: bytes, own_id: int, other_id: int) -> tuple[bytes, bytes]:
    """Return the keys that seal to the other client and open what it seals, 16 bytes each."""
    low, high = (own_id, other_id) if own_id < other_id else (other_id, own_id)
    keys = own.agree(other, salt=session, info=LABEL + b"channel" + _u32(low) + _u32(high))
    return (keys[:16], keys[16:]) if own_id < other_id else (keys[16:], keys[:16])


def sealing_data(session: bytes, sender: int, receiver: int) -> bytes:
    """Return the associated data of a sealed pair of shares."""
    return LABEL + b"shares" + session + _u32(sender) + _u32(receiver)


def pair_seed(own: KeyPair, other: bytes | X25519PublicKey, session: bytes, own_id: int, other_id: int) -> bytes:
    """Return the seed of the mask that two clients share."""
    low, high = (own_id, other_id) if own_id < other_id else (other_id, own_id)
    return own.agree(other, salt=session, info=LABEL + b"pair" + _u32(low) + _u32(high))


def share_keys_secret(session: bytes, share_seed: bytes) -> bytes:
    """Return the secret from which a client derives all randomness in ShareKeys."""
    return derive(share_seed, session, LABEL + b"share_keys", 32)


def self_mask_seed(session: bytes, client_id: int, self_seed: bytes) -> bytes:
    """Return the seed of a client's own mask."""
    return derive(self_seed, session, LABEL + b"self" + _u32(client_id), 32)


def check_directory(config: Config, directory: Mapping[int, bytes] | None) -> Mapping[int, bytes]:
    """Return the pinned identity keys of the cohort.

    Raises:
        ConfigError: Keys are missing, unexpected, not 32 bytes long, or such that anyone or no one can sign for them.
    """
    if not config.malicious_server:
        if directory is not None:
            raise ConfigError('a directory of identity keys needs adversary "malicious_server", found "semi_honest"')
        return {}
    if directory is None:
        raise ConfigError('adversary "malicious_server" needs a directory of pinned identity keys, found none')
    if odd := [client_id for client_id, key in directory.items() if not isinstance(key, bytes)]:
        found = type(directory[odd[0]]).__name__
        raise ConfigError(f"the directory has a {found} for client {odd[0]}, needed the 32 bytes of its public key")
    missing = [client_id for client_id in config.client_ids if len(directory.get(client_id, b"")) != 32]
    if missing:
        raise ConfigError(
            f"the directory lacks the 32-byte identity key of client {missing[0]} ({len(missing)} in all)"
        )
    pinned = {client_id: directory[client_id] for client_id in config.client_ids}
    for client_id, key in pinned.items():
        if not is_sound(key):
            raise ConfigError(
                f"the directory has the key {key.hex()} for client {client_id}, which is of low order, not canonical "
                "or no point of the curve: needed the public key of an Ed25519 key pair"
            )
    if len(set(pinned.values())) < len(pinned):
        raise ConfigError("two clients have the same identity key in the directory: identities must be distinct")
    return pinned


def check_signing_key(
    config: Config, client_id: int, key: SigningKey | None, directory: Mapping[int, bytes]
) -> SigningKey | None:
    """Return the client's identity key, or None if the adversary is semi-honest.

    Raises:
        ConfigError: It is missing, unexpected or not the one in the directory.
    """
    if not config.malicious_server:
        if key is not None:
            raise ConfigError('a signing_key needs adversary "malicious_server", found "semi_honest"')
        return None
    if key is None:
        raise ConfigError('adversary "malicious_server" needs the client\'s signing_key, found none')
    if not isinstance(key, SigningKey):
        raise ConfigError(f"signing_key is of type {type(key).__name__}, needed SigningKey(private_bytes)")
    if key.public_bytes != directory[client_id]:
        raise ConfigError(f"signing_key is not the identity key that the directory pins for client {client_id}")
    return key
