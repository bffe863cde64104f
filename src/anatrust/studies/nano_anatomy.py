"""A synthetic atlas in two dimensions: twelve organs of made-up patients in four looks, for `rau-nano`.

A coronal trunk, drawn in code: solid organs, coils of bowel and a branching tree of vessels. Every patient has
sizes, places, a turn and a smooth warp of their own; what happened to a patient (an organ missing, moved or cut,
a mirrored body, a lesion) can be asked for. The look says how tissue becomes grey.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from anatrust.errors import InputError
from anatrust.reference.pairs import LabelledPicture

__all__ = ["EVENTS", "LOOKS", "ORGANS", "THIN", "Event", "Look", "bent", "cohort", "draw_patient"]

Look = Literal["ct", "x-ray", "ultrasound", "mr"]
Event = Literal["none", "missing", "mirrored", "displaced", "resected", "lesion"]
LOOKS: tuple[Look, ...] = get_args(Look)
EVENTS: tuple[Event, ...] = get_args(Event)

Floats = npt.NDArray[np.float32]
Plane = tuple[Floats, Floats]

# Centre (x to the right of the picture, y downwards, the patient's right on the left), half axes, turn in degrees.
_SOLIDS: dict[str, tuple[float, float, float, float, float]] = {
    "heart": (0.08, -0.70, 0.17, 0.14, 25),
    "liver": (-0.30, -0.34, 0.33, 0.19, -14),
    "stomach": (0.22, -0.30, 0.13, 0.20, 24),
    "spleen": (0.50, -0.34, 0.10, 0.17, -16),
    "gallbladder": (-0.24, -0.11, 0.06, 0.09, 12),
    "pancreas": (0.06, -0.07, 0.19, 0.055, -8),
    "right kidney": (-0.33, 0.12, 0.095, 0.165, 10),
    "left kidney": (0.35, 0.06, 0.095, 0.165, -10),
    "bladder": (0.0, 0.78, 0.16, 0.105, 0),
}
ORGANS: tuple[str, ...] = (*_SOLIDS, "spine", "bowel", "vessels")
"""In the order of their label numbers, from 1."""

THIN: tuple[str, ...] = ("vessels", "bowel")
"""Organs that are tubes."""

# Grey of fat and each organ: what computed tomography, a radiograph, ultrasound and magnetic resonance make of them.
_GREYS: dict[Look, dict[str, float]] = {
    "ct": {
        "fat": 0.24, "heart": 0.62, "liver": 0.56, "stomach": 0.40, "spleen": 0.64, "gallbladder": 0.33,
        "pancreas": 0.50, "right kidney": 0.74, "left kidney": 0.74, "bladder": 0.36, "spine": 0.92, "bowel": 0.44,
        "vessels": 0.84,
    },
    "x-ray": {
        "fat": 0.62, "heart": 0.34, "liver": 0.40, "stomach": 0.76, "spleen": 0.42, "gallbladder": 0.50,
        "pancreas": 0.54, "right kidney": 0.46, "left kidney": 0.46, "bladder": 0.40, "spine": 0.16, "bowel": 0.72,
        "vessels": 0.28,
    },
    "ultrasound": {
        "fat": 0.58, "heart": 0.22, "liver": 0.44, "stomach": 0.30, "spleen": 0.40, "gallbladder": 0.06,
        "pancreas": 0.62, "right kidney": 0.30, "left kidney": 0.30, "bladder": 0.05, "spine": 0.88, "bowel": 0.68,
        "vessels": 0.10,
    },
    "mr": {
        "fat": 0.70, "heart": 0.30, "liver": 0.34, "stomach": 0.58, "spleen": 0.52, "gallbladder": 0.94,
        "pancreas": 0.42, "right kidney": 0.62, "left kidney": 0.62, "bladder": 0.96, "spine": 0.48, "bowel": 0.56,
        "vessels": 0.08,
    },
}  # fmt: skip
_REMOVABLE = ("stomach", "spleen", "gallbladder", "right kidney", "left kidney", "bladder")


@dataclass(frozen=True)
class _Tissue:
    """Where an organ is: a signed distance in shares of the half width, below 0 inside."""

    name: str
    distance: Floats


def draw_patient(
    seed: int, look: Look = "ct", event: Event = "none", *, size: int = 64, warp: float = 0.035, turn: float = 8.0
) -> LabelledPicture:
    """One made-up patient.

    Parameters
    ----------
    seed
        Decides anatomy and noise; the same seed has the same anatomy in every look.
    look
        How tissue becomes grey.
    event
        ``missing`` (an organ was removed), ``mirrored`` (all organs on the other side), ``displaced`` (one
        organ elsewhere), ``resected`` (half of an organ cut off) or ``lesion`` (a strange spot in an organ, whose
        label it keeps).
    size
        Rows and columns.
    warp
        Deviation of the smooth warp, in shares of the half width.
    turn
        Largest turn of the body, in degrees.

    Returns
    -------
    LabelledPicture
        Labels are numbered as :data:`ORGANS`, from 1.

    Raises
    ------
    InputError
        If the look or the event is unknown or the picture is smaller than 32.

    Examples
    --------
    >>> picture = draw_patient(3)
    >>> len(picture.present), bool((draw_patient(3, "ultrasound").labels == picture.labels).all())
    (12, True)
    """
    if look not in LOOKS or event not in EVENTS or size < 32:
        raise InputError(
            f"no look '{look}', event '{event}' or size {size}: choose {', '.join(LOOKS)}; {', '.join(EVENTS)}; ≥ 32"
        )
    rng = np.random.default_rng([seed, 11])
    plane = _plane(rng, size, warp, turn)
    if event == "mirrored":
        plane = (-plane[0], plane[1])
    trunk = _ellipse(plane, 0, 0.05, 0.80 + rng.normal(0, 0.02), 1.12, 0)
    tissues = _organs(rng, plane)
    happening = np.random.default_rng([seed, 12])
    tissues, spot = _happen(happening, plane, tissues, event)
    labels = np.zeros((size, size), dtype=np.uint8)
    for tissue in tissues:
        labels[(tissue.distance < 0) & (trunk < -0.03)] = ORGANS.index(tissue.name) + 1
    image = _look(np.random.default_rng([seed, 13, LOOKS.index(look)]), look, labels, trunk, spot)
    return LabelledPicture(image, labels, dict(enumerate(ORGANS, 1)), f"{seed}")


def cohort(
    seeds: range, looks: tuple[Look, ...], *, size: int = 64, events: float = 0.4, warp: float = 0.035
) -> list[LabelledPicture]:
    """Patients one by one, a look each in turn; to a share of them something happened.

    Parameters
    ----------
    seeds
        One patient each; disjoint ranges share no patient.
    looks
        To take in turn.
    size, warp
        Of :func:`draw_patient`.
    events
        Share of patients with an event.
    """
    found = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 14])
        event: Event = EVENTS[1 + int(rng.integers(len(EVENTS) - 1))] if rng.random() < events else "none"
        found.append(draw_patient(seed, looks[seed % len(looks)], event, size=size, warp=warp))
    return found


def bent(
    picture: LabelledPicture, *, turn: float = 0.0, scale: float = 1.0, bend: float = 0.0, seed: int = 0
) -> LabelledPicture:
    """The same patient seen otherwise: turned, enlarged, bent.

    Parameters
    ----------
    picture
        Any.
    turn
        Degrees.
    scale
        Above 1 enlarges.
    bend
        Deviation of a smooth warp, in shares of the picture's side.
    seed
        Of the bend.
    """
    size = np.array(picture.image.shape)
    rows, columns = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in size), indexing="ij")
    centred = np.stack([rows, columns]) - (size[:, None, None] - 1) / 2
    angle = np.deg2rad(turn)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    places = np.einsum("ij,jrc->irc", matrix, centred) + (size[:, None, None] - 1) / 2
    if bend > 0:
        rng = np.random.default_rng([seed, 15])
        places += np.stack([_smooth(rng, int(size[0]), bend * size[0]) for _ in range(2)])
    image = ndimage.map_coordinates(picture.image, places, order=1, mode="nearest").astype(np.float32)
    labels = ndimage.map_coordinates(picture.labels, places, order=0, mode="constant")
    return LabelledPicture(image, labels, picture.names, picture.patient)


def _plane(rng: np.random.Generator, size: int, warp: float, turn: float) -> Plane:
    """Body coordinates of every pixel: turned, scaled, shifted and warped."""
    line = (np.arange(size) + 0.5) / size * 2 - 1
    # A trunk is taller than wide, a picture is square: the trunk is stretched to fill it.
    y, x = np.meshgrid(1.2 * line, 0.92 * line, indexing="ij")
    angle = np.deg2rad(rng.uniform(-turn, turn))
    scale, shift = np.exp(rng.normal(0, 0.05)), rng.normal(0, 0.035, 2)
    u = (np.cos(angle) * x + np.sin(angle) * y) * scale + shift[0] + _smooth(rng, size, warp)
    v = (-np.sin(angle) * x + np.cos(angle) * y) * scale + shift[1] + _smooth(rng, size, warp)
    return u.astype(np.float32), v.astype(np.float32)


def _smooth(rng: np.random.Generator, size: int, strength: float) -> npt.NDArray[np.float64]:
    control = rng.normal(0, strength, (5, 5))
    return np.asarray(ndimage.zoom(control, size / 5, order=3, mode="nearest", grid_mode=True))


def _ellipse(plane: Plane, x: float, y: float, a: float, b: float, turn: float) -> Floats:
    """Signed distance (first order)."""
    angle = np.deg2rad(turn)
    u, v = plane[0] - x, plane[1] - y
    along, across = np.cos(angle) * u + np.sin(angle) * v, -np.sin(angle) * u + np.cos(angle) * v
    k0 = np.sqrt((along / a) ** 2 + (across / b) ** 2)
    k1 = np.sqrt((along / a**2) ** 2 + (across / b**2) ** 2)
    return np.asarray(k0 * (k0 - 1) / np.maximum(k1, 1e-6), dtype=np.float32)


def _tube(plane: Plane, path: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]) -> Floats:
    """Signed distance to a chain of discs joined by straight bands."""
    best = np.full(plane[0].shape, np.inf, dtype=np.float32)
    for a, b, ra, rb in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True):
        way = b - a
        u, v = plane[0] - a[0], plane[1] - a[1]
        t = np.clip((u * way[0] + v * way[1]) / max(float(way @ way), 1e-9), 0, 1)
        gap = np.hypot(u - t * way[0], v - t * way[1]) - (ra + t * (rb - ra))
        np.minimum(best, gap.astype(np.float32), out=best)
    return best


def _organs(rng: np.random.Generator, plane: Plane) -> list[_Tissue]:
    """From back to front; what comes later lies over what came before."""
    found = {}
    for name, (x, y, a, b, turn) in _SOLIDS.items():
        size = np.exp(rng.normal(0, 0.10)) * np.exp(rng.normal(0, 0.05, 2))
        place = rng.normal(0, 0.03, 2)
        found[name] = _ellipse(plane, x + place[0], y + place[1], a * size[0], b * size[1], turn + rng.normal(0, 8))
    spine = np.array([[0.0, -1.2], [rng.normal(0, 0.02), 0.0], [0.0, 0.60]])
    wide = 0.062 * float(np.exp(rng.normal(0, 0.08)))
    found["spine"] = _tube(plane, spine, np.full(3, wide))
    found["bowel"] = _coils(rng, plane)
    found["vessels"] = _tree(rng, plane)
    order: tuple[str, ...] = (
        "spine",
        "vessels",
        "right kidney",
        "left kidney",
        "bowel",
        "bladder",
        "pancreas",
        "spleen",
        "stomach",
    )
    order += ("heart", "liver", "gallbladder")
    return [_Tissue(name, found[name]) for name in order]


def _coils(rng: np.random.Generator, plane: Plane) -> Floats:
    """A tube that runs to and fro in the lower belly."""
    path, side = [], 1.0
    for height in np.linspace(0.32, 0.60, 4):
        reach = 0.27 + rng.normal(0, 0.03)
        path += [(side * share * reach, height + rng.normal(0, 0.018)) for share in (-1.0, 0.0, 1.0)]
        side = -side
    points = np.array(path) + rng.normal(0, 0.02, 2)
    return _tube(plane, points, np.full(len(points), 0.035))


def _tree(rng: np.random.Generator, plane: Plane) -> Floats:
    """The aorta beside the spine with its branches, each thinner than the one before."""
    best = np.full(plane[0].shape, np.inf, dtype=np.float32)

    def grow(start: npt.NDArray[np.float64], angle: float, length: float, radius: float, depth: int) -> None:
        end = start + length * np.array([np.sin(angle), np.cos(angle)])
        np.minimum(best, _tube(plane, np.stack([start, end]), np.array([radius, 0.8 * radius])), out=best)
        if depth:
            for sign in (-1, 1):
                turned = angle + sign * rng.uniform(0.3, 0.7)
                grow(end, turned, length * rng.uniform(0.6, 0.8), 0.75 * radius, depth - 1)

    top = np.array([0.10 + rng.normal(0, 0.01), -0.56])
    fork = np.array([0.08, 0.22])
    np.minimum(best, _tube(plane, np.stack([top, fork]), np.array([0.042, 0.036])), out=best)
    for share, sign in ((0.72, -1), (0.66, 1), (0.35, -1), (0.40, 1)):
        grow(top + share * (fork - top), sign * rng.uniform(1.0, 1.5), 0.20, 0.026, 2)
    for sign in (-1, 1):
        grow(fork, sign * rng.uniform(0.35, 0.6), 0.30, 0.032, 2)
    return best


def _happen(
    rng: np.random.Generator, plane: Plane, tissues: list[_Tissue], event: Event
) -> tuple[list[_Tissue], Floats | None]:
    """What befell the patient, and where a strange spot is."""
    name = _REMOVABLE[int(rng.integers(len(_REMOVABLE)))]
    x, y, a, b, turn = _SOLIDS[name]
    if event == "missing":
        return [t for t in tissues if t.name != name], None
    if event == "displaced":
        name = ("right kidney", "left kidney", "gallbladder")[int(rng.integers(3))]
        x, y, a, b, turn = _SOLIDS[name]
        new = _ellipse(plane, x * 0.7, y + 0.34 + rng.normal(0, 0.03), a, b, turn)
        # It lies over what was there.
        return [*(t for t in tissues if t.name != name), _Tissue(name, new)], None
    if event == "resected":
        angle = rng.uniform(0, 2 * np.pi)
        cut = np.asarray(np.cos(angle) * (plane[0] - x) + np.sin(angle) * (plane[1] - y), dtype=np.float32)
        return [_Tissue(t.name, np.maximum(t.distance, cut)) if t.name == name else t for t in tissues], None
    if event == "lesion":
        name = ("liver", "spleen", "right kidney", "left kidney")[int(rng.integers(4))]
        x, y, a, b, _ = _SOLIDS[name]
        place = np.array([x, y]) + rng.uniform(-0.4, 0.4, 2) * (a, b)
        return tissues, _ellipse(plane, float(place[0]), float(place[1]), 0.07, 0.06, 0)
    return tissues, None


def _look(
    rng: np.random.Generator, look: Look, labels: npt.NDArray[np.uint8], trunk: Floats, spot: Floats | None
) -> Floats:
    """Grey values in [0, 1] of a labelled body."""
    size = len(labels)
    greys = _GREYS[look]
    table = np.array([greys["fat"], *(greys[name] for name in ORGANS)])
    table += rng.normal(0, 0.03, len(table))
    image = table[labels].astype(np.float64)
    if spot is not None:
        image[spot < 0] += -0.22 if look != "ultrasound" else 0.28
    outside = 0.95 if look == "x-ray" else 0.02
    image[trunk > 0] = outside
    image[(trunk <= 0) & (trunk > -0.05)] = 0.48 if look != "x-ray" else 0.55
    if look == "ct":
        image = ndimage.gaussian_filter(image, 0.5) + rng.normal(0, 0.03, image.shape)
    elif look == "x-ray":
        # A projection: no sharp edges, and ribs across it.
        height = (np.arange(size) / size * 9) % 1
        ribs = ((height < 0.22) & (np.arange(size) < 0.55 * size))[:, None] & (trunk < -0.04)
        image = ndimage.gaussian_filter(image - 0.10 * ribs, 0.9) + rng.normal(0, 0.02, image.shape)
    elif look == "mr":
        # Brighter where the coils are near, noise as of magnitudes.
        near = 1 + _smooth(rng, size, 0.12)
        noise = rng.normal(0, 0.03, (2, *image.shape))
        image = np.hypot(ndimage.gaussian_filter(image, 0.6) * near + noise[0], noise[1])
    else:
        grain = ndimage.gaussian_filter(rng.normal(size=(2, size, size)), (0, 0.6, 0.6))
        speckle = np.hypot(grain[0], grain[1])
        depth = np.linspace(1.15, 0.75, size)[:, None]
        image = ndimage.gaussian_filter(image, 0.6) * depth * (0.55 + 0.45 * speckle / speckle.mean())
        y, x = np.meshgrid(np.linspace(0, 1, size), np.linspace(-1, 1, size), indexing="ij")
        image[np.abs(x) > 0.55 + 0.75 * y] = 0.0
    return np.asarray(np.clip(image, 0, 1), dtype=np.float32)
