"""Where a registration may start: centres, masses, translations by cross-correlation, and turned or enlarged views.

An affine found by gradient keeps to the hill it starts on, so the hills are searched for first, on grids of
a few cells.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.models.alignment import from_itk, one_thread

__all__ = ["coverage", "local_contrast", "turned_starts", "upright_starts"]

Matrix = npt.NDArray[np.float64]

_COARSE = 24  # cells along the longest axis when a translation is searched for
_TURNED_COARSE = {2: 32, 3: 16}
_LEAST_OVERLAP = 0.5
_ANGLES = {2: (-150, -120, -90, -60, -30, 30, 60, 90, 120, 150, 180), 3: (-75, -50, -25, 25, 50, 75)}
_SCALES = tuple(2.0 ** (k / 3) for k in (-3, -2, -1, 1, 2, 3))
_KEPT = 8
_RESIZED = 1.15  # ratio of sizes from which one image may be the other enlarged
_LATTICE = 13  # places along each axis on which coverage is counted
_FLAT = 0.03  # deviation of grey values from 0 to 1 below which there is no contrast


def upright_starts(fixed: Any, moving: Any, mutual: bool) -> list[Any]:
    """Centres on centres, masses on masses, and the best translation; nothing turned.

    Parameters
    ----------
    fixed, moving
        SimpleITK images of target and reference.
    mutual
        Whether contrasts may be inverted.
    """
    import SimpleITK

    ndim = fixed.GetDimension()
    kinds = (
        SimpleITK.CenteredTransformInitializerFilter.GEOMETRY,
        SimpleITK.CenteredTransformInitializerFilter.MOMENTS,
    )
    blank = SimpleITK.AffineTransform(ndim)
    found = [SimpleITK.AffineTransform(SimpleITK.CenteredTransformInitializer(fixed, moving, blank, k)) for k in kinds]
    shift = _searched(fixed, moving, mutual)
    if shift is not None:
        searched = SimpleITK.AffineTransform(ndim)
        searched.SetCenter([float(v) for v in _middle(fixed)])
        searched.SetTranslation(shift)
        found.append(searched)
    return found


def turned_starts(fixed: Any, moving: Any, mutual: bool) -> list[Any]:
    """The likeliest of many turned and scaled views of the reference, each at its best translation, best first.

    Turned in steps of 25° up to 75° about each axis (pictures: 30° all round), or scaled from 0.5 to 2. Each view
    is laid over the target everywhere by masked cross-correlation on 16 cells along the longest axis (pictures: 32).
    Correlated are not grey values but local contrast: the black corners of a turned image correlate with anything
    that is darker at its edges. Before them, where sizes differ, the whole reference laid over the whole target.

    Cost: 24 correlations (pictures: 17) of about 10 ms.

    References
    ----------
    Padfield, Masked object registration in the Fourier domain, IEEE TIP 2012.
    """
    import SimpleITK

    ndim = fixed.GetDimension()
    longest = max(n * s for image in (fixed, moving) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True))
    step = longest / _TURNED_COARSE[ndim]
    target, other = _coarse(local_contrast(fixed, step), step, 0), local_contrast(moving, step)
    whole = moving * 0 + 1
    middle, centre = _middle(fixed), _middle(moving)
    found = []
    for view in (*_turns(ndim), *(np.eye(ndim) / s for s in _SCALES)):
        peak, shift = _laid_over(target, (other, whole), view, step, mutual)
        start = SimpleITK.AffineTransform(ndim)
        start.SetMatrix(view.ravel().tolist())
        start.SetCenter(middle.tolist())
        # The view at x + shift is the reference at view (x + shift - centre) + centre.
        start.SetTranslation((view @ (middle + shift - centre) + centre - middle).tolist())
        found.append((peak, start))
    order = sorted(range(len(found)), key=lambda k: (-found[k][0], k))
    return [*_filled(fixed, moving), *(found[k][1] for k in order[:_KEPT])]


def _filled(fixed: Any, moving: Any) -> list[Any]:
    """The whole reference on the whole target, where they are clearly not of one size: a scan may be all enlarged."""
    import SimpleITK

    sizes = [np.array(image.GetSize()) * image.GetSpacing() for image in (fixed, moving)]
    ratio = float(np.exp(np.mean(np.log(sizes[1] / sizes[0]))))
    if abs(np.log(ratio)) < np.log(_RESIZED):
        return []
    start = SimpleITK.AffineTransform(fixed.GetDimension())
    start.SetMatrix((ratio * np.eye(fixed.GetDimension())).ravel().tolist())
    start.SetCenter(_middle(fixed).tolist())
    start.SetTranslation((_middle(moving) - _middle(fixed)).tolist())
    return [start]


def local_contrast(image: Any, step: float) -> Any:
    """Grey values less their local mean, over their local deviation, both of about ``2 * step`` around.

    A plain correlation of two such images is a local correlation of what they were made of.
    """
    import SimpleITK

    blurred = SimpleITK.SmoothingRecursiveGaussian(image, step / 2)
    less = blurred - SimpleITK.SmoothingRecursiveGaussian(blurred, 2 * step)
    variance = SimpleITK.Abs(SimpleITK.SmoothingRecursiveGaussian(less * less, 2 * step))
    return less / SimpleITK.Sqrt(variance + _FLAT**2)


def coverage(fixed: Any, moving: Any, affine: Any) -> float:
    """Share of the target that a view of the reference covers, of what it would cover if it were laid centre on centre.

    1 for a view in its place, however small or turned it is; less for one of which much lies beside the target.

    Parameters
    ----------
    fixed, moving
        SimpleITK images of target and reference.
    affine
        SimpleITK affine from target to reference.
    """
    ndim = fixed.GetDimension()
    matrix = np.reshape(affine.GetMatrix(), (ndim, ndim))
    centre, shift, middle = np.array(affine.GetCenter()), np.array(affine.GetTranslation()), _middle(fixed)
    line = (np.arange(_LATTICE) + 0.5) / _LATTICE - 0.5
    offsets = np.stack(
        np.meshgrid(*(line * n * s for n, s in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True))), -1
    )
    half = np.array(moving.GetSize()) * moving.GetSpacing() / 2
    laid = matrix @ (middle - centre) + centre + shift - _middle(moving)  # where the target's middle falls, from ours
    there, centred = (np.mean((np.abs(offsets @ matrix.T + at) <= half).all(axis=-1)) for at in (laid, 0.0 * laid))
    return min(1.0, float(there / centred))


def _turns(ndim: int) -> Iterator[Matrix]:
    """Matrices from target to reference directions: a turn about one axis."""
    for (a, b), angle in itertools.product(itertools.combinations(range(ndim), 2), _ANGLES[ndim]):
        turn = np.eye(ndim)
        c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        turn[[a, a, b, b], [a, b, a, b]] = c, -s, s, c
        yield turn


def _laid_over(
    target: Any, reference: tuple[Any, Any], view: Matrix, step: float, mutual: bool
) -> tuple[float, npt.NDArray[np.float64]]:
    """The largest correlation of one view of the reference with the target, and the shift that gives it."""
    import SimpleITK

    contrast, whole = reference
    centre = _middle(contrast)
    wide = np.abs(np.linalg.inv(view)) @ (np.array(contrast.GetSize()) * contrast.GetSpacing())
    size = [max(3, int(n)) for n in np.ceil(wide / step)]
    origin = centre - step * (np.array(size) - 1) / 2
    turn = SimpleITK.AffineTransform(len(size))
    turn.SetMatrix(view.ravel().tolist())
    turn.SetCenter(centre.tolist())
    seen = from_itk(_resampled(contrast, turn, size, step, origin))
    there = from_itk(_resampled(whole, turn, size, step, origin)) > 0.5
    values = _masked_correlation(from_itk(target), seen, there)
    values = np.abs(values) if mutual else values
    peak = np.unravel_index(int(values.argmax()), values.shape)
    # Shifts beyond the target's end are negative ones, wrapped around.
    lag = [int(p) if p < n else int(p) - all_ for p, n, all_ in zip(peak, target.GetSize(), values.shape, strict=True)]
    return float(values[peak]), origin - np.array(target.GetOrigin()) - step * np.array(lag)


def _masked_correlation(
    target: npt.NDArray[np.float32], seen: npt.NDArray[np.float32], there: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Correlation over the cells both have, for every shift; −1 where they share less than half of what they could."""
    from scipy import fft

    shape = [fft.next_fast_len(a + b - 1, real=True) for a, b in zip(target.shape, seen.shape, strict=True)]
    ours = [fft.rfftn(v, shape) for v in (np.ones(target.shape), target.astype(np.float64), target.astype(float) ** 2)]
    masked = np.where(there, seen, 0).astype(np.float64)
    theirs = [np.conj(fft.rfftn(v, shape)) for v in (there.astype(np.float64), masked, masked**2)]
    pairs = ((0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2))
    count, a, b, ab, aa, bb = (fft.irfftn(ours[i] * theirs[j], shape) for i, j in pairs)
    enough = count > _LEAST_OVERLAP * count.max()
    count = np.maximum(count, 1)
    spread = np.maximum(aa - a * a / count, 0) * np.maximum(bb - b * b / count, 0)
    values = (ab - a * b / count) / np.sqrt(np.maximum(spread, 1e-9 * spread.max()))
    return np.where(enough, values, -1.0)


def _searched(fixed: Any, moving: Any, mutual: bool) -> list[float] | None:
    """The translation (reference minus target) of the largest normalised cross-correlation."""
    import SimpleITK

    longest = max(n * s for image in (fixed, moving) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True))
    step = longest / _COARSE
    coarse = [_coarse(image, step) for image in (fixed, moving)]
    first = [m - f for m, f in zip(coarse[1].GetOrigin(), coarse[0].GetOrigin(), strict=True)]
    for image in coarse:
        image.SetOrigin([0.0] * image.GetDimension())  # the filter wants them to agree
    maps = SimpleITK.FFTNormalizedCorrelation(*coarse, requiredFractionOfOverlappingPixels=_LEAST_OVERLAP)
    values = np.abs(from_itk(maps)) if mutual else from_itk(maps)
    if not np.isfinite(values).all() or values.max() <= 0:
        return None
    peak = np.unravel_index(int(values.argmax()), values.shape)
    # At index size(moving) - 1 both first voxels lie on each other.
    lag = [int(p) - (n - 1) for p, n in zip(peak, coarse[1].GetSize(), strict=True)]
    return [float(o - step * k) for o, k in zip(first, lag, strict=True)]


def _coarse(image: Any, step: float, blur: float = 0.5) -> Any:
    """An image smoothed and on cells of one size."""
    import SimpleITK

    size = [max(3, round(n * s / step)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    origin = [o + (step - s) / 2 for o, s in zip(image.GetOrigin(), image.GetSpacing(), strict=True)]
    blank = SimpleITK.Transform(image.GetDimension(), SimpleITK.sitkIdentity)
    smooth = SimpleITK.SmoothingRecursiveGaussian(image, blur * step) if blur else image
    return _resampled(smooth, blank, size, step, np.array(origin))


def _resampled(image: Any, transform: Any, size: list[int], step: float, origin: npt.NDArray[np.float64]) -> Any:
    import SimpleITK

    resampler = one_thread(SimpleITK.ResampleImageFilter())
    resampler.SetSize(size)
    resampler.SetOutputSpacing([step] * image.GetDimension())
    resampler.SetOutputOrigin([float(o) for o in origin])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(SimpleITK.sitkLinear)
    return resampler.Execute(image)


def _middle(image: Any) -> npt.NDArray[np.float64]:
    return np.array(image.TransformContinuousIndexToPhysicalPoint([n / 2 for n in image.GetSize()]))
