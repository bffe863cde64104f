"""The profile file: round trip, golden artefact, and everything that must be refused."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from anatrust.errors import AnatrustError, FormatError, InputError
from anatrust.pipeline.archive import _checksum, read_archive, write_archive
from anatrust.pipeline.profile import Profile, RejectionSection
from anatrust.rejection.settings import RejectionSettings, TissueSettings
from anatrust.statistics.conformal_p import CohortNull

GOLDEN = Path(__file__).parent / "data" / "golden_v1.profile"


def example() -> Profile:
    """What the golden file holds; written once by ``example().save(GOLDEN)`` with version 0.1.0."""
    scores = (np.array([0.25, 0.5]), np.array([]), np.array([0.125]), np.array([0.75, 0.0625, 0.375]))
    tissue = TissueSettings(reference="plain", trim=0.1)  # the defaults of then
    section = RejectionSection(
        RejectionSettings(alpha=0.2, features="local", tissue=tissue, score="mmd2-volume/2"),
        CohortNull(scores),
        5,
        True,
    )
    return Profile("golden segmenter", "CT", "ab" * 32, section, ("sets: no truth in the table",), "0.1.0")


def same(one: Profile, two: Profile) -> bool:
    assert one.rejection is not None
    assert two.rejection is not None
    scores = [sorted(tuple(sorted(s)) for s in p.rejection.null.per_patient) for p in (one, two)]  # type: ignore[union-attr]
    plain = [
        (p.segmenter, p.modality, p.cohort_hash, p.not_fitted, p.version, p.rejection.settings, p.rejection.scans)  # type: ignore[union-attr]
        for p in (one, two)
    ]
    return scores[0] == scores[1] and plain[0] == plain[1] and one.rejection.anatomy == two.rejection.anatomy


def test_round_trip_and_same_bytes(tmp_path: Path) -> None:
    example().save(tmp_path / "a.profile")
    loaded = Profile.load(tmp_path / "a.profile")
    assert same(loaded, example())
    loaded.save(tmp_path / "b.profile")
    assert (tmp_path / "a.profile").read_bytes() == (tmp_path / "b.profile").read_bytes()
    assert loaded.rejection is not None
    assert loaded.rejection.null.p_value(0.6) == pytest.approx(2 / 5)
    assert "4 lesion-free patients" in "\n".join(loaded.describe())


def test_the_first_schema_version_stays_readable() -> None:
    assert same(Profile.load(GOLDEN), example())
    assert any("score mmd2-volume/2" in line for line in Profile.load(GOLDEN).describe())


def test_a_profile_names_its_score(tmp_path: Path) -> None:
    null = CohortNull((np.array([0.5]),))
    new = Profile("s", "CT", "0" * 64, RejectionSection(RejectionSettings(), null, 1, False))
    new.save(tmp_path / "new.profile")
    loaded = Profile.load(tmp_path / "new.profile").rejection
    assert loaded is not None
    assert loaded.settings.score == "compact-contrast/1"
    assert any("score compact-contrast/1" in line for line in new.describe())


@pytest.mark.parametrize(
    ("patients", "draw", "said"),
    [
        (79, "maximum", "at level 0.1 95 % of cohorts of this size let 0.04 to 0.17 of"),
        (79, "random", ""),
        (8, "maximum", ""),
    ],
)
def test_a_profile_says_how_far_one_cohort_may_be_off(patients: int, draw: str, said: str) -> None:
    null = CohortNull(tuple(np.array([k / 10]) for k in range(patients)))
    settings = RejectionSettings(alpha=0.1, **{"cohort_draw": draw})
    lines = Profile("s", "CT", "0" * 64, RejectionSection(settings, null, patients, False)).describe()
    assert said in lines[1]
    assert ("of cohorts" in lines[1]) is bool(said)


def test_the_second_schema_version_stays_readable() -> None:
    """Sets with groups, and bounds; written once by `fit` with version 0.1.0."""
    profile = Profile.load(GOLDEN.with_name("golden_v2.profile"))
    assert profile.sets is not None
    assert profile.bounds is not None
    assert [c.recipe.label for c in profile.sets.calibrations] == ["bilateral", "bilateral width=3"]
    assert set(profile.sets.groups) == {"site A"}
    assert profile.sets.split["groups"] == {"site A": [3, 13]}
    assert profile.sets.choice.name == "local-descriptors"
    assert profile.bounds.bounds["dice"].margin == pytest.approx(0.12563600782778775)
    assert profile.bounds.history.shape == (13, 2)
    assert sum(line.startswith("bounds of label") for line in profile.describe()) == 2


def test_a_partial_profile_is_legal(tmp_path: Path) -> None:
    Profile("s", "unknown", "0" * 64, None, ("rejection: no lesion-free patient",)).save(tmp_path / "p.profile")
    assert Profile.load(tmp_path / "p.profile").rejection is None


def test_every_truncation_is_refused_in_one_line(tmp_path: Path) -> None:
    data = GOLDEN.read_bytes()
    path = tmp_path / "cut.profile"
    for length in [0, 1, 3, *range(10, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(FormatError) as error:
            Profile.load(path)
        assert "\n" not in str(error.value)


def test_every_flipped_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    data = GOLDEN.read_bytes()
    path = tmp_path / "flipped.profile"
    refused = 0
    for position in range(0, len(data), 7):
        changed = bytearray(data)
        changed[position] ^= 0x10
        path.write_bytes(changed)
        try:
            loaded = Profile.load(path)
        except AnatrustError:
            refused += 1
        else:
            # Dates and attributes in the zip's directory are no content.
            assert same(loaded, example())
    assert refused > 0.5 * len(data) / 7


def rewritten(path: Path, change: object) -> Path:
    """The golden file with its document changed and its checksum made right again."""
    with zipfile.ZipFile(GOLDEN) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(members["profile.json"])
    document.pop("checksum")
    change(document)  # type: ignore[operator]
    document["checksum"] = _checksum(document)
    members["profile.json"] = json.dumps(document).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema_version=3), "newer than 2: upgrade"),
        (lambda d: d.update(schema_version="1"), "unknown schema version"),
        (lambda d: d.update(schema_version=0), "unknown schema version"),
        (lambda d: d.update(format="other"), "not an anatrust profile"),
        (lambda d: d["sections"]["rejection"].update(patients=9), "9 patients"),
        (
            lambda d: d["sections"]["rejection"].update(score="mmd2/9"),
            "scored by mmd2/9, this version knows the scores compact",
        ),
        (lambda d: d["sections"]["rejection"].pop("score"), "scored by mmd2-volume/1, this version knows"),
        (lambda d: d["sections"]["rejection"].pop("scans"), "inconsistent"),
        (lambda d: d["sections"]["rejection"]["settings"].update(alpha=7), "inconsistent"),
        (lambda d: d["sections"]["rejection"]["settings"].update(new_option=1), "inconsistent"),
        (lambda d: d["arrays"].update({"more.npz": "0"}), "missing or were added"),
        (lambda d: d.pop("segmenter"), "inconsistent"),
    ],
)
def test_documents_that_make_no_sense(tmp_path: Path, change: object, message: str) -> None:
    with pytest.raises(FormatError, match=message) as error:
        Profile.load(rewritten(tmp_path / "x.profile", change))
    assert "\n" not in str(error.value)


def test_a_changed_document_is_noticed(tmp_path: Path) -> None:
    with zipfile.ZipFile(GOLDEN) as old, zipfile.ZipFile(tmp_path / "x.profile", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"golden segmenter", b"other segmenter!"))
    with pytest.raises(FormatError, match="changed"):
        Profile.load(tmp_path / "x.profile")


def test_foreign_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "foreign.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(FormatError, match=r"without profile\.json"):
        Profile.load(tmp_path / "foreign.zip")
    (tmp_path / "text.profile").write_text("id,image")
    with pytest.raises(FormatError, match="no profile"):
        Profile.load(tmp_path / "text.profile")
    for absent in (tmp_path / "absent.profile", tmp_path):
        with pytest.raises(InputError, match="there is no file"):
            Profile.load(absent)


def test_zip_bombs_are_not_unpacked(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.profile"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("profile.json", bytes(9 * 2**20))
    assert bomb.stat().st_size < 20_000
    with pytest.raises(FormatError, match="unpack to more"):
        read_archive(bomb, "profile.json", limit=8 * 2**20)
    data = bytearray(bomb.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.find(signature) + offset
        # A gigabyte by the header: refused before anything is unpacked.
        data[place : place + 4] = struct.pack("<I", 2**30)
    bomb.write_bytes(data)
    with pytest.raises(FormatError, match="unpack to more than 512 MB"):
        Profile.load(bomb)
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.find(signature) + offset
        # A thousand bytes by the header, nine million in truth.
        data[place : place + 4] = struct.pack("<I", 1000)
    bomb.write_bytes(data)
    with pytest.raises(FormatError):
        Profile.load(bomb)


def test_array_headers_that_lie_are_refused(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    npz = io.BytesIO()
    with zipfile.ZipFile(npz, "w") as archive:
        archive.writestr("scores.npy", member.getvalue() + b"12345678")
    write_archive(tmp_path / "ok.zip", "d.json", {}, {"a": {"scores": np.arange(3.0)}})
    assert read_archive(tmp_path / "ok.zip", "d.json")[1]["a"]["scores"].tolist() == [0, 1, 2]
    import hashlib

    document: dict[str, object] = {"arrays": {"a.npz": hashlib.sha256(npz.getvalue()).hexdigest()}}
    document["checksum"] = _checksum(document)
    with zipfile.ZipFile(tmp_path / "lie.zip", "w") as archive:
        archive.writestr("d.json", json.dumps(document))
        archive.writestr("a.npz", npz.getvalue())
    with pytest.raises(FormatError, match="does not fit"):
        read_archive(tmp_path / "lie.zip", "d.json")


def test_objects_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot hold"):
        write_archive(tmp_path / "x.zip", "d.json", {}, {"a": {"scores": np.array([{}], dtype=object)}})
    assert list(tmp_path.iterdir()) == []
