"""``anatrust info``: versions, backends, and what is wrong with the installation."""

from __future__ import annotations

import json as json_module
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from anatrust._version import __version__
from anatrust.cli.console import columns
from anatrust.cli.options import Json, Verbose

__all__ = ["info_command", "torchvision_diagnosis"]

_PACKAGES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "numba",
    "nibabel",
    "SimpleITK",
    "pydicom",
    "highdicom",
    "isal",
    "Pillow",
    "connected-components-3d",
    "pandas",
    "pyarrow",
    "torch",
    "monai",
    "transformers",
)


def info_command(
    profile: Annotated[
        Path | None, typer.Argument(metavar="[PROFILE]", help="Say what this profile learnt and promises instead.")
    ] = None,
    json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001
) -> int:
    """Show versions, the backends that are installed or not, and known trouble; or what a profile holds."""
    if profile is not None:
        from anatrust.pipeline.profile import Profile

        lines = Profile.load(profile).describe()
        typer.echo(json_module.dumps(lines, indent=2) if json else "\n".join(lines))
        return 0
    facts = _facts()
    if json:
        typer.echo(json_module.dumps(facts, indent=2))
        return 0
    typer.echo(f"anatrust {facts['anatrust']}, Python {facts['python']}, {facts['platform']}")
    typer.echo(
        "\n".join(columns(["package", "version"], [[k, v or "not installed"] for k, v in facts["packages"].items()]))
    )
    rows = [
        [
            m["name"],
            m["kind"],
            "yes" if m["installed"] else f"no: pip install 'anatrust[{m['extra']}]'",
            m["licence"],
            m["summary"],
        ]
        for m in facts["backends"]
    ]
    typer.echo("\n" + "\n".join(columns(["backend", "kind", "installed", "licence", "what it is"], rows)))
    typer.echo(
        "\n" + "\n".join(columns(["label table", "labels of"], [[k, v] for k, v in facts["label_tables"].items()]))
    )
    typer.echo(f"\ntorchvision: {facts['torchvision']['status']}: {facts['torchvision']['advice']}")
    return 0


def _facts() -> dict[str, Any]:
    from anatrust.anatomy.organs import label_tables
    from anatrust.models.registry import registered_models

    return {
        "anatrust": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "backends": [
            {
                "name": entry.name,
                "kind": entry.kind,
                "summary": entry.summary,
                "installed": entry.installed,
                "extra": entry.extra,
                "licence": entry.licence,
            }
            for entry in registered_models()
        ],
        "label_tables": label_tables(),
        "torchvision": torchvision_diagnosis(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def torchvision_diagnosis() -> dict[str, str | None]:
    """Whether a torchvision is installed that breaks others by being there.

    anatrust does not use it. A torchvision that does not fit its torch makes `transformers`
    fail on import, so it is tried in a process of its own.
    """
    found = _version("torchvision")
    if found is None and find_spec("torchvision") is None:
        return {"version": None, "status": "absent", "advice": "as it should be: anatrust does not use it."}
    try:
        tried = subprocess.run(
            [sys.executable, "-c", "import torchvision"], capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return {"version": found, "status": "unknown", "advice": "importing it took more than two minutes."}
    if tried.returncode == 0:
        return {"version": found, "status": "works", "advice": "anatrust does not use it."}
    reason = (tried.stderr.strip().splitlines() or ["no message"])[-1]
    advice = f"it cannot be imported ({reason}) and breaks transformers: pip uninstall torchvision."
    return {"version": found, "status": "broken", "advice": advice}
