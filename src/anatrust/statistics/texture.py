"""The texture of a tissue: its normal scores, their autocorrelation, and random fields that share it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.special import ndtri

from anatrust.errors import InputError

__all__ = ["LongTexture", "TextureModel", "fit_texture", "normal_scores", "ranked"]

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# Beyond these normal scores a value tells of an object, not of the correlation of the texture.
_CLIP = 3.5
# Lags up to this share of the tissue's diameter are used; further ones are mostly noise.
_REACH = 0.35
# A correlation below this may wrap around the torus.
_CORRELATED = 0.15
# Parts of a smooth field with less than this share of the largest part's variance are left out.
_NEGLIGIBLE = 1e-6
# Quantiles of the normal distribution, of variance 1 together: one for each number of 16 bits.
_NORMAL = np.asarray(ndtri((np.arange(1 << 16) + 0.5) / (1 << 16)), dtype=np.float32)
_NORMAL /= np.sqrt(np.mean(_NORMAL**2, dtype=np.float64)).astype(np.float32)


def normal_scores(values: npt.NDArray[np.floating], reference: npt.NDArray[np.floating]) -> FloatArray:
    """Normal scores: Φ⁻¹ of the share of a reference that lies below each value (ties count half).

    Whatever the marginal distribution of a tissue, its normal scores are Gaussian: surrogates
    need not imitate the marginal, and a long tail does not swamp the means of places.

    Parameters
    ----------
    values
        ``(n,)``.
    reference
        ``(m,)`` values of the tissue, m ≥ 1. Values beyond all of them get ±Φ⁻¹(1 − 1/(2m)).

    Returns
    -------
    ndarray of float32
        ``(n,)``; O((n + m) log m).

    References
    ----------
    Blom, Statistical Estimates and Transformed Beta-Variables (1958); Liu, Lafferty &
    Wasserman, The Nonparanormal, JMLR 10 (2009) (Gaussian dependence behind any marginals).

    Examples
    --------
    >>> normal_scores(np.array([1.0, 2.0, 30.0]), np.array([1.0, 2.0, 30.0])).round(2).tolist()
    [-0.9700000286102295, 0.0, 0.9700000286102295]
    """
    ordered, order = np.sort(reference), np.argsort(values)
    # Neighbours are found near one another: several times as fast as in any order.
    ascending = values[order]
    below = np.searchsorted(ordered, ascending, side="left")
    rank = 0.5 * (below + np.searchsorted(ordered, ascending, side="right"))
    scores = np.empty(values.size, dtype=np.float32)
    scores[order] = ndtri(np.clip(rank, 0.5, ordered.size - 0.5) / ordered.size)
    return scores


def ranked(values: FloatArray, ladder: FloatArray) -> FloatArray:
    """The rung of an ascending ladder at each value's rank in its row ``(rows, n)``: by counting into grades, O(n).

    With the normal scores of 0, 1, ..., n − 1 as the ladder these are the normal scores of the
    values among themselves, many times as fast as by sorting; within one of the 8 192 grades ranks
    are taken to rise evenly.
    """
    return np.asarray(rungs(values, values.min(axis=1), values.max(axis=1), ladder))


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def rungs(values: FloatArray, lowest: FloatArray, highest: FloatArray, ladder: FloatArray) -> FloatArray:
    """`ranked`, given the smallest and the largest value of each row."""
    out = np.empty(values.shape, dtype=np.float32)
    grades = np.empty(values.shape[1], dtype=np.int32)
    for row in range(values.shape[0]):
        own, scores, low = values[row], out[row], lowest[row]
        scale = 8191.0 / max(float(highest[row]) - float(low), 1e-30)
        # Apart from the counting, so that many values can be graded at a time.
        for i in range(own.size):
            grades[i] = np.int32(float(own[i] - low) * scale)
        below = np.zeros(8193, dtype=np.int32)
        counted = below[1:]
        # Unsigned, so that no index is taken to count from the end.
        for i in range(own.size):
            counted[np.uint32(grades[i])] += 1
        for i in range(8192):
            counted[i] += below[i]
        for i in range(own.size):
            grade = np.uint32(grades[i])
            part = float(own[i] - low) * scale - grades[i]
            scores[i] = ladder[np.uint32(below[grade] + np.int32(part * (counted[grade] - below[grade])))]
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def shaped_noise(bits: npt.NDArray[np.uint16], normal: FloatArray, amplitude: FloatArray) -> npt.NDArray[np.complex64]:
    """Complex normal noise, two of 65 536 quantiles a number, times an amplitude."""
    noise = np.empty(amplitude.size, dtype=np.complex64)
    for i in range(amplitude.size):
        noise[i] = complex(normal[bits[2 * i]] * amplitude[i], normal[bits[2 * i + 1]] * amplitude[i])
    return noise


@dataclass(frozen=True, eq=False)
class TextureModel:
    """A stationary Gaussian field that correlates as the tissue does.

    Attributes
    ----------
    shape
        Shape of the grid it was fitted on.
    amplitude
        Square root of the power spectrum on a torus somewhat larger than the grid, float32.
    n_lengths
        Effective number of independent patches that the tissue holds: the variance of one voxel
        over the variance of the mean of the whole tissue.
    """

    shape: tuple[int, ...]
    amplitude: FloatArray
    n_lengths: float

    def pairs(self, rngs: Sequence[np.random.Generator], mask: BoolArray) -> FloatArray:
        """Two independent fields of variance 1 from each generator, where the mask ``(*shape,)`` is.

        Real and imaginary part of one inverse transform: O(N log N) for both. Each number of the
        noise is one of 65 536 quantiles of the normal distribution, drawn with 16 bits: four times as
        fast as normal numbers, and a voxel sums thousands of them.

        Returns
        -------
        ndarray of float32
            ``(2 · len(rngs), voxels)``, the voxels of the mask in C order.
        """
        inside = np.ravel_multi_index(np.nonzero(mask), self.amplitude.shape)
        fields = np.empty((2 * len(rngs), inside.size), dtype=np.float32)
        for number, rng in enumerate(rngs):
            # Two numbers a voxel, four of them from each 64 bits.
            bits = rng.bit_generator.random_raw(-(-self.amplitude.size // 2)).astype("<u8", copy=False).view("<u2")
            noise = shaped_noise(bits, _NORMAL, self.amplitude.reshape(-1)).reshape(self.amplitude.shape)
            both = scipy.fft.ifftn(noise, norm="ortho", overwrite_x=True).reshape(-1)[inside]
            fields[2 * number], fields[2 * number + 1] = both.real, both.imag
        return fields


class LongTexture:
    """A stationary Gaussian field of a long correlation: exp(−(h / length)²), the smoothest, or exp(−h / length).

    Parameters
    ----------
    shape
        Shape of the fields.
    spacing
        Voxel size along each axis.
    length
        Distance at which the correlation has fallen to 1/e, in the unit of the spacing.
    power
        2, or 1 for a rough field with correlations as long (its h is the sum of the distances along the axes).

    Notes
    -----
    This correlation is a product over the axes, so a field is a block of normal numbers
    multiplied by one factor an axis; long lengths need few of them. Exact but for shares of
    the variance below 1e-6 of the largest; no torus, so nothing wraps around.
    """

    def __init__(self, shape: Sequence[int], spacing: Sequence[float], length: float, power: int = 2) -> None:
        self.factors: list[FloatArray] = []
        for count, step in zip(shape, spacing, strict=True):
            where = np.arange(count) * float(step)
            values, vectors = np.linalg.eigh(np.exp(-(np.abs((where[:, None] - where) / length) ** power)))
            used = values > _NEGLIGIBLE * values.max()
            self.factors.append((vectors[:, used] * np.sqrt(values[used])).astype(np.float32))

    def pairs(self, rngs: Sequence[np.random.Generator], mask: BoolArray) -> FloatArray:
        """As `TextureModel.pairs`; O(voxels · factors of the longest axis) a field."""
        inside = np.flatnonzero(mask)
        return np.stack([self._field(rng).reshape(-1)[inside] for rng in rngs for _ in range(2)])

    def _field(self, rng: np.random.Generator) -> FloatArray:
        field: FloatArray = rng.standard_normal([f.shape[1] for f in self.factors], dtype=np.float32)
        for factor in self.factors:
            # Each product turns the axes on by one, so that after all of them they are in order again.
            field = np.tensordot(field, factor, axes=(0, 1))
        return field


def fit_texture(scores: FloatArray, tissue: BoolArray, *, spacing: Sequence[float]) -> TextureModel:
    """Fit the autocorrelation of a tissue.

    Parameters
    ----------
    scores
        ``(*shape,)`` normal scores of the tissue's values (see `normal_scores`).
    tissue
        ``(*shape,)`` bool, where the scores are valid; at least 2 voxels.
    spacing
        Voxel size along each axis.

    Returns
    -------
    TextureModel

    Raises
    ------
    InputError
        If shapes differ or the tissue has fewer than 2 voxels.

    Notes
    -----
    The covariance at each lag is averaged over all pairs of voxels within the tissue (by FFT
    of the tissue and of its mask), tapered by a Parzen window that ends at 0.35 of the
    diameter of a ball of the tissue's volume, and made positive by clipping its
    spectrum. The window shortens long correlations: then surrogates have more independent
    places than the tissue, and their maxima are larger: the safe side. O(N log N).

    References
    ----------
    Marcotte, Computers & Geosciences 22 (1996) (covariances by FFT with missing data);
    Dietrich & Newsam, SIAM J. Sci. Comput. 18 (1997) (fields by circulant embedding).
    """
    if scores.shape != tissue.shape or len(spacing) != tissue.ndim:
        raise InputError(f"scores {scores.shape}, tissue {tissue.shape} and spacing {spacing} do not fit")
    count = int(np.count_nonzero(tissue))
    if count < 2:
        raise InputError(f"a texture needs at least 2 voxels, not {count}")
    step = np.asarray(spacing, dtype=np.float64)
    mask = tissue.astype(np.float32)
    field = np.clip(scores, -_CLIP, _CLIP)
    field = np.where(tissue, field - field[tissue].mean(), np.float32(0.0))

    volume, ndim = count * float(np.prod(step)), tissue.ndim
    diameter = {1: volume, 2: math.sqrt(volume * 4 / math.pi), 3: (volume * 6 / math.pi) ** (1 / 3)}[ndim]
    reach = _REACH * diameter
    shape = np.array(tissue.shape)
    # With the reach around the box no pair of voxels within it is seen around the corner.
    roomy = tuple(scipy.fft.next_fast_len(int(n), real=True) for n in shape + np.ceil(reach / step).astype(int) + 1)
    products, pairs = _autocorrelation(field, roomy), _autocorrelation(mask, roomy)
    distance = _distances(roomy, step)
    near = (distance < reach) & (pairs > 0.5)
    covariance = np.where(near, products / np.maximum(pairs, 1.0) * _parzen(distance / reach), 0.0)
    covariance /= covariance.flat[0]
    mean_variance = float((np.where(near, pairs, 0.0) * covariance).sum()) / count**2

    # The torus on which fields are drawn needs only the lags that still correlate.
    correlated = float(distance[np.abs(covariance) > _CORRELATED].max())
    margin = np.ceil(np.minimum(correlated, reach) / step).astype(int) + 1
    torus = tuple(scipy.fft.next_fast_len(int(n)) for n in shape + margin)
    signed = [np.where(np.arange(n) <= n // 2, np.arange(n), np.arange(n) - n) for n in torus]
    take = np.ix_(*[lag % n for lag, n in zip(signed, roomy, strict=True)])
    spectrum = np.maximum(scipy.fft.fftn(covariance[take]).real, 0.0)
    amplitude = np.sqrt(spectrum / spectrum.mean()).astype(np.float32)
    return TextureModel(tissue.shape, amplitude, 1.0 / max(mean_variance, 1.0 / count))


def _distances(torus: tuple[int, ...], step: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Length of each lag of a torus."""
    squared = np.zeros(torus)
    for axis, (n, size) in enumerate(zip(torus, step, strict=True)):
        lag = np.minimum(np.arange(n), n - np.arange(n)) * size
        squared += (lag**2).reshape([-1 if a == axis else 1 for a in range(len(torus))])
    return np.sqrt(squared)


def _autocorrelation(field: FloatArray, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    transform = scipy.fft.rfftn(field.astype(np.float64), shape)
    return np.asarray(scipy.fft.irfftn(np.abs(transform) ** 2, shape))


def _parzen(t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    t = np.clip(t, 0.0, 1.0)
    return np.where(t < 0.5, 1.0 - 6.0 * t**2 * (1.0 - t), 2.0 * (1.0 - t) ** 3)
