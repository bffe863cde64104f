"""One contract for all detectors, inherited by a class each, and scikit-learn as the oracle of what is inside."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, ClassVar

import numpy as np
import pytest
import skops.io
from sklearn.covariance import LedoitWolf
from sklearn.covariance import ledoit_wolf_shrinkage as sklearn_shrinkage
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import LinearSVC

from anatrust.errors import FormatError, InputError
from anatrust.metrics import auroc
from anatrust.ood.detectors import Detector, detector_names, make_detector, restore_detector
from anatrust.ood.detectors.gaussian import LowRankGaussian, ledoit_wolf_shrinkage
from anatrust.ood.detectors.level_ensemble import LevelEnsemble
from anatrust.ood.detectors.trees import TRUSTED_TYPES, packed

LEVELS = (("fine", 3), ("middle", 4), ("coarse", 5))
WIDTH = 12


def scans(n: int, shift: float = 0.0, *, seed: int = 0, width: int = WIDTH, crops: int = 4) -> list[np.ndarray]:
    """Scans with an effect of their own; float32 values, as features are."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(n, 1, width)) * 0.3 + 5.0
    step = np.zeros(width)
    step[::3] = shift
    return list((centre + rng.normal(size=(n, crops, width)) + step).astype(np.float32))


class Contract:
    """What every detector must do."""

    name: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}
    width: ClassVar[int] = WIDTH

    def make(self) -> Detector:
        return make_detector(self.name, **self.settings)

    def levels(self) -> tuple[tuple[str, int], ...] | None:
        return LEVELS if self.width == WIDTH else None

    def fitted(self, seed: int = 0) -> Detector:
        inside, outside = scans(12, seed=1, width=self.width), scans(10, 4.0, seed=2, width=self.width)
        return self.make().fit(inside, outside, levels=self.levels(), seed=seed)

    def test_strange_scans_score_higher(self) -> None:
        detector = self.fitted()
        usual, strange = scans(20, seed=3, width=self.width), scans(20, 4.0, seed=4, width=self.width)
        assert auroc(detector.score(usual), detector.score(strange)) > 0.95

    def test_order_and_company_do_not_matter_to_the_last_bit(self) -> None:
        detector, new = self.fitted(), scans(5, 1.0, seed=5, width=self.width, crops=7)
        together = detector.score(new)
        for scan, score in zip(new, together, strict=True):
            assert detector.score([scan])[0] == score
            assert detector.score([scan[::-1]])[0] == score
            np.testing.assert_array_equal(detector.score_crops(scan[::-1]), detector.score_crops(scan)[::-1])
            np.testing.assert_array_equal(detector.score_crops(scan[2:3]), detector.score_crops(scan)[2:3])

    def test_a_scan_is_the_mean_of_its_crops(self) -> None:
        detector, new = self.fitted(), scans(3, seed=6, width=self.width)
        np.testing.assert_allclose(detector.score(new), [detector.score_crops(scan).mean() for scan in new])

    def test_the_same_seed_gives_the_same_detector(self) -> None:
        new = scans(4, 0.5, seed=7, width=self.width)
        np.testing.assert_array_equal(self.fitted(3).score(new), self.fitted(3).score(new))

    def test_written_and_read_it_says_the_same(self) -> None:
        detector, new = self.fitted(), scans(4, 0.5, seed=8, width=self.width)
        document, arrays = detector.to_arrays()
        document = json.loads(json.dumps(document))
        assert all(a.dtype.str in {"<f8", "|u1"} for a in arrays.values())  # what a profile can hold
        again = restore_detector(document, arrays)
        np.testing.assert_array_equal(again.score(new), detector.score(new))
        assert again.levels_ == detector.levels_
        assert again.settings() == detector.settings()

    def test_damage_is_one_line(self) -> None:
        document, arrays = self.fitted().to_arrays()
        broken: list[tuple[dict[str, Any], dict[str, Any]]] = [
            ({**document, "schema": 2}, arrays),
            ({**document, "detector": "other"}, arrays),
            ({**document, "settings": {"nonsense": 1}}, arrays),
            ({**document, "features": self.width + 1}, arrays),
            ({**document, "features": self.width + 1, "levels": [["a", self.width + 1]]}, arrays),
            ({k: v for k, v in document.items() if k != "levels"}, arrays),
        ]
        for name, array in arrays.items():
            broken.append((document, {k: v for k, v in arrays.items() if k != name}))
            if name != "rows":  # fewer neighbours are a smaller detector; checksums see that
                broken.append((document, arrays | {name: array[:-1]}))
            broken.append((document, arrays | {name: array.astype(np.int32)}))
            broken.append((document, arrays | {name: array[None]}))
            if array.dtype.kind == "f":
                broken.append((document, arrays | {name: np.full_like(array, np.nan)}))
        for text, values in broken:
            with pytest.raises(FormatError) as error:
                restore_detector(text, values)
            assert "\n" not in str(error.value)

    def test_bad_input_is_one_line(self) -> None:
        inside, outside = scans(12, seed=1, width=self.width), scans(4, 4.0, seed=2, width=self.width)
        nothing = [np.full((2, self.width), np.nan)] * 12
        calls = [
            lambda: self.make().score(inside),
            lambda: self.make().to_arrays(),
            lambda: self.make().fit(inside[:1], outside),
            lambda: self.make().fit(nothing, outside),
            lambda: self.make().fit([np.ones(3)] * 12, outside),
            lambda: self.make().fit([*inside, np.ones((2, self.width + 1))], outside),
            lambda: self.make().fit(inside, outside, levels=(("a", self.width + 1),)),
            lambda: self.fitted().score([np.ones((2, self.width + 1))]),
            lambda: make_detector(self.name, nonsense=1),
        ]
        if self.make().needs_outliers:
            calls.append(lambda: self.make().fit(inside))
        for call in calls:
            with pytest.raises(InputError) as error:
                call()
            assert "\n" not in str(error.value)

    def test_strange_scans_are_needed_or_ignored(self) -> None:
        inside, outside, new = (scans(12, seed=i, width=self.width) for i in (1, 2, 3))
        if not self.make().needs_outliers:
            alone = self.make().fit(inside, levels=self.levels()).score(new)
            np.testing.assert_array_equal(alone, self.make().fit(inside, outside, levels=self.levels()).score(new))


class TestForest(Contract):
    name = "forest"
    settings: ClassVar = {"trees": 20, "jobs": 1}

    def test_is_scikit_learns(self) -> None:
        inside, outside, new = scans(8, seed=1), scans(5, 2.0, seed=2), scans(4, 1.0, seed=3)
        found = make_detector("forest", trees=30, jobs=2).fit(inside, outside, seed=5)
        oracle = RandomForestClassifier(30, max_depth=20, class_weight="balanced", random_state=5)
        oracle.fit(np.concatenate(inside + outside), np.repeat([0, 1], [32, 20]))
        for scan in new:
            np.testing.assert_allclose(found.score_crops(scan), oracle.predict_proba(scan)[:, 1], atol=1e-12)

    def test_threads_do_not_matter(self) -> None:
        inside, outside, new = scans(8, seed=1), scans(5, 2.0, seed=2), scans(4, 1.0, seed=3)
        one, two = (make_detector("forest", trees=15, jobs=j).fit(inside, outside).score(new) for j in (1, 2))
        np.testing.assert_array_equal(one, two)

    def test_the_published_settings_are_the_default(self) -> None:
        assert make_detector("forest").settings() == {"trees": 1000, "depth": 20}

    def test_only_trees_are_trusted(self) -> None:
        document, arrays = self.fitted().to_arrays()
        assert set(skops.io.get_untrusted_types(data=arrays["forest"].tobytes())) == set(TRUSTED_TYPES)
        foreign = skops.io.dumps({"a": subprocess.Popen})
        for data, message in [
            (np.frombuffer(foreign, dtype=np.uint8), "not trusted"),
            (packed(LogisticRegression()), "was expected"),
            (packed(RandomForestClassifier()), "no trees"),
            (packed(RandomForestClassifier(1).fit(np.ones((4, 2)), [0, 1, 0, 1])), "features"),
            (packed(RandomForestClassifier(1).fit(np.ones((4, WIDTH)), [0, 1, 2, 1])), "two kinds"),
            (packed(LinearSVC()), "was expected"),
        ]:
            with pytest.raises(FormatError, match=message):
                restore_detector(document, {"forest": data})

    @pytest.mark.parametrize("field", ["left_child", "right_child", "feature"])
    def test_a_tree_that_points_outside_is_refused(self, field: str) -> None:
        detector = self.fitted()
        model = detector._model  # type: ignore[attr-defined]
        tree = model.estimators_[3].tree_
        state = tree.__getstate__()
        state["nodes"] = state["nodes"].copy()
        state["nodes"][field][0] = 10_000
        tree.__setstate__(state)
        document, arrays = detector.to_arrays()
        with pytest.raises(FormatError, match="points outside"):
            restore_detector(document, arrays)


class TestLogistic(Contract):
    name = "logistic"

    def test_is_scikit_learns(self) -> None:
        inside, outside, new = scans(8, seed=1), scans(5, 1.0, seed=2), scans(4, 1.0, seed=3)
        found = make_detector("logistic", strength=0.1).fit(inside, outside)
        rows = np.concatenate(inside + outside).astype(float)
        scaler = StandardScaler().fit(rows)
        oracle = LogisticRegression(C=0.1, class_weight="balanced", max_iter=5000)
        oracle.fit(scaler.transform(rows), np.repeat([0, 1], [32, 20]))
        for scan in new:
            np.testing.assert_allclose(
                found.score_crops(scan), oracle.decision_function(scaler.transform(scan)), atol=1e-3
            )


class TestMlp(Contract):
    name = "mlp"
    settings: ClassVar = {"hidden": 8, "epochs": 1000}


class TestMahalanobis(Contract):
    name = "mahalanobis"

    def test_is_scikit_learns(self) -> None:
        rows, new = np.concatenate(scans(8, seed=1)), scans(1, 1.0, seed=2)[0]
        found = make_detector("mahalanobis").fit([rows[:16], rows[16:]]).score_crops(new)
        np.testing.assert_allclose(found, LedoitWolf().fit(rows.astype(float)).mahalanobis(new), rtol=1e-8)

    @pytest.mark.parametrize(("rows", "width"), [(6, 40), (80, 10), (30, 30), (50, 1), (2, 5)])
    def test_shrinkage_without_a_square_matrix(self, rows: int, width: int) -> None:
        x = np.random.default_rng(rows).normal(size=(rows, width)) * np.arange(1, width + 1)
        x -= x.mean(axis=0)
        assert ledoit_wolf_shrinkage(x) == pytest.approx(sklearn_shrinkage(x, assume_centered=True), abs=1e-10)

    def test_more_features_than_crops(self) -> None:
        rng = np.random.default_rng(0)
        rows, new = rng.normal(size=(20, 60)), rng.normal(size=(4, 60))
        oracle = LedoitWolf().fit(rows)
        found = LowRankGaussian.fit(rows, "ledoit_wolf").distances(new)
        np.testing.assert_allclose(found, oracle.mahalanobis(new), rtol=1e-8)
        empirical = LowRankGaussian.fit(rows, "empirical").distances(new)
        covariance = np.cov(rows.T, bias=True)
        ridge = covariance + 1e-5 * np.trace(covariance) / 60 * np.eye(60)
        apart = new - rows.mean(axis=0)
        np.testing.assert_allclose(empirical, (apart @ np.linalg.inv(ridge) * apart).sum(axis=1), rtol=1e-5)

    def test_units_do_not_matter_to_the_ridge(self) -> None:
        inside, new = scans(8, seed=1), scans(3, 1.0, seed=2)
        for covariance in ("ledoit_wolf", "empirical"):
            one, small = (
                make_detector("mahalanobis", covariance=covariance)
                .fit([s * f for s in inside])
                .score([s * f for s in new])
                for f in (1.0, 1e-4)
            )
            np.testing.assert_allclose(one, small, rtol=1e-3)

    def test_principal_directions_are_scikit_learns(self) -> None:
        rows, new = np.concatenate(scans(8, seed=1)).astype(float), scans(1, 1.0, seed=2)[0]
        found = make_detector("mahalanobis", pca=0.5, covariance="empirical").fit([rows, rows]).score_crops(new)
        oracle = PCA(0.5, svd_solver="full").fit(rows)
        expected = (oracle.transform(new) ** 2 / (oracle.explained_variance_ * 31 / 32)).sum(axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-3)

    def test_constant_features_are_refused(self) -> None:
        with pytest.raises(InputError, match="do not vary"):
            make_detector("mahalanobis").fit([np.ones((3, 4))] * 3)

    def test_damaged_scales_are_refused(self) -> None:
        detector = make_detector("mahalanobis", normalise="zscore").fit(scans(8))
        document, arrays = detector.to_arrays()
        with pytest.raises(FormatError, match="scales"):
            restore_detector(document, arrays | {"feature_scale": np.zeros(WIDTH)})

    def test_negative_variances_are_refused(self) -> None:
        document, arrays = self.fitted().to_arrays()
        with pytest.raises(FormatError, match="not positive"):
            restore_detector(document, arrays | {"floor": -arrays["floor"]})


class TestMahalanobisZscoreReact(Contract):
    name = "mahalanobis"
    settings: ClassVar = {"normalise": "zscore", "transform": "react-per-feature", "pca": 0.99, "percentile": 99.0}

    def test_clips_at_each_features_percentile(self) -> None:
        rows = np.concatenate(scans(8, seed=1)).astype(float)
        plain = make_detector("mahalanobis", transform="react-per-feature").fit([rows, rows])
        twice = np.r_[rows, rows]
        cut = np.percentile(twice, 90, axis=0)
        oracle = LedoitWolf().fit(np.minimum(twice, cut))
        new = rows[:3] + 1
        np.testing.assert_allclose(plain.score_crops(new), oracle.mahalanobis(np.minimum(new, cut)), rtol=1e-6)


class TestMahalanobisUnitLength(Contract):
    name = "mahalanobis"
    settings: ClassVar = {"normalise": "l2", "covariance": "empirical"}

    def test_length_does_not_matter(self) -> None:
        new = scans(3, seed=3)
        detector = self.fitted()
        np.testing.assert_allclose(detector.score(new), detector.score([7 * scan for scan in new]), rtol=1e-6)
        assert np.isfinite(detector.score([np.zeros((2, WIDTH))])).all()


class TestMahalanobisReact(Contract):
    name = "mahalanobis"
    settings: ClassVar = {"transform": "react", "percentile": 99.5}


class TestMahalanobisRelative(Contract):
    name = "mahalanobis"
    settings: ClassVar = {"relative": True}

    def test_is_the_difference_of_two(self) -> None:
        inside, outside, new = scans(8, seed=1), scans(6, 2.0, seed=2), scans(1, 1.0, seed=3)[0]
        found = make_detector("mahalanobis", relative=True).fit(inside, outside).score_crops(new)
        one = LedoitWolf().fit(np.concatenate(inside).astype(float)).mahalanobis(new)
        both = LedoitWolf().fit(np.concatenate(inside + outside).astype(float)).mahalanobis(new)
        np.testing.assert_allclose(found, one - both, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("transform", ["ash-p", "ash-s"])
def test_ash_prunes_the_small_part_of_each_row(transform: str) -> None:
    rows = np.abs(np.concatenate(scans(8, seed=1)).astype(float))
    detector = make_detector("mahalanobis", transform=transform, percentile=50.0).fit([rows, rows])
    pruned = np.where(rows < np.percentile(rows, 50, axis=1, keepdims=True), 0, rows)
    if transform == "ash-s":
        pruned *= np.exp(rows.sum(axis=1, keepdims=True) / pruned.sum(axis=1, keepdims=True))
    oracle = LedoitWolf().fit(np.r_[pruned, pruned])
    np.testing.assert_allclose(detector.score_crops(rows), oracle.mahalanobis(pruned), rtol=1e-6)
    assert np.isfinite(detector.score_crops(-rows)).all()


class TestNearestNeighbours(Contract):
    name = "knn"

    def test_is_scikit_learns(self) -> None:
        rows, new = np.concatenate(scans(8, seed=1)), scans(1, 1.0, seed=2)[0]
        found = make_detector("knn", k=3).fit([rows[:9], rows[9:]]).score_crops(new)
        oracle = NearestNeighbors(n_neighbors=3).fit(normalize(rows.astype(float)))
        np.testing.assert_allclose(found, oracle.kneighbors(normalize(new.astype(float)))[0][:, 2], atol=1e-12)

    def test_fewer_crops_than_neighbours_in_a_file(self) -> None:
        document, arrays = self.fitted().to_arrays()
        with pytest.raises(FormatError, match="for k=5"):
            restore_detector(document, arrays | {"rows": arrays["rows"][:4]})

    def test_no_more_neighbours_than_crops(self) -> None:
        with pytest.raises(InputError, match="k=50"):
            make_detector("knn", k=50).fit(scans(3))


class TestNearestNeighboursPlain(Contract):
    name = "knn"
    settings: ClassVar = {"k": 2, "normalise": "none"}


class TestNearestNeighboursZscore(Contract):
    name = "knn"
    settings: ClassVar = {"k": 1, "normalise": "zscore"}


class TestIsolation(Contract):
    name = "isolation"
    settings: ClassVar = {"trees": 30}

    def test_is_scikit_learns(self) -> None:
        rows, new = np.concatenate(scans(8, seed=1)), scans(1, 1.0, seed=2)[0]
        found = make_detector("isolation", trees=10).fit([rows[:9], rows[9:]], seed=4).score_crops(new)
        np.testing.assert_allclose(
            found, -IsolationForest(n_estimators=10, random_state=4).fit(rows).score_samples(new)
        )


class TestLevels(Contract):
    name = "levels"

    def test_each_level_is_in_units_of_unseen_scans(self) -> None:
        detector = self.fitted()
        assert isinstance(detector, LevelEnsemble)
        unseen = np.concatenate([detector.level_scores(scan) for scan in scans(200, seed=20)])
        assert unseen.shape == (800, 3)
        assert (np.abs(unseen.mean(axis=0)) < 1.0).all()
        shifted = np.concatenate(scans(20, seed=21))
        shifted[:, :3] += 6
        by_level = detector.level_scores(shifted).mean(axis=0)
        assert by_level[0] > 3
        assert (by_level[1:] < 1.5).all()

    def test_units_are_positive(self) -> None:
        document, arrays = self.fitted().to_arrays()
        with pytest.raises(FormatError, match="units"):
            restore_detector(document, arrays | {"units": -arrays["units"]})

    def test_needs_four_scans(self) -> None:
        with pytest.raises(InputError, match="four usual"):
            make_detector("levels").fit(scans(3))


class TestParts(TestLevels):
    name = "parts"

    def levels(self) -> tuple[tuple[str, int], ...]:
        return (("net: fine", 3), ("mask: inside", 4), ("mask: rim", 5))

    def test_each_level_is_in_units_of_unseen_scans(self) -> None:
        detector = self.fitted()
        assert isinstance(detector, LevelEnsemble)
        by_part = detector.level_scores(np.concatenate(scans(200, seed=20)))
        assert by_part.shape == (800, 2)
        # One part is a Mahalanobis distance of its columns alone.
        inside, new = scans(12, seed=1), scans(4, 1.0, seed=23)
        alone = make_detector("mahalanobis", normalise="zscore").fit([scan[:, :3] for scan in inside])
        expected = np.sqrt(np.concatenate([alone.score_crops(scan[:, :3]) for scan in new]))
        found = detector.level_scores(np.concatenate(new))[:, 0]
        np.testing.assert_allclose(np.diff(found) / np.diff(expected), np.diff(found)[0] / np.diff(expected)[0])

    def test_levels_without_a_part_are_one_part_and_parts_stay_together(self) -> None:
        plain = self.make().fit(scans(12), levels=LEVELS)
        assert isinstance(plain, LevelEnsemble)
        assert plain.level_scores(scans(1)[0]).shape == (4, 1)
        torn = (("a: x", 3), ("b: x", 4), ("a: y", 5))
        with pytest.raises(InputError, match="side by side"):
            self.make().fit(scans(12), levels=torn)

    def test_needs_four_scans(self) -> None:
        with pytest.raises(InputError, match="four usual"):
            make_detector("parts").fit(scans(3))


class TestGiven(Contract):
    name = "given"
    width = 1

    def test_is_what_was_given(self) -> None:
        detector = make_detector("given").fit([np.array([[1.0]]), np.array([[2.0]])])
        assert detector.score([np.array([[3.0], [5.0]])]).tolist() == [4.0]
        with pytest.raises(InputError, match="one score"):
            make_detector("given").fit(scans(3))


def test_every_detector_has_its_contract() -> None:
    kinds = [*Contract.__subclasses__(), *TestLevels.__subclasses__()]
    assert {kind.name for kind in kinds} == set(detector_names())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("forest", {"trees": 0}),
        ("forest", {"jobs": 0}),
        ("logistic", {"strength": 0.0}),
        ("mlp", {"hidden": 0}),
        ("mahalanobis", {"covariance": "oas"}),
        ("mahalanobis", {"transform": "none", "percentile": 100.0}),
        ("mahalanobis", {"pca": 0.0}),
        ("knn", {"k": 0}),
        ("knn", {"normalise": "max"}),
        ("isolation", {"trees": 0}),
        ("levels", {"folds": 1}),
        ("levels", {"normalise": "max"}),
        ("nonsense", {}),
    ],
)
def test_impossible_settings(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        make_detector(name, **settings)
    assert "\n" not in str(error.value)


PROBE = """
import hashlib, numpy as np
from anatrust.ood.detectors import make_detector
rng = np.random.default_rng(0)
inside, outside = list(rng.normal(size=(8, 4, 700))), list(rng.normal(1, 1, size=(5, 4, 700)))
digest = hashlib.sha256()
for name, settings in [("forest", {"trees": 9}), ("logistic", {}), ("mlp", {"hidden": 64}),
                       ("mahalanobis", {}), ("knn", {}), ("isolation", {"trees": 9}), ("levels", {})]:
    digest.update(make_detector(name, **settings).fit(inside, outside, seed=1).score(inside).tobytes())
print(digest.hexdigest())
"""


def test_the_same_scores_in_every_process() -> None:
    done = [
        subprocess.run(
            [sys.executable, "-c", PROBE],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": salt, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
        ).stdout
        for salt, threads in (("1", "1"), ("2", "2"))
    ]
    assert done[0] == done[1] != ""
