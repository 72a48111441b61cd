"""What a user writes, and the type that each value has: `mypy --strict` reads this file, and nothing runs it.

Each `type: ignore` stands at a mistake. Strict mypy reports one that ignores nothing, so each mistake must be found.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import secfed
from secfed import dp, paillier, secagg
from secfed.aggregation import Aggregate, Transcript
from secfed.dp import Accountant, Bounds, Event, Ledger
from secfed.federated import RoundReport

Array = npt.NDArray[np.float64]

# A weighted mean. It has the structure of one update, which a type cannot follow.
updates = [{"weights": np.ones((3, 2)), "bias": np.zeros(2)} for _ in range(5)]
result = secfed.SecAgg(threshold=2 / 3, clip=4.0).aggregate(
    updates, [1, 2, 3, 4, 5], dropouts={3: secagg.Stage.UNMASKING}
)
assert_type(result, Aggregate)
assert_type(result.mean, Any)
assert_type(result.survivors, tuple[int, ...])
assert_type(result.weight, float)
assert_type(result.bytes_up, dict[int, int])
assert_type(result.transcript, Transcript | None)
assert_type(result.event, Event | None)
assert_type(secfed.Plain().aggregate([np.ones(3)]), Aggregate)
assert_type(secfed.Paillier(key_bits=3072).aggregate({7: np.ones(3), 9: np.ones(3)}, {7: 1, 9: 2}), Aggregate)
secfed.SecAgg(minimum=3)  # type: ignore[call-arg]
secfed.SecAgg(threshold="most")  # type: ignore[arg-type]
secfed.SecAgg(adversary="malicious")  # type: ignore[arg-type]
secfed.SecAgg(neighbors=2.5)  # type: ignore[arg-type]
secfed.SecAgg().aggregate(5)  # type: ignore[arg-type]
secfed.SecAgg().aggregate(updates, privacy=1.0)  # type: ignore[arg-type]
result.mean = np.zeros(3)  # type: ignore[misc]
print(result.survivor)  # type: ignore[attr-defined]


# Training.
def local_update(model: Array, data: tuple[Array, Array]) -> tuple[Array, float]:
    x, y = data
    return -0.3 * x.T @ (x @ model - y) / len(y), len(y)


def without_weight(model: Array, data: Array) -> Array:
    return model - data


privacy = secfed.DistributedGaussian(clip_norm=1.0, noise_multiplier=1.0)
training = secfed.FedAvg(local_update, aggregator=secfed.SecAgg(), privacy=privacy)
reports = training.rounds(np.zeros(3), [(np.ones((2, 3)), np.ones(2))], count=3, sampling_rate=0.5)
assert_type(training, secfed.FedAvg)
assert_type(reports, Iterator[RoundReport])
for report in reports:
    assert_type(report.number, int)
    assert_type(report.survivors, tuple[int, ...])
    assert_type(report.aggregate, Aggregate | None)
    assert_type(report.accountant, Accountant | None)
    assert_type(report.metrics, dict[str, float])
    report.accountant.epsilon(1e-5)  # type: ignore[union-attr]
secfed.FedAvg(without_weight, aggregator=secfed.SecAgg())  # type: ignore[arg-type]
secfed.FedAvg(local_update, aggregator=secfed.SecAgg)  # type: ignore[arg-type]
secfed.FedAvg(local_update, aggregator=secfed.SecAgg(), privacy=dp.Gaussian(1.0))  # type: ignore[arg-type]
training.rounds(np.zeros(3), [], count=2.5)  # type: ignore[arg-type]

# Budgets.
accountant = dp.Accountant().compose(dp.PoissonSampled(0.01, dp.Gaussian(noise_multiplier=1.1)), count=1000)
assert_type(accountant, Accountant)
assert_type(accountant.epsilon(1e-5), float)
assert_type(accountant.epsilon(delta=1e-5, bounds=True), Bounds)
assert_type(accountant.epsilon(delta=1e-5, bounds=True).upper, float)
assert_type(accountant.delta(1.0, bounds=True), Bounds)
assert_type(accountant.true_positive_rate(0.01), float)
assert_type(accountant.remaining_rounds(dp.Gaussian(1.0), epsilon=2.0, delta=1e-5), int)
assert_type(dp.noise_multiplier(epsilon=3.0, delta=1e-5, sampling_rate=0.01, rounds=1000), float)
assert_type(dp.rounds(epsilon=3.0, delta=1e-5, sampling_rate=0.01, noise_multiplier=1.0), int)
assert_type(accountant.epsilon(1e-5, bounds=True), float)  # type: ignore[assert-type]
accountant.epsilon(1e-5, True)  # type: ignore[call-overload]
accountant.compose(1.1)  # type: ignore[arg-type]
dp.Accountant(adjacency="remove_one")  # type: ignore[arg-type]
dp.noise_multiplier(3.0, 1e-5)  # type: ignore[call-arg]

ledger = dp.Ledger.create(Path("budget.sqlite"), epsilon=3.0, delta=1e-5)
assert_type(ledger, Ledger)
assert_type(ledger.spent(), float)
assert_type(ledger.accountant(), Accountant)
assert_type(ledger.remaining_rounds(dp.Gaussian(1.0)), int)
ledger.record(1.0)  # type: ignore[arg-type]

# The protocol over a transport of the user's own.
config = secagg.Config(client_ids=[1, 2, 3], threshold=2, length=10, modulus_bits=32)
server = secagg.Server(config)
client = secagg.Client(config, 1, np.ones(10, np.uint32))
outbox = server.open()
assert_type(outbox, dict[int, bytes])
assert_type(client.receive(outbox[1]), bytes)
assert_type(server.receive(1, b""), bool)
assert_type(server.close_stage(), dict[int, bytes])
assert_type(server.done, bool)
assert_type(server.sum, npt.NDArray[np.unsignedinteger[Any]])
assert_type(server.survivors, tuple[int, ...])
assert_type(client.stage, secagg.Stage)
assert_type(secagg.parameters(clients=1000, corrupt_fraction=0.05, dropout_fraction=0.05), secagg.Parameters)
assert_type(secagg.Client.from_bytes(client.to_bytes()), secagg.Client)
server.receive(b"", 1)  # type: ignore[arg-type]
client.receive("text")  # type: ignore[arg-type]
secagg.Config(client_ids=[1, 2, 3], threshold=2, size=10)  # type: ignore[call-arg]
print(server.sums)  # type: ignore[attr-defined]
paillier.Client()  # type: ignore[call-arg]
print(secfed.SecAggregation)  # type: ignore[attr-defined]
print(secfed.aggregation.WeightedMeans)  # type: ignore[attr-defined]
