"""Permutation tests of MMD² against the libraries that offer one: same inputs by file, interleaved.

Usage: make oracles && .venv/bin/python benchmarks/two_sample.py [--quick] [--rounds 3] [--longest 90] [-o FILE]

Each library runs in its own environment under .oracles/ (made by `make oracles` from oracles/NAME.txt) as a worker
process, all with the same number of threads; only its test call is timed, after a warm-up, by the clock and by the
processor time it used. In each cell every library takes its turn in every round, and medians are compared. A peer
whose call would take longer than `--longest` seconds is run with two smaller numbers of draws and extrapolated
linearly (its work is a loop over draws); such cells say so. The exact peer that is fastest in a cell is run in full
whenever that takes less than `--in-full` seconds. Peers without an environment are named and left out. Cells: d = 1
(graded to 256 levels, as images are), 16, 64; 1 000 and 4 000 points a sample; B = 200 and 1 000. The output is written
after every cell, and cells that stand in it already (same versions) are kept: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
EXACT = ("alibi_detect", "torchdrift", "frouros", "hyppo")
APPROXIMATE = ("goodpoints",)
CLOCKS = ("seconds", "processor_seconds")


class Worker:
    """One library in its own process."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self.name, self.folder, self.count = name, folder, 0
        python = sys.executable if name == "anatrust" else str(ROOT / ".oracles" / name / "bin" / "python")
        limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        self.process = subprocess.Popen(
            [python, str(ROOT / "oracles" / "two_sample_worker.py"), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / f"{name}.log").open("w"),
            text=True,
            env={**os.environ, **{key: str(threads) for key in limits}},
        )

    def run(self, x: str, y: str, bandwidth: float | None, draws: int, seed: int) -> dict:
        """Answer of one test."""
        self.count += 1
        request = self.folder / f"{self.name}_{self.count}.json"
        request.write_text(json.dumps({"x": x, "y": y, "bandwidth": bandwidth, "draws": draws, "seed": seed}))
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{request}\n")
        self.process.stdin.flush()
        while (line := self.process.stdout.readline().strip()) != "done":
            if not line and self.process.poll() is not None:
                raise SystemExit(
                    f"{self.name} ended: see its log\n" + (self.folder / f"{self.name}.log").read_text()[-2000:]
                )
        return json.loads(request.with_suffix(".answer.json").read_text())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait(timeout=60)


def inputs(folder: Path, n: int, d: int) -> tuple[str, str, float]:
    """Two slightly different samples as float32 files, and the bandwidth for everybody."""
    rng = np.random.default_rng(1000 * d + n)
    x, y = rng.standard_normal((n, d)), rng.standard_normal((n, d)) + 0.02
    if d == 1:
        x, y = (np.clip(np.round(128 + 40 * v), 0, 255) for v in (x, y))
    paths = []
    for name, values in (("x", x), ("y", y)):
        path = folder / f"{name}_{n}_{d}.npy"
        np.save(path, values.astype(np.float32))
        paths.append(str(path))
    return paths[0], paths[1], float(40.0 * 0.954 if d == 1 else math.sqrt(2 * d))


class Guess:
    """Seconds of a peer, whose work is a loop over draws, from two short runs."""

    def __init__(self, worker: Worker, data: tuple[str, str, float]) -> None:
        self.few = (1, 3) if worker.name == "hyppo" else (2, 8)
        self.short, self.longer = (worker.run(*data, count, 1) for count in self.few)

    def at(self, draws: int) -> dict:
        """What a run of many draws would take."""
        row = {"statistic": self.longer["statistic"], "how": f"extrapolated linearly from {self.few} draws"}
        for clock in CLOCKS:
            slope = (self.longer[clock] - self.short[clock]) / (self.few[1] - self.few[0])
            # Noise may make the slope negative; half the mean cost of a draw is a floor in the peer's favour.
            slope = max(slope, self.longer[clock] / self.few[1] / 2)
            row[clock] = self.short[clock] + slope * (draws - self.few[0])
        return row


def cell(
    workers: dict[str, Worker],
    guesses: dict[str, Guess],
    data: tuple[str, str, float],
    draws: int,
    rounds: int,
    longest: float,
    in_full: float,
) -> dict:
    """Medians of one cell."""
    expected = {name: guess.at(draws)["seconds"] for name, guess in guesses.items()}
    exact = [name for name in guesses if name in EXACT]
    fastest = min(exact, key=expected.__getitem__) if exact else None
    runs: dict[str, list[dict]] = {name: [] for name in workers}
    finding_bandwidth = []
    for turn in range(rounds):
        for name in guesses:
            often = expected[name] * rounds <= longest
            once = expected[name] <= (max(in_full, longest) if name == fastest else longest)
            if often or (turn == 0 and once):
                runs[name].append(workers[name].run(*data, draws, turn))
            runs["anatrust"].append(workers["anatrust"].run(*data, draws, turn))
        finding_bandwidth.append(workers["anatrust"].run(data[0], data[1], None, draws, turn)["seconds"])
    table = {}
    for name, answers in runs.items():
        if not answers:
            table[name] = guesses[name].at(draws)
            continue
        table[name] = {clock: statistics.median(a[clock] for a in answers) for clock in CLOCKS}
        table[name]["runs"] = len(answers)
        table[name]["statistic"] = answers[0]["statistic"]
        table[name]["p_value"] = statistics.median(a["p_value"] for a in answers)
        table[name]["how"] = "run in full"
    table["anatrust"]["seconds_finding_the_bandwidth_too"] = statistics.median(finding_bandwidth)
    return table


def summary(results: dict, exact: list[str], clock: str) -> dict:
    """Ratios of the fastest exact peer to ours, cell by cell."""
    ratios = {}
    for key, table in results.items():
        best = min(exact, key=lambda name: table[name][clock])
        ratio = table[best][clock] / table["anatrust"][clock]
        ratios[key] = {"fastest_exact_peer": best, "ratio": round(ratio, 1), "how": table[best]["how"]}
    mean = math.exp(statistics.mean(math.log(r["ratio"]) for r in ratios.values()))
    return {"smallest": min(r["ratio"] for r in ratios.values()), "geometric_mean": round(mean, 1), "cells": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of every library")
    parser.add_argument("--longest", type=float, default=90.0, help="seconds a peer may spend in one cell")
    parser.add_argument("--in-full", type=float, default=600.0, help="seconds the fastest exact peer may spend")
    parser.add_argument("--quick", action="store_true", help="1 000 points, 200 draws, 1 round")
    parser.add_argument("--only", nargs="*", help="peers to run")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    wanted = options.only or [*EXACT, *APPROXIMATE]
    present = [name for name in wanted if (ROOT / ".oracles" / name / "bin" / "python").exists()]
    for name in wanted:
        if name not in present:
            print(f"{name}: no environment; `make oracles` makes it; left out")
    sizes, draw_counts = ((1000,), (200,)) if options.quick else ((1000, 4000), (200, 1000))
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workers = {peer: Worker(peer, folder, options.threads) for peer in ["anatrust", *present]}
        small = inputs(folder, 60, 2)
        warm = {peer: worker.run(*small, 20, 0) for peer, worker in workers.items()}
        versions = {peer: answer["versions"] for peer, answer in warm.items()}
        if options.output and options.output.exists():
            earlier = json.loads(options.output.read_text())
            results = earlier["cells"] if earlier["versions"] == versions else {}
        for n in sizes:
            for d in (1, 16, 64):
                left = [draws for draws in draw_counts if f"n={n} d={d} B={draws}" not in results]
                if not left:
                    continue
                data = inputs(folder, n, d)
                guesses = {peer: Guess(workers[peer], data) for peer in present}
                for draws in left:
                    key = f"n={n} d={d} B={draws}"
                    rounds = 1 if options.quick else options.rounds
                    table = cell(workers, guesses, data, draws, rounds, options.longest, options.in_full)
                    results[key] = table
                    write(options, present, versions, results)
                    ours = table["anatrust"]["seconds"]
                    print(f"{key}: anatrust {ours * 1e3:.1f} ms", flush=True)
                    for peer in present:
                        row = table[peer]
                        mark = "" if peer in EXACT else " (approximate test)"
                        print(
                            f"    {peer:13s} {row['seconds']:9.3f} s  {row['seconds'] / ours:8.0f}x  {row['how']}{mark}"
                        )
        for worker in workers.values():
            worker.close()
    for clock, totals in write(options, present, versions, results).get("summary", {}).items():
        low, mean = totals["smallest"], totals["geometric_mean"]
        print(f"fastest exact peer / anatrust, {clock}: at least {low:.0f}x, geometric mean {mean:.0f}x")


def write(options: argparse.Namespace, present: list[str], versions: dict, results: dict) -> dict:
    """The report on the cells there are, also on disk where it was asked for."""
    exact = [peer for peer in present if peer in EXACT]
    chosen = f"--rounds {options.rounds} --longest {options.longest:g} --in-full {options.in_full:g}"
    report: dict = {
        "command": f"benchmarks/two_sample.py {chosen}",
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
        },
        "threads": options.threads,
        "versions": versions,
        "approximate": list(APPROXIMATE),
        "cells": results,
    }
    if exact:
        report["summary"] = {clock: summary(results, exact, clock) for clock in CLOCKS}
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    main()
