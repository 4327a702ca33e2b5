"""What commands show: tables and texts on standard output; bars, and problems in a line each, on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

_T = TypeVar("_T")

_PIPE_WIDTH = 160  # a table in a pipe has no window to fit


def output_console() -> Console:
    """Standard output; in a pipe wide enough for a table."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    return console


def error_console() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False)


def progress_bar(console: Console, *, hidden: bool = False) -> Progress:
    """A bar that is gone afterwards, and never there where the console is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=hidden or not console.is_terminal,
    )


def tracked(items: Sequence[_T], title: str) -> Iterable[_T]:
    """The items, with a bar on standard error as they are taken."""
    with progress_bar(error_console()) as bar:
        yield from bar.track(items, description=title)


def say(console: Console, text: str) -> None:
    """A line as it is, however long: names and paths with brackets are no markup."""
    console.print(Text(text), soft_wrap=True)


def report(console: Console, message: str, kind: str = "error") -> None:
    """One line about a problem, in the form of all lines of this program."""
    say(console, f"cora: {kind}: {' '.join(message.split())}")
