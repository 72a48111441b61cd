"""The lines of user code that must run: the public contract of the library, word for word where it can be."""

import numpy as np
import pytest

import secfed
from secfed import dp, secagg


def test_one_off_secure_weighted_mean() -> None:
    generator = np.random.default_rng(0)
    weights = [100 * i for i in range(1, 11)]
    for updates in (
        [{"w": generator.uniform(-1, 1, (4, 3)), "b": generator.uniform(-1, 1, 3)} for _ in weights],
        [[generator.uniform(-1, 1, (4, 3)), generator.uniform(-1, 1, 3)] for _ in weights],
        [generator.uniform(-1, 1, 15) for _ in weights],
    ):
        result = secfed.SecAgg(threshold=7, clip=4.0).aggregate(updates, weights, dropouts={3: secagg.Stage.UNMASKING})
        reference = secfed.Plain().aggregate(updates, weights).mean
        assert result.survivors == tuple(range(1, 11))
        assert type(result.mean) is type(reference) is type(updates[0])
        names = updates[0] if isinstance(updates[0], dict) else range(len(updates[0]))
        for name in names:
            assert result.mean[name] == pytest.approx(reference[name], abs=4 / 2**11)


@pytest.mark.usefixtures("known_primes")
def test_mean_under_paillier_encryption() -> None:
    updates, weights = [np.full((2, 3), float(i)) for i in (1, 2, 3)], [100, 200, 300]
    result = secfed.Paillier(key_bits=3072, clip=4.0).aggregate(updates, weights)
    assert result.mean == pytest.approx(secfed.Plain().aggregate(updates, weights).mean, abs=4 / 2**11)


def test_training_under_secure_aggregation() -> None:
    def local_update(model, data):  # type: ignore[no-untyped-def]
        update, weight = data.mean(axis=0) - model, len(data)
        return update, weight

    generator = np.random.default_rng(1)
    clients = [generator.normal(1.0, 0.1, size=(20, 3)) for _ in range(12)]
    model = np.zeros(3)
    training = secfed.FedAvg(local_update, aggregator=secfed.SecAgg(threshold=2 / 3, clip=4.0))
    numbers = []
    for report in training.rounds(model, clients, count=30, sampling_rate=0.5):
        numbers.append(report.number)
        assert set(report.survivors) <= set(report.cohort)
    assert numbers == list(range(1, 31))
    assert report.model == pytest.approx([1.0, 1.0, 1.0], abs=0.2)


@pytest.mark.parametrize("count", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_training_under_secure_aggregation_and_differential_privacy(count: int) -> None:
    def local_update(model, data):  # type: ignore[no-untyped-def]
        update, weight = data.mean(axis=0) - model, len(data)
        return update, weight

    generator = np.random.default_rng(1)
    clients = [generator.normal(1.0, 0.1, size=(20, 3)) for _ in range(40)]
    training = secfed.FedAvg(
        local_update,
        aggregator=secfed.SecAgg(threshold=2 / 3, clip=4.0),
        privacy=secfed.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0),
    )
    spent, numbers = [0.0], []
    for report in training.rounds(np.zeros(3), clients, count=count, sampling_rate=0.5):
        numbers.append(report.number)
        assert set(report.survivors) <= set(report.cohort)
        if report.number in (1, count // 2, count):
            spent.append(report.accountant.epsilon(delta=1e-5))  # type: ignore[union-attr]
    assert numbers == list(range(1, count + 1))
    assert spent == sorted(set(spent))
    release = dp.PoissonSampled(0.5, dp.Gaussian(noise_multiplier=1.0))
    assert spent[-1] == pytest.approx(dp.Accountant().compose(release, count=count).epsilon(delta=1e-5), rel=1e-4)
    assert report.model == pytest.approx([1.0, 1.0, 1.0], abs=1.2)

    training = secfed.FedAvg(
        local_update,
        aggregator=secfed.SecAgg(threshold=2 / 3, clip=4.0),
        privacy=secfed.DistributedGaussian(clip_norm=1.0, noise_multiplier=1.0),
    )
    [report] = training.rounds(np.zeros(3), clients, count=1)
    assert 0 < report.accountant.epsilon(delta=1e-5) < 5  # type: ignore[union-attr]


def test_budgets() -> None:
    release = dp.PoissonSampled(0.01, dp.Gaussian(noise_multiplier=1.1))
    epsilon = dp.Accountant().compose(release, count=1000).epsilon(delta=1e-5)
    assert epsilon == pytest.approx(1.5153624, abs=1e-6)
    noise = dp.noise_multiplier(epsilon=3.0, delta=1e-5, sampling_rate=0.01, rounds=1000)
    calibrated = dp.PoissonSampled(0.01, dp.Gaussian(noise_multiplier=noise))
    assert 2.999999 < dp.Accountant().compose(calibrated, count=1000).epsilon(delta=1e-5) <= 3.0


def test_state_machines_over_ones_own_network() -> None:
    client_ids = [2, 3, 5, 7, 11]
    vectors = {client_id: np.full(10_000, client_id, np.uint32) for client_id in client_ids}
    config = secagg.Config(client_ids, threshold=4, length=10_000, modulus_bits=32)
    server = secagg.Server(config)
    clients = {client_id: secagg.Client(config, client_id, vectors[client_id]) for client_id in client_ids}
    outbox = server.open()
    while not server.done:
        for client_id in outbox:
            if (client_id, server.stage) == (7, secagg.Stage.MASKED_INPUT_COLLECTION):
                clients.pop(7)  # falls silent
                continue
            reply = clients[client_id].receive(outbox[client_id])
            assert isinstance(reply, bytes)
            server.receive(client_id, reply)
        outbox = server.close_stage()
        assert all(isinstance(data, bytes) for data in outbox.values())
    assert server.done
    assert server.survivors == (2, 3, 5, 11)
    assert server.sum.tolist() == [2 + 3 + 5 + 11] * 10_000


def test_parameters_of_a_thousand_clients() -> None:
    chosen = secagg.parameters(clients=1000, corrupt_fraction=0.05, dropout_fraction=0.05, adversary="semi_honest")
    assert chosen.neighbors == 30
    assert chosen.threshold == 17


def test_one_error_catches_all() -> None:
    with pytest.raises(secfed.SecFedError):
        secfed.SecAgg(clip=-1)
    with pytest.raises(secfed.SecFedError):
        secfed.Plain().aggregate([np.array([np.nan])])
