"""`assess` and `segment` with their page: what `anatrust.assess` and the command line call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from anatrust.pipeline import assess as pipeline_assess
from anatrust.pipeline import segment as pipeline_segment
from anatrust.report.page import write_report

__all__ = ["assess", "segment"]

P = ParamSpec("P")
R = TypeVar("R")


def _with_page(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, writing the page of this room where none other is given."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        kwargs.setdefault("page", write_report)
        return function(*args, **kwargs)

    return call


# The rooms below do not know this one, so the page comes in as an argument.
assess = _with_page(pipeline_assess.assess)
segment = _with_page(pipeline_segment.segment)
