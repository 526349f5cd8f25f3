"""train.log of a run: lines with the time and without paths of this machine; the last one says how the run ended."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from segdistill.errors import SegdistillError
from segdistill.runtime.signals import log_exit_message
from segdistill.storage.run_folder import RunFolder

LOG = "train.log"
ENDED = "ended"
"""First word of the last line."""
ENDED_LINE = re.compile(rb"\S+ \S+  " + ENDED.encode() + rb"\b")
"""The last line behind its date and time: other lines may have the word in them."""
FOLDERS_OF_A_PATH = re.compile(r"(?<![\w./~-])/(?:[^\s/'\":,;()]*/)+")
"""An absolute path up to its last part."""


def log_writer(folder: RunFolder) -> Callable[[str], None]:
    """Return a function that appends a line to the run's log.

    A log may be given away. So the run's folder is written as a dot, the home folder as ~, and of other absolute paths
    the last part alone.
    """
    run_path = str(folder.home)
    run = re.compile(rf"(?<![\w./-]){re.escape(run_path)}(?![\w.-])")
    home_path = os.path.expanduser("~").rstrip("/")
    home = re.compile(rf"(?<![\w./-]){re.escape(home_path)}(?![\w.-])")

    def write(text: str) -> None:
        # a run's name alone is a word like any other: a run called "step" must not turn every step into a dot
        line = run.sub(".", text) if "/" in run_path else text
        # containers have "/" or nothing as the home of a user that they do not know
        if home_path.startswith("/"):
            line = home.sub("~", line)
        line = FOLDERS_OF_A_PATH.sub(".../", line)
        folder.append(LOG, f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}")

    return write


@contextmanager
def logged_ending(folder: RunFolder) -> Iterator[None]:
    """Write into a run's log what ends it before its time: a refusal, an error, a signal.

    What leaves no time to write, such as SIGKILL, is noted when the run goes on.
    """
    append, lines_before = log_writer(folder), folder.lines(LOG)

    def write(text: str) -> None:
        if (folder / "manifest.json").exists():  # a signal came behind the end: the manifest has the log's digest
            return
        with suppress(OSError, SegdistillError):  # a full disk may be what ended it, and that is raised all the same
            append(text)

    if lines_before and not ENDED_LINE.match(lines_before[-1]):
        write(f"{ENDED} before: nothing says how, as after SIGKILL, without memory or without power")
    try:
        with log_exit_message(lambda text: write(f"{ENDED} {text}")):
            yield
    except SegdistillError as error:
        write(f"{ENDED} (exit {error.exit_code}): {' '.join(error.what.split())}")
        raise
    except BaseException as error:
        write(f"{ENDED}: {type(error).__name__}: {' '.join(str(error).split())}")
        raise
