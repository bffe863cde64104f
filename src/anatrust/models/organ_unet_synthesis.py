"""Made-up images of real anatomy: random grey values, warps and artefacts over label maps (SynthSeg)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.errors import InputError

__all__ = ["AnatomyCase", "SynthesisRecipe", "even_intensities", "fine_tissues", "synthesise"]

Floats = npt.NDArray[np.float32]


def even_intensities(array: npt.NDArray[np.generic]) -> Floats:
    """Grey values on a common footing, whatever the scanner: zero mean, unit deviation, ends clipped.

    The range is taken from the brighter half of the image (in a CT the body without the air), so
    that soft tissue is not squeezed together by air and metal.

    Examples
    --------
    >>> float(even_intensities(np.array([[0.0, 1.0], [2.0, 3.0]])).mean().round(6))
    0.0
    """
    values = np.asarray(array).astype(np.float32)
    floor, ceiling = np.percentile(values, (0.5, 99.9))
    clipped = np.clip(values, floor, ceiling)
    bright = clipped[clipped > clipped.mean()]
    if bright.size:
        low, high = np.percentile(bright, (2, 98))
        reach = max(float(high - low), 1e-6)
        clipped = np.clip(values, max(float(floor), float(low) - reach), min(float(ceiling), float(high) + reach / 4))
    spread = float(clipped.std())
    return np.asarray((clipped - clipped.mean()) / (spread if spread > 0 else 1.0), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class AnatomyCase:
    """One label map to make images of, upright (first axis to the right, second forward, third up).

    Parameters
    ----------
    name
        Whose it is.
    image
        Its real image, float32; its grey values are one of the styles that are drawn.
    organs
        uint8, the class of every voxel, 0 for none of them.
    tissues
        uint16 from :func:`fine_tissues`, finer than the classes: a random grey value each.
    parents
        For every tissue the structure it is a part of: parts of one structure get similar values.
    spacing
        Voxel edges in mm.
    unknown
        Classes the map does not label although the body may show them: learning says nothing of
        them there.
    """

    name: str
    image: Floats
    organs: npt.NDArray[np.uint8]
    tissues: npt.NDArray[np.uint16]
    parents: npt.NDArray[np.int64]
    spacing: tuple[float, float, float]
    unknown: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.image.shape == self.organs.shape == self.tissues.shape or self.image.ndim != 3:
            raise InputError(f"image, organs and tissues of {self.name} must be 3-D arrays of one shape")


def fine_tissues(
    image: Floats, structures: npt.NDArray[np.integer], *, parts: int = 3, rest: int = 8, seed: int = 0
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
    """Cut every structure, and what has no label, into clusters of grey value.

    Unlabelled fat, muscle, bone and air then get random grey values of their own, as Billot et al.
    (2023) do it for structures nobody drew.

    Parameters
    ----------
    image, structures
        Equal shapes; 0 in ``structures`` is what has no label.
    parts, rest
        Clusters within a structure, and within the unlabelled rest.

    Returns
    -------
    tissues, parents
        uint16 tissue of every voxel, and the structure of every tissue; the parts of the rest are
        structures of their own.

    Examples
    --------
    >>> grey = np.array([[0.0, 0.0, 5.0, 5.0, 9.0]], dtype=np.float32)
    >>> fine_tissues(grey, np.array([[0, 0, 0, 0, 1]]), parts=1, rest=2)[0].tolist()
    [[0, 0, 1, 1, 2]]
    """
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(image, 0.5)
    tissues = np.zeros(structures.shape, dtype=np.uint16)
    parents: list[int] = []
    for number in np.unique(structures):
        inside = structures == number
        values = smooth[inside]
        some = values if values.size <= 20_000 else rng.choice(values, 20_000, replace=False)
        wanted = min(parts if number else rest, len(np.unique(some)))
        centres = np.sort(KMeans(wanted, n_init=2, random_state=seed).fit(some[:, None]).cluster_centers_[:, 0])
        nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
        tissues[inside] = len(parents) + nearest
        # The rest's clusters are tissues of their own; numbers below 0 keep them apart from structures.
        parents += [int(number) if number else -1 - k for k in range(wanted)]
    _, order = np.unique(parents, return_inverse=True)
    return tissues, order.astype(np.int64)


@dataclass(frozen=True)
class SynthesisRecipe:
    """How wild the images are; the defaults follow SynthSeg (Billot et al. 2023), lengths in mm.

    ``real`` is the share of images that keep the real scan's grey values under a random curve,
    ``mixed`` the share that blends both; ``voxels`` bounds the size of an image, and with it the time.
    Nothing is mirrored: where the liver lies tells it from the spleen.
    """

    spacing: float = 10.0
    edge: tuple[int, int] = (26, 44)
    height: tuple[int, int] = (4, 34)
    voxels: int = 20_000
    scale: float = 0.14
    rotation: float = 0.18
    shear: float = 0.05
    bend: float = 12.0
    mirror: float = 0.0
    real: float = 0.5
    mixed: float = 0.3


def synthesise(
    case: AnatomyCase, rng: np.random.Generator, recipe: SynthesisRecipe | None = None
) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """One random image of a case, with its classes.

    A random field of view at ``recipe.spacing``; affine and elastic warp, mirrored where the recipe
    says so; a grey value per tissue or the real ones under a random curve; bias
    field, blur, thick slices, noise.

    Returns
    -------
    image, organs
        float32 as :func:`even_intensities` gives them, and uint8 classes. Cost: about 0.1 s for 64³.
    """
    recipe = recipe or SynthesisRecipe()
    shape = _field_of_view(case, rng, recipe)
    points = _places(case, shape, rng, recipe)
    at = np.clip(np.rint(points), 0, np.array(case.image.shape).reshape(3, 1, 1, 1) - 1).astype(np.intp)
    limits = np.array(case.image.shape).reshape(3, 1, 1, 1)
    outside = ((points < -0.5) | (points > limits - 0.5)).any(axis=0)
    index = (at[0], at[1], at[2])
    organs, tissues = case.organs[index], case.tissues[index]
    style = rng.random()
    painted = _painted(case, tissues, rng)
    if style < recipe.real + recipe.mixed:
        real = _curved(ndimage.map_coordinates(case.image, points, order=1, mode="nearest"), rng)
        share = 1.0 if style < recipe.real else float(rng.uniform(0.2, 0.8))
        painted = share * real + (1 - share) * painted
    painted = _scanned(painted.astype(np.float32), rng)
    organs[outside] = 0
    painted[outside] = painted.min()
    return even_intensities(painted), organs


def _field_of_view(case: AnatomyCase, rng: np.random.Generator, recipe: SynthesisRecipe) -> tuple[int, int, int]:
    x, y = (int(rng.integers(recipe.edge[0], recipe.edge[1] + 1)) for _ in range(2))
    whole = round(case.image.shape[2] * case.spacing[2] / recipe.spacing * 1.1)
    low, high = recipe.height
    most = max(low, min(whole, recipe.voxels // (x * y)))
    return x, y, int(np.clip(rng.integers(low, high + 1), low, most))


def _places(
    case: AnatomyCase, shape: tuple[int, int, int], rng: np.random.Generator, recipe: SynthesisRecipe
) -> npt.NDArray[np.float64]:
    """Index in the case of every voxel of the new image, ``(3, *shape)``."""
    turn = np.eye(3)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angle = rng.normal(0, recipe.rotation / 2)
        step = np.eye(3)
        step[[first, second], [first, second]] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    matrix = turn @ np.diag(np.exp(rng.normal(0, recipe.scale, 3))) + rng.normal(0, recipe.shear, (3, 3))
    if rng.random() < recipe.mirror:
        matrix[:, 0] *= -1
    size = np.array(case.image.shape) * case.spacing
    # The middle of the body in the plane, any height: whoever crops a scan keeps the patient in it.
    centre = size / 2 + rng.normal(0, 25, 3)
    half = shape[2] * recipe.spacing / 2
    centre[2] = rng.uniform(min(half, size[2] / 2), max(size[2] - half, size[2] / 2)) + rng.normal(0, 10)
    axes = [(np.arange(n) - (n - 1) / 2) * recipe.spacing for n in shape]
    flat = np.stack(np.meshgrid(*axes, indexing="ij"))
    world = np.tensordot(matrix, flat, axes=1) + centre.reshape(3, 1, 1, 1)
    knots = int(rng.integers(3, 7))
    strength = recipe.bend * rng.uniform(0.2, 1.0)
    for axis in range(3):
        world[axis] += _smooth(shape, knots, strength, rng)
    return np.asarray(world / np.array(case.spacing).reshape(3, 1, 1, 1))


def _smooth(shape: Sequence[int], knots: int, strength: float, rng: np.random.Generator) -> Floats:
    """A smooth random field with ``knots`` values along each axis."""
    control = rng.normal(0, strength, (knots,) * 3).astype(np.float32)
    zoom = [n / knots for n in shape]
    field = ndimage.zoom(control, zoom, order=2, mode="nearest", grid_mode=True)
    return np.asarray(field, dtype=np.float32)


def _painted(case: AnatomyCase, tissues: npt.NDArray[np.uint16], rng: np.random.Generator) -> Floats:
    """A grey value and a grain for every tissue."""
    own = rng.uniform(0, 1, int(case.parents.max()) + 1)
    value = own[case.parents] + rng.normal(0, rng.uniform(0, 0.15), len(case.parents))
    if rng.random() < 0.8:
        # The rest's darkest cluster is air; in nearly every modality it stays so.
        value[0] = 0
    grain = rng.uniform(0, 0.1, len(case.parents))
    noise = rng.standard_normal(tissues.shape).astype(np.float32)
    if rng.random() < 0.5:
        noise = ndimage.gaussian_filter(noise, 0.8) * 2.5
    return np.asarray(value[tissues] + grain[tissues] * noise, dtype=np.float32)


def _curved(image: Floats, rng: np.random.Generator) -> Floats:
    """Grey values under a random curve: monotone as a rule, turned upside down or folded at times."""
    low, high = np.percentile(image, (1, 99))
    values = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1)
    knots = np.linspace(0, 1, 7)
    kind = rng.random()
    if kind < 0.75:
        heights = np.concatenate([[0], np.cumsum(rng.gamma(1.5, 1, 6))])
    elif kind < 0.9:
        # Dark air and bright tissue change places above the air.
        heights = np.concatenate([[0, 1], 1 - np.cumsum(rng.dirichlet(np.ones(5)))])
    else:
        heights = np.concatenate([[0], rng.uniform(0, 1, 6)])
    heights = heights / max(float(heights.max()), 1e-6)
    return np.asarray(np.interp(values, knots, heights), dtype=np.float32)


def _scanned(image: Floats, rng: np.random.Generator) -> Floats:
    """Bias field, blur, thick slices and noise."""
    image = image * np.exp(_smooth(image.shape, int(rng.integers(2, 5)), rng.uniform(0, 0.3), rng))
    if rng.random() < 0.7:
        image = ndimage.gaussian_filter(image, rng.uniform(0, 0.9, 3))
    if rng.random() < 0.3:
        axis, factor = int(rng.integers(3)), float(rng.uniform(1, 2.5))
        coarse = [1.0, 1.0, 1.0]
        coarse[axis] = 1 / factor
        if image.shape[axis] >= 12:
            small = ndimage.zoom(image, coarse, order=1, mode="nearest", grid_mode=True)
            back = [n / m for n, m in zip(image.shape, small.shape, strict=True)]
            image = ndimage.zoom(small, back, order=1, mode="nearest", grid_mode=True)
    noise = rng.uniform(0, 0.06) * rng.standard_normal(image.shape)
    return np.asarray(image + noise, dtype=np.float32)
