"""Pixel classification in the manner of ilastik: local descriptors and boosted trees, trained in a minute."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.errors import FormatError, GeometryError, InputError
from anatrust.image.atomic import replacing
from anatrust.image.grid import Grid
from anatrust.image.orientation import canonical
from anatrust.image.region import Region
from anatrust.image.volumes import Mask, Scan
from anatrust.models.descriptors import LocalDescriptors

__all__ = ["TRUSTED_TYPES", "PixelCase", "PixelClassifier", "PixelRecipe", "train_pixel_classifier"]

Floats = npt.NDArray[np.float32]

TRUSTED_TYPES = ("sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",)
"""The only type beyond skops' own list that a saved classifier may hold."""

_FORMAT = "anatrust-pixel-classifier"
_SCHEMA = 1
_DESCRIPTORS = LocalDescriptors()


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
    seed
        Of the drawing of voxels.
    """

    target: int = 2_000
    other: int = 8_000
    trees: int = 120
    leaves: int = 15
    rate: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
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

    Notes
    -----
    Features are those of :class:`~anatrust.models.descriptors.LocalDescriptors`, each in robust
    standard deviations of the organ looked at, so that scanners and contrast agents matter less.
    It knows neither place nor shape and proposes whatever looks like the target: rejection has to tell.
    """

    def __init__(self, model: Any, recipe: PixelRecipe) -> None:
        self._model = model
        self.recipe = recipe
        digest = hashlib.sha256(_DESCRIPTORS.identity.encode())
        for (tree,) in model._predictors:
            nodes = tree.nodes
            for name in ("feature_idx", "num_threshold", "left", "right", "is_leaf", "value"):
                digest.update(np.ascontiguousarray(nodes[name]).tobytes())
        self.digest = digest.hexdigest()

    def probabilities(self, scan: Scan, region: Region, organ: Mask | None = None) -> Floats:
        """Probability of the target in a region, float32 of the region's shape; 0 outside the organ.

        Works through the organ slab by slab; memory is about 60 bytes a voxel of a slab of at most
        2 million voxels, besides one float32 map.

        Examples
        --------
        >>> grid = Grid((40, 40), np.eye(4))
        >>> image = np.random.default_rng(0).normal(0, 1, (40, 40))
        >>> truth = np.zeros((40, 40), bool)
        >>> truth[10:20, 10:20] = True
        >>> case = PixelCase(Scan(image + 4 * truth, grid), Mask(truth, grid))
        >>> model = train_pixel_classifier([case], PixelRecipe(trees=10))
        >>> found = model.probabilities(case.scan, Region.whole((40, 40)))
        >>> bool(found[15, 15] > 0.5 > found[30, 30])
        True
        """
        out = np.zeros(region.shape, dtype=np.float32)
        inside = np.ones(region.shape, dtype=bool) if organ is None else organ.array[region.slices]
        if not inside.any():
            return out
        middle, spread = self._footing(scan, region, organ)
        margin = [int(np.ceil(_DESCRIPTORS.margin / step)) for step in scan.grid.spacing]
        plane = max(1, int(np.prod(region.shape[:-1])))
        depth = max(1, 2_000_000 // plane)
        for low in range(0, region.shape[-1], depth):
            high = min(low + depth, region.shape[-1])
            here = inside[..., low:high]
            if not here.any():
                continue
            start = (*region.start[:-1], region.start[-1] + low)
            stop = (*region.stop[:-1], region.start[-1] + high)
            features = _features(scan, Region(start, stop), margin)[here]
            rows = (features - middle) / spread
            part = np.zeros(here.shape, dtype=np.float32)
            part[here] = self._model.predict_proba(rows)[:, 1]
            out[..., low:high] = part
        return out

    def _footing(self, scan: Scan, region: Region, organ: Mask | None) -> tuple[Floats, Floats]:
        """Middle and spread of each feature over the organ (the region where there is none)."""
        margin = [int(np.ceil(_DESCRIPTORS.margin / step)) for step in scan.grid.spacing]
        if organ is None or not organ.array.any():
            return _robust(_features(scan, region, margin).reshape(-1, len(_DESCRIPTORS.names)))
        box = ndimage.find_objects(organ.array.astype(np.uint8))[0]
        whole = Region(tuple(s.start for s in box), tuple(s.stop for s in box))
        return _robust(_features(scan, whole, margin)[organ.array[box]])

    def save(self, path: str | Path) -> None:
        """Write one skops file; no pickle."""
        import skops.io

        document = {"format": _FORMAT, "schema": _SCHEMA, "descriptors": _DESCRIPTORS.identity}
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
    if document.get("schema") != _SCHEMA or document.get("descriptors") != _DESCRIPTORS.identity:
        raise FormatError(f"{name} was trained by another version of anatrust, on other features: train it again")
    model: Any = document.get("model")
    width = len(_DESCRIPTORS.names)
    try:
        recipe = PixelRecipe(**document["recipe"])
        sound = type(model) is HistGradientBoostingClassifier and model.n_features_in_ == width
        sound = sound and len(model.classes_) == 2 and all(_sound(tree, width) for (tree,) in model._predictors)
    except (AttributeError, KeyError, TypeError, ValueError):
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


def _features(scan: Scan, region: Region, margin: Iterable[int]) -> Floats:
    """Descriptors in a region, seen with what surrounds it: ``(*region.shape, d)``."""
    low = [max(0, a - m) for a, m in zip(region.start, margin, strict=True)]
    high = [min(n, b + m) for b, m, n in zip(region.stop, margin, scan.grid.shape, strict=True)]
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    part = scan.array[window].astype(np.float32)
    steps = (*scan.grid.spacing, *(1.0,) * (3 - part.ndim))
    found = _DESCRIPTORS.encode(Scan(part, Grid(part.shape, np.diag([*steps, 1.0]))))
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
        box = ndimage.find_objects(where.astype(np.uint8))[0]
        region = Region(tuple(s.start for s in box), tuple(s.stop for s in box))
        margin = [int(np.ceil(_DESCRIPTORS.margin / step)) for step in grid.spacing]
        features = _features(Scan(array, grid), region, margin)[where[box]]
        middle, spread = _robust(features)
        mark = truth[box][where[box]]
        for value, most in ((True, recipe.target), (False, recipe.other)):
            chosen = np.flatnonzero(mark == value)
            if len(chosen) > most:
                chosen = np.sort(rng.choice(chosen, most, replace=False))
            rows.append((features[chosen] - middle) / spread)
            marks.append(np.full(len(chosen), int(value)))
    labels = np.concatenate(marks) if marks else np.empty(0, dtype=np.int64)
    if len(np.unique(labels)) < 2:
        raise InputError("nothing can be learnt: give scans of which some show the target, and not everywhere")
    model = HistGradientBoostingClassifier(
        max_iter=recipe.trees,
        max_leaf_nodes=recipe.leaves,
        learning_rate=recipe.rate,
        early_stopping=False,
        random_state=recipe.seed,
    )
    return PixelClassifier(model.fit(np.concatenate(rows), labels), recipe)
