"""Detectors of the RF-Deep studies, and what one re-split of the patients says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.metrics import aupr, auroc, fpr_at_tpr
from anatrust.ood.detectors import Detector, make_detector
from anatrust.ood.regimes import Regime, RegimeScores, regime_scores
from anatrust.ood.splits import ScanKey, ScreeningSplit, draw_split
from anatrust.studies.intervals import patient_bootstrap
from anatrust.studies.rfdeep_scans import FAR, LOGITS, NEAR_LEVEL, STRENGTHS, Unit

__all__ = ["METHODS", "Method", "Placements", "panel", "resplit", "scores", "settle", "taught_sets"]


@dataclass(frozen=True)
class Method:
    """One way to score a scan.

    ``exposed`` methods learn from strange scans; ``logit`` names the segmenter's own score where nothing is
    fitted.
    """

    name: str
    kind: str = ""
    detector: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    logit: str = ""
    columns: int | None = None
    draws: int | None = None

    @property
    def exposed(self) -> bool:
        """Whether it learns from strange scans."""
        return bool(self.detector) and self.make().needs_outliers

    def make(self) -> Detector:
        """An unfitted detector."""
        settings = {"jobs": 1, **self.settings} if self.detector == "forest" else dict(self.settings)
        return make_detector(self.detector, **settings)


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("forest, deep", "deep", "forest", {"trees": 300}),
        Method("forest, deep as published", "levels", "forest", {"trees": 300}),
        Method("logistic, deep", "deep", "logistic"),
        Method("MLP, deep", "deep", "mlp"),
        Method("forest, histogram", "histogram", "forest", {"trees": 300}),
        Method("logistic, histogram", "histogram", "logistic"),
        Method("forest, descriptors", "descriptors", "forest", {"trees": 300}),
        Method("forest, radiomics", "radiomics", "forest", {"trees": 300}),
        Method("Mahalanobis, deep", "deep", "mahalanobis", {"normalise": "zscore"}),
        Method("Mahalanobis L2, deep", "deep", "mahalanobis", {"normalise": "l2"}),
        Method("level ensemble, deep", "deep", "levels"),
        Method("kNN, deep", "deep", "knn"),
        Method("isolation forest, deep", "deep", "isolation"),
        Method("Mahalanobis, deep as published", "levels", "mahalanobis"),
        Method("Mahalanobis, histogram", "histogram", "mahalanobis", {"normalise": "zscore"}),
        Method("kNN, histogram", "histogram", "knn"),
        Method("Mahalanobis, descriptors", "descriptors", "mahalanobis", {"normalise": "zscore"}),
        Method("Mahalanobis, radiomics", "radiomics", "mahalanobis", {"normalise": "zscore"}),
        *(Method(text, logit=text) for text in LOGITS),
    )
}
"""All detectors by name; the first is RF-Deep. Forests have 300 trees here, not the published 1000: there are thousands
of them, and the ablation has both beside each other."""


def taught_sets(*, level: int = NEAR_LEVEL) -> tuple[str, ...]:
    """Strange sets that may be learnt from: every near shift at one level, and the far ones."""
    return (*(f"{kind} {level}" for kind in STRENGTHS), *FAR)


@dataclass
class Placements:
    """For each scan the share of the other side it beats, summed over re-splits; their means are AUROCs.

    Patients are resampled from these (a first-order bootstrap of the AUROC averaged over re-splits).
    """

    inside: dict[str, list[float]] = field(default_factory=dict)
    outside: dict[str, list[float]] = field(default_factory=dict)

    def add(
        self,
        inside: npt.NDArray[np.float64],
        outside: npt.NDArray[np.float64],
        usual: Sequence[str],
        strange: Sequence[str],
    ) -> None:
        """Enter one re-split: scores and whose they are."""
        beats = (outside[:, None] > inside[None]) + 0.5 * (outside[:, None] == inside[None])
        for people, shares, kept in (
            (usual, beats.mean(axis=0), self.inside),
            (strange, beats.mean(axis=1), self.outside),
        ):
            for person, share in zip(people, shares.tolist(), strict=True):
                entry = kept.setdefault(person, [0.0, 0.0])
                entry[0] += share
                entry[1] += 1

    def interval(self, *, minus: Placements | None = None, seed: int = 0) -> list[float]:
        """95 % interval over patients of the AUROC, or of its difference to another method on the same scans."""
        parts = []
        for own, other in (
            (self.inside, minus.inside if minus else {}),
            (self.outside, minus.outside if minus else {}),
        ):
            people = sorted(own)
            value = np.array([own[p][0] / own[p][1] - (other[p][0] / other[p][1] if minus else 0.0) for p in people])
            parts.append(value)
        centre = float(parts[1].mean())
        if min(len(part) for part in parts) < 2:
            return [centre, centre]
        spread = [
            patient_bootstrap((part - part.mean())[:, None], lambda v: float(v.mean()), seed=seed) for part in parts
        ]
        half = [np.hypot(spread[0][side], spread[1][side]) for side in (0, 1)]
        limits = (-1.0 if minus else 0.0, 1.0)
        return [max(limits[0], round(centre - half[0], 4)), min(limits[1], round(centre + half[1], 4))]


def scores(
    method: Method,
    split: ScreeningSplit,
    known: Mapping[ScanKey, Unit],
    *,
    regime: Regime = "unified",
    most: int = 20,
    training_crops: int | None = 4,
) -> RegimeScores:
    """Scores of all test scans of a split by one method."""
    if method.logit:
        place = LOGITS.index(method.logit)

        def taken(keys: Sequence[ScanKey]) -> npt.NDArray[np.float64]:
            return np.array([known[k].logits[place] for k in keys])

        inside, calibration = taken(split.test), taken(split.calibrate)
        outside = {name: taken(keys) for name, keys in split.outside_test.items()}
        return RegimeScores(dict.fromkeys(outside, inside), outside, dict.fromkeys(outside, calibration))
    crops = {}
    for part in (split.fit, split.calibrate, split.test, *split.outside_fit.values(), *split.outside_test.values()):
        for key in part:
            values = known[key].features[method.kind][: method.draws]
            crops[key] = values if method.columns is None else values[:, : method.columns]
    levels = None
    if method.columns is None:
        levels = known[split.fit[0]].levels[method.kind]
    taught: Regime = regime if method.exposed else "usual-only"
    return regime_scores(taught, split, crops, method.make, levels=levels, most=most, training_crops=training_crops)


def resplit(
    known: Mapping[ScanKey, Unit],
    *,
    seed: int,
    fit: int = 20,
    calibrate: int = 0,
    fit_outside: int = 20,
    sets: Sequence[str] | None = None,
    test_only: Sequence[str] = (),
    share_outside: float = 0.5,
) -> ScreeningSplit:
    """One split of all scans with a prediction; each person has one part in all data sets."""
    taught = set(taught_sets() if sets is None else sets)
    inside = [k for k, unit in known.items() if k.dataset == "usual" and not unit.empty]
    outside = [k for k, unit in known.items() if k.dataset not in ("usual", "unshifted") and not unit.empty]
    blind = sorted({k.dataset for k in outside} - taught | set(test_only))
    return draw_split(
        inside,
        outside,
        seed=seed,
        fit=fit,
        calibrate=calibrate,
        fit_outside=fit_outside,
        share_outside=share_outside,
        test_only=blind,
        shared_people=True,
    )


def panel(inside: npt.NDArray[np.float64], outside: npt.NDArray[np.float64]) -> dict[str, float]:
    """AUROC, AUPR of both kinds and FPR95 of one re-split."""
    return {
        "auroc": round(auroc(inside, outside), 4),
        "aupr_out": round(aupr(outside, inside), 4),
        "aupr_in": round(aupr(-inside, -outside), 4),
        "fpr95": round(fpr_at_tpr(inside, outside), 4),
    }


def settle(rows: Sequence[float]) -> dict[str, float]:
    """Mean over re-splits and their spread (2.5 to 97.5 %): how far a value moves when fitted again."""
    low, high = np.percentile(rows, (2.5, 97.5))
    return {"mean": round(float(np.mean(rows)), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def without_last_levels(method: Method, unit: Unit, levels: int) -> Method:
    """The method on the first levels alone."""
    return replace(method, columns=sum(width for _, width in unit.levels[method.kind][:levels]))
