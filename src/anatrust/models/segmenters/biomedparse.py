"""BiomedParse v1 and v2 in an environment of its own: its published code, driven by a small script.

Its checkpoints are pickles, its code needs detectron2, deepspeed (v1) or hydra (v2) and a launcher, and
none of it fits our environment. So the scripts below run in *its* environment and speak to us through
files. What is not known: the weights are gated and were not available, so that the scripts were tested
against stand-ins of its modules, written after its published inference code, not against the models.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from anatrust.anatomy.entries import SegmenterName
from anatrust.anatomy.knowledge import knowledge
from anatrust.anatomy.resolve import named_tumour, resolve_structure
from anatrust.errors import FormatError, InputError
from anatrust.image.orientation import canonical, restore
from anatrust.image.region import Region, crop_grid, crop_scan
from anatrust.image.volumes import ProbabilityMap, Scan
from anatrust.models.outside import ToolSettings, read_settings, run_tool, work_folder
from anatrust.models.segmentation import Capabilities, Prompt

__all__ = ["BiomedParseSegmenter", "grey_window", "load"]

_KEYS = ("repository", "version", "config", "checkpoint", "device", "existence")
# Windows in HU of its training data, by the site of the anatomy.
_WINDOWS = {"chest": (-1000.0, 1000.0), "pelvis": (-55.0, 200.0)}
_OF_ORGAN = {"liver": (-25.0, 230.0), "colon": (-68.0, 187.0), "pancreas": (-100.0, 200.0)}
_ABDOMEN = (-150.0, 250.0)

_SCRIPT_V1 = """
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

# Version 2 sees the neighbouring slices too, so that a scan is one question, and it says of every slice
# whether the object is there (R2Seg asks version 1, which cannot).
_SCRIPT_V2 = """
import json, os, sys
import numpy as np
job = json.load(open(sys.argv[1]))
os.chdir(job["repository"])
sys.path.insert(0, job["repository"])
import hydra
import torch
from torch.nn.functional import interpolate
folder, name = os.path.split(os.path.join(job["repository"], job["config"]))
with hydra.initialize_config_dir(version_base=None, config_dir=folder):
    config = hydra.compose(config_name=os.path.splitext(name)[0])
model = hydra.utils.instantiate(config, _convert_="object")
model.load_pretrained(job["checkpoint"])
model = model.to(job["device"]).eval()
pictures = torch.from_numpy(np.load(job["pictures"], allow_pickle=False))
side = pictures.shape[-1]
with torch.no_grad():
    seen = interpolate(pictures[None].float(), size=(512, 512), mode="bicubic", antialias=True).clamp(0, 255)
    asked = {"image": seen.round().int().to(job["device"]), "text": [job["prompt"]]}
    found = model(asked, mode="eval", slice_batch_size=4)["predictions"]
    masks = interpolate(found["pred_gmasks"].float(), size=(side, side), mode="bilinear", antialias=True)[0].sigmoid()
    there = found["object_existence"][0].float().sigmoid() >= job["existence"]
    masks = masks * there[:, None, None]
np.save(job["answers"], masks.cpu().numpy().astype(np.float32))
"""

_SCRIPTS = {1: _SCRIPT_V1, 2: _SCRIPT_V2}
_CONFIGS = {1: "configs/biomedparse_inference.yaml", 2: "configs/model/biomedparse_3D.yaml"}


class BiomedParseSegmenter:
    """Asks BiomedParse for the words of a prompt, slice by slice.

    Version 1 always returns some mask (it has no token for absence), which is why its specificity
    without rejection is near zero. Version 2 says of every slice whether the object is there; where it
    is not, the probability is 0. The network is loaded anew for each question: minutes a scan.

    Parameters
    ----------
    settings
        ``command`` is the Python of its environment; ``repository`` its checkout, ``version`` 1
        (default) or 2, ``checkpoint`` the weights (a file; for version 1 also
        ``hf_hub:microsoft/BiomedParse``), ``config`` (the published one by default), ``device``
        (``cpu`` or ``cuda``) and, for version 2, the smallest share of ``existence`` (0.5).

    Raises
    ------
    InputError
        If the repository or the checkpoint is not named, or there is no such version.
    """

    name: ClassVar[str] = "biomedparse"

    def __init__(self, settings: ToolSettings) -> None:
        values = settings.values or {}
        if "repository" not in values or "checkpoint" not in values:
            raise InputError('the settings of BiomedParse need "repository" and "checkpoint"')
        version, existence = values.get("version", 1), values.get("existence", 0.5)
        if version not in _SCRIPTS:
            raise InputError(f'BiomedParse has no version {version!r}: "version" is 1 or 2')
        if isinstance(existence, bool) or not isinstance(existence, int | float) or not 0 <= existence <= 1:
            raise InputError(f'"existence" is {existence!r}: give a share from 0 to 1')
        self.settings, self.version, self.existence = settings, int(version), float(existence)
        wording: SegmenterName = "biomedparse-v1" if self.version == 1 else "biomedparse-v2"
        self.capabilities = Capabilities(prompts=("text",), organs=True, wording=wording)

    @property
    def identity(self) -> str:
        """The checkpoint's name."""
        return f"biomedparse(v{self.version},{Path(str((self.settings.values or {})['checkpoint'])).name})"

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
                "config": str(values.get("config", _CONFIGS[self.version])),
                "checkpoint": str(values["checkpoint"]),
                "device": str(values.get("device", "cpu")),
                "existence": self.existence,
                "pictures": str(folder / "pictures.npy"),
                "answers": str(folder / "answers.npy"),
                "prompt": prompt,
            }
            (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
            run_tool(self.settings, ["-c", _SCRIPTS[self.version], str(folder / "job.json")], "BiomedParse")
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
