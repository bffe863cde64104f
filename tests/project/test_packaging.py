"""Version, changelog, pins and commands agree with each other."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import anatrust

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name: Version(version) for name, version in pairs}


def requirements() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [r for group in groups for r in map(Requirement, group) if r.name != "anatrust"]


def test_versions_agree() -> None:
    assert anatrust.__version__ == PROJECT["version"] == importlib.metadata.version("anatrust")


def test_the_changelog_tells_of_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", text, flags=re.MULTILINE)
    assert released[0] == PROJECT["version"]
    assert released == sorted(released, key=Version, reverse=True)
    assert "## [Unreleased]" in text


def test_every_requirement_has_a_pin_that_satisfies_it() -> None:
    pinned = pins()
    for requirement in requirements():
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt: run `make constraints`"
        assert requirement.specifier.contains(version), f"{requirement} but constraints.txt pins {version}"


def test_pins_choose_no_build() -> None:
    """``torch==2.13.0`` fits a CPU and a CUDA build; ``+cpu`` would fit one of them."""
    pinned = pins()
    assert pinned["torch"] == Version("2.13.0")
    assert all(version.local is None for version in pinned.values())
    assert "torchvision" not in pinned
    assert list(pinned) == sorted(pinned)


def test_what_is_installed_is_what_is_pinned() -> None:
    if not os.environ.get("CI"):
        pytest.skip("an environment of your own may hold what it likes; CI may not")
    wrong = {}
    for name, version in pins().items():
        installed = Version(importlib.metadata.version(name))
        if installed.public != version.public:
            wrong[name] = (str(installed), str(version))
    assert wrong == {}


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z]+):", text, flags=re.MULTILINE))


def test_documented_make_targets_exist() -> None:
    pages = [ROOT / "README.md", ROOT / "AGENTS.md", ROOT / ".ci" / "run", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        named = set(re.findall(r"(?:`|^\$ |^ +)make ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert named <= make_targets(), page


def test_ci_runs_every_gate() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for target in ("lint", "test", "coverage", "slow", "docs", "study", "demo"):
        assert f"make {target}" in text
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"
