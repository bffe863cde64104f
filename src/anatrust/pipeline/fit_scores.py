"""Which score the sets of each structure threshold, and whose features the walk joins: chosen on tuning patients."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anatrust.conformal.recipe import ScoreRecipe, candidate_recipes
from anatrust.conformal.tuning import Tuning, choose_recipe
from anatrust.image.atomic import replacing
from anatrust.models.encoders import CachedEncoder, EncoderChoice, PatchEncoder, encoder_stages, make_encoder
from anatrust.models.protocols import Encoder
from anatrust.pipeline.cohort import CohortRow
from anatrust.pipeline.labelled import LabelledReader, rows_key
from anatrust.pipeline.progress import Progress

__all__ = ["ScoreTuner", "plain_score"]


def plain_score(*, graded: bool) -> ScoreRecipe:
    """The score that needs no choice: the probability, or the distance where masks are ``graded``."""
    return candidate_recipes(hard=graded)[0]


@dataclass(frozen=True, eq=False)
class ScoreTuner:
    """The tuning patients of one fit, and what is promised afterwards on the calibration patients.

    Parameters
    ----------
    patients
        Rows of each tuning patient; none of them calibrates. May be empty: then nothing is chosen.
    reader, labels
        How rows are read, and the name of each structure.
    alpha, calibration_patients
        The promise to come; scores are compared at the risk it will really aim at.
    cache
        Folder that keeps what was measured of each score and what encoders said, so that a killed fit goes on.
    progress
        Called with (stage, done, total).
    """

    patients: Sequence[Sequence[CohortRow]]
    reader: LabelledReader
    labels: Mapping[int, str]
    alpha: float
    calibration_patients: int
    cache: Path | None = None
    progress: Progress | None = None

    def encoder(self, choice: EncoderChoice, device: str) -> tuple[EncoderChoice, Encoder]:
        """The encoder of the walk's graph; of a segmenter whose stage was left open, the stage whose walks are best.

        Best: the least ratio to the plain score of the best walk on its graph, on average over structures. Without
        tuning patients the coarsest stage.
        """
        made = [(choice, self._made(choice, device))]  # says first what is missing
        stages = encoder_stages(choice)
        if len(stages) > 1:
            made = [(stage, self._made(stage, device)) for stage in stages]
        if len(stages) == 1 or not self.patients:
            return made[-1]
        return min(made, key=lambda pair: self._worth_of_walks(pair[1]))

    def scores(self, encoder: Encoder) -> dict[int, Tuning | None]:
        """The score of each structure; None where there is nobody to choose on."""
        if not self.patients:
            return dict.fromkeys(self.labels)
        every = candidate_recipes(features=True, hard=self.reader.graded)
        return {label: self._chosen(label, every, encoder) for label in self.labels}

    def _made(self, choice: EncoderChoice, device: str) -> Encoder:
        made = make_encoder(choice, device=device)
        if self.cache is None or not isinstance(made, PatchEncoder):
            return made
        return CachedEncoder(made, self.cache / "features")

    def _worth_of_walks(self, encoder: Encoder) -> float:
        every = candidate_recipes(features=True, hard=self.reader.graded)
        walks = [every[0], *(recipe for recipe in every if recipe.name == "graph")]
        tunings = [self._chosen(label, walks, encoder) for label in self.labels]
        return float(np.mean([min((row.relative for row in t.rows[1:]), default=1.0) for t in tunings]))

    def _chosen(self, label: int, recipes: Sequence[ScoreRecipe], encoder: Encoder) -> Tuning:
        cases = [case for rows in self.patients for case in self.reader.cases(rows, label, encoder)]
        if not any(case.truth.any() for case in cases):
            return Tuning(recipes[0], (), 0.0, 0, ("no tuning patient has this structure",))
        choices = ["tuning", label, self.alpha, self.calibration_patients, encoder.identity]
        key = rows_key([row for rows in self.patients for row in rows], choices)
        file = None if self.cache is None else self.cache / f"{key}.json"
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}

        def keep(recipe: str, measure: Callable[[], Any]) -> Any:
            if recipe not in kept:
                kept[recipe] = measure()
                if file is not None:
                    with replacing(file) as part:
                        part.write_text(json.dumps(kept), encoding="utf-8")
            return kept[recipe]

        def told(done: int, total: int) -> None:
            if self.progress:
                self.progress(f"tuning {self.labels[label]}", done, total)

        return choose_recipe(cases, recipes, self.alpha, self.calibration_patients, progress=told, keep=keep)
