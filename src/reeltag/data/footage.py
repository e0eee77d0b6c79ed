"""Where frames come from: video files, packed shards or stored features, behind one small interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reeltag.data.feature_coding import Coding
from reeltag.data.features import FeatureStore, is_feature_store, rate_of
from reeltag.data.manifest import Manifest
from reeltag.data.shards import PackedVideos
from reeltag.media import Video, open_video
from reeltag.schema import InputKind

Choose = Callable[[int, float], Sequence[int]]  # (number of frames, frames per second) -> frame numbers
Shrink = Callable[[Tensor], Tensor]
_PART_BYTES = 256 << 20


class Footage(Protocol):
    """Frames of videos by row of a manifest; `input_kind` says what a frame is, `packed` whether reading is cheap."""

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


class FileFootage:
    """Frames decoded from the files of a manifest when they are asked for; `start_s` and `end_s` limit the choice."""

    packed = False
    input_kind: InputKind = "rgb"

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def clip(self, row: int, choose: Choose) -> Tensor:
        """Decode the frames that `choose` names; see `Footage`."""
        with open_video(self.manifest.video_path(row)) as video:
            first, last = self._span(row, video.num_frames, video.fps)
            return video.frames_at([first + index for index in choose(last - first, video.fps)])

    def timed_clip(self, row: int, choose: Choose, shrink: Shrink) -> tuple[Tensor, NDArray[np.float64]]:
        """Return the frames that `choose` names, see `read_frames`, and when each is shown, in seconds of the clip."""
        with open_video(self.manifest.video_path(row)) as video:
            first, last = self._span(row, video.num_frames, video.fps)
            indices = [first + index for index in choose(last - first, video.fps)]
            start_s = 0.0 if self.manifest.start_s is None else np.nan_to_num(self.manifest.start_s[row])
            return read_frames(video, indices, shrink), video.times_s[indices] - start_s

    def _span(self, row: int, num_frames: int, fps: float) -> tuple[int, int]:
        start_s = math.nan if self.manifest.start_s is None else float(self.manifest.start_s[row])
        end_s = math.nan if self.manifest.end_s is None else float(self.manifest.end_s[row])
        first = 0 if math.isnan(start_s) else min(round(start_s * fps), num_frames - 1)
        last = num_frames if math.isnan(end_s) else min(round(end_s * fps), num_frames)
        return first, max(first + 1, last)


class PackedFootage:
    """Frames read from packed shards, already resized to the short side that they were packed at."""

    packed = True
    input_kind: InputKind = "rgb"

    def __init__(self, videos: PackedVideos) -> None:
        self.videos = videos
        self.manifest = videos.manifest

    def clip(self, row: int, choose: Choose) -> Tensor:
        """Copy the frames that `choose` names; see `Footage`."""
        return self.videos.frames(row, choose(self.videos.num_frames(row), self.videos.fps(row)))

    def timed_clip(self, row: int, choose: Choose, shrink: Shrink) -> tuple[Tensor, NDArray[np.float64]]:
        """Return the frames that `choose` names after `shrink`, and when each is shown, in seconds of the clip."""
        indices = list(choose(self.videos.num_frames(row), self.videos.fps(row)))
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


def open_footage(source: str | Path) -> Footage:
    """Open a manifest file, or a folder that `reeltag data pack` or `reeltag extract` wrote, as footage."""
    path = Path(source)
    if is_feature_store(path):
        return FeatureFootage(FeatureStore(path))
    if (path / "shards.json").is_file():
        return PackedFootage(PackedVideos(path))
    return FileFootage(Manifest.read(path))
