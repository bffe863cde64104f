"""What a progress bar says while code is compiled."""

from __future__ import annotations

import io
import sys

import numba
import numpy as np
from rich.progress import Progress

from anatrust.cli.console import progress_bar, watched_compiler


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_says_when_code_is_compiled_and_only_then() -> None:
    said: list[str] = []

    class Recorded(Progress):
        def update(self, task_id, **change) -> None:
            said.append(change["description"])
            super().update(task_id, **change)

    bar = Recorded()
    task = bar.add_task("")
    twice = numba.njit(lambda values: values[0] * 2)
    with watched_compiler(bar, task) as compiling:
        compiling.stage = "judge"
        assert twice(np.ones(1)) == 2
        words = "judge (compiling, once on this machine)"
        assert said[0] == words
        assert said[-1] == "judge"
        assert set(said) == {words, "judge"}
        assert bar.tasks[0].description == "judge"
        said.clear()
        twice(np.ones(1))
        assert said == []
    twice(np.ones(1, dtype=np.int16))
    assert said == []


def test_a_bar_is_shown_on_a_terminal_alone(monkeypatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress_bar(quiet=True) as show:
        assert show is None
    with progress_bar(quiet=False) as show:
        assert show is not None
        show("inspect", 1, 4)
        numba.njit(lambda values: values[0] + 1)(np.ones(1))
        show("judge", 2, 4)
    assert "judge" in screen.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar(quiet=False) as show:
        assert show is None
