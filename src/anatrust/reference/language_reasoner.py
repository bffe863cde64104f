"""The reasoner that asks a vision-language model: boxes or ``<Seg>`` masks of the legend, names of outlined regions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from anatrust.errors import GeometryError, InputError
from anatrust.image.orientation import canonical
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.annotation import Annotation, NamedRegion, Reference
from anatrust.models.planner_endpoint import ExchangeError
from anatrust.reference.coordinates import Convention, PixelBox, box_of_mask, to_model
from anatrust.reference.monitors import box_health
from anatrust.reference.opinions import Opinion, together
from anatrust.reference.pairs import OUTLINE, LabelledPicture, Pair, outlined, plain_picture, tinted
from anatrust.reference.pictures import greys, picture_of, view_of
from anatrust.reference.prompts import Legend, again_prompt, box_prompt, name_prompt, read_boxes, read_name
from anatrust.reference.region_drawing import BoxDrawer, DrawnInBox, drawn_in_boxes
from anatrust.reference.registration_reasoner import merged_names
from anatrust.statistics.assignment import assign

if TYPE_CHECKING:
    from PIL import Image

    from anatrust.reference.token_segmenter import DrawnMasks, TokenSegmenter

__all__ = ["LanguageReasoner", "PictureModel"]

Progress = Callable[[str, int, int], None]
T = TypeVar("T")


class PictureModel(Protocol):
    """Answers questions about pictures: `VisionLanguageModel` here, `VisionEndpoint` behind a server."""

    @property
    def identity(self) -> str:
        """Exactly which model."""

    @property
    def convention(self) -> Convention:
        """How it writes boxes."""

    def may_say(self, name: str) -> bool:
        """Whether a label's name may be shown to it."""

    def seen_size(self, picture: Image.Image) -> tuple[int, int]:
        """``(width, height)`` at which it sees a picture."""

    def answer(
        self, prompts: Sequence[str], pictures: Sequence[Sequence[Image.Image]], *, most_tokens: int = 512
    ) -> list[str]:
        """What it says to each prompt; raises `ExchangeError` where it gives no answer."""


@dataclass(frozen=True)
class LanguageReasoner:
    """Asks a vision-language model where the reference's regions lie in an image.

    With a ``segmenter`` (what ``anatrust train seg`` saved) the model names what is visible and its ``<Seg>`` tokens
    draw it through SAM 2's memory of the reference. Without one it is asked for boxes; which box is which
    region is decided by assignment to the reference's layout, in which the model's own word counts as appearance; the
    doubtful are asked for again, with the accepted boxes as context. A region is then drawn inside its box from the
    reference's shape along the edges of the image, or by a box drawer such as SAM 2.

    Parameters
    ----------
    model
        Here or behind a server.
    segmenter
        Draws by tokens; its language model is ``model``.
    drawer
        Draws in boxes; the reference's shape and a random walk by default.
    convention
        How boxes are written; the model's own by default. A model trained here needs what it was trained with.
    rounds
        How often doubtful boxes or unreadable answers are asked for again.
    least
        Confidence of an assignment below which it is doubtful.
    most_tokens
        Longest answer.
    watch
        Whether boxes that no picture has given rise to (`box_health`) and tokens that all ask the same are remarked.
    """

    model: PictureModel
    segmenter: TokenSegmenter | None = None
    drawer: BoxDrawer = field(default_factory=DrawnInBox)
    convention: Convention | None = None
    rounds: int = 2
    least: float = 0.3
    most_tokens: int = 1024
    watch: bool = True
    name: str = "vlm"

    def __post_init__(self) -> None:
        if self.rounds < 0 or not 0 <= self.least <= 1 or self.most_tokens < 1:
            raise InputError("rounds are not negative, the least confidence lies in 0 to 1, answers have a token")

    @property
    def identity(self) -> str:
        """Name, revision, model and how it draws."""
        how = f"<Seg> tokens ({self.segmenter.level})" if self.segmenter else f"boxes, {self.drawer.identity}"
        return f"{self.name}/1 {self.model.identity}; {how}; rounds={self.rounds} least={self.least:g}"

    def annotate(self, target: Scan, references: Sequence[Reference], progress: Progress | None = None) -> Annotation:
        """Names, boxes, masks, relations and confidences of the references' structures in an image.

        Cost: one question a reference, and at most ``rounds`` more.

        Raises
        ------
        InputError
            If there is no reference or numbers are named differently.
        GeometryError
            If the target or a reference is a volume.
        """
        names = merged_names(references)
        if target.grid.ndim != 2:
            raise GeometryError("the vision-language model reads images: give a slice, or a reasoner for volumes")
        view = view_of(greys(target))
        opinions, used, remarks = [], [], list(self._hidden(names))
        for done, reference in enumerate(references):
            if progress:
                progress("ask", done, len(references))
            picture = picture_of(reference)
            legend, labels = self._legend(picture.names)
            try:
                opinion, odd = self._opinion(view, picture, legend, labels)
                opinions.append(opinion)
                remarks += [f"{reference.identifier}: {told}" for told in odd]
                used.append(reference)
            except (ExchangeError, InputError) as error:
                remarks.append(f"the reference {reference.identifier} gave no answer: {error}")
        if progress:
            progress("ask", len(references), len(references))
        if not opinions:
            reason = f"no usable answer of the model: {remarks[-1].partition(': ')[2]}"
            return Annotation.none(target, names, self.identity, reason, tuple(remarks))
        return together(target, view, names, used, opinions, self.identity, tuple(remarks))

    def name_regions(self, target: Scan, regions: LabelMap, references: Sequence[Reference]) -> tuple[NamedRegion, ...]:
        """What each outlined region of an image is, asked with each reference; the majority decides.

        Parameters
        ----------
        target, regions
            An image and numbered regions on its grid.
        references
            At least one.
        """
        names = merged_names(references)
        if target.grid.ndim != 2:
            raise GeometryError("the vision-language model reads images: give a slice")
        view, drawn = view_of(greys(target)), view_of(canonical(regions.array, regions.grid)[0])
        told = []
        for region in regions.labels():
            votes: dict[int | None, float] = {}
            reason, total = "", 0.0
            for reference in references:
                picture = picture_of(reference)
                legend, labels = self._legend(picture.names)
                shown = (*_shown(picture, labels), outlined(view, drawn == region))
                total += reference.weight
                try:
                    said = self._asked(name_prompt(legend, OUTLINE), shown, partial(read_name, legend=legend))
                except (ExchangeError, InputError) as error:
                    reason = str(error)
                else:
                    number = None if said is None else labels[said]
                    votes[number] = votes.get(number, 0.0) + reference.weight
            best = max(votes, key=lambda n: (votes[n], n is not None, -(n or 0)), default=None)
            if best is None:
                why = (
                    "the model says it is none of the references' structures"
                    if votes
                    else f"no usable answer: {reason}"
                )
                told.append(NamedRegion(region, None, "", 0.0, why))
            else:
                told.append(NamedRegion(region, best, names[best], round(votes[best] / total, 4)))
        return tuple(told)

    def _hidden(self, names: Mapping[int, str]) -> list[str]:
        kept = [name for name in names.values() if not self.model.may_say(name)]
        return [f"{len(kept)} names of labels may hold more than a name and were not sent"] if kept else []

    def _legend(self, names: Mapping[int, str]) -> tuple[Legend, dict[int, int]]:
        """Legend entries numbered from 1, and the label of each; names that may not be said are numbers."""
        entries, labels = [], {}
        for number, (label, name) in enumerate(sorted(names.items()), start=1):
            entries.append((number, name if self.model.may_say(name) else f"region {number}"))
            labels[number] = label
        return Legend(tuple(entries)), labels

    def _asked(self, prompt: str, pictures: Sequence[Image.Image], read: Callable[[str], T]) -> T:
        """A readable answer; an unreadable one is told and asked for again."""
        question = prompt
        for attempt in range(self.rounds + 1):
            text = self.model.answer([question], [list(pictures)], most_tokens=self.most_tokens)[0]
            try:
                return read(text)
            except InputError as error:
                if attempt == self.rounds:
                    raise
                # What the model said is not sent back: only what was wrong with its form.
                question = again_prompt(prompt, str(error).partition("'")[0].strip())
        raise AssertionError

    def _opinion(
        self, view: npt.NDArray[np.float32], picture: LabelledPicture, legend: Legend, labels: dict[int, int]
    ) -> tuple[Opinion, list[str]]:
        """What one reference leads to, and what is odd about the model's answer."""
        if self.segmenter is not None:
            return self._drawn_by_tokens(view, picture, legend, labels)
        boxes, certain, absent, odd = self._boxes(view, picture, legend, labels)
        masks = drawn_in_boxes(self.drawer, view, picture, boxes)
        return Opinion(masks, certain, absent), odd

    def _drawn_by_tokens(
        self, view: npt.NDArray[np.float32], picture: LabelledPicture, legend: Legend, labels: dict[int, int]
    ) -> tuple[Opinion, list[str]]:
        assert self.segmenter is not None
        blank = LabelledPicture(view, np.zeros(view.shape, np.uint8), {}, "target")
        pair = Pair(picture, blank, legend, labels)
        drawn = self.segmenter.predict(
            pair, pair.sample("segment", np.random.default_rng(0)), most_tokens=self.most_tokens
        )
        if drawn.attended is None and drawn.text.strip():
            raise InputError("the model's answer names no region of the legend")
        masks, certain, absent = {}, {}, {}
        slots = list(labels)
        for row, number in enumerate(drawn.masks):
            assert drawn.attended is not None
            if drawn.masks[number].any():
                masks[labels[number]] = drawn.masks[number]
                certain[labels[number]] = float(drawn.attended.weights[row, slots.index(number)])
            else:
                absent[labels[number]] = "its token draws nothing"
        for label in labels.values():
            if label not in masks:
                absent.setdefault(label, "the model does not see it in the scan")
        return Opinion(masks, certain, absent), self._collapse(drawn)

    def _collapse(self, drawn: DrawnMasks) -> list[str]:
        if not self.watch or drawn.attended is None:
            return []
        from anatrust.reference.memory_attention import attention_health

        health = attention_health(drawn.attended)
        told = f"the model's tokens ask the same of the reference (cosine {health.alike:.3f}): its masks may be one"
        return [told] if health.collapsed else []

    def _boxes(
        self, view: npt.NDArray[np.float32], picture: LabelledPicture, legend: Legend, labels: dict[int, int]
    ) -> tuple[dict[int, PixelBox], dict[int, float], dict[int, str], list[str]]:
        """The box, the confidence and the reason of each label, after assignment and further rounds; what is odd."""
        convention = self.convention or self.model.convention
        pictures = (*_shown(picture, labels), plain_picture(view))
        shown = (view.shape[1], view.shape[0])
        seen = self.model.seen_size(pictures[2])

        odd: list[str] = []

        def read(text: str) -> dict[int, PixelBox | None]:
            found = read_boxes(text, legend, convention, seen=seen, shown=shown)
            own = _own_boxes(picture, labels, shown)
            health = box_health(text, legend, convention, seen=seen, shown=shown, reference=own)
            if self.watch and health.odd:
                odd.append(f"the model's boxes may be invented: {health}")
            return found

        said = self._asked(box_prompt(legend, convention), pictures, read)
        called = dict(zip((n for n, _ in legend.entries), legend.answers, strict=True))
        given = {n: box for n, box in said.items() if box is not None}
        numbers = list(labels)
        certain: dict[int, float] = {}
        matched: dict[int, PixelBox] = {}
        for turn in range(self.rounds + 1):
            matched, certain = _assigned(given, numbers, picture, labels, shown)
            doubtful = [n for n in numbers if certain.get(n, 0.0) < self.least and said.get(n, ()) is not None]
            if turn == self.rounds or not doubtful:
                break
            kept = {n: box for n, box in matched.items() if n not in doubtful}
            listed = [
                {"label": called[n], "bbox": [int(v) for v in to_model(b, convention, seen=seen, shown=shown)]}
                for n, b in kept.items()
            ]
            prompt = box_prompt(legend, convention, found=json.dumps(listed), only=[called[n] for n in doubtful])
            try:
                more = read(self.model.answer([prompt], [list(pictures)], most_tokens=self.most_tokens)[0])
            except InputError:
                break
            fresh = {n: more[n] for n in doubtful if n in more}
            if all(fresh[n] == said.get(n) for n in fresh):
                break
            said = {**said, **fresh}
            given = {**kept, **{n: box for n, box in fresh.items() if box is not None}}
        absent = {}
        for n in numbers:
            if n not in matched:
                missing = "the model does not see it in the scan" if said.get(n) is None else "its box fits no region"
                absent[labels[n]] = missing if n in said else "the model left it out"
        boxes = {labels[n]: box for n, box in matched.items()}
        return boxes, {labels[n]: certain[n] for n in matched}, absent, list(dict.fromkeys(odd))


def _shown(picture: LabelledPicture, labels: Mapping[int, int]) -> tuple[Image.Image, Image.Image]:
    """The reference, and the reference with its regions tinted and numbered."""
    return plain_picture(picture.image), tinted(picture, {label: number for number, label in labels.items()})


def _own_boxes(picture: LabelledPicture, labels: Mapping[int, int], shown: tuple[int, int]) -> dict[int, PixelBox]:
    """The reference's boxes by legend number, in pixels of a picture of the target's size."""
    rows, columns = picture.labels.shape
    wide, high = shown[0] / columns, shown[1] / rows
    boxes = {n: box_of_mask(picture.labels == label) for n, label in labels.items()}
    return {n: (b[0] * wide, b[1] * high, b[2] * wide, b[3] * high) for n, b in boxes.items() if b is not None}


def _assigned(
    given: Mapping[int, PixelBox],
    numbers: Sequence[int],
    picture: LabelledPicture,
    labels: Mapping[int, int],
    shown: tuple[int, int],
) -> tuple[dict[int, PixelBox], dict[int, float]]:
    """Which box is which entry: by layout, with what the model called it as appearance."""
    if not given:
        return {}, {}
    said = list(given)
    boxes = np.array([given[n] for n in said]).reshape(-1, 2, 2) / np.array(shown)
    own = _own_boxes(picture, labels, shown)
    prototypes = np.array([own[n] for n in numbers]).reshape(-1, 2, 2) / np.array(shown)
    called = np.eye(len(numbers))[[list(numbers).index(n) for n in said]]
    found = assign(boxes, prototypes, features=called, prototype_features=np.eye(len(numbers)), flips=False)
    matched = {n: given[said[i]] for n, i in zip(numbers, found.match.tolist(), strict=True) if i >= 0}
    return matched, {n: float(found.confidence[numbers.index(n)]) for n in matched}
