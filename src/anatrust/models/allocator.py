"""Memory kept between forward passes: fresh pages cost a large network on a CPU more than its arithmetic."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

__all__ = ["keep_freed_memory"]

# From <malloc.h>; a 32-bit int is the largest value mallopt takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MOST = -1, -3, 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep what is freed for the next request, once and for the whole process.

    By default every temporary above 32 MB is mapped afresh and given back at once, so that a transformer
    spends most of its time on page faults. Results do not change; the process may hold its largest
    working set until it ends.

    Returns
    -------
    bool
        Whether it was done; False where the C library is not glibc (nothing changes then).

    Examples
    --------
    >>> keep_freed_memory() in (True, False)
    True
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6", use_errno=True).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_TRIM_THRESHOLD, _MOST))
