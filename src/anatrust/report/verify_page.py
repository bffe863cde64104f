"""The page of an acceptance test: one HTML file that works offline and asks the network for nothing."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any

from anatrust.image.atomic import replacing
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.verify import Verification

__all__ = ["write_verify_page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_WIDTH = 300.0


def write_verify_page(path: str | os.PathLike[str], result: Verification, profile: Profile) -> Path:
    """Write what an acceptance test found: the outcome, every promise with its interval, drift, and what to know.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced in one step.
    result
        Of :func:`~anatrust.pipeline.verify.verify`.
    profile
        The profile that was tested; named by its segmenter and the hash of its cohort.

    Returns
    -------
    Path
        The file written.
    """
    from jinja2 import Environment, StrictUndefined

    text = resources.files("anatrust.report").joinpath("assets/verify.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(text).render(
        policy=_POLICY,
        result=result,
        checks=[_drawn(check) for check in result.checks],
        profile=profile,
        width=_WIDTH,
    )
    target = Path(path)
    with replacing(target) as part:
        part.write_text(page, encoding="utf-8")
    return target


def _drawn(check: Any) -> dict[str, Any]:
    """A check with the places of its interval on a scale from 0 to four times the level, or to 1 where that is less."""
    top = min(1.0, 4 * check.level)
    top = top if check.upper <= top else 1.0

    def place(value: float) -> float:
        return float(round(value / top * _WIDTH, 1))

    return {
        "check": check,
        "low": place(check.lower),
        "high": place(check.upper),
        "seen": None if check.realised is None else place(check.realised),
        "level": place(check.level),
        "top": f"{top:g}",
    }
