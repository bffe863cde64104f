"""Register one scan to another: translation by search, affine by gradient, then demons or a B-spline.

All of it happens in a frame of our own: voxels in canonical (RAS+) order, millimetres from the
first voxel. Where a file puts its patient in the scanner plays no part, and the way it stores its
axes cannot change a number. One thread, one seed: the same scans give the same alignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical, canonical_grid
from anatrust.image.region import bounding_box
from anatrust.image.volumes import Scan
from anatrust.models.alignment import (
    Alignment,
    Frame,
    first_centre,
    frame_pair,
    from_itk,
    itk_image,
    local_correlation,
    one_thread,
)
from anatrust.models.registration_search import coverage, local_contrast, turned_starts, upright_starts

__all__ = ["RegistrationSettings", "register"]

Deformation = Literal["demons", "bspline", "none"]
Metric = Literal["auto", "correlation", "mutual-information"]

_CT_WINDOW = (-300.0, 300.0)
_SAMPLES = 30_000
_SEED = 1  # regular samples are jittered; SimpleITK's default seed is the clock
_LEAST_OVERLAP = 0.5
_PADDING = 0.02  # grey value, from 0 to 1, up to which a whole layer at the border is padding
_THINNEST = 8  # voxels of content along an axis below which nothing is cut off
_MOSTLY_FILLED = 2 / 3  # share of an axis from which padding is left: dark borders also tell how a body lies
_CONTRAST_CELLS = 24  # along the longest axis: the neighbourhood of local contrast
_TURNED_MARGIN = 0.05  # by how much a turned view must look more like the target
_REFINED = 4  # turned views that are refined
_PROMISING = 0.75  # share of the upright likeness that a turned view must have before it is refined


@dataclass(frozen=True)
class RegistrationSettings:
    """Every choice of the registration.

    Parameters
    ----------
    deformation
        ``"demons"`` (symmetric forces; Vercauteren et al. 2009) after the affine, ``"bspline"``
        (Rueckert et al. 1999), which also serves different contrasts, or ``"none"``.
    metric
        Of the affine and the B-spline. ``"auto"``: Mattes mutual information where the two
        modalities are known to differ, else correlation.
    voxels
        Registration runs on a grid of at most so many voxels (pixels: four times fewer); labels
        are moved at full resolution.
    affine_steps, demons_steps
        Optimiser steps of the affine at each of its two levels, and of the demons.
    smoothing
        Standard deviation of the smoothing of the displacement field in each step of the demons, in voxels.
    knots
        Distance of the B-spline's control points, in voxels.
    mirrored
        Whether a mirrored reference is tried too, so that a mirrored scan is noticed.
    turned
        Whether turned and scaled views of the reference are tried too, for scans that lie otherwise in their image; one
        is taken only where it looks clearly more like the target, and still does once both are deformed.
    """

    deformation: Deformation = "demons"
    metric: Metric = "auto"
    voxels: int = 250_000
    affine_steps: int = 60
    demons_steps: int = 30
    smoothing: float = 1.5
    knots: int = 12
    mirrored: bool = True
    turned: bool = True

    def __post_init__(self) -> None:
        if self.deformation not in get_args(Deformation):
            raise InputError(f"unknown deformation {self.deformation!r}: choose {', '.join(get_args(Deformation))}")
        if self.metric not in get_args(Metric):
            raise InputError(f"unknown metric {self.metric!r}: choose {', '.join(get_args(Metric))}")
        if min(self.voxels - 999, self.affine_steps, self.demons_steps + 1, self.knots) < 1 or self.smoothing <= 0:
            raise InputError("registration needs at least 1000 voxels, one affine step, and a positive smoothing")

    def __str__(self) -> str:
        deformed = {
            "demons": f" steps={self.demons_steps} smoothing={self.smoothing:g}",
            "bspline": f" knots={self.knots}",
        }
        return (
            f"affine steps={self.affine_steps} metric={self.metric} voxels={self.voxels} then {self.deformation}"
            + deformed.get(self.deformation, "")
        )


def register(target: Scan, reference: Scan, settings: RegistrationSettings | None = None) -> Alignment:
    """Find where each place of the target lies in the reference.

    A translation is searched for by normalised cross-correlation on coarse grids (so that a scan
    of another field of view finds its place), refined to an affine at two levels and to a dense
    displacement. Of the places where the search may start the best wins.

    Parameters
    ----------
    target, reference
        Two scans of the same body part, both volumes or both images.
    settings
        See `RegistrationSettings`.

    Returns
    -------
    Alignment

    Raises
    ------
    GeometryError
        If one is a volume and the other an image, or an axis has fewer than 4 voxels.
    InputError
        If a scan has one grey value everywhere.

    Examples
    --------
    >>> x, y = np.mgrid[:40, :40]
    >>> disc = lambda cx: Scan(np.exp(-((x - cx) ** 2 + (y - 20) ** 2) / 50.0), Grid((40, 40), np.eye(4)))
    >>> found = register(disc(17), disc(23))
    >>> found.similarity > 0.99
    True
    """
    import SimpleITK

    choice = settings or RegistrationSettings()
    frames = frame_pair(target.grid, reference.grid)
    differ = "unknown" not in (target.modality, reference.modality) and target.modality != reference.modality
    mutual = choice.metric == "mutual-information" or (choice.metric == "auto" and differ)
    budget = choice.voxels if target.grid.ndim == 3 else max(1000, choice.voxels // 4)
    fixed = _working(target, frames[0], budget)
    moving = _working(reference, frames[1], budget)
    # What is widely padded with one value has no say in where the other lies, nor in how much of it is covered.
    ours, theirs = fixed[_content(fixed)], moving[_content(moving)]
    starts = [_affine(ours, theirs, choice.affine_steps, mutual, (2,), upright_starts(ours, theirs, mutual))]
    if choice.turned:
        starts += _turned(ours, theirs, choice.affine_steps, mutual, starts[0])
    ends = [_finished((fixed, moving), (ours, theirs), choice, mutual, s) for s in starts]
    # A bent body looks like a turned one until it is bent back, and a turned one like an upright one once that is bent
    # enough: a turned view must look clearly better before and after, taken together.
    turned = len(ends) > 1 and _clearly(ours, theirs, (starts[0], ends[0]), (starts[1], ends[1]), mutual)
    start, transform = starts[turned], ends[turned]
    gain = None
    axis = _left_right(target.grid)
    if choice.mirrored and axis is not None:
        flipped = SimpleITK.Flip(theirs, [k == axis for k in range(target.grid.ndim)])
        flipped.SetOrigin(theirs.GetOrigin())
        flipped.SetDirection(theirs.GetDirection())
        other = _affine(ours, flipped, choice.affine_steps, mutual, (2,), upright_starts(ours, flipped, mutual))
        gain = _likeness(ours, flipped, other) - _likeness(ours, theirs, start)
    similarity, overlap = _similarity(fixed, moving, transform)
    return Alignment(
        *frames,
        similarity=similarity,
        overlap=overlap,
        mirrored_gain=gain,
        fixed=from_itk(fixed),
        moved=from_itk(_moved(fixed, moving, transform)),
        covered=_covered(fixed, moving, transform),
        working=tuple(float(s) for s in fixed.GetSpacing()),
        transform=transform,
    )


def _finished(
    whole: tuple[Any, Any], content: tuple[Any, Any], choice: RegistrationSettings, mutual: bool, start: Any
) -> Any:
    """The fine affine from a start, and the deformation after it unless that makes it worse."""
    fixed, moving = whole
    affine = _affine(*content, choice.affine_steps, mutual, (1,), [start])
    if choice.deformation == "demons" and choice.demons_steps and not mutual:
        bent = _demons(fixed, moving, affine, choice)
    elif choice.deformation == "bspline":
        bent = _bspline(fixed, moving, affine, choice, mutual)
    else:
        return affine
    similarity, plain = (_similarity(fixed, moving, t)[0] for t in (bent, affine))
    worse = abs(similarity) < abs(plain) if mutual else similarity < plain
    return affine if worse and abs(similarity - plain) > 1e-3 else bent


def _left_right(grid: Grid) -> int | None:
    """The canonical axis between the patient's sides (a picture's columns), if the image has one."""
    letters = canonical_grid(grid).orientation
    return letters.index("R") if "R" in letters else None


def _grey(scan: Scan) -> npt.NDArray[np.float32]:
    """Grey values from 0 to 1, canonical order: a soft-tissue window on CT, percentiles elsewhere."""
    array = canonical(scan.array, scan.grid)[0].astype(np.float32)
    if scan.modality == "CT" and scan.units == "HU":
        low, high = _CT_WINDOW
    else:
        low, high = (float(v) for v in np.percentile(array, (0.5, 99.5)))
    if not high > low or array.min() == array.max():
        name = f" {scan.identifier}" if scan.identifier else ""
        raise InputError(f"the scan{name} has one grey value nearly everywhere: there is nothing to register")
    grey: npt.NDArray[np.float32] = np.clip((array - low) / (high - low), 0, 1)
    return grey


def _working(scan: Scan, frame: Frame, budget: int) -> Any:
    """The scan's grey values on the grid of the registration: about isotropic, never finer than the scan."""
    import SimpleITK

    if min(frame.shape) < 4:
        raise GeometryError(f"a scan of {frame.grid!r} is too thin to register: 4 voxels an axis are the least")
    image = frame.image(_grey(scan))
    extent = [n * s for n, s in zip(frame.shape, frame.spacing, strict=True)]
    step = (float(np.prod(extent)) / budget) ** (1 / len(extent))
    steps = [max(step, s) for s in frame.spacing]
    if all(new < 1.1 * old for new, old in zip(steps, frame.spacing, strict=True)):
        return image
    size = [max(4, round(e / s)) for e, s in zip(extent, steps, strict=True)]
    steps = [e / n for e, n in zip(extent, size, strict=True)]
    sigma = [0.5 * s if s > 1.1 * o else 1e-3 * o for s, o in zip(steps, frame.spacing, strict=True)]
    smooth = SimpleITK.SmoothingRecursiveGaussian(image, sigma)
    resampler = one_thread(SimpleITK.ResampleImageFilter())
    resampler.SetSize(size)
    resampler.SetOutputSpacing(steps)
    resampler.SetOutputOrigin(first_centre(steps, frame.spacing))
    resampler.SetInterpolator(SimpleITK.sitkLinear)
    # The outermost coarse centres lie within half a voxel of the scan's own, or inside.
    return SimpleITK.Cast(resampler.Execute(smooth), SimpleITK.sitkFloat32)


def _content(image: Any) -> tuple[slice, ...]:
    """The box without the border's layers of the lowest grey value, where they make up much of an axis; else all."""
    there = from_itk(image) > _PADDING
    everything = (slice(None),) * there.ndim
    box = bounding_box(there)
    if box is None:
        return everything
    thick = [s.stop - s.start >= _THINNEST for s in box]
    cut = tuple(s if enough else slice(None) for s, enough in zip(box, thick, strict=True))
    widely = [s.stop - s.start < _MOSTLY_FILLED * n for s, n in zip(box, there.shape, strict=True)]
    return cut if any(a and b for a, b in zip(thick, widely, strict=True)) else everything


def _turned(fixed: Any, moving: Any, steps: int, mutual: bool, upright: Any) -> list[Any]:
    """The affine of a turned or scaled view, where one looks clearly more like the target than the upright one."""
    begun = _likeness(fixed, moving, upright, mutual)
    least = begun + _TURNED_MARGIN
    promising = [(_fit(fixed, moving, start, mutual), start) for start in turned_starts(fixed, moving, mutual)]
    promising = sorted((one for one in promising if one[0] > _PROMISING * begun), key=lambda one: -one[0])
    step = max(n * s for n, s in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)) / _CONTRAST_CELLS
    # Grey values would pull a turned view back to where dark corners meet: it is refined on local contrast.
    ours, theirs = (local_contrast(image, step) for image in (fixed, moving))
    best: list[Any] = []
    for _, start in promising[:_REFINED]:
        if _score(ours, theirs, start, mutual) <= 0:
            continue
        for other in (start, _affine(ours, theirs, steps, mutual, (2,), [start])):
            found = _fit(fixed, moving, other, mutual)
            if found > least:
                best, least = [other], found
    return best


def _clearly(fixed: Any, moving: Any, upright: tuple[Any, Any], turned: tuple[Any, Any], mutual: bool) -> bool:
    """Whether a turned view looks clearly more like the target than the upright one; both as affine and as its end.

    Likeness before and after the deformation, on average: what bending alone brings counts half.
    """
    least, found = (sum(_likeness(fixed, moving, t, mutual) for t in ends) / 2 for ends in (upright, turned))
    return found * coverage(fixed, moving, turned[0]) > least + _TURNED_MARGIN


def _fit(fixed: Any, moving: Any, turned: Any, mutual: bool) -> float:
    """Likeness of a turned view, where what it could cover and does not counts as unlike.

    Among many views some look much like a small part of the target. An upright scan may well show another part of the
    body: what it leaves uncovered is not held against it.
    """
    return _likeness(fixed, moving, turned, mutual) * coverage(fixed, moving, turned)


def _affine(
    fixed: Any, moving: Any, steps: int, mutual: bool, shrink: tuple[int, ...], candidates: Sequence[Any]
) -> Any:
    import SimpleITK

    method = one_thread(SimpleITK.ImageRegistrationMethod())
    if mutual:
        method.SetMetricAsMattesMutualInformation(32)
    else:
        method.SetMetricAsCorrelation()
    pixels = fixed.GetNumberOfPixels() / shrink[0] ** fixed.GetDimension()
    if pixels > 2 * _SAMPLES:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(_SAMPLES / pixels, _SEED)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=max(fixed.GetSpacing()), minStep=1e-3, numberOfIterations=steps, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(list(shrink))
    method.SetSmoothingSigmasPerLevel([float(s) for s in shrink])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    begun, begin = max(((_score(fixed, moving, c, mutual), c) for c in candidates), key=lambda pair: pair[0])
    if begun <= 0:
        raise GeometryError("the scan and the reference cannot be brought to overlap: are they of the same body part?")
    affine = SimpleITK.AffineTransform(begin)
    method.SetInitialTransform(affine, True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # the optimiser left the image
        return begin
    # Correlation alone likes a small overlap; an affine that runs away to one is not taken.
    return affine if _score(fixed, moving, affine, mutual) >= begun else begin


def _score(fixed: Any, moving: Any, transform: Any, mutual: bool) -> float:
    """Similarity, less where the images overlap by less than half of what their sizes allow."""
    similarity, overlap = _similarity(fixed, moving, transform)
    similarity = abs(similarity) if mutual else similarity  # contrasts may be inverted
    sizes = [np.prod([n * s for n, s in zip(i.GetSize(), i.GetSpacing(), strict=True)]) for i in (fixed, moving)]
    possible = min(1.0, float(sizes[1] / sizes[0]))
    return float(max(similarity, 0.02 * (overlap > 0)) * min(1.0, overlap / (_LEAST_OVERLAP * possible)))


def _likeness(fixed: Any, moving: Any, transform: Any, mutual: bool = False) -> float:
    """Mean local correlation where the target has structure: every place counts by its own contrast."""
    from scipy import ndimage

    inside = _covered(fixed, moving, transform)
    image = from_itk(fixed)
    variance = ndimage.gaussian_filter(image * image, 2.0) - ndimage.gaussian_filter(image, 2.0) ** 2
    contrast = np.sqrt(np.maximum(variance, 0))
    weights = np.where(inside, contrast, 0)
    if weights.sum() == 0:
        return 0.0
    local = local_correlation(image, from_itk(_moved(fixed, moving, transform)))
    mean = float(np.average(local, weights=weights))
    return abs(mean) if mutual else mean  # contrasts may be inverted


def _demons(fixed: Any, moving: Any, affine: Any, settings: RegistrationSettings) -> Any:
    import SimpleITK

    warped = _moved(fixed, moving, affine)
    warped = SimpleITK.HistogramMatching(warped, fixed, 64, 8)
    # Outside the reference nothing may pull: there the target is compared with itself.
    inside = itk_image(_covered(fixed, moving, affine).astype(np.float32), fixed.GetSpacing())
    inside.SetOrigin(fixed.GetOrigin())
    warped = warped * inside + fixed * (1 - inside)
    demons = one_thread(SimpleITK.FastSymmetricForcesDemonsRegistrationFilter())
    demons.SetNumberOfIterations(settings.demons_steps)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(settings.smoothing)
    field = SimpleITK.Cast(demons.Execute(fixed, warped), SimpleITK.sitkVectorFloat64)
    return SimpleITK.CompositeTransform([affine, SimpleITK.DisplacementFieldTransform(field)])


def _bspline(fixed: Any, moving: Any, affine: Any, settings: RegistrationSettings, mutual: bool) -> Any:
    import SimpleITK

    mesh = [max(1, round(n / settings.knots)) for n in fixed.GetSize()]
    spline = SimpleITK.BSplineTransformInitializer(fixed, mesh, 3)
    method = one_thread(SimpleITK.ImageRegistrationMethod())
    if mutual:
        method.SetMetricAsMattesMutualInformation(32)
    else:
        method.SetMetricAsCorrelation()
    if fixed.GetNumberOfPixels() > 2 * _SAMPLES:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(_SAMPLES / fixed.GetNumberOfPixels(), _SEED)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetMovingInitialTransform(affine)
    method.SetInitialTransform(spline, True)
    method.SetOptimizerAsGradientDescentLineSearch(1.0, 15, 1e-4, 5)
    method.SetOptimizerScalesFromPhysicalShift()
    method.Execute(fixed, moving)
    return SimpleITK.CompositeTransform([affine, spline])


def _moved(fixed: Any, moving: Any, transform: Any) -> Any:
    import SimpleITK

    resampler = one_thread(SimpleITK.ResampleImageFilter())
    resampler.SetReferenceImage(fixed)
    resampler.SetTransform(transform)
    resampler.SetInterpolator(SimpleITK.sitkLinear)
    return resampler.Execute(moving)


def _covered(fixed: Any, moving: Any, transform: Any) -> npt.NDArray[np.bool_]:
    whole = moving * 0 + 1
    return np.asarray(from_itk(_moved(fixed, whole, transform)) > 0.5)


def _similarity(fixed: Any, moving: Any, transform: Any) -> tuple[float, float]:
    """Correlation over the voxels both have, and the share of the target that is covered."""
    inside = _covered(fixed, moving, transform)
    share = float(inside.mean())
    if share == 0:
        return 0.0, 0.0
    a, b = from_itk(fixed)[inside], from_itk(_moved(fixed, moving, transform))[inside]
    if a.std() == 0 or b.std() == 0:
        return 0.0, share
    return float(np.corrcoef(a, b)[0, 1]), share
