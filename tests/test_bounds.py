"""Files made to be dear: of every construct of each format as much as a size holds, and what that costs a reader.

Each shape is measured at a size and at twice that, in a process of its own: what grows faster than the file shows.
"""

import io
import json
import os
import pickle
import resource
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fuzz import READERS
from PIL import Image

from segdistill.config import MAX_PRESET_BYTES
from segdistill.data._own import MAX_BYTES
from segdistill.errors import SegdistillError

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
    assert twice.seconds < NOTABLE or twice.seconds <= RATIO * max(once.seconds, NOTABLE / 2), (once, twice)


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
