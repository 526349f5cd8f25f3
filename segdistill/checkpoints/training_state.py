"""The file that a training goes on from: written by one process, read without running code.

It is a line with the sha256 of what follows, and behind it what `torch.save` writes.
"""

import hashlib
import io
import re
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from segdistill.checkpoints._format import FORMAT, later_format_error
from segdistill.checkpoints.tensors import check_finite, named_tensors
from segdistill.errors import ModelError, out_of_memory
from segdistill.storage.atomic import write_atomic
from segdistill.storage.files import open_file
from segdistill.storage.pickles import read_pickle

STATE_KIND = b"segdistill state "
STATE_MAGIC = STATE_KIND + b"%d " % FORMAT
"""Bytes before the digest."""
DIGEST_DIGITS = 64
MAX_HEAD = 128
"""Bytes of a state's first line, at most."""


def save_state(path: Path, state: dict[str, Any], *, keep_previous: bool = False) -> None:
    """Write a training's state behind its own digest; with `keep_previous` the one before stays as `NAME.prev`.

    Raises:
        CheckError: if a tensor is not finite. Nothing is written then.
    """
    check_finite(path, dict(named_tensors(state)))

    def write(file: BinaryIO) -> None:
        # The digest is known only behind what it is of, which is written once and not kept.
        file.write(STATE_MAGIC + b"0" * DIGEST_DIGITS + b"\n")
        payload = _DigestingWriter(file)
        torch.save(state, cast(IO[bytes], payload))
        if payload.error is not None:
            raise payload.error
        file.seek(len(STATE_MAGIC))
        file.write(payload.digest.hexdigest().encode())

    def keep() -> None:  # only now, so that a full disk costs neither old one
        if keep_previous and path.exists():
            path.replace(path.with_name(f"{path.name}.prev"))

    write_atomic(path, write, before_rename=keep)


def load_state(path: Path) -> dict[str, Any]:
    """Read a training's state.

    Raises:
        ModelError: if it is damaged or something else.
    """
    head, payload = _read_parts(path)
    later = re.match(STATE_KIND + rb"(\d{1,9}) ", head)
    if later and int(later[1]) > FORMAT:
        raise later_format_error(path, int(later[1]))
    # Before the pickle is looked at: damage must not be taken for something else.
    digest = hashlib.sha256(payload).hexdigest()
    if head != STATE_MAGIC + digest.encode():
        raise ModelError(f"{path} is damaged: its content has the sha256 {digest}, not the one it names.")
    try:
        state: dict[str, Any] = read_pickle(io.BytesIO(payload), path)
    except Exception as error:  # whatever a forged file leads to
        # MemoryError is what a length in a forged file leads to; libraries that run out of memory raise others.
        if out_of_memory(error) and not isinstance(error, MemoryError):
            raise
        raise ModelError(f"{path} holds something else than a training's state ({type(error).__name__}).") from None
    return state


class _DigestingWriter:
    """Writes to a file what `torch.save` gives it, and takes a digest on the way.

    An error is kept for afterwards: raised in PyTorch's writer, another one would take its place.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: memoryview) -> int:
        """Take the next bytes."""
        size = memoryview(data).nbytes
        if self.error is None:
            self.digest.update(data)
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return size

    def flush(self) -> None:
        """Do nothing: the file is flushed at its end."""


def _read_parts(path: Path) -> tuple[bytes, bytes]:
    """Return the first line of a state, without its end, and what follows.

    Raises:
        ModelError: if it cannot be read, or does not end as a state.
    """
    try:
        with open_file(path) as file:
            # A look at both ends: what was made longer may be longer than the memory.
            if not _is_archive(file):
                raise ModelError(f"{path} is damaged: it does not end as it was written.")
            file.seek(0)
            head = file.readline(MAX_HEAD).rstrip(b"\n")
            return head, file.read()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from None


def _is_archive(file: IO[bytes]) -> bool:
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # it says that it is one of several disks
        return False
