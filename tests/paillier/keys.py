"""Key pairs for tests, made once for each process: they are too small to protect anything."""

from functools import cache

from secfed.paillier import PrivateKey, PublicKey, generate_insecure_keypair


@cache
def keypair(subgroup: bool = False) -> tuple[PublicKey, PrivateKey]:
    return generate_insecure_keypair(1024, subgroup=subgroup)


@cache
def other_keypair() -> tuple[PublicKey, PrivateKey]:
    return generate_insecure_keypair(1024)
