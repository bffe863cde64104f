"""What may be said about the kept candidates, in words: level, assumption, and what does not hold."""

from __future__ import annotations

from dataclasses import dataclass

from anatrust.rejection.correction import of_maximum
from anatrust.rejection.settings import Correction, RejectionSettings

__all__ = ["Claim", "statements"]


@dataclass(frozen=True)
class Claim:
    """One sentence about the kept candidates.

    ``level`` is the error level it claims; None where it claims none (it limits, or it describes).
    """

    text: str
    level: float | None = None


_NOT_TUMOUR = Claim(
    "Different from normal tissue does not mean tumour: vessels, cysts, scars and artefacts differ too."
)
_NOT_NORMAL = Claim("A rejected candidate was not shown to be normal; only nothing was shown against it.")
_PER_SCAN = Claim("This holds scan by scan; it does not bound the share of errors pooled over many scans.")


def _rate(correction: Correction, alpha: float) -> str:
    if correction == "familywise":
        return f"the probability that any kept candidate is normal is at most {alpha:g}"
    names = {
        "bh": "Benjamini-Hochberg",
        "by": "Benjamini-Yekutieli",
        "ebh": "e-BH",
        "weighted-bh": "weighted Benjamini-Hochberg, weights by size",
        "focused-bh": "Focused Benjamini-Hochberg",
    }
    return f"the expected share of normal ones among the kept candidates is at most {alpha:g} ({names[correction]})"


def _cohort(correction: Correction, settings: RejectionSettings, patients: int) -> list[Claim]:
    alpha = settings.alpha
    if of_maximum("cohort", settings) and correction == "familywise":
        first = Claim(
            f"In a patient without lesions the probability that any candidate is kept is at most {alpha:g},"
            f" on average over cohorts, if this patient is exchangeable with the {patients} lesion-free patients"
            " of the profile and the mask comes from the same segmenter.",
            alpha,
        )
        second = Claim(
            "The same bound holds for the false candidates of a patient with lesions as far as they resemble"
            " those the segmenter proposes in lesion-free patients."
        )
        return [first, second]
    rate = _rate(correction, alpha)
    claim = (
        f"{rate[0].upper()}{rate[1:]}, if this patient is exchangeable with the {patients}"
        " lesion-free patients of the profile, the mask comes from the same segmenter, and its false"
        " candidates resemble those proposed there."
    )
    return [Claim(claim, alpha)]


def statements(
    null: str, correction: Correction, settings: RejectionSettings, *, tested: int, undecidable: int, patients: int = 0
) -> tuple[Claim, ...]:
    """Sentences for the verdict, each with the level it claims.

    Parameters
    ----------
    null, correction
        As used (not ``"auto"``).
    settings
        As asked for.
    tested, undecidable
        Candidates that reached the test, and those nothing could be said about.
    patients
        In the cohort null.

    Examples
    --------
    >>> statements("none", "familywise", RejectionSettings(), tested=0, undecidable=0)
    (Claim(text='Nothing was tested, so nothing is claimed.', level=None),)
    """
    left = []
    if undecidable:
        one = undecidable == 1
        text = (
            f"{undecidable} candidate{' is' if one else 's are'} undecidable: neither kept nor rejected,"
            " for a person to look at."
        )
        left.append(Claim(text))
    if not tested:
        text = (
            "No candidate could be decided, so nothing is claimed."
            if left
            else "Nothing was tested, so nothing is claimed."
        )
        return (Claim(text), *left)
    rate = _rate(correction, settings.alpha)
    if null == "cohort":
        said = _cohort(correction, settings, patients)
    elif null == "surrogate-max":
        text = (
            f"Approximately, {rate}, also for candidates a segmenter chose by looking at this image: each was"
            " compared with the most extreme place, of any size, of texture surrogates of its tissue."
        )
        limit = (
            "The approximation is as good as the surrogates resemble the tissue; a vessel or a second texture"
            " in the tissue is a true difference."
        )
        said = [Claim(text, settings.alpha), Claim(limit)]
    elif null == "placement":
        text = (
            f"{rate[0].upper()}{rate[1:]}, if their places were chosen without looking at this image"
            " (by another modality, in an earlier scan)."
        )
        limit = "This does not hold for candidates a segmenter chose in this image: it looks for what is odd."
        said = [Claim(text, settings.alpha), Claim(limit)]
    elif null == "iid":
        text = (
            "No error rate is guaranteed: this null treats voxels as exchangeable, which they are not"
            " (on normal CT organs it called 35 to 100 % of normal places different at 5 %)."
        )
        said = [Claim(text)]
    else:
        text = (
            "No error rate is guaranteed: this null treats blocks of voxels as exchangeable, which holds roughly"
            " at best."
        )
        said = [Claim(text)]
    if settings.order == "published" and settings.gates.enabled and correction not in ("familywise", "focused-bh"):
        text = (
            "No error rate is claimed for the kept candidates: the gates ran after the test, as published, and"
            " that breaks the false discovery rate (a simulation saw it double)."
        )
        said = [Claim(text)]
    return (*said, _PER_SCAN, *left, _NOT_NORMAL, _NOT_TUMOUR)
