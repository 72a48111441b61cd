"""Federated averaging with NVFlare, whose sites release private updates only, and no more than their budget allows.

Needs the extra "nvflare".
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import nvflare.client as flare
from nvflare.apis.dxo import DataKind
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.client.config import TransferType
from nvflare.recipe import SimEnv

from secfed import dp
from secfed.integrations.nvflare import PrivateUpdates

SITES, SIZE, ROUNDS = 2, 20, 3


def train():
    """What each site runs: a usual training script of NVFlare that sends differences."""
    flare.init()
    while flare.is_running():
        received = flare.receive()
        model = received.params["numpy_key"]
        update = {"numpy_key": np.full(SIZE, 0.2) - 0.2 * model}  # in real use, train on the site's own data
        flare.send(flare.FLModel(params=update, params_type="DIFF", current_round=received.current_round))


def main():
    with tempfile.TemporaryDirectory() as folder:
        recipe = NumpyFedAvgRecipe(
            name="private_updates",
            model=[0.0] * SIZE,
            min_clients=SITES,
            num_rounds=ROUNDS,
            train_script=__file__,
            train_args="--site",
            params_transfer_type=TransferType.DIFF,
            aggregator_data_kind=DataKind.WEIGHT_DIFF,
        )
        ledger = str(Path(folder, "{site}.ledger"))
        private = PrivateUpdates(clip_norm=1.0, epsilon=8.0, delta=1e-5, rounds=ROUNDS, ledger=ledger)
        recipe.add_client_output_filter(private, tasks=["train"])
        recipe.execute(SimEnv(num_clients=SITES, workspace_root=folder))
        print(f"noise of {private.noise_multiplier:.3f} times the clip in each value")
        for number in range(1, SITES + 1):
            spent = dp.Ledger.open(Path(folder, f"site-{number}.ledger"))
            print(f"site-{number}: {len(spent.entries())} releases, epsilon {spent.spent():.3f} of {spent.epsilon}")


if __name__ == "__main__":
    train() if "--site" in sys.argv else main()
