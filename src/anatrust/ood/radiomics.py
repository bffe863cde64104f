"""Radiomics of what was segmented, one row a scan, through ``mirp`` (extra ``radiomics``)."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError, MissingExtraError
from anatrust.image.grid import Grid
from anatrust.image.resample import resample_mask, resample_scan
from anatrust.image.volumes import Mask, Scan
from anatrust.ood.crops import NoPrediction
from anatrust.ood.features import Levels, ScanFeatures
from anatrust.ood.intensity import IntensityRule, intensity_scale

__all__ = ["RadiomicsFeatures"]

_FAMILIES = {
    "morphology": "morph_",
    "statistics": "stat_",
    "glcm": "cm_",
    "glrlm": "rlm_",
    "glszm": "szm_",
    "ngtdm": "ngt_",
}
_MARGIN = 6.0  # mm around the structure, as published
_FEWEST = 8


@dataclass(frozen=True)
class RadiomicsFeatures:
    """IBSI features of the voxels a mask marks: shape, first order, and four texture families.

    The baseline RF-Deep compares with, on the same 1 mm grid. It describes the whole mask, not crops: one
    row a scan.

    Parameters
    ----------
    spacing
        Grid in mm; the scan's own pixels where its spacing is unknown.
    bins
        Grey levels of the texture matrices, between the smallest and largest value in the mask.
    intensity, window
        As in `CropSettings`: first-order features compare between scans only on one scale.
    families
        Which; ``"morphology"`` takes nine tenths of the time (Moran's I over all pairs of voxels).

    Raises
    ------
    InputError
        If a setting is impossible.

    References
    ----------
    Zwanenburg et al., Radiology 295 (2020), the IBSI standard; mirp 2 computes it (EUPL-1.2).
    """

    spacing: float = 1.0
    bins: int = 32
    intensity: IntensityRule = "auto"
    window: tuple[float, float] = (-400.0, 400.0)
    families: tuple[str, ...] = tuple(_FAMILIES)

    def __post_init__(self) -> None:
        if not 0 < self.spacing < float("inf") or self.bins < 2:
            raise InputError("radiomics needs a positive spacing and at least two grey levels")
        object.__setattr__(self, "families", tuple(self.families))
        object.__setattr__(self, "window", tuple(self.window))
        unknown = [family for family in self.families if family not in _FAMILIES]
        if unknown or not self.families:
            raise InputError(f"unknown radiomics families {unknown}: choose some of {', '.join(_FAMILIES)}")

    @property
    def identity(self) -> str:
        """Name, revision, settings and the version of mirp."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            release = version("mirp")
        except PackageNotFoundError:
            raise MissingExtraError("mirp", "radiomics", "radiomics") from None
        settings = [self.spacing, self.bins, self.intensity, list(self.window), list(self.families)]
        return f"radiomics/1 mirp={release} {json.dumps(settings)}"

    def of(self, scan: Scan, mask: Mask, *, identifier: str) -> ScanFeatures | NoPrediction:
        """Features of one scan, ``(1, d)``; levels are the families.

        A feature that does not exist for this mask (texture of a single grey level) is 0, and a scan whose
        mask has fewer than 8 voxels on the grid is no prediction. Cost: 0.3 to 8 s of one core.

        Raises
        ------
        GeometryError
            If the mask lies on another grid.
        MissingExtraError
            If mirp is not installed.
        """
        if not mask.grid.same_as(scan.grid):
            raise GeometryError(f"the mask lies on {mask.grid!r}, the scan on {scan.grid!r}: align it first")
        identity = self.identity
        if not mask.array.any():
            return NoPrediction(identifier, "the mask is empty: nothing was segmented, so there is nothing to measure")
        values, marked = self._prepared(scan, mask)
        if np.count_nonzero(marked) < _FEWEST:
            words = f"what was segmented has fewer than {_FEWEST} voxels of {self.spacing:g} mm: too small to measure"
            return NoPrediction(identifier, words)
        found = _measured(values, marked, self.bins, self.families)
        levels: Levels = tuple((family, len(found[family])) for family in self.families)
        row = np.concatenate([found[family] for family in self.families])
        return ScanFeatures(identifier, row[None].astype(np.float32), levels, identity)

    def _prepared(self, scan: Scan, mask: Mask) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Scaled grey values and mask, ``(z, y, x)``, of the box around the structure on the grid."""
        scale = intensity_scale(
            scan.array, self.intensity, self.window, is_ct=scan.modality == "CT" or scan.units == "HU"
        )
        grid = scan.grid
        inside = np.argwhere(mask.array)
        n = grid.ndim
        steps = np.array(grid.spacing)
        pad = np.ceil(_MARGIN / steps).astype(int)
        low = np.maximum(inside.min(axis=0) - pad, 0)
        high = np.minimum(inside.max(axis=0) + pad + 1, grid.shape)
        window = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        affine = grid.affine.copy()
        affine[:3, 3] = grid.to_world(low.astype(float))
        box = Grid(tuple(int(b - a) for a, b in zip(low, high, strict=True)), affine, spacing_known=grid.spacing_known)
        part, marked = Scan(scan.array[window].astype(np.float32), box), Mask(mask.array[window], box)
        if grid.spacing_known and np.abs(steps - self.spacing).max() > 1e-3:
            shape = tuple(max(1, round(c * s / self.spacing)) for c, s in zip(box.shape, steps, strict=True))
            finer = box.affine.copy()
            finer[:3, :n] *= self.spacing / steps
            finer[:3, 3] = box.to_world(np.full(n, -0.5)) + 0.5 * finer[:3, :n].sum(axis=1)
            target = Grid(shape, finer)
            part, marked = resample_scan(part, target), resample_mask(marked, target)
        values, flags = scale.apply(part.array), np.asarray(marked.array, dtype=np.bool_)
        return (values, flags) if n == 3 else (values[..., None], flags[..., None])


def _measured(
    values: npt.NDArray[np.float32], marked: npt.NDArray[np.bool_], bins: int, families: tuple[str, ...]
) -> dict[str, npt.NDArray[np.float64]]:
    """Mirp's features of each family, in the order of its columns."""
    try:
        from mirp import extract_features
    except ImportError:
        raise MissingExtraError("mirp", "radiomics", "radiomics") from None
    root = logging.getLogger()
    silent, level = logging.NullHandler(), root.level
    root.addHandler(silent)  # else mirp sets up the root logger and reports every image on stdout
    root.setLevel(logging.ERROR)
    try:
        table = extract_features(
            image=np.ascontiguousarray(values.transpose(2, 1, 0), dtype=np.float64),
            mask=np.ascontiguousarray(marked.transpose(2, 1, 0), dtype=np.uint8),
            base_feature_families=list(families),
            base_discretisation_method="fixed_bin_number",
            base_discretisation_n_bins=bins,
        )[0]
    finally:
        root.removeHandler(silent)
        root.setLevel(level)
    found = {}
    for family in families:
        columns = [c for c in table.columns if c.startswith(_FAMILIES[family])]
        row = table[columns].to_numpy(dtype=np.float64)[0]
        found[family] = np.where(np.isfinite(row), row, 0.0)
    return found
