"""BiomedParse: the script in its environment, against a stand-in of its modules (its weights are gated)."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.region import Region
from anatrust.image.volumes import Scan
from anatrust.models.registry import load_segmenter
from anatrust.models.segmentation import Prompt

pytest.importorskip("torch")

FILES = {
    "modeling/__init__.py": """
def build_model(opt):
    assert opt["made"] == "configs/biomedparse_inference.yaml"
    return "network"
""",
    "modeling/BaseModel.py": """
import torch
class _Node:
    def __init__(self):
        self.asked = []
    def get_text_embeddings(self, classes, is_eval):
        assert classes[-1] == "background" and is_eval
        self.asked.append(classes)
class BaseModel(torch.nn.Module):
    def __init__(self, opt, network):
        super().__init__()
        self.node = _Node()
    def from_pretrained(self, name):
        assert name == "weights.pt"
        return self
    @property
    def model(self):
        class O: pass
        o = O(); o.sem_seg_head = O(); o.sem_seg_head.predictor = O(); o.sem_seg_head.predictor.lang_encoder = self.node
        return o
""",
    "utilities/__init__.py": "",
    "utilities/arguments.py": "def load_opt_from_config_files(files):\n    return {'made': files[0]}\n",
    "utilities/constants.py": "BIOMED_CLASSES = ['liver']\n",
    "utilities/distributed.py": "def init_distributed(opt):\n    return opt\n",
    "inference_utils/__init__.py": "",
    "inference_utils/inference.py": """
import numpy as np
def interactive_infer_image(model, image, prompts):
    assert model.node.asked and image.mode == "RGB"
    grey = np.asarray(image)[..., 0]
    assert grey.shape[0] == grey.shape[1]
    factor = 0.5 if "tumor" in prompts[0] else 1.0
    return np.stack([grey / 255 * factor for _ in prompts])
""",
}


@pytest.fixture
def settings(tmp_path):
    repository = tmp_path / "BiomedParse"
    for name, text in FILES.items():
        file = repository / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    path = tmp_path / "biomedparse.json"
    path.write_text(
        json.dumps({"command": [sys.executable], "repository": str(repository), "checkpoint": "weights.pt"})
    )
    return path


def test_slices_go_there_and_come_back(settings):
    shape = (14, 9, 3)
    values = np.random.default_rng(0).uniform(-25, 230, shape).astype(np.float32)
    scan = Scan(values, Grid(shape, np.diag([1.0, 1.0, 5.0, 1.0])), "CT", "HU")
    segmenter = load_segmenter("biomedparse", settings)
    assert segmenter.capabilities.wording == "biomedparse-v1"
    region = Region((1, 0, 0), (13, 9, 2))
    found = segmenter.segment(scan, Prompt("liver tumour", ("liver tumor",)), region).array[0]
    grey = np.floor((values + 25) / 255 * 255) / 255
    assert np.abs(found - 0.5 * grey[region.slices]).max() < 1 / 255 + 1e-6
    organ = segmenter.segment(scan, Prompt("liver", ("liver",)), region).array[0]
    assert np.allclose(organ, 2 * found, atol=1e-6)


def test_what_is_missing_is_said(settings, tmp_path):
    scan = Scan(np.zeros((4, 4), np.float32), Grid((4, 4), np.eye(4)))
    with pytest.raises(InputError, match="asked in words"):
        load_segmenter("biomedparse", settings).segment(scan, Prompt("x"), Region.whole((4, 4)))
    plain = json.loads(settings.read_text())
    settings.write_text(json.dumps({**plain, "repository": str(tmp_path)}))
    with pytest.raises(InputError, match=r"BiomedParse failed.*modeling"):
        load_segmenter("biomedparse", settings).segment(scan, Prompt("x", ("x",)), Region.whole((4, 4)))
    settings.write_text(json.dumps({"command": [sys.executable]}))
    with pytest.raises(InputError, match='"repository" and "checkpoint"'):
        load_segmenter("biomedparse", settings)
