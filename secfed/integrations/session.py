"""A round between a server and sites that each have their own copy of its parameters, over any transport.

A site does not trust the server's parameters: it computes all of them again from its own `Terms` and refuses every
difference. The server chooses only the number of sites, the round's number and the seed of a public rotation.
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
    """What the sites require and the server follows: part of the application, identical on all machines.

    Args:
        aggregator: Clip, largest weight, threshold and neighbors.
        privacy: `CentralGaussian`, `DistributedGaussian` or None, in every round.
        minimum_cohort: Fewest sites in a round, and in its sum. None takes the aggregator's threshold, if that is a
            number of clients and there are no `neighbors`.

    Raises:
        ConfigError: A parameter that a site must check is missing or not allowed here.
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
                f"found adversary {aggregator.adversary!r}, needed 'semi_honest': identity keys do not work here, "
                "use secagg.Client and secagg.Server"
            )
        if aggregator.rounding_seed is not None:
            raise ConfigError("rounding_seed is for simulations in one process: sites round with fresh randomness")
        if aggregator.progress is not None:
            raise ConfigError("progress is for simulations in one process: sites answer by themselves")
        if self.privacy is None and aggregator.max_weight is None:
            raise ConfigError(
                "max_weight is None: needed the largest weight of a site, such as its number of examples, because "
                "sites do not reveal their weights in advance"
            )
        if self.privacy is not None and self.privacy.adaptive is not None:
            raise ConfigError("found adaptive clipping, needed a fixed clip_norm, which the sites check")
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
            model: What every site trains. An update has the same structure.
            clients: How many sites there are; they are numbered from 1.
            round: The training round.

        Returns:
            The transform and the configuration of the session.

        Raises:
            ConfigError: The parameters do not work for this number of sites.
            EncodingError: The model does not consist of arrays of numbers.
            TooFewSurvivorsError: There are too few sites for a private sum or, if sites are sampled, too many.
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
        """Accept a round's parameters on a site, if they match the site's own terms.

        Args:
            model: The model that the server sent to this site.
            transform_bytes: The bytes of the server's transform, from `to_bytes`.
            config_bytes: The bytes of the server's configuration, from `to_bytes`.

        Raises:
            MalformedMessageError: These bytes are not parameters.
            FaultyServerError: A parameter is not the one that this site requires.
            ConfigError: These terms do not allow a round with this number of sites.
            EncodingError: The model does not consist of arrays of numbers.
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
                f"the server's clip, weights or noise differ from this site's own terms for {clients} sites",
                "T3",
            )
        wanted = self._config(model, clients, own, config.round)
        for name in (field.name for field in fields(secagg.Config)):
            found, needed = getattr(config, name), getattr(wanted, name)
            if found != needed:
                raise FaultyServerError(
                    f"the server's session has {name} {found!r:.80}, this site's terms need {needed!r:.80}", "C4"
                )
        if objection := self.policy(own).objection(config):
            raise FaultyServerError(objection, "C4")
        return own, config

    def policy(self, transform: Transform) -> secagg.Policy:
        """Return what a site requires before it helps to unmask: enough survivors for the terms and the noise.

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
        At most one session is open; a new one erases it. The site removes its state before it uses it and puts it back
        after the answer, so a request that fails ends the session. Round numbers must increase: no round is answered
        twice. Errors go to the server, so they hold no data: they say only that `train` failed, and the site's own log
        has the details.
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
            SecFedError: The training failed, or its result is invalid.
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
                if session.round == self._last_round:  # otherwise a later round has begun
                    self._session = session
        return answer

    def _encoded(self, own: Transform, update: Update, weight: Any, share: NoiseShare | None) -> Any:
        try:
            if beyond := own.beyond_clip(update):
                _log.warning("%d of %d values were beyond the clip and were clipped", beyond, own.inner.structure.size)
            noise: dict[str, Any] = {"noise": share} if isinstance(own.inner, PrivateSum) else {}
            return own.encode(update, weight, **noise)
        except Exception:  # not sent: it may say which value is not finite, and the server chose the model
            _log.exception("the result of the training is invalid")
        raise EncodingError("the result of the training is invalid at this site; its own log says why")

    def _trained(self, model: Update, round: int) -> tuple[Update, Any]:
        try:
            update, weight = self._train(model, round)
        except Exception:
            _log.exception("the training of round %d failed", round)
        else:
            return update, weight
        # Raised outside the handler: a traceback that goes to the server then holds nothing of the first error.
        raise SecFedError(f"the training of round {round} failed at this site; its own log has the error")
