"""Weight files that others wrote: read without running any code of theirs, and compared with what a network has."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from segdistill.errors import ModelError, UsageError, out_of_memory
from segdistill.storage.files import open_file
from segdistill.storage.pickles import read_pickle
from segdistill.wording import counted, listed

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net")
"""Entries of a training's state under which the weights are, where a file holds more than them."""
MAX_WRAPPERS = 3
"""Wrappers inside one another: a hostile file's may never end."""
BATCH_COUNTER = "num_batches_tracked"
"""Names' end of tensors that files from before PyTorch 0.4.1 lack; only a batch norm without momentum reads them."""
MAX_TENSORS = 3
"""Names in a message."""
MAX_NAME_CHARACTERS = 200
"""Characters of a name in a message."""
MAX_HEADER_BYTES = 1 << 22
"""Bytes of a .safetensors file's header: ten times what any network here needs. A reader builds a table of it."""
PLAIN_DTYPES = {
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.bool,
}
"""Types of numbers that weights and counts have."""


class Weights(NamedTuple):
    """The content of a weight file."""

    tensors: dict[str, Tensor]
    other_entries: dict[str, int]
    """Entries that were not taken, with the tensors they hold: none in the epoch or an optimizer's state."""


def read_weights(file: Path) -> Weights:
    """Read .safetensors, or a pickle that holds nothing but tensors and plain values.

    Raises:
        UsageError: if there is no such file.
        ModelError: if it is damaged, holds no state dict, or could only be read by running code from it.
    """
    if not file.is_file():
        raise UsageError(f"There is no weights file {file}.", "It is a .safetensors, .pth or .pt file.")
    state, other_entries = _unwrap(_read_any(file))
    tensors = _checked_state_dict(file, state)
    _check_plain(file, tensors)
    return Weights(tensors, other_entries)


def mismatch(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> str:
    """Return which tensors are missing, unexpected or of another shape than a network's own; nothing where all fit."""
    misshaped = [name for name in expected.keys() & actual.keys() if expected[name].shape != actual[name].shape]
    problems = {
        "missing": [name for name in expected.keys() - actual.keys() if not name.endswith(BATCH_COUNTER)],
        "unexpected": list(actual.keys() - expected.keys()),
        "misshaped": [f"{name} ({_shape(actual[name])} instead of {_shape(expected[name])})" for name in misshaped],
    }
    sentences = [f"{counted(len(names), 'tensor')} {kind}, {_few(names)}" for kind, names in problems.items() if names]
    return "; ".join(sentences)


def check_header(file: Path) -> None:
    """Refuse a .safetensors file whose header alone would fill the memory.

    Raises:
        ValueError: if it says that its header has more than `MAX_HEADER_BYTES`.
        OSError: if the file cannot be read.
    """
    with open_file(file) as content:
        size = int.from_bytes(content.read(8), "little")
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"its header would have {size} bytes")


def _read_any(file: Path) -> Any:
    """Return the content of a weight file: tensors by name, or whatever a pickle holds.

    Raises:
        ModelError: if it is damaged, or could only be read by running code from it.
    """
    try:
        if file.suffix == ".safetensors":
            check_header(file)
            return safetensors.torch.load_file(file)
        with open_file(file) as content:
            return read_pickle(content, file)
    except ModelError:
        raise
    except Exception as error:  # whatever a damaged file leads to
        # MemoryError is what a length in a forged file leads to; libraries that run out of memory raise others.
        if out_of_memory(error) and not isinstance(error, MemoryError):
            raise
        raise ModelError(
            f"{file} cannot be read as tensors ({type(error).__name__}).",
            "Expected: .safetensors, or .pth with nothing but tensors. If it is one, it is damaged: download it again.",
        ) from None


def _unwrap(state: Any) -> tuple[Any, dict[str, int]]:
    """Return the weights inside a training's state, and the entries beside them with the tensors they hold."""
    other_entries: dict[str, int] = {}
    for _ in range(MAX_WRAPPERS):
        wrapper = _wrapper_of(state)
        if wrapper is None:
            break
        other_entries |= {str(key): _count_tensors(entry) for key, entry in state.items() if key != wrapper}
        state = state[wrapper]
    return state, other_entries


def _wrapper_of(state: Any) -> str | None:
    """Return the entry under which the weights are; None where there is no such entry."""
    if not isinstance(state, dict):
        return None
    return next((key for key in WRAPPERS if isinstance(state.get(key), dict)), None)


def _checked_state_dict(file: Path, state: Any) -> dict[str, Tensor]:
    """Return a file's content if it is tensors by name.

    Raises:
        ModelError: if it is anything else.
    """
    if not isinstance(state, dict):
        kind = f"a {type(state).__name__}"
    elif all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        return dict(state)
    else:
        kind = f"a dictionary with {_few(map(str, state))}"
    raise ModelError(
        f"{file} is not a state dict, but {kind}.",
        f"Expected: one dictionary, from tensor names to tensors, alone or as {', '.join(WRAPPERS)}.",
    )


def _check_plain(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose numbers are not all in the file, such as sparse ones.

    Raises:
        ModelError: if there are such.
    """
    file_bytes = file.stat().st_size
    odd = [name for name, tensor in tensors.items() if not _is_plain(tensor, file_bytes)]
    if odd:
        raise ModelError(
            f"{file} holds no plain numbers in {counted(len(odd), 'tensor')}, {_few(odd)}.",
            "Expected: dense tensors on the CPU, no larger than the file.",
        )


def _is_plain(tensor: Tensor, max_bytes: int) -> bool:
    """Whether a tensor is dense numbers in memory, and not a few of them repeated to more than `max_bytes`."""
    is_dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype in PLAIN_DTYPES
    return is_dense and tensor.numel() * tensor.element_size() <= max_bytes


def _count_tensors(entry: Any) -> int:
    if not isinstance(entry, dict):
        return 0
    return sum(isinstance(value, Tensor) for value in entry.values())


def _few(names: Iterable[str]) -> str:
    """Return the first names in their order, cut to what a message has room for."""
    return listed([name[:MAX_NAME_CHARACTERS] for name in sorted(names)], MAX_TENSORS)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
