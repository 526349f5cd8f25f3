"""Tensors as files have them: their bytes and digests piece by piece, in little memory, and whether they are finite."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from segdistill.errors import CheckError
from segdistill.wording import counted, listed

MAX_PIECE = 1 << 20
"""Numbers of a tensor that are looked at, or written, at once."""
SAFETENSORS_DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Types that networks have, as safetensors calls them, in the order in which it lays them out."""
ALIGNMENT = 8
"""Bytes of which a .safetensors header has a multiple, so that the numbers behind it are aligned."""


def write_safetensors(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors, one after the other, in the bytes of `safetensors.torch.save` and little memory.

    The format is the header's length in 8 bytes, a JSON object of names with types, shapes and offsets, padded with
    spaces to a multiple of 8 bytes, and the numbers: the widest types first (github.com/huggingface/safetensors).
    """
    # The same order as the library's, so that a file's bytes do not depend on who wrote it.
    order = list(SAFETENSORS_DTYPES)
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": SAFETENSORS_DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    # As the library writes it: without blanks, and with letters of any language as they are.
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // ALIGNMENT) * ALIGNMENT)  # rounded up
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name in names:
        for piece in _pieces(tensors[name]):
            file.write(_bytes_of(piece))


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return one sha256 over names, shapes, types and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):  # a file has another order than a network
        tensor = weights[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        for piece in _pieces(tensor):
            digest.update(_bytes_of(piece))
    return digest.hexdigest()


def widest_type(weights: Mapping[str, Tensor]) -> torch.dtype:
    """Return float64 where there are such tensors, else float32, in which half precision is computed too."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in weights.values()) else torch.float32


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse to write tensors of which somebody would find only later that they are no use.

    Raises:
        CheckError: if one holds NaN or infinity.
    """
    bad = not_finite(tensors)
    if bad:
        raise CheckError(f"{path} was not written, as it would hold {describe_not_finite(bad)}.", "Lower optim.lr.")


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that hold NaN or infinity."""
    return [name for name, tensor in tensors.items() if tensor.is_floating_point() and not _is_finite(tensor)]


def describe_not_finite(names: list[str]) -> str:
    """Return in words which tensors are not finite: "1 tensor that is not finite, bias"."""
    verb = "is" if len(names) == 1 else "are"
    return f"{counted(len(names), 'tensor')} that {verb} not finite, {listed(names)}"


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of nested dictionaries and lists, with its path."""
    if isinstance(value, Tensor):
        yield name, value
        return
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        return
    for key, inner in items:
        yield from named_tensors(inner, f"{name}.{key}" if name else str(key))


def _is_finite(tensor: Tensor) -> bool:
    return all(bool(piece.isfinite().all()) for piece in _pieces(tensor))


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the rows of a tensor some at a time, so that what is computed of them, or their copy, takes little."""
    rows = tensor.detach()
    if rows.dim() == 0:  # a single number, such as a count of batches, has no rows
        rows = rows.reshape(1)
    rows_at_once = MAX_PIECE * len(rows) // max(1, rows.numel())
    yield from rows.split(max(1, rows_at_once))


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the numbers of a tensor in their order."""
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
