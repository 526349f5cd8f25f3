"""Headers, TOML files, images and MATLAB files made to be expensive cost no more than their size allows."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.costs import FULL, check, cost
from helpers.fuzz import READERS, append_digest, graph, header_of, model_file
from segdistill.config.toml import MAX_PRESET_BYTES
from segdistill.data.datasets._toml import MAX_BYTES
from segdistill.storage.weights import MAX_HEADER_BYTES

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's count of memory")


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


@pytest.mark.reliability
@pytest.mark.promise("S3")
@pytest.mark.parametrize("kind", ["model", "weights"])
@pytest.mark.parametrize("shape", HEADERS.values(), ids=HEADERS.keys())
def test_large_safetensors_headers_are_cheap_to_read(shape: Callable[[int], bytes], kind: str, tmp_path: Path) -> None:
    check(kind, shape, MAX_HEADER_BYTES // 2 - 1000, tmp_path)


@pytest.mark.promise("S3")
def test_errors_about_a_header_are_short(tmp_path: Path) -> None:
    """Of each color that is none pydantic tells: megabytes, and more memory than there is."""
    for size, words in ((1 << 16, "validation errors"), (1 << 21, "characters")):
        content = of_ours("palette", "[", "[],", "[]]")(size)
        assert words in READERS["model"].try_(content, tmp_path)
    model = graph()
    model.metadata_props[0].value = json.dumps(json.loads(model.metadata_props[0].value) | {"palette": [[]] * 50_000})
    for value in (model.metadata_props[0].value[:0], "a" * (1 << 20)):
        model.metadata_props[0].value += value
        content = append_digest(model.SerializeToString())
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


@pytest.mark.reliability
@pytest.mark.promise("S5")
@pytest.mark.parametrize("kind", LARGEST)
@pytest.mark.parametrize("shape", TOML.values(), ids=TOML.keys())
def test_large_toml_files_are_cheap_to_read(shape: Callable[[int], bytes], kind: str, tmp_path: Path) -> None:
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
def test_image_with_many_scans_is_refused(tmp_path: Path) -> None:
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


@pytest.mark.reliability
@pytest.mark.promise("D8")
@pytest.mark.parametrize("shape", IMAGES.values(), ids=IMAGES.keys())
def test_large_images_are_cheap_to_read(shape: Callable[[int], bytes], tmp_path: Path) -> None:
    check("image", shape, 1 << 21, tmp_path)


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


@pytest.mark.reliability
@pytest.mark.promise("D8")
@pytest.mark.parametrize("shape", MATLAB.values(), ids=MATLAB.keys())
def test_large_matlab_files_are_cheap_to_read(shape: Callable[[int], bytes], tmp_path: Path) -> None:
    check("matlab", shape, FULL, tmp_path)
