"""Secure sums and private updates inside NVFlare.

`SecureMean` runs secure aggregation over NVFlare's Collab calls: the server of a job learns the mean of the survivors'
updates and none of the updates. `PrivateUpdates` is a filter that clips a site's update and adds noise before it leaves
the site, and stops when the site's budget is spent.

A site checks what a server *asks for*. It cannot check the code that a server *sends*: a Collab job carries its own
code to the sites. A site has to review that code, or allow only code that it installed itself, with NVFlare's own means
(signed jobs, the site's authorization policy).
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from secfed import secagg
from secfed.aggregation import PrivateSum, SecAgg, Transform
from secfed.aggregation.privacy import CentralGaussian, Privacy
from secfed.dp.accountant import Accountant
from secfed.dp.calibration import noise_multiplier
from secfed.dp.events import Event
from secfed.dp.ledger import Ledger
from secfed.dp.noise.surplus import SURPLUS_NOISE
from secfed.encoding.flatten import Update
from secfed.errors import BudgetExceededError, ConfigError, MissingExtraError, SecFedError, StageError
from secfed.integrations.session import Site, Terms, Train

try:
    from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
    from nvflare.apis.filter import Filter
    from nvflare.apis.fl_constant import ProcessType, ReturnCode
    from nvflare.apis.fl_context import FLContext
    from nvflare.apis.shareable import Shareable, make_reply
    from nvflare.collab import CollabCallError, collab
except ImportError:
    raise MissingExtraError("nvflare", "nvflare") from None

_log = logging.getLogger(__name__)

# NVFlare should end a call that is late. If it does not, we continue without the call this much later.
_GRACE_SECONDS = 5.0
# The name of the server's app in a Collab job.
_SERVER = "server"
# Calls at a time; NVFlare itself makes 100 by default.
_MOST_CALLS = 100


@dataclass(frozen=True)
class SecureRound:
    """The result of one round.

    Attributes:
        mean: The weighted mean of the survivors' updates, with the structure of the model.
        weight: What the sum was divided by: the sum of the survivors' weights, or a public number with privacy.
        survivors: Names of the sites in the mean.
        dropouts: For each other site, the stage at which it dropped out, and why.
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
        minimum_cohort: Fewest sites in a round, and in its sum; a site refuses smaller ones. None takes the
            aggregator's threshold, if that is a number of clients and there are no `neighbors`.
        training_seconds: How long the sites may train.
        stage_seconds: How long they may take for each of the other stages.

    Raises:
        ConfigError: A parameter that a site must check is missing or not allowed here, or a time is not positive.

    Security:
        Like `secagg.Client` against a semi-honest server. Each site computes a round's parameters again from its own
        copy of this object, and refuses every difference. The server learns only the sum of the sites' weights.
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
            raise ConfigError(f"found a second training function, needed one: {self._function} already is it")
        self._function = train.__name__

        def answer(session: bytes, request: bytes, setup: dict[str, Any] | None = None) -> bytes:
            site = self._site(train, collab.site_name, collab.caller)
            return site.receive(session, request) if setup is None else site.join(session, request, **setup)

        answer.__name__ = train.__name__
        published: Callable[..., bytes] = collab.publish(answer)
        return published

    def _site(self, train: Train, name: str, caller: str) -> Site:
        if caller != _SERVER:  # Collab lets sites call each other
            raise StageError(f"{caller} asks this site for its part in a sum: only the server may ask")
        with self._lock:  # a simulator may run several sites in one process
            return self._sites.setdefault(name, Site(self._terms, train))

    def run(self, clients: Iterable[Any], model: Update, *, round: int) -> SecureRound:
        """Run one round on the server: the sites train, and their updates are summed.

        Args:
            clients: Proxies of the sites, such as `collab.clients`.
            model: What they train: an array, or a list or dictionary of arrays.
            round: The number of the round; sites refuse one that is not later than the last one.

        Returns:
            The mean of those that stayed until they had sent their masked update.

        Raises:
            ConfigError: The parameters do not work for this number of sites, or there is no training function.
            EncodingError: The model does not consist of arrays of numbers.
            TooFewSurvivorsError: Too many sites dropped out; the error's notes say why.
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
        while (stage := server.stage) and not server.done:
            first = stage is secagg.Stage.ADVERTISE_KEYS
            setups = {client_id: {**setup, "client_id": client_id} for client_id in outbox} if first else {}
            seconds = self._training_seconds if first else self._stage_seconds
            calls.ask(stage.name, outbox, server.receive, seconds, setups)
            outbox = server.close_stage(stage)
        private = transform.inner
        if not isinstance(private, PrivateSum) or (surplus := private.surplus_noise(server.survivors)) is None:
            return server.sum
        if surplus.request:
            requests = dict.fromkeys(server.survivors, surplus.request)
            calls.ask(SURPLUS_NOISE, requests, surplus.receive, self._stage_seconds, {})
        return surplus.subtract(server.sum)


@dataclass
class _Calls:
    """Calls of one function at the sites, and the sites that dropped out."""

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
        """Ask sites in parallel and take answers as they arrive. A site that fails or does not answer drops out."""

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
        """Send messages that need no answer."""
        for client_id, request in requests.items():
            with suppress(Exception):  # the round has already failed, for another reason
                getattr(self.proxies[client_id](expect_result=False), self.function)(self.session, request)

    def _drop(self, client_id: int, stage: str, reason: str) -> None:
        name = str(self.proxies[client_id].name)
        self.dropouts[name] = f"{stage}: {reason}"
        _log.warning("%s dropped out, %s: %s", name, stage, reason)


class PrivateUpdates(Filter):
    """A filter on a site's result that makes its update private: it clips, adds noise, and keeps a budget.

    The unit of privacy is the site's whole update, and so all of the site's data: anyone who sees everything that the
    site releases can hardly tell its updates from any other updates (adjacency `"replace"`). This takes a lot of noise,
    because each site is protected alone. The noise averages out only over many sites. If the server may see sums,
    `SecureMean` with `DistributedGaussian` gives far better models for the same epsilon.

    Args:
        clip_norm: The update is scaled down to this Euclidean norm, all arrays together.
        epsilon: The budget of all rounds together.
        delta: The delta at which epsilon is computed.
        rounds: How many rounds the budget must last. The noise is the least that allows this.
        ledger: The site's file that records what was spent, also by earlier jobs; `{site}` stands for the site's name.
            It is created if it does not exist. A relative path starts from the site's workspace, which NVFlare's
            simulator deletes at the start of each run. None: each job has the whole budget.

    Raises:
        ConfigError: A parameter is out of range, or no noise meets the budget.

    Attributes:
        noise_multiplier: Standard deviation of the noise in each value, divided by `clip_norm`.

    Security:
        The update must be a difference (`DataKind.WEIGHT_DIFF`) of floating-point arrays. Everything else is blocked:
        NVFlare sends an error without content when a filter raises. The filter builds a new result that holds only the
        noisy update and the round's number: no metrics, and no number of examples, so the server weighs all sites
        equally. The noise is a discrete Gaussian, drawn exactly from the operating system's randomness and added to
        whole numbers. A release counts as spent before its noise is drawn. A job's author can leave out the job's
        filters; a site that does not trust the author puts this filter into its own `privacy.json`. Filters do not see
        Collab calls.
    """

    def __init__(self, clip_norm: float, epsilon: float, delta: float, rounds: int, ledger: str | None = None) -> None:
        super().__init__()
        # NVFlare writes these into the job's configuration, by the names of the parameters.
        self.clip_norm, self.epsilon, self.delta, self.rounds = clip_norm, epsilon, delta, rounds
        self.ledger = ledger
        self.noise_multiplier = noise_multiplier(epsilon=epsilon, delta=delta, rounds=rounds, adjacency="replace")
        self._privacy = CentralGaussian(clip_norm, self.noise_multiplier)
        self._lock = threading.Lock()
        self._accountant = Accountant("replace")

    def add_to_fed_job(self, job: Any, ctx: Any, **kwargs: Any) -> None:
        """Join a job; NVFlare calls this.

        Args:
            job: The `FedJob`.
            ctx: Its context.
            kwargs: What else NVFlare passes.
        """
        # Otherwise the job would carry copies of the secfed modules imported here, though the sites have secfed.
        job.set_app_packages(sorted({*job.job.app_packages, "secfed"}))
        super().add_to_fed_job(job, ctx, **kwargs)

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Return a private result that may leave the site, in place of the original.

        Args:
            shareable: The result of the site's training.
            fl_ctx: NVFlare's context, which has the site's name.

        Returns:
            The noisy update; for a failed task, only the return code.

        Raises:
            ConfigError: The result is not a weight difference, the ledger is for another budget, or this is the server.
            EncodingError: A value is not finite, or not a floating-point number.
            BudgetExceededError: The budget is spent; no noise was drawn.
        """
        if fl_ctx.get_process_type() in (ProcessType.SERVER_PARENT, ProcessType.SERVER_JOB):
            raise ConfigError("PrivateUpdates runs on the server, which has seen the update: needed on the sites")
        code = shareable.get_return_code()
        if code != ReturnCode.OK:
            return make_reply(code)
        try:
            update = from_shareable(shareable)
        except ValueError:
            raise ConfigError(
                "the result is not a DXO: needed one of kind WEIGHT_DIFF, or no filter on this task"
            ) from None
        if update.data_kind != DataKind.WEIGHT_DIFF:
            kind = getattr(update.data_kind, "value", update.data_kind)
            raise ConfigError(f"the result is of kind {kind}, needed WEIGHT_DIFF: let the sites send differences")
        arrays = {name: _array(value) for name, value in update.data.items()}
        transform = PrivateSum.of(self._privacy, arrays, clients=1)
        vector = transform.encode(arrays)  # checks every value, before anything is spent
        with self._lock:
            self._spend(transform.worst_event, str(fl_ctx.get_identity_name()))
            noisy = transform.decode(vector, (1,)).mean
        released = {name: _like(noisy[name], value) for name, value in update.data.items()}
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 1}
        if (round := update.get_meta_prop(MetaKey.CURRENT_ROUND)) is not None:
            meta[MetaKey.CURRENT_ROUND] = round
        return DXO(DataKind.WEIGHT_DIFF, released, meta).update_shareable(make_reply(ReturnCode.OK))

    def _spend(self, event: Event, site: str) -> None:
        """Count a release, or refuse it.

        Raises:
            BudgetExceededError: It would exceed the budget.
            ConfigError: The ledger is for another budget.
        """
        if self.ledger is None:
            accountant = self._accountant.copy().compose(event)
            if not (epsilon := accountant.epsilon(self.delta)) <= self.epsilon:
                raise BudgetExceededError(
                    f"with this release epsilon {epsilon:.6g} at delta {self.delta:g} would be spent, the budget is "
                    f"{self.epsilon:g}: nothing was released",
                    epsilon,
                    self.epsilon,
                )
            self._accountant = accountant
            return
        path = Path(self.ledger.replace("{site}", site))
        if path.exists():
            ledger = Ledger.open(path)
        else:
            ledger = Ledger.create(path, epsilon=self.epsilon, delta=self.delta, adjacency="replace")
        found, needed = (ledger.epsilon, ledger.delta, ledger.adjacency), (self.epsilon, self.delta, "replace")
        if found != needed:
            raise ConfigError(f"the ledger {path} is for (epsilon, delta, adjacency) {found}, needed {needed}")
        ledger.commit(ledger.reserve(event, label=f"an update of {site}"))


def _array(value: Any) -> Any:
    """Return a value of an update as an array, also a PyTorch tensor, without importing PyTorch."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def _like(array: Any, value: Any) -> Any:
    """Return an array in the type of the original value: a tensor or an array."""
    return value.new_tensor(array) if hasattr(value, "new_tensor") else array
