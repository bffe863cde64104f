"""A reference bank as one file, and made from a cohort: checked, bounded, without pickle and without names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Modality, Scan
from anatrust.models.annotation import Reference
from anatrust.pipeline.archive import read_archive, write_archive
from anatrust.pipeline.case import Names, label_table
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.progress import Progress
from anatrust.pipeline.read_references import read_reference
from anatrust.reference.bank import BankEntry, ReferenceBank, slices_of
from anatrust.reference.descriptor import Described, ScanDescriptor

__all__ = ["bank_of_cohort", "load_bank", "save_bank"]

SCHEMA_VERSION = 1
_DOCUMENT = "bank.json"
_GROUPS = ("images", "labels", "whole", "patches")
_WANTED = "a bank written by 'anatrust bank'"
_MOST = 1000


def save_bank(path: str | Path, bank: ReferenceBank) -> None:
    """Write a bank, whole or not at all.

    Images keep their values (whole numbers up to 32 bit, floats as float32), labels theirs.

    Raises
    ------
    InputError
        If it has more than 1000 references.
    """
    if len(bank.entries) > _MOST:
        raise InputError(f"the bank has {len(bank.entries)} references: a file holds {_MOST}, so take fewer slices")
    arrays: dict[str, dict[str, npt.NDArray[Any]]] = {group: {} for group in _GROUPS}
    listed = []
    for number, entry in enumerate(bank.entries):
        scan, labels, key = entry.reference.scan, entry.reference.labels, f"{number:04d}"
        arrays["images"][key] = _storable(scan.array)
        arrays["labels"][key] = _storable(labels.array)
        arrays["whole"][key], arrays["patches"][key] = entry.described.whole, entry.described.patches
        listed.append(
            {
                "identifier": entry.reference.identifier,
                "patient": entry.patient,
                "modality": scan.modality,
                "units": scan.units,
                "affine": scan.grid.affine.tolist(),
                "spacing_known": scan.grid.spacing_known,
                "layout": scan.grid.layout,
                "names": {str(n): name for n, name in labels.names.items()},
            }
        )
    document = {
        "schema_version": SCHEMA_VERSION,
        "descriptor": bank.descriptor,
        "threshold": bank.threshold,
        "calibrated": bank.calibrated,
        "quantile": bank.quantile,
        "entries": listed,
    }
    write_archive(path, _DOCUMENT, document, arrays)


def load_bank(path: str | Path) -> ReferenceBank:
    """Read what `save_bank` wrote, every byte checked first.

    Raises
    ------
    InputError
        If there is no such file.
    FormatError
        If it is no bank, was changed, or is of a newer schema.
    """
    document, arrays = read_archive(path, _DOCUMENT, wanted=_WANTED)
    name = Path(path).name
    if document.get("schema_version") != SCHEMA_VERSION:
        raise FormatError(
            f"{name} has the schema {document.get('schema_version')}: this version reads {SCHEMA_VERSION}"
        )
    try:
        entries = tuple(_entry(plain, f"{k:04d}", arrays) for k, plain in enumerate(document["entries"]))
        return ReferenceBank(
            entries,
            str(document["descriptor"]),
            float(document["threshold"]),
            bool(document["calibrated"]),
            float(document["quantile"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{name} is no whole bank ({error}): write it again with 'anatrust bank'") from None


def bank_of_cohort(
    cohort: str | Path,
    *,
    names: Names = None,
    modality: str | None = None,
    slices: int | None = None,
    quantile: float = 0.05,
    descriptor: ScanDescriptor | None = None,
    progress: Progress | None = None,
) -> ReferenceBank:
    """Build a bank from a cohort table.

    Parameters
    ----------
    cohort
        Table with the columns ``id, image`` and the labels in ``truth`` (or ``anatomy``, or
        ``mask``); also ``patient``.
    names, modality
        As for `annotate`.
    slices
        Instead of each volume its labelled axial slices, every so many; None keeps volumes.
    quantile, descriptor
        As for `ReferenceBank.build`.
    progress
        Told ``(stage, done, total)``.

    Raises
    ------
    InputError
        If a row has no labels or cannot be read.
    """
    table = label_table(names)
    rows = Cohort.read(cohort)
    references: list[Reference] = []
    owners: list[str] = []
    for done, row in enumerate(rows):
        if progress:
            progress("read", done, len(rows))
        drawn = row.truth or row.anatomy or row.mask
        if drawn is None:
            raise InputError(f"line {row.number} of {rows.source} names no labels: fill in the column truth")
        # Names of files may be names of people: a bank travels, so its entries are numbered.
        one = read_reference(row.image, drawn, table, modality, identifier=f"reference {done + 1}")
        made = list(slices_of(one, every=slices)) if slices and one.scan.grid.ndim == 3 else [one]
        references += made
        owners += [row.patient] * len(made)
    if progress:
        progress("describe", 0, 1)
    return ReferenceBank.build(references, owners, descriptor=descriptor, quantile=quantile)


def _storable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype == np.uint8:
        return array
    info = np.iinfo(np.int32)
    if array.size and (int(array.min()) < info.min or int(array.max()) > info.max):
        raise InputError(f"values of {array.dtype} beyond 32 bit cannot be kept in a bank: convert them first")
    return array.astype(np.int32)


def _entry(plain: Mapping[str, Any], key: str, arrays: Mapping[str, Mapping[str, npt.NDArray[Any]]]) -> BankEntry:
    image = arrays["images"][key]
    layout = cast(Literal["plain", "slice", "raster"], str(plain["layout"]))
    grid = Grid(image.shape, np.array(plain["affine"]), bool(plain["spacing_known"]), layout)
    modality = cast(Modality, str(plain["modality"]))
    identifier = str(plain["identifier"])
    scan = Scan(image, grid, modality, str(plain["units"]), identifier)
    labels = LabelMap(arrays["labels"][key], grid, {int(n): str(v) for n, v in plain["names"].items()})
    described = Described(arrays["whole"][key], arrays["patches"][key])
    return BankEntry(Reference(scan, labels, identifier), int(plain["patient"]), described)
