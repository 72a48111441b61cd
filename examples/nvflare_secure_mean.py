"""Training with NVFlare whose server sees no update: four sites, one of which fails in the middle of a round.

Needs the extra "nvflare". The output shows the error of the site that fails, and then the sites of each round's mean.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from nvflare.collab import CollabRecipe, collab
from nvflare.recipe import SimEnv

import secfed
from secfed.integrations.nvflare import SecureMean

# Part of the application: every site has its own copy, and insists on it whatever the server asks for.
SECURE = SecureMean(secfed.SecAgg(threshold=3, clip=1.0, max_weight=1024), stage_seconds=20)
SIZE, ROUNDS = 1000, 2


@SECURE.training
def train(model, round):
    number = int(collab.site_name.removeprefix("site-"))
    data = np.random.default_rng(number).normal(0.1 * number, 0.1, size=(50 * number, SIZE))  # never leaves the site
    if (number, round) == (2, 2):
        raise RuntimeError("this site has lost its data")
    return data.mean(axis=0) - model, len(data)


@collab.main
def run():
    model = np.zeros(SIZE)
    for round in range(1, ROUNDS + 1):
        result = SECURE.run(collab.clients, model, round=round)
        model = model + result.mean
        with Path(collab.get_app_prop("report")).open("a") as report:
            report.write(f"round {round}: {', '.join(result.survivors)} with {result.weight:.0f} examples, ")
            report.write(f"model about {model.mean():.4f}\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import nvflare_secure_mean  # by the name under which server and sites import it

    with tempfile.TemporaryDirectory() as folder:
        recipe = CollabRecipe("secure_mean", nvflare_secure_mean, nvflare_secure_mean, min_clients=4)
        recipe.set_server_prop("report", f"{folder}/report.txt")
        recipe.execute(SimEnv(num_clients=4, workspace_root=folder))
        print(Path(folder, "report.txt").read_text())
