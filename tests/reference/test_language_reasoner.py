"""The vision-language reasoner: what models say is read, assigned, asked again and drawn; what they omit is null."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from anatrust.errors import GeometryError, InputError
from anatrust.image.grid import Grid
from anatrust.image.volumes import LabelMap, Scan
from anatrust.metrics import dice
from anatrust.models.annotation import Reference
from anatrust.models.planner_endpoint import ExchangeError
from anatrust.models.protocols import Reasoner, RegionNamer
from anatrust.reference.language_reasoner import LanguageReasoner
from anatrust.reference.pictures import from_view, picture_of, view_of

NAMES = {1: "liver", 2: "spleen", 3: "aorta"}
BOXES = {1: (6, 8, 24, 30), 2: (36, 10, 48, 26), 3: (26, 34, 32, 40)}


def body(shift: int = 0, gone: int | None = None, affine: np.ndarray | None = None) -> Reference:
    """Three discs in a picture as a reader sees it, stored with the axes of ``affine``."""
    labels = np.zeros((48, 56), np.uint8)
    rows, columns = np.mgrid[:48, :56]
    for number, (x1, y1, x2, y2) in BOXES.items():
        inside = ((columns + 0.5 - shift - (x1 + x2) / 2) / ((x2 - x1) / 2)) ** 2
        inside += ((rows + 0.5 - (y1 + y2) / 2) / ((y2 - y1) / 2)) ** 2
        if number != gone:
            labels[inside < 1] = number
    image = np.array([0.1, 0.9, 0.6, 0.4])[labels] + np.random.default_rng(3).normal(0, 0.01, labels.shape)
    grid = Grid((56, 48), np.eye(4) if affine is None else affine)
    stored = [from_view(a, grid) for a in (image.astype(np.float32), labels)]
    return Reference(Scan(stored[0], grid, "CT"), LabelMap(stored[1], grid, NAMES), "other")


class Scripted:
    """Says what it is told to, and remembers what it was asked."""

    identity = "scripted"
    convention = "pixels"

    def __init__(self, *answers: str | Exception, banned: str = "") -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.pictures: list[list[Image.Image]] = []
        self.banned = banned

    def may_say(self, name: str) -> bool:
        return name != self.banned

    def seen_size(self, picture: Image.Image) -> tuple[int, int]:
        return 2 * picture.width, 2 * picture.height

    def answer(
        self, prompts: Sequence[str], pictures: Sequence[Sequence[Image.Image]], *, most_tokens: int = 512
    ) -> list[str]:
        self.asked += prompts
        self.pictures += [list(p) for p in pictures]
        said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(said, Exception):
            raise said
        return [said]


def told(boxes: dict[str, tuple[float, ...] | None], shift: int = 0) -> str:
    """An answer in pixels of the picture as seen, which is twice as large."""
    listed = [
        {"label": n, "bbox": None if b is None else [2 * (v + shift * (k % 2 == 0)) for k, v in enumerate(b)]}
        for n, b in boxes.items()
    ]
    return f"<think>as in the reference</think><answer>{json.dumps(listed)}</answer>"


def right(shift: int = 0, **changes: tuple[float, ...] | None) -> str:
    return told({**{NAMES[n]: b for n, b in BOXES.items()}, **changes}, shift)


def test_boxes_become_names_masks_and_confidences() -> None:
    target, reference = body(3), body(0)
    model = Scripted(right(3))
    reasoner = LanguageReasoner(model)
    assert isinstance(reasoner, Reasoner)
    assert isinstance(reasoner, RegionNamer)
    found = reasoner.annotate(target.scan, [reference])
    assert [s.name for s in found.structures] == list(NAMES.values())
    assert all(s.found and s.confidence > 0.8 for s in found.structures)
    for number in NAMES:
        assert dice(target.labels.array == number, found.labels.array == number) > 0.9
    assert found.decision == "accept"
    assert len(model.pictures[0]) == 3
    assert "liver" in model.asked[0]
    assert "scripted" in found.reasoner
    again = LanguageReasoner(Scripted(right(3))).annotate(target.scan, [reference])
    assert np.array_equal(again.labels.array, found.labels.array)


def test_storage_order_changes_nothing() -> None:
    answers = []
    for affine in (np.eye(4), np.diag([-1.0, 1, 1, 1])):
        target = body(3, affine=affine)
        found = LanguageReasoner(Scripted(right(3))).annotate(target.scan, [body(0)])
        answers.append(view_of(picture_of(Reference(target.scan, found.labels)).labels))
        assert dice(target.labels.array == 1, found.labels.array == 1) > 0.9
    assert np.array_equal(*answers)


def test_null_and_omissions_are_told_apart() -> None:
    answer = told({"liver": BOXES[1], "spleen": None})
    found = LanguageReasoner(Scripted(answer)).annotate(body(0, gone=2).scan, [body(0)])
    reasons = {s.name: s.reason for s in found.structures}
    assert reasons["liver"] == ""
    assert "does not see it" in reasons["spleen"]
    assert "left it out" in reasons["aorta"]
    assert not (found.labels.array == 2).any()
    assert found.decision == "review"


def test_swapped_labels_are_mended_by_the_layout() -> None:
    swapped = told({"liver": BOXES[2], "spleen": BOXES[1], "aorta": BOXES[3]})
    target = body(0)
    found = LanguageReasoner(Scripted(swapped)).annotate(target.scan, [body(0)])
    assert dice(target.labels.array == 1, found.labels.array == 1) > 0.9
    assert dice(target.labels.array == 2, found.labels.array == 2) > 0.9
    assert max(s.confidence for s in found.structures if s.number < 3) < found.structures[2].confidence


def test_doubtful_boxes_are_asked_for_again_with_the_others_as_context() -> None:
    model = Scripted(right(0, aorta=(0, 44, 50, 48)), told({"aorta": BOXES[3]}))
    target = body(0)
    found = LanguageReasoner(model).annotate(target.scan, [body(0)])
    assert len(model.asked) == 2
    assert "Already found" in model.asked[1]
    assert "these entries: aorta" in model.asked[1]
    assert "[12, 16, 48, 60]" in model.asked[1]
    assert dice(target.labels.array == 3, found.labels.array == 3) > 0.8


def test_an_unreadable_answer_is_asked_for_again_and_then_said() -> None:
    model = Scripted("the liver is on the left", right(0))
    found = LanguageReasoner(model).annotate(body(0).scan, [body(0)])
    assert all(s.found for s in found.structures)
    assert "could not be read" in model.asked[1]
    assert "the liver is on the left" not in model.asked[1]
    silent = LanguageReasoner(Scripted("…"), rounds=1).annotate(body(0).scan, [body(0)])
    assert silent.decision == "abstain"
    assert "no usable answer" in silent.abstained
    gone = LanguageReasoner(Scripted(ExchangeError("the server was slow", again=False)))
    assert "the server was slow" in gone.annotate(body(0).scan, [body(0)]).abstained


@pytest.mark.parametrize(
    "answer",
    [
        right(0, liver=(0, 0, float("inf"), 5)),
        right(0, liver=(24, 30, 6, 8)),
        right(0).replace("liver", "heart"),
        right(0).replace('"spleen"', '"liver"'),
        "<answer>[]</answer>",
        '<think></think><answer>[{"label": "liver", "bbox": "__import__"}]</answer>',
        "<think></think><answer>" + "[" * 100_000 + "</answer>",
        "",
    ],
)
def test_hostile_answers_draw_nothing(answer: str) -> None:
    found = LanguageReasoner(Scripted(answer), rounds=0).annotate(body(0).scan, [body(0)])
    assert not found.labels.array.any()
    assert found.decision in ("abstain", "review")


def test_several_references_vote() -> None:
    target = body(2)
    one_wrong = Scripted(right(2), right(2), right(2, aorta=None))
    found = LanguageReasoner(one_wrong).annotate(target.scan, [body(0), body(1), body(0)])
    assert found.structures[2].found
    assert found.structures[2].agreement is not None
    assert found.structures[2].agreement < 0.7
    assert [w for _, w in found.references] == pytest.approx([1 / 3] * 3)
    broken = Scripted(right(2), "nonsense")
    rest = LanguageReasoner(broken, rounds=0).annotate(target.scan, [body(0), body(1)])
    assert len(rest.references) == 1
    assert any("gave no answer" in r for r in rest.remarks)


def test_outlined_regions_are_named() -> None:
    target = body(0)
    regions = LabelMap(np.where(target.labels.array == 2, 7, 0).astype(np.uint8), target.labels.grid)

    def named(*answers: str) -> tuple[object, ...]:
        said = (a if a.startswith("<") else f"<think>…</think><answer>{a}</answer>" for a in answers)
        model = Scripted(*said)
        found = LanguageReasoner(model, rounds=0).name_regions(target.scan, regions, [body(0)] * len(answers))
        yellow = np.asarray(model.pictures[0][2])
        assert ((yellow == (255, 255, 0)).all(-1)).any()
        return (found[0].region, found[0].number, found[0].name, found[0].confidence)

    assert named("spleen") == (7, 2, "spleen", 1.0)
    assert named("spleen", "liver", "Spleen")[1:3] == (2, "spleen")
    assert named("null")[1:] == (None, "", 0.0)
    assert named("<broken>")[1:] == (None, "", 0.0)


def test_names_that_may_hold_more_are_not_said() -> None:
    model = Scripted(right(0).replace('"spleen"', '"region 2"'), banned="spleen")
    found = LanguageReasoner(model).annotate(body(0).scan, [body(0)])
    assert "spleen" not in "".join(model.asked)
    assert found.structures[1].name == "spleen"
    assert found.structures[1].found
    assert any("not sent" in r for r in found.remarks)


def test_volumes_and_odd_settings_are_refused() -> None:
    volume = Scan(np.random.default_rng(0).random((8, 8, 8)), Grid((8, 8, 8), np.eye(4)))
    reference = Reference(volume, LabelMap(np.ones((8, 8, 8), np.uint8), volume.grid))
    with pytest.raises(GeometryError, match="reads images"):
        LanguageReasoner(Scripted("")).annotate(volume, [reference])
    with pytest.raises(GeometryError, match="take its slices"):
        picture_of(reference)
    changes: Sequence[Callable[[], object]] = (
        lambda: LanguageReasoner(Scripted(""), rounds=-1),
        lambda: LanguageReasoner(Scripted(""), least=2),
    )
    for change in changes:
        with pytest.raises(InputError):
            change()


def test_invented_boxes_are_remarked_unless_nobody_watches() -> None:
    target, reference = body(3), body(0)
    honest = LanguageReasoner(Scripted(right(3))).annotate(target.scan, [reference])
    assert not honest.remarks
    # Exactly the reference's boxes for a patient who lies otherwise, and one that reaches far over the edge.
    copied = LanguageReasoner(Scripted(right(0, aorta=(26, 34, 90, 40)))).annotate(target.scan, [reference])
    (remark,) = copied.remarks
    assert remark == (
        "other: the model's boxes may be invented: of 3 boxes 1 beyond the picture, 2 copied from the reference"
    )
    assert copied.decision == "review"
    unseen = LanguageReasoner(Scripted(right(0)), watch=False).annotate(target.scan, [reference])
    assert not unseen.remarks
