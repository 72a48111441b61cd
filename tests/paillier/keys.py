"""Key pairs for tests, those of the published vectors: too small to protect anything."""

from functools import cache

from secfed.paillier import PrivateKey, PublicKey
from tests import vectors


@cache
def published(name: str) -> tuple[PublicKey, PrivateKey]:
    vector = vectors.load(vectors.PROTOCOLS / "paillier" / "vectors" / f"key_{name}.json")
    private_key = PrivateKey.from_bytes(bytes.fromhex(vector["inputs"]["private_key"]), insecure_size=True)
    return private_key.public_key, private_key


def keypair(subgroup: bool = False) -> tuple[PublicKey, PrivateKey]:
    return published("subgroup" if subgroup else "ordinary")


def other_keypair() -> tuple[PublicKey, PrivateKey]:
    return published("another")
