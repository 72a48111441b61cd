"""What the server and the sites of the test's job run: several rounds, and what came of them in a file."""

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
from nvflare.collab import collab

import secfed
from secfed.aggregation import SecAgg
from secfed.integrations.nvflare import SecureMean

SIZE = 50
PLAIN = SecAgg(threshold=3, clip=1.0, max_weight=16)
CENTRAL = secfed.CentralGaussian(clip_norm=1.0, noise_multiplier=0.01)
# More sites survive than the noise is made for, so they are asked for the surplus.
DISTRIBUTED = secfed.DistributedGaussian(clip_norm=1.0, noise_multiplier=0.5, layers=3, minimum_survivors=3)

WITHOUT_NOISE = SecureMean(PLAIN, stage_seconds=10)
SHORT = SecureMean(PLAIN, training_seconds=3, stage_seconds=10)
WITH_CENTRAL_NOISE = SecureMean(SecAgg(threshold=3), privacy=CENTRAL, stage_seconds=10)
WITH_DISTRIBUTED_NOISE = SecureMean(SecAgg(threshold=3), privacy=DISTRIBUTED, stage_seconds=10)
STRICT = SecureMean(SecAgg(threshold=4, clip=1.0, max_weight=16), stage_seconds=10)
LAX = SecureMean(PLAIN, stage_seconds=10)

CALLS: Counter[str] = Counter()


def number() -> int:
    return int(collab.site_name.removeprefix("site-"))


def update_of(number: int) -> dict[str, np.ndarray]:
    return {"weight": np.full((SIZE, 1), 0.1 * number, np.float32), "bias": np.full(2, -0.05 * number)}


def weighted(model, round):
    return update_of(number()), 2 * number()


def train(model, round):
    return update_of(number()), 1


joined = WITHOUT_NOISE.training(weighted)


@collab.publish
def weighted(session, request, setup=None):  # the same, but site 2 fails after it has shared its keys
    CALLS[collab.site_name] += 1
    if (collab.site_name, CALLS[collab.site_name]) == ("site-2", 3):
        raise RuntimeError("gone")
    return joined(session, request, setup)


def slow(model, round):
    time.sleep(8 * (number() == 4))
    return train(model, round)


@collab.publish
def intrude(setup):
    """Play the server towards another site."""
    [other] = collab.get_clients(["site-1"])
    try:
        other.strict(b"", b"", setup)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "site-1 answered"


def central(model, round):
    return train(model, round)


def distributed(model, round):
    return train(model, round)


def strict(model, round):
    return train(model, round)


slow = SHORT.training(slow)
central = WITH_CENTRAL_NOISE.training(central)
distributed = WITH_DISTRIBUTED_NOISE.training(distributed)
strict = STRICT.training(strict)


@collab.main
def run():
    model = {"weight": np.zeros((SIZE, 1), np.float32), "bias": np.zeros(2)}
    report = {}
    for name, secure in (
        ("without noise", WITHOUT_NOISE),
        ("central", WITH_CENTRAL_NOISE),
        ("distributed", WITH_DISTRIBUTED_NOISE),
        ("slow", SHORT),
    ):
        result = secure.run(collab.clients, model, round=1)
        report[name] = {
            "weight": result.mean["weight"].tolist(),
            "bias": result.mean["bias"].tolist(),
            "divisor": result.weight,
            "survivors": result.survivors,
            "dropouts": result.dropouts,
            "event": repr(result.event),
        }
    [site] = collab.get_clients(["site-3"])
    report["intruder"] = site.intrude({"client_id": 1})
    LAX._function = "strict"  # a server that asks the strict sites for less than they insist on
    try:
        LAX.run(collab.clients, model, round=1)
    except secfed.SecFedError as error:
        report["lax"] = [type(error).__name__, *error.__notes__]
    Path(collab.get_app_prop("report")).write_text(json.dumps(report))
