"""One round: local training of a cohort, aggregation, and the privacy it spends."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secfed.aggregation.aggregate import Aggregate
from secfed.aggregation.aggregator import Aggregator
from secfed.aggregation.prepared import Prepared
from secfed.aggregation.privacy import Privacy
from secfed.dp.events import PoissonSampled
from secfed.encoding.flatten import model_hash
from secfed.errors import ConfigError, EncodingError, FaultyClientError, TooFewSurvivorsError
from secfed.federated.results import LocalUpdate, Model, Results
from secfed.federated.spending import Spending
from secfed.secagg.stages import Stage

# The check of secure aggregation that ends a session because of one client before others open their shares.
BEFORE_OPENING = "S16"


@dataclass(frozen=True)
class Execution:
    """What a round needs besides its cohort.

    Attributes:
        local_update: `local_update(model, data) -> (update, weight)`: trains on one client's data from a copy of
            the model. The update has the model's structure, the weight is the number of examples. If it raises
            `EncodingError`, the client is rejected.
        aggregator: How updates become a mean: `secfed.Plain()`, `secfed.SecAgg(...)` or `secfed.Paillier(...)`.
        privacy: The privacy of this round, or None.
        spending: Where the round is reserved and committed; None without privacy.
        population: How many clients the training has.
    """

    local_update: LocalUpdate
    aggregator: Aggregator
    privacy: Privacy | None
    spending: Spending | None
    population: int

    def aggregate(
        self, number: int, model: Model, data: Mapping[int, Any], silent: Mapping[int, Stage], rejected: dict[int, str]
    ) -> Aggregate:
        """Train locally and aggregate. A client whose result is invalid is rejected and counts as a dropout.

        Args:
            number: The round's number.
            model: The current model.
            data: What `local_update` gets for each client of the cohort, by id.
            silent: Clients that drop out, and the first stage that they do not answer.
            rejected: The method adds each rejected client's id and the reason.

        Raises:
            TooFewSurvivorsError: The cohort is empty, or too few clients are left.
            FaultyClientError: A client ended the session.
            ConfigError: This cohort cannot run a session.
            EncodingError: No client returned a valid result.
            BudgetExceededError: The round could overspend; nothing was drawn or sent.
        """
        privacy, spending = self.privacy, self.spending
        if not data and not privacy:
            raise TooFewSurvivorsError("the cohort is empty", 0, 1)

        def reject(client_id: int, reason: str) -> None:
            rejected[client_id] = reason
            if len(rejected) == len(data) == self.population:  # all of them: the caller's mistake
                client_id, reason = next(iter(rejected.items()))
                raise EncodingError(f"client {client_id}: {reason}")

        results = Results(self.local_update, model, data, reject)
        weights = (results.keep_all() or [1]) if self.aggregator.needs_weights and not privacy else None
        prepared = self.aggregator.prepare(
            model, data, weights=weights, privacy=privacy, round=number, model_hash=model_hash(model)
        )
        worst = prepared.worst_event
        if spending is None or worst is None:
            return self._run(prepared, results, silent, rejected)
        spending.reserve(worst, f"round {number}")
        try:
            prepared.check_cohort()  # before anybody trains
            aggregate = self._run(prepared, results, silent, rejected)
        except TooFewSurvivorsError:
            # No sum was unmasked. That reveals nothing about the data unless the size of the cohort does, because we
            # assume that dropouts do not depend on data. A Poisson cohort's size does: its guarantee counts every
            # round.
            if isinstance(worst, PoissonSampled):
                spending.commit(worst)
            else:
                spending.cancel()
            raise
        except FaultyClientError as error:
            if error.check == BEFORE_OPENING and not isinstance(worst, PoissonSampled):
                spending.cancel()
            else:
                spending.commit(worst)
            raise
        except (ConfigError, EncodingError):  # no sum was computed
            spending.cancel()
            raise
        spending.commit(aggregate.event or worst)
        return aggregate

    def _run(
        self, prepared: Prepared, results: Results, silent: Mapping[int, Stage], rejected: Mapping[int, str]
    ) -> Aggregate:
        """Run the aggregation. If a client ends the session, run it once more without that client."""
        try:
            return self._run_once(prepared, results, silent, rejected)
        except FaultyClientError as error:
            # No second run of a private round if others had opened their shares (S12, S13): that client could help the
            # server get the sum, so the sum counts as released.
            if prepared.worst_event and error.check != BEFORE_OPENING:
                raise
            results.reject(error.client_id, f"its shares ended the session ({error.check})")
        results.again()
        return self._run_once(prepared, results, silent, rejected)

    def _run_once(
        self, prepared: Prepared, results: Results, silent: Mapping[int, Stage], rejected: Mapping[int, str]
    ) -> Aggregate:
        gone = dict.fromkeys(rejected, Stage.ADVERTISE_KEYS)
        try:
            aggregate = prepared.run_each(results.of, dropouts={**silent, **gone}, reject=results.reject)
        except (FaultyClientError, TooFewSurvivorsError, ConfigError):
            results.finish()
            raise
        results.finish()
        return aggregate
