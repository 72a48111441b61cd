"""The server app: the same as without secfed, except for the strategy's wrapper."""

from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

import secfed  # secfed
from flower_app import task
from secfed.integrations.flower import SecureStrategy  # secfed

app = ServerApp()


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Return the model's accuracy on digits that the server has."""
    found = task.accuracy({name: array.numpy() for name, array in arrays.items()})
    print(f"accuracy after round {server_round}: {found:.4f}", flush=True)
    return MetricRecord({"accuracy": found})


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and evaluate after each round."""
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=int(context.run_config["min-nodes"]))
    strategy = SecureStrategy(strategy, secfed.SecAgg(max_weight=1000), metrics={"train_loss": 10.0})  # secfed
    model = ArrayRecord({name: Array(array) for name, array in task.new_model().items()})
    strategy.start(grid, model, num_rounds=int(context.run_config["rounds"]), evaluate_fn=evaluate)
