"""The scores that the cohort null ranks: their definitions, what they tell apart, and the level under each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Mask, ProbabilityMap, Scan
from anatrust.rejection import GateSettings, RejectionSettings, TissueSettings, candidate_scores, reject
from anatrust.rejection.case import prepare
from anatrust.rejection.comparison import compare_with
from anatrust.rejection.score import scores_of
from anatrust.rejection.settings import SCORES
from anatrust.statistics.conformal_p import CohortNull
from anatrust.statistics.kernels import Kernel, median_bandwidth
from anatrust.statistics.mmd import mmd2_unbiased

OPEN = GateSettings(enabled=False)


def disc(shape, centre, radius):
    rows, columns = np.indices(shape)
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def test_scores_agree_with_their_definitions(flat):
    old = RejectionSettings(score="mmd2-volume/2").under("cohort")
    case = prepare(flat.scan, flat.labels, anatomy=flat.anatomy, probabilities=None, settings=old)
    comparison = compare_with(case, case.tissues[0])
    inside = comparison.candidate(0)
    x, y = comparison.features[inside], comparison.features[comparison.normal]
    kernel = Kernel("gaussian", median_bandwidth(np.concatenate([x, y])))
    scale = len(x) * len(y) / (len(x) + len(y))
    scores = candidate_scores(flat.scan, flat.labels, flat.anatomy, old)
    assert scores[0] == pytest.approx(scale * mmd2_unbiased(x, y, kernel), rel=1e-9)
    # The new score: the disc of radius 4 has 49 pixels, and the shell around it reaches as far as its radius.
    away = ndimage.distance_transform_edt(~inside)
    shell = comparison.normal & (away <= (49 / np.pi) ** 0.5)
    reference = (comparison.features[shell].mean(dtype=float) + y.mean(dtype=float)) / 2
    whole = comparison.features[comparison.normal | comparison.dropped].astype(float)
    deviation = 1.4826 * np.median(np.abs(whole - np.median(whole)))
    contrast = (x.mean(dtype=float) - reference) / deviation
    candidate = case.components.candidates[0]
    round_squared = 4 * 49 / np.pi / candidate.diameter**2
    expected = 3 * np.tanh(contrast / 3) * 7 * round_squared
    assert candidate_scores(flat.scan, flat.labels, flat.anatomy)[0] == pytest.approx(expected, rel=1e-9)


def test_old_scores_are_what_they_were(flat):
    """Profiles of old judge as before: these numbers were written down when it was the only score."""
    old = RejectionSettings(score="mmd2-volume/2")
    found = candidate_scores(flat.scan, flat.labels, flat.anatomy, old)
    np.testing.assert_allclose(found, [63.40491236894239, 0.52893806079, 0.55204081473, 2.90876701165], rtol=1e-6)
    local = candidate_scores(flat.scan, flat.labels, flat.anatomy, replace(old, features="local"))
    np.testing.assert_allclose(local, [69.17609358757895, 2.81517559614, 2.96202255259, 3.51439549965], rtol=1e-4)


def _drawn(*shapes, lift=20.0, grid=None, chances=None, **options):
    """Scores of some drawn places of noise, each brighter by ``lift``, with the probabilities ``chances`` inside."""
    image = np.random.default_rng(3).normal(100, 10, (80, 80)).astype(np.float32)
    mask = np.logical_or.reduce(shapes)
    grid = grid or Grid(image.shape, np.eye(4))
    organ = LabelMap(np.ones(image.shape, np.uint8), grid, {1: "liver"})
    settings = RejectionSettings(gates=OPEN, **options)
    scan = Scan(image + lift * mask.astype(np.float32), grid)
    soft = None
    if chances is not None:
        soft = np.zeros(mask.shape, np.float32)
        for shape, chance in zip(shapes, chances, strict=True):
            soft[shape] = chance
        soft = ProbabilityMap(soft[None], grid)
    return candidate_scores(scan, Mask(mask, grid), organ, settings, probabilities=soft)


def test_a_lesion_outranks_a_vessel_that_is_larger():
    lesion, vessel = disc((80, 80), (25, 40), 4), np.zeros((80, 80), bool)
    vessel[55:58, 5:75] = True
    new, old = (_drawn(lesion, vessel, score=score) for score in ("compact-contrast/1", "mmd2-volume/2"))
    # The larger candidate comes first.
    assert new[1] > 2 * new[0]
    assert old[1] < old[0]


def test_a_speck_is_no_better_lesion_for_being_glaring():
    lesion, speck = disc((80, 80), (25, 40), 5), disc((80, 80), (60, 40), 1)
    mild = _drawn(lesion)[0]
    assert _drawn(speck, lift=40.0)[0] < mild
    assert _drawn(speck, lift=900.0)[0] < mild


def test_size_contrast_and_side_count():
    small, large = disc((80, 80), (40, 40), 3), disc((80, 80), (40, 40), 8)
    assert _drawn(large)[0] > 2 * _drawn(small)[0]
    assert _drawn(small, lift=30.0)[0] > _drawn(small, lift=10.0)[0]
    assert _drawn(small, lift=-20.0)[0] == pytest.approx(_drawn(small, lift=-20.0, direction="darker")[0])
    assert _drawn(small, direction="brighter")[0] == pytest.approx(_drawn(small)[0])


def test_lengths_are_millimetres_where_they_are_known():
    place = disc((80, 80), (40, 40), 4)
    wide = _drawn(place, grid=Grid((80, 80), np.diag([2.0, 2.0, 1.0, 1.0])))[0]
    pixels = _drawn(place, grid=Grid.without_spacing((80, 80)))[0]
    # At 2 mm the rim of 1 mm, and so the tissue, is the same number of pixels.
    assert wide == pytest.approx(2 * _drawn(place)[0], rel=0.05)
    assert pixels == pytest.approx(_drawn(place)[0], rel=1e-9)


def test_a_candidate_without_surroundings_is_compared_with_all_of_its_tissue():
    """Its surroundings are other candidates: what is left of the tissue lies far away."""
    inner, outer = disc((80, 80), (40, 40), 4), disc((80, 80), (40, 40), 14)
    labels = np.where(inner, 1, np.where(outer, 2, 0)).astype(np.uint8)
    image = np.random.default_rng(3).normal(100, 10, (80, 80)).astype(np.float32)
    image[outer] += 20
    grid = Grid(image.shape, np.eye(4))
    organ = LabelMap(np.ones(image.shape, np.uint8), grid, {1: "liver"})
    scores = candidate_scores(Scan(image, grid), LabelMap(labels, grid), organ, RejectionSettings(gates=OPEN))
    contrast = np.arctanh(scores[1] / (3 * 7 * 4 * 49 / np.pi / 81)) * 3
    assert 1.5 < contrast < 2.5


def test_tissue_of_one_grey_value_gives_a_finite_score():
    image = np.full((40, 40), 100.0, np.float32)
    mask = disc((40, 40), (20, 20), 4)
    image[mask] = 130.0
    grid = Grid(image.shape, np.eye(4))
    organ = LabelMap(np.ones(image.shape, np.uint8), grid, {1: "liver"})
    settings = RejectionSettings(gates=OPEN, tissue=TissueSettings(reference="plain"))
    (score,) = candidate_scores(Scan(image, grid), Mask(mask, grid), organ, settings)
    assert score == pytest.approx(3 * 7 * 4 * 49 / np.pi / 81, rel=0.05)


LIKELY = "likely-contrast/1"


def test_the_likely_score_agrees_with_its_definition():
    place = disc((80, 80), (40, 40), 4)
    compact = _drawn(place)[0]
    rounded = 4 * 49 / np.pi / 81
    contrast = np.arctanh(compact / (3 * 7 * rounded)) * 3
    expected = 0.8**2 * rounded * 7 * np.tanh(2 * contrast)
    assert _drawn(place, chances=(0.8,), score=LIKELY)[0] == pytest.approx(expected, rel=1e-6)
    # Probabilities change nothing where the score does not look at them.
    assert _drawn(place, chances=(0.8,))[0] == compact


def test_the_likely_score_rises_with_probability_size_and_roundness():
    small, large = disc((80, 80), (25, 40), 4), disc((80, 80), (55, 40), 8)
    bar = np.zeros((80, 80), bool)
    bar[20:23, 20:37] = True
    known = [_drawn(small, chances=(p,), score=LIKELY)[0] for p in (0.0, 0.2, 0.5, 0.9, 1.0)]
    assert known == sorted(known)
    assert known[0] == 0.0 < known[1]
    assert np.diff(known).min() > 0
    assert _drawn(large, small, chances=(0.7, 0.7), score=LIKELY)[0] > 1.5 * known[2]
    assert _drawn(bar, chances=(0.9,), score=LIKELY)[0] < 0.6 * known[3]


def test_the_likely_score_lets_the_segmenter_decide_among_what_stands_out():
    """A muscle in a ventricle: more contrast than the lesion, and the segmenter is less sure of it."""
    lesion, muscle = disc((80, 80), (25, 40), 5), disc((80, 80), (60, 40), 5)
    image = np.random.default_rng(3).normal(100, 10, (80, 80)).astype(np.float32)
    image[lesion] += 20
    image[muscle] += 60
    grid = Grid(image.shape, np.eye(4))
    organ = LabelMap(np.ones(image.shape, np.uint8), grid, {1: "heart"})
    labels = LabelMap(np.where(lesion, 1, np.where(muscle, 2, 0)).astype(np.uint8), grid)
    soft = ProbabilityMap(np.where(lesion, 0.9, np.where(muscle, 0.6, 0.0)).astype(np.float32)[None], grid)
    ranks = {}
    for score in SCORES:
        settings = RejectionSettings(gates=OPEN, score=score)
        first, second = candidate_scores(Scan(image, grid), labels, organ, settings, probabilities=soft)
        ranks[score] = first > second
    assert ranks == {"compact-contrast/1": False, "likely-contrast/1": True, "mmd2-volume/2": False}
    # What does not stand out is not kept, however sure the segmenter is.
    assert (
        _drawn(lesion, lift=0.0, chances=(1.0,), score=LIKELY)[0]
        < 0.5 * _drawn(lesion, chances=(0.9,), score=LIKELY)[0]
    )


@pytest.mark.parametrize("step", [1.0, 1 / 255])
def test_probabilities_that_saturate_leave_size_and_roundness_to_decide(step):
    """A segmenter that says 1 everywhere, or writes 8 bits, must not make one tie of all its candidates."""
    places = [disc((80, 80), (25, 20 + 30 * k), r) for k, r in enumerate((3, 4))] + [disc((80, 80), (60, 40), 8)]
    sure = np.round(0.9999 / step) * step
    scores = _drawn(*places, chances=(sure,) * 3, score=LIKELY)
    assert len(set(scores.tolist())) == 3
    assert list(scores) == sorted(scores, reverse=True)  # the largest candidate comes first


def test_a_score_without_its_probabilities_is_refused():
    place = disc((80, 80), (40, 40), 4)
    with pytest.raises(InputError, match="the score likely-contrast/1 looks at the segmenter's probabilities: give"):
        _drawn(place, score=LIKELY)
    image = np.random.default_rng(3).normal(100, 10, (80, 80)).astype(np.float32)
    grid = Grid(image.shape, np.eye(4))
    settings = RejectionSettings(gates=OPEN, score=LIKELY)
    null = CohortNull(tuple(np.array([float(k)]) for k in range(19)))
    with pytest.raises(InputError, match="likely-contrast/1"):
        reject(Scan(image, grid), Mask(place, grid), cohort_null=null, settings=settings)
    organ = LabelMap(np.ones(image.shape, np.uint8), grid, {1: "liver"})
    under = settings.under("cohort")
    case = prepare(Scan(image, grid), Mask(place, grid), anatomy=organ, probabilities=None, settings=under)
    with pytest.raises(ValueError, match="needs the segmenter's probabilities"):
        scores_of(case)
    # Other nulls rank nothing by it.
    other = reject(Scan(image, grid), Mask(place, grid), settings=replace(settings, null="placement"))
    assert other.null == "placement"


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -0.5, 1.5, 200.0])
def test_hostile_probabilities_never_reach_the_score(wrong):
    with pytest.raises(InputError):
        _drawn(disc((80, 80), (40, 40), 4), chances=(wrong,), score=LIKELY)


@pytest.mark.slow
@pytest.mark.parametrize("score", SCORES)
def test_false_alarms_of_the_cohort_null(phantom_2d, score):
    """P(any kept in a healthy patient) ≤ α, averaged over calibrations; candidates are the brightest places."""
    settings = RejectionSettings(score=score)
    scores = []
    for seed in range(160):
        healthy = phantom_2d(seed + 500, lift=0.0)
        image = healthy.scan.array
        labels = np.zeros(image.shape, np.uint8)
        # A segmenter that looks: the three brightest windows of the liver.
        windows = [(image[r : r + 6, c : c + 6].mean(), r, c) for r in range(20, 76, 7) for c in range(30, 86, 7)]
        for _, r, c in sorted(windows)[-3:]:
            labels[r : r + 6, c : c + 6] = 1
        drawn = replace(healthy.labels, array=labels)
        # And that is the surer of a place the brighter it is.
        sure = 0.5 + 0.5 * np.tanh((ndimage.uniform_filter(image, 6) - 95) / 10)
        soft = ProbabilityMap(sure[None].astype(np.float32), healthy.scan.grid)
        found = candidate_scores(healthy.scan, drawn, healthy.anatomy, settings, probabilities=soft)
        scores.append(found)
    alpha, alarms, trials = 0.1, 0, 400
    rng = np.random.default_rng(0)
    for _ in range(trials):
        order = rng.permutation(len(scores))
        null = CohortNull(tuple(scores[k] for k in order[:19]))
        alarms += any(null.p_value(s) <= alpha for s in scores[order[19]])
    # 160 patients are drawn again and again, so the effective number of trials is about 160.
    assert alarms / trials <= alpha + 2 * np.sqrt(alpha * (1 - alpha) / 160)
    assert alarms > 0
