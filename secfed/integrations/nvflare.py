"""Secure sums and private updates inside NVFlare.

`SecureMean` runs secure aggregation over NVFlare's Collab calls: the server of a job learns the mean of the survivors'
updates and none of the updates.

What a site insists on guards against what a server *asks*. It does not guard against the code that a server *sends*:
a Collab job carries its own code to the sites. A site has to review that code, or to allow only code that it installed
itself, with NVFlare's own means (signed jobs, the site's authorization policy).
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from secfed import secagg
from secfed.aggregation import PrivateSum, SecAgg, Transform
from secfed.aggregation.privacy import Privacy
from secfed.dp.events import Event
from secfed.dp.noise.surplus import SURPLUS_NOISE
from secfed.encoding.flatten import Update
from secfed.errors import ConfigError, MissingExtraError, SecFedError
from secfed.integrations.session import Site, Terms, Train

try:
    from nvflare.collab import CollabCallError, collab
except ImportError:
    raise MissingExtraError("nvflare", "nvflare") from None

_log = logging.getLogger(__name__)

# NVFlare ends a call that is late; we go on without it a little after that, should NVFlare not.
_GRACE_SECONDS = 5.0
# Calls at a time; NVFlare itself makes 100 by default.
_MOST_CALLS = 100


@dataclass(frozen=True)
class SecureRound:
    """What one round gave.

    Attributes:
        mean: The weighted mean of the survivors' updates, with the structure of the model.
        weight: What the sum was divided by: the sum of the survivors' weights, or a public number with privacy.
        survivors: Names of the sites in the mean.
        dropouts: Of each other site the stage at which it dropped out, and why.
        event: What was released, for a `dp.Accountant`; None without privacy.
    """

    mean: Update
    weight: float
    survivors: tuple[str, ...]
    dropouts: Mapping[str, str]
    event: Event | None = None


class SecureMean:
    """A mean of the sites' updates that shows the server no update; one object at module level serves both sides.

    Args:
        aggregator: `SecAgg` with `clip` and, without privacy, `max_weight`.
        privacy: `CentralGaussian`: the server adds noise to the sum. `DistributedGaussian`: each site adds its share.
        minimum_cohort: Fewest sites in a round, and in its sum, that a site helps with; None is the aggregator's
            threshold, if that is a number of clients.
        training_seconds: How long the sites may train.
        stage_seconds: How long they may take for each of the other stages.

    Raises:
        ConfigError: The parameters do not say enough for a site to insist on, or a time is not positive.

    Security:
        As `secagg.Client` against a semi-honest server. Each site computes the parameters of a round again from its own
        copy of this object, and refuses every difference. The server knows the sites' weights by their sum only.
    """

    def __init__(
        self,
        aggregator: SecAgg,
        *,
        privacy: Privacy | None = None,
        minimum_cohort: int | None = None,
        training_seconds: float = 600.0,
        stage_seconds: float = 60.0,
    ) -> None:
        self._terms = Terms(aggregator, privacy, minimum_cohort)
        for name, seconds in (("training_seconds", training_seconds), ("stage_seconds", stage_seconds)):
            if not seconds > 0:
                raise ConfigError(f"{name} {seconds} must be positive")
        self._training_seconds, self._stage_seconds = training_seconds, stage_seconds
        self._function = ""
        self._sites: dict[str, Site] = {}
        self._lock = threading.Lock()

    def training(self, train: Train) -> Callable[..., bytes]:
        """Publish a site's training; use it as a decorator, in a module that the sites import.

        Args:
            train: `train(model, round) -> (update, weight)`: the update has the names and shapes of the model, and the
                weight, a whole number such as that of the examples, is at most `max_weight`.

        Returns:
            The function that the server calls, in place of `train`. It returns protocol messages, never an update.

        Raises:
            ConfigError: There is a training function already.
        """
        if self._function:
            raise ConfigError(f"found a second training function, needed one: {self._function} is it already")
        self._function = train.__name__

        def answer(session: bytes, request: bytes, setup: dict[str, Any] | None = None) -> bytes:
            with self._lock:  # a simulator may run several sites in one process
                site = self._sites.setdefault(collab.site_name, Site(self._terms, train))
            return site.receive(session, request) if setup is None else site.join(session, request, **setup)

        answer.__name__ = train.__name__
        published: Callable[..., bytes] = collab.publish(answer)
        return published

    def run(self, clients: Iterable[Any], model: Update, *, round: int) -> SecureRound:
        """Run one round on the server: the sites train, and their updates are summed.

        Args:
            clients: Proxies of the sites, such as `collab.clients`.
            model: What they train: an array, or a list or dictionary of arrays.
            round: The number of the round; sites refuse one that is not later than the last one.

        Returns:
            The mean of those that stayed until they had sent their masked update.

        Raises:
            ConfigError: Parameters that do not fit so many sites, or no training function.
            EncodingError: The model is no update.
            TooFewSurvivorsError: Too many sites dropped out; its notes say why.
        """
        if not self._function:
            raise ConfigError("there is no training function: decorate one with `training`")
        proxies = dict(enumerate(sorted(clients, key=lambda proxy: str(proxy.name)), start=1))
        transform, config = self._terms.prepare(model, len(proxies), round)
        calls = _Calls(proxies, self._function)
        server = secagg.Server(config)
        try:
            total = self._session(server, calls, transform, model)
        except BaseException as error:
            calls.tell(server.abort("the round has ended"))  # the sites erase what they hold
            for name, reason in calls.dropouts.items():
                error.add_note(f"{name} dropped out, {reason}")
            raise
        decoded = transform.decode(total, server.survivors)
        names = {client_id: str(proxy.name) for client_id, proxy in proxies.items()}
        survivors = tuple(names[client_id] for client_id in server.survivors)
        dropouts = {name: reason for name, reason in calls.dropouts.items() if name not in survivors}
        return SecureRound(decoded.mean, decoded.weight, survivors, dropouts, decoded.event)

    def _session(self, server: secagg.Server, calls: "_Calls", transform: Transform, model: Update) -> Any:
        outbox = server.open()
        calls.session = hashlib.sha256(next(iter(outbox.values()))).digest()  # the first request has a fresh nonce
        setup = {"model": model, "transform": transform.to_bytes(), "config": server.config.to_bytes()}
        while not server.done:
            stage = server.stage
            assert stage is not None
            first = stage is secagg.Stage.ADVERTISE_KEYS
            setups = {client_id: {**setup, "client_id": client_id} for client_id in outbox} if first else {}
            seconds = self._training_seconds if first else self._stage_seconds
            calls.ask(stage.name, outbox, server.receive, seconds, setups)
            outbox = server.close_stage(stage)
        if not isinstance(transform, PrivateSum) or (surplus := transform.surplus_noise(server.survivors)) is None:
            return server.sum
        if surplus.request:
            requests = dict.fromkeys(server.survivors, surplus.request)
            calls.ask(SURPLUS_NOISE, requests, surplus.receive, self._stage_seconds, {})
        return surplus.subtract(server.sum)


@dataclass
class _Calls:
    """Calls of one function at the sites, with what they were not answered."""

    proxies: Mapping[int, Any]
    function: str
    session: bytes = b""
    dropouts: dict[str, str] = field(default_factory=dict)

    def ask(
        self,
        stage: str,
        requests: Mapping[int, bytes],
        receive: Callable[[int, bytes], object],
        seconds: float,
        setups: Mapping[int, dict[str, Any]],
    ) -> None:
        """Ask sites at the same time and take their answers as they come; who is silent or fails has dropped out."""

        def call(client_id: int) -> Any:
            function = getattr(self.proxies[client_id](timeout=seconds), self.function)
            return function(self.session, requests[client_id], setups.get(client_id))

        pool = ThreadPoolExecutor(min(len(requests), _MOST_CALLS), "secfed")
        waiting: dict[Future[Any], int] = {pool.submit(call, client_id): client_id for client_id in requests}
        try:
            for future in as_completed(list(waiting), timeout=seconds + _GRACE_SECONDS):
                client_id = waiting.pop(future)
                try:
                    receive(client_id, future.result())
                except (CollabCallError, SecFedError) as error:
                    self._drop(client_id, stage, f"{type(error).__name__}: {error}")
        except TimeoutError:
            for client_id in waiting.values():
                self._drop(client_id, stage, f"no answer within {seconds:g} s")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def tell(self, requests: Mapping[int, bytes]) -> None:
        """Send messages that nobody needs to answer."""
        for client_id, request in requests.items():
            with suppress(Exception):  # the round has failed already, and for another reason
                getattr(self.proxies[client_id](expect_result=False), self.function)(self.session, request)

    def _drop(self, client_id: int, stage: str, reason: str) -> None:
        name = str(self.proxies[client_id].name)
        self.dropouts[name] = f"{stage}: {reason}"
        _log.warning("%s dropped out, %s: %s", name, stage, reason)
