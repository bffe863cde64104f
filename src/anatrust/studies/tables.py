"""Documentation tables and figures, generated from the committed results of studies."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anatrust.errors import InputError
from anatrust.studies.study import load_study, read_result

__all__ = ["markdown_table", "update_docs"]

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
        If a page asks for a table that no result provides, or a quick result is found.
    """
    loaded = {p.stem: read_result(p) for p in sorted(Path(results).glob("*.json"))}
    made: dict[str, str] = {}
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
    """Draw panels of lines as SVG text without dates or random identifiers.

    ``content``: ``panels`` (each with title and ``lines``: label → {x, y, error?}), ``xlabel``,
    ``ylabel``, and ``level`` for a dashed line.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    panels = content["panels"]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with mpl.rc_context({"svg.hashsalt": "anatrust", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(3.1 * columns, 2.5 * rows), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            # Okabe & Ito's colours and different markers: readable without colour vision.
            for (label, line), colour, mark in zip(
                panel["lines"].items(),
                ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
                "osv^Dx",
                strict=False,
            ):
                axis.plot(line["x"], line["y"], marker=mark, ms=3.5, lw=1.1, color=colour, label=label)
            if "level" in content:
                axis.axhline(content["level"], color="0.4", lw=0.8, ls="--")
            axis.set_title(panel["title"], fontsize=8)
            axis.set_ylim(-0.03, 1.03)
            axis.spines[["top", "right"]].set_visible(False)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis in axes.reshape(rows, columns)[:, 0]:
            axis.set_ylabel(content["ylabel"])
        for axis in axes[max(0, len(panels) - columns) : len(panels)]:
            axis.set_xlabel(content["xlabel"])
        axes[0].legend(frameon=False, fontsize=7)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
