"""The csv files of Kinetics: `label,youtube_id,time_start,time_end,split`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from reeltag.data.importers import IMPORTERS
from reeltag.data.importers.lines import first_existing, names_to_rows, sample, split_name
from reeltag.data.manifest import Manifest
from reeltag.data.manifest_files import csv_columns
from reeltag.errors import ManifestError

_NEEDED = ("youtube_id", "time_start", "time_end")


@IMPORTERS.register("kinetics")
class KineticsCsv:
    """One label a clip, and none in the test file; clips of one YouTube video form a group.

    The csv names no files. Looked for below the folder of the videos, in this order: `<label>/<id>_<start>_<end>.mp4`
    with times of six digits, the same without the folder or below the split, then the whole video `<id>.mp4`, of which
    `start_s` and `end_s` mark the clip. Without any file on disk the first form is written.
    """

    looks_like = "a csv with the columns label, youtube_id, time_start, time_end, split"

    def detect(self, source: Path) -> tuple[float, str]:
        """Look at the header; see `Importer`."""
        lines = sample(source)
        header = [cell.strip().strip('"') for cell in lines[0].split(",")] if lines else []
        fits = set(_NEEDED) <= set(header)
        return (1.0 if fits else 0.0), f"a csv with the columns {', '.join(_NEEDED)}"

    def read(self, source: Path, videos: Path, labels: Sequence[str] | None) -> Manifest:
        """Read every line; see `Importer`."""
        columns, where = csv_columns(source)
        for name in _NEEDED:
            if name not in columns:
                raise ManifestError(f"{source}: no column {name!r}; a Kinetics csv has {', '.join(_NEEDED)}")
        ids = columns["youtube_id"]
        starts, ends = ([_seconds(v, source, where(n)) for n, v in enumerate(columns[k])] for k in _NEEDED[1:])
        words = columns.get("label", [""] * len(ids))
        splits = [split_name(value) for value in columns.get("split", [""] * len(ids))]
        indices, names = names_to_rows([[word] if word else [] for word in words], labels, source, where)
        clips = [f"{name}_{start:06.0f}_{end:06.0f}" for name, start, end in zip(ids, starts, ends, strict=True)]
        paths = [
            first_existing(videos, _candidates(word, split, clip, name))
            for word, split, clip, name in zip(words, splits, clips, ids, strict=True)
        ]
        whole = [Path(path).stem == name for path, name in zip(paths, ids, strict=True)]
        return Manifest.build(
            paths, indices, names, root=videos, video_ids=clips, splits=splits, groups=ids,
            start_s=[start if part else math.nan for start, part in zip(starts, whole, strict=True)],
            end_s=[end if part else math.nan for end, part in zip(ends, whole, strict=True)],
            source=str(source), where=where,
        )  # fmt: skip


def _candidates(label: str, split: str, clip: str, video: str) -> list[str]:
    folders = [f"{label}/", "", f"{split}/{label}/", f"{split}/"] if label else ["", f"{split}/"]
    names = [f"{folder}{clip}.mp4" for folder in folders] + [f"{folder}{video}.mp4" for folder in folders]
    return list(dict.fromkeys(name for name in names if not name.startswith("/")))


def _seconds(text: str, source: Path, place: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ManifestError(f"{source}, {place}: {text!r} is not a time in seconds") from None
