"""The command line."""

from anatrust.cli.main import main

__all__ = ["main"]
