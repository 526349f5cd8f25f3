"""What reading a file costs in seconds and memory, and that this grows no faster than the file."""

import gc
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from helpers.fuzz import READERS
from segdistill.errors import SegdistillError

QUICK, FULL = 1 << 18, 1 << 23
"""Bytes of a file: in the ordinary tests, and in those that fill."""
START = 2.0
"""Seconds of a processor that any file may take, beside those for its bytes."""
SECONDS_PER_MEBIBYTE = 3.0
MEBIBYTES = 500
"""Of memory, for a file of any of these sizes."""
RATIO = 2.8
"""Of the seconds for twice the bytes: 2 is linear, 4 quadratic."""
NOTABLE = 0.5
"""Seconds from which a ratio says something."""


class Cost(NamedTuple):
    """What it takes to read a file."""

    seconds: float
    mebibytes: float
    said: str
    """Why it was refused; nothing of a file that was read."""
    exit_code: int


def cost(kind: str, content: bytes, folder: Path) -> Cost:
    """Read a file in a process of its own, which has no more than `MEBIBYTES` beside what it begins with."""
    path = folder / f"file{READERS[kind].suffix}"
    path.write_bytes(content)
    end, begin = os.pipe()
    if not (child := os.fork()):
        code = 1
        try:
            os.write(begin, json.dumps(_measured(kind, path)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(begin)
    with os.fdopen(end, "rb") as answer:
        told = answer.read()
    _, status = os.waitpid(child, 0)
    assert (status, bool(told)) == (0, True), "the reader ended its process"
    return Cost(*json.loads(told))


def _measured(kind: str, path: Path) -> Cost:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (MEBIBYTES << 20), resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    # A full collection would go through all that the tests hold: that takes seconds, and is no reader's cost.
    gc.freeze()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before, started = _peak(), time.process_time()
    said, code = "", 0
    try:
        READERS[kind].read(path)
    except SegdistillError as error:
        said, code = error.what[:300], error.exit_code
    return Cost(time.process_time() - started, _peak() - before, said, code)


def _peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def check(kind: str, shape: Callable[[int], bytes], size: int, folder: Path) -> None:
    """Read a shape at a size and at twice that, and compare with the bounds."""
    once, twice = (cost(kind, shape(factor * size), folder) for factor in (1, 2))
    for factor, found in ((1, once), (2, twice)):
        assert found.seconds <= START + SECONDS_PER_MEBIBYTE * factor * size / (1 << 20), found
        assert found.mebibytes <= MEBIBYTES, found
        assert found.exit_code in {0, *READERS[kind].codes}, found
    if not _grows_linearly(once, twice):  # a busy machine: the best of several counts
        once, twice = (_best(kind, shape(factor * size), folder) for factor in (1, 2))
    assert _grows_linearly(once, twice), (once, twice)


def _grows_linearly(once: Cost, twice: Cost) -> bool:
    return twice.seconds < NOTABLE or twice.seconds <= RATIO * max(once.seconds, NOTABLE / 2)


def _best(kind: str, content: bytes, folder: Path) -> Cost:
    return min((cost(kind, content, folder) for _ in range(5)), key=lambda found: found.seconds)
