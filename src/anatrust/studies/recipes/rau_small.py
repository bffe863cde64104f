"""What the small-machine recipe of RAU starts from: untrained tiny models of the real classes, pictures and plans.

``python -m anatrust.studies.recipes.rau_small FOLDER`` writes them, ``studies/recipes/rau/small-machine.sh`` runs all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from anatrust.errors import InputError

__all__ = ["write_small_recipe"]

_NAMES = {1: "liver", 2: "spleen", 3: "aorta"}
_COMMON = "model: qwen\ncohort: cohort.csv\nnames: names.json\nconvention: thousand\n"
_PLANS = {
    "sft": "output: runs/sft\nsettings: {samples: 32, epochs: 2, batch: 4, learning_rate: 1.0e-3}\n",
    "grpo": "output: runs/grpo\nadapters: [runs/sft]\nsettings: {steps: 4, generations: 4, batch: 4, longest: 24}\n",
    "seg": (
        "output: runs/seg\nadapters: [runs/sft, runs/grpo]\nsam2: sam2\n"
        "settings: {steps: 20, batch: 2, decoder_rate: 1.0e-3}\n"
    ),
    "grpo-masks": (
        "output: runs/grpo-masks\nadapters: [runs/sft, runs/grpo, runs/seg]\nsam2: sam2\nmasks: runs/seg\n"
        "settings: {steps: 2, generations: 2, batch: 2, longest: 24, tasks: [segment]}\n"
    ),
}


def write_small_recipe(folder: Path, patients: int = 4) -> None:
    """Models, pictures of made-up patients, the cohort table and one plan a stage; nothing is downloaded.

    Raises
    ------
    InputError
        If the folder holds a recipe already.
    """
    from PIL import Image

    from anatrust.studies.tiny_models import tiny_qwen, tiny_sam2

    if (folder / "cohort.csv").exists():
        raise InputError(f"{folder} holds a recipe already: choose a new folder")
    tiny_qwen(folder / "qwen")
    tiny_sam2(folder / "sam2")
    rows = ["id,image,truth,patient"]
    for k, name in enumerate(("scan", "other", *(f"patient{k}" for k in range(2, patients)))):
        image, labels = _patient(k)
        Image.fromarray(image).save(folder / f"{name}.png")
        Image.fromarray(labels).save(folder / f"{name}_labels.png")
        rows.append(f"{k},{name}.png,{name}_labels.png,p{k}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "names.json").write_text(json.dumps(_NAMES), encoding="utf-8")
    for stage, text in _PLANS.items():
        (folder / f"{stage}.yaml").write_text(_COMMON + text, encoding="utf-8")


def _patient(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:84, :84]
    labels = np.zeros((84, 84), np.uint8)
    for number, (x, y, a, b) in enumerate(((26, 34, 16, 20), (62, 34, 9, 12), (44, 64, 5, 5)), start=1):
        shift = rng.normal(0, 2, 2)
        labels[((columns - x - shift[0]) / a) ** 2 + ((rows - y - shift[1]) / b) ** 2 < 1] = number
    image = np.array([0.15, 0.8, 0.55, 0.95])[labels] + rng.normal(0, 0.02, labels.shape)
    return (255 * np.clip(image, 0, 1)).astype(np.uint8), labels


if __name__ == "__main__":
    write_small_recipe(Path(sys.argv[1]))
