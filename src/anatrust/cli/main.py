"""The entry point: runs a command and turns every failure into one line and an exit code.

0 done · 1 failed · 2 wrong arguments or unreadable input · 3 the verdict is at or above
``--fail-on`` · 130 interrupted by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import typer

from anatrust.cli.app import app
from anatrust.cli.console import StoppedError
from anatrust.errors import AnatrustError, InputError

__all__ = ["main", "run"]

# Typer brings its own copy of click in newer versions; its bases are found through what it exports.
_UsageError: type[Exception]
_ClickError: type[Exception]
_UsageError, _ClickError = typer.BadParameter.__mro__[1:3]
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main() -> None:
    """Run the command line of this process and exit."""
    # A terminated job cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _open_streams()
    if not sys.warnoptions and not _verbose(sys.argv[1:]):
        # Warnings of libraries are for developers; what a user must know is a finding.
        warnings.simplefilter("ignore")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors become one line on stderr."""
    verbose = _verbose(arguments)
    command = typer.main.get_command(app)
    try:
        _refuse_empty(arguments)
        code = command.main(args=list(arguments), prog_name="anatrust", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:
            # Typer's newer versions have caught Ctrl-C before us.
            raise KeyboardInterrupt
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "anatrust"
        return _fail(f"{_text(error).rstrip('.')}; see {path} --help", BAD_INPUT, verbose)
    except InputError as error:
        return _fail(str(error), BAD_INPUT, verbose)
    except StoppedError as error:
        return _fail(str(error), INTERRUPTED, verbose)
    except (AnatrustError, _ClickError) as error:
        return _fail(_text(error), FAILED, verbose)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted; nothing half-written was left", INTERRUPTED, verbose)
    except BrokenPipeError:
        # The reader of our output went away, e.g. `| head`; nothing to say and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except MemoryError:
        return _fail("not enough memory for this scan: crop it, or use a machine with more", FAILED, verbose)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail("no space is left on the disk: free some, or write to another one", FAILED, verbose)
        if not _has_folder():
            return _fail("the folder you are in was deleted: cd to one that exists", BAD_INPUT, verbose)
        where = f" ({error.filename})" if error.filename else ""
        # A path that cannot be used is a wrong argument, wherever it was noticed.
        wrong = isinstance(error, FileExistsError | IsADirectoryError | NotADirectoryError | PermissionError)
        wrong = wrong or error.errno in (errno.EROFS, errno.ENAMETOOLONG)
        return _fail(f"{error.strerror or error}{where}", BAD_INPUT if wrong else FAILED, verbose)
    except Exception as error:  # the last line of defence: still one line, still exit code 1
        hint = "" if verbose else "; run again with -v for details"
        return _fail(f"unexpected {type(error).__name__}: {error}{hint}", FAILED, verbose)
    return code if isinstance(code, int) else DONE


def _open_streams() -> None:
    """Make stdout and stderr usable: jobs start with closed ones, and old code pages lack our signs."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open as long as we run
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _refuse_empty(arguments: Sequence[str]) -> None:
    """An empty argument would be read as the current folder; it is a shell variable that was not set."""
    for before, argument in zip(("anatrust", *arguments), arguments, strict=False):
        if not argument.strip():
            what = before if before.startswith("-") else f"the argument after {before}"
            raise InputError(f"{what} is empty: say what is meant; is a shell variable unset?")


def _has_folder() -> bool:
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False


def _verbose(arguments: Sequence[str]) -> bool:
    """Whether -v was given; asked before parsing, so that it holds for errors of parsing too."""
    return any(a == "--verbose" or re.fullmatch("-[a-z]*v[a-z]*", a) for a in arguments)


def _text(error: BaseException) -> str:
    return str(getattr(error, "format_message", lambda: str(error))())


def _fail(message: str, code: int, verbose: bool) -> int:
    if verbose:
        traceback.print_exc()
    line = " ".join(message.split())
    sys.stdout.flush()
    print(f"anatrust: {line}", file=sys.stderr)  # noqa: T201
    return code
