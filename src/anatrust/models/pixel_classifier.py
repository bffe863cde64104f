"""Pixel classification in the manner of ilastik: local descriptors and boosted trees, trained in a minute."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image.atomic import replacing
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical
from anatrust.image.region import Region, bounding_box
from anatrust.image.volumes import Mask, Scan
from anatrust.models.descriptors import LocalDescriptors
from anatrust.models.pixel_descriptors import PixelDescriptors

__all__ = ["TRUSTED_TYPES", "PixelCase", "PixelClassifier", "PixelRecipe", "train_pixel_classifier"]

Floats = npt.NDArray[np.float32]

TRUSTED_TYPES = ("sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",)
"""The only type beyond skops' own list that a saved classifier may hold."""

_FORMAT = "anatrust-pixel-classifier"
_SCHEMA = 2
# What recipes of schema 1 had no word for.
_FIRST: Mapping[str, Any] = {"least": 20, "shrinkage": 0.0, "share": 1.0, "features": "local"}
_DESCRIPTORS: Mapping[str, PixelDescriptors | LocalDescriptors] = {
    "scales": PixelDescriptors(),
    "local": LocalDescriptors(),
}
# Depth below the organ's rim beyond which all voxels are alike, in mm.
_DEEP = 20.0


@dataclass(frozen=True, eq=False)
class PixelCase:
    """One labelled scan: where the target is, and where to look for it (everywhere if ``organ`` is None)."""

    scan: Scan
    truth: Mask
    organ: Mask | None = None

    def __post_init__(self) -> None:
        for mask in (self.truth, self.organ):
            if mask is not None and not mask.grid.same_as(self.scan.grid):
                raise GeometryError("truth and organ must lie on the scan's grid: resample them first")


@dataclass(frozen=True)
class PixelRecipe:
    """How the trees are grown.

    Parameters
    ----------
    target, other
        At most so many voxels of the target, and of the rest, are drawn from each scan.
    trees, leaves, rate
        Boosting rounds, leaves of a tree, learning rate.
    least, shrinkage, share
        Fewest voxels of a leaf, L2 shrinkage of its value, share of the features tried at each split. Without
        them pure leaves make the trees sure of noise.
    features
        ``"scales"``: means, edges and bending at several scales, and the depth below the organ's rim;
        ``"local"``: the local descriptors of earlier versions.
    seed
        Of the drawing of voxels and the features tried.
    """

    target: int = 2_000
    other: int = 8_000
    trees: int = 200
    leaves: int = 15
    rate: float = 0.06
    least: int = 100
    shrinkage: float = 10.0
    share: float = 0.4
    features: Literal["scales", "local"] = "scales"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.features not in _DESCRIPTORS:
            raise InputError(f"the features are {self.features!r}: choose scales or local")
        if self.least < 1 or not 0 <= self.shrinkage < float("inf") or not 0 < self.share <= 1:
            raise InputError("leaves need at least 1 voxel, a shrinkage of 0 or more and a share of features in (0, 1]")
        if min(self.target, self.other, self.trees) < 1 or self.leaves < 2 or not 0 < self.rate <= 1:
            raise InputError("a pixel classifier needs voxels, trees, at least two leaves and a rate in (0, 1]")


class PixelClassifier:
    """Probability of the target, voxel by voxel, from what a small neighbourhood looks like.

    Parameters
    ----------
    model
        A fitted ``HistGradientBoostingClassifier`` of two classes.
    recipe
        How it was trained.

    Attributes
    ----------
    ndim
        Of the images it reads: those of the ones it learnt from.

    Notes
    -----
    Features are those of :class:`~anatrust.models.pixel_descriptors.PixelDescriptors`, each in robust
    standard deviations of the organ looked at, so that scanners and contrast agents matter less, and how
    deep below the organ's rim the voxel lies: rims hold a little of what is next to them.
    It proposes whatever looks like the target: rejection has to tell.
    """

    def __init__(self, model: Any, recipe: PixelRecipe) -> None:
        self._model = model
        self.recipe = recipe
        self.ndim = tuple(n for n in (2, 3) if _width(recipe, n) == model.n_features_in_)
        self._descriptors = _DESCRIPTORS[recipe.features]
        digest = hashlib.sha256(self._descriptors.identity.encode())
        for (tree,) in model._predictors:
            nodes = tree.nodes
            for name in ("feature_idx", "num_threshold", "left", "right", "is_leaf", "value"):
                digest.update(np.ascontiguousarray(nodes[name]).tobytes())
        self.digest = digest.hexdigest()

    def probabilities(self, scan: Scan, region: Region, organ: Mask | None = None) -> Floats:
        """Probability of the target in a region, float32 of the region's shape; 0 outside the organ.

        Works through the organ slab by slab; memory is about 200 bytes a voxel of a slab of at most
        1 million voxels, besides two float32 maps.

        Raises
        ------
        InputError
            If it learnt from images and the scan is a volume, or the reverse.

        Examples
        --------
        >>> grid = Grid((40, 40), np.eye(4))
        >>> image = np.random.default_rng(0).normal(0, 1, (40, 40))
        >>> truth = np.zeros((40, 40), bool)
        >>> truth[10:20, 10:20] = True
        >>> case = PixelCase(Scan(image + 4 * truth, grid), Mask(truth, grid))
        >>> model = train_pixel_classifier([case], PixelRecipe(trees=40))
        >>> found = model.probabilities(case.scan, Region.whole((40, 40)))
        >>> bool(found[15, 15] > 0.5 > found[30, 30])
        True
        """
        if scan.grid.ndim not in self.ndim:
            learnt = "images" if scan.grid.ndim == 3 else "volumes"
            raise InputError(
                f"the pixel classifier learnt from {learnt}, the scan is {scan.grid.ndim}-D: train another"
            )
        out = np.zeros(region.shape, dtype=np.float32)
        inside = np.ones(region.shape, dtype=bool) if organ is None else organ.array[region.slices]
        if not inside.any():
            return out
        middle, spread = self._footing(scan, region, organ)
        depth = _depth(organ, region, scan.grid.spacing) if self.recipe.features == "scales" else None
        plane = max(1, int(np.prod(region.shape[:-1])))
        slab = max(1, 1_000_000 // plane)
        for low in range(0, region.shape[-1], slab):
            high = min(low + slab, region.shape[-1])
            here = inside[..., low:high]
            if not here.any():
                continue
            start = (*region.start[:-1], region.start[-1] + low)
            stop = (*region.stop[:-1], region.start[-1] + high)
            rows = (_features(self.recipe, scan, Region(start, stop))[here] - middle) / spread
            if depth is not None:
                rows = np.column_stack([rows, depth[..., low:high][here]])
            part = np.zeros(here.shape, dtype=np.float32)
            part[here] = self._model.predict_proba(rows)[:, 1]
            out[..., low:high] = part
        return out

    def _footing(self, scan: Scan, region: Region, organ: Mask | None) -> tuple[Floats, Floats]:
        """Middle and spread of each feature over the organ (the region where there is none)."""
        if organ is None or not organ.array.any():
            found = _features(self.recipe, scan, region)
            return _robust(found.reshape(-1, found.shape[-1]))
        whole = _box(organ.array)
        return _robust(_features(self.recipe, scan, whole)[organ.array[whole.slices]])

    def save(self, path: str | Path) -> None:
        """Write one skops file; no pickle."""
        import skops.io

        document = {"format": _FORMAT, "schema": _SCHEMA, "descriptors": self._descriptors.identity}
        document |= {"recipe": asdict(self.recipe), "model": self._model}
        with replacing(path) as part:
            part.write_bytes(skops.io.dumps(document, compression=zipfile.ZIP_DEFLATED))

    @classmethod
    def load(cls, path: str | Path) -> PixelClassifier:
        """Read what :meth:`save` wrote; its types are listed, and its trees checked, before it may predict.

        Raises
        ------
        InputError
            If there is no such file.
        FormatError
            If it is damaged, holds a type that is not trusted, or is of another version.
        """
        import skops.io

        path = Path(path)
        if not path.is_file():
            raise InputError(f"there is no pixel classifier {path}: train one with 'anatrust teach'")
        data = path.read_bytes()
        try:
            foreign = sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED_TYPES))
            if foreign:
                raise FormatError(f"{path.name} holds the type {foreign[0]}, which is not trusted: train it again")
            document = skops.io.loads(data, trusted=list(TRUSTED_TYPES))
        except FormatError:
            raise
        except Exception as error:
            # skops and scikit-learn raise whatever a damaged file leads them to; all of it means the same.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FormatError(f"{path.name} is no pixel classifier or damaged ({reason}): train it again") from None
        return cls(*_checked(document, path.name))


def _checked(document: Any, name: str) -> tuple[Any, PixelRecipe]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    if not isinstance(document, Mapping) or document.get("format") != _FORMAT:
        raise FormatError(f"{name} is no pixel classifier: give a file written by 'anatrust teach'")
    known = {descriptors.identity for descriptors in _DESCRIPTORS.values()}
    if document.get("schema") not in (1, _SCHEMA) or document.get("descriptors") not in known:
        raise FormatError(f"{name} was trained by another version of anatrust, on other features: train it again")
    model: Any = document.get("model")
    try:
        recipe = PixelRecipe(**(_FIRST if document["schema"] == 1 else {}), **document["recipe"])
        width = model.n_features_in_
        sound = type(model) is HistGradientBoostingClassifier and width in (_width(recipe, 2), _width(recipe, 3))
        sound = sound and document["descriptors"] == _DESCRIPTORS[recipe.features].identity
        sound = sound and len(model.classes_) == 2 and all(_sound(tree, width) for (tree,) in model._predictors)
    except (AttributeError, InputError, KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise FormatError(f"a tree of {name} points outside its nodes or features: train it again")
    return model, recipe


def _sound(tree: Any, width: int) -> bool:
    """Whether a tree's walks end and stay inside; scikit-learn follows them unchecked."""
    nodes = tree.nodes
    at = np.arange(len(nodes))
    inner = nodes["is_leaf"] == 0
    children = np.stack([nodes["left"], nodes["right"]])[:, inner].astype(np.int64)
    features = nodes["feature_idx"][inner]
    return bool(
        len(nodes)
        and ((children > at[inner]) & (children < len(nodes))).all()
        and ((features >= 0) & (features < width)).all()
        and not nodes["is_categorical"].any()
        and np.isfinite(nodes["value"]).all()
    )


def _width(recipe: PixelRecipe, ndim: int) -> int:
    """How many features a voxel has."""
    return _DESCRIPTORS[recipe.features].width(ndim) + int(recipe.features == "scales")


def _box(mask: npt.NDArray[np.bool_]) -> Region:
    """The smallest region that holds a mask that is not empty."""
    box = bounding_box(mask)
    assert box is not None
    return Region(tuple(edge.start for edge in box), tuple(edge.stop for edge in box))


def _depth(organ: Mask | None, region: Region, spacing: tuple[float, ...]) -> Floats:
    """How far (mm, at most `_DEEP`) the voxels of a region lie below the organ's rim; as deep as can be without one.

    The image's edge is no rim.
    """
    if organ is None:
        return np.full(region.shape, _DEEP, dtype=np.float32)
    depth = np.zeros(region.shape, dtype=np.float32)
    box = _box(organ.array)
    low = tuple(max(0, a - 1) for a in box.start)
    high = tuple(min(n, b + 1) for b, n in zip(box.stop, organ.array.shape, strict=True))
    wide = Region(low, high)
    inside = organ.array[wide.slices]
    below = np.full(inside.shape, _DEEP) if inside.all() else ndimage.distance_transform_edt(inside, sampling=spacing)
    # What region and box share, in the coordinates of each.
    both = [(max(a, b), min(c, d)) for a, b, c, d in zip(low, region.start, high, region.stop, strict=True)]
    if all(a < b for a, b in both):
        here = tuple(slice(a - s, b - s) for (a, b), s in zip(both, region.start, strict=True))
        there = tuple(slice(a - s, b - s) for (a, b), s in zip(both, low, strict=True))
        depth[here] = np.minimum(below[there], _DEEP)
    return depth


def _features(recipe: PixelRecipe, scan: Scan, region: Region) -> Floats:
    """Descriptors in a region, seen with what surrounds it: ``(*region.shape, d)``."""
    descriptors = _DESCRIPTORS[recipe.features]
    margin = [int(np.ceil(descriptors.margin / step)) for step in scan.grid.spacing]
    low = [max(0, a - m) for a, m in zip(region.start, margin, strict=True)]
    high = [min(n, b + m) for b, m, n in zip(region.stop, margin, scan.grid.shape, strict=True)]
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    part = scan.array[window].astype(np.float32)
    steps = (*scan.grid.spacing, *(1.0,) * (3 - part.ndim))
    found = descriptors.encode(Scan(part, Grid(part.shape, np.diag([*steps, 1.0]))))
    return found[tuple(slice(a - b, c - b) for a, b, c in zip(region.start, low, region.stop, strict=True))]


def _robust(rows: Floats) -> tuple[Floats, Floats]:
    middle = np.median(rows, axis=0)
    spread = 1.4826 * np.median(np.abs(rows - middle), axis=0)
    # A flat tissue keeps its unit.
    return middle.astype(np.float32), np.where(spread > 1e-6, spread, 1.0).astype(np.float32)


def train_pixel_classifier(cases: Iterable[PixelCase], recipe: PixelRecipe | None = None) -> PixelClassifier:
    """Train from labelled scans; they are read one after the other, only the drawn voxels are kept.

    Parameters
    ----------
    cases
        Scans of any grid, 2-D or 3-D (not both), scans without the target included.
    recipe
        The defaults take about a minute for thirty scans.

    Raises
    ------
    InputError
        If there is no scan, or none shows the target, or all of it is target.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    recipe = recipe or PixelRecipe()
    rows: list[Floats] = []
    marks: list[npt.NDArray[np.int64]] = []
    for number, case in enumerate(cases):
        rng = np.random.default_rng([recipe.seed, number])
        array, grid = canonical(case.scan.array, case.scan.grid)
        truth, _ = canonical(case.truth.array, case.scan.grid)
        where = np.ones(array.shape, bool) if case.organ is None else canonical(case.organ.array, case.scan.grid)[0]
        if not where.any():
            continue
        organ = None if case.organ is None else Mask(where, grid)
        region = _box(where)
        inside = where[region.slices]
        features = _features(recipe, Scan(array, grid), region)[inside]
        middle, spread = _robust(features)
        rows_here = (features - middle) / spread
        if recipe.features == "scales":
            rows_here = np.column_stack([rows_here, _depth(organ, region, grid.spacing)[inside]])
        mark = truth[region.slices][inside]
        for value, most in ((True, recipe.target), (False, recipe.other)):
            chosen = np.flatnonzero(mark == value)
            if len(chosen) > most:
                chosen = np.sort(rng.choice(chosen, most, replace=False))
            rows.append(rows_here[chosen])
            marks.append(np.full(len(chosen), int(value)))
    labels = np.concatenate(marks) if marks else np.empty(0, dtype=np.int64)
    if len(np.unique(labels)) < 2:
        raise InputError("nothing can be learnt: give scans of which some show the target, and not everywhere")
    model = HistGradientBoostingClassifier(
        max_iter=recipe.trees,
        max_leaf_nodes=recipe.leaves,
        learning_rate=recipe.rate,
        min_samples_leaf=recipe.least,
        l2_regularization=recipe.shrinkage,
        max_features=recipe.share,
        early_stopping=False,
        random_state=recipe.seed,
    )
    return PixelClassifier(model.fit(np.concatenate(rows), labels), recipe)
