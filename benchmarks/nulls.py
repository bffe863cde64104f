"""Time of the default nulls: 50 candidates in a liver CT, one feature and sixteen.

Every null with 999 draws. Usage: .venv/bin/python benchmarks/nulls.py [--rounds 3] [--data FOLDER] [-o FILE]

Candidates are balls of 50 to 4 000 voxels (median 576) at random places of the liver of the
AMOS CT in FOLDER/amos_ct; where it is absent, of an ellipsoid of the same size filled with correlated noise.
Compilation is warmed up first; nulls take turns in every round; medians are reported, of the clock and of all
cores together (`processor_seconds`): a busy machine lengthens the first far more than the second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from anatrust.statistics.placement import placement_tests
from anatrust.statistics.surrogate import surrogate_max_test

ROOT = Path(__file__).resolve().parents[1]
SPACING = (0.846, 0.846, 5.0)
GOALS = {1: 2.0, 16: 10.0}


def liver(folder: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Image and liver mask, cropped, and where they come from."""
    if (folder / "amos_ct" / "image.nii.gz").exists():
        import nibabel as nib

        image = np.asarray(nib.load(folder / "amos_ct" / "image.nii.gz").dataobj).astype(np.float32)
        mask = np.asarray(nib.load(folder / "amos_ct" / "labels.nii.gz").dataobj) == 6
        box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(mask))
        return image[box], mask[box], "AMOS CT, label 6"
    shape = (271, 206, 31)
    grid = np.indices(shape)
    mask = sum(((g - n / 2) / (0.46 * n)) ** 2 for g, n in zip(grid, shape, strict=True)) <= 1
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return gaussian_filter(noise, (1.5, 1.5, 0.4)), mask, "phantom"


def balls(mask: np.ndarray, rng: np.random.Generator, count: int = 50) -> list[np.ndarray]:
    """Balls within the mask whose volumes have the median and the range named above."""
    grid, inside, found = np.indices(mask.shape), np.argwhere(mask), []
    volumes = np.exp(rng.normal(np.log(576), 1.0, count)).clip(50, 4000)
    while len(found) < count:
        centre = inside[rng.integers(len(inside))]
        radius = (3 * volumes[len(found)] * np.prod(SPACING) / 4 / np.pi) ** (1 / 3)
        ball = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, SPACING, strict=True)) <= radius**2
        if ball.sum() >= 40 and not (ball & ~mask).any():
            found.append(ball)
    return found


def descriptors(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Sixteen smoothed copies, standardised: as many numbers a voxel as local descriptors have."""
    copies = [image, *(gaussian_filter(image, (s, s, s / 6)) for s in np.linspace(0.1, 0.9, 15))]
    return np.stack([(c - c[mask].mean()) / c[mask].std() for c in copies], axis=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "benchmarks" / "results" / "nulls.json")
    options = parser.parse_args()
    image, mask, source = liver(options.data)
    candidates = balls(mask, np.random.default_rng(0))
    low, high = np.percentile(image[mask], (0.5, 99.5))
    features = {1: np.round(np.clip((image - low) / (high - low), 0, 1) * 255) / 255, 16: descriptors(image, mask)}
    together = np.any(candidates, axis=0)
    others = [together & ~c for c in candidates]
    tests = {
        "placement": lambda d: placement_tests(features[d], mask, candidates, excluded=others, n_draws=999, seed=0),
        "surrogate-max": lambda d: surrogate_max_test(
            features[d], mask, candidates, spacing=SPACING, n_surrogates=999, seed=0
        ),
    }
    times: dict[tuple[str, int], list[float]] = {(name, d): [] for name in tests for d in features}
    busy: dict[tuple[str, int], list[float]] = {cell: [] for cell in times}
    for turn in range(options.rounds + 1):
        for name, d in times:
            start, start_busy = time.perf_counter(), time.process_time()
            results = tests[name](d)
            if turn:  # the first turn compiles
                times[name, d].append(time.perf_counter() - start)
                busy[name, d].append(time.process_time() - start_busy)
            assert len(results) == len(candidates)
            assert all(r.abstained is None for r in results), results[0].abstained
    report = {
        "command": "benchmarks/nulls.py",
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load_average": [round(v, 1) for v in os.getloadavg()],
        "data": source,
        "candidates": sorted(int(c.sum()) for c in candidates),
        "rounds": options.rounds,
        "cells": [
            {
                "null": name,
                "features": d,
                "draws": 999,
                "seconds": round(statistics.median(seconds), 2),
                "all_seconds": [round(s, 2) for s in seconds],
                "processor_seconds": round(statistics.median(busy[name, d]), 2),
                "goal_seconds": GOALS[d],
            }
            for (name, d), seconds in times.items()
        ],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    for cell in report["cells"]:
        print(f"{cell['null']:14} d={cell['features']:2}  {cell['seconds']:6.2f} s  (goal {cell['goal_seconds']} s)")


if __name__ == "__main__":
    main()
