"""The knowledge table: complete, consistent, extensible, and refused where it is broken."""

from __future__ import annotations

import json

import jsonschema
import pytest

from anatrust.anatomy.entries import KnowledgeTable
from anatrust.anatomy.knowledge import knowledge, knowledge_schema, read_knowledge
from anatrust.anatomy.organs import label_names, label_tables
from anatrust.errors import FormatError, InputError

TABLE = knowledge()


def extend(tmp_path, **rows):
    path = tmp_path / "more.json"
    path.write_text(json.dumps({"schema_version": 1, **rows}), encoding="utf-8")
    return read_knowledge(path)


def test_it_holds_what_was_promised():
    assert len(TABLE.tumours) >= 40
    assert {m for t in TABLE.tumours.values() for m in t.modalities} == {"CT", "MR", "PET", "US", "endoscopy"}
    sized = [s for s in TABLE.structures.values() if s.volume_ml is not None]
    assert len(sized) > 100


@pytest.mark.parametrize("table", sorted(label_tables()))
def test_every_label_of_every_table_is_somewhere(table):
    names = set(label_names(table).values())
    rows = [*TABLE.structures.values(), *TABLE.tumours.values()]
    assert {name for row in rows for name in row.labels.get(table, [])} == names
    for row in rows:
        assert set(TABLE.labels(row.id, table).values()) <= names


def test_labels_are_gathered_over_parts_and_not_twice():
    assert TABLE.labels("kidney", "totalsegmentator_ct") == {2: "kidney_right", 3: "kidney_left"}
    assert len(TABLE.labels("lung_left", "totalsegmentator_ct")) == 2
    assert len(TABLE.labels("vertebra", "totalsegmentator_ct")) == 25
    assert TABLE.labels("kidney_left", "amos") == {3: "left_kidney"}
    assert TABLE.labels("kidney_cyst", "totalsegmentator_ct") == {23: "kidney_cyst_left", 24: "kidney_cyst_right"}
    assert TABLE.labels("breast", "amos") == {}
    with pytest.raises(InputError, match="no label table 'atlas'"):
        TABLE.labels("liver", "atlas")


def test_neighbours_hold_on_both_sides_and_nothing_neighbours_itself():
    for key in TABLE.structures:
        near = TABLE.neighbours(key)
        assert key not in near
        assert len(near) == len(set(near))
        assert all(key in TABLE.neighbours(other) for other in near)


def test_sides_choose_among_pairs():
    assert [s.id for s in TABLE.anchors("kidney_tumour")] == ["kidney"]
    assert [s.id for s in TABLE.anchors("kidney_tumour", "left")] == ["kidney_left"]
    assert TABLE.stand_ins("kidney_tumour", "left")[0].id == "adrenal_gland_left"
    assert "kidney_left" not in {s.id for s in TABLE.stand_ins("kidney_tumour", "left")}
    assert [s.id for s in TABLE.anchors("liver_tumour", "left")] == ["liver"]
    for tumour in TABLE.tumours:
        for side in (None, "left", "right"):
            assert TABLE.anchors(tumour, side)


def test_every_pair_has_both_sides():
    for row in TABLE.structures.values():
        if row.laterality == "left":
            twin = row.id.replace("_left", "_right")
            assert TABLE.structure(twin).laterality == "right"
            assert TABLE.structure(twin).volume_ml is None or row.volume_ml is not None


def test_the_published_schema_is_that_of_the_rows():
    schema = knowledge_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **KnowledgeTable.model_json_schema(),
    }


def test_a_user_adds_and_replaces_rows(tmp_path):
    mine = extend(
        tmp_path,
        structures=[{"id": "appendix", "name": "appendix", "part_of": "colon", "neighbours": ["rectum"]}],
        tumours=[{"id": "liver_tumour", "name": "liver tumour", "anchors": ["liver", "gallbladder"]}],
    )
    assert mine.parts("colon") == ("appendix",)
    assert "appendix" in mine.neighbours("rectum")
    assert [s.id for s in mine.anchors("liver_tumour")] == ["liver", "gallbladder"]
    assert "appendix" not in knowledge().structures
    assert read_knowledge() is knowledge()


BROKEN = [
    ({"structures": [{"id": "a", "name": "a", "neighbours": ["nowhere"]}]}, "'a' names 'nowhere'"),
    ({"structures": [{"id": "a", "name": "a", "part_of": "nowhere"}]}, "'a' names 'nowhere'"),
    ({"tumours": [{"id": "t", "name": "t", "anchors": ["nowhere"]}]}, "'t' names 'nowhere'"),
    ({"structures": [{"id": "a", "name": "a", "part_of": "a"}]}, "a part of itself"),
    ({"structures": [{"id": "a", "name": "a", "labels": {"atlas": ["a"]}}]}, "label table 'atlas'"),
    ({"structures": [{"id": "a", "name": "a", "labels": {"amos": ["b"]}}]}, "'b', which table 'amos'"),
    ({"structures": [{"id": "a", "name": "a"}, {"id": "a", "name": "b"}]}, "'a' twice"),
    ({"structures": [{"id": "a", "name": "a", "volume_ml": [5, 1]}]}, r"volume range \[5.0, 1.0\]"),
    ({"structures": [{"id": "a", "name": "a", "colour": "red"}]}, "structures.0.colour"),
    ({"tumours": [{"id": "t", "name": "t", "anchors": []}]}, "tumours.0.anchors"),
    ({"tumours": [{"id": "t", "name": "t", "anchors": ["liver"], "region": {"pad_mm": 500}}]}, "region.pad_mm"),
    ({"tumours": [{"id": "t", "name": "t", "anchors": ["liver"], "prompts": {"other": ["x"]}}]}, "prompts.other"),
    ({"schema_version": 2}, "schema_version"),
]


@pytest.mark.parametrize(("rows", "message"), BROKEN)
def test_broken_files_are_refused_in_one_line(tmp_path, rows, message):
    with pytest.raises(InputError, match=message) as raised:
        extend(tmp_path, **rows)
    assert "\n" not in str(raised.value)


def test_files_that_are_no_table_are_refused(tmp_path):
    with pytest.raises(FormatError, match="cannot be read"):
        read_knowledge(tmp_path / "absent.json")
    (tmp_path / "prose.json").write_text("liver")
    with pytest.raises(FormatError, match=r"prose.json is no knowledge table: the file"):
        read_knowledge(tmp_path / "prose.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="cannot be read"):
        read_knowledge(tmp_path / "bytes.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(FormatError, match="larger than 16 MiB"):
        read_knowledge(tmp_path / "huge.json")


def test_unknown_identifiers_are_named():
    with pytest.raises(InputError, match="no structure 'livver'"):
        TABLE.structure("livver")
    with pytest.raises(InputError, match="no tumour 'x'"):
        TABLE.anchors("x")
