"""A round between a server and sites that each have their own copy of its parameters, over any transport.

The server's parameters are worth nothing to a site: it computes all of them again from its own `Terms` and refuses
every difference. What is left to the server is how many sites there are, which round it is, and the seed of a public
rotation.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from secfed import secagg
from secfed.aggregation import PrivateSum, SecAgg, Transform
from secfed.aggregation.announced import read_transform, with_seeds_of
from secfed.aggregation.privacy import Privacy
from secfed.dp.noise import NoiseShare
from secfed.encoding.flatten import Update, model_hash
from secfed.errors import ConfigError, EncodingError, FaultyServerError, SecFedError, StageError, TooFewSurvivorsError

Train = Callable[[Update, int], tuple[Update, float]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """What the sites require and the server follows: part of the application, the same on all machines.

    Args:
        aggregator: Clip, largest weight, threshold and neighbors.
        privacy: `CentralGaussian`, `DistributedGaussian` or None, in every round.
        minimum_cohort: Fewest sites in a round, and in its sum; None is the aggregator's threshold, if that is a number
            of clients and there are no `neighbors`.

    Raises:
        ConfigError: The parameters do not say enough for a site to insist on.
    """

    aggregator: SecAgg
    privacy: Privacy | None = None
    minimum_cohort: int | None = None

    def __post_init__(self) -> None:
        aggregator = self.aggregator
        if not isinstance(aggregator, SecAgg):
            raise ConfigError(f"found the aggregator {aggregator!r:.100}, needed a secfed.SecAgg")
        if aggregator.adversary != "semi_honest":
            raise ConfigError(
                f"found adversary {aggregator.adversary!r}, needed 'semi_honest': identity keys are not carried here, "
                "use secagg.Client and secagg.Server"
            )
        if aggregator.rounding_seed is not None:
            raise ConfigError("rounding_seed is for simulations in one process: sites round with fresh randomness")
        if aggregator.progress is not None:
            raise ConfigError("progress is for simulations in one process: sites answer by themselves")
        if self.privacy is None and aggregator.max_weight is None:
            raise ConfigError(
                "max_weight is None: needed the largest weight of a site, such as its number of examples, for sites "
                "do not tell their weights in advance"
            )
        if self.privacy is not None and self.privacy.adaptive is not None:
            raise ConfigError("found adaptive clipping, needed a fixed clip_norm: sites insist on it")
        fewest = aggregator.threshold if self.minimum_cohort is None else self.minimum_cohort
        if self.minimum_cohort is None and not isinstance(fewest, int | np.integer):
            raise ConfigError(
                f"threshold {fewest} is a fraction, so a server could name two sites the cohort: needed minimum_cohort "
                "too, or a threshold that is a number of clients"
            )
        if self.minimum_cohort is None and aggregator.neighbors is not None:
            raise ConfigError(
                f"with neighbors {aggregator.neighbors} the threshold counts a site's neighbors: needed minimum_cohort"
            )
        policy = aggregator.policy or secagg.Policy()
        checked = secagg.Policy(minimum_cohort=fewest)  # type: ignore[arg-type]  # it refuses what is not a whole number
        policy = policy.for_cohorts_of(checked.minimum_cohort)
        # In the aggregator, so that private sums of sampled cohorts know which sizes the sites refuse.
        object.__setattr__(self, "aggregator", replace(aggregator, policy=policy))

    def prepare(self, model: Update, clients: int, round: int) -> tuple[Transform, secagg.Config]:
        """Decide everything about one round, on the server.

        Args:
            model: What every site trains; an update looks like it.
            clients: How many sites there are; they are numbered from 1.
            round: The training round.

        Returns:
            The transform and the configuration of the session.

        Raises:
            ConfigError: Parameters that do not fit this many sites.
            EncodingError: The model is not an update.
            TooFewSurvivorsError: No private sum can be made of so few sites, or of so many, when they are sampled.
        """
        transform = self.aggregator.transform(model, clients, None, self.privacy)
        private = transform.inner
        if isinstance(private, PrivateSum) and not private.cohorts[0] <= clients <= private.cohorts[1]:
            least, most = private.cohorts
            raise TooFewSurvivorsError(f"the cohort has {clients} sites, needed {least} to {most}", clients, least)
        config = self._config(model, clients, transform, round)
        if objection := self.policy(transform).objection(config):
            raise ConfigError(f"the sites would refuse this round: {objection}")
        return transform, config

    def accept(self, model: Update, transform_bytes: bytes, config_bytes: bytes) -> tuple[Transform, secagg.Config]:
        """Take the parameters of a round on a site, if they are those that its own terms give.

        Args:
            model: The model that the server sent to this site.
            transform_bytes: What `to_bytes` of the server's transform gave.
            config_bytes: What `to_bytes` of the server's configuration gave.

        Raises:
            MalformedMessageError: These bytes are not parameters.
            FaultyServerError: A parameter is not the one that this site requires.
            ConfigError: So many sites cannot have a round under these terms.
            EncodingError: The model is not an update.
        """
        config = secagg.Config.from_bytes(config_bytes)
        clients = len(config.client_ids)
        own = self.aggregator.transform(model, clients, None, self.privacy)
        sent = read_transform(
            transform_bytes,
            example=model,
            clip=self.aggregator.clip,
            compression=self.aggregator.compression,
            privacy=self.privacy,
            scale_weights=self.aggregator.scale_weights,
        )
        own = with_seeds_of(own, sent)
        if own.to_bytes() != transform_bytes:
            raise FaultyServerError(
                f"the server's clip, weights or noise are not what this site's own terms give for {clients} sites",
                "T3",
            )
        wanted = self._config(model, clients, own, config.round)
        for name in (field.name for field in fields(secagg.Config)):
            found, needed = getattr(config, name), getattr(wanted, name)
            if found != needed:
                raise FaultyServerError(
                    f"the server's session has {name} {found!r:.80}, this site's own terms give {needed!r:.80}", "C4"
                )
        if objection := self.policy(own).objection(config):
            raise FaultyServerError(objection, "C4")
        return own, config

    def policy(self, transform: Transform) -> secagg.Policy:
        """Return what a site insists on before it helps to unmask: survivors enough for the terms and the noise.

        Args:
            transform: How updates become vectors.
        """
        return (self.aggregator.policy or secagg.Policy()).for_cohorts_of(transform.fewest)

    def _config(self, model: Update, clients: int, transform: Transform, round: int) -> secagg.Config:
        ids = range(1, clients + 1)
        return self.aggregator.config(ids, transform, round=round, model_hash=model_hash(model))


@dataclass
class _Session:
    """What a site holds between two messages."""

    token: bytes
    round: int
    client: secagg.Client
    share: NoiseShare | None


class Site:
    """One site's part: it trains, joins a session with the result, and answers the server's requests.

    Args:
        terms: What the site requires.
        train: `train(model, round) -> (update, weight)`; the update has the names and shapes of the model.

    Security:
        At most one session is open; a new one erases it. What the site holds is taken out before it is used and put
        back after the answer, so a request that fails ends the session. Rounds only go up: no round is answered twice.
        Errors go to the server, so they hold no data: of an error in `train` they tell nothing, and the site's own log
        tells all.
    """

    def __init__(self, terms: Terms, train: Train) -> None:
        self._terms, self._train = terms, train
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._last_round = -1

    def join(
        self, token: bytes, request: bytes, *, client_id: int, model: Update, transform: bytes, config: bytes
    ) -> bytes:
        """Check the parameters, train, and answer the session's first request.

        Args:
            token: What the server calls this session.
            request: The session's AdvertiseKeysRequest.
            client_id: The number of this site in the session.
            model: What to train.
            transform: The transform's public parameters.
            config: The session's configuration.

        Returns:
            The AdvertiseKeysResponse.

        Raises:
            FaultyServerError: The server asks for something other than what this site requires.
            StageError: The round is not later than the last one, or another round has begun while this site trained.
            SecFedError: The training failed, or its result does not fit.
        """
        own, accepted = self._terms.accept(model, transform, config)
        with self._lock:
            if accepted.round <= self._last_round:
                raise StageError(f"round {accepted.round} is not after round {self._last_round}: no round runs twice")
            self._last_round, self._session = accepted.round, None
        update, weight = self._trained(model, accepted.round)
        share = own.inner.noise_share() if isinstance(own.inner, PrivateSum) else None
        vector = self._encoded(own, update, weight, share)
        client = secagg.Client(accepted, client_id, vector, policy=self._terms.policy(own), copy=False)
        answer = client.receive(request)
        with self._lock:
            if self._last_round != accepted.round:
                raise StageError(f"round {self._last_round} began while this site trained for round {accepted.round}")
            self._session = _Session(token, accepted.round, client, share)
        return answer

    def receive(self, token: bytes, request: bytes) -> bytes:
        """Answer a later request of the session; after the last stage, one for surplus noise.

        Args:
            token: What the server calls the session.
            request: The message.

        Returns:
            The response; empty if the request was the server's Abort.

        Raises:
            StageError: This site has no such session, or is answering another request.
            ProtocolError: The server broke the protocol; the session has ended.
        """
        with self._lock:
            session = self._session
            if session is None or session.token != token:
                raise StageError("this site has no such session, or is answering another request of it")
            self._session = None
        before = session.client.stage
        if before is secagg.Stage.DONE and session.share:  # without a share the session was not put back
            return session.share.receive(request, len(session.client.survivors))
        answer = session.client.receive(request)
        stage = session.client.stage
        if stage is not secagg.Stage.ABORTED and (stage is not secagg.Stage.DONE or session.share):
            with self._lock:
                if session.round == self._last_round:  # else a later round has begun meanwhile
                    self._session = session
        return answer

    def _encoded(self, own: Transform, update: Update, weight: Any, share: NoiseShare | None) -> Any:
        try:
            if beyond := own.beyond_clip(update):
                _log.warning("%d of %d values were beyond the clip and were clipped", beyond, own.inner.structure.size)
            noise: dict[str, Any] = {"noise": share} if isinstance(own.inner, PrivateSum) else {}
            return own.encode(update, weight, **noise)
        except Exception:  # it may say which value is not finite, and the model that led there is the server's
            _log.exception("the result of the training does not fit")
        raise EncodingError("the result of the training does not fit at this site; its own log says why")

    def _trained(self, model: Update, round: int) -> tuple[Update, Any]:
        try:
            update, weight = self._train(model, round)
        except Exception:
            _log.exception("the training of round %d failed", round)
        else:
            return update, weight
        # Raised outside of the handler: a traceback that travels to the server then has nothing of the first error.
        raise SecFedError(f"the training of round {round} failed at this site; its own log has the error")
