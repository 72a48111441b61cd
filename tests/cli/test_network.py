"""`serve`, `join` and `identity`: the documented path in four processes, and what is wrong usage."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from secfed.cli.network_options import _NEEDED, in_options
from secfed.errors import ConfigError
from secfed.secagg.identities import read_identity
from tests.cli.runner import Runner, follows_schema

ROOT = Path(__file__).parent.parent.parent
SAFE = "--tls-cert and --tls-key, --host 127.0.0.1, or --insecure"
CENTRAL = ("--privacy", "central", "--clip-norm", 1, "--noise-multiplier", 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    arrays = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(2)}
    np.savez("model.npz", **arrays)
    for i in (1, 2, 3):
        np.savez(f"update-{i}.npz", **{name: np.full_like(array, i) for name, array in arrays.items()})
    return tmp_path


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "secfed", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_three_clients_join_a_server_that_is_killed_and_started_again(folder: Path, secfed: Runner) -> None:
    """Each in a process of its own; `tests/transport/test_kill.py` kills in every stage."""
    roster = {i: secfed("identity", f"client-{i}.key").stdout.strip() for i in (1, 2, 3)}
    Path("roster.json").write_text(json.dumps(roster))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    serve = ("serve", "--like", "model.npz", "--roster", "roster.json", "--port", port, "--max-weight", 2)
    serve = (*serve, "--state", "session.db", "--stage-timeout", "UNMASKING=30", "--json")
    server = start(*serve)
    joins = [
        start(
            "join", f"http://127.0.0.1:{port}", f"update-{i}.npz", "--id", i, "--weight", 1 + (i == 3),
            "--identity", f"client-{i}.key", "--roster", "roster.json", "--clip", 4, "--json",
            "--state", f"client-{i}.db", "--record", f"record-{i}.db",
        )
        for i in (1, 2, 3)
    ]  # fmt: skip
    assert server.stderr
    assert any("accepted stage=SHARE_KEYS" in line for line in iter(server.stderr.readline, ""))
    server.kill()
    server.communicate()
    server = start(*serve)
    results = [process.communicate(timeout=60) for process in (*joins, server)]
    assert [process.returncode for process in (*joins, server)] == [0] * 4, results
    assert "secfed.transport resume stage=" in results[3][1]
    assert all(follows_schema(("join",), output)["survivors"] == [1, 2, 3] for output, _ in results[:3])
    found = {"output": "mean.npz", "survivors": [1, 2, 3], "dropouts": [], "weight": 4, "refused": 0}
    found |= {"schema": 1, **dict.fromkeys(("epsilon", "delta", "adjacency", "spent", "budget"))}
    assert follows_schema(("serve",), results[3][0]) == found
    with np.load("mean.npz") as mean:
        assert (mean["w"].dtype, mean["b"].dtype) == (np.float32, np.float64)
        for name in ("w", "b"):
            np.testing.assert_allclose(mean[name], (1 + 2 + 2 * 3) / 4, atol=4 / 2**13)


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["central", "distributed"])
def test_private_compressed_sum_in_processes_is_in_the_ledger(choice: str, folder: Path, secfed: Runner) -> None:
    """A session with noise of its own clients' terms; then one that the budget has no room for, and one refused."""
    assert secfed("budget", "limit", "budget.db", "--epsilon", 5, "--delta", 1e-5).exit_code == 0
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    noise = ("--privacy", choice, "--clip-norm", 8, "--noise-multiplier", 1, "--compression", "low-rank:1")
    serve = ("serve", "--like", "model.npz", "--clients", 3, "--threshold", 3, "--port", port, *noise)
    join = ("join", f"http://127.0.0.1:{port}")
    processes = [start(*serve, "--ledger", "budget.db", "--json")]
    processes += [start(*join, f"update-{i}.npz", "--id", i, *noise, "--minimum-cohort", 3) for i in (1, 2, 3)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, results
    found = follows_schema(("serve",), results[0][0])
    assert 3 < found["epsilon"] == found["spent"] < 5 and (found["delta"], found["budget"]) == (1e-5, 5.0)
    shown = json.loads(secfed("budget", "show", "budget.db", "--json").stdout)
    assert [entry["state"] for entry in shown["entries"]] == ["committed"]
    with np.load("mean.npz") as mean:
        assert mean["w"].shape == (2, 3) and np.abs(mean["w"]).max() < 100
    refused = secfed(*serve, "--ledger", "budget.db")
    assert refused.exit_code == 1 and "budget" in refused.stderr
    server = start(*serve, "--timeout", 60)
    wrong = secfed(*join, "update-1.npz", "--id", 1, *noise[:-3], 2, *noise[-2:], "--timeout", 30)
    server.kill()
    server.communicate()
    assert wrong.exit_code == 1 and ("T5" in wrong.stderr or "T6" in wrong.stderr)


@pytest.mark.slow
def test_commands_of_the_deploy_page_work_as_written(tmp_path: Path) -> None:
    """The server and its clients run side by side; the path with TLS, on the same port, after the one without."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in (("python", ""), ("secfed", "-m secfed")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o700)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}

    def run(block: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", "-ec", block],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(*blocks: str) -> list[str]:
        running = [run(block) for block in blocks]
        found = [process.communicate(timeout=120) for process in running]
        assert [process.returncode for process in running] == [0] * len(running), found
        return [output for output, _ in found]

    model, keys, serve, first, second, third, show, certificate, tls_serve, tls_join = blocks
    wait(model)
    wait(keys)
    session = wait(serve, first, second, third)[0]
    assert "the mean of 3 of 3 clients is in mean.npz" in session and "was over" not in session
    [again] = wait(serve)
    assert "this session was over before the command started" in again and "delete session.db" in again
    [mean] = wait(show)
    assert "'w'" in mean and "float32" in mean
    wait(certificate)
    (tmp_path / "mean.npz").unlink()
    others = [tls_join.replace("-1", f"-{i}").replace("--id 1", f"--id {i}") for i in (2, 3)]
    assert "the mean of 3 of 3 clients is in mean.npz" in wait(tls_serve, tls_join, *others)[0]


def test_identity_prints_the_public_key_of_a_new_private_file(folder: Path, secfed: Runner) -> None:
    run = secfed("identity", "client.key")
    assert run.exit_code == 0 and run.stdout.strip() == read_identity("client.key").public_bytes.hex()
    assert Path("client.key").stat().st_mode & 0o077 == 0
    again = secfed("identity", "client.key")
    assert again.exit_code == 1 and "cannot make client.key: File exists" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve", "--like", "model.npz"), "needed either --roster, or --clients"),
        (("serve", "--like", "model.npz", "--clients", 3, "--roster", "x"), "needed either --roster, or --clients"),
        (("serve", "--like", "model.npz", "--clients", 3, "--tls-cert", "x"), "must be given together"),
        (("serve", "--like", "model.npz", "--clients", 3, "--host", "0.0.0.0"), f"other machines reach: needed {SAFE}"),
        (("serve", "--like", "model.npz", "--clients", 1), "1 clients"),
        (("serve", "--like", "absent.npz", "--clients", 3), "absent.npz cannot be read"),
        (("serve", "--like", "broken.npz", "--clients", 3), "broken.npz is not an .npz file"),
        (("serve", "--like", "model.npz", "--roster", "absent.json"), "roster absent.json cannot be read"),
        (("serve", "--like", "model.npz", "--clients", 3, "--stage-timeout", "SHARE=3"), "one of ADVERTISE_KEYS, "),
        (("serve", "--like", "model.npz", "--clients", 3, "--stage-timeout", "DONE=3"), "--stage-timeout DONE=3"),
        (("serve", "--like", "model.npz", "--clients", 3, "--stage-timeout", "SHARE_KEYS"), "needed STAGE=SECONDS"),
        (("serve", "--like", "model.npz", "--clients", 3, "--stage-timeout", "SHARE_KEYS=0"), "needed a positive"),
        (("serve", "--like", "model.npz", "--clients", 3, "--epsilon", 3), "No such option"),
        (("serve", "--like", "model.npz", "--clients", 3, "--clip-norm", 1), "no effect with --privacy none"),
        (("serve", "--like", "model.npz", "--clients", 3, "--ledger", "x"), "no effect with --privacy none"),
        (("serve", "--like", "model.npz", "--clients", 3, "--compression", "zip"), "found 'zip'"),
        (("serve", "--like", "model.npz", "--clients", 3, "--scale-weights"), "scale_weights with bits None"),
        (("serve", "--like", "model.npz", "--clients", 3, "--minimum-cohort", 3), "only with --privacy distributed"),
        (
            ("serve", "--like", "model.npz", "--clients", 3, "--privacy", "central"),
            "--clip-norm and --noise-multiplier",
        ),
        (("serve", "--like", "model.npz", "--clients", 3, *CENTRAL, "--clip", 2), "no effect with --privacy central"),
        (("serve", "--like", "model.npz", "--clients", 3, *CENTRAL, "--ledger", "absent"), "absent does not exist"),
        (
            ("serve", "--like", "model.npz", "--clients", 3, *CENTRAL, "--ledger", "x", "--delta", 0.1),
            "--delta has no effect",
        ),
        (("join", "http://127.0.0.1:1", "update-1.npz", "--id", 1, "--clip-norm", 1), "no effect with --privacy none"),
        (
            ("join", "http://127.0.0.1:1", "update-1.npz", "--id", 1, *CENTRAL, "--weight", 2),
            "no effect with --privacy",
        ),
        (("join", "http://127.0.0.1:1", "update-1.npz", "--id", 1, "--state", "broken.npz"), "broken.npz"),
        (("join", "http://127.0.0.1:1", "update-1.npz", "--id", 1, "--record", "broken.npz"), "broken.npz"),
        (("join", "http://127.0.0.1:1", "update-1.npz", "--id", 1, "--roster", "x"), "must be given together"),
        (("join", "http://127.0.0.1:1", "update-1.npz", "--id", 1, "--allow-divisible"), "only with --roster"),
        (("join", "http://192.0.2.1:1", "update-1.npz", "--id", 1), "such as http://127.0.0.1:8765, or --insecure"),
        (("join", "https://127.0.0.1:1", "update-1.npz", "--id", 1, "--ca", "absent"), "absent cannot be used"),
    ],
)
def test_wrong_usage_is_named(folder: Path, secfed: Runner, arguments: tuple[object, ...], message: str) -> None:
    Path("broken.npz").write_bytes(b"PK")
    run = secfed(*arguments)
    assert run.exit_code == 2 and message in run.stderr


@pytest.mark.parametrize(
    ("module", "argument"),
    [("http_server", 0), ("http_server", 1), ("client", 2), ("parameters", 3)],
)
def test_words_that_become_options_are_those_of_the_library(module: str, argument: int) -> None:
    source = (ROOT / "secfed" / "transport" / f"{module}.py").read_text()
    text, option = _NEEDED[argument]
    assert text in re.sub(r'"\n\s*f?"', "", source)
    with pytest.raises(ConfigError, match=f"^found x: needed {re.escape(option)}$"), in_options():
        raise ConfigError(f"found x: needed {text}")


def test_join_checks_its_key_before_it_asks_the_server(folder: Path, secfed: Runner) -> None:
    roster = {i: secfed("identity", f"client-{i}.key").stdout.strip() for i in (1, 2)}
    secfed("identity", "stranger.key")
    Path("roster.json").write_text(json.dumps(roster))
    for client, key, message in (
        (1, "client-2.key", "secfed: the identity key is that of client 2, needed that of client 1"),
        (1, "stranger.key", "secfed: the identity key is of no client of the roster, needed that of client 1"),
        (3, "client-1.key", "secfed: client 3 is not among the 2 clients of the roster"),
        (1, "absent.key", "absent.key cannot be read"),
    ):
        join = ("join", "http://127.0.0.1:1", "update-1.npz", "--id", client, "--timeout", 30)
        started = time.monotonic()
        run = secfed(*join, "--identity", key, "--roster", "roster.json")
        assert run.exit_code == 2 and message in run.stderr
        assert time.monotonic() - started < 10  # no try to reach a server that is not there


def test_join_without_a_server_says_so(folder: Path, secfed: Runner) -> None:
    run = secfed("join", "http://127.0.0.1:1", "update-1.npz", "--id", 1, "--timeout", 0.2)
    assert run.exit_code == 1 and "within 0.2 seconds" in run.stderr
