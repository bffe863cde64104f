"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from anatrust.errors import InputError

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place when the block ends well.

    Parameters
    ----------
    path
        The file to make or replace. Its folder must exist.

    Yields
    ------
    pathlib.Path
        A fresh, empty file in the same folder with the same suffix. After an exception or
        Ctrl-C it is removed and ``path`` is as it was.

    Raises
    ------
    InputError
        If the folder is missing or cannot be written to, or ``path`` is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"cannot write the file {target}: a folder has that name")
    suffix = "".join(target.suffixes[-2:])
    try:
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=suffix, dir=target.parent)
    except OSError as error:
        raise InputError(f"cannot write into {target.parent}: {error.strerror or error}") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; a result is as readable as any file the user makes.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
