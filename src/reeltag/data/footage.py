"""Where clips come from: media files, packed shards or stored features, behind one small interface."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reeltag.data.feature_coding import Coding
from reeltag.data.features import FeatureStore, is_feature_store, rate_of
from reeltag.data.flow_store import FlowStore, is_flow_store
from reeltag.data.manifest import Manifest
from reeltag.data.shards import PackedVideos
from reeltag.data.sources import FileSource, FlowTracks, PackedSource, Source, need_pictures
from reeltag.errors import RecipeError
from reeltag.media import Video, open_media
from reeltag.schema import InputKind

Choose = Callable[[int, float], Sequence[int]]  # (number of frames, frames per second) -> frame numbers
Shrink = Callable[[Tensor], Tensor]
_PART_BYTES = 256 << 20


class Footage(Protocol):
    """Videos by row of a manifest; `input_kind` says what a frame is, `packed` whether reading is cheap."""

    manifest: Manifest
    packed: bool
    input_kind: InputKind

    def clip(self, row: int, choose: Choose) -> Tensor:
        """Return the frames that `choose` names, given the video's frame count and rate.

        Returns:
            uint8 (T, C, H, W), or float32 (T, D) from stored features.

        Raises:
            MediaError: the video cannot be read.
        """
        ...


class MediaFootage(ABC):
    """Footage of pictures and sound: `open` gives frames, flow and waveform of one clip.

    Args:
        manifest: the clips.
        flow: where their flow is stored; None makes it of the frames.
    """

    packed: bool
    input_kind: InputKind = "rgb"

    def __init__(self, manifest: Manifest, flow: FlowTracks | None = None) -> None:
        self.manifest = manifest
        self.flow = flow
        self._flow_rows = {} if flow is None else {name: row for row, name in enumerate(flow.manifest.video_ids)}

    @abstractmethod
    def open(self, row: int) -> Source:
        """Open a clip, to be used in a `with` statement.

        Raises:
            MediaError: the file cannot be read.
        """

    def clip(self, row: int, choose: Choose) -> Tensor:
        """Return uint8 (T, 3, H, W), the frames that `choose` names; see `Footage`."""
        with self.open(row) as source:
            need_pictures(source)
            return source.frames_at(choose(source.num_frames, source.fps))

    @abstractmethod
    def timed_clip(self, row: int, choose: Choose, shrink: Shrink) -> tuple[Tensor, NDArray[np.float64]]:
        """Return the frames that `choose` names after `shrink`, and when each is shown, in seconds of the clip."""

    def _stored_flow(self, row: int) -> tuple[tuple[FlowTracks, int] | None, bool]:
        """Return the store and the clip's row in it, and whether there is a store that lacks it."""
        if self.flow is None:
            return None, False
        found = self._flow_rows.get(self.manifest.video_ids[row])
        return (None, True) if found is None else ((self.flow, found), False)


class FileFootage(MediaFootage):
    """Clips decoded from the files of a manifest when they are asked for; `start_s` and `end_s` cut pictures and sound.

    A file is opened once for all that is asked of it.
    """

    packed = False

    def open(self, row: int) -> FileSource:
        """Open a file, of pictures or of sound alone; see `MediaFootage`."""
        path = self.manifest.video_path(row)
        stored, missing = self._stored_flow(row)
        starts, ends = self.manifest.start_s, self.manifest.end_s
        return FileSource(
            str(path),
            open_media(path),
            math.nan if starts is None else float(starts[row]),
            math.nan if ends is None else float(ends[row]),
            stored,
            missing,
        )

    def timed_clip(self, row: int, choose: Choose, shrink: Shrink) -> tuple[Tensor, NDArray[np.float64]]:
        """Return the frames that `choose` names, see `read_frames`, and when each is shown, in seconds of the clip."""
        with self.open(row) as source:
            need_pictures(source)
            indices = [source.first + index for index in choose(source.num_frames, source.fps)]
            return read_frames(source.video, indices, shrink), source.video.times_s[indices] - source.start_s


class PackedFootage(MediaFootage):
    """Clips read from packed shards, already resized to the short side that they were packed at."""

    packed = True

    def __init__(self, videos: PackedVideos, flow: FlowTracks | None = None) -> None:
        super().__init__(videos.manifest, flow)
        self.videos = videos

    def open(self, row: int) -> PackedSource:
        """Open a clip; see `MediaFootage`."""
        return PackedSource(self.videos, row, *self._stored_flow(row))

    def clip(self, row: int, choose: Choose) -> Tensor:
        """Copy the frames that `choose` names, without the detour of a source: small clips feel it; see `Footage`."""
        num_frames = self.videos.num_frames(row)
        if not num_frames:
            raise self.open(row).no_pictures()
        return self.videos.frames(row, choose(num_frames, self.videos.fps(row)))

    def timed_clip(self, row: int, choose: Choose, shrink: Shrink) -> tuple[Tensor, NDArray[np.float64]]:
        """Return the frames that `choose` names after `shrink`, and when each is shown, in seconds of the clip."""
        with self.open(row) as source:
            need_pictures(source)
            indices = list(choose(source.num_frames, source.fps))
        times = np.asarray(self.videos.info(row)["times_s"], dtype=np.float64)
        return shrink(self.videos.frames(row, indices)), times[indices]


class FeatureFootage:
    """Vectors read from a folder that `reeltag extract` wrote; a frame is one feature vector."""

    packed = True
    input_kind: InputKind = "features"

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.manifest = store.manifest

    def clip(self, row: int, choose: Choose) -> Tensor:
        """Return float32 (T, D): the vectors that `choose` names, given their number and rate in this video."""
        stored, times = self.store.stored(row)
        return Coding.decode(stored[list(choose(len(times), rate_of(times)))])


def read_frames(video: Video, indices: Sequence[int], shrink: Shrink) -> Tensor:
    """Return the frames at `indices` after `shrink`, decoded in parts of 256 MiB so that a long video fits the memory.

    Args:
        video: an open video.
        indices: frame numbers in any order, repeats allowed.
        shrink: from uint8 (T, C, H, W) to fewer pixels, frame by frame.
    """
    wanted, places = np.unique(np.asarray(indices), return_inverse=True)
    step = max(8, _PART_BYTES // max(1, video.width * video.height * 3))
    parts = [shrink(video.frames_at(wanted[first : first + step])) for first in range(0, len(wanted), step)]
    return torch.cat(parts)[torch.from_numpy(places)]


def open_footage(source: str | Path, flow: str | Path | None = None) -> Footage:
    """Open a manifest file, or a folder that `reeltag data pack` or `reeltag extract` wrote, as footage.

    Args:
        source: the file or folder.
        flow: a folder that `reeltag flow` wrote; a folder `flow` inside a packed one is found by itself.

    Raises:
        RecipeError: flow beside features.
    """
    path = Path(source)
    if is_feature_store(path):
        if flow is not None:
            raise RecipeError(f"{source} holds features, which no flow goes with; leave --flow out")
        return FeatureFootage(FeatureStore(path))
    if flow is None and is_flow_store(path / "flow"):
        flow = path / "flow"
    tracks = None if flow is None else FlowStore(flow)
    if (path / "shards.json").is_file():
        return PackedFootage(PackedVideos(path), tracks)
    return FileFootage(Manifest.read(path), tracks)
