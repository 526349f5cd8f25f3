"""The memory that loader processes share with the training."""

import os
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # it is looked at, nothing is written
"""Folder where Linux keeps what processes share. Docker gives a container 64 MB of it."""


def free_shared_memory() -> int | None:
    """Return the bytes of shared memory that are free; None where the system does not tell."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:  # not Linux
        return None
    return status.f_bavail * status.f_frsize
