"""The example app on Flower's own engines: simulated nodes, and processes of which one is killed.

`flwr run` starts what README.md tells a reader to start. Each message starts a new process in the distributed engine,
so a round takes most of a minute.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from secfed.integrations.flower import create_identity
from tests.integrations.flower.engine import (
    APP,
    ROOT,
    Engine,
    copy_app,
    kill,
    run_command,
    superlink_command,
    supernode_command,
    wait_until,
    without_secfed,
)

ROUNDS = 3  # of the simulation; a round of processes takes longer
FEW = 2
ENGINE = pytest.mark.slow  # minutes: processes of Flower are started


def accuracies(output: str, rounds: int) -> list[float]:
    """Accuracy before the first round and after each."""
    found = [float(number) for number in re.findall(r"accuracy after round \d+: ([\d.]+)", last_stream(output))]
    assert len(found) == rounds + 1, output
    return found


def means(output: str) -> list[str]:
    return re.findall(r"secfed: the mean of (\d+ of \d+) nodes", last_stream(output))


def last_stream(output: str) -> str:
    """The run's log from its beginning: `flwr run` prints all of it again whenever it has to reconnect."""
    return output[output.rindex("strategy:") :]


@pytest.mark.parametrize("page", ["README.md", "docs/flower.md"])
def test_pages_show_the_commands_that_run_here(page: str) -> None:
    text = re.sub(r" \\\n *", " ", (ROOT / page).read_text())  # long commands are on two lines
    lines = [line.partition("  #")[0].removesuffix(" &") for line in text.splitlines()]
    commands = {line for line in lines if line.startswith(("flower-", "flwr "))}
    app, config = "examples/flower_app", "partition-id=0 num-partitions=3"
    machines = {superlink_command(39091, False), supernode_command("SERVER:39091", config), run_command(app)}
    simulation = {superlink_command(39091, True), run_command(app, 20)}
    assert commands == (machines if page == "README.md" else machines | simulation)


@ENGINE
def test_twenty_simulated_nodes_train_as_without_secfed(tmp_path: Path) -> None:
    with Engine(tmp_path / "secure", 20, simulation=True) as engine:
        secure = engine.run(APP, rounds=ROUNDS)
    plain_app = copy_app(tmp_path, without_secfed)
    assert not any("secfed" in line for path in plain_app.rglob("*_app.py") for line in code(path))
    with Engine(tmp_path / "plain", 20, simulation=True) as engine:
        plain = engine.run(plain_app, rounds=ROUNDS)
    assert means(secure) == ["20 of 20"] * ROUNDS
    assert accuracies(secure, ROUNDS)[-1] == pytest.approx(accuracies(plain, ROUNDS)[-1], abs=0.01)
    assert accuracies(secure, ROUNDS)[-1] > 0.85


def code(path: Path) -> list[str]:
    """The lines of a file that are no documentation."""
    return [line for line in path.read_text().splitlines() if not line.lstrip().startswith('"""')]


@ENGINE
def test_killed_node_drops_out_and_the_others_train_on(tmp_path: Path) -> None:
    with Engine(tmp_path / "secure", 3) as engine:
        run = engine.start_run(APP, rounds=FEW, min_nodes=2)
        # Its keys are shared, its masked update is still to come: that of the others must be unmasked without it.
        wait_until(lambda: engine.text("node0").count("Sent successfully") == 2, 180, "the keys of node 0")
        kill(engine.supernodes[0])
        secure = engine.output(run)
    with Engine(tmp_path / "plain", 2, partitions=3) as engine:
        plain = engine.run(renumbered(copy_app(tmp_path, without_secfed)), rounds=FEW, min_nodes=2)
    assert means(secure) == ["2 of 3", "2 of 2"], secure
    assert "MASKED_INPUT_COLLECTION" in secure, secure
    assert accuracies(secure, FEW)[-1] == pytest.approx(accuracies(plain, FEW)[-1], abs=0.01)
    assert accuracies(secure, FEW)[-1] > 0.9


def renumbered(app: Path) -> Path:
    """Let the nodes have the second and the third part of the data, for the killed one had the first."""
    path = app / "flower_app" / "client_app.py"
    path.write_text(changed(path.read_text(), 'int(context.node_config["partition-id"])', lambda old: f"1 + {old}"))
    return app


def changed(text: str, old: str, new: Callable[[str], str]) -> str:
    assert text.count(old) == 1
    return text.replace(old, new(old))


PRIVACY = "secfed.DistributedGaussian(clip_norm=1.0, noise_multiplier=0.1, layers=2, minimum_survivors=2)"


@ENGINE
def test_private_run_against_a_malicious_server_checks_identities(tmp_path: Path) -> None:
    """Identity keys and the roster come from each node's configuration, and surplus noise is taken off."""
    identities = [tmp_path / f"identity{number}" for number in range(3)]
    keys = {str(number + 1): create_identity(path) for number, path in enumerate(identities)}
    roster = tmp_path / "roster.json"
    roster.write_text(str(keys).replace("'", '"'))

    def change(text: str) -> str:
        text = text.replace(
            'SecureMod(metrics=["train_loss"])',
            f'SecureMod(policy=secfed.secagg.Policy(adversary="malicious_server"), privacy={PRIVACY})',
        )
        text = text.replace("import SecureMod  # secfed", "import SecureMod\nimport secfed")
        return text.replace(
            'secfed.SecAgg(max_weight=1000), metrics={"train_loss": 10.0}',
            f'secfed.SecAgg(threshold=2, adversary="malicious_server"), roster=read_roster({str(roster)!r}), '
            f"privacy={PRIVACY}",
        ).replace("import SecureStrategy", "import SecureStrategy, read_roster")

    def node_config(number: int) -> str:
        return f'client-id={number + 1} identity="{identities[number]}" roster="{roster}"'

    with Engine(tmp_path / "engine", 3, node_config=node_config) as engine:
        output = engine.run(copy_app(tmp_path, change), rounds=1)
    assert means(output) == ["3 of 3"], output
    assert re.search(r"accuracy after round 1: 0\.[1-9]", output), output


DUPLICATES = """
import secfed.integrations.flower.rounds as rounds
from flwr.app import Message

exchange = rounds.exchange


def asked_twice(grid, contents, message_type, group, seconds):
    extra = {}
    for node, content in contents.items():
        for _ in range(2):  # at the same time as the real one
            [sent] = grid.push_messages([Message(content, node, message_type, group_id=group)])
            extra[sent] = node
    answers = [(node, reply.has_error()) for node, reply in exchange(grid, contents, message_type, group, seconds)]
    replies = [(extra[reply.metadata.reply_to_message_id], reply) for reply in grid.pull_messages(list(extra))]
    for node in contents:
        good = [one for one in replies if one[0] == node and not one[1].has_error()]
        good += [one for one in answers if one[0] == node and not one[1]]
        print(f"{len(good)} of {1 + sum(one[0] == node for one in replies)} answered", flush=True)
    return iter([])


rounds.exchange = asked_twice
"""


@ENGINE
def test_of_requests_at_the_same_time_one_is_answered(tmp_path: Path) -> None:
    """Two answers to one request could open a client's update, and Flower runs the three requests in parallel."""

    def change(text: str) -> str:
        return text.replace("app = ServerApp()", DUPLICATES + "\n\napp = ServerApp()")

    with Engine(tmp_path / "engine", 3) as engine:
        output = last_stream(engine.run(copy_app(tmp_path, change), rounds=1))
    assert re.findall(r"(\d) of 3 answered", output) == ["1"] * 3, output
