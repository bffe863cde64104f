"""BiomedParse v1 in an environment of its own: its published code, driven by a small script.

Its checkpoint is a pickle, its code needs detectron2, deepspeed and a launcher, and neither fits our
environment. So the script below runs in *its* environment and speaks to us through files. What is
not known: the weights are gated and were not available, so that the script was tested against a
stand-in of its modules, not against the model. Version 2 has another interface and is not driven;
read what it wrote with ``precomputed``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from anatrust.anatomy.knowledge import knowledge
from anatrust.anatomy.resolve import named_tumour, resolve_structure
from anatrust.errors import FormatError, InputError
from anatrust.image.orientation import canonical, restore
from anatrust.image.region import Region, crop_grid, crop_scan
from anatrust.image.volumes import ProbabilityMap, Scan
from anatrust.models.outside import ToolSettings, read_settings, run_tool, work_folder
from anatrust.models.segmentation import Capabilities, Prompt

__all__ = ["BiomedParseSegmenter", "grey_window", "load"]

_KEYS = ("repository", "config", "checkpoint", "device")
# Windows in HU of its training data, by the site of the anatomy.
_WINDOWS = {"chest": (-1000.0, 1000.0), "pelvis": (-55.0, 200.0)}
_OF_ORGAN = {"liver": (-25.0, 230.0), "colon": (-68.0, 187.0), "pancreas": (-100.0, 200.0)}
_ABDOMEN = (-150.0, 250.0)

_SCRIPT = """
import json, os, sys
import numpy as np
job = json.load(open(sys.argv[1]))
os.chdir(job["repository"])
sys.path.insert(0, job["repository"])
import torch
from PIL import Image
if job["device"] == "cpu":
    # The published code calls .cuda() in fixed places.
    torch.Tensor.cuda = lambda self, *a, **k: self
    torch.nn.Module.cuda = lambda self, *a, **k: self
from modeling.BaseModel import BaseModel
from modeling import build_model
from utilities.arguments import load_opt_from_config_files
from utilities.constants import BIOMED_CLASSES
from utilities.distributed import init_distributed
from inference_utils.inference import interactive_infer_image
opt = init_distributed(load_opt_from_config_files([job["config"]]))
model = BaseModel(opt, build_model(opt)).from_pretrained(job["checkpoint"]).eval().cuda()
with torch.no_grad():
    model.model.sem_seg_head.predictor.lang_encoder.get_text_embeddings(BIOMED_CLASSES + ["background"], is_eval=True)
    pictures = np.load(job["pictures"], allow_pickle=False)
    found = []
    for picture in pictures:
        image = Image.fromarray(np.repeat(picture[..., None], 3, axis=2))
        found.append(np.asarray(interactive_infer_image(model, image, [job["prompt"]]))[0])
np.save(job["answers"], np.stack(found).astype(np.float32))
"""


class BiomedParseSegmenter:
    """Asks BiomedParse v1 for the words of a prompt, slice by slice.

    It always returns some mask (it has no token for absence), which is why its specificity without
    rejection is near zero. The network is loaded anew for each question: minutes a scan.

    Parameters
    ----------
    settings
        ``command`` is the Python of its environment; ``repository`` its checkout, ``checkpoint``
        the weights (a file, or ``hf_hub:microsoft/BiomedParse``), ``config`` (default
        ``configs/biomedparse_inference.yaml``) and ``device`` (``cpu`` or ``cuda``).

    Raises
    ------
    InputError
        If the repository or the checkpoint is not named.
    """

    name: ClassVar[str] = "biomedparse"
    capabilities: ClassVar[Capabilities] = Capabilities(prompts=("text",), organs=True, wording="biomedparse-v1")

    def __init__(self, settings: ToolSettings) -> None:
        values = settings.values or {}
        if "repository" not in values or "checkpoint" not in values:
            raise InputError('the settings of BiomedParse need "repository" and "checkpoint"')
        self.settings = settings

    @property
    def identity(self) -> str:
        """The checkpoint's name."""
        return f"biomedparse(v1,{Path(str((self.settings.values or {})['checkpoint'])).name})"

    def segment(self, scan: Scan, prompt: Prompt, region: Region) -> ProbabilityMap:
        """Sigmoid of the query that fits the words best, in the region.

        Raises
        ------
        InputError
            If the prompt has no words, or BiomedParse fails.
        """
        if not prompt.words:
            raise InputError(f"BiomedParse is asked in words and has none for {prompt.target!r}")
        part = crop_scan(scan, region)
        array, grid = canonical(part.array, part.grid)
        upright = replace(part, array=array, grid=grid)
        grey = _grey(upright, grey_window(prompt.target) if scan.units == "HU" else None)
        stack = grey[..., None] if grey.ndim == 2 else grey
        pictures = np.ascontiguousarray(stack.transpose(2, 1, 0)[:, ::-1, ::-1])
        found = self._run(_squared(pictures), prompt.words[0])
        rows, columns = pictures.shape[1:]
        top, left = ((max(rows, columns) - n) // 2 for n in (rows, columns))
        cut = found[:, top : top + rows, left : left + columns][:, ::-1, ::-1].transpose(2, 1, 0)
        values = np.ascontiguousarray(cut if grey.ndim == 3 else cut[..., 0])
        here = crop_grid(scan.grid, region)
        return ProbabilityMap(restore(np.clip(values, 0, 1), here)[None], here)

    def _run(self, pictures: npt.NDArray[np.uint8], prompt: str) -> npt.NDArray[np.float32]:
        values = self.settings.values or {}
        with work_folder("biomedparse") as folder:
            np.save(folder / "pictures.npy", pictures)
            job = {
                "repository": str(Path(str(values["repository"])).resolve()),
                "config": str(values.get("config", "configs/biomedparse_inference.yaml")),
                "checkpoint": str(values["checkpoint"]),
                "device": str(values.get("device", "cpu")),
                "pictures": str(folder / "pictures.npy"),
                "answers": str(folder / "answers.npy"),
                "prompt": prompt,
            }
            (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
            run_tool(self.settings, ["-c", _SCRIPT, str(folder / "job.json")], "BiomedParse")
            try:
                found: npt.NDArray[np.float32] = np.load(folder / "answers.npy", allow_pickle=False)
            except (OSError, ValueError):
                raise FormatError("BiomedParse ended without an answer") from None
        if found.shape != pictures.shape:
            raise FormatError(f"BiomedParse answered shape {found.shape} to pictures of shape {pictures.shape}")
        return found


def grey_window(target: str) -> tuple[float, float]:
    """The window in HU in which BiomedParse saw such a target in training.

    >>> grey_window("pancreatic cancer"), grey_window("lung nodule"), grey_window("spleen")
    ((-100.0, 200.0), (-1000.0, 1000.0), (-150.0, 250.0))
    """
    tumour = named_tumour(target)
    organs = resolve_structure(target, most=1)
    key = knowledge().anchors(tumour.entry.id)[0].id if tumour is not None else organs[0].entry.id if organs else ""
    if not key:
        return _ABDOMEN
    return _OF_ORGAN.get(key, _WINDOWS.get(knowledge().structure(key).site, _ABDOMEN))


def _grey(scan: Scan, window: tuple[float, float] | None) -> npt.NDArray[np.uint8]:
    values = scan.array.astype(np.float32)
    if window is None:
        inside = values[values != 0]
        low, high = np.percentile(inside if inside.size else values, (0.5, 99.5))
    else:
        low, high = window
    span = float(high - low)
    return np.asarray(np.clip((values - low) / (span if span > 0 else 1), 0, 1) * 255, dtype=np.uint8)


def _squared(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Padded with zeros to squares, centred, as in its training."""
    rows, columns = pictures.shape[1:]
    side = max(rows, columns)
    padding = [((side - n) // 2, side - n - (side - n) // 2) for n in (rows, columns)]
    return np.pad(pictures, [(0, 0), *padding])


def load(weights: Path | None, device: str) -> BiomedParseSegmenter:
    """From a JSON file that names its Python, its checkout and its weights."""
    assert weights is not None
    settings = read_settings(weights, _KEYS)
    values = {"device": device, **(settings.values or {})}
    return BiomedParseSegmenter(
        ToolSettings(settings.command, settings.options, settings.environment, settings.seconds, values)
    )
