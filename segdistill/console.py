"""The terminal: talk to stderr, results to stdout. The only module that imports rich."""

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
from segdistill.talk import Advance, Rows, duration

PLAIN_INTERVAL = 10.0
"""Seconds between two lines of progress where there is no terminal to draw a bar on."""
UNFOLDED = 10_000
"""Columns where there is no terminal: a name in a log stays in one piece, so that it can be searched for."""


class Heard:
    """Takes what is said, as long as somebody listens: a training does not end because a terminal is gone."""

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
    """A line with title, bar, counts and times, and below it what was last said of the losses, folded where it must be.

    The bar gives way to the rest of its line; nothing else of it is cut at 80 columns.
    """

    def __init__(self, console: Console) -> None:
        bar = BarColumn(bar_width=None, table_column=Column(ratio=1))
        times = [TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()]
        super().__init__(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            *(bar, MofNCompleteColumn(), *times),
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
    """Speaks to a person: a bar on a terminal, a line now and then elsewhere, with `verbose` a line per step."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        seen = bool(sys.stderr) and sys.stderr.isatty()
        heard = cast(IO[str], Heard(sys.stderr)) if sys.stderr else None  # none where fd 2 was closed
        self.err = Console(stderr=True, file=heard, highlight=False, width=None if seen else UNFOLDED)
        self.out = Console(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else 140)

    def say(self, text: str) -> None:
        """Print one event."""
        if not self.quiet:
            self.err.print(shown(text), soft_wrap=True)

    def warn(self, text: str) -> None:
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
                task = bar.add_task(shown(title), total=total, completed=done, info="")

                def advance(count: int, text: str) -> None:
                    bar.update(task, advance=count)
                    if text:  # a step that has nothing to say leaves what the last one said
                        bar.update(task, info=printable(text))

                yield advance
        else:
            yield self._plain(title, total, done)

    def _plain(self, title: str, total: int, done: int) -> Advance:
        start = last = time.monotonic()
        current, text_shown = done, ""

        def advance(count: int, text: str) -> None:
            nonlocal current, last, text_shown
            current, text_shown, now = current + count, text or text_shown, time.monotonic()
            if now - last >= PLAIN_INTERVAL or current == total or (self.verbose and count):
                left = (now - start) / max(current - done, 1) * (total - current)
                self.say(
                    f"{title} {current}/{total}  {duration(now - start)} done, {duration(left)} left  {text_shown}"
                )
                last = now

        return advance

    def result(self, text: str) -> None:
        """Print a result, as it is, to stdout."""
        self.out.print(shown(text), soft_wrap=True)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table of results to stdout; columns of numbers are aligned to the right."""
        if title:
            self.out.print(f"[bold]{shown(title)}[/]", soft_wrap=True)
        table = Table()
        for index, name in enumerate(header):
            numbers = all(set(row[index]) <= set("0123456789.,-+% ") for row in rows)
            table.add_column(shown(name), justify="right" if numbers else "left", no_wrap=index == 0)
        for row in rows:
            table.add_row(*map(shown, row))
        self.out.print(table)

    def error(self, error: SegdistillError) -> None:
        """Print what was found in a panel, and below it what to do: commands there can be copied whole."""
        title = f"segdistill: {title_of(error)}"
        fold = self.err.width != UNFOLDED
        self.err.print(
            Panel(Text(printable(error.what)), title=title, title_align="left", border_style="red", expand=fold)
        )
        if error.fix:
            self.err.print(Text(printable(error.fix), style="cyan"), soft_wrap=True)


def printable(text: str) -> str:
    """Return a text with escapes for what would steer a terminal: names in files and folders may come from anybody."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def shown(text: str) -> str:
    """Return a text that is shown as it is, whatever signs are in it."""
    return escape(printable(text))


def title_of(error: SegdistillError) -> str:
    """Return what kind of error it is, in words, with its exit code."""
    kinds = {1: "failed", 2: "usage", 3: "data", 4: "check failed", 5: "model file"}
    return f"{kinds.get(error.exit_code, 'stopped')} (exit {error.exit_code})"
