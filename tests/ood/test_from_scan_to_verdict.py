"""The whole way with real pieces: scans and masks in, crops, features, detectors, a verdict out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from anatrust.image.grid import Grid
from anatrust.image.volumes import Mask, Scan
from anatrust.ood import (
    CropSettings,
    DescriptorFeatures,
    FeatureExtractor,
    HistogramFeatures,
    NoPrediction,
    ScanFeatures,
    anchored_crops,
    describe,
    explain,
    fit_screener,
    make_detector,
)

HOW = CropSettings(edge=32, draws=4)


def patient(
    name: str, *, blur: float = 0.0, noise: float = 12.0, shape: tuple[int, ...] = (48, 44)
) -> tuple[Scan, Mask]:
    """A bright lesion in textured tissue, HU; the same name gives the same patient."""
    shape = (48, 44)
    rng = np.random.default_rng([ord(c) for c in name])
    tissue = 40 + 25 * ndimage.gaussian_filter(rng.normal(size=shape), 2) * 4
    centre = rng.uniform(14, 30, size=len(shape))
    apart = np.linalg.norm(np.stack(np.indices(shape), axis=-1) - centre, axis=-1)
    lesion = apart < rng.uniform(4, 7)
    image = tissue + 60 * lesion + noise * rng.normal(size=shape)
    if blur:
        image = ndimage.gaussian_filter(image, blur)
    grid = Grid(shape, np.eye(4))
    return Scan(image.astype(np.float32), grid, modality="CT", identifier=name), Mask(lesion, grid)


def features(extractor: FeatureExtractor, name: str, **how: float) -> ScanFeatures:
    crops = anchored_crops(*patient(name, **how), HOW)  # type: ignore[arg-type]
    assert not isinstance(crops, NoPrediction)
    return describe(crops, extractor)


@pytest.mark.parametrize("extractor", [HistogramFeatures(bins=32), DescriptorFeatures()], ids=lambda e: e.identity)
def test_another_scanner_is_flagged_and_most_others_are_not(extractor: FeatureExtractor) -> None:
    fit = [features(extractor, f"fit {i}") for i in range(15)]
    held_out = [features(extractor, f"held out {i}") for i in range(29)]
    strange = [features(extractor, f"noisy {i}", noise=60.0) for i in range(6)]
    detectors = [make_detector("mahalanobis"), make_detector("logistic")]
    fitted = fit_screener(detectors, fit, [s.identifier for s in fit], strange, training_crops=2)
    ready = fitted.conformalize(held_out, [s.identifier for s in held_out])
    noisy = [ready.screen(features(extractor, f"new noisy {i}", noise=60.0)).verdict for i in range(8)]
    assert noisy == ["strange"] * 8
    usual = [ready.screen(features(extractor, f"new {i}")).passed for i in range(20)]
    assert sum(usual) >= 15
    scan, mask = patient("empty")
    nothing = anchored_crops(scan, Mask(np.zeros_like(mask.array), mask.grid), HOW)
    assert isinstance(nothing, NoPrediction)
    assert ready.screen(nothing).verdict == "no_prediction"
    why = explain(ready, features(extractor, "new noisy 1", noise=60.0))
    assert len(why.crops) == HOW.draws
    assert {name for name, _ in why.levels} == {name for name, _ in extractor.levels}


def test_features_of_a_network_end_to_end() -> None:
    torch = pytest.importorskip("torch")
    from anatrust.models.stage_features import StageFeatures
    from anatrust.models.unet import UNet, UNetConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    extractor = StageFeatures(UNet(UNetConfig(2, ("background", "lesion"), (4, 8, 16))))
    assert isinstance(extractor, FeatureExtractor)
    fit = [features(extractor, f"fit {i}") for i in range(12)]
    held_out = [features(extractor, f"held out {i}") for i in range(25)]
    ready = fit_screener([make_detector("levels")], fit, [s.identifier for s in fit])
    ready = ready.conformalize(held_out, [s.identifier for s in held_out])
    blurred = [ready.screen(features(extractor, f"blurred {i}", blur=2.0)).verdict for i in range(6)]
    assert blurred == ["strange"] * 6
    assert extractor.identity in ready.identity
