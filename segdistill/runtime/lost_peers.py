"""Processes that are gone: found out and told where a library only says that a connection broke."""

import os
import platform
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from segdistill.errors import ResourceError
from segdistill.runtime.signals import exit_at_once

GRACE_SECONDS = 30.0
"""Time that a process has to save and stop when torchrun is gone."""
WATCH_SECONDS = 1.0
"""Time between two looks whether torchrun is there."""
DYING_SECONDS = 2.0
"""Time that a process which is about to end is waited for, so that it can be named."""
LOST_CONNECTION_SIGNS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Socket closed",
    "Application timeout",
    "Timed out waiting",
    "Socket Timeout",
    "remote process exited",
    "collective operation timeout",
)
"""Words by which Gloo, NCCL and PyTorch's store say that another process does not answer."""

_peers: list[tuple[str, int]] = []
"""Machine and process number of each process, by rank; empty where there is one process."""


@contextmanager
def known_peers(peers: Sequence[tuple[str, int]]) -> Iterator[None]:
    """Name the processes of a group that are gone, while it exists.

    Args:
        peers: machine and process number of each process, by rank.
    """
    _peers[:] = peers
    try:
        with explain_lost_peers():
            yield
    finally:
        _peers.clear()


@contextmanager
def explain_lost_peers(resume_command: str = "") -> Iterator[None]:
    """Put into words what a library says where another process is gone.

    Args:
        resume_command: the command that continues the run, where there is one.

    Raises:
        ResourceError: in the place of the library's error.
    """
    try:
        yield
    except RuntimeError as error:
        if not _peers or not any(sign in str(error) for sign in LOST_CONNECTION_SIGNS):
            raise
        advice = "Its last message is above, or in the log of its machine; a process that was killed leaves none."
        if resume_command:
            advice += f"\nContinue with: {resume_command}"
        raise ResourceError(f"Process {_rank()} has lost the others: {_cause()}.", advice) from error


def watch_agent() -> None:
    """Stop where torchrun is gone: first as SIGTERM does, then at once. Nobody else would end what is left."""
    agent = os.getppid()

    def watch() -> None:
        while os.getppid() == agent:  # of an orphan it is another process
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        exit_at_once(
            signal.SIGTERM,
            f"torchrun is gone, and process {_rank()} did not come to a stop within {GRACE_SECONDS:g} s.",
        )

    threading.Thread(target=watch, daemon=True).start()


def _rank() -> str:
    """Return this process's number, as torchrun has given it: the group may be unable to answer any more."""
    return os.environ.get("RANK", "0")


def _cause() -> str:
    dead = [str(rank) for rank in _wait_for_dead()]
    if not dead:
        return "another process is dead, or hangs"
    return f"process {', '.join(dead)} is dead"


def _wait_for_dead() -> list[int]:
    """Return the ranks of processes of this machine that are no more; one that is about to end is waited for."""
    end = time.monotonic() + DYING_SECONDS
    while True:
        dead = [
            rank
            for rank, (machine, process) in enumerate(_peers)
            if machine == platform.node() and not _is_alive(process)
        ]
        if dead or time.monotonic() > end:
            return dead
        time.sleep(0.1)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
        # A zombie (Z) has ended, and its parent has not asked how. The name before the state may hold spaces.
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:  # no /proc, or somebody else's
        return True
    return state != "Z"
