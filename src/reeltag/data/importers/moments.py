"""The csv files of Moments in Time (`path,label,agree,disagree`) and Multi-Moments in Time (`path,3,17,...`)."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from reeltag.data.importers import IMPORTERS
from reeltag.data.importers.lines import certainty, names_to_rows, numbered_lines, numbered_names, sample, share
from reeltag.data.manifest import Manifest
from reeltag.errors import ManifestError


def _cells(line: str) -> list[str]:
    """Return the cells of one csv line; a name that spans lines does not occur in these data sets."""
    return [cell.strip() for cell in next(csv.reader([line]))]


def _is_moments(line: str) -> bool:
    cells = _cells(line)
    return len(cells) == 4 and cells[2].isdecimal() and cells[3].isdecimal() and not cells[1].isdecimal()


def _is_multi_moments(line: str) -> bool:
    cells = _cells(line)
    return (
        len(cells) > 1 and bool(cells[0]) and not cells[0].isdecimal() and all(cell.isdecimal() for cell in cells[1:])
    )


@IMPORTERS.register("moments")
class MomentsCsv:
    """One label a clip by name; the votes of the annotators are kept as the columns `agree` and `disagree`."""

    looks_like = "lines `path,label,agree,disagree` without header"

    def detect(self, source: Path) -> tuple[float, str]:
        """Count the lines that fit; see `Importer`."""
        fits, total = share(sample(source), _is_moments)
        return certainty(fits, total, 0.95), f"{fits} of {total} lines are path, label, agree, disagree"

    def read(self, source: Path, videos: Path, labels: Sequence[str] | None) -> Manifest:
        """Read every line; see `Importer`."""
        lines, rows = _rows(source, _is_moments, "path,label,agree,disagree")
        indices, names = names_to_rows([[row[1]] for row in rows], labels, source, lambda row: f"line {lines[row]}")
        votes = {"agree": [int(row[2]) for row in rows], "disagree": [int(row[3]) for row in rows]}
        return Manifest.build(
            [row[0] for row in rows], indices, names, root=videos, extra=votes, source=str(source),
            where=lambda row: f"line {lines[row]}",
        )  # fmt: skip


@IMPORTERS.register("multi_moments")
class MultiMomentsCsv:
    """Label numbers after the path; `labels` = mmit_313 gives them their names."""

    looks_like = "lines `path,3,17` without header"

    def detect(self, source: Path) -> tuple[float, str]:
        """Count the lines that fit; see `Importer`."""
        fits, total = share(sample(source), _is_multi_moments)
        return (certainty(fits, total, 0.9)), f"{fits} of {total} lines are a path and label numbers with commas"

    def read(self, source: Path, videos: Path, labels: Sequence[str] | None) -> Manifest:
        """Read every line; see `Importer`."""
        lines, rows = _rows(source, _is_multi_moments, "path,3,17,...")
        indices = [[int(cell) for cell in row[1:]] for row in rows]
        return Manifest.build(
            [row[0] for row in rows], indices, numbered_names(indices, labels), root=videos, source=str(source),
            where=lambda row: f"line {lines[row]}",
        )  # fmt: skip


def _rows(source: Path, fits: Callable[[str], bool], pattern: str) -> tuple[list[int], list[list[str]]]:
    lines = numbered_lines(source)
    for number, line in lines:
        if not fits(line):
            raise ManifestError(f"{source}, line {number}: not of the form {pattern}")
    return [number for number, _ in lines], [_cells(line) for _, line in lines]
