"""How a run talks to its user, without knowing about terminals: `console.Terminal` speaks, other ranks are silent."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Rows = Sequence[tuple[str, str]]
Advance = Callable[[int, str], None]
"""Say how much more is done, and what to show beside it; an empty text leaves what is there."""


class Talk(Protocol):
    """What a run may say while it works; all of it goes to stderr."""

    def say(self, text: str) -> None:
        """One event, on one line."""

    def warn(self, text: str) -> None:
        """Something the user should know, though the run goes on."""

    def banner(self, title: str, rows: Rows) -> None:
        """Names and values, aligned."""

    def progress(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
        """A bar from `done` to `total`."""


class Logged:
    """Says everything to another, and writes down what is not gone a moment later."""

    def __init__(self, talk: Talk, write: Callable[[str], None]) -> None:
        self.talk = talk
        self.write = write

    def say(self, text: str) -> None:
        """Say and write."""
        self.write(text)
        self.talk.say(text)

    def warn(self, text: str) -> None:
        """Warn and write."""
        self.write(f"warning: {text}")
        self.talk.warn(text)

    def banner(self, title: str, rows: Rows) -> None:
        """Show and write, but for the rows with paths of this machine."""
        self.write(title)
        for name, value in rows:
            if name not in ("run", "resume"):
                self.write(f"  {name}: {value}")
        self.talk.banner(title, rows)

    def progress(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
        """Show only."""
        return self.talk.progress(title, total, done)


class Silence:
    """Says nothing: for all processes but the first."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
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
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
