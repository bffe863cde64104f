"""DICOM images: one file, a folder or a zip, one series of them, as a volume.

Headers are read by pydicom, pixels by SimpleITK's GDCM (which decodes the compressed kinds and
applies the rescale slope). Only technical tags leave this module, no name, date, number or free
text that could point to a person.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image.adapter import FileHead, RawImage, Request, check_claim, drop_slice_axis, one_line
from anatrust.image.dicom_files import dicom_files
from anatrust.image.dicom_geometry import stack_slices
from anatrust.image.grid import Grid
from anatrust.image.volumes import Modality

__all__ = ["is_dicom", "read_dicom"]

_MODALITIES: dict[str, Modality] = {
    "CT": "CT",
    "MR": "MR",
    "PT": "PET",
    "US": "US",
    "XC": "photo",
    "ES": "photo",
    "DMS": "photo",
    "GM": "photo",
}
_NO_IMAGES = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG", "DOC")
_FACTS = (
    ("manufacturer", "Manufacturer"),
    ("model", "ManufacturerModelName"),
    ("kernel", "ConvolutionKernel"),
    ("slice_thickness_mm", "SliceThickness"),
    ("kvp", "KVP"),
    ("field_strength_tesla", "MagneticFieldStrength"),
    ("repetition_time_ms", "RepetitionTime"),
    ("echo_time_ms", "EchoTime"),
    ("photometric", "PhotometricInterpretation"),
)
# What tells volumes of one series apart that lie at the same place, asked in this order.
_PHASES = ("TemporalPositionIdentifier", "EchoNumbers", "DiffusionBValue", "AcquisitionNumber", "TriggerTime")
_RAW_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_CODED_ALLOWANCE = 16_384


@dataclass
class _Slice:
    """One plane of pixels: a file, or a frame of one."""

    path: Path
    frame: int
    header: Any
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    refusal: str = ""  # why this file cannot be read, should it be chosen


@dataclass
class _Series:
    """Slices that belong together by their headers."""

    slices: list[_Slice] = field(default_factory=list)

    @property
    def header(self) -> Any:
        return self.slices[0].header

    def words(self) -> str:
        """What tells it from the others, of technical facts alone: descriptions may name the patient."""
        header, number = self.header, len(self.slices)
        plane = f"{header.get('Columns')}x{header.get('Rows')}"
        count = f"{number} image{'s' if number > 1 else ''}"
        if self.slices[0].refusal:
            count = f"{header.get('NumberOfFrames')} frames"
        facts = [f"{header.get('Modality') or 'unknown'} {plane}", count]
        thickness = _floats(header.get("SliceThickness"))
        if thickness and thickness[0]:
            facts.append(f"{thickness[0]:g} mm thick")
        kernel = header.get("ConvolutionKernel")
        if kernel:
            facts.append("kernel " + (kernel if isinstance(kernel, str) else " ".join(map(str, kernel))))
        if "LOCALIZER" in (header.get("ImageType") or ()):
            facts.append("localiser")
        return ", ".join(facts)


def is_dicom(head: FileHead) -> bool:
    """Whether it is a folder, a zip or a DICOM file."""
    zipped = head.raw.startswith(b"PK\3\4") or head.name.endswith(".zip")
    return head.path.is_dir() or zipped or head.raw[128:132] == b"DICM" or head.name.endswith((".dcm", ".dicom"))


def read_dicom(head: FileHead, request: Request) -> RawImage:
    """Read one series as a volume ``(column, row, slice)``, or one image.

    Parameters
    ----------
    head
        A DICOM file (that image alone, or all frames of a multi-frame one), folder or zip.
    request
        ``series`` is the number in the list a refusal prints, or a SeriesInstanceUID.

    Returns
    -------
    RawImage
        Values after rescaling: whole numbers where slope and intercept are whole, else
        float32. ``modality`` from the header; ``units`` ``"HU"`` for CT, ``"SUV"`` for PET in
        g/ml. An image without a position in the patient (X-ray, photograph) is a picture
        ``(row, column)``. ``metadata`` holds technical tags only; ``identifier`` is a hash.

    Raises
    ------
    FormatError
        If there is no image, it is in colour or damaged.
    InputError
        If there are several series and none was chosen.
    GeometryError
        If slices are missing, uneven, tilted, not parallel or doubled.
    """
    where = str(head.path)
    with dicom_files(head.path) as files:
        series = _chosen(_series(files, head), request, where)
        return _volume(series, request, where)


def _series(files: list[Path], head: FileHead) -> list[_Series]:
    where = str(head.path)
    groups: dict[tuple[Any, ...], _Series] = defaultdict(_Series)
    others: set[str] = set()
    for path in files:
        header = _header(path, where)
        kind = str(header.get("Modality", ""))
        if kind in _NO_IMAGES or not header.get("Rows"):
            others.add(kind or "no image")
            continue
        for piece in _slices(path, header):
            direction = tuple(np.round(piece.orientation or (), 2).tolist())
            key = (
                _whole(header.get("SeriesNumber")),
                str(header.get("SeriesInstanceUID", "")),
                *(int(header.get(tag) or 0) for tag in ("Rows", "Columns")),
                direction,
                str(path) if piece.refusal else "",
            )
            groups[key].slices.append(piece)
    if groups:
        return [part for key in sorted(groups) for part in _by_phase(groups[key])]
    if others & {"SEG", "RTSTRUCT"}:
        raise FormatError(
            f"{where}: holds a DICOM {' and '.join(sorted(others & {'SEG', 'RTSTRUCT'}))}, which cannot be read yet:"
            " convert it to NIfTI"
        )
    if head.path.is_dir() or head.name.endswith(".zip") or head.raw.startswith(b"PK"):
        place = "folder" if head.path.is_dir() else "zip"
        raise FormatError(f"{where}: the {place} holds no DICOM image: give the one with the image files")
    raise FormatError(f"{where}: no DICOM image: get it again")


def _header(path: Path, where: str) -> Any:
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        _ = [header.get(tag) for tag in ("Rows", "Columns", "SeriesNumber", "ImagePositionPatient", "PixelSpacing")]
    except InvalidDicomError:
        raise FormatError(f"{where}: not a DICOM file: give the image itself, or get it again") from None
    except Exception as error:  # pydicom lets every kind of error through from damaged values
        raise FormatError(
            f"{where}: the header of {path.name} is damaged ({one_line(error)}): export it again"
        ) from None
    return header


def _slices(path: Path, header: Any) -> Iterable[_Slice]:
    if int(header.get("NumberOfFrames") or 1) == 1 and "PerFrameFunctionalGroupsSequence" not in header:
        position, orientation, spacing = (
            _floats(header.get(tag)) for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        )
        return [_Slice(path, 0, header, position, orientation, spacing)]
    frames = header.get("PerFrameFunctionalGroupsSequence")
    shared = (header.get("SharedFunctionalGroupsSequence") or [{}])[0]
    if not frames:
        return [_Slice(path, 0, header, None, None, None, "a film of frames, no volume: save one frame as PNG")]

    def look(frame: Any, group: str, tag: str) -> tuple[float, ...] | None:
        for place in (frame, shared):
            if place.get(group):
                return _floats(place.get(group)[0].get(tag))
        return None

    scales = {
        (
            look(frame, "PixelValueTransformationSequence", "RescaleSlope"),
            look(frame, "PixelValueTransformationSequence", "RescaleIntercept"),
        )
        for frame in frames
    }
    if len(scales) > 1:
        return [_Slice(path, 0, header, None, None, None, "its frames are scaled differently: export single slices")]
    return [
        _Slice(
            path,
            number,
            header,
            look(frame, "PlanePositionSequence", "ImagePositionPatient"),
            look(frame, "PlaneOrientationSequence", "ImageOrientationPatient"),
            look(frame, "PixelMeasuresSequence", "PixelSpacing"),
        )
        for number, frame in enumerate(frames)
    ]


def _floats(value: Any) -> tuple[float, ...] | None:
    return None if value is None or value == "" else tuple(float(v) for v in np.atleast_1d(value))


def _whole(value: Any) -> int:
    return int(value) if value not in (None, "") else 0


def _by_phase(series: _Series) -> list[_Series]:
    """Split a series that holds several volumes at one place (phases, echoes) by what tells them apart."""
    places = {tuple(np.round(piece.position, 3)) for piece in series.slices if piece.position}
    if len(places) in (0, len(series.slices)):
        return [series]
    for tag in _PHASES:
        parts: dict[str, _Series] = defaultdict(_Series)
        for piece in series.slices:
            parts[str(piece.header.get(tag, ""))].slices.append(piece)
        if len(parts) > 1 and all(len(part.slices) == len(places) for part in parts.values()):
            return [parts[key] for key in sorted(parts, key=lambda text: (len(text), text))]
    return [series]


def _chosen(found: list[_Series], request: Request, where: str) -> _Series:
    if request.series is None and len(found) == 1:
        return found[0]
    listing = "; ".join(f"{number} = {series.words()}" for number, series in enumerate(found[:20], 1))
    listing += f"; and {len(found) - 20} more" if len(found) > 20 else ""
    if request.series is None:
        raise InputError(f"{where}: holds {len(found)} series, choose one with series= (--series): {listing}")
    match: Callable[[int, _Series], bool] = lambda number, series: (  # noqa: E731
        request.series in (number, str(number)) or request.series == str(series.header.get("SeriesInstanceUID", ""))
    )
    hits = [series for number, series in enumerate(found, 1) if match(number, series)]
    if len(hits) != 1:
        raise InputError(f"{where}: there is no series {request.series!r}: choose from {listing}")
    return hits[0]


def _volume(series: _Series, request: Request, where: str) -> RawImage:
    header = series.header
    if series.slices[0].refusal:
        raise FormatError(f"{where}: {series.slices[0].refusal}")
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise FormatError(f"{where}: holds colours, not grey values: save it as PNG, or convert it to one channel")
    modality = _MODALITIES.get(str(header.get("Modality", "")), "unknown")
    units = "HU" if modality == "CT" else "SUV" if modality == "PET" and header.get("Units") == "GML" else ""
    grid: Grid | None = None
    pieces = series.slices
    if any(piece.position is None or piece.orientation is None for piece in pieces):
        if len(pieces) > 1:
            raise GeometryError(f"{where}: {len(pieces)} images without a position in the patient: give one file")
        spacing = request.spacing or pieces[0].spacing
        grid = Grid.of_picture((header.Rows, header.Columns), (spacing[0], spacing[-1]) if spacing else None)
    else:
        pieces, affine = _ordered(pieces, where)
    pixels = _pixels(pieces, where)  # (slice, row, column)
    identity = str(header.get("SeriesInstanceUID", "")).encode() or pixels[0].tobytes()
    name = f"{modality}-{hashlib.sha256(identity).hexdigest()[:8]}"
    if grid is not None:
        array: npt.NDArray[Any] = pixels[0]
    else:
        array, grid = drop_slice_axis(pixels.transpose(2, 1, 0), affine)
    return RawImage(array, grid, where, modality, units, name, _facts(header))


def _ordered(pieces: list[_Slice], where: str) -> tuple[list[_Slice], npt.NDArray[np.float64]]:
    spacings = {piece.spacing for piece in pieces}
    spacing = pieces[0].spacing
    if len(spacings) > 1 or spacing is None or len(spacing) != 2 or min(spacing) <= 0:
        raise GeometryError(f"{where}: the pixel spacing is missing or differs between slices: export the series again")
    header = pieces[0].header
    thickness = header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1.0
    order, affine = stack_slices(
        np.array([piece.position for piece in pieces], dtype=np.float64),
        np.array([piece.orientation for piece in pieces], dtype=np.float64),
        (spacing[0], spacing[1]),
        abs(float(thickness)) or 1.0,
        where,
    )
    return [pieces[k] for k in order], affine


def _pixels(pieces: list[_Slice], where: str) -> npt.NDArray[Any]:
    import SimpleITK

    planes: dict[Path, npt.NDArray[Any]] = {}
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    for piece in pieces:
        if piece.path in planes:
            continue
        _check_pixels(piece, where)
        reader.SetFileName(str(piece.path))
        try:
            planes[piece.path] = SimpleITK.GetArrayFromImage(reader.Execute())
        except RuntimeError:
            raise FormatError(f"{where}: the pixels of {piece.path.name} cannot be decoded: export it again") from None
    stack = np.stack([np.atleast_3d(planes[piece.path])[piece.frame] for piece in pieces])
    if stack.dtype.kind == "f":
        return stack.astype(np.float32)
    if stack.dtype.itemsize > 2 and stack.min() >= -32768 and stack.max() <= 32767:
        return stack.astype(np.int16)  # GDCM allows for values that the scan does not have
    return stack


def _check_pixels(piece: _Slice, where: str) -> None:
    header = piece.header
    claimed = int(header.Rows) * int(header.Columns) * int(header.get("NumberOfFrames") or 1)
    claimed = claimed * int(header.get("BitsAllocated") or 8) // 8
    stored = piece.path.stat().st_size
    syntax = str(header.file_meta.get("TransferSyntaxUID", "")) if hasattr(header, "file_meta") else ""
    raw = syntax in _RAW_SYNTAXES
    check_claim(claimed, stored if raw else stored + _CODED_ALLOWANCE, where, compressed=not raw)


def _facts(header: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"format": "DICOM"}
    for name, tag in _FACTS:
        value = header.get(tag)
        if value in (None, ""):
            continue
        if isinstance(value, str):
            facts[name] = value[:64]
        elif isinstance(value, int | float):
            facts[name] = float(value)
        else:
            facts[name] = "/".join(str(v) for v in value)[:64]
    if "ContrastBolusAgent" in header:
        facts["contrast"] = "yes" if str(header.ContrastBolusAgent or "").strip() else "no"
    return facts
