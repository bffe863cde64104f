"""The framework: cached cells, resuming after a kill, what the JSON holds, documentation from it."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.studies import study as framework
from anatrust.studies.intervals import allowance, patient_bootstrap, rate, rate_by_patient
from anatrust.studies.overview import overview_of_targets
from anatrust.studies.provenance import data_folder, source_hash
from anatrust.studies.study import Cell, Context, Study, read_result, run_study, study_names
from anatrust.studies.tables import markdown_table, update_docs


def _toy(calls: list[str], *, broken: bool = False, files: tuple[str, ...] = ()) -> Study:
    def cells(context: Context) -> list[Cell]:
        n = 2 if context.quick else 4
        return [Cell(f"c{k}", {"k": k}, files=files, needs=("anatrust.studies.intervals",)) for k in range(n)]

    def run(cell: Cell, context: Context) -> Mapping[str, Any]:
        if broken and cell.key == "c2":
            raise RuntimeError("power cut")
        calls.append(cell.key)
        return {"value": float(np.random.default_rng([context.seed, cell.parameters["k"]]).normal())}

    def summarise(results: Mapping[str, Mapping[str, Any]], context: Context) -> Mapping[str, Any]:
        return {"mean": float(np.mean([r["value"] for r in results.values()])), "targets": []}

    return Study("toy", "Does it run?", cells, run, summarise)


def test_a_finished_cell_is_not_run_again(tmp_path: Path) -> None:
    calls: list[str] = []
    with pytest.raises(RuntimeError, match="power cut"):
        run_study(_toy(calls, broken=True), out=tmp_path / "out", cache=tmp_path / "cells")
    assert calls == ["c0", "c1"]
    assert not (tmp_path / "out").exists(), "an interrupted study writes no result"
    result = run_study(_toy(calls), out=tmp_path / "out", cache=tmp_path / "cells")
    assert calls == ["c0", "c1", "c2", "c3"]
    fresh = run_study(_toy([]), out=tmp_path / "other", cache=tmp_path / "other-cells")
    assert fresh["cells"] == result["cells"]
    assert fresh["summary"] == result["summary"]


def test_another_seed_or_source_runs_the_cell_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for seed in (0, 1, 0):
        run_study(_toy(calls), quick=True, seed=seed, out=tmp_path / "out", cache=tmp_path / "cells")
    assert calls == ["c0", "c1"] * 2
    monkeypatch.setattr(framework.provenance, "source_hash", lambda modules: "changed")
    run_study(_toy(calls), quick=True, out=tmp_path / "out", cache=tmp_path / "cells")
    assert calls == ["c0", "c1"] * 3


def test_a_killed_process_resumes(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, sys
        from anatrust.studies.study import Cell, Study, run_study
        def run(cell, context):
            if cell.key == "c1" and len(sys.argv) > 2:
                os._exit(9)
            print(cell.key, flush=True)
            return {"v": cell.parameters["k"]}
        cells = [Cell(f"c{k}", {"k": k}) for k in range(3)]
        study = Study("kill", "?", lambda c: cells, run, lambda r, c: {"targets": []})
        run_study(study, out=sys.argv[1] + "/out", cache=sys.argv[1] + "/cells")
        """
    )
    first = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), "die"], capture_output=True, text=True, check=False
    )
    assert first.returncode == 9
    assert first.stdout.split() == ["c0"]
    second = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert second.stdout.split() == ["c1", "c2"]
    assert not list(tmp_path.rglob("*.part"))
    assert read_result(tmp_path / "out" / "kill.json")["cells"] == {"c0": {"v": 0}, "c1": {"v": 1}, "c2": {"v": 2}}


def test_the_result_says_how_it_was_made(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    data = tmp_path / "data"
    data.mkdir()
    (data / "scan.bin").write_bytes(b"abc")
    result = run_study(
        _toy([], files=("scan.bin",)),
        quick=True,
        seed=7,
        data=data,
        out=tmp_path / "out",
        cache=tmp_path / "cells",
        progress=lambda done, total, key: seen.append((done, total, key)),
    )
    assert result == json.loads((tmp_path / "out" / "toy.json").read_text())
    assert result == read_result(tmp_path / "out" / "toy.json")
    assert result["command"] == "anatrust study toy --quick --seed 7"
    assert result["data"] == {"scan.bin": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert result["seed"] == 7
    assert result["duration"] >= 0
    assert result["versions"]["numpy"] == np.__version__
    assert seen == [(0, 2, "c0"), (1, 2, "c1"), (2, 2, "summary")]


def test_missing_images_stop_a_full_study_and_are_named_by_a_quick_one(tmp_path: Path) -> None:
    study = _toy([], files=("absent.nii.gz",))
    with pytest.raises(InputError, match=r"needs absent\.nii\.gz"):
        run_study(study, data=tmp_path, out=tmp_path / "out", cache=tmp_path / "cells")
    with pytest.raises(InputError, match="is no folder"):
        data_folder(tmp_path / "nowhere")

    def summarise(results: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
        return {"ran": sorted(results), "targets": []}

    named = Study("toy", "?", study.cells, study.run, summarise)
    result = run_study(named, quick=True, data=tmp_path, out=tmp_path / "out", cache=tmp_path / "cells")
    assert result["summary"]["ran"] == []
    assert result["not_run"] == {"c0": "its images are missing", "c1": "its images are missing"}


def test_unknown_studies_double_keys_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no study 'x'"):
        run_study("x")
    twice = Study("t", "?", lambda c: [Cell("a", {}), Cell("a", {})], lambda a, b: {}, lambda a, b: {})
    with pytest.raises(InputError, match="two cells"):
        run_study(twice, out=tmp_path, cache=tmp_path)
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(InputError, match="no study result"):
        read_result(tmp_path / "r.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_result(tmp_path / "absent.json")
    with pytest.raises(InputError, match="does not exist"):
        source_hash(["anatrust.absent"])
    with pytest.raises(InputError, match="the real images are missing"):
        Context(0, True, None).path("x")


def test_only_code_decides_whether_a_cell_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "made_up_module.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    module.write_text('"""One."""\n\ndef f(x):\n    """Two."""\n    return x + 1\n')
    first = source_hash(["made_up_module"])
    module.write_text('"""Three."""\n# a comment\ndef f(x):\n    return (x +  1)\n')
    assert source_hash(["made_up_module"]) == first
    module.write_text("def f(x):\n    return x + 2\n")
    assert source_hash(["made_up_module"]) != first


def test_nan_never_reaches_a_result(tmp_path: Path) -> None:
    bad = Study("n", "?", lambda c: [Cell("a", {})], lambda a, b: {"v": float("nan")}, lambda a, b: {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        run_study(bad, out=tmp_path, cache=tmp_path / "cells")


def test_documentation_is_filled_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = _toy([])
    line = {"x": [0, 1], "y": [0.1, 0.9]}
    documented = Study(
        "toy",
        toy.question,
        toy.cells,
        toy.run,
        toy.summarise,
        tables=lambda r: {"mean": markdown_table(["what", "value"], [["mean", f"{r['summary']['mean']:.3f}"]])},
        figures=lambda r: {
            "line": {"panels": [{"title": "t", "lines": {"a": line}}], "xlabel": "x", "ylabel": "y", "level": 0.05}
        },
    )
    monkeypatch.setattr("anatrust.studies.tables.load_study", lambda name: documented)
    results, docs = tmp_path / "results", tmp_path / "docs"
    result = run_study(documented, out=results, cache=tmp_path / "cells")
    docs.mkdir()
    page = docs / "toy.md"
    page.write_text("# Toy\n\n<!-- study: toy/mean -->\n<!-- /study -->\n\nEnd\n")
    assert len(update_docs(results, docs, check=True)) == 2
    assert "| mean |" not in page.read_text()
    assert len(update_docs(results, docs)) == 2
    assert f"| mean | {result['summary']['mean']:.3f} |" in page.read_text()
    assert page.read_text().endswith("\n\nEnd\n")
    figure = docs / "figures" / "toy-line.svg"
    before = figure.read_bytes()
    assert b"<svg" in before
    assert update_docs(results, docs, check=True) == ()
    figure.unlink()
    update_docs(results, docs)
    assert figure.read_bytes() == before, "a figure depends on nothing but the numbers"
    readme = tmp_path / "README.md"
    readme.write_text("<!-- study: toy/mean -->\n<!-- /study -->\n")
    assert update_docs(results, docs, also=[readme]) == (str(readme),)
    assert "| mean |" in readme.read_text()
    page.write_text(page.read_text().replace("| mean | ", "| mean | 9"))
    assert update_docs(results, docs, check=True) == (str(page),)
    page.write_text("<!-- study: toy/other -->\n<!-- /study -->\n")
    lost = "<!-- study: toy/table -->\n\n## Another section\n\n"
    page.write_text(lost + "<!-- study: toy/table -->\n<!-- /study -->\n", encoding="utf-8")
    with pytest.raises(InputError, match="lost its end"):
        update_docs(results, docs)
    assert "Another section" in page.read_text(encoding="utf-8")
    page.write_text("<!-- study: toy/other -->\n<!-- /study -->\n", encoding="utf-8")
    with pytest.raises(InputError, match="asks for the table 'toy/other'"):
        update_docs(results, docs)
    run_study(documented, quick=True, out=results, cache=tmp_path / "cells")
    with pytest.raises(InputError, match="is a quick result"):
        update_docs(results, docs)


def test_intervals_resample_patients() -> None:
    # Ten patients with ten equal outcomes each: the interval is that of ten values, not of a hundred.
    hits = {str(p): [p < 3] * 10 for p in range(10)}
    found = rate_by_patient(hits, seed=0)
    assert found["rate"] == 0.3
    assert found["interval"][1] - found["interval"][0] > 0.4
    assert "interval" not in rate_by_patient({"a": [True], "b": [False]}, seed=0)
    with pytest.raises(InputError, match="at least 2"):
        patient_bootstrap(np.zeros((1, 1)), lambda v: 0.0, seed=0)
    with pytest.raises(InputError, match="is no share"):
        rate(3, 2)
    assert allowance(0.05, 400) == pytest.approx(0.05 + 2 * 0.010897, abs=1e-5)


def test_bootstrap_interval_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        values = rng.normal(size=(40, 1))
        low, high = patient_bootstrap(values, lambda v: float(v.mean()), seed=trial, draws=300)
        inside += low <= 0 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_the_named_studies_are_those_of_the_documentation() -> None:
    assert {"null-validity", "planted-lesions", "real-tumours"} <= set(study_names())
    assert {n for n in study_names() if n.startswith("rwcp-")} >= {
        *("rwcp-conditional", "rwcp-coverage", "rwcp-encoders", "rwcp-maps"),
        *("rwcp-quality", "rwcp-shift", "rwcp-stability", "rwcp-sweep"),
    }


def test_the_overview_counts_every_part_of_a_target_and_names_what_was_missed() -> None:
    parts = {
        "what": "cell",
        "specificity": 0.95,
        "clear": 0.5,
        "reached": False,
        "level_met": True,
        "better_in_both": False,
        "iid_specificity": 0.0,
        "iid_clear": 0.75,
    }
    results: dict[str, Any] = {
        "b": {"summary": {"targets": [parts]}},
        "a": {
            "summary": {
                "targets": [
                    {"what": "level", "met": False, "observed": 0.25, "limit": 0.2},
                    {"what": "power", "met": False, "observed": 0.25, "limit": 0.8},
                    {"what": "area", "met": False, "observed": 0.9, "required": ">= 0.93"},
                    {"what": "not promised", "met": None, "observed": 0.9, "limit": 0.1},
                    {"what": "kept", "met": True},
                ]
            }
        },
        "describes": {"summary": {"targets": []}},
    }
    made = overview_of_targets(results)
    assert made["met"][1] == [["a", "1", "4"], ["b", "1", "3"]]
    assert [row[1:] for row in made["missed"][1]] == [
        ["level", "0.25", "≤ 0.20"],
        ["power", "0.25", "≥ 0.80"],
        ["area", "0.90", "≥ 0.93"],
        ["cell: specificity and sensitivity for clear lesions both ≥ 0.9", "0.95 / 0.50", "≥ 0.90 / 0.90"],
        ["cell: better than the published test in both", "0.95 / 0.50", "≥ 0.00 / 0.75"],
    ]
