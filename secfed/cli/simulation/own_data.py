"""A user's own data, read from a file and divided among clients."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from secfed.cli.npz import arrays_of
from secfed.cli.simulation.datasets import FEWEST_ROWS, TEST_STRIDE, Federation, Inputs, Labels, deal_out, hold_out
from secfed.errors import ConfigError

# The learning rate suits rows of about this squared norm, so rows with more columns are scaled down to it.
_MOST_NORM = 32
_DELIMITERS = ",;\t"
_MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
_NUMBERS = "bifu"  # kinds of numpy's dtypes: bool, int, float, unsigned


@dataclass(frozen=True)
class Table:
    """Data as they are in a file.

    Attributes:
        name: Of the file.
        inputs: Shape `(rows, features)`, finite.
        labels: The class of each row: its place in `classes`.
        classes: Names of the classes, in order.
    """

    name: str
    inputs: Inputs = field(repr=False)
    labels: Labels = field(repr=False)
    classes: tuple[str, ...]


def read(file: Path, label_column: str | None = None) -> Table:
    """Read a .csv file, or an .npz file with the arrays `features` and `labels`.

    Args:
        file: Its ending says what it is. A CSV file has commas, semicolons or tabs between values. Its first line holds
            the names of the columns, unless all values in it, apart from the label, are numbers.
        label_column: Of a CSV file: the name of the column with the class; None: the last column.

    Raises:
        ConfigError: The file cannot be read, a value is missing or not a number, or there are too few rows or classes.
    """
    ending = file.suffix.lower()
    if ending not in (".csv", ".npz"):
        raise ConfigError(f"--data {file}: found the ending {ending!r}, needed .csv or .npz")
    inputs, found = _csv(file, label_column) if ending == ".csv" else _npz(file)
    if not inputs.shape[1]:
        raise ConfigError(f"{file} has no column next to the label: needed at least one feature")
    names = sorted(set(found), key=_order)
    if len(names) < 2:
        raise ConfigError(f"{file}: found {len(names)} class in {len(found)} rows, needed at least 2")
    place = {name: number for number, name in enumerate(names)}
    labels = np.array([place[name] for name in found], np.int64)
    for name, count in zip(names, np.bincount(labels), strict=True):
        if count < TEST_STRIDE:
            rows = "1 row" if count == 1 else f"{count} rows"
            raise ConfigError(
                f"{file}: class {name!r} has {rows}, needed at least {TEST_STRIDE}, because every fifth row of a class "
                f"is held out for the test; found {len(names)} classes in all: is the label a class?"
            )
    return Table(file.name, inputs, labels, tuple(names))


def federation(table: Table, clients: int, alpha: float = 0.5, seed: int = 0) -> Federation:
    """Scale the columns, hold out every fifth row of each class, and deal the others out to clients.

    Each column gets mean 0 and standard deviation 1 on the rows of all clients. With more than 32 columns the rows are
    then scaled down to the norm that 32 columns have.

    Raises:
        ConfigError: The rows are too few for the clients, or alpha is not positive.
    """
    training, _ = hold_out(table.labels)
    if clients * FEWEST_ROWS > len(training):
        raise ConfigError(
            f"{table.name}: {clients} clients need at least {clients * FEWEST_ROWS} training rows, {FEWEST_ROWS} each; "
            f"found {len(training)}: use --clients {len(training) // FEWEST_ROWS} or fewer"
        )
    rows = table.inputs[training]
    spread = rows.std(axis=0)
    # A column with only one value has a spread of rounding errors.
    constant = spread <= 1e-12 * np.abs(rows).max(axis=0)
    inputs = (table.inputs - rows.mean(axis=0)) / np.where(constant, 1.0, spread)
    inputs[:, constant] = 0.0
    inputs *= math.sqrt(min(1.0, _MOST_NORM / inputs.shape[1]))
    return deal_out(table.name, inputs, table.labels, clients, alpha, seed)


def _npz(file: Path) -> tuple[Inputs, Sequence[str]]:
    arrays = arrays_of(file)
    if not {"features", "labels"} <= arrays.keys():
        raise ConfigError(f"{file} holds the arrays {', '.join(sorted(arrays))}; needed features and labels")
    features, labels = arrays["features"], arrays["labels"]
    if features.ndim < 2 or features.dtype.kind not in _NUMBERS:
        raise ConfigError(
            f"{file}: features has shape {features.shape} and dtype {features.dtype}; needed numbers, with a row for "
            "each example"
        )
    if labels.ndim != 1 or len(labels) != len(features):
        raise ConfigError(
            f"{file}: labels has shape {labels.shape}, needed ({len(features)},): one for each row of features"
        )
    for name, array in arrays.items():
        if name in ("features", "labels") and array.dtype.kind == "f" and not np.isfinite(array).all():
            at = tuple(int(place[0]) for place in np.nonzero(~np.isfinite(array)))
            raise ConfigError(f"{file}: {name}{list(at)} is {array[at]}, needed a finite number")
    if labels.dtype.kind == "f" and (labels == np.rint(labels)).all():
        labels = labels.astype(np.int64)
    return features.reshape(len(features), -1).astype(np.float64), [str(label) for label in labels]


def _csv(file: Path, label_column: str | None) -> tuple[Inputs, Sequence[str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            first = lines.readline()
            lines.seek(0)
            delimiter = max(_DELIMITERS, key=first.count)
            reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file} is not a CSV file: {error}") from None
    if not rows:
        raise ConfigError(f"{file} is empty: needed a row for each example")
    names, label = _columns(file, rows[0][1], label_column)
    if names == rows[0][1]:
        del rows[0]
    if not rows:
        raise ConfigError(f"{file} has the names of columns and no rows: needed a row for each example")
    for line, row in rows:
        if len(row) != len(names):
            raise ConfigError(f"{file}, line {line}: found {len(row)} values, needed {len(names)}")
    labels = [row.pop(label).strip() for _, row in rows]
    del names[label]
    for (line, _), name in zip(rows, labels, strict=True):
        if name.lower() in _MISSING:
            raise ConfigError(f"{file}, line {line}: the label is missing (found {name!r})")
    inputs = np.empty((len(rows), len(names)))
    for place, (line, row) in enumerate(rows):
        try:
            inputs[place] = [float(text) for text in row]
        except ValueError:
            inputs[place] = math.nan
        if not np.isfinite(inputs[place]).all():
            _refuse(file, line, names, row)
    return inputs, labels


def _columns(file: Path, first: list[str], label_column: str | None) -> tuple[list[str], int]:
    """Return the names of the columns and the place of the label; without a line of names they are numbered."""
    if label_column is None:
        label = len(first) - 1
    elif first.count(label_column) == 1:
        label = first.index(label_column)
    elif label_column in first:
        raise ConfigError(f"{file}: found {first.count(label_column)} columns {label_column!r}, needed one")
    else:
        raise ConfigError(f"{file} has no column {label_column!r}; found {', '.join(first)}")
    others = first[:label] + first[label + 1 :]
    if label_column is None and all(_is_number(text) for text in others):
        return [f"column {number}" for number in range(1, len(first) + 1)], label
    if any(_is_number(text) for text in others) and any(text.strip().lower() in _MISSING[1:] for text in others):
        _refuse(file, 1, [f"column {number}" for number in range(1, len(others) + 1)], others)
    if "" in others:
        raise ConfigError(
            f"{file}: column {first.index('') + 1} has no name. If pandas wrote its index there, write the file with "
            "index=False: the index is no feature"
        )
    return first, label


def _refuse(file: Path, line: int, columns: list[str], row: list[str]) -> NoReturn:
    """Name the first value of a row that is not a finite number."""
    column, text = next(pair for pair in zip(columns, row, strict=True) if not _is_number(pair[1]))
    if text.strip().lower() in _MISSING:
        raise ConfigError(f"{file}, line {line}: the value of {column!r} is missing (found {text!r})")
    raise ConfigError(f"{file}, line {line}: {column!r} is {text!r}, needed a finite number")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _order(name: str) -> tuple[Any, ...]:
    """Sort classes that are numbers by their size, before others."""
    return (0, float(name), name) if _is_number(name) else (1, 0.0, name)
