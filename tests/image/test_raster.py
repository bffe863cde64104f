import numpy as np
import pytest
from PIL import Image

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image import Grid, LabelMap, Mask, Scan, read_mask, read_scan, write_mask, write_scan


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp.png"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_keeps_its_depth(tmp_path, rng, name, dtype):
    array = rng.integers(0, np.iinfo(dtype).max, (5, 7), dtype=dtype, endpoint=True)
    Image.fromarray(array).save(tmp_path / name)
    scan = read_scan(tmp_path / name)
    assert np.array_equal(scan.array, array)
    assert scan.array.dtype == dtype
    assert not scan.grid.spacing_known
    assert scan.modality == "unknown"
    given = read_scan(tmp_path / name, spacing=(0.2, 0.3), modality="photo")
    assert (given.grid.spacing, given.grid.unit, given.modality) == ((0.2, 0.3), "mm", "photo")
    assert read_scan(tmp_path / name, spacing=0.5).grid.spacing == (0.5, 0.5)


@pytest.mark.parametrize("mode", ["F", "I", "1"])
def test_floats_whole_numbers_and_bits(tmp_path, mode):
    array = {"F": np.float32([[0.5, -1], [2, 3]]), "I": np.int32([[70000, -1], [2, 3]])}.get(mode)
    image = Image.fromarray(array if array is not None else np.array([[True, False], [False, True]]))
    image.save(tmp_path / "a.tif")
    expected = array if array is not None else np.uint8([[255, 0], [0, 255]])
    scan = read_scan(tmp_path / "a.tif")
    assert np.array_equal(scan.array, expected)
    assert scan.array.dtype == expected.dtype


def test_colours_become_luminance(tmp_path, rng):
    colours = rng.integers(0, 255, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    grey = read_scan(tmp_path / "a.png").array
    expected = colours @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - expected).max() <= 0.51
    Image.fromarray(np.dstack([colours, np.full((6, 5), 255, np.uint8)])).save(tmp_path / "b.png")
    assert np.array_equal(read_scan(tmp_path / "b.png").array, grey)
    Image.fromarray(colours).save(tmp_path / "c.jpg", quality=95)
    assert read_scan(tmp_path / "c.jpg").array.shape == (6, 5)


@pytest.mark.parametrize("turn", [3, 6, 8, 2])
def test_a_photograph_is_taken_as_it_is_shown(tmp_path, turn):
    array = np.zeros((8, 16), np.uint8)
    array[:4, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    shown = {3: array[::-1, ::-1], 6: np.rot90(array, -1), 8: np.rot90(array), 2: array[:, ::-1]}[turn]
    scan = read_scan(tmp_path / "a.png")
    assert np.array_equal(scan.array, shown)
    assert scan.metadata["exif_orientation"] == turn


def test_pages_are_chosen(tmp_path):
    pages = [Image.fromarray(np.full((3, 4), k, np.uint8)) for k in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(FormatError, match=r"3 pages: choose one with series=1\.\.3"):
        read_scan(tmp_path / "a.tif")
    assert (read_scan(tmp_path / "a.tif", series=3).array == 2).all()
    with pytest.raises(InputError, match="no page 4"):
        read_scan(tmp_path / "a.tif", series=4)


def test_deep_colour_is_refused_rather_than_flattened(tmp_path):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(2 * 3 * 2) for _ in range(2))
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(FormatError, match="16-bit colour"):
        read_scan(tmp_path / "a.png")


def test_masks_in_pictures(tmp_path):
    binary = np.uint8([[0, 255], [255, 0]])
    Image.fromarray(binary).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png").array, binary // 255)
    Image.fromarray(np.dstack([binary] * 3)).save(tmp_path / "grey_rgb.png")
    assert np.array_equal(read_mask(tmp_path / "grey_rgb.png").array, binary // 255)
    palette = Image.new("P", (2, 2))
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1, 2, 1])
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_mask(tmp_path / "p.png").array, [[0, 1], [2, 1]])
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "empty.png")
    assert read_mask(tmp_path / "empty.png").labels() == ()
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[0, 0] = (255, 0, 0)
    Image.fromarray(colour).save(tmp_path / "c.png")
    with pytest.raises(FormatError, match="mask in colours"):
        read_mask(tmp_path / "c.png")
    noisy = np.tile(np.uint8([[3, 250], [128, 7]]), (8, 8))
    Image.fromarray(noisy).save(tmp_path / "m.jpg")
    with pytest.raises(FormatError, match="JPEG"):
        read_mask(tmp_path / "m.jpg")


@pytest.mark.parametrize("labels", [{0, 1}, {0, 255}, {0, 3, 255}, {0}, {0, 1, 40000}])
def test_label_pictures_round_trip(tmp_path, rng, labels):
    array = rng.choice(sorted(labels), (6, 9))
    label_map = LabelMap(array, Grid.without_spacing(array.shape))
    write_mask(tmp_path / "m.png", label_map)
    again = read_mask(tmp_path / "m.png", reference=label_map.grid)
    assert np.array_equal(again.array, array)


def test_masks_are_visible_and_scans_exact(tmp_path, rng):
    grid = Grid.without_spacing((4, 6))
    write_mask(tmp_path / "m.png", Mask(np.ones((4, 6), bool), grid))
    assert (np.asarray(Image.open(tmp_path / "m.png")) == 255).all()
    for dtype in (np.uint8, np.uint16):
        scan = Scan(rng.integers(0, 200, (4, 6)).astype(dtype), grid)
        write_scan(tmp_path / "s.png", scan)
        assert np.array_equal(read_scan(tmp_path / "s.png").array, scan.array)
    with pytest.raises(FormatError, match="16-bit whole numbers"):
        write_scan(tmp_path / "s.png", Scan(np.zeros((4, 6), np.float32), grid))
    with pytest.raises(GeometryError, match="PNG cannot hold the geometry"):
        write_mask(tmp_path / "m.png", Mask(np.ones((4, 6), bool), Grid((4, 6), np.diag([2.0, 2, 1, 1]))))


def test_a_mask_picture_lies_on_the_scan_picture_whatever_its_spacing(tmp_path):
    array = np.uint8([[0, 255, 0], [0, 0, 255]])
    Image.fromarray(array).save(tmp_path / "m.png")
    scan = read_scan(tmp_path / "m.png", spacing=0.4)
    mask = read_mask(tmp_path / "m.png", reference=scan.grid)
    assert mask.grid is scan.grid
    assert mask.mask().volume == pytest.approx(2 * 0.16)
    with pytest.raises(GeometryError):
        read_mask(tmp_path / "m.png", reference=Grid.without_spacing((3, 2)))


@pytest.mark.parametrize("bad", [0, -1, (1, 2, 3), float("nan"), "wide", (1, None)])
def test_impossible_spacings_are_refused(tmp_path, bad):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="spacing"):
        read_scan(tmp_path / "a.png", spacing=bad)


def test_real_slices(shared_data):
    image = sorted((shared_data / "cardiac_mr/part1/images").iterdir())[0]
    scan = read_scan(image, modality="MR")
    mask = read_mask(shared_data / "cardiac_mr/part1/labels" / image.name, reference=scan.grid)
    assert scan.array.shape == (256, 256)
    assert mask.labels() == (1,)
    assert np.array_equal(scan.array, np.asarray(Image.open(image)))
