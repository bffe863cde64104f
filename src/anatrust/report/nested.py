"""The card of inner and outer sets: sizes, promises in words, a picture with both contours each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anatrust.image.volumes import Scan
from anatrust.report.layers import Layer
from anatrust.report.listed import Entry, middle_of
from anatrust.report.pictures import Picture, key_slices
from anatrust.report.rows import size_words
from anatrust.report.windows import Window

if TYPE_CHECKING:
    from anatrust.conformal.sets import PredictionSet

__all__ = ["SetRow", "set_rows"]

_MOST_PICTURES = 6


@dataclass(frozen=True)
class SetRow:
    """One structure: sizes and promise in words, where it lies, and its picture (None where none fits)."""

    structure: str
    inner: str
    outer: str
    ratio: str
    promise: str
    swatch: str
    world: tuple[float, ...] | None
    picture: Picture | None


def set_rows(
    summaries: Sequence[Mapping[str, Any]],
    sets: Sequence[PredictionSet],
    layers: Sequence[Layer],
    scan: Scan,
    window: Window,
) -> tuple[SetRow, ...]:
    """A row for each structure of the verdict's ``sets``; the masks of ``sets`` make the pictures."""
    made = []
    for number, summary in enumerate(summaries):
        own = [layer for layer in layers if layer.key in (f"inner-{number}", f"outer-{number}")]
        world, picture = None, None
        if own and number < len(sets):
            # Round the inner set where there is one: it is surely the structure.
            index, _ = middle_of(own[0].mask)
            _, box = middle_of(own[-1].mask)
            world = tuple(float(v) for v in scan.grid.to_world(index))
            if number < _MOST_PICTURES:
                entry = Entry(number + 1, "", index, world, box, {})
                (picture,) = key_slices(scan, own, [entry], window)
        inner, outer = summary["inner_voxels"], summary["outer_voxels"]
        made.append(
            SetRow(
                summary["structure"],
                _size(summary, "inner", scan.grid.ndim),
                _size(summary, "outer", scan.grid.ndim),
                f"{outer / inner:.2f} ×" if inner and summary["outer_feasible"] else "–",
                _promise(summary),
                own[0].style.hex if own else "",
                world,
                picture,
            )
        )
    return tuple(made)


def _size(summary: Mapping[str, Any], side: str, ndim: int) -> str:
    if not summary[f"{side}_feasible"]:
        return "not calibrated: " + ("nothing" if side == "inner" else "the whole image")
    return size_words(summary[f"{side}_volume"], summary[f"{side}_voxels"], ndim)


def _promise(summary: Mapping[str, Any]) -> str:
    share = f"{100 * summary['alpha']:g} %"
    said = []
    if summary["outer_feasible"]:
        said.append(f"the outer set misses at most {share} of the structure")
    if summary["inner_feasible"]:
        said.append(f"the inner set invents at most {share} of its size")
    if not said:
        return "Nothing is promised: too few patients were calibrated on."
    return f"On average over patients like the calibration ones, {' and '.join(said)}."
