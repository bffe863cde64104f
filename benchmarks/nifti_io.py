"""Time reading and writing of a 512x512x300 int16 .nii.gz against nibabel and SimpleITK.

Run: python benchmarks/nifti_io.py [--rounds 5] [--out benchmarks/results/nifti_io.json]

The peers take turns within each round of one process, on the same file and the same array, so a
busy machine slows all of them; medians and their ratios are printed. The arrays read are compared
with nibabel's before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

from anatrust.image import Grid, Scan, read_scan, write_scan

SHAPE = (512, 512, 300)
AFFINE = np.diag([0.8, 0.8, 1.0, 1.0])


def volume() -> np.ndarray:
    """A body-like ellipse with noise on air, about as compressible as a CT."""
    rng = np.random.default_rng(7)
    x, y = np.meshgrid(np.linspace(-1, 1, SHAPE[0]), np.linspace(-1, 1, SHAPE[1]), indexing="ij")
    body = (x / 0.8) ** 2 + (y / 0.6) ** 2 < 1
    array = np.full(SHAPE, -1024, np.int16, order="F")
    for k in range(SHAPE[2]):
        array[body, k] = rng.normal(40, 20, int(body.sum())).astype(np.int16)
        array[~body, k] += rng.integers(0, 8, int((~body).sum()), dtype=np.int16)
    return array


def read_nibabel(path: Path) -> np.ndarray:
    return np.asanyarray(nibabel.load(path).dataobj)


def read_simpleitk(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "nifti_io.json")
    arguments = parser.parse_args()
    array = volume()
    scan = Scan(array, Grid(SHAPE, AFFINE), "CT")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.nii.gz"
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), source)
        target = {name: Path(folder) / f"{name}.nii.gz" for name in ("anatrust", "nibabel", "SimpleITK")}
        readers = {
            "anatrust": lambda: read_scan(source).array,
            "nibabel": lambda: read_nibabel(source),
            "SimpleITK": lambda: read_simpleitk(source),
        }
        itk_image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
        writers = {
            "anatrust": lambda: write_scan(target["anatrust"], scan),
            "nibabel": lambda: nibabel.save(nibabel.Nifti1Image(array, AFFINE), target["nibabel"]),
            "SimpleITK": lambda: SimpleITK.WriteImage(itk_image, str(target["SimpleITK"])),
        }
        for name, read in readers.items():
            assert np.array_equal(read(), array), name
        times: dict[str, dict[str, list[float]]] = {"read": {n: [] for n in readers}, "write": {n: [] for n in writers}}
        for _ in range(arguments.rounds):
            for job, peers in (("read", readers), ("write", writers)):
                for name, call in peers.items():
                    start = time.perf_counter()
                    call()
                    times[job][name].append(time.perf_counter() - start)
        sizes = {name: path.stat().st_size for name, path in target.items()}
        for name, path in target.items():
            assert np.array_equal(read_nibabel(path), array), name
            assert np.array_equal(read_simpleitk(path), array), name
    result = {
        "benchmark": "nifti_io",
        "shape": SHAPE,
        "dtype": "int16",
        "rounds": arguments.rounds,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
        "versions": {name: version(name) for name in ("numpy", "nibabel", "SimpleITK", "isal")},
        "file_bytes": sizes,
        "jobs": {},
    }
    for job, peers in times.items():
        medians = {name: statistics.median(values) for name, values in peers.items()}
        ratios = {name: medians[name] / medians["anatrust"] for name in medians if name != "anatrust"}
        result["jobs"][job] = {"seconds": peers, "median_seconds": medians, "times_as_fast_as": ratios}
        shown = ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in medians.items())
        print(f"{job}: {shown}; " + ", ".join(f"{r:.1f}x {name}" for name, r in ratios.items()))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
