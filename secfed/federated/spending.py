"""What a training run may spend on privacy: checked before each round, recorded after it."""

from secfed.dp.accountant import Accountant
from secfed.dp.checks import check_budget
from secfed.dp.events import Adjacency, Event, check_adjacency
from secfed.dp.ledger import Ledger
from secfed.dp.ledger.records import Entry
from secfed.dp.rounding import exact, up
from secfed.errors import BudgetExceededError, ConfigError

Budget = tuple[float, float]


class Spending:
    """An accountant with an optional limit and an optional ledger.

    Args:
        adjacency: `"add_remove"` or `"replace"`; None is the ledger's, or `"add_remove"`.
        budget: Epsilon and delta that all rounds together may spend.
        ledger: Records rounds, and refuses those that would overspend its budget. The accountant then has everything
            that the ledger records as spent, including other programs' spending.
        accountant: What was released before, if there is no ledger. It is copied.

    Raises:
        ConfigError: The budget is out of range, the adjacency differs from that of the ledger or accountant, or both a
            ledger and an accountant are given.
    """

    def __init__(
        self,
        adjacency: Adjacency | None,
        budget: Budget | None,
        ledger: Ledger | None,
        accountant: Accountant | None = None,
    ) -> None:
        if budget is not None:
            if not (isinstance(budget, tuple) and len(budget) == 2):
                raise ConfigError(f"budget {budget!r} must be (epsilon, delta)")
            check_budget(*budget)
        if ledger is not None and accountant is not None:
            raise ConfigError("found a ledger and an accountant, needed only one: a ledger records what was spent")
        if accountant is not None and not isinstance(accountant, Accountant):
            raise ConfigError(f"accountant {accountant!r:.100} must be a dp.Accountant")
        for name, source in (("ledger", ledger), ("accountant", accountant)):
            if source is not None and adjacency not in (None, source.adjacency):
                raise ConfigError(f"adjacency {adjacency!r} is not that of the {name}, {source.adjacency!r}")
        check_adjacency(accountant.adjacency if accountant else adjacency or "add_remove")
        self._budget, self._ledger, self._adjacency = budget, ledger, adjacency
        self._accountant = accountant.copy() if accountant else Accountant(adjacency or "add_remove")
        self._entry: Entry | None = None

    def accountant(self) -> Accountant:
        """Return an accountant of what has been released: a copy, or what the ledger says now."""
        return self._ledger.accountant() if self._ledger else self._accountant.copy()

    def saved(self) -> Accountant | None:
        """Return what a resumed run needs to know; None with a ledger, which has it."""
        return None if self._ledger else self._accountant.copy()

    def resume(self, before: Accountant | None) -> None:
        """Continue from what `saved` returned in an earlier run, so that earlier spending still counts.

        Raises:
            ConfigError: Only one of the two runs has a ledger; the adjacency differs; or this accountant has spent
                something else.
        """
        if self._ledger:
            if before is not None:
                raise ConfigError("the state was saved without a ledger: this ledger does not know what was spent")
            return
        if before is None:
            raise ConfigError("the state was saved with a ledger, found none: pass the ledger, it has what was spent")
        own = dict(self._accountant.events)
        if own and self._accountant.adjacency == before.adjacency:
            if all(own.get(event, 0) >= count for event, count in before.events):
                return  # the same run, or one that already has these events
        elif not own and self._adjacency in (None, before.adjacency):
            self._accountant = before.copy()
            return
        raise ConfigError(
            "the state's accountant cannot be used: this training has another adjacency, or has spent something else"
        )

    @property
    def delta(self) -> float | None:
        """The budget's delta, or else the ledger's."""
        return self._budget[1] if self._budget else self._ledger.delta if self._ledger else None

    def reserve(self, worst: Event, label: str) -> None:
        """Reserve a round's worst case before anything is drawn.

        Raises:
            BudgetExceededError: It would overspend; nothing is recorded.
        """
        if self._budget:
            limit, delta = self._budget
            epsilon = self.accountant().compose(worst).epsilon(delta)
            if not epsilon <= limit:
                raise BudgetExceededError(
                    f"after {label} epsilon {up(epsilon, 6)} at delta {exact(delta)} could be spent, the budget is "
                    f"{exact(limit)}: nothing was drawn or sent",
                    epsilon,
                    limit,
                )
        self._entry = self._ledger.reserve(worst, label=label) if self._ledger else None

    def cancel(self) -> None:
        """Cancel the reservation: nothing was released."""
        if self._ledger and self._entry:
            self._ledger.cancel(self._entry)
        self._entry = None

    def commit(self, event: Event) -> None:
        """Record what was released."""
        self._accountant.compose(event)
        if self._ledger and self._entry:
            self._ledger.commit(self._ledger.amend(self._entry, event))
        self._entry = None
