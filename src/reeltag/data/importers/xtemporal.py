"""Lists of X-Temporal: a path, its number of frames and its labels, `some/clip 120 144,246`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from reeltag.data.importers import IMPORTERS
from reeltag.data.importers.lines import first_existing, is_video, numbered_lines, numbered_names, sample, share
from reeltag.data.manifest import Manifest
from reeltag.errors import ManifestError

_LINE = re.compile(r"(?P<path>\S.*?)[ \t]+(?P<frames>[0-9]+)[ \t]+(?P<labels>[0-9]+(?:,[0-9]+)*)[ \t]*")


@IMPORTERS.register("xtemporal")
class XTemporalList:
    """Three fields a line; labels are joined by commas. The number of frames is kept as the column `num_frames`."""

    looks_like = "lines `path frames 144,246`"

    def detect(self, source: Path) -> tuple[float, str]:
        """Look for commas between labels; see `Importer`. Without one, a folder of frames (no suffix) decides."""
        lines = sample(source)
        fits, total = share(lines, _LINE.fullmatch)
        if fits < total or not total:
            return 0.0, ""
        matches = [match for line in lines if (match := _LINE.fullmatch(line))]
        commas = sum("," in match["labels"] for match in matches)
        if commas:
            return 1.0, f"{fits} of {total} lines are path, frames, labels; {commas} have several labels"
        files = any(is_video(match["path"]) for match in matches)
        if files or not all(len(match["path"].split()) == 1 for match in matches):
            return 0.5, f"{fits} of {total} lines could be path, frames, label"
        return 0.95, f"{fits} of {total} lines are a path without suffix, a number of frames and a label"

    def read(self, source: Path, videos: Path, labels: Sequence[str] | None) -> Manifest:
        """Read every line; see `Importer`. A path without suffix becomes the video of that name where one exists."""
        lines = numbered_lines(source)
        matches = []
        for number, line in lines:
            match = _LINE.fullmatch(line)
            if match is None:
                raise ManifestError(f"{source}, line {number}: not a path, a number of frames and labels like 144,246")
            matches.append(match)
        rows = [[int(label) for label in match["labels"].split(",")] for match in matches]
        return Manifest.build(
            [first_existing(videos, [match["path"]]) for match in matches], rows, numbered_names(rows, labels),
            root=videos, extra={"num_frames": [int(match["frames"]) for match in matches]}, source=str(source),
            where=lambda row: f"line {lines[row][0]}",
        )  # fmt: skip
