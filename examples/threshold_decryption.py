"""Five clients' vectors are added under a key that no hospital holds alone: any two of three decrypt the sum."""

from dataclasses import replace

import numpy as np

from secfed import paillier
from secfed.errors import FaultyKeyHolderError
from secfed.paillier.messages import PartialDecryptionResponse

# The dealer gives each hospital its share and forgets all of them. 2048 bits are quick to find; the default is 3072.
key, shares = paillier.deal(2048, holders=3, threshold=2)
config = paillier.Config(key.public_key, [1, 2, 3, 4, 5], length=100)
generator = np.random.default_rng(0)
vectors = {client_id: generator.integers(0, 1000, 100) for client_id in config.client_ids}
exact = sum(vectors.values())

# Hospital 2 does not answer: the other two are enough.
result = paillier.run_session(config, vectors, (key, shares), absent=[2])
print("without hospital 2 the sum is right:", np.array_equal(result.sum, exact))

# Hospital 1 cheats. The parties one by one, as a deployment has them; between them is the network.
config = paillier.Config(key.public_key, [1, 2, 3, 4, 5], length=100, round=1)
server = paillier.Server(config, opening=paillier.PartialDecryptions(key))
for client_id, request in server.open().items():
    client = paillier.Client(config, client_id, vectors[client_id])
    server.receive(client_id, client.receive(request))

for number, request in server.close_stage().items():
    hospital = paillier.ShareHolder(config, key, shares[number - 1])
    response = hospital.receive(request)
    if number == 1:
        answer = PartialDecryptionResponse.from_bytes(response)
        response = replace(answer, partials=bytes([answer.partials[0] ^ 1]) + answer.partials[1:]).to_bytes()
    try:
        server.receive(number, response)
    except FaultyKeyHolderError as error:
        print("refused:", error)

server.close_stage()
print("without hospital 1 the sum is right:", np.array_equal(server.sum, exact))
print("the first entries:", server.sum[:5].tolist())
