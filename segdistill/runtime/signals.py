"""Signals that ask to stop: a loop stops between two steps, everything else ends at once, as by a kill.

These are Ctrl-C, SIGTERM, the end of a terminal (SIGHUP) and what batch systems send before their time is up: Slurm
what `--signal` says, mostly SIGUSR1; Grid Engine SIGUSR1, SIGUSR2 and SIGXCPU.

A run survives a kill at any moment. An exception, which is what Python makes of SIGINT, could be raised where it is
ignored, such as in the start of a loader process.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

from segdistill.errors import Stopped

Result = TypeVar("Result")
Handler = Callable[[int, FrameType | None], None]
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
NEVER_IGNORED = (signal.SIGINT, signal.SIGTERM)
"""Signals that stop also a process that was started with them ignored, as shells start what runs in the background. The
others then stay ignored: that is what nohup is for."""
SHOW_CURSOR = "\x1b[?25h"
"""Control sequence for a terminal in which a progress bar has hidden the cursor."""

_caught: list[list[int]] = []
"""Signals so far, of each `stop_signals` that is entered, the innermost last."""


_exit_messages: list[Callable[[str], None]] = []
"""Functions that write down why a signal ended the process at once."""


@contextmanager
def log_exit_message(write: Callable[[str], None]) -> Iterator[None]:
    """Have the message of a signal that ends the process at once written somewhere, too."""
    _exit_messages.append(write)
    try:
        yield
    finally:
        _exit_messages.remove(write)


class Interrupted(Exception):  # noqa: N818  # it is not an error
    """A signal came while a loop waited for what may never come, or did what can be done again."""


def pending_signal() -> int | None:
    """Return the signal that has asked the loop at work to stop; None where none has."""
    if not _caught or not _caught[-1]:
        return None
    return _caught[-1][0]


@contextmanager
def stop_signals(*, alone: bool = True) -> Iterator[Callable[[], int | None]]:
    """Turn the signals that ask to stop into a flag that a loop asks for; a second one ends the process at once.

    Args:
        alone: this is the only process. Under torchrun a second signal does nothing: of one Ctrl-C, each process gets
            one from the terminal and another from torchrun, which kills what does not end by itself.
    """
    caught: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        if caught and alone:
            exit_at_once(number, "Stopped at once. `segdistill resume` goes on from the last checkpoint.")
        caught.append(number)

    _caught.append(caught)
    try:
        with _handled(catch):
            yield lambda: caught[0] if caught else None
    finally:
        _caught.remove(caught)


@contextmanager
def exit_on_signal(*numbers: int, continued_by: str | Callable[[], str] = "") -> Iterator[None]:
    """Let signals end the process at once, with 128 plus their number.

    Args:
        numbers: the signals; all of `STOP_SIGNALS` where none is given.
        continued_by: the command that goes on, or what returns it.
    """
    process = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a loader process, which Ctrl-C reaches too
            os._exit(128 + number)
        message = f"Stopped by {signal.Signals(number).name}."
        command = continued_by() if callable(continued_by) else continued_by
        if command:
            message += f" Continue with: {command}"
        exit_at_once(number, message)

    with _handled(leave, numbers or STOP_SIGNALS):
        yield


def in_thread(call: Callable[[], Result]) -> Result:
    """Return what native code computes, in a thread of its own: Python hears signals between two steps of the main one.

    In the main one, one call of a graph that never ends would keep the handlers above from ever being called.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def stopped_error(number: int | None, when: str, command: str) -> Stopped:
    """Return the error that ends a run which has saved.

    Args:
        number: the signal; None where only another process got it.
        when: words such as "after step 5 of 10".
        command: the one that continues the run.
    """
    if number is None:
        number = signal.SIGTERM
    what = f"Stopped by {signal.Signals(number).name} {when}; everything is saved."
    return Stopped(what, f"Continue with: {command}", number)


def exit_at_once(number: int, message: str) -> None:
    """End the process as a signal does, without a word to anything that is at work in it, and say why.

    Args:
        number: the signal; the exit code is 128 plus it.
        message: for the terminal; those who log it get it without the command to go on, which may name paths.
    """
    show_cursor = SHOW_CURSOR if os.isatty(2) else ""
    try:
        with suppress(OSError):  # the terminal may be gone
            os.write(2, f"{show_cursor}\n{message}\n".encode(errors="backslashreplace"))
        for write in _exit_messages:
            write(f"(exit {128 + number}): {message.partition(' Continue with: ')[0]}")
    finally:  # whatever failed above
        os._exit(128 + number)


@contextmanager
def _handled(handler: Handler, numbers: Iterable[int] = STOP_SIGNALS) -> Iterator[None]:
    """Handle signals in the main thread, which alone gets them and may set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [number for number in numbers if number in NEVER_IGNORED or signal.getsignal(number) != signal.SIG_IGN]
    earlier = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, earlier_handler in earlier.items():
            signal.signal(number, earlier_handler)
