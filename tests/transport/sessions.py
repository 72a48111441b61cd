"""A small session for the tests: four clients with identity keys, and updates whose mean is easy to check."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

import secfed
from secfed.secagg import Client, Policy, SigningKey, Stage
from secfed.transport import Answer, Driver, HttpServer, Joined, SessionParameters, Store, Terms, join

IDS = (2, 3, 5, 7)
KEYS = {client_id: SigningKey(bytes([client_id]) * 32) for client_id in IDS}
ROSTER = {client_id: key.public_bytes for client_id, key in KEYS.items()}
EXAMPLE = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(2)}
STAGES = [stage for stage in Stage if stage < Stage.DONE]
TERMS = Terms(Policy(adversary="malicious_server"), ROSTER, clip=16.0)


def update_of(client_id: int) -> dict[str, Any]:
    return {"w": np.full((2, 3), client_id, np.float32), "b": np.array([-1.0, client_id / 2])}


MALICIOUS = secfed.SecAgg(threshold=3, clip=16.0, max_weight=10, adversary="malicious_server")
SEMI_HONEST = secfed.SecAgg(threshold=3, clip=16.0, max_weight=10)
MEAN = MALICIOUS.transform(EXAMPLE, len(IDS), None, None)


def announced(aggregator: secfed.SecAgg = MALICIOUS, **config: Any) -> SessionParameters:
    return SessionParameters.of(bytes(32), aggregator.config(IDS, MEAN, **config), MEAN)  # type: ignore[arg-type]


def driver_of(store: Store | None = None, **options: Any) -> Driver:
    return Driver(announced(), store or Store(), directory=ROSTER, threads=1, **options)


def client_of(driver: Driver, client_id: int) -> Client:
    vector = MEAN.encode(update_of(client_id), 1)
    return Client(driver.parameters.config, client_id, vector, signing_key=KEYS[client_id], directory=ROSTER, threads=1)


def answer(driver: Driver, client: Client) -> bytes:
    """Let a client answer the present stage; return what it sent."""
    stage, request = client.stage, driver.request(client.client_id, client.stage)
    assert request
    message = client.receive(request)
    assert driver.accept(client.client_id, stage, message).answer is Answer.ACCEPTED
    return message


def assert_mean(driver: Driver, survivors: tuple[int, ...]) -> None:
    assert driver.survivors == survivors
    found = MEAN.decode(driver.sum, survivors).mean
    for name, array in found.items():
        expected = np.mean([update_of(client_id)[name] for client_id in survivors], axis=0)
        np.testing.assert_allclose(array, expected, atol=16 / 2**14)


@asynccontextmanager
async def serving(driver: Driver, **options: Any) -> Any:
    """Serve a driver on a free port while the body runs, and until the session is over if the body succeeds."""
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = HttpServer(driver, **options)
    task = asyncio.create_task(server.run(started=url.set_result, linger=5.0))
    try:
        await asyncio.wait([task, url], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield url.result()
    except BaseException:
        task.cancel()
        raise
    await task


def joining(url: str, client_id: int, **options: Any) -> Coroutine[Any, Any, Joined]:
    given: Mapping[str, Any] = {"terms": TERMS, "signing_key": KEYS[client_id], "timeout": 20.0, **options}
    return join(url, client_id, update_of(client_id), **given)


def holding(client_id: int, stage: Stage, wait: Callable[[], object]) -> type[Client]:
    """Return a Client of which one waits before it answers one stage."""

    class Held(Client):
        def receive_chunks(self, data: bytes) -> Any:
            if (self.client_id, self.stage) == (client_id, stage):
                wait()
            return super().receive_chunks(data)

    return Held
