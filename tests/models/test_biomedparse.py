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


FILES_V2 = {
    "hydra/__init__.py": """
import contextlib, os
import torch
@contextlib.contextmanager
def initialize_config_dir(version_base, config_dir):
    assert version_base is None and os.path.isabs(config_dir) and config_dir.endswith("configs/model")
    yield
def compose(config_name):
    return config_name
class Model(torch.nn.Module):
    def load_pretrained(self, name):
        assert name == "weights.ckpt"
    def forward(self, asked, mode, slice_batch_size):
        image = asked["image"]
        assert mode == "eval" and image.dtype == torch.int32 and image.shape[0] == 1 and image.shape[2:] == (512, 512)
        assert asked["text"] == ["CT imaging of the liver tumor within the abdomen"]
        half = torch.nn.functional.avg_pool2d(image.float(), 2) / 255
        # The first slice does not show it, whatever its mask says.
        there = torch.full((1, image.shape[1]), 3.0)
        there[0, 0] = -3.0
        return {"predictions": {"pred_gmasks": torch.logit(half.clamp(0.01, 0.99)), "object_existence": there}}
class utils:
    @staticmethod
    def instantiate(config, _convert_):
        assert config == "biomedparse_3D" and _convert_ == "object"
        return Model()
""",
}


def test_version_2_sees_the_scan_at_once_and_says_where_nothing_is(tmp_path):
    for name, text in FILES_V2.items():
        file = tmp_path / "v2" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    plain = {
        "command": [sys.executable],
        "repository": str(tmp_path / "v2"),
        "version": 2,
        "checkpoint": "weights.ckpt",
    }
    path = tmp_path / "v2.json"
    path.write_text(json.dumps(plain))
    segmenter = load_segmenter("biomedparse", path)
    assert segmenter.capabilities.wording == "biomedparse-v2"
    assert segmenter.identity.startswith("biomedparse(v2,")
    # Smooth in the plane, so that going to 512 pixels and back changes little.
    x, y = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 24), indexing="ij")
    values = np.stack([-25 + 255 * (0.2 + 0.5 * x + 0.2 * y * k) for k in (0, 1, 2)], axis=-1).astype(np.float32)
    scan = Scan(values, Grid(values.shape, np.diag([1.0, 1.0, 5.0, 1.0])), "CT", "HU")
    words = ("CT imaging of the liver tumor within the abdomen",)
    found = segmenter.segment(scan, Prompt("liver tumour", words), Region.whole(values.shape)).array[0]
    assert not found[..., 0].any(), "no object in the lowest slice"
    inner = (slice(4, -4), slice(4, -4), slice(1, None))
    assert np.abs(found - (values + 25) / 255)[inner].max() < 0.05
    sure = dict(plain, existence=0.0)
    path.write_text(json.dumps(sure))
    assert load_segmenter("biomedparse", path).segment(scan, Prompt("x", words), Region.whole(values.shape)).array.all()
    for wrong, said in (({"version": 3}, "no version 3"), ({"existence": 2}, '"existence" is 2')):
        path.write_text(json.dumps({**plain, **wrong}))
        with pytest.raises(InputError, match=said):
            load_segmenter("biomedparse", path)
