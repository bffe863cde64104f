"""The input gate: is this a scan, and can this be its mask, before anything is judged.

Users of TotalSegmentator meet each of these silently: rescaled Hounsfield units give empty or
poor masks (issues 130, 455), a flipped image loses its vertebrae (144), a conversion loses the
geometry and gives an all-zero mask (216), a 66 kB file is not a CT (376).
"""

from __future__ import annotations

import numpy as np

from anatrust.errors import GeometryError
from anatrust.image.orientation import canonical
from anatrust.image.volumes import LabelMap, ProbabilityMap, Scan
from anatrust.pipeline.finding import Finding, Severity
from anatrust.pipeline.inspect.body import find_body
from anatrust.pipeline.inspect.geometry import inspect_geometry
from anatrust.pipeline.inspect.intensity import inspect_intensity
from anatrust.pipeline.inspect.mask import inspect_mask
from anatrust.pipeline.inspect.probabilities import inspect_probabilities, inspect_probability_values

__all__ = ["inspect_probability_values", "inspect_scan"]

_ORDER: tuple[Severity, ...] = ("error", "warning", "info")


def inspect_scan(
    scan: Scan,
    labels: LabelMap | None = None,
    probabilities: ProbabilityMap | None = None,
    *,
    kind: str = "lesion",
) -> tuple[Finding, ...]:
    """Look at the input before judging it; never raises on odd content, only on unlike grids.

    Parameters
    ----------
    scan, labels, probabilities
        The images, all on the scan's grid. The answer does not depend on the orientation
        they are stored in.
    kind
        ``"lesion"`` or ``"organ"``: what the mask shows.

    Returns
    -------
    Findings, the gravest first. No finding means: nothing that was looked for was found.

    Raises
    ------
    GeometryError
        If the mask or the probabilities lie on another grid.

    Examples
    --------
    >>> import numpy as np
    >>> from anatrust.image.grid import Grid
    >>> ramp = np.arange(32 * 32 * 16, dtype=np.int16).reshape(32, 32, 16) % 1000
    >>> scan = Scan(ramp, Grid(ramp.shape, np.diag([2.0, 2.0, 3.0, 1.0])))
    >>> mask = LabelMap(np.zeros(ramp.shape, np.uint8), scan.grid)
    >>> [f.code for f in inspect_scan(scan, mask)]
    ['empty-mask']

    Notes
    -----
    Cost: some passes over the volume, about 2 s for 512×512×300 voxels.
    """
    for name, other in (("mask", labels), ("probabilities", probabilities)):
        if other is not None and not other.grid.same_as(scan.grid):
            raise GeometryError(f"the {name} lies on {other.grid!r}, the scan on {scan.grid!r}: resample it first")
    array, grid = canonical(scan.array, scan.grid)
    upright = Scan(array, grid, scan.modality, scan.units, scan.identifier)
    body = find_body(upright)
    found = [*inspect_intensity(upright), *inspect_geometry(upright, body)]
    if labels is not None:
        mask = LabelMap(canonical(labels.array, scan.grid)[0], grid, labels.names)
        found += inspect_mask(upright, mask, body, kind)
        if probabilities is not None:
            upright_channels = [canonical(channel, scan.grid)[0] for channel in probabilities.array]
            # One channel needs no copy.
            channels = upright_channels[0][None] if len(upright_channels) == 1 else np.stack(upright_channels)
            found += inspect_probabilities(ProbabilityMap(channels, grid, probabilities.classes), mask)
    return tuple(sorted(found, key=lambda f: _ORDER.index(f.severity)))
