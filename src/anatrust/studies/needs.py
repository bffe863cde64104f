"""Which modules decide the numbers of a study's cell: a change there makes the cell run again."""

from __future__ import annotations

__all__ = ["MODULES"]

_COMMON = (
    "anatrust.studies.judge",
    "anatrust.studies.tissues",
    "anatrust.studies.textures",
    "anatrust.studies.lesions",
    "anatrust.studies.phantom",
    "anatrust.studies.phantom_anatomy",
    "anatrust.models.blob",
    "anatrust.rejection.features",
    "anatrust.statistics.kernels",
    "anatrust.statistics.embedding_mmd",
    "anatrust.statistics.mmd",
)
MODULES: dict[str, tuple[str, ...]] = {
    "iid": (*_COMMON, "anatrust.statistics.two_sample", "anatrust.statistics.histogram_mmd"),
    "block": (
        *_COMMON,
        "anatrust.statistics.two_sample",
        "anatrust.statistics.histogram_mmd",
        "anatrust.statistics.label_draws",
    ),
    "placement": (
        *_COMMON,
        "anatrust.statistics.placement",
        "anatrust.statistics.places",
        "anatrust.statistics.place_contrast",
        "anatrust.statistics.place_statistics",
    ),
    "placement-exceed": (
        *_COMMON,
        "anatrust.statistics.placement",
        "anatrust.statistics.places",
        "anatrust.statistics.place_contrast",
        "anatrust.statistics.place_statistics",
    ),
    "surrogate-max": (
        *_COMMON,
        "anatrust.statistics.surrogate",
        "anatrust.statistics.ball_scan",
        "anatrust.statistics.coarse_tissue",
        "anatrust.statistics.scan_statistic",
        "anatrust.statistics.tail_scores",
        "anatrust.statistics.texture",
    ),
    "cohort": (
        *_COMMON,
        "anatrust.statistics.conformal_p",
        "anatrust.rejection.score",
        "anatrust.rejection.compact_contrast",
        "anatrust.rejection.likely_contrast",
        "anatrust.rejection.comparison",
        "anatrust.rejection.tissue",
    ),
}
"""For each null the modules whose source decides its numbers."""
