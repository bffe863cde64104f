"""The organs of the phantom abdomen: soft-edged solids painted into an image and a label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["Painter", "draw_abdomen", "warp_fields"]

Floats = npt.NDArray[np.float32]
Box = tuple[slice, ...]
Vector = Sequence[float] | npt.NDArray[np.float64]

# TotalSegmentator v2 numbers, so that tools which know that table read the phantom's labels.
_NUMBERS = {
    "spleen": 1,
    "kidney_right": 2,
    "kidney_left": 3,
    "gallbladder": 4,
    "liver": 5,
    "stomach": 6,
    "pancreas": 7,
    "small_bowel": 18,
    "colon": 20,
    "vertebrae_L1": 31,
    "aorta": 52,
    "inferior_vena_cava": 63,
    "portal_vein_and_splenic_vein": 64,
    "spinal_cord": 79,
    "autochthon_left": 86,
    "autochthon_right": 87,
    "iliopsoas_left": 88,
    "iliopsoas_right": 89,
}
_RIB_NUMBERS = {
    f"rib_{side}_{k}": start + k - 1 for side, start in (("left", 92), ("right", 104)) for k in range(8, 13)
}


@dataclass
class Painter:
    """An image in HU and its labels, painted solid by solid with partial-volume edges.

    ``coordinates`` are the warped patient coordinates (x right, y anterior, z superior, mm)
    of every voxel, ``step`` the width of the soft edge in mm, ``texture`` a unit-variance
    field that organs scale.
    """

    coordinates: tuple[Floats, Floats, Floats]
    step: float
    texture: Floats
    image: Floats = field(init=False)
    labels: npt.NDArray[np.uint8] = field(init=False)
    names: dict[int, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.image = np.full(self.texture.shape, -1000, dtype=np.float32)
        self.labels = np.zeros(self.texture.shape, dtype=np.uint8)

    def box(self, low: Vector, high: Vector) -> Box:
        """Smallest box of voxels that holds the warped coordinates between ``low`` and ``high`` mm."""
        slices = []
        for axis, (a, b) in enumerate(zip(low, high, strict=True)):
            others = tuple(k for k in range(3) if k != axis)
            c = self.coordinates[axis]
            hit = np.flatnonzero((c.max(axis=others) >= a) & (c.min(axis=others) <= b))
            slices.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, 0))
        return tuple(slices)

    def at(self, box: Box) -> tuple[Floats, Floats, Floats]:
        """Coordinates inside a box."""
        x, y, z = self.coordinates
        return x[box], y[box], z[box]

    def paint(self, distance: Floats, box: Box, value: float, *, name: str | None = None, texture: float = 0.0) -> None:
        """Fill where the signed ``distance`` (mm) is below 0 with ``value`` HU plus organ texture."""
        share = np.clip(0.5 - distance / self.step, 0, 1)
        part = self.image[box]
        self.image[box] = part * (1 - share) + share * (value + texture * self.texture[box])
        if name is not None:
            number = _NUMBERS.get(name) or _RIB_NUMBERS[name]
            self.names[number] = name
            self.labels[box][share >= 0.5] = number
        else:
            self.labels[box][share >= 0.5] = 0


def _ellipsoid(p: tuple[Floats, Floats, Floats], centre: Vector, radii: Vector) -> Floats:
    """Signed distance (first order) to an ellipsoid."""
    q = [(c - m) / r for c, m, r in zip(p, centre, radii, strict=True)]
    k0 = np.sqrt(sum(v**2 for v in q))
    k1 = np.sqrt(sum((v / r) ** 2 for v, r in zip(q, radii, strict=True)))
    return np.asarray(k0 * (k0 - 1) / np.maximum(k1, 1e-6), dtype=np.float32)


def _tube(p: tuple[Floats, Floats, Floats], path: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]) -> Floats:
    """Signed distance to a chain of balls joined by straight tubes."""
    best = np.full(p[0].shape, np.inf, dtype=np.float32)
    for (a, ra), (b, rb) in zip(
        zip(path[:-1], radii[:-1], strict=True), zip(path[1:], radii[1:], strict=True), strict=True
    ):
        way = b - a
        along = sum((c - m) * w for c, m, w in zip(p, a, way, strict=True)) / max(float(way @ way), 1e-9)
        t = np.clip(along, 0, 1)
        gap = np.sqrt(sum((c - m - t * w) ** 2 for c, m, w in zip(p, a, way, strict=True)))
        np.minimum(best, gap - (ra + t * (rb - ra)), out=best)
    return best


class _Draw:
    """Random numbers of one anatomy: sizes, places and enhancement vary from patient to patient."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def size(self, *radii: float, spread: float = 0.07) -> npt.NDArray[np.float64]:
        common = float(np.exp(self.rng.normal(0, spread)))
        return np.asarray(radii) * common * np.exp(self.rng.normal(0, spread / 2, len(radii)))

    def place(self, *centre: float, spread: float = 3.0) -> npt.NDArray[np.float64]:
        return np.asarray(centre) + self.rng.normal(0, spread, len(centre))

    def level(self, value: float, spread: float = 6.0) -> float:
        return float(value + self.rng.normal(0, spread))


def draw_abdomen(painter: Painter, rng: np.random.Generator, *, ribs: bool = True) -> None:
    """Paint a randomised upper abdomen in portal-venous phase (levels in HU, see the source).

    Parameters
    ----------
    painter
        The canvas; its image and labels are changed.
    rng
        Draws sizes (about 7 % spread), places (3 mm) and enhancement (6 HU).
    ribs
        Whether to draw ribs in the body wall.
    """
    draw = _Draw(rng)
    everywhere: Box = (slice(None),) * 3
    x, y, _ = painter.coordinates
    half = draw.size(163, 112, spread=0.03)
    fat = float(np.clip(rng.normal(17, 4), 9, 27))
    wall = float(np.clip(rng.normal(12, 1.5), 9, 15))
    # The trunk is an elliptic cylinder: its distance ignores z.
    flat = (x, y, np.zeros((), dtype=np.float32))
    trunk = _ellipsoid(flat, (0, 0, 0), (half[0], half[1], 1.0))
    painter.paint(trunk, everywhere, 15)
    painter.paint(trunk + 2.5, everywhere, draw.level(-104, 3), texture=4)
    painter.paint(trunk + fat, everywhere, draw.level(55, 4), texture=6)
    cavity = trunk + fat + wall
    painter.paint(cavity, everywhere, draw.level(-98, 3), texture=7)
    if ribs:
        _ribs(painter, cavity - wall / 2, draw)

    def solid(name: str, centre: Vector, radii: Vector, value: float, *, texture: float, keep_in: float = 2) -> None:
        reach = np.asarray(radii) + 2 * painter.step
        box = painter.box(np.asarray(centre) - reach, np.asarray(centre) + reach)
        if painter.image[box].size:
            shape = np.maximum(_ellipsoid(painter.at(box), centre, radii), cavity[box] + keep_in)
            painter.paint(shape, box, value, name=name, texture=texture)

    def tube(name: str, path: npt.NDArray[np.float64], radii: Vector, value: float, texture: float) -> None:
        reach = max(radii) + 2 * painter.step
        box = painter.box(path.min(axis=0) - reach, path.max(axis=0) + reach)
        if painter.image[box].size:
            painter.paint(_tube(painter.at(box), path, np.asarray(radii)), box, value, name=name, texture=texture)

    for sign, side in ((-1, "left"), (1, "right")):
        solid(f"autochthon_{side}", draw.place(sign * 36, -84, 0), draw.size(27, 17, 400), 52, texture=9, keep_in=-30)
        solid(f"iliopsoas_{side}", draw.place(sign * 38, -58, -70), draw.size(17, 16, 60), 56, texture=6)
    for _ in range(5):
        loop = draw.place(0, 35, -52, spread=1) + rng.uniform((-70, -30, -20), (55, 35, 18))
        solid("small_bowel", loop, draw.size(19, 14, 13, spread=0.15), draw.level(45, 12), texture=12)
    for start in (draw.place(98, -5, -52), draw.place(-102, -20, -45)):
        solid("colon", start, draw.size(20, 20, 34), draw.level(35, 8), texture=14)
        box = painter.box(start - 16, start + 16)
        if painter.image[box].size:
            bubble = _ellipsoid(painter.at(box), start + np.array([0, 6.0, 4]), draw.size(8, 7, 10, spread=0.15))
            painter.paint(bubble, box, -850, name="colon")
    _liver(painter, draw, cavity)
    stomach = draw.place(-52, 38, 28)
    extent = draw.size(40, 34, 42)
    solid("stomach", stomach, extent, draw.level(62), texture=6)
    box = painter.box(stomach - extent, stomach + extent)
    if painter.image[box].size:
        inner = np.maximum(_ellipsoid(painter.at(box), stomach, extent - 5), cavity[box] + 7)
        painter.paint(inner, box, draw.level(22, 8), name="stomach", texture=10)
        # Gas collects in front in a patient lying on the back.
        gas = np.maximum(inner, stomach[1] + rng.uniform(10, 20) - painter.at(box)[1])
        painter.paint(gas, box, -900, name="stomach")
    solid("spleen", draw.place(-98, -34, 30), draw.size(29, 46, 47), draw.level(116), texture=3.5)
    neck = draw.place(22, 4, -6)
    way = np.stack([neck + np.array([8, -2, -22.0]), neck, draw.place(-22, 2, 4), draw.place(-70, -24, 18)])
    tube("pancreas", way, draw.size(13, 12, 9.5, 8).tolist(), draw.level(93), texture=8)
    tube("portal_vein_and_splenic_vein", way[1:] + np.array([4, -14, 6.0]), (6.5, 5.5, 4.5), draw.level(152), 2)
    solid("gallbladder", draw.place(52, 52, -24), draw.size(13, 17, 21, spread=0.12), draw.level(9, 4), texture=2)
    for sign, side in ((1, "right"), (-1, "left")):
        _kidney(painter, draw, f"kidney_{side}", draw.place(sign * 62, -48, -18 if sign > 0 else -8), cavity)
    tall = np.array([[0, 0, -300.0], [0, 0, 300.0]])
    tube("inferior_vena_cava", tall + draw.place(22, -34, 0), draw.size(11, 11).tolist(), draw.level(138), 3)
    tube("aorta", tall + draw.place(-9, -36, 0), draw.size(10, 10).tolist(), draw.level(158), 2.5)
    _spine(painter, draw)


def _ribs(painter: Painter, shell: Floats, draw: _Draw) -> None:
    """Slanted bony bands in the middle of the body wall."""
    x, y, z = painter.coordinates
    height = z - 0.30 * y + float(draw.rng.uniform(-6, 6))
    pitch = 27.0
    for k in range(-1, 5):
        centre = k * pitch + 4
        band = np.maximum(np.abs(height - centre) - 5.5, np.abs(shell) - 3.5).astype(np.float32)
        # Lower ribs end earlier on their way forward, as floating ribs do.
        band = np.maximum(band, y - (20 + 12 * k)).astype(np.float32)
        band = np.maximum(band, 34 - np.abs(x)).astype(np.float32)
        for side, sign in (("left", -1), ("right", 1)):
            half = np.maximum(band, -sign * x).astype(np.float32)
            number = 11 - k if 8 <= 11 - k <= 12 else 12
            painter.paint(half, (slice(None),) * 3, draw.level(330, 40), name=f"rib_{side}_{number}", texture=25)


def _liver(painter: Painter, draw: _Draw, cavity: Floats) -> None:
    """Right and left lobe, with a branching tree of enhanced vessels."""
    right, radii = draw.place(72, 6, 26), draw.size(70, 76, 66)
    left, small = draw.place(6, 48, 34), draw.size(66, 34, 40)
    reach = 2 * painter.step
    low = np.minimum(right - radii, left - small) - reach
    high = np.maximum(right + radii, left + small) + reach
    box = painter.box(low, high)
    if not painter.image[box].size:
        return
    p = painter.at(box)
    a, b = _ellipsoid(p, right, radii), _ellipsoid(p, left, small)
    # A smooth union joins the lobes without a crease.
    joined = -np.logaddexp(-a / 8, -b / 8) * 8
    liver = np.maximum(joined, cavity[box] + 2).astype(np.float32)
    level = draw.level(106)
    painter.paint(liver, box, level, name="liver", texture=4)
    inside = liver < -4
    hilum = right + np.array([-38.0, -4, -14])
    tree: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]] = []

    def grow(start: npt.NDArray[np.float64], way: npt.NDArray[np.float64], radius: float, depth: int) -> None:
        length = draw.rng.uniform(16, 30) * (0.85**depth)
        end = start + length * way
        tree.append((start, end, radius))
        if depth < 4:
            for _ in range(2):
                turned = way + draw.rng.normal(0, 0.45, 3)
                grow(end, turned / np.linalg.norm(turned), radius * draw.rng.uniform(0.68, 0.82), depth + 1)

    for target in (right + np.array([40, -30, 10.0]), right + np.array([15, 35, 20.0]), left + np.array([-30, 5, 5.0])):
        way = target - hilum
        grow(hilum, way / np.linalg.norm(way), float(draw.rng.uniform(3.8, 4.8)), 0)
    bright = level + draw.rng.uniform(28, 42)
    for start, end, radius in tree:
        part = painter.box(np.minimum(start, end) - radius - reach, np.maximum(start, end) + radius + reach)
        if not painter.image[part].size:
            continue
        tube = _tube(painter.at(part), np.stack([start, end]), np.array([radius, 0.85 * radius]))
        share = np.clip(0.5 - tube / painter.step, 0, 1)
        # A vessel thinner than a voxel only fills a part of it.
        share *= min(1.0, (2 * radius / painter.step) ** 2)
        mine = np.zeros(painter.image.shape, dtype=bool)
        mine[box] = inside
        share *= mine[part]
        painter.image[part] = painter.image[part] * (1 - share) + share * bright


def _kidney(painter: Painter, draw: _Draw, name: str, centre: npt.NDArray[np.float64], cavity: Floats) -> None:
    """Cortex, lobed medulla and the fat of the sinus."""
    radii = draw.size(27, 25, 50)
    box = painter.box(centre - radii - 2 * painter.step, centre + radii + 2 * painter.step)
    if not painter.image[box].size:
        return
    p = painter.at(box)
    outer = np.maximum(_ellipsoid(p, centre, radii), cavity[box] + 4)
    painter.paint(outer, box, draw.level(176, 9), name=name, texture=5)
    angle = np.arctan2(p[1] - centre[1], p[0] - centre[0])
    lobes = 2.2 * np.cos(4 * angle + draw.rng.uniform(0, 6)) * np.cos((p[2] - centre[2]) * (2 * np.pi / 26))
    medulla = (_ellipsoid(p, centre, radii * 0.70) + lobes).astype(np.float32)
    painter.paint(medulla, box, draw.level(128, 8), name=name, texture=5)
    hilum = centre + np.array([-np.sign(centre[0]) * 13.0, 3.0, 0.0])
    painter.paint(_ellipsoid(p, hilum, draw.size(12, 7, 19)), box, -60, texture=15)


def _spine(painter: Painter, draw: _Draw) -> None:
    """Vertebral bodies with discs, canal and cord, transverse and spinous processes."""
    centre = draw.place(0, -66, 0, spread=1.5)
    box = painter.box((-60, -125, -300), (60, -35, 300))
    if not painter.image[box].size:
        return
    p = painter.at(box)
    flat = (p[0], p[1], np.zeros((), dtype=np.float32))
    body = _ellipsoid(flat, (centre[0], centre[1], 0), (24, 17.5, 1))
    phase = (p[2] + float(draw.rng.uniform(0, 36))) % 36
    painter.paint(body, box, 330, name="vertebrae_L1", texture=25)
    painter.paint(body + 3, box, draw.level(165, 20), name="vertebrae_L1", texture=22)
    disc = np.maximum(body, np.abs(phase - 18) - 4.5).astype(np.float32)
    painter.paint(disc, box, 85, texture=6)

    def bone(x: float, y: float, width: float, height: float) -> Floats:
        """A process of the vertebra: a flat bar that repeats with the vertebrae."""
        bar = _ellipsoid(flat, (x, y, 0), (width, height, 1))
        return np.asarray(np.maximum(bar, np.abs(phase - 2) - 11), dtype=np.float32)

    painter.paint(bone(centre[0], centre[1] - 36, 4, 16), box, 320, name="vertebrae_L1", texture=25)
    for sign in (-1, 1):
        painter.paint(bone(centre[0] + sign * 30, centre[1] - 20, 17, 4), box, 320, name="vertebrae_L1", texture=25)
    ring = _ellipsoid(flat, (centre[0], centre[1] - 25, 0), (12, 10, 1))
    painter.paint(ring, box, 340, name="vertebrae_L1", texture=20)
    painter.paint(ring + 4, box, 38, name="spinal_cord", texture=4)


def warp_fields(
    shape: tuple[int, ...], coarse: tuple[int, ...], strength: float, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Three smooth displacement fields in mm, cubic between ``coarse`` control points."""
    fields = []
    for _ in range(3):
        control = rng.normal(0, strength, coarse)
        zoom = [n / c for n, c in zip(shape, coarse, strict=True)]
        fields.append(ndimage.zoom(control, zoom, order=3, mode="nearest", grid_mode=True).astype(np.float32))
    return fields[0], fields[1], fields[2]
