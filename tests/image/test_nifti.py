import gzip
import os
import stat
import subprocess
import sys
import threading
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image import Grid, LabelMap, Mask, Scan, read_mask, read_scan, replacing, write_mask, write_scan
from anatrust.image.nifti_write import write_nifti

DTYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def oblique(spacing=(0.7, 0.9, 2.5), angle=0.3):
    affine = np.eye(4)
    affine[:3, :3] = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, -1]]
    affine[:3, :3] *= spacing
    affine[:3, 3] = (-91.5, 120.25, -33.0)
    return affine


def values(shape, dtype, rng):
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.normal(0, 100, shape).astype(kind)
    info = np.iinfo(kind)
    return rng.integers(info.min, info.max, shape, dtype=kind, endpoint=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_reads_what_nibabel_reads(tmp_path, rng, dtype, order, kind):
    array = values((5, 6, 7), dtype, rng)
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    image = kind(array, oblique(), header)
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(image, tmp_path / name)
        scan = read_scan(tmp_path / name)
        peer = nibabel.load(tmp_path / name)
        assert np.array_equal(scan.array, np.asanyarray(peer.dataobj))
        assert scan.array.dtype == np.dtype(dtype)
        assert np.array_equal(scan.grid.affine, peer.affine)
        assert scan.identifier == "a"
        assert scan.modality == "unknown"


@pytest.mark.parametrize(
    ("slope", "inter", "dtype"),
    [(1, -1024, np.int16), (2, 3, np.int16), (100, 0, np.int32), (0.5, 0, np.float64), (1e-3, 7.25, np.float64)],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_slopes_are_honoured(tmp_path, rng, slope, inter, dtype, order):
    stored = rng.integers(0, 4096, (4, 5, 6)).astype(np.int16)
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(np.int16)
    header.set_data_shape(stored.shape)
    header.set_sform(oblique(), 1)
    header["scl_slope"], header["scl_inter"], header["vox_offset"], header["magic"] = slope, inter, 352, b"n+1"
    path = tmp_path / "scaled.nii"
    path.write_bytes(header.binaryblock + bytes(4) + stored.astype(f"{order}i2").tobytes(order="F"))
    scan = read_scan(path)
    assert np.array_equal(scan.array, nibabel.load(path).get_fdata())
    assert scan.array.dtype == dtype


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (1, 0), (0, 1), (0, 0), (2, 1)])
def test_the_geometry_is_nibabels_choice(tmp_path, sform, qform):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)
    image.set_sform(oblique(angle=0.2), code=sform)
    image.set_qform(oblique(angle=0.5), code=qform)
    nibabel.save(image, tmp_path / "a.nii.gz")
    scan = read_scan(tmp_path / "a.nii.gz")
    assert np.array_equal(scan.grid.affine, nibabel.load(tmp_path / "a.nii.gz").affine)
    assert scan.metadata["geometry"] == ("sform" if sform else "qform" if qform else "none")


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("meter", 1000), ("micron", 1e-3)])
def test_units_become_millimetres(tmp_path, unit, factor):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([2.0, 2, 3, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    assert read_scan(tmp_path / "a.nii").grid.spacing == pytest.approx((2 * factor, 2 * factor, 3 * factor))


def test_pairs_and_header_extensions(tmp_path, rng):
    array = values((4, 5, 6), "i2", rng)
    nibabel.save(nibabel.Nifti1Pair(array, oblique()), tmp_path / "pair.img")
    assert np.array_equal(read_scan(tmp_path / "pair.hdr").array, array)
    with pytest.raises(InputError, match="header file"):
        read_scan(tmp_path / "pair.img")
    (tmp_path / "pair.img").unlink()
    with pytest.raises(InputError, match="missing"):
        read_scan(tmp_path / "pair.hdr")
    image = nibabel.Nifti1Image(array, oblique())
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nibabel.save(image, tmp_path / "long.nii.gz")
    assert np.array_equal(read_scan(tmp_path / "long.nii.gz").array, array)


@pytest.mark.parametrize(
    ("stored", "shape"),
    [
        ((5, 6), (5, 6)),
        ((5, 6, 1), (5, 6)),
        ((5, 6, 1, 1), (5, 6)),
        ((5, 6, 7, 1, 1), (5, 6, 7)),
        ((1, 6, 7), (1, 6, 7)),
    ],
)
def test_axes_of_one_voxel(tmp_path, stored, shape, rng):
    array = values(stored, "i2", rng)
    nibabel.save(nibabel.Nifti1Image(array, oblique()), tmp_path / "a.nii.gz")
    scan = read_scan(tmp_path / "a.nii.gz")
    assert scan.array.shape == scan.grid.shape == shape
    assert np.array_equal(scan.array, array.reshape(shape))
    write_scan(tmp_path / "b.nii.gz", scan)
    assert nibabel.load(tmp_path / "b.nii.gz").shape == stored[:3]


def test_a_volume_of_a_series_is_chosen(tmp_path, rng):
    array = values((4, 5, 6, 3), "i2", rng)
    nibabel.save(nibabel.Nifti1Image(array, oblique()), tmp_path / "a.nii.gz")
    with pytest.raises(FormatError, match=r"3 volumes .* series=1\.\.3"):
        read_scan(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="no volume 4"):
        read_scan(tmp_path / "a.nii.gz", series=4)
    assert np.array_equal(read_scan(tmp_path / "a.nii.gz", series=2).array, array[..., 1])
    one = tmp_path / "one.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array[..., 0], np.eye(4)), one)
    assert np.array_equal(read_scan(one, series=1).array, array[..., 0])
    with pytest.raises(InputError, match="holds one volume"):
        read_scan(one, series=4)


def test_a_full_disk_is_an_error_and_no_endless_loop(tmp_path):
    """isal raises one and the same exception at write and at close; that must end, and leave nothing."""
    code = (
        "import resource, sys, numpy as np; from pathlib import Path;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
        "from anatrust.image.grid import Grid; from anatrust.image.nifti_write import write_nifti;"
        "noise = np.random.default_rng(0).normal(size=(90, 90, 90)).astype(np.float32);"
        "write_nifti(Path(sys.argv[1]) / 'a.nii.gz', noise, Grid(noise.shape, np.eye(4)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_multi_member_gzip_is_read_to_the_end(tmp_path, rng):
    array = values((20, 30, 40), "i2", rng)
    nibabel.save(nibabel.Nifti1Image(array, oblique()), tmp_path / "a.nii")
    data = (tmp_path / "a.nii").read_bytes()
    parts = b"".join(gzip.compress(data[k : k + 7001]) for k in range(0, len(data), 7001))
    (tmp_path / "b.nii.gz").write_bytes(parts)
    assert np.array_equal(read_scan(tmp_path / "b.nii.gz").array, array)


def test_content_decides_over_the_name(tmp_path, rng):
    array = values((4, 5, 6), "i2", rng)
    nibabel.save(nibabel.Nifti1Image(array, oblique()), tmp_path / "a.nii")
    (tmp_path / "a.nii").rename(tmp_path / "plain.nii.gz")
    assert np.array_equal(read_scan(tmp_path / "plain.nii.gz").array, array)
    (tmp_path / "plain.nii.gz").rename(tmp_path / "noname")
    assert np.array_equal(read_scan(tmp_path / "noname").array, array)


@st.composite
def scans(draw):
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=3)))
    if len(shape) == 3 and shape[2] == 1:
        shape = (*shape[:2], 2)
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    array = values(shape, dtype, np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    array = np.asfortranarray(array) if draw(st.booleans()) else array
    spacing = draw(st.tuples(*[st.floats(0.125, 8.0, width=32)] * 3))
    affine = oblique(spacing, draw(st.floats(-3.0, 3.0)))
    affine[0, 1] += draw(st.sampled_from([0.0, 0.2]))  # sheared grids too
    return Scan(array, Grid(shape, affine.astype(np.float32)))


@given(scans(), st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha"]))
@settings(deadline=None, max_examples=120)
def test_round_trip_is_exact(tmp_path_factory, scan, suffix):
    path = tmp_path_factory.mktemp("trip") / f"a{suffix}"
    write_scan(path, scan)
    again = read_scan(path)
    assert np.array_equal(again.array, scan.array)
    assert again.array.dtype == scan.array.dtype
    assert again.grid.same_as(scan.grid)
    if "nii" in suffix:
        assert np.array_equal(again.grid.affine, scan.grid.affine)
        peer = nibabel.load(path)
        assert np.array_equal(np.asanyarray(peer.dataobj), scan.array)
        assert np.array_equal(peer.affine, scan.grid.affine)


@given(
    st.lists(st.integers(1, 8), min_size=2, max_size=3), st.integers(1, 70000), st.sampled_from([".nii.gz", ".nrrd"])
)
@settings(deadline=None, max_examples=40)
def test_masks_round_trip(tmp_path_factory, shape, high, suffix):
    path = tmp_path_factory.mktemp("masks") / f"m{suffix}"
    shape = tuple(shape)[:2] if len(shape) == 3 and shape[2] == 1 else tuple(shape)
    array = np.random.default_rng(high).integers(0, high, shape, endpoint=True)
    labels = LabelMap(array, Grid(shape, np.diag([1.0, 2, 3, 1])))
    write_mask(path, labels)
    again = read_mask(path)
    assert np.array_equal(again.array, array)
    assert again.grid.same_as(labels.grid)
    mask = Mask(array > high // 2, labels.grid)
    write_mask(path, mask)
    assert np.array_equal(read_mask(path).array, mask.array)


def test_other_programs_read_what_is_written(tmp_path, rng):
    array = values((30, 40, 50), "i2", rng)
    grid = Grid(array.shape, oblique())
    write_scan(tmp_path / "a.nii.gz", Scan(array, grid))
    with gzip.open(tmp_path / "a.nii.gz") as stream:
        assert stream.read()[352:] == array.tobytes(order="F")
    peer = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(peer).T, array)
    assert np.allclose(peer.GetSpacing(), grid.spacing, atol=1e-5)
    index = [3, 7, 11]
    assert np.allclose(
        np.array(peer.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1), grid.to_world(index), atol=1e-3
    )
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-4)


def test_files_hold_the_same_bytes_each_time_and_one_gzip_member(tmp_path, rng):
    before = set(threading.enumerate())  # other tests of this process may have left one running
    array = np.asfortranarray(values((64, 64, 300), "i2", rng))
    grid = Grid(array.shape, oblique())
    write_scan(tmp_path / "a.nii.gz", Scan(array, grid))
    write_scan(tmp_path / "b.nii.gz", Scan(np.ascontiguousarray(array), grid))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    one = zlib.decompressobj(31)  # a browser's decoder takes one member only
    assert len(one.decompress((tmp_path / "a.nii.gz").read_bytes())) == 352 + array.nbytes
    assert one.eof
    assert not one.unused_data
    assert set(threading.enumerate()) <= before


def test_unknown_spacing_stays_unknown(tmp_path):
    for shape in ((5, 6), (5, 6, 7)):
        scan = Scan(np.zeros(shape, np.uint8), Grid.without_spacing(shape))
        for name in ("a.nii.gz", "a.nrrd", "a.mha"):
            write_scan(tmp_path / name, scan)
            assert read_scan(tmp_path / name).grid.same_as(scan.grid)


def test_long_axes_are_written_as_nifti_2(tmp_path):
    array = np.arange(40000, dtype=np.int32).reshape(40000, 1, 1).repeat(2, axis=2)
    write_scan(tmp_path / "a.nii.gz", Scan(array, Grid(array.shape, np.eye(4))))
    assert isinstance(nibabel.load(tmp_path / "a.nii.gz"), nibabel.Nifti2Image)
    assert np.array_equal(read_scan(tmp_path / "a.nii.gz").array, array)


def test_half_floats_are_widened(tmp_path):
    array = np.array([[0.5, 1.5], [2.5, -3.5]], np.float16)
    write_scan(tmp_path / "a.nii.gz", Scan(array, Grid((2, 2), np.eye(4))))
    assert np.array_equal(read_scan(tmp_path / "a.nii.gz").array, array.astype(np.float32))


def test_writing_is_all_or_nothing(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_text("before")

    def interrupted():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "before"
    with pytest.raises(FormatError, match="complex"):
        write_nifti(path, np.zeros((2, 2), complex), Grid((2, 2), np.eye(4)))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as temporary:
        temporary.write_text("after")
    assert path.read_text() == "after"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_places_that_cannot_be_written(tmp_path):
    scan = Scan(np.zeros((2, 2), np.uint8), Grid((2, 2), np.eye(4)))
    with pytest.raises(InputError, match="No such file"):
        write_scan(tmp_path / "missing" / "a.nii.gz", scan)
    (tmp_path / "folder.nii.gz").mkdir()
    with pytest.raises(InputError, match="folder has that name"):
        write_scan(tmp_path / "folder.nii.gz", scan)
    with pytest.raises(InputError, match="unknown format to write"):
        write_scan(tmp_path / "a.xyz", scan)


def test_damaged_quaternions_are_refused(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4))
    header = image.header
    header["sform_code"], header["qform_code"] = 0, 1
    header["quatern_b"] = header["quatern_c"] = header["quatern_d"] = 3.0
    header["vox_offset"] = 352
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + bytes(240))
    with pytest.raises(GeometryError, match="orientation in the header is damaged"):
        read_scan(tmp_path / "a.nii")
