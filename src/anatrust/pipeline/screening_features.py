"""What screening measures in a scan: the mask and its rim, crops around it, how sure the segmenter is of it."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from anatrust._version import __version__
from anatrust.errors import FormatError, InputError
from anatrust.image.atomic import replacing
from anatrust.image.orientation import canonical
from anatrust.image.read import read_mask, read_probabilities, read_scan
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.ood.certainty import CERTAINTY_LEVELS, certainty, certainty_identity
from anatrust.ood.crops import Crops, CropSettings, NoPrediction, anchored_crops
from anatrust.ood.features import (
    DescriptorFeatures,
    FeatureExtractor,
    HistogramFeatures,
    ScanFeatures,
    describe,
    joined,
)
from anatrust.ood.mask_features import MaskFeatures
from anatrust.ood.radiomics import RadiomicsFeatures
from anatrust.pipeline.case import content_hash
from anatrust.pipeline.cohort import CohortRow
from anatrust.pipeline.finding import Finding, worst
from anatrust.pipeline.inspect import inspect_scan

if TYPE_CHECKING:
    from anatrust.models.stage_encoders import LoadedEncoder

__all__ = ["Description", "FeatureCache", "Refused", "crops_of", "make_description", "row_features", "scan_name"]

_CACHE_SCHEMA = 2
_BESIDE = ("histogram", "mask", "certainty")
Kind = Literal["mask", "descriptors", "histogram", "radiomics", "encoder"]


@dataclass(frozen=True)
class Refused:
    """The input gate found an error: the scan is not screened at all."""

    findings: tuple[Finding, ...]

    @property
    def reason(self) -> str:
        """The first error in words."""
        return next(f.sentence for f in self.findings if f.severity == "error")


def scan_name(scan: Scan) -> str:
    """A name made of the voxels alone, the same under any file name and storage order.

    It seeds the crops, so no name of a person or file enters a profile.
    """
    array, _ = canonical(scan.array, scan.grid)
    own = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return f"scan {own.hexdigest()[:12]}"


def crops_of(scan: Scan, labels: LabelMap, crops: CropSettings) -> Crops | NoPrediction:
    """The crops around everything the mask marks, the same at every call."""
    mask = Mask(np.asarray(labels.array != 0), scan.grid)
    return anchored_crops(scan, mask, crops, identifier=scan_name(scan))


@dataclass(frozen=True, eq=False)
class Description:
    """How a scan becomes numbers; part of a profile, encoder included.

    Parameters
    ----------
    kind
        ``"mask"`` (local descriptors in the mask and its rim) and ``"radiomics"`` measure the mask as a whole,
        ``"descriptors"``, ``"histogram"`` and ``"encoder"`` crops around it.
    crops
        How crops are drawn and scaled; what measures the mask takes spacing and scaling from it.
    encoder
        The network for ``"encoder"``.
    histogram
        Whether the histogram of the same crops (under the rule ``"auto"``) stands beside the features: a network's
        averages hardly see a small bright place, a histogram does.
    mask
        Whether the features of kind ``"mask"`` (under the rule ``"auto"``) stand beside those of crops.
    certainty
        Whether the segmenter's entropy over the mask stands beside the features; scans need probabilities then.
    """

    kind: Kind
    crops: CropSettings
    encoder: LoadedEncoder | None = None
    histogram: bool = False
    mask: bool = False
    certainty: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) or (self.kind == "encoder") != (self.encoder is not None):
            raise InputError(
                f"screening measures {', '.join(get_args(Kind))}; the last needs a network, not {self.kind!r}"
            )
        if self.histogram and (self.of_mask or self.kind == "histogram"):
            raise InputError(f"a histogram stands beside features of crops, not beside {self.kind}: leave one out")
        if self.mask and self.of_mask:
            raise InputError(f"the mask stands beside features of crops, not beside {self.kind}: leave one out")

    @property
    def of_mask(self) -> bool:
        """Whether the mask is measured as a whole, not in crops."""
        return self.kind in ("mask", "radiomics")

    @property
    def words(self) -> str:
        """What is measured, in short."""
        beside = {"histogram": self.histogram, "mask": self.mask, "the segmenter's certainty": self.certainty}
        return " and ".join([self.kind, *(name for name, there in beside.items() if there)])

    @cached_property
    def _extractor(self) -> FeatureExtractor:
        if self.encoder is not None:
            return self.encoder.features
        return HistogramFeatures() if self.kind == "histogram" else DescriptorFeatures()

    @cached_property
    def _whole(self) -> MaskFeatures | RadiomicsFeatures:
        crops = self.crops
        if self.kind == "radiomics":
            return RadiomicsFeatures(crops.spacing, intensity=crops.intensity, window=crops.window)
        return MaskFeatures(intensity=crops.intensity if self.kind == "mask" else "auto", window=crops.window)

    @property
    def identity(self) -> str:
        """Exact description: equal strings give equal features."""
        own = self._whole if self.of_mask else self._extractor
        beside = [(HistogramFeatures(), self._plain)] if self.histogram else []
        parts = [(own.identity, self.crops), *((extra.identity, crops) for extra, crops in beside)]
        text = " + ".join(f"{name} of crops {json.dumps(c.to_json(), sort_keys=True)}" for name, c in parts)
        text += f" + {self._whole.identity}" * self.mask
        return text + f" + {certainty_identity()}" * self.certainty

    @property
    def _plain(self) -> CropSettings:
        return replace(self.crops, intensity="auto")

    def of(
        self, scan: Scan, labels: LabelMap, probabilities: ProbabilityMap | None = None
    ) -> ScanFeatures | NoPrediction:
        """Features of one scan around everything its mask marks.

        Raises
        ------
        InputError
            If the segmenter's certainty is measured and there are no probabilities.
        """
        if self.certainty and probabilities is None:
            raise InputError(
                "the segmenter's probabilities are missing (-p, or the column probabilities): the profile measures how"
                " sure the segmenter is"
            )
        mask = Mask(np.asarray(labels.array != 0), scan.grid)
        found = self._whole.of(scan, mask, identifier=scan_name(scan)) if self.of_mask else self._in_crops(scan, labels)
        if isinstance(found, NoPrediction):
            return found
        parts, levels = [found.values], found.levels
        if self.mask:
            local = self._whole.of(scan, mask, identifier=found.identifier)
            if isinstance(local, NoPrediction):
                return local
            parts, levels = [*parts, local.values], (*levels, *local.levels)
        if self.certainty and probabilities is not None:
            parts, levels = [*parts, certainty(probabilities, mask)[None]], (*levels, *CERTAINTY_LEVELS)
        rows = [np.broadcast_to(part, (len(found.values), part.shape[1])) for part in parts]
        return ScanFeatures(found.identifier, np.concatenate(rows, axis=1), levels, self.identity)

    def _in_crops(self, scan: Scan, labels: LabelMap) -> ScanFeatures | NoPrediction:
        drawn = crops_of(scan, labels, self.crops)
        if isinstance(drawn, NoPrediction):
            return drawn
        found = describe(drawn, self._extractor)
        if not self.histogram:
            return found
        plain = crops_of(scan, labels, self._plain)
        return plain if isinstance(plain, NoPrediction) else joined([found, describe(plain, HistogramFeatures())])

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values and plain arrays for a profile."""
        beside = {name: True for name in _BESIDE if getattr(self, name)}
        if self.encoder is None:
            return {"kind": self.kind, **beside}, {}
        from anatrust.models.stage_encoders import encoder_to_arrays

        document, arrays = encoder_to_arrays(self.encoder)
        return {"kind": self.kind, **beside, "encoder": document}, {
            f"encoder.{name}": value for name, value in arrays.items()
        }

    @classmethod
    def from_arrays(
        cls, plain: Mapping[str, Any], crops: CropSettings, arrays: Mapping[str, npt.NDArray[Any]]
    ) -> Description:
        """The description :meth:`to_arrays` wrote.

        Raises
        ------
        FormatError
            If the network is damaged or of a newer kind.
        """
        beside: dict[str, Any] = {name: bool(plain.get(name, False)) for name in _BESIDE}
        if plain["kind"] != "encoder":
            return cls(plain["kind"], crops, **beside)
        from anatrust.models.stage_encoders import encoder_from_arrays

        own = {n.removeprefix("encoder."): value for n, value in arrays.items() if n.startswith("encoder.")}
        return cls("encoder", crops, encoder_from_arrays(plain["encoder"], own), **beside)


def make_description(features: str | Path = "mask", crops: CropSettings | None = None) -> Description:
    """What to measure, by name or by the folder of a network.

    Parameters
    ----------
    features
        ``"mask"``, ``"descriptors"``, ``"histogram"``, ``"radiomics"`` (extra of that name), or a folder that
        :func:`~anatrust.models.stage_encoders.load_encoder` reads (extra ``deep``). ``"+histogram"`` behind
        ``"descriptors"`` or a folder puts the crops' histogram beside it, ``"+mask"`` what is in the mask and its
        rim, ``"+certainty"`` behind anything the segmenter's entropy over the mask; in any order.
    crops
        How crops are drawn. For a network the intensity rule (and its window) becomes its own unless
        another rule than ``"auto"`` was chosen.

    Raises
    ------
    InputError
        If there is no such name or folder.
    """
    crops = crops or CropSettings()
    wanted, beside = str(features), dict[str, Any]()
    while (name := wanted.rpartition("+")[2]) in _BESIDE and "+" in wanted:
        wanted, beside[name] = wanted.rpartition("+")[0], True
    for kind in get_args(Kind)[:4]:
        if wanted == kind:
            return Description(kind, crops, **beside)
    if not Path(wanted).is_dir():
        raise InputError(
            f"screening cannot measure {wanted!r}: give mask, descriptors, histogram, radiomics or a folder,"
            " and +histogram, +mask or +certainty behind it"
        )
    from anatrust.models.stage_encoders import load_encoder

    encoder = load_encoder(wanted)
    if crops.intensity == "auto":
        crops = replace(crops, intensity=encoder.intensity, window=encoder.window or crops.window)  # type: ignore[arg-type]
    return Description("encoder", crops, encoder, **beside)


@dataclass(frozen=True)
class FeatureCache:
    """Features of scans on disk, one file a scan, named by what they were made from.

    Each file is written whole or not at all, so a killed run goes on where it stopped, and several
    processes may share a folder. Its header says from which bytes, with which description and by which
    version it was made; a file that is damaged or says otherwise is made again. No pickle.
    """

    folder: Path

    def key(self, row: CohortRow, description: Description, modality: str | None) -> str:
        """A name of the row's bytes, the description and this version."""
        return hashlib.sha256(json.dumps(self._header(row, description, modality), sort_keys=True).encode()).hexdigest()

    def _header(self, row: CohortRow, description: Description, modality: str | None) -> dict[str, Any]:
        return {
            "schema": _CACHE_SCHEMA,
            "anatrust": __version__,
            "image": content_hash(row.image),
            "mask": _content(row.mask),
            "description": description.identity,
            **({"probabilities": _content(row.probabilities)} if description.certainty else {}),
            "modality": modality,
        }

    def read(
        self, row: CohortRow, description: Description, modality: str | None
    ) -> ScanFeatures | NoPrediction | None:
        """What is kept of this row; None where nothing (usable) is."""
        file = self.folder / f"screening-{self.key(row, description, modality)}.npz"
        try:
            with file.open("rb") as handle, np.load(handle, allow_pickle=False) as kept:
                arrays = dict(kept)
            provenance = json.loads(arrays.pop("provenance").tobytes())
            nothing = provenance.pop("no_prediction", None)
            if provenance != self._header(row, description, modality):
                return None
            return NoPrediction(*nothing) if nothing else ScanFeatures.from_arrays(arrays)
        except (
            FormatError,
            OSError,
            EOFError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            BadZipFile,
            zlib.error,
        ):
            return None

    def write(
        self, row: CohortRow, description: Description, modality: str | None, found: ScanFeatures | NoPrediction
    ) -> None:
        """Keep what was found."""
        provenance = self._header(row, description, modality)
        arrays: dict[str, npt.NDArray[Any]] = {}
        if isinstance(found, NoPrediction):
            provenance["no_prediction"] = [found.identifier, found.reason]
        else:
            arrays = found.to_arrays()
        arrays["provenance"] = np.frombuffer(json.dumps(provenance, sort_keys=True).encode(), dtype=np.uint8)
        file = self.folder / f"screening-{self.key(row, description, modality)}.npz"
        with replacing(file) as part, part.open("wb") as handle:
            np.savez(handle, **arrays)  # type: ignore[arg-type]


def row_features(
    row: CohortRow, description: Description, *, modality: str | None = None, cache: FeatureCache | None = None
) -> ScanFeatures | NoPrediction | Refused:
    """Features of one row of a cohort, from the cache where they are.

    A row known to be an outlier passes the input gate whatever it finds: it is there because it is strange.

    Raises
    ------
    AnatrustError
        If a file cannot be read or the mask is missing.
    """
    if row.mask is None:
        raise InputError("the mask is missing: screening looks where the segmenter drew")
    if cache is not None and (kept := cache.read(row, description, modality)) is not None:
        return kept
    scan = read_scan(row.image, modality=modality)
    labels = read_mask(row.mask, reference=scan.grid)
    findings = tuple(inspect_scan(scan, labels))
    if not row.outlier and worst(findings) == "error":
        return Refused(findings)
    soft = None
    if description.certainty and row.probabilities is not None:
        soft = read_probabilities(row.probabilities, reference=scan.grid)
    found = description.of(scan, labels, soft)
    if cache is not None:
        cache.write(row, description, modality, found)
    return found


def _content(file: Path | None) -> str | None:
    return None if file is None else content_hash(file)
