"""What people see: progress on stderr, tables on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from anatrust.errors import AnatrustError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

__all__ = ["StoppedError", "columns", "progress_bar", "resumable", "watched_compiler"]

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
    """A progress bar on stderr as ``(stage, done, total)``; None where nobody would see it.

    Where code is compiled, in the first run on a machine, the stage says so: it takes some ten seconds.
    """
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

        with ExitStack() as stack:
            compiling: list[Compiling] = []

            def show(stage: str, done: int, total: int) -> None:
                bar.update(task, description=stage, completed=done, total=total)
                # Loading the compiler takes half a second: it is watched once something has needed it.
                if not compiling and "numba" in sys.modules:
                    compiling.append(stack.enter_context(watched_compiler(bar, task)))
                for listener in compiling:
                    listener.stage = stage

            yield show


class Compiling(Protocol):
    """What stands on the bar where nothing is being compiled."""

    stage: str


@contextmanager
def watched_compiler(bar: Bar, task: TaskID) -> Iterator[Compiling]:
    """Say on a progress bar while code is compiled; what was compiled before is loaded and not compiled again."""
    from numba.core.event import Event, Listener, install_listener

    class Said(Listener):  # type: ignore[misc, unused-ignore]
        stage = ""

        def on_start(self, _event: Event) -> None:
            bar.update(task, description=f"{self.stage} (compiling, once on this machine)")

        def on_end(self, _event: Event) -> None:
            bar.update(task, description=self.stage)

    with install_listener("numba:compile", Said()) as said:
        yield said


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text in aligned columns, the last one ragged.

    >>> columns(["a", "b"], [["1", "long"], ["22", "x"]])
    ['a   b', '1   long', '22  x']
    """
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[k]) for row in table) for k in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
