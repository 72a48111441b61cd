"""A server that shows different survivors to different clients, to have both shares of a victim: it gets nothing."""

import numpy as np

from secfed import secagg
from secfed.errors import FaultyClientError, FaultyServerError
from secfed.secagg.messages import ConsistencyCheckRequest
from secfed.wire import set_from_bytes, set_to_bytes

ids = [1, 2, 3, 4, 5]
keys = {i: secagg.SigningKey.generate() for i in ids}
directory = {i: key.public_bytes for i, key in keys.items()}  # pinned by every client beforehand
config = secagg.Config(ids, threshold=4, length=8, adversary="malicious_server")
clients = {i: secagg.Client(config, i, np.full(8, i, np.uint32), signing_key=keys[i], directory=directory) for i in ids}

server = secagg.Server(config, directory=directory)
outbox = server.open()
while server.stage is not secagg.Stage.CONSISTENCY_CHECK:
    for i, request in outbox.items():
        server.receive(i, clients[i].receive(request))
    outbox = server.close_stage()

# Clients 1 to 3 are told the truth, client 4 that client 5 dropped out.
survivors = set_from_bytes(ConsistencyCheckRequest.from_bytes(outbox[4]).survivors, len(ids)).copy()
survivors[4] = False
outbox[4] = ConsistencyCheckRequest(set_to_bytes(survivors)).to_bytes()
for i, request in outbox.items():
    try:
        server.receive(i, clients[i].receive(request))
    except FaultyClientError as error:  # an honest server code notices that client 4 signed something else
        print("at the server:", error)

# It needs client 4 to answer for the truth as well, or the others to accept client 4's signature.
requests = server.close_stage()
for i in ids:
    try:
        clients[i].receive(requests.get(i, requests[1]))
        print(f"client {i} answers once, for the survivors it signed")
    except FaultyServerError as error:
        print(f"client {i} refuses: {error}")
assert clients[4].stage is secagg.Stage.ABORTED
