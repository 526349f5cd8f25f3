"""Commands in processes that may be killed, forked off a server that has imported everything: they start at once."""

import multiprocessing
import os
import resource
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from segdistill import cli

PATIENCE = 300.0
"""Seconds within which whatever is waited for happens, on the slowest machine."""
ROUNDS = int(os.environ.get("SEGDISTILL_TEST_ROUNDS", "30"))
"""How often a storm kills."""

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *("forked", "segdistill.run", "segdistill.console", "segdistill.inference", "segdistill.data._transforms"),
        *("torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_agg"),  # what these import late
    ]
)


def start(line: str, folder: Path, log: Path, limits: Mapping[int, int] | None = None) -> BaseProcess:
    """Run a command in a folder, all that it says written to a file, under limits of `resource` by their numbers."""
    process = SERVER.Process(target=_command, args=(line, str(folder), str(log), dict(limits or {})))
    process.start()
    return process


def _command(line: str, folder: str, log: str, limits: dict[int, int]) -> None:
    os.chdir(folder)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    sys.argv = ["segdistill", *shlex.split(line)]
    cli.main()


def wait_until(reached: Callable[[], bool]) -> bool:
    """Wait until something is so; return whether it came to that."""
    end = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def ended(process: BaseProcess) -> int:
    """Wait for a process's end and return its exit code."""
    process.join(PATIENCE)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def children(process: BaseProcess) -> list[int]:
    """Return the processes that a process has started, where the system tells."""
    file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in file.read_text().split()] if file.exists() else []


def alive(number: int) -> bool:
    """Whether a process is there and at work."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
