"""Every choice rejection makes, in one frozen object with the default and its source."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from anatrust.errors import InputError

__all__ = ["SCORES", "Correction", "GateSettings", "Null", "RejectionSettings", "Score", "TissueSettings"]

Null = Literal["auto", "cohort", "surrogate-max", "placement", "block", "iid"]
Correction = Literal["auto", "familywise", "bh", "by", "ebh", "weighted-bh", "focused-bh"]

# Name and revision of what ranks candidates in the cohort null; only scores of one name and revision compare.
Score = Literal["auto", "compact-contrast/1", "likely-contrast/1", "mmd2-volume/2"]

SCORES: tuple[Score, ...] = ("compact-contrast/1", "likely-contrast/1", "mmd2-volume/2")
"""The scores there are; the first is what ``"auto"`` means where a cohort null is fitted."""

_NULLS = ("auto", "cohort", "surrogate-max", "placement", "block", "iid")
_CORRECTIONS = ("auto", "familywise", "bh", "by", "ebh", "weighted-bh", "focused-bh")


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{what} is {value!r}: choose one of {', '.join(allowed)}")


def _share(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{what} is {value:g}: give a number from 0 to 1")


def _not_negative(what: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise InputError(f"{what} is {value:g}: give a finite number that is not negative")


@dataclass(frozen=True)
class GateSettings:
    """Thresholds of the three gates (R2Seg, arXiv 2511.12691, section "Reject").

    The paper's values could not be recovered; these are our own. Gates that look at
    probabilities are skipped, in words, where none are given.

    Parameters
    ----------
    enabled
        False switches all three gates off.
    max_probability, positive_share, ks_p
        L1: the case is negative if the largest probability is below ``max_probability``, if the
        share of positive voxels is below ``positive_share``, or if the Kolmogorov-Smirnov
        p-value between foreground and background probabilities exceeds ``ks_p``.
    ks_distance
        L1, the useful form: also negative if the KS distance D is below this. None switches it
        off (p-values over thousands of correlated voxels are practically always 0).
    min_area, min_volume, min_voxels
        L2: smallest candidate in mm² (2-D) or mm³ (3-D), or in voxels where the spacing is unknown.
    mean_probability
        L2: smallest mean probability inside the candidate.
    overlap
        L2: smallest share of the candidate inside the (dilated) reference organs; only where
        an anatomy is given.
    case_score
        L3: the case is negative if no candidate reaches this score S (mm; pixels where the
        spacing is unknown).
    case_form
        ``"product"``: S = mean probability × √area, as both public readings of the paper have
        it; ``"quotient"``: mean probability / √area. In 3-D √area becomes the cube root of the
        volume, which is again a length.
    """

    enabled: bool = True
    max_probability: float = 0.5
    positive_share: float = 1e-7
    ks_p: float = 0.05
    ks_distance: float | None = None
    min_area: float = 10.0
    min_volume: float = 25.0
    min_voxels: int = 16
    mean_probability: float = 0.5
    overlap: float = 0.1
    case_score: float = 3.0
    case_form: Literal["product", "quotient"] = "product"

    def __post_init__(self) -> None:
        for what in ("max_probability", "positive_share", "ks_p", "mean_probability", "overlap"):
            _share(f"gates.{what}", getattr(self, what))
        if self.ks_distance is not None:
            _share("gates.ks_distance", self.ks_distance)
        for what in ("min_area", "min_volume", "min_voxels", "case_score"):
            _not_negative(f"gates.{what}", getattr(self, what))
        _one_of("gates.case_form", self.case_form, ("product", "quotient"))


@dataclass(frozen=True)
class TissueSettings:
    """What counts as the normal tissue a candidate is compared with.

    Lengths are in mm; where the spacing is unknown the same numbers are read as pixels.

    Parameters
    ----------
    names
        Labels of the anatomy to use (names or numbers, matched without regard to case and
        underscores); empty: for each candidate the organ it lies in, else the nearest one.
    nearest
        Farthest organ still taken as "nearest"; beyond it the body around the candidates is used.
    rim
        Organ masks are eroded by this much, and by at least one voxel, against partial volume.
    gap
        Candidates are dilated by this much, and by at least one voxel, before they are taken
        out of the tissue.
    shell_outer, shell_factor
        Without anatomy the tissue is the body within ``max(shell_outer, shell_factor × radius)``
        of any candidate's surface, ``radius`` being that of the ball (disc) of the same size: one
        tissue for all candidates.
    reference
        ``"plain"``; ``"trimmed"``: the most atypical share ``trim`` of the tissue is dropped
        first (cysts, other lesions); ``"auto"``: trimmed where the cohort null decides, whose
        patients are trimmed alike, else plain: nulls made from the scan itself would lose the
        odd places they need, and their level; ``"mixture"``: the tissue is split into up to
        ``components`` classes and a candidate must differ from every one of them.
    trim, components
        As above.
    min_voxels
        Fewer tissue voxels than this decide nothing.
    """

    names: tuple[str | int, ...] = ()
    nearest: float = 20.0
    rim: float = 1.0
    gap: float = 1.0
    shell_outer: float = 20.0
    shell_factor: float = 1.5
    reference: Literal["auto", "plain", "trimmed", "mixture"] = "auto"
    trim: float = 0.4
    components: int = 3
    min_voxels: int = 30

    def __post_init__(self) -> None:
        for what in ("nearest", "rim", "gap", "shell_outer", "shell_factor"):
            _not_negative(f"tissue.{what}", getattr(self, what))
        _one_of("tissue.reference", self.reference, ("auto", "plain", "trimmed", "mixture"))
        if not 0 <= self.trim <= 0.5:
            raise InputError(f"tissue.trim is {self.trim:g}: give a share from 0 to 0.5")
        if self.components not in (1, 2, 3):
            raise InputError(f"tissue.components is {self.components}: choose 1, 2 or 3")
        if self.min_voxels < 2:
            raise InputError(f"tissue.min_voxels is {self.min_voxels}: the statistic needs at least 2")
        object.__setattr__(self, "names", tuple(self.names))


@dataclass(frozen=True)
class RejectionSettings:
    """All settings of :func:`anatrust.rejection.reject`.

    Parameters
    ----------
    alpha
        Level of the statement about the kept candidates (0.10, design).
    null
        ``"auto"``: the cohort null where one is given that is large enough for ``alpha``, else
        ``"surrogate-max"``. ``"block"`` and ``"iid"`` are approximate and invalid for images;
        ``"iid"`` is what the paper describes.
    correction
        ``"auto"``: none needed for nulls of the maximum (they bound the familywise error over all
        candidates of a tissue, q = p; several tissues share ``alpha``),
        Benjamini-Hochberg for cohort p-values by random draw, Benjamini-Yekutieli otherwise.
    cohort_draw
        ``"maximum"``: rank against each lesion-free patient's largest statistic; ``"random"``:
        against one random candidate of each patient.
    score
        What the cohort null ranks, by name and revision, see :func:`anatrust.rejection.score.candidate_score`;
        ``"auto"``: ``compact-contrast/1``, or in a profile the one it was fitted with. ``likely-contrast/1`` needs
        the segmenter's probabilities, in the patients of the null and in those who are judged.
    order
        ``"gates-first"``, or ``"published"``: the gates run after the test; then the FDR
        sentence is dropped unless ``correction="focused-bh"``.
    features
        ``"intensity"``: percentile-normalised grey value (paper); ``"local"``: local descriptors.
    percentiles, levels
        The intensity range clipped to [0, 1], and the number of grades in it.
    direction
        ``"both"``; ``"brighter"`` or ``"darker"``: a candidate of the other sign gets p = 1,
        which keeps every p-value valid; surrogates are then looked at on that side only.
    connectivity
        4 or 8 in 2-D, 6, 18 or 26 in 3-D; None: 8 and 26.
    n_draws, n_surrogates
        Null draws of placement, block and iid; texture surrogates of surrogate-max.
    placement_beside
        Also report the placement p-value where another null decides.

    Examples
    --------
    >>> RejectionSettings(alpha=0.05).null
    'auto'
    """

    alpha: float = 0.10
    null: Null = "auto"
    correction: Correction = "auto"
    cohort_draw: Literal["maximum", "random"] = "maximum"
    score: Score = "auto"
    order: Literal["gates-first", "published"] = "gates-first"
    features: Literal["intensity", "local"] = "intensity"
    percentiles: tuple[float, float] = (0.5, 99.5)
    levels: int = 256
    direction: Literal["both", "brighter", "darker"] = "both"
    connectivity: int | None = None
    n_draws: int = 999
    n_surrogates: int = 199
    placement_beside: bool = True
    gates: GateSettings = field(default_factory=GateSettings)
    tissue: TissueSettings = field(default_factory=TissueSettings)

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha is {self.alpha:g}: give a level between 0 and 1")
        _one_of("null", self.null, _NULLS)
        _one_of("correction", self.correction, _CORRECTIONS)
        _one_of("cohort_draw", self.cohort_draw, ("maximum", "random"))
        _one_of("score", self.score, ("auto", *SCORES))
        _one_of("order", self.order, ("gates-first", "published"))
        _one_of("features", self.features, ("intensity", "local"))
        _one_of("direction", self.direction, ("both", "brighter", "darker"))
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise InputError(f"percentiles are {low:g} and {high:g}: give two ascending numbers from 0 to 100")
        if not 2 <= self.levels <= 4096:
            raise InputError(f"levels is {self.levels}: choose 2 to 4096 grades")
        if self.connectivity not in (None, 4, 8, 6, 18, 26):
            raise InputError(f"connectivity is {self.connectivity}: 4 or 8 in 2-D; 6, 18 or 26 in 3-D")
        if self.n_draws < 1 or self.n_surrogates < 1:
            raise InputError(f"n_draws and n_surrogates are at least 1, not {self.n_draws} and {self.n_surrogates}")
        object.__setattr__(self, "percentiles", (float(low), float(high)))

    def under(self, null: Null) -> RejectionSettings:
        """The settings with the automatic reference and score made definite for a null.

        Examples
        --------
        >>> [RejectionSettings().under(null).tissue.reference for null in ("cohort", "placement")]
        ['trimmed', 'plain']
        """
        found = self.scored()
        if self.tissue.reference != "auto":
            return found
        return replace(found, tissue=replace(self.tissue, reference="trimmed" if null == "cohort" else "plain"))

    def scored(self) -> RejectionSettings:
        """The settings with the automatic score made definite: ``compact-contrast/1``.

        Examples
        --------
        >>> RejectionSettings().scored().score
        'compact-contrast/1'
        """
        return replace(self, score=SCORES[0]) if self.score == "auto" else self

    @property
    def needs_probabilities(self) -> bool:
        """Whether the score looks at the segmenter's probabilities.

        Examples
        --------
        >>> RejectionSettings().needs_probabilities, RejectionSettings(score="likely-contrast/1").needs_probabilities
        (False, True)
        """
        return self.score == "likely-contrast/1"

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        plain = asdict(self)
        plain["percentiles"] = list(self.percentiles)
        plain["tissue"]["names"] = list(self.tissue.names)
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> RejectionSettings:
        """Settings from :meth:`to_json`; an unknown key is an error.

        Raises
        ------
        InputError
            If a key is unknown or a value impossible.
        """
        given = dict(plain)
        try:
            gates = GateSettings(**given.pop("gates", {}))
            tissue = TissueSettings(**given.pop("tissue", {}))
            if "percentiles" in given:
                given["percentiles"] = tuple(given["percentiles"])
            return cls(gates=gates, tissue=tissue, **given)
        except TypeError as error:
            raise InputError(f"these rejection settings cannot be read: {error}") from None
