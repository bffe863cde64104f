"""Two small charts as SVG text, coloured by the page's style so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

__all__ = ["bars", "histogram"]

_WIDTH, _HEIGHT, _FOOT = 460, 150, 34
_ROW, _LABEL, _FIGURE = 24, 170, 70


def histogram(
    series: Sequence[tuple[str, npt.NDArray[np.floating]]], edges: npt.NDArray[np.floating], unit: str
) -> str:
    """Steps over common bins, each series scaled to its own peak; the first is filled, the others are lines.

    Parameters
    ----------
    series
        Name and counts of each; counts of shape ``(len(edges) - 1,)``.
    edges
        Of the bins, ascending.
    unit
        Of the values, for the axis.
    """
    low, high = float(edges[0]), float(edges[-1])
    x = (edges - low) / (high - low) * _WIDTH
    parts = []
    for number, (_, counts) in enumerate(series):
        peak = float(counts.max()) or 1.0
        y = _HEIGHT - counts / peak * (_HEIGHT - 8)
        steps = " ".join(f"H{x[i + 1]:.1f}V{y[min(i + 1, len(y) - 1)]:.1f}" for i in range(len(y)))
        path = f"M0 {_HEIGHT}V{y[0]:.1f}{steps}V{_HEIGHT}Z"
        parts.append(f'<path class="series s{number}" d="{path}"/>')
    ticks = []
    for value in _ticks(low, high):
        at = (value - low) / (high - low) * _WIDTH
        anchor = "start" if at < 20 else "end" if at > _WIDTH - 20 else "middle"
        ticks.append(f'<path class="axis" d="M{at:.1f} {_HEIGHT}v4"/>')
        ticks.append(f'<text x="{at:.1f}" y="{_HEIGHT + 18}" text-anchor="{anchor}">{value:g}</text>')
    names = " and ".join(name for name, _ in series)
    label = escape(f"Histogram of grey values: {names}", quote=True)
    foot = f'<text x="{_WIDTH}" y="{_HEIGHT + 31}" text-anchor="end">{escape(unit)}</text>' if unit else ""
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT + _FOOT}" role="img" aria-label="{label}">'
        f'{"".join(parts)}<path class="axis" d="M0 {_HEIGHT}H{_WIDTH}"/>{"".join(ticks)}{foot}</svg>'
    )


def bars(rows: Sequence[tuple[str, float, str]], label: str, *, most: float | None = None) -> str:
    """Horizontal bars: name, length (negative ones are drawn as nothing) and figure in words.

    Lengths are shares of ``most``, or of the largest.
    """
    top = most or max([0.0, *(value for _, value, _ in rows)]) or 1.0
    room = _WIDTH - _LABEL - _FIGURE
    parts = []
    for number, (name, value, figure) in enumerate(rows):
        y = number * _ROW
        length = max(0.0, min(1.0, value / top)) * room
        parts.append(f'<text x="{_LABEL - 8}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="bar" x="{_LABEL}" y="{y + 5}" width="{length:.1f}" height="14"/>')
        parts.append(f'<text x="{_LABEL + length + 6:.1f}" y="{y + 16}">{escape(figure)}</text>')
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {len(rows) * _ROW}" role="img" '
        f'aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from low to high.

    >>> _ticks(-160.0, 240.0)
    [-100.0, 0.0, 100.0, 200.0]
    """
    rough = (high - low) / 4
    size = 10.0 ** np.floor(np.log10(rough))
    step = next(s * size for s in (1, 2, 5, 10) if s * size >= rough * 0.8)
    first = np.ceil(low / step)
    return [float(round(k * step, 12)) for k in np.arange(first, np.floor(high / step) + 1)]
