"""An anchor: where one organ lies, who says so, and how far it can be relied on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from anatrust.errors import InputError
from anatrust.image.volumes import Mask

__all__ = ["Anchor", "AnchorStatus"]

AnchorStatus = Literal["ok", "unreliable", "missing"]


@dataclass(frozen=True, eq=False)
class Anchor:
    """One structure found in a scan by a provider.

    Parameters
    ----------
    structure
        Identifier of the knowledge table, ``"liver"``.
    mask
        Its voxels on the scan's grid; None if and only if it is missing.
    provider
        Who found it: the provider's name in the registry.
    status
        ``"ok"``, ``"unreliable"`` (there, but do not build on it) or ``"missing"``.
    quality
        From 0 (nothing) to 1: what the provider and the checks think of it. A ranking, no
        probability. 0 if missing.
    reasons
        Why it is not ``"ok"``, or what else is to be known of it, a phrase each.

    Raises
    ------
    InputError
        If status, quality and mask contradict each other.
    """

    structure: str
    mask: Mask | None
    provider: str
    status: AnchorStatus = "ok"
    quality: float = 1.0
    reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.status not in get_args(AnchorStatus):
            raise InputError(f"an anchor's status is one of {', '.join(get_args(AnchorStatus))}, not {self.status!r}")
        if not 0 <= self.quality <= 1:
            raise InputError(f"the quality of the anchor {self.structure} is {self.quality:g}: give 0 to 1")
        if (self.status == "missing") != (self.mask is None):
            raise InputError(f"the anchor {self.structure} is {self.status}: only a missing one has no mask")
        if self.status == "missing" and self.quality > 0:
            raise InputError(f"the anchor {self.structure} is missing and cannot have a quality of {self.quality:g}")
        if self.status != "ok" and not self.reasons:
            raise InputError(f"the anchor {self.structure} is {self.status}: say why")
        object.__setattr__(self, "reasons", tuple(self.reasons))

    @classmethod
    def missing(cls, structure: str, provider: str, reason: str) -> Anchor:
        """An anchor that was not found, and why."""
        return cls(structure, None, provider, "missing", 0.0, (reason,))

    def to_json(self) -> dict[str, Any]:
        """All but the voxels, as plain JSON values."""
        voxels = 0 if self.mask is None else int(self.mask.array.sum())
        return {
            "structure": self.structure,
            "provider": self.provider,
            "status": self.status,
            "quality": round(self.quality, 4),
            "reasons": list(self.reasons),
            "voxels": voxels,
        }
