"""The embedded planner: looks the words up in the knowledge table; no network, always the same answer."""

from __future__ import annotations

from dataclasses import replace

from anatrust.anatomy.entries import Structure, Tumour
from anatrust.anatomy.knowledge import Knowledge, knowledge
from anatrust.anatomy.resolve import named_tumour, resolve_structure, resolve_tumour, side_of
from anatrust.errors import InputError
from anatrust.models.planner import AnatomyPlan, PlanModality

__all__ = ["RulesPlanner"]

_SURE = 0.7
# Several types this close to the best are as likely as it: "metastasis" alone says no organ.
_TIE = 0.02


class RulesPlanner:
    """Plans from the knowledge table.

    Parameters
    ----------
    table
        The knowledge; the built-in one by default, or one extended by a user's file.

    Examples
    --------
    >>> plan = RulesPlanner().plan("hepatocelular carcinoma", "CT")
    >>> plan.tumour, plan.anchors
    ('hepatocellular_carcinoma', ('liver',))
    """

    name = "rules"

    def __init__(self, table: Knowledge | None = None) -> None:
        self.table = table or knowledge()

    def plan(self, target: str, modality: PlanModality = "unknown") -> AnatomyPlan:
        """The plan for a target.

        A tumour type the table knows gives its anchors and rule (and where the words only come near
        its name, the plan says what they were read as); else a structure the words mean becomes the
        anchor, with the default rule; else a tumour named among other words is taken,
        and the plan says that only it was understood.

        Raises
        ------
        InputError
            If the words mean nothing the table knows, or several tumours equally well.
        """
        words = " ".join(target.split())
        matches = resolve_tumour(words, self.table, at_least=_SURE, most=3)
        tied = [m for m in matches if m.score < 1 and m.score > matches[0].score - _TIE]
        if matches and len(tied) < 2:
            assert isinstance(matches[0].entry, Tumour)
            return self._of_tumour(words, modality, matches[0].entry, matches[0].score)
        organs = resolve_structure(words, self.table, most=1)
        if organs:
            assert isinstance(organs[0].entry, Structure)
            return self._of_organ(words, modality, organs[0].entry, organs[0].score)
        if (named := named_tumour(words, self.table)) is not None:
            assert isinstance(named.entry, Tumour)
            only = f"of these words only {named.phrase!r} was understood"
            plan = self._of_tumour(words, modality, named.entry, named.score)
            return replace(plan, adjustments=(*plan.adjustments, only))
        if tied:
            listed = ", ".join(m.entry.name for m in tied)
            raise InputError(f"{_shown(words)} may mean several tumours ({listed}): name one of them")
        raise InputError(f"{_shown(words)} means no tumour or organ that is known: say, for example, 'liver tumour'")

    def _of_tumour(self, words: str, modality: PlanModality, row: Tumour, score: float) -> AnatomyPlan:
        side = side_of(words)
        said = [] if score == 1 else [f"{_shown(words)} was read as {row.name}"]
        if modality not in ("unknown", *row.modalities):
            said.append(f"a {row.name} is seldom looked for in {modality}")
        return AnatomyPlan(
            target=words,
            modality=modality,
            anchors=tuple(dict.fromkeys(s.id for s in self.table.anchors(row.id, side))),
            stand_ins=tuple(s.id for s in self.table.stand_ins(row.id, side)),
            tumour=row.id,
            side=side,
            pad=row.region.pad_mm,
            scales=tuple(row.region.scales),
            square=row.region.square,
            rationale=f"{_shown(words)} is a {row.name} in the knowledge table (score {score:.2f}).",
            adjustments=tuple(said),
        )

    def _of_organ(self, words: str, modality: PlanModality, row: Structure, score: float) -> AnatomyPlan:
        return AnatomyPlan(
            target=words,
            modality=modality,
            anchors=(row.id,),
            stand_ins=self.table.neighbours(row.id),
            side=side_of(words),
            rationale=f"{_shown(words)} names the {row.name} in the knowledge table (score {score:.2f}).",
            adjustments=("no tumour type is known for these words, so the default region rule is used",),
        )


def _shown(words: str) -> str:
    return repr(words if len(words) <= 60 else words[:57] + "...")
