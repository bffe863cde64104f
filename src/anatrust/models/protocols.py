"""The shapes frozen models must have to be used here; later methods add to this page."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from anatrust.image.volumes import Scan
from anatrust.models.planner import Planner

__all__ = ["Encoder", "Planner"]


@runtime_checkable
class Encoder(Protocol):
    """Turns a scan into one feature vector per voxel.

    ``name`` is the registry name. ``identity`` says exactly which encoder made the features
    (name, settings, for learned ones the weights' hash): equal identities give equal features,
    so it is stored with everything fitted on them.
    """

    @property
    def name(self) -> str:
        """Its name in the registry."""

    @property
    def identity(self) -> str:
        """Exact description of the encoder; stored in profiles and compared on loading."""

    def encode(self, scan: Scan) -> npt.NDArray[np.floating[Any]]:
        """Features of shape ``(*scan.grid.shape, d)``, finite floats."""
