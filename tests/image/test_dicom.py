import gzip
import shutil
import zipfile

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image import read_mask, read_scan

SECRETS = ("Doe", "P-4711", "19701231", "Private^Free^Text", "Hospital")


def write_slice(
    path, pixels, position, *, uid="1.2.3", number=1, modality="CT", orientation=(1, 0, 0, 0, 1, 0), **tags
):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.PatientName, data.PatientID, data.PatientBirthDate = "Doe^Jane", "P-4711", "19701231"
    data.SeriesDescription, data.InstitutionName = "Private^Free^Text", "Hospital"
    data.Modality, data.SeriesInstanceUID, data.SeriesNumber = modality, uid, number
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.PixelSpacing, data.SliceThickness = [0.75, 0.5], 3
    if position is not None:
        data.ImagePositionPatient, data.ImageOrientationPatient = list(position), list(orientation)
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.Manufacturer, data.ManufacturerModelName = "ACME", "Scan 3"
    for tag, value in tags.items():
        if value is None:
            delattr(data, tag)
        else:
            setattr(data, tag, value)
    data.PixelData = pixels.astype(np.int16).tobytes()
    data.save_as(path, enforce_file_format=True)


def write_stack(folder, heights, rng, *, shift=(0.0, 0.0), prefix="i", **tags):
    """Slices written in random order; returns stored pixels by height, (row, column)."""
    folder.mkdir(exist_ok=True)
    planes = {}
    for k in rng.permutation(len(heights)):
        pixels = rng.integers(0, 2000, (5, 7))
        planes[k] = pixels
        z = heights[k]
        write_slice(
            folder / f"{prefix}{rng.integers(1e9):09d}", pixels, (-10 + shift[0] * z, 20 + shift[1] * z, z), **tags
        )
    return np.stack([planes[k] for k in range(len(heights))])


def test_a_series_is_one_volume(tmp_path, rng):
    planes = write_stack(tmp_path / "s", np.arange(6) * 2.5 - 30, rng)
    (tmp_path / "s" / "readme.txt").write_text("not an image")
    scan = read_scan(tmp_path / "s")
    assert np.array_equal(scan.array, planes.transpose(2, 1, 0) - 1024)
    assert (scan.array.dtype, scan.modality, scan.units) == (np.int16, "CT", "HU")
    assert scan.grid.orientation == "LPS"
    assert np.allclose(scan.grid.to_world([0, 0, 0]), (10, -20, -30))
    assert np.allclose(scan.grid.to_world([1, 2, 3]), (10 - 0.5, -20 - 1.5, -30 + 7.5))


def test_nothing_personal_leaves(tmp_path, rng):
    write_stack(
        tmp_path / "s", np.arange(3) * 2.5, rng, ContrastBolusAgent="Doe's dye", KVP=120, ConvolutionKernel="B30f"
    )
    scan = read_scan(tmp_path / "s")
    facts = dict(scan.metadata)
    assert facts["contrast"] == "yes"
    assert (facts["manufacturer"], facts["kvp"], facts["kernel"], facts["slice_thickness_mm"]) == (
        "ACME",
        120,
        "B30f",
        3,
    )
    shown = repr((facts, scan.identifier, scan.units))
    assert not any(secret in shown for secret in (*SECRETS, "1.2.3"))


@pytest.mark.parametrize("orientation", [(0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), (0.8, 0.6, 0, 0, 0, -1)])
def test_other_planes(tmp_path, rng, orientation):
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    (tmp_path / "s").mkdir()
    for k in range(4):
        position = np.array([5.0, 6, 7]) + normal * 1.5 * k
        write_slice(tmp_path / "s" / f"{k}", rng.integers(0, 9, (5, 7)), position, orientation=orientation)
    grid = read_scan(tmp_path / "s").grid
    expected = np.array([5.0, 6, 7]) + row * 0.5 * 2 + column * 0.75 * 3 + normal * 1.5
    assert np.allclose(grid.to_world([2, 3, 1]) * (-1, -1, 1), expected, atol=1e-4)


def test_zips_and_single_files(tmp_path, rng):
    planes = write_stack(tmp_path / "s", np.arange(3) * 2.5, rng)
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, path in enumerate((tmp_path / "s").iterdir()):
            archive.write(path, f"../../../../tmp/evil{number}" if number else "/etc/evil")
        archive.writestr("readme.txt", "hello")
    before = sorted(tmp_path.iterdir())
    scan = read_scan(tmp_path / "s.zip")
    assert np.array_equal(scan.array, planes.transpose(2, 1, 0) - 1024)
    assert sorted(tmp_path.iterdir()) == before
    one = read_scan(next((tmp_path / "s").iterdir()))
    assert (one.grid.ndim, one.grid.shape, one.grid.spacing) == (2, (7, 5), (0.5, 0.75))


def test_zips_that_are_refused(tmp_path, rng):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(FormatError, match="zip holds no DICOM image"):
        read_scan(tmp_path / "a.zip")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    at = data.find(b"PK\1\2")
    data[at + 24 : at + 28] = (2**32 - 2).to_bytes(4, "little")  # the size it claims
    (tmp_path / "b.zip").write_bytes(bytes(data))
    with pytest.raises(FormatError, match="cannot hold"):
        read_scan(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        for number in range(9):
            archive.writestr(f"{number}", gzip.compress(b""))
            archive.infolist()[-1].file_size = 2**31
    with pytest.raises(InputError, match="19,327,352,832 bytes"):
        read_scan(tmp_path / "c.zip")


def test_what_tells_series_apart_is_listed_without_free_text(tmp_path, rng):
    for number, (count, tags) in enumerate(
        (
            (3, {"ConvolutionKernel": ["Br38f", "3"]}),
            (3, {"ConvolutionKernel": "B70f", "SliceThickness": 0.75}),
            (1, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SliceThickness": None}),
        ),
        1,
    ):
        write_stack(tmp_path / "s", np.arange(count) * 2.5, rng, uid=f"1.2.{number}", number=number, **tags)
    with pytest.raises(InputError, match="3 series") as caught:
        read_scan(tmp_path / "s")
    for words in (
        "1 = CT 7x5, 3 images, 3 mm thick, kernel Br38f 3;",
        "2 = CT 7x5, 3 images, 0.75 mm thick, kernel B70f;",
        "3 = CT 7x5, 1 image, localiser",
    ):
        assert words in str(caught.value)
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_the_file_that_is_cut_off_is_named(tmp_path, rng):
    write_stack(tmp_path / "s", np.arange(4) * 2.5, rng)
    cut = sorted((tmp_path / "s").iterdir())[2]
    cut.write_bytes(cut.read_bytes()[:-30])
    with pytest.raises(FormatError, match=rf"(of|in) {cut.name}\b|{cut.name} "):
        read_scan(tmp_path / "s")


def test_several_series_are_listed_and_chosen(tmp_path, rng):
    write_stack(tmp_path / "s", np.arange(4) * 2.5, rng, uid="1.2.3", number=5)
    planes = write_stack(tmp_path / "s", np.arange(3) * 2.5, rng, uid="1.2.4", number=2, modality="MR", prefix="j")
    with pytest.raises(InputError, match="2 series") as caught:
        read_scan(tmp_path / "s")
    assert "1 = MR 7x5, 3 images, 3 mm thick; 2 = CT 7x5, 4 images, 3 mm thick" in str(caught.value)
    assert not any(secret in str(caught.value) for secret in SECRETS)
    for choice in (1, "1", "1.2.4"):
        scan = read_scan(tmp_path / "s", series=choice)
        assert np.array_equal(scan.array, planes.transpose(2, 1, 0) - 1024)
        assert scan.modality == "MR"
    with pytest.raises(InputError, match="no series 3"):
        read_scan(tmp_path / "s", series=3)
    with pytest.raises(InputError, match="DICOM says MR, not CT"):
        read_scan(tmp_path / "s", series=1, modality="CT")


def test_a_localiser_in_the_series_is_a_series_of_its_own(tmp_path, rng):
    write_stack(tmp_path / "s", np.arange(4) * 2.5, rng)
    write_slice(tmp_path / "s" / "scout", rng.integers(0, 9, (5, 7)), (0, 0, 0), orientation=(1, 0, 0, 0, 0, -1))
    with pytest.raises(InputError, match="2 series"):
        read_scan(tmp_path / "s")


def test_phases_at_one_place(tmp_path, rng):
    write_stack(tmp_path / "s", np.arange(3) * 2.5, rng, TemporalPositionIdentifier=1)
    late = write_stack(tmp_path / "s", np.arange(3) * 2.5, rng, TemporalPositionIdentifier=2, prefix="j")
    with pytest.raises(InputError, match="2 series"):
        read_scan(tmp_path / "s")
    assert np.array_equal(read_scan(tmp_path / "s", series=2).array, late.transpose(2, 1, 0) - 1024)


@pytest.mark.parametrize(
    ("heights", "shift", "why"),
    [
        ([0, 2.5, 5, 10, 12.5], (0, 0), "about 1 slice is missing, the first after slice 3 of 5"),
        ([0, 2.5, 5, 8.2, 10], (0, 0), "unevenly spaced"),
        ([0, 2.5, 2.5, 5], (0, 0), "1 of 4 slices lie where another one lies"),
        (np.arange(8) * 2.5, (0, 0.3), r"16\.7 degrees \(gantry tilt\)"),
    ],
)
def test_stacks_that_are_no_volume(tmp_path, rng, heights, shift, why):
    write_stack(tmp_path / "s", np.asarray(heights, float), rng, shift=shift)
    with pytest.raises(GeometryError, match=why) as caught:
        read_scan(tmp_path / "s")
    assert "\n" not in str(caught.value)


def test_rounded_positions_are_forgiven(tmp_path, rng):
    write_stack(tmp_path / "s", np.round(np.arange(30) * (10 / 3), 1), rng)
    assert read_scan(tmp_path / "s").grid.spacing[2] == pytest.approx(10 / 3, abs=0.01)


def test_slopes_of_pet_differ_between_slices(tmp_path, rng):
    (tmp_path / "s").mkdir()
    planes = []
    for k in range(3):
        pixels = rng.integers(0, 2000, (5, 7))
        planes.append(pixels * (0.5 + k))
        tags = {"RescaleSlope": 0.5 + k, "RescaleIntercept": 0, "Units": "GML"}
        write_slice(tmp_path / "s" / f"{k}", pixels, (0, 0, 2.0 * k), modality="PT", **tags)
    scan = read_scan(tmp_path / "s")
    assert np.allclose(scan.array, np.stack(planes).transpose(2, 1, 0))
    assert (scan.modality, scan.units, scan.array.dtype) == ("PET", "SUV", np.float32)


def test_images_without_a_position_are_pictures(tmp_path, rng):
    pixels = rng.integers(0, 2000, (5, 7))
    write_slice(tmp_path / "x.dcm", pixels, None, modality="DX")
    scan = read_scan(tmp_path / "x.dcm")
    assert np.array_equal(scan.array, pixels - 1024)
    assert (scan.grid.layout, scan.grid.spacing) == ("raster", (0.75, 0.5))
    write_slice(tmp_path / "y.dcm", pixels, None, modality="XC", PixelSpacing=None)
    assert not read_scan(tmp_path / "y.dcm").grid.spacing_known
    assert read_scan(tmp_path / "y.dcm", spacing=2).grid.spacing == (2, 2)
    assert read_scan(tmp_path / "y.dcm").modality == "photo"
    (tmp_path / "s").mkdir()
    for name in "xy":
        shutil.copy(tmp_path / "x.dcm", tmp_path / "s" / name)
    with pytest.raises(GeometryError, match="2 images without a position"):
        read_scan(tmp_path / "s")


def test_damaged_files(tmp_path, rng, capfd):
    write_slice(tmp_path / "a.dcm", rng.integers(0, 9, (5, 7)), (0, 0, 0))
    data = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(data[:200])
    write_slice(tmp_path / "big.dcm", rng.integers(0, 9, (5, 7)), (0, 0, 0))
    big = pydicom.dcmread(tmp_path / "big.dcm")
    big.Rows, big.Columns = 60000, 60000
    big.save_as(tmp_path / "big.dcm")
    write_slice(tmp_path / "odd.dcm", rng.integers(0, 9, (5, 7)), (0, 0, 0), PixelSpacing=[0.5, 0])
    write_slice(tmp_path / "rgb.dcm", rng.integers(0, 9, (5, 7)), (0, 0, 0), SamplesPerPixel=3)
    for name, why in (
        ("cut.dcm", "damaged|no DICOM image"),
        ("big.dcm", "claims 7,200,000,000 bytes"),
        ("odd.dcm", "pixel spacing is missing"),
        ("rgb.dcm", "colours"),
    ):
        with pytest.raises(InputError, match=why) as caught:
            read_scan(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_real_series(shared_data, capfd):
    """JPEG 2000, no series number, file names without suffix."""
    folder = shared_data / "abdomen_ct_mr"
    scan = read_scan(folder / "ct_dicom_series")
    assert scan.grid.shape == (512, 512, 20)
    assert (scan.modality, scan.units, int(scan.array.min())) == ("CT", "HU", -1024)
    labels = read_mask(folder / "ct_dicom_series_labels.nii.gz", reference=scan.grid)
    assert len(labels.labels()) == 31
    liver = scan.array[labels.array == 5]
    assert 30 < np.median(liver) < 150  # labels written in another axis order lie on the liver
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", ["24x38x3", "23x38x3"])
def test_frames_and_slices_agree(shared_data, size):
    folder = shared_data / "dicom_seg/dcmqi/data/segmentations" / size
    slices = read_scan(folder / "image")
    frames = read_scan(folder / "multiframe" / "mf.dcm")
    assert np.array_equal(slices.array, frames.array)
    assert slices.grid.same_as(frames.grid)
    mask = read_mask(folder / "nrrd" / "label.nrrd", reference=slices.grid)
    assert mask.labels()


def test_single_slices_equal_pydicom(shared_data):
    path = shared_data / "dicom_seg/highdicom/data/test_files/ct_image.dcm"
    data = pydicom.dcmread(path)
    expected = data.pixel_array.astype(int) * int(data.RescaleSlope) + int(data.RescaleIntercept)
    assert np.array_equal(read_scan(path).array, expected.T)


def test_segmentation_objects_are_named(shared_data):
    folder = shared_data / "dicom_seg"
    with pytest.raises(FormatError, match="DICOM SEG, which cannot be read yet"):
        read_mask(folder / "dcmqi/data/segmentations/liver.dcm")
    with pytest.raises(FormatError, match="film of frames"):
        read_scan(folder / "highdicom/data/test_files/sm_image.dcm")
    with pytest.raises(InputError, match=r"16 series.*1 = SM 10x10, 25 frames"):
        read_scan(folder)
