"""Which lesions were found: matching of truth and prediction, component by component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError
from anatrust.metrics.edge_cases import EdgeCases

__all__ = ["LesionMatching", "MatchingRule", "label_lesions", "match_lesions"]

MatchingRule = Literal["any-overlap", "iou", "hungarian"]


@dataclass(frozen=True)
class LesionMatching:
    """Truth lesions and predicted lesions, brought together by a stated rule.

    Parameters
    ----------
    pairs
        ``(truth label, predicted label, IoU)`` of each match, by truth label. One-to-one for
        ``"iou"`` and ``"hungarian"``; for ``"any-overlap"`` a lesion may stand in several pairs.
    missed, invented
        Truth labels without a match; predicted labels without a match (false positives).
    merges, splits
        Predicted lesions that overlap two or more truth lesions; truth lesions that two or more
        predicted ones overlap. Counted by overlap, whatever the rule.
    n_truth, n_prediction
        Lesions on each side.
    rule, threshold
        How pairs were made; the threshold is the smallest IoU of a pair (0 for any-overlap).
    """

    pairs: tuple[tuple[int, int, float], ...]
    missed: tuple[int, ...]
    invented: tuple[int, ...]
    merges: int
    splits: int
    n_truth: int
    n_prediction: int
    rule: MatchingRule
    threshold: float

    @property
    def found(self) -> int:
        """Truth lesions with a match."""
        return self.n_truth - len(self.missed)

    @property
    def confirmed(self) -> int:
        """Predicted lesions with a match."""
        return self.n_prediction - len(self.invented)

    def sensitivity(self, edge_cases: EdgeCases = EdgeCases()) -> float:
        """Found lesions / truth lesions."""
        return self.found / self.n_truth if self.n_truth else edge_cases.rate_undefined

    def precision(self, edge_cases: EdgeCases = EdgeCases()) -> float:
        """Confirmed lesions / predicted lesions."""
        return self.confirmed / self.n_prediction if self.n_prediction else edge_cases.rate_undefined

    def f1(self, edge_cases: EdgeCases = EdgeCases()) -> float:
        """Lesion F1: (found + confirmed) / (truth lesions + predicted lesions).

        For one-to-one rules this is the usual 2 TP / (2 TP + FP + FN).
        """
        total = self.n_truth + self.n_prediction
        return (self.found + self.confirmed) / total if total else edge_cases.lesions_both_empty

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "rule": self.rule,
            "threshold": self.threshold,
            "truth": self.n_truth,
            "prediction": self.n_prediction,
            "found": self.found,
            "invented": len(self.invented),
            "merges": self.merges,
            "splits": self.splits,
        }


def label_lesions(mask: npt.NDArray[np.bool_], *, connectivity: int | None = None) -> npt.NDArray[np.integer[Any]]:
    """Number the connected components of a mask from 1.

    Parameters
    ----------
    mask
        Boolean array, 2-D or 3-D.
    connectivity
        4 or 8 in 2-D; 6, 18 or 26 in 3-D. None: 8 and 26 (corners connect).

    Returns
    -------
    numpy.ndarray
        Unsigned integer array of the same shape. Cost: one pass (connected-components-3d).

    Raises
    ------
    InputError
        If the mask is not boolean, or the connectivity does not fit its axes.

    Examples
    --------
    >>> label_lesions(np.eye(3, dtype=bool), connectivity=4).max()
    np.uint16(3)
    """
    import cc3d

    mask = np.asarray(mask)
    allowed = {2: (8, 4), 3: (26, 18, 6)}.get(mask.ndim)
    if mask.dtype != np.bool_ or allowed is None:
        raise InputError(f"lesions are components of a 2-D or 3-D boolean mask, not {mask.ndim}-D {mask.dtype}")
    if connectivity is not None and connectivity not in allowed:
        raise InputError(f"connectivity {connectivity} in {mask.ndim}-D: choose one of {sorted(allowed)}")
    # cc3d 4.1.1 mislabels boolean arrays (2-D, 8-connected) and refuses read-only ones; bytes are right.
    labels: npt.NDArray[np.integer[Any]] = cc3d.connected_components(
        mask.astype(np.uint8), connectivity=connectivity or allowed[0]
    )
    return labels


def _instances(array: npt.NDArray[Any], what: str, connectivity: int | None) -> npt.NDArray[np.integer[Any]]:
    array = np.asarray(array)
    if array.dtype == np.bool_:
        return label_lesions(array, connectivity=connectivity)
    if array.dtype.kind not in "iu" or (array.dtype.kind == "i" and array.size and array.min() < 0):
        raise InputError(f"the {what} is {array.dtype}: give a boolean mask, or lesions numbered from 1 (0: none)")
    return array


def _one_to_one(overlap: npt.NDArray[np.float64], rule: MatchingRule, threshold: float) -> list[tuple[int, int]]:
    """Pairs of row and column with IoU ≥ threshold, each row and column at most once."""
    eligible = np.where(overlap >= threshold, overlap, 0.0)
    if rule == "hungarian":
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(eligible, maximize=True)
        return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if eligible[r, c] > 0]
    # The best pair first; ties by lower truth number, then lower predicted number.
    free_row, free_column = np.ones(len(overlap), bool), np.ones(overlap.shape[1], bool)
    pairs = []
    for row, column in sorted(zip(*np.nonzero(eligible), strict=True), key=lambda rc: (-eligible[rc], rc)):
        if free_row[row] and free_column[column]:
            free_row[row] = free_column[column] = False
            pairs.append((int(row), int(column)))
    return pairs


def match_lesions(
    truth: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    *,
    rule: MatchingRule = "any-overlap",
    threshold: float = 0.5,
    connectivity: int | None = None,
) -> LesionMatching:
    """Match the lesions of a truth with those of a prediction.

    Parameters
    ----------
    truth, prediction
        Arrays of one shape: boolean masks (their components are the lesions) or integer arrays
        that number the lesions (0: none).
    rule
        ``"any-overlap"``: a shared voxel is a match, many to many. ``"iou"``: one to one, the
        pair of highest IoU first, down to ``threshold``. ``"hungarian"``: one to one, the
        assignment of highest total IoU among pairs that reach ``threshold``. From 0.5 up a
        lesion has at most one partner and the last two rules agree.
    threshold
        Smallest IoU of a pair, in (0, 1]; unused by ``"any-overlap"``.
    connectivity
        For boolean masks, see :func:`label_lesions`.

    Returns
    -------
    LesionMatching
        Cost: one pass over the foreground; hungarian: cubic in the number of lesions.

    Raises
    ------
    InputError
        If an array is neither a mask nor numbered lesions, or the rule or threshold is unknown.
    GeometryError
        If the shapes differ.

    Examples
    --------
    >>> truth = np.array([[1, 1, 0, 2, 2, 0]])
    >>> prediction = np.array([[1, 1, 1, 1, 0, 0]])
    >>> m = match_lesions(truth, prediction, rule="iou")
    >>> m.pairs, m.missed, m.merges, round(m.f1(), 3)
    (((1, 1, 0.5),), (2,), 1, 0.667)
    """
    if rule not in get_args(MatchingRule):
        raise InputError(f"matching rule {rule!r}: choose 'any-overlap', 'iou' or 'hungarian'")
    if rule == "any-overlap":
        threshold = 0.0
    elif not 0 < threshold <= 1:
        raise InputError(f"the IoU threshold is {threshold:g}: give a number above 0 and up to 1")
    a, b = _instances(truth, "truth", connectivity), _instances(prediction, "prediction", connectivity)
    if a.shape != b.shape:
        raise GeometryError(f"truth {a.shape} and prediction {b.shape} differ in shape: resample one")
    a, b = a.ravel(), b.ravel()
    here = np.flatnonzero((a != 0) | (b != 0))
    numbers_a, a_index = np.unique(a[here], return_inverse=True)
    numbers_b, b_index = np.unique(b[here], return_inverse=True)
    table = np.bincount(a_index * len(numbers_b) + b_index, minlength=len(numbers_a) * len(numbers_b))
    table = table.reshape(len(numbers_a), len(numbers_b))
    size_a, size_b = table.sum(axis=1)[numbers_a != 0], table.sum(axis=0)[numbers_b != 0]
    shared = table[numbers_a != 0][:, numbers_b != 0]
    truth_labels, predicted_labels = numbers_a[numbers_a != 0], numbers_b[numbers_b != 0]
    overlap = shared / (size_a[:, None] + size_b[None, :] - shared)
    if rule == "any-overlap":
        pairs = [(int(r), int(c)) for r, c in zip(*np.nonzero(shared), strict=True)]
    else:
        pairs = sorted(_one_to_one(overlap, rule, threshold))
    rows, columns = {r for r, _ in pairs}, {c for _, c in pairs}
    return LesionMatching(
        pairs=tuple((int(truth_labels[r]), int(predicted_labels[c]), float(overlap[r, c])) for r, c in pairs),
        missed=tuple(int(v) for r, v in enumerate(truth_labels) if r not in rows),
        invented=tuple(int(v) for c, v in enumerate(predicted_labels) if c not in columns),
        merges=int(((shared > 0).sum(axis=0) > 1).sum()),
        splits=int(((shared > 0).sum(axis=1) > 1).sum()),
        n_truth=len(truth_labels),
        n_prediction=len(predicted_labels),
        rule=rule,
        threshold=float(threshold),
    )
