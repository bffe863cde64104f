"""What pytorch-ood 0.4.0 answers: values for tests/ood/pytorch_ood.json, or times for benchmarks/ood.py.

Usage: make oracles && .oracles/pytorch_ood/bin/python oracles/pytorch_ood_worker.py values
       .oracles/pytorch_ood/bin/python oracles/pytorch_ood_worker.py times TABLE.npz ROUNDS
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

try:
    importlib.import_module("pytorch_ood")
except RuntimeError:  # torchvision's operators are built for another torch (CPU, CUDA); none of them is used here
    for name in [name for name in sys.modules if name.startswith(("torchvision", "pytorch_ood"))]:
        del sys.modules[name]
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from pytorch_ood.detector import KNN, EnergyBased, Entropy, Mahalanobis, MaxLogit, MaxSoftmax
from pytorch_ood.detector.ash import ash_p, ash_s
from pytorch_ood.metrics import OODMetrics


def values() -> None:
    """Small drawn inputs, written with the answers, so that the test needs no generator."""
    rng = np.random.default_rng(41)
    inside, asked = rng.normal(size=(30, 4)).round(3), (2 * rng.normal(size=(6, 4))).round(3)
    logits = (3 * rng.normal(size=(3, 8))).round(3)  # classes first
    usual, strange = rng.integers(0, 12, 25), rng.integers(4, 16, 18)  # with ties
    active = np.abs(rng.normal(size=(3, 20))).round(3)
    z, y = torch.tensor(inside), torch.zeros(len(inside), dtype=torch.long)
    maha = Mahalanobis(None).fit_features(z.float(), y)
    knn = KNN(None, k=5).fit_features(z, y)
    columns = torch.tensor(logits.T)
    metrics = OODMetrics()
    scores = np.concatenate([usual, strange]).astype(float)
    metrics.update(torch.tensor(scores), torch.tensor([0] * len(usual) + [-1] * len(strange)))
    maps = torch.tensor(active)[:, :, None, None]
    out = {
        "package": f"pytorch-ood {version('pytorch-ood')}",
        "inside": inside.tolist(),
        "asked": asked.tolist(),
        "mahalanobis": maha.predict_features(torch.tensor(asked).float()).tolist(),
        "knn": knn.predict_features(torch.tensor(asked)).tolist(),
        "logits": logits.tolist(),
        "msp": MaxSoftmax.score(columns).tolist(),
        "maxlogit": MaxLogit.score(columns).tolist(),
        "energy": EnergyBased.score(columns).tolist(),
        "entropy": Entropy.score(columns).tolist(),
        "active": active.tolist(),
        "ash_p": ash_p(maps, 0.6)[:, :, 0, 0].tolist(),
        "ash_s": ash_s(maps, 0.6)[:, :, 0, 0].tolist(),
        "usual": usual.tolist(),
        "strange": strange.tolist(),
        "metrics": {name: float(value) for name, value in metrics.compute().items()},
    }
    path = Path(__file__).parents[1] / "tests" / "ood" / "pytorch_ood.json"
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in out.items())
    path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    print(f"wrote {path.name}: {len(out)} entries")


def median_of(call, rounds: int) -> float:
    found = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def times(table: str, rounds: int) -> None:
    """Seconds to fit on the usual rows and to score one scan's crops; one thread, features in memory."""
    torch.set_num_threads(1)
    with np.load(table, allow_pickle=False) as kept:
        inside, scan = torch.from_numpy(kept["inside"]), torch.from_numpy(kept["scan"])
    y = torch.zeros(len(inside), dtype=torch.long)
    maha, knn = Mahalanobis(None), KNN(None, k=5)
    found = {
        "mahalanobis": [
            median_of(lambda: maha.fit_features(inside, y), rounds),
            median_of(lambda: maha.predict_features(scan), 5 * rounds),
        ],
        "knn": [
            median_of(lambda: knn.fit_features(inside, y), rounds),
            median_of(lambda: knn.predict_features(scan), 5 * rounds),
        ],
    }
    print(json.dumps({"version": version("pytorch-ood"), **found}))


if __name__ == "__main__":
    if sys.argv[1] == "values":
        values()
    else:
        times(sys.argv[2], int(sys.argv[3]))
