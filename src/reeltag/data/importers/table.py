"""Any csv, tsv or jsonl with one row a clip: columns are guessed from their names and cells, and named."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reeltag.data.importers import IMPORTERS
from reeltag.data.importers.lines import is_sound, is_video, numbered_lines, numbered_names, sample, split_name
from reeltag.data.manifest import Manifest
from reeltag.data.manifest_files import Lines, csv_columns, label_indices, number_column
from reeltag.errors import ManifestError

_MEANINGS = {
    "path": "path video_path filepath file_path video file filename file_name clip_path clip fname name",
    "labels": "labels label tags tag classes class categories category targets target actions action",
    "video_id": "video_id clip_id id",
    "split": "split subset partition set",
    "group": "group group_id source source_video",
    "start_s": "start_s start start_time time_start",
    "end_s": "end_s end end_time time_end",
    "weight": "weight",
    "ignore": "ignore unknown",
}
_CELL = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "no": 0, "yes": 1, "-1": -1, "-1.0": -1, "": -1}
_NO_LABEL = re.compile(r"(.*_)?(id|idx|index|num|number|count|frames?|fold|camera|take|is_.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """What each column of a table means.

    Attributes:
        of: from a column of the manifest to the name in the table.
        one_hot: the columns that are labels, with cells 0 and 1; empty when there is a column of labels.
        separator: what stands between the labels of a cell; `"["` is a JSON list.
    """

    of: dict[str, str]
    one_hot: list[str]
    separator: str

    def __str__(self) -> str:
        parts = [f"{name!r} as {meaning}" for meaning, name in self.of.items() if name != meaning]
        if self.one_hot:
            parts.append(f"{len(self.one_hot)} columns of 0 and 1 as labels ({', '.join(self.one_hot[:3])}, ...)")
        elif self.separator:
            parts.append("labels as JSON lists" if self.separator == "[" else f"labels split at {self.separator!r}")
        return "; ".join(parts) or "columns as in a manifest"


@IMPORTERS.register("table")
class Table:
    """A header with a column of files and either a column of labels or one column of 0 and 1 per label.

    A cell -1, or an empty one, of a 0/1 column means that the truth is unknown. Other columns are kept.
    """

    looks_like = "a csv, tsv or jsonl with a column such as path and a column such as labels, or one 0/1 column a label"

    def detect(self, source: Path) -> tuple[float, str]:
        """Read the first lines and guess; see `Importer`."""
        lines = sample(source)
        try:
            columns = _from_json(lines, source)[0] if _is_json(lines) else _from_text(lines)
            meaning = guess_columns(columns, None)
        except ManifestError:
            return 0.0, ""
        if meaning is None:
            return 0.0, ""
        kind = "jsonl" if _is_json(lines) else "csv with a header"
        return (0.8 if "path" in meaning.of else 0.0), f"a {kind}; {meaning}"

    def read(self, source: Path, videos: Path, labels: Sequence[str] | None) -> Manifest:
        """Read every row; see `Importer`."""
        start = sample(source)
        columns, where = (
            _from_json([line for _, line in numbered_lines(source)], source)
            if _is_json(start)
            else csv_columns(source, delimiter=_delimiter(start))
        )
        meaning = guess_columns(columns, labels)
        if meaning is None:
            raise ManifestError(
                f"{source}: cannot tell which column holds files and which holds labels among "
                f"{', '.join(map(repr, columns))}; rename them to path and labels"
            )
        if meaning.one_hot:
            rows, ignored = _one_hot(columns, meaning.one_hot, source, where)
            del_names = meaning.one_hot
        else:
            rows = [_labels(cell, meaning.separator) for cell in columns[meaning.of["labels"]]]
            ignored = (
                [_labels(c, meaning.separator) for c in columns[meaning.of["ignore"]]]
                if "ignore" in meaning.of
                else None
            )
            del_names = []
        names = list(labels) if labels is not None else meaning.one_hot or _names(rows, ignored)
        used = {*meaning.of.values(), *del_names}

        def text(key: str) -> list[str] | None:
            return [_text(cell) for cell in columns[meaning.of[key]]] if key in meaning.of else None

        def number(key: str) -> list[float] | None:
            return number_column(key, columns[meaning.of[key]], source, where) if key in meaning.of else None

        splits = text("split")
        return Manifest.build(
            text("path") or [], label_indices(rows, names, source, where), names, root=videos,
            video_ids=text("video_id"), splits=[split_name(name) for name in splits] if splits else None,
            groups=text("group"), start_s=number("start_s"), end_s=number("end_s"), weights=number("weight"),
            ignores=label_indices(ignored, names, source, where) if ignored is not None else None,
            extra={name: column for name, column in columns.items() if name not in used},
            source=str(source), where=where,
        )  # fmt: skip


def guess_columns(columns: dict[str, list[Any]], labels: Sequence[str] | None) -> Columns | None:
    """Return what the columns mean, or None when no column holds files or none holds labels."""
    lower = {name.lower(): name for name in reversed(columns)}
    of: dict[str, str] = {}
    for meaning, words in _MEANINGS.items():
        for word in words.split():
            if (
                word in lower
                and lower[word] not in of.values()
                and (meaning == "labels" or not _binary_label(word, labels))
            ):
                of[meaning] = lower[word]
                break
    if "path" not in of:
        with_videos = [
            name
            for name, cells in columns.items()
            if cells and all(is_video(_text(c)) or is_sound(_text(c)) for c in cells)
        ]
        if not with_videos:
            return None
        of["path"] = with_videos[0]
    if "labels" in of:
        return Columns(of, [], _separator([*columns[of["labels"]]], labels))
    rest = [name for name in columns if name not in of.values()]
    if labels is not None:
        one_hot = [name for name in rest if name in set(labels)]
    else:
        one_hot = [name for name in rest if not _NO_LABEL.fullmatch(name) and _is_binary(columns[name])]
        one_hot = one_hot if len(one_hot) > 1 else []
    return Columns(of, one_hot, "") if one_hot else None


def _binary_label(word: str, labels: Sequence[str] | None) -> bool:
    return labels is not None and word in labels


def _is_binary(cells: Sequence[Any]) -> bool:
    values = {_text(cell).lower() for cell in cells}
    return values <= _CELL.keys() and bool(values - {""})


def _one_hot(
    columns: dict[str, list[Any]], names: list[str], source: Path, where: Lines
) -> tuple[list[list[str]], list[list[str]] | None]:
    rows: list[list[str]] = [[] for _ in columns[names[0]]]
    ignored: list[list[str]] = [[] for _ in rows]
    for name in names:
        for row, cell in enumerate(columns[name]):
            value = _CELL.get(_text(cell).lower())
            if value is None:
                raise ManifestError(
                    f"{source}, {where(row)}: {cell!r} in the label column {name!r}; write 0, 1 or -1 (unknown)"
                )
            if value:
                (rows if value > 0 else ignored)[row].append(name)
    return rows, ignored if any(ignored) else None


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip() if not isinstance(cell, str) else cell


def _separator(cells: Sequence[Any], labels: Sequence[str] | None) -> str:
    texts = [cell for cell in cells if isinstance(cell, str)]
    if any(text.lstrip().startswith("[") for text in texts):
        return "["
    for separator in ("|", ";", ","):
        if any(separator in text for text in texts) and not (
            labels and all(text in set(labels) for text in texts if text)
        ):
            return separator
    return ""


def _labels(cell: Any, separator: str) -> list[Any]:
    """Return the labels of a cell: names, or integers."""
    if separator == "[" and isinstance(cell, str):
        try:
            cell = json.loads(cell) if cell.strip() else []
        except (ValueError, RecursionError):
            cell = [cell]
    if isinstance(cell, str):
        parts = cell.split(separator) if separator else [cell]
        return [part.strip() for part in parts if part.strip()]
    if cell is None:
        return []
    values: list[Any] = cell if isinstance(cell, list) else [cell]
    return [part if isinstance(part, int) else str(part).strip() for part in values]


def _names(rows: list[list[Any]], ignored: list[list[Any]] | None) -> list[str]:
    found = {part for row in (*rows, *(ignored or ())) for part in row}
    if found and all(isinstance(part, int) or part.isdecimal() for part in found):
        return numbered_names([[int(part) for part in found]], None)
    return sorted(map(str, found))


def _is_json(lines: Sequence[str]) -> bool:
    return bool(lines) and lines[0].lstrip().startswith("{")


def _from_json(lines: Sequence[str], source: Path) -> tuple[dict[str, list[Any]], Lines]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{source}, line {number}: not JSON ({error}); write one object a line") from error
        if not isinstance(row, dict):
            raise ManifestError(f"{source}, line {number}: not a JSON object; write one object a line")
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}, Lines("line", range(1, len(rows) + 1))


def _delimiter(lines: Sequence[str]) -> str:
    return max(",\t;", key=lines[0].count) if lines else ","


def _from_text(lines: Sequence[str]) -> dict[str, list[Any]]:
    """Return the columns of the first lines, cells cut in the middle of a quoted line break left out."""
    rows = list(csv.reader(lines, delimiter=_delimiter(lines)))
    if not rows or len(set(rows[0])) != len(rows[0]) or any(is_video(cell) for cell in rows[0]):
        return {}
    whole = [row for row in rows[1:] if len(row) == len(rows[0])]
    return {name.strip(): [row[n] for row in whole] for n, name in enumerate(rows[0])}
