"""The exceptions anatrust raises.

AnatrustError                 everything below; the command line exits 1
└── InputError                bad arguments or unreadable input; the command line exits 2
    ├── FormatError           the bytes of a file are not what they claim to be
    ├── GeometryError         shape, affine or patient space does not fit
    └── MissingExtraError     an optional dependency is not installed

Every message is one line that says *what* is wrong, *where*, and *how to mend it*.
"""

from __future__ import annotations

__all__ = ["AnatrustError", "FormatError", "GeometryError", "InputError", "MissingExtraError"]


class AnatrustError(Exception):
    """Base class of all errors raised on purpose by anatrust."""


class InputError(AnatrustError, ValueError):
    """An argument or a file cannot be used; the message says what, where and how to mend it."""


class FormatError(InputError):
    """A file's content is not what its name or header claims."""


class GeometryError(InputError):
    """Shape, affine or patient space of two images do not fit, or a geometry is impossible."""


class MissingExtraError(InputError):
    """An optional dependency is needed; the message names the extra to install."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}': pip install 'anatrust[{extra}]'")
