"""The steps of pickle's protocol 2, without calls: what would be an object of some type is a tensor, or nothing.

Nothing that a pickle names is imported, and all that its steps may make is counted.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from math import prod
from typing import IO, Any, NamedTuple

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
"""Size of all tensors together, in sizes of the file: those that share memory may be copied later."""
SAVE_ADVICE = "Save its tensors alone, with torch.save(model.state_dict(), FILE)."
DENSE_ADVICE = "Expected: dense tensors on the CPU, no larger than the file."
TRUST_ADVICE = (
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
"""Types of the numbers in a storage, by the name of its class in torch."""
PLAIN_TYPES = {
    "collections.Counter",
    "_codecs.encode",
    "datetime.timedelta",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
    "builtins.set",
    "builtins.bytearray",
    "builtins.complex",
    # Python 2's names for them
    "__builtin__.set",
    "__builtin__.bytearray",
    "__builtin__.complex",
    *(str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)),
}
"""Types beside tensors that are plain values: they are passed over."""
KNOWN_TYPES = TENSORS | PARAMETERS | PLAIN_TYPES | {STATE_DICT}

ReadNumbers = Callable[[str, Tensor], None]
"""Function that fills the memory of a storage (bytes,), given its key."""


class PickleError(ModelError):
    """A pickle holds what it must not; the message goes on from "FILE holds"."""


class Global(NamedTuple):
    """A type or a function that a pickle names."""

    name: str


class PlainValue:
    """A value that is neither table, list, text, number nor tensor: what it is does not matter."""


PLAIN_VALUE = PlainValue()


class Storage(NamedTuple):
    """Numbers in memory, which tensors look at."""

    memory: Tensor  # (bytes,) uint8
    dtype: torch.dtype
    start: int
    """Index of the first number, counted from the memory's beginning."""
    numbers: int
    """Count of the numbers."""


class PickleReader:
    """Reads the pickles of one file: values as `torch.load` returns them with `weights_only=True`, tensors on the CPU.

    Args:
        content: file that stands where the pickle begins.
        size: bytes of the file.
        read_numbers: called with each storage when it is made; without it the numbers are left for later.
    """

    def __init__(self, content: IO[bytes], size: int, read_numbers: ReadNumbers | None = None) -> None:
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
        """Amounts that the file may still take."""
        self._stack: list[Any] = []
        """Values that the next steps work on."""
        self._marks: list[list[Any]] = []
        """Stacks that were left where a mark was set."""
        self._memo: dict[int, Any] = {}
        """Values that later steps refer to, by number."""

    def load(self) -> Any:
        """Read the next pickle.

        Raises:
            PickleError: if it holds more than tensors and plain values, or more of them than there may be.
            Exception: whatever a damaged one leads to.
        """
        self._stack, self._marks, self._memo = [], [], {}
        while (code := self._take(1)) != STOP:
            self._count("steps")
            STEPS[code](self)
        return self._stack.pop()

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
        """Read the name of a type or a function.

        Raises:
            PickleError: if it is none that files of weights name.
        """
        module = self._read_name()
        name = f"{module}.{self._read_name()}"
        if name.startswith(REBUILD) and name not in KNOWN_TYPES:
            raise PickleError(f"no plain numbers, but those of {name.removeprefix(REBUILD)}", DENSE_ADVICE)
        # Names of storages are checked where one is made: each says what its numbers are.
        if name not in KNOWN_TYPES and not name.endswith("Storage"):
            raise PickleError(f"more than tensors: reading it would run code ({name}). It was not read", TRUST_ADVICE)
        self.push_object(Global(name))

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

    def memorize(self, number: int) -> None:
        """Note the value on top of the stack under a number."""
        self._memo[number] = self._stack[-1]

    def recall(self, number: int) -> None:
        """Put a noted value on the stack."""
        self._stack.append(self._memo[number])

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
        self.push_object(self._make(function.name, arguments))

    def push_storage(self) -> None:
        """Find or make a storage: "storage", type, key, device, how many numbers and, in old files, which of them."""
        kind, (type_name,), key, _, numbers, *view = self._stack.pop()
        module, _, class_name = type_name.rpartition(".")
        if kind != "storage" or module not in ("torch", "torch.cuda") or not isinstance(key, str):
            raise TypeError("no storage")
        if class_name not in DTYPES:
            raise PickleError(f"no plain numbers, but those of a {class_name}", DENSE_ADVICE)
        dtype = DTYPES[class_name]
        if key not in self.memory:
            self._make_memory(key, numbers, dtype)
        start = 0
        if view and view[0] is not None:
            _, start, numbers = view[0]
        if min(start, numbers) < 0 or (start + numbers) * dtype.itemsize > len(self.memory[key]):
            raise ValueError("a view beyond its storage")
        self.push_object(Storage(self.memory[key], dtype, start=start, numbers=numbers))

    def _count(self, what: str, amount: int = 1) -> None:
        """Take an amount from what the file may have.

        Raises:
            PickleError: if there is less left.
        """
        self._left[what] -= amount
        if self._left[what] < 0:
            raise PickleError(f"more {what} than a file of weights of its size", SAVE_ADVICE)

    def _take(self, size: int) -> bytes:
        self._count("bytes", size)
        data = self._content.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def _read_name(self) -> str:
        """Read a line, which is the name of a module or of something in it."""
        line = self._content.readline(MAX_NAME)
        self._count("bytes", len(line))
        return line.decode().rstrip()

    def _make_memory(self, key: str, numbers: int, dtype: torch.dtype) -> None:
        """Make the memory of a storage; all of them together take no more than the file."""
        # A negative number would give back what others have taken; the memory then refuses it.
        self._count("numbers in storages", max(numbers, 0) * dtype.itemsize)
        self.memory[key] = torch.empty(numbers * dtype.itemsize, dtype=torch.uint8)
        if self._read_numbers is not None:
            self._read_numbers(key, self.memory[key])

    def _make(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Return what a call of a type of that name stands for."""
        if name in TENSORS:
            # further ones are whether it needs a gradient, its hooks and its metadata
            storage, offset, size, stride = arguments[:4]
            return self._tensor(storage, offset, size=size, stride=stride)
        if name in PARAMETERS:
            return arguments[0]
        if name == STATE_DICT:
            table = OrderedDict[Any, Any]()
            if arguments:  # a list of pairs, by Python 2
                self._count("steps", len(arguments[0]))
                self._fill(table, arguments[0])
            return table
        if name in PLAIN_TYPES:
            return PLAIN_VALUE
        raise TypeError("a call of what is no type")

    def _tensor(self, storage: Storage, offset: int, *, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
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
        """Add keys and values to a table.

        Raises:
            PickleError: if a key is neither a name nor a number.
        """
        for key, value in items:
            if isinstance(key, int):
                self._count("numbers as keys")
            elif not isinstance(key, str) or len(key) > MAX_NAME:
                raise PickleError("a key that is neither a name nor a number", SAVE_ADVICE)
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
"""Steps of protocol 2, as Python's pickletools.py describes them; `torch.save` writes no others."""
