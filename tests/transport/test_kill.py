"""A real `secfed serve` is killed in each stage and started again: nobody who answered is lost."""

import asyncio
import json
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from secfed.secagg import Stage
from tests.transport.sessions import EXAMPLE, IDS, ROSTER, STAGES, holding, joining, update_of

HELD = 7


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def read_until(process: asyncio.subprocess.Process, text: str, times: int) -> None:
    """Read the log until so many lines have a text."""
    assert process.stderr
    async with asyncio.timeout(30):
        while times and (line := await process.stderr.readline()):
            times -= text in line.decode()
    assert not times, f"the server ended before {text!r}"


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_server_that_is_killed_in_a_stage_goes_on_with_everybody(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, port = threading.Event(), free_port()
    monkeypatch.setattr("secfed.transport.client.Client", holding(HELD, stage, lambda: gate.wait(60)))
    np.savez(tmp_path / "like.npz", **EXAMPLE)
    (tmp_path / "roster.json").write_text(json.dumps({client_id: key.hex() for client_id, key in ROSTER.items()}))
    command = [sys.executable, "-m", "secfed", "serve", "--like", "like.npz", "--roster", "roster.json", "--clip", "16"]
    command += ["--threshold", "3", "--port", str(port), "--state", "state.db", "--timeout", "60", "--json"]

    async def start() -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=pipe, stderr=pipe)

    async def session() -> tuple[list[tuple[int, ...]], bytes]:
        server = await start()
        try:
            clients = [
                asyncio.create_task(joining(f"http://127.0.0.1:{port}", client_id, timeout=60.0)) for client_id in IDS
            ]
            await read_until(server, f"accepted stage={stage.name}", len(IDS) - 1)
            server.kill()
            await server.communicate()
            server = await start()
            await read_until(server, f"resume stage={stage.name}", 1)
            gate.set()
            joined = await asyncio.gather(*clients)
            output, _ = await asyncio.wait_for(server.communicate(), 30)
            assert server.returncode == 0
            return [each.survivors for each in joined], output
        finally:
            gate.set()
            if server.returncode is None:
                server.kill()

    survivors, output = asyncio.run(session())
    assert survivors == [IDS] * len(IDS)
    found = json.loads(output)
    assert (found["survivors"], found["dropouts"], found["weight"]) == (list(IDS), [], len(IDS))
    with np.load(tmp_path / "mean.npz") as mean:
        for name in EXAMPLE:
            expected = np.mean([update_of(client_id)[name] for client_id in IDS], axis=0)
            np.testing.assert_allclose(mean[name], expected, atol=16 / 2**14)
