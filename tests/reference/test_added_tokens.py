"""Tokens added to SAM 2's own memory: nothing at first, exactly; then they learn, are saved and come back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anatrust.errors import FormatError, InputError
from anatrust.models.sam2_memory import Sam2Parts
from anatrust.models.vision_language import VisionLanguageModel
from anatrust.reference.added_tokens import AddedTokens, place_loss
from anatrust.reference.mask_training import MaskSettings, train_masks
from anatrust.reference.pairs import LabelledPicture, Pair, draw_pairs
from anatrust.reference.token_segmenter import TokenSegmenter


def made(folders: tuple[Path, Path], *, tokens: bool = True, places: bool = True) -> TokenSegmenter:
    torch.manual_seed(1)
    language = VisionLanguageModel.load(folders[0]) if tokens else None
    return TokenSegmenter.make(language, Sam2Parts.load(folders[1]), "added", places=places)


def memory_alone(sam: Sam2Parts, pair: Pair, numbers: list[int]) -> torch.Tensor:
    """SAM 2 as it tracks by itself: one memory, one pointer, nobody prompts."""
    grey = [torch.from_numpy(p.image)[None, None] for p in (pair.reference, pair.target)]
    size = (sam.size, sam.size)
    both = torch.cat([torch.nn.functional.interpolate(g, size, mode="bilinear", antialias=True)[:, 0] for g in grey])
    seen, target = (sam.features(sam.prepare(one[None])) for one in both)
    masks = np.stack([pair.reference.labels == pair.labels[n] for n in numbers]).astype(np.float32)
    memory = sam.memorise(seen, torch.from_numpy(masks))
    return sam.decode(target, sam.empty_prompt(len(numbers)), sam.condition(target, memory))


@pytest.mark.parametrize("tokens", [True, False])
def test_untrained_it_is_the_memory_alone_whatever_the_tokens_say(
    folders: tuple[Path, Path], tokens: bool, pictures: list[LabelledPicture]
) -> None:
    segmenter = made(folders, tokens=tokens)
    pair = next(p for p in draw_pairs(pictures, 0, absent=0))
    sample = pair.sample("segment", np.random.default_rng(0))
    with torch.no_grad():
        alone = memory_alone(segmenter.sam, pair, list(sample.masks))
        logits, attended, _, _ = segmenter(pair, sample)
        assert torch.allclose(logits, alone, rtol=0, atol=1e-7)
        assert not torch.allclose(alone[0], alone[1], rtol=0, atol=1e-7)
        assert attended.places is not None
        # The test could fail: opened, any of the ways in changes the masks.
        assert segmenter.added is not None
        for way in (segmenter.added.query, segmenter.added.value, segmenter.added.pointer):
            way.layer.bias += 1
            assert not torch.allclose(segmenter(pair, sample)[0], alone, rtol=0, atol=1e-7)
            way.layer.bias -= 1
        segmenter.added.way += 1
        assert not torch.allclose(segmenter(pair, sample)[0], alone, rtol=0, atol=1e-7)


def test_it_learns_in_every_way_and_comes_back(
    folders: tuple[Path, Path], tmp_path: Path, pictures: list[LabelledPicture]
) -> None:
    segmenter = made(folders)
    assert segmenter.added is not None
    told: list[dict[str, float]] = []
    settings = MaskSettings(steps=12, batch=2, decoder_rate=1e-3, save_every=6)
    losses = train_masks(
        segmenter, pictures, settings, tmp_path / "whole", progress=lambda *given: told.append(dict(given[2]))
    )
    assert np.mean(losses[-3:]) < 0.97 * np.mean(losses[:3])
    assert np.mean([t["place"] for t in told[-3:]]) < np.mean([t["place"] for t in told[:3]])
    for way in (segmenter.added.query, segmenter.added.value, segmenter.added.pointer):
        assert bool(way.layer.weight.any())
    assert bool(segmenter.added.way.any())

    def stop(step: int, *_: object) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_masks(made(folders), pictures, settings, tmp_path / "cut", progress=stop)
    assert train_masks(made(folders), pictures, settings, tmp_path / "cut") == pytest.approx(losses, abs=1e-6)

    language = VisionLanguageModel.load(folders[0], adapters=[tmp_path / "whole"])
    loaded = TokenSegmenter.load(tmp_path / "whole", language, Sam2Parts.load(folders[1]))
    assert loaded.level == "added"
    pair = next(p for p in draw_pairs(pictures, 3, absent=0))
    sample = pair.sample("segment", np.random.default_rng(0))
    with torch.no_grad():
        assert torch.allclose(loaded(pair, sample)[0], segmenter(pair, sample)[0], atol=1e-3)
    drawn = loaded.drawn(pair, sample, sample.answer)
    assert set(drawn.masks) == set(sample.masks)
    (tmp_path / "whole" / "added.safetensors").unlink()
    with pytest.raises(FormatError, match="no token segmenter"):
        TokenSegmenter.load(tmp_path / "whole", language, Sam2Parts.load(folders[1]))


def test_patches_are_a_switch_that_is_saved(
    folders: tuple[Path, Path], tmp_path: Path, pictures: list[LabelledPicture]
) -> None:
    segmenter = made(folders, places=False)
    pair = next(p for p in draw_pairs(pictures, 0, absent=0))
    assert segmenter(pair, pair.sample("segment", np.random.default_rng(0)))[1].places is None
    segmenter.save(tmp_path)
    loaded = TokenSegmenter.load(tmp_path, VisionLanguageModel.load(folders[0]), Sam2Parts.load(folders[1]))
    assert loaded.added is not None
    assert loaded.added.ask is None


def test_a_folder_from_before_this_level_loads(folders: tuple[Path, Path], tmp_path: Path) -> None:
    torch.manual_seed(1)
    language = VisionLanguageModel.load(folders[0])
    old = TokenSegmenter.make(language, Sam2Parts.load(folders[1]), "native")
    old.save(tmp_path)
    plain = json.loads((tmp_path / "token_segmenter.json").read_text())
    assert set(plain) == {"memory", "level", "gated", "parts"}
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == ["attention.safetensors", "decoder.safetensors"]
    loaded = TokenSegmenter.load(tmp_path, language, Sam2Parts.load(folders[1]))
    assert loaded.added is None
    with pytest.raises(InputError, match="belong to the level added"):
        TokenSegmenter(language, old.sam, old.attention, "added")


def test_the_memory_is_taught_alone(
    folders: tuple[Path, Path], tmp_path: Path, pictures: list[LabelledPicture]
) -> None:
    segmenter = made(folders, tokens=False)
    before = {name: p.clone() for name, p in segmenter.named_parameters()}
    settings = MaskSettings(steps=2, batch=1, decoder_rate=1e-3, train_sam=True, train_tokens=False)
    train_masks(segmenter, pictures, settings, tmp_path)
    moved = {name.split(".")[0] for name, p in segmenter.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"sam"}
    assert (replace(settings, train_tokens=True)).train_tokens


def test_the_rival_has_its_pointers_standardised_too(
    folders: tuple[Path, Path], tmp_path: Path, pictures: list[LabelledPicture]
) -> None:
    segmenter = made(folders, tokens=False)
    shared = segmenter.pointers(next(p for p in draw_pairs(pictures, 0, absent=0)))
    assert torch.cosine_similarity(shared[0], shared[1], dim=0) > 0.9
    settings = MaskSettings(steps=1, batch=1, standardise=True, token_rate=1e-9, decoder_rate=1e-9)
    train_masks(segmenter, pictures, settings, tmp_path)
    one, two = segmenter.attention.plain(shared)[:2]
    assert torch.cosine_similarity(one, two, dim=0) < 0.5


def test_patches_of_the_last_picture_are_told_row_by_row(folders: tuple[Path, Path]) -> None:
    model = VisionLanguageModel.load(folders[0])
    grey = [Image.new("RGB", size, (90, 90, 90)) for size in ((56, 56), (84, 56), (56, 84))]
    given = model.inputs(["one", "and another"], [grey[:2], [grey[2]]])
    with torch.no_grad():
        output = model.model(**given, output_hidden_states=True, return_dict=True)
    found = model.patch_states(given, output)
    grids = (given["image_grid_thw"][:, 1:] // model.model.config.vision_config.spatial_merge_size).tolist()
    assert [list(f.shape[:2]) for f in found] == [grids[1], grids[2]]
    ids = given["input_ids"]
    at = [(row == model.model.config.image_token_id).nonzero()[:, 0] for row in ids]
    last = output.hidden_states[-1]
    assert torch.equal(found[0][-1, -1], last[0, at[0][-1]])
    assert torch.equal(found[0][0, 0], last[0, at[0][-grids[1][0] * grids[1][1]]])
    assert torch.equal(found[1][0, 0], last[1, at[1][0]])


def test_places_are_told_where_state_and_patch_agree() -> None:
    torch.manual_seed(0)
    added = AddedTokens(hidden=4, shown=4, width=8, inner=8)
    kinds = torch.eye(4)
    where = torch.tensor([[0, 1], [2, 3]])
    truth = torch.stack([torch.kron((where == n).float(), torch.ones(4, 4)) for n in range(4)])
    optimiser = torch.optim.Adam(added.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        loss = place_loss(added.places(kinds, kinds[where], (2, 2)), truth)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    # Turned round, the patches are followed, not the places that were taught.
    turned = where.flip(0, 1)
    told = added.places(kinds, kinds[turned], (2, 2)).flatten(1).argmax(1)
    assert told.tolist() == [int((turned == n).flatten().nonzero()) for n in range(4)]
