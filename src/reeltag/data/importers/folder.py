"""Folder per label: `label/video.mp4`, or `split/label/video.mp4`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from reeltag.data.importers import IMPORTERS
from reeltag.data.importers.lines import is_sound, is_split, is_video, names_to_rows, split_name
from reeltag.data.manifest import Manifest
from reeltag.errors import ManifestError

_LOOK_AT = 1000


@IMPORTERS.register("folder")
class FolderPerLabel:
    """The first folder below `source` is the label; when all first folders are splits, the second one is."""

    looks_like = "a folder of label/video.mp4 or train/label/video.mp4"

    def detect(self, source: Path) -> tuple[float, str]:
        """Count videos below sub-folders; see `Importer`."""
        if not source.is_dir():
            return 0.0, ""
        found = list(islice(_clips(source), _LOOK_AT))
        inside = [parts for parts in found if len(parts) > 1]
        if not inside:
            return 0.0, ""
        more = "at least " if len(found) == _LOOK_AT else ""
        depth = _depth(inside)
        folders = sorted({parts[depth] for parts in inside if len(parts) > depth + 1})
        layout = "split/label/video" if depth else "label/video"
        # One folder with folders in it is not a label but a level too high.
        sure = 0.2 if len(folders) == 1 and all(len(parts) > depth + 2 for parts in inside) else 0.9
        why = f"{more}{len(inside)} videos as {layout} in {len(folders)} folders of labels"
        return sure * len(inside) / len(found), why

    def read(self, source: Path, videos: Path, labels: Sequence[str] | None) -> Manifest:
        """List the videos in the order of their names; see `Importer`."""
        found = sorted(_clips(source))
        if not found:
            raise ManifestError(f"{source}: no video file below this folder; put videos into one folder per label")
        depth = _depth(found)
        for parts in found:
            if len(parts) < depth + 2:
                raise ManifestError(f"{source}: {'/'.join(parts)!r} lies in no folder of a label; move it into one")
        indices, names = names_to_rows(
            [[parts[depth]] for parts in found], labels, source, lambda row: "/".join(found[row])
        )
        if source.resolve() != videos.resolve():
            raise ManifestError(f"{source}: the videos lie in this very folder; leave the folder of the videos out")
        splits = [split_name(parts[0]) for parts in found] if depth else None
        return Manifest.build(
            ["/".join(parts) for parts in found], indices, names, root=source, splits=splits, source=str(source),
            where=lambda row: "/".join(found[row]),
        )  # fmt: skip


def _clips(source: Path) -> Iterator[tuple[str, ...]]:
    """Yield the parts of each video's path below `source`; without any video, those of the sound files."""
    seen = False
    for parts in _files(source, is_video):
        seen = True
        yield parts
    if not seen:
        yield from _files(source, is_sound)


def _files(source: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, ...]]:
    """Yield the wanted files below `source`; hidden files and folders and linked folders are left out."""
    for folder, below, files in os.walk(source):
        below[:] = sorted(name for name in below if not name.startswith("."))
        parts = Path(folder).relative_to(source).parts
        yield from ((*parts, name) for name in sorted(files) if wanted(name) and not name.startswith("."))


def _depth(found: Sequence[tuple[str, ...]]) -> int:
    """Return which part of the path is the label: 1 when every first folder is a split and labels lie below, else 0."""
    return int(all(len(parts) > 2 and is_split(parts[0]) for parts in found))
