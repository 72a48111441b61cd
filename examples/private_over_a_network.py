"""Private training between processes: eight devices add their own noise, and the server sees nothing but noisy sums."""

import multiprocessing

import numpy as np

import secfed
from secfed import dp, secagg
from secfed.aggregation import PrivateSum

SIZE, ROUNDS = 20, 4
# Part of the application: every device has its own copy, and insists on it whatever the server says.
PRIVACY = secfed.DistributedGaussian(clip_norm=1.0, noise_multiplier=1.0, layers=3, minimum_survivors=6)


def device(pipe, client_id):
    data = np.random.default_rng(client_id).normal(0.1, 0.1, size=(50, SIZE))  # never leaves this process
    for number in range(1, ROUNDS + 1):
        model, parameters, config_bytes = pipe.recv()
        transform = PrivateSum.from_bytes(parameters, example=model, privacy=PRIVACY)  # refuses too little noise
        config = secagg.Config.from_bytes(config_bytes)
        transform.check_config(config)
        share = transform.noise_share()
        vector = transform.encode(data.mean(axis=0) - model, noise=share)
        policy = secagg.Policy(minimum_cohort=transform.plan.threshold)  # helps to unmask no sum with less noise
        client = secagg.Client(config, client_id, vector, policy=policy)
        while client.stage is not secagg.Stage.DONE:
            if (client_id, number, client.stage) == (8, 3, secagg.Stage.MASKED_INPUT_COLLECTION):
                return  # one device leaves
            pipe.send_bytes(client.receive(pipe.recv_bytes()))
        if request := pipe.recv_bytes():  # more devices survived than the noise was made for
            pipe.send_bytes(share.receive(request, len(client.survivors)))


def ask(pipes, outbox, receive):
    for client_id, request in outbox.items():
        try:
            pipes[client_id].send_bytes(request)
            if request:
                receive(client_id, pipes[client_id].recv_bytes())
        except (EOFError, OSError):
            del pipes[client_id]  # has dropped out


def main():
    pipes = {}
    for client_id in range(1, 9):
        pipes[client_id], other = multiprocessing.Pipe()
        multiprocessing.Process(target=device, args=(other, client_id), daemon=True).start()
        other.close()
    model, accountant = np.zeros(SIZE), dp.Accountant()
    for number in range(1, ROUNDS + 1):
        prepared = secfed.SecAgg(threshold=6).prepare(model, pipes, privacy=PRIVACY, round=number)
        transform, config = prepared.transform, prepared.channel.config
        for pipe in pipes.values():
            pipe.send((model, transform.to_bytes(), config.to_bytes()))
        server = secagg.Server(config)
        outbox = server.open()
        while not server.done:
            ask(pipes, outbox, server.receive)
            outbox = server.close_stage()
        surplus = transform.surplus_noise(server.survivors)
        ask(pipes, dict.fromkeys(server.survivors, surplus.request), surplus.receive)
        result = transform.decode(surplus.subtract(server.sum), server.survivors)
        model = model + result.mean
        accountant.compose(result.event)
        print(f"round {number}: survivors {server.survivors}, epsilon {accountant.epsilon(1e-5):.2f} so far")


if __name__ == "__main__":
    main()
