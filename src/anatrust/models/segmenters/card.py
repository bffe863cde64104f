"""What a bare network expects and answers, as a small JSON file beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from anatrust.errors import FormatError, InputError
from anatrust.image.volumes import Scan

__all__ = ["NetworkCard", "read_card"]

_LARGEST = 1 << 20


@dataclass(frozen=True)
class NetworkCard:
    """How a network is fed and read.

    Parameters
    ----------
    ndim
        2 or 3. A 2-D network goes through a volume slice by slice, along the canonical last axis.
    patch
        Its window in voxels. Larger images are tiled, smaller ones padded.
    classes
        Names of its output channels, in order.
    targets
        Which of them are the target; added up (they exclude each other) or, for ``"sigmoid"``, the
        largest counts.
    output
        ``"softmax"`` or ``"sigmoid"`` (it answers logits), or ``"probabilities"``.
    spacing
        Millimetres it was trained at, along the patient's right, front and head; None takes the
        scan as it is.
    orientation
        Axis codes of the images it was trained on. ``"RAS"`` is the canonical orientation.
    window
        Grey values mapped to 0 and 1 and clipped there; None where percentiles or nothing is done.
    percentiles
        Likewise, of the region's own values.
    zscore
        Mean and deviation taken out after that, of the region's own values.
    overlap
        Share of a window that its neighbour covers too.
    channels
        Input channels; the grey image is repeated.

    Raises
    ------
    InputError
        If the values contradict each other.
    """

    ndim: Literal[2, 3]
    patch: tuple[int, ...]
    classes: tuple[str, ...]
    targets: tuple[str, ...]
    output: Literal["softmax", "sigmoid", "probabilities"] = "softmax"
    spacing: tuple[float, ...] | None = None
    orientation: str = "RAS"
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    zscore: bool = False
    overlap: float = 0.5
    channels: int = 1

    def __post_init__(self) -> None:
        if len(self.patch) != self.ndim or min(self.patch) < 1:
            raise InputError(f"a {self.ndim}-D network's patch has {self.ndim} edges, not {self.patch}")
        if self.spacing is not None and (len(self.spacing) != self.ndim or min(self.spacing) <= 0):
            raise InputError(f"a {self.ndim}-D network's spacing has {self.ndim} lengths above 0, not {self.spacing}")
        missing = [name for name in self.targets if name not in self.classes]
        if missing or not self.targets:
            raise InputError(f"the targets {list(self.targets)} are not among the classes {list(self.classes)}")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise InputError(f"the window {self.window} does not ascend")
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise InputError(f"the percentiles {self.percentiles} do not ascend within 0 to 100")
        if self.window is not None and self.percentiles is not None:
            raise InputError("grey values are cut by a window or by percentiles: give one of them")
        if not 0 <= self.overlap < 1 or self.channels < 1:
            raise InputError("windows overlap by 0 up to less than 1, and there is at least one channel")
        letters = [{"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}.get(c, 3) for c in self.orientation]
        if sorted(letters) != [0, 1, 2]:
            raise InputError(f"the orientation {self.orientation!r} is none: write for example RAS or LPS")

    @property
    def positions(self) -> tuple[int, ...]:
        """Places of the targets among the classes."""
        return tuple(self.classes.index(name) for name in self.targets)

    def scaled(self, scan: Scan) -> npt.NDArray[np.float32]:
        """The scan's grey values as the network expects them."""
        values = scan.array.astype(np.float32)
        limits = self.window
        if self.percentiles is not None:
            low, high = np.percentile(values, self.percentiles)
            limits = (float(low), float(high))
        if limits is not None:
            span = limits[1] - limits[0]
            values = np.clip((values - np.float32(limits[0])) / np.float32(span if span > 0 else 1), 0, 1)
        if self.zscore:
            deviation = float(values.std())
            values = (values - np.float32(values.mean())) / np.float32(deviation if deviation > 0 else 1)
        return np.asarray(values, dtype=np.float32)

    def to_json(self) -> dict[str, Any]:
        """The card as plain JSON values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any], where: str) -> NetworkCard:
        """A checked card.

        Raises
        ------
        FormatError
            If a key is unknown or missing, or a value has the wrong type.
        InputError
            If the values contradict each other.
        """
        unknown = sorted(set(plain) - set(cls.__dataclass_fields__))
        if unknown:
            raise FormatError(f"{where}: a network card has no key {unknown[0]!r}")
        try:
            return TypeAdapter(cls).validate_python(dict(plain))
        except ValidationError as error:
            first = error.errors()[0]
            if isinstance(cause := first.get("ctx", {}).get("error"), InputError):
                raise InputError(f"{where}: {cause}") from None
            key = ".".join(str(part) for part in first["loc"]) or "the card"
            raise FormatError(f"{where}: {key}: {first['msg']}") from None


def read_card(path: Path) -> NetworkCard:
    """The card in a JSON file.

    Raises
    ------
    InputError
        If there is no such file.
    FormatError
        If it is no card.
    """
    import json

    if not path.is_file():
        raise InputError(
            f"there is no {path.name} beside the network: write one that says how it is fed (see the how-to page)"
        )
    if path.stat().st_size > _LARGEST:
        raise FormatError(f"{path.name} is too large for a network card")
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise FormatError(f"{path.name} is no JSON: write a network card") from None
    if not isinstance(plain, dict):
        raise FormatError(f"{path.name} is no network card: write a JSON object")
    return NetworkCard.from_json(plain, path.name)
