"""A matrix in a MATLAB file of version 5, by MathWorks' "MAT-File Format": SciPy's reader crashes on damaged bytes."""

import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segdistill.data.base import Ids, StoredLabel
from segdistill.data.image_file import MAX_PIXELS
from segdistill.errors import DataError

HEADER_BYTES = 128
BYTE_ORDERS = {b"\0\1IM": "<", b"\1\0MI": ">"}
"""Version and byte order at the end of the header, from there to what `struct` calls the order."""
MATRIX, COMPRESSED = 14, 15
"""Types of the elements that matter here."""
NUMBER_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
"""NumPy's names for the types that numbers are stored as."""
CLASSES = (
    *("none", "cell", "struct", "object", "char", "sparse", "double", "single"),
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
)
"""Kinds of numbers in MATLAB, which may store them as smaller ones."""
ID_CLASSES = ("uint8", "uint16", "double")
"""Kinds in which label maps come."""


class _Element(NamedTuple):
    """A piece of the file: matrices consist of further ones."""

    kind: int
    data: bytes


class _Matrix(NamedTuple):
    """A matrix as the file holds it."""

    class_name: str
    """Kind of its numbers in MATLAB, one of `CLASSES`."""
    shape: list[int]
    numbers: list[_Element]
    """One element with the numbers; two where they are complex."""


def read_mat(path: Path, name: str, expected: str) -> StoredLabel:
    """Read the label map in a file, which has that name there.

    Raises:
        DataError: if it is damaged, or no such file; `expected` says what it should be.
    """
    try:
        return StoredLabel(read_matrix(path.read_bytes(), name, 2 * MAX_PIXELS))
    except (OSError, ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.", expected) from None


def read_matrix(content: bytes, name: str, max_bytes: int) -> Ids:
    """Return a matrix of whole numbers up to 65535 by its name.

    Args:
        content: the file's bytes.
        name: the variable's name.
        max_bytes: how many may come out of what is compressed, of all variables together.

    Raises:
        ValueError: if there is no such matrix, or the file is damaged.
        struct.error, zlib.error: likewise.
    """
    order = BYTE_ORDERS.get(content[HEADER_BYTES - 4 : HEADER_BYTES])
    if order is None:
        raise ValueError("it is no MATLAB file of version 5")
    for element in _unpacked_elements(content[HEADER_BYTES:], order, max_bytes):
        if element.kind != MATRIX:
            continue
        # One more part than a matrix of real numbers has: with imaginary ones it would be another.
        (_, flags), (_, shape), (_, matrix_name), *numbers = islice(_elements(element.data, order), 5)
        if matrix_name == name.encode():
            class_number = struct.unpack_from(f"{order}I", flags)[0] & 0xF
            sizes = np.frombuffer(shape, f"{order}i4").tolist()
            return _to_ids(name, _Matrix(CLASSES[class_number], sizes, numbers), order)
    raise ValueError(f"there is no {name} in it")


def _unpacked_elements(data: bytes, order: str, max_bytes: int) -> Iterator[_Element]:
    """Yield the elements of a file, compressed ones as what is in them.

    Raises:
        ValueError: on the way, if more than `max_bytes` come out of the compressed ones.
    """
    remaining = max_bytes
    for element in _elements(data, order):
        if element.kind != COMPRESSED:
            yield element
            continue
        unpacking = zlib.decompressobj()
        unpacked = unpacking.decompress(element.data, remaining)
        if unpacking.unconsumed_tail:
            raise ValueError(f"more than {max_bytes} bytes come out of it")
        remaining = max(1, remaining - len(unpacked))  # 0 would mean no limit to zlib
        yield from islice(_elements(unpacked, order), 1)


def _to_ids(name: str, matrix: _Matrix, order: str) -> Ids:
    """Return the numbers of a matrix as ids (H, W), in 8 bits where MATLAB has them so, else in 16.

    Raises:
        ValueError: if it is of another kind than label maps are, or one of its numbers is no id.
    """
    is_plane_of_ids = matrix.class_name in ID_CLASSES and len(matrix.shape) == 2
    if not is_plane_of_ids or len(matrix.numbers) != 1 or matrix.numbers[0].kind not in NUMBER_TYPES:
        raise ValueError(f"{name} is {matrix.class_name} of shape {matrix.shape}")
    height, width = matrix.shape
    stored = matrix.numbers[0]
    values = np.frombuffer(stored.data, order + NUMBER_TYPES[stored.kind])
    if height < 0 or width < 0 or height * width != len(values):
        raise ValueError(f"{name} has {len(values)} numbers for {height}x{width}")
    dtype = "uint8" if matrix.class_name == "uint8" else "uint16"
    with np.errstate(invalid="ignore"):  # what is not finite comes out as something, and is found below
        ids = values.astype(dtype)
    if (ids != values).any():
        raise ValueError(f"{name} has numbers that are no ids")
    return ids.reshape(height, width, order="F")  # MATLAB stores columns one after the other


def _elements(data: bytes, order: str) -> Iterator[_Element]:
    """Yield the elements that follow one another."""
    position = 0
    while position < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, position)
        start = position + 8
        if kind >> 16:  # up to four bytes stand behind their type and number in one word
            kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
        end = start + size
        if end > len(data):
            raise ValueError("it is cut short")
        yield _Element(kind, data[start:end])
        # Elements begin at multiples of eight bytes, but for those behind a compressed one.
        padding = 0 if kind == COMPRESSED else -end % 8
        position = end + padding
