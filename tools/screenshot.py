"""Picture of a report for the README: ``python tools/screenshot.py report.html picture.png [--dark] [--candidate N]``.

Opens the page in headless Chromium with software rendering, waits until the viewer is drawn,
and saves the first screenful as a PNG of at most 400 kB. Needs playwright (extra ``dev``) and
the chromium of the system.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

_CHROMIUM = "/usr/bin/chromium"
_FLAGS = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--use-gl=angle", "--enable-unsafe-swiftshader"]
_MOST_BYTES = 400_000
_PATIENCE_MS = 120_000


def screenshot(report: Path, width: int, height: int, dark: bool, candidate: int | None) -> Image.Image:
    """The first screenful of a report."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
        page.goto(report.resolve().as_uri())
        page.wait_for_selector("html[data-ready]", state="attached", timeout=_PATIENCE_MS)
        if candidate is not None:
            page.click(f"tbody[data-number='{candidate}'] button.go")
            page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(500)
        data = page.screenshot(timeout=_PATIENCE_MS)
        browser.close()
    return Image.open(io.BytesIO(data)).convert("RGB")


def save(picture: Image.Image, path: Path) -> int:
    """Save as PNG, with fewer colours until it is small enough; returns its bytes."""
    for colours in (None, 256, 128, 64):
        reduced = picture if colours is None else picture.quantize(colours, dither=Image.Dither.NONE)
        data = io.BytesIO()
        reduced.save(data, "PNG", optimize=True)
        if data.tell() <= _MOST_BYTES:
            path.write_bytes(data.getvalue())
            return data.tell()
    raise SystemExit(f"the picture needs {data.tell()} bytes, more than {_MOST_BYTES}: choose a smaller --width")


def main() -> None:
    """Read the arguments, take the picture, save it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1300)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--candidate", type=int)
    given = parser.parse_args()
    picture = screenshot(given.report, given.width, given.height, given.dark, given.candidate)
    print(f"{given.picture}: {save(picture, given.picture):,} bytes")


if __name__ == "__main__":
    main()
