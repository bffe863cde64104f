"""Pictures: PNG, JPEG and TIFF through Pillow."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image.adapter import FileHead, RawImage, Request, stem
from anatrust.image.atomic import replacing
from anatrust.image.grid import Grid

__all__ = ["is_raster", "read_raster", "write_png"]

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_MOST_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb
_EXIF_ORIENTATION = 0x0112


def is_raster(head: FileHead) -> bool:
    """Whether a file is a picture, by its content (or by its name, so that it is refused as one)."""
    return (head.raw.startswith(_MAGIC) and head.raw[128:132] != b"DICM") or head.name.endswith(_SUFFIXES)


def read_raster(head: FileHead, request: Request) -> RawImage:
    """Read a picture as ``(rows, columns)``.

    Parameters
    ----------
    head
        The file.
    request
        ``spacing`` is the pixel size in mm, one number or (row step, column step): pictures do
        not store it, so without it the grid says "unknown". ``series`` chooses the page of a
        TIFF, counted from 1.

    Returns
    -------
    RawImage
        Grey pictures keep their depth (8, 16 or 32 bit, float). Colours of a scan become ITU-R
        601 luminance; a mask must be grey, or a palette, whose indices are the labels. A
        photograph that carries an EXIF orientation is turned the way it is shown, and
        ``metadata["exif_orientation"]`` says so.

    Raises
    ------
    FormatError, InputError
        If the picture is damaged, too large (more than 178 megapixels), has several pages and
        none was chosen, or is a mask in colours.
    """
    from PIL import ImageOps

    where = str(head.path)
    with _opened(head, where) as image:
        _choose_page(image, request, where)
        _refuse_hidden_depth(head, image, where)
        facts: dict[str, Any] = {"format": image.format or "", "stored_mode": image.mode}
        image.load()
        orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1) or 1)
        if orientation != 1:
            facts["exif_orientation"] = orientation
            image = ImageOps.exif_transpose(image)
        array = _grey(image, request, where)
    grid = Grid.of_picture(array.shape, _spacing(request.spacing, where))
    return RawImage(array, grid, where, identifier=stem(head.path), metadata=facts)


@contextlib.contextmanager
def _opened(head: FileHead, where: str) -> Iterator[Any]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here, by the limit above
            with Image.open(head.path) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise InputError(
                        f"{where}: {image.width}x{image.height} pixels are more than can be judged at once: crop it"
                    )
                yield image
    except UnidentifiedImageError:
        what = "the file is empty" if not head.raw else "its content is no picture that can be read"
        raise FormatError(f"{where}: {what}: save it again as PNG") from None
    except Image.DecompressionBombError:
        raise InputError(f"{where}: more than {_MOST_PIXELS:,} pixels cannot be judged at once: crop it") from None
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        line = " ".join(str(error).split())[:200]
        raise FormatError(f"{where}: the picture is damaged or cut off ({line}): get it again") from None


def _choose_page(image: Any, request: Request, where: str) -> None:
    pages = int(getattr(image, "n_frames", 1))
    if pages == 1 and request.series is None:
        return
    if request.series is None:
        raise FormatError(f"{where}: holds {pages} pages: choose one with series=1..{pages} (--series)")
    if not isinstance(request.series, int) or not 1 <= request.series <= pages:
        raise InputError(f"{where}: there is no page {request.series!r}: choose series=1..{pages} (--series)")
    image.seek(request.series - 1)


def _refuse_hidden_depth(head: FileHead, image: Any, where: str) -> None:
    # Pillow reduces 16-bit colour PNG to 8 bits without a word. IHDR: depth at 24, colour type at 25.
    if image.format == "PNG" and head.raw[24:25] == b"\x10" and head.raw[25:26] != b"\0":
        raise FormatError(f"{where}: 16-bit colour cannot be kept exactly: save it as 16-bit grey or 8-bit colour")


def _grey(image: Any, request: Request, where: str) -> npt.NDArray[Any]:
    mode = image.mode
    if mode == "1":
        return np.asarray(image).astype(np.uint8) * np.uint8(255)
    if request.purpose == "labels":
        if mode in ("RGB", "RGBA", "LA", "La", "CMYK", "YCbCr"):
            colours = np.asarray(image.convert("RGB"))
            if not ((colours[..., 0] == colours[..., 1]) & (colours[..., 0] == colours[..., 2])).all():
                raise FormatError(f"{where}: a mask in colours has no label numbers: save it as grey or palette PNG")
            return np.ascontiguousarray(colours[..., 0])
        if mode == "P":
            return np.array(image)
    if mode in ("L", "F", "I") or mode.startswith("I;16"):
        array = np.array(image)
        return array.astype(array.dtype.newbyteorder("="))
    return np.array(image.convert("RGB").convert("L"))


def _spacing(spacing: tuple[float, ...] | None, where: str) -> tuple[float, float] | None:
    if spacing is None:
        return None
    if len(spacing) not in (1, 2) or not all(np.isfinite(v) and v > 0 for v in spacing):
        raise InputError(f"{where}: spacing is one or two positive numbers in mm (row step, column step)")
    return float(spacing[0]), float(spacing[-1])


def write_png(path: str | os.PathLike[str], array: npt.NDArray[Any], grid: Grid) -> None:
    """Write a picture ``(rows, columns)`` of uint8 or uint16, whole or not at all.

    Raises
    ------
    GeometryError
        If the grid is not that of a picture: PNG cannot hold a position in the patient.
    FormatError
        If the dtype is neither uint8 nor uint16.
    """
    from PIL import Image

    if grid.layout != "raster":
        raise GeometryError(f"{path}: PNG cannot hold the geometry of this image: write .nii.gz instead")
    if array.dtype not in (np.uint8, np.uint16):
        raise FormatError(f"{path}: PNG holds 8 or 16-bit whole numbers, not {array.dtype}: write .nii.gz instead")
    with replacing(path) as temporary:
        Image.fromarray(np.ascontiguousarray(array)).save(temporary, format="PNG", compress_level=3)
