"""A score recipe: which score is thresholded, with its parameters, chosen on tuning patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.conformal.diffusion import Patches, diffuse_lifted
from anatrust.conformal.graph import cosine_neighbours, transition_matrix, volume_neighbours
from anatrust.conformal.lattice import gaussian_smooth, joint_bilateral, lattice_walk
from anatrust.conformal.scores import adaptive_score, distance_score, reconstruction_score, temperature_score
from anatrust.errors import InputError
from anatrust.image.grid import Grid
from anatrust.statistics.array_backend import as_array, like, to_numpy
from anatrust.statistics.loss_curves import quantise

__all__ = ["PUBLISHED_WALK", "ScoreRecipe", "candidate_recipes"]

_Image = npt.NDArray[np.float64]
Features = Callable[[], Any]
"""Gives the encoder's features ``(*shape, d)``, an array or a tensor, when needed; called at most once a score."""

# Name of each recipe and the parameters it takes, with their defaults.
_PARAMETERS: Mapping[str, Mapping[str, float]] = {
    "probability": {},
    "gaussian": {"width": 2.0},
    "bilateral": {"width": 2.0, "beta": 0.1},
    "lattice": {"beta": 1.0, "steps": 10, "laziness": 0.2},
    "graph": {"patch": 4, "k": 20, "beta": 50.0, "steps": 10, "laziness": 0.0, "slices": 0},
    "encoder-lattice": {"beta": 1.0, "steps": 10, "laziness": 0.2},
    "reconstruction": {"width": 0.0},
    "adaptive": {},
    "distance": {"reach": 20.0},
}


@dataclass(frozen=True)
class ScoreRecipe:
    """How a scan's probabilities become the score whose thresholds are sets.

    Parameters
    ----------
    name
        ``probability`` (plain), ``gaussian``, ``bilateral``, ``lattice`` (walk between touching
        voxels, slow across edges of the image), ``encoder-lattice`` (the same on an encoder's features),
        ``graph`` (RW-CP: walk on the k-nearest-neighbour graph of features),
        ``reconstruction`` (connected to the peak), ``adaptive`` (share of the scan's own mass),
        ``distance`` (morphological, for 0/1 masks).
    parameters
        Overrides of the defaults: lengths (``width``, ``reach``, ``patch``) are in mm, in pixels
        where the spacing is unknown. ``slices`` = 1 keeps the edges of a volume's ``graph`` within a slice
        (across the axis of the largest spacing) and the two beside it; large volumes need it.
    temperature
        Applied to the probabilities first; spreads those that are nearly all 0 or 1.
    core
        Applied last, where given: the score is reconstructed from its core (``core`` of
        :func:`~anatrust.conformal.scores.reconstruction_score`), so that sets lose the pieces apart from it.

    Examples
    --------
    >>> ScoreRecipe("gaussian", {"width": 3}).label
    'gaussian width=3'
    >>> ScoreRecipe("lattice", core=0.5).label
    'lattice core=0.5'
    """

    name: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    core: float | None = None

    def __post_init__(self) -> None:
        if self.name not in _PARAMETERS:
            raise InputError(f"score '{self.name}' is unknown: choose one of {', '.join(sorted(_PARAMETERS))}")
        known = _PARAMETERS[self.name]
        odd = [key for key in self.parameters if key not in known]
        if odd:
            raise InputError(f"score '{self.name}' takes {', '.join(known) or 'no parameters'}, not {', '.join(odd)}")
        if not self.temperature > 0:
            raise InputError(f"a temperature is positive, not {self.temperature}")
        if self.core is not None and not 0 <= self.core <= 1:
            raise InputError(f"a core is cut at a share of the largest score in [0, 1], not {self.core}")
        merged = {**known, **{key: float(value) for key, value in self.parameters.items()}}
        object.__setattr__(self, "parameters", MappingProxyType(merged))

    @property
    def label(self) -> str:
        """Short name with the parameters that differ from the defaults."""
        known = _PARAMETERS[self.name]
        changed = [f"{k}={v:g}" for k, v in self.parameters.items() if v != known[k]]
        warm = [f"temperature={self.temperature:g}"] if self.temperature != 1 else []
        kept = [] if self.core is None else [f"core={self.core:g}"]
        return " ".join([self.name, *changed, *warm, *kept])

    @property
    def needs_features(self) -> bool:
        """Whether an encoder must run."""
        return self.name in ("graph", "encoder-lattice")

    def to_json(self) -> dict[str, Any]:
        """Plain values for a profile."""
        plain = {"name": self.name, "parameters": dict(self.parameters), "temperature": self.temperature}
        return plain if self.core is None else plain | {"core": self.core}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ScoreRecipe:
        """The recipe :meth:`to_json` wrote."""
        core = values.get("core")
        temperature = float(values.get("temperature", 1.0))
        return cls(
            str(values["name"]), values.get("parameters", {}), temperature, None if core is None else float(core)
        )

    def score(
        self, probabilities: npt.ArrayLike, image: npt.ArrayLike, grid: Grid, features: Features | None = None
    ) -> _Image:
        """Scores in [0, 1], the grid's shape.

        Parameters
        ----------
        probabilities, image
            Foreground probability of one class and the scan, both of the grid's shape.
        grid
            Gives the spacing.
        features
            Needed by ``graph`` and ``encoder-lattice``: a function that runs the encoder and gives
            ``(*shape, d)``; for ``graph`` one row a patch, ``(*self.patches(...).grid, d)``, will do.
        """
        score = self._graded(probabilities, image, grid, features)
        return score if self.core is None else reconstruction_score(score, core=self.core)

    def _graded(
        self, probabilities: npt.ArrayLike, image: npt.ArrayLike, grid: Grid, features: Features | None
    ) -> _Image:
        p = np.asarray(probabilities, dtype=np.float64)
        if p.shape != grid.shape or np.shape(image) != grid.shape:
            raise InputError(f"probabilities {p.shape} and image {np.shape(image)} but a grid of {grid.shape}")
        if self.temperature != 1:
            p = temperature_score(p, self.temperature)
        spacing, given = grid.spacing, self.parameters
        if self.name == "gaussian":
            return gaussian_smooth(p, spacing, width=given["width"])
        if self.name == "bilateral":
            return joint_bilateral(p, image, spacing, width=given["width"], beta=given["beta"])
        if self.needs_features and features is None:
            raise InputError(f"the score '{self.name}' needs features: give an encoder")
        if self.name in ("lattice", "encoder-lattice"):
            guide = image if features is None or self.name == "lattice" else to_numpy(features())
            steps, laziness = int(given["steps"]), given["laziness"]
            return lattice_walk(p, guide, spacing, beta=given["beta"], steps=steps, laziness=laziness)
        if self.name == "graph" and features is not None:
            return self._walk(p, spacing, features)
        if self.name == "reconstruction":
            return reconstruction_score(gaussian_smooth(p, spacing, width=given["width"]))
        if self.name == "adaptive":
            return adaptive_score(p)
        if self.name == "distance":
            return distance_score(p >= 0.5, spacing, reach=given["reach"], probabilities=p)
        return p

    def patches(self, shape: Sequence[int], spacing: Sequence[float]) -> Patches:
        """The nodes of a ``graph`` recipe on an image: cubes, or squares within slices across the coarsest axis."""
        given = self.parameters
        size = [max(1, round(given["patch"] / step)) for step in spacing]
        if given["slices"] and len(size) == 3:
            size[int(np.argmax(spacing))] = 1
        return Patches(shape, size)

    def transition(self, shape: Sequence[int], spacing: Sequence[float], features: Any) -> Any:
        """Row-stochastic matrix of a ``graph`` recipe's walk over :meth:`patches`.

        ``features`` are those of voxels, ``(*shape, d)``, or of patches, ``(*self.patches(...).grid, d)``; where they
        are a tensor, the matrix is one too.
        """
        given, patches, found = self.parameters, self.patches(shape, spacing), as_array(features)
        nodes = found.reshape(patches.nodes, -1) if found.shape[:-1] == patches.grid else patches.average(found)
        if given["slices"] and len(shape) == 3:
            neighbours = volume_neighbours(nodes, patches.grid, int(np.argmax(spacing)), int(given["k"]))
        else:
            neighbours = cosine_neighbours(nodes, int(given["k"]))
        return transition_matrix(neighbours, beta=given["beta"])

    def _walk(self, p: _Image, spacing: Sequence[float], features: Features) -> _Image:
        given, patches, found = self.parameters, self.patches(p.shape, spacing), features()
        matrix, steps = self.transition(p.shape, spacing, found), int(given["steps"])
        return to_numpy(diffuse_lifted(like(p, found), matrix, patches, steps=steps, laziness=given["laziness"]))

    def levels(
        self, probabilities: npt.ArrayLike, image: npt.ArrayLike, grid: Grid, features: Features | None = None
    ) -> npt.NDArray[np.uint16]:
        """The score quantised for thresholds; the same code at calibration and at prediction."""
        return quantise(self.score(probabilities, image, grid, features))


PUBLISHED_WALK = ScoreRecipe("graph")
"""k = 20, β = 50, 10 steps, not lazy: the published defaults of RW-CP."""


def candidate_recipes(*, features: bool = False, hard: bool = False) -> tuple[ScoreRecipe, ...]:
    """The recipes tried in tuning; the plain probability always stands first.

    Those that did best on tuning patients of the study `rwcp-quality`, and their surroundings: smoothings and walks
    of several strengths, alone and combined with a core.

    Parameters
    ----------
    features
        Whether an encoder is at hand for the feature graph.
    hard
        Whether probabilities are absent or nearly all 0 and 1, so that only distances and smoothing
        can grade them.
    """
    recipes = [ScoreRecipe("distance")] if hard else [ScoreRecipe("probability"), ScoreRecipe("distance")]
    recipes += [ScoreRecipe("distance", core=core) for core in (0.0, 0.5)]
    recipes += [ScoreRecipe("gaussian", {"width": w}) for w in (1.0, 2.0, 4.0, 9.0, 13.0)]
    recipes += [ScoreRecipe("gaussian", {"width": w}, core=0.5) for w in (1.0, 2.0, 3.0)]
    recipes += [ScoreRecipe("bilateral", {"width": 1.5, "beta": b}) for b in (0.05, 0.3)]
    recipes += [
        ScoreRecipe("lattice", {"steps": s, "beta": b}, core=core)
        for s in (20, 60)
        for b in (0.02, 0.1, 0.5)
        for core in (None, 0.0, 0.5)
    ]
    recipes += [ScoreRecipe("lattice", {"steps": 160, "beta": b}) for b in (0.02, 0.1)]
    recipes += [ScoreRecipe("reconstruction", {"width": w}) for w in (0.0, 1.0, 2.0, 3.0)]
    recipes.append(ScoreRecipe("adaptive"))
    if features:
        recipes += [ScoreRecipe("graph", {"laziness": a, "steps": s}) for a in (0.0, 0.5) for s in (1, 10)]
        recipes.append(ScoreRecipe("graph", {"laziness": 0.5, "steps": 10, "beta": 200.0}))
        # Fine patches within a slice and its neighbours: what all pairs of them would cost is out of reach on CT.
        fine = {"laziness": 0.5, "steps": 1, "patch": 2, "slices": 1}
        recipes += [ScoreRecipe("graph", fine, core=core) for core in (None, 0.5)]
    return tuple(recipes)
