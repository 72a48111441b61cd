"""A convolutional network in PyTorch learns handwritten digits from 10 clients, under secure aggregation.

Needs the extra "torch", and scikit-learn for its data set (the extra "cli").
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secfed
from secfed.integrations.torch import LocalTraining, load_arrays

torch.set_num_threads(1)
torch.manual_seed(0)
digits = load_digits()
pictures = torch.tensor(digits.images / 16.0, dtype=torch.float32).unsqueeze(1)  # shape (1797, 1, 8, 8)
labels = torch.tensor(digits.target)
test = torch.arange(len(labels)) % 5 == 0
# The rows are in the order of the people who wrote them: each client has the digits of one or two.
parts = zip(pictures[~test].tensor_split(10), labels[~test].tensor_split(10), strict=True)
clients = [DataLoader(TensorDataset(*part), batch_size=32, shuffle=True) for part in parts]
held_out = DataLoader(TensorDataset(pictures[test], labels[test]), batch_size=400)

network = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Flatten(), nn.Linear(128, 10)),
)


def optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def accuracy(outputs, targets):
    return (outputs.argmax(dim=1) == targets).float().mean()


def train(aggregator):
    """Yield each round's report and the accuracy of its model; the same clients shuffle alike in every call."""
    local = LocalTraining(network, optimizer, nn.CrossEntropyLoss(), epochs=2, seed=0)
    for report in secfed.FedAvg(local, aggregator=aggregator).rounds(local.model, clients, count=6):
        yield report, local.evaluate(report.model, held_out, accuracy)


for report, secure in train(secfed.SecAgg(threshold=2 / 3, clip=8.0)):
    print(f"round {report.number}: accuracy {secure:.3f}, {len(report.survivors)} clients in the sum")
*_, (_, plain) = train(secfed.Plain())
print(f"the same training without protection: accuracy {plain:.3f}")
assert secure > 0.95 and abs(secure - plain) < 0.02
load_arrays(network, report.model)  # what was trained together is now in the module
