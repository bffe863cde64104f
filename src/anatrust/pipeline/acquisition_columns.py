"""How a scan was made, as columns of a cohort table: from its DICOM header or the JSON sidecar beside it.

Nothing about the patient is read: no names, no dates, no identifiers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anatrust.ood.acquisition import contrast_group, kernel_group, manufacturer_group

__all__ = ["ACQUISITION", "dicom_columns", "sidecar_columns"]

ACQUISITION = ("modality", "manufacturer", "model", "kernel", "kernel_name", "contrast", "thickness", "kvp")
"""Columns; ``manufacturer``, ``kernel`` and ``contrast`` harmonised as in `anatrust.ood.acquisition`, mm, kV."""

_KEYWORDS = (
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "ConvolutionKernel",
    "ContrastBolusAgent",
    "SliceThickness",
    "KVP",
)
_NOTHING = frozenset({"", "none", "unknown", "na", "n/a"})
_SIDECAR = {"ManufacturersModelName": "ManufacturerModelName"}  # dcm2niix and BIDS


def dicom_columns(file: Path) -> dict[str, str]:
    """Columns of one DICOM file's header; those it does not say are left out. Pixels are not read."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        header = dcmread(file, stop_before_pixels=True, specific_tags=list(_KEYWORDS))
    except (InvalidDicomError, OSError, ValueError, EOFError):
        return {}
    return _columns({name: header.get(name) for name in _KEYWORDS})


def sidecar_columns(image: Path) -> dict[str, str]:
    """Columns of the JSON file that lies beside an image under its name, as BIDS and dcm2niix write it; else none."""
    name = image.name
    for ending in (".nii.gz", ".nii", ".nrrd", ".mha"):
        if name.endswith(ending):
            file = image.with_name(name.removesuffix(ending) + ".json")
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return {}
            if not isinstance(found, dict):
                return {}
            return _columns({_SIDECAR.get(str(key), str(key)): value for key, value in found.items()})
    return {}


def _columns(tags: Mapping[str, Any]) -> dict[str, str]:
    def text(name: str) -> str:
        value = tags.get(name)
        if value is None or isinstance(value, Mapping):
            return ""
        parts = [value] if isinstance(value, str | int | float) else list(value) if _many(value) else [value]
        return " ".join(str(part).strip() for part in parts if str(part).strip().lower() not in _NOTHING)

    def number(name: str) -> str:
        try:
            return f"{float(text(name)):g}"
        except ValueError:
            return ""

    maker = text("Manufacturer")
    agent = text("ContrastBolusAgent")
    found = {
        "modality": text("Modality"),
        "manufacturer": manufacturer_group(maker),
        "model": text("ManufacturerModelName"),
        "kernel": kernel_group(text("ConvolutionKernel"), maker),
        "kernel_name": text("ConvolutionKernel"),
        # An absent or empty agent is no proof that none was given: then nothing is said.
        "contrast": contrast_group(agent) if agent else "",
        "thickness": number("SliceThickness"),
        "kvp": number("KVP"),
    }
    return {name: value for name, value in found.items() if value}


def _many(value: Any) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str | bytes)
