"""Pairwise-masked secure aggregation: Bonawitz et al. 2017, and Bell et al. 2020 where a client has fewer neighbors
than there are others.

These are the parts, for those who own transport, identity keys and timeouts; `secfed.SecAgg` is the ready-made
aggregator.

Theory of operation
-------------------

A session is one `Server` and many `Client`s that agree on one `Config`. Each client has a vector; the server ends with
the sum of the survivors' vectors and learns nothing else. Both are objects without sockets, clocks or threads: bytes go
in, bytes come out, and the caller carries them. `run_session` does that within one process.

In each stage the server sends a request to every client that is still in, collects responses with `receive`, and is
told by `close_stage` that it is time to go on. A client that has not answered by then has dropped out.

1. AdvertiseKeys. A client draws two key pairs (for channels and for masks) and a seed, and holds them with its vector.
   The server collects the public keys.
2. ShareKeys. All keys together name the session and decide who neighbors whom. A client makes the seed of its own mask
   and deals shares of it and of its mask key to its holders, sealed for each. It holds both secrets and its neighbors'
   keys, the server what was sealed.
3. MaskedInputCollection. A client opens the shares that it was dealt, adds its own mask and one for each neighbor to
   its vector, and keeps no secret but the shares. The server adds what is masked to one sum.
4. ConsistencyCheck, only with adversary "malicious_server". A client signs the set of survivors and remembers it. The
   server collects the signatures, which prove to each client that enough others were shown the same set.
5. Unmasking. For each client a holder releases one share: of its own mask's seed if it survived, of its mask key if it
   did not, never of both. Then it holds nothing. The server combines the shares and takes the masks off the sum.

A client's session ends in DONE with its last response, and in ABORTED when the server is proved at fault, when either
side sends Abort, or when its work breaks off: what it held is erased, and it never answers again. A malformed message,
or one out of turn, changes nothing. The server ends in DONE with the sum, and in ABORTED when a stage closes with too
few clients, when a client dealt shares that do not combine, when closing breaks off, or on `abort`. A faulty response
is refused and listed in `Server.faults`; its sender may still send a proper one.

A client answers each stage once because two answers could differ by one copy of the masks, which reveals the vector.
So it refuses every call while another one runs; its state is taken out of it, and its stage is ABORTED, before it works
on a request; the next stage is set last. A client may be saved between two stages: save it before its response is sent.

Vectors of many millions of entries go in chunks. `Client.receive_chunks` returns an `Answer`. Its bytes are made while
they are read, a block of the vector at a time; the client's next stage is set when the last ones exist, and an answer
that is given up leaves the client in ABORTED. `Server.receive_chunks`, or an `Upload` from `Server.upload`, keeps the
packed message and adds it when it is whole: one that breaks off changes nothing.

Where to find what: `stages.py` has the order of the stages and their messages; `STEPS` in `client.py` and `server.py`
what a party does in each (the server takes responses in `responses.py` and makes long requests in `requests.py`; a
client's shares are in `shares.py`, its checks of the survivors in `survivors.py`); `states.py` what it holds in each;
`snapshot.py` how that is saved and what must fit together when it is resumed. Chunks are in `answer.py`, `upload.py`.
The layout of the messages is in `messages.py`, everything that is hashed or signed in `binding.py`, masks in
`masking.py`, shares back to secrets in `opening.py`. The checks, C1 to C22 and S1 to S16, are numbered as in
`protocols/secagg/README.md`.
"""

from secfed.crypto.signing import SigningKey
from secfed.secagg.answer import Answer
from secfed.secagg.client import Client
from secfed.secagg.config import Config, Policy
from secfed.secagg.messages import Abort
from secfed.secagg.parameters import Parameters, parameters
from secfed.secagg.server import Server
from secfed.secagg.session import Result, run_session
from secfed.secagg.stages import Stage
from secfed.secagg.upload import Upload

__all__ = [
    "Abort",
    "Answer",
    "Client",
    "Config",
    "Parameters",
    "Policy",
    "Result",
    "Server",
    "SigningKey",
    "Stage",
    "Upload",
    "parameters",
    "run_session",
]
