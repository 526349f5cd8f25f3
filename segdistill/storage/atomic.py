"""The one way to write a file: a reader sees it whole or not at all, and it outlasts the power going off."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from segdistill.storage.write_errors import UNSUPPORTED_ERRNOS, explain_write_error

MAX_NAME_CHARACTERS = 60
"""Characters of a file's name that its temporary file bears: a name has 255 bytes at most, and needs a random part."""
STALE_SECONDS = 10.0
"""Age of a temporary file at which nobody is writing it any more: that takes a moment."""

Content = bytes | str | Callable[[BinaryIO], object]
"""A file's content as it is, or a function that writes it into the file that it is given, piece by piece."""


def write_atomic(path: Path, content: Content, before_rename: Callable[[], object] = lambda: None) -> None:
    """Write a file so that a reader sees the old one or the new one whole, whatever happens in between.

    Args:
        path: the file, in a folder that is there.
        content: its content, or a function that writes it.
        before_rename: called when the new file is on the disk and has not its name yet.

    Raises:
        ResourceError: if it does not fit on the disk; the old file is untouched.
        UsageError: if the path cannot be written.
    """
    temporary: Path | None = None
    try:
        # In the same folder, so that the rename stays within one file system, where it happens at once or not at all.
        descriptor, name = tempfile.mkstemp(
            prefix=f".{path.name[:MAX_NAME_CHARACTERS]}.", suffix=".tmp", dir=path.parent
        )
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            _write_content(file, content)
            file.flush()
            with suppress(PermissionError):  # of file systems without permissions
                os.fchmod(file.fileno(), 0o666 & ~_umask())  # mkstemp lets nobody else read
            # Before the rename: else the power going off may leave the name, and nothing in the file.
            _sync_descriptor(file.fileno())
        before_rename()
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:  # Ctrl-C too must leave no temporary file
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explain_write_error(error, path) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sync(path: Path) -> bool:
    """Make durable what was written to a file, or renamed in a folder; return whether the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sweep(targets: Iterable[Path]) -> None:
    """Delete the temporary files that killed processes left where they wrote one of these files."""
    names_by_folder: dict[Path, set[str]] = {}
    for target in targets:
        names_by_folder.setdefault(target.parent, set()).add(target.name[:MAX_NAME_CHARACTERS])
    for folder, names in names_by_folder.items():
        for temporary in folder.glob(".*.tmp"):
            if name_of_target(temporary) in names and _is_stale(temporary):
                temporary.unlink(missing_ok=True)


def name_of_target(temporary: Path) -> str:
    """Return the name, cut as it is there, of the file that a temporary one was to become: .NAME.RANDOM.tmp."""
    return temporary.name[1:].rpartition(".")[0].rpartition(".")[0]


def _write_content(file: BinaryIO, content: Content) -> None:
    if isinstance(content, str):
        file.write(content.encode())
    elif isinstance(content, bytes):
        file.write(content)
    else:
        content(file)


def _sync_descriptor(descriptor: int) -> bool:
    """Make an open file or folder durable; return whether the file system can."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED_ERRNOS:
            raise
        return False
    return True


def _is_stale(temporary: Path) -> bool:
    """Whether a temporary file is too old for another process to be writing it just now."""
    return time.time() - temporary.lstat().st_mtime > STALE_SECONDS


def _umask() -> int:
    """Return the process's mask of permissions, which the system tells only to who sets another one."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
