"""The normal tissue of a candidate: organs, the body around, erosion, gaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical
from anatrust.image.volumes import LabelMap, Scan
from anatrust.rejection import TissueSettings
from anatrust.rejection.body import air_threshold, body_mask
from anatrust.rejection.candidates import find_components
from anatrust.rejection.tissue import ball, dilated, find_tissues, organ_overlap


def _case(phantom):
    values, grid = canonical(phantom.labels.array, phantom.labels.grid)
    image = canonical(phantom.scan.array, phantom.labels.grid)[0]
    organs = canonical(phantom.anatomy.array, phantom.labels.grid)[0]
    components = find_components(values, image, grid, phantom.labels.grid)
    return replace(phantom.scan, array=image, grid=grid), components, LabelMap(organs, grid, phantom.anatomy.names)


def _whole(tissue, shape, part):
    out = np.zeros(shape, bool)
    out[tissue.box] = part
    return out


def test_candidates_go_to_the_organ_they_lie_in(flat):
    scan, components, organs = _case(flat)
    positions = range(len(components.candidates))
    (tissue,) = find_tissues(scan, components, positions, anatomy=organs)
    assert tissue.description == "liver"
    assert tissue.members == tuple(positions)
    liver = organs.array == 5
    lesions = components.union(tuple(positions))
    region = _whole(tissue, liver.shape, tissue.region)
    assert np.array_equal(region, ndimage.binary_erosion(liver, ball(1.0, scan.grid.spacing)))
    normal = _whole(tissue, liver.shape, tissue.normal)
    assert not (normal & ndimage.binary_dilation(lesions, ball(1.0, scan.grid.spacing))).any()
    assert np.array_equal(normal, region & ~ndimage.binary_dilation(lesions, ball(1.0, scan.grid.spacing)))


def test_organ_models_that_leave_the_lesion_out(flat):
    scan, components, organs = _case(flat)
    hole = np.where(components.union((0,)), 0, organs.array)
    left_out = LabelMap(hole, scan.grid, organs.names)
    (whole,) = find_tissues(scan, components, [0], anatomy=organs)
    (tissue,) = find_tissues(scan, components, [0], anatomy=left_out)
    # The hole is no rim: what is normal does not change, only the lesion itself is missing.
    assert np.array_equal(tissue.normal, whole.normal)
    assert not (tissue.region & components.within(0, tissue.box)).any()
    assert organ_overlap(components, left_out, TissueSettings())[0] == 1.0


def test_the_nearest_organ_and_none(flat):
    scan, components, organs = _case(flat)
    only_spleen = LabelMap(np.where(organs.array == 1, 1, 0), scan.grid, organs.names)
    near = find_tissues(scan, components, range(4), anatomy=only_spleen, settings=TissueSettings(nearest=60))
    assert [t.description for t in near] == ["spleen"]
    unnamed = replace(only_spleen, names={})
    near = find_tissues(scan, components, range(4), anatomy=unnamed, settings=TissueSettings(nearest=60))
    assert [t.description for t in near] == ["organ 1"]
    (around,) = find_tissues(scan, components, range(4), anatomy=only_spleen, settings=TissueSettings(nearest=5))
    assert around.description == "body within 20 mm of the candidates (no organ near)"
    assert around.members == (0, 1, 2, 3)


def test_named_organs_are_one_tissue(flat):
    scan, components, organs = _case(flat)
    (tissue,) = find_tissues(scan, components, range(4), anatomy=organs, settings=TissueSettings(names=("Spleen", 5)))
    assert tissue.description == "Spleen + liver"
    assert tissue.members == (0, 1, 2, 3)
    assert find_tissues(scan, components, (), anatomy=organs, settings=TissueSettings(names=(5,))) == ()
    with pytest.raises(InputError, match="no label 'brain': it holds spleen, liver"):
        find_tissues(scan, components, range(4), anatomy=organs, settings=TissueSettings(names=("brain",)))


def test_lesion_labels_in_the_anatomy_are_no_tissue(flat):
    scan, components, organs = _case(flat)
    cyst = LabelMap(np.where(components.union((0,)), 23, organs.array), scan.grid, {5: "liver", 23: "kidney_cyst_left"})
    tissues = find_tissues(scan, components, [0], anatomy=cyst)
    assert [t.description for t in tissues] == ["liver"]


def test_without_organs_all_candidates_share_the_body_around_them(flat, solid):
    for phantom in (flat, solid):
        scan, components, organs = _case(phantom)
        positions = tuple(range(len(components.candidates)))
        (tissue,) = find_tissues(scan, components, positions)
        assert tissue.members == positions
        region = _whole(tissue, scan.grid.shape, tissue.region)
        # The body's border is found on a coarse grid.
        outside = ndimage.distance_transform_edt(organs.array == 0, sampling=scan.grid.spacing)
        assert outside[region].max() <= 3.0 * np.sqrt(scan.grid.ndim)
        away = ndimage.distance_transform_edt(~components.union(positions), sampling=scan.grid.spacing)
        assert away[region].max() <= 20.0
        assert np.array_equal(region, (away <= 20.0) & body_mask(scan))
        assert tissue.description == f"body within 20 {scan.grid.unit} of the candidates"
        alone = [find_tissues(scan, components, [k])[0] for k in positions]
        assert np.array_equal(region, np.any([_whole(t, scan.grid.shape, t.region) for t in alone], axis=0))
        assert all(t.description == f"body within 20 {scan.grid.unit} of it" for t in alone)
        assert find_tissues(scan, components, ()) == ()
        normal = _whole(tissue, scan.grid.shape, tissue.normal)
        assert not (normal & components.union(positions)).any()


def test_the_body_around_grows_with_the_candidate_and_is_coarse_where_huge():
    shape = (1800, 1800)
    grid = Grid.without_spacing(shape)
    mask = np.zeros(shape, np.uint8)
    mask[500:1300, 500:1300] = 1
    components = find_components(mask, mask, grid, grid)
    scan = Scan(np.full(shape, 9, np.uint8), grid, "photo")
    (tissue,) = find_tissues(scan, components, [0], settings=TissueSettings(shell_factor=1.0))
    radius = np.sqrt(800 * 800 / np.pi)
    assert tissue.description == f"body within {radius:.3g} px of it"
    middle = tissue.region[tissue.region.shape[0] // 2]
    assert middle.sum() == pytest.approx(800 + 2 * radius, abs=8)


@pytest.mark.parametrize("modality", ["MR", "PET", "unknown"])
def test_body_without_hounsfield_units(modality):
    rng = np.random.default_rng(0)
    image = rng.random((60, 60, 8)).astype(np.float32)
    image[10:50, 10:50] += 60
    image[25:35, 25:35] = 0.5
    scan = Scan(image, Grid(image.shape, np.eye(4)), modality)
    body = body_mask(scan)
    # Dark fluid inside is filled, air outside is not.
    assert body[12:48, 12:48].all()
    assert not body[:7].any()
    assert not body[53:].any()
    assert 0 < air_threshold(scan) < 10


@pytest.mark.parametrize("bright", [20.0, 200.0, 5000.0])
@pytest.mark.parametrize("blur", [0.0, 2.0])
def test_a_bright_candidate_does_not_make_air_of_the_body(bright, blur):
    """5 % of the way to a hot tumour lies above all tissue: without the tumour it does not."""
    rng = np.random.default_rng(0)
    image = 0.02 * rng.random((96, 96))
    image[8:88, 8:88] += 1 + 0.2 * rng.random((80, 80))
    tumour = np.zeros(image.shape, dtype=bool)
    tumour[30:50, 40:60] = True
    image += bright * (ndimage.gaussian_filter(tumour.astype(float), blur) if blur else tumour)
    scan = Scan(image.astype(np.float32), Grid(image.shape, np.eye(4)), "PET")
    body = body_mask(scan, tumour)
    # Found on every third voxel.
    assert body[10:86, 10:86].all()
    assert not body[:6].any()
    assert not body[91:].any()
    # Where candidates are much of the image what is left may be air alone.
    whole = image > 0.5
    assert air_threshold(scan, whole) == air_threshold(scan)


def test_body_of_photos_and_constant_images():
    photo = Scan(np.zeros((9, 9), np.uint8), Grid.without_spacing((9, 9)), "photo")
    assert body_mask(photo).all()
    air = Scan(np.full((6, 6), -1000, np.int16), Grid((6, 6), np.eye(4)), "CT", "HU")
    assert body_mask(air).all()


def test_lungs_belong_to_the_body():
    image = np.full((80, 80, 6), -1000, np.int16)
    image[10:70, 10:70] = 40
    image[20:40, 20:60] = -850
    body = body_mask(Scan(image, Grid(image.shape, np.diag([1.0, 1, 5, 1])), "CT", "HU"))
    assert body[12:68, 12:68].all()
    assert not body[:6].any()


def test_ball_reaches_at_least_one_voxel():
    assert ball(0.0, (1.0, 1.0)).sum() == 5
    assert ball(3.0, (1.0, 1.0, 10.0)).shape == (7, 7, 3)
    assert ball(3.0, (1.0, 1.0, 10.0))[3, 3].all()


def test_dilated_outside_the_box_is_none(flat):
    _, components, _ = _case(flat)
    far = tuple(slice(0, 2) for _ in components.grid.shape)
    assert dilated(0, far, components, 1.0) is None


def test_overlap_counts_the_larger_share(flat):
    _, components, organs = _case(flat)
    assert organ_overlap(components, None, TissueSettings()) is None
    np.testing.assert_allclose(organ_overlap(components, organs, TissueSettings()), 1.0)
    full = np.ones((4, 4), np.uint8)
    grid = Grid((4, 4), np.eye(4))
    everywhere = find_components(full, full, grid, grid)
    assert organ_overlap(everywhere, LabelMap(full, grid), TissueSettings()).tolist() == [1.0]
    assert organ_overlap(everywhere, LabelMap(full * 0, grid), TissueSettings()).tolist() == [0.0]
