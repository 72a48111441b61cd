"""The client app: the same as without secfed, except for the mod."""

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flower_app import task
from secfed.integrations.flower import SecureMod  # secfed

app = ClientApp(
    mods=[SecureMod(metrics=["train_loss"])],  # secfed
)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this client's part of the digits."""
    part, parts = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    pixels, labels = (array[task.HELD_OUT :][part::parts] for array in task.digits())
    model = {name: array.numpy() for name, array in message.content["arrays"].items()}
    loss = task.train(model, pixels, labels)
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(array) for name, array in model.items()}),
            "metrics": MetricRecord({"num-examples": len(labels), "train_loss": loss}),
        }
    )
    return Message(content, reply_to=message)
