"""The memory that this machine has, and that its container may use."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Files in which Linux says how much memory a container, or a job of a batch system, may use."""
CGROUP_V1_LIMIT = "memory/memory.limit_in_bytes"
"""File of version 1 of control groups below `CGROUPS`."""


def total_memory() -> int | None:
    """Return the bytes of this machine's memory; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def usable_memory() -> int | None:
    """Return the bytes of memory that this process may use; None where the system does not tell."""
    total = total_memory()
    return None if total is None else min([total, *_limits()])


def _limits() -> Iterator[int]:
    """Yield the limits in bytes of the control groups that this process is in, of version 2 and of version 1."""
    # A line "0::/slice/job" of version 2; a limit on any of the groups around it holds too.
    group_path = _text(OWN_CGROUP).rpartition("0::")[2].strip().strip("/")
    group = PurePosixPath(group_path)
    files = [CGROUPS / level / "memory.max" for level in (group, *group.parents)]
    for file in (*files, CGROUPS / CGROUP_V1_LIMIT):
        limit = _text(file).strip()
        # Where there is no limit, the file says "max".
        if limit.isdecimal():
            yield int(limit)


def _text(file: Path) -> str:
    """Return what a file holds; nothing where it cannot be read, as on other systems than Linux."""
    try:
        return file.read_text()
    except OSError:
        return ""
