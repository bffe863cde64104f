"""The way of one scan, on a phantom trunk: what is written, what is said, what is refused."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import nibabel
import numpy as np
import pytest
from PIL import Image

from anatrust import assess
from anatrust.errors import InputError
from anatrust.image.read import read_mask
from anatrust.image.volumes import LabelMap, Scan
from anatrust.pipeline import assess as pipeline_assess
from anatrust.pipeline.outputs import output_folder
from anatrust.pipeline.profile import Profile, RejectionSection
from anatrust.pipeline.verdict import Verdict
from anatrust.rejection.settings import RejectionSettings, TissueSettings
from anatrust.statistics.conformal_p import CohortNull

WRITTEN = ["candidates.csv", "kept.nii.gz", "rejected.nii.gz", "report.html", "run.json", "verdict.json"]


def profile(*, anatomy: bool = True, modality: str = "CT", patients: int = 19, **settings: object) -> Profile:
    scores = tuple(np.array([10.0 * k]) for k in range(patients))
    section = RejectionSection(RejectionSettings(**settings), CohortNull(scores), patients, anatomy)  # type: ignore[arg-type]
    return Profile("some segmenter", modality, "0" * 64, section)


@pytest.fixture
def files(tmp_path: Path, trunk: Scan, liver_lesion: LabelMap) -> dict[str, Path]:
    """A trunk with a dark lesion in the liver, a normal blob drawn beside it, and the liver."""
    x, y, z = np.meshgrid(*[np.arange(n) for n in trunk.array.shape], indexing="ij")
    liver = ((x - 32) / 13) ** 2 + ((y - 42) / 15) ** 2 + ((z - 4) / 9) ** 2 < 1
    blob = (x - 26) ** 2 + (y - 33) ** 2 + ((z - 3) * 1.25) ** 2 < 9
    image = np.where(liver_lesion.array == 1, trunk.array - 60, trunk.array).astype(np.int16)
    mask = (liver_lesion.array + blob).clip(0, 1).astype(np.uint8)
    paths = {}
    for name, array in (("scan", image), ("mask", mask), ("liver", liver.astype(np.uint8))):
        paths[name] = tmp_path / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(array, trunk.grid.affine), paths[name])
    return paths


def judge(files: dict[str, Path], **changes: object) -> Verdict:
    given: dict[str, object] = {
        "anatomy": files["liver"],
        "anatomy_names": {1: "liver"},
        "modality": "CT",
        "profile": profile(),
    }
    return assess(files["scan"], files["mask"], **{**given, **changes})  # type: ignore[arg-type]


def test_the_whole_way_of_a_lesion_mask(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    stages: list[str] = []
    verdict = judge(files, out=out, progress=lambda stage, done, total: stages.append(f"{stage} {done}/{total}"))
    assert [c.decision for c in verdict.candidates] == ["kept", "rejected"]
    assert (verdict.decision, verdict.null, verdict.kind) == ("review", "cohort", "lesion")
    assert sorted(p.name for p in out.iterdir()) == WRITTEN
    compared = [f"comparisons {done}/4" for done in (0, 2, 3, 4, 4)]
    assert stages == ["read 0/4", "inspect 1/4", "judge 2/4", *compared, "write 3/4", "done 4/4"]
    plain = json.loads((out / "verdict.json").read_text())
    jsonschema.validate(plain, Verdict.json_schema())
    assert Verdict.from_json(plain) == verdict
    assert [s.level for s in verdict.statements if s.strength != "none"] == [0.1]
    mask = np.asarray(nibabel.load(files["mask"]).dataobj)
    kept, rejected = (np.asarray(nibabel.load(out / f"{n}.nii.gz").dataobj) for n in ("kept", "rejected"))
    assert np.array_equal(kept + rejected, mask)
    assert kept[32, 42, 6] == 1
    assert np.array_equal(nibabel.load(out / "kept.nii.gz").affine, nibabel.load(files["scan"]).affine)
    with (out / "candidates.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(r["number"], r["decision"]) for r in rows] == [("1", "kept"), ("2", "rejected")]
    assert [float(r["p_value"]) for r in rows] == [c.p_value for c in verdict.candidates]
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")


def test_without_a_page_writer_there_is_no_page(files: dict[str, Path], tmp_path: Path) -> None:
    given = {"kind": "organ", "modality": "CT", "out": tmp_path / "out"}
    verdict = pipeline_assess.assess(files["scan"], files["liver"], **given)  # type: ignore[arg-type]
    assert "report" not in verdict.files
    assert not (tmp_path / "out" / "report.html").exists()


def test_the_run_record_says_what_made_the_result(files: dict[str, Path], tmp_path: Path) -> None:
    judge(files, out=tmp_path / "out", seed=5)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["seed"] == 5
    assert record["configuration"]["rejection"]["alpha"] == 0.1
    assert record["inputs"]["scan"]["name"] == "scan.nii.gz"
    for role in ("scan", "mask"):
        assert record["inputs"][role]["sha256"] != ""
    for name in ("verdict.json", "kept.nii.gz", "report.html"):
        data = (tmp_path / "out" / name).read_bytes()
        assert record["outputs"][name] == hashlib.sha256(data).hexdigest()
    assert str(tmp_path) not in json.dumps(record)
    assert {"read", "inspect", "judge", "write"} == set(record["timings"])
    assert record["packages"]["numpy"] == np.__version__


def test_the_same_input_gives_the_same_files(files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        judge(files, out=tmp_path / name)
    for file in ("verdict.json", "kept.nii.gz", "candidates.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_verdict_does_not_depend_on_the_stored_orientation(files: dict[str, Path], tmp_path: Path) -> None:
    turned = {}
    for name, path in files.items():
        image = nibabel.load(path)
        turn = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt("SPL")
        )
        turned[name] = tmp_path / f"turned_{name}.nii.gz"
        nibabel.save(image.as_reoriented(turn), turned[name])
    one, two = judge(files), judge(turned)
    assert two.scan.orientation == "SPL"
    for a, b in zip(one.candidates, two.candidates, strict=True):
        assert (a.p_value, a.statistic, a.decision, a.centroid_world) == (
            b.p_value,
            b.statistic,
            b.decision,
            b.centroid_world,
        )


def test_objects_in_memory_are_judged_like_files(files: dict[str, Path], tmp_path: Path) -> None:
    images = {name: nibabel.load(path) for name, path in files.items()}
    expected, found = judge(files), judge(images, out=tmp_path / "out")  # type: ignore[arg-type]
    assert found.candidates == expected.candidates
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["inputs"]["mask"]["name"] == "Nifti1Image in memory"
    assert record["configuration"]["anatomy_names"] == {"1": "liver"}


def test_an_error_of_the_gate_means_abstain_and_nothing_is_judged(files: dict[str, Path], tmp_path: Path) -> None:
    full = tmp_path / "full.nii.gz"
    image = nibabel.load(files["mask"])
    nibabel.save(nibabel.Nifti1Image(np.ones(image.shape, np.uint8), image.affine), full)
    verdict = judge({**files, "mask": full}, out=tmp_path / "out")
    assert (verdict.decision, verdict.candidates, verdict.null) == ("abstain", (), "none")
    assert not np.asarray(nibabel.load(tmp_path / "out" / "kept.nii.gz").dataobj).any()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*WRITTEN, "undecidable.nii.gz"])


def test_an_empty_mask_is_reviewed(files: dict[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.nii.gz"
    image = nibabel.load(files["mask"])
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), empty)
    verdict = judge({**files, "mask": empty}, out=tmp_path / "out")
    assert verdict.decision == "review"
    assert any("empty" in reason for reason in verdict.reasons)


def test_organs_are_checked_for_form_only(files: dict[str, Path], tmp_path: Path) -> None:
    verdict = assess(files["scan"], files["liver"], names={1: "liver"}, modality="CT", out=tmp_path / "out")
    assert (verdict.kind, verdict.decision, verdict.candidates) == ("organ", "accept", ())
    assert [s.name for s in verdict.structures] == ["liver"]
    assert "not tested" in verdict.statements[0].text
    assert verdict.statements[0].strength == "none"
    assert (tmp_path / "out" / "structures.csv").read_text().count("\n") == 2
    assert verdict.files["structures"] == "structures.csv"


def test_what_is_kept_rejected_and_undecidable_is_the_mask(files: dict[str, Path], tmp_path: Path) -> None:
    """A third candidate, outside the liver and without a profile that could judge it."""
    image = nibabel.load(files["mask"])
    array = np.asarray(image.dataobj).copy()
    array[48:51, 18:22, 10:12] = 1
    path = tmp_path / "three.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, image.affine), path)
    out = tmp_path / "out"
    verdict = assess(
        files["scan"], path, modality="CT", alpha=0.001, settings=RejectionSettings(null="placement"), out=out
    )
    assert verdict.counts()["undecidable"] > 0
    assert verdict.files["undecidable"] == "undecidable.nii.gz"
    parts = [np.asarray(nibabel.load(out / verdict.files[n]).dataobj) for n in ("kept", "rejected", "undecidable")]
    assert np.array_equal(np.sum(parts, axis=0), array)
    assert parts[2].sum() == sum(c.voxels for c in verdict.candidates if c.decision == "undecidable")
    assert "undecidable.nii.gz" in json.loads((out / "run.json").read_text())["outputs"]
    # Judged again with nothing left open, the folder holds no undecidable mask of the run before.
    again = judge(files, out=out)
    assert "undecidable" not in again.files
    assert sorted(p.name for p in out.iterdir()) == WRITTEN


def test_where_nothing_was_judged_all_is_undecidable(files: dict[str, Path], tmp_path: Path) -> None:
    logits = np.full((100, 80, 24), 0.5, np.float32)
    scan = tmp_path / "constant.nii.gz"
    nibabel.save(nibabel.Nifti1Image(logits, nibabel.load(files["scan"]).affine), scan)
    verdict = assess(scan, files["mask"], modality="CT", out=tmp_path / "out")
    assert verdict.decision == "abstain"
    mask = np.asarray(nibabel.load(files["mask"]).dataobj)
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "out" / "undecidable.nii.gz").dataobj), mask)


def test_a_file_of_somebody_else_stays(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "run.json").write_text('{"outputs": {"../escape": "", "gone.nii.gz": "", "old.nii.gz": ""}}')
    (out / "old.nii.gz").write_text("of the run before")
    (tmp_path / "escape").write_text("not in this folder")
    judge(files, out=out)
    assert sorted(p.name for p in out.iterdir()) == sorted([*WRITTEN, "notes.txt"])
    assert (tmp_path / "escape").exists()


def test_a_liver_on_the_wrong_side_is_said_in_words(files: dict[str, Path], tmp_path: Path) -> None:
    """A label map mirrored left to right: the mask is reviewed, an anatomy beside a lesion is warned of."""
    image = nibabel.load(files["liver"])
    liver = np.asarray(image.dataobj)
    spleen = np.zeros_like(liver)
    spleen[62:74, 36:48, 0:8] = 2
    organs = np.where(spleen > 0, spleen, liver)
    table = {1: "liver", 2: "spleen"}
    found = {}
    for name, array in (("right", organs[::-1]), ("wrong", organs)):
        path = tmp_path / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array), image.affine), path)
        verdict = assess(files["scan"], path, names=table, modality="CT")
        assert verdict.kind == "organ"
        found[name] = [f for f in verdict.findings if f.code == "organ-on-wrong-side"]
        beside = assess(files["scan"], files["mask"], anatomy=path, anatomy_names=table, modality="CT")
        assert [f.sentence for f in beside.findings if f.code == "organ-on-wrong-side"] == [
            f.sentence.replace("In the mask", "In the anatomy") for f in found[name]
        ]
    assert found["right"] == []
    assert [f.severity for f in found["wrong"]] == ["warning"]
    assert found["wrong"][0].sentence == "In the mask: the liver lies to the left of the spleen."


def test_a_broken_organ_is_reviewed(files: dict[str, Path], tmp_path: Path) -> None:
    image = nibabel.load(files["liver"])
    array = np.asarray(image.dataobj).copy()
    array[30:34, 40:44, 2:6] = 0
    array[46:52, 38:44, 2:5] = 2
    path = tmp_path / "organs.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, image.affine), path)
    verdict = assess(files["scan"], path, kind="organ", modality="CT", out=tmp_path / "out")
    assert verdict.decision == "review"
    assert any("label 1: holes" in reason for reason in verdict.reasons)
    rejected = np.asarray(nibabel.load(tmp_path / "out" / "rejected.nii.gz").dataobj)
    assert np.array_equal(rejected > 0, array == 1)


def test_pictures_give_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    image = rng.normal(120, 8, (80, 90)).clip(0, 255).astype(np.uint8)
    image[20:30, 30:40] = 190
    mask = np.zeros((80, 90), np.uint8)
    mask[20:30, 30:40] = 255
    for name, array in (("image.png", image), ("mask.png", mask)):
        Image.fromarray(array).save(tmp_path / name)
    verdict = assess(
        tmp_path / "image.png", tmp_path / "mask.png", settings=RejectionSettings(null="iid"), out=tmp_path / "out"
    )
    assert verdict.scan.unit == "px"
    assert verdict.files["kept"] == "kept.png"
    assert verdict.candidates[0].volume is None
    assert {f.code for f in verdict.findings} == {"spacing-unknown"}
    roles = [n for n in ("kept", "rejected", "undecidable") if n in verdict.files]
    parts = [read_mask(tmp_path / "out" / verdict.files[n]).array != 0 for n in roles]
    assert np.array_equal(np.sum(parts, axis=0), mask != 0)


def test_a_profile_makes_the_null(files: dict[str, Path], tmp_path: Path) -> None:
    profile().save(tmp_path / "p.profile")
    verdict = judge(files, profile=tmp_path / "p.profile", out=tmp_path / "out")
    assert verdict.null == "cohort"
    assert verdict.candidates[0].p_value == pytest.approx(1 / 20)
    assert [c.decision for c in verdict.candidates] == ["kept", "rejected"]
    assert any(s.strength == "exact" and s.level == 0.1 for s in verdict.statements)
    assert any("some segmenter" in s.text for s in verdict.statements)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["inputs"]["profile"]["name"] == "p.profile"


def test_alpha_sets_all_levels(files: dict[str, Path]) -> None:
    verdict = judge(files, alpha=0.2)
    assert verdict.levels.to_json() == {"candidates": 0.2, "sets": 0.2, "screening": 0.2}
    assert [s.level for s in verdict.statements if s.level is not None] == [0.2]


@pytest.mark.parametrize(
    ("given", "changes", "message"),
    [
        (profile(anatomy=False), {}, "fitted without anatomy"),
        (profile(), {"anatomy": None, "anatomy_names": None}, "fitted with anatomy"),
        (profile(modality="MR"), {}, "fitted on MR"),
        (profile(), {"settings": RejectionSettings(features="local")}, "other settings"),
        (Profile("s", "CT", "0" * 64), {"settings": RejectionSettings(null="cohort")}, "needs a profile"),
        (None, {"settings": RejectionSettings(null="cohort")}, "needs a profile"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(
    files: dict[str, Path], given: Profile | None, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        judge(files, **{"profile": given, **changes})


def test_settings_that_do_not_change_scores_may_differ_from_the_profile(files: dict[str, Path]) -> None:
    settings = replace(RejectionSettings(), null="placement", n_draws=99)
    assert judge(files, settings=settings).null == "placement"


def test_a_profile_of_before_the_tissue_was_trimmed_judges_as_it_did(files: dict[str, Path]) -> None:
    """Its settings say "plain"; defaults given beside it do not change that."""
    old = profile(tissue=TissueSettings(reference="plain", trim=0.1))
    then = judge(files, profile=old)
    beside = judge(files, profile=old, settings=RejectionSettings(n_draws=99))
    assert [c.statistic for c in then.candidates] == [c.statistic for c in beside.candidates]
    assert not any("atypical" in note for note in then.notes)
    now = judge(files, profile=profile())
    assert [c.statistic for c in now.candidates] != [c.statistic for c in then.candidates]
    assert any(note.startswith("The most atypical 40 % of the normal tissue was left out") for note in now.notes)


@pytest.mark.parametrize(
    ("changes", "message"), [({"kind": "bone"}, "auto, lesion or organ"), ({"alpha": 2.0}, "between 0 and 1")]
)
def test_wrong_arguments(files: dict[str, Path], changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        judge(files, **changes)


@pytest.mark.parametrize("role", ["mask", "liver"])
def test_a_mask_or_anatomy_on_another_grid_is_brought_over_and_said(files: dict[str, Path], role: str) -> None:
    file, code = files[role], f"{'mask' if role == 'mask' else 'anatomy'}-resampled"
    stored = nibabel.load(file)
    array, affine = np.asarray(stored.dataobj).copy(), stored.affine.copy()
    before = judge(files)
    assert code not in [f.code for f in before.findings]

    nibabel.save(nibabel.Nifti1Image(array[:-1], affine), file)  # its last plane was empty
    cut = judge(files)
    [said] = [f for f in cut.findings if f.code == code]
    assert said.severity == "info"
    assert f"({array.shape[0] - 1}x{array.shape[1]}x{array.shape[2]} voxels".removeprefix("(") in said.sentence
    assert cut.candidates == before.candidates

    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = array.shape[0] - 1
    nibabel.save(nibabel.Nifti1Image(array[::-1], affine @ flip), file)
    assert judge(files).findings == before.findings  # the same voxels in another order

    affine[:3, 3] += 40
    nibabel.save(nibabel.Nifti1Image(array, affine), file)
    with pytest.raises(InputError, match=rf"{file.name}: the mask has the scan's shape"):
        judge(files)


@pytest.mark.parametrize(
    "stage", ["read 0/4", "inspect 1/4", "judge 2/4", "comparisons 0/4", "comparisons 3/4", "write 3/4"]
)
def test_an_interrupted_run_leaves_nothing(files: dict[str, Path], tmp_path: Path, stage: str) -> None:
    def interrupt(now: str, done: int, total: int) -> None:
        if f"{now} {done}/{total}" == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(files, out=tmp_path / "out", progress=interrupt)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_keeps_the_results_before(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    judge(files, out=out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def stop(folder: Path) -> None:
        (folder / "verdict.json").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), output_folder(out) as folder:
        stop(folder)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_output_folders_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError), output_folder(path):
            pass


def test_an_old_profile_judges_by_its_old_score(files: dict[str, Path]) -> None:
    new = judge(files).candidates[0].statistic
    old_profile = profile(score="mmd2-volume/2")
    old = judge(files, profile=old_profile).candidates[0].statistic
    assert new is not None
    assert old is not None
    assert old > 10 * new  # volumes of thousands of mm³ against their roots
    # Settings that leave the score open take the profile's.
    assert judge(files, profile=old_profile, settings=RejectionSettings()).candidates[0].statistic == old
    with pytest.raises(InputError, match="fitted with other settings"):
        judge(files, profile=old_profile, settings=RejectionSettings(score="compact-contrast/1"))
