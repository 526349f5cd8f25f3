"""Pickles of tensors by PyTorch, read without PyTorch's reader: nothing in them is called, and each has its bounds.

Both of its formats are read, an archive of records (since 1.6) and one stream, with the steps of pickle's protocol 2
that `torch.save` writes. A file of n bytes takes at most n + 200 MB of memory, and 5 s + 2 s per GB of time: what its
pickle may hold is counted below, and numbers are read once, into the memory that they keep.
"""

import io
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from segdistill.errors import ModelError

MAX_BYTES = 1 << 22
"""Bytes of a file's pickles without the numbers of tensors: ten times what any network here needs."""
MAX_STEPS = 1 << 20
"""Steps of a file's pickles, a tensor takes about 30; what a step copies counts as steps, too."""
MAX_OBJECTS = 1 << 18
"""Tables, lists and tensors: each takes up to a kilobyte for a byte of the file."""
MAX_NUMBER_KEYS = 10_000
"""Numbers as keys, as states of optimizers have: unlike text, they can be chosen to have the same hash."""
MAX_NAME = 1000
"""Characters of a key, and bytes of a type's name."""
MAX_REPEATED = 8
"""Sizes of all tensors together, in sizes of the file: those that share memory may be copied later."""
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""First two values of the older format, by PyTorch's serialization.py."""
SAVE = "Save its tensors alone, with torch.save(model.state_dict(), FILE)."
DENSE = "Expected are dense tensors on the CPU, no larger than the file."
TRUST = (
    "If you trust it, load it with the program that wrote it, and save its tensors alone: "
    'torch.save(model.state_dict(), "weights.pth").'
)
STATE_DICT = "collections.OrderedDict"
REBUILD = "torch._utils._rebuild_"
TENSORS = {f"{REBUILD}tensor", f"{REBUILD}tensor_v2"}
PARAMETERS = {f"{REBUILD}parameter", f"{REBUILD}parameter_with_state", "torch.nn.parameter.Parameter"}
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
VALUES = {
    *("collections.Counter", "_codecs.encode", "datetime.timedelta", "torch.Size", "torch.device"),
    "torch.serialization._get_layout",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "bytearray", "complex")),
    *(str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)),
}
"""Types beside tensors that are plain values: they are passed over."""
KNOWN = TENSORS | PARAMETERS | VALUES | {STATE_DICT}


Fill = Callable[[str, Tensor], None]


class PickleError(ModelError):
    """A pickle holds what it must not; the message goes on from "FILE holds"."""


class Global(NamedTuple):
    """A type or a function that a pickle names."""

    name: str


class Other:
    """A plain value that is neither table, list, text, number nor tensor: what it is does not matter."""


OTHER = Other()


class Storage(NamedTuple):
    """Numbers in memory, which tensors look at."""

    memory: Tensor  # (bytes,) uint8
    dtype: torch.dtype
    start: int
    """The first of them; in bytes divided by those of a number."""
    numbers: int


class PickleReader:
    """Reads the pickles of one file: values as `torch.load` returns them with `weights_only=True`, tensors on the CPU.

    Args:
        content: stands where the pickle begins.
        size: bytes of the file.
        read_numbers: fills the memory of a storage, by its key; without it that is left for later.
    """

    def __init__(
        self, content: IO[bytes], size: int, read_numbers: Callable[[str, Tensor], None] | None = None
    ) -> None:
        self.memory: dict[str, Tensor] = {}
        """Bytes of the storages, by their keys."""
        self._content = content
        self._read_numbers = read_numbers
        self._left = {
            "bytes": MAX_BYTES,
            "steps": MAX_STEPS,
            "objects": MAX_OBJECTS,
            "numbers as keys": MAX_NUMBER_KEYS,
            "numbers in storages": size,
            "numbers in tensors": MAX_REPEATED * size,
        }

    def load(self) -> Any:
        """Read the next pickle.

        Raises:
            PickleError: if it holds more than tensors and plain values, or more of them than there may be.
            Exception: whatever a damaged one leads to.
        """
        self._stack, self._marks, self._memo = list[Any](), list[list[Any]](), dict[int, Any]()
        while (code := self._take(1)) != STOP:
            self._count("steps")
            STEPS[code](self)
        return self._stack.pop()

    def _count(self, what: str, amount: int = 1) -> None:
        self._left[what] -= amount
        if self._left[what] < 0:
            raise PickleError(f"more {what} than a file of weights of its size", SAVE)

    def _take(self, size: int) -> bytes:
        self._count("bytes", size)
        data = self._content.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def number(self, layout: str) -> Any:
        """Read a number, in `struct`'s layout."""
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def push(self, value: Any) -> None:
        """Put a value on the stack that is there already, or small."""
        self._stack.append(value)

    def push_object(self, value: Any) -> None:
        """Put a new table, list, tuple, tensor or name on the stack."""
        self._count("objects")
        self._stack.append(value)

    def push_text(self, size: int) -> None:
        """Read text of so many bytes."""
        self._stack.append(str(self._take(size), "utf-8", "surrogatepass"))

    def push_long(self) -> None:
        """Read a whole number of at most 255 bytes."""
        self._stack.append(int.from_bytes(self._take(self.number("B")), "little", signed=True))

    def push_global(self) -> None:
        """Read the name of a type or a function."""
        module, name = (self._content.readline(MAX_NAME) for _ in range(2))
        self._count("bytes", len(module) + len(name))
        known = f"{module.decode().rstrip()}.{name.decode().rstrip()}"
        if known.startswith(REBUILD) and known not in KNOWN:
            raise PickleError(f"no plain numbers, but those of {known.removeprefix(REBUILD)}", DENSE)
        if known not in KNOWN and not known.endswith("Storage"):
            raise PickleError(f"more than tensors: reading it would run code ({known}). It was not read", TRUST)
        self.push_object(Global(known))

    def mark(self) -> None:
        """Begin to collect the items of what follows."""
        self._marks.append(self._stack)
        self._stack = []

    def since_mark(self) -> list[Any]:
        """Take the items since the last mark from the stack."""
        items, self._stack = self._stack, self._marks.pop()
        return items

    def last(self, count: int) -> list[Any]:
        """Take so many items from the stack."""
        items = [self._stack.pop() for _ in range(count)]
        return items[::-1]

    def memorize(self, place: int) -> None:
        """Note what is on top of the stack."""
        self._memo[place] = self._stack[-1]

    def recall(self, place: int) -> None:
        """Put what was noted on the stack."""
        self._stack.append(self._memo[place])

    def extend(self, items: list[Any]) -> None:
        """Append items to the list on top of the stack."""
        target = self._stack[-1]
        if type(target) is not list:
            raise TypeError("no list")
        target += items

    def update(self, items: list[Any]) -> None:
        """Add keys and values, in turn, to the table on top of the stack."""
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise TypeError("no table")
        self._fill(target, zip(items[::2], items[1::2], strict=True))

    def build(self) -> None:
        """Give an object its attributes: those of a state dict are the versions of its modules."""
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, OrderedDict) and isinstance(state, dict) and isinstance(state.get("_metadata"), dict):
            target._metadata = state["_metadata"]  # type: ignore[attr-defined]

    def call(self) -> None:
        """Make an object of what names its type, and of its parts."""
        function, arguments = self.last(2)
        self.push_object(self._made(function.name, arguments))

    def push_storage(self) -> None:
        """Find or make a storage: "storage", type, key, device, how many numbers and, in old files, which of them."""
        kind, (name,), key, _, numbers, *view = self._stack.pop()
        module, _, of = name.rpartition(".")
        if kind != "storage" or module not in ("torch", "torch.cuda") or not isinstance(key, str):
            raise TypeError("no storage")
        if of not in DTYPES:
            raise PickleError(f"no plain numbers, but those of a {of}", DENSE)
        dtype = DTYPES[of]
        start = 0
        if key not in self.memory:
            self._count("numbers in storages", max(numbers, 0) * dtype.itemsize)
            self.memory[key] = torch.empty(numbers * dtype.itemsize, dtype=torch.uint8)
            if self._read_numbers is not None:
                self._read_numbers(key, self.memory[key])
        if view and view[0] is not None:
            _, start, numbers = view[0]
        if start < 0 or numbers < 0 or (start + numbers) * dtype.itemsize > len(self.memory[key]):
            raise ValueError("a view beyond its storage")
        self.push_object(Storage(self.memory[key], dtype, start, numbers))

    def _made(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name in TENSORS:
            return self._tensor(*arguments[:4])
        if name in PARAMETERS:
            return arguments[0]
        if name == STATE_DICT:
            table = OrderedDict[Any, Any]()
            if arguments:  # a list of pairs, by Python 2
                self._count("steps", len(arguments[0]))
                self._fill(table, arguments[0])
            return table
        if name in VALUES:
            return OTHER
        raise TypeError("a call of what is no type")

    def _tensor(self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        """Return a view of a storage. PyTorch would enlarge one that is too small."""
        self._count("steps", len(size))
        if min((offset, *size, *stride)) < 0 or len(size) != len(stride):
            raise ValueError("a tensor of negative size")
        end = offset + 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if 0 not in size and end > storage.numbers:
            raise ValueError("a tensor beyond its storage")
        self._count("numbers in tensors", prod(size) * storage.dtype.itemsize)
        start = storage.start + offset
        return torch.empty(0, dtype=storage.dtype).set_(storage.memory.untyped_storage(), start, size, stride)

    def _fill(self, table: dict[Any, Any], items: Iterable[Any]) -> None:
        for key, value in items:
            if isinstance(key, int):
                self._count("numbers as keys")
            elif not isinstance(key, str) or len(key) > MAX_NAME:
                raise PickleError("a key that is neither a name nor a number", SAVE)
            table[key] = value


STOP = b"."
STEPS: dict[bytes, Callable[[PickleReader], None]] = {
    b"\x80": lambda reader: reader.number("B"),  # the protocol
    b"N": lambda reader: reader.push(None),
    b"\x88": lambda reader: reader.push(True),
    b"\x89": lambda reader: reader.push(False),
    b"J": lambda reader: reader.push(reader.number("<i")),
    b"K": lambda reader: reader.push(reader.number("B")),
    b"M": lambda reader: reader.push(reader.number("<H")),
    b"\x8a": PickleReader.push_long,
    b"G": lambda reader: reader.push(reader.number(">d")),
    b"X": lambda reader: reader.push_text(reader.number("<I")),
    b"U": lambda reader: reader.push_text(reader.number("B")),
    b"}": lambda reader: reader.push_object({}),
    b"]": lambda reader: reader.push_object([]),
    b")": lambda reader: reader.push(()),
    b"\x85": lambda reader: reader.push_object(tuple(reader.last(1))),
    b"\x86": lambda reader: reader.push_object(tuple(reader.last(2))),
    b"\x87": lambda reader: reader.push_object(tuple(reader.last(3))),
    b"t": lambda reader: reader.push_object(tuple(reader.since_mark())),
    b"(": PickleReader.mark,
    b"a": lambda reader: reader.extend(reader.last(1)),
    b"e": lambda reader: reader.extend(reader.since_mark()),
    b"s": lambda reader: reader.update(reader.last(2)),
    b"u": lambda reader: reader.update(reader.since_mark()),
    b"q": lambda reader: reader.memorize(reader.number("B")),
    b"r": lambda reader: reader.memorize(reader.number("<I")),
    b"h": lambda reader: reader.recall(reader.number("B")),
    b"j": lambda reader: reader.recall(reader.number("<I")),
    b"c": PickleReader.push_global,
    b"Q": PickleReader.push_storage,
    b"R": PickleReader.call,
    b"\x81": PickleReader.call,
    b"b": PickleReader.build,
}
"""Of protocol 2, as Python's pickletools.py describes them; `torch.save` writes no others."""


def read_pickle(content: BinaryIO, file: Path) -> Any:
    """Return what `torch.save` wrote, its tensors on the CPU.

    Args:
        content: of the file, seekable.
        file: for the message.

    Raises:
        ModelError: if it holds more than tensors and plain values, or more of them than there may be.
        Exception: whatever a damaged one leads to.
    """
    size = content.seek(0, io.SEEK_END)
    try:
        if zipfile.is_zipfile(content):
            with zipfile.ZipFile(content) as archive:
                return _read_archive(archive, size)
        content.seek(0)
        return _read_stream(content, size)
    except PickleError as error:
        raise ModelError(f"{file} holds {error.what}.", error.fix) from None


def _read_archive(archive: zipfile.ZipFile, size: int) -> Any:
    """Read the format since PyTorch 1.6: ROOT/data.pkl, and ROOT/data/KEY for the numbers of each storage."""
    entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise PickleError(f"packed records, {unpacked} bytes would come out of them", SAVE)
    names = {entry.filename.replace("\\", "/").casefold() for entry in entries}
    if len(names) < len(entries):  # other readers would read other ones
        raise PickleError("several records of one name", SAVE)
    (pickle,) = (entry for entry in entries if entry.filename.endswith("/data.pkl"))
    root = pickle.filename.removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != sys.byteorder.encode():
        raise PickleError("numbers in another order of bytes than this machine", SAVE)

    def read_numbers(key: str, memory: Tensor) -> None:
        with archive.open(f"{root}data/{key}") as record:
            _fill_memory(record, memory)
            if record.read(1):
                raise ValueError("a record that is longer than its storage")

    with archive.open(pickle) as content:
        return PickleReader(content, size, read_numbers).load()


def _read_stream(content: BinaryIO, size: int) -> Any:
    """Read the format before PyTorch 1.6: five pickles, then the numbers of each storage behind their count."""
    reader = PickleReader(content, size)
    if (reader.load(), reader.load()) != (MAGIC, PROTOCOL):
        raise ValueError("no file by torch.save")
    system, value, keys = reader.load(), reader.load(), reader.load()
    if system["little_endian"] != (sys.byteorder == "little"):
        raise PickleError("numbers in another order of bytes than this machine", SAVE)
    for key in keys:
        memory = reader.memory.pop(key)
        content.read(8)
        _fill_memory(content, memory)
    if reader.memory:
        raise EOFError
    return value


def _fill_memory(content: IO[bytes], memory: Tensor) -> None:
    target = memory.numpy().data
    while len(target):
        read = content.readinto(target[: 1 << 20])  # type: ignore[attr-defined]
        if not read:
            raise EOFError
        target = target[read:]
