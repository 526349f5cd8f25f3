"""How the package talks to a program that uses it: through Python's logging, under the name segdistill."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from segdistill.runtime.reporter import Advance, Rows

LOGGER = "segdistill"
"""Name of the logger. Warnings go to stderr by Python's default; `logging.basicConfig(level="INFO")` shows the rest."""


class LibraryReporter:
    """Reporter for whoever calls a command as a function: nothing is printed but warnings, unless they ask for it."""

    def info(self, text: str) -> None:
        """Log one event."""
        logging.getLogger(LOGGER).info(text)

    def warning(self, text: str) -> None:
        """Log what the user should know."""
        logging.getLogger(LOGGER).warning(text)

    def banner(self, title: str, rows: Rows) -> None:
        """Log names and values, one a line."""
        self.info(title)
        for name, value in rows:
            self.info(f"  {name}: {value}")

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Log where something begins; how far it is goes nowhere."""
        self.info(f"{title}: {done} of {total}")
        yield lambda count, text: None
