"""What can be checked of an organ mask without a model: pieces, holes, contact with the image's edge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.anatomy.plausibility import check_anatomy
from anatrust.image.region import label_boxes
from anatrust.image.volumes import LabelMap
from anatrust.pipeline.finding import Finding

__all__ = ["StructureCheck", "anatomy_findings", "check_structures"]

_MAIN_SHARE = 0.2
_STRAY_LIMIT = 0.05
_HOLE_LIMIT = 0.01
# Remarks that say the image may be stored the wrong way round.
_TURNED = ("organ-on-wrong-side", "organs-out-of-order")


@dataclass(frozen=True)
class StructureCheck:
    """The form of one labelled structure.

    Parameters
    ----------
    label, name
        Number in the mask, and its name or the number in words.
    voxels, volume
        Size; volume in mm³ (mm² in 2-D), None where the voxel size is unknown.
    components
        Separate pieces, diagonal neighbours counted as connected.
    main_components
        Pieces holding at least a fifth of the structure: one, or two for paired organs.
    stray_share
        Share of the structure in smaller pieces.
    hole_share
        Volume of enclosed holes over the volume of the structure.
    border_share
        Share of the structure's voxels on the image's edge; above 0 it may be cut off.
    failed
        What failed, one phrase each; empty if nothing that was tested failed.
    """

    label: int
    name: str
    voxels: int
    volume: float | None
    components: int
    main_components: int
    stray_share: float
    hole_share: float
    border_share: float
    failed: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The check as plain JSON values."""
        return {**asdict(self), "failed": list(self.failed)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StructureCheck:
        """Inverse of :meth:`to_json`."""
        return cls(**{**data, "failed": tuple(data["failed"])})


def check_structures(
    labels: LabelMap, progress: Callable[[int, int], None] | None = None
) -> tuple[StructureCheck, ...]:
    """Check every label: it fails with more than two main pieces, over 5 % strays or 1 % holes.

    The limits are conventions of ours, not error levels: nothing is guaranteed about the
    outline. Contact with the image's edge is reported and fails nothing, for organs are cut
    by every limited field of view. ``progress`` is told ``(done, total)`` labels.

    Examples
    --------
    >>> import numpy as np
    >>> from anatrust.image.grid import Grid
    >>> array = np.zeros((9, 9), np.uint8)
    >>> array[2:7, 2:7] = 1
    >>> array[4, 4] = 0
    >>> check = check_structures(LabelMap(array, Grid(array.shape, np.eye(4)), {1: "liver"}))[0]
    >>> check.name, check.components, check.failed
    ('liver', 1, ('holes of 4.2 %',))
    """
    boxes, checks = label_boxes(labels.array), []
    for number, box in boxes.items():
        checks.append(_check(labels, number, box))
        if progress is not None:
            progress(len(checks), len(boxes))
    return tuple(checks)


def anatomy_findings(
    labels: LabelMap, what: Literal["mask", "anatomy"] = "mask"
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """What hardly any person has, as findings, and in notes what could not be checked.

    Sizes, sides, pieces, neighbours and gaps of every structure that the knowledge table knows
    by its label's name; see `check_anatomy`. A remark is a warning, a reason to look, for the
    ranges are conventions and people differ. Of an anatomy that only serves to compare with, sides
    and order are warnings (the orientation may be wrong) and the rest is worth knowing. A map
    without a known name gives nothing.

    Parameters
    ----------
    labels
        Named structures.
    what
        What they are here: the ``"mask"`` that is judged, or the ``"anatomy"`` beside it.

    Examples
    --------
    >>> import numpy as np
    >>> from anatrust.image.grid import Grid
    >>> array = np.zeros((60, 60, 60), np.uint8)
    >>> array[20:24, 20:24, 20:24] = 1
    >>> anatomy_findings(LabelMap(array, Grid(array.shape, np.eye(4)), {1: "liver"}))[0][0].sentence
    'In the mask: the liver has 0.064 ml, less than the 500 ml expected of a whole one.'
    """
    found = check_anatomy(labels)
    findings = tuple(
        Finding(
            "warning" if what == "mask" or r.code in _TURNED else "info",
            r.code,
            f"In the {what}: {r.sentence[0].lower()}{r.sentence[1:]}",
            r.cure,
        )
        for r in found.remarks
    )
    return findings, found.notes if found.structures else ()


def _check(labels: LabelMap, number: int, box: tuple[slice, ...]) -> StructureCheck:
    inside = labels.array[box] == number
    size = int(inside.sum())
    pieces, count = ndimage.label(inside, structure=np.ones((3,) * inside.ndim, dtype=bool))
    shares = np.bincount(pieces.ravel())[1:] / size
    main = shares >= _MAIN_SHARE
    holes = int(ndimage.binary_fill_holes(inside).sum()) - size
    check = {
        "stray_share": float(shares[~main].sum()),
        "hole_share": holes / size,
        "border_share": _on_border(inside, box, labels.array.shape) / size,
    }
    failed = []
    if main.sum() not in (1, 2):
        failed.append(f"{count} pieces")
    elif check["stray_share"] > _STRAY_LIMIT:
        failed.append(f"strays of {check['stray_share']:.1%} in {count - int(main.sum())} pieces".replace("%", " %"))
    if check["hole_share"] > _HOLE_LIMIT:
        failed.append(f"holes of {check['hole_share']:.1%}".replace("%", " %"))
    return StructureCheck(
        label=number,
        name=labels.names.get(number, f"label {number}"),
        voxels=size,
        volume=size * labels.grid.voxel_volume if labels.grid.spacing_known else None,
        components=count,
        main_components=int(main.sum()),
        failed=tuple(failed),
        **check,
    )


def _on_border(inside: npt.NDArray[np.bool_], box: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    faces = np.zeros_like(inside)
    for axis, (part, length) in enumerate(zip(box, shape, strict=True)):
        index: list[slice | int] = [slice(None)] * inside.ndim
        for end, touches in ((0, part.start == 0), (-1, part.stop == length)):
            if touches and length >= 3:
                index[axis] = end
                faces[tuple(index)] = True
    return int((faces & inside).sum())
