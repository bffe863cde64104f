"""From a folder in one of the field's layouts to a cohort table.

Layouts, the first that fits: nnU-Net raw (``imagesTr/CASE_0000``), Medical Segmentation Decathlon
(``imagesTr/CASE``), BIDS (``sub-…``), TotalSegmentator's data set (``s0001/ct.nii.gz``), plain folders
(``images/``, ``labels/``), folders of DICOM series. How a scan was made (:mod:`anatrust.pipeline.acquisition_columns`)
becomes columns where its DICOM header or a BIDS sidecar says so.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from anatrust.errors import InputError
from anatrust.image.adapter import written_name
from anatrust.image.atomic import replacing
from anatrust.pipeline.acquisition_columns import ACQUISITION, dicom_columns, sidecar_columns

__all__ = ["LAYOUTS", "Manifest", "ManifestRow", "find_rows", "write_manifest"]

_SEPARATOR = re.compile(r"[-_. ]")
_COLUMNS = ("id", "patient", "group", "image", "mask", "probabilities", "truth")
_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl", ".png", ".tif", ".tiff", ".jpg", ".npz")
_IMAGES, _TRUTHS = ("images", "image", "scans", "img"), ("labels", "label", "truth", "masks", "segmentations", "gt")
_NO_IMAGES = frozenset({"SEG", "SR", "RWV", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "FID", "KO", "PR", "AU", "DOC"})
_TRUTH_SUFFIX = re.compile(r"_(dseg|seg|mask|label|labels|lesion|roi)$", re.IGNORECASE)


@dataclass(frozen=True)
class ManifestRow:
    """One scan that was found; files are None where there are none."""

    id: str
    image: Path
    patient: str = ""
    group: str = ""
    truth: Path | None = None
    mask: Path | None = None
    probabilities: Path | None = None
    acquisition: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What a folder holds: its layout, the scans, and what to know about them."""

    layout: str
    rows: tuple[ManifestRow, ...]
    notes: tuple[str, ...] = field(default=())


def _stem(path: Path) -> str:
    for ending in _ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.name


def _files(folder: Path) -> dict[str, Path]:
    """Images of a folder by stem; hidden files (``._x`` of archives) are none."""
    if not folder.is_dir():
        return {}
    found = (p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith("."))
    return {_stem(p): p for p in found if p.name.lower().endswith(_ENDINGS)}


def _nnunet(folder: Path, _: str | None) -> Manifest | None:
    rows, channels = [], 0
    for part in ("Tr", "Ts"):
        images, labels = _files(folder / f"images{part}"), _files(folder / f"labels{part}")
        cases = {stem[:-5]: path for stem, path in images.items() if stem.endswith("_0000")}
        channels += sum(bool(re.search(r"_000[1-9]$", stem)) for stem in images)
        rows += [ManifestRow(case, path, truth=labels.get(case)) for case, path in cases.items()]
    if not rows:
        return None
    more = (f"{channels} files of further channels were left out: the first channel is the image",) if channels else ()
    return Manifest("nnU-Net raw", tuple(rows), more)


def _decathlon(folder: Path, _: str | None) -> Manifest | None:
    rows = []
    for part in ("Tr", "Ts"):
        labels = _files(folder / f"labels{part}")
        images = _files(folder / f"images{part}")
        rows += [ManifestRow(case, path, truth=labels.get(case)) for case, path in images.items()]
    return Manifest("Medical Segmentation Decathlon", tuple(rows)) if rows else None


def _bids(folder: Path, _: str | None) -> Manifest | None:
    subjects = sorted(p for p in folder.glob("sub-*") if p.is_dir())
    if not subjects:
        return None
    groups = _participants(folder / "participants.tsv")
    labels = [p for p in sorted((folder / "derivatives").rglob("sub-*")) if p.is_file() and p.name.endswith(_ENDINGS)]
    rows = []
    for subject in subjects:
        for path in sorted(subject.rglob("sub-*")):
            if not path.name.endswith((".nii.gz", ".nii")) or _TRUTH_SUFFIX.search(_stem(path)):
                continue
            stem = _stem(path)
            # A label file repeats the entities of its image: sub-01_ses-a_…_dseg.
            entities = stem.rpartition("_")[0] + "_"
            truths = [p for p in labels if p.name.startswith(entities) and _TRUTH_SUFFIX.search(_stem(p))]
            truth = next(iter(truths), None)
            rows.append(ManifestRow(stem, path, subject.name, groups.get(subject.name, ""), truth))
    return Manifest("BIDS", tuple(rows)) if rows else None


def _participants(file: Path) -> dict[str, str]:
    """Group of each subject, where ``participants.tsv`` has such a column."""
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8-sig", newline="") as handle:
        table = list(csv.DictReader(handle, delimiter="\t"))
    return {row["participant_id"]: row.get("group") or "" for row in table if row.get("participant_id")}


def _totalsegmentator(folder: Path, structure: str | None) -> Manifest | None:
    rows, known = [], set()
    for case in sorted(p for p in folder.iterdir() if p.is_dir()):
        image = next((case / f"{name}.nii.gz" for name in ("ct", "mri") if (case / f"{name}.nii.gz").is_file()), None)
        if image is None:
            continue
        labels = _files(case / "segmentations")
        known |= set(labels)
        rows.append(ManifestRow(case.name, image, truth=None if structure is None else labels.get(structure)))
    if not rows:
        return None
    if structure is not None and structure not in known:
        raise InputError(f"{folder.name} has no structure {structure!r}: choose one of {', '.join(sorted(known)[:20])}")
    notes = () if structure else ("one file a structure: name the one that is the truth with --structure",)
    return Manifest("TotalSegmentator data set", tuple(rows), notes)


def _plain(folder: Path, _: str | None) -> Manifest | None:
    images = next((found for name in _IMAGES if (found := _files(folder / name))), {})
    if not images:
        return None
    labels = next((found for name in _TRUTHS if (found := _files(folder / name))), {})
    truths = {_TRUTH_SUFFIX.sub("", stem): path for stem, path in labels.items()} | labels
    rows = [ManifestRow(case, path, truth=truths.get(case)) for case, path in images.items()]
    return Manifest("plain folders", tuple(rows))


def _dicom(folder: Path, _: str | None) -> Manifest | None:
    from pydicom.misc import is_dicom

    rows, others = [], 0
    for series in sorted({p.parent for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")}):
        first = next(p for p in sorted(series.iterdir()) if p.is_file() and not p.name.startswith("."))
        if is_dicom(first):
            parts = series.relative_to(folder).parts
            # Folder names stand for patients: what the files say of them stays in the files.
            name = "-".join(parts) or folder.name
            made = dicom_columns(first)
            if made.get("modality") in _NO_IMAGES:
                others += 1
                continue
            rows.append(ManifestRow(name, series, parts[0] if parts else folder.name, acquisition=made))
    notes = (f"{others} series were left out: segmentations, reports and plans are no scans",) if others else ()
    return Manifest("DICOM folders", tuple(rows), notes) if rows else None


LAYOUTS: Mapping[str, Callable[[Path, str | None], Manifest | None]] = {
    "nnunet": _nnunet,
    "msd": _decathlon,
    "bids": _bids,
    "totalsegmentator": _totalsegmentator,
    "plain": _plain,
    "dicom": _dicom,
}
"""Layouts by name, in the order they are tried."""


def find_rows(
    folder: str | Path,
    *,
    layout: str | None = None,
    structure: str | None = None,
    masks: str | Path | None = None,
    probabilities: str | Path | None = None,
    patient: str | None = None,
    group: str | None = None,
) -> Manifest:
    """The scans of a folder, with what belongs to each.

    Parameters
    ----------
    folder
        In one of :data:`LAYOUTS`.
    layout
        Its name; None tries them in order.
    structure
        Which of TotalSegmentator's files is the truth.
    masks, probabilities
        Folders of a segmenter's output, with the cases' names (as nnU-Net writes them).
    patient
        Regular expression whose first group, searched in a scan's id, is the patient; the layout's own, or the
        id, where None.
    group
        Column of :data:`~anatrust.pipeline.acquisition_columns.ACQUISITION` that becomes the group (for
        ``fit --by-group`` and ``evaluate``); the layout's own where None.

    Raises
    ------
    InputError
        If nothing is found, a name is unknown, or the expression has no group.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as top:
    ...     for name in ("images", "labels"):
    ...         _ = (Path(top) / name).mkdir(), (Path(top) / name / "a.nii.gz").touch()
    ...     found = find_rows(top)
    >>> found.layout, found.rows[0].id, found.rows[0].truth.name
    ('plain folders', 'a', 'a.nii.gz')
    """
    top = Path(folder)
    if not top.is_dir():
        raise InputError(f"{folder} is no folder: give the top folder of a data set")
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"there is no layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    tried = [LAYOUTS[layout]] if layout else [*LAYOUTS.values()]
    found = next((made for one in tried if (made := one(top, structure)) is not None), None)
    if found is None:
        raise InputError(
            f"{top.name} holds no scans in a known layout ({layout or ', '.join(LAYOUTS)}): give the folder above "
            "imagesTr, sub-…, images or the DICOM series, or name it with --layout"
        )
    if group is not None and group not in ACQUISITION:
        raise InputError(f"there is no column {group!r} of how a scan was made: choose one of {', '.join(ACQUISITION)}")
    rows = [_with_patient(row, patient) for row in found.rows]
    rows = [row if row.acquisition else replace(row, acquisition=sidecar_columns(row.image)) for row in rows]
    if group is not None:
        rows = [replace(row, group=row.acquisition.get(group, "")) for row in rows]
    notes = [*found.notes]
    if patient is None and (beginning := _shared_beginning([row.id for row in rows if row.patient == row.id])):
        notes.append(
            f"every scan counts as a patient of its own, though several ids begin with {beginning!r}: where these are "
            "one person, say so with --patient, such as '^(.*)-IM-'"
        )
    unknown = sum(not row.group for row in rows) if group is not None else 0
    if unknown:
        notes.append(f"{unknown} of {len(rows)} scans do not say their {group}: their group is empty")
    for column, given in (("mask", masks), ("probabilities", probabilities)):
        if given is None:
            continue
        files = _files(Path(given))
        found_files = [files.get(row.id) for row in rows]
        rows = [
            replace(row, mask=file) if column == "mask" else replace(row, probabilities=file)
            for row, file in zip(rows, found_files, strict=True)
        ]
        absent = found_files.count(None)
        if absent == len(rows):
            raise InputError(f"{Path(given).name} holds no file named as a case ({rows[0].id}, …): give another folder")
        if absent:
            notes.append(f"{absent} of {len(rows)} cases have no file in the folder of {column}")
    return Manifest(found.layout, tuple(rows), tuple(notes))


def _with_patient(row: ManifestRow, pattern: str | None) -> ManifestRow:
    if pattern is None:
        return replace(row, patient=row.patient or row.id)
    try:
        match = re.search(pattern, row.id)
        name = match.group(1) if match else None
    except (re.error, IndexError):
        raise InputError(f"--patient {pattern!r} is no regular expression with a group, such as '^(.*)-IM-'") from None
    if not name:
        raise InputError(f"--patient {pattern!r} finds no patient in the id {row.id!r}: correct the expression")
    return replace(row, patient=name)


def _shared_beginning(ids: Sequence[str]) -> str:
    """What one group of ids begins with, where ids without their last numbers fall into a few groups; else nothing.

    Examples
    --------
    >>> _shared_beginning(["a-1-x3", "a-1-x4", "b-2-x1", "b-2-x9"]), _shared_beginning(["case_1", "case_2"])
    ('a-1', '')
    """
    for kept in range(max((len(_SEPARATOR.split(name)) for name in ids), default=0) - 1, 0, -1):
        ends = [[m.start() for m in _SEPARATOR.finditer(name)] for name in ids]
        groups = Counter(name[: at[kept - 1]] if len(at) >= kept else name for name, at in zip(ids, ends, strict=True))
        if 1 < len(groups) <= len(ids) / 2:
            return min(groups, key=lambda name: (-groups[name], name))
    return ""


def write_manifest(path: str | Path, manifest: Manifest) -> Path:
    """Write the cohort table, with paths relative to it, whole or not at all; columns nobody fills are left out.

    Raises
    ------
    InputError
        If its folder cannot be written to, or a name is not UTF-8 and so fits into no table.
    """
    target = Path(path)
    for row in manifest.rows:
        for file in (row.image, row.mask, row.probabilities, row.truth):
            if file is not None and written_name(file) != file.name:
                raise InputError(f"the name {written_name(file)} is not UTF-8, which a table needs: rename the file")
    base = target.parent.resolve()
    with replacing(target) as part, part.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        more = [name for name in ACQUISITION if any(name in row.acquisition for row in manifest.rows)]
        writer.writerow([*_COLUMNS, *more])
        for row in manifest.rows:
            own = [row.acquisition.get(name, "") for name in more]
            writer.writerow([row.id, row.patient, row.group, *_relative(row, base), *own])
    return target


def _relative(row: ManifestRow, base: Path) -> Iterator[str]:
    for file in (row.image, row.mask, row.probabilities, row.truth):
        yield "" if file is None else Path(os.path.relpath(file.resolve(), base)).as_posix()
