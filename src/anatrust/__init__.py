"""anatrust tells which parts of a medical image segmentation may be trusted, and why."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anatrust._version import __version__
from anatrust.errors import AnatrustError, FormatError, GeometryError, InputError, MissingExtraError

if TYPE_CHECKING:
    from anatrust.image.grid import Grid
    from anatrust.image.read import read_mask, read_probabilities, read_scan
    from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
    from anatrust.image.write import write_mask, write_scan
    from anatrust.models.annotation import Annotation, Reference
    from anatrust.pipeline.cohort import Cohort
    from anatrust.pipeline.finding import Finding
    from anatrust.pipeline.fit import fit
    from anatrust.pipeline.inspect import inspect_scan
    from anatrust.pipeline.levels import Levels
    from anatrust.pipeline.profile import Profile
    from anatrust.pipeline.verdict import Verdict
    from anatrust.pipeline.verify import Verification, verify
    from anatrust.rejection.candidate import Candidate
    from anatrust.rejection.judge import reject
    from anatrust.rejection.result import Rejection
    from anatrust.rejection.settings import RejectionSettings
    from anatrust.report.annotation import annotate
    from anatrust.report.assess import assess, segment
    from anatrust.report.page import write_report

__all__ = [
    "AnatrustError",
    "Annotation",
    "Candidate",
    "Cohort",
    "Finding",
    "FormatError",
    "GeometryError",
    "Grid",
    "InputError",
    "LabelMap",
    "Levels",
    "Mask",
    "MissingExtraError",
    "ProbabilityMap",
    "Profile",
    "Reference",
    "Rejection",
    "RejectionSettings",
    "Scan",
    "Verdict",
    "Verification",
    "__version__",
    "annotate",
    "assess",
    "fit",
    "inspect_scan",
    "read_mask",
    "read_probabilities",
    "read_scan",
    "reject",
    "segment",
    "verify",
    "write_mask",
    "write_report",
    "write_scan",
]

# Loaded when first asked for (PEP 562), so that `import anatrust` stays light.
_HOMES = {
    "Annotation": "models.annotation",
    "Candidate": "rejection.candidate",
    "Cohort": "pipeline.cohort",
    "Finding": "pipeline.finding",
    "Grid": "image.grid",
    "LabelMap": "image.volumes",
    "Levels": "pipeline.levels",
    "Mask": "image.volumes",
    "ProbabilityMap": "image.volumes",
    "Profile": "pipeline.profile",
    "Reference": "models.annotation",
    "Rejection": "rejection.result",
    "RejectionSettings": "rejection.settings",
    "Scan": "image.volumes",
    "Verdict": "pipeline.verdict",
    "Verification": "pipeline.verify",
    "annotate": "report.annotation",
    "assess": "report.assess",
    "fit": "pipeline.fit",
    "inspect_scan": "pipeline.inspect",
    "read_mask": "image.read",
    "read_probabilities": "image.read",
    "read_scan": "image.read",
    "reject": "rejection.judge",
    "segment": "report.assess",
    "verify": "pipeline.verify",
    "write_mask": "image.write",
    "write_report": "report.page",
    "write_scan": "image.write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'anatrust' has no attribute {name!r}")
    value = getattr(import_module(f"anatrust.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
