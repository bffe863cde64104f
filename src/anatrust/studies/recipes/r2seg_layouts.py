"""The folder layouts of R²Seg's data sets: which files hold a patient's image, organ and tumour.

What label numbers mean is fixed by the publisher (Decathlon, AMOS22, Prostate158) or said by the folder itself
(nnU-Net's ``dataset.json``, by name).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anatrust.anatomy.organs import is_lesion_name, normal_name
from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.read import read_mask

__all__ = ["CaseFiles", "Drawn", "Layout", "read_layout"]

Layout = Literal["msd", "amos", "prostate158", "nnunet"]
_END = ".nii.gz"


@dataclass(frozen=True)
class Drawn:
    """A label map and which of its numbers are meant; no file: nothing was drawn."""

    file: Path | None
    numbers: tuple[int, ...] = ()

    def mask(self, grid: Grid) -> npt.NDArray[np.bool_]:
        """Where it is, on the scan's grid."""
        if self.file is None or not self.numbers:
            return np.zeros(grid.shape, bool)
        found: npt.NDArray[np.bool_] = np.isin(read_mask(self.file, reference=grid).array, self.numbers)
        return found


@dataclass(frozen=True)
class CaseFiles:
    """One patient: the image, the organ and the tumour."""

    patient: str
    image: Path
    organ: Drawn
    tumour: Drawn


def read_layout(
    layout: Layout, folder: Path, organs: Mapping[int, str] | Sequence[str], tumours: Sequence[int] = ()
) -> list[CaseFiles]:
    """All labelled cases of a data set as it was unpacked, in the order it lists them.

    Parameters
    ----------
    layout
        ``msd`` and ``amos``: ``imagesTr``, ``labelsTr`` and a ``dataset.json`` that lists the training cases.
        ``prostate158``: ``train.csv`` and ``valid.csv`` with the columns ``ID``, ``t2``, ``t2_anatomy_reader1`` and
        ``t2_tumor_reader1`` (a cell or file of its own is missing where there is no tumour), paths beside the table.
        ``nnunet``: ``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz`` and a ``dataset.json`` whose ``labels``
        name the numbers.
    folder
        Where that lies.
    organs
        Numbers of the organ with their names; for ``nnunet`` the names alone.
    tumours
        Numbers of the tumour; for ``nnunet`` they are those with a lesion's name.

    Raises
    ------
    InputError
        If the folder has not the layout: one line on what is missing.

    References
    ----------
    Adams et al., Prostate158, Computers in Biology and Medicine 2022, https://doi.org/10.1016/j.compbiomed.2022.105817;
    its layout is taken from public code that reads it.
    """
    if layout == "prostate158":
        return _prostate158(folder)
    if layout == "nnunet":
        return _nnunet(folder, tuple(organs.values()) if isinstance(organs, Mapping) else tuple(organs))
    named = tuple(int(number) for number in organs)
    return [
        CaseFiles(image.name.split(".")[0], image, Drawn(labels, named), Drawn(labels, tuple(tumours)))
        for image, labels in _pairs(folder)
    ]


def _dataset(folder: Path) -> tuple[Path, Any]:
    index = folder / "dataset.json"
    if not index.is_file():
        raise InputError(f"{folder} has no dataset.json: give the folder as it was unpacked (Task03_Liver, amos22)")
    try:
        return index, json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{index} lists no training images and labels ({error!r}): unpack the data set again"
        ) from None


def _there(index: Path, *files: Path) -> None:
    for file in files:
        if not file.is_file():
            raise InputError(f"{index} lists {file.name}, which is not there: unpack the data set again")


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    index, told = _dataset(folder)
    try:
        pairs = [(folder / entry["image"], folder / entry["label"]) for entry in told["training"]]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{index} lists no training images and labels ({error!r}): unpack the data set again"
        ) from None
    for pair in pairs:
        _there(index, *pair)
    return pairs


def _prostate158(folder: Path) -> list[CaseFiles]:
    found = []
    for table in (folder / "train.csv", folder / "valid.csv"):
        if not table.is_file():
            raise InputError(f"{folder} has no {table.name}: give the folder prostate158_train as it was unpacked")
        with table.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
        for row in rows:
            try:
                image, organ = folder / row["t2"], folder / row["t2_anatomy_reader1"]
                drawn, patient = row["t2_tumor_reader1"], row["ID"]
            except (KeyError, TypeError):
                raise InputError(f"{table} lacks ID, t2 or what reader 1 drew on it: unpack it again") from None
            _there(table, image, organ)
            tumour = folder / drawn if drawn and (folder / drawn).is_file() else None
            # Zones of the prostate are 1 and 2; a tumour is drawn with 3.
            found.append(CaseFiles(patient, image, Drawn(organ, (1, 2)), Drawn(tumour, (1, 2, 3))))
    return found


def _nnunet(folder: Path, organs: tuple[str, ...]) -> list[CaseFiles]:
    index, told = _dataset(folder)
    labels = told.get("labels") if isinstance(told, dict) else None
    if not isinstance(labels, dict):
        raise InputError(f"{index} names no labels: write them as nnU-Net does, name and number")
    numbers = {str(name): number for name, number in labels.items() if isinstance(number, int)}
    wanted = {normal_name(name) for name in organs}
    organ = _numbers(numbers, lambda name: normal_name(name) in wanted)
    tumour = _numbers(numbers, is_lesion_name)
    if not organ or not tumour:
        raise InputError(
            f"{index} has labels {', '.join(numbers) or 'of no name'}: call one {' or '.join(organs)}, another tumour"
        )
    found = []
    for file in sorted((folder / "labelsTr").glob(f"*{_END}")):
        patient = file.name.removesuffix(_END)
        image = folder / "imagesTr" / f"{patient}_0000{_END}"
        _there(file, image)
        found.append(CaseFiles(patient, image, Drawn(file, organ), Drawn(file, tumour)))
    if not found:
        raise InputError(f"{folder} has no labelsTr/CASE{_END}: give a data set in nnU-Net's raw layout")
    return found


def _numbers(labels: Mapping[str, int], meant: Callable[[str], bool]) -> tuple[int, ...]:
    return tuple(sorted(number for name, number in labels.items() if number > 0 and meant(name)))
