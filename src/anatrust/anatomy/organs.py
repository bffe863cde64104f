"""Names of organs: the label tables of common segmenters, and whether a name means an organ."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from importlib.resources import files
from typing import Any

from anatrust.errors import InputError
from anatrust.image.volumes import LabelMap

__all__ = ["find_label", "is_lesion_name", "is_organ_name", "label_names", "label_tables", "normal_name", "with_names"]

# Words that only say where, so "kidney" is known because "kidney left" is.
_PLACES = frozenset({"left", "right", "upper", "lower", "middle"})


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    text = files("anatrust.anatomy").joinpath("organs.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def normal_name(name: str) -> str:
    """One spelling for all the ways to write a structure's name.

    Case, underscores, hyphens, word order, plurals and common synonyms are levelled.

    Examples
    --------
    >>> normal_name("Kidney_Left") == normal_name("left kidneys")
    True
    >>> normal_name("urinary_bladder") == normal_name("Bladder")
    True
    """
    synonyms: dict[str, str] = _data()["synonyms"]
    # A capital inside a word starts a new one (KidneyLeft), digits stand alone (rib1).
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words: set[str] = set()
    for word in re.findall(r"[a-z]+\d*|\d+", spaced.lower()):
        for part in synonyms.get(word, word).split():
            plural = len(part) > 3 and part.endswith("s") and not part.endswith(("ss", "us", "is", "as"))
            words.add(part[:-1] if plural else part)
    return " ".join(sorted(words))


def label_tables() -> dict[str, str]:
    """The built-in tables: their names and where they come from.

    Examples
    --------
    >>> sorted(label_tables())[:3]
    ['amos', 'btcv', 'msd_brain']
    """
    return {key: table["source"] for key, table in _data()["tables"].items()}


def label_names(table: str) -> dict[int, str]:
    """Label numbers and names of a built-in table.

    Parameters
    ----------
    table
        ``"totalsegmentator_ct"`` (117 labels, task ``total`` of version 2),
        ``"totalsegmentator_mr"`` (50, task ``total_mr``), ``"amos"`` (15), ``"btcv"`` (13) or
        ``"msd_liver"`` and its like, one for each task of the Medical Segmentation Decathlon.

    Raises
    ------
    InputError
        If there is no such table.

    Examples
    --------
    >>> label_names("totalsegmentator_ct")[5], len(label_names("totalsegmentator_mr"))
    ('liver', 50)
    """
    tables = _data()["tables"]
    if table not in tables:
        raise InputError(f"there is no label table {table!r}: choose one of {', '.join(sorted(tables))}")
    return {int(number): name for number, name in tables[table]["names"].items()}


def with_names(labels: LabelMap, table: str) -> LabelMap:
    """The same label map with the names of a built-in table.

    Raises
    ------
    InputError
        If there is no such table, or the map holds numbers the table does not know.
    """
    names = label_names(table)
    unknown = [number for number in labels.labels() if number not in names]
    if unknown:
        raise InputError(
            f"the label map holds {unknown[:5]}, which table {table!r} does not know: give a name table of its own"
        )
    return LabelMap(labels.array, labels.grid, names)


@lru_cache(maxsize=1)
def _organ_names() -> frozenset[str]:
    data = _data()
    known = [name for table in data["tables"].values() for name in table["names"].values()]
    names = {normal_name(name) for name in [*known, *data["more_organs"]]}
    without_side = {" ".join(w for w in name.split() if w not in _PLACES) for name in names}
    return frozenset((names | without_side) - {""})


def is_organ_name(name: str) -> bool:
    """Whether a name means a normal organ or structure rather than a lesion.

    Known are all names of the built-in tables (their kidney cysts excepted), with or without
    a side, and some more organs. An unknown name is not an organ: lesions are what the
    stricter judgement is for.

    Examples
    --------
    >>> is_organ_name("Left Kidney"), is_organ_name("kidney_cyst_left"), is_organ_name("liver tumour")
    (True, False, False)
    """
    name = normal_name(name)
    organs = _organ_names()
    bare = " ".join(word for word in name.split() if word not in _PLACES)
    return (name in organs or bare in organs) and not is_lesion_name(name)


def is_lesion_name(name: str) -> bool:
    """Whether a name contains a word for a lesion (cyst, tumour, metastasis, ...).

    Examples
    --------
    >>> is_lesion_name("kidney_cyst_left"), is_lesion_name("Liver Tumors"), is_lesion_name("liver")
    (True, True, False)
    """
    words = normal_name(name).split()
    return any(word in words for word in _data()["lesion_words"])


def find_label(labels: LabelMap, wanted: str | int) -> int:
    """The number of a structure in a label map, by number or by (tolerantly matched) name.

    Raises
    ------
    InputError
        If the map has no such label; the message lists what it has.

    Examples
    --------
    >>> import numpy as np
    >>> from anatrust.image.grid import Grid
    >>> organs = LabelMap(np.array([[0, 3]]), Grid.without_spacing((1, 2)), {3: "kidney_left"})
    >>> find_label(organs, "Left kidney")
    3
    """
    present = labels.labels()
    if isinstance(wanted, int):
        if wanted in present:
            return wanted
    else:
        key = normal_name(wanted)
        for number in present:
            if normal_name(labels.names.get(number, "")) == key:
                return number
    listed = ", ".join(labels.names.get(number, str(number)) for number in present[:12]) or "nothing"
    raise InputError(f"the anatomy has no label {wanted!r}: it holds {listed}")
