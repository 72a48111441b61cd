"""Secure aggregation inside Flower: change two lines of a Message-API app.

On the clients `ClientApp(mods=[SecureMod()])`; on the server `SecureStrategy(FedAvg(...), secfed.SecAgg(...))`. Nothing
else of the app changes: the mod lets the app train, then answers the stages of the protocol in its place, and the
wrapped strategy gets one reply, the securely aggregated mean.

A round takes four trips (five against a malicious server): the training message already carries the session's
parameters and the request for keys, so a client trains first, and one that fails in training never enters the session.
`records.py` says what the messages hold, `mod.py` is the client's half, `strategy.py` the server's, `exchange.py`
carries messages over Flower's grid, `enrollment.py` finds each node's client id, `sessions.py` keeps a client's side of
a session between two messages, `entries.py` has what differs between the protocols.
"""

from secfed.errors import MissingExtraError

try:
    import flwr.app  # noqa: F401
except ImportError as error:
    raise MissingExtraError("flower", "flwr") from error

from secfed.integrations.flower.mod import SecureMod
from secfed.integrations.flower.rounds import RoundReport
from secfed.integrations.flower.strategy import SecureStrategy
from secfed.secagg.identities import create_identity, read_roster

__all__ = ["RoundReport", "SecureMod", "SecureStrategy", "create_identity", "read_roster"]
