"""`secfed simulate --data`: files of a user, what is refused in them, and how well real ones are learned."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from secfed.cli.simulation import own_data
from secfed.cli.simulation.datasets import hold_out
from secfed.errors import ConfigError
from tests.cli.runner import Runner

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("undrawn")
# Clients with the same share of each class, so that the federation learns what one place would.
EQUAL = ("--rounds", 20, "--alpha", 100, "--dropout", 0)
GOOD = [f"{i % 7},{i * i % 11},{'yes' if i % 2 else 'no'}" for i in range(20)]


@pytest.fixture
def cancer(tmp_path: Path) -> Path:
    """A CSV file with names of columns; the label comes first."""
    data = load_breast_cancer()
    lines = [",".join(["diagnosis", *(name.replace(" ", "_") for name in data.feature_names)])]
    lines += [
        ",".join([data.target_names[label], *map(repr, map(float, row))])
        for label, row in zip(data.target, data.data, strict=True)
    ]
    file = tmp_path / "cancer.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def wine(tmp_path: Path) -> Path:
    data = load_wine()
    np.savez(tmp_path / "wine.npz", features=data.data.astype(np.float32), labels=data.target)
    return tmp_path / "wine.npz"


def written(folder: Path, *lines: str) -> Path:
    file = folder / "own.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def reference(inputs: np.ndarray, labels: np.ndarray) -> float:
    """What logistic regression of scikit-learn reaches on the same test rows, with all rows in one place."""
    training, test = hold_out(labels)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(inputs[training], labels[training])
    return float(model.score(inputs[test], labels[test]))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("model", [("--model", "logistic"), ("--model", "mlp", "--hidden", 16)], ids=lambda m: m[1])
def test_a_csv_file_is_learned_as_well_as_by_logistic_regression(
    secfed: Runner, cancer: Path, tmp_path: Path, model: tuple[object, ...]
) -> None:
    own = ("--data", cancer, "--label-column", "diagnosis", *model)
    run = secfed("simulate", "--json", *own, *EQUAL, "--output", tmp_path / "run")
    assert run.exit_code == 0, run.stderr
    found = json.loads(run.stdout)
    data = load_breast_cancer()
    assert found["accuracy"] >= reference(data.data, data.target) - 0.02 > 0.95
    assert (found["dataset"], found["model"], found["clients"]) == (str(cancer), model[1], 10)
    assert found["hidden"] == (16 if model[1] == "mlp" else None)
    assert (found["features"], found["classes"]) == (30, 2)
    assert (found["training_rows"], found["test_rows"]) == (569 - 113, 113)
    assert "cancer.csv, 30 features, 2 classes; clients hold 456 rows, 113 rows are held out for the test" in run.stderr


def test_an_npz_file_is_learned_as_well_as_by_logistic_regression(secfed: Runner, wine: Path, tmp_path: Path) -> None:
    own = ("--data", wine, "--model", "logistic")
    run = secfed("simulate", "--json", *own, *EQUAL, "--output", tmp_path / "run")
    assert run.exit_code == 0, run.stderr
    found, data = json.loads(run.stdout), load_wine()
    assert found["accuracy"] >= reference(data.data, data.target) - 0.01 > 0.95
    assert (found["features"], found["classes"], found["test_rows"]) == (13, 3, 34)


def test_logistic_regression_trains_on_the_data_sets_too(secfed: Runner, tmp_path: Path) -> None:
    run = secfed("simulate", "--json", "--model", "logistic", "--clients", 13, "--rounds", 5, "--output", tmp_path)
    assert json.loads(run.stdout)["accuracy"] > 0.88


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--dataset", "digits"), "--dataset has no effect with --data"),
        (("--label-column", "labels"), "--label-column has an effect only with --data and a .csv file"),
        (("--model", "logistic", "--hidden", 8), "--hidden has no effect with --model logistic"),
        (
            ("--clients", 50),
            "wine.npz: 50 clients need at least 200 training rows, 4 each; found 144: use",
        ),
    ],
)
def test_an_option_that_does_not_fit_the_data_is_refused(
    secfed: Runner, wine: Path, tmp_path: Path, options: tuple[object, ...], text: str
) -> None:
    run = secfed("simulate", "--json", "--data", wine, *options, "--output", tmp_path / "run")
    assert run.exit_code == 2 and run.stdout == "" and text in run.stderr


def test_a_label_column_needs_own_data(secfed: Runner) -> None:
    run = secfed("simulate", "--label-column", "x")
    assert run.exit_code == 2 and "--label-column has an effect only with --data" in run.stderr


@pytest.mark.parametrize(
    ("lines", "label", "text"),
    [
        (["a,b,c", *GOOD[:9], "1,Paris,no"], None, "line 11: 'b' is 'Paris', needed a finite number"),
        (["a,b,c", *GOOD[:9], "1,inf,no"], None, "line 11: 'b' is 'inf', needed a finite number"),
        (["a,b,c", *GOOD[:9], "1,,no"], None, "line 11: the value of 'b' is missing (found '')"),
        (["a,b,c", *GOOD[:9], "NaN,1,no"], None, "line 11: the value of 'a' is missing (found 'NaN')"),
        (["a,b,c", *GOOD[:9], "1,1,"], None, "line 11: the label is missing"),
        (["1,NA,yes", *GOOD], None, "line 1: the value of 'column 2' is missing (found 'NA')"),
        (["a,b,c", *GOOD, "1,no"], None, "line 22: found 2 values, needed 3"),
        (["a,b,c", *GOOD], "d", "has no column 'd'; found a, b, c"),
        (["a,b,b", *GOOD], "b", "found 2 columns 'b', needed one"),
        (["c,0", *(f"yes,{i}" for i in range(9))], "c", "found 1 class in 9 rows, needed at least 2"),
        (["a,b,c", *GOOD[:8]], None, "class 'no' has 4 rows, needed at least 5"),
        (["a,b,c", *(f"1,2,{i / 8}" for i in range(9))], None, "found 9 classes in all: is the label a class?"),
        ([",a,c", *GOOD], None, "column 1 has no name. If pandas wrote its index there"),
        (["c", *(line[-2:] for line in GOOD)], None, "has no column next to the label"),
        (["a,b,c"], None, "has the names of columns and no rows"),
    ],
)
def test_a_csv_file_that_cannot_be_used_is_refused_and_the_place_is_named(
    tmp_path: Path, lines: list[str], label: str | None, text: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        own_data.read(written(tmp_path, *lines), label)
    assert text in str(refused.value) and "own.csv" in str(refused.value)


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"x": np.ones((9, 2)), "y": np.ones(9)}, "holds the arrays x, y; needed features and labels"),
        ({"features": np.ones(9), "labels": np.ones(9)}, "features has shape (9,) and dtype float64; needed numbers"),
        ({"features": np.full((9, 2), "a"), "labels": np.ones(9)}, "dtype <U1; needed numbers"),
        ({"features": np.ones((9, 2)), "labels": np.ones(8)}, "labels has shape (8,), needed (9,)"),
        ({"features": np.diag([1.0, np.nan, 1.0]), "labels": np.ones(3)}, "features[1, 1] is nan"),
        ({"features": np.ones((9, 2)), "labels": np.full(9, np.inf)}, "labels[0] is inf, needed a finite number"),
        ({"features": np.ones((9, 2)), "labels": np.ones(9)}, "found 1 class in 9 rows"),
    ],
)
def test_an_npz_file_that_cannot_be_used_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], text: str) -> None:
    np.savez(tmp_path / "own.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as refused:
        own_data.read(tmp_path / "own.npz")
    assert text in str(refused.value)


def test_a_file_that_is_not_there_or_of_another_kind_is_wrong_use(secfed: Runner, tmp_path: Path) -> None:
    for name, text in (("absent.csv", "cannot be read: No such file"), ("own.txt", "needed .csv or .npz")):
        run = secfed("simulate", "--data", tmp_path / name, "--output", tmp_path / "run")
        assert run.exit_code == 2 and text in run.stderr and "Traceback" not in run.stderr
    (tmp_path / "own.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="is not a CSV file"):
        own_data.read(tmp_path / "own.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("named", [True, False])
def test_columns_may_have_names_or_none_and_other_delimiters(tmp_path: Path, delimiter: str, named: bool) -> None:
    lines = ["\ufeffa,b,c", *GOOD] if named else GOOD
    table = own_data.read(written(tmp_path, *(line.replace(",", delimiter) for line in lines)))
    assert table.classes == ("no", "yes")
    assert table.inputs.shape == (20, 2)
    assert table.labels.tolist() == [0, 1] * 10
    np.testing.assert_array_equal(table.inputs[3], [3, 9])


def test_classes_that_are_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    assert own_data.read(written(tmp_path, *(f"1,{label}" for label in (10, 9, 2) * 5))).classes == ("2", "9", "10")


def test_columns_are_scaled_by_the_rows_of_the_clients_and_a_constant_one_is_left_out(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    labels = np.repeat([0, 1], 50)
    features = np.column_stack([1e6 + 1e3 * random.normal(size=100), labels * 2.0, np.full(100, 0.1)])
    np.savez(tmp_path / "own.npz", features=features, labels=labels.astype(np.float64))
    table = own_data.read(tmp_path / "own.npz")
    assert table.classes == ("0", "1")
    dealt = own_data.federation(table, clients=4, seed=1)
    rows = np.concatenate([inputs for inputs, _ in dealt.clients.values()])
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(rows.std(axis=0), [1, 1, 0], atol=1e-9)
    assert len(rows) == dealt.training_rows == 80 and len(dealt.test[1]) == 20
    assert not dealt.test[0][:, 2].any()


def test_rows_with_many_columns_are_scaled_to_the_norm_of_few(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    np.savez(tmp_path / "own.npz", features=random.normal(size=(40, 8, 8)), labels=np.arange(40) % 2)
    dealt = own_data.federation(own_data.read(tmp_path / "own.npz"), clients=4)
    rows = np.concatenate([inputs for inputs, _ in dealt.clients.values()])
    assert rows.shape[1] == 64
    assert (rows**2).sum(axis=1).mean() == pytest.approx(32)


@pytest.mark.slow
def test_the_page_makes_tables_that_its_commands_take(tmp_path: Path, secfed: Runner) -> None:
    page = (ROOT / "docs" / "command-line.md").read_text().partition("## Own data")[2]
    make, train = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[:2]
    [program] = re.findall(r'^python -c "\n(.*)"$', make, re.MULTILINE | re.DOTALL)
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path).returncode == 0
    commands = [shlex.split(line) for line in train.replace("\\\n", " ").splitlines()]
    for command, features, rounds in zip(commands, (30, 64), (10, 1), strict=True):
        file = tmp_path / command[command.index("--data") + 1]
        options = [str(file) if option == file.name else option for option in command[1:]]
        run = secfed(*options, "--rounds", rounds, "--json", "--output", tmp_path / "run")
        assert run.exit_code == 0, run.stderr
        assert json.loads(run.stdout)["features"] == features
        if "--privacy" not in options:
            assert json.loads(run.stdout)["accuracy"] > 0.9
