"""Pickles of tensors by PyTorch, read without PyTorch's reader: nothing in them is called, and each has its bounds.

Both of its formats are read, an archive of records (since 1.6) and one stream, with the steps of pickle's protocol 2
that `torch.save` writes. A file of n bytes takes at most n + 200 MB of memory, and 5 s + 2 s per GB of time: what its
pickle may hold is counted in `pickle_reader`, and numbers are read once, into the memory that they keep.
"""

import io
import sys
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO

from torch import Tensor

from segdistill.errors import ModelError
from segdistill.storage.pickle_reader import SAVE_ADVICE, PickleError, PickleReader

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""First two values of the older format, by PyTorch's serialization.py."""
COUNT_BYTES = 8
"""Bytes of the count before a storage's numbers in the older format."""
MAX_PART_BYTES = 1 << 20
"""Bytes that are read at once, so that no second copy of a storage is made."""
WRONG_BYTE_ORDER = "numbers in another order of bytes than this machine"


def read_pickle(content: BinaryIO, file: Path) -> Any:
    """Return what `torch.save` wrote, its tensors on the CPU.

    Args:
        content: the file's, seekable.
        file: path for the message.

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
    _check_entries(entries, size)
    (pickle,) = (entry for entry in entries if entry.filename.endswith("/data.pkl"))
    root = pickle.filename.removesuffix("data.pkl")
    byte_order = f"{root}byteorder"  # newer versions of PyTorch write it
    if byte_order in archive.namelist() and archive.read(byte_order) != sys.byteorder.encode():
        raise PickleError(WRONG_BYTE_ORDER, SAVE_ADVICE)

    def read_numbers(key: str, memory: Tensor) -> None:
        with archive.open(f"{root}data/{key}") as record:
            _fill_memory(record, memory)
            if record.read(1):
                raise ValueError("a record that is longer than its storage")

    with archive.open(pickle) as content:
        return PickleReader(content, size, read_numbers).load()


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse an archive of which more comes out than is in it, or that readers understand differently.

    Raises:
        PickleError: if its records are packed, overlap or share a name.
    """
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise PickleError(f"packed records, {unpacked} bytes would come out of them", SAVE_ADVICE)
    # As PyTorch's own reader compares them; of two with one name, another reader would read the other one.
    names = {entry.filename.replace("\\", "/").casefold() for entry in entries}
    if len(names) < len(entries):
        raise PickleError("several records of one name", SAVE_ADVICE)


def _read_stream(content: BinaryIO, size: int) -> Any:
    """Read the format before PyTorch 1.6: five pickles, then the numbers of each storage behind their count."""
    reader = PickleReader(content, size)
    if (reader.load(), reader.load()) != (MAGIC, PROTOCOL):
        raise ValueError("no file by torch.save")
    system, value, keys = reader.load(), reader.load(), reader.load()
    if system["little_endian"] != (sys.byteorder == "little"):
        raise PickleError(WRONG_BYTE_ORDER, SAVE_ADVICE)
    for key in keys:
        memory = reader.memory.pop(key)
        content.read(COUNT_BYTES)  # the pickle has said it already
        _fill_memory(content, memory)
    if reader.memory:
        raise EOFError
    return value


def _fill_memory(content: IO[bytes], memory: Tensor) -> None:
    """Read as many bytes as a storage has, into its memory.

    Raises:
        EOFError: if there are fewer.
    """
    target = memory.numpy().data
    while len(target):
        count = content.readinto(target[:MAX_PART_BYTES])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        target = target[count:]
