"""Whether the grey values fit the modality: rescaled, windowed, clipped, inverted, constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.image.volumes import Scan, value_range
from anatrust.pipeline.finding import Finding
from anatrust.pipeline.inspect.body import border_values

__all__ = ["inspect_intensity", "looks_like_hounsfield"]

_SAMPLE = 4_000_000
_ASK_SOURCE = "Export the series from DICOM again with its rescale slope and intercept, and redraw the mask on it."


@dataclass(frozen=True)
class _Values:
    """Summary of the grey values that all checks share."""

    low: float
    high: float
    whole: bool
    at_low: float
    at_high: float
    distinct: int
    sample: npt.NDArray[np.float32]

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> _Values:
        low, high = value_range(array)
        sample = _thinned(array)
        whole = array.dtype.kind in "iu" or bool((sample == np.round(sample)).all())
        return cls(
            low,
            high,
            whole,
            float((sample <= low).mean()),
            float((sample >= high).mean()),
            int(np.unique(sample[:: max(1, sample.size // 200_000)]).size),
            sample,
        )


def looks_like_hounsfield(array: npt.NDArray[Any]) -> bool:
    """Whether grey values are distributed as Hounsfield units are.

    Air below −800 somewhere or no padding trick, and of all voxels that are not air
    (above −500) at least a third in the range of fat, water and soft tissue, −200 to 300 HU.

    >>> looks_like_hounsfield(np.array([-1000.0, -1000.0, -90.0, 40.0, 60.0, 700.0]))
    True
    >>> looks_like_hounsfield(np.array([0.0, 24.0, 934.0, 1064.0, 1084.0, 1724.0]))
    False
    """
    array = np.asarray(array)
    return _soft_share(_thinned(array)) >= 1 / 3 and bool(np.min(array) < -200)


def _thinned(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Every n-th grey value, a few millions of them."""
    flat = array.reshape(-1)
    # A stride that shares no factor with the row length visits all columns.
    step = max(1, flat.size // _SAMPLE)
    while step > 1 and np.gcd(step, array.shape[-1]) > 1:
        step += 1
    return flat[::step].astype(np.float32)


def _soft_share(values: npt.NDArray[np.float32], offset: float = 0.0) -> float:
    """Share of the voxels above −500 HU that lie between −200 and 300 HU, after subtracting ``offset``."""
    tissue = values[values > -500 + offset]
    if tissue.size == 0:
        return 0.0
    return float(((tissue > -200 + offset) & (tissue < 300 + offset)).mean())


def inspect_intensity(scan: Scan) -> list[Finding]:
    """Findings about the grey values of a scan; reads every voxel a few times."""
    values = _Values.of(scan.array)
    if values.low == values.high:
        return [
            Finding(
                "error",
                "constant-image",
                f"Every voxel of the scan has the value {values.low:g}: there is no image.",
                "Check the export or conversion of this file; open it in a viewer.",
            )
        ]
    found: list[Finding] = []
    if values.distinct <= 12 and scan.array.size >= 1000:
        found.append(
            Finding(
                "warning",
                "few-grey-values",
                f"The scan holds only {values.distinct} different values: it looks like a label map, not an image.",
                "Check that the scan and the mask were not swapped.",
            )
        )
    else:
        found += _windowed(scan, values) or _hounsfield(scan, values)
    return found + _inverted(scan, values) + _other_modalities(scan, values)


def _windowed(scan: Scan, values: _Values) -> list[Finding]:
    """Grey values squeezed into a display range: 0..1, 0..255, or clipped at both ends."""
    if scan.modality == "photo" or (scan.array.ndim == 2 and scan.modality == "unknown"):
        return []
    piled = values.at_low >= 0.005 and values.at_high >= 0.001
    if scan.modality == "CT" and values.low >= -1.0 and values.high <= 1.0:
        return [
            Finding(
                "warning",
                "ct-unit-range",
                f"The CT's values lie in [{values.low:.3g}, {values.high:.3g}]: normalised, not Hounsfield units.",
                "Map them back to the HU window they came from (say 0..1 to -160..240 HU), or use the original.",
            )
        ]
    eight_bit = values.whole and values.low >= 0 and values.high <= 255
    if eight_bit and (scan.modality == "CT" or (piled and values.high == 255)):
        sure = "Hounsfield units are lost" if scan.modality == "CT" else "the original intensities (HU if CT) are lost"
        return [
            Finding(
                "warning",
                "eight-bit-window",
                f"The values are whole numbers in [{values.low:.0f}, {values.high:.0f}], {values.at_low:.0%} at the "
                f"bottom and {values.at_high:.1%} at the top: an 8-bit display window, {sure}.",
                "Use the original series; here, rules in HU do not apply and clipped tissue cannot be compared.",
            )
        ]
    clipped = scan.modality == "CT" and values.low > -700 and values.low < -50 and piled
    if clipped:
        return [
            Finding(
                "warning",
                "ct-clipped-window",
                f"The CT is clipped to [{values.low:.0f}, {values.high:.0f}]: {values.at_low:.0%} of the voxels lie at "
                f"the bottom and {values.at_high:.1%} at the top.",
                "Use the series before windowing: most CT segmenters expect the full range of HU.",
            )
        ]
    return []


def _hounsfield(scan: Scan, values: _Values) -> list[Finding]:
    """Does a CT hold Hounsfield units; does something unnamed look like it does."""
    if scan.modality == "unknown" and scan.array.ndim == 3 and values.low < -700 and _soft_share(values.sample) >= 0.5:
        return [
            Finding(
                "info",
                "modality-not-given",
                "The values look like a CT in Hounsfield units, but no modality was given, so no HU rule was applied.",
                "Say --modality CT if it is one.",
            )
        ]
    if scan.modality != "CT":
        return []
    if looks_like_hounsfield(values.sample):
        return _padding(values)
    for offset in (1024.0, 1000.0, 32768.0):
        if values.low >= offset - 1024 - 2100 and _soft_share(values.sample, offset) >= 1 / 3:
            return [
                Finding(
                    "warning",
                    "ct-offset",
                    f"The CT's values lie in [{values.low:.0f}, {values.high:.0f}] with soft tissue near {offset:.0f}: "
                    f"the rescale intercept of about -{offset:.0f} was not applied.",
                    f"Subtract {offset:.0f} to get Hounsfield units (air is then -1000), and redraw the mask.",
                )
            ]
    if values.low >= 0 and values.high <= 4096 * 16 and values.whole:
        span = f"The CT's values lie in [{values.low:.0f}, {values.high:.0f}]"
        what = f"{span} and soft tissue is not near 0: rescaled, not Hounsfield units."
    else:
        share = _soft_share(values.sample)
        what = (
            f"The CT's values lie in [{values.low:.4g}, {values.high:.4g}] and only {share:.0%} of the tissue is "
            "between -200 and 300: these are not Hounsfield units."
        )
    return [Finding("warning", "ct-rescaled", what, _ASK_SOURCE)]


def _padding(values: _Values) -> list[Finding]:
    if values.low >= -1300 or (values.sample < -1300).mean() < 0.01:
        return []
    return [
        Finding(
            "info",
            "ct-padding",
            f"{(values.sample < -1300).mean():.0%} of the CT lies below -1300 (down to {values.low:.0f}): padding.",
            "Nothing to do: it counts as outside the body.",
        )
    ]


def _inverted(scan: Scan, values: _Values) -> list[Finding]:
    """Air around the patient at the bright end: an inverted image."""
    if scan.modality in ("photo", "US") or scan.array.ndim == 2:
        return []
    around = border_values(scan.array)
    span = values.high - values.low
    # Tissue that fills the view is bright at the edge too; air is flat *and* at the very end of the range.
    at_top = float((around >= values.high - 0.03 * span).mean())
    middle = float(np.median(values.sample))
    inside = float((values.sample >= values.high - 0.03 * span).mean())
    if at_top < 0.5 or inside > 0.95 or (middle < values.low + 0.1 * span):
        return []
    return [
        Finding(
            "warning",
            "inverted",
            f"{at_top:.0%} of the voxels on the image's edge have the brightest values: the grey scale looks inverted.",
            "Invert the grey values (air must be dark), or check the photometric interpretation of the source.",
        )
    ]


def _other_modalities(scan: Scan, values: _Values) -> list[Finding]:
    if scan.modality == "MR" and values.low <= -900 and _soft_share(values.sample) >= 0.5:
        return [
            Finding(
                "warning",
                "modality-mismatch",
                f"The scan is called MR but its values, from {values.low:.0f}, are distributed like Hounsfield units.",
                "Check the modality: say --modality CT if it is one.",
            )
        ]
    if scan.modality == "PET":
        negative = float((values.sample < 0).mean())
        if negative > 0.01:
            return [
                Finding(
                    "warning",
                    "negative-pet",
                    f"{negative:.0%} of the PET's voxels are negative: not an uptake image.",
                    "Check the rescale slope and intercept, or that this is not the CT of the same study.",
                )
            ]
        if values.high > 500:
            return [
                Finding(
                    "info",
                    "pet-not-suv",
                    f"The PET's values reach {values.high:.0f}: activity (Bq/ml), not standardised uptake values.",
                    "Nothing to do for the comparison inside this scan; convert to SUV to compare patients.",
                )
            ]
    return []
