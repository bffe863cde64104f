"""nnU-Net in an environment of its own; its output folders are read by ``precomputed``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.image.region import Region, crop_grid
from anatrust.image.volumes import ProbabilityMap, Scan
from anatrust.image.write import write_scan
from anatrust.models.outside import ToolSettings, read_settings, run_tool, work_folder
from anatrust.models.segmentation import Capabilities, Prompt
from anatrust.models.segmenters.precomputed import read_answer

__all__ = ["NnUNetSegmenter", "load"]

_KEYS = ("dataset", "configuration", "folds", "checkpoint", "trainer", "plans", "device", "mirror")


class NnUNetSegmenter:
    """Runs ``nnUNetv2_predict`` over a scan and reads its probabilities.

    Parameters
    ----------
    settings
        ``command`` is the program in its environment; ``dataset`` and ``configuration`` are needed,
        ``folds``, ``checkpoint``, ``trainer``, ``plans``, ``device`` and ``mirror`` (its own
        test-time augmentation, off by default: views are ours) may be given. ``environment`` names
        ``nnUNet_results``.

    Raises
    ------
    InputError
        If the dataset or the configuration is missing.

    Notes
    -----
    nnU-Net brings torchvision through its requirements and unpickles its checkpoints: both stay in
    its own process. One run a scan and view; the last answer is kept.
    """

    name: ClassVar[str] = "nnunet"
    # It sees the whole scan; mirrored scans would be whole further runs, and it can mirror itself.
    capabilities: ClassVar[Capabilities] = Capabilities(ndim=(2, 3), mirrors=False, context="scan")

    def __init__(self, settings: ToolSettings) -> None:
        self.settings = settings
        values = settings.values or {}
        if "dataset" not in values or "configuration" not in values:
            raise InputError('the settings of nnU-Net need "dataset" and "configuration"')
        self._last: tuple[npt.NDArray[np.generic], str, npt.NDArray[np.float32]] | None = None

    @property
    def identity(self) -> str:
        """Dataset, configuration, folds and what else was chosen."""
        values = self.settings.values or {}
        return f"nnunet({','.join(f'{key}={values[key]}' for key in sorted(values))})"

    def segment(self, scan: Scan, prompt: Prompt, region: Region) -> ProbabilityMap:
        """Probability of the label that the target means, cut to the region.

        Raises
        ------
        InputError
            If nnU-Net fails, or has no label for the target.
        """
        if self._last is None or self._last[0] is not scan.array or self._last[1] != prompt.target:
            self._last = (scan.array, prompt.target, self._run(scan, prompt.target))
        values = np.ascontiguousarray(self._last[2][region.slices])
        return ProbabilityMap(values[None], crop_grid(scan.grid, region))

    def _run(self, scan: Scan, target: str) -> npt.NDArray[np.float32]:
        values = self.settings.values or {}
        with work_folder("nnunet") as folder:
            (folder / "in").mkdir()
            suffix = ".png" if scan.grid.layout == "raster" else ".nii.gz"
            write_scan(folder / "in" / f"scan_0000{suffix}", scan)
            words = ["-i", str(folder / "in"), "-o", str(folder / "out"), "-d", str(values["dataset"])]
            words += ["-c", str(values["configuration"]), "--save_probabilities"]
            for key, option in (("checkpoint", "-chk"), ("trainer", "-tr"), ("plans", "-p"), ("device", "-device")):
                words += [option, str(values[key])] if key in values else []
            words += ["-f", *map(str, values["folds"])] if "folds" in values else []
            words += [] if values.get("mirror") else ["--disable_tta"]
            run_tool(self.settings, words, "nnU-Net")
            return read_answer(folder / "out", Scan(scan.array, scan.grid, scan.modality, identifier="scan"), target)


def load(weights: Path | None, device: str) -> NnUNetSegmenter:
    """From a JSON file that describes how nnU-Net is called."""
    assert weights is not None
    settings = read_settings(weights, _KEYS)
    values = {"device": device, **(settings.values or {})}
    return NnUNetSegmenter(
        ToolSettings(settings.command, settings.options, settings.environment, settings.seconds, values)
    )
