"""Build the NiiVue bundle of the report page: ``python tools/niivue/build.py [--check]``.

Needs node, npm and the network (the npm registry). Installs the versions of package-lock.json
in a temporary folder, bundles with esbuild and writes the bundle, its SHA-256 and the notices
of everything in it to src/anatrust/report/vendor. ``--check`` builds without writing and fails
where the result differs from the committed bundle.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENDOR = HERE.parents[1] / "src" / "anatrust" / "report" / "vendor"
INPUTS = ("entry.mjs", "zarrita.mjs", "package.json", "package-lock.json")

MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in
all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN
THE SOFTWARE."""

BSD_2 = """Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this
   list of conditions and the following disclaimer.

2. Redistributions in binary form must reproduce the above copyright notice,
   this list of conditions and the following disclaimer in the documentation
   and/or other materials provided with the distribution.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS"
AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE
IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE
FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER
CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE."""

# Packages whose tarball carries no licence file: the text of the licence they name.
WITHOUT_FILE = {
    "@niivue/niivue": f"BSD 2-Clause License\n\nCopyright (c) 2021, Niivue\nAll rights reserved.\n\n{BSD_2}",
    "@lukeed/uuid": f"MIT License\n\nCopyright (c) Luke Edwards <luke.edwards05@gmail.com> (lukeed.com)\n\n{MIT}",
}
FONT = """Roboto (glyph sheet inside NiiVue)
Copyright 2011 Google Inc. Licensed under the Apache License, Version 2.0:
http://www.apache.org/licenses/LICENSE-2.0"""


def build(folder: Path) -> tuple[bytes, str]:
    """The bundle and the notices of the packages in it, built in ``folder``."""
    for name in INPUTS:
        shutil.copy(HERE / name, folder / name)
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [
            *("npx", "--no-install", "esbuild", "entry.mjs", "--bundle", "--minify", "--format=iife"),
            *("--global-name=niivue", "--target=es2022", "--alias:zarrita=./zarrita.mjs", "--charset=ascii"),
            *("--legal-comments=none", "--metafile=meta.json", "--outfile=slim.js", "--log-level=warning"),
        ],
        cwd=folder,
        check=True,
    )
    bundle = (folder / "slim.js").read_bytes()
    if b"</script" in bundle.lower() or b"<!--" in bundle:
        raise SystemExit("the bundle holds '</script' or '<!--' and cannot be put inline")
    outputs = json.loads((folder / "meta.json").read_text())["outputs"]["slim.js"]["inputs"]
    packages = sorted({_package(path) for path in outputs if "node_modules/" in path})
    return bundle, _notices(folder / "node_modules", packages)


def _package(path: str) -> str:
    parts = path.split("node_modules/")[-1].split("/")
    return "/".join(parts[: 2 if parts[0].startswith("@") else 1])


def _notices(modules: Path, packages: list[str]) -> str:
    sections = ["niivue.slim.js is a bundle of the packages below, made by tools/niivue/build.py."]
    for name in packages:
        package = json.loads((modules / name / "package.json").read_text())
        files = sorted((modules / name).glob("LICENSE*"))
        text = files[0].read_text().strip() if files else WITHOUT_FILE[name]
        sections.append(f"{name} {package['version']} ({package['license']})\n\n{text}")
    return ("\n\n" + "=" * 78 + "\n\n").join([*sections, FONT]) + "\n"


def main() -> None:
    """Build; write the three vendor files, or compare with them."""
    with tempfile.TemporaryDirectory() as folder:
        bundle, notices = build(Path(folder))
    digest = f"{hashlib.sha256(bundle).hexdigest()}  niivue.slim.js\n"
    if "--check" in sys.argv[1:]:
        if (VENDOR / "niivue.slim.js").read_bytes() != bundle:
            raise SystemExit("the committed bundle differs from the one built now")
        return
    VENDOR.mkdir(exist_ok=True)
    (VENDOR / "niivue.slim.js").write_bytes(bundle)
    (VENDOR / "niivue.slim.js.sha256").write_text(digest)
    (VENDOR / "LICENSES.txt").write_text(notices)
    print(f"{len(bundle):,} bytes, sha256 {digest}", end="")


if __name__ == "__main__":
    main()
