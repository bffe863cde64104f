"""Which candidate lesions differ from this patient's normal tissue.

The names below are loaded when they are first used, so that settings can be read without
loading the tests (and numba with them).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anatrust.rejection.candidate import Candidate
    from anatrust.rejection.candidates import find_candidates
    from anatrust.rejection.judge import reject
    from anatrust.rejection.result import Rejection
    from anatrust.rejection.score import candidate_scores
    from anatrust.rejection.settings import GateSettings, RejectionSettings, TissueSettings

__all__ = [
    "Candidate",
    "GateSettings",
    "Rejection",
    "RejectionSettings",
    "TissueSettings",
    "candidate_scores",
    "find_candidates",
    "reject",
]

_HOMES = {
    "Candidate": "candidate",
    "GateSettings": "settings",
    "Rejection": "result",
    "RejectionSettings": "settings",
    "TissueSettings": "settings",
    "candidate_scores": "score",
    "find_candidates": "candidates",
    "reject": "judge",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"anatrust.rejection.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'anatrust.rejection' has no attribute {name!r}")
