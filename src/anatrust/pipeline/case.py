"""One scan with everything that belongs to it, on one grid; and what identifies its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anatrust.anatomy.organs import is_organ_name, label_names, label_tables
from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image import read
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical_grid
from anatrust.image.volumes import LabelMap, ProbabilityMap, Scan
from anatrust.pipeline.finding import Finding
from anatrust.pipeline.verdict import Kind

__all__ = ["Case", "check_seed", "content_hash", "label_map_on", "label_table", "mask_kind", "read_case"]

_LARGEST_NAMES = 2**20
_DETACHED = (".raw", ".raw.gz", ".zraw", ".img", ".img.gz", ".gz")

Names = str | Path | Mapping[int, str] | None


@dataclass(frozen=True, eq=False)
class Case:
    """A scan, the mask to judge, and what came with them, all on the scan's grid."""

    scan: Scan
    labels: LabelMap
    probabilities: ProbabilityMap | None = None
    anatomy: LabelMap | None = None
    remarks: tuple[Finding, ...] = ()
    """What had to be done to bring them there, for the input gate to say."""


def read_case(
    scan: object,
    mask: object,
    *,
    probabilities: object | None = None,
    anatomy: object | None = None,
    modality: str | None = None,
    spacing: float | Sequence[float] | None = None,
    series: int | str | None = None,
    names: Names = None,
    anatomy_names: Names = None,
) -> Case:
    """Read everything that belongs to one scan and bring it to the scan's grid.

    Parameters
    ----------
    scan, mask, probabilities, anatomy
        Paths or objects, see `read_scan`, `read_mask` and `read_probabilities`.
    modality, spacing, series
        Handed to `read_scan`.
    names, anatomy_names
        Names of the labels in mask and anatomy, see `label_table`.

    Raises
    ------
    InputError
        If anything cannot be read or does not lie in the scan's space.
    """
    image = read.read_scan(scan, modality=modality, spacing=spacing, series=series)
    labels, remarks = label_map_on(mask, image.grid, "mask")
    organs = None
    if anatomy is not None:
        organs, more = label_map_on(anatomy, image.grid, "anatomy")
        organs, remarks = _named(organs, anatomy_names), remarks + more
    channels = None if probabilities is None else read.read_probabilities(probabilities, reference=image.grid)
    return Case(image, _named(labels, names), channels, organs, remarks)


def label_map_on(source: object, grid: Grid, role: str) -> tuple[LabelMap, tuple[Finding, ...]]:
    """Read a label map onto the scan's grid, and remark where its own voxels were others.

    Parameters
    ----------
    source
        Path or object, see `read_mask`.
    grid
        Of the scan.
    role
        What it is to the scan, for the remark: "mask", "anatomy".

    Raises
    ------
    InputError
        If it cannot be read or does not lie in the scan's space.
    """
    if not isinstance(source, str | Path):
        return read.read_mask(source, reference=grid), ()
    stored = read.read_mask(source)
    try:
        labels = read.read_mask(stored, reference=grid)
    except GeometryError as error:
        raise GeometryError(f"{source}: {error}") from None
    if not grid.spacing_known or canonical_grid(stored.grid).same_as(canonical_grid(grid)):
        return labels, ()
    remark = Finding(
        "info",
        f"{role}-resampled",
        f"The {role} lies on another grid ({stored.grid!r}) and was brought to the scan's by nearest neighbour.",
        "Sizes are those on the scan's grid; give the scan that it was drawn on if there is one.",
    )
    return labels, (remark,)


def label_table(names: Names) -> dict[int, str]:
    """Label names from a built-in table's name, a JSON file ``{"1": "liver"}``, or a mapping.

    nnU-Net's ``dataset.json`` (``{"labels": {"background": 0, "liver": 1}}``) is understood too.

    Raises
    ------
    InputError
        If it is neither, or its labels are not whole numbers.

    Examples
    --------
    >>> label_table("amos")[6], label_table({3: "kidney"})
    ('liver', {3: 'kidney'})
    """
    if names is None:
        return {}
    if isinstance(names, Mapping):
        try:
            return {int(number): str(name) for number, name in names.items()}
        except (TypeError, ValueError):
            raise InputError(f"names of labels go by their numbers, such as {{1: 'liver'}}, not {names}") from None
    if not isinstance(names, str | Path):
        raise InputError(f"names of labels are a table's name, a JSON file or {{1: 'liver'}}, not {names!r}")
    if str(names) in label_tables():
        return label_names(str(names))
    path = Path(names)
    if not path.is_file():
        raise InputError(f"there is no label table {str(names)!r}: give {', '.join(label_tables())} or a JSON file")
    if path.stat().st_size > _LARGEST_NAMES:
        raise FormatError(f"{path.name} is too large for a table of label names")
    try:
        plain = json.loads(path.read_text(encoding="utf-8-sig"))
        plain = plain.get("labels", plain)
        pairs = [(k, v) if str(k).strip().isdigit() else (v, k) for k, v in plain.items()]
        return {int(number): str(name) for number, name in pairs if int(number) != 0}
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, TypeError, ValueError, RecursionError):
        raise FormatError(f'{path.name} is no table of label names: write JSON like {{"1": "liver"}}') from None


def check_seed(seed: object) -> None:
    """See that a seed can seed.

    Raises
    ------
    InputError
        If it is no whole number from 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"the seed is {seed!r}: give a whole number from 0")


def mask_kind(labels: LabelMap) -> Kind:
    """What a mask shows by its label names: ``"organ"`` if all of them are organs, else ``"lesion"``.

    A map without names is taken for lesions, the stricter judgement.
    """
    present = labels.labels()
    known = [labels.names[number] for number in present if number in labels.names]
    return "organ" if known and len(known) == len(present) and all(map(is_organ_name, known)) else "lesion"


def content_hash(source: str | Path | Scan | LabelMap | ProbabilityMap) -> str:
    """SHA-256 of what a source holds: a file, a folder's files, or an image's voxels and affine.

    A header with a detached data file (``.mhd``, ``.nhdr``, ``.hdr``) is hashed with it.

    Raises
    ------
    InputError
        If there is no such file.
    """
    digest = hashlib.sha256()
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.exists():
            raise InputError(f"there is no file {path}: correct the path")
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path, *_detached(path)]:
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
        return digest.hexdigest()
    digest.update(f"{source.array.dtype.str} {source.array.shape}".encode())
    digest.update(np.ascontiguousarray(source.array).tobytes())
    digest.update(np.ascontiguousarray(source.grid.affine).tobytes())
    return digest.hexdigest()


def _detached(path: Path) -> list[Path]:
    if path.suffix.lower() not in (".mhd", ".nhdr", ".hdr"):
        return []
    return sorted(p for s in _DETACHED if (p := path.with_suffix(s)).is_file())


def _named(labels: LabelMap, names: Names) -> LabelMap:
    table = label_table(names)
    return LabelMap(labels.array, labels.grid, {**labels.names, **table}) if table else labels
