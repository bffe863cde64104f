"""Conformal sets against the libraries that do a part of them: same inputs, interleaved, medians.

Usage: make bench, or .venv/bin/python benchmarks/conformal.py [--quick] [--rounds 5] [--parts walk,graph] [-o FILE]

*threshold*: 20 probability maps of 512 x 512 calibrated by MAPIE, by a grid of 1 000 thresholds in NumPy and by our
exact threshold; ours alone for 100 and 1 000 maps, read one by one, with its peak memory. *graph*: the 20 nearest
neighbours by cosine at 32², 64² and 128² nodes of 384 features against faiss (flat), scikit-learn, and pynndescent
and hnswlib where they are installed (approximate: their recall is given). *walk*: 10 steps with 1 and 4 classes
against SciPy and torch sparse products. *slice*: features to sets of one 512 x 512 slice on 32² nodes. *volume*: the
same for 512 x 512 x 300, edges within a slice and its neighbours. The encoder is not timed. Threads are those of the
environment, the same for everybody; results are compared before anything is timed. Ratios are rival over ours: above
1 we are faster.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from anatrust.conformal.diffusion import diffuse
from anatrust.conformal.graph import cosine_neighbours, transition_matrix
from anatrust.conformal.recipe import ScoreRecipe
from anatrust.conformal.sets import SetCalibration
from anatrust.image.grid import Grid
from anatrust.statistics.loss_curves import outer_loss_curve, quantise
from anatrust.statistics.risk_control import RiskThreshold, conformal_threshold

K, DIMENSIONS, ALPHA = 20, 384, 0.1
PARTS = ("threshold", "graph", "walk", "slice_seconds", "volume_seconds")
Calls = dict[str, Callable[[], object]]


def timed(calls: Calls, rounds: int) -> dict[str, float]:
    """Median seconds of each call; every call takes its turn in every round, after a warm-up."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            spent[name].append(time.perf_counter() - start)
    return {name: round(statistics.median(values), 6) for name, values in spent.items()}


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    """Rival over ours."""
    return {name: round(value / seconds["anatrust"], 2) for name, value in seconds.items() if name != "anatrust"}


def maps(count: int, size: int = 512) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Probability maps of discs with noise, and their truth."""
    x, y = np.indices((size, size), dtype=np.float32) / size
    for k in range(count):
        rng = np.random.default_rng([1, k])
        centre, radius = rng.uniform(0.35, 0.65, 2), rng.uniform(0.08, 0.2)
        distance = np.hypot(x - centre[0], y - centre[1]) - radius
        logits = -40 * distance + rng.normal(0, 2, (size, size)).astype(np.float32)
        yield np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32), distance < 0


def our_threshold(images: Iterator[tuple[np.ndarray, np.ndarray]] | list) -> int:
    curves = (outer_loss_curve([(quantise(p[truth]), np.ones(int(truth.sum()), dtype=bool))]) for p, truth in images)
    return conformal_threshold((c for c in curves if c is not None), ALPHA, safe="low").threshold


def grid_threshold(images: list) -> float:
    """1 000 thresholds, the largest that passes; only positives are looked at."""
    own = [np.asarray(p[truth]) for p, truth in images]
    n, best = len(own), 0.0
    for level in np.arange(1000) / 1000:
        risk = np.mean([np.count_nonzero(p < level) / p.size for p in own])
        if (n * risk + 1) / (n + 1) > ALPHA:
            break
        best = float(level)
    return best


def mapie_threshold(images: list) -> float:
    from mapie.risk_control import SemanticSegmentationController

    controller = SemanticSegmentationController(
        predict_function=lambda x: x, risk="recall", method="crc", target_level=1 - ALPHA
    )
    scores, truths = (np.array([pair[k] for pair in images])[:, None] for k in (0, 1))
    controller.calibrate(scores, truths.astype(int))
    return float(np.ravel(controller.best_predict_param)[0])


def threshold_benchmark(rounds: int, quick: bool) -> dict:
    images = list(maps(10 if quick else 20, 128 if quick else 512))
    found = our_threshold(images) / 65_535
    assert abs(found - grid_threshold(images)) <= 0.002, "the grid is a coarser form of the same threshold"
    assert -1e-9 <= found - mapie_threshold(images) <= 0.011
    seconds = timed({"anatrust": lambda: our_threshold(images), "grid of 1000": lambda: grid_threshold(images)}, rounds)
    seconds |= timed({"MAPIE": lambda: mapie_threshold(images)}, 1 if quick else 3)
    streamed = {}
    for count in (20, 50) if quick else (20, 100, 1000):
        tracemalloc.start()
        start = time.perf_counter()
        our_threshold(maps(count, 128 if quick else 512))
        streamed[str(count)] = {
            "seconds_with_making_the_maps": round(time.perf_counter() - start, 3),
            "peak_megabytes": round(tracemalloc.get_traced_memory()[1] / 1e6, 1),
        }
        tracemalloc.stop()
    return {"seconds": seconds, "ratios": ratios(seconds), "streamed": streamed}


def streamed_flat(streamed: dict) -> bool:
    """Whether the longest stream's peak is within a tenth of that of the one before."""
    peaks = [cell["peak_megabytes"] for cell in streamed.values()]
    return peaks[-1] <= 1.1 * peaks[-2]


def features(nodes: int) -> np.ndarray:
    """Clustered features, as an encoder's are."""
    rng = np.random.default_rng(nodes)
    centres = rng.normal(size=(40, DIMENSIONS))
    return np.asarray(centres[rng.integers(40, size=nodes)] + rng.normal(size=(nodes, DIMENSIONS)), dtype=np.float32)


def faiss_graph(rows: np.ndarray) -> np.ndarray:
    import faiss

    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    return index.search(unit, K + 1)[1]


def sklearn_graph(rows: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute").fit(rows).kneighbors()[1]


def pynndescent_graph(rows: np.ndarray) -> np.ndarray:
    from pynndescent import NNDescent

    return NNDescent(rows, metric="cosine", n_neighbors=K + 1, random_state=0).neighbor_graph[0]


def hnswlib_graph(rows: np.ndarray) -> np.ndarray:
    import hnswlib

    index = hnswlib.Index(space="cosine", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), M=16, ef_construction=80, random_seed=0)
    index.add_items(rows)
    index.set_ef(80)
    return index.knn_query(rows, K + 1)[0]


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact neighbours that were found."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]))


def graph_benchmark(rounds: int, quick: bool) -> dict:
    rivals = {"faiss flat": faiss_graph, "scikit-learn": sklearn_graph}
    approximate = {"pynndescent": pynndescent_graph, "hnswlib": hnswlib_graph}
    rivals |= {name: call for name, call in approximate.items() if importlib.util.find_spec(name)}
    results: dict = {"absent": [n for n in ("pynndescent", "hnswlib") if n not in rivals]}
    for side in (16, 32) if quick else (32, 64, 128):
        rows = features(side * side)
        exact = cosine_neighbours(rows, K).indices
        found = {name: round(recall(call(rows), exact), 4) for name, call in rivals.items()}
        assert min(found[n] for n in ("faiss flat", "scikit-learn")) > 0.999, found
        calls: Calls = {"anatrust": lambda rows=rows: cosine_neighbours(rows, K)}
        calls |= {name: lambda call=call, rows=rows: call(rows) for name, call in rivals.items()}
        seconds = timed(calls, rounds if side < 128 else min(rounds, 3))
        results[f"{side}x{side}"] = {"seconds": seconds, "ratios": ratios(seconds), "recall": found}
    return results


def walk_benchmark(rounds: int, quick: bool) -> dict:
    import torch

    results = {}
    for side in (32,) if quick else (32, 64, 128):
        matrix = transition_matrix(cosine_neighbours(features(side * side), K))
        draws = np.random.default_rng(0).dirichlet(np.ones(4), side * side)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls its CSR layout a beta
            csr = torch.sparse_csr_tensor(
                torch.from_numpy(matrix.indptr.astype(np.int64)),
                torch.from_numpy(matrix.indices.astype(np.int64)),
                torch.from_numpy(matrix.data),
                size=matrix.shape,
            )
        # One structure at a time is what the product does; four classes at once is what the paper speaks of.
        for classes, scores in ((1, np.ascontiguousarray(draws[:, 0])), (4, draws)):

            def scipy_walk(matrix=matrix, scores=scores) -> np.ndarray:
                current = scores
                for _ in range(10):
                    current = matrix @ current
                return current

            def torch_walk(csr=csr, scores=scores) -> np.ndarray:
                current = torch.from_numpy(scores)
                for _ in range(10):
                    current = csr @ current
                return current.numpy()

            ours = diffuse(scores, matrix, steps=10)
            for other in (scipy_walk(), torch_walk()):
                np.testing.assert_allclose(other, ours, atol=1e-9)
            calls: Calls = {
                "anatrust": lambda matrix=matrix, scores=scores: diffuse(scores, matrix, steps=10),
                "scipy.sparse": scipy_walk,
                "torch.sparse": torch_walk,
            }
            # Less than 10 ms each: more rounds, for the median to be steady.
            seconds = timed(calls, 20 * rounds)
            results[f"{side}x{side}, {classes} classes"] = {"seconds": seconds, "ratios": ratios(seconds)}
    return results


def whole(shape: tuple[int, ...], patch: int, rounds: int) -> dict[str, float]:
    """Median seconds by the clock from patch features and probabilities to both sets, and processor time of a call."""
    grid = Grid(shape, np.diag([1.0, 1.0, 2.0, 1.0]))
    recipe = ScoreRecipe("graph", {"patch": patch, "laziness": 0.5, "slices": 1})
    nodes = recipe.patches(shape, grid.spacing)
    rows = features(nodes.nodes).reshape(*nodes.grid, DIMENSIONS)
    plane = np.asarray(next(maps(1, shape[0]))[0])
    probabilities = plane if len(shape) == 2 else np.ascontiguousarray(np.repeat(plane[..., None], shape[2], axis=2))
    image = np.zeros(shape, dtype=np.float32)
    outer, inner = (
        RiskThreshold(q, True, ALPHA, 20, 0.05, safe, "") for q, safe in ((20_000, "low"), (50_000, "high"))
    )
    calibration = SetCalibration("disc", recipe, outer, inner, 20, 0)
    call = lambda: calibration.predict(probabilities, image, grid, lambda: rows)  # noqa: E731
    start = time.process_time()
    call()
    return {"processor": round(time.process_time() - start, 4), "clock": timed({"anatrust": call}, rounds)["anatrust"]}


def main() -> int:
    """Run everything, print ratios, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small inputs: shows that it runs, decides nothing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, default=None)
    parser.add_argument("--parts", default=",".join(PARTS), help="measure only these, keep the others of the file")
    given = parser.parse_args()
    rounds, quick = (1 if given.quick else given.rounds), given.quick
    target = given.output or Path(__file__).parent / "results" / "conformal.json"
    chosen = given.parts.split(",")
    if not set(chosen) <= set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}, not {given.parts}")
    kept = {} if len(chosen) == len(PARTS) else json.loads(target.read_text(encoding="utf-8"))
    results, measured = dict(kept.get("results", {})), dict(kept.get("measured", {}))
    calls: dict[str, Callable[[], dict]] = {
        "threshold": lambda: threshold_benchmark(rounds, quick),
        "graph": lambda: graph_benchmark(rounds, quick),
        "walk": lambda: walk_benchmark(rounds, quick),
        "slice_seconds": lambda: whole((128, 128) if quick else (512, 512), 16, rounds),
        "volume_seconds": lambda: whole((64, 64, 10) if quick else (512, 512, 300), 16, 1),
    }
    for name in chosen:
        results[name] = calls[name]()
        # The load matters: others may have been at work on the machine.
        measured[name] = {"rounds": rounds, "load": round(os.getloadavg()[0], 1)}
    targets = {
        "threshold at least 100 times as fast as MAPIE": results["threshold"]["ratios"]["MAPIE"] >= 100,
        "graph never slower than the best exact one": all(
            min(cell["ratios"][n] for n in ("faiss flat", "scikit-learn")) >= 1
            for name, cell in results["graph"].items()
            if name != "absent"
        ),
        "walk never slower than SciPy or torch": all(min(c["ratios"].values()) >= 1 for c in results["walk"].values()),
        "a cohort ten times as long takes no more memory": streamed_flat(results["threshold"]["streamed"]),
        "slice within 50 ms": results["slice_seconds"]["clock"] <= 0.05,
        "volume within 10 s": results["volume_seconds"]["clock"] <= 10,
    }
    packages = ("anatrust", "numpy", "scipy", "scikit-learn", "numba", "torch", "faiss-cpu", "mapie")
    report = {
        "benchmark": "conformal",
        "quick": quick,
        "measured": measured,
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
        },
        "versions": {name: version(name) for name in packages},
        "results": results,
        "targets": targets,
    }
    text = json.dumps(report, indent=1)
    print(text)
    if given.output is not None or not quick:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text + "\n", encoding="utf-8")
    return 0 if quick or all(targets.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
