"""Stage three on tiny random models: gradients reach what is trained and nothing else, it learns, saves and resumes."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from anatrust.errors import FormatError, InputError
from anatrust.models.sam2_memory import Sam2Parts
from anatrust.models.vision_language import VisionLanguageModel
from anatrust.reference.mask_training import MaskSettings, train_masks
from anatrust.reference.pairs import LabelledPicture, draw_pairs
from anatrust.reference.prompts import SEG
from anatrust.reference.token_segmenter import TokenSegmenter


def made(folders: tuple[Path, Path], level: str = "prototypes") -> TokenSegmenter:
    torch.manual_seed(1)
    return TokenSegmenter.make(VisionLanguageModel.load(folders[0]), Sam2Parts.load(folders[1]), level)  # type: ignore[arg-type]


def test_both_rooms_mean_the_same_token(folders: tuple[Path, Path]) -> None:
    tokenizer = VisionLanguageModel.load(folders[0]).processor.tokenizer
    assert tokenizer.encode(SEG) == [tokenizer.convert_tokens_to_ids(SEG)]


@pytest.mark.parametrize("level", ["prototypes", "spatial", "native", "added"])
def test_every_level_draws_a_mask_for_each_region(
    folders: tuple[Path, Path], pictures: list[LabelledPicture], level: str
) -> None:
    segmenter = made(folders, level)
    pair = next(p for p in draw_pairs(pictures, 0, absent=0))
    logits, attended, slots, language = segmenter(pair, pair.sample("segment", np.random.default_rng(0)))
    assert logits.shape == (2, 32, 32)
    assert attended.weights.shape == (2, 2)
    assert slots.tolist() == [list(pair.labels).index(n) for n in pair.labels]
    assert language.item() > 0
    assert not torch.allclose(logits[0], logits[1])


def test_it_learns_saves_resumes_and_loads(
    folders: tuple[Path, Path], pictures: list[LabelledPicture], tmp_path: Path
) -> None:
    settings = MaskSettings(steps=20, batch=2, token_rate=1e-3, decoder_rate=1e-3, save_every=10)
    whole = made(folders)
    frozen = {n: p.clone() for n, p in whole.sam.named_parameters() if "mask_decoder" not in n}
    losses = train_masks(whole, pictures, settings, tmp_path / "whole")
    assert np.mean(losses[-5:]) < 0.97 * np.mean(losses[:5])
    assert all(torch.equal(p, frozen[n]) for n, p in whole.sam.named_parameters() if n in frozen)

    def stop(step: int, *_: object) -> None:
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_masks(made(folders), pictures, settings, tmp_path / "cut", progress=stop)
    again = train_masks(made(folders), pictures, settings, tmp_path / "cut")
    assert again == pytest.approx(losses, abs=1e-6)
    assert not {p.suffix for p in tmp_path.rglob("*") if p.is_file()} & {".bin", ".pt", ".pth", ".pkl"}

    language = VisionLanguageModel.load(folders[0], adapters=[tmp_path / "whole"])
    loaded = TokenSegmenter.load(tmp_path / "whole", language, Sam2Parts.load(folders[1]))
    pair = next(p for p in draw_pairs(pictures, 3, absent=0))
    sample = pair.sample("segment", np.random.default_rng(0))
    with torch.no_grad():
        assert torch.allclose(loaded(pair, sample)[0], whole(pair, sample)[0], atol=1e-3)
    with pytest.raises(InputError, match="other settings"):
        train_masks(made(folders), pictures, MaskSettings(train_adapter=True, steps=20, batch=2), tmp_path / "cut")


def test_what_is_named_is_drawn(
    folders: tuple[Path, Path], pictures: list[LabelledPicture], monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = made(folders)
    pair = next(p for p in draw_pairs(pictures, 0, absent=0, hidden=0))
    sample = pair.sample("segment", np.random.default_rng(0))
    random = segmenter.predict(pair, sample, most_tokens=4)
    assert random.masks == {}
    monkeypatch.setattr(segmenter.language, "answer", lambda *_, **__: [sample.answer])
    drawn = segmenter.predict(pair, sample)
    assert set(drawn.masks) == set(sample.masks)
    assert all(m.shape == (56, 56) and m.dtype == bool for m in drawn.masks.values())
    monkeypatch.setattr(segmenter.language, "answer", lambda *_, **__: [f"heart{SEG}"])
    assert segmenter.predict(pair, sample).masks == {}


def test_the_stage_trains_what_it_says(folders: tuple[Path, Path], pictures: list[LabelledPicture]) -> None:
    segmenter = made(folders)
    train_pairs = list(islice(draw_pairs(pictures, 0), 2))
    assert train_pairs
    from peft import get_peft_model

    from anatrust.reference.mask_training import _choose, _named

    language = segmenter.language
    language.model = get_peft_model(language.model, MaskSettings().lora.config(language.seg))
    rows = _choose(segmenter, MaskSettings())
    logits, attended, _, loss = segmenter(train_pairs[0], train_pairs[0].sample("segment", np.random.default_rng(0)))
    (logits.square().mean() + attended.value.sum() + loss).backward()
    assert sum(float(p.grad.abs().sum()) for p in rows if p.grad is not None) > 0
    reached = {n for n, p in _named(segmenter) if p.grad is not None and float(p.grad.abs().sum()) > 0}
    assert any("attention.project" in n for n in reached)
    assert any("mask_decoder" in n for n in reached)
    assert not any("visual" in n or "vision_encoder" in n or "lora_" in n for n in reached)


def test_standardised_states_keep_regions_apart_and_go_on_after_a_stop(
    folders: tuple[Path, Path], pictures: list[LabelledPicture], tmp_path: Path
) -> None:
    settings = MaskSettings(steps=4, batch=1, standardise=True, save_every=2)
    whole = made(folders)
    plain = whole.attention.state_dict()
    assert not bool(plain["mean"].any())
    losses = train_masks(whole, pictures, settings, tmp_path / "whole")
    mean, spread = whole.attention.mean.clone(), whole.attention.spread.clone()
    assert bool(mean.any())
    pair = next(p for p in draw_pairs(pictures, 0, absent=0))
    states = whole.states(pair.sample("segment", np.random.default_rng(0)))
    one, two = (states - mean) / spread
    assert torch.cosine_similarity(one, two, dim=0) < torch.cosine_similarity(states[0], states[1], dim=0)

    def stop(step: int, *_: object) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_masks(made(folders), pictures, settings, tmp_path / "cut", progress=stop)
    again = made(folders)
    assert train_masks(again, pictures, settings, tmp_path / "cut") == losses
    assert torch.equal(again.attention.mean, mean)
    loaded = TokenSegmenter.load(
        tmp_path / "whole",
        VisionLanguageModel.load(folders[0], adapters=[tmp_path / "whole"]),
        Sam2Parts.load(folders[1]),
    )
    assert torch.equal(loaded.attention.spread, spread)
    with pytest.raises(InputError, match="without a language model"):
        TokenSegmenter.make(None, Sam2Parts.load(folders[1])).states(pair.sample("segment", np.random.default_rng(0)))


def test_foreign_folders_are_said(folders: tuple[Path, Path], tmp_path: Path) -> None:
    segmenter = made(folders)
    with pytest.raises(FormatError, match="no token segmenter"):
        TokenSegmenter.load(tmp_path, segmenter.language, segmenter.sam)
    with pytest.raises(InputError, match="prototypes, spatial, native or added"):
        made(folders, "dense")


@pytest.mark.parametrize("changes", [{"steps": 0}, {"dice": -1.0}])
def test_wrong_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InputError):
        MaskSettings(**changes)  # type: ignore[arg-type]


def test_the_memory_alone_learns_too_and_all_of_sam2_where_asked(
    folders: tuple[Path, Path], pictures: list[LabelledPicture], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    segmenter = TokenSegmenter.make(None, Sam2Parts.load(folders[1]), "native")
    pair = next(p for p in draw_pairs(pictures, 0, absent=0))
    sample = pair.sample("segment", np.random.default_rng(0))
    before = {name: p.clone() for name, p in segmenter.named_parameters()}
    settings = MaskSettings(steps=2, batch=1, decoder_rate=1e-3, train_sam=True, save_every=1)
    losses = train_masks(segmenter, pictures, settings, tmp_path / "m")
    moved = {name.split(".")[2] for name, p in segmenter.named_parameters() if (p != before[name]).any()}
    assert {"vision_encoder", "memory_encoder", "memory_attention", "mask_decoder"} <= moved
    again = TokenSegmenter.make(None, Sam2Parts.load(folders[1]), "native")
    assert train_masks(again, pictures, settings, tmp_path / "m") == losses
    assert torch.equal(again(pair, sample)[0], segmenter(pair, sample)[0])
    with pytest.raises(InputError, match="nobody says"):
        segmenter.predict(pair, sample)
