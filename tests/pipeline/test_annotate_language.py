"""`annotate --reasoner vlm` from the command line: tiny models that learnt one question by heart, and a real server."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from anatrust.cli.main import run
from anatrust.errors import InputError
from anatrust.image.read import read_mask, read_scan
from anatrust.image.volumes import LabelMap
from anatrust.metrics import dice
from anatrust.models.annotation import Reference
from anatrust.models.planner_endpoint import Endpoint
from anatrust.models.vision_endpoint import VisionEndpoint
from anatrust.pipeline.language import LanguageOptions
from anatrust.reference.pairs import OUTLINE, outlined, plain_picture, tinted
from anatrust.reference.pictures import greys, picture_of, view_of
from anatrust.reference.prompts import Legend, box_prompt, name_prompt, segment_prompt
from anatrust.studies.tiny_models import memorise, tiny_qwen, tiny_sam2

NAMES = {1: "liver", 2: "spleen"}
THOUSAND = {"liver": [143, 125, 464, 625], "spleen": [643, 208, 857, 542]}
WORDS = f"<think>so</think><answer>{json.dumps([{'label': n, 'bbox': b} for n, b in THOUSAND.items()])}</answer>"


def drawn(shift: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a picture and its labels."""
    rows, columns = np.mgrid[:48, :56]
    labels = np.zeros((48, 56), np.uint8)
    for number, (x, y, a, b) in enumerate(((14, 18, 9, 12), (39, 18, 6, 8)), start=1):
        labels[((columns + 0.5 - x - shift) / a) ** 2 + ((rows + 0.5 - y) / b) ** 2 < 1] = number
    image = np.array([0.1, 0.9, 0.5])[labels] + np.random.default_rng(seed).normal(0, 0.01, labels.shape)
    return (255 * np.clip(image, 0, 1)).astype(np.uint8), labels


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm")
    for name, shift, seed in (("scan", 3, 1), ("other", 0, 2)):
        image, labels = drawn(shift, seed)
        secret = PngImagePlugin.PngInfo()
        secret.add_text("Description", "JANE DOE 1970-01-01")
        Image.fromarray(image).save(folder / f"{name}.png", pnginfo=secret)
        Image.fromarray(labels).save(folder / f"{name}_labels.png")
    Image.fromarray(np.where(drawn(3, 1)[1] == 2, 5, 0).astype(np.uint8)).save(folder / "regions.png")
    (folder / "names.json").write_text(json.dumps(NAMES))
    return folder


def given(place: Path, *more: str) -> list[str]:
    return [
        "annotate", "-i", str(place / "scan.png"), "--reference", str(place / "other.png"),
        "--reference-labels", str(place / "other_labels.png"), "--names", str(place / "names.json"),
        "--reasoner", "vlm", *more,
    ]  # fmt: skip


def questions(place: Path) -> list[tuple[str, list[Any], str]]:
    """The three questions that the command asks, and their answers."""
    scan = read_scan(place / "scan.png")
    other = read_scan(place / "other.png")
    labels = read_mask(place / "other_labels.png", reference=other.grid)
    picture = picture_of(Reference(other, LabelMap(labels.array, labels.grid, NAMES)))
    view = view_of(greys(scan))
    first = [plain_picture(picture.image), tinted(picture, {1: 1, 2: 2})]
    legend = Legend(tuple(NAMES.items()))
    mask = drawn(3, 1)[1] == 2
    return [
        (box_prompt(legend, "thousand"), [*first, plain_picture(view)], WORDS),
        (name_prompt(legend, OUTLINE), [*first, outlined(view, mask)], "<think>so</think><answer>spleen</answer>"),
        (segment_prompt(legend), [*first, plain_picture(view)], "liver<Seg> spleen<Seg>"),
    ]


@pytest.fixture(scope="module")
def models(place: Path) -> None:
    memorise(tiny_qwen(place / "qwen"), questions(place), steps=600)
    tiny_sam2(place / "sam2")


def judged(place: Path, out: Path) -> tuple[dict[str, Any], list[float]]:
    told = json.loads((out / "annotation.json").read_text())
    labels, truth = np.asarray(Image.open(out / "labels.png")), drawn(3, 1)[1]
    assert str(place) not in json.dumps(told) + (out / "run.json").read_text()
    return told, [dice(truth == n, labels == n) for n in NAMES]


@pytest.mark.usefixtures("models")
def test_a_folder_is_asked_for_boxes_and_names(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--model", str(place / "qwen"), "--boxes-in", "thousand", "--regions", str(place / "regions.png"))
    assert run(given(place, *options, "-o", str(tmp_path / "out"))) == 0
    told, overlaps = judged(place, tmp_path / "out")
    assert [s["name"] for s in told["structures"]] == ["liver", "spleen"]
    assert min(overlaps) > 0.8
    assert told["reasoner"].startswith("vlm/1 qwen2_5_vl(sha256=")
    assert told["regions"][0]["name"] == "spleen"
    assert "region 5: spleen" in capsys.readouterr().out
    assert (tmp_path / "out" / "regions.csv").read_text().count("\n") == 2


@pytest.mark.usefixtures("models")
def test_sam2_may_draw_in_the_boxes(place: Path, tmp_path: Path) -> None:
    options = ("--model", str(place / "qwen"), "--boxes-in", "thousand", "--sam2", str(place / "sam2"))
    assert run(given(place, *options, "-o", str(tmp_path / "out"), "-q")) == 0
    told, _ = judged(place, tmp_path / "out")
    assert "sam2(sha256=" in told["reasoner"]


@pytest.mark.usefixtures("models")
def test_what_train_seg_saves_draws_masks(place: Path, tmp_path: Path) -> None:
    rows = ["id,image,truth,patient"]
    for k, name in enumerate(("scan", "other")):
        rows.append(f"{k},{name}.png,{name}_labels.png,p{k}")
    (place / "cohort.csv").write_text("\n".join(rows) + "\n")
    plan = place / "seg.yaml"
    plan.write_text(
        f"model: qwen\ncohort: cohort.csv\nnames: {place}/names.json\nsam2: sam2\noutput: masks\n"
        "settings: {steps: 2, batch: 1, save_every: 9, token_rate: 1.0e-6}\n"
    )
    assert run(["train", "seg", str(plan), "-q"]) == 0
    options = ("--model", str(place / "qwen"), "--masks", str(place / "masks"), "--sam2", str(place / "sam2"))
    assert run(given(place, *options, "-o", str(tmp_path / "out"), "-q")) == 0
    told, _ = judged(place, tmp_path / "out")
    assert "<Seg> tokens (added)" in told["reasoner"]
    assert told["decision"] != "abstain"
    assert any(s["box"] for s in told["structures"]) or all(s["reason"] for s in told["structures"])


def test_an_untrained_model_abstains(place: Path, tmp_path: Path) -> None:
    tiny_qwen(tmp_path / "raw")
    from anatrust.pipeline.annotate import annotate
    from anatrust.pipeline.language import language_reasoner

    reasoner = language_reasoner(LanguageOptions(str(tmp_path / "raw")))
    files = [place / f for f in ("scan.png", "other.png", "other_labels.png")]
    from dataclasses import replace

    found = annotate(*files, reasoner=replace(reasoner, most_tokens=8, rounds=0))
    assert found.decision == "abstain"
    assert "no usable answer" in found.abstained


@pytest.fixture
def server(chat_server: Any) -> Any:
    chat_server.answers = [WORDS]
    return chat_server


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, until nobody listens any more."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        time.sleep(0.05)
        handler.wfile.write(b" ")
        handler.wfile.flush()


def test_a_server_on_this_machine_is_asked_and_sees_pictures_alone(server: Any, place: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret-123\n")
    options = ("--endpoint", server.url, "--model", "any-model", "--key-file", str(key))
    assert run(given(place, *options, "-o", str(tmp_path / "out"), "-q")) == 0
    told, overlaps = judged(place, tmp_path / "out")
    assert min(overlaps) > 0.8
    assert told["reasoner"].startswith("vlm/1 any-model at 127.0.0.1")
    assert "secret" not in (tmp_path / "out" / "run.json").read_text()
    (_, headers, body), *more = server.seen
    assert not more
    assert headers["Authorization"] == "Bearer secret-123"
    assert headers["User-Agent"] == "anatrust"
    sent = json.loads(body)
    assert set(sent) == {"model", "temperature", "max_tokens", "messages"}
    *images, text = sent["messages"][0]["content"]
    assert text["text"] == box_prompt(Legend(tuple(NAMES.items())), "thousand")
    raw = [base64.b64decode(i["image_url"]["url"].removeprefix("data:image/png;base64,")) for i in images]
    pictures = [Image.open(io.BytesIO(r)) for r in raw]
    assert [p.size for p in pictures] == [(56, 48)] * 3
    assert not any(p.info for p in pictures)
    # The chunks of a PNG made from numbers alone: nothing of a file's text, time or place.
    kinds = [r[i + 4 : i + 8] for r in raw for i in _chunks(r)]
    assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}
    everything = body + b"".join(raw)
    for secret in (b"JANE", b"1970", b"scan.png", b"other.png", str(place).encode(), b"names.json"):
        assert secret not in everything


def test_a_volume_is_asked_about_by_key_slices(server: Any, place: Path, tmp_path: Path) -> None:
    for name, shift, seed in (("scan", 3, 1), ("other", 0, 2)):
        image, labels = drawn(shift, seed)
        # As a reader sees it: columns run to the patient's left, rows to the back.
        stack = [np.repeat(a[::-1, ::-1].T[..., None], 4, axis=2) for a in (image.astype(np.float32), labels)]
        for kind, array in zip(("", "_labels"), stack, strict=True):
            nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1, 3, 1])), tmp_path / f"{name}{kind}.nii.gz")
    files = [str(tmp_path / f"{n}.nii.gz") for n in ("scan", "other", "other_labels")]
    line = ["annotate", "-i", files[0], "--reference", files[1], "--reference-labels", files[2], "--reasoner", "vlm"]
    more = ["--names", str(place / "names.json"), "--endpoint", server.url, "--model", "any", "--keys", "1", "-q"]
    assert run([*line, *more, "-o", str(tmp_path / "out")]) == 0
    assert len(server.seen) == 1
    told = json.loads((tmp_path / "out" / "annotation.json").read_text())
    assert told["reasoner"].startswith("volume/1 axial keys=1")
    found = np.asarray(nibabel.load(tmp_path / "out" / "labels.nii.gz").dataobj)
    truth = np.asarray(nibabel.load(tmp_path / "scan_labels.nii.gz").dataobj)
    assert all(dice(truth == n, found == n) > 0.7 for n in NAMES)
    assert (found > 0).any(axis=(0, 1)).all(), "what was drawn on one slice is followed to all"


def _chunks(png: bytes) -> Iterator[int]:
    at = 8
    while at < len(png):
        yield at
        at += 12 + int.from_bytes(png[at : at + 4])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, b"oops"), "HTTP status 500"),
        ((307, b""), "HTTP status 307"),
        ((200, b"<html>"), "no JSON"),
        ((200, b"[" * 200_000), "no JSON"),
        ((200, b"{}"), "form of a chat completion"),
        ((200, b" " * 2_000_000), "longer than"),
        ("I cannot look at medical images.", "the answer is not"),
        (drip, "time allowed"),
    ],
)
def test_broken_slow_and_hostile_servers_give_a_reason(
    server: Any, place: Path, tmp_path: Path, answer: Any, message: str
) -> None:
    from anatrust.pipeline.annotate import annotate
    from anatrust.reference.language_reasoner import LanguageReasoner

    server.answers = [answer]
    reasoner = LanguageReasoner(VisionEndpoint(Endpoint(server.url), "any", seconds=2.0), rounds=1)
    files = [place / f for f in ("scan.png", "other.png", "other_labels.png")]
    found = annotate(*files, reasoner=reasoner, out=tmp_path / "out")
    assert found.decision == "abstain"
    assert message in found.abstained
    assert not np.asarray(Image.open(tmp_path / "out" / "labels.png")).any()


def test_pictures_stay_here_unless_that_is_allowed(
    server: Any, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = ("--endpoint", "https://models.example.org/v1", "--model", "any")
    assert run(given(place, *far, "-o", str(tmp_path / "out"))) == 2
    error = capsys.readouterr().err
    assert "leave this machine for models.example.org" in error
    assert "--send-images" in error
    assert error.count("\n") == 1
    assert server.seen == []
    with pytest.raises(InputError, match="leave this machine"):
        VisionEndpoint(Endpoint("http://localhost.example.org/v1"), "any")
    assert VisionEndpoint(Endpoint("https://models.example.org/v1"), "any", send_images=True).send_images


def test_odd_label_names_are_not_sent(server: Any) -> None:
    vision = VisionEndpoint(Endpoint(server.url), "any")
    assert all(vision.may_say(n) for n in ("liver", "kidney_left", "vertebrae_L3", "label 17"))
    assert not any(vision.may_say(n) for n in ("lesion of 1970-01-01", "jane@example.org", "C:\\doe"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "needs --model"),
        (("--model", "nowhere/nothing"), "neither a folder nor in the local"),
        (("--model", "a", "--masks", "b"), "need SAM 2"),
        (("--model", "a", "--boxes-in", "inches"), "boxes are written in"),
        (("--model", "a", "--send-images"), "sends no images"),
        (("--model", "a", "--key-file", "b"), "a key belongs to an --endpoint"),
        (("--model", "a", "--endpoint", "http://127.0.0.1:9/v1", "--adapter", "b"), "takes no adapters"),
        (("--model", "a", "--device", "tpu"), "no device"),
        (("--model", "a", "--keyring", "x"), "write SERVICE:USER"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert run(given(place, *options, "-o", str(tmp_path / "out"))) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_other_reasoners_take_no_model_and_name_regions_too(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = given(place, "--model", "a", "-o", str(tmp_path / "out"))
    line[line.index("vlm")] = "registration"
    assert run(line) == 2
    assert "takes no model" in capsys.readouterr().err
    line = given(place, "--regions", str(place / "regions.png"), "-o", str(tmp_path / "out"))
    line[line.index("vlm")] = "registration"
    assert run(line) == 0
    region = json.loads((tmp_path / "out" / "annotation.json").read_text())["regions"][0]
    assert (region["region"], region["name"]) == (5, "spleen")
    empty = tmp_path / "empty.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4), np.uint8), np.eye(4)), empty)
    line[line.index(str(place / "regions.png"))] = str(empty)
    line[line.index("-o") + 1] = str(tmp_path / "out2")
    assert run(line) == 2
