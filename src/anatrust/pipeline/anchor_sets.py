"""Conformal sets of an anchor organ: the outer one as region, the inner one as normal tissue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anatrust.anatomy.knowledge import knowledge
from anatrust.anatomy.plausibility import structure_of
from anatrust.conformal.sets import PredictionSet
from anatrust.errors import InputError
from anatrust.image.volumes import Scan
from anatrust.models.anchor import Anchor
from anatrust.models.descriptors import LocalDescriptors
from anatrust.pipeline.finding import Finding
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.sets import DescribedScan

__all__ = ["with_sets"]


def with_sets(
    anchors: Sequence[Anchor], scan: Scan, profile: Profile
) -> tuple[dict[str, PredictionSet], tuple[Finding, ...]]:
    """Both sets of each anchor that the profile can promise something about.

    Parameters
    ----------
    anchors
        Found ones.
    scan
        The scan they lie in.
    profile
        Its sets must have been fitted on masks of the same organ ("graded masks"); of others it is
        said that they were left alone.

    Returns
    -------
    dict, findings
        Sets by structure, only where both are feasible; an infeasible or missing one is said.

    Guarantee
    ---------
    That of the sets, over patients like those calibrated on: the outer set misses at most α of
    the organ on average. Where the profile's patients had no tumours there, it says nothing about
    organs that have one: segmenters lose exactly the diseased part.

    Raises
    ------
    InputError
        If the profile's sets were fitted with another version of the descriptors.
    """
    section = profile.sets
    if section is None or not section.graded_masks:
        return {}, (_unused(anchors),)
    encoder = LocalDescriptors()
    if section.encoder != encoder.identity:
        raise InputError("the profile's sets were fitted with another version of the descriptors: fit it again")
    found: dict[str, PredictionSet] = {}
    said = []
    for calibration in section.calibrations:
        key = structure_of(calibration.structure)
        for anchor in anchors:
            if anchor.structure != key or anchor.mask is None:
                continue
            channel = anchor.mask.array.astype(np.float32)
            both = calibration.predict(channel, scan.array, scan.grid, DescribedScan(scan, encoder))
            if all(both.feasible) and both.inner.array.any():
                found[anchor.structure] = both
            else:
                said.append(
                    Finding(
                        "info",
                        "anchor-sets-infeasible",
                        f"The profile's sets of the {calibration.structure} promise nothing here, so the organ's mask "
                        "itself was used.",
                        "Fit the profile on more patients.",
                    )
                )
    if not found and not said:
        said.append(_unused(anchors))
    return found, tuple(said)


def _unused(anchors: Sequence[Anchor]) -> Finding:
    names = ", ".join(knowledge().structure(anchor.structure).name for anchor in anchors)
    return Finding(
        "warning",
        "anchor-sets-missing",
        f"The anchor profile holds no sets of the {names} that were graded from masks, so it was not used.",
        "Fit it on masks of the organ, without probabilities, and with its truth; or leave --anchor-profile out.",
    )
