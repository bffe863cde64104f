"""Anchors from labelled references: found in another patient, doubted or missing where they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.image.volumes import Scan
from anatrust.metrics import dice
from anatrust.models.annotation import Reference
from anatrust.models.protocols import AnchorProvider, Reasoner
from anatrust.models.registration import RegistrationSettings
from anatrust.pipeline.bank_file import save_bank
from anatrust.reference.anchors import ReferenceAnchors
from anatrust.reference.bank import ReferenceBank
from anatrust.reference.registration_reasoner import RegistrationReasoner
from anatrust.reference.rehearsal import Rehearsal, RehearsedReasoner
from anatrust.studies.phantom import phantom_scan

FAST = RegistrationReasoner(RegistrationSettings(voxels=60_000, demons_steps=15, mirrored=False))


@pytest.fixture(scope="module")
def references() -> tuple[Reference, ...]:
    made = [phantom_scan(seed, lesions=0, quick=True) for seed in (11, 12)]
    return tuple(Reference(p.scan, p.anatomy, f"phantom {k}") for k, p in enumerate(made))


def test_organs_are_found_in_another_patient(references: tuple[Reference, ...]) -> None:
    target = phantom_scan(3, lesions=0, quick=True)
    provider = ReferenceAnchors(references, reasoner=FAST)
    assert isinstance(provider, AnchorProvider)
    assert isinstance(FAST, Reasoner)
    liver, kidney, brain = provider.find(target.scan, ["liver", "kidney", "brain"])
    assert liver.mask is not None
    numbers = {name: n for n, name in target.anatomy.names.items()}
    assert dice(target.anatomy.array == numbers["liver"], liver.mask.array) > 0.75
    assert kidney.mask is not None
    assert 0 < liver.quality <= 1
    assert brain.status == "missing"
    assert brain.reasons == ("no reference shows it",)
    assert "2 references" in provider.identity


def test_the_provider_serves_the_segment_chain(references: tuple[Reference, ...], tmp_path: Path) -> None:
    from anatrust.cli.segment_command import _anchors
    from anatrust.pipeline.segment import segment

    bank = ReferenceBank.build(references)
    save_bank(tmp_path / "a.bank", bank)
    (loaded,) = _anchors([f"reference={tmp_path / 'a.bank'}"], "cpu")
    assert loaded.name == "reference"
    with pytest.raises(InputError, match=r"reference=FILE\.bank"):
        _anchors(["reference"], "cpu")
    target = phantom_scan(3, lesions=2, quick=True)
    verdict = segment(target.scan, "liver tumour", anchors=[ReferenceAnchors(bank, reasoner=FAST)])
    assert not any("no anchor" in f.sentence.lower() for f in verdict.findings)
    assert verdict.candidates


def test_without_a_suitable_reference_every_anchor_is_missing(references: tuple[Reference, ...]) -> None:
    bank = ReferenceBank.build(references)
    rng = np.random.default_rng(0)
    shape = references[0].scan.grid.shape
    noise = Scan(rng.normal(size=shape), references[0].scan.grid, "MR")
    (liver,) = ReferenceAnchors(bank, reasoner=FAST).find(noise, ["liver"])
    assert liver.status == "missing"
    assert "no suitable reference" in liver.reasons[0]
    with pytest.raises(InputError, match="at least one"):
        ReferenceAnchors([])


def test_an_organ_of_which_little_is_expected_is_unreliable(references: tuple[Reference, ...]) -> None:
    target = phantom_scan(3, lesions=0, quick=True)
    liver = next(n for n, name in target.anatomy.names.items() if name == "liver")
    for dice_seen, status in ((0.5, "unreliable"), (0.9, "ok")):
        rehearsal = Rehearsal({liver: ((0.7, dice_seen),) * 3})
        provider = ReferenceAnchors(references, reasoner=RehearsedReasoner(FAST, rehearsal))
        (found,) = provider.find(target.scan, ["liver"])
        assert found.status == status
        assert any("is to be expected" in reason for reason in found.reasons) == (status == "unreliable")
