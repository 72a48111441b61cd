"""A weighted mean of five hospitals' updates that nobody sees into, while one of them drops out."""

import numpy as np

import secfed
from secfed import secagg

generator = np.random.default_rng(0)
updates = [{"weights": generator.normal(size=(4, 3)), "bias": generator.normal(size=3)} for _ in range(5)]
weights = [120, 80, 200, 40, 60]  # patients

secure = secfed.SecAgg(threshold=3, clip=8.0).aggregate(
    updates, weights, dropouts={4: secagg.Stage.MASKED_INPUT_COLLECTION}, record=True
)
survivors = [i - 1 for i in secure.survivors]
plain = secfed.Plain().aggregate([updates[i] for i in survivors], [weights[i] for i in survivors])

print("survivors", secure.survivors, "with", secure.weight, "patients in all")
print("largest difference from the mean in the clear:", np.abs(secure.mean["weights"] - plain.mean["weights"]).max())
print("bytes sent by hospital 1:", secure.bytes_up[1])
