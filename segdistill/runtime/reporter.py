"""The way a run talks to its user: only `console.Terminal` knows about terminals, other processes are silent."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Rows = Sequence[tuple[str, str]]
"""Names and values, as a banner shows them."""
Advance = Callable[[int, str], None]
"""Function that says how much more is done, and what to show beside it; an empty text leaves what is there."""
LOCAL_ROWS = ("run", "resume")
"""Names of rows with paths of this machine."""


class Reporter(Protocol):
    """All that a run may say while it works; it goes to stderr."""

    def info(self, text: str) -> None:
        """Tell of one event, on one line."""

    def warning(self, text: str) -> None:
        """Tell what the user should know, though the run goes on."""

    def banner(self, title: str, rows: Rows) -> None:
        """Show names and values, aligned."""

    def progress(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
        """Show a bar from `done` to `total`."""


class LoggingReporter:
    """Passes everything on to another reporter, and writes down what is not gone a moment later.

    Args:
        reporter: the other one.
        write: appends a line to a log.
    """

    def __init__(self, reporter: Reporter, write: Callable[[str], None]) -> None:
        self.reporter = reporter
        self.write = write

    def info(self, text: str) -> None:
        """Say and write."""
        self.write(text)
        self.reporter.info(text)

    def warning(self, text: str) -> None:
        """Warn and write."""
        self.write(f"warning: {text}")
        self.reporter.warning(text)

    def banner(self, title: str, rows: Rows) -> None:
        """Show and write, but for the rows with paths of this machine."""
        self.write(title)
        for name, value in rows:
            if name not in LOCAL_ROWS:  # a log may be given away
                self.write(f"  {name}: {value}")
        self.reporter.banner(title, rows)

    def progress(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
        """Show only."""
        return self.reporter.progress(title, total, done)


class NullReporter:
    """Reporter of all processes but the first: it says nothing."""

    def info(self, text: str) -> None:
        """Say nothing."""

    def warning(self, text: str) -> None:
        """Say nothing."""

    def banner(self, title: str, rows: Rows) -> None:
        """Say nothing."""

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Show nothing."""
        yield lambda count, text: None


def duration(seconds: float) -> str:
    """Return seconds as 45s, 3m05s or 2h10m."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
