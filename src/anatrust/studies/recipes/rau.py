"""The data sets of RAU (arXiv 2509.22404): RAOS and ARCADE; CAMUS is read by the recipes of RW-CP.

Rows become cohort tables for ``anatrust bank`` and ``anatrust train``; what label numbers mean is read from the data
set's own files, so that no table of ours can be wrong::

    rows = read_raos("RAOS-Real")
    write_cohort(rows, "raos.csv")
    Path("names.json").write_text(json.dumps(raos_names("RAOS-Real")))

LERA (lower extremity radiographs, Stanford AIMI) has no recipe: the masks of regions that RAU reports on are not in
its public release, and the layout of that could not be read anywhere. Lay your own masks beside its pictures and use
``anatrust manifest``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from anatrust.errors import FormatError, InputError
from anatrust.image.atomic import replacing
from anatrust.studies.recipes.rwcp import RecipeRow

__all__ = ["arcade_names", "draw_arcade", "raos_names", "read_arcade", "read_raos"]

_SPLITS = ("train", "val", "test")
_END = ".nii.gz"


def read_raos(folder: str | Path) -> tuple[RecipeRow, ...]:
    """All labelled CT of ``RAOS-Real``; the group of a row is its clinical set.

    Sets are ``CancerImages(Set1)`` (317 scans), one after partial excision (Set2, 22) and ``MissingOrgans(Set3)`` (74):
    a folder each, with ``imagesTr``, ``imagesVal``, ``imagesTs`` and ``labelsTr`` and so on. Labels are named
    ``UID.nii.gz``, images likewise or, in some parts, ``UID_0000.nii.gz``. Every scan is of another patient.

    Raises
    ------
    InputError
        If nothing is found, or the image of a label map is missing.

    References
    ----------
    Luo et al., Rethinking abdominal organ segmentation (RAOS) in the clinical scenario, MICCAI 2024;
    https://github.com/Luoxd1996/RAOS. The layout is not described there: it is taken from public code that reads it.
    """
    rows = []
    for group in sorted(p for p in Path(folder).glob("*(Set?)") if p.is_dir()):
        for labels in sorted(group.glob(f"labels*/*{_END}")):
            images = labels.parent.parent / labels.parent.name.replace("labels", "images", 1)
            if not images.is_dir():  # somebody's own labels beside the released ones
                continue
            stem = labels.name.removesuffix(_END)
            found = next((f for f in (images / labels.name, images / f"{stem}_0000{_END}") if f.is_file()), None)
            if found is None:
                raise InputError(f"{labels} has no image in {images.name}: unpack the data set as it was delivered")
            rows.append(RecipeRow(stem, stem, found, labels, group.name.rpartition("(")[2].rstrip(")")))
    if not rows:
        raise InputError(f"{folder} holds no set of RAOS: give the folder with CancerImages(Set1) and the other sets")
    return tuple(rows)


def raos_names(folder: str | Path) -> dict[int, str]:
    """What the label numbers mean, from a set's ``dataset.json`` (nnU-Net, either form).

    Raises
    ------
    InputError
        If no set has one.
    FormatError
        If it names no labels.
    """
    files = sorted(Path(folder).glob("*(Set?)/dataset.json"))
    if not files:
        raise InputError(f"{folder} has no dataset.json in any set: write the names of its labels yourself")
    told = _read(files[0]).get("labels")
    if not isinstance(told, dict) or not told:
        raise FormatError(f"{files[0]} names no labels")
    try:
        pairs = [(int(a), str(b)) if str(a).isdigit() else (int(b), str(a)) for a, b in told.items()]
    except (TypeError, ValueError):
        raise FormatError(f"{files[0]}: labels are numbers and names, not {told}") from None
    return {n: name for n, name in sorted(pairs) if n != 0}


def read_arcade(folder: str | Path) -> tuple[RecipeRow, ...]:
    """All angiograms of ``syntax``, in pictures of 512 × 512; the group of a row is its split.

    ``syntax/train/images/1.png`` and ``syntax/train/annotations/train.json`` (COCO), likewise ``val`` and ``test``. The
    masks are polygons: :func:`draw_arcade` makes label pictures of them first. Which angiograms are of one patient is
    not told, so intervals over patients are not possible with it.

    Raises
    ------
    InputError
        If nothing is found, or the label pictures were not drawn.

    References
    ----------
    Popov et al., ARCADE, Scientific Data 2024; https://zenodo.org/records/10390295 describes the layout.
    """
    rows = []
    for split, image, labels, _ in _angiograms(Path(folder)):
        if not labels.is_file():
            raise InputError(f"{labels} is missing: draw the label pictures with draw_arcade first")
        rows.append(RecipeRow(f"{split}-{image.stem}", f"{split}-{image.stem}", image, labels, split))
    return tuple(rows)


def draw_arcade(folder: str | Path) -> int:
    """Make label pictures of the polygons, in ``syntax/SPLIT/labels/``; returns how many. Pixels hold category ids.

    Where branches cross, the one annotated later lies on top.

    Raises
    ------
    InputError
        If nothing is found.
    FormatError
        If an annotation cannot be read.
    """
    from PIL import Image, ImageDraw

    count = 0
    for _, image, labels, polygons in _angiograms(Path(folder)):
        with Image.open(image) as shown:
            drawn = Image.new("L", shown.size)
        pen = ImageDraw.Draw(drawn)
        for category, corners in polygons:
            pen.polygon([(float(x), float(y)) for x, y in corners], fill=category)
        labels.parent.mkdir(exist_ok=True)
        with replacing(labels) as temporary:
            drawn.save(temporary, format="PNG")
        count += 1
    return count


def arcade_names(folder: str | Path) -> dict[int, str]:
    """SYNTAX names of the branches by category id, from the annotations.

    Raises
    ------
    InputError
        If nothing is found.
    """
    told = _read(_annotations(Path(folder))[0][1])
    return {int(c["id"]): str(c["name"]) for c in sorted(told["categories"], key=lambda c: int(c["id"]))}


def _annotations(folder: Path) -> list[tuple[str, Path]]:
    found = [(s, folder / "syntax" / s / "annotations" / f"{s}.json") for s in _SPLITS]
    found = [(split, file) for split, file in found if file.is_file()]
    if not found:
        raise InputError(f"{folder} holds no syntax/train/annotations/train.json: give the unpacked folder of ARCADE")
    return found


def _angiograms(folder: Path) -> Iterator[tuple[str, Path, Path, list[tuple[int, Any]]]]:
    """Split, picture, label picture, and ``(category, corners)`` of each polygon in order."""
    for split, file in _annotations(folder):
        told = _read(file)
        try:
            polygons: dict[int, list[tuple[int, Any]]] = {int(i["id"]): [] for i in told["images"]}
            for one in told["annotations"]:
                for flat in one["segmentation"]:
                    polygons[int(one["image_id"])].append(
                        (int(one["category_id"]), np.reshape(np.array(flat, dtype=float), (-1, 2)))
                    )
            for image in told["images"]:
                name = Path(str(image["file_name"])).name
                place = file.parent.parent
                if not (place / "images" / name).is_file():
                    raise InputError(f"{place / 'images' / name} is missing: unpack the data set as it was delivered")
                yield split, place / "images" / name, place / "labels" / name, polygons[int(image["id"])]
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{file} is not annotated as COCO is ({type(error).__name__}: {error})") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{file} cannot be read: {error}") from None
    return told
