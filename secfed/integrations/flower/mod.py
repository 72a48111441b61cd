"""The client's half: a Flower mod that lets the app train, and answers every stage of the protocol in its place.

Flower starts a new process for each message, so a file holds the client's side of the session between two messages
(`sessions.py`). The mod removes the file before it uses it: no request is answered twice. A message that does not
belong to this session also removes the file, and with it every secret of the round.

The checks are numbered F1 to F9, as in `docs/flower.md`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from secfed.aggregation import DistributedGaussian, Privacy, PrivateSum, Transform, WeightedMean
from secfed.aggregation.messages import PrivateSumParameters
from secfed.crypto.entropy import DerivedEntropy, SystemEntropy
from secfed.dp.noise.shares import NoiseShare
from secfed.encoding.flatten import Update
from secfed.errors import ConfigError, EncodingError, FaultyServerError, MalformedMessageError, SecFedError
from secfed.integrations.flower.entries import decrypt, entry, key_holder_number
from secfed.integrations.flower.identities import CLIENT_ID, IDENTITY, enrollment, own_identity
from secfed.integrations.flower.records import (
    ABORT,
    ENROLL,
    PAYLOAD,
    RECORD,
    SURPLUS_NOISE,
    Arrays,
    TrainRequest,
    example_of,
    numpy_arrays,
    ours,
    payload_bytes,
    stage_message,
    task_hash,
    update_of,
    value,
)
from secfed.integrations.flower.sessions import Sessions
from secfed.paillier import Noise
from secfed.paillier import Stage as PaillierStage
from secfed.secagg import Client, Policy, Stage
from secfed.secagg.identities import read_identity
from secfed.wire import HASH_BYTES, kind_of

CallNext = Callable[[Message, Context], Message]
OPENING_STAGES: Final = (Stage.ADVERTISE_KEYS.name, PaillierStage.ENCRYPTED_INPUT_COLLECTION.name)
REFUSED: Final = 6  # Flower's code for a mod whose preconditions do not hold
LOGGER = logging.getLogger("flwr")  # what the app itself writes goes there


@dataclass(frozen=True)
class SecureMod:
    """A mod for `ClientApp(mods=[SecureMod()])`: the server sees the sum of all clients' updates, never this one's.

    Args:
        policy: What this client requires, whatever the server says: fewest clients, least threshold, and so on.
        privacy: The noise that this client requires: the server's parameters must be for this `CentralGaussian` or
            `DistributedGaussian`. With the latter this client adds its share of the noise. None: no noise.
        metrics: Names of the app's training metrics that may be averaged; they are part of the secure sum, weighted
            like the update. No other metric leaves.
        weight: Name of the app's training metric that is this client's weight. It leaves only inside the secure sum. A
            weight above the server's `max_weight` counts as `max_weight`.
        evaluation_metrics: Names of the app's evaluation metrics that may leave **in the clear**, such as
            `("num-examples", "accuracy")`. Flower's strategies need the weight `num-examples` among them. Empty:
            evaluation messages are refused.
        queries: Whether query messages reach the app, whose answers leave **in the clear**.
        noise: Under Paillier encryption, the kind of noise in this client's ciphertexts; see `paillier.Client`.

    Raises:
        ConfigError: Metrics and privacy are both given: the noise does not cover metrics. Or `mods` has the class
            instead of an instance.

    Security:
        Training messages without secfed's record are refused, and so is every message that this mod does not know.
        Evaluation runs on the client's data: metrics that leave in the clear are protected by nothing.

    Source:
        `protocols/secagg/README.md`; checks F1 to F9 in `docs/flower.md`.
    """

    policy: Policy | None = None
    privacy: Privacy | None = None
    metrics: Collection[str] = ()
    weight: str = "num-examples"
    evaluation_metrics: Collection[str] = ()
    queries: bool = False
    noise: Noise = "half"

    def __post_init__(self) -> None:
        if isinstance(self.policy, Message):  # Flower called the class
            raise ConfigError("mods has the class SecureMod, needed an instance: ClientApp(mods=[SecureMod()])")
        for name in ("metrics", "evaluation_metrics"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} {getattr(self, name)!r} is one string, needed a collection of names")
        if self.metrics and self.privacy:
            raise ConfigError(f"metrics {tuple(self.metrics)} cannot leave with privacy: the noise does not cover them")
        if self.privacy and isinstance(self.privacy.clip_norm, Mapping):
            raise ConfigError("a clip_norm for each array is not supported here: needed one number for all")

    def __call__(self, message: Message, context: Context, call_next: CallNext) -> Message:
        """Answer one message; Flower calls this.

        Returns:
            The answer; or, if this client refuses, an error with Flower's code 6, whose text says why and holds no
            secret.
        """
        try:
            return self._answer(message, context, call_next)
        except SecFedError as error:
            return Message(Error(REFUSED, f"{type(error).__name__}: {error}"), reply_to=message)

    def _answer(self, message: Message, context: Context, call_next: CallNext) -> Message:
        category = message.metadata.message_type.partition(".")[0]
        record = ours(message.content)
        if category == "train" and record is not None:
            stage, session = value(record, "stage", str), value(record, "session", bytes)
            if stage == PaillierStage.DECRYPTION.name:
                opening = payload_bytes(message.content.array_records.get(PAYLOAD))
                answer = decrypt(value(record, "config", bytes), opening, context, self.policy or Policy())
                return Message(stage_message(stage, session, answer), reply_to=message)
            if stage not in (ENROLL, *OPENING_STAGES):
                return self._continue(stage, session, message, context)
        Sessions(context).forget()
        if category == "evaluate":
            return self._evaluate(message, context, call_next)
        if category == "query":
            if not self.queries:  # F7
                raise FaultyServerError("this client answers no queries: SecureMod(queries=True) allows them", "F7")
            return call_next(message, context)
        if category != "train" or record is None:  # F1
            raise FaultyServerError(
                f"a {message.metadata.message_type} message without secfed's record: this client trains for secure "
                "aggregation only; wrap the server's strategy in SecureStrategy",
                "F1",
            )
        if stage == ENROLL:
            client_id, holder = context.node_config.get(CLIENT_ID, 0), key_holder_number(context)
            identity, signature = context.node_config.get(IDENTITY), b""
            if isinstance(identity, str) and len(session) == HASH_BYTES and type(client_id) is int:
                signature = read_identity(identity).sign(enrollment(session, context.node_id, client_id, holder))
            who = {"client-id": client_id, "key-holder": holder, "signature": signature}
            return Message(RecordDict({RECORD: ConfigRecord({"stage": ENROLL, **who})}), reply_to=message)
        return self._train(stage, session, TrainRequest.from_record(record), message, context, call_next)

    def _train(
        self, stage: str, session: bytes, request: TrainRequest, message: Message, context: Context, call_next: CallNext
    ) -> Message:
        """Let the app train, and enter a session with its update."""
        opening = payload_bytes(message.content.array_records.get(PAYLOAD))
        content = RecordDict({name: entry for name, entry in message.content.items() if name not in (RECORD, PAYLOAD)})
        way = entry(stage, request, context, self.noise)
        config = way.config
        if config.hash != session:
            raise MalformedMessageError("the session is not named after its configuration", 0)
        name, record = _only(content.array_records, "array record", "the training message")
        model = numpy_arrays(record)
        transform = self._transform(request, model)
        policy = self._policy(transform)
        way.check(transform, policy)  # before time is spent on training
        transform.check_config(config)
        if config.model_hash != task_hash(message.metadata.message_type, content, {name: model}):  # F4
            raise FaultyServerError("the model or the configuration is not the one that this session is for", "F4")
        sessions = Sessions(context)
        sessions.claim_round(config.round)

        message.content = content
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        noise = SystemEntropy().draw("noise", 32)
        try:
            update, weight = _result(reply, model, request, transform)
            message.content = RecordDict()  # a large model is let go as soon as its update is there
            del content, model, reply
            vector = _encoded(transform, update, weight, noise)
        except ConfigError:  # a record or a name is missing
            raise
        except Exception as error:  # its text may say something of the data, and the answer goes to the server
            LOGGER.error("secfed: what the app's train function returned cannot be summed: %s", error)
            raise EncodingError(
                "what the app's train function returned cannot be summed; this client's own log says why"
            ) from None
        del update
        response, saved = way.enter(vector, opening, policy)
        del vector
        if saved:
            fields = {
                "malicious": getattr(config, "malicious_server", False),
                "transform": request.transform,
                "values": transform.structure.size,
                "noise": noise,
            }
            sessions.store(session, fields, saved)
        return Message(stage_message(stage, session, response), reply_to=message)

    def _continue(self, stage: str, session: bytes, message: Message, context: Context) -> Message:
        """Answer a later stage of the session."""
        request = payload_bytes(message.content.array_records.get(PAYLOAD))
        sessions = Sessions(context)
        fields, saved = sessions.take(session)  # whatever happens now, there is no second answer
        if stage == SURPLUS_NOISE and self.privacy and "survivors" in fields:
            like = np.zeros(fields["values"], np.float32)
            parameters, noise = bytes.fromhex(fields["transform"]), bytes.fromhex(fields["noise"])
            share = _noise_share(PrivateSum.from_bytes(parameters, example=like, privacy=self.privacy), noise)
            response = share.receive(request, fields["survivors"]) if share else b""
            return Message(stage_message(stage, session, response), reply_to=message)
        if not saved:  # F8
            raise FaultyServerError(f"no session of this client awaits {stage}", "F8")
        identity: dict[str, Any] = {}
        if fields["malicious"]:
            identity["signing_key"], identity["directory"] = own_identity(context)
        client = Client.from_bytes(saved, **identity)
        if stage not in (client.stage.name, ABORT):
            raise FaultyServerError(f"this client is in stage {client.stage.name}, asked for {stage}", "C2")
        response = client.receive(request)
        if client.stage < Stage.DONE:
            sessions.store(session, fields, client.to_bytes())
        elif client.stage is Stage.DONE and isinstance(self.privacy, DistributedGaussian) and self.privacy.layers > 1:
            sessions.store(session, {**fields, "survivors": len(client.survivors)})
        return Message(stage_message(stage, session, response), reply_to=message)

    def _evaluate(self, message: Message, context: Context, call_next: CallNext) -> Message:
        """Let the app evaluate, and hold back all but the metrics that may leave."""
        if not self.evaluation_metrics:  # F7
            raise FaultyServerError(
                'this client sends no evaluation: SecureMod(evaluation_metrics=["num-examples", ...]) names what may '
                "leave in the clear; or set fraction_evaluate=0.0 in the strategy",
                "F7",
            )
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        allowed = {
            name: MetricRecord({key: metrics[key] for key in metrics if key in self.evaluation_metrics})
            for name, metrics in reply.content.metric_records.items()
        }
        reply.content = RecordDict(dict(allowed))
        return reply

    def _transform(self, request: TrainRequest, model: Arrays) -> Transform:
        """Make the transform, of the kind that this client requires."""
        if odd := sorted(set(request.metrics) - set(self.metrics)):  # F6
            raise FaultyServerError(
                f"the server asks for the metrics {odd}, which must not leave this client: "
                "SecureMod(metrics=[...]) allows them",
                "F6",
            )
        if request.weight != self.weight:  # F6
            raise FaultyServerError(
                f"the server asks for the weight {request.weight!r:.80}, this client's is {self.weight!r}", "F6"
            )
        example = example_of(model, len(request.metrics))
        private = kind_of(request.transform) == PrivateSumParameters.kind
        if private is not (self.privacy is not None):  # F5
            found, needed = ("with", "without") if private else ("without", "with")
            raise FaultyServerError(
                f"the server runs {found} privacy noise, this client's SecureMod is {needed}: give both sides the same "
                "privacy",
                "F5",
            )
        if self.privacy is None:
            return WeightedMean.from_bytes(request.transform, example=example)
        return PrivateSum.from_bytes(request.transform, example=example, privacy=self.privacy)

    def _policy(self, transform: Transform) -> Policy:
        """Return the policy; with clients' noise, one that helps to unmask no sum with too little of it."""
        return (self.policy or Policy()).for_cohorts_of(transform.fewest)


def _noise_share(transform: PrivateSum, secret: bytes) -> NoiseShare | None:
    """Return this client's noise, the same again in another process; None if the server adds the noise."""
    if transform.plan is None:
        return None
    return NoiseShare(transform.plan, transform.hash, entropy=DerivedEntropy(secret))


def _encoded(transform: Transform, update: Update, weight: float, noise: bytes) -> Any:
    """Return the vector. Clipping is reported only in this client's log, because it depends on the client's data."""
    if isinstance(transform, PrivateSum):
        return transform.encode(update, weight, noise=_noise_share(transform, noise))
    if beyond := transform.beyond_clip(update):
        LOGGER.warning("secfed: %d values of this client's update were beyond the clip and were clipped", beyond)
    # A refusal would tell the server, which chooses the largest weight, that this client's is above it.
    if isinstance(transform, WeightedMean) and weight > (most := transform.fixed_point.max_weight):
        LOGGER.warning("secfed: this client's weight is above max_weight %d and counts as that", most)
        weight = most
    return transform.encode(update, weight)


def _only(records: Any, what: str, where: str) -> Any:
    """Return the name of the only record of a kind, and the record.

    Raises:
        ConfigError: There is no such record, or more than one.
    """
    if len(records) != 1:
        raise ConfigError(f"{where} has {len(records)} {what}s, needed one")
    return next(iter(records.items()))


def _result(reply: Message, model: Arrays, request: TrainRequest, transform: Transform) -> tuple[Update, float]:
    """Return the update and the weight in the app's reply.

    Raises:
        ConfigError: The reply lacks a record, an array or a metric.
        EncodingError: An array has another shape, or a metric is not a number.
    """
    where = "the reply of the app's train function"
    trained = numpy_arrays(_only(reply.content.array_records, "array record", where)[1])
    metrics = _only(reply.content.metric_records, "metric record", where)[1]
    if set(trained) != set(model):
        odd = sorted(set(trained) ^ set(model))
        raise ConfigError(f"{where} and the model differ in the arrays {odd[:3]}")
    for name, array in model.items():
        if trained[name].shape != array.shape:
            raise EncodingError(f"array {name} of {where} has shape {trained[name].shape}, needed {array.shape}")
    for name in (request.weight, *request.metrics):
        if name not in metrics:
            raise ConfigError(f"{where} has no metric {name!r}, found {sorted(metrics)}")
        if isinstance(metrics[name], list):
            raise EncodingError(f"the metric {name!r} is a list, needed a number")
    # A metric becomes a value of the update: its bound becomes the clip. It is clipped first: a quotient that overflows
    # would be refused, which would tell the server that the metric is above a limit of its choice.
    clip = transform.fixed_point.clip if isinstance(transform, WeightedMean) else 0.0
    values = [
        float(np.clip(float(metrics[name]), -bound, bound)) / bound * clip for name, bound in request.metrics.items()
    ]
    return update_of(model, trained, values), metrics[request.weight]
