"""The outcome of an aggregation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from secfed.aggregation.transcript import Transcript
from secfed.dp.events import Event
from secfed.encoding.flatten import Update


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The outcome of one aggregation.

    Attributes:
        mean: Weighted mean of the survivors' updates, with the structure of one update; with privacy, their noisy sum
            divided by the expected size of the cohort.
        survivors: Ids of the clients in the mean.
        dropouts: Ids of the others.
        weight: Sum of the survivors' weights; with privacy, what the sum was divided by.
        bytes_up: What each client sent, by id.
        bytes_down: What each client was sent, by id (without the model).
        seconds: Wall time of each stage, all parties together.
        transcript: What the server saw, if requested.
        event: What was released, if the aggregation was private.
        within_clip: The noisy fraction of clients whose update was within the clip, if the clip is adaptive.
    """

    mean: Update
    survivors: tuple[int, ...]
    dropouts: tuple[int, ...]
    weight: float
    bytes_up: dict[int, int] = field(repr=False)
    bytes_down: dict[int, int] = field(repr=False)
    seconds: Mapping[Any, float] = field(repr=False)
    transcript: Transcript | None = field(default=None, repr=False)
    event: Event | None = field(default=None, repr=False)
    within_clip: float | None = None
