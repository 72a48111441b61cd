"""Sums under an additively homomorphic key: Paillier 1999, Damgard and Jurik 2001, noise of Damgard, Jurik and Nielsen.

These are the parts, for users with their own transport and keys; `secfed.Paillier` is the ready-made aggregator.

Theory of operation
-------------------

A ciphertext of m is `exp(n m) * rho` modulo `n^(s+1)`, where `rho` is random noise. The product of two ciphertexts
holds the sum of their plaintexts. Many vector entries share one plaintext: each has a slot wide enough for the sum of
all clients, so slots add independently (`packing.py`).

A session has two stages. In ENCRYPTED_INPUT_COLLECTION the server sends each client a request; a client packs its
vector, encrypts it under the public key and answers once; the server checks and multiplies. In DECRYPTION the server
sends the product and the set of survivors to the key holder, which decrypts the sum; the server unpacks it. A client
that has not answered when the server closes a stage has dropped out.

The server never holds the private key. With a threshold key no party does: each of several holders has a share, and
enough of them can decrypt together. A dealer makes the shares and forgets them. A holder proves that it used its share,
so the server can name a holder that cheats and continue with the others.

Files: `config.py` has what all agree on; `client.py`, `server.py`, `key_holder.py` and
`share_holder.py` the parties; `keys.py`, `noise.py` and `residues.py` the arithmetic; `threshold.py`, `dealing.py` and
`proofs.py` threshold keys; `opening.py` and `partial_decryption.py` what the server does with answers; `integers.py`
the engine (gmpy2, or Python's integers). The checks C1 to C3, S1 to S10, K1 to K6, P1 and H1 are numbered as in
`protocols/paillier/README.md`.
"""

from secfed.paillier.client import Client
from secfed.paillier.config import Config
from secfed.paillier.dealing import deal, deal_insecure
from secfed.paillier.generation import generate_insecure_keypair, generate_keypair
from secfed.paillier.integers import SlowIntegersWarning
from secfed.paillier.key_holder import KeyHolder, OpenedSums
from secfed.paillier.keys import PrivateKey, PublicKey
from secfed.paillier.noise import Noise, NoisePool
from secfed.paillier.partial_decryption import PartialDecryptions
from secfed.paillier.server import Server
from secfed.paillier.session import Result, run_session
from secfed.paillier.share_holder import ShareHolder
from secfed.paillier.stages import Stage
from secfed.paillier.threshold import KeyShare, ThresholdKey

__all__ = [
    "Client",
    "Config",
    "KeyHolder",
    "KeyShare",
    "Noise",
    "NoisePool",
    "OpenedSums",
    "PartialDecryptions",
    "PrivateKey",
    "PublicKey",
    "Result",
    "Server",
    "ShareHolder",
    "SlowIntegersWarning",
    "Stage",
    "ThresholdKey",
    "deal",
    "deal_insecure",
    "generate_insecure_keypair",
    "generate_keypair",
    "run_session",
]
