import nibabel
import numpy as np
import pytest
import SimpleITK
import torch

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image import (
    Adapter,
    Grid,
    LabelMap,
    Mask,
    ProbabilityMap,
    RawImage,
    Scan,
    read_mask,
    read_probabilities,
    read_scan,
    register_adapter,
    write_scan,
)
from anatrust.image import read as front_door

AFFINE = np.array([[-0.7, 0.1, 0, 12], [0.1, 0.9, 0, -7], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])


@pytest.fixture
def array(rng):
    return rng.integers(0, 900, (4, 5, 6)).astype(np.int16)


@pytest.mark.parametrize("affine", [AFFINE, AFFINE.tolist(), torch.as_tensor(AFFINE)])
def test_arrays_and_tensors(array, affine):
    for values in (array, torch.as_tensor(array), torch.as_tensor(array)[None], array.astype(">i2")):
        scan = read_scan((values, affine), modality="CT")
        assert np.array_equal(scan.array, array)
        assert scan.array.dtype == np.int16
        assert np.allclose(scan.grid.affine, AFFINE)
        assert scan.modality == "CT"


def test_the_kinds_agree(array, tmp_path):
    write_scan(tmp_path / "a.nii.gz", Scan(array, Grid(array.shape, np.diag([-0.7, 0.9, 2.5, 1]))))
    from monai.data import MetaTensor

    path = str(tmp_path / "a.nii.gz")
    file = read_scan(path)
    image = nibabel.load(path)
    meta = MetaTensor(torch.as_tensor(array), affine=torch.as_tensor(image.affine))
    for source in (image, SimpleITK.ReadImage(path), meta, meta[None], (array, image.affine), file):
        scan = read_scan(source)
        assert np.array_equal(scan.array, array)
        assert scan.grid.same_as(file.grid)
        assert scan.array.dtype == np.int16


def test_gradients_and_small_floats():
    tensor = torch.ones((2, 3, 4), dtype=torch.bfloat16, requires_grad=True)
    assert read_scan((tensor, np.eye(4))).array.dtype == np.float32


def test_monai_as_loaded(array, tmp_path):
    from monai.data import MetaTensor

    picture = MetaTensor(torch.zeros(1, 8, 9), meta={"spatial_shape": np.array([8, 9])})
    assert read_scan(picture).grid.shape == (8, 9)
    lps = MetaTensor(torch.as_tensor(array), affine=torch.as_tensor(AFFINE), meta={"space": "LPS"})
    assert np.allclose(read_scan(lps).grid.affine, np.diag([-1, -1, 1, 1]) @ AFFINE)
    probabilities = MetaTensor(torch.full((2, 4, 5, 6), 0.5), affine=torch.as_tensor(AFFINE))
    assert read_probabilities(probabilities).array.shape == (2, 4, 5, 6)


def test_two_dimensions(rng):
    flat = rng.integers(0, 9, (5, 6)).astype(np.uint8)
    scan = read_scan((flat, np.array([[2.0, 0, 5], [0, 3, 7], [0, 0, 1]])))
    assert scan.grid.spacing == (2, 3)
    assert np.allclose(scan.grid.to_world([1, 1]), (7, 10, 0))
    assert read_scan((flat, np.eye(4))).grid.ndim == 2
    assert read_scan((flat[:, :, None], np.eye(4))).grid.layout == "slice"
    assert not read_scan((flat, None)).grid.spacing_known
    colourless = SimpleITK.GetImageFromArray(flat.T.copy())
    assert np.array_equal(read_scan(colourless).array, flat)


def test_bare_arrays_need_a_reference(array):
    grid = Grid(array.shape, AFFINE)
    with pytest.raises(InputError, match=r"give \(array, affine\)"):
        read_scan(array)
    assert read_mask(array > 5, reference=grid).grid is grid
    assert read_mask(torch.as_tensor(array), reference=grid).labels() == tuple(np.unique(array[array > 0]))
    assert read_probabilities(np.full((2, *array.shape), 0.5), reference=grid).classes == ("background", "class 1")
    with pytest.raises(GeometryError, match="shape"):
        read_mask(array[:2], reference=grid)


def test_our_own_types(array):
    grid = Grid(array.shape, AFFINE)
    scan, mask = Scan(array, grid, "CT", "HU"), Mask(array > 5, grid, "lesion")
    assert read_scan(scan) is scan
    assert read_scan(Scan(array, grid), modality="MR").modality == "MR"
    with pytest.raises(InputError, match="not MR"):
        read_scan(scan, modality="MR")
    labels = read_mask(mask, reference=grid)
    assert np.array_equal(labels.array, array > 5)
    assert labels.names[1] == "lesion"
    assert read_mask(LabelMap(array, grid)).array is not None
    probabilities = ProbabilityMap(np.full((1, *grid.shape), 0.5), grid)
    assert read_probabilities(probabilities) is probabilities
    with pytest.raises(InputError, match="threshold"):
        read_mask(probabilities)


@pytest.mark.parametrize(
    ("source", "error", "why"),
    [
        ((np.zeros((2, 3, 4, 5)), np.eye(4)), FormatError, "2 channels"),
        ((np.zeros((1, 1, 3, 4, 5)), np.eye(4)), FormatError, "leave out the batch"),
        ((np.zeros((3, 4, 5)), np.zeros((4, 4))), GeometryError, "0 0 0 1"),
        ((np.zeros((3, 4, 5)), np.eye(2)), GeometryError, "4x4"),
        ((np.array(["a"]), np.eye(4)), FormatError, "real numbers"),
        ((np.zeros((3, 4, 5)), [[1, 2], [3]]), FormatError, "rectangular"),
        (nibabel.Nifti1Image(np.zeros((3, 4, 5, 2), np.int16), np.eye(4)), FormatError, "2 volumes"),
        (nibabel.Nifti1Image(np.zeros((3, 4, 5), np.complex64), np.eye(4)), FormatError, "grey values"),
        (nibabel.spatialimages.SpatialImage(np.zeros((3, 4, 5), np.int16), None), GeometryError, "no affine"),
        (SimpleITK.Image([3, 4, 5], SimpleITK.sitkVectorUInt8, 3), FormatError, "3 values a voxel"),
        (SimpleITK.Image([3, 4], SimpleITK.sitkComplexFloat32), FormatError, "complex"),
    ],
)
def test_objects_that_are_refused(source, error, why):
    with pytest.raises(error, match=why):
        read_scan(source)


def test_a_kind_of_source_can_be_added(monkeypatch, tmp_path):
    monkeypatch.setattr(front_door, "_FILES", list(front_door._FILES))
    monkeypatch.setattr(front_door, "_OBJECTS", list(front_door._OBJECTS))
    raw = RawImage(np.ones((2, 3, 4), np.uint8), Grid((2, 3, 4), np.eye(4)), "made up", names={1: "liver"})
    register_adapter(Adapter("RTSTRUCT", lambda head: head.name.endswith(".rt"), lambda head, request: raw))
    register_adapter(
        Adapter("set", lambda source: isinstance(source, set), lambda source, request: raw), in_memory=True
    )
    (tmp_path / "a.rt").write_text("x")
    assert read_mask(tmp_path / "a.rt").names == {1: "liver"}
    assert read_scan(set()).array.sum() == 24
