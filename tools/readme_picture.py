"""The README's picture of a report: ``python tools/readme_picture.py ../shared/data docs/_static/report.png``.

Patient 002 of the collection Soft-tissue-Sarcoma of The Cancer Imaging Archive (CC BY 3.0): the PET, with the tumour
that a person outlined on the MR and one ball of other tissue at a random place, the first of the ten of the study
`real-tumours`. Neither place was chosen by looking at the PET, so the placement null may be asked for.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import ndimage

import anatrust
from anatrust.image.volumes import LabelMap
from anatrust.rejection.settings import RejectionSettings
from anatrust.studies.real_tumours import _with_blobs

_PATIENT = "002"


def judge(data: Path, out: Path) -> anatrust.Verdict:
    """Judge the two candidates and write the report into ``out``."""
    folder = data / "sarcoma" / _PATIENT
    scan = anatrust.read_scan(folder / "pet.nii.gz", modality="PET")
    tumour = anatrust.read_mask(folder / "pet_tumour.nii.gz", reference=scan.grid).array > 0
    labels, _ = _with_blobs(scan, tumour, np.random.default_rng([0, int(_PATIENT)]))
    balls, _ = ndimage.label(labels.array == 2)
    drawn = np.where(tumour, 1, np.where(balls == 1, 2, 0)).astype(np.uint8)
    return anatrust.assess(
        scan,
        LabelMap(drawn, scan.grid, {1: "tumour", 2: "other tissue"}),
        kind="lesion",
        settings=RejectionSettings(null="placement"),
        out=out,
    )


def main() -> None:
    """Judge, say what was decided, take the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    from screenshot import save, screenshot

    with tempfile.TemporaryDirectory() as folder:
        verdict = judge(given.data, Path(folder))
        for c in verdict.candidates:
            print(f"{c.number} {c.name}: {c.decision}, p = {c.p_value}, corrected {c.q_value}; {c.reason}")
        picture = screenshot(Path(folder) / "report.html", 1300, 900, dark=False, candidate=1)
    print(f"{given.picture}: {save(picture, given.picture):,} bytes")


if __name__ == "__main__":
    main()
