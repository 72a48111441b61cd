"""The server's half: a strategy around any strategy, whose one reply is the securely aggregated mean.

`configure_train` adds the session's parameters to the inner strategy's messages; Flower sends them and returns the
first answers. `aggregate_train` runs the other stages over the grid and hands the inner strategy one reply: the model
after the mean update, the sum of the weights, and the mean of the metrics that clients allow.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from secfed.aggregation import Decoded, Paillier, Privacy, SecAgg
from secfed.dp.accountant import Accountant
from secfed.dp.checks import check_number
from secfed.dp.events import Adjacency
from secfed.dp.ledger import Ledger
from secfed.errors import ConfigError, EncodingError, ProtocolError, SecFedError, TooFewSurvivorsError
from secfed.federated.spending import Budget, Spending
from secfed.integrations.flower.checks import check_paillier, check_strategy
from secfed.integrations.flower.enrollment import NODE_CONFIG, Enrollment
from secfed.integrations.flower.records import (
    Arrays,
    example_of,
    is_summed,
    one_task,
    stepped,
)
from secfed.integrations.flower.rounds import Round, RoundReport
from secfed.paillier import Config as PaillierConfig
from secfed.paillier import PartialDecryptions, ThresholdKey
from secfed.paillier import Server as PaillierServer
from secfed.secagg import Config, Server

LOGGER = logging.getLogger("flwr")
SHOWN: Final = 3  # dropouts that an error names; all are in the log and in the report
# Of each run, which has one grid: clients join one session a round, and a run may train several times.
_LAST_ROUNDS: Final[WeakKeyDictionary[Grid, int]] = WeakKeyDictionary()


class SecureStrategy(Strategy):
    """A strategy around another: the inner one chooses nodes and steps the model, but never sees a single update.

    Args:
        strategy: Any strategy whose training step uses only the weighted mean of the replies: FedAvg, FedAvgM, FedProx,
            FedAdam, FedAdagrad, FedYogi, or your own. It gets one reply a round.
        aggregator: `secfed.SecAgg(...)`, or `secfed.Paillier(public_key=...)` where nodes hold the private key; with
            `max_weight`, the largest number of examples of a client.
        privacy: `CentralGaussian(...)`: the server adds noise to the sum; `DistributedGaussian(...)`: the clients do.
            The clients' `SecureMod` must have the same. Sampling of nodes adds no privacy to the count.
        budget: `(epsilon, delta)`: a round that could spend more ends the run before anything is sent.
        ledger: A `dp.Ledger` in which rounds are reserved and committed.
        adjacency: Which data sets `epsilon` compares; None takes that of the ledger or accountant, or `"add_remove"`.
        accountant: What was released before.
        metrics: Training metrics to average with the update, weighted like it, each with the largest absolute value
            that it can have, such as `{"train_loss": 10.0}`; larger values are clipped. The bound decides how finely
            the metric is rounded. The clients' `SecureMod` must allow each of them.
        roster: Public identity keys by client id, see `read_roster`; needed with, and only with,
            `adversary="malicious_server"`.
        key_holders: Public identity keys of the key holders by number (1 for one private key), under Paillier
            encryption. None trusts the first node that says it is one; such a node could invent the sum.
        stage_timeout: Seconds that nodes have to answer a stage after the training. Flower starts a process for each
            message, which takes 10 to 15 seconds.
        failed_rounds: How many rounds in a row may end without a mean. One more ends the run with an error.

    Raises:
        ConfigError: A parameter is out of range, the strategy needs single updates, or an option would have no effect.

    Attributes:
        reports: A `RoundReport` for each round.

    Security:
        The server learns the weighted mean and the sum of the weights, which nodes dropped out, and what the clients'
        own `SecureMod` lets through in the clear.
    """

    def __init__(
        self,
        strategy: Strategy,
        aggregator: SecAgg | Paillier,
        *,
        privacy: Privacy | None = None,
        budget: Budget | None = None,
        ledger: Ledger | None = None,
        adjacency: Adjacency | None = None,
        accountant: Accountant | None = None,
        metrics: Mapping[str, float] | None = None,
        roster: Mapping[int, bytes] | None = None,
        key_holders: Mapping[int, bytes] | None = None,
        stage_timeout: float = 120.0,
        failed_rounds: int = 0,
    ) -> None:
        check_strategy(strategy)
        if isinstance(strategy, SecureStrategy):
            raise ConfigError("the strategy is a SecureStrategy already")
        if not isinstance(aggregator, SecAgg | Paillier):
            raise ConfigError(f"aggregator {aggregator!r:.100} must be secfed.SecAgg(...) or secfed.Paillier(...)")
        if isinstance(aggregator, Paillier):
            check_paillier(aggregator, privacy)
        if aggregator.max_weight is None and not privacy:
            raise ConfigError(
                "the aggregator needs max_weight, the largest number of examples of a client: the server sees no weight"
            )
        if aggregator.rounding_seed is not None:
            raise ConfigError("rounding_seed has no effect: the clients round, each with its own randomness")
        if isinstance(aggregator, SecAgg) and aggregator.progress is not None:
            raise ConfigError("progress has no effect: the clients answer by themselves, on their machines")
        if aggregator.compression is not None or aggregator.scale_weights:
            raise ConfigError(
                f"compression {aggregator.compression!r} and scale_weights {aggregator.scale_weights} are not "
                "supported here: needed None and False"
            )
        if isinstance(aggregator.clip, Mapping) or (privacy and isinstance(privacy.clip_norm, Mapping)):
            raise ConfigError("a clip or clip_norm for each array is not supported here: needed one number for all")
        if (roster is None) is (getattr(aggregator, "adversary", "") == "malicious_server"):
            raise ConfigError('a roster of identity keys is needed with, and only with, adversary="malicious_server"')
        if key_holders is not None and not isinstance(aggregator, Paillier):
            raise ConfigError("key_holders have an effect under Paillier encryption only")
        if privacy is None and any(option is not None for option in (budget, ledger, adjacency, accountant)):
            raise ConfigError("a budget, ledger, adjacency or accountant without privacy: nothing would be protected")
        if privacy and (privacy.adaptive or privacy.sampling_rate < 1 or privacy.cohort_size or privacy.population):
            raise ConfigError(
                "privacy with an adaptive clip, sampling_rate, cohort_size or population is not supported here: the "
                "strategy samples the nodes, and no privacy is counted for that"
            )
        metrics = {
            name: check_number(f"the bound of metric {name!r}", bound) for name, bound in (metrics or {}).items()
        }
        if odd := [name for name, bound in metrics.items() if not 0 < bound < math.inf]:
            raise ConfigError(f"the bound {metrics[odd[0]]} of metric {odd[0]!r} must be above 0 and finite")
        if metrics and privacy:
            raise ConfigError(f"metrics {list(metrics)} cannot be averaged with privacy: the noise does not cover them")
        if not stage_timeout > 0:
            raise ConfigError(f"stage_timeout {stage_timeout} must be above 0")
        if failed_rounds < 0:
            raise ConfigError(f"failed_rounds {failed_rounds} must not be negative")
        self.strategy, self.aggregator, self.privacy, self.metrics = strategy, aggregator, privacy, metrics
        self.stage_timeout, self.failed_rounds = stage_timeout, failed_rounds
        self.reports: list[RoundReport] = []
        self._clip = check_number("clip", aggregator.clip)
        self._roster = dict(roster) if roster is not None else None
        self._enrollment = Enrollment(self._roster, dict(key_holders) if key_holders is not None else None)
        self._spending = Spending(adjacency, budget, ledger, accountant) if privacy else None
        self._round: Round | None = None

    @property
    def accountant(self) -> Accountant:
        """What has been released so far; a copy.

        Raises:
            ConfigError: There is no privacy.
        """
        if not self._spending:
            raise ConfigError("there is no accountant without privacy")
        return self._spending.accountant()

    def summary(self) -> None:
        """Log what protects the updates, then the inner strategy's summary."""
        LOGGER.info("\t├──> secfed: %s", self.aggregator)
        LOGGER.info("\t│\t└── privacy: %s", self.privacy or "none")
        self.strategy.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Add a session to the inner strategy's training messages.

        Args:
            server_round: The round's number.
            arrays: The model.
            config: What the app tells its clients.
            grid: Where messages go.

        Returns:
            One message for each node, each with a content of its own.

        Raises:
            ConfigError: A session cannot have this number of nodes, or the messages do not fit secure aggregation.
            BudgetExceededError: The round could overspend; nothing has been sent.
        """
        if interrupted := self._round:  # before any answer was taken: nothing was opened
            self._round = None
            self._settle(interrupted)
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        if not messages:
            return []
        arrays_name, model, task = one_task(messages)
        nodes = self._client_ids(messages, grid, server_round)
        report = RoundReport(server_round, tuple(sorted(message.metadata.dst_node_id for message in messages)))
        report.dropouts.update(
            {node: "did not enroll: no client id of the roster" for node in report.nodes if node not in nodes.values()}
        )
        if not nodes:
            raise ConfigError(f"none of {len(report.nodes)} nodes is a client of the roster, needed {NODE_CONFIG}")
        fewest = getattr(self.privacy, "minimum_survivors", None) or 0
        if len(nodes) < fewest:
            raise ConfigError(
                f"the round has {len(nodes)} nodes, privacy with minimum_survivors {fewest} needs as many"
            )
        example = example_of(model, len(self.metrics))
        if not example["arrays"]:
            raise ConfigError("the model has no floating-point array: there is nothing to average")
        number = _LAST_ROUNDS[grid] = max(server_round, _LAST_ROUNDS.get(grid, 0) + 1)
        try:
            prepared = self.aggregator.prepare(example, nodes, privacy=self.privacy)
            session = self.aggregator.config(nodes, prepared.transform, round=number, model_hash=task)
        except (ConfigError, TooFewSurvivorsError) as error:
            if len(nodes) == len(report.nodes):
                raise
            self.reports.append(report)  # nodes that did not enroll are missing, as in any failed round
            self._fail(report, error)
            return []
        server = self._server(session)
        if self._spending and prepared.worst_event:  # last, for what fails afterwards would leave it set aside
            self._spending.reserve(prepared.worst_event, f"round {server_round}")
        self._round = Round(
            grid,
            node_of=nodes,
            holders=self._enrollment.holders,
            message_type=messages[0].metadata.message_type,
            arrays_name=arrays_name,
            model=model,
            prepared=prepared,
            server=server,
            report=report,
            seconds=self.stage_timeout,
        )
        return list(self._round.training_messages(messages, self._weight, self.metrics))

    @property
    def _weight(self) -> str:
        """Name of the metric that is the weight."""
        return str(getattr(self.strategy, "weighted_by_key", "num-examples"))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Run the session's other stages, and let the inner strategy step with the mean.

        Args:
            server_round: The round's number.
            replies: The answers to the training messages.

        Returns:
            The inner strategy's model and metrics; two None if the round failed and may fail.

        Raises:
            TooFewSurvivorsError: Too few nodes are left, for more than `failed_rounds` rounds in a row. Its notes say
                why nodes dropped out.
            ProtocolError: A node ended the session, likewise.
            EncodingError: What came out is not a sum of encoded vectors, likewise: a node sent something else.
        """
        round, self._round = self._round, None
        if round is None:
            return self.strategy.aggregate_train(server_round, [])
        report = round.report
        self.reports.append(report)
        try:
            for reply in replies:
                round.take(round.opening, reply.metadata.src_node_id, reply)
            decoded = round.decoded()
        except (ProtocolError, EncodingError) as error:
            self._settle(round)
            round.abort()
            self._fail(report, error)
            return None, None
        except BaseException:
            self._settle(round)
            with suppress(Exception):  # there is another error already
                round.abort()
            raise
        report.event = decoded.event
        if self._spending and decoded.event:
            self._spending.commit(decoded.event)
        LOGGER.info("secfed: the mean of %d of %d nodes", len(report.survivors), len(report.nodes))
        arrays, metrics = self.strategy.aggregate_train(server_round, [self._reply(round, decoded)])
        return _like(round.model, arrays), metrics

    def _fail(self, report: RoundReport, error: SecFedError) -> None:
        """Report a round without a mean; raise its error if too many in a row were such."""
        report.failure = f"{type(error).__name__}: {error}"
        for node, why in list(report.dropouts.items())[:SHOWN]:
            error.add_note(f"node {node} dropped out: {why}")
        if (more := len(report.dropouts) - SHOWN) > 0:
            error.add_note(f"and {more} more nodes")
        LOGGER.error("secfed: round %d has no mean, the model stays as it was: %s", report.round, error)
        recent = self.reports[-self.failed_rounds - 1 :]
        if len(recent) > self.failed_rounds and all(one.failure for one in recent):
            raise error

    def _settle(self, round: Round) -> None:
        """Give back what was set aside for a round that failed; if the server saw the sum, it is spent."""
        worst = round.prepared.worst_event
        if not self._spending or not worst:
            return
        # Clients that add the noise may have opened the sum already: late answers still reach Flower's server.
        if round.server.done or (round.asked_to_open and getattr(round.prepared.transform, "plan", None)):
            self._spending.commit(worst)
        else:
            self._spending.cancel()

    def _reply(self, round: Round, decoded: Decoded) -> Message:
        """Return the one reply that the inner strategy sees."""
        metrics: dict[str, Any] = {self._weight: float(decoded.weight)}
        if self.metrics:
            values = zip(self.metrics.items(), decoded.mean["metrics"], strict=True)
            metrics |= {name: float(found) * bound / self._clip for (name, bound), found in values}
        content = RecordDict({round.arrays_name: stepped(round.model, decoded.mean), "metrics": MetricRecord(metrics)})
        return Message(content, round.report.survivors[0], round.message_type)

    def _client_ids(self, messages: list[Message], grid: Grid, server_round: int) -> dict[int, int]:
        """Return the nodes of a round by client id: numbered from 1, or by the roster."""
        nodes = sorted(message.metadata.dst_node_id for message in messages)
        if len(set(nodes)) < len(nodes):
            raise ConfigError("the strategy sends a node two training messages, needed one for each")
        message_type = messages[0].metadata.message_type
        if isinstance(self.aggregator, Paillier):
            self._enrollment.ask(grid, list(grid.get_node_ids()), message_type, server_round, self.stage_timeout)
            if not self._enrollment.holders:
                raise ConfigError("no node of the federation holds the private key: name it in a node's configuration")
        if self._roster is None:
            return dict(enumerate(nodes, start=1))
        self._enrollment.ask(grid, nodes, message_type, server_round, self.stage_timeout)
        client_of = self._enrollment.client_of
        return {client_of[node]: node for node in nodes if node in client_of}

    def _server(self, session: Config | PaillierConfig) -> Server | PaillierServer:
        if isinstance(session, Config):
            return Server(session, directory=self._roster)
        key = self.aggregator.public_key if isinstance(self.aggregator, Paillier) else None
        opening = PartialDecryptions(key) if isinstance(key, ThresholdKey) else None
        return PaillierServer(session, opening=opening)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Leave it to the inner strategy; clients send what their `SecureMod` lets through."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Leave evaluation to the inner strategy."""
        return self.strategy.aggregate_evaluate(server_round, replies)


def _like(model: Arrays, arrays: ArrayRecord | None) -> ArrayRecord | None:
    """Return the inner strategy's arrays, except those that are not averaged: Flower makes floats of whole numbers."""
    if arrays is None:
        return None
    same = {name: Array(array) for name, array in model.items() if not is_summed(array)}
    return ArrayRecord({name: same.get(name, array) for name, array in arrays.items()})
