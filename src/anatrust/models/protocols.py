"""The shapes frozen models must have to be used here; later methods add to this page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from anatrust.image.region import Region
from anatrust.image.volumes import LabelMap, ProbabilityMap, Scan
from anatrust.models.anchor import Anchor
from anatrust.models.annotation import Annotation, NamedRegion, Reference
from anatrust.models.planner import Planner
from anatrust.models.segmentation import Capabilities, Prompt

__all__ = ["AnchorProvider", "Encoder", "Planner", "Reasoner", "RegionNamer", "Segmenter"]


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


@runtime_checkable
class Segmenter(Protocol):
    """A frozen model that draws one target inside a region of a scan.

    ``name`` is the registry name, ``identity`` says exactly which model answers (for learned ones
    with the weights' hash) and stands in ``run.json`` and in profiles. Every implementation that
    runs in this process passes the battery in ``tests/models/conftest.py``: its answer lies on the region's grid,
    does not depend on how the file stores its axes, is the same every time, and is bounded in
    memory by tiles, however large the region is.
    """

    @property
    def name(self) -> str:
        """Its name in the registry."""

    @property
    def identity(self) -> str:
        """Exact description of the model."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can be asked."""

    def segment(self, scan: Scan, prompt: Prompt, region: Region) -> ProbabilityMap:
        """Probability of the target, one channel on ``crop_grid(scan.grid, region)``.

        Raises
        ------
        InputError
            If it cannot read such a scan, or has no words for the target.
        """


@runtime_checkable
class AnchorProvider(Protocol):
    """Finds organs in a scan.

    A provider answers for every structure it is asked for: one that it does not find, or does not
    know, is an :class:`~anatrust.models.anchor.Anchor` that is missing, with the reason. It checks
    nothing but what it alone knows (its own probabilities, the agreement of its views); whether the
    organ can be a person's is checked for all providers alike by :mod:`anatrust.pipeline.anchors`.
    """

    @property
    def name(self) -> str:
        """Its name in the registry."""

    @property
    def identity(self) -> str:
        """Exact description: settings, and the weights' hash of learned ones."""

    def find(self, scan: Scan, structures: Sequence[str]) -> tuple[Anchor, ...]:
        """One anchor for each structure (identifiers of the knowledge table), in their order.

        Raises
        ------
        InputError
            If the provider cannot be used at all (a file is unreadable, a package is not installed).
        """


@runtime_checkable
class Reasoner(Protocol):
    """Finds the structures of labelled references in a scan of another patient.

    The answer lies on the target's grid, does not depend on how the files store their axes, and
    is the same every time. A structure that is not there is null, with the reason; a reasoner that
    has no suitable reference abstains instead of drawing.
    """

    @property
    def name(self) -> str:
        """Its name in the registry."""

    @property
    def identity(self) -> str:
        """Exact description: settings, and the weights' hash of learned ones."""

    def annotate(
        self,
        target: Scan,
        references: Sequence[Reference],
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Annotation:
        """Names, boxes, masks, relations and confidences of the references' structures.

        Raises
        ------
        InputError
            If the references cannot be used with this target.
        """


@runtime_checkable
class RegionNamer(Protocol):
    """A reasoner that can be asked what an outlined region is."""

    def name_regions(self, target: Scan, regions: LabelMap, references: Sequence[Reference]) -> tuple[NamedRegion, ...]:
        """A name, or why there is none, for each region."""
