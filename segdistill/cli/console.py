"""The terminal: what a run reports to stderr, results to stdout. The only module that imports rich."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from segdistill.errors import SegdistillError
from segdistill.runtime.reporter import Advance, Rows, duration

LOG_INTERVAL = 10.0
"""Seconds between two lines of progress where there is no terminal to draw a bar on."""
UNLIMITED_COLUMNS = 10_000
"""Width of stderr where it is no terminal: a name in a log stays in one piece, so that it can be searched for."""
TABLE_COLUMNS = 140
"""Width of a table where stdout is no terminal."""
NUMBER_CHARACTERS = frozenset("0123456789.,-+% ")
"""Characters of a cell that holds a number, or a dash for none."""
ERROR_KINDS = {1: "failed", 2: "usage", 3: "data", 4: "check failed", 5: "model file"}
"""Kind of an error, in words, by its exit code."""


class _LenientStream:
    """Takes text as long as somebody listens: a training does not end because a terminal is gone."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or lose the text."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or lose what is left."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class LossBar(Progress):
    """A line with title, bar, counts and times, and below it the last losses, folded where they must be.

    The bar gives way to the rest of its line; nothing else of it is cut at 80 columns.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            expand=True,
        )

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the line and what is below it."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["info"]:
                yield Text(task.fields["info"])


class Terminal:
    """Reports to a person: a bar on a terminal, a line now and then elsewhere, with `verbose` a line per step."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        # Either stream is None where its descriptor was closed when Python started.
        stderr_is_terminal = sys.stderr is not None and sys.stderr.isatty()
        stdout_is_terminal = sys.stdout is not None and sys.stdout.isatty()
        lenient = None if sys.stderr is None else cast(IO[str], _LenientStream(sys.stderr))
        self.err = Console(
            stderr=True, file=lenient, highlight=False, width=None if stderr_is_terminal else UNLIMITED_COLUMNS
        )
        self.out = Console(highlight=False, width=None if stdout_is_terminal else TABLE_COLUMNS)

    def info(self, text: str) -> None:
        """Print one event."""
        if not self.quiet:
            self.err.print(shown(text), soft_wrap=True)

    def warning(self, text: str) -> None:
        """Print a warning, also when quiet."""
        self.err.print(f"[yellow]warning:[/] {shown(text)}", soft_wrap=True)

    def banner(self, title: str, rows: Rows) -> None:
        """Print a title and aligned names and values."""
        if self.quiet:
            return
        width = max(len(name) for name, _ in rows)
        self.err.print(f"\n[bold]{shown(title)}[/]")
        for name, value in rows:
            self.err.print(f"  [dim]{shown(name.ljust(width))}[/]  {shown(value)}", soft_wrap=True)

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Show how far something is: a bar on a terminal, a line every few seconds elsewhere."""
        if self.quiet:
            yield lambda count, text: None
        elif self.err.is_terminal and not self.verbose:
            with LossBar(self.err) as bar:
                yield _bar_advance(bar, title, total, done=done)
        else:
            yield _ProgressLines(self, title, total, done=done).advance

    def result(self, text: str) -> None:
        """Print a result, as it is, to stdout."""
        self.out.print(shown(text), soft_wrap=True)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table of results to stdout; columns of numbers are aligned to the right."""
        if title:
            self.out.print(f"[bold]{shown(title)}[/]", soft_wrap=True)
        table = Table()
        for index, name in enumerate(header):
            is_numeric = all(set(row[index]) <= NUMBER_CHARACTERS for row in rows)
            # The first column names the rows: a name that is folded is hard to find.
            table.add_column(shown(name), justify="right" if is_numeric else "left", no_wrap=index == 0)
        for row in rows:
            table.add_row(*[shown(cell) for cell in row])
        self.out.print(table)

    def error(self, error: SegdistillError) -> None:
        """Print what was found in a panel, and below it what to do: commands there can be copied whole."""
        panel = Panel(
            Text(printable(error.what)),
            title=f"segdistill: {_error_title(error)}",
            title_align="left",
            border_style="red",
            # As wide as the terminal; in a log, as wide as the text.
            expand=self.err.width != UNLIMITED_COLUMNS,
        )
        self.err.print(panel)
        if error.fix:
            self.err.print(Text(printable(error.fix), style="cyan"), soft_wrap=True)


def _bar_advance(bar: LossBar, title: str, total: int, *, done: int) -> Advance:
    """Add a task to a bar; return what moves it on."""
    task = bar.add_task(shown(title), total=total, completed=done, info="")

    def advance(count: int, text: str) -> None:
        bar.update(task, advance=count)
        # A step without a text leaves that of the last one.
        if text:
            bar.update(task, info=printable(text))

    return advance


class _ProgressLines:
    """Progress as lines of text, for logs."""

    def __init__(self, terminal: Terminal, title: str, total: int, *, done: int) -> None:
        self._terminal = terminal
        self._title = title
        self._total = total
        self._done_before = done
        self._done = done
        self._text = ""
        self._started = time.monotonic()
        self._last_line = self._started

    def advance(self, count: int, text: str) -> None:
        """Count what is done, and print a line if it is time for one."""
        now = time.monotonic()
        self._done += count
        self._text = text or self._text
        is_time = now - self._last_line >= LOG_INTERVAL
        is_step = self._terminal.verbose and count > 0
        if is_time or is_step or self._done == self._total:
            self._terminal.info(self._line(now - self._started))
            self._last_line = now

    def _line(self, elapsed: float) -> str:
        # What was done before does not say how fast it goes now.
        done_here = max(self._done - self._done_before, 1)
        left = elapsed / done_here * (self._total - self._done)
        times = f"{duration(elapsed)} done, {duration(left)} left"
        return f"{self._title} {self._done}/{self._total}  {times}  {self._text}"


def printable(text: str) -> str:
    """Return a text with escapes for what would steer a terminal: names in files and folders may come from anybody."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def shown(text: str) -> str:
    """Return a text that rich shows as it is, whatever characters are in it."""
    return escape(printable(text))


def _error_title(error: SegdistillError) -> str:
    return f"{ERROR_KINDS.get(error.exit_code, 'stopped')} (exit {error.exit_code})"
