"""Tools that live in an environment of their own: run as a process, watched, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatrust.errors import FormatError, InputError

__all__ = ["ToolSettings", "read_settings", "run_tool", "work_folder"]

_LARGEST = 1 << 20
_GRACE = 10.0


@dataclass(frozen=True)
class ToolSettings:
    """How a tool is called.

    Parameters
    ----------
    command
        The program, and words that come before all others.
    options
        Words added at the end.
    environment
        Variables the tool needs (nnU-Net's ``nnUNet_results``); all others are inherited.
    seconds
        Time it gets.
    values
        What else the tool's settings file says.
    """

    command: tuple[str, ...]
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    seconds: float = 3600.0
    values: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.command or not all(self.command):
            raise InputError("the tool has no command: name its program")
        if not 0 < self.seconds < float("inf"):
            raise InputError(f"the tool gets {self.seconds:g} seconds: give a positive number")


def read_settings(path: Path, keys: Sequence[str]) -> ToolSettings:
    """Settings from a JSON file, or a program's path alone.

    Parameters
    ----------
    path
        ``{"command": ["/path/to/program"], ...}`` or the program itself.
    keys
        What the file may say beside ``command``, ``options``, ``environment`` and ``seconds``.

    Raises
    ------
    InputError
        If there is no such file, or it says something else.
    """
    if not path.is_file():
        raise InputError(f"there is no {path}: give the tool's program, or a JSON file that describes it")
    if path.suffix.lower() != ".json":
        if not os.access(path, os.X_OK):
            raise InputError(f"{path.name} is no program that can be run, and no .json file that describes one")
        return ToolSettings((str(path),), values={})
    try:
        if path.stat().st_size > _LARGEST:
            raise FormatError(f"{path.name} is too large for a tool's settings")
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise FormatError(f"{path.name} is no JSON") from None
    known = {"command", "options", "environment", "seconds", *keys}
    if not isinstance(plain, dict) or set(plain) - known:
        raise FormatError(f"{path.name}: a tool's settings are {', '.join(sorted(known))}")
    command = plain.get("command")
    words = [command] if isinstance(command, str) else command
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise FormatError(f'{path.name}: "command" is the program and its first words')
    try:
        return ToolSettings(
            tuple(words),
            tuple(str(w) for w in plain.get("options", ())),
            {str(k): str(v) for k, v in dict(plain.get("environment", {})).items()},
            float(plain.get("seconds", 3600)),
            {key: plain[key] for key in keys if key in plain},
        )
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path.name}: {error}") from None


@contextmanager
def work_folder(name: str) -> Iterator[Path]:
    """A folder for one call of a tool, gone afterwards whatever happens."""
    with tempfile.TemporaryDirectory(prefix=f"anatrust-{name}-") as folder:
        yield Path(folder)


def run_tool(settings: ToolSettings, words: Sequence[str], what: str) -> None:
    """Run a tool to its end.

    The tool gets a process group of its own, which is ended on Ctrl-C and when its time is over.
    What it prints is kept back; of an error its last line is shown.

    Parameters
    ----------
    settings
        The program, its surroundings and its time.
    words
        Arguments. Nothing goes through a shell.
    what
        Its name, for messages.

    Raises
    ------
    InputError
        If it cannot be started, fails, or takes too long.
    """
    environment = {**os.environ, **(settings.environment or {})}
    # Our own import path must not reach into the tool's environment.
    for name in ("PYTHONPATH", "PYTHONHOME"):
        environment.pop(name, None)
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                [*settings.command, *words, *settings.options],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            name = Path(settings.command[0]).name
            raise InputError(f"{what} cannot be started ({name}: {error.strerror}): give its program") from None
        try:
            code = process.wait(timeout=settings.seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            raise InputError(f"{what} was not done after {settings.seconds:g} seconds and was stopped") from None
        except BaseException:
            _end(process)
            raise
        if code:
            said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
            lines = [line.strip() for line in said.read().decode("utf-8", "replace").splitlines() if line.strip()]
            raise InputError(f"{what} failed with exit code {code}: {lines[-1][:300] if lines else 'it said nothing'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a tool and everything it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=_GRACE)
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
