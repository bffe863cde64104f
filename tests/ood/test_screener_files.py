"""A screener written and read says the same elsewhere; whatever was done to it is refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anatrust.errors import FormatError
from anatrust.ood.detectors import make_detector
from anatrust.ood.features import ScanFeatures
from anatrust.ood.persistence import _digest, screener_from_arrays, screener_to_arrays
from anatrust.ood.screen import Screener, fit_screener

LEVELS = (("a", 2), ("b", 2))


def cohort(n: int, shift: float = 0.0, *, seed: int = 0) -> list[ScanFeatures]:
    values = np.random.default_rng(seed).normal(shift, 1, size=(n, 4, 4))
    return [ScanFeatures(f"s{i}", v, LEVELS, "made so") for i, v in enumerate(values)]


def build(*kinds: str) -> Screener:
    settings: dict[str, Any] = {"forest": {"trees": 8, "jobs": 1}, "isolation": {"trees": 8}}
    detectors = [make_detector(kind, **settings.get(kind, {})) for kind in kinds]
    fitted = fit_screener(detectors, cohort(10, seed=1), [f"p{i}" for i in range(10)], cohort(6, 3.0, seed=2))
    groups = ["GE"] * 20 + ["Siemens"] * 20
    return fitted.conformalize(cohort(40, seed=3), [f"q{i}" for i in range(40)], groups=groups)


@pytest.mark.parametrize("kinds", [("forest",), ("levels", "forest", "isolation", "knn"), ("mahalanobis",)])
def test_read_again_it_says_the_same(kinds: tuple[str, ...]) -> None:
    ready = build(*kinds)
    document, arrays = screener_to_arrays(ready)
    again = screener_from_arrays(json.loads(json.dumps(document)), arrays)
    for scan in cohort(5, 1.0, seed=4):
        for group in ("GE", "Siemens"):
            assert again.screen(scan, group=group) == ready.screen(scan, group=group)
    assert again.fit_patients == ready.fit_patients
    assert "p3" not in json.dumps(document)
    assert document["trusted_types"] == ["sklearn.tree._tree.Tree"]


def test_without_calibration_too() -> None:
    fitted = fit_screener([make_detector("knn")], cohort(4), list("abcd"))
    assert screener_from_arrays(*screener_to_arrays(fitted)).calibration is None


READ = """
import json, sys
import numpy as np
from pathlib import Path
from anatrust.ood.features import ScanFeatures
from anatrust.ood.persistence import screener_from_arrays
folder = Path(sys.argv[1])
with np.load(folder / "a.npz", allow_pickle=False) as stored:
    arrays = dict(stored)
ready = screener_from_arrays(json.loads((folder / "d.json").read_text()), arrays)
values = np.random.default_rng(9).normal(size=(4, 4))
found = ready.screen(ScanFeatures("x", values, (("a", 2), ("b", 2)), "made so"), group="GE")
print(repr((found.abnormality, found.p_value)))
"""


def test_in_another_process_and_folder(tmp_path: Path) -> None:
    ready = build("forest", "levels")
    document, arrays = screener_to_arrays(ready)
    (tmp_path / "d.json").write_text(json.dumps(document))
    np.savez(tmp_path / "a.npz", allow_pickle=False, **arrays)
    command = [sys.executable, "-c", READ, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    values = np.random.default_rng(9).normal(size=(4, 4))
    found = ready.screen(ScanFeatures("x", values, LEVELS, "made so"), group="GE")
    assert done.stdout.strip() == repr((found.abnormality, found.p_value))


def signed(document: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    """With a digest that fits: what somebody would do who wants it to be believed."""
    plain = {name: value for name, value in document.items() if name != "digest"}
    return {**plain, "digest": _digest(plain, arrays)}


def test_every_change_is_refused() -> None:
    document, arrays = screener_to_arrays(build("forest", "knn"))
    changed = [
        ({}, arrays),
        ({**document, "kind": "other"}, arrays),
        ({**document, "schema": 2}, arrays),
        ({**document, "flag_rate": 0.5}, arrays),
        ({**document, "groups": None}, arrays),
        ({k: v for k, v in document.items() if k != "digest"}, arrays),
        (document, {}),
    ]
    for name, array in arrays.items():
        other = array.copy()
        other.flat[0] += 1
        changed += [
            (document, {k: v for k, v in arrays.items() if k != name}),
            (document, arrays | {name: other}),
            (document, arrays | {name: array[:-1]}),
        ]
    without = {k: v for k, v in arrays.items() if k != "average.references"}
    empty = arrays | {"average.references": arrays["average.references"][:, :0]}
    levels = {**document, "levels": [["a", 4]]}
    for text, values in [
        (levels, arrays),
        (document, without),
        (document, empty),
        ({**document, "flag_rate": 2.0}, arrays),
        ({**document, "detectors": []}, arrays),
        ({k: v for k, v in document.items() if k != "identity"}, arrays),
        (document, arrays | {"fit_means": arrays["fit_means"][1:]}),
        (document, arrays | {"detector0.forest": arrays["detector0.forest"][:-40]}),
    ]:
        changed.append((signed(text, values), values))
    for text, values in changed:
        with pytest.raises(FormatError) as error:
            screener_from_arrays(text, values)
        assert "\n" not in str(error.value)
