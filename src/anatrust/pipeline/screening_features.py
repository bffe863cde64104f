"""What screening measures in a scan: the mask and its rim, crops, image quality, how sure the segmenter is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.image.orientation import canonical
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.ood.certainty import CERTAINTY_LEVELS, certainty, certainty_identity
from anatrust.ood.crops import Crops, CropSettings, NoPrediction, anchored_crops
from anatrust.ood.features import DescriptorFeatures, FeatureExtractor, HistogramFeatures, ScanFeatures, describe
from anatrust.ood.mask_features import MaskFeatures
from anatrust.ood.quality_features import QualityFeatures
from anatrust.ood.radiomics import RadiomicsFeatures

if TYPE_CHECKING:
    from anatrust.models.stage_encoders import LoadedEncoder

__all__ = ["Description", "crops_of", "make_description", "scan_name"]

Kind = Literal["mask", "descriptors", "histogram", "radiomics", "encoder"]
Beside = Literal["histogram", "mask", "quality", "certainty"]
_OF_CROPS = {"histogram", "mask"}
_WORDS = {"quality": "image quality", "certainty": "the segmenter's certainty"}


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
    beside
        What stands beside the features of ``kind``, each a part of its own: ``"histogram"`` of the same crops and
        ``"mask"`` (both under the rule ``"auto"``), where a network's averages hardly see a small bright place;
        ``"quality"`` of the whole frame as an image; ``"certainty"``, the segmenter's entropy over the mask, for which
        scans need probabilities.
    revision
        2, or 1 in profiles from before image quality was measured: their features are the same under other names.
    """

    kind: Kind
    crops: CropSettings
    encoder: LoadedEncoder | None = None
    beside: tuple[Beside, ...] = ()
    revision: Literal[1, 2] = 2

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) or (self.kind == "encoder") != (self.encoder is not None):
            raise InputError(
                f"screening measures {', '.join(get_args(Kind))}; the last needs a network, not {self.kind!r}"
            )
        for name in set(self.beside) & _OF_CROPS:
            if self.of_mask or self.kind == name:
                raise InputError(f"+{name} stands beside features of crops, not beside {self.kind}: leave one out")
        object.__setattr__(self, "beside", tuple(name for name in get_args(Beside) if name in self.beside))

    @property
    def of_mask(self) -> bool:
        """Whether the mask is measured as a whole, not in crops."""
        return self.kind in ("mask", "radiomics")

    @property
    def certainty(self) -> bool:
        """Whether scans need probabilities."""
        return "certainty" in self.beside

    @property
    def words(self) -> str:
        """What is measured, in short."""
        return " and ".join([self.kind, *(_WORDS.get(name, name) for name in self.beside)])

    @cached_property
    def _parts(self) -> Mapping[str, tuple[str, _Measure]]:
        """What is measured, part by part: its exact description, and how."""
        crops, plain = self.crops, replace(self.crops, intensity="auto")
        grey = crops.intensity if self.kind == "mask" else "auto"
        mask = MaskFeatures(intensity=grey, window=crops.window)
        radiomics = RadiomicsFeatures(crops.spacing, intensity=crops.intensity, window=crops.window)
        quality = QualityFeatures(crops.window)
        made: dict[str, tuple[str, _Measure]] = {
            "mask": (mask.identity, lambda seen: mask.of(seen.scan, seen.mask, identifier=seen.name)),
            "radiomics": (radiomics.identity, lambda seen: radiomics.of(seen.scan, seen.mask, identifier=seen.name)),
            "quality": (quality.identity, lambda seen: quality.of(seen.scan, identifier=seen.name)),
            "certainty": (certainty_identity(), _certainty),
        }
        extractors: dict[str, FeatureExtractor] = {
            "histogram": HistogramFeatures(),
            "descriptors": DescriptorFeatures(),
        }
        if self.encoder is not None:
            extractors["encoder"] = self.encoder.features
        for name, extractor in extractors.items():
            made[name] = _in_crops(extractor, crops if name == self.kind else plain)
        return {name: made[name] for name in (self.kind, *self.beside)}

    @property
    def identity(self) -> str:
        """Exact description: equal strings give equal features."""
        parts = [text for text, _ in self._parts.values()]
        if self.revision == 1 and self.of_mask:
            parts[0] += f" of crops {json.dumps(self.crops.to_json(), sort_keys=True)}"
        return " + ".join(parts)

    def of(
        self, scan: Scan, labels: LabelMap, probabilities: ProbabilityMap | None = None
    ) -> ScanFeatures | NoPrediction:
        """Features of one scan around everything its mask marks; those of the whole scan repeated for each crop.

        Raises
        ------
        InputError
            If the segmenter's certainty is measured and there are no probabilities.
        """
        seen = _Seen(scan, Mask(np.asarray(labels.array != 0), scan.grid), probabilities, scan_name(scan))
        found: dict[str, ScanFeatures] = {}
        for part, (_, measure) in self._parts.items():
            own = measure(seen)
            if isinstance(own, NoPrediction):
                return own
            found[part] = own
        rows = max(len(own.values) for own in found.values())
        values = np.concatenate([np.broadcast_to(f.values, (rows, f.values.shape[1])) for f in found.values()], axis=1)
        alike = len(found) == 1 or self.revision == 1
        levels = [
            (name if alike else f"{part}: {name}", width) for part, own in found.items() for name, width in own.levels
        ]
        return ScanFeatures(seen.name, values, tuple(levels), self.identity)

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """JSON values and plain arrays for a profile."""
        plain: dict[str, Any] = {"kind": self.kind}
        plain |= {"beside": list(self.beside)} if self.revision == 2 else dict.fromkeys(self.beside, True)
        if self.encoder is None:
            return plain, {}
        from anatrust.models.stage_encoders import encoder_to_arrays

        document, arrays = encoder_to_arrays(self.encoder)
        return {**plain, "encoder": document}, {f"encoder.{name}": value for name, value in arrays.items()}

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
        revision: Literal[1, 2] = 2 if "beside" in plain else 1
        beside = tuple(plain["beside"]) if revision == 2 else tuple(name for name in get_args(Beside) if name in plain)
        if not set(beside) <= set(get_args(Beside)):
            raise FormatError(f"the profile measures {beside}, which is newer than this version: fit again")
        if plain["kind"] != "encoder":
            return cls(plain["kind"], crops, None, beside, revision)
        from anatrust.models.stage_encoders import encoder_from_arrays

        own = {n.removeprefix("encoder."): value for n, value in arrays.items() if n.startswith("encoder.")}
        return cls("encoder", crops, encoder_from_arrays(plain["encoder"], own), beside, revision)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a part is measured in."""

    scan: Scan
    mask: Mask
    probabilities: ProbabilityMap | None
    name: str


_Measure = Callable[[_Seen], ScanFeatures | NoPrediction]


def _in_crops(extractor: FeatureExtractor, crops: CropSettings) -> tuple[str, _Measure]:
    def measured(seen: _Seen) -> ScanFeatures | NoPrediction:
        drawn = anchored_crops(seen.scan, seen.mask, crops, identifier=seen.name)
        return drawn if isinstance(drawn, NoPrediction) else describe(drawn, extractor)

    return f"{extractor.identity} of crops {json.dumps(crops.to_json(), sort_keys=True)}", measured


def _certainty(seen: _Seen) -> ScanFeatures:
    if seen.probabilities is None:
        raise InputError(
            "the segmenter's probabilities are missing (-p, or the column probabilities): the profile measures how"
            " sure the segmenter is"
        )
    return ScanFeatures(seen.name, certainty(seen.probabilities, seen.mask)[None], CERTAINTY_LEVELS, "certainty")


def make_description(features: str | Path = "mask+quality", crops: CropSettings | None = None) -> Description:
    """What to measure, by name or by the folder of a network.

    Parameters
    ----------
    features
        ``"mask"``, ``"descriptors"``, ``"histogram"``, ``"radiomics"`` (extra of that name), or a folder that
        :func:`~anatrust.models.stage_encoders.load_encoder` reads (extra ``deep``). Behind ``"descriptors"``,
        ``"histogram"`` or a folder ``"+histogram"`` puts the crops' histogram beside it and ``"+mask"`` what is in the
        mask and its rim; behind anything ``"+quality"`` the quality of the whole frame and ``"+certainty"`` the
        segmenter's entropy over the mask; in any order.
    crops
        How crops are drawn. For a network the intensity rule (and its window) becomes its own unless
        another rule than ``"auto"`` was chosen.

    Raises
    ------
    InputError
        If there is no such name or folder.
    """
    crops = crops or CropSettings()
    wanted, beside = str(features), list[Any]()
    while (name := wanted.rpartition("+")[2]) in get_args(Beside) and "+" in wanted:
        wanted = wanted.rpartition("+")[0]
        beside.append(name)
    for kind in get_args(Kind)[:4]:
        if wanted == kind:
            return Description(kind, crops, beside=tuple(beside))
    if not Path(wanted).is_dir():
        raise InputError(
            f"screening cannot measure {wanted!r}: give mask, descriptors, histogram, radiomics or a folder,"
            " and +histogram, +mask, +quality or +certainty behind it"
        )
    from anatrust.models.stage_encoders import load_encoder

    encoder = load_encoder(wanted)
    if crops.intensity == "auto":
        crops = replace(crops, intensity=encoder.intensity, window=encoder.window or crops.window)  # type: ignore[arg-type]
    return Description("encoder", crops, encoder, tuple(beside))
