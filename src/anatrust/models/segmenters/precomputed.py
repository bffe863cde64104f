"""What another tool has already written: folders of nnU-Net, TotalSegmentator and MONAI, or one file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anatrust.anatomy.organs import is_lesion_name, label_names
from anatrust.errors import FormatError, InputError
from anatrust.image.read import read_mask, read_probabilities
from anatrust.image.region import Region, crop_grid
from anatrust.image.volumes import ProbabilityMap, Scan
from anatrust.models.segmentation import Capabilities, Prompt
from anatrust.models.segmenters.digest import file_digest, folder_digest
from anatrust.models.segmenters.target_labels import target_labels

__all__ = ["PrecomputedSegmenter", "load", "read_answer"]

_MASKS = (".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd", ".png")
# How MONAI's SaveImaged, MONAI Label and TotalSegmentator's --ml name what they write.
_ENDINGS = ("", "_trans", "_seg", "_pred", "_label")
_LARGEST = 1 << 20


class PrecomputedSegmenter:
    """Answers with what lies in a file or folder; it computes nothing.

    Parameters
    ----------
    path
        A mask or probability file, or a folder: nnU-Net's (``CASE.nii.gz``, ``CASE.npz``,
        ``dataset.json``), TotalSegmentator's (``liver.nii.gz``, ... or one multi-label file) or
        MONAI's (``CASE/CASE_trans.nii.gz``). In a folder of many cases the scan's file name
        chooses; label names come from ``dataset.json``, the file, or the files' names.

    Raises
    ------
    InputError
        If there is nothing of that name.
    """

    name = "precomputed"

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise InputError(f"there is no {path}: give the file or folder another tool wrote")
        self.path = path
        soft = path.suffix in (".npz", ".npy") or (path.is_dir() and any(path.rglob("*.npz")))
        self.capabilities = Capabilities(probabilities=soft, mirrors=False, context="scan")
        self._last: tuple[npt.NDArray[np.generic], str, npt.NDArray[np.float32]] | None = None

    @property
    def identity(self) -> str:
        """Name and a hash of the file, or of the folder's files."""
        return f"precomputed({file_digest(self.path) if self.path.is_file() else folder_digest(self.path)})"

    def segment(self, scan: Scan, prompt: Prompt, region: Region) -> ProbabilityMap:
        """The part of the stored answer that lies in the region.

        Raises
        ------
        InputError
            If nothing stored is of this scan, or no label of it is the target.
        """
        if self._last is None or self._last[0] is not scan.array or self._last[1] != prompt.target:
            found = read_answer(self.path, scan, prompt.target)
            if not self.capabilities.probabilities:
                found = np.asarray(found > 0.5, dtype=np.float32)
            self._last = (scan.array, prompt.target, found)
        values = np.ascontiguousarray(self._last[2][region.slices])
        return ProbabilityMap(values[None], crop_grid(scan.grid, region))


def load(weights: Path | None, _device: str) -> PrecomputedSegmenter:
    """The answers in a file or folder."""
    assert weights is not None
    return PrecomputedSegmenter(weights)


def read_answer(path: Path, scan: Scan, target: str) -> npt.NDArray[np.float32]:
    """Probability of a target on the scan's grid, from what a tool wrote.

    Raises
    ------
    InputError
        As for `PrecomputedSegmenter.segment`.
    """
    if path.is_file():
        return _of_file(path, scan, target, _Names.beside(path))
    case = scan.identifier
    for folder in (path / case, path) if case and (path / case).is_dir() else (path,):
        names = _Names.beside(folder / "x")
        stems = [f"{case}{ending}" for ending in _ENDINGS] if case else []
        found = next((p for stem in stems if (p := folder / f"{stem}.npz").is_file()), None)
        found = found or next((p for stem in stems for s in _MASKS if (p := folder / f"{stem}{s}").is_file()), None)
        if found is not None:
            return _of_file(found, scan, target, names)
        single = _structures(folder)
        if single:
            return _of_structures(single, scan, target)
        files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.name.endswith((*_MASKS, ".npz"))]
        soft = [p for p in files if p.suffix == ".npz"]
        if len(soft) == 1 or (not soft and len(files) == 1):
            return _of_file((soft or files)[0], scan, target, names)
    raise InputError(f"{path.name} holds nothing of the scan {case or 'without a name'}: name its file, or give one")


@dataclass(frozen=True)
class _Names:
    """Label names from nnU-Net's dataset.json; None where there is none."""

    names: dict[int, str] | None

    @classmethod
    def beside(cls, path: Path) -> _Names:
        file = path.parent / "dataset.json"
        if not file.is_file():
            return cls(None)
        try:
            if file.stat().st_size > _LARGEST:
                raise FormatError("dataset.json is too large for a table of labels")
            labels = json.loads(file.read_text(encoding="utf-8"))["labels"]
            return cls({int(v): str(k) for k, v in labels.items() if not isinstance(v, list) and int(v) != 0})
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            raise FormatError(
                'dataset.json is no table of labels: it holds {"labels": {"background": 0, ...}}'
            ) from None


def _of_file(path: Path, scan: Scan, target: str, names: _Names) -> npt.NDArray[np.float32]:
    if path.suffix in (".npz", ".npy"):
        soft = read_probabilities(path, reference=scan.grid)
        first = 1 if soft.classes[0] == "background" else 0
        present = dict(enumerate(soft.classes))
        known = {n: present[n - 1 + first] for n in range(1, len(present) + 1 - first)}
        wanted = target_labels(target, {n: (names.names or known).get(n, v) for n, v in known.items()})
        channels = [soft.array[n - 1 + first] for n in wanted]
        total = np.sum(channels, axis=0, dtype=np.float32) if first else np.max(channels, axis=0)
        return np.asarray(np.clip(total, 0, 1), dtype=np.float32)
    labels = read_mask(path, reference=scan.grid)
    present = {n: labels.names[n] for n in labels.labels() if n in labels.names}
    known = names.names or present
    if not known:
        # Without names the whole mask is taken for the target: there is nothing to choose by.
        return np.asarray(labels.array != 0, dtype=np.float32)
    return np.asarray(np.isin(labels.array, target_labels(target, known)), dtype=np.float32)


def _structures(folder: Path) -> dict[str, Path]:
    """Files named after structures of TotalSegmentator."""
    known = {*label_names("totalsegmentator_ct").values(), *label_names("totalsegmentator_mr").values()}
    files = {p.name.removesuffix(".gz").removesuffix(".nii"): p for p in folder.iterdir() if p.is_file()}
    named = {name: p for name, p in files.items() if p.name.endswith((".nii.gz", ".nii"))}
    # Its other tasks write lesions ("liver_lesions") and names of their own; they count once any is known.
    return named if known & set(named) or any(is_lesion_name(name) for name in named) else {}


def _of_structures(files: dict[str, Path], scan: Scan, target: str) -> npt.NDArray[np.float32]:
    numbered = dict(enumerate(files, start=1))
    found = np.zeros(scan.grid.shape, dtype=np.float32)
    for number in target_labels(target, numbered):
        found[read_mask(files[numbered[number]], reference=scan.grid).array != 0] = 1
    return found
