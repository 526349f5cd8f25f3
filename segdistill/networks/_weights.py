"""Files of weights that others wrote: read without running any code of theirs, and compared with what a network has."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from segdistill.errors import ModelError, UsageError, out_of_memory
from segdistill.networks._pickle import read_pickle
from segdistill.reading import open_file

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net")
"""Under which of a training's entries the weights are, where a file holds more than them."""
MOST_WRAPPERS = 3
"""Inside one another: a hostile file's may never end."""
UNCOUNTED = "num_batches_tracked"
"""What files lack that were written before PyTorch 0.4.1. Only a batch norm without momentum would read it."""
FEW, LONGEST = 3, 200
"""Names in a message, and letters of one."""
MAX_HEADER = 1 << 22
"""Bytes of a .safetensors file's header: ten times what any network here needs. A reader builds a table of it."""
KINDS = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool}
"""Of numbers, in weights and counts."""


class Weights(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    beside: dict[str, int]
    """Entries that were not taken, with the tensors they hold: none in the epoch or an optimiser's state."""


def read_weights(file: Path) -> Weights:
    """Read .safetensors, or a pickle that holds nothing but tensors and plain values.

    Raises:
        UsageError: if there is no such file.
        ModelError: if it is damaged, holds no state dict, or could only be read by running code from it.
    """
    if not file.is_file():
        raise UsageError(f"There is no weights file {file}.", "It is a .safetensors, .pth or .pt file.")
    try:
        state = _safetensors(file) if file.suffix == ".safetensors" else _unpickled(file)
    except ModelError:
        raise
    except Exception as error:  # whatever a damaged file leads to
        if out_of_memory(error) and not isinstance(error, MemoryError):  # which a length in a forged file leads to
            raise
        raise ModelError(
            f"{file} cannot be read as tensors ({type(error).__name__}).",
            "Expected is .safetensors, or .pth with nothing but tensors. If it is one, it is damaged: fetch it again.",
        ) from None
    beside: dict[str, int] = {}
    for _ in range(MOST_WRAPPERS):
        wrapper = next((key for key in WRAPPERS if isinstance(state, dict) and isinstance(state.get(key), dict)), None)
        if wrapper is not None:
            beside |= {str(key): _tensors(value) for key, value in state.items() if key != wrapper}
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        found = f"a dictionary with {_few(map(str, state))}" if isinstance(state, dict) else f"a {type(state).__name__}"
        raise ModelError(
            f"{file} is not a state dict, but {found}.",
            f"Expected is one dictionary, from tensor names to tensors, alone or as {', '.join(WRAPPERS)}.",
        )
    most = file.stat().st_size
    if odd := [name for name, tensor in state.items() if not _is_plain(tensor, most)]:
        raise ModelError(
            f"{file} holds {len(odd)} tensors that are no plain numbers, {_few(odd)}.",
            "Expected are dense tensors on the CPU, no larger than the file.",
        )
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


def check_header(file: Path) -> None:
    """Refuse a .safetensors file whose header alone would fill the memory.

    Raises:
        ValueError: if it says that its header has more than `MAX_HEADER` bytes.
        OSError: if the file cannot be read.
    """
    with open_file(file) as content:
        size = int.from_bytes(content.read(8), "little")
    if size > MAX_HEADER:
        raise ValueError(f"its header would have {size} bytes")


def _safetensors(file: Path) -> dict[str, Tensor]:
    check_header(file)
    return safetensors.torch.load_file(file)


def _tensors(entry: Any) -> int:
    return sum(isinstance(value, Tensor) for value in entry.values()) if isinstance(entry, dict) else 0


def _is_plain(tensor: Tensor, most: int) -> bool:
    """Whether a tensor is dense numbers in memory, and no few of them repeated to more than `most` bytes."""
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype in KINDS
    return dense and tensor.numel() * tensor.element_size() <= most


def _unpickled(file: Path) -> Any:
    with open_file(file) as content:
        return read_pickle(content, file)


def _few(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(name[:LONGEST] for name in first[:FEW]) + (", ..." if len(first) > FEW else "")


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
