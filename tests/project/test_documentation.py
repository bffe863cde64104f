"""What README.md and the documentation say is true: commands run, names exist, the reference is complete."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import anatrust

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


TOOL = load_tool("run_pages")
PAGES = TOOL.pages()


def is_run(page: Path) -> bool:
    return any(language in ("console", "python") for language, _ in TOOL.blocks(page.read_text(encoding="utf-8")))


def marked(page: Path) -> Any:
    slow = [pytest.mark.slow] if TOOL.needs_demo(page.read_text(encoding="utf-8")) else []
    return pytest.param(page, marks=slow, id=str(page.relative_to(ROOT)))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    TOOL.run("anatrust demo -o demo", folder)
    return folder / "demo"


@pytest.mark.parametrize("page", [marked(page) for page in PAGES if is_run(page)])
def test_what_a_page_runs(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    text = page.read_text(encoding="utf-8")
    if TOOL.needs_demo(text):
        (tmp_path / "demo").symlink_to(request.getfixturevalue("demo"))
    TOOL.check_page(text, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_a_page_tells_the_reader_to_type_exists(page: Path) -> None:
    for language, body in TOOL.blocks(page.read_text(encoding="utf-8")):
        if language == "sh":
            assert TOOL.usage_errors(body) == []


def test_the_readme_shows_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert "make demo" in lines
    assert "make test" in lines


def test_the_runner_sees_what_is_wrong(tmp_path: Path) -> None:
    TOOL.check_page("```console\n$ echo one; echo two\n...\ntwo\n```\n", tmp_path)
    with pytest.raises(AssertionError, match="does not print: three"):
        TOOL.check_page("```console\n$ echo one\nthree\n```\n", tmp_path)
    with pytest.raises(AssertionError, match=r"does not print: \(and then\) two"):
        TOOL.check_page("```console\n$ echo one; echo two\none\n```\n", tmp_path)
    with pytest.raises(AssertionError, match="exit code 1"):
        TOOL.check_page("```python\nraise ValueError\n```\n", tmp_path)
    assert TOOL.usage_errors("make nonsense && anatrust assess -i A --nonsense B\nanatrust nonsense") == [
        "make nonsense",
        "anatrust assess --nonsense",
        "anatrust nonsense",
    ]


def documented(page: Path, package: str) -> list[str]:
    directive = re.compile(rf"^\.\. auto\w+:: {re.escape(package)}\.(\w+)$", re.MULTILINE)
    return directive.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("page", "package"), [("python", "anatrust"), ("metrics", "anatrust.metrics"), ("reference", "anatrust.reference")]
)
def test_the_reference_is_the_public_surface(page: str, package: str) -> None:
    names = documented(DOCS / "reference" / f"{page}.md", package)
    assert len(names) == len(set(names))
    assert set(names) == set(importlib.import_module(package).__all__)


@pytest.mark.parametrize("name", anatrust.__all__)
def test_every_public_name_is_there_and_explained(name: str) -> None:
    value = getattr(anatrust, name)
    if name != "__version__":
        text = inspect.getdoc(value) or ""
        assert len(text.splitlines()) >= 1
        assert text[0].isupper()


def test_the_help_lists_the_documented_commands() -> None:
    page = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    documented_commands = set(re.findall(r"^\$ anatrust ([a-z]+) --help$", page, flags=re.MULTILINE))
    listed = TOOL.run("anatrust --help", ROOT).partition("Commands:")[2]
    assert documented_commands == set(re.findall(r"^  ([a-z]+)  ", listed, flags=re.MULTILINE))
    assert "assess" in documented_commands


def lookup(name: str) -> object:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{name} cannot be imported")


def test_the_papers_page_names_what_exists() -> None:
    text = (DOCS / "papers.md").read_text(encoding="utf-8")
    names = re.findall(r"`(anatrust(?:\.\w+)+)`", text)
    assert len(names) > 20
    for name in names:
        assert lookup(name) is not None
    files = re.findall(r"`((?:tests|benchmarks|studies|tools|oracles)/[\w./-]+)`", text)
    assert len(files) > 10
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_study_tables_come_from_committed_results() -> None:
    """No page asks for a table of a study whose full result is not there; the overview is made of all of them."""
    for page in PAGES:
        for key in set(re.findall(r"<!-- study: ([\w-]+)/", page.read_text(encoding="utf-8"))) - {"overview"}:
            result = ROOT / "studies" / "results" / f"{key}.json"
            assert result.is_file(), f"{page.name} shows {key}: run `make study NAME={key}`"
            assert json.loads(result.read_text(encoding="utf-8"))["quick"] is False


def test_the_site_check_sees_remote_loads(tmp_path: Path) -> None:
    check = load_tool("check_site").remote_loads
    page = tmp_path / "index.html"
    page.write_text('<a href="https://example.org">link</a><script src="_static/a.js"></script>', encoding="utf-8")
    assert check(tmp_path) == []
    for remote in (
        '<script async src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="//example.org/a.css">',
        "<style>@import 'https://example.org/a.css'</style>",
        "<style>@font-face { src: url(https://example.org/a.woff) }</style>",
    ):
        page.write_text(remote, encoding="utf-8")
        assert len(check(tmp_path)) == 1
