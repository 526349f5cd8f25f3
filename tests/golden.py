"""How a network is filled by a formula, so that what it must compute can be written down without its weights."""

import hashlib
import math

import torch
from torch import Tensor, nn


def det(shape: tuple[int, ...], a: int, b: int, m: int) -> Tensor:
    """Return numbers in [-2, 2) by a rule over the flat index, in float64."""
    return ((torch.arange(math.prod(shape)) * a + b) % m).double().reshape(shape) / m * 4 - 2


def fill(network: nn.Module) -> None:
    """Fill all tensors of the state dict, in the order of their sorted names, so that activations stay of size one."""
    state = network.state_dict()
    for index, name in enumerate(sorted(state)):
        tensor = state[name]
        x = ((torch.arange(tensor.numel()) * 7 + 3 * index) % 23).double().reshape(tensor.shape) / 23 - 0.5
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
        elif name.endswith("running_var"):
            tensor.copy_(1 + x)
        elif name.endswith(("running_mean", "bias")):
            tensor.copy_(0.1 * x)
        else:
            tensor.copy_(1 + 0.2 * x if tensor.ndim == 1 else x * 2 / math.sqrt(tensor[0].numel()))


def names_and_shapes(network: nn.Module, *, in_order: bool) -> str:
    """Return a digest of the state dict's lines "name (sizes)", in their order or sorted."""
    lines = [f"{name} {tuple(tensor.shape)}" for name, tensor in network.state_dict().items()]
    return hashlib.sha256("\n".join(lines if in_order else sorted(lines)).encode()).hexdigest()[:16]
