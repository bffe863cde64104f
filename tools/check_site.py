"""Check that the built documentation loads nothing from elsewhere: no script, style, font or image of another host.

Usage: python tools/check_site.py docs/_build/html
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_LOADS = (
    re.compile(
        r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=[\"'](?:https?:)?//[^\"']+", re.IGNORECASE
    ),
    re.compile(r"<link\b(?![^>]*rel=[\"'](?:canonical|license|help)[\"'])[^>]*\bhref=[\"'](?:https?:)?//[^\"']+", re.I),
    re.compile(r"@import\s+(?:url\()?[\"']?(?:https?:)?//[^\"')]+", re.IGNORECASE),
    re.compile(r"url\(\s*[\"']?(?:https?:)?//[^\"')]+", re.IGNORECASE),
)


def remote_loads(folder: Path) -> list[str]:
    """Page and address of everything that a browser would fetch from another host."""
    found = []
    for page in sorted(p for p in folder.rglob("*") if p.suffix in {".html", ".css", ".svg"}):
        text = page.read_text(encoding="utf-8")
        found += [f"{page.relative_to(folder)}: {m.group()}" for pattern in _LOADS for m in pattern.finditer(text)]
    return found


def main() -> int:
    """Exit 1 if anything is loaded from elsewhere."""
    folder = Path(sys.argv[1])
    if not (folder / "index.html").is_file():
        print(f"{folder} holds no built documentation: run `make docs`")
        return 1
    found = remote_loads(folder)
    for line in found:
        print(f"loads from elsewhere: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
