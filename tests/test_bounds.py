"""Files made to be dear: of every construct of each format as much as a size holds, and what that costs a reader.

Each shape is measured at a size and at twice that, in a process of its own: what grows faster than the file shows.
"""

import copy
import io
import json
import os
import pickle
import resource
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from fuzz import READERS, graph, header_of, model_file, sealed
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from segdistill.config import MAX_PRESET_BYTES
from segdistill.data._own import MAX_BYTES
from segdistill.errors import SegdistillError
from segdistill.networks._weights import MAX_HEADER

QUICK, FULL = 1 << 18, 1 << 23
"""Bytes of a file, in each tier."""
START = 2.0
"""Seconds of a processor that any file may take, beside those for its bytes."""
SECONDS_PER_MEBIBYTE = 3.0
MEBIBYTES = 500
"""Of memory, for a file of any of these sizes."""
RATIO = 2.8
"""Of the seconds for twice the bytes: 2 is linear, 4 quadratic."""
NOTABLE = 0.5
"""Seconds from which a ratio says something."""


class Cost(NamedTuple):
    """What it takes to read a file."""

    seconds: float
    mebibytes: float
    said: str
    """Why it was refused; nothing of a file that was read."""
    exit_code: int


def cost(kind: str, content: bytes, folder: Path) -> Cost:
    """Read a file in a process of its own, which has no more than `MEBIBYTES` beside what it begins with."""
    path = folder / f"file{READERS[kind].suffix}"
    path.write_bytes(content)
    end, begin = os.pipe()
    if not (child := os.fork()):
        code = 1
        try:
            os.write(begin, json.dumps(_measured(kind, path)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(begin)
    with os.fdopen(end, "rb") as answer:
        told = answer.read()
    _, status = os.waitpid(child, 0)
    assert (status, bool(told)) == (0, True), "the reader ended its process"
    return Cost(*json.loads(told))


def _measured(kind: str, path: Path) -> Cost:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (MEBIBYTES << 20), resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before, started = _peak(), time.process_time()
    said, code = "", 0
    try:
        READERS[kind].read(path)
    except SegdistillError as error:
        said, code = error.what[:300], error.exit_code
    return Cost(time.process_time() - started, _peak() - before, said, code)


def _peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def check(kind: str, shape: Callable[[int], bytes], size: int, folder: Path) -> None:
    """Read a shape at a size and at twice that, and compare with the bounds."""
    once, twice = (cost(kind, shape(factor * size), folder) for factor in (1, 2))
    for factor, found in ((1, once), (2, twice)):
        assert found.seconds <= START + SECONDS_PER_MEBIBYTE * factor * size / (1 << 20), found
        assert found.mebibytes <= MEBIBYTES, found
        assert found.exit_code in {0, *READERS[kind].codes}, found
    if not _grows_linearly(once, twice):  # a busy machine: the best of several counts
        once, twice = (_best(kind, shape(factor * size), folder) for factor in (1, 2))
    assert _grows_linearly(once, twice), (once, twice)


def _grows_linearly(once: Cost, twice: Cost) -> bool:
    return twice.seconds < NOTABLE or twice.seconds <= RATIO * max(once.seconds, NOTABLE / 2)


def _best(kind: str, content: bytes, folder: Path) -> Cost:
    return min((cost(kind, content, folder) for _ in range(5)), key=lambda found: found.seconds)


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


@pytest.mark.promise("S3")
@pytest.mark.parametrize("wrap", [archive, stream], ids=["archive", "stream"])
@pytest.mark.parametrize("shape", STEPS.values(), ids=STEPS.keys())
def test_no_step_of_a_pickle_is_dear(shape: Callable[[int], bytes], wrap: Any, tmp_path: Path) -> None:
    check("checkpoint", lambda size: wrap(shape(size)), QUICK, tmp_path)


@pytest.mark.reliability
@pytest.mark.promise("S3")
@pytest.mark.parametrize("wrap", [archive, stream], ids=["archive", "stream"])
@pytest.mark.parametrize("shape", STEPS.values(), ids=STEPS.keys())
def test_no_step_of_a_large_pickle_is_dear(shape: Callable[[int], bytes], wrap: Any, tmp_path: Path) -> None:
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
def test_no_archive_is_dear(shape: Callable[[int], bytes], tmp_path: Path) -> None:
    check("checkpoint", shape, QUICK, tmp_path)


@pytest.mark.promise("S3")
@pytest.mark.parametrize("other", ["archive/data.pkl", "archive/DATA.PKL", "archive\\data.pkl", "other/data.pkl"])
def test_an_archive_has_one_record_of_a_name(other: str, tmp_path: Path) -> None:
    pickles = [("archive/data.pkl", b"\x80\2}."), (other, b"\x80\2cos\nsystem\nU\1x\x85R.")]
    for records in (pickles, pickles[::-1]):
        assert cost("checkpoint", archived(*records), tmp_path).exit_code == 5
    assert cost("checkpoint", archived(pickles[0]), tmp_path).exit_code == 0


# Headers of .safetensors files, and ours in them


def safetensors_of(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def table(entry: str, start: str = "{", end: str = "}") -> Callable[[int], bytes]:
    """Return what repeats an entry of a header; `{}` in it is its number."""

    def draw(size: int) -> bytes:
        length = len(start + end)
        entries: list[str] = []
        while length < size:
            entries.append(entry.replace("{}", str(len(entries))))
            length += len(entries[-1]) + 1
        return safetensors_of((start + ",".join(entries) + end).encode())

    return draw


def of_ours(field: str, start: str, value: str, end: str = "") -> Callable[[int], bytes]:
    """Return a model file whose own header has a field of this text, as often as the size holds it."""

    def draw(size: int) -> bytes:
        header = json.loads(header_of(model_file()[0])) | {"header_sha256": "", field: "*"}
        pieces = "".join(value.replace("{}", str(i)) for i in range(size // (len(value) + 5 * value.count("{}"))))
        text = json.dumps(header).replace('"*"', start + pieces + end)
        return safetensors_of(json.dumps({"__metadata__": {"segdistill": text}}).encode())

    return draw


EMPTY = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
HEADERS = {
    "tensors": table(f'"t{{}}":{EMPTY}'),
    "tensors of one name": table(f'"a":{EMPTY}'),
    "long names": table(f'"{1000 * "a"}{{}}":{EMPTY}'),
    "wrapped tensors": table(f'"state_dict.t{{}}":{EMPTY}'),
    "tensors of the same bytes": table('"t{}":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}'),
    "tensors of other types": table(f'"t{{}}":{EMPTY}'.replace("F32", "F4")),
    "a name": lambda size: safetensors_of(b'{"' + b"a" * size + b'":' + EMPTY.encode() + b"}"),
    "an escaped name": lambda size: safetensors_of(b'{"' + b"\\u00e9" * (size // 6) + b'":' + EMPTY.encode() + b"}"),
    "sides": table("0", '{"a":{"data_offsets":[0,0],"dtype":"U8","shape":[', "]}}"),
    "offsets": table("0", '{"a":{"dtype":"U8","shape":[0],"data_offsets":[', "]}}"),
    "metadata": table('"k{}":""', '{"__metadata__":{', "}}"),
    "metadata of one name": table('"k":""', '{"__metadata__":{', "}}"),
    "lists in lists": lambda size: safetensors_of(b"[" * size),
    "tables in tables": lambda size: safetensors_of(b'{"a":' * (size // 5)),
    "blanks": lambda size: safetensors_of(b"{}" + b" " * size),
    "a header of lists": lambda size: safetensors_of(json.dumps({"__metadata__": {"segdistill": "[" * size}}).encode()),
    "a long word of ours": of_ours("preset", '"', "a", '"'),
    "classes": of_ours("classes", "[", '"a",', '"a"]'),
    "colors of the wrong kind": of_ours("palette", "[", "[],", "[]]"),
    "metrics": of_ours("metrics", "{", '"{}":1,', '"a":1}'),
    "metrics of the wrong kind": of_ours("metrics", "{", '"{}":[],', '"a":1}'),
    "versions of the wrong kind": of_ours("versions", "{", '"{}":1,', '"a":1}'),
    "unknown keys of ours": of_ours("steps", "1", ',"k{}":1'),
    "a number of ours": of_ours("steps", "9", "9"),
}


@pytest.mark.promise("S3")
@pytest.mark.parametrize("kind", ["model", "weights"])
@pytest.mark.parametrize("shape", HEADERS.values(), ids=HEADERS.keys())
def test_no_header_is_dear(shape: Callable[[int], bytes], kind: str, tmp_path: Path) -> None:
    check(kind, shape, 1 << 16, tmp_path)


@pytest.mark.reliability
@pytest.mark.promise("S3")
@pytest.mark.parametrize("kind", ["model", "weights"])
@pytest.mark.parametrize("shape", HEADERS.values(), ids=HEADERS.keys())
def test_no_large_header_is_dear(shape: Callable[[int], bytes], kind: str, tmp_path: Path) -> None:
    check(kind, shape, MAX_HEADER // 2 - 1000, tmp_path)


@pytest.mark.promise("S3")
def test_what_is_wrong_with_a_header_is_told_in_short(tmp_path: Path) -> None:
    """Of each color that is none pydantic tells: megabytes, and more memory than there is."""
    for size, words in ((1 << 16, "validation errors"), (1 << 21, "characters")):
        content = of_ours("palette", "[", "[],", "[]]")(size)
        assert words in READERS["model"].try_(content, tmp_path)
    model = graph()
    model.metadata_props[0].value = json.dumps(json.loads(model.metadata_props[0].value) | {"palette": [[]] * 50_000})
    for value in (model.metadata_props[0].value[:0], "a" * (1 << 20)):
        model.metadata_props[0].value += value
        content = sealed(model.SerializeToString())
        assert "not one this version reads" in READERS["graph"].try_(content, tmp_path)


# TOML: each construct of its grammar, as often as the size holds it


def lines(line: str, start: str = "", end: str = "") -> Callable[[int], bytes]:
    """Return what repeats a piece of text; `{}` in it is the number of the piece."""

    def draw(size: int) -> bytes:
        if "{}" not in line:
            return (start + line * (size // len(line.encode())) + end).encode()
        pieces, length, number = [start], 0, 0
        while length < size:
            pieces.append(line.replace("{}", str(number)))
            length, number = length + len(pieces[-1]), number + 1
        return "".join([*pieces, end]).encode()

    return draw


OWN_LISTS = b'name = "a"\nclasses = ["a", "b"]\n[train]\nlabels = [*]\nimages = [*]\n'
MANY_CLASSES = (
    'name = "a"\nclasses = ['
    + ",".join(f'"ground{i}"' for i in range(250))
    + ']\n[train]\nimages = "."\nlabels = "."\n[ids]\n'
)
TOML = {
    "quotes": lines('"'),
    "escaped quotes": lines('\\"', 'a = "', '"\n'),
    "escaped quotes without end": lines('\\"', 'a = "'),
    "escaped quotes as key": lines('\\"', '"', '" = 1\n'),
    "escapes": lines("\\u00e9", 'a = "', '"\n'),
    "backslashes": lines("\\\\", 'a = "', '"\n'),
    "apostrophes": lines("'"),
    "empty literals": lines("'',", "a = [", "]\n"),
    "text of many lines": lines('\\"\n', 'a = """', '"""\n'),
    "quotes in text of many lines": lines('""\\\n', 'a = """', '"""\n'),
    "folded lines": lines("\\\n  \n", 'a = """', '"""\n'),
    "literal lines": lines("''\n", "a = '''", "'''\n"),
    "comments": lines("#\n"),
    "a comment": lines("#"),
    "blanks": lines(" "),
    "tabs before keys": lines("\t", end="a = 1"),
    "empty lines": lines("\n"),
    "returns": lines("\r\n"),
    "keys": lines("k{} = 1\n"),
    "keys with tables": lines("k{}={}\n".replace("={}", "=[]")),
    "the same key": lines("a = 1\n"),
    "quoted keys": lines('"k {}" = 1\n'),
    "a long key": lines("a", end=" = 1\n"),
    "a key of many parts": lines("a.", end="a = 1\n"),
    "keys of parts": lines("a.b.c.d.k{} = 1\n"),
    "keys of many parts": lines("k{}.a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v.w.x.y.z = 1\n"),
    "keys of quoted parts": lines('k{}."a".\'b\'."c" . "d" . e = 1\n'),
    "tables": lines("[t{}]\n"),
    "tables of parts": lines("[t.a.b.c.d.e.k{}]\n"),
    "the same table": lines("[a.b.c]\n"),
    "tables in turn": lines("[a.b.c.k{}]\nx.y.z = 1\n"),
    "lists of tables": lines("[[a]]\n"),
    "lists of tables in tables": lines("[[a.b.c]]\n[a.b.c.d{}]\n"),
    "lists of tables with keys": lines("[[a]]\nb.c.d = 1\n"),
    "lists": lines("[],", "a = [", "]\n"),
    "numbers": lines("1,", "a = [", "]\n"),
    "names": lines('"a",', "classes = [", "]\n"),
    "other names": lines('"a{}",', "classes = [", "]\n"),
    "files": lines('"a",', '[train]\nimages = "a"\nlabels = [', "]\n"),
    "lists in lists": lines("[", "a = "),
    "closed lists": lines("]", "a = " + "[" * 100),
    "lists of comments": lines("#\n", "a = [", "]\n"),
    "inline tables": lines("{},".replace("{}", "{ }"), "a = [", "]\n"),
    "inline keys": lines("k{}=1,", "a = {", "z=1}\n"),
    "inline keys of parts": lines("k{}.a.b.c.d.e=1,", "a = {", "z=1}\n"),
    "inline tables in one another": lines("{a=", "a = "),
    "inline tables of tables": lines("{a={b={c={}}}},".replace("={}", "={ }"), "a = [", "]\n"),
    "digits": lines("1", "a = ", "\n"),
    "digits with lines": lines("1_", "a = ", "1\n"),
    "numbers of many digits": lines("9" * 4000 + ",", "a = [", "]\n"),
    "hexadecimal": lines("f", "a = 0x", "\n"),
    "fractions": lines("1", "a = 0.", "\n"),
    "exponents": lines("1", "a = 1e", "\n"),
    "dates": lines("1979-05-27T07:32:00.999999-07:00,", "a = [", "]\n"),
    "words": lines("true,", "a = [", "]\n"),
    "ids": lines('{} = "ground"\n', 'name = "a"\nclasses = ["ground"]\n[train]\nimages = "."\nlabels = "."\n[ids]\n'),
    "unknown ids": lines(
        '{} = "gruond"\n', 'name = "a"\nclasses = ["ground"]\n[train]\nimages = "."\nlabels = "."\n[ids]\n'
    ),
    "colors": lines(
        '"{},1,1" = "x"\n', 'name = "a"\nclasses = ["ground"]\n[train]\nimages = "."\nlabels = "."\n[colors]\n'
    ),
    "blanks in colors": lines(" ", '[colors]\n"1,', 'x" = "a"\n'),
    "many classes": lines('"a{}",', 'name = "a"\nclasses = [', ']\n[train]\nimages = "."\nlabels = "."\n'),
    "the same classes": lines('"a",', 'name = "a"\nclasses = [', ']\n[train]\nimages = "."\nlabels = "."\n'),
    "classes of the wrong kind": lines("1,", 'name = "a"\nclasses = [', ']\n[train]\nimages = "."\nlabels = "."\n'),
    "ignored ids": lines(
        '"",', 'name = "a"\nclasses = ["a", "b"]\nignore = [', ']\n[train]\nimages = "."\nlabels = "."\n'
    ),
    "missing files": lines('"a",', 'name = "a"\nclasses = ["a", "b"]\n[train]\nlabels = ["a"]\nimages = [', "]\n"),
    "pairs of missing files": lambda size: OWN_LISTS.replace(b"*", b'"abc",' * (size // 12)),
    "ids like those of many classes": lines('{} = "grounds"\n', MANY_CLASSES),
    "a long color": lines("1,", 'name = "a"\nclasses = ["a", "b"]\npalette = [[', "]]\n"),
    "settings of the wrong kind": lines('"",', "[data]\nsize = [", "]\n"),
    "tables of the wrong kind": lines("[on.a{}]\n"),
    "class maps": lines('"a{}" = "b{}"\n', "[classes]\n"),
}


LARGEST = {"preset": MAX_PRESET_BYTES, "classes": MAX_PRESET_BYTES, "data": MAX_BYTES}


@pytest.mark.promise("S5")
@pytest.mark.parametrize("kind", LARGEST)
@pytest.mark.parametrize("shape", TOML.values(), ids=TOML.keys())
def test_no_construct_of_toml_is_dear(shape: Callable[[int], bytes], kind: str, tmp_path: Path) -> None:
    check(kind, shape, 1 << 16, tmp_path)


@pytest.mark.reliability
@pytest.mark.promise("S5")
@pytest.mark.parametrize("kind", LARGEST)
@pytest.mark.parametrize("shape", TOML.values(), ids=TOML.keys())
def test_no_large_toml_file_is_dear(shape: Callable[[int], bytes], kind: str, tmp_path: Path) -> None:
    check(kind, shape, LARGEST[kind] // 2 - 1000, tmp_path)


# Images


def scans(size: int) -> bytes:
    """Return a JPEG file that goes through its pixels as often as the size allows."""
    content = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(content, "JPEG", progressive=True)
    whole = content.getvalue()
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * (size // len(last)) + whole[-2:]


@pytest.mark.promise("D8")
def test_an_image_of_many_scans_is_refused(tmp_path: Path) -> None:
    check("image", scans, 1 << 20, tmp_path)
    assert "scans" in cost("image", scans(1 << 20), tmp_path).said
    assert cost("image", scans(0), tmp_path).exit_code == 0


def picture(kind: str, side: int = 8, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (side, side)).save(content, kind, **options)
    return content.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(kind: bytes, data: bytes) -> Callable[[int], bytes]:
    """Return what puts chunks of a kind before the pixels."""

    def draw(size: int) -> bytes:
        whole, one = picture("PNG"), png_chunk(kind, data)
        at = whole.index(b"IDAT") - 4
        return whole[:at] + one * (size // len(one)) + whole[at:]

    return draw


def segments(size: int) -> bytes:
    whole = picture("JPEG")
    return whole[:2] + b"\xff\xe1\0\2" * (size // 4) + whole[2:]


def bmp_of(runs: bytes) -> Callable[[int], bytes]:
    """Return an image of 10,000x10,000 pixels whose packed ones are these."""

    def draw(size: int) -> bytes:
        data = runs * (size // len(runs))
        start = struct.pack("<2sIHHI", b"BM", 1078 + len(data), 0, 0, 1078)
        info = struct.pack("<IiiHHIIiiII", 40, 10_000, 10_000, 1, 8, 1, len(data), 0, 0, 256, 0)
        return start + info + bytes(1024) + data

    return draw


def strips(size: int) -> bytes:
    """Return a TIFF file with a strip, which is always the same, for each of its rows of one pixel."""
    rows = size // 8
    values = {256: 1, 257: rows, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    lists = {273: 16 + 12 * len(values) + 6, 279: 16 + 12 * len(values) + 6 + 4 * rows}
    tags = b"".join(
        struct.pack("<HHII", tag, 4, rows if tag in lists else 1, lists.get(tag, value))
        for tag, value in values.items()
    )
    table = struct.pack("<H", len(values)) + tags + bytes(4)
    lengths = struct.pack("<I", 8) * rows + struct.pack("<I", 1) * rows
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + table + lengths


def directories(size: int) -> bytes:
    parts = [struct.pack("<HHHIII", 1, 256, 4, 1, 1, 8 + 18 * (i + 1)) for i in range(size // 18)]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(parts)


def moving(size: int) -> bytes:
    """Return an image of many frames, of which the first alone is asked for."""
    frames = [Image.new("RGB", (128, 128), (i % 2, 0, 0)) for i in range(min(500, size >> 10))]
    content = io.BytesIO()
    frames[0].save(content, "WEBP", save_all=True, append_images=frames[1:], lossless=True, method=0)
    return content.getvalue()


PACKED = zlib.compress(bytes(900_000))
IMAGES = {
    "text in PNG": png_with(b"tEXt", b"a\0b"),
    "packed text in PNG": png_with(b"zTXt", b"a\0\0" + PACKED),
    "text of languages in PNG": png_with(b"iTXt", b"a\0\1\0\0\0" + PACKED),
    "profiles in PNG": png_with(b"iCCP", b"a\0\0" + PACKED),
    "palettes in PNG": png_with(b"PLTE", bytes(768)),
    "unknown chunks in PNG": png_with(b"teSt", b""),
    "empty pixels in PNG": png_with(b"IDAT", b""),
    "segments of JPEG": segments,
    "scans of JPEG": lambda size: scans(min(size, 90 * 13)),
    "ends of lines in BMP": bmp_of(b"\0\0"),
    "steps in BMP": bmp_of(b"\0\2\0\0"),
    "runs of one pixel in BMP": bmp_of(b"\1\1"),
    "long runs in BMP": bmp_of(b"\xff\1"),
    "strips of TIFF": strips,
    "directories of TIFF": directories,
    "frames of WebP": moving,
}


@pytest.mark.promise("D8")
@pytest.mark.parametrize("shape", IMAGES.values(), ids=IMAGES.keys())
def test_no_construct_of_an_image_is_dear(shape: Callable[[int], bytes], tmp_path: Path) -> None:
    check("image", shape, 1 << 15, tmp_path)


@pytest.mark.reliability
@pytest.mark.promise("D8")
@pytest.mark.parametrize("shape", IMAGES.values(), ids=IMAGES.keys())
def test_no_construct_of_a_large_image_is_dear(shape: Callable[[int], bytes], tmp_path: Path) -> None:
    check("image", shape, 1 << 21, tmp_path)


# Graphs: nodes of each kind that a pass over graphs looks for, and of each other message as many as the size holds


def graph_of(nodes: Sequence[onnx.NodeProto], **numbers: Any) -> onnx.ModelProto:
    """Return a graph that brings its image to `x` by these nodes, with constants by name, and convolves that."""
    model = graph()
    model.graph.node[0].input[0] = "x" if nodes else "image"
    convolution = model.graph.node.pop()
    model.graph.node.extend([*nodes, convolution])
    model.graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in numbers.items())
    return model


def bare(model: onnx.ModelProto) -> bytes:
    del model.metadata_props[:]
    content: bytes = model.SerializeToString()
    return content


def chain(*operators: str, more: tuple[str, ...] = (), own: dict[str, Any] | None = None, **numbers: Any) -> Any:
    """Return what puts nodes of these operators in a row. The second input of each is what is `more`."""

    def draw(size: int) -> bytes:
        count = max(2, size // (24 + sum(map(len, more)) + len(operators[0])))
        names = ["image", *(f"n{i}" for i in range(count - 1)), "x"]
        nodes = []
        for i in range(count):
            inputs = [names[i], *(names[i] if name == "same" else name for name in more)]
            nodes.append(helper.make_node(operators[i % len(operators)], inputs, [names[i + 1]], **(own or {})))
        return bare(graph_of(nodes, **numbers))

    return draw


def many(make: Callable[[onnx.ModelProto, int], object], each: int) -> Callable[[int], bytes]:
    """Return what adds something to a graph, once for each so many bytes."""

    def draw(size: int) -> bytes:
        model = graph()
        del model.metadata_props[:]
        for i in range(size // each):
            make(model, i)
        content: bytes = model.SerializeToString()
        return content

    return draw


def length_of(size: int) -> bytes:
    groups = [size >> shift & 0x7F for shift in range(0, 35, 7)]
    return bytes([group | 0x80 for group in groups[:-1]]) + bytes(groups[-1:])


def key_of(field: int) -> bytes:
    """Return how a field with a length begins."""
    key = field << 3 | 2
    return bytes([key]) if key < 0x80 else bytes([key & 0x7F | 0x80, key >> 7])


def empty(*fields: int) -> Callable[[int], bytes]:
    """Return what fills a message, named by the fields on the way to it, with empty ones of two bytes."""

    def draw(size: int) -> bytes:
        content = key_of(fields[-1]) + b"\0"
        content *= size // len(content)
        for number in reversed(fields[:-1]):
            content = key_of(number) + length_of(len(content)) + content
        return bare(graph()) + content

    return draw


def whole_numbers(size: int) -> bytes:
    model = graph()
    model.graph.initializer.add(name="n", data_type=TensorProto.INT64, dims=[size], int64_data=[0] * size)
    return bare(model)


def ends(field: str) -> Callable[[int], bytes]:
    """Return what gives one node as many inputs, or outputs, as the size holds."""

    def draw(size: int) -> bytes:
        model = graph()
        node = helper.make_node("Sum" if field == "input" else "Split", ["image"], ["y"])
        getattr(node, field).extend("image" if field == "input" else f"o{i}" for i in range(size // 7))
        model.graph.node.append(node)
        return bare(model)

    return draw


def add_function(model: onnx.ModelProto, number: int) -> None:
    identity, opset = [helper.make_node("Identity", ["x"], ["y"])], [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("f", f"f{number}", ["x"], ["y"], identity, opset))


def add_float(model: onnx.ModelProto, number: int) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), f"w{number}"))


GRAPHS = {
    "nodes": chain("Sigmoid"),
    "nodes of nothing": chain("Identity"),
    "activations": chain("Relu", "HardSwish", "Gelu", "Dropout"),
    "convolutions": chain("Conv", more=("w",), w=np.full((3, 3, 1, 1), 0.1, np.float32)),
    "sums of one another": chain("Add", more=("same",)),
    "factors": chain("Mul", "Add", more=("w",), w=np.float32(1)),
    "turns": chain("Transpose", own={"perm": [0, 1, 3, 2]}),
    "casts": chain("Cast", own={"to": TensorProto.FLOAT}),
    "shapes": chain("Reshape", more=("w",), w=np.zeros(4, np.int64)),
    "operators written out": chain(
        "GroupNormalization", more=("w", "w"), own={"num_groups": 1}, w=np.ones(3, np.float32)
    ),
    "nodes side by side": many(lambda m, i: m.graph.node.append(helper.make_node("Relu", ["image"], [f"n{i}"])), 24),
    "constants": many(
        lambda m, i: m.graph.node.append(helper.make_node("Constant", [], [f"c{i}"], value_float=1.0)), 44
    ),
    "weights": many(add_float, 20),
    "shapes of values": many(
        lambda m, i: m.graph.value_info.append(helper.make_tensor_value_info(f"v{i}", TensorProto.FLOAT, [1])), 20
    ),
    "functions": many(add_function, 40),
    "versions": many(lambda m, i: m.opset_import.append(helper.make_opsetid(f"d{i}", 1)), 12),
    "metadata": many(lambda m, i: m.metadata_props.add(key=f"{i}", value=""), 10),
    "attributes": many(lambda m, i: m.graph.node[0].attribute.append(helper.make_attribute(f"a{i}", 1)), 14),
    "inputs of a node": ends("input"),
    "outputs of a node": ends("output"),
    "whole numbers": whole_numbers,
    "empty nodes": empty(7, 1),
    "empty weights": empty(7, 5),
    "empty values": empty(7, 13),
    "empty inputs": empty(7, 11),
    "empty functions": empty(25),
    "empty attributes": empty(7, 1, 5),
    "empty names": empty(7, 1, 1),
    "what is not known": empty(7, 15),
}
GRAPH_SECONDS = 15.0
"""Of a processor, for a graph of any size; beside that of reading it."""


@pytest.mark.promise("S9")
@pytest.mark.parametrize("shape", GRAPHS.values(), ids=GRAPHS.keys())
def test_no_message_of_a_graph_is_dear(shape: Callable[[int], bytes], tmp_path: Path) -> None:
    check("teacher", shape, 1 << 14, tmp_path)


@pytest.mark.reliability
@pytest.mark.promise("S9")
@pytest.mark.parametrize("shape", GRAPHS.values(), ids=GRAPHS.keys())
def test_no_large_graph_is_dear(shape: Callable[[int], bytes], tmp_path: Path) -> None:
    """There is time that is not linear in a graph's nodes: their number ends it."""
    for size in (1 << 18, 1 << 19, 1 << 20, FULL):
        found = cost("teacher", shape(size), tmp_path)
        assert found.seconds <= GRAPH_SECONDS, found
        assert found.mebibytes <= MEBIBYTES, found
        assert found.exit_code in {0, 5}, found
    assert "has more than" in found.said or "written out" in found.said or shape is GRAPHS["what is not known"]


LENGTH = 10**9
ONE, MANY = np.ones(1, np.float32), np.array([LENGTH])
ASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "copies": ("Expand", {"one": ONE, "n": MANY}),
    "tiles": ("Tile", {"one": ONE, "n": MANY}),
    "zeros": ("ConstantOfShape", {"n": MANY}),
    "a range": ("Range", {"a": np.float32(0), "n": np.float32(LENGTH), "b": np.float32(1)}),
    "a margin": ("Pad", {"one": ONE, "n": np.array([0, LENGTH])}),
    "a larger image": ("Resize", {"one": ONE.reshape(1, 1, 1, 1), "": None, "n": np.array([1, 1, 10_000, 100_000])}),
    "products": ("MatMul", {"a": np.ones((30_000, 1), np.float32), "b": np.ones((1, 30_000), np.float32)}),
    "one hot": ("OneHot", {"i": np.zeros(1000, np.int64), "n": np.int64(10**6), "v": np.array([0, 1], np.float32)}),
}


@pytest.mark.promise("S9")
@pytest.mark.parametrize(("operator", "inputs"), ASKS.values(), ids=ASKS.keys())
def test_what_a_graph_makes_of_constants_is_not_made_when_it_is_opened(
    operator: str, inputs: dict[str, Any], tmp_path: Path
) -> None:
    names = ["one", "", "", "n"] if operator == "Resize" else list(inputs)
    nodes = [
        helper.make_node(operator, names, ["all"]),
        helper.make_node("ReduceMax", ["all"], ["largest"], keepdims=0),
        helper.make_node("Add", ["image", "largest"], ["x"]),
    ]
    model = graph_of(nodes, **{name: value for name, value in inputs.items() if name})
    found = cost("graph", sealed(model.SerializeToString()), tmp_path)
    assert (found.exit_code, found.said) == (0, "")
    assert found.seconds < START
    assert found.mebibytes < 100


@pytest.mark.promise("S9")
def test_constants_that_double_are_not_made_when_a_graph_is_opened(tmp_path: Path) -> None:
    doubled = [helper.make_node("Concat", [f"d{i}", f"d{i}"], [f"d{i + 1}"], axis=0) for i in range(40)]
    last = [helper.make_node("ReduceMax", ["d40"], ["y"], keepdims=0), helper.make_node("Add", ["image", "y"], ["x"])]
    found = cost("graph", sealed(graph_of([*doubled, *last], d0=ONE).SerializeToString()), tmp_path)
    assert (found.exit_code, found.said) == (0, "")
    assert found.mebibytes < 100


def doubling(lines: int, last: str = "Relu") -> bytes:
    """Return a graph of functions each of which calls the one before twice."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
    model = graph_of([helper.make_node(f"f{lines}", ["image"], ["x"], domain="f")])
    model.opset_import.append(opsets[1])
    body = [helper.make_node(last, ["x"], ["y"], domain="" if last == "Relu" else "f")]
    for i in range(lines + 1):
        model.functions.append(helper.make_function("f", f"f{i}", ["x"], ["y"], body, opsets))
        calls = (("x", "a"), ("a", "y"))
        body = [helper.make_node(f"f{i}", [taken], [given], domain="f") for taken, given in calls]
    return bare(model)


@pytest.mark.promise("S9")
def test_functions_do_not_double_a_graph_without_end(tmp_path: Path) -> None:
    assert cost("teacher", doubling(8), tmp_path).exit_code == 0
    for lines, words in ((14, "16385 nodes once"), (30, "nodes once"), (100, "in one another")):
        found = cost("teacher", doubling(lines), tmp_path)
        assert (found.exit_code, words in found.said, found.seconds < 1) == (5, True, True), found
    assert "call themselves" in cost("teacher", doubling(3, last="f3"), tmp_path).said


@pytest.mark.promise("S9")
def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    model = graph()
    sparse = model.graph.sparse_initializer.add(dims=[LENGTH])
    sparse.values.CopyFrom(numpy_helper.from_array(ONE, "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), ""))
    assert "a sparse tensor" in cost("graph", sealed(model.SerializeToString()), tmp_path).said
    assert "a sparse tensor" in cost("teacher", bare(model), tmp_path).said


@pytest.mark.promise("S9")
@pytest.mark.parametrize("numbers", [4, 8, 16])
def test_a_tensor_has_the_numbers_of_its_sides(numbers: int, tmp_path: Path) -> None:
    model = graph()
    weight = model.graph.initializer[0]
    for sides in ([2, 3, 1, 2**40], [2**31, 2**31, 2**31, 2**31], [2, -3, 1, 1], [2, 3, 1, 1]):
        weight.dims[:], weight.raw_data = sides, bytes(numbers)
        for kind, content in (("graph", sealed(model.SerializeToString())), ("teacher", bare(copy.deepcopy(model)))):
            found = cost(kind, content, tmp_path)
            assert (found.exit_code, found.mebibytes < 100) == (5, True), found


def within(levels: int) -> bytes:
    """Return a graph with a node with an attribute with a graph, and so on."""
    content, fields = b"", (7, 1, 5, 6)
    for level in reversed(range(levels)):
        number = 7 if level == 0 else fields[1 + (level - 1) % 3]
        content = bytes([number << 3 | 2]) + length_of(len(content)) + content
    return bare(graph()) + content


@pytest.mark.promise("S9")
def test_messages_in_one_another_are_counted(tmp_path: Path) -> None:
    for levels in (100, 1000, 10_000):
        assert "in one another" in cost("teacher", within(levels), tmp_path).said


@pytest.mark.promise("S9")
@pytest.mark.parametrize("content", [b"\x3a\xff", b"\x3a\xff\xff\xff\xff\x7f", b"\x3b", b"\x3d\0", b"\xff" * 20])
def test_a_graph_whose_fields_do_not_end_is_damaged(content: bytes, tmp_path: Path) -> None:
    found = cost("teacher", bare(graph()) + content, tmp_path)
    assert (found.exit_code, "is damaged" in found.said) == (5, True)


# MATLAB files


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def packed_element(data: bytes) -> bytes:
    content = zlib.compress(data, 9)
    return struct.pack("<II", 15, len(content)) + content


def matlab_of(content: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + content


BOMB = packed_element(element(14, bytes(20_000_000)))
MATLAB = {
    "elements": lambda size: matlab_of(element(1, b"") * (size // 8)),
    "small elements": lambda size: matlab_of(struct.pack("<HH", 1, 0) * (size // 4)),
    "matrices": lambda size: matlab_of(element(14, element(6, bytes(8)) + element(5, b"") * 2) * (size // 40)),
    "elements of a matrix": lambda size: matlab_of(element(14, bytes(size))),
    "packed elements": lambda size: matlab_of(packed_element(bytes(8)) * (size // 20)),
    "packed elements that grow": lambda size: matlab_of(BOMB * (size // len(BOMB) + 1)),
}


@pytest.mark.promise("D8")
@pytest.mark.parametrize("shape", MATLAB.values(), ids=MATLAB.keys())
def test_no_matlab_file_is_dear(shape: Callable[[int], bytes], tmp_path: Path) -> None:
    check("matlab", shape, QUICK, tmp_path)


@pytest.mark.reliability
@pytest.mark.promise("D8")
@pytest.mark.parametrize("shape", MATLAB.values(), ids=MATLAB.keys())
def test_no_large_matlab_file_is_dear(shape: Callable[[int], bytes], tmp_path: Path) -> None:
    check("matlab", shape, FULL, tmp_path)
