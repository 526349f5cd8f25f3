"""Reading of files that someone else may have put there: regular files alone, as a pipe or a device would never end."""

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path

from segdistill.errors import UsageError

MAX_READ_BYTES = 1 << 26
"""Bytes of a file that is read in one piece: 64 MB, far more than any table or log here has."""


def check_utf8(path: Path) -> None:
    """Refuse a path that is not UTF-8: safetensors opens none such, and no TOML or JSON file can name it.

    Raises:
        UsageError: if it is not.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise UsageError(f"The name of {path} is not UTF-8.", "Choose another name.") from None


def open_file(path: Path) -> BufferedReader:
    """Open a regular file, or the one that a link names, to read bytes.

    Raises:
        OSError: if it is none, or cannot be opened.
    """
    # Without O_NONBLOCK the call would wait for somebody to write to a pipe, before its kind can be looked at.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode  # of the file that is open: another one may have its name by now
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        reason = "Is a directory" if stat.S_ISDIR(mode) else "It is no regular file"
        raise OSError(errno.EINVAL, reason, str(path))
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, max_bytes: int = MAX_READ_BYTES) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: as `open_file`; if it has more than `max_bytes`.
    """
    with open_file(path) as file:
        # One byte more than allowed tells, where the size that the system names may be another one: in /proc it is 0.
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EINVAL, f"It has more than {max_bytes} bytes", str(path))
    return content


def sha256_of(path: Path) -> str:
    """Return the sha256 of a regular file, in hexadecimal.

    Raises:
        OSError: as `open_file`.
    """
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
