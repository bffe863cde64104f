"""Stationary random textures with a known correlation, for phantoms and for simulations of the nulls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.fft

from anatrust.errors import InputError

__all__ = ["TextureKind", "texture_field"]

TextureKind = Literal["gaussian", "exponential", "mixture", "ct"]


def texture_field(
    shape: tuple[int, ...],
    correlation_length: float,
    rng: np.random.Generator,
    *,
    kind: TextureKind = "gaussian",
    spacing: Sequence[float] | None = None,
    white_share: float = 0.3,
) -> npt.NDArray[np.float64]:
    """A stationary Gaussian random field with mean 0 and variance 1.

    Parameters
    ----------
    shape
        Shape of the field, 2-D or 3-D.
    correlation_length
        Distance at which the correlation has fallen to 1/e, in the unit of ``spacing``
        (voxels without it). For ``"ct"`` the correlation oscillates; there it is the
        inverse of the wavenumber at which the noise power is highest.
    rng
        Source of randomness.
    kind
        ``"gaussian"``: correlation ``exp(-(h/l)**2)``, very smooth.
        ``"exponential"``: correlation ``exp(-h/l)``, rough (Matérn 1/2).
        ``"mixture"``: white noise with variance ``white_share`` plus a Gaussian field.
        ``"ct"``: power spectrum of filtered back-projection, a ramp times a soft cut-off
        in the first two axes; along a third axis slices correlate only by a mild overlap.
    spacing
        Voxel edge lengths; anisotropic voxels give an anisotropic correlation in voxels.
    white_share
        Share of the variance that is white, for ``"mixture"``.

    Returns
    -------
    field : float64 array of ``shape``
        Scaled by its theoretical, not its empirical, standard deviation, so that fields of
        different size have the same law at each voxel.

    Raises
    ------
    InputError
        If the correlation length is not positive or the kind is unknown.

    Notes
    -----
    One FFT on a grid padded by four correlation lengths, so that opposite borders do not
    correlate. The ramp spectrum is that of Riederer, Pelc & Chesler (Phys Med Biol 1978).

    Examples
    --------
    >>> import numpy as np
    >>> field = texture_field((200, 200), 4.0, np.random.default_rng(0))
    >>> bool(abs(np.mean(field[4:] * field[:-4]) - np.exp(-1)) < 0.1)
    True
    """
    if not correlation_length > 0:
        raise InputError(f"correlation_length must be above 0, not {correlation_length}: give it in voxels or mm")
    steps = tuple(float(s) for s in spacing) if spacing is not None else (1.0,) * len(shape)
    if len(steps) != len(shape):
        raise InputError(f"spacing has {len(steps)} values but the field has {len(shape)} axes: give one per axis")
    if kind == "mixture":
        smooth = texture_field(shape, correlation_length, rng, spacing=steps)
        return np.asarray(np.sqrt(1 - white_share) * smooth + np.sqrt(white_share) * rng.standard_normal(shape))
    pad = [int(np.ceil(4 * correlation_length / s)) for s in steps]
    padded = tuple(scipy.fft.next_fast_len(n + p, real=True) for n, p in zip(shape, pad, strict=True))
    amplitude = np.sqrt(_power(padded, steps, correlation_length, kind))
    amplitude /= np.sqrt(_mean_power(amplitude**2, padded))
    spectrum = scipy.fft.rfftn(rng.standard_normal(padded), workers=1)
    field = scipy.fft.irfftn(spectrum * amplitude, s=padded, workers=1)
    return np.ascontiguousarray(field[tuple(slice(0, n) for n in shape)])


def _power(
    padded: tuple[int, ...], steps: tuple[float, ...], length: float, kind: TextureKind
) -> npt.NDArray[np.float64]:
    """Power spectrum on the half-plane of ``rfftn``; its scale does not matter."""
    axes = [2 * np.pi * scipy.fft.fftfreq(n, d) for n, d in zip(padded[:-1], steps[:-1], strict=True)]
    axes.append(2 * np.pi * scipy.fft.rfftfreq(padded[-1], steps[-1]))
    squares = np.meshgrid(*[a**2 for a in axes], indexing="ij", sparse=True)
    if kind == "gaussian":
        return np.asarray(np.exp(-sum(squares) * length**2 / 4), dtype=np.float64)
    if kind == "exponential":
        # The transform of exp(-h/l) in d dimensions (Matérn with smoothness 1/2).
        return np.asarray((1 + sum(squares) * length**2) ** (-(len(padded) + 1) / 2), dtype=np.float64)
    if kind == "ct":
        plane = np.sqrt(squares[0] + squares[1])
        power = plane * np.exp(-((plane * length) ** 2) / 2)
        if len(padded) == 3:
            power = power * np.exp(-squares[2] * steps[2] ** 2 / 8)
        return np.asarray(power, dtype=np.float64)
    raise InputError(f"unknown texture kind '{kind}': choose gaussian, exponential, mixture or ct")


def _mean_power(power: npt.NDArray[np.float64], padded: tuple[int, ...]) -> float:
    """Mean of the power over the full plane, from its half."""
    weights = np.full(power.shape[-1], 2.0)
    weights[0] = 1.0
    if padded[-1] % 2 == 0:
        weights[-1] = 1.0
    return float((power * weights).sum() / np.prod(padded))
