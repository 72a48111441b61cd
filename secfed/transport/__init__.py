"""One session of secure aggregation between processes or machines, over HTTP: `secfed serve` and `secfed join`.

A server process and a process for each client run one session, which gives one weighted mean. The parts are separate so
that each can be tested alone: `parameters.py` has what the server announces and what a client requires, `driver.py`
runs a `secagg.Server` through its stages with deadlines, `store.py` keeps it in a file, `http_server.py` serves it over
HTTP, and `client.py` is the other side. Requires the extra "transport".
"""

from secfed.secagg.identities import create_identity, read_identity, read_roster
from secfed.transport.client import Joined, join
from secfed.transport.client_state import ClientState, Record
from secfed.transport.driver import Answer, Driver, Verdict
from secfed.transport.http_server import HttpServer
from secfed.transport.limits import Limits
from secfed.transport.parameters import SessionParameters, Terms
from secfed.transport.store import Store

__all__ = [
    "Answer",
    "ClientState",
    "Driver",
    "HttpServer",
    "Joined",
    "Limits",
    "Record",
    "SessionParameters",
    "Store",
    "Terms",
    "Verdict",
    "create_identity",
    "join",
    "read_identity",
    "read_roster",
]
