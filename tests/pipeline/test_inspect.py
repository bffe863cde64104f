"""The input gate on synthetic reproductions of what users meet, and on the real scans."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, ProbabilityMap, Scan
from anatrust.pipeline.finding import Finding, worst
from anatrust.pipeline.inspect import inspect_probability_values, inspect_scan
from anatrust.pipeline.inspect.body import find_body


def codes(findings: tuple[Finding, ...] | list[Finding], *severities: str) -> list[str]:
    return [f.code for f in findings if not severities or f.severity in severities]


def changed(scan: Scan, array: np.ndarray, **changes: object) -> Scan:
    return Scan(array, changes.get("grid", scan.grid), changes.get("modality", scan.modality), "", "changed")  # type: ignore[arg-type]


def test_a_proper_ct_and_mask_give_no_finding(trunk: Scan, liver_lesion: LabelMap) -> None:
    assert inspect_scan(trunk, liver_lesion) == ()


# --- TotalSegmentator 130: the HU values had been changed; masks empty or very bad, no message.
@pytest.mark.parametrize("offset", [1024, 1000])
def test_totalsegmentator_130_offset_hounsfield_units(trunk: Scan, offset: int) -> None:
    found = inspect_scan(changed(trunk, (trunk.array + offset).clip(0, 4095)))
    assert codes(found) == ["ct-offset"]
    assert found[0].severity == "warning"
    assert str(offset) in found[0].sentence or "1024" in found[0].sentence


def test_totalsegmentator_130_rescaled_hounsfield_units(trunk: Scan) -> None:
    array = (trunk.array.astype(np.float32) + 1024) * 0.25 + 400
    assert codes(inspect_scan(changed(trunk, array))) == ["ct-rescaled"]
    full = ((trunk.array.astype(np.int32) + 1024) * 16).astype(np.int32)
    assert codes(inspect_scan(changed(trunk, full))) == ["ct-rescaled"]


def test_totalsegmentator_130_clipped_to_the_soft_tissue_window(trunk: Scan) -> None:
    found = inspect_scan(changed(trunk, trunk.array.clip(-200, 400)))
    assert codes(found) == ["ct-clipped-window"]


# --- TotalSegmentator 455: [0, 1] gives an empty mask, [0, 255] an incomplete one.
def test_totalsegmentator_455_normalised_to_the_unit_range(trunk: Scan) -> None:
    array = ((trunk.array.astype(np.float32) + 160) / 400).clip(0, 1)
    found = inspect_scan(changed(trunk, array))
    assert codes(found) == ["ct-unit-range"]
    assert "HU" in found[0].cure


def test_totalsegmentator_455_eight_bit_window(trunk: Scan) -> None:
    array = (((trunk.array.astype(np.float32) + 160) / 400).clip(0, 1) * 255).round().astype(np.uint8)
    assert codes(inspect_scan(changed(trunk, array))) == ["eight-bit-window"]
    assert codes(inspect_scan(changed(trunk, array, modality="unknown"))) == ["eight-bit-window"]


# --- TotalSegmentator 144: the image was flipped along y against its header; most vertebrae were lost.
def test_totalsegmentator_144_front_to_back_flip(trunk: Scan) -> None:
    found = inspect_scan(changed(trunk, trunk.array[:, ::-1]))
    assert codes(found) == ["front-to-back"]
    assert "Flip" in found[0].cure


def test_a_left_right_flip_cannot_be_proven_and_is_not_claimed(trunk: Scan) -> None:
    assert inspect_scan(changed(trunk, trunk.array[::-1])) == ()


# --- TotalSegmentator 216: converted from MHD, axes and geometry lost, result all zeros.
def test_totalsegmentator_216_lost_geometry_and_empty_mask(trunk: Scan) -> None:
    array = trunk.array.transpose(0, 2, 1)
    grid = Grid(array.shape, np.eye(4))
    mask = LabelMap(np.zeros(array.shape, np.uint8), grid)
    found = inspect_scan(changed(trunk, array, grid=grid), mask)
    assert {"default-header", "empty-mask"} <= set(codes(found, "warning"))


# --- TotalSegmentator 376: a file of 66 kB is not a CT.
def test_totalsegmentator_376_tiny_file(trunk: Scan) -> None:
    array = trunk.array[30:70, 20:60, 10:31]
    assert array.size * 2 < 66_000
    assert "tiny-image" in codes(inspect_scan(changed(trunk, array, grid=Grid(array.shape, trunk.grid.affine))))


def test_constant_image_is_an_error(trunk: Scan) -> None:
    found = inspect_scan(changed(trunk, np.full(trunk.array.shape, 7, np.int16)))
    assert codes(found, "error") == ["constant-image"]


def test_inverted_ct(trunk: Scan) -> None:
    assert "inverted" in codes(inspect_scan(changed(trunk, -trunk.array)))


def test_label_map_given_as_the_scan(trunk: Scan) -> None:
    array = (trunk.array > -500).astype(np.uint8) + (trunk.array > 200)
    assert "few-grey-values" in codes(inspect_scan(changed(trunk, array, modality="unknown")))


def test_modality_that_contradicts_the_values(trunk: Scan) -> None:
    assert "modality-mismatch" in codes(inspect_scan(changed(trunk, trunk.array, modality="MR")))
    assert "negative-pet" in codes(inspect_scan(changed(trunk, trunk.array, modality="PET")))
    assert codes(inspect_scan(changed(trunk, trunk.array, modality="unknown"))) == ["modality-not-given"]


def test_pet_in_becquerel_and_padding_are_only_noted(trunk: Scan) -> None:
    activity = (trunk.array.astype(np.float32) + 1024) * 10
    assert codes(inspect_scan(changed(trunk, activity, modality="PET"))) == ["pet-not-suv"]
    padded = trunk.array.copy()
    padded[:5] = -3024
    assert codes(inspect_scan(changed(trunk, padded))) == ["ct-padding"]


@pytest.mark.parametrize(
    ("affine", "code"),
    [
        (np.diag([0.001, 0.001, 0.005, 1]), "implausible-spacing"),
        (np.diag([0.5, 0.5, 12.0, 1]), "extreme-anisotropy"),
        (np.array([[2.0, 0, 0, 1], [0, 2, 0.6, 1], [0, 0, 2.4, 1], [0, 0, 0, 1]]), "sheared-axes"),
        (np.eye(4), "default-header"),
    ],
)
def test_odd_geometry(trunk: Scan, affine: np.ndarray, code: str) -> None:
    scan = Scan(trunk.array, Grid(trunk.grid.shape, affine))
    assert code in codes(inspect_scan(scan), "warning")


def test_unknown_spacing_and_few_slices(trunk: Scan) -> None:
    assert codes(inspect_scan(Scan(trunk.array[..., 5], Grid.without_spacing((100, 80)))), "info") == [
        "spacing-unknown"
    ]
    thin = Scan(trunk.array[..., :3], Grid.without_spacing((100, 80, 3)))
    assert {"spacing-unknown", "few-slices"} <= set(codes(inspect_scan(thin), "warning"))


def test_masks_that_cannot_be_right(trunk: Scan, liver_lesion: LabelMap) -> None:
    def of(array: np.ndarray) -> list[str]:
        return codes(inspect_scan(trunk, LabelMap(array.astype(np.uint8), trunk.grid)), "warning", "error")

    everything = np.ones(trunk.array.shape)
    assert of(everything) == ["full-mask"]
    assert of(0 * everything) == ["empty-mask"]
    corner = 0 * everything
    corner[1:6, 1:6, 4:8] = 1
    assert of(corner) == ["outside-body"]
    assert worst(inspect_scan(trunk, LabelMap(corner.astype(np.uint8), trunk.grid))) == "error"
    assert "outside-body" in of(np.roll(liver_lesion.array, 40, axis=1))
    specks = 0 * everything
    specks[20:80:4, 24:56:4, 4:20:4] = 1
    assert "many-components" in of(specks)
    slab = 0 * everything
    slab[45:55, 35:45, :3] = 1
    assert of(slab) == ["touches-border"]
    assert "huge-mask" in of(trunk.array > -500)


def test_swapped_and_misnamed_masks(trunk: Scan) -> None:
    positive = (trunk.array + 1024).astype(np.int32)
    scan = changed(trunk, positive)
    assert {"mask-is-the-scan", "many-labels"} <= set(codes(inspect_scan(scan, LabelMap(positive, trunk.grid))))
    organ = LabelMap((trunk.array > -500).astype(np.uint8), trunk.grid)
    assert "huge-mask" not in codes(inspect_scan(trunk, organ, kind="organ"))


def test_probabilities(trunk: Scan, liver_lesion: LabelMap) -> None:
    from scipy import ndimage

    soft = ndimage.gaussian_filter(liver_lesion.array.astype(np.float32), 1.5)
    soft /= soft.max()

    def of(array: np.ndarray) -> list[str]:
        return codes(
            inspect_scan(
                trunk, liver_lesion, ProbabilityMap(array, trunk.grid, ("background", "lesion")[-len(array) :])
            )
        )

    assert of(soft[None]) == []
    assert of(np.stack([1 - soft, soft])) == []
    assert of(np.stack([soft, soft])) == ["channels-do-not-sum"]
    assert of((soft[None] > 0.5).astype(np.float32)) == ["hard-probabilities"]
    assert of(np.full_like(soft, 0.5)[None]) == ["constant-probabilities"]
    assert of(soft[None, ::-1]) == ["probabilities-disagree"]
    assert of(0.2 * soft[None]) == ["probabilities-low"]
    sharp = (soft > 0.5) * 0.9985 + 0.0007
    sharp[0, 0, 0] = 0.5
    assert of(sharp[None].astype(np.float32)) == ["overconfident-probabilities"]
    logits = inspect_probability_values(np.log(soft[None] + 1e-6))
    assert codes(logits) == ["logits"]
    assert "sigmoid" in logits[0].cure


def test_unlike_grids_are_refused(trunk: Scan, liver_lesion: LabelMap) -> None:
    other = Grid(trunk.grid.shape, trunk.grid.affine + np.eye(4, 4, 3))
    with pytest.raises(GeometryError, match="resample"):
        inspect_scan(trunk, LabelMap(liver_lesion.array, other))


def test_findings_do_not_depend_on_the_stored_orientation(trunk: Scan, liver_lesion: LabelMap) -> None:
    image = nibabel.Nifti1Image(trunk.array[:, ::-1].clip(-200, None), trunk.grid.affine)
    mask = nibabel.Nifti1Image(np.roll(liver_lesion.array, 30, axis=1), trunk.grid.affine)
    expected = None
    for orientation in ("RAS", "LPS", "SAR", "IPL", "PIR"):
        turn = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(orientation)
        )
        a, b = image.as_reoriented(turn), mask.as_reoriented(turn)
        grid = Grid(a.shape, a.affine)
        assert grid.orientation == orientation
        scan = Scan(np.asarray(a.dataobj), grid, "CT")
        found = inspect_scan(scan, LabelMap(np.asarray(b.dataobj), grid))
        expected = expected or found
        assert found == expected
    assert expected


def test_a_finding_is_complete_and_round_trips() -> None:
    finding = Finding("info", "code", "Sentence.", "Cure.")
    assert Finding.from_json(finding.to_json()) == finding
    with pytest.raises(InputError, match="severity"):
        Finding("bad", "code", "s", "c")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cure"):
        Finding("info", "code", "s", "")
    assert worst([]) is None


REAL = [
    ("amos_ct/image.nii.gz", "amos_ct/labels.nii.gz", "CT", "organ", ["eight-bit-window"]),
    ("amos_ct/image.nii.gz", "amos_ct/labels.nii.gz", "unknown", "organ", ["eight-bit-window"]),
    ("abdomen_ct_mr/ct_abdomen_3mm.nii.gz", "abdomen_ct_mr/ct_abdomen_3mm_labels.nii.gz", "CT", "organ", []),
    ("abdomen_ct_mr/ct_small.nii.gz", "abdomen_ct_mr/ct_small_labels.nii.gz", "CT", "organ", []),
    ("abdomen_ct_mr/mr_small.nii.gz", "abdomen_ct_mr/mr_small_labels.nii.gz", "MR", "organ", []),
    ("sarcoma/001/ct.nii.gz", "sarcoma/001/ct_tumour.nii.gz", "CT", "lesion", []),
    ("sarcoma/001/mr_t1.nii.gz", "sarcoma/001/mr_t1_tumour.nii.gz", "MR", "lesion", []),
    ("sarcoma/002/pet.nii.gz", "sarcoma/002/pet_tumour.nii.gz", "PET", "lesion", []),
    ("hippocampus_mr/images/hippocampus_075.nii.gz", "hippocampus_mr/labels/hippocampus_075.nii.gz", "MR", "organ", []),
]


@pytest.mark.parametrize(("image", "mask", "modality", "kind", "expected"), REAL)
def test_real_scans(shared_data: Path, image: str, mask: str, modality: str, kind: str, expected: list[str]) -> None:
    loaded = nibabel.load(shared_data / image)
    grid = Grid(loaded.shape, loaded.affine)
    labels = LabelMap(np.asarray(nibabel.load(shared_data / mask).dataobj).astype(np.int32), grid)
    scan = Scan(np.asarray(loaded.dataobj), grid, modality)  # type: ignore[arg-type]
    assert codes(inspect_scan(scan, labels, kind=kind), "warning", "error") == expected


def test_flipping_the_real_ct_is_noticed(shared_data: Path) -> None:
    loaded = nibabel.load(shared_data / "abdomen_ct_mr/ct_abdomen_3mm.nii.gz")
    array = np.asarray(loaded.dataobj)[:, ::-1]
    assert "front-to-back" in codes(inspect_scan(Scan(array, Grid(array.shape, loaded.affine), "CT")))


def test_the_body_of_a_large_scan_is_found_on_thinned_voxels_and_spread_over_all() -> None:
    shape = (151, 160, 101)  # above two million voxels, and no multiple of the thinning
    image = np.full(shape, -1000, np.int16)
    image[31:120, 40:121, :] = 40
    body = find_body(Scan(image, Grid(shape, np.eye(4)), "CT"))
    assert body is not None
    whole = body.within(tuple(slice(0, n) for n in shape))
    assert whole.shape == shape
    assert body.thinned(image).shape == body.inside.shape
    assert (body.within((slice(7, 90), slice(1, 3), slice(100, 101))) == whole[7:90, 1:3, 100:101]).all()
    wrong = whole != (image > -500)
    assert not wrong[34:117, 43:118].any()
    assert wrong.mean() < 0.02
