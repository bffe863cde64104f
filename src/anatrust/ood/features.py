"""Features of crops: an intensity histogram, pooled local descriptors, or whatever an extractor gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import Scan
from anatrust.models.descriptors import LocalDescriptors
from anatrust.ood.crops import Crops

__all__ = [
    "DescriptorFeatures",
    "FeatureExtractor",
    "HistogramFeatures",
    "Levels",
    "ScanFeatures",
    "describe",
]

Levels = tuple[tuple[str, int], ...]
"""Names and widths of consecutive groups of feature columns, for instance the stages of an encoder."""


@runtime_checkable
class FeatureExtractor(Protocol):
    """Turns crops into one row of numbers each; torch encoders are in :mod:`anatrust.models.stage_features`."""

    @property
    def identity(self) -> str:
        """Exact description: equal strings give equal features."""

    @property
    def levels(self) -> Levels:
        """Names and widths of the groups of columns, in order."""

    def extract(self, images: npt.NDArray[np.float32], spacing: tuple[float, ...]) -> npt.NDArray[np.float32]:
        """Features ``(n, d)`` of crops ``(n, *size)`` whose voxels have this spacing (mm)."""


@dataclass(frozen=True, eq=False)
class ScanFeatures:
    """Features of one scan's crops.

    Parameters
    ----------
    identifier
        Of the scan.
    values
        ``(crops, d)``, finite; stored as float32.
    levels
        Names and widths of the groups of columns.
    identity
        How crops and features were made; detectors refuse features of another making.

    Raises
    ------
    InputError
        If there is no row, the widths do not add up, or a value is not finite.
    """

    identifier: str
    values: npt.NDArray[np.float32]
    levels: Levels
    identity: str

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float32)
        if values.ndim != 2 or not values.size:
            raise InputError(f"features of {self.identifier} have shape {values.shape}, not (crops, features)")
        levels = tuple((str(name), int(width)) for name, width in self.levels)
        if sum(width for _, width in levels) != values.shape[1] or min(width for _, width in levels) < 1:
            raise InputError(f"features of {self.identifier}: {values.shape[1]} columns do not fit the levels {levels}")
        if not np.isfinite(values).all():
            raise InputError(f"features of {self.identifier} hold NaN or infinity: look at the scan's grey values")
        values.setflags(write=False)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "levels", levels)

    def first(self, n: int) -> ScanFeatures:
        """Features of the first n crops (all of them if fewer)."""
        if n < 1:
            raise InputError(f"at least one crop is kept, not {n}")
        return replace(self, values=self.values[:n])

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Plain arrays for a file: ``values`` and a JSON ``header`` as bytes."""
        header = {"schema": 1, "identifier": self.identifier, "levels": list(self.levels), "identity": self.identity}
        return {
            "values": self.values,
            "header": np.frombuffer(json.dumps(header, sort_keys=True).encode(), dtype=np.uint8),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> ScanFeatures:
        """The features :meth:`to_arrays` wrote.

        Raises
        ------
        FormatError
            If an array is missing, foreign or damaged.
        """
        try:
            header = json.loads(arrays["header"].tobytes())
            if header["schema"] != 1:
                raise FormatError(f"features of schema {header['schema']} are newer than this version: extract again")
            levels = tuple((name, width) for name, width in header["levels"])
            return cls(header["identifier"], arrays["values"], levels, header["identity"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"these are no stored features ({str(error).splitlines()[0]}): extract again") from None


def describe(crops: Crops, extractor: FeatureExtractor) -> ScanFeatures:
    """Features of a scan's crops, with the identity of their making.

    Parameters
    ----------
    crops
        Of one scan.
    extractor
        What describes them.

    Raises
    ------
    InputError
        If the features are not finite.

    Examples
    --------
    >>> from anatrust.image.volumes import Mask
    >>> from anatrust.ood.crops import anchored_crops
    >>> grid = Grid((40, 40), np.eye(4))
    >>> scan = Scan(np.arange(1600.0).reshape(40, 40), grid, identifier="a")
    >>> crops = anchored_crops(scan, Mask(scan.array > 900, grid))
    >>> describe(crops, HistogramFeatures(bins=4)).values.shape
    (8, 4)
    """
    values = extractor.extract(crops.images, crops.grids[0].spacing)
    drawn = json.dumps(crops.settings.to_json(), sort_keys=True)
    return ScanFeatures(crops.identifier, values, extractor.levels, f"{extractor.identity} of crops {drawn}")


@dataclass(frozen=True)
class HistogramFeatures:
    """Share of a crop's voxels in each of ``bins`` equal steps of [0, 1].

    The cheap baseline that often wins (Vasiliuk et al., J. Imaging 9:191, 2023). Values beyond
    the window count at its ends. Cost: one pass.

    Examples
    --------
    >>> HistogramFeatures(bins=2).extract(np.array([[[0.1, 0.2, 0.9, 1.5]]], np.float32), (1.0, 1.0))
    array([[0.5, 0.5]], dtype=float32)
    """

    bins: int = 64

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise InputError(f"a histogram has at least 2 bins, not {self.bins}")

    @property
    def identity(self) -> str:
        """Name, revision and settings."""
        return f"histogram/1 bins={self.bins}"

    @property
    def levels(self) -> Levels:
        """One level."""
        return (("histogram", self.bins),)

    def extract(self, images: npt.NDArray[np.float32], spacing: tuple[float, ...]) -> npt.NDArray[np.float32]:
        """Shares ``(n, bins)``; the spacing does not matter."""
        del spacing
        rows = images.reshape(len(images), -1)
        steps = np.clip(np.floor(rows * np.float32(self.bins)), 0, self.bins - 1).astype(np.intp)
        counts = [np.bincount(row, minlength=self.bins) for row in steps]
        return np.asarray(np.array(counts) / rows.shape[1], dtype=np.float32)


@dataclass(frozen=True)
class DescriptorFeatures:
    """Mean and deviation over a crop of each local descriptor: no weights, no torch.

    Levels are the descriptors (intensity, local mean, … LoG at each scale), two columns each.
    Cost: about 1 s of one core a crop of 128³.
    """

    encoder: LocalDescriptors = field(default_factory=LocalDescriptors)

    @property
    def identity(self) -> str:
        """Name, revision and settings."""
        return f"pooled/1 {self.encoder.identity}"

    @property
    def levels(self) -> Levels:
        """Two columns a descriptor."""
        return tuple((name, 2) for name in self.encoder.names)

    def extract(self, images: npt.NDArray[np.float32], spacing: tuple[float, ...]) -> npt.NDArray[np.float32]:
        """``(n, 2 · descriptors)``: mean and deviation in turn. Memory: the descriptors of one crop."""
        grid = Grid(images.shape[1:], np.diag([*[*spacing, 1.0][:3], 1.0]))
        rows = []
        for image in images:
            maps = self.encoder.encode(Scan(image, grid)).reshape(image.size, -1).astype(np.float64)
            rows.append(np.stack([maps.mean(axis=0), maps.std(axis=0)], axis=1).ravel())
        return np.array(rows, dtype=np.float32)
