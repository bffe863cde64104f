"""The whole judgement on small phantoms: decisions, invariances, reasons."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anatrust import rejection
from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.rejection import GateSettings, RejectionSettings, TissueSettings, candidate_scores, reject
from anatrust.statistics.conformal_p import CohortNull

OPEN = GateSettings(enabled=False)


def _stored(array, grid, order, flips):
    """An image stored in another axis order, at the same place in the patient."""
    affine = np.array(grid.affine)
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (grid.shape[axis] - 1)
            affine[:3, axis] *= -1
            array = np.flip(array, axis)
    affine[:3, : grid.ndim] = affine[:3, list(order)]
    return np.transpose(array, order), Grid(tuple(grid.shape[a] for a in order), affine, grid.spacing_known)


def _turned(phantom, order, flips):
    pieces = [_stored(image.array, phantom.scan.grid, order, flips) for image in vars(phantom).values()]
    scan, labels, anatomy = (
        replace(image, array=array, grid=grid)
        for image, (array, grid) in zip(vars(phantom).values(), pieces, strict=True)
    )
    return scan, labels, anatomy


def _judged(result):
    return [
        (c.number, c.voxels, c.decision, c.p_value, c.q_value, c.placement_p, c.statistic, c.contrast, c.centroid_world)
        for c in result.candidates
    ]


@pytest.fixture(scope="module")
def cohort(phantom_2d):
    """Scores of the phantom's candidates in 24 livers without a lesion."""
    per_patient = []
    for seed in range(100, 124):
        healthy = phantom_2d(seed, lift=0.0)
        per_patient.append(candidate_scores(healthy.scan, healthy.labels, healthy.anatomy))
    return CohortNull(tuple(per_patient))


def test_golden_cohort(flat, cohort):
    result = reject(flat.scan, flat.labels, anatomy=flat.anatomy, cohort_null=cohort)
    assert (result.null, result.correction) == ("cohort", "familywise")
    assert [c.decision for c in result.candidates] == ["kept", "rejected", "rejected", "rejected"]
    lesion = result.candidates[0]
    assert lesion.voxels == 49
    assert lesion.volume == 49.0
    assert lesion.contrast == pytest.approx(4.0, abs=0.6)
    assert lesion.p_value == lesion.p_floor == 1 / 25
    assert lesion.tissue == "liver"
    assert lesion.placement_p is not None
    assert lesion.reason == "it differs from liver (p = 0.04, corrected 0.04, cohort)"
    assert "was not shown to differ from liver" in result.candidates[1].reason
    assert "24 lesion-free patients" in result.statements[0].text
    assert result.of("kept") == (lesion,)
    parts = [result.kept.array, result.rejected.array, result.undecidable.array]
    assert np.array_equal(np.sum(parts, axis=0), flat.labels.array)
    assert result.kept.array.sum() == 49
    assert result.kept.grid.same_as(flat.labels.grid)


def test_golden_placement(phantom_3d):
    phantom = phantom_3d()
    only = np.where(phantom.scan.array > 1e6, 0, phantom.labels.array)
    only[22:] = 0
    settings = RejectionSettings(null="placement", gates=OPEN)
    result = reject(phantom.scan, replace(phantom.labels, array=only), anatomy=phantom.anatomy, settings=settings)
    (lesion,) = result.candidates
    assert lesion.decision == "kept"
    assert lesion.p_value == lesion.p_floor == lesion.placement_p
    normal = np.where(only, 0, phantom.labels.array)
    result = reject(phantom.scan, replace(phantom.labels, array=normal), anatomy=phantom.anatomy, settings=settings)
    assert "kept" not in {c.decision for c in result.candidates}


@pytest.mark.parametrize("null", ["cohort", "placement", "block", "iid"])
def test_orientation_and_threads_change_nothing_2d(flat, cohort, null):
    settings = RejectionSettings(null=null, n_draws=99, placement_beside=False)
    given = {"cohort_null": cohort, "settings": settings, "seed": 3}
    reference = reject(flat.scan, flat.labels, anatomy=flat.anatomy, **given)
    # All eight where judging is quick, the hardest two elsewhere.
    orders = itertools.product(itertools.permutations(range(2)), itertools.product((False, True), repeat=2))
    for order, flips in list(orders)[:: 1 if null == "cohort" else 5]:
        scan, labels, anatomy = _turned(flat, order, flips)
        result = reject(scan, labels, anatomy=anatomy, **given)
        assert _judged(result) == _judged(reference)
        assert [c.reason for c in result.candidates] == [c.reason for c in reference.candidates]
        back, _ = _stored(reference.kept.array, flat.scan.grid, order, flips)
        assert np.array_equal(result.kept.array, back)


@pytest.mark.parametrize("features", ["intensity", "local"])
@pytest.mark.parametrize("anatomy", [True, False])
def test_orientation_changes_nothing_3d(solid, features, anatomy):
    settings = RejectionSettings(null="placement", features=features, n_draws=199)
    reference = None
    for order, flips in [
        ((0, 1, 2), (0, 0, 0)),
        ((2, 0, 1), (1, 0, 1)),
        ((1, 0, 2), (0, 1, 0)),
        ((2, 1, 0), (1, 1, 1)),
    ]:
        scan, labels, organs = _turned(solid, order, flips)
        result = reject(scan, labels, anatomy=organs if anatomy else None, settings=settings)
        reference = reference or result
        assert _judged(result) == _judged(reference)


def test_seeds(flat):
    settings = RejectionSettings(null="iid", n_draws=19, gates=OPEN, placement_beside=False)
    quiet = replace(flat, labels=replace(flat.labels, array=np.where(flat.scan.array > 125, 0, flat.labels.array)))
    runs = [
        [
            c.p_value
            for c in reject(quiet.scan, quiet.labels, anatomy=quiet.anatomy, settings=settings, seed=s).candidates
        ]
        for s in (0, 0, 1, 2, 3)
    ]
    assert runs[0] == runs[1]
    assert len({tuple(r) for r in runs[1:]}) > 1


def test_a_candidates_p_value_does_not_depend_on_far_away_ones(solid):
    settings = RejectionSettings(null="placement", gates=OPEN, n_draws=9_999)
    both = reject(solid.scan, solid.labels, anatomy=solid.anatomy, settings=settings)
    swapped = replace(solid.labels, array=np.where(solid.labels.array == 1, 7, 0).astype(np.uint8), names={7: "other"})
    renamed = reject(solid.scan, swapped, anatomy=solid.anatomy, settings=settings)
    assert _judged(both) == _judged(renamed)
    assert {c.name for c in renamed.candidates} == {"other"}


def _probabilities(phantom, inside, outside=0.1):
    chance = np.where(phantom.labels.array > 0, inside, outside).astype(np.float32)
    return ProbabilityMap(chance[None], phantom.labels.grid)


def test_gates_run_first(flat, cohort):
    small = GateSettings(min_area=40.0)
    settings = RejectionSettings(gates=small)
    given = {"anatomy": flat.anatomy, "cohort_null": cohort}
    result = reject(flat.scan, flat.labels, probabilities=_probabilities(flat, 0.9), settings=settings, **given)
    assert [c.decision for c in result.candidates] == ["kept", "rejected", "rejected", "rejected"]
    assert result.candidates[1].reason.startswith("gate L2: its size, 29 mm²")
    assert result.candidates[1].p_value is None
    assert [note.split(" of the ")[0] for note in result.notes] == ["The most atypical 40 %"]
    none = reject(flat.scan, flat.labels, probabilities=_probabilities(flat, 0.3), **given)
    assert {c.reason for c in none.candidates} == {"gate L1: the largest probability, 0.3, is below 0.5"}
    assert none.statements[0].text == "Nothing was tested, so nothing is claimed."
    assert (none.null, none.correction) == ("none", "none")
    unsure = reject(
        flat.scan,
        flat.labels,
        probabilities=_probabilities(flat, 0.9),
        settings=RejectionSettings(gates=GateSettings(case_score=50.0)),
        **given,
    )
    assert all(c.reason.startswith("gate L3") for c in unsure.candidates)
    without = reject(flat.scan, flat.labels, **given)
    assert "No probabilities were given" in without.notes[0]


def test_published_order_tests_first_and_drops_the_sentence(flat):
    gates = GateSettings(min_area=40.0)
    for correction, claims in (("by", False), ("focused-bh", True)):
        settings = RejectionSettings(null="iid", order="published", gates=gates, correction=correction)
        result = reject(
            flat.scan, flat.labels, anatomy=flat.anatomy, probabilities=_probabilities(flat, 0.9), settings=settings
        )
        assert all(c.p_value is not None for c in result.candidates)
        assert result.candidates[0].decision == "kept"
        late = [c.reason for c in result.candidates if "but gate L2" in c.reason]
        assert ("No error rate is claimed" in " ".join(c.text for c in result.statements)) != claims
        if not claims:
            assert late
            assert "it differs from liver" in late[0]
        assert all(c.decision == "rejected" for c in result.candidates[1:])
    refused = reject(
        flat.scan,
        flat.labels,
        anatomy=flat.anatomy,
        probabilities=_probabilities(flat, 0.2),
        settings=RejectionSettings(null="iid", order="published"),
    )
    assert all(c.reason.startswith("gate L1") for c in refused.candidates)


def test_one_sided_judgement(flat, cohort):
    given = {"anatomy": flat.anatomy, "cohort_null": cohort}
    bright = reject(flat.scan, flat.labels, settings=RejectionSettings(direction="brighter"), **given)
    assert bright.candidates[0].decision == "kept"
    dark = reject(flat.scan, flat.labels, settings=RejectionSettings(direction="darker"), **given)
    assert dark.candidates[0].decision == "rejected"
    assert dark.candidates[0].p_value == 1.0
    assert "only darker ones were asked for" in dark.candidates[0].reason
    scores = candidate_scores(flat.scan, flat.labels, flat.anatomy, RejectionSettings(direction="darker"))
    assert scores[0] == -np.inf


def test_constant_tissue_still_has_sides():
    grid = Grid((40, 40), np.eye(4))
    image = np.zeros((40, 40), np.float32)
    image[10:14, 10:14] = 5
    mask = Mask(image > 0, grid)
    organ = LabelMap(np.ones((40, 40), np.uint8), grid, {1: "liver"})
    for direction, sign in (("brighter", 1), ("darker", -1)):
        (score,) = candidate_scores(Scan(image, grid), mask, organ, RejectionSettings(direction=direction))
        assert (score > 0) == (sign > 0)
    result = reject(Scan(image, grid), mask, anatomy=organ, settings=RejectionSettings(null="placement"))
    assert result.candidates[0].contrast is None
    assert result.candidates[0].p_value == result.candidates[0].p_floor


def test_cohorts_that_are_too_small(flat, cohort):
    few = CohortNull(cohort.per_patient[:8])
    settings = RejectionSettings(null="cohort", alpha=0.1)
    result = reject(flat.scan, flat.labels, anatomy=flat.anatomy, cohort_null=few, settings=settings)
    assert {c.decision for c in result.candidates} == {"undecidable"}
    assert "smallest p-value this test could give, 0.111" in result.candidates[0].reason
    assert "4 candidates are undecidable" in " ".join(c.text for c in result.statements)
    with pytest.raises(InputError, match="needs lesion-free patients"):
        reject(flat.scan, flat.labels, settings=settings)


def test_random_draws_of_the_cohort(flat, cohort):
    settings = RejectionSettings(cohort_draw="random", alpha=0.2, placement_beside=False)
    result = reject(flat.scan, flat.labels, anatomy=flat.anatomy, cohort_null=cohort, settings=settings)
    assert (result.null, result.correction) == ("cohort", "bh")
    assert result.candidates[0].decision == "kept"
    assert result.candidates[0].placement_p is None


@pytest.mark.parametrize("correction", ["bh", "by", "ebh", "weighted-bh", "familywise"])
def test_every_correction_runs(flat, correction):
    settings = RejectionSettings(null="iid", correction=correction, n_draws=39, alpha=0.2, placement_beside=False)
    result = reject(flat.scan, flat.labels, anatomy=flat.anatomy, settings=settings)
    # The draws are raised until the floor allows a decision.
    assert result.candidates[0].decision == "kept"
    assert result.correction == correction


@pytest.mark.parametrize("reference", ["plain", "trimmed", "mixture"])
@pytest.mark.parametrize("features", ["intensity", "local"])
@pytest.mark.parametrize("null", ["placement", "block", "iid"])
def test_every_reference_and_feature_runs(flat, null, features, reference):
    settings = RejectionSettings(
        null=null,
        features=features,
        correction="familywise",
        n_draws=39,
        tissue=TissueSettings(reference=reference),
        placement_beside=False,
    )
    result = reject(flat.scan, flat.labels, anatomy=flat.anatomy, settings=settings)
    assert len(result.candidates) == 4
    # Few draws: the lesion is at or near the floor.
    assert result.candidates[0].p_value <= result.candidates[0].p_floor + 0.05


def _contaminated(phantom_2d, share=0.08):
    phantom = phantom_2d(5)
    image = np.array(phantom.scan.array)
    side = round((share * 6000) ** 0.5)
    cyst = np.zeros(image.shape, bool)
    cyst[70 : 70 + side, 50 : 50 + side] = True
    image[cyst] -= 120
    labels = np.array(phantom.labels.array)
    labels[cyst] = 0
    labels[78:83, 58:63] = 1
    scan = replace(phantom.scan, array=image)
    return scan, replace(phantom.labels, array=labels), phantom.anatomy


def test_contaminated_references(phantom_2d):
    scan, labels, anatomy = _contaminated(phantom_2d)
    scores = {
        reference: candidate_scores(
            scan, labels, anatomy, RejectionSettings(tissue=TissueSettings(reference=reference))
        )
        for reference in ("plain", "trimmed", "mixture")
    }
    found = reject(scan, labels, anatomy=anatomy, settings=RejectionSettings(null="placement"))
    position = next(k for k, c in enumerate(found.candidates) if c.voxels == 25)
    lesion = 0
    # A piece of the cyst differs from the tissue, but not from the cyst's own class.
    assert scores["plain"][position] > 0.5 * 25**0.5
    assert scores["mixture"][position] < scores["plain"][position] / 4
    # The true lesion differs from every class; without the cyst the tissue's mean lies nearer to it.
    assert scores["mixture"][lesion] > 0.5 * 49**0.5
    assert scores["trimmed"][lesion] >= scores["plain"][lesion] * 0.9


def test_mixture_with_placements_needs_a_place_in_every_class(phantom_2d):
    scan, labels, anatomy = _contaminated(phantom_2d)
    settings = RejectionSettings(null="placement", tissue=TissueSettings(reference="mixture"), gates=OPEN)
    result = reject(scan, labels, anatomy=anatomy, settings=settings)
    piece = next(c for c in result.candidates if c.voxels == 25)
    assert piece.decision != "kept"
    assert all(c.reason for c in result.candidates)


# Degenerate input: a reason for each candidate, never an exception.


def _decide(image, mask, organs=None, **options):
    grid = options.pop("grid", None) or Grid(image.shape, np.eye(4))
    anatomy = None if organs is None else LabelMap(organs.astype(np.uint8), grid, {1: "liver"})
    settings = RejectionSettings(**{"null": "placement", "gates": OPEN, "n_draws": 99, **options})
    return reject(Scan(image, grid), Mask(mask, grid, "lesion"), anatomy=anatomy, settings=settings)


def _noise(shape, seed=0):
    return np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)


def _square(shape, start, stop):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(start, stop) for _ in shape)] = True
    return mask


def test_the_candidate_is_the_whole_organ():
    organ = _square((40, 40), 10, 30)
    for null in ("placement", "iid", "block"):
        (candidate,) = _decide(_noise((40, 40)), organ, organ, null=null).candidates
        assert candidate.decision == "undecidable"
        assert "has 0 voxels left beside the candidates" in candidate.reason
        assert candidate.p_value is None


def test_single_voxels_and_empty_masks():
    mask = np.zeros((30, 30), bool)
    mask[5, 5] = True
    (candidate,) = _decide(_noise((30, 30)), mask, np.ones((30, 30))).candidates
    assert candidate.decision == "undecidable"
    assert candidate.reason == "it has 1 voxel, and a comparison needs at least 2"
    empty = _decide(_noise((30, 30)), np.zeros((30, 30), bool), np.ones((30, 30)))
    assert empty.candidates == ()
    assert [c.text for c in empty.statements] == ["Nothing was tested, so nothing is claimed."]
    assert not empty.kept.array.any()


def test_the_mask_fills_the_image():
    (candidate,) = _decide(_noise((12, 12)), np.ones((12, 12), bool)).candidates
    assert candidate.decision == "undecidable"


def test_everything_is_constant():
    mask = _square((30, 30), 5, 9)
    for null in ("placement", "iid", "block"):
        (candidate,) = _decide(np.full((30, 30), 7.0, np.float32), mask, np.ones((30, 30)), null=null).candidates
        assert candidate.decision in ("rejected", "undecidable")
        assert candidate.reason


def test_too_large_a_candidate_abstains_by_its_floor():
    image = _noise((30, 30))
    mask = _square((30, 30), 4, 16)
    image[mask] += 50
    # The shape fits at 361 places, itself included: no p-value is below 1/361.
    (candidate,) = _decide(image, mask, np.ones((30, 30)), alpha=0.0025).candidates
    assert candidate.decision == "undecidable"
    assert candidate.p_value == candidate.p_floor == pytest.approx(1 / 361)
    assert "is above the 0.0025 needed" in candidate.reason


def test_grey_values_too_large_to_square():
    image = np.random.default_rng(0).normal(0, 1e300, (30, 30))
    (candidate,) = _decide(image, _square((30, 30), 5, 9), np.ones((30, 30)), features="local").candidates
    assert candidate.decision == "undecidable"
    assert "not finite" in candidate.reason


def test_unknown_spacing_and_photos():
    image = np.clip(_noise((90, 90)), 0, 255).astype(np.uint8)
    mask = _square((90, 90), 40, 45)
    image[mask] += 90
    grid = Grid.without_spacing((90, 90))
    result = reject(
        Scan(image, grid, "photo"), Mask(mask, grid, "spot"), settings=RejectionSettings(null="iid", n_draws=199)
    )
    (candidate,) = result.candidates
    assert candidate.decision == "kept"
    assert candidate.volume is None
    assert candidate.tissue == "body within 20 px of it"


def test_very_anisotropic_voxels():
    shape = (40, 40, 4)
    image = _noise(shape)
    mask = np.zeros(shape, bool)
    mask[10:16, 10:16, 1] = True
    image[mask] += 60
    grid = Grid(shape, np.diag([0.5, 0.5, 10.0, 1.0]))
    (candidate,) = _decide(image, mask, np.ones(shape), grid=grid, null="iid").candidates
    assert candidate.decision == "kept"
    assert candidate.volume == 90.0


def test_two_tissues(flat):
    labels = np.array(flat.labels.array)
    labels[111:114, 59:62] = 1
    settings = RejectionSettings(null="placement", gates=OPEN)
    result = reject(flat.scan, replace(flat.labels, array=labels), anatomy=flat.anatomy, settings=settings)
    assert {c.tissue for c in result.candidates} == {"liver", "spleen"}


def test_where_there_is_only_the_body_the_verdict_says_what_helps(flat):
    for null, words in (("surrogate-max", "Organs (--anatomy)"), ("placement", "an organ (--anatomy) makes it exact")):
        settings = RejectionSettings(null=null, n_surrogates=19, placement_beside=False)
        around = reject(flat.scan, flat.labels, settings=settings).notes
        assert words in around[-1]
        organ = reject(flat.scan, flat.labels, anatomy=flat.anatomy, settings=settings).notes
        assert not any("--anatomy" in note for note in organ)


@pytest.mark.parametrize(("value", "side"), [(3.0, "above"), (-3.0, "below")])
def test_of_what_could_not_be_decided_the_verdict_says_what_is_known(value, side):
    """Half of the tissue is of one grey value, so it has no texture: the default null abstains, placement does not."""
    grid = Grid((60, 60), np.eye(4))
    rng = np.random.default_rng(0)
    image = np.where(rng.random(grid.shape) > 0.8, rng.normal(size=grid.shape), 0).astype(np.float32)
    mask = np.zeros(grid.shape, dtype=bool)
    mask[20:26, 30:36] = True
    image[mask] += value
    organ = LabelMap(np.ones(grid.shape, np.uint8), grid, {1: "liver"})
    found = reject(Scan(image, grid), Mask(mask, grid, "lesion"), anatomy=organ)
    [candidate] = found.candidates
    assert candidate.decision == "undecidable"
    assert candidate.placement_p == 0.001
    assert candidate.reason.startswith("the tissue is nearly constant: there is no texture to compare with; known is")
    assert f"standard deviations {side} that of liver, and that 0.1 % of the places tried" in candidate.reason
    assert "a profile of lesion-free scans (--profile) decides" in found.notes[-1]
    assert found.statements[0].text == "No candidate could be decided, so nothing is claimed."
    alone = reject(
        Scan(image, grid), Mask(mask, grid, "lesion"), anatomy=organ, settings=RejectionSettings(placement_beside=False)
    )
    assert alone.candidates[0].reason == "the tissue is nearly constant: there is no texture to compare with"


@pytest.mark.parametrize("beside", [True, False])
def test_progress_counts_every_comparison_and_can_stop(flat, beside):
    settings = RejectionSettings(null="placement" if not beside else "surrogate-max", n_surrogates=19)
    told = []
    found = reject(
        flat.scan, flat.labels, anatomy=flat.anatomy, settings=settings, progress=lambda *at: told.append(at)
    )
    tested = sum(not c.reason.startswith("gate") for c in found.candidates)
    total = 2 * tested if beside else tested
    assert told[0] == (0, total)
    assert told[-1] == (total, total)
    assert told == sorted(told)

    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reject(flat.scan, flat.labels, anatomy=flat.anatomy, settings=settings, progress=stop)


def test_images_on_other_grids_are_refused(flat):
    other = Grid(flat.scan.grid.shape, np.eye(4))
    with pytest.raises(GeometryError, match="mask and the scan lie on different grids"):
        reject(replace(flat.scan, grid=other), flat.labels)
    with pytest.raises(GeometryError, match="mask and the anatomy lie"):
        reject(flat.scan, flat.labels, anatomy=replace(flat.anatomy, grid=other))


def test_scores_of_vectors(flat):
    local = candidate_scores(flat.scan, flat.labels, flat.anatomy, RejectionSettings(features="local"))
    assert local[0] > 2 * max(local[1:])
    assert candidate_scores(flat.scan, replace(flat.labels, array=0 * flat.labels.array), flat.anatomy).size == 0


def test_the_tissue_is_trimmed_where_other_patients_are_the_null_and_whole_where_this_scan_is(flat, cohort):
    def judged(reference: str, **given) -> list[tuple[float | None, float | None]]:
        settings = RejectionSettings(tissue=TissueSettings(reference=reference), **given)
        null = None if given.get("null") == "surrogate-max" else cohort
        found = reject(flat.scan, flat.labels, anatomy=flat.anatomy, cohort_null=null, settings=settings)
        return [(c.statistic, c.placement_p) for c in found.candidates]

    auto, plain, trimmed = (judged(reference) for reference in ("auto", "plain", "trimmed"))
    assert [s for s, _ in auto] == [s for s, _ in trimmed] != [s for s, _ in plain]
    # The placement test beside it needs the odd places of this scan.
    assert [p for _, p in auto] == [p for _, p in plain] != [p for _, p in trimmed]
    assert judged("auto", null="surrogate-max") == judged("plain", null="surrogate-max")
    assert candidate_scores(flat.scan, flat.labels, flat.anatomy)[0] == auto[0][0]


def test_public_names():
    assert rejection.reject is reject
    with pytest.raises(AttributeError, match="no attribute 'rejected'"):
        _ = rejection.rejected


def test_golden_surrogates(phantom_2d):
    strong = phantom_2d(0, lift=60.0)
    result = reject(strong.scan, strong.labels, anatomy=strong.anatomy)
    assert (result.null, result.correction) == ("surrogate-max", "familywise")
    assert [c.decision for c in result.candidates] == ["kept", "rejected", "rejected", "rejected"]
    assert result.candidates[0].q_value == result.candidates[0].p_value
    assert all(c.placement_p is not None for c in result.candidates)
    assert result.statements[0].text.startswith("Approximately, the probability that any kept candidate is normal")
    scan, labels, anatomy = _turned(strong, (1, 0), (0, 1))
    assert _judged(reject(scan, labels, anatomy=anatomy)) == _judged(result)


def test_surrogates_of_several_tissues_share_the_level(flat):
    labels = np.array(flat.labels.array)
    labels[109:116, 57:64] = 1
    settings = RejectionSettings(gates=OPEN, placement_beside=False)
    result = reject(flat.scan, replace(flat.labels, array=labels), anatomy=flat.anatomy, settings=settings)
    tested = [c for c in result.candidates if c.p_value is not None]
    families = len({c.tissue for c in tested})
    assert all(c.q_value == pytest.approx(min(1.0, families * c.p_value)) for c in tested)
    assert {c.tissue for c in result.candidates} == {"liver", "spleen"}


def test_surrogates_with_classes_and_vectors(phantom_2d):
    scan, labels, anatomy = _contaminated(phantom_2d)
    mixture = RejectionSettings(
        tissue=TissueSettings(reference="mixture"), gates=OPEN, placement_beside=False, alpha=0.3, n_surrogates=19
    )
    result = reject(scan, labels, anatomy=anatomy, settings=mixture)
    tested = [c for c in result.candidates if c.p_value is not None]
    # Each candidate has maxima of its own, so all of them share the level.
    assert all(c.q_value == pytest.approx(min(1.0, len(result.candidates) * c.p_value)) for c in tested)
    local = RejectionSettings(features="local", n_surrogates=19, placement_beside=False)
    assert all(c.reason for c in reject(scan, labels, anatomy=anatomy, settings=local).candidates)


@pytest.mark.parametrize("shape", [(96, 96), (56, 48, 40)])
def test_more_contrast_is_never_less_evidence(shape):
    """A large lesion of 8 to 1 000 standard deviations in a scan without organs and without Hounsfield units."""
    rng = np.random.default_rng(1)
    texture = gaussian_filter(rng.normal(size=shape), 1.5)
    places = np.indices(shape)
    lesion = sum((axis - 0.4 * n) ** 2 for axis, n in zip(places, shape, strict=True)) <= 10**2
    grid = Grid(shape, np.eye(4))
    labels = LabelMap(lesion.astype(np.uint8), grid, {1: "lesion"})
    settings = RejectionSettings(null="surrogate-max", placement_beside=False)
    for contrast in (8, 64, 1000):
        image = 10 + texture / texture.std() + contrast * gaussian_filter(lesion.astype(float), 1.0)
        [candidate] = reject(Scan(image.astype(np.float32), grid, "PET"), labels, settings=settings).candidates
        assert candidate.decision == "kept", contrast
