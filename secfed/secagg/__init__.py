"""Pairwise-masked secure aggregation: Bonawitz et al. 2017, and Bell et al. 2020 if each client masks with only some of
the others.

Use these parts if you handle transport, identity keys and timeouts yourself; `secfed.SecAgg` is the ready-made
aggregator.

Theory of operation
-------------------

A session is one `Server` and many `Client`s that agree on one `Config`. Each client has a vector; the server ends with
the sum of the survivors' vectors and learns nothing else. Both are objects without sockets, clocks or threads: bytes go
in, bytes come out, and the caller carries them. `run_session` does that within one process.

In each stage the server sends a request to every client that is still in and collects responses with `receive`, until
the caller ends the stage with `close_stage`. A client that has not answered by then has dropped out.

1. AdvertiseKeys. A client draws two key pairs (for channels and for masks) and a seed, and holds them with its vector.
   The server collects the public keys.
2. ShareKeys. All keys together name the session and determine each client's neighbors. A client makes the seed of its
   own mask and deals shares of this seed and of its mask key to its holders, sealed for each. It holds both secrets and
   its neighbors' keys; the server holds the sealed shares.
3. MaskedInputCollection. A client opens the shares that it was dealt, adds its own mask and one for each neighbor to
   its vector, and keeps no secret except the shares. The server adds the masked vectors to one sum.
4. ConsistencyCheck, only with adversary "malicious_server". A client signs the set of survivors and remembers it. The
   server collects the signatures, which prove to each client that enough others were shown the same set.
5. Unmasking. For each client a holder releases one share: of the client's self seed if the client survived, of its mask
   key if it did not, never both. Then the holder has no secrets left. The server combines the shares and removes the
   masks from the sum.

A client's session ends in DONE with its last response. It ends in ABORTED when the server is proved at fault, when
either side sends Abort, or when an error interrupts the client: it erases its secrets and never answers again. A
malformed message, or one out of turn, changes nothing. The server ends in DONE with the sum. It ends in ABORTED when a
stage closes with too few clients, when a client dealt shares that do not combine, when an error interrupts the closing
of a stage, or on `abort`. A faulty response is refused and listed in `Server.faults`; its sender may still send a
correct one.

A client answers each stage once because two answers could differ by one copy of the masks, which reveals the vector.
So it refuses every call while another one runs. Before it works on a request, it removes its state and sets its stage
to ABORTED; it sets the next stage last. A client may be saved between two stages: save it before you send its response.

Vectors of many millions of entries are sent in chunks. `Client.receive_chunks` returns an `Answer`. It makes its bytes
while they are read, a block of the vector at a time. The client's next stage is set when the last bytes exist; an
answer that is given up leaves the client in ABORTED. `Server.receive_chunks`, or an `Upload` from `Server.upload`,
keeps the packed message and adds it when it is complete: an incomplete one changes nothing.

Where to look: `stages.py` has the order of the stages and their messages. `client_stages.py` and `server_stages.py`
have what a party does in each (the server takes responses in `responses.py` and makes long requests in `requests.py`; a
client's shares are in `shares.py`, its checks of the survivors in `survivors.py`). `states.py` has what a party holds
in each stage, `snapshot.py` how that is saved and checked when it is resumed. Chunks are in `answer.py`, `upload.py`.
`messages.py` has the layout of the messages, `binding.py` everything that is hashed or signed, `masking.py` the masks,
`opening.py` the way from shares back to secrets. The checks, C1 to C22 and S1 to S16, are numbered as in
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
