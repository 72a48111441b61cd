"""What the test's job runs to see what the filter lets out: a server that only writes down what it gets."""

import json
from pathlib import Path

import numpy as np
from nvflare.apis.controller_spec import Task
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.executor import Executor
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable

SIZE = 2000


class Recorder(Controller):
    """Asks every site for an update several times."""

    def __init__(self, report: str, rounds: int):
        super().__init__()
        self.report, self.rounds, self.found = report, rounds, []

    def start_controller(self, fl_ctx):
        pass

    def stop_controller(self, fl_ctx):
        Path(self.report).write_text(json.dumps(self.found))

    def process_result_of_unknown_task(self, client, task_name, client_task_id, result, fl_ctx):
        pass

    def control_flow(self, abort_signal, fl_ctx):
        for round in range(1, self.rounds + 1):
            data = Shareable()
            data["round"] = round
            task = Task("train", data, timeout=20, result_received_cb=self.received)
            self.broadcast_and_wait(task, fl_ctx, min_responses=2, abort_signal=abort_signal)

    def received(self, client_task, fl_ctx):
        result = client_task.result
        dxo = result.get("DXO", {})
        self.found.append(
            {
                "site": client_task.client.name,
                "code": result.get_return_code(),
                "keys": sorted(result),
                "kind": dxo.get("kind"),
                "meta": dxo.get("meta"),
                "data": {name: np.asarray(array).tolist() for name, array in dxo.get("data", {}).items()},
                "text": str(result)[:5000],
            }
        )


class Trainer(Executor):
    """Sends an update with a norm of 5 (site 1) or 0.5 (site 2), and more that is nobody's business."""

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        norm = 5.0 if fl_ctx.get_identity_name() == "site-1" else 0.5
        update = {"weight": np.zeros((SIZE, 1), np.float32), "bias": np.array([norm])}
        meta = {
            MetaKey.NUM_STEPS_CURRENT_ROUND: 12345,
            MetaKey.INITIAL_METRICS: {"accuracy": 0.98765},
            MetaKey.CURRENT_ROUND: shareable["round"],
        }
        result = DXO(DataKind.WEIGHT_DIFF, update, meta).to_shareable()
        result["diary"] = "secret"
        return result
