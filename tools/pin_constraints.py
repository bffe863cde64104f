"""Write constraints.txt from the environment it runs in: one pin for each package anatrust needs, directly or not.

Usage: .venv/bin/python tools/pin_constraints.py > constraints.txt

Only the closure of anatrust's own requirements (all extras) is pinned, so that packages that
happen to be installed beside it do not slip in. Local versions are cut off (``2.13.0+cpu``
becomes ``2.13.0``): ``==2.13.0`` accepts either build, and the index decides which one comes.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(root: str, extras: frozenset[str]) -> dict[str, str]:
    """Canonical name -> public version of every installed package that ``root[extras]`` needs."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [(canonicalize_name(root), extras)]
    while queue:
        name, wanted = queue.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is needed but not installed here: run `make install` first")
        pins[name] = found.version.partition("+")[0]
        for line in found.requires or ():
            need = Requirement(line)
            markers = [{"extra": extra} for extra in wanted] or [{"extra": ""}]
            if need.marker is None or any(need.marker.evaluate(m) for m in markers):
                queue.append((canonicalize_name(need.name), frozenset(need.extras)))
    pins.pop(canonicalize_name(root))
    return pins


def main() -> None:
    """Print the file."""
    pins = closure("anatrust", frozenset({"all", "dev"}))
    print("# What CI installs, made by tools/pin_constraints.py on Python 3.11. Change pyproject.toml, then run")
    print("# `make constraints`. Which build of torch comes (CPU, CUDA) is chosen by TORCH_INDEX, see the Makefile.")
    for name in sorted(pins):
        print(f"{name}=={pins[name]}")


if __name__ == "__main__":
    main()
