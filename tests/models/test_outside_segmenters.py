"""Other tools: what they wrote, and running them as processes of their own environment."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical_grid, restore
from anatrust.image.region import Region
from anatrust.image.volumes import LabelMap, Mask, Scan
from anatrust.image.write import write_mask
from anatrust.models.outside import ToolSettings, read_settings, run_tool
from anatrust.models.registry import load_anchors, load_segmenter
from anatrust.models.segmentation import Prompt
from anatrust.models.segmenters.target_labels import target_labels

GRID = Grid((44, 38, 22), np.diag([1.5, 2.0, 3.0, 1.0]))


def blob(low, high):
    mask = np.zeros(GRID.shape, np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return mask


LIVER, LESION = blob((6, 6, 3), (38, 30, 19)), blob((18, 15, 8), (26, 23, 14))


def scan_of(identifier="case7", shape=GRID.shape):
    image = np.random.default_rng(0).normal(50, 10, shape).astype(np.float32)
    return Scan(image, Grid(shape, GRID.affine), "CT", "HU", identifier)


def ask(segmenter, target="liver tumour", scan=None, words=()):
    scan = scan or scan_of()
    return segmenter.segment(scan, Prompt(target, words or (target,)), Region.whole(scan.grid.shape)).array[0]


def nnunet_output(folder, soft=True, case="case7", labels=None):
    folder.mkdir(parents=True, exist_ok=True)
    write_mask(folder / f"{case}.nii.gz", LabelMap(LIVER + LESION, GRID))
    if soft:
        lesion = 0.9 * LESION + 0.02
        liver = 0.9 * (LIVER - LESION) + 0.02
        channels = np.stack([1 - lesion - liver, liver, lesion]).astype(np.float32)
        np.savez_compressed(folder / f"{case}.npz", probabilities=channels.transpose(0, 3, 2, 1))
    names = labels or {"background": 0, "liver": 1, "tumor": 2}
    (folder / "dataset.json").write_text(json.dumps({"labels": names}))
    return folder


@pytest.mark.parametrize("soft", [True, False])
def test_an_nnunet_folder(tmp_path, soft):
    segmenter = load_segmenter("precomputed", nnunet_output(tmp_path / "out", soft))
    assert segmenter.capabilities.probabilities is soft
    found = ask(segmenter)
    assert np.array_equal(found >= 0.5, LESION > 0)
    if soft:
        assert found.max() == pytest.approx(0.92)
    assert np.array_equal(ask(segmenter, "liver") >= 0.5, (LIVER > 0) & (LESION == 0))


def test_the_answer_comes_back_in_any_orientation(tmp_path):
    segmenter = load_segmenter("precomputed", nnunet_output(tmp_path / "out", soft=False))
    turned = Grid((22, 44, 38), GRID.affine[:, [2, 0, 1, 3]])
    assert canonical_grid(turned).same_as(GRID)
    scan = Scan(restore(scan_of().array, turned), turned, "CT", "HU", "case7")
    assert np.array_equal(ask(segmenter, scan=scan), restore(LESION, turned))


def test_a_region_is_a_part_of_the_whole(tmp_path):
    segmenter = load_segmenter("precomputed", nnunet_output(tmp_path / "out"))
    scan, region = scan_of(), Region((10, 10, 5), (30, 30, 15))
    whole = ask(segmenter, scan=scan)
    part = segmenter.segment(scan, Prompt("liver tumour"), region)
    assert np.array_equal(part.array[0], whole[region.slices])
    assert segmenter.identity.startswith("precomputed(")


def test_a_folder_of_many_cases_is_told_apart_by_name(tmp_path):
    nnunet_output(tmp_path, soft=False, case="case7")
    nnunet_output(tmp_path, soft=False, case="case8")
    segmenter = load_segmenter("precomputed", tmp_path)
    assert ask(segmenter).any()
    with pytest.raises(InputError, match="nothing of the scan case9"):
        ask(segmenter, scan=scan_of("case9"))


def test_monai_and_single_files(tmp_path):
    folder = tmp_path / "case7"
    folder.mkdir()
    write_mask(folder / "case7_trans.nii.gz", Mask(LESION > 0, GRID))
    assert np.array_equal(ask(load_segmenter("precomputed", tmp_path)), LESION)
    assert np.array_equal(ask(load_segmenter("precomputed", folder / "case7_trans.nii.gz")), LESION)
    assert np.array_equal(ask(load_segmenter("precomputed", folder), scan=scan_of("other")), LESION)


def test_a_mask_of_another_space_is_refused(tmp_path):
    other = Grid(GRID.shape, np.diag([3.0, 3.0, 3.0, 1.0]))
    write_mask(tmp_path / "case7.nii.gz", Mask(np.ones(GRID.shape, bool), other))
    with pytest.raises(GeometryError):
        ask(load_segmenter("precomputed", tmp_path))


def total_output(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in (("liver", LIVER), ("spleen", blob((2, 2, 2), (5, 5, 5))), ("kidney_cyst_left", LESION)):
        write_mask(folder / f"{name}.nii.gz", Mask(mask > 0, GRID))
    return folder


def test_a_totalsegmentator_folder(tmp_path):
    folder = total_output(tmp_path / "out")
    anchors = load_anchors("totalsegmentator", folder).find(scan_of(), ["liver", "pancreas", "kidney_left", "lung"])
    assert [a.status for a in anchors] == ["ok", "missing", "missing", "missing"]
    assert np.array_equal(anchors[0].mask.array, LIVER > 0)
    segmenter = load_segmenter("totalsegmentator", folder)
    assert segmenter.capabilities.organs
    assert np.array_equal(ask(segmenter, words=("liver",)), LIVER)
    with pytest.raises(InputError, match="has nothing for pancreas"):
        ask(segmenter, words=("pancreas",))
    # The same folder as "precomputed": the cyst is the only lesion in it.
    assert np.array_equal(ask(load_segmenter("precomputed", folder), "left kidney cyst"), LESION)


def test_a_multi_label_file_of_totalsegmentator(tmp_path):
    write_mask(tmp_path / "seg.nii.gz", LabelMap(np.where(LIVER > 0, 5, 0).astype(np.uint8), GRID))
    (found,) = load_anchors("totalsegmentator", tmp_path / "seg.nii.gz").find(scan_of(), ["liver"])
    assert np.array_equal(found.mask.array, LIVER > 0)


def test_half_a_pair_is_unreliable(tmp_path):
    write_mask(tmp_path / "kidney_left.nii.gz", Mask(LESION > 0, GRID))
    (found,) = load_anchors("totalsegmentator", tmp_path).find(scan_of(), ["kidney"])
    assert (found.status, found.quality) == ("unreliable", 0.5)


PROGRAM = """
import json, os, sys, numpy as np, nibabel
words = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps([words, os.environ.get("nnUNet_results"), os.environ.get("PYTHONPATH")]) + "\\n")
def option(name):
    return words[words.index(name) + 1]
out = option("-o")
os.makedirs(out, exist_ok=True)
"""
TOTAL = (
    PROGRAM
    + """
image = nibabel.load(option("-i"))
names = words[words.index("--roi_subset") + 1:]
names = names[: next((k for k, n in enumerate(names) if n.startswith("-")), len(names))]
for name in names:
    mask = (np.asarray(image.dataobj) > 45).astype(np.uint8) if name == "liver" else np.zeros(image.shape, np.uint8)
    nibabel.save(nibabel.Nifti1Image(mask, image.affine), os.path.join(out, name + ".nii.gz"))
"""
)
NNUNET = (
    PROGRAM
    + """
image = nibabel.load(os.path.join(option("-i"), "scan_0000.nii.gz"))
data = np.asarray(image.dataobj).transpose(2, 1, 0)
lesion = (1 / (1 + np.exp(-(data - 60) / 5))).astype(np.float32)
np.savez(os.path.join(out, "scan.npz"), probabilities=np.stack([1 - lesion, 0 * lesion, lesion]))
nibabel.save(nibabel.Nifti1Image((lesion > 0.5).astype(np.uint8).transpose(2, 1, 0) * 2, image.affine),
             os.path.join(out, "scan.nii.gz"))
json.dump({{"labels": {{"background": 0, "liver": 1, "tumor": 2}}}}, open(os.path.join(out, "dataset.json"), "w"))
"""
)


def program(folder, text, name="tool"):
    """A program that runs in this Python, as a tool in its own environment would in its own."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / f"{name}.py"
    script.write_text(text.format(log=str(folder / "calls.txt")))
    path = folder / name
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def calls(folder):
    return [json.loads(line) for line in (folder / "calls.txt").read_text().splitlines()]


def test_totalsegmentator_runs_in_its_own_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    path = program(tmp_path, TOTAL, "TotalSegmentator")
    scan = scan_of("Jane_Doe")
    found = load_anchors("totalsegmentator", path).find(scan, ["liver", "spleen"])
    assert [a.status for a in found] == ["ok", "missing"]
    assert np.array_equal(found[0].mask.array, scan.array > 45)
    ((words, _, imported),) = calls(tmp_path)
    assert words[words.index("--task") + 1] == "total"
    assert words[words.index("--roi_subset") + 1 :] == ["liver", "spleen"]
    assert imported is None, "our import path does not reach into its environment"
    assert not any("Jane" in word for word in words), "the scan's name does not travel"
    assert not Path(words[words.index("-i") + 1]).exists(), "nothing is left behind"
    settings = tmp_path / "total.json"
    settings.write_text(json.dumps({"command": [str(path)], "fast": True, "device": "cpu", "task": "total_mr"}))
    load_segmenter("totalsegmentator", settings).segment(scan, Prompt("liver", ("liver",)), Region.whole(GRID.shape))
    words = calls(tmp_path)[1][0]
    assert "--fast" in words
    assert words[words.index("--device") + 1] == "cpu"
    assert words[words.index("--task") + 1] == "total_mr"


def test_nnunet_runs_in_its_own_environment(tmp_path):
    path = program(tmp_path, NNUNET, "nnUNetv2_predict")
    settings = {
        "command": [str(path)], "dataset": "Dataset003_Liver", "configuration": "3d_fullres", "folds": [0, 1],
        "environment": {"nnUNet_results": "somewhere"},
    }  # fmt: skip
    (tmp_path / "nnunet.json").write_text(json.dumps(settings))
    segmenter = load_segmenter("nnunet", tmp_path / "nnunet.json")
    scan = scan_of()
    found = ask(segmenter, scan=scan)
    assert np.allclose(found, 1 / (1 + np.exp(-(scan.array - 60) / 5)), atol=1e-4)
    ask(segmenter, scan=scan)
    ((words, results, _),) = calls(tmp_path)
    assert results == "somewhere"
    assert words[words.index("-f") + 1 : words.index("-f") + 3] == ["0", "1"]
    assert {"--save_probabilities", "--disable_tta"} <= set(words)
    assert words[words.index("-device") + 1] == "cpu"
    assert "dataset=Dataset003_Liver" in segmenter.identity
    with pytest.raises(InputError, match="no label for 'spleen'"):
        ask(segmenter, "spleen", scan=scan)
    assert segmenter.capabilities.context == "scan"


def test_a_tool_that_fails_is_one_line(tmp_path):
    bad = program(
        tmp_path, "import sys\nprint('a'); print('CUDA out of memory', file=sys.stderr); sys.exit(3)\n", "bad"
    )
    with pytest.raises(InputError, match="failed with exit code 3: CUDA out of memory"):
        run_tool(ToolSettings((str(bad),)), [], "The tool")
    with pytest.raises(InputError, match="cannot be started"):
        run_tool(ToolSettings((str(tmp_path / "nowhere"),)), [], "The tool")


def test_a_tool_that_hangs_is_ended_with_its_children(tmp_path):
    mark, child = tmp_path / "mark", tmp_path / "child.py"
    child.write_text(f"import time; time.sleep(4); open({str(mark)!r}, 'w')")
    text = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, {str(child)!r}])\ntime.sleep(60)\n"
    slow = program(tmp_path, text, "slow")
    begin = time.monotonic()
    with pytest.raises(InputError, match="was not done after 1 seconds"):
        run_tool(ToolSettings((str(slow),), seconds=1), [], "It")
    assert time.monotonic() - begin < 45, "it was ended, not waited for"
    time.sleep(6)  # longer than its child would have needed
    assert not mark.exists(), "its child was ended too"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "settings are"),
        ('{"command": []}', "the program"),
        ('{"command": "x", "colour": 1}', "settings are"),
        ('{"command": "x", "seconds": "long"}', "could not convert"),
    ],
)
def test_settings_that_are_none_are_refused(tmp_path, text, message):
    (tmp_path / "tool.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_settings(tmp_path / "tool.json", ("dataset",))


def test_what_is_missing_is_said(tmp_path):
    for name in ("precomputed", "totalsegmentator", "nnunet"):
        with pytest.raises(InputError, match="there is no"):
            load_segmenter(name, tmp_path / "nowhere")
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(InputError, match="no program that can be run"):
        load_segmenter("nnunet", tmp_path / "text.txt")
    (tmp_path / "n.json").write_text('{"command": "x"}')
    with pytest.raises(InputError, match='"dataset" and "configuration"'):
        load_segmenter("nnunet", tmp_path / "n.json")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset.json").write_text('{"labels": 3}')
    with pytest.raises(FormatError, match="no table of labels"):
        ask(load_segmenter("precomputed", tmp_path / "out"))


@pytest.mark.parametrize(
    ("target", "names", "wanted"),
    [
        ("liver tumour", {1: "liver", 2: "cancer"}, (2,)),
        ("pancreatic cancer", {1: "pancreas", 2: "pancreas tumour", 3: "kidney tumour"}, (2,)),
        ("kidney tumour", {1: "pancreas", 2: "pancreas tumour", 3: "kidney tumor"}, (3,)),
        ("spleen", {1: "liver", 2: "spleen"}, (2,)),
        ("anything", {4: "lesion"}, (4,)),
    ],
)
def test_targets_are_found_among_label_names(target, names, wanted):
    assert target_labels(target, names) == wanted


def test_a_target_nobody_labelled_is_refused():
    with pytest.raises(InputError, match="holds liver, spleen"):
        target_labels("lung nodule", {1: "liver", 2: "spleen"})
