"""Write tests/metrics/surface_distance.json: what surface-distance 0.1 answers for a few drawn masks.

Usage: make oracles && .oracles/surface_distance/bin/python oracles/surface_distance_values.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import surface_distance

# A mask is the union of boxes [[start, stop], ...] and balls [centre, radius in mm]; all in voxel indices.
CASES = {
    "two voxels, 2-D": {
        "shape": [16, 12],
        "spacing": [1.0, 2.0],
        "truth": {"boxes": [[[3, 4], [3, 4]]]},
        "prediction": {"boxes": [[[9, 10], [3, 4]]]},
    },
    "disc and shifted disc": {
        "shape": [80, 80],
        "spacing": [0.8, 0.8],
        "truth": {"balls": [[[36, 40], 20.0]]},
        "prediction": {"balls": [[[40, 43], 20.0]]},
    },
    "box in box": {
        "shape": [40, 40, 30],
        "spacing": [1.0, 1.0, 1.5],
        "truth": {"boxes": [[[5, 35], [5, 35], [5, 25]]]},
        "prediction": {"boxes": [[[9, 31], [9, 31], [8, 22]]]},
    },
    "ball and larger ball": {
        "shape": [60, 60, 40],
        "spacing": [1.0, 1.0, 1.5],
        "truth": {"balls": [[[30, 30, 20], 18.0]]},
        "prediction": {"balls": [[[30, 30, 20], 24.0]]},
    },
    "two balls, one found": {
        "shape": [70, 40, 40],
        "spacing": [0.7, 1.1, 0.9],
        "truth": {"balls": [[[15, 20, 20], 8.0], [[55, 20, 20], 8.0]]},
        "prediction": {"balls": [[[16, 20, 20], 8.0]]},
    },
    "equal": {
        "shape": [30, 30, 30],
        "spacing": [2.0, 1.0, 1.0],
        "truth": {"balls": [[[15, 15, 15], 9.0]]},
        "prediction": {"balls": [[[15, 15, 15], 9.0]]},
    },
}


def draw(shape: list[int], spacing: list[float], parts: dict[str, list]) -> np.ndarray:
    """The mask a case describes."""
    mask = np.zeros(shape, dtype=bool)
    for box in parts.get("boxes", []):
        mask[tuple(slice(*edge) for edge in box)] = True
    grid = np.indices(shape)
    for centre, radius in parts.get("balls", []):
        mask |= sum(((grid[i] - c) * spacing[i]) ** 2 for i, c in enumerate(centre)) <= radius**2
    return mask


def main() -> None:
    """Compute and write the values."""
    out = {"package": f"surface-distance {version('surface-distance')}", "cases": {}}
    for name, case in CASES.items():
        masks = [draw(case["shape"], case["spacing"], case[side]) for side in ("truth", "prediction")]
        distances = surface_distance.compute_surface_distances(*masks, case["spacing"])
        there, back = surface_distance.compute_average_surface_distance(distances)
        out["cases"][name] = case | {
            "voxels": [int(m.sum()) for m in masks],
            "average_distances": [float(there), float(back)],
            "hd95": float(surface_distance.compute_robust_hausdorff(distances, 95)),
            "dice": float(surface_distance.compute_dice_coefficient(*masks)),
        }
    path = Path(__file__).parents[1] / "tests" / "metrics" / "surface_distance.json"
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(case)}" for name, case in out["cases"].items())
    path.write_text(f'{{\n "package": "{out["package"]}",\n "cases": {{\n{rows}\n }}\n}}\n', encoding="utf-8")
    print(f"wrote {path.name}: {len(CASES)} cases")


if __name__ == "__main__":
    main()
