"""May this model be used on this scan? Features of anchored crops, detectors and conformal screening."""

from anatrust.ood.acquisition import contrast_group, harmonised, kernel_group, manufacturer_group
from anatrust.ood.certainty import certainty
from anatrust.ood.crops import Crops, CropSettings, NoPrediction, anchored_crops
from anatrust.ood.cross import CrossCalibration, fit_cross_screener
from anatrust.ood.detectors import Detector, detector_names, make_detector
from anatrust.ood.drift import DriftMonitor, DriftStep
from anatrust.ood.explain import Explanation, explain, permutation_importance
from anatrust.ood.features import (
    DescriptorFeatures,
    FeatureExtractor,
    HistogramFeatures,
    ScanFeatures,
    describe,
)
from anatrust.ood.logit_scores import crop_boxes, logit_map, pooled_score, roi_scores
from anatrust.ood.mask_features import MaskFeatures
from anatrust.ood.persistence import screener_from_arrays, screener_to_arrays
from anatrust.ood.quality_features import QualityFeatures
from anatrust.ood.radiomics import RadiomicsFeatures
from anatrust.ood.regimes import RegimeScores, regime_scores
from anatrust.ood.screen import Screener, Screening, fit_screener, patients_for_rate
from anatrust.ood.splits import ScanKey, ScreeningSplit, draw_split
from anatrust.ood.synthetic import SHIFTS, SYNTHETIC_OUTLIERS, shifted

__all__ = [
    "SHIFTS",
    "SYNTHETIC_OUTLIERS",
    "CropSettings",
    "Crops",
    "CrossCalibration",
    "DescriptorFeatures",
    "Detector",
    "DriftMonitor",
    "DriftStep",
    "Explanation",
    "FeatureExtractor",
    "HistogramFeatures",
    "MaskFeatures",
    "NoPrediction",
    "QualityFeatures",
    "RadiomicsFeatures",
    "RegimeScores",
    "ScanFeatures",
    "ScanKey",
    "Screener",
    "Screening",
    "ScreeningSplit",
    "anchored_crops",
    "certainty",
    "contrast_group",
    "crop_boxes",
    "describe",
    "detector_names",
    "draw_split",
    "explain",
    "fit_cross_screener",
    "fit_screener",
    "harmonised",
    "kernel_group",
    "logit_map",
    "make_detector",
    "manufacturer_group",
    "patients_for_rate",
    "permutation_importance",
    "pooled_score",
    "regime_scores",
    "roi_scores",
    "screener_from_arrays",
    "screener_to_arrays",
    "shifted",
]
