"""Callbacks during training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from secfed.errors import ConfigError
from secfed.federated.report import RoundReport
from secfed.federated.results import LocalUpdate, Model
from secfed.federated.state import copied

Evaluate = Callable[[Model], Mapping[str, float]]
Callback = Callable[[RoundReport], object]
Progress = Callable[[int, int, int], object]


@dataclass(frozen=True, slots=True)
class Hooks:
    """The callbacks of one training run."""

    evaluate: Evaluate | None
    callbacks: tuple[Callback, ...]
    progress: Progress | None

    def __post_init__(self) -> None:
        named = [("evaluate", self.evaluate), ("progress", self.progress)]
        named = [(name, hook) for name, hook in named if hook is not None]
        for name, hook in [*named, *(("callbacks", callback) for callback in self.callbacks)]:
            if not callable(hook):
                raise ConfigError(f"{name}: found {hook!r:.100}, needed a function")

    def metrics(self, model: Model) -> dict[str, float]:
        """Evaluate a copy of the model."""
        return {name: float(value) for name, value in self.evaluate(copied(model)).items()} if self.evaluate else {}

    def watched(self, local_update: LocalUpdate, number: int, cohort: tuple[int, ...]) -> LocalUpdate:
        """Return the same local training, which also reports how many clients have trained."""
        if self.progress is None:
            return local_update
        progress, place = self.progress, {client_id: count for count, client_id in enumerate(cohort, start=1)}

        def trained(model: Model, of_client: Any) -> Any:
            try:
                return local_update(model, of_client)
            finally:
                progress(number, place[of_client[0]], len(cohort))

        return trained
