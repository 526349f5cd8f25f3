"""Files of weights that others wrote: read without running any code of theirs, and compared with what a network has."""

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from segdistill.errors import ModelError, UsageError

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")
"""Under which of a training's entries the weights are, where a file holds more than them."""
UNCOUNTED = "num_batches_tracked"
"""What files lack that were written before PyTorch 0.4.1. Only a batch norm without momentum would read it."""
FEW = 3
"""Names in a message."""


class Weights(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    beside: tuple[str, ...]
    """Entries that are no weights: the epoch, an optimiser's state and the like."""


def read_weights(file: Path) -> Weights:
    """Read .safetensors, or a pickle that holds nothing but tensors and plain values.

    Raises:
        UsageError: if there is no such file.
        ModelError: if it is damaged, holds no state dict, or could only be read by running code from it.
    """
    if not file.is_file():
        raise UsageError(f"There is no weights file {file}.", "It is a .safetensors, .pth or .pt file.")
    try:
        state = safetensors.torch.load_file(file) if file.suffix == ".safetensors" else _unpickled(file)
    except Exception as error:  # whatever a damaged pickle leads to; torch's own text advises to run its code
        if stranger := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ModelError(
                f"{file} holds more than tensors: reading it would run code ({stranger[1]}). It was not read.",
                "If you trust it, load it with the program that wrote it, and save its tensors alone: "
                'torch.save(model.state_dict(), "weights.pth").',
            ) from None
        raise ModelError(
            f"{file} cannot be read as tensors ({type(error).__name__}).",
            "Expected is .safetensors, or .pth with nothing but tensors. If it is one, it is damaged: fetch it again.",
        ) from None
    beside: tuple[str, ...] = ()
    wrapper = next((key for key in WRAPPERS if isinstance(state, dict) and isinstance(state.get(key), dict)), None)
    if wrapper is not None:
        beside = tuple(str(key) for key in state if key != wrapper)
        state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ModelError(f"{file} is not a state dict.", "Expected is one dictionary, from tensor names to tensors.")
    return Weights(dict(state), beside)


def mismatch(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Say which tensors are missing, unexpected or of another shape than a network's own; nothing where all fit."""
    problems = {
        "missing": [name for name in own.keys() - found.keys() if not name.endswith(UNCOUNTED)],
        "unexpected": found.keys() - own.keys(),
        "misshaped": [
            f"{name} ({_size(found[name])} instead of {_size(own[name])})"
            for name in own.keys() & found.keys()
            if own[name].shape != found[name].shape
        ],
    }
    return "; ".join(f"{len(names)} tensors {kind}, {_few(names)}" for kind, names in problems.items() if names)


def _unpickled(file: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles by other versions; whether it can be read is all that counts
        return torch.load(file, map_location="cpu", weights_only=True)


def _few(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:FEW]) + (", ..." if len(first) > FEW else "")


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
