"""What commands print: lines, warnings and a progress bar that steps aside for them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click

__all__ = ["Bar", "BarConsole", "Console", "progress_bar"]


class Console:
    """
    Prints lines.

    Parameters
    ----------
    verbosity : int
        0 for the usual lines, above for more, below for errors only.
    """

    def __init__(self, verbosity: int) -> None:
        self.verbosity = verbosity

    def say(self, text: str, level: int = 0) -> None:
        """Print a line if the user wants that much."""
        if self.verbosity >= level:
            click.echo(text)

    def warn(self, text: str) -> None:
        """Print a warning."""
        if self.verbosity >= 0:
            click.echo(f"webbkg: warning: {text}", err=True)

    def fail(self, text: str) -> None:
        """Print an error after which the work goes on."""
        click.echo(f"webbkg: {text}", err=True)

    def advance(self, fraction: float) -> None:
        """Show nothing."""


class Bar:
    """
    A progress bar that steps aside for messages.

    Parameters
    ----------
    bar : rich.progress.Progress
        The bar.
    total : int
        Number of pieces of work.
    """

    def __init__(self, bar: Any, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("subtracting", total=total)

    def advance(self, fraction: float) -> None:
        """Move on by a fraction of a piece."""
        self._bar.advance(self._task, fraction)

    def complete(self, n_jobs: int) -> None:
        """Move to where this many pieces are done."""
        self._bar.update(self._task, completed=n_jobs)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar off the terminal while a message is written."""
        if self._bar.disable:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()


class BarConsole(Console):
    """
    Prints lines beside a progress bar.

    Parameters
    ----------
    verbosity : int
        0 for the usual lines, above for more, below for errors only.
    bar : Bar, optional
        The bar, which steps aside for lines.
    """

    def __init__(self, verbosity: int, bar: Bar | None = None) -> None:
        super().__init__(verbosity)
        self.bar = bar

    def say(self, text: str, level: int = 0) -> None:
        """Print a line if the user wants that much."""
        with self._aside():
            super().say(text, level)

    def warn(self, text: str) -> None:
        """Print a warning."""
        with self._aside():
            super().warn(text)

    def fail(self, text: str) -> None:
        """Print an error after which the work goes on."""
        with self._aside():
            super().fail(text)

    def advance(self, fraction: float) -> None:
        """Move the bar on."""
        if self.bar is not None:
            self.bar.advance(fraction)

    def _aside(self) -> contextlib.AbstractContextManager[None]:
        return self.bar.aside() if self.bar is not None else contextlib.nullcontext()


@contextlib.contextmanager
def progress_bar(n_jobs: int, verbosity: int) -> Iterator[Bar]:
    """
    Show a bar on a terminal.

    Parameters
    ----------
    n_jobs : int
        Number of pieces of work.
    verbosity : int
        Nothing is shown below 0.

    Yields
    ------
    Bar
        The bar.
    """
    from rich.console import Console as Terminal
    from rich.progress import Progress

    visible = verbosity >= 0 and sys.stderr.isatty()
    with Progress(console=Terminal(stderr=True), transient=True, disable=not visible) as bar:
        yield Bar(bar, n_jobs)
