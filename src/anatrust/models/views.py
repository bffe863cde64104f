"""Test-time augmentation: mirrored views of an image, their exact inverses, and how answers are fused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.region import Region

__all__ = ["Fusion", "View", "ViewSet", "fuse_answers", "fuse_views", "views_of"]

Fusion = Literal["max", "mean"]
ViewSet = Literal["identity", "paper", "flips"]

_AXES = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
_NAMES = ("left-right", "front-back", "head-foot")


@dataclass(frozen=True)
class View:
    """A mirrored look at an image.

    Parameters
    ----------
    name
        ``"identity"``, or the anatomical directions that are mirrored.
    ndim
        Axes of the image. Arrays may have more in front (channels); those are left alone.
    flips
        Which of the image's axes are reversed.
    swaps_sides
        Whether the patient's left and right change places. Words such as "left kidney" then mean
        the other one: see :func:`anatrust.models.prompts.swap_sides`.

    Raises
    ------
    GeometryError
        If a flipped axis does not exist.
    """

    name: str
    ndim: int
    flips: tuple[int, ...] = ()
    swaps_sides: bool = False

    def __post_init__(self) -> None:
        if any(not 0 <= axis < self.ndim for axis in self.flips) or len(set(self.flips)) != len(self.flips):
            raise GeometryError(f"the view {self.name!r} flips axes {self.flips} of an image with {self.ndim} axes")

    def apply(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The array as this view sees it: a view into memory, no copy.

        Raises
        ------
        GeometryError
            If the array has fewer axes than the view.
        """
        if array.ndim < self.ndim:
            raise GeometryError(f"an array of shape {array.shape} has fewer than the view's {self.ndim} axes")
        return np.flip(array, axis=tuple(array.ndim - self.ndim + axis for axis in self.flips))

    def invert(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The exact inverse of :meth:`apply`; values are moved, never computed.

        >>> view = View("left-right", 2, (0,))
        >>> image = np.arange(6).reshape(2, 3)
        >>> bool((view.invert(view.apply(image)) == image).all())
        True
        """
        return self.apply(array)

    def region(self, region: Region, shape: Sequence[int]) -> Region:
        """Where a region of an image of ``shape`` lies in the mirrored image; its own inverse.

        >>> View("left-right", 2, (0,)).region(Region((0, 1), (2, 3)), (10, 5))
        Region(start=(8, 1), stop=(10, 3))
        """
        start, stop = list(region.start), list(region.stop)
        for axis in self.flips:
            start[axis], stop[axis] = shape[axis] - region.stop[axis], shape[axis] - region.start[axis]
        return Region(tuple(start), tuple(stop))


def views_of(grid: Grid, which: ViewSet = "paper") -> tuple[View, ...]:
    """The views of an image, named by the patient's directions, identity first.

    Parameters
    ----------
    grid
        Tells which array axis runs from left to right.
    which
        ``"identity"``: one view. ``"paper"``: identity, the patient's left-right flip and the flip
        along the image's other in-plane axis (front-back where there is one), three views.
        ``"flips"``: all combinations, 4 in 2-D and 8 in 3-D.

    Raises
    ------
    InputError
        If there is no such set.

    References
    ----------
    R2Seg (arXiv 2511.12691), "Segment": identity, left-right and top-bottom flip.

    Examples
    --------
    >>> [view.name for view in views_of(Grid((4, 5, 6), np.eye(4)))]
    ['identity', 'left-right', 'front-back']
    >>> len(views_of(Grid((4, 5, 6), np.eye(4)), "flips"))
    8
    """
    if which not in ("identity", "paper", "flips"):
        raise InputError(f"the views are {which!r}: choose identity, paper or flips")
    directions = [_AXES[letter] for letter in grid.orientation]
    # Ordered by the patient's axes, so that the storage order of a file does not change the views.
    axes = sorted(range(grid.ndim), key=lambda axis: directions[axis])
    groups: list[tuple[int, ...]] = [()]
    if which == "paper":
        groups += [(axis,) for axis in axes[:2]]
    elif which == "flips":
        groups += [group for size in range(1, grid.ndim + 1) for group in combinations(axes, size)]
    return tuple(
        View(
            " and ".join(_NAMES[directions[axis]] for axis in group) or "identity",
            grid.ndim,
            group,
            any(directions[axis] == 0 for axis in group),
        )
        for group in groups
    )


def fuse_views(
    array: npt.NDArray[Any],
    views: Iterable[View],
    predict: Callable[[npt.NDArray[Any], View], npt.NDArray[np.floating[Any]]],
    fusion: Fusion = "max",
) -> npt.NDArray[np.float32]:
    """P = fuse over g of Inv(g) ∘ f(g(I)).

    Parameters
    ----------
    array
        The image (or region) of shape ``(*shape)``, or with channels in front.
    views
        At least one.
    predict
        The frozen model: gets the mirrored image, C-contiguous, and the view (for its words), and
        returns probabilities of the image's shape, or with channels in front.
    fusion
        ``"max"`` (paper): never below any view's own answer, and another view can only add.
        ``"mean"``: between the lowest and the highest answer.

    Returns
    -------
    float32 array
        Cost: one call of ``predict`` a view. Memory: two probability maps.

    Raises
    ------
    InputError
        If the fusion is unknown or there is no view.
    GeometryError
        If answers do not have the image's shape.

    References
    ----------
    R2Seg (arXiv 2511.12691), "Segment", P^(γ) = max_g Inv(g) ∘ f(g(I|B_γ); c).

    Examples
    --------
    >>> views = views_of(Grid((2, 2), np.eye(4)))
    >>> fuse_views(np.eye(2), views, lambda image, view: image * 0.5)
    array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)
    """

    def answers() -> Iterator[tuple[View, npt.NDArray[np.floating[Any]]]]:
        for view in views:
            answer = predict(np.ascontiguousarray(view.apply(array)), view)
            if answer.shape[-view.ndim :] != array.shape[-view.ndim :]:
                raise GeometryError(f"the model answered shape {answer.shape} to an image of shape {array.shape}")
            yield view, view.invert(answer)

    return fuse_answers(answers(), fusion)


def fuse_answers(
    answers: Iterable[tuple[View, npt.NDArray[np.floating[Any]]]], fusion: Fusion = "max"
) -> npt.NDArray[np.float32]:
    """Fuse the views' answers, already turned back; taken one by one, so they may come from a generator.

    Raises
    ------
    InputError
        If the fusion is unknown or there is no view.
    GeometryError
        If the answers have different shapes.

    Examples
    --------
    >>> view = View("identity", 1)
    >>> fuse_answers([(view, np.array([0.0, 1.0])), (view, np.array([0.5, 0.5]))], "mean")
    array([0.25, 0.75], dtype=float32)
    """
    if fusion not in ("max", "mean"):
        raise InputError(f"the fusion is {fusion!r}: choose max or mean")
    total: npt.NDArray[np.float32] | None = None
    count = 0
    for _, back in answers:
        count += 1
        if total is None:
            # A single answer is handed on as it is: a copy of a whole scan's is a lot of memory.
            total = np.asarray(back, dtype=np.float32)
            continue
        if total.shape != back.shape:
            raise GeometryError(f"the model answered shapes {total.shape} and {back.shape} to views of one image")
        if count == 2:
            total = np.array(total)
        if fusion == "max":
            np.maximum(total, back, out=total, casting="same_kind")
        else:
            total += back.astype(np.float32, copy=False)
    if total is None:
        raise InputError("no view is given: give at least the identity")
    if fusion == "mean" and count > 1:
        total /= np.float32(count)
    return total
