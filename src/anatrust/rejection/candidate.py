"""One connected component of a segmenter's mask: where it is, how big it is, how it was judged."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from anatrust.errors import InputError

__all__ = ["Candidate", "Decision"]

Decision = Literal["kept", "rejected", "undecidable"]


@dataclass(frozen=True)
class Candidate:
    """A lesion some segmenter proposed: its geometry, its grey values and, once judged, the decision.

    The first fields describe the component and are always filled; those from ``contrast`` on
    are None (or empty) until :func:`anatrust.rejection.reject` has judged it.

    Parameters
    ----------
    number
        1 for the largest candidate; equal sizes are ordered by world position, so the number
        does not depend on how the file stores its axes.
    label, name
        Value in the label map, and its name (the number in words where no name is known).
    voxels
        Size in voxels (pixels in 2-D).
    volume
        Size in mm³ (mm² in 2-D); None where the spacing is unknown.
    diameter
        Largest Feret diameter in mm, measured between voxel faces; None where the spacing is unknown.
    centroid_index
        Mean voxel index on the mask's own grid, in its stored axis order.
    centroid_world
        The same point in world millimetres (RAS+).
    bounding_box
        ``(start, stop)`` (stop excluded) along each stored axis.
    mean_intensity
        Mean of the scan inside, in the scan's unit.
    mean_probability
        Mean probability the segmenter gave inside; None without probabilities.
    touches_border
        Whether the component reaches the edge of the image, so that part of it may be cut off.
    contrast
        Mean inside minus mean of the tissue, in standard deviations of the tissue.
    tissue
        What it was compared with, in words ("liver", "body within 20 mm of the candidates").
    statistic
        The test statistic (unbiased MMD²); larger = more unlike the tissue.
    p_value, p_floor, q_value
        p-value by ``null``, the smallest p that test could give, and the p-value after the
        correction for several candidates.
    null
        The null the p-value comes from: cohort, surrogate-max, placement, block or iid.
    placement_p
        p-value of the placement test, for comparison: valid only where the place was chosen
        without looking at this image.
    decision, reason
        ``"kept"``, ``"rejected"`` or ``"undecidable"``, and one sentence saying why.

    Raises
    ------
    InputError
        If the number, size or a probability is impossible.

    Examples
    --------
    >>> c = Candidate(1, 1, "lesion", 8, 8.0, 3.5, (4.5, 4.5, 4.5), (4.5, 4.5, 4.5), ((4, 6),) * 3, 120.0)
    >>> c.decision is None, c.to_json()["voxels"]
    (True, 8)
    """

    number: int
    label: int
    name: str
    voxels: int
    volume: float | None
    diameter: float | None
    centroid_index: tuple[float, ...]
    centroid_world: tuple[float, float, float]
    bounding_box: tuple[tuple[int, int], ...]
    mean_intensity: float
    mean_probability: float | None = None
    touches_border: bool = False
    contrast: float | None = None
    tissue: str = ""
    statistic: float | None = None
    p_value: float | None = None
    p_floor: float | None = None
    q_value: float | None = None
    null: str | None = None
    placement_p: float | None = None
    decision: Decision | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.number < 1 or self.voxels < 1:
            raise InputError(f"a candidate has a number and a size of at least 1, not {self.number} and {self.voxels}")
        if len(self.bounding_box) != len(self.centroid_index):
            raise InputError(
                f"candidate {self.number}: {len(self.bounding_box)} box axes for {len(self.centroid_index)} coordinates"
            )
        for what in ("mean_probability", "p_value", "p_floor", "q_value", "placement_p"):
            value = getattr(self, what)
            if value is not None and not -1e-6 <= value <= 1 + 1e-6:
                raise InputError(f"candidate {self.number}: {what} is {value:g}, not within [0, 1]")

    def to_json(self) -> dict[str, Any]:
        """The candidate as plain JSON values (tuples become lists)."""
        plain = asdict(self)
        for key in ("centroid_index", "centroid_world"):
            plain[key] = list(plain[key])
        plain["bounding_box"] = [list(edge) for edge in self.bounding_box]
        return plain
