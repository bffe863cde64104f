"""The study in which every tested patient is judged by all the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anatrust.image.region import Region, crop_grid
from anatrust.image.volumes import ProbabilityMap, Scan
from anatrust.models.segmentation import Prompt
from anatrust.models.segmenters.blob import BlobSegmenter
from anatrust.studies.r2seg_ablation import STUDY as ABLATION
from anatrust.studies.r2seg_arms import Arm, _Inside, run_arm
from anatrust.studies.r2seg_left_out import STUDY
from anatrust.studies.study import Context, read_result
from anatrust.studies.tissues import cardiac_patients

ARM = Arm("cardiac", "pixels", 0)


def test_a_patient_is_no_part_of_its_own_null(shared_data: Path) -> None:
    """Whether the tested one is in the pool must change nothing but the list of the pool's maxima."""
    context = Context(seed=3, quick=True, data=shared_data)
    model = BlobSegmenter(contrast=1.0, smoothings=(2.0,))
    apart, within = (run_arm(ARM, model, pool, [10], context) for pool in (range(10), range(11)))
    assert apart["judges"] == within["judges"]
    assert apart["null patients"] == within["null patients"] == 10
    assert len(apart["null maxima"]) + 1 == len(within["null maxima"])
    assert sorted(within["null maxima"], reverse=True) == within["null maxima"]
    kept = within["judges"]["segmenter alone"]
    # Three slices as they are, and with a lesion each.
    assert kept["lesion count"] == 3
    assert kept["healthy"] == kept["patients"] == 1


def test_too_few_patients_for_a_level_keep_nothing(shared_data: Path) -> None:
    """With nine healthy patients p cannot fall below 0.1: at 0.10 the oddest may be kept, at 0.05 nothing is."""
    context = Context(seed=3, quick=True, data=shared_data)
    model = BlobSegmenter(contrast=1.0, smoothings=(2.0,))
    judges = run_arm(ARM, model, range(9), [10, 11], context)["judges"]
    assert judges["segmenter alone"]["lesions"]["value"] > 0
    assert judges["gates + cohort, level 0.05"]["lesions"]["value"] == 0
    assert judges["gates + cohort, level 0.05"]["specificity"]["value"] == 1
    assert judges["gates + cohort"]["lesions"]["value"] >= 0
    assert judges["drawn exactly"]["false a scan"]["value"] == 0


class Everywhere(BlobSegmenter):
    """Sure of every voxel."""

    def segment(self, scan: Scan, prompt: Prompt, region: Region) -> ProbabilityMap:
        return ProbabilityMap(np.ones((1, *region.shape), np.float32), crop_grid(scan.grid, region))


def test_inside_the_organ_nothing_is_proposed_outside_of_it(shared_data: Path) -> None:
    context = Context(seed=3, quick=True, data=shared_data)
    sample = next(iter(cardiac_patients(context)))[1][0]
    region = Region.whole(sample.image.shape)
    everywhere = Everywhere()
    prompt = Prompt("cardiac tumour", (), sample.organ)
    plain, inside = (m.segment(sample.scan, prompt, region).array[0] for m in (everywhere, _Inside(everywhere)))
    assert (plain[~sample.domain] > 0).any()
    assert (inside[~sample.domain] == 0).all()
    assert (inside[sample.domain] == plain[sample.domain]).all()


def _line(table: str, start: str) -> list[str]:
    return [cell.strip() for cell in next(t for t in table.splitlines() if t.startswith(f"| {start}")).split("|")[1:-1]]


@pytest.mark.parametrize(("healthy", "said"), [(12, "undecidable"), (19, "0")])
def test_the_funnel_says_what_a_null_allows(healthy: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ablation's funnel from the committed result: counts of clear lesions; a floor above the level says so."""
    from dataclasses import replace

    from anatrust.studies import r2seg_ablation

    result = read_result(Path(__file__).parents[2] / "studies/results/r2seg-ablation.json")
    world = replace(r2seg_ablation.WORLDS["cardiac"], healthy=healthy)
    monkeypatch.setitem(r2seg_ablation.WORLDS, "cardiac", world)
    line = _line(ABLATION.tables(result)["funnel"], "cardiac, pixels, regions")
    clear = result["cells"]["cardiac/pixels/regions"]["gates alone"]
    assert line[1:3] == [str(healthy), f"{1 / (healthy + 1):.3f}"]
    assert int(line[5]) == round(clear["clear lesions"]["value"] * clear["clear count"])
    assert line[-1] == said


def test_the_table_marks_levels_that_cannot_be_reached() -> None:
    judged = {"clear count": 8, **{n: {"value": 0.5} for n in ("clear lesions", "lesions", "specificity", "dice")}}
    judged["false a scan"] = {"value": 0.1}
    names = ("segmenter alone", "gates alone", "gates + cohort", "gates + cohort, level 0.05")
    likely = ("gates + cohort, likely", "gates + cohort, likely, level 0.05")
    judges = dict.fromkeys((*names, *likely, "iid, as published", "drawn exactly"), judged)
    cell = {"judges": judges, "null patients": 12, "null maxima": [9.0, 7.5, 1.0]}
    funnel = STUDY.tables({"cells": {"hearts": cell}})["funnel"]
    assert _line(funnel, "hearts")[1:] == [
        "12", "0.077", "8", "4", "4", "4", "4 (undecidable)", "4", "4 (undecidable)", "4", "9.0, 7.5, 1.0",
    ]  # fmt: skip
