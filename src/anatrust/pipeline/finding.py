"""What the input gate says: one sentence about the input and how to mend it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from anatrust.errors import InputError

__all__ = ["Finding", "Severity", "worst"]

Severity = Literal["info", "warning", "error"]
_ORDER = get_args(Severity)


@dataclass(frozen=True, order=False)
class Finding:
    """One thing the gate noticed about the input.

    Parameters
    ----------
    severity
        ``"info"``: worth knowing. ``"warning"``: a person should look before trusting the
        answer (the verdict is at least *review*). ``"error"``: no answer can be trusted
        (the verdict is *abstain*).
    code
        Stable name in kebab-case, for machines.
    sentence
        What was noticed, with the figures that show it.
    cure
        What to do about it.

    Raises
    ------
    InputError
        If the severity is unknown or a text is empty.

    Examples
    --------
    >>> Finding("warning", "empty-mask", "The mask is empty.", "Check the segmenter's input.").severity
    'warning'
    """

    severity: Severity
    code: str
    sentence: str
    cure: str

    def __post_init__(self) -> None:
        if self.severity not in _ORDER:
            raise InputError(f"a finding's severity is one of {', '.join(_ORDER)}, not {self.severity!r}")
        if not (self.code and self.sentence and self.cure):
            raise InputError(f"the finding {self.code!r} needs a code, a sentence and a cure")

    def to_json(self) -> dict[str, str]:
        """The finding as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        """Inverse of :meth:`to_json`."""
        return cls(data["severity"], data["code"], data["sentence"], data["cure"])


def worst(findings: tuple[Finding, ...] | list[Finding]) -> Severity | None:
    """The gravest severity among the findings; None if there are none.

    >>> worst([Finding("info", "a", "b", "c"), Finding("error", "d", "e", "f")])
    'error'
    """
    return max((f.severity for f in findings), key=_ORDER.index, default=None)
