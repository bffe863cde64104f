"""Hostile and broken inputs: one clear line each, no warnings, no memory beyond the file's."""

import gzip
import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image import read_mask, read_probabilities, read_scan


def nifti(path, array, affine=None, **fields):
    image = nibabel.Nifti1Image(array, np.diag([1.0, 1, 2, 1]) if affine is None else affine)
    nibabel.save(image, path)
    return path


def broken_header(path, array, **fields):
    image = nibabel.Nifti1Image(array, np.diag([1.0, 1, 2, 1]))
    header = image.header.copy()
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, 1, 0
    header.set_sform(np.diag([1.0, 1, 2, 1]), 1)
    for name, value in fields.items():
        header[name] = value
    data = header.binaryblock + bytes(4) + array.tobytes(order="F")
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


VOXELS = np.zeros((4, 5, 6), np.int16)
HUGE = [3, 10000, 10000, 10000, 1, 1, 1, 1]


def cut(path, keep):
    data = gzip.compress(np.random.default_rng(0).bytes(5000))
    nifti(path, np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def written(path, content):
    path.write_bytes(content)
    return path


def flipped(path):
    nifti(path, np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16))
    data = bytearray(path.read_bytes())
    data[-6] ^= 255  # the checksum
    path.write_bytes(bytes(data))
    return path


def folder(path, content=None):
    path.mkdir()
    if content is not None:
        (path / "readme.txt").write_text(content)
    return path


CASES = {
    "missing file": (lambda d: d / "nothing.nii.gz", InputError, "does not exist"),
    "empty file": (lambda d: written(d / "a.nii.gz", b""), FormatError, "the file is empty"),
    "text called .nii.gz": (lambda d: written(d / "a.nii.gz", b"hello, I am text\n" * 40), FormatError, "not a NIfTI"),
    "text called .png": (lambda d: written(d / "a.png", b"hello"), FormatError, "no picture"),
    "text called .nrrd": (lambda d: written(d / "a.nrrd", b"hello"), FormatError, "not the format of its name"),
    "text called .mha": (lambda d: written(d / "a.mha", b"hello"), FormatError, "not the format of its name"),
    "text called .dcm": (lambda d: written(d / "a.dcm", b"hello"), FormatError, "not a DICOM file"),
    "text called .zip": (lambda d: written(d / "a.zip", b"hello"), FormatError, "DICOM"),
    "unknown format": (lambda d: written(d / "a.xyz", b"hello"), FormatError, "unknown format"),
    "gzip of text": (lambda d: written(d / "a.nii.gz", gzip.compress(b"text" * 200)), FormatError, "not a NIfTI"),
    "gzip cut in its head": (lambda d: cut(d / "a.nii.gz", 0.005), FormatError, "not a NIfTI"),
    "gzip cut in half": (lambda d: cut(d / "a.nii.gz", 0.5), FormatError, "cut off"),
    "gzip cut at its end": (lambda d: cut(d / "a.nii.gz", 0.9995), FormatError, "cut off"),
    "wrong checksum": (lambda d: flipped(d / "a.nii.gz"), FormatError, "damaged|checksum|CRC|cannot be read"),
    "raw cut off": (lambda d: cut(d / "a.nii", 0.7), FormatError, "claims"),
    "zero size": (
        lambda d: broken_header(d / "a.nii.gz", VOXELS, dim=[3, 0, 5, 6, 1, 1, 1, 1]),
        GeometryError,
        "empty",
    ),
    "negative size": (
        lambda d: broken_header(d / "a.nii", VOXELS, dim=[3, -4, 5, 6, 1, 1, 1, 1]),
        GeometryError,
        "empty",
    ),
    "no axes": (
        lambda d: broken_header(d / "a.nii", VOXELS, dim=[0, 4, 5, 6, 1, 1, 1, 1]),
        FormatError,
        "axes|damaged",
    ),
    "one axis": (lambda d: broken_header(d / "a.nii", VOXELS, dim=[1, 4, 1, 1, 1, 1, 1, 1]), FormatError, "1 axes"),
    "10^12 voxels, raw": (lambda d: broken_header(d / "a.nii", VOXELS, dim=HUGE), FormatError, "claims"),
    "10^12 voxels, gzip": (lambda d: broken_header(d / "a.nii.gz", VOXELS, dim=HUGE), FormatError, "claims"),
    "offset beyond the end": (lambda d: broken_header(d / "a.nii.gz", VOXELS, vox_offset=1e12), FormatError, "claims"),
    "unknown data type": (lambda d: broken_header(d / "a.nii", VOXELS, datatype=999), FormatError, "type code 999"),
    "complex": (lambda d: nifti(d / "a.nii.gz", np.zeros((3, 3, 3), np.complex64)), FormatError, "complex"),
    "NaN": (lambda d: nifti(d / "a.nii.gz", np.full((3, 3, 3), np.nan, np.float32)), FormatError, "27 NaN"),
    "infinite": (lambda d: nifti(d / "a.nii.gz", np.full((3, 3, 3), -np.inf, np.float32)), FormatError, "infinite"),
    "4-D": (lambda d: nifti(d / "a.nii.gz", np.zeros((3, 3, 3, 5), np.int16)), FormatError, "5 volumes"),
    "5-D": (lambda d: nifti(d / "a.nii.gz", np.zeros((3, 3, 3, 2, 2), np.int16)), FormatError, "2 volumes|axes"),
    "singular": (lambda d: broken_header(d / "a.nii.gz", VOXELS, srow_x=[0, 0, 0, 0]), GeometryError, "singular"),
    "NaN affine": (lambda d: broken_header(d / "a.nii.gz", VOXELS, srow_y=[np.nan] * 4), GeometryError, "NaN"),
    "infinite slope": (
        lambda d: broken_header(d / "a.nii", VOXELS, scl_slope=2, scl_inter=np.inf),
        FormatError,
        "scaling",
    ),
    "Analyze": (lambda d: broken_header(d / "a.nii", VOXELS, magic=b"xxx"), FormatError, "Analyze"),
    "empty folder": (lambda d: folder(d / "f"), FormatError, "no DICOM image"),
    "folder of text": (lambda d: folder(d / "f", "hello"), FormatError, "no DICOM image"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line(tmp_path, case, capfd, caplog):
    make, kind, why = CASES[case]
    path = make(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(kind, match=why) as caught:
            read_scan(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    assert len(message) < 400 + len(str(path))
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_colour_nifti(shared_data):
    with pytest.raises(FormatError, match=r"colours \(RGB\), not grey values: convert"):
        read_scan(shared_data / "brain_mr/ct_perfusion_rgb24.nii.gz")


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_unreadable_file(tmp_path):
    """Run as a user without rights, since an administrator may read everything."""
    path = nifti(tmp_path / "a.nii.gz", VOXELS)
    path.chmod(0)
    inner = tmp_path / "closed"
    inner.mkdir()
    inner.chmod(0)
    code = f"""
        import os, sys
        from anatrust.image import read_scan
        from anatrust.errors import InputError
        import nibabel, pydicom, isal.igzip
        if os.getuid() == 0:
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
        for path in ({str(path)!r}, {str(inner)!r}):
            try:
                read_scan(path)
            except InputError as error:
                print(error)
    """
    for parent in [tmp_path, *tmp_path.parents][:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    inner.chmod(0o700)
    assert done.stdout.count("cannot be read: Permission denied") == 2, done.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_claims_take_no_memory(tmp_path):
    """Each bomb is refused within 1.2 GiB of address space, libraries included."""
    bombs = [
        broken_header(tmp_path / "raw.nii", VOXELS, dim=HUGE),
        broken_header(tmp_path / "packed.nii.gz", VOXELS, dim=HUGE),
        broken_header(tmp_path / "many.nii.gz", VOXELS, dim=[7, 32767, 32767, 32767, 32767, 32767, 32767, 32767]),
        broken_header(tmp_path / "offset.nii.gz", VOXELS, vox_offset=3e12),
    ]
    # Here the claim is true: 2 GiB of zeros in 3 MB of gzip, more than there is memory for.
    zeros = gzip.compress(bytes(1 << 24), 9) * 160
    header = nibabel.Nifti1Header()
    header["dim"], header["datatype"], header["bitpix"], header["magic"] = (
        [3, 1024, 1024, 1024, 1, 1, 1, 1],
        4,
        16,
        b"n+1",
    )
    header["vox_offset"] = 352
    header.set_sform(np.eye(4), 1)
    written(tmp_path / "true.nii.gz", gzip.compress(header.binaryblock + bytes(4)) + zeros)
    bombs.append(tmp_path / "true.nii.gz")
    code = f"""
        import json, resource
        from anatrust.image import read_scan
        from anatrust.errors import InputError
        import nibabel, isal.igzip
        resource.setrlimit(resource.RLIMIT_AS, (1_200 << 20, 1_200 << 20))
        lines = []
        for path in {[str(b) for b in bombs]!r}:
            try:
                read_scan(path)
            except InputError as error:
                lines.append(str(error))
        print(json.dumps([lines, int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])]))
    """
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=env, check=False
    )
    lines, peak = json.loads(done.stdout or "[[], 0]")
    assert len(lines) == len(bombs), done.stderr
    assert peak < 250_000  # KiB
    assert "do not fit into memory" in lines[-1]


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.full((3, 4, 5), 0.5, np.float32), "fractions, e.g. 0.5"),
        (np.full((3, 4, 5), -1, np.int16), "smallest is -1"),
        (np.full((3, 4, 5), np.nan, np.float32), "NaN"),
        (np.full((3, 4, 5), 1e12, np.float64), "largest label"),
    ],
)
def test_masks_that_are_none(tmp_path, array, why):
    with pytest.raises(FormatError, match=why):
        read_mask(nifti(tmp_path / "m.nii.gz", array))


def test_whole_numbers_stored_as_floats_are_labels(tmp_path):
    array = np.float32(np.arange(60).reshape(3, 4, 5) % 4)
    labels = read_mask(nifti(tmp_path / "m.nii.gz", array))
    assert labels.array.dtype == np.uint8
    assert np.array_equal(labels.array, array)


def test_wrong_words(tmp_path):
    path = nifti(tmp_path / "a.nii.gz", VOXELS)
    with pytest.raises(InputError, match="choose one of CT, MR"):
        read_scan(path, modality="xray")
    assert read_scan(path, modality="mr").modality == "MR"
    with pytest.raises(InputError, match="spacing= is for pictures"):
        read_scan(path, spacing=2)
    with pytest.raises(InputError, match="object of type dict"):
        read_scan({})
    with pytest.raises(InputError, match="object of type"):
        read_probabilities(None)


def test_importing_the_room_is_light():
    heavy = {"SimpleITK", "torch", "pydicom", "scipy", "nibabel", "PIL", "isal"}
    code = f"import sys, anatrust.image; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
