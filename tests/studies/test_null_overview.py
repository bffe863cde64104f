"""The README's table of nulls: counts are pooled by who chose the place, and nothing is invented."""

from __future__ import annotations

from anatrust.studies.null_overview import overview_table

RESULT = {
    "summary": {
        "rates": {
            "random/amos/liver/8.0/iid": {"k": 9, "n": 10},
            "random/mr/liver/8.0/iid": {"k": 6, "n": 20},
            "random/texture/gaussian 2/8.0/iid": {"k": 100, "n": 100},
            "selected/texture/gaussian 2/blobs/iid": {"single": {"k": 7, "n": 8}, "any": {"k": 8, "n": 8}},
            "selected/phantom/liver/blobs/iid": {"single": None, "any": {"k": 0, "n": 2}},
            "selected/amos/liver/threshold/surrogate-max": {
                "single": {"k": 1, "n": 4},
                "any": {"k": 1, "n": 4},
                "undecidable": 2,
                "tested": 4,
            },
        },
        "cohorts": {
            "phantom/threshold": {"patients": 60, "candidates": 5.0, "19": {"maximum 0.05": 0.043}},
            "hippocampus/blobs": {
                "patients": 130,
                "candidates": 4.0,
                "39": {"maximum 0.05": 0.9},
                "19": {"maximum 0.05": 0.051},
            },
            "cardiac/blobs": {"patients": 30, "candidates": 4.0, "19": {"maximum 0.05": 0.032}},
            "mr/blobs": {"patients": 9, "candidates": 4.0},
        },
    }
}


def test_counts_are_pooled_by_who_chose_the_place() -> None:
    rows = [line.strip("| ").split(" | ") for line in overview_table(RESULT).splitlines()[2:]]
    assert [row[1:] for row in rows] == [
        ["0.50 (15 of 30)", "0.88 (7 of 8)", "–"],
        ["–", "–", "–"],
        ["–", "–", "–"],
        ["–", "–", "0.25 (1 of 4; 2 undecidable)"],
        ["–", "0.04 to 0.04", "0.03 to 0.05"],
    ]
