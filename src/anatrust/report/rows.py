"""The rows of the page's table, every figure already in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anatrust.image.volumes import Scan
from anatrust.pipeline.decide import split_reason
from anatrust.report.listed import Entry

__all__ = ["Cell", "Column", "Row", "columns", "number", "probability", "row", "size_words"]


@dataclass(frozen=True)
class Column:
    """A column that can be sorted by ``key``; ``hint`` explains it."""

    key: str
    title: str
    hint: str


@dataclass(frozen=True)
class Cell:
    """A figure, and a remark in small type after it; ``value`` sorts it (None comes last)."""

    text: str
    value: float | None
    remark: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Row:
    """One candidate or structure: its figures, and below them why it was judged so."""

    number: int
    outcome: str
    name: str
    cells: tuple[Cell, ...]
    reason: str
    details: str = ""
    sort: Mapping[str, float | None] = field(default_factory=dict)


_SIZE = Column("size", "Size", "Largest diameter and volume")
_LESION = (
    _SIZE,
    Column("contrast", "Contrast", "Difference from the tissue it is compared with, in that tissue's SD"),
    Column("p", "p", "Chance that normal tissue alone looks at least this different, if the assumption below holds"),
    Column("q", "q", "The p-value after the correction for several candidates"),
)
_ORGAN = (
    Column("size", "Size", "Volume of the structure"),
    Column("pieces", "Pieces", "Separate pieces; those holding at least a fifth of the structure count as main"),
    Column("holes", "Holes", "Enclosed holes as a share of the structure"),
    Column("border", "At border", "Share of the structure's voxels on the image's edge"),
)


def columns(kind: str) -> tuple[Column, ...]:
    """The columns of figures for lesions or organs."""
    return _ORGAN if kind == "organ" else _LESION


def row(entry: Entry, kind: str, scan: Scan) -> Row:
    """The row of one entry."""
    build = _organ if kind == "organ" else _lesion
    name, cells, reason, details = build(entry.plain, scan)
    sort = {column.key: cell.value for column, cell in zip(columns(kind), cells, strict=True)}
    return Row(entry.number, entry.outcome, name, cells, reason, details, {"number": entry.number, **sort})


def _lesion(c: Mapping[str, Any], scan: Scan) -> tuple[str, tuple[Cell, ...], str, str]:
    p, floor = c["p_value"], c["p_floor"]
    at_floor = p is not None and floor is not None and p <= floor * (1 + 1e-9)
    volume = _volume(c["volume"], scan.grid.ndim)
    cells = (
        Cell(f"{number(c['diameter'])} mm", c["voxels"], volume)
        if c["diameter"] is not None
        else Cell(f"{c['voxels']:,} px", c["voxels"]),
        Cell("–", None)
        if c["contrast"] is None
        else Cell(f"{c['contrast']:+.1f}".replace("-", "−"), c["contrast"], "SD"),
        Cell(probability(p), p, *(("floor", "The smallest p-value this test can give") if at_floor else ())),
        Cell(probability(c["q_value"]), c["q_value"]),
    )
    reason, known = split_reason(c["reason"])
    # The reason of a tested candidate names its tissue already.
    details = [f"compared with {c['tissue']}"] if c["tissue"] and c["tissue"] not in c["reason"] else []
    details.append(f"mean {number(c['mean_intensity'])}{f' {scan.units}' if scan.units else ''}")
    if c["mean_probability"] is not None:
        details.append(f"segmenter's probability {c['mean_probability']:.2f}")
    if c["placement_p"] is not None and c["null"] != "placement":
        # What is known of it in spite of the reason is its contrast and this; both stand in the row.
        only = ", which decides only about a mask drawn without looking at the image" if known else ""
        details.append(f"placement p {probability(c['placement_p'])}{only}")
    if c["touches_border"]:
        details.append("touches the image's edge")
    # A name that only repeats the label's number says nothing.
    name = "" if c["name"] == f"label {c['label']}" else c["name"]
    return name, cells, _sentence(reason), _sentence(" · ".join(details))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _organ(s: Mapping[str, Any], scan: Scan) -> tuple[str, tuple[Cell, ...], str, str]:
    cells = (
        Cell(size_words(s["volume"], s["voxels"], scan.grid.ndim), s["voxels"]),
        Cell(str(s["components"]), s["components"], f"{s['main_components']} main" if s["components"] > 1 else ""),
        Cell(_share(s["hole_share"]), s["hole_share"]),
        Cell(_share(s["border_share"]), s["border_share"]),
    )
    reason = f"Failed: {'; '.join(s['failed'])}." if s["failed"] else ""
    return s["name"], cells, reason, ""


def probability(p: float | None) -> str:
    """A p-value with two significant figures, never rounded to 0.

    >>> probability(0.0312), probability(0.005), probability(0.00004), probability(None)
    ('0.031', '0.005', '<0.0001', '–')
    """
    if p is None:
        return "–"
    if p < 1e-4:
        return "<0.0001"
    if p > 0.995:
        return "1.00"
    text = f"{p:.{max(2, 1 - math.floor(math.log10(p)))}f}"
    return text[:-1] if len(text) > 4 and text.endswith("0") else text


def number(value: float) -> str:
    """Three significant figures, no exponent.

    >>> number(1234.6), number(12.345), number(0.0123), number(-3.0)
    ('1,235', '12.3', '0.0123', '−3.0')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    if digits > 1:
        whole, _, rest = text.partition(".")
        text = f"{whole}.{rest.rstrip('0') or '0'}"
    return text.replace("-", "−")


def size_words(volume: float | None, voxels: int, ndim: int) -> str:
    """A volume (mm³, mm² in 2-D) in a fitting unit, or the count of voxels where it is unknown.

    >>> size_words(5760.0, 90, 3), size_words(None, 1200, 2)
    ('5.76 mL', '1,200 px')
    """
    return _volume(volume, ndim) or f"{voxels:,} px"


def _volume(volume: float | None, ndim: int) -> str:
    if volume is None:
        return ""
    if ndim == 2:
        return f"{number(volume)} mm²" if volume < 1000 else f"{number(volume / 100)} cm²"
    return f"{number(volume)} mm³" if volume < 100 else f"{number(volume / 1000)} mL"


def _share(share: float) -> str:
    return "0 %" if share == 0 else "<0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
