"""What does not work under secure aggregation: strategies that need single updates, and options without effect."""

from __future__ import annotations

from typing import Final

from flwr.serverapp import strategy as strategies
from flwr.serverapp.strategy import Strategy

from secfed.aggregation import DistributedGaussian, Paillier, Privacy
from secfed.errors import ConfigError

# These need each client's reply, which is impossible under secure aggregation; or they add noise that our accountant
# does not count.
SEES_SINGLE_UPDATES: Final = (
    "Bulyan", "FedMedian", "FedTrimmedAvg", "FedXgbBagging", "FedXgbCyclic", "Krum", "MultiKrum", "QFedAvg",
)  # fmt: skip
ADDS_NOISE: Final = (
    "DifferentialPrivacyClientSideAdaptiveClipping", "DifferentialPrivacyClientSideFixedClipping",
    "DifferentialPrivacyServerSideAdaptiveClipping", "DifferentialPrivacyServerSideFixedClipping",
)  # fmt: skip


def check_strategy(strategy: Strategy) -> None:
    """Refuse a strategy that cannot work on a mean.

    Raises:
        ConfigError: It needs single updates, adds noise of its own, or is no strategy.
    """
    if not isinstance(strategy, Strategy):
        raise ConfigError(f"strategy {strategy!r:.100} must be a strategy of flwr.serverapp.strategy")
    name = type(strategy).__name__
    if isinstance(strategy, tuple(getattr(strategies, one) for one in SEES_SINGLE_UPDATES if hasattr(strategies, one))):
        raise ConfigError(f"{name} needs each client's single update, which secure aggregation hides from the server")
    if isinstance(strategy, tuple(getattr(strategies, one) for one in ADDS_NOISE if hasattr(strategies, one))):
        raise ConfigError(
            f"{name} itself clips or adds noise: wrap the inner strategy and give SecureStrategy privacy="
            "secfed.CentralGaussian(...) or secfed.DistributedGaussian(...)"
        )


def check_paillier(aggregator: Paillier, privacy: Privacy | None) -> None:
    """Refuse options that have no effect, or protect nothing, when nodes hold the key.

    Raises:
        ConfigError: Such an option is set.
    """
    if aggregator.public_key is None:
        raise ConfigError("Paillier needs public_key here, and no private key: a server that has it sees every update")
    if aggregator.progress is not None:
        raise ConfigError("progress has no effect: the clients encrypt and the key holders decrypt, on their machines")
    if aggregator.noise != "half":
        raise ConfigError("noise has no effect: the clients choose it, SecureMod(noise=...)")
    if isinstance(privacy, DistributedGaussian) and privacy.layers > 1:
        raise ConfigError("layers have no effect under Paillier, clients cannot tell how many survived: needed 1")
