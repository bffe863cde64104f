"""The package's own names: lazy, complete and sorted."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import anatrust


def test_all_names_are_sorted_and_real() -> None:
    assert list(anatrust.__all__) == sorted(anatrust.__all__)
    assert set(anatrust.__all__) <= set(dir(anatrust))
    for name in anatrust.__all__:
        assert getattr(anatrust, name) is not None


def test_lazy_names_are_the_same_objects() -> None:
    for name, home in anatrust._HOMES.items():
        assert getattr(import_module(f"anatrust.{home}"), name) is getattr(anatrust, name)
        assert name in anatrust.__all__


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        anatrust.no_such_name  # noqa: B018


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = project.get("version", anatrust.__version__)
    assert version == anatrust.__version__


def test_importing_is_light() -> None:
    heavy = {"numpy", "scipy", "torch", "nibabel", "numba", "SimpleITK"}
    code = f"import sys, anatrust; print(sorted({{m.split('.')[0] for m in sys.modules}} & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
