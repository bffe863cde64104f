"""TotalSegmentator: its output folder, or the tool itself in an environment of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anatrust.anatomy.organs import label_names
from anatrust.errors import InputError
from anatrust.image.read import read_mask
from anatrust.image.volumes import Scan
from anatrust.image.write import write_scan
from anatrust.models.outside import ToolSettings, read_settings, run_tool, work_folder
from anatrust.models.segmenters.digest import file_digest, folder_digest

__all__ = ["TotalSegmentator"]

_KEYS = ("task", "fast", "device")


class TotalSegmentator:
    """Masks of named classes, read from files or made by running the tool.

    Parameters
    ----------
    source
        A folder it wrote (one file a class, or one multi-label file), a multi-label file, its
        program (``.../bin/TotalSegmentator``), or a JSON file ``{"command": [...], "task": "total",
        "fast": true, "device": "gpu"}``.

    Raises
    ------
    InputError
        If there is nothing of that name, or the settings are none.

    Notes
    -----
    The tool brings torchvision, so it is never imported: it runs in its own environment, sees a
    temporary NIfTI file without a name, and is ended with us. Its licence: Apache-2.0 for the code
    and most weights; some tasks need a licence of their own.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.settings: ToolSettings | None = None
        if source.is_dir() or source.name.endswith((".nii", ".nii.gz", ".nrrd", ".mha")):
            if not source.exists():
                raise InputError(f"there is no {source}: give TotalSegmentator's output, or its program")
        else:
            self.settings = read_settings(source, _KEYS)

    @property
    def identity(self) -> str:
        """What was read, or how the tool was called."""
        if self.settings is not None:
            values = self.settings.values or {}
            how = ",".join(f"{key}={values[key]}" for key in sorted(values))
            return f"totalsegmentator({Path(self.settings.command[0]).name}{',' if how else ''}{how})"
        digest = folder_digest(self.source) if self.source.is_dir() else file_digest(self.source)
        return f"totalsegmentator(output={digest})"

    def table(self, scan: Scan) -> str:
        """The label table that fits a scan's modality."""
        return "totalsegmentator_mr" if scan.modality == "MR" else "totalsegmentator_ct"

    def masks(self, scan: Scan, classes: Sequence[str]) -> dict[str, npt.NDArray[np.bool_]]:
        """A mask on the scan's grid for each class that there is, without a finding where it is empty.

        Raises
        ------
        InputError
            If the tool fails, or the files do not lie in the scan's space.
        """
        if self.settings is None:
            return self._read(self.source, scan, classes)
        if scan.grid.ndim != 3 or not scan.grid.spacing_known:
            raise InputError("TotalSegmentator needs a volume with its spacing")
        values = self.settings.values or {}
        task = str(values.get("task") or ("total_mr" if scan.modality == "MR" else "total"))
        with work_folder("totalsegmentator") as folder:
            write_scan(folder / "scan.nii.gz", scan)
            words = ["-i", str(folder / "scan.nii.gz"), "-o", str(folder / "out"), "--task", task]
            if task in ("total", "total_mr"):
                words += ["--roi_subset", *classes]
            if values.get("fast"):
                words.append("--fast")
            if values.get("device"):
                words += ["--device", str(values["device"])]
            run_tool(self.settings, words, "TotalSegmentator")
            return self._read(folder / "out", scan, classes)

    def _read(self, source: Path, scan: Scan, classes: Sequence[str]) -> dict[str, npt.NDArray[np.bool_]]:
        found: dict[str, npt.NDArray[np.bool_]] = {}
        folder = source / scan.identifier if scan.identifier and (source / scan.identifier).is_dir() else source
        if folder.is_dir():
            for name in classes:
                file = next((p for e in (".nii.gz", ".nii") if (p := folder / f"{name}{e}").is_file()), None)
                if file is not None:
                    found[name] = np.asarray(read_mask(file, reference=scan.grid).array != 0)
            files = [p for p in sorted(folder.iterdir()) if p.name.endswith((".nii", ".nii.gz"))]
            if found or len(files) != 1:
                return found
            folder = files[0]
        labels = read_mask(folder, reference=scan.grid)
        numbers = {name: n for n, name in (dict(labels.names) or label_names(self.table(scan))).items()}
        for name in classes:
            if name in numbers:
                found[name] = np.asarray(labels.array == numbers[name])
        return found
