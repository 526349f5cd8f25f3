"""Pickles and archives made to be expensive cost their reader no more than their size allows."""

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.costs import FULL, QUICK, check, cost

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's count of memory")


# Pickles: units of steps, as often as the size holds them


def archive(steps: bytes) -> bytes:
    """Return a checkpoint whose pickle has these steps, with an empty storage and one of four bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as writer:
        for name, data in (("data.pkl", steps), ("data/a", b""), ("data/b", bytes(4))):
            writer.writestr(f"archive/{name}", data)
    return content.getvalue()


def stream(steps: bytes) -> bytes:
    """Return a checkpoint of the older format."""
    start = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001, "type_sizes": {}})
    return b"".join(pickle.dumps(value, 2) for value in start) + steps + pickle.dumps([], 2)


def storage(key: bytes, numbers: int, kind: bytes = b"FloatStorage") -> bytes:
    """Return the steps that put a storage on the stack."""
    name = b"X" + struct.pack("<I", len(key)) + key
    return b"(U\x07storagectorch\n" + kind + b"\n" + name + b"U\x03cpuJ" + struct.pack("<i", numbers) + b"tQ"


def tensor(numbers: bytes, *strides: int, length: int = 1 << 30) -> bytes:
    """Return the steps that make a tensor of a storage's steps, its sides as long as they can be."""
    side = b"J" + struct.pack("<i", length)
    steps = b"".join(b"J" + struct.pack("<i", stride) for stride in strides)
    sides = b"(" + side * len(strides) + b"t(" + steps + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + numbers + b"K\0" + sides + b"\x89NtR"


def repeated(unit: bytes, start: bytes = b"", end: bytes = b"") -> Callable[[int], bytes]:
    return lambda size: b"\x80\x02" + start + unit * (size // len(unit)) + end + b"."


def numbered(unit: Callable[[int], bytes], start: bytes = b"", end: bytes = b"") -> Callable[[int], bytes]:
    """Return what puts units with numbers one behind the other."""

    def draw(size: int) -> bytes:
        units, length, number = [], 0, 0
        while length < size:
            units.append(unit(number))
            length, number = length + len(units[-1]), number + 1
        return b"\x80\x02" + start + b"".join(units) + end + b"."

    return draw


def long(number: int, size: int = 250) -> bytes:
    return b"\x8a" + bytes([size]) + number.to_bytes(size, "little", signed=True)


def text(content: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content


MERSENNE = 2**61 - 1
"""Python's hash of a whole number is its rest by this."""
HALF = 1 << 17
STEPS = {
    "marks": repeated(b"("),
    "none": repeated(b"N"),
    "lists": repeated(b"]"),
    "lists in lists": repeated(b"]", end=b"a" * 1000),
    "lists in tuples": repeated(b"]\x85"),
    "a list of itself": repeated(b"h\0a", b"]q\0"),
    "tables": repeated(b"}"),
    "state dicts": repeated(b"h\0)R", b"ccollections\nOrderedDict\nq\0"),
    "copies of a list of pairs": repeated(
        b"h\1h\0\x85R", b"](" + b"U\1aN\x86" * 999 + b"eq\0ccollections\nOrderedDict\nq\1"
    ),
    "counts": repeated(b"h\0h\1\x85R", b"ccollections\nCounter\nq\0}q\1"),
    "sets": repeated(b"h\0h\1\x85R", b"cbuiltins\nset\nq\0]q\1"),
    "bytes of any length": lambda size: repeated(b"h\0J\xff\xff\xff\x7f\x85R", b"cbuiltins\nbytearray\nq\0")(size),
    "encoded text": repeated(b"h\0h\1X\5\0\0\0utf-8\x86R", b"c_codecs\nencode\nq\0" + text(bytes(HALF)) + b"q\1"),
    "names of types": repeated(b"ccollections\nOrderedDict\n"),
    "a name without end": lambda size: b"\x80\x02c" + b"a" * size,
    "text": lambda size: b"\x80\x02" + text(bytes(size)) + b".",
    "text of every kind": lambda size: b"\x80\x02" + text("\U0001f600".encode() + bytes(size)) + b".",
    "a length": lambda size: b"\x80\x02X\xff\xff\xff\xff" + bytes(size),
    "long numbers": numbered(lambda i: long(i, 255)),
    "a number of many digits": lambda size: b"\x80\x02I" + b"9" * size + b"\n.",
    "a number of many bytes": lambda size: b"\x80\x02\x8b" + struct.pack("<i", size) + b"\x7f" * size + b".",
    "tuples of twos": repeated(b"h\0h\0\x86q\0", b")q\0", b"}h\0Ns"),
    "tuples of what is noted": repeated(b"(h\0h\0h\0h\0tq\0", b")q\0", b"}h\0Ns"),
    "keys of one hash": numbered(lambda i: long(i * MERSENNE, 12) + b"N", b"}(", b"u"),
    "keys on one another": numbered(lambda i: b"J" + struct.pack("<i", i << 14 & 0x7FFFFFFF) + b"N", b"}(", b"u"),
    "keys of real numbers": numbered(lambda i: b"G" + struct.pack(">d", i * 2.0**61) + b"N", b"}(", b"u"),
    "long keys that are the same": repeated(
        b"h\0Nsh\1Ns", (text(bytes(HALF // 2)) + b"q\0" + text(bytes(HALF // 2)) + b"q\1}")
    ),
    "notes far apart": numbered(lambda i: b"r" + struct.pack("<I", 2**32 - 1 - i), b"N"),
    "storages of any size": numbered(lambda i: storage(b"%d" % i, 2**31 - 1)),
    "empty storages": numbered(lambda i: storage(b"a", 0)),
    "a storage of negative size": lambda size: b"\x80\x02" + storage(b"a", -(2**31)) + b".",
    "tensors beyond their storage": numbered(lambda i: tensor(storage(b"a", 0), 1)),
    "small tensors": numbered(lambda i: tensor(storage(b"b", 1), 1, length=1)),
    "tensors of one number": numbered(lambda i: tensor(storage(b"b", 1), 0, 0)),
    "tensors of many sides": lambda size: b"\x80\x02" + tensor(storage(b"b", 1), *[0] * (size // 10), length=1) + b".",
    "calls of what is no function": repeated(b"NNR"),
    "types that grow": repeated(b"h\0J\xff\xff\xff\x7f\x85R", b"ctorch\nFloatStorage\nq\0"),
    "tensors by their type": repeated(b"h\0J\xff\xff\xff\x7f\x85\x81", b"ctorch\nFloatTensor\nq\0"),
    "sets in themselves": repeated(b"\x8f"),
    "frames": repeated(b"\x95" + b"\xff" * 8),
    "tensors elsewhere": lambda size: repeated(b"h\0)R", b"ctorch._utils\n_rebuild_meta_tensor_no_storage\nq\0")(size),
    "what is built": repeated(b"h\0b", b"}q\0ccollections\nOrderedDict\n)R"),
}


@pytest.mark.reliability
@pytest.mark.promise("S3")
@pytest.mark.parametrize("wrap", [archive, stream], ids=["archive", "stream"])
@pytest.mark.parametrize("shape", STEPS.values(), ids=STEPS.keys())
def test_pickle_steps_are_cheap_to_read_in_large_files(
    shape: Callable[[int], bytes], wrap: Any, tmp_path: Path
) -> None:
    check("checkpoint", lambda size: wrap(shape(size)), FULL, tmp_path)


# Archives


def archived(*records: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(content, "w", method) as writer:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, data in records:
            writer.writestr(name, data)
    return content.getvalue()


def nested(size: int) -> bytes:
    content = archived(("archive/data.pkl", b"\x80\2}."), ("archive/data/0", bytes(size)), method=zipfile.ZIP_DEFLATED)
    while len(content) < size:
        content = archived(("archive/data.pkl", content), ("archive/data/0", content))
    return content


def overlapping(size: int) -> bytes:
    """Return an archive whose directory names the same bytes as one record after the other."""
    whole = archived(("archive/data.pkl", b"\x80\2}."), ("archive/data/0", bytes(size // 2)))
    start = whole.index(b"PK\1\2")
    entry = whole[whole.index(b"PK\1\2", start + 4) : whole.index(b"PK\5\6")]
    count = min(size // 2 // len(entry), 60_000)
    directory = whole[start : whole.index(b"PK\1\2", start + 4)]
    directory += b"".join(entry[:-6] + b"%06d" % i for i in range(count))
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count + 1, count + 1, len(directory), start, 0)
    return whole[:start] + directory + end


ARCHIVES = {
    "many records": lambda size: archived(*((f"archive/data/{i}", b"") for i in range(size // 120))),
    "records of one name": lambda size: archived(*[("archive/data.pkl", b"\x80\2}.")] * (size // 120)),
    "long names": lambda size: archived(*((f"{i}" + "\u0300\u0316" * 15_000, b"") for i in range(size // 120_000))),
    "packed": lambda size: archived(("archive/data.pkl", bytes(900 * size)), method=zipfile.ZIP_DEFLATED),
    "packed by bzip2": lambda size: archived(("archive/data.pkl", bytes(900 * size)), method=zipfile.ZIP_BZIP2),
    "archives in archives": nested,
    "records on one another": overlapping,
}


@pytest.mark.promise("S3")
@pytest.mark.parametrize("shape", ARCHIVES.values(), ids=ARCHIVES.keys())
def test_archives_are_cheap_to_read(shape: Callable[[int], bytes], tmp_path: Path) -> None:
    check("checkpoint", shape, QUICK, tmp_path)


@pytest.mark.promise("S3")
@pytest.mark.parametrize("other", ["archive/data.pkl", "archive/DATA.PKL", "archive\\data.pkl", "other/data.pkl"])
def test_archive_with_two_pickles_is_refused(other: str, tmp_path: Path) -> None:
    pickles = [("archive/data.pkl", b"\x80\2}."), (other, b"\x80\2cos\nsystem\nU\1x\x85R.")]
    for records in (pickles, pickles[::-1]):
        assert cost("checkpoint", archived(*records), tmp_path).exit_code == 5
    assert cost("checkpoint", archived(pickles[0]), tmp_path).exit_code == 0
