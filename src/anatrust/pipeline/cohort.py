"""The cohort table: which scans there are, whose they are, and what is known about them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np

from anatrust.errors import FormatError, InputError

__all__ = ["Cohort", "CohortRow"]

_FILES = ("image", "mask", "probabilities", "truth", "anatomy")
_FLAGS = ("outlier", "lesion_free")
_TEXTS = ("id", "patient", "group")
_YES, _NO = frozenset({"true", "1", "yes", "y", "t", "1.0"}), frozenset({"false", "0", "no", "n", "f", "0.0"})
_LARGEST_TABLE = 256 * 2**20
_LONGEST_LINE = 2**20
# In words, for messages; the first wins where the line holds as many of each.
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True)
class CohortRow:
    """One scan of a cohort.

    Parameters
    ----------
    number
        Line of the table it stands in (the header is line 1), for messages: ids and patients
        may be names of people and are never shown or stored.
    id
        Its own name, unique in the table.
    image, mask, probabilities, truth, anatomy
        Files (or DICOM folders), resolved against the table's folder; None where absent.
    patient
        Whose scan it is; the scan's own id where the table does not say.
    group
        Site, scanner or pathology group; empty where the table does not say.
    outlier, lesion_free
        What is known about it; None where the table does not say.
    metadata
        All further columns, as text.
    """

    number: int
    id: str
    image: Path
    patient: str
    mask: Path | None = None
    probabilities: Path | None = None
    truth: Path | None = None
    anatomy: Path | None = None
    group: str = ""
    outlier: bool | None = None
    lesion_free: bool | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cohort:
    """A table of scans; patients are its exchangeable units and are never split.

    Parameters
    ----------
    rows
        At least one, with unique ids.
    source
        Name of the table, for messages.

    Raises
    ------
    InputError
        If it is empty, or an id stands twice.
    """

    rows: tuple[CohortRow, ...]
    source: str = "cohort"

    def __post_init__(self) -> None:
        if not self.rows:
            raise InputError(f"{self.source}: the table has no rows; give one line for each scan")
        seen: dict[str, int] = {}
        for row in self.rows:
            if row.id in seen:
                raise InputError(
                    f"{self.source}, row {row.number}, column id: row {seen[row.id]} has the same id; make it unique"
                )
            seen[row.id] = row.number

    @classmethod
    def of(cls, source: object) -> Cohort:
        """A cohort, or the one in a table.

        Raises
        ------
        InputError
            If it is neither, or as :meth:`read`.
        """
        if isinstance(source, str | Path):
            return cls.read(source)
        if not isinstance(source, cls):
            raise InputError(f"a cohort is a Cohort or the path of a table, not of type {type(source).__name__}")
        return source

    @classmethod
    def read(cls, path: str | Path, *, check_files: bool = True) -> Cohort:
        """Read a CSV (UTF-8; separated by commas, semicolons or tabs, as its first line is) or Parquet table.

        Parameters
        ----------
        path
            Table with the columns ``id, image, mask, probabilities, truth, patient, group,
            outlier, lesion_free`` (``id`` and ``image`` needed; also ``anatomy``); other columns
            are kept as metadata. Files are looked for relative to the table.
        check_files
            Whether every named file must exist.

        Raises
        ------
        InputError
            If a column is missing or doubled, a cell cannot be read or a file is not there:
            one line naming row and column.
        FormatError
            If the file is no such table.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"there is no cohort table {path}: give a .csv or .parquet file")
        if path.stat().st_size > _LARGEST_TABLE:
            raise FormatError(f"{path.name} is larger than 256 MB: this is no table of scans")
        numbered = _read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_csv(path)
        columns = next(numbered)[1]
        _check_columns(columns, path.name)
        return cls(
            tuple(
                _row(number, dict(zip(columns, cells, strict=True)), path, check_files) for number, cells in numbered
            ),
            path.name,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[CohortRow]:
        return iter(self.rows)

    def by_patient(self) -> dict[str, tuple[CohortRow, ...]]:
        """The rows of each patient, patients in order of first appearance."""
        found: dict[str, list[CohortRow]] = {}
        for row in self.rows:
            found.setdefault(row.patient, []).append(row)
        return {patient: tuple(rows) for patient, rows in found.items()}

    def split(self, share: float, *, seed: int) -> tuple[Cohort, Cohort]:
        """Split by patient into two cohorts; the first gets ``share`` of the patients, rounded.

        Raises
        ------
        InputError
            If either part would be empty.
        """
        patients = list(self.by_patient())
        count = round(share * len(patients))
        if not 0 < count < len(patients):
            raise InputError(f"{self.source}: {len(patients)} patients cannot be split {share:g} to {1 - share:g}")
        chosen = {patients[k] for k in np.random.default_rng(seed).permutation(len(patients))[:count]}
        parts = ([r for r in self.rows if (r.patient in chosen) is first] for first in (True, False))
        one, two = (Cohort(tuple(part), self.source) for part in parts)
        return one, two


def _separator(handle: IO[str]) -> str:
    """What separates the columns: the mark that the first line with anything on it holds most often, else the comma.

    Excel writes semicolons where the comma is the decimal mark. Marks within quotes are none. The handle is left at
    its beginning.
    """
    first = next((line for line in iter(lambda: handle.readline(_LONGEST_LINE), "") if line.strip()), "")
    handle.seek(0)
    # Every second part lies between quotes.
    outside = "".join(first.split('"')[::2])
    return max(_SEPARATORS, key=outside.count)


def _read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            separator = _separator(handle)
            reader = csv.reader(handle, delimiter=separator, strict=True)
            width = None
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if width is None:
                    width = len(cells)
                if len(cells) != width:
                    raise FormatError(
                        f"{path.name}, row {reader.line_num}: {len(cells)} cells for {width} columns; "
                        f"quote {_SEPARATORS[separator]} in cells"
                    )
                yield reader.line_num, [cell.strip() for cell in cells]
            if width is None:
                raise FormatError(f"{path.name}: the table is empty; begin it with a line of column names")
    except UnicodeDecodeError:
        raise FormatError(f"{path.name}: not a CSV table in UTF-8; save it as one (in Excel: 'CSV UTF-8')") from None
    except csv.Error as error:
        raise FormatError(f"{path.name}: this is not a CSV table ({error}); save it as one") from None


def _read_parquet(path: Path) -> Iterator[tuple[int, list[str]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise FormatError(f"{path.name}: this is not a Parquet table ({str(error).splitlines()[0]})") from None
    yield 1, [str(name).strip() for name in table.column_names]
    columns = [column.to_pylist() for column in table.columns]
    for index, cells in enumerate(zip(*columns, strict=True)):
        yield index + 2, ["" if cell is None else str(cell).strip() for cell in cells]


def _check_columns(columns: Sequence[str], name: str) -> None:
    for column in columns:
        if columns.count(column) > 1:
            raise FormatError(f"{name}: the column '{column}' stands twice; rename one")
    missing = [column for column in ("id", "image") if column not in columns]
    if missing:
        listed = ", ".join(columns[:12])
        raise FormatError(f"{name}: the column '{missing[0]}' is missing (there are: {listed}); add it")


def _row(number: int, cells: Mapping[str, str], table: Path, check_files: bool) -> CohortRow:
    where = f"{table.name}, row {number}, column "
    for column in ("id", "image"):
        if not cells[column]:
            raise FormatError(f"{where}{column}: the cell is empty; every scan needs one")
    given: dict[str, Any] = {}
    for column in _FILES:
        if value := cells.get(column, ""):
            if "\0" in value:
                raise FormatError(f"{where}{column}: the cell is not a file name")
            file = table.parent / value
            if check_files and not file.exists():
                raise InputError(f"{where}{column}: there is no file {value!r} beside the table; correct the path")
            given[column] = file
    for column in _FLAGS:
        value = cells.get(column, "").lower()
        if value and value not in _YES | _NO:
            raise FormatError(
                f"{where}{column}: {cells[column]!r} is neither true nor false; write true, false or nothing"
            )
        given[column] = value in _YES if value else None
    metadata = {k: v for k, v in cells.items() if k not in (*_FILES, *_FLAGS, *_TEXTS)}
    return CohortRow(
        number=number,
        id=cells["id"],
        patient=cells.get("patient") or cells["id"],
        group=cells.get("group", ""),
        metadata=MappingProxyType(metadata),
        **given,
    )
