"""Labelled scans read from files or objects, as references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from anatrust.errors import AnatrustError, InputError
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap
from anatrust.models.annotation import Reference
from anatrust.pipeline.case import Names, label_table

__all__ = ["listed", "read_reference", "read_references"]


def read_references(
    scans: object, labels: object, *, names: Names = None, modality: str | None = None
) -> tuple[Reference, ...]:
    """Read labelled references.

    Parameters
    ----------
    scans, labels
        One of each (path or object), or lists of equal length.
    names, modality
        As for `annotate`.

    Raises
    ------
    InputError
        If their numbers differ, none is given, or one cannot be read.
    """
    images, maps = listed(scans), listed(labels)
    if not images or len(images) != len(maps):
        raise InputError(f"references: {len(images)}, label maps: {len(maps)}; give one label map for each reference")
    table = label_table(names)
    found = []
    for number, (scan, drawn) in enumerate(zip(images, maps, strict=True), start=1):
        try:
            found.append(read_reference(scan, drawn, table, modality, fallback=f"reference {number}"))
        except AnatrustError as error:
            raise type(error)(f"reference {number}: {error}") from None
    return tuple(found)


def read_reference(
    source: object,
    drawn: object,
    table: Mapping[int, str],
    modality: str | None,
    *,
    identifier: str = "",
    fallback: str = "",
) -> Reference:
    """One labelled scan; ``modality`` holds where the scan does not say its own.

    ``identifier`` replaces the scan's own name, ``fallback`` stands in where it has none.
    """
    own = read_scan(source)
    image = read_scan(source, modality=modality) if own.modality == "unknown" and modality else own
    if identifier:
        image = replace(image, identifier=identifier)
    given = read_mask(drawn, reference=image.grid)
    if len(np.unique(given.array)) > 2 and np.array_equal(given.array, image.array):
        raise InputError("its labels are the scan itself: give the label map, a whole number for each structure")
    named = LabelMap(given.array, given.grid, {**given.names, **table})
    return Reference(image, named, image.identifier or fallback)


def listed(value: object) -> list[object]:
    """A list as it is, anything else as a list of one, None as an empty one."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
