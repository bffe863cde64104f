"""An evaluation for people: tables by group with intervals, paired tests and figures, in one offline page."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anatrust.image.atomic import replacing

if TYPE_CHECKING:
    from anatrust.pipeline.evaluate import Evaluation
    from anatrust.pipeline.scan_metrics import ScanMetrics

__all__ = ["evaluation_figures", "write_evaluation_page"]

_SHOWN = ("dice", "surface_dice", "hd95", "assd", "cldice", "lesion_f1", "sensitivity", "precision")
_WORDS = {
    "dice": "Dice",
    "iou": "IoU",
    "surface_dice": "surface Dice",
    "assd": "ASSD",
    "hd95": "HD95",
    "cldice": "clDice",
    "lesion_f1": "lesion F1",
    "lesion_sensitivity": "lesion sensitivity",
    "lesion_precision": "lesion precision",
}
_STYLE = """
main { margin: 2rem auto; }
.wide { overflow-x: auto; margin: .6rem 0 1.4rem; }
table { width: auto; font-size: .875rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: right; }
th:first-child, td:first-child, td.words { white-space: normal; min-width: 7rem; }
td.words { text-align: left; }
th:first-child, td:first-child { text-align: left; }
small { display: block; color: var(--soft); font-size: .8rem; }
figure svg { max-width: 100%; height: auto; }
figure { background: #fff; display: inline-block; margin: .5rem 0; padding: .5rem; }
"""


def write_evaluation_page(path: Path, evaluation: Evaluation) -> None:
    """Write the page: definitions, a table for each structure, paired tests, figures; nothing is loaded from anywhere.

    No scan and no patient is named on it.
    """
    plain = evaluation.to_json()
    parts = [
        "<h1>Evaluation</h1>",
        f"<p>{plain['scans']} scans of {plain['patients']} patients. Intervals are "
        f"{plain['settings']['confidence']:.0%} percentile bootstraps over patients, none below five of them. "
        "A patient with several scans counts once, by the mean.</p>",
        _definitions(plain["settings"]),
    ]
    for structure, predictions in plain["summary"].items():
        for which, groups in predictions.items():
            title = structure if which == "mask" else f"{structure}, prediction “{which}”"
            parts += [f"<h2>{escape(title)}</h2>", _table(groups)]
    parts += [_comparisons(plain["comparisons"]), _left_out(plain["left_out"])]
    parts += [f"<figure>{svg}</figure>" for svg in evaluation_figures(evaluation).values()]
    css = resources.files("anatrust.report").joinpath("assets/page.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>anatrust evaluation</title>'
        f"<style>{css}{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def _definitions(settings: Mapping[str, Any]) -> str:
    said = {"None": "left out", "inf": "∞", "nan": "left out"}
    values = {
        key: said.get(str(v), f"{v:g}" if isinstance(v, float) else str(v)) for key, v in settings["edge_cases"].items()
    }
    policy = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in values.items())
    rows = [
        ("HD95", f"95th percentile of surface distances, {settings['hd95_definition']}"),
        ("Surface Dice", f"within {settings['surface_tolerance']:g} mm"),
        (
            "Lesions",
            f"{settings['lesion_rule']}"
            + (f", IoU ≥ {settings['lesion_threshold']:g}" if settings["lesion_rule"] != "any-overlap" else ""),
        ),
        ("Dice, IoU", "over scans whose truth holds the structure"),
        ("Empty masks", policy),
    ]
    cells = "".join(f"<tr><th>{name}</th><td class='words'>{escape(words)}</td></tr>" for name, words in rows)
    return f"<div class='wide'><table>{cells}</table></div>"


def _number(value: float) -> str:
    """Three figures, zeros at the end too, so that a column of numbers lines up."""
    return f"{value:#.3g}".rstrip(".")


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    text = _number(found["mean"])
    if found["interval"]:
        low, high = map(_number, found["interval"])
        text += f"<small>{low}–{high}</small>"
    return text + (f", {found['infinite']} ∞" if found["infinite"] else "")


def _table(groups: Mapping[str, Any]) -> str:
    metrics = [m for m in _SHOWN if any(m in found for found in groups.values())]
    head = "".join(
        f"<th>{escape(text)}</th>"
        for text in ("", "scans", *(_WORDS.get(m, m) for m in metrics), "missed", "healthy left empty")
    )
    rows = []
    for name, found in groups.items():
        healthy = found["empty_truth"]
        left = f"{healthy['left_empty']} of {healthy['scans']}" if healthy["scans"] else "–"
        cells = [escape(name), str(found["scans"]), *(_cell(found.get(m)) for m in metrics), str(found["missed"]), left]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    head = "".join(
        f"<th>{t}</th>" for t in ("structure", "metric", "mask minus", "patients", "difference", "p", "q (BH)")
    )
    lines = []
    for row in rows:
        interval = f" ({row['interval'][0]:+.3g} to {row['interval'][1]:+.3g})" if row["interval"] else ""
        cells = (
            escape(row["structure"]),
            escape(_WORDS.get(row["metric"], row["metric"].replace("_", " "))),
            escape(row["rival"]),
            str(row["patients"]),
            f"{row['difference']:+.3g}{interval}",
            f"{row['p']:.3g}",
            f"{row['q']:.3g}",
        )
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    words = "<p>Wilcoxon signed-rank tests of paired differences, patients as units; q: Benjamini and Hochberg.</p>"
    table = f"<table><tr>{head}</tr>{''.join(lines)}</table>"
    return f"<h2>Against other predictions</h2>{words}<div class='wide'>{table}</div>"


def _left_out(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    lines = "".join(f"<li>row {row['row']}: {escape(row['reason'])}</li>" for row in rows)
    return f"<h2>Left out</h2><ul>{lines}</ul>"


def evaluation_figures(evaluation: Evaluation) -> dict[str, str]:
    """SVG text by name: every scan's Dice and HD95 by group, and risk–coverage where a screening was given."""
    figures = {}
    own = [s for s in evaluation.scans if s.which == "mask"]
    for metric, label in (("dice", "Dice"), ("hd95", "HD95")):
        figures[metric] = _strips(own, metric, label, evaluation.columns[0] if evaluation.columns else "group")
    if evaluation.risk is not None:
        figures["risk-coverage"] = _curve(evaluation.risk)
    return figures


def _canvas(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _svg(figure: Any) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "anatrust", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _strips(scans: Sequence[ScanMetrics], metric: str, label: str, column: str) -> str:
    """One dot a scan, one strip a structure and group, the median as a line; infinite values on top."""
    strips: dict[str, list[float]] = {}
    for s in scans:
        value = s.values[metric]
        if math.isnan(value) or (metric == "dice" and s.truth_empty):
            continue
        group = s.row.group if column == "group" else s.row.metadata.get(column, "")
        strips.setdefault(f"{s.structure}\n{group}".strip(), []).append(value)
    finite = [v for values in strips.values() for v in values if math.isfinite(v)]
    top = 1.05 * max(finite, default=1.0) or 1.0
    figure, axis = _canvas(max(3.2, 0.9 * len(strips) + 1), 3.0)
    rng = np.random.default_rng(0)
    for place, values in enumerate(strips.values()):
        shown = np.array([min(v, top) for v in values])
        axis.plot(place + rng.uniform(-0.18, 0.18, len(shown)), shown, "o", ms=3, alpha=0.6, color="#0072B2")
        axis.plot([place - 0.3, place + 0.3], [float(np.median(shown))] * 2, color="#D55E00", lw=2)
    # A long name takes several lines, so that it does not lie on its neighbours.
    names = ["\n".join(part for line in strip.split("\n") for part in textwrap.wrap(line, 14)[:4]) for strip in strips]
    axis.set_xticks(range(len(strips)), names, fontsize=8)
    axis.set_ylabel(label)
    return _svg(figure)


def _curve(risk: Mapping[str, Any]) -> str:
    figure, axis = _canvas(4.2, 3.0)
    axis.plot(risk["coverage"], risk["risk"], color="#0072B2")
    axis.axhline(risk["random_aurc"], color="0.5", ls="--", lw=0.8)
    axis.set_xlabel("share of scans kept, least abnormal first")
    axis.set_ylabel("mean 1 - Dice of those kept")
    return _svg(figure)
