"""A manifest on disk: parquet or csv, with `labels.txt` beside it."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reeltag.data.manifest import Manifest, refuse
from reeltag.data.vocab import label_text, read_labels
from reeltag.errors import ManifestError
from reeltag.registry import close_name
from reeltag.store.atomic import atomic_path, write_atomic

SUFFIXES = (".parquet", ".csv")
_NUMBERS = ("start_s", "end_s", "weight")


@dataclass(frozen=True)
class Lines:
    """How messages name rows: `line 7` of a text file, `row 6` of a table."""

    word: str
    numbers: Sequence[int]

    def __call__(self, row: int) -> str:
        """Return the words for a row."""
        return f"{self.word} {self.numbers[row]}"


def read_manifest(
    path: Path, *, root: Path | None = None, labels: Sequence[str] | None = None, needs_labels: bool = True
) -> Manifest:
    """Read a manifest; a folder stands for the `manifest.parquet` or `manifest.csv` in it.

    Labels are names, or indices where a vocabulary is known; a name always wins. Without `labels` and without
    `labels.txt` the vocabulary is the sorted set of the names found.

    Args:
        root: the only folder that paths may name: give it for a manifest that somebody else made. Relative paths
            start from the manifest's folder all the same.
        labels: the vocabulary; default: `labels.txt` beside the manifest.
        needs_labels: False accepts a file without a `labels` column, as `tag` does.

    Raises:
        ManifestError: the file is missing, empty, damaged or contradicts itself; the message names lines.
    """
    path = _manifest_in(path)
    columns, where = _parquet_columns(path) if path.suffix == ".parquet" else csv_columns(path)
    if "path" not in columns:
        raise ManifestError(
            f"{path}: no column 'path'. {close_name('path', list(columns))}It has {', '.join(map(repr, columns))}; "
            "`reeltag data import` turns other annotation files into a manifest"
        )
    if "labels" not in columns and needs_labels:
        raise ManifestError(
            f"{path}: no column 'labels'. {close_name('labels', list(columns))}It has {', '.join(map(repr, columns))}; "
            "`reeltag data import` turns other annotation files into a manifest"
        )
    if not columns["path"]:
        raise ManifestError(f"{path}: no clips; a manifest needs at least one row")
    beside = path.parent / "labels.txt"
    names = list(labels) if labels is not None else read_labels(beside) if beside.is_file() else None
    rows, ignored = (_label_cells(columns.pop(name, None), path, where) for name in ("labels", "ignore"))
    if names is None:
        names = _names_found((*(rows or ()), *(ignored or ())), path)
    numbers = {key: number_column(key, columns.pop(key), path, where) for key in _NUMBERS if key in columns}
    return Manifest.build(
        [_text(value) for value in columns.pop("path")],
        label_indices(rows or [[]] * len(where.numbers), names, path, where),
        names,
        root=path.parent,
        trusted_root=root,
        video_ids=_ids(columns.pop("video_id", None)),
        splits=_texts(columns.pop("split", None)),
        groups=_texts(columns.pop("group", None)),
        start_s=numbers.get("start_s"),
        end_s=numbers.get("end_s"),
        weights=numbers.get("weight"),
        ignores=None if ignored is None else label_indices(ignored, names, path, where),
        extra=columns,
        source=str(path),
        where=where,
    )


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest and `labels.txt` beside it; each file is whole or absent.

    Paths become relative to the file's folder where the video lies below it, absolute otherwise.

    Raises:
        ManifestError: the suffix is neither .parquet nor .csv, or the folder has the `labels.txt` of another manifest.
    """
    if path.suffix not in SUFFIXES:
        raise ManifestError(
            f"{path}: a manifest is written as .parquet or .csv, not {path.suffix or 'without a suffix'!r}"
        )
    beside = path.parent / "labels.txt"
    text = label_text(manifest.label_names)
    if beside.exists() and not path.exists() and beside.read_bytes().replace(b"\r\n", b"\n").strip() != text.strip():
        raise ManifestError(
            f"{beside} has other labels than the manifest to be written; choose another folder, or move that file away"
        )
    table = _table(rebased(manifest, path.parent))
    if manifest.label_names:
        write_atomic(beside, text)
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(pa.table({name: _arrow(name, column) for name, column in table.items()}), temporary)
        else:
            # RFC 4180 line ends: with \n alone the writer would leave a lone \r in a file name unquoted.
            with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                writer = csv.writer(file, lineterminator="\r\n")
                writer.writerow(table)
                writer.writerows(zip(*(map(_csv_cell, column) for column in table.values()), strict=True))


def rebased(manifest: Manifest, folder: Path) -> Manifest:
    """Return the manifest with paths relative to `folder` where they lie below it, absolute otherwise."""
    target, base = os.path.abspath(folder), os.path.abspath(manifest.root)
    below = target.rstrip("/") + "/"

    def moved(path: str) -> str:
        if target == base and ".." not in path and not os.path.isabs(path):
            return path
        return os.path.normpath(os.path.join(base, path)).removeprefix(below)

    return replace(manifest, root=folder, paths=tuple(map(moved, manifest.paths)))


def csv_columns(path: Path, *, delimiter: str = ",") -> tuple[dict[str, list[Any]], Lines]:
    """Return the columns of a csv file with a header, all as strings, and the line of each row."""
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True, delimiter=delimiter)
            header = [name.strip() for name in next(reader, [])]
            before = reader.line_num
            for row in reader:
                if row:
                    rows.append(row)
                    lines.append(before + 1)
                before = reader.line_num
    except csv.Error as error:
        raise ManifestError(f"{path}, line {len(rows) + 2}: not csv ({error}); quote cells that hold commas") from error
    if not header:
        raise ManifestError(f"{path}: the file is empty; a manifest has a header line such as path,labels")
    if len(set(header)) != len(header):
        raise ManifestError(f"{path}: two columns have one name in {', '.join(header)}; rename one")
    where = Lines("line", lines)
    uneven = ((n, len(row)) for n, row in enumerate(rows) if len(row) != len(header))
    words = f"cells for the {len(header)} columns {', '.join(header)}"
    refuse(str(path), where, ((n, f"{count} {words}") for n, count in uneven))
    return {name: [row[n] for row in rows] for n, name in enumerate(header)}, where


def _manifest_in(path: Path) -> Path:
    if path.is_dir():
        for suffix in SUFFIXES:
            if (path / f"manifest{suffix}").is_file():
                return path / f"manifest{suffix}"
        raise ManifestError(
            f"{path}: a folder without manifest.parquet or manifest.csv; `reeltag data import` makes one"
        )
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest; `reeltag data import SOURCE --out {path}` makes one")
    if path.suffix not in SUFFIXES:
        raise ManifestError(f"{path}: a manifest is .parquet or .csv; `reeltag data import` reads other files")
    return path


def _parquet_columns(path: Path) -> tuple[dict[str, list[Any]], Lines]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path}: not a parquet file that can be read ({error})") from error
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return columns, Lines("row", range(table.num_rows))


def _text(value: Any) -> str:
    if isinstance(value, bytes):  # names that are not UTF-8 are stored as their bytes
        return os.fsdecode(value)
    return "" if value is None else str(value)


def _texts(column: list[Any] | None) -> list[str] | None:
    return None if column is None else [_text(value) for value in column]


def _ids(column: list[Any] | None) -> list[str] | None:
    ids = _texts(column)
    return ids if ids and any(ids) else None


def number_column(name: str, cells: Sequence[Any], path: Path, where: Lines) -> list[float]:
    """Return cells as floats, NaN for empty ones.

    Raises:
        ManifestError: a cell is not a number; the message names its line.
    """
    values = []
    for row, cell in enumerate(cells):
        try:
            values.append(math.nan if cell is None or cell == "" else float(cell))
        except (TypeError, ValueError):
            words = f"{name} {cell!r} is not a number; leave it empty if unknown"
            raise ManifestError(f"{path}, {where(row)}: {words}") from None
    return values


def _label_cells(column: list[Any] | None, path: Path, where: Lines) -> list[list[Any]] | None:
    """Return the labels of each cell as names or integers: a list, or text with `|` between labels."""
    if column is None:
        return None
    rows = []
    for row, cell in enumerate(column):
        parts = (
            cell.split("|")
            if isinstance(cell, str)
            else []
            if cell is None
            else [cell]
            if isinstance(cell, int)
            else cell
        )
        if not isinstance(parts, list) or not all(isinstance(part, (str, int)) for part in parts):
            raise ManifestError(
                f"{path}, {where(row)}: {cell!r} is not a list of labels; write a|b|c, or a list in parquet"
            )
        rows.append([part.strip() if isinstance(part, str) else part for part in parts if part != ""])
    return rows


def _names_found(rows: Iterable[list[Any]], path: Path) -> list[str]:
    found = {part for row in rows for part in row}
    if found and all(isinstance(part, int) or re.fullmatch(r"-?\d+", part) for part in found):
        raise ManifestError(
            f"{path}: the labels are numbers and no vocabulary says what they mean; "
            "put labels.txt (one name a line) beside it, or import it with `--labels FILE`"
        )
    return sorted(map(str, found))


def label_indices(rows: list[list[Any]], names: list[str], path: Path, where: Lines) -> list[list[int]]:
    """Return the index of each label; a label is a name, or an index as integer or text, and a name always wins.

    Raises:
        ManifestError: a label is neither; the message has the close name and the line.
    """
    index_of: Mapping[str, int] = {name: index for index, name in enumerate(names)}
    problems: list[tuple[int, str]] = []

    def index(row: int, part: Any) -> int:
        if isinstance(part, str) and part in index_of:
            return index_of[part]
        if isinstance(part, int) or re.fullmatch(r"-?[0-9]+", part):
            if 0 <= int(part) < len(names):
                return int(part)
            problems.append((row, f"label index {part} is not in 0..{len(names) - 1}"))
        else:
            problems.append(
                (row, f"label {part!r} is not among the {len(names)} labels. {close_name(part, names)}".strip())
            )
        return 0

    found = [[index(row, part) for part in parts] for row, parts in enumerate(rows)]
    refuse(str(path), where, problems)
    return found


def _table(manifest: Manifest) -> dict[str, Sequence[Any]]:
    names = manifest.label_names
    optional: dict[str, Sequence[Any] | None] = {
        "video_id": manifest.video_ids,
        "split": manifest.splits,
        "group": manifest.groups,
        "start_s": None if manifest.start_s is None else manifest.start_s.tolist(),
        "end_s": None if manifest.end_s is None else manifest.end_s.tolist(),
        "weight": None if manifest.weights is None else manifest.weights.tolist(),
        "ignore": None if manifest.ignores is None else [[names[i] for i in row] for row in manifest.ignores],
        **manifest.extra,
    }
    columns: dict[str, Sequence[Any]] = {
        "path": manifest.paths,
        "labels": [[names[i] for i in row] for row in manifest.labels],
    }
    return columns | {name: column for name, column in optional.items() if column is not None}


def _arrow(name: str, column: Sequence[Any]) -> pa.Array:
    if name in ("labels", "ignore"):
        return pa.array(column, pa.list_(pa.string()))
    if name in ("start_s", "end_s"):
        return pa.array([None if math.isnan(value) else value for value in column], pa.float64())
    try:
        return pa.array(column)
    except UnicodeEncodeError:
        return pa.array([None if value is None else os.fsencode(value) for value in column], pa.binary())


def _csv_cell(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(map(str, value))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value)
