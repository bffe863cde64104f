"""Overlap, surface, lesion and detection metrics with stated edge cases."""

from anatrust.metrics.detection import (
    DetectionMetrics,
    aupr,
    auroc,
    compare_auroc,
    detection_metrics,
    fpr_at_tpr,
)
from anatrust.metrics.edge_cases import EdgeCases
from anatrust.metrics.froc import FrocCurve, froc
from anatrust.metrics.lesions import LesionMatching, label_lesions, match_lesions
from anatrust.metrics.overlap import (
    VoxelCounts,
    count_voxels,
    dice,
    iou,
    precision,
    relative_volume_difference,
    sensitivity,
    specificity,
    volume_difference,
)
from anatrust.metrics.panel import MetricPanel, metric_panel
from anatrust.metrics.risk_coverage import RiskCoverage, risk_coverage
from anatrust.metrics.skeleton import cldice, skeleton
from anatrust.metrics.surface import SurfaceDistances, assd, hd95, surface_distances, surface_voxels

__all__ = [
    "DetectionMetrics",
    "EdgeCases",
    "FrocCurve",
    "LesionMatching",
    "MetricPanel",
    "RiskCoverage",
    "SurfaceDistances",
    "VoxelCounts",
    "assd",
    "aupr",
    "auroc",
    "cldice",
    "compare_auroc",
    "count_voxels",
    "detection_metrics",
    "dice",
    "fpr_at_tpr",
    "froc",
    "hd95",
    "iou",
    "label_lesions",
    "match_lesions",
    "metric_panel",
    "precision",
    "relative_volume_difference",
    "risk_coverage",
    "sensitivity",
    "skeleton",
    "specificity",
    "surface_distances",
    "surface_voxels",
    "volume_difference",
]
