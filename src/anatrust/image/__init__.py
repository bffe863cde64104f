"""Images on grids: the types, and reading, writing and resampling them."""

from anatrust.image.adapter import Adapter, FileHead, RawImage, Request
from anatrust.image.atomic import replacing
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical, canonical_grid, restore
from anatrust.image.read import read_mask, read_probabilities, read_scan, register_adapter
from anatrust.image.resample import (
    align_to,
    resample_labels,
    resample_mask,
    resample_probabilities,
    resample_scan,
)
from anatrust.image.volumes import LabelMap, Mask, Modality, ProbabilityMap, Scan
from anatrust.image.write import write_mask, write_probabilities, write_scan

__all__ = [
    "Adapter",
    "FileHead",
    "Grid",
    "LabelMap",
    "Mask",
    "Modality",
    "ProbabilityMap",
    "RawImage",
    "Request",
    "Scan",
    "align_to",
    "canonical",
    "canonical_grid",
    "read_mask",
    "read_probabilities",
    "read_scan",
    "register_adapter",
    "replacing",
    "resample_labels",
    "resample_mask",
    "resample_probabilities",
    "resample_scan",
    "restore",
    "write_mask",
    "write_probabilities",
    "write_scan",
]
