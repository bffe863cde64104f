"""The page people look at.

:func:`write_report` is the entrance; the other modules are its steps: what part of the scan is
shown and how finely (:mod:`~anatrust.report.shown`, :mod:`~anatrust.report.refine`), what is drawn
over it (:mod:`~anatrust.report.layers`), volumes as text in the page (:mod:`~anatrust.report.embed`,
:mod:`~anatrust.report.viewer`), key slices as pictures (:mod:`~anatrust.report.pictures`), the
verdict in words (:mod:`~anatrust.report.words`), the cards of bounds
(:mod:`~anatrust.report.bounded`), sets (:mod:`~anatrust.report.nested`), screening
(:mod:`~anatrust.report.screened`) and grey values (:mod:`~anatrust.report.greys`), and the page
(:mod:`~anatrust.report.page`).
"""

from __future__ import annotations

from anatrust.report.page import write_report

__all__ = ["write_report"]
