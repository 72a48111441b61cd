"""Runs one aggregation: encode, send, sum, decode. All decisions were made before."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from secfed.aggregation.aggregate import Aggregate
from secfed.aggregation.channels import Channel, Total
from secfed.aggregation.cohort import ClientEncodingError, Updates, Weights, by_client, checked_dropouts
from secfed.aggregation.cohort_sizes import ANY_COHORT
from secfed.aggregation.private_sum import PrivateSum
from secfed.aggregation.transcript import Transcript
from secfed.aggregation.transform import Transform
from secfed.dp.events import Event
from secfed.dp.noise.shares import NoiseShare
from secfed.dp.noise.surplus import SURPLUS_NOISE, SurplusNoise
from secfed.encoding.flatten import Update
from secfed.errors import EncodingError, TooFewSurvivorsError
from secfed.secagg.stages import Stage

# Trains or fetches: returns one client's update and weight.
ResultOf = Callable[[int], tuple[Update, float]]
Reject = Callable[[int, str], None]


class ClippingWarning(UserWarning):
    """Values beyond `clip` were clipped: the mean is not that of the updates as they came in."""


@dataclass(frozen=True)
class Prepared:
    """One aggregation, ready to run; made by `prepare` of an aggregator.

    Args:
        transform: How updates become vectors, and their sum the mean.
        channel: What adds the vectors.
        clients: Ids, ascending.
        rounding: Returns the seed that decides how a client's values are rounded; None is fresh randomness.

    A run that failed may be repeated: keys, masks and noise are fresh in each run.
    """

    transform: Transform
    channel: Channel
    clients: tuple[int, ...]
    rounding: Callable[[int], bytes | None] = field(default=lambda client_id: None, repr=False)

    @property
    def private(self) -> PrivateSum | None:
        """The transform, or the one behind a compression, if it makes a private sum."""
        return self.transform.inner if isinstance(self.transform.inner, PrivateSum) else None

    @property
    def worst_event(self) -> Event | None:
        """What is released if as few clients arrive as allowed; a budget must have room for it.

        None without privacy.
        """
        return self.private.worst_event if self.private else None

    @property
    def cohorts(self) -> tuple[int, int]:
        """The smallest and the largest cohort that such a sum can have, whichever clients are sampled."""
        return self.private.cohorts if self.private else ANY_COHORT

    def check_cohort(self) -> None:
        """Check the size of the cohort.

        Raises:
            TooFewSurvivorsError: There are too few or too many clients for a private sum.
        """
        (smallest, largest), found = self.cohorts, len(self.clients)
        if not smallest <= found <= largest:
            needed = f"at least {smallest}" if found < smallest else f"at most {largest}"
            raise TooFewSurvivorsError(f"the cohort has {found} clients, needed {needed}", found, smallest)

    def run(
        self,
        updates: Updates,
        weights: Weights = None,
        *,
        dropouts: Mapping[int, Stage] | None = None,
        record: bool = False,
        stacklevel: int = 2,
    ) -> Aggregate:
        """Return the weighted mean of the updates of those clients that do not drop out.

        Args:
            updates: One update per client, as in `aggregate`.
            weights: One positive weight per client, as in `aggregate`.
            dropouts: Clients that drop out, and the first stage that they do not answer.
            record: Whether to keep a transcript of what the server saw.
            stacklevel: Which caller's line a `ClippingWarning` shows, as in `warnings.warn`.

        Raises:
            ConfigError: Parameters that do not fit the cohort.
            EncodingError: An update or weight that does not fit; nothing has been sent.
            TooFewSurvivorsError: Too many dropouts.
        """
        by_id, weight_of = by_client(updates, weights, or_nobody=not self.clients)
        if odd := sorted(set(by_id) ^ set(self.clients)):
            raise EncodingError(f"clients {odd[:5]} have an update or were prepared for, but not both")
        for client_id, update in by_id.items():
            try:
                self.transform.check(update, weight_of[client_id])
            except EncodingError as error:
                raise ClientEncodingError(client_id, str(error)) from None
        return self.run_each(
            lambda client_id: (by_id[client_id], weight_of[client_id]),
            dropouts=dropouts,
            record=record,
            stacklevel=stacklevel + 1,
        )

    def run_each(
        self,
        result_of: ResultOf,
        *,
        dropouts: Mapping[int, Stage] | None = None,
        record: bool = False,
        reject: Reject | None = None,
        stacklevel: int = 2,
    ) -> Aggregate:
        """Aggregate updates that come one at a time: at most one is in memory.

        Args:
            result_of: `result_of(client_id) -> (update, weight)`, called once for each client whose input is collected,
                by ascending id.
            dropouts: Clients that drop out, and the first stage that they do not answer.
            record: Whether to keep a transcript of what the server saw.
            reject: Called with the id and the reason of each client whose result does not fit, which then drops out;
                None ends the session with an error.
            stacklevel: Which caller's line a `ClippingWarning` shows, as in `warnings.warn`.

        Raises:
            ConfigError: Parameters that do not fit the cohort.
            EncodingError: An update or weight that does not fit, without `reject`; there is no sum.
            TooFewSurvivorsError: Too many dropouts.
        """
        self.check_cohort()
        silent = checked_dropouts(self.clients, dropouts)
        transform, private = self.transform, self.private
        shares: dict[int, NoiseShare] = {}
        beyond = encoded = 0

        def vector_of(client_id: int) -> Any:
            nonlocal beyond, encoded
            encode: Callable[..., Any] = partial(transform.encode, seed=self.rounding(client_id))
            if private and (share := private.noise_share()):
                shares[client_id] = share
                encode = partial(encode, noise=share)
            try:
                update, weight = result_of(client_id)
                vector = encode(update, weight)
            except EncodingError as error:
                if reject is None:
                    raise ClientEncodingError(client_id, str(error)) from None
                reject(client_id, str(error))
                return None
            beyond += transform.beyond_clip(update)
            encoded += 1
            return vector

        transcript = Transcript(self.channel.protection, transform, self.channel.config) if record else None
        total = self.channel.sum(vector_of, silent, transcript.record if transcript else None)
        if private and (surplus := private.surplus_noise(total.survivors)):
            total = self._without_surplus(surplus, total, shares, silent, transcript)
        if transcript:
            transcript.total, transcript.survivors = total.vector, total.survivors
        if beyond:
            text = (
                f"{beyond} of {transform.inner.structure.size * encoded} values were beyond the clip and were clipped"
            )
            warnings.warn(text, ClippingWarning, stacklevel=stacklevel)
        decoded = transform.decode(total.vector, total.survivors)
        return Aggregate(
            mean=decoded.mean,
            survivors=total.survivors,
            dropouts=total.dropouts,
            weight=decoded.weight,
            bytes_up=total.bytes_up,
            bytes_down=total.bytes_down,
            seconds=total.seconds,
            transcript=transcript,
            event=decoded.event,
            within_clip=decoded.within_clip,
        )

    def _without_surplus(
        self,
        surplus: SurplusNoise,
        total: Total,
        shares: Mapping[int, NoiseShare],
        silent: Mapping[int, Stage],
        transcript: Transcript | None,
    ) -> Total:
        """Ask the survivors for the layers of noise that are not needed, and subtract them."""
        for client_id in total.survivors if surplus.request else ():
            total.bytes_down[client_id] += len(surplus.request)
            if transcript:
                transcript.record(SURPLUS_NOISE, "to_client", client_id, surplus.request)
            if client_id in silent:
                continue
            response = shares[client_id].receive(surplus.request, len(total.survivors))
            total.bytes_up[client_id] += len(response)
            if transcript:
                transcript.record(SURPLUS_NOISE, "to_server", client_id, response)
            surplus.receive(client_id, response)
        return replace(total, vector=surplus.subtract(total.vector))
