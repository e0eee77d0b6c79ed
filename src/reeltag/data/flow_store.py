"""Stored optical flow: made of every clip of a manifest or a pack beforehand, read at random, each read checked."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reeltag.data.flow_clip import FlowSettings, PackedClip, encode_flow
from reeltag.data.manifest import Manifest
from reeltag.data.pack_clip import Clip, clip_of
from reeltag.data.shard_file import read_npy
from reeltag.data.shard_folder import Columns, ShardFolder
from reeltag.data.shard_job import ShardJob, ShardReport
from reeltag.data.shards import INDEX_COLUMNS, PackedVideos
from reeltag.errors import ReeltagError, StoreError
from reeltag.media.flow import FlowFunction, require_opencv

SHARD_BYTES = 256 << 20
SHARD_S = 60.0  # what a kill can cost


class FlowStore(ShardFolder):
    """The flow of a folder that `reeltag flow` wrote, by row of its manifest; see `ShardFolder`.

    Flow is a track of its own: its frame k leads from one frame of the clip to a later one. Where the folder was made
    from a pack, or from files without `fps` and `max_frames`, frame k of the flow belongs to frame k of the clip.

    Attributes:
        settings: the fields of `FlowSettings`.
    """

    description_name = "flow.json"
    columns = (
        "flow_offset", "flow_bytes", "flow_sums_offset", "flow_sums_bytes", "flow_frames", "flow_fps", "flow_height",
        "flow_width",
    )  # fmt: skip
    what, verb = "flow store", "reeltag flow"
    again = "run the same `reeltag flow` again, it makes damaged shards anew"

    def settings_fit(self, settings: Mapping[str, Any]) -> bool:
        """Return whether the form is one that this version reads."""
        return settings["form"] in ("quantised", "image") and float(settings["bound_px"]) > 0

    def parts(self, columns: Columns) -> Sequence[tuple[NDArray[Any], NDArray[Any]]]:
        """Return where the fields and their checksums lie."""
        return [(columns[f"{name}_offset"], columns[f"{name}_bytes"]) for name in ("flow", "flow_sums")]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {video_id: row for row, video_id in enumerate(self.manifest.video_ids)}

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._rows

    def row_of(self, video_id: str) -> int:
        """Return the row of a clip; StoreError when it has no flow here, for example since it could not be read."""
        if video_id not in self._rows:
            raise StoreError(
                f"{self.folder} has no flow of {video_id!r}; see its bad_files.jsonl, or run `reeltag flow` on the "
                "manifest that has this clip"
            )
        return self._rows[video_id]

    @property
    def num_channels(self) -> int:
        """C of a field: 2, or 3 for images."""
        return 3 if self.settings["form"] == "image" else 2

    def num_frames(self, row: int) -> int:
        """Return how many fields of a clip are stored."""
        return int(self._columns["flow_frames"][row])

    def fps(self, row: int) -> float:
        """Return the stored fields per second."""
        return float(self._columns["flow_fps"][row])

    def size_px(self, row: int) -> tuple[int, int]:
        """Return (height, width) of the stored fields."""
        return int(self._columns["flow_height"][row]), int(self._columns["flow_width"][row])

    def times_s(self, row: int) -> NDArray[np.float64]:
        """Return when the first frame of each pair is shown, (T,) seconds of the clip."""
        return np.asarray(self.info(row)["times_s"], dtype=np.float64)

    def flow(self, row: int, indices: Sequence[int]) -> Tensor:
        """Return uint8 (T, C, H, W), a copy of the stored fields at `indices`, in that order, repeats allowed.

        C is 2 (x, y) or, for images, 3; 128 is no motion and 255 is `settings["bound_px"]`; see `media.flow.quantise`.
        The tensor has channels-last memory, in which resizing uint8 is fast.

        Raises:
            ValueError: an index outside [0, num_frames).
            StoreError: a field has not the CRC-32 that was written; the message names the shard.
        """
        count = self.num_frames(row)
        self._check_frames(row, indices, count)
        try:
            sums = read_npy(self._member(row, "flow_sums"), (count,), np.dtype("<u4"))
            shape = (count, *self.size_px(row), self.num_channels)
            fields = read_npy(self._member(row, "flow"), shape, np.dtype(np.uint8))[list(indices)]
        except ValueError as error:
            raise self._damaged(row, str(error)) from error
        for index, field in zip(indices, fields, strict=True):
            if zlib.crc32(field) != sums[index]:
                raise self._damaged(row, f"the CRC-32 of field {index} differs from the one written")
        return torch.from_numpy(fields).permute(0, 3, 1, 2)  # (T, C, H, W)

    def _member(self, row: int, name: str) -> memoryview:
        start, num_bytes = (int(self._columns[f"{name}_{part}"][row]) for part in ("offset", "bytes"))
        return memoryview(self._map(row))[start : start + num_bytes]


def is_flow_store(folder: str | Path) -> bool:
    """Return whether `reeltag flow` finished writing a folder."""
    return (Path(folder) / FlowStore.description_name).is_file()


def write_flow(
    source: Manifest | PackedVideos,
    out: str | Path,
    settings: FlowSettings,
    *,
    function: FlowFunction | None = None,
    workers: int = 2,
    shard_bytes: int = SHARD_BYTES,
    shard_s: float = SHARD_S,
    progress: Callable[[int, int], None] | None = None,
) -> ShardReport:
    """Write the flow of every clip into a folder that `FlowStore` reads.

    A call that was stopped is continued by the same call, damaged shards are made anew, `bad_files.jsonl` lists what
    could not be read; see `ShardJob`.

    Args:
        source: a manifest of files, or packed frames: flow frame k then belongs to packed frame k.
        out: the folder; `flow` inside a pack is found there by itself.
        settings: see `FlowSettings`.
        function: computes the flow of method `raft`. It travels to the workers, so it must be picklable.
        workers: processes that decode and compute; 0 works in this one.
        shard_bytes, shard_s: a shard is closed once it is this large, or has been open this long: what a kill can cost.
        progress: called with (clips done, clips in all).

    Raises:
        ReeltagError: OpenCV is missing, or `max_frames` is asked of packed frames.
        StoreError: `out` holds something else, or a shard of the pack is damaged.
        TooManyBadFiles: no clip at all could be read.
    """
    if (settings.method == "raft") != (function is not None):
        raise ValueError(f"method {settings.method!r} and function {function!r}: raft, and raft alone, needs one")
    if function is None:
        require_opencv(settings.method)
    if isinstance(source, PackedVideos) and settings.max_frames is not None:
        raise ReeltagError(
            "packed frames are chosen already, and flow frame k belongs to packed frame k; leave out max_frames, or "
            "give the manifest of the videos"
        )
    manifest, sources, item = _of_pack(source) if isinstance(source, PackedVideos) else _of_files(source)
    job: ShardJob[Clip | PackedClip] = ShardJob(
        folder=Path(out),
        reader=FlowStore,
        manifest=manifest,
        settings=asdict(settings),
        sources=sources,
        item=item,
        encode=partial(encode_flow, settings=settings, function=function),
        shard_bytes=shard_bytes,
        shard_s=shard_s,
    )
    return job.run(workers, progress)


Item = Callable[[int], Clip | PackedClip]


def _of_files(manifest: Manifest) -> tuple[Manifest, list[str], Item]:
    paths = [os.path.abspath(manifest.video_path(row)) for row in range(len(manifest))]
    return manifest, paths, cast(Item, partial(clip_of, manifest))


def _of_pack(videos: PackedVideos) -> tuple[Manifest, list[str], Item]:
    extra = {name: column for name, column in videos.manifest.extra.items() if name not in INDEX_COLUMNS}
    folder, content = os.path.abspath(videos.folder), " ".join(videos.digests)
    content = hashlib.sha256(content.encode()).hexdigest()
    return replace(videos.manifest, extra=extra), list(videos.digests), lambda row: PackedClip(row, folder, content)
