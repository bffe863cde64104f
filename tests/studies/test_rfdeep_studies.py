"""The RF-Deep studies in their quick form, and what their parts promise."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from anatrust.metrics import auroc
from anatrust.ood.splits import ScanKey
from anatrust.ood.synthetic import SHIFTS
from anatrust.studies.rfdeep_methods import METHODS, Placements, resplit, scores, settle
from anatrust.studies.rfdeep_scans import FAR, LESIONS, LOGITS, STRENGTHS, Unit, strength_of
from anatrust.studies.study import load_study, run_study

QUICK = (
    "rfdeep-main",
    "rfdeep-default",
    "rfdeep-lodo",
    "rfdeep-blind",
    "rfdeep-ablation",
    "rfdeep-fair",
    "rfdeep-failure",
    "rfdeep-scores",
    "rfdeep-panels",
)


@pytest.mark.parametrize("name", QUICK)
def test_the_quick_form_runs_and_makes_its_tables(name: str, shared_data: Path, tmp_path: Path) -> None:
    study = load_study(name)
    result = run_study(name, quick=True, data=shared_data, out=tmp_path, cache=tmp_path)
    assert result["cells"]
    for text in study.tables(result).values():
        assert text.count("\n") >= 2
        assert "nan" not in text
    for figure in study.figures(result).values():
        assert all(
            line["x"] and len(line["x"]) == len(line["y"])
            for p in figure["panels"]
            for line in p.get("lines", {}).values()
        )
    if name == "rfdeep-scores":
        with (tmp_path / "rfdeep-scores.csv").open(newline="") as handle:
            rows = list(csv.DictReader(handle))
        assert len(rows) == sum(cell["rows"] for key, cell in result["cells"].items() if key != "cost") > 20
        usual = [float(r["entropy mean"]) for r in rows if r["run"] == "0" and r["dataset"] == "usual"]
        strange = [float(r["entropy mean"]) for r in rows if r["run"] == "0" and r["dataset"] == "noise 3"]
        kept = result["summary"]["detectors"]["entropy mean"]["noise 3"]["auroc"]
        assert kept["low"] <= round(auroc(np.array(usual), np.array(strange)), 4) + 1e-3
        assert 0 < len(usual) < 20
    if name == "rfdeep-main":
        rows = result["cells"]["resplits/hippocampus/forest, deep"]["rows"]
        assert 0 <= rows["far"]["auroc"]["mean"] <= 1
        assert {t["what"] for t in result["summary"]["targets"]} >= {"hippocampus: far AUROC of the forest"}


def test_the_strengths_are_a_table_of_known_shifts() -> None:
    tables = {**STRENGTHS, **LESIONS}
    assert set(tables) <= set(SHIFTS)
    assert not set(STRENGTHS) & set(LESIONS)
    assert all(list(levels) == sorted(set(levels)) and len(levels) == 4 for levels in tables.values())
    assert strength_of("noise 2") == 0.05
    assert strength_of("lesion-dark 1") == 7.0
    assert strength_of("usual") is strength_of("far CT") is None


def fake(rng: np.random.Generator) -> dict[ScanKey, Unit]:
    """Features that shift by four with each kind; 40 usual patients, 20 others."""
    found = {}
    rows = [("usual", f"p{i}", 0.0) for i in range(40)]
    rows += [(d, f"q{i}", 4.0) for d in ("noise 3", "bias 3") for i in range(20)]
    rows += [("far CT", f"file{i}", 8.0) for i in range(4)]
    for dataset, patient, move in rows:
        key = ScanKey(dataset, patient)
        values = rng.normal(move, 1, (4, 6)).astype(np.float32)
        logits = np.full(len(LOGITS), move + rng.normal())
        found[key] = Unit(key, {"deep": values}, {"deep": (("a", 3), ("b", 3))}, logits, 0.9, 10, 1)
    empty = ScanKey("usual", "nothing")
    found[empty] = Unit(empty, {}, {}, np.full(len(LOGITS), np.inf), 0.0, 0, 0)
    return found


def test_a_resplit_keeps_people_apart_and_every_method_finds_a_plain_shift(rng: np.random.Generator) -> None:
    known = fake(rng)
    split = resplit(known, seed=1, fit=15, fit_outside=10)
    assert all(k.patient != "nothing" for k in (*split.fit, *split.test))
    learnt = {k.patient for keys in split.outside_fit.values() for k in keys}
    assert not learnt & {k.patient for keys in split.outside_test.values() for k in keys}
    assert set(split.outside_test) == {"noise 3", "bias 3", "far CT"}
    assert set(FAR) & set(split.outside_fit) == {"far CT"}
    for name in ("logistic, deep", "Mahalanobis, deep", "msp mean"):
        made = scores(METHODS[name], split, known)
        assert auroc(made.inside["noise 3"], made.outside["noise 3"]) > 0.95, name


def test_placements_average_to_the_auroc_and_cover_the_truth(rng: np.random.Generator) -> None:
    inside, outside = rng.normal(size=200), rng.normal(1.0, size=200)
    one = Placements()
    one.add(inside, outside, [f"u{i}" for i in range(200)], [f"s{i}" for i in range(200)])
    assert np.mean([t / n for t, n in one.outside.values()]) == pytest.approx(auroc(inside, outside))
    low, high = one.interval()
    assert low < 0.7602 < high  # P(N(1,1) > N(0,1))
    assert 0.05 < high - low < 0.15
    assert one.interval(minus=one) == [0.0, 0.0]
    noisy = Placements()
    noisy.add(rng.normal(size=200), rng.normal(size=200), [f"u{i}" for i in range(200)], [f"s{i}" for i in range(200)])
    assert one.interval(minus=noisy)[0] > 0.1
    assert settle([0.1, 0.2, 0.3])["mean"] == 0.2
