"""Where `anatrust segment` spends time and memory: a 512x512 slice and a 512x512x300 volume, 1 to 50 candidates.

A 512x512x600 volume without any anatomy, so that the search is the whole frame, shows the memory it takes.

Run: python benchmarks/segment.py [--quick] [--out benchmarks/results/segment.json]

Each case runs in a process of its own, whose largest resident memory is read from the system. The
network is the small U-Net with random weights, asked in every region through every view; its answer
is then replaced by balls that were planted, so that the number of candidates is known. Its time is
"the model's"; all else is ours. The axes are candidates, null draws B and regions Γ. Seconds are those of the
processor (one thread), so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np

SHAPES = {"slice": (512, 512), "volume": (512, 512, 300), "whole body": (512, 512, 600)}
QUICK = {"slice": (192, 192), "volume": (128, 128, 40), "whole body": (128, 128, 60)}
SPACING = (0.75, 0.75, 1.0)


def patient(shape: tuple[int, ...], count: int):
    """A noisy body with an organ that holds ``count`` dark balls; scan, organ and balls."""
    from anatrust.image.grid import Grid
    from anatrust.image.volumes import LabelMap, Scan

    rng = np.random.default_rng(7)
    grid = Grid(shape, np.diag([*SPACING[: len(shape)], *[1.0] * (4 - len(shape))]))
    body = tuple(slice(n // 8, n - n // 8) for n in shape[:2])
    organ = np.zeros(shape, np.uint8)
    middle = tuple(slice(int(0.35 * n), int(0.60 * n)) for n in shape)
    organ[middle] = 1
    image = np.full(shape, -1000, np.int16)
    planes = [(...,)] if len(shape) == 2 else [(..., k) for k in range(shape[2])]
    for plane in planes:
        noise = rng.normal(0, 12, image[plane][body].shape)
        image[plane][body] = (40 + noise).astype(np.int16)
    image[organ > 0] += 60
    balls = np.zeros(shape, bool)
    edge = int(np.ceil(count ** (1 / len(shape)) - 1e-9))
    places = np.stack(np.meshgrid(*[np.arange(edge)] * len(shape), indexing="ij"), -1).reshape(-1, len(shape))[:count]
    radius = 4
    for place in places:
        centre = [int(m.start + (m.stop - m.start) * (p + 0.5) / edge) for m, p in zip(middle, place, strict=True)]
        box = tuple(slice(c - radius, c + radius + 1) for c in centre)
        index = np.indices([2 * radius + 1] * len(shape)) - radius
        balls[box] |= (index**2).sum(axis=0) <= radius**2
    image[balls] -= 40
    return Scan(image, grid, "CT", "HU"), LabelMap(organ, grid, {1: "liver"}), balls


class Timed:
    """The U-Net, timed; what it answers is replaced by the planted balls."""

    name = "unet"

    def __init__(self, ndim: int, balls: np.ndarray) -> None:
        import torch

        from anatrust.models.segmenters.unet import UNetTarget
        from anatrust.models.unet import UNet, UNetConfig

        torch.manual_seed(0)
        self._inner = UNetTarget(UNet(UNetConfig(ndim, ("background", "lesion"))))
        self.identity = self._inner.identity
        self.capabilities = replace(self._inner.capabilities, mirrors=True)
        self.seconds, self._balls = 0.0, balls
        self.asked = 0

    def segment(self, scan, prompt, region):  # noqa: D102
        begin = time.process_time()
        found = self._inner.segment(scan, prompt, region)
        self.seconds += time.process_time() - begin
        self.asked += 1
        # Mirrored views are mirrored scans; the planted balls stand in the unmirrored one.
        flips = [ax for ax in range(scan.array.ndim) if scan.array.strides[ax] < 0]
        planted = np.flip(self._balls, flips)[region.slices] if flips else self._balls[region.slices]
        return replace(found, array=np.where(planted, 0.9, 0.05).astype(np.float32)[None])


class Blobless(Timed):
    """No network at all: what is left is ours alone, but for writing the answer down."""

    name = "planted"

    def __init__(self, _ndim: int, balls: np.ndarray) -> None:
        from anatrust.models.segmentation import Capabilities

        self.identity, self.capabilities = "planted", Capabilities(mirrors=False)
        self.seconds, self._balls, self.asked = 0.0, balls, 0

    def segment(self, scan, _prompt, region):  # noqa: D102
        from anatrust.image.region import crop_grid
        from anatrust.image.volumes import ProbabilityMap

        self.asked += 1
        begin = time.process_time()
        array = np.where(self._balls[region.slices], np.float32(0.9), np.float32(0.05))
        self.seconds += time.process_time() - begin
        return ProbabilityMap(array[None], crop_grid(scan.grid, region))


def one(case: dict) -> dict:
    """One run in this process."""
    from anatrust.pipeline.propose import ProposalSettings
    from anatrust.pipeline.segment import segment
    from anatrust.rejection.settings import RejectionSettings

    scan, organ, balls = patient(tuple(case["shape"]), case["candidates"])
    model = (Timed if case["model"] == "unet" else Blobless)(scan.grid.ndim, balls)
    stages: list[tuple[str, float]] = []

    def progress(words: str, _done: int, _total: int) -> None:
        stages.append((words.split(" ")[0], time.process_time()))

    settings = RejectionSettings(null=case["null"], n_surrogates=case["draws"], n_draws=case["draws"])
    how = ProposalSettings(scales=tuple(case["scales"]))
    # Compiling and importing happen once a process, not once a scan; the path must be that of the large one.
    small, near, few = patient(QUICK["slice" if len(case["shape"]) == 2 else "volume"], 10)
    segment(small, "liver tumour", segmenter=Blobless(small.grid.ndim, few), anatomy=near, settings=settings)
    begin = time.process_time()
    verdict = segment(
        scan,
        "liver tumour",
        segmenter=model,
        anatomy=None if case["kind"] == "whole body" else organ,
        settings=settings,
        proposal=how,
        progress=progress,
    )
    total = time.process_time() - begin
    spent: dict[str, float] = {}
    for (name, start), (_, stop) in pairwise(stages):
        spent[name] = spent.get(name, 0.0) + stop - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        **case,
        "found": len(verdict.candidates),
        "answers": model.asked,
        "cpu_seconds": round(total, 3),
        "model_cpu_seconds": round(model.seconds, 3),
        "own_cpu_seconds": round(total - model.seconds, 3),
        "stages": {name: round(value, 3) for name, value in spent.items()},
        "peak_bytes": peak,
    }


def cases(quick: bool) -> list[dict]:
    shapes = QUICK if quick else SHAPES
    made = []
    for kind, shape in shapes.items():
        if kind == "whole body":
            # No anatomy: the search is the whole frame, the most memory there is to need.
            whole = {"kind": kind, "shape": shape, "null": "auto", "draws": 199, "scales": [1.0]}
            made += [{**whole, "model": "planted", "candidates": 10}]
            continue
        base = {"kind": kind, "shape": shape, "null": "auto", "draws": 199, "scales": [0.5, 1.0, 2.0]}
        made += [{**base, "model": "planted", "candidates": count} for count in (1, 10, 50)]
        made += [{**base, "model": "planted", "candidates": 10, "draws": draws} for draws in (99, 999)]
        made += [{**base, "model": "planted", "candidates": 10, "scales": [1.0]}]
        made += [{**base, "model": "planted", "candidates": 10, "null": "placement", "draws": 999}]
        # Its time grows with every region and view: one scale of the volume takes minutes.
        made += [{**base, "model": "unet", "candidates": 10, **({"scales": [1.0]} if kind == "volume" else {})}]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small images: a few seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "segment.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(json.loads(arguments.one))))
        return
    rows = []
    for case in cases(arguments.quick):
        command = [sys.executable, str(Path(__file__).resolve()), "--one", json.dumps(case)]
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
        )
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **threads})
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        stages = ", ".join(f"{name} {value:.2f}" for name, value in row["stages"].items())
        print(
            f"{row['kind']}, {row['model']}, K={row['candidates']}, {row['null']} B={row['draws']}, "
            f"{len(row['scales'])} scales: {row['cpu_seconds']:.2f} s "
            f"(model {row['model_cpu_seconds']:.2f}; {stages}), {row['peak_bytes'] / 2**30:.2f} GiB",
            flush=True,
        )
    result = {
        "benchmark": "segment",
        "quick": arguments.quick,
        "threads": 1,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
        "versions": {name: version(name) for name in ("numpy", "scipy", "torch")},
        "cases": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
