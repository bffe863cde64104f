"""What else sets can promise: within groups, for the worst structure, for lesions; and graphs of deep features."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anatrust.conformal.recipe import ScoreRecipe
from anatrust.errors import InputError
from anatrust.image import read_mask, read_probabilities, read_scan
from anatrust.image.volumes import LabelMap
from anatrust.image.write import write_mask
from anatrust.models.encoders import EncoderChoice
from anatrust.pipeline import fit_scores
from anatrust.pipeline.assess import assess
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.fit import fit
from anatrust.pipeline.fit_sets import SetOptions, fit_sets
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.sets import SetsSection
from anatrust.pipeline.verify import verify

from .test_fit_sets import GRID, table, write_patient


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("options")
    for number in range(40):
        write_patient(made, number, channels=2)
    return made


def grouped(folder: Path, groups: list[str], first: int = 0) -> Cohort:
    with (folder / "groups.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "image", "probabilities", "truth", "group"])
        for n, group in enumerate(groups, first):
            writer.writerow([n, f"{n}-scan.nii.gz", f"{n}-soft.nii.gz", f"{n}-truth.nii.gz", group])
    return Cohort.read(folder / "groups.csv")


def most_probable(soft: Path) -> LabelMap:
    """The mask that probabilities give."""
    maps = read_probabilities(soft)
    return LabelMap(maps.array.argmax(axis=0).astype(np.uint8), maps.grid)


def losses(section: SetsSection, folder: Path, number: int) -> list[tuple[float, float]]:
    """Missed and invented share of each structure."""
    from anatrust.pipeline.sets import predict_sets

    scan = read_scan(folder / f"{number}-scan.nii.gz")
    truth = read_mask(folder / f"{number}-truth.nii.gz", reference=scan.grid)
    soft = read_probabilities(folder / f"{number}-soft.nii.gz", reference=scan.grid)
    sets = predict_sets(section, scan, probabilities=soft, mask=truth)
    found = []
    for one, label in zip(sets, section.labels, strict=True):
        there = truth.array == label
        missed = (there & ~one.outer.array).sum() / there.sum()
        found.append((float(missed), min(1.0, float((one.inner.array & ~there).sum() / there.sum()))))
    return found


def test_groups_large_enough_get_thresholds_of_their_own(folder: Path, tmp_path: Path) -> None:
    cohort = grouped(folder, ["A"] * 24 + ["B"] * 12)
    found = fit_sets(cohort, SetOptions(tune=False))
    section = found.section
    assert section is not None
    assert set(section.groups) == {"A", "B"}
    assert section.split["groups"] == {"A": [0, 24], "B": [0, 12]}
    alone = fit_sets(grouped(folder, ["A"] * 24), SetOptions(tune=False)).section
    assert alone is not None
    own = section.of_group("A")
    assert [c.outer.threshold for c in own] == [c.outer.threshold for c in alone.calibrations]
    assert all(c.outer.sentence.startswith("within group A, ") for c in own)
    assert section.of_group("C") == section.of_group(None) == section.calibrations
    again = SetsSection.from_json(section.to_json())
    assert again.to_json() == section.to_json()

    profile = fit(cohort)
    sources = [folder / f"38-{what}.nii.gz" for what in ("scan", "truth")]
    soft = folder / "38-soft.nii.gz"
    assert profile.bounds is not None
    assert "A" in profile.bounds.groups
    write_mask(tmp_path / "mask.nii.gz", most_probable(soft))
    shown = {}
    for group, words in (
        ("A", ("within group A", "scans of group A like these")),
        ("C", ("no thresholds of group C", "no bounds of group C")),
    ):
        verdict = assess(
            sources[0], tmp_path / "mask.nii.gz", probabilities=soft, profile=profile, kind="organ", group=group
        )
        told = (*[s.text for s in verdict.statements], *verdict.notes)
        assert all(any(one in text for text in told) for one in words)
        shown[group] = verdict.bounds
    assert shown["A"] != shown["C"]


def test_a_site_is_tested_by_the_bounds_of_its_group(folder: Path) -> None:
    """Bounds within a group that nobody can keep break at every scan of the group, and at no other."""
    profile = fit(grouped(folder, ["A"] * 16 + ["B"] * 12))
    bounds = profile.bounds
    assert bounds is not None
    strict = {name: replace(one, margin=-9.0, alpha=0.1) for name, one in bounds.bounds.items()}
    odd = replace(profile, bounds=replace(bounds, groups={"A": strict}))
    for group, seen in (("A", 1.0), ("", 0.0)):
        site = grouped(folder, [group] * 12, 28)
        check = next(c for c in verify(odd, site).checks if c.promise.endswith("a bound of volume"))
        assert check.realised == pytest.approx(seen, abs=0.3)
    with pytest.raises(InputError, match="3 of its 12 scans were fitted on"):
        verify(odd, grouped(folder, ["A"] * 12, 25))


def test_thin_groups_are_named_and_get_the_average(folder: Path) -> None:
    found = fit_sets(grouped(folder, ["A"] * 20 + ["B"] * 4), SetOptions(tune=False))
    assert found.section is not None
    assert set(found.section.groups) == {"A"}
    assert any("group B has 4 of the 9 calibration patients needed" in note for note in found.notes)
    sure = fit_sets(grouped(folder, ["A"] * 20), SetOptions(tune=False, assurance=0.01))
    assert sure.section is not None
    assert not sure.section.groups
    assert "sets: group A gets no promise of its own: 20 patients cannot assure it" in sure.notes
    thin = fit_sets(grouped(folder, ["A"] * 28 + ["B"] * 4))
    assert thin.bounds is not None
    assert set(thin.bounds.groups) == {"A"}
    assert any("group B" in note and "for bounds of its own" in note for note in thin.notes)


def test_the_worst_structure_is_promised_together(folder: Path) -> None:
    together = fit_sets(table(folder, range(24)), SetOptions(tune=False, simultaneous=True)).section
    apart = fit_sets(table(folder, range(24)), SetOptions(tune=False)).section
    assert together is not None
    assert apart is not None
    outer = {c.outer.threshold for c in together.calibrations}
    assert len(outer) == 1
    assert min(outer) <= max(c.outer.threshold for c in apart.calibrations)
    worst = [max(pair[0] for pair in losses(together, folder, n)) for n in range(24)]
    # Exactly what was promised of the calibration patients themselves.
    assert sum(worst) <= 25 * 0.1 - 1 + 1e-9
    assert all("worst structure" in c.outer.sentence for c in together.calibrations)


def test_lesions_count_one_by_one(folder: Path) -> None:
    plain = fit_sets(table(folder, range(24)), SetOptions(tune=False)).section
    both = fit_sets(table(folder, range(24)), SetOptions(tune=False, lesion_wise=True)).section
    assert plain is not None
    assert both is not None
    for one, other in zip(both.calibrations, plain.calibrations, strict=True):
        assert one.outer.threshold <= other.outer.threshold
        assert "share of lesions hardly touched" in one.outer.sentence


def test_assurance_makes_larger_sets(folder: Path) -> None:
    plain = fit_sets(table(folder, range(40)), SetOptions(tune=False)).section
    sure = fit_sets(table(folder, range(40)), SetOptions(tune=False, assurance=0.2)).section
    assert plain is not None
    assert sure is not None
    assert sure.calibrations[0].outer.threshold < plain.calibrations[0].outer.threshold
    assert "confidence 0.8" in sure.calibrations[0].outer.sentence


def test_sets_on_a_graph_of_the_segmenters_own_features(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fit, save, load and assess with an encoder that has weights; its features are kept by content."""
    torch = pytest.importorskip("torch")
    from anatrust.models.unet import UNet, UNetConfig

    torch.manual_seed(0)
    UNet(UNetConfig(3, ("background", "a", "b"), (4, 8))).save(tmp_path / "net")
    walk = ScoreRecipe("graph", {"laziness": 0.5, "steps": 2})
    monkeypatch.setattr(fit_scores, "candidate_recipes", lambda **_: (walk,))
    choice = EncoderChoice("segmenter", str(tmp_path / "net"), layer=1)
    profile = fit(table(folder, range(16)), encoder=choice, cache=tmp_path / "rows")
    assert len(list((tmp_path / "rows" / "features").iterdir())) == 16
    profile.save(tmp_path / "p.profile")
    again = Profile.load(tmp_path / "p.profile")
    assert again.sets is not None
    assert again.sets.choice.weights == "net"
    assert again.sets.encoder.startswith("segmenter/1 stage=1 weights=")
    sources = [folder / f"30-{what}.nii.gz" for what in ("scan", "truth")]
    options = {"probabilities": folder / "30-soft.nii.gz", "kind": "organ", "profile": again}
    verdict = assess(*sources, encoder_weights=str(tmp_path / "net"), **options)  # type: ignore[arg-type]
    assert verdict.sets[0].outer_voxels > 0
    # Elsewhere the folder's name alone finds nothing, and other weights are refused.
    with pytest.raises(InputError, match="net"):
        assess(*sources, **options)  # type: ignore[arg-type]
    torch.manual_seed(1)
    UNet(UNetConfig(3, ("background", "a", "b"), (4, 8))).save(tmp_path / "other")
    with pytest.raises(InputError, match="another version of the encoder segmenter"):
        assess(*sources, encoder_weights=str(tmp_path / "other"), **options)  # type: ignore[arg-type]


def test_the_stage_of_the_segmenter_is_chosen_on_tuning_patients(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from anatrust.models.unet import UNet, UNetConfig

    recipes = (ScoreRecipe("probability"), *(ScoreRecipe("graph", {"laziness": a, "steps": 2}) for a in (0.5, 0.8)))
    monkeypatch.setattr(fit_scores, "candidate_recipes", lambda **_: recipes)
    chosen = []
    for seed in range(2):
        torch.manual_seed(seed)
        net = tmp_path / f"net {seed}"
        UNet(UNetConfig(3, ("background", "a", "b"), (4, 8))).save(net)
        worth = []
        for stage in (0, 1):
            fixed = fit_sets(
                table(folder, range(16)), SetOptions(encoder=EncoderChoice("segmenter", str(net), layer=stage))
            )
            assert fixed.section is not None
            worth.append(
                [min(row["relative"] for row in t["rows"][1:]) for t in fixed.section.tunings if t is not None]
            )
        found = fit_sets(table(folder, range(16)), SetOptions(encoder=EncoderChoice("segmenter", str(net))))
        assert found.section is not None
        chosen.append(found.section.choice.layer)
        assert chosen[-1] == np.argmin(np.mean(worth, axis=1))
        assert f"sets: of the segmenter's stages, stage {chosen[-1]} makes the best graph" in found.notes
        assert f"stage={chosen[-1]} " in found.section.encoder
    untuned = fit_sets(table(folder, range(16)), SetOptions(encoder=EncoderChoice("segmenter", str(net)), tune=False))
    assert untuned.section is not None
    assert untuned.section.choice.layer == 1


@pytest.mark.parametrize("slices", [0.0, 1.0])
def test_patches_are_averaged_without_a_copy_for_each_voxel(slices: float, tmp_path: Path) -> None:
    """The same score from an encoder's patches as from its features at every voxel."""
    torch = pytest.importorskip("torch")
    from anatrust.image.volumes import Scan
    from anatrust.models.encoders import make_encoder
    from anatrust.models.unet import UNet, UNetConfig
    from anatrust.pipeline.sets import DescribedScan, described_for

    torch.manual_seed(0)
    UNet(UNetConfig(3, ("background", "a"), (4, 8))).save(tmp_path / "net")
    encoder = make_encoder(EncoderChoice("segmenter", str(tmp_path / "net")))
    rng = np.random.default_rng(3)
    scan = Scan(rng.normal(size=GRID.shape).astype(np.float32), GRID)
    p = rng.uniform(size=GRID.shape)
    walk = ScoreRecipe("graph", {"laziness": 0.5, "steps": 2, "slices": slices})
    near = described_for(walk, scan, encoder)
    assert np.asarray(near()).shape[:-1] != GRID.shape
    by_voxel = walk.score(p, scan.array, GRID, DescribedScan(scan, encoder))
    np.testing.assert_allclose(walk.score(p, scan.array, GRID, near), by_voxel, atol=1e-6)
    plain = described_for(ScoreRecipe("encoder-lattice"), scan, encoder)
    assert np.asarray(plain()).shape[:-1] == GRID.shape


def test_profiles_without_deep_graphs_need_no_encoder(folder: Path) -> None:
    section = fit_sets(table(folder, range(12)), SetOptions(tune=False)).section
    assert section is not None
    assert section.make_encoder() is None
    assert GRID.ndim == 3
    assert np.isfinite(section.alpha)
