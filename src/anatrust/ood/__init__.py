"""May this model be used on this scan? Features of anchored crops, detectors and conformal screening."""

from anatrust.ood.crops import Crops, CropSettings, NoPrediction, anchored_crops
from anatrust.ood.detectors import Detector, detector_names, make_detector
from anatrust.ood.drift import DriftMonitor, DriftStep
from anatrust.ood.explain import Explanation, explain, permutation_importance
from anatrust.ood.features import (
    DescriptorFeatures,
    FeatureExtractor,
    HistogramFeatures,
    ScanFeatures,
    describe,
    joined,
)
from anatrust.ood.logit_scores import crop_boxes, logit_map, pooled_score, roi_scores
from anatrust.ood.persistence import screener_from_arrays, screener_to_arrays
from anatrust.ood.screen import Screener, Screening, fit_screener, patients_for_rate

__all__ = [
    "CropSettings",
    "Crops",
    "DescriptorFeatures",
    "Detector",
    "DriftMonitor",
    "DriftStep",
    "Explanation",
    "FeatureExtractor",
    "HistogramFeatures",
    "NoPrediction",
    "ScanFeatures",
    "Screener",
    "Screening",
    "anchored_crops",
    "crop_boxes",
    "describe",
    "detector_names",
    "explain",
    "fit_screener",
    "joined",
    "logit_map",
    "make_detector",
    "patients_for_rate",
    "permutation_importance",
    "pooled_score",
    "roi_scores",
    "screener_from_arrays",
    "screener_to_arrays",
]
