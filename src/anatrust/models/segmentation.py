"""What a frozen segmenter is asked, and what it says it can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from anatrust.anatomy.entries import SegmenterName
from anatrust.errors import InputError
from anatrust.image.volumes import Mask

__all__ = ["Capabilities", "Context", "Prompt", "PromptKind"]

PromptKind = Literal["none", "text", "box"]
Context = Literal["region", "scan"]


@dataclass(frozen=True)
class Capabilities:
    """What a segmenter can do, so that nobody asks it for more.

    Parameters
    ----------
    prompts
        What steers it: ``"text"`` (the words of a :class:`Prompt`), ``"box"`` (the region itself),
        or ``"none"`` (it always looks for what it was trained for).
    ndim
        Image dimensions it reads, ``(2,)``, ``(3,)`` or both. A 2-D network that goes through a
        volume slice by slice reads both.
    probabilities
        False where it answers yes or no; its map then holds 0 and 1 alone.
    mirrors
        Whether a mirrored image can change its answer. Where not (exact symmetry, or an answer
        read from a file) one view is enough.
    context
        ``"region"``: its answer depends on the region. ``"scan"``: it sees the whole scan, and the
        region only cuts its answer.
    organs
        Whether a prompt for an organ is answered, so that it can find its own anchors.
    wording
        Whose words it was trained on, see :mod:`anatrust.models.prompts`.
    """

    prompts: tuple[PromptKind, ...] = ("none",)
    ndim: tuple[int, ...] = (2, 3)
    probabilities: bool = True
    mirrors: bool = True
    context: Context = "region"
    organs: bool = False
    wording: SegmenterName = "plain"

    def __post_init__(self) -> None:
        if not self.prompts or not set(self.prompts) <= set(get_args(PromptKind)):
            raise InputError(f"a segmenter's prompts are of {', '.join(get_args(PromptKind))}, not {self.prompts}")
        if not self.ndim or not set(self.ndim) <= {2, 3}:
            raise InputError(f"a segmenter reads 2-D or 3-D images, not {self.ndim}")
        if self.context not in get_args(Context):
            raise InputError(f"a segmenter sees a region or the scan, not {self.context!r}")
        if self.organs and "text" not in self.prompts:
            raise InputError("a segmenter without text prompts cannot be asked for an organ")

    def to_json(self) -> dict[str, Any]:
        """The capabilities as plain JSON values."""
        return {
            "prompts": list(self.prompts),
            "ndim": list(self.ndim),
            "probabilities": self.probabilities,
            "mirrors": self.mirrors,
            "context": self.context,
            "organs": self.organs,
            "wording": self.wording,
        }


@dataclass(frozen=True, eq=False)
class Prompt:
    """What is looked for.

    Parameters
    ----------
    target
        In plain words, as the user or the plan says it.
    words
        The same in the segmenter's own wording, best first; empty where it takes no text or has
        no words for the target. Sides are already swapped for mirrored images.
    organ
        The anchors' voxels on the scan's grid, for segmenters that look inside an organ; None
        where no anchor was found.
    """

    target: str
    words: tuple[str, ...] = ()
    organ: Mask | None = None

    def __post_init__(self) -> None:
        if not self.target.strip():
            raise InputError("a prompt says what is looked for: give for example 'liver tumour'")
        object.__setattr__(self, "words", tuple(self.words))
