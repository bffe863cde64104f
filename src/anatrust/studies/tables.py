"""Documentation tables and figures, generated from the committed results of studies."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError
from anatrust.studies.overview import overview_of_targets
from anatrust.studies.study import load_study, read_result

__all__ = ["interval_cell", "markdown_table", "rate_cell", "update_docs"]

_BLOCK = re.compile(r"(<!-- study: (?P<key>[\w/.-]+) -->\n)(?P<body>.*?)(<!-- /study -->)", re.DOTALL)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right-aligned.

    Examples
    --------
    >>> print(markdown_table(["organ", "rate"], [["liver", 0.05]]))
    | organ | rate |
    | :--- | ---: |
    | liver | 0.05 |
    """
    lines = ["| " + " | ".join(header) + " |", "| :--- |" + " ---: |" * (len(header) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def rate_cell(rate: Mapping[str, Any]) -> str:
    """A share with its interval, where it has one.

    >>> rate_cell({"rate": 0.5, "interval": [0.4, 0.6]}), rate_cell({"rate": 0.5})
    ('0.50 [0.40, 0.60]', '0.50')
    """
    low, high = rate.get("interval", (None, None))
    return f"{rate['rate']:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")


def interval_cell(found: Mapping[str, Any]) -> str:
    """The interval of a difference; empty where there is none.

    >>> interval_cell({"difference": 0.1, "interval": [-0.05, 0.25]})
    '[-0.050, +0.250]'
    """
    return f"[{found['interval'][0]:+.3f}, {found['interval'][1]:+.3f}]" if "interval" in found else ""


def update_docs(
    results: str | Path, docs: str | Path, *, also: Sequence[str | Path] = (), check: bool = False
) -> tuple[str, ...]:
    """Fill every marked block of the pages from the results, and draw the figures.

    A block looks like ``<!-- study: NAME/TABLE -->`` … ``<!-- /study -->``. Figures are
    written to ``docs/figures/NAME-FIGURE.svg``; each carries the hash of the numbers it shows.

    Parameters
    ----------
    results
        Folder of the results (``NAME.json``).
    docs
        Folder of the Markdown pages, searched below.
    also
        Pages that lie elsewhere (the README).
    check
        Change nothing; only report.

    Returns
    -------
    tuple of str
        The files that differed (with ``check``), or were written.

    Raises
    ------
    InputError
        If a page asks for a table that no result provides, a block has no end, or a quick result is found.
    """
    loaded = {p.stem: read_result(p) for p in sorted(Path(results).glob("*.json"))}
    made = {f"overview/{key}": markdown_table(*table) for key, table in overview_of_targets(loaded).items()}
    changed: list[str] = []
    for name, result in loaded.items():
        if result["quick"]:
            raise InputError(f"{name}.json is a quick result: run the full study before documenting it")
        study = load_study(name)
        made.update({f"{name}/{k}": text for k, text in study.tables(result).items()})
        for figure, content in study.figures(result).items():
            path = Path(docs) / "figures" / f"{name}-{figure}.svg"
            stamp = f"<!-- numbers: {_digest(content)} -->"
            if not path.is_file() or stamp not in path.read_text(encoding="utf-8"):
                changed.append(str(path))
                if not check:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(_draw(content) + stamp + "\n", encoding="utf-8")
    for page in [*sorted(Path(docs).rglob("*.md")), *map(Path, also)]:
        text = page.read_text(encoding="utf-8")

        def fill(match: re.Match[str], page: Path = page) -> str:
            key = match["key"]
            if "<!-- study: " in match["body"]:
                # Filling it would delete everything up to the next block's end.
                raise InputError(f"{page}: the block '{key}' has lost its end <!-- /study -->: put it back")
            if key not in made:
                raise InputError(f"{page} asks for the table '{key}', which no result provides: run the study")
            return f"{match[1]}{made[key]}\n{match[4]}"

        filled = _BLOCK.sub(fill, text)
        if filled != text:
            changed.append(str(page))
            if not check:
                page.write_text(filled, encoding="utf-8")
    return tuple(changed)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _draw(content: Mapping[str, Any]) -> str:
    """Draw panels as SVG text without dates or random identifiers.

    ``content``: ``panels``, ``xlabel``, ``ylabel``, ``level`` for a dashed line, ``ylim`` (default 0 to 1) and
    ``scale`` ("log" for a logarithmic y axis). A panel has a title and one of ``lines`` (label → {x, y}),
    ``bars`` (label → {y: names, x, error: [low, high]}), or ``image`` (grey values 0 to 255 as ``{"shape",
    "zlib"}``, with ``contour``, a mask drawn as a line, or ``contours``, several by label, where given).
    ``edge`` is a panel's width in inches (default 3.1); with ``shared`` false every panel has its own axes and legend.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    panels = content["panels"]
    columns = min(int(content.get("columns", 3)), len(panels))
    rows = -(-len(panels) // columns)
    longest = max((len(line["y"]) for panel in panels for line in panel.get("bars", {}).values()), default=0)
    with mpl.rc_context({"svg.hashsalt": "anatrust", "svg.fonttype": "none", "font.size": 8}):
        edge, shared = float(content.get("edge", 3.1)), bool(content.get("shared", True))
        size = (edge * columns, max(0.8 * edge, 0.22 * longest + 0.6) * rows)
        figure = Figure(figsize=(size[0] + (1.5 if longest else 0), size[1]), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(rows, columns, squeeze=False, sharey=shared, sharex=shared).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            if "image" in panel:
                _draw_image(axis, panel)
            elif "bars" in panel:
                _draw_bars(axis, panel["bars"])
            else:
                _draw_lines(axis, panel["lines"])
                axis.set_ylim(*content.get("ylim", (-0.03, 1.03)))
                axis.set_yscale(content.get("scale", "linear"))
                if "level" in content:
                    axis.axhline(content["level"], color="0.4", lw=0.8, ls="--")
            axis.set_title(panel["title"], fontsize=8)
            axis.spines[["top", "right"]].set_visible(False)
            if not shared and axis.get_legend_handles_labels()[1]:
                beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if "image" in panel else {}
                axis.legend(frameon=False, fontsize=6, **beside)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis in axes.reshape(rows, columns)[:, 0]:
            axis.set_ylabel(content["ylabel"])
        for axis in axes[max(0, len(panels) - columns) : len(panels)]:
            axis.set_xlabel(content["xlabel"])
        if shared and axes[0].get_legend_handles_labels()[1]:
            axes[0].legend(frameon=False, fontsize=7)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


# Okabe & Ito's colours and different markers: readable without colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def _draw_lines(axis: Any, lines: Mapping[str, Any]) -> None:
    for (label, line), colour, mark in zip(lines.items(), _COLOURS, "osv^Dx", strict=False):
        many = len(line["x"]) > 30
        axis.plot(line["x"], line["y"], marker="" if many else mark, ms=3.5, lw=1.1, color=colour, label=label)


def _draw_bars(axis: Any, bars: Mapping[str, Any]) -> None:
    """Points with intervals, one row a name; the first name at the top."""
    for number, ((label, line), colour, mark) in enumerate(zip(bars.items(), _COLOURS, "osv^Dx", strict=False)):
        places = [-k - 0.2 * number for k in range(len(line["y"]))]
        around = [
            [x - low for x, (low, _) in zip(line["x"], line["error"], strict=True)],
            [high - x for x, (_, high) in zip(line["x"], line["error"], strict=True)],
        ]
        axis.errorbar(line["x"], places, xerr=around, fmt=mark, ms=3.5, lw=0.9, color=colour, label=label)
        axis.set_yticks([-k - 0.1 for k in range(len(line["y"]))], line["y"])
    axis.axvline(0, color="0.4", lw=0.8, ls="--")


def _unpacked(packed: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Grey values of ``{"shape", "zlib"}``: compressed bytes in base64."""
    values = np.frombuffer(zlib.decompress(base64.b64decode(packed["zlib"])), dtype=np.uint8)
    return values.reshape(packed["shape"])


def _draw_image(axis: Any, panel: Mapping[str, Any]) -> None:
    axis.imshow(_unpacked(panel["image"]), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    if "contour" in panel:
        axis.contour(_unpacked(panel["contour"]), levels=[0.5], colors="#D55E00", linewidths=0.8)
    for (label, mask), colour in zip(panel.get("contours", {}).items(), _COLOURS, strict=False):
        axis.plot([], [], color=colour, lw=0.9, label=label)
        if _unpacked(mask).any():
            axis.contour(_unpacked(mask), levels=[0.5], colors=colour, linewidths=0.9)
    axis.set_axis_off()
