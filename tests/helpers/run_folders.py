"""Folders of runs, and a process that holds one."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segdistill.storage.atomic import write_atomic
from segdistill.storage.run_files import RUN_FILES
from segdistill.storage.run_folder import open_run

HOLDER = """
import sys, time
from pathlib import Path
from segdistill.storage.run_folder import open_run
with open_run(Path(sys.argv[1]), resume=len(sys.argv) > 2, overwrite=False):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def held(path: Path, *, resume: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a run's folder."""
    words = [sys.executable, "-c", HOLDER, str(path), *(["resume"] if resume else [])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def run_in(path: Path, *names: str) -> Path:
    """Leave a run's files in a folder."""
    with open_run(path, resume=False, overwrite=False):
        for name in names or RUN_FILES:
            write_atomic(path / name, f"of {name}")
    return path
