"""What `secfed serve` does with the sum: it writes the mean once and accounts for its noise."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secfed.cli.npz import write_arrays
from secfed.errors import ConfigError, FaultyServerError, MalformedMessageError, SecFedError

if TYPE_CHECKING:
    from secfed.aggregation import Privacy, SecAgg, Transform
    from secfed.dp import Event, Ledger
    from secfed.dp.ledger.records import Entry
    from secfed.transport import Driver, Store


class Release:
    """The result of one session, on its way to a file.

    The server's noise is drawn once: two noisy copies of one sum would reveal more than the budget says. So the server
    first writes the mean to a file next to the output, then records the release in the state, then gives the file its
    name. If it is killed in between, it goes on from there and draws nothing.

    Args:
        file: Where the mean is written.
        driver: The session.
        transform: How its vectors encode updates.
        delta: Delta at which the epsilon of a private sum is reported if there is no ledger.
        ledger: Where the release of a private sum is recorded.

    Raises:
        BudgetExceededError: The ledger has no room for this sum. No client has been asked for anything.

    Attributes:
        found: What is reported about the session, once it is over.
    """

    def __init__(
        self, file: Path, driver: "Driver", transform: Any, *, delta: float, ledger: "Ledger | None" = None
    ) -> None:
        self._file, self._driver, self._transform = file, driver, transform
        self._delta, self._ledger = delta, ledger
        self._part = file.with_name(file.name + ".part")
        self.found: dict[str, Any] = {}
        self._label = f"round {driver.parameters.config.round} of session {driver.parameters.session.hex()}"
        if ledger and self._entry() is None:
            ledger.reserve(transform.inner.worst_event, label=self._label)

    def finish(self) -> None:
        """Account for the sum and write the mean, unless that was done before a restart.

        Raises:
            SecFedError: The file cannot be written, or the mean was released but its file is gone.
        """
        driver = self._driver
        if driver.failure:
            self._give_back()
            return
        from secfed.aggregation import PrivateSum

        private = isinstance(self._transform.inner, PrivateSum)
        if private and (note := driver.released) is not None:
            self.found = json.loads(note)
            if not self._part.exists() and not self._file.exists():
                raise SecFedError(
                    f"the mean of this session was released to {self.found['output']}, but is not there: noise is "
                    "drawn only once"
                )
        else:
            self._write(private)
        try:
            if self._part.exists():
                os.replace(self._part, self._file)
        except OSError as error:
            raise SecFedError(f"cannot write {self._file}: {error.strerror}") from None

    def _write(self, private: bool) -> None:
        driver, transform = self._driver, self._transform
        survivors = list(driver.survivors)
        event = transform.inner.event(len(survivors)) if private else None
        if event is not None:
            self._spend(event)
        decoded = transform.decode(driver.sum, survivors)
        try:
            write_arrays(self._part, decoded.mean)
        except OSError as error:
            raise SecFedError(f"cannot write {self._part}: {error.strerror}") from None
        self.found = {
            "output": str(self._file),
            "survivors": survivors,
            "dropouts": list(driver.dropouts),
            "weight": decoded.weight,
            "refused": len(driver.faults),
            **({} if event is None else self._told(event)),
        }
        if private:
            driver.release(json.dumps(self.found).encode())

    def _told(self, event: "Event") -> dict[str, Any]:
        """Return what a release spends, and with a ledger the total spent."""
        from secfed.dp import Accountant

        ledger = self._ledger
        accountant = Accountant(adjacency=ledger.adjacency) if ledger else Accountant()
        accountant.compose(event)
        delta = ledger.delta if ledger else self._delta
        told = {"epsilon": accountant.epsilon(delta), "delta": delta, "adjacency": accountant.adjacency}
        return {**told, "spent": ledger.spent(), "budget": ledger.epsilon} if ledger else told

    def _entry(self) -> "Entry | None":
        """Return the ledger's entry for this session."""
        entries = self._ledger.entries() if self._ledger else ()
        return next((entry for entry in entries if entry.label == self._label), None)

    def _spend(self, event: "Event") -> None:
        if self._ledger and (entry := self._entry()) and entry.state == "reserved":
            self._ledger.commit(self._ledger.amend(entry, event))

    def _give_back(self) -> None:
        """Cancel the reservation if there never was a masked sum; otherwise it stays spent."""
        if self._ledger and (entry := self._entry()) and entry.state == "reserved":
            if self._driver.survivors:
                self._ledger.commit(entry)
            else:
                self._ledger.cancel(entry)


def resumed(store: "Store", aggregator: "SecAgg", transform: "Transform", privacy: "Privacy | None") -> "Transform":
    """Return the transform with the public seeds of the session in a state file, if it has one.

    Seeds of rotation and compression are fresh in each process. A server that continues a session needs those that its
    clients have.
    """
    from secfed.aggregation.announced import read_transform, with_seeds_of
    from secfed.transport import SessionParameters

    if (saved := store.parameters) is None:
        return transform
    with suppress(FaultyServerError, MalformedMessageError):  # of another kind of sum: the driver refuses it
        sent = read_transform(
            SessionParameters.from_bytes(saved).transform,
            example=transform.structure.example,
            compression=aggregator.compression,
            privacy=privacy,
            scale_weights=aggregator.scale_weights,
        )
        return with_seeds_of(transform, sent)
    return transform


def open_ledger(file: Path) -> "Ledger":
    """Open a ledger that `secfed budget limit` made.

    Raises:
        ConfigError: There is no ledger at this path, or it was changed.
    """
    from secfed.dp import Ledger

    if not file.exists():
        raise ConfigError(f"the ledger {file} does not exist: make it first, with secfed budget limit")
    return Ledger.open(file)


def lines_of(found: dict[str, Any], clients: int) -> list[str]:
    """Return a description of a session, in words."""
    from secfed.dp.rounding import exact, up

    lines = [f"the mean of {len(found['survivors'])} of {clients} clients is in {found['output']}"]
    if "epsilon" in found:
        lines.append(f"this round: epsilon {up(found['epsilon'], 9)} at delta {exact(found['delta'])}")
    if "spent" in found:
        lines.append(f"spent in all: epsilon {up(found['spent'], 9)} of {exact(found['budget'])}")
    return lines
