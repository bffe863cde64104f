"""Write masks and scans on their own grid, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.itk import write_itk
from anatrust.image.nifti_write import write_nifti
from anatrust.image.raster import write_png
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan

__all__ = ["write_mask", "write_probabilities", "write_scan"]


def write_mask(path: str | os.PathLike[str], mask: Mask | LabelMap) -> None:
    """Write a mask or label map on its grid.

    Parameters
    ----------
    path
        ``.nii``, ``.nii.gz``, ``.nrrd``, ``.mha`` or, for pictures, ``.png``. Replaced only when all is written.
    mask
        Labels are stored in the smallest unsigned type. A yes/no mask is 0 and 1, in PNG 0 and
        255 so that it can be seen; :func:`~anatrust.image.read.read_mask` gives back 0 and 1.

    Raises
    ------
    InputError
        If the format is unknown, cannot hold the grid, or the folder cannot be written to.
    """
    array = mask.array
    if isinstance(mask, Mask):
        array = array.astype(np.uint8)
    high = int(array.max())
    array = array.astype(np.min_scalar_type(high), copy=False)
    if Path(path).suffix.lower() == ".png":
        if high <= 1:
            array = array * np.uint8(255)
        elif high == 255 and ((array == 0) | (array == 255)).all():
            array = array.astype(np.uint16)  # 8-bit 0 and 255 would be read as yes and no
    _write(path, array, mask.grid)


def write_scan(path: str | os.PathLike[str], scan: Scan) -> None:
    """Write a scan on its grid, in its dtype.

    Parameters
    ----------
    path
        As for :func:`write_mask`. PNG takes uint8 and uint16 pictures only.
    scan
        The scan. Modality and units are not stored by these formats.

    Raises
    ------
    InputError
        As for :func:`write_mask`.
    """
    _write(path, scan.array, scan.grid)


def write_probabilities(path: str | os.PathLike[str], probabilities: ProbabilityMap) -> None:
    """Write probabilities on their grid as NIfTI: 3-D for one channel, else 4-D, channels last.

    Raises
    ------
    InputError
        If the name is not ``.nii`` or ``.nii.gz``, or the folder cannot be written to.
    """
    if not Path(path).name.lower().endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: probabilities are written as NIfTI: use .nii.gz")
    array = probabilities.array
    write_nifti(path, array[0] if len(array) == 1 else np.moveaxis(array, 0, -1), probabilities.grid)


def _write(path: str | os.PathLike[str], array: npt.NDArray[Any], grid: Grid) -> None:
    name = Path(path).name.lower()
    if name.endswith((".nii", ".nii.gz")):
        write_nifti(path, array, grid)
    elif name.endswith(".png"):
        write_png(path, array, grid)
    elif name.endswith((".nrrd", ".mha")):
        write_itk(path, array, grid)
    else:
        raise InputError(f"{path}: unknown format to write: use .nii.gz, .nii, .nrrd, .mha or .png")
