"""The command line: flags to configuration, results to stdout.

`--help` must come at once, so what takes long to import (torch, pydantic, rich) is imported where it is used.
"""

import io
import logging
import os
import sys

from segdistill.cli._app import app
from segdistill.cli._show import open_terminal
from segdistill.errors import ResourceError, SegdistillError, Stopped, UsageError, out_of_memory
from segdistill.signals import at_once
from segdistill.telemetry import switch_off

# They register the commands, which `--help` lists in this order.
# isort: off
from segdistill.cli import _training, _models, _listing  # noqa: F401
# isort: on


def main() -> None:
    """Run the command line and turn errors into a panel and an exit code; tracebacks only with --debug."""
    switch_off()  # before anything that could tell is imported, here or in a process that this one starts
    _open_all()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it would tell of a home where it can keep nothing
    for stream in (sys.stdout, sys.stderr):  # what a terminal has no letters for, in a name, ends no run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        with at_once():
            app()
    except Exception as error:
        known = error if isinstance(error, SegdistillError) else _explain(error)
        if debug and not isinstance(error, Stopped):
            raise
        if not known.elsewhere:
            open_terminal().error(known)
        sys.exit(known.exit_code)


def _open_all() -> None:
    """Open the null device for descriptors 0 to 2 where they are closed: a file of a run could become one of them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the first that is free


def _explain(error: Exception) -> SegdistillError:
    """Return the error to show for an exception that nothing else expected."""
    from segdistill.store import disk_full

    text = f"{type(error).__name__}: {error}"
    sign = out_of_memory(error)
    if sign is not None:
        return ResourceError(
            f"Out of memory. {sign}",
            "Use a smaller data.batch_size, data.crop or data.size, optim.accumulate=2, or a smaller network.",
        )
    if isinstance(error, OSError) and (full := disk_full(error)):
        return full
    if isinstance(error, OSError) and error.filename is not None:
        return UsageError(f"{error.filename}: {error.strerror}.", "Check that path.")
    return SegdistillError(f"Internal error. {text}", "Run it again with --debug for the traceback.")
