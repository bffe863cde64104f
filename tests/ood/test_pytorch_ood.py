"""Detectors, logit scores and metrics against pytorch-ood; `oracles/pytorch_ood_worker.py` wrote its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import auc, precision_recall_curve

from anatrust.metrics import aupr, auroc, fpr_at_tpr
from anatrust.ood.detectors import make_detector
from anatrust.ood.detectors.mahalanobis import Mahalanobis
from anatrust.ood.logit_scores import logit_map


@pytest.fixture(scope="module")
def peer() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(__file__).with_suffix("").with_name("pytorch_ood.json").read_text())
    return found


def test_mahalanobis(peer: dict[str, Any]) -> None:
    """Theirs is half the distance under the scatter matrix, which is not divided by the number of rows."""
    inside = np.array(peer["inside"])
    ours = make_detector("mahalanobis", covariance="empirical").fit([inside[:15], inside[15:]])
    np.testing.assert_allclose(
        ours.score_crops(peer["asked"]) / (2 * len(inside)), peer["mahalanobis"], rtol=2e-4
    )  # ridges differ


def test_nearest_neighbours(peer: dict[str, Any]) -> None:
    inside = np.array(peer["inside"])
    ours = make_detector("knn", k=5, normalise="l2").fit([inside[:15], inside[15:]])
    np.testing.assert_allclose(ours.score_crops(peer["asked"]), peer["knn"], rtol=1e-9)


@pytest.mark.parametrize("score", ["msp", "maxlogit", "energy", "entropy"])
def test_logit_scores(peer: dict[str, Any], score: Any) -> None:
    np.testing.assert_allclose(logit_map(peer["logits"], score), peer[score], atol=2e-6)  # they clip at 1e-7


@pytest.mark.parametrize("kind", ["ash-p", "ash-s"])
def test_activation_shaping(peer: dict[str, Any], kind: Any) -> None:
    shaped = Mahalanobis(transform=kind, percentile=60.0)._transformed(np.array(peer["active"]))
    np.testing.assert_allclose(shaped, peer[kind.replace("-", "_")], rtol=1e-9)


def test_metrics(peer: dict[str, Any]) -> None:
    usual, strange = np.array(peer["usual"], float), np.array(peer["strange"], float)
    assert auroc(usual, strange) == pytest.approx(peer["metrics"]["AUROC"], abs=1e-12)
    assert fpr_at_tpr(usual, strange) == pytest.approx(peer["metrics"]["FPR95TPR"], abs=1e-12)
    # They join the points of the precision-recall curve by lines, which is optimistic; ours is average precision.
    for name, positive, negative in (("AUPR-OUT", strange, usual), ("AUPR-IN", -usual, -strange)):
        truth = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
        precision, recall, _ = precision_recall_curve(truth, np.r_[positive, negative])
        assert auc(recall, precision) == pytest.approx(peer["metrics"][name], abs=1e-9)
        assert aupr(positive, negative) == pytest.approx(peer["metrics"][name], abs=0.03)
