"""Imports only go down: every import statement of the package is read, also those inside functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "anatrust"
FLOORS = {
    "cli": 8,
    "studies": 7,
    "server": 7,
    "report": 6,
    "pipeline": 5,
    "rejection": 4,
    "conformal": 4,
    "ood": 4,
    "reference": 4,
    "models": 3,
    "anatomy": 2,
    "statistics": 1,
    "metrics": 1,
    "image": 0,
    "errors": -1,
    "_version": -2,
}
FOUNDATION = {"errors", "_version"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports_of(source: str, module: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and dotted name (without the leading "anatrust.") of everything of anatrust's own that is imported."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(("anatrust", *module[: len(module) - node.level], *([base] if base else [])))
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            names = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        for name in names:
            if name == "anatrust" or name.startswith("anatrust."):
                yield node.lineno, name.removeprefix("anatrust").removeprefix(".")


def breaches(source: str, module: tuple[str, ...]) -> list[str]:
    """What in this module imports upwards, sideways or through the package's front door."""
    room = module[0]
    found = []
    for line, name in imports_of(source, module):
        target = name.split(".")[0]
        if target == room:
            continue
        if target not in FLOORS:
            found.append(f"line {line}: imports {name or 'anatrust'!r}: import from the room itself")
        elif FLOORS[target] >= FLOORS[room]:
            found.append(f"line {line}: {room} (floor {FLOORS[room]}) imports {target} (floor {FLOORS[target]})")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    module = path.relative_to(PACKAGE).with_suffix("").parts
    if module == ("__init__",) or module == ("__main__",):  # the front door, lazy: it may name every room
        return
    assert module[0] in FLOORS, f"{path} stands in no room: add the room to the floors or move the module"
    assert breaches(path.read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from anatrust.pipeline.verdict import Verdict", ("rejection", "reject")),
        ("def f():\n    from anatrust.rejection.reject import reject", ("conformal", "sets")),
        ("import anatrust.metrics.overlap", ("statistics", "mmd")),
        ("from ..report import page", ("pipeline", "assess")),
        ("from anatrust import assess", ("studies", "study")),
        ("import importlib\nimportlib.import_module('anatrust.cli')", ("image", "grid")),
    ],
)
def test_a_breach_is_seen(source: str, module: tuple[str, ...]) -> None:
    assert len(breaches(source, module)) == 1


def test_allowed_imports_pass() -> None:
    source = (
        "from anatrust._version import __version__\nfrom anatrust.errors import InputError\nfrom .grid import Grid\n"
    )
    assert breaches(source, ("image", "volumes")) == []


def test_the_rules_page_shows_these_floors() -> None:
    text = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([a-z, ]+) \|$", text, flags=re.MULTILINE)
    shown = {room.strip(): int(floor) for floor, rooms in rows for room in rooms.split(",")}
    assert shown == {room: floor for room, floor in FLOORS.items() if room not in FOUNDATION}
