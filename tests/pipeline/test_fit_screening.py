"""What screening can be made of: networks, radiomics, made-up strange scans, groups; caches, tables and drift."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anatrust.cli.main import run
from anatrust.errors import FormatError, InputError
from anatrust.image import read_mask, read_scan, write_scan
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.image.write import write_mask, write_probabilities
from anatrust.ood.crops import CropSettings
from anatrust.ood.features import ScanFeatures
from anatrust.ood.quality_features import QualityFeatures
from anatrust.ood.synthetic import shifted
from anatrust.pipeline.assess import assess
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.fit import fit
from anatrust.pipeline.fit_screening import fit_screening
from anatrust.pipeline.profile import Profile
from anatrust.pipeline.screen_cohort import by_date
from anatrust.pipeline.screening import scan_abnormality, screen_scan
from anatrust.pipeline.screening_cache import FeatureCache, Refused, row_features
from anatrust.pipeline.screening_features import Description, make_description

GRID = Grid((40, 36), np.eye(4))
SMALL = CropSettings(edge=32, draws=4)


def write_patient(folder: Path, number: int, *, gain: float = 1.0, smooth: float = 2.0) -> None:
    rng = np.random.default_rng([29, number])
    x, y = np.indices(GRID.shape)
    inside = (x - rng.uniform(15, 25)) ** 2 + (y - rng.uniform(13, 23)) ** 2 < 40
    noise = gaussian_filter(rng.normal(size=GRID.shape), smooth)
    image = (100 + 40 * inside + 20 * noise / noise.std()) * gain
    write_scan(folder / f"{number}-scan.nii.gz", Scan(image.astype(np.float32), GRID))
    write_mask(folder / f"{number}-mask.nii.gz", Mask(inside, GRID))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("scans")
    for number in range(60):
        write_patient(made, number, smooth=0.3 if number >= 45 else 2.0)
    return made


def table(folder: Path, rows: list[dict[str, object]], name: str = "cohort.csv") -> Path:
    columns = ["id", "image", "mask", "patient", "group", "outlier", "date"]
    with (folder / name).open("w", newline="") as handle:
        writer = csv.DictWriter(handle, columns, restval="")
        writer.writeheader()
        for row in rows:
            n = row["n"]
            given = {"id": n, "image": f"{n}-scan.nii.gz", "mask": f"{n}-mask.nii.gz"}
            writer.writerow(given | {k: v for k, v in row.items() if k != "n"})
    return folder / name


def usual(count: int, **more: object) -> list[dict[str, object]]:
    return [{"n": n, "outlier": "false", **more} for n in range(count)]


def verdict_of(profile: Profile, folder: Path, number: int, group: str | None = None) -> str:
    assert profile.screening is not None
    scan = read_scan(folder / f"{number}-scan.nii.gz")
    labels = read_mask(folder / f"{number}-mask.nii.gz", reference=scan.grid)
    return screen_scan(profile.screening, scan, labels, group=group)[0].verdict


def test_a_network_goes_along_in_the_profile(folder: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from anatrust.models.unet import UNet, UNetConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    UNet(UNetConfig(2, ("background", "a"), (4, 8))).save(tmp_path / "net")
    description = make_description(tmp_path / "net", SMALL)
    assert description.crops.intensity == "zscore"
    profile = fit(Cohort.read(table(folder, usual(30))), flag_rate=0.1, screening=description)
    profile.save(tmp_path / "p.profile")
    (tmp_path / "net").rename(tmp_path / "gone")
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    (tmp_path / "p.profile").rename(elsewhere / "q.profile")
    assert verdict_of(Profile.load(elsewhere / "q.profile"), folder, 50) == "strange"
    one = ["-i", str(folder / "50-scan.nii.gz"), "-m", str(folder / "50-mask.nii.gz")]
    command = [sys.executable, "-m", "anatrust", "screen", "--profile", "q.profile", *one]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("STRANGE")
    assert profile.screening is not None
    document, arrays = profile.screening.to_arrays()
    arrays = {n: v + 1 if n == "encoder.stages.0.0.weight" else v for n, v in arrays.items()}
    with pytest.raises(FormatError, match="other weights"):
        type(profile.screening).from_arrays(document, arrays)


def test_radiomics_of_the_mask(folder: Path) -> None:
    pytest.importorskip("mirp")
    description = make_description("radiomics")
    rows = Cohort.read(table(folder, [{"n": 1}, {"n": 50}]))
    one, other = (row_features(row, description) for row in rows)
    assert isinstance(one, ScanFeatures)
    assert isinstance(other, ScanFeatures)
    assert one.values.shape[0] == 1
    assert dict(one.levels)["glcm"] == 25
    assert one.identity == other.identity == description.identity
    again = row_features(rows.rows[0], description)
    assert isinstance(again, ScanFeatures)
    np.testing.assert_array_equal(one.values, again.values)
    # Fine-grained noise has more texture contrast than smooth tissue, on the same scale.
    assert not np.allclose(one.values, other.values, rtol=0.05)


def test_strange_scans_are_made_where_there_are_none(folder: Path) -> None:
    cohort = Cohort.read(table(folder, usual(35)))
    fitted = fit_screening(cohort, flag_rate=0.1, synthetic_outliers=True, description=make_description(crops=SMALL))
    assert fitted.section is not None
    assert {d.name for d in fitted.section.screener.detectors} == {"forest", "parts"}
    made = fitted.section.synthetic
    assert made is not None
    assert sum(made.values()) == 26
    assert any("26 of its strange scans were made from usual ones" in note for note in fitted.notes)
    document, arrays = fitted.section.to_arrays()
    assert type(fitted.section).from_arrays(document, arrays).synthetic == made
    with pytest.raises(InputError, match="learn from strange"):
        fit_screening(cohort, flag_rate=0.1, detectors=["forest"], description=make_description(crops=SMALL))
    with pytest.raises(InputError, match="no detector"):
        fit_screening(cohort, detectors=["magic"])
    with pytest.raises(InputError, match="cannot measure"):
        make_description("magic")


def test_calibration_by_group(folder: Path) -> None:
    rows = [{"n": n, "outlier": "false", "group": "AB"[n % 2]} for n in range(42)]
    how = make_description(crops=SMALL)
    fitted = fit_screening(Cohort.read(table(folder, rows)), flag_rate=0.1, by_group=True, description=how)
    assert fitted.section is not None
    assert set(fitted.section.screener.calibration or {}) == {"A", "B"}
    assert any("of group" in note for note in fitted.notes)  # 9 in all, so neither group has 9
    scan = read_scan(folder / "50-scan.nii.gz")
    labels = read_mask(folder / "50-mask.nii.gz", reference=scan.grid)
    each = [screen_scan(fitted.section, scan, labels, group=g)[0].p_value for g in "AB"]
    assert screen_scan(fitted.section, scan, labels)[0].p_value == max(p for p in each if p is not None)
    with pytest.raises(InputError, match="not calibrated"):
        screen_scan(fitted.section, scan, labels, group="C")


def test_the_cache_is_resumed_and_distrusts_what_it_reads(folder: Path, tmp_path: Path) -> None:
    how = make_description("histogram", SMALL)
    cache = FeatureCache(tmp_path)
    row = next(iter(Cohort.read(table(folder, [{"n": 3}]))))
    first = row_features(row, how, cache=cache)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", whole.replace(b'"anatrust"', b'"somebody"', 1)):
        file.write_bytes(damage)
        assert cache.read(row, how, None) is None
        again = row_features(row, how, cache=cache)
        assert isinstance(first, ScanFeatures)
        assert isinstance(again, ScanFeatures)
        np.testing.assert_array_equal(first.values, again.values)
    assert cache.read(row, how, None) is not None
    other = make_description("histogram", CropSettings(edge=64, draws=4))
    assert cache.read(row, other, None) is None
    assert cache.read(row, how, "CT") is None


def test_the_gate_and_empty_masks_are_rows_of_their_own(folder: Path, tmp_path: Path) -> None:
    fit(Cohort.read(table(folder, usual(30))), flag_rate=0.1, screening=make_description(crops=SMALL)).save(
        tmp_path / "p.profile"
    )
    write_patient(tmp_path, 0)
    write_mask(tmp_path / "0-mask.nii.gz", Mask(np.zeros(GRID.shape, bool), GRID))
    write_patient(tmp_path, 1)
    write_scan(tmp_path / "1-scan.nii.gz", Scan(np.full(GRID.shape, 7.0, np.float32), GRID))
    write_patient(tmp_path, 2)
    refused = row_features(next(iter(Cohort.read(table(tmp_path, [{"n": 1}])))), make_description(crops=SMALL))
    assert isinstance(refused, Refused)
    rows = table(tmp_path, [{"n": n} for n in range(3)])
    assert (
        run(["screen", str(rows), "--profile", str(tmp_path / "p.profile"), "-o", str(tmp_path / "r.csv"), "-q"]) == 0
    )
    with (tmp_path / "r.csv").open() as handle:
        found = list(csv.DictReader(handle))
    assert [r["verdict"] for r in found] == ["no_prediction", "refused", "usual"]
    assert (found[0]["components"], found[0]["volume_cc"], found[0]["abnormality"]) == ("0", "0", "")
    assert (found[2]["components"], found[2]["largest_share"]) == ("1", "1")
    assert not (tmp_path / "r.csv.rows").exists()


def test_drift_is_seen_over_time_and_the_monitor_goes_on(folder: Path, tmp_path: Path) -> None:
    fit(Cohort.read(table(folder, usual(30))), flag_rate=0.1, screening=make_description(crops=SMALL)).save(
        tmp_path / "p.profile"
    )
    later = [{"n": n, "date": f"2026-01-{n - 29:02d}"} for n in range(30, 45)]
    noisy = [{"n": n, "date": f"2026-02-{n - 44:02d}"} for n in range(45, 60)]
    base = ["--profile", str(tmp_path / "p.profile"), "--drift", "date", "--drift-level", "0.2", "-q"]

    def steps(rows: list[dict[str, object]], *more: str) -> list[dict[str, str]]:
        cohort = table(folder, rows, "drift.csv")
        assert run(["screen", str(cohort), "-o", str(tmp_path / "d.csv"), *base, *more]) == 0
        with (tmp_path / "d.csv").open() as handle:
            return list(csv.DictReader(handle))

    whole = steps((later + noisy)[::-1])  # the table's order does not matter, dates do
    assert [r["date"] for r in whole] == sorted(r["date"] for r in whole)
    assert whole[14]["alarm"] == "false"
    assert whole[-1]["alarm"] == "true"
    assert float(whole[-1]["online_p"]) < 0.7
    monitor = ("--monitor", str(tmp_path / "m.npz"))
    first, second = steps(later, *monitor), steps(noisy, *monitor)
    assert [r["wealth"] for r in first + second] == [r["wealth"] for r in whole]
    assert all(r["online_p"] == "" for r in steps(noisy[:2], *monitor))  # these patients are in already
    wrong = [str(table(folder, [{"n": 30, "date": "soon"}], "drift.csv")), "-o", str(tmp_path / "d.csv"), *base]
    assert run(["screen", *wrong]) == 2
    with pytest.raises(InputError, match="no column 'day': name the one that holds the dates"):
        by_date(Cohort.read(wrong[0]), "day")
    (tmp_path / "m.npz").write_bytes(b"nothing")
    good = str(table(folder, later, "drift.csv"))
    assert run(["screen", good, "-o", str(tmp_path / "d.csv"), *base, *monitor]) == 2


def test_few_patients_fit_and_calibrate_on_all_of_them(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nine usual patients cannot be split for a rate of 0.1; left out in turn they can, at a price that is said."""
    few = [*usual(9), *({"n": n, "outlier": "true"} for n in range(50, 60))]
    split = fit_screening(Cohort.read(table(folder, few)), flag_rate=0.1, description=make_description(crops=SMALL))
    assert any("--cross-conformal can" in note for note in split.notes)
    file = table(folder, few, "few.csv")
    command = ["fit", str(file), "-o", str(tmp_path / "p.profile"), "--flag-rate", "0.1", "-q"]
    command += ["--screen-with", "descriptors", "--crop-edge", "32"]
    assert run([*command, "--cross-conformal"]) == 0
    assert run(["info", str(tmp_path / "p.profile")]) == 0
    assert "9 patients fitted on, the same calibrated on" in capsys.readouterr().out
    one = ["-i", str(folder / "55-scan.nii.gz"), "-m", str(folder / "55-mask.nii.gz")]
    assert run(["assess", *one, "--profile", str(tmp_path / "p.profile"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert any("at most 0.2 are called strange" in statement["text"] for statement in said["statements"])
    profile = Profile.load(tmp_path / "p.profile")
    assert profile.screening is not None
    screener = profile.screening.screener
    assert (screener.n_calibration, len(screener.fit_patients), screener.promise) == (9, 9, 0.2)
    assert [d.name for d in screener.detectors] == ["forest", "mahalanobis"]
    assert any("each left out in turn (at most 0.2 flagged)" in line for line in profile.describe())
    assert verdict_of(profile, folder, 47) == "strange"
    assert [verdict_of(profile, folder, n) for n in range(20, 30)].count("strange") <= 4
    with pytest.raises(InputError, match="no groups"):
        fit_screening(Cohort.read(file), cross_conformal=True, by_group=True)


def test_a_histogram_stands_beside_other_features(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = table(folder, usual(30))
    command = ["fit", str(file), "-o", str(tmp_path / "p.profile"), "--flag-rate", "0.1", "--crop-edge", "32", "-q"]
    assert run([*command, "--screen-with", "descriptors+histogram"]) == 0
    profile = Profile.load(tmp_path / "p.profile")
    assert profile.screening is not None
    levels = dict(profile.screening.screener.levels)
    assert levels["histogram: histogram"] == 64
    assert len(levels) > 2
    assert any("descriptors and histogram" in line for line in profile.describe())
    assert verdict_of(profile, folder, 47) == "strange"
    labelled = [{"n": n, "outlier": str(n >= 45).lower(), "group": "AB"[n % 2]} for n in range(30, 60)]
    asked = ["screen", str(table(folder, labelled, "asked.csv")), "--profile", str(tmp_path / "p.profile")]
    assert run([*asked, "-o", str(tmp_path / "s.csv"), "--detection", str(tmp_path / "d.json")]) == 0
    assert "scans with a prediction: AUROC" in capsys.readouterr().out
    told = json.loads((tmp_path / "d.json").read_text())
    assert told["scored"]["auroc"][0] > 0.9
    assert set(told["false_flags"]) == {"all", "group = A", "group = B"}
    assert run([*asked, "-o", str(tmp_path / "s.csv"), "--detection", "d.json", "--by", "scanner"]) == 2
    alone, both = make_description("descriptors", SMALL), make_description("descriptors+histogram", SMALL)
    row = Cohort.read(file).rows[0]
    one, two = row_features(row, alone), row_features(row, both)
    assert isinstance(one, ScanFeatures)
    assert isinstance(two, ScanFeatures)
    np.testing.assert_array_equal(two.values[:, : one.values.shape[1]], one.values)
    assert two.identity == both.identity != alone.identity
    with pytest.raises(InputError, match="not beside radiomics"):
        make_description("radiomics+histogram")


def test_many_strange_scans_of_few_people_teach_no_forest(folder: Path) -> None:
    shown = [{"n": n, "outlier": "true", "patient": f"p{n % 4}"} for n in range(46, 60)]
    fitted = fit_screening(
        Cohort.read(table(folder, [*usual(30), *shown])), flag_rate=0.1, description=make_description(crops=SMALL)
    )
    assert fitted.section is not None
    assert [d.name for d in fitted.section.screener.detectors] == ["parts"]
    assert any("14 strange scans of 4 patients are too few" in note for note in fitted.notes)


def write_unsure(folder: Path, number: int, sure: float) -> None:
    """Probabilities of a patient's mask: inside ``sure`` on average, a little more or less from voxel to voxel."""
    rng = np.random.default_rng([31, number])
    inside = read_mask(folder / f"{number}-mask.nii.gz").array != 0
    share = np.where(inside, np.clip(sure + 0.02 * rng.normal(size=inside.shape), 0.01, 0.99), 0.01)
    write_probabilities(folder / f"{number}-soft.nii.gz", ProbabilityMap(share[None].astype(np.float32), GRID))


def test_how_sure_the_segmenter_is_stands_beside_where_it_is_known(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten scans look usual, but the segmenter is unsure of them: only its probabilities tell."""
    for number in range(45):
        write_unsure(folder, number, 0.95 if number < 35 else 0.8)
    rows = table(folder, usual(30))
    text = rows.read_text().splitlines()
    soft = [f"{line},{line.split(',')[0]}-soft.nii.gz" for line in text[1:]]
    rows.write_text("\n".join([f"{text[0]},probabilities", *soft]) + "\n")
    profile = str(tmp_path / "p.profile")
    command = ["fit", str(rows), "-o", profile, "--flag-rate", "0.1", "-q"]
    assert run([*command, "--screen-with", "mask+certainty"]) == 0
    capsys.readouterr()
    assert run(["info", profile]) == 0
    assert "mask and the segmenter's certainty" in capsys.readouterr().out
    one = ["-i", str(folder / "40-scan.nii.gz"), "-m", str(folder / "40-mask.nii.gz")]
    assert run(["screen", "--profile", profile, *one, "-p", str(folder / "40-soft.nii.gz")]) == 0
    assert capsys.readouterr().out.startswith("STRANGE")
    assert run(["screen", "--profile", profile, *one]) == 2
    assert "probabilities are missing (-p" in capsys.readouterr().err
    asked = folder / "asked.csv"
    header = "id,image,mask,probabilities\n"
    lines = [f"{n},{n}-scan.nii.gz,{n}-mask.nii.gz,{n}-soft.nii.gz" for n in (*range(30, 35), *range(35, 45))]
    asked.write_text(header + "\n".join([*lines, "without,41-scan.nii.gz,41-mask.nii.gz,"]) + "\n")
    assert run(["screen", str(asked), "--profile", profile, "-o", str(tmp_path / "s.csv"), "-q"]) == 0
    with (tmp_path / "s.csv").open() as handle:
        verdicts = {row["id"]: row["verdict"] for row in csv.DictReader(handle)}
    assert all(verdicts[str(n)] == "strange" for n in range(35, 45))
    assert sum(verdicts[str(n)] == "strange" for n in range(30, 35)) <= 2
    assert verdicts["without"] == "unreadable"
    paths = [folder / f"40-{what}.nii.gz" for what in ("scan", "mask")]
    silent = assess(*paths, profile=Profile.load(profile), kind="organ")
    assert silent.screening is None
    assert any("not screened" in note for note in silent.notes)
    told = assess(*paths, probabilities=folder / "40-soft.nii.gz", profile=Profile.load(profile), kind="organ")
    assert told.screening is not None
    assert told.screening.verdict == "strange"


def test_changed_copies_are_segmented_again_where_certainty_is_measured(folder: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from anatrust.models.unet import UNet, UNetConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    UNet(UNetConfig(2, ("background", "a"), (4, 8))).save(tmp_path / "net")
    for number in range(30):
        write_unsure(folder, number, 0.9)
    rows = table(folder, usual(30))
    text = rows.read_text().splitlines()
    soft = [f"{line},{line.split(',')[0]}-soft.nii.gz" for line in text[1:]]
    rows.write_text("\n".join([f"{text[0]},probabilities", *soft]) + "\n")
    cohort = Cohort.read(rows)
    with_net = make_description(f"{tmp_path / 'net'}+certainty", SMALL)
    assert with_net.certainty
    fitted = fit_screening(cohort, flag_rate=0.1, synthetic_outliers=True, description=with_net)
    assert fitted.section is not None
    assert fitted.section.synthetic
    with pytest.raises(InputError, match="no probabilities unless"):
        fit_screening(cohort, synthetic_outliers=True, description=make_description("mask+certainty"))
    plain = fit_screening(cohort, flag_rate=0.1, synthetic_outliers=True)
    assert plain.section is not None
    assert plain.section.measured.words == "mask and image quality"


def test_crops_are_not_chosen_where_none_are_measured(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", str(table(folder, usual(30))), "-o", str(tmp_path / "p.profile"), "--crop-edge", "32"]
    assert run(command) == 2
    assert "mask measures none" in capsys.readouterr().err
    with pytest.raises(InputError, match="cannot measure"):
        make_description("histogram+magic")
    both = make_description("descriptors+certainty+histogram+mask", SMALL)
    assert both.beside == ("histogram", "mask", "certainty")
    assert both.words == "descriptors and histogram and mask and the segmenter's certainty"
    with pytest.raises(InputError, match="not beside radiomics"):
        make_description("radiomics+mask")
    row = Cohort.read(table(folder, usual(2))).rows[0]
    beside, alone = make_description("descriptors+mask", SMALL), make_description("mask")
    one, two = row_features(row, beside), row_features(row, alone)
    assert isinstance(one, ScanFeatures)
    assert isinstance(two, ScanFeatures)
    np.testing.assert_array_equal(one.values[:, -two.values.shape[1] :], np.repeat(two.values, len(one.values), axis=0))
    assert one.identity == beside.identity != alone.identity
    assert one.levels[-len(two.levels) :] == tuple((f"mask: {name}", width) for name, width in two.levels)


def test_image_quality_stands_beside_the_mask_as_a_part_of_its_own(folder: Path) -> None:
    row = Cohort.read(table(folder, usual(2))).rows[0]
    mask, both = row_features(row, make_description("mask")), row_features(row, make_description())
    assert isinstance(mask, ScanFeatures)
    assert isinstance(both, ScanFeatures)
    scan = read_scan(row.image)
    quality = QualityFeatures().of(scan, identifier="any")
    np.testing.assert_array_equal(both.values, np.concatenate([mask.values, quality.values], axis=1))
    assert {name.partition(": ")[0] for name, _ in both.levels} == {"mask", "quality"}
    fitted = fit_screening(Cohort.read(table(folder, usual(30))), flag_rate=0.1)
    assert fitted.section is not None
    # A little noise is seen by the quality of the image, and the explanation says so.
    noisy = shifted(scan, LabelMap(np.ones(scan.grid.shape, np.uint8), scan.grid), "noise", 0.3)[0]
    assert row.mask is not None
    told, why = screen_scan(fitted.section, noisy, read_mask(row.mask, reference=scan.grid))
    assert told.verdict == "strange"
    assert why is not None
    assert [name for name, _ in why.levels] == ["quality", "mask"]


def test_a_profile_that_measures_something_newer_is_refused() -> None:
    plain, arrays = make_description("mask+quality").to_arrays()
    assert Description.from_arrays(plain, CropSettings(), arrays).identity == make_description().identity
    with pytest.raises(FormatError, match="newer than this version"):
        Description.from_arrays({**plain, "beside": ["magic"]}, CropSettings(), arrays)


@pytest.mark.parametrize(
    ("measured", "usual_one", "strange_one"),
    [("mask", 24.765944292325145, 266.41962039758386), ("crops", 329.57097641443295, 1870.197350097522)],
)
def test_profiles_from_before_image_quality_was_measured_judge_as_then(
    folder: Path, tmp_path: Path, measured: str, usual_one: float, strange_one: float
) -> None:
    """Written once by `fit_screening` at commit 68cbc05: ``mask``, and ``descriptors+histogram+mask`` of crops."""
    path = Path(__file__).parent / "data" / f"golden_screening_{measured}.profile"
    profile = Profile.load(path)
    assert profile.screening is not None
    profile.save(tmp_path / "again.profile")
    again = Profile.load(tmp_path / "again.profile").screening
    assert again is not None
    for number, expected in ((30, usual_one), (50, strange_one)):
        scan = read_scan(folder / f"{number}-scan.nii.gz")
        labels = read_mask(folder / f"{number}-mask.nii.gz", reference=scan.grid)
        for section in (profile.screening, again):
            assert scan_abnormality(section, scan, labels) == pytest.approx(expected, rel=1e-6)
    assert verdict_of(profile, folder, 30) == "usual"
    assert verdict_of(profile, folder, 50) == "strange"
