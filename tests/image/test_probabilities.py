import io
import pickle
import zipfile

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image import Grid, ProbabilityMap, Scan, read_probabilities, read_scan, write_probabilities, write_scan

GRID = Grid((4, 5, 6), np.diag([-1.0, 1.5, 2, 1]))


def softmax(rng, channels, shape=GRID.shape, dtype=np.float32):
    e = np.exp(rng.normal(0, 2, (channels, *shape)))
    return (e / e.sum(axis=0)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("key", ["probabilities", "softmax"])
@pytest.mark.parametrize("packed", [True, False])
def test_nnunet_archives_have_reversed_axes(tmp_path, rng, dtype, key, packed):
    array = softmax(rng, 3, dtype=dtype)
    (np.savez_compressed if packed else np.savez)(tmp_path / "case.npz", **{key: array.transpose(0, 3, 2, 1)})
    (tmp_path / "case.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")  # runs a command when unpickled
    got = read_probabilities(tmp_path / "case.npz", reference=GRID)
    assert np.array_equal(got.array, array)
    assert got.array.dtype == dtype
    assert got.classes == ("background", "class 1", "class 2")
    assert np.allclose(got.foreground, 1 - array[0])
    assert got.foreground.dtype == max(dtype, np.float32, key=lambda kind: np.dtype(kind).itemsize)
    assert got.grid is GRID


def test_nnunet_as_its_reader_sees_the_file(tmp_path, rng):
    """nnU-Net reads by SimpleITK, so its arrays are (z, y, x) of the same file."""
    scan = Scan(rng.normal(0, 1, GRID.shape).astype(np.float32), GRID)
    write_scan(tmp_path / "case.nii.gz", scan)
    seen = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "case.nii.gz")))
    first = (seen - seen.min()) / np.ptp(seen)
    np.savez_compressed(tmp_path / "case.npz", probabilities=np.stack([1 - first, first]))
    got = read_probabilities(tmp_path / "case.npz", reference=read_scan(tmp_path / "case.nii.gz").grid)
    assert np.allclose(got.foreground, (scan.array - scan.array.min()) / np.ptp(scan.array), atol=1e-6)


def test_nnunet_for_pictures_and_slices(tmp_path, rng):
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(tmp_path / "p.png")
    array = softmax(rng, 2, (5, 7))
    np.savez(tmp_path / "p.npz", probabilities=array[:, np.newaxis])
    for spacing in (None, 0.5):
        grid = read_scan(tmp_path / "p.png", spacing=spacing).grid
        assert np.array_equal(read_probabilities(tmp_path / "p.npz", reference=grid).array, array)
    np.savez(tmp_path / "s.npz", probabilities=array.transpose(0, 2, 1)[:, np.newaxis])
    grid = Grid((5, 7), np.eye(4), layout="slice")
    assert np.array_equal(read_probabilities(tmp_path / "s.npz", reference=grid).array, array)


@pytest.mark.parametrize(("scale", "cure"), [(99, "divide them by 100"), (255, "divide them by 255"), (9, "logits")])
def test_what_is_no_probability_is_refused_with_its_cure(rng, scale, cure):
    array = (rng.uniform(0, 1, (1, *GRID.shape)) * scale).astype(np.float32)
    array[0, 0, 0, 0] = scale
    with pytest.raises(FormatError, match=rf"not \[0, 1\]: .*{cure}"):
        ProbabilityMap(array, GRID)


def test_archives_that_are_refused(tmp_path, rng):
    array = softmax(rng, 2)
    np.savez(tmp_path / "forward.npz", probabilities=array)
    with pytest.raises(GeometryError, match=r"\(channels, z, y, x\) do not fit"):
        read_probabilities(tmp_path / "forward.npz", reference=GRID)
    with pytest.raises(InputError, match="give the scan"):
        read_probabilities(tmp_path / "forward.npz")
    with pytest.raises(InputError, match="save scans and masks as NIfTI"):
        read_scan(tmp_path / "forward.npz")
    np.savez(tmp_path / "other.npz", logits=array, more=array)
    with pytest.raises(FormatError, match="holds logits, more, but no array"):
        read_probabilities(tmp_path / "other.npz", reference=GRID)
    np.savez(tmp_path / "pickled.npz", probabilities=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FormatError, match="pickled Python objects, which are never loaded"):
        read_probabilities(tmp_path / "pickled.npz", reference=GRID)
    data = (tmp_path / "forward.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match="archive is damaged"):
        read_probabilities(tmp_path / "cut.npz", reference=GRID)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(FormatError, match="archive is damaged"):
        read_probabilities(tmp_path / "text.npz", reference=GRID)
    with zipfile.ZipFile(tmp_path / "text_inside.npz", "w") as archive:
        archive.writestr("probabilities.npy", "hello, I am text")
    with pytest.raises(FormatError, match="no NumPy array"):
        read_probabilities(tmp_path / "text_inside.npz", reference=GRID)


def claim(shape):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def test_claims_are_checked(tmp_path):
    (tmp_path / "a.npy").write_bytes(claim((2, 10**4, 10**4, 10**4)) + bytes(100))
    with pytest.raises(FormatError, match="claims 8,000,000,000,000 bytes"):
        read_probabilities(tmp_path / "a.npy", reference=GRID)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("probabilities.npy", claim((2, 10**4, 10**4, 10**4)) + bytes(100))
    with pytest.raises(FormatError, match="claims 8,000,000,000,000 bytes"):
        read_probabilities(tmp_path / "a.npz", reference=GRID)
    (tmp_path / "b.npy").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(FormatError, match="no NumPy array"):
        read_probabilities(tmp_path / "b.npy", reference=GRID)
    np.save(tmp_path / "c.npy", np.array([{}], dtype=object))
    with pytest.raises(FormatError, match="never loaded"):
        read_probabilities(tmp_path / "c.npy", reference=GRID)


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_in_the_order_of_the_scan(tmp_path, rng, order):
    array = np.asarray(softmax(rng, 3), order=order)
    np.save(tmp_path / "a.npy", array)
    assert np.array_equal(read_probabilities(tmp_path / "a.npy", reference=GRID).array, array)
    np.save(tmp_path / "one.npy", array[1].astype(">f4"))
    got = read_probabilities(tmp_path / "one.npy", reference=GRID)
    assert np.array_equal(got.array[0], array[1])
    assert got.classes == ("foreground",)
    np.save(tmp_path / "turned.npy", array.transpose(0, 3, 2, 1))
    with pytest.raises(GeometryError, match="axes are reversed"):
        read_probabilities(tmp_path / "turned.npy", reference=GRID)
    np.save(tmp_path / "other.npy", array[:, :3])
    with pytest.raises(GeometryError, match="those of this scan"):
        read_probabilities(tmp_path / "other.npy", reference=GRID)


@pytest.mark.parametrize("channels", [1, 3])
def test_nifti_round_trip(tmp_path, rng, channels):
    array = softmax(rng, 3)[:channels]
    names = ("background", "class 1", "class 2") if channels == 3 else ("foreground",)
    probabilities = ProbabilityMap(array, GRID, names)
    write_probabilities(tmp_path / "p.nii.gz", probabilities)
    assert nibabel.load(tmp_path / "p.nii.gz").shape == (GRID.shape if channels == 1 else (*GRID.shape, 3))
    got = read_probabilities(tmp_path / "p.nii.gz", reference=GRID)
    assert np.array_equal(got.array, array)
    assert got.classes == names
    with pytest.raises(InputError, match="as NIfTI"):
        write_probabilities(tmp_path / "p.nrrd", probabilities)


def test_two_dimensional_nifti_with_channels(tmp_path, rng):
    grid = Grid((4, 5), np.diag([2.0, 2, 1, 1]))
    probabilities = ProbabilityMap(softmax(rng, 2, (4, 5)), grid, ("background", "class 1"))
    write_probabilities(tmp_path / "p.nii.gz", probabilities)
    assert np.array_equal(read_probabilities(tmp_path / "p.nii.gz", reference=grid).array, probabilities.array)


def test_vectors_in_nifti_and_nrrd(tmp_path, rng):
    array = softmax(rng, 3)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose(3, 2, 1, 0)), isVector=True)
    for name in ("v.nii.gz", "v.nrrd"):
        SimpleITK.WriteImage(image, str(tmp_path / name))
        assert np.array_equal(read_probabilities(tmp_path / name).array, array)


def test_regions_that_overlap(tmp_path, rng):
    array = rng.uniform(0, 1, (2, *GRID.shape)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    got = read_probabilities(tmp_path / "a.npy", reference=GRID)
    assert got.classes == ("region 1", "region 2")
    assert np.array_equal(got.foreground, array.max(axis=0))


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.full(GRID.shape, 4.2, np.float32), "apply softmax or sigmoid"),
        (np.full(GRID.shape, 255, np.uint8), "divide them by 255"),
        (np.full(GRID.shape, np.nan, np.float32), "NaN or infinite"),
        (np.full(GRID.shape, 1j), "numbers"),
    ],
)
def test_what_is_no_probability(tmp_path, array, why):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(FormatError, match=why):
        read_probabilities(tmp_path / "a.npy", reference=GRID)


def test_zeros_and_ones_are_taken_as_floats(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(GRID.shape, np.uint8))
    assert read_probabilities(tmp_path / "a.npy", reference=GRID).array.dtype == np.float32
