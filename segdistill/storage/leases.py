"""A lock where the file system has none: a file that one process alone can create, and that shows it to be alive."""

import hashlib
import os
import platform
import threading
import time
from contextlib import suppress
from pathlib import Path

from segdistill.errors import BusyError
from segdistill.storage.atomic import write_atomic
from segdistill.storage.files import read_file
from segdistill.storage.run_files import LEASE

HEARTBEAT_SECONDS = 10.0
"""Seconds between two signs of life of a lease's holder."""
EXPIRY_SECONDS = 180.0
"""Seconds without any after which a lease is nobody's: more than clocks of machines that share a file system differ."""


class Lease:
    """A folder's lease, held from its construction until `release` or the end of the process.

    It is taken over from a process of this machine that is dead, and from any other that has shown no sign of life for
    `EXPIRY_SECONDS` seconds. One that was frozen so long and wakes up finds itself replaced, and ends at once.

    Raises:
        BusyError: if another process holds the folder, or is taking it over.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEASE
        # The random part tells two leases of one process apart, and those of processes with the same number.
        self._content = f"{os.getpid()} {_machine_id()} {os.urandom(8).hex()}"
        self._released = threading.Event()
        try:
            self._create(self.path)
        except FileExistsError:
            self._take_over(folder)
        threading.Thread(target=self._show_signs_of_life, daemon=True).start()

    def release(self) -> None:
        """Give the folder back."""
        self._released.set()
        with suppress(OSError):
            if _read(self.path) == self._content:
                self.path.unlink()

    def _create(self, path: Path) -> None:
        """Create the lease, or the claim to one.

        Raises:
            FileExistsError: if another process was first.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with open(descriptor, "w") as file:
            file.write(self._content)

    def _take_over(self, folder: Path) -> None:
        """Replace a lease that is nobody's: of several processes that try, one alone creates the claim to it."""
        check_lease(folder)
        try:
            abandoned = _read(self.path)
        except FileNotFoundError:  # it was given back just now
            self._create(self.path)
            return
        # The claim is to this one lease: who comes when it has been replaced claims another name, and is refused below.
        claim = folder / f"{LEASE}.{hashlib.sha256(abandoned.encode()).hexdigest()[:16]}"
        try:
            self._create(claim)
        except FileExistsError:
            raise BusyError(f"Another process is taking over {folder}.", f"If none is, delete {claim}.") from None
        try:
            if _read(self.path) != abandoned:  # somebody has done so before
                raise busy_error(folder, "unknown")
            write_atomic(self.path, self._content)
        finally:
            claim.unlink()

    def _show_signs_of_life(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a server that is away for a moment
                if _read(self.path) == self._content:
                    os.utime(self.path)
                elif not self._released.is_set():
                    self._end_replaced()

    def _end_replaced(self) -> None:
        """End the process at once: two that write in one folder would destroy each other's run."""
        os.write(2, f"\nAnother process has taken over {self.path.parent}: this one ends.\n".encode())
        os._exit(1)


def check_lease(folder: Path) -> None:
    """Look whether nobody holds a folder's lease; nothing is written.

    Raises:
        BusyError: if somebody does.
    """
    lease = folder / LEASE
    try:
        age = time.time() - lease.stat().st_mtime
        holder = _read(lease)
    except FileNotFoundError:
        return
    # A clock that is behind the holder's makes the age negative.
    if abs(age) >= EXPIRY_SECONDS or _is_dead(holder):
        return
    process, _, machine = holder.partition(" ")
    where = "" if machine.startswith(_machine_id()) else " of another machine"
    raise busy_error(folder, f"{process or 'unknown'}{where}")


def busy_error(folder: Path, holder: str) -> BusyError:
    """Return the error that another process, given by its number, is at work in a folder."""
    return BusyError(f"Another run is at work in {folder} (process {holder}).", "Wait for it, or choose another --out.")


def _read(path: Path) -> str:
    return read_file(path).decode(errors="replace")


def _machine_id() -> str:
    """Return 16 letters that tell this machine's process numbers from another's, and say nothing else about it.

    Containers count processes for themselves, and numbers begin anew with each start of the machine.
    """
    parts = [platform.node()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _is_dead(holder: str) -> bool:
    """Whether the holder of a lease was a process of this machine that is no more."""
    process, _, machine = holder.partition(" ")
    if not process.isdecimal() or not machine.startswith(_machine_id()):
        return False
    try:
        os.kill(int(process), 0)  # signal 0 only asks
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it is somebody else's, so it is there
        return False
    return False
