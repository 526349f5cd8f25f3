"""Protobuf's wire format: the fields of a serialized message, walked through without building anything.

Source: protobuf.dev, page "Encoding". A field is a key, which holds its number and its wire type, and a payload.
"""

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types, the lowest three bits of a key. The others are groups, which are deprecated: ONNX has none."""
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
"""Bytes of a payload whose length the wire type tells."""
MAX_VARINT_BYTES = 10
"""Bytes of seven bits each that hold the 64 bits of the largest number."""


class Field(NamedTuple):
    """A field of a serialized message."""

    number: int
    """Number of the field in the message's definition."""
    start: int
    """Offset of the first payload byte; equal to `end` where the payload is a number of its own."""
    end: int
    """Offset behind the last payload byte."""


def iterate_fields(content: bytes, position: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message that lies at `position` to `end`.

    Raises:
        ValueError: if the bytes are no message.
    """
    while position < end:
        key, position = _read_varint(content, position)
        field = _read_field(content, position, key)
        # A number has no payload to look into: its field starts and ends behind it.
        position = field.end
        if position > end:
            raise ValueError("a field is longer than its message")
        yield field


def _read_field(content: bytes, position: int, key: int) -> Field:
    """Return the field whose payload begins at `position`."""
    number, wire_type = key >> 3, key & 7
    if wire_type == LENGTH_DELIMITED:
        length, start = _read_varint(content, position)
        return Field(number, start, start + length)
    if wire_type == VARINT:
        _, end = _read_varint(content, position)
        return Field(number, end, end)
    if wire_type in FIXED_BYTES:
        end = position + FIXED_BYTES[wire_type]
        return Field(number, end, end)
    raise ValueError(f"a field has wire type {wire_type}")


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    """Return a number, stored with seven bits in a byte and the lowest first, and the offset behind it."""
    number = 0
    for index, byte in enumerate(content[position : position + MAX_VARINT_BYTES]):
        number |= (byte & 0x7F) << (7 * index)
        # The highest bit says that another byte follows.
        if byte < 0x80:
            return number, position + index + 1
    raise ValueError("a number has no end")
