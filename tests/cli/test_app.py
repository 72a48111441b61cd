"""The command line as a program: what it prints where, and how it ends."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from secfed import dp
from secfed.cli.algorithm_parameters import DEFAULTS
from secfed.cli.simulate import Dataset
from secfed.cli.simulation.datasets import LOADERS
from secfed.dp.rounding import up
from tests.cli.runner import Run, Runner

SMALL = ("simulate", "--clients", 8, "--rounds", 2, "--seed", 1, "--dropout", 0.05)
ROUND_KEYS = {"number", "accuracy", "cohort", "survivors", "bytes_up_per_client", "bytes_down_per_client", "seconds"}
SOURCE = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("brief_training")

JSON = ("--json", "--aggregator", "secagg")
Small = Callable[..., tuple[Run, Path]]


@pytest.fixture(scope="module")
def kept_runs() -> dict[tuple[object, ...], tuple[Run, Path]]:
    return {}


@pytest.fixture
def small(
    secfed: Runner,
    kept_runs: dict[tuple[object, ...], tuple[Run, Path]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Small:
    """The small run with more options, and its folder; several tests look at one run, for each costs a training."""

    def run(*options: object) -> tuple[Run, Path]:
        if options not in kept_runs:
            folder = tmp_path_factory.mktemp("run") / "a" / "b"
            kept_runs[options] = secfed(*SMALL, "--output", folder, *options), folder
        return kept_runs[options]

    return run


UNDRAWN = pytest.mark.usefixtures("undrawn")


def run_python(code: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("aggregator", ["plain", "secagg"])
def test_simulate_prints_exactly_one_json_object_with_the_keys_of_the_contract(small: Small, aggregator: str) -> None:
    run, folder = small("--json", "--aggregator", aggregator)
    assert run.exit_code == 0
    found = json.loads(run.stdout)  # refuses anything before or after the object
    assert found["aggregator"] == aggregator and found["algorithm"] == "fedavg"
    for key in ("accuracy", "plain_accuracy", "max_model_difference"):
        assert isinstance(found[key], float)
    assert found["epsilon"] is None and found["delta"] is None
    assert found["files"] == [str(folder / "accuracy.png")]
    assert [entry["number"] for entry in found["rounds"]] == [1, 2]
    for entry in found["rounds"]:
        assert set(entry) >= ROUND_KEYS
        assert all(isinstance(entry[key], int) for key in ROUND_KEYS - {"accuracy", "seconds"})
        assert isinstance(entry["accuracy"], float) and isinstance(entry["seconds"], float)
        assert entry["cohort"] == 8 >= entry["survivors"] > 0
        assert entry["bytes_up_per_client"] > 0 and entry["bytes_down_per_client"] > 19_000  # the model among them
        assert set(entry["dropouts"]) == {"ADVERTISE_KEYS", "SHARE_KEYS", "MASKED_INPUT_COLLECTION", "UNMASKING"}
        assert entry["failure"] is None
    assert found["rounds"][-1]["accuracy"] == found["accuracy"]
    assert found["rounds"][-1]["plain_accuracy"] == found["plain_accuracy"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("privacy", ["central", "distributed"])
def test_with_privacy_the_epsilon_of_each_round_is_told(secfed: Runner, tmp_path: Path, privacy: str) -> None:
    run = secfed(*SMALL, "--json", "--output", tmp_path, "--privacy", privacy, "--epsilon", 2.5, "--delta", 1e-6)
    found = json.loads(run.stdout)
    spent = [entry["epsilon"] for entry in found["rounds"]]
    assert 0 < spent[0] < spent[1] == found["epsilon"] <= 2.5
    assert found["delta"] == found["rounds"][0]["delta"] == 1e-6
    assert found["privacy"] == privacy and found["epsilon_budget"] == 2.5
    assert found["noise_multiplier"] > 1 and found["clip_norm"] == 1.0
    assert (found["central_accuracy"] is not None) == (privacy == "distributed")
    if privacy == "distributed":
        assert found["central_accuracy"] == found["rounds"][-1]["central_accuracy"]
        assert "against the server, and anyone who sees the models" in run.stderr
    assert f"secagg with {privacy} noise" in run.stderr
    assert f"spent epsilon {up(found['epsilon'], 4)} of 2.5 at delta 1e-06" in run.stderr
    assert (tmp_path / "accuracy.png").stat().st_size > 10_000


@UNDRAWN
def test_against_a_malicious_server_the_consistency_check_is_a_stage(secfed: Runner, tmp_path: Path) -> None:
    run = secfed(*SMALL, "--json", "--output", tmp_path, "--adversary", "malicious_server")
    entry = json.loads(run.stdout)["rounds"][0]
    assert "CONSISTENCY_CHECK" in entry["dropouts"]
    assert set(entry["stage_seconds"]) == set(entry["dropouts"])
    assert "consis-" in run.stderr


def test_with_json_the_table_and_the_summary_go_to_stderr(small: Small) -> None:
    run, _ = small(*JSON)
    assert run.stdout.count("\n") == 1
    assert "vivors" in run.stderr and "kB" in run.stderr and "ms" in run.stderr
    assert "the server saw 2 sums of" in run.stderr and "no update of any client" in run.stderr


def round_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.match(r"round \d+ of ", line)]


@UNDRAWN
@pytest.mark.parametrize("options", [(), ("--privacy", "central")], ids=["plain", "private"])
def test_without_a_terminal_each_round_has_a_line_on_stderr(
    secfed: Runner, tmp_path: Path, options: tuple[str, ...]
) -> None:
    run = secfed(*SMALL, "--json", "--output", tmp_path, *options)
    expected = []
    for entry in json.loads(run.stdout)["rounds"]:
        line = f"round {entry['number']} of 2: accuracy {100 * entry['accuracy']:.2f} %, "
        line += f"survivors {entry['survivors']} of {entry['cohort']}"
        expected.append(line + (f", epsilon {up(entry['epsilon'], 4)}" if options else ""))
    assert round_lines(run.stderr) == expected


@UNDRAWN
def test_the_line_of_a_failed_round_says_why(secfed: Runner, tmp_path: Path) -> None:
    run = secfed(*SMALL, "--json", "--output", tmp_path, "--dropout", 1)
    entry = json.loads(run.stdout)["rounds"][0]
    assert round_lines(run.stderr)[0].endswith(f" %, failed ({entry['failure']})")


def test_a_rounds_line_is_there_before_the_next_round_is_over(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "secfed",
        "simulate",
        "--rounds",
        "1000",
        "--clients",
        "4",
        "--aggregator",
        "plain",
    ]
    started = subprocess.Popen(
        [*command, "--json", "--output", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=SOURCE,
    )
    with started:
        assert started.stderr and started.stdout
        assert started.stderr.readline().startswith("round 1 of 1000: accuracy ")
        assert started.poll() is None
        started.kill()
        assert started.stdout.read() == ""


@UNDRAWN
def test_without_json_the_summary_goes_to_stdout(secfed: Runner, tmp_path: Path) -> None:
    run = secfed(*SMALL, "--output", tmp_path)
    assert "plain fedavg with the same seed" in run.stdout
    assert "the server saw 2 sums of" in run.stdout
    assert "vivors" in run.stderr


@UNDRAWN
def test_under_plain_the_summary_admits_that_the_server_saw_every_update(secfed: Runner, tmp_path: Path) -> None:
    run = secfed(*SMALL, "--output", tmp_path, "--aggregator", "plain")
    assert "the server saw every update in the clear" in run.stdout
    assert "no update" not in run.stdout


def test_a_seed_makes_a_run_repeatable(secfed: Runner, small: Small, request: pytest.FixtureRequest) -> None:
    def told(run: Run) -> dict[str, object]:
        found = json.loads(run.stdout)
        for entry in found["rounds"]:
            del entry["seconds"], entry["stage_seconds"]
        return dict(found)

    first, folder = small(*JSON)
    request.getfixturevalue("undrawn")  # only now: other tests look at the picture of the first run
    again, other = (secfed(*SMALL, "--json", "--output", folder, "--seed", seed) for seed in (1, 8))
    assert told(first) == told(again)
    assert told(first)["max_model_difference"] != told(other)["max_model_difference"]


def test_the_picture_is_a_png_of_some_size(small: Small) -> None:
    _, folder = small(*JSON)
    data = (folder / "accuracy.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width >= 800 and height >= 600 and len(data) > 10_000


@UNDRAWN
def test_a_failed_round_is_shown_in_the_table_the_summary_and_the_json(secfed: Runner, tmp_path: Path) -> None:
    run = secfed(*SMALL, "--json", "--output", tmp_path, "--threshold", 8, "--dropout", 0.08, "--rounds", 6)
    entries = json.loads(run.stdout)["rounds"]
    failed = [entry for entry in entries if entry["failure"]]
    assert run.exit_code == 0 and 0 < len(failed) < len(entries)
    assert all(entry["survivors"] == 0 and entry["bytes_up_per_client"] is None for entry in failed)
    assert f"round {failed[0]['number']} failed: " in run.stderr
    assert f"{len(failed)} of 6 rounds failed" in run.stderr


@UNDRAWN
def test_a_run_without_any_sum_ends_with_exit_code_1(secfed: Runner, tmp_path: Path) -> None:
    run = secfed(*SMALL, "--json", "--output", tmp_path, "--dropout", 1)
    assert run.exit_code == 1
    assert "no round gave a mean" in run.stderr
    assert all(entry["failure"] for entry in json.loads(run.stdout)["rounds"])


@UNDRAWN
def test_clipping_is_said_once(secfed: Runner, tmp_path: Path) -> None:
    run = secfed(*SMALL, "--json", "--output", tmp_path, "--clip", 0.05)
    assert run.stderr.count("were clipped") == 1
    assert "ClippingWarning" not in run.stderr


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--threshold", 60), "threshold 60 must be a whole number from 2 to 8 (8 clients)"),
        (("--threshold", 4), "threshold 4 must be more than half of 8 clients"),
        (("--neighbors", 3), "neighbors 3 must be even"),
        (("--clients", 1443), "1443 clients must be at least 1 and at most the 1442 training rows"),
        (("--aggregator", "plain", "--privacy", "distributed"), "--privacy distributed needs --aggregator secagg"),
    ],
)
def test_options_that_cannot_work_together_end_with_exit_code_2_and_one_line(
    secfed: Runner, tmp_path: Path, options: tuple[object, ...], text: str
) -> None:
    run = secfed(*SMALL, "--json", "--output", tmp_path, *options)
    assert run.exit_code == 2
    assert run.stdout == ""
    assert f"secfed: {text}" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_folder_that_cannot_be_made_ends_with_exit_code_1(secfed: Runner) -> None:
    run = secfed(*SMALL, "--json", "--output", "/dev/null/folder")
    assert run.exit_code == 1 and run.stdout == ""
    assert "secfed: cannot make the folder /dev/null/folder" in run.stderr and "Traceback" not in run.stderr


PAILLIER = ("--aggregator", "paillier")
PLAIN, CENTRAL, DISTRIBUTED = (("--aggregator", "plain"), ("--privacy", "central"), ("--privacy", "distributed"))


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("mode", "option", "value", "named"),
    [
        ((), "--epsilon", "1", "--privacy none"),
        ((), "--delta", "1e-6", "--privacy none"),
        ((), "--clip-norm", "1.0", "--privacy none"),
        (("--privacy", "none"), "--epsilon", "3.0", "--privacy none"),
        (CENTRAL, "--clip", "4.0", "--privacy central"),
        (DISTRIBUTED, "--clip", "2", "--privacy distributed"),
        (CENTRAL, "--bits", "8", "--privacy central"),
        (PLAIN, "--bits", "8", "--aggregator plain"),
        (PLAIN, "--compression", "random-k:0.5", "--aggregator plain"),
        (PLAIN, "--threshold", "5", "--aggregator plain"),
        (PLAIN, "--neighbors", "4", "--aggregator plain"),
        (PLAIN, "--adversary", "semi_honest", "--aggregator plain"),
        (PLAIN, "--clip", "4", "--aggregator plain"),
        ((*PLAIN, *CENTRAL), "--neighbors", "4", "--aggregator plain"),
        (("--clients", "13"), "--alpha", "0.5", "--clients 13"),
        ((), "--key-bits", "2048", "--aggregator secagg"),
        (PLAIN, "--key-bits", "2048", "--aggregator plain"),
        (PAILLIER, "--threshold", "5", "--aggregator paillier"),
        (PAILLIER, "--neighbors", "4", "--aggregator paillier"),
        (PAILLIER, "--adversary", "semi_honest", "--aggregator paillier"),
        ((), "--mu", "0.1", "--algorithm fedavg"),
        (("--algorithm", "fedavgm"), "--mu", "0.1", "--algorithm fedavgm"),
        (("--algorithm", "fedprox"), "--server-momentum", "0.5", "--algorithm fedprox"),
        (("--algorithm", "fedyogi"), "--server-momentum", "0.5", "--algorithm fedyogi"),
        ((), "--buffer-size", "5", "--algorithm fedavg"),
        (("--algorithm", "fedasync", *PLAIN), "--buffer-size", "5", "--algorithm fedasync"),
        (("--algorithm", "fedasync", *PLAIN), "--server-learning-rate", "1", "--algorithm fedasync"),
        (("--algorithm", "fedbuff"), "--sampling-rate", "0.5", "--algorithm fedbuff"),
        (("--algorithm", "fedbuff"), "--deadline", "2", "--algorithm fedbuff"),
        (("--algorithm", "fedbuff"), "--mixing", "0.5", "--algorithm fedbuff"),
    ],
)
def test_an_option_without_effect_is_refused_and_both_options_are_named(
    secfed: Runner, tmp_path: Path, mode: tuple[str, ...], option: str, value: str, named: str
) -> None:
    run = secfed("simulate", "--json", "--output", tmp_path / "new", *mode, option, value)
    assert run.exit_code == 2 and run.stdout == ""
    assert f"{option} has no effect with {named}" in run.stderr
    assert not (tmp_path / "new").exists()


@UNDRAWN
@pytest.mark.usefixtures("known_primes")
def test_a_run_under_paillier_is_told_with_the_keys_of_every_mode(secfed: Runner, tmp_path: Path) -> None:
    common = ("simulate", "--json", "--rounds", 1, "--clients", 4, "--output", tmp_path, "--dropout", 0)
    encrypted = secfed(*common, *PAILLIER, "--key-bits", 2048)
    assert encrypted.exit_code == 0, encrypted.stderr
    found, other = json.loads(encrypted.stdout), json.loads(secfed(*common).stdout)
    assert found.keys() == other.keys() and found["rounds"][0].keys() == other["rounds"][0].keys()
    assert found["aggregator"] == "paillier"
    assert found["accuracy"] == other["accuracy"]
    assert set(found["rounds"][0]["stage_seconds"]) == {"ENCRYPTED_INPUT_COLLECTION", "DECRYPTION"}
    assert "no update of any client" in encrypted.stderr


@UNDRAWN
@pytest.mark.usefixtures("brief_training")
def test_every_algorithm_trains_and_says_its_parameters(secfed: Runner, tmp_path: Path) -> None:
    common = ("simulate", "--json", "--rounds", 2, "--clients", 4, "--dropout", 0, "--output", tmp_path)
    accuracies = {}
    for name, defaults in DEFAULTS.items():
        # With all four clients in its buffer FedBuff would be FedAvg.
        own = {"fedasync": PLAIN, "fedbuff": ("--buffer-size", 3)}.get(name, ())
        run = secfed(*common, "--algorithm", name, *own)
        assert run.exit_code == 0, run.stderr
        found = json.loads(run.stdout)
        few = {key: few for key, few in (("buffer_size", 3), ("concurrency", 4)) if key in defaults}
        assert found["algorithm"] == name and found["algorithm_parameters"] == defaults | few
        assert (found["fedavg_accuracy"] is None) == (name == "fedavg")
        assert found["max_model_difference"] < 0.2  # the adaptive ones enlarge rounding errors of small means
        accuracies[name] = found["accuracy"], found["max_model_difference"]
    assert len(set(accuracies.values())) == len(DEFAULTS)  # each does something else
    given = secfed(*common, "--algorithm", "fedavgm", "--server-momentum", 0.25, "--server-learning-rate", 2)
    assert json.loads(given.stdout)["algorithm_parameters"] == {"server_learning_rate": 2.0, "server_momentum": 0.25}
    pulled = secfed(*common, "--algorithm", "fedprox", "--mu", 2)
    assert json.loads(pulled.stdout)["algorithm_parameters"] == {"server_learning_rate": 1.0, "mu": 2.0}


@UNDRAWN
@pytest.mark.usefixtures("brief_training")
def test_fedbuff_does_not_wait_for_slow_clients_and_the_run_says_when_the_target_was_reached(
    secfed: Runner, tmp_path: Path
) -> None:
    common = ("simulate", "--json", "--clients", 8, "--dropout", 0, "--speed-spread", 1, "--output", tmp_path)
    run = secfed(*common, "--algorithm", "fedbuff", "--buffer-size", 4, "--rounds", 4, "--target", 0.2)
    assert run.exit_code == 0, run.stderr
    found = json.loads(run.stdout)
    last, reached = found["rounds"][-1], found["rounds"][found["rounds_to_target"] - 1]
    assert last["time"] < last["fedavg_time"]
    assert last["staleness"] > 0
    assert reached["accuracy"] >= 0.2
    assert found["time_to_target"] == reached["time"]
    each = [4 * (r["bytes_up_per_client"] + r["bytes_down_per_client"]) for r in found["rounds"][: reached["number"]]]
    assert found["bytes_to_target"] == sum(each)
    assert "20 % accuracy after round" in run.stderr
    assert "plain fedavg with the same clients, 8 clients a round" in run.stderr
    cut = secfed(*common, "--rounds", 2, "--deadline", 1.5, "--target", 0.999, "--threshold", 5)
    assert cut.exit_code == 0, cut.stderr
    rounds = json.loads(cut.stdout)["rounds"]
    assert [record["time"] for record in rounds] == [1.5, 3.0]
    assert all(record["survivors"] == 8 - record["late"] < 8 for record in rounds)
    assert f"clients that were late: {2 * rounds[0]['late']}" in cut.stderr
    assert "99.9 % accuracy was not reached" in cut.stderr


@UNDRAWN
@pytest.mark.usefixtures("brief_training")
def test_fedasync_needs_plain_and_the_error_names_fedbuff(secfed: Runner, tmp_path: Path) -> None:
    run = secfed("simulate", "--algorithm", "fedasync", "--rounds", 1, "--output", tmp_path)
    assert run.exit_code == 2
    assert "FedBuff" in run.stderr and "SecAgg" in run.stderr


@UNDRAWN
@pytest.mark.usefixtures("brief_training")
def test_private_fedbuff_is_calibrated_for_replaced_data(secfed: Runner, tmp_path: Path) -> None:
    run = secfed(
        "simulate", "--json", "--algorithm", "fedbuff", *DISTRIBUTED, "--clients", 8, "--buffer-size", 6,
        "--rounds", 2, "--dropout", 0, "--epsilon", 5, "--output", tmp_path,
    )  # fmt: skip
    assert run.exit_code == 0, run.stderr
    found = json.loads(run.stdout)
    wanted = dp.noise_multiplier(epsilon=5, delta=1e-5, rounds=2, adjacency="replace")
    assert found["noise_multiplier"] == pytest.approx(wanted)
    assert 4 < found["epsilon"] <= 5
    assert "its data are replaced" in run.stderr


@UNDRAWN
def test_every_option_that_has_an_effect_is_taken(secfed: Runner, tmp_path: Path) -> None:
    folder = ("--output", tmp_path, "--json", "--rounds", 1)
    many = ("--clients", 14, "--alpha", 0.5, "--threshold", 0.9, "--adversary", "malicious_server", "--clip", 4)
    assert secfed("simulate", *folder, *many, "--dropout", 0).exit_code == 0
    private = ("--clients", 8, "--epsilon", 3, "--delta", 1e-5, "--clip-norm", 1, "--sampling-rate", 1, "--dropout", 0)
    assert secfed("simulate", *folder, *PLAIN, *CENTRAL, *private).exit_code == 0
    assert secfed("simulate", *folder, *DISTRIBUTED, *private, "--threshold", 5).exit_code == 0


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("--aggregator", "tenseal"), ("'tenseal'", "'plain'", "'secagg'", "'paillier'")),
        (("--algorithm", "scaffold"), ("'scaffold'", "'fedavg'")),
        (("--speed-spread", "-1"), ("-1.0 must be a finite number from 0",)),
        (("--key-bits", "1024"), ("--key-bits", "2048")),
        (("--dataset", "imagenet"), ("'imagenet'", "'digits'", "'mnist'", "'faces'")),
        (("--adversary", "nobody"), ("'semi_honest'", "'malicious_server'")),
        (("--privacy", "local"), ("'local'", "'none'", "'central'", "'distributed'")),
        (("--epsilon", "0"), ("0.0 must be positive and finite",)),
        (("--delta", "nan"), ("nan must be above 0 and below 1",)),
        (("--delta", "1"), ("1.0 must be above 0 and below 1",)),
        (("--clip-norm", "inf"), ("inf must be positive and finite",)),
        (("--threshold", "most"), ("'most'", "fraction")),
        (("--threshold", "1.5"), ("1.5", "fraction above 0 and up to 1")),
        (("--threshold", "3/2"), ("3/2", "fraction above 0 and up to 1")),
        (("--threshold", "2/0"), ("'2/0'", "fraction")),
        (("--threshold", "0"), ("must be a number of clients",)),
        (("--clients", "0"), ("--clients",)),
        (("--rounds", "0"), ("--rounds",)),
        (("--seed", "-1"), ("--seed",)),
        (("--dropout", "1.5"), ("1.5 must be from 0 to 1",)),
        (("--dropout", "nan"), ("nan must be from 0 to 1",)),
        (("--sampling-rate", "0"), ("--sampling-rate",)),
        (("--sampling-rate", "1.1"), ("--sampling-rate",)),
        (("--clip", "nan"), ("--clip",)),
        (("--alpha", "-1"), ("--alpha",)),
    ],
)
def test_wrong_use_ends_with_exit_code_2_and_says_what_exists(
    secfed: Runner, arguments: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    run = secfed("simulate", "--json", *arguments)
    assert run.exit_code == 2
    assert run.stdout == ""
    assert all(text in run.stderr for text in texts)


def test_an_unknown_command_is_wrong_use(secfed: Runner) -> None:
    run = secfed("encrypt-everything")
    assert run.exit_code == 2 and "encrypt-everything" in run.stderr


@pytest.mark.sampled(2)
@UNDRAWN
@pytest.mark.parametrize(("threshold", "found"), [("6", 6), ("0.75", 6), ("3/4", 6), ("1.0", 8)])
def test_a_threshold_is_a_count_or_a_fraction(secfed: Runner, tmp_path: Path, threshold: str, found: int) -> None:
    run = secfed(*SMALL, "--json", "--output", tmp_path, "--rounds", 1, "--dropout", 1, "--threshold", threshold)
    assert f" {found} are needed" in run.stderr


def test_the_version_is_printed(secfed: Runner) -> None:
    run = secfed("--version")
    assert run.exit_code == 0 and run.stdout.startswith("secfed ")


def test_help_lists_the_commands_and_loads_nothing_heavy() -> None:
    code = """
import sys
sys.argv = ["secfed", "--help"]
from secfed.cli.__main__ import main
try:
    main()
finally:
    print("LOADED", sorted({"sklearn", "matplotlib", "scipy.stats", "scipy.optimize"} & set(sys.modules)))
"""
    run = run_python(code)
    assert run.returncode == 0
    assert "simulate" in run.stdout and "LOADED []" in run.stdout


def test_a_missing_package_is_named_with_the_extra_to_install() -> None:
    # One Python for all four, as starting it is most of the work. What each run has loaded goes before the next one.
    code = """
import contextlib, io, json, sys
import numpy, scipy.special, secfed
known = set(sys.modules)
sys.argv = ["secfed", "simulate", "--rounds", "1"]
found = {}
for module in ("typer", "rich", "matplotlib", "sklearn"):
    assert module not in known
    for name in set(sys.modules) - known:
        del sys.modules[name]
    sys.modules[module] = None
    from secfed.cli.__main__ import main
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            main()
    except SystemExit as ended:
        found[module] = ended.code, errors.getvalue()
print(json.dumps(found))
"""
    run = run_python(code)
    assert run.returncode == 0 and run.stderr == ""
    packages = {"typer": "typer", "rich": "rich", "matplotlib": "matplotlib", "sklearn": "scikit-learn"}
    install = (
        'is not installed; it comes with the extra "cli": in a clone of secfed, run pip install ".[cli]"; '
        'with a wheel, pip install "FILE.whl[cli]"'
    )
    assert json.loads(run.stdout) == {
        module: [1, f"secfed: {package} {install}\n"] for module, package in packages.items()
    }


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("epsilon", "--noise-multiplier", 20, "--delta", 1e-5), id="epsilon"),
        pytest.param(SMALL, id="simulate", marks=pytest.mark.slow),  # loads what draws and what has the data
    ],
)
def test_the_module_runs_as_a_program(tmp_path: Path, arguments: tuple[object, ...]) -> None:
    output = ("--output", tmp_path) if arguments[0] == "simulate" else ()
    command = [sys.executable, "-m", "secfed.cli", *map(str, (*arguments, *output)), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=SOURCE, check=False)
    assert run.returncode == 0
    assert isinstance(json.loads(run.stdout), dict)


def test_each_data_set_that_can_be_named_can_be_loaded() -> None:
    assert {dataset.value for dataset in Dataset} == set(LOADERS)
