"""The studies' segmenters: patient-wise splits, trained once, predictions kept."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from anatrust.errors import InputError  # noqa: E402
from anatrust.studies.segmenters import HeldOutImage, held_out, image_set, unet  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cardiac slices in the layout of the data: two folders of 12 patients, a bright disc on noise."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    x, y = np.indices((150, 150))
    for part in ("part1", "part2"):
        for kind in ("images", "labels"):
            (root / "cardiac_mr" / part / kind).mkdir(parents=True)
        for number in range(12):
            for cut in range(3):
                disc = (x - rng.uniform(60, 90)) ** 2 + (y - rng.uniform(60, 90)) ** 2 < rng.uniform(12, 25) ** 2
                image = np.clip(90 * disc + rng.normal(80, 10, disc.shape), 0, 255).astype(np.uint8)
                name = f"SC-{'HF-I' if number % 2 else 'N'}-{part[-1]}{number:02d}-IM-0001-{cut:04d}.dcm.png"
                Image.fromarray(image).save(root / "cardiac_mr" / part / "images" / name)
                Image.fromarray(disc.astype(np.uint8) * 255).save(root / "cardiac_mr" / part / "labels" / name)
    return root


def test_real_splits_share_no_patient_and_cover_all(shared_data: Path) -> None:
    for name, patients in (("cardiac", 30), ("hippocampus", 130)):
        chosen = image_set(name, shared_data)
        parts = list(chosen.parts.values())
        assert sum(map(len, parts)) == patients == len({p for part in parts for p in part})
        assert len(chosen.parts["pool"]) >= 16
        assert all((shared_data / f).is_file() for f in chosen.paths())
        assert chosen == image_set(name, shared_data), "the split must not change between calls"
    cardiac = image_set("cardiac", shared_data)
    assert all("part1" in f for p in cardiac.parts["training"] for pair in cardiac.files[p] for f in pair)
    quick = image_set("cardiac", shared_data, quick=True)
    assert all(len(quick.files[p]) == 2 for p in quick.parts["pool"])


def test_a_network_is_trained_once_and_learns(hearts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    first = held_out(
        "cardiac", "strong", hearts, quick=True, cache=tmp_path, progress=lambda step, _steps: told.append(step)
    )
    assert told[-1] == 40
    patients = image_set("cardiac", hearts, quick=True).parts
    assert {i.patient for i in first if i.part == "pool"} == set(patients["pool"])
    assert not {i.patient for i in first} & set(patients["training"])
    assert all(i.probabilities.shape == (2, 128, 128) and i.labels.shape == (128, 128) for i in first)
    # Cut to the middle, and the grid says where that is.
    assert first[0].scan.grid.affine[:3, 3] @ first[0].scan.grid.affine[:3, 3] == pytest.approx(2 * 11**2)

    def dice(images: tuple[HeldOutImage, ...]) -> float:
        hits = [((i.probabilities[1] > 0.5) & (i.labels == 1)).sum() for i in images]
        sizes = [(i.probabilities[1] > 0.5).sum() + (i.labels == 1).sum() for i in images]
        return float(2 * sum(hits) / sum(sizes))

    # A second call neither trains nor predicts; a weak network lies beside the strong one.
    monkeypatch.setattr("anatrust.models.unet_training.train_unet", None)
    weak = held_out("cardiac", "weak", hearts, quick=True, cache=tmp_path)
    assert dice(first) > max(0.8, dice(weak))
    monkeypatch.setattr("anatrust.models.unet.UNetSegmenter.predict", None)
    again = held_out("cardiac", "strong", hearts, quick=True, cache=tmp_path)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.probabilities, b.probabilities)
    assert unet("cardiac", "strong", hearts, quick=True, cache=tmp_path).config.classes[1] == "left ventricle"
    assert {i.group for i in first} == {"HF-I", "N"}
    assert all(re.fullmatch(r"SC-(HF-I|N)-\d+", i.patient) for i in first)


def test_nonsense_is_refused(hearts: Path, tmp_path: Path) -> None:
    for call in (
        lambda: image_set("liver", hearts),
        lambda: image_set("hippocampus", hearts),
        lambda: unet("cardiac", "medium", hearts, cache=tmp_path),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError):
            call()
