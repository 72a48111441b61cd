"""Malicious-server mode behind sockets: a server and five clients over TCP on this machine, one of which hangs up."""

import asyncio

import numpy as np

from secfed import secagg

KEYS = {i: secagg.SigningKey.generate() for i in range(1, 6)}  # in a real deployment each is on its owner's machine
DIRECTORY = {i: key.public_bytes for i, key in KEYS.items()}  # pinned by everyone
CONFIG = secagg.Config(DIRECTORY, threshold=3, length=1000, adversary="malicious_server")
POLICY = secagg.Policy(minimum_cohort=4, adversary="malicious_server")
TIMEOUT_SECONDS = 5.0


async def send(writer, data):
    writer.write(len(data).to_bytes(4, "little") + data)
    await writer.drain()


async def read(reader, limit):
    size = int.from_bytes(await reader.readexactly(4), "little")
    if size > limit:
        raise ConnectionError(f"{size} bytes announced, {limit} allowed")
    return await reader.readexactly(size)


async def run_server(connections):
    server = secagg.Server(CONFIG, directory=DIRECTORY)
    outbox = server.open()

    async def exchange(client_id, request):
        reader, writer = connections[client_id]
        await send(writer, request)
        server.receive(client_id, await read(reader, server.message_bytes))

    while not server.done:
        calls = [asyncio.wait_for(exchange(i, request), TIMEOUT_SECONDS) for i, request in outbox.items()]
        # A client that hangs up, is late or sends rubbish has dropped out; the others go on.
        await asyncio.gather(*calls, return_exceptions=True)
        outbox = server.close_stage()
    return server


async def run_client(port, client_id, vanishes):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await send(writer, client_id.to_bytes(4, "little"))  # in a real deployment TLS says who this is
    vector, keys = np.full(1000, client_id, np.uint32), {"signing_key": KEYS[client_id], "directory": DIRECTORY}
    client = secagg.Client(CONFIG, client_id, vector, policy=POLICY, **keys)
    while client.stage is not secagg.Stage.DONE:
        if vanishes and client.stage is secagg.Stage.MASKED_INPUT_COLLECTION:
            break
        await send(writer, client.receive(await read(reader, 1 << 20)))
    writer.close()


async def main():
    connections, everyone = {}, asyncio.Event()

    async def accept(reader, writer):
        connections[int.from_bytes(await read(reader, 4), "little")] = reader, writer
        if len(connections) == len(CONFIG.client_ids):
            everyone.set()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    clients = [asyncio.create_task(run_client(port, i, vanishes=i == 2)) for i in CONFIG.client_ids]
    await everyone.wait()
    server = await run_server(connections)
    await asyncio.gather(*clients)
    for _, writer in connections.values():
        writer.close()
    listener.close()
    print("survivors", server.survivors, "sum", server.sum[:3])
    assert server.survivors == (1, 3, 4, 5)
    assert (server.sum == 13).all()


asyncio.run(main())
