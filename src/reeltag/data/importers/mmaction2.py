"""Lists of mmaction2: a path and its label numbers, `some/clip.mp4 3 7 12`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from reeltag.data.importers import IMPORTERS
from reeltag.data.importers.lines import certainty, numbered_lines, numbered_names, sample, share
from reeltag.data.manifest import Manifest
from reeltag.errors import ManifestError

_LINE = re.compile(r"(?P<path>\S.*?)(?P<labels>(?:[ \t]+[0-9]+)+)[ \t]*")


@IMPORTERS.register("mmaction2")
class Mmaction2List:
    """The numbers at the end of a line are labels; whatever stands before them is the path, spaces included."""

    looks_like = "lines `path 3 7 12`"

    def detect(self, source: Path) -> tuple[float, str]:
        """Count the lines that fit; see `Importer`."""
        fits, total = share(sample(source), _LINE.fullmatch)
        # 0.9, since a line of X-Temporal without commas fits as well.
        return certainty(fits, total, 0.9), f"{fits} of {total} lines are a path followed by integers"

    def read(self, source: Path, videos: Path, labels: Sequence[str] | None) -> Manifest:
        """Read every line; see `Importer`."""
        lines = numbered_lines(source)
        found = [(number, _LINE.fullmatch(line)) for number, line in lines]
        for number, match in found:
            if match is None:
                raise ManifestError(f"{source}, line {number}: not a path followed by label numbers")
        matches = [match for _, match in found if match is not None]
        rows = [[int(label) for label in match["labels"].split()] for match in matches]
        return Manifest.build(
            [match["path"] for match in matches], rows, numbered_names(rows, labels), root=videos, source=str(source),
            where=lambda row: f"line {lines[row][0]}",
        )  # fmt: skip
