"""Training and questioning of `rau-nano`: the stages of the large model on made-up patients, each resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageOps

from anatrust.errors import InputError
from anatrust.pipeline.outputs import replace_json
from anatrust.reference.pairs import LabelledPicture, Pair, Sample, draw_pairs, tinted
from anatrust.reference.prompts import read_name
from anatrust.studies.nano_anatomy import Look, cohort
from anatrust.studies.nano_lessons import teach_matching
from anatrust.studies.nano_model import NanoSize, build_language
from anatrust.studies.nano_sight import teach_sight

if TYPE_CHECKING:  # torch is heavy, and a study's module is imported for its names alone
    from anatrust.models.vision_language import VisionLanguageModel

__all__ = [
    "DEVELOPED",
    "QUICK",
    "SCHOOLED",
    "SEEN",
    "TESTED",
    "UNSEEN",
    "Asked",
    "Change",
    "Plan",
    "ask",
    "changed",
    "continued",
    "patients_asked",
    "questions",
    "rewarded",
    "schooled",
    "taught",
]

SEEN: tuple[Look, ...] = ("ct", "x-ray")
"""Looks that are trained on."""

UNSEEN: tuple[Look, ...] = ("ultrasound",)
"""The look held out from all training; references in it are given, as in the paper."""

DEVELOPED: tuple[Look, ...] = ("mr",)
"""The look on which settings were chosen; held out from training too, and never reported."""

Change = Literal["none", "blank", "shuffled", "mirrored", "other look"]
# Patients by number: no range meets another.
_TAUGHT = 0
TESTED = 400_000
"""First patient that is never trained on; those from 100 000 on were looked at when lessons were designed."""


@dataclass(frozen=True)
class Plan:
    """How long and how large.

    Parameters
    ----------
    size
        Of the language model.
    patients
        Trained on.
    sight, lessons
        Steps in which the vision tower alone learns to see, and in which the whole model learns to match patches;
        without the latter questions come at once.
    samples, epochs, batch, rate
        Of supervised training.
    hidden
        Share of legends without names.
    steps, generations, group, reward_rate
        Of GRPO: steps of ``group`` prompts with so many completions each.
    tested
        Questions of each kind.
    curve
        Steps between two points of the learning curve, of a long training; a short one has four.
    """

    size: NanoSize = field(default_factory=NanoSize)
    patients: int = 600
    sight: int = 400
    lessons: int = 0
    samples: int = 2800
    epochs: int = 4
    batch: int = 16
    rate: float = 2e-3
    hidden: float = 0.6
    steps: int = 30
    generations: int = 8
    group: int = 8
    reward_rate: float = 2e-4
    tested: int = 200
    curve: int = 175


SCHOOLED = Plan(
    NanoSize(side=64, patch=8, depth=4),
    sight=200,
    lessons=600,
    samples=9600,
    epochs=1,
    rate=1e-3,
    reward_rate=1e-4,
    curve=150,
)
"""Of all full studies of the nano model."""

QUICK = Plan(
    NanoSize(48, 12, 32, 2, 2, 32, 1), patients=12, sight=2, lessons=2, samples=24, epochs=1, batch=8, rate=1e-3,
    hidden=0.5, steps=1, generations=2, group=2, reward_rate=1e-4, tested=4, curve=2,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Asked:
    """A question to the model and whose picture it is about.

    Parameters
    ----------
    sample
        With its pictures.
    patient
        Of the target.
    organ
        The outlined one.
    shown
        The number that the pictures give the region; differs from ``sample.number`` under a shuffled legend.
    """

    sample: Sample
    patient: str
    organ: str
    shown: int | None


def patients_asked(looks: tuple[Look, ...], plan: Plan) -> list[LabelledPicture]:
    """Patients of these looks that no training sees."""
    start = TESTED + 10_000 * [SEEN, UNSEEN, DEVELOPED].index(looks)
    return cohort(range(start, start + max(8, plan.patients // 5)), looks, size=plan.size.side)


def questions(
    looks: tuple[Look, ...], count: int, seed: int, plan: Plan, *, hidden: float, change: Change = "none"
) -> list[Asked]:
    """Naming questions about patients that no training sees; every legend holds the outlined region.

    Parameters
    ----------
    looks
        Of reference and target.
    count, seed
        How many and which.
    plan
        Its size and whether it is the quick one.
    hidden
        Share of legends without names.
    change
        A control: ``blank`` (both pictures of the reference empty), ``shuffled`` (the tints follow another
        legend than the truth), ``mirrored`` (the reference left for right), ``other look`` (the reference in
        the look that is not the target's).
    """
    pictures = patients_asked(looks, plan)
    swapped: dict[str, LabelledPicture] = {}
    if change == "other look":
        other = UNSEEN if looks != UNSEEN else SEEN
        start = int(pictures[0].patient)
        fresh = cohort(range(start, start + len(pictures)), other, size=plan.size.side)
        swapped = {picture.patient: picture for picture in fresh}
    rng = np.random.default_rng([seed, 21])
    found: list[Asked] = []
    for drawn in draw_pairs(pictures, seed, hidden=hidden, absent=0.0):
        if len(found) == count:
            break
        pair = drawn
        if swapped:
            pair = Pair(swapped[drawn.reference.patient], drawn.target, drawn.legend, drawn.labels)
        sample = pair.sample("name", rng)
        if sample.number is None:
            continue
        organ = pair.target.names[pair.labels[sample.number]]
        number = sample.number
        shown: int | None = None if change == "blank" else number
        if change == "shuffled":
            shown = _turned(pair)[number]
        sample = changed(pair, sample, change)
        found.append(Asked(sample, pair.target.patient, organ, shown))
    return found


def changed(pair: Pair, sample: Sample, change: Change) -> Sample:
    """The same question with another reference, see :func:`questions`."""
    first, second, third = sample.pictures
    if change == "blank":
        first = second = Image.new("RGB", first.size)
    elif change == "mirrored":
        first, second = ImageOps.mirror(first), ImageOps.mirror(second)
    elif change == "shuffled":
        turned = _turned(pair)
        second = tinted(pair.reference, {label: turned[number] for number, label in pair.labels.items()})
    return replace(sample, pictures=(first, second, third))


def _turned(pair: Pair) -> dict[int, int]:
    """Another number for every number of the legend."""
    numbers = list(pair.labels)
    return dict(zip(numbers, np.roll(numbers, 1).tolist(), strict=True))


def ask(model: VisionLanguageModel, asked: Sequence[Asked], batch: int = 64) -> list[dict[str, Any]]:
    """What the model answers, greedily: for each question whether it is right, of the right form, as shown."""
    told: list[dict[str, Any]] = []
    for begin in range(0, len(asked), batch):
        part = asked[begin : begin + batch]
        texts = model.answer([one.sample.prompt for one in part], [one.sample.pictures for one in part], most_tokens=20)
        for one, text in zip(part, texts, strict=True):
            said: int | str | None
            try:
                said = read_name(text, one.sample.legend)
            except InputError:
                said = "broken"
            told.append(
                {
                    "patient": one.patient, "organ": one.organ, "form": said != "broken",
                    "said": said, "right": said == one.sample.number,
                    "shown": said == one.shown,
                    "choices": len(one.sample.legend.entries),
                }
            )  # fmt: skip
    return told


def schooled(folder: Path, plan: Plan, seed: int) -> Path:
    """A model that sees, and matches after lessons, and was never asked a question; its folder."""
    start, target = folder / f"start-{seed}", folder / f"lessons-{seed}"
    if not (start / "sight.json").is_file():
        begin = time.process_time()
        model = _loaded(build_language(start, plan.size, seed))
        losses = teach_sight(model, _patients(plan), plan.sight, seed)
        model.model.save_pretrained(start)
        replace_json(start / "sight.json", {"losses": losses, "seconds": time.process_time() - begin})
    if plan.lessons == 0:
        return start
    if not (target / "told.json").is_file():
        model, clock = _loaded(start), _Clock(target)
        losses = teach_matching(model, _patients(plan), plan.lessons, seed, target, progress=clock.tick)
        model.model.save_pretrained(target)
        model.processor.save_pretrained(target)
        replace_json(target / "told.json", {"losses": losses, "seconds": clock.seconds, "steps": len(losses)})
    return target


def taught(folder: Path, plan: Plan, seed: int) -> tuple[Path, dict[str, Any]]:
    """Supervised training from a model that sees and cannot speak; its folder and its learning curve."""
    start = schooled(folder, plan, seed)
    return _supervised(folder / f"sft-{seed}", start, plan, seed, plan.samples, plan.epochs, plan.rate)


def continued(
    folder: Path, start: Path, plan: Plan, seed: int, seconds: float, each: float
) -> tuple[Path, dict[str, Any]]:
    """Supervised training that goes on for so many seconds, ``each`` a step, on questions not seen before."""
    samples = plan.batch * max(1, round(seconds / each))
    return _supervised(folder / f"more-{seed}", start, plan, 1000 + seed, samples, 1, plan.rate / 5)


def rewarded(folder: Path, start: Path, plan: Plan, seed: int) -> tuple[Path, dict[str, Any]]:
    """GRPO from a supervised model, on the questions that its continued rival starts with."""
    from anatrust.reference.text_training import GrpoSettings, train_grpo

    target = folder / f"grpo-{seed}"
    if not (target / "told.json").is_file():
        settings = GrpoSettings(
            steps=plan.steps, generations=plan.generations, batch=plan.group * plan.generations,
            learning_rate=plan.reward_rate, beta=0.0, hidden=plan.hidden, longest=20,
            seed=1000 + seed, save_every=20, lora=None,
        )  # fmt: skip
        model, clock = _loaded(start), _Clock(target)
        points = _Curve(model, max(1, plan.steps // 4), plan, target)

        def progress(step: int, steps: int, numbers: Mapping[str, float]) -> None:
            clock.tick(step, steps, numbers)
            points.tick(step, steps, numbers)
            clock.forget()

        rewards = train_grpo(model, _patients(plan), settings, target, convention="pixels", progress=progress)
        told = {"rewards": rewards, "seconds": clock.seconds, "steps": plan.steps, "curve": points.points}
        replace_json(target / "told.json", told)
    return target, json.loads((target / "told.json").read_text(encoding="utf-8"))


def _supervised(
    target: Path, start: Path, plan: Plan, seed: int, samples: int, epochs: int, rate: float
) -> tuple[Path, dict[str, Any]]:
    from anatrust.reference.text_training import SftSettings, train_sft

    if not (target / "told.json").is_file():
        settings = SftSettings(
            samples=samples, epochs=epochs, batch=plan.batch, learning_rate=rate, seed=seed, tasks=("name",),
            hidden=plan.hidden, save_every=max(1, plan.curve // 2), lora=None,
        )  # fmt: skip
        model = _loaded(start)
        clock = _Clock(target)
        points = _Curve(model, max(1, min(plan.curve, samples * epochs // plan.batch // 4)), plan, target)

        def progress(step: int, steps: int, numbers: Mapping[str, float]) -> None:
            clock.tick(step, steps, numbers)
            points.tick(step, steps, numbers)
            clock.forget()

        losses = train_sft(model, _patients(plan), settings, target, convention="pixels", progress=progress)
        told = {"losses": losses, "seconds": clock.seconds, "steps": len(losses), "curve": points.points}
        replace_json(target / "told.json", told)
    return target, json.loads((target / "told.json").read_text(encoding="utf-8"))


def _patients(plan: Plan) -> list[LabelledPicture]:
    return cohort(range(_TAUGHT, _TAUGHT + plan.patients), SEEN, size=plan.size.side)


def _loaded(folder: Path) -> VisionLanguageModel:
    from anatrust.models.vision_language import VisionLanguageModel

    return VisionLanguageModel.load(folder)


class _Clock:
    """Processor seconds of the steps, over interruptions."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock.json"
        self.seconds = 0.0
        if self._file.is_file():
            self.seconds = float(json.loads(self._file.read_text(encoding="utf-8"))["seconds"])
        self._last: float | None = None

    def tick(self, step: int, _steps: int, _numbers: Mapping[str, float]) -> None:
        now = time.process_time()
        # The first step carries the start; it is taken to cost as much as the second.
        if self._last is not None:
            self.seconds += (now - self._last) * (2 if step == 2 else 1)
        self._last = now
        self._file.parent.mkdir(parents=True, exist_ok=True)
        replace_json(self._file, {"seconds": self.seconds})

    def forget(self) -> None:
        """What was done since the last tick was no training."""
        self._last = time.process_time()


class _Curve:
    """Accuracy on unseen patients while training goes on."""

    def __init__(self, model: VisionLanguageModel, every: int, plan: Plan, folder: Path) -> None:
        self._model, self._every, self._file = model, every, folder / "curve.json"
        kinds = {"seen": SEEN, "unseen": UNSEEN}
        self._asked = {
            f"{name}, {legend}": questions(looks, max(4, plan.tested // 3), 5, plan, hidden=share)
            for name, looks in kinds.items()
            for legend, share in (("names", 0.0), ("numbers", 1.0))
        }
        self.points: list[dict[str, Any]] = []
        if self._file.is_file():
            self.points = json.loads(self._file.read_text(encoding="utf-8"))["points"]
        if not self.points:
            self._point(0, {})

    def tick(self, step: int, _steps: int, numbers: Mapping[str, float]) -> None:
        if "loss" in numbers and step % self._every == 0 and step > self.points[-1]["step"]:
            self._point(step, numbers)

    def _point(self, step: int, numbers: Mapping[str, float]) -> None:
        network = self._model.model
        training = network.training
        network.eval()
        told = {name: ask(self._model, asked) for name, asked in self._asked.items()}
        network.train(training)
        point = {name: round(float(np.mean([t["right"] for t in rows])), 4) for name, rows in told.items()}
        self.points.append({"step": step, "loss": round(float(numbers.get("loss", 0.0)), 4), **point})
        self._file.parent.mkdir(parents=True, exist_ok=True)
        replace_json(self._file, {"points": self.points})
