"""CPU cost of Flower's own SecAgg and SecAgg+ code: the peer measurement for our benchmarks.

Runs in an environment of its own (it needs flwr and must not need secfed):

    python3 -m venv flower && flower/bin/pip install 'flwr==1.41.0' numpy
    flower/bin/python benchmarks/peer_flower.py --what client --length 1000000 --neighbors 100 --repeats 3
    flower/bin/python benchmarks/peer_flower.py --what session --clients 100 --length 1000000 --dropouts 10 \
        --shares 21 --threshold 14

`client` times one client's masking work. `session` times a whole round: Flower's client mod, Flower's workflow and
Flower's FedAvg, in one process, every message turned into bytes and back. One JSON object goes to stdout, logs to
stderr. All times are CPU seconds (time.process_time): on a shared machine wall time says little.
"""

import os

# Before numpy is imported, or the thread pools are already made: process_time adds up all threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import argparse
import json
import logging
import platform
import random
import resource
import statistics
import sys
from importlib.metadata import version
from time import process_time

import numpy as np
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarray_to_bytes, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation import ndarrays_arithmetic as arith
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.compat.common.recorddict_compat import arrayrecord_to_parameters, parameters_to_arrayrecord
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.server import LegacyContext, SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow, SecAggWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.serverapp import Grid
from flwr.supercore.primitives import asymmetric
from flwr.supercore.task_identity import TaskIdentity

# The workflow's defaults, as `session` uses them; in `client` there is no server that would send them.
CLIPPING, LEVELS, MODULUS, MAX_WEIGHT = 8.0, 2**22, 2**32, 1000.0
# One quantization step is 16 / 2**22 = 3.8e-6; a wrong mask gives errors of order 1 and more.
ERROR_LIMIT = 1e-4


def measure_client(length: int, neighbors: int, repeats: int) -> dict:
    """Time what secaggplus_mod._collect_masked_vectors does from the trained vector to the masked one.

    Same calls, same order. Left out: decrypting the peers' shares before it and np.save of the result after it.
    """
    own_id, num_examples = neighbors // 2, 750
    secret, _ = asymmetric.generate_key_pairs()
    secret_pem = asymmetric.private_key_to_bytes(secret)
    # Ids on both sides of own_id, so that half of the masks are added and half subtracted.
    peer_ids = [i for i in range(neighbors + 1) if i != own_id]
    peer_pems = {i: asymmetric.public_key_to_bytes(asymmetric.generate_key_pairs()[1]) for i in peer_ids}
    vector = np.random.default_rng(1).normal(0, 0.05, length).astype(np.float32)

    runs = []
    for _ in range(repeats):
        start = process_time()
        weight = round(num_examples / MAX_WEIGHT * LEVELS)
        parts = quantize(arith.parameters_multiply([vector], weight / LEVELS), CLIPPING, LEVELS)
        parts = arith.factor_combine(weight, parts)
        shapes = [a.shape for a in parts]
        quantize_seconds = process_time() - start

        parts = arith.parameters_addition(parts, pseudo_rand_gen(os.urandom(32), MODULUS, shapes))
        agree_seconds = 0.0
        for peer in peer_ids:
            t = process_time()
            # The mod parses its own private key again for each neighbour; so is it here.
            own_key = asymmetric.bytes_to_private_key(secret_pem)
            key = generate_shared_key(own_key, asymmetric.bytes_to_public_key(peer_pems[peer]))
            agree_seconds += process_time() - t
            mask = pseudo_rand_gen(key, MODULUS, shapes)
            combine = arith.parameters_addition if own_id > peer else arith.parameters_subtraction
            parts = combine(parts, mask)
        parts = arith.parameters_mod(parts, MODULUS)
        total = process_time() - start
        runs.append((total, quantize_seconds, agree_seconds))

    upload = sum(len(ndarray_to_bytes(a)) for a in parts)
    return {
        "what": "client",
        "seconds": statistics.median(r[0] for r in runs),
        "all": [r[0] for r in runs],
        "quantize_seconds": statistics.median(r[1] for r in runs),
        "key_agreement_seconds": statistics.median(r[2] for r in runs),
        "length": length,
        "neighbors": neighbors,
        "repeats": repeats,
        "upload_bytes_per_entry": round(upload / length, 2),
    }


class TimedFedAvg(FedAvg):
    """Flower's default strategy. Its share of the server time is kept apart: it averages after the unmasking."""

    aggregate_seconds: float | None = None

    def aggregate_fit(self, server_round, results, failures):
        start = process_time()
        out = super().aggregate_fit(server_round, results, failures)
        self.aggregate_seconds = process_time() - start
        return out


class LocalGrid(Grid):
    """A Grid that hands each message to the client app in this process, as bytes made by Flower's serde.

    Serialising a request and parsing a reply count as server time, the other two as client time. Not included,
    though a deployment pays for it: HTTP, splitting messages into objects named by their SHA-256 (about three times
    the cost of the plain protobuf form used here), and starting a process per message.
    """

    def __init__(self, app: ClientApp, node_ids: list[int], lost: set[int]) -> None:
        self.app, self.lost = app, lost
        self.contexts = {i: Context(1, i, {}, RecordDict(), {}) for i in node_ids}
        self.cpu = {i: {} for i in node_ids}  # node id -> stage -> CPU seconds
        self.up, self.down = dict.fromkeys(node_ids, 0), dict.fromkeys(node_ids, 0)  # bytes

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
            # Lost clients vanish before they train: no work, no reply. The workflow sees the same as after a timeout.
            if node in self.lost and stage == Stage.COLLECT_MASKED_VECTORS:
                continue
            request = message_to_proto(message).SerializeToString()

            start = process_time()
            # No try: an exception in a client would become an error reply in Flower; here it must stop the benchmark.
            answer = self.app(message_from_proto(ProtoMessage.FromString(request)), self.contexts[node])
            reply = message_to_proto(answer).SerializeToString()
            self.cpu[node][stage] = process_time() - start

            self.down[node] += len(request)
            self.up[node] += len(reply)
            # Only the parsed form is kept, else the masked vectors would be held twice.
            del request, answer
            replies.append(message_from_proto(ProtoMessage.FromString(reply)))
        return replies

    def _unused(self, *args, **kwargs):
        raise NotImplementedError

    # The workflows use nothing of these; Grid is abstract, so they must exist.
    set_run = create_message = get_node_ids = push_messages = pull_messages = _unused
    run = property(_unused)


def measure_session(clients: int, length: int, dropouts: int, shares: int, threshold: int) -> dict:
    """Run one round, check its result against the weighted mean of the survivors, and report the costs."""
    # Message() asks for ids that the runtime sets in each process; there is no runtime here.
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    random.seed(1)  # the workflow draws the neighbour graph with `random`
    rng = np.random.default_rng(1)
    # 63-bit ids, because real ones are that long and every message carries them.
    node_ids = [int(i) for i in rng.integers(2**62, 2**63 - 1, clients)]
    lost = set(node_ids[:dropouts])
    # All made beforehand: training is to cost nothing.
    vectors = {i: rng.normal(0, 0.05, length).astype(np.float32) for i in node_ids}
    examples = {i: int(rng.integers(500, int(MAX_WEIGHT) + 1)) for i in node_ids}

    class Trained(NumPyClient):
        def __init__(self, node: int) -> None:
            self.node = node

        def fit(self, parameters, config):
            return [vectors[self.node]], examples[self.node], {}

    app = ClientApp(lambda context: Trained(context.node_id).to_client(), mods=[secaggplus_mod])
    grid = LocalGrid(app, node_ids, lost)
    manager = SimpleClientManager()
    for i in node_ids:
        manager.register(GridClientProxy(i, grid, 1))
    strategy = TimedFedAvg(min_fit_clients=clients, min_available_clients=clients)
    state = RecordDict()
    state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    start_model = ndarrays_to_parameters([np.zeros(length, np.float32)])
    state.array_records[MAIN_PARAMS_RECORD] = parameters_to_arrayrecord(start_model, True)
    context = LegacyContext(Context(1, 1, {}, state, {}), strategy=strategy, client_manager=manager)
    workflow = SecAggPlusWorkflow(shares, threshold) if shares else SecAggWorkflow(threshold)

    start = process_time()
    workflow(grid, context)
    total = process_time() - start

    # A halted workflow only logs and returns.
    if strategy.aggregate_seconds is None:
        raise SystemExit("the workflow stopped before aggregation, see the log")
    result = parameters_to_ndarrays(arrayrecord_to_parameters(context.state.array_records[MAIN_PARAMS_RECORD], True))[0]
    alive = [i for i in node_ids if i not in lost]
    expected = sum(examples[i] * vectors[i].astype(np.float64) for i in alive) / sum(examples[i] for i in alive)
    max_error = float(np.abs(result - expected).max())
    if not max_error <= ERROR_LIMIT:  # also catches NaN
        raise SystemExit(f"wrong aggregate: max error {max_error}")

    # Means are over the clients that stayed to the end; the total has the lost ones' first two stages too.
    client_cpu = {i: sum(grid.cpu[i].values()) for i in node_ids}
    return {
        "what": "session",
        "protocol": "secagg+" if shares else "secagg",
        "clients": clients,
        "length": length,
        "dropouts": dropouts,
        "shares": shares or clients,
        "threshold": threshold,
        "total_cpu_seconds": total,
        "server_cpu_seconds": total - sum(client_cpu.values()),
        "server_strategy_cpu_seconds": strategy.aggregate_seconds,
        "client_cpu_seconds_mean": statistics.mean(client_cpu[i] for i in alive),
        "client_cpu_seconds_by_stage": {s: statistics.mean(grid.cpu[i][s] for i in alive) for s in grid.cpu[alive[0]]},
        "upload_bytes_per_client": round(statistics.mean(grid.up[i] for i in alive)),
        "download_bytes_per_client": round(statistics.mean(grid.down[i] for i in alive)),
        "max_error": max_error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU seconds of Flower's SecAgg / SecAgg+ code, as JSON.")
    parser.add_argument("--what", choices=["client", "session"], required=True)
    parser.add_argument("--length", type=int, default=1_000_000, help="entries of the vector")
    parser.add_argument("--neighbors", type=int, default=100, help="client: peers to mask against")
    parser.add_argument("--repeats", type=int, default=3, help="client: runs, the median counts")
    parser.add_argument("--clients", type=int, default=100, help="session: clients at the start")
    parser.add_argument("--dropouts", type=int, default=10, help="session: clients lost at collect_masked_vectors")
    parser.add_argument("--shares", type=int, default=0, help="session: 0 = complete graph (SecAgg), else SecAgg+, odd")
    parser.add_argument("--threshold", type=int, help="session: default 0.67 of the shares (67 of 100, 14 of 21)")
    args = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.WARNING)

    if args.what == "client":
        out = measure_client(args.length, args.neighbors, args.repeats)
    else:
        threshold = args.threshold or round(0.67 * (args.shares or args.clients))
        out = measure_session(args.clients, args.length, args.dropouts, args.shares, threshold)
    out = {k: round(v, 9) if isinstance(v, float) else v for k, v in out.items()}
    out["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    out |= {name: version(name) for name in ("flwr", "numpy", "cryptography")}
    out["python"] = platform.python_version()
    json.dump(out, sys.stdout)
    print()


if __name__ == "__main__":
    main()
