"""Conformal p-values: rank a score among those of patients known to be normal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["CohortNull", "conformal_p_value"]

FloatArray = npt.NDArray[np.float64]


def conformal_p_value(calibration_scores: npt.ArrayLike, scores: npt.ArrayLike) -> FloatArray:
    """Rank scores among calibration scores: p = (1 + #{calibration ≥ score}) / (n + 1).

    Parameters
    ----------
    calibration_scores
        ``(n,)`` scores of normal cases, higher = stranger; −inf allowed (a case with nothing
        to score), NaN not.
    scores
        Scores to judge, any shape; a single number gives a 0-d array.

    Returns
    -------
    float64 array of the shape of `scores`, values in [1/(n+1), 1]. Ties count as
    exceedances, so discrete scores are safe.

    Raises
    ------
    InputError
        If a score is NaN or `calibration_scores` is not one-dimensional.

    Guarantee
    ---------
    If a normal case's score is exchangeable with the calibration scores, P(p ≤ t) ≤ t for
    every t, on average over calibrations (not for this one calibration). Several p-values
    that share a calibration are positively dependent (PRDS) when their scores are
    independent, so Benjamini–Hochberg applies to them.

    Notes
    -----
    O((n + k) log n).

    References
    ----------
    Bates, Candès, Lei, Romano, Sesia. Testing for outliers with conformal p-values.
    Annals of Statistics 51 (2023), eq. 2 and theorem 1.

    Examples
    --------
    >>> conformal_p_value([0.1, 0.4, 0.2, 0.3], [0.35, 9.0]).tolist()
    [0.4, 0.2]
    """
    calibration = np.asarray(calibration_scores, dtype=np.float64)
    judged = np.asarray(scores, dtype=np.float64)
    if calibration.ndim != 1:
        raise InputError(f"calibration scores must be one-dimensional, not of shape {calibration.shape}")
    if np.isnan(calibration).any() or np.isnan(judged).any():
        raise InputError("a score is NaN: score every case, or use -inf for a case with nothing to score")
    ordered = np.sort(calibration)
    n = ordered.size
    at_least = n - np.searchsorted(ordered, judged, side="left")
    return np.asarray((1 + at_least) / (n + 1), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class CohortNull:
    """Scores of the candidates that a segmenter proposed in lesion-free patients.

    The null hypothesis made of it is "this candidate is one of those the segmenter invents in
    healthy people", so it stays true for candidates that the segmenter chose by looking at
    the image: those in the cohort were chosen the same way.

    Parameters
    ----------
    per_patient
        One array of candidate scores (higher = stranger) for each lesion-free patient, empty
        where the segmenter proposed nothing. All must be computed by the same code and with
        the same settings as the scores to be judged. Never two entries of one patient.

    Raises
    ------
    InputError
        If there is no patient, an entry is not one-dimensional, or a score is NaN.

    Guarantee
    ---------
    With patients exchangeable (the new one, if lesion-free, included):

    * `p_value` (per-patient maximum): P(p ≤ t for *any* of the patient's candidates) ≤ t,
      whatever the number, the selection and the dependence of the candidates. No further
      multiplicity correction is needed within the patient.
    * `p_value_random` (one random candidate of each patient that has some): P(p ≤ t) ≤ t for a
      randomly drawn candidate of a patient that has candidates. For several candidates use
      Benjamini–Hochberg; its proof needs candidates that are independent given the
      patients (simulated with dependence in the tests).

    Both hold on average over calibrations, not for the one cohort in hand: what that one
    realises of a level varies as Beta(k, n + 1 − k), k = ⌊level · (n + 1)⌋. With n = 79 at 0.10
    it lies between 0.045 and 0.174 in 95 % of cohorts, see
    `anatrust.statistics.realised_level.realised_level`. A floor of 1/(n+1) is all that n
    patients allow.

    References
    ----------
    Bates et al. 2023 (as in `conformal_p_value`). The maximum over a unit as its
    conformal score: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005,
    section 2.2 (any score of the whole exchangeable unit keeps the guarantee).

    Examples
    --------
    >>> import numpy as np
    >>> null = CohortNull((np.array([0.1, 0.9]), np.array([]), np.array([0.4])))
    >>> null.n_patients, null.floor
    (3, 0.25)
    >>> null.p_value(0.5)
    0.5
    """

    per_patient: tuple[FloatArray, ...]

    def __post_init__(self) -> None:
        patients = []
        for index, scores in enumerate(self.per_patient):
            array = np.array(scores, dtype=np.float64)
            if array.ndim != 1:
                raise InputError(f"patient {index}: candidate scores must be one-dimensional, not {array.shape}")
            if np.isnan(array).any():
                raise InputError(f"patient {index}: a candidate score is NaN; score it or leave the candidate out")
            array.setflags(write=False)
            patients.append(array)
        if not patients:
            raise InputError("a cohort null needs at least one lesion-free patient")
        object.__setattr__(self, "per_patient", tuple(patients))

    @property
    def n_patients(self) -> int:
        """Number of lesion-free patients, those without candidates included."""
        return len(self.per_patient)

    @property
    def n_patients_with_candidates(self) -> int:
        """Number of lesion-free patients in whom the segmenter proposed something."""
        return sum(scores.size > 0 for scores in self.per_patient)

    @property
    def n_candidates(self) -> int:
        """Number of candidates over all patients."""
        return sum(scores.size for scores in self.per_patient)

    @property
    def floor(self) -> float:
        """Smallest p-value `p_value` can give: 1 / (patients + 1)."""
        return 1.0 / (self.n_patients + 1)

    @property
    def floor_random(self) -> float:
        """Smallest p-value `p_value_random` can give: 1 / (patients with candidates + 1)."""
        return 1.0 / (self.n_patients_with_candidates + 1)

    @cached_property
    def maxima(self) -> FloatArray:
        """``(n_patients,)`` largest score of each patient, −inf where there was no candidate."""
        maxima = np.array([scores.max() if scores.size else -np.inf for scores in self.per_patient])
        maxima.setflags(write=False)
        return maxima

    def p_value(self, score: float) -> float:
        """p-value of one candidate against the per-patient maxima (the default).

        Parameters
        ----------
        score
            The candidate's score, higher = stranger.

        Raises
        ------
        InputError
            If `score` is NaN.
        """
        return float(conformal_p_value(self.maxima, score))

    def p_values(self, scores: npt.ArrayLike) -> FloatArray:
        """As `p_value`, for an array of scores."""
        return conformal_p_value(self.maxima, scores)

    def random_draw(self, seed: int) -> FloatArray:
        """One random candidate score of each patient that has candidates.

        Parameters
        ----------
        seed
            The same seed gives the same draw. Judge all candidates of one scan with one draw.

        Returns
        -------
        ``(n_patients_with_candidates,)`` float64.
        """
        rng = np.random.default_rng(seed)
        return np.array([rng.choice(scores) for scores in self.per_patient if scores.size], dtype=np.float64)

    def p_value_random(self, score: float, seed: int) -> float:
        """p-value of one candidate against one random candidate of each patient.

        Patients without candidates are left out (a random candidate exists only given that
        there is one), which makes the p-value larger, never smaller.

        Parameters
        ----------
        score
            The candidate's score, higher = stranger.
        seed
            Seed of the draw; use one seed for all candidates of a scan.

        Raises
        ------
        InputError
            If `score` is NaN.
        """
        return float(conformal_p_value(self.random_draw(seed), score))

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Plain arrays for a file: ``scores`` (float64, all patients) and ``offsets`` (int64, n + 1)."""
        sizes = [scores.size for scores in self.per_patient]
        return {
            "scores": np.concatenate(self.per_patient),
            "offsets": np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> CohortNull:
        """Make the null again from what `to_arrays` gave.

        Parameters
        ----------
        arrays
            Holds ``scores`` and ``offsets``.

        Raises
        ------
        InputError
            If an array is missing or the offsets do not fit the scores.
        """
        missing = {"scores", "offsets"} - set(arrays)
        if missing:
            raise InputError(f"the cohort null lacks the array '{min(missing)}': fit the profile again")
        scores, offsets = np.asarray(arrays["scores"], dtype=np.float64), np.asarray(arrays["offsets"])
        if (
            offsets.ndim != 1
            or offsets.size < 2
            or offsets[0] != 0
            or offsets[-1] != scores.size
            or (np.diff(offsets) < 0).any()
        ):
            raise InputError("the cohort null's offsets do not fit its scores: the file is damaged, fit it again")
        return cls(tuple(np.split(scores, offsets[1:-1].astype(np.int64))))
