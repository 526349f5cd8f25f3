"""The command line: flags to configuration, results to stdout.

`--help` must come at once, so what takes long to import (torch, pydantic, rich) is imported where it is used.
"""

import io
import os
import sys

from segdistill.cli._app import app
from segdistill.cli._show import open_terminal
from segdistill.errors import ResourceError, SegdistillError, Stopped, UsageError, out_of_memory
from segdistill.runtime.library_messages import leave_out_messages
from segdistill.runtime.signals import exit_on_signal
from segdistill.runtime.telemetry import switch_off

# They register the commands, which `--help` lists in this order.
# isort: off
from segdistill.cli import _training, _resume, _models, _import_weights, _listing, _presets, _data  # noqa: F401
# isort: on


def main() -> None:
    """Run the command line and turn errors into a panel and an exit code; tracebacks only with --debug."""
    # Before anything that could report usage is imported, here or in a process that this one starts.
    switch_off()
    _open_standard_streams()
    leave_out_messages()
    # A character in a file's name that the terminal does not have must end no run.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Taken out here, so that it may stand anywhere in the line.
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        with exit_on_signal():
            app()
    except Exception as error:
        known = error if isinstance(error, SegdistillError) else _explain(error)
        if debug and not isinstance(error, Stopped):
            raise
        if not known.told_by_another:
            open_terminal().error(known)
        sys.exit(known.exit_code)


def _open_standard_streams() -> None:
    """Open the null device for descriptors 0 to 2 where they are closed: a file of a run could become one of them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor


def _explain(error: Exception) -> SegdistillError:
    """Return the error to show for an exception that nothing else expected."""
    memory_line = out_of_memory(error)
    if memory_line is not None:
        return ResourceError(
            f"Out of memory. {memory_line}",
            "Use a smaller data.batch_size, data.crop or data.size, optim.accumulate=2, or a smaller network.",
        )
    if isinstance(error, OSError):
        known = _explain_os_error(error)
        if known is not None:
            return known
    return SegdistillError(
        f"Internal error. {type(error).__name__}: {error}", "Run it again with --debug for the traceback."
    )


def _explain_os_error(error: OSError) -> SegdistillError | None:
    """Return the error to show for a full disk or a path that cannot be used; None for all else."""
    from segdistill.storage.write_errors import disk_full

    full = disk_full(error)
    if full is not None:
        return full
    if error.filename is not None:
        return UsageError(f"{error.filename}: {error.strerror}.", "Check that path.")
    return None
