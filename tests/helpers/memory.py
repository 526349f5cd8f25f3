"""Less memory for a while."""

import ctypes
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MB = 1 << 20


def status(name: str) -> int:
    """Return a line of /proc/self/status, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


@contextmanager
def less_memory(room: int) -> Iterator[None]:
    """Let this process have so many bytes more than it has, and no more, at the longest as long as the block."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept would be more than the room
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
