"""RF-Deep's cost: features of a scan, fit of 20 + 20, score of a cached scan; beside the published procedure.

Usage: make bench, or .venv/bin/python benchmarks/ood.py [--rounds 3] [-o benchmarks/results/ood.json]

Features: SwinUNETR (feature size 48, random weights, the published layout of 1 488 numbers) on crops of 96³, one
thread. The published procedure is a plain loop: one crop at a time, MONAI's ``swinViT``, mean over space, default
allocator. Each side runs in processes of its own, in turn, because the allocator's settings hold for a process. What
is counted is processor time of the one thread, page faults included: other work on the machine disturbs it less than
the clock. Features are compared before any time is reported. Detectors: 160 rows of 1 488 numbers (20 + 20 scans, four
crops), against scikit-learn called directly (RandomForestClassifier; LedoitWolf + inverse; NearestNeighbors), and
against pytorch-ood's Mahalanobis and kNN where its environment was made (`make oracles`), features in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

EDGE, CROPS = 96, 2
REACH = {"features, times faster": 2.0, "features, largest difference": 1e-4, "fit s": 3.0, "score ms": 150.0}


def images() -> np.ndarray:
    return np.random.default_rng(0).random((CROPS, EDGE, EDGE, EDGE)).astype(np.float32)


def network() -> object:
    import torch
    from monai.networks.nets import SwinUNETR

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return SwinUNETR(in_channels=1, out_channels=2, feature_size=48).eval()


def plain(out: Path) -> None:
    """The published loop."""
    import torch

    net, crops = network(), images()
    times, rows = [], []
    with torch.no_grad():
        for crop in crops:
            begin = time.process_time()
            maps = net.swinViT(torch.from_numpy(crop[None, None]), net.normalize)
            rows.append(torch.cat([m.mean(dim=(2, 3, 4)) for m in maps], dim=1)[0].numpy())
            times.append(time.process_time() - begin)
    np.savez(out, rows=np.array(rows), seconds=np.array(times))


def whole(out: Path) -> None:
    """The same, with the decoder: what a hook on a segmenter costs that is not stopped."""
    import torch

    net, crops = network(), images()
    times = []
    with torch.no_grad():
        for crop in crops:
            begin = time.process_time()
            net(torch.from_numpy(crop[None, None]))
            times.append(time.process_time() - begin)
    np.savez(out, rows=np.zeros((0, 0)), seconds=np.array(times))


def ours(out: Path) -> None:
    from anatrust.models.stage_features import StageFeatures

    extractor, crops = StageFeatures(network(), stages=["swinViT"], probe=(32, 32, 32)), images()
    times, rows = [], []
    for crop in crops:
        begin = time.process_time()
        rows.append(extractor.extract(crop[None], (1.0, 1.0, 1.0))[0])
        times.append(time.process_time() - begin)
    np.savez(out, rows=np.array(rows), seconds=np.array(times))


def features(rounds: int) -> dict[str, object]:
    """Medians over rounds of seconds a crop, each side in a fresh process; the first crop warms up."""
    seconds: dict[str, list[float]] = {"plain": [], "whole": [], "ours": []}
    rows = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for side, kept in seconds.items():
                file = Path(folder) / f"{side}.npz"
                subprocess.run([sys.executable, __file__, "--side", side, "-o", str(file)], check=True, env=environment)
                with np.load(file, allow_pickle=False) as found:
                    rows[side] = found["rows"]
                    kept.append(float(found["seconds"][1:].min()))
    difference = float(np.abs(rows["plain"] - rows["ours"]).max())
    median = {side: round(statistics.median(values), 3) for side, values in seconds.items()}
    return {
        "crop": EDGE,
        "numbers": int(rows["ours"].shape[1]),
        "processor seconds a crop": median,
        "all rounds": {side: [round(v, 3) for v in values] for side, values in seconds.items()},
        "times faster than the plain loop": round(median["plain"] / median["ours"], 2),
        "largest difference": difference,
    }


def median_of(call: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def peer(inside: np.ndarray, scan: np.ndarray, rounds: int) -> dict[str, object]:
    """pytorch-ood's Mahalanobis and kNN in its own environment, and ours, on the same rows; [fit s, score ms]."""
    from anatrust.ood.detectors import make_detector

    def milliseconds(pair: list[float]) -> list[float]:
        return [round(pair[0], 4), round(1000 * pair[1], 2)]

    python = Path(__file__).parents[1] / ".oracles" / "pytorch_ood" / "bin" / "python"
    ours: dict[str, object] = {}
    for name in ("mahalanobis", "knn"):
        detector = make_detector(name)
        fit = median_of(lambda d=detector: d.fit([inside[:40], inside[40:]]), rounds)  # type: ignore[misc]
        ours[name] = milliseconds([fit, median_of(lambda d=detector: d.score([scan]), 5 * rounds)])  # type: ignore[misc]
    if not python.exists():
        return {"ours": ours, "pytorch-ood": "no environment; `make oracles` makes it"}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "rows.npz", inside=inside, scan=scan)
        worker = Path(__file__).parents[1] / "oracles" / "pytorch_ood_worker.py"
        command = [str(python), str(worker), "times", str(Path(folder) / "rows.npz"), str(rounds)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found = json.loads(done.stdout)
    theirs = {name: milliseconds(found[name]) for name in ("mahalanobis", "knn")}
    return {"what": "[fit s, score ms of one scan in memory]", "ours": ours, f"pytorch-ood {found['version']}": theirs}


def detectors(rounds: int) -> dict[str, object]:
    from sklearn.covariance import LedoitWolf
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.neighbors import NearestNeighbors

    from anatrust.ood import ScanFeatures, make_detector

    rng = np.random.default_rng(1)
    usual = [rng.normal(size=(4, 1488)).astype(np.float32) for _ in range(20)]
    strange = [rng.normal(0.3, 1, size=(4, 1488)).astype(np.float32) for _ in range(20)]
    levels = (("a", 48), ("b", 96), ("c", 192), ("d", 384), ("e", 768))
    table, labels = np.concatenate(usual + strange), np.repeat([0, 1], 80)
    inside = table[:80].astype(np.float64)
    scan = rng.normal(size=(8, 1488)).astype(np.float32)
    settings = {"n_estimators": 1000, "max_depth": 20, "class_weight": "balanced", "random_state": 0, "n_jobs": -1}

    def direct_maha() -> np.ndarray:
        found = LedoitWolf().fit(inside)
        return np.linalg.inv(found.covariance_ + 1e-5 * np.eye(1488))

    forest, maha, knn = (make_detector(name) for name in ("forest", "mahalanobis", "knn"))
    direct = RandomForestClassifier(**settings)
    fits = {
        "forest": median_of(lambda: forest.fit(usual, strange, levels=levels), rounds),
        "forest, scikit-learn called directly": median_of(lambda: direct.fit(table, labels), rounds),
        "mahalanobis": median_of(lambda: maha.fit(usual, levels=levels), rounds),
        "mahalanobis, LedoitWolf and inverse": median_of(direct_maha, rounds),
        "knn": median_of(lambda: knn.fit(usual, levels=levels), rounds),
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scan.npz"
        np.savez(file, **ScanFeatures("a", scan, levels, "bench").to_arrays())

        def cached(score: Callable[[np.ndarray], object]) -> Callable[[], object]:
            def call() -> object:
                with np.load(file, allow_pickle=False) as kept:
                    return score(ScanFeatures.from_arrays(dict(kept)).values)

            return call

        near = NearestNeighbors(n_neighbors=5).fit(inside)
        scores = {
            "forest": median_of(cached(lambda v: forest.score([v])), 5 * rounds),
            "forest, scikit-learn called directly": median_of(cached(lambda v: direct.predict_proba(v)), 5 * rounds),
            "mahalanobis": median_of(cached(lambda v: maha.score([v])), 5 * rounds),
            "knn": median_of(cached(lambda v: knn.score([v])), 5 * rounds),
            "knn, NearestNeighbors called directly": median_of(cached(lambda v: near.kneighbors(v)), 5 * rounds),
        }
    same = float(np.abs(forest.score_crops(scan) - direct.predict_proba(scan)[:, 1]).max())
    return {
        "rows": len(table),
        "fit seconds": {name: round(value, 3) for name, value in fits.items()},
        "score milliseconds of a cached scan": {name: round(1000 * value, 1) for name, value in scores.items()},
        "forest against scikit-learn, largest difference": same,
        "beside pytorch-ood": peer(table[:80], scan, rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=["plain", "whole", "ours"])
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/ood.json"))
    given = parser.parse_args()
    if given.side:
        {"plain": plain, "whole": whole, "ours": ours}[given.side](given.output)
        return
    found = {"features": features(given.rounds), "detectors": detectors(given.rounds)}
    speed, fit = found["features"], found["detectors"]
    observed = {
        "features, times faster": speed["times faster than the plain loop"],
        "features, largest difference": speed["largest difference"],
        "fit s": fit["fit seconds"]["forest"],
        "score ms": fit["score milliseconds of a cached scan"]["forest"],
    }
    reached = {
        name: {
            "reach": wanted,
            "observed": observed[name],
            "reached": bool(observed[name] >= wanted) if "times" in name else bool(observed[name] <= wanted),
        }
        for name, wanted in REACH.items()
    }
    machine = {
        "cpus": os.cpu_count(),
        "load at the end": round(os.getloadavg()[0], 1),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    versions = {name: version(name) for name in ("torch", "monai", "scikit-learn", "numpy")}
    result = {"benchmark": "ood", "machine": machine, "versions": versions, "reach": reached, **found}
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(reached, indent=1))


if __name__ == "__main__":
    main()
