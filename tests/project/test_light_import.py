"""`import anatrust` and `anatrust --help` stay light, and torchvision stays out."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys

import pytest

HEAVY = ["torch", "SimpleITK", "matplotlib", "numba", "scipy", "sklearn", "pandas", "pyarrow", "pydicom", "nibabel"]

PROBE = """
import sys, time
start = time.process_time()
{action}
spent = time.process_time() - start
import json
print(json.dumps([spent, [name for name in {heavy!r} if name in sys.modules]]))
"""

HELP = """
import contextlib, io
from anatrust.cli import main
sys.argv = ["anatrust", "--help"]
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    main()
assert "assess" in shown.getvalue()
"""


def probe(action: str) -> tuple[float, list[str]]:
    """CPU seconds (the best of three fresh interpreters) and the heavy modules that were loaded."""
    runs = []
    for _ in range(3):
        code = PROBE.format(action=action, heavy=HEAVY)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("COV_")}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return min(spent for spent, _ in runs), sorted({name for _, loaded in runs for name in loaded})


@pytest.mark.parametrize(
    ("action", "light"),
    [("import anatrust", HEAVY), (HELP, ["torch", "SimpleITK", "matplotlib", "numba"])],
    ids=["import", "help"],
)
def test_starts_light(action: str, light: list[str]) -> None:
    seconds, loaded = probe(action)
    assert not set(light) & set(loaded)
    assert seconds < 0.5


def test_the_probe_sees_a_heavy_import() -> None:
    assert probe("import pandas")[1] != []


def test_torchvision_is_absent() -> None:
    """Its CPU build does not exist for our torch, and a broken one breaks transformers."""
    if not os.environ.get("CI"):
        pytest.skip("an environment of your own may hold what it likes; CI may not")
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution("torchvision")
