"""What people see: progress on stderr, tables on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from anatrust.errors import AnatrustError

__all__ = ["StoppedError", "columns", "progress_bar", "resumable"]

Progress = Callable[[str, int, int], None]


class StoppedError(AnatrustError):
    """Ctrl-C or SIGTERM in work that goes on from where it was when the command is given again."""


@contextmanager
def resumable(kept: Path) -> Iterator[None]:
    """Say where an interrupted run's finished work is kept, and that it will be used."""
    try:
        yield
    except KeyboardInterrupt:
        words = f"interrupted; what was finished is kept in {kept}: the same command goes on from there"
        raise StoppedError(words) from None


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress | None]:
    """A progress bar on stderr as ``(stage, done, total)``; None where nobody would see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=None)

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        yield show


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text in aligned columns, the last one ragged.

    >>> columns(["a", "b"], [["1", "long"], ["22", "x"]])
    ['a   b', '1   long', '22  x']
    """
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[k]) for row in table) for k in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
