"""The file itself: size, policy, atomicity, refusals; no browser needed."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from dataclasses import asdict, replace
from importlib import resources

import nibabel as nib
import numpy as np
import pytest

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Mask, Scan
from anatrust.pipeline.organ import check_structures
from anatrust.report import write_report
from anatrust.report.embed import GAP, INSIDE, OUTLINE
from anatrust.report.listed import listed, middle_of


def volume(text: str, name: str) -> nib.Nifti1Image:
    """A volume as the page holds it."""
    data = re.search(f'id="volume-{name}">([^<]+)<', text).group(1)
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(data)))


@pytest.fixture(scope="module")
def text(patient, tmp_path_factory):
    return patient.write(tmp_path_factory.mktemp("file") / "report.html").read_text(encoding="utf-8")


def test_the_policy_lists_exactly_the_scripts_in_the_page(text):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text).group(1).replace("&#39;", "'")
    listed = set(re.findall(r"'sha256-([^']+)'", policy))
    run = [
        *re.findall(r"<script>(.*?)</script>", text, re.DOTALL),
        re.search(r"<style>(.*?)</style>", text, re.S).group(1),
    ]
    assert len(run) == 3
    assert listed == {base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in run}
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_page_points_at_nothing_outside(text):
    ours = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href|action)\s*=\s*[\"'](?!data:|#)", ours)
    assert "url(" not in ours


def test_the_same_input_gives_the_same_bytes(patient, text, tmp_path):
    assert patient.write(tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_the_shown_scan_is_the_scan(patient, text):
    shown = volume(text, "scan")
    values, affine = np.asarray(shown.dataobj), shown.affine
    index = np.array(patient.verdict.candidates[0].bounding_box)[:, 0]
    there = np.linalg.solve(affine, [*patient.scan.grid.to_world(index), 1])[:3]
    assert np.abs(there - np.rint(there)).max() < 1e-3
    assert values[tuple(np.rint(there).astype(int))] == patient.scan.array[tuple(index)]
    assert np.prod(values.shape) < patient.scan.array.size * 27  # drawn three times finer, and air is cut off


def test_every_voxel_of_an_outcome_is_in_its_overlay(patient, text):
    for name, mask in (("kept", patient.kept), ("rejected", patient.rejected)):
        shown = np.asarray(volume(text, name).dataobj)
        assert np.count_nonzero(shown) == 27 * np.count_nonzero(mask.array)
        assert set(np.unique(shown)) <= {0, GAP, INSIDE, OUTLINE}


def test_the_words_of_the_verdict_are_in_the_page(patient, text):
    for wanted in (
        "Review",
        "approximate, α = 0.1",
        "The slices are 9 mm apart.",
        "Use a thinner series.",
        "familywise",
    ):
        assert wanted in text
    assert text.index("Not guaranteed") < text.index("Nothing is promised about healthy people")
    assert "is not “tumour”" in text


@pytest.mark.parametrize("budget", [3_200_000, 6_000_000])
def test_a_large_scan_stays_within_the_budget_and_the_page_says_so(patient, tmp_path, budget):
    grid = Grid((220, 220, 160), np.diag([1.0, 1.0, 1.5, 1.0]))
    noise = np.random.default_rng(1).normal(100, 40, grid.shape).astype(np.float32)
    spots = np.zeros(grid.shape, bool)
    spots[20:30, 20:30, 20:26] = spots[190:200, 190:200, 130:140] = True
    lesions = LabelMap(spots.astype(np.uint8), grid)
    nothing = Mask(np.zeros(grid.shape, bool), grid)
    file = tmp_path / "report.html"
    verdict = replace(patient.verdict, candidates=())
    write_report(file, verdict, Scan(noise, grid, "MR"), lesions, Mask(spots, grid), nothing, max_bytes=budget)
    assert file.stat().st_size <= budget
    text = file.read_text(encoding="utf-8")
    assert "Voxels are averaged to" in text
    kept = np.asarray(volume(text, "kept").dataobj) > 0
    assert kept.any(axis=(1, 2)).sum() >= 2


def test_files_appear_whole_or_not_at_all(patient, tmp_path):
    target = tmp_path / "report.html"
    target.write_text("old")
    broken = {**patient.verdict.to_json(), "decision": "perhaps"}
    with pytest.raises(InputError, match="decision is 'perhaps'"):
        write_report(target, broken, patient.scan, patient.labels, patient.kept, patient.rejected)
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_json_form_gives_the_same_page(patient, text, tmp_path):
    plain = patient.verdict.to_json()
    file = write_report(tmp_path / "r.html", plain, patient.scan, patient.labels, patient.kept, patient.rejected)
    assert file.read_text(encoding="utf-8") == text


def test_refusals_say_what_to_do(patient, tmp_path):
    verdict, scan, labels, kept = patient.verdict, patient.scan, patient.labels, patient.kept
    plain = {k: v for k, v in verdict.to_json().items() if k != "reasons"}
    with pytest.raises(InputError, match="lacks reasons"):
        write_report(tmp_path / "r.html", plain, scan, labels, kept, patient.rejected)
    with pytest.raises(InputError, match="raise it"):
        patient.write(tmp_path / "r.html", max_bytes=1000)
    other = Grid(scan.grid.shape, np.eye(4))
    with pytest.raises(GeometryError, match="rejected and the scan are on different grids"):
        write_report(tmp_path / "r.html", verdict, scan, labels, kept, Mask(patient.rejected.array, other))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_mask_has_a_page_too(patient, tmp_path):
    nothing = np.zeros(patient.scan.grid.shape, bool)
    grid = patient.scan.grid
    verdict = replace(patient.verdict, candidates=(), reasons=("nothing was tested",))
    file = write_report(
        tmp_path / "r.html",
        verdict,
        patient.scan,
        LabelMap(nothing.astype(np.uint8), grid),
        Mask(nothing, grid),
        Mask(nothing, grid),
    )
    text = file.read_text(encoding="utf-8")
    assert "The mask holds no candidate." in text
    assert "Middle slice" in text


def test_an_undecidable_row_is_short_and_says_for_what_placement_counts(patient, tmp_path):
    reason = "too few patches; known is that its mean lies 2.5 standard deviations above that of liver"
    changed = tuple(
        replace(c, decision="undecidable", reason=reason, p_value=None, q_value=None) if c.number == 1 else c
        for c in patient.verdict.candidates
    )
    verdict = replace(patient.verdict, candidates=changed)
    images = (patient.scan, patient.labels, patient.kept, patient.rejected)
    text = write_report(tmp_path / "r.html", verdict, *images).read_text(encoding="utf-8")
    assert "Too few patches" in text
    # Contrast and placement p have places of their own in the row.
    assert "2.5 standard deviations" not in text
    assert "placement p 0.001, which decides only about a mask drawn without looking at the image" in text


def test_organs_are_listed_with_their_checks(patient, tmp_path):
    array = np.zeros(patient.scan.grid.shape, np.uint8)
    array[10:30, 10:30, 5:20] = 5
    array[18:22, 18:22, 10:14] = 0
    array[32:38, 12:30, 5:20] = 2
    labels = LabelMap(array, patient.scan.grid, {5: "liver", 2: "kidney"})
    nothing = Mask(np.zeros(array.shape, bool), patient.scan.grid)
    checks = check_structures(labels)
    verdict = replace(patient.verdict, kind="organ", candidates=(), structures=checks, null="none")
    text = write_report(tmp_path / "r.html", verdict, patient.scan, labels, nothing, nothing).read_text("utf-8")
    assert [c.failed != () for c in checks] == [False, True]
    assert np.count_nonzero(volume(text, "failed").dataobj) == 27 * np.count_nonzero(array == 5)
    assert np.count_nonzero(volume(text, "passed").dataobj) == 27 * np.count_nonzero(array == 2)
    assert "Failed: holes of 1.1 %." in text
    assert "not whether its outline is right" in text
    assert "volume-undecidable" not in text


def test_structures_lie_where_they_are_in_the_whole_image(patient, rng):
    """Looked for in their boxes alone, whatever the order in memory."""
    array = rng.integers(2, 4, patient.scan.grid.shape).astype(np.uint8)
    array[:3, :3, :3] = array[:3, -3:, :3] = array[-3:, :3, :3] = 1  # three pieces, which fails
    array[10:30, 8:20, 5:19] = 7
    array[12:28, 8:16, 5:19] = 2  # bent
    for stored in (np.ascontiguousarray(array), np.asfortranarray(array)):
        labels = LabelMap(stored, patient.scan.grid)
        checks = tuple(asdict(check) for check in check_structures(labels))
        entries, masks = listed({"kind": "organ", "structures": checks}, labels, patient.kept, patient.rejected)
        assert [entry.number for entry in entries] == [1, 2, 3, 7]
        for entry in entries:
            index, box = middle_of(array == entry.number)
            assert (entry.index, entry.box) == (index, box)
            assert array[tuple(int(v) for v in entry.index)] == entry.number
        failed = [entry.number for entry in entries if entry.outcome == "failed"]
        assert np.array_equal(masks["failed"], np.isin(array, failed))
        assert np.array_equal(masks["passed"], (array > 0) & ~np.isin(array, failed))
    one = Mask(array == 7, patient.scan.grid)
    single = ({**checks[3], "label": 1},)
    [entry], _ = listed({"kind": "organ", "structures": single}, one, patient.kept, patient.rejected)
    assert entry.box == ((10, 30), (8, 20), (5, 19))


def test_many_candidates_do_not_swell_the_page(patient, tmp_path):
    few = len(patient.write(tmp_path / "few.html").read_bytes())
    first = patient.verdict.candidates[0]
    many = patient.with_verdict(candidates=tuple(replace(first, number=i + 1) for i in range(2000)))
    text = many.write(tmp_path / "many.html").read_text(encoding="utf-8")
    assert len(text) < few + 1_500_000
    assert "1700 more, all kept, are in verdict.json" in text
    assert text.count("<figure") == 12


def test_of_many_candidates_the_table_holds_those_that_matter(patient, tmp_path):
    first = patient.verdict.candidates[0]
    outcome = {320: "kept", 400: "undecidable", 499: "kept"}
    many = tuple(replace(first, number=i + 1, decision=outcome.get(i + 1, "rejected")) for i in range(500))
    text = patient.with_verdict(candidates=many).write(tmp_path / "many.html").read_text(encoding="utf-8")
    listed = [int(number) for number in re.findall(r'<tbody data-number="(\d+)"', text)]
    assert listed == [*range(1, 298), 320, 400, 499]  # in their order, and of the rejected the largest
    assert "200 more, all rejected, are in verdict.json" in text
    assert [int(n) for n in re.findall(r'<figure[^>]* data-number="(\d+)"', text)][:3] == [320, 499, 400]
    unsure = tuple(replace(c, decision="undecidable" if c.number <= 310 else c.decision) for c in many)
    text = patient.with_verdict(candidates=unsure).write(tmp_path / "more.html").read_text(encoding="utf-8")
    assert "200 more (187 rejected, 13 undecidable) are in verdict.json" in text


def test_a_single_slice_knows_its_plane(tmp_path, patient):
    from anatrust.report.viewer import _plane

    planes = {"axial": np.eye(4), "coronal": np.eye(4)[:, [0, 2, 1, 3]], "sagittal": np.eye(4)[:, [1, 2, 0, 3]]}
    for name, affine in planes.items():
        assert _plane(Grid((5, 6), affine)) == name
    assert _plane(patient.scan.grid) == "all"


def test_the_vendored_viewer_is_the_one_recorded():
    vendor = resources.files("anatrust.report") / "vendor"
    bundle = (vendor / "niivue.slim.js").read_bytes()
    digest, name = (vendor / "niivue.slim.js.sha256").read_text().split()
    assert name == "niivue.slim.js"
    assert hashlib.sha256(bundle).hexdigest() == digest
    assert len(bundle) < 1_000_000
    notices = (vendor / "LICENSES.txt").read_text()
    for package in ("@niivue/niivue 0.69.0 (BSD-2-Clause)", "gl-matrix", "nifti-reader-js", "fflate", "uuid", "Roboto"):
        assert package in notices


def test_scan_types_beside_ct(patient, tmp_path):
    """A constant scan and a float scan have pages: nothing divides by a range of zero."""
    grid = patient.scan.grid
    for array in (np.zeros(grid.shape, np.float32), np.full(grid.shape, 7, np.uint8)):
        other = replace(patient, scan=Scan(array, grid, "MR", "", "flat"))
        assert "volume-scan" in other.write(tmp_path / "r.html").read_text(encoding="utf-8")
