"""Dice, ASSD and HD95 against MONAI and a plain scipy transform: same inputs, interleaved, medians.

Usage: make bench, or .venv/bin/python benchmarks/metrics.py [--rounds 5] [-o benchmarks/results/metrics.json]

Two masks each: an organ (128×256×256) and a liver (300×512×512), spacing 1.5 × 0.8 × 0.8 mm, truth and prediction a
few voxels apart; and a pair far apart, which the k-d tree dislikes. Values are compared before anything is timed.
MONAI needs one call for ASSD and one for HD95; both are in its time.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance
from scipy.ndimage import distance_transform_edt

from anatrust.metrics import dice, surface_distances, surface_voxels

SPACING = (1.5, 0.8, 0.8)


def organ(shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...], seed: int) -> np.ndarray:
    """An ellipsoid (parts of the shape) with a wavy surface, smooth over tens of voxels."""
    grids = np.ogrid[tuple(slice(n) for n in shape)]
    distance = sum(((g / n - c) / r) ** 2 for g, n, c, r in zip(grids, shape, centre, radii, strict=True))
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, 3)
    wave = sum(np.sin(2 * np.pi * 4 * g / n + p) for g, n, p in zip(grids, shape, phase, strict=True))
    return distance < 1 + 0.06 * wave


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Named pairs of truth and prediction."""
    half = (0.5, 0.5, 0.5)
    return {
        "organ 128x256x256": tuple(organ((128, 256, 256), half, (0.3, 0.2, 0.22), seed) for seed in (0, 1)),
        "liver 300x512x512": tuple(organ((300, 512, 512), half, (0.3, 0.25, 0.3), seed) for seed in (2, 3)),
        "far apart 128x256x256": (
            organ((128, 256, 256), (0.2, 0.2, 0.2), (0.15, 0.15, 0.15), 4),
            organ((128, 256, 256), (0.75, 0.75, 0.75), (0.2, 0.2, 0.2), 5),
        ),
    }


def onehot(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask[None, None])


def monai_surface(truth: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    a, b = onehot(truth), onehot(prediction)
    mean = compute_average_surface_distance(b, a, True, True, spacing=SPACING)
    return float(mean), float(compute_hausdorff_distance(b, a, True, percentile=95, spacing=SPACING))


def scipy_surface(truth: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    """The textbook way, on the box around both masks."""
    hit = np.argwhere(truth | prediction)
    box = tuple(slice(a, b + 1) for a, b in zip(hit.min(axis=0), hit.max(axis=0), strict=True))
    a, b = surface_voxels(truth[box]), surface_voxels(prediction[box])
    there = distance_transform_edt(~b, sampling=SPACING)[a]
    back = distance_transform_edt(~a, sampling=SPACING)[b]
    both = np.concatenate([there, back])
    return float(both.mean()), float(max(np.percentile(there, 95), np.percentile(back, 95)))


def our_surface(truth: np.ndarray, prediction: np.ndarray, engine: str = "auto") -> tuple[float, float]:
    distances = surface_distances(truth, prediction, spacing=SPACING, engine=engine)
    return distances.assd(), distances.hausdorff()


def interleaved(rivals: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each rival, one run of each in turn."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, call in rivals.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="the organ only, one round")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).parent / "results" / "metrics.json")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="monai.metrics.utils", category=FutureWarning)
    rounds = 1 if arguments.quick else arguments.rounds
    results = {}
    for name, (truth, prediction) in cases().items():
        if arguments.quick and not name.startswith("organ"):
            continue
        values = {"anatrust": our_surface(truth, prediction), "monai": monai_surface(truth, prediction)}
        np.testing.assert_allclose(values["anatrust"], values["monai"], rtol=1e-5)
        np.testing.assert_allclose(values["anatrust"], scipy_surface(truth, prediction), rtol=1e-9)
        surface = interleaved(
            {
                "anatrust": lambda a=truth, b=prediction: our_surface(a, b),
                "anatrust, tree": lambda a=truth, b=prediction: our_surface(a, b, "tree"),
                "anatrust, transform": lambda a=truth, b=prediction: our_surface(a, b, "transform"),
                "monai": lambda a=truth, b=prediction: monai_surface(a, b),
                "scipy transform, cropped": lambda a=truth, b=prediction: scipy_surface(a, b),
            },
            rounds,
        )
        overlap = interleaved(
            {
                "anatrust": lambda a=truth, b=prediction: dice(a, b),
                "numpy": lambda a=truth, b=prediction: 2 * np.sum(a & b) / (np.sum(a) + np.sum(b)),
                "monai": lambda a=truth, b=prediction: compute_dice(onehot(b), onehot(a)),
            },
            rounds,
        )
        results[name] = {
            "assd_mm": round(values["anatrust"][0], 5),
            "hd95_mm": round(values["anatrust"][1], 5),
            "surface_voxels": [int(surface_voxels(m).sum()) for m in (truth, prediction)],
            "assd_and_hd95_seconds": {k: round(v, 5) for k, v in surface.items()},
            "dice_seconds": {k: round(v, 5) for k, v in overlap.items()},
        }
        print(name, json.dumps(results[name], indent=1))
    out = {
        "benchmark": "metrics",
        "rounds": rounds,
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": {name: version(name) for name in ("anatrust", "monai", "numpy", "scipy", "torch")},
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
