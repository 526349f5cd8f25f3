"""What the signals do that ask to stop: a loop stops between two steps; everything else ends at once, as by a kill.

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
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
ALWAYS_HEEDED = (signal.SIGINT, signal.SIGTERM)
"""Signals that stop also a process that was started with them ignored, as shells start what runs in the background. The
others then stay ignored: that is what nohup is for."""
SHOW_CURSOR = "\x1b[?25h"
"""For a terminal in which a progress bar has hidden it."""

_caught: list[list[int]] = []
"""Signals so far, of each `stop_signals` that is entered, the innermost last."""


_last_words: list[Callable[[str], None]] = []


@contextmanager
def last_words(write: Callable[[str], None]) -> Iterator[None]:
    """Have what a signal says when it ends the process at once written somewhere, too."""
    _last_words.append(write)
    try:
        yield
    finally:
        _last_words.remove(write)


class Interrupted(Exception):  # noqa: N818  # it is not an error
    """A signal came while a loop waited for what may never come, or did what can be done again."""


def pending() -> int | None:
    """Return the signal that has asked the loop at work to stop; None where none has."""
    return _caught[-1][0] if _caught and _caught[-1] else None


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
            end_at_once(number, "Stopped at once. --resume goes on from the last checkpoint.")
        caught.append(number)

    _caught.append(caught)
    try:
        with _handled(catch):
            yield lambda: caught[0] if caught else None
    finally:
        _caught.remove(caught)


@contextmanager
def at_once(*numbers: int, continued_by: str | Callable[[], str] = "") -> Iterator[None]:
    """Let signals end the process at once, with 128 plus their number.

    Args:
        numbers: which; all of `NUMBERS` where none is given.
        continued_by: the command that goes on, or what returns it.
    """
    own = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:  # a loader process, which Ctrl-C reaches too
            os._exit(128 + number)
        command = continued_by if isinstance(continued_by, str) else continued_by()
        after = f" Continue with: {command}" if command else ""
        end_at_once(number, f"Stopped by {signal.Signals(number).name}.{after}")

    with _handled(leave, numbers or NUMBERS):
        yield


def in_thread(call: Callable[[], Result]) -> Result:
    """Return what native code computes, in a thread of its own: Python hears signals between two steps of the main one.

    There, one call of a graph that never ends would keep the handlers above from ever being called.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def stop(number: int | None, when: str, command: str) -> Stopped:
    """Return what ends a run that has saved; `number` is None where only another process got the signal."""
    number = number or signal.SIGTERM
    what = f"Stopped by {signal.Signals(number).name} {when}; everything is saved."
    return Stopped(what, f"Continue with: {command}", number)


def end_at_once(number: int, text: str) -> None:
    """End the process at once, as a signal does, and say why."""
    shown = SHOW_CURSOR if os.isatty(2) else ""
    try:
        with suppress(OSError):  # the terminal may be gone
            os.write(2, f"{shown}\n{text}\n".encode(errors="backslashreplace"))
        for write in _last_words:
            write(f"(exit {128 + number}): {text.partition(' Continue with: ')[0]}")
    finally:  # whoever read it may be gone
        os._exit(128 + number)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], numbers: Iterable[int] = NUMBERS) -> Iterator[None]:
    """Handle signals, in the main thread; no other one gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [one for one in numbers if one in ALWAYS_HEEDED or signal.getsignal(one) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, own)
