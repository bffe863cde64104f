"""The studies: every cell can be made, a few cells run, and the quick forms run in full."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anatrust.errors import InputError
from anatrust.studies import judge
from anatrust.studies import tables as tables_room
from anatrust.studies.provenance import source_hash
from anatrust.studies.study import Context, load_study, run_study, study_names
from anatrust.studies.tissues import (
    TissueSample,
    amos_slice,
    cardiac_patients,
    components,
    hippocampus_patients,
    phantom_organ,
    random_places,
    texture_disc,
    volume_organ,
)


def _context(data: Path | None) -> Context:
    return Context(seed=0, quick=True, data=data)


@pytest.mark.parametrize("name", study_names())
@pytest.mark.parametrize("quick", [True, False])
def test_cells_are_unique_and_name_existing_files_and_modules(name: str, quick: bool, shared_data: Path) -> None:
    cells = load_study(name).cells(Context(seed=0, quick=quick, data=shared_data))
    assert len({c.key for c in cells}) == len(cells) >= 1
    missing = [f for c in cells for f in c.files if not (shared_data / f).is_file()]
    assert not missing
    assert all(source_hash(c.needs) for c in cells)
    if name in ("null-validity", "planted-lesions", "real-tumours"):
        assert len({source_hash(c.needs) for c in cells}) >= 2, "a change of one null must not rerun the others"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("null-validity", "random/texture/gaussian 6/8.0/placement"),
        ("null-validity", "random/texture/gaussian 6/8.0/iid"),
        ("null-validity", "selected/texture/gaussian 6/blobs/block"),
    ],
)
def test_a_cell_of_each_null_runs_and_repeats(name: str, key: str) -> None:
    study, context = load_study(name), _context(None)
    cell = next(c for c in study.cells(context) if c.key == key)
    first = study.run(cell, context)
    assert first == study.run(cell, context)
    assert study.summarise({key: first}, context)["rates"][key]


def test_pixels_are_not_exchangeable_but_places_are() -> None:
    hits: dict[str, list[bool]] = {"iid": [], "placement": []}
    for k in range(3):
        rng = np.random.default_rng([4, k])
        sample = texture_disc(rng, "gaussian", 6.0)
        candidates = random_places(sample, 8.0, 40, rng)
        features = judge.features_of(sample, "intensity", "placement")
        for null, found in hits.items():
            results = judge.p_values(null, features, sample, candidates, seed=0, draws=99, alone=True)
            found += [r.p_value <= 0.05 for r in results]
    rates = {null: np.mean(found) for null, found in hits.items()}
    assert rates["iid"] > 0.8
    assert rates["placement"] < 0.12


def test_real_tissue_is_what_the_readme_of_the_data_says(shared_data: Path) -> None:
    context = _context(shared_data)
    spleen = amos_slice(context, 1, "spleen")
    assert spleen.domain.sum() == 4856, "the slice of the independent check"
    assert spleen.spacing == pytest.approx((0.846, 0.846), abs=1e-3)
    next_slice = amos_slice(context, 1, "spleen", rank=1)
    assert next_slice.domain.sum() < spleen.domain.sum()
    liver = volume_organ(context, "ct3mm", 5, "liver")
    assert 20 < np.median(liver.image[liver.domain]) < 160
    patients = list(hippocampus_patients(context, limit=2))
    assert [p.patient for p in patients] == ["hippocampus_004", "hippocampus_006"]
    hearts = list(cardiac_patients(context, limit=2))
    assert len({name for name, _ in hearts}) == 2
    assert all(len(slices) > 5 for _, slices in hearts)
    with pytest.raises(InputError, match="fewer than"):
        amos_slice(context, 14, "bladder", rank=30)
    with pytest.raises(InputError, match="nothing is left"):
        amos_slice(context, 14, "bladder", erode=400)


def test_places_are_inside_and_components_separate() -> None:
    sample = phantom_organ(3, "spleen")
    rng = np.random.default_rng(0)
    for ball in random_places(sample, 12.0, 5, rng):
        assert ball.any()
        assert not (ball & ~sample.domain).any()
    assert random_places(sample, 500.0, 5, rng) == []
    mask = np.zeros((6, 6), dtype=bool)
    mask[0, 0] = mask[1, 1] = mask[5, 5] = True
    assert [int(c.sum()) for c in components(mask)] == [2, 1]


def test_unknown_nulls_and_features_are_refused() -> None:
    sample = TissueSample("a", "b", np.zeros((8, 8)), np.ones((8, 8), dtype=bool), (1.0, 1.0))
    with pytest.raises(InputError, match="unknown null"):
        judge.p_values("magic", sample.image, sample, [sample.domain], seed=0, draws=9)
    with pytest.raises(InputError, match="unknown features"):
        judge.features_of(sample, "magic", "iid")
    assert judge.features_of(phantom_organ(3, "spleen"), "local", "iid").shape[-1] == 7


@pytest.mark.slow
@pytest.mark.parametrize("name", study_names())
def test_the_quick_form_runs_and_its_tables_can_be_made(name: str, shared_data: Path, tmp_path: Path) -> None:
    result = run_study(name, quick=True, data=shared_data, out=tmp_path, cache=tmp_path / "cells")
    assert result["not_run"] == {}
    assert result["summary"]
    study = load_study(name)
    tables = study.tables(result)
    assert tables
    assert all(text.startswith("| ") for text in tables.values())
    for content in study.figures(result).values():
        assert content["panels"]
        assert "</svg>" in tables_room._draw(content)


def test_tables_can_be_made_while_cells_are_missing() -> None:
    study, context = load_study("null-validity"), _context(None)
    hits = {"hits": {"amos": [0, 1]}, "undecidable": 0, "share": 0.1}
    chosen = {"single": {"texture": [0]}, "any": {"texture": [1]}, "undecidable": 0, "tested": 1}
    cells = {"random/amos/liver/8.0/iid": hits, "selected/texture/gaussian 6/blobs/surrogate-max": chosen}
    tables = study.tables({"cells": cells, "summary": study.summarise(cells, context)})
    assert "| AMOS CT, liver | 8 px | 2 | 0.50 ± 0.35 | – | – | – | – | – |" in tables["random"]
    assert "| texture, gaussian 6 | blobs | 1 | – | – | – | – | 1.00 ± 0.00 |" in tables["selected-any"]
