"""The lock of a run's folder: the file system's, or a lease where that has none."""

import errno
import fcntl
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from segdistill.storage.files import read_file
from segdistill.storage.leases import Lease, busy_error, check_lease
from segdistill.storage.run_files import LOCK, LOCK_SIGNATURE, NEXT, is_run_folder
from segdistill.storage.write_errors import UNSUPPORTED_ERRNOS, explain_write_error

MAX_SIGNATURE_BYTES = 64
"""Bytes of a lock that are read for the number of its holder."""

_held: set[int] = set()
"""Descriptors that hold a lock. Forked loader workers let go of theirs: a run that is killed is free at once."""


@cache  # once in a process, and not before it holds a lock: a hook cannot be taken back
def _let_go_in_forks() -> None:
    os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


class FolderLock(NamedTuple):
    """A lock that keeps other runs out of a folder."""

    descriptor: int
    """Open file with the lock of the file system; held until it is closed."""
    lease: Lease | None
    """Lock in the place of the other where the file system has none."""

    def release_in_forks(self) -> None:
        """Have processes that are forked from now on let go of it: they may outlive the run."""
        _let_go_in_forks()
        _held.add(self.descriptor)

    def release(self) -> None:
        """Let others in."""
        _held.discard(self.descriptor)
        os.close(self.descriptor)
        if self.lease is not None:
            self.lease.release()


def take_lock(folder: Path) -> FolderLock:
    """Take a folder's lock, held until the process's end at the latest.

    Raises:
        BusyError: if another process has it.
        OSError: if it cannot be written.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        if _flock(descriptor, fcntl.LOCK_EX, folder):
            return FolderLock(descriptor, None)
        return FolderLock(descriptor, Lease(folder))
    except BaseException:
        os.close(descriptor)
        raise


def check_free(folder: Path) -> None:
    """Look whether no run is at work in a folder, as far as one may read it; nothing is written.

    Raises:
        BusyError: if another process is at work there.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        # Shared, as some file systems lock for one process alone only what it can write.
        _flock(descriptor, fcntl.LOCK_SH, folder)
    finally:
        os.close(descriptor)
    check_lease(folder)


def sign_lock(folder: Path, descriptor: int) -> None:
    """Write into a folder's lock that it is a run's, and which process holds it."""
    signature = LOCK_SIGNATURE + b"%d" % os.getpid()
    try:
        # In place: a new file of that name would be one that nobody has locked. Cut only then, so that it is signed
        # at every moment from the first signature on.
        os.pwrite(descriptor, signature, 0)
        os.ftruncate(descriptor, len(signature))
    except OSError as error:
        raise explain_write_error(error, folder / LOCK) from error


def _flock(descriptor: int, kind: int, folder: Path) -> bool:
    """Lock an open file; return whether the file system can.

    Raises:
        BusyError: if another process has locked it.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in UNSUPPORTED_ERRNOS:
            return False
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise busy_error(folder, _holder(folder, descriptor) or "unknown") from None
    return True


def _holder(folder: Path, descriptor: int) -> str:
    """Return the number of the process that holds a folder's lock, as it has written it down."""
    signature: bytes | None = None
    if is_run_folder(folder / NEXT):  # a run that replaces another signs there
        try:
            signature = read_file(folder / NEXT / LOCK)
        except OSError:  # it has just been promoted
            signature = None
    if signature is None:
        signature = os.pread(descriptor, MAX_SIGNATURE_BYTES, 0)
    return signature.removeprefix(LOCK_SIGNATURE).decode(errors="replace").strip()
