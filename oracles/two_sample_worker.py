"""Run two-sample tests of one library on request; started by benchmarks/two_sample.py in that library's environment.

Usage: PYTHON oracles/two_sample_worker.py NAME

Each line on stdin names a JSON request {x, y, bandwidth, draws, seed}; the answer {seconds, processor_seconds,
statistic, p_value, versions} is written beside it and "done" is printed. Only the test call is timed, by the clock
and by the processor time it used (which other programs on the machine disturb less). Every library gets float32
features and the same Gaussian bandwidth, so none of them has to find one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np


def anatrust(x, y, bandwidth, draws, seed):
    from anatrust.statistics.kernels import Kernel
    from anatrust.statistics.two_sample import two_sample_test

    kernels = None if bandwidth is None else [Kernel("gaussian", bandwidth)]

    def call():
        result = two_sample_test(x, y, kernels=kernels, n_draws=draws, seed=seed)
        return result.statistic, result.p_value

    return call


def alibi_detect(x, y, bandwidth, draws, seed):
    import torch
    from alibi_detect.cd import MMDDrift

    torch.manual_seed(seed)
    # The kernel matrix of the reference is computed here, outside the time: a favour to this peer.
    detector = MMDDrift(x, backend="pytorch", sigma=np.array([bandwidth]), n_permutations=draws, device="cpu")

    def call():
        data = detector.predict(y)["data"]
        return data["distance"], data["p_val"]

    return call


def torchdrift(x, y, bandwidth, draws, seed):
    import torch
    from torchdrift.detectors import mmd

    torch.manual_seed(seed)
    kernel = mmd.GaussianKernel(bandwidth)
    a, b = torch.from_numpy(x), torch.from_numpy(y)

    def call():
        statistic, p = mmd.kernel_mmd(a, b, n_perm=draws, kernel=kernel)
        return float(statistic), float(p)

    return call


def frouros(x, y, bandwidth, draws, seed):
    from frouros.callbacks import PermutationTestDistanceBased
    from frouros.detectors.data_drift import MMD
    from frouros.utils.kernels import rbf_kernel

    test = PermutationTestDistanceBased(
        num_permutations=draws, num_jobs=THREADS, random_state=seed, method="conservative"
    )
    detector = MMD(kernel=partial(rbf_kernel, sigma=bandwidth), callbacks=test)
    detector.fit(X=x)

    def call():
        distance, log = detector.compare(X=y)
        return float(distance.distance), float(log["PermutationTestDistanceBased"]["p_value"])

    return call


def hyppo(x, y, bandwidth, draws, seed):
    from hyppo.ksample import MMD

    test = MMD(compute_kernel="gaussian", gamma=0.5 / bandwidth**2)
    x, y = x.astype(np.float64), y.astype(np.float64)

    def call():
        result = test.test(x, y, reps=draws, workers=THREADS, auto=False, random_state=seed)
        return float(result[0]), float(result[1])

    return call


def goodpoints(x, y, bandwidth, draws, seed):
    from goodpoints.ctt import ctt

    x, y = x.astype(np.float64), y.astype(np.float64)

    def call():
        # Its kernel is exp(−‖u−v‖²/λ²).
        result = ctt(
            x, y, 4, B=draws, s=32, lam=bandwidth * np.sqrt(2.0), null_seed=seed, statistic_seed=seed, alpha=0.05
        )
        # Its values are reordered and include the observed one.
        return float(result.statistic_values), float((result.estimator_values >= result.statistic_values).mean())

    return call


THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
PEERS = {f.__name__: f for f in (anatrust, alibi_detect, torchdrift, frouros, hyppo, goodpoints)}
PACKAGES = (
    "anatrust",
    "alibi-detect",
    "torchdrift",
    "frouros",
    "hyppo",
    "goodpoints",
    "numpy",
    "scipy",
    "torch",
    "numba",
)


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except Exception:
            continue
    return found


def processor_seconds() -> float:
    """Processor time of this process and its finished children, all threads."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    prepare = PEERS[sys.argv[1]]
    for line in sys.stdin:
        path = Path(line.strip())
        request = json.loads(path.read_text())
        x, y = np.load(request["x"]), np.load(request["y"])
        call = prepare(x, y, request["bandwidth"], request["draws"], request["seed"])
        start, used = time.perf_counter(), processor_seconds()
        statistic, p = call()
        answer = {
            "seconds": time.perf_counter() - start,
            "processor_seconds": processor_seconds() - used,
            "statistic": float(statistic),
            "p_value": float(p),
            "versions": versions(),
        }
        path.with_suffix(".answer.json").write_text(json.dumps(answer))
        print("done", flush=True)


if __name__ == "__main__":
    main()
