"""What long work tells whoever waits: how far it is, and one line for each scan that is left out."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "Warn"]

Progress = Callable[[str, int, int], None]
"""Told ``(stage, done, total)``."""

Warn = Callable[[str], None]
"""Told one line."""
