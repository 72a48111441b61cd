"""PyTorch: what travels and what stays, secure means of state dicts, local training, files."""

import copy
import doctest
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secfed
import secfed.integrations.torch as module_of_integration
from secfed.errors import ConfigError, EncodingError, MissingExtraError
from secfed.integrations.torch import LocalTraining, load, load_arrays, save, to_arrays

torch.set_num_threads(1)

# Values are rounded to one of 2^16 - 1 levels between -clip and clip: no mean is further off than one level.
CLIP = 2.0
LEVEL = 2 * CLIP / (2**16 - 2)
HALVES = [torch.bfloat16, torch.float16]
BYTES = [torch.float8_e4m3fn, torch.float8_e5m2]
LABELS = torch.zeros(4, dtype=torch.int64)
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def same_weights_each_time() -> Iterator[None]:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield


class Convolutional(nn.Module):
    """Has batch normalization, a frozen parameter, and a buffer that is not persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3)
        self.normalization = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.register_buffer("cache", torch.zeros(2), persistent=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.normalization(self.convolution(pictures)))
        return self.scale * self.head(features.mean(dim=(2, 3)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.decoder = nn.Linear(4, 6, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.embedding(tokens))


class LowRank(nn.Module):
    """LoRA (Hu et al. 2021): a frozen linear layer plus the product of two narrow matrices that are trained."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs) + inputs @ self.lora_a.T @ self.lora_b.T


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(dict(module.state_dict()), state, rtol=0, atol=0, equal_nan=True)


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.5)


def examples(rows: int, seed: int, features: int = 4) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, features, generator=generator)
    return TensorDataset(inputs, inputs[:, :3].argmax(dim=1))


def training(module: Any = None, **options: Any) -> LocalTraining:
    return LocalTraining(module or perceptron(), sgd, nn.CrossEntropyLoss(), **options)


# What travels and what stays


def test_a_secure_mean_of_modules_is_the_plain_mean_up_to_rounding() -> None:
    modules, target = [Convolutional() for _ in range(4)], Convolutional()
    for module in modules:
        module(torch.randn(5, 1, 6, 6))  # moves the running statistics
    result = secfed.SecAgg(threshold=3, clip=CLIP).aggregate([to_arrays(module) for module in modules])
    load_arrays(target, result.mean)
    for name, value in target.state_dict().items():
        wanted = torch.stack([module.state_dict()[name].float() for module in modules]).mean(dim=0)
        if name == "normalization.num_batches_tracked":
            assert value == 0 and wanted == 1
        else:
            torch.testing.assert_close(value, wanted, rtol=0, atol=LEVEL)


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
states = st.dictionaries(
    st.text("abc./~", min_size=1, max_size=4), st.tuples(shapes, st.sampled_from(DTYPES)), min_size=1, max_size=5
)


def drawn(description: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """A state dict with tensors whose axes are reversed, so that those with several axes are not contiguous."""
    generator = torch.Generator().manual_seed(seed)
    reversed_axes = {
        name: torch.randn(shape[::-1], generator=generator).clamp(-1.9, 1.9).to(dtype)
        for name, (shape, dtype) in description.items()
    }
    return {name: tensor.permute(tuple(reversed(range(tensor.ndim)))) for name, tensor in reversed_axes.items()}


@given(states, st.integers(0, 99))
def test_arrays_of_any_state_dict_come_back_exactly(description: dict[str, Any], seed: int) -> None:
    state = drawn(description, seed)
    target = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    arrays = to_arrays(state)
    load_arrays(target, arrays)
    torch.testing.assert_close(target, state, rtol=0, atol=0)
    for name, array in arrays.items():
        assert array.dtype == (np.float64 if state[name].dtype == torch.float64 else np.float32)
        assert array.shape == tuple(state[name].shape) and array.flags.c_contiguous


@given(states.filter(lambda s: any(0 not in shape for shape, _ in s.values())), st.integers(0, 99))
def test_a_secure_mean_of_any_state_dicts_is_torchs_mean(description: dict[str, Any], seed: int) -> None:
    clients = [drawn(description, seed + number) for number in range(3)]
    mean = secfed.SecAgg(threshold=2, clip=CLIP).aggregate([to_arrays(state) for state in clients]).mean
    target = {name: torch.zeros_like(tensor) for name, tensor in clients[0].items()}
    load_arrays(target, mean)
    for name, value in target.items():
        wanted = torch.stack([state[name].double() for state in clients]).mean(dim=0)
        rounding = {torch.bfloat16: 2**-8, torch.float16: 2**-11}.get(value.dtype, 2**-23)
        torch.testing.assert_close(value.double(), wanted, rtol=rounding, atol=LEVEL)


def test_floating_point_buffers_travel_and_others_stay() -> None:
    module = Convolutional()
    names = {"convolution.weight", "convolution.bias", "head.weight", "head.bias"}
    names |= {f"normalization.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
    assert to_arrays(module).keys() == names
    left = {"normalization.running_mean", "normalization.running_var"}
    assert to_arrays(module, buffers=False).keys() == names - left
    before = copied(module)
    load_arrays(module, {name: array + 1 for name, array in to_arrays(module, buffers=False).items()}, buffers=False)
    changed = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == names - left


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_travels_as_float32_and_keeps_its_dtype(dtype: torch.dtype) -> None:
    modules, target = [perceptron().to(dtype) for _ in range(3)], perceptron().to(dtype)
    arrays = [to_arrays(module) for module in modules]
    assert {array.dtype for array in arrays[0].values()} == {np.dtype(np.float32)}
    load_arrays(target, arrays[0])
    assert_same(target, copied(modules[0]))
    load_arrays(target, secfed.SecAgg(threshold=2, clip=CLIP).aggregate(arrays).mean)
    for name, value in target.state_dict().items():
        wanted = torch.stack([module.state_dict()[name].double() for module in modules]).mean(dim=0)
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), wanted, rtol=2**-8, atol=LEVEL)


@pytest.mark.parametrize("state_dict", [False, True])
def test_tied_parameters_travel_once_and_stay_tied(state_dict: bool) -> None:
    module = Tied()
    arrays = to_arrays(module.state_dict() if state_dict else module)
    assert arrays.keys() == {"embedding.weight"}
    load_arrays(module.state_dict() if state_dict else module, {"embedding.weight": np.full((6, 4), 0.5)})
    assert module.decoder.weight is module.embedding.weight
    assert bool((module.decoder.weight == 0.5).all())


def test_of_tied_parameters_the_name_that_is_included_travels() -> None:
    assert to_arrays(Tied(), include="decoder.*").keys() == {"decoder.weight"}


def test_tensors_without_values_are_not_taken_for_tied_ones() -> None:
    assert to_arrays({"a": torch.zeros(0), "b": torch.zeros(0), "c": torch.ones(1)}).keys() == {"a", "b", "c"}


def test_arrays_share_no_memory_with_the_module() -> None:
    module = perceptron().double()
    before = copied(module)
    for array in to_arrays(module).values():
        array[...] = 7.0
    assert_same(module, before)


def test_a_parameter_that_is_not_contiguous_is_sent_and_written() -> None:
    module = nn.Linear(3, 2)
    module.weight = nn.Parameter(torch.arange(6.0).reshape(3, 2).T)
    assert not module.weight.is_contiguous()
    arrays = to_arrays(module)
    assert arrays["weight"].tolist() == [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
    load_arrays(module, {name: array + 1 for name, array in arrays.items()})
    assert module.weight.tolist() == [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]


def test_arrays_of_any_layout_and_float_dtype_are_loaded() -> None:
    module = nn.Linear(2, 2, bias=False)
    wanted = [[1.0, 2.0], [3.0, 4.0]]
    frozen = np.array(wanted, np.float32)
    frozen.setflags(write=False)
    reverse = np.array(wanted)[::-1, ::-1].copy()[::-1, ::-1]
    for array in (frozen, reverse, np.array(wanted, ">f4"), np.asfortranarray(wanted), np.array(wanted, np.float16)):
        nn.init.zeros_(module.weight)
        load_arrays(module, {"weight": array})
        assert module.weight.tolist() == wanted


def test_a_scalar_of_numpy_is_loaded_into_a_tensor_without_axes() -> None:
    state = {"scale": torch.tensor(1.0)}
    load_arrays(state, {"scale": to_arrays(state)["scale"] + 1})
    assert state["scale"].item() == 2.0


def test_what_is_not_a_number_is_refused_when_it_is_aggregated() -> None:
    modules = [perceptron() for _ in range(3)]
    modules[1][0].weight.data[0, 0] = torch.nan
    with pytest.raises(EncodingError, match=r"client 2: 0.weight holds a value that is not finite, at index \[0, 0\]"):
        secfed.SecAgg(threshold=2).aggregate([to_arrays(module) for module in modules])


# Loading


def bad_arrays() -> dict[str, tuple[Any, str]]:
    good = to_arrays(perceptron())
    infinite = {**good, "2.bias": np.array([0.0, np.inf, 0.0])}
    return {
        "missing": ({n: a for n, a in good.items() if n != "2.bias"}, r"missing \['2.bias'\]"),
        "additional": ({**good, "3.bias": np.zeros(3)}, r"not expected \['3.bias'\]"),
        "both": ({("other" if n == "2.bias" else n): a for n, a in good.items()}, "missing .* not expected"),
        "shape": ({**good, "2.bias": np.zeros((3, 1))}, r"2.bias has shape \(3, 1\), needed \(3,\)"),
        "integers": ({**good, "2.bias": np.zeros(3, np.int64)}, "2.bias is an array of int64, needed"),
        "tensor": ({**good, "2.bias": torch.zeros(3)}, "2.bias is Tensor, needed an array"),
        "list": ({**good, "2.bias": [0.0, 0.0, 0.0]}, "2.bias is list, needed an array"),
        "masked": ({**good, "2.bias": np.ma.masked_array(np.zeros(3), [1, 0, 0])}, "2.bias is a masked array"),
        "infinite": (infinite, "2.bias holds a value that is not finite"),
        "no dictionary": (list(good.values()), "found list, needed a dictionary of arrays"),
    }


@pytest.mark.parametrize("name", bad_arrays())
def test_arrays_that_do_not_fit_are_refused_and_change_nothing(name: str) -> None:
    module = perceptron()
    before = copied(module)
    arrays, reason = bad_arrays()[name]
    with pytest.raises(EncodingError, match=reason):
        load_arrays(module, arrays)
    assert_same(module, before)


def test_values_too_large_for_half_precision_are_refused() -> None:
    module = perceptron().half()
    before, arrays = copied(module), to_arrays(module)
    arrays["2.bias"][1] = 1e5
    with pytest.raises(EncodingError, match=r"2.bias holds a value that is too large for torch.float16"):
        load_arrays(module, arrays)
    assert_same(module, before)


def refused_tensors() -> dict[str, tuple[Any, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch 2.2 warns that lazy modules may change
        lazy = nn.LazyLinear(2)
    return {
        "complex": ({"a": torch.zeros(2, dtype=torch.complex64)}, "a is complex"),
        "sparse": ({"a": torch.eye(2).to_sparse()}, "a is sparse"),
        "meta": (nn.Linear(2, 2, device="meta"), "weight is on the meta device"),
        "lazy": (lazy, "weight is not initialized"),
        "expanded": ({"a": torch.zeros(1).expand(3)}, "a is expanded"),
    }


@pytest.mark.parametrize("name", refused_tensors())
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_tensors_without_plain_values_are_refused(name: str) -> None:
    source, reason = refused_tensors()[name]
    with pytest.raises(EncodingError, match=reason):
        to_arrays(source)
    if isinstance(source, dict):
        with pytest.raises(EncodingError, match=reason):
            load_arrays(source, {"a": np.zeros(source["a"].shape)})


@pytest.mark.parametrize("dtype", BYTES)
def test_tensors_of_eight_bits_travel_and_come_back(dtype: torch.dtype) -> None:
    state = {"a": torch.tensor([1.0, -2.0, 0.5]).to(dtype)}
    arrays = to_arrays(state)
    load_arrays(state, {"a": 2 * arrays["a"]})
    assert arrays["a"].dtype == np.float32 and state["a"].dtype == dtype
    assert state["a"].float().tolist() == [2.0, -4.0, 1.0]
    with pytest.raises(EncodingError, match=r"a holds a value that is too large for torch.float8"):
        load_arrays(state, {"a": 1e6 * arrays["a"]})


# Subsets


def adapted() -> nn.Module:
    return nn.Sequential(LowRank(nn.Linear(4, 8), rank=2), nn.ReLU(), LowRank(nn.Linear(8, 3), rank=2))


def test_of_a_module_with_adapters_only_the_adapters_travel() -> None:
    module = adapted()
    lora = {"0.lora_a", "0.lora_b", "2.lora_a", "2.lora_b"}
    assert to_arrays(module).keys() == lora
    assert to_arrays(module, include="*.lora_*").keys() == lora
    assert to_arrays(module, include=["*.lora_a", "2.*_b"]).keys() == lora - {"0.lora_b"}
    assert to_arrays(module, include=lambda name, tensor: tensor.requires_grad and tensor.shape[0] == 2).keys() == {
        "0.lora_a",
        "2.lora_a",
    }


def test_adapters_learn_under_secure_aggregation_and_the_rest_stays() -> None:
    module = adapted()
    local = training(module, epochs=4, seed=1)
    test = DataLoader(examples(200, seed=9), batch_size=100)
    loaders = [DataLoader(examples(40, seed), batch_size=10, shuffle=True) for seed in range(4)]
    federated = secfed.FedAvg(local, aggregator=secfed.SecAgg(threshold=3, clip=CLIP))
    *_, last = federated.rounds(local.model, loaders, count=8)
    assert last.survivors == (1, 2, 3, 4) and last.model_bytes == 4 * (2 * (4 + 8) + 2 * (8 + 3))
    assert local.evaluate(last.model, test) < 0.6 * local.evaluate(local.model, test)
    before = copied(module)
    load_arrays(module, last.model)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]) == (".layer." in name), name


def test_what_is_included_travels_even_if_it_is_frozen() -> None:
    module = perceptron().requires_grad_(False)
    assert to_arrays(module, include="*").keys() == set(module.state_dict())
    with pytest.raises(ConfigError, match="found no floating-point tensor that travels"):
        to_arrays(module)


@pytest.mark.parametrize(
    ("source", "options", "reason"),
    [
        (perceptron(), {"include": "*.lora_*"}, r"include '\*.lora_\*' matches no name .*'0.weight'"),
        (perceptron(), {"include": ["0.*", "typo"]}, "include 'typo' matches no name"),
        (perceptron(), {"include": 3}, "include holds 3, needed patterns"),
        (perceptron(), {"include": [b"0.*"]}, "include holds b'0"),
        (perceptron(), {"include": lambda name, tensor: False}, "found no floating-point tensor"),
        (nn.BatchNorm1d(2, affine=False), {"buffers": False}, "found no floating-point tensor"),
        ({"a": torch.zeros(2)}, {"buffers": False}, "a state dict does not say what is a buffer"),
        (list(perceptron().parameters()), {}, "found list, needed a torch.nn.Module"),
    ],
)
def test_a_choice_of_what_travels_that_fits_nothing_is_refused(source: Any, options: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        to_arrays(source, **options)


# Local training


def by_hand(module: nn.Module, batches: list[Any], steps: int) -> nn.Module:
    """The loop that everybody writes."""
    trained = copy.deepcopy(module)
    optimizer = sgd(list(trained.parameters()))
    for step in range(steps):
        inputs, targets = batches[step % len(batches)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(trained(inputs), targets).backward()
        optimizer.step()
    return trained


@pytest.mark.parametrize(("options", "steps", "weight"), [({}, 3, 25), ({"epochs": 2}, 6, 25), ({"steps": 2}, 2, 20)])
def test_local_training_does_what_a_loop_by_hand_does(options: Any, steps: int, weight: int) -> None:
    module, batches = perceptron(), list(DataLoader(examples(25, seed=1), batch_size=10))
    local = training(module, **options)
    for _ in range(2):  # nothing is left of the first client
        update, examples_used = local(local.model, batches)
        trained = by_hand(module, batches, steps)
        assert examples_used == weight
        for name, start in to_arrays(module).items():
            assert np.array_equal(update[name], to_arrays(trained)[name] - start)


def test_more_steps_than_batches_count_each_example_once() -> None:
    local = training(steps=7)
    assert local(local.model, list(DataLoader(examples(25, seed=1), batch_size=10)))[1] == 25


def test_the_module_of_the_caller_stays_as_it_is() -> None:
    module = Convolutional().eval()
    before = copied(module)
    local = training(module)
    local(local.model, [(torch.randn(5, 1, 6, 6), torch.zeros(5, dtype=torch.int64))])
    assert_same(module, before)
    assert not module.training and all(parameter.grad is None for parameter in module.parameters())


def test_a_function_that_makes_the_module_is_called_once() -> None:
    torch.manual_seed(5)
    wanted = to_arrays(perceptron())
    torch.manual_seed(5)
    made = []
    local = training(lambda: made.append(perceptron()) or made[-1])
    local(local.model, [(torch.ones(2, 4), torch.zeros(2, dtype=torch.int64))])
    assert len(made) == 1
    assert all(np.array_equal(local.model[name], array) for name, array in wanted.items())


def random_module() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))


def test_training_and_evaluation_leave_the_global_random_state_alone() -> None:
    loader = DataLoader(examples(30, seed=1), batch_size=10, shuffle=True)
    module = random_module()
    before = torch.get_rng_state()
    local = training(module)
    local(local.model, loader)
    local.evaluate(local.model, loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_repeats_a_run_and_each_client_has_its_own_chance() -> None:
    loader = DataLoader(examples(30, seed=1), batch_size=10, shuffle=True)
    module = random_module()

    def run(seed: int | None) -> list[np.ndarray]:
        local = training(module, seed=seed)
        return [local(local.model, loader)[0]["0.weight"] for _ in range(2)]

    first, again, other, default = run(1), run(1), run(2), run(None)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[1]) and not np.array_equal(first[0], other[0])
    assert np.array_equal(default[0], run(torch.initial_seed())[0])  # that of torch.manual_seed


@pytest.mark.parametrize("buffers", [True, False])
def test_clients_do_not_see_the_statistics_of_those_before_them(buffers: bool) -> None:
    local = training(Convolutional(), buffers=buffers)
    generator = torch.Generator().manual_seed(1)
    loaders = [[(torch.randn(5, 1, 6, 6, generator=generator), torch.arange(5) % 3)] for _ in range(2)]
    second = local(local.model, loaders[1])[0]
    local(local.model, loaders[0])
    again = local(local.model, loaders[1])[0]
    assert second.keys() == again.keys() == local.model.keys()
    assert ("normalization.running_var" in again) == buffers
    assert all(np.array_equal(second[name], again[name]) for name in second)
    local.evaluate(local.model, loaders[0])
    before = local.evaluate(local.model, loaders[0])
    local(local.model, loaders[1])
    assert local.evaluate(local.model, loaders[0]) == before


def test_parts_in_evaluation_mode_stay_in_it_and_evaluation_puts_modes_back() -> None:
    module = Convolutional()
    module.normalization.eval()
    local = training(module)
    loader = [(torch.randn(5, 1, 6, 6), torch.arange(5) % 3)]
    for _ in range(2):
        update, _ = local(local.model, loader)
        assert not update["normalization.running_mean"].any() and update["normalization.weight"].any()
        local.evaluate(local.model, loader)


class Modes(nn.Module):
    """Notes the modes in which it is called: its own, and that of its part."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(4, 3)
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.seen.append((self.training, self.part.training))
        return self.part(inputs)


@pytest.mark.parametrize(("own", "part"), [(True, True), (False, False), (True, False)])
def test_modes_are_those_of_training_except_during_evaluation(own: bool, part: bool) -> None:
    made = []

    def make() -> nn.Module:
        made.append(Modes().train(own))
        made[0].part.train(part)
        return made[0]

    local = training(make)
    loader = [(torch.ones(4, 4), LABELS)]
    for _ in range(2):
        local(local.model, loader)
        local.evaluate(local.model, loader)
    trained = (True, part or not own)  # a module in evaluation mode as a whole is put in training mode
    assert made[0].seen == [trained, (False, False)] * 2


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_proximal_term_is_that_of_a_loop_by_hand(mu: float) -> None:
    """The loop has the term in its loss, and autograd finds the gradient."""
    inputs, targets = torch.randn(12, 5), torch.randint(3, (12,))
    batches = [(inputs[start : start + 4], targets[start : start + 4]) for start in (0, 4, 8)]
    module = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()
    local = LocalTraining(module, sgd, nn.CrossEntropyLoss(), epochs=3, proximal_mu=mu)
    found, weight = local(local.model, [(x.double(), y) for x, y in batches])
    by_hand = copy.deepcopy(module)
    starts = [parameter.detach().clone() for parameter in by_hand.parameters()]
    optimizer = sgd(list(by_hand.parameters()))
    for x, y in batches * 3:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(by_hand(x.double()), y)
        for parameter, start in zip(by_hand.parameters(), starts, strict=True):
            loss = loss + mu / 2 * ((parameter - start) ** 2).sum()
        loss.backward()
        optimizer.step()
    assert weight == 12
    before, after = to_arrays(module), to_arrays(by_hand)
    for name, update in found.items():
        assert update == pytest.approx(after[name] - before[name], abs=1e-12)


def test_proximal_mu_of_zero_is_local_training_without_it_to_the_last_bit() -> None:
    batches = [(torch.randn(4, 5), torch.randint(3, (4,))) for _ in range(3)]
    module = nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5))
    updates = []
    for options in ({}, {"proximal_mu": 0.0}, {"proximal_mu": 1.0}):
        local = LocalTraining(module, sgd, nn.CrossEntropyLoss(), epochs=2, seed=1, **options)
        updates.append(local(local.model, batches)[0]["0.weight"])
    assert np.array_equal(updates[0], updates[1])
    assert not np.array_equal(updates[0], updates[2])


def test_only_what_travels_is_trained() -> None:
    module, handed = perceptron(), []

    def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        handed.append([tuple(parameter.shape) for parameter in parameters])
        return sgd(parameters)

    local = LocalTraining(module, optimizer, nn.CrossEntropyLoss(), include="2.*")
    loader = DataLoader(examples(20, seed=1), batch_size=10)
    first, second = (local(local.model, loader)[0] for _ in range(2))
    assert handed == [[(3, 8), (3,)]] * 2
    assert first.keys() == {"2.weight", "2.bias"}
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_the_first_model_cannot_be_changed_by_who_asks_for_it() -> None:
    local = training()
    local.model["0.weight"][...] = 7.0
    assert not (local.model["0.weight"] == 7.0).any()


def test_evaluation_weighs_batches_by_their_examples() -> None:
    local = LocalTraining(nn.Linear(2, 1), sgd, nn.MSELoss())
    model = {"weight": np.zeros((1, 2)), "bias": np.ones(1)}
    batches = [(torch.zeros(3, 2), torch.zeros(3, 1)), (torch.zeros(1, 2), torch.full((1, 1), 5.0))]
    assert local.evaluate(model, batches) == (3 * 1 + 1 * 16) / 4
    assert local.evaluate(model, batches, lambda outputs, targets: (outputs > targets).float().mean()) == 0.75


def test_training_works_where_the_caller_has_turned_gradients_off() -> None:
    local = training()
    with torch.no_grad():
        update, _ = local(local.model, [(torch.ones(4, 4), LABELS)])
    assert all(array.any() for array in update.values())


def test_an_update_in_bfloat16_leaves_out_the_rounding_of_the_model() -> None:
    local = LocalTraining(nn.Linear(2, 1).bfloat16(), sgd, lambda outputs, targets: 0.0 * (outputs - targets).mean())
    model = {"weight": np.full((1, 2), 1.001, np.float32), "bias": np.full(1, 0.3, np.float32)}
    update, _ = local(model, [(torch.ones(2, 2).bfloat16(), torch.zeros(2, 1).bfloat16())])
    assert not any(array.any() for array in update.values())


def test_several_inputs_are_handed_to_the_module_in_their_order() -> None:
    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(2.0))

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return self.factor * (first - second)

    local = LocalTraining(Difference(), sgd, nn.MSELoss())
    batch = [torch.full((4,), 3.0), torch.full((4,), 1.0), torch.zeros(4)]
    assert local.evaluate(local.model, [batch]) == 16.0
    update, weight = local(local.model, [batch])
    assert weight == 4 and update["factor"] == pytest.approx(-0.1 * 16)  # the slope of (2 f)^2 is 8 f


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        ([], "the loader gave no batch in pass 1"),
        (DataLoader(examples(3, seed=1), batch_size=10, drop_last=True), "the loader gave no batch in pass 1"),
        (iter([(torch.ones(4, 4), LABELS)]), "the loader gave no batch in pass 2"),
        ([(torch.full((4, 4), torch.nan), LABELS)], "the loss of step 1 is not finite"),
        ([(torch.ones(4, 4), LABELS), (torch.ones(0, 4), LABELS[:0])], "the loss of step 2 is not finite"),
        ([{"inputs": torch.ones(4, 4)}], "the loader gave dict, needed batches"),
        ([(torch.ones(4, 4),)], "the loader gave tuple, needed batches"),
        ([(torch.ones(4), LABELS[0])], r"the loader gave targets of shape \(\)"),
    ],
)
def test_data_that_cannot_be_trained_on_reject_the_client_alone(loader: Any, reason: str) -> None:
    good = DataLoader(examples(20, seed=2), batch_size=10)
    local = training(epochs=2)
    federated = secfed.FedAvg(local, aggregator=secfed.SecAgg(threshold=3))
    [report] = federated.rounds(local.model, [good, loader, good, good], count=1)
    assert report.survivors == (1, 3, 4)
    assert report.rejected.keys() == {2}
    assert re.search(reason, report.rejected[2])


def test_a_loss_for_each_example_is_refused() -> None:
    local = LocalTraining(perceptron(), sgd, nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(EncodingError, match=r"the loss has shape \(4,\), needed a scalar"):
        local(local.model, [(torch.ones(4, 4), LABELS)])


def test_evaluation_without_examples_is_refused() -> None:
    local = training()
    with pytest.raises(EncodingError, match="the loader gave no example"):
        local.evaluate(local.model, [])


def test_a_model_that_does_not_fit_is_refused_by_training_and_evaluation() -> None:
    local = training()
    for call in (local, local.evaluate):
        with pytest.raises(EncodingError, match="the names differ"):
            call({"weight": np.zeros(3)}, [(torch.ones(4, 4), LABELS)])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"epochs": 1, "steps": 1}, "found epochs 1 and steps 1, needed only one"),
        ({"epochs": 0}, "epochs 0 must be a whole number of at least 1"),
        ({"steps": 2.5}, "steps 2.5 must be a whole number"),
        ({"steps": True}, "steps True must be a whole number"),
        ({"seed": -1}, "seed -1 must be a whole number"),
        ({"proximal_mu": -0.5}, "proximal_mu -0.5 must be at least 0 and finite"),
        ({"proximal_mu": float("nan")}, "proximal_mu nan must be at least 0 and finite"),
        ({"include": "typo"}, "include 'typo' matches no name"),
        ({"module": 3}, "module 3 must be a function or a module"),
        ({"module": dict}, "module makes dict, needed a torch.nn.Module"),
        ({"module": nn.BatchNorm1d(2, affine=False)}, "found no parameter that travels and requires a gradient"),
    ],
)
def test_local_training_that_cannot_work_is_refused(options: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        training(**options)
    with pytest.raises(ConfigError, match="optimizer 3 must be a function"):
        LocalTraining(perceptron(), 3, nn.MSELoss())


def test_a_federation_learns_alike_under_secure_aggregation_and_in_the_clear() -> None:
    module, test = perceptron(), DataLoader(examples(300, seed=9), batch_size=300)
    loaders = [DataLoader(examples(20 + 10 * seed, seed), batch_size=10, shuffle=True) for seed in range(5)]
    losses = {}
    for aggregator in (secfed.SecAgg(threshold=3, clip=CLIP), secfed.Plain()):
        local = training(module, epochs=6, seed=1)
        *_, last = secfed.FedAvg(local, aggregator=aggregator).rounds(local.model, loaders, count=5)
        losses[type(aggregator)] = local.evaluate(last.model, test)
    assert losses[secfed.SecAgg] < 0.6 * local.evaluate(local.model, test)
    assert losses[secfed.SecAgg] == pytest.approx(losses[secfed.Plain], abs=1e-3)


def test_a_tied_model_learns_to_repeat_its_tokens() -> None:
    tokens = torch.arange(6).repeat(4)
    local = training(Tied(), epochs=5)
    federated = secfed.FedAvg(local, aggregator=secfed.SecAgg(threshold=2, clip=CLIP))
    *_, last = federated.rounds(local.model, [[(tokens, tokens)]] * 3, count=4)
    assert last.model.keys() == {"embedding.weight"}

    def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs.argmax(dim=1) == targets).float().mean()

    assert local.evaluate(last.model, [(tokens, tokens)], accuracy) == 1.0


def test_the_example_in_the_docstring_runs() -> None:
    outcome = doctest.testmod(module_of_integration)
    assert outcome.attempted and not outcome.failed


# Files


class Everything(nn.Module):
    """Tied, frozen, not contiguous, of several dtypes, with buffers of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.tied = Tied()
        self.convolutional = Convolutional()
        self.half = nn.Linear(3, 2).bfloat16()
        self.transposed = nn.Parameter(torch.randn(3, 2).T)
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("bound", torch.tensor([-torch.inf, 0.0]))


def test_a_saved_module_comes_back_exactly(tmp_path: Path) -> None:
    module, other = Everything(), Everything()
    module.convolutional(torch.randn(5, 1, 6, 6))
    module.mask.logical_not_()
    save(module, tmp_path / "model.safetensors")
    load(other, str(tmp_path / "model.safetensors"))
    assert_same(other, copied(module))
    assert other.tied.decoder.weight is other.tied.embedding.weight
    assert "tied.decoder.weight" not in load_file(tmp_path / "model.safetensors")


def test_a_file_may_have_any_name_of_tied_parameters_and_another_precision(tmp_path: Path) -> None:
    module = Tied()
    save_file({"decoder.weight": torch.full((6, 4), 0.5, dtype=torch.bfloat16)}, tmp_path / "tied.safetensors")
    load(module, tmp_path / "tied.safetensors")
    assert bool((module.embedding.weight == 0.5).all()) and module.embedding.weight.dtype == torch.float32


def test_infinite_values_in_a_file_are_no_overflow(tmp_path: Path) -> None:
    mask = torch.tensor([-torch.inf, 0.0, torch.inf])
    save_file({"weight": torch.ones(1, 1), "bias": torch.ones(1), "mask": mask}, tmp_path / "mask.safetensors")
    module = nn.Linear(1, 1)
    module.register_buffer("mask", torch.zeros(3))
    load(module.half(), tmp_path / "mask.safetensors")
    assert module.mask.tolist() == mask.tolist() and module.mask.dtype == torch.float16


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"2.bias": None}, r"missing \['2.bias'\]"),
        ({"3.bias": torch.zeros(3)}, r"not expected \['3.bias'\]"),
        ({"2.bias": torch.zeros(2)}, r"2.bias has shape \(2,\), needed \(3,\)"),
        ({"2.bias": torch.zeros(3, dtype=torch.int64)}, "2.bias has dtype torch.int64, needed torch.float16"),
        ({"2.bias": torch.full((3,), 1e5)}, "2.bias holds a value that is too large for torch.float16"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path, change: Any, reason: str) -> None:
    module = perceptron().half()
    before = copied(module)
    tensors = {name: tensor + 1 for name, tensor in before.items()} | change
    save_file({n: t for n, t in tensors.items() if t is not None}, tmp_path / "model.safetensors")
    with pytest.raises(EncodingError, match=reason):
        load(module, tmp_path / "model.safetensors")
    assert_same(module, before)


@pytest.mark.parametrize("name", ["sparse", "quantized", "meta"])
@pytest.mark.filterwarnings("ignore:.*quantize:")
def test_a_module_without_plain_values_is_not_saved(tmp_path: Path, name: str) -> None:
    module = nn.Linear(2, 2, device="meta" if name == "meta" else None)
    if name == "sparse":
        module.register_buffer("graph", torch.eye(2).to_sparse())
    if name == "quantized":
        module.register_buffer("graph", torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8))
    with pytest.raises(EncodingError, match=f"(graph|weight) is (on the )?{name}"):
        save(module, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_pickle_is_no_model(tmp_path: Path) -> None:
    torch.save(perceptron().state_dict(), tmp_path / "model.pt")
    with pytest.raises(EncodingError, match=r"model.pt is not a safetensors file"):
        load(perceptron(), tmp_path / "model.pt")


def test_without_safetensors_files_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for call in (save, load):
        with pytest.raises(MissingExtraError, match='safetensors is not installed; it comes with the extra "torch"'):
            call(perceptron(), tmp_path / "model.safetensors")
