import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK

from anatrust.errors import FormatError, InputError
from anatrust.image import Grid, Mask, read_mask, read_scan, write_mask

LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])


def picture(rng, dtype=np.int16, shape=(6, 5, 4)):
    image = SimpleITK.GetImageFromArray(rng.integers(0, 1000, shape[::-1]).astype(dtype))
    c, s = np.cos(0.3), np.sin(0.3)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, -1))
    image.SetSpacing((0.7, 0.9, 2.5))
    image.SetOrigin((-10.5, 20.25, 30))
    return image


@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64, np.int32])
def test_reads_what_simpleitk_reads(tmp_path, rng, name, packed, dtype):
    image = picture(rng, dtype)
    SimpleITK.WriteImage(image, str(tmp_path / name), useCompression=packed)
    scan = read_scan(tmp_path / name)
    assert np.array_equal(scan.array, SimpleITK.GetArrayFromImage(image).T)
    assert scan.array.dtype == dtype
    for index in ([0, 0, 0], [5, 4, 3], [2, 0, 3]):
        world = LPS_TO_RAS[:3, :3] @ image.TransformIndexToPhysicalPoint(index)
        assert np.allclose(scan.grid.to_world(index), world, atol=1e-9)


@pytest.mark.parametrize("name", ["a.gipl", "a.gipl.gz"])
def test_gipl(tmp_path, rng, name):
    image = SimpleITK.GetImageFromArray(rng.integers(0, 1000, (4, 5, 6)).astype(np.int16))
    image.SetSpacing((1, 2, 3))
    SimpleITK.WriteImage(image, str(tmp_path / name))
    scan = read_scan(tmp_path / name)
    assert np.array_equal(scan.array, SimpleITK.GetArrayFromImage(image).T)
    assert scan.grid.spacing == (1, 2, 3)


def test_the_format_is_known_without_its_suffix(tmp_path, rng):
    for name in ("a.nrrd", "a.mha"):
        SimpleITK.WriteImage(picture(rng), str(tmp_path / name))
        (tmp_path / name).rename(tmp_path / "noname")
        assert read_scan(tmp_path / "noname").array.shape == (6, 5, 4)


def test_two_dimensions(tmp_path, rng):
    flat = SimpleITK.GetImageFromArray(rng.integers(0, 9, (5, 6)).astype(np.uint8))
    flat.SetSpacing((0.5, 0.25))
    for name in ("a.nrrd", "a.mha"):
        SimpleITK.WriteImage(flat, str(tmp_path / name))
        scan = read_scan(tmp_path / name)
        assert np.array_equal(scan.array, SimpleITK.GetArrayFromImage(flat).T)
        assert scan.grid.spacing == (0.5, 0.25)


def test_nrrd_spaces_and_missing_spacing(tmp_path):
    voxels = np.arange(24, dtype=np.uint8)
    head = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nencoding: raw\n"
    geometry = "space: {}\nspace directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (5,6,7)\n"
    for space, flip in (("right-anterior-superior", (1, 1)), ("left-posterior-superior", (-1, -1))):
        (tmp_path / "a.nrrd").write_bytes((head + geometry.format(space) + "\n").encode() + voxels.tobytes())
        affine = np.diag([flip[0], 2.0 * flip[1], 3, 1])
        affine[:3, 3] = (5 * flip[0], 6 * flip[1], 7)
        assert np.allclose(read_scan(tmp_path / "a.nrrd").grid.affine, affine)
    (tmp_path / "a.nrrd").write_bytes((head + "\n").encode() + voxels.tobytes())
    scan = read_scan(tmp_path / "a.nrrd")
    assert not scan.grid.spacing_known
    assert np.array_equal(scan.array, voxels.reshape(4, 3, 2).T)


def test_slicer_segment_names(tmp_path):
    image = SimpleITK.GetImageFromArray(np.uint8([[[0, 1], [2, 2]]] * 3))
    for number, (value, name) in enumerate(((1, "liver"), (2, "cyst"))):
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
        image.SetMetaData(f"Segment{number}_Name", name)
    SimpleITK.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    assert dict(read_mask(tmp_path / "a.seg.nrrd").names) == {1: "liver", 2: "cyst"}


def test_vectors_and_time(tmp_path, rng):
    colour = SimpleITK.GetImageFromArray(rng.integers(0, 9, (3, 4, 5, 3)).astype(np.uint8), isVector=True)
    SimpleITK.WriteImage(colour, str(tmp_path / "c.nrrd"))
    with pytest.raises(FormatError, match="3 values a voxel"):
        read_scan(tmp_path / "c.nrrd")
    array = rng.integers(0, 9, (2, 3, 4, 5)).astype(np.int16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=False), str(tmp_path / "t.mha"))
    with pytest.raises(FormatError, match=r"series=1\.\.2"):
        read_scan(tmp_path / "t.mha")
    assert np.array_equal(read_scan(tmp_path / "t.mha", series=2).array, array[1].T)


def test_headers_may_not_point_elsewhere(tmp_path, rng):
    (tmp_path / "in").mkdir()
    SimpleITK.WriteImage(picture(rng), str(tmp_path / "in" / "a.mhd"))
    text = (tmp_path / "in" / "a.mhd").read_text()
    (tmp_path / "a.mhd").write_text(text.replace("a.raw", "in/a.raw"))
    with pytest.raises(InputError, match="another folder"):
        read_scan(tmp_path / "a.mhd")
    (tmp_path / "a.mhd").write_text(text)
    with pytest.raises(InputError, match=r"put a\.raw beside it"):
        read_scan(tmp_path / "a.mhd")
    (tmp_path / "a.mhd").write_text(text.replace("a.raw", "LIST"))
    with pytest.raises(FormatError, match="several files"):
        read_scan(tmp_path / "a.mhd")


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
@pytest.mark.parametrize("packed", [True, False])
def test_cut_off_files(tmp_path, rng, name, packed, capfd):
    SimpleITK.WriteImage(picture(rng, shape=(20, 20, 20)), str(tmp_path / name), useCompression=packed)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-500])
    with pytest.raises(FormatError, match=r"cut off|damaged") as caught:
        read_scan(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "header",
    [
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 10000 10000 10000\nencoding: {}\nendian: little\n\n",
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = {}\nDimSize = 10000 10000 10000\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n",
    ],
)
@pytest.mark.parametrize("packed", [0, 1])
def test_claims_are_checked(tmp_path, header, packed):
    words = ("raw", "gzip") if "NRRD" in header else ("False", "True")
    (tmp_path / "a").write_bytes(header.format(words[packed]).encode() + gzip.compress(bytes(1000)))
    with pytest.raises(FormatError, match="claims 2,000,000,000,000 bytes"):
        read_scan(tmp_path / "a")


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_reads_freesurfer_as_nibabel_does(tmp_path, rng, name, dtype):
    affine = np.array([[-1.0, 0, 0, 12], [0, 0, 1.5, -7], [0, -2, 0, 30], [0, 0, 0, 1]])
    array = rng.integers(0, 200, (4, 5, 6)).astype(dtype)
    nibabel.save(nibabel.MGHImage(array, affine), tmp_path / name)
    scan = read_scan(tmp_path / name)
    assert np.array_equal(scan.array, array)
    assert scan.array.dtype == dtype
    assert np.allclose(scan.grid.affine, affine, atol=1e-5)


def test_freesurfer_frames_and_damage(tmp_path, rng):
    array = rng.integers(0, 200, (4, 5, 6, 2)).astype(np.int16)
    nibabel.save(nibabel.MGHImage(array, np.eye(4)), tmp_path / "a.mgz")
    with pytest.raises(FormatError, match=r"series=1\.\.2"):
        read_scan(tmp_path / "a.mgz")
    assert np.array_equal(read_scan(tmp_path / "a.mgz", series=1).array, array[..., 0])
    data = (tmp_path / "a.mgz").read_bytes()
    (tmp_path / "a.mgz").write_bytes(data[:-20])
    with pytest.raises(FormatError, match="cut off"):
        read_scan(tmp_path / "a.mgz")
    (tmp_path / "a.mgz").write_bytes(b"not a volume")
    with pytest.raises(FormatError, match="no FreeSurfer volume"):
        read_scan(tmp_path / "a.mgz")


def test_real_files(shared_data):
    t1, labels = read_scan(shared_data / "brain_mr/t1.mgz"), shared_data / "brain_mr/t1_labels.mgz"
    peer = nibabel.load(shared_data / "brain_mr/t1.mgz")
    assert np.array_equal(t1.array, peer.dataobj)
    assert len(read_mask(labels, reference=t1.grid).labels()) == 188
    flair = read_scan(shared_data / "brain_mr/flair.nrrd")
    assert flair.grid.orientation == "RAS"


def test_masks_as_mha(tmp_path):
    mask = Mask(np.ones((3, 4, 5), bool), Grid((3, 4, 5), np.diag([-1.0, 2, 3, 1])))
    write_mask(tmp_path / "m.mha", mask)
    assert read_mask(tmp_path / "m.mha", reference=mask.grid).mask().volume == mask.volume
