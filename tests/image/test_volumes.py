import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anatrust.errors import FormatError, GeometryError
from anatrust.image import Grid, LabelMap, Mask, ProbabilityMap, Scan

GRID = Grid((3, 4, 5), np.diag([1.0, 2.0, 3.0, 1.0]))


def test_scans_keep_their_dtype_and_cannot_be_written_through():
    array = np.zeros(GRID.shape, np.int16)
    scan = Scan(array, GRID, metadata={"kernel": "B30"})
    assert scan.array.dtype == np.int16
    assert array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        scan.array[0, 0, 0] = 1
    with pytest.raises(TypeError):
        scan.metadata["kernel"] = "x"


@pytest.mark.parametrize(
    ("build", "error", "why"),
    [
        (lambda: Scan(np.zeros((3, 4)), GRID), GeometryError, "shape"),
        (lambda: Scan(np.zeros(GRID.shape, complex), GRID), FormatError, "real numbers"),
        (lambda: Scan(np.full(GRID.shape, np.nan), GRID), FormatError, "60 NaN"),
        (lambda: Mask(np.zeros(GRID.shape, np.uint8), GRID), FormatError, "boolean"),
        (lambda: LabelMap(np.zeros(GRID.shape), GRID), FormatError, "whole numbers"),
        (lambda: LabelMap(np.full(GRID.shape, -1), GRID), FormatError, "smallest is -1"),
        (lambda: ProbabilityMap(np.zeros(GRID.shape), GRID), GeometryError, "classes"),
        (lambda: ProbabilityMap(np.zeros((1, *GRID.shape), int), GRID), FormatError, "floating"),
        (lambda: ProbabilityMap(np.zeros((2, *GRID.shape)), GRID), GeometryError, "class names"),
        (lambda: ProbabilityMap(np.full((1, *GRID.shape), 3.0), GRID), FormatError, "softmax"),
        (lambda: ProbabilityMap(np.full((1, *GRID.shape), np.nan), GRID), FormatError, "NaN or infinite"),
        (lambda: ProbabilityMap(np.append(np.zeros(59), np.nan).reshape(1, *GRID.shape), GRID), FormatError, "NaN or"),
    ],
)
def test_invalid_images_are_refused(build, error, why):
    with pytest.raises(error, match=why):
        build()


def test_labels_and_masks():
    array = np.zeros(GRID.shape, np.uint8)
    array[0], array[1] = 2, 7
    labels = LabelMap(array, GRID, {2: "liver", 7: "cyst"})
    assert labels.labels() == (2, 7)
    assert labels.mask("liver").volume == 20 * 6.0
    assert labels.mask(2, 7).array.sum() == labels.mask().array.sum() == 40
    assert not labels.mask("spleen").array.any()


def test_foreground_of_exclusive_and_overlapping_channels():
    two = np.stack([np.full(GRID.shape, 0.7), np.full(GRID.shape, 0.3)])
    assert ProbabilityMap(two, GRID, ("background", "lesion")).foreground == pytest.approx(0.3)
    assert ProbabilityMap(two, GRID, ("whole", "core")).foreground == pytest.approx(0.7)
    assert ProbabilityMap(two[:1], GRID).foreground == pytest.approx(0.7)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", ">u2", ">i4"]),
    st.lists(st.integers(1, 7), min_size=2, max_size=3),
    st.sampled_from(["C", "F", "reversed", "strided"]),
    st.integers(0, 10**6),
    st.floats(0, 1),
)
def test_labels_are_those_numpy_finds_whatever_the_type_size_and_order(dtype, shape, order, seed, share):
    rng = np.random.default_rng(seed)
    array = np.where(rng.random(shape) < share, rng.integers(0, 120, shape), 0).astype(dtype)
    if order == "F":
        array = np.asfortranarray(array)
    elif order == "reversed":
        array = array[::-1]
    elif order == "strided":
        array = np.repeat(array, 2, axis=0)[::2]
    labels = LabelMap(array, Grid(array.shape, np.eye(4)))
    assert labels.labels() == tuple(int(v) for v in np.unique(array) if v)
