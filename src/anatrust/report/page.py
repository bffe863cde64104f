"""Puts the report together: one HTML file that works offline and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.report.embed import OUTLINE, base64_size, nifti_base64, overlay
from anatrust.report.listed import STYLES, Entry, listed
from anatrust.report.pictures import key_slices
from anatrust.report.rows import columns, row
from anatrust.report.shown import Shown, choose_shown
from anatrust.report.windows import Window, presets
from anatrust.report.words import plain_verdict, words

__all__ = ["write_report"]

_MOST_ROWS, _MOST_PICTURES = 300, 12
# What everything but the volumes takes at most: viewer, style, table and pictures.
_FRAME_BYTES = 2_500_000
_LEAST_BYTES = 3_000_000


def write_report(
    path: str | os.PathLike[str],
    verdict: Any,
    scan: Scan,
    labels: LabelMap | Mask,
    kept: Mask,
    rejected: Mask,
    *,
    probabilities: ProbabilityMap | None = None,
    run: Mapping[str, Any] | None = None,
    max_bytes: int = 12_000_000,
) -> Path:
    """Write the page that shows a verdict: one self-contained HTML file.

    The page holds a viewer (NiiVue) with the scan and the candidates, the table of candidates,
    the findings, what is guaranteed and what not, key slices as pictures, and the facts of the
    run. Nothing is loaded from anywhere; the browser is told to refuse it (CSP). Where WebGL2
    is missing the pictures stand in for the viewer.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced in one step.
    verdict
        The :class:`~anatrust.pipeline.verdict.Verdict`, or what its ``to_json`` gives.
    scan
        The scan that was judged, 2-D or 3-D.
    labels
        The mask that was judged, on the scan's grid. What is in neither ``kept`` nor
        ``rejected`` is shown as undecidable.
    kept, rejected
        The two outcomes, on the scan's grid; for organ masks what passed and failed is drawn
        from ``labels`` and the verdict's structures instead.
    probabilities
        The segmenter's probabilities; shown as an overlay that is off at first.
    run
        Facts of the run to list, nested as you like (versions, seed, hashes); give none that
        names a patient.
    max_bytes
        Largest size of the file. The scan is cropped, rounded and coarsened as far as this
        needs, and the page says so.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        If the verdict is incomplete or ``max_bytes`` is too small for any view of the scan.
    GeometryError
        If an image is not on the scan's grid.
    """
    if max_bytes < _LEAST_BYTES:
        raise InputError(f"max_bytes is {max_bytes}, but the page without its scan may take {_LEAST_BYTES}: raise it")
    for what, image in (("labels", labels), ("kept", kept), ("rejected", rejected), ("probabilities", probabilities)):
        if image is not None and not image.grid.same_as(scan.grid):
            raise GeometryError(f"{what} and the scan are on different grids: bring {what} to the scan's grid first")
    plain = plain_verdict(verdict)
    entries, masks = listed(plain, labels, kept, rejected)
    frame = words(plain, entries, scan, run)
    return _write(Path(path), _render(plain["kind"], frame, entries, masks, scan, probabilities, max_bytes))


def _render(
    kind: str,
    frame: Mapping[str, Any],
    entries: tuple[Entry, ...],
    masks: Mapping[str, npt.NDArray[np.bool_]],
    scan: Scan,
    probabilities: ProbabilityMap | None,
    max_bytes: int,
) -> str:
    focus = np.logical_or.reduce(list(masks.values()), initial=False) & np.ones(scan.grid.shape, dtype=bool)
    shown = choose_shown(scan, focus, budget=int(0.85 * (max_bytes - _FRAME_BYTES)), size_of=base64_size)
    windows = presets(scan, shown)
    layers, volumes = _volumes(shown, masks, probabilities, int(0.15 * (max_bytes - _FRAME_BYTES)))
    pictures = key_slices(scan, masks, _pictured(entries)[:_MOST_PICTURES], windows[0])
    assets = resources.files("anatrust.report")
    viewer = (assets / "vendor" / "niivue.slim.js").read_text(encoding="utf-8")
    script = (assets / "assets" / "page.js").read_text(encoding="utf-8")
    style = (assets / "assets" / "page.css").read_text(encoding="utf-8")
    text: str = _template().render(
        **frame,
        columns=columns(kind),
        rows=[row(entry, kind, scan) for entry in entries[:_MOST_ROWS]],
        more_rows=max(0, len(entries) - _MOST_ROWS),
        more_pictures=max(0, len(entries) - _MOST_PICTURES),
        pictures=pictures,
        layers=layers,
        windows=windows,
        volumes=volumes,
        shown_notes=shown.notes,
        settings=_inline_json(_settings(scan, shown, windows, layers, entries[:_MOST_ROWS])),
        viewer=viewer,
        script=script,
        style=style,
        policy=_policy([viewer, script], [style]),
        planes=scan.grid.ndim == 3,
    )
    return text


def _pictured(entries: tuple[Entry, ...]) -> list[Entry]:
    """Entries in the order in which they deserve a picture: kept or failed, undecidable, the others."""
    rank = {"kept": 0, "failed": 0, "undecidable": 1}
    return sorted(entries, key=lambda entry: (rank.get(entry.outcome, 2), entry.number))


def _volumes(
    shown: Shown, masks: Mapping[str, npt.NDArray[np.bool_]], probabilities: ProbabilityMap | None, budget: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The layers of the viewer (name, colour, pattern), and their volumes as text."""
    volumes = {"scan": nifti_base64(shown.levels, shown.grid, slope=shown.step, intercept=shown.low)}
    layers: list[dict[str, Any]] = []
    for name, mask in masks.items():
        style = STYLES[name]
        volumes[name] = nifti_base64(overlay(shown.region.any(mask), shown.grid, style.pattern), shown.grid)
        layers.append({"name": name, "colour": style.colour, "pattern": style.pattern, "top": OUTLINE, "on": True})
    if probabilities is not None:
        values = np.rint(shown.region.mean(probabilities.foreground) * 100).astype(np.uint8)
        text = nifti_base64(values, shown.grid, slope=0.01)
        if len(text) <= budget:
            volumes["probability"] = text
            layers.append({"name": "probability", "colour": (240, 228, 66), "pattern": "shade", "top": 1, "on": False})
    return layers, volumes


def _settings(
    scan: Scan, shown: Shown, windows: tuple[Window, ...], layers: list[dict[str, Any]], entries: tuple[Entry, ...]
) -> dict[str, Any]:
    """What the page's script needs to know."""
    return {
        "plane": _plane(scan.grid),
        # A picture's rows and columns are no directions in a patient.
        "raster": [*scan.grid.spacing] if scan.grid.layout == "raster" else None,
        "unit": scan.grid.unit,
        "units": scan.units,
        "extent": [n * s for n, s in zip(shown.grid.shape, shown.grid.spacing, strict=True)],
        "windows": [{"name": w.name, "low": w.low, "high": w.high} for w in windows],
        "layers": layers,
        "entries": [{"number": entry.number, "world": entry.world} for entry in entries],
    }


def _plane(grid: Grid) -> str:
    """The anatomical plane of a 2-D image; ``"all"`` for a volume."""
    if grid.ndim == 3:
        return "all"
    letters = set(grid.orientation)
    if letters & {"S", "I"}:
        return "coronal" if letters & {"L", "R"} else "sagittal"
    return "axial"


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("anatrust.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _policy(scripts: list[str], styles: list[str]) -> str:
    """The content security policy: the page's own scripts and style by hash, and nothing else."""
    listed = {kind: " ".join(_hash(text) for text in texts) for kind, texts in (("js", scripts), ("css", styles))}
    return (
        f"default-src 'none'; script-src {listed['js']}; style-src {listed['css']}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _inline_json(value: Any) -> str:
    """JSON that cannot end its script element, whatever the names in it."""
    text = json.dumps(value, allow_nan=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def _write(path: Path, text: str) -> Path:
    """All or nothing: written beside and moved into place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
