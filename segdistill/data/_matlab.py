"""A matrix in a MATLAB file of version 5, by MathWorks' "MAT-File Format": SciPy's reader crashes on damaged bytes."""

import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segdistill.data._base import StoredLabel
from segdistill.data._image import MAX_PIXELS
from segdistill.errors import DataError

HEADER = 128
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
"""What the numbers are stored as, by the number of the type."""
CLASSES = (
    *("none", "cell", "struct", "object", "char", "sparse", "double", "single"),
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
)
"""What they are in MATLAB, which may store them as smaller ones."""


def read_mat(path: Path, name: str, expected: str) -> StoredLabel:
    """Read the label map in a file, which has that name there.

    Raises:
        DataError: if it is damaged, or no such file; `expected` says what it should be.
    """
    try:
        return StoredLabel(read_matrix(path.read_bytes(), name, 2 * MAX_PIXELS))
    except (OSError, ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.", expected) from None


def read_matrix(content: bytes, name: str, most: int) -> npt.NDArray[np.uint8 | np.uint16]:
    """Return a matrix of whole numbers up to 65535 by its name.

    Args:
        content: of the file.
        name: the variable's.
        most: bytes that may come out of what is compressed, of all variables together.

    Raises:
        ValueError: if there is no such matrix, or the file is damaged.
        struct.error, zlib.error: likewise.
    """
    order = {b"\0\1IM": "<", b"\1\0MI": ">"}.get(content[HEADER - 4 : HEADER])
    if order is None:
        raise ValueError("it is no MATLAB file of version 5")
    left = most
    for kind, data in _elements(content[HEADER:], order):
        if kind == COMPRESSED:
            unpacking = zlib.decompressobj()
            data = unpacking.decompress(data, left)
            if unpacking.unconsumed_tail:
                raise ValueError(f"more than {most} bytes come out of it")
            left = max(1, left - len(data))  # no limit is a 0 to zlib
            kind, data = next(_elements(data, order), (0, b""))
        if kind == MATRIX:
            (_, flags), (_, shape), (_, own), *parts = islice(_elements(data, order), 5)  # one more than a matrix has
            if own == name.encode():
                kept = struct.unpack_from(f"{order}I", flags)[0] & 0xF
                return _matrix(name, CLASSES[kept], np.frombuffer(shape, f"{order}i4").tolist(), parts, order)
    raise ValueError(f"there is no {name} in it")


def _matrix(
    name: str, kept: str, shape: list[int], parts: list[tuple[int, bytes]], order: str
) -> npt.NDArray[np.uint8 | np.uint16]:
    if kept not in ("uint8", "uint16", "double") or len(shape) != 2 or len(parts) != 1 or parts[0][0] not in NUMBERS:
        raise ValueError(f"{name} is {kept} of shape {shape}")
    (kind, data), (height, width) = parts[0], shape
    values = np.frombuffer(data, order + NUMBERS[kind])
    if height < 0 or width < 0 or height * width != len(values):
        raise ValueError(f"{name} has {len(values)} numbers for {height}x{width}")
    with np.errstate(invalid="ignore"):  # what is not finite comes out as something, and is found below
        ids = values.astype("uint8" if kept == "uint8" else "uint16")
    if (ids != values).any():
        raise ValueError(f"{name} has numbers that are no ids")
    return ids.reshape(shape, order="F")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of what follows one another."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # up to four bytes stand behind their type and number in one word
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        if start + size > len(data):
            raise ValueError("it is cut short")
        yield kind, data[start : start + size]
        at = start + size + (0 if kind == COMPRESSED else -(start + size) % 8)
