"""PyTorch: tensors of a module to arrays and back; local training for `secfed.FedAvg`; safetensors files.

By default every floating-point tensor of a module's state travels, except for parameters that do not require a
gradient. Everything else in the receiving module stays as it is: frozen parameters, integer and boolean buffers
(the `num_batches_tracked` of BatchNorm), and buffers that are not persistent. A tensor with two names (tied
parameters) travels once, under its first name.

NumPy has no bfloat16. Therefore tensors of less than 32 bits travel as float32, which holds all their values, and
are rounded to their own dtype when they are loaded.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.errors import ConfigError, EncodingError, MissingExtraError

try:
    import torch
except ImportError as error:
    raise MissingExtraError("torch", "torch") from error

Arrays = dict[str, npt.NDArray[Any]]
Include = str | Iterable[str] | Callable[[str, torch.Tensor], bool] | None


def to_arrays(
    source: torch.nn.Module | Mapping[str, torch.Tensor], *, include: Include = None, buffers: bool = True
) -> Arrays:
    """Copy the tensors of a module that travel to NumPy arrays, which aggregators and `secfed.FedAvg` take.

    Args:
        source: A module. Or a state dict: it does not say which of its tensors are buffers or frozen, so all its
            floating-point tensors travel. Tensors may be on any device and need not be contiguous.
        include: Which tensors travel: a pattern of names (`"*.lora_*"`, as `fnmatch` reads it), several patterns, or a
            function `include(name, tensor) -> bool`. What is included travels even if it is frozen. None: parameters
            that require a gradient, and buffers.
        buffers: Whether floating-point buffers travel too, such as `running_mean` and `running_var` of BatchNorm.

    Returns:
        Arrays by name, with the shapes of the tensors, of float64 for float64 and else of float32. They share no memory
        with the tensors. Values that are not finite are in them; aggregators refuse them with `EncodingError`.

    Raises:
        ConfigError: Nothing travels, a pattern matches nothing, `include` is something else, or `buffers` is false for
            a state dict.
        EncodingError: A tensor that would travel is complex, sparse, on the meta device, expanded or not initialized.
    """
    return _copied(_traveling(source, include, buffers))


def load_arrays(
    target: torch.nn.Module | Mapping[str, torch.Tensor],
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    include: Include = None,
    buffers: bool = True,
) -> None:
    """Write arrays into a module, such as the model of a round's report; everything is checked before the first write.

    Args:
        target: The module, or a state dict, whose tensors are written in place.
        arrays: By name, of any float dtype: all that travel, as `to_arrays` with the same options gives them.
        include: Which tensors travel: a pattern of names, several patterns, or a function, as `to_arrays` was given.
        buffers: Whether floating-point buffers travel too, such as `running_mean` and `running_var` of BatchNorm.

    Raises:
        ConfigError: Nothing travels, a pattern matches nothing, or the target does not allow `include` or `buffers`.
        EncodingError: A name is missing or not expected; an array has another shape, or is not an array of
            floating-point numbers; a value is not finite, or too large for its dtype. Nothing has been written.
    """
    _load(_traveling(target, include, buffers), arrays)


class LocalTraining:
    """Local training of a PyTorch module, as the `local_update` of `secfed.FedAvg`.

    Every client starts from the round's model, a new optimizer, and the same values of the tensors that do not travel.
    The module and the global random state do not change: training works on a copy, with its own random stream.

    Args:
        module: The module, which is copied, or a function that makes one. If it is in evaluation mode as a whole, its
            copy is put in training mode; parts of it that are in evaluation mode stay so.
        optimizer: `optimizer(parameters) -> torch.optim.Optimizer`; gets a list of the parameters that travel and
            require a gradient.
        loss: `loss(outputs, targets) -> scalar tensor`, such as `torch.nn.CrossEntropyLoss()`.
        epochs: Passes over a client's loader; 1 if `steps` is not given.
        steps: Optimizer steps instead of `epochs`; the loader starts over where it ends.
        include: Which tensors travel and are trained, as for `to_arrays`.
        buffers: Whether floating-point buffers travel, as for `to_arrays`. Those that do not are reset before each
            client.
        proximal_mu: FedProx (Li et al., MLSys 2020): adds `proximal_mu` times a parameter's distance from the model of
            the round to its gradient, so that clients with different data drift apart less. 0 is FedAvg.
        seed: Of the random stream for shuffling and dropout; None takes `torch.initial_seed()`, which
            `torch.manual_seed` sets. Secrets never come from it.

    Raises:
        ConfigError: A parameter is out of range or of the wrong type, or no parameter that travels can be trained.

    >>> import secfed
    >>> batches = [(torch.ones(4, 2), torch.full((4, 1), float(target))) for target in (1, 2, 3)]
    >>> local = LocalTraining(
    ...     torch.nn.Linear(2, 1), lambda p: torch.optim.SGD(p, lr=0.1), torch.nn.MSELoss(), steps=20
    ... )
    >>> training = secfed.FedAvg(local, aggregator=secfed.SecAgg(threshold=2))
    >>> [report] = training.rounds(local.model, [[batch] for batch in batches], count=1)
    >>> round(local.evaluate(report.model, batches, lambda outputs, targets: outputs.mean()), 2)
    2.0
    """

    def __init__(
        self,
        module: torch.nn.Module | Callable[[], torch.nn.Module],
        optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        *,
        epochs: int | None = None,
        steps: int | None = None,
        include: Include = None,
        buffers: bool = True,
        proximal_mu: float = 0.0,
        seed: int | None = None,
    ) -> None:
        if epochs is not None and steps is not None:
            raise ConfigError(f"found epochs {epochs} and steps {steps}, needed only one")
        for name, count in (("epochs", epochs), ("steps", steps)):
            if count is not None and (not isinstance(count, int | np.integer) or count is True or count < 1):
                raise ConfigError(f"{name} {count!r} must be a whole number of at least 1")
        if seed is not None and (not isinstance(seed, int | np.integer) or not 0 <= seed < 1 << 63):
            raise ConfigError(f"seed {seed!r} must be a whole number from 0 to 2^63 - 1")
        for name, function in (("module", module), ("optimizer", optimizer), ("loss", loss)):
            if not callable(function):
                raise ConfigError(f"{name} {function!r:.100} must be a function" + " or a module" * (name == "module"))
        if not 0 <= proximal_mu < math.inf:
            raise ConfigError(f"proximal_mu {proximal_mu} must be at least 0 and finite")
        with torch.random.fork_rng([]):  # a function draws the first weights
            self._module = copy.deepcopy(module) if isinstance(module, torch.nn.Module) else module()
        if not isinstance(self._module, torch.nn.Module):
            raise ConfigError(f"module makes {type(self._module).__name__}, needed a torch.nn.Module")
        if not self._module.training:
            self._module.train()
        self._tensors = _traveling(self._module, include, buffers)
        traveling = {id(tensor) for tensor in self._tensors.values()}
        # The other parameters do not change: the optimizer does not have them.
        self._reset = [(t, t.clone()) for t in self._module.buffers() if id(t) not in traveling]
        self._parameters = [t for t in self._module.parameters() if t.requires_grad and id(t) in traveling]
        if not self._parameters:
            raise ConfigError("found no parameter that travels and requires a gradient, needed one")
        self._device = self._parameters[0].device
        self._optimizer, self._loss = optimizer, loss
        self._steps, self._epochs, self._mu = steps, epochs or 1, float(proximal_mu)
        self._seeds = torch.Generator().manual_seed(torch.initial_seed() % (1 << 63) if seed is None else seed)
        self._start = _copied(self._tensors)

    @property
    def model(self) -> Arrays:
        """The model to start from: the module's tensors that travel, by name, as `to_arrays` returns them."""
        return {name: array.copy() for name, array in self._start.items()}

    def __call__(self, model: Mapping[str, npt.NDArray[Any]], loader: Iterable[Any]) -> tuple[Arrays, int]:
        """Train on one client's data from a model.

        Args:
            model: Arrays by name, as `model` has them; they stay as they are.
            loader: A `torch.utils.data.DataLoader`, or anything else that gives batches of `(inputs, targets)` each
                time it is iterated. With several inputs, `(first, second, ..., targets)`.

        Returns:
            The update, float32 or float64 arrays by name: what training added to the model as the module holds it, so
            it does not include the rounding to bfloat16. And its weight: the number of examples in the first pass over
            the loader.

        Raises:
            EncodingError: The model differs from the module; the loader is empty, or does not give batches; the loss is
                not finite. `secfed.FedAvg` then continues without this client and says why in `RoundReport.rejected`.
        """
        self._begin(model)
        before = _copied(self._tensors)
        seed = int(torch.randint(1 << 62, (), generator=self._seeds))
        with _own_randomness(self._device, seed), torch.enable_grad():
            weight = self._train(loader)
        after = _copied(self._tensors)
        return {name: np.asarray(after[name] - before[name]) for name in after}, weight

    def evaluate(
        self,
        model: Mapping[str, npt.NDArray[Any]],
        loader: Iterable[Any],
        metric: Callable[[torch.Tensor, torch.Tensor], Any] | None = None,
    ) -> float:
        """Return the mean of a metric over all examples of a loader, in evaluation mode.

        Args:
            model: Arrays by name, as `model` has them.
            loader: Batches of `(inputs, targets)`, such as a `torch.utils.data.DataLoader`.
            metric: `metric(outputs, targets)`: the mean over one batch. None takes the loss.

        Raises:
            EncodingError: The model differs from the module; the loader is empty, or does not give batches.
        """
        self._begin(model)
        modes = [(part, part.training) for part in self._module.modules()]
        self._module.eval()
        total, examples = 0.0, 0
        try:
            with torch.random.fork_rng([]), torch.no_grad():  # a loader draws a seed whenever it is iterated
                for batch in loader:
                    inputs, targets = self._batch(batch)
                    total += len(targets) * float((metric or self._loss)(self._module(*inputs), targets))
                    examples += len(targets)
        finally:
            for part, training in modes:
                part.training = training
        if not examples:
            raise EncodingError("the loader gave no example, needed at least one")
        return total / examples

    def _begin(self, model: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put the module in the state from which every client starts."""
        _load(self._tensors, model)
        with torch.no_grad():
            for tensor, value in self._reset:
                tensor.copy_(value)
        self._module.zero_grad()

    def _train(self, loader: Iterable[Any]) -> int:
        """Train, and return the number of examples in the first pass."""
        optimizer = self._optimizer(self._parameters)
        starts = [(parameter, parameter.detach().clone()) for parameter in self._parameters if self._mu]
        steps = epochs = examples = 0
        while steps < self._steps if self._steps else epochs < self._epochs:
            before = steps
            for batch in loader:
                inputs, targets = self._batch(batch)
                self._module.zero_grad()
                loss = self._loss(self._module(*inputs), targets)
                steps += 1
                if loss.ndim:
                    raise EncodingError(f"the loss has shape {tuple(loss.shape)}, needed a scalar, such as the mean")
                if not bool(torch.isfinite(loss)):
                    raise EncodingError(f"the loss of step {steps} is not finite")
                loss.backward()
                for parameter, start in starts:
                    if parameter.grad is not None:
                        parameter.grad.add_(parameter.detach() - start, alpha=self._mu)
                optimizer.step()
                examples += len(targets) if epochs == 0 else 0
                if steps == self._steps:
                    break
            if steps == before:
                raise EncodingError(f"the loader gave no batch in pass {epochs + 1}, needed at least one")
            epochs += 1
        return examples

    def _batch(self, batch: Any) -> tuple[list[Any], torch.Tensor]:
        """Split a batch into inputs and targets, on the module's device."""
        if not (isinstance(batch, tuple | list) and len(batch) > 1 and isinstance(batch[-1], torch.Tensor)):
            raise EncodingError(f"the loader gave {type(batch).__name__}, needed batches (inputs, targets) of tensors")
        if batch[-1].ndim == 0:
            raise EncodingError("the loader gave targets of shape (), needed a batch: their first axis counts examples")
        moved = [part.to(self._device) if isinstance(part, torch.Tensor) else part for part in batch]
        return moved[:-1], moved[-1]


def save(module: torch.nn.Module, path: str | os.PathLike[str]) -> None:
    """Write all parameters and persistent buffers of a module to a safetensors file, which holds no code (no pickle).

    Args:
        module: Of any dtypes; frozen parameters and integer buffers are written too, tied parameters once.
        path: The file, which is overwritten.

    Raises:
        MissingExtraError: safetensors is not installed.
        EncodingError: A tensor is sparse, quantized, on the meta device, expanded or not initialized.
    """
    safetensors = _safetensors()
    tensors = {names[0]: tensor for names, tensor in _grouped(_state(module))}
    safetensors.torch.save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, os.fspath(path))


def load(module: torch.nn.Module, path: str | os.PathLike[str]) -> None:
    """Read a safetensors file into a module; everything is checked before the first write.

    Args:
        module: Has the names and shapes of the module that was saved; dtypes may differ among floating-point ones.
            Of tied parameters the file may have any name.
        path: A file that `save` or another program wrote.

    Raises:
        MissingExtraError: safetensors is not installed.
        EncodingError: The file is not a safetensors file; a name is missing or not expected; a shape or kind of dtype
            differs; a value is too large for the module's dtype. Nothing has been written.
    """
    safetensors = _safetensors()
    try:
        found = safetensors.torch.load_file(os.fspath(path))
    except safetensors.SafetensorError as error:
        raise EncodingError(f"{os.fspath(path)} is not a safetensors file: {error}") from None
    groups = list(_grouped(_state(module)))
    first = {name: names[0] for names, _ in groups for name in names}
    _write({names[0]: tensor for names, tensor in groups}, {first.get(name, name): t for name, t in found.items()})


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingExtraError("torch", "safetensors") from error
    return safetensors


@contextmanager
def _own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Draw from a stream with this seed, and restore the global stream afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed devices that are not put back
        if device.type == "cuda":
            torch.cuda.default_generators[device.index].manual_seed(seed)
        yield


def _state(source: Any) -> dict[str, torch.Tensor]:
    """The parameters and persistent buffers of a module themselves (not copies), or the tensors of a state dict."""
    if not isinstance(source, torch.nn.Module):
        return {name: tensor for name, tensor in source.items() if isinstance(tensor, torch.Tensor)}
    state = dict(source.named_parameters(remove_duplicate=False))
    persistent = source.state_dict().keys()
    return state | {n: t for n, t in source.named_buffers(remove_duplicate=False) if n in persistent}


def _grouped(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Yield each tensor once, with all its names."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in state.items():
        _check_dense(name, tensor)
        # A state dict has a new tensor for every name, but it is of the same memory.
        memory = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        groups.setdefault(memory if tensor.numel() else name, []).append(name)
    yield from ((names, state[names[0]]) for names in groups.values())


def _traveling(source: Any, include: Include, buffers: bool) -> dict[str, torch.Tensor]:
    """Choose what travels, each tensor once."""
    is_module = isinstance(source, torch.nn.Module)
    if not is_module and not isinstance(source, Mapping):
        raise ConfigError(f"found {type(source).__name__}, needed a torch.nn.Module or its state dict")
    if not is_module and not buffers:
        raise ConfigError("a state dict does not say what is a buffer: leave them out by include, or pass the module")
    real = {n: t for n, t in _state(source).items() if t.is_floating_point() or t.is_complex()}
    parameters = {name for name, tensor in real.items() if isinstance(tensor, torch.nn.Parameter)}
    candidates = real if buffers else {name: real[name] for name in real if name in parameters}
    if include is None:
        chosen = {n for n, t in candidates.items() if not is_module or t.requires_grad or n not in parameters}
    elif callable(include):
        chosen = {name for name, tensor in candidates.items() if include(name, tensor)}
    else:
        chosen = _matching(candidates, [include] if isinstance(include, str) else include)
    if not chosen:
        raise ConfigError("found no floating-point tensor that travels, needed at least one: all may be frozen")
    tensors = {names[0]: t for names, t in _grouped({n: t for n, t in candidates.items() if n in chosen})}
    for name, tensor in tensors.items():
        if tensor.is_complex():
            raise EncodingError(f"{name} is complex, needed real numbers: leave it out, or keep its view_as_real")
    return tensors


def _matching(names: Iterable[str], include: Any) -> set[str]:
    patterns = list(include) if isinstance(include, Iterable) else [include]
    chosen: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ConfigError(f"include holds {pattern!r:.100}, needed patterns, or a function of name and tensor")
        found = {name for name in names if fnmatchcase(name, pattern)}
        if not found:
            raise ConfigError(f"include {pattern!r} matches no name that could travel, such as {list(names)[:3]}")
        chosen |= found
    return chosen


def _check_dense(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor that has no values in memory of its own."""
    if torch.nn.parameter.is_lazy(tensor):
        raise EncodingError(f"{name} is not initialized: run the module once, on one batch")
    if tensor.device.type == "meta":
        raise EncodingError(f"{name} is on the meta device, needed values: load the module first")
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise EncodingError(f"{name} is {'quantized' if tensor.is_quantized else 'sparse'}, needed a dense tensor")
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        raise EncodingError(f"{name} is expanded, several values in the same memory: make it contiguous")


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return it in a dtype that NumPy has, with the same values."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _copied(tensors: Mapping[str, torch.Tensor]) -> Arrays:
    return {name: _wide(tensor.detach().cpu()).numpy().copy() for name, tensor in tensors.items()}


def _tensor(name: str, array: Any) -> torch.Tensor:
    """Copy an array to a tensor."""
    if isinstance(array, np.ma.MaskedArray):
        raise EncodingError(f"{name} is a masked array, needed a plain one: use its method filled")
    if not isinstance(array, np.ndarray | np.generic) or array.dtype.kind != "f":
        kind = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise EncodingError(f"{name} is {kind}, needed an array of floating-point numbers")
    if not np.isfinite(array).all():
        raise EncodingError(f"{name} holds a value that is not finite")
    # A copy: PyTorch takes neither foreign byte order nor negative strides, and warns of arrays that are read-only.
    return torch.from_numpy(np.array(array, np.float64 if array.dtype.itemsize > 4 else np.float32))


def _load(tensors: Mapping[str, torch.Tensor], arrays: Any) -> None:
    if not isinstance(arrays, Mapping):
        raise EncodingError(f"found {type(arrays).__name__}, needed a dictionary of arrays by name")
    _write(tensors, {name: _tensor(name, array) for name, array in arrays.items()})


def _write(tensors: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    """Check all values, then write all."""
    missing, odd = [n for n in tensors if n not in values], [n for n in values if n not in tensors]
    if missing or odd:
        texts = [f"{word} {names[:3]}" for word, names in (("missing", missing), ("not expected", odd)) if names]
        raise EncodingError(f"the names differ: {'; '.join(texts)} ({len(missing)} and {len(odd)} in all)")
    ready = []
    for name, tensor in tensors.items():
        value = values[name]
        if value.shape != tensor.shape:
            raise EncodingError(f"{name} has shape {tuple(value.shape)}, needed {tuple(tensor.shape)}")
        if value.dtype != tensor.dtype and not (value.is_floating_point() and tensor.is_floating_point()):
            raise EncodingError(f"{name} has dtype {value.dtype}, needed {tensor.dtype}")
        if value.dtype != tensor.dtype:
            size = _wide(value).abs()
            if bool(((size > torch.finfo(tensor.dtype).max) & size.isfinite()).any()):
                raise EncodingError(f"{name} holds a value that is too large for {tensor.dtype}")
        ready.append((tensor, value))
    with torch.no_grad():
        for tensor, value in ready:
            tensor.copy_(value)
