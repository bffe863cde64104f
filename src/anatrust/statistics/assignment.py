"""Which box is which structure: assignment of boxes to the prototypes of a reference.

Boxes are float arrays ``(n, 2, d)``: lower and upper corner of each, as shares of the image's
sides, so that pictures and volumes and images of any size are alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError, MissingExtraError

__all__ = [
    "Assignment",
    "BoxTransform",
    "assign",
    "assign_in_rounds",
    "assignment_cost",
    "fit_box_transform",
    "generalised_iou",
]

Method = Literal["dustbin", "hungarian", "partial", "fused-gw"]
Floats = npt.NDArray[np.float64]

_HYPOTHESES = 24
_TINY = 1e-12


@dataclass(frozen=True)
class BoxTransform:
    """Scale, shift and mirroring that carry a reference's boxes onto the target: ``scale · flip · x + shift``.

    Parameters
    ----------
    scale
        One factor for all axes, above 0.
    shift
        One number an axis.
    flip
        +1 or −1 an axis.
    """

    scale: float
    shift: tuple[float, ...]
    flip: tuple[int, ...]

    def __call__(self, boxes: npt.ArrayLike) -> Floats:
        """Boxes ``(n, 2, d)`` carried over; corners stay in order."""
        moved = self.scale * np.array(self.flip) * _boxes(boxes) + np.array(self.shift)
        return np.sort(moved, axis=1)


@dataclass(frozen=True, eq=False)
class Assignment:
    """A box for each prototype, or none.

    Parameters
    ----------
    match
        For each prototype the index of its box, −1 where it has none. Shape ``(K,)``, intp.
    confidence
        ``1 − cost / dustbin``, within 0 and 1; 0 where there is no box. Shape ``(K,)``.
    margin
        By how much the next best box would cost more, as a share of the dustbin's cost, at most 1.
    cost
        The cost matrix after the fit, boxes × prototypes.
    transform
        What carried the prototypes onto the boxes.
    """

    match: npt.NDArray[np.intp]
    confidence: Floats
    margin: Floats
    cost: Floats
    transform: BoxTransform

    def doubtful(self, least: float = 0.3) -> tuple[int, ...]:
        """Prototypes without a box, or of lower confidence: ask for these again."""
        return tuple(int(j) for j in np.flatnonzero((self.match < 0) | (self.confidence < least)))


def generalised_iou(one: npt.ArrayLike, other: npt.ArrayLike) -> Floats:
    """Generalised IoU of each pair of boxes, from −1 to 1.

    Parameters
    ----------
    one, other
        Boxes ``(n, 2, d)`` and ``(k, 2, d)``.

    Returns
    -------
    ndarray ``(n, k)``. Cost: linear in pairs.

    References
    ----------
    Rezatofighi et al., Generalized intersection over union, CVPR 2019.

    Examples
    --------
    >>> generalised_iou([[[0, 0], [1, 1]]], [[[0, 0], [1, 1]], [[2, 0], [3, 1]]]).round(3)
    array([[ 1.   , -0.333]])
    """
    a, b = _boxes(one)[:, None], _boxes(other)[None]
    both = np.prod(np.maximum(np.minimum(a[..., 1, :], b[..., 1, :]) - np.maximum(a[..., 0, :], b[..., 0, :]), 0), -1)
    hull = np.prod(np.maximum(a[..., 1, :], b[..., 1, :]) - np.minimum(a[..., 0, :], b[..., 0, :]), -1)
    union = _volume(a) + _volume(b) - both
    return np.asarray(both / np.maximum(union, _TINY) - (hull - union) / np.maximum(hull, _TINY))


def assignment_cost(
    boxes: npt.ArrayLike,
    prototypes: npt.ArrayLike,
    *,
    features: npt.ArrayLike | None = None,
    prototype_features: npt.ArrayLike | None = None,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 0.25),
) -> Floats:
    """What it costs to call a box a structure.

    ``λ_g (1 − GIoU)/2 + λ_c ‖c − c'‖ + λ_s (1 − cos(f, g))/2 + λ_a |log(v/v')|/3``: overlap,
    distance of centres, appearance (where features are given) and size.

    Parameters
    ----------
    boxes, prototypes
        ``(n, 2, d)`` and ``(k, 2, d)``, the prototypes already carried onto the target.
    features, prototype_features
        ``(n, f)`` and ``(k, f)``, both or neither.
    weights
        λ of overlap, centres, appearance and size.

    Returns
    -------
    ndarray ``(n, k)``.

    Raises
    ------
    InputError
        If boxes are no boxes, or features do not fit them.

    References
    ----------
    RAU (arXiv 2509.22404), equation 4, with prototypes carried over first.
    """
    a, b = _boxes(boxes), _boxes(prototypes)
    overlap, centre, look, size = weights
    cost = overlap * (1 - generalised_iou(a, b)) / 2
    cost = cost + centre * np.linalg.norm(a.mean(axis=1)[:, None] - b.mean(axis=1)[None], axis=-1)
    ratio = np.maximum(_volume(a), _TINY)[:, None] / np.maximum(_volume(b), _TINY)[None]
    cost = cost + size * np.abs(np.log(ratio)) / 3
    return np.asarray(cost + look * _unlike(features, prototype_features, len(a), len(b)))


def fit_box_transform(
    prototypes: npt.ArrayLike, boxes: npt.ArrayLike, weights: npt.ArrayLike, flip: Sequence[int]
) -> BoxTransform:
    """The scale and shift that carry prototypes onto their boxes, by weighted least squares.

    Parameters
    ----------
    prototypes, boxes
        Matched pairs, both ``(m, 2, d)``, m ≥ 1. Corners are what is fitted, so one pair suffices.
    weights
        ``(m,)``, not negative, not all 0.
    flip
        +1 or −1 an axis.

    Examples
    --------
    >>> fit_box_transform([[[0, 0], [1, 1]]], [[[2, 3], [4, 5]]], [1.0], (1, 1))
    BoxTransform(scale=2.0, shift=(2.0, 3.0), flip=(1, 1))
    """
    a, b = _boxes(prototypes), _boxes(boxes)
    w = np.asarray(weights, dtype=np.float64)[:, None] / np.sum(weights)
    signs = np.array(flip)
    centre_a, centre_b = signs * a.mean(axis=1), b.mean(axis=1)
    half_a, half_b = (a[:, 1] - a[:, 0]) / 2, (b[:, 1] - b[:, 0]) / 2
    mean_a, mean_b = (w * centre_a).sum(axis=0), (w * centre_b).sum(axis=0)
    top = (w * ((centre_a - mean_a) * (centre_b - mean_b) + half_a * half_b)).sum()
    bottom = (w * ((centre_a - mean_a) ** 2 + half_a**2)).sum()
    scale = float(max(top, _TINY) / max(bottom, _TINY))
    shift = mean_b - scale * mean_a
    return BoxTransform(scale, tuple(float(v) for v in shift), tuple(int(v) for v in signs))


def assign(
    boxes: npt.ArrayLike,
    prototypes: npt.ArrayLike,
    *,
    features: npt.ArrayLike | None = None,
    prototype_features: npt.ArrayLike | None = None,
    method: Method = "dustbin",
    dustbin: float = 0.6,
    flips: bool = True,
    rounds: int = 4,
    alpha: float = 0.5,
) -> Assignment:
    """Say which box is which structure, whatever the crop, zoom or mirroring of the image.

    The prototypes are carried onto the boxes by a similarity transform; its first guesses come
    from the hulls and from single pairs of boxes, the best few are refined by alternating
    matching and robust fitting, and the one with the smallest total cost is taken.

    Parameters
    ----------
    boxes, prototypes
        ``(N, 2, d)`` and ``(K, 2, d)``, at least one each; N and K may differ.
    features, prototype_features
        Appearance, see `assignment_cost`.
    method
        ``"dustbin"``: Hungarian with a place to leave boxes and prototypes unmatched (missing
        and superfluous boxes). ``"hungarian"``: as many matches as there can be. ``"partial"``:
        partial optimal transport of min(N, K) units. ``"fused-gw"``: fused Gromov–Wasserstein,
        which also compares distances within both images (relations as soft constraints). The
        last two need the extra ``transport``.
    dustbin
        Cost at which a pair is as good as none.
    flips
        Whether mirrored images are thought of.
    rounds
        Alternations of matching and fitting.
    alpha
        Weight of relations against costs in ``"fused-gw"``.

    Returns
    -------
    Assignment
        Cost: ``24 · rounds`` Hungarian problems of size N + K.

    Raises
    ------
    InputError
        If an array is no set of boxes, or a setting is out of range.
    MissingExtraError
        If the method needs POT and it is not installed.

    Examples
    --------
    >>> reference = np.array([[[0.1, 0.1], [0.3, 0.4]], [[0.5, 0.2], [0.9, 0.6]], [[0.2, 0.7], [0.4, 0.8]]])
    >>> target = 0.5 * reference[[2, 0, 1]] + 0.3
    >>> assign(target, reference).match
    array([1, 2, 0])
    """
    a, b = _boxes(boxes), _boxes(prototypes)
    if a.shape[-1] != b.shape[-1] or min(len(a), len(b)) < 1:
        raise InputError(f"boxes of shape {a.shape} and prototypes of {b.shape} do not fit: give (n, 2, d) of one d")
    if method not in get_args(Method):
        raise InputError(f"unknown method {method!r}: choose one of {', '.join(get_args(Method))}")
    if not dustbin > 0 or rounds < 1 or not 0 <= alpha <= 1:
        raise InputError("the dustbin's cost is above 0, rounds at least 1 and alpha from 0 to 1")
    look = _unlike(features, prototype_features, len(a), len(b))

    def cost_with(transform: BoxTransform) -> Floats:
        return assignment_cost(a, transform(b)) + look

    best: tuple[float, BoxTransform] | None = None
    for guess in _guesses(a, b, cost_with, flips, dustbin):
        transform = guess
        for _ in range(rounds):
            cost = cost_with(transform)
            match = _with_dustbin(cost, dustbin)
            pairs = np.flatnonzero(match >= 0)
            if len(pairs) == 0:
                break
            paid = cost[match[pairs], pairs]
            transform = fit_box_transform(
                b[pairs], a[match[pairs]], 1 / (1 + (3 * paid / dustbin) ** 2), transform.flip
            )
        total = _total(cost_with(transform), dustbin)
        if best is None or total < best[0] - 1e-9:
            best = (total, transform)
    assert best is not None
    transform = best[1]
    cost = cost_with(transform)
    match = _solve(cost, method, dustbin, (a, transform(b)), alpha)
    return _described(match, cost, transform, dustbin)


def assign_in_rounds(
    ask: Callable[[tuple[int, ...], Assignment | None], npt.ArrayLike],
    prototypes: npt.ArrayLike,
    *,
    rounds: int = 2,
    least: float = 0.3,
    **settings: object,
) -> tuple[Assignment, Floats]:
    """Ask for boxes, assign them, and ask again for those in doubt.

    Parameters
    ----------
    ask
        Gets the prototypes to look for and the assignment so far (None at first), and returns
        boxes ``(n, 2, d)``, possibly none.
    prototypes
        ``(K, 2, d)``.
    rounds
        How often to ask again at most.
    least
        Confidence below which a prototype is asked for again.
    settings
        For `assign`.

    Returns
    -------
    assignment, boxes
        The last assignment and all boxes it is about. A further round is taken only if it makes
        the mean confidence higher.

    Raises
    ------
    InputError
        If the first answer holds no box.
    """
    everyone = tuple(range(len(_boxes(prototypes))))
    boxes = _boxes(ask(everyone, None))
    found = assign(boxes, prototypes, **settings)  # type: ignore[arg-type]
    for _ in range(rounds):
        doubtful = found.doubtful(least)
        if not doubtful:
            break
        answer = np.asarray(ask(doubtful, found), dtype=np.float64)
        if answer.size == 0:
            break
        kept = [i for j, i in enumerate(found.match) if i >= 0 and j not in doubtful]
        more = np.concatenate([boxes[kept], _boxes(answer)])
        again = assign(more, prototypes, **settings)  # type: ignore[arg-type]
        if again.confidence.mean() <= found.confidence.mean():
            break
        found, boxes = again, more
    return found, boxes


def _boxes(boxes: npt.ArrayLike) -> Floats:
    array = np.asarray(boxes, dtype=np.float64)
    if array.ndim != 3 or array.shape[1] != 2 or not np.isfinite(array).all() or (array[:, 0] > array[:, 1]).any():
        raise InputError("boxes are finite arrays (n, 2, d): lower corners, then upper ones")
    return array


def _volume(boxes: Floats) -> Floats:
    return np.asarray(np.prod(boxes[..., 1, :] - boxes[..., 0, :], axis=-1))


def _unlike(features: npt.ArrayLike | None, others: npt.ArrayLike | None, n: int, k: int) -> Floats:
    """``(1 − cos)/2`` of each pair of features; 0 without features."""
    if (features is None) != (others is None):
        raise InputError("give features of both boxes and prototypes, or of neither")
    if features is None or others is None:
        return np.zeros((n, k))
    f, g = np.asarray(features, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if f.shape[:1] != (n,) or g.shape != (k, *f.shape[1:]) or f.ndim != 2:
        raise InputError(f"features of shapes {f.shape} and {g.shape} do not fit {n} boxes and {k} prototypes")
    f = f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), _TINY)
    g = g / np.maximum(np.linalg.norm(g, axis=1, keepdims=True), _TINY)
    return np.asarray((1 - f @ g.T) / 2)


def _guesses(
    a: Floats, b: Floats, cost_with: Callable[[BoxTransform], Floats], flips: bool, dustbin: float
) -> list[BoxTransform]:
    """The best first guesses: hull onto hull, and every single box onto every prototype."""
    ndim = a.shape[-1]
    # One mirrored axis is a mirror image; two are a rotation by 180 degrees.
    signs = list(itertools.product((1, -1), repeat=ndim)) if flips else [(1,) * ndim]
    hulls = [np.stack([x[:, 0].min(axis=0), x[:, 1].max(axis=0)])[None] for x in (b, a)]
    guesses = [fit_box_transform(hulls[0], hulls[1], [1.0], sign) for sign in signs]
    pairs = [
        fit_box_transform(b[j : j + 1], a[i : i + 1], [1.0], sign)
        for sign in signs
        for i in range(len(a))
        for j in range(len(b))
    ]
    # A cheap bound first: what every box would pay if it could choose alone, the dustbin at most.
    alone = [float(np.minimum(cost_with(t).min(axis=1), dustbin).sum()) for t in pairs]
    order = np.argsort(alone, kind="stable")[: _HYPOTHESES - len(guesses)]
    return guesses + [pairs[k] for k in order]


def _with_dustbin(cost: Floats, dustbin: float) -> npt.NDArray[np.intp]:
    """Hungarian on the square of boxes and prototypes, each with a dustbin of half the cost."""
    from scipy.optimize import linear_sum_assignment

    n, k = cost.shape
    square = np.full((n + k, k + n), 1e6)
    square[:n, :k] = cost
    square[np.arange(n), k + np.arange(n)] = dustbin / 2
    square[n + np.arange(k), np.arange(k)] = dustbin / 2
    square[n:, k:] = 0
    rows, columns = linear_sum_assignment(square)
    match = np.full(k, -1, dtype=np.intp)
    inside = (rows < n) & (columns < k)
    match[columns[inside]] = rows[inside]
    return match


def _total(cost: Floats, dustbin: float) -> float:
    match = _with_dustbin(cost, dustbin)
    pairs = np.flatnonzero(match >= 0)
    left = sum(cost.shape) - 2 * len(pairs)
    return float(cost[match[pairs], pairs].sum() + left * dustbin / 2)


def _solve(
    cost: Floats, method: Method, dustbin: float, both: tuple[Floats, Floats], alpha: float
) -> npt.NDArray[np.intp]:
    from scipy.optimize import linear_sum_assignment

    k = cost.shape[1]
    if method == "dustbin":
        return _with_dustbin(cost, dustbin)
    if method == "hungarian":
        gain = -cost
    else:
        gain = _plan(cost, method, both, alpha)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    match = np.full(k, -1, dtype=np.intp)
    match[columns] = rows
    if method != "hungarian":  # a plan moves min(N, K) units; what costs more than the dustbin is none
        paid = np.where(match >= 0, cost[match, np.arange(k)], np.inf)
        match[paid >= dustbin] = -1
    return match


def _plan(cost: Floats, method: Method, both: tuple[Floats, Floats], alpha: float) -> Floats:
    """A transport plan of min(N, K) units, from POT."""
    try:
        import ot
    except ImportError:
        raise MissingExtraError("ot", "transport", f"assignment by {method}") from None
    from scipy.optimize import linear_sum_assignment

    n, k = cost.shape
    a, b, units = np.ones(n), np.ones(k), float(min(n, k))
    if method == "partial":
        return np.asarray(ot.partial.partial_wasserstein(a, b, cost, m=units))
    distances = [np.linalg.norm(x.mean(axis=1)[:, None] - x.mean(axis=1)[None], axis=-1) for x in both]
    distances = [d / max(d.max(), _TINY) for d in distances]
    # The problem is not convex: begin where costs alone end, so that relations can only improve on it.
    rows, columns = linear_sum_assignment(cost)
    begin = np.zeros((n, k))
    begin[rows, columns] = 1.0
    if n == k:
        plan = ot.gromov.fused_gromov_wasserstein(cost, *distances, a / n, b / k, alpha=alpha, G0=begin / n)
    else:
        plan = ot.gromov.partial_fused_gromov_wasserstein(cost, *distances, a, b, m=units, alpha=alpha, G0=begin)
    return np.asarray(plan)


def _described(match: npt.NDArray[np.intp], cost: Floats, transform: BoxTransform, dustbin: float) -> Assignment:
    confidence, margin = np.zeros(len(match)), np.zeros(len(match))
    for j, i in enumerate(match):
        if i >= 0:
            confidence[j] = np.clip(1 - cost[i, j] / dustbin, 0, 1)
            others = np.delete(cost[:, j], i)
            margin[j] = np.clip((min(others, default=np.inf) - cost[i, j]) / dustbin, 0, 1)
    return Assignment(match, confidence, margin, cost, transform)
