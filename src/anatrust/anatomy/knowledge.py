"""The knowledge table: organs, tumours and how they relate, as data that users can extend."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from anatrust.anatomy.entries import KnowledgeTable, Structure, Tumour
from anatrust.anatomy.organs import label_names, label_tables
from anatrust.errors import FormatError, InputError

__all__ = ["Knowledge", "knowledge", "knowledge_schema", "read_knowledge"]

_MAX_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class Knowledge:
    """Structures and tumours by their identifiers, checked against each other.

    Parameters
    ----------
    structures, tumours
        The rows. A neighbour relation written on one side holds on both.

    Raises
    ------
    InputError
        If a row points to a structure or a label that does not exist, or is part of itself.

    Examples
    --------
    >>> table = knowledge()
    >>> [s.id for s in table.anchors("bladder_cancer")]
    ['urinary_bladder']
    >>> table.labels("lung", "totalsegmentator_mr")
    {10: 'lung_left', 11: 'lung_right'}
    """

    structures: Mapping[str, Structure]
    tumours: Mapping[str, Tumour]
    _parts: Mapping[str, tuple[str, ...]] = field(init=False, repr=False)
    _neighbours: Mapping[str, tuple[str, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts: dict[str, list[str]] = {}
        near: dict[str, dict[str, None]] = {key: {} for key in self.structures}
        rows: list[tuple[str, Structure | Tumour]] = [*self.structures.items(), *self.tumours.items()]
        for key, row in rows:
            named = [*row.neighbours, *(row.anchors if isinstance(row, Tumour) else [row.part_of or key])]
            for other in named:
                if other not in self.structures:
                    raise InputError(f"the knowledge table's {key!r} names {other!r}, which it has no structure for")
            _check_labels(key, row.labels)
            if isinstance(row, Structure):
                for other in row.neighbours:
                    near[key][other] = None
                    near[other][key] = None
                if row.part_of is not None:
                    parts.setdefault(row.part_of, []).append(key)
        for key in self.structures:
            self._check_whole(key)
        object.__setattr__(self, "structures", MappingProxyType(dict(self.structures)))
        object.__setattr__(self, "tumours", MappingProxyType(dict(self.tumours)))
        object.__setattr__(self, "_parts", MappingProxyType({k: tuple(v) for k, v in parts.items()}))
        object.__setattr__(self, "_neighbours", MappingProxyType({k: tuple(v) for k, v in near.items()}))

    def _check_whole(self, key: str) -> None:
        seen = [key]
        while (above := self.structures[seen[-1]].part_of) is not None:
            if above in seen:
                raise InputError(f"the knowledge table makes {key!r} a part of itself: mend 'part_of' of {seen[-1]!r}")
            seen.append(above)

    def structure(self, key: str) -> Structure:
        """The structure of this identifier.

        Raises
        ------
        InputError
            If there is none.
        """
        if key not in self.structures:
            raise InputError(f"the knowledge table has no structure {key!r}: resolve free text with resolve_structure")
        return self.structures[key]

    def tumour(self, key: str) -> Tumour:
        """The tumour type of this identifier.

        Raises
        ------
        InputError
            If there is none.
        """
        if key not in self.tumours:
            raise InputError(f"the knowledge table has no tumour {key!r}: resolve free text with resolve_tumour")
        return self.tumours[key]

    def anchors(self, tumour: str, side: str | None = None) -> tuple[Structure, ...]:
        """The structures a tumour is searched around, most important first.

        ``side`` (``"left"`` or ``"right"``) narrows paired organs to the one of that side.
        """
        return tuple(self.structure(self.sided(key, side)) for key in self.tumour(tumour).anchors)

    def stand_ins(self, tumour: str, side: str | None = None) -> tuple[Structure, ...]:
        """What to use where no anchor is found: the tumour's neighbours, then its anchors' neighbours."""
        row = self.tumour(tumour)
        keys = dict.fromkeys(self.sided(key, side) for key in row.neighbours)
        anchors = [anchor.id for anchor in self.anchors(tumour, side)]
        for anchor in anchors:
            keys.update(dict.fromkeys(self.neighbours(anchor)))
        return tuple(self.structures[key] for key in keys if key not in anchors)

    def neighbours(self, key: str) -> tuple[str, ...]:
        """Identifiers of the structures next to one, in the table's order.

        >>> "liver" in knowledge().neighbours("gallbladder")
        True
        """
        self.structure(key)
        return self._neighbours[key]

    def parts(self, key: str) -> tuple[str, ...]:
        """Identifiers of a structure's direct parts (left and right one of a pair, lobes, ...)."""
        self.structure(key)
        return self._parts.get(key, ())

    def sided(self, key: str, side: str | None) -> str:
        """The part of a paired structure on a side; the structure itself where there is none.

        >>> knowledge().sided("kidney", "left"), knowledge().sided("liver", "left")
        ('kidney_left', 'liver')
        """
        fits = [part for part in self.parts(key) if self.structures[part].laterality == side]
        paired = self.structures[key].laterality == "paired"
        return fits[0] if paired and len(fits) == 1 else key

    def labels(self, key: str, table: str) -> dict[int, str]:
        """Numbers and names of a structure (or a tumour) and its parts in a built-in label table.

        Empty where the table does not know it.

        Raises
        ------
        InputError
            If there is no such structure, tumour or table.
        """
        numbers = {name: number for number, name in label_names(table).items()}
        if key in self.tumours:
            names = set(self.tumours[key].labels.get(table, []))
        else:
            names, waiting = set(), [key]
            while waiting:
                row = self.structure(waiting.pop())
                names.update(row.labels.get(table, []))
                waiting += self.parts(row.id)
        return {numbers[name]: name for name in sorted(names, key=lambda name: numbers[name])}

    def extended(self, source: Path | str) -> Knowledge:
        """The table with the rows of a user's file added; a row with a known identifier replaces it.

        Raises
        ------
        InputError
            If the file cannot be read, or its rows do not fit.
        """
        return _merged([*self.structures.values()], [*self.tumours.values()], _read(Path(source)))


def _check_labels(key: str, labels: Mapping[str, Iterable[str]]) -> None:
    for table, names in labels.items():
        if table not in label_tables():
            raise InputError(f"the knowledge table's {key!r} names the label table {table!r}, which does not exist")
        unknown = sorted(set(names) - set(label_names(table).values()))
        if unknown:
            raise InputError(f"the knowledge table's {key!r} names {unknown[0]!r}, which table {table!r} does not have")


def _merged(structures: list[Structure], tumours: list[Tumour], more: KnowledgeTable) -> Knowledge:
    return Knowledge(
        {row.id: row for row in [*structures, *more.structures]}, {row.id: row for row in [*tumours, *more.tumours]}
    )


def _read(path: Path) -> KnowledgeTable:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FormatError(f"{path.name} is larger than {_MAX_BYTES >> 20} MiB: this is no knowledge table")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"the knowledge table {path.name} cannot be read: {error}") from error
    return _parsed(text, path.name)


def _parsed(text: str, name: str) -> KnowledgeTable:
    try:
        table = KnowledgeTable.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        message = " ".join(str(first["msg"]).split())
        raise FormatError(f"{name} is no knowledge table: {where}: {message}") from None
    for rows in (table.structures, table.tumours):
        keys = [row.id for row in rows]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise FormatError(f"{name} holds the row {twice!r} twice: keep one of them")
    return table


@lru_cache(maxsize=1)
def knowledge() -> Knowledge:
    """The built-in table (read once)."""
    text = files("anatrust.anatomy").joinpath("knowledge.json").read_text(encoding="utf-8")
    return _merged([], [], _parsed(text, "knowledge.json"))


def read_knowledge(path: Path | str | None = None) -> Knowledge:
    """The built-in table, extended by a user's file where one is given.

    Raises
    ------
    InputError
        If the file cannot be read or does not fit; the message says which row and why.
    """
    return knowledge() if path is None else knowledge().extended(path)


def knowledge_schema() -> dict[str, Any]:
    """The published JSON Schema of the table (``anatomy/knowledge.schema.json``)."""
    text = files("anatrust.anatomy").joinpath("knowledge.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
