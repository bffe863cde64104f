"""Run the code blocks of README.md and docs/, as the tests do; --update writes what the commands print into the pages.

Usage: .venv/bin/python tools/run_pages.py [--update] [PAGE...]

Three kinds of fenced blocks count:

console   every line that begins with "$ " is run; the lines below it must be printed by it, in this order. A line
          "..." stands for any number of lines.
python    run as one script a page, after the console blocks above it.
sh        for the reader's own files: not run, but each anatrust command, option and make target must exist.

A page with the comment "needs: demo" is run beside a folder `demo` that `anatrust demo -o demo` made.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
_FENCE = re.compile(r"^```(?P<language>[a-z]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command of a console block and the lines that a reader sees below it."""

    line: str
    shown: tuple[str, ...]


def pages() -> list[Path]:
    """README.md and all pages of the documentation."""
    return [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)]


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and body of each fenced block."""
    for match in _FENCE.finditer(text):
        yield match["language"], match["body"]


def needs_demo(text: str) -> bool:
    """Whether the page is run beside the demo's files."""
    return "<!-- needs: demo -->" in text


def commands(body: str) -> list[Command]:
    """The commands of a console block."""
    found: list[tuple[str, list[str]]] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line.rstrip())
    return [Command(line, tuple(shown)) for line, shown in found]


def environment() -> dict[str, str]:
    """The environment of every command: ours first in the path, a fixed width."""
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}


def run(line: str, folder: Path) -> str:
    """What a command prints; an exit code other than 0 is an error."""
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise AssertionError(f"$ {line}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def missing(shown: tuple[str, ...], printed: str) -> str | None:
    """The first shown line that was not printed where the page says so; None if all were."""
    lines = [line.rstrip() for line in printed.splitlines()]
    place, loose = 0, False
    for line in shown:
        if line == "...":
            loose = True
            continue
        if loose:
            later = [k for k in range(place, len(lines)) if lines[k] == line]
            if not later:
                return line
            place = later[0]
        elif place >= len(lines) or lines[place] != line:
            return line
        place, loose = place + 1, False
    return None if loose or place == len(lines) else f"(and then) {lines[place]}"


def check_page(text: str, folder: Path) -> None:
    """Run the console and python blocks of a page in a folder, in the page's order."""
    script = ""
    for language, body in blocks(text):
        if language == "console":
            for command in commands(body):
                printed = run(command.line, folder)
                line = missing(command.shown, printed) if command.shown else None
                if line is not None:
                    raise AssertionError(f"$ {command.line}\ndoes not print: {line}\nbut:\n{printed}")
        elif language == "python":
            script += body + "\n"
            path = folder / "page.py"
            path.write_text(script, encoding="utf-8")
            run("python page.py", folder)


def usage_errors(body: str) -> list[str]:
    """Commands, options and make targets of a sh block that do not exist."""
    wrong = []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    helps: dict[str, str] = {}
    for line in body.replace("\\\n", " ").splitlines():
        for part in re.split(r"[;|]|&&", line):
            words = shlex.split(part, comments=True)
            if words[:1] == ["make"]:
                named = [w for w in words[1:] if "=" not in w]
                wrong += [f"make {w}" for w in named if w not in targets]
            elif words[:1] == ["anatrust"] and len(words) > 1:
                name = words[1]
                if name not in helps:
                    try:
                        helps[name] = run(f"anatrust {shlex.quote(name)} --help", ROOT)
                    except AssertionError:
                        helps[name] = ""
                        wrong.append(f"anatrust {name}")
                known = set(re.findall(r"(?<!\w)--?[a-z][a-z-]*", helps[name]))
                options = [w.split("=")[0] for w in words[2:] if re.match(r"--?[a-z]", w)]
                wrong += [f"anatrust {name} {w}" for w in options if w not in known]
    return wrong


def updated(text: str, folder: Path) -> str:
    """The page with the present output below each command that shows its whole output."""

    def refresh(match: re.Match[str]) -> str:
        if match["language"] != "console":
            return match[0]
        lines = []
        for command in commands(match["body"]):
            printed = run(command.line, folder)
            whole = "..." not in command.shown and (command.shown or " --help" in command.line)
            shown = [line.rstrip() for line in printed.splitlines()] if whole else list(command.shown)
            lines += [f"$ {command.line}", *shown]
        return "```console\n" + "\n".join(lines) + "\n```"

    return _FENCE.sub(refresh, text)


def main() -> int:
    """Run the pages named on the command line, or all."""
    update = "--update" in sys.argv[1:]
    named = [Path(a).resolve() for a in sys.argv[1:] if not a.startswith("-")]
    with tempfile.TemporaryDirectory() as top:
        for number, page in enumerate(named or pages()):
            text = page.read_text(encoding="utf-8")
            folder = Path(top) / str(number)
            folder.mkdir()
            if needs_demo(text):
                if not (Path(top) / "demo").is_dir():
                    run("anatrust demo -o demo", Path(top))
                (folder / "demo").symlink_to(Path(top) / "demo")
            if update:
                page.write_text(updated(text, folder), encoding="utf-8")
            else:
                check_page(text, folder)
            wrong = [error for language, body in blocks(text) if language == "sh" for error in usage_errors(body)]
            if wrong:
                raise AssertionError(f"{page.name}: there is no {wrong}")
            print(f"fine: {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
