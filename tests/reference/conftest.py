"""Two tiny models and the two pictures they are taught on, for all tests of masks from tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anatrust.reference.pairs import LabelledPicture


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of a language model and of SAM 2."""
    pytest.importorskip("torch")
    from anatrust.studies.tiny_models import tiny_qwen, tiny_sam2

    return tiny_qwen(tmp_path_factory.mktemp("qwen")), tiny_sam2(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def pictures() -> list[LabelledPicture]:
    """Of two patients, a liver and a spleen in each."""
    found = []
    for patient in range(2):
        labels = np.zeros((56, 56), np.uint8)
        labels[8:28, 6 + patient : 26 + patient] = 1
        labels[32:50, 30:48] = 2
        image = (labels / 3 + 0.1).astype(np.float32)
        found.append(LabelledPicture(image, labels, {1: "liver", 2: "spleen"}, f"p{patient}"))
    return found
