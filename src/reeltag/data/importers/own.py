"""The manifest of reeltag itself, parquet or csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reeltag.data.importers import IMPORTERS
from reeltag.data.importers.lines import sample
from reeltag.data.manifest import Manifest
from reeltag.data.manifest_files import rebased


@IMPORTERS.register("reeltag")
class OwnManifest:
    """`manifest.parquet` or a csv with the columns `path` and `labels` (`a|b|c`)."""

    looks_like = "a parquet or csv file with the columns path and labels, or a folder with manifest.parquet"

    def detect(self, source: Path) -> tuple[float, str]:
        """Look for the two columns; see `Importer`."""
        if source.is_dir():
            names = [name for name in ("manifest.parquet", "manifest.csv") if (source / name).is_file()]
            return (1.0, f"the folder holds {names[0]}") if names else (0.0, "")
        if source.suffix == ".parquet":
            return 1.0, "a parquet file"
        lines = sample(source)
        header = [cell.strip().strip('"') for cell in lines[0].split(",")] if lines else []
        if source.suffix != ".csv" or not {"path", "labels"} <= set(header):
            return 0.0, ""
        return 0.95, "a csv with the columns path and labels"

    def read(self, source: Path, videos: Path, labels: Sequence[str] | None) -> Manifest:
        """Read it as training does; see `Importer`. Its paths start from its own folder, so `videos` must be that."""
        manifest = Manifest.read(source, labels=labels)
        return rebased(manifest, videos)
