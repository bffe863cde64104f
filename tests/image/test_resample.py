import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from anatrust.errors import GeometryError, InputError
from anatrust.image import (
    Grid,
    LabelMap,
    Mask,
    ProbabilityMap,
    Scan,
    align_to,
    canonical,
    read_mask,
    read_scan,
    resample_labels,
    resample_probabilities,
    resample_scan,
    write_mask,
)


def grid_of(shape, spacing=(1.0, 1, 1), origin=(10, 20, 30), angle=0.0, flip=(1, 1, 1)):
    c, s = np.cos(angle), np.sin(angle)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(np.array(spacing) * flip)
    affine[:3, 3] = origin
    return Grid(shape, affine)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("shear", [0.0, 0.15])
def test_agrees_with_scipy_inside(rng, order, shear):
    source = grid_of((20, 22, 24), (1.0, 1.2, 0.9), angle=0.2)
    affine = grid_of((12, 13, 14), (0.9, 0.8, 1.1), (13, 26, 33), angle=-0.1).affine.copy()
    affine[0, 2] += shear
    target = Grid((12, 13, 14), affine)
    array = rng.integers(0, 1000, source.shape).astype(np.int32)
    across = np.linalg.inv(source.affine) @ target.affine
    where = target.to_world(np.argwhere(np.ones(target.shape, bool)))
    index = source.to_index(where)
    inside = ((index >= 0) & (index <= np.array(source.shape) - 1)).all(axis=1).reshape(target.shape)
    assert inside.mean() > 0.5
    expected = ndimage.affine_transform(
        array.astype(float), across[:3, :3], across[:3, 3], output_shape=target.shape, order=order
    )
    if order:
        got = resample_scan(Scan(array, source), target).array
        assert np.abs(got - expected)[inside].max() <= 0.51
        precise = resample_scan(Scan(array.astype(float), source), target).array
        assert np.allclose(precise[inside], expected[inside], atol=1e-6)
    else:
        got = resample_labels(LabelMap(array, source), target).array
        assert (got == expected)[inside].mean() > 0.999


@given(
    st.tuples(*[st.integers(3, 9)] * 3),
    st.tuples(*[st.floats(0.4, 3.0)] * 3),
    st.floats(-0.5, 0.5),
    st.sampled_from(["nearest", "linear"]),
)
@settings(deadline=None, max_examples=40)
def test_labels_are_never_mixed(shape, spacing, angle, method):
    rng = np.random.default_rng(sum(shape))
    labels = LabelMap(rng.choice([0, 3, 200, 7000], (8, 8, 8)), grid_of((8, 8, 8)))
    moved = resample_labels(labels, grid_of(shape, spacing, angle=angle), method=method)
    assert set(np.unique(moved.array)) <= {0, 3, 200, 7000}
    assert moved.array.dtype == labels.array.dtype
    same = resample_labels(labels, labels.grid, method=method)
    assert np.array_equal(same.array, labels.array)


def test_linear_labels_keep_volume_better_and_ties_go_to_background():
    ball = np.linalg.norm(np.indices((30, 30, 30)) - 14.5, axis=0) < 9
    labels = LabelMap(ball.astype(np.uint8), grid_of((30, 30, 30)))
    fine = grid_of((56, 56, 56), (0.5, 0.5, 0.5), (10.3, 20.3, 30.3))
    moved = resample_labels(labels, fine, method="linear")
    assert moved.mask().volume == pytest.approx(labels.mask().volume, rel=0.05)
    half = LabelMap(np.array([[[1]], [[0]]], np.uint8), grid_of((2, 1, 1)))
    middle = grid_of((1, 1, 1), origin=(10.5, 20, 30))
    assert resample_labels(half, middle, method="linear").array.item() == 0
    with pytest.raises(InputError, match="unknown method"):
        resample_labels(labels, fine, method="cubic")


def test_outside_is_background_and_edges_reach_half_a_voxel():
    labels = LabelMap(np.ones((4, 4, 4), np.uint8), grid_of((4, 4, 4), (2, 2, 2)))
    fine = grid_of((12, 12, 12), (1, 1, 1), (7.5, 17.5, 27.5))
    moved = resample_labels(labels, fine).array
    assert moved.sum() == 8 * 8 * 8
    assert moved[2:10, 2:10, 2:10].all()


def test_probabilities_still_sum_to_one(rng):
    e = np.exp(rng.normal(0, 2, (3, 8, 8, 8)))
    probabilities = ProbabilityMap((e / e.sum(0)).astype(np.float16), grid_of((8, 8, 8)), ("background", "a", "b"))
    moved = resample_probabilities(probabilities, grid_of((12, 12, 12), (0.9, 0.9, 0.9), (9, 19, 29), angle=0.1))
    assert np.abs(moved.array.astype(float).sum(axis=0) - 1).max() < 0.01
    assert moved.array.dtype == np.float16
    assert moved.foreground[0, 0, 0] == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.float16, np.float32, np.float64])
def test_dtypes_are_kept(rng, dtype):
    scan = Scan(rng.integers(0, 200, (6, 6, 6)).astype(dtype), grid_of((6, 6, 6)))
    assert np.array_equal(resample_scan(scan, scan.grid).array, scan.array)
    assert resample_scan(scan, grid_of((4, 4, 4), (1.3, 1.3, 1.3))).array.dtype == dtype


# What counts as the same patient space.


def a_mask(grid):
    array = np.zeros(grid.shape, bool)
    array[tuple(slice(n // 3, 2 * n // 3 + 1) for n in grid.shape)] = True
    return Mask(array, grid)


def test_rounded_headers_are_the_same_grid():
    scan = grid_of((64, 64, 30), (0.7, 0.7, 2.5), angle=0.1)
    mask = a_mask(Grid(scan.shape, scan.affine.astype(np.float32)))
    assert align_to(scan, mask).grid is scan
    assert align_to(scan, mask).array.base is mask.array.base


def test_another_axis_order_is_reordered_exactly(rng):
    scan = grid_of((7, 7, 7), (1, 1, 1), angle=0.3)
    array = rng.integers(0, 9, (7, 7, 7))
    straight, canon = canonical(array, scan)
    flipped = canon.affine.copy()
    flipped[:3, 3] += flipped[:3, 0] * 6
    flipped[:3, 0] *= -1
    other = LabelMap(np.ascontiguousarray(straight[::-1]), Grid((7, 7, 7), flipped))
    assert np.array_equal(align_to(scan, other).array, array)
    chances = ProbabilityMap((other.array / 9.0)[None], other.grid)
    assert np.allclose(align_to(scan, chances).array[0], array / 9.0)


def test_a_finer_mask_of_the_same_place_is_resampled():
    scan = grid_of((20, 20, 20), (2, 2, 2))
    mask = a_mask(grid_of((40, 40, 40), (1, 1, 1), (9.5, 19.5, 29.5)))
    moved = align_to(scan, mask)
    assert moved.grid is scan
    assert moved.volume == pytest.approx(mask.volume, rel=0.3)
    image = Scan(np.zeros((40, 40, 40), np.float32), mask.grid)
    assert align_to(scan, image).grid is scan
    chances = ProbabilityMap(np.zeros((1, 40, 40, 40), np.float32), mask.grid)
    assert align_to(scan, chances).grid is scan


SCAN = grid_of((20, 20, 20), (2, 2, 2), (-100, -80, 40))


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (Grid(SCAN.shape, np.eye(4)), "has the scan's shape .* copy the scan's affine"),
        (grid_of((20, 20, 20), (2, 2, 2), (-98.9, -80, 40)), "puts it 0.55 voxels away"),
        (grid_of((20, 20, 20), (2, 2, 2), (100, 80, 40), flip=(-1, -1, 1)), "has the scan's shape"),
        (Grid((30, 30, 30), np.eye(4)), "never set"),
        (grid_of((30, 30, 30), (2, 2, 2), (100, 80, 40)), "share only 0%"),
        (grid_of((21, 20, 20), (2, 2, 2), (-72, -80, 40)), "share only 29%"),
        (Grid((20, 20, 21), SCAN.affine, spacing_known=False), "spacing is unknown"),
        (Grid((20, 20), SCAN.affine), "2 and 3 axes"),
    ],
)
def test_what_does_not_prove_the_same_space(other, why):
    with pytest.raises(GeometryError, match=why) as caught:
        align_to(SCAN, a_mask(other))
    assert "\n" not in str(caught.value)


def test_nothing_is_lost_unseen():
    wide = grid_of((40, 20, 20), (2, 2, 2), (-100, -80, 40))
    array = np.zeros(wide.shape, np.uint8)
    array[5:8, 5:8, 5:8] = 1
    assert align_to(SCAN, LabelMap(array, wide)).array.sum() == 27
    array[30, 5, 5] = 2
    with pytest.raises(GeometryError, match="1 of 28 labelled voxels of the mask lie outside"):
        align_to(SCAN, LabelMap(array, wide))
    fine = grid_of((80, 80, 80), (0.5, 0.5, 0.5), (-100.75, -80.75, 39.25))
    dot = np.zeros(fine.shape, np.uint8)
    dot[:8, :8, :8] = 1
    dot[20, 20, 20] = 2
    with pytest.raises(GeometryError, match="label 2 falls between the coarser voxels"):
        align_to(SCAN, LabelMap(dot, fine))


def test_images_in_a_plane():
    scan = grid_of((20, 20), (2, 2, 1), (0, 0, 5))
    fine = a_mask(grid_of((40, 40), (1, 1, 1), (-0.5, -0.5, 5)))
    assert align_to(scan, fine).volume == pytest.approx(fine.volume, rel=0.2)
    with pytest.raises(GeometryError, match=r"different planes, up to 3\.0 mm"):
        align_to(scan, a_mask(grid_of((40, 40), (1, 1, 1), (-0.5, -0.5, 8))))
    with pytest.raises(GeometryError, match="different planes"):
        resample_labels(LabelMap(fine.array.astype(np.uint8), grid_of((40, 40), (1, 1, 1), (0, 0, 8))), scan)


def test_impossible_resampling():
    labels = LabelMap(np.zeros((4, 4), np.uint8), Grid.without_spacing((4, 4)))
    with pytest.raises(GeometryError, match="spacing is unknown"):
        resample_labels(labels, Grid.without_spacing((5, 5)))
    with pytest.raises(GeometryError, match="cannot resample 2-D"):
        resample_labels(labels, SCAN)


def test_read_mask_aligns_to_its_reference(tmp_path):
    mask = a_mask(grid_of((40, 40, 40), (1, 1, 1), (-100.5, -80.5, 39.5)))
    write_mask(tmp_path / "m.nii.gz", mask)
    assert read_mask(tmp_path / "m.nii.gz", reference=SCAN).grid is SCAN
    image = nibabel.load(tmp_path / "m.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), np.eye(4)), tmp_path / "lost.nii.gz")
    with pytest.raises(GeometryError, match="never set"):
        read_mask(tmp_path / "lost.nii.gz", reference=SCAN)


@pytest.mark.parametrize("patient", ["001", "002"])
def test_real_tumours_fit_all_three_scans(shared_data, patient):
    folder = shared_data / "sarcoma" / patient
    own = read_mask(folder / "mr_t1_tumour.nii.gz").mask().volume
    for name in ("ct", "mr_t1", "pet"):
        scan = read_scan(folder / f"{name}.nii.gz")
        moved = read_mask(folder / "mr_t1_tumour.nii.gz", reference=scan.grid)
        assert moved.mask().volume == pytest.approx(own, rel=0.05)
        assert read_mask(folder / f"{name}_tumour.nii.gz", reference=scan.grid).grid is scan.grid


def test_a_mask_of_another_patient_is_refused(shared_data):
    one = read_scan(shared_data / "sarcoma/001/pet.nii.gz").grid
    with pytest.raises(GeometryError):
        read_mask(shared_data / "sarcoma/002/pet_tumour.nii.gz", reference=one)


def test_the_48_stored_orientations_are_one_scan(shared_data):
    files = sorted((shared_data / "brain_mr/orientations").glob("*.nii.gz"))
    assert len(files) == 48
    first = read_scan(shared_data / "brain_mr/orientations/RAS.nii.gz")
    for path in files:
        scan = read_scan(path)
        assert scan.grid.orientation == path.name[:3]
        array, grid = canonical(scan.array, scan.grid)
        assert np.array_equal(array, first.array)
        assert grid.same_as(first.grid)
        assert np.allclose(grid.affine, first.grid.affine, atol=1e-5)
        assert np.array_equal(align_to(first.grid, scan).array, first.array)
