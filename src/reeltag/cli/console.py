"""What the verbs share: where text goes, tables that are JSON on request, and bars for long loops."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output; progress goes to standard error.")]
Device = Annotated[str, typer.Option(help="A torch device (cpu, cuda, cuda:1), or auto.")]
Flow = Annotated[
    Path | None, typer.Option(help="A folder of `reeltag flow`; PACKED/flow is found by itself, else it is computed.")
]
Workers = Annotated[int | None, typer.Option(min=0, help="Loader processes; chosen by the hardware when not given.")]


def log() -> Console:
    """Return the console of standard error, where progress and notes go."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON value on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print a table on standard output; numbers are right-aligned, floats have four digits."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=None, pad_edge=False, title_justify="left")
    shown = [list(row) for row in rows]
    for index, column in enumerate(columns):
        numeric = bool(shown) and all(isinstance(row[index], int | float) for row in shown)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in shown:
        table.add_row(*(_text(cell) for cell in row))
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table, markup=False)


def _text(cell: Any) -> Any:
    from rich.text import Text

    return Text(f"{cell:.4f}" if isinstance(cell, float) else str(cell))


def bar(what: str) -> Callable[[Iterable[Item]], Iterator[Item]]:
    """Return a wrapper that shows a progress bar with the time left while its iterable is consumed."""

    def over(items: Iterable[Item]) -> Iterator[Item]:
        from rich.progress import track

        total = len(items) if isinstance(items, Sized) else None
        yield from track(items, description=what, total=total, console=log(), transient=True)

    return over


class Counter:
    """A bar for callbacks of the form (done, total); use as a context manager."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> Callable[[int, int], None]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(self._what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = log()
        # Half a minute, the default period, is less than one clip may take: there would be no time left to show.
        self._progress = Progress(
            *columns, console=console, transient=True, speed_estimate_period=3600, disable=not console.is_terminal
        )
        self._progress.start()
        task = self._progress.add_task(self._what, total=None)

        def advance(done: int, total: int) -> None:
            self._progress.update(task, completed=done, total=total)

        return advance

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
