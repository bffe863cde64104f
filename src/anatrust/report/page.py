"""Puts the report together: one HTML file that works offline and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.report.bounded import bounds_card
from anatrust.report.embed import base64_size
from anatrust.report.greys import grey_values, uncertainty_card
from anatrust.report.layers import STYLES, Layer, outcome_layers, set_layers
from anatrust.report.listed import Entry, listed
from anatrust.report.nested import set_rows
from anatrust.report.pictures import key_slices
from anatrust.report.rows import Column, Row, columns, row
from anatrust.report.screened import screening_card
from anatrust.report.shown import Shown, choose_shown
from anatrust.report.uncertainty import uncertainty
from anatrust.report.viewer import Viewer, viewer
from anatrust.report.windows import Window, presets
from anatrust.report.words import plain_verdict, words

if TYPE_CHECKING:
    from anatrust.conformal.sets import PredictionSet
    from anatrust.ood.explain import Explanation

__all__ = ["FRAME_BYTES", "render_page", "write_page", "write_report"]

_MOST_ROWS, _MOST_PICTURES = 300, 12
# What everything but the volumes takes at most: viewer, style, table and pictures.
FRAME_BYTES = 2_500_000
_LEAST_BYTES = 3_000_000
_NO_CARDS: Mapping[str, Any] = {"bounds": None, "sets": (), "screening": None, "greys": None, "doubt": None}


def write_report(
    path: str | os.PathLike[str],
    verdict: Any,
    scan: Scan,
    labels: LabelMap | Mask,
    kept: Mask,
    rejected: Mask,
    *,
    probabilities: ProbabilityMap | None = None,
    sets: Sequence[PredictionSet] = (),
    explanation: Explanation | None = None,
    crops: Sequence[Grid] = (),
    run: Mapping[str, Any] | None = None,
    max_bytes: int = 12_000_000,
) -> Path:
    """Write the page that shows a verdict: one self-contained HTML file.

    The page holds a viewer (NiiVue) with the scan, the candidates and the contours of inner and
    outer sets, the table of candidates, sets and screening where the profile had them, the
    segmenter's own doubt where probabilities are given, the findings, what is guaranteed and what
    not, key slices as pictures, and the facts of the run. Nothing is loaded from anywhere; the
    browser is told to refuse it (CSP). Where WebGL2 is missing the pictures stand in for the
    viewer.

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
        The segmenter's probabilities; shown with their entropy as overlays that are off at first,
        and in a card of their own.
    sets
        Inner and outer sets, in the order of the verdict's ``sets``.
    explanation, crops
        What drives the screening, and where the crops it looked at lie.
    run
        ``{"inputs": {role: {"name", "sha256"}}, "seed", "settings"}``, listed with whatever else is
        given, nested as you like; give nothing that names a patient.
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
    for what, image in (
        ("labels", labels),
        ("kept", kept),
        ("rejected", rejected),
        ("probabilities", probabilities),
        *(("a set", one.outer) for one in sets),
    ):
        if image is not None and not image.grid.same_as(scan.grid):
            raise GeometryError(f"{what} and the scan are on different grids: bring {what} to the scan's grid first")
    plain = plain_verdict(verdict)
    entries, masks = listed(plain, labels, kept, rejected)
    images = (plain, scan, labels, entries, masks, probabilities)
    return write_page(Path(path), _render(*images, sets, explanation, crops, run, max_bytes))


def _render(
    plain: Mapping[str, Any],
    scan: Scan,
    labels: LabelMap | Mask,
    entries: tuple[Entry, ...],
    masks: Mapping[str, npt.NDArray[np.bool_]],
    probabilities: ProbabilityMap | None,
    sets: Sequence[PredictionSet],
    explanation: Explanation | None,
    crops: Sequence[Grid],
    run: Mapping[str, Any] | None,
    max_bytes: int,
) -> str:
    contours = set_layers(sets)
    # Where organs only passed or failed, their sets are what people look for.
    outcomes = outcome_layers(masks, on=plain["kind"] == "lesion" or not contours)
    layers = (*outcomes, *contours)
    focus = np.logical_or.reduce([layer.mask for layer in layers], initial=False) & np.ones(scan.grid.shape, dtype=bool)
    budget = max_bytes - FRAME_BYTES
    shown = choose_shown(scan, focus, budget=int(0.8 * budget), size_of=base64_size)
    windows = presets(scan, shown)
    drawn = np.asarray(labels.array != 0)
    maps: dict[str, npt.NDArray[Any]] = {}
    doubt = None
    if probabilities is not None:
        doubt = uncertainty(probabilities, drawn)
        maps = {"probability": probabilities.foreground, "entropy": doubt.entropy}
    # Of more than the table holds, those that were rejected are left to the file of all.
    numbers = {entry.number for entry in _important(entries)[:_MOST_ROWS]}
    held = [entry for entry in entries if entry.number in numbers]
    view = viewer(scan, shown, layers, maps, windows, held, budget=budget)
    rows = [row(entry, plain["kind"], scan) for entry in held]
    cards = {
        "bounds": bounds_card(plain.get("bounds", ()), scan.grid.ndim),
        "sets": set_rows(plain["sets"], sets, contours, scan, windows[0]),
        "screening": screening_card(plain["screening"], explanation, crops, scan, outcomes, windows[0]),
        "greys": grey_values(scan, drawn),
        # A segmenter that drew nothing and saw nothing was neither sure nor unsure of anything.
        "doubt": uncertainty_card(doubt if doubt and doubt.parts else None, scan, outcomes, entries),
    }
    frame = words(plain, entries, scan, run)
    return render_page(frame, cards, columns(plain["kind"]), rows, entries, scan, shown, view, windows, outcomes)


def render_page(
    frame: Mapping[str, Any],
    cards: Mapping[str, Any],
    titles: Sequence[Column],
    rows: Sequence[Row],
    entries: tuple[Entry, ...],
    scan: Scan,
    shown: Shown,
    view: Viewer,
    windows: Sequence[Window],
    outcomes: Sequence[Layer],
) -> str:
    """The page as text: the words of ``frame`` around the viewer, the table and the further cards."""
    assets = resources.files("anatrust.report")
    library = (assets / "vendor" / "niivue.slim.js").read_text(encoding="utf-8")
    script = (assets / "assets" / "page.js").read_text(encoding="utf-8")
    style = (assets / "assets" / "page.css").read_text(encoding="utf-8")
    text: str = _template().render(
        **{**_NO_CARDS, **frame, **cards},
        columns=titles,
        rows=rows,
        common_name=_common_name(rows),
        more_rows=_left_to_the_file(entries, rows),
        outcomes=_counted(row.outcome for row in rows),
        more_pictures=max(0, len(entries) - _MOST_PICTURES),
        pictures=key_slices(scan, outcomes, _important(entries)[:_MOST_PICTURES], windows[0]),
        toggles=view.toggles,
        windows=windows,
        volumes=view.volumes,
        shown_notes=shown.notes,
        settings=_inline_json(view.settings),
        viewer=library,
        script=script,
        style=style,
        policy=_policy([library, script], [style]),
        planes=scan.grid.ndim == 3,
    )
    return text


def _common_name(rows: Sequence[Row]) -> str:
    """The name that all rows have: it is said once, for in every row it says nothing."""
    return rows[0].name if len(rows) > 1 and len({row.name for row in rows}) == 1 else ""


def _counted(outcomes: Iterable[str]) -> dict[str, int]:
    """How many there are of each outcome, in the order of the styles."""
    counts = Counter(outcomes)
    return {outcome: counts[outcome] for outcome in STYLES if counts[outcome]}


def _left_to_the_file(entries: tuple[Entry, ...], rows: Sequence[Row]) -> str:
    """How many of each outcome are not in the table, in words; empty where all are."""
    left = Counter(entry.outcome for entry in entries) - Counter(row.outcome for row in rows)
    if len(left) == 1:
        return f"{left.total()} more, all {next(iter(left))},"
    told = ", ".join(f"{count} {outcome}" for outcome, count in _counted(left.elements()).items())
    return f"{left.total()} more ({told})" if left else ""


def _important(entries: tuple[Entry, ...]) -> list[Entry]:
    """Entries in the order in which they deserve a row and a picture: kept or failed, undecidable, the others."""
    rank = {"kept": 0, "failed": 0, "unsure": 0, "undecidable": 1}
    return sorted(entries, key=lambda entry: (rank.get(entry.outcome, 2), entry.number))


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


def write_page(path: Path, text: str) -> Path:
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
