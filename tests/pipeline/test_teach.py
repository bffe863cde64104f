"""`anatrust teach`: from a table on disk to a segmenter that is used through its file."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from anatrust.cli.main import run
from anatrust.errors import InputError
from anatrust.image.region import Region
from anatrust.image.write import write_mask, write_scan
from anatrust.models.registry import load_segmenter
from anatrust.models.segmentation import Prompt
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.teach import teach
from anatrust.studies.lesions import LesionSpec
from anatrust.studies.phantom import phantom_scan


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for seed in range(4):
        lesions = [LesionSpec("liver", 18.0, -4.0), LesionSpec("liver", 14.0, -4.0)] if seed else 0
        phantom = phantom_scan(seed, lesions=lesions, quick=True)
        write_scan(folder / f"{seed}.nii.gz", phantom.scan)
        write_mask(folder / f"{seed}_truth.nii.gz", phantom.truth)
        write_mask(folder / f"{seed}_organs.nii.gz", phantom.anatomy)
        free = "true" if seed == 0 else ""
        rows.append([f"p{seed}", f"{seed}.nii.gz", f"{seed}_truth.nii.gz", f"{seed}_organs.nii.gz", free])
    with (folder / "cohort.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([["id", "image", "truth", "anatomy", "lesion_free"], *rows])
    return folder / "cohort.csv"


def test_the_command_writes_a_segmenter_that_finds_lesions_of_others(table, tmp_path, capsys):
    out = tmp_path / "liver.pixels"
    arguments = ["teach", str(table), "-o", str(out), "--organ", "liver", "--anatomy-names", "totalsegmentator_ct"]
    assert run([*arguments, "--trees", "40"]) == 0
    assert "pixel-classifier(sha256=" in capsys.readouterr().out
    record = json.loads((tmp_path / "liver.pixels.run.json").read_text())
    assert record["command"] == "teach"
    other = phantom_scan(50, lesions=[LesionSpec("liver", 18.0, -4.0)], quick=True)
    segmenter = load_segmenter("pixel-classifier", out)
    organ = other.anatomy.mask("liver")
    found = segmenter.segment(other.scan, Prompt("liver tumour", organ=organ), Region.whole(other.scan.grid.shape))
    lesion = other.truth.array > 0
    assert found.array[0][lesion].mean() > 0.4
    assert found.array[0][organ.array & ~lesion].mean() < 0.1


def test_tables_that_teach_nothing_are_refused(table, tmp_path):
    cohort = Cohort.read(table)
    bare = tmp_path / "bare.csv"
    bare.write_text(f"id,image\na,{table.parent / '1.nii.gz'}\n")
    with pytest.raises(InputError, match="no row has a truth"):
        teach(Cohort.read(bare))
    bare.write_text(f"id,image,truth\na,{table.parent / '1.nii.gz'},{table.parent / '1_truth.nii.gz'}\n")
    with pytest.raises(InputError, match="not every row has an anatomy"):
        teach(Cohort.read(bare), organs=["liver"])
    told = []
    with pytest.raises(InputError, match="nothing can be learnt"):
        teach(cohort, organs=["uterus"], warn=told.append)
    assert len(told) == 4
    assert "has no label 'uterus'" in told[0]


def test_one_unreadable_scan_is_left_out_in_words(table, tmp_path):
    lines = table.read_text().splitlines()
    broken = table.parent / "broken.nii.gz"
    broken.write_bytes(b"nothing")
    (table.parent / "more.csv").write_text(
        "\n".join([*lines, "x,broken.nii.gz,1_truth.nii.gz,1_organs.nii.gz,"]) + "\n"
    )
    told = []
    model = teach(Cohort.read(table.parent / "more.csv"), warn=told.append)
    assert len(told) == 1
    assert "row 6: left out" in told[0]
    assert np.isfinite(len(model.digest))
