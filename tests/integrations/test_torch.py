"""PyTorch: what travels and what stays, secure means of state dicts, local training, files."""

import torch

import secfed
from secfed.integrations.torch import load_arrays, to_arrays

torch.set_num_threads(1)

# Values are rounded to one of 2^16 - 1 levels between -clip and clip: no mean is further off than one level.
CLIP = 2.0
LEVEL = 2 * CLIP / (2**16 - 2)


def perceptron() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))


def test_a_secure_mean_of_modules_is_the_plain_mean_up_to_rounding() -> None:
    modules, target = [perceptron() for _ in range(4)], perceptron()
    result = secfed.SecAgg(threshold=3, clip=CLIP).aggregate([to_arrays(module) for module in modules])
    load_arrays(target, result.mean)
    for name, value in target.state_dict().items():
        wanted = torch.stack([module.state_dict()[name] for module in modules]).mean(dim=0)
        torch.testing.assert_close(value, wanted, rtol=0, atol=LEVEL)
