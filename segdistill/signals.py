"""What SIGINT and SIGTERM do: a loop is asked to stop between two steps; everything else ends at once, as by a kill.

A run survives a kill at any moment. An exception, which is what Python makes of SIGINT, could be raised where it is
ignored, such as in the start of a loader process.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from segdistill.errors import Stopped

NUMBERS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = "\x1b[?25h"
"""For a terminal in which a progress bar has hidden it."""


@contextmanager
def stop_signals(*, alone: bool = True) -> Iterator[Callable[[], int | None]]:
    """Turn SIGINT and SIGTERM into a flag that a loop asks for; a second signal ends the process at once.

    Args:
        alone: this is the only process. Under torchrun a second signal does nothing: of one Ctrl-C, each process gets
            one from the terminal and another from torchrun, which kills what does not end by itself.
    """
    caught: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        if caught and alone:
            _leave(number, "Stopped at once. --resume goes on from the last checkpoint.")
        caught.append(number)

    with _handled(catch):
        yield lambda: caught[0] if caught else None


@contextmanager
def at_once(*numbers: int, continued_by: str = "") -> Iterator[None]:
    """Let signals end the process at once, with 128 plus their number.

    Args:
        numbers: which; SIGINT and SIGTERM where none is given.
        continued_by: the command that goes on.
    """
    own = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:  # a loader process, which Ctrl-C reaches too
            os._exit(128 + number)
        after = f" Continue with: {continued_by}" if continued_by else ""
        _leave(number, f"Stopped by {signal.Signals(number).name}.{after}")

    with _handled(leave, numbers or NUMBERS):
        yield


def stop(number: int | None, when: str, command: str) -> Stopped:
    """Return what ends a run that has saved; `number` is None where only another process got the signal."""
    number = number or signal.SIGTERM
    what = f"Stopped by {signal.Signals(number).name} {when}; everything is saved."
    return Stopped(what, f"Continue with: {command}", number)


def _leave(number: int, text: str) -> None:
    shown = SHOW_CURSOR if os.isatty(2) else ""
    try:
        os.write(2, f"{shown}\n{text}\n".encode(errors="backslashreplace"))
    finally:  # whoever read it may be gone
        os._exit(128 + number)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], numbers: Iterable[int] = NUMBERS) -> Iterator[None]:
    """Handle signals, in the main thread; no other one gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, own)
