"""Where frames come from: video files by way of the media door, or packed shards, behind one small interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from reeltag.data.manifest import Manifest
from reeltag.data.shards import PackedVideos
from reeltag.media import open_video

Choose = Callable[[int, float], Sequence[int]]  # (number of frames, frames per second) -> frame numbers


class Footage(Protocol):
    """Frames of videos by row of a manifest."""

    manifest: Manifest
    packed: bool

    def clip(self, row: int, choose: Choose) -> Tensor:
        """Return uint8 (T, C, H, W): the frames that `choose` names, given the video's frame count and rate.

        Raises:
            MediaError: the video cannot be read.
        """
        ...


class FileFootage:
    """Frames decoded from the files of a manifest when they are asked for; `start_s` and `end_s` limit the choice."""

    packed = False

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def clip(self, row: int, choose: Choose) -> Tensor:
        """Decode the frames that `choose` names; see `Footage`."""
        with open_video(self.manifest.video_path(row)) as video:
            first, last = self._span(row, video.num_frames, video.fps)
            return video.frames_at([first + index for index in choose(last - first, video.fps)])

    def _span(self, row: int, num_frames: int, fps: float) -> tuple[int, int]:
        start_s = math.nan if self.manifest.start_s is None else float(self.manifest.start_s[row])
        end_s = math.nan if self.manifest.end_s is None else float(self.manifest.end_s[row])
        first = 0 if math.isnan(start_s) else min(round(start_s * fps), num_frames - 1)
        last = num_frames if math.isnan(end_s) else min(round(end_s * fps), num_frames)
        return first, max(first + 1, last)


class PackedFootage:
    """Frames read from packed shards, already resized to the short side that they were packed at."""

    packed = True

    def __init__(self, videos: PackedVideos) -> None:
        self.videos = videos
        self.manifest = videos.manifest

    def clip(self, row: int, choose: Choose) -> Tensor:
        """Copy the frames that `choose` names; see `Footage`."""
        return self.videos.frames(row, choose(self.videos.num_frames(row), self.videos.fps(row)))


def open_footage(source: str | Path) -> Footage:
    """Open a manifest file, or a folder that `reeltag data pack` wrote, as footage."""
    path = Path(source)
    if (path / "shards.json").is_file():
        return PackedFootage(PackedVideos(path))
    return FileFootage(Manifest.read(path))
