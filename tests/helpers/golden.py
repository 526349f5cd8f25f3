"""How a network is filled by a formula, so that what it must compute can be written down without its weights."""

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor


def det(shape: tuple[int, ...], a: int, b: int, m: int) -> Tensor:
    """Return numbers in [-2, 2) by a rule over the flat index, in float64."""
    return ((torch.arange(math.prod(shape)) * a + b) % m).double().reshape(shape) / m * 4 - 2


def fill(state: Mapping[str, Tensor]) -> None:
    """Fill all tensors of a state dict, in the order of their sorted names, so that activations stay of size one."""
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


def names_and_shapes(state: Mapping[str, Tensor], *, in_order: bool) -> str:
    """Return a digest of a state dict's lines "name (sizes)", in their order or sorted."""
    lines = [f"{name} {tuple(tensor.shape)}" for name, tensor in state.items()]
    return hashlib.sha256("\n".join(lines if in_order else sorted(lines)).encode()).hexdigest()[:16]
