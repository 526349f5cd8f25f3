"""Files that someone else may have put there are opened as files: a pipe or a device would never end."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from segdistill.errors import UsageError

MOST = 1 << 26
"""Bytes of a file that is read in one piece, far more than any table or log here has."""


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
    """Open a regular file, or what a link names, to read bytes.

    Raises:
        OSError: if it is none, or cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        what = "Is a directory" if stat.S_ISDIR(kind) else "It is no regular file"
        raise OSError(errno.EINVAL, what, str(path))
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, most: int = MOST) -> bytes:
    """Return what a regular file holds.

    Raises:
        OSError: as `open_file`; if it has more than `most` bytes.
    """
    with open_file(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EINVAL, f"It has more than {most} bytes", str(path))
    return content
